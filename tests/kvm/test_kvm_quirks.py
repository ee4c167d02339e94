"""What is found out about this host's KVM by trying agrees with what machines meet."""

from __future__ import annotations

from helpers import LIMIT, flat, hexcode

from pykvm.kvm import quirks
from pykvm.kvm.vcpu import GUESTDBG_ENABLE, GUESTDBG_USE_HW_BP, Exit


def test_where_rip_is_after_an_out() -> None:
    with flat(hexcode("e6 80 f4")) as machine:
        vcpu = machine.vcpus[0]
        before = vcpu.get_registers().rip
        vcpu.enter()
        assert quirks.out_moves_rip() == (vcpu.get_registers().rip != before)


def test_data_breakpoints() -> None:
    with flat(hexcode("a2 00 05 e6 f4"), 16) as machine:
        vcpu = machine.vcpus[0]
        vcpu.set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_USE_HW_BP, [0x500], 0x10402)
        assert quirks.data_breakpoints_work() == (vcpu.enter() == Exit.DEBUG)


def test_each_is_tried_once() -> None:
    for probe in (quirks.data_breakpoints_work, quirks.out_moves_rip):
        probe()
        misses = probe.cache_info().misses
        probe()
        assert probe.cache_info().misses == misses == 1


def test_nothing_is_tried_unless_asked() -> None:
    for probe in (quirks.data_breakpoints_work, quirks.out_moves_rip, quirks.int3_works):
        probe.cache_clear()
    with flat(hexcode("b0 03 e6 f4")) as machine:
        assert machine.run(LIMIT).code == 7
    for probe in (quirks.data_breakpoints_work, quirks.out_moves_rip, quirks.int3_works):
        assert probe.cache_info().misses == 0
