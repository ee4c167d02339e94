"""Resets: each way to ask for one, and a machine that begins anew, all its parts as after power-on."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from features import FEATURES
from helpers import LIMIT, assembled, flat

from pykvm import Device, DeviceError, Ending, Machine, Range
from pykvm.debug.control import Control, Why
from pykvm.disk.memory import MemoryDisk
from pykvm.kvm import MpState, wait_closed
from pykvm.kvm.quirks import int3_works

pytestmark = pytest.mark.needs("gcc")

ORIGIN = 0x100000
MARK = 0x5000
"""Where a guest counts its starts: RAM outlives a reset, but for the image."""

WAYS = {
    "reset by the keyboard controller": "mov $0xFE, %al\nout %al, $0x64",
    "reset by the keyboard controller's output port": "mov $0xD1, %al\nout %al, $0x64\nmov $0xDE, %al\nout %al, $0x60",
    "reset by port 0x92": "in $0x92, %al\nor $1, %al\nout %al, $0x92",
    "hard reset by 0x06 to port 0xcf9": "mov $0xCF9, %dx\nmov $2, %al\nout %al, %dx\nmov $6, %al\nout %al, %dx",
    "soft reset by 0x04 to port 0xcf9": "mov $0xCF9, %dx\nmov $4, %al\nout %al, %dx",
}
"""Each way to reset a PC, by the words that pykvm has for it."""

EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

PARTS = [
    ("COM1 interrupts", "mov $0x3F9, %dx\nin %dx, %al", "mov $0x3F9, %dx\nmov $5, %al\nout %al, %dx"),
    ("COM1 line", "mov $0x3FB, %dx\nin %dx, %al", "mov $0x3FB, %dx\nmov $0x1B, %al\nout %al, %dx"),
    ("COM1 modem", "mov $0x3FC, %dx\nin %dx, %al", "mov $0x3FC, %dx\nmov $0x0B, %al\nout %al, %dx"),
    ("first PIC's mask", "in $0x21, %al", "mov $0x5A, %al\nout %al, $0x21"),
    ("second PIC's mask", "in $0xA1, %al", "mov $0xA5, %al\nout %al, $0xA1"),
    ("PIC's trigger modes", "mov $0x4D0, %dx\nin %dx, %al", "mov $0x4D0, %dx\nmov $0x20, %al\nout %al, %dx"),
    (
        "PIT's mode",  # read back the status of channel 0: its lower 6 bits are the mode
        "mov $0xE2, %al\nout %al, $0x43\nin $0x40, %al\nand $0x3F, %al",
        "mov $0x34, %al\nout %al, $0x43\nmov $0xFF, %al\nout %al, $0x40\nout %al, $0x40",
    ),
    (
        "RTC's interrupts",
        "mov $0x0B, %al\nout %al, $0x70\nin $0x71, %al",
        "mov $0x0B, %al\nout %al, $0x70\nmov $0x42, %al\nout %al, $0x71",
    ),
    (
        "i8042's command byte",
        "mov $0x20, %al\nout %al, $0x64\nin $0x60, %al",
        "mov $0x60, %al\nout %al, $0x64\nmov $0x04, %al\nout %al, $0x60",
    ),
    (
        "VGA's cursor",
        "mov $0x3D4, %dx\nmov $0x0A, %al\nout %al, %dx\ninc %dx\nin %dx, %al",
        "mov $0x3D4, %dx\nmov $0x0A, %al\nout %al, %dx\ninc %dx\nmov $0x20, %al\nout %al, %dx",
    ),
    (
        "VGA's clocking mode",
        "mov $0x3C4, %dx\nmov $1, %al\nout %al, %dx\ninc %dx\nin %dx, %al",
        "mov $0x3C4, %dx\nmov $1, %al\nout %al, %dx\ninc %dx\nmov $0x21, %al\nout %al, %dx",
    ),
    (
        "host bridge's latency timer",
        "mov $0xCF8, %dx\nmov $0x8000000C, %eax\nout %eax, %dx\nmov $0xCFD, %dx\nin %dx, %al",
        "mov $0xCF8, %dx\nmov $0x8000000C, %eax\nout %eax, %dx\nmov $0xCFD, %dx\nmov $0x40, %al\nout %al, %dx",
    ),
    ("ACPI events", "mov $0x602, %dx\nin %dx, %al", "mov $0x602, %dx\nmov $0x20, %al\nout %al, %dx"),
    ("ATA drive", "mov $0x1F6, %dx\nin %dx, %al", "mov $0x1F6, %dx\nmov $0xB5, %al\nout %al, %dx"),
    ("ATA sector", "mov $0x1F3, %dx\nin %dx, %al", "mov $0x1F3, %dx\nmov $0x77, %al\nout %al, %dx"),
    ("local APIC's priority", "mov 0x080(%rbx), %eax", "movl $0x50, 0x080(%rbx)"),
    ("local APIC's timer", "mov 0x320(%rbx), %eax\nshr $16, %eax", "movl $0x20031, 0x320(%rbx)"),
    ("local APIC's spurious vector", "mov 0x0F0(%rbx), %eax", "movl $0x1E7, 0x0F0(%rbx)"),
    (
        "IOAPIC's input 4",
        "movl $0x18, 0x000(%rbp)\nmov 0x010(%rbp), %eax",
        "movl $0x18, 0x000(%rbp)\nmovl $0x34, 0x010(%rbp)",
    ),
    ("SYSENTER_EIP", "mov $0x176, %ecx\nrdmsr", "mov $0x176, %ecx\nmov $0x99, %eax\nxor %edx, %edx\nwrmsr"),
    ("LSTAR", "mov $0xC0000082, %ecx\nrdmsr", "mov $0xC0000082, %ecx\nmov $0x88, %eax\nxor %edx, %edx\nwrmsr"),
    ("APIC base", "mov $0x1B, %ecx\nrdmsr\nshr $8, %eax", ""),
    ("DR1", "mov %dr1, %rax", "mov $0x66, %eax\nmov %rax, %dr1"),
    ("CR8", "mov %cr8, %rax", ""),  # the local APIC's priority again
]
"""Parts of the machine, each with code that puts a byte of it into AL, and code that changes it."""


def test_every_part_is_as_after_power_on(tmp_path: Path) -> None:
    """The guest shows a byte of each part, changes all, shows them again, and resets; then it shows them once more."""
    show = "\n".join(f"{look}\nout %al, $0xE9" for _, look, _ in PARTS)
    code = f"""
        mov     $0x80000, %esp
        mov     $0xFEE00000, %ebx
        mov     $0xFEC00000, %ebp
        call    show
        cmpb    $0, {MARK}
        jne     done
        incb    {MARK}
        {chr(10).join(change for _, _, change in PARTS)}
        call    show
        mov     $0xFE, %al
        out     %al, $0x64
1:      jmp     1b
done:   xor     %al, %al
        out     %al, $0xF4
show:   {show}
        ret
    """
    with flat(assembled(code, tmp_path, ORIGIN, 64), disks=[MemoryDisk(bytes(512))]) as machine:
        assert machine.run(LIMIT).ending is Ending.EXITED
        assert machine.resets == 1
        shown = machine.pc.debug_console.output
    assert len(shown) == 3 * len(PARTS)
    first, changed, second = (dict(zip((name for name, _, _ in PARTS), part, strict=True)) for part in chunks(shown, 3))
    assert second == first
    assert {name for name in first if changed[name] == first[name]} == {"APIC base"}


def chunks(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count
    return [data[at : at + size] for at in range(0, len(data), size)]


THIRD_START = """
        incb    {mark}
        cmpb    $3, {mark}
        je      done
        {way}
1:      jmp     1b
done:   mov     {mark}, %al
        out     %al, $0xF4
"""
"""Resets twice, then writes 3 to the exit port."""


@pytest.mark.parametrize("bits", [32, 64])
@EACH_WAY
def test_each_way_starts_anew(tmp_path: Path, way: str, bits: int) -> None:
    with flat(assembled(THIRD_START.format(mark=MARK, way=way), tmp_path, ORIGIN, bits), bits) as machine:
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.value) == (Ending.EXITED, 3)
        assert machine.resets == 2


@pytest.mark.parametrize(
    "way", [*WAYS.values(), "ljmp $0xFFFF, $0", "ljmp $0xF000, $0xE05B"], ids=[*WAYS, "reset vector", "self-test"]
)
def test_each_way_starts_the_bios_anew(tmp_path: Path, way: str) -> None:
    """The sector is loaded again, as it is on the disk, and the BIOS's data are set up."""
    code = THIRD_START.format(mark=MARK, way=f"movb $0, 0x449\nmovb $0x90, done\n{way}") + ".org 510\n.word 0xAA55"
    with Machine(assembled(code, tmp_path, 0x7C00, 16), memory="4M") as machine:
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.value) == (Ending.EXITED, 3)
        assert machine.resets == (0 if "E05B" in way else 2)
        assert machine.memory.read(0x449, 1) == b"\x03", "the video mode"


def reset_register(machine: Machine) -> tuple[int, int]:
    """Port and value of the FADT's RESET_REG, found as ACPI says: RSDP, RSDT, FADT."""
    memory = machine.memory
    low = memory.read(0xE0000, 0x20000)
    rsdt = struct.unpack_from("<I", low, low.index(b"RSD PTR ") + 16)[0]
    size = memory.read_int(rsdt + 4, 4)
    tables = struct.unpack(f"<{size // 4 - 9}I", memory.read(rsdt + 36, size - 36))
    fadt = next(table for table in tables if memory.read(table, 4) == b"FACP")
    space, width, _, _, port, value = struct.unpack("<BBBBQB", memory.read(fadt + 116, 13))
    assert (space, width) == (1, 8)
    assert memory.read_int(fadt + 112, 4) & 1 << 10, "RESET_REG_SUP"
    return port, value


def test_acpi_reset_register(tmp_path: Path) -> None:
    with flat(b"\xf4") as machine:
        port, value = reset_register(machine)
    way = f"mov ${port}, %dx\nmov ${value}, %al\nout %al, %dx"
    with flat(assembled(THIRD_START.format(mark=MARK, way=way), tmp_path, ORIGIN, 64)) as machine:
        assert machine.run(LIMIT).value == 3
        assert machine.resets == 2


@EACH_WAY
def test_no_reboot_ends_the_run(tmp_path: Path, way: str) -> None:
    with flat(assembled(f"{way}\n1: jmp 1b", tmp_path, ORIGIN, 64), no_reboot=True) as machine:
        outcome = machine.run(LIMIT)
        assert outcome.ending is Ending.REBOOTED
        assert outcome.reason in next(name for name, code in WAYS.items() if code == way)
        assert machine.resets == 0


WAKE = """
        mov     $0xFEE00000, %ebx
        movl    $0x1FF, 0xF0(%rbx)
        movl    $0xC4500, 0x300(%rbx)           # INIT to all others
        movl    $0xC4608, 0x300(%rbx)           # SIPI: they start at 0x8000
"""
COUNT = bytes.fromhex("66 ff 06 00 60 eb f9")
"""In real mode: 1: inc dword [0x6000]; jmp 1b"""


@EACH_WAY
def test_the_other_cpus_wait_to_be_woken_again(tmp_path: Path, way: str) -> None:
    """They are woken at the first start and at the second; at the third the first CPU looks whether they are still."""
    code = f"""
        incb    {MARK}
        movl    $0, 0x6000
        cmpb    $3, {MARK}
        je      third
        {WAKE}
1:      cmpl    $0, 0x6000
        je      1b
        {way}
1:      jmp     1b
third:  mov     $100000, %ecx
1:      loop    1b
        mov     0x6000, %al
        out     %al, $0xF4
    """
    with flat(assembled(code, tmp_path, ORIGIN, 64), cpus=3) as machine:
        machine.memory.write(0x8000, COUNT)
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.value) == (Ending.EXITED, 0)
        assert machine.resets == 2
        assert [vcpu.get_mp_state() for vcpu in machine.vcpus[1:]] == [MpState.UNINITIALIZED] * 2


def test_another_cpu_may_reset_the_machine(tmp_path: Path) -> None:
    """The first, which sleeps with interrupts off meanwhile, starts anew all the same."""
    code = f"""
        incb    {MARK}
        cmpb    $3, {MARK}
        je      third
        {WAKE}
1:      cli
        hlt
        jmp     1b
third:  mov     $3, %al
        out     %al, $0xF4
    """
    with flat(assembled(code, tmp_path, ORIGIN, 64), cpus=2) as machine:
        machine.memory.write(0x8000, bytes.fromhex("b0fe e664 ebfe"))  # mov al, 0xFE; out 0x64, al; jmp $
        assert machine.run(LIMIT).value == 3
        assert machine.resets == 2


def test_an_interrupt_on_its_way_does_not_reach_the_next_start(tmp_path: Path) -> None:
    """The UART asks for one, the PIC has passed it on, and the CPU holds it off when the reset comes."""
    code = f"""
        cmpb    $0, {MARK}
        jne     second
        incb    {MARK}
        mov     $0x11, %al
        out     %al, $0x20
        mov     $0x20, %al
        out     %al, $0x21
        mov     $4, %al
        out     %al, $0x21
        mov     $1, %al
        out     %al, $0x21
        xor     %al, %al
        out     %al, $0x21
        mov     $0x3FC, %dx
        mov     $8, %al
        out     %al, %dx
        mov     $0x3F9, %dx
        mov     $2, %al
        out     %al, %dx                        # the transmitter is empty, and that is an interrupt
        mov     $0x0A, %al
        out     %al, $0x20
        in      $0x20, %al
        test    $0x10, %al
        jz      bad
        mov     $0xFE, %al
        out     %al, $0x64
bad:    mov     $1, %al
        out     %al, $0xF4
second: mov     $0x0A, %al
        out     %al, $0x20
        in      $0x20, %al                      # interrupt requests
        and     $0x10, %al
        out     %al, $0xF4
    """
    with flat(assembled(code, tmp_path, ORIGIN, 32), 32) as machine:
        assert machine.run(LIMIT).value == 0
        assert machine.resets == 1


ENDLESS = "incl {mark}\nmov $0xFE, %al\nout %al, $0x64\n1: jmp 1b"


def test_a_loop_of_resets_ends_with_the_time_limit(tmp_path: Path) -> None:
    with flat(assembled(ENDLESS.format(mark=MARK), tmp_path, ORIGIN, 32), 32) as machine:
        outcome = machine.run(0.3)
        assert outcome.ending is Ending.TIMED_OUT
        assert machine.resets > 0
        assert machine.memory.read_int(MARK, 4) in (machine.resets, machine.resets + 1)


def test_a_loop_of_resets_can_be_stopped_and_paused(tmp_path: Path) -> None:
    with flat(assembled(ENDLESS.format(mark=MARK), tmp_path, ORIGIN, 32), 32) as machine:
        machine.start(LIMIT)
        descriptors = set()
        for _ in range(5):
            machine.pause()
            resets = machine.resets
            assert machine.memory.read_int(MARK, 4) in (resets, resets + 1)
            wait_closed()
            descriptors.add(len(os.listdir("/proc/self/fd")))
            machine.resume()
        assert len(descriptors) == 1, "each reset makes a VM, and gives it back"
        assert machine.stop().ending is Ending.STOPPED


# By a person

COUNT_STARTS = f"""
        incb    {MARK}
        mov     {MARK}, %al
        out     %al, $0xE9
1:      hlt
        jmp     1b
"""
"""Tells how often it has been started, and sleeps with interrupts off."""


def test_the_reset_button(tmp_path: Path) -> None:
    code = assembled(COUNT_STARTS.replace("hlt", "pause"), tmp_path, ORIGIN, 64)
    with flat(code) as machine:
        machine.start(LIMIT)
        for number in (b"\1", b"\2", b"\3"):
            machine.pc.debug_console.wait_for(number.decode(), LIMIT)
            machine.reset()
        machine.pc.debug_console.wait_for("\4", LIMIT)
        assert machine.resets == 3
        assert machine.stop().ending is Ending.STOPPED
        machine.reset()
        assert machine.resets == 3, "there is nothing to reset in a machine whose run has ended"
    with flat(code, no_reboot=True) as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("\1", LIMIT)
        machine.reset()
        assert machine.wait().ending is Ending.REBOOTED


def test_ctrl_alt_delete_under_the_bios(tmp_path: Path) -> None:
    code = f"incb {MARK}\nmov {MARK}, %al\nout %al, $0xE9\nsti\n1: hlt\njmp 1b\n.org 510\n.word 0xAA55"
    with Machine(assembled(code, tmp_path, 0x7C00, 16), memory="4M") as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("\1", LIMIT)
        for key in ("ctrl", "alt", "delete"):
            machine.keyboard.press(key)
        machine.pc.debug_console.wait_for("\2", LIMIT)
        assert machine.resets == 1


def test_the_power_button_is_told_to_the_guest(tmp_path: Path) -> None:
    """By PWRBTN_STS, bit 8 of PM1_STS at port 0x600 (ACPI 4.8.3.1.1)."""
    code = "mov $'>', %al\nout %al, $0xE9\nmov $0x600, %dx\n1: in %dx, %ax\ntest $0x100, %ax\njz 1b\nmov $7, %al\nout %al, $0xF4"
    with flat(assembled(code, tmp_path, ORIGIN, 64)) as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for(">", LIMIT)
        assert machine.outcome is None
        machine.power_button()
        assert machine.wait().value == 7


def test_a_device_that_fails_at_a_reset_ends_the_run(tmp_path: Path) -> None:
    class Broken(Device):
        name = "broken"
        ports = (Range(0x500, 1),)
        works = True

        def reset(self) -> None:
            if not self.works:
                raise ZeroDivisionError("no such luck")

    with flat(assembled("mov $0xFE, %al\nout %al, $0x64\n1: jmp 1b", tmp_path, ORIGIN, 64), cpus=2) as machine:
        device = Broken()
        machine.add(device)
        before = machine.snapshot()
        device.works = False
        with pytest.raises(DeviceError, match="broken raised ZeroDivisionError: no such luck"):
            machine.run(LIMIT)
        device.works = True
        machine.restore(before)
        machine.no_reboot = True
        assert machine.run(LIMIT).ending is Ending.REBOOTED


def test_the_reset_button_of_a_paused_machine(tmp_path: Path) -> None:
    """It is reset at once, and stays paused."""
    with flat(assembled(COUNT_STARTS.replace("hlt", "pause"), tmp_path, ORIGIN, 64)) as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("\1", LIMIT)
        machine.pause()
        machine.reset()
        assert machine.resets == 1
        assert machine.vcpus[0].get_registers().rip == ORIGIN
        assert machine.memory.read(MARK, 1) == b"\1"
        machine.resume()
        machine.pc.debug_console.wait_for("\2", LIMIT)


def test_the_reset_button_before_the_start_changes_nothing(tmp_path: Path) -> None:
    with flat(assembled(COUNT_STARTS, tmp_path, ORIGIN, 64)) as machine:
        machine.reset()
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.pc.debug_console.output == b"\1"


def test_a_machine_without_an_image_ends(tmp_path: Path) -> None:
    with Machine(memory="4M") as machine:
        machine.pause()  # there is nothing to execute: it would crash at once
        machine.start(LIMIT)
        machine.reset()
        machine.resume()
        assert machine.wait().ending is Ending.REBOOTED


def test_resets_and_snapshots(tmp_path: Path) -> None:
    """A snapshot from before a reset is there after it, and resets work after it has been put back."""
    code = assembled(COUNT_STARTS.replace("hlt", "in $0x71, %al"), tmp_path, ORIGIN, 64)
    with flat(code) as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("\1", LIMIT)
        before = machine.snapshot()
        for _ in range(3):
            machine.reset()
            machine.pc.debug_console.wait_for("\2", LIMIT)
            machine.restore(before)
            machine.pause()
            assert machine.memory.read(MARK, 1) == b"\1"
            assert machine.pc.debug_console.output == b"\1"
            machine.resume()
        assert machine.resets == 3


def test_a_reset_that_the_end_of_the_run_overtook_does_not_stand_in_the_way_of_the_next(tmp_path: Path) -> None:
    with flat(assembled(COUNT_STARTS.replace("hlt", "pause"), tmp_path, ORIGIN, 64)) as machine:
        before = machine.snapshot()
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("\1", LIMIT)
        with machine.lock:
            machine.reset()
            machine.request_stop("enough")
        assert machine.wait().ending is Ending.STOPPED
        assert machine.resets == 0
        machine.restore(before)
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("\1", LIMIT)
        machine.reset()
        machine.pc.debug_console.wait_for("\2", LIMIT)
        assert machine.resets == 1


def test_a_machine_from_a_snapshot_ends_as_rebooted(tmp_path: Path) -> None:
    """What it was started from is not in the snapshot."""
    with flat(assembled(COUNT_STARTS.replace("hlt", "pause"), tmp_path, ORIGIN, 64)) as machine:
        snapshot = machine.snapshot()
        with snapshot.fork() as fork:
            fork.start(LIMIT)
            fork.pc.debug_console.wait_for("\1", LIMIT)
            fork.reset()
            assert fork.wait().ending is Ending.REBOOTED


# Under a debugger


@pytest.mark.parametrize("kind", ["debug register", "int3"])
def test_breakpoints_are_met_after_a_reset(tmp_path: Path, kind: str) -> None:
    """The image that is loaded again knows nothing of INT3s."""
    if kind == "int3" and not int3_works(True):
        pytest.skip("KVM does not report INT3")
    if kind != "int3" and (reason := FEATURES["hw-breakpoints"]()):
        pytest.skip(f"needs hw-breakpoints: {reason}")
    code = assembled(
        "jmp 1f\nnop\nnop\nnop\nnop\n1: nop\nmov $0xFE, %al\nout %al, $0x64\n1: jmp 1b", tmp_path, ORIGIN, 64
    )
    with flat(code) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        place = ORIGIN + 6
        control.breakpoints.software.add(place)
        if kind == "int3":  # those before it take the debug registers
            control.breakpoints.software.update(range(ORIGIN + 2, place))
        for resets in range(3):
            control.resume()
            stop = control.wait(LIMIT)
            assert stop is not None
            assert (stop.why, stop.address, machine.resets) == (Why.BREAKPOINT, place, resets)
            assert control.read(0, place, 1) == b"\x90"
            control.step(0)


def test_a_reset_can_be_stepped_over(tmp_path: Path) -> None:
    with flat(assembled("out %al, $0x80\nmov $0xFE, %al\nout %al, $0x64\n1: jmp 1b", tmp_path, ORIGIN, 64)) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        for _ in range(2):
            assert control.pc(0) == ORIGIN
            for _ in range(3):
                control.step(0)
        assert control.pc(0) == ORIGIN
        assert machine.resets == 2


def test_a_stopped_machine_is_reset(tmp_path: Path) -> None:
    with flat(assembled("mov $3, %al\nud2", tmp_path, ORIGIN, 64)) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        control.step(0)
        machine.reset()
        assert control.stop is not None
        assert (control.pc(0), control.registers(0).rax) == (ORIGIN, 0)
        control.step(0)
        assert control.registers(0).rax == 3


def test_a_machine_that_crashed_under_a_debugger_can_be_reset(tmp_path: Path) -> None:
    """It goes on from there, and does not end with that crash."""
    code = f"incb {MARK}\ncmpb $2, {MARK}\nje 1f\nud2\n1: mov $3, %al\nout %al, $0xF4"
    with flat(assembled(code, tmp_path, ORIGIN, 64)) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        control.resume()
        stop = control.wait(LIMIT)
        assert stop is not None
        assert stop.why is Why.CRASHED
        machine.reset()
        control.resume()
        assert machine.wait(LIMIT).value == 3
