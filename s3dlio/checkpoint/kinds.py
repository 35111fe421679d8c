"""What a checkpoint must know of arrays: their bytes, and how to make them again.

Floor 4. The seam to the frameworks: a :class:`Kind` for each; NumPy's is here, the others are in their
rooms. Must not know files.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from s3dlio.buffers import bytes_of
from s3dlio.checkpoint.layout import are_counts, fits_memory
from s3dlio.checksums import crc32c
from s3dlio.errors import FormatError, OptionError

_Array = np.ndarray[Any, Any]
#: The address space of arrays in the memory of this machine, whosever they are.
HOST = "host"
#: The format's names of NumPy's dtypes.
_NUMPY = {
    "BOOL": "bool", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
}  # fmt: skip
_NUMPY |= {"C64": "<c8"}
_NUMPY_NAMES = {np.dtype(dtype): name for name, dtype in _NUMPY.items()}
#: Of the package ml_dtypes, which registers these with NumPy.
_EXTENDED = {
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_EXTENDED_NAMES = {dtype: name for name, dtype in _EXTENDED.items()}
#: How a dtype of that package is described that the format has no name for.
_FOREIGN = "ml_dtypes."
#: What NumPy calls a dtype without fields. Anything else it would try to make sense of, at any cost.
_PLAIN_DTYPE = re.compile(r"[<>|=]?[A-Za-z?][0-9]{0,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?")
#: Classes of arrays that are nothing but their numbers.
_PLAIN_CLASSES = (np.ndarray, np.memmap)


class Facts(NamedTuple):
    """What is known of an array without touching its bytes.

    Attributes:
        dtype: The format's name of it; ``U8`` for what it has no name for.
        shape: As the file says it: of bytes where ``dtype`` stands for another.
        length: Bytes.
        extra: What else is needed to make it again: plain JSON values.
        identity: Equal for two arrays that are the same memory seen in the same way.
        region: The memory it lies in: an address space, first byte and end; ``None`` if nobody else can see it.
    """

    dtype: str
    shape: tuple[int, ...]
    length: int
    extra: dict[str, Any]
    identity: Hashable
    region: tuple[Hashable, int, int] | None = None


class Outlet(abc.ABC):
    """The bytes of an array on their way out."""

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> memoryview:
        """Return some of them, in the memory of this machine; the array's own where that is possible."""

    def sum(self, start: int, memory: memoryview) -> int:
        """Return the CRC-32C of what :meth:`read` has returned from a place on."""
        return crc32c(memory)


class Inlet(abc.ABC):
    """An array on its way in. The methods may be called from several threads, for different bytes."""

    @abc.abstractmethod
    def memory(self, start: int, stop: int) -> memoryview:
        """Return writable memory for some of its bytes; the array's own where that is possible."""

    def landed(self, start: int, stop: int, memory: memoryview) -> None:
        """Take the bytes over, now that they are in the memory: nothing to do where it is the array's own."""

    @abc.abstractmethod
    def finish(self) -> Any:
        """Return the array, once all its bytes have landed."""


class Kind(abc.ABC):
    """The arrays of one framework.

    Attributes:
        name: As it is written into files.
        format: What other readers of safetensors are told of a file of such arrays.
        has_memory: Its arrays are memory, and not only descriptions of arrays that are to be made.
    """

    name: str
    format: str
    has_memory = True

    @abc.abstractmethod
    def owns(self, value: object) -> bool:
        """Tell whether a value is an array of this framework."""

    @abc.abstractmethod
    def facts(self, value: Any) -> Facts:
        """Return what is to be known of an array before it is saved.

        Raises:
            OptionError: It cannot be saved.
        """

    @abc.abstractmethod
    def outlet(self, value: Any) -> Outlet:
        """Return the way to an array's bytes."""

    @abc.abstractmethod
    def fresh(self, dtype: str, shape: tuple[int, ...], extra: dict[str, Any]) -> Inlet:
        """Return a new array that is to be filled.

        Raises:
            FormatError: The framework has no such dtype.
        """

    @abc.abstractmethod
    def existing(self, value: Any) -> Inlet:
        """Return an existing array that is to be filled.

        Raises:
            OptionError: It cannot be written to.
        """

    def snapshot(self, value: Any) -> Any:
        """Return a copy in the memory of this machine, which later changes do not reach."""
        facts = self.facts(value)
        outlet, inlet = self.outlet(value), self.fresh(facts.dtype, facts.shape, facts.extra)
        target = inlet.memory(0, facts.length)
        target[:] = outlet.read(0, facts.length)
        inlet.landed(0, facts.length, target)
        return inlet.finish()


class HostOutlet(Outlet):
    """Bytes that lie in the memory of this machine, one after the other."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def read(self, start: int, stop: int) -> memoryview:
        """See :meth:`Outlet.read`."""
        return self._memory[start:stop]


class HostInlet(Inlet):
    """An array in the memory of this machine, its bytes one after the other.

    Args:
        value: The array.
        memory: Its bytes.
    """

    def __init__(self, value: Any, memory: memoryview) -> None:
        self._value = value
        self._memory = memory

    def memory(self, start: int, stop: int) -> memoryview:
        """See :meth:`Inlet.memory`."""
        return self._memory[start:stop]

    def finish(self) -> Any:
        """See :meth:`Inlet.finish`."""
        return self._value


class NumPyKind(Kind):
    """NumPy's arrays and scalars."""

    name = "numpy"
    format = "np"

    def owns(self, value: object) -> bool:
        """See :meth:`Kind.owns`."""
        return isinstance(value, (np.ndarray, np.generic))

    def facts(self, value: Any) -> Facts:
        """See :meth:`Kind.facts`. What the format has no dtype for is saved as bytes, and made again."""
        array = np.asarray(value)
        _require_plain(value, array.dtype)
        is_scalar = isinstance(value, np.generic)
        extra: dict[str, Any] = {"scalar": True} if is_scalar else {}
        name = dtype_name(array.dtype)
        shape = array.shape
        if not name:
            extra |= {"dtype": _described(array.dtype), "shape": list(shape)}
            name, shape = "U8", (array.nbytes,)
        if not array.nbytes or is_scalar:  # the memory of a scalar is a copy, gone as soon as this returns
            return Facts(name, shape, array.nbytes, extra, ("itself", id(value)))
        begin = array.__array_interface__["data"][0]
        identity = (HOST, begin, array.strides, str(array.dtype), array.dtype.str, array.shape)
        return Facts(name, shape, array.nbytes, extra, identity, (HOST, *_bounds(array)))

    def outlet(self, value: Any) -> Outlet:
        """See :meth:`Kind.outlet`."""
        return HostOutlet(_flat(np.ascontiguousarray(value)))

    def fresh(self, dtype: str, shape: tuple[int, ...], extra: dict[str, Any]) -> Inlet:
        """See :meth:`Kind.fresh`."""
        kind = numpy_dtype(dtype)
        if "dtype" in extra:
            kind = _dtype_of(extra["dtype"])
            shape = _shape_of(extra.get("shape"), kind, math.prod(shape))
        try:
            array = np.empty(shape, kind)
        except ValueError as error:
            msg = f"NumPy cannot make an array of dtype {kind} and shape {list(shape)}: {error}"
            raise FormatError(msg) from error
        return (_ScalarInlet if extra.get("scalar") is True else HostInlet)(array, _flat(array))

    def existing(self, value: Any) -> Inlet:
        """See :meth:`Kind.existing`."""
        if not isinstance(value, np.ndarray) or not value.flags.writeable:
            msg = f"is read-only ({type(value).__name__})"
            raise OptionError(msg)
        if not value.flags.c_contiguous:
            return _CopiedInlet(value)
        return HostInlet(value, _flat(value))


class _ScalarInlet(HostInlet):
    """A scalar, on its way in as an array of no axes."""

    def finish(self) -> Any:
        return super().finish()[()]


class _CopiedInlet(HostInlet):
    """An array whose bytes do not lie one after the other: filled from a copy that does."""

    def __init__(self, target: _Array) -> None:
        low, high = _bounds(target)
        if high - low < target.nbytes:
            msg = "several of its items lie in one place"
            raise OptionError(msg)
        copy = np.empty(target.shape, target.dtype)
        super().__init__(copy, _flat(copy))
        self._target = target

    def finish(self) -> Any:
        self._target[...] = super().finish()
        return self._target


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the format's name of a dtype, or nothing."""
    return _NUMPY_NAMES.get(dtype) or _EXTENDED_NAMES.get(dtype.name, "")


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype for one of the format's names.

    Raises:
        FormatError: NumPy has none.
    """
    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    return _extended(_EXTENDED.get(name, ""), name)


def _extended(attribute: str, name: str) -> np.dtype[Any]:
    if not attribute:
        hint = "load it with framework='torch'" if name == "F4" else "leave it out (keys=)"
        msg = f"NumPy has no dtype for {name}, whose items are no whole bytes: {hint}"
        raise FormatError(msg)
    try:
        import ml_dtypes  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415

        scalar = getattr(ml_dtypes, attribute)
        if not issubclass(scalar, np.generic):
            raise TypeError(attribute)
        dtype: np.dtype[Any] = np.dtype(scalar)
    except (ImportError, TypeError, AttributeError) as error:
        msg = f"NumPy has no dtype for {name}: pip install ml_dtypes, or load it with torch"
        raise FormatError(msg) from error
    return dtype


def _described(dtype: np.dtype[Any]) -> Any:
    """Return a dtype as plain JSON values (structured ones as lists), if it comes back from there."""
    if dtype.type.__module__ == "ml_dtypes":
        return _FOREIGN + dtype.name
    try:
        described = _as_lists(np.lib.format.dtype_to_descr(dtype))
        if _dtype_of(described) == dtype:
            return described
        why = "it would come back as another one"
    except ValueError as error:
        why = str(error)
    msg = f"an array of dtype {dtype} cannot be saved ({why}): save its fields, or make it of a plainer dtype"
    raise OptionError(msg)


def _as_lists(described: Any) -> Any:
    return [_as_lists(part) for part in described] if isinstance(described, (list, tuple)) else described


def _dtype_of(described: Any) -> np.dtype[Any]:
    if isinstance(described, str) and described.startswith(_FOREIGN):
        return _extended(described.removeprefix(_FOREIGN), described)
    try:
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(_as_tuples(described))
    except (TypeError, ValueError, KeyError, IndexError, RecursionError) as error:
        msg = f"a dtype cannot be read: {error}"
        raise FormatError(msg) from error
    if dtype.hasobject:
        msg = f"dtype {dtype} holds Python objects"
        raise FormatError(msg)
    return dtype


def _as_tuples(described: Any) -> Any:
    """Undo what JSON does to the description of a structured dtype: fields are tuples there."""
    if not isinstance(described, list):
        if not _PLAIN_DTYPE.fullmatch(described):
            raise ValueError(described)
        return described
    return [
        tuple(_as_tuples(part) if at == 1 else _shape_or_name(part) for at, part in enumerate(f)) for f in described
    ]


def _shape_or_name(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part


def _shape_of(told: Any, dtype: np.dtype[Any], length: int) -> tuple[int, ...]:
    """Check a shape that a file tells; memory is taken for what is there, not for what is told."""
    fine = are_counts(told) and fits_memory(told, dtype.itemsize)
    # NumPy makes room for a character where text has none.
    if not fine or math.prod(told) * dtype.itemsize != length or dtype in (np.dtype("S0"), np.dtype("U0")):
        msg = f"an array of dtype {dtype} and shape {told!r} does not have the {length} bytes that are there"
        raise FormatError(msg)
    return tuple(told)


def _require_plain(value: Any, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        msg = f"an array of Python objects (dtype {dtype}) cannot be saved; make it an array of numbers or text"
        raise OptionError(msg)
    if isinstance(value, np.ndarray) and type(value) not in _PLAIN_CLASSES:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        msg = f"an array of class {kind} cannot be saved as such: save numpy.asarray(it), and what else there is to it"
        raise OptionError(msg)


def _flat(array: _Array) -> memoryview:
    """Return the bytes of a contiguous array; by a view, since the buffer protocol has no letter for many dtypes."""
    return bytes_of(array.reshape(-1).view(np.uint8)) if array.nbytes else memoryview(bytearray())


def _bounds(array: _Array) -> tuple[int, int]:
    begin = array.__array_interface__["data"][0]
    reaches = [stride * (length - 1) for stride, length in zip(array.strides, array.shape, strict=True)]
    low = sum(reach for reach in reaches if reach < 0)
    high = sum(reach for reach in reaches if reach > 0)
    return begin + low, begin + high + array.itemsize
