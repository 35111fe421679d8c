"""Which part of the samples this process reads: its place among TensorFlow's workers.

Floor 6. Reads TensorFlow's placement and nothing else; the arithmetic is :mod:`s3dlio.shards`.
"""

from __future__ import annotations

import tensorflow as tf

from s3dlio.errors import OptionError
from s3dlio.shards import Shard

_CHIEFS = ("chief", "master")


def rank() -> Shard:
    """Return this process's rank: of the strategy in scope, else of ``TF_CONFIG``, else the only one.

    Ranks are counted as ``tf.distribute`` does: the chief, then the workers. An evaluator, and whoever takes
    part in training with parameter servers, reads everything.

    Raises:
        OptionError: ``TF_CONFIG`` cannot be understood.
    """
    resolver = tf.distribute.get_strategy().cluster_resolver or tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        cluster = resolver.cluster_spec().as_dict()
        kind, index = resolver.task_type, resolver.task_id
    except (ValueError, TypeError, AttributeError) as error:
        msg = f"TF_CONFIG does not tell which worker this process is ({error}): mend it, or give rank= and world_size="
        raise OptionError(msg) from error
    chiefs = sum(len(cluster.get(name, ())) for name in _CHIEFS)
    count = chiefs + len(cluster.get("worker", ()))
    if kind not in (*_CHIEFS, "worker") or "ps" in cluster or index is None:
        return Shard()
    return Shard(index + (chiefs if kind == "worker" else 0), max(1, count))
