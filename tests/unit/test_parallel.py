"""The printer port, by the IBM PC/AT Technical Reference, under a driver and under INT 17h."""

from __future__ import annotations

from pathlib import Path

import pytest
from bios_calls import Pc
from device_rig import Line, Rig

from pykvm.bios.rom import POST_CALL
from pykvm.console.printer import PrinterFile
from pykvm.devices.parallel import ParallelPort
from pykvm.errors import ConfigError

DATA, STATUS, CONTROL = 0, 1, 2
READY, ABSENT = 0xDF, 0x7F


class Printer:
    """`paper` is what it has taken; while it is `busy` it takes nothing."""

    def __init__(self) -> None:
        self.paper, self.busy = b"", False

    def print(self, byte: int) -> bool:
        if not self.busy:
            self.paper += bytes((byte,))
        return not self.busy


@pytest.fixture
def printer() -> Printer:
    return Printer()


@pytest.fixture
def rig(printer: Printer) -> Rig[ParallelPort]:
    line = Line()
    return Rig(ParallelPort(line, printer.print), line, base=0x378)


def strobe(rig: Rig[ParallelPort], byte: int, control: int = 0x0C) -> None:
    rig.outb(DATA, byte)
    rig.outb(CONTROL, control | 1)
    rig.outb(CONTROL, control)


def test_a_byte_is_taken_at_the_strobe_s_edge(rig: Rig[ParallelPort], printer: Printer) -> None:
    assert (rig.inb(DATA), rig.inb(STATUS), rig.inb(CONTROL)) == (0, READY, 0xEC)
    strobe(rig, ord("a"))
    rig.outb(CONTROL, 0x0D)
    rig.outb(CONTROL, 0x0D)
    assert (printer.paper, rig.rises) == (b"aa", 0)
    rig.outb(CONTROL, 0x0C)
    strobe(rig, ord("b"), 0x1C)
    assert (printer.paper, rig.rises) == (b"aab", 1)
    assert (rig.inb(DATA), rig.inb(CONTROL)) == (ord("b"), 0xFC)
    rig.outb(CONTROL, 0x09)
    assert printer.paper == b"aab", "a printer that is initialised takes nothing"


def test_a_busy_printer_takes_its_byte_later(rig: Rig[ParallelPort], printer: Printer) -> None:
    printer.busy = True
    strobe(rig, ord("x"), 0x1C)
    assert (rig.inb(STATUS), printer.paper, rig.rises) == (READY & 0x7F, b"", 0)
    other = Rig(ParallelPort(Line(), printer.print), base=0x378)
    rig.save_into(other)
    printer.busy = False
    assert (other.inb(STATUS), printer.paper) == (READY, b"x")
    assert (rig.inb(STATUS), printer.paper, rig.rises) == (READY, b"xx", 1)


def test_without_a_printer_the_inputs_float() -> None:
    rig = Rig(ParallelPort(Line(), None), base=0x378)
    strobe(rig, 1)
    assert rig.inb(STATUS) == ABSENT


@pytest.mark.parametrize(("field", "value"), [("data", 256), ("data", None), ("control", 0x20), ("busy", 1)])
def test_what_no_state_is(rig: Rig[ParallelPort], field: str, value: object) -> None:
    rig.refuses({**rig.device.save(), field: value}, field)


def test_int_17h_prints(printer: Printer) -> None:
    pc = Pc()
    assert pc.call(0x17, eax=0x0241, edx=0).ah == 1, "there is no port"
    pc.bus.attach(ParallelPort(Line(), printer.print))
    pc.call(POST_CALL)
    assert (pc.word(0x408), pc.word(0x410) >> 14) == (0x378, 1)
    assert pc.call(0x17, eax=0x0100, edx=0).ah == 0x90
    for character in b"Hi":
        assert pc.call(0x17, eax=character, edx=0).ah == 0x90
    assert (printer.paper, pc.call(0x17, eax=0x0200, edx=0).ah) == (b"Hi", 0x90)
    assert pc.call(0x17, eax=0x0021, edx=1).ah == 1
    printer.busy = True
    assert pc.call(0x17, eax=0x0021, edx=0).ah & 0x80 == 0
    assert pc.call(0x17, eax=0x003F, edx=0).ah == 0x11, "busy: time out"
    printer.busy = False
    assert (pc.call(0x17, eax=0x0200, edx=0).ah, printer.paper) == (0x90, b"Hi!")


def test_a_file_gets_what_is_printed_behind_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "paper"
    path.write_bytes(b"old ")
    paper = PrinterFile(str(path))
    assert all(paper.print(byte) for byte in b"new")
    paper.close()
    paper.close()
    assert path.read_bytes() == b"old new"
    with pytest.raises(ConfigError, match="directory"):
        PrinterFile(str(tmp_path))
    with pytest.raises(ConfigError):
        PrinterFile("a\0b")
