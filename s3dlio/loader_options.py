"""The options of loaders, as one value that is passed around, changed by builders and never in place.

Floor 1. Knows names, bounds and what each option is for; must not know loaders, stores or frameworks. A
loader takes these options, or a mapping of the same names, and keywords that win over both.
"""
# ruff: noqa: FBT001, FBT002 - the original's builders take flags by position

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, NoReturn, Self, TypeVar, overload

from s3dlio.errors import OptionError, suggest
from s3dlio.memory import MIB
from s3dlio.options import PAGE_CACHE_MODES, require
from s3dlio.orders import DEFAULT_SHUFFLE_BUFFER, shuffle_kind

T = TypeVar("T")

_DEFAULT_BATCH = 32  # the original's
_DEFAULT_COLLATE = 1024  # the original's
#: Seconds without a batch in `PyLoaderOptions.debug_mode`: the original's.
_DEBUG_TIMEOUT_S = 10.0
_DEFAULT_BUDGET_BYTES = 256 * MIB


class _Option(NamedTuple):
    """An option's default, and what checks and returns its value."""

    default: object
    check: Callable[[str, Any], object]


def _flag(name: str, value: Any) -> bool:
    require(isinstance(value, bool), f"{name} must be True or False, not {value!r}")
    return bool(value)


def _whole(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        # Numbers of NumPy's own are whole numbers too; flags are, in Python, and do not mean one.
        fine = hasattr(value, "__index__") and not isinstance(value, bool) and value >= least
        bound = f" of at least {least}" if least > _NO_BOUND else ""
        require(fine, f"{name} must be a whole number{bound}, not {value!r}")
        return int(value)

    return check


def _seconds(name: str, value: Any) -> float:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    require(fine, f"{name} must be a number of seconds above 0, or None, not {value!r}")
    return float(value)


def _choice(*choices: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        hint = suggest(str(value), choices)
        require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r}{hint}")
        return str(value)

    return check


def _shuffle(_name: str, value: Any) -> bool | str:
    shuffle_kind(value)
    return value if isinstance(value, bool) else str(value)


def _maybe(check: Callable[[str, Any], object]) -> Callable[[str, Any], object]:
    return lambda name, value: None if value is None else check(name, value)


_NO_BOUND = -(1 << 63)
_OPTIONS: dict[str, _Option] = {
    "batch_size": _Option(_DEFAULT_BATCH, _whole(1)),
    "drop_last": _Option(default=False, check=_flag),
    "shuffle": _Option(default=False, check=_shuffle),
    "shuffle_buffer": _Option(DEFAULT_SHUFFLE_BUFFER, _whole(1)),
    "seed": _Option(0, _whole(_NO_BOUND)),
    "generator_seed": _Option(None, _maybe(_whole(_NO_BOUND))),
    "sampler_type": _Option("sequential", _choice("sequential", "random", "distributed", "distributed_random")),
    "sampler_replacement": _Option(None, _maybe(_flag)),
    "shard_rank": _Option(0, _whole(0)),
    "shard_world_size": _Option(1, _whole(1)),
    "uneven": _Option(None, _maybe(_choice("pad", "drop", "uneven"))),
    "prefetch": _Option(0, _whole(0)),
    "num_workers": _Option(0, _whole(0)),
    "read_ahead_bytes": _Option(_DEFAULT_BUDGET_BYTES, _whole(1)),
    "timeout_seconds": _Option(None, _maybe(_seconds)),
    "page_cache_mode": _Option("auto", _choice(*PAGE_CACHE_MODES)),
    "adaptive": _Option(default=True, check=_flag),
    "auto_tune": _Option(default=False, check=_flag),
    "pin_memory": _Option(default=False, check=_flag),
    "persistent_workers": _Option(default=False, check=_flag),
    "non_blocking": _Option(default=False, check=_flag),
    "multiprocessing_context": _Option("spawn", _choice("spawn", "fork", "forkserver")),
    "memory_format": _Option("auto", _choice("auto", "channels_first", "channels_last")),
    "enable_transforms": _Option(default=False, check=_flag),
    "collate_buffer_size": _Option(_DEFAULT_COLLATE, _whole(1)),
}
#: Other names of options. A ``None`` for one of them is as good as nothing.
_ALIASES = {"timeout": "timeout_seconds", "sampler_rank": "shard_rank", "sampler_world_size": "shard_world_size"}


class _Get(Generic[T]):
    """An attribute: the value of one option."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"The option ``{name}``."

    @overload
    def __get__(self, options: None, owner: type) -> Self: ...
    @overload
    def __get__(self, options: PyLoaderOptions, owner: type) -> T: ...
    def __get__(self, options: PyLoaderOptions | None, owner: type) -> Self | T:
        if options is None:
            return self
        value: T = options.to_dict()[self.name]
        return value


class _With(Generic[T]):
    """A method that returns the options with one of them changed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"Return these options with ``{name}`` set to another value."

    def __get__(self, options: PyLoaderOptions, owner: type) -> Callable[[T], PyLoaderOptions]:
        def build(value: T) -> PyLoaderOptions:
            return options.replace(**{self.name: value})

        build.__name__, build.__doc__ = f"with_{self.name}", self.__doc__
        return build


class PyLoaderOptions:
    """How a loader reads: batches, order, who reads which part, how far ahead.

    A value: builders (``with_batch_size(64)``) return new options and leave these as they are; it can be
    compared, hashed and pickled. Of each option there is a builder ``with_<name>``, a property
    ``get_<name>``, and an attribute; the attributes and the other builders have the original's names.

    Options that the loaders obey:

    * ``batch_size`` (32): samples in a batch, of this rank.
    * ``drop_last`` (``False``): leave out the last batch if it is short.
    * ``shuffle`` (``False``): ``True`` or ``"global"``: all samples; ``"block"``: runs of neighbours, mixed.
    * ``shuffle_buffer`` (1024): samples that a block shuffle mixes.
    * ``seed`` (0): the order depends on the seed and the epoch only.
    * ``generator_seed`` (``None``): if given, used instead of ``seed``.
    * ``sampler_type`` (``"sequential"``): ``"random"`` and ``"distributed_random"`` shuffle globally where
      ``shuffle`` is off; ``"distributed"`` says that ``shard_rank`` was set, and changes nothing.
    * ``sampler_replacement`` (``None``): ``True``: draw samples with replacement, as many as there are.
    * ``shard_rank`` (0), ``shard_world_size`` (1): which of how many processes this is.
    * ``uneven`` (``None``): ``pad``, ``drop`` or ``uneven`` when samples do not divide evenly among ranks;
      ``None``: ``pad`` with several ranks.
    * ``prefetch`` (0): at most so many batches in flight or waiting; 0: as ``read_ahead_bytes`` allows.
    * ``num_workers`` (0): most requests in flight; 0: 128. Fewer are used where more would be slower.
    * ``read_ahead_bytes`` (256 MiB): most bytes in flight or waiting.
    * ``timeout_seconds`` (``None``): seconds without a batch until an error is raised; ``None``: never.
    * ``page_cache_mode`` (``"auto"``), ``adaptive`` (``True``): see :class:`s3dlio.StoreOptions`.

    Options that are checked and kept, and have no effect on the loaders of this library; hand them on to
    what they concern:

    * ``auto_tune`` (``False``): readers tune themselves always, see ``adaptive``.
    * ``pin_memory``, ``non_blocking`` (``False``): of the copy to a device, which is the framework's.
    * ``persistent_workers`` (``False``), ``multiprocessing_context`` (``"spawn"``): there are no worker
      processes: threads read.
    * ``memory_format`` (``"auto"``): batches are bytes, which have no channels.
    * ``enable_transforms`` (``False``): datasets take a ``transform``; batches of bytes are not transformed.
    * ``collate_buffer_size`` (1024): samples are read in their place in the batch; nothing is collated.

    Args:
        **options: Values by name; ``timeout`` is another name of ``timeout_seconds``, ``sampler_rank`` and
            ``sampler_world_size`` of ``shard_rank`` and ``shard_world_size``.

    Raises:
        OptionError: An option is misspelt (the message names the nearest) or out of its bounds.

    Example:
        >>> options = PyLoaderOptions(batch_size=64).shuffle(True, seed=7)
        >>> options.batch_size, options.with_batch_size(8).batch_size, options.shuffle_value
        (64, 8, True)
    """

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        values = {name: option.default for name, option in _OPTIONS.items()}
        for name, value in _unaliased(options).items():
            values[name] = _OPTIONS[name].check(name, value)
        rank, world = values["shard_rank"], values["shard_world_size"]
        both = "give both at once, as distributed_sampling(rank, world_size) does"
        require(rank < world, f"shard_rank must be below shard_world_size ({world}), not {rank}; {both}")  # type: ignore[operator]
        object.__setattr__(self, "_values", values)

    # -- from, to and beside others ---------------------------------------------------------------

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> PyLoaderOptions:
        """Return the options that a mapping names, as :meth:`to_dict` returns one."""
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the values of all options by name."""
        return dict(self._values)

    def replace(self, **changes: Any) -> PyLoaderOptions:
        """Return these options with some changed.

        Raises:
            OptionError: As for the class.
        """
        return type(self)(**{**self._values, **_unaliased(changes)})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        msg = f"options are not changed in place: take what with_{name.removesuffix('_value')}({value!r}) returns"
        raise dataclasses.FrozenInstanceError(msg)

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, PyLoaderOptions) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return type(self).from_mapping, (self._values,)

    def __repr__(self) -> str:
        """Show what is not as by default."""
        changed = [f"{name}={value!r}" for name, value in self._values.items() if value != _OPTIONS[name].default]
        return f"{type(self).__name__}({', '.join(changed)})"

    # -- one option at a time -----------------------------------------------------------------------

    get_batch_size, with_batch_size = _Get[int]("batch_size"), _With[int]("batch_size")
    get_drop_last, with_drop_last = _Get[bool]("drop_last"), _With[bool]("drop_last")
    get_shuffle, with_shuffle = _Get[bool | str]("shuffle"), _With[bool | str]("shuffle")
    get_shuffle_buffer, with_shuffle_buffer = _Get[int]("shuffle_buffer"), _With[int]("shuffle_buffer")
    get_seed, with_seed = _Get[int]("seed"), _With[int]("seed")
    get_generator_seed, with_generator_seed = _Get[int | None]("generator_seed"), _With[int | None]("generator_seed")
    get_sampler_type, with_sampler_type = _Get[str]("sampler_type"), _With[str]("sampler_type")
    get_sampler_replacement = _Get[bool | None]("sampler_replacement")
    with_sampler_replacement = _With[bool | None]("sampler_replacement")
    get_shard_rank, with_shard_rank = _Get[int]("shard_rank"), _With[int]("shard_rank")
    get_shard_world_size, with_shard_world_size = _Get[int]("shard_world_size"), _With[int]("shard_world_size")
    get_uneven, with_uneven = _Get[str | None]("uneven"), _With[str | None]("uneven")
    get_prefetch, with_prefetch = _Get[int]("prefetch"), _With[int]("prefetch")
    get_num_workers, with_num_workers = _Get[int]("num_workers"), _With[int]("num_workers")
    get_read_ahead_bytes, with_read_ahead_bytes = _Get[int]("read_ahead_bytes"), _With[int]("read_ahead_bytes")
    get_timeout_seconds = get_timeout = _Get[float | None]("timeout_seconds")
    with_timeout_seconds = with_timeout = _With[float | None]("timeout_seconds")
    get_page_cache_mode, with_page_cache_mode = _Get[str]("page_cache_mode"), _With[str]("page_cache_mode")
    get_adaptive, with_adaptive = _Get[bool]("adaptive"), _With[bool]("adaptive")
    get_auto_tune, with_auto_tune = _Get[bool]("auto_tune"), _With[bool]("auto_tune")
    get_pin_memory, with_pin_memory = _Get[bool]("pin_memory"), _With[bool]("pin_memory")
    get_persistent_workers = _Get[bool]("persistent_workers")
    with_persistent_workers = _With[bool]("persistent_workers")
    get_non_blocking, with_non_blocking = _Get[bool]("non_blocking"), _With[bool]("non_blocking")
    get_multiprocessing_context = _Get[str]("multiprocessing_context")
    with_multiprocessing_context = _With[str]("multiprocessing_context")
    get_memory_format, with_memory_format = _Get[str]("memory_format"), _With[str]("memory_format")
    get_enable_transforms, with_enable_transforms = _Get[bool]("enable_transforms"), _With[bool]("enable_transforms")
    get_collate_buffer_size = _Get[int]("collate_buffer_size")
    with_collate_buffer_size = _With[int]("collate_buffer_size")

    # -- the original's attributes, whose names make room for its builders --------------------------

    batch_size = _Get[int]("batch_size")
    drop_last_value = _Get[bool]("drop_last")
    shuffle_value = _Get[bool | str]("shuffle")
    shuffle_buffer = _Get[int]("shuffle_buffer")
    seed = _Get[int]("seed")
    generator_seed = _Get[int | None]("generator_seed")
    sampler_type = _Get[str]("sampler_type")
    sampler_replacement = _Get[bool | None]("sampler_replacement")
    shard_rank = sampler_rank = _Get[int]("shard_rank")
    shard_world_size = sampler_world_size = _Get[int]("shard_world_size")
    uneven = _Get[str | None]("uneven")
    prefetch_value = _Get[int]("prefetch")
    num_workers_value = _Get[int]("num_workers")
    read_ahead_bytes = _Get[int]("read_ahead_bytes")
    timeout_seconds = _Get[float | None]("timeout_seconds")
    page_cache_mode = _Get[str]("page_cache_mode")
    adaptive = _Get[bool]("adaptive")
    auto_tune_value = _Get[bool]("auto_tune")
    pin_memory_value = _Get[bool]("pin_memory")
    persistent_workers_value = _Get[bool]("persistent_workers")
    non_blocking_value = _Get[bool]("non_blocking")
    multiprocessing_context = _Get[str]("multiprocessing_context")
    memory_format = _Get[str]("memory_format")
    enable_transforms_value = _Get[bool]("enable_transforms")
    collate_buffer_size_value = _Get[int]("collate_buffer_size")

    # -- the original's builders ----------------------------------------------------------------------

    def drop_last(self, yes: bool = True) -> PyLoaderOptions:
        """Leave out the last batch if it is short."""
        return self.replace(drop_last=yes)

    def shuffle(self, on: bool | str = True, seed: int | None = None) -> PyLoaderOptions:
        """Shuffle: ``True`` or ``"global"`` all samples, ``"block"`` runs of neighbours; ``False`` not at all."""
        return self.replace(shuffle=on, seed=self.seed if seed is None else seed)

    def random_sampling(self, replacement: bool = False) -> PyLoaderOptions:
        """Shuffle globally; with ``replacement`` draw each sample from all of them."""
        return self.replace(sampler_type="random", sampler_replacement=replacement)

    def distributed_sampling(self, rank: int, world_size: int) -> PyLoaderOptions:
        """Read the part of one of ``world_size`` processes, in the order that ``shuffle`` says."""
        return self.replace(sampler_type="distributed", shard_rank=rank, shard_world_size=world_size)

    def distributed_optimized(self, rank: int, world_size: int) -> PyLoaderOptions:
        """Do as :meth:`distributed_sampling` and :meth:`gpu_optimized` do."""
        return self.gpu_optimized().distributed_sampling(rank, world_size)

    def gpu_optimized(self) -> PyLoaderOptions:
        """Set what the original sets: pinned memory, channels first, ...: without effect on loaders here."""
        flags = dict.fromkeys(("pin_memory", "persistent_workers", "non_blocking"), True)
        return self.replace(**flags, memory_format="channels_first")

    def debug_mode(self) -> PyLoaderOptions:
        """Wait for a batch 10 seconds at most."""
        return self.replace(timeout_seconds=_DEBUG_TIMEOUT_S)

    def num_workers(self, n: int) -> PyLoaderOptions:
        """Have at most so many requests in flight; 0: as many as is the library's default."""
        return self.replace(num_workers=n)

    def prefetch(self, n: int) -> PyLoaderOptions:
        """Have at most so many batches in flight or waiting; 0: as many as memory is meant for."""
        return self.replace(prefetch=n)

    def auto_tune(self, on: bool = True) -> PyLoaderOptions:
        """Keep the wish; without effect, since readers tune themselves always (``adaptive``)."""
        return self.replace(auto_tune=on)

    def pin_memory(self, pin: bool = True) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here."""
        return self.replace(pin_memory=pin)

    def non_blocking(self, non_blocking: bool = True) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here."""
        return self.replace(non_blocking=non_blocking)

    def persistent_workers(self, persistent: bool = True) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here: they have no processes."""
        return self.replace(persistent_workers=persistent)

    def use_spawn(self) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here: they have no processes."""
        return self.replace(multiprocessing_context="spawn")

    def use_fork(self) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here: they have no processes."""
        return self.replace(multiprocessing_context="fork")

    def use_forkserver(self) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here: they have no processes."""
        return self.replace(multiprocessing_context="forkserver")

    def channels_first(self) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here: batches are bytes."""
        return self.replace(memory_format="channels_first")

    def channels_last(self) -> PyLoaderOptions:
        """Keep the wish, for the framework; without effect on loaders here: batches are bytes."""
        return self.replace(memory_format="channels_last")

    def enable_transforms(self, enable: bool = True) -> PyLoaderOptions:
        """Keep the wish; without effect: give a dataset its ``transform``."""
        return self.replace(enable_transforms=enable)

    def collate_buffer_size(self, size: int) -> PyLoaderOptions:
        """Keep the number; without effect: samples are read in their place in the batch."""
        return self.replace(collate_buffer_size=size)


#: The same, by a shorter name.
LoaderOptions = PyLoaderOptions


def option_names() -> tuple[str, ...]:
    """Return the names that options may be given by."""
    return (*_OPTIONS, *_ALIASES)


def _unaliased(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by their own names.

    Raises:
        OptionError: There is no such option, or one is given by two names.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        own = _ALIASES.get(name, name)
        if own not in _OPTIONS:
            hint = suggest(name, option_names())
            msg = f"PyLoaderOptions has no option {name!r}{hint}"
            raise OptionError(msg)
        if own == name:
            found.setdefault(own, value)
        elif value is not None:
            # The original tells both, and means the one that differs from the default.
            same = options.get(own, value) in (value, _OPTIONS[own].default)
            require(same, f"{name} and {own} are the same option and differ")
            found[own] = value
    return found


def loader_options(given: PyLoaderOptions | Mapping[str, Any] | None = None, **keywords: Any) -> PyLoaderOptions:
    """Return options given in any of their forms; keywords win.

    Raises:
        OptionError: An option is misspelt or out of its bounds.
    """
    if given is None:
        return PyLoaderOptions(**keywords)
    if isinstance(given, PyLoaderOptions):
        return given.replace(**keywords) if keywords else given
    if isinstance(given, Mapping):
        return PyLoaderOptions.from_mapping(given).replace(**keywords)
    # What types forbid happens all the same.
    msg = f"options must be PyLoaderOptions, a mapping of their names, or None, not {type(given).__name__}"  # type: ignore[unreachable]
    raise OptionError(msg)
