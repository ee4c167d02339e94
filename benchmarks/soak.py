"""A soak: machines come and go for as long as is wanted, and what the process holds is as at its start.

    .venv/bin/python benchmarks/soak.py --minutes 30

Each turn makes machines and forks, restores them again and again, lets one flood its serial port, pauses another, has
a debugger come and go, and kills a `pykvm run` in the middle. Resident memory (RSS), descriptors and threads are told
at the start (after some turns, which import and fill caches), every few minutes and at the end; exit status 1 if
something has grown.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from pykvm import Ending, Machine
from pykvm.console.port import OUTPUT_MOST
from pykvm.debug.gdb.packets import encode
from pykvm.kvm import wait_closed

ROOT = Path(__file__).resolve().parent.parent
GUESTS = ROOT / "guests" / "build"
LIMIT = 60.0
"""Seconds that nothing here takes."""
GROWTH = 0.05, 8 << 20
"""How much more memory at the end is none: a share of the start's, and bytes (malloc's arenas)."""
WARM = 12
"""Turns before the first figures."""


class Held(NamedTuple):
    """What the process holds."""

    rss: int
    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        """The figures, once everything that is under way has ended."""
        wait_closed()
        gc.collect()
        wait_closed()
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (rss,) = (int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS:"))
        return cls(rss, len(os.listdir("/proc/self/fd")) - 1, threading.active_count())

    def __str__(self) -> str:
        return f"RSS {self.rss / (1 << 20):7.1f} MiB, {self.descriptors} descriptors, {self.threads} threads"


def churn(source: random.Random) -> int:
    """Machines with disk and NIC, of one to three CPUs, that run to their end."""
    for name in ("hello64", "hello32", "smp"):
        cpus = source.choice((2, 3)) if name == "smp" else 1
        with Machine(GUESTS / f"{name}.elf", cpus=cpus, memory=source.choice(("8M", "64M"))) as machine:
            assert machine.run(LIMIT).good
    return 3


def forks(source: random.Random) -> int:
    """Forks of a guest that waits for a line, and restores of each."""
    with Machine(GUESTS / "echo.elf", memory="16M") as first:
        first.start(LIMIT)
        first.serial.wait_for("ready", LIMIT)
        snapshot = first.snapshot()
        first.stop()
        count = source.randrange(1, 6)
        for number in range(count):
            with snapshot.fork() as machine:
                for turn in range(3):
                    machine.start(LIMIT)
                    machine.serial.send(f"line {number} {turn}\n")
                    machine.serial.wait_for(f"echo: line {number} {turn}", LIMIT)
                    machine.stop()
                    machine.restore(snapshot)
                machine.start(LIMIT)
                machine.serial.send("exit 3\n")
                assert machine.wait(LIMIT).value == 3
    return count


def flood(source: random.Random) -> int:
    """A guest that writes to its serial port without end; paused and resumed on the way."""
    with Machine(GUESTS / "flood.elf", memory="8M") as machine:
        machine.start(LIMIT)
        for _ in range(source.randrange(1, 5)):
            machine.serial.wait_for("xyz\n", LIMIT)
            machine.pause()
            assert len(machine.serial.output) <= OUTPUT_MOST
            machine.resume()
        assert machine.stop().ending == Ending.STOPPED
    return 1


def killed(source: random.Random) -> int:
    """A `pykvm run` that is killed where it happens to be."""
    command = [sys.executable, "-m", "pykvm", "run", "-q", str(GUESTS / source.choice(("flood.elf", "spin.elf")))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as run:
        assert run.stdout is not None
        if "flood" in command[-1]:
            assert run.stdout.read(source.randrange(1, 20_000))
        run.send_signal(source.choice((2, 9, 15)))
        run.stdout.close()
        try:
            run.wait(LIMIT)
        except subprocess.TimeoutExpired:
            run.kill()
            raise
    return 1


def debugged(source: random.Random) -> int:
    """A debugger that comes, stops the machine, and goes: by detaching, or without a word."""
    with Machine(GUESTS / "spin.elf", memory="8M") as machine, closing(machine.gdb(":0")) as server:
        server.control.detach()
        machine.start(LIMIT)
        for _ in range(source.randrange(1, 4)):
            with _client(int(server.target[1:])) as client:
                for payload in (b"g", b"m100000,40", b"s"):
                    _ask(client, payload)
                if source.randrange(2):
                    client.sendall(encode(b"D"))
                    client.recv(1 << 16)
        machine.stop()
    return 1


def _client(port: int) -> socket.socket:
    """A connection that is served: there is one at a time, and the one before may not have been missed yet."""
    deadline = time.monotonic() + LIMIT
    while True:
        client = socket.create_connection(("127.0.0.1", port), LIMIT)
        try:
            _ask(client, b"?")
        except ConnectionError:
            client.close()
            if time.monotonic() > deadline:
                raise
        else:
            return client


def _ask(client: socket.socket, payload: bytes) -> None:
    client.sendall(encode(payload))
    reply = b""
    while b"#" not in reply[:-2]:
        data = client.recv(1 << 16)
        if not data:
            raise ConnectionResetError(f"the server has closed the connection at {payload!r}")
        reply += data
    client.sendall(b"+")


def abandoned(source: random.Random) -> int:
    """Machines that are closed before they start, while they run, and twice."""
    with Machine(GUESTS / "spin.elf", memory="8M"):
        pass
    machine = Machine(GUESTS / "spin.elf", cpus=source.choice((1, 2)), memory="8M")
    machine.start(LIMIT)
    machine.close()
    machine.close()
    return 2


KINDS: tuple[Callable[[random.Random], int], ...] = (churn, forks, flood, killed, debugged, abandoned)


def main() -> int:
    """Soak for as long as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long it takes [30]")
    parser.add_argument("--every", type=float, default=3, help="minutes between two lines [3]")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # A shell's background jobs ignore SIGINT, and so would the children that are sent it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    source, done = random.Random(given.seed), Counter[str]()
    turns = 0

    def turn() -> None:
        nonlocal turns
        for kind in source.sample(KINDS, len(KINDS)):
            done[kind.__name__] += kind(source)
        turns += 1

    while turns < WARM:
        turn()
    began = told = time.monotonic()
    start = Held.now()
    print(f"start, after {turns} turns: {start}", flush=True)
    while time.monotonic() - began < 60 * given.minutes:
        turn()
        if time.monotonic() - told >= 60 * given.every:
            told = time.monotonic()
            print(f"{(told - began) / 60:5.1f} min, {turns} turns: {Held.now()}", flush=True)
    end = Held.now()
    print(f"end, after {turns} turns: {end}; {', '.join(f'{name} {count}' for name, count in done.items())}")
    grown = [name for name in ("descriptors", "threads") if getattr(end, name) > getattr(start, name)]
    if end.rss > start.rss * (1 + GROWTH[0]) + GROWTH[1]:
        grown.append("RSS")
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
