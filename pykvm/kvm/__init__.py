"""KVM for Python: one class a file descriptor, each ioctl with a typed face.

    from pykvm.kvm import System

    with open_system() as system: ...

`System` is /dev/kvm, `VM` a virtual machine, `VCPU` one of its processors. Source: the Linux kernel's
Documentation/virt/kvm/api.rst.
"""

import os

from .. import __version__


def _is_newest() -> bool:
    """Whether the compiled part is there and no source of it is newer, or it was installed with them from a wheel."""
    try:
        from . import _kvm

        here, built = os.path.dirname(__file__), os.stat(_kvm.__file__).st_mtime_ns
        # Unpacked in any order, and in nobody's hands.
        if os.path.exists(f"{here}/../../pykvm_vmm-{__version__}.dist-info"):
            return True
        parts = _kvm.ffi.string(_kvm.lib.SOURCES).decode().split()
        # The directory is newer where a header has been added or taken away.
        return all(os.stat(f"{here}/{part.partition('=')[0]}").st_mtime_ns <= built for part in ("cdef", *parts))
    except (ImportError, AttributeError, OSError):
        return False


# Before any module asks the compiled part for what it may not have yet.
if not _is_newest():
    from .sources import check

    check()

# ruff: noqa: E402
from .capabilities import CAPABILITIES
from .closing import wait_closed
from .errors import KvmError, KvmUnavailable, KvmUnsupported, StaleBuild
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
    "StaleBuild",
    "System",
    "Translation",
    "VcpuEvents",
    "wait_closed",
]
