"""Room card: the contract of the library, held against every backend by the same tests.

`StoreContract` is everything that `s3dlio/stores/base.py` and the documentation promise.  A file
`test_contract_*.py` says where its backends are and what each honestly cannot do.  Must not know any of them.
"""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest

import s3dlio
from s3dlio import NotFoundError
from s3dlio.fetch import Fetcher, Read
from s3dlio.stores import open_store
from s3dlio.uri import parse
from tests.contract_base import SMALL, SMALL_PARTS, Backend, blob, in_child
from tests.contract_checkpoints import Checkpoints
from tests.contract_lists import Containers, Listings
from tests.contract_reads import Reads
from tests.contract_streams import Streams
from tests.contract_transfers import Transfers
from tests.contract_writes import Writes


class Life(Backend):
    """Stores in threads, coroutines, pickles and forked children."""

    def test_every_verb_can_be_awaited(self, root: str) -> None:
        async def work() -> None:
            await s3dlio.put_async(f"{root}a", b"0123456789")
            await s3dlio.put_bytes_async(f"{root}b", b"b")
            await s3dlio.put_many_async([(f"{root}c", b"c"), (f"{root}d", b"d")])
            assert await s3dlio.get_async(f"{root}a") == b"0123456789"
            assert await s3dlio.get_range_async(f"{root}a", 2, 3) == b"234"
            buffer = bytearray(10)
            assert await s3dlio.get_into_async(f"{root}a", buffer, 8) == 2
            assert buffer[:2] == b"89"
            found = await s3dlio.get_many_async([f"{root}c", f"{root}b"])
            assert found == [(f"{root}c", b"c"), (f"{root}b", b"b")]
            assert await s3dlio.get_many_stats_async([f"{root}a", f"{root}b"]) == (2, 11)
            assert (await s3dlio.stat_async(f"{root}a"))["size"] == 10
            assert [known["size"] for known in await s3dlio.stat_many_async([f"{root}a"])] == [10]
            assert await s3dlio.exists_async(f"{root}a")
            assert await s3dlio.list_async(root) == [f"{root}{name}" for name in "abcd"]
            await s3dlio.delete_async(f"{root}a")
            await s3dlio.mkdir_async(f"{root}dir")
            with pytest.raises(NotFoundError):
                await s3dlio.get_async(f"{root}a")

        asyncio.run(work())

    def test_many_coroutines_share_a_loop(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{n}", blob(1000, n)) for n in range(20)])

        async def work() -> list[s3dlio.BytesView]:
            return await asyncio.gather(*(s3dlio.get_async(f"{root}{n}") for n in range(20)))

        assert asyncio.run(work()) == [blob(1000, n) for n in range(20)]

    def test_threads_share_a_store(self, root: str) -> None:
        failures: list[object] = []

        def work(number: int) -> None:
            try:
                for turn in range(5):
                    s3dlio.put(f"{root}{number}", blob(5000, 10 * number + turn))
                    assert s3dlio.get(f"{root}{number}") == blob(5000, 10 * number + turn)
            except BaseException as error:  # noqa: BLE001 - shown by the assertion below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert failures == []

    def test_a_pickled_store_opens_anew(self, root: str) -> None:
        data = blob(200_000)
        s3dlio.put(f"{root}x", data)
        store = open_store(root, SMALL_PARTS)
        assert Fetcher(store).read(Read(parse(f"{root}x"))) == data
        again = pickle.loads(pickle.dumps(store))
        assert again is not store
        assert again.options == store.options
        assert Fetcher(again).read(Read(parse(f"{root}x"))) == data
        assert pickle.loads(pickle.dumps(SMALL)).get(f"{root}x") == data

    def test_a_closed_store_opens_anew(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"kept")
        for _ in range(2):
            open_store(root).close()
            assert s3dlio.get(f"{root}x") == b"kept"

    def test_a_forked_child_reads_and_writes(self, root: str) -> None:
        data = blob(200_000)
        s3dlio.put_many([(f"{root}{n}", data) for n in range(4)])
        s3dlio.get_many([f"{root}{n}" for n in range(4)])

        def work() -> None:
            assert [view for _, view in s3dlio.get_many([f"{root}{n}" for n in range(4)])] == [data] * 4
            assert SMALL.get(f"{root}0") == data
            s3dlio.put(f"{root}from-the-child", data)
            assert len(s3dlio.list(root)) == 5

        in_child(work)
        assert s3dlio.get(f"{root}0") == data
        assert len(s3dlio.list(root)) == (5 if self.is_shared else 4)


class StoreContract(Reads, Writes, Streams, Transfers, Checkpoints, Listings, Containers, Life):
    """All of it."""
