"""The program: its commands, and what is said when its words make no sense.

Floor 7. Knows the names of commands and where each is; must not know what they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from s3dlio.cli import show
from s3dlio.cli.failing import FAILED, INTERRUPTED, MISUSED, tell
from s3dlio.cli.lazy import LazyGroup
from s3dlio.cli.session import before_the_command
from s3dlio.version import VERSION

#: Name -> where it is, in the order of the help.
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
    "oplog": "s3dlio.cli.oplog:oplog",
}


def _tell_completion(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Show or install what lets the user's shell complete words."""
    if wanted and not context.resilient_parsing:
        from s3dlio.cli import completion

        act = completion.install if parameter.name == "install_completion" else completion.script
        name = context.info_name or ""
        show.line(act(context.command, "s3dlio" if " " in name else name))  # "python -m s3dlio" is no name
        context.exit()


def _completion_option(name: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, is_flag=True, is_eager=True, expose_value=False, callback=_tell_completion, help=text)


@click.group(
    "s3dlio",
    cls=LazyGroup,
    places=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},  # and of all commands
)
@click.version_option(VERSION, message="s3dlio %(version)s", help="Show the version.")
@before_the_command
@_completion_option("--install-completion", "Install completion for the shell in use.")
@_completion_option("--show-completion", "Show completion for the shell in use, to put it where you like.")
def app() -> None:
    """Objects on s3://, gs://, az://, file://, direct:// and whatever fsspec knows; plain paths are files."""


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
    except OSError as error:  # help and version could not be written: commands tell of their own errors
        return tell(error)
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "") or "s3dlio"
    advice = f"; try '{path} --help'" if error.exit_code == MISUSED else ""
    return f"{text[:1].lower()}{text[1:]}{advice}"
