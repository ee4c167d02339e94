"""CPUID lists, with register values worked out by hand from the Intel SDM (volume 2A) and the AMD APM (volume 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.x86 import cpuid
from pykvm.x86.cpuid import CpuidEntry


def _intel() -> list[CpuidEntry]:
    return [
        # "Genu" "ntel" "ineI"
        CpuidEntry(0, eax=0x1F, ebx=0x756E6547, ecx=0x6C65746E, edx=0x49656E69),
        CpuidEntry(1, eax=0x906EA, ebx=0x03100800, ecx=0x80000000, edx=0x0FABFBFF),
        CpuidEntry(4, 0, 1, eax=0x1C004121, ebx=0x01C0003F),  # L1 data
        CpuidEntry(4, 2, 1, eax=0x1C004143),  # L2
        CpuidEntry(4, 3, 1, eax=0x1C1FC163),  # L3
        CpuidEntry(4, 4, 1),  # no more caches
        CpuidEntry(0xB, 0, 1, eax=1, ebx=2, ecx=0x100, edx=9),
        CpuidEntry(0xB, 1, 1, eax=4, ebx=16, ecx=0x201, edx=9),
        CpuidEntry(0x80000008, eax=0x3027, ecx=0),
    ]


def _amd() -> list[CpuidEntry]:
    return [
        # "Auth" "cAMD" "enti"
        CpuidEntry(0, eax=0x10, ebx=0x68747541, ecx=0x444D4163, edx=0x69746E65),
        CpuidEntry(1),
        CpuidEntry(0x80000008, eax=0x3030, ecx=0x700F),
        CpuidEntry(0x8000001E, eax=9, ebx=0x104, ecx=0x300),
    ]


def test_find_looks_at_the_index_only_where_it_matters() -> None:
    entries = _intel()
    assert cpuid.find(entries, 1, 7) is entries[1]
    assert cpuid.find(entries, 4, 3) is entries[4]
    assert cpuid.find(entries, 4, 9) is None
    assert cpuid.find(entries, 0x15) is None


def test_override_changes_only_what_is_given() -> None:
    entries = _intel()
    assert cpuid.set_leaf(entries, 1, ecx=5) is entries[1]
    assert entries[1] == CpuidEntry(1, eax=0x906EA, ebx=0x03100800, ecx=5, edx=0x0FABFBFF)
    assert cpuid.set_leaf(entries, 4, 3, eax=0).index == 3
    assert entries[2].eax == 0x1C004121
    assert len(entries) == 9


def test_override_adds_a_leaf_that_is_not_there() -> None:
    entries: list[CpuidEntry] = []
    cpuid.set_leaf(entries, 0x15, eax=1, ebx=2)
    cpuid.set_leaf(entries, 7, 1, edx=0xFFFFFFFF)
    assert entries == [CpuidEntry(0x15, eax=1, ebx=2), CpuidEntry(7, 1, 1, edx=0xFFFFFFFF)]


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_override_refuses_what_is_no_register(value: int) -> None:
    entries = _intel()
    with pytest.raises(ValueError, match="32 bits"):
        cpuid.set_leaf(entries, 1, eax=0, ebx=value)
    with pytest.raises(ValueError, match="32 bits"):
        cpuid.set_leaf(entries, value)
    assert entries == _intel()


def test_topology_of_one_of_six_intel_cores() -> None:
    host = _intel()
    entries = cpuid.for_cpu(host, 5, 6)
    assert host == _intel(), "the list it was made from is as before"
    leaf = {(entry.function, entry.index): entry for entry in entries}
    # 6 cores need 3 bits: 8 addressable IDs
    assert (leaf[1, 0].ebx, leaf[1, 0].edx) == (0x05080800, 0x1FABFBFF)
    # bits 31:26 cores - 1 = 7; bits 25:14 IDs that share the cache - 1
    assert leaf[4, 0].eax == 7 << 26 | 0 << 14 | 0x121
    assert leaf[4, 2].eax == 7 << 26 | 0 << 14 | 0x143
    assert leaf[4, 3].eax == 7 << 26 | 7 << 14 | 0x163
    assert leaf[4, 4] == CpuidEntry(4, 4, 1)
    assert leaf[0xB, 0] == CpuidEntry(0xB, 0, 1, eax=0, ebx=1, ecx=0x100, edx=5)
    assert leaf[0xB, 1] == CpuidEntry(0xB, 1, 1, eax=3, ebx=6, ecx=0x201, edx=5)
    assert leaf[0xB, 2] == CpuidEntry(0xB, 2, 1, ecx=2, edx=5)
    assert (0x1F, 0) not in leaf
    assert leaf[0x80000008, 0].ecx == 0, "reserved on Intel"


def test_topology_of_a_single_cpu() -> None:
    entries = cpuid.for_cpu(_intel(), 0, 1)
    leaf = {(entry.function, entry.index): entry for entry in entries}
    assert (leaf[1, 0].ebx, leaf[1, 0].edx) == (0x00010800, 0x0FABFBFF)
    assert leaf[4, 3].eax == 0x163
    assert (leaf[0xB, 1].eax, leaf[0xB, 1].ebx) == (0, 1)


def test_topology_of_one_of_four_amd_cores() -> None:
    leaf = {entry.function: entry for entry in cpuid.for_cpu(_amd(), 3, 4)}
    assert leaf[0x80000008] == CpuidEntry(0x80000008, eax=0x3030, ecx=0x2003)  # 2 ID bits, cores - 1
    assert leaf[0x8000001E] == CpuidEntry(0x8000001E, eax=3, ebx=3, ecx=0)
    assert leaf[1].ebx == 0x03040000


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 20))
def test_every_register_stays_within_32_bits(apic_id: int, cpus: int) -> None:
    for entry in cpuid.for_cpu(_intel(), apic_id, cpus) + cpuid.for_cpu(_amd(), apic_id, cpus):
        assert all(0 <= value < 1 << 32 for value in (entry.eax, entry.ebx, entry.ecx, entry.edx))


def test_vendor_and_brand() -> None:
    assert cpuid.vendor(_intel()) == "GenuineIntel"
    assert cpuid.vendor(_amd()) == "AuthenticAMD"
    assert cpuid.vendor([]) == cpuid.brand([]) == cpuid.hypervisor([]) == ""
    letters = b"      AMD EPYC 7B12 64-Core Processor".ljust(48, b"\0")
    words = [int.from_bytes(letters[at : at + 4], "little") for at in range(0, 48, 4)]
    leaves = [CpuidEntry(0x80000002 + leaf, 0, 0, *words[4 * leaf : 4 * leaf + 4]) for leaf in range(3)]
    assert cpuid.brand(leaves) == "AMD EPYC 7B12 64-Core Processor"


def test_hypervisor_signature() -> None:
    # "KVMK" "VMKV" "M\0\0\0"
    entries = [CpuidEntry(0x40000000, eax=0x40000001, ebx=0x4B4D564B, ecx=0x564B4D56, edx=0x4D)]
    assert cpuid.hypervisor(entries) == "KVMKVMKVM"
    cpuid.set_hypervisor(entries, "Microsoft Hv")
    assert cpuid.hypervisor(entries) == "Microsoft Hv"
    assert (len(entries), entries[0].eax) == (1, 0x40000001)
    with pytest.raises(ValueError, match="12 letters"):
        cpuid.set_hypervisor(entries, "thirteen long")


def test_a_virtual_machine_says_so() -> None:
    given = [CpuidEntry(0, eax=1), CpuidEntry(1, eax=5, ecx=0x201)]
    assert cpuid.in_virtual_machine(given) == [CpuidEntry(0, eax=1), CpuidEntry(1, eax=5, ecx=0x80000201)]
    assert given[1].ecx == 0x201
