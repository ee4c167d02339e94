"""Builds pykvm.kvm._kvm: cffi in API mode, compiled against this machine's <linux/kvm.h>."""

from __future__ import annotations

import runpy
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
CAPABILITIES = runpy.run_path(str(HERE / "capabilities.py"))["CAPABILITIES"]
SOURCES = runpy.run_path(str(HERE / "sources.py"))["fingerprint"]()

ffibuilder = FFI()
for header in sorted((HERE / "cdef").glob("*.h")):
    ffibuilder.cdef(header.read_text())
ffibuilder.cdef("\n".join(f"#define KVM_CAP_{name} ..." for name in CAPABILITIES))
ffibuilder.cdef("static char *const SOURCES;")
ffibuilder.set_source(
    "pykvm.kvm._kvm",
    (HERE / "shim.c").read_text()
    + (HERE / "native.c").read_text()
    + "\n".join(f"#ifndef KVM_CAP_{name}\n#define KVM_CAP_{name} -1\n#endif" for name in CAPABILITIES)
    + f'\nstatic char *const SOURCES = "{SOURCES}";\n',
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(HERE.parent.parent), verbose=True)
