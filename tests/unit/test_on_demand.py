"""A device that is made at the first access."""

from __future__ import annotations

import pytest

from pykvm.device import Device, OnDemand, Range, State


class Register(Device):
    name, ports, width = "register", (Range(0x10, 4),), 2

    def __init__(self) -> None:
        self.value = 7

    def read(self, offset: int, size: int) -> int:
        return self.value + offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return f"{register} is {value}"

    def save(self) -> State:
        return {"value": self.value}

    def restore(self, state: State) -> None:
        if type(state.get("value")) is not int:
            raise ValueError("register: no value")
        self.value = state["value"]


def on_demand() -> tuple[OnDemand, list[Register]]:
    made: list[Register] = []

    def make() -> Register:
        made.append(Register())
        return made[-1]

    return OnDemand("register", make, ports=Register.ports, width=2), made


def test_it_is_made_by_the_first_access_and_has_no_state_before() -> None:
    device, made = on_demand()
    assert (device.name, device.ports, device.mmio, device.width) == ("register", Register.ports, (), 2)
    device.reset()
    device.restore({})
    assert (device.save(), made) == ({}, [])
    assert device.read(1, 1) == 8
    assert (len(made), device.save()) == (1, {"value": 7})
    device.write(0, 2, 9)
    device.write_block(0, 1, b"\3\5")
    assert (device.read_block(2, 1, 2), device.save(), device.device) == (b"\7\7", {"value": 5}, made[0])
    assert device.explain(device.register_name(0, 1, None), 3, False) == "+0x0 is 3"
    assert len(made) == 1


def test_state_goes_back_to_what_it_was_before_the_first_access() -> None:
    device, made = on_demand()
    device.restore({"value": 9})
    assert (len(made), device.save()) == (1, {"value": 9})
    device.restore({})
    assert device.save() == {"value": 7}
    device.write(0, 1, 1)
    device.reset()
    assert device.save() == {"value": 7}
    with pytest.raises(ValueError, match="no value"):
        device.restore({"value": None})
