"""What a test may need of the machine it runs on, each with a probe: `@pytest.mark.needs("paging32", "tshark")`.

A probe tries the thing itself. It returns None if the thing is there, else the reason that the skip gives. Probes that
run a guest speak to /dev/kvm by themselves (Linux Documentation/virt/kvm/api.rst, sections 4 and 5): were they made
with pykvm, a bug in pykvm would turn its own tests into skips.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

Probe = Callable[[], str | None]

GET_API_VERSION, CREATE_VM, GET_VCPU_MMAP_SIZE, CREATE_VCPU, RUN = 0xAE00, 0xAE01, 0xAE04, 0xAE41, 0xAE80
SET_USER_MEMORY_REGION, SET_REGS, GET_SREGS, SET_SREGS = 0x4020AE46, 0x4090AE82, 0x8138AE83, 0x4138AE84
SET_GUEST_DEBUG = 0x4048AE9B
EXIT_IO, EXIT_DEBUG = 2, 4
GUESTDBG_ENABLE, GUESTDBG_USE_SW_BP, GUESTDBG_USE_HW_BP = 1 << 0, 1 << 16, 1 << 17
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000

RAM_SIZE = 0x10000
GDT, IDT, PAGE_DIRECTORY, CODE, HANDLER = 0x0, 0x1000, 0x2000, 0x4000, 0x5000
OUT_HLT = bytes.fromhex("e6f4 f4")  # out 0xf4, al; hlt


@cache
def kvm() -> str | None:
    try:
        with _opened("/dev/kvm") as fd:
            version = fcntl.ioctl(fd, GET_API_VERSION)
    except FileNotFoundError:
        return "this machine has no /dev/kvm"
    except OSError as error:
        return f"/dev/kvm cannot be used: {error.strerror}"
    return None if version == 12 else f"/dev/kvm speaks API version {version}, not 12"


@cache
def svm_or_vmx() -> str | None:
    if reason := kvm():
        return reason
    if os.path.exists("/sys/module/kvm_intel") or os.path.exists("/sys/module/kvm_amd"):
        return None
    return "KVM runs here without VMX and SVM"


@cache
def pvm() -> str | None:
    return kvm() or (None if os.path.exists("/sys/module/kvm_pvm") else "KVM's back end here is not PVM")


@cache
def paging32() -> str | None:
    # mov eax, PAGE_DIRECTORY; mov cr3, eax; mov eax, cr0; or eax, 1 << 31; mov cr0, eax
    code = b"\xb8" + struct.pack("<I", PAGE_DIRECTORY) + bytes.fromhex("0f22d8 0f20c0 0d00000080 0f22c0")
    return _guest_ends(EXIT_IO, code + OUT_HLT, "a guest cannot turn on paging outside long mode")


@cache
def ring0_sse() -> str | None:
    return _guest_ends(EXIT_IO, bytes.fromhex("0f57c0") + OUT_HLT, "a guest's ring 0 cannot use SSE (xorps)")


@cache
def ring0_x87() -> str | None:
    return _guest_ends(EXIT_IO, bytes.fromhex("dbe3 d9e8") + OUT_HLT, "a guest's ring 0 cannot use the x87 FPU (fld1)")


@cache
def soft_int() -> str | None:
    return _guest_ends(EXIT_IO, bytes.fromhex("cd20 f4"), "KVM does not run `int n` in a guest's ring 0 by itself")


@cache
def sw_breakpoints() -> str | None:
    code = b"\xcc" + OUT_HLT
    return _guest_ends(EXIT_DEBUG, code, "KVM does not report int3 to the host", debug=GUESTDBG_USE_SW_BP)


@cache
def hw_breakpoints() -> str | None:
    code = b"\x90" + OUT_HLT  # the breakpoint is on the `out`
    return _guest_ends(EXIT_DEBUG, code, "breakpoints in DR0..DR3 are not hit", debug=GUESTDBG_USE_HW_BP)


@cache
def tap() -> str | None:
    try:
        with _opened("/dev/net/tun") as fd:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"", IFF_TAP | IFF_NO_PI))
    except OSError as error:
        return f"cannot make a TAP interface: {error.strerror}"
    return None


def program(name: str) -> Probe:
    """A probe for a program on PATH."""
    return lambda: None if shutil.which(name) else f"{name} is not on PATH"


@cache
def own_mounts() -> str | None:
    try:
        command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return f"unshare cannot be run: {error.strerror}"
    return None if done.returncode == 0 else f"no mounts of one's own can be made: {done.stderr.strip()}"


FEATURES: dict[str, Probe] = {
    "kvm": kvm,
    "svm-or-vmx": svm_or_vmx,
    "pvm": pvm,
    "paging32": paging32,
    "ring0-sse": ring0_sse,
    "ring0-x87": ring0_x87,
    "soft-int": soft_int,
    "sw-breakpoints": sw_breakpoints,
    "hw-breakpoints": hw_breakpoints,
    "tap": tap,
    "own-mounts": own_mounts,
    "fish": program("fish"),
    "gcc": program("gcc"),
    "gdb": program("gdb"),
    "genhtml": program("genhtml"),
    "mke2fs": program("mke2fs"),
    "mtools": program("mtools"),
    "qemu": program("qemu-system-x86_64"),
    "passt": program("passt"),
    "qemu-img": program("qemu-img"),
    "qemu-nbd": program("qemu-nbd"),
    "tshark": program("tshark"),
    "zsh": program("zsh"),
}
"""Every name that the marker `needs` takes."""


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _guest_ends(wanted: int, code: bytes, otherwise: str, debug: int = 0) -> str | None:
    """None if `code`, run in flat 32-bit ring 0, leaves KVM_RUN for the reason `wanted`, else `otherwise`."""
    if reason := kvm():
        return reason
    try:
        return None if _exit_reason(code, debug) == wanted else otherwise
    except OSError as error:
        return f"{otherwise} ({error.strerror})"


def _exit_reason(code: bytes, debug: int) -> int:
    """The first exit reason of `code`. Every probe's code is straight, so that it cannot run for ever."""
    with _opened("/dev/kvm") as system, mmap.mmap(-1, RAM_SIZE) as ram:
        ram[GDT + 8 : GDT + 24] = struct.pack("<QQ", 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
        ram[IDT + 0x20 * 8 : IDT + 0x21 * 8] = struct.pack("<HHHH", HANDLER, 8, 0x8E00, 0)
        ram[PAGE_DIRECTORY : PAGE_DIRECTORY + 4] = struct.pack("<I", 0x83)  # 4 MiB page at 0, writable, present
        ram[CODE : CODE + len(code)] = code
        ram[HANDLER : HANDLER + len(OUT_HLT)] = OUT_HLT
        size = fcntl.ioctl(system, GET_VCPU_MMAP_SIZE)
        vm = fcntl.ioctl(system, CREATE_VM, 0)
        try:
            fcntl.ioctl(vm, SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, RAM_SIZE, _address(ram)))
            vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
            try:
                _enter_flat_mode(vcpu)
                if debug:
                    # DR7: breakpoint 0 on, on execution; bit 10 is always one.
                    debug_registers = (CODE + 1, 0, 0, 0, 0, 0, 0, 0x402)
                    control = GUESTDBG_ENABLE | debug
                    fcntl.ioctl(vcpu, SET_GUEST_DEBUG, struct.pack("<II8Q", control, 0, *debug_registers))
                with mmap.mmap(vcpu, size) as shared:
                    fcntl.ioctl(vcpu, RUN, 0)
                    (reason,) = struct.unpack_from("<I", shared, 8)
                    return int(reason)
            finally:
                os.close(vcpu)
        finally:
            os.close(vm)


def _address(ram: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(ram))


def _enter_flat_mode(vcpu: int) -> None:
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, GET_SREGS, sregs)
    # struct kvm_sregs: cs ds es fs gs ss of 24 bytes each, tr, ldt, gdt at 192, idt, cr0 at 224, cr4 at 248.
    for index in range(6):
        selector, kind = (8, 11) if index == 0 else (16, 3)
        struct.pack_into("<QIH8B2x", sregs, 24 * index, 0, 0xFFFFFFFF, selector, kind, 1, 0, 1, 1, 0, 1, 0)
    struct.pack_into("<QH6xQH6x", sregs, 192, GDT, 23, IDT, 0x21 * 8 - 1)
    struct.pack_into("<Q", sregs, 224, 0x11)  # PE, ET
    struct.pack_into("<Q", sregs, 248, 0x210)  # OSFXSR, PSE
    fcntl.ioctl(vcpu, SET_SREGS, bytes(sregs))
    registers = [0] * 18
    registers[6], registers[16], registers[17] = CODE, CODE, 2  # RSP, RIP, RFLAGS
    fcntl.ioctl(vcpu, SET_REGS, struct.pack("<18Q", *registers))
