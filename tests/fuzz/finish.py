"""Bytes of a guest that are to be finished: nothing but what may runs on this CPU, and it does what another judge says.

The other judge is Unicorn, where it is installed. What it leaves out or knows to be inexact is only executed here.
"""

from __future__ import annotations

import resource
import struct
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any

from pykvm.kvm._kvm import ffi, lib

from pykvm.finish.allowed import FEATURE_OF, SIZED
from pykvm.finish.form import Form, form_of

from .target import Input, Random, Target

CODE, IN, OUT, DATA, END = 0x1000, 0x2000, 0x2400, 0x8000, 0x100000
STATE = 0x200
"""Bytes of an FXSAVE area."""
OPERAND = 0x400
"""Where the operand is in the two pages that it has: far from both ends."""
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
STATUS = 0x8D5


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FLAGS = {
    "lzcnt": 0x41, "tzcnt": 0x41, "andn": 0x8C1, "bextr": 0x40, "blsi": 0x8C1, "blsmsk": 0x8C1, "blsr": 0x8C1,
    "bzhi": 0x8C1, **dict.fromkeys(("fcomi", "fcompi", "fucomi", "fucompi"), 0x45),
}  # fmt: skip
"""Status flags that the manuals define, where it is not all."""
INEXACT = _words(
    "rcpps rcpss rsqrtps rsqrtss dpps dppd rdrand rdseed f2xm1 fcos fpatan fprem fprem1 fptan fsin fsincos fyl2x fyl2xp1 "
    "fxtract fscale fbld fbstp fldenv fnstenv fnsave frstor fxsave fxsave64 fxrstor fxrstor64 ldmxcsr stmxcsr fnclex fninit "
    "fldcw fnstsw fnstcw wait fxam fincstp fdecstp ffree emms fld fisttp cmpxchg8b cmpxchg16b movntq"
)
"""Unicorn's arithmetic is another, or it keeps its status otherwise."""
UNKNOWN = frozenset(
    name for name, feature in FEATURE_OF.items() if feature in ("SHA", "AES", "PCLMULQDQ", "VAES", "VPCLMULQDQ", "ADX")
)


class Finish(Target):
    """Random bytes that look like instructions on the list, and bytes that only look a little so."""

    name = "finish"
    unit = "instructions"
    share = 3.0

    def draw(self, source: Random) -> list[Input]:
        return [(source.choice((16, 32, 64, 64)), _bytes(source), source.getrandbits(64)) for _ in range(400)]

    def run(self, inputs: Iterator[Input]) -> None:
        for bits, code, seed in inputs:
            form = form_of(code, bits)
            if form is not None:
                self.both(form, code, bits, seed)

    @cached_property
    def native(self) -> Any:
        made = lib.pykvm_native_new(0)
        assert made
        return ffi.gc(made, lib.pykvm_native_free)

    @cached_property
    def judges(self) -> dict[int, Any]:
        try:
            import unicorn
        except ImportError:
            return {}
        # It reserves 1 GiB of addresses for each: these are not of the room that what is looked at may fill.
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (soft + (4 << 30), hard))
        return {bits: _Judge(unicorn, bits) for bits in (16, 32, 64)}

    def both(self, form: Form, code: bytes, bits: int, seed: int) -> None:
        """Execute it here and there, and compare."""
        import random

        source = random.Random(seed)
        width = (1 << bits) - 1 if bits != 16 else 0xFFFF
        registers = [DATA + source.randrange(0x400) * 16 & width for _ in range(16)]
        flags = source.getrandbits(12) & STATUS | 2
        state = _state(source, bits)
        address = form.address
        at, content = 0, b""
        if address is not None:
            at = address.disp
            at += registers[NAMES.index(address.base)] & address.base_mask if address.base in NAMES else 0
            index = address.index_name
            at += (registers[NAMES.index(index)] & address.index_mask) * address.scale if index else 0
            at += CODE + _fxrstor_size(bits) if address.base == "rip" else 0
            at &= address.mask
            content = source.randbytes(address.size)
            if form.kind == "x87" and address.size == 10:
                content = content[:7] + b"\x80\x00\x40"
        vector, now, now_flags, now_state, stored = self.here(form, registers, flags, state, at, content)
        assert vector in (-1, 6, 13, 16, 17, 19), (form, vector)
        judged = form.name not in INEXACT | UNKNOWN and form.kind != "avx" and vector < 0
        if now_state[2] & 0x41 or (form.name in SIZED and (bits == 16 or 0x66 in code[: form.length])):
            judged = False  # the x87's stack was too full or too empty; Unicorn's words are wrong for MOVBE and CRC32
        if form.kind == "mmx" and form.name.startswith("ph"):
            judged = False  # Unicorn takes a changed register for the second operand
        if form.kind == "mmx" and form.code[0] & 0xF5 > 0x40 and form.code[0] & 0xF0 == 0x40:
            judged = False  # Unicorn listens to REX.R and REX.B here, which the CPU ignores
        if address is not None and not DATA <= at < END - 0x1000:
            judged = False
        if not judged or not self.judges:
            return
        judge = self.judges[bits]
        there = judge.execute(code[: form.length], registers, flags, state, at, content)
        if there is None:
            return
        other, other_flags, other_state, other_stored = there
        what = (form.name, code.hex(), bits, form.code.hex())
        mask = FLAGS.get(form.name, STATUS)
        assert now_flags & mask == other_flags & mask, (what, "flags", hex(now_flags), hex(other_flags))
        assert [value & width for value in now] == [value & width for value in other], (what, now, other)
        assert stored == other_stored, (what, "memory", stored.hex(), other_stored.hex())
        count = 16 if bits == 64 else 8
        assert now_state[160 : 160 + 16 * count] == other_state[160 : 160 + 16 * count], (what, "xmm")
        for number in range(8):
            # What MMX does to the exponents Unicorn leaves out.
            size = 10 if form.kind == "x87" else 8
            mine, its = (_st(each, number, size) for each in (now_state, other_state))
            assert mine == its, (what, f"st{number}", mine.hex(), its.hex())
        if form.kind == "x87":
            assert (
                struct.unpack_from("<H", now_state, 2)[0] & 0x3800
                == struct.unpack_from("<H", other_state, 2)[0] & 0x3800
            )

    def here(
        self, form: Form, registers: list[int], flags: int, state: bytes, at: int, content: bytes
    ) -> tuple[int, list[int], int, bytes, bytes]:
        """On this CPU."""
        native = self.native
        area = ffi.buffer(native.state, 4096)
        area[:] = state.ljust(4096, b"\0")
        area[512] = b"\x03"
        pointer = native.operand + OPERAND + at % 64
        place = ffi.buffer(pointer, 1024)
        place[:] = b"\xcc" * 1024
        place[: len(content)] = content
        before = ffi.buffer(native.operand, OPERAND + at % 64)[:]
        for number, value in enumerate(registers):
            native.registers[number] = value
        if form.stack >= 0:
            native.registers[form.stack] = registers[4]
        if form.base >= 0:
            native.registers[form.base] = int(ffi.cast("uintptr_t", pointer))
        native.flags, native.mask = flags, 7 if form.kind == "avx" else 3
        vector = lib.pykvm_native_execute(native, 0, form.code.ljust(16, b"\0"), len(form.code))
        assert vector != -2
        now = list(native.registers)
        now[4] = registers[4] if form.stack < 0 else now[form.stack]
        for number in (form.stack, form.base):
            if number >= 0:
                now[number] = registers[number]
        # Whatever it was, it has kept to its operand.
        assert place[len(content) :] == b"\xcc" * (1024 - len(content)), (form, "wrote behind its operand")
        assert ffi.buffer(native.operand, OPERAND + at % 64)[:] == before, (form, "wrote before its operand")
        return vector, now, native.flags, area[:512], place[: len(content)]


def _st(state: bytes, number: int, size: int) -> bytes:
    """So much of one of the x87's registers, by its physical number: TOP is not what Unicorn is right about."""
    at = 32 + 16 * ((number - (state[3] >> 3 & 7)) % 8)
    return state[at : at + size]


class _Judge:
    def __init__(self, unicorn: ModuleType, bits: int) -> None:
        from unicorn import x86_const

        mode = {16: unicorn.UC_MODE_16, 32: unicorn.UC_MODE_32, 64: unicorn.UC_MODE_64}[bits]
        self.bits, self.error = bits, unicorn.UcError
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self.cpu.ctl_set_cpu_model(x86_const.UC_CPU_X86_MAX) if hasattr(x86_const, "UC_CPU_X86_MAX") else None
        self.cpu.mem_map(0, END)
        names = NAMES if bits == 64 else NAMES[:8]
        self.registers = [
            getattr(x86_const, f"UC_X86_REG_{(name if bits == 64 else 'e' + name[1:]).upper()}") for name in names
        ]
        self.flags = x86_const.UC_X86_REG_EFLAGS
        self.cpu.reg_write(x86_const.UC_X86_REG_CR4, self.cpu.reg_read(x86_const.UC_X86_REG_CR4) | 0x600)

    def execute(
        self, code: bytes, registers: list[int], flags: int, state: bytes, at: int, content: bytes
    ) -> tuple[list[int], int, bytes, bytes] | None:
        """None if it does not take it."""
        cpu = self.cpu
        load, save = _fx(self.bits, 1, IN), _fx(self.bits, 0, OUT)
        cpu.mem_write(CODE, load + code + save)
        cpu.mem_write(IN, state)
        if content:
            cpu.mem_write(at, content)
        for number, value in zip(self.registers, registers, strict=False):
            cpu.reg_write(number, value)
        cpu.reg_write(self.flags, flags)
        try:
            cpu.emu_start(CODE, CODE + len(load) + len(code) + len(save), count=3)
        except self.error:
            return None
        now = [cpu.reg_read(number) for number in self.registers]
        stored = bytes(cpu.mem_read(at, len(content))) if content else b""
        return now + registers[len(now) :], cpu.reg_read(self.flags), bytes(cpu.mem_read(OUT, STATE)), stored


def _fxrstor_size(bits: int) -> int:
    return len(_fx(bits, 1, IN))


def _fx(bits: int, what: int, at: int) -> bytes:
    """FXSAVE (0) or FXRSTOR (1) at an absolute address."""
    if bits == 64:
        return bytes([0x48, 0x0F, 0xAE, what << 3 | 4, 0x25]) + struct.pack("<I", at)
    if bits == 32:
        return bytes([0x0F, 0xAE, what << 3 | 5]) + struct.pack("<I", at)
    return bytes([0x0F, 0xAE, what << 3 | 6]) + struct.pack("<H", at)


def _state(source: Random, bits: int) -> bytes:
    """An FXSAVE area whose numbers are plain ones: four on the x87's stack, all exceptions masked."""
    area = bytearray(STATE)
    struct.pack_into("<HHB", area, 0, 0x37F, 4 << 11, 0xF0)
    struct.pack_into("<II", area, 24, 0x1F80, 0xFFFF)
    for number in range(8):
        mantissa = 1 << 63 | source.getrandbits(63)
        struct.pack_into(
            "<QH", area, 32 + 16 * number, mantissa, source.randrange(0x3FE0, 0x4020) | source.getrandbits(1) << 15
        )
    for number in range(16 if bits == 64 else 8):
        kind = source.randrange(3)
        if kind == 0:
            area[160 + 16 * number : 176 + 16 * number] = source.randbytes(16)
        elif kind == 1:
            struct.pack_into("<4f", area, 160 + 16 * number, *(source.uniform(-1000, 1000) for _ in range(4)))
        else:
            struct.pack_into("<2d", area, 160 + 16 * number, *(source.uniform(-1e6, 1e6) for _ in range(2)))
    return bytes(area)


_PREFIXES = (
    b"",
    b"",
    b"\x66",
    b"\xf2",
    b"\xf3",
    b"\x66\xf2",
    b"\x67",
    b"\xf0",
    b"\x2e",
    b"\x64",
    b"\x66\x66",
    b"\xf3\x66",
)


def _bytes(source: Random) -> bytes:
    kind = source.randrange(12)
    if kind == 0:
        return source.randbytes(15)
    prefix = source.choice(_PREFIXES)
    rex = bytes([0x40 | source.getrandbits(4)]) if source.randrange(3) == 0 else b""
    opcode = bytes([source.getrandbits(8)])
    if kind < 6:
        head = prefix + rex + b"\x0f" + opcode
    elif kind < 8:
        head = prefix + rex + source.choice((b"\x0f\x38", b"\x0f\x3a")) + opcode
    elif kind < 10:
        head = prefix + rex + bytes([source.randrange(0xD8, 0xE0)])
    else:
        vex = source.choice(
            (
                bytes([0xC5, source.getrandbits(8)]),
                bytes([0xC4, source.getrandbits(8) & 0xE0 | source.randrange(1, 4), source.getrandbits(8)]),
            )
        )
        head = source.choice((b"", b"", prefix)) + vex + opcode
    modrm = source.getrandbits(8)
    rest = source.choice(
        (bytes(12), source.randbytes(12), bytes([source.getrandbits(8), source.getrandbits(6)]) + bytes(10))
    )
    return (head + bytes([modrm]) + rest)[:15]


def targets() -> list[Target]:
    return [Finish()]
