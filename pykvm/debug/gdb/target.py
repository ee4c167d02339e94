"""The target description: which registers the target has, as XML for gdb.

Source: "Debugging with GDB", appendix G (target descriptions). The bits of flag registers are from Intel SDM volume 1,
3.4.3 (EFLAGS) and 10.2.3 (MXCSR), volume 3A, 2.5 (control registers) and 2.2.1 (EFER).
"""

from __future__ import annotations

from functools import cache
from xml.sax.saxutils import quoteattr

from .registers import layout

_EFLAGS = {
    "CF": 0, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11, "NT": 14, "RF": 16, "VM": 17,
    "AC": 18, "VIF": 19, "VIP": 20, "ID": 21,
}  # fmt: skip
_CR0 = {"PE": 0, "MP": 1, "EM": 2, "TS": 3, "ET": 4, "NE": 5, "WP": 16, "AM": 18, "NW": 29, "CD": 30, "PG": 31}
_CR4 = {
    "VME": 0, "PVI": 1, "TSD": 2, "DE": 3, "PSE": 4, "PAE": 5, "MCE": 6, "PGE": 7, "PCE": 8, "OSFXSR": 9,
    "OSXMMEXCPT": 10, "UMIP": 11, "LA57": 12, "VMXE": 13, "SMXE": 14, "FSGSBASE": 16, "PCIDE": 17, "OSXSAVE": 18,
    "SMEP": 20, "SMAP": 21, "PKE": 22, "CET": 23, "PKS": 24,
}  # fmt: skip
_EFER = {"SCE": 0, "LME": 8, "LMA": 10, "NXE": 11, "SVME": 12, "LMSLE": 13, "FFXSR": 14}
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
        "org.gnu.gdb.i386.core": [_flags("i386_eflags", 4, _EFLAGS)],
        "org.gnu.gdb.i386.sse": [*_vectors(), _flags("i386_mxcsr", 4, _MXCSR)],
        "org.pykvm.system": [_flags("cr0", wide, _CR0), _flags("cr4", wide, _CR4), _flags("efer", 8, _EFER)],
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
