"""What lets a shell complete the words of the command line, and where that shell wants it.

Floor 7. Knows the files that shells read when they begin; must not know any command. The scripts are click's.
"""

from __future__ import annotations

import os

import click
from click.shell_completion import ShellComplete, get_completion_class

#: Shell -> where its script goes, the file it reads when it begins, and what that has to say ({}: the program, then
#: the script). fish looks into its folder by itself; zsh does so if told, unless its user has seen to that.
_PLACES = {
    "bash": ("~/.bash_completions/{}.sh", "~/.bashrc", "source '{}'"),
    "zsh": ("~/.zfunc/_{}", "~/.zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit"),
    "fish": ("~/.config/fish/completions/{}.fish", "", ""),
}


def script(program: click.Command, name: str) -> str:
    """Return what the user's shell has to read to complete the words of ``program``, started as ``name``.

    Raises:
        UsageError: The shell is none of bash, zsh and fish.
    """
    return _completer(program, name).source()


def install(program: click.Command, name: str) -> str:
    """Put it where the user's shell reads it whenever it begins; return what was done, in a line.

    Raises:
        UsageError: The shell is none of bash, zsh and fish.
    """
    completer = _completer(program, name)
    text = completer.source()
    place, rc, line = _PLACES[completer.name]
    path = os.path.expanduser(place.format(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    if rc:
        _add(os.path.expanduser(rc), line.format(path))
    return f"{completer.name} completion installed in {path}; it takes effect in the next shell"


def _completer(program: click.Command, name: str) -> ShellComplete:
    shell = os.path.basename(os.environ.get("SHELL", ""))
    kind = get_completion_class(shell)
    if kind is None or shell not in _PLACES:
        msg = f"completion is known for {', '.join(_PLACES)}, and SHELL says {shell!r}; set it, e.g. SHELL=bash"
        raise click.UsageError(msg)
    return kind(program, {}, name, f"_{name.replace('-', '_').replace('.', '_')}_COMPLETE".upper())


def _add(rc: str, line: str) -> None:
    """Add a line to a file, once."""
    with open(rc, "a+", encoding="utf-8") as file:
        file.seek(0)
        before = file.read()
        if line not in before.splitlines():
            file.write(f"{'' if not before or before.endswith(chr(10)) else chr(10)}{line}\n")
