"""obstore: object_store from Rust, driven by threads or by one asyncio loop, whichever is quicker.

For: the nearest peer for single objects. Must not know: how it is timed.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import S3Store

from benchmarks.crowd import share
from benchmarks.file_works import reading_in_a_row
from benchmarks.imports import importing
from benchmarks.listing_pages import PREFIX, listing
from benchmarks.objects import BIG_KEY, BUCKET
from benchmarks.put_works import repeated, writing
from benchmarks.worker import Action, Haul, Job, held, held_whole, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ClientConfig

_PART = 8 * 1024 * 1024


@cache
def _store(endpoint: str, *, unsigned: bool = False) -> S3Store:
    options: ClientConfig = {"allow_http": True}
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(bundle).read_text(encoding="ascii")
    return S3Store(
        BUCKET,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        unsigned_payload=unsigned,
        client_options=options,
    )


def small(job: Job) -> Action:
    """All objects, whole, by the setting's mode: threads, or one loop with that many tasks."""
    store, keys, count = _store(job.endpoint), job.object_keys(), job.setting["in_flight"]

    def take(index: int) -> Any:
        return obstore.get(store, keys[index]).bytes()

    async def take_all() -> list[Any]:
        results: list[Any] = [None] * len(keys)
        places = iter(range(len(keys)))

        async def runner() -> None:
            for place in places:
                response = await obstore.get_async(store, keys[place])
                results[place] = await response.bytes_async()

        await asyncio.gather(*(runner() for _ in range(count)))
        return results

    def action() -> Haul:
        if job.setting["mode"] == "asyncio":
            return held(asyncio.run(take_all()))
        return held(share(take, job.indices(), count))

    return action


def big(job: Job) -> Action:
    """The big object in one piece of memory: one stream, or ranges by threads copied into one buffer."""
    store, size = _store(job.endpoint), job.manifest.big_size

    def ranges() -> Any:
        target = bytearray(size)
        view = memoryview(target)

        def part(start: int) -> None:
            length = min(_PART, size - start)
            view[start : start + length] = memoryview(obstore.get_range(store, BIG_KEY, start=start, length=length))

        share(part, range(0, size, _PART), job.setting["in_flight"])
        return target

    def action() -> Haul:
        if job.setting["mode"] == "ranges":
            return held_whole(ranges())
        return held_whole(obstore.get(store, BIG_KEY).bytes())

    return action


def put(job: Job) -> Action:
    """By `put` of an iterator, in parts."""
    store = _store(job.endpoint, unsigned=bool(job.setting.get("unsigned")))

    def write(key: str, count: int, memory: memoryview) -> None:
        data, flight = repeated(memory, count), job.setting["in_flight"]
        obstore.put(store, key, data, use_multipart=True, chunk_size=len(memory), max_concurrency=flight)

    return writing(job, write)


def list_all(job: Job) -> Action:
    """By `list`: the keys of its dictionaries."""
    store = _store(job.endpoint)

    def take() -> list[str]:
        return [entry["path"] for batch in obstore.list(store, PREFIX, chunk_size=1000) for entry in batch]

    return listing(job, take, list, len)


def list_arrow(job: Job) -> Action:
    """By `list`, as Arrow's tables; a proof makes Python's strings of them."""
    store = _store(job.endpoint)

    def take() -> list[Any]:
        return list(obstore.list(store, PREFIX, chunk_size=1000, return_arrow=True))

    def keys(batches: list[Any]) -> Iterator[str]:
        for batch in batches:
            yield from (path.as_py() for path in batch["path"])

    return listing(job, take, keys, lambda batches: sum(batch.num_rows for batch in batches))


def file_row(job: Job) -> Action:
    """By its own buffered reader."""
    store = _store(job.endpoint)
    return reading_in_a_row(job, lambda key: obstore.open_reader(store, key))


WORKS = {
    "file_row": file_row,
    "list_all": list_all,
    "list_arrow": list_arrow,
    "put": put,
    "small": small,
    "big": big,
    "import": importing("obstore"),
}

if __name__ == "__main__":
    serve(WORKS, ("obstore",))
