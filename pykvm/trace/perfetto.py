"""A trace for ui.perfetto.dev and chrome://tracing, written to a file as it comes.

Format: "Trace Event Format" (Google, 2016), its JSON object form with complete ("X") and metadata ("M") events; times
are in µs. There is a track for each vCPU, where KVM_RUN and serving its exit take turns, and one for each device,
with the times it served. What lies between is the tracer's own.
"""

from __future__ import annotations

import json
from typing import IO, Any

from .event import Event

CPUS, DEVICES = 1, 2
"""The tracks' groups: the format calls them processes, and a track a thread."""
FIRST_DEVICE = 1 << 20
"""The tracks' numbers: 0 is none, then come the vCPUs."""
DEVICES_LIMIT = 1000
"""Devices with a track of their own."""


class TraceFile:
    """Writes to `path`; a sink for `tracer.Tracer`, and to be closed. Raises OSError as the file does."""

    def __init__(self, path: str) -> None:
        self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115  # closed by close()
        self._tracks: dict[tuple[int, str], int] = {}
        self._file.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        self._write(_name("process_name", CPUS, 0, "vCPUs"), before="")
        self._write(_name("process_name", DEVICES, 0, "devices"))

    def __call__(self, event: Event) -> None:
        """Write an event."""
        cpu = self._track(CPUS, f"vCPU {event.cpu}", event.cpu + 1)
        args: dict[str, Any] = {"rip": f"{event.site.address:#x}", "number": event.number}
        if event.site.symbol:
            args["symbol"] = event.site.symbol
        if event.site.source:
            args["source"] = event.site.source
        if event.site.text:
            args["instruction"] = event.site.text
        if event.address is not None:
            args["address"] = f"{event.address:#x}"
        if event.value is not None:
            args["value"] = f"{event.value:#x}"
        left = event.time
        run = {"cpu_us": event.run_cpu / 1000}
        self._slice("KVM_RUN", "run", CPUS, cpu, left - event.run, event.run, run)
        self._slice(event.what, event.kind, CPUS, cpu, left, event.served, args)
        name = event.device or ("unclaimed" if event.kind in ("pio", "mmio") else "")
        if name:
            track = self._track(DEVICES, name, FIRST_DEVICE + len(self._tracks))
            self._slice(event.what, event.kind, DEVICES, track, left, event.served, {"cpu": event.cpu})

    def _slice(
        self, name: str, category: str, group: int, track: int, start: int, duration: int, args: dict[str, Any]
    ) -> None:
        self._write({
            "name": name, "cat": category, "ph": "X", "pid": group, "tid": track,
            "ts": start / 1000, "dur": duration / 1000, "args": args,
        })  # fmt: skip

    def _track(self, group: int, name: str, number: int) -> int:
        known = self._tracks.get((group, name))
        if known is not None:
            return known
        if len(self._tracks) >= DEVICES_LIMIT:
            return number
        self._tracks[group, name] = number
        self._write(_name("thread_name", group, number, name))
        return number

    def _write(self, entry: dict[str, Any], before: str = ",\n") -> None:
        self._file.write(before + json.dumps(entry))

    def close(self) -> None:
        """End the file, so that it is whole."""
        if not self._file.closed:
            try:
                self._file.write("\n]}\n")
            finally:
                self._file.close()


def _name(what: str, group: int, track: int, name: str) -> dict[str, Any]:
    """A metadata event; category and time are there because not every reader does without."""
    return {
        "name": what, "cat": "__metadata", "ph": "M", "ts": 0, "pid": group, "tid": track, "args": {"name": name},
    }  # fmt: skip
