"""boto3: the client that everybody has, in threads, with its optional response checksums off.

For: the common ground. Must not know: how it is timed.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from benchmarks import dcp_works, file_works
from benchmarks.crowd import share
from benchmarks.imports import importing
from benchmarks.listing_pages import PREFIX, listing
from benchmarks.npz_works import open_boto3, reading_all
from benchmarks.objects import BIG_KEY, BUCKET
from benchmarks.put_works import Pieces, writing
from benchmarks.worker import Action, Haul, Job, held, held_whole, serve

_PART = 8 * 1024 * 1024


@cache
def _client(endpoint: str) -> Any:
    config = Config(
        max_pool_connections=256,
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=endpoint, config=config)


def small(job: Job) -> Action:
    """All objects, whole, by threads that share one client."""
    client, keys = _client(job.endpoint), job.object_keys()

    def take(index: int) -> bytes:
        body: bytes = client.get_object(Bucket=BUCKET, Key=keys[index])["Body"].read()
        return body

    return lambda: held(share(take, job.indices(), job.setting["in_flight"]))


def big(job: Job) -> Action:
    """The big object: one stream read whole, or the transfer manager's parts into memory."""
    client = _client(job.endpoint)

    def stream() -> Any:
        return client.get_object(Bucket=BUCKET, Key=BIG_KEY)["Body"].read()

    def transfer() -> Any:
        target = io.BytesIO()
        config = TransferConfig(multipart_chunksize=_PART, max_concurrency=job.setting["in_flight"])
        client.download_fileobj(BUCKET, BIG_KEY, target, Config=config)
        return target.getbuffer()

    def action() -> Haul:
        return held_whole(transfer() if job.setting["mode"] == "transfer" else stream())

    return action


def put_parts(job: Job) -> Action:
    """By `upload_part` in threads."""
    client = _client(job.endpoint)

    def write(key: str, count: int, memory: memoryview) -> None:
        data = bytes(memory)
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]

        def send(number: int) -> dict[str, Any]:
            answer = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=data)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        parts = share(send, range(1, count + 1), job.setting["in_flight"])
        client.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})

    return writing(job, write)


def put_file(job: Job) -> Action:
    """By `upload_fileobj`: the transfer manager reads a file-like object."""
    client = _client(job.endpoint)

    def write(key: str, count: int, memory: memoryview) -> None:
        config = TransferConfig(
            multipart_threshold=len(memory),
            multipart_chunksize=len(memory),
            max_concurrency=job.setting["in_flight"],
            preferred_transfer_client="classic",
        )
        client.upload_fileobj(Pieces(memory, count), BUCKET, key, Config=config)

    return writing(job, write)


def list_all(job: Job) -> Action:
    """By its paginator: the keys of its dictionaries."""
    client = _client(job.endpoint)

    def take() -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=PREFIX, PaginationConfig={"MaxItems": job.params["listed"]}
        )
        return [entry["Key"] for page in pages for entry in page["Contents"]]

    return listing(job, take, list, len)


WORKS = {
    "file_row": file_works.boto3,
    "list_all": list_all,
    "put_parts": put_parts,
    "put_file": put_file,
    "small": small,
    "big": big,
    "import": importing("boto3"),
    "npz_all": lambda job: reading_all(job, open_boto3),
    **dcp_works.BOTO3_WORKS,
}

if __name__ == "__main__":
    serve(WORKS, ("boto3", "botocore"))
