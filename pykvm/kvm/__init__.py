"""KVM for Python: one class a file descriptor, each ioctl with a typed face.

    from pykvm.kvm import System

    with open_system() as system: ...

`System` is /dev/kvm, `VM` a virtual machine, `VCPU` one of its processors. Source: the Linux kernel's
Documentation/virt/kvm/api.rst.
"""

from .capabilities import CAPABILITIES
from .closing import wait_closed
from .errors import KvmError, KvmUnavailable, KvmUnsupported
from .state import ClockData, DebugRegisters, MpState, MsrRange, Translation, VcpuEvents
from .system import System
from .vcpu import VCPU
from .vm import VM

__all__ = [
    "CAPABILITIES",
    "VCPU",
    "VM",
    "ClockData",
    "DebugRegisters",
    "KvmError",
    "KvmUnavailable",
    "KvmUnsupported",
    "MpState",
    "MsrRange",
    "System",
    "Translation",
    "VcpuEvents",
    "wait_closed",
]
