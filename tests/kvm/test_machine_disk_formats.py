"""Disks in images of other formats and from NBD servers, as a guest sees them; with snapshots, and with kill -9."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from helpers import LIMIT, PYKVM, ROOT, flat
from test_snapshot_hostile import rewrite

from pykvm import DeviceError, Machine, Snapshot, SnapshotError, open_disk
from pykvm.disk.policy import DiskError
from pykvm.disk.qemu_nbd import QemuDisk

Guest = Callable[[str], Path]

SECTORS = 64
SPIN = bytes.fromhex("ebfe")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SECTORS * 512)], check=True)
    return path


def read_back(path: Path) -> bytes:
    raw = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    return raw.read_bytes()


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
def test_what_a_guest_writes_is_in_the_image(guest: Guest, image: Path) -> None:
    with Machine(guest("disk"), disks=[None, image]) as machine:
        assert machine.run(LIMIT).code == 0
        assert "disk: ok" in machine.serial.text
        disk = machine.disks[1]
        assert isinstance(disk, QemuDisk)
        written = disk.read_at(0, disk.size)
    assert not os.path.exists(f"/proc/{disk.pid}")
    assert read_back(image) == written != bytes(len(written))
    subprocess.run(["qemu-img", "check", "-q", image], check=True)


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
def test_a_snapshot_has_what_was_written_over_the_image(guest: Guest, image: Path, tmp_path: Path) -> None:
    empty = hashlib.sha256(image.read_bytes()).digest()
    with Machine(guest("disk"), disks=[open_disk(image, "discard")]) as machine:
        before = machine.snapshot()
        assert machine.run(LIMIT).code == 0
        disk = machine.disks[0]
        assert disk is not None
        written = disk.read_at(0, disk.size)
        after = machine.snapshot()
        after.save(tmp_path / "a.pykvm")
        machine.restore(before)
        assert disk.read_at(0, disk.size) == bytes(disk.size)
        with after.fork() as fork:
            forked = fork.disks[0]
            assert forked is not None
            assert forked.read_at(0, forked.size) == written
    with pytest.raises(SnapshotError, match="trust_disks=True"):
        Snapshot.load(tmp_path / "a.pykvm").fork()
    with Snapshot.load(tmp_path / "a.pykvm", trust_disks=True).fork() as fork:
        forked = fork.disks[0]
        assert forked is not None
        assert forked.read_at(0, forked.size) == written
    assert hashlib.sha256(image.read_bytes()).digest() == empty
    os.utime(image)
    with pytest.raises(SnapshotError, match="has been changed since"):
        Snapshot.load(tmp_path / "a.pykvm", trust_disks=True).fork()


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
def test_a_snapshot_opens_no_file_that_its_image_names(image: Path, tmp_path: Path) -> None:
    """A snapshot in which an image is that names a file of the host, as somebody else may have made it."""
    with flat(SPIN, memory="1M", load=0x8000, disks=[open_disk(image, "discard")]) as machine:
        machine.snapshot().save(tmp_path / "a.pykvm")
    inside = tmp_path / "a.pykvm" / "disk.qcow2"
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * SECTORS * 512)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", inside], check=True)
    stamp = max(inside.stat().st_mtime_ns, secret.stat().st_mtime_ns)
    rewrite(tmp_path / "a.pykvm", lambda state: state["disks"][0].update(path="disk.qcow2", stamp=stamp))
    with pytest.raises(SnapshotError, match="names another file"):
        Snapshot.load(tmp_path / "a.pykvm").fork()
    rewrite(tmp_path / "a.pykvm", lambda state: state["disks"][0].update(backing=True))
    with pytest.raises(SnapshotError, match="names the file '.*secret' of this host"):
        Snapshot.load(tmp_path / "a.pykvm").fork()
    with Snapshot.load(tmp_path / "a.pykvm", trust_disks=True).fork() as fork:
        assert fork.disks[0] is not None
        assert fork.disks[0].read_at(0, 1) == b"s"
    rewrite(tmp_path / "a.pykvm", lambda state: state["disks"][0].update(format="nbd", path="nbd://localhost/"))
    with pytest.raises(SnapshotError, match="names the file 'nbd://localhost/'"):
        Snapshot.load(tmp_path / "a.pykvm").fork()
    rewrite(tmp_path / "a.pykvm", lambda state: state["disks"][0].update(format="nonsense"))
    with pytest.raises(SnapshotError, match="format 'nonsense'"):
        Snapshot.load(tmp_path / "a.pykvm")


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
def test_a_disk_of_anothers_nbd_server(guest: Guest, image: Path, tmp_path: Path) -> None:
    where = tmp_path / "socket"
    words = ["qemu-nbd", "-t", "-e", "2", "-f", "qcow2", "-x", "a name", "-k", where, "--fork", "--pid-file", "pid"]
    subprocess.run([*words, image], check=True, cwd=tmp_path)
    pid = int((tmp_path / "pid").read_text())
    server = os.pidfd_open(pid)
    uri = f"nbd+unix:///a%20name?socket={where}"
    try:
        with Machine(guest("disk"), disks=[open_disk(uri, "discard")]) as machine:
            assert machine.run(LIMIT).code == 0
            disk = machine.disks[0]
            assert disk is not None
            with machine.snapshot().fork() as fork:
                forked = fork.disks[0]
                assert forked is not None
                assert forked.read_at(0, forked.size) == disk.read_at(0, disk.size) != bytes(disk.size)
        with Machine(guest("disk"), disks=[uri]) as machine:
            assert machine.run(LIMIT).code == 0
    finally:
        os.kill(pid, 15)
        select.select([server], [], [])
        os.close(server)
    assert read_back(image) != bytes(SECTORS * 512)


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
def test_kill_9_in_the_middle_of_a_run_leaves_a_whole_image_and_no_process(guest: Guest, image: Path) -> None:
    words = [*PYKVM, "run", guest("disk"), "--disk", f"{image},rw", "--disk", f"{image.with_suffix('.vdi')}"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "vdi", image.with_suffix(".vdi"), "1M"], check=True)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while b"wrote" not in (line := process.stdout.readline()):
            assert line
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        ends = [os.pidfd_open(int(child)) for child in children.split()]
        process.kill()
    assert len(ends) == 2
    for end in ends:
        select.select([end], [], [])
        os.close(end)
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    subprocess.run(["qemu-img", "check", "-q", image.with_suffix(".vdi")], check=True)


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
def test_the_command_line_takes_formats_and_modes_in_any_order(guest: Guest, image: Path) -> None:
    other = shutil.copy(image, image.with_name("a,b"))
    before = image.read_bytes()
    words = [*PYKVM, "run", guest("disk"), "--disk", f"{image},snapshot", "--disk", f"{other},format=qcow2,discard"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, "disk: ok" in done.stdout) == (0, True), done.stderr
    assert 'primary slave: "PYKVM' in done.stdout
    assert image.read_bytes() == Path(other).read_bytes() == before
    done = subprocess.run([*words, "--disk", f"{image},ro,rw"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "behind the comma there may be" in done.stderr


@pytest.mark.needs("kvm", "qemu-img", "qemu-nbd")
@pytest.mark.parametrize("on_error", ["report", "stop"])
def test_a_disk_that_is_lost(guest: Guest, image: Path, on_error: Literal["report", "stop"]) -> None:
    disk = open_disk(image, on_error=on_error)
    assert isinstance(disk, QemuDisk)
    with Machine(guest("disk"), disks=[disk]) as machine:
        os.kill(disk.pid, signal.SIGKILL)
        if on_error == "report":
            assert machine.run(LIMIT).code == 3
            assert "disk: FAILED at write" in machine.serial.text
        else:
            with pytest.raises(DeviceError, match=r"cannot be written.*ends as on-error=stop has it") as caught:
                machine.run(LIMIT)
            assert isinstance(caught.value.__cause__, DiskError)
        assert disk.lost is not None


@pytest.mark.needs("kvm")
def test_the_command_line_tells_of_a_lost_disk(guest: Guest, tmp_path: Path) -> None:
    """An NBD server that leaves after the handshake and one request."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(1)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"NBDMAGICIHAVEOPT\0\1")
                while not sock.recv(4096).endswith(b"\0\1\0\3"):
                    pass
                sock.sendall(struct.pack(">QIIIHQH", 0x3E889045565A9, 7, 3, 12, 0, SECTORS * 512, 1))
                sock.sendall(struct.pack(">QIII", 0x3E889045565A9, 7, 1, 0))
                sock.recv(28)

        thread = threading.Thread(target=serve)
        thread.start()
        words = [*PYKVM, "run", guest("disk"), "--disk", f"nbd+unix:///?socket={tmp_path}/socket"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
        thread.join()
    assert done.returncode == 3
    assert f"the disk nbd+unix:///?socket={tmp_path}/socket was lost: its NBD server" in done.stderr
