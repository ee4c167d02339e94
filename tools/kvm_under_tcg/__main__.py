"""Run a command on this machine's own files but under a kernel with a complete /dev/kvm (emulated AMD SVM).

    python3 tools/kvm_under_tcg [options] -- command [argument ...]

The command's output and exit status are the tool's. 124: it did not end in time. 125: the tool itself failed.
What the command writes is lost, except below directories given with --rw. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from image import LaneError, cached_image, find_program
from machine import Request, TimeUp, run

STATUS_TIME_UP = 124
STATUS_FAILED = 125


def default_cache() -> Path:
    """Where the kernel is kept, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pykvm-kvm-under-tcg")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kvm_under_tcg", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="CPUs, run in turn on one host thread (1)")
    parser.add_argument("--mem", default="2G", metavar="SIZE", help="RAM, which also holds all written files (2G)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds, start-up included (600)")
    parser.add_argument(
        "--rw", action="append", default=[], metavar="DIR", help="let the command write to DIR for good"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--qemu", default="qemu-system-x86_64", metavar="COMMAND", help="another QEMU, with options if need be"
    )
    parser.add_argument("--stats", action="store_true", help="say on stderr how long it took")
    parser.add_argument("command", nargs="+", help="put -- before it")
    options = parser.parse_args(arguments)
    for assignment in options.env:
        if not assignment.partition("=")[0].isidentifier() or "=" not in assignment:
            parser.error(f"--env {assignment}: write NAME=VALUE")
    for directory in options.rw:
        if not Path(directory).is_dir():
            parser.error(f"--rw {directory}: not a directory")
        if any(character.isspace() for character in str(Path(directory).resolve())):
            parser.error(f"--rw {directory}: a path with white space cannot be mounted")
    if not options.timeout > 0 or options.smp < 1:
        parser.error("--timeout and --smp must be positive")
    return options


def environment(assignments: list[str]) -> dict[str, str]:
    """The command's whole environment: little from the host, so that a run there is the same for everyone."""
    interpreter = os.path.dirname(sys.executable)
    cache = os.environ.get("XDG_CACHE_HOME")
    return {
        "PATH": f"{interpreter}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(Path.home()),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYKVM_UNDER_TCG": "1",
        **({"XDG_CACHE_HOME": cache} if cache else {}),
        **dict(assignment.split("=", 1) for assignment in assignments),
    }


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    try:
        qemu = shlex.split(options.qemu)
        if qemu[0] == "qemu-system-x86_64":
            qemu[0] = find_program(qemu[0])
        image = cached_image(options.cache)
        request = Request(
            command=options.command,
            timeout=options.timeout,
            cpus=options.smp,
            memory=options.mem,
            qemu=qemu,
            writable=[Path(directory).resolve() for directory in options.rw],
            environment=environment(options.env),
        )
        booted = time.monotonic()
        status = run(image, request)
    except TimeUp:
        print(f"kvm_under_tcg: no end after {options.timeout:g} s", file=sys.stderr)
        return STATUS_TIME_UP
    except (LaneError, OSError) as error:
        print(f"kvm_under_tcg: {error}", file=sys.stderr)
        return STATUS_FAILED
    if options.stats:
        print(f"kvm_under_tcg: {time.monotonic() - booted:.1f} s, image {booted - began:.1f} s", file=sys.stderr)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
