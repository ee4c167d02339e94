"""The 16550A against the PC16550D data sheet: interrupts, line status, modem control."""

from __future__ import annotations

import pytest
from uart16550_rig import IER, IIR, LSR, MCR, MSR, RBR, THR, Rig, fifo_rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


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


# -- Modem control and loopback ---------------------------------------------------------------------------------------


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
