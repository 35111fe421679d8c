"""s3dlio: from object storage straight into the memory of PyTorch, JAX and TensorFlow.

The front door: a table from public name to the module that has it. Nothing heavy is imported before a
name is used, and no framework before one of its own names is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from s3dlio.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:  # what type checkers see of the table below
    # ruff: noqa: F401
    from collections.abc import Sequence

    from s3dlio.api import (
        ManyStats,
        exists,
        get,
        get_into,
        get_many,
        get_many_stats,
        get_range,
        put,
        put_bytes,
        put_many,
        stat,
        stat_many,
    )
    from s3dlio.arrays import read_npy, read_npz
    from s3dlio.async_loader import PackedBatch, create_async_loader
    from s3dlio.async_loader import create_async_loader as PyS3AsyncDataLoader  # noqa: N812 - a class in the original
    from s3dlio.awaitable import (
        abort_uploads_async,
        copy_async,
        delete_async,
        download_async,
        exists_async,
        get_async,
        get_into_async,
        get_many_async,
        get_many_stats_async,
        get_range_async,
        list_async,
        mkdir_async,
        put_async,
        put_bytes_async,
        put_many_async,
        stat_async,
        stat_many_async,
        upload_async,
    )
    from s3dlio.buckets import ObjectEntry, create_bucket, delete_bucket, iter_objects, list_containers, mkdir
    from s3dlio.buckets import list_uris as list  # noqa: A004 - the contract's name
    from s3dlio.buffers import BytesView
    from s3dlio.cancel import CancellationToken
    from s3dlio.checkpoint.manifest import Manifest, ShardInfo
    from s3dlio.checkpoint_reader import CheckpointReader
    from s3dlio.checkpoint_store import CheckpointInfo, CheckpointStore
    from s3dlio.checkpoint_writer import (
        CheckpointWriter,
        finalize_distributed_checkpoint,
        save_distributed_shard,
    )
    from s3dlio.checkpoints import load_checkpoint, load_checkpoint_with_validation, save_checkpoint
    from s3dlio.compat.addresses import (
        create_multi_endpoint_store,
        create_multi_endpoint_store_from_env,
        create_multi_endpoint_store_from_file,
        create_multi_endpoint_store_from_template,
    )
    from s3dlio.compat.checkpoints import (
        PyCheckpointInfo,
        PyCheckpointReader,
        PyCheckpointStore,
        PyCheckpointStream,
        PyCheckpointWriter,
    )
    from s3dlio.compat.datagen import Generator, py_default_data_gen_threads, py_total_cpus
    from s3dlio.compat.dlio import LoadedItem as PyObjectItem
    from s3dlio.compat.dlio import (
        PyBytesAsyncDataLoader,
        PyDataset,
        configure_for_concurrency,
        configure_tokio_threads,
        get_bytes,
        list_full_uris,
    )
    from s3dlio.compat.dlio import PyDataset as PyS3Dataset
    from s3dlio.compat.endpoints import MultiEndpointStore
    from s3dlio.compat.loaders import PyAsyncDataLoader, PyAsyncDataLoaderIter, PyVecDataset
    from s3dlio.compat.original import (
        AzureConfig,
        AzureObjectStore,
        DirectIOConfig,
        DirectIOObjectStore,
        FileSystemConfig,
        FileSystemObjectStore,
        GcsConfig,
        GcsObjectStore,
        ObjectNotFoundError,
        PyWriterOptions,
        RangeEngineConfig,
        S3Config,
        S3ObjectStore,
        get_by_key,
        get_object,
        list_keys,
        list_objects,
        parse_s3_uri_full,
        stat_key,
        stat_object,
    )
    from s3dlio.compat.parquet import (
        PyParquetIndex,
        parquet_cache_clear,
        parquet_cache_invalidate,
        parquet_cache_len,
        parquet_get_rg,
        parquet_rg_row_offsets,
    )
    from s3dlio.compat.parquet_files import (
        generate_and_write_parquet,
        generate_and_write_parquet_schema,
        generate_and_write_parquet_schema_streaming,
        generate_parquet_bytes,
        generate_parquet_bytes_schema,
    )
    from s3dlio.compat.settings import (
        configure_s3,
        gcs_get_channel_count,
        gcs_get_rapid_mode,
        gcs_set_channel_count,
        gcs_set_rapid_mode,
    )
    from s3dlio.datagen import (
        generate_blocks,
        generate_data,
        generate_data_with_threads,
        generate_into_buffer,
        generate_npz_bytes,
    )
    from s3dlio.dataset import ObjectDataset, create_dataset
    from s3dlio.errors import (
        AccessDeniedError,
        AlreadyExistsError,
        CancelledError,
        CheckpointError,
        ClosedError,
        ForkError,
        FormatError,
        IncompleteCheckpointError,
        IntegrityError,
        NotFoundError,
        NpzError,
        ObjectChangedError,
        OptionError,
        RangeError,
        S3dlioError,
        StoreError,
        StoreTimeoutError,
        StoreUnavailableError,
        TFRecordError,
        TransferError,
        UriError,
    )
    from s3dlio.formats.example import decode_example
    from s3dlio.formats.example_writing import encode_example
    from s3dlio.formats.sequence_example import SequenceExample, decode_sequence_example
    from s3dlio.hdf5 import open_hdf5
    from s3dlio.jax import S3JaxIterable
    from s3dlio.jax import S3JaxIterable as JaxIterable
    from s3dlio.loader_options import LoaderOptions, PyLoaderOptions
    from s3dlio.log_setup import init_logging
    from s3dlio.mp_reading import mp_get
    from s3dlio.multipart_writer import (
        MultipartUploadSink,
        MultipartUploadWriter,
        StreamingMultipartSink,
        UploadInfo,
    )
    from s3dlio.object_store import ObjectStore, open_store
    from s3dlio.object_writer import (
        ObjectWriter,
        WriterStats,
        create_azure_writer,
        create_direct_filesystem_writer,
        create_filesystem_writer,
        create_gcs_writer,
        create_s3_writer,
        create_writer,
    )
    from s3dlio.object_writer import ObjectWriter as PyObjectWriter
    from s3dlio.oplog import finalize_op_log, init_op_log, is_op_log_active
    from s3dlio.oplog_reading import plot_op_log, read_op_log, summarize_op_log
    from s3dlio.oplog_replay import replay_op_log
    from s3dlio.options import StoreOptions
    from s3dlio.record_writer import TFRecordWriter
    from s3dlio.removal import abort_uploads, delete
    from s3dlio.stores.base import Store
    from s3dlio.tf import make_tf_dataset
    from s3dlio.tfrecords import (
        create_tfrecord_index,
        get_tfrecord,
        get_tfrecord_index_entries,
        index_tfrecord_bytes,
        iter_tfrecords,
        read_tfrecord_index,
    )
    from s3dlio.torch import S3IterableDataset, S3MapDataset
    from s3dlio.torch import S3IterableDataset as ObjectStoreIterableDataset
    from s3dlio.torch import S3MapDataset as ObjectStoreMapDataset
    from s3dlio.transfer.plan import Failure as TransferFailure
    from s3dlio.transfers import TransferResult, copy, download, upload
    from s3dlio.writer_options import WriterOptions

_VERBS = (
    "ManyStats", "exists", "get", "get_into", "get_many", "get_many_stats", "get_range", "put",
    "put_bytes", "put_many", "stat", "stat_many",
)  # fmt: skip
_BUCKET_VERBS = ("ObjectEntry", "create_bucket", "delete_bucket", "iter_objects", "list_containers", "mkdir")
_AWAITABLE = (
    "abort_uploads_async", "copy_async", "delete_async", "download_async", "exists_async", "get_async", "get_into_async", "get_many_async", "get_many_stats_async",
    "get_range_async", "list_async", "mkdir_async", "put_async", "put_bytes_async", "put_many_async",
    "stat_async", "stat_many_async", "upload_async",
)  # fmt: skip
_ERRORS = (
    "AccessDeniedError", "AlreadyExistsError", "CancelledError", "CheckpointError", "ClosedError", "ForkError",
    "FormatError", "IncompleteCheckpointError", "IntegrityError", "NotFoundError", "NpzError", "ObjectChangedError",
    "OptionError", "RangeError", "S3dlioError", "StoreError", "StoreTimeoutError", "StoreUnavailableError",
    "TFRecordError", "TransferError", "UriError",
)  # fmt: skip

_ORIGINAL = (
    "AzureConfig", "AzureObjectStore", "DirectIOConfig", "DirectIOObjectStore", "FileSystemConfig",
    "FileSystemObjectStore", "GcsConfig", "GcsObjectStore", "ObjectNotFoundError", "PyWriterOptions", "RangeEngineConfig", "S3Config",
    "S3ObjectStore", "get_by_key", "get_object", "list_keys", "list_objects", "parse_s3_uri_full", "stat_key",
    "stat_object",
)  # fmt: skip

_DLIO = (
    "PyBytesAsyncDataLoader", "PyDataset", "configure_for_concurrency", "configure_tokio_threads", "get_bytes",
    "list_full_uris",
)  # fmt: skip

_PARQUET = (
    "PyParquetIndex", "parquet_cache_clear", "parquet_cache_invalidate", "parquet_cache_len", "parquet_get_rg",
    "parquet_rg_row_offsets",
)  # fmt: skip
_PARQUET_FILES = (
    "generate_and_write_parquet", "generate_and_write_parquet_schema", "generate_and_write_parquet_schema_streaming",
    "generate_parquet_bytes", "generate_parquet_bytes_schema",
)  # fmt: skip

_ADDRESSES = (
    "create_multi_endpoint_store", "create_multi_endpoint_store_from_env", "create_multi_endpoint_store_from_file",
    "create_multi_endpoint_store_from_template",
)  # fmt: skip
_ORIGINAL_CHECKPOINTS = (
    "PyCheckpointInfo", "PyCheckpointReader", "PyCheckpointStore", "PyCheckpointStream", "PyCheckpointWriter",
)  # fmt: skip
_ORIGINAL_DATAGEN = ("Generator", "py_default_data_gen_threads", "py_total_cpus")
_ORIGINAL_LOADERS = ("PyAsyncDataLoader", "PyAsyncDataLoaderIter", "PyVecDataset")
_ORIGINAL_SETTINGS = (
    "configure_s3", "gcs_get_channel_count", "gcs_get_rapid_mode", "gcs_set_channel_count", "gcs_set_rapid_mode",
)  # fmt: skip

_TFRECORDS = (
    "create_tfrecord_index", "get_tfrecord", "get_tfrecord_index_entries", "index_tfrecord_bytes", "iter_tfrecords",
    "read_tfrecord_index",
)  # fmt: skip

_TRANSFERS = ("TransferResult", "copy", "download", "upload")
_CHECKPOINTS = ("load_checkpoint", "load_checkpoint_with_validation", "save_checkpoint")
_MULTIPART = ("MultipartUploadSink", "MultipartUploadWriter", "StreamingMultipartSink", "UploadInfo")

_WRITERS = (
    "ObjectWriter", "WriterStats", "create_azure_writer", "create_direct_filesystem_writer",
    "create_filesystem_writer", "create_gcs_writer", "create_s3_writer", "create_writer",
)  # fmt: skip

_DATAGEN = (
    "generate_blocks", "generate_data", "generate_data_with_threads", "generate_into_buffer", "generate_npz_bytes",
)  # fmt: skip

_OPLOG = ("finalize_op_log", "init_op_log", "is_op_log_active")

#: Public name -> module and the name there.
_PLACES: dict[str, tuple[str, str]] = {
    **{name: ("s3dlio.api", name) for name in _VERBS},
    **{name: ("s3dlio.buckets", name) for name in _BUCKET_VERBS},
    **{name: ("s3dlio.awaitable", name) for name in _AWAITABLE},
    **{name: ("s3dlio.errors", name) for name in _ERRORS},
    **{name: ("s3dlio.compat.original", name) for name in _ORIGINAL},
    **{name: ("s3dlio.compat.dlio", name) for name in _DLIO},
    **{name: ("s3dlio.compat.parquet", name) for name in _PARQUET},
    **{name: ("s3dlio.compat.parquet_files", name) for name in _PARQUET_FILES},
    **{name: ("s3dlio.compat.addresses", name) for name in _ADDRESSES},
    **{name: ("s3dlio.compat.checkpoints", name) for name in _ORIGINAL_CHECKPOINTS},
    **{name: ("s3dlio.compat.datagen", name) for name in _ORIGINAL_DATAGEN},
    **{name: ("s3dlio.compat.loaders", name) for name in _ORIGINAL_LOADERS},
    **{name: ("s3dlio.compat.settings", name) for name in _ORIGINAL_SETTINGS},
    "PyObjectItem": ("s3dlio.compat.dlio", "LoadedItem"),
    "PyS3Dataset": ("s3dlio.compat.dlio", "PyDataset"),
    "PyS3AsyncDataLoader": ("s3dlio.async_loader", "create_async_loader"),
    "MultiEndpointStore": ("s3dlio.compat.endpoints", "MultiEndpointStore"),
    "open_hdf5": ("s3dlio.hdf5", "open_hdf5"),
    "init_logging": ("s3dlio.log_setup", "init_logging"),
    **{name: ("s3dlio.tfrecords", name) for name in _TFRECORDS},
    **{name: ("s3dlio.checkpoints", name) for name in _CHECKPOINTS},
    **{name: ("s3dlio.transfers", name) for name in _TRANSFERS},
    "TransferFailure": ("s3dlio.transfer.plan", "Failure"),
    "CheckpointInfo": ("s3dlio.checkpoint_store", "CheckpointInfo"),
    "CheckpointReader": ("s3dlio.checkpoint_reader", "CheckpointReader"),
    "CheckpointStore": ("s3dlio.checkpoint_store", "CheckpointStore"),
    "CheckpointWriter": ("s3dlio.checkpoint_writer", "CheckpointWriter"),
    "Manifest": ("s3dlio.checkpoint.manifest", "Manifest"),
    "ShardInfo": ("s3dlio.checkpoint.manifest", "ShardInfo"),
    "finalize_distributed_checkpoint": ("s3dlio.checkpoint_writer", "finalize_distributed_checkpoint"),
    "save_distributed_shard": ("s3dlio.checkpoint_writer", "save_distributed_shard"),
    **{name: ("s3dlio.object_writer", name) for name in _WRITERS},
    "PyObjectWriter": ("s3dlio.object_writer", "ObjectWriter"),
    "WriterOptions": ("s3dlio.writer_options", "WriterOptions"),
    **{name: ("s3dlio.multipart_writer", name) for name in _MULTIPART},
    **{name: ("s3dlio.datagen", name) for name in _DATAGEN},
    **{name: ("s3dlio.oplog", name) for name in _OPLOG},
    **{name: ("s3dlio.oplog_reading", name) for name in ("plot_op_log", "read_op_log", "summarize_op_log")},
    "mp_get": ("s3dlio.mp_reading", "mp_get"),
    "replay_op_log": ("s3dlio.oplog_replay", "replay_op_log"),
    "TFRecordWriter": ("s3dlio.record_writer", "TFRecordWriter"),
    "SequenceExample": ("s3dlio.formats.sequence_example", "SequenceExample"),
    "decode_example": ("s3dlio.formats.example", "decode_example"),
    "decode_sequence_example": ("s3dlio.formats.sequence_example", "decode_sequence_example"),
    "encode_example": ("s3dlio.formats.example_writing", "encode_example"),
    "read_npy": ("s3dlio.arrays", "read_npy"),
    "read_npz": ("s3dlio.arrays", "read_npz"),
    "LoaderOptions": ("s3dlio.loader_options", "LoaderOptions"),
    "PyLoaderOptions": ("s3dlio.loader_options", "PyLoaderOptions"),
    "PackedBatch": ("s3dlio.async_loader", "PackedBatch"),
    "create_async_loader": ("s3dlio.async_loader", "create_async_loader"),
    "list": ("s3dlio.buckets", "list_uris"),
    "BytesView": ("s3dlio.buffers", "BytesView"),
    "CancellationToken": ("s3dlio.cancel", "CancellationToken"),
    "ObjectDataset": ("s3dlio.dataset", "ObjectDataset"),
    "Store": ("s3dlio.stores.base", "Store"),
    "abort_uploads": ("s3dlio.removal", "abort_uploads"),
    "delete": ("s3dlio.removal", "delete"),
    "StoreOptions": ("s3dlio.options", "StoreOptions"),
    "create_dataset": ("s3dlio.dataset", "create_dataset"),
    "ObjectStore": ("s3dlio.object_store", "ObjectStore"),
    "open_store": ("s3dlio.object_store", "open_store"),
}
#: Names that need a framework. Not in ``__all__``, so that ``import *`` never imports one.
_FRAMEWORK_PLACES: dict[str, tuple[str, str]] = {
    "S3IterableDataset": ("s3dlio.torch", "S3IterableDataset"),
    "S3MapDataset": ("s3dlio.torch", "S3MapDataset"),
    "S3JaxIterable": ("s3dlio.jax", "S3JaxIterable"),
    "ObjectStoreIterableDataset": ("s3dlio.torch", "S3IterableDataset"),
    "ObjectStoreMapDataset": ("s3dlio.torch", "S3MapDataset"),
    "JaxIterable": ("s3dlio.jax", "S3JaxIterable"),
    "make_tf_dataset": ("s3dlio.tf", "make_tf_dataset"),
}

__all__ = ["__version__", *sorted(_PLACES)]  # noqa: PLE0604 - computed from the one table


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    try:
        module, attribute = _PLACES.get(name) or _FRAMEWORK_PLACES[name]
    except KeyError:
        import difflib  # noqa: PLC0415 - only for the message

        near = difflib.get_close_matches(name, [*_PLACES, *_FRAMEWORK_PLACES], n=1)
        hint = f"; did you mean {near[0]!r}?" if near and not name.startswith("_") else ""
        msg = f"module 's3dlio' has no attribute {name!r}{hint}"
        raise AttributeError(msg) from None
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> Sequence[str]:
    """List the public names."""
    return [*__all__, *_FRAMEWORK_PLACES]
