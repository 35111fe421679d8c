"""Numbers and switches that callers give: of the right kind and within bounds, or refused by name.

Floor 0. Pure; must not know what the values are for.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from s3dlio.errors import OptionError


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Return a whole number as an ``int``: those of NumPy, and arrays of one, are whole numbers too.

    Args:
        name: The argument, for the message.
        value: What was given. A flag is no number, and neither is text.
        least: The smallest that will do.

    Raises:
        OptionError: It is something else, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        msg = f"{name} must be a whole number, not {value!r:.80}"
        raise OptionError(msg)
    if least is not None and number < least:
        msg = f"{name} must be at least {least}, not {number}"
        raise OptionError(msg)
    return number


def is_a(value: object, *kinds: type) -> bool:
    """Tell whether a value is of one of these kinds, whatever its annotation says: callers may not have read it."""
    return isinstance(value, kinds)


def mapping(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a mapping, or nothing, as a ``dict`` of its own.

    Raises:
        OptionError: It is something else.
    """
    if not is_a(value, Mapping, type(None)):
        msg = f"{name} must be a mapping of options, not {value!r:.80}"
        raise OptionError(msg)
    return dict(value or {})


def settle(options: object, numbers: Mapping[str, int | None], flags: Iterable[str] = ()) -> None:
    """Check the named attributes of a dataclass of options; ``None`` will do where it is the default.

    Args:
        options: The options. Numbers are made ``int`` in place.
        numbers: Those that are whole numbers, and the smallest that will do.
        flags: Those that are flags.

    Raises:
        OptionError: One is of another kind, or too small.
    """
    for name in (*numbers, *flags):
        value = getattr(options, name)
        if value is None and getattr(type(options), name) is None:
            continue
        found = whole(name, value, numbers[name]) if name in numbers else flag(name, value)
        setattr(options, name, found)


def flag(name: str, value: Any) -> bool:
    """Return a flag as a ``bool``: NumPy's flags, 0 and 1 are flags too; ``"no"`` is none, and would count as yes.

    Raises:
        OptionError: It is something else.
    """
    is_flag = isinstance(value, int) and value in {0, 1}
    if not (is_flag or type(value).__name__ in _NUMPY_FLAGS):
        msg = f"{name} must be True or False, not {value!r:.80}"
        raise OptionError(msg)
    return bool(value)


#: NumPy is not imported for a comparison of types: 2 and later, and before.
_NUMPY_FLAGS = frozenset({"bool", "bool_"})
