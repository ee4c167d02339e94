"""MSRs answered in Python: the guest writes MSR 0x1234, reads it back, and exits with what it read."""

from pykvm import GeneralProtection, Machine

# 32-bit code
GUEST = bytes.fromhex(
    "b934120000"  # mov ecx, 0x1234
    "b805000000 31d2"  # edx:eax = 5
    "0f30"  # wrmsr
    "0f32"  # rdmsr
    "e6f4 f4"  # out 0xF4, al; hlt
)

written = []

with Machine(GUEST, mode=32) as machine:

    @machine.msr(0x1234)
    def model_specific(value: int | None) -> int:
        """`value` is what the guest writes, or None when it reads."""
        if value is not None:
            if value > 100:
                raise GeneralProtection  # the guest gets #GP
            written.append(value)
            return 0
        return sum(written) + 1

    outcome = machine.run(timeout=5)
    print(f"the guest wrote {written} and read {outcome.value}")
    assert outcome.value == 6
