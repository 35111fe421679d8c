"""s3dlio 0.10.0: the Rust original, from the package index.

For: the library whose place this one wants to take. Must not know: how it is timed.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from benchmarks.bulk_works import GENERATED_BYTES
from benchmarks.imports import importing
from benchmarks.listing_pages import PREFIX, listing
from benchmarks.memory import fresh, touched
from benchmarks.objects import BIG_KEY
from benchmarks.put_works import writing
from benchmarks.trees import carrying
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, held, held_whole, serve

# By name: to a type checker, "s3dlio" is the working tree, which this process does not see.
_original: Any = import_module("s3dlio")


def small(job: Job) -> Action:
    """All objects by `get_many`."""
    uris = job.uris()

    def action() -> Haul:
        pairs = _original.get_many(uris, max_in_flight=job.setting["in_flight"])
        if job.proof:
            pairs = sorted(pairs, key=lambda pair: str(pair[0]))
        return held([data for _, data in pairs])

    return action


def big(_job: Job) -> Action:
    """The big object by `get`."""
    return lambda: held_whole(_original.get(BUCKET_URI + BIG_KEY))


def big_into(job: Job) -> Action:
    """The big object by `get_into_async` into the same memory every round."""
    memory = touched(job.manifest.big_size)

    def action() -> Haul:
        asyncio.run(_receive(memory))
        return held_whole(memory)

    return action


def big_by_into(job: Job) -> Action:
    """The big object by `get_into_async` into fresh memory: the quicker way to a `get`."""

    def action() -> Haul:
        memory = fresh(job.manifest.big_size)
        asyncio.run(_receive(memory))
        return held_whole(memory)

    return action


async def _receive(memory: Any) -> None:
    await _original.get_into_async(BUCKET_URI + BIG_KEY, memory, expected_len=len(memory))


def _iterable(job: Job) -> Any:
    # Its concurrency is that of one batch on the Rust side; the wrapper flattens those batches.
    datasets = import_module("s3dlio.torch").ObjectStoreIterableDataset
    options = {name: value for name, value in job.setting.items() if name not in ("torch_threads", "env")}
    return datasets.from_prefix(job.prefix_uri(), **options)


def _map(job: Job) -> Any:
    return import_module("s3dlio.torch").ObjectStoreMapDataset(job.prefix_uri())


def loader_iterable(job: Job) -> Action:
    """The iterable dataset over the whole prefix."""
    from benchmarks.loaders import loading

    return loading(job, _iterable(job))


def loader_map(job: Job) -> Action:
    """The map dataset over the whole prefix."""
    from benchmarks.loaders import loading

    return loading(job, _map(job))


def put_write(job: Job) -> Action:
    """By `write`: of `bytes`, which it sends without a copy, or of memory that is used again, which it must copy."""

    def write(key: str, count: int, memory: memoryview) -> None:
        data = bytes(memory) if job.params.get("frozen") else memory
        copies = not job.params.get("frozen")
        with _put_writer(job, key, len(memory)) as writer:
            for _ in range(count):
                writer.write(data, copy=copies)

    return writing(job, write)


def put_reserve(job: Job) -> Action:
    """By `reserve` and `commit`; only a proof fills the memory."""

    def write(key: str, count: int, memory: memoryview) -> None:
        with _put_writer(job, key, len(memory)) as writer:
            for _ in range(count):
                room = writer.reserve(len(memory))
                if job.proof:
                    room[:] = memory
                writer.commit(len(memory))

    return writing(job, write)


def _put_writer(job: Job, key: str, part_size: int) -> Any:
    return _original.MultipartUploadWriter.from_uri(
        BUCKET_URI + key, part_size=part_size, max_in_flight=job.setting["in_flight"]
    )


def list_all(job: Job) -> Action:
    """By `list`: URIs."""
    lead = len(BUCKET_URI)

    def take() -> Any:
        return _original.list(BUCKET_URI + PREFIX, recursive=True)

    return listing(job, take, lambda uris: sorted(uri[lead:] for uri in uris), len)


def transfer(job: Job) -> Action:
    """By `upload` and `download`."""

    def carry(source: str, target: str) -> None:
        if job.params["way"] == "down":
            _original.download(source, target, **job.setting)
        else:
            _original.upload([f"{source}/*"], target, **job.setting)

    return carrying(job, carry)


def generate(job: Job) -> Action:
    """By its `Generator`, into one memory again and again."""
    memory = touched(8 << 20)

    def action() -> Haul:
        generator = _original.Generator(GENERATED_BYTES, threads=job.setting["threads"], seed=7)
        size = 0
        while not generator.is_complete():
            size += generator.fill_chunk(memory)
        return Haul(1, size, proved_by_count=False)

    return action


WORKS = {
    "list_all": list_all,
    "transfer": transfer,
    "generate": generate,
    "put_write": put_write,
    "put_reserve": put_reserve,
    "small": small,
    "big": big,
    "big_into": big_into,
    "big_by_into": big_by_into,
    "loader_iterable": loader_iterable,
    "loader_map": loader_map,
    "import": importing("s3dlio"),
}

if __name__ == "__main__":
    serve(WORKS, ("s3dlio",))
