"""Command-line values: disks, NICs, sizes."""

from __future__ import annotations

import re
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.cli.options import ADDRESS, SIZE, Limit, Memory, Number, make_module, open_disk
from pykvm.device_options.nics import parse_nic
from pykvm.disk.overlay import OverlayDisk
from pykvm.disk.raw import RawDisk
from pykvm.errors import ConfigError
from pykvm.net.loopback import Loopback, NoNet
from pykvm.net.pcap import Capture
from pykvm.net.unix import UnixNet


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    return path


@pytest.mark.parametrize(("suffix", "read_only"), [("", False), (",rw", False), (",ro", True)])
def test_a_raw_disk(image: Path, suffix: str, read_only: bool) -> None:
    disk = open_disk(f"{image}{suffix}")
    assert isinstance(disk, RawDisk)
    with closing(disk):
        assert disk.read_only == read_only
        assert disk.size == 1024


def test_a_disk_whose_writes_are_forgotten(image: Path) -> None:
    disk = open_disk(f"{image},discard")
    assert isinstance(disk, OverlayDisk)
    with closing(disk):
        disk.write_at(0, b"x")
        assert disk.read_at(0, 1) == b"x"
    assert image.read_bytes() == bytes(1024)


@pytest.mark.parametrize("suffix", ["", ",ro", ",discard"])
def test_a_disk_that_looks_like_another_format(image: Path, suffix: str) -> None:
    image.write_bytes(b"QFI\xfb".ljust(1024, b"\0"))
    with pytest.raises(ConfigError, match="looks like qcow2, which its name does not say"):
        open_disk(f"{image}{suffix}")
    disk = open_disk(f"{image}{suffix},format=raw")
    assert disk is not None
    disk.close()
    with pytest.raises(ConfigError, match="is no format of disk images"):
        open_disk(f"{image}{suffix},format=qed")


@pytest.mark.parametrize(
    "words", [",ro,rw", ",format=raw,format=raw", ",format=", ",backing,backing", ",raw", ",on-error"]
)
def test_what_cannot_follow_a_disk(image: Path, words: str) -> None:
    with pytest.raises(ConfigError, match="behind the comma there may be one of rw, ro and discard, format=FORMAT"):
        open_disk(f"{image}{words}")


@pytest.mark.parametrize("words", [",snapshot,format=raw", ",format=raw,snapshot", ",format=raw,discard"])
def test_the_order_does_not_matter(image: Path, words: str) -> None:
    disk = open_disk(f"{image}{words}")
    assert isinstance(disk, OverlayDisk)
    disk.close()


def test_an_empty_place() -> None:
    assert open_disk("none") is None


def test_a_path_with_commas(tmp_path: Path) -> None:
    path = tmp_path / "a,b.img"
    path.write_bytes(bytes(512))
    disk = open_disk(f"{path},ro")
    assert disk is not None
    disk.close()
    with pytest.raises(ConfigError, match="behind the comma there may be one of rw, ro and discard"):
        open_disk(f"{path},rx")


@pytest.mark.parametrize(
    "spec", ["", ",ro", "/nonexistent/disk", "/nonexistent/disk,discard", "/dev/null", "\0", "/,ro"]
)
def test_disks_that_cannot_be(spec: str) -> None:
    with pytest.raises(ConfigError):
        open_disk(spec)


def test_kinds_of_nics(tmp_path: Path) -> None:
    for spec, kind in (("none", NoNet), ("loopback", Loopback), (f"unix:{tmp_path}/cable", UnixNet)):
        nic = parse_nic(spec)
        with closing(nic.backend):
            assert isinstance(nic.backend, kind)
            assert nic.mac is None


def test_a_nic_with_everything(tmp_path: Path) -> None:
    capture = tmp_path / "it.pcap"
    nic = parse_nic(f"loopback,mac=02:00:00:aa:BB:01,pcap={capture}")
    with closing(nic.backend):
        assert isinstance(nic.backend, Capture)
        assert nic.mac == bytes.fromhex("020000aabb01")
    assert capture.stat().st_size == 24  # the file's header


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "none, loopback, unix:PATH, tap:NAME or user"),
        ("wifi", "no kind 'wifi'"),
        ("unix", "unix:PATH"),
        ("tap", "tap:NAME"),
        ("unix:", "unix:PATH"),
        ("loopback:x", "loopback"),
        ("none:x", "none"),
        ("loopback,", "neither mac=ADDRESS nor pcap=FILE"),
        ("loopback,speed=10", "neither mac=ADDRESS nor pcap=FILE"),
        ("loopback,pcap=", "neither mac=ADDRESS nor pcap=FILE"),
        ("loopback,mac=", "is not a MAC address"),
        ("loopback,mac=02:00:00:00:00", "is not a MAC address"),
        ("loopback,mac=02:00:00:00:00:0g", "is not a MAC address"),
        ("loopback,pcap=/nonexistent/x.pcap", "/nonexistent/x.pcap"),
        ("unix:/nonexistent/cable", "/nonexistent/cable"),
        ("unix:" + "x" * 200, "path too long"),
    ],
)
def test_nics_that_cannot_be(spec: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        parse_nic(spec)
    assert words in str(caught.value)


def test_a_failed_nic_leaves_no_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        parse_nic(f"unix:{tmp_path}/cable,pcap=/nonexistent/x.pcap")
    assert not (tmp_path / "cable.a").exists()


@pytest.mark.parametrize(("text", "value"), [("64M", 64 << 20), ("0x7c00", 0x7C00), ("0", 0)])
def test_numbers(text: str, value: int) -> None:
    assert SIZE.convert(text) == value
    assert ADDRESS.convert(text) == value


def test_names_with_commas_and_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.img", "a,ro", "my disk.img"):
        (tmp_path / name).write_bytes(bytes(1024))
        disk = open_disk(name)
        assert isinstance(disk, RawDisk)
        assert not disk.read_only
        disk.close()
    nic = parse_nic("loopback,pcap=p,q.pcap,mac=02:00:00:00:00:01")
    nic.backend.close()
    assert (tmp_path / "p,q.pcap").exists()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a file", b"blank"),
        ("a file with text", b"blank"),
        ("a", b"plain"),
        ("a text", b"plain"),
        ("a  file", b"plain"),
    ],
)
def test_a_module_is_the_longest_name_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"plain")
    (tmp_path / "a file").write_bytes(b"blank")
    module = make_module(text)
    assert (module.data, module.command_line) == (content, text)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (Memory("size"), "512", "512 is 512 bytes: did you mean 512M?"),
        (SIZE, "many", "'many' is not a size"),
        (ADDRESS, "here", "'here' is not an address"),
    ],
)
def test_what_is_no_number_is_told_in_its_own_words(kind: Number, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        kind.convert(text)


@pytest.mark.parametrize("command", ["inspect", "coverage", "snapshot", "trace", "screenshot"])
def test_what_nobody_sits_in_front_of_has_a_time_limit(command: str) -> None:
    found = import_module(f"pykvm.cli.{command}").command
    limit = next(option for option in found.options if option.name == "timeout")
    if command == "screenshot":
        assert limit.value([], found) == 10
        return
    assert limit.value([], found) == Limit(10, given=False)
    assert limit.value([], found).deadline() is None, "who reads on has all the time, unless he said otherwise"
    assert limit.value(["0"], found) == Limit(None)
    assert limit.value(["2.5"], found) == Limit(2.5)
    assert limit.value(["2.5"], found).deadline() is not None


@given(st.text(max_size=30))
def test_any_text_is_a_number_or_a_usage_error(text: str) -> None:
    with suppress(ValueError):
        assert SIZE.convert(text) >= 0


@given(st.text(max_size=40).filter(lambda text: not text.startswith(("tap:", "unix:"))))
def test_any_text_is_a_nic_or_refused(text: str) -> None:
    if "pcap=" in text:
        return
    with suppress(ConfigError):
        parse_nic(text).backend.close()
