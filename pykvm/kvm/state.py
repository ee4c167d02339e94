"""The parts of a vCPU's and VM's state that are KVM's own, as plain data; api.rst has the meaning of each field."""

from __future__ import annotations

from ..data import Data
from ..typed import IntEnum, NamedTuple
from ._kvm import lib


class MpState(IntEnum):
    """Multiprocessing state (api.rst, KVM_GET_MP_STATE)."""

    RUNNABLE = lib.KVM_MP_STATE_RUNNABLE
    UNINITIALIZED = lib.KVM_MP_STATE_UNINITIALIZED
    INIT_RECEIVED = lib.KVM_MP_STATE_INIT_RECEIVED
    HALTED = lib.KVM_MP_STATE_HALTED
    SIPI_RECEIVED = lib.KVM_MP_STATE_SIPI_RECEIVED


class VcpuEvents(Data):
    """Pending and injected events (api.rst, KVM_GET_VCPU_EVENTS). Flags are 0 or 1; `flags` says which parts count."""

    exception_injected: int = 0
    exception_nr: int = 0
    exception_has_error_code: int = 0
    exception_pending: int = 0
    exception_error_code: int = 0
    exception_has_payload: int = 0
    exception_payload: int = 0
    interrupt_injected: int = 0
    interrupt_nr: int = 0
    interrupt_soft: int = 0
    interrupt_shadow: int = 0
    nmi_injected: int = 0
    nmi_pending: int = 0
    nmi_masked: int = 0
    sipi_vector: int = 0
    smi_smm: int = 0
    smi_pending: int = 0
    smi_smm_inside_nmi: int = 0
    smi_latched_init: int = 0
    flags: int = 0


class DebugRegisters(Data):
    """DR0-DR3 (linear addresses), DR6 and DR7."""

    dr0: int = 0
    dr1: int = 0
    dr2: int = 0
    dr3: int = 0
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400


class Translation(NamedTuple):
    """A linear address through the vCPU's page tables as KVM sees them. `physical` counts only if `valid`."""

    physical: int
    valid: bool
    writeable: bool
    usermode: bool


class MsrRange(NamedTuple):
    """A range for `VM.set_msr_filter`: accesses to these MSRs leave the kernel for user space."""

    base: int
    length: int
    read: bool = True
    write: bool = True


class ClockData(NamedTuple):
    """kvmclock in nanoseconds, and the flags with which KVM gave it."""

    clock: int
    flags: int
