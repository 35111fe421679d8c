"""The works on folders that are carried: up to an S3 server, down from it, and from memory to memory.

For: declaring them. Must not know: how rounds are run, or any client.
"""

from __future__ import annotations

from benchmarks.declare import AWSCLI, ORIGINAL, OURS, RCLONE, S3FS, Lane, Setting, Target, Work
from benchmarks.trees import SERVER, SETS

_FUNCTION, _COMMAND, _CP = "ours", "ours, command line", "cp -r"
_TITLES = {
    "up": "{what} from memory to rclone's S3 server",
    "down": "{what} from rclone's S3 server into files in memory",
    "files": "{what}, files in memory to files in memory",
}
_WHAT = {"small": "2,000 files of 64 KiB", "big": "4 files of 256 MiB"}
_RCLONE_FLAGS = ("--use-server-modtime", "--s3-no-head-object")
_RCLONE: tuple[Setting, ...] = ({"transfers": 4}, {"transfers": 32}, {"transfers": 32, "flags": _RCLONE_FLAGS})
_ABOUT = (
    "Each pass goes to a new place, which is taken away after the clock has stopped. Programs are started each time,"
    " as people do; their memory is their own peak. The server runs on the same two cores."
)


def _lanes(way: str) -> tuple[Lane, ...]:
    lanes = (
        Lane(_FUNCTION, OURS, "transfer"),
        Lane(_COMMAND, OURS, "transfer_by_command", kin="command"),
        Lane(f"{RCLONE} copy", RCLONE, "transfer", _RCLONE, kin="command"),
    )
    if way == "files":
        return (*lanes, Lane(_CP, RCLONE, "plain_copy", kin="command"))
    return (
        *lanes,
        Lane("aws s3 cp", AWSCLI, "transfer", kin="command", most_rounds=3),
        Lane(S3FS, S3FS, "transfer", most_rounds=3),
        Lane(ORIGINAL, ORIGINAL, "transfer"),
    )


def _work(way: str, name: str) -> Work:
    lanes = _lanes(way)
    others = [lane for lane in lanes if lane.contender != OURS and lane.label != _CP]
    tools = tuple(lane.label for lane in others if lane.kin == "command")
    many = name == "small"
    return Work(
        name=f"transfer_{way}_{name}",
        title=_TITLES[way].format(what=_WHAT[name]),
        figure="ops_per_second" if many else "gib_per_second",
        unit="files/s" if many else "GiB/s",
        endpoint=SERVER,
        params={"set": name, "way": way},
        rounds=5,
        about=_ABOUT,
        lanes=lanes,
        targets=(
            Target(f"{way}, {name} files: ahead of all", _FUNCTION, tuple(lane.label for lane in others), at_least=1.0),
            Target(f"{way}, {name} files, by the command line: ahead of other programs", _COMMAND, tools, at_least=1.0),
        ),
    )


TRANSFER_WORKS = tuple(_work(way, name) for way in ("up", "down", "files") for name in SETS)
