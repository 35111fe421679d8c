"""The operation log: begun and ended by the user.

Floor 6. Knows the public contract; lines are written by :mod:`s3dlio.recorder`, read and summed up by
:mod:`s3dlio.oplog_reading`.
"""

from __future__ import annotations

import os

from s3dlio import recorder
from s3dlio.errors import UriError
from s3dlio.uri import from_path_or_uri, parse_object


def init_op_log(path: str | os.PathLike[str], *, lossy: bool = False) -> None:
    """Write a line for each request to a server, and each operation on files, from now on.

    Tab-separated, as MinIO's warp writes it: ``idx thread op client_id n_objects bytes endpoint file error start
    first_byte end duration_ns``, times in UTC with nanoseconds. ``warp analyze`` and ``warp merge`` read compressed
    logs only. ``bytes`` are those of objects that were moved. An object that is read in parts has a line for each; so
    has each try. Reads that had begun before are left out, and what ends after :func:`finalize_op_log`.

    No line is lost: the interpreter's end finishes the log, a slow disk makes operations wait. A forked process
    writes ``PATH.PID``; a spawned one no log, unless it begins one. What is killed lacks its last half second.

    Args:
        path: A path or ``file://`` URI, replaced if it is there; ``.zst`` at its end compresses.
        lossy: Rather leave lines out (a warning says how many) than wait for a slow disk.

    Raises:
        OptionError: A log is being written already.
        UriError: It is not a file.
        StoreError: It cannot be written.

    Example:
        >>> import pathlib, s3dlio, tempfile
        >>> s3dlio.init_op_log(pathlib.Path(tempfile.mkdtemp()) / "operations.tsv.zst")
        >>> s3dlio.put("memory://demo/a", b"spam")
        >>> s3dlio.finalize_op_log()
    """
    where = parse_object(from_path_or_uri(os.fspath(path)), "init_op_log")
    if where.scheme != "file":
        msg = "an operation log is a local file: pass a path or a file:// URI"
        raise UriError(msg, uri=str(where), operation="init_op_log")
    recorder.start(where.key, lossy=lossy)


def finalize_op_log() -> None:
    """Write what is left of the operation log, and close it. Without one this does nothing.

    Raises:
        StoreError: Some of it could not be written.
    """
    recorder.stop()


def is_op_log_active() -> bool:
    """Tell whether an operation log is being written."""
    return recorder.active is not None
