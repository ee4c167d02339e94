"""What all --json output has in common: one object, which says what made it and how that went."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .. import __version__
from ..typed import Any


def envelope(command: str, status: int, part: Mapping[str, Any]) -> str:
    """The JSON text of `command`, its exit status, and its own `part`."""
    return json.dumps({"command": command, "version": __version__, "status": status, **part})
