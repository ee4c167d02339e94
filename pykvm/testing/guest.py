"""A guest under test: a machine that has been brought to a point, with what a test wants to say to it and ask of it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from ..debug.breakpoints import Watch
from ..debug.contents import Contents
from ..debug.control import Stop
from ..errors import ConfigError, PykvmError
from ..machine import Machine
from ..outcome import Outcome
from . import evidence
from .evidence import Evidence
from .expect import Mismatch, ScreenView, Serial
from .faults import Faults
from .recorder import Recorder
from .stops import Argument, Changed, Stops
from .variables import Names, Variable, value_of

if TYPE_CHECKING:
    from types import TracebackType

    from ..snapshot import Snapshot

Place = str | int
"""A symbol of the image, or a linear address."""


class Guest:
    """The guest of `machine`, which goes on from `snapshot`, at most `limit` seconds of wall-clock time.

    Whatever waits for the guest lets it go on, if it is stopped, and takes at most `timeout` seconds unless it is told
    another time. `done` is called when the test has done with it, and is told whether an exception has ended its `with`
    block: then it stays as it was, for a report and a debugger, until its rig begins another test.
    """

    def __init__(
        self,
        machine: Machine,
        snapshot: Snapshot | None,
        timeout: float,
        limit: float | None,
        done: Callable[[Guest, bool], None],
    ) -> None:
        self.machine = machine
        """All that pykvm can do with it."""
        self.snapshot, self.timeout, self.limit = snapshot, timeout, limit
        self.recorders = [Recorder(runner) for runner in machine.engine.runners]
        self.stops = Stops(machine, lambda address: evidence.place(self.machine, address), lambda: self.timeout)
        self.faults = Faults(self)
        self._done = done
        self._frozen = False

    def start(self) -> None:
        """Let it begin, or go on from its point."""
        self.machine.start(self.limit)

    # Saying and expecting

    @cached_property
    def serials(self) -> list[Serial]:
        """The serial ports, COM1 first."""
        return [Serial(port, self.go_on, lambda: self.timeout) for port in self.machine.pc.consoles]

    @property
    def serial(self) -> Serial:
        """COM1: `expect`, `send`, `text`."""
        if not self.serials:
            raise ConfigError("this machine has no serial port: serial_ports is 0")
        return self.serials[0]

    @cached_property
    def screen(self) -> ScreenView:
        """The screen: `expect`, `text`, `now`."""
        return ScreenView(self.machine, self.go_on, lambda: self.timeout)

    def send(self, data: str | bytes) -> None:
        """Type on the serial port COM1."""
        self.serial.send(data)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        self.machine.keyboard.type(text)

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the end of the run. Mismatch if it goes on."""
        __tracebackhide__ = True
        limit = self.timeout if timeout is None else timeout
        self.go_on()
        try:
            return self.machine.wait(limit)
        except TimeoutError:
            raise Mismatch(f"the run has not ended: {limit:g} s are over") from None

    # Stopping and looking

    def run_until(self, place: Place, timeout: float | None = None) -> Stop:
        """Let it run until a CPU is about to execute the instruction there, and stop it. Mismatch if it never is."""
        __tracebackhide__ = True
        self._thaw()
        return self.stops.run_until(self.address(place), timeout)

    def run_until_changed(self, what: str | int, size: int | None = None, timeout: float | None = None) -> Changed:
        """Let it run until a variable, or `size` bytes at an address, have changed, and stop it behind that.

        Mismatch if they have not. ConfigError if they are too many to be watched: four debug registers of 8 bytes.
        """
        if isinstance(what, str):
            variable = self.variable(what)
            address, size = variable.address, variable.size if size is None else size
        else:
            address = what
        if not size or len(Watch(address, min(size, 64)).pieces()) > 4:
            raise ConfigError(f"{what!r}: give 1 to 32 bytes to watch, in at most four aligned pieces")
        __tracebackhide__ = True
        self._thaw()
        return self.stops.run_until_changed(address, size, timeout)

    def stop(self) -> None:
        """Stop it where it is, until `go_on`, or until something waits for it."""
        self._thaw()
        self.stops.here()

    def go_on(self) -> None:
        """Let it go on."""
        self._thaw()
        self.stops.go_on()

    def call(
        self, function: Place, *arguments: int | bool | str | bytes, timeout: float | None = None, cpu: int = 0
    ) -> Any:
        """Call a function of the guest on a CPU that is stopped or gets stopped, and return what it returns.

        Text and bytes are passed by their address, text with a NUL behind it. The result is that of the function's
        type, where debug information tells it, else RAX or EAX as an unsigned number. The CPU's registers are put
        back; what the function has done stays done. Mismatch if it does not return.
        """
        __tracebackhide__ = True
        self._thaw()
        signature = self._names.signature(function)
        sizes = [kind.size for kind in signature.parameters] if signature is not None else []
        if signature is not None and len(arguments) < len(sizes):
            raise ConfigError(f"{function} takes {len(sizes)} arguments, not {len(arguments)}")
        given = []
        for number, argument in enumerate(arguments):
            value = argument.encode() + b"\0" if isinstance(argument, str) else argument
            if not isinstance(value, (int, bytes)):
                raise ConfigError(f"{argument!r} cannot be passed: give numbers, text or bytes")
            given.append(Argument(value, sizes[number] if number < len(sizes) else 0))
        low, high = self.stops.call(self.address(function), given, timeout, cpu)
        word = self._word
        if signature is None:
            return low & (1 << 8 * word) - 1
        if signature.result is None:
            return None
        whole = low & (1 << 8 * word) - 1 | high << 8 * word
        size = signature.result.size
        if size > 2 * word:
            raise ConfigError(f"{function} returns a structure, which call cannot give back")
        return value_of(signature.result, (whole & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def variable(self, expression: str) -> Variable:
        """A variable or a part of one, such as `ticks`, `processes[2].name`, `current->parent->pid`, `*current`."""
        return self._names.variable(expression)

    def read(self, what: str | int, size: int | None = None) -> Any:
        """The value of a variable (see `Variable.value`), or `size` bytes at a linear address."""
        if isinstance(what, str) and size is None:
            return self.variable(what).value
        if size is None:
            raise ConfigError(f"how many bytes are at {what:#x}? Give a size")
        return self.read_memory(self.address(what), size)

    def write(self, what: str | int, value: Any) -> None:
        """Set a variable, or write bytes at a linear address."""
        if isinstance(what, str):
            self.variable(what).value = value
        else:
            self.write_memory(what, value)

    def address(self, place: Place) -> int:
        """The linear address of a symbol; a number stands for itself."""
        return self._names.address(place)

    def where(self, cpu: int = 0) -> str:
        """Where that CPU is: address, symbol, source line."""
        with self._still() as contents:
            return evidence.place(self.machine, contents.pc(cpu))

    def read_memory(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes at a linear address, as any CPU maps it; ConfigError where none does."""
        with self._still() as contents:
            for cpu in range(len(self.machine.vcpus)):
                raw = contents.read(cpu, address, size)
                if len(raw) == size:
                    return raw
        raise ConfigError(
            f"{size} bytes at {evidence.place(self.machine, address)}: no CPU maps all of them to RAM now"
        )

    def write_memory(self, address: int, data: bytes) -> None:
        """Write at a linear address, to read-only pages as well; ConfigError, and nothing written, where is no RAM."""
        with self._still() as contents:
            for cpu in range(len(self.machine.vcpus)):
                with suppress(PykvmError):
                    contents.write(cpu, address, data)
                    return
        raise ConfigError(
            f"{len(data)} bytes at {evidence.place(self.machine, address)}: no CPU maps all of them to RAM now"
        )

    @property
    def _word(self) -> int:
        with self._still():
            return 8 if self.machine.vcpus[0].get_system_registers().efer >> 10 & 1 else 4

    @cached_property
    def _names(self) -> Names:
        return Names(self, self.machine.symbols)

    @contextmanager
    def _still(self) -> Iterator[Contents]:
        self.machine.pause()
        try:
            yield _Still(self.machine.engine.board, self.machine.lock)
        finally:
            self.machine.resume()

    # Going back, and the end

    def rewind(self) -> None:
        """Go back to the point where it began, and on from there: all that happened since has not."""
        if self.snapshot is None:
            raise ConfigError("this guest boots: there is no point to go back to")
        self.settle()
        machine = self.machine
        self._limit(self.limit)
        self._thaw()
        machine.restore(self.snapshot)
        for recorder in self.recorders:
            recorder.exits.clear()
        if machine.engine.run is None:
            self.start()
        if machine.engine.gate.is_held:
            raise PykvmError("the machine is paused: undo each pause")

    def settle(self) -> None:
        """Take out what a test has put in and no restore takes back, and hold still: breakpoints, faults, the limit."""
        self.freeze()
        self.stops.go_on()
        self.faults.heal()
        self._limit(None)

    def _limit(self, limit: float | None) -> None:
        with self.machine.lock:
            run = self.machine.engine.run
            if run is not None:
                run.limit_from_now(limit)

    def freeze(self) -> None:
        """Have it hold still, as it is: for those who look at it after a failure. `go_on` undoes it."""
        if not self._frozen and not self.machine.engine.closed:
            self._frozen = True
            self.machine.pause()

    def _thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self.machine.resume()

    def evidence(self) -> Evidence:
        """What there is to say of it now; it holds still from then on."""
        self.freeze()
        return evidence.evidence_of(self.machine, self.stops, self.recorders)

    def close(self) -> None:
        """The test has done with it. May be called twice."""
        self._done(self, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: builtins.type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done(self, error is not None)

    def __repr__(self) -> str:
        return f"<Guest of {self.machine!r}>"


class _Still(Contents):
    """The contents of a machine that is paused."""

    def require_stopped(self) -> None:
        """It is."""
