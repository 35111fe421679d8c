"""The TensorFlow room: a ``tf.data.Dataset`` of batches that come out of object storage.

Floor 6. ``import tensorflow`` in here means the framework: imports are absolute.
"""

from __future__ import annotations

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise  # TensorFlow is there, and broken: say how
    msg = "this part of s3dlio needs TensorFlow: pip install 's3dlio[tf]'"
    raise ModuleNotFoundError(msg, name="tensorflow") from error

from s3dlio.tf.dataset import S3TFDataset, make_tf_dataset

__all__ = ["S3TFDataset", "make_tf_dataset"]

del tf
