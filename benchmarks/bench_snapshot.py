"""Snapshots: going back after a few pages, coming back from disk, forking; pykvm against the same ioctls in plain C.

The C program goes back by the same ioctls in the same order, and copies the same pages; what is pykvm's own is Python.
The targets are absolute, so the ratio tells how much of a missed one is the kernel's.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

from common import Settings, Table, benchmark, compile_c, in_turn, median, output_of, ratio, scratch, spread

from pykvm import Access, Ending, Machine
from pykvm.snapshot import Snapshot

PAGES = 24
"""What the guest dirties between two snapshots."""
PAGE = 4096
DATA = 0x1000000
"""Where the RAM that comes back from disk has content."""
DONE, EXIT = 0x80, 0xF4

Steps = Counter[str]


def program(port: int) -> bytes:
    """32-bit code that writes to `PAGES` pages from 2 MiB on, then to the port, and then loops."""
    touch = bytes.fromhex("fe07 81c700100000 49 75f5")  # again: inc byte [edi]; add edi, 4096; dec ecx; jnz again
    return (
        b"\xb9" + PAGES.to_bytes(4, "little")  # mov ecx, PAGES
        + b"\xbf" + (2 << 20).to_bytes(4, "little")  # mov edi, 2 MiB
        + touch + bytes([0xE6, port, 0xEB, 0xFE])  # out port, al; jmp to itself
    )  # fmt: skip


class Loop:
    """A machine that goes back whenever its guest writes to `DONE`."""

    def __init__(self, size: int, count: int) -> None:
        self.machine = Machine(program(DONE), format="flat", mode=32, memory=f"{size}M")
        self._count = count
        self._left = 0
        self._ns = 0

        @self.machine.port(DONE)
        def done(access: Access) -> None:
            self.machine.at_rest(self._back)

        self._start = self.machine.snapshot()

    def _back(self) -> None:
        began = time.perf_counter_ns()
        self.machine.restore(self._start)
        self._ns += time.perf_counter_ns() - began
        self._left -= 1
        if not self._left:
            self.machine.request_stop("enough")

    def run(self) -> Steps:
        """Nanoseconds in `restore`, and of all: the guest, the way out, going back, the way in."""
        self._left, self._ns = self._count, 0
        self.machine.restore(self._start)
        began = time.perf_counter_ns()
        self.machine.run(60)
        return Counter({"restore": self._ns, "round": time.perf_counter_ns() - began})

    def run_apart(self) -> Steps:
        """The same with a run of its own for each time: threads and all."""
        count, total, restore = self._count // 10, 0, 0
        self.machine.restore(self._start)
        for _ in range(count):
            self._left = 1
            began = time.perf_counter_ns()
            self.machine.run(60)
            ran = time.perf_counter_ns()
            self.machine.restore(self._start)
            total += time.perf_counter_ns() - began
            restore += time.perf_counter_ns() - ran
        return Counter({"restore": 10 * restore, "round": 10 * total})


def steps_of(*command: str | Path) -> Steps:
    """What the C program tells."""
    steps: Steps = Counter()
    for line in output_of(*command).splitlines():
        name, number = line.rsplit(" ", 1)
        steps[name] += int(number)
    return steps


def back(peer: Path, directory: Path, settings: Settings) -> list[Table]:
    size, count, rounds = 64, 200, settings.rounds(60, 8)
    code = directory / "code.bin"
    code.write_bytes(program(DONE))
    loop = Loop(size, count)
    contestants = {log: partial(steps_of, peer, "reset", log, str(size), str(count), code) for log in LOGS}
    results = in_turn({**contestants, "pykvm": loop.run, "runs": loop.run_apart}, rounds)
    loop.machine.close()
    table = Table(
        f"Going back: {size} MiB, {PAGES} dirty pages, µs, {rounds} rounds of {count}",
        ["", "C", "pykvm", "pykvm/C", "middle half", "C at best", "pykvm at best"],
        notes=[
            "Target for restore(): 50. C: the dirty log, memcpy, the ioctls for chips and CPU; and KVM_RUN in a round.",
            "In a round pykvm's guest leaves KVM_RUN once more, so that its access is finished before it is undone.",
        ],
    )
    for title, whose, step in (
        ("restore()", "pykvm", "restore"),
        ("a round: run to a port, restore()", "pykvm", "round"),
        ("a round with run() and its threads", "runs", "round"),
    ):
        theirs = [
            steps["pages"] + steps["state"] + (steps["run"] if step == "round" else 0) for steps in results["kept"]
        ]
        ours = [steps[step] for steps in results[whose]]
        table.rows.append([
            title, *(median(times) / count / 1000 for times in (theirs, ours)), ratio(ours, theirs),
            spread(ours, theirs), *(min(times) / count / 1000 for times in (theirs, ours)),
        ])  # fmt: skip
    logs = Table("Which pages are dirty, in C, µs", ["", "fetch and copy", "run"])
    for log, title in LOGS.items():
        logs.rows.append(
            [title, *(median([s[step] for s in results[log]]) / count / 1000 for step in ("pages", "run"))]
        )
    return [table, logs]


LOGS = {
    "kept": "KVM_GET_DIRTY_LOG alone, as pykvm",
    "log": "KVM_GET_DIRTY_LOG, which cleans as well",
    "clear": "KVM_GET_DIRTY_LOG, then KVM_CLEAR_DIRTY_LOG",
    "ring": "the dirty ring",
}


def saved(directory: Path, size: int, written: int) -> Path:
    """A saved snapshot of a machine of `size` MiB, of which `written` have content, before its first instruction."""
    path = directory / f"{size}.pykvm"
    with Machine(program(EXIT), format="flat", mode=32, memory=f"{size}M") as machine:
        machine.memory.write(DATA, random.Random(0).randbytes(written << 20))
        machine.snapshot().save(path)
    return path


def come_back(path: Path, verify: bool) -> Steps:
    steps: Steps = Counter()
    began = time.perf_counter_ns()
    snapshot = Snapshot.load(path, verify=verify)
    loaded = time.perf_counter_ns()
    machine = snapshot.fork()
    forked = time.perf_counter_ns()
    machine.vcpus[0].enter()
    ended = time.perf_counter_ns()
    machine.close()
    steps["load"], steps["fork"], steps["first"] = loaded - began, forked - loaded, ended - forked
    return steps


def from_disk(peer: Path, directory: Path, settings: Settings) -> Table:
    size, written, rounds = 512, 32, settings.rounds(40, 8)
    path = saved(directory, size, written)
    results = in_turn(
        {
            "c": partial(steps_of, peer, "restore", path / "memory", str(size), "1"),
            "unverified": partial(come_back, path, False),
            "verified": partial(come_back, path, True),
        },
        rounds,
    )
    table = Table(
        f"From disk to the first exit: {size} MiB of which {written} have content, ms, {rounds} rounds",
        ["", "C", "pykvm", "pykvm/C", "middle half", "C at best", "pykvm at best"],
        notes=["Target: 10. C has its state at hand; pykvm reads, checks and translates it, which is 'load'."],
    )
    theirs = [sum(time for step, time in steps.items() if "close" not in step) for steps in results["c"]]
    for title, whose, steps_wanted in (
        ("load(verify=False), fork, first exit", "unverified", ("load", "fork", "first")),
        ("  load(verify=False)", "unverified", ("load",)),
        ("  fork", "unverified", ("fork",)),
        ("  first exit", "unverified", ("first",)),
        ("with the checksums of RAM", "verified", ("load", "fork", "first")),
    ):
        ours = [sum(steps[step] for step in steps_wanted) for steps in results[whose]]
        whole = len(steps_wanted) > 1
        table.rows.append([
            title, median(theirs) / 1e6 if whole else None, median(ours) / 1e6,
            ratio(ours, theirs) if whole else None, spread(ours, theirs) if whole else None,
            min(theirs) / 1e6 if whole else None, min(ours) / 1e6,
        ])  # fmt: skip
    return table


def memory_used() -> tuple[int, int]:
    """KiB that are this process's alone (its heap, and what it has written to copy-on-write mappings); page tables."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    status = Path("/proc/self/status").read_text().splitlines()
    figures = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:] + status if line.endswith(" kB")}
    return figures["Anonymous"], figures["VmPTE"]


def forks(peer: Path, directory: Path, settings: Settings) -> Table:
    size, written, count = 64, 16, settings.rounds(200, 40)
    path = saved(directory, size, written)
    snapshot = Snapshot.load(path)
    snapshot.fork().close()
    peers = [steps_of(peer, "restore", path / "memory", str(size), "1") for _ in range(20)]
    theirs = [sum(time for step, time in steps.items() if step[:5] not in ("close", "first")) for steps in peers]
    before = memory_used()
    times, machines = [], []
    for _ in range(count):
        began = time.perf_counter_ns()
        machines.append(snapshot.fork())
        times.append(time.perf_counter_ns() - began)
    forked = memory_used()
    for machine in machines:
        if machine.run(60).ending != Ending.EXITED:
            raise RuntimeError("a fork did not come to its end")
    ran = memory_used()
    began = time.perf_counter_ns()
    for machine in machines:
        machine.close()
    closed = time.perf_counter_ns() - began
    each = median(times)
    table = Table(f"{count} forks of {size} MiB, of which {written} have content, in one process", ["", "figure"])
    table.rows = [
        ["a fork, ms", each / 1e6],
        ["at best, ms", min(times) / 1e6],
        ["the same ioctls in C, ms", median(theirs) / 1e6],
        ["fork/C", each / median(theirs)],
        ["forks a second", round(1e9 / each)],
        ["close, ms", closed / count / 1e6],
        ["memory of a fork, KiB", (forked[0] - before[0]) / count],
        [
            f"and when it has written {PAGES} pages, beside them, KiB",
            (ran[0] - before[0]) / count - PAGES * PAGE // 1024,
        ],
        ["page tables of a fork, KiB", (ran[1] - before[1]) / count],
    ]
    table.notes.append("Memory: Python's objects included; what KVM allocates in the kernel is not seen.")
    return table


def measure(settings: Settings) -> list[Table]:
    with scratch() as name:
        directory = Path(name)
        peer = compile_c("snapshot.c", name)
        os.sync()  # what others have written must not be waited for in here
        return [
            *back(peer, directory, settings),
            from_disk(peer, directory, settings),
            forks(peer, directory, settings),
        ]


if __name__ == "__main__":
    benchmark(measure, __doc__.splitlines()[0])
