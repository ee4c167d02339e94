"""The last exits of a vCPU, kept as they come and put into words only if somebody asks: after a failure."""

from __future__ import annotations

from collections import deque

from ..engine.board import Board
from ..engine.entry import Link, Rank
from ..engine.runner import Runner
from ..kvm.exits import PIO, InternalError, Mmio, MsrAccess, PortAccess, PortBlock, VcpuExit, decode

KEPT = 64
"""Exits of a vCPU that are kept."""
BLOCK_SHOWN = 16
"""Bytes of a block that are kept."""


class Recorder(Link):
    """Keeps the last exits of the vCPU of `runner`. Used by its thread; read while that is out of the guest."""

    rank = Rank.COUNT

    def __init__(self, runner: Runner) -> None:
        self._vcpu = runner.vcpu
        self.exits: deque[tuple[int, int | None] | VcpuExit] = deque(maxlen=KEPT)
        """A port access is (result of `VCPU.enter`, what was read)."""
        runner.entry.push(self)

    def enter(self) -> int:
        """As `VCPU.enter`."""
        return self._keep(self.inner.enter())

    def enter_answering(self, value: int) -> int:
        """As `VCPU.enter_answering`."""
        if self.exits and isinstance(self.exits[-1], tuple):
            self.exits[-1] = (self.exits[-1][0], value)
        return self._keep(self.inner.enter_answering(value))

    def _keep(self, result: int) -> int:
        if result >= PIO:
            self.exits.append((result, None))
        elif result >= 0:
            left = self._vcpu.decode_exit(result)
            if isinstance(left, PortBlock):  # its data is the shared page, which will be another's soon
                left = PortBlock(left.port, left.size, left.count, left.is_output, bytes(left.data[:BLOCK_SHOWN]))
            self.exits.append(left)
        return result

    def lines(self, board: Board) -> list[str]:
        """The exits in words, the last one last; the same several times in a row is one line."""
        lines: list[str] = []
        count = 1
        for line in (_words(left, board) for left in self.exits):
            if lines and line == lines[-1].partition("  (")[0]:
                count += 1
                lines[-1] = f"{line}  ({count} times)"
            else:
                count = 1
                lines.append(line)
        return lines


def _words(left: tuple[int, int | None] | VcpuExit, board: Board) -> str:
    read: int | None = None
    if isinstance(left, tuple):
        read, left = left[1], decode(None, left[0])
    match left:
        case PortAccess(port, size, value):
            direction, shown = ("in ", read) if value is None else ("out", value)
            return _access(direction, f"port {port:#x}", size, shown, _register(board, port, size, shown))
        case PortBlock(port, size, count, is_output, data):
            what = f"{'out' if is_output else 'in '} port {port:#x}: {count} x {size} bytes"
            return f"{what} {data.hex(' ')}" if is_output else what
        case Mmio(address, size, value, is_write):
            device = board.mmio.find(address)
            name = "" if device is None else device.device.display_name
            shown = value if is_write else None
            return _access("write" if is_write else "read", f"{address:#x}", size, shown, name or "nobody answers")
        case MsrAccess(index, value):
            return f"rdmsr {index:#x}" if value is None else f"wrmsr {index:#x} <- {value:#x}"
        case InternalError(suberror, _, code):
            return f"KVM cannot emulate {code.hex(' ')}" if code else f"KVM: internal error {suberror}"
        case other:
            return getattr(other, "name", type(other).__name__).lower().replace("_", " ")


def _access(what: str, where: str, size: int, value: int | None, who: str) -> str:
    shown = "" if value is None else f" {value:0{2 * size}x}"
    return f"{what} {where}{shown}  {who}"


def _register(board: Board, port: int, size: int, value: int | None) -> str:
    claim = board.ports.find(port)
    if claim is None:
        return "nobody answers"
    return f"{claim.device.display_name} {claim.device.register_name(claim.offset, size, value)}".rstrip()
