"""What an image of another format costs beside a raw one: a read and a write through qemu-nbd, and its start and end.

The peer is the raw image, which this process reads and writes itself; both are in the host's page cache.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import Settings, Table, benchmark, in_turn, median, need, ratio, scratch, spread

from pykvm import open_disk
from pykvm.disk import Disk
from pykvm.net.user import UserNet

SIZE = 64 << 20
KINDS = {"qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx"}
LENGTHS = (4096, 128 << 10)


def time_of(access: Callable[[int], object], length: int, count: int) -> float:
    """Nanoseconds of one access of `length` bytes at random places, over `count`."""
    places = [random.randrange(SIZE // length) * length for _ in range(count)]
    start = time.perf_counter_ns()
    for place in places:
        access(place)
    return (time.perf_counter_ns() - start) / count


def started(path: Path) -> float:
    """Nanoseconds from nothing to a disk that can be read."""
    start = time.perf_counter_ns()
    disk = open_disk(path)
    end = time.perf_counter_ns()
    disk.close()
    return float(end - start)


def network() -> float:
    """The same for a user network."""
    start = time.perf_counter_ns()
    net = UserNet()
    end = time.perf_counter_ns()
    net.close()
    return float(end - start)


def read(disk: Disk, length: int, place: int) -> None:
    disk.read_at(place, length)


def write(disk: Disk, data: bytes, place: int) -> None:
    disk.write_at(place, data)


def accesses(disks: dict[str, Disk], settings: Settings) -> Table:
    table = Table("An access at a random place", ["format", "what", "µs", "raw µs", "times / raw", "middle half"])
    for length in LENGTHS:
        data = os.urandom(length)
        for what in ("read", "write"):
            contestants = {}
            for name, disk in disks.items():
                call = partial(read, disk, length) if what == "read" else partial(write, disk, data)
                contestants[name] = partial(time_of, call, length, settings.rounds(300, 100))
            results = in_turn(contestants, settings.rounds(15, 5))
            for name, times in results.items():
                if name != "raw":
                    table.rows.append(
                        [name, f"{what} {length >> 10} KiB", median(times) / 1e3, median(results["raw"]) / 1e3,
                         ratio(times, results["raw"]), spread(times, results["raw"])]
                    )  # fmt: skip
    return table


def measure(settings: Settings) -> list[Table]:
    need(shutil.which("qemu-nbd") and shutil.which("qemu-img"), "qemu-nbd and qemu-img (Debian: qemu-utils)")
    with scratch() as directory:
        raw = Path(directory, "disk.img")
        raw.write_bytes(random.Random(1).randbytes(SIZE))
        paths = {"raw": raw}
        for suffix, kind in KINDS.items():
            paths[suffix] = raw.with_suffix(f".{suffix}")
            options = ["-o", "force_size=on"] if kind == "vpc" else []
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *options, raw, paths[suffix]], check=True)
        starts: dict[str, Callable[[], float]] = {name: partial(started, path) for name, path in paths.items()}
        if shutil.which("passt"):
            starts["passt, --nic user"] = network
        start = Table("From nothing to ready", ["what", "ms"])
        for name, times in in_turn(starts, settings.rounds(15, 5)).items():
            start.rows.append([name, median(times) / 1e6])
        disks = {name: open_disk(path) for name, path in paths.items()}
        try:
            return [accesses(disks, settings), start]
        finally:
            for disk in disks.values():
                disk.close()


if __name__ == "__main__":
    benchmark(measure, (__doc__ or "").partition("\n")[0])
