"""What tracing costs an exit: off, on with a filter that lets nothing through, and on with each kind of output.

All run the same real-mode guest, which makes many port accesses in a row between two marks. "off" stands twice in each
round: the ratio of the two is the noise, and the second runs after a traced machine, in a process that has all of
`pykvm.trace` loaded. Single-stepping is measured by the instruction.
"""

from __future__ import annotations

import io
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import Settings, Table, benchmark, in_turn, median, ratio, scratch, spread

from pykvm import Device, Ending, Machine, Range
from pykvm.cli.trace import Lines
from pykvm.trace import Event, Filter, Summary, Tracer
from pykvm.trace.instructions import InstructionTracer
from pykvm.trace.perfetto import TraceFile

MARK, END, LSR = 0xF1, 0xF4, 0x3FD
UNROLLED = 100
IN = b"\xec"

Prepare = Callable[[Machine], object]
Times = tuple[int, int]
"""Wall-clock and CPU nanoseconds."""


def program(turns: int) -> bytes:
    """`turns` times `UNROLLED` reads of COM1's LSR between two marks, in real mode."""
    body = IN * UNROLLED
    mark = b"\xba" + struct.pack("<H", MARK) + b"\xee"  # mov dx, MARK; out dx, al
    lsr = b"\xba" + struct.pack("<H", LSR)
    back = b"\x66\x49\x0f\x85" + struct.pack("<h", -(len(body) + 6))  # dec ecx; jnz to the body
    count = b"\x66\xb9" + struct.pack("<I", turns)
    return count + mark + lsr + body + back + mark + b"\xe6" + bytes((END,))


class Marker(Device):
    """Takes the time, and the CPU time of the vCPU's thread, at each write."""

    name = "marker"
    ports = (Range(MARK, 1),)

    def __init__(self) -> None:
        self.marks: list[Times] = []

    def write(self, offset: int, size: int, value: int) -> None:
        self.marks.append((time.perf_counter_ns(), time.thread_time_ns()))


def run(image: bytes, prepare: Prepare) -> Times:
    """Between the marks."""
    marker = Marker()
    with Machine(image, format="flat", memory="4M") as machine:
        machine.add(marker)
        prepare(machine)
        outcome = machine.run(120)
    if outcome.ending != Ending.EXITED:
        raise RuntimeError(f"the guest did not come to its end: {outcome}")
    (wall, cpu), (wall_end, cpu_end) = marker.marks
    return wall_end - wall, cpu_end - cpu


def nothing(machine: Machine) -> None:
    """The machine as it is."""


def traced(*sinks: Callable[[Event], object], filter: Filter | None = None) -> Prepare:
    """Traced to these sinks."""
    return lambda machine: Tracer(machine, sinks, filter)


def lines(as_json: bool) -> Callable[[Event], None]:
    """What the command line prints, written to memory."""
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        return Lines(as_json).show
    finally:
        sys.stdout = before


def measure(settings: Settings) -> list[Table]:
    turns = settings.rounds(40, 10)
    count = turns * UNROLLED
    image = program(turns)
    exits = Table(
        f"One exit (in COM1 LSR), µs, of {count} in a row",
        ["tracing", "µs", "on/off", "middle half", "CPU", "CPU on/off", "middle half"],
        notes=[
            "The loop that serves exits is the same in all: a tracer is the vCPU's way into the guest.",
            "CPU: time of the vCPU's thread alone, the steadier one on a busy machine.",
        ],
    )
    with scratch() as directory:

        def time_line(machine: Machine) -> None:
            Tracer(machine, [TraceFile(str(Path(directory) / "trace.json"))])

        ways: dict[str, Prepare] = {
            "off": nothing,
            "on, filtered out": traced(filter=Filter(kinds={"mmio"})),
            "on, no output": traced(),
            "on, summary": traced(Summary()),
            "on, lines of text": traced(lines(False)),
            "on, JSON lines": traced(lines(True)),
            "on, time line": time_line,
            "off, after all that": nothing,
        }
        contestants = {name: lambda prepare=prepare: run(image, prepare) for name, prepare in ways.items()}
        results = in_turn(contestants, settings.rounds(15, 3))
    for name, times in results.items():
        row: list[str | float] = [name]
        for ours, off in zip(zip(*times, strict=True), zip(*results["off"], strict=True), strict=True):
            row += [median(ours) / count / 1000, ratio(ours, off), spread(ours, off)]
        exits.rows.append(row)

    short = program(max(turns // 20, 1))
    instructions = Table("Single-stepping, µs an instruction", ["", "µs", "instructions/s"])
    steps: list[float] = []
    for _ in range(settings.rounds(9, 3)):
        executed = 0

        def step(*_: object) -> None:
            nonlocal executed
            executed += 1

        wall, _ = run(short, lambda machine, step=step: InstructionTracer(machine, step))
        steps.append(wall / executed / 1000)
    instructions.rows.append(["`in`, counted", median(steps), round(1e6 / median(steps))])
    return [exits, instructions]


if __name__ == "__main__":
    benchmark(measure, __doc__.splitlines()[0])
