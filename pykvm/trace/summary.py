"""What a trace amounts to: exits by kind, by device, by place, and where the time went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .event import Event
from .tracer import Times

PLACES_LIMIT = 1 << 14
"""Places that are counted one by one; all further ones are counted as one, "(elsewhere)"."""


@dataclass(slots=True)
class Row:
    """Exits of one sort: how many, and nanoseconds in KVM_RUN before them and in serving them."""

    count: int = 0
    run: int = 0
    served: int = 0

    def add(self, event: Event) -> None:
        """Count one more."""
        self.count += 1
        self.run += event.run
        self.served += event.served


@dataclass(slots=True)
class Summary:
    """Counts events: a sink for `tracer.Tracer`."""

    total: Row = field(default_factory=Row)
    kinds: dict[str, Row] = field(default_factory=dict)
    devices: dict[str, Row] = field(default_factory=dict)
    """By device and register; what no device answered under its address."""
    places: dict[str, Row] = field(default_factory=dict)
    """By symbol, or address where there is none, and instruction."""

    def __call__(self, event: Event) -> None:
        """Count an event."""
        self.total.add(event)
        direction = "" if event.address is None else " write" if event.is_write else " read"
        _row(self.kinds, event.kind + direction).add(event)
        _row(self.devices, event.name + ("" if event.device or event.address is None else " (unclaimed)")).add(event)
        _row(self.places, f"{event.site.place}: {event.site.text}" if event.site.text else event.site.place).add(event)

    def as_dict(self, times: Sequence[Times], kernel: Sequence[dict[str, int]] = ()) -> dict[str, Any]:
        """Everything as plain values, for JSON: times in µs, and KVM's own statistics as they are."""
        return {
            "exits": self.total.count,
            **{
                name: {key: _plain(row) for key, row in ranked(getattr(self, name))}
                for name in ("kinds", "devices", "places")
            },
            "cpus": [
                {key: value if key == "exits" else value / 1000 for key, value in asdict(time).items()}
                for time in times
            ],
            "kernel": list(kernel),
        }


def ranked(rows: dict[str, Row]) -> Iterator[tuple[str, Row]]:
    """The rows, those with most exits first."""
    return iter(sorted(rows.items(), key=lambda item: (-item[1].count, item[0])))


def _row(rows: dict[str, Row], key: str) -> Row:
    found = rows.get(key)
    if found is None:
        if len(rows) >= PLACES_LIMIT:
            key = "(elsewhere)"
        found = rows.setdefault(key, Row())
    return found


def _plain(row: Row) -> dict[str, float]:
    return {"count": row.count, "run": row.run / 1000, "served": row.served / 1000}
