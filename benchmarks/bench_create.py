"""What a machine costs from nothing to gone: made, a 64-bit guest run to its power-off, closed; pykvm against plain C.

The C program makes the same virtual machine by the same ioctls, loads the same ELF file, serves the guest's exits and
closes everything again, many times in one process, as pykvm does here. A second table says where the time goes, and a
third whether anything is left behind.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import Settings, Table, benchmark, compile_c, guest, in_turn, median, output_of, ratio, scratch, spread

from pykvm import Ending, Machine
from pykvm.kvm import VCPU
from pykvm.kvm.descriptor import Descriptor

Steps = Counter[str]
"""Nanoseconds by step, summed over the machines of a round."""

PHASES = {
    "make": ("Machine()", "map RAM", "load the image", "map vCPU", "KVM_"),
    "run": ("run",),
    "close": ("close",),
}
"""Each phase with the beginnings of the names of its steps."""


def run_pykvm(image: Path, machines: int) -> Steps:
    """The phases alone: nothing is measured inside them."""
    steps: Steps = Counter()
    for _ in range(machines):
        began = time.perf_counter_ns()
        machine = Machine(image)
        made = time.perf_counter_ns()
        outcome = machine.run(60)
        ended = time.perf_counter_ns()
        machine.close()
        closed = time.perf_counter_ns()
        if outcome.ending != Ending.EXITED:
            raise RuntimeError(f"the guest did not come to its end: {outcome}")
        steps["Machine()"] += made - began
        steps["run"] += ended - made
        steps["close"] += closed - ended
    return steps


def run_c(peer: Path, image: Path, machines: int) -> Steps:
    steps: Steps = Counter()
    for line in output_of(peer, image, str(machines)).splitlines():
        name, number = line.rsplit(" ", 1)
        if name != "exits":
            steps[name] += int(number)
    return steps


def phase(steps: Steps, name: str) -> int:
    return sum(time for step, time in steps.items() if step.startswith(PHASES[name]))


def ioctls_timed(steps: Steps) -> ExitStack:
    """While it is entered, the time inside pykvm's ioctls, and closing its KVM descriptors, is added to `steps`."""
    ioctl, ioctl_int, close = Descriptor.ioctl, Descriptor.ioctl_int, Descriptor.close

    def timed_ioctl(self: Descriptor, name: str, argument: Any, hint: str = "") -> int:
        began = time.perf_counter_ns()
        try:
            return ioctl(self, name, argument, hint)
        finally:
            steps[name] += time.perf_counter_ns() - began

    def timed_ioctl_int(self: Descriptor, name: str, argument: int = 0, hint: str = "") -> int:
        began = time.perf_counter_ns()
        try:
            return ioctl_int(self, name, argument, hint)
        finally:
            steps[name] += time.perf_counter_ns() - began

    def timed_close(self: Descriptor) -> None:
        began = time.perf_counter_ns()
        close(self)
        steps["close vCPU" if isinstance(self, VCPU) else f"close {type(self).__name__}"] += (
            time.perf_counter_ns() - began
        )

    patches = ExitStack()
    for name, timed in (("ioctl", timed_ioctl), ("ioctl_int", timed_ioctl_int), ("close", timed_close)):
        patches.enter_context(patch.object(Descriptor, name, timed))
    return patches


def run_pykvm_timed(image: Path, machines: int) -> Steps:
    """The ioctls by name besides the phases."""
    steps: Steps = Counter()
    with ioctls_timed(steps):
        phases = run_pykvm(image, machines)
    return steps + phases


def compare(peer: Path, image: Path, settings: Settings) -> list[Table]:
    machines, rounds = 5, settings.rounds(30, 6)
    results = in_turn(
        {
            "c": partial(run_c, peer, image, machines),
            "pykvm": partial(run_pykvm, image, machines),
            "timed": partial(run_pykvm_timed, image, machines),
        },
        rounds,
    )
    total = Table(
        f"One machine with {image.name}, ms, {rounds} rounds of {machines}",
        ["phase", "C", "pykvm", "pykvm/C", "middle half"],
        notes=[
            "Target for all of it: 1.5. One process each; imports and the opening of /dev/kvm are not counted.",
            "Closing a VM is mostly waiting inside the kernel, for both; so look at the rows above it, too.",
        ],
    )
    rows = {"make": ("make",), "run": ("run",), "make, run": ("make", "run"), "close": ("close",), "all": tuple(PHASES)}
    for name, phases in rows.items():
        c, ours = ([sum(phase(steps, each) for each in phases) for steps in results[who]] for who in ("c", "pykvm"))
        middle = [median(times) / machines / 1e6 for times in (c, ours)]
        total.rows.append([name, *middle, ratio(ours, c), spread(ours, c)])

    parts = Table("Where it goes, µs a machine", ["step", "C", "pykvm"])
    names = list(dict.fromkeys(name for who in ("c", "timed") for steps in results[who] for name in steps))
    for name in (name for name in names if name not in ("Machine()", "run", "close")):
        parts.rows.append([name, *(_each(results[who], name, machines) for who in ("c", "timed"))])
    outside: dict[str, Callable[[Steps], int]] = {
        "Machine(): the rest": lambda steps: steps["Machine()"] - sum(steps[name] for name in steps if "KVM_" in name),
        "run": lambda steps: steps["run"],
        "close(): the rest": lambda steps: steps["close"] - sum(steps[name] for name in steps if "close " in name),
    }
    for name, part in outside.items():
        ours_us = round(median([part(steps) for steps in results["timed"]]) / machines / 1000)
        parts.rows.append([name, _each(results["c"], name, machines), ours_us])
    parts.notes.append('"the rest" is pykvm\'s own Python and what it asks of the host besides KVM.')
    return [total, parts]


def _each(rounds: list[Steps], name: str, machines: int) -> int | None:
    if not any(name in steps for steps in rounds):
        return None
    return round(median([steps[name] for steps in rounds]) / machines / 1000)


def held() -> tuple[int, int, int, int]:
    """Descriptors, threads, mappings and resident KiB of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mappings = Path("/proc/self/maps").read_text().count("\n")
    return len(os.listdir("/proc/self/fd")), int(status["Threads"]), mappings, int(status["VmRSS"].split()[0])


def leaks(image: Path, settings: Settings) -> Table:
    count = settings.rounds(1000, 100)
    run_pykvm(image, 20)  # what is made once a process is there now
    gc.collect()
    figures = [held()]
    for _ in range(2):
        run_pykvm(image, count // 2)
        gc.collect()
        figures.append(held())
    names = ("descriptors", "threads", "mappings", "resident KiB")
    table = Table(f"Left behind by {count} machines", ["", "before", f"after {count // 2}", f"after {count}"])
    table.rows = [[name, *(figure[at] for figure in figures)] for at, name in enumerate(names)]
    return table


def measure(settings: Settings) -> list[Table]:
    image = guest("hello64.elf")
    with scratch() as directory:
        peer = compile_c("create.c", directory)
        return [*compare(peer, image, settings), leaks(image, settings)]


if __name__ == "__main__":
    benchmark(measure, __doc__.splitlines()[0])
