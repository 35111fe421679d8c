"""Values out of a pickle, without running what is in it: what stands beside the tensors in a checkpoint.

Floor 6. Knows which classes are nothing but data; must not know where the bytes come from.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import threading
from typing import Any

import torch

from s3dlio.errors import CheckpointError

#: Beyond what torch takes for safe: to make one of these runs no code of a checkpoint's. Trainers keep histories of
#: losses in a ``BytesIO``, which torch's own examples do as well.
_DATA = (
    io.BytesIO, frozenset, range, slice,
    dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone,
)  # fmt: skip
#: torch's list of safe classes belongs to the process, and is put back as it was.
_LOCK = threading.Lock()
#: What torch says of a class, in the midst of advice on its own options.
_REFUSED = re.compile(r"WeightsUnpickler error: (?P<why>[^\n]*?)(\. Please use|\n|$)")


def unpickled(data: io.BytesIO) -> Any:
    """Return what ``torch.save`` has written, of plain values, tensors, and classes that were named safe.

    Raises:
        CheckpointError: There is something else in it; the message names the class.
    """
    try:
        with _LOCK, torch.serialization.safe_globals(list(_DATA)):
            return torch.load(data, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle's, its own and others, as the bytes will have it
        told = _REFUSED.search(str(error))
        reason = told["why"] if told else str(error).partition("\n")[0]
        msg = (
            f"it is no tensor and cannot be unpickled safely ({reason:.200}): name its classes by "
            "torch.serialization.add_safe_globals, or give allow_pickle=True if you trust whoever has written it"
        )
        raise CheckpointError(msg) from error
