"""Finding one's way in a saved structure: which arrays it names, under which paths, and a part of it.

Floor 4. Pure: walks the trees of :mod:`s3dlio.checkpoint.tree`; must not know files or arrays. A path is a tuple of
keys, fields and numbers, since two of them may look the same when they are written with dots.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from s3dlio.checkpoint.tree import key_of
from s3dlio.errors import CheckpointError, FormatError, suggest

Path = tuple[Any, ...]


def arrays_of(node: Any, path: Path = ()) -> Iterable[tuple[Path, str, dict[str, Any]]]:
    """Yield path, tensor and what its kind wants to know, of the arrays that memory can be given for.

    Bytes and NumPy's scalars are none of these: they cannot be written to.
    """
    if isinstance(node, dict) and "a" in node:
        extra = _extra_of(node)
        if node.get("k") != "bytes" and extra.get("scalar") is not True:
            yield path, str(node["a"]), extra
        return
    for key, item in children(node):
        yield from arrays_of(item, (*path, key_of(key)))


def is_there(node: Any, path: Path) -> bool:
    """Tell whether a structure has anything under a path."""
    for step in path:
        found = [item for key, item in children(node) if key_of(key) == step]
        if not found:
            return False
        node = found[0]
    return True


def children(node: Any) -> Iterable[tuple[Any, Any]]:
    """Yield the nodes of key and value of what a node of the saved structure holds."""
    if not isinstance(node, dict) or len(node) != 1:
        return
    ((mark, content),) = node.items()
    try:
        if mark == "d":
            yield from content.items()
        elif mark in ("m", "o", "u"):
            yield from ((key, item) for key, item in content)
        elif mark in ("l", "t", "s", "z"):
            yield from enumerate(content)
        elif mark in ("n", "y"):
            yield from ((key, item) for key, item in content[1:])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        msg = f"the structure cannot be read: {error}"
        raise FormatError(msg) from error


def shown(path: Path) -> str:
    """Return a path as it is written: with dots."""
    return ".".join(map(str, path))


def walk_arrays(tree: Any, note: Callable[[str, str, dict[str, Any]], Any], *, allow_pickle: bool) -> None:
    """Call ``note`` with every array that a structure names: tensor, kind, what the kind wants to know."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if not isinstance(node, dict):
            continue
        if "a" in node:
            note(str(node["a"]), str(node.get("k", "")), _extra_of(node))
        elif "p" in node:
            if not allow_pickle:
                msg = "the checkpoint holds pickled values: give allow_pickle=True if you trust whoever has written it"
                raise CheckpointError(msg)
            note(str(node["p"]), "bytes", {})
        else:
            stack.extend(item for _, item in children(node))


def _extra_of(node: dict[str, Any]) -> dict[str, Any]:
    extra = node.get("x", {})
    return extra if isinstance(extra, dict) else {}


class Choice:
    """What of a structure is wanted.

    Args:
        patterns: Paths with dots (and what lies below them), or patterns with ``*`` and ``?``.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._names = set(patterns)
        self._globs = {p: re.compile(fnmatch.translate(p)).match for p in patterns if set("*?[") & set(p)}
        self._used: set[str] = set()

    def names(self, path: str) -> bool:
        """Tell whether a path is wanted, and note by which patterns."""
        hits = {path} & self._names
        hits.update(start for start in _beginnings(path) if start in self._names)
        hits.update(pattern for pattern, match in self._globs.items() if match(path))
        self._used |= hits
        return bool(hits)

    def of(self, tree: Any) -> Any:
        """Return a structure without what no pattern names.

        Raises:
            CheckpointError: Nothing lies under one of them.
        """
        kept = self._pruned(tree, ())
        for pattern in self._patterns:
            if pattern not in self._used:
                arrays = [shown(path) for path, _, _ in arrays_of(tree)]
                names = dict.fromkeys(name for array in arrays for name in (array, *_beginnings(array)))
                msg = f"there is nothing under {pattern!r} in the checkpoint{suggest(pattern, names)}"
                raise CheckpointError(msg)
        return {"d": {}} if kept is _NOTHING else kept

    def _pruned(self, node: Any, path: Path) -> Any:
        if path and self.names(shown(path)):
            return node
        if not isinstance(node, dict) or len(node) != 1:
            return _NOTHING
        ((mark, content),) = node.items()
        pairs = [(key, self._pruned(item, (*path, key_of(key)))) for key, item in children(node)]
        kept = [(key, item) for key, item in pairs if item is not _NOTHING]
        if not kept:
            return _NOTHING
        if mark in ("l", "t", "s", "z"):
            return {mark: [item for _, item in kept]}
        if mark == "d":
            return {mark: dict(kept)}
        return {mark: [*(content[:1] if mark in ("n", "y") else ()), *map(list, kept)]}


_NOTHING = object()


def _beginnings(path: str) -> Iterable[str]:
    """Yield what stands before each of the dots."""
    at = path.find(".")
    while at >= 0:
        yield path[:at]
        at = path.find(".", at + 1)
