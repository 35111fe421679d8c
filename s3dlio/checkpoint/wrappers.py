"""Names that differ by what wrappers of modules put into them, and what to do about it.

Floor 4. Pure: knows how ``DistributedDataParallel``, ``torch.compile`` and their like rename what they wrap; must not
know files, arrays or torch.
"""

from __future__ import annotations

from collections.abc import Iterable

from s3dlio.checkpoint.selection import Path

#: What wrappers put into the names of a module's state, and what they are called by themselves.
_WRAPPERS = {
    "module": "DistributedDataParallel, DataParallel or AveragedModel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "checkpoint_wrapper",
}


def wrapping_told(there: Iterable[Path], here: Iterable[Path]) -> str:
    """Return what to do if names differ by those of wrappers; nothing if that is not it.

    Args:
        there: What is in the checkpoint alone; the last step of a path is the name in a module's state.
        here: What is in the target alone.
    """
    bare = {_bare(path): path for path in here if path}
    for path in sorted(there, key=str):
        if path and _bare(path) in bare:
            return _told(str(path[-1]), str(bare[_bare(path)][-1]))
    return ""


def _told(saved: str, given: str) -> str:
    told = [f"{saved!r} of the checkpoint is {given!r} here"]
    for name, what in ((saved, "the model that was saved"), (given, "this one")):
        if words := _wrappers_in(name):
            told.append(f"{what} is wrapped by {' and '.join(_WRAPPERS[word] for word in words)}")
    before, after = (_first_wrappers(name) for name in (saved, given))
    if (saved.removeprefix(before), before, after) != (given.removeprefix(after), *map(_all_wrappers, (saved, given))):
        return (
            f"\n{', '.join(told)}: load into a model that is wrapped alike, or rename what load_checkpoint(uri) returns"
        )
    inner = f"model.{after}".rstrip(".")
    if before:
        inner = f"{{{before!r} + name: tensor for name, tensor in {inner}.state_dict().items()}}"
    return f"\n{', '.join(told)}: give {inner} in the place of model"


def _wrappers_in(name: str) -> list[str]:
    return [word for word in name.split(".") if word in _WRAPPERS]


def _all_wrappers(name: str) -> str:
    return "".join(f"{word}." for word in _wrappers_in(name))


def _first_wrappers(name: str) -> str:
    """Return the wrappers that a name begins with, dots and all."""
    rest = name
    while rest.partition(".")[0] in _WRAPPERS:
        rest = rest.partition(".")[2]
    return name.removesuffix(rest)


def _bare(path: Path) -> Path:
    return (*path[:-1], ".".join(word for word in str(path[-1]).split(".") if word not in _WRAPPERS))
