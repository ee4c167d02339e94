"""The command line's grammar, help pages and errors, on commands made here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.cli import ui

Given = dict[str, Any]


@pytest.fixture
def calls() -> list[Given]:
    return []


@pytest.fixture
def tool(calls: list[Given]) -> ui.Command:
    """A command with one parameter of each kind, which notes what it is called with."""

    @ui.command("tool")
    @ui.argument("place", type=ui.Path())
    @ui.argument("rest", default="none")
    @ui.option("-c", "--count", type=ui.IntRange(1, 8), default=1, show_default=True, help="How many.")
    @ui.option("-t", "--time", type=ui.FloatRange(min=0, min_open=True), help="How long.")
    @ui.option(
        "-d", "--disk", "disks", multiple=True, metavar="FILE", help="What to read, and what then becomes of it."
    )
    @ui.option("--mode", type=ui.Choice(["16", "32"]), help="How wide.")
    @ui.option("--gdb", flag_value=":1234", metavar="[PORT]")
    @ui.option("--check/--no-check", default=True, show_default=True, help="Whether to look.")
    @ui.option("-q", "--quiet", is_flag=True, help="Say less.")
    @ui.option("-v", "--json", "as_json", is_flag=True)
    def tool(**values: Any) -> int:
        """Do what a tool does, at PLACE.

        \b
        Kept:
          as   it is
        """
        calls.append(values)
        return 7

    return tool


DEFAULTS = {
    "rest": "none", "count": 1, "time": None, "disks": (), "mode": None, "gdb": None, "check": True, "quiet": False,
    "as_json": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("here", {}),
        ("here there", {"rest": "there"}),
        ("-c 3 here", {"count": 3}),
        ("-c3 here", {"count": 3}),
        ("--count=3 here", {"count": 3}),
        ("here --count 3", {"count": 3}),
        ("-c 3 -c 4 here", {"count": 4}),
        ("-qvc3 here", {"quiet": True, "as_json": True, "count": 3}),
        ("-t .5 here", {"time": 0.5}),
        ("-d a -d b here", {"disks": ("a", "b")}),
        ("-d -q here", {"disks": ("-q",)}),
        ("--mode 32 here", {"mode": "32"}),
        ("here --gdb", {"gdb": ":1234"}),
        ("--gdb -q here", {"gdb": ":1234", "quiet": True}),
        ("--gdb :9 here", {"gdb": ":9"}),
        ("--gdb= here", {"gdb": ""}),
        ("--no-check here", {"check": False}),
        ("--no-check --check here", {"check": True}),
        ("-- here -q", {"rest": "-q"}),
        ("here -", {"rest": "-"}),
    ],
)
def test_what_a_line_means(tool: ui.Command, calls: list[Given], line: str, wanted: Given) -> None:
    assert tool.main(line.split(), "tool") == 7
    assert calls == [{"place": "here", **DEFAULTS, **wanted}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "Missing argument 'PLACE'."),
        ("a b c", "Got unexpected extra argument (c)"),
        ("a b c d", "Got unexpected extra arguments (c d)"),
        ("-x a", "No such option '-x'."),
        ("-qx a", "No such option '-x'."),
        ("--counts 1 a", "No such option '--counts'. Did you mean '--count'?"),
        ("-hda x a", "No such option '-hda': give '--disk FILE'."),
        ("-kernel x a", "No such option '-kernel': give the image alone, as the operand KERNEL."),
        ("-nographic a", "No such option '-nographic': leave it out: COM1 is on this terminal."),
        ("-cpu host a", "No such option '-cpu': leave it out: the guest has the host's CPU."),
        ("-count 3 a", "No such option '-count': give '--count'."),
        ("-count=3 a", "No such option '-count=3': give '--count'."),
        ("-c", "Option '-c' requires an argument."),
        ("--count", "Option '--count' requires an argument."),
        ("--quiet=1 a", "Option '--quiet' does not take a value."),
        ("-c x a", "Invalid value for '-c' / '--count': 'x' is not a valid integer range."),
        ("-c 0 a", "Invalid value for '-c' / '--count': 0 is not in the range 1<=x<=8."),
        ("-c 9 a", "Invalid value for '-c' / '--count': 9 is not in the range 1<=x<=8."),
        ("-t 0 a", "Invalid value for '-t' / '--time': 0.0 is not in the range x>0."),
        ("-t nan a", "Invalid value for '-t' / '--time': nan is not in the range x>0."),
        ("--mode 8 a", "Invalid value for '--mode': '8' is not one of '16', '32'."),
    ],
)
def test_what_makes_no_sense(tool: ui.Command, calls: list[Given], line: str, words: str) -> None:
    with pytest.raises(ui.UsageError) as caught:
        tool.main(line.split(), "tool")
    assert str(caught.value) == words
    assert not calls


PAGE = """\
Usage: tool [OPTIONS] PLACE [REST]

  Do what a tool does, at PLACE.

  Kept:
    as   it is

Options:
  -c, --count INTEGER RANGE  How many.  [default: 1; 1<=x<=8]
  -t, --time FLOAT RANGE     How long.  [x>0]
  -d, --disk FILE            What to read, and what then
                             becomes of it.
  --mode [16|32]             How wide.
  --gdb [PORT]
  --check / --no-check       Whether to look.  [default:
                             check]
  -q, --quiet                Say less.
  -v, --json
  -h, --help                 Show this message and exit.
"""


def test_the_help_page(
    tool: ui.Command, calls: list[Given], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "63")
    assert tool.main(["-h"], "tool") == 0
    assert capsys.readouterr().out == PAGE
    assert tool.main(["-q", "--help", "too", "many", "words"], "tool") == 0
    assert not calls


@given(
    st.lists(st.text(max_size=6) | st.sampled_from(["-h", "-q", "--gdb", "-c", "3", "--no-check", "--", "--mode=16"]))
)
def test_any_line_means_something_or_is_refused(words: list[str]) -> None:
    @ui.command("tool")
    @ui.argument("place")
    @ui.option("-c", "--count", type=int, default=1)
    @ui.option("--mode", type=ui.Choice(["16", "32"]))
    @ui.option("--gdb", flag_value=":1234")
    @ui.option("--check/--no-check", default=True)
    @ui.option("-q", "--quiet", is_flag=True)
    def tool(place: str, count: int, mode: str | None, gdb: str | None, check: bool, quiet: bool) -> int:
        assert mode in (None, "16", "32")
        return 3

    with suppress(ui.UsageError):
        assert tool.main(words, "tool") in (0, 3)


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    missing = str(tmp_path / "missing")
    assert ui.Path(path_type=Path).convert(missing) == Path(missing)
    assert ui.Path(exists=True, dir_okay=False).convert(str(file)) == str(file)
    assert ui.Path(exists=True, allow_dash=True).convert("-") == "-"
    for kind, text, words in (
        (ui.Path(exists=True, dir_okay=False), missing, f"File {missing!r} does not exist."),
        (ui.Path(dir_okay=False), str(tmp_path), f"File {str(tmp_path)!r} is a directory."),
        (ui.Path(file_okay=False), str(file), f"Directory {str(file)!r} is a file."),
        (ui.Path(exists=True), "-", "Path '-' does not exist."),
    ):
        with pytest.raises(ValueError, match="^") as caught:
            kind.convert(text)
        assert str(caught.value) == words


def test_a_required_option() -> None:
    @ui.command("tool")
    @ui.option("--at", required=True)
    def tool(at: str) -> int:
        return 0

    with pytest.raises(ui.UsageError, match="Missing option '--at'"):
        tool.main([], "tool")
    assert "[required]" in tool.help()


def group() -> tuple[ui.Group, list[str]]:
    found: list[str] = []

    @ui.command("one")
    @ui.option("-q", is_flag=True)
    def one(q: bool) -> int:
        return 5 if q else 4

    def find(name: str) -> ui.Command:
        found.append(name)
        return one

    def program() -> None:
        """Do one of these."""

    return ui.Group(program, {"one": "The first.", "two": "The second."}, find, lambda: "version 3"), found


def test_a_program_of_several_commands(capsys: pytest.CaptureFixture[str]) -> None:
    program, found = group()
    assert program.main(["one", "-q"], "program") == 5
    assert found == ["one"]
    assert program.main(["--version"], "program") == 0
    assert capsys.readouterr().out == "version 3\n"
    assert program.main(["-h", "one"], "program") == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: program [OPTIONS] COMMAND [ARGS]...\n\n  Do one of these.\n")
    assert page.endswith("Commands:\n  one  The first.\n  two  The second.\n")
    assert program.main([], "program") == ui.ERROR_STATUS
    assert capsys.readouterr().err == page
    assert found == ["one"]


def test_a_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    program, _ = group()
    with pytest.raises(ui.UsageError) as caught:
        program.main(["three"], "program")
    caught.value.show()
    assert capsys.readouterr().err == (
        "Usage: program [OPTIONS] COMMAND [ARGS]...\nTry 'program --help' for help.\n\nError: No such command 'three'.\n"
    )


def test_a_command_with_a_slip_of_the_pen() -> None:
    program, _ = group()
    with pytest.raises(ui.UsageError, match=r"^No such command 'oned'\. Did you mean 'one'\?$"):
        program.main(["oned"], "program")


def test_text_is_plain_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = ui.style("red", fg="red", bold=True) + ui.style("2 dim", dim=True) + ui.style("plain")
    assert text == "\033[1;31mred\033[0m\033[2m2 dim\033[0mplain"
    ui.echo(text, nl=False)
    ui.echo("\033[?25l\033[2Jtext", err=True)
    assert capsys.readouterr() == ("red2 dimplain", "text\n")


def test_decorators_keep_what_others_declared() -> None:
    def both(function: Callable[..., int]) -> Callable[..., int]:
        return ui.option("--first")(ui.option("--second")(function))

    @ui.command("tool")
    @both
    @ui.option("--third")
    def tool(first: str | None, second: str | None, third: str | None) -> int:
        assert (first, second, third) == ("1", "2", "3")
        return 0

    assert [option.name for option in tool.options] == ["first", "second", "third", "help"]
    assert tool.main(["--first", "1", "--second", "2", "--third", "3"], "tool") == 0
