"""virtio over PCI against virtio 1.2: what a driver finds and negotiates, and what a queue does with its chains."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from virtio_rig import DATA, NO_VECTOR, ONLY_VERSION_1, SLOT, Driver

from pykvm.devices.virtio.block import VirtioBlock
from pykvm.devices.virtio.queue import INDIRECT, NEXT, WRITE
from pykvm.devices.virtio.rng import VirtioRng
from pykvm.devices.virtio.transport import EVENT_IDX, FEATURES_OK, INDIRECT_DESC, NEEDS_RESET, VERSION_1, VirtioDevice
from pykvm.disk.memory import MemoryDisk

RAM_END = 1 << 20
SECTORS = 64


@pytest.fixture
def make() -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def driver(card: VirtioDevice | None = None, **options: Any) -> Driver:
        made.append(Driver(card or VirtioRng(), **options))
        return made[-1]

    yield driver
    for each in made:
        each.close()


def block(disk: MemoryDisk | None = None, **options: Any) -> VirtioBlock:
    return VirtioBlock("disk", disk or MemoryDisk(bytes(SECTORS * 512)), **options)


# -- Transport --------------------------------------------------------------------------------------------------------


def test_what_a_driver_finds(make: Callable[..., Driver]) -> None:
    driver = make()
    assert driver.board.config(SLOT, 0) == 0x1044_1AF4, "0x1040 and the device ID of an entropy source"
    assert driver.board.config(SLOT, 8, 1) == 1
    assert set(driver.structures) == {1, 2, 3, 4, 5}
    assert driver.offered() == VERSION_1 | EVENT_IDX | INDIRECT_DESC
    assert driver.status == 15


def test_features_that_were_not_offered_are_refused(make: Callable[..., Driver]) -> None:
    driver = make()
    driver.negotiate(VERSION_1 | 1 << 3)
    assert not driver.status & FEATURES_OK
    driver.negotiate(EVENT_IDX)
    assert not driver.status & FEATURES_OK, "a driver of the past"
    driver.negotiate(VERSION_1)
    assert driver.status & FEATURES_OK


def test_a_queue_is_set_up_once(make: Callable[..., Driver]) -> None:
    driver = make(block(queues=2))
    driver.set(0x16, 2, 1)
    assert (driver.get(0x18, 2), driver.get(0x1E, 2), driver.get(0x1C, 2)) == (8, 1, 1)
    driver.set(0x18, 2, 4)
    driver.set(0x20, 8, 0x1234_5670)
    assert (driver.get(0x18, 2), driver.get(0x20, 4)) == (8, driver.table(1))
    driver.set(0x1A, 2, 50)
    assert driver.get(0x1A, 2) == NO_VECTOR, "there is no such vector"
    driver.set(0x16, 2, 2)
    assert (driver.get(0x18, 2), driver.get(0x1C, 2)) == (0, 0), "there is no such queue"
    driver.set(0x14, 1, 0)
    driver.set(0x16, 2, 1)
    assert (driver.get(0x18, 2), driver.get(0x1C, 2), driver.status) == (256, 0, 0)


def test_the_structures_are_reached_through_configuration_space(make: Callable[..., Driver]) -> None:
    driver = make()
    board, at = driver.board, driver.access
    board.configure(SLOT, at + 8, 0x14)
    board.configure(SLOT, at + 12, 1)
    assert board.config(SLOT, at + 16) & 0xFF == 15
    board.configure(SLOT, at + 16, 0, 1)
    assert driver.status == 0
    board.configure(SLOT, at + 8, 0xFFFF_FFF0)
    board.config(SLOT, at + 16)


def test_without_msix_the_pin_and_isr_say_it(make: Callable[..., Driver]) -> None:
    driver = make(msix=False)
    driver.offer([(DATA, 16, True)])
    driver.notify()
    assert driver.board.raised == {17, 10}
    assert [driver.board.read(driver.isr, 1), driver.board.read(driver.isr, 1)] == [1, 0]
    assert driver.board.raised == set()


# -- Queues -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_comes_back(make: Callable[..., Driver], indirect: bool) -> None:
    driver = make()
    driver.offer([(DATA, 16, True), (DATA + 0x1000, 5, True)], first=3, indirect=indirect)
    driver.notify()
    assert driver.given() == [(3, 21)]
    assert any(driver.memory.read(DATA, 16))
    assert any(driver.memory.read(DATA + 0x1000, 5))
    assert not any(driver.memory.read(DATA + 16, 16))
    assert driver.messages() == [1]


def test_much_that_is_offered_is_served_in_goes(make: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pykvm.devices.virtio.transport.BUDGET", 3 * 4096)
    later: list[Callable[[], object]] = []

    def aside(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        later.append(lambda: done(work()))

    driver = make(size=8)
    driver.board.carrier.aside = aside
    for number in range(8):
        driver.offer([(DATA + 16 * number, 16, True)], first=number)
    driver.notify()
    assert [head for head, _ in driver.given()] == [0, 1, 2]
    state = driver.card.save()
    assert (state["late"], len(later)) == ([0], 1)
    later.pop()()
    assert [head for head, _ in driver.given()] == [3, 4, 5]
    driver.card.reset()
    later.pop()()
    assert driver.given() == []
    driver.card.restore(state)
    assert len(later) == 1, "what a snapshot has met goes on after it"
    for bad in ([1], ["0"], None):
        with pytest.raises(ValueError, match="'late'"):
            driver.card.restore({**state, "late": bad})


def test_indices_go_round(make: Callable[..., Driver]) -> None:
    driver = make(size=2)
    queue = driver.card.queues[0]
    queue.taken = queue.given = driver.offers[0] = driver.seen[0] = 0xFFFB
    driver.memory.write_int(driver.avail() + 2, 2, 0xFFFB)
    driver.memory.write_int(driver.used() + 2, 2, 0xFFFB)
    for number in range(9):
        driver.offer([(DATA, number + 1, True)], first=number % 2)
        driver.notify()
        assert driver.given() == [(number % 2, number + 1)]
    assert (queue.taken, queue.given) == (4, 4)


def test_nothing_happens_before_driver_ok_or_without_bus_mastering(make: Callable[..., Driver]) -> None:
    driver = make()
    driver.set(0x14, 1, 3 | FEATURES_OK)
    driver.offer([(DATA, 16, True)])
    driver.notify()
    assert driver.given() == []
    driver.set(0x14, 1, 15)
    driver.board.configure(SLOT, 4, 2, 2)
    driver.notify()
    assert driver.given() == []
    driver.board.configure(SLOT, 4, 6, 2)
    driver.notify()
    assert driver.given() == [(0, 16)]


def test_event_indices_say_when_to_interrupt_and_to_notify(make: Callable[..., Driver]) -> None:
    driver = make()
    used_event, avail_event = driver.avail() + 4 + 2 * 8, driver.used() + 4 + 8 * 8
    driver.memory.write_int(used_event, 2, 2)
    for number in range(3):
        driver.offer([(DATA, 1, True)], first=number)
        driver.notify()
        assert driver.messages() == ([1] if number == 2 else [])
        assert driver.memory.read_int(avail_event, 2) == number + 1


def test_without_event_indices_a_flag_says_it(make: Callable[..., Driver]) -> None:
    driver = make(features=ONLY_VERSION_1)
    driver.memory.write_int(driver.avail(), 2, 1)
    driver.offer([(DATA, 1, True)])
    driver.notify()
    driver.memory.write_int(driver.avail(), 2, 0)
    assert driver.messages() == []
    driver.offer([(DATA, 1, True)])
    driver.notify()
    assert driver.messages() == [1]


def loop(driver: Driver) -> None:
    driver.describe(0, DATA, 1, WRITE | NEXT, 1)
    driver.describe(1, DATA, 1, WRITE | NEXT, 0)
    driver.available(0)


def indirect_loop(driver: Driver) -> None:
    where = driver.table() + 0x1000
    driver.memory.write(where, struct.pack("<QIHH", DATA, 1, WRITE | NEXT, 0))
    driver.describe(0, where, 16, INDIRECT)
    driver.available(0)


def nested(driver: Driver) -> None:
    where = driver.table() + 0x1000
    driver.memory.write(where, struct.pack("<QIHH", where, 16, INDIRECT, 0))
    driver.describe(0, where, 16, INDIRECT)
    driver.available(0)


def descriptor(*fields: int) -> Callable[[Driver], None]:
    def put(driver: Driver) -> None:
        driver.describe(0, *fields)
        driver.available(0)

    return put


def wrong_order(driver: Driver) -> None:
    driver.offer([(DATA, 1, True), (DATA, 1, False)])


def runs_ahead(driver: Driver) -> None:
    driver.memory.write_int(driver.avail() + 2, 2, 9)


@pytest.mark.parametrize(
    "spoil",
    [
        loop,
        indirect_loop,
        nested,
        wrong_order,
        runs_ahead,
        descriptor(DATA, 1, WRITE | NEXT, 8),
        descriptor(RAM_END - 1, 2, WRITE),
        descriptor(1 << 63, 1 << 31, WRITE),
        descriptor(DATA, 15, INDIRECT),
        descriptor(DATA, 0, INDIRECT),
        descriptor(DATA, 16, INDIRECT | NEXT, 1),
        descriptor(RAM_END - 8, 16, INDIRECT),
        lambda driver: driver.available(8),
    ],
)
def test_what_cannot_be_stops_the_device_until_it_is_reset(
    make: Callable[..., Driver], spoil: Callable[[Driver], None]
) -> None:
    driver = make()
    spoil(driver)
    driver.notify()
    assert driver.status & NEEDS_RESET
    assert driver.messages() == [0], "the configuration's vector"
    driver.notify()
    assert driver.given() == []
    driver.negotiate()
    driver.offer([(DATA, 16, True)])
    driver.notify()
    assert driver.given() == [(0, 16)]


def test_rings_outside_ram_stop_it(make: Callable[..., Driver]) -> None:
    driver = make()
    driver.set(0x14, 1, 0)
    driver.set(0x14, 1, 3)
    driver.set(0x08, 4, 1)
    driver.set(0x0C, 4, 1)
    driver.set(0x14, 1, 3 | FEATURES_OK)
    driver.set(0x20, 8, RAM_END - 16)
    driver.set(0x1C, 2, 1)
    driver.set(0x14, 1, 15)
    driver.notify()
    assert driver.status & NEEDS_RESET


# -- Block device -----------------------------------------------------------------------------------------------------

OUT_HEADER, STATUS = DATA, DATA + 0x100
PAYLOAD = DATA + 0x1000


def request(
    driver: Driver, kind: int, sector: int, payload: tuple[int, bool] | None = None, *, queue: int = 0
) -> tuple[int, int]:
    """(status, bytes written) of a request with `payload` bytes that the device reads or, with True, writes."""
    driver.memory.write(OUT_HEADER, struct.pack("<IIQ", kind, 0, sector))
    driver.memory.write(STATUS, b"\xff")
    middle = [] if payload is None else [(PAYLOAD, *payload)]
    driver.offer([(OUT_HEADER, 16, False), *middle, (STATUS, 1, True)], queue=queue)
    driver.notify(queue)
    given = driver.given(queue)
    return driver.memory.read_int(STATUS, 1), given[0][1] if given else -1


def test_reading_and_writing(make: Callable[..., Driver]) -> None:
    disk = MemoryDisk(bytes(range(256)) * 2 * SECTORS)
    driver = make(block(disk))
    device = driver.structures[4]
    assert driver.board.read(device, 8) == SECTORS
    assert request(driver, 0, 3, (1024, True)) == (0, 1025)
    assert driver.memory.read(PAYLOAD, 1024) == bytes(range(256)) * 4
    driver.memory.write(PAYLOAD, b"\xaa" * 512)
    assert request(driver, 1, SECTORS - 1, (512, False)) == (0, 1)
    assert disk.read_at((SECTORS - 1) * 512, 512) == b"\xaa" * 512
    assert request(driver, 8, 0, (20, True)) == (0, 21)
    assert driver.memory.read(PAYLOAD, 20) == b"disk".ljust(20, b"\0")
    driver.memory.write(PAYLOAD, struct.pack("<QII", 4, 2, 0))
    assert request(driver, 13, 0, (16, False)) == (0, 1)
    assert disk.read_at(3 * 512, 4 * 512) == bytes(range(256)) * 2 + bytes(1024) + bytes(range(256)) * 2


@pytest.mark.parametrize(
    ("kind", "sector", "payload", "status"),
    [
        (0, SECTORS, (512, True), 1),
        (0, SECTORS - 1, (1024, True), 1),
        (0, 1 << 63, (512, True), 1),
        (0, 0, (511, True), 1),
        (1, SECTORS, (512, False), 1),
        (99, 0, (512, False), 2),
        (13, 0, (15, False), 2),
    ],
)
def test_requests_that_cannot_be_done(
    make: Callable[..., Driver], kind: int, sector: int, payload: tuple[int, bool], status: int
) -> None:
    driver = make(block())
    assert request(driver, kind, sector, payload)[0] == status
    assert not driver.status & NEEDS_RESET


def test_a_read_only_disk(make: Callable[..., Driver]) -> None:
    disk = MemoryDisk(bytes(512))
    disk.read_only = True
    driver = make(block(disk))
    assert driver.offered() & 1 << 5
    assert request(driver, 1, 0, (512, False))[0] == 1


def test_a_disk_that_fails_is_an_io_error(make: Callable[..., Driver]) -> None:
    class Bad(MemoryDisk):
        def read_at(self, offset: int, length: int) -> bytes:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    driver = make(block(Bad(bytes(512))))
    assert request(driver, 0, 0, (512, True)) == (1, 1)
    assert request(driver, 4, 0) == (1, 1)


def test_flushes_are_done_aside_and_are_in_a_saved_state(make: Callable[..., Driver]) -> None:
    waiting: list[Callable[[], None]] = []
    card = block(aside=lambda work, done: waiting.append(lambda: done(work())))
    driver = make(card)
    assert request(driver, 4, 0) == (0xFF, -1)
    assert request(driver, 0, 0, (512, True)) == (0, 513), "others go on meanwhile"
    state = card.save()
    assert state["flushes"] == [[0, 0, STATUS]]
    driver.memory.write(STATUS, b"\xff")
    card.restore(state)
    driver.seen[0] = driver.memory.read_int(driver.used() + 2, 2)
    while waiting:
        waiting.pop(0)()
    assert (driver.memory.read(STATUS, 1), driver.given()) == (b"\0", [(0, 1)])
    assert request(driver, 4, 0) == (0xFF, -1)
    driver.negotiate()
    waiting.pop(0)()
    assert driver.given() == [], "a reset has forgotten it"


def test_several_queues_have_their_own_vectors(make: Callable[..., Driver]) -> None:
    driver = make(block(queues=2))
    assert driver.offered() & 1 << 12
    assert driver.board.read(driver.structures[4] + 34, 2) == 2
    assert request(driver, 0, 0, (512, True), queue=1) == (0, 513)
    assert driver.messages() == [2]


def test_a_restored_card_goes_on(make: Callable[..., Driver]) -> None:
    one, two = make(block()), make(block())
    request(one, 0, 0, (512, True))
    two.card.restore(one.card.save())
    two.memory.write(0, one.memory.read(0, RAM_END))
    two.offers, two.seen = list(one.offers), list(one.seen)
    assert request(two, 0, 0, (512, True)) == (0, 513)
    for name, value in (("queues", []), ("accepted", -1), ("flushes", [[5, 0, 0]]), ("flushes", 3)):
        with pytest.raises(ValueError, match=name[:5]):
            one.card.restore({**one.card.save(), name: value})
