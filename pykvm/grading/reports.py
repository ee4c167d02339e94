"""Results for programs: JUnit's XML, a class's CSV, and the JSON that Gradescope reads.

Sources: the JUnit schema of Apache Ant and Jenkins (testsuites, testsuite, testcase, failure, error); Gradescope's
autograder specification, "Output Format" (score, output, tests with name, score, max_score, output, visibility).
All three are for students' eyes, too: of a hidden test they have what `Result.feedback` has.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from .lab import Lab
from .results import Graded, Result, possible

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def shown_name(number: int, test: Result) -> str:
    """What a student reads as the name of test `number`, from 1 on."""
    return f"hidden test {number}" if test.hidden else test.name


def junit(lab: Lab, all_graded: Sequence[Graded]) -> str:
    """A test suite for each submission, a test case for each test."""
    root = ElementTree.Element("testsuites", name=_xml(lab.name))
    for graded in all_graded:
        failed = sum(not test.passed for test in graded.tests)
        suite = ElementTree.SubElement(
            root, "testsuite", name=_xml(graded.name), tests=str(len(graded.tests)), failures=str(failed), errors="0",
            time=f"{graded.seconds:.3f}",
        )  # fmt: skip
        for number, test in enumerate(graded.tests, 1):
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(graded.name), name=_xml(shown_name(number, test)),
                time=f"{test.seconds:.3f}",
            )  # fmt: skip
            if not test.passed:
                message = f"{test.earned:g} of {test.points:g} points"
                failure = ElementTree.SubElement(case, "failure", message=message)
                failure.text = _xml(test.feedback)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)


def table(lab: Lab, all_graded: Sequence[Graded]) -> str:
    """CSV: a line for each submission with its points in all, and for each test."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [shown_name(number, test) for number, test in enumerate(_blank(lab), 1)]
    writer.writerow(["submission", "score", "of", *map(_cell, names), "problem"])
    for graded in all_graded:
        points = [f"{test.earned:g}" for test in graded.tests]
        writer.writerow(
            [_cell(graded.name), f"{graded.score(lab):g}", f"{possible(lab):g}", *points, _cell(_first(graded.problem))]
        )
    return out.getvalue()


def _blank(lab: Lab) -> list[Result]:
    return [Result(test.name, test.points, 0.0, test.group, test.hidden) for test in lab.tests]


def _first(text: str) -> str:
    return text.partition("\n")[0]


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def gradescope(lab: Lab, graded: Graded) -> str:
    """The results of one submission."""
    tests: list[dict[str, Any]] = []
    for number, test in enumerate(graded.tests, 1):
        tests.append(
            {
                "number": str(number),
                "name": shown_name(number, test),
                "score": test.earned,
                "max_score": test.points,
                "status": "passed" if test.passed else "failed",
                "output": test.feedback,
                "output_format": "text",
                "visibility": "hidden" if test.hidden else "visible",
            }
        )
    values = {
        "score": graded.score(lab),
        "execution_time": round(graded.seconds),
        "output": graded.problem,
        "output_format": "text",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
    return json.dumps(values, indent=1) + "\n"
