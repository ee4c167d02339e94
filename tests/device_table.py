"""The README's table of devices, as the tests compare it with what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).parents[1] / "README.md"


class Row(NamedTuple):
    names: tuple[str, ...]
    """What the devices are called in traces."""
    ports: frozenset[int]
    irqs: tuple[int, ...]


def rows() -> list[Row]:
    """Of the devices with ports; what KVM has in the kernel has no name in the table."""
    _, _, text = README.read_text().partition("| device | what | ports | IRQ | source |\n")
    found = []
    for line in text.splitlines()[1:]:
        if not line.startswith("|"):
            break
        name, _, ports, irqs, _ = line.strip("|").split("|")
        numbers: set[int] = set()
        for first, last in re.findall(r"0x([0-9A-F]+)(?:-0x([0-9A-F]+))?", ports):
            numbers.update(range(int(first, 16), int(last or first, 16) + 1))
        names = tuple(re.findall(r"`(.*?)`", name))
        if names:
            found.append(Row(names, frozenset(numbers), tuple(map(int, re.findall(r"\d+", irqs)))))
    return found
