"""Plain data: construction, defaults, equality, copies."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, fields, is_dataclass, replace

import pytest

from pykvm.data import MANY, Data, field


class Point(Data):
    """A point."""

    x: int
    y: int = 2


class Shape(Data):
    """Points, and where they are drawn from."""

    origin: Point = field(default_factory=lambda: Point(0, 0))
    points: list[Point] = field(default_factory=list)


class Nothing(Data):
    """No field at all."""


@pytest.fixture(params=[0, 2 * MANY], ids=["new", "much used"])
def used(request: pytest.FixtureRequest) -> None:
    """Of a class that is used much, objects are made in another way."""
    for _ in range(request.param):
        Nothing()
        Point(1)
        Shape()


@pytest.mark.usefixtures("used")
def test_a_class_without_fields() -> None:
    assert Nothing() == Nothing()
    assert repr(Nothing()) == "Nothing()"
    with pytest.raises(TypeError):
        Nothing(1)


@pytest.mark.usefixtures("used")
def test_values_by_place_and_by_name() -> None:
    assert (Point(1).x, Point(1).y) == (1, 2)
    assert Point(1, 3) == Point(y=3, x=1) == Point(1, y=3)
    assert repr(Point(1)) == "Point(x=1, y=2)"


@pytest.mark.parametrize(
    ("values", "named", "words"),
    [
        ((), {}, "missing or unknown: x"),
        ((1, 2, 3), {}, "no more fields than x, y"),
        ((1,), {"x": 1}, "no more fields than x, y"),
        ((1,), {"z": 1}, "missing or unknown: z"),
    ],
)
@pytest.mark.usefixtures("used")
def test_values_that_do_not_fit(values: tuple[int, ...], named: dict[str, int], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Point(*values, **named)


@pytest.mark.usefixtures("used")
def test_defaults_are_made_for_each_object() -> None:
    one, two = Shape(), Shape()
    one.origin.x = 7
    one.points.append(Point(1))
    assert two == Shape(Point(0, 0), [])
    assert one != two


def test_there_are_no_other_fields() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 3  # type: ignore[attr-defined]


def test_equal_only_to_its_own_kind() -> None:
    assert Point(1) != (1, 2)
    assert Point(1) != Shape()
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1))


def test_a_copy_with_changes() -> None:
    point = Point(1)
    moved = point.copy(y=5)
    assert (point, moved) == (Point(1, 2), Point(1, 5))
    with pytest.raises(TypeError, match="z"):
        point.copy(z=1)


def test_the_standard_ways_to_copy() -> None:
    shape = Shape(Point(1), [Point(2)])
    for other in (copy.copy(shape), copy.deepcopy(shape), pickle.loads(pickle.dumps(shape))):
        assert other == shape
        assert other is not shape


def test_the_functions_for_dataclasses() -> None:
    assert [one.name for one in fields(Point)] == ["x", "y"]
    assert replace(Point(1), y=5) == Point(1, 5)
    assert asdict(Shape(points=[Point(1)])) == {"origin": {"x": 0, "y": 0}, "points": [{"x": 1, "y": 2}]}
    assert is_dataclass(Point(1))
