"""What has been graded, on disk: a line for the lab, then one for each submission, as soon as it is done."""

from __future__ import annotations

import json
import os
from typing import Any

from ..errors import ConfigError
from .lab import Lab
from .results import Graded

FORMAT = 1


class Journal:
    """A file of results that grading goes on from."""

    def __init__(self, path: str, lab: Lab, fresh: bool = False) -> None:
        """Open or make it. ConfigError if it is no journal, or that of another lab and not to be begun `fresh`."""
        self.path = path
        self.graded: dict[str, Graded] = {}
        """By the submission's name."""
        try:
            self._file = open(path, "r+b" if os.path.exists(path) else "x+b")  # noqa: SIM115  # closed by `close`
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        try:
            if fresh:
                self._begin(lab)
            else:
                self._read(lab)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, lab: Lab) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._write({"pykvm-grades": FORMAT, "lab": lab.name, "digest": lab.digest})

    def _read(self, lab: Lab) -> None:
        head = self._file.readline()
        if not head:
            self._begin(lab)
            return
        try:
            first = json.loads(head)
            known = isinstance(first, dict) and first.get("pykvm-grades") == FORMAT
        except ValueError:
            known = False
        if not known:
            raise ConfigError(f"{self.path} is no file of results: name another")
        if first.get("digest") != lab.digest:
            raise ConfigError(
                f"{self.path} has results of another version of the lab: give --fresh to have all graded again, "
                "or name another file"
            )
        good = self._file.tell()
        for line in self._file:
            try:
                graded = Graded.from_dict(json.loads(line)) if line.endswith(b"\n") else None
            except (ValueError, TypeError, KeyError):
                graded = None
            if graded is None:
                break  # it was stopped in the midst of a line
            self.graded[graded.name] = graded
            good += len(line)
        self._file.seek(good)
        self._file.truncate()

    def has(self, name: str, digest: str) -> bool:
        """Whether that submission, with that content, has its result."""
        graded = self.graded.get(name)
        return graded is not None and graded.digest == digest != ""

    def add(self, graded: Graded) -> None:
        """Note a result, for good."""
        self.graded[graded.name] = graded
        self._write(graded.as_dict())

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
