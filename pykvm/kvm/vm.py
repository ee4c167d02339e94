"""A virtual machine's descriptor: memory slots, vCPUs, interrupt chips, timers, clock (api.rst, vm ioctls)."""

from __future__ import annotations

from collections.abc import Sequence

from ..typed import Any
from ._kvm import ffi, lib
from .closing import close_behind
from .descriptor import Descriptor
from .errors import KvmError
from .state import ClockData, MsrRange
from .vcpu import VCPU

PIC_MASTER = lib.KVM_IRQCHIP_PIC_MASTER
PIC_SLAVE = lib.KVM_IRQCHIP_PIC_SLAVE
IOAPIC = lib.KVM_IRQCHIP_IOAPIC

IDENTITY_MAP_ADDRESS = 0xFEFFC000
TSS_ADDRESS = IDENTITY_MAP_ADDRESS + 4096
"""One page and three for Intel CPUs without unrestricted guest mode, just below the largest firmware."""

_irq_line = lib.pykvm_irq_line


class VM(Descriptor):
    """One virtual machine. Made by `System.create_vm`; it lives until its and all its vCPUs' descriptors are closed."""

    def __init__(self, fd: int, mmap_size: int) -> None:
        super().__init__(fd)
        self._mmap_size = mmap_size

    def close(self) -> None:
        """Give the descriptor back; the kernel frees the virtual machine a little later (see `closing`)."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            close_behind(fd)

    def create_vcpu(self, vcpu_id: int) -> VCPU:
        """A vCPU with that id, which is also its initial APIC id."""
        fd = self.ioctl_int("KVM_CREATE_VCPU", vcpu_id, "the id is taken or beyond KVM_CAP_MAX_VCPU_ID")
        return VCPU(fd, vcpu_id, self._mmap_size)

    def enable_capability(self, capability: str, *args: int, flags: int = 0) -> None:
        """Turn on "KVM_CAP_" + `capability` with up to four arguments."""
        box = ffi.new("struct kvm_enable_cap *")
        box.cap = getattr(lib, f"KVM_CAP_{capability}")
        box.flags = flags
        for at, value in enumerate(args):
            box.args[at] = value
        self.ioctl("KVM_ENABLE_CAP", box, f"KVM_CAP_{capability} is not to be had here")

    # Memory

    def set_memory(
        self, slot: int, gpa: int, size: int, buffer: Any, offset: int = 0, *, readonly: bool = False, log: bool = False
    ) -> None:
        """Put `size` bytes of `buffer` (writable, such as an mmap; it must outlive the slot) at guest physical `gpa`.

        `gpa`, `size` and the host address must be multiples of 4 KiB. `readonly` makes guest writes exits (ROM), `log`
        turns the dirty log on.
        """
        with memoryview(buffer) as view:
            if not 0 <= offset <= offset + size <= view.nbytes:
                raise ValueError(f"{size:#x} bytes from {offset:#x} on are not within the buffer")
        flags = (lib.KVM_MEM_READONLY if readonly else 0) | (lib.KVM_MEM_LOG_DIRTY_PAGES if log else 0)
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot, region.flags = slot, flags
        region.guest_phys_addr, region.memory_size = gpa, size
        held = ffi.from_buffer(buffer)
        region.userspace_addr = int(ffi.cast("uintptr_t", held)) + offset
        ffi.release(held)
        self.ioctl("KVM_SET_USER_MEMORY_REGION", region, "the slot overlaps another one, or is not on page borders")

    def delete_memory(self, slot: int) -> None:
        """Take a slot away; KVM drops all translations through it."""
        self.ioctl("KVM_SET_USER_MEMORY_REGION", ffi.new("struct kvm_userspace_memory_region *", {"slot": slot}))

    def get_dirty_log(self, slot: int, bitmap: bytearray) -> None:
        """Fill `bitmap` with one bit a page of the slot, least significant first: written since the last call.

        `bitmap` has one bit a page, rounded up to 8 bytes. With MANUAL_DIRTY_LOG_PROTECT2 the log is left as it is.
        """
        log = ffi.new("struct kvm_dirty_log *")
        log.slot = slot
        with ffi.from_buffer(bitmap) as held:
            log.dirty_bitmap = held
            self.ioctl("KVM_GET_DIRTY_LOG", log, "the slot has no dirty log")

    def clear_dirty_log(self, slot: int, first_page: int, num_pages: int, bitmap: bytearray) -> None:
        """Make the marked pages clean again (needs MANUAL_DIRTY_LOG_PROTECT2). `first_page` is a multiple of 64."""
        log = ffi.new("struct kvm_clear_dirty_log *")
        log.slot, log.first_page, log.num_pages = slot, first_page, num_pages
        with ffi.from_buffer(bitmap) as held:
            log.dirty_bitmap = held
            self.ioctl("KVM_CLEAR_DIRTY_LOG", log)

    def set_tss_address(self, gpa: int) -> None:
        """Three pages that Intel CPUs without unrestricted guest mode need; below 4 GiB, outside every slot."""
        self.ioctl_int("KVM_SET_TSS_ADDR", gpa)

    def set_identity_map_address(self, gpa: int) -> None:
        """One page for the same purpose. Before the first vCPU."""
        self.ioctl("KVM_SET_IDENTITY_MAP_ADDR", ffi.new("uint64_t *", gpa))

    # Interrupts

    def create_irqchip(self) -> None:
        """Put PIC, IOAPIC and, for vCPUs made from now on, local APICs into the kernel."""
        self.ioctl_int("KVM_CREATE_IRQCHIP")

    def create_pit(self, *, speaker: bool = True) -> None:
        """Put the i8254 into the kernel; `speaker` has it answer port 0x61, too."""
        flags = lib.KVM_PIT_SPEAKER_DUMMY if speaker else 0
        self.ioctl("KVM_CREATE_PIT2", ffi.new("struct kvm_pit_config *", {"flags": flags}))

    def irq_line(self, gsi: int, level: bool) -> None:
        """Move an interrupt line of the in-kernel chips: GSI 0-15 are the PIC's and IOAPIC's, 16-23 the IOAPIC's."""
        if _irq_line(self.fd, gsi, level) < 0:
            raise KvmError("KVM_IRQ_LINE", ffi.errno, "there is no interrupt chip in the kernel")

    def signal_msi(self, address: int, data: int) -> bool:
        """Send a message-signalled interrupt; False if the guest blocked it."""
        box = ffi.new("struct kvm_msi *")
        box.address_lo, box.address_hi, box.data = address & 0xFFFFFFFF, address >> 32, data
        return self.ioctl("KVM_SIGNAL_MSI", box) > 0

    def irqfd(self, fd: int, gsi: int, *, resample_fd: int | None = None, deassign: bool = False) -> None:
        """Have each event on the eventfd `fd` raise `gsi`; with `resample_fd` as a level, signalled back at its EOI."""
        box = ffi.new("struct kvm_irqfd *")
        box.fd, box.gsi = fd, gsi
        if deassign:
            box.flags = lib.KVM_IRQFD_FLAG_DEASSIGN
        elif resample_fd is not None:
            box.flags, box.resamplefd = lib.KVM_IRQFD_FLAG_RESAMPLE, resample_fd
        self.ioctl("KVM_IRQFD", box)

    def ioeventfd(
        self, fd: int, address: int, size: int, *, port: bool, match: int | None = None, deassign: bool = False
    ) -> None:
        """Turn guest writes of `size` bytes (0: any) at a port or MMIO address into events on the eventfd `fd`.

        `match` limits it to that value. No exit is made for such a write.
        """
        box = ffi.new("struct kvm_ioeventfd *")
        box.addr, box.len, box.fd = address, size, fd
        if port:
            box.flags |= lib.KVM_IOEVENTFD_FLAG_PIO
        if match is not None:
            box.flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
            box.datamatch = match
        if deassign:
            box.flags |= lib.KVM_IOEVENTFD_FLAG_DEASSIGN
        self.ioctl("KVM_IOEVENTFD", box)

    def set_gsi_routing(
        self, pins: Sequence[tuple[int, int, int]], messages: Sequence[tuple[int, int, int]] = ()
    ) -> None:
        """Replace the routing table: `pins` are (gsi, chip, pin), `messages` (gsi, address, data) for MSI."""
        box = ffi.new("struct kvm_irq_routing *", {"entries": len(pins) + len(messages)})
        box.nr = len(pins) + len(messages)
        for entry, (gsi, chip, pin) in zip(box.entries, pins, strict=False):
            entry.gsi, entry.type = gsi, lib.KVM_IRQ_ROUTING_IRQCHIP
            entry.u.irqchip.irqchip, entry.u.irqchip.pin = chip, pin
        for at, (gsi, address, data) in enumerate(messages, len(pins)):
            entry = box.entries[at]
            entry.gsi, entry.type = gsi, lib.KVM_IRQ_ROUTING_MSI
            entry.u.msi.address_lo, entry.u.msi.address_hi = address & 0xFFFFFFFF, address >> 32
            entry.u.msi.data = data
        self.ioctl("KVM_SET_GSI_ROUTING", box)

    def get_irqchip(self, chip: int) -> bytes:
        """The state of one chip (`PIC_MASTER`, `PIC_SLAVE`, `IOAPIC`): struct kvm_irqchip."""
        box = ffi.new("struct kvm_irqchip *", {"chip_id": chip})
        self.ioctl("KVM_GET_IRQCHIP", box)
        return bytes(ffi.buffer(box))

    def set_irqchip(self, state: bytes) -> None:
        """Take back what `get_irqchip` returned."""
        self.write_blob("KVM_SET_IRQCHIP", "struct kvm_irqchip", state)

    def get_pit(self) -> bytes:
        """The i8254's state: struct kvm_pit_state2."""
        return self.read_blob("KVM_GET_PIT2", "struct kvm_pit_state2")

    def set_pit(self, state: bytes) -> None:
        """Take back what `get_pit` returned."""
        self.write_blob("KVM_SET_PIT2", "struct kvm_pit_state2", state)

    # Time and MSRs

    def get_clock(self) -> ClockData:
        """kvmclock now."""
        box = ffi.new("struct kvm_clock_data *")
        self.ioctl("KVM_GET_CLOCK", box)
        return ClockData(box.clock, box.flags)

    def set_clock(self, clock: int) -> None:
        """Set kvmclock, in nanoseconds."""
        self.ioctl("KVM_SET_CLOCK", ffi.new("struct kvm_clock_data *", {"clock": clock}))

    def exit_on_msr(self, *, unknown: bool = True, invalid: bool = False, filtered: bool = True) -> None:
        """Which refused MSR accesses become exits instead of #GP (KVM_CAP_X86_USER_SPACE_MSR)."""
        self.enable_capability(
            "X86_USER_SPACE_MSR",
            (lib.KVM_MSR_EXIT_REASON_UNKNOWN if unknown else 0)
            | (lib.KVM_MSR_EXIT_REASON_INVAL if invalid else 0)
            | (lib.KVM_MSR_EXIT_REASON_FILTER if filtered else 0),
        )

    def set_msr_filter(self, ranges: Sequence[MsrRange]) -> None:
        """Deny these MSRs to the kernel, so that `exit_on_msr(filtered=True)` brings them here; allow all others."""
        box = ffi.new("struct kvm_msr_filter *", {"flags": lib.KVM_MSR_FILTER_DEFAULT_ALLOW})
        if len(ranges) > lib.KVM_MSR_FILTER_MAX_RANGES:
            raise ValueError(f"{len(ranges)} MSR ranges; KVM takes {lib.KVM_MSR_FILTER_MAX_RANGES}")
        bitmaps = []
        for entry, wanted in zip(box.ranges, ranges, strict=False):
            bitmaps.append(ffi.new("uint8_t[]", (wanted.length + 7) // 8))
            entry.flags = (lib.KVM_MSR_FILTER_READ if wanted.read else 0) | (
                lib.KVM_MSR_FILTER_WRITE if wanted.write else 0
            )
            entry.base, entry.nmsrs, entry.bitmap = wanted.base, wanted.length, bitmaps[-1]
        self.ioctl("KVM_X86_SET_MSR_FILTER", box)
