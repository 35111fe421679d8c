"""HDF5 files on any backend, through h5py.

Floor 6. Knows that h5py takes any binary file; must not know HDF5's format or backends.
"""

from __future__ import annotations

import importlib
from typing import Any

from s3dlio.context import current_token, store_of
from s3dlio.errors import FormatError, OptionError, S3dlioError
from s3dlio.range_file import DEFAULT_READAHEAD_BYTES, RangeFile
from s3dlio.remote import RemoteObject
from s3dlio.uri import from_path_or_uri, parse_object


def open_hdf5(uri: str, *, readahead_bytes: int = DEFAULT_READAHEAD_BYTES, **options: Any) -> Any:
    """Open an HDF5 file for reading, wherever it is.

    Only what is looked at is fetched: the directories, and the chunks (or, in a dataset without chunks, the rows)
    that a slice touches. Large reads land in the array's own memory. Nothing need be downloaded before.

    Args:
        uri: The file, or a local path.
        readahead_bytes: Most bytes that small reads in a row bring at once, at least 64 KiB; while the file is read in
            a row, up to four times as much is on its way in the background.
        **options: Of ``h5py.File``, such as ``rdcc_nbytes``; not ``mode``: the file is open for reading.

    Returns:
        An ``h5py.File``. Use it as a context manager, or close it. It belongs to the process that opened it; h5py
        lets one thread at a time into all files.

    Raises:
        NotFoundError: There is no such object.
        FormatError: It is not an HDF5 file.
        OptionError: h5py is not installed: ``pip install 's3dlio[hdf5]'``; or an option is wrong.
        StoreError: It cannot be read.

    Example:
        >>> with s3dlio.open_hdf5("s3://bucket/train.h5") as file:  # doctest: +SKIP
        ...     images = file["images"][1000:1064]
    """
    where = parse_object(from_path_or_uri(uri), "open_hdf5")
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        msg = "HDF5 files need h5py: pip install 's3dlio[hdf5]'"
        raise OptionError(msg, uri=str(where), operation="open_hdf5") from error
    if options.setdefault("mode", "r") != "r":
        msg = f"HDF5 files are open for reading here, not mode={options['mode']!r}; write one locally and upload it"
        raise OptionError(msg, uri=str(where), operation="open_hdf5")
    file = RangeFile(RemoteObject(store_of(where), where, token=current_token()), readahead_bytes=readahead_bytes)
    try:
        return h5py.File(file, **options)
    except OSError as error:
        file.close()
        if isinstance(error, S3dlioError):
            raise
        msg = f"it is not an HDF5 file, or damaged: {error}"
        raise FormatError(msg, uri=str(where), operation="open_hdf5") from error
