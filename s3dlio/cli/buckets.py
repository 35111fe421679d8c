"""Commands on buckets and containers: list-buckets, create-bucket, delete-bucket.

Floor 7. Knows what is asked for and shown; must not know any backend.
"""

from __future__ import annotations

from typing import Annotated

from s3dlio.cli import show
from s3dlio.cli.session import current
from s3dlio.cli.words import Argument

Name = Annotated[str, Argument(metavar="BUCKET", help="A URI such as gs://name, or the name of an S3 bucket.")]


def list_buckets(
    uri: Annotated[str, Argument(metavar="[URI]", help="A scheme such as gs:// or az://account.")] = "s3://",
) -> None:
    """List the buckets or containers that the credentials can see."""
    from s3dlio import buckets

    for found in buckets.list_containers(uri):
        if current().as_json:
            show.json_line({"uri": found}, now=False)
        else:
            show.line(found, now=False)


def create_bucket(bucket: Name) -> None:
    """Create a bucket or container."""
    from s3dlio import buckets

    buckets.create_bucket(bucket)


def delete_bucket(bucket: Name) -> None:
    """Delete an empty bucket or container."""
    from s3dlio import buckets

    buckets.delete_bucket(bucket)
