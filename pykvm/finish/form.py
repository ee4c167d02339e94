"""An instruction taken apart into the bytes that the host's CPU is to execute in its place, or refused.

Sources: Intel SDM volume 2A, 2.1 to 2.3 (prefixes, opcode maps, ModRM, SIB, REX, VEX) and appendix A; volume 1, 8.1.10
(the x87's environment); AMD APM volume 3, 1.

The host executes in 64-bit mode, whatever the guest's code is. The operand in memory becomes `[base]`, where base is a
register that the instruction does not use otherwise; another one stands for RSP, which stays the host's. All else stays
as it is. What comes out is taken apart a second time: it must be the same instruction, with the same operands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from capstone import x86_const as x86

from ..x86.instruction import decoder
from .allowed import FEATURE_OF, GENERAL, REPLACED, SIZED

_64 = (1 << 64) - 1
_LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_GENERAL_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
RSP = 4
_SPARE = (3, 6, 7, 1, 2, 0)
"""Registers that can be a base without SIB byte, displacement or REX: RBX, RSI, RDI, RCX, RDX, RAX."""

_STORES_0F = frozenset(b"\x11\x13\x17\x29\x2b\x7e\x7f\xc3\xd6\xe7")
_STORES_0F3A = frozenset(b"\x14\x15\x16\x17\x19\x1d\x39")
_WITH_IMMEDIATE = frozenset(b"\x70\x71\x72\x73\xc2\xc4\xc5\xc6")
"""Opcodes of the map 0F whose operand in memory is written, or that end in a byte of immediate data."""

_X87_SIZES = {
    0xD8: (4,) * 8,
    0xD9: (4, 0, 4, 4, 28, 2, 28, 2),
    0xDA: (4,) * 8,
    0xDB: (4, 4, 4, 4, 0, 10, 0, 10),
    0xDC: (8,) * 8,
    0xDD: (8, 8, 8, 8, 108, 0, 108, 2),
    0xDE: (2,) * 8,
    0xDF: (2, 2, 2, 2, 10, 8, 10, 8),
}
"""Bytes of the x87's operand in memory, by the opcode and ModRM's middle field."""
_X87_STORES = {0xD9: (2, 3, 6, 7), 0xDB: (1, 2, 3, 7), 0xDD: (1, 2, 3, 6, 7), 0xDF: (1, 2, 3, 6, 7)}
_FXSAVE_SIZE = 512


class Address(NamedTuple):
    """An operand in memory: `size` bytes at base + index * scale + disp, of which the bits of `mask` count."""

    segment: str
    base: str
    base_mask: int
    index_name: str
    index_mask: int
    scale: int
    disp: int
    mask: int
    size: int
    writes: bool
    replaces: bool
    """Whether it is read and written at once, as locks are."""


class Form(NamedTuple):
    """What is to be executed, and what it needs."""

    name: str
    """The mnemonic."""
    features: tuple[str, ...]
    """All that CPUID must show."""
    kind: str
    """ "x87", "mmx", "sse", "avx", "fxsr", "general", "vex" (general registers by VEX): whose checks come first."""
    code: bytes
    """For the host."""
    length: int
    """Bytes of it in the guest."""
    address: Address | None
    base: int
    """The register that is to point to the operand; -1 without one."""
    stack: int
    """The register that stands for RSP; -1 for none."""
    opcode: int
    """The x87's opcode register; 0 for others."""


class _Bytes(NamedTuple):
    """The parts of an instruction."""

    prefixes: bytes
    rex: int
    vex: bytes
    map: int
    """0 for one-byte opcodes, else 0x0F, 0x0F38 or 0x0F3A."""
    opcode: int
    modrm: int | None
    tail: bytes
    """Immediate data."""


def form_of(code: bytes, bits: int) -> Form | None:
    """How the first instruction in `code`, of `bits` (16, 32 or 64), is executed; None if it is not."""
    insn = decoder(bits)(code, 0)
    if insn is None:
        return None
    parts = _parts(bytes(insn.bytes), bits)
    if parts is None:
        return None
    name = _name(insn.mnemonic.split()[-1], parts)
    memory = [operand.mem for operand in insn.operands if operand.type == x86.X86_OP_MEM]
    has_memory = parts.modrm is not None and parts.modrm < 0xC0
    if name not in FEATURE_OF or len(memory) > 1 or bool(memory) != has_memory:
        return None
    if memory and memory[0].index and insn.reg_name(memory[0].index)[0] in "xyz":
        return None
    if 0xF0 in parts.prefixes and name not in REPLACED:
        return None
    if any(_ignores(insn, bits, parts, name, prefix) for prefix in b"\x66\xf2\xf3"):
        return None
    return _Builder(insn, bits, parts, name).build()


def _ignores(insn: Any, bits: int, parts: _Bytes, name: str, prefix: int) -> bool:
    """Whether the disassembler sees no meaning in a prefix, which for the host's CPU may have one (SENDUIPI)."""
    if prefix not in parts.prefixes or (prefix == 0x66 and name in SIZED):
        return False
    kept = bytes(each for each in parts.prefixes if each != prefix)
    without = decoder(bits)(kept + bytes(insn.bytes)[len(parts.prefixes) :], 0)
    return without is not None and (without.mnemonic, without.op_str) == (insn.mnemonic, insn.op_str)


def _parts(code: bytes, bits: int) -> _Bytes | None:
    at = 0
    while at < len(code) and code[at] in _LEGACY:
        at += 1
    prefixes, rex, vex = code[:at], 0, b""
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    rest = code[at:] + bytes(4)
    if rest[0] in (0xC4, 0xC5) and (bits == 64 or rest[1] >= 0xC0):
        size = 3 if rest[0] == 0xC4 else 2
        number = rest[1] & 0x1F if size == 3 else 1
        if rex or number not in (1, 2, 3) or any(prefix in b"\x66\xf0\xf2\xf3" for prefix in prefixes):
            return None
        vex, opcode_map, at = rest[:size], (0, 0x0F, 0x0F38, 0x0F3A)[number], at + size
    elif rest[0] == 0x0F:
        three = rest[1] in (0x38, 0x3A)
        opcode_map, at = (0x0F00 | rest[1], at + 2) if three else (0x0F, at + 1)
    elif 0xD8 <= rest[0] <= 0xDF or rest[0] == 0x9B:
        opcode_map = 0
    else:
        return None
    if at >= len(code):
        return None
    opcode = code[at]
    at += 1
    if opcode_map == 0x0F and opcode == 0x77:
        return _Bytes(prefixes, rex, vex, opcode_map, opcode, None, b"") if at == len(code) else None
    if opcode_map == 0 and opcode == 0x9B:
        return _Bytes(prefixes, rex, vex, opcode_map, opcode, None, b"") if at == len(code) else None
    if at >= len(code):
        return None
    modrm = code[at]
    immediate = opcode_map == 0x0F3A or (opcode_map == 0x0F and opcode in _WITH_IMMEDIATE)
    end = _address_end(code, at, 16 if _address_size(prefixes, bits) == 2 else 32)
    if end + immediate != len(code):
        return None
    return _Bytes(prefixes, rex, vex, opcode_map, opcode, modrm, code[end:])


def _address_size(prefixes: bytes, bits: int) -> int:
    if 0x67 in prefixes:
        return {16: 4, 32: 2, 64: 4}[bits]
    return bits // 8


def _address_end(code: bytes, at: int, bits: int) -> int:
    """Where ModRM, SIB and displacement end."""
    modrm = code[at]
    mode, register = modrm >> 6, modrm & 7
    if mode == 3:
        return at + 1
    if bits == 16:
        return at + 1 + (2 if mode == 2 or (mode == 0 and register == 6) else mode)
    sib = register == 4
    base = code[at + 1] & 7 if sib and at + 1 < len(code) else register
    displacement = 4 if mode == 2 or (mode == 0 and base == 5) else mode
    return at + 1 + sib + displacement


def _name(mnemonic: str, parts: _Bytes) -> str:
    """The mnemonic without what assemblers make of an immediate byte."""
    prefix = (0, 0x66, 0xF3, 0xF2)[parts.vex[-1] & 3] if parts.vex else _mandatory(parts.prefixes)
    letter = "v" if parts.vex else ""
    if parts.map == 0x0F and parts.opcode == 0xC2:
        return f"{letter}cmp{ {0: 'ps', 0x66: 'pd', 0xF3: 'ss', 0xF2: 'sd'}[prefix] }".replace(" ", "")
    if parts.map == 0x0F3A and parts.opcode == 0x44:
        return f"{letter}pclmulqdq"
    return mnemonic


def _mandatory(prefixes: bytes) -> int:
    repeats = [prefix for prefix in prefixes if prefix in b"\xf2\xf3"]
    return repeats[-1] if repeats else 0x66 if 0x66 in prefixes else 0


class _Builder:
    def __init__(self, insn: Any, bits: int, parts: _Bytes, name: str) -> None:
        self.insn, self.bits, self.parts, self.name = insn, bits, parts, name
        self.names = [insn.reg_name(operand.reg) for operand in insn.operands if operand.type == x86.X86_OP_REG]

    def build(self) -> Form | None:
        parts, name = self.parts, self.name
        read, written = self.insn.regs_access()
        names = {self.insn.reg_name(register) for register in (*read, *written)} - self.memory_names()
        used = {_number(register) for register in (*names, *self.names)}
        free = [number for number in _SPARE if number not in used]
        base = free.pop(0) if parts.modrm is not None and parts.modrm < 0xC0 else -1
        uses_stack = RSP in {_number(register) for register in self.names}
        stack = free.pop(0) if uses_stack else -1
        # Which fields name RSP is tried out: each way but the right one makes another instruction.
        choices = range(1, 8) if uses_stack else range(1)
        codes = (self.encode(base, stack, fields) for fields in choices)
        code = next((code for code in codes if code is not None and self.is_same(code, base, stack)), None)
        if code is None:
            return None
        opcode = (parts.opcode & 7) << 8 | (parts.modrm or 0) if 0xD8 <= parts.opcode <= 0xDF and not parts.map else 0
        address = self.address(code) if base >= 0 else None
        if address is not None and not address.size:
            return None
        return Form(name, self.features(), self.kind(), code, self.insn.size, address, base, stack, opcode)

    def memory_names(self) -> set[str]:
        names: set[str] = set()
        for operand in self.insn.operands:
            if operand.type == x86.X86_OP_MEM:
                names |= {self.insn.reg_name(number) for number in (operand.mem.base, operand.mem.index) if number}
        return names

    # The bytes for the host

    def encode(self, base: int, stack: int, fields: int) -> bytes | None:
        """With `stack` in those `fields` that name RSP: 1 is ModRM's middle one, 2 its low one, 4 VEX.vvvv."""
        parts = self.parts
        last = b""
        if parts.modrm is not None:
            middle, low = parts.modrm >> 3 & 7, parts.modrm & 7
            middle = stack if fields & 1 else middle
            if base >= 0:
                last = bytes([middle << 3 | base])
            else:
                last = bytes([0xC0 | middle << 3 | (stack if fields & 2 else low)])
        if parts.vex:
            return self.vex_prefix(base, stack, fields) + bytes([parts.opcode]) + last + parts.tail
        prefixes = self.prefixes()
        if prefixes is None:
            return None
        rex = parts.rex & ~3 if base >= 0 else parts.rex
        opcode = bytes([parts.opcode])
        if parts.map:
            opcode = parts.map.to_bytes(1 if parts.map == 0x0F else 2, "big") + opcode
        return prefixes + (bytes([rex]) if parts.rex else b"") + opcode + last + parts.tail

    def prefixes(self) -> bytes | None:
        """Those that still mean something."""
        given = self.parts.prefixes
        size = 0x66 in given
        repeat = bytes([prefix for prefix in given if prefix in b"\xf2\xf3"][-1:])
        if self.name in SIZED:
            if size and self.parts.rex & 8:
                return None  # REX.W wins, and disassemblers do not know it
            size = size != (self.bits == 16)
        elif size and repeat:
            return None
        lock = b"\xf0" if 0xF0 in given else b""
        return lock + (b"\x66" if size else b"") + repeat

    def vex_prefix(self, base: int, stack: int, fields: int) -> bytes:
        vex = bytearray(self.parts.vex)
        if self.bits != 64:  # bits that only 64-bit mode looks at
            vex[-1] |= 0x40
            if len(vex) == 3 and any(_number(name) >= 0 for name in self.names):
                vex[2] &= 0x7F
        if base >= 0 and len(vex) == 3:
            vex[1] |= 0x60
        if fields & 4:
            vex[-1] = vex[-1] & ~0x78 | (~stack & 15) << 3
        return bytes(vex)

    def is_same(self, code: bytes, base: int, stack: int) -> bool:
        """Whether `code` is the same instruction, with [base] for its operand in memory."""
        again = decoder(64)(code, 0)
        if again is None or again.size != len(code) or again.mnemonic != self.insn.mnemonic:
            return False
        if len(again.operands) != len(self.insn.operands):
            return False
        for one, other in zip(self.insn.operands, again.operands, strict=True):
            if one.type != other.type or one.size != other.size:
                return False
            if one.type == x86.X86_OP_REG:
                name, now = self.insn.reg_name(one.reg), again.reg_name(other.reg)
                if _number(name) == RSP:
                    if _number(now) != stack or one.size != other.size:
                        return False
                elif name != now:
                    return False
            elif one.type == x86.X86_OP_IMM and one.imm != other.imm:
                return False
            elif one.type == x86.X86_OP_MEM:
                memory = other.mem
                if memory.segment or memory.index or memory.disp or _number(again.reg_name(memory.base)) != base:
                    return False
        return True

    # What it needs

    def kind(self) -> str:
        name, parts = self.name, self.parts
        if name in GENERAL:
            return "vex" if parts.vex else "general"
        if parts.vex:
            return "avx"
        if not parts.map:
            return "x87"
        if name.startswith("fx"):
            return "fxsr"
        if name in ("ldmxcsr", "stmxcsr") or any(register.startswith("xmm") for register in self.names):
            return "sse"
        return "mmx"

    def features(self) -> tuple[str, ...]:
        feature, name = FEATURE_OF[self.name], self.name
        wide = any(register.startswith("ymm") for register in self.names)
        if feature == "MMX" and any(register.startswith("xmm") for register in self.names):
            return ("SSE2",)
        if feature in ("CMOV", "SSE3") and not self.parts.map and not self.parts.vex:
            return ("FPU", feature)
        if feature in ("VAES", "VPCLMULQDQ"):
            return ("AVX", feature if wide else "AES" if feature == "VAES" else "PCLMULQDQ")
        if feature == "AVX":
            from_register = name.startswith("vbroadcast") and all(
                operand.type != x86.X86_OP_MEM for operand in self.insn.operands
            )
            integers = name.startswith("vp") and not name.startswith(("vptest", "vperm"))
            if from_register or (wide and (integers or name in ("vmpsadbw", "vmovntdqa"))):
                return ("AVX", "AVX2")
        return ("AVX", feature) if feature in ("AVX2", "FMA", "F16C") else (feature,)

    def address(self, code: bytes) -> Address:
        insn, parts = self.insn, self.parts
        operand = next(operand for operand in insn.operands if operand.type == x86.X86_OP_MEM)
        memory, middle = operand.mem, (parts.modrm or 0) >> 3 & 7
        size, writes, replaces = operand.size, False, self.name in REPLACED
        if not parts.map and not parts.vex:
            size = _X87_SIZES[parts.opcode][middle]
            if size > 10 and code[0] == 0x66:
                size -= 14
            writes = middle in _X87_STORES.get(parts.opcode, ())
        elif parts.map == 0x0F and parts.opcode == 0xAE:
            writes = middle in (0, 3)
            size = _FXSAVE_SIZE if middle < 2 else 4
        elif parts.map == 0x0F:
            pp = parts.vex[-1] & 3 if parts.vex else 2 if _mandatory(parts.prefixes) == 0xF3 else 0
            writes = parts.opcode in _STORES_0F and not (parts.opcode == 0x7E and pp == 2)
        elif parts.map == 0x0F38:
            writes = self.name == "movbe" and parts.opcode == 0xF1
        else:
            writes = parts.opcode in _STORES_0F3A
        if replaces:
            size, writes = (16 if self.name == "cmpxchg16b" else 8), True
        base = insn.reg_name(memory.base) if memory.base else ""
        index = insn.reg_name(memory.index) if memory.index else ""
        index = "" if index in ("riz", "eiz") else index
        if memory.segment:
            segment = insn.reg_name(memory.segment)
        else:
            segment = "ss" if base in ("rsp", "esp", "sp", "rbp", "ebp", "bp") else "ds"
        disp = memory.disp
        if base in ("rip", "eip"):
            disp += insn.size
        return Address(
            segment, _whole(base), _mask(base), _whole(index), _mask(index), memory.scale, disp,
            (1 << 8 * insn.addr_size) - 1, size, writes, replaces,
        )  # fmt: skip


def _number(name: str) -> int:
    """The number of the general register that has this name, in any width; -1 for others."""
    if name[:1] == "r" and name[1:2].isdigit():
        return int(name[1:].rstrip("dwb"))
    if name in ("ah", "ch", "dh", "bh"):
        return "acdb".index(name[0])
    whole = _whole(name)
    return _GENERAL_NAMES.index(whole) if whole in _GENERAL_NAMES else -1


def _whole(name: str) -> str:
    """The 64-bit register that `name` is a part of, under its name in `Registers`; "" if it is none."""
    if not name or name[:2] in ("xm", "ym", "zm", "mm", "st"):
        return ""
    if name[0] == "r" and name[1:2].isdigit():
        return name.rstrip("dwb")
    stem = name[1:] if name[0] in "re" and len(name) == 3 else name
    if len(stem) == 2 and stem[1] in "lh" and stem[0] in "abcd":
        return f"r{stem[0]}x"
    if len(stem) == 3 and stem[2] == "l":
        stem = stem[:2]
    return f"r{stem}"


def _mask(name: str) -> int:
    if not name or name[0] == "r":
        return 0xFFFFFFFF if name[:1] == "r" and name[-1] == "d" else _64
    return 0xFFFFFFFF if name[0] == "e" else 0xFFFF
