"""INT 11h, 12h and 15h: what the machine has, above all how much memory.

Sources: IBM PC/AT Technical Reference (INT 11h, 12h, 15h: 86h, 87h, 88h, C0h, C1h); ACPI specification 6.5, section
15.1 (E820h); Ralf Brown's Interrupt List (4Fh, 24xxh, E801h, E881h). APM (53xxh) is in `apm`. Not there: EISA, the PS/2
mouse (C2xxh).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from ..bus import PortBus
from ..memory import GuestMemory, GuestMemoryError
from ..typed import TYPE_CHECKING
from . import data
from .call import SLEEP, SPIN, Call, linear
from .rom import CONFIGURATION, SEGMENT

if TYPE_CHECKING:
    from .apm import Apm

SMAP = 0x534D4150
EXTENDED = 1 << 20
SYSTEM_PORT = 0x92
A20_OPEN = 2
MOST_WORDS = 0x8000
"""INT 15h AH=87h moves at most 64 KiB."""

TICK_NS = 54_925_400
"""Between two timer interrupts."""


class System:
    """Serves INT 11h, 12h and 15h. `memory_map` lists (address, size, E820 type); `now` is in nanoseconds."""

    def __init__(
        self,
        memory: GuestMemory,
        ports: PortBus,
        memory_map: Sequence[tuple[int, int, int]],
        now: Callable[[], int],
    ) -> None:
        self._memory = memory
        self._ports = ports
        self._map = memory_map
        self._now = now
        self._deadline = 0
        self._ticks = 0  # when the wait began: a program may have switched the timer's interrupt off
        self._apm: Apm | None = None
        self._extended_kib = max(memory.regions[0].size - EXTENDED, 0) >> 10

    @property
    def wait_left(self) -> int:
        """Nanoseconds until the wait of function 86h is over; also to set."""
        return max(self._deadline - self._now(), 0)

    @wait_left.setter
    def wait_left(self, left: int) -> None:
        self._deadline = self._now() + left
        self._ticks = self._memory.read_int(data.TICKS, 4)

    def equipment(self, call: Call) -> None:
        """INT 11h."""
        call.ax = self._memory.read_int(data.EQUIPMENT, 2)

    def conventional(self, call: Call) -> None:
        """INT 12h."""
        call.ax = self._memory.read_int(data.MEMORY_KIB, 2)

    def serve(self, call: Call) -> None:
        """INT 15h."""
        match call.ah:
            case 0x24:
                self._a20(call)
            case 0x4F:
                call.carry = True  # the scan code in AL is to be processed as it is
            case 0x53:
                if self._apm is None:
                    from .apm import Apm

                    self._apm = Apm(self._ports)
                self._apm.serve(call)
            case 0x86:
                self._wait(call)
            case 0x87:
                self._move(call)
            case 0x88:
                call.ax = min(self._extended_kib, 0xFFFF)
                call.carry = False
            case 0x90 | 0x91:
                call.ah = 0
                call.carry = False
            case 0xC0:
                call.es, call.bx, call.ah = SEGMENT, CONFIGURATION, 0
                call.carry = False
            case 0xC1:
                call.es = data.EBDA >> 4
                call.carry = False
            case 0xE8 if call.al in (0x01, 0x20, 0x81):
                (self._e820 if call.al == 0x20 else self._e801)(call)
            case _:
                call.unsupported()

    def _a20(self, call: Call) -> None:
        present = self._ports.find(SYSTEM_PORT) is not None
        state = self._ports.read(SYSTEM_PORT, 1) if present else A20_OPEN
        match call.al:
            case 0x00 | 0x01 if present:
                self._ports.write(SYSTEM_PORT, 1, state & ~A20_OPEN | call.al << 1)
            case 0x01:
                pass
            case 0x02:
                call.al = int(bool(state & A20_OPEN))
            case 0x03:
                call.bx = 0x0003 if present else 0x0001
            case _:
                call.unsupported()
                return
        call.ah = 0
        call.carry = False

    def _wait(self, call: Call) -> None:
        """Until CX:DX microseconds have passed: asleep as long as ticks come and one will be in time, else watching."""
        if not call.waited:
            self.wait_left = (call.cx << 16 | call.dx) * 1000
        left = self.wait_left
        if left > 0:
            ticking = self._memory.read_int(data.TICKS, 4) != self._ticks
            call.wait = SLEEP if ticking and left > TICK_NS else SPIN
        call.carry = False

    def _move(self, call: Call) -> None:
        """AH=87h: CX words between the third and the fourth descriptor of the table at ES:SI."""
        table = linear(call.es, call.si)
        try:
            if call.cx > MOST_WORDS:
                raise GuestMemoryError(table, 2 * call.cx)
            source, target = (self._base(table + at) for at in (0x10, 0x18))
            self._memory.write(target, self._memory.read(source, 2 * call.cx))
            call.ah = 0
        except GuestMemoryError:
            call.ah = 2  # an exception
        call.carry = call.ah != 0
        call.zero = not call.carry

    def _base(self, descriptor: int) -> int:
        """The 32-bit base address in a segment descriptor."""
        fields = self._memory.read(descriptor, 8)
        return int.from_bytes(fields[2:5] + fields[7:], "little")

    def _e801(self, call: Call) -> None:
        below_16m = min(self._extended_kib, 15 << 10)
        above_16m = min((self._extended_kib - below_16m) >> 6, 0xFFFF)
        if call.al == 0x81:
            call.eax = call.ecx = below_16m
            call.ebx = call.edx = above_16m
        else:
            call.ax = call.cx = below_16m
            call.bx = call.dx = above_16m
        call.carry = False

    def _e820(self, call: Call) -> None:
        """One range a call; EBX counts."""
        if call.edx != SMAP or call.ecx < 20 or call.ebx >= len(self._map):
            call.unsupported()
            return
        base, size, kind = self._map[call.ebx]
        try:
            self._memory.write(linear(call.es, call.di), struct.pack("<QQI", base, size, kind))
        except GuestMemoryError:
            call.unsupported()
            return
        call.eax, call.ecx = SMAP, 20
        call.ebx = (call.ebx + 1) % len(self._map)
        call.carry = False
