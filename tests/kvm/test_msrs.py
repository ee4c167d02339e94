"""Every MSR that a guest can change belongs to a snapshot: the guest `msrs` looks for them on whatever KVM this is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import HALT, LIMIT, SLOW, flat, hexcode

from pykvm import Ending, Machine
from pykvm.kvm import System
from pykvm.kvm.saved import known_msrs, state_msrs

Guest = Callable[[str], Path]

BY_ANOTHER_PART = {
    0xC0000100: "FS base: SREGS",
    0xC0000101: "GS base: SREGS",
    **dict.fromkeys(range(0x800, 0x900), "x2APIC: the local APIC's state"),
}
"""The MSRs that are put back without being in the list. The guest leaves four alone, as it could not go on, or they move by
themselves: TSC (`SavedState.apply_tsc`), APIC base and EFER (SREGS), TSC deadline (after the local APIC's state)."""

WAIT = LIMIT * 10 if SLOW else LIMIT
"""Seconds: a scan is some 17,000 faults."""


@pytest.fixture
def scanned(guest: Guest) -> Iterator[Machine]:
    """A machine that waits for a command, and has told which MSRs can be changed."""
    with Machine(guest("msrs")) as machine:
        machine.start(timeout=WAIT)
        machine.serial.wait_for("ready\n", timeout=WAIT)
        yield machine


def writable(machine: Machine) -> list[int]:
    return [int(index, 16) for index in re.findall(r"^W (\w+)$", machine.serial.text, re.MULTILINE)]


def test_what_a_guest_can_change_is_saved_and_put_back(scanned: Machine) -> None:
    indices = writable(scanned)
    assert {0x174, 0xC0000082, 0xC0000102} <= set(indices)  # SYSENTER_CS, LSTAR, KERNEL_GS_BASE: any CPU has them
    snapshot = scanned.snapshot()
    saved = snapshot.state.vcpus[0].msrs
    assert [hex(index) for index in indices if index not in {*saved, *BY_ANOTHER_PART}] == []
    for _ in range(2):
        scanned.serial.send("cr")
        scanned.serial.wait_for("read\n", timeout=WAIT)
        leaves = re.findall(r"^D (\w+)", scanned.serial.text, re.MULTILINE)
        assert {0x174, 0xC0000082} <= {int(index, 16) for index in leaves}  # it does write
        scanned.restore(snapshot)
        scanned.serial.send("r")
        scanned.serial.wait_for("read\n", timeout=WAIT)
        differ = re.findall(r"^D (\w+)", scanned.serial.text, re.MULTILINE)
        assert differ == []
        scanned.restore(snapshot)


@pytest.mark.parametrize("handler", [None, 0x1234])
def test_an_msr_that_nobody_can_put_back_is_kept_from_guests(handler: int | None) -> None:
    code = hexcode(
        """
        b9 29 10 01 c0 ; mov ecx, 0xc0011029: DE_CFG, which only AMD's CPUs have
        0f 32          ; rdmsr
        83 f0 02       ; xor eax, 2: LFENCE is serializing
        0f 30          ; wrmsr
        """
    )
    with flat(code + HALT) as machine:
        if handler is not None:
            machine.msr(handler)(lambda value: 0)
        assert machine.run(LIMIT).ending == Ending.CRASHED, "of the #GP"


def test_the_msrs_of_a_state_are_those_that_kvm_takes_back() -> None:
    with Machine(b"\xf4", format="flat", mode=16) as machine:
        vcpu = machine.vcpus[0]
        system = System()
        try:
            known, usable = known_msrs(system), state_msrs(system, vcpu)
        finally:
            system.close()
        assert len(set(usable)) == len(usable)
        assert set(usable) <= set(known)
        values = vcpu.get_msrs(usable)
        assert list(values) == usable
        vcpu.set_msrs(values)
        banks = vcpu.get_msrs((0x179,))[0x179] & 0xFF
        assert set(range(0x400, 0x400 + 4 * banks)) <= set(usable)
