"""The objects of a dataset: addresses, sizes and tags, packed into a few arrays.

Floor 4. Knows listings; must not know what is in the objects. Packed, since an object of Python's own
for every key costs a hundred bytes, is copied to each spawned worker one by one, and is touched (and so
copied) by the reference counts of each forked one: here an object costs 24 bytes and its key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from s3dlio import listing
from s3dlio.cancel import CancellationToken
from s3dlio.errors import FormatError, NotFoundError, UriError
from s3dlio.jobs import Read
from s3dlio.stores.base import Store
from s3dlio.uri import Uri, from_path_or_uri, parse_object

AnyArray = np.ndarray[Any, Any]
_SHOWN = 5


class Changes(NamedTuple):
    """What differs between a catalog and the objects there are now.

    Attributes:
        added: URIs that are new.
        removed: URIs that are gone.
        changed: URIs whose size or entity tag is another one.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]

    def __bool__(self) -> bool:
        """Tell whether anything differs."""
        return any(self)

    def __str__(self) -> str:
        """Say what differs, with a few examples of each kind."""
        said = []
        for name, uris in self._asdict().items():
            if uris:
                shown = ", ".join(uris[:_SHOWN]) + (", ..." if len(uris) > _SHOWN else "")
                said.append(f"{len(uris)} {name} ({shown})")
        return "; ".join(said) or "nothing"


class Catalog:
    """Objects of one scheme, numbered. Immutable, picklable, safe to share among threads.

    Args:
        scheme: Of all of them.
        containers: The names that ``owners`` counts.
        arrays: One-dimensional, as :meth:`arrays` returns them: ``key_text`` (all keys, UTF-8, one after
            the other), ``key_ends``, ``sizes`` (bytes, -1 where not known), ``tags`` (for entity tags, 0
            where not known), ``owners`` (the container of each, or empty if there is only one).

    Raises:
        FormatError: The arrays contradict each other.
    """

    __slots__ = ("_ends", "_print", "_text", "containers", "owners", "scheme", "sizes", "tags")

    def __init__(self, scheme: str, containers: Sequence[str], arrays: Mapping[str, AnyArray]) -> None:
        self.scheme = scheme
        self.containers = list(containers)
        self._text = _checked(arrays, "key_text", np.uint8)
        self._ends = _checked(arrays, "key_ends", np.int64)
        self.sizes = _checked(arrays, "sizes", np.int64)
        self.tags = _checked(arrays, "tags", np.uint64)
        self.owners = _checked(arrays, "owners", np.int32)
        self._print = ""
        self._check()

    def _check(self) -> None:
        count, ends = len(self._ends), self._ends
        fine = len(self.sizes) == len(self.tags) == count and len(self.owners) in (0, count)
        if fine and count:
            fine = ends[0] >= 0 and ends[-1] == len(self._text) and bool((np.diff(ends) >= 0).all())
            last = self.owners.max(initial=0)
            fine = fine and self.owners.min(initial=0) >= 0 and last < len(self.containers)
        if not fine:
            msg = "keys, sizes and containers contradict each other"
            raise FormatError(msg)

    # -- looking ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self._ends)

    def key(self, number: int) -> str:
        """Return the key of one object."""
        begin = self._ends[number - 1] if number else 0
        return self._text[begin : self._ends[number]].tobytes().decode("utf-8", "surrogatepass")

    def uri(self, number: int) -> Uri:
        """Return the address of one object."""
        owner = self.owners[number] if len(self.owners) else 0
        return Uri(self.scheme, self.containers[owner], self.key(number))

    def read(self, number: int) -> Read:
        """Return the read of one whole object."""
        return Read(self.uri(number), size=int(self.sizes[number]))

    def fingerprint(self) -> str:
        """Return what tells this catalog from others: a hash of keys, sizes and tags, not of where they lie."""
        if not self._print:
            digest = hashlib.blake2b(digest_size=8)
            for array in (self._text, self._ends, self.sizes, self.tags):
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
            self._print = digest.hexdigest()
        return self._print

    # -- making -----------------------------------------------------------------------------------

    @classmethod
    def of_names(
        cls, scheme: str, names: Sequence[tuple[str, str]], sizes: Sequence[int], etags: Iterable[str] = ()
    ) -> Catalog:
        """Return the catalog of some objects.

        Args:
            scheme: Of all of them.
            names: ``(container, key)`` of each.
            sizes: Bytes, -1 where not known.
            etags: Entity tags, empty where not known.
        """
        keys = [key.encode("utf-8", "surrogatepass") for _, key in names]
        numbers: dict[str, int] = {}
        owners = [numbers.setdefault(container, len(numbers)) for container, _ in names]
        tags = [_tag(etag) for etag in etags]
        arrays: dict[str, AnyArray] = {
            "key_text": np.frombuffer(b"".join(keys), np.uint8),
            "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
            "sizes": np.asarray(sizes, np.int64),
            "tags": np.asarray(tags or [0] * len(keys), np.uint64),
            "owners": np.asarray(owners if len(numbers) > 1 else [], np.int32),
        }
        return cls(scheme, list(numbers), arrays)

    @classmethod
    def of_prefix(
        cls, uri: str, pattern: str | re.Pattern[str] | None, store: Store, token: CancellationToken
    ) -> Catalog:
        """List the objects below a prefix, sorted by key.

        Raises:
            NotFoundError: There are none.
        """
        found = listing.find(uri, pattern, token, store=store)
        if not found:
            msg = f"no objects match{f' {pattern!r}' if pattern else ''}; see s3dlio.list({uri!r})"
            head, _, last = uri.rpartition("/")
            if "*" in last:
                msg = f"no objects match; for a pattern write {head + '/'!r}, pattern={last!r}"
            raise NotFoundError(msg, uri=uri, operation="list")
        names = [item.uri[1:] for item in found]
        return cls.of_names(found[0].uri.scheme, names, [item.size for item in found], [item.etag for item in found])

    @classmethod
    def of_uris(cls, uris: Sequence[str | PurePath]) -> Catalog:
        """Take the given objects, in the given order, without listing.

        Raises:
            UriError: The schemes are mixed, or there is none.
        """
        parsed = [parse_object(from_path_or_uri(uri), "dataset") for uri in uris]
        schemes = {uri.scheme for uri in parsed}
        if len(schemes) != 1:
            msg = f"all objects of a dataset must have one scheme, not {sorted(schemes)}"
            if not schemes:
                msg = "a dataset needs one object at least; the list is empty"
            raise UriError(msg, operation="dataset")
        return cls.of_names(schemes.pop(), [uri[1:] for uri in parsed], [-1] * len(parsed))

    def only(self, numbers: AnyArray) -> Catalog:
        """Return the catalog of some of the objects."""
        names = [self.uri(number)[1:] for number in numbers.tolist()]
        some = Catalog.of_names(self.scheme, names, self.sizes[numbers].tolist())
        some.tags = self.tags[numbers]
        return some

    # -- keeping ----------------------------------------------------------------------------------

    def arrays(self) -> dict[str, AnyArray]:
        """Return all there is but scheme and containers, for a file."""
        return {
            "key_text": self._text,
            "key_ends": self._ends,
            "sizes": self.sizes,
            "tags": self.tags,
            "owners": self.owners,
        }

    def changes(self, now: Catalog) -> Changes:
        """Return what differs in a newer catalog of the same prefix."""
        mine = {str(self.uri(number)): number for number in range(len(self))}
        theirs = {str(now.uri(number)): number for number in range(len(now))}
        both = [(uri, mine[uri], number) for uri, number in theirs.items() if uri in mine]
        changed = [
            uri
            for uri, before, after in both
            if _differ(self.sizes[before], now.sizes[after], -1) or _differ(self.tags[before], now.tags[after], 0)
        ]
        return Changes([u for u in theirs if u not in mine], [u for u in mine if u not in theirs], changed)


def _checked(arrays: Mapping[str, AnyArray], name: str, kind: type[np.generic]) -> AnyArray:
    array = arrays.get(name)
    if array is None or array.ndim != 1 or array.dtype != kind:
        msg = f"there is no {name} of {np.dtype(kind)}"
        raise FormatError(msg)
    return array


def _tag(etag: str) -> int:
    """Return a number that stands for an entity tag; 0 for none."""
    return int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest(), "little") if etag else 0


def _differ(mine: Any, theirs: Any, unknown: int) -> bool:
    return bool(mine != theirs and unknown not in (mine, theirs))
