"""A kernel to begin with: files from `templates`, with a name put in."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from importlib.resources import files

from ..errors import ConfigError

COMPILERS = ("gcc", "clang")
_COMMON = {
    "test_kernel.py": "test_kernel.py", "pyproject.toml": "pyproject.toml", "README.md": "README.md",
    "gitignore": ".gitignore", "launch.json": ".vscode/launch.json", "tasks.json": ".vscode/tasks.json",
    "tests.yml": ".github/workflows/tests.yml",
}  # fmt: skip
"""Where each file of `templates/common` goes."""
IMAGES = {"c": "kernel.elf", "asm": "boot.img"}
"""The languages, and what is built of each."""


def languages(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Those whose programs are installed here, the best to begin with first."""
    found = []
    if which("make") and which("ld"):
        found += ["c"] * any(map(which, COMPILERS)) + ["asm"] * bool(which("as"))
    return found


def make(directory: str, language: str | None = None) -> str:
    """Write the files of a kernel in `language`, by default the first of `languages`; the image that `make` builds.

    `directory` must be empty or not there; its last part is the kernel's name. ConfigError if that cannot be.
    """
    there = languages()
    if language is None and not there:
        raise ConfigError(
            "there is nothing here to build a kernel with. On Debian or Ubuntu: sudo apt-get install gcc make"
        )
    chosen = language or there[0]
    if chosen not in there:
        raise ConfigError(
            f"what builds a kernel in {chosen} is not installed here; there is: {', '.join(there) or 'none'}"
        )
    name = os.path.basename(os.path.abspath(directory))
    if not re.fullmatch(r"[\w .+-]{1,64}", name, re.ASCII):
        raise ConfigError(
            f"{name!r} goes into source files as the kernel's name: give letters, digits, blanks, . + - _"
        )
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise ConfigError(f"{directory} is not empty: name a directory that is not there yet")
        compiler = next(filter(shutil.which, COMPILERS), COMPILERS[0])
        words = {"@NAME@": name, "@IMAGE@": IMAGES[chosen], "@CC@": compiler}
        home = files(__package__) / "templates"
        wanted = [(home / "common" / source, target) for source, target in _COMMON.items()]
        wanted += [(each, each.name) for each in (home / chosen).iterdir() if each.is_file()]
        for source, target in wanted:
            text = source.read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(word, value)
            path = os.path.join(directory, target)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from error
    return IMAGES[chosen]
