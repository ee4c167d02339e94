"""A process that grades a batch: `python -m pykvm.grading.batch LAB`, the submissions' paths by their names on standard
input, as JSON; a line of JSON for each on standard output."""

from __future__ import annotations

import json
import sys

from .lab import read_lab
from .pool import grade
from .submission import Submission


def main() -> None:
    """Grade what standard input says."""
    lab = read_lab(sys.argv[1])
    submissions = [Submission(name, path) for name, path in json.load(sys.stdin).items()]
    for graded in grade(lab, submissions, 1):
        print(json.dumps(graded.as_dict()), flush=True)


if __name__ == "__main__":
    main()
