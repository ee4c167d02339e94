"""pykvm: a KVM hypervisor that you drive from Python.

    from pykvm import Machine

    with Machine("guests/build/hello64.elf") as machine:
        print(machine.run(timeout=5), machine.serial.text)

The names below are imported when they are first used, so that `import pykvm` and the command line are quick.
"""

from __future__ import annotations

from importlib import import_module

from .typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .boot import ImageError as ImageError
    from .console.port import WaitFailed as WaitFailed
    from .crash.report import CrashReport as CrashReport
    from .device import Access as Access
    from .device import Device as Device
    from .device import IrqLine as IrqLine
    from .device import Range as Range
    from .devices.pci.card import PciDevice as PciDevice
    from .devices.pci.config import Bar as Bar
    from .devices.pci.dma import DmaError as DmaError
    from .devices.pci.registers import Register as Register
    from .disk.image import open_disk as open_disk
    from .errors import ConfigError as ConfigError
    from .errors import HostError as HostError
    from .errors import PykvmError as PykvmError
    from .kvm.errors import KvmError as KvmError
    from .kvm.errors import KvmUnavailable as KvmUnavailable
    from .machine import DeviceError as DeviceError
    from .machine import GeneralProtection as GeneralProtection
    from .machine import Machine as Machine
    from .memory import GuestMemoryError as GuestMemoryError
    from .outcome import Ending as Ending
    from .outcome import Outcome as Outcome
    from .snapshot import Snapshot as Snapshot
    from .snapshot import SnapshotError as SnapshotError

_HOMES = {
    "Access": "device",
    "Bar": "devices.pci.config",
    "ConfigError": "errors",
    "CrashReport": "crash.report",
    "Device": "device",
    "DeviceError": "machine",
    "DmaError": "devices.pci.dma",
    "Ending": "outcome",
    "GeneralProtection": "machine",
    "GuestMemoryError": "memory",
    "HostError": "errors",
    "ImageError": "boot",
    "IrqLine": "device",
    "KvmError": "kvm.errors",
    "KvmUnavailable": "kvm.errors",
    "Machine": "machine",
    "Outcome": "outcome",
    "PciDevice": "devices.pci.card",
    "PykvmError": "errors",
    "Range": "device",
    "Register": "devices.pci.registers",
    "Snapshot": "snapshot",
    "SnapshotError": "snapshot",
    "WaitFailed": "console.port",
    "open_disk": "disk.image",
}

__all__ = list(_HOMES)  # the table is the list
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value
