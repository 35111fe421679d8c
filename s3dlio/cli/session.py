"""What holds for every command: the common options, and how they take effect.

Floor 7. Knows the common options and the environment variables they stand for; must not know any command.
The options become this process's environment for as long as the command runs, since they then hold for every
verb, thread and child process alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import click

from s3dlio.cli import show
from s3dlio.cli.failing import Ended, Misused, told
from s3dlio.texts import url_fault

#: Scheme -> the variable that names its server; the strongest where there are several.
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL_S3", "gs": "STORAGE_EMULATOR_HOST", "az": "AZURE_STORAGE_BLOB_ENDPOINT"}
_REGION = "AWS_REGION"


@dataclasses.dataclass(frozen=True)
class Session:
    """The common options of one run.

    Attributes:
        verbose: 0 errors only, 1 what the library tells, 2 every retry, and where errors arise.
        quiet: No progress and no sums.
        as_json: For programs: JSON on standard output.
        endpoint_url: The server to speak to.
        region: The S3 region.
        op_log: Where operations are written down.
    """

    verbose: int = 0
    quiet: bool = False
    as_json: bool = False
    endpoint_url: str | None = None
    region: str | None = None
    op_log: str | None = None

    @property
    def progress(self) -> bool:
        """Whether progress may be shown (the library shows it on terminals only)."""
        return not self.quiet

    def over(self, base: Session) -> Session:
        """Return these options, and those of ``base`` where nothing was said here."""
        plain = Session()
        said = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(plain, field.name)
        }
        return dataclasses.replace(base, **said)


#: One for each attribute of Session.
_OPTIONS = (
    click.option("--verbose", "-v", count=True, show_default=False,
                 help="Tell more; -vv tells every retry, and where an error arose."),
    click.option("--quiet", "-q", is_flag=True, help="No progress bar and no sums."),
    click.option("--json", "as_json", is_flag=True, help="JSON on standard output."),
    click.option("--endpoint-url", metavar="URL", help="The server; of s3:// if several schemes are named."),
    click.option("--region", metavar="NAME", help="The S3 region."),
    click.option("--op-log", metavar="FILE", help="Write down every operation; .zst is compressed."),
)  # fmt: skip

_current: ContextVar[Session] = ContextVar("s3dlio_session", default=Session())  # noqa: B039 - frozen


def current() -> Session:
    """Return the common options of the command that runs."""
    return _current.get()


def with_common_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return what a command calls: it takes the common options as well, and ends as commands end."""

    @functools.wraps(function)
    def run(**words: Any) -> None:
        session = _taken_from(words).over(_current.get())
        reset = _current.set(session)
        try:
            with told(session.verbose), _in_effect(session, _families(words.values())):
                function(**words)
        except Ended as end:
            raise click.exceptions.Exit(end.code) from end
        finally:
            _current.reset(reset)

    return _with_options(run)


def before_the_command(function: Callable[..., None]) -> Callable[..., None]:
    """Return what a group calls: it takes the common options where they stand before the command."""

    @functools.wraps(function)
    def run(**words: Any) -> None:
        _current.set(_taken_from(words))
        function(**words)

    return _with_options(run)


def _with_options(run: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):  # as decorators do, the last comes first
        run = option(run)
    return run


def _taken_from(words: dict[str, Any]) -> Session:
    return Session(**{field.name: words.pop(field.name) for field in dataclasses.fields(Session)})


def _families(words: Iterable[object]) -> set[str]:
    """Return the clouds that the words of a command name."""
    texts = [text for word in words for text in (word if isinstance(word, tuple) else [word]) if isinstance(text, str)]
    schemes = {text.partition("://")[0].lower() for text in texts if "://" in text}
    return {scheme.replace("gcs", "gs") for scheme in schemes} & _ENDPOINTS.keys()


@contextlib.contextmanager
def _in_effect(session: Session, families: set[str]) -> Iterator[None]:
    show.prepare()
    _listen(session.verbose)
    with _environment(_variables(session, families)), _logged(session.op_log):
        yield


def _variables(session: Session, families: set[str]) -> dict[str, str]:
    variables = {}
    if session.endpoint_url:
        fault = url_fault(session.endpoint_url)
        if fault:
            msg = f"--endpoint-url {fault}"
            raise Misused(msg)
        family = "s3" if "s3" in families or len(families) != 1 else next(iter(families))
        variables[_ENDPOINTS[family]] = session.endpoint_url
    if session.region:
        variables[_REGION] = session.region
    return variables


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


@contextlib.contextmanager
def _logged(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    from s3dlio import oplog

    oplog.init_op_log(path)
    try:
        yield
    finally:
        oplog.finalize_op_log()


def _listen(verbose: int) -> None:
    """Let the library's log go to standard error."""
    logger = logging.getLogger("s3dlio")
    for handler in [handler for handler in logger.handlers if handler.get_name() == "s3dlio-cli"]:
        logger.removeHandler(handler)
    if not verbose:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name("s3dlio-cli")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)


def source_of(option: str, family: str) -> str:
    """Return the environment variable that a store's option comes from, or nothing."""
    from s3dlio.options import ENVIRONMENT

    found = ""
    for variable in ENVIRONMENT:
        scheme, _, name = variable.option.rpartition(".")
        if name == option and scheme in ("", family) and os.environ.get(variable.name):
            found = variable.name
    return found
