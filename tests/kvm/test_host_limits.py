"""A host that has no more to give: a sentence that says what to do, nothing leaked, nothing hung.

All starts here are real: what cannot be imported, opened or allocated any more is what this is about.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import EXIT_AL, HALT, LIMIT, PYKVM, ROOT, flat

from pykvm import DeviceError, HostError
from pykvm.kvm.closing import wait_closed

Guest = Callable[[str], Path]

PRELUDE = """
import errno, gc, os, resource, sys, threading
from pykvm import HostError, KvmError, Machine, PykvmError, Snapshot
from pykvm.kvm.closing import wait_closed

HALT = bytes.fromhex("fa f4")

def machine(cpus):
    return Machine(HALT, format="flat", mode=64, memory="4M", cpus=cpus)

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def limited(what, limit, cpus):
    "Make and run a machine: what became of it. All must be as before."
    wait_closed()
    before = descriptors(), threading.active_count()
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit, hard))
    try:
        with machine(cpus) as made:
            words = f"ran: {made.run(10).ending}"
    except PykvmError as error:
        words = f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(what, (soft, hard))
    wait_closed()
    gc.collect()
    assert (descriptors(), threading.active_count()) == before, (limit, words)
    return words

for cpus in (1, 2):  # all is imported and opened that is kept for good
    with machine(cpus) as made:
        assert made.run(10).ending == "halted"
"""


def run_code(code: str) -> str:
    """What a program printed that ended well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("cpus", [1, 2])
def test_every_number_of_descriptors_ends_in_a_sentence_or_a_run(cpus: int) -> None:
    ends = run_code(f"""
for limit in range(3, descriptors() + 9):
    print(limited(resource.RLIMIT_NOFILE, limit, {cpus}))
""").splitlines()
    assert ends[0].startswith(("HostError", "KvmError"))
    assert ends[-1] == "ran: halted"
    for end in ends:
        assert end == "ran: halted" or "ulimit -n" in end
    assert not any("id is taken" in end for end in ends)
    assert any("KVM_CREATE_VCPU: EMFILE" in end for end in ends)


@pytest.mark.parametrize("limit", range(4, 16))
def test_a_command_line_with_few_descriptors_ends_with_a_sentence(guest: Guest, limit: int) -> None:
    code = f"""
import resource
import pykvm.cli, pykvm.cli.run, pykvm.machine, pykvm.boot.elf, pykvm.cli.limits, pykvm.boot.source
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
pykvm.cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "run", guest("hello64"), "--timeout", "10"],
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)
    assert done.returncode == 0 or len(done.stderr.splitlines()) == 1
    assert done.returncode == 2 or limit > 8


def test_a_machine_needs_four_descriptors_and_two_more_while_it_runs() -> None:
    shown = run_code("""
wait_closed()
before = descriptors()
spin = Machine(bytes.fromhex("eb fe"), format="flat", mode=64, memory="4M")
print(descriptors() - before)
spin.replay_limit = 0
spin.start()
print(descriptors() - before)
spin.stop()
print(descriptors() - before)
snapshot = spin.snapshot()
kept = descriptors()
fork = snapshot.fork()
print(descriptors() - kept)
""")
    assert shown.split() == ["4", "6", "4", "3"]


@pytest.mark.skipif(os.geteuid() != 0, reason="no other user can be become: not root")
def test_every_number_of_threads_ends_in_a_sentence_or_a_run() -> None:
    # KVM makes a thread of its own at the first KVM_RUN, which counts, too.
    ends = run_code("""
machine(1).close()
os.setgid(64999)
os.setuid(64999)
for limit in range(1, 10):
    print(limited(resource.RLIMIT_NPROC, limit, 2))
""").splitlines()
    assert ends[-1] == "ran: halted"
    for end in ends:
        assert end == "ran: halted" or (end.startswith("HostError") and "ulimit -u" in end)
    assert "HostError" in ends[0]


def test_memory_that_is_not_to_be_had_is_a_sentence() -> None:
    ends = run_code("""
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for more in (0, 1 << 20, 3 << 20):
    print(limited(resource.RLIMIT_AS, used + more, 1))
""").splitlines()
    for end in ends:
        assert end.startswith(("HostError", "KvmError"))
        assert "ulimit -v" in end
        assert "Errno" not in end


@pytest.mark.parametrize("failing", ["pykvm vcpu 0", "pykvm vcpu 1", "pykvm I/O"])
def test_a_start_without_threads_ends_the_run_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == failing:
            raise RuntimeError("can't start new thread")
        start(self)

    before = threading.active_count()
    with flat(HALT, cpus=2) as machine:
        state = machine.snapshot()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(HostError, match="ulimit -u"):
            machine.start(10)
        assert threading.active_count() == before
        assert machine.outcome is not None
        assert machine.outcome.ending == "stopped"
        monkeypatch.setattr(threading.Thread, "start", start)
        machine.restore(state)  # usable: it begins anew
        assert machine.run(10).ending == "halted"
    wait_closed()


def test_a_device_that_gets_no_thread_ends_the_run_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "pykvm worker":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with flat(EXIT_AL) as machine:
        machine.remove(machine.ports.find(0xF4).device)  # type: ignore[union-attr]

        @machine.port(0xF4)
        def set_aside(access: object) -> None:
            machine.engine.aside(lambda: None, lambda _: None)

        with pytest.raises(HostError, match="ulimit -u"):
            machine.run(10)


def test_machines_that_nobody_closed_do_not_keep_the_interpreter_from_ending() -> None:
    shown = run_code("""
left = machine(1)
left.run(10)
fork = left.snapshot().fork()
print("the end")
""")
    assert shown == "the end\n"


def test_what_a_handler_is_refused_is_still_its_own_error() -> None:
    with flat(EXIT_AL) as machine:
        machine.remove(machine.ports.find(0xF4).device)  # type: ignore[union-attr]

        @machine.port(0xF4)
        def fail(access: object) -> None:
            raise OSError(24, "Too many open files")

        with pytest.raises(DeviceError, match="Too many open files"):
            machine.run(10)


# File systems that are full or may not be written, in a mount namespace of one process


FULL = 'mount -t tmpfs -o size=64k none "$place" && { head -c 1M /dev/zero > "$place/filler" 2>/dev/null || true; }'
READ_ONLY = 'mount -t tmpfs -o ro none "$place"'


def pykvm_with(mounts: dict[str, str], *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, with file systems mounted first (by a shell command that knows the `$place`)."""
    script = "".join(f"place={place}; {how} || exit 99\n" for place, how in mounts.items())
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script + 'cd / && exec "$@"', "sh", *PYKVM, *map(str, arguments)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode != 99, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.needs("own-mounts")
@pytest.mark.parametrize("how", [FULL, READ_ONLY])
def test_shared_memory_that_is_full_or_read_only_is_not_needed(guest: Guest, how: str) -> None:
    done = pykvm_with({"/dev/shm": how}, "run", guest("hello64"))
    assert (done.returncode, done.stdout) == (0, "Hello from 64-bit long mode!\n")


@pytest.mark.needs("own-mounts")
def test_a_disk_with_nowhere_to_keep_its_writes_is_a_sentence(guest: Guest) -> None:
    image = guest("hello64")  # any file: it is only read
    nowhere = {"/mnt": READ_ONLY}
    for directory in ("/tmp", "/var/tmp", "/usr/tmp", "/"):  # where Python looks, and, maybe, all that it needs is
        if os.access(directory, os.W_OK):
            nowhere[directory] = (
                '{ [ "$place" = / ] || mount --bind "$place" "$place"; } && mount -o remount,ro,bind "$place"'
            )
    done = pykvm_with(
        nowhere, "run", image, "--disk", f"{image},discard,format=raw", TMPDIR="/mnt", PYTHONDONTWRITEBYTECODE="1"
    )
    assert done.returncode == 2
    assert "TMPDIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.needs("own-mounts")
def test_a_tmpdir_that_becomes_full_is_a_bad_disk_to_the_guest(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(os.urandom(1 << 20))
    (tmp_path / "small").mkdir()
    done = pykvm_with(
        {str(tmp_path / "small"): 'mount -t tmpfs -o size=4k none "$place"'},
        "run", guest("disk"), "--disk", f"{tmp_path}/disk.img,discard", "--timeout", 10, TMPDIR=str(tmp_path / "small"),
    )  # fmt: skip
    assert "disk: ok" not in done.stdout
    assert done.returncode not in (0, 2)


WRITERS = [
    ["snapshot", "{guest}", "/mnt/saved", "--at", "Hello"],
    ["run", "{guest}", "--snapshot-at", "Hello", "--snapshot-to", "/mnt/saved"],
    ["screenshot", "{guest}", "/mnt/shot.png"],
    ["trace", "{guest}", "-o", "/mnt/trace.json"],
    ["coverage", "{guest}", "-o", "/mnt/lcov.info"],
    ["run", "{guest}", "--nic", "none,pcap=/mnt/frames.pcap"],
    ["run", "{guest}", "--gdb", "/mnt/gdb"],
]


@pytest.mark.needs("own-mounts")
@pytest.mark.parametrize("arguments", WRITERS, ids=lambda arguments: f"{arguments[0]} {arguments[-2]}")
def test_a_directory_that_cannot_be_written_is_a_sentence(guest: Guest, arguments: list[str]) -> None:
    done = pykvm_with({"/mnt": READ_ONLY}, *(part.format(guest=guest("hello64")) for part in arguments))
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
