"""Further names of a function's arguments, for code that was written for the original.

Floor 0. Knows keywords; must not know what any of them means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from s3dlio.errors import OptionError

P = ParamSpec("P")
T = TypeVar("T")


def also_spelt(**spellings: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let callers name arguments otherwise, too. Type checkers see the names that the function itself has.

    Args:
        **spellings: Another name of an argument, and its own.

    Example:
        >>> @also_spelt(bucket_name="name")
        ... def greet(name: str) -> str:
        ...     return f"hello {name}"
        >>> greet(bucket_name="demo")
        'hello demo'
    """

    def accept(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            for other in kwargs.keys() & spellings.keys():
                name = spellings[other]
                if name in kwargs:
                    msg = f"{other} is another name of {name}: give one of them"
                    raise OptionError(msg, operation=function.__name__)
                kwargs[name] = kwargs.pop(other)
            return function(*args, **kwargs)

        return called

    return accept
