"""What holds for the verbs that are called in a context: the settings of stores, and what stops them.

Floor 6. Knows context variables; must not know any verb. A verb that moves no bytes through here needs this alone.
"""

from __future__ import annotations

from contextvars import ContextVar

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.options import StoreOptions
from s3dlio.stores import open_store as shared_store
from s3dlio.stores.base import Store
from s3dlio.uri import Uri

#: Stops the verbs called in this context; set by the ``_async`` twins.
context_token: ContextVar[CancellationToken | None] = ContextVar("s3dlio_token", default=None)
#: Settings of the store that the verbs called in this context use; set by :class:`ObjectStore`.
context_options: ContextVar[StoreOptions | None] = ContextVar("s3dlio_options", default=None)


def store_of(uri: Uri) -> Store:
    """Return the store for a URI, with the settings of the current context."""
    return shared_store(uri, context_options.get())


def current_token() -> CancellationToken:
    """Return what stops the verbs called in the current context."""
    return context_token.get() or CREW.get().token
