"""ATA as a whole: random commands against an array, and the way to a file on the host."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from ata_rig import DATA, DEVICE, SECTOR, STATUS, MemoryDisk, Pc, pattern
from device_rig import Line
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.ata import PRIMARY, AtaChannel
from pykvm.disk.raw import RawDisk

# -- The whole protocol against an array ------------------------------------------------------------------------------


COMMANDS = {  # (write, addressing): commands
    (False, 28): (0x20, 0x21, 0xC4), (False, 48): (0x24, 0x29), (False, 0): (0x20, 0xC4),
    (True, 28): (0x30, 0x31, 0xC5), (True, 48): (0x34, 0x39), (True, 0): (0x30, 0xC5),
}  # fmt: skip


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=20)
def test_model(seed: int, multiple: int) -> None:
    choose = random.Random(seed)
    total = 1008  # one cylinder of 16 heads and 63 sectors, so that each sector has a CHS address
    disks = MemoryDisk(total), MemoryDisk(total)
    models = [bytearray(b"".join(map(pattern, range(total)))) for _ in disks]
    pc = Pc(*disks)
    for unit in (0, 1):
        pc.outb(DEVICE, unit << 4)
        assert pc.run(0xC6, count=multiple) == 0x50
    for _ in range(20):
        unit, write, kind = choose.randrange(2), choose.random() < 0.5, choose.choice((0, 28, 48))
        command = choose.choice(COMMANDS[write, kind])
        count = choose.choice((1, 1, 2, 7, 33, 256))
        lba = choose.randrange(total - count + 1)
        if kind == 48:
            pc.address48(lba, count, unit)
        elif kind == 28:
            pc.address28(lba, count, unit)
        else:
            pc.chs(0, lba // 63, lba % 63 + 1, count)
            pc.outb(DEVICE, 0xA0 | unit << 4 | lba // 63)
        assert pc.run(command) == 0x58
        span = slice(lba * SECTOR, (lba + count) * SECTOR)
        size = choose.choice((1, 2, 4))
        left = count * SECTOR
        if write:
            models[unit][span] = data = choose.randbytes(left)
        got = b""
        while left:
            some = min(left, choose.randrange(size, 6000, size))
            if write:
                pc.bus.write_block(DATA, size, data[-left:][:some])
            else:
                got += pc.bus.read_block(DATA, size, some // size)
            left -= some
            assert pc.inb(STATUS) == (0x58 if left else 0x50)
        if not write:
            assert got == models[unit][span]
    for disk, model in zip(disks, models, strict=True):
        assert disk.read_at(0, disk.size) == model


# -- The whole way to a file ------------------------------------------------------------------------------------------


WRITER = """
import sys
from pykvm.device import IrqLine
from pykvm.devices.ata import PRIMARY, AtaChannel
from pykvm.disk.raw import RawDisk

channel = AtaChannel("ide0", *PRIMARY, IrqLine(lambda level: None), RawDisk(sys.argv[1]))
for sector in range(20):
    for offset, value in (6, 0xE0), (2, 1), (3, sector), (4, 0), (5, 0), (7, 0x30):
        channel.write(offset, 1, value)
    channel.write_block(0, 2, bytes([sector + 1]) * 512)
channel.write(7, 1, 0xE7)
print(channel.read(7, 1), flush=True)
sys.stdin.read()
"""


def test_what_was_flushed_survives_sigkill(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(20 * SECTOR))
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        status = child.stdout.readline()
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert int(status) == 0x50
    assert image.read_bytes() == b"".join(bytes([sector + 1]) * 512 for sector in range(20))
    RawDisk(image).close()  # the lock went with the process


def test_image_that_shrinks_under_the_guest(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * (10 * SECTOR))
    disk = RawDisk(image)
    channel = AtaChannel("ide0", *PRIMARY, Line(), disk)
    image.write_bytes(b"x" * (5 * SECTOR))
    for offset, value in (6, 0xE0), (2, 2), (3, 4), (4, 0), (5, 0), (7, 0x20):
        channel.write(offset, 1, value)
    assert channel.read_block(0, 2, 256) == b"x" * 512
    assert (channel.read(7, 1), channel.read(1, 1), channel.read(3, 1)) == (0x51, 0x40, 5)
    disk.close()
