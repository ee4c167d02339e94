"""The packets that set breakpoints, let the machine go on, and end it.

Source: "Debugging with GDB", appendix E.2 (c, s, C, S, vCont, ?, D, k, vKill, Z, z). How to step: QEMU's documentation,
"GDB usage" (qqemu.sstep).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from ...errors import PykvmError
from ...kvm.quirks import data_breakpoints_work
from ..breakpoints import MAX_CODE, Watch
from ..stepper import StepRange
from .arguments import EFAULT, EINVAL, number, parts

if TYPE_CHECKING:
    from .conversation import Conversation, Handler

SSTEP_ENABLE, SSTEP_NOIRQ = 1, 2
"""QEMU's bits for how to step."""

MAX_WATCH = 32
"""Bytes of the largest watchpoint: what four debug registers can cover."""

Item = TypeVar("Item", int, Watch)


def insert(session: Conversation, arguments: bytes) -> bytes:
    """`Z type,addr,kind`"""
    return _change(session, arguments, wanted=True)


def remove(session: Conversation, arguments: bytes) -> bytes:
    """`z type,addr,kind`"""
    return _change(session, arguments, wanted=False)


def _change(session: Conversation, arguments: bytes, wanted: bool) -> bytes:
    kind, address, size = map(number, parts(arguments.partition(b";")[0], b",", 3))
    breakpoints = session.control.breakpoints
    session.control.require_stopped()
    if kind > 4 or kind == 3:  # no x86 CPU has watchpoints for reads alone; gdb then takes one for accesses
        return b""
    if kind == 4 and not data_breakpoints_work():
        return b""
    if address >> 64 or (kind > 1 and not 0 < size <= MAX_WATCH):
        return EINVAL
    if kind > 1:
        return _update(session, breakpoints.watches, Watch(address, size, kind == 4), wanted)
    return _update(session, breakpoints.hardware if kind else breakpoints.software, address, wanted)


def _update(session: Conversation, items: set[Item], item: Item, wanted: bool) -> bytes:
    if not wanted:
        items.discard(item)
    elif item not in items:
        if len(items) >= MAX_CODE:
            return EINVAL
        items.add(item)
        try:
            session.control.check_breakpoints()
        except PykvmError:
            items.discard(item)
            return EFAULT
    return b"OK"


def continue_at(session: Conversation, arguments: bytes) -> bytes | None:
    """`c [addr]`"""
    return _go_at(session, arguments, None)


def step_at(session: Conversation, arguments: bytes) -> bytes | None:
    """`s [addr]`"""
    return _go_at(session, arguments, StepRange())


def signal_continue_at(session: Conversation, arguments: bytes) -> bytes | None:
    """`C sig[;addr]`: a machine takes no signals."""
    return _go_at(session, arguments.partition(b";")[2], None)


def signal_step_at(session: Conversation, arguments: bytes) -> bytes | None:
    """`S sig[;addr]`"""
    return _go_at(session, arguments.partition(b";")[2], StepRange())


def _go_at(session: Conversation, address: bytes, action: StepRange | None) -> bytes | None:
    if address:
        registers = {register.name: register for register in session.layout.registers}
        pc = registers.get("rip") or registers["eip"]
        pc.set(session.state(session.cpu), number(address))
    if action is not None:
        return _go(session, {session.cpu if session.resumed < 0 else session.resumed: action})
    return _go(session, dict.fromkeys(range(session.count), action))


def vcont(session: Conversation, arguments: bytes) -> bytes | None:
    """`vCont;action[:thread]...`: the leftmost that fits a CPU counts."""
    actions: dict[int, StepRange | None] = {}
    for part in arguments.split(b";"):
        what, _, thread = part.partition(b":")
        action = _action(what)
        for cpu in session.named(thread) if thread else range(session.count):
            actions.setdefault(cpu, action)
    if not actions:
        return EINVAL
    return _go(session, actions)


def _go(session: Conversation, actions: dict[int, StepRange | None]) -> bytes | None:
    session.cpus.clear()
    if session.control.stop is None:
        return session.stop_reply(None)
    session.control.resume(actions)
    session.waiting = True
    session.report()  # another CPU's stop may have waited
    return None


def why(session: Conversation, _arguments: bytes) -> bytes:
    """`?`"""
    session.waiting = False
    return session.stop_reply(session.control.interrupt())


def detach(session: Conversation, _arguments: bytes) -> bytes:
    """`D`"""
    session.control.detach()
    session.finished = True
    return b"OK"


def kill(session: Conversation, _arguments: bytes) -> None:
    """`k`"""
    session.control.engine.request_stop("killed by gdb")
    session.finished = True


def kill_process(session: Conversation, _arguments: bytes) -> bytes:
    """`vKill;pid`"""
    session.control.engine.request_stop("killed by gdb")
    return b"OK"


def step_mode(session: Conversation, arguments: bytes) -> bytes:
    """`Qqemu.sstep=bits`"""
    session.control.block_interrupts = bool(number(arguments) & SSTEP_NOIRQ)
    return b"OK"


def show_step_mode(session: Conversation, _arguments: bytes) -> bytes:
    """`qqemu.sstep`"""
    return b"0x%x" % (SSTEP_ENABLE | (SSTEP_NOIRQ if session.control.block_interrupts else 0))


def step_bits(_session: Conversation, _arguments: bytes) -> bytes:
    """`qqemu.sstepbits`"""
    return b"ENABLE=%x,NOIRQ=%x" % (SSTEP_ENABLE, SSTEP_NOIRQ)


def _action(what: bytes) -> StepRange | None:
    """One of vCont's actions; signals are of no use to a machine."""
    if what[:1] in (b"c", b"C"):
        return None
    if what[:1] in (b"s", b"S"):
        return StepRange()
    if what[:1] == b"r":
        low, high = parts(what[1:], b",", 2)
        return StepRange(number(low), number(high))
    raise ValueError("no such action")


HANDLERS: Mapping[bytes, Handler] = {
    b"Z": insert,
    b"z": remove,
    b"vCont;": vcont,
    b"vKill;": kill_process,
    b"c": continue_at,
    b"s": step_at,
    b"C": signal_continue_at,
    b"S": signal_step_at,
    b"?": why,
    b"D": detach,
    b"k": kill,
    b"Qqemu.sstep=": step_mode,
    b"qqemu.sstep": show_step_mode,
    b"qqemu.sstepbits": step_bits,
}
