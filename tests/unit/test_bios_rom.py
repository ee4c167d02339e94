"""The ROM's fixed addresses (IBM PC/AT Technical Reference) and what the self-test leaves in low memory."""

from __future__ import annotations

import struct

import pytest
from bios_calls import FRAME, FRAME_FORMAT, SIZE, Pc
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.bios.disk import Drive, floppy, hard_disk
from pykvm.bios.rom import POST, POST_CALL, RESET_CALL, rom
from pykvm.bios.service import Bios
from pykvm.boot import ImageError, Options
from pykvm.boot import bios as loader
from pykvm.bus import PortBus
from pykvm.disk.memory import MemoryDisk
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory

BOOT_SECTOR = b"\xf4".ljust(510, b"\0") + b"\x55\xaa"


def test_fixed_addresses() -> None:
    image = rom().image
    assert len(image) == 0x10000
    assert image[0xFFF0] == 0xEA  # far jump
    assert image[0xFFF3:0xFFF5] == b"\x00\xf0"
    assert image[0xE05B] == 0xE9  # near jump
    assert image[0xFFFE] == 0xFC  # an AT
    assert image[0xFFF7] == image[0xFFFA] == ord("/")
    length, model = struct.unpack_from("<HB", image, 0xE6F5)
    assert (length, model) == (8, 0xFC)
    assert image[0xEFC7 + 3] == 2  # 512 bytes a sector
    assert image[0xEFC7 + 4] == 18


def test_vectors_lead_into_the_rom() -> None:
    pc = Pc()
    vectors = [struct.unpack_from("<HH", pc.memory.read(4 * number, 4)) for number in range(256)]
    image = rom().image
    for number in (0x08, 0x09, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x70, 0x76):
        offset, segment = vectors[number]
        assert segment == 0xF000
        assert image[offset] not in (0x00, 0xCF), f"INT {number:02X}h does nothing"
    for number in (0x1B, 0x1C, 0x4A, 0x80):
        offset, segment = vectors[number]
        assert segment == 0xF000
        assert image[offset] == 0xCF, "INT 1Ch and the like return at once"
    assert vectors[0x1E] == (0xEFC7, 0xF000)
    assert vectors[0x40] == vectors[0x13]


def test_data_area() -> None:
    pc = Pc()
    assert [pc.word(at) for at in (0x400, 0x402)] == [0x3F8, 0]
    assert pc.word(0x40E) == 0x9FC0
    assert pc.word(0x413) == 639
    assert pc.word(0x410) & 0x0E00 == 1 << 9, "one serial port"
    assert pc.word(0x410) & 0x31 == 0x20, "80 columns in colour, no floppy drives"
    assert pc.word(0x41A) == pc.word(0x41C) == pc.word(0x480) == 0x1E
    assert pc.word(0x482) == 0x3E
    assert pc.memory.read(0x449, 5) == bytes.fromhex("03 5000 0010")
    assert pc.word(0x463) == 0x3D4
    assert pc.memory.read(0x475, 1) == b"\x01"
    assert pc.memory.read(0x484, 3) == bytes((24, 16, 0))
    assert pc.memory.read(0x9FC00, 1) == b"\x01"
    # 01:46:40 is 6,400 s after midnight, at 1573040 / 86400 ticks a second.
    assert pc.memory.read_int(0x46C, 4) == 116521


def test_starts_the_boot_sector() -> None:
    pc = Pc()
    assert (pc.started.cs, pc.started.ip) == (0, 0x7C00)
    assert pc.started.edx == 0x80
    assert pc.started.flags & 0x200
    assert pc.memory.read(0x7C00, 512) == BOOT_SECTOR


def test_starts_from_a_floppy() -> None:
    pc = Pc([floppy(0, MemoryDisk(BOOT_SECTOR + bytes(1440 * 1024 - 512)))], boot=0)
    assert pc.started.edx == 0
    assert pc.word(0x410) & 0xC1 == 1


@pytest.mark.parametrize("drives", [[], [hard_disk(0, MemoryDisk(bytes(512)))]])
def test_halts_where_there_is_nothing_to_start(drives: list[Drive]) -> None:
    pc = Pc(drives)
    assert (pc.started.cs, pc.started.ip) == (0xF000, rom().halt)
    assert rom().image[rom().halt] == 0xFA
    assert not pc.started.flags & 0x200
    assert "drive 80h cannot be started from" in pc.console.text
    assert b"c\x07a\x07n\x07n\x07o\x07t\x07" in pc.memory.read(0xB8000, 4000)


def test_reset_is_told() -> None:
    pc = Pc()
    pc.call(RESET_CALL)
    assert pc.resets == ["the guest jumped to the reset vector"]


@pytest.mark.parametrize(
    ("vector", "words"),
    [(0, "divide error (#DE)"), (6, "invalid opcode (#UD)"), (0xD, "general protection fault (#GP)")],
)
def test_unhandled_exception_is_told(vector: int, words: str) -> None:
    pc = Pc()
    call = pc.call(vector)
    assert f"{words} at 5678:1234" in pc.console.text
    assert (call.cs, call.ip) == (0xF000, rom().halt)
    (frame,) = pc.exceptions
    assert (frame.vector, frame.cs, frame.ip) == (vector, 0x5678, 0x1234)


def test_needs_the_first_mib() -> None:
    with pytest.raises(ConfigError, match="1M"):
        Bios(
            GuestMemory("1020K"),
            PortBus(),
            output=lambda data: None,
            on_reset=lambda why: None,
            on_exception=lambda frame: None,
        )


def test_frames_outside_memory_are_ignored() -> None:
    pc = Pc(memory="1M")
    before = pc.memory.read(0, 1 << 20)
    for address in (0xFFFF0, 0x100000, 0x10FFEF, 0x110000, 0xFFFFFFFF):
        pc.bios.write(0, 4, address)
    assert pc.memory.read(0, 1 << 20) == before


def test_narrow_writes_to_the_port_do_no_harm() -> None:
    pc = Pc()
    before = pc.memory.read(0x100000, 1 << 20)
    for size in (1, 2, 4):
        pc.bios.write(0, size, 0xFF)
    assert pc.memory.read(0x100000, 1 << 20) == before


VECTORS = (0x00, 0x09, *range(0x10, 0x1B), POST_CALL, RESET_CALL)
REGISTER = st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from((0, 1, 0x55AA, 0x80, 0x534D4150, 0xFFFF, 0xFFFFFFFF)))
FUNCTION = st.one_of(st.integers(0, 0xFFFF), st.integers(0, 0x20).map(lambda ah: ah << 8 | 1), st.just(0xE820))


@settings(max_examples=300)
@given(
    st.sampled_from(VECTORS),
    FUNCTION,
    st.lists(REGISTER, min_size=7, max_size=7),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.binary(min_size=256, max_size=256),
    st.binary(min_size=64, max_size=64),
    st.booleans(),
)
def test_no_call_raises(
    vector: int, ax: int, others: list[int], ds: int, es: int, area: bytes, packet: bytes, spoil: bool
) -> None:
    """Whatever the registers, and whatever the guest has written over the data area."""
    pc = PCS[0]
    pc.bios.log.emit = str
    pc.memory.write(0, packet)
    if spoil:
        pc.memory.write(0x400, area)
    pc.memory.write(FRAME, struct.pack(FRAME_FORMAT, es, ds, *others, ax, vector, 0, 0, 0))
    pc.bios.write(0, 4, FRAME)
    assert pc.memory.read(FRAME, SIZE)[37] <= 2


PCS = [Pc()]
"""One for all examples: its state goes on from one to the next."""


def test_state_is_plain_and_comes_back() -> None:
    pc, other = Pc(), Pc()
    for character in b"\r\nab":
        pc.call(0x10, eax=0x0E00 | character)
    pc.call(0x14)  # the guest uses COM1 itself
    pc.call(0x15, eax=0x8600, ecx=0, edx=1000)
    pc.time = 400_000
    other.time = 7_000_000
    other.bios.restore(pc.bios.save())
    state = {"redirect": False, "row": 1, "column": 2, "escape": b"", "keys": [], "wait_left": 600_000}
    assert other.bios.save() == pc.bios.save() == state


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("redirect", 1),
        ("wait_left", -1),
        ("wait_left", 1 << 43),
        ("row", True),
        ("row", -1),
        ("column", 257),
        ("column", 1 << 64),
        ("escape", b"\x1b[1"),
        ("escape", None),
        ("keys", b""),
        ("keys", [0x10000]),
        ("keys", [True]),
        ("keys", [-1]),
        ("keys", [0x1E61] * ((1 << 16) + 1)),
    ],
)
def test_hostile_state(field: str, value: object) -> None:
    pc = Pc()
    state = pc.bios.save()
    with pytest.raises(ValueError, match="BIOS: state field"):
        pc.bios.restore({**state, field: value})
    with pytest.raises(ValueError, match="BIOS: state field"):
        pc.bios.restore({name: content for name, content in state.items() if name != field})
    assert pc.bios.save() == state


def test_loader_enters_the_self_test() -> None:
    memory = GuestMemory("1M")
    state = loader.load(BOOT_SECTOR, memory, Options())
    assert (state.system.cs.base, state.system.cs.selector, state.registers.rip) == (0xF0000, 0xF000, POST)
    assert memory.read(0xF0000, 0x10000) == rom().image
    assert memory.read(0x7C00, 512) == bytes(512), "the sector comes from the drive"


@pytest.mark.parametrize("image", [b"", b"\x55\xaa", bytes(512), bytes(510) + b"\xaa\x55"])
def test_loader_wants_a_boot_sector(image: bytes) -> None:
    assert not loader.is_disk(image)
    with pytest.raises(ImageError, match="0x1fe"):
        loader.load(image, GuestMemory("1M"), Options())


def test_loader_wants_memory() -> None:
    with pytest.raises(ImageError, match="1M"):
        loader.load(BOOT_SECTOR, GuestMemory("640K"), Options())


def test_what_looks_like_a_disk() -> None:
    assert loader.is_disk(BOOT_SECTOR)
    assert not loader.is_floppy(BOOT_SECTOR)
    assert loader.is_floppy(BOOT_SECTOR + bytes(1440 * 1024 - 512))
    assert not loader.is_disk(b"\x7fELF" + BOOT_SECTOR[4:])
    linux = bytearray(BOOT_SECTOR + bytes(512))
    linux[0x202:0x206] = b"HdrS"
    assert not loader.is_disk(bytes(linux))
