"""PCI cards in a machine: found, programmed and interrupting in each slot, in snapshots and forks, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from debian import package
from helpers import LIMIT, flat, hexcode, pykvm

from pykvm import Bar, ConfigError, Ending, Machine, PciDevice, Register, Snapshot, SnapshotError, open_disk
from pykvm.devices.teaching import Teaching
from pykvm.disk.memory import MemoryDisk
from pykvm.inspect import device_states

Guest = Callable[[str], Path]
TEACHING = "pykvm.devices.teaching:Teaching"


def test_a_driver_works_in_every_slot_through_pics_ioapic_and_messages(guest: Guest) -> None:
    cards = [Teaching() for _ in range(29)]
    with Machine(guest("pci"), memory="16M", devices=cards) as machine:
        outcome = machine.run(LIMIT)
        lines = machine.serial.text.splitlines()
    assert (outcome.ending, outcome.code) == (Ending.EXITED, 0), lines
    assert [line for line in lines if "7eac" in line] == [
        f"pci 00:{slot:02x}.0: 1234:7eac class ff0000 irq {(11, 10)[(slot - 1) % 2]}" for slot in range(3, 32)
    ]
    assert lines[-6:] == [
        "pci: 29 cards interrupt through the PICs",
        "pci: 29 cards interrupt through the IOAPIC",
        "pci: MSI",
        "pci: MSI-X",
        "pci: DMA",
        "pci: ok",
    ]


class Counter(PciDevice):
    """Counts reads of its port."""

    name = "counter"
    bars = (Bar(4, (Register("COUNT", 0, access="ro"),), kind="io"),)

    def __init__(self, step: int = 1) -> None:
        self.step = step
        super().__init__()

    def on_read_count(self) -> int:
        self.registers["COUNT"] += self.step
        return self.registers["COUNT"]


THREE_READS = hexcode(
    """66 ba 00 c0; mov dx, 0xC000: the first I/O BAR
    ed; in eax, dx
    ed; in eax, dx
    ed; in eax, dx
    e6 f4; out 0xF4, al"""
)


def test_add_and_remove() -> None:
    with flat(THREE_READS) as machine:
        counter = Counter()
        machine.add(counter)
        assert (counter.place, counter.ports[0].base) == ("00:03.0", 0xC000)
        with pytest.raises(ConfigError, match="in slot 3 already"):
            machine.add(counter)
        assert machine.run(LIMIT).value == 3
        assert device_states(machine)[-1].registers["registers.COUNT"] == 3
        assert device_states(machine)[-1].ranges == [(0xC000, 0xC003)]
        machine.remove(counter)
        assert counter not in machine.engine.board.devices


def test_restores_and_forks_carry_it(tmp_path: Path) -> None:
    with flat(THREE_READS) as machine:
        machine.add(Counter())
        first = machine.snapshot()
        assert machine.run(LIMIT).value == 3
        for _ in range(3):
            machine.restore(first)
            assert machine.run(LIMIT).value == 3
        after = machine.snapshot()
        after.save(tmp_path / "s")
    for snapshot in (after, Snapshot.load(tmp_path / "s")):
        with pytest.raises(SnapshotError, match="counter at 00:03.0"):
            snapshot.fork()
        with snapshot.fork(prepare=lambda fork: fork.add(Counter())) as fork:
            assert fork.engine.board.cards[0].save()["registers"] == {"COUNT": 3}


def test_a_fork_makes_anew_what_the_process_made_by_name_and_a_file_has_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pykvm.device_options import devices

    spec = f"{__name__}:Counter,step=5"
    with flat(THREE_READS, devices=[spec, TEACHING]) as machine:
        snapshot = machine.snapshot()
        snapshot.save(tmp_path / "s")
    with snapshot.fork() as fork:
        assert fork.run(LIMIT).value == 15
    monkeypatch.setattr(devices, "_made", {})  # as in another process
    loaded = Snapshot.load(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"Counter,step=5, whose code is not the snapshot's: give it by --device"):
        loaded.fork()
    with loaded.fork(devices=[spec, TEACHING]) as fork:
        assert fork.run(LIMIT).value == 15


def test_a_bar_that_moved_after_the_snapshot_is_back(guest: Guest) -> None:
    card = Teaching()
    with Machine(guest("pci"), memory="16M", devices=[card]) as machine:
        before, spans = machine.snapshot(), list(card.mmio)
        assert machine.run(LIMIT).code == 0
        with machine.lock:
            card.hot_reset()
        assert list(card.mmio) == []
        machine.restore(before)
        assert list(card.mmio) == spans
        assert machine.run(LIMIT).code == 0


def test_errors_that_python_injects_reach_the_driver(guest: Guest) -> None:
    card = Teaching()
    with Machine(guest("pci"), memory="16M", devices=[card]) as machine:
        with machine.lock:
            card.fail_dma()
        assert machine.run(LIMIT).code == 3
        assert machine.serial.text.endswith("pci: FAILED: 00:03.0 moves data wrong\n")


DICE = """
from pykvm import Bar, PciDevice, Register

class Dice(PciDevice):
    name = "dice"
    bars = (Bar(4, (Register("ROLL", 0, access="ro"),), kind="io"),)

    def __init__(self, sides: int = 6):
        self.sides = sides
        super().__init__()

    def on_read_roll(self):
        return self.sides
"""


def test_the_command_line_takes_the_users_own_file(tmp_path: Path) -> None:
    image, dice = tmp_path / "ask.bin", tmp_path / "dice.py"
    image.write_bytes(THREE_READS)
    dice.write_text(DICE)
    words = ("run", image, "--format", "flat", "--mode", "64", "--json", "--device")
    done = json.loads(pykvm(*words, f"{dice}:Dice,sides=20,slot=7").stdout)
    assert done["value"] == 20
    traced = pykvm("trace", image, "--format", "flat", "--mode", "64", "--device", f"{dice}:Dice").stdout.decode()
    assert "dice ROLL" in traced


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        (DICE, "Nobody", "Nobody in {file} is no class that comes from pykvm.PciDevice"),
        (DICE, "Dice,sides=x", "sides is a number, not 'x'"),
        (DICE, "Dice,color=red", "there is no option 'color': Dice has sides, slot"),
        (DICE, "Dice,sides", "'sides' is no OPTION=VALUE"),
        (DICE, "Dice,slot=x", "slot is a number, not 'x'"),
        (DICE, "Dice,slot=1", "slot 1 is taken or not there"),
        ("import nowhere", "Dice", "{file}, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("class Dice:\n  1 +", "Dice", "SyntaxError: invalid syntax (dice.py, line 2)"),
        (DICE.replace("self.sides = sides", "oops"), "Dice", "{file}, line 9: NameError: name 'oops' is not defined"),
        (DICE.replace("4, (", "5, ("), "Dice", "a BAR of 5 bytes is not possible"),
        (None, "Dice", "FileNotFoundError"),
    ],
)
def test_what_is_wrong_in_the_users_file_is_said_in_a_sentence(
    tmp_path: Path, text: str | None, spec: str, words: str
) -> None:
    file = tmp_path / "dice.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as error:
        flat(THREE_READS, devices=[f"{file}:{spec}"])
    assert words.format(file=file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["dice.py", [3], "dice.py:", [int]])
def test_what_is_no_device_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        flat(THREE_READS, devices=value)


def test_virtio_disks_are_in_snapshots_and_forks(tmp_path: Path) -> None:
    ata, virtio = tmp_path / "ata.img", tmp_path / "virtio.img"
    ata.write_bytes(b"A" * 1024)
    virtio.write_bytes(b"V" * 2048)
    with flat(THREE_READS, disks=[open_disk(ata, "discard")], virtio_disks=[open_disk(virtio, "discard")]) as machine:
        assert [card.place for card in machine.engine.board.cards] == ["00:03.0"]
        machine.pc.virtio_disks[0].write_at(0, b"W" * 512)
        snapshot = machine.snapshot()
        machine.pc.virtio_disks[0].write_at(0, b"X" * 512)
        machine.restore(snapshot)
        assert machine.pc.virtio_disks[0].read_at(0, 1024) == b"W" * 512 + b"V" * 512
        snapshot.save(tmp_path / "s")
    for each in (snapshot, Snapshot.load(tmp_path / "s", trust_disks=True)):
        with each.fork() as fork:
            assert [disk.size for disk in fork.disks if disk] == [1024]
            assert fork.pc.virtio_disks[0].read_at(0, 1024) == b"W" * 512 + b"V" * 512
    with pytest.raises(SnapshotError, match="another machine"):
        snapshot.fork(virtio_disks=[])


def test_the_command_line_puts_disks_onto_virtio_cards(tmp_path: Path) -> None:
    image, disk = tmp_path / "ask.bin", tmp_path / "disk.img"
    image.write_bytes(
        hexcode(
            """66 ba f8 0c; mov dx, 0xCF8
            b8 00 18 00 80; mov eax, 0x80001800: the identity of 00:03.0
            ef; out dx, eax
            66 ba fe 0c; mov dx, 0xCFE
            ec; in al, dx
            e6 f4; out 0xF4, al"""
        )
    )
    disk.write_bytes(bytes(512))
    words = ("run", image, "--format", "flat", "--mode", "64", "--json", "--disk", f"{disk},ro,bus=virtio")
    assert json.loads(pykvm(*words).stdout)["value"] == 0x42


def test_seabios_gives_addresses_and_starts_from_a_virtio_disk() -> None:
    """Its PCI set-up sizes and places the BARs of all cards; its virtio driver reads the boot sector, and serves INT 13h."""
    code = hexcode(
        """31 c0; xor ax, ax
        8e d8; mov ds, ax
        8e c0; mov es, ax
        b8 01 02; mov ax, 0x0201: read a sector,
        b9 02 00; mov cx, 2: the second,
        ba 80 00; mov dx, 0x80
        bb 00 80; mov bx, 0x8000
        cd 13; int 0x13
        a0 00 80; mov al, [0x8000]
        e6 f4; out 0xF4, al"""
    )
    disk = MemoryDisk(code.ljust(510, b"\0") + b"\x55\xaa" + b"\x37" * 512 + bytes(1 << 20))
    firmware = package("seabios") / "usr/share/seabios/bios.bin"
    with Machine(firmware=firmware, memory="64M", virtio_disks=[disk], devices=[Teaching()]) as machine:
        assert machine.run(LIMIT).value == 0x37
        block, teaching = machine.engine.board.cards
        spans = sorted([*block.mmio, *teaching.mmio])
        # The registers and the MSI-X table of the one; registers, buffer and table of the other.
        assert sorted(span.length for span in spans) == [4096, 4096, 4096, 4096, 16384]
        assert all(one.end <= other.base for one, other in pairwise(spans))
        assert block.save()["queues"][0]["taken"] == 2
