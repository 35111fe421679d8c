"""Commands on buckets and containers: list-buckets, create-bucket, delete-bucket.

Floor 7. Knows what is asked for and shown; must not know any backend.
"""

from __future__ import annotations

import click

from s3dlio.cli import show
from s3dlio.cli.session import current, with_common_options
from s3dlio.uri import from_path_or_uri

_bucket = click.argument("bucket", help="A URI such as gs://name, or the name of an S3 bucket.")


@click.command("list-buckets")
@click.argument("uri", default="s3://", help="A scheme such as gs:// or az://account; or a directory.")
@with_common_options
def list_buckets(uri: str) -> None:
    """List the buckets or containers that the credentials can see."""
    from s3dlio import buckets

    for found in buckets.list_containers(from_path_or_uri(uri)):
        if current().as_json:
            show.json_line({"uri": found}, now=False)
        else:
            show.line(found, now=False)


@click.command("create-bucket")
@_bucket
@with_common_options
def create_bucket(bucket: str) -> None:
    """Create a bucket or container."""
    from s3dlio import buckets

    buckets.create_bucket(bucket)


@click.command("delete-bucket")
@_bucket
@with_common_options
def delete_bucket(bucket: str) -> None:
    """Delete an empty bucket or container."""
    from s3dlio import buckets

    buckets.delete_bucket(bucket)
