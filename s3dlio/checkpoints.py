"""Checkpoints in one file: save a value, load it again, or straight into what exists.

Floor 6. Knows the public contract, and which framework's arrays are in a value; the file is
:mod:`s3dlio.checkpoint`'s.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from s3dlio.bounds import flag, is_a
from s3dlio.checkpoint.kinds import Inlet, Kind, NumPyKind
from s3dlio.checkpoint.layout import arrange
from s3dlio.checkpoint.loading import Source
from s3dlio.checkpoint.saving import Contents, Saved, send, whole_file
from s3dlio.checkpoint.selection import Choice, arrays_of, is_there, shown, walk_arrays
from s3dlio.checkpoint.target import SavedArray, Target
from s3dlio.checkpoint.tree import bytes_in, put_together, take_apart
from s3dlio.context import current_token, store_of
from s3dlio.errors import CheckpointError, FormatError, IntegrityError, OptionError, S3dlioError, suggest
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
#: Framework -> where its kind of arrays is that are only described, and made when they are loaded.
_DESCRIBED_KINDS = {"jax": "s3dlio.jax.abstract"}
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
    at a time); no copy is made, but of arrays that are not contiguous. The file is in the safetensors layout: one
    that holds a dict of tensors opens with the ``safetensors`` library. Every tensor is saved with its CRC-32C.
    A local file of more than 16 MiB is written past the page cache where its file system allows it (``O_DIRECT``),
    through it elsewhere; either way it is on the disk when this returns.

    Args:
        uri: The file, exactly here; a local path will do.
        data: Dicts, lists, tuples, named tuples, sets, numbers, text, bytes, ``None``, and arrays of torch, JAX and
            NumPy (of any dtype, bfloat16 and float8 too). Arrays that are the same memory stay one array.
        compress: Compress the file as a whole (zstd). Parts of it can then not be loaded by themselves. Tensors are
            read twice, 16 MiB at a time, since their sums come before their bytes.
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
    flag("compress", compress)
    flag("overwrite", overwrite)
    try:
        contents = contents_of(data, allow_pickle=allow_pickle)
    except OptionError as error:
        error.concern(where, "save_checkpoint")
        raise
    options = PutOptions(overwrite=overwrite, bulk=True)
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
    taken = take_apart(data, _kinds_at_hand(), allow_pickle=flag("allow_pickle", allow_pickle))
    facts = {leaf.name: leaf for leaf in taken.leaves}
    tensors = arrange([(leaf.name, leaf.facts.dtype, leaf.facts.shape, leaf.facts.length) for leaf in taken.leaves])
    outlets = [facts[tensor.name].kind.outlet(facts[tensor.name].value) for tensor in tensors]
    formats = {leaf.kind.format for leaf in taken.leaves}
    return Contents(tensors, outlets, taken.tree, formats.pop() if len(formats) == 1 else "")


def _kinds_at_hand() -> list[Kind]:
    """Return the kinds of arrays that there can be: those of frameworks that somebody has imported."""
    return [_NUMPY, *(kind_of(name) for name in _KINDS if name in sys.modules)]


def _kinds_to_load_into() -> list[Kind]:
    """Return these, and the kinds of descriptions that arrays can be made by."""
    described = [importlib.import_module(place).KIND for name, place in _DESCRIBED_KINDS.items() if name in sys.modules]
    return [*_kinds_at_hand(), *described]


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
    store = store_of(where)
    total, plain = whole_file(contents, store.limits)
    stream = compressor("zstd")
    outflow = Outflow(
        store, where, options, part_bytes=DEFAULT_PART_BYTES, width=_COMPRESSED_IN_FLIGHT, parent=current_token()
    )
    try:
        done = 0
        for piece in plain:
            outflow.write(memoryview(stream.compress(piece)))
            done += len(piece)
            tell(done, total)
        outflow.write(memoryview(stream.flush()))
        sent = outflow.close()
    except BaseException as error:
        outflow.abort_because(error)
        raise
    checksum = f"crc32c:{sent.crc32c:08x}"
    return {"uri": str(where), "size": sent.total_bytes, "etag": sent.etag, "checksum": checksum}


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
        into: Load into what exists: a ``torch.nn.Module`` or an optimizer, or a value of dicts and lists like the
            saved one, with such objects in it. Tensors and arrays are filled in place (on a device through pinned
            memory), nothing else is allocated but what an optimizer has not made before its first step. Nothing is
            written if something does not fit; if bytes turn out to be damaged or cannot be read, a part has been
            written. JAX's arrays are never filled, but made anew on the devices of those in ``into``;
            ``jax.ShapeDtypeStruct`` leaves (of ``jax.eval_shape``) will do, and arrays go where their ``sharding``
            says, or to the default device.
        keys: Only what lies under these names: paths with dots as in ``model.encoder``, or patterns as in
            ``*.weight``. The rest is neither read nor returned, nor touched in ``into``.
        framework: ``torch``, ``numpy`` or ``jax``: make all arrays this framework's. Default: as they were saved.
        allow_pickle: Load what was pickled, which runs code of whoever wrote the file.
        progress: ``True`` for a bar on a terminal, or a function of (bytes done, bytes in all).

    Returns:
        The value, named tuples of classes that are called alike; with ``into``, the saved value whose arrays and
        classes of named tuples are those of ``into``, but for JAX's arrays, which are new. Objects in ``into`` are
        given it by their ``load_state_dict``, for what is not arrays; with ``keys``, arrays alone are restored.

    Raises:
        NotFoundError: There is no such file.
        CheckpointError: It does not fit ``into`` (the message lists every name, shape and dtype that differs), or
            has nothing under ``keys``, or holds pickled values.
        IntegrityError: Bytes are not those that were saved.
        FormatError: It is no checkpoint, or is cut short.
    """
    return _loaded(uri, _LoadOptions(into, keys, framework, allow_pickle, progress))


def load_shard(uri: str, checksum: str, **options: Any) -> Any:
    """Load a file that must be the one with a certain checksum; options as of :func:`load_checkpoint`.

    Raises:
        IntegrityError: It is another file, even if one that is whole.
    """
    return _loaded(uri, _LoadOptions(**options), checksum)


class _LoadOptions(NamedTuple):
    """As of :func:`load_checkpoint`."""

    into: Any = None
    keys: str | Collection[str] | None = None
    framework: str | None = None
    allow_pickle: bool = False
    progress: bool | Tell = False


def _loaded(uri: str | PurePath, options: _LoadOptions, checksum: str = "") -> Any:
    where = parse_object(from_path_or_uri(uri), "load_checkpoint")
    try:
        with telling(options.progress, f"loading {where}") as tell:
            source = Source(store_of(where), where, current_token())
            found = f"crc32c:{source.crc32c or 0:08x}"
            if checksum and (source.crc32c is None or found != checksum):
                msg = f"this is not the file that was saved: {found}, and {checksum} in the manifest"
                raise IntegrityError(msg)
            return _Load(source, options).run(tell)
    except RecursionError as error:
        msg = "the structure is nested too deeply"
        raise FormatError(msg, uri=str(where), operation="load_checkpoint") from error
    except S3dlioError as error:
        error.concern(where, "load_checkpoint")
        raise


class _Wish(NamedTuple):
    """An array that the structure names."""

    kind: str
    extra: dict[str, Any]


class _Load:
    """One file on its way in."""

    def __init__(self, source: Source, options: _LoadOptions) -> None:
        self._source = source
        self._options = options
        flag("allow_pickle", options.allow_pickle)
        self._tensors = {tensor.name: number for number, tensor in enumerate(source.header.tensors)}
        self._whole = self._tree = source.header.tree if source.header.is_own else self._foreign_tree()
        self._choice: Choice | None = None
        if options.framework is not None:
            kind_of(options.framework)
        if options.keys is not None:
            if not is_a(options.keys, str, Collection):
                msg = f"keys must be names, not {options.keys!r:.80}"
                raise OptionError(msg)
            self._choice = Choice([options.keys] if isinstance(options.keys, str) else list(options.keys))
            self._tree = self._choice.of(self._whole)

    def _foreign_tree(self) -> Any:
        """Return the structure of a file that tells none: a dict of its tensors."""
        header = self._source.header
        kind = _FORMATS.get(header.framework, "numpy")
        return {"d": {tensor.name: {"a": tensor.name, "k": kind} for tensor in header.tensors}}

    def run(self, tell: Tell) -> Any:
        wishes = self._wishes()
        target = None if self._options.into is None else Target(self._options.into, _kinds_to_load_into())
        inlets = self._inlets_of(target) if target else {}
        inlets |= {name: self._fresh(name, wish) for name, wish in wishes.items() if name not in inlets}
        self._source.fill({self._tensors[name]: inlet for name, inlet in inlets.items()}, tell)
        done = {name: inlet.finish() for name, inlet in inlets.items()}
        # Bytes are made once, however often they are named.
        done |= {name: bytes_in(done[name]) for name, wish in wishes.items() if wish.kind == "bytes"}
        if target:
            target.follow(done, _kind_at_hand)
        allow_pickle = self._options.allow_pickle
        value = put_together(self._tree, lambda name, _kind, _extra: done[name], allow_pickle=allow_pickle)
        if target:
            value = target.in_its_classes(value)
            target.settle(value)
        return value

    def _inlets_of(self, target: Target) -> dict[str, Inlet]:
        saved_under = functools.partial(is_there, self._whole)
        target.look_for_holders(saved_under)
        is_wanted = self._choice.names if self._choice else None
        return target.inlets(self._saved_arrays(), is_wanted, is_there=saved_under)

    def _wishes(self) -> dict[str, _Wish]:
        """Return the arrays that the structure names, each once."""
        found: dict[str, _Wish] = {}

        def note(name: str, kind: str, extra: dict[str, Any]) -> Any:
            if name not in self._tensors:
                msg = f"the structure names a tensor {name!r:.200} that the file does not have"
                raise FormatError(msg)
            if found.setdefault(name, _Wish(kind, extra)).kind != kind:
                msg = f"the structure takes tensor {name!r:.200} for two things"
                raise FormatError(msg)

        walk_arrays(self._tree, note, allow_pickle=self._options.allow_pickle)
        return found

    def _fresh(self, name: str, wish: _Wish) -> Inlet:
        tensor = self._source.header.tensors[self._tensors[name]]
        if wish.kind == "bytes":
            return _NUMPY.fresh("U8", (tensor.length,), {})
        framework = self._options.framework
        if framework in (None, wish.kind):
            return _kind_in_file(wish.kind).fresh(tensor.dtype, tensor.shape, wish.extra)
        if "dtype" in wish.extra:
            msg = f"array {name!r} has a dtype of {wish.kind} alone: load it without framework={framework!r}"
            raise CheckpointError(msg)
        return kind_of(str(framework)).fresh(tensor.dtype, tensor.shape, {})

    def _saved_arrays(self) -> list[SavedArray]:
        """Return the wanted arrays by their paths in what was saved, of which ``keys`` may take a part only."""
        found = []
        for path, name, extra in arrays_of(self._whole):
            if self._choice is not None and not self._choice.names(shown(path)):
                continue
            if name not in self._tensors:
                msg = f"the structure names a tensor {name!r:.200} that the file does not have"
                raise FormatError(msg)
            found.append(SavedArray(path, self._source.header.tensors[self._tensors[name]], extra))
        return found


def _kind_in_file(name: str) -> Kind:
    """Return a kind that a file names, which may name anything."""
    if name != _NUMPY.name and name not in _KINDS:
        msg = f"the file has arrays of {name!r:.80}, which is not known here: the checkpoint is newer than this library"
        raise FormatError(msg)
    return kind_of(name)


def _kind_at_hand(value: Any) -> Kind:
    return next(kind for kind in _kinds_at_hand() if kind.owns(value))


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
    wanted = [expected_keys] if isinstance(expected_keys, str) else expected_keys
    missing = [key for key in wanted if not _has(value, key)]
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
