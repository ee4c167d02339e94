"""gdb's remote protocol, packet by packet against a real machine, and what hostile clients send."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import HALT, LIMIT, SLOW, SPIN, STATE_LOST, flat, hexcode
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm import ConfigError, Ending, Machine
from pykvm.debug.control import Control
from pykvm.debug.gdb import GdbServer
from pykvm.debug.gdb.packets import Decoder, Mark, Packet, encode
from pykvm.debug.gdb.session import Session, architecture

START = 0x100000
NOPS = b"\x90" * 16 + SPIN


class Client:
    """A client that speaks to a session with no socket between them."""

    def __init__(self, machine: Machine, control: Control) -> None:
        self.session = Session(control, self._take, architecture(machine.engine))
        self.machine, self.control = machine, control
        self._decoder = Decoder()
        self.items: list[Packet | Mark] = []

    def _take(self, data: bytes) -> None:
        self.items += self._decoder.feed(data)

    def ask(self, payload: bytes) -> bytes:
        """The one answer to a packet."""
        self.items.clear()
        self.session.receive(encode(payload))
        packets = [item.payload for item in self.items if isinstance(item, Packet)]
        assert len(packets) == 1, packets
        assert all(item.good for item in self.items if isinstance(item, Packet))
        return packets[0]

    def go(self, payload: bytes) -> bytes:
        """The stop reply to a packet that lets the machine go, with what was printed before it in front."""
        self.items.clear()
        self.session.receive(encode(payload))
        self.control.wait(LIMIT)
        self.session.report()
        packets = [item.payload for item in self.items if isinstance(item, Packet)]
        printed = b"".join(bytes.fromhex(packet[1:].decode()) for packet in packets[:-1])
        return printed + packets[-1]

    def command(self, text: str) -> str:
        """What `monitor` prints."""
        self.items.clear()
        self.session.receive(encode(b"qRcmd," + text.encode().hex().encode()))
        *output, done = [item.payload for item in self.items if isinstance(item, Packet)]
        assert done == b"OK"
        return b"".join(bytes.fromhex(packet[1:].decode()) for packet in output).decode()


@contextmanager
def served(code: bytes, mode: int = 64, **options: Any) -> Iterator[Client]:
    with flat(code, mode, **options) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        yield Client(machine, control)


def test_acknowledgements() -> None:
    with served(SPIN) as client:
        client.session.receive(b"$qC#b4")
        assert client.items == [Mark.ACK, Packet(b"QC1", True)]
        client.session.receive(b"-")  # once more
        assert client.items[2:] == [Packet(b"QC1", True)]
        client.items.clear()
        client.session.receive(b"$qC#00")
        assert client.items == [Mark.NAK]
        assert client.ask(b"QStartNoAckMode") == b"OK"
        client.items.clear()
        client.session.receive(b"$qC#b4-+")
        assert client.items == [Packet(b"QC1", True)]


def test_what_is_supported() -> None:
    with served(SPIN) as client:
        features = client.ask(b"qSupported:multiprocess+;swbreak+").split(b";")
        assert {b"PacketSize=4000", b"QStartNoAckMode+", b"qXfer:features:read+", b"swbreak+"} <= set(features)
        assert client.ask(b"vCont?").startswith(b"vCont;c;C;s;S")
        assert client.ask(b"vMustReplyEmpty") == b""
        assert client.ask(b"qAttached") == b"1"


def test_the_description_in_parts() -> None:
    with served(SPIN) as client:
        text, answer = b"", b"m"
        while answer[:1] == b"m":
            answer = client.ask(b"qXfer:features:read:target.xml:%x,100" % len(text))
            text += answer[1:]
        assert text.startswith(b"<?xml")
        assert text.endswith(b"</target>\n")
        assert client.ask(b"qXfer:features:read:other.xml:0,100") == b"E00"


def test_registers() -> None:
    with served(hexcode("48 b8 88 77 66 55 44 33 22 11") + SPIN) as client:  # mov rax, 0x1122334455667788
        assert client.go(b"s").startswith(b"T05thread:1;")
        everything = client.ask(b"g")
        assert everything.startswith(b"8877665544332211")
        assert client.ask(b"p0") == b"8877665544332211"
        assert client.ask(b"p10") == (START + 10).to_bytes(8, "little").hex().encode()
        assert client.ask(b"P1=0100000000000000") == b"OK"
        assert client.ask(b"G" + everything) == b"OK"
        assert client.ask(b"p1") == b"00" * 8
        assert client.ask(b"P28=" + b"11" * 16) == b"OK"  # xmm0
        assert client.ask(b"p28") == b"11" * 16
        for wrong in (b"p1000", b"p", b"pzz", b"P0=11", b"P0", b"P1000=00", b"G1", b"Gzz", b"P12=ff00"):
            assert client.ask(wrong) == b"E16", wrong


@pytest.mark.needs("hw-breakpoints")
def test_a_breakpoint_is_met_again_after_each_reset() -> None:
    with served(hexcode("90\n b0 fe; mov al, 0xfe\n e6 64; out 0x64, al") + SPIN) as client:
        assert client.ask(b"Z0,100001,1") == b"OK"
        for resets in range(3):
            assert client.go(b"c").startswith(b"T05thread:1;")
            assert client.ask(b"p10") == (START + 1).to_bytes(8, "little").hex().encode()
            assert client.ask(b"p0") == (b"00" * 8)
            assert client.control.engine.resets == resets
            client.go(b"s")  # over the breakpoint, as gdb does


def test_memory() -> None:
    with served(SPIN, memory="1M", load=0x7C00, entry=0x7C00) as client:
        assert client.ask(b"m7c00,2") == SPIN.hex().encode()
        assert client.ask(b"M2000,3:616263") == b"OK"
        assert client.ask(b"X2003,3:#$}") == b"OK"
        assert client.ask(b"m2000,6") == b"abc#$}".hex().encode()
        assert client.ask(b"mffffe,8") == b"fc00"  # RAM ends, with the BIOS's model byte
        for wrong in (b"m100000,1", b"mfee00000,4", b"M100000,1:00", b"Mfffff,2:0000", b"mffffffffffffffff,1"):
            assert client.ask(wrong) == b"E0e", wrong
        for wrong in (b"m", b"m1", b"m1,2,3", b"M2000,2:61", b"M2000,1:zz", b"m-1,1", b"m11111111111111111,1"):
            assert client.ask(wrong) == b"E16", wrong
        assert client.ask(b"qqemu.PhyMemMode") == b"0"
        assert client.ask(b"Qqemu.PhyMemMode:1") == b"OK"
        assert client.ask(b"m2000,3") == b"616263"
        assert client.ask(b"m100000,1") == b"E0e"
        assert client.ask(b"M2000,1:7a") == b"OK"
        assert client.ask(b"Qqemu.PhyMemMode:0") == b"OK"
        assert client.ask(b"m2000,1") == b"7a"


def bit_by_bit(byte: int) -> int:
    """What gdb's CRC-32 makes of a byte after zero: polynomial 0x04c11db7, the highest bit first."""
    value = byte << 24
    for _ in range(8):
        value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def crc(data: bytes) -> int:
    """gdb's CRC-32: from 0xffffffff, not inverted."""
    table = [bit_by_bit(byte) for byte in range(256)]
    value = 0xFFFFFFFF
    for byte in data:
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ byte]
    return value


def test_checksums_of_memory() -> None:
    assert crc(b"123456789") == 0x0376E6E7  # CRC-32/MPEG-2, the same parameters, has this check value
    with served(SPIN, memory="2M", load=0x7C00, entry=0x7C00) as client:
        assert client.ask(b"M2000,9:" + b"123456789".hex().encode()) == b"OK"
        assert client.ask(b"qCRC:2000,9") == b"C376e6e7"
        assert client.ask(b"qCRC:2000,0") == b"Cffffffff"
        client.control.write(0, 0xFFF01, bytes(range(255)) * 2)
        in_two_pieces = crc(client.control.read(0, 0, 0x100100))
        assert client.ask(b"qCRC:0,100100") == b"C%x" % in_two_pieces
        for wrong in (b"qCRC:1fffff,2", b"qCRC:0,200001", b"qCRC:0,ffffffffffffffff", b"qCRC:ffffffffffffffff,1"):
            assert client.ask(wrong) == b"E0e", wrong
        assert client.ask(b"qCRC:1") == b"E16"


@pytest.mark.parametrize(
    "payload",
    [b"qCx", b"qC:", b"qCRC", b"qSupportedx", b"qSupported;a", b"vCont", b"vContx;c", b"vCont:c", b"qqemu.sstepx", b"H",
     b"Hx1", b"QStartNoAckModes", b"qXfer", b"qXferx:", b"qRcmd", b"qsThreadInfo:", b"vKill", b"!", b""],
)  # fmt: skip
def test_a_packet_is_known_by_its_whole_name(payload: bytes) -> None:
    with served(SPIN) as client:
        assert client.ask(payload) == b""


@pytest.mark.needs("hw-breakpoints")
def test_breakpoints() -> None:
    with served(NOPS) as client:
        assert client.ask(b"Z0,100004,1") == b"OK"
        assert client.ask(b"Z1,100006,1") == b"OK"
        assert client.go(b"c").startswith(b"T05thread:1;swbreak:;")
        assert client.ask(b"z0,100004,1") == b"OK"
        assert client.go(b"vCont;c").startswith(b"T05thread:1;hwbreak:;")
        assert client.ask(b"z1,100006,1") == b"OK"
        assert client.ask(b"z1,100006,1") == b"OK"  # as often as one likes
        for at in range(4):
            assert client.ask(b"Z1,10000%d,1" % at) == b"OK"
        assert client.ask(b"Z1,100009,1") == b"E0e"
        assert client.ask(b"Z3,2000,4") == b""  # x86 watches no reads alone
        assert client.ask(b"Z9,2000,4") == b""
        for wrong in (b"Z0", b"Z0,1", b"Z2,2000,0", b"Z2,2000,1000", b"Zx,1,1"):
            assert client.ask(wrong) == b"E16", wrong


def test_watchpoints() -> None:
    with served(hexcode("c6 04 25 00 20 00 00 01") + SPIN) as client:  # mov byte [0x2000], 1
        assert client.ask(b"Z2,2000,4") == b"OK"
        assert client.go(b"c").startswith(b"T05thread:1;watch:2000;")


def test_steps_with_addresses_and_signals() -> None:
    with served(NOPS) as client:
        pc = (START + 8).to_bytes(8, "little").hex().encode()
        assert b"10:" + pc in client.go(b"s100007")
        assert b"10:" + pc in client.go(b"S05;100007")
        assert client.ask(b"P10=" + START.to_bytes(8, "little").hex().encode()) == b"OK"
        assert b"10:" + pc in client.go(b"vCont;r%x,%x:1" % (START, START + 8))
        assert client.ask(b"vCont;q") == b"E16"
        assert client.ask(b"vCont;s:7") == b"E16"


def test_threads_are_cpus() -> None:
    with served(SPIN, cpus=3) as client:
        assert client.ask(b"qfThreadInfo") == b"m1,2,3"
        assert client.ask(b"qsThreadInfo") == b"l"
        assert client.ask(b"Hg2") == b"OK"
        assert client.ask(b"qC") == b"QC2"
        assert bytes.fromhex(client.ask(b"qThreadExtraInfo,2").decode()) == b"CPU 1: uninitialized, real mode, ring 0"
        assert client.ask(b"T3") == b"OK"
        assert client.ask(b"T4") == b"E16"
        assert client.ask(b"Hg4") == b"E16"
        assert client.ask(b"Hc-1") == b"OK"


def test_an_interrupt() -> None:
    with served(SPIN) as client:
        client.session.receive(b"\x03")  # nothing runs
        client.items.clear()
        client.session.receive(encode(b"c"))
        assert client.items == [Mark.ACK]
        client.session.receive(encode(b"g"))  # not while it runs
        client.session.receive(b"\x03")
        assert [item.payload[:12] for item in client.items if isinstance(item, Packet)] == [b"T02thread:1;"]


def test_the_end() -> None:
    with served(hexcode("b0 03 e6 f4")) as client:  # exits with 7
        assert client.go(b"c").endswith(b"W07")
        assert client.ask(b"?") == b"W07"
        assert client.ask(b"g") == b"E16"
        assert client.ask(b"c") == b"W07"
    with served(HALT) as client:
        assert b"halted" in client.go(b"c")
        assert client.go(b"c").endswith(b"W00")
    with served(hexcode("0f 0b")) as client:
        answer = client.go(b"c")
        sentence = rb"  `ud2` is .*\.\n" if not STATE_LOST else rb"(  .*\.\n)?"
        assert re.match(rb"pykvm: triple fault\n" + sentence + rb"T0b", answer), answer
        assert client.go(b"c").endswith(b"X0b")


def test_kill_and_detach() -> None:
    with served(SPIN) as client:
        client.session.receive(encode(b"k"))
        assert client.session.finished
        assert client.machine.wait(LIMIT).ending is Ending.STOPPED
    with served(hexcode("b0 03 e6 f4")) as client:
        assert client.ask(b"D") == b"OK"
        assert client.session.finished
        assert client.machine.wait(LIMIT).code == 7


def test_monitor_commands() -> None:
    with served(hexcode("e4 99") + SPIN, cpus=2) as client:  # reads a port that nobody answers
        client.go(b"s")
        assert client.command("info devices").count("COM1") == 1
        assert "unclaimed port 0x99: 1 accesses" in client.command("info exits")
        assert client.command("info cpus").startswith("* CPU 0: runnable, 64-bit mode, ring 0, at 0x100002\n")
        assert "rax 00000000000000ff" in client.command("info registers")
        assert "-> 0x100002" in client.command("walk")
        assert client.command("info tlb 0x2345").endswith("-> 0x2345, 2 MiB page\n")
        assert "not present" in client.command("walk 0x4000000000")
        assert client.command("xp 0x100000 2") == f"0x00100000: {'e4 99':<47}  ..\n"
        assert client.command("xp 0xfee00000") == "guest physical 0xfee00000 is not in RAM\n"
        assert client.command("disas 0x100000 1") == "0x100000: e4 99                    in al, 0x99\n"
        assert client.command("").startswith("help")
        assert client.command("help") == client.command("")
        assert "no command 'savevm'" in client.command("savevm")
        assert "at most 1" in client.command("walk 1 2 3")
        assert "not a size" in client.command("walk main")


def test_16_bit_code_is_shown_as_such() -> None:
    with served(hexcode("b8 01 00") + SPIN, 16) as client:
        assert client.command("disas").startswith("0x7c00: b8 01 00                 mov ax, 1\n")


# Whatever a client sends, the machine can be stopped, looked at and ended.

_WORDS = [
    b"g", b"G", b"p", b"P", b"m", b"M", b"X", b"Z0,", b"Z2,", b"z1,", b"Z4,", b"vCont;", b"s", b"S", b"Hg", b"Hc", b"T",
    b"qXfer:features:read:target.xml:", b"qCRC:", b"qThreadExtraInfo,", b"qRcmd,", b"Qqemu.sstep=", b"Qqemu.PhyMemMode:", b"?",
]  # fmt: skip
_ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from([b",", b":", b";", b"=", b"-1", b"0", b"1", b"100000", b"ffffffffffffffff", b"s", b"c", b"r"]),
        st.binary(max_size=6),
        st.integers(0, 1 << 65).map(lambda value: b"%x" % value),
    ),
    max_size=6,
).map(b"".join)
_PACKETS = st.tuples(st.sampled_from(_WORDS), _ARGUMENTS).map(b"".join)


@settings(max_examples=25 if SLOW else 100)
@given(st.lists(st.one_of(_PACKETS.map(encode), st.binary(max_size=20)), max_size=8))
def test_any_packets(pieces: list[bytes]) -> None:
    with served(SPIN, cpus=2) as client:
        client.session.receive(b"".join(pieces))
        client.session.receive(b"#00\x03")
        assert client.ask(b"?")[:1] in b"TX"  # X: the client has made the guest crash, and gone on
        client.control.detach()
        assert client.machine.stop().ending in (Ending.STOPPED, Ending.CRASHED)


# The socket


def connect(server: GdbServer) -> socket.socket:
    if server.target.startswith(":"):
        return socket.create_connection(("127.0.0.1", int(server.target[1:])), LIMIT)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(LIMIT)
    client.connect(server.target)
    return client


def answer(client: socket.socket, payload: bytes) -> bytes:
    client.sendall(encode(payload))
    decoder = Decoder()
    while True:
        data = client.recv(4096)
        assert data
        for item in decoder.feed(data):
            if isinstance(item, Packet):
                return item.payload


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_comes_goes_and_comes_back(kind: str, tmp_path: Path) -> None:
    with flat(SPIN) as machine, GdbServer(machine, ":0" if kind == "tcp" else str(tmp_path / "gdb")) as server:
        machine.start(LIMIT)
        with connect(server) as client:
            assert answer(client, b"?").startswith(b"T02")
            assert answer(client, b"Z0,100000,1") == b"OK"
            with connect(server) as second:
                assert second.recv(1) == b""  # one at a time
        with connect(server) as client:  # gone without a word: all stays stopped, without its breakpoints
            assert answer(client, b"?").startswith(b"T02")
            assert not server.control.breakpoints
            assert answer(client, b"D") == b"OK"
            assert client.recv(1) == b""
        with connect(server) as client:
            assert answer(client, b"?").startswith(b"T02")
            client.sendall(encode(b"c"))
            machine.request_stop("enough")
            decoder, items = Decoder(), []
            while not any(isinstance(item, Packet) and item.payload == b"X0f" for item in items):
                items += decoder.feed(client.recv(4096))
        assert machine.wait(LIMIT).ending is Ending.STOPPED


def test_a_closed_machine_says_goodbye() -> None:
    with flat(SPIN) as machine:
        server = GdbServer(machine, ":0")
        machine.start(LIMIT)
        client = connect(server)
        assert answer(client, b"?").startswith(b"T02")
    with client:
        assert client.recv(1) == b""


def test_a_server_before_a_machine_that_never_starts() -> None:
    with flat(SPIN) as machine:
        server = GdbServer(machine, ":0")
        with connect(server) as client:
            assert answer(client, b"m100000,2") == SPIN.hex().encode()


def test_sockets_in_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with flat(SPIN) as machine:
        with GdbServer(machine, str(path)) as server:
            assert stat.S_ISSOCK(os.stat(path).st_mode)
            assert server.target == str(path)
            with flat(SPIN) as other, pytest.raises(ConfigError, match="in use"):
                GdbServer(other, str(path))
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with GdbServer(machine, str(path)):
            pass
        path.write_text("precious")
        with pytest.raises(ConfigError):
            GdbServer(machine, str(path))
        assert path.read_text() == "precious"


@pytest.mark.parametrize("address", ["", ":", ":65536", "/nowhere/gdb", ":0,arch=vax", ":0,x", "x" * 200])
def test_addresses_that_cannot_be(address: str) -> None:
    with flat(SPIN) as machine, pytest.raises(ConfigError):
        GdbServer(machine, address)


@pytest.mark.parametrize(("mode", "expected"), [(16, "i8086"), (32, "i386"), (64, "i386:x86-64")])
def test_the_architecture_is_that_of_the_mode(mode: int, expected: str) -> None:
    with flat(SPIN, mode) as machine:
        assert architecture(machine.engine) == expected
