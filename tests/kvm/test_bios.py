"""Boot sectors and disk images, from the first instruction of the self-test on."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import LIMIT, assembled

from pykvm import Machine
from pykvm.debug.control import Control, Why
from pykvm.disk.memory import MemoryDisk

pytestmark = pytest.mark.needs("gcc")

Assemble = Callable[[str], bytes]

PRINT = """
        # Prints the text at SI by INT 10h.
print:  pusha
1:      lodsb
        test    %al, %al
        jz      2f
        mov     $0x0E, %ah
        xor     %bx, %bx
        int     $0x10
        jmp     1b
2:      popa
        ret
"""
STOP = """
stop:   cli
        hlt
        jmp     stop
"""
END = """
        .org    510
        .word   0xAA55
"""


@pytest.fixture
def assemble(tmp_path: Path) -> Assemble:
    """From the text of a boot sector, entered at its beginning, to a disk image. DS, ES and SS are 0, SP is 0x7C00."""

    def to_bytes(text: str) -> bytes:
        return assembled(f"xor %ax, %ax\nmov %ax, %ss\nmov $0x7C00, %sp\n{text}{END}", tmp_path, 0x7C00, 16)

    return to_bytes


def boot(image: bytes, **options: Any) -> Machine:
    """A machine that starts from `image`."""
    options.setdefault("memory", "4M")
    return Machine(image, **options)


def test_prints_and_takes_keys(assemble: Assemble) -> None:
    """From the terminal and from the keyboard."""
    image = assemble(
        f"""
        mov     $text, %si
        call    print
again:  xor     %ah, %ah
        int     $0x16
        mov     $0x0E, %ah
        int     $0x10
        cmp     $'q', %al
        jne     again
        {STOP}{PRINT}
text:   .asciz  "Hello, BIOS!\\r\\n> "
        """
    )
    with boot(image) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("> ", LIMIT)
        machine.serial.send("ab")
        machine.serial.wait_for("ab", LIMIT)
        machine.keyboard.type("Xq")
        assert machine.wait().ending == "halted"
        assert machine.serial.text == "Hello, BIOS!\n> abXq"


def test_lesson(guest: Callable[[str], Path]) -> None:
    with boot(guest("bios").read_bytes()) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("press keys", LIMIT)
        machine.serial.send("a\x1b[A\x1b")
        assert machine.wait().ending == "halted"
        assert machine.serial.text.splitlines() == [
            "bios: a boot sector",
            "bios: the rest is loaded",
            "bios: memory at 00000000, size 0009FC00, type 01",
            "bios: memory at 0009FC00, size 00000400, type 02",
            "bios: memory at 000E0000, size 00010000, type 03",
            "bios: memory at 000F0000, size 00010000, type 02",
            "bios: memory at 00100000, size 00300000, type 01",
            "bios: two ticks; press keys, Escape ends",
            "bios: key 1E61",
            "bios: key 4800",
            "bios: key 011B",
            "bios: bye",
        ]


REGISTERS = ("EAX", "EBX", "ECX", "EDX", "ESI", "EDI", "EBP")
KEPT = {
    "EAX": 0x11112402, "EBX": 0x22222222, "ECX": 0x33333333, "EDX": 0x44444444, "ESI": 0x55555555,
    "EDI": 0x66666666, "EBP": 0x77777777,
}  # fmt: skip


@pytest.mark.parametrize(("ss", "sp"), [(0x0000, 0x7C00), (0x9000, 0xFFFE), (0x2345, 0x0801), (0x1000, 0x0000)])
def test_registers_and_stack(assemble: Assemble, ss: int, sp: int) -> None:
    """A call changes what it says it changes, on any stack: here AL, AH and the carry flag."""
    image = assemble(
        f"""
        mov     ${ss}, %ax
        mov     %ax, %ss
        mov     ${sp}, %sp
        mov     $0x1357, %ax
        mov     %ax, %ds
        mov     $0x2468, %ax
        mov     %ax, %es
        mov     $0x3579, %ax
        mov     %ax, %fs
        mov     $0x468A, %ax
        mov     %ax, %gs
        """
        + "".join(f"mov ${value}, %{name.lower()}\n" for name, value in KEPT.items())
        + """
        stc
        std
        int     $0x15
        pushfw
        push    %ds
        push    %es
        push    %fs
        push    %gs
        pushal
        xor     %ax, %ax
        mov     %ax, %es
        mov     %sp, %si
        push    %ss
        pop     %ds
        mov     $0x600, %di
        mov     $42, %cx
        cld
        rep movsb
        """
        + STOP
    )
    with boot(image) as machine:
        assert machine.run(LIMIT).ending == "halted"
        edi, esi, ebp, esp, ebx, edx, ecx, eax, gs, fs, es, ds, flags = struct.unpack(
            "<8I5H", machine.memory.read(0x600, 42)
        )
        assert eax == 0x11110001, "A20 is open"
        found = {"EBX": ebx, "ECX": ecx, "EDX": edx, "ESI": esi, "EDI": edi, "EBP": ebp}
        assert found == {name: value for name, value in KEPT.items() if name != "EAX"}
        assert esp & 0xFFFF == (sp - 10) & 0xFFFF
        assert (ds, es, fs, gs) == (0x1357, 0x2468, 0x3579, 0x468A)
        assert flags & 0x401 == 0x400, "the carry flag is clear, and the direction flag as it was"
        assert flags & 0x200, "interrupts are on"


def test_disk_by_both_addresses(assemble: Assemble) -> None:
    """Reads block 70 by CHS, writes it to 71 by a packet, and what cannot be read is an error."""
    image = assemble(
        f"""
        mov     %ax, %ds
        mov     $0x1000, %bx
        mov     %bx, %es
        xor     %bx, %bx
        mov     $0x0201, %ax
        mov     $8, %cx                 # cylinder 0, sector 8
        mov     $0x0180, %dx            # head 1: 63 + 7
        int     $0x13
        jc      stop
        mov     $packet, %si
        mov     $0x4300, %ax
        int     $0x13
        jc      stop
        movl    $1 << 20, packet + 8
        mov     $0x4200, %ax
        int     $0x13
        jnc     stop
        mov     %ah, 0x600
        {STOP}
packet: .byte   16, 0
        .word   1, 0, 0x1000
        .quad   71
        """
    )
    disk = MemoryDisk(image + bytes(512 * 2000 - len(image)))
    disk.write_at(70 * 512, b"seventy" * 70)
    content = disk.read_at(0, disk.size)
    with boot(content) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.memory.read(0x10000, 490) == b"seventy" * 70
        assert machine.memory.read(0x600, 1) == b"\x04"
        written = machine.disks[0]
        assert written is not None
        assert written.read_at(71 * 512, 490) == b"seventy" * 70


def test_floppy_is_drive_0(assemble: Assemble) -> None:
    """And hard disks are there beside it."""
    image = assemble(
        f"""
        mov     %dl, 0x600
        mov     $0x0201, %ax
        mov     $0x1000, %bx
        mov     $0x4F12, %cx            # cylinder 79, sector 18
        mov     $0x0100, %dx            # head 1
        int     $0x13
        mov     %ah, 0x601
        mov     $0x0201, %ax
        mov     $0x1200, %bx
        mov     $1, %cx
        mov     $0x0080, %dx
        int     $0x13
        mov     %ah, 0x602
        {STOP}
        """
    )
    image = image.ljust(1440 * 1024 - 8, b"\0") + b"the end."
    with boot(image, disks=[MemoryDisk(b"a hard disk")]) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.memory.read(0x600, 3) == b"\0\0\0"
        assert machine.memory.read(0x11F8, 8) == b"the end."
        assert machine.memory.read(0x1200, 11) == b"a hard disk"


def test_timer_ticks_and_tells(assemble: Assemble) -> None:
    """INT 8 counts, calls INT 1Ch, and lets the next tick come."""
    image = assemble(
        f"""
        movw    $hook, 0x1C * 4
        movw    $0, 0x1C * 4 + 2
        movl    $0x1800AE, 0x46C        # two ticks before midnight
1:      hlt
        cmpw    $3, 0x600
        jb      1b
        {STOP}
hook:   incw    %cs:0x600
        iret
        """
    )
    with boot(image) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.memory.read_int(0x46C, 4) == 1
        assert machine.memory.read(0x470, 1) == b"\x01"


@pytest.mark.parametrize("microseconds", [2_000, 130_000])
def test_wait_is_not_too_short(assemble: Assemble, microseconds: int) -> None:
    image = assemble(
        f"mov $0x86, %ah\nmov ${microseconds >> 16}, %cx\nmov ${microseconds & 0xFFFF}, %dx\nint $0x15\n{STOP}"
    )
    with boot(image) as machine:
        began = time.monotonic()
        assert machine.run(LIMIT).ending == "halted"
        assert time.monotonic() - began >= microseconds / 1e6


BAD_CR4 = "mov $0x80000000, %eax\nmov %eax, %cr4"


@pytest.mark.parametrize(
    ("code", "words", "why"),
    [
        ("ud2", "invalid opcode (#UD)", "`ud2` is the instruction that is invalid on purpose (#UD)"),
        ("xor %cx, %cx\ndiv %cx", "divide error (#DE)", "`div cx` divides by zero (#DE)"),
        (BAD_CR4, "general protection fault (#GP)", "`mov cr4, eax` "),
    ],
)
def test_unhandled_exception(assemble: Assemble, code: str, words: str, why: str) -> None:
    image = assemble(f"mov $0x1234, %bx\nmov $0x6000, %sp\njmp fault\n.org 0x40\nfault: {code}\n{STOP}")
    with boot(image) as machine:
        outcome = machine.run(LIMIT)
        assert outcome.ending == "crashed"
        assert f"the program met an exception: {words} at 0000:7C4" in machine.serial.text
    report = outcome.report
    assert report is not None
    assert report.explanation.startswith(why)
    assert report.explanation.endswith("leads to the BIOS")
    assert report.instruction is not None
    assert report.instruction.text in why
    assert (report.registers.rbx, report.registers.rsp, report.system.cs.selector) == (0x1234, 0x6000, 0)
    assert 0x7C40 <= report.registers.rip < 0x7C60
    assert [raised.name for raised in report.raised] == [words.partition("(")[2].strip(")")]
    assert not report.notes


def test_the_last_instructions_before_an_unhandled_exception(assemble: Assemble) -> None:
    with boot(assemble("mov $1, %bx\nmov $2, %bx\nxor %cx, %cx\ndiv %cx")) as machine:
        machine.keep_instructions = 3
        report = machine.run(LIMIT).report
    assert report is not None
    assert [line.text for line in report.last] == ["mov bx, 1", "mov bx, 2", "xor cx, cx"]
    assert report.seen == "directly"


def test_a_debugger_sees_the_moment_of_an_unhandled_exception(assemble: Assemble) -> None:
    with boot(assemble("mov $7, %bx\nud2")) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        for _ in range(2):  # it comes again if something is changed that might have helped
            control.resume()
            stop = control.wait(LIMIT)
            assert stop is not None
            assert (stop.why, control.pc(0), control.registers(0).rbx) == (Why.CRASHED, 0x7C0A, 7)
            assert stop.crash is not None
            assert stop.crash.vector == 6
            control.set_registers(0, replace(control.registers(0), rcx=1))
        control.detach()
        outcome = machine.wait()
    assert outcome.report is not None
    assert "`ud2`" in outcome.report.explanation


def test_a_program_that_writes_to_the_port_of_the_stubs_has_met_no_exception(assemble: Assemble) -> None:
    image = assemble(
        f"""
        movb    $6, 0x8000 + 36         # the vector in what looks like a stub's frame at 0x8000
        mov     $0x8000, %eax
        mov     $0xB104, %dx
        out     %eax, %dx
        movb    $1, 0x600
        {STOP}
        """
    )
    with boot(image) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.memory.read(0x600, 1) == b"\x01"
        assert "invalid opcode" in machine.serial.text


def test_an_exception_while_an_interrupt_is_served(assemble: Assemble) -> None:
    """#GP has the vector of IRQ 5, and it is the timer's interrupt that is in service."""
    image = assemble(
        f"""
        movw    $hook, 0x1C * 4
        movw    $0, 0x1C * 4 + 2
1:      hlt
        jmp     1b
hook:   {BAD_CR4}
        iret
        """
    )
    with boot(image) as machine:
        outcome = machine.run(LIMIT)
    assert outcome.ending == "crashed"
    assert outcome.report is not None
    assert outcome.report.raised[0].name == "#GP"


def test_a_spurious_interrupt_is_none(assemble: Assemble) -> None:
    with boot(assemble(f"int $0x0F\nmovb $1, 0x600\n{STOP}")) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.memory.read(0x600, 1) == b"\x01"


def test_bootstrap_again(assemble: Assemble) -> None:
    """INT 19h loads the first sector anew, whatever has become of it."""
    image = assemble(
        f"""
        incw    0x600
        cmpw    $3, 0x600
        je      stop
        movw    $0, stop
        int     $0x19
        {STOP}
        """
    )
    with boot(image) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.memory.read_int(0x600, 2) == 3


def test_time_goes_on_for_a_program_that_asks_for_it_with_interrupts_off(assemble: Assemble) -> None:
    image = assemble(
        f"""
        cli
        int     $0x1A
        mov     %dx, %si
again:  xor     %ah, %ah
        int     $0x1A
        cmp     %dx, %si
        je      again
        {STOP}
        """
    )
    with boot(image) as machine:
        assert machine.run(LIMIT).ending == "halted"


def test_keys_come_to_a_program_that_looks_for_them_with_interrupts_off(assemble: Assemble) -> None:
    image = assemble(
        f"""
        cli
        mov     $0x0E3E, %ax
        int     $0x10
again:  mov     $1, %ah
        int     $0x16
        jz      again
        xor     %ah, %ah
        int     $0x16
        mov     $0x0E, %ah
        int     $0x10
        {STOP}
        """
    )
    with boot(image) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for(">", LIMIT)
        machine.keyboard.type("a")
        assert machine.wait().ending == "halted"
        assert machine.serial.text == ">a"


def test_keys_wait_for_a_program_that_computes(assemble: Assemble) -> None:
    """More of them than the buffer holds come by interrupt before it takes the first one; some after a snapshot."""
    image = assemble(
        f"""
        sti
        mov     $0x0E3E, %ax
        int     $0x10
1:      cmpw    $0x1E, 0x41A            # until the buffer is full: the next place in it is the last
        jne     1b
        cmpw    $0x3C, 0x41C
        jne     1b
        mov     0x46C, %bx
2:      mov     0x46C, %ax              # 4 ticks
        sub     %bx, %ax
        cmp     $4, %ax
        jb      2b
        mov     $0x0E3A, %ax
        int     $0x10
again:  xor     %ah, %ah
        int     $0x16
        mov     $0x0E, %ah
        int     $0x10
        cmp     $'9', %al
        jne     again
        {STOP}
        """
    )
    text = "abcdefghijklmnopqrstuvwxyz0123456789"
    with boot(image) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for(">", LIMIT)
        machine.keyboard.type(text)
        machine.serial.wait_for(":a", LIMIT)
        snapshot = machine.snapshot()
        assert machine.wait().ending == "halted"
        assert machine.serial.text == f">:{text}"
        machine.restore(snapshot)
        assert machine.run(LIMIT).ending == "halted"
        assert machine.serial.text == f">:{text}"


def test_a_long_string_comes_in_many_exits(assemble: Assemble) -> None:
    """12,288 line feeds at the end of the largest screen: others get their turn in between."""
    image = assemble(
        f"""
        mov     $0x2000, %ax
        mov     %ax, %es
        xor     %di, %di
        mov     $0x1800, %cx
        mov     $0x0A0A, %ax
        cld
        rep stosw
        movb    $59, 0x484
        movw    $132, 0x44A
        mov     $0x1301, %ax
        mov     $0x0007, %bx
        mov     $0x3000, %cx
        mov     $0x3B00, %dx
        xor     %bp, %bp
        int     $0x10
        mov     %cx, 0x600
        mov     %sp, 0x602
        {STOP}
        """
    )
    with boot(image) as machine:
        outcome = machine.run(LIMIT)
        assert outcome.ending == "halted"
        assert outcome.exits > 0x3000 // 64
        assert machine.memory.read_int(0x600, 2) == 0x3000
        assert machine.memory.read_int(0x602, 2) == 0x7C00
        assert machine.serial.output == b"\r\n" + b"\n" * 0x3000


def test_program_with_a_keyboard_interrupt_of_its_own(assemble: Assemble) -> None:
    """It counts interrupts and passes them on to the BIOS."""
    image = assemble(
        f"""
        cli
        mov     9 * 4, %eax
        mov     %eax, old
        movw    $mine, 9 * 4
        movw    $0, 9 * 4 + 2
        sti
        mov     $'>', %al
        mov     $0x0E, %ah
        int     $0x10
        xor     %ah, %ah
        int     $0x16
        mov     %ax, 0x600
        {STOP}
mine:   incw    %cs:0x602
        ljmp    *%cs:old
old:    .long   0
        """
    )
    with boot(image) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for(">", LIMIT)
        machine.keyboard.press("f1")
        assert machine.wait().ending == "halted"
        assert machine.memory.read_int(0x600, 2) == 0x3B00
        assert machine.memory.read_int(0x602, 2) == 1


def test_boot_block_that_leaves_the_bios_behind(assemble: Assemble) -> None:
    """As those of teaching kernels do: A20 by the keyboard controller, protected mode, the disk by its registers."""
    image = assemble(
        """
        cli
        mov     %ax, %ds
1:      in      $0x64, %al
        test    $2, %al
        jnz     1b
        mov     $0xD1, %al
        out     %al, $0x64
1:      in      $0x64, %al
        test    $2, %al
        jnz     1b
        mov     $0xDF, %al
        out     %al, $0x60
        lgdtw   table
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmp    $8, $flat
        .code32
flat:   mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     $0x1F7, %edx
1:      in      %dx, %al
        and     $0xC0, %al
        cmp     $0x40, %al
        jne     1b
        mov     $0x1F2, %edx
        mov     $1, %al
        out     %al, %dx                # one sector
        inc     %edx
        out     %al, %dx                # number 1
        inc     %edx
        mov     $0, %al
        out     %al, %dx
        inc     %edx
        out     %al, %dx
        inc     %edx
        mov     $0xE0, %al
        out     %al, %dx
        inc     %edx
        mov     $0x20, %al
        out     %al, %dx
1:      in      %dx, %al
        and     $0xC0, %al
        cmp     $0x40, %al
        jne     1b
        mov     $0x100000, %edi
        mov     $128, %ecx
        mov     $0x1F0, %edx
        cld
        rep insl
        mov     $0x100000, %esi
        mov     $0x3F8, %edx
1:      lodsb
        test    %al, %al
        jz      2f
        out     %al, %dx
        jmp     1b
2:      cli
        hlt
        .code16
        .p2align 2
gdt:    .quad   0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
table:  .word   23
        .long   gdt
        """
    )
    with boot(image + b"the kernel".ljust(512, b"\0")) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.serial.text == "the kernel"


def test_loader_that_prints_on_screen_and_serial_port(assemble: Assemble) -> None:
    """The terminal shows each character once."""
    image = assemble(
        f"""
        xor     %dx, %dx
        mov     $0x00E3, %ax
        int     $0x14
        mov     $text, %si
1:      lodsb
        test    %al, %al
        jz      stop
        mov     $0x0E, %ah
        int     $0x10
        mov     $1, %ah
        xor     %dx, %dx
        int     $0x14
        jmp     1b
        {STOP}
text:   .asciz  "Loading"
        """
    )
    with boot(image) as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert machine.serial.text == "Loading"
        assert machine.screen.text == "Loading"


def test_data_are_where_programs_look_for_them(assemble: Assemble) -> None:
    """IBM PC/AT Technical Reference, section 5; the EBDA's segment as since the PS/2."""
    with boot(assemble(STOP), disks=[MemoryDisk(bytes(512))], serial_ports=2) as machine:
        assert machine.run(LIMIT).ending == "halted"
        word = partial(machine.memory.read_int, size=2)
        byte = partial(machine.memory.read_int, size=1)
        assert [word(0x400 + 2 * number) for number in range(4)] == [0x3F8, 0x2F8, 0, 0]
        assert word(0x410) >> 9 & 7 == 2, "serial ports"
        assert word(0x413) == 639
        assert (word(0x40E) << 4, byte(word(0x40E) << 4)) == (639 << 10, 1), "the EBDA, and its size"
        assert (byte(0x449), word(0x44A), byte(0x484)) == (3, 80, 24)
        assert word(0x463) == 0x3D4
        assert byte(0x475) == 2, "hard disks"
        assert word(0x41A) == word(0x41C), "no key waits"
        ticks = machine.memory.read_int(0x46C, 4)
        assert 0 <= ticks < 0x1800B0
        vectors = [(word(4 * number + 2), word(4 * number)) for number in range(256)]
        tables = (0x1D, 0x1F, 0x41, 0x43, 0x46)
        assert {vectors[number] for number in tables} == {(0, 0)}
        assert {segment for number, (segment, _) in enumerate(vectors) if number not in tables} == {0xF000}
        assert machine.memory.read(0xFFFF0, 1) == b"\xea", "a far jump, where the CPU starts"
        assert byte(0xFFFFE) == 0xFC, "a PC/AT"


def test_nothing_to_start(assemble: Assemble) -> None:
    with boot(assemble(STOP)) as machine:
        disk = machine.disks[0]
        assert disk is not None
        disk.write_at(510, b"\0\0")
        assert machine.run(LIMIT).ending == "halted"
        assert "drive 80h cannot be started from" in machine.serial.text


needs_grub = pytest.mark.skipif(
    shutil.which("grub-mkimage") is None or not Path("/usr/lib/grub/i386-pc/boot.img").exists(),
    reason="needs grub: grub-mkimage or its files for i386-pc are missing (Debian: grub-common grub-pc-bin)",
)
needs_syslinux = pytest.mark.skipif(
    any(shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None for name in ("syslinux", "mkfs.fat", "mcopy")),
    reason="needs syslinux, mkfs.fat and mcopy (Debian: syslinux dosfstools mtools)",
)


@needs_grub
@pytest.mark.needs("svm-or-vmx")  # unpacks itself for half a minute where KVM interprets ring 0
def test_grub(tmp_path: Path) -> None:
    """Its boot sector loads its core by extended reads; the core calls INT 10h, 13h, 15h, 1Ah from protected mode."""
    script, core = tmp_path / "grub.cfg", tmp_path / "core.img"
    script.write_text('echo "hello from GRUB"\nlsmmap\nls\nhalt\n')
    modules = ("biosdisk", "echo", "lsmmap", "ls", "halt")
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "/", "-c", script, *modules], check=True)
    image = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()[:512] + core.read_bytes()
    with boot(image.ljust(1 << 20, b"\0"), memory="64M") as machine:
        outcome = machine.run(LIMIT)
        text = machine.serial.text
        assert "hello from GRUB\n" in text
        assert "base_addr = 0x100000, length = 0x3f00000, available RAM\n" in text
        assert "(hd0)" in text
        assert (outcome.ending, outcome.code) == ("exited", 0)


@needs_syslinux
@pytest.mark.needs("svm-or-vmx")  # returns from interrupts in 32-bit ring 0
def test_syslinux(tmp_path: Path, assemble: Assemble) -> None:
    """From a floppy with a FAT file system; it starts another boot sector, which talks to the BIOS again."""
    sector, config, image = tmp_path / "hello.bin", tmp_path / "syslinux.cfg", tmp_path / "floppy.img"
    sector.write_bytes(assemble(f'mov $text, %si\ncall print\n{STOP}{PRINT}\ntext: .asciz "hello by SYSLINUX"'))
    config.write_text("SAY reading the configuration\nDEFAULT hello\nLABEL hello\n BOOT hello.bin\n")
    with open(image, "wb") as file:
        file.truncate(1440 * 1024)
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MTOOLSRC": "/dev/null", "TMPDIR": str(tmp_path)}
    for command in (
        ["mkfs.fat", image],
        ["mcopy", "-i", image, sector, config, "::"],
        ["syslinux", "--install", image],
    ):
        subprocess.run(command, check=True, env=path, stdout=subprocess.DEVNULL)
    with boot(image.read_bytes(), memory="64M") as machine:
        assert machine.run(LIMIT).ending == "halted"
        assert "reading the configuration\n" in machine.serial.text
        assert machine.serial.text.endswith("hello by SYSLINUX")
