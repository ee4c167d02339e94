"""Instructions of a guest on the host's CPU, with a vCPU's state: see native.c, which has the contract."""

from __future__ import annotations

import os

from ..typed import Any
from ._kvm import ffi, lib
from .errors import KvmError
from .vcpu import VCPU

SLOTS = 64
"""So many instructions are at hand, ready to be executed."""
PAGE = 4096
X87, SSE, AVX = 1, 2, 4
"""XSAVE's components."""


class NativeInstruction:
    """`code` for the host (at most 15 bytes) in place of `length` bytes in the guest, whose RIP has the bits of `mask`.

    `base` and `stack` are the registers that stand for the operand's address and for RSP, or -1.
    """

    def __init__(
        self, code: bytes, length: int, slot: int, *, base: int, stack: int, opcode: int, components: int, mask: int
    ) -> None:
        self.box = ffi.new("struct pykvm_instruction *")
        self.box.code = code.ljust(16, b"\0")
        self.box.length, self.box.next, self.box.slot = len(code), length, slot % SLOTS
        self.box.base, self.box.stack, self.box.opcode = base, stack, opcode
        self.box.components, self.box.rip_mask = components, mask


class CpuBoxes:
    """A vCPU's registers as KVM gives them. Where it can, each exit leaves them in the shared page from now on."""

    def __init__(self, vcpu: VCPU, *, shared: bool) -> None:
        self.shared = shared
        self._vcpu, self._sharing = vcpu, False
        at = lib.pykvm_shared_registers(vcpu.run) if shared else ffi.new("struct kvm_sync_regs *")
        self._owner = at
        self.registers, self.system = ffi.addressof(at, "regs"), ffi.addressof(at, "sregs")
        self._calls = ffi.new("struct pykvm_call[2]")
        for call, request, box in zip(
            self._calls, (lib.KVM_GET_REGS, lib.KVM_GET_SREGS), (self.registers, self.system), strict=True
        ):
            call.fd, call.request, call.argument = vcpu.fd, request, box
        self._raw = ffi.buffer(self.system)

    def read(self) -> bytes:
        """After an exit, have them there; struct kvm_sregs as bytes, which tell whether it has changed."""
        if not self._sharing:
            self._vcpu.flush()
            if lib.pykvm_calls(self._calls, 2) < 2:
                raise KvmError("KVM_GET_REGS", ffi.errno)
            if self.shared:
                self._vcpu.share_registers()
                self._sharing = True
        return bytes(self._raw)


class Native:
    """Executes instructions for one vCPU. OSError if the host does not give executable memory, or has no XSAVE."""

    def __init__(self, vcpu: VCPU, boxes: CpuBoxes, xsave_size: int) -> None:
        made = lib.pykvm_native_new(xsave_size)
        if not made:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self.box = ffi.gc(made, lib.pykvm_native_free)
        self._fd, self._registers = vcpu.fd, boxes.registers
        self._shared_page = vcpu.run if boxes.shared else ffi.NULL
        self._operand = ffi.buffer(self.box.operand, 2 * PAGE)

    def run(self, instruction: NativeInstruction, at: int, offset: int) -> int | None:
        """Execute for the vCPU, whose registers have been read, with the operand at `at` of the two pages for it.

        `offset` is the operand's offset in the guest's segment. The vector of its exception, or None.
        """
        return self._run(instruction, self.box.operand + at, offset)

    def run_in(self, instruction: NativeInstruction, memory: Any, at: int, offset: int) -> int | None:
        """The same with the operand at `at` of the buffer `memory`, which the instruction stays within."""
        with ffi.from_buffer(memory, require_writable=True) as held:
            return self._run(instruction, held + at, offset)

    def _run(self, instruction: NativeInstruction, operand: Any, offset: int) -> int | None:
        result = lib.pykvm_native_run(
            self._fd, self.box, self._shared_page, self._registers, instruction.box, operand, offset
        )
        if result == -2:
            raise KvmError("KVM_SET_XSAVE", ffi.errno, "an instruction could not be executed for the guest")
        return None if result < 0 else int(result)

    def put(self, at: int, data: bytes) -> None:
        """Fill the operand."""
        self._operand[at : at + len(data)] = data

    def get(self, at: int, size: int) -> bytes:
        """The operand."""
        return bytes(self._operand[at : at + size])


def set_bits(memory: Any, at: int, bits: int) -> None:
    """Set bits of the byte at `at` of a buffer, whatever others do to the rest of it at the same time."""
    with ffi.from_buffer("uint8_t[]", memory, require_writable=True) as held:
        lib.pykvm_set_bits(held + at, bits)
