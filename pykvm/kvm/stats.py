"""What KVM counts for a vCPU or VM: exits that user space never sees, halts, interrupts injected, page faults.

Source: Documentation/virt/kvm/api.rst, 4.133 (KVM_GET_STATS_FD): a header, descriptors with names, and data.
"""

from __future__ import annotations

import os
import struct

from .descriptor import Descriptor

_HEADER = struct.Struct("<6I")
_DESCRIPTOR = struct.Struct("<IhHII")
"""Flags, exponent, number of values, offset, bucket size; the name follows."""
LIMIT = 1 << 16
"""Bytes of descriptors that are read: some 300 statistics."""


def statistics(owner: Descriptor) -> dict[str, int]:
    """All statistics of a vCPU or VM that are one number, by their names in the kernel; names in _ns are nanoseconds.

    Needs BINARY_STATS_FD, which is to be asked of the VM.
    """
    fd = owner.ioctl_int("KVM_GET_STATS_FD")
    try:
        _, name_size, count, _, descriptors, data = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        step = _DESCRIPTOR.size + name_size
        raw = os.pread(fd, min(step * count, LIMIT), descriptors)
        found = {}
        for at in range(0, len(raw) - step + 1, step):
            _, _, size, offset, _ = _DESCRIPTOR.unpack_from(raw, at)
            name = raw[at + _DESCRIPTOR.size : at + step].split(b"\0")[0].decode("ascii", "replace")
            if size == 1:
                found[name] = int.from_bytes(os.pread(fd, 8, data + offset), "little")
        return found
    finally:
        os.close(fd)
