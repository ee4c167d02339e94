"""fw_cfg against QEMU's docs/specs/fw_cfg, with real guest RAM behind its DMA interface."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import device_rig
import pytest
from device_rig import bus_with
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.fw_cfg import FILL_LIMIT, FwCfg
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory

SELECTOR, DATA, DMA_HIGH, DMA_LOW = 0x510, 0x511, 0x514, 0x518
SIGNATURE, ID, NB_CPUS, DIRECTORY = 0x00, 0x01, 0x05, 0x19
ERROR, READ, SKIP, SELECT, WRITE = 0x01, 0x02, 0x04, 0x08, 0x10
RAM = 4 << 20
DESCRIPTOR, BUFFER = 0x1000, 0x2000


class Rig(device_rig.Rig[FwCfg]):
    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        super().__init__(FwCfg(memory.read, memory.write))

    def select(self, key: int) -> None:
        self.bus.write(SELECTOR, 2, key)

    def read(self, count: int) -> bytes:
        """Bytes read one by one."""
        return bytes(self.inb(DATA) for _ in range(count))

    def item(self, key: int, count: int) -> bytes:
        self.select(key)
        return self.read(count)

    def dma(self, control: int, length: int = 0, target: int = BUFFER, descriptor: int = DESCRIPTOR) -> int:
        """Do what firmware does for one transfer; what the control field reads then."""
        self.memory.write(descriptor, struct.pack(">IIQ", control, length, target))
        self.bus.write(DMA_LOW, 4, int.from_bytes(struct.pack(">I", descriptor), "little"))
        return int.from_bytes(self.memory.read(descriptor, 4), "big")


@pytest.fixture(scope="module")
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(RAM)
    yield memory
    memory.close()


@pytest.fixture
def rig(memory: GuestMemory) -> Rig:
    memory.zero(0, RAM)
    return Rig(memory)


# -- Ports ------------------------------------------------------------------------------------------------------------


def test_firmware_finds_the_device(rig: Rig) -> None:
    assert rig.item(SIGNATURE, 4) == b"QEMU"
    assert rig.item(ID, 4) == b"\x03\0\0\0"  # traditional and DMA interface
    assert rig.bus.read(DMA_HIGH, 4).to_bytes(4, "little") == b"QEMU"
    assert rig.bus.read(DMA_LOW, 4).to_bytes(4, "little") == b" CFG"


def test_after_reset_the_signature_is_selected(rig: Rig) -> None:
    assert rig.read(4) == b"QEMU"
    rig.select(ID)
    rig.device.reset()
    assert rig.read(4) == b"QEMU"


def test_a_numbered_item(rig: Rig) -> None:
    rig.device.add_item(NB_CPUS, b"\x02\x00")
    assert rig.item(NB_CPUS, 2) == b"\x02\0"


def test_after_its_end_an_item_reads_zeros(rig: Rig) -> None:
    assert rig.item(SIGNATURE, 7) == b"QEMU\0\0\0"


def test_an_item_that_is_not_there_reads_zeros(rig: Rig) -> None:
    assert rig.item(0x0D, 8) == bytes(8)
    assert rig.item(0xFFFF, 2) == bytes(2)


def test_selecting_starts_over(rig: Rig) -> None:
    rig.item(SIGNATURE, 2)
    assert rig.item(SIGNATURE, 2) == b"QE"
    assert rig.read(2) == b"MU"


def test_the_write_channel_bit_means_nothing(rig: Rig) -> None:
    assert rig.item(SIGNATURE | 0x4000, 4) == b"QEMU"


def test_items_of_the_architecture_are_apart(rig: Rig) -> None:
    rig.device.add_item(0x8003, b"arch")
    rig.device.add_item(0x0003, b"generic!")
    assert rig.item(0x8003, 4) == b"arch"
    assert rig.item(0x0003, 8) == b"generic!"


def test_string_input_takes_a_block(rig: Rig) -> None:
    rig.device.add_item(0x8002, bytes(range(100)))
    rig.select(0x8002)
    assert rig.bus.read_block(DATA, 1, 60) == bytes(range(60))
    assert rig.bus.read_block(DATA, 1, 60) == bytes(range(60, 100)) + bytes(20)


def test_wider_reads_take_the_next_bytes_in_order(rig: Rig) -> None:
    rig.select(SIGNATURE)
    assert rig.bus.read(DATA, 2).to_bytes(2, "little") == b"QE"
    assert rig.bus.read(DATA, 4).to_bytes(4, "little") == b"MU\0\0"


def test_the_selector_is_a_word_and_write_only(rig: Rig) -> None:
    rig.select(SIGNATURE)
    rig.bus.write(SELECTOR, 1, ID)
    assert rig.read(1) == b"Q"
    assert rig.bus.read(SELECTOR, 2) == 0xFFFF
    assert rig.read(1) == b"E"


def test_data_cannot_be_written(rig: Rig) -> None:
    rig.select(SIGNATURE)
    rig.bus.write(DATA, 1, 0x58)
    assert rig.item(SIGNATURE, 4) == b"QEMU"


# -- Files ------------------------------------------------------------------------------------------------------------


def directory(rig: Rig) -> dict[str, tuple[int, int]]:
    """Name to key and size, read as SeaBIOS reads it."""
    count = int.from_bytes(rig.item(DIRECTORY, 4), "big")
    entries = {}
    for _ in range(count):
        size, key, reserved, name = struct.unpack(">IHH56s", rig.read(64))
        assert reserved == 0
        assert name[-1] == 0
        entries[name.rstrip(b"\0").decode("ascii")] = key, size
    return entries


def test_an_empty_directory(rig: Rig) -> None:
    assert directory(rig) == {}


def test_files_are_found_by_name(rig: Rig) -> None:
    table = struct.pack("<QQI", 0, RAM, 1)
    rig.device.add_file("etc/e820", table)
    rig.device.add_file("bootorder", b"/pci@i0cf8/*@1,1/drive@0/disk@0\0")
    entries = directory(rig)
    assert list(entries) == ["etc/e820", "bootorder"]
    key, size = entries["etc/e820"]
    assert 0x20 <= key < 0x4000
    assert rig.item(key, size) == table
    assert rig.item(*entries["bootorder"]).endswith(b"disk@0\0")


@pytest.mark.parametrize("name", ["", "x" * 56, "caf\u00e9", "a\0b", "a\nb"])
def test_a_name_that_is_none_is_refused(rig: Rig, name: str) -> None:
    with pytest.raises(ConfigError, match="55 printable"):
        rig.device.add_file(name, b"")


def test_the_longest_name(rig: Rig) -> None:
    rig.device.add_file("x" * 55, b"data")
    assert rig.item(*directory(rig)["x" * 55]) == b"data"


def test_nothing_is_there_twice(rig: Rig) -> None:
    rig.device.add_file("a", b"")
    with pytest.raises(ConfigError, match="already"):
        rig.device.add_file("a", b"")
    for key in (SIGNATURE, ID, DIRECTORY):
        with pytest.raises(ConfigError, match="already"):
            rig.device.add_item(key, b"")


@pytest.mark.parametrize("key", [-1, 0x20, 0x4005, 0x7FFF, 0xC000, 0x10000])
def test_a_key_that_is_none_is_refused(rig: Rig, key: int) -> None:
    with pytest.raises(ConfigError, match="a key is"):
        rig.device.add_item(key, b"")


# -- DMA --------------------------------------------------------------------------------------------------------------


def test_dma_selects_and_reads_at_once(rig: Rig) -> None:
    rig.device.add_item(0x8000, b"firmware")
    assert rig.dma(0x8000 << 16 | SELECT | READ, 8) == 0
    assert rig.memory.read(BUFFER, 9) == b"firmware\0"


def test_dma_goes_on_where_the_last_read_ended_on_either_interface(rig: Rig) -> None:
    rig.device.add_item(0x8000, b"0123456789")
    assert rig.dma(0x8000 << 16 | SELECT) == 0
    assert rig.dma(READ, 2) == 0
    assert rig.read(2) == b"23"
    assert rig.dma(SKIP, 3) == 0
    assert rig.dma(READ, 3, BUFFER + 2) == 0
    assert rig.memory.read(BUFFER, 6) == b"01789\0"


def test_a_high_descriptor_is_named_by_two_writes_and_the_high_half_is_forgotten(rig: Rig) -> None:
    reads: list[int] = []

    def read(gpa: int, size: int) -> bytes:
        reads.append(gpa)
        return bytes(size)

    bus = bus_with(FwCfg(read, lambda gpa, data: None))
    bus.write(DMA_HIGH, 4, 0x0100_0000)  # big-endian 1
    bus.write(DMA_LOW, 4, 0x0010_0000)  # big-endian 0x1000
    bus.write(DMA_LOW, 4, 0x0010_0000)
    assert reads == [0x1_0000_1000, 0x1000]


def test_a_dma_read_past_the_end_gives_zeros(rig: Rig) -> None:
    rig.memory.write(BUFFER, b"\xff" * 8)
    assert rig.dma(SIGNATURE << 16 | SELECT | READ, 6) == 0
    assert rig.memory.read(BUFFER, 8) == b"QEMU\0\0\xff\xff"


def test_a_skip_past_the_end_stays_there(rig: Rig) -> None:
    assert rig.dma(SIGNATURE << 16 | SELECT | SKIP, 0xFFFF_FFFF) == 0
    assert rig.read(1) == b"\0"


def test_items_cannot_be_written(rig: Rig) -> None:
    rig.memory.write(BUFFER, b"BOCH")
    assert rig.dma(SIGNATURE << 16 | SELECT | WRITE, 4) == ERROR
    assert rig.item(SIGNATURE, 4) == b"QEMU"


@pytest.mark.parametrize("target", [RAM - 3, RAM, 0xFFFF_FFFF_FFFF_FFFE])
def test_a_target_outside_ram_is_an_error(rig: Rig, target: int) -> None:
    assert rig.dma(SIGNATURE << 16 | SELECT | READ, 4, target) == ERROR


@pytest.mark.parametrize("descriptor", [RAM - 15, RAM, 0xFFFF_FFFF])
def test_a_descriptor_outside_ram_is_ignored(rig: Rig, descriptor: int) -> None:
    rig.select(ID)
    rig.bus.write(DMA_LOW, 4, int.from_bytes(struct.pack(">I", descriptor), "little"))
    assert rig.read(1) == b"\x03"


def test_how_much_one_operation_moves_is_bounded(rig: Rig) -> None:
    assert rig.dma(SIGNATURE << 16 | SELECT | READ, FILL_LIMIT + 4) == 0
    assert rig.dma(SIGNATURE << 16 | SELECT | READ, FILL_LIMIT + 5) == ERROR
    assert rig.dma(SIGNATURE << 16 | SELECT | READ, 0xFFFF_FFFF) == ERROR


def test_a_descriptor_that_is_its_own_target(rig: Rig) -> None:
    assert rig.dma(SIGNATURE << 16 | SELECT | READ, 4, DESCRIPTOR) == 0


# -- State ------------------------------------------------------------------------------------------------------------

OPERATION = st.one_of(
    st.tuples(st.just("read"), st.sampled_from([0, 1, *range(4, 12)]), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("block"), st.sampled_from([0, 1, 8]), st.sampled_from([1, 2, 4]), st.integers(0, 50)),
    st.tuples(
        st.just("write"), st.sampled_from([0, 1, *range(4, 12)]), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF)
    ),
    st.tuples(st.just("select"), st.sampled_from([0, 1, 5, 0x19, 0x20, 0x21, 0x4000, 0x8000])),
    st.tuples(
        st.just("dma"),
        st.integers(0, 31),
        st.sampled_from([0, 0x19, 0x20, 0x8000]),
        st.one_of(st.integers(0, 40), st.integers(0, 0xFFFFFFFF)),
        st.one_of(st.integers(0, RAM), st.integers(0, (1 << 64) - 1)),
    ),
)


def perform(device: FwCfg, memory: GuestMemory, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("read", offset, size):
            value = device.read(offset, size)
            assert 0 <= value < 1 << 8 * size
            return value
        case ("block", offset, size, count):
            data = device.read_block(offset, size, count)
            assert len(data) == size * count
            return data
        case ("write", offset, size, value):
            device.write(offset, size, value & (1 << 8 * size) - 1)
        case ("select", key):
            device.write(0, 2, key)
        case ("dma", control, key, length, target):
            memory.write(DESCRIPTOR, struct.pack(">IIQ", key << 16 | control, length, target))
            device.write(8, 4, int.from_bytes(struct.pack(">I", DESCRIPTOR), "little"))
            return memory.read(DESCRIPTOR, 4)
    return None


def device_with_files(memory: GuestMemory) -> FwCfg:
    device = FwCfg(memory.read, memory.write)
    device.add_file("etc/e820", bytes(range(20)))
    device.add_item(0x8000, b"tables")
    return device


@settings(max_examples=100)
@given(before=st.lists(OPERATION, max_size=15), after=st.lists(OPERATION, max_size=15))
def test_a_restored_device_behaves_as_the_saved_one(memory: GuestMemory, before: list[Any], after: list[Any]) -> None:
    one, two = device_with_files(memory), device_with_files(memory)
    for operation in before:
        perform(one, memory, operation)
    two.restore(one.save())
    for operation in after:
        # A transfer leaves a result in memory only, and the same one for both.
        assert perform(one, memory, operation) == perform(two, memory, operation), operation
    assert one.save() == two.save()


@settings(max_examples=100)
@given(
    change=st.dictionaries(
        st.sampled_from(["key", "offset", "dma_high"]),
        st.one_of(st.none(), st.booleans(), st.text(max_size=2), st.floats(), st.integers(), st.integers(0, 0xFFFF)),
    )
)
def test_a_hostile_state_raises_value_error_only(memory: GuestMemory, change: dict[str, Any]) -> None:
    device = device_with_files(memory)
    before = device.save()
    try:
        device.restore({**before, **change})
    except ValueError:
        assert device.save() == before
        return
    assert device.read(1, 4) >= 0


@pytest.mark.parametrize("change", [{"key": 0x10000}, {"key": -1}, {"offset": 5}, {"dma_high": 1 << 32}])
def test_a_state_that_cannot_be_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fw_cfg"):
        rig.device.restore({**rig.device.save(), **change})
