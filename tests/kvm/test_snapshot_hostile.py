"""What the files of a snapshot may hold, or become, when somebody else can write them: no signal, no fault of the guest's,
no file of the host's for the guest, and no more memory than the files themselves take up."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zygote
from helpers import EXIT_AL, HALT, LIMIT, PYKVM, ROOT, SPIN, flat, hexcode

from pykvm import Machine, Snapshot, SnapshotError, open_disk
from pykvm.snapshot import save as saving
from pykvm.snapshot import unfinished

MIB = 1 << 20
ROOM = 300 * MIB
"""Address space of a process that loads a hostile snapshot: Python and the libraries, and not much more."""


def rewrite(path: Path, change: Any) -> None:
    """Have `change` work on the state, and give it a good checksum again."""
    state = json.loads((path / "state.json").read_text())
    change(state)
    put(path, json.dumps(state))


def put(path: Path, text: str) -> None:
    (path / "state.json").write_text(text)
    (path / "state.json.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  state.json\n")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Of a machine that reads the byte at 0x105000, which is 0x5a, and leaves with it."""
    read = hexcode("8a 04 25 00 50 10 00; mov al, [0x105000]") + EXIT_AL
    with flat(read, memory="4M", disks=[None, open_disk(blank(tmp_path), "discard")]) as machine:
        machine.memory.write(0x105000, b"\x5a")
        machine.snapshot().save(tmp_path / "saved")
    return tmp_path / "saved"


def blank(directory: Path) -> Path:
    (directory / "disk.img").write_bytes(b"not for guests".ljust(MIB, b"\0"))
    return directory / "disk.img"


@pytest.mark.parametrize("verify", [True, False])
def test_files_that_are_cut_after_loading_change_nothing(saved: Path, verify: bool) -> None:
    snapshot = Snapshot.load(saved, verify=verify, trust_disks=True)
    with snapshot.fork() as early:
        os.truncate(saved / "memory", 0)
        with snapshot.fork() as late:
            for machine in (early, late):
                assert machine.run(LIMIT).value == 0x5A
    with pytest.raises(SnapshotError, match="4194304"):
        Snapshot.load(saved, verify=verify)


def test_a_disk_image_outside_is_opened_only_if_that_is_confirmed(saved: Path) -> None:
    with pytest.raises(SnapshotError, match=r"disk\.img.*trust_disks=True.*--trust-disks"):
        Snapshot.load(saved).fork()
    with Snapshot.load(saved, trust_disks=True).fork() as machine:
        disk = machine.disks[1]
        assert disk is not None
        assert disk.read_at(0, 14) == b"not for guests"
    with Machine.from_snapshot(saved, trust_disks=True) as machine:
        assert machine.run(LIMIT).value == 0x5A
    with Snapshot.load(saved).fork(disks=[None, open_disk(blank(saved.parent), "ro")]):
        pass


def test_a_disk_image_beside_the_files_needs_no_confirmation(saved: Path) -> None:
    inside = saved / "images" / "disk.img"
    inside.parent.mkdir()
    (saved.parent / "disk.img").rename(inside)
    rewrite(saved, lambda state: state["disks"][1].update(path="images/disk.img"))
    with Snapshot.load(saved).fork() as machine:
        assert machine.run(LIMIT).value == 0x5A
    inside.unlink()
    inside.symlink_to("/etc/passwd")
    with pytest.raises(SnapshotError, match="trust"):
        Snapshot.load(saved).fork()


@pytest.mark.parametrize("swapped", ["image", "directory"])
def test_what_counts_is_the_disk_image_that_is_opened(
    saved: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """Between the look at a name and the opening of it the file, or the snapshot's directory, becomes a link."""
    (saved.parent / "disk.img").rename(saved / "disk.img")
    rewrite(saved, lambda state: state["disks"][1].update(path="disk.img"))
    snapshot, look = Snapshot.load(saved), os.path.realpath
    there = saved.parent / "elsewhere"
    there.mkdir()
    shutil.copy2(saved / "disk.img", there)

    def look_and_swap(path: str) -> str:
        seen = look(path)
        place = saved / "disk.img" if swapped == "image" else saved
        place.rename(saved.parent / "before")
        place.symlink_to(there / "disk.img" if swapped == "image" else there)
        return seen

    with monkeypatch.context() as patched:
        patched.setattr(os.path, "realpath", look_and_swap)
        with pytest.raises(SnapshotError, match="trust"):
            snapshot.fork()
    with pytest.raises(SnapshotError, match="trust"):
        snapshot.fork()


@pytest.mark.parametrize("command", ["restore", "inspect"])
def test_the_command_line_names_what_to_say(saved: Path, command: str) -> None:
    if command == "inspect":
        done = zygote.run(
            [*PYKVM, command, str(saved), "--part", "cpu"], cwd=ROOT, capture_output=True, timeout=LIMIT, check=False
        )
        assert (done.returncode, b"--trust-disks" in done.stderr) == (2, True)
    command = [*PYKVM, "restore", str(saved), "--quiet"]
    refused = zygote.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (refused.returncode, "--trust-disks" in refused.stderr) == (2, True)
    agreed = zygote.run([*command, "--trust-disks"], cwd=ROOT, capture_output=True, timeout=LIMIT, check=False)
    assert agreed.returncode == (0x5A * 2 + 1) & 0xFF


BOMBS: dict[str, Any] = {
    "memory that is a hole": lambda state: state.update(
        memory=[[at, MIB, 0xA738EA1C] for at in range(0, 2 << 30, MIB)], machine={**state["machine"], "memory": 2 << 30}
    ),
    "a disk that is a hole": lambda state: state["disks"][1].update(
        path=None, size=1 << 40, overlay=True, extents=[[at * MIB, MIB, 0xA738EA1C] for at in range(4096)]
    ),
    "values beyond number": lambda state: state["devices"].update(x={"list": [[]] * (1 << 20)}),
    "deep": lambda state: state["devices"].update(x={"list": json.loads("[" * 900 + "]" * 900)}),
    "a large text": lambda state: state.update(screen=["x" * (20 << 20)]),
    "large numbers": lambda state: state.update(exits=10 ** (1 << 16)),
}
"""0xA738EA1C is the CRC-32 of 1 MiB of zeros."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_allocated_is_in_proportion_to_the_files(saved: Path, bomb: str) -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        rewrite(saved, BOMBS[bomb])
    finally:
        sys.set_int_max_str_digits(limit)
    if "memory" in bomb:
        os.truncate(saved / "memory", 2 << 30)
    if "disk" in bomb:
        with open(saved / "disk1", "wb") as file:
            file.truncate(1 << 40)
    code = f"""
from pathlib import Path
from pykvm import Snapshot, SnapshotError
from pykvm.snapshot.load import read_header
try:
    read_header({str(saved)!r})
    Snapshot.load({str(saved)!r})
except SnapshotError:
    pass
# Not ru_maxrss, in which the size of the process that started this one counts.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run(  # for real: a fork has the zygote's memory, too
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) << 10 < ROOM


def test_what_is_saved_can_be_loaded_however_much_a_guest_has_said(tmp_path: Path) -> None:
    with flat(HALT) as machine:
        with machine.lock:
            machine.serial.write(b"\x00\xff" * (4 * MIB))
        said = machine.serial.output
        machine.snapshot().save(tmp_path / "s")
    with Snapshot.load(tmp_path / "s").fork() as fork:
        assert fork.serial.output == said


def test_output_that_is_cut_changed_or_longer_than_ever_is_refused(tmp_path: Path) -> None:
    with flat(HALT) as machine:
        with machine.lock:
            machine.serial.write(b"ready")
        machine.snapshot().save(tmp_path / "s")
    console = tmp_path / "s" / "console1"
    assert console.read_bytes() == b"ready"
    for other in (b"", b"read", b"reads"):
        console.write_bytes(other)
        with pytest.raises(SnapshotError):
            Snapshot.load(tmp_path / "s")
    rewrite(tmp_path / "s", lambda state: state["consoles"][1].update(output=[[at * MIB, MIB, 0] for at in range(9)]))
    with pytest.raises(SnapshotError, match="not within the file"):
        Snapshot.load(tmp_path / "s")


@pytest.mark.parametrize("on_parent", [False, True])
def test_ram_in_more_pieces_than_a_file_names_is_saved_in_longer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_parent: bool
) -> None:
    monkeypatch.setattr(saving, "EXTENTS", 10)
    with flat(HALT, memory="4M") as machine:
        machine.memory.write(0x10000, os.urandom(MIB))
        parent = machine.snapshot()
        parent.save(tmp_path / "parent")
        for page in range(0, 900, 3):
            machine.memory.write(page * 4096 + 7, b"\xa5")
        machine.snapshot().save(tmp_path / "s", parent=parent if on_parent else None)
        ram = machine.memory.read(0, machine.memory.size)
    assert 1 <= len(json.loads((tmp_path / "s" / "state.json").read_text())["memory"]) <= 10
    assert Snapshot.load(tmp_path / "s").image.map[:] == ram
    monkeypatch.setattr(saving, "EXTENTS", 2)
    with pytest.raises(SnapshotError, match="uses more than"):
        Snapshot.load(tmp_path / "s").save(tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_zeros_on_a_parent_may_be_holes(tmp_path: Path) -> None:
    """`cp --sparse=always` makes a hole of a page of zeros, which still is a change."""
    with flat(HALT, memory="1M", load=0x1000, entry=0x1000, mode=16) as machine:
        machine.memory.write(0x40000, b"\x5a" * 0x3000)
        parent = machine.snapshot()
        parent.save(tmp_path / "parent")
        machine.memory.zero(0x41000, 0x1000)
        machine.snapshot().save(tmp_path / "s", parent=parent)
        ram = machine.memory.read(0, machine.memory.size)
    memory = tmp_path / "s" / "memory"
    subprocess.run(["cp", "--sparse=always", memory, tmp_path / "sparse"], check=True)
    (tmp_path / "sparse").rename(memory)
    assert Snapshot.load(tmp_path / "s").image.map[:] == ram


KILLED = """
import os, sys
from pykvm import Machine
from pykvm.snapshot import save
def die(*_):
    os.kill(os.getpid(), 9)
save._sync = die
with Machine(b"\\xf4", format="flat", mode=64, memory="4M") as machine:
    machine.snapshot().save(sys.argv[1])
"""


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("by", ["save", "list"])
def test_what_killed_saves_leave_is_tidied_but_nothing_of_the_living(tmp_path: Path, by: str) -> None:
    zygote.run([sys.executable, "-c", KILLED, str(tmp_path / "s")], cwd=ROOT, timeout=LIMIT, check=False)
    assert len(hidden(tmp_path)) == 1
    with unfinished.working_directory(str(tmp_path), "living"):
        assert len(hidden(tmp_path)) == 2
        if by == "save":
            with flat(HALT, memory="1M", load=0x1000, entry=0x1000, mode=16) as machine:
                machine.snapshot().save(tmp_path / "other")
        else:
            zygote.run([*PYKVM, "snapshots", str(tmp_path)], cwd=ROOT, timeout=LIMIT, check=False, capture_output=True)
        assert [name.startswith(".living.") for name in hidden(tmp_path)] == [True]
    assert hidden(tmp_path) == []


def test_what_was_put_aside_when_a_save_was_killed_comes_back(tmp_path: Path) -> None:
    """Where two names cannot be exchanged, there is a moment at which neither snapshot has its name."""
    with flat(HALT) as machine:
        first = machine.snapshot()
        first.save(tmp_path / "s")
    work = tmp_path / f".s.abcdefgh{unfinished.SUFFIX}"
    work.mkdir()
    (tmp_path / "s").rename(f"{work}{unfinished.ASIDE}")
    unfinished.tidy(str(tmp_path))
    assert Snapshot.load(tmp_path / "s").id == first.id
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_libc_without_renameat2_replaces_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with flat(HALT) as machine:
        machine.snapshot().save(tmp_path / "s")
        second = machine.snapshot()
        monkeypatch.setattr(saving.ctypes, "CDLL", lambda *_, **__: object())
        second.save(tmp_path / "s")
    assert Snapshot.load(tmp_path / "s").id == second.id
    assert hidden(tmp_path) == []


def test_a_file_system_that_is_full_gives_one_error_and_keeps_nothing(tmp_path: Path) -> None:
    with flat(SPIN, memory="4M") as machine:
        machine.memory.write(0, os.urandom(2 * MIB))
        snapshot = machine.snapshot()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
        try:
            with pytest.raises(SnapshotError, match="cannot be written"):
                snapshot.save(tmp_path / "s")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SnapshotError, match="cannot be written"):
        snapshot.save("/proc/s")


def test_a_snapshot_says_what_it_is(saved: Path) -> None:
    text = repr(Snapshot.load(saved))
    assert "\n" not in text
    assert "4 MiB, 1 CPU" in text
    assert str(saved) in text
