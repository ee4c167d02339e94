"""Network cards: two machines on a cable, what a capture of it holds, a loopback, and cards that are told apart."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import LIMIT

from pykvm import ConfigError, Machine
from pykvm.net import NetBackend
from pykvm.net.loopback import Loopback, NoNet
from pykvm.net.pcap import Capture
from pykvm.net.tap import TapNet
from pykvm.net.unix import UnixNet
from pykvm.pc import Nic

Guest = Callable[[str], Path]


@contextmanager
def net_guest(guest: Guest, backend: NetBackend, ip: str) -> Iterator[Machine]:
    """A running net.elf that has the address `ip`."""
    with Machine(guest("net"), nics=[backend]) as machine:
        machine.start(2 * LIMIT)
        machine.serial.wait_for("ready\n", LIMIT)
        machine.serial.send(f"ip {ip}\n")
        machine.serial.wait_for(f"ip {ip}\n", LIMIT)
        yield machine


def test_two_machines_on_a_cable_reach_each_other(guest: Guest, tmp_path: Path) -> None:
    cable = str(tmp_path / "cable")
    with (
        net_guest(guest, UnixNet(cable), "10.0.0.1") as one,
        net_guest(guest, UnixNet(cable), "10.0.0.2") as two,
    ):
        one.serial.send("ping 10.0.0.2 3\n")
        one.serial.wait_for("reply from 10.0.0.2: seq 3\n", LIMIT)
        one.serial.wait_for("ping: 3 sent, 3 received\n", LIMIT)
        two.serial.send("ping 10.0.0.1\n")
        two.serial.wait_for("ping: 1 sent, 1 received\n", LIMIT)
        one.serial.send("udp 10.0.0.2 1234 good morning\n")
        two.serial.wait_for("udp from 10.0.0.1:4000 to port 1234: good morning\n", LIMIT)
        for machine in (one, two):
            machine.serial.send("quit\n")
            assert machine.wait(LIMIT).code == 0


def packets(capture: Path) -> list[tuple[str, ...]]:
    """A row for each packet of the file, as tshark reads it."""
    fields = ("_ws.col.Protocol", "arp.opcode", "ip.src", "icmp.type", "icmp.seq")
    fields += ("icmp.checksum.status", "ip.checksum.status")
    done = subprocess.run(
        ["tshark", "-r", capture, "-n", "-o", "ip.check_checksum:TRUE", "-T", "fields"]
        + [part for field in fields for part in ("-e", field)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


@pytest.mark.needs("tshark")
def test_a_capture_of_the_cable_is_read_by_others(guest: Guest, tmp_path: Path) -> None:
    cable, captures = str(tmp_path / "cable"), [tmp_path / "one.pcap", tmp_path / "two.pcap"]
    with (
        net_guest(guest, Capture(UnixNet(cable), str(captures[0])), "10.0.0.1") as one,
        net_guest(guest, Capture(UnixNet(cable), str(captures[1])), "10.0.0.2") as two,
    ):
        one.serial.send("ping 10.0.0.2 2\n")
        one.serial.wait_for("ping: 2 sent, 2 received\n", LIMIT)
        two.serial.send("ping 10.0.0.1\n")
        two.serial.wait_for("ping: 1 sent, 1 received\n", LIMIT)
    rows, same = (packets(capture) for capture in captures)
    assert rows == same
    # ARP: 1 request, 2 reply. ICMP: 8 echo request, 0 echo reply. Checksums: 1 is good.
    assert [row[1] for row in rows if row[0] == "ARP"] == ["1", "2"]
    pings = [row[2:5] for row in rows if row[0] == "ICMP"]
    one_asks, two_asks = ("10.0.0.1", "8"), ("10.0.0.2", "8")
    one_answers, two_answers = ("10.0.0.1", "0"), ("10.0.0.2", "0")
    assert pings == [
        (*one_asks, "1"), (*two_answers, "1"), (*one_asks, "2"), (*two_answers, "2"), (*two_asks, "1"),
        (*one_answers, "1"),
    ]  # fmt: skip
    assert {row[5:] for row in rows if row[0] == "ICMP"} == {("1", "1")}


def test_nobody_answers_on_an_empty_cable(guest: Guest, tmp_path: Path) -> None:
    with net_guest(guest, UnixNet(str(tmp_path / "cable")), "10.0.0.1") as machine:
        machine.serial.send("ping 10.0.0.2\n")
        machine.serial.wait_for("10.0.0.2 does not answer ARP\n", LIMIT)
        machine.serial.wait_for("ping: 1 sent, 0 received\n", LIMIT)


def test_a_neighbour_may_go_and_another_come(guest: Guest, tmp_path: Path) -> None:
    cable = str(tmp_path / "cable")
    with net_guest(guest, UnixNet(cable), "10.0.0.1") as one:
        for _ in range(2):
            with net_guest(guest, UnixNet(cable), "10.0.0.2"):
                one.serial.send("ping 10.0.0.2\n")
                one.serial.wait_for("ping: 1 sent, 1 received\n", LIMIT)


def test_a_third_machine_finds_the_cable_taken(guest: Guest, tmp_path: Path) -> None:
    cable = str(tmp_path / "cable")
    with (
        Machine(guest("net"), nics=[UnixNet(cable)]),
        Machine(guest("net"), nics=[UnixNet(cable)]),
        pytest.raises(ConfigError, match="taken"),
    ):
        UnixNet(cable)


@pytest.mark.needs("kvm", "tap")
def test_a_tap_that_is_deleted_is_a_cable_that_leads_nowhere(guest: Guest) -> None:
    backend = TapNet("pykvmtest9")
    with net_guest(guest, backend, "10.0.0.1") as machine:
        subprocess.run(["ip", "link", "del", "pykvmtest9"], check=True)
        machine.serial.send("ping 10.0.0.2\n")
        machine.serial.wait_for("ping: 1 sent, 0 received\n", LIMIT)
        machine.serial.send("quit\n")
        assert machine.wait(LIMIT).code == 0


def test_demo_hears_itself_on_a_loopback_and_finds_the_disk(guest: Guest, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with Machine(guest("demo"), nics=[Loopback()], disks=[disk]) as machine:
        assert machine.run(LIMIT).code == 0
        text = re.sub(r"\x1b\[\d+m", "", machine.serial.text)
    assert "4 ok, 0 failed, 0 not there" in text
    assert re.search(r"memory +128 MiB, \d+ words written, 0 wrong +\[ok\]", text)
    assert re.search(r"network +NE2000 (?:[0-9a-f]{2}:){5}[0-9a-f]{2}: 64 bytes sent, came back +\[ok\]", text)
    assert disk.read_bytes()[512:].startswith(b"A guest kernel was here.\0")


def test_demo_without_disk_and_with_a_silent_network(guest: Guest) -> None:
    with Machine(guest("demo"), nics=[NoNet()]) as machine:
        assert machine.run(LIMIT).code == 0
        assert "2 ok, 0 failed, 2 not there" in machine.serial.text


def test_a_mac_address_that_was_asked_for_is_the_guests(guest: Guest) -> None:
    with Machine(guest("net"), nics=[Nic(NoNet(), bytes.fromhex("02005e102030"))]) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("net: mac 02:00:5e:10:20:30, ip 10.0.0.2\n", LIMIT)


def test_the_ends_of_a_cable_have_different_and_lasting_addresses(guest: Guest, tmp_path: Path) -> None:
    def macs() -> list[bytes]:
        cable = str(tmp_path / "cable")
        found = []
        with Machine(nics=[UnixNet(cable), Loopback()]) as one, Machine(nics=[UnixNet(cable), Loopback()]) as two:
            for machine in (one, two):
                found += machine.pc.options["nics"]
        return found

    first = macs()
    assert first[0] != first[2]
    assert first[0] != first[1]
    assert all(mac[0] & 3 == 2 for mac in first)  # locally administered, unicast
    assert macs() == first


def test_more_than_four_cards_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 NICs"):
        Machine(nics=[NoNet()] * 5)
