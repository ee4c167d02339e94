"""A CPUID leaf of your own: the guest asks for leaf 0x40000100 and exits with what it finds in EBX."""

from pykvm import Machine
from pykvm.x86.cpuid import set_leaf

# 32-bit code
GUEST = bytes.fromhex(
    "b800010040"  # mov eax, 0x40000100
    "0fa2"  # cpuid
    "88d8 e6f4 f4"  # mov al, bl; out 0xF4, al; hlt
)

with Machine(GUEST, mode=32) as machine:
    set_leaf(machine.cpuid, 0x40000000, eax=0x40000100)  # the highest leaf of this range
    set_leaf(machine.cpuid, 0x40000100, ebx=0x2A)
    outcome = machine.run(timeout=5)
    print(f"CPUID said {outcome.value}")
    assert outcome.value == 0x2A
