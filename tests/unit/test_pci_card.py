"""PCI cards against the PCI specification 3.0: what a driver finds, programs, is told by interrupts, and gets by DMA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pci_rig import BAR0, COMMAND, IO, LINE, MASTER, MEMORY, NO_INTX, RAM, STATUS, Board, Obstacle

from pykvm.boot import acpi_pci
from pykvm.devices.pci.card import PciDevice
from pykvm.devices.pci.config import Bar, Capability
from pykvm.devices.pci.dma import DmaError
from pykvm.devices.pci.registers import Register
from pykvm.devices.pci.slots import FIRST_INPUT, SLOTS, pirq_of
from pykvm.errors import ConfigError

SLOT = 2
"""The first that is free where there is no display."""


class Card(PciDevice):
    name = "card"
    device_id, class_code, revision = 0x5678, 0x058000, 3
    subsystem_vendor_id, subsystem_id = 0x1AF4, 0x1100
    msi, msix = 4, 3
    capabilities = (Capability(0x09, b"\x06vend", b"\0\xff"),)
    bars = (
        Bar(
            256,
            (
                Register("CONTROL", 0x00, mask=0x00FF_00FF, reset=0x1100_0000, bits="go - stop"),
                Register("IDENT", 0x04, access="ro", reset=0xCAFE),
                Register("EVENTS", 0x08, access="w1c", reset=0xF0),
                Register("COMMAND", 0x0C, width=2, access="wo"),
                Register("COUNT", 0x0E, width=1, access="rc", reset=9),
                Register("ADDRESS", 0x10, width=8),
            ),
        ),
        Bar(32, (Register("PORT", 0x10),), kind="io"),
        Bar(1 << 20, wide=True, prefetchable=True),
    )

    def __init__(self) -> None:
        self.commands: list[int] = []
        super().__init__()

    def on_write_command(self, value: int) -> None:
        self.commands.append(value)

    def on_write_port(self, value: int) -> None:
        self.dma.write(value, b"by the card")


@pytest.fixture
def make() -> Iterator[Callable[..., Board]]:
    made: list[Board] = []

    def board(*cards: PciDevice, **options: Any) -> Board:
        made.append(Board(*cards, **options))
        return made[-1]

    yield board
    for each in made:
        each.close()


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def board(make: Callable[..., Board], card: Card) -> Board:
    return make(card)


# -- Identity, sizing, decoding ---------------------------------------------------------------------------------------


def test_identity(board: Board) -> None:
    assert board.config(SLOT, 0x00) == 0x5678_1234
    assert board.config(SLOT, 0x08) == 0x0580_0003
    assert board.config(SLOT, 0x2C) == 0x1100_1AF4
    assert board.config(SLOT, 0x0E, 1) == 0, "header type 0, one function"
    assert board.config(SLOT, 0x3D, 1) == 1, "INTA"
    board.configure(SLOT, 0x00, 0)
    board.configure(SLOT, 0x2C, 0)
    assert (board.config(SLOT, 0x00), board.config(SLOT, 0x2C)) == (0x5678_1234, 0x1100_1AF4)


def test_sizing_by_writing_ones(board: Board) -> None:
    board.configure(SLOT, COMMAND, 0, 2)
    sizes = []
    for number in range(6):
        before = board.config(SLOT, BAR0 + 4 * number)
        board.configure(SLOT, BAR0 + 4 * number, 0xFFFF_FFFF)
        sizes.append(board.config(SLOT, BAR0 + 4 * number))
        board.configure(SLOT, BAR0 + 4 * number, before)
    # 256 bytes of memory; 32 ports; 1 MiB anywhere in 64 bits, prefetchable; and the page with the MSI-X table.
    assert sizes == [0xFFFF_FF00, 0xFFFF_FFE1, 0xFFF0_000C, 0xFFFF_FFFF, 0xFFFF_F000, 0]


def test_it_has_addresses_as_firmware_leaves_them(board: Board) -> None:
    assert board.config(SLOT, COMMAND, 2) == IO | MEMORY, "a driver turns bus mastering on itself"
    assert board.read(board.bar(SLOT, 0) + 4) == 0xCAFE
    assert board.config(SLOT, LINE, 1) == 10, "slot 2's INTA is PIRQB"
    assert board.config(1, 0x61, 1) == 10
    assert board.carrier.levels == {10, 11}


def test_with_a_firmware_it_has_none_until_that_gives_it_some(make: Callable[..., Board], card: Card) -> None:
    board = make(card, firmware=True)
    assert [board.config(SLOT, BAR0), board.config(SLOT, COMMAND, 2), board.config(SLOT, LINE, 1)] == [0, 0, 0]
    assert (card.mmio, board.carrier.levels, board.config(1, 0x60)) == ([], set(), 0x8080_8080)
    board.configure(SLOT, BAR0, 0xD000_0000)
    assert board.read(0xD000_0004) == 0xFFFF_FFFF, "not decoded yet"
    board.configure(SLOT, COMMAND, MEMORY, 2)
    assert board.read(0xD000_0004) == 0xCAFE


def test_the_command_register_decides_what_is_decoded(board: Board) -> None:
    memory, port = board.bar(SLOT, 0), board.config(SLOT, BAR0 + 4) & ~3
    board.configure(SLOT, COMMAND, IO, 2)
    assert board.read(memory + 4) == 0xFFFF_FFFF
    assert board.carrier.ports.read(port + 0x10, 4) == 0
    board.configure(SLOT, COMMAND, MEMORY, 2)
    assert board.read(memory + 4) == 0xCAFE
    assert board.carrier.ports.read(port + 0x10, 4) == 0xFFFF_FFFF


def test_a_bar_moves_while_it_is_decoded(board: Board, card: Card) -> None:
    old = board.bar(SLOT, 0)
    board.configure(SLOT, BAR0, 0xF012_3400)
    assert board.read(0xF012_3404) == 0xCAFE
    assert board.read(old + 4) == 0xFFFF_FFFF
    assert card.mmio[0].base == 0xF012_3400
    board.configure(SLOT, BAR0 + 8, 0x4000_0000)
    board.configure(SLOT, BAR0 + 12, 0x80)
    assert card.mmio[1].base == 0x80_4000_0000


@pytest.mark.parametrize("base", [0, 0xFFFF_FF00, 0x8_0000], ids=["zero", "the sizing value", "RAM"])
def test_where_a_bar_cannot_be_it_is_not_decoded(board: Board, card: Card, base: int) -> None:
    board.configure(SLOT, BAR0, base)
    assert len(card.mmio) == 2
    assert board.config(SLOT, BAR0) == base


def test_of_bars_that_overlap_the_lower_slot_answers_whoever_came_first(make: Callable[..., Board]) -> None:
    low, high = Card(), Card()
    board = make(low, high)
    low.registers["IDENT"], high.registers["IDENT"] = 1, 2
    board.configure(SLOT + 1, BAR0, 0xF000_0000)
    assert board.read(0xF000_0004) == 2
    board.configure(SLOT, BAR0, 0xF000_0000)
    assert board.read(0xF000_0004) == 1
    board.configure(SLOT, BAR0, 0xF100_0000)
    assert [board.read(0xF000_0004), board.read(0xF100_0004)] == [2, 1]


def test_a_device_that_is_no_card_is_not_covered(board: Board) -> None:
    obstacle = Obstacle(0xF000_0080, 16)
    board.carrier.mmio.attach(obstacle)
    board.configure(SLOT, BAR0, 0xF000_0000)
    assert board.read(0xF000_0004) == 0xFFFF_FFFF
    assert board.carrier.mmio.devices == [obstacle]


def test_a_reset_of_the_machine_brings_firmwares_addresses_back_and_a_hot_reset_none(board: Board, card: Card) -> None:
    before = card.save()
    board.configure(SLOT, BAR0, 0xF000_0000)
    board.write(0xF000_0000, 0xFF)
    board.host.reset()
    card.reset()
    assert card.save() == before
    card.hot_reset()
    assert (board.config(SLOT, BAR0), board.config(SLOT, COMMAND, 2), card.mmio) == (0, 0, [])


def test_slots(make: Callable[..., Board]) -> None:
    first, fixed = Card(), Card()
    fixed.slot = 9
    board = make(fixed, first, *(Card() for _ in range(27)))
    assert (fixed.slot, first.slot, first.place) == (9, 2, "00:02.0")
    other = Card()
    other.slot = 9
    with pytest.raises(ConfigError, match="taken or not there"):
        board.host.plug(other)
    board.host.plug(Card())
    with pytest.raises(ConfigError, match="slots are taken"):
        board.host.plug(Card())
    board.host.unplug(fixed)
    assert board.config(9, 0) == 0xFFFF_FFFF
    board.host.plug(fixed)
    assert fixed.slot == 9
    bases = sorted(span for card in board.host.cards for span in card.mmio)
    assert all(one.end <= other.base for one, other in pairwise(bases))


# -- Registers --------------------------------------------------------------------------------------------------------


def test_the_kinds_of_registers(board: Board, card: Card) -> None:
    base = board.bar(SLOT, 0)
    board.write(base, 0xFFFF_FFFF)
    assert board.read(base) == 0x11FF_00FF
    board.write(base + 1, 0, 1)
    board.write(base + 2, 0x12, 1)
    assert board.read(base) == 0x1112_00FF
    board.write(base + 4, 0)
    assert board.read(base + 4) == 0xCAFE
    board.write(base + 8, 0x30)
    assert board.read(base + 8) == 0xC0
    board.write(base + 12, 0x1234, 2)
    assert (board.read(base + 12, 2), card.commands) == (0, [0x1234])
    assert [board.read(base + 14, 1), board.read(base + 14, 1)] == [9, 0]
    board.write(base + 16, 0x1122_3344_5566_7788, 8)
    assert (board.read(base + 20), board.read(base + 17, 2)) == (0x1122_3344, 0x6677)
    assert board.read(base + 0x80) == 0, "no register"
    # One access of eight bytes to two registers.
    assert board.read(base, 8) == 0xCAFE_1112_00FF


def test_traces_call_registers_by_name(board: Board, card: Card) -> None:
    claim = board.carrier.mmio.find(board.bar(SLOT, 0))
    assert claim is not None
    names = [claim.device.register_name(at, 4, None) for at in (0, 2, 16, 0x80)]
    assert (claim.device.name, names) == ("card", ["CONTROL", "CONTROL +2", "ADDRESS", "BAR0 +0x80"])
    assert claim.device.explain("CONTROL", 7, False) == "go bit1 stop"
    board.config(SLOT, 0x3C)
    assert board.host.register_name(4, 4, None) == "CONFIG_DATA 00:02.0 0x3c card"


def bad(**attributes: Any) -> type[PciDevice]:
    return type("Bad", (PciDevice,), attributes)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"bars": [Bar(100)]}, "power of 2"),
        ({"bars": [Bar(512, kind="io")]}, "from 4 to 256"),
        ({"bars": [Bar(16, kind="ports")]}, "memory"),
        ({"bars": [Bar(16)] * 7}, "7 BARs are too many"),
        ({"bars": [Bar(16, wide=True)] * 3, "msix": 1}, "4 BARs are too many"),
        ({"bars": [Bar(16, [Register("A", 2)])]}, "A: a width of 4 at offset 0x2"),
        ({"bars": [Bar(16, [Register("A", 16)])]}, "offset 0x10"),
        ({"bars": [Bar(16, [Register("A", 0), Register("B", 2, width=2)])]}, "A and B are both"),
        ({"bars": [Bar(16, [Register("A", 0)]), Bar(16, [Register("A", 0)])]}, "same name"),
        ({"bars": [Bar(16, [Register("A", 0, access="r")])]}, "access 'r'"),
        ({"bars": [Bar(16, [Register("A", 0, width=1, reset=256)])]}, "reset value"),
        ({"on_write_b": lambda self, value: None}, "on_write_b is there, but no such register"),
        ({"msi": 3}, "3 MSI vectors"),
        ({"msix": 4000}, "4000 MSI-X vectors"),
        ({"interrupt_pin": 5}, "pin 5"),
        ({"vendor_id": 0x10000}, "0x10000 does not fit"),
        ({"capabilities": [Capability(9, bytes(100))] * 3}, "longer than the configuration space"),
    ],
)
def test_a_card_that_cannot_be_is_refused(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bad(**attributes)()


# -- Interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slot", "pin"), [(2, 1), (3, 1), (4, 2), (5, 4), (31, 3)])
def test_a_pin_reaches_its_pirqs_irq_and_input(make: Callable[..., Board], slot: int, pin: int) -> None:
    card = bad(interrupt_pin=pin)()
    card.slot = slot
    board = make(card)
    pirq = (slot - 1 + pin - 1) % 4
    card.raise_interrupt()
    assert board.raised == {16 + pirq, (11, 10)[pirq % 2]}
    assert board.config(slot, STATUS, 2) & 1 << 3
    board.configure(1, 0x60 + pirq, 5, 1)
    assert board.raised == {16 + pirq, 5}
    board.configure(1, 0x60 + pirq, 0x80, 1)
    assert board.raised == {16 + pirq}
    board.configure(slot, COMMAND, NO_INTX, 2)
    assert board.raised == set()
    assert board.config(slot, STATUS, 2) & 1 << 3, "it still wants one"
    board.configure(slot, COMMAND, 0, 2)
    card.lower_interrupt()
    assert board.raised == set()
    assert not board.config(slot, STATUS, 2) & 1 << 3


def test_acpi_and_mp_tables_say_of_every_slot_what_is_wired() -> None:
    assert acpi_pci.PIRQ_INPUT == FIRST_INPUT
    for slot in SLOTS:
        for pin in range(1, 5):
            assert acpi_pci.pirq(slot, pin - 1) == pirq_of(slot, pin)


def test_cards_that_share_an_input_are_ored(make: Callable[..., Board]) -> None:
    one, other = bad()(), bad()()
    one.slot, other.slot = 3, 7
    board = make(one, other)
    one.raise_interrupt()
    other.raise_interrupt()
    one.lower_interrupt()
    assert board.raised == {18, 11}
    other.lower_interrupt()
    assert board.raised == set()


def test_msi(board: Board, card: Card) -> None:
    at = board.capability(SLOT, 0x05)
    assert board.config(SLOT, at + 2, 2) == 0x184, "4 vectors, 64-bit addresses, masks"
    board.configure(SLOT, COMMAND, MASTER, 2)
    board.configure(SLOT, at + 4, 0xFEE0_1000)
    board.configure(SLOT, at + 12, 0x4044, 2)
    card.raise_interrupt()
    assert board.raised == {17, 10}
    board.configure(SLOT, at + 2, 0x21, 2)
    assert board.raised == set(), "messages take the pin's place"
    for vector in range(4):
        card.raise_interrupt(vector)
    assert board.carrier.messages == [(0xFEE0_1000, 0x4044 + vector) for vector in range(4)]
    board.configure(SLOT, at + 2, 0x01, 2)
    card.raise_interrupt(2)
    assert board.carrier.messages[-1] == (0xFEE0_1000, 0x4044), "one vector was granted"
    board.configure(SLOT, at + 16, 0xFFFF_FFFF)
    card.raise_interrupt()
    assert (board.config(SLOT, at + 16), board.config(SLOT, at + 20), len(board.carrier.messages)) == (0xF, 1, 5)
    board.configure(SLOT, at + 16, 0)
    assert (board.config(SLOT, at + 20), len(board.carrier.messages)) == (0, 6)


def test_msix(board: Board, card: Card) -> None:
    at = board.capability(SLOT, 0x11)
    assert board.config(SLOT, at + 2, 2) == 2, "3 vectors"
    assert [board.config(SLOT, at + 4), board.config(SLOT, at + 8)] == [4, 0x804], "in BAR 4"
    table = board.bar(SLOT, 4)
    assert [board.read(table + 16 * vector + 12) for vector in range(4)] == [1, 1, 1, 0]
    board.configure(SLOT, COMMAND, MEMORY | MASTER, 2)
    board.configure(SLOT, at + 2, 1 << 15 | 1 << 14, 2)
    board.write(table + 16, 0xFEE0_2000)
    board.write(table + 24, 0x55)
    board.write(table + 28, 0)
    card.raise_interrupt(1)
    card.raise_interrupt(2)
    card.raise_interrupt(3)
    assert (board.carrier.messages, board.read(table + 0x800, 8)) == ([], 0b110)
    board.configure(SLOT, at + 2, 1 << 15, 2)
    assert (board.carrier.messages, board.read(table + 0x800, 8)) == ([(0xFEE0_2000, 0x55)], 0b100)
    board.write(table + 0x800, 0xFF)
    board.write(table + 32, RAM - 4)
    board.write(table + 40, 0x1234_5678)
    board.write(table + 44, 0)
    assert board.carrier.memory.read_int(RAM - 4, 4) == 0x1234_5678, "an address that is not a local APIC's is RAM's"
    assert len(board.carrier.messages) == 1
    assert board.raised == set()


def test_a_message_is_a_write_of_a_bus_master(board: Board, card: Card) -> None:
    at = board.capability(SLOT, 0x05)
    board.configure(SLOT, at + 4, 0xFEE0_0000)
    board.configure(SLOT, at + 2, 1, 2)
    card.raise_interrupt()
    assert board.carrier.messages == []


# -- Bus mastering ----------------------------------------------------------------------------------------------------


def test_dma_needs_bus_mastering_and_ram(board: Board, card: Card) -> None:
    with pytest.raises(DmaError, match="bus mastering is off"):
        card.dma.read(0, 4)
    assert board.config(SLOT, STATUS, 2) & 0xF900 == 0
    board.configure(SLOT, COMMAND, MASTER, 2)
    card.dma.write(0x1000, b"data")
    assert card.dma.read(0x1000, 4) == board.carrier.memory.read(0x1000, 4) == b"data"
    for address, size in ((RAM - 1, 2), (1 << 63, 1), (0, RAM + 1)):
        with pytest.raises(DmaError, match="is not in RAM"):
            card.dma.read(address, size)
    assert board.config(SLOT, STATUS, 2) & 0xF900 == 1 << 13, "received master abort"
    board.configure(SLOT, STATUS, 1 << 13, 2)
    assert board.config(SLOT, STATUS, 2) & 0xF900 == 0
    card.fail_dma()
    with pytest.raises(DmaError, match="made to fail"):
        card.dma.write(0x1000, b"lost")
    assert board.config(SLOT, STATUS, 2) & 0xF900 == 1 << 12, "received target abort"
    card.dma.write(0x1000, b"more")


def test_a_guest_that_names_a_bad_address_ends_its_own_access(board: Board, card: Card) -> None:
    port = board.config(SLOT, BAR0 + 4) & ~3
    board.configure(SLOT, COMMAND, IO | MASTER, 2)
    board.carrier.ports.write(port + 16, 4, RAM)
    assert board.config(SLOT, STATUS, 2) & 1 << 13
    board.carrier.ports.write(port + 16, 4, 0x100)
    assert board.carrier.memory.read(0x100, 11) == b"by the card"


def test_an_interrupt_that_is_lost(board: Board, card: Card) -> None:
    card.lose_interrupts(2)
    card.raise_interrupt()
    card.raise_interrupt()
    assert board.raised == set()
    card.raise_interrupt()
    assert board.raised == {17, 10}


# -- State ------------------------------------------------------------------------------------------------------------


WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("config"), st.integers(0, 63).map(lambda at: 4 * at), st.integers(0, 0xFFFF_FFFF)),
        st.tuples(st.just("memory"), st.integers(0, 255), st.integers(0, 0xFFFF_FFFF)),
        st.tuples(st.just("raise"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("lower"), st.just(0), st.just(0)),
    ),
    max_size=20,
)


def perform(board: Board, card: Card, writes: Sequence[tuple[str, int, int]]) -> None:
    for kind, at, value in writes:
        if kind == "config":
            board.configure(SLOT, at, value)
        elif kind == "memory":
            for span in card.mmio:
                board.write(span.base + at, value)
        elif kind == "raise":
            card.raise_interrupt(at)
        else:
            card.lower_interrupt()


@settings(max_examples=60, deadline=None)
@given(WRITES, WRITES)
def test_a_restored_card_is_as_the_saved_one(before: Any, after: Any) -> None:
    one, two = Card(), Card()
    boards = Board(one), Board(two)
    perform(boards[0], one, before)
    state = one.save()
    perform(boards[1], two, after)
    two.restore(state)
    assert two.save() == state
    assert (two.mmio, two.ports, boards[1].raised) == (one.mmio, one.ports, boards[0].raised)
    boards[0].carrier.messages.clear()
    boards[1].carrier.messages.clear()
    perform(boards[0], one, after)
    perform(boards[1], two, after)
    assert one.save() == two.save()
    assert boards[0].carrier.messages == boards[1].carrier.messages
    for board in boards:
        board.close()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["config", "registers", "interrupt", "lose", "fail", "msix"]),
    st.one_of(
        st.none(),
        st.integers(),
        st.binary(max_size=300),
        st.dictionaries(st.sampled_from(["table", "pending", "CONTROL"]), st.one_of(st.integers(), st.binary())),
    ),
)
def test_a_hostile_state_raises_value_error_only(name: str, value: Any) -> None:
    card = Card()
    before = card.save()
    try:
        card.restore({**before, name: value})
    except ValueError:
        assert card.save() == before


def test_another_cards_state_is_refused(card: Card) -> None:
    state = card.save()
    for change in ({"registers": {**state["registers"], "IDENT": 1 << 32}}, {"interrupt": True}):
        with pytest.raises(ValueError, match="card: "):
            card.restore({**state, **change})
    with pytest.raises(ValueError, match="cannot have 0xff at 0x0"):
        card.restore({**state, "config": b"\xff" + state["config"][1:]})
