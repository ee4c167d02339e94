"""What a guest may do a million times: it leaves nothing behind, and keeps nobody waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import LIMIT, assembled, flat

from pykvm import Ending
from pykvm.eventloop import CANCELLED_MOST

RTC = """
        .macro  rtc register, value
        mov     $\\register, %al
        out     %al, $0x70
        mov     $\\value, %al
        out     %al, $0x71
        .endm
"""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("moves", ["", "rtc 1, 7\nrtc 1, 6\n"], ids=["read", "moved"])
def test_a_guest_that_moves_an_alarm_for_ever_leaves_no_timers(moves: str, tmp_path: Path) -> None:
    code = f"""
        {RTC}
        mov     $0x80000, %esp
        rtc     1, 6                    # an alarm, hours away
        rtc     3, 5
        rtc     5, 0xFE
        rtc     0x0B, 0x22
        mov     $40, %ebx
        cld
1:      {moves}
        mov     $0x70, %dx              # each byte of the string is an access
        mov     $0x200000, %edi
        mov     $1024, %ecx
        rep insb
        dec     %ebx
        jnz     1b
        out     %al, $0xF4
        """
    with flat(assembled(code, tmp_path, 0x100000, 32), 32) as machine:
        before = machine.loop.timers
        assert machine.run(LIMIT).ending is Ending.EXITED
        assert machine.loop.timers <= before + CANCELLED_MOST + 8
