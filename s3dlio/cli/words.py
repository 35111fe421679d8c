"""From a function to a command: its parameters become words, options and arguments, of the command line.

Floor 7. Knows click, and how a parameter is annotated; must not know any command. A command's module is
imported when the command is asked for: what nobody asked for costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import click

HELP_NAMES = ["-h", "--help"]


class Argument(NamedTuple):
    """Stands in a parameter's annotation: it is told by its place.

    Attributes:
        metavar: How the usage names it; else the parameter's name.
        help: One line.
    """

    help: str
    metavar: str | None = None


class Option:
    """Stands in a parameter's annotation: it is told by a name.

    Args:
        names: With their dashes.
        help: One line.
        metavar: How the help names its value; else the type's name.
        least: The least number that makes sense.
        counted: It is how often the name comes.
    """

    def __init__(
        self,
        *names: str,
        help: str,  # noqa: A002 - click's name for it
        metavar: str | None = None,
        least: float | None = None,
        counted: bool = False,
    ) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        self.least = least
        self.counted = counted


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for.

    Args:
        places: Name -> ``module:function``, in the order of the help.
        make: Makes a command of a name and a function or group.
        settings: As :class:`click.Group` takes them.
    """

    def __init__(self, places: Mapping[str, str], make: Callable[[str, Any], click.Command], **settings: Any) -> None:
        super().__init__(**settings)
        self._places = places
        self._make = make

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return [*self._places]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; for one that there is not, see to it that click can name the nearest."""
        if cmd_name not in self.commands:
            wanted = [cmd_name] if cmd_name in self._places else self._places
            self.commands.update({name: self._load(name) for name in wanted})
        return self.commands.get(cmd_name)

    def _load(self, name: str) -> click.Command:
        module, _, attribute = self._places[name].partition(":")
        return self._make(name, getattr(importlib.import_module(module), attribute))


def command(name: str, function: Callable[..., None]) -> click.Command:
    """Return the command that calls a function with what its parameters' annotations ask for."""
    return click.Command(
        name, params=parameters(function), callback=function, help=inspect.getdoc(function),
        context_settings={"help_option_names": HELP_NAMES, "show_default": True},
    )  # fmt: skip


def parameters(function: Callable[..., None]) -> list[click.Parameter]:
    """Return click's parameters for those of a function, each annotated with :class:`Argument` or :class:`Option`."""
    return [_parameter(found) for found in inspect.signature(function, eval_str=True).parameters.values()]


def _parameter(found: inspect.Parameter) -> click.Parameter:
    annotation, word = _parts(found)
    kind, many = _kind(annotation)
    if isinstance(word, Argument):
        return _argument(found, word, kind, many=many)
    return _option(found, word, kind, many=many)


def _parts(found: inspect.Parameter) -> tuple[Any, Argument | Option]:
    if get_origin(found.annotation) is not Annotated:
        msg = f"the parameter {found.name!r} is not annotated as a word of the command line"
        raise TypeError(msg)
    annotation, word = get_args(found.annotation)
    return annotation, word


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the type of one value, and whether there may be many."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return (get_args(annotation)[0], True) if get_origin(annotation) is list else (annotation, False)


def _argument(found: inspect.Parameter, word: Argument, kind: Any, *, many: bool) -> click.Argument:
    how: dict[str, Any] = {"type": kind, "help": word.help, "metavar": word.metavar}
    if found.default is found.empty:
        how["required"] = True
    else:
        how["default"] = found.default
    return click.Argument([found.name], nargs=-1 if many else 1, callback=_listed if many else None, **how)


def _option(found: inspect.Parameter, word: Option, kind: Any, *, many: bool) -> click.Option:
    how: dict[str, Any] = {"help": word.help, "metavar": word.metavar, "default": found.default}
    if word.counted:
        how |= {"count": True, "show_default": False}
    elif kind is bool:
        how["is_flag"] = True
    else:
        how["type"] = _range(kind, word.least)
    if many:
        how |= {"multiple": True, "callback": _listed}
    return click.Option([found.name, *word.names], **how)


def _range(kind: Any, least: float | None) -> Any:
    if least is None:
        return kind
    return click.IntRange(min=int(least)) if kind is int else click.FloatRange(min=least)


def _listed(_context: click.Context, _parameter: click.Parameter, value: Any) -> list[Any]:
    return [*(value or ())]
