"""The completion scripts, run by the shells themselves where they are installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pykvm import cli
from pykvm.cli import completion

SHELLS = ["bash", "zsh", "fish"]


def script(shell: str) -> str:
    commands = {name: cli.find_command(name) for name in cli.COMMANDS}
    return "\n".join(completion.SHELLS[shell](commands)) + "\n"


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "pykvm.bash"
    path.write_text(script("bash"))
    return path


def complete(bash_script: Path, line: list[str], cwd: Path) -> list[str]:
    """What bash's function answers for the words of a command line, the last of which is being written."""
    done = subprocess.run(
        ["bash", "-c", 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pykvm; printf "%s\\n" "${COMPREPLY[@]}"',
         str(bash_script), *line],
        check=True,
        cwd=cwd,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        (["pykvm", "sna"], ["snapshot", "snapshots"]),
        (["pykvm", "--v"], ["--version"]),
        (["pykvm", "run", "--disp"], ["--display"]),
        (["pykvm", "run", "--display", ""], ["serial", "terminal"]),
        (["pykvm", "run", "kernel.elf", "--display", "t"], ["terminal"]),
        (["pykvm", "run", "--display", "=", "se"], ["serial"]),
        (["pykvm", "run", "--display", "="], ["serial", "terminal"]),
        (["pykvm", "inspect", "-p", "d"], ["devices"]),
        (["pykvm", "restore", "--no-v"], ["--no-verify"]),
        (["pykvm", "restore", "ne"], ["nested"]),
        (["pykvm", "completion", ""], SHELLS),
        (["pykvm", "run", "--memory", ""], []),
        (["pykvm", "run", "ker"], []),  # readline completes the names of files
        (["pykvm", "no-such", ""], []),
    ],
)
def test_bash_completes(bash_script: Path, tmp_path: Path, line: list[str], answers: list[str]) -> None:
    (tmp_path / "nested").mkdir()
    (tmp_path / "nekernel.elf").touch()
    assert complete(bash_script, line, tmp_path) == answers


def test_bash_completes_every_option_of_every_command(bash_script: Path, tmp_path: Path) -> None:
    for name in cli.COMMANDS:
        options = [each for option in cli.find_command(name).options for each in completion.names_of(option)]
        assert complete(bash_script, ["pykvm", name, "-"], tmp_path) == options


def test_bash_completes_at_the_prompt(bash_script: Path, tmp_path: Path) -> None:
    # `complete` alone says that bash would call the function for the program wherever it is.
    done = subprocess.run(
        ["bash", "-c", 'source "$0"; complete -p pykvm', bash_script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "complete -o default -F _pykvm pykvm\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["completion", shell]) == 0
    assert capsys.readouterr().out == script(shell)


@pytest.mark.parametrize(
    "shell",
    [
        "bash",
        pytest.param("zsh", marks=pytest.mark.needs("zsh")),
        pytest.param("fish", marks=pytest.mark.needs("fish")),
    ],
)
def test_the_script_is_the_shells_language(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script(shell))
    subprocess.run([shell, "-n", path], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_long_option_is_in_the_script(shell: str) -> None:
    text = script(shell)
    for name in cli.COMMANDS:
        assert name in text
        for option in cli.find_command(name).options:
            assert max(option.names, key=len).lstrip("-") in text


def test_there_is_no_other_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["completion", "csh"]) == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err
