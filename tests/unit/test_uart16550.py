"""The 16550A against the PC16550D data sheet, and the ways in which drivers in the wild look for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import device_rig
import pytest
from device_rig import Line
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.uart16550 import Uart16550

RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = 1, 2, 3, 4, 5, 6, 7
FCR = 2
COM1 = 0x3F8


class Wire:
    """A character backend in memory: the far end of the serial line."""

    def __init__(self) -> None:
        self.ready = True
        self.sent: list[bytes] = []
        self.waiting = b""
        self.room: int | None = None
        """Writes taken until the wire turns not ready; None for no end."""
        self.on_input: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        assert self.ready
        self.sent.append(data)
        if self.room is not None:
            self.room -= 1
            self.ready = self.room > 0

    def read(self, limit: int) -> bytes:
        data, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return data

    def connect(self, on_input: Callable[[], None], on_ready: Callable[[], None]) -> None:
        self.on_input, self.on_ready = on_input, on_ready

    def type(self, data: bytes) -> None:
        self.waiting += data
        self.on_input()

    def unblock(self) -> None:
        self.ready, self.room = True, None
        self.on_ready()

    @property
    def text(self) -> bytes:
        return b"".join(self.sent)


class Rig(device_rig.Rig[Uart16550]):
    """A UART, its wire, and its registers as ports 0 to 7."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        irq = Line()
        super().__init__(Uart16550("COM1", COM1, irq, self.wire), irq, base=COM1)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def fifo_rig(trigger: int = 0) -> Rig:
    """FIFOs on and cleared, DTR, RTS and OUT2 on, 8N1: as a driver leaves it."""
    rig = Rig()
    rig.outb(LCR, 0x03)
    rig.outb(FCR, trigger << 6 | 0x07)
    rig.outb(MCR, 0x0B)
    return rig


# -- Reset, plain output, plain input --------------------------------------------------------------------------------


def test_registers_after_master_reset(rig: Rig) -> None:
    assert [rig.inb(r) for r in (IER, IIR, LCR, MCR, LSR)] == [0x00, 0x01, 0x00, 0x00, 0x60]
    assert rig.inb(MSR) == 0xB0  # CTS, DSR and DCD from the peer, no deltas
    assert not rig.irq.level


def test_answers_eight_byte_wide_ports() -> None:
    bus = Rig().bus
    assert [port in bus.claims for port in (0x3F7, 0x3F8, 0x3FF, 0x400)] == [False, True, True, False]
    bus.write(COM1 + SCR, 1, 0x5A)
    assert bus.read(COM1 + SCR, 1) == 0x5A
    assert bus.read(COM1 + LSR, 2) == 0xB060  # split into LSR and MSR


def test_output_reaches_the_wire_a_byte_at_a_time(rig: Rig) -> None:
    for byte in b"Hi\xff":
        assert rig.inb(LSR) & 0x20
        rig.outb(THR, byte)
    assert rig.wire.sent == [b"H", b"i", b"\xff"]


def test_string_output_is_one_write(rig: Rig) -> None:
    rig.outs(THR, b"hello, world")
    assert rig.wire.sent == [b"hello, world"]


def test_string_output_to_another_register_goes_byte_by_byte(rig: Rig) -> None:
    rig.outs(SCR, b"\x01\x02\x03")
    assert rig.inb(SCR) == 3
    assert rig.wire.sent == []


def test_divisor_latch_takes_the_place_of_data_and_interrupt_enable(rig: Rig) -> None:
    rig.outb(IER, 0x05)
    rig.outb(LCR, 0x83)
    rig.outb(0, 0x34)
    rig.outb(1, 0x12)
    assert (rig.inb(0), rig.inb(1)) == (0x34, 0x12)
    rig.outs(0, b"\x77\x0c")
    assert (rig.inb(0), rig.inb(1)) == (0x0C, 0x12)
    assert rig.wire.sent == []
    rig.outb(LCR, 0x03)
    assert rig.inb(IER) == 0x05
    rig.outb(THR, 0x41)
    assert rig.wire.sent == [b"A"]


def test_input_without_fifos_comes_one_at_a_time(rig: Rig) -> None:
    rig.wire.type(b"ab")
    assert rig.inb(LSR) == 0x61
    assert rig.wire.waiting == b"b"
    assert rig.inb(RBR) == ord("a")
    assert rig.inb(LSR) == 0x61
    assert rig.inb(RBR) == ord("b")
    assert rig.inb(LSR) == 0x60
    assert rig.inb(RBR) == 0


def test_input_is_pulled_as_the_fifo_has_room_and_never_overruns() -> None:
    rig = fifo_rig()
    text = bytes(range(200))
    rig.wire.type(text)
    assert rig.inb(LSR) == 0x61
    assert len(rig.wire.waiting) == 200 - 16
    got = bytearray()
    while (lsr := rig.inb(LSR)) & 1:
        assert not lsr & 0x9E
        got.append(rig.inb(RBR))
    assert got == text


def test_input_that_waits_before_the_machine_is_made_is_seen() -> None:
    wire = Wire()
    wire.waiting = b"x"
    rig = Rig(wire)
    assert rig.inb(LSR) & 1
    assert rig.inb(RBR) == ord("x")


def test_reset_drops_what_was_received_and_goes_on_with_what_waits() -> None:
    rig = fifo_rig()
    rig.wire.type(bytes(range(20)))
    assert rig.inb(LSR) == 0x61
    rig.device.reset()
    assert rig.inb(RBR) == 16, "the first 16 were in the FIFO"
    assert [rig.inb(r) for r in (IER, LCR, MCR)] == [0, 0, 0]


# -- FIFOs ------------------------------------------------------------------------------------------------------------


def test_iir_tells_that_fifos_are_on(rig: Rig) -> None:
    rig.outb(FCR, 0x01)
    assert rig.inb(IIR) == 0xC1
    rig.outb(FCR, 0x00)
    assert rig.inb(IIR) == 0x01


def test_other_fcr_bits_need_bit_0(rig: Rig) -> None:
    rig.outb(FCR, 0xC6)
    assert rig.inb(IIR) == 0x01
    rig.wire.type(b"a")
    rig.outb(FCR, 0x02)  # no receiver reset: bit 0 is clear
    assert rig.inb(RBR) == ord("a")


@pytest.mark.parametrize(("setting", "level"), [(0, 1), (1, 4), (2, 8), (3, 14)])
def test_trigger_level_tells_received_data_from_timeout(setting: int, level: int) -> None:
    rig = fifo_rig(setting)
    rig.outb(IER, 0x01)
    for count in range(1, 17):
        rig.wire.type(b"x")
        assert rig.inb(IIR) == (0xC4 if count >= level else 0xCC), count
        assert rig.irq.level
    for count in range(15, 0, -1):
        rig.inb(RBR)
        assert rig.inb(IIR) == (0xC4 if count >= level else 0xCC), count
    rig.inb(RBR)
    assert rig.inb(IIR) == 0xC1
    assert not rig.irq.level
    assert rig.edges == [True, False]


def test_receiver_reset_clears_what_was_received() -> None:
    rig = fifo_rig()
    rig.wire.type(b"abc")
    assert rig.inb(LSR) == 0x61
    rig.outb(FCR, 0x03)
    assert rig.inb(LSR) == 0x60
    rig.wire.type(b"d")
    assert rig.inb(RBR) == ord("d")


@pytest.mark.parametrize("on_first", [True, False])
def test_switching_fifos_on_or_off_clears_them(on_first: bool) -> None:
    rig = Rig()
    rig.outb(FCR, 0x01 if on_first else 0x00)
    rig.wire.type(b"a")
    assert rig.inb(LSR) == 0x61
    rig.outb(FCR, 0x00 if on_first else 0x01)
    assert rig.inb(LSR) == 0x60


def test_receiver_reset_makes_room_that_is_filled_at_once() -> None:
    rig = fifo_rig()
    rig.wire.type(bytes(range(20)))
    assert rig.inb(LSR) == 0x61
    rig.outb(FCR, 0x03)
    assert [rig.inb(RBR) for _ in range(4)] == [16, 17, 18, 19]


def test_receiver_reset_takes_the_error_of_the_character_along() -> None:
    rig = fifo_rig()
    rig.device.receive_break()
    rig.outb(FCR, 0x03)
    assert rig.inb(LSR) == 0x60


def test_setting_the_trigger_alone_clears_nothing() -> None:
    rig = fifo_rig()
    rig.wire.type(b"a")
    rig.wire.ready = False
    rig.outb(THR, 0x42)
    rig.outb(FCR, 0xC1)
    rig.wire.unblock()
    assert rig.wire.text == b"B"
    assert rig.inb(RBR) == ord("a")


def test_transmitter_reset_drops_held_output() -> None:
    rig = fifo_rig()
    rig.wire.ready = False
    rig.outb(THR, 0x41)
    rig.outb(FCR, 0x05)
    rig.outb(THR, 0x42)
    rig.wire.unblock()
    assert rig.wire.text == b"B"


# -- A backend that is not ready -------------------------------------------------------------------------------------


def test_transmitter_is_not_empty_while_the_backend_is_not_ready(rig: Rig) -> None:
    rig.wire.ready = False
    assert rig.inb(LSR) == 0x00
    rig.wire.unblock()
    assert rig.inb(LSR) == 0x60


def test_fifo_holds_sixteen_characters_for_a_backend_that_stops() -> None:
    """THRE promises room for 16, so a driver that fills the FIFO after it loses nothing."""
    rig = fifo_rig()
    rig.wire.room = 1
    for value in range(18):
        rig.outb(THR, value)
    assert rig.wire.text == b"\x00"
    rig.wire.unblock()
    assert rig.wire.text == bytes(range(17))  # the 18th was written against the rules
    rig.outb(THR, 0x41)
    assert rig.wire.text == bytes(range(17)) + b"A"


def test_block_that_meets_a_stopped_backend_is_held_up_to_the_fifo_size() -> None:
    rig = fifo_rig()
    rig.wire.ready = False
    rig.outs(THR, bytes(range(40)))
    rig.wire.unblock()
    assert rig.wire.text == bytes(range(16))


def test_without_fifos_the_newest_character_is_held(rig: Rig) -> None:
    rig.wire.ready = False
    rig.outb(THR, 0x41)
    rig.outb(THR, 0x42)
    rig.wire.unblock()
    assert rig.wire.text == b"B"


def test_thre_interrupt_comes_when_the_backend_turns_ready() -> None:
    rig = fifo_rig()
    rig.wire.room = 1
    rig.outb(IER, 0x02)
    assert rig.inb(IIR) == 0xC2
    rig.outb(THR, 0x41)
    assert not rig.irq.level
    assert rig.inb(IIR) == 0xC1
    rig.wire.unblock()
    assert rig.irq.level
    assert rig.inb(IIR) == 0xC2


def test_thre_interrupt_enabled_while_not_ready_waits() -> None:
    rig = fifo_rig()
    rig.wire.ready = False
    rig.outb(IER, 0x02)
    assert rig.inb(IIR) == 0xC1
    rig.wire.unblock()
    assert rig.inb(IIR) == 0xC2


# -- Interrupts -------------------------------------------------------------------------------------------------------


def test_thre_interrupt_rises_when_enabled_and_falls_when_identified() -> None:
    rig = fifo_rig()
    rig.outb(IER, 0x02)
    assert rig.irq.level
    assert rig.inb(IIR) == 0xC2
    assert not rig.irq.level
    assert rig.inb(IIR) == 0xC1
    rig.outb(IER, 0x00)
    rig.outb(IER, 0x02)
    assert rig.inb(IIR) == 0xC2


def test_thr_write_makes_a_new_edge_for_an_edge_triggered_pic() -> None:
    rig = fifo_rig()
    rig.outb(IER, 0x02)
    rig.edges.clear()
    rig.outb(THR, 0x41)
    assert rig.edges == [False, True]
    rig.edges.clear()
    rig.outs(THR, b"abc")
    assert rig.edges == [False, True]
    assert rig.wire.sent == [b"A", b"abc"]


def test_disabling_the_thre_interrupt_takes_it_back() -> None:
    rig = fifo_rig()
    rig.outb(IER, 0x02)
    rig.outb(IER, 0x00)
    assert not rig.irq.level
    rig.outb(THR, 0x41)
    assert rig.inb(IIR) == 0xC1


def test_iir_reads_out_sources_in_priority_order() -> None:
    rig = fifo_rig()
    rig.outb(MCR, 0x1B)  # loopback; OUT2 on, so DCD stays; RI stays off: RTS, DTR on as before
    rig.inb(MSR)
    for value in range(17):
        rig.outb(THR, value)  # the 17th overruns
    rig.outb(MCR, 0x1A)  # DTR off: DDSR
    rig.outb(IER, 0x0F)
    assert rig.inb(IIR) == 0xC6
    assert rig.inb(LSR) & 0x1F == 0x03
    assert rig.inb(IIR) == 0xC4
    while rig.inb(LSR) & 1:
        rig.inb(RBR)
    assert rig.inb(IIR) == 0xC2
    assert rig.inb(IIR) == 0xC0
    assert rig.irq.level
    assert rig.inb(MSR) & 0x0F == 0x02
    assert rig.inb(IIR) == 0xC1
    assert not rig.irq.level


def test_reading_iir_clears_thre_only_when_it_names_it() -> None:
    rig = fifo_rig()
    rig.wire.type(b"a")
    rig.outb(IER, 0x03)
    assert rig.inb(IIR) == 0xC4
    rig.inb(RBR)
    assert rig.inb(IIR) == 0xC2


@pytest.mark.parametrize("enable", [0x00, 0x02, 0x04, 0x08])
def test_received_data_interrupt_needs_its_enable_bit(enable: int) -> None:
    rig = fifo_rig()
    rig.outb(IER, enable)
    rig.inb(IIR)
    rig.wire.type(b"a")
    assert rig.inb(IIR) == 0xC1


def test_out2_gates_the_line_but_not_the_identification() -> None:
    rig = fifo_rig()
    rig.outb(MCR, 0x03)
    rig.outb(IER, 0x01)
    rig.wire.type(b"a")
    assert rig.inb(IIR) == 0xC4
    assert not rig.irq.level
    rig.outb(MCR, 0x0B)
    assert rig.irq.level


def test_16450_mode_identifies_received_data(rig: Rig) -> None:
    rig.outb(IER, 0x01)
    rig.wire.type(b"a")
    assert rig.inb(IIR) == 0x04


# -- Line status ------------------------------------------------------------------------------------------------------


def test_overrun_in_the_fifo_keeps_what_was_there() -> None:
    rig = fifo_rig()
    rig.outb(MCR, 0x10)
    for value in range(20):
        rig.outb(THR, value)
    assert rig.inb(LSR) == 0x63
    assert rig.inb(LSR) == 0x61  # reading cleared OE
    assert [rig.inb(RBR) for _ in range(16)] == list(range(16))
    assert rig.inb(LSR) == 0x60


def test_overrun_without_fifos_keeps_the_newest(rig: Rig) -> None:
    rig.outb(MCR, 0x10)
    rig.outb(THR, 0x41)
    rig.outb(THR, 0x42)
    assert rig.inb(LSR) == 0x63
    assert rig.inb(RBR) == 0x42


def test_break_shows_when_its_character_comes_to_the_top() -> None:
    rig = fifo_rig()
    rig.outb(IER, 0x04)
    rig.wire.type(b"a")
    rig.device.receive_break()
    rig.wire.type(b"h")
    assert rig.inb(LSR) == 0xE1  # an error is somewhere in the FIFO
    assert rig.inb(IIR) == 0xC1
    assert rig.inb(RBR) == ord("a")
    assert rig.inb(IIR) == 0xC6
    assert rig.inb(LSR) == 0xF1
    assert rig.inb(LSR) == 0x61  # no further error behind the one just read
    assert rig.inb(RBR) == 0
    assert rig.inb(RBR) == ord("h")


def test_break_without_fifos_sets_no_fifo_error(rig: Rig) -> None:
    rig.device.receive_break()
    assert rig.inb(LSR) == 0x71


def test_lsr_and_msr_ignore_writes(rig: Rig) -> None:
    rig.outb(LSR, 0xFF)
    rig.outb(MSR, 0xFF)
    assert (rig.inb(LSR), rig.inb(MSR)) == (0x60, 0xB0)


# -- Modem control and loopback --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("control", "status"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x0F, 0xF0)])
def test_loopback_wires_modem_control_to_modem_status(rig: Rig, control: int, status: int) -> None:
    rig.outb(MCR, 0x10 | control)
    assert rig.inb(MSR) & 0xF0 == status
    rig.outb(MCR, control)
    assert rig.inb(MSR) & 0xF0 == 0xB0


def test_modem_deltas_are_set_by_change_and_cleared_by_reading(rig: Rig) -> None:
    rig.outb(MCR, 0x10)
    assert rig.inb(MSR) == 0x0B  # CTS, DSR and DCD fell
    assert rig.inb(MSR) == 0x00
    rig.outb(MCR, 0x14)
    assert rig.inb(MSR) == 0x40  # RI rose: not its trailing edge
    rig.outb(MCR, 0x10)
    assert rig.inb(MSR) == 0x04  # TERI
    rig.outb(MCR, 0x12)
    rig.outb(MCR, 0x10)
    assert rig.inb(MSR) == 0x01  # there and back still is a change


def test_modem_status_interrupt() -> None:
    rig = fifo_rig()
    rig.outb(MCR, 0x1B)
    rig.inb(MSR)
    rig.outb(IER, 0x08)
    assert not rig.irq.level
    rig.outb(IER, 0x05)
    rig.outb(MCR, 0x19)
    assert not rig.irq.level
    rig.outb(IER, 0x08)
    assert rig.irq.level
    assert rig.inb(IIR) == 0xC0
    assert rig.inb(MSR) == 0xA1
    assert not rig.irq.level


def test_loopback_keeps_output_off_the_wire_and_input_off_the_receiver() -> None:
    rig = fifo_rig()
    rig.outb(MCR, 0x1E)
    rig.wire.type(b"outside")
    rig.outb(THR, 0xAE)
    assert rig.inb(RBR) == 0xAE
    assert not rig.inb(LSR) & 1
    assert rig.wire.sent == []
    rig.outb(MCR, 0x0B)
    assert rig.inb(RBR) == ord("o")


def test_loopback_interrupts_work() -> None:
    rig = fifo_rig()
    rig.outb(MCR, 0x1B)
    rig.inb(MSR)
    rig.outb(IER, 0x01)
    rig.outb(THR, 0x55)
    assert rig.irq.level
    assert rig.inb(IIR) == 0xC4


def test_loopback_transmitter_does_not_wait_for_the_backend() -> None:
    rig = fifo_rig()
    rig.wire.ready = False
    rig.outb(MCR, 0x10)
    assert rig.inb(LSR) == 0x60
    rig.outb(THR, 0x55)
    assert rig.inb(LSR) == 0x61
    rig.outb(MCR, 0x00)
    assert rig.inb(LSR) == 0x01


# -- What drivers do --------------------------------------------------------------------------------------------------


def test_linux_8250_autoconfig_finds_a_16550a(rig: Rig) -> None:
    """The steps of drivers/tty/serial/8250: probe, 16550A variants, FIFO size, transmit interrupt quirks."""
    rig.outb(IER, 0x00)
    assert rig.inb(IER) & 0x0F == 0
    rig.outb(IER, 0x0F)
    assert rig.inb(IER) & 0x0F == 0x0F
    rig.outb(IER, 0x00)

    rig.outb(MCR, 0x10 | 0x0A)
    assert rig.inb(MSR) & 0xF0 == 0x90
    rig.outb(MCR, 0x00)

    # A 16C950 or 16650 would show another register at offset 2 in LCR mode 0xBF.
    rig.outb(LCR, 0xBF)
    rig.outb(2, 0x00)
    rig.outb(LCR, 0x00)
    rig.outb(FCR, 0x01)
    assert rig.inb(IIR) >> 6 == 3
    for mode in (0x80, 0xBF):
        rig.outb(LCR, mode)
        assert rig.inb(2) != 0

    # A SuperIO's bank 2 would mirror MCR's loop bit.
    rig.outb(LCR, 0x00)
    mcr = rig.inb(MCR)
    rig.outb(LCR, 0xE0)
    first = rig.inb(2)
    rig.outb(LCR, 0x00)
    rig.outb(MCR, mcr ^ 0x10)
    rig.outb(LCR, 0xE0)
    assert rig.inb(2) == first
    rig.outb(LCR, 0x00)
    rig.outb(MCR, mcr)

    # A 16750 would show its 64-byte FIFO in IIR bit 5 once DLAB allows it.
    rig.outb(FCR, 0x21)
    rig.outb(LCR, 0x80)
    rig.outb(FCR, 0x21)
    assert rig.inb(IIR) >> 5 == 6
    rig.outb(FCR, 0x01)
    rig.outb(LCR, 0x00)

    # An XScale port has a unit enable in IER bit 6.
    rig.outb(IER, 0x40)
    assert not rig.inb(IER) & 0x40

    # FIFO size: fill the receiver through loopback and count.
    rig.outb(FCR, 0x07)
    rig.outb(MCR, 0x10)
    rig.outb(LCR, 0x80)
    rig.outb(0, 0x01)
    rig.outb(1, 0x00)
    rig.outb(LCR, 0x03)
    for value in range(256):
        rig.outb(THR, value)
    count = 0
    while count < 256 and rig.inb(LSR) & 1:
        rig.inb(RBR)
        count += 1
    assert count == 16
    rig.outb(MCR, 0x00)
    assert rig.wire.sent == []

    # Startup: clear everything, then see whether THRE's interrupt is asserted, and asserted again when re-enabled.
    rig.outb(FCR, 0x01)
    rig.outb(FCR, 0x07)
    rig.outb(FCR, 0x00)
    for register in (LSR, RBR, IIR, MSR):
        rig.inb(register)
    assert rig.inb(LSR) != 0xFF
    rig.outb(LCR, 0x03)
    rig.outb(IER, 0x02)
    first_quiet = rig.inb(IIR) & 1
    rig.outb(IER, 0x00)
    rig.outb(IER, 0x02)
    again_quiet = rig.inb(IIR) & 1
    rig.outb(IER, 0x00)
    assert (first_quiet, again_quiet) == (0, 0)
    rig.outb(IER, 0x02)
    assert rig.inb(LSR) & 0x40
    assert not rig.inb(IIR) & 1  # no UART_BUG_TXEN
    rig.outb(IER, 0x00)


def test_xv6_uart(rig: Rig) -> None:
    """uart.c of xv6-public: no FIFO, 9600 baud, receive interrupt, MCR untouched."""
    rig.outb(FCR, 0x00)
    rig.outb(LCR, 0x80)
    rig.outb(0, 115200 // 9600)
    rig.outb(1, 0)
    rig.outb(LCR, 0x03)
    rig.outb(MCR, 0x00)
    rig.outb(IER, 0x01)
    assert rig.inb(LSR) != 0xFF
    rig.inb(IIR)
    rig.inb(RBR)
    for byte in b"xv6...\n":
        assert rig.inb(LSR) & 0x20
        rig.outb(THR, byte)
    assert rig.wire.text == b"xv6...\n"
    rig.wire.type(b"ls\n")
    line = bytearray()
    while rig.inb(LSR) & 0x01:
        line.append(rig.inb(RBR))
    assert line == b"ls\n"


def test_osdev_serial_loopback_check(rig: Rig) -> None:
    """The widespread init sequence that sends 0xAE round in loopback before it believes in the chip."""
    steps = [(1, 0x00), (3, 0x80), (0, 0x03), (1, 0x00), (3, 0x03), (2, 0xC7), (4, 0x0B), (4, 0x1E), (0, 0xAE)]
    for register, value in steps:
        rig.outb(register, value)
    assert rig.inb(0) == 0xAE
    rig.outb(MCR, 0x0F)
    rig.outb(THR, 0x21)
    assert rig.wire.text == b"!"


def test_interrupt_driven_output_as_a_ring_buffer_driver_does_it() -> None:
    """Each THRE interrupt refills the FIFO with up to 16 characters; the interrupt count is the number of refills."""
    rig = fifo_rig()
    todo = bytearray(range(100))
    rig.outb(IER, 0x02)
    refills = 0
    while rig.irq.level:
        assert rig.inb(IIR) == 0xC2
        for _ in range(min(16, len(todo))):
            rig.outb(THR, todo.pop(0))
        refills += 1
        if not todo:
            rig.outb(IER, 0x00)
    assert rig.wire.text == bytes(range(100))
    assert refills == 7


# -- State ------------------------------------------------------------------------------------------------------------

OPERATION = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 7)),
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
    st.tuples(st.just("block"), st.integers(0, 7), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("type"), st.binary(max_size=20)),
    st.tuples(st.just("break")),
    st.tuples(st.just("stop")),
    st.tuples(st.just("unblock")),
)


def perform(rig: Rig, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("read", register):
            return rig.inb(register)
        case ("write", register, value):
            rig.outb(register, value)
        case ("block", register, data):
            rig.outs(register, data)
        case ("type", data):
            rig.wire.type(data)
        case ("break",):
            rig.device.receive_break()
        case ("stop",):
            rig.wire.ready = False
        case ("unblock",):
            rig.wire.unblock()
    return None


@settings(max_examples=150)
@given(before=st.lists(OPERATION, max_size=40), after=st.lists(OPERATION, max_size=40))
def test_a_restored_uart_behaves_as_the_saved_one(before: list[Any], after: list[Any]) -> None:
    rig = Rig()
    for operation in before:
        perform(rig, operation)
    wire = Wire()
    wire.ready, wire.waiting = rig.wire.ready, rig.wire.waiting
    twin = Rig(wire)
    wire.waiting = rig.wire.waiting
    state = rig.save_into(twin)
    rig.wire.sent.clear()
    for operation in after:
        assert perform(twin, operation) == perform(rig, operation), operation
        assert twin.irq.level == rig.irq.level
    assert twin.wire.text == rig.wire.text
    assert len(state["rx"]) <= 16
    assert len(state["tx"]) <= 16


def test_output_held_when_saved_goes_out_through_a_ready_backend_when_restored() -> None:
    rig = fifo_rig()
    rig.wire.ready = False
    rig.outb(IER, 0x02)
    rig.outb(THR, 0x41)
    twin = Rig()
    twin.device.restore(rig.device.save())
    assert twin.wire.text == b"A"
    assert twin.irq.level
    assert twin.inb(IIR) == 0xC2


def test_input_that_waits_when_a_state_is_restored_is_pulled() -> None:
    rig = fifo_rig()
    rig.outb(IER, 0x01)
    wire = Wire()
    wire.waiting = b"abc"
    twin = Rig(wire)
    twin.device.restore(rig.device.save())
    assert twin.irq.level
    assert bytes(twin.inb(RBR) for _ in range(2)) == b"ab"


@pytest.mark.parametrize("how", ["LSR", "RBR", "IIR", "interrupt"])
def test_input_is_not_lost_when_the_guest_clears_the_fifos_before_it_looks(how: str) -> None:
    rig = Rig()
    assert rig.inb(LSR) == 0x60
    rig.wire.type(b"early")
    rig.outb(FCR, 0x07)
    rig.outb(MCR, 0x0B)
    assert rig.wire.waiting == b"early"
    if how == "interrupt":
        rig.outb(IER, 0x01)
        assert rig.irq.level
    elif how == "LSR":
        assert rig.inb(LSR) == 0x61
    elif how == "IIR":
        assert rig.inb(IIR) == 0xC1
    else:
        assert rig.inb(RBR) == ord("e")
    assert rig.wire.waiting == b""


@pytest.mark.parametrize(
    "change",
    [
        {"ier": 0x10},
        {"ier": -1},
        {"ier": True},
        {"lcr": "3"},
        {"msr": None},
        {"divisor": 0x10000},
        {"fcr": 0xC0},
        {"thre_pending": 1},
        {"rx": [0x100]},
        {"rx": [1, 2]},
        {"rx": b"a"},
        {"tx": b"ab"},
        {"tx": [1]},
        {"stalled": 0},
    ],
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    rig = Rig()
    rig.refuses({**rig.device.save(), "scr": 0x77, **change}, "COM1")


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(Rig().device.save())),
        st.one_of(st.none(), st.just("3"), st.integers(), st.binary(max_size=20), st.lists(st.integers(), max_size=20)),
    )
)
def test_a_hostile_state_raises_value_error_only(damage: dict[str, Any]) -> None:
    rig = Rig()
    if not rig.takes({**rig.device.save(), **damage}):
        return
    for register in range(8):
        rig.inb(register)
    rig.outb(THR, 0x41)
