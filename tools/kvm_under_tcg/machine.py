"""One command in the emulated machine: QEMU's command line, the copying of output, and how it ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from image import Image, LaneError

KERNEL_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off init_on_alloc=0 audit=0 apparmor=0 nowatchdog"
)
LOG_TAIL = 3000
"""How many characters of the kernel's log a failure shows."""

HEARTBEAT = 0.5
"""Seconds between the interrupts that are sent from outside.

Now and then QEMU (7.2 at least) loses a request for an interrupt while a nested guest runs. If that was the timer's,
which is set anew only when it has been served, nothing moves any more, time limits included. Any other interrupt makes
the local APIC offer all that wait in it.
"""
HEARTBEAT_COMMAND = b"sendkey shift\n"
"""To QEMU's monitor: a key that types nothing."""


class TimeUp(Exception):
    """The command had not ended within its time."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command and the machine it asks for. `timeout` is in seconds, start-up included; `memory` is QEMU's `-m`."""

    command: Sequence[str]
    timeout: float
    cpus: int = 1
    memory: str = "2G"
    qemu: Sequence[str] = ("qemu-system-x86_64",)
    writable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def run(image: Image, request: Request) -> int:
    """Run the command with its output on this process's stdout and stderr; return its exit status.

    Raises TimeUp, or LaneError if the machine ended before the command did.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-under-tcg-") as directory:
        io = Path(directory)
        mounts = {f"rw{index}": path for index, path in enumerate(request.writable)}
        (io / "writable").write_text("".join(f"{tag} {path}\n" for tag, path in mounts.items()))
        # The shell that runs this got variables from the kernel's command line: `env -i` keeps them out.
        environment = shlex.join(f"{name}={value}" for name, value in request.environment.items())
        (io / "command").write_text(
            f"cd {shlex.quote(os.getcwd())} && exec env -i {environment} {shlex.join(request.command)}\n"
        )
        shares = [*_share("host", Path("/"), read_only=True), *_share("io", io)]
        for tag, path in mounts.items():
            shares += _share(tag, path)
        argv = [*_machine(image, request), "-serial", f"file:{io}/log", *shares]
        _drive(argv, time.monotonic() + request.timeout)
        return _status(io)


def _machine(image: Image, request: Request) -> list[str]:
    # One thread for all emulated CPUs: with a thread each, nested guests crash the kernel now and then.
    return [
        *request.qemu,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-monitor", "stdio"),
        *("-machine", "pc", "-accel", "tcg,thread=single", "-cpu", "max"),
        *("-smp", str(request.cpus), "-m", request.memory),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", KERNEL_COMMAND_LINE),
        *("-device", "virtio-serial-pci"),
    ]


def _share(tag: str, path: Path, read_only: bool = False) -> list[str]:
    options = f"local,id={tag},path={str(path).replace(',', ',,')},security_model=none,multidevs=remap"
    if read_only:
        options += ",readonly=on"
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _drive(argv: list[str], deadline: float) -> None:
    """Run QEMU to its end, copying what the guest prints as it comes; TimeUp at `deadline` (monotonic seconds)."""
    selector = selectors.DefaultSelector()
    readers: list[int] = []
    writers: list[int] = []
    sinks: tuple[tuple[str, BinaryIO], ...] = (("stdout", sys.stdout.buffer), ("stderr", sys.stderr.buffer))
    for name, sink in sinks:
        # QEMU opens its end by name, with O_TRUNC: through a pipe, or it would empty a file that we append to.
        reader, writer = os.pipe()
        selector.register(reader, selectors.EVENT_READ, sink)
        readers.append(reader)
        writers.append(writer)
        argv = [*argv, "-chardev", f"file,id={name},path=/dev/fd/{writer}"]
        argv += ["-device", f"virtserialport,chardev={name},name={name}"]
    try:
        qemu = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=writers)
    except OSError as error:
        raise LaneError(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        for writer in writers:
            os.close(writer)
    assert qemu.stdin is not None
    os.set_blocking(qemu.stdin.fileno(), False)
    beat = time.monotonic()
    try:
        while selector.get_map():
            ready = selector.select(max(0.0, min(beat, deadline) - time.monotonic()))
            if time.monotonic() >= beat:
                _beat(qemu.stdin.fileno())
                beat = time.monotonic() + HEARTBEAT
            for key, _ in ready:
                if data := os.read(key.fd, 1 << 16):
                    key.data.write(data)
                    key.data.flush()
                else:
                    selector.unregister(key.fd)
            if time.monotonic() >= deadline:
                raise TimeUp
        qemu.wait()
    finally:
        qemu.kill()
        qemu.wait()
        qemu.stdin.close()
        selector.close()
        for reader in readers:
            os.close(reader)


def _beat(monitor: int) -> None:
    # Either QEMU is about to end, or it has enough to do.
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        os.write(monitor, HEARTBEAT_COMMAND)


def _status(io: Path) -> int:
    try:
        return int((io / "status").read_text())
    except (FileNotFoundError, ValueError):
        pass
    if (failure := io / "failure").exists():
        reason = failure.read_text().strip()
    else:
        reason = "the machine ended before the command did"
    log = (io / "log").read_text(errors="replace")[-LOG_TAIL:].strip() if (io / "log").exists() else ""
    raise LaneError(f"{reason}; the kernel's last words:\n{log}" if log else reason)
