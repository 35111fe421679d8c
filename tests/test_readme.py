"""Room card: what README.md shows works as printed, against a real server."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

import s3dlio
from s3dlio.testing import S3Server

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def npz(number: int) -> bytes:
    file = io.BytesIO()
    np.savez(file, image=np.full((8, 8), number, np.float32), label=np.int64(number))
    return file.getvalue()


@pytest.fixture(scope="module")
def server() -> object:
    """A server with the bucket and objects that the examples speak of."""
    with S3Server() as running, running.activate():
        s3dlio.create_bucket("bucket")
        s3dlio.put("s3://bucket/weights.bin", b"\1\2" * (1 << 20))
        s3dlio.put_many([(f"s3://bucket/embeddings/{n}", np.full(16, n, np.float32)) for n in range(10)])
        s3dlio.put_many([(f"s3://bucket/{part}/{n}.npz", npz(n)) for part in ("train", "test") for n in range(40)])
        yield running


def test_there_are_five_examples() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS, ids=["verbs", "into", "many", "train", "server"])
def test_an_example_runs_as_printed(block: str, server: S3Server) -> None:
    names: dict[str, object] = {}
    with server.activate():
        exec(compile(block, str(README), "exec"), names)
        if "loader" in names:
            assert sum(len(batch["label"]) for batch in names["loader"]) == 40  # type: ignore[attr-defined]
            assert sum(len(images) for images in names["images"]) == 40  # type: ignore[attr-defined]
        if "weights" in names:
            assert bytes(names["weights"].view(-1)[:1].view(dtype=names["torch"].uint8).numpy()) == b"\1\2"  # type: ignore[attr-defined]
        if "vector" in names:
            assert names["vector"].tolist() == [9.0] * 16  # type: ignore[attr-defined]


def test_the_first_commands_are_the_two_that_set_up() -> None:
    first = re.search(r"```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]
