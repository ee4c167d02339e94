"""From a path or a URI and what may become of it to a disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import ConfigError
from . import SECTOR, Disk
from .overlay import OverlayDisk
from .raw import RawDisk

if TYPE_CHECKING:
    from .nbd import NbdDisk

Mode = Literal["rw", "ro", "discard"]
"""What may become of an image: writes go to it, are refused, or are forgotten when the disk is closed."""
OnError = Literal["report", "stop"]
"""What becomes of an error of the host's: it is the disk's for the guest, or ends the run (see `policy`)."""


def open_disk(
    spec: str | os.PathLike[str],
    mode: Mode = "rw",
    format: str | None = None,
    *,
    backing: bool = False,
    on_error: OnError = "report",
) -> Disk:
    """Open the image at `spec`; ConfigError says why it cannot be.

    `format` is raw, qcow2, vmdk, vdi, vhd (or vpc) or vhdx, and the image is never taken for anything else. If it is
    None, name and content must agree: an image that looks like one of them and has another name, or the other way
    round, is refused before anything is written to it. All but raw ones take qemu-nbd (Debian's qemu-utils).

    `backing` allows an image to name other files of the host that are under it. A `spec` such as nbd://host:port/name
    or nbd+unix:///name?socket=PATH is a disk that somebody else serves. With `on_error="stop"` an error of the host's
    ends the run, in place of being the disk's for the guest.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"{mode!r} is no way to open a disk: give one of {', '.join(get_args(Mode))}")
    if on_error not in get_args(OnError):
        raise ConfigError(f"{on_error!r} is nothing to do at an error: give one of {', '.join(get_args(OnError))}")
    image = _open(os.fspath(spec), mode != "rw", format, backing)
    try:
        disk = OverlayDisk(image) if mode == "discard" else image
        disk.on_error = on_error
        return disk
    except BaseException:
        image.close()
        raise


def _open(spec: str, read_only: bool, format: str | None, backing: bool) -> RawDisk | NbdDisk:
    if "://" in spec and not os.path.exists(spec):
        from .nbd_handshake import connect, is_uri, parse_uri

        if is_uri(spec):
            from .nbd import NbdDisk

            if format is not None or backing:
                raise ConfigError(
                    f"{spec}: what an NBD server serves is raw, whatever it is kept in: leave format= out"
                )
            address = parse_uri(spec)
            return NbdDisk(connect(spec, address), spec, address.export, read_only)
    if format is not None:
        from .formats import FORMATS

        if format not in FORMATS:
            raise ConfigError(f"{format!r} is no format of disk images that can be opened: give {', '.join(FORMATS)}")
    if format is None or format == "raw":
        disk = RawDisk(spec, read_only)
        try:
            chosen = format or format_of(disk)
            if chosen == "raw":
                if backing:
                    raise ConfigError(f"disk image {spec!r} is raw: only others name a file that is under them")
                return disk
        except BaseException:
            disk.close()
            raise
        disk.close()
    else:
        chosen = format
    from .qemu_nbd import QemuDisk

    return QemuDisk(spec, chosen, read_only, backing)


def format_of(disk: RawDisk) -> str:
    """Raw, or the format that both name and content say; ConfigError where they say different ones."""
    from .formats import FORMATS, container, named

    try:
        found = container(disk.read_at(0, SECTOR), disk.read_at(disk.size - SECTOR, SECTOR))
    except OSError as error:
        raise ConfigError(f"disk image {disk.path!r} cannot be read: {error.strerror}") from error
    name = named(disk.path)
    if found is None and name is None:
        return "raw"
    if found is None:
        raise ConfigError(
            f"disk image {disk.path!r} is by its name {name}, but not by its content: see that it is whole; or say "
            "format=raw if it is a raw image"
        )
    known = found.lower()
    if known not in FORMATS:
        raise ConfigError(
            f"disk image {disk.path!r} has the format {found}, which pykvm does not open: convert it, as by: "
            f"qemu-img convert -O qcow2 {disk.path} disk.qcow2; or say format=raw if it is a raw image all the same"
        )
    if name is None or FORMATS[name] != FORMATS[known]:
        raise ConfigError(
            f"disk image {disk.path!r} looks like {found}, which its name does not say, and a guest can make a raw "
            f"image look so: say format={known}, or format=raw if it is a raw image all the same"
        )
    return known
