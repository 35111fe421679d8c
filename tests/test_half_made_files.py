"""Room card: a file whose constructor has raised is let go in silence, on every Python.

Python closes it, and from 3.13 on reports what that fails with.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

import s3dlio
from s3dlio import OptionError
from s3dlio.binary_file import BinaryFile
from s3dlio.compat.s3torchconnector import S3Reader, S3Writer
from s3dlio.fsspec_files import Packed, ReadFile, WriteFile
from s3dlio.range_file import RangeFile
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.uri import parse

KINDS: list[type[BinaryFile]] = [RangeFile, ReadFile, WriteFile, Packed, S3Reader, S3Writer]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_made_is_not_closed(kind: type[BinaryFile], monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(kind, "close", closed.append)
    half = kind.__new__(kind)
    half.__del__()
    assert closed == []


def test_a_file_that_is_let_go_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    real = RangeFile.close
    monkeypatch.setattr(RangeFile, "close", lambda self: (closed.append(id(self)), real(self)))
    where = parse("memory://half/x")
    s3dlio.put(str(where), b"spam")
    file = RangeFile(RemoteObject(open_store(where), where))
    number = id(file)
    del file
    gc.collect()
    assert closed == [number]


def test_wrong_arguments_are_told_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    where = parse("memory://half/x")
    s3dlio.put(str(where), b"spam")
    with pytest.raises(OptionError):
        RangeFile(RemoteObject(open_store(where), where), readahead_bytes=1)
    with pytest.raises(OptionError):
        S3Reader("", "key", lambda: None, lambda *_: iter(()))
    gc.collect()
    assert told == []
