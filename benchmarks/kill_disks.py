"""Kills who writes to disk images in the midst of writing, again and again, and has qemu-img check what is left.

    python benchmarks/kill_disks.py [--kills 200] [--victim pykvm|qemu-nbd]

Every format is written to through pykvm's own back end. Whoever is killed is killed after a random time; then qemu-img
checks the image where it has a check for the format (qcow2, vmdk, vdi, vhdx), and the next round goes on with it.
The exit status is 1 if any image was damaged. Clusters that a qcow2 has lost (leaks) are counted: they take room, and
harm nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("qcow2", "vmdk", "vdi", "vhdx")
WRITER = """
import os, random, sys
from pykvm.disk.image import open_disk
disk = open_disk(sys.argv[1])
print(disk.pid, flush=True)
while True:
    length = random.randrange(512, 1 << 17, 512)
    disk.write_at(random.randrange(0, disk.size - length, 512), os.urandom(length))
    if random.random() < 0.1:
        disk.flush()
"""


def kill_once(path: Path, victim: str, seconds: float) -> None:
    """Start a writer and kill it, or its qemu-nbd, after `seconds`; return when both have ended."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as writer:
        assert writer.stdout is not None
        server = int(writer.stdout.readline())
        end = os.pidfd_open(server)
        select.select([end], [], [], seconds)
        os.kill(server if victim == "qemu-nbd" else writer.pid, signal.SIGKILL)
        select.select([end], [], [])
        os.close(end)


def check(path: Path, kind: str) -> tuple[bool, int]:
    """Whether the image is whole, and how many clusters are lost."""
    done = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", kind, path], check=False, capture_output=True, text=True
    )
    if done.returncode not in (0, 3):
        print(f"{path}: {done.stdout}{done.stderr}")
        return False, 0
    return True, int(json.loads(done.stdout).get("leaks", 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--victim", choices=("pykvm", "qemu-nbd"), default="pykvm")
    options = parser.parse_args()
    damaged, lost = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.kills):
            kind = KINDS[number % len(KINDS)]
            path = Path(name) / f"disk.{kind}"
            if number // len(KINDS) % 10 == 0:  # begin anew: most of what can go wrong is in growing
                path.unlink(missing_ok=True)
                subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, "256M"], check=True)
            kill_once(path, options.victim, random.uniform(0, 0.3))
            whole, leaks = check(path, kind)
            damaged[kind] += not whole
            lost[kind] += leaks
    print(f"{options.kills} kills of {options.victim}")
    for kind in KINDS:
        print(f"  {kind:6} damaged {damaged[kind]}, lost clusters {lost[kind]}")
    return int(any(damaged.values()))


if __name__ == "__main__":
    sys.exit(main())
