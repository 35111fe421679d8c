"""Manifests: the listing and the index of a dataset as one file, so that nobody has to list again.

Floor 5. Knows what is kept and how; must not know who reads samples. A manifest is an NPZ file that NumPy
opens as well: the arrays of a :class:`~s3dlio.samples.SampleIndex`, and a member ``about`` with JSON.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from s3dlio.catalog import Catalog
from s3dlio.errors import FormatError, UriError
from s3dlio.formats.npz import Npz
from s3dlio.samples import SampleIndex
from s3dlio.uri import Uri

VERSION = 1


class Source(NamedTuple):
    """Where the objects of a dataset were found.

    Attributes:
        uri: The prefix that was listed; empty for a given list of objects.
        pattern: What had to match; a compiled pattern as ``regex:...``; empty for none.
    """

    uri: str = ""
    pattern: str = ""

    @classmethod
    def of(cls, uri: str, pattern: str | re.Pattern[str] | None) -> Source:
        """Return what stands for a prefix and the pattern that it was listed with."""
        return cls(uri, pattern if isinstance(pattern, str) else f"regex:{pattern.pattern}" if pattern else "")


class Manifest(NamedTuple):
    """What a manifest holds.

    Attributes:
        samples: What there is.
        source: Where their objects were found.
        format: How they are decoded.
        kept_in: Where it was read from; empty for one that was made here.
    """

    samples: SampleIndex
    source: Source
    format: str
    kept_in: str = ""


def free_place(where: Uri, catalog: Catalog) -> Uri:
    """Return where a manifest of some objects is to be kept, if it does no harm there.

    Raises:
        UriError: It would replace one of them, or has no name.
    """
    if where.key.endswith("/"):
        msg = "a manifest is one object, and this names a prefix: append a name"
        raise UriError(msg, uri=str(where), operation="save_manifest")
    if where.scheme == catalog.scheme and any(where == catalog.uri(number) for number in range(len(catalog))):
        msg = (
            "this is one of the dataset's own objects, which the manifest would replace: keep it elsewhere, or (if it is "
            "an earlier manifest) leave it out of the dataset by a pattern"
        )
        raise UriError(msg, uri=str(where), operation="save_manifest")
    return where


def pack(manifest: Manifest) -> bytes:
    """Return the file of a manifest."""
    index = manifest.samples
    about = {
        "version": VERSION,
        "scheme": index.catalog.scheme,
        "containers": index.catalog.containers,
        "source": list(manifest.source),
        "format": manifest.format,
        "fingerprint": index.fingerprint(),
    }
    file = io.BytesIO()
    np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **index.arrays())  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: memoryview) -> Manifest:
    """Return what a file of a manifest holds; its arrays share the memory of ``data``.

    Raises:
        FormatError: It is not a manifest, damaged, or of a later version.
    """
    arrays = dict(Npz(data))
    about = _about(arrays.pop("about", None))
    index = SampleIndex.of_arrays(about["scheme"], about["containers"], arrays)
    if index.fingerprint() != about["fingerprint"]:
        msg = "the manifest's fingerprint is not that of its samples"
        raise FormatError(msg)
    return Manifest(index, Source(*about["source"]), about["format"])


_FIELDS: Mapping[str, type] = {
    "scheme": str, "containers": list, "source": list, "format": str, "fingerprint": str,
}  # fmt: skip


def _about(array: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    try:
        about = json.loads(array.tobytes()) if array is not None else None
    except ValueError as error:
        msg = f"not a manifest: {error}"
        raise FormatError(msg) from error
    if not isinstance(about, dict) or about.get("version") != VERSION:
        version = about.get("version") if isinstance(about, dict) else None
        msg = f"not a manifest of version {VERSION} (version {version})"
        raise FormatError(msg)
    fine = all(isinstance(about.get(name), kind) for name, kind in _FIELDS.items())
    fine = fine and all(isinstance(text, str) for name in ("containers", "source") for text in about[name])
    if not fine or len(about["source"]) != len(Source._fields):
        msg = "the manifest's description is damaged"
        raise FormatError(msg)
    return about
