"""Compressed images: gzip (RFC 1952), xz (the .xz format 1.2) and zstd (RFC 8878), unpacked with limits.

What a file declares of its size is not believed: what is allocated is counted, the window that it wants to be unpacked
with included. Several parts one behind the other are one image, as for gunzip, and what is behind them is left alone.
"""

from __future__ import annotations

from ..typed import Any
from . import ImageError

LIMIT = 256 << 20
"""Bytes of the largest image that is unpacked."""
WINDOW = 128 << 20
"""Bytes that unpacking itself may take."""
_PIECE, _PART = 64 << 10, 1 << 20
"""Bytes that are given to a decompressor, and taken of it, at a time."""

GZIP, XZ, ZSTD = b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
MAGIC = {GZIP: "gzip", XZ: "xz", ZSTD: "zstd"}
"""How they begin, and what they are called."""


def unpacked(image: bytes) -> bytes:
    """The image, or what is packed in it; ImageError if that is damaged, too large, or cannot be unpacked here."""
    magic = next((magic for magic in MAGIC if image.startswith(magic)), None)
    return image if magic is None else _unpack(image, magic)


def _unpack(image: bytes, magic: bytes) -> bytes:
    name = MAGIC[magic]
    make, errors = _decompressor(magic)
    output, at = bytearray(), 0
    unpacker = make()
    while True:
        piece = image[at : at + _PIECE] if getattr(unpacker, "needs_input", True) else b""
        at += len(piece)
        try:
            made = unpacker.decompress(piece, _PART)
        except errors as error:
            raise ImageError(f"the {name} data are damaged, or want too much memory: {error}") from error
        output += made
        if len(output) > LIMIT:
            raise ImageError(f"the {name} data unpack to more than {LIMIT >> 20} MiB: no kernel does")
        if unpacker.eof:
            at -= len(unpacker.unused_data)
            if image[at : at + len(magic)] != magic:
                return bytes(output)
            unpacker = make()
            continue
        at -= len(getattr(unpacker, "unconsumed_tail", b""))
        if not piece and not made:
            raise ImageError(f"the {name} data end in the middle")


def _decompressor(magic: bytes) -> tuple[Any, Any]:
    """What makes a decompressor, and the errors that it raises."""
    if magic == GZIP:
        import zlib

        return lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), zlib.error
    if magic == XZ:
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW), lzma.LZMAError
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: WINDOW.bit_length() - 1}
    return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError


def _zstd() -> Any:
    """Python's module from 3.14 on, or its backport."""
    from importlib import import_module

    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ImageError(
        "the image is zstd data, for which this Python needs a package: pip install backports.zstd; or unpack it "
        "first, as by: unzstd FILE"
    )
