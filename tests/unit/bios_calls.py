"""A BIOS with real devices around it and no CPU: what a stub does is done by hand, frame by frame."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence

from device_rig import Line

from pykvm.bios.call import Call
from pykvm.bios.disk import Drive, hard_disk
from pykvm.bios.rom import POST_CALL
from pykvm.bios.service import Bios
from pykvm.bus import PortBus
from pykvm.console.port import ConsolePort
from pykvm.devices.cmos import Cmos
from pykvm.devices.i8042 import I8042, Port92
from pykvm.devices.uart16550 import Uart16550
from pykvm.devices.vga import Vga
from pykvm.disk.memory import MemoryDisk
from pykvm.memory import GuestMemory

FRAME = 0x9000
FRAME_FORMAT = "<HH8IHHHH"
"""ES, DS; EDI, ESI, EBP, ESP, EBX, EDX, ECX, EAX as PUSHAD leaves them; vector; IP, CS, FLAGS."""
SIZE = struct.calcsize(FRAME_FORMAT)
GENERAL = ("edi", "esi", "ebp", "esp", "ebx", "edx", "ecx", "eax")
CARRY, ZERO = 1, 1 << 6

MEMORY_MAP = ((0, 0x9FC00, 1), (0x9FC00, 0x400, 2), (0x100000, 0x100000, 1))
BOOT_SECTOR = b"\xf4".ljust(510, b"\0") + b"\x55\xaa"


class Pc:
    """`call` is an INT; `console` the terminal at COM1, `keyboard` the keyboard controller."""

    def __init__(self, drives: Sequence[Drive] | None = None, memory: str = "2M", boot: int = 0x80) -> None:
        self.time = 0
        self.resets: list[str] = []
        self.exceptions: list[Call] = []
        self.memory = GuestMemory(memory)
        self.bus = PortBus()
        self.console = ConsolePort(threading.Condition())
        self.key_irq = Line()
        self.keyboard = I8042(self.key_irq, Line(), lambda: None, lambda level: None)
        self.vga = Vga(lambda: self.time)
        # 2001-09-09 01:46:40 UTC
        self.cmos = Cmos(Line(), lambda: 1_000_000_000.0, 2 << 20)
        for device in (
            Uart16550("COM1", 0x3F8, Line(), self.console),
            self.keyboard,
            Port92(lambda: None, lambda level: None),
            self.vga,
            self.cmos,
        ):
            self.bus.attach(device)
        self.bios = Bios(
            self.memory,
            self.bus,
            drives=[hard_disk(0, MemoryDisk(BOOT_SECTOR + bytes(1 << 20)))] if drives is None else drives,
            boot=(boot,),
            memory_map=MEMORY_MAP,
            output=self.console.write,
            on_reset=self.resets.append,
            on_exception=self.exceptions.append,
            now=lambda: self.time,
        )
        self.started = self.call(POST_CALL)

    def call(
        self, vector: int, *, ds: int = 0, es: int = 0, flags: int = 0x202, waited: int = 0, **registers: int
    ) -> Call:
        """What an INT with these 32-bit registers returns. `wait` of the result is the stub's wait byte."""
        general = [registers.pop(name, 0) for name in GENERAL]
        assert not registers
        frame = struct.pack(FRAME_FORMAT, es, ds, *general, vector | waited << 8, 0x1234, 0x5678, flags)
        self.memory.write(FRAME, frame)
        self.bios.write(0, 4, FRAME)
        result = Call(self.memory, FRAME)
        result.wait = self.memory.read(FRAME + 37, 1)[0]
        return result

    def word(self, address: int) -> int:
        """A word of the guest's memory."""
        return self.memory.read_int(address, 2)

    def key_codes(self, *codes: int) -> None:
        """Scan codes from the keyboard, one interrupt each, through a byte that the controller is told to return."""
        for code in codes:
            self.bus.write(0x64, 1, 0xD2)
            self.bus.write(0x60, 1, code)
            self.call(0x09)
