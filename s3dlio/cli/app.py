"""The program: its commands, and what is said when its words make no sense.

Floor 7. Knows the groups of commands; must not know what they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from s3dlio.cli import buckets, doctor, measure, objects, oplog, show, transfers
from s3dlio.cli.failing import FAILED, INTERRUPTED, MISUSED
from s3dlio.cli.session import before_the_command, with_common_options
from s3dlio.version import VERSION

app = typer.Typer(
    name="s3dlio",
    help="Objects on s3://, gs://, az://, file://, direct:// and whatever fsspec knows; plain paths are files.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help comes in a third of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_oplog = typer.Typer(help="Read operation logs (see --op-log), or do again what they tell.", no_args_is_help=True)
app.add_typer(_oplog, name="oplog")

_COMMANDS: dict[str, Callable[..., None]] = {
    "ls": objects.ls,
    "stat": objects.stat,
    "get": objects.get,
    "put": transfers.put,
    "put-streaming": transfers.put_streaming,
    "upload": transfers.upload,
    "download": transfers.download,
    "cp": transfers.cp,
    "rm": objects.rm,
    "mkdir": objects.mkdir,
    "list-buckets": buckets.list_buckets,
    "create-bucket": buckets.create_bucket,
    "delete-bucket": buckets.delete_bucket,
    "mp-get": measure.mp_get,
    "bench": measure.bench,
    "generate": transfers.generate,
    "tfrecord-index": transfers.tfrecord_index,
    "doctor": doctor.doctor,
}
for _name, _function in _COMMANDS.items():
    app.command(_name)(with_common_options(_function))
_oplog.command("summary")(with_common_options(oplog.summary))
_oplog.command("replay")(with_common_options(oplog.replay))


def _tell_version(wanted: bool) -> None:
    if wanted:
        show.line(f"s3dlio {VERSION}")
        raise typer.Exit


@app.callback()
@before_the_command
def _begin(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def run(args: Sequence[str]) -> int:
    """Run one command; return its exit code, for which see :func:`s3dlio.cli.main`."""
    try:
        code: Any = app(args=[*args], standalone_mode=False)
    except typer.Abort:
        show.note("interrupted")
        return INTERRUPTED
    except Exception as error:
        # Which classes these are differs from one release of typer to the next; what they can do does not.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
        else:
            show.note(_usage(error))
        return int(getattr(error, "exit_code", FAILED))
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "") or "s3dlio"
    advice = f"; try '{path} --help'" if getattr(error, "exit_code", 0) == MISUSED else ""
    return f"{text[:1].lower()}{text[1:]}{advice}"
