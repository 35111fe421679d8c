"""Room card: what every backend promises about objects that are written piece by piece.

Knows the public writers.  Must not know any backend.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from awscrt.checksums import crc32c

import s3dlio
from s3dlio import AlreadyExistsError, ClosedError, MultipartUploadWriter, NotFoundError, OptionError, WriterOptions
from tests.contract_base import Backend, blob

if TYPE_CHECKING:
    from typing import Any

#: The least that S3 takes, so that few bytes are several parts.
PART = 5 * 1024**2
LENGTH = 2 * PART + 12345


@cache
def body() -> bytes:
    """Returns three parts, the last one short."""
    return blob(LENGTH)


def stream(uri: str, **options: Any) -> MultipartUploadWriter:
    """Returns a writer with small parts, few of them at once."""
    return MultipartUploadWriter.from_uri(uri, **{"part_size": PART, "max_in_flight": 2, **options})


class Streams(Backend):
    """Streaming writers."""

    def test_a_stream_of_odd_pieces_is_the_object(self, root: str) -> None:
        data, dice, done = body(), random.Random(1), 0
        begun = datetime.now(UTC)
        with stream(f"{root}x") as writer:
            assert (writer.uri, writer.info) == (f"{root}x", None)
            while done < LENGTH:
                count = min(dice.randrange(1, PART), LENGTH - done)
                if dice.random() < 0.5:
                    assert writer.write(data[done : done + count]) == count
                else:
                    room = writer.reserve(count + 7)
                    room[:count] = data[done : done + count]
                    assert writer.commit(count) == count
                done += count
                assert writer.bytes_written == done
            assert not s3dlio.exists(f"{root}x")
            assert s3dlio.list(root) == []
        assert s3dlio.get(f"{root}x") == data
        info = writer.close()
        assert (info.total_bytes, info.parts) == (LENGTH, 3)
        assert info.checksum == f"crc32c:{crc32c(data):08x}"
        assert begun <= info.started_at <= info.completed_at <= datetime.now(UTC)
        assert s3dlio.list(root) == [f"{root}x"]

    @pytest.mark.parametrize(("length", "parts"), [(0, 1), (10, 1), (PART, 1), (PART + 1, 2)])
    def test_a_stream_of_any_length(self, root: str, length: int, parts: int) -> None:
        data = body()[:length]
        with stream(f"{root}x") as writer:
            writer.write(data)
        info = writer.info
        assert info is not None
        assert (info.total_bytes, info.parts, info.checksum) == (length, parts, f"crc32c:{crc32c(data):08x}")
        assert s3dlio.get(f"{root}x") == data
        known = s3dlio.stat(f"{root}x")
        assert known["size"] == length
        if info.etag and parts > 1:
            assert info.etag == known["etag"]

    def test_what_is_written_may_change_at_once(self, root: str) -> None:
        memory = bytearray(body()[:PART])
        with stream(f"{root}x") as writer:
            for _ in range(2):
                memory[:] = body()[:PART]
                writer.write(memory)
                memory[:] = bytes(PART)
        assert s3dlio.get(f"{root}x") == body()[:PART] * 2

    def test_memory_is_reserved_and_committed(self, root: str) -> None:
        data = body()
        with stream(f"{root}x") as writer:
            room = writer.reserve(PART + 100)  # more than a part
            room[:] = data[: PART + 100]
            assert writer.commit(PART + 100) == PART + 100
            with pytest.raises(ValueError, match="released"):
                room[0] = 1
            writer.reserve(50)
            assert writer.commit(0) == 0
            room = writer.reserve(LENGTH)
            room[:2000] = data[PART + 100 : PART + 2100]
            writer.commit(2000)
            array = np.frombuffer(writer.reserve(LENGTH - PART - 2100), np.uint8)
            array[:] = np.frombuffer(data, np.uint8)[PART + 2100 :]
            writer.commit(len(array))
        assert s3dlio.get(f"{root}x") == data

    def test_reservations_are_kept_in_order(self, root: str) -> None:
        writer = stream(f"{root}x")
        with pytest.raises(ClosedError, match="nothing is reserved"):
            writer.commit(1)
        with pytest.raises(OptionError):
            writer.reserve(-1)
        writer.reserve(10)[:] = b"0123456789"
        for call in (lambda: writer.reserve(1), lambda: writer.write(b"x"), writer.close):
            with pytest.raises(ClosedError, match="reserved"):
                call()
        for wrong in (11, -1):
            with pytest.raises(OptionError, match="10 bytes were reserved"):
                writer.commit(wrong)
        writer.commit(10)
        writer.close()
        assert s3dlio.get(f"{root}x") == b"0123456789"

    def test_flush_waits_for_whole_parts(self, root: str) -> None:
        with stream(f"{root}x") as writer:
            writer.flush()
            for start in range(0, LENGTH, PART // 2 + 1):
                writer.write(body()[start : start + PART // 2 + 1])
                writer.flush()
            assert not s3dlio.exists(f"{root}x")
        assert writer.info is not None
        assert writer.info.parts == 3
        assert s3dlio.get(f"{root}x") == body()

    def test_closing_again_tells_the_same(self, root: str) -> None:
        writer = stream(f"{root}x")
        writer.write(b"spam")
        info = writer.close()
        assert writer.close() is info is writer.info
        writer.abort()
        assert s3dlio.get(f"{root}x") == b"spam"
        for call in (lambda: writer.write(b""), lambda: writer.reserve(1), writer.flush):
            with pytest.raises(ClosedError, match="closed"):
                call()

    @pytest.mark.parametrize("length", [10, LENGTH])
    def test_nothing_is_left_of_an_aborted_stream(self, root: str, length: int) -> None:
        s3dlio.put(f"{root}x", b"old")
        writer = stream(f"{root}x")
        writer.write(body()[:length])
        writer.abort()
        writer.abort()
        for call in (lambda: writer.write(b"x"), lambda: writer.reserve(1), writer.flush, writer.close):
            with pytest.raises(ClosedError, match="aborted"):
                call()
        assert writer.info is None
        assert s3dlio.list(root) == [f"{root}x"]
        assert s3dlio.get(f"{root}x") == b"old"

    def test_an_exception_aborts(self, root: str) -> None:
        with pytest.raises(ZeroDivisionError) as caught, stream(f"{root}x") as writer:
            _write_and_fail(writer)
        assert not hasattr(caught.value, "__notes__")
        assert s3dlio.list(root) == []

    def test_a_stream_that_is_let_go_leaves_nothing(self, root: str) -> None:
        s3dlio.put(f"{root}other", b"")
        writer = stream(f"{root}x")
        writer.write(body())
        del writer
        gc.collect()
        time.sleep(0.1)
        assert s3dlio.list(root) == [f"{root}other"]

    def test_a_stream_replaces_at_its_end(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"old")
        with stream(f"{root}x") as writer:
            writer.write(body())
            writer.flush()
            assert s3dlio.get(f"{root}x") == b"old"
        assert s3dlio.get(f"{root}x") == body()

    @pytest.mark.parametrize("length", [10, LENGTH])
    def test_a_stream_without_overwrite_keeps_what_is_there(self, root: str, length: int) -> None:
        with stream(f"{root}x", overwrite=False) as writer:
            writer.write(body()[:length])
        if not self.refuses_overwrite:
            return
        with pytest.raises(AlreadyExistsError) as caught, stream(f"{root}x", overwrite=False) as writer:
            writer.write(body()[: length - 1])
        assert (caught.value.uri, caught.value.operation) == (f"{root}x", "put")
        assert s3dlio.get(f"{root}x") == body()[:length]
        assert s3dlio.list(root) == [f"{root}x"]

    @pytest.mark.parametrize("length", [10, LENGTH])
    def test_content_type_and_metadata_arrive(self, root: str, length: int) -> None:
        metadata = {"Note": "written  piece by piece"}
        with stream(f"{root}x", content_type="image/png", metadata=metadata) as writer:
            writer.write(body()[:length])
        known = s3dlio.stat(f"{root}x")
        assert known["content_type"] == "image/png" or not self.keeps_content_type
        assert known["metadata"] == ({"note": "written  piece by piece"} if self.keeps_metadata else {})

    def test_a_stream_into_a_missing_container_fails(self, nowhere: str) -> None:
        if self.makes_containers:
            with stream(f"{nowhere}x") as writer:
                writer.write(body())
            assert s3dlio.get(f"{nowhere}x") == body()
            return
        with pytest.raises(NotFoundError) as caught, stream(f"{nowhere}x") as writer:
            writer.write(body())
        assert (caught.value.uri, caught.value.operation) == (f"{nowhere}x", "put")

    def test_several_streams_at_once(self, root: str) -> None:
        failures: list[object] = []

        def work(number: int) -> None:
            try:
                with stream(f"{root}{number}") as writer:
                    for start in range(0, LENGTH, 1_000_003):
                        writer.write(body()[start : start + 1_000_003])
            except BaseException as error:  # noqa: BLE001 - shown by the assertion below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert failures == []
        assert [view for _, view in s3dlio.get_many([f"{root}{n}" for n in range(3)])] == [body()] * 3

    def test_a_compressed_stream_is_read_back(self, root: str) -> None:
        data = b"spam and eggs " * 10_000 + body()[:30_000]
        options = WriterOptions(compression="zstd", content_type="text/plain")
        with s3dlio.create_writer(f"{root}x", options) as writer:
            for start in range(0, len(data), 7777):
                assert writer.write(data[start : start + 7777]) == len(data[start : start + 7777])
            assert writer.bytes_written() == len(data)
            assert s3dlio.list(root) == []
        assert writer.uri == f"{root}x.zst"
        assert s3dlio.list(root) == [f"{root}x.zst"]
        assert s3dlio.get(writer.uri, decompress=True) == data
        stored = s3dlio.get(writer.uri)
        assert tuple(writer.finalize()) == (len(data), len(stored))
        assert writer.finalize()["checksum"] == f"crc32c:{crc32c(stored):08x}"
        assert writer.finish()["size"] == len(stored)


def _write_and_fail(writer: MultipartUploadWriter) -> None:
    writer.write(body())
    raise ZeroDivisionError
