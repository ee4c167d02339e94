"""Submissions over many hosts, by a Dask scheduler: batches of them travel as bytes, and results come back.

A worker keeps nothing: it unpacks the lab's files and its batch into a directory of its own, grades them as one host
does, and removes it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .lab import Lab
from .pool import Done, sift
from .results import Graded
from .submission import Submission

if TYPE_CHECKING:
    from distributed import Client

BATCH = 25
"""Submissions of a task at most: enough that the scheduler's own work is small beside theirs."""
SHARE = 4
"""Tasks for each worker at least, so that none waits long for the last one."""
CONNECT_SECONDS = 10


def grade_by(
    address: str, lab: Lab, submissions: Sequence[Submission], done: Done, connect_seconds: float = CONNECT_SECONDS
) -> Generator[Graded, None, None]:
    """As `pool.grade`, on the workers of the scheduler at `address`. ConfigError if there is none, or no Dask."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ConfigError("--scheduler needs Dask: install pykvm-vmm with the extra [grade]") from None
    try:
        client = Client(address, timeout=connect_seconds, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"there is no scheduler at {address}: {error}") from None
    with client:
        left = []
        for submission, _, refused in sift(lab, submissions, done):
            if refused is not None:
                yield refused
            else:
                left.append(submission)
        lab_files = client.scatter(_packed(_lab_files(lab)), broadcast=True)
        futures = [
            client.submit(grade_batch, lab_files, os.path.basename(lab.path), batch, pure=False)
            for batch in _batches(left, _workers(client, address))
        ]
        for _, results in as_completed(futures, loop=client.loop, with_results=True):
            for values in results:
                yield Graded.from_dict(values)


def _workers(client: Client, address: str) -> int:
    count = len(client.scheduler_info()["workers"])
    if not count:
        raise ConfigError(f"the scheduler at {address} has no workers: start some, as by: dask worker {address}")
    return count


def _batches(submissions: Sequence[Submission], workers: int) -> Iterator[list[tuple[str, str, bytes]]]:
    """(name, name of the file or "", content) of each submission."""
    size = max(1, min(BATCH, -(-len(submissions) // (SHARE * workers))))
    for at in range(0, len(submissions), size):
        batch = []
        for each in submissions[at : at + size]:
            if os.path.isfile(each.path):
                with open(each.path, "rb") as file:
                    batch.append((each.name, os.path.basename(each.path), file.read()))
            else:
                batch.append((each.name, "", _packed({".": each.path})))
        yield batch


def _lab_files(lab: Lab) -> dict[str, str]:
    """What a lab needs of its directory, by the names that it has there."""
    names = {lab.overlay, *lab.files, *(name for disk in lab.disks.values() for name in (disk.file, disk.directory))}
    names = {name for name in names if name}
    for name in names:
        if os.path.isabs(name) or ".." in name.split("/"):
            raise ConfigError(f"{lab.path} takes {name!r} from outside its directory, and that is not sent to workers")
    return {os.path.basename(lab.path): lab.path, **{name: os.path.join(lab.directory, name) for name in names}}


def _packed(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, path in files.items():
            archive.add(path, name)
    return out.getvalue()


def grade_batch(lab_files: bytes, lab_name: str, batch: list[tuple[str, str, bytes]]) -> list[dict[str, Any]]:
    """The task of a worker: the results, as plain values."""
    with tempfile.TemporaryDirectory(prefix="pykvm-grade-") as directory:
        _unpack(lab_files, os.path.join(directory, "lab"))
        submissions = {}
        for number, (name, file_name, content) in enumerate(batch):
            place = os.path.join(directory, str(number))
            if file_name:
                os.mkdir(place)
                place = os.path.join(place, file_name)
                with open(place, "wb") as file:
                    file.write(content)
            else:
                _unpack(content, place)
            submissions[name] = place
        # Each submission is graded by a fork, and a worker has threads, which do not go well together.
        done = subprocess.run(
            [sys.executable, "-m", "pykvm.grading.batch", os.path.join(directory, "lab", lab_name)],
            input=json.dumps(submissions), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]


def _unpack(content: bytes, directory: str) -> None:
    """What `_packed` made of this host's own files: links and all, but not trusted to stay inside."""
    os.mkdir(directory)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if (member.isfile() or member.isdir() or member.issym()) and ".." not in member.name.split("/"):
                archive.extract(member, directory)
