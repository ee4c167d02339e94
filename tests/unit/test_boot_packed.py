"""Compressed images: unpacked whole, in parts, with limits; what is damaged is refused in words."""

from __future__ import annotations

import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.boot import ImageError, Options, detect, packed
from pykvm.boot.source import BootSource


def zstd(data: bytes) -> bytes:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            made: bytes = __import__(name, fromlist=["x"]).compress(data)
        except ImportError:
            continue
        return made
    pytest.skip("needs backports.zstd, or Python 3.14")


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "zstd": zstd,
}
DATA = b"".join(number.to_bytes(4, "little") for number in range(700_000))


@pytest.mark.parametrize("name", PACKERS)
def test_one_part_or_several_with_something_behind(name: str) -> None:
    first, second = PACKERS[name](DATA), PACKERS[name](b"the rest")
    assert packed.unpacked(first) == DATA
    assert packed.unpacked(first + second + b"a signature") == DATA + b"the rest"
    assert packed.unpacked(PACKERS[name](b"")) == b""
    assert packed.unpacked(DATA) is DATA


@pytest.mark.parametrize("name", PACKERS)
def test_a_kernel_in_it_is_recognised(tmp_path: Path, name: str) -> None:
    image = b"\x02\xb0\xad\x1b" + bytes(4) + b"\xfe\x4f\x52\xe4" + b"\xf4" * 4096
    path = tmp_path / f"kernel.{name}"
    path.write_bytes(PACKERS[name](image))
    assert BootSource(path, Options(), None, None).kind == "multiboot" == detect.recognise(image)


@pytest.mark.parametrize("name", PACKERS)
def test_what_is_cut_or_damaged(name: str) -> None:
    whole = PACKERS[name](DATA)
    with pytest.raises(ImageError, match=f"{name} data (end in the middle|are damaged)"):
        packed.unpacked(whole[:-9])
    with pytest.raises(ImageError, match=f"{name} data"):
        packed.unpacked(whole[:20] + bytes(40) + whole[60:])


@pytest.mark.parametrize("name", PACKERS)
def test_a_bomb_is_refused_before_it_takes_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "LIMIT", 4 << 20)
    bomb = PACKERS[name](bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="more than 4 MiB"):
            packed.unpacked(bomb)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_dictionary_that_is_only_declared() -> None:
    """LZMA2's dictionary may be said to have 4 GiB: it would be allocated at once."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    with pytest.raises(ImageError, match="too much memory"):
        packed.unpacked(lzma.compress(b"x" * 100, filters=filters))


def test_without_zstd_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", none)
    with pytest.raises(ImageError, match="pip install backports.zstd; or unpack it first"):
        packed.unpacked(packed.ZSTD + bytes(9))


@given(st.sampled_from([packed.GZIP, packed.XZ]), st.binary(max_size=100), st.integers(0, 200), st.binary(max_size=3))
def test_anything_is_unpacked_or_refused_in_words(magic: bytes, junk: bytes, at: int, change: bytes) -> None:
    good = PACKERS[packed.MAGIC[magic]](b"some data" * 20)
    for image in (magic + junk, good[:at] + change + good[at + len(change) :]):
        with suppress(ImageError):
            packed.unpacked(image)
