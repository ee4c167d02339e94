"""What the tests of the keyboard controller share: a controller, its lines and its keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import device_rig
from device_rig import Line

from pykvm.devices.i8042 import I8042

NORMAL = "\0\x1b1234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 "
SHIFTED = '\0\x1b!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:"~\0|ZXCVBNM<>?\0*\0 '
"""What set 1 codes 0x00 to 0x39 mean on a US keyboard, with and without shift."""


class Rig(device_rig.Rig[I8042]):
    def __init__(self) -> None:
        self.resets = 0
        self.a20: list[bool] = []
        self.irq1, self.irq12 = Line(), Line()
        super().__init__(I8042(self.irq1, self.irq12, self.on_reset, self.a20.append), self.irq1)

    def on_reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        return self.inb(0x64)

    def data(self) -> int:
        return self.inb(0x60)

    def command(self, command: int, *arguments: int) -> None:
        self.outb(0x64, command)
        for argument in arguments:
            self.outb(0x60, argument)

    def ask(self, command: int, *arguments: int) -> int:
        """A controller command that is answered."""
        self.command(command, *arguments)
        assert self.status() & 1
        return self.data()

    def drain(self) -> Iterator[int]:
        while self.status() & 1:
            yield self.data()

    def keyboard(self, *data: int) -> list[int]:
        """Send bytes to the keyboard, each after the answers to the one before; all answers."""
        answers: list[int] = []
        for byte in data:
            self.outb(0x60, byte)
            answers += self.drain()
        return answers

    def mouse(self, *data: int) -> list[int]:
        """The same for the mouse."""
        answers: list[int] = []
        for byte in data:
            self.command(0xD4, byte)
            answers += self.drain()
        return answers

    def codes(self, *keys: str) -> list[int]:
        """What arrives when the keys are pressed and let go in turn."""
        got: list[int] = []
        for key in keys:
            self.device.press(key)
            got += self.drain()
            self.device.release(key)
            got += self.drain()
        return got
