"""What pykvm.typed has at run time: named tuples and enumerations."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from pykvm.typed import IntEnum, NamedTuple, StrEnum


class Span(NamedTuple):
    """Some text."""

    base: int
    size: int = 1

    @property
    def end(self) -> int:
        """One past the last."""
        return self.base + self.size

    def moved(self, by: int) -> Span:
        """The same elsewhere."""
        return self._replace(base=self.base + by)


def test_it_is_a_tuple_with_names() -> None:
    span = Span(4, size=2)
    assert span == (4, 2)
    assert (span.base, span.size, span.end) == (4, 2, 6)
    assert span.moved(1) == Span(5, 2)
    assert Span(3) == (3, 1)
    assert Span._fields == ("base", "size")
    assert repr(span) == "Span(base=4, size=2)"
    assert (Span.__name__, Span.__module__, Span.__doc__) == ("Span", __name__, "Some text.")


def test_it_cannot_be_changed_nor_grow() -> None:
    with pytest.raises(AttributeError):
        Span(1).base = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Span(1).other = 2  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        Span()  # type: ignore[call-arg]


def test_it_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Span(1, 2))) == Span(1, 2)


class Colour(IntEnum):
    """Some numbers."""

    RED = 1
    GREEN = 2
    ROT = 1

    @property
    def warm(self) -> bool:
        """Whether it is."""
        return self is Colour.RED


class Fruit(StrEnum):
    """Some strings."""

    APPLE = "an apple"


def test_an_enumeration_is_what_enum_makes_of_it() -> None:
    assert list(Colour) == [Colour.RED, Colour.GREEN]
    assert len(Colour) == 2
    assert Colour.RED == 1
    assert Colour.ROT is Colour(1) is Colour["RED"] is Colour.RED
    assert (Colour.GREEN.name, Colour.GREEN.value, Colour.GREEN.warm) == ("GREEN", 2, False)
    assert type(Colour.GREEN.value) is int
    assert (repr(Colour.GREEN), str(Colour.GREEN), f"{Colour.GREEN}") == ("<Colour.GREEN: 2>", "2", "2")
    assert (repr(Fruit.APPLE), str(Fruit.APPLE), f"{Fruit.APPLE}") == ("<Fruit.APPLE: 'an apple'>",) + ("an apple",) * 2
    assert 2 in Colour
    assert 3 not in Colour
    assert {Colour.GREEN: "x"}[2] == "x"  # type: ignore[index]
    assert json.dumps([Colour.GREEN, Fruit.APPLE]) == '[2, "an apple"]'
    assert (Colour.__name__, Colour.__module__, Colour.__doc__) == ("Colour", __name__, "Some numbers.")


def test_what_is_no_member_is_told() -> None:
    with pytest.raises(ValueError, match=r"^3 is not a valid Colour$"):
        Colour(3)
    with pytest.raises(ValueError, match=r"^\[\] is not a valid Fruit$"):
        Fruit([])
    with pytest.raises(KeyError):
        Colour["warm"]


def test_a_member_stays_what_it_is() -> None:
    with pytest.raises(AttributeError):
        Colour.RED = 5  # type: ignore[misc,assignment]
    with pytest.raises(AttributeError):
        Colour.RED.value = 5  # type: ignore[misc]
    assert Colour.RED == 1
    for copied in (pickle.loads(pickle.dumps(Colour.RED)), copy.copy(Colour.RED), copy.deepcopy(Colour.RED)):
        assert copied is Colour.RED
