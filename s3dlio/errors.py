"""Every exception of the library, in one tree.

Floor 0. Knows names and messages; must not know any backend, socket or framework.

::

    S3dlioError (RuntimeError)
    +-- UriError (ValueError)               the address cannot be understood
    +-- OptionError (ValueError, TypeError) an option or environment variable is wrong or misspelt
    +-- StoreError (OSError)                a storage operation failed
    |   +-- NotFoundError (FileNotFoundError)
    |   +-- AlreadyExistsError (FileExistsError)
    |   +-- AccessDeniedError (PermissionError)
    |   +-- StoreTimeoutError (TimeoutError)
    |   +-- StoreUnavailableError           the far side is busy, broken or unreachable
    |   +-- ObjectChangedError              the object was replaced while it was being read
    |   +-- TransferError                   some of many objects could not be transferred
    +-- RangeError (ValueError)             a range starts behind the end of the object
    +-- IntegrityError                      the bytes are not those that were promised
    +-- FormatError (ValueError)            a file is not of the format it claims
    |   +-- NpzError
    |   +-- TFRecordError
    +-- CheckpointError                     a checkpoint does not fit, or cannot be used as asked
    |   +-- IncompleteCheckpointError       it was not finished, or a part is missing or damaged
    +-- CancelledError                      the caller's own token stopped the work
    +-- ClosedError (ValueError)            the object was closed before this call
    +-- ForkError                           something bound to one process was used in another

Every error carries ``uri`` and ``operation`` (``None`` where there is none) and can be rebuilt from
its message alone: PyTorch rebuilds the error of a DataLoader worker as ``type(error)(message)``.
``retryable`` says whether the same call may succeed later; the library has then already tried.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class S3dlioError(RuntimeError):
    """Base of all errors of this library.

    Args:
        message: What happened and, where it is known, what to do about it.
        uri: The object or prefix concerned.
        operation: The verb that failed, such as ``"get"``.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, uri: str | None = None, operation: str | None = None) -> None:
        self.message = message
        self.uri = uri
        self.operation = operation
        super().__init__(message)

    def concern(self, uri: object, operation: str) -> None:
        """Say what the error concerns, unless it says so itself: where it arose that was not known."""
        if self.uri is None:
            self.uri, self.operation = str(uri), operation

    def __str__(self) -> str:
        """Return the message, preceded by operation and URI where they are known."""
        place = " ".join(part for part in (self.operation, self.uri) if part)
        return f"{place}: {self.message}" if place else self.message

    def __reduce__(self) -> tuple[object, tuple[type[S3dlioError], str, str | None, str | None]]:
        """Pickle with uri and operation, which the positional-only default would lose."""
        return _rebuild, (type(self), self.message, self.uri, self.operation)


def _rebuild(kind: type[S3dlioError], message: str, uri: str | None, operation: str | None) -> S3dlioError:
    return kind(message, uri=uri, operation=operation)


class UriError(S3dlioError, ValueError):
    """The address cannot be understood."""


class OptionError(S3dlioError, ValueError, TypeError):
    """An option, argument or environment variable is wrong or misspelt."""


class StoreError(S3dlioError, OSError):
    """A storage operation failed for a reason that no more exact class names."""


class NotFoundError(StoreError, FileNotFoundError):
    """The object, bucket, container or directory does not exist."""


class AlreadyExistsError(StoreError, FileExistsError):
    """Something with that name exists already."""


class AccessDeniedError(StoreError, PermissionError):
    """The credentials are missing, expired, wrong or not sufficient."""


class StoreTimeoutError(StoreError, TimeoutError):
    """The far side did not answer, or stopped sending, within the allowed time."""

    retryable = True


class StoreUnavailableError(StoreError):
    """The far side is busy, broken or cannot be reached."""

    retryable = True


class ObjectChangedError(StoreError):
    """The object was replaced while it was being read; read it again."""

    retryable = True


class TransferError(StoreError):
    """Some of many objects could not be transferred; the others were.

    Args:
        message: How many, and the first few.
        uri: Where to.
        operation: The verb.
        result: What became of all of them (:class:`s3dlio.TransferResult`); ``None`` after a rebuild from the
            message alone.
    """

    def __init__(
        self, message: str = "", *, uri: str | None = None, operation: str | None = None, result: Any = None
    ) -> None:
        super().__init__(message, uri=uri, operation=operation)
        self.result = result

    @property
    def failures(self) -> tuple[Any, ...]:
        """Every object that failed: ``source``, ``destination`` and ``error`` of each."""
        return self.result.failures if self.result is not None else ()

    def __reduce__(self) -> Any:
        """Pickle with the result."""
        return _rebuild_transfer, (self.message, self.uri, self.operation, self.result)


def _rebuild_transfer(message: str, uri: str | None, operation: str | None, result: object) -> TransferError:
    return TransferError(message, uri=uri, operation=operation, result=result)


class RangeError(S3dlioError, ValueError):
    """A range starts behind the end of the object, or is negative."""


class IntegrityError(S3dlioError):
    """The bytes received are not those that were promised."""


class FormatError(S3dlioError, ValueError):
    """A file is not of the format it claims to be."""


class NpzError(FormatError):
    """A file is not a readable NPZ or NPY file."""


class TFRecordError(FormatError):
    """A file is not a readable TFRecord file, or an index does not fit it."""


class CheckpointError(S3dlioError):
    """A checkpoint does not fit what it is loaded into, or cannot be used as asked."""


class IncompleteCheckpointError(CheckpointError):
    """A checkpoint was not finished, or a part of it is missing or damaged."""


class CancelledError(S3dlioError):
    """The work was stopped by its own cancellation token."""


class ClosedError(S3dlioError, ValueError):
    """The object was closed before this call."""


class ForkError(S3dlioError):
    """Something bound to one process, such as a running iterator, was used in a forked child."""


def suggest(word: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
