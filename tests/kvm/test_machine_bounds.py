"""What a guest may do a million times: it leaves nothing behind, and keeps nobody waiting."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers import LIMIT, assembled, flat, hexcode

from pykvm import Ending, Machine
from pykvm.bus import UNCLAIMED_LIMIT
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.overlay import OverlayDisk
from pykvm.engine.eventloop import CANCELLED_MOST
from pykvm.machine import DeviceError

RTC = """
        .macro  rtc register, value
        mov     $\\register, %al
        out     %al, $0x70
        mov     $\\value, %al
        out     %al, $0x71
        .endm
"""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("moves", ["", "rtc 1, 7\nrtc 1, 6\n"], ids=["read", "moved"])
def test_a_guest_that_moves_an_alarm_for_ever_leaves_no_timers(moves: str, tmp_path: Path) -> None:
    code = f"""
        {RTC}
        mov     $0x80000, %esp
        rtc     1, 6                    # an alarm, hours away
        rtc     3, 5
        rtc     5, 0xFE
        rtc     0x0B, 0x22
        mov     $40, %ebx
        cld
1:      {moves}
        mov     $0x70, %dx              # each byte of the string is an access
        mov     $0x200000, %edi
        mov     $1024, %ecx
        rep insb
        dec     %ebx
        jnz     1b
        out     %al, $0xF4
        """
    with flat(assembled(code, tmp_path, 0x100000, 32), 32) as machine:
        before = machine.engine.loop.timers
        assert machine.run(LIMIT).ending is Ending.EXITED
        assert machine.engine.loop.timers <= before + CANCELLED_MOST + 8


def test_a_guest_that_tries_all_ports_leaves_few_routes() -> None:
    with Machine(memory="4M") as machine:
        for size in (1, 2, 4):
            for port in range(0x1000, 0x2000):
                machine.engine.board.route_port(size << 16 | port)
        assert len(machine.engine.board.port_routes) == UNCLAIMED_LIMIT
        machine.engine.board.route_port(1 << 16 | 0x70)
        assert (1 << 16 | 0x70) in machine.engine.board.port_routes, "a device's port is remembered all the same"


class SlowDisk(OverlayDisk):
    """A flush of it takes until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__(MemoryDisk(bytes(1 << 16)))
        self.began, self.go_on = threading.Semaphore(0), threading.Event()

    def flush(self) -> None:
        self.began.release()
        assert self.go_on.wait(LIMIT)


FLUSH = hexcode(
    """
    66 ba f7 01 ; mov dx, 0x1f7
    b0 e7       ; mov al, 0xe7
    ee          ; out dx, al
    66 ba f6 03 ; mov dx, 0x3f6
    ec          ; again: in al, dx
    a8 80       ; test al, 0x80
    75 fb       ; jnz again
    e6 f4       ; out 0xf4, al
    """
)


def test_a_slow_flush_holds_nobody_up() -> None:
    """The machine can be paused, looked at and put back while the host flushes, and the guest sees a busy disk."""
    disk = SlowDisk()
    with flat(FLUSH, disks=[disk]) as machine:
        machine.start(LIMIT)
        assert disk.began.acquire(timeout=LIMIT)
        machine.pause()
        snapshot = machine.snapshot()
        assert machine.ports.read(0x3F6, 1) == 0x80
        machine.resume()
        assert machine.outcome is None
        disk.go_on.set()
        assert machine.wait().value == 0x50
        machine.restore(snapshot)
        assert disk.began.acquire(timeout=LIMIT), "what the snapshot has under way is done again"
        assert machine.run(LIMIT).value == 0x50


def test_a_machine_is_closed_when_its_flush_has_ended() -> None:
    disk = SlowDisk()
    with flat(FLUSH, disks=[disk]) as machine:
        machine.start(LIMIT)
        assert disk.began.acquire(timeout=LIMIT)
        machine.stop()
        disk.go_on.set()
    assert machine.outcome is not None
    assert machine.outcome.ending is Ending.STOPPED


def test_an_exception_in_what_is_set_aside_ends_the_run() -> None:
    class Broken(OverlayDisk):
        def flush(self) -> None:
            raise LookupError("no such disk")

    with (
        flat(FLUSH, disks=[Broken(MemoryDisk(bytes(1 << 16)))]) as machine,
        pytest.raises(DeviceError, match="what was set aside raised LookupError: no such disk"),
    ):
        machine.run(LIMIT)
