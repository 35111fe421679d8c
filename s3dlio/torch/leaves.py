"""Tensors in checkpoints: their bytes as they lie, on the CPU or through pinned memory on a device.

Floor 6. Knows torch's dtypes and devices; what a checkpoint looks like is :mod:`s3dlio.checkpoint`'s.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from s3dlio.buffers import writable_bytes
from s3dlio.checkpoint.kinds import HOST, Facts, HostInlet, HostOutlet, Inlet, Kind, Outlet
from s3dlio.checkpoint.layout import are_counts, fits_memory
from s3dlio.errors import FormatError, OptionError

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "F32": torch.float32, "I64": torch.int64, "F64": torch.float64,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "C64": torch.complex64, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
#: Two numbers to an item of torch's, and one to an item of the format's: there the last axis is twice as long.
_PAIRS = "F4"
_PAIRED = torch.float4_e2m1fn_x2
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
#: What the format has no names for, by torch's own.
_OTHERS = {"complex128": torch.complex128, "complex32": torch.complex32, "float4_e2m1fn_x2": _PAIRED}
_OTHER_NAMES = {dtype: name for name, dtype in _OTHERS.items()}


class TorchKind(Kind):
    """torch's dense tensors and parameters."""

    name = "torch"
    format = "pt"

    def owns(self, value: object) -> bool:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.owns`."""
        return isinstance(value, torch.Tensor)

    def facts(self, value: torch.Tensor) -> Facts:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.facts`."""
        _require_plain(value)
        if value.is_meta:
            msg = (
                "a tensor on the meta device has no bytes to save: make the model on a device, or to_empty(device=...)"
            )
            raise OptionError(msg)
        extra: dict[str, Any] = {}
        if isinstance(value, torch.nn.Parameter):
            extra["parameter"] = value.requires_grad
        name, shape = _NAMES.get(value.dtype, ""), tuple(value.shape)
        length = value.numel() * value.element_size()
        if value.dtype == _PAIRED and shape:
            name, shape = _PAIRS, (*shape[:-1], 2 * shape[-1])
        if not name:
            other = _OTHER_NAMES.get(value.dtype)
            if other is None:
                msg = f"a tensor of dtype {value.dtype} cannot be saved"
                raise OptionError(msg)
            extra |= {"dtype": other, "shape": list(shape)}
            name, shape = "U8", (length,)
        if not length:
            return Facts(name, shape, 0, extra, ("empty", id(value)))
        # Conjugates are views too: the same memory, and other numbers.
        seen = value.is_conj(), value.is_neg(), extra.get("parameter")
        identity = (_space(value), value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), *seen)
        return Facts(name, shape, length, extra, identity, (_space(value), *_bounds(value)))

    def outlet(self, value: torch.Tensor) -> Outlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.outlet`."""
        plain = value.detach().resolve_conj().resolve_neg().contiguous()
        return HostOutlet(host_bytes(plain)) if plain.device.type == "cpu" else _DeviceOutlet(plain)

    def fresh(self, dtype: str, shape: tuple[int, ...], extra: dict[str, Any]) -> Inlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.fresh`. Tensors are made on the CPU."""
        kind: torch.dtype | None = _DTYPES.get(dtype)
        if "dtype" in extra:
            kind, shape = _other(extra, shape)
        elif dtype == _PAIRS:
            kind, shape = _PAIRED, _paired(shape)
        if kind is None:
            msg = f"torch has no dtype for {dtype}: leave it out (keys=)"
            raise FormatError(msg)
        tensor = torch.empty(shape, dtype=kind)
        memory = host_bytes(tensor)
        if "parameter" in extra:
            return HostInlet(torch.nn.Parameter(tensor, requires_grad=extra["parameter"] is True), memory)
        return HostInlet(tensor, memory)

    def existing(self, value: torch.Tensor) -> Inlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.existing`."""
        _require_plain(value)
        if value.is_meta:
            msg = "a tensor on the meta device has no memory to load into: model.to_empty(device=...) gives it some"
            raise OptionError(msg)
        target = value.detach()
        if not target.is_contiguous() or target.is_conj() or target.is_neg():
            low, high = _bounds(target)
            if high - low < target.numel() * target.element_size():
                msg = "several of its items lie in one place (expanded): .clone() it"
                raise OptionError(msg)
            return _CopiedInlet(value, target)
        return HostInlet(value, host_bytes(target)) if target.device.type == "cpu" else _DeviceInlet(value, target)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the format's name of a dtype, or nothing: also where its items are not the format's."""
    return _NAMES.get(dtype, "")


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, of any dtype, sharing its memory."""
    return writable_bytes(tensor)


def _space(value: torch.Tensor) -> str:
    return HOST if value.device.type == "cpu" else str(value.device)


def _require_plain(value: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(value):
        msg = "a parameter of a lazy module has no shape yet: run the model once first"
        raise OptionError(msg)
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        msg = f"a tensor of layout {value.layout}{' (quantized)' if value.is_quantized else ''} cannot be saved; make it dense"
        raise OptionError(msg)
    if hasattr(value, "placements"):  # not by its class: to import that takes a second
        msg = "a DTensor is a part of a tensor: save it by torch.distributed.checkpoint (S3StorageWriter), or .full_tensor()"
        raise OptionError(msg)


def _other(extra: dict[str, Any], stored: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    kind: torch.dtype | None = _OTHERS.get(str(extra["dtype"]))
    shape: Any = extra.get("shape")
    fine = are_counts(shape) and fits_memory(shape, 16)
    if kind is None or not fine or math.prod(shape) * kind.itemsize != math.prod(stored):
        msg = f"a tensor of dtype {extra['dtype']!r} and shape {shape!r} does not have the bytes that are there"
        raise FormatError(msg)
    return kind, tuple(shape)


def _paired(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape or shape[-1] % 2:
        msg = f"torch keeps two numbers of four bits in a byte, which the last axis of {list(shape)} does not fill"
        raise FormatError(msg)
    return (*shape[:-1], shape[-1] // 2)


def _bounds(value: torch.Tensor) -> tuple[int, int]:
    begin = value.data_ptr()
    reach = sum(stride * (length - 1) for stride, length in zip(value.stride(), value.shape, strict=True))
    return begin, begin + (reach + 1) * value.element_size()


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1).view(torch.uint8) if tensor.dim() else tensor.view(1).view(torch.uint8)


def _pinned(length: int) -> tuple[torch.Tensor, memoryview]:
    """Return memory that a device reads and writes by itself; torch keeps it for the next use."""
    tensor = torch.empty(length, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    return tensor, host_bytes(tensor)


class _DeviceOutlet(Outlet):
    """A tensor on a device, fetched a piece at a time."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._bytes = _flat(tensor)

    def read(self, start: int, stop: int) -> memoryview:
        staged, memory = _pinned(stop - start)
        staged.copy_(self._bytes[start:stop])  # waits for the device
        return memory


class _DeviceInlet(Inlet):
    """A tensor on a device, brought a piece at a time."""

    def __init__(self, value: torch.Tensor, target: torch.Tensor) -> None:
        self._value = value
        self._bytes = _flat(target)

    def memory(self, start: int, stop: int) -> memoryview:
        return _pinned(stop - start)[1]

    def landed(self, start: int, stop: int, memory: memoryview) -> None:
        # By the view: it keeps the pinned tensor alive. Waits for the device, so that the memory may go.
        self._bytes[start:stop].copy_(torch.frombuffer(memory, dtype=torch.uint8))

    def finish(self) -> torch.Tensor:
        return self._value


class _CopiedInlet(HostInlet):
    """A tensor whose bytes do not lie one after the other: filled from a copy on the CPU that does."""

    def __init__(self, value: torch.Tensor, target: torch.Tensor) -> None:
        copy = torch.empty(target.shape, dtype=target.dtype)
        super().__init__(value, host_bytes(copy))
        self._copy = copy
        self._target = target

    def finish(self) -> Any:
        self._target.copy_(self._copy)
        return super().finish()


KIND = TorchKind()
