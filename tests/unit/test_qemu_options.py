"""QEMU's command line: each option as its manual page has it, hostile ones, and the one table of them."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.cli import invoke
from pykvm.errors import ConfigError
from pykvm.qemu import flags, words
from pykvm.qemu.channels import Spec, parse
from pykvm.qemu.drives import Drive, place
from pykvm.qemu.flags import FLAGS, SAID, WORKS
from pykvm.qemu.reading import _Reading, handler, read
from pykvm.qemu.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def asked(line: str) -> Settings:
    return read(shlex.split(line))


def refused(line: str) -> str:
    with pytest.raises(ConfigError) as error:
        asked(line)
    return str(error.value)


def test_the_flags_of_xv6() -> None:
    wanted = asked(
        "-nographic -drive file=fs.img,index=1,media=disk,format=raw -drive file=xv6.img,index=0,media=disk,format=raw "
        "-smp 2 -m 512"
    )
    assert wanted.memory == 512 << 20
    assert wanted.cpus == 2
    assert wanted.serials == ["mon:stdio"]
    assert not wanted.monitors
    assert not wanted.words
    disks = place(wanted.drives, pytest.fail).disks
    assert [disk and disk.file for disk in disks] == ["xv6.img", "fs.img"]


def test_the_flags_of_jos() -> None:
    line = (
        "-nographic -drive file=kernel.img,index=0,media=disk,format=raw -serial mon:stdio -gdb tcp::26000 -D qemu.log"
    )
    assert not asked(line).stopped
    wanted = asked(line + " -S")
    assert (wanted.stopped, wanted.gdb, wanted.log_file, wanted.serials) == (True, ":26000", "qemu.log", ["mon:stdio"])


def test_the_flags_of_pintos() -> None:
    wanted = asked("-device isa-debug-exit -hda /tmp/x.dsk -hdb y.dsk -m 4 -net none -nographic -monitor null")
    assert wanted.exit_ports == [(0x501, 2)]
    assert wanted.memory == 4 << 20
    assert (wanted.serials, wanted.monitors) == (["stdio"], [("null", "readline")])
    assert not wanted.nets.all


def test_the_flags_of_blog_os() -> None:
    wanted = asked(
        "-drive format=raw,file=bootimage.bin -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=0x04 "
        "-serial stdio -display none"
    )
    assert wanted.exit_ports == [(0xF4, 4)]
    assert wanted.no_reboot
    assert (wanted.display, wanted.serials, wanted.monitors) == ("none", ["stdio"], [])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4", 4 << 20), ("size=64", 64 << 20), ("2G", 2 << 30), ("1.5G", 3 << 29), ("512K", 512 << 10), ("0x10", None),
        ("65536k", 64 << 20), ("128,slots=2,maxmem=1G", 128 << 20), ("", None), ("-1", None), ("1e9", None), ("1.", None),
        ("9" * 40, None), ("4,foo=1", None), ("²", None),
    ],
)  # fmt: skip
def test_memory(text: str, size: int | None) -> None:
    if size is None:
        assert refused(f"-m '{text}'").startswith(f"-m {text}".rstrip())
    else:
        assert asked(f"-m {text}").memory == size


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("2", 2), ("cpus=3", 3), ("sockets=2,cores=2,threads=1", 4), ("4,sockets=1,cores=4,threads=1,maxcpus=8", 4),
        ("2,maxcpus=1", None), ("0", None), ("x", None), ("cores=0", None), ("2,books=1", None),
    ],
)  # fmt: skip
def test_cpus(text: str, cpus: int | None) -> None:
    if cpus is None:
        refused(f"-smp {text}")
    else:
        assert asked(f"-smp {text}").cpus == cpus


def test_two_commas_are_one() -> None:
    assert words.split("a,,b,c,,,d") == ["a,b", "c,", "d"]
    assert asked("-drive file=a,,b.img,format=raw").drives[0].file == "a,b.img"


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda part: part[0] != ","), min_size=1, max_size=5))
def test_splitting_is_the_reverse_of_joining(parts: list[str]) -> None:
    assert words.split(",".join(part.replace(",", ",,") for part in parts)) == parts


def test_places_of_drives() -> None:
    wanted = asked("-drive file=a -drive file=b,if=ide -cdrom c.iso -fda f -drive file=d,snapshot=on")
    places = place(wanted.drives, pytest.fail)
    assert places.all == [
        ("ide0-hd0", Drive("a", slot=None)),
        ("ide0-hd1", Drive("b", slot=None)),
        ("ide1-hd1", Drive("d", snapshot=True)),
        ("ide1-cd0", Drive("c.iso", media="cdrom", slot=2, readonly=True)),
        ("floppy0", Drive("f", "floppy", slot=0)),
    ]


def test_virtio_drives_have_no_places() -> None:
    wanted = asked("-drive file=a,if=virtio -drive if=none,id=d,file=b -device virtio-blk-pci,drive=d -hda c")
    places = place(wanted.drives, pytest.fail)
    assert [each.file for each in places.virtio] == ["a", "b"]
    assert [name for name, _ in places.all] == ["ide0-hd0", "virtio0", "virtio1"]
    with pytest.raises(ConfigError, match="a virtio drive is a disk"):
        place(asked("-drive if=virtio,media=cdrom,file=a").drives, pytest.fail)


def test_a_drive_that_a_device_names() -> None:
    wanted = asked("-drive if=none,id=disk0,file=a -device ide-hd,drive=disk0,bus=ide.1,unit=1")
    assert [disk and disk.file for disk in place(wanted.drives, pytest.fail).disks] == [None, None, None, "a"]
    assert "no -drive if=none,id=b" in refused("-drive if=none,id=a,file=x -device ide-hd,drive=b")


@pytest.mark.parametrize(
    "line",
    [
        "-hda a -hda b", "-drive file=a,index=0 -drive file=b,bus=0,unit=0", "-hda a -hdb b -hdc c -hdd d -drive file=e",
        "-fda a -drive file=b,if=floppy",
    ],
)  # fmt: skip
def test_two_drives_in_one_place(line: str) -> None:
    with pytest.raises(ConfigError):
        place(asked(line).drives, pytest.fail)


def test_all_disks_forget_with_snapshot() -> None:
    assert {drive.mode for drive in asked("-hda a -drive file=b -snapshot").drives} == {"discard"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-drive file=a,if=scsi", "-drive file=a,if=scsi: there is no if=scsi"),
        ("-device e1000", "there is no e1000"),
        ("-device foo", "there is no device 'foo'"),
        ("-nic user,smb=/", "-nic user,smb=/: smb=: the user network is passt"),
        ("-netdev user,id=n,restrict=maybe", "restrict=maybe: give on or off"),
        ("-netdev tap,id=n", "ifname="),
        ("-vnc :1", "-vnc :1: not here"),
        ("-d in_asm", "in_asm"),
        ("-d int,foo", "there is no 'foo' to log"),
        ("-machine microvm", "there is no machine 'microvm'"),
        ("-foo", "-foo: invalid option"),
        ("-m", "-m: requires an argument"),
        ("-serial", "-serial: requires an argument"),
        ("-nographic -daemonize", "-daemonize leaves no terminal"),
        ("-serial stdio -daemonize", "-daemonize leaves no terminal"),
        ("-rtc base=localtime", "base=utc"),
        ("-gdb foo", "gdb is not served"),
        ("-uuid 1", "is no UUID"),
        ("-boot order=xyz", "are no drives"),
        ("-boot n", "network"),
        ("-kernel a -kernel b", "there is a kernel already"),
        ("-mon foo=1", "give chardev=ID"),
        ("-chardev foo,id=a", "there is no 'foo'"),
        ("-chardev stdio", "give an id"),
        ("-device isa-debug-exit,iobase=0x10000", "iobase=0x10000"),
        ("-drive media=disk", "there is no file="),
        ("-drive file=a,foo=1", "there is no foo="),
        ("-loadvm a", "-loadvm a: not here"),
    ],
)
def test_refused_by_name(line: str, words: str) -> None:
    assert words in refused(line)


def test_what_changes_nothing_is_said() -> None:
    said = asked("-cpu host -accel tcg -machine q35,accel=kvm -vga qxl -device VGA -k de").words
    assert [word.split(":")[0].split()[0] for word in said] == [
        "-cpu", "-accel", "-machine", "-vga", "-device", "-k",
    ]  # fmt: skip
    assert not asked("-enable-kvm -accel kvm -machine pc,accel=kvm -no-hpet -parallel none -vga std").words


def test_cards() -> None:
    wanted = asked("-parallel file:out -device pc-testdev -device virtio-rng-pci")
    assert (wanted.cards, wanted.devices) == (["lpt:out", "pc-testdev"], ["pykvm.devices.virtio.rng:VirtioRng"])
    assert asked("-parallel null").cards == ["lpt"]
    assert "file:FILE" in refused("-parallel stdio")


def test_networks() -> None:
    assert asked("-nic tap,ifname=tap0,mac=52:54:00:12:34:56,model=ne2k_isa").nets.all == [
        "tap:tap0,mac=52:54:00:12:34:56"
    ]
    assert asked("-netdev tap,id=n,ifname=t,script=no -device ne2k_isa,netdev=n").nets.all == ["tap:t"]
    assert asked("-net nic,model=ne2k_isa -net tap,ifname=t").nets.all == ["tap:t"]
    line = "-netdev user,id=n,hostfwd=tcp::2222-:22,hostfwd=udp::53-:53,restrict=on -device ne2k_isa,netdev=n"
    assert asked(line).nets.all == ["user,hostfwd=tcp::2222-:22,hostfwd=udp::53-:53,restrict=on"]
    assert asked("-net nic -net user").nets.all == ["user"]
    assert asked("-net nic -net none").nets.all == ["none"]
    assert "script=no" in refused("-netdev tap,id=n,ifname=t,script=/etc/up")


def test_the_monitor_where_nobody_says() -> None:
    assert asked("-nographic").serials == ["mon:stdio"]
    assert asked("-nographic -monitor none").serials == ["stdio"]
    assert asked("-nographic -serial null").monitors == [("stdio", "readline")]
    assert asked("-nographic -nodefaults").serials == []
    assert asked("").serials == ["vc"]
    shared = asked("-chardev stdio,mux=on,id=c -serial chardev:c -mon chardev=c -nographic")
    assert (shared.serials, shared.monitors) == (["chardev:c"], [])
    apart = asked("-chardev socket,path=x,server=on,id=c -mon chardev=c,mode=control -nographic")
    assert (apart.serials, apart.monitors) == (["mon:stdio"], [("chardev:c", "control")])


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("stdio", Spec("stdio")),
        ("mon:stdio", Spec("stdio", mux=True, signals=False)),
        ("file:a,,b", Spec("file", "a,b")),
        ("unix:s,server=on,wait=off", Spec("unix", "./s", server=True, wait=False)),
        ("unix:/s,server,nowait", Spec("unix", "/s", server=True, wait=False)),
        ("tcp::4444,server=on", Spec("tcp", ":4444", server=True)),
        ("tcp:host:4444", Spec("tcp", "host:4444")),
        ("pty", Spec("pty")),
        ("none", Spec("none")),
        ("vc:80Cx24C", Spec("null")),
    ],
)
def test_character_devices(text: str, spec: Spec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text", ["", "foo", "file:", "unix:", "udp:1", "telnet::1,server", "mon:", "tcp:1,foo=2", "stdio,x"]
)
def test_no_character_device(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_every_option_of_the_table_is_read() -> None:
    reading = _Reading()
    for name, flag in FLAGS.items():
        assert flag.state != WORKS or callable(handler(reading, name)), name
        assert flag.words


WORD = st.sampled_from(
    [f"-{name}" for name in FLAGS]
    + ["stdio", "mon:stdio", "a,b=c", "on", ",,", "=", "1", "file=x,index=1", "id=a", "-", "--"]
)


@given(st.lists(WORD | st.text(max_size=8), max_size=8))
def test_any_command_line_is_read_or_refused(line: list[str]) -> None:
    with suppress(ConfigError):
        wanted = read(line)
        place(wanted.drives, lambda word: None)
        for spec in wanted.serials:
            if not spec.startswith("chardev:"):
                parse(spec)


def test_the_page_has_the_table() -> None:
    assert flags.table() in (ROOT / "docs" / "qemu.md").read_text()


def test_the_help_has_lines_that_scripts_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["qemu", "-help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for beginning in ("-D ", "-gdb ", "-kernel ", "-nographic"):
        assert any(line.startswith(beginning) for line in lines)
    assert not any(line.startswith("-spice") for line in lines)


def test_versions_and_log_items(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["qemu", "-version"]) == 0
    assert capsys.readouterr().out.startswith("QEMU emulator version ")
    assert invoke(["qemu", "-d", "help"]) == 0
    assert "cpu_reset" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["-nope", "-kernel /nowhere", "", "-serial foo -kernel /nowhere", "-vnc :1"])
def test_a_mistake_is_status_1(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["qemu", *line.split()]) == 1
    assert capsys.readouterr().err.startswith("pykvm qemu: ")


def test_run_answers_from_the_same_table() -> None:
    from pykvm.cli.run import command

    known = {name for option in command.options for name in option.names}
    for name, flag in FLAGS.items():
        answer = flags.answer(f"-{name}", known)
        assert (answer is None) == (len(name) < 2), name
        assert flag.state == SAID or flag.run or answer is None or "pykvm qemu" in answer or "give '--" in answer
