"""Room card: the house: floors, doors and room cards, as the modules themselves declare them.

Reads the source as text and as syntax trees.  Must not import what it judges.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import s3dlio

_HOUSE = Path(s3dlio.__file__).parent
_TESTS = Path(__file__).parent
_MODULES = {
    ".".join(("s3dlio", *path.relative_to(_HOUSE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(_HOUSE.rglob("*.py"))
}
_ROOMS = frozenset(_MODULES) - {"s3dlio"}
_FLOOR = re.compile(r"^Floor (\d)\. ", re.MULTILINE)
#: The front door and the version stand outside the floors; the test server must know nothing of the house.
_NO_FLOOR = {"s3dlio", "s3dlio.version", "s3dlio.testing", "s3dlio._server_process"}
_MOST_LINES = 450
#: Framework -> the room that may import it, beside what plays a library of that framework.
_FRAMEWORKS = {"torch": "s3dlio.torch", "jax": "s3dlio.jax", "tensorflow": "s3dlio.tf"}

_DLIO = "s3dlio.integrations.dlio.s3dlio_storage"
_PLAYED_ROOM = "s3dlio.compat.s3torchconnector"
_PLAYED_PLACES = (
    "s3map_dataset", "s3iterable_dataset", "lightning", "dcp.s3_file_system", "dcp.s3_prefix_strategy",
)  # fmt: skip
_PLAYED = {"torch": {f"{_PLAYED_ROOM}.{place}" for place in _PLAYED_PLACES}}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_MODULES[module].read_text())


def _card(module: str) -> str:
    return ast.get_docstring(_tree(module)) or ""


def _floor(module: str) -> int:
    found = _FLOOR.findall(_card(module))
    assert len(found) == 1, f"{module} declares {len(found)} floors"
    return int(found[0])


@cache
def _imports(module: str) -> frozenset[str]:
    """Returns the modules of this library that a module imports, lazily or not, but for type checkers only."""
    found: set[str] = set()
    skipped = {id(node) for block in _type_checking(module) for node in ast.walk(block)}
    for node in ast.walk(_tree(module)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {_module_of(alias.name) for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {_module_of(f"{node.module}.{alias.name}") for alias in node.names}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in _ROOMS:
            found.add(node.value)  # importlib.import_module("s3dlio....")
    return frozenset(found - {"", module})


def _is_bare(module: str) -> bool:
    """Returns whether a module holds a card and constants only, as a package of rooms may."""
    return all(isinstance(node, (ast.Expr, ast.Assign)) for node in _tree(module).body)


def _type_checking(module: str) -> list[ast.If]:
    blocks = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.If)]
    return [block for block in blocks if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"]


def _module_of(name: str) -> str:
    """Returns the module of this library that a dotted name leads to, or nothing."""
    while name.startswith("s3dlio"):
        if name in _MODULES:
            return name
        name = name.rpartition(".")[0]
    return ""


def _room(module: str) -> str:
    """Returns the package a module lies in; the modules beside the front door are rooms of their own."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("module", _MODULES)
def test_a_module_opens_with_its_card(module: str) -> None:
    card = _card(module)
    assert card.partition("\n")[0].rstrip().endswith((".", ":"))
    assert len(card) > 60 or module == "s3dlio.version"
    if _is_bare(module):
        return
    first = _tree(module).body[1]
    assert isinstance(first, ast.ImportFrom)
    assert (first.module, first.names[0].name) == ("__future__", "annotations")


@pytest.mark.parametrize("module", sorted(module for module in _ROOMS - _NO_FLOOR if not _is_bare(module)))
def test_imports_go_down(module: str) -> None:
    floor = _floor(module)
    above = {other: _floor(other) for other in _imports(module) - _NO_FLOOR if _floor(other) > floor}
    assert above == {}
    assert _imports(module) & _NO_FLOOR <= {"s3dlio.version"}


def test_no_module_leads_back_to_itself() -> None:
    _check_acyclic({module: set(_imports(module)) for module in _MODULES if module != "s3dlio"})


def test_no_room_leads_back_to_itself() -> None:
    rooms: dict[str, set[str]] = {}
    for module in _MODULES:
        if module != "s3dlio":
            others = {_room(other) for other in _imports(module)} - {_room(module), "s3dlio"}
            rooms.setdefault(_room(module), set()).update(others)
    _check_acyclic(rooms)


def _check_acyclic(graph: dict[str, set[str]]) -> None:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_the_test_server_knows_nothing_of_the_house() -> None:
    assert _imports("s3dlio.testing") == {"s3dlio._server_process"}
    assert _imports("s3dlio._server_process") == set()


@pytest.mark.parametrize("framework", _FRAMEWORKS)
def test_a_framework_is_imported_in_its_own_room_only(framework: str) -> None:
    importing = {module for module in _MODULES if framework in _foreign(module)} - _PLAYED.get(framework, set())
    assert importing
    assert {_room(module) for module in importing} == {_FRAMEWORKS[framework]}


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("botocore", {"s3dlio.stores.credentials"}),
        ("boto3", set()),
        (
            "fsspec",
            {
                "s3dlio.stores.fsspec",
                "s3dlio.fsspec_plugin",
                "s3dlio.fsspec_reads",
                "s3dlio.fsspec_files",
                "s3dlio.fsspec_bulk",
                "s3dlio.integrations.paths",
            },
        ),
        (
            "socket",
            {
                "s3dlio.wire.channel",
                "s3dlio.wire.connection",
                "s3dlio.wire.client",
                "s3dlio.wire.transport",
                "s3dlio.wire.probe",
                "s3dlio.testing",
            },
        ),
        (
            "ssl",
            {"s3dlio.wire.secured", "s3dlio.wire.channel", "s3dlio.wire.probe"},
        ),
    ],
)
def test_a_library_is_spoken_to_in_few_places(library: str, places: set[str]) -> None:
    assert {module for module in _MODULES if library in _foreign(module)} <= places


@cache
def _foreign(module: str) -> frozenset[str]:
    """Returns the top names of what a module imports, lazily or not, from outside the library."""
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return frozenset(found)


def test_only_the_settings_read_the_environment() -> None:
    readers = {module for module in _MODULES if re.search(r"os\.(environ|getenv)", _MODULES[module].read_text())}
    # RANK, WORLD_SIZE and SHELL are not settings of ours; what the command line is told becomes the environment, and
    # what the original's configure_s3 is, or DLIO.
    launchers = {"s3dlio.torch.world", "s3dlio.cli.session", "s3dlio.cli.completion", "s3dlio.compat.settings", _DLIO}
    assert readers <= {"s3dlio.options", "s3dlio.stores", "s3dlio.testing", "s3dlio._server_process"} | launchers


def test_no_module_has_the_name_of_a_verb() -> None:
    public = {*s3dlio.__all__, *s3dlio._FRAMEWORK_PLACES}
    assert {module.rpartition(".")[2] for module in _MODULES if module.count(".") == 1} & public == set()


def test_no_test_folder_hides_a_framework() -> None:
    folders = {path.name for path in _TESTS.rglob("*") if path.is_dir()}
    assert folders & {*_FRAMEWORKS, "tf", "numpy"} == set()
    assert {path.name for path in _TESTS.iterdir() if path.is_dir()} <= {"servers", "__pycache__"}


@pytest.mark.parametrize("module", _MODULES)
def test_a_module_is_not_too_long(module: str) -> None:
    lines = _MODULES[module].read_text().count("\n")
    assert lines <= _MOST_LINES
