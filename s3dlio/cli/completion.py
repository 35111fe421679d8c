"""What lets a shell complete the words of the command line, and where that shell wants it.

Floor 7. Knows the files that shells read when they begin; must not know any command.
"""

from __future__ import annotations

import os

import click
from click.shell_completion import ShellComplete, get_completion_class

_SHELLS = ("bash", "zsh", "fish")
#: What zsh needs to look into the folder, unless its user has seen to that.
_ZSH_LINE = "fpath+=~/.zfunc; autoload -Uz compinit; compinit"


def script(program: click.Command, name: str) -> str:
    """Return what the user's shell has to read to complete the words of ``program``, started as ``name``.

    Raises:
        UsageError: The shell is none of bash, zsh and fish.
    """
    return _completer(program, name, _shell()).source()


def install(program: click.Command, name: str) -> str:
    """Put it where the user's shell reads it whenever it begins; return what was done, in a line.

    Raises:
        UsageError: The shell is none of bash, zsh and fish.
    """
    shell = _shell()
    place, rc, line = {
        "bash": (f"~/.bash_completions/{name}.sh", "~/.bashrc", f"source '{_home(f'~/.bash_completions/{name}.sh')}'"),
        "zsh": (f"~/.zfunc/_{name}", "~/.zshrc", _ZSH_LINE),
        "fish": (f"~/.config/fish/completions/{name}.fish", "", ""),
    }[shell]
    text = _completer(program, name, shell).source()
    os.makedirs(os.path.dirname(_home(place)), exist_ok=True)
    with open(_home(place), "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    if rc:
        _add(_home(rc), line)
    return f"{shell} completion installed in {_home(place)}; it takes effect in the next shell"


def _home(path: str) -> str:
    return os.path.expanduser(path)


def _shell() -> str:
    name = os.path.basename(os.environ.get("SHELL", ""))
    if name not in _SHELLS:
        msg = f"completion is known for {', '.join(_SHELLS)}, and SHELL says {name!r}; set it, e.g. SHELL=bash"
        raise click.UsageError(msg)
    return name


def _completer(program: click.Command, name: str, shell: str) -> ShellComplete:
    kind = get_completion_class(shell)
    if kind is None:
        msg = f"click knows no completion for {shell}"
        raise click.UsageError(msg)
    return kind(program, {}, name, f"_{name.replace('-', '_').replace('.', '_')}_COMPLETE".upper())


def _add(rc: str, line: str) -> None:
    """Add a line to a file, once."""
    with open(rc, "a+", encoding="utf-8") as file:
        file.seek(0)
        before = file.read()
        if line not in before.splitlines():
            file.write(f"{'' if not before or before.endswith(chr(10)) else chr(10)}{line}\n")
