"""Fuzz targets: `python -m tests.fuzz --help`, and docs/contributing.md."""

import sys
from pathlib import Path

# The writers of images and the machines without KVM that the unit tests have.
sys.path[:0] = [str(Path(__file__).parent.parent / "unit"), str(Path(__file__).parent.parent)]
