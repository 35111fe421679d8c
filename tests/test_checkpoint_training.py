"""Room card: what somebody who trains loads checkpoints into, and what he is told when it does not fit.

Knows models, wrappers of models, optimizers and schedules of torch.  Must not know the file's layout.
"""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import nn

import s3dlio
from s3dlio import CheckpointError, OptionError
from s3dlio.torch import S3StorageReader, S3StorageWriter
from tests.contract_base import unique
from tests.patience import SOON_S, eventually

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def uri() -> str:
    return f"{unique('memory://training/run')}/x"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(12.0).reshape(4, 3)).pow(2).sum().backward()
    optimizer.step()


def alike(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# -- wrappers -----------------------------------------------------------------------------------------


class Parallel(nn.Module):
    """What DistributedDataParallel makes of names, without processes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


WAYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "plain": (lambda model: model, ""),
    "parallel": (Parallel, "DistributedDataParallel"),
    "compiled": (compiled, r"torch\.compile"),
    "both": (lambda model: compiled(Parallel(model)), r"torch\.compile and DistributedDataParallel"),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("there", WAYS)
@pytest.mark.parametrize("here", WAYS)
def test_names_of_wrappers_are_told_with_what_to_give_instead(uri: str, there: str, here: str, nested: bool) -> None:
    saved, model = WAYS[there][0](network()), WAYS[here][0](network())
    state = saved.state_dict()
    s3dlio.save_checkpoint(uri, {"model": state, "epoch": 1} if nested else state)

    def load(target: Any) -> None:
        s3dlio.load_checkpoint(uri, into={"model": target} if nested else target)

    if there == here:
        load(model)
    else:
        with pytest.raises(
            CheckpointError, match=f"(?s)is wrapped by ({WAYS[there][1]}|{WAYS[here][1]}).*: give "
        ) as caught:
            load(model)
        advice = str(caught.value).rpartition(": give ")[2].removesuffix(" in the place of model")
        load(eval(advice, {"model": model}))  # what the message says is to be done
    assert alike(saved, model)


def test_a_wrapper_in_the_midst_of_names_is_told(uri: str) -> None:
    saved, model = network(), network()
    saved[0] = compiled(saved[0])
    s3dlio.save_checkpoint(uri, saved.state_dict())
    with pytest.raises(CheckpointError, match=r"(?s)'0\._orig_mod\.bias' of .* is '0\.bias' here.*wrapped alike"):
        s3dlio.load_checkpoint(uri, into=model)


def test_other_differences_are_not_laid_upon_wrappers(uri: str) -> None:
    s3dlio.save_checkpoint(uri, network().state_dict())
    with pytest.raises(CheckpointError) as caught:
        s3dlio.load_checkpoint(uri, into=nn.Sequential(nn.Linear(3, 4)))
    assert "wrapped" not in str(caught.value)


# -- optimizers and schedules -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_a_run_that_begins_again_loads_into_its_fresh_optimizer(uri: str, kind: Any) -> None:
    model = network()
    optimizer = kind(model.parameters(), lr=0.25, weight_decay=0.5)
    step(model, optimizer)
    s3dlio.save_checkpoint(uri, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3})
    step(model, optimizer)

    again = network()
    its = kind(again.parameters(), lr=0.1)
    value = s3dlio.load_checkpoint(uri, into={"model": again, "optimizer": its})
    assert value["epoch"] == 3
    assert its.param_groups[0]["lr"] == 0.25
    step(again, its)
    assert alike(model, again)


def test_a_fresh_optimizer_is_not_filled_by_halves(uri: str) -> None:
    """With keys= only arrays are restored, of which it has none: what is lost is told."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    s3dlio.save_checkpoint(uri, {"optimizer": optimizer.state_dict()})
    with pytest.raises(CheckpointError, match=r"optimizer\.state\.0\.exp_avg: is in the checkpoint only"):
        s3dlio.load_checkpoint(uri, into={"optimizer": torch.optim.Adam(network().parameters())}, keys="optimizer")


def test_a_part_of_a_model_leaves_the_optimizer_whole(uri: str) -> None:
    """One of two tied names is in the file: no reason to leave the optimizer's settings out."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    state = model.state_dict()
    del state["1.weight"]
    s3dlio.save_checkpoint(uri, {"model": state, "optimizer": optimizer.state_dict()})
    its = torch.optim.SGD(model.parameters(), lr=0.5)
    s3dlio.load_checkpoint(uri, into={"model": model, "optimizer": its})
    assert its.param_groups[0]["lr"] == 0.25


def test_a_schedule_that_the_checkpoint_lacks_is_told_before_anything_is_written(uri: str) -> None:
    model, other = network(), network()
    s3dlio.save_checkpoint(uri, {"model": model.state_dict()})
    schedule = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(other.parameters(), lr=0.5), 2)
    with pytest.raises(CheckpointError, match=r"\(1 differences\):\n  schedule: is not in the checkpoint"):
        s3dlio.load_checkpoint(uri, into={"model": other, "schedule": schedule})
    assert not alike(model, other)


def test_counters_come_back_as_counters(uri: str) -> None:
    """MultiStepLR keeps its milestones in one, and asks it for its elements."""

    def schedule() -> Any:
        optimizer = torch.optim.SGD(network().parameters(), lr=1.0)
        optimizer.step()
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 4])

    s3dlio.save_checkpoint(uri, schedule().state_dict())
    loaded = schedule()
    loaded.load_state_dict(s3dlio.load_checkpoint(uri))
    assert type(loaded.milestones) is collections.Counter
    assert list(loaded.milestones.elements()) == [2, 4, 4]
    s3dlio.save_checkpoint(uri, collections.Counter(a=torch.ones(2)))
    found = s3dlio.load_checkpoint(uri, keys="a")
    assert type(found) is collections.Counter
    assert found["a"].tolist() == [1, 1]


# -- named tuples, and stores -------------------------------------------------------------------------


class Moments(NamedTuple):
    """As JAX's optimizers have them."""

    count: Any
    mean: Any


def test_named_tuples_are_those_of_what_is_loaded_into(uri: str) -> None:
    state = {"o": [(Moments(torch.ones(2), {"w": Moments(1, torch.ones(3))}), ())], "p": torch.ones(1)}
    s3dlio.save_checkpoint(uri, state)
    target = {"o": [(Moments(torch.zeros(2), {"w": Moments(0, torch.zeros(3))}), ())], "p": torch.zeros(1)}
    found = s3dlio.load_checkpoint(uri, into=target)
    outer: Any = found["o"][0][0]
    assert type(outer) is type(outer.mean["w"]) is Moments
    assert outer.mean["w"].count == 1
    assert outer.count is target["o"][0][0].count  # type: ignore[index]
    assert type(s3dlio.load_checkpoint(uri)["o"][0][0]).__name__ == "Moments"


def test_the_save_that_was_called_last_is_the_newest(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3dlio.CheckpointStore(uri)
    begun = threading.Event()
    whole = s3dlio.CheckpointStore._save_step

    def save(self: Any, timestamp: str, data: Any, *rest: Any) -> Any:
        if data == 1:
            assert begun.wait(SOON_S)
        return whole(self, timestamp, data, *rest)

    monkeypatch.setattr(s3dlio.CheckpointStore, "_save_step", save)
    first = store.async_save(step=1, data=1)
    store.async_save(step=2, data=2).result()
    begun.set()
    first.result()
    assert store.load() == 2


def test_a_save_that_fails_in_the_background_is_told_though_nobody_asks(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_given: Any, **_options: Any) -> Any:
        raise s3dlio.StoreError("as planned")

    monkeypatch.setattr("s3dlio.checkpoint_writer.save_checkpoint", fail)
    failed = s3dlio.CheckpointStore(uri).async_save(step=7, data={"x": 1})
    eventually(lambda: "step 7 was not saved: as planned" in caplog.text)
    assert isinstance(failed.exception(), s3dlio.StoreError)


@pytest.mark.parametrize("verb", ["save", "async_save"])
def test_what_is_to_be_saved_must_be_given(uri: str, verb: str) -> None:
    """Without it ``None`` was saved, over what was there under the name."""
    store = s3dlio.CheckpointStore(uri)
    store.save("best", 1)
    save = getattr(store, verb)
    for given in ({"name": "best"}, {"step": 1}):
        with pytest.raises(OptionError, match="give what is to be saved"):
            save(**given)
    with pytest.raises(OptionError, match="a name is text"):  # at once, not when the result is asked for
        save({"x": 1})
    with pytest.raises(OptionError, match="either a name or step="):
        save({"x": 1}, step=1)
    assert store.load("best") == 1
    assert store.list() == []
    store.save("nothing", None)
    assert store.load("nothing") is None


def test_readers_and_writers_say_where_they_are(uri: str) -> None:
    assert repr(s3dlio.CheckpointReader(uri)) == f"CheckpointReader('{uri}/')"
    assert repr(s3dlio.CheckpointWriter(uri, 1, 2)) == f"CheckpointWriter('{uri}/', rank=1, world_size=2)"
    assert repr(S3StorageReader(uri)) == f"S3StorageReader('{uri}/')"
    assert repr(S3StorageWriter(uri)) == f"S3StorageWriter('{uri}/')"


# -- what is told -------------------------------------------------------------------------------------


def test_memory_that_is_shared_here_alone_is_told_as_such(uri: str) -> None:
    s3dlio.save_checkpoint(uri, {"a": torch.zeros(3), "b": torch.ones(3)})
    tied = torch.zeros(3)
    with pytest.raises(
        CheckpointError, match=r"a, b: are two arrays in the checkpoint, and share memory here"
    ) as caught:
        s3dlio.load_checkpoint(uri, into={"a": tied, "b": tied})
    assert "save" not in str(caught.value)


def test_a_model_on_the_meta_device_is_told_how_to_get_memory(uri: str) -> None:
    s3dlio.save_checkpoint(uri, network().state_dict())
    with pytest.raises(CheckpointError, match=r"0\.bias: .* no memory to load into: model\.to_empty"):
        s3dlio.load_checkpoint(uri, into=network().to("meta"))


@pytest.mark.parametrize("value", [network(), {"model": network()}, {"o": torch.optim.SGD(network().parameters())}])
def test_who_saves_a_model_is_told_of_its_state(uri: str, value: Any) -> None:
    with pytest.raises(OptionError, match=r"state_dict\(\): save that"):
        s3dlio.save_checkpoint(uri, value)


def test_a_name_that_is_misspelt_above_the_arrays_is_told(uri: str) -> None:
    s3dlio.save_checkpoint(uri, {"model": network().state_dict()})
    with pytest.raises(CheckpointError, match="did you mean 'model'"):
        s3dlio.load_checkpoint(uri, keys="modle")


@pytest.mark.parametrize("name", ["compress", "overwrite", "allow_pickle"])
def test_switches_of_saving_are_no_words(uri: str, name: str) -> None:
    """Any word is true: "no" replaced the file, and "zstd" was not heeded."""
    with pytest.raises(OptionError, match=f"{name} must be"):
        s3dlio.save_checkpoint(uri, {"x": 1}, **{name: "no"})  # type: ignore[arg-type]
    assert not s3dlio.exists(uri)


def test_pickles_are_not_loaded_for_a_word(uri: str) -> None:
    s3dlio.save_checkpoint(uri, {"x": collections.deque([1])}, allow_pickle=True)
    with pytest.raises(OptionError, match="allow_pickle must be"):
        s3dlio.load_checkpoint(uri, allow_pickle="no")  # type: ignore[arg-type]
