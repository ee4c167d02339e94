"""Variables and types out of debug information that gcc writes in its several ways, and out of files that are none."""

from __future__ import annotations

import random
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from pykvm import ConfigError
from pykvm.testing.dwarf import Scalar, debug_info
from pykvm.testing.variables import Names
from pykvm.x86.symbols import SymbolTable

SOURCE = """
typedef unsigned char byte;
enum colour { RED = -1, GREEN = 4 };
struct node { struct node *next; const volatile int value; union { short low; byte raw[4]; }; };
struct bits { unsigned a : 3, b : 7; int c : 5; long long d : 33; };
struct bits bits;
enum colour colour;
float f; double g; _Bool flag; char text[8]; signed char numbers[3]; int matrix[2][3]; byte bytes[5];
struct node first; struct node *const head = &first; void *nothing; void (*function)(int);
extern int declared; int declared;
static int hidden;
long long takes(char a, struct node *b, short c) { hidden++; return a + c + b->value; }
void _start(void) { takes(1, &first, 2); }
"""


class Bytes:
    """Memory that is all of `content`, from `base` on."""

    def __init__(self, base: int, content: bytes) -> None:
        self.base, self.content = base, bytearray(content)

    def read_memory(self, address: int, size: int) -> bytes:
        at = address - self.base
        if not 0 <= at <= len(self.content) - size:
            raise ConfigError("nothing there")
        return bytes(self.content[at : at + size])

    def write_memory(self, address: int, data: bytes) -> None:
        at = address - self.base
        self.content[at : at + len(data)] = data


def compiled(directory: Path, *flags: str) -> bytes:
    source, program = directory / "it.c", directory / "it.elf"
    source.write_text(SOURCE)
    command = ["gcc", "-g", "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-Wl,--build-id=none"]
    subprocess.run([*command, *flags, "-o", program, source], check=True)
    return program.read_bytes()


WAYS = [
    ("-gdwarf-5",),
    ("-gdwarf-4",),
    ("-gdwarf-3",),
    ("-gdwarf-2", "-gno-strict-dwarf"),
    ("-m32",),
    ("-m32", "-gdwarf-2"),
]


@pytest.fixture(scope="module", params=WAYS, ids=" ".join)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("dwarf"), *request.param)


def names_of(image: bytes) -> tuple[Names, Bytes]:
    symbols = SymbolTable(image)
    places = [symbol.address for symbol in symbols if symbol.name not in ("_start", "takes")]
    low = min(places) & ~0xFFF
    memory = Bytes(low, bytes(max(places) - low + 0x100))
    return Names(memory, symbols), memory


def test_what_is_written_is_read(image: bytes) -> None:
    names, memory = names_of(image)

    def check(what: str, value: object, raw: bytes | None = None) -> None:
        variable = names.variable(what)
        variable.value = value
        assert names.variable(what).value == value
        if raw is not None:
            assert memory.read_memory(variable.address, len(raw)) == raw

    check("colour", -1, b"\xff\xff\xff\xff")
    assert names.variable("colour").value.name == "RED"
    check("f", 1.5, b"\0\0\xc0\x3f")
    check("g", -2.0, b"\0\0\0\0\0\0\0\xc0")
    check("flag", True, b"\1")
    check("text", "seven", b"seven\0")
    check("numbers", [-1, 0, 127], b"\xff\0\x7f")
    check("matrix", [[1, 2, 3], [4, 5, -6]])
    check("matrix[1][2]", 7)
    check("bytes", b"12345")
    check("first", {"next": 8, "value": -3, "low": 0x201, "raw": b"\1\2\0\0"})
    check("declared", 9)
    check("hidden", -9)
    check("bits.a", 5)
    check("bits.b", 127)
    check("bits.c", -16)
    check("bits.d", -(1 << 32))
    assert names.variable("bits").value == {"a": 5, "b": 127, "c": -16, "d": -(1 << 32)}
    check("bits.b", 0)
    assert names.variable("bits").value == {"a": 5, "b": 0, "c": -16, "d": -(1 << 32)}
    first = names.address("first")
    names.variable("head").value = first
    check("head->value", 1234)
    check("first.next", first)
    assert names.variable("head->next->next->value").value == 1234
    with pytest.raises(ConfigError, match="no pointer to a value"):
        names.variable("*nothing")
    assert names.variable("function").size == (4 if image[4] == 1 else 8)


def test_signatures(image: bytes) -> None:
    names, _ = names_of(image)
    signature = names.signature("takes")
    assert signature is not None
    assert signature.result == Scalar(8, "signed")
    assert [kind.size for kind in signature.parameters] == [1, 4 if image[4] == 1 else 8, 2]
    nothing = names.signature("_start")
    assert nothing is not None
    assert nothing.result is None


def test_without_debug_information_a_symbols_size_says_something(tmp_path: Path) -> None:
    names, _ = names_of(compiled(tmp_path, "-g0"))
    names.variable("declared").value = 0xFFFFFFFF
    assert names.variable("declared").value == 0xFFFFFFFF
    assert names.variable("bytes").value == bytes(5)
    with pytest.raises(ConfigError, match="no symbol 'declard': did you mean 'declared'"):
        names.variable("declard")


def test_compressed_debug_information_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compressed"):
        debug_info(SymbolTable(compiled(tmp_path, "-gz=zlib"))).variable("f")


def test_a_file_that_lies_raises_nothing_else(tmp_path: Path) -> None:
    """As a fuzzer would: bytes of the debug information are changed, and everything is asked for."""
    image, chance = compiled(tmp_path, "-gdwarf-5"), random.Random(5)
    start = image.index(b"DWARF") if b"DWARF" in image else len(image) // 2
    for _ in range(60):
        broken = bytearray(image)
        for _ in range(chance.randrange(1, 6)):
            broken[chance.randrange(start if chance.random() < 0.5 else 0x40, len(broken))] = chance.randrange(256)
        symbols = SymbolTable(bytes(broken))
        names = Names(Bytes(0, bytes(0x10000)), symbols)
        for name in ("bits", "first", "head->next->value", "matrix", "colour", "text"):
            with suppress(ConfigError):
                repr(names.variable(name).value)
        for name in ("takes", "_start"):
            with suppress(ConfigError):
                names.signature(name)
