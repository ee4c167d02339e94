"""`pykvm disk`, judged by qemu-img itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pykvm import cli
from pykvm.disk.image import open_disk

pytestmark = pytest.mark.needs("qemu-img")


def qemu_info(path: Path, kind: str) -> dict[str, object]:
    words = ["qemu-img", "info", "-f", kind, "--output=json", path]
    told: dict[str, object] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.img", "raw"),
        ("a.qcow2", "qcow2"),
        ("a.vmdk", "vmdk"),
        ("a.vdi", "vdi"),
        ("a.vhd", "vpc"),
        ("a.vhdx", "vhdx"),
    ],
)
def test_images_are_made_and_told_of(here: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    assert cli.invoke(["disk", "create", name, "--size", "3M"]) == 0
    assert qemu_info(here / name, kind)["virtual-size"] == 3 << 20
    assert cli.invoke(["disk", "info", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["status"], told["action"]) == ("disk", 0, "info")
    assert (told["image"]["file"], told["image"]["size"], told["image"]["backing"]) == (name, 3 << 20, None)
    assert cli.invoke(["disk", "create", name, "--size", "3M"]) == 2
    assert "exists: nothing is replaced" in capsys.readouterr().err


def test_an_image_over_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = os.urandom(1 << 20)
    (here / "base.img").write_bytes(content)
    assert cli.invoke(["disk", "create", "top.qcow2", "--over", "base.img"]) == 0
    told = qemu_info(here / "top.qcow2", "qcow2")
    assert (told["virtual-size"], told["backing-filename"], told["backing-filename-format"]) == (
        1 << 20, "base.img", "raw",
    )  # fmt: skip
    words = ["qemu-io", "-f", "qcow2", "-c", "write -P 0x55 4096 512", "top.qcow2"]
    subprocess.run(words, check=True, capture_output=True)
    changed = content[:4096] + b"\x55" * 512 + content[4608:]
    assert cli.invoke(["disk", "convert", "top.qcow2", "whole.img"]) == 2
    assert "names another file" in capsys.readouterr().err
    assert not (here / "whole.img").exists()
    assert cli.invoke(["disk", "convert", "top.qcow2", "whole.img", "--backing"]) == 0
    assert (here / "whole.img").read_bytes() == changed
    assert (here / "base.img").read_bytes() == content
    assert cli.invoke(["disk", "commit", "top.qcow2"]) == 0
    assert (here / "base.img").read_bytes() == changed
    assert cli.invoke(["disk", "info", "top.qcow2"]) == 0
    assert "over: 'base.img', raw" in capsys.readouterr().out


def test_an_image_of_another_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = os.urandom(1 << 20)
    (here / "raw.img").write_bytes(content)
    assert cli.invoke(["disk", "convert", "raw.img", "disk", "--to", "vdi"]) == 0
    assert cli.invoke(["disk", "info", "disk"]) == 2
    assert "say format=vdi" in capsys.readouterr().err
    assert cli.invoke(["disk", "info", "disk", "--format", "vdi"]) == 0
    assert cli.invoke(["disk", "convert", "disk", "again.img", "--format", "vdi"]) == 0
    assert (here / "again.img").read_bytes() == content
    assert cli.invoke(["disk", "info", "raw.img", "--format", "qcow2"]) == 2
    assert "is no qcow2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["create", "a.qcow2"], "needs a size"),
        (["create", "a.vdi", "--size", "1M", "--over", "x"], "only a qcow2 has another image under it"),
        (["create", "a.qcow2", "--over", "nothing.qcow2"], "does not exist"),
        (["info", "nothing"], "does not exist"),
        (["info", "nothing", "--to", "vdi"], "--to is not for info"),
        (["convert", "nothing"], "needs a NEW image"),
        (["commit", "a", "b"], "NEW is not for commit"),
        (["shrink", "a"], "shrink"),
    ],
)
def test_mistakes(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert cli.invoke(["disk", *words]) == 2
    assert says in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_an_image_in_use_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.img").write_bytes(bytes(1 << 20))
    disk = open_disk("a.img")
    assert cli.invoke(["disk", "convert", "a.img", "b.img"]) == 2
    assert "in use by another machine" in capsys.readouterr().err
    disk.close()


def test_without_qemu_img_the_message_names_the_package(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert cli.invoke(["disk", "create", "a.img", "--size", "1M"]) == 2
    assert "apt-get install qemu-utils" in capsys.readouterr().err
