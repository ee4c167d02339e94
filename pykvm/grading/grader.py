"""All tests of a lab on one submission, in a process that may die of it: results are sent one by one."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..disk.image import open_disk
from ..errors import PykvmError
from ..machine import Machine
from ..snapshot import Snapshot
from .checks import crash_sentence, do_steps, run_test
from .images import make_image
from .lab import Lab, Settings, Test
from .results import Result, unearned
from .submission import Submission, SubmissionError, add_overlay, build, kernel_path, unpack

Send = Callable[[dict[str, Any]], None]

MESSAGE_MOST = 4000
"""Characters of a message that are kept."""
MEMORY_BESIDE = 2 << 30
"""Bytes that the process may have besides the guests' RAM."""


def prepare(lab: Lab, submission: Submission, target: str) -> str:
    """Unpack and build it in the empty directory `target`; the kernel's path. SubmissionError if that fails."""
    itself = unpack(submission, target)
    if lab.overlay:
        add_overlay(lab, target)
    if lab.build and itself is None:
        build(lab, target)
    return kernel_path(lab, target, itself)


def run_tests(lab: Lab, kernel: str, target: str, first: int, send: Send) -> None:
    """Run the tests from number `first` on; each is sent as {"begin": number}, then {"end": number, "result": ...}."""
    most = max([lab.settings.memory, *(test.settings.memory for test in lab.tests)])
    limit = 2 * most + MEMORY_BESIDE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as directory:
        machines = _Machines(lab, kernel, target, directory)
        for number in range(first, len(lab.tests)):
            send({"begin": number})
            send({"end": number, "result": asdict(_run(machines, lab.tests[number]))})


def _run(machines: _Machines, test: Test) -> Result:
    began = time.monotonic()
    try:
        with machines.make(test) as machine:
            verdict = run_test(machine, test)
    except (PykvmError, MemoryError) as error:
        return unearned(test, f"the test cannot be run: {error or 'the host has no more memory'}"[:MESSAGE_MOST])
    return Result(
        test.name, test.points, verdict.earned, test.group, test.hidden, verdict.message[:MESSAGE_MOST],
        verdict.crash[:MESSAGE_MOST], verdict.output[:MESSAGE_MOST], round(time.monotonic() - began, 3),
    )  # fmt: skip


class _Machines:
    """Makes the machine of each test: a fork of the booted one, where the lab boots once and the test has no other."""

    def __init__(self, lab: Lab, kernel: str, built: str, directory: str) -> None:
        self._lab, self._built, self._directory = lab, built, directory
        self._kernel = kernel
        self._images: dict[str, str] = {}
        self._snapshot: Snapshot | None = None
        self._refused = ""

    def make(self, test: Test) -> Machine:
        """A machine that is to be started; PykvmError says why there is none."""
        if not self._lab.boot or test.own_settings:
            machine = self._boot(test.settings)
            if self._lab.boot:
                with machine:
                    return self._booted(machine).fork()
            return machine
        if self._refused:
            raise SubmissionError(self._refused)
        if self._snapshot is None:
            try:
                with self._boot(self._lab.settings) as machine:
                    self._snapshot = self._booted(machine)
            except PykvmError as error:
                self._refused = str(error)
                raise
        return self._snapshot.fork()

    def _boot(self, settings: Settings) -> Machine:
        disks = [open_disk(self._disk(name), "discard", "raw") for name in settings.disks]
        return Machine(
            self._kernel,
            memory=settings.memory,
            cpus=settings.cpus,
            command_line=settings.command_line,
            format=settings.format or None,
            disks=disks,
            no_reboot=True,
        )

    def _disk(self, name: str) -> str:
        if name not in self._images:
            image = self._lab.disks[name]
            self._images[name] = make_image(self._lab, name, image, self._built, self._directory)
        return self._images[name]

    def _booted(self, machine: Machine) -> Snapshot:
        machine.start(self._lab.boot_timeout)
        try:
            do_steps(machine, self._lab.boot)
            machine.pause()
            outcome = machine.outcome
            if outcome is None:
                return machine.snapshot()
        except PykvmError as error:
            crash = crash_sentence(machine.stop())
            raise SubmissionError(
                f"it does not come as far as the tests begin: {error}; {crash}".rstrip("; ")
            ) from None
        raise SubmissionError(f"it does not come as far as the tests begin: {outcome}")
