"""A lab: what is built, how it is started, and the tests with their points. Source: docs/grading.md."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..memory import parse_size
from ..outcome import Ending
from .toml_table import TomlTable

SECONDS_MOST = 3600.0
CPUS_MOST = 16
LAB_MOST = 4 << 20
"""Bytes of a lab's file."""

Action = Literal["expect", "send", "type", "screen", "power-button"]
ACTIONS: tuple[Action, ...] = ("expect", "send", "type", "screen", "power-button")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done with the guest, or waited for: `expect` a pattern on the serial port, `send` text to it,
    `type` keys, wait for text on the `screen`, press the `power-button`."""

    action: Action
    text: str
    pattern: re.Pattern[bytes] | None = None


@dataclass(frozen=True, slots=True)
class DiskImage:
    """What a disk holds when a test begins: `size` zeros, a `file` of the lab, one of the submission (`built`), or the
    files of a `directory` of the lab, as a file system."""

    size: int = 0
    file: str = ""
    built: str = ""
    directory: str = ""
    filesystem: str = "tar"


@dataclass(frozen=True, slots=True)
class DiskCheck:
    """What a disk holds when a test has ended: the bytes at `offset`, or a `match` anywhere."""

    disk: str
    offset: int = 0
    content: bytes = b""
    match: re.Pattern[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a machine is made."""

    memory: int
    cpus: int
    command_line: str
    format: str
    disks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """One test. Without steps, or if it says anything of the end, it goes on until the guest ends or the time is up."""

    name: str
    points: float
    group: str
    hidden: bool
    timeout: float
    settings: Settings
    own_settings: bool
    """Whether they differ from the lab's: such a test boots its own machine."""
    steps: tuple[Step, ...]
    match: tuple[re.Pattern[bytes], ...]
    reject: tuple[re.Pattern[bytes], ...]
    output: str | None
    """The whole serial output, line by line."""
    credit: dict[str, float]
    """Points for each named group of `match` that has matched; then `points` is their sum."""
    exit_code: int | None
    ending: Ending | None
    disk_checks: tuple[DiskCheck, ...]

    @property
    def to_the_end(self) -> bool:
        """Whether the run's end is waited for."""
        of_the_end = self.output is not None or self.exit_code is not None or self.ending is not None
        return of_the_end or bool(self.disk_checks) or not self.steps


@dataclass(frozen=True, slots=True)
class Lab:
    """What a lab's file says."""

    path: str
    digest: str
    """Of the file: results of another one are not taken over."""
    name: str
    kernel: str
    build: str
    build_timeout: float
    build_memory: int
    overlay: str
    """A directory whose files replace the submission's before it is built; "" for none."""
    settings: Settings
    boot: tuple[Step, ...]
    """Done once for a submission; each test goes on from there."""
    boot_timeout: float
    disks: dict[str, DiskImage]
    weights: dict[str, float]
    """What a whole group of tests counts, where that is not the sum of its tests' points."""
    files: tuple[str, ...] = ()
    """Of its directory, those that tests compare with; those of disks and the overlay are named there."""
    tests: tuple[Test, ...] = ()

    @property
    def directory(self) -> str:
        """Where its own files are."""
        return os.path.dirname(os.path.abspath(self.path))


def read_lab(path: str | os.PathLike[str]) -> Lab:
    """Read a lab's file; ConfigError says which key of which table is wrong, and how."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            content = file.read(LAB_MOST + 1)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error
    if len(content) > LAB_MOST:
        raise ConfigError(f"{name} is larger than {LAB_MOST >> 20} MiB: that is no lab")
    try:
        values = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is no TOML: {error}") from None
    return _Reader(name, hashlib.sha256(content).hexdigest(), TomlTable(name, values)).lab()


class _Reader:
    def __init__(self, path: str, digest: str, root: TomlTable) -> None:
        self.path, self.digest, self.root = path, digest, root
        self.disks: dict[str, DiskImage] = {}
        self.files: list[str] = []

    def lab(self) -> Lab:
        root = self.root
        table = root.table("lab")
        self.disks = {name: self._disk(disk) for name, disk in root.named("disks")}
        weights = {}
        for name, group in root.named("groups"):
            weights[name] = group.number("weight", 0, 1e6)
            group.done()
        settings = self._settings(table, Settings(128 << 20, 1, "", "", ()))
        overlay = table.get("overlay", str, "")
        lab = Lab(
            path=self.path,
            digest=self.digest,
            name=table.get("name", str, Path(self.path).stem),
            kernel=self._inside(table, "kernel"),
            build=table.get("build", str, ""),
            build_timeout=table.number("build-timeout", 120, SECONDS_MOST),
            build_memory=self._size(table, "build-memory", 2 << 30),
            overlay=overlay,
            settings=settings,
            boot=self._steps(table, "boot"),
            boot_timeout=table.number("boot-timeout", 30, SECONDS_MOST),
            disks=self.disks,
            weights=weights,
        )
        timeout = table.number("timeout", 10, SECONDS_MOST)
        if overlay and not os.path.isdir(os.path.join(lab.directory, overlay)):
            raise table.error("overlay", f"names {overlay!r}, which is no directory beside {self.path}")
        table.done()
        tests = tuple(self._test(test, settings, timeout) for test in root.tables("test", "test"))
        root.done()
        if not tests:
            raise ConfigError(f"{self.path} has no [[test]]: there is nothing to grade")
        seen: set[str] = set()
        for test in tests:
            if test.name in seen:
                raise ConfigError(f"{self.path} has two tests named {test.name!r}")
            seen.add(test.name)
        unused = weights.keys() - {test.group for test in tests}
        if unused:
            raise ConfigError(f"{self.path}: no test is in the group {min(unused)!r}")
        return replace(lab, tests=tests, files=tuple(self.files))

    def _inside(self, table: TomlTable, key: str) -> str:
        name = table.get(key, str)
        if os.path.isabs(name) or ".." in Path(name).parts or not name:
            raise table.error(key, f"is {name!r}: it must be a path within the submission")
        return name

    def _size(self, table: TomlTable, key: str, default: int) -> int:
        text = table.get(key, str, "")
        try:
            return parse_size(text) if text else default
        except ValueError as error:
            raise table.error(key, str(error)) from None

    def _settings(self, table: TomlTable, default: Settings) -> Settings:
        disks = table.texts("disks") if table.has("disks") else default.disks
        for name in disks:
            if name not in self.disks:
                raise table.error("disks", f"names {name!r}, and there is no [disks.{name}]")
        cpus = table.get("cpus", int, default.cpus)
        if not 1 <= cpus <= CPUS_MOST:
            raise table.error("cpus", f"is {cpus}, not 1 to {CPUS_MOST}")
        return Settings(
            self._size(table, "memory", default.memory),
            cpus,
            table.get("command-line", str, default.command_line),
            table.get("format", str, default.format),
            disks,
        )

    def _disk(self, table: TomlTable) -> DiskImage:
        kinds = [key for key in ("file", "built", "directory") if table.has(key)]
        if len(kinds) + (not kinds and table.has("size")) != 1:
            raise ConfigError(f"{table.where}: give one of: size, file, built, directory")
        filesystem = table.get("filesystem", str, "tar")
        if filesystem not in ("tar", "ext2", "fat"):
            raise table.error("filesystem", f"is {filesystem!r}: there are tar, ext2, fat")
        built = self._inside(table, "built") if table.has("built") else ""
        image = DiskImage(
            self._size(table, "size", 0), table.get("file", str, ""), built, table.get("directory", str, ""), filesystem
        )
        table.done()
        return image

    def _steps(self, table: TomlTable, key: str) -> tuple[Step, ...]:
        steps = []
        for step in table.tables(key, key):
            given = [action for action in ACTIONS if step.has(action)]
            if len(given) != 1:
                raise ConfigError(f"{step.where}: give one of: {', '.join(ACTIONS)}")
            action = given[0]
            if action == "power-button":
                step.get(action, bool)
                steps.append(Step(action, ""))
            else:
                text = step.get(action, str)
                steps.append(Step(action, text, step.pattern(action) if action == "expect" else None))
            step.done()
        return tuple(steps)

    def _test(self, table: TomlTable, settings: Settings, timeout: float) -> Test:
        name = table.get("name", str)
        table.where = f"{self.path}, test {name!r}"
        own = self._settings(table, settings)
        credit = {}
        for group, points in table.get("credit", dict, {}).items():
            if type(points) not in (int, float) or points < 0:
                raise table.error("credit", f"gives {points!r} points for {group!r}")
            credit[group] = float(points)
        match = table.patterns("match")
        named = {group for pattern in match for group in pattern.groupindex}
        if credit.keys() - named:
            raise table.error("credit", f"names {min(credit.keys() - named)!r}, which is no (?P<name>...) of match")
        points = table.get("points", float, sum(credit.values()) if credit else 1.0)
        if points < 0 or (credit and points != sum(credit.values())):
            raise table.error("points", f"is {points:g}" + (", and credit makes another sum" if credit else ""))
        ending = table.get("ending", str, "")
        if ending and ending not in list(Ending):
            raise table.error("ending", f"is {ending!r}: there are {', '.join(Ending)}")
        test = Test(
            name=name,
            points=points,
            group=table.get("group", str, ""),
            hidden=table.get("hidden", bool, False),
            timeout=table.number("timeout", timeout, SECONDS_MOST),
            settings=own,
            own_settings=own != settings,
            steps=self._steps(table, "steps"),
            match=match,
            reject=table.patterns("reject"),
            output=self._output(table),
            credit=credit,
            exit_code=table.get("exit-code", int) if table.has("exit-code") else None,
            ending=Ending(ending) if ending else None,
            disk_checks=tuple(self._disk_check(check, own) for check in table.tables("disk", "disk")),
        )
        table.done()
        return test

    def _output(self, table: TomlTable) -> str | None:
        if table.has("output") and table.has("output-file"):
            raise table.error("output", "and output-file say the same: give one of them")
        if table.has("output"):
            return table.get("output", str)
        if not table.has("output-file"):
            return None
        name = table.get("output-file", str)
        self.files.append(name)
        try:
            return (Path(self.path).parent / name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise table.error("output-file", f"is {name!r}, which cannot be read: {error}") from None

    def _disk_check(self, table: TomlTable, settings: Settings) -> DiskCheck:
        disk = table.get("disk", str)
        if disk not in settings.disks:
            raise table.error("disk", f"is {disk!r}, which the test's machine does not have")
        content = table.get("text", str, "").encode()
        if table.has("hex"):
            try:
                content = bytes.fromhex(table.get("hex", str))
            except ValueError as error:
                raise table.error("hex", str(error)) from None
        match = table.pattern("match")
        if bool(content) == (match is not None):
            raise ConfigError(f"{table.where}: give one of: text, hex, match")
        offset = table.get("offset", int, 0)
        if offset < 0:
            raise table.error("offset", f"is {offset}")
        table.done()
        return DiskCheck(disk, offset, content, match)
