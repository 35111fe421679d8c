"""Made-up objects, written while they are made.

Floor 5. Knows names and numbers of objects, and how many of them fit into memory at once; must not know what is in
them (:mod:`s3dlio.synthetic_files`), nor whose settings a store has.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

from s3dlio.buffers import MIB, POOL, bytes_of, flat_bytes
from s3dlio.cancel import CancellationToken
from s3dlio.crew import map_all
from s3dlio.errors import AlreadyExistsError, IntegrityError, OptionError, suggest
from s3dlio.options import DEFAULT_IN_FLIGHT
from s3dlio.outflow import Outflow
from s3dlio.progress import Count, Tell, telling
from s3dlio.sender import DEFAULT_PART_BYTES, part_size
from s3dlio.stores.base import PutOptions, Store
from s3dlio.synthetic import Recipe
from s3dlio.synthetic_files import file_of
from s3dlio.uri import Uri, parse_object

#: Bytes of objects on their way, all together. Parts of 16 MiB: 16 of them keep a store busy.
_BUDGET_BYTES = 256 * MIB
#: Large objects at once: each is made by one thread, which makes more than a network takes.
_LARGE_AT_ONCE = 8
#: How the original made objects. Here they are always sent as they are made, and the bytes are the same.
_MODES = ("streaming", "single-pass")
#: Its ways to make random bytes; here there is one, which is faster than both.
_ALGORITHMS = ("random", "prand")


class Generation(TypedDict, total=False):
    """What :func:`s3dlio.put` takes to make up objects."""

    num: int
    size: int
    object_type: str
    dedup_factor: float
    compress_factor: float
    data_gen_mode: str
    data_gen_algorithm: str
    chunk_size: int
    seed: int | None
    max_in_flight: int
    should_create_bucket: bool
    progress: bool | Tell


class Order(NamedTuple):
    """What objects to make up.

    Attributes:
        recipe: Of each; its number is the object's.
        object_type: What kind of file each is.
        uris: Where to.
        max_in_flight: Most objects at once.
        progress: Told the bytes that have arrived.
        create_bucket: Make the bucket if it is missing.
    """

    recipe: Recipe
    object_type: str
    uris: list[Uri]
    max_in_flight: int
    progress: bool | Tell
    create_bucket: bool = False


def order_of(uri: str, template: str | None, given: Mapping[str, Any]) -> Order:
    """Return what the arguments of a put ask for.

    Args:
        uri: The objects' names, with ``{}`` for the number; with ``template`` what stands before that.
        template: The names, or ``None``.
        given: See :class:`Generation`.

    Raises:
        OptionError: They contradict each other, or one is out of its range.
    """
    _check_names(uri, given)
    _check_choice(uri, given, "data_gen_mode", _MODES)
    _check_choice(uri, given, "data_gen_algorithm", _ALGORITHMS)
    in_flight = given.get("max_in_flight", DEFAULT_IN_FLIGHT)
    if in_flight < 1:
        raise _wrong(uri, f"max_in_flight must be at least 1, not {in_flight}")
    texts = names(_joined(uri, template), given["num"])
    kinds = {field.name for field in dataclasses.fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in given.items() if name in kinds})
    object_type = given.get("object_type", "raw")
    file_of(object_type, recipe)  # what is wrong with it shows before the first object
    uris = [parse_object(text, "put") for text in texts]
    progress, create_bucket = given.get("progress", False), bool(given.get("should_create_bucket", False))
    return Order(recipe, object_type, uris, in_flight, progress, create_bucket)


def _check_choice(uri: str, given: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> None:
    chosen = given.get(name, choices[0])
    if str(chosen).replace("_", "-") not in choices:
        raise _wrong(uri, f"there is no {name} {chosen!r}{suggest(str(chosen), choices)}; use {', '.join(choices)}")


def _check_names(uri: str, given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in Generation.__annotations__:
            raise _wrong(uri, f"put() has no argument {name!r}{suggest(name, Generation.__annotations__)}")
    for name in ("num", "size"):
        value = given.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _wrong(uri, f"put() makes objects up when it is told {name}= (a number), or takes data=")


def _wrong(uri: str, message: str) -> OptionError:
    return OptionError(message, uri=uri, operation="put")


def _joined(uri: str, template: str | None) -> str:
    return uri if template is None else f"{uri.removesuffix('/')}/{template}"


def names(template: str, num: int) -> list[str]:
    """Return the names that a template gives to ``num`` objects: the first ``{}`` is which, the second how many.

    Raises:
        OptionError: It cannot be filled in, or several objects would have one name.
    """
    try:
        found = [template.format(number, num) for number in range(num)]
    except (IndexError, KeyError, ValueError, AttributeError) as error:
        msg = f"the template cannot be filled in with two numbers ({error!r}); use {{}} or {{:06d}}"
        raise _wrong(template, msg) from error
    if len(set(found)) < num:
        raise _wrong(template, f"{num} objects need a template with {{}} for their number")
    return found


def write_all(store: Store, order: Order, options: PutOptions, token: CancellationToken) -> None:
    """Make objects up and write them.

    Memory: a quarter of a GiB for what is on its way, however large and many they are, and the blocks around it.

    Raises:
        StoreError: The first failure; what had not begun is not written.
    """
    if order.create_bucket:
        with contextlib.suppress(AlreadyExistsError):
            store.create_container(order.uris[0], token)
    size = order.recipe.size
    is_small = size <= DEFAULT_PART_BYTES
    most = max(1, _BUDGET_BYTES // max(1, size)) if is_small else _LARGE_AT_ONCE
    width = max(1, min(order.max_in_flight, most, len(order.uris)))
    with telling(order.progress, f"writing {len(order.uris)} objects") as tell:
        count = Count(size * len(order.uris), tell)

        def write(item: tuple[int, Uri], token: CancellationToken) -> None:
            recipe = dataclasses.replace(order.recipe, number=item[0])
            if is_small:
                _write_small(store, item[1], _Made(order.object_type, recipe), options, token)
                count.add(size)
            else:
                _write_large(store, item[1], _Made(order.object_type, recipe), _Way(options, width, count.add), token)

        map_all(write, enumerate(order.uris), width, token)


class _Made(NamedTuple):
    object_type: str
    recipe: Recipe


class _Way(NamedTuple):
    options: PutOptions
    objects: int
    tell: Callable[[int], object]


def _write_small(store: Store, uri: Uri, made: _Made, options: PutOptions, token: CancellationToken) -> None:
    memory = bytes_of(POOL.take(made.recipe.size))
    done = 0
    for piece in file_of(*made):
        view = flat_bytes(piece)
        memory[done : done + len(view)] = view
        done += len(view)
    _check_length(uri, done, made.recipe.size)
    store.sizes.forget(uri)
    store.put(uri, memory, options, token)


def _write_large(store: Store, uri: Uri, made: _Made, way: _Way, token: CancellationToken) -> None:
    part_bytes = part_size(made.recipe.size, store.limits)
    parts = max(1, _BUDGET_BYTES // (way.objects * part_bytes))
    outflow = Outflow(store, uri, way.options, part_bytes=part_bytes, width=parts, parent=token)
    try:
        for piece in file_of(*made):
            token.check()
            way.tell(outflow.write(flat_bytes(piece)))
        _check_length(uri, outflow.bytes_written, made.recipe.size)
    except BaseException as error:
        outflow.abort_because(error)
        raise
    outflow.close()


def _check_length(uri: Uri, made: int, size: int) -> None:
    if made != size:
        msg = f"{made} bytes were made where {size} were asked for"
        raise IntegrityError(msg, uri=str(uri), operation="put")
