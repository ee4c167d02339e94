"""A lab's file: what it may say, and what is told of mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm import ConfigError, Ending
from pykvm.grading.checks import first_difference, tail
from pykvm.grading.lab import Lab, read_lab

TEST = '[[test]]\nname = "t"\n'


def read(directory: Path, text: str) -> Lab:
    path = directory / "lab.toml"
    path.write_text(text)
    return read_lab(path)


def test_a_lab_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("one\ntwo\n")
    lab = read(
        tmp_path,
        """
        [lab]
        name = "One"
        kernel = "build/kernel.elf"
        build = "make"
        build-memory = "1G"
        memory = "64M"
        timeout = 3
        boot = [{expect = "ready"}]
        disks = ["fs"]

        [disks.fs]
        size = "1M"

        [groups.a]
        weight = 30

        [[test]]
        name = "first"
        points = 2.5
        group = "a"
        hidden = true
        steps = [{send = "x\\n"}, {expect = "^y (\\\\d+)"}, {type = "z"}, {screen = "Z"}, {power-button = true}]
        output-file = "wanted.txt"
        exit-code = 3
        ending = "exited"
        disk = [{disk = "fs", offset = 512, hex = "00ff"}, {disk = "fs", match = "abc"}]

        [[test]]
        name = "second"
        cpus = 2
        timeout = 9
        match = "(?P<q>a)|(?P<r>b)"
        credit = {q = 1, r = 2}
        reject = ["panic"]
        """,
    )
    first, second = lab.tests
    assert (lab.name, lab.kernel, lab.build, lab.build_memory) == ("One", "build/kernel.elf", "make", 1 << 30)
    assert (first.points, first.timeout, first.hidden, first.settings.memory) == (2.5, 3.0, True, 64 << 20)
    assert [step.action for step in first.steps] == ["send", "expect", "type", "screen", "power-button"]
    assert first.steps[1].pattern is not None
    assert first.steps[1].pattern.search(b"x\ny 12")  # ^ is the beginning of a line
    assert (first.output, first.exit_code, first.ending) == ("one\ntwo\n", 3, Ending.EXITED)
    assert [check.content for check in first.disk_checks] == [b"\0\xff", b""]
    assert (first.own_settings, second.own_settings, second.settings.cpus) == (False, True, 2)
    assert (second.points, second.timeout, second.to_the_end) == (3.0, 9.0, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "lab.toml is no TOML: "),
        (TEST, r"lab.toml, \[lab\]: kernel is missing"),
        ('[lab]\nkernel = 5\n' + TEST, r"\[lab\]: kernel is 5, not a text"),
        ('[lab]\nkernel = "/etc/passwd"\n' + TEST, "must be a path within the submission"),
        ('[lab]\nkernel = "../k"\n' + TEST, "must be a path within the submission"),
        ('[lab]\nkernel = "k"\n', r"no \[\[test\]\]"),
        ('[lab]\nkernel = "k"\nkernle = 1\n' + TEST, r"\[lab\]: there is no 'kernle' here, but: .*kernel"),
        ('[lab]\nkernel = "k"\n[labs]\n' + TEST, r"lab.toml: there is no 'labs' here"),
        ('[lab]\nkernel = "k"\nmemory = "lots"\n' + TEST, "memory .*lots"),
        ('[lab]\nkernel = "k"\ntimeout = 0\n' + TEST, "timeout is 0, not above 0"),
        ('[lab]\nkernel = "k"\ncpus = 99\n' + TEST, "cpus is 99, not 1 to 16"),
        ('[lab]\nkernel = "k"\ndisks = ["d"]\n' + TEST, r"no \[disks.d\]"),
        ('[lab]\nkernel = "k"\noverlay = "no"\n' + TEST, "'no', which is no directory"),
        ('[lab]\nkernel = "k"\n[disks.d]\nsize = "1M"\nfile = "f"\nbuilt = "g"\n' + TEST, "give one of: size, file"),
        ('[lab]\nkernel = "k"\n[disks.d]\nbuilt = "../g"\n' + TEST, "within the submission"),
        ('[lab]\nkernel = "k"\n[groups.g]\nweight = 3\n' + TEST, "no test is in the group 'g'"),
        ('[lab]\nkernel = "k"\n' + TEST + TEST, "two tests named 't'"),
        ('[lab]\nkernel = "k"\n' + TEST + 'steps = [{expect = "("}]\n', "test 't', steps 1: expect is no regular expr"),
        ('[lab]\nkernel = "k"\n' + TEST + 'steps = [{}]\n', "give one of: expect, send"),
        ('[lab]\nkernel = "k"\n' + TEST + 'ending = "gone"\n', "ending is 'gone': there are halted, exited"),
        ('[lab]\nkernel = "k"\n' + TEST + 'credit = {a = 1}\n', "credit names 'a', which is no"),
        ('[lab]\nkernel = "k"\n' + TEST + 'points = -1\n', "points is -1"),
        ('[lab]\nkernel = "k"\n' + TEST + 'output-file = "none"\n', "output-file is 'none', which cannot be read"),
        ('[lab]\nkernel = "k"\n' + TEST + 'disk = [{disk = "d", text = "x"}]\n', "disk is 'd', which the test's machine"),
        ('[lab]\nkernel = "k"\ntest = 5\n', r"\[\[test\]\]|there is no 'test'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_a_file_that_is_no_lab(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_lab(tmp_path / "none.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        read_lab(tmp_path / "big.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no TOML"):
        read_lab(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("wanted", "got", "told"),
    [
        ("a\nb\n", "a\r\nb  ", ""),
        ("a\nb\n", "a\nc\n", "line 2 of the output is 'c', and should be 'b'"),
        ("a\nb\n", "a\n", "the output ends after line 1; line 2 should be 'b'"),
        ("a\n", "a\nb\n", "the output should end after line 1, and goes on with 'b'"),
    ],
)
def test_the_first_wrong_line(wanted: str, got: str, told: str) -> None:
    assert first_difference(wanted, got) == told


def test_a_tail_is_short_and_plain() -> None:
    shown = tail("\n".join(f"line {number}" for number in range(100)) + "\n\x1b[2Jx" + "y" * 5000)
    assert shown.startswith("...\nline 93\n")
    assert "\x1b" not in shown
    assert len(shown) < 400
    assert tail(" \n") == "(nothing)"
