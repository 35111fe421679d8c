"""Checkpoints in one file: save a value, load it again, or straight into what exists.

Floor 6. Knows the public contract, and which framework's arrays are in a value; the file is
:mod:`s3dlio.checkpoint`'s.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from s3dlio.api import current_token, store_of
from s3dlio.checkpoint.kinds import Inlet, Kind, NumPyKind
from s3dlio.checkpoint.layout import Header, Tensor, arrange, pack_header
from s3dlio.checkpoint.loading import Source
from s3dlio.checkpoint.saving import Contents, Saved, send
from s3dlio.checkpoint.selection import arrays_of, chosen, joined, walk_arrays
from s3dlio.checkpoint.tree import put_together, take_apart
from s3dlio.checksums import crc32c
from s3dlio.errors import CheckpointError, OptionError, S3dlioError, suggest
from s3dlio.formats.compression import compressor
from s3dlio.outflow import Outflow
from s3dlio.progress import Tell, telling
from s3dlio.sender import DEFAULT_PART_BYTES
from s3dlio.stores.base import PutOptions
from s3dlio.uri import Uri, from_path_or_uri, parse_object

if TYPE_CHECKING:
    from pathlib import PurePath

_NUMPY = NumPyKind()
#: Framework -> where its kind of arrays is.
_KINDS = {"torch": "s3dlio.torch.leaves", "jax": "s3dlio.jax.leaves"}
#: What other readers' files say of the framework they were saved by.
_FORMATS = {"pt": "torch", "np": "numpy", "flax": "jax"}
_COMPRESSED_IN_FLIGHT = 4


def save_checkpoint(
    uri: str | PurePath,
    data: Any,
    compress: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    overwrite: bool = True,
    allow_pickle: bool = False,
    progress: bool | Tell = False,
) -> dict[str, Any]:
    """Save a value to one file, whole or not at all.

    Tensors are sent from their own memory, several parts at once (from a device through pinned memory, a part
    at a time); no copy of the value is made. The file is in the safetensors layout: one that holds a dict of
    tensors opens with the ``safetensors`` library. Every tensor is saved with its CRC-32C.

    Args:
        uri: The file, exactly here; a local path will do.
        data: Dicts, lists, tuples, named tuples, sets, numbers, text, bytes, ``None``, and arrays of torch, JAX and
            NumPy (of any dtype, bfloat16 and float8 too). Arrays that are the same memory stay one array.
        compress: Compress the file as a whole (zstd). Parts of it can then not be loaded by themselves.
        overwrite: ``False`` refuses to replace a file.
        allow_pickle: Pickle what is none of the above. Loading it needs the same, and trust.
        progress: ``True`` for a bar on a terminal, or a function of (bytes done, bytes in all).

    Returns:
        ``uri``, ``size`` (bytes), ``etag`` and ``checksum`` (``crc32c:`` and eight hexadecimal digits) of the file.

    Raises:
        OptionError: Something in ``data`` cannot be saved; the message says where it is.
        AlreadyExistsError: The file exists, and ``overwrite`` is ``False``.
        StoreError: It cannot be written; nothing of it is left.

    Example:
        >>> import numpy as np, s3dlio
        >>> saved = s3dlio.save_checkpoint("memory://demo/ckpt", {"epoch": 3, "w": np.arange(4)})
        >>> s3dlio.load_checkpoint("memory://demo/ckpt")
        {'epoch': 3, 'w': array([0, 1, 2, 3])}
    """
    where = parse_object(from_path_or_uri(uri), "save_checkpoint")
    try:
        contents = contents_of(data, allow_pickle=allow_pickle)
    except OptionError as error:
        error.concern(where, "save_checkpoint")
        raise
    options = PutOptions(overwrite=overwrite)
    with telling(progress, f"saving {where}") as tell:
        if compress:
            return _send_compressed(where, contents, options, tell)
        saved = send(store_of(where), where, contents, options, current_token(), tell)
    return _told(where, saved)


def _told(where: Uri, saved: Saved) -> dict[str, Any]:
    info = saved.info
    return {"uri": str(where), "size": info.size, "etag": info.etag, "checksum": f"crc32c:{saved.crc32c:08x}"}


def contents_of(data: Any, *, allow_pickle: bool = False) -> Contents:
    """Return what a value's file is made of.

    Raises:
        OptionError: Something in it cannot be saved.
    """
    taken = take_apart(data, _kinds_at_hand(), allow_pickle=allow_pickle)
    facts = {leaf.name: leaf for leaf in taken.leaves}
    tensors = arrange([(leaf.name, leaf.facts.dtype, leaf.facts.shape, leaf.facts.length) for leaf in taken.leaves])
    outlets = [facts[tensor.name].kind.outlet(facts[tensor.name].value) for tensor in tensors]
    formats = {leaf.kind.format for leaf in taken.leaves}
    return Contents(tensors, outlets, taken.tree, formats.pop() if len(formats) == 1 else "")


def _kinds_at_hand() -> list[Kind]:
    """Return the kinds of arrays that there can be: those of frameworks that somebody has imported."""
    return [_NUMPY, *(kind_of(name) for name in _KINDS if name in sys.modules)]


def kind_of(name: str) -> Kind:
    """Return a kind of arrays by its name; imports the framework.

    Raises:
        OptionError: There is no such kind.
        ModuleNotFoundError: The framework is not installed.
    """
    if name == _NUMPY.name:
        return _NUMPY
    if name not in _KINDS:
        msg = f"framework must be numpy, torch or jax, not {name!r}{suggest(name, ('numpy', *_KINDS))}"
        raise OptionError(msg)
    kind: Kind = importlib.import_module(_KINDS[name]).KIND
    return kind


def _send_compressed(where: Uri, contents: Contents, options: PutOptions, tell: Tell) -> dict[str, Any]:
    """Send a file through a compressor: one stream, so one part after the other."""
    plain = _plain_file(contents)
    total = sum(len(piece) for piece in plain)
    stream = compressor("zstd")
    outflow = Outflow(
        store_of(where), where, options,
        part_bytes=DEFAULT_PART_BYTES, width=_COMPRESSED_IN_FLIGHT, parent=current_token(),
    )  # fmt: skip
    try:
        done = 0
        for piece in plain:
            for at in range(0, len(piece), DEFAULT_PART_BYTES):
                step = piece[at : at + DEFAULT_PART_BYTES]
                outflow.write(memoryview(stream.compress(step)))
                done += len(step)
                tell(done, total)
        outflow.write(memoryview(stream.flush()))
        sent = outflow.close()
    except BaseException as error:
        outflow.abort_because(error)
        raise
    checksum = f"crc32c:{sent.crc32c:08x}"
    return {"uri": str(where), "size": sent.total_bytes, "etag": sent.etag, "checksum": checksum}


def _plain_file(contents: Contents) -> list[memoryview]:
    pairs = zip(contents.tensors, contents.outlets, strict=True)
    memories = [outlet.read(0, tensor.length) for tensor, outlet in pairs]
    header = pack_header(contents.tensors, contents.tree, contents.framework, [crc32c(piece) for piece in memories])
    return [memoryview(header), *memories]


def snapshot(data: Any, *, allow_pickle: bool = False) -> Any:
    """Return a copy of a value, in the memory of this machine, that later changes of its arrays do not reach.

    Raises:
        OptionError: Something in it cannot be saved.
    """
    taken = take_apart(data, _kinds_at_hand(), allow_pickle=allow_pickle)
    copies = {leaf.name: leaf.kind.snapshot(leaf.value) for leaf in taken.leaves}
    return put_together(taken.tree, lambda name, _kind, _extra: copies[name], allow_pickle=allow_pickle)


# -- loading ------------------------------------------------------------------------------------------


def load_checkpoint(
    uri: str | PurePath,
    *,
    into: Any = None,
    keys: str | Collection[str] | None = None,
    framework: str | None = None,
    allow_pickle: bool = False,
    progress: bool | Tell = False,
) -> Any:
    """Load what :func:`save_checkpoint` has saved, or anybody's safetensors file.

    Every tensor is read by its range, in parallel, straight into its own memory, and summed on the way. Nothing
    in the file is run.

    Args:
        uri: The file, or a local path.
        into: Load into what exists: a ``torch.nn.Module``, or a value of dicts and lists like the saved one. Its
            tensors and arrays are filled in place (on a device through pinned memory), nothing else is allocated.
        keys: Only what lies under these names: paths with dots as in ``model.encoder``, or patterns as in
            ``*.weight``. The rest is neither read nor returned.
        framework: ``torch``, ``numpy`` or ``jax``: make all arrays this framework's. Default: as they were saved.
        allow_pickle: Load what was pickled, which runs code of whoever wrote the file.
        progress: ``True`` for a bar on a terminal, or a function of (bytes done, bytes in all).

    Returns:
        The value; with ``into``, the saved value whose arrays are those of ``into``. A module's buffers and
        parameters are filled; what is returned is the saved state dict.

    Raises:
        NotFoundError: There is no such file.
        CheckpointError: It does not fit ``into`` (the message lists every name, shape and dtype that differs), or
            has nothing under ``keys``, or holds pickled values.
        IntegrityError: Bytes are not those that were saved.
        FormatError: It is no checkpoint, or is cut short.
    """
    where = parse_object(from_path_or_uri(uri), "load_checkpoint")
    try:
        with telling(progress, f"loading {where}") as tell:
            source = Source(store_of(where), where, current_token())
            return _Load(source, keys, framework, allow_pickle=allow_pickle).run(into, tell)
    except S3dlioError as error:
        error.concern(where, "load_checkpoint")
        raise


class _Wish(NamedTuple):
    """An array that the structure names."""

    kind: str
    extra: dict[str, Any]


class _Load:
    """One file on its way in."""

    def __init__(
        self, source: Source, keys: str | Collection[str] | None, framework: str | None, *, allow_pickle: bool
    ) -> None:
        self._source = source
        self._header: Header = source.header
        self._framework = framework
        self._allow_pickle = allow_pickle
        self._numbers = {tensor.name: number for number, tensor in enumerate(self._header.tensors)}
        self._tree = self._header.tree if source.header.sums or self._header.tree is not None else self._foreign_tree()
        if keys is not None:
            self._tree = chosen(self._tree, [keys] if isinstance(keys, str) else list(keys))

    def _foreign_tree(self) -> Any:
        """Return the structure of a file that tells none: a dict of its tensors."""
        kind = _FORMATS.get(self._header.framework, "numpy")
        return {"d": {tensor.name: {"a": tensor.name, "k": kind} for tensor in self._header.tensors}}

    def run(self, into: Any, tell: Tell) -> Any:
        if into is None:
            inlets = {name: self._fresh(name, wish) for name, wish in self._wishes().items()}
        else:
            inlets = self._existing(into)
        self._source.fill({self._numbers[name]: inlet for name, inlet in inlets.items()}, tell)
        done = {name: inlet.finish() for name, inlet in inlets.items()}
        return put_together(self._tree, lambda name, _kind, _extra: done[name], allow_pickle=self._allow_pickle)

    def _wishes(self) -> dict[str, _Wish]:
        """Return the arrays that the structure names, each once."""
        found: dict[str, _Wish] = {}

        def note(name: str, kind: str, extra: dict[str, Any]) -> Any:
            if name not in self._numbers:
                msg = f"the structure names a tensor {name!r} that the file does not have"
                raise CheckpointError(msg)
            found.setdefault(name, _Wish(kind, extra))
            return b""

        walk_arrays(self._tree, note, allow_pickle=self._allow_pickle)
        return found

    def _fresh(self, name: str, wish: _Wish) -> Inlet:
        tensor = self._header.tensors[self._numbers[name]]
        own = wish.kind in ("numpy", "bytes", "")
        if self._framework in (None, wish.kind) or wish.kind == "bytes":
            kind = _NUMPY if own else kind_of(wish.kind)
            return kind.fresh(tensor.dtype, tensor.shape, wish.extra)
        kind = kind_of(str(self._framework))
        if "dtype" in wish.extra:
            msg = f"array {name!r} has a dtype of {wish.kind} alone: load it without framework={self._framework!r}"
            raise CheckpointError(msg)
        return kind.fresh(tensor.dtype, tensor.shape, {})

    # -- into what exists -------------------------------------------------------------------------

    def _existing(self, into: Any) -> dict[str, Inlet]:
        given = dict(_arrays_in(_state_of(into), ""))
        saved = dict(arrays_of(self._tree, ""))
        faults = [f"{path}: is not in the checkpoint" for path in given if path not in saved]
        faults += [f"{path}: is in the checkpoint only" for path in saved if path not in given]
        inlets: dict[str, Inlet] = {}
        for path, (name, extra) in saved.items():
            if path in given:
                fault = self._misfit(name, extra, *given[path])
                if fault:
                    faults.append(f"{path}: {fault}")
                elif name not in inlets:
                    inlets[name] = given[path][0].existing(given[path][1])
        if faults:
            msg = f"the checkpoint does not fit ({len(faults)} differences):\n  " + "\n  ".join(sorted(faults))
            raise CheckpointError(msg)
        return inlets

    def _misfit(self, name: str, extra: dict[str, Any], kind: Kind, value: Any) -> str:
        tensor: Tensor = self._header.tensors[self._numbers[name]]
        facts = kind.facts(value)
        theirs = extra.get("dtype", tensor.dtype), tuple(extra.get("shape", tensor.shape))
        ours = facts.extra.get("dtype", facts.dtype), tuple(facts.extra.get("shape", facts.shape))
        if ours[1] != theirs[1]:
            return f"shape {list(ours[1])}, and {list(theirs[1])} in the checkpoint"
        return f"dtype {ours[0]}, and {theirs[0]} in the checkpoint" if ours[0] != theirs[0] else ""


def _state_of(into: Any) -> Any:
    """Return a module's state dict, whose tensors are the module's own; anything else as it is."""
    state = getattr(into, "state_dict", None)
    return state() if callable(state) and not isinstance(into, Mapping) else into


def _arrays_in(value: Any, path: str) -> Iterable[tuple[str, tuple[Kind, Any]]]:
    """Yield path, kind and array of a value that is to be filled."""
    kind = next((kind for kind in _kinds_at_hand() if kind.owns(value)), None)
    if kind is not None:
        yield path, (kind, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _arrays_in(item, joined(path, key))
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", range(len(value)))
        for name, item in zip(names, value, strict=True):
            yield from _arrays_in(item, joined(path, name))


def load_checkpoint_with_validation(
    uri: str | PurePath, expected_keys: Collection[str] | None = None, **options: Any
) -> Any:
    """Load a checkpoint that must have certain keys.

    Args:
        uri: The file, or a local path.
        expected_keys: Names at the top of the saved dict, or paths with dots. ``None``: nothing is decoded.
        **options: As of :func:`load_checkpoint`.

    Returns:
        The value; without ``expected_keys`` the file's bytes (``bytes``), once every sum in it was checked.

    Raises:
        CheckpointError: Keys are missing; the message names all of them.
        StoreError: As :func:`load_checkpoint`.
    """
    where = parse_object(from_path_or_uri(uri), "load_checkpoint")
    if expected_keys is None:
        return Source(store_of(where), where, current_token()).whole().to_bytes()
    value = load_checkpoint(uri, **options)
    missing = [key for key in expected_keys if not _has(value, key)]
    if missing:
        there = ", ".join(map(repr, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
        msg = f"the checkpoint lacks {', '.join(map(repr, missing))}; it has {there}"
        raise CheckpointError(msg, uri=str(where), operation="load_checkpoint")
    return value


def _has(value: Any, key: str) -> bool:
    if isinstance(value, Mapping) and key in value:
        return True
    first, dot, rest = key.partition(".")
    return bool(dot) and isinstance(value, Mapping) and first in value and _has(value[first], rest)
