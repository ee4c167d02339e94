"""Exits in words, filters, the summary, and the file for Perfetto, from events made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.trace import AddressRange, Event, Filter, Site, Summary, Times
from pykvm.trace.event import SHOWN_DATA
from pykvm.trace.names import address_name, port_name
from pykvm.trace.perfetto import TraceFile
from pykvm.trace.summary import PLACES_LIMIT

SITE = Site(0x1005B, "serial_write+0x5b", b"\xee", "out dx, al")


def event(**parts: object) -> Event:
    given: dict[str, object] = {"number": 1, "time": 1_000_000, "cpu": 0, "kind": "pio", "site": SITE, **parts}
    return Event(**given)  # type: ignore[arg-type]  # the fields by name


THR = {"address": 0x3F8, "size": 1, "is_write": True, "value": 0x68, "device": "COM1", "register": "THR"}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({**THR, "meaning": "'h'"}, "COM1 THR <- 'h'"),
        ({**THR, "register": "SCR", "value": 0x5A}, "COM1 SCR <- 0x5a"),
        (
            {**THR, "device": "ATA0", "register": "COMMAND", "value": 0x20, "meaning": "READ SECTORS"},
            "ATA0 COMMAND <- READ SECTORS (0x20)",
        ),
        ({**THR, "is_write": False, "register": "LSR", "value": 0x60, "meaning": "THRE TEMT"}, "COM1 LSR -> THRE TEMT (0x60)"),
        ({"address": 0x80, "size": 1, "is_write": True, "value": 1, "register": "POST code"}, "port 0x80 POST code <- 0x1, unclaimed"),
        ({"address": 0x1234, "size": 1, "value": 0xFF}, "port 0x1234 -> 0xff, unclaimed"),
        ({"kind": "mmio", "address": 0xFED00000, "size": 4, "value": 0, "register": "HPET"}, "0xfed00000 HPET -> 0x0, unclaimed"),
        ({"kind": "msr", "address": 0x10, "value": 7, "register": "MSR 0x10 TSC"}, "MSR 0x10 TSC -> 0x7"),
        ({"kind": "msr", "address": 0x10, "meaning": "#GP", "register": "MSR 0x10"}, "MSR 0x10 -> #GP"),
        ({"kind": "shutdown", "meaning": "triple fault"}, "shutdown: triple fault"),
        ({"kind": "hlt"}, "hlt"),
    ],
)  # fmt: skip
def test_words(parts: dict[str, object], words: str) -> None:
    assert event(**parts).what == words


def test_of_a_long_block_the_beginning_is_shown() -> None:
    block = event(address=0x1F0, size=2, count=256, data=bytes(range(256)) * 2, device="ATA0", register="DATA")
    assert block.what == "ATA0 DATA -> 256 x 2 bytes: 00 01 02 03 04 05 06 07 ..."
    assert SHOWN_DATA == 8


def test_plain_values_survive_json() -> None:
    plain = event(**THR, meaning="'h'", run=1500, run_cpu=1000, served=250).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["time"] == 1000.0
    assert (plain["run"], plain["served"]) == (1.5, 0.25)
    assert (plain["rip"], plain["symbol"], plain["instruction"]) == (0x1005B, "serial_write+0x5b", "out dx, al")


def test_a_site_without_a_symbol_is_its_address() -> None:
    assert Site(0x7C00, "", b"", "").place == "0x7c00"


# Names of what is usually there


@pytest.mark.parametrize(
    ("port", "name"),
    [
        (0x20, "PIC1 command"), (0xA1, "PIC2 data"), (0x80, "POST code"), (0x3F8, "COM1"), (0x3FF, "COM1"),
        (0x400, ""), (0xFFFF, ""), (0xCFC, "PCI data"), (0x43, "PIT control"), (0, "DMA controller 1"),
    ],
)  # fmt: skip
def test_ports(port: int, name: str) -> None:
    assert port_name(port) == name


def test_addresses() -> None:
    assert address_name(0xFED00010) == "HPET"
    assert address_name(0xFEE00000) == "local APIC"
    assert address_name(0x9FFFF) == ""


# Filters


def test_everything_passes_an_empty_filter() -> None:
    assert Filter().passes("hlt", "", None, 7)


def test_all_that_is_given_must_match() -> None:
    chosen = Filter(("com",), {"pio"}, [AddressRange(0x3F8, 0x3FF), AddressRange(0x80, 0x80)], {0, 1})
    assert chosen.passes("pio", "COM1", 0x3F8, 1)
    assert not chosen.passes("pio", "COM1", 0x3F8, 2)
    assert not chosen.passes("mmio", "COM1", 0x3F8, 1)
    assert not chosen.passes("pio", "ATA0", 0x3F8, 1)
    assert not chosen.passes("pio", "", 0x80, 1)
    assert not chosen.passes("pio", "COM1", 0x400, 1)
    assert not chosen.passes("pio", "COM1", None, 1)


# The summary


def test_the_summary_counts() -> None:
    summary = Summary()
    for number in range(3):
        summary(event(**THR, run=1000, served=100 + number))
    summary(event(address=0x80, size=1, is_write=False, register="POST code", run=7))
    summary(event(kind="shutdown"))
    assert summary.total.count == 5
    assert {name: row.count for name, row in summary.kinds.items()} == {"pio write": 3, "pio read": 1, "shutdown": 1}
    assert summary.kinds["pio write"].served == 303
    assert summary.devices["port 0x80 POST code (unclaimed)"].run == 7
    assert summary.places["serial_write+0x5b: out dx, al"].count == 5
    plain = summary.as_dict([Times(exits=5, run=2000)])
    assert next(iter(plain["devices"])) == "COM1 THR"
    assert plain["cpus"][0]["run"] == 2.0
    assert plain["cpus"][0]["exits"] == 5
    assert json.loads(json.dumps(plain)) == plain


def test_the_summary_is_bounded() -> None:
    summary = Summary()
    for address in range(PLACES_LIMIT + 100):
        summary(event(kind="hlt", site=Site(address, "", b"", "")))
    assert len(summary.places) == PLACES_LIMIT + 1
    assert summary.places["(elsewhere)"].count == 100


# The time line


def slices(path: Path) -> list[dict[str, object]]:
    return [entry for entry in json.loads(path.read_text())["traceEvents"] if entry["ph"] == "X"]


def test_the_file_has_a_track_for_each_cpu_and_device(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(str(path))
    file(event(**THR, cpu=1, time=5_000, run=4_000, served=1_000, run_cpu=3_000))
    file(event(address=0x80, size=1, cpu=0, time=9_500, run=2_000, served=250))
    file.close()
    entries = json.loads(path.read_text())["traceEvents"]
    names = {(entry["pid"], entry["tid"]): entry["args"]["name"] for entry in entries if entry["name"] == "thread_name"}
    assert sorted(names.values()) == ["COM1", "unclaimed", "vCPU 0", "vCPU 1"]
    found = [(names[entry["pid"], entry["tid"]], entry["name"], entry["ts"], entry["dur"]) for entry in slices(path)]
    assert found == [
        ("vCPU 1", "KVM_RUN", 1.0, 4.0),
        ("vCPU 1", "COM1 THR <- 0x68", 5.0, 1.0),
        ("COM1", "COM1 THR <- 0x68", 5.0, 1.0),
        ("vCPU 0", "KVM_RUN", 7.5, 2.0),
        ("vCPU 0", "port 0x80 -> ?, unclaimed", 9.5, 0.25),
        ("unclaimed", "port 0x80 -> ?, unclaimed", 9.5, 0.25),
    ]


def test_every_entry_has_what_the_format_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(str(path))
    file(event(**THR))
    file(event(kind="shutdown"))
    file.close()
    for entry in json.loads(path.read_text())["traceEvents"]:
        assert {"name", "ph", "pid", "tid", "ts", "cat"} <= entry.keys()
        assert entry["ph"] in "XM"
        if entry["ph"] == "X":
            assert entry["dur"] >= 0
            assert isinstance(entry["args"], dict)


def test_closing_twice_is_once(tmp_path: Path) -> None:
    file = TraceFile(str(tmp_path / "trace.json"))
    file.close()
    file.close()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, (1 << 64) - 1))
def test_any_name_makes_a_whole_file(
    tmp_path_factory: pytest.TempPathFactory, device: str, meaning: str, value: int
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    file = TraceFile(str(path))
    file(event(address=1, size=8, is_write=True, value=value, device=device, meaning=meaning))
    file.close()
    assert slices(path)
