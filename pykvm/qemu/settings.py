"""What QEMU's command line asks for, as plain data: nothing is opened or made yet."""

from __future__ import annotations

from ..data import Data, field
from .drives import Drive
from .nets import Nets

LOG_ITEMS = {
    "int": "the exceptions that led to a triple fault",
    "cpu_reset": "each CPU's registers before a reset",
    "guest_errors": "ports and addresses that nobody answered",
    "unimp": "the same",
}
"""What -d may name."""


class Settings(Data):
    """What a command line asks for. Sizes are in bytes."""

    kernel: str | None = None
    append: str = ""
    initrd: str | None = None
    firmware: str | None = None
    boot: str = ""
    """Drive letters, the first to start from first; "" as they come."""
    memory: int = 128 << 20
    cpus: int = 1
    drives: list[Drive] = field(default_factory=list)
    snapshot: bool = False
    nets: Nets = field(default_factory=Nets)
    exit_ports: list[tuple[int, int]] = field(default_factory=list)
    """(first, number of ports) of each isa-debug-exit."""
    cards: list[str] = field(default_factory=list)
    """As --card has them."""
    devices: list[str] = field(default_factory=list)
    """As --device has them."""
    debug_console_port: int = 0xE9
    serials: list[str] = field(default_factory=list)
    """What COM1 and the next lead to."""
    monitors: list[tuple[str, str]] = field(default_factory=list)
    """Where monitors are: (device, "readline", "control" or "pretty")."""
    debugcon: str | None = None
    chardevs: dict[str, str] = field(default_factory=dict)
    """Devices of -chardev by id, written as -serial takes them."""
    display: str = ""
    """"none", "curses", or "" if nobody said."""
    uses_stdio: bool = False
    """Whether a device is this process's standard input and output."""
    escape: int = 1
    stopped: bool = False
    gdb: str | None = None
    """As `Machine.gdb` takes it."""
    no_reboot: bool = False
    no_shutdown: bool = False
    pidfile: str | None = None
    daemonize: bool = False
    log: list[str] = field(default_factory=list)
    log_file: str | None = None
    name: str = ""
    uuid: str = ""
    words: list[str] = field(default_factory=list)
    """What is to be said of options that change nothing."""
    show: str | None = None
    """"help", "version" or "log": to be shown, and nothing run."""
