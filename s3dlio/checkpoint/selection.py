"""Finding one's way in a saved structure: which arrays it names, under which paths, and a part of it.

Floor 4. Pure: walks the trees of :mod:`s3dlio.checkpoint.tree`; must not know files or arrays.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from s3dlio.errors import CheckpointError, FormatError, suggest


def arrays_of(node: Any, path: str) -> Iterable[tuple[str, tuple[str, dict[str, Any]]]]:
    """Yield path, tensor and what its kind wants to know, of a saved structure."""
    if isinstance(node, dict) and "a" in node:
        if node.get("k") != "bytes":
            yield path, (node["a"], node.get("x", {}))
        return
    for name, item in children(node):
        yield from arrays_of(item, joined(path, name))


def children(node: Any) -> Iterable[tuple[Any, Any]]:
    """Yield name and node of what a node of the saved structure holds."""
    if not isinstance(node, dict) or len(node) != 1:
        return
    ((mark, content),) = node.items()
    try:
        if mark == "d":
            yield from content.items()
        elif mark in ("m", "o"):
            yield from ((key, item) for key, item in content)
        elif mark in ("l", "t", "s", "z"):
            yield from enumerate(content)
        elif mark == "n":
            yield from ((key, item) for key, item in content[1:])
    except (TypeError, ValueError, AttributeError) as error:
        msg = f"the structure cannot be read: {error}"
        raise FormatError(msg) from error


def joined(path: str, key: Any) -> str:
    """Return the path of what lies under a key."""
    return f"{path}.{key}" if path else str(key)


def walk_arrays(tree: Any, note: Callable[[str, str, dict[str, Any]], Any], *, allow_pickle: bool) -> None:
    """Call ``note`` with every array that a structure names: tensor, kind, what the kind wants to know."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if not isinstance(node, dict):
            continue
        if "a" in node:
            extra = node.get("x", {})
            note(str(node["a"]), str(node.get("k", "")), extra if isinstance(extra, dict) else {})
        elif "p" in node:
            if not allow_pickle:
                msg = "the checkpoint holds pickled values: give allow_pickle=True if you trust whoever has written it"
                raise CheckpointError(msg)
            note(str(node["p"]), "bytes", {})
        else:
            stack.extend(item for _, item in children(node))


def chosen(tree: Any, patterns: list[str]) -> Any:
    """Return a structure without what no pattern names.

    Args:
        tree: As it was saved.
        patterns: Paths with dots (and what lies below them), or patterns with ``*`` and ``?``.

    Raises:
        CheckpointError: Nothing lies under one of them.
    """
    used: set[str] = set()

    def is_named(path: str) -> bool:
        hits = [p for p in patterns if path == p or path.startswith(f"{p}.") or fnmatch.fnmatchcase(path, p)]
        used.update(hits)
        return bool(hits)

    kept = _pruned(tree, "", is_named)
    for pattern in patterns:
        if pattern not in used:
            names = [path for path, _ in arrays_of(tree, "")]
            msg = f"there is nothing under {pattern!r} in the checkpoint{suggest(pattern, names)}"
            raise CheckpointError(msg)
    return kept


_NOTHING = object()


def _pruned(node: Any, path: str, is_named: Callable[[str], bool]) -> Any:
    if path and is_named(path):
        return node
    if not isinstance(node, dict) or len(node) != 1:
        return _NOTHING
    ((mark, content),) = node.items()
    kept = [(name, _pruned(item, joined(path, name), is_named)) for name, item in children(node)]
    kept = [(name, item) for name, item in kept if item is not _NOTHING]
    if not kept:
        return _NOTHING if path else {"d": {}}
    if mark in ("m", "o"):
        return {mark: [list(pair) for pair in kept]}
    if mark in ("l", "t"):
        return {mark: [item for _, item in kept]}
    return {"d": dict(kept)} if mark == "d" else {"n": [content[0], *map(list, kept)]}
