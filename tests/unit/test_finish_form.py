"""What of a guest's bytes is executed on the host's CPU: the very instruction with another operand, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pykvm.finish.allowed import FEATURE_OF, FEATURES
from pykvm.finish.form import form_of


@pytest.mark.parametrize(
    ("code", "bits", "name", "host"),
    [
        ("0f57c0", 64, "xorps", "0f57c0"),
        ("0f584424fc", 64, "addps", "0f5803"),  # rsp-4
        ("0f5804c5aabbccdd", 32, "addps", "0f5803"),
        ("0f5807", 16, "addps", "0f5803"),  # bx
        ("f3440f10a3aabbccdd", 64, "movss", "f3440f1023"),
        ("f30fb8c1", 16, "popcnt", "66f30fb8c1"),  # the operand size of 16-bit code
        ("66f30fb8c1", 16, "popcnt", "f30fb8c1"),
        ("f30fb8e0", 64, "popcnt", "f30fb8d8"),  # esp is rbx here
        ("660f6ee4", 32, "movd", "660f6ee3"),  # xmm4 is not
        ("f0480fc70f", 64, "cmpxchg16b", "f0480fc70e"),  # rdi is the guest's: rsi is not among what it uses
        ("dd33", 16, "fnsave", "66dd33"),
        ("c4e258f2e1", 32, "andn", "c4e260f2d9"),  # esp twice
        ("0fc2c101", 64, "cmpps", "0fc2c101"),
        ("9b", 64, "wait", "9b"),
    ],
)
def test_forms(code: str, bits: int, name: str, host: str) -> None:
    form = form_of(bytes.fromhex(code) + b"\x90" * 4, bits)
    assert form is not None
    assert (form.name, form.code.hex(), form.length) == (name, host, len(code) // 2)


@pytest.mark.parametrize(
    ("code", "size", "writes"),
    [
        ("0f5800", 16, False), ("660f7e00", 4, True), ("f30f7e00", 8, False), ("660fd600", 8, True), ("0fe700", 8, True),
        ("660f3a140001", 1, True), ("660f3a170001", 4, True), ("dd00", 8, False), ("db38", 10, True), ("d930", 28, True),
        ("66d930", 14, True), ("d938", 2, True), ("dd20", 108, False), ("0fae00", 512, True), ("0fae18", 4, True),
        ("660f382000", 8, False), ("660f382100", 4, False), ("f20f1200", 8, False), ("c5fd5a00", 32, False),
        ("c4e37d1d0001", 16, True), ("c4e37d390001", 16, True), ("0f38f100", 4, True), ("480fc708", 16, True),
    ],
)  # fmt: skip
def test_operands(code: str, size: int, writes: bool) -> None:
    form = form_of(bytes.fromhex(code), 64)
    assert form is not None
    assert form.address is not None
    assert (form.address.size, form.address.writes) == (size, writes)


@pytest.mark.parametrize(
    "code",
    [
        "0f05", "0f34", "0f0b", "cd80", "f4", "0f01d0", "0f01f8", "0f30", "0f20c0", "0f22d8", "8ed8", "c3", "e800000000",
        "ebfe", "0f8400000000", "f3a4", "0fae20", "0fae28", "0fc718", "f30faed8", "f30faec0", "0f01d5", "f3480fc7f0",
        "c4e2799204c8", "660ff7c1", "0ff7c1", "62f17c4858c0", "f00f58c0", "0fae38", "66c5f858c0",
        "66f3480fb8c1", "48890424", "f3c7f800000000", "0fa2", "0f31", "6690", "",
    ],
)  # fmt: skip
def test_nothing_else_is_executed(code: str) -> None:
    for bits in (16, 32, 64):
        form = form_of(bytes.fromhex(code) + b"\x90" * 4, bits)
        assert form is None or form.length < len(code) // 2 or form.name in FEATURE_OF
    assert form_of(bytes.fromhex(code), 64) is None


@given(st.binary(min_size=1, max_size=15), st.sampled_from([16, 32, 64]))
@example(bytes.fromhex("66480fae38"), 64)
def test_any_bytes_are_refused_or_on_the_list(code: bytes, bits: int) -> None:
    form = form_of(code, bits)
    if form is not None:
        assert form.name in FEATURE_OF
        assert set(form.features) <= set(FEATURES)
        assert len(form.code) <= 15
        assert (form.address is None) == (form.base == -1)
        assert form.base != 4
        again = form_of(form.code, 64)
        assert again is not None
        assert again.name == form.name


def test_every_feature_has_its_bit() -> None:
    assert set(FEATURE_OF.values()) <= set(FEATURES)
