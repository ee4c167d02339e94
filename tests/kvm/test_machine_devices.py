"""Devices of the user's own: ports, addresses, interrupts, MSRs, CPUID leaves, and what happens when they fail."""

from __future__ import annotations

import struct

import pytest
from helpers import EXIT_AL, HALT, LIMIT, SPIN, flat, hexcode

from pykvm import Access, ConfigError, Device, DeviceError, Ending, GeneralProtection, IrqLine, Machine, Range
from pykvm.x86 import cpuid


class Recorder(Device):
    """Answers each read with the next of `answers` and remembers all accesses: (offset, size, value or None)."""

    name = "recorder"

    def __init__(self, *answers: int, ports: tuple[Range, ...] = (), mmio: tuple[Range, ...] = ()) -> None:
        self.ports, self.mmio = ports, mmio
        self.answers = list(answers)
        self.seen: list[tuple[int, int, int | None]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size, None))
        return self.answers.pop(0)

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


# Ports

ACCESS_PORTS = hexcode(
    """
    b8 dd cc bb aa ; mov eax, 0xaabbccdd
    e6 d0          ; out 0xd0, al
    66 e7 d1       ; out 0xd1, ax
    e7 d4          ; out 0xd4, eax
    e4 d0          ; in al, 0xd0
    e6 d7          ; out 0xd7, al
    66 e5 d2       ; in ax, 0xd2
    66 e7 d2       ; out 0xd2, ax
    e5 d4          ; in eax, 0xd4
    e7 d4          ; out 0xd4, eax
    """
)


def test_ports_are_seen_at_their_offset_with_size_and_value() -> None:
    device = Recorder(0x11, 0x2233, 0x44556677, ports=(Range(0xD0, 8),))
    with flat(ACCESS_PORTS + HALT) as machine:
        machine.add(device)
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.ports.unclaimed == {}
    assert device.seen == [
        (0, 1, 0xDD),
        (1, 2, 0xCCDD),
        (4, 4, 0xAABBCCDD),
        (0, 1, None),
        (7, 1, 0x11),
        (2, 2, None),
        (2, 2, 0x2233),
        (4, 4, None),
        (4, 4, 0x44556677),
    ]


def test_a_wide_access_to_a_narrow_device_comes_in_pieces() -> None:
    device = Recorder(0x11, 0x22, 0x33, 0x44, ports=(Range(0xD0, 4),))
    device.width = 1
    code = hexcode(
        "b8 dd cc bb aa; mov eax, 0xaabbccdd\n e7 d0; out 0xd0, eax\n e5 d0; in eax, 0xd0\n e7 f4; out 0xf4, eax"
    )
    with flat(code + SPIN) as machine:
        machine.add(device)
        assert machine.run(LIMIT).value == 0x44332211
    assert device.seen == [(n, 1, v) for n, v in enumerate((0xDD, 0xCC, 0xBB, 0xAA))] + [(n, 1, None) for n in range(4)]


STRING_IO = hexcode(
    """
    66 ba d0 00    ; mov dx, 0xd0
    bf 00 00 20 00 ; mov edi, 0x200000
    b9 00 02 00 00 ; mov ecx, 512
    fc             ; cld
    f3 66 6d       ; rep insw
    be 00 00 20 00 ; mov esi, 0x200000
    b9 00 02 00 00 ; mov ecx, 512
    f3 66 6f       ; rep outsw
    """
)


@pytest.mark.parametrize("blocks", [False, True], ids=["item by item", "by block"])
def test_string_io_moves_every_item(blocks: bool) -> None:
    words = [(number * 2654435761 >> 7) & 0xFFFF for number in range(512)]
    device = Recorder(*words, ports=(Range(0xD0, 2),))
    if blocks:
        raw = struct.pack("<512H", *words)

        def read_block(offset: int, size: int, count: int) -> bytes:
            assert (offset, size) == (0, 2)
            taken = raw[512 * 2 - len(device.answers) * 2 :][: count * size]
            del device.answers[:count]
            return taken

        def write_block(offset: int, size: int, data: bytes) -> None:
            assert (offset, size) == (0, 2)
            device.seen.extend((0, 2, value) for (value,) in struct.iter_unpack("<H", data))

        device.read_block, device.write_block = read_block, write_block  # type: ignore[method-assign]
    with flat(STRING_IO + HALT) as machine:
        machine.add(device)
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.memory.read(0x200000, 1024) == struct.pack("<512H", *words)
    assert [value for _, _, value in device.seen if value is not None] == words


def test_nobody_home_reads_ones_swallows_writes_and_is_counted() -> None:
    code = hexcode("31 c0; xor eax, eax\n e7 d0; out 0xd0, eax\n e5 d0; in eax, 0xd0\n e7 f4; out 0xf4, eax")
    with flat(code + SPIN) as machine:
        assert machine.run(LIMIT).value == 0xFFFFFFFF
        assert machine.ports.unclaimed == {0xD0: 2}


def test_a_function_answers_ports() -> None:
    with flat(hexcode("b0 41; mov al, 'A'\n e6 d1; out 0xd1, al\n e4 d0; in al, 0xd0") + EXIT_AL + SPIN) as machine:
        seen = []

        @machine.port(0xD0, 2)
        def letters(access: Access) -> int | None:
            seen.append(access)
            return None if access.is_write else 0x1542  # the upper byte does not fit, and is cut

        assert machine.run(LIMIT).value == 0x42
        assert callable(letters)
    assert seen == [Access(1, 1, 0x41), Access(0, 1, None)]


def test_a_function_that_answers_nothing_answers_ones() -> None:
    with flat(hexcode("e4 d0; in al, 0xd0") + EXIT_AL + SPIN) as machine:

        @machine.port(0xD0)
        def silent(access: Access) -> None:
            return None

        assert machine.run(LIMIT).value == 0xFF


def test_a_device_may_come_and_go() -> None:
    device = Recorder(0x11, ports=(Range(0xD0, 1),))
    with flat(hexcode("e4 d0; in al, 0xd0") + EXIT_AL + SPIN) as machine:
        machine.add(device)
        machine.remove(device)
        assert machine.run(LIMIT).value == 0xFF
    assert device.seen == []


def test_a_device_that_comes_while_the_guest_runs_is_found() -> None:
    # again: in al, 0xd0; cmp al, 0xff; je again; out 0xf4, al
    with flat(hexcode("e4 d0\n 3c ff\n 74 fa") + EXIT_AL + SPIN) as machine:
        machine.start(LIMIT)
        while 0xD0 not in machine.ports.unclaimed:  # the test's own time limit ends it
            pass

        @machine.port(0xD0)
        def late(access: Access) -> int:
            return 0x2A

        assert machine.wait().value == 0x2A


# Addresses

ACCESS_MEMORY = hexcode(
    """
    bb 00 00 00 d0 ; mov ebx, 0xd0000000
    48 b8 88 77 66 55 44 33 22 11 ; mov rax, 0x1122334455667788
    88 43 01       ; mov [rbx + 1], al
    66 89 43 02    ; mov [rbx + 2], ax
    89 43 04       ; mov [rbx + 4], eax
    48 89 43 08    ; mov [rbx + 8], rax
    8a 0b          ; mov cl, [rbx]
    48 8b 4b 10    ; mov rcx, [rbx + 16]
    48 89 0c 25 00 00 20 00 ; mov [0x200000], rcx
    """
)


@pytest.mark.parametrize("width", [4, 8])
def test_addresses_are_seen_at_their_offset_with_size_and_value(width: int) -> None:
    halves = [0x89ABCDEF, 0x01234567]
    answers = halves if width == 4 else [0x0123456789ABCDEF]
    device = Recorder(0x11, *answers, mmio=(Range(0xD0000000, 0x1000),))
    device.width = width
    with flat(ACCESS_MEMORY + HALT) as machine:
        machine.add(device)
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.memory.read_int(0x200000, 8) == 0x0123456789ABCDEF
        assert machine.mmio.unclaimed == {}
    eight: list[tuple[int, int, int | None]] = [(8, 8, 0x1122334455667788)]
    if width == 4:
        eight = [(8, 4, 0x55667788), (12, 4, 0x11223344)]
    last: list[tuple[int, int, int | None]] = [(16, 8, None)] if width == 8 else [(16, 4, None), (20, 4, None)]
    assert device.seen == [(1, 1, 0x88), (2, 2, 0x7788), (4, 4, 0x55667788), *eight, (0, 1, None), *last]


def test_a_function_answers_addresses() -> None:
    # mov eax, [0xd0000ffc] by way of rbx; out 0xf4, eax
    code = hexcode("bb fc 0f 00 d0; mov ebx, 0xd0000ffc\n 8b 03; mov eax, [rbx]\n e7 f4; out 0xf4, eax")
    with flat(code + SPIN) as machine:

        @machine.mmio_range(0xD0000000, 0x1000)
        def page(access: Access) -> int:
            assert not access.is_write
            return access.offset << 8 | access.size

        assert machine.run(LIMIT).value == 0xFFC04


def test_reads_outside_ram_and_devices_give_ones() -> None:
    code = hexcode(
        "bb 00 00 00 d0; mov ebx, 0xd0000000\n 89 1b; mov [rbx], ebx\n 8b 03; mov eax, [rbx]\n e7 f4; out 0xf4, eax"
    )
    with flat(code + SPIN) as machine:
        assert machine.run(LIMIT).value == 0xFFFFFFFF
        assert machine.mmio.unclaimed == {0xD0000000: 2}


# What cannot be


def test_overlapping_devices_are_refused_naming_both() -> None:
    with Machine(memory="4M") as machine:
        machine.add(Recorder(ports=(Range(0xD0, 8),)))
        other = Recorder(ports=(Range(0x1000, 4), Range(0xD7, 1)))
        other.name = "latecomer"
        with pytest.raises(ConfigError, match=r"latecomer.*0xd7.*recorder"):
            machine.add(other)
        assert machine.ports.find(0x1000) is None  # nothing of it was attached
        com1 = Recorder(ports=(Range(0x3FF, 1),))
        with pytest.raises(ConfigError, match=r"recorder.*COM1"):
            machine.add(com1)
        machine.add(Recorder(mmio=(Range(0xD0000000, 0x1000),)))
        with pytest.raises(ConfigError, match=r"recorder.*recorder"):
            machine.add(Recorder(mmio=(Range(0xCFFFFFFF, 2),)))


@pytest.mark.parametrize(
    ("ports", "mmio"),
    [
        ((), ()),
        ((Range(0xD0, 1),), (Range(0xD0000000, 1),)),
        ((Range(0xFFFF, 2),), ()),
        ((Range(-1, 1),), ()),
        ((Range(0xD0, 0),), ()),
        ((), (Range(0x200000, 4096),)),  # RAM
        ((), (Range(0x3FFFFF, 2),)),  # begins in RAM
        ((), (Range(0xD0000000, 0),)),
        ((), (Range(1 << 60, 1),)),
    ],
)
def test_ranges_that_cannot_be(ports: tuple[Range, ...], mmio: tuple[Range, ...]) -> None:
    with Machine(memory="4M") as machine, pytest.raises(ConfigError):
        machine.add(Recorder(ports=ports, mmio=mmio))


@pytest.mark.parametrize("number", [-1, 24])
def test_interrupt_inputs_that_cannot_be(number: int) -> None:
    with Machine(memory="4M") as machine, pytest.raises(ConfigError, match=f"{number}"):
        machine.irq(number)


# Interrupts

ENABLE_IRQ_5 = hexcode(
    """
    b0 11 e6 20 ; ICW1 to the master PIC
    b0 20 e6 21 ; ICW2: IRQ 0 is vector 0x20
    b0 04 e6 21 ; ICW3: a slave at IRQ 2
    b0 01 e6 21 ; ICW4: 8086 mode
    b0 df e6 21 ; OCW1: all masked but IRQ 5
    fb          ; sti
    e6 d0       ; out 0xd0, al: the device asks for its interrupt
    f4 eb fd    ; hlt; jmp to it
    """
)
"""16-bit code. IRQ 5 goes through the vector table's entry 0x25, at 0x94."""


class Asker(Device):
    """Raises its line when it is written, lowers it when it is read."""

    name = "asker"
    ports = (Range(0xD0, 1),)

    def __init__(self, line: IrqLine) -> None:
        self.line = line

    def read(self, offset: int, size: int) -> int:
        self.line.set(False)
        return 0x2A

    def write(self, offset: int, size: int, value: int) -> None:
        self.line.set(True)


def test_a_device_interrupts_the_guest() -> None:
    handler = hexcode("e4 d0; in al, 0xd0") + EXIT_AL + SPIN
    with flat(ENABLE_IRQ_5 + handler, 16) as machine:
        machine.add(Asker(machine.irq(5)))
        machine.memory.write(0x94, struct.pack("<HH", 0x7C00 + len(ENABLE_IRQ_5), 0))
        assert machine.run(LIMIT).value == 0x2A


def test_a_sleeping_guest_can_be_woken_from_another_thread() -> None:
    code = ENABLE_IRQ_5.replace(bytes.fromhex("e6d0"), bytes.fromhex("e6e9"))  # says so, and only sleeps
    with flat(code + hexcode("b0 07; mov al, 7") + EXIT_AL + SPIN, 16) as machine:
        line = machine.irq(5)
        machine.memory.write(0x94, struct.pack("<HH", 0x7C00 + len(code), 0))
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for(b"\xdf", LIMIT)
        with machine.lock:
            line.set(True)
        assert machine.wait().value == 7


def test_lines_to_one_input_are_ored() -> None:
    with Machine(memory="4M") as machine:
        one, two = machine.irq(5), machine.irq(5)
        moves: list[tuple[int, bool]] = []
        real = machine.engine.board.vm.irq_line
        machine.engine.board.vm.irq_line = lambda gsi, level: (moves.append((gsi, bool(level))), real(gsi, level))[1]  # type: ignore[method-assign]
        one.set(True)
        two.set(True)
        one.set(False)
        two.set(False)
        levels = [level for _, level in moves]
        assert levels[0] is True
        assert levels[-1] is False
        assert levels.count(False) == 1


# MSRs and CPUID

MSR = 0xC0DE0010


def test_an_msr_is_answered_here() -> None:
    code = hexcode(
        """
        b9 10 00 de c0 ; mov ecx, 0xc0de0010
        b8 44 33 22 11 ; mov eax, 0x11223344
        ba 88 77 66 55 ; mov edx, 0x55667788
        0f 30          ; wrmsr
        0f 32          ; rdmsr
        a3 00 00 20 00 00 00 00 00 ; mov [0x200000], eax
        89 d0          ; mov eax, edx
        a3 04 00 20 00 00 00 00 00 ; mov [0x200004], eax
        """
    )
    with flat(code + HALT) as machine:
        seen = []

        @machine.msr(MSR)
        def own(value: int | None) -> int | None:
            seen.append(value)
            return 0x0123456789ABCDEF if value is None else None

        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.memory.read_int(0x200000, 8) == 0x0123456789ABCDEF
    assert seen == [0x5566778811223344, None]


REAL_MODE_MSR = {
    "rdmsr": hexcode("66 b9 10 00 de c0; mov ecx, 0xc0de0010\n 0f 32; rdmsr\n b0 01; mov al, 1") + EXIT_AL + SPIN,
    "wrmsr": hexcode("66 b9 10 00 de c0; mov ecx, 0xc0de0010\n 0f 30; wrmsr\n b0 01; mov al, 1") + EXIT_AL + SPIN,
}
GP_VECTOR = 13 * 4


@pytest.mark.parametrize("instruction", REAL_MODE_MSR)
@pytest.mark.parametrize("known", [True, False], ids=["refused", "unknown"])
def test_a_refused_msr_is_a_general_protection_fault(instruction: str, known: bool) -> None:
    code = REAL_MODE_MSR[instruction]
    with flat(code + hexcode("b0 0d; mov al, 13") + EXIT_AL + SPIN, 16) as machine:
        machine.memory.write(GP_VECTOR, struct.pack("<HH", 0x7C00 + len(code), 0))

        @machine.msr(MSR if known else MSR + 1)
        def refuses(value: int | None) -> int:
            raise GeneralProtection

        assert machine.run(LIMIT).value == 13


def test_an_override_of_cpuid_is_what_the_guest_sees() -> None:
    code = hexcode("b8 00 00 00 40; mov eax, 0x40000000\n 0f a2; cpuid\n 93; xchg eax, ebx\n e7 f4; out 0xf4, eax")
    for signature in ("OurOwnHost!!", None):
        with flat(code + SPIN) as machine:
            if signature is not None:
                cpuid.set_hypervisor(machine.cpuid, signature)
            value = machine.run(LIMIT).value
        assert value is not None
        assert struct.pack("<I", value) == (signature or "KVMKVMKVM")[:4].encode()


def test_a_leaf_that_is_added_is_seen() -> None:
    code = hexcode("b8 55 00 00 40; mov eax, 0x40000055\n 0f a2; cpuid\n 92; xchg eax, edx\n e7 f4; out 0xf4, eax")
    with flat(code + SPIN) as machine:
        cpuid.set_leaf(machine.cpuid, 0x40000000, eax=0x40000055)
        cpuid.set_leaf(machine.cpuid, 0x40000055, edx=0x600DCAFE)
        assert machine.run(LIMIT).value == 0x600DCAFE


# Failures


class Sick(Device):
    """Fails at each access."""

    name = "sick device"

    def read(self, offset: int, size: int) -> int:
        raise ZeroDivisionError("at read")

    def write(self, offset: int, size: int, value: int) -> None:
        raise ZeroDivisionError("at write")


FAILING = {
    "in": (hexcode("e4 d0"), True),
    "out": (hexcode("e6 d0"), True),
    "rep insb": (hexcode("66 ba d0 00\n bf 00 00 20 00\n b9 10 00 00 00\n f3 6c"), True),
    "rep outsb": (hexcode("66 ba d0 00\n be 00 00 20 00\n b9 10 00 00 00\n f3 6e"), True),
    "MMIO read": (hexcode("bb 00 00 00 d0\n 8b 03"), False),
    "MMIO write": (hexcode("bb 00 00 00 d0\n 89 03"), False),
}


@pytest.mark.parametrize("what", FAILING)
def test_an_exception_in_a_device_ends_the_run_and_names_it(what: str) -> None:
    code, is_port = FAILING[what]
    device = Sick()
    if is_port:
        device.ports = (Range(0xD0, 1),)
    else:
        device.mmio = (Range(0xD0000000, 0x1000),)
    with flat(code + SPIN) as machine:
        machine.add(device)
        with pytest.raises(DeviceError, match="sick device raised ZeroDivisionError: at") as caught:
            machine.run(LIMIT)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.__cause__.__traceback__ is not None
        assert machine.outcome is not None
        assert machine.outcome.ending is Ending.STOPPED
        with pytest.raises(DeviceError):
            machine.wait()


def test_an_exception_in_a_function_names_the_function() -> None:
    with flat(hexcode("e4 d0; in al, 0xd0") + SPIN) as machine:

        @machine.port(0xD0)
        def thermometer(access: Access) -> int:
            raise KeyError("celsius")

        with pytest.raises(DeviceError, match="thermometer raised KeyError") as caught:
            machine.run(LIMIT)
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("instruction", REAL_MODE_MSR)
def test_an_exception_in_an_msr_handler_names_it(instruction: str) -> None:
    with flat(REAL_MODE_MSR[instruction], 16) as machine:

        @machine.msr(MSR)
        def odometer(value: int | None) -> int:
            raise KeyError("miles")

        with pytest.raises(DeviceError, match=r"(odometer|MSR 0xc0de0010).* raised KeyError") as caught:
            machine.run(LIMIT)
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("answer", ["text", -1, 1 << 40, 1.5])
def test_an_answer_that_is_no_number_of_that_size_names_the_device(answer: int) -> None:
    device = Recorder(answer, answer, ports=(Range(0xD0, 1),))
    with flat(hexcode("e4 d0; in al, 0xd0") + SPIN) as machine:
        machine.add(device)
        with pytest.raises(DeviceError, match="recorder raised"):
            machine.run(LIMIT)


def test_an_exception_in_a_timer_or_descriptor_callback_ends_the_run() -> None:
    def bell() -> None:
        raise RuntimeError("cracked")

    with flat(SPIN) as machine:
        with machine.lock:
            machine.engine.loop.call_soon(bell)
        with pytest.raises(DeviceError, match=r"bell.* raised RuntimeError: cracked"):
            machine.run(LIMIT)


def test_an_exception_in_one_cpu_ends_all() -> None:
    with flat(hexcode("e4 d0; in al, 0xd0") + SPIN, cpus=3) as machine:
        device = Sick()
        device.ports = (Range(0xD0, 1),)
        machine.add(device)
        with pytest.raises(DeviceError):
            machine.run(LIMIT)
