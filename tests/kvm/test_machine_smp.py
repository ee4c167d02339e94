"""Several CPUs: all come up and work together, CPUID tells the guest how many, and they end together."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from helpers import EXIT_AL, HALT, LIMIT, SPIN, flat, hexcode

from pykvm import ConfigError, Ending, Machine
from pykvm.kvm import MpState, System

Guest = Callable[[str], Path]

ROUNDS = 7  # of smp.c

WAKE_OTHERS = hexcode(
    """
    bb 00 00 e0 fe                ; mov ebx, 0xfee00000
    c7 83 f0 00 00 00 ff 01 00 00 ; mov dword [rbx + 0xf0], 0x1ff: the local APIC on
    c7 83 00 03 00 00 00 45 0c 00 ; mov dword [rbx + 0x300], 0xc4500: INIT to all others
    c7 83 00 03 00 00 08 46 0c 00 ; mov dword [rbx + 0x300], 0xc4608: SIPI, which starts them at 0x8000
    """
)


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_all_cpus_count_in_turn(guest: Guest, cpus: int) -> None:
    with Machine(guest("smp"), cpus=cpus) as machine:
        outcome = machine.run(LIMIT)
        lines = machine.serial.text.splitlines()
    assert (outcome.ending, outcome.code) == (Ending.EXITED, 0)
    assert lines[0] == f"smp: {cpus} CPUs"
    assert lines[1:-1] == [f"cpu {number}: {ROUNDS}" for number in range(cpus)]
    assert lines[-1] == f"total: {cpus * ROUNDS}"


def test_more_cpus_than_kvm_has_are_refused_in_words() -> None:
    with closing(System()) as system:
        most = system.check_extension("MAX_VCPUS")
    with pytest.raises(ConfigError, match=rf"{most + 1} CPUs .*1 to {most}"):
        Machine(cpus=most + 1)
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f"{number} CPUs"):
            Machine(cpus=number)


def test_cpus_that_nobody_starts_do_not_keep_a_halted_machine_alive() -> None:
    with flat(HALT, cpus=3) as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert [vcpu.get_mp_state() for vcpu in machine.vcpus[1:]] == [MpState.UNINITIALIZED] * 2


def test_a_cpu_that_spins_keeps_the_machine_alive() -> None:
    with flat(WAKE_OTHERS + HALT, cpus=2) as machine:
        machine.memory.write(0x8000, hexcode("b0 32; mov al, '2'\n e6 e9; out 0xe9, al") + SPIN)
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("2", LIMIT)
        with pytest.raises(TimeoutError):
            machine.wait(0.3)
        assert machine.stop().ending is Ending.STOPPED


def test_any_cpu_may_end_the_run() -> None:
    with flat(WAKE_OTHERS + SPIN, cpus=2) as machine:
        machine.memory.write(0x8000, hexcode("b0 2a; mov al, 42") + EXIT_AL + SPIN)
        assert machine.run(LIMIT).value == 42


CPUID_TO_EXIT_PORT = hexcode(
    "66 b8 01 00 00 00; mov eax, 1\n 0f a2; cpuid\n 66 93; xchg eax, ebx\n 66 e7 f4; out 0xf4, eax"
)
"""16-bit code: EBX of leaf 1 has the APIC id in bits 31-24, and in 23-16 how many ids a package has room for."""


@pytest.mark.parametrize(("cpus", "room"), [(1, 1), (2, 2), (3, 4)])
def test_cpuid_tells_how_many_cpus_there_are(cpus: int, room: int) -> None:
    with flat(CPUID_TO_EXIT_PORT + SPIN, 16, cpus=cpus) as machine:
        value = machine.run(LIMIT).value
    assert value is not None
    assert value >> 24 == 0
    assert value >> 16 & 0xFF == room


def test_cpuid_tells_each_cpu_its_own_number() -> None:
    with flat(WAKE_OTHERS + SPIN, cpus=2) as machine:
        machine.memory.write(0x8000, CPUID_TO_EXIT_PORT + SPIN)
        value = machine.run(LIMIT).value
    assert value is not None
    assert value >> 24 == 1


def test_pause_holds_all_cpus(guest: Guest) -> None:
    with Machine(guest("smp"), cpus=2) as machine:
        machine.start(LIMIT)
        for _ in range(5):
            machine.pause()
            states = [vcpu.get_registers() for vcpu in machine.vcpus]
            assert states == [vcpu.get_registers() for vcpu in machine.vcpus]
            machine.resume()
        assert machine.wait().code == 0
        assert re.search(r"total: 14\n", machine.serial.text)
