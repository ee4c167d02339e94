"""The packets that ask what the target is and can do, which threads it has, and gdb's `monitor`.

Source: "Debugging with GDB", appendix E.2 (H, T, vCont?) and E.4 (general query packets).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...x86.mode import cpu_mode
from . import monitor, target
from .arguments import number, parts
from .packets import MAX_PAYLOAD

if TYPE_CHECKING:
    from .conversation import Conversation, Handler


def choose(session: Conversation, arguments: bytes) -> bytes:
    """`Hg thread`"""
    session.cpu = session.named(arguments)[0]
    return b"OK"


def choose_resumed(session: Conversation, arguments: bytes) -> bytes:
    """`Hc thread`"""
    cpus = session.named(arguments)
    session.resumed = cpus[0] if arguments not in (b"-1", b"0") else -1
    return b"OK"


def is_alive(session: Conversation, arguments: bytes) -> bytes:
    """`T thread`"""
    session.named(arguments)
    return b"OK"


def current(session: Conversation, _arguments: bytes) -> bytes:
    """`qC`"""
    return b"QC%x" % (session.cpu + 1)


def first_threads(session: Conversation, _arguments: bytes) -> bytes:
    """`qfThreadInfo`"""
    return b"m" + b",".join(b"%x" % number for number in range(1, session.count + 1))


def more_threads(session: Conversation, _arguments: bytes) -> bytes:
    """`qsThreadInfo`"""
    return b"l"


def describe_thread(session: Conversation, arguments: bytes) -> bytes:
    """`qThreadExtraInfo,thread`: of a CPU that cannot go on with the reason, which no stop reply has room for."""
    cpu = session.named(arguments)[0]
    state = session.state(cpu)
    activity = session.control.engine.board.vcpus[cpu].get_mp_state().name.lower().replace("_", " ")
    mode = cpu_mode(state.system, state.general.rflags)
    words = f"CPU {cpu}: {activity}, {mode.words}, ring {mode.ring}"
    report = session.control.explain()
    if report is not None and report.explanation and report.vcpu == cpu:
        words += f"; {report.explanation}"
    return words.encode()[: MAX_PAYLOAD // 2].hex().encode()


def supported(session: Conversation, _arguments: bytes) -> bytes:
    """`qSupported`"""
    return (
        b"PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;"
        b"multiprocess-;QNonStop-" % MAX_PAYLOAD
    )


def no_acks(session: Conversation, _arguments: bytes) -> None:
    """`QStartNoAckMode`: its own answer is the last that is acknowledged."""
    session.reply(b"OK")
    session.acks = False


def features(session: Conversation, arguments: bytes) -> bytes:
    """`qXfer:features:read:annex:offset,length`; no other object is there"""
    kind, operation, annex, place = parts(arguments, b":", 4)
    if (kind, operation) != (b"features", b"read"):
        return b""
    offset, size = map(number, parts(place, b",", 2))
    if annex != b"target.xml":
        return b"E00"
    text = target.description(session.layout.architecture)
    part = text[offset : offset + min(size, MAX_PAYLOAD // 2)]
    return (b"m" if offset + len(part) < len(text) else b"l") + part


def vcont_kinds(session: Conversation, _arguments: bytes) -> bytes:
    """`vCont?`"""
    return b"vCont;c;C;s;S;r"


def attached(session: Conversation, _arguments: bytes) -> bytes:
    """`qAttached`: when gdb quits, the machine goes on without it."""
    return b"1"


def symbols(session: Conversation, _arguments: bytes) -> bytes:
    """`qSymbol::`: no symbol is needed."""
    return b"OK"


def command(session: Conversation, arguments: bytes) -> bytes:
    """`qRcmd,command`: what the user gave gdb's `monitor`."""
    text = monitor.run(session, bytes.fromhex(arguments.decode("ascii")).decode("utf-8", "replace"))
    if text:
        session.print(text)
    return b"OK"


HANDLERS: Mapping[bytes, Handler] = {
    b"Hg": choose,
    b"Hc": choose_resumed,
    b"T": is_alive,
    b"vCont?": vcont_kinds,
    b"qC": current,
    b"qSupported": supported,
    b"qSupported:": supported,
    b"qXfer:": features,
    b"QStartNoAckMode": no_acks,
    b"qfThreadInfo": first_threads,
    b"qsThreadInfo": more_threads,
    b"qThreadExtraInfo,": describe_thread,
    b"qAttached": attached,
    b"qAttached:": attached,
    b"qSymbol:": symbols,
    b"qRcmd,": command,
}
