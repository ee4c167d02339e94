"""A device of your own with ports and an interrupt: it doubles what the guest writes, and raises IRQ 5 when done."""

from pykvm import Device, IrqLine, Machine, Range


class Doubler(Device):
    """Port 0x530: write a number, wait for the interrupt, read twice the number."""

    name = "doubler"
    ports = (Range(0x530, 1),)
    width = 1

    def __init__(self, irq: IrqLine) -> None:
        self.irq = irq
        self.result = 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.result = 2 * value & 0xFF
        self.irq.set(True)

    def read(self, offset: int, size: int) -> int:
        self.irq.set(False)
        return self.result


# 16-bit code, loaded at 0x7C00
GUEST = bytes.fromhex(
    "fa"  # cli
    "31c0 8ed8"  # ds = 0
    "c706 3400 2f7c"  # vector 0x0D (IRQ 5): offset of the handler
    "c706 3600 0000"  # and its segment
    "b011 e620 b008 e621 b004 e621 b001 e621"  # the PIC: vectors from 8 on
    "b0df e621"  # all IRQs masked but number 5
    "ba3005 b015 ee"  # out 0x530, 21
    "fb f4 ebfd"  # sti; hlt; jmp to the hlt
    "ec e6f4"  # handler: in al, dx; out 0xF4, al
    "f4 ebfd"
)

with Machine(GUEST) as machine:
    machine.add(Doubler(machine.irq(5)))
    outcome = machine.run(timeout=5)
    print(f"the guest read {outcome.value}")
    assert outcome.value == 42
