"""Room card: the tree of errors: what it says in its docstring is what it is.

Knows `s3dlio.errors` alone.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import s3dlio
from s3dlio import NotFoundError, S3dlioError, errors
from s3dlio.errors import suggest

_CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, S3dlioError)]
_LINE = re.compile(r"^ {4}([| ]*)(?:\+-- )?(\w+)(?: \(([\w, ]+)\))?(?: +\S.*)?$", re.MULTILINE)


def _drawn() -> dict[str, tuple[str | None, tuple[str, ...]]]:
    """Returns what the docstring draws: for each class its parent there and its further bases."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.partition("::\n\n")[2].partition("\n\n")[0]
    found: dict[str, tuple[str | None, tuple[str, ...]]] = {}
    above: list[str] = []
    for match in _LINE.finditer(drawing):
        indent, name, bases = match.groups()
        depth = len(indent) // 4 + ("+-- " in match[0])
        del above[depth:]
        found[name] = (above[-1] if above else None, tuple((bases or "").split(", ")) if bases else ())
        above.append(name)
    assert len(found) == len(drawing.splitlines())
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = _drawn()
    assert sorted(drawn) == sorted(kind.__name__ for kind in _CLASSES)
    for kind in _CLASSES:
        parent, further = drawn[kind.__name__]
        expected = ((parent,) if parent else ()) + further
        assert tuple(base.__name__ for base in kind.__bases__) == expected


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("S3dlioError", RuntimeError),
        ("UriError", ValueError),
        ("OptionError", ValueError),
        ("OptionError", TypeError),
        ("StoreError", OSError),
        ("NotFoundError", FileNotFoundError),
        ("AlreadyExistsError", FileExistsError),
        ("AccessDeniedError", PermissionError),
        ("StoreTimeoutError", TimeoutError),
        ("RangeError", ValueError),
        ("FormatError", ValueError),
        ("ClosedError", ValueError),
    ],
)
def test_an_error_is_caught_by_the_builtin_a_user_would_name(kind: str, builtin: type[Exception]) -> None:
    raised = getattr(s3dlio, kind)("what happened", uri="s3://b/k", operation="get")
    with pytest.raises(builtin, match="get s3://b/k: what happened"):
        raise raised
    assert isinstance(raised, RuntimeError)


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_can_be_rebuilt_from_one_string(kind: type[S3dlioError]) -> None:
    again = kind(str(kind("what happened", uri="s3://b/k", operation="get")))
    assert str(again) == "get s3://b/k: what happened"
    assert (again.uri, again.operation) == (None, None)
    assert kind().args == ("",)


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_survives_pickling_and_copying(kind: type[S3dlioError]) -> None:
    error = kind("what happened", uri="s3://b/k", operation="get")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (str(again), again.uri, again.operation) == (str(error), "s3://b/k", "get")


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_is_public_and_says_what_it_means(kind: type[S3dlioError]) -> None:
    assert getattr(s3dlio, kind.__name__) is kind
    assert kind.__doc__
    assert kind.__doc__.strip().endswith(".") or "\n" in kind.__doc__


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    retryable = {kind.__name__ for kind in _CLASSES if kind.retryable}
    assert retryable == {"StoreTimeoutError", "StoreUnavailableError", "ObjectChangedError"}


def test_a_message_names_as_much_of_the_place_as_is_known() -> None:
    assert str(S3dlioError("why")) == "why"
    assert str(S3dlioError("why", operation="get")) == "get: why"
    assert str(NotFoundError("why", uri="s3://b/k")) == "s3://b/k: why"
    assert NotFoundError("why").message == "why"


def test_a_suggestion_is_made_only_when_something_is_near() -> None:
    assert suggest("chunksize", ["chunk_size", "region"]) == "; did you mean 'chunk_size'?"
    assert suggest("zzz", ["chunk_size", "region"]) == ""
    assert suggest("x", []) == ""
