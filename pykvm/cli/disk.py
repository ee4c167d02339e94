"""`pykvm disk`: make, show and convert disk images, by qemu-img."""

from __future__ import annotations

import sys
from typing import Any

from ..disk import qemu_img
from ..disk.formats import FORMATS
from . import ui
from .envelope import envelope
from .options import SIZE

ACTIONS = ("create", "info", "convert", "commit")
FORMAT = ui.Choice(list(FORMATS))


@ui.command("disk")
@ui.argument("action", type=ui.Choice(list(ACTIONS)))
@ui.argument("image")
@ui.argument("new", required=False)
@ui.option("-s", "--size", type=SIZE, help="create: the disk's size, such as 64M or 8G.")
@ui.option("-f", "--format", "kind", type=FORMAT, help="Format of IMAGE, if its name does not say it.")
@ui.option("--to", type=FORMAT, help="convert: format of NEW, if its name does not say it.")
@ui.option("--over", metavar="FILE", help="create: the image that is to be under a qcow2, from its directory on.")
@ui.option("--over-format", "over_kind", type=FORMAT, help="create: format of that one.")
@ui.option("--backing", is_flag=True, help="convert: IMAGE may name other files that are under it.")
@ui.option("--json", "as_json", is_flag=True, help="What has become of it, for programs.")
def command(
    action: str,
    image: str,
    new: str | None,
    size: int | None,
    kind: str | None,
    to: str | None,
    over: str | None,
    over_kind: str | None,
    backing: bool,
    as_json: bool,
) -> int:
    """Work on the disk image IMAGE: `create` it, show `info` of it, `convert` it into the image NEW, or `commit` what
    it has over the image under it into that one.

    Nothing is replaced: what is created must not exist. Formats are those of --disk.
    """
    given = {"NEW": new, "--size": size, "--to": to, "--over": over, "--over-format": over_kind, "--backing": backing}
    _refuse(action, given, {"create": ("--size", "--over", "--over-format"), "convert": ("NEW", "--to", "--backing")})
    progress = not as_json and sys.stdout.isatty()
    match action:
        case "create":
            qemu_img.create(image, size or 0, kind, over, over_kind)
        case "convert":
            if new is None:
                raise ui.UsageError("convert needs a NEW image to write")
            qemu_img.convert(image, kind, new, to, backing=backing, progress=progress)
            image, kind = new, to
        case "commit":
            qemu_img.commit(image, kind, progress=progress)
    if as_json:
        ui.echo(envelope("disk", 0, {"action": action, "image": qemu_img.info(image, kind)}))
    elif action == "info":
        _show(qemu_img.info(image, kind))
    return 0


def _refuse(action: str, given: dict[str, Any], allowed: dict[str, tuple[str, ...]]) -> None:
    """UsageError for what is given and is of another action."""
    for name, value in given.items():
        if value not in (None, False) and name not in allowed.get(action, ()):
            raise ui.UsageError(f"{name} is not for {action}")


def _show(told: dict[str, Any]) -> None:
    ui.echo(f"{ui.style(told['file'], bold=True)}: {told['format']}, {_size(told['size'])}")
    ui.echo(f"  on the disk: {_size(told['size_on_disk'])}")
    if told["backing"] is not None:
        ui.echo(f"  over: {told['backing']!r}, {told['backing_format'] or 'of no format that is said'}")


def _size(count: int) -> str:
    return f"{count} bytes ({count / (1 << 20):.1f} MiB)"
