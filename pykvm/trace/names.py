"""What is usually at a port or physical address of a PC, for accesses that no device here answers, and names of MSRs.

Sources: IBM PC/AT Technical Reference (I/O address map); Ralf Brown's Interrupt List (PORTS.LST); Intel SDM volume 4,
chapter 2 (model-specific registers); AMD APM volume 2, appendix A.
"""

from __future__ import annotations

from bisect import bisect_right

_PORTS = (
    (0x000, 0x01F, "DMA controller 1"), (0x020, 0x020, "PIC1 command"), (0x021, 0x021, "PIC1 data"),
    (0x040, 0x042, "PIT counter"), (0x043, 0x043, "PIT control"), (0x060, 0x060, "keyboard data"),
    (0x061, 0x061, "system control B"), (0x064, 0x064, "keyboard command"), (0x070, 0x070, "CMOS index"),
    (0x071, 0x071, "CMOS data"), (0x080, 0x080, "POST code"), (0x081, 0x08F, "DMA page"),
    (0x092, 0x092, "system control A"), (0x0A0, 0x0A0, "PIC2 command"), (0x0A1, 0x0A1, "PIC2 data"),
    (0x0B2, 0x0B3, "APM"), (0x0C0, 0x0DF, "DMA controller 2"), (0x0E9, 0x0E9, "debug console"),
    (0x0ED, 0x0ED, "I/O delay"), (0x0F0, 0x0F1, "x87 error"), (0x0F4, 0x0F7, "exit port"), (0x170, 0x177, "ATA1"),
    (0x1CE, 0x1D0, "Bochs VBE"), (0x1F0, 0x1F7, "ATA0"), (0x200, 0x20F, "joystick"), (0x220, 0x22F, "Sound Blaster"),
    (0x278, 0x27F, "LPT2"), (0x2E8, 0x2EF, "COM4"), (0x2F8, 0x2FF, "COM2"), (0x300, 0x31F, "NE2000"),
    (0x330, 0x331, "MPU-401"), (0x376, 0x376, "ATA1 control"), (0x378, 0x37F, "LPT1"), (0x388, 0x38B, "AdLib"),
    (0x3B0, 0x3BB, "MDA"), (0x3BC, 0x3BF, "LPT3"), (0x3C0, 0x3CF, "VGA"), (0x3D0, 0x3DF, "CGA"), (0x3E8, 0x3EF, "COM3"),
    (0x3F0, 0x3F5, "floppy"), (0x3F6, 0x3F6, "ATA0 control"), (0x3F7, 0x3F7, "floppy"), (0x3F8, 0x3FF, "COM1"),
    (0x402, 0x402, "firmware's debug console"), (0x4D0, 0x4D1, "ELCR"), (0x510, 0x51B, "fw_cfg"),
    (0x600, 0x63F, "ACPI PM"), (0xA79, 0xA79, "ISA PnP"), (0xB000, 0xB03F, "ACPI PM"), (0xCF8, 0xCFB, "PCI address"),
    (0xCFC, 0xCFF, "PCI data"), (0x5658, 0x5658, "VMware backdoor"), (0x8900, 0x8900, "shutdown port"),
)  # fmt: skip
_ADDRESSES = (
    (0x000A0000, 0x000BFFFF, "VGA memory"), (0x000C0000, 0x000FFFFF, "ROM area"), (0xB0000000, 0xBFFFFFFF, "PCI ECAM"),
    (0xE0000000, 0xEFFFFFFF, "PCI ECAM"), (0xFEC00000, 0xFEC00FFF, "IOAPIC"), (0xFED00000, 0xFED003FF, "HPET"),
    (0xFED40000, 0xFED44FFF, "TPM"), (0xFEE00000, 0xFEEFFFFF, "local APIC"), (0xFF000000, 0xFFFFFFFF, "flash"),
)  # fmt: skip

MSRS = {
    0x10: "IA32_TIME_STAMP_COUNTER", 0x1B: "IA32_APIC_BASE", 0x3A: "IA32_FEATURE_CONTROL", 0x8B: "IA32_BIOS_SIGN_ID",
    0xC1: "IA32_PMC0", 0xCE: "MSR_PLATFORM_INFO", 0xE7: "IA32_MPERF", 0xE8: "IA32_APERF", 0xFE: "IA32_MTRRCAP",
    0x174: "IA32_SYSENTER_CS", 0x175: "IA32_SYSENTER_ESP", 0x176: "IA32_SYSENTER_EIP", 0x179: "IA32_MCG_CAP",
    0x17A: "IA32_MCG_STATUS", 0x186: "IA32_PERFEVTSEL0", 0x198: "IA32_PERF_STATUS", 0x199: "IA32_PERF_CTL",
    0x19C: "IA32_THERM_STATUS", 0x1A0: "IA32_MISC_ENABLE", 0x1D9: "IA32_DEBUGCTL", 0x277: "IA32_PAT",
    0x2FF: "IA32_MTRR_DEF_TYPE", 0x6E0: "IA32_TSC_DEADLINE", 0x802: "IA32_X2APIC_APICID", 0x808: "IA32_X2APIC_TPR",
    0x80B: "IA32_X2APIC_EOI", 0x830: "IA32_X2APIC_ICR", 0xC0000080: "IA32_EFER", 0xC0000081: "IA32_STAR",
    0xC0000082: "IA32_LSTAR", 0xC0000083: "IA32_CSTAR", 0xC0000084: "IA32_FMASK", 0xC0000100: "IA32_FS_BASE",
    0xC0000101: "IA32_GS_BASE", 0xC0000102: "IA32_KERNEL_GS_BASE", 0xC0000103: "IA32_TSC_AUX",
    0xC0010015: "HWCR", 0xC001001F: "NB_CFG", 0x4B564D00: "KVM_WALL_CLOCK", 0x4B564D01: "KVM_SYSTEM_TIME",
}  # fmt: skip


def port_name(port: int) -> str:
    """What a PC usually has at the port; "" if nothing is known."""
    return _find(_PORTS, port)


def address_name(address: int) -> str:
    """What a PC usually has at the physical address; "" if nothing is known."""
    return _find(_ADDRESSES, address)


def _find(table: tuple[tuple[int, int, str], ...], address: int) -> str:
    at = bisect_right(table, address, key=lambda entry: entry[0]) - 1
    return table[at][2] if at >= 0 and address <= table[at][1] else ""
