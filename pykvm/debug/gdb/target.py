"""The target description: which registers the target has, as XML for gdb.

Source: "Debugging with GDB", appendix G (target descriptions). The bits of MXCSR are from Intel SDM volume 1,
10.2.3.
"""

from __future__ import annotations

from functools import cache
from xml.sax.saxutils import quoteattr

from ...x86.registers import CR0_BITS, CR4_BITS, EFER_BITS, RFLAGS_BITS
from .registers import layout

_MXCSR = {
    "IE": 0, "DE": 1, "ZE": 2, "OE": 3, "UE": 4, "PE": 5, "DAZ": 6, "IM": 7, "DM": 8, "ZM": 9, "OM": 10, "UM": 11,
    "PM": 12, "FZ": 15,
}  # fmt: skip
_VIEWS = {  # of a vector register: field, element, elements
    "v4_float": ("v4f", "ieee_single", 4),
    "v2_double": ("v2d", "ieee_double", 2),
    "v16_int8": ("v16i8", "int8", 16),
    "v8_int16": ("v8i16", "int16", 8),
    "v4_int32": ("v4i32", "int32", 4),
    "v2_int64": ("v2i64", "int64", 2),
}


@cache
def description(architecture: str) -> bytes:
    """The description for gdb's `architecture`."""
    wide = 8 if architecture == "i386:x86-64" else 4
    types = {
        "org.gnu.gdb.i386.core": [_flags("i386_eflags", 4, RFLAGS_BITS)],
        "org.gnu.gdb.i386.sse": [*_vectors(), _flags("i386_mxcsr", 4, _MXCSR)],
        "org.pykvm.system": [
            _flags("cr0", wide, CR0_BITS),
            _flags("cr4", wide, CR4_BITS),
            _flags("efer", 8, EFER_BITS),
        ],
    }
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        f"<architecture>{architecture}</architecture>",
    ]
    for name, registers in layout(architecture).features.items():
        lines.append(f"<feature name={quoteattr(name)}>")
        lines += types.get(name, [])
        for register in registers:
            lines.append(f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.type}"/>')
        lines.append("</feature>")
    lines.append("</target>\n")
    return "\n".join(lines).encode()


def _flags(name: str, size: int, bits: dict[str, int]) -> str:
    fields = "".join(f'<field name="{field}" start="{bit}" end="{bit}"/>' for field, bit in bits.items())
    return f'<flags id="{name}" size="{size}">{fields}</flags>'


def _vectors() -> list[str]:
    lines = [f'<vector id="{kind}" type="{element}" count="{n}"/>' for kind, (_, element, n) in _VIEWS.items()]
    fields = "".join(f'<field name="{field}" type="{kind}"/>' for kind, (field, _, _) in _VIEWS.items())
    return [*lines, f'<union id="vec128">{fields}<field name="uint128" type="uint128"/></union>']
