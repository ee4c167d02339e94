"""What is handed in: copied, unpacked and built, whatever it holds."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from pykvm import ConfigError
from pykvm.grading import submission as module
from pykvm.grading.grader import prepare
from pykvm.grading.images import make_image
from pykvm.grading.lab import DiskImage, Lab, read_lab
from pykvm.grading.submission import Submission, SubmissionError, add_overlay, submissions_in, unpack


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "target"
    made.mkdir(parents=True)
    return made


def a_lab(directory: Path, more: str = "") -> Lab:
    path = directory / "lab.toml"
    path.write_text(f'[lab]\nkernel = "kernel.elf"\n{more}\n[[test]]\nname = "t"\n')
    return read_lab(path)


def test_a_class_by_its_names(tmp_path: Path) -> None:
    for name in ("bob.tar.gz", "alice.zip", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "carol").mkdir()
    assert [each.name for each in submissions_in(str(tmp_path))] == ["alice", "bob", "carol"]
    (tmp_path / "alice").mkdir()
    with pytest.raises(ConfigError, match="would both be 'alice'"):
        submissions_in(str(tmp_path))
    with pytest.raises(ConfigError, match="has no submission in it"):
        submissions_in(str(tmp_path / "carol"))


def test_a_directory_is_copied_without_what_is_no_file(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("x")
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    assert unpack(Submission("in", str(source)), str(target)) is None
    assert (target / "sub" / "file").read_text() == "x"
    assert os.readlink(target / "link") == "/etc/passwd"
    assert sorted(os.listdir(target)) == ["link", "sub"]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_of_one_directory_is_that_directory(tmp_path: Path, target: Path, kind: str) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("lab1/Makefile", "all:")
    else:
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo("lab1/Makefile")
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"all:"))
    assert unpack(Submission("in", str(path)), str(target)) is None
    assert (target / "Makefile").read_text() == "all:"


@pytest.mark.parametrize("name", ["../out", "/abs", "a/../../out"])
def test_no_archive_writes_outside(tmp_path: Path, target: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as made:
        made.writestr(name, "x")
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    for path in ("in.zip", "in.tar"):
        with pytest.raises(SubmissionError, match="outside"):
            unpack(Submission("in", str(tmp_path / path)), str(target))
    assert os.listdir(target) == []


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path, target: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        inside = tarfile.TarInfo("way/out")
        inside.size = 1
        archive.addfile(inside, io.BytesIO(b"x"))
    unpack(Submission("in", str(tmp_path / "in.tar")), str(target))
    assert not (tmp_path / "out").exists()


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_MOST", 3 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(4):
            made.writestr(f"zeros{number}", bytes(1 << 20))
    with pytest.raises(SubmissionError, match="more than 3 MiB"):
        unpack(Submission("bomb", str(tmp_path / "bomb.zip")), str(target))
    monkeypatch.setattr(module, "FILES_MOST", 2)
    with pytest.raises(SubmissionError, match="more than 2 files"):
        unpack(Submission("bomb", str(tmp_path / "bomb.zip")), str(target))


@pytest.mark.parametrize("name", ["in.zip", "in.tar.gz", "in.tar.xz", "in.tar"])
def test_a_broken_archive(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 this is none")
    with pytest.raises(SubmissionError, match="cannot be unpacked"):
        unpack(Submission("in", str(tmp_path / name)), str(target))


def test_a_content_has_one_digest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("x")
    one, other = (Submission(name, str(tmp_path / name)) for name in ("a", "b"))
    assert one.digest() == other.digest()
    (tmp_path / "b" / "sub" / "file").write_text("y")
    assert one.digest() != other.digest()


def test_the_lab_s_files_replace_the_submission_s(tmp_path: Path, target: Path) -> None:
    overlay = tmp_path / "own"
    (overlay / "tests").mkdir(parents=True)
    (overlay / "Makefile").write_text("the lab's")
    (overlay / "tests" / "t").write_text("the lab's")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "t").write_text("untouched")
    (target / "Makefile").symlink_to(outside / "t")
    (target / "tests").symlink_to(outside)
    add_overlay(a_lab(tmp_path, 'overlay = "own"'), str(target))
    assert (target / "Makefile").read_text() == (target / "tests" / "t").read_text() == "the lab's"
    assert (outside / "t").read_text() == "untouched"


def handed_in(directory: Path, **files: str) -> Submission:
    source = directory / "in"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)
    return Submission("in", str(source))


def test_it_is_built_in_a_copy(tmp_path: Path, target: Path) -> None:
    lab = a_lab(tmp_path, 'build = "cp source kernel.elf; touch $HOME/home; cat; test -z \\"$SECRET\\""')
    os.environ["SECRET"] = "x"
    try:
        kernel = prepare(lab, handed_in(tmp_path, source="code"), str(target))
    finally:
        del os.environ["SECRET"]
    assert Path(kernel).read_text() == "code"
    assert sorted(os.listdir(tmp_path / "in")) == ["source"]
    assert (target / "home").exists()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo no such thing; exit 3", "failed with status 3:\nno such thing"),
        ("yes", r"was not done after 0.2 s:\ny\ny"),
        ("true", "there is no kernel.elf after 'true'"),
        ("ln -s /etc/passwd kernel.elf", "a link that leads out"),
        ("python3 -c 'bytearray(10**9)'", "MemoryError"),
    ],
)
def test_a_build_that_fails(tmp_path: Path, target: Path, command: str, told: str) -> None:
    limit = "build-timeout = 0.2" if command == "yes" else 'build-memory = "256M"'
    lab = a_lab(tmp_path, f'build = "{command}"\n{limit}')
    with pytest.raises(SubmissionError, match=told) as caught:
        prepare(lab, handed_in(tmp_path), str(target))
    assert len(str(caught.value)) < 2500


def test_nothing_that_a_build_starts_survives_it(tmp_path: Path, target: Path) -> None:
    # A grandchild in a session of its own, whose parent has gone.
    command = "(setsid sh -c 'echo $$ > pid; exec sleep 600' &); while ! test -s pid; do :; done; touch kernel.elf"
    lab = a_lab(tmp_path, f'build = "{command}"')
    prepare(lab, handed_in(tmp_path), str(target))
    assert not os.path.exists(f"/proc/{(target / 'pid').read_text().strip()}")


def test_a_disk_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "hello").write_text("hello, disk")
    lab = a_lab(tmp_path)
    path = make_image(lab, "d", DiskImage(directory="fs"), "", str(tmp_path))
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["hello"]
    assert os.path.getsize(path) % 512 == 0
    assert os.path.getsize(make_image(lab, "empty", DiskImage(size=1000), "", str(tmp_path))) == 1024
    with pytest.raises(ConfigError, match="'gone', and that is no file beside"):
        make_image(lab, "d", DiskImage(file="gone"), "", str(tmp_path))
    with pytest.raises(ConfigError, match="no directory to make a disk of"):
        make_image(lab, "d", DiskImage(directory="gone"), "", str(tmp_path))


@pytest.mark.needs("mke2fs", "mtools")
@pytest.mark.parametrize(
    ("filesystem", "read"), [("ext2", "debugfs -R 'cat hello' {}"), ("fat", "mtype -i {} ::hello")]
)
def test_a_file_system_of_a_directory(tmp_path: Path, filesystem: str, read: str) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "hello").write_text("hello, disk")
    path = make_image(a_lab(tmp_path), "d", DiskImage(directory="fs", filesystem=filesystem), "", str(tmp_path))
    with os.popen(f"PATH=$PATH:/sbin; {read.format(path)} 2>&1") as output:
        assert "hello, disk" in output.read()


def test_a_program_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fs").mkdir()
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(ConfigError, match="there is no mke2fs.*install e2fsprogs"):
        make_image(a_lab(tmp_path), "d", DiskImage(directory="fs", filesystem="ext2"), "", str(tmp_path))
