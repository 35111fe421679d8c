"""Room card: the options of loaders: values, builders, names, bounds, and what the docstring says of each.

Knows `s3dlio.loader_options`, and which names and defaults the original has.  Must not know loaders.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest

from s3dlio.errors import OptionError
from s3dlio.loader_options import LoaderOptions, PyLoaderOptions, loader_options

#: What PyLoaderOptions().to_dict() of s3dlio 0.10.0 says, but for its names of the sampler's rank.
ORIGINAL = {
    "batch_size": 32, "drop_last": False, "shuffle": False, "seed": 0, "num_workers": 0, "prefetch": 0,
    "auto_tune": False, "pin_memory": False, "persistent_workers": False, "timeout_seconds": None,
    "non_blocking": False, "shard_rank": 0, "shard_world_size": 1, "generator_seed": None,
    "enable_transforms": False, "collate_buffer_size": 1024, "multiprocessing_context": "spawn",
    "memory_format": "auto", "sampler_type": "sequential", "sampler_replacement": None,
}  # fmt: skip
ORIGINAL_ATTRIBUTES = {
    "batch_size": 32, "drop_last_value": False, "shuffle_value": False, "seed": 0, "num_workers_value": 0,
    "prefetch_value": 0, "pin_memory_value": False, "persistent_workers_value": False,
    "non_blocking_value": False, "shard_rank": 0, "shard_world_size": 1, "timeout_seconds": None,
}  # fmt: skip
#: Another value of each option than its default.
OTHERS: dict[str, Any] = {
    "batch_size": 7, "drop_last": True, "shuffle": "block", "shuffle_buffer": 5, "seed": -3, "generator_seed": 4,
    "sampler_type": "random", "sampler_replacement": True, "shard_rank": 1, "shard_world_size": 4, "uneven": "drop",
    "prefetch": 3, "num_workers": 9, "read_ahead_bytes": 1000, "timeout_seconds": 1.5,
    "page_cache_mode": "dontneed", "adaptive": False, "auto_tune": True, "pin_memory": True,
    "persistent_workers": True, "non_blocking": True, "multiprocessing_context": "fork",
    "memory_format": "channels_last", "enable_transforms": True, "collate_buffer_size": 99,
}  # fmt: skip
DEFAULTS = PyLoaderOptions().to_dict()


def changed(options: PyLoaderOptions) -> dict[str, Any]:
    """Returns the options that are not as by default."""
    return {name: value for name, value in options.to_dict().items() if value != DEFAULTS[name]}


# -- names and defaults -----------------------------------------------------------------------------------


def test_names_and_defaults_are_those_of_the_original_and_some_more() -> None:
    assert {name: DEFAULTS[name] for name in ORIGINAL} == ORIGINAL
    assert {name: getattr(PyLoaderOptions(), name) for name in ORIGINAL_ATTRIBUTES} == ORIGINAL_ATTRIBUTES
    assert LoaderOptions is PyLoaderOptions
    assert set(OTHERS) == set(DEFAULTS)


@pytest.mark.parametrize("name", OTHERS)
def test_every_option_has_a_builder_a_property_and_an_attribute(name: str) -> None:
    base = PyLoaderOptions(shard_world_size=4) if name == "shard_rank" else PyLoaderOptions()
    built = getattr(base, f"with_{name}")(OTHERS[name])
    assert getattr(built, f"get_{name}") == OTHERS[name]
    own = getattr(built, f"{name}_value", None)
    assert OTHERS[name] in (own, getattr(built, name))
    assert getattr(base, f"get_{name}") == DEFAULTS[name]
    assert built == base.replace(**{name: OTHERS[name]}) != base


def test_every_option_is_documented_with_its_default() -> None:
    text = inspect.getdoc(PyLoaderOptions) or ""
    said = " ".join(re.findall(r"^\* (.*?): ", text, re.MULTILINE))
    named = [name for name in re.findall(r"``(\w+)``", said) if name in DEFAULTS]
    assert sorted(named) == sorted(DEFAULTS)
    for name in ("batch_size", "seed", "shuffle_buffer", "prefetch", "collate_buffer_size"):
        assert f"``{name}`` ({DEFAULTS[name]})" in text


@pytest.mark.parametrize("name", OTHERS)
def test_the_docstring_tells_which_options_do_nothing(name: str) -> None:
    idle = (inspect.getdoc(PyLoaderOptions) or "").partition("have no effect on the loaders")[2]
    builder = getattr(PyLoaderOptions, name, None)
    says_so = inspect.isfunction(builder) and "without effect" in (builder.__doc__ or "")
    if inspect.isfunction(builder):
        assert says_so == (f"``{name}``" in idle)


# -- builders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (PyLoaderOptions().drop_last(True), {"drop_last": True}),
        (PyLoaderOptions().shuffle(True, 7), {"shuffle": True, "seed": 7}),
        (PyLoaderOptions(seed=5).shuffle("block"), {"shuffle": "block", "seed": 5}),
        (PyLoaderOptions().num_workers(4).prefetch(2), {"num_workers": 4, "prefetch": 2}),
        (PyLoaderOptions().with_timeout(2.5), {"timeout_seconds": 2.5}),
        (PyLoaderOptions().with_timeout(2).with_timeout(None), {}),
        (PyLoaderOptions().debug_mode(), {"timeout_seconds": 10.0}),
        (PyLoaderOptions().with_generator_seed(3), {"generator_seed": 3}),
        (PyLoaderOptions().random_sampling(False), {"sampler_type": "random", "sampler_replacement": False}),
        (
            PyLoaderOptions().distributed_sampling(2, 4),
            {"sampler_type": "distributed", "shard_rank": 2, "shard_world_size": 4},
        ),
        (
            PyLoaderOptions().gpu_optimized(),
            {"pin_memory": True, "persistent_workers": True, "non_blocking": True, "memory_format": "channels_first"},
        ),
        (PyLoaderOptions().use_fork(), {"multiprocessing_context": "fork"}),
        (PyLoaderOptions().use_forkserver().use_spawn(), {}),
        (PyLoaderOptions().channels_first().channels_last(), {"memory_format": "channels_last"}),
        (PyLoaderOptions().auto_tune(True).enable_transforms(True), {"auto_tune": True, "enable_transforms": True}),
        (PyLoaderOptions().collate_buffer_size(5), {"collate_buffer_size": 5}),
        (PyLoaderOptions().pin_memory(True).pin_memory(False), {}),
        (
            PyLoaderOptions().non_blocking(True).persistent_workers(True),
            {"non_blocking": True, "persistent_workers": True},
        ),
        (PyLoaderOptions().with_batch_size(np.int64(8)), {"batch_size": 8}),
    ],
)
def test_builders_return_new_options(built: PyLoaderOptions, expected: dict[str, Any]) -> None:
    assert changed(built) == expected


def test_the_distributed_preset_is_both_presets() -> None:
    both = PyLoaderOptions().gpu_optimized().distributed_sampling(1, 4)
    assert PyLoaderOptions().distributed_optimized(1, 4) == both


def test_builders_leave_their_options_as_they_are() -> None:
    options = PyLoaderOptions(batch_size=4)
    options.shuffle(True, 1)
    options.with_batch_size(9)
    assert changed(options) == {"batch_size": 4}
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"with_batch_size\(9\)"):
        options.batch_size = 9  # type: ignore[misc,assignment]
    with pytest.raises(dataclasses.FrozenInstanceError, match="with_drop_last"):
        options.drop_last_value = True  # type: ignore[misc,assignment]
    options.to_dict()["batch_size"] = 99
    assert options.batch_size == 4


# -- values -------------------------------------------------------------------------------------------------


def test_options_are_values() -> None:
    options = PyLoaderOptions(**OTHERS)
    assert PyLoaderOptions.from_mapping(options.to_dict()) == options
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options
    assert len({options, PyLoaderOptions(**OTHERS), PyLoaderOptions()}) == 2
    assert options != PyLoaderOptions()
    assert options != 5
    assert repr(PyLoaderOptions(batch_size=2, shuffle="block")) == "PyLoaderOptions(batch_size=2, shuffle='block')"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batchsize": 1}, "no option 'batchsize'; did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": "64"}, "batch_size must be a whole number of at least 1, not '64'"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
        ({"shuffle": "blok"}, "did you mean 'block'"),
        ({"drop_last": 1}, "drop_last must be True or False, not 1"),
        ({"prefetch": -1}, "prefetch"),
        ({"num_workers": -1}, "num_workers"),
        ({"shuffle_buffer": 0}, "shuffle_buffer"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number of seconds above 0"),
        ({"timeout": "soon"}, "timeout_seconds"),
        ({"shard_rank": 4, "shard_world_size": 4}, r"shard_rank must be below shard_world_size \(4\), not 4"),
        ({"shard_rank": -1}, "shard_rank"),
        ({"uneven": "padd"}, "did you mean 'pad'"),
        ({"page_cache_mode": "randm"}, "did you mean 'random'"),
        ({"multiprocessing_context": "forks"}, "did you mean 'fork"),
        ({"memory_format": "nhwc"}, "memory_format must be one of"),
        ({"timeout": 1.0, "timeout_seconds": 2.0}, "timeout and timeout_seconds are the same option and differ"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        PyLoaderOptions(**options)
    with pytest.raises(OptionError, match=named):
        loader_options(options)
    with pytest.raises(OptionError, match=named):
        loader_options(None, **options)


def test_what_the_original_wrote_down_can_be_read() -> None:
    theirs = ORIGINAL | {"sampler_rank": None, "sampler_world_size": None}
    assert PyLoaderOptions.from_mapping(theirs) == PyLoaderOptions()
    theirs |= {"sampler_type": "distributed_random", "sampler_rank": 2, "sampler_world_size": 4}
    options = PyLoaderOptions.from_mapping(theirs)
    assert (options.shard_rank, options.shard_world_size) == (2, 4)


def test_options_come_in_any_form_and_keywords_win() -> None:
    wanted = PyLoaderOptions(batch_size=2, seed=3)
    assert loader_options(PyLoaderOptions(batch_size=9, seed=3), batch_size=2) == wanted
    assert loader_options({"batch_size": 9, "seed": 3}, batch_size=2) == wanted
    assert loader_options(batch_size=2, seed=3) == loader_options(wanted) == wanted
    assert loader_options() == PyLoaderOptions()
    assert loader_options({"timeout": 3.0}, timeout_seconds=4.0).timeout_seconds == 4.0
    with pytest.raises(OptionError, match="must be PyLoaderOptions, a mapping of their names, or None, not int"):
        loader_options(5)  # type: ignore[arg-type]
