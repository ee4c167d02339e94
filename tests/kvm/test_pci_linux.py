"""Linux and PCI cards: its drivers are judges of configuration space, interrupt tables and messages that we did not write."""

from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path

import pytest
from debian import KERNEL, package
from linux_module import module
from test_boot_formats import COMPLAINTS, LINUX_LIMIT, archive, bzimage

from pykvm import Ending, Machine, boot, open_disk
from pykvm.devices.teaching import Teaching

ROOT = Path(__file__).parents[2]

INIT = b"""#!/busybox sh
/busybox mkdir /proc
/busybox mount -t proc proc /proc
for mode in %s; do
    /busybox insmod /teaching.ko mode=$mode
    /busybox grep teaching /proc/interrupts
    /busybox rmmod teaching
done
/busybox grep 0000:00:05 /proc/iomem
/busybox dmesg | /busybox grep -e teaching -e ACPI -e nobody
/busybox reboot -f
"""


@pytest.mark.needs("ring0-sse", "ring0-x87")
@pytest.mark.parametrize(
    ("command_line", "cpus", "modes", "chip"),
    [
        ("", 2, b"pin msi msix", "IO-APIC +16-fasteoi"),
        ("acpi=off", 1, b"pin", "XT-PIC"),  # by the interrupt line register: Debian's kernel knows no MP tables
        ("noapic pci=nomsi", 1, b"pin", "XT-PIC"),
    ],
    ids=["ACPI", "no ACPI", "8259s"],
)
def test_its_driver_of_the_teaching_card(command_line: str, cpus: int, modes: bytes, chip: str) -> None:
    """In slot 5, INTA is PIRQA: the IOAPIC's input 16, or the link LNKA."""
    card = Teaching()
    card.slot = 5
    busybox = (package("busybox-static") / "bin/busybox").read_bytes()
    made = module(ROOT / "docs/examples/linux")
    files = {"busybox": busybox, "init": INIT % modes, "teaching.ko": made}
    with Machine(
        bzimage(),
        memory="256M",
        cpus=cpus,
        command_line=f"console=ttyS0 panic=-1 quiet {command_line}",
        modules=[boot.Module(archive(files))],
        devices=[card],
        no_reboot=True,
    ) as machine:
        outcome = machine.run(2 * LINUX_LIMIT)
        log = machine.serial.text
    assert outcome.ending == Ending.REBOOTED, log[-3000:]
    assert not [complaint for complaint in COMPLAINTS if complaint in log]
    told = re.findall(r"teaching 0000:00:05\.0: 12! = 479001600, told by (\S+)", log)
    assert told == [{"pin": "pin", "msi": "MSI", "msix": "MSI-X"}[mode] for mode in modes.decode().split()], log[-3000:]
    assert log.count("teaching 0000:00:05.0: DMA works") == len(told)
    assert re.search(rf"^ *\d+: .*{chip} .*teaching", log, re.MULTILINE), log[-3000:]
    # It took the addresses that the card had, and did not move it.
    assert re.search(r"e0000000-e0000fff : 0000:00:05\.0", log), log[-3000:]
    assert "nobody cared" not in log


VIRTIO_INIT = b"""#!/busybox sh
/busybox mkdir /proc
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
for name in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio-rng; do
    /busybox insmod /$name.ko
done
echo "random: $(/busybox head -c 2000 /dev/hwrng | /busybox wc -c)"
echo begin
/busybox dd if=/dev/vda of=/dev/vda bs=1M count=1 seek=2 conv=notrunc,fsync 2>/dev/null
for at in 0 1 2; do
    /busybox dd if=/dev/urandom of=/dev/vda bs=512 count=37 seek=$((3000 + at * 100)) conv=notrunc,fsync 2>/dev/null
    /busybox dd if=/dev/vda iflag=direct bs=512 count=37 skip=$((3000 + at * 100)) of=/copy 2>/dev/null
done
/busybox dd if=/copy of=/dev/vda bs=512 seek=3300 oflag=direct conv=notrunc,fsync 2>/dev/null
echo "first: $(/busybox dd if=/dev/vda bs=1M count=1 iflag=direct 2>/dev/null | /busybox sha256sum)"
echo "third: $(/busybox dd if=/dev/vda bs=1M count=1 skip=2 iflag=direct 2>/dev/null | /busybox sha256sum)"
/busybox grep virtio /proc/interrupts
echo "the end"
/busybox reboot -f
"""


def virtio_files() -> dict[str, bytes]:
    directory = next((package(KERNEL) / "lib/modules").iterdir())
    names = (
        "virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk",
        "virtio-rng",
    )  # fmt: skip
    files = {f"{name}.ko": next(directory.rglob(f"{name}.ko")).read_bytes() for name in names}
    return {**files, "busybox": (package("busybox-static") / "bin/busybox").read_bytes(), "init": VIRTIO_INIT}


@pytest.mark.needs("ring0-sse", "ring0-x87")
def test_its_drivers_of_virtio_disks_and_rng_also_across_a_fork(tmp_path: Path) -> None:
    content = random.Random(13).randbytes(4 << 20)
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    digest = hashlib.sha256(content[: 1 << 20]).hexdigest()
    with Machine(
        bzimage(),
        memory="256M",
        cpus=2,
        command_line="console=ttyS0 panic=-1 quiet",
        modules=[boot.Module(archive(virtio_files()))],
        virtio_disks=[open_disk(image, "discard")],
        devices=["pykvm.devices.virtio.rng:VirtioRng"],
        no_reboot=True,
    ) as machine:
        machine.start(2 * LINUX_LIMIT)
        machine.serial.wait_for("begin", LINUX_LIMIT)
        snapshot = machine.snapshot()  # between any two requests, or in the midst of a flush
        assert machine.wait().ending == Ending.REBOOTED, machine.serial.text
        _check(machine, digest)
    with snapshot.fork() as fork:
        assert fork.run(LINUX_LIMIT).ending == Ending.REBOOTED, fork.serial.text
        _check(fork, digest)
    assert image.read_bytes() == content


def _check(machine: Machine, digest: str) -> None:
    log = machine.serial.text
    assert "random: 2000" in log, log
    for which in ("first", "third"):
        assert f"{which}: {digest}" in log, log
    assert re.search(r"PCI-MSI .*virtio\d-req\.0", log), log
    disk = machine.pc.virtio_disks[0]
    blocks = [disk.read_at((3000 + 100 * number) * 512, 37 * 512) for number in range(4)]
    assert len(set(blocks)) == 3
    assert blocks[2] == blocks[3]
