"""A Linux that has booted goes on in other machines: two CPUs, kvmclock, local APIC timers, ACPI, user space."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_boot_formats import INIT_TEXT, LINUX_LIMIT, initrd, vmlinux

from pykvm import Ending, Machine, boot
from pykvm.snapshot import Snapshot
from pykvm.snapshot.trigger import Moment, snapshot_at


@pytest.mark.needs("ring0-sse", "ring0-x87")
def test_linux_goes_on_from_the_middle_of_a_system_call(tmp_path: Path) -> None:
    options = boot.Options(
        command_line="console=ttyS0 panic=-1 quiet", modules=[boot.Module(initrd())], cpus=2
    )  # fmt: skip
    said = INIT_TEXT[:7]
    with Machine(memory="256M", cpus=2) as machine:
        machine.load(vmlinux(), options, "linux")

        def save(snapshot: Snapshot) -> None:
            snapshot.save(tmp_path / "linux.pykvm")
            machine.request_stop("saved")

        with machine.lock:
            snapshot_at(machine, Moment(text=said), save)
        assert machine.run(LINUX_LIMIT).reason == "saved"
        assert machine.serial.output.endswith(said)
    loaded = Snapshot.load(tmp_path / "linux.pykvm")
    with loaded.fork() as fork:
        for _ in range(2):
            outcome = fork.run(LINUX_LIMIT)
            assert (outcome.ending, outcome.code) == (Ending.EXITED, 0)
            assert INIT_TEXT.decode() in fork.serial.text
            assert "panic" not in fork.serial.text
            fork.restore(loaded)
            assert fork.serial.output.endswith(said)
