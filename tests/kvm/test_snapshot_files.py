"""Snapshots on the disk: another process goes on from them, and no file that is cut, changed or hostile does harm."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zygote
from helpers import HALT, LIMIT, ROOT, SPIN, flat, hexcode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykvm import Ending, Machine, open_disk
from pykvm.cli.snapshots import find
from pykvm.snapshot import Snapshot, SnapshotError
from pykvm.snapshot.load import read_header
from pykvm.x86.cpuid import set_leaf

Guest = Callable[[str], Path]
HASH = "hash: 4bf48828d481916b\n"

GO_ON = """
import sys
from pykvm import Machine
with Machine.from_snapshot(sys.argv[1]) as machine:
    assert machine.run(60).code == 0
    print(machine.serial.text, end="")
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return zygote.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


def at_text(guest: Path, text: str, **options: Any) -> tuple[Machine, Snapshot]:
    """A machine that has come to `text` on its serial port, paused, and a snapshot of it."""
    machine = Machine(guest, **options)
    machine.start(LIMIT)
    machine.serial.wait_for(text)
    machine.pause()
    return machine, machine.snapshot()


# Going on elsewhere


def test_another_process_goes_on_to_the_same_hash(guest: Guest, tmp_path: Path) -> None:
    machine, snapshot = at_text(guest("hash"), "step 8\n")
    with machine:
        snapshot.save(tmp_path / "a.pykvm")
        machine.resume()
        assert machine.wait().code == 0
        assert machine.serial.text.endswith(HASH)
    done = python(GO_ON, tmp_path / "a.pykvm")
    assert done.stdout == "hashing\nstep 8\nstep 16\nstep 24\n" + HASH, done.stderr


def test_many_processes_go_on_from_one_directory_at_once(guest: Guest, tmp_path: Path) -> None:
    machine, snapshot = at_text(guest("hash"), "step 24\n", memory="8M")
    with machine:
        snapshot.save(tmp_path / "a.pykvm")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a.pykvm").iterdir()}
    command = [sys.executable, "-c", GO_ON, str(tmp_path / "a.pykvm")]
    running = [zygote.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        output, _ = process.communicate(timeout=LIMIT)
        assert output.endswith(HASH)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a.pykvm").iterdir()} == before


def test_a_disk_and_what_was_written_to_it_go_along(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(random.Random(1).randbytes(1 << 20))
    with Machine(guest("disk"), disks=[open_disk(image, "discard")]) as machine:
        machine.run(LIMIT)
        disk = machine.disks[0]
        assert disk is not None
        written = disk.read_at(0, disk.size)
        machine.snapshot().save(tmp_path / "a.pykvm")
    with Snapshot.load(tmp_path / "a.pykvm", trust_disks=True).fork() as fork:
        disk = fork.disks[0]
        assert disk is not None
        assert disk.read_at(0, disk.size) == written
    assert (tmp_path / "a.pykvm" / "disk0").stat().st_blocks * 512 < 64 << 10


def test_a_loaded_snapshot_is_mapped_and_shared(tmp_path: Path) -> None:
    code = hexcode("fe 04 25 00 00 20 00; inc byte [0x200000]") + HALT
    with flat(code, memory="64M") as machine:
        machine.memory.write(0x200000, b"\x07")
        machine.snapshot().save(tmp_path / "a.pykvm")
    loaded = Snapshot.load(tmp_path / "a.pykvm")
    with loaded.fork() as one, loaded.fork() as two:
        one.run(LIMIT)
        assert one.memory.read(0x200000, 1) == b"\x08"
        assert two.memory.read(0x200000, 1) == b"\x07"
        assert one.memory.committed() < 64 << 10
        assert two.memory.committed() == 0
    assert (tmp_path / "a.pykvm" / "memory").stat().st_blocks * 512 < 256 << 10


def test_a_loaded_snapshot_may_be_put_onto_a_machine_that_is_like_it(guest: Guest, tmp_path: Path) -> None:
    machine, snapshot = at_text(guest("hash"), "step 8\n", memory="8M")
    with machine:
        snapshot.save(tmp_path / "a.pykvm")
    with Machine(guest("hello64"), memory="8M") as other:
        own = other.snapshot()
        other.restore(Snapshot.load(tmp_path / "a.pykvm"))
        assert other.run(LIMIT).code == 0
        assert other.serial.text.endswith(HASH)
        other.restore(own)
        assert other.run(LIMIT).code == 0
        assert other.serial.text == "Hello from 64-bit long mode!\n"


# On top of each other


def test_a_snapshot_on_another_has_only_the_pages_that_changed(guest: Guest, tmp_path: Path) -> None:
    with Machine(guest("hash"), memory="32M") as machine:
        machine.memory.write(0x1000000, random.Random(2).randbytes(4 << 20))
        machine.start(LIMIT)
        machine.serial.wait_for("step 8\n")
        machine.pause()
        first = machine.snapshot()
        first.save(tmp_path / "first.pykvm")
        machine.resume()
        machine.serial.wait_for("step 16\n")
        machine.pause()
        machine.memory.zero(0x1000000, 0x1000)  # a page of zeros is a change, too
        second = machine.snapshot()
        second.save(tmp_path / "second.pykvm", parent=first)
        ram = machine.memory.read(0, machine.memory.size)
    sizes = [(tmp_path / name / "memory").stat().st_blocks * 512 for name in ("first.pykvm", "second.pykvm")]
    assert sizes[0] >= 4 << 20
    assert sizes[1] < 128 << 10
    loaded = Snapshot.load(tmp_path / "second.pykvm")
    assert loaded.parent_id == first.id
    with loaded.fork() as fork:
        assert fork.memory.read(0, fork.memory.size) == ram
        third_of = fork.snapshot()
        third_of.save(tmp_path / "third.pykvm", parent=loaded)
        assert fork.run(LIMIT).code == 0
        assert fork.serial.text.endswith(HASH)
    with Snapshot.load(tmp_path / "third.pykvm").fork() as fork:
        assert fork.run(LIMIT).code == 0
        assert fork.serial.text.endswith(HASH)
    (tmp_path / "moved").mkdir()  # all of them may move, together
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.pykvm").rename(tmp_path / "moved" / f"{name}.pykvm")
    Snapshot.load(tmp_path / "moved" / "third.pykvm")


def test_parents_that_are_missing_replaced_or_children_are_told(tmp_path: Path) -> None:
    with flat(HALT) as machine:
        first = machine.snapshot()
        with pytest.raises(SnapshotError, match="saved or loaded before"):
            first.save(tmp_path / "x.pykvm", parent=machine.snapshot())
        first.save(tmp_path / "a.pykvm")
        second = machine.snapshot()
        with pytest.raises(SnapshotError, match="parent itself"):
            second.save(tmp_path / "a.pykvm", parent=first)
        third = machine.snapshot()
        third.save(tmp_path / "c.pykvm")
        machine.snapshot().save(tmp_path / "c.pykvm")  # in the place of the third
        with pytest.raises(SnapshotError, match="replaced"):
            second.save(tmp_path / "d.pykvm", parent=third)
        shutil.rmtree(tmp_path / "c.pykvm")
        with pytest.raises(SnapshotError, match="cannot be read"):
            second.save(tmp_path / "d.pykvm", parent=third)
        second.save(tmp_path / "b.pykvm", parent=first)
        second.save(tmp_path / "a.pykvm", parent=second)  # now each is the other's parent
        with pytest.raises(SnapshotError, match="ancestor"):
            Snapshot.load(tmp_path / "b.pykvm")
        machine.snapshot().save(tmp_path / "a.pykvm")
        with pytest.raises(SnapshotError, match="replaced"):
            Snapshot.load(tmp_path / "b.pykvm")
        shutil.rmtree(tmp_path / "a.pykvm")
        with pytest.raises(SnapshotError, match=r"without its parent .*a\.pykvm"):
            Snapshot.load(tmp_path / "b.pykvm")
    assert {path.name for path in tmp_path.iterdir()} == {"b.pykvm"}


# Saving that fails


def test_what_is_no_snapshot_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis").write_text("years of work")
    with flat(HALT) as machine:
        snapshot = machine.snapshot()
        with pytest.raises(SnapshotError, match="no snapshot"):
            snapshot.save(tmp_path / "papers")
        with pytest.raises(SnapshotError, match="No such file"):
            snapshot.save(tmp_path / "missing" / "a.pykvm")
    assert (tmp_path / "papers" / "thesis").read_text() == "years of work"


def test_a_full_disk_leaves_the_old_snapshot_whole(tmp_path: Path) -> None:
    with flat(HALT, memory="32M") as machine:
        old = machine.snapshot()
        old.save(tmp_path / "a.pykvm")
        machine.memory.write(0x1000000, b"x" * (8 << 20))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, limits[1]))  # a file system that takes no more
        try:
            with pytest.raises(SnapshotError, match="cannot be written"):
                machine.snapshot().save(tmp_path / "a.pykvm")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pykvm"]
    assert Snapshot.load(tmp_path / "a.pykvm").id == old.id


SAVE_FOR_EVER = """
import sys
from pykvm import Machine
with Machine(b"\\xf4", format="flat", mode=64, memory="8M") as machine:
    machine.memory.write(0x200000, b"x" * (2 << 20))
    snapshot = machine.snapshot()
    snapshot.save(sys.argv[1])
    print("saved", flush=True)
    while True:
        snapshot.save(sys.argv[1])
"""


def test_a_crash_while_saving_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "a.pykvm"
    for delay in (1, 3, 7):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(path)]
        process = zygote.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process, process.stdout:
            process.stdout.readline()
            for _ in range(delay):
                Snapshot.load(path)  # at any time, it is one whole snapshot
            process.kill()
        Snapshot.load(path)
    # What a killed save leaves behind has a dot before its name, and no list shows it.
    assert list(find(tmp_path)) == [path]
    assert all(left.name.startswith(".a.pykvm.") for left in tmp_path.iterdir() if left != path)


# Files that are not as they were


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot with a disk, whose files the tests copy."""
    where = tmp_path_factory.mktemp("saved")
    image = where / "disk.img"
    image.write_bytes(bytes(64 << 10))
    with flat(SPIN, memory="1M", load=0x8000, disks=[open_disk(image, "discard")], nics=[]) as machine:
        disk = machine.disks[0]
        assert disk is not None
        disk.write_at(0x3000, b"written")
        machine.start()
        machine.pause()
        machine.snapshot().save(where / "a.pykvm")
    return where / "a.pykvm"


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy.pykvm"))


def goes_on(path: Path) -> None:
    with Snapshot.load(path, trust_disks=True).fork() as machine:
        machine.run(0.01)


def test_the_saved_snapshot_is_good_and_names_no_more_than_it_should(saved: Path) -> None:
    goes_on(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["disk0", "memory", "state.json", "state.json.sha256"]
    state = json.loads((saved / "state.json").read_text())
    assert state["format"] == 2
    assert state["processors"]["vcpus"][0]["registers"]["rip"] == 0x8000
    subprocess.run(["sha256sum", "--check", "--quiet", "state.json.sha256"], check=True, cwd=saved)


@pytest.mark.parametrize("name", ["state.json", "state.json.sha256", "memory", "disk0"])
def test_a_changed_bit_is_found(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    chance = random.Random(3)
    # Only 64 characters of the checksum's file are the checksum, and only one cluster of the disk's is the disk's.
    where = {"state.json.sha256": range(64), "disk0": range(0x3000, 0x4000)}.get(name, range(len(whole)))
    for _ in range(25):
        changed = bytearray(whole)
        changed[chance.choice(where)] ^= 1 << chance.randrange(8)
        (copy / name).write_bytes(changed)
        with pytest.raises(SnapshotError):
            Snapshot.load(copy)


@pytest.mark.parametrize("name", ["state.json", "state.json.sha256", "memory", "disk0"])
def test_a_file_that_is_cut_or_missing_is_found(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    for length in (0, 1, 63 if name.endswith("sha256") else len(whole) // 2):
        (copy / name).write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            Snapshot.load(copy)
    (copy / name).unlink()
    with pytest.raises(SnapshotError):
        Snapshot.load(copy)
    os.mkfifo(copy / name)
    with pytest.raises(SnapshotError):
        Snapshot.load(copy)


def rewrite(path: Path, state: Any) -> None:
    """Put another state into the snapshot, with a good checksum."""
    raw = json.dumps(state).encode()
    (path / "state.json").write_bytes(raw)
    (path / "state.json.sha256").write_text(hashlib.sha256(raw).hexdigest() + "  state.json\n")


def test_another_format_is_refused_in_words(copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text())
    state["format"] = 3
    rewrite(copy, state)
    with pytest.raises(SnapshotError, match="format 3; this pykvm reads format 2 only"):
        Snapshot.load(copy)


def test_features_that_the_host_lacks_are_refused_in_words(copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text())
    state["features"]["0x1.0 edx"] = f"{int(state['features']['0x1.0 edx'], 16) | 1 << 30:#x}"  # IA-64
    rewrite(copy, state)
    with pytest.raises(SnapshotError, match=r"leaf 0x1\.0 edx: bits 0x40000000"):
        Snapshot.load(copy, trust_disks=True).fork()


def test_a_feature_that_only_the_guest_was_told_of_is_not_asked_for(tmp_path: Path) -> None:
    with flat(HALT) as machine:
        edx = next(leaf.edx for leaf in machine.cpuid if leaf.function == 1)
        set_leaf(machine.cpuid, 1, edx=edx | 1 << 30)
        machine.snapshot().save(tmp_path / "a.pykvm")
    with Snapshot.load(tmp_path / "a.pykvm").fork() as fork:
        assert next(leaf.edx for leaf in fork.cpuid if leaf.function == 1) == edx | 1 << 30
        assert fork.run(LIMIT).ending is Ending.HALTED


def test_a_failed_restore_leaves_the_machine_as_it_was(copy: Path) -> None:
    image = copy.parent / "disk.img"
    image.write_bytes(bytes(64 << 10))
    state = json.loads((copy / "state.json").read_text())
    state["processors"]["vcpus"][0]["system"]["cr0"] = 0x80000000  # paging without protection: no CPU can be in it
    rewrite(copy, state)
    with flat(SPIN, memory="1M", load=0x8000, disks=[open_disk(image, "discard")]) as machine:
        machine.memory.write(0x10000, b"mine")
        machine.start()
        machine.pause()
        with pytest.raises(SnapshotError, match="KVM_SET_SREGS"):
            machine.restore(Snapshot.load(copy))
        assert machine.memory.read(0x10000, 4) == b"mine"
        assert machine.vcpus[0].get_registers().rip == 0x8000
        machine.resume()


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in the tree there are leaves and branches."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in paths_of(item, (*path, key)))]


STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False), st.text(max_size=5),
    st.sampled_from([[], {}, {"hex": "zz"}, {"hex": "00"}, {"ascii": "ä"}, {"pairs": [[[], 1]]}, 1 << 63]),
)  # fmt: skip


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_hostile_state_gives_one_error_and_harms_nothing(copy: Path, saved: Path, data: st.DataObject) -> None:
    state = json.loads((saved / "state.json").read_text())
    everything = [path for path in paths_of(state) if path]
    for path in data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=3)):
        holder = state
        try:
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # another change took it away
        if data.draw(st.booleans()) or isinstance(holder, list):
            holder[path[-1]] = data.draw(STRANGE)
        else:
            del holder[path[-1]]
    rewrite(copy, state)
    with suppress(SnapshotError):
        goes_on(copy)
    with suppress(SnapshotError):
        read_header(str(copy))


def test_a_deep_or_endless_state_is_refused(copy: Path) -> None:
    for raw in (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b"", b"null", b"[]", b"NaN"):
        (copy / "state.json").write_bytes(raw)
        (copy / "state.json.sha256").write_text(hashlib.sha256(raw).hexdigest())
        with pytest.raises(SnapshotError):
            Snapshot.load(copy)


def test_a_firmware_that_is_not_the_one_that_was_saved_is_refused(tmp_path: Path) -> None:
    rom = HALT.ljust(64 << 10, b"\xf4")
    with Machine(memory="4M", firmware=rom) as machine:
        machine.snapshot().save(tmp_path / "a.pykvm")
    state = json.loads((tmp_path / "a.pykvm" / "state.json").read_text())
    state["machine"]["firmware"] = "00" * 32
    rewrite(tmp_path / "a.pykvm", state)
    with pytest.raises(SnapshotError, match="firmware has not the checksum"):
        Snapshot.load(tmp_path / "a.pykvm")
