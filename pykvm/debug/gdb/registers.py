"""The registers as gdb sees them: names, sizes and order for each architecture, and the CPU's state behind them.

Sources: "Debugging with GDB", appendix G.5.10 (i386 features); Intel SDM volume 1, 10.5.1 (FXSAVE area), 13.4 (XSAVE
area) and 8.1.7 (x87 tag word); volume 4 and AMD APM volume 2, appendix A (numbers of MSRs).

gdb knows no segments: what it takes for the program counter is an address. So `rip`, `eip` and `pc` are the linear
address of the next instruction here, with the base of CS already added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

from ...errors import PykvmError
from ...x86.registers import CR0_PE, EFER_LMA, RFLAGS_VM, Registers, SystemRegisters, linear_pc
from ..control import Control

FCW, FSW, FTW, FOP, FIP, FCS, FDP, FDS, MXCSR = (
    (0, 2),
    (2, 2),
    (4, 1),
    (6, 2),
    (8, 4),
    (12, 2),
    (16, 4),
    (20, 2),
    (24, 4),
)
"""Places in the XSAVE area's legacy region: (offset, bytes)."""
ST0, XMM0, XSTATE_BV = 32, 160, 512
X87, SSE = 1, 2
"""Bits of XSTATE_BV: which parts of the area count."""

MSRS = {
    "k_gs_base": 0xC0000102,
    "star": 0xC0000081,
    "lstar": 0xC0000082,
    "cstar": 0xC0000083,
    "sfmask": 0xC0000084,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
    "tsc": 0x10,
}
"""Model-specific registers, by the names they have in gdb."""


class RegisterError(PykvmError):
    """The register cannot be written, or not to this value."""


class CpuRegisters:
    """The state of a stopped CPU: each part is read when it is first asked for, and written back at each change."""

    def __init__(self, control: Control, number: int) -> None:
        self.control = control
        self.number = number

    @cached_property
    def general(self) -> Registers:
        """General registers, RIP and RFLAGS."""
        return self.control.registers(self.number)

    @cached_property
    def system(self) -> SystemRegisters:
        """Segments, tables and control registers."""
        return self.control.system_registers(self.number)

    @cached_property
    def xsave(self) -> bytearray:
        """The XSAVE area."""
        return bytearray(self.control.xsave(self.number))

    def set_general(self, name: str, value: int) -> None:
        """Change one general register."""
        new = self.general.copy(**{name: value})
        self.control.set_registers(self.number, new)
        self.general = new

    def set_system(self, **changes: Any) -> None:
        """Change some system registers."""
        new = self.system.copy(**changes)
        self.control.set_system_registers(self.number, new)
        self.__dict__.pop("system")  # KVM may have derived more from it
        self.__dict__.pop("general", None)

    def set_xsave(self, offset: int, data: bytes, component: int) -> None:
        """Change a piece of the XSAVE area."""
        area = self.xsave[:]
        area[offset : offset + len(data)] = data
        area[XSTATE_BV] |= component
        self.control.set_xsave(self.number, bytes(area))
        self.xsave = area


class Register(NamedTuple):
    """One register: its size in bits, its type in the target description, and its way to and from a CPU's state.

    `in_block` tells whether it is among those that are read all at once at each stop.
    """

    name: str
    bits: int
    type: str
    get: Callable[[CpuRegisters], int | None]
    set: Callable[[CpuRegisters, int], None]
    in_block: bool = True

    def read(self, cpu: CpuRegisters) -> bytes | None:
        """Its bytes, or None if the CPU does not have it."""
        value = self.get(cpu)
        return None if value is None else (value & (1 << self.bits) - 1).to_bytes(self.bits // 8, "little")

    def write(self, cpu: CpuRegisters, data: bytes) -> None:
        """Change it, unless it has this value; RegisterError or KvmError if that cannot be."""
        if len(data) != self.bits // 8:
            raise RegisterError(f"{self.name} has {self.bits // 8} bytes, not {len(data)}")
        if data != self.read(cpu):
            self.set(cpu, int.from_bytes(data, "little"))


@dataclass(frozen=True, slots=True)
class Layout:
    """The registers of one architecture: by feature, in the order of their numbers."""

    architecture: str
    """As gdb calls it."""
    features: dict[str, list[Register]]
    registers: list[Register]

    @classmethod
    def make(cls, architecture: str, features: dict[str, list[Register]]) -> Layout:
        """Number the registers of `features`."""
        return cls(architecture, features, [register for registers in features.values() for register in registers])


# Single kinds of registers


def _general(name: str, attribute: str, bits: int) -> Register:
    def put(cpu: CpuRegisters, value: int) -> None:
        cpu.set_general(attribute, value)

    type_ = "data_ptr" if attribute in ("rsp", "rbp") else f"int{bits}"
    return Register(name, bits, type_, lambda cpu: int(getattr(cpu.general, attribute)), put)


def _program_counter(name: str, bits: int) -> Register:
    def put(cpu: CpuRegisters, value: int) -> None:
        system = cpu.system
        wide = system.efer & EFER_LMA and system.cs.l
        cpu.set_general("rip", value if wide else value - system.cs.base & 0xFFFFFFFF)

    return Register(name, bits, "code_ptr", lambda cpu: linear_pc(cpu.general, cpu.system), put)


def _selector(name: str) -> Register:
    def put(cpu: CpuRegisters, value: int) -> None:
        system = cpu.system
        if system.cr0 & CR0_PE and not cpu.general.rflags & RFLAGS_VM:
            raise RegisterError(f"{name} cannot be loaded from outside in protected mode")
        cpu.set_system(**{name: getattr(system, name).copy(selector=value & 0xFFFF, base=(value & 0xFFFF) << 4)})

    return Register(name, 32, "int32", lambda cpu: int(getattr(cpu.system, name).selector), put)


def _segment(register: str, name: str, attribute: str, bits: int) -> Register:
    """A hidden part of a segment register, or of GDTR or IDTR."""

    def get(cpu: CpuRegisters) -> int:
        return int(getattr(getattr(cpu.system, name), attribute))

    def put(cpu: CpuRegisters, value: int) -> None:
        part: Any = getattr(cpu.system, name)
        cpu.set_system(**{name: part.copy(**{attribute: value})})

    return Register(register, bits, f"uint{bits}", get, put)


def _control(name: str, bits: int, type_: str = "") -> Register:
    def put(cpu: CpuRegisters, value: int) -> None:
        cpu.set_system(**{name: value})

    return Register(name, bits, type_ or f"uint{bits}", lambda cpu: int(getattr(cpu.system, name)), put)


def _msr(name: str, index: int) -> Register:
    def put(cpu: CpuRegisters, value: int) -> None:
        cpu.control.set_msr(cpu.number, index, value)

    return Register(name, 64, "uint64", lambda cpu: cpu.control.msr(cpu.number, index), put, in_block=False)


def _area(cpu: CpuRegisters, offset: int, size: int) -> int:
    return int.from_bytes(cpu.xsave[offset : offset + size], "little")


def _put_area(offset: int, size: int, component: int, cpu: CpuRegisters, value: int) -> None:
    cpu.set_xsave(offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little"), component)


def _extended(name: str, bits: int, type_: str, offset: int, size: int, component: int) -> Register:
    """`size` bytes of the XSAVE area."""
    get, put = partial(_area, offset=offset, size=size), partial(_put_area, offset, size, component)
    return Register(name, bits, type_, get, put)


def _tag_word(cpu: CpuRegisters) -> int:
    """The tag word from one bit a register: 0 valid, 1 zero, 2 special (infinity, NaN, denormal), 3 empty."""
    used, top = _area(cpu, *FTW), _area(cpu, *FSW) >> 11 & 7
    word = 0
    for physical in range(8):
        tag = 3
        if used >> physical & 1:
            value = _area(cpu, ST0 + 16 * (physical - top & 7), 10)
            exponent, fraction = value >> 64 & 0x7FFF, value & (1 << 64) - 1
            if exponent == 0:
                tag = 1 if fraction == 0 else 2
            else:
                tag = 0 if exponent != 0x7FFF and fraction >> 63 else 2
        word |= tag << 2 * physical
    return word


def _put_tag_word(cpu: CpuRegisters, value: int) -> None:
    used = sum(1 << physical for physical in range(8) if value >> 2 * physical & 3 != 3)
    cpu.set_xsave(FTW[0], bytes([used]), X87)


def _x87() -> list[Register]:
    stack = [_extended(f"st{n}", 80, "i387_ext", ST0 + 16 * n, 10, X87) for n in range(8)]
    words = {
        "fctrl": FCW, "fstat": FSW, "ftag": None, "fiseg": FCS, "fioff": FIP, "foseg": FDS, "fooff": FDP, "fop": FOP,
    }  # fmt: skip
    return stack + [
        _extended(name, 32, "int", *place, X87)
        if place is not None
        else Register(name, 32, "int", _tag_word, _put_tag_word)
        for name, place in words.items()
    ]


def _sse(count: int) -> list[Register]:
    vectors = [_extended(f"xmm{n}", 128, "vec128", XMM0 + 16 * n, 16, SSE) for n in range(count)]
    return [*vectors, _extended("mxcsr", 32, "i386_mxcsr", *MXCSR, SSE)]


def _flags() -> Register:
    def put(cpu: CpuRegisters, value: int) -> None:
        cpu.set_general("rflags", value)

    return Register("eflags", 32, "i386_eflags", lambda cpu: cpu.general.rflags, put)


def _system(bits: int) -> list[Register]:
    """What gdb has no names of its own for, for a CPU whose addresses have so many bits."""
    bases = ("cs", "ss", "ds", "es") if bits == 64 else ("cs", "ss", "ds", "es", "fs", "gs")
    msrs = MSRS if bits == 64 else {name: index for name, index in MSRS.items() if index < 1 << 31}
    return [
        _control("cr0", bits, "cr0"),
        _control("cr2", bits),
        _control("cr3", bits),
        _control("cr4", bits, "cr4"),
        _control("cr8", bits),
        _control("efer", 64, "efer"),
        _control("apic_base", 64),
        *(_segment(f"{name}_base", name, "base", bits) for name in bases),
        _segment("gdtr_base", "gdt", "base", bits),
        _segment("gdtr_limit", "gdt", "limit", 32),
        _segment("idtr_base", "idt", "base", bits),
        _segment("idtr_limit", "idt", "limit", 32),
        _segment("ldtr", "ldt", "selector", 32),
        _segment("tr", "tr", "selector", 32),
        _segment("tr_base", "tr", "base", bits),
        *(_msr(name, index) for name, index in msrs.items()),
    ]


_NAMES_64 = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_NAMES_32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
_SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")


@cache
def layout(architecture: str) -> Layout:
    """The layout for `i386:x86-64`, `i386` or `i8086`."""
    features: dict[str, list[Register]] = {}
    selectors = [_selector(name) for name in _SELECTORS]
    if architecture == "i386:x86-64":
        general = [_general(name, name, 64) for name in _NAMES_64]
        features["org.gnu.gdb.i386.core"] = [*general, _program_counter("rip", 64), _flags(), *selectors, *_x87()]
        features["org.gnu.gdb.i386.sse"] = _sse(16)
        features["org.gnu.gdb.i386.segments"] = [_segment(f"{name}_base", name, "base", 64) for name in ("fs", "gs")]
        features["org.pykvm.system"] = _system(64)
    elif architecture in ("i386", "i8086"):
        general = [_general(name, f"r{name[1:]}", 32) for name in _NAMES_32]
        features["org.gnu.gdb.i386.core"] = [*general, _program_counter("eip", 32), _flags(), *selectors, *_x87()]
        features["org.gnu.gdb.i386.sse"] = _sse(8)
        features["org.pykvm.system"] = _system(32)
    else:
        raise ValueError(f"{architecture!r} is no architecture of x86 in gdb")
    return Layout.make(architecture, features)
