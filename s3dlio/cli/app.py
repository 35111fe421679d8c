"""The program: its commands, and what is said when its words make no sense.

Floor 7. Knows the names of commands and where each is; must not know what they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from s3dlio.cli import show
from s3dlio.cli.failing import FAILED, INTERRUPTED, MISUSED
from s3dlio.cli.session import before_the_command, with_common_options
from s3dlio.cli.words import HELP_NAMES, LazyGroup, command, parameters
from s3dlio.version import VERSION

#: Name -> where it is.
_COMMANDS = {
    "ls": "s3dlio.cli.objects:ls",
    "stat": "s3dlio.cli.objects:stat",
    "get": "s3dlio.cli.objects:get",
    "put": "s3dlio.cli.transfers:put",
    "put-streaming": "s3dlio.cli.transfers:put_streaming",
    "upload": "s3dlio.cli.transfers:upload",
    "download": "s3dlio.cli.transfers:download",
    "cp": "s3dlio.cli.transfers:cp",
    "rm": "s3dlio.cli.objects:rm",
    "mkdir": "s3dlio.cli.objects:mkdir",
    "list-buckets": "s3dlio.cli.buckets:list_buckets",
    "create-bucket": "s3dlio.cli.buckets:create_bucket",
    "delete-bucket": "s3dlio.cli.buckets:delete_bucket",
    "mp-get": "s3dlio.cli.measure:mp_get",
    "bench": "s3dlio.cli.measure:bench",
    "generate": "s3dlio.cli.transfers:generate",
    "tfrecord-index": "s3dlio.cli.transfers:tfrecord_index",
    "doctor": "s3dlio.cli.doctor:doctor",
    "oplog": "s3dlio.cli.app:_oplog",
}
_OPLOG_COMMANDS = {"summary": "s3dlio.cli.oplog:summary", "replay": "s3dlio.cli.oplog:replay"}


def _made(name: str, what: Callable[..., None] | click.Command) -> click.Command:
    return what if isinstance(what, click.Command) else command(name, with_common_options(what))


def _tell_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        show.line(f"s3dlio {VERSION}")
        context.exit()


def _tell_completion(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Show or install what lets the user's shell complete words."""
    if wanted and not context.resilient_parsing:
        from s3dlio.cli import completion

        act = completion.install if parameter.name == "install_completion" else completion.script
        name = context.info_name or ""
        show.line(act(context.command, "s3dlio" if " " in name else name))  # "python -m s3dlio" is no name
        context.exit()


def _flag(name: str, act: Callable[..., None], text: str) -> click.Option:
    return click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=act, help=text)


@before_the_command
def _begin() -> None:
    pass


_settings: dict[str, Any] = {"no_args_is_help": True, "context_settings": {"help_option_names": HELP_NAMES}}
app = LazyGroup(
    _COMMANDS,
    _made,
    name="s3dlio",
    help="Objects on s3://, gs://, az://, file://, direct:// and whatever fsspec knows; plain paths are files.",
    callback=_begin,
    params=[
        _flag("--version", _tell_version, "Show the version."),
        *parameters(_begin),
        _flag("--install-completion", _tell_completion, "Install completion for the shell in use."),
        _flag("--show-completion", _tell_completion, "Show completion for the shell in use, to put it where you like."),
    ],
    **_settings,
)
_oplog = LazyGroup(
    _OPLOG_COMMANDS,
    _made,
    name="oplog",
    help="Read operation logs (see --op-log), or do again what they tell.",
    **_settings,
)


def run(args: Sequence[str]) -> int:
    """Run one command; return its exit code, for which see :func:`s3dlio.cli.main`."""
    try:
        code: Any = app(args=[*args], standalone_mode=False)
    except click.Abort:
        show.note("interrupted")
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        sys.stderr.write(f"{help_wanted.format_message()}\n")
        return help_wanted.exit_code
    except click.ClickException as error:
        show.note(_usage(error))
        return error.exit_code or FAILED
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "") or "s3dlio"
    advice = f"; try '{path} --help'" if error.exit_code == MISUSED else ""
    return f"{text[:1].lower()}{text[1:]}{advice}"
