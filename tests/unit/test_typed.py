"""NamedTuple as it is at run time: a tuple with names, defaults, methods, properties."""

from __future__ import annotations

import pickle

import pytest

from pykvm.typed import NamedTuple


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
