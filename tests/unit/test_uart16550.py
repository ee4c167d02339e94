"""The 16550A against the PC16550D data sheet: registers, FIFOs, backends that stop."""

from __future__ import annotations

import pytest
from uart16550_rig import COM1, FCR, IER, IIR, LCR, LSR, MCR, MSR, RBR, SCR, THR, Rig, Wire, fifo_rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- Reset, plain output, plain input ---------------------------------------------------------------------------------


def test_registers_after_master_reset(rig: Rig) -> None:
    assert [rig.inb(r) for r in (IER, IIR, LCR, MCR, LSR)] == [0x00, 0x01, 0x00, 0x00, 0x60]
    assert rig.inb(MSR) == 0xB0  # CTS, DSR and DCD from the peer, no deltas
    assert not rig.irq.level


def test_answers_eight_byte_wide_ports() -> None:
    bus = Rig().bus
    assert [bus.find(port) is not None for port in (0x3F7, 0x3F8, 0x3FF, 0x400)] == [False, True, True, False]
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


# -- A backend that is not ready --------------------------------------------------------------------------------------


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
