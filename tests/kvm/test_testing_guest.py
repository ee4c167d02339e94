"""A guest under test, without pytest's plugin: points, expecting, stopping, calling, variables, faults, evidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import LIMIT, SLOW, STATE_LOST, elf32, hexcode

from pykvm import ConfigError, Ending, Machine
from pykvm.net import NetBackend
from pykvm.testing import Mismatch, Point, Rig

Guests = Callable[[str], Path]
BRIEF = 1.0 if SLOW else 0.2
"""Seconds for what never comes."""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(timeout=LIMIT) as rig:
        yield rig


@pytest.fixture(scope="module", params=["shell", "shell32"])
def any_shell(request: pytest.FixtureRequest, rig: Rig, guest: Guests) -> Point:
    return rig.boot(guest(request.param), until="$ ", memory="16M")


@pytest.fixture(scope="module")
def shell(rig: Rig, guest: Guests, tmp_path_factory: pytest.TempPathFactory) -> Point:
    disk = tmp_path_factory.mktemp("disk") / "disk.img"
    disk.write_bytes(bytes(64 * 512))
    return rig.boot(guest("shell"), until="$ ", memory="16M", disks=[disk])


# Points


def test_points_nest_and_no_guest_sees_what_another_does(shell: Point) -> None:
    root = shell.then(lambda guest: (guest.send("login root\n"), guest.serial.expect("# ")))
    with root.fork() as one, shell.fork() as two:
        assert (one.read("current->name"), two.read("current->name")) == ("root", "sh")
        one.write("current->name", "toor")
        one.send("commands\n")
        assert one.serial.expect(re.compile(r"(\d+) commands")).groups() == ("2",)
    with root.fork() as three:
        assert three.read("current->name") == "root"
    assert root.snapshot.parent_id == shell.snapshot.id


def test_again_goes_back_on_the_same_machine(shell: Point) -> None:
    with shell.again() as guest:
        first = guest.machine
        guest.write("commands", 1234)
        guest.faults.out_of_memory("allocate")
        guest.faults.disk_error(3)
        guest.faults.lost_interrupt(4)
        guest.stop()
    with shell.again() as guest:
        assert guest.machine is first
        assert guest.read("commands") == 0
        guest.send("allocate\nread 3\n")
        guest.serial.expect("allocated\n$ sector 3: read\n$ ")


def test_again_after_the_end_of_the_run_and_after_a_pause_that_was_forgotten(shell: Point) -> None:
    with shell.again() as guest:
        guest.send("exit 3\n")
        assert guest.wait().code == 7
    with shell.again() as guest:
        guest.machine.pause()
    with shell.again() as guest:
        guest.machine.close()
    with shell.again() as guest:
        guest.send("echo one\n")
        guest.serial.expect("one\n$ ")


def test_one_at_a_time(shell: Point) -> None:
    with shell.again(), pytest.raises(ConfigError, match="in use"):
        shell.again()


def test_what_an_exception_has_left_can_be_looked_at_until_another_test_begins(rig: Rig, shell: Point) -> None:
    guest = shell.again()

    def fail() -> None:
        with guest:
            guest.send("echo left\n")
            guest.serial.expect("left\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert guest.read("commands") == 1
    assert guest in rig.guests
    rig.begin()
    assert guest not in rig.guests
    with shell.again() as guest:
        assert guest.read("commands") == 0


def test_a_limit_ends_the_run_and_is_each_tests_own(guest: Guests) -> None:
    with Rig(timeout=LIMIT, limit=BRIEF) as rig:
        shell = rig.boot(guest("shell"), memory="16M")  # not started: what it takes to boot is not in question
        for _ in range(2):
            with shell.again() as one:
                assert one.wait().ending is Ending.TIMED_OUT


def test_a_kernel_that_does_not_boot_says_what_it_does(rig: Rig, guest: Guests) -> None:
    with pytest.raises(Mismatch, match="'login: ' did not come: the run has ended"):
        rig.boot(guest("hello64"), until="login: ", memory="16M")
    (left,) = rig.guests
    assert "Hello" in left.evidence().serial
    rig.begin()


def test_own_devices_go_along(rig: Rig, guest: Guests) -> None:
    seen: list[Machine] = []

    def prepare(machine: Machine) -> None:
        machine.port(0x600 + 0x100)(lambda access: 5)
        seen.append(machine)

    point = rig.boot(guest("shell"), until="$ ", memory="16M", prepare=prepare)
    with point.fork() as one:
        assert seen[-1] is one.machine


@pytest.mark.needs("hw-breakpoints")
def test_a_point_may_be_a_function_of_the_kernel(rig: Rig, guest: Guests) -> None:
    main = rig.boot(guest("shell"), until=lambda one: one.run_until("main"), memory="16M")
    for again in (main.fork, main.again, main.again):
        with again() as one:
            assert one.machine.serial.text in ("", "$ ")
            one.serial.expect("$ ")
            one.send("commands\n")
            one.serial.expect("1 commands")


# Expecting


def test_groups_and_what_came_before(shell: Point) -> None:
    with shell.fork() as guest:
        guest.send("echo pid 12 name sh\n")
        match = guest.serial.expect(re.compile(r"pid (\d+) (?P<what>\w+) (x)?"))
        assert match.groups() == ("12", "name", None)
        assert (match["what"], match[1], str(match)) == ("name", "12", "pid 12 name ")
        guest.send("echo and more\n")
        assert guest.serial.expect("more\n").before == "sh\n$ and "


def test_a_mismatch_shows_what_came_instead(shell: Point) -> None:
    with shell.fork() as guest:
        guest.send("echo hallo world\n")
        with pytest.raises(Mismatch) as caught:
            guest.serial.expect("hello world", BRIEF)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("COM1: 'hello world' did not come: ")
    assert "  - hello world" in lines
    assert "  + hallo world" in lines


def test_an_end_of_the_run_is_told_at_once(shell: Point) -> None:
    with shell.fork() as guest:
        guest.send("crash\n")
        with pytest.raises(Mismatch, match="the run has ended"):
            guest.serial.expect("$ ")


def test_screen_and_keyboard(rig: Rig, guest: Guests) -> None:
    bios = rig.boot(guest("bios"), until="press keys", memory="4M")
    with bios.fork() as one:
        one.screen.expect(re.compile("press k.ys"))
        one.type("a")
        one.screen.expect("1E61")
        with pytest.raises(Mismatch, match=r"screen: 'nothing' did not come"):
            one.screen.expect("nothing", BRIEF)


# Stopping


@pytest.mark.needs("hw-breakpoints")
def test_run_until_a_function_and_on(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        guest.stop()
        guest.send("allocate\nallocate\n")
        for _ in range(2):
            stop = guest.run_until("allocate")
            assert stop.address == guest.address("allocate")
            assert "<allocate+0x0>" in guest.where()
        assert guest.read("heap_used") == 64
        guest.serial.expect("allocated\n$ allocated\n$ ")


@pytest.mark.needs("hw-breakpoints")
def test_what_is_not_reached(shell: Point) -> None:
    with shell.fork() as guest:
        with pytest.raises(Mismatch, match=r"<allocate\+0x0>.* was not reached: the time is up; CPU 0 is at .*<"):
            guest.run_until("allocate", BRIEF)
        guest.send("exit 1\n")
        with pytest.raises(Mismatch, match="the run has ended"):
            guest.run_until("allocate")


@pytest.mark.needs("hw-breakpoints")
def test_a_crash_on_the_way_is_explained(shell: Point) -> None:
    with shell.fork() as guest:
        guest.stop()
        guest.send("crash\n")
        with pytest.raises(Mismatch, match="crashed"):
            guest.run_until("allocate")
        assert "triple fault" in guest.evidence().crash


def test_run_until_memory_changes(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        guest.stop()
        guest.send("login me\n")
        changed = guest.run_until_changed("commands")
        assert (changed.old, changed.new) == (bytes(4), bytes([1, 0, 0, 0]))
        assert guest.machine.symbols is not None
        assert guest.machine.symbols.lookup(changed.pc)[0] == "main"  # type: ignore[index]
        guest.run_until_changed("processes[1].name", size=1)
        assert guest.read("current->name") == "mh"
        guest.serial.expect("# ")
        with pytest.raises(Mismatch, match="did not change: the time is up"):
            guest.run_until_changed("commands", timeout=BRIEF)


def test_too_much_to_watch(shell: Point) -> None:
    with shell.fork() as guest, pytest.raises(ConfigError, match="at most four"):
        guest.run_until_changed("processes")


# Calling


@pytest.mark.needs("hw-breakpoints")
def test_call(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        before = guest.where()
        assert guest.call("mix", -1, 65535, -3, 1 << 40, 5, 6, -(1 << 33), -8) == (
            -1 + 65535 - 3 + (1 << 40) + 5 + 6 - 2 * (1 << 33) - 24
        )
        assert guest.call("is_running", guest.address("processes")) is False
        assert guest.call("is_running", guest.read("current")) is True
        assert guest.call("rename_current", "zsh") is None
        assert guest.read("current->name") == "zsh"
        assert guest.call("strcmp", b"abc\0", "abd") < 0
        first = guest.call("allocate", 16)
        assert guest.call("allocate", 16) == first + 16
        assert guest.where() == before
        guest.send("echo on\n")
        guest.serial.expect("on\n$ ")


@pytest.mark.needs("hw-breakpoints")
def test_calls_that_cannot_be(shell: Point) -> None:
    with shell.fork() as guest:
        with pytest.raises(ConfigError, match="takes 8 arguments, not 1"):
            guest.call("mix", 1)
        with pytest.raises(ConfigError, match=r"cannot be passed"):
            guest.call("allocate", 1.5)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="did you mean 'allocate'"):
            guest.call("alocate", 1)
        with pytest.raises(Mismatch, match="has not returned: the time is up"):
            guest.call("do_command", "spin", timeout=BRIEF)


@pytest.mark.needs("hw-breakpoints")
def test_a_function_that_crashes(shell: Point) -> None:
    with shell.fork() as guest, pytest.raises(Mismatch, match="has not returned: crashed"):
        guest.call("do_command", "crash")


# Variables


def test_variables_by_their_types(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        process = guest.read("processes[1]")
        parent = guest.address("processes")
        assert process == {
            "pid": 7, "state": 2, "name": "sh", "parent": parent, "nice": 0, "traced": True, "on_cpu": 5,
            "priority": 17, "ticks": 0,
        }  # fmt: skip
        assert process["state"].name == "RUNNING"
        assert guest.read("current->parent->ticks") == 1 << 40
        assert guest.read("current->parent->nice") == -5
        assert guest.read("*current") == process
        assert [each["pid"] for each in guest.read("processes")] == [1, 7, 0, 0]
        assert guest.variable("prompt").string == "$ "
        assert guest.variable("current")[-1]["name"].value == "init"
        assert "struct process" in repr(guest.variable("current"))


def test_variables_are_set(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        guest.write("current->nice", -7)
        guest.write("current->priority", 9)
        guest.write("processes[2]", {"pid": 99, "name": "twelve-chars", "traced": True})
        guest.write("processes[3].ticks", (1 << 64) - 1)
        assert (guest.read("current->nice"), guest.read("current->priority"), guest.read("current->on_cpu")) == (
            -7,
            9,
            5,
        )
        assert guest.read("processes[2]")["name"] == "twelve-chars"
        assert guest.read("processes[3].ticks") == (1 << 64) - 1
        guest.write("commands", 41)
        guest.send("commands\n")
        guest.serial.expect("42 commands")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("comands", "no symbol 'comands'.*'commands'"),
        ("current->nam", "no field 'nam'.*'name'"),
        ("processes[4]", "has 4 elements"),
        ("commands.x", "has no fields"),
        ("commands[0]", "has no elements"),
        ("*commands", "no pointer"),
        ("current->", "is no .field"),
        ("", "is no variable"),
    ],
)
def test_variables_that_are_not(shell: Point, expression: str, words: str) -> None:
    with shell.again() as guest, pytest.raises(ConfigError, match=words):
        guest.read(expression)


def test_values_that_do_not_fit(shell: Point) -> None:
    with shell.again() as guest:
        for what, value in (("current->nice", 256), ("current->priority", 32), ("current->name", "x" * 13)):
            with pytest.raises(ConfigError):
                guest.write(what, value)
        with pytest.raises(ConfigError, match="is a structure"):
            guest.write("*current", 5)
        with pytest.raises(ConfigError, match="no CPU maps"):
            guest.read(0x7000_0000_0000, 4)


def test_memory_at_addresses(shell: Point) -> None:
    with shell.fork() as guest:
        at = guest.address("commands")
        guest.write(at, b"\x05\0\0\0")
        assert guest.read(at, 4) == b"\x05\0\0\0"
        assert guest.read("commands", 1) == b"\x05"


def test_an_image_without_symbols(rig: Rig) -> None:
    point = rig.boot(elf32(hexcode("eb fe"), 0), memory="4M")
    with point.fork() as guest, pytest.raises(ConfigError, match="symbol"):
        guest.run_until("main")


# Faults


def test_a_disk_error_at_one_sector(shell: Point) -> None:
    with shell.fork() as guest:
        guest.faults.disk_error(7, count=1)
        guest.send("read 6\nread 7\nread 7\n")
        guest.serial.expect("sector 6: read\n$ sector 7: drive reports an error\n$ sector 7: read\n")
        with pytest.raises(ConfigError, match="has 64 sectors"):
            guest.faults.disk_error(64)
        with pytest.raises(ConfigError, match="no disk 1"):
            guest.faults.disk_error(0, disk=1)


def test_a_lost_interrupt(shell: Point) -> None:
    with shell.fork() as guest:
        guest.faults.lost_interrupt(4)
        guest.send("echo lost\n")
        with pytest.raises(Mismatch, match="Nothing came"):
            guest.serial.expect("lost", BRIEF)
        with pytest.raises(ConfigError, match="in the kernel"):
            guest.faults.lost_interrupt(0)
        with pytest.raises(ConfigError, match="no device is at interrupt 13"):
            guest.faults.lost_interrupt(13)


def test_out_of_memory(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        guest.faults.out_of_memory("allocate")
        guest.send("allocate\nallocate\n")
        guest.serial.expect("out of memory\n$ out of memory\n$ ")
        guest.faults.heal()
        guest.send("allocate\n")
        guest.serial.expect("allocated\n$ ")


class Wire(NetBackend):
    """Keeps what the guest sends."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)


ARP_REQUEST = bytes.fromhex(
    "ffffffffffff 020000000001 0806  0001 0800 06 04 0001  020000000001 0a000001  000000000000 0a000002"
).ljust(60, b"\0")
"""RFC 826: 10.0.0.1 asks for 10.0.0.2, which is the guest."""


def test_a_nic_that_drops_frames(rig: Rig, guest: Guests) -> None:
    wires: list[Wire] = []

    def wire() -> list[Wire]:
        wires.append(Wire())
        return wires[-1:]

    net = rig.boot(guest("net"), until="ready\n", memory="16M", nics=wire)
    with net.fork() as one:
        assert len(wires) == 2
        cable = wires[-1]

        def ask() -> int:
            """How many frames the guest has answered with, once it has: it takes the line after that."""
            assert cable.deliver is not None
            with one.machine.lock:
                cable.deliver(ARP_REQUEST)
            one.send("what\n")
            one.serial.expect("commands: ip")
            return len(cable.frames)

        assert ask() == 1
        one.faults.nic_drop(on="receive", count=1)
        assert ask() == 1
        assert ask() == 2
        one.faults.nic_drop(on="send")
        assert ask() == 2
        one.faults.heal()
        assert ask() == 3
        with pytest.raises(ConfigError, match="no NIC 1"):
            one.faults.nic_drop(1)


# Evidence


def test_evidence(shell: Point, tmp_path: Path) -> None:
    with shell.fork() as guest:
        guest.send("crash\n")
        guest.wait()
        found = guest.evidence()
        assert "CPU 0: at " in found.state
        assert ("CPU that died" if STATE_LOST else "`ud2`") in found.crash
        assert found.exits.splitlines()[-2].startswith("in  port 0x3fd")
        titles = [title for title, _ in found.sections()]
        assert titles == ["guest", "serial port, the end", "crash", "last exits"]


@pytest.mark.needs("hw-breakpoints")
def test_evidence_of_a_guest_that_runs_or_is_stopped(any_shell: Point) -> None:
    with any_shell.fork() as guest:
        assert guest.evidence().state.startswith("running\nCPU 0: at ")
        guest.send("allocate\n")
        guest.stop()
        guest.run_until("allocate")
        assert guest.evidence().state.startswith("stopped: breakpoint\n")
        guest.serial.expect("allocated")


def test_a_guest_is_let_go_by_what_waits_for_it(shell: Point) -> None:
    with shell.fork() as guest:
        guest.stop()
        guest.send("exit 5\n")
        assert guest.wait().code == 11


def test_pykvm_testing_needs_no_pytest() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['pytest'] = None; from pykvm.testing import *; Rig, Guest"
    subprocess.run([sys.executable, "-c", code], check=True)
