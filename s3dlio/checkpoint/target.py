"""What a checkpoint is loaded into: the arrays of a value that exists, matched with those of a file by their paths.

Floor 4. Knows what fits and what does not, and says all of it before a byte is written; must not know files.
What is given may also only describe arrays (JAX's abstract ones): those are made, and nothing is filled in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from s3dlio.checkpoint.kinds import Inlet, Kind
from s3dlio.checkpoint.layout import Tensor, are_counts
from s3dlio.checkpoint.selection import Path, shown
from s3dlio.checkpoint.tree import Leaf, overlap_of
from s3dlio.checkpoint.wrappers import wrapping_told
from s3dlio.errors import CheckpointError, FormatError, OptionError

_MISSING = "is not in the checkpoint"
_NO_ARRAY = "is an array here, and something else in the checkpoint (a number, say): put that or None in its place"


class SavedArray(NamedTuple):
    """An array of the file.

    Attributes:
        path: Where it lies in the saved value.
        tensor: Its bytes' place; two paths to one array have the same.
        extra: What its kind wants to know.
    """

    path: Path
    tensor: Tensor
    extra: Mapping[str, Any]


class _Holder(NamedTuple):
    """Somebody who holds arrays, and other things: a module, an optimizer."""

    path: Path
    object: Any
    state: Any


class _Follower(NamedTuple):
    """Memory that gets the same bytes as another array."""

    name: str
    inlet: Inlet
    kind: Kind
    length: int


class Target:
    """A value that is to be filled: dicts, lists and tuples of arrays, and of objects that have a ``state_dict``.

    Args:
        value: The value.
        kinds: Whose arrays there may be.
    """

    def __init__(self, value: Any, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._holders: list[_Holder] = []
        self._followers: list[_Follower] = []
        self._faults: dict[Path, str] = {}
        self._given: dict[Path, Leaf] = {}
        self._classes: dict[Path, Any] = {}
        self._absent: list[Path] = []
        self._is_chosen = False
        self._note(value, ())

    def _note(self, value: Any, path: Path) -> None:
        """Note the arrays in a value. NumPy's scalars are not memory: they come with the checkpoint."""
        state = _state_of(value)
        if state is not value:
            self._holders.append(_Holder(path, value, state))
        kind = next((kind for kind in self._kinds if kind.owns(state)), None)
        if kind is None:
            if isinstance(state, tuple) and hasattr(state, "_fields"):
                self._classes[path] = type(state)
            for key, item in _items(state):
                self._note(item, (*path, key))
        elif not isinstance(state, np.generic):
            try:
                self._given[path] = Leaf(shown(path), kind, state, kind.facts(state))
            except OptionError as error:
                self._faults[path] = _why_not(kind, state) or error.message

    def look_for_holders(self, is_there: Callable[[Path], bool]) -> None:
        """Note who is to be given what the checkpoint does not have; whose arrays it lacks will be told by these.

        Args:
            is_there: Tells whether there is something in the checkpoint under a path.
        """
        for path, holder, _ in self._holders:
            loads = hasattr(holder, "load_state_dict") and not any(_begins(given, path) for given in self._given)
            if loads and not is_there(path):
                self._faults[path] = _MISSING

    def inlets(
        self,
        saved: Sequence[SavedArray],
        is_wanted: Callable[[str], bool] | None = None,
        *,
        is_there: Callable[[Path], bool] = lambda _: False,
    ) -> dict[str, Inlet]:
        """Return where the bytes of each tensor go to, by its name.

        Args:
            saved: The arrays that are to be loaded.
            is_wanted: Tells by its path whether an array is to be filled; ``None`` for all.
            is_there: Tells whether anything was saved under a path, if no array.

        Raises:
            CheckpointError: Something does not fit; the message lists all of it.
        """
        faults = self._missing({one.path for one in saved}, is_wanted)
        faults |= {path: _NO_ARRAY for path, fault in faults.items() if fault == _MISSING and is_there(path)}
        self._is_chosen = is_wanted is not None
        inlets: dict[str, Inlet] = {}
        taken: dict[tuple[str, Any], Leaf] = {}
        for path, tensor, extra in saved:
            leaf = self._given.get(path)
            if leaf is None or (tensor.name, leaf.facts.identity) in taken:
                continue
            try:
                _require_fit(leaf, tensor, extra)
                self._open(leaf, tensor, inlets)
                taken[tensor.name, leaf.facts.identity] = leaf
            except OptionError as error:
                faults[path] = error.message
        self._refuse(faults, [leaf for leaf in taken.values() if leaf.facts.length])
        return inlets

    def _missing(self, there: set[Path], is_wanted: Callable[[str], bool] | None) -> dict[Path, str]:
        """Return what is on one side only. What is the same memory as something that is there is not missing."""
        covered = {leaf.facts.identity for path, leaf in self._given.items() if path in there and leaf.kind.has_memory}
        extra = there - self._given.keys()
        if is_wanted is None:  # with keys, load_state_dict gets no more than what was there before
            extra = {path for path in extra if not self._may_grow(path)}
        faults = dict.fromkeys(extra, "is in the checkpoint only")
        for path, leaf in self._given.items():
            if path in there or (is_wanted is not None and not is_wanted(shown(path))):
                continue
            self._absent.append(path)
            if leaf.facts.identity not in covered:
                faults[path] = _MISSING
        return faults | {path: fault for path, fault in self._faults.items() if path in there or is_wanted is None}

    def _may_grow(self, path: Path) -> bool:
        """Tell whether an array is of the state that an optimizer makes in its first step, and has not made yet."""
        return any(_begins(path, (*holder.path, "state")) and _is_before_first_step(holder) for holder in self._holders)

    def _open(self, leaf: Leaf, tensor: Tensor, inlets: dict[str, Inlet]) -> None:
        inlet = leaf.kind.existing(leaf.value)
        if tensor.name in inlets:
            if not leaf.kind.has_memory:
                msg = "is one array with another one in the checkpoint, which goes elsewhere: give both one sharding"
                raise OptionError(msg)
            self._followers.append(_Follower(tensor.name, inlet, leaf.kind, tensor.length))
        else:
            inlets[tensor.name] = inlet

    def _refuse(self, faults: Mapping[Path, str], leaves: list[Leaf]) -> None:
        told = [f"{shown(path) or 'the value'}: {fault}" for path, fault in faults.items()]
        if shared := overlap_of(leaves):
            one, other = (leaf.name for leaf in shared)
            told.append(
                f"{one}, {other}: are two arrays in the checkpoint, and share memory here: untie them, or load one of "
                "them alone (keys=)"
            )
        if told:
            msg = f"the checkpoint does not fit ({len(told)} differences):\n  " + "\n  ".join(sorted(told))
            there = [path for path in faults if path not in self._given]
            here = [path for path in faults if path in self._given]
            raise CheckpointError(msg + (self._deeper(faults) or wrapping_told(there, here)))

    def _deeper(self, faults: Iterable[Path]) -> str:
        """Say so, if what is given lies one step deeper in the checkpoint: a model's state, in that of a run."""
        below = next((path[0] for path in faults if len(path) > 1 and path[1:] in self._given), None)
        return "" if below is None else f"\nit has such names below {below!r}: into={{{below!r}: ...}}, keys={below!r}"

    def follow(self, arrays: Mapping[str, Any], kind_of: Callable[[Any], Kind]) -> None:
        """Copy what has landed to where it is wanted as well.

        Args:
            arrays: What has landed, by the tensors' names.
            kind_of: Returns the kind of an array.
        """
        for name, inlet, _, length in self._followers:
            source = kind_of(arrays[name]).outlet(arrays[name])
            memory = inlet.memory(0, length)
            memory[:] = source.read(0, length)
            inlet.landed(0, length, memory)
            inlet.finish()

    def in_its_classes(self, value: Any, path: Path = ()) -> Any:
        """Return what was loaded with the target's own classes of named tuples: JAX tells trees apart by them."""
        if not self._classes:
            return value
        if isinstance(value, tuple):
            fields = getattr(value, "_fields", None)
            keys = range(len(value)) if fields is None else fields
            items = [self.in_its_classes(item, (*path, key)) for key, item in zip(keys, value, strict=True)]
            ours = self._classes.get(path)
            theirs: Any = ours if ours and ours._fields == fields else type(value)
            return tuple(items) if fields is None else theirs._make(items)
        if isinstance(value, (dict, list)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                value[key] = self.in_its_classes(item, (*path, key))
        return value

    def _is_in_part(self, holder: _Holder) -> bool:
        """Tell whether the checkpoint, or what was chosen of it, has a part only of what somebody holds."""
        return self._is_chosen or any(_begins(path, holder.path) for path in self._absent)

    def settle(self, value: Any) -> None:
        """Hand what was loaded to those that hold more than arrays.

        Their arrays are filled already; this is for what hooks, schedules and counters make of it.

        Raises:
            CheckpointError: They do not take it.
        """
        for holder in self._holders:
            load = getattr(holder.object, "load_state_dict", None)
            if load is None:
                continue
            try:
                load(holder.state if self._is_in_part(holder) else _part_of(value, holder.path))
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                msg = f"{type(holder.object).__name__}.load_state_dict() refuses what was loaded: {error}"
                raise CheckpointError(msg) from error


def _why_not(kind: Kind, array: Any) -> str:
    """Return why an array cannot be filled, or nothing: a refusal of ``facts`` speaks of saving."""
    try:
        kind.existing(array)
    except OptionError as error:
        return error.message
    return ""


def _require_fit(leaf: Leaf, tensor: Tensor, extra: Mapping[str, Any]) -> None:
    told = extra.get("shape", list(tensor.shape))
    if not are_counts(told):
        msg = f"tensor {tensor.name!r} has the shape {told!r:.200}"
        raise FormatError(msg)
    ours = leaf.facts.extra.get("shape", list(leaf.facts.shape))
    if ours != told:
        msg = f"shape {ours}, and {told} in the checkpoint"
        raise OptionError(msg)
    ours, told = leaf.facts.extra.get("dtype", leaf.facts.dtype), extra.get("dtype", tensor.dtype)
    if ours != told:
        msg = f"dtype {ours}, and {told!r:.200} in the checkpoint"
        raise OptionError(msg)
    if leaf.facts.length != tensor.length:
        msg = f"tensor {tensor.name!r} has {tensor.length} bytes, which an array of shape {told} cannot have"
        raise FormatError(msg)


def _state_of(value: Any) -> Any:
    """Return a module's state dict, whose tensors are the module's own; anything else as it is."""
    state = getattr(value, "state_dict", None)
    return state() if callable(state) and not isinstance(value, (Mapping, type)) else value


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple)):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    return ()


def _is_before_first_step(holder: _Holder) -> bool:
    """Tell whether this is an optimizer whose ``load_state_dict`` takes what it has no arrays for as yet."""
    state = holder.state
    return isinstance(state, Mapping) and "param_groups" in state and "state" in state and not state["state"]


def _begins(path: Path, start: Path) -> bool:
    return path[: len(start)] == start


def _part_of(value: Any, path: Path) -> Any:
    for key in path:
        value = getattr(value, key) if isinstance(value, tuple) and isinstance(key, str) else value[key]
    return value
