"""Reads a checkpoint's file: each tensor by its range, straight into the memory it is to be in.

Floor 4. Knows which ranges to ask for, and that every byte is summed as it comes; must not know frameworks, nor
what a checkpoint's structure means. What is not wanted is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from s3dlio.buffers import KIB, MIB, POOL, BytesView, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.checkpoint import layout
from s3dlio.checkpoint.kinds import Inlet
from s3dlio.checkpoint.layout import Header, Tensor
from s3dlio.checksums import combine_crc32c, crc32c
from s3dlio.crew import map_all
from s3dlio.errors import FormatError, IntegrityError
from s3dlio.formats.compression import expanded
from s3dlio.progress import Count, Tell, silence
from s3dlio.remote import RemoteObject
from s3dlio.stores.base import Store
from s3dlio.uri import Uri

#: Tensors shorter than this are read together with their neighbours, and copied.
_SMALL_BYTES = 256 * KIB
#: Most bytes of one request.
_STEP_BYTES = 8 * MIB
#: How a stream of zstd begins (RFC 8878): a checkpoint that was compressed as a whole.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Source:
    """A checkpoint's file, of one version, with its header read.

    Args:
        store: Where it is.
        uri: The file.
        token: Stops its reads.

    Attributes:
        uri: The file.
        header: What it says of itself.
        crc32c: Sum of the whole file, of which that of its tensors is what the header says; ``None`` if that tells none.

    Raises:
        NotFoundError: It is not there.
        FormatError: It is no checkpoint, or is cut short.
        IntegrityError: Its header is damaged.
    """

    def __init__(self, store: Store, uri: Uri, token: CancellationToken) -> None:
        self.uri = uri
        self._store = store
        self._token = token
        self._object = RemoteObject(store, uri, token=token)
        self._plain: BytesView | None = None
        self.crc32c: int | None = None
        try:
            self._plain = self._expanded()
            self.header = self._read_header()
        except (FormatError, IntegrityError) as error:
            error.concern(uri, "load_checkpoint")
            raise

    def _expanded(self) -> BytesView | None:
        """Return all of the file, if it was compressed as a whole."""
        size = self._object.size
        if bytes(self._object.read(0, min(len(_ZSTD_MAGIC), size))) != _ZSTD_MAGIC:
            return None
        packed = self._object.read(0, size)
        self.crc32c = crc32c(packed)
        return expanded(packed, "zstd")

    @property
    def size(self) -> int:
        """Bytes of the file, uncompressed."""
        return self._object.size if self._plain is None else len(self._plain)

    def _read_header(self) -> Header:
        prefix = self._read(0, min(layout.PREFIX_BYTES, self.size))
        length = layout.header_length(prefix, self.size)
        text = self._read(layout.PREFIX_BYTES, layout.PREFIX_BYTES + length)
        header = layout.parse_header(bytes(text), self.size)
        if self._plain is None and header.is_own:
            parts = [(crc, tensor.length) for crc, tensor in zip(header.sums, header.tensors, strict=True)]
            self.crc32c = combine_crc32c([(crc32c(prefix), len(prefix)), (crc32c(text), len(text)), *parts])
        return header

    def _read(self, start: int, stop: int) -> memoryview:
        return self._object.read(start, stop) if self._plain is None else bytes_of(self._plain)[start:stop]

    def whole(self) -> BytesView:
        """Return the file's bytes, uncompressed, having checked every sum in it."""
        view = BytesView.from_bytes(self._read(0, self.size)) if self._plain is None else self._plain
        memory = bytes_of(view)[self.header.data_start :]
        for tensor, told in zip(self.header.tensors, self.header.sums, strict=False):
            self._compare(tensor, crc32c(memory[tensor.start : tensor.stop]), told)
        return view

    def fill(self, inlets: Mapping[int, Inlet], tell: Tell = silence) -> None:
        """Read tensors.

        Args:
            inlets: Of tensors by their number; the others are not read.
            tell: Told the bytes read and the bytes to be read.

        Raises:
            IntegrityError: Bytes are not those that were saved; it names the tensor.
            StoreError: They cannot be read.
        """
        steps = list(_steps(self.header.tensors, sorted(inlets)))
        total = sum(step.stop - step.start for step in steps)
        count = Count(total, tell)

        def read(step: _Step, token: CancellationToken) -> list[_Sum]:
            sums = self._fill_step(step, inlets, token)
            count.add(step.stop - step.start)
            return sums

        width = self._store.range_width(self.uri)
        found = map_all(read, steps, width, self._token)
        self._check([part for sums in found for part in sums])

    def _fill_step(self, step: _Step, inlets: Mapping[int, Inlet], token: CancellationToken) -> list[_Sum]:
        if len(step.tensors) > 1:
            return self._fill_small(step, inlets, token)
        number = step.tensors[0]
        begin = self.header.tensors[number].start
        span = step.start - begin, step.stop - begin
        target = inlets[number].memory(*span)
        self._read_into(step.start, target, token)
        crc = crc32c(target)  # while the processor still has it near
        inlets[number].landed(*span, target)
        return [_Sum(number, crc, len(target))]

    def _fill_small(self, step: _Step, inlets: Mapping[int, Inlet], token: CancellationToken) -> list[_Sum]:
        memory = bytes_of(POOL.take(step.stop - step.start))
        self._read_into(step.start, memory, token)
        sums = []
        for number in step.tensors:
            tensor = self.header.tensors[number]
            part = memory[tensor.start - step.start : tensor.stop - step.start]
            target = inlets[number].memory(0, tensor.length)
            target[:] = part
            inlets[number].landed(0, tensor.length, target)
            sums.append(_Sum(number, crc32c(part), len(part)))
        return sums

    def _read_into(self, start: int, target: memoryview, token: CancellationToken) -> None:
        if not len(target):
            return
        start += self.header.data_start
        if self._plain is not None:
            target[:] = bytes_of(self._plain)[start : start + len(target)]
        else:
            self._store.read_into(self.uri, start, target, self._object.version, token)

    def _check(self, sums: Sequence[_Sum]) -> None:
        """Compare what was read with what was saved; pieces of a tensor come in their order."""
        if not self.header.sums:
            return
        pieces: dict[int, list[tuple[int, int]]] = {}
        for part in sums:
            pieces.setdefault(part.tensor, []).append((part.crc32c, part.length))
        for number, parts in pieces.items():
            self._compare(self.header.tensors[number], combine_crc32c(parts), self.header.sums[number])

    def _compare(self, tensor: Tensor, found: int, told: int) -> None:
        if found != told:
            msg = f"tensor {tensor.name!r} is damaged: its CRC-32C is {found:08x}, and was {told:08x} when it was saved"
            raise IntegrityError(msg, uri=str(self.uri), operation="load_checkpoint")


class _Sum(NamedTuple):
    """The sum of a piece of a tensor."""

    tensor: int
    crc32c: int
    length: int


class _Step(NamedTuple):
    """One request: a piece of one tensor, or some small ones that lie side by side. Places within the data."""

    start: int
    stop: int
    tensors: tuple[int, ...]


def _steps(tensors: Sequence[Tensor], wanted: Sequence[int]) -> Iterator[_Step]:
    """Cut the wanted tensors into requests."""
    group: list[int] = []
    for number in wanted:
        tensor = tensors[number]
        is_small = tensor.length < _SMALL_BYTES
        fits = group and is_small and tensors[group[-1]].stop == tensor.start
        if group and not (fits and tensor.stop - tensors[group[0]].start <= _STEP_BYTES):
            yield _Step(tensors[group[0]].start, tensors[group[-1]].stop, tuple(group))
            group = []
        if is_small:
            group.append(number)
            continue
        count = -(-tensor.length // _STEP_BYTES)
        size = -(-tensor.length // count)
        for start in range(tensor.start, tensor.stop, size):
            yield _Step(start, min(start + size, tensor.stop), (number,))
    if group:
        yield _Step(tensors[group[0]].start, tensors[group[-1]].stop, tuple(group))
