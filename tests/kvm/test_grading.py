"""Grading: each submission gets the points that it deserves, whatever it and its neighbours do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import LIMIT, PYKVM, ROOT, SLOW, elf32

from pykvm import ConfigError
from pykvm.grading.distributed import grade_by
from pykvm.grading.lab import Lab, read_lab
from pykvm.grading.pool import grade
from pykvm.grading.results import Graded
from pykvm.grading.submission import Submission

CLASS = 10 if SLOW else 200
CLASS_LIMIT = 4 if SLOW else 1
"""Seconds for what ends by itself in a few milliseconds; what never ends takes all of them."""


def lab_of(directory: Path, text: str) -> Lab:
    path = directory / "lab.toml"
    path.write_text(text)
    return read_lab(path)


def graded_echo(directory: Path, guest: Path, tests: str) -> Graded:
    lab = lab_of(
        directory, f'[lab]\nkernel = "k"\nboot = [{{expect = "ready"}}]\nmemory = "16M"\ntimeout = 20\n{tests}'
    )
    (result,) = grade(lab, [Submission("echo", str(guest))], 1)
    return result


def test_what_a_test_can_ask(tmp_path: Path, guest) -> None:  # type: ignore[no-untyped-def]
    result = graded_echo(
        tmp_path,
        guest("echo"),
        """
        [[test]]
        name = "right"
        points = 2
        steps = [{send = "hello\\n"}, {expect = "echo: (hel+o)"}]
        [[test]]
        name = "each goes on from the boot, and from nothing else"
        steps = [{send = "quit\\n"}]
        output = "ready\\n"
        ending = "exited"
        [[test]]
        name = "the wrong line"
        steps = [{send = "x\\nquit\\n"}]
        output = "ready\\necho: y\\n"
        [[test]]
        name = "the wrong status"
        steps = [{send = "exit 3\\n"}]
        exit-code = 5
        [[test]]
        name = "what must not be there"
        steps = [{send = "panic\\n"}, {expect = "echo: panic"}]
        reject = "panic"
        [[test]]
        name = "a part"
        steps = [{send = "a\\nquit\\n"}]
        ending = "exited"
        match = "(?P<a>echo: a)|(?P<b>echo: b)"
        credit = {a = 1, b = 2}
        [[test]]
        name = "too late"
        timeout = 0.2
        ending = "exited"
        [[test]]
        name = "a machine of its own"
        cpus = 2
        steps = [{send = "hello\\n"}, {expect = "hello"}]
        """,
    )
    by_name = {test.name: test for test in result.tests}
    assert [test.earned for test in result.tests] == [2, 1, 0, 0, 0, 1, 0, 1], [test.message for test in result.tests]
    assert "line 2 of the output is 'echo: x', and should be 'echo: y'" in by_name["the wrong line"].message
    assert "exit status was to be 5, and is 7" in by_name["the wrong status"].message
    assert "the output has 'panic'" in by_name["what must not be there"].message
    assert "without b" in by_name["a part"].message
    assert "was to end as 'exited', and ended as: timed out" in by_name["too late"].message


def test_a_disk_of_the_lab_and_what_is_on_it_afterwards(tmp_path: Path, guest) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "hello").write_text("from the lab")
    lab = lab_of(
        tmp_path,
        """
        [lab]
        kernel = "k"
        memory = "16M"
        timeout = 30
        disks = ["d"]
        [disks.d]
        directory = "files"
        size = "1M"
        [[test]]
        name = "untouched"
        disk = [{disk = "d", text = "hello"}, {disk = "d", match = "from the (lab|class)"}]
        [[test]]
        name = "not so"
        disk = [{disk = "d", offset = 1, text = "hello"}]
        """,
    )
    (result,) = grade(lab, [Submission("hello", str(guest("hello64")))], 1)
    assert [test.earned for test in result.tests] == [1, 0], result
    assert "the disk 'd' has b'ello" in result.tests[1].message


def test_the_crash_is_explained_to_the_student(tmp_path: Path, guest) -> None:  # type: ignore[no-untyped-def]
    lab = lab_of(
        tmp_path,
        '[lab]\nkernel = "k"\ntimeout = 30\n[[test]]\nname = "t"\nhidden = true\nending = "exited"\n',
    )
    (result,) = grade(lab, [Submission("crash", str(guest("crash-divide")))], 1)
    assert result.tests[0].earned == 0
    assert "crash.c:" in result.tests[0].feedback
    assert "ended as" not in result.tests[0].feedback


EXIT = "b0 10 e6 f4 fa f4"  # mov $16, %al; out %al, $0xf4; cli; hlt


def says(text: bytes) -> bytes:
    """mov $0x3f8, %edx; then for each letter: mov $letter, %al; out %al, %dx"""
    return bytes.fromhex("ba f8 03 00 00") + b"".join(bytes((0xB0, letter, 0xEE)) for letter in text)


RIGHT = elf32(says(b"hello\n") + bytes.fromhex(EXIT), 0)
HUGE = RIGHT[:72] + b"\xff" * 8 + RIGHT[80:]
"""With a segment of 4 GiB."""
KINDS: list[tuple[str, float, bytes]] = [
    ("right", 3, RIGHT),
    ("wrong", 1, elf32(says(b"help\n") + bytes.fromhex(EXIT), 0)),
    ("crashes", 0, elf32(says(b"help\n") + bytes.fromhex("0f 0b"), 0)),
    ("is none", 0, b"not a kernel\n"),
    ("is huge", 0, HUGE),
    ("is right, too", 3, RIGHT + b"\0"),
    ("spins", 2, elf32(says(b"hello\n") + bytes.fromhex("eb fe"), 0)),
    ("floods", 0, elf32(says(b"x") + bytes.fromhex("ee eb fd"), 0)),
    ("resets", 0, elf32(bytes.fromhex("b0 fe e6 64 eb fe"), 0)),
]
"""What is handed in: a name for it, the points that it deserves, and the kernel."""
QUICK = 6
"""How many of them end at once."""


def make_class(directory: Path) -> dict[str, float]:
    """The points of each submission."""
    points = {}
    for number in range(CLASS):
        what, deserved, kernel = KINDS[number if number < len(KINDS) else number % QUICK]
        name = f"{number:03} {what}"
        points[name] = deserved
        (directory / name).mkdir(parents=True)
        (directory / name / "made").write_bytes(kernel)
    return points


CLASS_LAB = f"""
[lab]
name = "A class"
kernel = "kernel.elf"
build = "cp made kernel.elf"
memory = "8M"
timeout = {CLASS_LIMIT}

[[test]]
name = "says hello"
points = 2
match = "^hello$"

[[test]]
name = "exits"
exit-code = 33
"""


def test_a_class_is_graded_though_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(CLASS_LAB)
    deserved = make_class(tmp_path / "class")
    results, scratch = tmp_path / "results", tmp_path / "scratch"
    scratch.mkdir()
    env = {**os.environ, "TMPDIR": str(scratch)}
    command = [
        *PYKVM, "grade", str(tmp_path / "lab.toml"), "--submissions", str(tmp_path / "class"), "--results", str(results),
        "--jobs", "2", "--json",
    ]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + LIMIT
    while not (results.exists() and results.read_bytes().count(b"\n") > CLASS // 4):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < limit
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=LIMIT)
    assert first.returncode == 130
    assert f"of {CLASS} graded; the same command goes on from here" in errors
    before = results.read_bytes()
    assert before.count(b"\n") < CLASS

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=4 * LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert results.read_bytes().startswith(before), "what was done is not done again"
    graded = json.loads(done.stdout)["submissions"]
    assert {each["name"]: each["score"] for each in graded} == deserved
    assert os.listdir(scratch) == []

    by_kind = {each["name"][4:]: each for each in graded}
    assert "timed out" in by_kind["spins"]["tests"][1]["message"]
    assert by_kind["crashes"]["tests"][0]["crash"]


def dask(what: str, *arguments: object) -> subprocess.Popen[bytes]:
    """One of Dask's programs, where it leaves nothing behind."""
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )


@pytest.mark.skipif(SLOW, reason="importing Dask takes minutes on an emulated CPU")
def test_a_class_is_graded_by_two_workers(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(CLASS_LAB.replace("[lab]", '[lab]\noverlay = "own"'))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "by the lab").write_text("")
    deserved = {}
    for number, (what, points, kernel) in enumerate(KINDS[:QUICK]):
        name = f"{number} {what}"
        deserved[name] = points
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / "made").write_bytes(kernel)
    (tmp_path / "class" / "is a file").write_bytes(RIGHT)
    deserved["is a file"] = 3
    address = tmp_path / "scheduler"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", address)
    workers = dask("worker", "--nworkers", "2", "--nthreads", "1", "--scheduler-file", address)
    try:
        limit = time.monotonic() + LIMIT
        while not (address.exists() and address.read_text().rstrip().endswith("}")):
            assert scheduler.poll() is None
            assert time.monotonic() < limit
        command = [*PYKVM, "grade", tmp_path / "lab.toml", "--submissions", tmp_path / "class", "--json", "--scheduler"]
        while True:
            tcp = json.loads(address.read_text())["address"]
            done = subprocess.run([*command, tcp], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
            if "has no workers" not in done.stderr:
                break
            assert time.monotonic() < limit
        assert done.returncode == 0, done.stderr
        graded = json.loads(done.stdout)["submissions"]
        assert {each["name"]: each["score"] for each in graded} == deserved
    finally:
        for process in (workers, scheduler):
            process.terminate()
            process.wait(LIMIT)


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(tmp_path, '[lab]\nkernel = "k"\n[[test]]\nname = "t"\n')
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"install pykvm-vmm with the extra \[grade\]"):
        list(grade_by("tcp://127.0.0.1:1", lab, [], lambda name, digest: False))


def test_what_dies_costs_its_own_test_only(tmp_path: Path, guest, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A guest that gets the better of the process it runs in."""
    from pykvm.grading import grader

    real = grader.run_test

    def deadly(machine, test):  # type: ignore[no-untyped-def]
        if test.name == "second":
            os.kill(os.getpid(), signal.SIGKILL)
        if test.name == "third":
            signal.pause()
        return real(machine, test)

    monkeypatch.setattr(grader, "run_test", deadly)
    monkeypatch.setattr("pykvm.grading.pool.GRACE", 1.0 if not SLOW else 5.0)
    tests = "".join(
        f'[[test]]\nname = "{name}"\nending = "exited"\n' for name in ("first", "second", "third", "fourth")
    )
    limit = 4 if SLOW else 1
    lab = lab_of(tmp_path, f'[lab]\nkernel = "k"\ntimeout = {limit}\nboot-timeout = {limit}\n{tests}')
    (result,) = grade(lab, [Submission("hello", str(guest("hello64")))], 1)
    assert [test.earned for test in result.tests] == [1, 0, 0, 1], result
    assert "died of SIGKILL" in result.tests[1].message
    assert "took too long" in result.tests[2].message


def test_a_student_sees_what_is_wrong(tmp_path: Path, guest) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "lab.toml").write_text('[lab]\nname = "One"\nkernel = "k"\n[[test]]\nname = "t"\noutput = "Hi\\n"\n')
    done = subprocess.run(
        [*PYKVM, "grade", tmp_path / "lab.toml", guest("hello64")],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAIL  0/1  t" in done.stdout
    assert "line 1 of the output is 'Hello from 64-bit long mode!', and should be 'Hi'" in done.stdout
    assert "One: 0 of 1 points" in done.stdout
    (tmp_path / "lab.toml").write_text("[lab]\n")
    done = subprocess.run(
        [*PYKVM, "grade", tmp_path / "lab.toml"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "kernel is missing" in done.stderr
