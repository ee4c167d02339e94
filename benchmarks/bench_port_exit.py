"""What Python adds to a port exit: pykvm's vCPU loop and devices against a C loop over the same ioctls.

Both run the same real-mode guest in the same virtual machine. The guest writes to a marker port, makes its accesses,
and writes to the marker again; each side takes the time at both marks, so that nothing but the accesses counts. Many
accesses follow each other without a branch: between two exits the guest executes the one instruction.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import Settings, Table, benchmark, compile_c, in_turn, median, output_of, ratio, scratch, spread

from pykvm import Device, Ending, Machine, Range

MARK, END = 0xF1, 0xF4
POST, MINIMAL, THR, LSR = 0x80, 0xE0, 0x3F8, 0x3FD
UNROLLED = 100
OUT, IN = b"\xee", b"\xec"


@dataclass(frozen=True)
class Case:
    """Which access the guest makes, and what answers it in pykvm."""

    title: str
    access: bytes
    port: int


CASES = (
    Case("out 0x80: nobody answers", OUT, POST),
    Case("out: Device.write that does nothing", OUT, MINIMAL),
    Case("out COM1 THR: captured", OUT, THR),
    Case("in 0x80: nobody answers", IN, POST),
    Case("in COM1 LSR", IN, LSR),
)


def program(case: Case, turns: int) -> bytes:
    """The guest's machine code: `turns` times `UNROLLED` accesses between two marks."""

    def port(number: int) -> bytes:
        return b"\xba" + struct.pack("<H", number)  # mov dx, number

    body = case.access * UNROLLED
    back = -(len(body) + 2 + 4)
    return (
        b"\xb0\x41"  # mov al, 'A'
        + (b"\x66\xb9" + struct.pack("<I", turns))  # mov ecx, turns
        + port(MARK) + OUT + port(case.port)
        + body + b"\x66\x49" + b"\x0f\x85" + struct.pack("<h", back)  # dec ecx; jnz to body
        + port(MARK) + OUT + port(END) + OUT
    )  # fmt: skip


class Marker(Device):
    """Takes the time, and the CPU time of the vCPU's thread, at each write."""

    name = "marker"
    ports = (Range(MARK, 1),)

    def __init__(self) -> None:
        self.marks: list[tuple[int, int]] = []

    def write(self, offset: int, size: int, value: int) -> None:
        self.marks.append((time.perf_counter_ns(), time.thread_time_ns()))


class Minimal(Device):
    """The least that a device of a user's can be."""

    name = "minimal"
    ports = (Range(MINIMAL, 1),)

    def write(self, offset: int, size: int, value: int) -> None:
        pass


Times = tuple[int, int]
"""Wall-clock and CPU nanoseconds between the marks."""


def run_pykvm(image: bytes) -> Times:
    marker = Marker()
    with Machine(image, format="flat") as machine:
        machine.add(marker)
        machine.add(Minimal())
        outcome = machine.run(60)
    if outcome.ending != Ending.EXITED:
        raise RuntimeError(f"the guest did not come to its end: {outcome}")
    (wall, cpu), (wall_end, cpu_end) = marker.marks
    return wall_end - wall, cpu_end - cpu


def run_c(peer: Path, image: Path) -> Times:
    wall, cpu = map(int, output_of(peer, image).split())
    return wall, cpu


def measure(settings: Settings) -> list[Table]:
    turns = settings.rounds(100, 30)
    count = turns * UNROLLED
    table = Table(
        f"One port exit, µs, of {count} in a row",
        ["access", "C", "pykvm", "pykvm/C", "middle half", "C CPU", "pykvm CPU", "CPU pykvm/C"],
        notes=["CPU: time of the vCPU's thread alone. The ratio to read is the one of wall-clock time; target 1.15."],
    )
    with scratch() as directory:
        peer = compile_c("port_exit.c", directory)
        for number, case in enumerate(CASES):
            code = program(case, turns)
            image = Path(directory) / f"{number}.bin"
            image.write_bytes(code)
            contestants = {"c": partial(run_c, peer, image), "pykvm": partial(run_pykvm, code)}
            results = in_turn(contestants, settings.rounds(25, 5))
            (c_wall, c_cpu), (our_wall, our_cpu) = (list(zip(*results[name], strict=True)) for name in ("c", "pykvm"))
            each = [median(times) / count / 1000 for times in (c_wall, our_wall, c_cpu, our_cpu)]
            table.rows.append([
                case.title, each[0], each[1], ratio(our_wall, c_wall), spread(our_wall, c_wall),
                each[2], each[3], ratio(our_cpu, c_cpu),
            ])  # fmt: skip
    return [table]


if __name__ == "__main__":
    benchmark(measure, __doc__.splitlines()[0])
