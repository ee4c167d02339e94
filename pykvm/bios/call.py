"""One BIOS call: the caller's registers as the stub saved them on the caller's stack.

The frame, from its lowest address on: ES, DS, the eight registers that PUSHAD stores, the vector number with the wait
byte above it, and what the INT instruction pushed: IP, CS, FLAGS. The stub restores all of it, so that whatever a
service changes here is what the caller finds.
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory

_FRAME = struct.Struct("<HH8IBBHHH")
FRAME_SIZE = _FRAME.size

# The wait byte. The code in `rom` knows where it is in the frame and the order of these.
DONE = 0
SLEEP = 1
"""The stub halts until the next interrupt, then asks again."""
SPIN = 2
"""The stub asks again at once, interrupts let in between."""

CARRY, ZERO, INTERRUPT = 1 << 0, 1 << 6, 1 << 9


class _Part:
    """Some bits of a 32-bit register, such as AH."""

    __slots__ = ("_mask", "_register", "_shift")

    def __init__(self, register: str, shift: int, bits: int) -> None:
        self._register, self._shift, self._mask = register, shift, (1 << bits) - 1

    def __get__(self, call: Call, owner: type[Call]) -> int:
        value: int = getattr(call, self._register)
        return value >> self._shift & self._mask

    def __set__(self, call: Call, value: int) -> None:
        old: int = getattr(call, self._register)
        setattr(call, self._register, old & ~(self._mask << self._shift) | (value & self._mask) << self._shift)


class _Flag:
    """A bit of FLAGS."""

    __slots__ = ("_mask",)

    def __init__(self, mask: int) -> None:
        self._mask = mask

    def __get__(self, call: Call, owner: type[Call]) -> bool:
        return bool(call.flags & self._mask)

    def __set__(self, call: Call, value: bool) -> None:
        call.flags = call.flags | self._mask if value else call.flags & ~self._mask


class Call:
    """The registers of the caller; assigning changes what it will see. `wait` says what the stub does next."""

    __slots__ = (
        "address", "cs", "ds", "eax", "ebp", "ebx", "ecx", "edi", "edx", "es", "esi", "esp", "flags", "ip",
        "memory", "unanswered", "vector", "wait", "waited",
    )  # fmt: skip

    ax, bx, cx, dx = _Part("eax", 0, 16), _Part("ebx", 0, 16), _Part("ecx", 0, 16), _Part("edx", 0, 16)
    al, bl, cl, dl = _Part("eax", 0, 8), _Part("ebx", 0, 8), _Part("ecx", 0, 8), _Part("edx", 0, 8)
    ah, bh, ch, dh = _Part("eax", 8, 8), _Part("ebx", 8, 8), _Part("ecx", 8, 8), _Part("edx", 8, 8)
    si, di, bp = _Part("esi", 0, 16), _Part("edi", 0, 16), _Part("ebp", 0, 16)
    carry, zero = _Flag(CARRY), _Flag(ZERO)

    def __init__(self, memory: GuestMemory, address: int) -> None:
        """Read the frame at the guest physical `address`; GuestMemoryError if it is not in RAM."""
        self.memory = memory
        self.address = address
        (
            self.es, self.ds, self.edi, self.esi, self.ebp, self.esp, self.ebx, self.edx, self.ecx, self.eax,
            self.vector, waited, self.ip, self.cs, self.flags,
        ) = _FRAME.unpack(memory.read(address, FRAME_SIZE))  # fmt: skip
        self.waited = waited != DONE
        """Whether the same call was here before and was told to wait. POPAD passes over the frame's ESP, so that what a
        service leaves there is there when it is asked again."""
        self.wait = DONE
        self.unanswered = False
        """Whether the service has no such function, and did nothing: for those who trace."""

    def finish(self) -> None:
        """Write the frame back."""
        self.memory.write(
            self.address,
            _FRAME.pack(
                self.es, self.ds, self.edi, self.esi, self.ebp, self.esp, self.ebx, self.edx, self.ecx, self.eax,
                self.vector, self.wait, self.ip, self.cs, self.flags,
            ),
        )  # fmt: skip

    def go_to(self, segment: int, offset: int, *, interrupts: bool) -> None:
        """Do not return to the caller but to segment:offset."""
        self.cs, self.ip = segment, offset
        self.flags = INTERRUPT | 2 if interrupts else 2

    def unsupported(self) -> None:
        """What a BIOS answers to a function of INT 15h that it has not: carry, AH = 86h."""
        self.ah = 0x86
        self.carry = True


def linear(segment: int, offset: int) -> int:
    """The physical address of segment:offset in real mode, A20 open: at most 0x10FFEF."""
    return (segment << 4) + offset
