"""Results on disk and for other programs: hidden tests stay hidden, and what a submission says breaks no format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pykvm import ConfigError
from pykvm.grading import reports
from pykvm.grading.journal import Journal
from pykvm.grading.lab import Lab, read_lab
from pykvm.grading.results import Graded, Result, possible

SECRET = "what the hidden test wants"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "lab.toml").write_text(
        '[lab]\nkernel = "k"\n[groups.g]\nweight = 10\n'
        '[[test]]\nname = "open"\npoints = 2\n'
        f'[[test]]\nname = "{SECRET}"\nhidden = true\npoints = 3\ngroup = "g"\n'
        '[[test]]\nname = "third"\npoints = 2\ngroup = "g"\n'
    )
    return read_lab(tmp_path / "lab.toml")


def graded(name: str = "=cmd()") -> Graded:
    return Graded(
        name,
        "abc",
        tests=[
            Result("open", 2, 1, message="bad \x1b ]]> <x>\ud800 line"),
            Result(SECRET, 3, 0, "g", True, SECRET, "triple fault at 0x10", SECRET),
            Result("third", 2, 2, "g"),
        ],
    )


def test_points_and_weights(lab: Lab) -> None:
    assert possible(lab) == 12
    assert graded().score(lab) == 1 + 10 * 2 / 5


def test_nobody_who_reads_a_report_reads_a_hidden_test(lab: Lab) -> None:
    made = [reports.junit(lab, [graded()]), reports.table(lab, [graded()]), reports.gradescope(lab, graded())]
    for text in made:
        assert SECRET not in text
        assert "hidden test 2" in text
    assert "triple fault at 0x10" in made[0]
    assert "triple fault at 0x10" in made[2]


def test_junit_is_xml(lab: Lab) -> None:
    root = ElementTree.fromstring(reports.junit(lab, [graded(), graded("b\0")]))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    failure = suite[0].find("failure")
    assert failure is not None
    assert failure.text == "bad ? ]]> <x>? line"


def test_a_table_has_no_formula(lab: Lab) -> None:
    rows = list(csv.reader(io.StringIO(reports.table(lab, [graded()]))))
    assert rows[0][:4] == ["submission", "score", "of", "open"]
    assert rows[1][:6] == ["'=cmd()", "5", "12", "1", "0", "2"]


def test_gradescope_s_layout(lab: Lab) -> None:
    values = json.loads(reports.gradescope(lab, graded()))
    assert values["score"] == 5
    assert [test["visibility"] for test in values["tests"]] == ["visible", "hidden", "visible"]
    assert {"name", "score", "max_score", "status", "output", "number"} <= values["tests"][0].keys()


def test_a_journal_goes_on_where_it_was_stopped(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "results"
    journal = Journal(str(path), lab)
    journal.add(graded("a"))
    journal.add(graded("b"))
    journal.close()
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(str(path), lab)
        journal.close()
        assert list(journal.graded) == ["a", "b"][: whole[:cut].count(b"\n") - 1]
        assert whole.startswith(path.read_bytes())
    path.write_bytes(whole)
    journal = Journal(str(path), lab)
    assert journal.has("a", "abc")
    assert not journal.has("a", "changed")
    assert not journal.has("c", "abc")
    assert journal.graded["a"] == graded("a")
    journal.close()


def test_a_journal_of_something_else(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "results"
    for content in (b"precious\n", b"[]\n", b'{"pykvm-grades": 9}\n'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="is no file of results"):
            Journal(str(path), lab)
        assert path.read_bytes() == content
    path.write_bytes(b'{"pykvm-grades": 1, "digest": "other"}\n')
    with pytest.raises(ConfigError, match="another version of the lab: give --fresh"):
        Journal(str(path), lab)
    Journal(str(path), lab, fresh=True).close()
    assert lab.digest.encode() in path.read_bytes()
