"""What a report says besides the sentence: addresses in real mode, software interrupts, what nobody answered."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zygote
from helpers import LIMIT, PYKVM, ROOT, flat, hexcode

from pykvm import CrashReport, Ending


def report_of(code: str, mode: int = 64, finish: bool = True) -> CrashReport:
    with flat(hexcode(code), mode, finish=finish) as machine:
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.CRASHED
    assert outcome.report is not None
    return outcome.report


@pytest.mark.needs("pvm")
def test_an_address_in_real_mode_has_its_segment() -> None:
    report = report_of("ea 05 00 c0 07 0f 0b ; jmp 0x7c0:5; ud2", 16)
    assert " at 07c0:0005 (0x7c05) (ud2)" in report.summary
    assert "at 07c0:00000005 (0x7c05)" in str(report)


@pytest.mark.needs("pvm")
@pytest.mark.parametrize("mode", [32, 64])
def test_a_software_interrupt_that_kvm_cannot_do(mode: int) -> None:
    assert report_of("cd 80 ; int 0x80", mode, finish=False).explanation == (
        "`int 0x80` calls interrupt 0x80, which the interpreter of this host's KVM does not do; the IDT's limit is 0: no "
        "handler could be found"
    )


@pytest.mark.parametrize("mode", [32, 64])
def test_a_software_interrupt_without_an_idt(mode: int) -> None:
    assert report_of("cd 80 ; int 0x80", mode).explanation == (
        "`int 0x80` calls interrupt 0x80, and the IDT's limit is 0: no handler could be found"
    )


def test_what_nobody_answered_the_last_first() -> None:
    report = report_of("66 ba 34 12 ec b0 01 e6 99 e6 98 e6 99 0f 0b ; in from 0x1234, out to 0x99, 0x98, 0x99; ud2")
    assert report.unclaimed == [("port", 0x99, 2), ("port", 0x98, 1), ("port", 0x1234, 1)]
    assert "nobody answered at, the last first:\n  port 0x99: 2 accesses" in str(report)
    assert report.as_dict()["unclaimed"][0] == {"bus": "port", "address": 0x99, "count": 2}


def test_ctrl_c_says_where_the_cpus_were(guest: Callable[[str], Path]) -> None:
    command = [*PYKVM, "run", guest("echo")]
    with zygote.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        os.read(running.stdout.fileno(), 1)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=LIMIT)
    assert running.returncode == 130
    assert b"stopped: interrupted; CPU 0 " in errors
