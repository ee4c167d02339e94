"""KVM's state out of plain data that anybody may have written: it is taken, or ValueError says what does not fit."""

from __future__ import annotations

import copy
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.kvm.saved import MSR_LIMIT, XSAVE_LIMIT, SavedState, SavedVcpu, SavedVm

MSRS = (0x174, 0xC0000082, 0x400)
XSAVE_SIZE = 4096


class Kvm:
    """As much of `System` as a state asks it: which MSRs it knows, and how large its XSAVE area is."""

    def msr_indices(self) -> list[int]:
        return list(MSRS)

    def check_extension(self, capability: str) -> int:
        return XSAVE_SIZE


def plain() -> dict[str, Any]:
    return SavedState(SavedVm(), [SavedVcpu(MSRS, XSAVE_SIZE)], 5).as_plain()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every item of plain data."""
    found = [path] if path else []
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return found
    for key, item in items:
        found += places(item, (*path, key))
    return found


PLACES = places(plain())
ODD = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=8), st.binary(max_size=64),
    st.integers(), st.sampled_from([-1, 1 << 8, 1 << 16, 1 << 32, 1 << 63, 1 << 64, 1 << 5000]),
    st.lists(st.integers(), max_size=4), st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), st.integers()),
    st.sampled_from([b"", bytes(4095), bytes(4096), bytes(1 << 17), [[]] * 300, {"0x174": -1}, {"0x": 1}, {"9" * 5000: 1}]),
)  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["put", "delete", "add"]), ODD), min_size=1, max_size=4)
)
def test_a_hostile_state_is_a_value_error_or_taken(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    state = plain()
    for path, way, odd in changes:
        at: Any = state
        try:
            for key in path[:-1]:
                at = at[key]
            if way == "delete":
                del at[path[-1]]
            elif way == "add" and isinstance(at, dict):
                at[odd if isinstance(odd, str) else "more"] = odd
            elif way == "add":
                at.append(odd)
            else:
                at[path[-1]] = copy.deepcopy(odd)
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            continue  # an earlier change took this place away
    try:
        taken = SavedState.from_plain(state, Kvm())  # type: ignore[arg-type]
    except ValueError:
        return
    again = taken.as_plain()
    assert SavedState.from_plain(again, Kvm()).as_plain() == again  # type: ignore[arg-type]


def test_a_state_survives() -> None:
    state = plain()
    state["vcpus"][0]["registers"]["rip"] = 0xFFF0
    state["vcpus"][0]["msrs"]["0x400"] = (1 << 64) - 1
    assert SavedState.from_plain(state, Kvm()).as_plain() == state  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("msrs", {hex(index): 0 for index in range(MSR_LIMIT + 1)}),
        ("xsave", bytes(XSAVE_LIMIT + 1)),
        ("msrs", {"0x" + "f" * 100_000: 0}),
        ("tsc_offset", 1 << 100_000),
    ],
    ids=["many MSRs", "a large XSAVE area", "an index without end", "a number without end"],
)
def test_what_is_too_large_is_refused_before_it_is_kept(name: str, value: Any) -> None:
    state = plain()
    state["vcpus"][0][name] = value
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"no size|no index|tsc_offset|64 bits"):
            SavedState.from_plain(state, Kvm())  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
