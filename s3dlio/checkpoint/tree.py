"""A saved value as plain JSON and a list of arrays, and back.

Floor 4. Pure but for asking the kinds of arrays what they are; must not know files. Nothing that is loaded
runs code: structures are the few below, and what is none of them is refused when it is saved (or pickled, if
the user wants that).

===================  ========================================================================
``None``, ``bool``    as they are; so are ``int`` and ``str``, and ``float`` but for nan and infinities
``{"i": "0x..."}``    an integer of thousands of digits
``{"f": "nan"}``      nan and infinities
``{"c": [re, im]}``   a complex number
``{"l": [...]}``      a list; ``t`` a tuple, ``s`` a set, ``z`` a frozenset
``{"d": {...}}``      a dict whose keys are all strings; ``m`` one with other keys: ``[[key, value], ...]``
``{"o": [...]}``      an ``OrderedDict``, as ``m``; ``y`` one of torch: its ``_metadata``, then the pairs
``{"u": [...]}``      a ``Counter``, as ``m``
``{"n": [...]}``      a named tuple: its name, and as many ``[field, value]``
``{"b": "..."}``      bytes, base64
``{"a": name, ...}``  an array: the tensor ``name``; ``k`` its kind, ``x`` what the kind wants to know
``{"p": name}``       something pickled, in the tensor ``name``
===================  ========================================================================
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import itertools
import keyword
import math
import pickle
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from s3dlio.buffers import BytesView
from s3dlio.checkpoint.kinds import Facts, Kind
from s3dlio.errors import CheckpointError, FormatError, OptionError

Path = tuple[str, ...]
#: Longer bytes become a tensor: a header is not the place for them.
_INLINE_BYTES = 1024
#: Python's own limit is 1,000 calls, of which a level takes up to four, and the caller has some already.
_MOST_DEPTH = 100
#: Python writes and reads no longer integers in digits (4,300 of them).
_MOST_INT_BITS = 14_000
_BYTES = (bytes, bytearray, memoryview, BytesView)


class Leaf(NamedTuple):
    """One array of a saved value.

    Attributes:
        name: Of its tensor.
        kind: Whose array it is.
        value: The array.
        facts: What is known of it.
    """

    name: str
    kind: Kind
    value: Any
    facts: Facts


class Taken(NamedTuple):
    """A value taken apart.

    Attributes:
        tree: Plain JSON values.
        leaves: Its arrays, each once.
    """

    tree: Any
    leaves: list[Leaf]


def take_apart(value: Any, kinds: Sequence[Kind], *, allow_pickle: bool = False) -> Taken:
    """Take a value apart.

    Arrays that are the same memory seen in the same way become one tensor, and one array again.

    Args:
        value: Dicts, lists, tuples, named tuples, sets, numbers, text, bytes, ``None`` and arrays.
        kinds: Whose arrays there may be; NumPy's is the first.
        allow_pickle: Pickle what is none of these.

    Raises:
        OptionError: There is something else in it, or arrays that share a part of their memory.
    """
    apart = _Apart(kinds, allow_pickle=allow_pickle)
    tree = apart.encode(value, ())
    refuse_overlaps(apart.leaves)
    return Taken(tree, apart.leaves)


class _Apart:
    def __init__(self, kinds: Sequence[Kind], *, allow_pickle: bool) -> None:
        self._kinds = kinds
        self._allow_pickle = allow_pickle
        self.leaves: list[Leaf] = []
        self._names: set[str] = {"__metadata__"}
        self._known: dict[Hashable, str] = {}

    def encode(self, value: Any, path: Path) -> Any:
        if len(path) > _MOST_DEPTH:
            msg = f"{_shown(path[:5])}... is nested more than {_MOST_DEPTH} deep, or contains itself"
            raise OptionError(msg)
        if type(value) is int and value.bit_length() > _MOST_INT_BITS:
            return {"i": hex(value)}
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"f": repr(value)}
        for kind in self._kinds:
            if kind.owns(value) and not isinstance(value, BytesView):  # which are bytes, though arrays to NumPy
                return self._array(kind, value, path)
        encode = next((way for types, way in _WAYS if isinstance(value, types)), None)
        found = encode(self, value, path) if encode else None
        return self._pickled(value, path) if found is None else found

    def _array(self, kind: Kind, value: Any, path: Path) -> Any:
        try:
            facts = kind.facts(value)
        except OptionError as error:
            raise OptionError(f"{_shown(path)}: {error.message}") from error
        known = (kind.name, facts.identity)
        name = self._known.get(known)
        if name is None:
            name = self._known[known] = self._new_name(path)
            self.leaves.append(Leaf(name, kind, value, facts))
        extra = {"x": facts.extra} if facts.extra else {}
        return {"a": name, "k": kind.name, **extra}

    def _new_name(self, path: Path) -> str:
        # Half a surrogate pair is text to Python, and no text to other readers of the header.
        stem = name = ".".join(path).encode("utf-8", "replace").decode() if path else "value"
        number = 1
        while name in self._names:
            number += 1
            name = f"{stem}#{number}"
        self._names.add(name)
        return name

    def _hint(self, value: Any) -> str:
        if callable(getattr(value, "state_dict", None)) and not isinstance(value, type):
            return "; it has a state_dict(): save that"
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return ""
        pytrees = (
            "; s3dlio.jax.save_sharded saves any pytree" if any(kind.name == "jax" for kind in self._kinds) else ""
        )
        return f" (vars() of a dataclass is a dict{pytrees})"

    def _pickled(self, value: Any, path: Path) -> Any:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self._allow_pickle:
            msg = (
                f"{_shown(path)} is a {kind}, which cannot be saved without pickle: save what it is made of"
                " (numbers, text, arrays in dicts, lists, tuples), or give allow_pickle=True when saving and loading"
                f"{self._hint(value)}"
            )
            raise OptionError(msg)
        return {"p": self._array(self._kinds[0], np.frombuffer(pickle.dumps(value), np.uint8), path)["a"]}

    def bytes(self, value: Any, path: Path) -> Any:
        if len(value) <= _INLINE_BYTES:
            return {"b": base64.b64encode(bytes(value)).decode()}
        # A copy: the identity of memory that others may use again says nothing.
        tensor = self._array(self._kinds[0], np.frombuffer(bytes(value), np.uint8), path)
        return {**tensor, "k": "bytes"}

    def items(self, value: Any, path: Path) -> list[Any]:
        return [self.encode(item, (*path, str(number))) for number, item in enumerate(value)]

    def pairs(self, value: Mapping[Any, Any], path: Path) -> list[Any]:
        return [[self._key(key, path), self.encode(item, (*path, str(key)))] for key, item in value.items()]

    def _key(self, key: Any, path: Path) -> Any:
        plain = key is None or type(key) in (bool, int, str, float)
        if not plain and not (type(key) is tuple and all(type(part) in (bool, int, str, float) for part in key)):
            msg = f"{_shown(path)} has a key that is a {type(key).__name__}: {key!r:.80}"
            raise OptionError(msg)
        return self.encode(key, path)

    def mapping(self, value: Any, path: Path) -> Any:
        if type(value) is OrderedDict:
            versions = getattr(value, "_metadata", None)  # which torch's modules keep there, and ask for
            if isinstance(versions, dict):
                return {"y": [self.encode(versions, path), *self.pairs(value, path)]}
            return {"o": self.pairs(value, path)}
        if type(value) is Counter:  # which torch's schedules have, and count on
            return {"u": self.pairs(value, path)}
        if type(value) is not dict and not _is_plain_mapping(value):
            return None
        if all(type(key) is str for key in value):
            return {"d": {key: self.encode(item, (*path, key)) for key, item in value.items()}}
        return {"m": self.pairs(value, path)}

    def tuple(self, value: Any, path: Path) -> Any:
        fields = getattr(value, "_fields", None)
        if fields is None:
            return {"t": self.items(value, path)}
        parts = [[field, self.encode(item, (*path, field))] for field, item in zip(fields, value, strict=True)]
        return {"n": [type(value).__name__, *parts]}

    def complex(self, value: complex, path: Path) -> Any:
        return {"c": [self.encode(value.real, path), self.encode(value.imag, path)]}


def _is_plain_mapping(value: Any) -> bool:
    """Tell whether a dict's own class adds nothing that would be lost: ``defaultdict``, and state dicts."""
    return isinstance(value, dict) and type(value).__module__.partition(".")[0] in ("collections", "torch")


_WAYS: tuple[tuple[Any, Callable[[_Apart, Any, Path], Any]], ...] = (
    (dict, _Apart.mapping),
    (tuple, _Apart.tuple),
    (list, lambda apart, value, path: {"l": apart.items(value, path)}),
    (_BYTES, _Apart.bytes),
    (complex, _Apart.complex),
    (frozenset, lambda apart, value, path: {"z": apart.items(value, path)}),
    (set, lambda apart, value, path: {"s": apart.items(value, path)}),
)


def refuse_overlaps(leaves: list[Leaf]) -> None:
    """Refuse arrays that share a part of their memory: saved apart, they would not share it any more.

    Raises:
        OptionError: It names two of them.
    """
    if shared := overlap_of(leaves):
        one, other = (leaf.name for leaf in shared)
        msg = (
            f"{one!r} and {other!r} share a part of their memory (or lie between each other's items),"
            " which a checkpoint cannot keep: save one of them, or a copy (.clone(), .copy())"
        )
        raise OptionError(msg)


def overlap_of(leaves: list[Leaf]) -> tuple[Leaf, Leaf] | None:
    """Return two arrays that share a part of their memory, if there are any."""
    lying = sorted((leaf for leaf in leaves if leaf.facts.region), key=lambda leaf: _region(leaf)[:2])
    for one, other in itertools.pairwise(lying):
        space, _, end = _region(one)
        if _region(other)[0] == space and _region(other)[1] < end:
            return one, other
    return None


def _region(leaf: Leaf) -> tuple[str, int, int]:
    space, begin, end = leaf.facts.region or ("", 0, 0)
    return str(space), begin, end


def _shown(path: Path) -> str:
    return repr(".".join(path)) if path else "the value"


# -- back ---------------------------------------------------------------------------------------------


def key_of(node: Any) -> Any:
    """Return the key of a dict that a node stands for.

    Raises:
        FormatError: It stands for none.
    """

    def no_array(_name: str, _kind: str, _extra: dict[str, Any]) -> Any:
        msg = "a key cannot be an array"
        raise FormatError(msg)

    if type(node) in (str, int):
        return node
    key = put_together(node, no_array)
    try:
        hash(key)
    except TypeError as error:
        msg = f"a key cannot be {key!r:.80}"
        raise FormatError(msg) from error
    return key


def put_together(tree: Any, array: Callable[[str, str, dict[str, Any]], Any], *, allow_pickle: bool = False) -> Any:
    """Return the value that a tree stands for.

    Args:
        tree: As :func:`take_apart` has made it.
        array: Returns the array of (tensor's name, kind, what the kind wants to know); for kind ``bytes`` and for
            pickles an array of bytes.
        allow_pickle: Load what was pickled, which runs code of whoever wrote the file.

    Raises:
        FormatError: This is no such tree.
        CheckpointError: Something in it was pickled, and that is not allowed.
    """
    try:
        return _Together(array, allow_pickle=allow_pickle).decode(tree)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        if isinstance(error, (FormatError, OptionError)):
            raise
        msg = f"the structure cannot be read: {error}"
        raise FormatError(msg) from error


class _Together:
    def __init__(self, array: Callable[[str, str, dict[str, Any]], Any], *, allow_pickle: bool) -> None:
        self._array = array
        self._allow_pickle = allow_pickle
        self._depth = 0

    def decode(self, node: Any) -> Any:
        if not isinstance(node, dict):
            if isinstance(node, list):
                msg = "a list stands where a value is due"
                raise FormatError(msg)
            return node
        if "a" in node:
            extra = node.get("x", {})
            found = self._array(str(node["a"]), str(node.get("k", "")), extra if isinstance(extra, dict) else {})
            return bytes_in(found) if node.get("k") == "bytes" else found
        if len(node) != 1:
            msg = f"a node has the fields {sorted(node)}"
            raise FormatError(msg)
        ((mark, content),) = node.items()
        if mark not in _READERS:
            msg = f"a node of kind {mark!r} is not known here: the checkpoint is newer than this library"
            raise FormatError(msg)
        self._depth += 1
        if self._depth > 2 * _MOST_DEPTH:  # nothing so deep is ever written, and not every Python stops by itself
            msg = f"the structure is nested more than {2 * _MOST_DEPTH} deep"
            raise FormatError(msg)
        value = _READERS[mark](self, content)
        self._depth -= 1
        return value

    def items(self, content: Any) -> list[Any]:
        return [self.decode(item) for item in _listed(content)]

    def pairs(self, content: Any) -> list[tuple[Any, Any]]:
        return [(self.decode(key), self.decode(value)) for key, value in _listed(content)]

    def named_tuple(self, content: Any) -> Any:
        name, *parts = _listed(content)
        fields = [field for field, _ in parts]
        if not all(_is_field(text) for text in (name, *fields)):
            msg = "the fields of a named tuple are not names"
            raise FormatError(msg)
        return _named_tuple(name, tuple(fields))(*[self.decode(value) for _, value in parts])

    def ordered(self, content: Any) -> Any:
        versions, *pairs = _listed(content)
        found = OrderedDict(self.pairs(pairs))
        found._metadata = self.decode(versions)  # type: ignore[attr-defined]  # noqa: SLF001 - where torch looks
        return found

    def integer(self, content: Any) -> int:
        return int(content, 16)

    def pickled(self, content: Any) -> Any:
        if not self._allow_pickle:
            msg = "the checkpoint holds pickled values: give allow_pickle=True if you trust whoever has written it"
            raise CheckpointError(msg)
        return pickle.loads(bytes_in(self._array(str(content), "bytes", {})))  # noqa: S301 - the user's own wish

    def number(self, content: Any) -> float:
        if content not in ("nan", "inf", "-inf"):
            msg = f"{content!r} is no number"
            raise FormatError(msg)
        return float(content)


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        msg = f"a list is due, not {type(content).__name__}"
        raise FormatError(msg)
    return content


def bytes_in(array: Any) -> bytes:
    """Return the bytes of an array; never ``bytes(array)``, which makes as many as a lone number says."""
    return array if type(array) is bytes else bytes(memoryview(array))


def _is_field(text: Any) -> bool:
    return isinstance(text, str) and text.isidentifier() and not keyword.iskeyword(text)


@functools.lru_cache(maxsize=1024)
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    """Return one class for all named tuples of a name and fields: to make one takes a third of a millisecond."""
    made = namedtuple(name, fields, rename=True)  # type: ignore[misc]  # noqa: PYI024 - known only now
    if made._fields != fields:
        msg = f"a named tuple cannot have the fields {fields!r:.200}"
        raise FormatError(msg)
    return made


_READERS: dict[str, Callable[[_Together, Any], Any]] = {
    "f": _Together.number,
    "i": _Together.integer,
    "c": lambda together, content: complex(*map(together.decode, _listed(content))),
    "l": _Together.items,
    "t": lambda together, content: tuple(together.items(content)),
    "s": lambda together, content: set(together.items(content)),
    "z": lambda together, content: frozenset(together.items(content)),
    "d": lambda together, content: {key: together.decode(value) for key, value in content.items()},
    "m": lambda together, content: dict(together.pairs(content)),
    "o": lambda together, content: OrderedDict(together.pairs(content)),
    "u": lambda together, content: Counter(dict(together.pairs(content))),
    "y": _Together.ordered,
    "n": _Together.named_tuple,
    "b": lambda _together, content: base64.b64decode(content, validate=True),
    "p": _Together.pickled,
}
