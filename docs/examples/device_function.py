"""Devices in one decorated function each: one at a port, one at a physical address."""

from pykvm import Access, Machine

# 32-bit code: store EAX to 0xD0000000, load it back from there, add what port 0x500 says, write that to the exit port.
GUEST = bytes.fromhex(
    "b801000000"  # mov eax, 1
    "a3000000d0"  # mov [0xD0000000], eax
    "a1000000d0"  # mov eax, [0xD0000000]
    "89c3"  # mov ebx, eax
    "66ba0005 ec"  # mov dx, 0x500; in al, dx
    "00d8"  # add al, bl
    "e6f4 f4"  # out 0xF4, al; hlt
)

stored = 0

with Machine(GUEST, mode=32) as machine:

    @machine.port(0x500)
    def die(access: Access) -> int:
        return 4  # chosen by fair dice roll

    @machine.mmio_range(0xD0000000, 4)
    def register(access: Access) -> int:
        global stored
        if access.value is not None:
            stored = access.value * 10
        return stored

    outcome = machine.run(timeout=5)
    print(f"the register holds {stored}, the guest exited with {outcome.value}")
    assert outcome.value == 14
