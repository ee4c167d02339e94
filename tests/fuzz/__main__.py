"""Runs the fuzz targets: all of them, each for its share of the time, in as many processes as there are CPUs."""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from . import targets
from .target import Failure, Random, Target, attempt, shorten

ROOM = 1 << 30
"""Bytes of address space that a process may take beyond what it has at its start."""
HUNG = 60.0
"""Seconds after which a process that says nothing has failed: it is in C code, where no signal is served."""
DIRECTORY = Path("build/fuzz")


class Total:
    """What was done with one target."""

    def __init__(self) -> None:
        self.inputs = 0
        self.seconds = 0.0
        self.failures: Counter[tuple[str, str]] = Counter()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long it takes [60]")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many [one a CPU]")
    parser.add_argument("--seed", type=int, default=None, help="where the inputs come from [another one each time]")
    parser.add_argument("--only", default="", help="targets whose names begin so, separated by commas")
    parser.add_argument("--again", type=Path, help="run the inputs of a failure's file")
    given = parser.parse_args()
    if given.again is not None:
        return again(given.again)
    chosen = [target for target in targets.every() if target.name.startswith(tuple(given.only.split(",")))]
    if not chosen:
        parser.error(f"no target is called {given.only!r}: there are {', '.join(t.name for t in targets.every())}")
    seed = int.from_bytes(os.urandom(4), "little") if given.seed is None else given.seed
    print(f"seed {seed}, {len(chosen)} targets, {given.processes} processes, {given.seconds:g} s", flush=True)
    totals = {target.name: Total() for target in chosen}
    _work_together(chosen, totals, seed, given.seconds, given.processes)
    _show(chosen, totals)
    return 1 if any(total.failures for total in totals.values()) else 0


def again(path: Path) -> int:
    """Run the inputs in a file that `note` wrote."""
    name, *lines = path.read_text("utf-8").splitlines()
    target = next(target for target in targets.every() if target.name == name)
    failure = attempt(target, [ast.literal_eval(line) for line in lines if not line.startswith("#")])
    print("it does not fail" if failure is None else failure.error)
    return 0 if failure is None else 1


def note(target: Target, seed: str, failure: Failure) -> Path:
    """Write a failure down, in a file that `again` reads."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{seed.replace('/', '-').replace(':', '-')}.txt"
    remarks = [f"# round {seed}", *(f"# {line}" for line in failure.error.splitlines())]
    path.write_text("\n".join([target.name, *remarks, *map(repr, failure.inputs), ""]), "utf-8")
    return path


# In the processes


def work(connection: Connection, own: Sequence[Target], others: Sequence[Target], seed: str, seconds: float) -> None:
    """Round after round: always of the target that has had the least of its share. Each of its own has one, at least."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open("/proc/self/statm", encoding="ascii") as file:
        room = int(file.read().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    spent = dict.fromkeys((*own, *others), 0.0)
    failed: set[tuple[str, str]] = set()
    began, number = time.monotonic(), 0
    while time.monotonic() - began < seconds or any(not spent[target] for target in own):
        target = min(spent, key=spent.__getitem__)
        number += 1
        round_seed = f"{target.name}:{seed}/{number}"
        connection.send((target.name, round_seed))
        start = time.monotonic()
        inputs = target.draw(Random(round_seed))
        failure = attempt(target, inputs)
        took = time.monotonic() - start
        spent[target] += took / target.share
        told = None
        if failure is not None and failure.where not in failed:
            failed.add(failure.where)
            told = str(note(target, round_seed, shorten(target, failure)))
        done = len(inputs if failure is None else failure.inputs)
        connection.send((target.name, done, took, failure and failure.where, told))
    connection.send(None)


# In the process that started them


def _work_together(
    chosen: Sequence[Target], totals: dict[str, Total], seed: int, seconds: float, processes: int
) -> None:
    context = multiprocessing.get_context("fork")
    running: dict[Connection, Any] = {}
    rounds: dict[Connection, tuple[float, str, str]] = {}
    for number in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        own = chosen[number::processes]
        others = [target for target in chosen if target not in own]
        process = context.Process(target=work, args=(theirs, own, others, f"{seed}/{number}", seconds), daemon=True)
        process.start()
        theirs.close()
        running[ours] = process
        rounds[ours] = time.monotonic(), "", ""
    began = shown = time.monotonic()
    try:
        while running:
            for connection in wait(list(running), 1.0):
                assert isinstance(connection, Connection)
                try:
                    told = connection.recv()
                except EOFError:
                    _died(rounds[connection], totals, f"its process ended ({running[connection].exitcode})")
                    told = None
                if told is None:
                    running.pop(connection).join()
                elif len(told) == 2:
                    rounds[connection] = time.monotonic(), *told
                else:
                    _add(totals, *told)
            now = time.monotonic()
            for connection in list(running):
                if now - rounds[connection][0] > HUNG:
                    running.pop(connection).kill()
                    _died(rounds[connection], totals, f"nothing was heard of it for {HUNG:g} s")
            if sys.stderr.isatty() and now - shown > 0.5:
                shown = now
                _progress(totals, now - began)
    finally:
        for process in running.values():
            process.kill()
        if sys.stderr.isatty():
            print(file=sys.stderr)


def _add(
    totals: dict[str, Total], name: str, inputs: int, seconds: float, where: tuple[str, str] | None, told: str | None
) -> None:
    total = totals[name]
    total.inputs += inputs
    total.seconds += seconds
    if where is not None:
        total.failures[where] += 1
    if told is not None:
        print(f"\n{name}: {' at '.join(where or ())}\n  again: python -m tests.fuzz --again {told}", flush=True)


def _died(last: tuple[float, str, str], totals: dict[str, Total], why: str) -> None:
    _, name, seed = last
    totals[name].failures["process", why] += 1
    print(f"\n{name}: {why}, in round {seed}", flush=True)


def _progress(totals: dict[str, Total], elapsed: float) -> None:
    inputs = sum(total.inputs for total in totals.values())
    failures = sum(len(total.failures) for total in totals.values())
    print(f"\r{elapsed:6.0f} s  {inputs:,} inputs and operations  {failures} failures", end="", file=sys.stderr)


def _show(chosen: Sequence[Target], totals: dict[str, Total]) -> None:
    print(f"{'target':<18} {'number':>14} {'':<10} {'a second':>12}  failures")
    sums: Counter[str] = Counter()
    for target in chosen:
        total = totals[target.name]
        sums[target.unit] += total.inputs
        rate = total.inputs / total.seconds if total.seconds else 0
        failed = ", ".join(f"{' at '.join(where)} ({count})" for where, count in total.failures.items())
        print(f"{target.name:<18} {total.inputs:>14,} {target.unit:<10} {rate:>12,.0f}  {failed or '-'}")
    for unit, number in sums.items():
        print(f"{'all':<18} {number:>14,} {unit}")


if __name__ == "__main__":
    sys.exit(main())
