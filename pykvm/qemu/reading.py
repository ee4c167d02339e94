"""Reads QEMU's command line: from its words to `Settings`.

Source: qemu-system-x86_64(1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ConfigError
from .drives import VIRTIO_DISKS, device_drives, drive, letter
from .flags import FLAGS, REFUSED, SAID, WORKS
from .settings import LOG_ITEMS, Settings
from .words import is_on, number, settings, size, split

_LOG_OF_TCG = {
    "out_asm", "in_asm", "op", "op_opt", "op_ind", "exec", "cpu", "fpu", "mmu", "pcall", "page", "nochain", "plugin",
    "strace", "tid",
}  # fmt: skip
EXIT_PORT_DEFAULT = (0x501, 2)
"""isa-debug-exit: iobase and iosize."""
_ABSENT_DEVICES = ("e1000", "rtl8139", "virtio-", "pcnet", "i82551", "ne2k_pci")


class _Reading:
    """The reading of one command line."""

    def __init__(self) -> None:
        self.wanted = Settings()
        self.nographic = self.nodefaults = False
        self.devices: list[dict[str, str]] = []
        self.snapshot_files: list[str] = []

    def say(self, text: str) -> None:
        """Have a word said."""
        self.wanted.words.append(text)

    # Options, by name, with the option's text

    def kernel(self, text: str) -> None:
        if self.wanted.kernel is not None:
            raise ConfigError(f"{text}: there is a kernel already")
        self.wanted.kernel = text

    def append(self, text: str) -> None:
        self.wanted.append = text

    def initrd(self, text: str) -> None:
        self.wanted.initrd = text

    def bios(self, text: str) -> None:
        self.wanted.firmware = text

    def boot(self, text: str) -> None:
        found = settings(text, "order", ("menu", "strict"))
        order = found.get("once", found.get("order", ""))
        if not set(order) <= set("abcdnop"):
            raise ConfigError(f"{order!r} are no drives: a is the floppy disk, c the first hard disk, d the CD")
        self.wanted.boot = order
        if order[:1] == "n":
            raise ConfigError("there is no start from a network")
        for name in found.keys() - {"order", "once", "menu", "strict", "splash", "splash-time", "reboot-timeout"}:
            raise ConfigError(f"there is no {name}=")

    def drive(self, text: str) -> None:
        self.wanted.drives.append(drive(text))

    def disk(self, name: str, text: str) -> None:
        """-hda and its like."""
        self.wanted.drives.append(letter(name, text))

    def snapshot(self, text: str) -> None:
        self.wanted.snapshot = True

    def m(self, text: str) -> None:
        found = settings(text, "size")
        for name in found.keys() - {"size", "slots", "maxmem"}:
            raise ConfigError(f"there is no {name}=")
        if "slots" in found or "maxmem" in found:
            self.say("slots= and maxmem=: RAM is not added while the guest runs")
        if "size" in found:
            self.wanted.memory = size("size", found["size"], "M")

    def smp(self, text: str) -> None:
        found = settings(text, "cpus")
        parts = ("sockets", "dies", "clusters", "cores", "threads")
        for name in found.keys() - {"cpus", "maxcpus", *parts}:
            raise ConfigError(f"there is no {name}=")
        product = 1
        for name in parts:
            product *= number(name, found.get(name, "1"), 1, 255)
        self.wanted.cpus = number("cpus", found["cpus"], 1, 255) if "cpus" in found else min(product, 255)
        if number("maxcpus", found.get("maxcpus", "255"), 1, 1 << 20) < self.wanted.cpus:
            raise ConfigError("maxcpus= is less than the number of CPUs")

    def machine(self, text: str) -> None:
        found = settings(text, "type")
        kind = found.get("type", "pc")
        if kind in ("q35", "isapc") or kind.startswith("pc-q35"):
            self.say(f"-machine {kind}: it is a PC with an ISA bus and a PIIX's PCI functions")
        elif kind != "pc" and not kind.startswith("pc-i440fx"):
            raise ConfigError(f"there is no machine {kind!r}: give pc")
        if "accel" in found:
            self.accel(found["accel"].split(":")[0])

    M = machine

    def accel(self, text: str) -> None:
        kind = settings(text, "accel").get("accel", "")
        if kind != "kvm":
            self.say(f"-accel {kind}: it is always KVM")

    def enable_kvm(self, text: str) -> None:
        pass

    no_hpet = no_user_config = enable_kvm

    def nodefaults_(self, text: str) -> None:
        self.nodefaults = True

    def device(self, text: str) -> None:
        found = settings(text, "driver")
        kind = found.get("driver", "")
        if kind == "isa-debug-exit":
            base = number("iobase", found.get("iobase", hex(EXIT_PORT_DEFAULT[0])), 0, 0xFFFF)
            length = number("iosize", found.get("iosize", str(EXIT_PORT_DEFAULT[1])), 1, 4)
            self.wanted.exit_ports.append((base, length))
        elif kind == "isa-debugcon":
            self.wanted.debug_console_port = number("iobase", found.get("iobase", "0xe9"), 0, 0xFFFF)
            self.wanted.debugcon = f"chardev:{found.get('chardev', '')}"
        elif kind in ("ide-hd", "ide-cd", "ne2k_isa", *VIRTIO_DISKS):
            self.devices.append(found)
        elif kind == "pc-testdev":
            self.wanted.cards.append(kind)
        elif kind in ("virtio-rng-pci", "virtio-rng-pci-non-transitional"):
            self.wanted.devices.append("pykvm.devices.virtio.rng:VirtioRng")
        elif kind in ("VGA", "isa-vga") or kind.startswith(("usb-", "virtio-balloon")):
            self.say(f"-device {kind}: left out")
        elif kind.startswith(_ABSENT_DEVICES) and ("netdev" in found or "virtio" not in kind):
            raise ConfigError(f"there is no {kind}: network cards are ne2k_isa")
        else:
            raise ConfigError(
                f"there is no device {kind!r}: there are isa-debug-exit, isa-debugcon, ide-hd, ide-cd, ne2k_isa, "
                "pc-testdev, virtio-blk-pci and virtio-rng-pci"
            )

    def rtc(self, text: str) -> None:
        found = settings(text, "base")
        if found.get("base", "utc") != "utc":
            raise ConfigError("the guest's clock has UTC: give base=utc")
        for name in found.keys() - {"base", "clock", "driftfix"}:
            raise ConfigError(f"there is no {name}=")
        if found.get("clock", "host") != "host":
            self.say("-rtc clock=: the clock is the host's")

    def uuid(self, text: str) -> None:
        if [len(part) for part in text.split("-")] != [8, 4, 4, 4, 12] or not set(text) <= set(
            "0123456789abcdefABCDEF-"
        ):
            raise ConfigError(f"{text[:60]!r} is no UUID")
        self.wanted.uuid = text.lower()

    def name(self, text: str) -> None:
        self.wanted.name = settings(text, "guest").get("guest", "")

    # The screen, ports, networks

    def nographic_(self, text: str) -> None:
        self.nographic, self.wanted.display = True, "none"

    def display(self, text: str) -> None:
        kind = split(text)[0]
        if kind not in ("none", "curses"):
            self.say(f"-display {kind}: there is no window; curses shows the text screen on this terminal")
            kind = "none" if kind != "default" else ""
        self.wanted.display = kind

    def curses(self, text: str) -> None:
        self.wanted.display = "curses"

    def vga(self, text: str) -> None:
        if text != "std":
            self.say(f"-vga {text}: it is a standard VGA with Bochs' extensions")

    def serial(self, text: str) -> None:
        self.wanted.serials.append(text)

    def parallel_(self, text: str) -> None:
        if text == "null" or text.startswith("file:"):
            self.wanted.cards.append("lpt" if text == "null" else f"lpt:{text.removeprefix('file:')}")
        elif text != "none":
            raise ConfigError(f"-parallel {text}: a printer prints to file:FILE, null or none")

    def monitor(self, text: str) -> None:
        self.wanted.monitors.append((text, "readline"))

    def qmp(self, text: str) -> None:
        self.wanted.monitors.append((text, "control"))

    def qmp_pretty(self, text: str) -> None:
        self.wanted.monitors.append((text, "pretty"))

    def mon(self, text: str) -> None:
        found = settings(text, "chardev", ("pretty",))
        mode = found.get("mode", "readline")
        if mode not in ("readline", "control") or "chardev" not in found:
            raise ConfigError("give chardev=ID, and mode=readline or mode=control")
        if is_on("pretty", found.get("pretty", "off")) and mode == "control":
            mode = "pretty"
        self.wanted.monitors.append((f"chardev:{found['chardev']}", mode))

    def chardev(self, text: str) -> None:
        found = settings(text, "backend", ("server", "wait", "mux", "signal", "append", "telnet", "nodelay"))
        name, kind = found.get("id", ""), found.get("backend", "")
        if not name or name in self.wanted.chardevs:
            raise ConfigError(f"give an id that nothing else has: {name!r}")
        ends = "".join(f",{key}={found[key]}" for key in ("server", "wait", "signal", "append") if key in found)
        where = found.get("path", "").replace(",", ",,")
        spec: str
        match kind:
            case "stdio" | "pty" | "null":
                spec = kind
            case "file" | "pipe" if where:
                spec = f"{kind}:{where}"
            case "socket" if where:
                spec = f"unix:{where}"
            case "socket" if "port" in found:
                spec = f"tcp:{found.get('host', '')}:{found['port']}"
            case _:
                raise ConfigError(f"there is no {kind!r} of this kind: there are stdio, file, null, socket, pty, pipe")
        if is_on("telnet", found.get("telnet", "off")):
            raise ConfigError("telnet is not spoken: leave telnet=on out")
        muxed = is_on("mux", found.get("mux", "off"))
        self.wanted.chardevs[name] = ("mon:" if muxed else "") + spec + (ends if kind != "stdio" or not muxed else "")

    def debugcon(self, text: str) -> None:
        self.wanted.debugcon = text

    def echr(self, text: str) -> None:
        self.wanted.escape = number("echr", text, 1, 255)

    def nic(self, text: str) -> None:
        self.wanted.nets.nic(text, self.say)

    def net(self, text: str) -> None:
        self.wanted.nets.net(text, self.say)

    def netdev(self, text: str) -> None:
        self.wanted.nets.netdev(text)

    # How it runs

    def S(self, text: str) -> None:  # noqa: N802  # the option's name
        self.wanted.stopped = True

    def s(self, text: str) -> None:
        self.gdb("tcp::1234")

    def gdb(self, text: str) -> None:
        where = split(text)[0]
        kind, _, rest = where.partition(":")
        if kind == "tcp":
            self.wanted.gdb = rest
        elif kind == "unix" and rest:
            self.wanted.gdb = rest if "/" in rest else f"./{rest}"
        elif kind == "none":
            self.wanted.gdb = None
        else:
            raise ConfigError(f"gdb is not served at {where!r}: give tcp:[HOST]:PORT or unix:PATH")

    def d(self, text: str) -> None:
        items = text.split(",")
        if items in (["help"], ["?"]):
            self.wanted.show = "log"
        for item in items:
            if item in _LOG_OF_TCG or item.startswith("trace:"):
                raise ConfigError(
                    f"KVM translates nothing, and has no {item}: `pykvm trace` shows exits and instructions"
                )
            if item not in LOG_ITEMS and self.wanted.show != "log":
                raise ConfigError(f"there is no {item!r} to log: there are {', '.join(LOG_ITEMS)}")
        self.wanted.log += items

    def D(self, text: str) -> None:  # noqa: N802  # the option's name
        self.wanted.log_file = text

    def no_reboot(self, text: str) -> None:
        self.wanted.no_reboot = True

    def no_shutdown(self, text: str) -> None:
        self.wanted.no_shutdown = True

    def action(self, text: str) -> None:
        for event, what in settings(text, "event").items():
            if event == "reboot" and what in ("reset", "shutdown"):
                self.wanted.no_reboot = what == "shutdown"
            elif event == "shutdown" and what in ("poweroff", "pause"):
                self.wanted.no_shutdown = what == "pause"
            elif event in ("panic", "watchdog"):
                self.say(f"-action {event}={what}: there is no such event")
            else:
                raise ConfigError(f"there is no action {event}={what}")

    def pidfile(self, text: str) -> None:
        self.wanted.pidfile = text

    def daemonize(self, text: str) -> None:
        self.wanted.daemonize = True

    def version(self, text: str) -> None:
        self.wanted.show = "version"

    def help_(self, text: str) -> None:
        self.wanted.show = "help"

    def finish(self) -> Settings:
        """The defaults for what nobody said, and what is wrong between options."""
        wanted = self.wanted
        for found in self.devices:
            if found["driver"] == "ne2k_isa":
                wanted.nets.device(found)
            else:
                device_drives(wanted.drives, found)
        if wanted.snapshot:
            wanted.drives = [each._replace(snapshot=True) for each in wanted.drives]
        self._default_ports()
        # A multiplexer brings its monitor along.
        muxes = {f"chardev:{name}" for name, spec in wanted.chardevs.items() if spec.startswith("mon:")}
        shared = muxes.intersection(wanted.serials)
        wanted.monitors = [each for each in wanted.monitors if each[1] != "readline" or each[0] not in shared]
        wanted.uses_stdio = any(spec.removeprefix("mon:").split(",")[0] == "stdio" for spec in self._specs())
        if wanted.daemonize and (self.nographic or wanted.uses_stdio or wanted.display == "curses"):
            raise ConfigError("-daemonize leaves no terminal for -nographic, stdio or curses")
        if wanted.gdb is None and wanted.stopped and not wanted.monitors and not self._muxed():
            self.say("-S: no monitor and no gdb will ever let the guest go")
        return wanted

    def _default_ports(self) -> None:
        """COM1 and the monitor, where nobody has said anything (-nographic: both on the terminal)."""
        wanted = self.wanted
        serial = not wanted.serials and not self.nodefaults
        monitor = (
            not any(mode == "readline" for _, mode in wanted.monitors) and not self._muxed() and not self.nodefaults
        )
        if self.nographic:
            if serial and monitor:
                wanted.serials.append("mon:stdio")
            elif serial:
                wanted.serials.append("stdio")
            elif monitor:
                wanted.monitors.append(("stdio", "readline"))
        elif serial:
            wanted.serials.append("vc")

    def _specs(self) -> list[str]:
        wanted = self.wanted
        used = [
            *wanted.serials,
            *(where for where, _ in wanted.monitors),
            *([wanted.debugcon] if wanted.debugcon else []),
        ]
        return [wanted.chardevs.get(spec.removeprefix("chardev:"), spec) for spec in used]

    def _muxed(self) -> bool:
        return any(spec.startswith("mon:") for spec in self._specs())


_METHODS = {
    "nographic": "nographic_",
    "parallel": "parallel_",
    "nodefaults": "nodefaults_",
    "help": "help_",
    "h": "help_",
}
"""Where a name is taken by what the reading knows."""
_DISKS = ("hda", "hdb", "hdc", "hdd", "fda", "cdrom")


def handler(reading: _Reading, name: str) -> Callable[[str], None]:
    """What reads the option of that name."""
    if name in _DISKS:
        return lambda text: reading.disk(name, text)
    found: Callable[[str], None] = getattr(reading, _METHODS.get(name, name.replace("-", "_")))
    return found


def read(words: Sequence[str]) -> Settings:
    """What QEMU's command line asks for. ConfigError names the option that cannot be."""
    reading = _Reading()
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if not word.startswith("-") or word == "-":
            reading.wanted.drives.append(letter("hda", word))
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        flag = FLAGS.get(name)
        if flag is None:
            raise ConfigError(f"{word}: invalid option")
        if flag.value and not rest:
            raise ConfigError(f"{word}: requires an argument")
        text = rest.pop() if flag.value else ""
        shown = f"{word} {text}".rstrip()
        if flag.state == REFUSED:
            raise ConfigError(f"{shown}: not here: {flag.words}")
        if flag.state == SAID:
            reading.say(f"{shown}: {flag.words}")
            continue
        assert flag.state == WORKS
        try:
            handler(reading, name)(text)
        except ConfigError as error:
            raise ConfigError(f"{shown}: {error}") from None
        if reading.wanted.show is not None:
            return reading.wanted
    return reading.finish()
