"""What an option that brings devices is: from its keyword and its words to its part of a snapshot."""

from __future__ import annotations

from collections.abc import Iterable

from ..console.port import ConsolePort
from ..device import Aside, Device, at_once
from ..engine.board import Board
from ..engine.eventloop import EventLoop
from ..engine.gate import FairLock
from ..typed import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..disk import Disk
    from ..disk.tray import Tray
    from ..net.cable import Cable


class Closeable(Protocol):
    """What a machine gives back at its end."""

    def close(self) -> None: ...


class Bench:
    """What a PC's devices are built on: `board`, the machine's `lock`, its I/O `loop`, and who does what takes long."""

    def __init__(self, board: Board, lock: FairLock, loop: EventLoop, aside: Aside = at_once) -> None:
        self.board, self.lock, self.loop, self.aside = board, lock, loop, aside
        self.consoles: list[ConsolePort] = []
        """The host's sides of COM1 onwards."""
        self.cables: list[Cable] = []
        """The NICs' cables, by the NICs' numbers."""
        self.devices: list[Device] = []
        """Those of users, which come last: cards need slots, and others must not take what the PC's have."""
        self.virtio_disks: list[Disk] = []
        self.trays: list[Tray] = []
        """Those of the CD-ROM drives, which are put onto the ATA channels with the disks."""


class DeviceOption:
    """A kind of devices that a PC may be made with. Its file says all that there is to say of it, and so is all of it:
    the keyword of `Machine` and of `Snapshot.fork`, the option of the command line, and what a snapshot keeps.
    """

    name: str
    """The keyword, and the key in a snapshot's table "machine"."""
    default: Any
    """The value if nobody says anything."""
    absent: Any = None
    """What `build` returns where there are no such devices: what a snapshot has that is older than the option."""
    has_media = False
    """Whether the value is the drives' trays: a fork has the snapshot's media on them."""
    flags: tuple[str, ...] = ()
    """The option's names on the command line; none if it has none there."""
    multiple = False
    """Whether the option may be given several times: `parse` is called for each, and the value is a list."""
    metavar = ""
    help = ""
    """What `--help` says of it, in a sentence or two."""

    def parse(self, text: str) -> Any:
        """A value, or one item of it, from the command line; ConfigError if the text makes no sense."""
        raise NotImplementedError

    def opened(self, value: Any) -> Any:
        """The value with back ends in place of what only names them; ConfigError if one cannot be had."""
        return value

    def owned(self, value: Any) -> Iterable[Closeable]:
        """The back ends in a value, as `opened` returns it: the machine closes them."""
        return ()

    def build(self, value: Any, bench: Bench) -> Any:
        """Put the devices on the bench; ConfigError for a value that cannot be.

        The result is plain data (see `device.State`): what a machine must be made with to be one like this.
        """
        raise NotImplementedError

    def from_snapshot(self, plain: Any) -> Any:
        """The value that makes such devices, for what `build` returned; ValueError if it cannot be: anybody may have
        written it."""
        raise NotImplementedError
