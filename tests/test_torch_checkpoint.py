"""Room card: torch.distributed.checkpoint to and from every backend: plain, DTensor and FSDP2, other numbers of ranks.

Real ranks under torchrun; the oracle is what was saved, as torch gathers it. Knows nothing of how files look but
that the metadata is one object, put last.
"""

from __future__ import annotations

import datetime as dt
import gc
import io
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

import s3dlio
from s3dlio.checkpoint import places
from s3dlio.checkpoint.pieces import Piece, cuts, parse_piece, span_of
from s3dlio.errors import AlreadyExistsError, FormatError, IntegrityError, OptionError, S3dlioError
from s3dlio.testing import S3Server
from s3dlio.torch import S3StorageReader, S3StorageWriter
from tests.patience import PROGRAM_S

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
State = dict[str, Any]


def saved(base: str, state: State, **options: Any) -> S3StorageWriter:
    writer = S3StorageWriter(base, **options)
    dcp.save(state, storage_writer=writer)
    return writer


def loaded(base: str, state: State, **options: Any) -> State:
    dcp.load(state, storage_reader=S3StorageReader(base, **options))
    return state


def example(fill: Callable[..., torch.Tensor] = torch.randn, mark: Any = 0.25) -> State:
    """Return a state of all that a training run has: with ``zeros`` and ``None``, what is to be filled."""
    return {
        "model": {"weight": fill(300, 257), "half": fill(31).to(torch.bfloat16), "bits": fill(9) > 0},
        "nine": {f"p{number}": fill(number + 1) for number in range(9)},
        "empty": torch.empty(0, 3), "scalar": fill(()), "complex": torch.complex(fill(5), fill(5)),
        "small": fill(17).to(torch.float8_e4m3fn), "turned": fill(40, 30).t(), "epoch": mark,
        "schedule": {"name": "cosine" if mark else "", "steps": [1, 2, 3] if mark else None},
    }  # fmt: skip


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: item for key, inner in value.items() for name, item in flat(inner, f"{path}.{key}").items()}
    return {path: value}


def assert_same(one: State, other: State) -> None:
    ours, theirs = flat(one), flat(other)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == theirs[name].dtype
            assert torch.equal(value.reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8)), name
        else:
            assert value == theirs[name], name


# -- one process, every backend -----------------------------------------------------------------------


@pytest.fixture(params=["file", "direct", "memory", "s3", "az", "gs", "path"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a checkpoint, on each backend."""
    kind = request.param
    if kind in ("file", "direct"):
        yield f"{kind}://{tmp_path}/run/step-1"
    elif kind == "path":
        yield str(tmp_path / "step-1")
    elif kind == "memory":
        yield f"memory://{tmp_path.name}/step-1"
    elif kind == "s3":
        yield f"{activated(request.getfixturevalue('rclone'), request)}/step-1"
    elif kind == "az":
        azurite = request.getfixturevalue("azurite")
        azurite.make_container("dcp")
        activated(azurite, request)
        yield "az://dcp/step-1"
    else:
        gcs = request.getfixturevalue("gcs")
        activated(gcs, request)
        s3dlio.create_bucket("gs://dcp")
        yield "gs://dcp/step-1"


def activated(server: Any, request: pytest.FixtureRequest) -> str:
    """Let the environment lead to a server; return a bucket, if it is S3's."""
    environment = request.getfixturevalue("monkeypatch")
    for name, value in server.env.items():
        environment.setenv(name, value)
    if not isinstance(server, S3Server):
        return ""
    server.make_bucket("dcp")
    return "s3://dcp"


def test_a_state_comes_back_from_every_backend(base: str) -> None:
    state = example()
    saved(base, state)
    target = example(torch.zeros, None)
    addresses = {name: value.data_ptr() for name, value in flat(target).items() if isinstance(value, torch.Tensor)}
    assert_same(state, loaded(base, target))
    filled = {name: value.data_ptr() for name, value in flat(target).items() if isinstance(value, torch.Tensor)}
    assert filled == addresses  # into the tensors that were there


@pytest.mark.parametrize("strategy", ["flat", "round_robin", "binary"])
def test_strategies_and_several_files_for_a_rank(tmp_path: Path, strategy: str) -> None:
    state = example()
    saved(f"file://{tmp_path}/c", state, strategy=strategy, files_per_rank=3)
    assert len(files(tmp_path / "c")) == 3
    assert_same(state, loaded(f"file://{tmp_path}/c", example(torch.zeros, None)))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_a_checkpoint_id_takes_the_place_of_the_uri(tmp_path: Path) -> None:
    writer, reader = S3StorageWriter(f"file://{tmp_path}/none"), S3StorageReader(f"file://{tmp_path}/none")
    for step in (1, 2):
        dcp.save({"x": torch.full((3,), step)}, checkpoint_id=f"file://{tmp_path}/{step}", storage_writer=writer)
    for step in (2, 1):
        state = {"x": torch.zeros(3, dtype=torch.int64)}
        dcp.load(state, checkpoint_id=f"file://{tmp_path}/{step}", storage_reader=reader)
        assert state["x"].tolist() == [step] * 3
        assert reader.checkpoint_id == f"file://{tmp_path}/{step}/"
    assert not (tmp_path / "none").exists()
    assert S3StorageWriter.validate_checkpoint_id("s3://bucket/x")
    assert S3StorageReader.validate_checkpoint_id("/x/y")
    assert not S3StorageWriter.validate_checkpoint_id("s3:///x")


def test_the_files_are_safetensors_that_load_by_themselves(tmp_path: Path) -> None:
    saved(f"file://{tmp_path}", {"w": torch.arange(6.0).reshape(2, 3), "epoch": 3})
    (file,) = files(tmp_path)
    alone = s3dlio.load_checkpoint(str(file))
    assert alone["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sorted(alone) == ["epoch", "w"]


def test_torch_turns_a_checkpoint_into_one_file(tmp_path: Path) -> None:
    """By a planner that makes the tensors from the metadata alone."""
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state = example()
    saved(f"file://{tmp_path}", state)
    found: State = {}
    _load_state_dict(found, S3StorageReader(f"file://{tmp_path}"), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    assert_same(state, {name: found[name] for name in state})


def test_a_part_of_a_checkpoint_and_another_dtype(tmp_path: Path) -> None:
    saved(f"file://{tmp_path}", {"a": torch.arange(1000.0), "b": torch.ones(5)})
    target = {"a": torch.zeros(1000, dtype=torch.float64)}
    assert torch.equal(loaded(f"file://{tmp_path}", target)["a"], torch.arange(1000.0, dtype=torch.float64))


def test_async_save_from_a_copy(tmp_path: Path) -> None:
    state = {"w": torch.arange(100_000.0), "step": 7}
    future: Any = dcp.async_save(state, storage_writer=S3StorageWriter(f"file://{tmp_path}"), no_dist=True)
    state["w"].zero_()
    future.result()
    gc.collect()
    target = loaded(f"file://{tmp_path}", {"w": torch.zeros(100_000), "step": 0})
    assert torch.equal(target["w"], torch.arange(100_000.0))
    assert target["step"] == 7


def test_planners_that_cache_their_plans_never_write_over_files(tmp_path: Path) -> None:
    """The cached plan of the save before comes back: whatever a plan carries of a save's name is old."""
    planner = DefaultSavePlanner(enable_plan_caching=True)
    names = set()
    for step in range(3):
        writer = S3StorageWriter(f"file://{tmp_path}")
        dcp.save({"w": torch.full((5,), step)}, storage_writer=writer, planner=planner)
        names.add(files(tmp_path)[0].name)
        assert loaded(f"file://{tmp_path}", {"w": torch.zeros(5, dtype=torch.int64)})["w"].tolist() == [step] * 5
    assert len(names) == 3
    assert len(files(tmp_path)) == 1


def test_writers_and_readers_can_be_pickled(tmp_path: Path) -> None:
    writer = pickle.loads(pickle.dumps(S3StorageWriter(f"file://{tmp_path}", strategy="binary")))
    dcp.save({"w": torch.ones(3)}, storage_writer=writer)
    reader = pickle.loads(pickle.dumps(S3StorageReader(f"file://{tmp_path}")))
    state = {"w": torch.zeros(3)}
    dcp.load(state, storage_reader=reader)
    assert state["w"].tolist() == [1, 1, 1]


def test_a_rank_that_saves_by_itself(tmp_path: Path) -> None:
    writer = S3StorageWriter(f"file://{tmp_path}")
    for _ in range(2):
        dcp.save({"w": torch.arange(4)}, storage_writer=writer, use_collectives=False)
    assert (tmp_path / "metadata-rank-0.json").exists()
    assert len(files(tmp_path)) == 1
    assert loaded(f"file://{tmp_path}", {"w": torch.zeros(4, dtype=torch.int64)})["w"].tolist() == [0, 1, 2, 3]


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="round_robin"):
        S3StorageWriter(f"file://{tmp_path}", strategy="round_robbin")
    with pytest.raises(OptionError, match="files_per_rank"):
        S3StorageWriter(f"file://{tmp_path}", files_per_rank=0)


# -- what is not to be overwritten, and what is left of saves that were killed ---------------------------


def test_overwrite_false_refuses_before_anything_is_written(tmp_path: Path) -> None:
    base = f"file://{tmp_path}"
    saved(base, {"w": torch.ones(3)}, overwrite=False)
    before = files(tmp_path)
    with pytest.raises(CheckpointException) as caught:
        saved(base, {"w": torch.zeros(3)}, overwrite=False)
    assert isinstance(caught.value.failures[0][0], AlreadyExistsError)
    assert files(tmp_path) == before
    assert loaded(base, {"w": torch.zeros(3)})["w"].tolist() == [1, 1, 1]


_KILLED = textwrap.dedent("""
    import os, signal, sys, warnings
    warnings.simplefilter("ignore")
    import torch, torch.distributed.checkpoint as dcp
    from s3dlio.torch import S3StorageWriter
    class Killed(S3StorageWriter):
        def finish(self, metadata, results):
            os.kill(os.getpid(), signal.SIGKILL)
    dcp.save({"w": torch.zeros(3)}, storage_writer=Killed(sys.argv[1]))
""")


def test_a_save_that_is_killed_before_its_metadata_leaves_the_one_before(tmp_path: Path) -> None:
    base = f"file://{tmp_path}"
    saved(base, {"w": torch.ones(3)})
    (first,) = files(tmp_path)
    killed = subprocess.run([sys.executable, "-P", "-c", _KILLED, base], check=False, timeout=PROGRAM_S, cwd=Path.cwd())
    assert killed.returncode == -signal.SIGKILL
    (orphan,) = set(files(tmp_path)) - {first}
    assert loaded(base, {"w": torch.zeros(3)})["w"].tolist() == [1, 1, 1]
    saved(base, {"w": torch.full((3,), 2.0)})
    assert not first.exists()
    assert orphan.exists()
    old = orphan.with_name("20200101" + orphan.name[8:])
    orphan.rename(old)
    (tmp_path / "data" / "mine.txt").write_text("not ours")
    saved(base, {"w": torch.full((3,), 3.0)})
    assert not old.exists()
    assert (tmp_path / "data" / "mine.txt").exists()
    assert len(files(tmp_path)) == 1
    assert loaded(base, {"w": torch.zeros(3)})["w"].tolist() == [3, 3, 3]


def test_the_metadata_is_put_once_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is removed before: there is no moment without a checkpoint."""
    from s3dlio.stores.local import LocalStore

    saved(f"file://{tmp_path}", {"w": torch.ones(3)})
    seen: list[str] = []
    put, delete = LocalStore.put, LocalStore.delete

    def noted_put(self: Any, uri: Any, *rest: Any) -> Any:
        seen.append(f"put {uri.key.rpartition('/')[2]}")
        return put(self, uri, *rest)

    def noted_delete(self: Any, uris: Any, *rest: Any) -> Any:
        seen.extend("delete" for _ in uris)
        return delete(self, uris, *rest)

    monkeypatch.setattr(LocalStore, "put", noted_put)
    monkeypatch.setattr(LocalStore, "delete", noted_delete)
    saved(f"file://{tmp_path}", {"w": torch.zeros(3)})
    assert seen[0].endswith("-rank-0-0.safetensors")
    assert seen[1:] == ["put metadata.json", "delete"]


def test_a_tensor_that_cannot_be_saved_leaves_no_file(tmp_path: Path) -> None:
    state = {"good": torch.ones(5), "sparse": torch.eye(3).to_sparse()}
    with pytest.raises(CheckpointException, match="sparse"):
        saved(f"file://{tmp_path}", state, files_per_rank=2)
    assert not files(tmp_path)
    assert not (tmp_path / "metadata.json").exists()


# -- damage ----------------------------------------------------------------------------------------------


def failure(base: str, state: State, **options: Any) -> BaseException:
    with pytest.raises(CheckpointException) as caught:
        loaded(base, state, **options)
    error: BaseException = caught.value.failures[0][0]
    return error


def test_a_flipped_bit_names_the_tensor_and_the_file(tmp_path: Path) -> None:
    base = f"file://{tmp_path}"
    saved(base, {"layer": {"weight": torch.arange(50_000.0), "bias": torch.ones(4)}})
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-120_000] ^= 4
    file.write_bytes(content)
    error = failure(base, {"layer": {"weight": torch.zeros(50_000), "bias": torch.zeros(4)}})
    assert isinstance(error, IntegrityError)
    assert "layer.weight" in str(error)
    assert file.name in str(error)
    assert loaded(base, {"layer": {"bias": torch.zeros(4)}})["layer"]["bias"].tolist() == [1] * 4


def test_a_missing_or_cut_file_is_named(tmp_path: Path) -> None:
    base = f"file://{tmp_path}"
    saved(base, {"w": torch.ones(1000)})
    (file,) = files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    error = failure(base, {"w": torch.zeros(1000)})
    assert isinstance(error, s3dlio.IncompleteCheckpointError)
    assert file.name in str(error)
    file.unlink()
    error = failure(base, {"w": torch.zeros(1000)})
    assert isinstance(error, s3dlio.IncompleteCheckpointError)
    assert "missing" in str(error)
    assert file.name in str(error)


@pytest.mark.parametrize("change", [b'"size":[1000]', b"}]", b'"torch"'])
def test_damaged_metadata_is_told(tmp_path: Path, change: bytes) -> None:
    base = f"file://{tmp_path}"
    saved(base, {"w": torch.ones(1000)})
    file = tmp_path / "metadata.json"
    file.write_bytes(file.read_bytes().replace(change, change[:-1] + b"!", 1))
    assert "damaged" in str(failure(base, {"w": torch.zeros(1000)}))


def forged(tmp_path: Path, alter: Callable[[dict[str, Any]], Any]) -> str:
    """Save a checkpoint whose metadata lies, and is summed rightly."""
    from s3dlio.checksums import crc32c

    saved(f"file://{tmp_path}", {"w": torch.ones(1000), "b": 1})
    file = tmp_path / "metadata.json"
    told = json.loads(file.read_bytes())
    alter(told)
    text = json.dumps({**told, "crc32c": "00000000"}, separators=(",", ":")).encode()
    file.write_bytes(text.replace(b"00000000", f"{crc32c(text):08x}".encode(), 1))
    return f"file://{tmp_path}"


def _piece(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(piece for fqn, _, _, piece in told["pieces"] if fqn == name)


def _entry(told: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(told["entries"])[name]


_LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another file": lambda t: _piece(t, "w").update(file="../../etc/passwd"),
    "an address": lambda t: _piece(t, "w").update(file="s3://other/x"),
    "a vast piece": lambda t: _piece(t, "b").update(shape=[1 << 50]),
    "vast lengths": lambda t: _piece(t, "b").update(shape=[1 << 50, 1 << 50, 1 << 50]),
    "beyond the file": lambda t: _piece(t, "w").update(at=1 << 40),
    "a vast tensor": lambda t: _entry(t, "w").update(chunks=[[[0], [1 << 40]]]),
    "a part outside": lambda t: _entry(t, "w").update(chunks=[[[10], [1000]]]),
    "no dtype": lambda t: _entry(t, "w").update(dtype="load"),
    "a negative length": lambda t: _entry(t, "w").update(size=[-1]),
    "no sums": lambda t: _piece(t, "w").update(sums=""),
    "a later version": lambda t: t.update(version=2),
    "no entries": lambda t: t.pop("entries"),
    "deep data": lambda t: t.update(planner_data={"l": [{"a": "x"}]}),
}


@pytest.mark.parametrize("lie", sorted(_LIES))
def test_metadata_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    base = forged(tmp_path, _LIES[lie])
    error = failure(base, {"w": torch.zeros(1000), "b": 0})
    told = isinstance(error, S3dlioError) or "metadata read failed" in str(error)  # so torch wraps what it met first
    assert told, repr(error)
    assert lie != "a later version" or "update s3dlio" in str(error)


def test_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert "there is no checkpoint" in str(failure(f"file://{tmp_path}", {"w": torch.zeros(3)}))


def test_a_bucket_that_is_not_there_is_told(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only that there is no checkpoint in it."""
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(s3dlio.NotFoundError, match=r"no checkpoint: .*bucket does not exist"):
        S3StorageReader("s3://mistyped-bucket/run").read_metadata()


def test_errors_hold_no_secret(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    error = failure("s3://no-such-bucket-here/x", {"w": torch.zeros(3)})
    assert "no-such-bucket-here" in str(error)
    assert rclone.secret_key not in f"{error!r}{error}{error.__notes__ if hasattr(error, '__notes__') else ''}"


# -- code in checkpoints ---------------------------------------------------------------------------------


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    place = tmp_path / "mark"
    base = f"file://{tmp_path}/c"
    saved(base, {"w": torch.ones(3), "bomb": Bomb(str(place))})
    error = failure(base, {"w": torch.zeros(3), "bomb": 1})
    assert "allow_pickle=True" in str(error)
    assert "'bomb'" in str(error)
    assert not place.exists()
    loaded(base, {"w": torch.zeros(3), "bomb": 1}, allow_pickle=True)
    assert place.exists()


def test_what_is_nothing_but_data_needs_no_trust(tmp_path: Path) -> None:
    """A history of losses in a BytesIO, as torch's own examples keep it; and what else is in a trainer's state."""

    def history(losses: list[float]) -> io.BytesIO:
        memory = io.BytesIO()
        torch.save(losses, memory)
        return memory

    now = dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC)
    state = {"losses": history([1.5, 2.5]), "began": now, "took": now - now.replace(hour=1), "day": now.date(),
             "ranks": frozenset({1, 2}), "steps": [range(3, 9, 2), slice(1, None)]}  # fmt: skip
    saved(f"file://{tmp_path}/c", state)
    allowed = set(torch.serialization.get_safe_globals())
    found = loaded(
        f"file://{tmp_path}/c", {"losses": history([]), **dict.fromkeys(list(state)[1:])} | {"steps": [0, 0]}
    )
    assert set(torch.serialization.get_safe_globals()) == allowed
    memory = found.pop("losses")
    memory.seek(0)
    assert torch.load(memory) == [1.5, 2.5]
    assert found == {name: value for name, value in state.items() if name != "losses"}


def test_a_class_that_is_not_safe_is_named(tmp_path: Path) -> None:
    saved(f"file://{tmp_path}/c", {"path": tmp_path})
    error = str(failure(f"file://{tmp_path}/c", {"path": None}))
    assert "'path': it is no tensor" in error
    assert "Unsupported global: GLOBAL pathlib." in error
    assert "\x1b" not in error


def test_numbers_of_four_bits_come_back_from_shards(tmp_path: Path) -> None:
    pairs = torch.randint(256, (6, 5), dtype=torch.uint8)
    saved(f"file://{tmp_path}/c", {"w": pairs.view(torch.float4_e2m1fn_x2)})
    target = {"w": torch.zeros_like(pairs).view(torch.float4_e2m1fn_x2)}
    assert torch.equal(loaded(f"file://{tmp_path}/c", target)["w"].view(torch.uint8), pairs)


def test_checkpoints_of_torchs_own_writer_need_trust(tmp_path: Path) -> None:
    state = {"w": torch.randn(100, 50), "n": {"b": torch.arange(7)}, "epoch": 3}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path))
    target = {"w": torch.zeros(100, 50), "n": {"b": torch.zeros(7, dtype=torch.int64)}, "epoch": 0}
    assert "allow_pickle=True" in str(failure(f"file://{tmp_path}", target))
    assert_same(state, loaded(f"file://{tmp_path}", target, allow_pickle=True))


# -- parts of tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1000,), (4096, 1024), (3, 1 << 20), (1 << 20, 3), (5, 0), (1, 1 << 22)]
)
def test_blocks_cover_a_piece(shape: tuple[int, ...]) -> None:
    places = cuts(shape, 4)
    length = 4 * int(torch.Size(shape).numel())
    assert places[0] == 0
    assert places[-1] == length
    assert places == sorted(set(places))
    assert all(place % 4 == 0 for place in places)
    assert max((b - a for a, b in itertools.pairwise(places)), default=0) <= max(8 << 20, 1 << 17)
    piece = Piece("data/x", 0, shape, 4, tuple(range(len(places) - 1)))
    assert parse_piece(json.loads(json.dumps(piece.to_json()))) == piece
    with pytest.raises(FormatError):
        parse_piece({**piece.to_json(), "sums": piece.to_json()["sums"] + "00000000"})


@pytest.mark.parametrize("shape", [(8,), (5, 6), (3, 4, 5), (2, 1, 6)])
def test_spans_are_where_boxes_lie(shape: tuple[int, ...]) -> None:
    """Against torch's own narrowing, for every box."""
    import itertools

    whole = torch.arange(torch.Size(shape).numel()).reshape(shape)
    ranges = [[(low, high - low) for low in range(n) for high in range(low + 1, n + 1)] for n in shape]
    for box in itertools.product(*ranges):
        inside = whole[tuple(slice(low, low + length) for low, length in box)].flatten().tolist()
        span = span_of(shape, 1, [low for low, _ in box], [length for _, length in box])
        assert (span.start, span.stop) == (inside[0], inside[-1] + 1)
        assert span.is_whole == (inside == list(range(span.start, span.stop)))


# -- several ranks ---------------------------------------------------------------------------------------

_RANK = textwrap.dedent("""
    import json, os, sys, warnings
    warnings.simplefilter("ignore")
    import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from s3dlio.context import store_of
    from s3dlio.torch import S3StorageReader, S3StorageWriter
    from s3dlio.uri import parse

    was, becomes, folder, bases = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    square = init_device_mesh("cpu", (world // 2, 2))

    def full(*shape, seed=1):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    def tensors(factor):
        return {
            "rows": distribute_tensor(full(1024, 1024) * factor, mesh, [Shard(0)]),
            "uneven": distribute_tensor(full(2001, 1001) * factor, mesh, [Shard(0)]),
            "few": distribute_tensor(full(3, 5) * factor, mesh, [Shard(0)]),
            "columns": distribute_tensor(full(256, 1024) * factor, mesh, [Shard(1)]),
            "both": distribute_tensor(full(128, 512) * factor, square, [Shard(0), Shard(1)]),
            "everywhere": distribute_tensor(full(100, 100) * factor, mesh, [Replicate()]),
            "plain": full(333) * factor, "epoch": 5 * factor,
        }

    def trained(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 10))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01 * seed)
        model(torch.ones(4, 64) * seed).sum().backward()
        optimizer.step()
        return model, optimizer

    def gathered(value):
        if isinstance(value, dict):
            return {key: gathered(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [gathered(item) for item in value]
        return value.full_tensor() if isinstance(value, DTensor) else value

    def same(one, other):
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

    def counted(base, state):
        store = store_of(parse(base))
        read, lengths = store.read_into, []
        store.read_into = lambda uri, at, target, *rest: (lengths.append(len(target)), read(uri, at, target, *rest))
        dcp.load(state, storage_reader=S3StorageReader(f"{base}/tensors"))
        del store.read_into
        return sum(lengths)

    def load(base):
        target, right = tensors(0), tensors(1)
        dcp.load(target, storage_reader=S3StorageReader(f"{base}/tensors"))
        assert all(same(gathered(target[name]), gathered(right[name])) for name in right), "values"
        model, optimizer = trained(3)
        state, moments = get_state_dict(model, optimizer)
        dcp.load({"model": state, "optim": moments}, storage_reader=S3StorageReader(f"{base}/trained"))
        set_state_dict(model, optimizer, model_state_dict=state, optim_state_dict=moments)
        whole = gathered(dict(zip(("model", "optim"), get_state_dict(model, optimizer))))
        assert same(whole, torch.load(os.path.join(folder, "reference.pt"))), "trained"
        part = {"rows": tensors(0)["rows"], "uneven": tensors(0)["uneven"]}
        read = counted(base, part)
        needed = sum(tensor.to_local().nbytes for tensor in part.values())
        part = {"rows": part["rows"]}
        even = counted(base, part)
        return [needed, read, part["rows"].to_local().nbytes, even]

    def save(base):
        writer = S3StorageWriter(f"{base}/tensors", strategy="round_robin")
        dcp.save(tensors(0), storage_writer=writer)  # replaced by the next
        dcp.save(tensors(1), storage_writer=writer)
        model, optimizer = trained(2)
        state, moments = get_state_dict(model, optimizer)
        dcp.save({"model": state, "optim": moments}, storage_writer=S3StorageWriter(f"{base}/trained"))
        whole = gathered({"model": state, "optim": moments})
        if rank == 0:
            torch.save(whole, os.path.join(folder, "reference.pt"))

    found = {base: load(f"{base}/{was}") for base in bases if was != "-"}
    if becomes != "-":
        for base in bases:
            save(f"{base}/{becomes}")
    with open(os.path.join(folder, f"found-{world}-{rank}.json"), "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()
""")


def run_ranks(count: int, script: Path, *words: str, env: dict[str, str]) -> None:
    """Run ranks as torchrun starts them, without the time that it takes to start itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": str(Path(__file__).parents[1]), "TORCH_CPP_LOG_LEVEL": "ERROR", **env}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", str(script), *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=PROGRAM_S)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert [process.returncode for process in ranks] == [0] * count, "\n".join(text[-3000:] for text in said)


def test_two_ranks_save_four_load_and_save_two_load(rclone: S3Server, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    rclone.make_bucket("ranks")
    bases = [f"file://{tmp_path}/c", "s3://ranks/c"]
    for count, was, becomes in ((2, "-", "by2"), (4, "by2", "by4"), (2, "by4", "-")):
        run_ranks(count, script, was, becomes, str(tmp_path), *bases, env=rclone.env)
        assert becomes == "-" or len(files(tmp_path / "c" / becomes / "tensors")) == count
        for rank in range(count if was != "-" else 0):
            told = json.loads((tmp_path / f"found-{count}-{rank}.json").read_text())
            for needed, read, even_needed, even_read in told.values():
                assert needed <= read <= 1.05 * needed
                assert even_read == even_needed  # rows that divide evenly cost no byte too much


def test_bytes_of_a_planner_that_gives_none_are_refused(tmp_path: Path) -> None:
    class Odd(DefaultSavePlanner):
        def resolve_data(self, write_item: Any) -> torch.Tensor | io.BytesIO:
            return torch.ones(3)

    with pytest.raises(CheckpointException, match="was to give the bytes of 'epoch'"):
        dcp.save({"epoch": 1}, storage_writer=S3StorageWriter(f"file://{tmp_path}"), planner=Odd())


def test_names_of_files_are_never_the_same() -> None:
    names = [next(places.file_names(places.new_save(), rank)) for rank in (0, 0, 1)]
    assert len(set(names)) == 3
    assert all(places.written_at(name) for name in names)
    assert places.written_at("data/mine.txt") is None
