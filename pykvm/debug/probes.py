"""What this machine's KVM reports to a debugger, found by trying it on a machine of a few instructions."""

from __future__ import annotations

from functools import cache

from ..kvm.exits import Exit
from ..kvm.vcpu import GUESTDBG_ENABLE, GUESTDBG_USE_HW_BP, GUESTDBG_USE_SW_BP
from ..machine import Machine
from .breakpoints import INT3, WRITE, Placement, Slot

BP = 3
"""The vector of #BP."""


@cache
def data_breakpoints_work() -> bool:
    """Whether this KVM reports watchpoints in ring 0: where it emulates ring 0, it may not."""
    code = bytes.fromhex("a20005 e6f4")  # mov [0x500], al; out 0xf4, al
    with Machine(code, memory="1M", format="flat", mode=16) as machine:
        placement = Placement([Slot(0x500, WRITE)])
        machine.engine.board.vcpus[0].set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_USE_HW_BP, [0x500], placement.dr7)
        return machine.engine.board.vcpus[0].enter() == Exit.DEBUG


@cache
def int3_works(protected: bool) -> bool:
    """Whether INT3 in real mode, or in ring 0 above it, gets out of this KVM in one way or another."""
    code = INT3 + bytes.fromhex("e6 f4")  # out 0xf4, al: where real mode's INT3 leads if it does not get out
    with Machine(code, memory="1M", format="flat", mode=64 if protected else 16, load=0x7C00, entry=0x7C00) as machine:
        if not protected:
            machine.memory.write_int(4 * BP, 4, 0x7C01)
        machine.engine.board.vcpus[0].set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_USE_SW_BP)
        return machine.engine.board.vcpus[0].enter() in (Exit.DEBUG, Exit.INTERNAL_ERROR)
