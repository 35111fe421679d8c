"""The checkpoints of a training run: saved step by step, found again, kept or removed.

Floor 6. Knows which checkpoints there are and which may go; how one is written and read is
:mod:`s3dlio.checkpoint_writer`'s and :mod:`s3dlio.checkpoint_reader`'s.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from s3dlio import api, removal
from s3dlio.bounds import whole
from s3dlio.buckets import list_uris
from s3dlio.buffers import BytesView
from s3dlio.checkpoint import manifest as layout
from s3dlio.checkpoint.manifest import Manifest
from s3dlio.checkpoint_reader import CheckpointReader
from s3dlio.checkpoint_writer import CheckpointWriter
from s3dlio.checkpoints import load_checkpoint, save_checkpoint, snapshot
from s3dlio.context import current_token, store_of
from s3dlio.errors import (
    CheckpointError,
    FormatError,
    IncompleteCheckpointError,
    NotFoundError,
    OptionError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from s3dlio.remote import errand
from s3dlio.stores.draft import TEMPORARY
from s3dlio.uri import parse

if TYPE_CHECKING:
    import builtins
    from pathlib import PurePath

_log = logging.getLogger("s3dlio")

#: What is younger than this (seconds) may be a checkpoint that is being written.
_GRACE_S = 3600.0
_NAMED = "named/"
#: How often the newest checkpoint is read again that was removed in the midst of it.
_MOST_READS = 8
_T = TypeVar("_T")
#: Stands for no value at all: ``None`` is one that can be saved.
_NO_DATA: Any = object()


class CheckpointInfo(NamedTuple):
    """One checkpoint of a store.

    Attributes:
        step: The training step.
        timestamp: When it was begun, UTC.
        world_size: How many shards.
        size: Bytes of all shards.
        epoch: Or ``None``.
        framework: Whose arrays are in it, or empty.
        wall_time: Seconds since 1970, when it was finished.
        user_meta: The user's own.
    """

    step: int
    timestamp: str
    world_size: int
    size: int
    epoch: int | None
    framework: str
    wall_time: float
    user_meta: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of one training run, below one URI.

    Thread-safe; works in forked children.

    Args:
        uri: Where they are, or a local directory.
        strategy: How shards' names spread over prefixes: ``flat``, ``round_robin`` or ``binary``.
        keep_last: After each save, remove all but the newest so many; ``None`` keeps all.

    Raises:
        OptionError: There is no such strategy.

    Example:
        >>> import s3dlio
        >>> store = s3dlio.CheckpointStore("memory://demo/run2", keep_last=3)
        >>> manifest = store.save(step=100, data={"epoch": 1})
        >>> store.load(step=100)
        {'epoch': 1}
    """

    def __init__(self, uri: str | PurePath, strategy: str = "flat", *, keep_last: int | None = None) -> None:
        self.keep_last = None if keep_last is None else whole("keep_last", keep_last, 1)
        self.reader = CheckpointReader(uri)
        self.strategy = layout.check_strategy(strategy)

    @property
    def uri(self) -> str:
        """Where the checkpoints are."""
        return self.reader.uri

    def writer(self, rank: int = 0, world_size: int = 1) -> CheckpointWriter:
        """Return a writer of one rank's shards."""
        return CheckpointWriter(self.uri, rank, world_size, strategy=self.strategy)

    def save(
        self,
        name: str | None = None,
        data: Any = _NO_DATA,
        *,
        step: int | None = None,
        epoch: int | None = None,
        framework: str = "",
        user_meta: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Manifest | dict[str, Any]:
        """Save a value, as the checkpoint of a step or under a name.

        Args:
            name: Any name: the value replaces what was saved under it. Names stand beside the steps, and are
                neither counted nor removed with them.
            data: What :func:`s3dlio.save_checkpoint` takes; bytes are stored as they are.
            step: The training step; each is saved once.
            epoch: For the manifest.
            framework: Likewise.
            user_meta: Likewise: plain JSON values.
            **options: As of :func:`s3dlio.save_checkpoint`.

        Returns:
            The manifest of a step; for a name, what :func:`s3dlio.save_checkpoint` returns.

        Raises:
            OptionError: Neither or both of name and step are given, or no data, or something cannot be saved.
            CheckpointError: The step was saved before.
            StoreError: It cannot be written; the checkpoints before it are as they were.
        """
        self._require_place(name, step, data)
        if step is None:
            return save_checkpoint(self._named(name), data, **options)
        facts = layout.check_facts(step, epoch, framework)
        return self._save_step(self.writer().new_timestamp(), data, facts, user_meta, options)

    def _require_place(self, name: object, step: object, data: Any) -> None:
        if (name is None) == (step is None):
            msg = "give either a name or step="
            raise OptionError(msg, uri=self.uri, operation="save")
        if name is not None:
            self._named(name)
        if data is _NO_DATA:
            msg = "give what is to be saved: save(name, data), or save(step=..., data=...)"
            raise OptionError(msg, uri=self.uri, operation="save")

    def _save_step(
        self,
        timestamp: str,
        data: Any,
        facts: tuple[int, int | None, str],
        user_meta: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Manifest:
        step, epoch, framework = facts
        if any(found == step for _, found in self.reader.manifest_ids()):  # before gigabytes are sent in vain
            msg = f"step {step} was saved before (of several ranks, one saves); delete it first, or save another step"
            raise CheckpointError(msg, uri=self.uri, operation="save")
        layout.check_meta(user_meta)
        writer = self.writer()
        shard = writer.save_shard(step, data, timestamp=timestamp, **options)
        manifest = writer.finalize(
            step, timestamp=timestamp, shards=[shard], epoch=epoch, framework=framework, user_meta=user_meta
        )
        if self.keep_last is not None:
            self.retain(self.keep_last)
        return manifest

    def async_save(
        self,
        name: str | None = None,
        data: Any = _NO_DATA,
        *,
        step: int | None = None,
        epoch: int | None = None,
        framework: str = "",
        user_meta: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Future[Any]:
        """Save as :meth:`save` does, from a copy of the value, while the caller goes on.

        Of several that are under way at once, the one that was called last is the newest. A program that ends
        meanwhile breaks the save off, and nothing of it is left: wait for ``result()`` first.

        Returns:
            A future of what :meth:`save` returns. Its failure is raised by ``result()``, and logged.

        Raises:
            OptionError: As of :meth:`save`.
        """
        self._require_place(name, step, data)
        layout.check_meta(user_meta)
        timestamp = self.writer().new_timestamp()
        copy = data if isinstance(data, bytes) else snapshot(data, allow_pickle=options.get("allow_pickle", False))
        if step is None:
            work: Callable[[], Any] = functools.partial(self.save, name, copy, **options)
        else:
            facts = layout.check_facts(step, epoch, framework)
            work = functools.partial(self._save_step, timestamp, copy, facts, user_meta, options)
        future = errand(functools.partial(contextvars.copy_context().run, work))
        what = f"{self.uri}: " + (f"{name!r}" if step is None else f"step {step}")
        future.add_done_callback(functools.partial(_log_failure, what))
        return future

    def load(self, name: str | None = None, *, step: int | None = None, rank: int = 0, **options: Any) -> Any:
        """Load what was saved under a name or as a step; the newest step if neither is given.

        Args:
            name: The name.
            step: The training step.
            rank: Whose shard.
            **options: As of :func:`s3dlio.load_checkpoint`: ``into``, ``keys``, ``framework``, ...

        Raises:
            NotFoundError: There is no such checkpoint.
            IncompleteCheckpointError: A shard is missing, or of another size.
            IntegrityError: Its bytes are not those that were saved.
        """
        if name is not None:
            return load_checkpoint(self._named(name), **options)
        if step is not None:
            return self.reader.load(self.reader.load_manifest(step), rank, **options)
        found = self._of_newest(lambda manifest: (self.reader.load(manifest, rank, **options),))
        if found is None:
            raise NotFoundError("there is no checkpoint yet", uri=self.uri, operation="load")
        return found[0]

    def load_latest(self, rank: int = 0) -> BytesView | None:
        """Return the bytes of a rank's shard of the newest whole checkpoint; ``None`` if there is none.

        Raises:
            IntegrityError: They are not those that were saved.
        """
        return self._of_newest(lambda manifest: self.reader.read_shard_by_rank(manifest, rank))

    def _of_newest(self, read: Callable[[Manifest], _T]) -> _T | None:
        """Read the newest checkpoint; the next one, if it is removed meanwhile by a writer that keeps few."""
        tries = 0
        while manifest := self.reader.load_latest_manifest():
            tries += 1
            try:
                return read(manifest)
            except (NotFoundError, IncompleteCheckpointError):
                if tries == _MOST_READS or (manifest.timestamp, manifest.global_step) in self.reader.manifest_ids():
                    raise
        return None

    def list(self) -> builtins.list[CheckpointInfo]:
        """Return the checkpoints of all steps, the newest last.

        Raises:
            FormatError: Something that has a manifest's name is none; the error names it.
        """
        found = []
        for timestamp, step in self.reader.manifest_ids():
            try:
                m = self.reader.load_manifest(step, timestamp)
            except NotFoundError:
                continue  # it was removed meanwhile
            found.append(
                CheckpointInfo(
                    m.global_step, m.timestamp, m.world_size, m.size, m.epoch, m.framework, m.wall_time, m.user_meta
                )
            )
        return found

    def names(self) -> builtins.list[str]:
        """Return the names under which something was saved, sorted."""
        base = self.reader.at(_NAMED)
        try:
            return sorted(uri.removeprefix(base) for uri in list_uris(base))
        except NotFoundError:
            return []

    def delete(self, name: str | None = None, *, step: int | None = None) -> None:
        """Remove what was saved under a name, or all checkpoints of a step: the manifest first, then the shards.

        What is not there is fine.
        """
        if (name is None) == (step is None):
            msg = "give either a name or step="
            raise OptionError(msg, uri=self.uri, operation="delete")
        if name is not None:
            removal.delete(self._named(name))
            return
        step = whole("step", step)
        for timestamp, found in self.reader.manifest_ids():
            if found == step:
                self._remove(found, timestamp)
        removal.delete(self.reader.at(layout.claim_key(step)))  # of a writer that was killed before its manifest

    def _remove(self, step: int, timestamp: str) -> None:
        try:
            shards = [self.reader.at(shard.key) for shard in self.reader.load_manifest(step, timestamp).shards]
        except (NotFoundError, FormatError):
            shards = []
        removal.delete(self.reader.at(f"{layout.MANIFESTS}{layout.checkpoint_id(step, timestamp)}.json"))
        removal.delete([*shards, self.reader.at(layout.claim_key(step))])

    def retain(self, keep_last: int) -> builtins.list[int]:
        """Remove all checkpoints but the newest ones.

        Args:
            keep_last: How many stay, at least 1.

        Returns:
            The steps that were removed.

        Raises:
            OptionError: None would stay.
        """
        keep_last = whole("keep_last", keep_last, 1)
        old = self.reader.manifest_ids()[:-keep_last]
        for timestamp, step in old:
            self._remove(step, timestamp)
        return [step for _, step in old]

    def gc(self, grace_s: float = _GRACE_S) -> builtins.list[str]:
        """Remove what belongs to no checkpoint: shards, claims, half-written files and uploads of killed runs.

        Where uploads cannot or may not be listed and aborted, a warning is logged and they stay.

        Args:
            grace_s: Leave what is younger than this (seconds), or still grows: it may be a checkpoint that is being
                written.

        Returns:
            The URIs that were removed; of an upload that was aborted, the URI of what it was to become.

        Raises:
            StoreError: Something cannot be listed or removed.
        """
        whole = set(self.reader.manifest_ids())
        steps = {step for _, step in whole}
        doomed = []
        for key in self._keys():
            uri = self.reader.at(key)
            if _is_left(key, whole, steps) and _age_s(uri) >= grace_s:
                doomed.append(uri)
        if doomed:
            removal.delete(doomed)
        return doomed + self._abort_uploads(grace_s)

    def _abort_uploads(self, grace_s: float) -> builtins.list[str]:
        try:
            return removal.abort_uploads(self.uri, older_than_s=grace_s)
        except NotFoundError:
            return []
        except (StoreUnavailableError, StoreTimeoutError):
            raise
        except StoreError as error:  # not all servers can, nor may all who remove objects
            _log.warning("uploads that were never ended may be left: %s", error)
            return []

    def _keys(self) -> builtins.list[str]:
        """Return the keys of everything that there is, what listings hide too."""
        where = parse(self.uri)
        try:
            entries = [*store_of(where).removable(where, current_token())]
        except NotFoundError:
            return []
        return [entry.key.removeprefix(where.key) for entry in entries]

    def _named(self, name: object) -> str:
        if not isinstance(name, str):
            msg = f"a name is text, not {name!r}; a training step is given as step="
            raise OptionError(msg, uri=self.uri)
        if layout.leads_out(name):
            msg = f"a name must be like that of a file, or several with '/' between them, not {name!r}"
            raise OptionError(msg, uri=self.uri)
        return self.reader.at(f"{_NAMED}{name}")

    def __repr__(self) -> str:
        """Show where it is."""
        return f"CheckpointStore({self.uri!r}, strategy={self.strategy!r})"


def _log_failure(what: str, future: Future[Any]) -> None:
    """Tell of a save that has failed: nobody may ever ask its future."""
    if error := future.exception():
        _log.error("%s was not saved: %s", what, error)


def _is_left(key: str, whole: set[tuple[str, int]], steps: set[int]) -> bool:
    found = layout.id_of(key)
    if key.endswith(TEMPORARY):
        return False  # it goes as an upload does
    if key.startswith(layout.SHARDS):
        if found is None:
            return False  # somebody else's
        is_known = (found[1], found[0]) in whole
        return not is_known or key.endswith(".json")
    if not key.endswith(".claim"):
        return False
    step = key.removeprefix(f"{layout.MANIFESTS}ckpt-").removesuffix(".claim")
    return step.isdigit() and int(step) not in steps


def _age_s(uri: str) -> float:
    try:
        modified = api.stat(uri)["last_modified"]
    except NotFoundError:
        return -1.0
    return time.time() - modified.timestamp() if modified is not None else 0.0
