"""Guests that misbehave: the time limit is wall-clock and holds, the host stays responsive, and memory stays bounded."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zygote
from helpers import BRIEF, LIMIT, PYKVM, ROOT, SPIN, flat, hexcode, resident

from pykvm import Ending, Machine
from pykvm.bus import UNCLAIMED_LIMIT
from pykvm.console import port
from pykvm.disk.memory import MemoryDisk
from pykvm.net.loopback import Loopback
from pykvm.net.unix import UnixNet

Guest = Callable[[str], Path]

GROWTH = 48 << 20
"""Bytes that a run of a moment may cost this process: far more than what is kept on purpose."""

PORT_SCAN = hexcode(
    """
    31 d2    ; xor edx, edx
    ec       ; again: in al, dx
    ff c2 ; inc edx
    eb fb    ; jmp again
    """
)
MMIO_SCAN = hexcode(
    """
    bf 00 00 00 f0 ; mov edi, 0xf0000000
    89 07          ; again: mov [rdi], eax
    83 c7 04       ; add edi, 4
    eb f9          ; jmp again
    """
)


@pytest.mark.parametrize("name", ["spin", "flood", "chaos"])
def test_the_time_limit_holds(guest: Guest, name: str) -> None:
    with Machine(guest(name)) as machine:
        before = resident()
        outcome = machine.run(BRIEF)
        assert outcome.ending is Ending.TIMED_OUT
        assert outcome.elapsed >= BRIEF
        assert f"{BRIEF:g} s" in outcome.reason
        assert resident() - before < GROWTH
        assert len(machine.ports.unclaimed) <= UNCLAIMED_LIMIT


def test_random_accesses_to_every_device_do_no_harm(guest: Guest) -> None:
    disks = [MemoryDisk(bytes(100 * 512)) for _ in range(4)]
    with Machine(guest("chaos"), disks=disks, nics=[Loopback() for _ in range(4)], serial_ports=4) as machine:
        before = resident()
        assert machine.run(BRIEF).ending is Ending.TIMED_OUT
        assert resident() - before < GROWTH
        assert all(disk.size == 100 * 512 for disk in disks)


def test_of_a_flood_the_end_is_kept(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "OUTPUT_LIMIT", 1000)
    monkeypatch.setattr(port, "OUTPUT_MOST", 2000)
    came, enough = 0, threading.Event()

    def count(data: bytes) -> None:
        nonlocal came
        came += len(data)
        if came >= 5000:
            enough.set()

    with Machine(guest("flood")) as machine:
        machine.serial.sink = count
        machine.start(LIMIT)
        assert enough.wait(LIMIT)
        assert 1000 <= len(machine.serial.output) <= 2000
        machine.serial.wait_for("xyz\n", LIMIT)  # it goes on
        machine.stop()
        assert came >= 5000
        assert len(machine.serial.output) <= 2000


@pytest.mark.parametrize("code", [PORT_SCAN, MMIO_SCAN], ids=["ports", "addresses"])
def test_scans_of_nothing_are_counted_up_to_a_limit(code: bytes) -> None:
    with flat(code) as machine:
        machine.start(LIMIT)
        bus = machine.mmio if code is MMIO_SCAN else machine.ports
        wanted = UNCLAIMED_LIMIT // 4
        while True:  # the test's own time limit ends it
            machine.pause()
            seen = len(bus.unclaimed)
            machine.resume()
            if seen >= wanted:
                break
            with suppress(TimeoutError):
                machine.wait(0.02)
        assert machine.stop().ending is Ending.STOPPED
        assert wanted <= len(bus.unclaimed) <= UNCLAIMED_LIMIT
    assert all(count >= 1 for count in bus.unclaimed.values())


@pytest.mark.parametrize("name", ["spin", "flood", "chaos"])
def test_the_host_can_do_everything_meanwhile(guest: Guest, name: str) -> None:
    with Machine(guest(name)) as machine:
        machine.start(LIMIT)
        for _ in range(5):
            machine.pause()
            assert machine.vcpus[0].get_registers().rip
            machine.resume()
            machine.serial.send("x")
            assert isinstance(machine.serial.output, bytes)
        assert machine.stop().ending is Ending.STOPPED


@contextmanager
def flooding(path: str) -> Iterator[list[int]]:
    """The other end of the cable: sends frames as fast as they go. Gives how many have been sent."""
    sent, done = [0], threading.Event()

    def run() -> None:
        frame = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(1400)
        while not done.is_set():
            with suppress(BlockingIOError):
                other.sendto(frame, path + ".a")
                sent[0] += 1

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
        other.bind(path + ".b")
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sent
        finally:
            done.set()
            thread.join()


def test_a_guest_that_never_takes_its_frames(guest: Guest, tmp_path: Path) -> None:
    path = str(tmp_path / "cable")
    with Machine(guest("deaf"), nics=[UnixNet(path)]) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("deaf\n", LIMIT)
        before = resident()
        with flooding(path) as sent:
            while sent[0] < 5000:
                machine.pause()
                machine.resume()
            with pytest.raises(TimeoutError):
                machine.wait(BRIEF)
            assert resident() - before < sent[0] * 1414 // 2, "frames are hoarded"
        assert machine.stop().ending is Ending.STOPPED


def test_the_time_limit_holds_while_frames_flood_in(guest: Guest, tmp_path: Path) -> None:
    path = str(tmp_path / "cable")
    with Machine(guest("deaf"), nics=[UnixNet(path)]) as machine, flooding(path):
        assert machine.run(BRIEF).ending is Ending.TIMED_OUT


def test_the_time_limit_holds_for_sleeping_and_for_several_cpus() -> None:
    with flat(hexcode("b0 ff e6 21; mov al, 0xff; out 0x21, al\nfb; sti\nf4; hlt") + SPIN, cpus=4) as machine:
        assert machine.run(BRIEF).ending is Ending.TIMED_OUT


READY_THEN = hexcode("66 ba f8 03; mov dx, 0x3f8\n b0 52; mov al, 'R'\n ee; out dx, al")

INTERRUPTED = {
    "spins": READY_THEN + SPIN,
    "floods": READY_THEN + hexcode("ee; out dx, al\n eb fd"),
    "scans ports": READY_THEN + PORT_SCAN,
    "sleeps": READY_THEN + hexcode("fb; sti\n f4; hlt\n eb fd"),
}


@pytest.mark.parametrize("what", INTERRUPTED)
def test_ctrl_c_ends_it(tmp_path: Path, what: str) -> None:
    image = tmp_path / "guest.bin"
    image.write_bytes(INTERRUPTED[what])
    command = [*PYKVM, "run", str(image), "--format", "flat", "--mode", "64"]
    with zygote.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"R"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=LIMIT)
            assert process.returncode == 130
        finally:
            process.kill()
    assert b"Traceback" not in errors


def test_ctrl_c_in_a_program_is_raised_again(guest: Guest) -> None:
    program = """
import sys
from pykvm import Machine
machine = Machine(sys.argv[1])
machine.serial.sink = lambda data: (sys.stdout.write("R"), sys.stdout.flush())
try:
    machine.run()
except KeyboardInterrupt:
    print("\\n" + machine.outcome.reason)
machine.close()
"""
    with zygote.Popen(
        [sys.executable, "-c", program, str(guest("flood"))], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"R"
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=LIMIT)
            assert output.splitlines()[-1].startswith(b"interrupted; CPU 0 was at ")
            assert process.returncode == 0
        finally:
            process.kill()
