"""What of a mapping of options is a dataset's, where those of a loader lie beside them.

Floor 5. Knows the names alone; must not know what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s3dlio.errors import OptionError
from s3dlio.loader_options import PyLoaderOptions

#: What a mapping of options may hold for a dataset.
DATASET_OPTIONS = ("pattern", "transform", "format", "key", "on_error", "index_progress")


def dataset_options(opts: object) -> dict[str, Any]:
    """Return what in a mapping of options is for datasets.

    Raises:
        OptionError: It is no mapping, or something in it is for neither datasets nor loaders.
    """
    if opts is None or isinstance(opts, PyLoaderOptions):
        return {}
    if not isinstance(opts, Mapping):
        msg = f"opts must be a mapping of options, not {type(opts).__name__}"
        raise OptionError(msg)
    ours = {name: value for name, value in opts.items() if name in DATASET_OPTIONS}
    PyLoaderOptions(**{name: value for name, value in opts.items() if name not in ours})
    return ours
