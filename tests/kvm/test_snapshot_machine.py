"""Snapshots within one process: going back and forth, forks, and that nothing in flight is lost."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import EXIT_AL, HALT, LIMIT, SPIN, flat, hexcode
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm import Access, ConfigError, DeviceError, Ending, Machine, PykvmError, open_disk
from pykvm.engine.entry import Link, Rank
from pykvm.kvm import MpState
from pykvm.kvm.saved import tsc_moves
from pykvm.net.loopback import Loopback
from pykvm.pc import Nic
from pykvm.snapshot import Snapshot, SnapshotError
from pykvm.snapshot.trigger import Moment, snapshot_at

Guest = Callable[[str], Path]
HASH = "hash: 4bf48828d481916b\n"
"""What the guest `hash` ends with, wherever it runs."""

COUNTER = hexcode("""
    ff 04 25 00 00 20 00  ; again: inc dword [0x200000]
    a1 00 00 20 00 00 00 00 00  ; mov eax, [0x200000]
    e6 80                 ; out 0x80, al
    eb ec                 ; jmp again
""")


def taken_at(machine: Machine, moment: Moment) -> Snapshot:
    """Run the machine up to that moment, and end the run."""
    taken: list[Snapshot] = []

    def use(snapshot: Snapshot) -> None:
        taken.append(snapshot)
        machine.request_stop("seen enough")

    with machine.lock:
        snapshot_at(machine, moment, use)
    outcome = machine.run(LIMIT)
    assert taken, outcome
    return taken[0]


# Back and forth


def test_a_machine_goes_back_and_runs_again(guest: Guest) -> None:
    with Machine(guest("hello64")) as machine:
        before = machine.snapshot()
        for _ in range(3):
            assert machine.run(LIMIT).code == 0
            assert machine.serial.text == "Hello from 64-bit long mode!\n"
            machine.restore(before)
            assert machine.outcome is None
            assert machine.serial.text == ""
        after_one = machine.run(LIMIT)
        assert after_one.exits > 0


def test_snapshots_nest_and_may_be_restored_in_any_order() -> None:
    with flat(COUNTER) as machine:
        counts: dict[int, Snapshot] = {}
        seen = threading.Semaphore(0)

        @machine.port(0x80)
        def count(access: Access) -> None:
            seen.release()

        machine.start(LIMIT)
        for _ in range(4):
            for _ in range(5):
                assert seen.acquire(timeout=LIMIT)
            machine.pause()
            number = machine.memory.read_int(0x200000, 4)
            machine.memory.write_int(0x201000, 4, number)  # what the host writes goes back, too
            counts[number] = machine.snapshot()
            while seen.acquire(blocking=False):
                pass
            machine.resume()
        assert len(counts) == 4
        machine.pause()
        numbers = list(counts)
        for index in (2, 0, 3, 3, 1, 2, 0, 1):
            machine.restore(counts[numbers[index]])
            assert machine.memory.read_int(0x200000, 4) == numbers[index]
            assert machine.memory.read_int(0x201000, 4) == numbers[index]
            registers = machine.vcpus[0].get_registers()
            assert registers.rip in range(0x100000, 0x100000 + len(COUNTER))
        while seen.acquire(blocking=False):
            pass
        machine.resume()
        assert seen.acquire(timeout=LIMIT)
        machine.pause()
        assert machine.memory.read_int(0x200000, 4) in range(numbers[1], numbers[1] + 1000)


def test_going_back_undoes_all_that_was_written(guest: Guest) -> None:
    with Machine(guest("hash"), memory="8M") as machine:
        before = machine.snapshot()
        ram = machine.memory.read(0, machine.memory.size)
        for _ in range(2):
            machine.run(LIMIT)
            assert machine.memory.read(0, machine.memory.size) != ram
            machine.memory.write(0x700FFF, b"two pages")
            machine.memory.zero(0x1000, 0x3000)
            machine.restore(before)
            assert machine.memory.read(0, machine.memory.size) == ram


def test_an_older_snapshot_comes_back_after_a_newer_one(guest: Guest) -> None:
    with Machine(guest("hash"), memory="8M") as machine:
        first = machine.snapshot()
        ram = machine.memory.read(0, machine.memory.size)
        machine.run(LIMIT)
        second = machine.snapshot()
        ended = machine.memory.read(0, machine.memory.size)
        for snapshot, content in ((first, ram), (second, ended), (first, ram), (first, ram), (second, ended)):
            machine.restore(snapshot)
            assert machine.memory.read(0, machine.memory.size) == content
        machine.restore(first)
        assert machine.run(LIMIT).code == 0
        assert machine.serial.text.endswith(HASH)


def test_a_run_cannot_begin_twice_without_going_back() -> None:
    with flat(HALT) as machine:
        before = machine.snapshot()
        machine.run(LIMIT)
        with pytest.raises(PykvmError, match="restore a snapshot"):
            machine.run(LIMIT)
        machine.restore(before)
        assert machine.run(LIMIT).ending is Ending.HALTED


def test_a_time_limit_does_not_reach_into_the_next_run() -> None:
    with flat(SPIN) as machine:
        before = machine.snapshot()
        assert machine.run(0.05).ending is Ending.TIMED_OUT
        machine.restore(before)
        machine.start()
        machine.pause()
        assert machine.outcome is None
        machine.restore(before)
        machine.resume()
        assert machine.stop("enough").reason == "enough"


def test_a_closed_machine_and_one_of_another_shape_are_refused() -> None:
    with flat(HALT) as machine, flat(HALT, memory="8M") as other:
        snapshot = machine.snapshot()
        with pytest.raises(SnapshotError, match="another machine"):
            other.restore(snapshot)
        assert other.run(LIMIT).ending is Ending.HALTED
    with pytest.raises(PykvmError, match="closed"):
        machine.restore(snapshot)
    with snapshot.fork() as later:  # a snapshot outlives its machine
        assert later.run(LIMIT).ending is Ending.HALTED


# Forks


def test_forks_go_on_from_the_snapshot_each_for_itself(guest: Guest) -> None:
    with Machine(guest("echo")) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("ready")
        snapshot = machine.snapshot()
        forks = [snapshot.fork() for _ in range(3)]
        for number, fork in enumerate(forks):
            fork.start(LIMIT)
            fork.serial.send(f"I am {number}\nexit {number}\n")
        for number, fork in enumerate(forks):
            assert fork.wait().value == number
            assert fork.serial.text == f"ready\necho: I am {number}\n"
            assert fork.memory.committed() < 64 << 10
            fork.close()
        machine.serial.send("exit 9\n")
        assert machine.wait().value == 9
        assert machine.serial.text == "ready\n"


def test_a_fork_can_be_snapshotted_forked_and_reset_itself(guest: Guest) -> None:
    with Machine(guest("hash"), memory="8M") as machine:
        first = taken_at(machine, Moment(text=b"step 8\n"))
    with first.fork() as fork:
        second = taken_at(fork, Moment(text=b"step 16\n"))
        assert second.parent_id == first.id
        assert second.image.root is first.image.root
        for snapshot in (first, second, first):
            fork.restore(snapshot)
            assert fork.run(LIMIT).code == 0
            assert fork.serial.text.endswith(HASH)
    with second.fork() as grandchild:
        assert grandchild.run(LIMIT).code == 0
        assert grandchild.serial.text.endswith(HASH)


def test_a_device_of_ones_own_is_put_onto_a_fork_by_prepare() -> None:
    def prepare(machine: Machine) -> None:
        @machine.port(0x700)
        def seven(access: Access) -> int:
            return 7

    with flat(hexcode("66 ba 00 07; mov dx, 0x700\nec; in al, dx") + EXIT_AL) as machine:
        prepare(machine)
        snapshot = machine.snapshot()
    with pytest.raises(SnapshotError, match=r"seven at 0x700.*prepare"):
        snapshot.fork()
    with snapshot.fork(prepare=prepare) as fork:
        assert fork.run(LIMIT).value == 7


# Nothing in flight is lost


@pytest.mark.parametrize("exits", [1, 2, 3, 9, 10, 20, 31, 47, 60, 77, 90, 101, 116])
def test_a_computation_ends_with_the_same_hash_from_any_exit_on(guest: Guest, exits: int) -> None:
    with Machine(guest("hash"), memory="8M") as machine:
        snapshot = taken_at(machine, Moment(exits=exits))
    with snapshot.fork() as fork:
        assert fork.run(LIMIT).code == 0
        assert fork.serial.text == "hashing\nstep 8\nstep 16\nstep 24\n" + HASH


def test_a_port_read_in_flight_arrives() -> None:
    """The snapshot is asked for while the guest is inside its `in`: it has the answer."""
    code = hexcode("b0 00; mov al, 0\ne4 80; in al, 0x80") + EXIT_AL
    taken: list[Snapshot] = []
    with flat(code) as machine:

        def prepare(machine: Machine) -> None:
            @machine.port(0x80)
            def answer(access: Access) -> int:
                machine.at_rest(lambda: taken.append(machine.timeline.take("refuse")))
                return 0x35

        prepare(machine)
        assert machine.run(LIMIT).value == 0x35
    with taken[0].fork(prepare=prepare) as fork:
        assert fork.run(LIMIT).value == 0x35
    assert len(taken) == 1  # the fork did not read again


def test_a_string_input_in_flight_arrives_whole() -> None:
    code = hexcode("""
        66 ba 80 00     ; mov dx, 0x80
        bf 00 00 20 00  ; mov edi, 0x200000
        b9 40 00 00 00  ; mov ecx, 64
        f3 6c           ; rep insb
        8a 04 25 3f 00 20 00  ; mov al, [0x20003f]
    """) + EXIT_AL  # fmt: skip
    with flat(code) as machine:
        taken: list[Snapshot] = []

        def prepare(machine: Machine) -> None:
            served = iter(range(1000))

            @machine.port(0x80)
            def answer(access: Access) -> int:
                number = next(served)
                if number == 10:
                    machine.at_rest(lambda: taken.append(machine.timeline.take("refuse")))
                return number

        prepare(machine)
        value = machine.run(LIMIT).value
        received = machine.memory.read(0x200000, 64)
        assert (value, received) == (63, bytes(range(64)))
    with taken[0].fork(prepare=prepare) as fork:
        assert fork.run(LIMIT).value == 63
        assert fork.memory.read(0x200000, 64) == received


TAKE_IRQ_5 = hexcode("""
    ; a 64-bit IDT at 0x300000 with one gate for vector 0x25
    bf 50 02 30 00        ; mov edi, 0x300000 + 0x25 * 16
    b8 00 10 10 00        ; mov eax, handler (0x101000)
    66 89 07              ; mov [rdi], ax
    66 c7 47 02 08 00     ; mov word [rdi + 2], 8
    c1 e8 10              ; shr eax, 16
    66 c7 47 04 00 8e     ; mov word [rdi + 4], 0x8E00
    66 89 47 06           ; mov [rdi + 6], ax
    c7 47 08 00 00 00 00  ; mov dword [rdi + 8], 0
    66 c7 04 25 00 40 30 00 ff 0f     ; mov word [0x304000], 0xFFF
    48 c7 04 25 02 40 30 00 00 00 30 00  ; mov qword [0x304002], 0x300000
    0f 01 1c 25 00 40 30 00  ; lidt [0x304000]
    b0 11 e6 20           ; ICW1 of the master 8259A
    b0 20 e6 21           ; ICW2: vectors from 0x20
    b0 04 e6 21           ; ICW3
    b0 01 e6 21           ; ICW4
    b0 df e6 21           ; OCW1: only IRQ 5
""")
HANDLER = hexcode("""
    fe 04 25 00 50 30 00  ; inc byte [0x305000]
    b0 20 e6 20           ; OCW2: end of interrupt
    48 cf                 ; iretq
""")


def interrupted(code: bytes) -> Machine:
    """A machine that takes IRQ 5 into a counter at 0x305000, and has a port 0x80 that raises it for a moment."""
    machine = flat(TAKE_IRQ_5 + code)
    machine.memory.write(0x101000, HANDLER)
    prepare_irq(machine)
    return machine


def prepare_irq(machine: Machine) -> None:
    line = machine.irq(5)

    @machine.port(0x80)
    def raise_irq(access: Access) -> None:
        line.pulse()

    @machine.port(0x81)
    def here(access: Access) -> None:
        """A place for a snapshot."""


TELL = hexcode("8a 04 25 00 50 30 00; mov al, [0x305000]") + EXIT_AL


def exits_of(machine: Machine, port: int) -> int:
    """The number of the exit that accesses `port` first."""
    before = machine.snapshot()
    numbers = iter(range(1, 10_000))
    counted: list[int] = []

    class Counting(Link):
        rank = Rank.COUNT

        def enter(self) -> int:
            return note(self.inner.enter())

        def enter_answering(self, value: int) -> int:
            return note(self.inner.enter_answering(value))

    def note(result: int) -> int:
        if result >= 0:
            number = next(numbers)
            if result >> 32 & 0xFFFF == port and not counted:
                counted.append(number)
        return result

    chain, counting = machine.engine.runners[0].entry, Counting()
    chain.push(counting)
    machine.run(LIMIT)
    chain.remove(counting)
    machine.restore(before)
    return counted[0]


def test_an_interrupt_raised_but_not_taken_is_taken_once() -> None:
    wait = hexcode("b9 00 04 00 00; mov ecx, 1024\nff c9; dec ecx\n75 fc; jnz")
    with interrupted(hexcode("e6 80; out 0x80\ne6 81; out 0x81\nfb; sti") + wait + TELL) as machine:
        snapshot = taken_at(machine, Moment(exits=exits_of(machine, 0x81)))
        assert machine.memory.read_int(0x305000, 1) == 0
    for _ in range(2):
        with snapshot.fork(prepare=prepare_irq) as fork:
            assert fork.run(LIMIT).value == 1


def test_a_halted_cpu_stays_halted_until_its_interrupt() -> None:
    with interrupted(hexcode("e6 81; out 0x81\nfb f4; sti, hlt") + TELL) as machine:
        machine.start(LIMIT)
        halted = machine.vcpus[0]
        while True:
            machine.pause()
            if halted.get_mp_state() is MpState.HALTED:
                break
            machine.resume()
            with suppress(TimeoutError):  # lets it run on
                machine.wait(0.01)
        snapshot = machine.snapshot()
        machine.resume()
        machine.stop()
    with snapshot.fork(prepare=prepare_irq) as fork:
        assert fork.vcpus[0].get_mp_state() is MpState.HALTED
        fork.start(LIMIT)
        with fork.lock:
            fork.engine.board.lines[5][-1].pulse()
        assert fork.wait().value == 1


def test_the_shadow_of_sti_goes_along() -> None:
    with flat(SPIN) as machine:
        machine.start(LIMIT)
        machine.pause()
        events = machine.vcpus[0].get_events()
        events.interrupt_shadow = 2  # KVM_X86_SHADOW_INT_STI
        machine.vcpus[0].set_events(events)
        shadowed = machine.vcpus[0].get_events()
        snapshot = machine.snapshot()
        with snapshot.fork() as fork:
            assert fork.vcpus[0].get_events() == shadowed
        events.interrupt_shadow = 0
        machine.vcpus[0].set_events(events)
        machine.restore(snapshot)
        assert machine.vcpus[0].get_events() == shadowed


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_two_cpus_at_work_come_to_the_same_total(guest: Guest, part: float) -> None:
    with Machine(guest("smp"), cpus=2) as machine:
        first = machine.snapshot()
        machine.run(LIMIT)
        whole = machine.serial.text
        exits = sum(runner.exits for runner in machine.engine.runners)
        machine.restore(first)
        snapshot = taken_at(machine, Moment(exits=max(1, int(exits * part))))
    with snapshot.fork() as fork:
        assert fork.run(LIMIT).ending is Ending.EXITED
        assert fork.serial.text.splitlines()[-1] == whole.splitlines()[-1]


@pytest.mark.parametrize("step", range(6))
def test_a_disk_command_in_flight_goes_on(guest: Guest, tmp_path: Path, step: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with Machine(guest("disk"), disks=[open_disk(image, "discard")]) as machine:
        first = machine.snapshot()
        machine.run(LIMIT)
        assert machine.serial.text.endswith("disk: ok\n")
        whole, exits = machine.serial.text, sum(runner.exits for runner in machine.engine.runners)
        machine.restore(first)
        snapshot = taken_at(machine, Moment(exits=1 + (exits - 10) * step // 6 + 3 * step))
    with snapshot.fork() as fork:
        outcome = fork.run(LIMIT)
        assert outcome.code == 0, fork.serial.text
        assert fork.serial.text == whole
    assert image.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("step", range(6))
def test_a_frame_in_the_nic_is_still_there(guest: Guest, step: int) -> None:
    def result(machine: Machine) -> str:
        return next(line for line in machine.serial.text.splitlines() if "NE2000" in line or "network" in line.lower())

    with Machine(guest("demo"), nics=[Loopback()]) as machine:
        first = machine.snapshot()
        assert machine.run(LIMIT).code == 0
        told, exits = result(machine), sum(runner.exits for runner in machine.engine.runners)
        machine.restore(first)
        snapshot = taken_at(machine, Moment(exits=1 + (exits - 10) * step // 6 + 3 * step))
    with snapshot.fork(nics=[Nic(Loopback(), snapshot.shape.options["nics"][0])]) as fork:
        assert fork.run(LIMIT).code == 0
        assert result(fork) == told


def test_input_that_waits_and_characters_in_the_fifo_are_read_after_going_back(guest: Guest) -> None:
    text = "a line that is longer than the FIFO of the UART\n"
    with Machine(guest("echo")) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("ready")
        machine.pause()
        machine.serial.send(text)
        snapshot = machine.snapshot()
        machine.resume()
        machine.serial.wait_for(f"echo: {text.strip()}")
        machine.restore(snapshot)
        machine.serial.wait_for(f"echo: {text.strip()}")
        with snapshot.fork() as fork:
            fork.start(LIMIT)
            fork.serial.wait_for(f"echo: {text.strip()}")


# Disks


def test_a_disk_goes_back_with_its_machine(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    disk = open_disk(image, "discard")
    with Machine(guest("disk"), disks=[disk]) as machine:
        before, content = machine.snapshot(), disk.read_at(0, disk.size)
        machine.run(LIMIT)
        written = disk.read_at(0, disk.size)
        after = machine.snapshot()
        assert written != content
        for snapshot, expected in ((before, content), (after, written), (before, content)):
            machine.restore(snapshot)
            assert disk.read_at(0, disk.size) == expected
    with after.fork() as fork:
        forked = fork.disks[0]
        assert forked is not None
        assert forked.read_at(0, forked.size) == written
    os.utime(image, ns=(1, 1))
    with pytest.raises(SnapshotError, match="changed since"):
        after.fork()
    with pytest.raises(SnapshotError, match="other places"):
        after.fork(disks=[])


def test_a_disk_that_is_written_through_is_refused_or_warned_about(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with Machine(guest("disk"), disks=[image]) as machine:
        with pytest.raises(SnapshotError, match=r"disk\.img.*would not undo"):
            machine.snapshot()
        with pytest.warns(UserWarning, match=r"disk\.img.*would not undo") as warned:
            machine.snapshot(written_disks="warn")
        assert warned[0].filename == __file__


# Time


def test_kvmclock_goes_on_from_where_it_was() -> None:
    with flat(HALT) as machine:
        machine.start(LIMIT)
        machine.pause()
        snapshot = machine.snapshot()
        saved = snapshot.state.vm.clock.clock
        machine.engine.board.vm.set_clock(saved + 1000 * 10**9)
        machine.restore(snapshot)
        assert saved <= machine.engine.board.vm.get_clock().clock < saved + 900 * 10**9
        with snapshot.fork() as fork:
            assert saved <= fork.engine.board.vm.get_clock().clock < saved + 900 * 10**9


def test_the_tsc_goes_back_where_kvm_can_move_it() -> None:
    with flat(SPIN, cpus=2) as machine:
        snapshot = machine.snapshot()
        moved = snapshot.state.tsc + (1 << 44)
        machine.vcpus[0].set_msrs({0x10: moved})
        machine.restore(snapshot)
        now = [vcpu.get_msrs((0x10,))[0x10] for vcpu in machine.vcpus]
        assert all(tsc >= snapshot.state.tsc for tsc in now)
        if tsc_moves(machine.vcpus[0]):
            assert all(tsc < snapshot.state.tsc + (1 << 43) for tsc in now)


def test_the_rtc_shows_the_hosts_time_by_the_guests_distance() -> None:
    def read(machine: Machine, register: int) -> int:
        machine.ports.write(0x70, 1, register)
        return machine.ports.read(0x71, 1)

    with flat(HALT) as machine:
        now = read(machine, 9)  # the year, in BCD
        machine.ports.write(0x71, 1, 0x10)
        snapshot = machine.snapshot()
        machine.ports.write(0x71, 1, now)
        machine.restore(snapshot)
        assert read(machine, 9) in (0x10, 0x11)  # it may be New Year's Eve
        with snapshot.fork() as fork:
            assert read(fork, 9) in (0x10, 0x11)


def test_the_acpi_timer_counts_on_from_where_it_was() -> None:
    with flat(HALT) as machine:
        then = machine.pc.acpi.read(8, 4)
        snapshot = machine.snapshot()
        with snapshot.fork() as fork:
            gone = (fork.pc.acpi.read(8, 4) - then) % (1 << 32)
        assert gone < 3_579_545 * 30  # so many ticks are 30 seconds; backwards would be 2**32 less a few


PERIODIC = hexcode("""
    b0 34 e6 43           ; PIT channel 0: mode 2, both bytes
    b0 00 e6 40 b0 10 e6 40  ; every 4096 ticks: 3.4 ms
    b0 fe e6 21           ; only IRQ 0
    e6 81                 ; out 0x81: here
    fb                    ; sti
    f4                    ; again: hlt
    80 3c 25 00 50 30 00 03  ; cmp byte [0x305000], 3
    72 f5                 ; jb again
    fa                    ; cli
""")


def test_the_pit_ticks_on_after_a_restore() -> None:
    with interrupted(PERIODIC + TELL) as machine:
        machine.memory.write(0x300200, gate(0x101000))  # vector 0x20: the same handler
        snapshot = taken_at(machine, Moment(exits=exits_of(machine, 0x81)))
    with snapshot.fork(prepare=prepare_irq) as fork:
        outcome = fork.run(LIMIT)
        assert outcome.value is not None
        assert outcome.value >= 3  # a slow host lets ticks pile up


def gate(handler: int) -> bytes:
    """A 64-bit interrupt gate (SDM volume 3A, 6.14.1)."""
    low, high = handler & 0xFFFF, handler >> 16
    return low.to_bytes(2, "little") + b"\x08\0\0\x8e" + high.to_bytes(6, "little") + bytes(4)


LAPIC_HANDLER = hexcode("""
    57                    ; push rdi
    bf 00 00 e0 fe        ; mov edi, the local APIC
    c7 87 b0 00 00 00 00 00 00 00  ; end of interrupt
    5f                    ; pop rdi
    fe 04 25 00 50 30 00  ; inc byte [0x305000]
    48 cf                 ; iretq
""")


def with_local_timer(ticks: int, code: bytes) -> Machine:
    """A machine whose local APIC's timer, once, after so many of its ticks, interrupts into a counter at 0x305000."""
    arm = hexcode(f"""
        bf 00 00 e0 fe        ; mov edi, the local APIC
        c7 87 f0 00 00 00 ff 01 00 00  ; on, spurious vector 0xFF
        c7 87 e0 03 00 00 0b 00 00 00  ; divide by 1
        c7 87 20 03 00 00 25 00 00 00  ; LVT timer: one-shot, vector 0x25
        c7 87 80 03 00 00 {ticks.to_bytes(4, "little").hex()}  ; initial count
    """)
    machine = interrupted(arm + code)
    machine.memory.write(0x101000, LAPIC_HANDLER)
    return machine


LOOP = hexcode("b9 00 10 00 00; mov ecx, 4096\nff c9; again: dec ecx\n75 fc; jnz again")
LAPIC_COUNT = 0x390


def test_a_local_timer_that_has_fired_does_not_fire_again() -> None:
    code = hexcode("fb; sti") + LOOP + hexcode("e6 81; out 0x81") + LOOP + TELL
    with with_local_timer(1000, code) as machine:
        snapshot = taken_at(machine, Moment(exits=exits_of(machine, 0x81)))
        assert machine.memory.read_int(0x305000, 1) == 1
    for _ in range(2):
        with snapshot.fork(prepare=prepare_irq) as fork:
            assert fork.run(LIMIT).value == 1


def test_a_tsc_deadline_stays_a_time_of_the_tsc() -> None:
    """It may be over when the fork begins, or not: it interrupts once."""
    code = hexcode("""
        bf 00 00 e0 fe        ; mov edi, the local APIC
        c7 87 f0 00 00 00 ff 01 00 00  ; on, spurious vector 0xFF
        c7 87 20 03 00 00 25 00 04 00  ; LVT timer: TSC deadline, vector 0x25
        b9 e0 06 00 00        ; mov ecx, IA32_TSC_DEADLINE
        0f 31                 ; rdtsc
        05 00 2d 31 01        ; add eax, 20,000,000
        83 d2 00              ; adc edx, 0
        0f 30                 ; wrmsr
        e6 81 fb f4           ; out 0x81, al: here; sti; hlt
    """)
    with interrupted(code + LOOP + TELL) as machine:
        machine.memory.write(0x101000, LAPIC_HANDLER)
        leaf = next(leaf for leaf in machine.cpuid if leaf.function == 1)
        leaf.ecx |= 1 << 24
        snapshot = taken_at(machine, Moment(exits=exits_of(machine, 0x81)))
    for _ in range(2):
        with snapshot.fork(prepare=prepare_irq) as fork:
            assert fork.run(LIMIT).value == 1


def test_a_local_timer_that_expires_while_the_machine_is_paused_fires_once() -> None:
    with with_local_timer(5_000_000, hexcode("e6 81; out 0x81\nfb; sti") + LOOP + TELL) as machine:
        taken: list[Snapshot] = []

        def wait_and_take() -> None:
            while any(machine.vcpus[0].get_lapic()[LAPIC_COUNT : LAPIC_COUNT + 4]):
                pass
            taken.append(machine.timeline.take("refuse"))

        @machine.port(0x82)
        def pause(access: Access) -> None:
            """Only there to be the same device as in the fork."""

        original = machine.ports.find(0x81)
        assert original is not None
        machine.remove(original.device)

        @machine.port(0x81)
        def here(access: Access) -> None:
            machine.at_rest(wait_and_take)

        assert machine.run(LIMIT).value == 1

    def prepare(machine: Machine) -> None:
        prepare_irq(machine)

        @machine.port(0x82)
        def pause(access: Access) -> None:
            pass

    for _ in range(2):
        with taken[0].fork(prepare=prepare) as fork:
            assert fork.run(LIMIT).value == 1


@pytest.mark.parametrize("spec", ["", "exits:", "exits:0", "exits:-1", "exits:1x", "exits:٣", f"exits:{1 << 63}"])
def test_moments_that_cannot_be_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"exits:N"):
        Moment.parse(spec)


# Going back often: only what has moved is put back


def states(machine: Machine) -> dict[str, dict[str, Any]]:
    """All devices' states, without what time alone moves."""
    by_time = ("elapsed", "cycles", "epoch")
    found = {
        device.name: {key: value for key, value in device.save().items() if key not in by_time}
        for device in (*machine.ports.devices, *machine.mmio.devices)
    }
    found["RTC"]["nvram"] = found["RTC"]["nvram"][0x0E:0x32]  # the time of day and its flags are outside
    return found


PORTS = [0x20, 0x60, 0x64, 0x70, 0x71, 0x92, 0xCF8, 0xCF9, 0xCFC, 0x1F2, 0x1F6, 0x1F7, 0x3C0, 0x3C4, 0x3C5, 0x3C9, 0x3D4,
         0x3D5, 0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FF, 0x300, 0x307, 0x30D, 0x510, 0x514, 0x602, 0x604, 0x8900]  # fmt: skip
"""Of every device on the board."""
HOST = ["type", "send", "power button", "memory", "disk"]
MOVES = st.one_of(
    st.tuples(st.sampled_from(PORTS), st.integers(0, 255)), st.tuples(st.sampled_from(HOST), st.integers(0, 255))
)


def test_whatever_has_moved_is_put_back(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(64 << 10))
    with flat(SPIN, disks=[open_disk(image, "discard")], nics=[Loopback()]) as machine:
        machine.start()
        machine.pause()
        machine.serial.send("x" * 20)  # the first is in the UART
        machine.keyboard.type("ab")
        before, expected = machine.snapshot(), states(machine)
        disk = machine.disks[0]
        assert disk is not None
        machine.restore(before)

        @settings(max_examples=80)
        @given(st.lists(MOVES, max_size=8))
        def check(moves: list[tuple[int | str, int]]) -> None:
            with machine.lock:
                for what, value in moves:
                    if isinstance(what, int):
                        machine.ports.write(what, 1, value)
                        machine.ports.read(what, 1)
                    elif what == "type":
                        machine.keyboard.type(chr(0x20 + value % 0x5F))
                    elif what == "send":
                        machine.serial.send(bytes([value]))
                    elif what == "power button":
                        machine.power_button()
                    elif what == "memory":
                        machine.memory.write(value * 4096 + 4095, bytes([value | 1] * 2))
                    else:
                        disk.write_at(value, bytes([value | 1]))
            machine.restore(before)
            assert states(machine) == expected
            assert [line.level for lines in machine.engine.board.lines.values() for line in lines] == levels
            assert machine.serial.output == b""
            assert machine.serial.waiting == waiting
            assert machine.memory.read(0, 1 << 20) == ram
            assert disk.read_at(0, 4096) == bytes(4096)

        waiting = machine.serial.waiting
        levels = [line.level for lines in machine.engine.board.lines.values() for line in lines]
        ram = machine.memory.read(0, 1 << 20)
        check()


def test_a_handler_goes_back_when_all_cpus_are_out() -> None:
    with flat(COUNTER) as machine:
        seen: list[int] = []
        snapshots: list[Snapshot] = []

        def back() -> None:
            if len(seen) < 100:
                machine.restore(snapshots[0])
                machine.memory.write_int(0x200000, 4, 10 * len(seen))  # a fuzzer's next case

        @machine.port(0x80)
        def count(access: Access) -> None:
            seen.append(machine.memory.read_int(0x200000, 4))
            machine.at_rest(back)
            if len(seen) == 102:
                machine.request_stop("seen enough")

        snapshots.append(machine.snapshot())
        machine.run(LIMIT)
        assert seen == [*range(1, 1000, 10), 992, 993]


def test_rounds_that_dirty_ever_other_pages_are_undone() -> None:
    code = hexcode("""
        8b 3c 25 00 00 20 00  ; mov edi, [0x200000]
        b9 04 00 00 00        ; mov ecx, 4
        fe 07                 ; again: inc byte [rdi]
        81 c7 00 10 00 00     ; add edi, 4096
        ff c9                 ; dec ecx
        75 f4                 ; jnz again
        e6 80                 ; out 0x80, al
    """)
    chance = random.Random(1)
    with flat(code) as machine:
        rounds: list[bytes] = []

        def back() -> None:
            machine.restore(before)
            rounds.append(machine.memory.read(0, machine.memory.size))
            machine.memory.write_int(0x200000, 4, 0x210000 + 4096 * chance.randrange(400))
            if len(rounds) == 40:  # the pages of some 25 are enough for a cleaning
                machine.request_stop("seen enough")

        @machine.port(0x80)
        def here(access: Access) -> None:
            machine.at_rest(back)

        machine.memory.write_int(0x200000, 4, 0x210000)
        before = machine.snapshot()
        content = machine.memory.read(0, machine.memory.size)
        machine.run(LIMIT)
        assert len(rounds) == 40
        assert set(rounds) == {content}


@pytest.mark.parametrize("call", ["snapshot", "restore"])
def test_a_handler_that_would_wait_for_itself_is_told(call: str) -> None:
    with flat(COUNTER) as machine:

        @machine.port(0x80)
        def count(access: Access) -> None:
            machine.snapshot() if call == "snapshot" else machine.restore(before)

        before = machine.snapshot()
        with pytest.raises(DeviceError, match=r"machine\.at_rest"):
            machine.run(LIMIT)


def test_a_cpu_that_has_halted_since_runs_again() -> None:
    code = hexcode("e6 80; out 0x80\nfa f4; cli, hlt")
    with flat(code) as machine:
        taken: list[Snapshot] = []
        ends = 0

        @machine.port(0x80)
        def here(access: Access) -> None:
            if not taken:
                machine.at_rest(lambda: taken.append(machine.snapshot()))

        assert machine.run(LIMIT).ending is Ending.HALTED
        for _ in range(5):
            machine.restore(taken[0])
            assert machine.vcpus[0].get_mp_state() is MpState.RUNNABLE
            machine.vcpus[0].set_mp_state(MpState.HALTED)
            machine.restore(taken[0])
            ends += machine.run(LIMIT).ending is Ending.HALTED
            assert machine.vcpus[0].get_mp_state() is MpState.HALTED
        assert ends == 5


def test_a_snapshot_does_not_keep_the_ones_before_it() -> None:
    with flat(HALT) as machine:
        first = machine.snapshot()
        image = weakref.ref(first.image)
        second = machine.snapshot()
        assert second.parent_id == first.id
        del first
        assert image() is None


def test_ram_larger_than_the_hosts_can_be_snapshotted_and_forked(tmp_path: Path) -> None:
    size = max(5, (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30) + 2)
    top = size << 30  # where the last gigabyte of RAM begins
    with flat(HALT, memory=f"{size}G") as machine:
        machine.memory.write(top, b"far up")
        snapshot = machine.snapshot()
        machine.memory.write(top, b"other!")
        machine.restore(snapshot)
        assert machine.memory.read(top, 6) == b"far up"
    with snapshot.fork() as fork:
        assert fork.memory.read(top, 6) == b"far up"
        fork.memory.write(4 << 30, b"x")
        assert fork.memory.own_pages() == [3 << 18]
        assert fork.run(LIMIT).ending is Ending.HALTED


def test_mtrrs_go_along() -> None:
    with flat(HALT) as machine:
        mask = machine.vcpus[0].get_msrs((0x201,)).get(0x201)
        if mask is None:
            pytest.skip("this KVM has no MTRRs")
        wanted = {0x200: 0xC0000006, 0x201: 0xFF80000800, 0x2FF: 0xC00}
        machine.vcpus[0].set_msrs(wanted)
        snapshot = machine.snapshot()
        machine.vcpus[0].set_msrs({0x2FF: 0})
        machine.restore(snapshot)
        assert machine.vcpus[0].get_msrs(tuple(wanted)) == wanted
        with snapshot.fork() as fork:
            assert fork.vcpus[0].get_msrs(tuple(wanted)) == wanted


def test_an_mmio_read_in_flight_arrives() -> None:
    code = hexcode("bf 00 00 00 fe; mov edi, 0xfe000000\n8a 07; mov al, [rdi]") + EXIT_AL
    taken: list[Snapshot] = []

    def prepare(machine: Machine) -> None:
        @machine.mmio_range(0xFE000000, 4096)
        def answer(access: Access) -> int:
            machine.at_rest(lambda: taken.append(machine.snapshot()))
            return 0x35

    with flat(code) as machine:
        prepare(machine)
        assert machine.run(LIMIT).value == 0x35
    with taken[0].fork(prepare=prepare) as fork:
        assert fork.run(LIMIT).value == 0x35
    assert len(taken) == 1


# Machines that start from a disk or a firmware

SECTOR = hexcode("""
    b4 0e b0 41 cd 10     ; mov ah, 0x0e; mov al, 'A'; int 0x10
    b0 01 e6 80           ; out 0x80, al: here
    b4 0e b0 42 cd 10     ; 'B'
    b4 02 b2 00 b6 00 b5 00 b1 01 b0 01  ; mov ah, 2; drive 0, head 0, cylinder 0, sector 1, count 1
    bb 00 80 cd 13        ; to 0000:8000
    a0 00 80 e6 f4        ; mov al, [0x8000]; out 0xf4, al
""")  # fmt: skip
FLOPPY = (SECTOR.ljust(510, b"\0") + b"\x55\xaa").ljust(1440 << 10, b"\0")


@pytest.mark.parametrize("saved", [False, True])
def test_a_machine_that_started_from_a_floppy_disk_goes_on_with_its_bios(tmp_path: Path, saved: bool) -> None:
    with Machine(FLOPPY, memory="4M") as machine:

        @machine.port(0x80)
        def here(access: Access) -> None:
            pass

        before = machine.snapshot()
        snapshot = taken_at(machine, Moment(text=b"A"))
        machine.restore(before)
        assert machine.run(LIMIT).value == 0xB4
    assert snapshot.screen.strip() == "A"
    if saved:
        snapshot.save(tmp_path / "a.pykvm")
        snapshot = Snapshot.load(tmp_path / "a.pykvm")

    def prepare(machine: Machine) -> None:
        @machine.port(0x80)
        def here(access: Access) -> None:
            pass

    with snapshot.fork(prepare=prepare) as fork:
        assert fork.run(LIMIT).value == 0xB4
        assert fork.serial.text == "AB"
        assert fork.screen.text.strip() == "AB"
        fork.restore(snapshot)
        assert fork.screen.text.strip() == "A"
        assert fork.run(LIMIT).value == 0xB4


def test_a_firmware_goes_along(tmp_path: Path) -> None:
    rom = bytearray(64 << 10)
    rom[0:8] = hexcode("e6 80; out 0x80, al\n2e a0 20 00; mov al, cs:[0x20]") + EXIT_AL
    rom[0x20] = 0x2A
    rom[-16:-11] = hexcode("ea 00 00 00 f0; jmp f000:0000")
    with Machine(memory="4M", firmware=bytes(rom)) as machine:
        machine.snapshot().save(tmp_path / "a.pykvm")
        assert machine.run(LIMIT).value == 0x2A
    loaded = Snapshot.load(tmp_path / "a.pykvm")
    with loaded.fork() as fork:
        assert fork.run(LIMIT).value == 0x2A
    with flat(HALT) as other, pytest.raises(SnapshotError, match="another machine"):
        other.restore(loaded)
    changed = bytearray((tmp_path / "a.pykvm" / "firmware").read_bytes())
    changed[0x20] ^= 1
    (tmp_path / "a.pykvm" / "firmware").write_bytes(changed)
    with pytest.raises(SnapshotError, match="firmware has other content"):
        Snapshot.load(tmp_path / "a.pykvm")
