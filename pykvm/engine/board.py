"""The board: RAM, CPUs, buses and interrupt lines. It lives as long as the machine, whatever runs on it.

The board knows which device answers an access, and no device. What stands on it is added by `add`; the in-kernel chips
(PIC, IOAPIC, local APICs, PIT) come with the virtual machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cache, cached_property, partial

from ..bus import UNCLAIMED_LIMIT, MmioBus, PortBus
from ..device import Aside, Device, IrqLine, Range, at_once
from ..errors import ConfigError
from ..kvm import VM, MsrRange, System
from ..kvm.exits import PIO_OUTPUT
from ..kvm.vcpu import CpuidBlock
from ..memory import GuestMemory
from ..typed import TYPE_CHECKING, NamedTuple, Protocol
from ..x86 import cpuid
from .power_on import ELCR_AT, make_vm

if TYPE_CHECKING:
    from ..boot.rom import Rom

Route = tuple[Callable[..., int | None], int, int, bool]
"""How a port access is served: (function, offset, size, whether it is output: then the value is given behind them)."""
MsrHandler = Callable[[int | None], int | None]
"""Called with the value written, or None for a read, whose value it returns."""

KEPT_FROM_GUESTS = (0xC0011029,)
"""MSRs that AMD's KVM lets a guest write, and takes back from nobody once the vCPU has run: DE_CFG (AMD64 APM volume 2,
appendix A; kernel, kvm_do_msr_access). A write gets #GP, so that no run leaves anything in them to the next."""

INTERRUPT_INPUTS = 24
RAM_TOP_SLOT = 8
"""Memory slots from here on are for what is put before the guest later; RAM and ROM at the start have lower numbers."""


class RamSlot(NamedTuple):
    """A memory slot of KVM's with a part of RAM: `size` bytes at guest physical `gpa`, at `offset` of the RAM."""

    slot: int
    gpa: int
    size: int
    offset: int


class Slots(Protocol):
    """Where cards go."""

    @property
    def cards(self) -> Sequence[Device]:
        """The cards that are there."""

    def plug(self, card: Device) -> None:
        """Put a card into a slot; ConfigError if it cannot be."""

    def unplug(self, card: Device) -> None:
        """Take it out."""


class GeneralProtection(Exception):
    """Raised by an MSR handler: the guest's RDMSR or WRMSR gets #GP."""


@cache
def open_system() -> System:
    """/dev/kvm, opened once a process: it holds no state, and what it can do does not change."""
    system = System()
    system.require("USER_MEMORY", "IRQCHIP", "PIT2", "MP_STATE", "VCPU_EVENTS", "IMMEDIATE_EXIT")
    return system


@cache
def _kept_from_guests() -> list[MsrRange]:
    """Those that this KVM has, as a filter of writes; none where it has no filters."""
    system = open_system()
    here = system.feature_msr_indices() if system.check_extension("X86_MSR_FILTER") else ()
    return [MsrRange(index, 1, read=False) for index in KEPT_FROM_GUESTS if index in here]


@cache
def offered_cpuid() -> list[cpuid.CpuidEntry]:
    """The leaves of CPUID that this KVM offers, which guests get if nobody changes them."""
    return cpuid.in_virtual_machine(open_system().supported_cpuid())


@cache
def _default_block(cpu: int, cpus: int) -> CpuidBlock:
    return CpuidBlock(cpuid.for_cpu(offered_cpuid(), cpu, cpus))


class Board:
    """A virtual machine of `system` with `memory`, a ROM if there is one, and `cpus` CPUs; `stack` is to close it.

    ConfigError for a number of CPUs that cannot be. Everything but the making is called with the machine's lock held.
    """

    def __init__(self, system: System, memory: GuestMemory, rom: Rom | None, cpus: int, stack: ExitStack) -> None:
        most = system.check_extension("MAX_VCPUS")
        if not 1 <= cpus <= most:
            raise ConfigError(f"{cpus} CPUs are not possible: this KVM takes 1 to {most}")
        self.system, self.memory, self.rom = system, memory, rom
        self.ports = PortBus()
        self.mmio = MmioBus()
        self.port_routes: dict[int, Route] = {}
        """How each kind of port access that came was served: forgotten when a device comes or goes."""
        self.lines: dict[int, list[IrqLine]] = {}
        """The interrupt lines by number, those that share one in the order in which they were made."""
        self._levels: set[int] = set()
        self.slots: Slots | None = None
        """Where cards go, once the PC is there."""
        self.finish = True
        """Whether instructions are finished that KVM cannot emulate. Before the start."""
        self._msrs: dict[int, MsrHandler] = {}
        self.when_at_rest: Callable[[Callable[[], None]], None] = lambda callback: callback()
        """Has a function called with every vCPU out of the guest and the lock held, before the guest goes on."""
        self.ram_slots = [RamSlot(slot, *region) for slot, region in enumerate(memory.regions)]
        """Where KVM has the RAM, by rising addresses."""
        self.ram_layout = 0
        """How often that has changed."""
        self.vm, self.vcpus = make_vm(system, stack, cpus, self._before_chips)
        self.aside: Aside = at_once
        """Who does what takes long: the engine, once there is one."""
        self.cpuid_in_use = offered_cpuid()
        for vcpu in self.vcpus:
            vcpu.set_cpuid(_default_block(vcpu.id, cpus))

    def _before_chips(self, vm: VM) -> None:
        if kept := _kept_from_guests():
            vm.set_msr_filter(kept)
        for slot, gpa, size, offset in self.ram_slots:
            vm.set_memory(slot, gpa, size, self.memory.map, offset)
        if self.rom is not None:
            readonly = vm.check_extension("READONLY_MEM") > 0
            slot = len(self.memory.regions)
            vm.set_memory(slot, self.rom.gpa, self.rom.size, self.rom.map, readonly=readonly)

    def map_ram(self, slots: list[RamSlot]) -> None:
        """Put RAM before the guest in other pieces. With every vCPU out of the guest.

        What KVM's dirty log has of a slot that goes is kept in `GuestMemory.written`.
        """
        log = self.memory.written is not None
        for old in self.ram_slots:
            if old not in slots:
                if log:
                    self._keep_log(old)
                self.vm.delete_memory(old.slot)
        for new in slots:
            if new not in self.ram_slots:
                self.vm.set_memory(new.slot, new.gpa, new.size, self.memory.map, new.offset, log=log)
        self.ram_slots = slots
        self.ram_layout += 1

    def _keep_log(self, slot: RamSlot) -> None:
        bitmap = bytearray(-(-(slot.size >> 12) // 64) * 8)
        self.vm.get_dirty_log(slot.slot, bitmap)
        first, written = slot.offset >> 12, self.memory.written
        if written is not None:
            for at, byte in enumerate(bitmap):
                if byte:
                    written.update(first + 8 * at + bit for bit in range(8) if byte >> bit & 1)

    def read_linear(self, address: int, size: int, cpu: int = 0) -> bytes:
        """At most `size` bytes at a linear address as that CPU's page tables have it; fewer where the mapping ends."""
        return self.memory.read_linear(address, size, self.vcpus[cpu].physical)

    # CPUID

    def set_cpuid(self, entries: list[cpuid.CpuidEntry]) -> None:
        """Have the CPUs answer CPUID with these leaves, which nobody changes any more. Before the first run."""
        for vcpu in self.vcpus:
            vcpu.set_cpuid(cpuid.for_cpu(entries, vcpu.id, len(self.vcpus)))
        self.cpuid_in_use = entries

    @cached_property
    def cpuid(self) -> list[cpuid.CpuidEntry]:
        """The leaves that a user may change; what they say when `commit_cpuid` is called next counts."""
        return [entry.copy() for entry in self.cpuid_in_use]

    def commit_cpuid(self) -> None:
        """Have what was changed in `cpuid` count from now on."""
        if "cpuid" in self.__dict__ and self.cpuid != self.cpuid_in_use:
            self.set_cpuid([entry.copy() for entry in self.cpuid])

    # Devices

    @property
    def devices(self) -> list[Device]:
        """All devices, those with ports first, in the order in which they were added."""
        return [*self.ports.devices, *self.mmio.devices, *self.cards]

    @property
    def cards(self) -> Sequence[Device]:
        """The devices in slots."""
        return () if self.slots is None else self.slots.cards

    def add(self, device: Device) -> None:
        """Put a device on the bus it names ports or addresses on; ConfigError if they are taken, or are RAM.

        A card comes into a slot.
        """
        if device.is_card:
            if self.slots is None:
                raise ConfigError(f"{device.display_name}: this machine has no slots for cards")
            self.slots.plug(device)
            return
        self.place(device)
        (self.ports if device.ports else self.mmio).devices.append(device)

    def place(self, device: Device) -> None:
        """Have a device answer the ports or addresses that it names; ConfigError if they are taken, or are RAM."""
        if bool(device.ports) == bool(device.mmio):
            raise ConfigError(f"{type(device).__name__} must name either ports or mmio ranges")
        given: Sequence[object] = (*device.ports, *device.mmio)
        for each in given:
            if not isinstance(each, Range):
                name, where = type(device).__name__, "ports" if device.ports else "mmio"
                raise ConfigError(f"{name}.{where} is a list of Range: write {where} = [Range(0x100, 4)], for example")
        for span in device.mmio:
            for region in self.memory.regions:
                if span.base < region.gpa + region.size and region.gpa < span.end:
                    raise ConfigError(f"{span.base:#x}..{span.end - 1:#x} is RAM; MMIO needs addresses outside it")
        (self.ports if device.ports else self.mmio).place(device)
        self.port_routes.clear()

    def displace(self, device: Device) -> None:
        """Undo `place`."""
        (self.ports if device.ports else self.mmio).displace(device)
        self.port_routes.clear()

    def remove(self, device: Device) -> None:
        """Take a device off its bus, or a card out of its slot."""
        if device.is_card and self.slots is not None:
            self.slots.unplug(device)
            return
        (self.ports if device.ports else self.mmio).detach(device)
        self.port_routes.clear()

    def route_port(self, key: int) -> Route:
        """How to serve a port access with that key (see `kvm.exits.PIO_OUTPUT`); remembered in `port_routes`.

        So are those to ports that nobody answers, but only some: there are 400,000, and a guest may try them all.
        """
        ports, port, size = self.ports, key & 0xFFFF, key >> 16 & 7
        claim = ports.find(port)
        if claim is not None and size <= claim.width:
            read, write, offset = claim.read, claim.write, claim.offset
        elif ports.is_free(port, size):
            read, write, offset = ports.read_unclaimed, ports.write_unclaimed, port
        else:  # it must be split: the long way through the bus
            read, write, offset = ports.read, ports.write, port
        is_output = bool(key & PIO_OUTPUT)
        route: Route = (write if is_output else read, offset, size, is_output)
        if claim is not None or len(self.port_routes) < UNCLAIMED_LIMIT:
            self.port_routes[key] = route
        return route

    # Interrupts

    def irq(self, number: int) -> IrqLine:
        """A new line to the interrupt input `number`: 0-15 of PIC and IOAPIC, 16-23 of the IOAPIC.

        Several lines to one input are ORed.
        """
        if not 0 <= number < INTERRUPT_INPUTS:
            raise ConfigError(f"there is no interrupt input {number}: a PC has 0 to {INTERRUPT_INPUTS - 1}")
        lines = self.lines.setdefault(number, [])
        lines.append(IrqLine(partial(self._move_line, number, lines)))
        return lines[-1]

    def _move_line(self, number: int, lines: list[IrqLine], level: bool) -> None:
        if len(lines) == 1 or sum(line.level for line in lines) == level:
            self.vm.irq_line(number, level)

    def message(self, address: int, data: int) -> None:
        """Send a message-signalled interrupt to the local APICs."""
        self.vm.signal_msi(address, data)

    def make_level_triggered(self, irqs: Iterable[int]) -> None:
        """Have the 8259s take these interrupt requests as levels, as firmware has those that slots share."""
        self._levels |= set(irqs)
        for chip in (0, 1):
            state = bytearray(self.vm.get_irqchip(chip))
            state[ELCR_AT] |= sum(1 << irq % 8 for irq in self._levels if irq // 8 == chip)
            self.vm.set_irqchip(bytes(state))

    # MSRs

    def answer_msr(self, index: int, handler: MsrHandler) -> None:
        """Have `handler` answer the guest's accesses to that MSR, from the next start on."""
        if self._msrs.setdefault(index, handler) is not handler:
            raise ConfigError(f"MSR {index:#x} has a handler: one function answers it, reads and writes")

    def filter_msrs(self) -> None:
        """Have KVM leave the MSRs to the handlers. KvmUnsupported if it cannot."""
        if self._msrs:
            self.system.require("X86_USER_SPACE_MSR", "X86_MSR_FILTER")
            self.vm.exit_on_msr()
            kept = [each for each in _kept_from_guests() if each.base not in self._msrs]
            self.vm.set_msr_filter([*(MsrRange(index, 1) for index in self._msrs), *kept])

    def access_msr(self, index: int, value: int | None) -> int | None:
        """A guest's RDMSR (`value` None) or WRMSR that KVM left to us; None for #GP."""
        handler = self._msrs.get(index)
        if handler is None:
            return None
        try:
            answer = handler(value)
        except GeneralProtection:
            return None
        return (answer or 0) & (1 << 64) - 1

    # Reset

    def reset(self) -> None:
        """Put CPUs and chips back to their state after power-on, with no vCPU in the guest and the devices reset.

        For that a second virtual machine is made, and its state put onto the first. RAM keeps its content, as on a PC
        that is not switched off.
        """
        from ..kvm.saved import SavedState, state_msrs

        with ExitStack() as stack:
            vm, vcpus = make_vm(self.system, stack, len(self.vcpus))
            for vcpu in vcpus:
                vcpu.set_cpuid(cpuid.for_cpu(self.cpuid_in_use, vcpu.id, len(vcpus)))
            state = SavedState.capture(vm, vcpus, state_msrs(self.system, vcpus[0]))
            state.apply(self.vm, self.vcpus)
        if self._levels:
            self.make_level_triggered(())
        # A line that a device holds up even now is a new edge to the new chips.
        for number, lines in self.lines.items():
            if any(line.level for line in lines):
                self.vm.irq_line(number, False)
                self.vm.irq_line(number, True)
