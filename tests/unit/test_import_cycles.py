"""No two modules of pykvm need each other: lazy and type-only imports counted, save the one declared door."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp

DOOR = ("pykvm.snapshot.snapshot", "pykvm.machine")
"""A snapshot's fork is a machine."""


def test_imports_have_no_cycle_but_through_the_door() -> None:
    graph = grimp.build_graph("pykvm")
    needs = {
        module: {
            needed
            for needed in graph.find_modules_directly_imported_by(module)
            # The package itself only gives the public names of all modules a common home.
            if needed not in ("pykvm", module) and (module, needed) != DOOR
        }
        for module in graph.modules
        if module != "pykvm"
    }
    assert DOOR[1] in graph.find_modules_directly_imported_by(DOOR[0]), "the door is walled up: take it out of here"
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise AssertionError(f"a cycle: {' -> '.join(error.args[1])}") from None
