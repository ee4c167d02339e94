"""An exit of a vCPU, read once out of the shared page into a value that everybody matches on.

Source: Linux Documentation/virt/kvm/api.rst, section 5. A single port access is no such value while the guest runs: it
is one number, which `VCPU.enter` returns (see shim.c), and only who wants to look at it closely decodes it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..data import Data
from ..typed import Any, Final
from ._kvm import ffi, lib

PIO: Final[int] = lib.PYKVM_PIO
"""A result of `VCPU.enter` from here on is a port access; shim.c has its bits."""
PIO_OUTPUT: Final = 1 << 19
"""In a port access's key (a result of `VCPU.enter` without its lower 32 bits: port, size << 16): set for output."""


class Exit:
    """The exit reasons that are served here, by their names in <linux/kvm.h>."""

    DEBUG: Final[int] = lib.KVM_EXIT_DEBUG
    FAIL_ENTRY: Final[int] = lib.KVM_EXIT_FAIL_ENTRY
    INTERNAL_ERROR: Final[int] = lib.KVM_EXIT_INTERNAL_ERROR
    INTR: Final[int] = lib.KVM_EXIT_INTR
    IO: Final[int] = lib.KVM_EXIT_IO
    MMIO: Final[int] = lib.KVM_EXIT_MMIO
    SHUTDOWN: Final[int] = lib.KVM_EXIT_SHUTDOWN
    SYSTEM_EVENT: Final[int] = lib.KVM_EXIT_SYSTEM_EVENT
    UNKNOWN: Final[int] = lib.KVM_EXIT_UNKNOWN
    RDMSR: Final[int] = lib.KVM_EXIT_X86_RDMSR
    WRMSR: Final[int] = lib.KVM_EXIT_X86_WRMSR


def exit_name(reason: int) -> str:
    """An exit reason's name without the prefix, or the number itself where <linux/kvm.h> had none."""
    names = (name for name in dir(lib) if name.startswith("KVM_EXIT_") and name != "KVM_EXIT_IO_OUT")
    return next((name.removeprefix("KVM_EXIT_") for name in names if getattr(lib, name) == reason), str(reason))


INTERNAL_ERROR_EMULATION: Final[int] = lib.KVM_INTERNAL_ERROR_EMULATION
SYSTEM_EVENT_SHUTDOWN: Final[int] = lib.KVM_SYSTEM_EVENT_SHUTDOWN
SYSTEM_EVENT_RESET: Final[int] = lib.KVM_SYSTEM_EVENT_RESET


class PortAccess(Data):
    """KVM_EXIT_IO of one item: `value` if the guest writes, None if it reads."""

    port: int
    size: int
    value: int | None


class PortBlock(Data):
    """KVM_EXIT_IO of `count` items of `size` bytes at one port; `data` is the buffer in the shared page."""

    port: int
    size: int
    count: int
    is_output: bool
    data: Any


class Mmio(Data):
    """KVM_EXIT_MMIO: `size` bytes at a guest physical address; `value` is the little-endian number that is written."""

    address: int
    size: int
    value: int
    is_write: bool


class MsrAccess(Data):
    """KVM_EXIT_X86_RDMSR (`value` None) and KVM_EXIT_X86_WRMSR."""

    index: int
    value: int | None


class Debug(Data):
    """KVM_EXIT_DEBUG: `exception` 1 is #DB, 3 #BP; the linear RIP, and DR6."""

    exception: int
    pc: int
    dr6: int


class SystemEvent(Data):
    """KVM_EXIT_SYSTEM_EVENT: the guest asked the hypervisor for one of the SYSTEM_EVENT_* of `vcpu`."""

    kind: int


class Shutdown(Data):
    """KVM_EXIT_SHUTDOWN: a triple fault."""


class FailedEntry(Data):
    """KVM_EXIT_FAIL_ENTRY: the CPU refused the state, with the hardware's reason."""

    reason: int


class InternalError(Data):
    """KVM_EXIT_INTERNAL_ERROR; `code` are the instruction's bytes, if KVM told them (only of a failed emulation)."""

    suberror: int
    data: list[int]
    code: bytes


class OtherExit(Data):
    """Any other: KVM_EXIT_ + `name`."""

    reason: int
    name: str


VcpuExit = (
    PortAccess | PortBlock | Mmio | MsrAccess | Debug | SystemEvent | Shutdown | FailedEntry | InternalError | OtherExit
)


def decode(run: Any, result: int) -> VcpuExit:
    """What the exit was about for which `VCPU.enter` returned `result`; `run` is the shared page."""
    if result >= PIO:
        key = result >> 32
        return PortAccess(key & 0xFFFF, key >> 16 & 7, result & 0xFFFFFFFF if key & PIO_OUTPUT else None)
    decoder = _DECODERS.get(result)
    return OtherExit(result, exit_name(result)) if decoder is None else decoder(run)


def failed_code(run: Any) -> bytes | None:
    """After KVM_EXIT_INTERNAL_ERROR: the bytes of an instruction that KVM could not emulate, as far as it told them.

    None if something else has failed.
    """
    internal = run.internal
    if internal.suberror != INTERNAL_ERROR_EMULATION:
        return None
    if internal.ndata < 3 or not internal.data[0] & lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
        return b""
    raw = bytes(ffi.buffer(ffi.addressof(internal, "data"), 24))
    return raw[9 : 9 + min(raw[8], 15)]


def _mmio(run: Any) -> Mmio:
    access = run.mmio
    size = access.len
    return Mmio(access.phys_addr, size, int.from_bytes(ffi.buffer(access.data, size), "little"), bool(access.is_write))


def _io(run: Any) -> PortBlock:
    io = run.io
    data = ffi.buffer(ffi.cast("char *", run) + io.data_offset, io.size * io.count)
    return PortBlock(io.port, io.size, io.count, io.direction == lib.KVM_EXIT_IO_OUT, data)


def _debug(run: Any) -> Debug:
    arch = run.debug.arch
    return Debug(arch.exception, arch.pc, arch.dr6)


def _internal_error(run: Any) -> InternalError:
    internal = run.internal
    words = list(internal.data[0 : min(internal.ndata, 16)])
    return InternalError(internal.suberror, words, failed_code(run) or b"")


_DECODERS: dict[int, Callable[[Any], VcpuExit]] = {
    Exit.MMIO: _mmio,
    Exit.IO: _io,
    Exit.RDMSR: lambda run: MsrAccess(run.msr.index, None),
    Exit.WRMSR: lambda run: MsrAccess(run.msr.index, run.msr.data),
    Exit.DEBUG: _debug,
    Exit.SYSTEM_EVENT: lambda run: SystemEvent(lib.pykvm_system_event_type(run)),
    Exit.SHUTDOWN: lambda run: Shutdown(),
    Exit.FAIL_ENTRY: lambda run: FailedEntry(run.fail_entry.hardware_entry_failure_reason),
    Exit.INTERNAL_ERROR: _internal_error,
}
