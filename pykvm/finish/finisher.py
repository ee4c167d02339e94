"""Finishes the instruction that a vCPU stands before: executed on the host's CPU, modelled, or refused.

Sources: Intel SDM volume 3A, 2.5 and 13.1 (CR0, CR4 and XCR0 before FPU and vector instructions), table 6-2; volume 2,
2.4 (VEX) and "Exceptions" of each instruction.

What the guest feeds here is hostile. Bytes reach the host's CPU only in the form that `form` has made of them; memory
only as a copy, or where a lock must be atomic, as bytes of guest RAM that have been checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kvm.native import AVX, SSE, X87, CpuBoxes, Native, NativeInstruction
from ..kvm.vcpu import registers_of, system_registers_of
from ..memory import PAGE_SIZE
from ..x86.cpu import Cpu
from ..x86.cpuid import find
from ..x86.disasm import MAX_INSTRUCTION
from ..x86.exceptions import GP, NM, UD, WITH_ERROR_CODE, XM, Event
from ..x86.registers import (
    CR0_EM,
    CR0_MP,
    CR0_TS,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_OSXSAVE,
    RFLAGS_TF,
    SystemRegisters,
    code_bits,
)
from . import models
from .allowed import FEATURES
from .form import Form, form_of
from .operand import Refused, Space

if TYPE_CHECKING:
    from ..kvm import VCPU
    from ..x86.cpuid import CpuidEntry

MOST_FORMS = 4096
"""Instructions that are remembered."""
DR6_BS = 1 << 14
DB, PF = 1, 14
_COMPONENTS = {"x87": X87 | SSE, "mmx": X87 | SSE, "sse": X87 | SSE, "fxsr": X87 | SSE, "avx": X87 | SSE | AVX}
_MASKS = {16: 0xFFFFFFFF, 32: 0xFFFFFFFF, 64: (1 << 64) - 1}


class _Known:
    """An instruction that was met: how it is executed, or else the name of its model, "" if there is none."""

    def __init__(self, form: Form | None, native: NativeInstruction | None, model: str = "", length: int = 0) -> None:
        self.form, self.native, self.model, self.length = form, native, model, length
        self.allowed_by = b""
        """The system registers with which nothing forbade it."""


class Finisher:
    """For `vcpu`, whose physical addresses are `space`, and whose CPUID answers `cpuid`; KVM offers `offered`.

    `shared`: KVM can leave the registers in the shared page at each exit (SYNC_REGS).
    """

    def __init__(
        self,
        vcpu: VCPU,
        space: Space,
        cpuid: list[CpuidEntry],
        offered: list[CpuidEntry],
        xsave_size: int,
        *,
        shared: bool,
    ) -> None:
        self.vcpu, self.space = vcpu, space
        self._boxes = CpuBoxes(vcpu, shared=shared)
        self._cpuid, self._offered = cpuid, offered
        self._xsave_size = xsave_size
        self._native: Native | None = None
        self._unusable = False  # the host gives no executable memory
        self._known: dict[tuple[int, bytes], _Known] = {}
        self._features: dict[str, bool] = {}
        self._system_raw = b""
        self._system = SystemRegisters()
        self._bits = 16
        leaf = find(cpuid, 0x80000008)
        self._physical_bits = min(max(leaf.eax & 0xFF if leaf is not None else 36, 32), 52)

    def finish(self, code: bytes) -> str | None:
        """Finish the next instruction, which begins with `code` if KVM told its bytes, and return its mnemonic.

        An exception that it raises has been given to the guest. None if it cannot be finished: nothing has changed.
        """
        raw = self._boxes.read()
        if raw != self._system_raw:
            self._system, self._system_raw = system_registers_of(self._boxes.system), raw
            self._bits = code_bits(self._system)
        known = self._known.get((self._bits, code)) if len(code) == MAX_INSTRUCTION else None
        known = known or self._look_up(code, self._cpu())
        name = known.model if known.form is None else known.form.name
        if not name:
            return None
        traps = self._boxes.registers.rflags & RFLAGS_TF
        try:
            if known.form is not None:
                done = self._execute(known, known.form)
            else:
                done = models.finish(self, self._cpu(), name, known.length)
        except Refused as refused:
            self.raise_event(refused.event)
            return name
        if not done:
            return None
        if traps and name not in models.INTERRUPTS:
            debug = self.vcpu.get_debug_registers()
            debug.dr6 |= DR6_BS
            self.vcpu.set_debug_registers(debug)
            self.raise_event(Event(DB))
        return name

    def _cpu(self) -> Cpu:
        return Cpu(registers_of(self._boxes.registers), self._system, self.space.table, self._physical_bits)

    def _look_up(self, code: bytes, cpu: Cpu) -> _Known:
        if len(code) < MAX_INSTRUCTION:
            code = cpu.peek(cpu.pc, MAX_INSTRUCTION) or code
        key = (self._bits, code)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MOST_FORMS:
                self._known.clear()
            form = form_of(code, self._bits)
            if form is not None:
                native = NativeInstruction(
                    form.code, form.length, len(self._known), base=form.base, stack=form.stack, opcode=form.opcode,
                    components=_COMPONENTS.get(form.kind, 0), mask=_MASKS[self._bits],
                )  # fmt: skip
                known = _Known(form, native)
            else:
                known = _Known(None, None, *models.recognize(code, self._bits))
            self._known[key] = known
        return known

    def has(self, feature: str) -> bool:
        """Whether the guest's CPU has the feature: not if CPUID hides it that KVM offers.

        Of what KVM itself does not offer the host's CPU decides, as where it runs the guest by itself.
        """
        found = self._features.get(feature)
        if found is None:
            found = _shows(self._cpuid, feature) or not _shows(self._offered, feature)
            self._features[feature] = found
        return found

    # Execution

    def _execute(self, known: _Known, form: Form) -> bool:
        instruction = known.native
        native = self._executor()
        if native is None or instruction is None:
            return False
        if known.allowed_by != self._system_raw:
            self._require(form)
            if form.kind != "avx":  # which listens to XCR0, too
                known.allowed_by = self._system_raw
        address = form.address
        if address is None:
            self._after(native.run(instruction, 0, 0))
            return True
        cpu = self._cpu()
        registers = cpu.registers
        offset = address.disp
        if address.base:
            offset += getattr(registers, address.base) & address.base_mask
        if address.index_name:
            offset += (getattr(registers, address.index_name) & address.index_mask) * address.scale
        offset &= address.mask
        space, size = self.space, address.size
        linear = cpu.linear(address.segment, offset)
        if address.replaces and size == 16 and linear % 16:
            raise Refused(Event(GP, 0, "the operand is not aligned"))
        pieces = space.access(cpu, address.segment, offset, size, write=address.writes)
        if address.replaces and len(pieces) == 1 and space.in_ram(pieces[0]):
            at = space.memory.offset(pieces[0].gpa, size)
            vector = native.run_in(instruction, space.memory.map, at, offset)
            self._after(vector)
            space.memory.note(pieces[0].gpa, size)
            return True
        # Aligned as it is in the guest: an instruction that minds finds it so.
        at = linear % PAGE_SIZE
        native.put(at, space.read(pieces, devices=address.replaces or not address.writes))
        self._after(native.run(instruction, at, offset))
        if address.writes:
            space.write(pieces, native.get(at, size))
        return True

    def _executor(self) -> Native | None:
        if self._native is None and not self._unusable:
            try:
                self._native = Native(self.vcpu, self._boxes, self._xsave_size)
            except OSError:
                self._unusable = True
        return self._native

    def _require(self, form: Form) -> None:
        """Raise Refused with #UD or #NM, if the guest's CPU would raise that before it looks at operands."""
        system, kind = self._system, form.kind
        cr0 = system.cr0
        undefined = not all(map(self.has, form.features))
        if kind in ("avx", "vex") and not self._cpu().protected:
            undefined = True
        if kind == "avx":
            undefined = undefined or not system.cr4 & CR4_OSXSAVE or self.vcpu.get_xcrs().get(0, 1) & 6 != 6
        elif kind == "sse":
            undefined = undefined or bool(cr0 & CR0_EM) or not system.cr4 & CR4_OSFXSR
        elif kind == "mmx":
            undefined = undefined or bool(cr0 & CR0_EM)
        if undefined:
            raise Refused(Event(UD))
        if kind in ("general", "vex"):
            return
        if form.name == "wait":
            unavailable = cr0 & CR0_MP and cr0 & CR0_TS
        else:
            unavailable = cr0 & (CR0_TS | CR0_EM if kind in ("x87", "fxsr") else CR0_TS)
        if unavailable:
            raise Refused(Event(NM))

    def _after(self, vector: int | None) -> None:
        """Raise Refused with the exception of an instruction that has been executed, if there was one."""
        if vector is None:
            return
        if vector == PF:
            raise AssertionError("an instruction has left its operand")
        if vector == XM and not self._system.cr4 & CR4_OSXMMEXCPT:
            vector = UD
        raise Refused(Event(vector, 0 if vector in WITH_ERROR_CODE else None))

    # For models, too

    def set_registers(self, cpu: Cpu) -> None:
        """Give the vCPU general registers, and the others if they are not what they were."""
        if cpu.system is not self._system:
            self.vcpu.set_system_registers(cpu.system)
        self.vcpu.set_registers(cpu.registers)

    def raise_event(self, event: Event) -> None:
        """Give the guest an exception, at the instruction that the vCPU stands before."""
        if event.vector == PF and event.address is not None:
            self.vcpu.set_system_registers(self._system.copy(cr2=event.address))
        events = self.vcpu.get_events()
        code = event.error_code if self._system.cr0 & 1 else None
        events.exception_injected, events.exception_pending, events.exception_nr = 1, 0, event.vector
        events.exception_has_error_code, events.exception_error_code = int(code is not None), code or 0
        events.exception_has_payload = events.exception_payload = 0
        self.vcpu.set_events(events)


def _shows(entries: list[CpuidEntry], feature: str) -> bool:
    bit = FEATURES[feature]
    leaf = find(entries, bit.leaf, bit.sub_leaf)
    return leaf is not None and bool(getattr(leaf, bit.register) >> bit.bit & 1)
