"""The devices of a full machine are those of the README's table, with their ports and interrupts."""

from __future__ import annotations

from device_table import rows

from pykvm import Machine, pc
from pykvm.device_options.nics import NE2000_CARDS
from pykvm.device_options.serial_ports import COM_PORTS
from pykvm.disk.memory import MemoryDisk
from pykvm.net.loopback import Loopback

BOOT_SECTOR = b"\xf4".ljust(510, b"\0") + b"\x55\xaa"


def full_machine() -> Machine:
    """All that a PC here can have, with the BIOS that a start from a disk brings."""
    disks = [MemoryDisk(BOOT_SECTOR), *(MemoryDisk(bytes(512)) for _ in range(2))]
    return Machine(
        memory="4M", disks=disks, cdrom=[None], nics=[Loopback() for _ in range(4)], serial_ports=4, format="disk"
    )


def test_the_table_has_the_devices_of_a_full_machine_and_no_others() -> None:
    with full_machine() as machine:
        assert [device.name for device in machine.mmio.devices] == ["VGA memory", "HPET"]
        devices = machine.ports.devices
        assert sorted(name for row in rows() for name in row.names) == sorted(device.name for device in devices)
        for row in rows():
            ports = {
                port
                for device in devices
                if device.name in row.names
                for span in device.ports
                for port in range(span.base, span.end)
            }
            assert ports == row.ports, row.names


def test_the_table_has_the_interrupts_that_they_are_wired_to() -> None:
    irqs = {
        "COM1": tuple(irq for _, irq in COM_PORTS),
        "ATA0": tuple(irq for *_, irq in pc.ATA_CHANNELS),
        "NIC0": tuple(irq for _, irq in NE2000_CARDS),
        "i8042": (pc.KEYBOARD_IRQ, pc.MOUSE_IRQ),
        "RTC": (pc.RTC_IRQ,),
        "ACPI PM": (pc.SCI_IRQ,),
    }
    assert {row.names[0]: row.irqs for row in rows() if row.irqs} == irqs
