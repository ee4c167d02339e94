"""/dev/kvm: what this machine's KVM is and can do (api.rst, system ioctls)."""

from __future__ import annotations

import errno
import os
from functools import cache

from ..x86.cpuid import CpuidEntry
from ._kvm import ffi, lib
from .capabilities import CAPABILITIES
from .closing import wait_closed
from .descriptor import Descriptor
from .errors import KvmError, KvmUnavailable, KvmUnsupported, unavailable
from .vm import VM

CPUID_LIMIT = 1024
"""More CPUID entries than this and the kernel's answer is not believed."""


@cache
def resets_at_triple_fault() -> bool:
    """Whether this KVM may be one that resets a CPU at a triple fault (AMD's). That it has, only the crash shows."""
    return os.path.exists("/sys/module/kvm_amd")


class System(Descriptor):
    """The system descriptor. Raises KvmUnavailable, with the remedy, if there is no KVM to use."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        self.fd = -1
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise unavailable(path, error) from error
        try:
            version = self.api_version()
        except KvmError as error:
            raise KvmUnavailable(f"{path} is not KVM's device: {error}") from error
        if version != lib.KVM_API_VERSION:
            raise KvmUnavailable(f"{path} speaks API version {version}; version {lib.KVM_API_VERSION} is needed")
        self.mmap_size = self.ioctl_int("KVM_GET_VCPU_MMAP_SIZE")
        """Bytes of the pages that a vCPU shares with user space."""
        self._cpuid: tuple[CpuidEntry, ...] | None = None

    def api_version(self) -> int:
        """12 on every KVM since 2007."""
        return self.ioctl_int("KVM_GET_API_VERSION")

    def create_vm(self) -> VM:
        """A new virtual machine, with nothing in it."""
        waited = False
        while True:
            try:
                return VM(self.ioctl_int("KVM_CREATE_VM"), self.mmap_size)
            except KvmError as error:
                if error.errno in (errno.EMFILE, errno.ENOMEM) and not waited:
                    wait_closed()
                    waited = True
                elif error.errno != errno.EINTR:
                    raise

    def capabilities(self) -> dict[str, int]:
        """Every capability in `CAPABILITIES` with what KVM_CHECK_EXTENSION says of it."""
        return {name: self.check_extension(name) for name in CAPABILITIES}

    def require(self, *names: str) -> None:
        """Raise KvmUnsupported, saying what each one gives, unless KVM has all these capabilities."""
        missing = [f"KVM_CAP_{name} ({CAPABILITIES[name]})" for name in names if not self.check_extension(name)]
        if missing:
            raise KvmUnsupported(
                f"this machine's KVM (Linux {os.uname().release}) lacks {', '.join(missing)}: a newer kernel has it"
            )

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """The CPUID leaves that KVM can give to a guest; asked for once, as it takes the kernel a while."""
        if self._cpuid is None:
            self._cpuid = tuple(self._cpuid_entries("KVM_GET_SUPPORTED_CPUID"))
        return self._cpuid

    def emulated_cpuid(self) -> list[CpuidEntry]:
        """The features that KVM's instruction emulator adds (KVM_CAP_EXT_EMUL_CPUID)."""
        return self._cpuid_entries("KVM_GET_EMULATED_CPUID")

    def _cpuid_entries(self, name: str) -> list[CpuidEntry]:
        room = 128
        while True:
            box = ffi.new("struct kvm_cpuid2 *", {"entries": room})
            box.nent = room
            try:
                self.ioctl(name, box)
            except KvmError as error:
                if error.errno != errno.E2BIG or room >= CPUID_LIMIT:
                    raise
                room *= 2
                continue
            return [
                CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx)
                for e in ffi.unpack(box.entries, box.nent)
            ]

    def msr_indices(self) -> list[int]:
        """The MSRs that make up a guest's state (KVM_GET_MSR_INDEX_LIST)."""
        return self._msr_list("KVM_GET_MSR_INDEX_LIST")

    def feature_msr_indices(self) -> list[int]:
        """The MSRs that describe what this host offers (KVM_GET_MSR_FEATURE_INDEX_LIST)."""
        return self._msr_list("KVM_GET_MSR_FEATURE_INDEX_LIST")

    def _msr_list(self, name: str) -> list[int]:
        box = ffi.new("struct kvm_msr_list *", {"indices": 0})
        try:
            self.ioctl(name, box)
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
        box2 = ffi.new("struct kvm_msr_list *", {"indices": box.nmsrs})
        box2.nmsrs = box.nmsrs
        self.ioctl(name, box2)
        return list(ffi.unpack(box2.indices, box2.nmsrs))
