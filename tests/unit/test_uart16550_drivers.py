"""The 16550A and the ways in which drivers in the wild look for one and use it."""

from __future__ import annotations

import pytest
from uart16550_rig import FCR, IER, IIR, LCR, LSR, MCR, MSR, RBR, THR, Rig, fifo_rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
