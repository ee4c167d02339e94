"""QEMU's names of keys, for `sendkey` and `send-key`, and a keyboard's that types them.

Source: QEMU QMP Reference Manual, "QKeyCode".
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PykvmError
from ..typed import TYPE_CHECKING

if TYPE_CHECKING:
    from ..machine import Machine

_OTHER = {
    "ret": "enter", "spc": "space", "dot": ".", "comma": ",", "slash": "/", "minus": "-", "equal": "=",
    "semicolon": ";", "apostrophe": "'", "grave_accent": "`", "bracket_left": "[", "bracket_right": "]",
    "backslash": "\\", "less": "iso", "shift_r": "right_shift", "alt_r": "right_alt", "ctrl_r": "right_ctrl",
    "meta_l": "meta", "meta_r": "right_meta", "pgup": "page_up", "pgdn": "page_down", "kp_add": "kp_+",
    "kp_subtract": "kp_-", "kp_multiply": "kp_*", "kp_divide": "kp_/", "kp_decimal": "kp_.", "print": "print_screen",
    "sysrq": "print_screen", "asterisk": "kp_*",
}  # fmt: skip
"""Those that are not pykvm's own."""
_SAME = (
    "esc", "backspace", "tab", "ctrl", "shift", "alt", "caps_lock", "num_lock", "scroll_lock", "home", "up", "left",
    "right", "end", "down", "insert", "delete", "menu", "pause", "kp_enter", *(f"f{number}" for number in range(1, 13)),
)  # fmt: skip
NAMES = {
    **{each: each for each in (*"abcdefghijklmnopqrstuvwxyz0123456789", *_SAME)},
    **{f"kp_{digit}": f"kp_{digit}" for digit in range(10)},
    **_OTHER,
}
"""pykvm's name of each key."""
KEYS_MOST = 16


class UnknownKey(PykvmError):
    """There is no key of that name."""


def press(machine: Machine, names: Sequence[str]) -> None:
    """Press keys one after the other, and let them go in reverse order. UnknownKey, and nothing is pressed."""
    if len(names) > KEYS_MOST:
        raise UnknownKey("too many keys")
    for name in names:
        if name not in NAMES:
            raise UnknownKey(name)
    keys = [NAMES[name] for name in names]
    try:
        for key in keys:
            machine.keyboard.press(key)
        for key in reversed(keys):
            machine.keyboard.release(key)
    except ValueError as error:  # the guest does not read its keyboard
        raise PykvmError(str(error)) from None
