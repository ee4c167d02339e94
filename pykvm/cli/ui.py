"""Commands, options and arguments declared by decorators, read from the command line; and text in colour.

The grammar is POSIX's (XBD 12.2, Utility Syntax Guidelines) with GNU's additions: `--name=value`, options behind
operands, `--` before operands that begin with a dash. A value that does not fit, or a word that nobody knows, is a
UsageError.

The `click` package would do all this and more, but importing it takes longer than starting Python does, and most of
what `pykvm run` takes from its start to its end is importing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterable, Sequence

from ..typed import TYPE_CHECKING, Any
from .values import Choice as Choice
from .values import FloatRange as FloatRange
from .values import IntRange as IntRange
from .values import Number as Number
from .values import Path as Path
from .values import ValueKind as ValueKind
from .values import kind_of

if TYPE_CHECKING:
    from typing import TextIO

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

ERROR_STATUS = 2
"""Exit status of everything that is wrong before the guest runs: usage, image, host."""

HELP_NAMES = ("-h", "--help")


class UsageError(Exception):
    """The command line makes no sense; `command` is the one whose usage helps."""

    def __init__(self, message: str, command: Command | None = None) -> None:
        super().__init__(message)
        self.command = command

    def show(self) -> None:
        """Say it on standard error."""
        if self.command is not None:
            echo(f"{self.command.usage()}\nTry '{self.command.path} --help' for help.\n", err=True)
        echo(f"Error: {self}", err=True)


# Text


def is_dumb() -> bool:
    """Whether terminals are not to be sent control sequences (terminfo's "dumb")."""
    return os.environ.get("TERM") == "dumb"


def shows_colours(stream: TextIO) -> bool:
    """Whether `stream` is a terminal, and one where colours are wanted (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and not is_dumb()


def style(text: object, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """`text` in a colour ("red", ...) or weight, as ECMA-48 has them; `echo` shows it where `shows_colours`."""
    colours = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
    codes = ["1"] * bold + ["2"] * dim + ([] if fg is None else [str(30 + colours.index(fg))])
    return f"\033[{';'.join(codes)}m{text}\033[0m" if codes else str(text)


def echo(message: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line, or without `nl` what may be a part of one, to standard output or error, at once."""
    stream, text = sys.stderr if err else sys.stdout, str(message)
    if "\033" in text and not shows_colours(stream):
        first, *rest = text.split("\033[")
        text = first + "".join(part.lstrip("0123456789;?")[1:] for part in rest)  # without parameters and final byte
    try:
        print(text, file=stream, flush=True, end="\n" if nl else "")
    except OSError:
        if not err:
            raise  # what a command says of itself has nowhere else to go


def secho(message: object, *, fg: str | None = None, bold: bool = False, dim: bool = False, err: bool = False) -> None:
    """Print a line in a style."""
    echo(style(message, fg=fg, bold=bold, dim=dim), err=err)


# Declarations


class Parameter:
    """A value that a command's function gets under `name`, by default `default`."""

    def __init__(self, name: str, type: Any, default: Any, required: bool) -> None:
        self.name, self.kind, self.default, self.required = name, kind_of(type), default, required

    @property
    def titles(self) -> str:
        """What an error calls it."""
        raise NotImplementedError

    def value(self, words: Sequence[str], command: Command) -> Any:
        """What the words mean that were given for it, the last of them if it takes one."""
        if words:
            return self._convert(words[-1], command)
        return self._convert(self.default, command) if isinstance(self.default, str) else self.default

    def _convert(self, text: str, command: Command) -> Any:
        try:
            return self.kind.convert(text)
        except ValueError as error:
            raise UsageError(f"Invalid value for {self.titles}: {error}", command) from None


class Argument(Parameter):
    """An operand, known by its place."""

    @property
    def shown(self) -> str:
        """How the usage shows it."""
        return self.name.upper() if self.required else f"[{self.name.upper()}]"

    @property
    def titles(self) -> str:
        return f"'{self.shown}'"


class Option(Parameter):
    """A value that is known by its names, such as "-m" and "--memory".

    A flag takes no value: it is True, or False if `off` was given. `flag_value` is the value if none follows. What is
    `multiple` may be given often, and is a tuple.
    """

    def __init__(
        self,
        declarations: Sequence[str],
        *,
        type: Any = str,
        default: Any = None,
        required: bool = False,
        multiple: bool = False,
        is_flag: bool = False,
        flag_value: str | None = None,
        metavar: str | None = None,
        show_default: bool = False,
        help: str = "",
    ) -> None:
        names = [name for name in declarations if name.startswith("-")]
        self.off: str | None = None
        if "/" in names[-1]:
            names[-1], self.off = names[-1].split("/")
        self.names = names
        self.is_flag = is_flag or self.off is not None
        own = [name for name in declarations if not name.startswith("-")]
        name = own[0] if own else max(names, key=len).lstrip("-").replace("-", "_")
        super().__init__(name, type, False if self.is_flag and default is None else default, required)
        self.multiple, self.flag_value, self.metavar = multiple, flag_value, metavar
        self.show_default, self.help = show_default, help

    @property
    def titles(self) -> str:
        return " / ".join(f"'{name}'" for name in self.names)

    def described(self) -> tuple[str, str]:
        """Its names with its value's, and its help, with what is to be known besides."""
        names = ", ".join(self.names)
        if self.off:
            names += f" / {self.off}"
        elif not self.is_flag:
            names += f" {self.metavar or self.kind.shown}"
        extra = []
        if self.show_default:
            own = self.names[-1] if self.default else self.off or ""
            extra.append(f"default: {own.lstrip('-') if self.is_flag else self.default}")
        if isinstance(self.kind, Number) and self.kind.range:
            extra.append(self.kind.range)
        if self.required:
            extra.append("required")
        return names, f"{self.help}  [{'; '.join(extra)}]" if extra else self.help

    def value(self, words: Sequence[str], command: Command) -> Any:
        if self.is_flag:
            return words[-1] != self.off if words else self.default
        if self.multiple:
            return tuple(self._convert(word, command) for word in words)
        return super().value(words, command)


def option(*declarations: str, **settings: Any) -> Decorator:
    """Decorator: the function's command has that option; see `Option`. A declaration without dashes is its name."""
    return _declare(lambda: Option(declarations, **settings))


def argument(name: str, *, type: Any = str, default: Any = None, required: bool | None = None) -> Decorator:
    """Decorator: the function's command has that operand. By default it is required if it has no default itself."""
    return _declare(lambda: Argument(name, type, default, default is None if required is None else required))


def _declare(make: Callable[[], Parameter]) -> Decorator:
    def note(function: Function) -> Function:
        # The decorator nearest to the function is called first, and shown last.
        vars(function).setdefault("parameters", []).insert(0, make())
        return function

    return note


def command(name: str) -> Callable[[Function], Command]:
    """Decorator: the function, with what was declared for it below, becomes a command; its docstring is the help."""
    return lambda function: Command(name, function)


# Commands


class Command:
    """A function that is called with the values of its parameters."""

    summary = "[OPTIONS]"

    def __init__(self, name: str, function: Function) -> None:
        self.path = name
        """How a user calls it: the names of the program and the command."""
        self.function = function
        parameters: list[Parameter] = vars(function).get("parameters", [])
        self.options = [each for each in parameters if isinstance(each, Option)]
        self.options.append(Option(HELP_NAMES, is_flag=True, help="Show this message and exit."))
        self.arguments = [each for each in parameters if isinstance(each, Argument)]

    def usage(self) -> str:
        """One line: what may stand behind the command."""
        return " ".join(("Usage:", self.path, self.summary, *(argument.shown for argument in self.arguments)))

    def help(self) -> str:
        """All that there is to say about it."""
        from .help import page

        return page(self.usage(), self.function, self.help_sections())

    def help_sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The titles of the help's tables, and their rows of two columns."""
        return [("Options", [option.described() for option in self.options])]

    def main(self, words: Sequence[str], path: str) -> int:
        """Do what the words behind the command's name ask for; the exit status. `path`: how the user called it."""
        self.path = path
        given, operands = self.parse(words)
        if "help" in given:
            echo(self.help())
            return 0
        return self.call(given, operands)

    def call(self, given: dict[str, list[str]], operands: list[str]) -> int:
        """Call the function."""
        values = {}
        for option in self.options[:-1]:  # without the help
            if option.required and option.name not in given:
                raise UsageError(f"Missing option {option.titles}.", self)
            values[option.name] = option.value(given.get(option.name, ()), self)
        for at, argument in enumerate(self.arguments):
            if argument.required and at >= len(operands):
                raise UsageError(f"Missing argument {argument.titles}.", self)
            values[argument.name] = argument.value(operands[at : at + 1], self)
        extra = operands[len(self.arguments) :]
        if extra:
            raise UsageError(f"Got unexpected extra argument{'s'[: len(extra) - 1]} ({' '.join(extra)})", self)
        return self.function(**values) or 0

    def parse(self, words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
        """What was given for each option, by its name (for a flag, the words themselves), and the operands."""
        known = {name: option for option in self.options for name in (*option.names, option.off) if name}
        given: dict[str, list[str]] = {}
        operands: list[str] = []
        rest = list(reversed(words))
        while rest:
            word = rest.pop()
            if word == "--":
                operands += reversed(rest)
                break
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                option = known.get(name) or self._unknown(name, known)
                if option.is_flag and equals:
                    raise UsageError(f"Option '{name}' does not take a value.")
                self._note(given, option, name, value if equals else None, rest)
            elif word.startswith("-") and word != "-":
                if len(word) > 3 and word[1:4].replace("-", "").isalpha():
                    self._refuse_qemu(word, known)
                cluster = word[1:]
                while cluster:
                    name, cluster = f"-{cluster[0]}", cluster[1:]
                    option = known.get(name) or self._unknown(name, known)
                    self._note(given, option, name, None if option.is_flag else cluster or None, rest)
                    if not option.is_flag:
                        break
            elif self.takes(operands):
                operands.append(word)
            else:
                operands += [word, *reversed(rest)]
                break
        return given, operands

    def takes(self, operands: Sequence[str]) -> bool:
        """Whether options may come behind these operands."""
        return True

    def _note(self, given: dict[str, list[str]], option: Option, name: str, value: str | None, rest: list[str]) -> None:
        if option.is_flag:
            value = name
        elif value is None:
            if option.flag_value is not None and (not rest or (rest[-1].startswith("-") and rest[-1] != "-")):
                value = option.flag_value
            elif rest:
                value = rest.pop()
            else:
                raise UsageError(f"Option '{name}' requires an argument.")
        given.setdefault(option.name, []).append(value)

    def _refuse_qemu(self, word: str, known: Container[str]) -> None:
        from ..qemu.flags import answer

        instead = answer(word, known)
        if instead is not None:
            raise UsageError(f"No such option '{word}': {instead}.", self)

    def _unknown(self, name: str, known: Iterable[str]) -> Option:
        message = f"No such option '{name}'."
        if name.startswith("--"):
            message += _did_you_mean(name, known)
        raise UsageError(message, self)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = [f"'{other}'" for other in sorted(get_close_matches(word, known))]
    if not near:
        return ""
    return f" Did you mean {near[0]}?" if len(near) == 1 else f" (Did you mean one of: {', '.join(near)}?)"


class Group(Command):
    """A program whose first operand names one of its `commands`, which are listed with a line each.

    `find` gives the command of that name. The program's own options are --help and --version, whose text is `version`.
    """

    summary = "[OPTIONS] COMMAND [ARGS]..."

    def __init__(
        self, function: Function, commands: dict[str, str], find: Callable[[str], Command], version: Callable[[], str]
    ) -> None:
        super().__init__(function.__name__, function)
        self.commands, self._find, self._version = commands, find, version
        self.options.insert(0, Option(("-V", "--version"), is_flag=True, help="Show the version and exit."))

    def help_sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        return [*super().help_sections(), ("Commands", list(self.commands.items()))]

    def takes(self, operands: Sequence[str]) -> bool:
        return False

    def call(self, given: dict[str, list[str]], operands: list[str]) -> int:
        if "version" in given:
            echo(self._version())
            return 0
        if not operands:
            echo(self.help(), err=True)
            return ERROR_STATUS
        name, *words = operands
        if name not in self.commands:
            raise UsageError(f"No such command '{name}'.{_did_you_mean(name, self.commands)}", self)
        return self._find(name).main(words, f"{self.path} {name}")
