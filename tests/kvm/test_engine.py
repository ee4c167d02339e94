"""Board, run, gate and entry chain together: who comes between a vCPU and its guest, who waits, and what clocks are told."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BRIEF, HALT, LIMIT, ROOT, SLOW, SPIN, flat, hexcode

from pykvm import Access, ConfigError, Ending, Machine, Snapshot
from pykvm.debug.control import Control, Why
from pykvm.engine.entry import Link, Rank
from pykvm.kvm import wait_closed
from pykvm.snapshot.trigger import Moment, snapshot_at
from pykvm.trace import Event, Tracer
from pykvm.trace.instructions import InstructionTracer

Guest = Callable[[str], Path]

OUTPUTS = hexcode("b0 01\n e6 80; out 0x80\n e6 80\n e6 80\n e6 80\n b0 00\n e6 f4; exit")


class Recorder(Link):
    """Notes when it was passed."""

    def __init__(self, rank: int, name: str, notes: list[str]) -> None:
        self.rank = rank
        self._name, self._notes = name, notes

    def enter(self) -> int:
        self._notes.append(self._name)
        return self.inner.enter()


def test_links_are_passed_in_the_order_of_their_ranks_whoever_came_first() -> None:
    notes: list[str] = []
    with flat(HALT) as machine:
        chain = machine.engine.runners[0].entry
        links = [Recorder(getattr(Rank, name), name, notes) for name in ("TRACE", "STEP", "COUNT", "STEP", "TRACE")]
        for link in links:
            chain.push(link)
        chain.remove(links[3])
        chain.remove(links[3])  # out already
        machine.run(LIMIT)
        assert notes[:4] == ["COUNT", "TRACE", "TRACE", "STEP"]
        for link in links:
            chain.remove(link)
        assert chain.outermost is machine.vcpus[0]


def test_the_exit_of_a_snapshot_comes_under_a_debugger_too() -> None:
    taken: list[Snapshot] = []
    with flat(OUTPUTS) as machine:
        control = Control(machine)
        with machine.lock:
            snapshot_at(machine, Moment(exits=3), taken.append)
        machine.start(LIMIT)
        control.step(0)
        control.resume()
        assert control.wait(LIMIT) is None
        assert machine.wait(LIMIT).ending is Ending.EXITED
        assert len(taken) == 1


def test_a_tracer_beside_a_debugger_records_what_the_guest_does(int3_seen: None) -> None:
    events: list[Event] = []
    with flat(OUTPUTS) as machine:
        tracer = Tracer(machine, [events.append])
        control = Control(machine)
        machine.start(LIMIT)
        assert control.step(0) is not None
        control.breakpoints.software.add(0x100002 + 2)
        control.resume()
        stop = control.wait(LIMIT)
        assert stop is not None
        assert stop.why is Why.BREAKPOINT
        control.breakpoints.clear()
        control.step(0)
        control.resume()
        machine.wait(LIMIT)
        tracer.finish()
    assert [event.address for event in events if event.kind == "pio"] == [0x80] * 4 + [0xF4]


def test_instructions_are_not_traced_beside_a_debugger_in_silence() -> None:
    with flat(OUTPUTS) as machine:
        Control(machine)
        with pytest.raises(ConfigError, match="debugger"):
            InstructionTracer(machine, lambda vcpu, position: None)


@pytest.mark.parametrize("begun", [False, True], ids=["before the thread is there", "after"])
@pytest.mark.parametrize("which", [0, 1])
def test_what_a_signals_handler_raises_in_the_midst_of_a_start_ends_it(
    monkeypatch: pytest.MonkeyPatch, which: int, begun: bool
) -> None:
    """Wherever that is, nobody waits afterwards for a thread that never begins."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name != f"pykvm vcpu {which}":
            real(thread)
            return
        if begun:
            real(thread)
        raise SystemExit(9)

    monkeypatch.setattr(threading.Thread, "start", start)
    with flat(SPIN, cpus=2) as machine:
        with pytest.raises(SystemExit):
            machine.run(LIMIT)
        monkeypatch.undo()
        assert machine.outcome is not None
        assert machine.outcome.ending is Ending.STOPPED
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("pykvm vcpu")] == []


def test_ctrl_c_just_after_the_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with flat(SPIN) as machine:
        real = machine.start

        def start(timeout: float | None = None) -> None:
            real(timeout)
            raise KeyboardInterrupt

        monkeypatch.setattr(machine, "start", start)
        with pytest.raises(KeyboardInterrupt):
            machine.run(LIMIT)
        assert machine.outcome is not None
        assert machine.outcome.reason.startswith("interrupted")


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("raised", [SystemExit(9), KeyboardInterrupt(), GeneratorExit("g")])
def test_what_ends_a_program_comes_out_of_run_at_once(cpus: int, raised: BaseException) -> None:
    with flat(hexcode("e6 80") + SPIN, cpus=cpus) as machine:

        @machine.port(0x80)
        def leave(access: Access) -> None:
            raise raised

        with pytest.raises(type(raised)) as caught:
            machine.run(LIMIT)
        assert caught.value is raised
        outcome = machine.outcome
        assert outcome is not None
        assert outcome.ending is Ending.STOPPED
        assert outcome.elapsed < LIMIT / 2


def test_what_ends_a_program_in_a_callback_of_the_io_thread_comes_out_too() -> None:
    with flat(SPIN) as machine:
        machine.start(LIMIT)
        with machine.lock:
            machine.engine.loop.call_soon(lambda: sys.exit(3))
        with pytest.raises(SystemExit):
            machine.wait(LIMIT)


@pytest.mark.parametrize("memory", ["64K", "640K", "764K"])
def test_a_machine_without_room_for_a_screen_is_saved_and_explains_its_end(memory: str, tmp_path: Path) -> None:
    code = hexcode("b0 2a\n a2 00 30; mov [0x3000], al\n e6 d0\n fa f4")
    with flat(code, 16, memory=memory, load=0x1000, entry=0x1000) as machine:
        before = machine.snapshot()
        machine.run(LIMIT)
        assert machine.memory.read_int(0x3000, 1) == 0x2A
        machine.restore(before)
        assert machine.memory.read_int(0x3000, 1) == 0
        before.save(tmp_path / "small")
        with Snapshot.load(tmp_path / "small").fork() as fork:
            assert fork.run(LIMIT).ending is Ending.HALTED


def test_the_last_instructions_of_a_small_machine_are_shown() -> None:
    code = hexcode("b0 01; mov al, 1\n b0 02; mov al, 2\n 0f 0b; ud2, and no IDT")
    with flat(code, memory="512K", load=0x10000, entry=0x10000, no_reboot=True) as machine:
        machine.keep_instructions = 2
        outcome = machine.run(LIMIT)
        assert outcome.ending is Ending.CRASHED
        assert outcome.report is not None
        assert [line.text for line in outcome.report.last] == ["mov al, 1", "mov al, 2"]


# Who waits


def test_who_waits_for_the_lock_is_not_kept_out_by_exits(guest: Guest) -> None:
    """A vCPU takes the lock for each exit, many thousand times a second; a thread that wants it now and then gets it."""
    with flat(hexcode("e6 80\n eb fc")) as machine:
        served = 0

        @machine.port(0x80)
        def busy(access: Access) -> None:
            nonlocal served
            served += 1
            sum(range(2000))

        machine.start(LIMIT)
        for _ in range(50):
            before = served
            with machine.lock:
                got = served
            assert got - before < 2000
        machine.pause()
        held = served
        assert served == held
        machine.resume()
        assert machine.stop().ending is Ending.STOPPED


@pytest.mark.skipif(SLOW, reason="many machines on an emulated CPU take minutes")
def test_many_machines_that_spin_are_stopped_one_by_one() -> None:
    """Each stop needs a thread of its machine to run, which has its turn among all that spin: 0.1 s and more for each
    of a hundred, unless the others stay out of the guest meanwhile."""
    machines = [flat(SPIN, memory="1M", load=0x1000, entry=0x1000, mode=16) for _ in range(40)]
    try:
        for machine in machines:
            machine.start(LIMIT)
        began = time.monotonic()
        for machine in machines:
            assert machine.stop().ending is Ending.STOPPED
        together = time.monotonic() - began
        assert together < LIMIT / 10
    finally:
        for machine in machines:
            machine.close()


def test_machines_that_pause_each_other_do_not_wait_for_ever() -> None:
    with flat(SPIN) as one, flat(SPIN) as other, flat(SPIN) as third:
        for machine in (one, other, third):
            machine.start(LIMIT)

        def pause_often(machine: Machine) -> None:
            for _ in range(30):
                machine.pause()
                machine.resume()

        threads = [threading.Thread(target=pause_often, args=(machine,)) for machine in (one, other, third)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert not any(thread.is_alive() for thread in threads)


# Clocks


class Clocks:
    """The guest `clocks`, asked for what it has counted."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.began = time.monotonic()
        machine.start(LIMIT)
        machine.serial.wait_for("ready\n", LIMIT)

    def ask(self) -> dict[str, int]:
        """Ticks of the PIT, the local APIC's timer and the RTC, and kvmclock's flags."""
        self._machine.serial.send("?\n")
        found = self._machine.serial.wait_for(re.compile(rb"pit (\d+) lapic (\d+) rtc (\d+) flags (\d+)"), LIMIT)
        return dict(zip(("pit", "lapic", "rtc", "flags"), map(int, found.groups()), strict=True))


PAUSE = 0.5
"""Seconds of a pause: 250 ticks of the guest's PIT, 256 of its RTC."""
FEW = 50
"""Ticks that are no fault: counters do not begin just when the time that is measured does."""
GUEST_STOPPED = 2
"""PVCLOCK_GUEST_STOPPED (Linux Documentation/virt/kvm/x86/cpuid.rst)."""


@pytest.mark.parametrize("by_debugger", [False, True])
def test_clocks_are_told_of_a_pause(guest: Guest, by_debugger: bool) -> None:
    with Machine(guest("clocks")) as machine:
        control = Control(machine) if by_debugger else None
        if control is not None:
            control.resume()
        clocks = Clocks(machine)
        clocks.ask()
        if control is not None:
            control.interrupt()
        else:
            machine.pause()
        stopped = time.monotonic()
        while time.monotonic() < stopped + PAUSE:
            time.sleep(PAUSE / 10)  # the pause itself, not a wait for something
        paused = time.monotonic() - stopped
        if control is not None:
            control.resume()
        else:
            machine.resume()
        after, ran = clocks.ask(), time.monotonic() - clocks.began - paused
        # Those of the time that it ran for, some of them late on a busy host, and not the 250 that were due meanwhile.
        assert after["pit"] <= ran * 500 + FEW
        assert after["rtc"] <= ran * 512 + FEW
        assert after["flags"] & GUEST_STOPPED


def test_a_pause_shorter_than_a_tick_leaves_the_pit_alone(guest: Guest) -> None:
    with Machine(guest("clocks")) as machine:
        clocks = Clocks(machine)
        before, began = clocks.ask()["pit"], time.monotonic()
        while time.monotonic() < began + 2 * BRIEF:
            machine.pause()
            machine.resume()
        assert clocks.ask()["pit"] > before


def test_a_machine_and_its_snapshot_say_what_they_are(guest: Guest) -> None:
    with Machine(guest("hello64"), memory="16M") as machine:
        assert repr(machine).startswith("<Machine ")
        assert "elf64 16M, 1 CPU, not started" in repr(machine)
        machine.run(LIMIT)
        assert "exited" in repr(machine)
        assert not [name for name in dir(machine) if "runner" in name or "route" in name or name.startswith("_")]
    assert repr(machine) == "<Machine, closed>"


def test_a_machine_that_nobody_closes_does_not_keep_the_interpreter() -> None:
    code = "from pykvm import Machine; machine = Machine(b'\\xf4', format='flat', mode=64)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=LIMIT, capture_output=True, check=False)
    assert done.returncode == 0


def open_files() -> dict[str, str]:
    """Names of what is open, by descriptor, but that of the directory read here."""
    with os.scandir("/proc/self/fd") as entries:
        return {entry.name: os.readlink(entry.path) for entry in entries if "/fd" not in os.readlink(entry.path)}


def test_a_machine_that_is_dropped_gives_its_descriptors_back_with_a_warning() -> None:
    def drop() -> None:
        machine = flat(SPIN)
        machine.start()
        del machine
        gc.collect()

    with flat(HALT) as machine:  # /dev/kvm is open from the first one on
        machine.run(LIMIT)
    gc.collect()
    wait_closed()
    before = open_files()
    with pytest.warns(ResourceWarning, match="runs> was not closed"):
        drop()
    wait_closed()
    assert open_files() == before
