"""The network backends against real sockets, interfaces and readers of capture files."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_rig import Line
from hypothesis import given
from hypothesis import strategies as st

from pykvm.device_options.nics import parse_nic
from pykvm.devices.ne2000 import Ne2000
from pykvm.errors import ConfigError
from pykvm.net import MAX_FRAME, POLL_BUDGET, NetBackend, tap, unix
from pykvm.net.loopback import Loopback, NoNet
from pykvm.net.mac import format_mac, parse_mac, stable_mac
from pykvm.net.pcap import Capture
from pykvm.net.tap import TapNet
from pykvm.net.unix import UnixNet

ROOT = Path(__file__).resolve().parent.parent.parent
MAC = bytes.fromhex("525400123456")
PATIENCE = 20
"""Seconds after which something that should have come is taken for lost."""


def frame(number: int, size: int = 60) -> bytes:
    """A broadcast of the type for local experiments (IEEE 802.1)."""
    return (b"\xff" * 6 + MAC + b"\x88\xb5" + number.to_bytes(2, "big")).ljust(size, b"\xa5")


class Inbox:
    """The NIC at a backend: keeps what arrives."""

    def __init__(self, backend: NetBackend) -> None:
        self.backend = backend
        self.frames: list[bytes] = []
        backend.connect(self.frames.append)

    def wait(self, count: int) -> list[bytes]:
        """Poll as the I/O thread does, until `count` frames are here."""
        while len(self.frames) < count:
            fd = self.backend.fileno()
            assert fd is not None
            assert select.select([fd], [], [], PATIENCE)[0], f"{len(self.frames)} of {count} frames came"
            self.backend.poll()
        return self.frames


# -- Loopback and none ------------------------------------------------------------------------------------------------


def test_loopback_returns_each_frame() -> None:
    backend = Loopback()
    backend.send(frame(0))  # nobody there yet
    inbox = Inbox(backend)
    backend.send(frame(1))
    backend.send(frame(2))
    assert inbox.frames == [frame(1), frame(2)]


def test_nothing_plugged_in() -> None:
    backend = NoNet()
    inbox = Inbox(backend)
    backend.send(frame(1))
    backend.poll()
    backend.close()
    assert backend.fileno() is None
    assert inbox.frames == []


# -- MAC addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["52:54:00:12:34:56", "52-54-00-12-34-56", "52:54:0:12:34:56"])
def test_parse_mac(text: str) -> None:
    assert parse_mac(text) == MAC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "525400123456",
        "52:54:00:12:34",
        "52:54:00:12:34:56:78",
        "52:54:00-12-34-56",
        "52:54:00:12:34:5g",
        "52:54:00:12:34:156",
        "52:54:00:12:34:56\n",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ],
)
def test_what_is_no_station_address(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_mac(text)


@given(st.text())
def test_stable_mac_is_stable_local_and_a_station(seed: str) -> None:
    mac = stable_mac(seed)
    assert mac == stable_mac(seed)
    assert mac[0] & 3 == 2  # locally administered, not a group
    assert parse_mac(format_mac(mac)) == mac


def test_stable_mac_differs_by_seed() -> None:
    assert len({stable_mac(f"machine {number}") for number in range(100)}) == 100


# -- UNIX sockets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cable(tmp_path: Path) -> str:
    return str(tmp_path / "cable")


@pytest.fixture
def ends(cable: str) -> Iterator[tuple[UnixNet, UnixNet]]:
    first, second = UnixNet(cable), UnixNet(cable)
    yield first, second
    first.close()
    second.close()


def test_both_ends_of_a_cable_have_one_name(ends: tuple[UnixNet, UnixNet], cable: str) -> None:
    inboxes = [Inbox(end) for end in ends]
    for number in range(5):
        ends[0].send(frame(number, 60 + number))
        ends[1].send(frame(100 + number, MAX_FRAME))
    assert inboxes[0].wait(5) == [frame(100 + number, MAX_FRAME) for number in range(5)]
    assert inboxes[1].wait(5) == [frame(number, 60 + number) for number in range(5)]
    with pytest.raises(ConfigError, match="both ends"):
        UnixNet(cable)


def test_two_boards_at_a_cable(ends: tuple[UnixNet, UnixNet]) -> None:
    boards = [Ne2000("ne", irq=Line(), backend=end, mac=MAC) for end in ends]
    for board in boards:
        for offset, value in ((0, 0x21), (14, 0x49), (1, 0x46), (2, 0x80), (3, 0x46), (12, 0x04), (0, 0x61), (7, 0x47)):
            board.write(offset, 1, value)
        board.write(0, 1, 0x22)
    sent = frame(7)
    for offset, value in ((10, 60), (11, 0), (8, 0), (9, 0x40), (0, 0x12)):
        boards[0].write(offset, 1, value)
    boards[0].write_block(0x10, 2, sent)
    for offset, value in ((4, 0x40), (5, 60), (6, 0), (0, 0x26)):
        boards[0].write(offset, 1, value)
    ends[1].poll()
    assert boards[1].read(7, 1) & 0x01
    for offset, value in ((10, 60), (11, 0), (8, 4), (9, 0x47), (0, 0x0A)):
        boards[1].write(offset, 1, value)
    assert boards[1].read_block(0x10, 2, 30) == sent


def test_nobody_at_the_other_end(cable: str) -> None:
    first = UnixNet(cable)
    first.send(frame(0))
    second = UnixNet(cable)
    inbox = Inbox(second)
    first.send(frame(1))
    assert inbox.wait(1) == [frame(1)]
    second.close()
    first.send(frame(2))

    # The peer comes back, and finds the free end.
    second = UnixNet(cable)
    inbox = Inbox(second)
    first.send(frame(3))
    assert inbox.wait(1) == [frame(3)]
    first.close()
    second.close()


def test_a_peer_that_does_not_keep_up(ends: tuple[UnixNet, UnixNet]) -> None:
    for number in range(5000):
        ends[0].send(frame(number))
    inbox = Inbox(ends[1])
    ends[1].poll()
    kept = len(inbox.frames)
    assert 0 < kept <= POLL_BUDGET
    for _ in range(100):
        ends[1].poll()
    assert len(inbox.frames) < 5000
    assert inbox.frames == [frame(number) for number in range(len(inbox.frames))]
    ends[0].send(frame(9999))
    assert inbox.wait(len(inbox.frames) + 1)[-1] == frame(9999)


def test_what_is_no_frame_is_not_delivered(ends: tuple[UnixNet, UnixNet]) -> None:
    inbox = Inbox(ends[1])
    ends[0].send(bytes(MAX_FRAME + 1))
    ends[0].send(bytes(60000))
    ends[0].send(frame(1))
    assert inbox.wait(1) == [frame(1)]


def test_closed_ends_are_quiet(cable: str) -> None:
    end = UnixNet(cable)
    assert os.path.exists(cable + ".a")
    end.close()
    end.close()
    assert not os.path.exists(cable + ".a")
    assert end.fileno() is None
    end.send(frame(0))
    end.poll()


ECHO = """
import select, sys
from pykvm.net.unix import UnixNet
end = UnixNet(sys.argv[1])
end.connect(lambda frame: end.send(frame[::-1]))
print("ready", flush=True)
while True:
    select.select([end.fileno()], [], [])
    end.poll()
"""


def spawn(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_across_processes_and_past_a_crash(cable: str) -> None:
    end = UnixNet(cable)
    inbox = Inbox(end)
    for number in range(2):
        with spawn(ECHO, cable) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            end.send(frame(number))
            assert inbox.wait(number + 1)[-1] == frame(number)[::-1]
            child.kill()  # leaves its socket behind, which the next one replaces
        assert os.path.exists(cable + ".b")
    end.close()


def test_many_at_once_get_the_two_ends(cable: str) -> None:
    for end in "ab":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(f"{cable}.{end}")
    barrier = threading.Barrier(8)
    got: list[UnixNet] = []
    refused: list[ConfigError] = []

    def come() -> None:
        barrier.wait()
        try:
            got.append(UnixNet(cable))
        except ConfigError as error:
            refused.append(error)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(end.path for end in got) == [cable + ".a", cable + ".b"]
    assert len(refused) == 6
    for end in got:
        end.close()


def test_an_end_that_another_program_has_connected_is_taken(cable: str) -> None:
    pair = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    pair[0].bind(cable + ".a")
    pair[1].bind(cable + ".other")
    pair[0].connect(cable + ".other")  # the host now answers a third one with EPERM
    end = UnixNet(cable)
    assert end.path == cable + ".b"
    for part in (end, *pair):
        part.close()


def test_a_named_peer(tmp_path: Path) -> None:
    """As with a program that binds its own path and knows ours."""
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
        program.settimeout(PATIENCE)
        program.bind(theirs)
        end = UnixNet(ours, theirs)
        inbox = Inbox(end)
        end.send(frame(1))
        assert program.recv(2048) == frame(1)
        program.sendto(frame(2), ours)
        assert inbox.wait(1) == [frame(2)]
        with pytest.raises(ConfigError, match="in use"):
            UnixNet(ours, theirs)
        end.close()


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "cable.a"
    file.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        UnixNet(str(tmp_path / "cable"))
    assert file.read_text() == "precious"
    with pytest.raises(ConfigError, match="cannot make"):
        UnixNet(str(tmp_path / "missing" / "cable"))
    with pytest.raises(ConfigError, match="cannot make"):
        UnixNet(str(tmp_path / ("x" * 200)))


# -- Captures ---------------------------------------------------------------------------------------------------------


def records(data: bytes) -> list[bytes]:
    """The frames in a capture file, whose headers are checked."""
    magic, major, minor, zone, accuracy, snaplen, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, zone, accuracy, link) == (0xA1B23C4D, 2, 4, 0, 0, 1)
    at, frames, before = 24, [], 0
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("<IIII", data, at)
        assert nanoseconds < 1_000_000_000
        assert kept == length <= snaplen
        assert seconds * 1_000_000_000 + nanoseconds >= before
        before = seconds * 1_000_000_000 + nanoseconds
        frames.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    assert at == len(data)
    return frames


def test_capture_of_both_directions(tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    capture = Capture(Loopback(), str(path))
    assert records(path.read_bytes()) == []
    inbox = Inbox(capture)
    capture.send(frame(1))
    assert records(path.read_bytes()) == [frame(1), frame(1)]  # out and back, and no flush was needed
    capture.send(frame(2, MAX_FRAME))
    capture.close()
    capture.close()
    assert records(path.read_bytes()) == [frame(1), frame(1), frame(2, MAX_FRAME), frame(2, MAX_FRAME)]
    assert inbox.frames == [frame(1), frame(2, MAX_FRAME)]
    assert capture.warning is None
    capture.send(frame(3))
    assert inbox.frames[-1] == frame(3)


def test_capture_passes_everything_on(ends: tuple[UnixNet, UnixNet], tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    capture = Capture(ends[0], str(path))
    here, there = Inbox(capture), Inbox(ends[1])
    assert capture.fileno() == ends[0].fileno()
    capture.send(frame(1))
    assert there.wait(1) == [frame(1)]
    ends[1].send(frame(2))
    assert here.wait(1) == [frame(2)]
    assert records(path.read_bytes()) == [frame(1), frame(2)]
    capture.close()
    assert ends[0].fileno() is None


KILLED = """
import os, signal, sys
from pykvm.net.loopback import NoNet
from pykvm.net.pcap import Capture
capture = Capture(NoNet(), sys.argv[1])
for number in range(10):
    capture.send(bytes((number,)) * 60)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_capture_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    with spawn(KILLED, str(path)) as child:
        assert child.wait(PATIENCE) == -signal.SIGKILL
    assert records(path.read_bytes()) == [bytes((number,)) * 60 for number in range(10)]


def test_capture_on_a_full_disk_stops_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    capture = Capture(Loopback(), str(path))
    inbox = Inbox(capture)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for two records and a part of the third; the host then writes that part only.
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 + 2 * (16 + 60) + 30, before[1]))
    try:
        for number in range(3):
            capture.send(frame(number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    capture.send(frame(3))
    assert inbox.frames == [frame(number) for number in range(4)]
    assert records(path.read_bytes()) == [frame(0), frame(0)]
    assert capture.warning is not None
    assert str(path) in capture.warning
    capture.close()


def test_capture_to_a_reader_that_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="cannot write"):
        Capture(NoNet(), str(path))  # nobody reads
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture(NoNet(), str(path))
    capture.send(frame(1))
    assert records(os.read(reader, 4096)) == [frame(1)]
    os.close(reader)
    capture.send(frame(2))
    assert capture.warning is not None
    capture.send(frame(3))
    capture.close()


@pytest.mark.parametrize("path", ["missing/wire.pcap", "", "/dev/full"])
def test_capture_that_cannot_begin(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError):
        Capture(NoNet(), str(tmp_path / path))


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_tshark_reads_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    capture = Capture(NoNet(), str(path))
    for size in (60, 61, MAX_FRAME):
        capture.send(frame(size, size))
    fields = ("frame.len", "eth.src", "eth.type", "frame.encap_type")
    command = ["tshark", "-r", str(path), "-T", "fields", *(part for field in fields for part in ("-e", field))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines == [[str(size), "52:54:00:12:34:56", "0x88b5", "1"] for size in (60, 61, MAX_FRAME)]
    capture.close()


# -- TAP --------------------------------------------------------------------------------------------------------------

TAP_NAME = f"pykvm{os.getpid()}"[:15]


def test_a_tap_interface_that_is_not_there_is_not_made_by_a_typo() -> None:
    with pytest.raises(ConfigError, match=r"no interface nosuchtap7: make it with"):
        parse_nic("tap:nosuchtap7")


@pytest.fixture
def tap_net() -> Iterator[TapNet]:
    if shutil.which("ip") is None:
        pytest.skip("needs ip (iproute2)")
    try:
        backend = TapNet(TAP_NAME)
    except ConfigError as error:
        pytest.skip(f"needs a TAP interface: {error}")
    yield backend
    backend.close()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=PATIENCE)


def test_tap_is_a_cable_into_the_host(tap_net: TapNet) -> None:
    tap_net.send(frame(0))  # the interface is down: dropped
    ip("link", "set", TAP_NAME, "up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as host:
        host.bind((TAP_NAME, 0x88B5))
        host.settimeout(PATIENCE)
        tap_net.send(b"\xff")  # no frame: dropped
        tap_net.send(frame(1))
        assert host.recv(2048) == frame(1)
        inbox = Inbox(tap_net)
        host.send(frame(2, MAX_FRAME))
        count = 1
        while frame(2, MAX_FRAME) not in inbox.wait(count):  # the host has things of its own to say
            count = len(inbox.frames) + 1
    with pytest.raises(ConfigError, match="in use"):
        TapNet(TAP_NAME)


def test_tap_that_is_deleted_under_us(tap_net: TapNet) -> None:
    ip("link", "del", TAP_NAME)
    tap_net.send(frame(1))
    tap_net.poll()
    assert tap_net.fileno() is None  # or the I/O thread would find it readable for ever
    tap_net.send(frame(2))
    tap_net.poll()
    tap_net.close()


def test_tap_refuses_another_kind_of_interface(tap_net: TapNet) -> None:
    with pytest.raises(ConfigError, match="not a TAP"):
        TapNet("lo")


WITHOUT_PRIVILEGE = """
import sys
from pykvm.errors import ConfigError
from pykvm.net.tap import TapNet
try:
    TapNet(sys.argv[1])
except ConfigError as error:
    print(error)
"""


def test_tap_without_the_privilege_says_what_to_do(tap_net: TapNet) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux)")
    command = ["setpriv", "--bounding-set=-net_admin", sys.executable, "-c", WITHOUT_PRIVILEGE, "tap7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "sudo ip tuntap add dev tap7 mode tap user $USER" in done.stdout


def test_host_without_tun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tap, "TUN_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(ConfigError, match="sudo modprobe tun"):
        TapNet("tap0")


@pytest.mark.parametrize("name", ["", "a" * 16, "tap 0", "a/b", "tap%d", "ä" * 8, ".", "eth0:1"])
def test_what_is_no_interface_name(name: str) -> None:
    with pytest.raises(ConfigError, match="not a network interface's name"):
        TapNet(name)


def test_a_lock_that_is_never_given_back_has_a_limit(cable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "LOCK_TIME", 0.05)
    with open(cable + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="has held the lock of"):
            UnixNet(cable)
    UnixNet(cable).close()
