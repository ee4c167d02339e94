"""One open KVM file descriptor and the two forms of ioctl on it. All of cffi stays behind this package."""

from __future__ import annotations

import os

from ..typed import Any
from ._kvm import ffi, lib
from .errors import KvmError

_ioctl = lib.pykvm_ioctl
_ioctl_int = lib.pykvm_ioctl_int


class Descriptor:
    """Owns `fd`; closing twice is harmless."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor; the kernel frees the object when all descriptors that refer to it are closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def ioctl(self, name: str, argument: Any, hint: str = "") -> int:
        """The ioctl `name` (as in <linux/kvm.h>) with a pointer; KvmError if it fails."""
        result: int = _ioctl(self.fd, getattr(lib, name), argument)
        if result < 0:
            raise KvmError(name, ffi.errno, hint)
        return result

    def ioctl_int(self, name: str, argument: int = 0, hint: str = "") -> int:
        """The ioctl `name` with a number; KvmError if it fails."""
        result: int = _ioctl_int(self.fd, getattr(lib, name), argument)
        if result < 0:
            raise KvmError(name, ffi.errno, hint)
        return result

    def check_extension(self, capability: str) -> int:
        """What KVM_CHECK_EXTENSION answers for "KVM_CAP_" + `capability`: 0 is no, other values depend on it."""
        number = getattr(lib, f"KVM_CAP_{capability}")
        return 0 if number < 0 else self.ioctl_int("KVM_CHECK_EXTENSION", number)

    def read_blob(self, name: str, ctype: str) -> bytes:
        """The structure that a KVM_GET_* ioctl fills, as bytes."""
        box = ffi.new(f"{ctype} *")
        self.ioctl(name, box)
        return bytes(ffi.buffer(box))

    def write_blob(self, name: str, ctype: str, data: bytes) -> None:
        """Hand `data` to a KVM_SET_* ioctl; ValueError if it has not the structure's size."""
        box = ffi.new(f"{ctype} *")
        if len(data) != ffi.sizeof(box[0]):
            raise ValueError(f"{name} takes {ffi.sizeof(box[0])} bytes, not {len(data)}")
        ffi.buffer(box)[:] = data
        self.ioctl(name, box)

    def __del__(self) -> None:
        self.close()
