"""What a failed ioctl raises, with what usually helps."""

from __future__ import annotations

import errno
import os

from ..errors import ADVICE, PykvmError

_SCARCE = {number: ADVICE[number] for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)}


class KvmError(PykvmError):
    """A KVM ioctl failed. `ioctl` is its name, `errno` the number that the kernel gave.

    `hint` is the usual cause where the kernel found something wrong with what was asked. A host that has no more to
    give is another cause.
    """

    def __init__(self, ioctl: str, number: int, hint: str = "") -> None:
        self.ioctl = ioctl
        self.errno = number
        hint = _SCARCE.get(number, hint)
        name = errno.errorcode.get(number, str(number))
        super().__init__(f"{ioctl}: {name} ({os.strerror(number)})" + (f": {hint}" if hint else ""))


class KvmUnavailable(PykvmError):
    """There is no usable KVM on this machine; the message says why and what to do."""


class KvmUnsupported(PykvmError):
    """This machine's KVM lacks a capability that was asked for."""


class StaleBuild(PykvmError, ImportError):
    """The compiled part of pykvm is missing, or older than its sources; the message has the command that builds it."""


def unavailable(path: str, error: OSError) -> KvmUnavailable:
    """The error for a `path` (normally /dev/kvm) that cannot be opened, with the cause and the remedy."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        try:
            with open("/proc/cpuinfo") as cpuinfo:
                flags = cpuinfo.read()
        except OSError:
            flags = ""
        if " svm" in flags:
            remedy = "load its module: sudo modprobe kvm_amd"
        elif " vmx" in flags:
            remedy = "load its module: sudo modprobe kvm_intel"
        else:
            remedy = (
                "this CPU shows neither vmx nor svm: switch on virtualization in the firmware's setup, or, "
                "where this is a virtual machine itself, nested virtualization in the one around it"
            )
        return KvmUnavailable(f"{path} is not there: {remedy}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return KvmUnavailable(
            f"no permission to open {path}: join its group (sudo usermod -aG kvm $USER) and log in again"
        )
    if error.errno == errno.EBUSY:
        return KvmUnavailable(f"{path} is busy: another hypervisor (VirtualBox, VMware) holds the CPU; stop it")
    return KvmUnavailable(f"{path} cannot be opened: {_SCARCE.get(error.errno or 0, error.strerror)}")
