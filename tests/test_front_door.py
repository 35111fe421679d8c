"""Room card: `import s3dlio`: cheap, complete, and the same to people, type checkers and `import *`.

Knows the table of public names.  Must not test what is behind them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import s3dlio
from tests.patience import PROGRAM_S

_SOURCE = Path(s3dlio.__file__)
_HEAVY = ("torch", "jax", "tensorflow", "boto3", "botocore", "obstore", "fsspec", "google.auth", "azure", "asyncio")
_VERBS = ("get", "get_range", "get_into", "get_many", "get_many_stats", "stat", "exists", "put", "put_many", "delete")


def _fresh(program: str) -> str:
    """Runs a program in a new interpreter and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=PROGRAM_S
    )
    return done.stdout.strip()


def _type_checked() -> set[str]:
    """Returns the public names that the TYPE_CHECKING block shows to type checkers."""
    tree = ast.parse(_SOURCE.read_text())
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("s3dlio")]
    return {alias.asname or alias.name for node in ours for alias in node.names}


@pytest.mark.parametrize("name", [*s3dlio._PLACES, *s3dlio._FRAMEWORK_PLACES])
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(s3dlio, name)
    module, attribute = {**s3dlio._PLACES, **s3dlio._FRAMEWORK_PLACES}[name]
    assert value is getattr(importlib.import_module(module), attribute)
    assert inspect.getdoc(value)
    assert name in dir(s3dlio)


def test_type_checkers_see_the_same_names() -> None:
    assert _type_checked() == {*s3dlio._PLACES, *s3dlio._FRAMEWORK_PLACES}
    assert (_SOURCE.parent / "py.typed").exists()


def test_all_names_no_framework() -> None:
    assert sorted(s3dlio.__all__) == sorted({*s3dlio._PLACES, "__version__"})
    assert not set(s3dlio.__all__) & set(s3dlio._FRAMEWORK_PLACES)
    assert "S3MapDataset" in dir(s3dlio)


def test_importing_loads_nothing_heavy() -> None:
    program = f"import s3dlio, sys; print([name for name in {_HEAVY!r} if name in sys.modules])"
    assert _fresh(program) == "[]"


def test_using_files_loads_no_cloud(tmp_path: Path) -> None:
    program = f"""
import s3dlio, sys
s3dlio.put("file://{tmp_path}/x", b"x")
s3dlio.put("memory://space/x", b"x")
assert s3dlio.get("file://{tmp_path}/x") == b"x"
heavy = [name for name in {_HEAVY[:-1]!r} if name in sys.modules]
print(heavy, [name for name in sys.modules if name.startswith("s3dlio.stores.s3")])
"""
    assert _fresh(program) == "[] []"


def test_importing_everything_loads_no_framework() -> None:
    program = (
        "from s3dlio import *; import sys; print(get.__module__, [n for n in ('torch', 'jax') if n in sys.modules])"
    )
    assert _fresh(program) == "s3dlio.api []"


def test_importing_starts_no_thread() -> None:
    assert _fresh("import s3dlio, s3dlio.api, threading; print(threading.active_count())") == "1"


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no attribute 'get_mny'; did you mean 'get_many'"):
        _ = s3dlio.get_mny
    with pytest.raises(AttributeError, match="did you mean 'S3MapDataset'"):
        _ = s3dlio.S3MapDatset
    with pytest.raises(AttributeError, match=r"no attribute 'qqqqqq'$"):
        _ = s3dlio.qqqqqq
    with pytest.raises(ImportError):
        exec("from s3dlio import get_mny")
    assert not hasattr(s3dlio, "__wrapped__")


def test_every_verb_has_a_twin_to_await() -> None:
    verbs = [name.removesuffix("_async") for name in s3dlio.__all__ if name.endswith("_async")]
    assert {*_VERBS, "list"} <= set(verbs)
    for name in verbs:
        verb, twin = getattr(s3dlio, name), getattr(s3dlio, f"{name}_async")
        assert inspect.iscoroutinefunction(twin)
        assert inspect.signature(twin).parameters == inspect.signature(verb).parameters


@pytest.mark.parametrize("name", sorted(s3dlio._VERBS))
def test_every_verb_says_what_it_takes_returns_and_raises(name: str) -> None:
    verb = getattr(s3dlio, name)
    if not inspect.isfunction(verb) or name.endswith("_async"):
        return
    text = inspect.getdoc(verb) or ""
    parameters = [one for one in inspect.signature(verb).parameters if one != "uri"]
    assert all(f"{one}: " in text for one in parameters) or ":func:`" in text


def test_the_version_is_one() -> None:
    assert _fresh("import s3dlio; print(s3dlio.__version__)") == s3dlio.__version__
    assert s3dlio.__version__.count(".") == 2
