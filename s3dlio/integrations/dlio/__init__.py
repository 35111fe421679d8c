"""Puts this library's storage into a DLIO benchmark that does not bring its own: by the original's names.

Floor 6. Knows where DLIO keeps its storages; what they do is in ``s3dlio_storage``, which needs DLIO.
"""

from __future__ import annotations

import os
from pathlib import Path

from s3dlio.errors import OptionError

_MODULE = "s3dlio.integrations.dlio.s3dlio_storage"
_NEW = f'''"""DLIO's storage by s3dlio."""

from {_MODULE} import S3dlioStorage

__all__ = ["S3dlioStorage"]
'''
_INSTEAD = f'''"""DLIO's storage by s3dlio, under the name of the one that it replaces."""

from {_MODULE} import S3dlioStorage as S3PyTorchConnectorStorage

__all__ = ["S3PyTorchConnectorStorage"]
'''


def get_s3dlio_storage_path() -> str:
    """Return the path of the module that has the storage's class, ``S3dlioStorage``."""
    return str(Path(__file__).with_name("s3dlio_storage.py"))


def install_s3dlio_storage(dlio_path: str | os.PathLike[str]) -> str:
    """Write ``storage/s3dlio_storage.py`` into a DLIO, a module that leads here.

    DLIO uses it when two of its files are edited: ``S3DLIO = "s3dlio"`` among ``StorageType`` in
    ``common/enumerations.py``, and in ``StorageFactory.get_storage`` a branch that returns
    ``S3dlioStorage(namespace, framework)`` for it. :func:`install_dropin_replacement` needs no edit.

    Args:
        dlio_path: The folder ``dlio_benchmark`` that has ``storage`` in it.

    Returns:
        The path of the file.

    Raises:
        OptionError: There is no such folder.
    """
    return _write(dlio_path, "s3dlio_storage.py", _NEW)


def install_dropin_replacement(dlio_path: str | os.PathLike[str]) -> str:
    """Have a DLIO's ``storage_type: s3`` with PyTorch go through this library.

    Its ``storage/s3_torch_storage.py`` is kept beside as ``s3_torch_storage.py.original.bak`` and replaced by a module
    that leads here.

    Args:
        dlio_path: The folder ``dlio_benchmark`` that has ``storage`` in it.

    Returns:
        The path of the file.

    Raises:
        OptionError: There is no such folder.
    """
    return _write(dlio_path, "s3_torch_storage.py", _INSTEAD)


def _write(dlio_path: str | os.PathLike[str], name: str, text: str) -> str:
    folder = Path(dlio_path, "storage")
    if not folder.is_dir():
        msg = f"{folder} is no folder: dlio_path is that of the package dlio_benchmark"
        raise OptionError(msg, operation="install")
    file, kept = folder / name, folder / f"{name}.original.bak"
    if file.exists() and not kept.exists() and file.read_text() != text:
        file.rename(kept)
    file.write_text(text)
    return str(file)


install_to_dlio = install_dropin_replacement
