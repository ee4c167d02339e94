"""`pykvm completion`: has a shell complete the command line, by a script made from the commands' own declarations.

Sources: bash(1), "Programmable Completion"; zshcompsys(1), `_arguments`; fish's documentation of `complete`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from shlex import quote

from . import COMMANDS, find_command, ui

Commands = dict[str, ui.Command]
FILES, DIRECTORIES = "files", "directories"


def completed(parameter: ui.Parameter) -> tuple[str, ...] | str:
    """What may be given for it: words, FILES, DIRECTORIES, or () where nobody can know."""
    kind = parameter.kind
    if isinstance(kind, ui.Choice):
        return kind.words
    if isinstance(kind, ui.Path):
        return FILES if kind.file_okay else DIRECTORIES
    metavar = parameter.metavar if isinstance(parameter, ui.Option) else None
    return FILES if metavar is not None and metavar.startswith("FILE") else ()


def names_of(option: ui.Option) -> list[str]:
    """All its names, that which switches it off among them."""
    return [*option.names, *([option.off] if option.off else [])]


def bash(commands: Commands) -> Iterator[str]:
    """For bash 4 and later. Without words of ours, readline completes names of files."""
    yield "_pykvm() {"
    yield '    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words="" files=""'
    yield "    # `=` is a word of its own to bash."
    yield "    if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi"
    yield "    if (( COMP_CWORD == 1 )); then"
    yield f"        words={quote(' '.join([*commands, '--help', '--version']))}"
    yield "    else"
    yield '        case "${COMP_WORDS[1]} $prev" in'
    for name, command in commands.items():
        for option in command.options:
            if not option.is_flag:
                pattern = "|".join(quote(f"{name} {each}") for each in option.names)
                yield f"        {pattern}) {_bash_value(completed(option))} ;;"
    yield '        *) case "${COMP_WORDS[1]} $cur" in'
    for name, command in commands.items():
        options = " ".join(each for option in command.options for each in names_of(option))
        yield f"            {quote(f'{name} ')}-*) words={quote(options)} ;;"
    for name, command in commands.items():
        kinds = [completed(argument) for argument in command.arguments]
        yield f"            {quote(f'{name} ')}*) {_bash_value(kinds[0] if kinds else ())} ;;"
    yield "        esac ;;"
    yield "        esac"
    yield "    fi"
    yield "    COMPREPLY=()"
    yield '    [[ $words ]] && mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")'
    yield '    [[ $files == directories ]] && mapfile -t COMPREPLY < <(compgen -d -- "$cur")'
    yield "    [[ $files ]] && compopt -o filenames 2> /dev/null"
    yield "    [[ $files == files ]] || compopt +o default 2> /dev/null"
    yield "    return 0"
    yield "}"
    yield "complete -o default -F _pykvm pykvm"


def _bash_value(values: tuple[str, ...] | str) -> str:
    return f"files={values}" if isinstance(values, str) else f"words={quote(' '.join(values))}"


def zsh(commands: Commands) -> Iterator[str]:
    """For zsh's completion system, as a file _pykvm of $fpath or read by `source`."""
    yield "#compdef pykvm"
    yield "_pykvm() {"
    yield "    local context state state_descr line"
    yield "    typeset -A opt_args"
    yield "    _arguments -C '(- *)--help[Show help]' '(- *)--version[Show the version]' \\"
    yield "        '1:command:->command' '*::argument:->argument'"
    yield "    case $state in"
    yield "    command)"
    yield "        local -a commands"
    pairs = " ".join(quote(f"{name}:{COMMANDS[name]}") for name in commands)
    yield f"        commands=({pairs})"
    yield "        _describe command commands ;;"
    yield "    argument)"
    yield "        case $words[1] in"
    for name, command in commands.items():
        yield f"        {name}) _arguments -s \\"
        for option in command.options:
            others = "" if option.multiple else f"({' '.join(names_of(option))})"
            for each in names_of(option):
                value = "" if option.is_flag else f"{_zsh_colons(option)}{option.kind.name}:{_zsh(completed(option))}"
                sign = "" if option.is_flag else "=" if each.startswith("--") else "+"
                star = "*" if option.multiple else ""
                yield f"            {quote(f'{others}{star}{each}{sign}[{_zsh_text(option.help)}]{value}')} \\"
        for at, argument in enumerate(command.arguments, 1):
            yield f"            {quote(f'{at}:{argument.name}:{_zsh(completed(argument))}')} \\"
        yield "            ;;"
    yield "        esac ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _pykvm ]]; then _pykvm "$@"; else compdef _pykvm pykvm; fi'


def _zsh_colons(option: ui.Option) -> str:
    """A value that may be left out has two of them."""
    return "::" if option.flag_value is not None else ":"


def _zsh(values: tuple[str, ...] | str) -> str:
    if isinstance(values, str):
        return "_files" if values == FILES else "_files -/"
    return f"({' '.join(values)})" if values else " "


def _zsh_text(text: str) -> str:
    return "".join(f"\\{each}" if each in "\\[]:" else each for each in text)


def fish(commands: Commands) -> Iterator[str]:
    """For fish."""
    yield "complete -c pykvm -f"
    first = "__fish_use_subcommand"
    yield f"complete -c pykvm -n {first} -s h -l help -d 'Show help'"
    yield f"complete -c pykvm -n {first} -s V -l version -d 'Show the version'"
    for name, command in commands.items():
        yield f"complete -c pykvm -n {first} -a {name} -d {_fish(COMMANDS[name])}"
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for option in command.options:
            names = " ".join(
                f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}" for each in names_of(option)
            )
            value = "" if option.is_flag else f" -r{_fish_values(completed(option))}"
            yield f"complete -c pykvm {seen} {names}{value} -d {_fish(option.help)}"
        for argument in command.arguments[:1]:
            yield f"complete -c pykvm {seen}{_fish_values(completed(argument))}"


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _fish_values(values: tuple[str, ...] | str) -> str:
    if values == FILES:
        return " -F"
    if values == DIRECTORIES:
        return " -x -a '(__fish_complete_directories)'"
    return f" -x -a {_fish(' '.join(values))}" if values else " -x"


SHELLS: dict[str, Callable[[Commands], Iterator[str]]] = {"bash": bash, "zsh": zsh, "fish": fish}


@ui.command("completion")
@ui.argument("shell", type=ui.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a script that has SHELL (bash, zsh or fish) complete pykvm's commands, options and their values.

    \b
    bash  eval "$(pykvm completion bash)" in ~/.bashrc
    zsh   source <(pykvm completion zsh) in ~/.zshrc, behind compinit
    fish  pykvm completion fish > ~/.config/fish/completions/pykvm.fish
    """
    for line in SHELLS[shell]({name: find_command(name) for name in COMMANDS}):
        ui.echo(line)
