"""What a person or a program gets to see: lines, JSON, tables, sizes.

Floor 7. Knows standard output and the terminal; must not know any command.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from s3dlio.errors import OptionError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP = 1024
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpe]?)(i?)(b?)", re.IGNORECASE)


def size_text(count: float) -> str:
    """Return bytes as people say them, in binary units: ``1.5 MiB``."""
    for unit in _UNITS:
        if abs(count) < _STEP or unit == _UNITS[-1]:
            break
        count /= _STEP
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def read_size(text: str) -> int:
    """Read bytes as people write them: ``4096``, ``64K``, ``8MiB`` (binary), ``8MB`` (decimal).

    Raises:
        OptionError: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        msg = f"{text!r} is not a size; write for example 4096, 64KiB or 8MiB"
        raise OptionError(msg)
    number, unit, binary, byte = found.groups()
    base = 1000 if unit and byte and not binary else _STEP
    return int(float(number) * base ** ("kmgtpe".index(unit.lower()) + 1 if unit else 0))


def count_text(count: int, word: str) -> str:
    """Return a number of things: ``1 object``, ``2,000 objects``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def duration_text(seconds: float) -> str:
    """Return a short time in the unit that suits it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def visible(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def prepare() -> None:
    """Let names that are not UTF-8 pass to standard output as the bytes that they are."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def line(text: str, *, now: bool = True) -> None:
    """Write a line to standard output: as it is to programs, without control characters to terminals.

    Args:
        text: The line.
        now: Do not wait for more.
    """
    sys.stdout.write(f"{visible(text) if sys.stdout.isatty() else text}\n")
    if now:
        sys.stdout.flush()


def note(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"s3dlio: {visible(text)}\n")
    sys.stderr.flush()


def json_line(value: object, *, now: bool = True) -> None:
    """Write a value as one line of JSON; times are ISO 8601."""
    sys.stdout.write(json.dumps(plain(value), default=str) + "\n")
    if now:
        sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return a value in the words of JSON: results of every kind become mappings."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseException):
        return str(value)
    parts = _parts(value)
    if parts is not None:
        return {str(name): plain(part) for name, part in parts.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple, set)) else value


def _parts(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    named: Mapping[str, Any] | None = value._asdict() if hasattr(value, "_asdict") else None
    return named


def fields(value: object, *, as_json: bool) -> None:
    """Write a mapping or result: one JSON document, or a line for each of its parts that says something."""
    if as_json:
        json_line(value)
        return
    told = plain(value)
    parts: Mapping[str, Any] = told if isinstance(told, dict) else {"result": told}
    width = max((len(name) for name in parts), default=0)
    for name, part in parts.items():
        if part not in (None, "", {}, []):
            line(f"{name:<{width}}  {_told(name, part)}", now=False)
    sys.stdout.flush()


def _told(name: str, part: Any) -> str:
    if isinstance(part, int) and (name in ("size", "bytes") or name.endswith("_bytes")):
        return f"{size_text(part)} ({part:,} bytes)"
    if isinstance(part, float):
        return f"{part:.3f}"
    return json.dumps(part, default=str) if isinstance(part, (dict, list)) else str(part)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table, drawn on terminals and plain elsewhere; columns whose name ends in a space are set right."""
    if not sys.stdout.isatty():
        _plain_table(columns, [*rows])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        drawn.add_column(name.strip(), justify="right" if name.endswith(" ") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    Console(file=sys.stdout, highlight=False).print(drawn)
    sys.stdout.flush()


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    names = [name.strip() for name in columns]
    widths = [max(len(cell) for cell in cells) for cells in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        cells = zip(columns, row, widths, strict=True)
        padded = [cell.rjust(width) if name.endswith(" ") else cell.ljust(width) for name, cell, width in cells]
        line("  ".join(padded).rstrip(), now=False)
    line("")
