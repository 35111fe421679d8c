"""Room card: operation logs are read whatever their names hold, wherever they were cut, and as MinIO's warp writes them.

Judges: Python's csv in its strict mode; lines in the form that warp's own writer gives them.
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import pytest
import zstandard

import s3dlio
from s3dlio import recorder
from s3dlio.errors import FormatError
from s3dlio.recorder import Line, now
from s3dlio.uri import Uri
from tests.contract_base import unique

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.faults import FaultOrigin

_NAMES = [
    "a\n#b", "car\rriage", "\rfirst", "last\r", "cr\r\nlf", "new\nline", "tab\tkey", 'quo"te', '"whole"', "#hash", " lead",
    "\\.", "line\u2028end", "nel\x85", "ü/漢/😀", "100%d", "not utf-8 \udcff",
]  # fmt: skip
_COLUMNS_OF_WARP = (
    "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tlast_byte\tend\t"
    "duration_ns\tcat\n"
)
_TIMES = "2026-03-01T12:00:00.000000005-05:30\t{first}\t{last}\t2026-03-01T12:00:00.003000005-05:30\t3000000"


def _written(path: Path, lines: list[Line]) -> None:
    log = recorder.Recorder(str(path), packed=path.suffix == ".zst")
    log.open()
    for line in lines:
        log.add(line)
    log.finish()


def _lines(names: list[str]) -> list[Line]:
    return [
        Line("GET", "http://h:1", Uri("s3", "b", name), now(), 0, now(), error=f"it said {name}", objects=3)
        for name in names
    ]


@pytest.mark.parametrize("ending", ["tsv", "tsv.zst"])
def test_every_name_and_error_comes_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"log.{ending}"
    _written(path, _lines(_NAMES))
    found = s3dlio.read_op_log(path)
    assert [one.file for one in found] == [f"b/{name}" for name in _NAMES]
    assert [one.error for one in found] == [f"it said {name}" for name in _NAMES]
    assert {one.objects for one in found} == {3}


@pytest.mark.parametrize("name", _NAMES)
def test_one_odd_name_alone_is_written_so_that_strict_readers_take_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "log.tsv"
    _written(path, _lines([name]))
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, row = csv.reader(file, delimiter="\t", strict=True)
    assert dict(zip(header, row, strict=True))["file"] == f"b/{name}"


def test_wherever_a_log_was_cut_its_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    _written(path, _lines(["plain", "new\nline", "a\n#b\n", "last"]))
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    counts = []
    for length in range(header, len(data) + 1):
        path.write_bytes(data[:length])
        counts.append(len(s3dlio.read_op_log(path)))
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert counts.count(4) == 1  # only with its last byte


def test_a_log_with_the_newer_columns_of_warp_is_read(tmp_path: Path) -> None:
    path = tmp_path / "warp.csv.zst"
    early, none = "2026-03-01T12:00:00.001-05:30", ""
    text = (
        _COLUMNS_OF_WARP
        + f"0\t0\tGET\ta\t1\t7\thttp://h:1\tx/a b.rnd\t\t{_TIMES.format(first=early, last=none)}\t0\n"
        + f"1\t1\tPUT\ta\t1\t8\thttp://h:1\tx/2.rnd\t\t{_TIMES.format(first=none, last=early)}\t5\n"
        + "2\t2\tSTAT\ta\t1\t0\thttp://h:1\t#3\t"
        + f'"it\tfailed ""badly""\r\nand\n# more\n"\t{_TIMES.format(first=none, last=none)}\t0\n'
        + f'3\t2\tSTAT\ta\t1\t0\thttp://h:1\tin the "middle"\t\t{_TIMES.format(first=none, last=none)}\t0\n'
        + '# warp get --host "x\n# \tand more\n'
    )
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    get, put, failed, quoted = s3dlio.read_op_log(path)
    assert (get.file, get.bytes, get.end_ns - get.start_ns) == ("x/a b.rnd", 7, 3_000_000)
    assert get.first_byte_ns == get.start_ns + 999_995
    assert (put.bytes, put.first_byte_ns) == (8, None)
    assert (failed.file, failed.error) == ("#3", 'it\tfailed "badly"\r\nand\n# more\n')
    assert quoted.file == 'in the "middle"'
    assert s3dlio.summarize_op_log(path).errors == 1


def _row(name: str) -> str:
    return f"0\t0\tGET\ta\t1\t7\thttp://h:1\t{name}\t\t{_TIMES.format(first='', last='')}\t0\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_row('"never closed') + _row("y") * 2000, "field larger"),
        (_row("x" * 200_000), "field larger"),
        (_row("x" * (2 << 20)), "longer than"),
        ("0\t1\n" + _row("y"), "2 fields of 15"),
    ],
    ids=["a quote that is never closed", "a long name", "a line without end", "a short line"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_log_that_is_broken_is_refused_by_its_name(tmp_path: Path, text: str, said: str, packed: bool) -> None:
    path = tmp_path / "broken.log"
    data = (_COLUMNS_OF_WARP + text).encode()
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if packed else data)
    with pytest.raises(FormatError, match=said) as caught:
        s3dlio.read_op_log(path)
    assert caught.value.uri == str(path)


def test_a_packed_log_with_something_else_behind_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress((_COLUMNS_OF_WARP + _row("x")).encode()) + b"something else")
    with pytest.raises(FormatError, match="zstd"):
        s3dlio.read_op_log(path)


def test_deletes_that_name_no_object_are_not_done_again(tmp_path: Path) -> None:
    """As warp writes them: one line for many objects, no names."""
    path = tmp_path / "warp.csv"
    row = _row("").replace("GET\ta\t1\t7", "DELETE\ta\t100\t0")
    path.write_text(_COLUMNS_OF_WARP + row + _row("x"))
    target = f"memory://{unique('replay')}"
    done = s3dlio.replay_op_log(path, target, math.inf)
    assert (done.operations, done.skipped, done.errors) == (1, 1, 0)
    assert s3dlio.list(f"{target}/") == [f"{target}/x"]


def test_an_answer_without_a_code_is_told_by_its_number(
    origin: FaultOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT_URL", origin.endpoint_url), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "no")):
        monkeypatch.setenv(f"AWS_{name}", value)
    s3dlio.init_op_log(tmp_path / "log.tsv")
    try:
        assert not s3dlio.exists("s3://bucket/missing")
    finally:
        s3dlio.finalize_op_log()
    assert s3dlio.read_op_log(tmp_path / "log.tsv")[0].error == "HTTP 404"
