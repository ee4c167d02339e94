"""What traces call the devices' registers, and what they say of values: names from the data sheets."""

from __future__ import annotations

from collections.abc import Callable

import bios_calls
import pytest
from device_rig import Line
from device_table import rows
from hypothesis import given
from hypothesis import strategies as st

from pykvm.device import Access, Device, FunctionDevice, Range, bit_names
from pykvm.devices.acpi_pm import AcpiPm
from pykvm.devices.ata import AtaChannel
from pykvm.devices.cmos import Cmos
from pykvm.devices.exit_ports import DebugConsole, DebugExit, ShutdownPort
from pykvm.devices.fw_cfg import FwCfg
from pykvm.devices.i8042 import I8042, Port92
from pykvm.devices.ne2000 import Ne2000
from pykvm.devices.pci.host import PciHost
from pykvm.devices.reset_control import ResetControl
from pykvm.devices.uart16550 import Uart16550
from pykvm.devices.vga import Dispi, Vga
from pykvm.disk.memory import MemoryDisk
from pykvm.net.loopback import NoNet


class Peer:
    ready = True

    def connect(self, on_input: Callable[[], None], on_ready: Callable[[], None]) -> None:
        pass

    def read(self, limit: int) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        pass


MAKERS: dict[str, Callable[[], Device]] = {
    "COM1": lambda: Uart16550("COM1", 0x3F8, Line(), Peer()),
    "ATA0": lambda: AtaChannel("ATA0", 0x1F0, 0x3F6, Line(), MemoryDisk(bytes(1 << 20))),
    "RTC": lambda: Cmos(Line(), lambda: 0.0, 1 << 20),
    "i8042": lambda: I8042(Line(), Line(), lambda: None, lambda on: None),
    "port 92": lambda: Port92(lambda: None, lambda on: None),
    "NIC0": lambda: Ne2000("NIC0", irq=Line(), backend=NoNet(), mac=bytes(6)),
    "PCI host": PciHost,
    "fw_cfg": lambda: FwCfg(lambda gpa, size: bytes(size), lambda gpa, data: None),
    "ACPI PM": lambda: AcpiPm(Line(), lambda: None, lambda: 0),
    "reset control": lambda: ResetControl(lambda why: None),
    "exit port 0xf4": lambda: DebugExit(lambda value: None),
    "debug console": lambda: DebugConsole(lambda data: None),
    "shutdown port": lambda: ShutdownPort(lambda: None),
    "VGA": lambda: Vga(lambda: 0),
    "DISPI": lambda: Dispi(Vga(lambda: 0), lambda index, value: None),
    "BIOS": lambda: bios_calls.Pc().bios,
}


def write(device: Device, offset: int, value: int, size: int = 1) -> tuple[str, str]:
    """The names of a write, which is then made."""
    register = device.register_name(offset, size, value)
    meaning = device.explain(register, value, True)
    device.write(offset, size, value)
    return register, meaning


def read(device: Device, offset: int, value: int, size: int = 1) -> tuple[str, str]:
    """The names of a read that yields `value`."""
    register = device.register_name(offset, size, None)
    return register, device.explain(register, value, False)


def test_uart_registers_depend_on_direction_and_dlab() -> None:
    uart = MAKERS["COM1"]()
    assert write(uart, 0, ord("h")) == ("THR", "'h'")
    assert read(uart, 0, 0x0A) == ("RBR", r"'\n'")
    assert read(uart, 2, 0xC1) == ("IIR", "no interrupt, FIFOs")
    assert write(uart, 2, 0x07)[0] == "FCR"
    assert read(uart, 5, 0x60) == ("LSR", "THRE TEMT")
    assert write(uart, 3, 0x83) == ("LCR", "8N1 DLAB")
    assert write(uart, 0, 1) == ("DLL", "")
    assert write(uart, 1, 0) == ("DLM", "")
    assert write(uart, 3, 0x1A) == ("LCR", "7E1")
    assert write(uart, 1, 3) == ("IER", "received THRE")


def test_ata_commands_and_status() -> None:
    ata = MAKERS["ATA0"]()
    assert write(ata, 6, 0xE0) == ("DEVICE", "device 0, LBA")
    assert write(ata, 7, 0x20) == ("COMMAND", "READ SECTORS")
    assert read(ata, 7, 0x58) == ("STATUS", "DRQ DSC DRDY")
    assert write(ata, 0x206, 0x06) == ("DEVICE CONTROL", "nIEN SRST")
    assert read(ata, 0x206, 0x80) == ("ALTERNATE STATUS", "BSY")
    assert read(ata, 1, 0x04) == ("ERROR", "ABRT")
    assert write(ata, 1, 0)[0] == "FEATURES"


def test_cmos_data_is_named_for_the_index() -> None:
    cmos = MAKERS["RTC"]()
    assert write(cmos, 0, 0x8A) == ("index", "register A, NMI off")
    assert read(cmos, 1, 0xA6) == ("register A", "RS1 RS2 DV1 UIP")
    assert write(cmos, 0, 0x32) == ("index", "century")
    assert read(cmos, 1, 0x20) == ("century", "")
    assert write(cmos, 0, 0x40) == ("index", "CMOS 0x40")


def test_i8042_data_is_named_for_the_command_before_it() -> None:
    i8042 = MAKERS["i8042"]()
    assert write(i8042, 4, 0x60) == ("command", "write command byte")
    assert write(i8042, 0, 0x45) == ("command byte", "keyboard-IRQ system translate")
    assert write(i8042, 0, 0xF4) == ("keyboard", "enable")
    assert read(i8042, 4, 0x1D) == ("status", "OBF system command unlocked")
    assert write(i8042, 4, 0xD1) == ("command", "write output port")
    assert write(i8042, 0, 0xDF)[0] == "output port"
    assert read(i8042, 0, 0xFA) == ("output buffer", "")


def test_dp8390_pages() -> None:
    nic = MAKERS["NIC0"]()
    assert write(nic, 0, 0x21) == ("CR", "STP, abort/complete DMA, page 0")
    assert write(nic, 1, 0x46)[0] == "PSTART"
    assert read(nic, 1, 0)[0] == "CLDA0"
    assert write(nic, 0, 0x61) == ("CR", "STP, abort/complete DMA, page 1")
    assert write(nic, 1, 0x52)[0] == "PAR0"
    assert write(nic, 7, 0x47)[0] == "CURR"
    assert write(nic, 0, 0x22) == ("CR", "STA, abort/complete DMA, page 0")
    assert write(nic, 7, 0x42) == ("ISR", "PTX RDC")
    assert read(nic, 0x10, 0, size=2)[0] == "data port"
    assert read(nic, 0x1F, 0)[0] == "reset port"


def test_pci_places() -> None:
    pci = MAKERS["PCI host"]()
    assert write(pci, 0, 0x80000B04, size=4) == ("CONFIG_ADDRESS", "00:01.3 0x04")
    assert read(pci, 4, 0, size=2)[0] == "CONFIG_DATA 00:01.3 0x04"
    assert read(pci, 6, 0, size=2)[0] == "CONFIG_DATA 00:01.3 0x06"


def test_vga_registers_behind_an_index() -> None:
    vga = MAKERS["VGA"]()
    assert write(vga, 0x3D4 - 0x3B4, 0x0E)[0] == "CRTC index"
    assert write(vga, 0x3D5 - 0x3B4, 7)[0] == "CRTC 0x0e"
    assert write(vga, 0x3C0 - 0x3B4, 0x10)[0] == "attribute index"
    assert write(vga, 0x3C0 - 0x3B4, 0x08)[0] == "attribute 0x10"


def test_the_rest() -> None:
    assert write(MAKERS["ACPI PM"](), 4, 0x2000, size=2) == ("PM1_CNT", "SLP_EN SLP_TYP=0")
    assert write(MAKERS["exit port 0xf4"](), 0, 0x10, size=4) == ("exit", "status 33")
    assert write(MAKERS["debug console"](), 0, 0x41) == ("output", "'A'")
    assert write(MAKERS["fw_cfg"](), 0, 0x19, size=2) == ("selector", "file directory")
    assert write(MAKERS["reset control"](), 0, 6) == ("RC", "SRST RCPU")
    assert write(MAKERS["port 92"](), 0, 2) == ("system control A", "A20")


def test_there_is_one_of_each_kind_that_the_table_of_devices_has() -> None:
    table = rows()
    for name, make in MAKERS.items():
        device = make()
        assert device.name == name
        (row,) = (row for row in table if name in row.names)
        assert row.ports.issuperset(port for span in device.ports for port in range(span.base, span.end)), name
        table.remove(row)
    assert table == []


@pytest.mark.parametrize("name", MAKERS)
@given(data=st.data())
def test_no_access_is_without_a_name(name: str, data: st.DataObject) -> None:
    """Whatever came before: names are there, and asking for them changes nothing that the guest could notice."""
    device = MAKERS[name]()
    first = device.ports[0].base
    offsets = st.sampled_from([port - first for span in device.ports for port in range(span.base, span.end)])
    for _ in range(data.draw(st.integers(1, 8))):
        offset, size = data.draw(offsets), data.draw(st.sampled_from([1, 2, 4]))
        value = data.draw(st.one_of(st.none(), st.integers(0, (1 << 8 * size) - 1)))
        before = device.save()
        register = device.register_name(offset, size, value)
        assert register
        assert register.isprintable()
        meaning = device.explain(register, data.draw(st.integers(0, (1 << 32) - 1)), value is not None)
        assert meaning.isprintable() or not meaning
        assert device.save() == before
        if size <= device.width:
            if value is None:
                device.read(offset, size)
            else:
                device.write(offset, size, value)


# A device of one's own


def test_a_device_gets_along_without_names() -> None:
    def lamp(access: Access) -> int:
        return 0

    device = FunctionDevice(lamp, ports=[Range(0x200, 4)])
    assert device.register_name(2, 1, None) == "+0x2"
    assert device.explain("+0x2", 5, False) == ""


def test_or_with_a_table_of_them() -> None:
    class Lamp(Device):
        ports = (Range(0x200, 2),)
        register_names = {0: "ON", 1: "COLOUR"}  # noqa: RUF012  # as users write it

    assert Lamp().register_name(1, 1, 3) == "COLOUR"


def test_bits() -> None:
    assert bit_names(0b1011, "a - c d") == "a bit1 d"
    assert bit_names(0xFF00, "a b") == ""
