"""`pykvm info`: what this machine's KVM is, what it can do, what it cannot, and what follows from that."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from ..kvm import CAPABILITIES, System
from ..x86 import cpuid
from . import ui
from .envelope import envelope

BACK_ENDS = {
    "kvm_intel": ("Intel VMX", "hardware virtualization"),
    "kvm_amd": ("AMD SVM", "hardware virtualization"),
    "kvm_pvm": ("PVM", "software virtualization: no vmx or svm is needed"),
}
"""KVM's kernel modules for x86: (short name, what it is)."""

FINISHES = (
    "x87", "MMX", "SSE to SSE4.2", "AVX", "AVX2", "FMA", "F16C", "AES", "SHA", "BMI1", "BMI2", "POPCNT", "CMPXCHG16B",
    "MOVBE", "RDRAND", "FXSAVE", "INT n", "INT3", "INTO", "IRET", "CLAC", "STAC", "XGETBV", "RDTSCP",
)  # fmt: skip
"""What is finished where KVM cannot emulate it, if the host's CPU has it."""

PVM_NOTES = (
    "guest ring 0 is interpreted, about a million instructions a second; ring 3 in long mode runs at full speed",
    "paging without long mode is refused (#GP at mov cr0): 32-bit paged kernels do not run",
    "in ring 0, int n and iret in 32-bit protected mode, x87, SSE and a few more instructions cannot be emulated: "
    "pykvm finishes them, at some 100 µs each",
    "in real mode, int 80h and above never get anywhere: the CPU stays at the instruction",
    "software breakpoints in ring 0 arrive as failed emulations",
)
"""What follows from the PVM back end, measured on it."""


def back_end(capabilities: dict[str, int]) -> tuple[str, str]:
    """Which implementation of KVM this is: by its module, built in or loaded, else by the CPU's flags."""
    for module, names in BACK_ENDS.items():
        if Path("/sys/module", module).exists():
            return names
    flags = Path("/proc/cpuinfo").read_text()
    if " svm" in flags:
        return BACK_ENDS["kvm_amd"]
    if " vmx" in flags:
        return BACK_ENDS["kvm_intel"]
    return "unknown", "neither a module nor a CPU flag tells"


def gather() -> dict[str, Any]:
    """Everything that `pykvm info` shows, as plain values."""
    system = System()
    try:
        entries = list(system.supported_cpuid())
        capabilities = system.capabilities()
        name, what = back_end(capabilities)
        return {
            "kernel": platform.release(),
            "device": "/dev/kvm",
            "api_version": system.api_version(),
            "back_end": name,
            "back_end_is": what,
            "finishes": list(FINISHES),
            "notes": list(PVM_NOTES) if name == "PVM" else [],
            "cpu": cpuid.brand(entries) or cpuid.vendor(entries),
            "host_cpus": os.cpu_count(),
            "cpuid_leaves": len(entries),
            "msrs": len(system.msr_indices()),
            "capabilities": capabilities,
        }
    finally:
        system.close()


@ui.command("info")
@ui.option("--json", "as_json", is_flag=True, help="The same for programs.")
def command(as_json: bool) -> None:
    """Show what this machine's KVM is and can do, what it cannot, and what follows from that."""
    facts = gather()
    if as_json:
        ui.echo(envelope("info", 0, facts))
        return
    label = "{:<12}".format
    for title, value in (
        ("KVM", f"API version {facts['api_version']}, {facts['back_end']} ({facts['back_end_is']})"),
        ("kernel", facts["kernel"]),
        ("CPU", f"{facts['cpu']}, {facts['host_cpus']} host CPUs"),
        ("finished", ", ".join(facts["finishes"])),
        ("guest sees", f"{facts['cpuid_leaves']} CPUID leaves, {facts['msrs']} MSRs"),
    ):
        ui.echo(ui.style(label(title), bold=True) + str(value))
    for note in facts["notes"]:
        ui.echo(ui.style(label("note"), fg="yellow") + note)
    ui.echo()
    width = max(map(len, CAPABILITIES))
    for name, meaning in CAPABILITIES.items():
        value = facts["capabilities"][name]
        answer = ui.style("no".rjust(6), fg="red") if not value else ui.style(_shown(value).rjust(6), fg="green")
        ui.echo(f"{answer}  {name:<{width}}  {meaning}")


def _shown(value: int) -> str:
    """1 only means yes; everything else is a number that says how many, or which."""
    return "yes" if value == 1 else str(value)
