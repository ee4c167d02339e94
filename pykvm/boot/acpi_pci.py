"""What ACPI says of PCI: which addresses its bridge passes on, and which interrupt each pin of each slot is.

Source: ACPI specification 6.5, 6.2.13 (_PRT), 6.2.12 (_PRS), 5.8.1 (_PIC). With the IOAPIC a pin is wired to one of its
inputs 16 to 19; with the 8259s it is a link's, LNKA to LNKD, which are the ISA bridge's PIRQRC registers (82371SB data
sheet). `devices.pci.slots` wires them so.
"""

from __future__ import annotations

from .aml import (
    ARG0,
    BUS_WINDOW,
    IO_WINDOW,
    MEMORY_WINDOW,
    bit_and,
    bytes_of_config,
    create_dword_field,
    crs,
    device,
    hid,
    if_,
    integer,
    interrupt,
    io,
    method,
    name,
    not_,
    package,
    return_,
    sized,
    store,
    window,
)

PIRQ_INPUT = 16
"""The IOAPIC's input that PIRQA is wired to; the others follow."""
SLOTS, PINS = 32, 4
_LINKS = (b"LNKA", b"LNKB", b"LNKC", b"LNKD")
_ROUTES = (b"PRQA", b"PRQB", b"PRQC", b"PRQD")
_POSSIBLE = (5, 10, 11)
_DISABLED = 0x80

RESOURCES = (
    window(BUS_WINDOW, 0, 0),
    io(0xCF8, 8),
    window(IO_WINDOW, 0, 0xCF7),
    window(IO_WINDOW, 0xD00, 0xFFFF),
    window(MEMORY_WINDOW, 0xA0000, 0xBFFFF),
    window(MEMORY_WINDOW, 0xC000_0000, 0xFEBF_FFFF),  # above RAM, below the IOAPIC
)


def pirq(slot: int, pin: int) -> int:
    """0 to 3 for the PIRQ that INTA to INTD (0 to 3) of a slot is: the pins are rotated from slot to slot."""
    return (slot - 1 + pin) & 3


def pirq_registers() -> bytes:
    """PIRQRC A to D, for the scope of the ISA bridge."""
    return bytes_of_config(b"PIRQ", 0x60, _ROUTES)


def interrupt_model() -> bytes:
    """What the system says at the start: with IOAPIC or without. For the outermost scope."""
    return name(b"PICM", integer(0)) + method(b"_PIC", 1, store(ARG0, b"PICM"))


def routing() -> bytes:
    """The links and _PRT, for the scope of the bridge."""
    apic = [
        [package([_address(slot), pin, 0, PIRQ_INPUT + pirq(slot, pin)]) for pin in range(PINS)] for slot in range(4)
    ]
    pic = [[package([_address(slot), pin, _LINKS[pirq(slot, pin)], 0]) for pin in range(PINS)] for slot in range(4)]
    links = b"".join(_link(number) for number in range(PINS))
    return (
        links
        + name(b"PRTA", _all_slots(apic))
        + name(b"PRTP", _all_slots(pic))
        + method(b"_PRT", 0, if_(b"PICM", return_(b"PRTA")), return_(b"PRTP"))
    )


def _address(slot: int) -> bytes:
    """Of all functions of a device."""
    return integer(slot << 16 | 0xFFFF)


def _all_slots(first: list[list[bytes]]) -> bytes:
    """A package of the entries of all slots. Those of the first four come again but for the address."""
    slots = [b"".join(first[slot % 4]).replace(_address(slot % 4), _address(slot)) for slot in range(SLOTS)]
    return b"\x12" + sized(bytes([SLOTS * PINS]) + b"".join(slots))


def _link(number: int) -> bytes:
    route = b"\x5c\x2f\x04_SB_PCI0ISA_" + _ROUTES[number]
    is_off = bit_and(route, integer(_DISABLED))
    return device(
        _LINKS[number],
        hid("PNP0C0F"),
        name(b"_UID", integer(number + 1)),
        crs(interrupt(*_POSSIBLE), called=b"_PRS"),
        crs(interrupt(0), called=b"BUF_"),
        create_dword_field(b"BUF_", 5, b"IRQN"),
        method(b"_STA", 0, if_(is_off, return_(integer(0x9))), return_(integer(0xB))),
        method(b"_DIS", 0, store(integer(_DISABLED), route)),
        method(
            b"_CRS",
            0,
            store(integer(0), b"IRQN"),
            if_(not_(is_off), store(bit_and(route, integer(0xF)), b"IRQN")),
            return_(b"BUF_"),
        ),
        method(b"_SRS", 1, create_dword_field(ARG0, 5, b"NEWN"), store(b"NEWN", route)),
    )
