"""The BIOS as the guest has it in memory: 64 KiB at F000:0000, nearly all of it empty.

A service is not written in x86 code. Its interrupt vector leads to a stub, which saves the caller's registers on the
caller's stack and writes the frame's address to `TRAP_PORT`: one exit, in which the host serves the call by changing
the frame in memory. No register of the CPU is touched from outside, so that the stub's OUT completes as KVM likes.

Where programs look for something at a fixed address, it is where the IBM PC/AT Technical Reference has it: E05B entry
of the power-on self-test, E6F5 configuration table, EFC7 floppy parameters, FF53 return from an interrupt that nobody
serves, FFF0 reset, FFF5 date, FFFE model.
"""

from __future__ import annotations

import struct
from functools import cache

SEGMENT = 0xF000
BASE = SEGMENT << 4
SIZE = 0x10000

TRAP_PORT = 0xB104
"""Takes 32 bits: the linear address of a frame (see `call`)."""

POST_CALL, RESET_CALL = 0x7E, 0x7F
"""What self-test and reset give as their vector; INT 7Eh and 7Fh themselves are not the BIOS's."""

ROM_START = 0xE000
"""Nothing of the BIOS is below; there are the SMBIOS tables."""
CODE = 0xE100
POST = 0xE05B
CONFIGURATION = 0xE6F5
FLOPPY_PARAMETERS = 0xEFC7
SILENT = 0xFF53
RESET = 0xFFF0

SERVICES = (0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x1A)
EXCEPTIONS = (0x00, 0x04, 0x06, 0x07, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E)
"""The exceptions that nobody ignores. From 0Ah on they share their vectors with interrupts of the first 8259."""

_SETUP = (
    (0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0xB8),
    (0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01), (0xA1, 0xFF),
    (0x43, 0x36), (0x40, 0x00), (0x40, 0x00),
)  # fmt: skip
"""What POST writes to which port. Both 8259s: edge-triggered, at vectors 08h and 70h; timer, keyboard, cascade and
floppy let through. Channel 0 of the 8254: mode 3, divisor 65536, so 18.2 interrupts a second.
"""

_LET_IN = "fb               ; sti"
"""What a service begins with: interrupts that wait are taken while it is served, whatever the caller's IF. The IBM
PC/AT's begin so, too, and programs count on it that poll for a key or a tick with interrupts off.
"""

_TRAP = """
        66 60               ; pushad
        1e 06               ; push ds; push es
ask:    be 01 00            ; mov si, 1                    ; the answer comes with interrupts on
again:  66 31 c0            ; xor eax, eax
        8c d0               ; mov ax, ss
        66 c1 e0 04         ; shl eax, 4
        66 0f b7 d4         ; movzx edx, sp
        66 01 d0            ; add eax, edx
        ba 04 b1            ; mov dx, TRAP_PORT
        66 ef               ; out dx, eax
        fa                  ; cli
        89 e5               ; mov bp, sp
        80 7e 25 01         ; cmp byte [bp + 0x25], SLEEP  ; the frame's wait byte
        72 @done            ; jb done
        77 @spin            ; ja spin
        4e                  ; dec si                       ; what came since that answer might be what it waits for
        74 @again           ; jz again
        fb f4               ; sti; hlt                     ; sti holds interrupts off until hlt has begun
        fa                  ; cli
        eb @again           ; jmp again
spin:   fb                  ; sti
        eb @ask             ; jmp ask
done:   07 1f               ; pop es; pop ds
        66 61               ; popad
        83 c4 02            ; add sp, 2                    ; the vector and the wait byte
        cf                  ; iret
"""
"""What all stubs end in. On the stack: FLAGS, CS, IP, and the vector as a word, whose upper byte asks for no wait."""

_TIMER = """
        1e 66 50            ; push ds; push eax
        b8 40 00 8e d8      ; mov ax, 0x40; mov ds, ax
        66 ff 06 6c 00      ; inc dword [ticks]
        66 81 3e 6c 00 b0 00 18 00  ; cmp dword [ticks], TICKS_A_DAY
        72 @tell            ; jb tell
        66 31 c0            ; xor eax, eax
        66 a3 6c 00         ; mov [ticks], eax
        fe 06 70 00         ; inc byte [midnight]
tell:   cd 1c               ; int 0x1c
        b0 20 e6 20         ; mov al, 0x20; out 0x20, al   ; end of interrupt
        66 58 1f            ; pop eax; pop ds
        cf                  ; iret
"""

_FIRST_8259 = """
        50                  ; push ax
        b0 0b e6 20         ; mov al, 0x0b; out 0x20, al   ; which interrupts are in service?
        e4 20               ; in al, 0x20
        a8 {bit:02x}        ; test al, bit
        74 @none            ; jz none
        b0 20 e6 20         ; mov al, 0x20; out 0x20, al   ; end of interrupt
        58                  ; pop ax
        cf                  ; iret
none:   58                  ; pop ax
"""
"""What is not in service has not come from the 8259: it is the CPU's exception, or of IRQ 7 a spurious one, which is
no interrupt at all (8259A data sheet, "Interrupt Sequence", the note on step 4)."""
_SECOND_8259 = """
        50                  ; push ax
        b0 20 e6 a0 e6 20   ; mov al, 0x20; out 0xa0, al; out 0x20, al
        58                  ; pop ax
        cf                  ; iret
"""
_CLOCK = """
        50                  ; push ax
        b0 0c e6 70 e4 71   ; register C: the clock asks no more until it has been read
        58                  ; pop ax
"""
_NEW_STACK = """
        fa                  ; cli
        31 c0 8e d0         ; xor ax, ax; mov ss, ax
        bc 00 7c            ; mov sp, 0x7c00
        9c 0e 50            ; pushf; push cs; push ax      ; where to go on is the host's to say
"""


def _first_8259(vector: int) -> str:
    return _FIRST_8259.format(bit=1 << vector - 8)


class _Assembler:
    """Code at rising offsets of the segment."""

    def __init__(self) -> None:
        self.image = bytearray(SIZE)
        self.at = CODE

    def put(self, code: bytes) -> int:
        """Emit `code`; return its offset."""
        start = self.at
        self.at += len(code)
        self.image[start : self.at] = code
        return start

    def code(self, text: str) -> int:
        """Emit hexadecimal bytes, each line with a comment behind a semicolon; `@label` is a distance of one byte."""
        labels: dict[str, int] = {}
        output = bytearray()
        distances: list[tuple[int, str]] = []
        for word in " ".join(line.partition(";")[0] for line in text.splitlines()).split():
            if word.endswith(":"):
                labels[word[:-1]] = len(output)
            elif word.startswith("@"):
                distances.append((len(output), word[1:]))
                output.append(0)
            else:
                output.append(int(word, 16))
        for at, label in distances:
            output[at] = labels[label] - (at + 1) & 0xFF
        return self.put(bytes(output))

    def jump(self, target: int) -> None:
        """Emit a near JMP."""
        self.put(struct.pack("<BH", 0xE9, target - (self.at + 3) & 0xFFFF))


class Rom:
    """`image` goes to `BASE`; `vectors` are the 256 far pointers (segment, offset) of the interrupt table."""

    def __init__(self) -> None:
        self._assembler = assembler = _Assembler()
        self.halt = assembler.code("fa f4 eb fc")  # cli; hlt; jmp back to cli
        assembler.image[SILENT] = 0xCF  # iret
        self.vectors = [(SEGMENT, SILENT)] * 256
        self._trap = assembler.code(_TRAP)
        for vector in SERVICES:
            self._enter(vector, self._stub(vector, _LET_IN))
        for vector in EXCEPTIONS:
            self._enter(vector, self._stub(vector, _first_8259(vector) if vector >= 8 else ""))
        self.vectors[0x40], self.vectors[0x42] = self.vectors[0x13], self.vectors[0x10]
        self._hardware_interrupts()
        self._bootstrap()
        self._tables()
        self.image = bytes(assembler.image)

    def _enter(self, vector: int, offset: int) -> None:
        self.vectors[vector] = (SEGMENT, offset)

    def _stub(self, vector: int, before: str = "") -> int:
        start = self._assembler.code(f"{before}\n6a {vector:02x}")  # push vector
        self._assembler.jump(self._trap)
        return start

    def _hardware_interrupts(self) -> None:
        assembler = self._assembler
        self._enter(0x08, assembler.code(_TIMER))
        self._enter(0x09, self._stub(0x09, "50 b0 20 e6 20 58"))  # push ax; end of interrupt; pop ax
        self._enter(0x0F, assembler.code(_first_8259(0x0F) + "cf"))
        end = assembler.code(_SECOND_8259)
        for vector in range(0x71, 0x78):
            self._enter(vector, end)
        self._enter(0x70, assembler.code(_CLOCK))
        assembler.jump(end)

    def _bootstrap(self) -> None:
        assembler = self._assembler
        self._enter(0x19, self._stub(0x19, _NEW_STACK))
        reset = self._stub(RESET_CALL, _NEW_STACK)
        chips = "".join(f"b0 {value:02x} e6 {port:02x}\n" for port, value in _SETUP)  # mov al, value; out port, al
        post = self._stub(POST_CALL, _NEW_STACK + chips)
        assembler.at = POST
        assembler.jump(post)
        assembler.at = RESET
        assembler.put(struct.pack("<BHH", 0xEA, reset, SEGMENT))

    def _tables(self) -> None:
        assembler = self._assembler
        assembler.at = CONFIGURATION
        # Size; AT, submodel, revision; features: second 8259, clock, extended BIOS data area.
        assembler.code("08 00 fc 01 00 64 00 00 00 00")
        assembler.at = FLOPPY_PARAMETERS
        assembler.code("df 02 25 02 12 1b ff 6c f6 0f 08")  # 1.44 MB: 18 sectors of 512 bytes
        assembler.at = RESET + 5
        assembler.put(b"01/01/25\x00\xfc")
        self._enter(0x1E, FLOPPY_PARAMETERS)
        for vector in (0x1D, 0x1F, 0x41, 0x43, 0x46):  # pointers to tables that there are not
            self.vectors[vector] = (0, 0)


@cache
def rom() -> Rom:
    """The ROM, assembled once a process."""
    return Rom()
