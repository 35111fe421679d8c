"""A group of commands that are imported when they are asked for: what nobody asked for costs nothing.

Floor 7. Knows click; must not know any command.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """What click's documentation calls lazily loading subcommands.

    Args:
        places: Name -> ``module:command``, in the order of the help.
        settings: As :class:`click.Group` takes them.
    """

    def __init__(self, *, places: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return [*self._places]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; for one that there is not, see to it that click can name the nearest."""
        if cmd_name not in self.commands:
            wanted = [cmd_name] if cmd_name in self._places else self._places
            self.commands.update({name: self._load(name) for name in wanted})
        return super().get_command(ctx, cmd_name)

    def _load(self, name: str) -> click.Command:
        module, _, attribute = self._places[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command
