"""`pykvm inspect`: CPUs, descriptor tables, page tables, devices and chips of a machine that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..inspect import (
    CpuState,
    DescriptorTables,
    DeviceState,
    chip_states,
    cpu_state,
    descriptor_tables,
    device_states,
    page_tables,
)
from ..machine import DeviceError, Machine
from ..x86.pagemap import PageMap
from ..x86.registers import EFER_LMA
from ..x86.tables import Entries, Entry, Gate
from . import streams, ui
from .envelope import envelope
from .options import Limit, MachineSpec, limit_option, machine_options, trust_disks_option

PARTS = ("cpu", "tables", "pages", "devices", "chips")
SHOWN = 64
"""Lines of a table that are shown without --all."""
SHOWN_BYTES = 16
WIDTH = 110
REGISTER_ROWS = (
    "rax rbx rcx rdx", "rsi rdi rbp rsp", "r8 r9 r10 r11", "r12 r13 r14 r15", "rip rflags",
)  # fmt: skip


@ui.command("inspect")
@machine_options(kernel_required=False, directory=True)
@limit_option
@ui.option("--at", metavar="TEXT|exits:N", help="Stop when TEXT has come on the serial port, or at exit N.")
@ui.option(
    "-p", "--part", "parts", multiple=True, type=ui.Choice(PARTS), metavar="PART",
    help=f"Only this, may be given again: {', '.join(PARTS)}.  [default: all]",
)  # fmt: skip
@ui.option("--cpu", type=ui.IntRange(min=0), help="Only this CPU.  [default: all]")
@ui.option("--all", "show_all", is_flag=True, help="Show long tables whole.")
@trust_disks_option
@ui.option("--json", "as_json", is_flag=True, help="All of it for programs.")
def command(
    spec: MachineSpec,
    timeout: Limit,
    at: str | None,
    parts: tuple[str, ...],
    cpu: int | None,
    show_all: bool,
    trust_disks: bool,
    as_json: bool,
) -> None:
    """Run KERNEL without a terminal up to its end, the --timeout or the moment --at, and show what is in the machine.

    KERNEL may also be a snapshot's directory: then nothing is run, and the options that make a machine do not count.
    """
    deadline = timeout.deadline()
    with _stopped(spec, timeout.seconds, at, trust_disks) as machine:
        if cpu is not None and cpu >= len(machine.vcpus):
            raise ConfigError(f"--cpu {cpu}: the machine has CPUs 0 to {len(machine.vcpus) - 1}")
        cpus = range(len(machine.vcpus)) if cpu is None else (cpu,)
        wanted = parts or PARTS
        makers: dict[str, Callable[[], Any]] = {
            "cpu": lambda: [cpu_state(machine, number) for number in cpus],
            "tables": lambda: [descriptor_tables(machine, number) for number in cpus],
            "pages": lambda: [page_tables(machine, number) for number in cpus],
            "devices": lambda: device_states(machine),
            "chips": lambda: chip_states(machine),
        }
        found = {part: makers[part]() for part in PARTS if part in wanted}
        with streams.bounded(deadline):
            if as_json:
                ui.echo(envelope("inspect", 0, _plain(found)))
            else:
                _show(machine, cpus, found, None if show_all else SHOWN)


def _show(machine: Machine, cpus: Sequence[int], found: dict[str, Any], limit: int | None) -> None:
    name = partial(_symbol, machine)
    for number, which in enumerate(cpus):
        if "cpu" in found:
            _show_cpu(found["cpu"][number])
        if "tables" in found:
            _show_tables(which, found["tables"][number], name, limit)
        if "pages" in found:
            _show_pages(which, found["pages"][number], limit)
    for part in ("devices", "chips"):
        _show_devices(found.get(part, ()))


def _stopped(spec: MachineSpec, timeout: float | None, at: str | None, trust_disks: bool) -> Machine:
    """The machine at the moment that was asked for."""
    if spec.kernel is not None and Path(spec.kernel).is_dir():
        from ..snapshot import Snapshot

        return Snapshot.load(spec.kernel, trust_disks=trust_disks).fork()
    machine = spec.make()
    try:
        reached: list[bool] = []
        if at is not None:
            from ..snapshot.trigger import Moment, call_at

            def stop() -> None:
                reached.append(True)
                machine.request_stop(f"{at!r} came")

            with machine.lock:
                call_at(machine, Moment.parse(at), stop)
        try:
            outcome = machine.run(timeout)
        except DeviceError as error:
            ui.echo(f"pykvm: {error}", err=True)
        else:
            late = f"{at!r} did not come; " if at is not None and not reached else ""
            ui.echo(f"pykvm: {late}{outcome}", err=True)
    except BaseException:
        machine.close()
        raise
    return machine


def _plain(value: Any) -> Any:
    """Dataclasses, bytes and tuples as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        problem = getattr(value, "problem", None)
        extra = {"text": str(value), "problem": problem} if type(value).__str__ is not object.__str__ else {}
        if isinstance(value, Entries):
            extra = {"problem": problem}
        names = asdict(value).keys()
        return {**{name: _plain(getattr(value, name)) for name in names}, **extra}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _symbol(machine: Machine, address: int) -> str:
    symbols = machine.symbols
    found = symbols.lookup(address) if symbols is not None else None
    return "" if found is None else f" <{found[0]}" + (f"+{found[1]:#x}>" if found[1] else ">")


def _title(text: str) -> None:
    ui.secho(f"\n{text}", bold=True)


def _problem(text: str | None) -> None:
    if text:
        ui.secho(f"  {text}", fg="red")


def _show_cpu(state: CpuState) -> None:
    _title(f"CPU {state.number}: {state.activity}, {state.mode}")
    where = f" <{state.symbol}>" if state.symbol else ""
    ui.echo(f"  at {state.linear:#x}{where}: {state.instruction or 'not mapped'}")
    wide = bool(state.system.efer & EFER_LMA)
    digits = 16 if wide else 8
    for row in REGISTER_ROWS:
        if wide or not row.startswith(("r8", "r12")):
            names = row.split()
            ui.echo("  " + "  ".join(f"{name:<3} {getattr(state.registers, name):0{digits}x}" for name in names))
    control = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
    ui.echo("  " + "  ".join(f"{name} {getattr(state.system, name):x}" for name in control))
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt"):
        part = getattr(state.system, name)
        ui.echo(f"  {name:<3} {part.selector:04x}  base {part.base:x}, limit {part.limit:x}, type {part.type:x}")


def _show_tables(cpu: int, tables: DescriptorTables, name: Callable[[int], str], limit: int | None) -> None:
    for title, entries in (("GDT", tables.gdt), ("LDT", tables.ldt), ("IDT", tables.idt)):
        if entries is None:
            continue
        _title(f"CPU {cpu}: {title} at {entries.base:#x}, {entries.size} bytes")
        _problem(entries.problem)
        lines = _gates(entries.entries, name) if title == "IDT" else map(_descriptor, entries.entries)
        _show_lines(list(lines), limit)
    if tables.vectors:
        _title(f"CPU {cpu}: interrupt vectors")
        used = [f"  {vector:02x}  {pointer}" for vector, pointer in tables.vectors.items() if any(pointer)]
        _show_lines(used or ["  all 0"], limit)
    if tables.idt is None:  # real mode has no tasks
        return
    task = tables.task
    _title(f"CPU {cpu}: TSS, selector {task.selector:04x}")
    _problem(task.problem)
    if task.tss is not None:
        tss = task.tss
        ui.echo(f"  {tss.bits}-bit at {task.base:#x}, limit {task.limit:#x}")
        for ring, (selector, pointer) in enumerate(tss.stacks):
            ui.echo(f"  ring {ring} stack " + (f"{selector:04x}:" if tss.bits != 64 else "") + f"{pointer:#x}")
        for number, pointer in enumerate(tss.ist, 1):
            if pointer:
                ui.echo(f"  IST{number} {pointer:#x}")
        if any(value for _, value in tss.saved):
            ui.echo("  saved " + "  ".join(f"{key} {value:x}" for key, value in tss.saved))
        open_to_all = ", ".join(f"{first:#x}-{last:#x}" for first, last in task.ports)
        ui.echo(f"  ports open to all rings: {open_to_all or 'none'}")


def _descriptor(entry: Entry) -> str:
    problem = entry.descriptor.problem
    return f"  {entry.number:04x}  {entry.descriptor}" + (ui.style(f": {problem}", fg="red") if problem else "")


def _gates(entries: Sequence[Entry], name: Callable[[int], str]) -> Iterator[str]:
    """An IDT's lines: gates that differ in their offsets alone, at even distances, share one."""
    at = 0
    while at < len(entries):
        run = _run_length(entries, at)
        first, last = entries[at], entries[at + run - 1]
        gate = first.descriptor
        problem = ui.style(f": {gate.problem}", fg="red") if gate.problem else ""
        if isinstance(gate, Gate) and isinstance(last.descriptor, Gate):
            if run > 1:
                numbers, extra = f"{first.number:02x}-{last.number:02x}", f" to {last.descriptor.offset:#x}"
            else:
                numbers, extra = f"{first.number:02x}", ""
            yield f"  {numbers:<6} {gate}{extra}{name(gate.offset)}{problem}"
        else:
            yield f"  {first.number:02x}     {gate}{problem}"
        at += run


def _run_length(entries: Sequence[Entry], start: int) -> int:
    def kind(entry: Entry) -> tuple[object, ...] | None:
        gate = entry.descriptor
        if not isinstance(gate, Gate):
            return None
        return gate.kind, gate.bits, gate.selector, gate.dpl, gate.present, gate.ist, gate.problem

    def offset(at: int) -> int:
        gate = entries[at].descriptor
        return gate.offset if isinstance(gate, Gate) else 0

    length = 1
    while start + length < len(entries):
        at = start + length
        if kind(entries[at]) is None or kind(entries[at]) != kind(entries[start]):
            break
        if entries[at].number != entries[at - 1].number + 1:
            break
        if length > 1 and offset(at) - offset(at - 1) != offset(start + 1) - offset(start):
            break
        length += 1
    return length


def _show_pages(cpu: int, pages: PageMap, limit: int | None) -> None:
    _title(f"CPU {cpu}: {pages.paging}" + (f", tables at {pages.root:#x}" if pages.tables else ""))
    for problem in pages.problems:
        _problem(problem)
    lines = [
        f"  {part.linear:016x}-{part.linear + part.size - 1:016x} -> {part.physical:<12x} "
        f"{_size(part.size):>7} in {_size(part.page_size):>3} pages  {part.rights}"
        for part in pages.mappings
    ]
    _show_lines(lines, limit)
    if not pages.complete:
        _problem("there is more: a limit was reached")


def _size(size: int) -> str:
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >> shift and not size & (1 << shift) - 1:
            return f"{size >> shift}{unit}"
    return str(size)


def _show_devices(devices: Sequence[DeviceState]) -> None:
    for device in devices:
        spans = ", ".join(f"{first:#x}" if first == last else f"{first:#x}-{last:#x}" for first, last in device.ranges)
        _title(f"{device.name} at {spans}")
        line = ""
        for key, value in device.registers.items():
            part = f"{key} {_value(value)}"
            if line and len(line) + len(part) > WIDTH:
                ui.echo(f"  {line}")
                line = ""
            line = f"{line}, {part}" if line else part
        if line:
            ui.echo(f"  {line}")
        if not device.complete:
            ui.secho("  ...", dim=True)


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes" + (f": {value[:SHOWN_BYTES].hex(' ')}" if value else "") + (
            " ..." if len(value) > SHOWN_BYTES else ""
        )  # fmt: skip
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:#x}"
    return str(value)


def _show_lines(lines: Sequence[str], limit: int | None) -> None:
    for line in lines[:limit]:
        ui.echo(line)
    if limit is not None and len(lines) > limit:
        ui.secho(f"  ... and {len(lines) - limit} more: --all shows them", dim=True)
