"""Slips in a program: each is told at its place, with what to write instead."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers import HALT, flat

from pykvm import ConfigError, Device, Machine
from pykvm.net.loopback import Loopback


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"disks": "disk.img"}, "write disks=['disk.img']"),
        ({"disks": 1}, "write disks=[1]"),
        ({"nics": Loopback()}, "write nics=["),
        ({"modules": b"module"}, "write modules=[b'module']"),
        ({"cpus": "2"}, "cpus='2' is no whole number: write cpus=2"),
        ({"cpus": 1.0}, "cpus=1.0 is no whole number"),
        ({"serial_ports": None}, "serial_ports=None is no whole number"),
        ({"memory": 512}, 'memory=512 is 512 bytes: did you mean "512M"?'),
        ({"memory": 8192}, 'did you mean "8192M"?'),
        ({"memory": 64.0}, '64.0 is not a size: give a number of bytes, or text such as "64M"'),
        ({"memory": None}, "None is not a size"),
    ],
)
def test_an_argument_of_a_wrong_kind(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Machine(HALT, format="flat", mode=64, **options)


@pytest.mark.parametrize("name", ["port", "mmio_range", "msr"])
def test_a_decorator_without_parentheses(name: str) -> None:
    def handler(access: object) -> int:
        return 0

    with flat(HALT) as machine, pytest.raises(ConfigError, match=rf"write @machine\.{name}\(0x100\)"):
        getattr(machine, name)(handler)


@pytest.mark.parametrize("address", [(0x100, 4), "0x100", 1.0])
def test_an_address_that_is_no_number(address: Any) -> None:
    with flat(HALT) as machine, pytest.raises(ConfigError, match=r"@machine\.port takes a number, not "):
        machine.port(address)


def test_a_time_that_is_no_number() -> None:
    with flat(HALT) as machine, pytest.raises(ConfigError, match="timeout='5' is no number of seconds"):
        machine.run("5")  # type: ignore[arg-type]


def test_a_second_handler_for_one_msr() -> None:
    with flat(HALT) as machine:
        machine.msr(0x123)(lambda _: 1)
        with pytest.raises(ConfigError, match="MSR 0x123 has a handler"):
            machine.msr(0x123)(lambda _: 2)


def test_a_handler_for_an_msr_after_the_start() -> None:
    with flat(HALT) as machine:
        machine.run(10)
        with pytest.raises(ConfigError, match="before the start"):
            machine.msr(0x123)


@pytest.mark.parametrize("where", ["ports", "mmio"])
@pytest.mark.parametrize("spans", [[(0x100, 4)], (0x100, 4), [0x100]])
def test_ranges_that_are_none(where: str, spans: Any) -> None:
    device = Device()
    setattr(device, where, spans)
    with flat(HALT) as machine, pytest.raises(ConfigError, match=rf"write {where} = \[Range\(0x100, 4\)\]"):
        machine.add(device)


@pytest.mark.parametrize(("pattern", "words"), [(re.compile("a+"), "write re.compile(b'a+')"), (7, "7 cannot be")])
def test_a_pattern_for_text(pattern: Any, words: str) -> None:
    with flat(HALT) as machine, pytest.raises(ConfigError, match=re.escape(words)):
        machine.serial.wait_for(pattern, 1)
