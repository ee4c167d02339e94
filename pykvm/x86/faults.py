"""Which exception the instruction that a CPU stands before would raise, found by going through its checks.

Sources: Intel SDM volume 2 ("Protected Mode Exceptions" and "64-Bit Mode Exceptions" of each instruction) and volume
3A, 5.9 (privileged instructions), 2.5 (control registers); AMD APM volume 3. `selectors` has the checks of segments.

What depends on more than registers, tables and memory (an MSR that the CPU lacks, a pending x87 error) is not decided,
or marked as a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import capstone
from capstone import x86_const as x86

from ..errors import PykvmError
from .cpu import Cpu
from .disasm import MAX_INSTRUCTION
from .exceptions import BP, DB, DE, GP, NM, UD, Event, EventKind
from .instruction import SEGMENTS, Unreadable, decoder
from .paging import PAE, PAGE_SIZE, PTE_P, reserved_bits
from .registers import (
    CR0_CD,
    CR0_EM,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR4_OSFXSR,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_SCE,
    RFLAGS_IOPL_SHIFT,
)
from .selectors import Selectors

MSR_EFER = 0xC0000080
_CANONICAL_MSRS = frozenset({0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102, 0x175, 0x176})
"""LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE, SYSENTER_ESP, SYSENTER_EIP."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRIVILEGED = _words(
    "hlt lgdt lidt lldt ltr lmsw clts invd wbinvd invlpg invpcid wrmsr rdmsr swapgs sysret sysretq sysexit sysexitq "
    "xsetbv monitor mwait rsm vmrun stgi clgi"
)
_UNDEFINED = frozenset({"ud0", "ud1", "ud2"})
_NO_ACCESS = _words(
    "lea nop prefetch prefetchw prefetchnta prefetcht0 prefetcht1 prefetcht2 invlpg bndmk clflush clflushopt"
)
_ALIGNED = _words(
    "movaps movapd movdqa movntps movntpd movntdq movntdqa fxsave fxrstor fxsave64 fxrstor64 cmpxchg16b "
    "vmovaps vmovapd vmovdqa"
)
"""Their operand in memory must be aligned to its size (16 for FXSAVE and CMPXCHG16B), else #GP."""
_NO_SSE_STATE = _words(
    "prefetchnta prefetcht0 prefetcht1 prefetcht2 lfence mfence sfence pause movnti clflush maskmovq"
)
_SSE_GROUPS = frozenset(
    {
        x86.X86_GRP_SSE1, x86.X86_GRP_SSE2, x86.X86_GRP_SSE3, x86.X86_GRP_SSSE3, x86.X86_GRP_SSE41, x86.X86_GRP_SSE42,
    }
)  # fmt: skip
_FPU_GROUPS = frozenset({x86.X86_GRP_FPU, x86.X86_GRP_MMX})


def next_event(cpu: Cpu) -> Event | None:
    """The exception or software interrupt that the next instruction raises; None if none can be found.

    `why` is a clause with its subject, such as "`div ecx` divides by zero".
    """
    fetched = fetch(cpu)
    if isinstance(fetched, Event):
        return fetched
    insn = decoder(cpu.mode.bits)(fetched, cpu.pc)
    if insn is None:
        if not fetched:
            return None
        if len(fetched) < MAX_INSTRUCTION:
            second = (cpu.pc // PAGE_SIZE + 1) * PAGE_SIZE & cpu.width_mask
            event = cpu.check_page(second, fetch=True)
            if event is not None:
                return replace(event, why=f"the instruction reaches into {event.why}")
        return Event(UD, None, f"the bytes {fetched[:8].hex(' ')} are no instruction")
    rip, limit = cpu.registers.rip, cpu.system.cs.limit
    if cpu.mode.bits != 64 and rip + insn.size - 1 > limit:
        why = f"the instruction at cs:{rip:#x} reaches beyond the code segment's limit {limit:#x}"
        return Event(GP, 0 if cpu.protected else None, why)
    try:
        return _Checks(cpu, insn).run()
    except Unreadable:
        return None


def fetch(cpu: Cpu) -> bytes | Event:
    """At most 15 bytes from the next instruction on, or what goes wrong when the CPU fetches the first of them."""
    rip, limit = cpu.registers.rip, cpu.system.cs.limit
    if not cpu.canonical(cpu.pc):
        return Event(GP, 0, f"the CPU is to execute at {cpu.pc:#x}, which is not a canonical address")
    if cpu.mode.bits != 64 and rip > limit:
        why = f"the CPU is to execute at cs:{rip:#x}, beyond the code segment's limit {limit:#x}"
        return Event(GP, 0 if cpu.protected else None, why)
    event = cpu.check_page(cpu.pc, fetch=True)
    if event is not None:
        return replace(event, why=f"the CPU is to execute at {event.why}")
    return cpu.peek(cpu.pc, MAX_INSTRUCTION)


class _Checks(Selectors):
    """The checks of one instruction, in about the order of the manuals."""

    def run(self) -> Event | None:
        for check in (self.opcode, self.privilege, self.memory, self.stack, self.special):
            event = check()
            if event is not None:
                return event
        return None

    # Checks

    def opcode(self) -> Event | None:
        cpu, system = self.cpu, self.cpu.system
        if self.name in _UNDEFINED:
            return self.event(UD, None, "is the instruction that is invalid on purpose")
        groups = set(self.insn.groups)
        if self.name in ("syscall", "sysret", "sysretq") and not system.efer & EFER_SCE:
            return self.event(UD, None, "needs EFER.SCE, which is not set")
        if groups & _SSE_GROUPS and self.name not in _NO_SSE_STATE:
            if system.cr0 & CR0_EM:
                return self.event(UD, None, "is an SSE instruction, and CR0.EM is set")
            if not system.cr4 & CR4_OSFXSR:
                return self.event(UD, None, "is an SSE instruction, and CR4.OSFXSR is not set")
            if system.cr0 & CR0_TS:
                return self.event(NM, None, "uses the FPU's registers, and CR0.TS is set")
        elif groups & _FPU_GROUPS and system.cr0 & (CR0_EM | CR0_TS):
            bit = "EM" if system.cr0 & CR0_EM else "TS"
            return self.event(NM, None, f"uses the FPU, and CR0.{bit} is set")
        if not cpu.protected and self.name in ("lldt", "ltr", "sldt", "str", "lar", "lsl", "verr", "verw", "arpl"):
            return self.event(UD, None, "does not exist in real mode")
        return None

    def privilege(self) -> Event | None:
        cpu, name = self.cpu, self.name
        if not cpu.protected or cpu.cpl == 0:
            return None
        ring = f"ring {cpu.cpl}"
        first_names = [self.insn.reg_name(op.reg) for op in self.operands if op.type == x86.X86_OP_REG]
        if name in _PRIVILEGED or (name == "mov" and any(reg[:2] in ("cr", "dr") for reg in first_names)):
            return self.event(GP, 0, f"is for ring 0 only, and the CPU is in {ring}")
        if cpu.cpl > cpu.registers.rflags >> RFLAGS_IOPL_SHIFT & 3:
            if name in ("cli", "sti"):
                return self.event(GP, 0, f"is for ring 0 only, as IOPL is, and the CPU is in {ring}")
            if name in ("in", "out") or name[:3] in ("ins", "out"):
                port = self.operands[1 if name[0] == "i" else 0] if name in ("in", "out") else None
                number = self.value(port) if port is not None else cpu.registers.rdx
                if not self.port_allowed(number & 0xFFFF):
                    return self.event(GP, 0, f"uses port {number & 0xFFFF:#x}, which {ring} may not")
        return None

    def port_allowed(self, port: int) -> bool:
        """By the I/O permission bit map of the TSS (SDM volume 1, 19.5.2)."""
        tss = self.cpu.system.tr
        at = self.cpu.peek_int(tss.base + 0x66, 2)
        if at is None or at + port // 8 + 1 > tss.limit:
            return False
        bits = self.cpu.peek_int(tss.base + at + port // 8, 2)
        return bits is not None and not bits >> port % 8 & 1

    def memory(self) -> Event | None:
        if self.name in _NO_ACCESS or (self.repeats() and not self.count()):
            return None
        for operand in self.operands:
            if operand.type != x86.X86_OP_MEM:
                continue
            segment, offset = self.offset(operand.mem)
            size = operand.size or 1
            write = bool(operand.access & capstone.CS_AC_WRITE)
            event = self.about(self.cpu.check(segment, offset, size, write=write), "writes" if write else "reads")
            if event is not None:
                return event
            alignment = min(size, 64) if self.name.startswith(("mov", "vmov")) else 16
            linear = self.cpu.linear(segment, offset)
            if self.name in _ALIGNED and linear % alignment:
                return self.event(GP, 0, f"uses {linear:#x}, which is not a multiple of {alignment}")
        return None

    def repeats(self) -> bool:
        return self.insn.prefix[0] in (0xF2, 0xF3) and self.name[:4] in ("movs", "stos", "lods", "scas", "cmps", "insb",
                                                                         "insw", "insd", "outs")  # fmt: skip

    def count(self) -> int:
        return self.register({2: "cx", 4: "ecx", 8: "rcx"}[self.insn.addr_size])

    def stack(self) -> Event | None:
        """What the instruction pushes or pops."""
        name, width, registers = self.name, self.width, self.cpu.registers
        words, at = 0, registers.rsp
        match name:
            case "push" | "pushf" | "pushfd" | "pushfq" | "call":
                words = -1
            case "lcall":
                words = -2
            case "pushal" | "pushaw":
                words = -8
            case "pop" | "popf" | "popfd" | "popfq" | "ret":
                words = 1
            case "leave":
                words, at = 1, registers.rbp
            case "retf" | "retfq":
                words = 2
            case "iret" | "iretd" | "iretq":
                width = {"iret": 2, "iretd": 4, "iretq": 8}[name]
                words = 5 if self.cpu.mode.bits == 64 else 3
            case "popal" | "popaw":
                words = 8
            case _:
                return None
        size = abs(words) * width
        at = (at - size if words < 0 else at) & self.cpu.stack_mask
        event = self.cpu.check("ss", at, min(size, 64), write=words < 0)
        return self.about(event, "pushes to" if words < 0 else "takes from the stack")

    def special(self) -> Event | None:
        name = self.name
        handler: Callable[[], Event | None] | None = {
            "div": self.divide,
            "idiv": self.divide,
            "int": self.software_interrupt,
            "int3": self.breakpoint,
            "int1": lambda: self.event(DB, None, "is a debug trap"),
            "jmp": self.near_target,
            "call": self.near_target,
            "ret": self.near_target,
            "ljmp": self.far_target,
            "lcall": self.far_target,
            "retf": self.far_return,
            "retfq": self.far_return,
            "iret": self.interrupt_return,
            "iretd": self.interrupt_return,
            "iretq": self.interrupt_return,
            "ltr": self.load_task_register,
            "lldt": self.load_local_table,
            **dict.fromkeys(("lgdt", "lidt"), self.load_table),
            **dict.fromkeys(("lds", "les", "lfs", "lgs", "lss"), self.load_far_pointer),
            "mov": self.move,
            "pop": self.pop_segment,
            "wrmsr": self.write_msr,
            "rdmsr": lambda: self.msr_event("reads", certain=False),
        }.get(name)
        return handler() if handler is not None else None

    def divide(self) -> Event | None:
        operand = self.operands[0]
        size, divisor, signed = operand.size, self.value(operand), self.name == "idiv"
        r = self.cpu.registers
        bits = 8 * size
        mask = (1 << bits) - 1
        dividend = r.rax & 0xFFFF if size == 1 else (r.rdx & mask) << bits | r.rax & mask
        divisor &= mask
        if not divisor:
            return self.event(DE, None, "divides by zero")
        if signed:
            dividend -= (dividend >> 2 * bits - 1) << 2 * bits
            divisor -= (divisor >> bits - 1) << bits
            quotient = abs(dividend) // abs(divisor) * (1 if (dividend < 0) == (divisor < 0) else -1)
            fits = -(1 << bits - 1) <= quotient < 1 << bits - 1
        else:
            fits = dividend // divisor <= mask
        return None if fits else self.event(DE, None, f"divides, and the quotient does not fit into {bits} bits")

    def software_interrupt(self) -> Event | None:
        vector = self.value(self.operands[0]) & 0xFF
        return Event(vector, None, f"{self.text} calls interrupt {vector:#x}", kind=EventKind.SOFTWARE)

    def breakpoint(self) -> Event | None:
        return Event(BP, None, f"{self.text} is a breakpoint", kind=EventKind.SOFTWARE)

    def near_target(self) -> Event | None:
        if self.name == "ret":
            target = self.load("ss", self.cpu.registers.rsp & self.cpu.stack_mask, self.width)
        else:
            target = self.value(self.operands[0])
        return self.outside(target & (1 << 8 * self.width) - 1, self.cpu.system.cs.limit, "jumps to")

    def load_table(self) -> Event | None:
        segment, offset = self.offset(self.operands[0].mem)
        base = self.load(segment, offset + 2, 8) if self.cpu.mode.bits == 64 else 0
        if self.cpu.canonical(base):
            return None
        return self.event(GP, 0, f"takes {base:#x} for the table's base, which is not a canonical address")

    def move(self) -> Event | None:
        target, source = self.operands
        if target.type != x86.X86_OP_REG:
            return None
        name = self.insn.reg_name(target.reg)
        if name in SEGMENTS:
            return self.segment(name, self.value(source) & 0xFFFF)
        if name[:2] == "cr":
            return self.control_register(name, self.value(source))
        return None

    def control_register(self, name: str, value: int) -> Event | None:
        system = self.cpu.system
        loads = f"loads {name} with {value:#x}"
        reason = ""
        if name == "cr0":
            on = value & CR0_PG and not system.cr0 & CR0_PG
            if value >> 32:
                reason = "the upper half must be 0"
            elif value & CR0_PG and not value & CR0_PE:
                reason = "PG needs PE"
            elif value & CR0_NW and not value & CR0_CD:
                reason = "NW needs CD"
            elif on and system.efer & EFER_LME and not system.cr4 & CR4_PAE:
                reason = "with EFER.LME set, paging needs CR4.PAE"
            elif on and system.efer & EFER_LME and system.cs.l:
                reason = "long mode cannot be entered from a code segment with L set"
            elif not value & CR0_PG and self.cpu.mode.bits == 64:
                reason = "64-bit mode needs paging"
            elif on and not system.efer & EFER_LME and self.other_page_tables():
                reason = "EFER.LME is 0: this is PAE paging, but CR3 leads to tables of long mode, probably meant"
        elif name == "cr4" and self.cpu.long and not value & CR4_PAE:
            reason = "long mode needs PAE"
        elif name == "cr3" and self.cpu.long and value & ~(1 << 63) & -(1 << self.cpu.physical_bits):
            reason = "this CPU has not so many address bits, and CR3 takes a physical address"
        if reason:
            return self.event(GP, 0, f"{loads}: {reason}")
        if name == "cr0" and value & CR0_PG and not system.cr0 & CR0_PG and not system.efer & EFER_LME:
            return self.event(GP, 0, "turns on paging outside of long mode, which this machine refuses", certain=False)
        return self.event(GP, 0, f"{loads}, which this machine refuses", certain=False)

    def other_page_tables(self) -> bool:
        """Whether CR3 leads to PDPTEs that PAE paging cannot take: those of long mode have RW set (SDM 4.4.1)."""
        system = self.cpu.system
        if not system.cr4 & CR4_PAE:
            return False
        try:
            raw = self.cpu.read(system.cr3 & PAE.root_mask, 32)
        except PykvmError:
            return False
        entries = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 32, 8)]
        wrong = reserved_bits(PAE, PAE.levels[0], False, False, self.cpu.physical_bits)
        return any(entry & PTE_P and entry & wrong for entry in entries)

    def write_msr(self) -> Event | None:
        r = self.cpu.registers
        value = (r.rdx & 0xFFFFFFFF) << 32 | r.rax & 0xFFFFFFFF
        index = r.rcx & 0xFFFFFFFF
        if index in _CANONICAL_MSRS and not self.cpu.canonical(value) and self.cpu.long:
            return self.msr_event("writes", f": {value:#x} is not a canonical address")
        if index == MSR_EFER:
            change = value ^ self.cpu.system.efer
            if change & EFER_LME and self.cpu.system.cr0 & CR0_PG:
                return self.msr_event("writes", ": EFER.LME cannot be changed while paging is on")
            if not change & ~EFER_LMA:
                return None
        return self.msr_event("writes", certain=False)

    def msr_event(self, verb: str, why: str = "", *, certain: bool = True) -> Event:
        why = why or ", which this machine does not have, or not for this value"
        return self.event(GP, 0, f"{verb} MSR {self.cpu.registers.rcx & 0xFFFFFFFF:#x}{why}", certain=certain)
