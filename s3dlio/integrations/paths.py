"""This library's file systems as paths of universal_pathlib: ``UPath("s3dlio+s3://bucket/key")``.

Floor 6. Knows how ``UPath`` takes addresses; must not know what is behind them: :mod:`s3dlio.fsspec_plugin` does.

``UPath`` finds the class by its entry points. Without it, it takes no protocol of ours: it looks up what stands
before the ``+``. So addresses are handed to it without their protocol, which it has been told already.
"""

from __future__ import annotations

from typing import Any

from fsspec import get_filesystem_class
from upath import UPath

_Args = tuple[Any, ...]


def _bare(args: _Args, protocol: str, options: dict[str, Any]) -> tuple[_Args, dict[str, Any]]:
    """Take the protocol off addresses; of a path that comes first, take over the options."""
    bare: list[Any] = []
    for place, arg in enumerate(args):
        if isinstance(arg, UPath) and arg.is_absolute() and arg.protocol == protocol:
            if place == 0:
                options = {**arg.storage_options, **options}
            bare.append(arg.path)
        elif isinstance(arg, str):
            bare.append(arg.removeprefix(f"{protocol}://"))
        else:
            bare.append(arg)
    return tuple(bare), options


class StorePath(UPath):
    """A path in one of this library's stores: ``UPath("s3dlio+s3://bucket/folder") / "a.txt"``.

    Options of the store are given as keywords, and paths made of it take them along.
    """

    __slots__ = ()

    @classmethod
    def _transform_init_args(
        cls, args: _Args, protocol: str, storage_options: dict[str, Any]
    ) -> tuple[_Args, str, dict[str, Any]]:
        get_filesystem_class(protocol)  # loaded, it tells UPath how its paths begin; else that is guessed
        args, storage_options = _bare(args, protocol, storage_options)
        return super()._transform_init_args(args, protocol, storage_options)
