"""The device behind the BIOS's stubs: finds the service that a call asks for, and tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..bus import PortBus
from ..device import Device, Range, State
from ..errors import ConfigError, PykvmError
from ..memory import GuestMemory, GuestMemoryError
from ..typed import TYPE_CHECKING
from . import data, trace
from .call import DONE, Call
from .clock import Clock
from .disk import CD, HARD_DISK, Disks, Drive
from .keyboard import Keys, waiting_keys
from .redirect import Redirect
from .rom import BASE, EXCEPTIONS, POST_CALL, RESET_CALL, SEGMENT, SIZE, TRAP_PORT, rom
from .serial import Serial
from .system import System
from .video import Video

if TYPE_CHECKING:
    from .cd import Cds

BOOT_SECTOR = 0x7C00
REAL_MODE_TOP = 0x110000
"""No address that real mode can form is as high."""
COM_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
LPT_PORTS = (0x378,)


class Bios(Device):
    """Answers the stubs in the ROM (see `rom`), which whoever loads the guest puts into memory.

    `drives` are what INT 13h knows, and `boot` the numbers of those to start from, the first that can be. `memory_map`
    lists (address, size, E820 type). What INT 10h prints goes to `output`, too. `on_reset` is called with a sentence
    when the guest jumps to the reset vector or Ctrl-Alt-Del is pressed, and `on_exception` with the frame of an
    exception that the program has left to the BIOS. `now` gives nanoseconds of a monotonic clock.

    ConfigError if `memory` has not the whole first MiB, where a BIOS and its data are.
    """

    name = "BIOS"
    ports = (Range(TRAP_PORT, 1),)
    width = 4

    def __init__(
        self,
        memory: GuestMemory,
        ports: PortBus,
        *,
        drives: Sequence[Drive] = (),
        boot: Sequence[int] = (HARD_DISK,),
        memory_map: Sequence[tuple[int, int, int]] = (),
        output: Callable[[bytes], None],
        on_reset: Callable[[str], None],
        on_exception: Callable[[Call], None],
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if memory.regions[0].size < BASE + SIZE:
            raise ConfigError(f"a BIOS needs 1M of memory, not {memory.size >> 10}K")
        self._memory = memory
        self._bus = ports
        self._boot = boot
        self._on_reset = on_reset
        self._on_exception = on_exception
        self.log = trace.Log()
        """Set its `emit` to see each call in words; `flush` it at the end."""
        redirect = self._redirect = Redirect(ports, output)
        self._video = Video(memory, ports, redirect)
        self._disks = Disks(memory, drives)
        self._cds: Cds | None = None
        if any(drive.is_cd for drive in drives):
            from .cd import Cds

            self._cds = Cds(memory, self._disks)
        self._keys = Keys(memory, ports, redirect)
        self._clock = Clock(memory, ports)
        system = self._system = System(memory, ports, memory_map, now)
        serial = Serial(memory, ports, redirect)
        self._services: dict[int, Callable[[Call], None]] = {
            0x09: self._key_interrupt,
            0x10: self._video.serve,
            0x11: system.equipment,
            0x12: system.conventional,
            0x13: self._disks.serve,
            0x14: serial.serve,
            0x15: system.serve,
            0x16: self._keys.serve,
            0x17: serial.printer,
            0x18: self._no_disk,
            0x19: self._bootstrap,
            0x1A: self._clock.serve,
            POST_CALL: self._post,
            RESET_CALL: self._reset,
            **dict.fromkeys(EXCEPTIONS, self._exception),
        }

    def write(self, offset: int, size: int, value: int) -> None:
        """A stub's call, or any number that a program wrote to the port: then it changes that program's own memory."""
        if value >= REAL_MODE_TOP:
            return
        try:
            call = Call(self._memory, value)
            service = self._services.get(call.vector)
            if service is None:
                return
            if self.log.emit is None:
                self._serve(service, call)
            else:
                asked = self.log.asked(call)
                self._serve(service, call)
                if call.wait == DONE:
                    self.log.answered(asked, call)
            call.finish()
        except GuestMemoryError:
            pass  # the frame itself is not in RAM

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        """No stub calls by a string: what comes so is one call at most, however long it is."""
        self.write(offset, size, int.from_bytes(data[:size], "little"))

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        """The call in words."""
        if value is None or value >= REAL_MODE_TOP:
            return "call"
        try:
            return trace.question(Call(self._memory, value)).text
        except GuestMemoryError:
            return "call"

    def _serve(self, service: Callable[[Call], None], call: Call) -> None:
        try:
            service(call)
        except GuestMemoryError:
            call.ah = 1
            call.carry = True

    # Starting

    def _post(self, call: Call) -> None:
        """What is left of the power-on self-test; the stub has set up the interrupt controllers and the timer."""
        data.write_vectors(self._memory, rom().vectors)
        com_ports = [port for port in COM_PORTS if self._bus.find(port) is not None]
        lpt_ports = [port for port in LPT_PORTS if self._bus.find(port) is not None]
        data.write_bda(self._memory, com_ports, lpt_ports, self._disks.floppies, self._disks.hard_disks)
        self._redirect.on = True
        self._video.set_mode(3)
        self._keys.start()
        self._clock.start()
        self._bootstrap(call)

    def _bootstrap(self, call: Call) -> None:
        """INT 19h: the first sector goes to 0000:7C00, where it finds the number of its drive in DL; of a CD, what its
        boot catalog says."""
        if self._cds is not None:
            self._cds.forget()
        failures = []
        for number in self._boot:
            try:
                address, drive = self._load(number)
            except (PykvmError, OSError) as error:
                failures.append(f"drive {number:02X}h cannot be started from: {error}")
                continue
            self._disks.tell_counts()
            call.eax = call.ebx = call.ecx = call.esi = call.edi = call.ebp = 0
            call.edx = drive
            call.ds = call.es = 0
            call.go_to(address >> 4 & 0xF000, address & 0xFFFF, interrupts=True)
            return
        self._halt(call, "; ".join(failures) or "there is no drive to start from")

    def _load(self, number: int) -> tuple[int, int]:
        """Load what drive `number` has to start: its address, and the number that the program finds in DL."""
        if self._cds is not None and number >= CD:
            return self._cds.start(number)
        self._memory.write(BOOT_SECTOR, self._disks.boot_sector(number))
        return BOOT_SECTOR, number

    def _no_disk(self, call: Call) -> None:
        """INT 18h: there is nothing to start."""
        self._halt(call, "the program found nothing to start")

    def _reset(self, call: Call) -> None:
        call.go_to(SEGMENT, rom().halt, interrupts=False)
        self._on_reset("the guest jumped to the reset vector")

    # What goes wrong

    def _exception(self, call: Call) -> None:
        """An exception that the program has no handler for. A PC would run on as if nothing were, or for ever here."""
        from ..x86.exceptions import vector_name, vector_title

        what = f"{vector_title(call.vector)} ({vector_name(call.vector)})"
        frame = Call(self._memory, call.address)
        self._halt(call, f"the program met an exception: {what} at {call.cs:04X}:{call.ip:04X}")
        self._on_exception(frame)

    def _halt(self, call: Call, why: str) -> None:
        for character in f"\r\nBIOS: {why}\r\n".encode():
            self._video.write(character)
        call.go_to(SEGMENT, rom().halt, interrupts=False)

    def _key_interrupt(self, call: Call) -> None:
        if self._keys.interrupt():
            self._on_reset("Ctrl-Alt-Del was pressed")

    # State

    def save(self) -> State:
        cds = {} if self._cds is None else self._cds.save()
        return {**self._redirect.save(), "keys": list(self._keys.waiting), "wait_left": self._system.wait_left, **cds}

    def restore(self, state: State) -> None:
        wait_left = state.get("wait_left")
        if type(wait_left) is not int or not 0 <= wait_left < 1 << 43:
            raise ValueError(f"BIOS: state field 'wait_left' is {wait_left!r}, not a time in nanoseconds")
        keys = waiting_keys(state)
        started = None if self._cds is None else self._cds.checked(state)
        self._redirect.restore(state)
        if self._cds is not None:
            self._cds.restore(started)
        self._keys.waiting = keys
        self._system.wait_left = wait_left
