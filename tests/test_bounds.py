"""Room card: what newcomers give by mistake is refused by name, before anything is read, written or deleted."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.bounds import flag, whole
from s3dlio.errors import NotFoundError, OptionError, UriError
from s3dlio.torch import S3IterableDataset, S3MapDataset

_SAMPLES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(_SAMPLES):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 8)
    return tmp_path


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"file://{tmp_path}"


@pytest.mark.parametrize("value", [5, np.int64(5), np.array(5), torch.tensor(5)])
def test_whole_numbers_of_every_kind_are_whole_numbers(value: Any) -> None:
    assert type(whole("step", value)) is int
    assert whole("step", value, 5) == 5


@pytest.mark.parametrize("value", ["5", 5.0, True, None, [5], torch.ones(2)])
def test_what_is_no_whole_number_is_refused_by_the_arguments_name(value: Any) -> None:
    with pytest.raises(OptionError, match="step must be a whole number, not"):
        whole("step", value)


# -- checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts", [{"step": "7"}, {"step": -1}, {"step": 7.0}, {"step": 7, "epoch": "x"}, {"step": 7, "framework": 5}]
)
def test_a_checkpoint_that_could_not_be_listed_again_is_not_saved(place: str, facts: dict[str, Any]) -> None:
    store = s3dlio.CheckpointStore(place)
    with pytest.raises(OptionError, match="must be"):
        store.save(data={"a": 1}, **facts)
    with pytest.raises(OptionError, match="must be"):
        store.async_save(data={"a": 1}, **facts).result()
    assert store.list() == []
    assert s3dlio.list(place + "/") == []


def test_steps_of_arrays_are_steps(place: str) -> None:
    store = s3dlio.CheckpointStore(place)
    for number, step in enumerate([np.int64(3), torch.tensor(4)], 3):
        assert store.save(step=step, data={"n": number}).global_step == number
        assert store.load(step=step) == {"n": number}
    store.delete(step=np.int64(3))
    assert [info.step for info in store.list()] == [4]


@pytest.mark.parametrize("wrong", [{"keep_last": "3"}, {"keep_last": 2.5}, {"keep_last": 0}])
def test_a_store_of_checkpoints_wants_numbers(place: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="keep_last must be"):
        s3dlio.CheckpointStore(place, **wrong)


def test_a_step_or_rank_that_is_text_is_refused_by_all_that_take_one(place: str) -> None:
    store = s3dlio.CheckpointStore(place)
    store.save(step=1, data={"a": 1})
    for call in (store.load, store.delete):
        with pytest.raises(OptionError, match="step must be a whole number"):
            call(step="1")
    with pytest.raises(OptionError, match="rank must be a whole number"):
        store.load(rank="0")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="rank must be a whole number"):
        store.writer("0", 1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="user_meta must be plain JSON"):
        store.save(step=2, data={}, user_meta=5)  # type: ignore[arg-type]


def test_value_and_address_in_the_order_of_torch_save_make_no_file_of_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    there = sorted(os.listdir("."))
    for wrong in ({"a": 1}, io.BytesIO(), 5, None):
        with pytest.raises(UriError, match="must be text or a path, not"):
            s3dlio.save_checkpoint(wrong, "model.ckpt")  # type: ignore[arg-type]
    assert sorted(os.listdir(".")) == there


def test_what_a_read_has_returned_is_bytes_to_a_checkpoint_too(place: str) -> None:
    s3dlio.save_checkpoint(f"{place}/c", {"raw": s3dlio.BytesView.from_bytes(b"spam")})
    assert s3dlio.load_checkpoint(f"{place}/c") == {"raw": b"spam"}


def test_a_file_of_torch_save_is_recognized(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(s3dlio.FormatError, match=r"torch\.load"):
        s3dlio.load_checkpoint(tmp_path / "x.pt")
    with pytest.raises(OptionError, match="keys must be names, not 5"):
        s3dlio.load_checkpoint(s3dlio.save_checkpoint(tmp_path / "y", {})["uri"], keys=5)  # type: ignore[arg-type]


def test_a_model_in_the_place_of_a_run_is_told_where_it_is(place: str) -> None:
    saved, model = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    s3dlio.save_checkpoint(f"{place}/run", {"model": saved.state_dict(), "epoch": 3})
    for options in ({}, {"keys": "model"}):
        with pytest.raises(s3dlio.CheckpointError, match=r"into=\{'model': \.\.\.\}, keys='model'"):
            s3dlio.load_checkpoint(f"{place}/run", into=model, **options)
    s3dlio.load_checkpoint(f"{place}/run", into={"model": model}, keys="model")
    assert torch.equal(model.weight, saved.weight)


# -- bytes --------------------------------------------------------------------------------------------


def test_a_view_is_made_of_bytes_as_bytes_are() -> None:
    view = s3dlio.BytesView(b"spam")
    assert (view, len(view), view[1:]) == (b"spam", 4, b"pam")
    assert pickle.loads(pickle.dumps(view)) == b"spam"
    assert s3dlio.BytesView() == b""
    for wrong in (5, "spam", (2, 3)):
        with pytest.raises(OptionError, match="bytes-like"):
            s3dlio.BytesView(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("range_", [("0", 1), (0, "1"), (1.5, 2), (None, None)])
def test_a_range_is_of_whole_numbers(folder: Path, range_: Any) -> None:
    with pytest.raises(OptionError, match="must be a whole number"):
        s3dlio.get_range(f"file://{folder}/1.bin", *range_)


def test_one_address_in_the_place_of_many_is_refused_as_such(folder: Path) -> None:
    one = f"file://{folder}/1.bin"
    for call in (s3dlio.get_many, s3dlio.stat_many, s3dlio.put_many, S3MapDataset.from_uris):
        for wrong in (one, one.encode(), None, 5):
            with pytest.raises(UriError, match="a list of URIs is wanted, not"):
                call(wrong)  # type: ignore[arg-type, operator]
    for wrong in ({one: b"x"}, [one, b"x"], [(one,)]):
        with pytest.raises(OptionError, match="pairs of a URI and its data"):
            s3dlio.put_many(wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="max_in_flight must be a whole number"):
        s3dlio.get_many([one], max_in_flight="8")  # type: ignore[arg-type]
    with pytest.raises(UriError, match="write 'file://"):
        s3dlio.get(folder / "1.bin")  # type: ignore[arg-type]


def test_text_in_the_place_of_a_flag_deletes_nothing(folder: Path) -> None:
    with pytest.raises(OptionError, match="recursive must be True or False, not 'no'"):
        s3dlio.delete(f"file://{folder}/", recursive="no")  # type: ignore[arg-type]
    for wrong in (None, 5, folder):
        with pytest.raises(UriError):
            s3dlio.delete(wrong)  # type: ignore[arg-type]
    assert len(s3dlio.list(f"file://{folder}/")) == _SAMPLES


def test_buckets_types_patterns_and_options_are_of_their_kind(folder: Path) -> None:
    for call in (s3dlio.create_bucket, s3dlio.list_containers):
        with pytest.raises(UriError):
            call(None)  # type: ignore[arg-type, operator]
    for pattern in (5, b"*"):
        with pytest.raises(OptionError, match="a pattern is text"):
            s3dlio.list(f"file://{folder}/", pattern=pattern)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"options must be s3dlio\.StoreOptions"):
        s3dlio.open_store("s3://bucket/", options={"region": "x"})  # type: ignore[arg-type]


def test_transfers_and_writers_want_numbers_flags_and_options(folder: Path, place: str) -> None:
    for name in ("create_bucket", "flatten", "update"):
        with pytest.raises(OptionError, match=f"{name} must be True or False, not 'no'"):
            s3dlio.upload(folder, f"{place}/there/", **{name: "no"})
    with pytest.raises(OptionError, match="max_in_flight must be a whole number"):
        s3dlio.upload(folder, f"{place}/there/", max_in_flight="3")  # type: ignore[arg-type]
    for name in ("part_size", "max_in_flight"):
        with pytest.raises(OptionError, match=f"{name} must be a whole number"):
            s3dlio.MultipartUploadWriter.from_uri(f"{place}/w", **{name: "16"})
    with s3dlio.MultipartUploadWriter.from_uri(f"{place}/w") as writer:
        writer.write(b"spam")
        with pytest.raises(OptionError, match="length must be a whole number"):
            writer.reserve("5")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"options must be s3dlio\.WriterOptions"):
        s3dlio.create_writer(f"{place}/x", {"compression": "zstd"})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="older_than_s must be seconds"):
        s3dlio.abort_uploads(f"{place}/", older_than_s="x")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="size must be a whole number"):
        s3dlio.generate_data("5")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="rank must be a whole number"):
        s3dlio.save_distributed_shard(f"{place}/run", {}, "0", 2)  # type: ignore[arg-type]
    with pytest.raises(UriError, match="a URI must be a str"):
        s3dlio.open_store(5)  # type: ignore[arg-type]


# -- datasets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option", "wrong"),
    [
        *((S3IterableDataset, name, "2") for name in ("batch_size", "seed", "shuffle_buffer", "num_workers", "prefetch")),
        *((S3IterableDataset, name, "no") for name in ("drop_last", "packed", "enable_sharding")),
        (S3IterableDataset, "batch_size", 2.5), (S3IterableDataset, "seed", None),
        (S3IterableDataset, "loader_opts", 5), (S3IterableDataset, "uneven", 5), (S3IterableDataset, "prefetch", -1),
        (S3MapDataset, "max_in_flight", "8"), (S3MapDataset, "max_in_flight", None),
        (S3MapDataset, "read_ahead_bytes", "1"), (S3MapDataset, "packed", "yes"), (S3MapDataset, "format", None),
        (S3MapDataset, "return_type", None), (S3MapDataset, "on_error", 5), (S3MapDataset, "transform", 5),
        (S3MapDataset, "options", {}),
    ],
)  # fmt: skip
def test_a_wrong_kind_of_option_is_refused_when_a_dataset_is_made(
    folder: Path, kind: Any, option: str, wrong: Any
) -> None:
    with pytest.raises(OptionError, match=f"{option} must be"):
        kind(folder, **{option: wrong})


def test_datasets_take_paths(folder: Path) -> None:
    assert len(S3MapDataset(folder)) == len(S3IterableDataset(folder)) == _SAMPLES
    assert len(S3MapDataset([folder / "0.bin", str(folder / "1.bin")])) == 2
    with pytest.raises(UriError, match="the list is empty"):
        S3MapDataset([])


def test_a_pattern_in_the_place_of_a_prefix_is_told_where_it_goes(folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"for a pattern write '.*/', pattern='\*\.bin'"):
        S3MapDataset(f"file://{folder}/*.bin")


@pytest.mark.parametrize("number", ["0", b"0", 1.0, None])
def test_samples_are_read_by_number(folder: Path, number: Any) -> None:
    with pytest.raises(OptionError, match="samples are read by number"):
        S3MapDataset(folder)[number]


def test_an_epoch_and_a_state_are_of_their_kind(folder: Path) -> None:
    dataset = S3IterableDataset(folder)
    with pytest.raises(OptionError, match="the epoch must be a whole number"):
        dataset.set_epoch("3")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"a state is what state_dict\(\) has returned"):
        dataset.load_state_dict(5)  # type: ignore[arg-type]


def test_batches_of_whole_batches_are_refused(folder: Path) -> None:
    packed = S3IterableDataset(folder, packed=True, batch_size=2)
    with pytest.raises(OptionError, match="give it batch_size=None"):
        next(iter(DataLoader(packed, batch_size=3)))
    assert [len(batch) for batch in DataLoader(packed, batch_size=None)] == [2, 2, 2]


def test_a_batch_of_which_nothing_is_left_says_so(folder: Path) -> None:
    dataset = S3MapDataset(folder, on_error="skip")
    (folder / "5.bin").unlink()
    with pytest.raises(OptionError, match="all 1 samples of a batch were skipped"):
        list(DataLoader(dataset, batch_size=5))
    assert sum(len(batch) for batch in DataLoader(dataset, batch_size=6)) == _SAMPLES - 1
    for numbers in ([5], slice(5, 6), np.array([-1])):
        with pytest.raises(OptionError, match="all 1 samples that were asked for were skipped") as caught:
            dataset[numbers]
        assert "DataLoader" not in str(caught.value)
    assert len(dataset[[4, 5]]) == 1
    assert dataset[[]] == []


# -- records ------------------------------------------------------------------------------------------


def test_records_under_a_name_that_promises_compression_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="compression='GZIP'"):
        s3dlio.TFRecordWriter(tmp_path / "a.tfrecord.gz")
    with s3dlio.TFRecordWriter(tmp_path / "a.tfrecord.gz", compression="GZIP") as writer:
        writer.write(b"spam")
    assert [bytes(record) for record in s3dlio.iter_tfrecords(tmp_path / "a.tfrecord.gz")] == [b"spam"]
    for wrong in (3, "1", None):
        with pytest.raises(OptionError, match="entry in the file's index"):
            s3dlio.get_tfrecord(tmp_path / "a.tfrecord.gz", wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="features must be a mapping"):
        s3dlio.encode_example(5)  # type: ignore[arg-type]


# -- the home directory -------------------------------------------------------------


def test_a_leading_tilde_is_the_home_directory(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(elsewhere)
    s3dlio.upload("~/*.bin", f"file://{folder}/copied/")
    assert len(S3MapDataset("~/copied")) == _SAMPLES
    s3dlio.download(f"file://{folder}/copied/", "~/again")
    s3dlio.save_checkpoint("~/ckpt", {"a": 1})
    assert s3dlio.load_checkpoint(folder / "ckpt") == {"a": 1}
    assert len(fsspec.filesystem("s3dlio+file").ls("~/again", detail=False)) == _SAMPLES
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("value", [True, 1, np.True_, np.bool_(1)])
def test_flags_of_every_kind_are_flags(value: Any) -> None:
    assert flag("recursive", value) is True
    assert flag("recursive", type(value)(0)) is False


@pytest.mark.parametrize("value", ["no", "True", 2, -1, 1.0, None, b"", []])
def test_what_is_no_flag_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="recursive must be True or False"):
        flag("recursive", value)
