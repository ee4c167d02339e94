"""QEMU's options and what becomes of each here: the one table behind the parser, the help, docs/qemu.md, and what
`pykvm run` answers to somebody who gives it one.

Source: qemu-system-x86_64(1) of QEMU 7.2.
"""

from __future__ import annotations

from collections.abc import Container

from ..typed import NamedTuple

WORKS, SAID, REFUSED = "works", "said", "refused"
"""It does what it does in QEMU; it changes nothing here, and a word says so; it is an error."""


class Flag(NamedTuple):
    """An option: what its value is called ("" for none), what becomes of it, and that in a few words."""

    value: str
    state: str
    words: str
    run: str = ""
    """What `pykvm run` has in its place."""


_DISK, _NIC = "give '--disk FILE'", "give '--nic KIND'"
_NOT_NEEDED = "leave it out: it is always so"
_SCREEN = "give '--display terminal' for the text screen"
_ONE_KIND = "there is one kind of machine"

FLAGS: dict[str, Flag] = {
    # What is started
    "kernel": Flag(
        "FILE",
        WORKS,
        "image of any format of docs/booting.md, not Linux and Multiboot alone",
        "give the image alone, as the operand KERNEL",
    ),
    "append": Flag("TEXT", WORKS, "command line for the kernel"),
    "initrd": Flag("FILE", WORKS, "Linux's initrd; Multiboot modules: FILE [TEXT][,FILE [TEXT]]..."),
    "bios": Flag("FILE", WORKS, "firmware such as SeaBIOS, in place of pykvm's own", "give '--firmware FILE'"),
    "boot": Flag(
        "[order=]DRIVES",
        WORKS,
        "d first starts the CD; else floppy, first hard disk, CD; once= as order=",
        "leave it out: the floppy, the first disk or the CD is started",
    ),
    "dtb": Flag("FILE", REFUSED, "a PC has no device tree"),
    "L": Flag("DIR", SAID, "pykvm's BIOS is built in; -bios takes a path"),
    "option-rom": Flag("FILE", REFUSED, "there are no option ROMs"),
    "pflash": Flag("FILE", REFUSED, "there is no flash memory: -bios takes a firmware's image"),
    "fw_cfg": Flag("NAME,FILE", REFUSED, "items of one's own are not taken"),
    # Disks
    "drive": Flag(
        "OPTIONS",
        WORKS,
        "file, index, bus, unit, media, format, if=ide|virtio|floppy|none, snapshot, readonly, id",
        _DISK,
    ),
    "hda": Flag("FILE", WORKS, "primary master", _DISK),
    "hdb": Flag("FILE", WORKS, "primary slave", _DISK),
    "hdc": Flag("FILE", WORKS, "secondary master", _DISK),
    "hdd": Flag("FILE", WORKS, "secondary slave", _DISK),
    "fda": Flag("FILE", WORKS, "floppy disk, known to the BIOS alone", "give '--floppy FILE'"),
    "fdb": Flag("FILE", REFUSED, "there is one floppy disk"),
    "cdrom": Flag(
        "FILE", WORKS, "CD-ROM drive, secondary master", "give '--cdrom FILE', or the image alone to start from it"
    ),
    "snapshot": Flag("", WORKS, "what the guest writes to disks is forgotten", "give '--disk FILE,discard'"),
    "blockdev": Flag("OPTIONS", REFUSED, "give -drive"),
    "mtdblock": Flag("FILE", REFUSED, "there is no flash memory"),
    "sd": Flag("FILE", REFUSED, "there is no SD card"),
    "iscsi": Flag("OPTIONS", REFUSED, "there is no iSCSI"),
    # The machine
    "m": Flag("[size=]MEGS", WORKS, "RAM, in MiB or with a unit; slots= and maxmem= are left out"),
    "smp": Flag(
        "[cpus=]N",
        WORKS,
        "number of CPUs; sockets=, cores= and threads= multiply, if cpus= is not given",
        "give '--cpus N'",
    ),
    "cpu": Flag("MODEL", SAID, "the guest has the host's CPU", "leave it out: the guest has the host's CPU"),
    "machine": Flag("[type=]NAME", WORKS, "pc; q35 and isapc with a word: " + _ONE_KIND, f"leave it out: {_ONE_KIND}"),
    "M": Flag("[type=]NAME", WORKS, "as -machine", f"leave it out: {_ONE_KIND}"),
    "accel": Flag("NAME", WORKS, "kvm; any other with a word: it is always KVM", _NOT_NEEDED),
    "enable-kvm": Flag("", WORKS, "it is always so", _NOT_NEEDED),
    "device": Flag(
        "DRIVER",
        WORKS,
        "isa-debug-exit, isa-debugcon, ide-hd, ide-cd, ne2k_isa, pc-testdev, virtio-blk-pci, virtio-rng-pci",
        "give '--disk' or '--nic'; the exit port 0xF4 is always there",
    ),
    "global": Flag("DRIVER.PROPERTY", SAID, "no device has such properties"),
    "set": Flag("GROUP.ID.ARG", REFUSED, "say it where it is made"),
    "nodefaults": Flag("", WORKS, "no serial port and no monitor that nobody asked for"),
    "no-acpi": Flag("", SAID, "ACPI's tables stay", "leave it out"),
    "no-hpet": Flag("", WORKS, "there is none"),
    "rtc": Flag("[base=]utc", WORKS, "the clock has UTC; localtime and a date are refused"),
    "uuid": Flag("UUID", WORKS, "what monitors show; the guest cannot see it"),
    "name": Flag("NAME", WORKS, "what monitors show"),
    "smbios": Flag("OPTIONS", SAID, "there are no SMBIOS tables"),
    "acpitable": Flag("OPTIONS", REFUSED, "tables of one's own are not taken"),
    "numa": Flag("OPTIONS", REFUSED, "there is one node"),
    "object": Flag("TYPE", REFUSED, "there are no objects"),
    "mem-path": Flag("PATH", REFUSED, "RAM is this process's own"),
    "mem-prealloc": Flag("", SAID, "RAM is given as it is touched"),
    "overcommit": Flag("OPTIONS", SAID, "nothing is locked in memory"),
    "icount": Flag("OPTIONS", REFUSED, "KVM does not count instructions"),
    "watchdog-action": Flag("ACTION", SAID, "there is no watchdog"),
    "k": Flag("LANGUAGE", SAID, "keys are a US keyboard's"),
    "audiodev": Flag("OPTIONS", SAID, "there is no sound"),
    "audio": Flag("OPTIONS", SAID, "there is no sound"),
    "usb": Flag("", SAID, "there is no USB"),
    "usbdevice": Flag("NAME", REFUSED, "there is no USB"),
    "fsdev": Flag("OPTIONS", REFUSED, "there is no 9P"),
    "virtfs": Flag("OPTIONS", REFUSED, "there is no 9P"),
    "tpmdev": Flag("OPTIONS", REFUSED, "there is no TPM"),
    # The screen
    "nographic": Flag(
        "", WORKS, "serial port and monitor on this terminal (mon:stdio)", "leave it out: COM1 is on this terminal"
    ),
    "display": Flag(
        "TYPE", WORKS, "none; curses: the text screen on this terminal; others with a word: there is no window", _SCREEN
    ),
    "vga": Flag("TYPE", WORKS, "std; others with a word: it is a standard VGA with Bochs' extensions", _SCREEN),
    "curses": Flag("", WORKS, "as -display curses", _SCREEN),
    "full-screen": Flag("", SAID, "there is no window"),
    "vnc": Flag(
        "DISPLAY",
        REFUSED,
        "there is no VNC: the monitor's screendump makes a picture",
        "`pykvm screenshot` makes a picture",
    ),
    "spice": Flag("OPTIONS", REFUSED, "there is no SPICE"),
    "sdl": Flag("", SAID, "there is no window"),
    # Ports
    "serial": Flag(
        "DEV",
        WORKS,
        "COM1 to COM4: stdio, mon:stdio, file:, null, none, unix:, tcp:, pty, chardev:ID, pipe:",
        "leave it out: COM1 is on this terminal",
    ),
    "parallel": Flag("DEV", WORKS, "none, null, file:"),
    "monitor": Flag("DEV", WORKS, "the monitor at such a device", "leave it out: Ctrl-A X leaves"),
    "qmp": Flag("DEV", WORKS, "QMP at such a device", "`pykvm qemu` has it"),
    "qmp-pretty": Flag("DEV", WORKS, "QMP in lines for people", "`pykvm qemu` has it"),
    "mon": Flag("[chardev=]ID", WORKS, "a monitor at a -chardev: mode=readline or control, pretty"),
    "chardev": Flag("TYPE,id=ID", WORKS, "stdio, file, null, socket, pty, pipe, for -serial chardev:ID and -mon"),
    "debugcon": Flag("DEV", WORKS, "what is written to port 0xE9", "leave it out: port 0xE9 is always there"),
    "echr": Flag("NUMBER", WORKS, "the key in place of Ctrl-A"),
    # Networks
    "nic": Flag("TYPE", WORKS, "none, user, tap; model=ne2k_isa, others with a word: cards are NE2000", _NIC),
    "net": Flag("TYPE", WORKS, "none, nic, user, tap", _NIC),
    "netdev": Flag("TYPE", WORKS, "user, tap, hubport without a card", _NIC),
    # How it runs
    "S": Flag("", WORKS, "stopped at the start, until `cont` of a monitor or gdb"),
    "s": Flag("", WORKS, "as -gdb tcp::1234", "give '--gdb'"),
    "gdb": Flag("DEV", WORKS, "tcp:HOST:PORT or unix:PATH; without -S the guest runs until gdb comes"),
    "d": Flag(
        "ITEMS",
        WORKS,
        "int, cpu_reset, guest_errors, unimp; others are refused by name",
        "`pykvm trace` shows every exit",
    ),
    "D": Flag("FILE", WORKS, "where -d writes, in place of standard error", "`pykvm trace --out FILE`"),
    "dfilter": Flag("RANGES", REFUSED, "`pykvm trace` has filters"),
    "trace": Flag("PATTERN", REFUSED, "`pykvm trace` shows every exit", "`pykvm trace` shows every exit"),
    "no-reboot": Flag("", WORKS, "a reset ends the run"),
    "no-shutdown": Flag("", WORKS, "a guest that switches off stops, and the monitor stays", "leave it out"),
    "action": Flag("EVENT=ACTION", WORKS, "reboot=reset|shutdown, shutdown=poweroff|pause; others with a word"),
    "loadvm": Flag(
        "TAG",
        REFUSED,
        "snapshots of the monitor end with the process: `pykvm restore` goes on from a directory",
        "`pykvm restore` goes on from a saved state",
    ),
    "pidfile": Flag("FILE", WORKS, "the process's number, while it runs"),
    "daemonize": Flag("", WORKS, "go to the background once all is set up"),
    "singlestep": Flag("", SAID, "KVM translates nothing"),
    "seed": Flag("NUMBER", SAID, "pykvm draws no numbers"),
    "msg": Flag("OPTIONS", SAID, "messages have no time"),
    "no-user-config": Flag("", WORKS, "there is none"),
    "readconfig": Flag("FILE", REFUSED, "write the options out"),
    "incoming": Flag("URI", REFUSED, "there is no migration"),
    "only-migratable": Flag("", SAID, "there is no migration"),
    "runas": Flag("USER", REFUSED, "start pykvm as that user"),
    "chroot": Flag("DIR", REFUSED, "start pykvm there"),
    "sandbox": Flag("OPTIONS", REFUSED, "there is none of QEMU's"),
    "plugin": Flag("FILE", REFUSED, "KVM translates nothing"),
    "add-fd": Flag("OPTIONS", REFUSED, "give a path"),
    "win2k-hack": Flag("", SAID, "disks need none"),
    "no-fd-bootchk": Flag("", SAID, "a floppy disk needs its boot signature"),
    "version": Flag("", WORKS, "show the version and exit"),
    "help": Flag("", WORKS, "show this list and exit"),
    "h": Flag("", WORKS, "as -help"),
}
"""By name, without the dash; a second dash in front is as good, as it is to QEMU."""


def answer(word: str, known: Container[str]) -> str | None:
    """What to give `pykvm run` in place of `word`, such as "-hda", where that is an option of QEMU's, or a long one of
    the `known` with a dash too few; None if it is neither."""
    name = word[1:].partition("=")[0]
    if f"--{name}" in known:
        return f"give '--{name}'"
    flag = FLAGS.get(name)
    return None if flag is None or len(name) < 2 else flag.run or f"`pykvm qemu {word}` takes QEMU's options"


def listed() -> str:
    """The help: a line an option, which begins with its dash and name, as scripts look for them."""
    lines = []
    for name, flag in FLAGS.items():
        if flag.state == WORKS:
            lines.append(f"-{name} {flag.value}".rstrip().ljust(24) + f" {flag.words}")
    return "\n".join(lines)


def table() -> str:
    """The table of docs/qemu.md: every option, and what becomes of it."""
    marks = {WORKS: "", SAID: "changes nothing: ", REFUSED: "refused: "}
    rows = ["| option | here |", "|---|---|"]
    for name, flag in FLAGS.items():
        shown = f"-{name} {flag.value}".rstrip().replace("|", "\\|")
        rows.append(f"| `{shown}` | {marks[flag.state]}{flag.words.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)
