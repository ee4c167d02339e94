"""`pykvm trace`: run an image and show every exit, as a list, as a summary, or as a file for Perfetto."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING

from ..errors import ConfigError, PykvmError
from ..machine import DeviceError, Machine
from ..outcome import DEVICE_ERROR_STATUS, Outcome
from ..trace import AddressRange, Event, Filter, Outlet, Summary, Times, Tracer
from ..trace.event import KINDS
from ..trace.summary import Row, ranked
from . import streams, ui
from .envelope import envelope
from .options import Limit, MachineSpec, limit_option, machine_options
from .replacing import PERFETTO, force_option, require_replaceable
from .run import run_on_terminal, show_device_error, show_outcome
from .tables import show_table

if TYPE_CHECKING:
    from ..trace.perfetto import TraceFile

TOP = 20
"""Rows of a table in the summary."""
INTERRUPTED_STATUS = 130
PLACE, PLACE_AND_LINE = 44, 68
"""Columns for the instruction and where it is."""


@ui.command("trace")
@machine_options(kernel_required=False)
@limit_option
@ui.option("--limit", type=ui.IntRange(min=1), help="End the run after so many exits have been traced.")
@ui.option(
    "--only", multiple=True, metavar="NAME",
    help="Only exits to devices whose name begins so, such as COM1, or COM for all of them.",
)  # fmt: skip
@ui.option(
    "--kind", "kinds", multiple=True, type=ui.Choice(KINDS), metavar="KIND", help=f"Only these: {', '.join(KINDS)}."
)
@ui.option(
    "--address", "addresses", multiple=True, metavar="FIRST[-LAST]",
    help="Only accesses to these ports, physical addresses or MSRs.",
)  # fmt: skip
@ui.option("--cpu", "cpu_numbers", multiple=True, type=ui.IntRange(min=0), help="Only exits of this CPU.")
@ui.option("--instructions", is_flag=True, help="Show every instruction instead, by single-stepping: slow.")
@ui.option("--lines", is_flag=True, help="Tell the source lines, too, if the image has debug information.")
@ui.option("--summary", "only_summary", is_flag=True, help="Show what it amounts to, and not every exit.")
@ui.option(
    "-o", "--out", type=ui.Path(dir_okay=False), metavar="FILE.json",
    help="Write a time line for ui.perfetto.dev, instead of listing the exits.",
)  # fmt: skip
@force_option
@ui.option(
    "--terminal", is_flag=True, help="Have the serial port on this terminal, as `run` does; with --summary or --out."
)
@ui.option("--json", "as_json", is_flag=True, help="One JSON object a line: the exits, last the summary.")
def command(
    spec: MachineSpec,
    timeout: Limit,
    limit: int | None,
    only: tuple[str, ...],
    kinds: tuple[str, ...],
    addresses: tuple[str, ...],
    cpu_numbers: tuple[int, ...],
    instructions: bool,
    lines: bool,
    only_summary: bool,
    out: str | None,
    terminal: bool,
    as_json: bool,
    force: bool,
) -> int:
    """Run KERNEL, without a terminal, and show every exit from the guest: when, where, and what it was.

    A line has the time in ms since the start, the CPU, the access, the instruction, and two costs in µs: of the KVM_RUN
    that it ended (the guest's own time and the kernel's), and of serving it. The exit status is that of `pykvm run`.
    """
    chosen = Filter(
        tuple(name.lower() for name in only), frozenset(kinds), tuple(map(span, addresses)), frozenset(cpu_numbers)
    )
    if instructions and (only or kinds or out):
        raise ConfigError("--instructions goes with --address, --cpu, --limit and --summary only")
    if terminal and not (only_summary or out):
        raise ConfigError("--terminal goes with --summary or --out: the list of exits would be on it, too")
    if out is not None:
        require_replaceable(out, PERFETTO, "time line", force)
    summary = Summary()
    deadline = timeout.deadline()
    sinks: list[Callable[[Event], object]] = [summary]
    with ExitStack() as stack:
        machine = stack.enter_context(spec.make())
        if out is not None:
            from ..trace.perfetto import TraceFile

            try:
                file = TraceFile(out)
            except OSError as error:
                raise ConfigError(f"{out}: {error.strerror}") from error
            stack.callback(_close, file, out)
            sinks.append(file)
        elif not only_summary:
            with streams.bounded(deadline):  # it writes the headings
                sinks.append(Lines(as_json, instructions, PLACE_AND_LINE if lines else PLACE, deadline).show)
        if instructions:
            from ..trace.instructions import InstructionEvents

            tracer = None
            outlet = Outlet(machine, sinks, limit)
            InstructionEvents(machine, outlet, chosen, lines=lines)
        else:
            tracer = Tracer(machine, sinks, chosen, limit, lines=lines)
            outlet = tracer.outlet
        run = run_on_terminal if terminal else Machine.run
        return _run(machine, partial(run, machine, timeout.seconds), tracer, outlet, summary, as_json, deadline)


def _close(file: TraceFile, out: str) -> None:
    try:
        file.close()
    except OSError as error:
        raise PykvmError(f"{out}: {error.strerror}") from error


def _run(
    machine: Machine,
    run: Callable[[], Outcome],
    tracer: Tracer | None,
    outlet: Outlet,
    summary: Summary,
    as_json: bool,
    deadline: float | None,
) -> int:
    outcome: Outcome | None = None
    status = INTERRUPTED_STATUS
    try:
        outcome = run()
        status = outcome.exit_status
    except DeviceError as error:
        show_device_error(error)
        status = DEVICE_ERROR_STATUS
    except KeyboardInterrupt:
        pass  # what there is, is shown
    times: list[Times] = []
    kernel: list[dict[str, int]] = []
    if tracer is not None:
        tracer.finish()
        times, kernel = tracer.times, tracer.kernel
    if isinstance(outlet.error, BrokenPipeError):
        raise outlet.error
    if isinstance(outlet.error, TimeoutError):
        raise streams.NobodyReads
    if outlet.error is not None:
        raise PykvmError(f"the trace cannot be written: {outlet.error.strerror}")
    with streams.bounded(deadline):
        if as_json:
            ending = None if outcome is None else {"ending": outcome.ending, "reason": outcome.reason}
            print(envelope("trace", status, {"summary": summary.as_dict(times, kernel), "outcome": ending}))
        else:
            _show_summary(summary, times, kernel)
    if outcome is not None and not as_json:
        show_outcome(machine, outcome)
    return status


def span(text: str) -> AddressRange:
    """The range `FIRST` or `FIRST-LAST`, in decimal or, with 0x before them, hexadecimal; ConfigError else."""
    first, dash, last = text.partition("-")
    try:
        result = AddressRange(int(first, 0), int(last if dash else first, 0))
    except ValueError:
        raise ConfigError(f"--address {text}: give a number or FIRST-LAST, such as 0x3f8-0x3ff") from None
    if not 0 <= result.first <= result.last:
        raise ConfigError(f"--address {text}: the last must not be less than the first")
    return result


class Lines:
    """Writes events to standard output as they come, one a line."""

    def __init__(
        self, as_json: bool, instructions: bool = False, width: int = PLACE, deadline: float | None = None
    ) -> None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # a guest that waits shows what it did last
        self._write = streams.bounded_writer(deadline)
        self._width = width
        self._colour = ui.shows_colours(sys.stdout)
        self.show = self._json if as_json else self._instruction if instructions else self._text
        if instructions:
            return
        if not as_json:
            self._write(
                self._style(f"{'ms':>10}  cpu  {'access':<46}  {'instruction':<{width}}{'run':>9}{'served':>9}\n", 2)
            )

    def _json(self, event: Event) -> None:
        self._write(json.dumps(event.as_dict()) + "\n")

    def _text(self, event: Event) -> None:
        what = f"{event.what:<46}"
        if event.device:
            what = self._style(event.device, 36) + what[len(event.device) :]
        elif event.address is not None:
            what = self._style(what, 33)
        elif event.kind in ("shutdown", "internal_error", "fail_entry"):
            what = self._style(what, 31)
        where = f"{event.site.place}: {event.site.text or '?'}"
        self._write(
            f"{event.time / 1e6:10.3f}  {event.cpu:>3}  {what}  {where:<{self._width}}"
            + self._style(f"{event.run / 1000:9.1f}{event.served / 1000:9.1f}\n", 2)
        )

    def _instruction(self, event: Event) -> None:
        site = event.site
        symbol = (f"<{site.symbol}>" if site.symbol else "") + (f" {site.source}" if site.source else "")
        address, code = self._style(f"{site.address:>12x}", 33), self._style(f"{site.code.hex(' '):<30}", 2)
        place = f"{address}  {symbol:<{self._width - 16}}"
        self._write(f"{event.time / 1e6:10.3f}  {event.cpu:>3}  {place}  {code}  {site.text or '?'}\n")

    def _style(self, text: str, code: int) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text


def _show_summary(summary: Summary, times: list[Times], kernel: list[dict[str, int]]) -> None:
    if not summary.total.count:
        ui.echo("nothing was traced")
    by_kind = [("By kind", summary.kinds), ("By device and register", summary.devices)] if times else []
    for title, rows in (*by_kind, ("By place", summary.places)):
        shown = [_cells(name, row, summary.total.count) for name, row in ranked(rows)]
        if not times:
            shown = [cells[:3] for cells in shown]
        headings = ["", "count", "%", "run µs", "served µs", "served/exit µs"]
        show_table(
            f"{title} (the first {TOP} of {len(shown)})" if len(shown) > TOP else title,
            headings if times else headings[:3],
            shown[:TOP],
        )
    names = ("exits", "KVM_RUN", "of it on a CPU", "of that guest mode", "of it halted", "serving", "tracing")
    rows_of_cpus = []
    for number, time in enumerate(times):
        exits, *rest_of_times = asdict(time).values()
        rows_of_cpus.append([str(number), exits, *(value / 1e6 for value in rest_of_times)])
    if not times:
        return
    show_table("Time of each vCPU's thread, ms", ["cpu", *names], rows_of_cpus)
    ui.secho(
        "  KVM_RUN is the guest's own time, the kernel's, and sleep. Guest mode is counted by the kernel's clock\n"
        "  and stays 0 where KVM emulates the guest's code. Serving includes the wait for the machine's lock.",
        dim=True,
    )
    if kernel:
        _show_kernel(kernel)


def _show_kernel(kernel: list[dict[str, int]]) -> None:
    """What KVM counted: much of it never leaves the kernel."""
    names = [name for name in kernel[0] if any(counted[name] for counted in kernel) and not name.endswith("_ns")]
    headings = ["", *(f"cpu {number}" for number in range(len(kernel)))]
    show_table(
        "What KVM counted, in the kernel and out of it",
        headings,
        [[name, *(counted[name] for counted in kernel)] for name in names],
    )


def _cells(name: str, row: Row, total: int) -> list[str | int | float]:
    run, served = row.run / 1000, row.served / 1000
    return [name, row.count, 100 * row.count / total, run, served, served / row.count]
