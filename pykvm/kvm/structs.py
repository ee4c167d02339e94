"""KVM's structures as plain data and back: by their declared fields, or as bytes where api.rst declares none.

What comes back may have been written by anybody: ValueError says what does not fit.
"""

from __future__ import annotations

from typing import Any

from ._kvm import ffi


def struct_as_plain(box: Any) -> Any:
    """The fields of a structure or array by their names, as far as they are declared; bytes for the rest."""
    kind = ffi.typeof(box)
    if kind.kind == "pointer":
        return struct_as_plain(box[0])
    if kind.kind == "array":
        return [_value(item) for item in box]
    if kind.kind == "struct" and _is_named(kind):
        return {name: _value(getattr(box, name)) for name, _ in kind.fields}
    return bytes(ffi.buffer(ffi.addressof(box)))


def _value(value: Any) -> Any:
    return value if isinstance(value, int) else struct_as_plain(value)


def _is_named(kind: Any) -> bool:
    return bool(kind.fields) and kind.cname != "struct kvm_irqchip"


def struct_from_plain(box: Any, state: Any, name: str) -> None:
    """Fill `box` with what `struct_as_plain` returned for one of its type; `name` is for the error."""
    kind = ffi.typeof(box)
    if kind.kind == "pointer":
        struct_from_plain(box[0], state, name)
    elif kind.kind == "array":
        if not isinstance(state, list) or len(state) != len(box):
            raise ValueError(f"{name} is not a list of {len(box)}")
        for at, value in enumerate(state):
            if isinstance(box[at], int):
                box[at] = checked(kind.item, value, name)
            else:
                struct_from_plain(box[at], value, f"{name}[{at}]")
    elif kind.kind == "struct" and _is_named(kind):
        fields = as_table(state, name)
        if fields.keys() != {field for field, _ in kind.fields}:
            raise ValueError(f"{name} has not the fields of {kind.cname}")
        for field, info in kind.fields:
            if info.type.kind == "primitive":
                setattr(box, field, checked(info.type, fields[field], f"{name}.{field}"))
            else:
                struct_from_plain(getattr(box, field), fields[field], f"{name}.{field}")
    else:
        raw = ffi.buffer(ffi.addressof(box))
        if type(state) is not bytes or len(state) != len(raw):
            raise ValueError(f"{name} is not {len(raw)} bytes")
        raw[:] = state


def checked(kind: Any, value: Any, name: str) -> int:
    """A number that fits an unsigned `kind`."""
    if type(value) is not int or not 0 <= value < 1 << 8 * ffi.sizeof(kind):
        raise ValueError(f"{name} is not a number of {8 * ffi.sizeof(kind)} bits")
    return value


def u64(value: Any, name: str) -> int:
    """A number of 64 bits."""
    return checked(ffi.typeof("uint64_t"), value, name)


def as_table(value: Any, name: str) -> dict[str, Any]:
    """A dict."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.40}, not a table")
    return value


def member(state: dict[str, Any], name: str, kind: type) -> Any:
    """What is in `state` under `name`, of exactly that type."""
    value = state.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name!r} is missing, or of the wrong type")
    return value
