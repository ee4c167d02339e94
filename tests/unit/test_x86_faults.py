"""Which exception an instruction raises: expectations from the Intel SDM, volume 2, instruction by instruction."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from x86_machine import (
    CODE,
    IDT,
    RAM,
    STACK,
    TABLES,
    TSS,
    change,
    in_ring_3,
    long_cpu,
    map_page,
    protected_cpu,
    real_cpu,
)

from pykvm.x86.exceptions import BP, DB, DE, GP, NM, NP, PF, SS, UD, EventKind
from pykvm.x86.faults import next_event
from pykvm.x86.instruction import Unreadable, read_register
from pykvm.x86.registers import CR0_EM, CR0_TS, CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE

NOWHERE = 1 << 40
TOP = (1 << 64) - 8


def raised(cpu):
    event = next_event(cpu)
    return None if event is None else (event.vector, event.error_code, event.why)


def of(code, make=long_cpu, **registers):
    cpu, _ = make(bytes.fromhex(code), **registers)
    return raised(cpu)


# Nothing wrong: what does not fault is not accused


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        ("90", {}),
        ("48 8b 03", {"rbx": 0x5000}),  # mov rax, [rbx]
        ("48 89 03", {"rbx": 0x5000}),
        ("48 8d 03", {"rbx": NOWHERE}),  # lea: no access
        ("0f 1f 00", {"rax": NOWHERE}),  # nop [rax]
        ("0f 18 00", {"rax": NOWHERE}),  # prefetchnta [rax]
        ("0f 01 38", {"rax": NOWHERE}),  # invlpg [rax]
        ("f7 f1", {"rcx": 3, "rax": 7, "rdx": 2}),  # div ecx
        ("50", {}),  # push rax
        ("c3", {}),  # ret to 0
        ("e8 00 00 00 00", {}),  # call
        ("8e d8", {"rax": 0x10}),  # mov ds, eax
        ("8e d8", {"rax": 0}),
        ("8e d0", {"rax": 0}),  # mov ss, eax: null is fine in 64-bit mode's ring 0
        ("f3 a4", {"rcx": 0, "rsi": NOWHERE, "rdi": NOWHERE}),  # rep movsb, no times
        ("0f 28 03", {"rbx": 0x5000}),  # movaps xmm0, [rbx]
        ("f4", {}),
        ("0f 20 c0", {}),
        ("e4 60", {}),
    ],
)
def test_no_fault(code, registers):
    assert of(code, **registers) is None


# Memory


@pytest.mark.parametrize(
    ("code", "registers", "error_code", "does"),
    [
        ("8b 03", {"rbx": NOWHERE}, 0, "`mov eax, dword ptr [rbx]` reads 0x10000000000, which is not mapped"),
        ("89 03", {"rbx": NOWHERE}, 2, "`mov dword ptr [rbx], eax` writes 0x10000000000, which is not mapped"),
        ("01 03", {"rbx": NOWHERE}, 2, "`add dword ptr [rbx], eax` writes 0x10000000000, which is not mapped"),
        ("39 03", {"rbx": NOWHERE}, 0, "`cmp dword ptr [rbx], eax` reads 0x10000000000, which is not mapped"),
        ("8b 44 8b 10", {"rbx": NOWHERE, "rcx": 4}, 0, "reads 0x10000000020, which is not mapped"),
        ("50", {"rsp": NOWHERE}, 2, "`push rax` pushes to 0xfffffffff8, which is not mapped"),
        ("58", {"rsp": NOWHERE}, 0, "`pop rax` takes from the stack 0x10000000000, which is not mapped"),
        ("c3", {"rsp": NOWHERE}, 0, "`ret` takes from the stack 0x10000000000, which is not mapped"),
        ("c9", {"rbp": NOWHERE}, 0, "`leave` takes from the stack 0x10000000000, which is not mapped"),
        ("e8 00 00 00 00", {"rsp": NOWHERE}, 2, "pushes to 0xfffffffff8, which is not mapped"),
        ("ff 10", {"rax": NOWHERE}, 0, "`call qword ptr [rax]` reads 0x10000000000, which is not mapped"),
        ("f3 aa", {"rcx": 1, "rdi": NOWHERE}, 2, "writes 0x10000000000, which is not mapped"),
        ("a4", {"rsi": 0x5000, "rdi": NOWHERE}, 2, "writes 0x10000000000, which is not mapped"),
        ("0f 01 10", {"rax": NOWHERE}, 0, "`lgdt [rax]` reads 0x10000000000, which is not mapped"),
    ],
)
def test_page_faults(code, registers, error_code, does):
    cpu, _ = long_cpu(bytes.fromhex(code), **registers)
    event = next_event(cpu)
    assert (event.vector, event.error_code) == (PF, error_code)
    assert does in event.why
    assert event.walk.physical is None


def test_the_second_page_of_an_access():
    cpu, ram = long_cpu(bytes.fromhex("48 8b 03"), rbx=0x6FFC)
    map_page(ram, 0x7000, 0)
    assert raised(cpu) == (PF, 0, "`mov rax, qword ptr [rbx]` reads 0x7000, which is not mapped")
    assert next_event(cpu).address == 0x7000


@pytest.mark.parametrize(
    ("code", "registers", "vector", "does"),
    [
        ("8b 03", {"rbx": 1 << 63}, GP, "reads 0x8000000000000000, which is not a canonical address"),
        ("8b 45 00", {"rbp": 1 << 63}, SS, "reads 0x8000000000000000, which is not a canonical address"),
        ("50", {"rsp": 1 << 63}, SS, "pushes to 0x7ffffffffffffff8, which is not a canonical address"),
        ("ff e0", {"rax": 1 << 63}, GP, "`jmp rax` jumps to 0x8000000000000000, which is not a canonical address"),
        ("ff d0", {"rax": 1 << 63}, GP, "jumps to 0x8000000000000000, which is not a canonical address"),
    ],
)
def test_addresses_that_are_none(code, registers, vector, does):
    found = of(code, **registers)
    assert found[:2] == (vector, 0)
    assert does in found[2]


def test_a_return_to_an_address_that_is_none():
    cpu, ram = long_cpu(b"\xc3")
    ram.write_int(STACK, 8, 1 << 63)
    assert raised(cpu) == (GP, 0, "`ret` jumps to 0x8000000000000000, which is not a canonical address")


def test_write_protection():
    cpu, ram = long_cpu(bytes.fromhex("89 03"), rbx=0x5000)
    map_page(ram, 0x5000, 0x5000 | 1)
    assert raised(cpu) is None  # ring 0, without CR0.WP
    cpu = change(cpu, cr0=cpu.system.cr0 | CR0_WP)
    assert raised(cpu) == (PF, 3, "`mov dword ptr [rbx], eax` writes 0x5000, which is read-only: its PTE has RW=0")


def test_ring_3_and_the_kernels_pages():
    cpu, ram = long_cpu(bytes.fromhex("8b 03"), rbx=0x5000)
    cpu = in_ring_3(cpu)
    map_page(ram, CODE, CODE | 7)
    assert raised(cpu) == (PF, 5, "`mov eax, dword ptr [rbx]` reads 0x5000, which is the kernel's: its PTE has US=0")
    map_page(ram, 0x5000, 0x5000 | 5)
    assert raised(cpu) is None


def test_supervisor_mode_protection():
    cpu, ram = long_cpu(bytes.fromhex("8b 03"), rbx=0x5000)
    map_page(ram, 0x5000, 0x5000 | 7)
    found = raised(change(cpu, cr4=cpu.system.cr4 | CR4_SMAP))
    assert found[:2] == (PF, 1)
    assert found[2].endswith("which is ring 3's: CR4.SMAP forbids ring 0 to touch it")
    map_page(ram, CODE, CODE | 7)
    found = raised(change(cpu, cr4=cpu.system.cr4 | CR4_SMEP))
    assert found[:2] == (PF, 0x11)
    assert found[2].endswith("which is ring 3's: CR4.SMEP forbids ring 0 to execute it")


def test_no_execute():
    cpu, ram = long_cpu(b"\x90")
    map_page(ram, CODE, 1 << 63 | CODE | 3)
    cpu = change(cpu, efer=cpu.system.efer | EFER_NXE)
    assert raised(cpu) == (
        PF, 0x11, "the CPU is to execute at 0x8000, which must not be executed: its PTE has NX=1",
    )  # fmt: skip


def test_code_that_is_not_there():
    cpu, _ = long_cpu(rip=NOWHERE)
    assert raised(cpu) == (PF, 0, "the CPU is to execute at 0x10000000000, which is not mapped")
    cpu, _ = long_cpu(rip=1 << 63)
    assert raised(cpu) == (GP, 0, "the CPU is to execute at 0x8000000000000000, which is not a canonical address")


def test_page_tables_that_are_not_there():
    cpu, _ = long_cpu()
    where = "the CPU is to execute at 0x8000, whose page tables are not in RAM"
    assert raised(change(cpu, cr3=0x108000)) == (PF, 0, f"{where}: CR3 is 0x108000")
    cpu, ram = long_cpu()
    ram.write_int(TABLES, 8, 1 << 39 | 3)
    assert raised(cpu) == (PF, 0, f"{where}: its PML4E is 0x8000000003")


def test_an_instruction_that_runs_into_the_next_page():
    cpu, ram = long_cpu(rip=0x6FFE)
    ram.write(0x6FFE, bytes.fromhex("48 b8"))  # mov rax, and eight bytes that are elsewhere
    map_page(ram, 0x7000, 0)
    assert raised(cpu) == (PF, 0, "the instruction reaches into 0x7000, which is not mapped")


def test_mapped_addresses_without_ram_are_not_judged():
    cpu, _ = long_cpu(rip=RAM + 0x1000)
    assert raised(cpu) is None


# Opcodes and privilege


@pytest.mark.parametrize(
    ("code", "vector", "does"),
    [
        ("0f 0b", UD, "`ud2` is the instruction that is invalid on purpose"),
        ("06 06 06", UD, "the bytes 06 06 06"),  # push es: gone in 64-bit mode
        ("f1", DB, "is a debug trap"),
    ],
)
def test_invalid_opcodes(code, vector, does):
    found = of(code)
    assert found[:2] == (vector, None)
    assert does in found[2]


@pytest.mark.parametrize(
    ("code", "system", "vector", "does"),
    [
        ("0f 58 c0", {"cr4": 0x20}, UD, "is an SSE instruction, and CR4.OSFXSR is not set"),
        ("0f 58 c0", {"cr0": 0x80000001 | CR0_EM}, UD, "is an SSE instruction, and CR0.EM is set"),
        ("0f 58 c0", {"cr0": 0x80000001 | CR0_TS}, NM, "uses the FPU's registers, and CR0.TS is set"),
        ("d9 e8", {"cr0": 0x80000001 | CR0_EM}, NM, "uses the FPU, and CR0.EM is set"),
        ("0f 05", {}, UD, "`syscall` needs EFER.SCE, which is not set"),
    ],
)
def test_features_that_are_off(code, system, vector, does):
    cpu, _ = long_cpu(bytes.fromhex(code))
    found = raised(change(cpu, **system))
    assert found[:2] == (vector, None)
    assert does in found[2]


@pytest.mark.parametrize("code", ["f4", "0f 01 10", "0f 22 d8", "0f 20 c0", "0f 30", "0f 09", "0f 01 f8", "0f 23 c0"])
def test_privileged_instructions(code):
    cpu, ram = long_cpu(bytes.fromhex(code), rax=0x5000)
    cpu = in_ring_3(cpu)
    map_page(ram, CODE, CODE | 7)
    vector, error_code, why = raised(cpu)
    assert (vector, error_code) == (GP, 0)
    assert why.endswith("is for ring 0 only, and the CPU is in ring 3")


def test_ports_in_ring_3():
    cpu, ram = long_cpu(bytes.fromhex("e4 60"))
    cpu = in_ring_3(cpu)
    map_page(ram, CODE, CODE | 7)
    ram.write_int(TSS + 0x66, 2, 0x68)  # behind the limit: there is no I/O permission bit map
    assert raised(cpu) == (GP, 0, "`in al, 0x60` uses port 0x60, which ring 3 may not")
    allowed = replace(cpu, registers=replace(cpu.registers, rflags=2 | 3 << 12))
    assert raised(allowed) is None
    ram.write(TSS + 0x68, b"\xff" * 12 + b"\xfe" + b"\xff" * 8)
    cpu = change(cpu, tr=replace(cpu.system.tr, limit=0x68 + 20))
    assert raised(cpu) is None
    ram.data[TSS + 0x68 + 12] = 0xFF
    assert raised(cpu)[0] == GP


def test_cli_in_ring_3():
    cpu, ram = long_cpu(b"\xfa")
    map_page(ram, CODE, CODE | 7)
    assert raised(in_ring_3(cpu))[:2] == (GP, 0)


# Arithmetic


@pytest.mark.parametrize(
    ("code", "registers", "does"),
    [
        ("f7 f1", {"rcx": 0, "rax": 1}, "`div ecx` divides by zero"),
        ("f7 f1", {"rcx": 1 << 32, "rax": 1}, "`div ecx` divides by zero"),  # only the low half counts
        ("f7 f1", {"rcx": 2, "rdx": 2}, "the quotient does not fit into 32 bits"),
        ("f6 f1", {"rcx": 1, "rax": 0x100}, "does not fit into 8 bits"),
        ("f7 f9", {"rcx": 0xFFFFFFFF, "rax": 1 << 31, "rdx": 0xFFFFFFFF}, "`idiv ecx` divides, and the quotient"),
        ("48 f7 f1", {"rcx": 5, "rdx": 5}, "does not fit into 64 bits"),
    ],
)
def test_division(code, registers, does):
    vector, error_code, why = of(code, **registers)
    assert (vector, error_code) == (DE, None)
    assert does in why


@pytest.mark.parametrize(
    "registers",
    [
        {"rcx": 0xFFFFFFFF, "rax": 0x80000001, "rdx": 0xFFFFFFFF},  # -(2**31 - 1) / -1
        {"rcx": 1, "rax": 1 << 31, "rdx": 0xFFFFFFFF},  # -2**31 / 1
    ],
)
def test_signed_division_that_fits(registers):
    assert of("f7 f9", **registers) is None


def test_alignment():
    assert of("0f 28 03", rbx=0x5008) == (
        GP, 0, "`movaps xmm0, xmmword ptr [rbx]` uses 0x5008, which is not a multiple of 16",
    )  # fmt: skip
    assert of("0f 10 03", rbx=0x5008) is None  # movups


# Segments and far transfers


@pytest.mark.parametrize(
    ("code", "registers", "vector", "error_code", "does"),
    [
        (
            "8e d8",
            {"rax": 0x48},
            GP,
            0x48,
            "loads ds with 0x48, which is beyond the GDT, whose limit is 0x37 and whose base is 0x1000",
        ),
        (
            "8e d8",
            {"rax": 0x28},
            GP,
            0x28,
            "loads ds with 0x28, and that GDT entry is empty: the GDT is at 0x1000, limit 0x37",
        ),
        ("8e d0", {"rax": 0x08}, GP, 0x08, "loads ss with 0x8 (64-bit code, ring 0), which is no stack of ring 0"),
        ("8e d0", {"rax": 0x1B}, GP, 0x18, "loads ss with 0x1b (data, ring 3), which is no stack of ring 0"),
        ("8e d8", {"rax": 0x13}, GP, 0x10, "loads ds with 0x13 (data, ring 0), which ring 0 must not use"),
        ("0f 00 d8", {"rax": 0}, GP, 0, "loads TR with the null selector"),
        ("0f 00 d8", {"rax": 0x10}, GP, 0x10, "loads TR with 0x10 (data, ring 0)"),
    ],
)
def test_selectors(code, registers, vector, error_code, does):
    found = of(code, **registers)
    assert found[:2] == (vector, error_code)
    assert does in found[2]


def test_segments_that_are_not_present():
    cpu, ram = long_cpu(bytes.fromhex("8e d8"), rax=0x30)
    ram.write_int(0x1030, 8, 0x00CF13000000FFFF)
    assert raised(cpu)[:2] == (NP, 0x30)
    cpu, ram = long_cpu(bytes.fromhex("8e d0"), rax=0x30)
    ram.write_int(0x1030, 8, 0x00CF13000000FFFF)
    assert raised(cpu)[:2] == (SS, 0x30)


def test_a_tss_that_is_busy():
    cpu, ram = long_cpu(bytes.fromhex("0f 00 d8"), rax=0x28)
    ram.write_int(0x1028, 8, 0x00008B0040000067)
    vector, error_code, why = raised(cpu)
    assert (vector, error_code) == (GP, 0x28)
    assert why.endswith("(busy TSS, ring 0): a TSS can be loaded only once")
    ram.write_int(0x1028, 8, 0x0000890040000067)
    assert raised(cpu) is None


def interrupt_return(*frame):
    cpu, ram = long_cpu(bytes.fromhex("48 cf"))
    ram.write(STACK, struct.pack("<5Q", *frame))
    return raised(cpu)


def test_iretq():
    assert interrupt_return(CODE, 8, 2, STACK, 0x10) is None
    assert interrupt_return(CODE, 8, 2, STACK, 0) is None
    assert interrupt_return(CODE, 0x23, 2, STACK, 0x1B) is None
    assert interrupt_return(CODE, 0, 2, STACK, 0x10) == (
        GP,
        0,
        "`iretq` returns to code segment 0x0, the null selector",
    )
    assert interrupt_return(CODE, 0x10, 2, STACK, 0x10)[:2] == (GP, 0x10)
    assert interrupt_return(CODE, 0x23, 2, STACK, 0)[:2] == (GP, 0)
    assert interrupt_return(CODE, 0x20, 2, STACK, 0x10)[:2] == (GP, 0x20)  # ring 3's segment with RPL 0
    assert interrupt_return(1 << 63, 8, 2, STACK, 0x10)[2].endswith(
        "0x8000000000000000, which is not a canonical address"
    )


def test_far_jumps():
    cpu, ram = protected_cpu(bytes.fromhex("ea 00 80 00 00 48 00"))
    assert raised(cpu) == (
        GP, 0x48, "`ljmp 0x48:0x8000` jumps to code segment 0x48, which is beyond the GDT, whose limit is 0x37 and whose base is 0x1000",
    )  # fmt: skip
    ram.write_int(CODE + 5, 2, 0x10)
    assert raised(cpu)[2].endswith("jumps to code segment 0x10, which is data, ring 0")
    ram.write_int(CODE + 5, 2, 0x08)
    assert raised(cpu) is None
    cpu, _ = real_cpu(bytes.fromhex("ea 00 80 48 00"))
    assert raised(cpu) is None


def test_segment_limits():
    cpu, _ = protected_cpu(bytes.fromhex("8b 03"), rbx=0x5000)
    short = change(cpu, ds=replace(cpu.system.ds, limit=0x5002))
    assert raised(short) == (
        GP, 0, "`mov eax, dword ptr [ebx]` reads ds:0x5000, which is beyond the segment's limit 0x5002",
    )  # fmt: skip
    null = change(cpu, ds=replace(cpu.system.ds, unusable=1))
    assert raised(null)[2].endswith("where ds holds the null selector")
    cpu, _ = protected_cpu(bytes.fromhex("89 03"), rbx=0x5000)
    assert raised(change(cpu, ds=replace(cpu.system.ds, type=1)))[2].endswith("a segment that is read-only")
    cpu, _ = protected_cpu(rip=0x9000)
    assert raised(change(cpu, cs=replace(cpu.system.cs, limit=0x8FFF)))[2].endswith(
        "beyond the code segment's limit 0x8fff"
    )


def test_expand_down_segments():
    cpu, _ = protected_cpu(bytes.fromhex("8b 03"), rbx=0x5000)
    down = replace(cpu.system.ds, type=7, limit=0x4FFF)
    assert raised(change(cpu, ds=down)) is None
    assert raised(change(cpu, ds=replace(down, limit=0x5000)))[:2] == (GP, 0)


def test_real_mode_has_limits_too():
    found = of("8b 07", real_cpu, rbx=0xFFFF)  # mov ax, [bx]
    assert found == (GP, None, "`mov ax, word ptr [bx]` reads ds:0xffff, which is beyond the segment's limit 0xffff")
    assert of("8e d8", real_cpu, rax=0x1234) is None


# Control registers and MSRs


@pytest.mark.parametrize(
    ("code", "value", "why"),
    [
        ("0f 22 c0", 0x80000000, "PG needs PE"),
        ("0f 22 c0", 0xA0000001, "NW needs CD"),
        ("0f 22 c0", 0x11, "64-bit mode needs paging"),
        ("0f 22 c0", 1 << 32 | 0x80000011, "the upper half must be 0"),
        ("0f 22 e0", 0, "long mode needs PAE"),
        ("0f 22 d8", 1 << 45, "this CPU has not so many address bits, and CR3 takes a physical address"),
    ],
)
def test_control_registers(code, value, why):
    cpu, _ = long_cpu(bytes.fromhex(code), rax=value)
    event = next_event(cpu)
    assert (event.vector, event.error_code, event.certain) == (GP, 0, True)
    assert event.why.endswith(f": {why}")


def test_what_depends_on_the_machine_is_a_guess():
    cpu, _ = long_cpu(bytes.fromhex("0f 30"), rcx=0x12345)
    event = next_event(cpu)
    assert (event.vector, event.certain) == (GP, False)
    assert "MSR 0x12345" in event.why
    cpu, _ = long_cpu(bytes.fromhex("0f 30"), rcx=0xC0000082, rdx=0x80000000)
    event = next_event(cpu)
    assert event.certain
    assert "0x8000000000000000 is not a canonical address" in event.why


# Software interrupts, registers


def test_software_interrupts():
    cpu, _ = long_cpu(bytes.fromhex("cd 80"))
    event = next_event(cpu)
    assert (event.vector, event.kind, event.name) == (0x80, EventKind.SOFTWARE, "software interrupt 0x80")
    cpu, _ = long_cpu(b"\xcc")
    assert (next_event(cpu).vector, next_event(cpu).kind) == (BP, EventKind.SOFTWARE)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rax", 0x1122334455667788), ("eax", 0x55667788), ("ax", 0x7788), ("al", 0x88), ("ah", 0x77), ("r9", 0xAABBCCDD99),
     ("r9d", 0xBBCCDD99), ("r9w", 0xDD99), ("r9b", 0x99), ("sil", 0x21), ("esi", 0x4321), ("ds", 0x10), ("cr3", TABLES),
     ("rip", CODE)],
)  # fmt: skip
def test_registers_by_name(name, value):
    cpu, _ = long_cpu(rax=0x1122334455667788, r9=0xAABBCCDD99, rsi=0x4321)
    assert read_register(cpu, name) == value


def test_registers_that_are_not_known():
    cpu, _ = long_cpu()
    with pytest.raises(Unreadable):
        read_register(cpu, "xmm0")
    assert raised(change(cpu, idt=replace(cpu.system.idt, base=IDT))) is not None


# What a far jump may go to besides code: SDM volume 3A, 5.8.2, and volume 2A, JMP


def system_descriptor(kind, selector=8, present=1, dpl=0):
    return struct.pack("<HHHH", 0x8000, selector, present << 15 | dpl << 13 | kind << 8, 0)


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        (system_descriptor(12), None),  # a call gate to sound code
        (system_descriptor(9), None),  # a TSS
        (bytes(8), (GP, 0x28, "and that GDT entry is empty: the GDT is at 0x1000, limit 0x37")),
        (system_descriptor(11), (GP, 0x28, "code segment 0x28, which is busy TSS, ring 0")),
        (system_descriptor(2), (GP, 0x28, "which is LDT, ring 0")),
        (system_descriptor(14), (GP, 0x28, "which is interrupt gate, ring 0")),
        (system_descriptor(12, present=0), (NP, 0x28, "which is marked not present")),
        (system_descriptor(12, 0x30), (GP, 0x30, "which names 0x30, and that GDT entry is empty")),
        (system_descriptor(12, 0x10), (GP, 0x10, "which names 0x10, which is data, ring 0")),
        (system_descriptor(12, 0x48), (GP, 0x48, "which names 0x48, which is beyond the GDT")),
        (system_descriptor(5, 0x10), (GP, 0x10, "which names 0x10, which is data, ring 0")),
    ],
)
def test_far_jumps_to_system_descriptors(descriptor, expected):
    cpu, ram = protected_cpu(bytes.fromhex("ea 00 80 00 00 28 00"))
    ram.write(0x1028, descriptor)
    found = raised(cpu)
    assert (found if found is None else found[:2]) == (expected if expected is None else expected[:2])
    assert expected is None or expected[2] in found[2]


def test_in_long_mode_a_far_jump_goes_to_no_task():
    cpu, ram = long_cpu(bytes.fromhex("ff 2b"), rbx=0x5000)
    ram.write(0x5000, bytes.fromhex("00800000 2800"))
    ram.write(0x1028, system_descriptor(9))
    assert raised(cpu)[:2] == (GP, 0x28)


@pytest.mark.parametrize(
    ("code", "does"),
    [
        ("0f b2 23", "loads ss with 0x28, and that GDT entry is empty"),  # lss esp, [ebx]
        ("c5 03", "loads ds with 0x28, and that GDT entry is empty"),
        ("0f b4 03", "loads fs with 0x28, and that GDT entry is empty"),
        ("0f 00 d1", "loads LDTR with 0x28, and that GDT entry is empty"),  # lldt cx
        ("0f 00 d9", "loads TR with 0x28, and that GDT entry is empty"),
    ],
)
def test_selectors_of_empty_entries(code, does):
    cpu, ram = protected_cpu(bytes.fromhex(code), rbx=0x5000, rcx=0x28)
    ram.write(0x5000, bytes.fromhex("00900000 2800"))
    vector, error_code, why = raised(cpu)
    assert (vector, error_code) == (GP, 0x28)
    assert does in why


def test_a_gdt_that_cannot_be_read():
    cpu, _ = long_cpu(bytes.fromhex("8e d8"), rax=0x10)
    cpu = change(cpu, gdt=replace(cpu.system.gdt, base=NOWHERE))
    vector, _, why = raised(cpu)
    assert vector == PF
    assert why == (
        "`mov ds, eax` loads ds with 0x10, and the GDT cannot be read: its base is 0x10000000000 (limit 0x37), "
        "and 0x10000000010 is not mapped"
    )


def test_frames_that_iret_misses():
    frame = struct.pack("<5Q", CODE, 8, 0x246, STACK - 0x80, 0x10)
    for before, code, words in (
        (
            struct.pack("<Q", 2),
            "48 cf",
            "`iretq` takes 0x2 for RIP, most likely an error code that is still on the stack: it returns",
        ),
        (b"", "cf", "`iretd` takes words of 32 bits where the CPU has pushed 64: `iretq` is meant: it returns to"),
    ):
        cpu, ram = long_cpu(bytes.fromhex(code), rsp=STACK - 0x100)
        ram.write(STACK - 0x100, before + frame)
        assert words in raised(cpu)[2]
    cpu, ram = long_cpu(bytes.fromhex("48 cf"), rsp=STACK - 0xF8)
    ram.write(STACK - 0x100, frame)
    assert "takes CS for RIP: a word too much was taken from the stack" in raised(cpu)[2]
