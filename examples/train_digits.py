"""Train a network on handwritten digits that live in an S3 bucket: the main job, end to end.

Starts a real S3 server on this machine, uploads scikit-learn's bundled digits as NPZ objects, trains
from there through a DataLoader with two workers, and tests on images it has not seen. Run by `make demo`.
"""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.testing import S3Server
from s3dlio.torch import S3IterableDataset, S3MapDataset

BUCKET = "s3://digits"
EPOCHS = 20
BATCH = 32
WANTED_ACCURACY = 0.95


def upload() -> tuple[int, int]:
    """Put every image into an object of its own; return how many train and test."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    split = len(order) * 4 // 5
    items = []
    for position, number in enumerate(order):
        packed = io.BytesIO()
        image = (digits.images[number] / 16).astype(np.float32)
        np.savez(packed, image=image, label=np.int64(digits.target[number]))
        folder = "train" if position < split else "test"
        items.append((f"{BUCKET}/{folder}/{position:04d}.npz", packed.getbuffer()))
    s3dlio.create_bucket("digits")
    s3dlio.put_many(items)
    return split, len(order) - split


def network() -> nn.Module:
    """Return a small convolutional network."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10),
    )  # fmt: skip


def train(model: nn.Module, console: Console) -> float:
    """Train for some epochs, streaming the samples anew in each; return samples per second."""
    dataset = S3IterableDataset(f"{BUCKET}/train/", pattern="*.npz", shuffle=True, seed=1)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]:>2}/{task.fields[epochs]}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"), TimeElapsedColumn(), console=console,
    )  # fmt: skip
    seen = 0
    began = time.perf_counter()
    with bar:
        task = bar.add_task("", total=EPOCHS * len(dataset), epoch=0, epochs=EPOCHS, loss=0.0)
        for epoch in range(EPOCHS):
            dataset.set_epoch(epoch)
            for batch in loader:
                loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += len(batch["label"])
                bar.update(task, completed=seen, epoch=epoch + 1, loss=loss.item())
    return seen / (time.perf_counter() - began)


def accuracy(model: nn.Module) -> float:
    """Return the share of test images that are recognised."""
    model.eval()
    right = total = 0
    with torch.no_grad():
        for batch in DataLoader(S3MapDataset(f"{BUCKET}/test/"), batch_size=128):
            right += int((model(batch["image"]).argmax(1) == batch["label"]).sum())
            total += len(batch["label"])
    return right / total


def read_rate() -> tuple[float, float]:
    """Return samples and megabytes per second of reading alone, as a DataLoader sees them."""
    dataset = S3IterableDataset(f"{BUCKET}/train/", return_type="view", format="raw")
    began = time.perf_counter()
    sizes = [len(view) for view in dataset]
    seconds = time.perf_counter() - began
    return len(sizes) / seconds, sum(sizes) / seconds / 1e6


def main() -> int:
    """Run the demonstration; return 0 if the network has learnt to read."""
    console = Console()
    torch.manual_seed(0)
    with S3Server() as server, server.activate():
        console.print(f"S3 server on {server.endpoint_url}")
        train_count, test_count = upload()
        console.print(f"uploaded {train_count} training and {test_count} test images, one object each")
        model = network()
        rate = train(model, console)
        share = accuracy(model)
        samples_s, mb_s = read_rate()
    console.print(f"training     {rate:,.0f} samples/s")
    console.print(f"reading only {samples_s:,.0f} samples/s, {mb_s:.1f} MB/s (objects of 1 kB)")
    good = share > WANTED_ACCURACY
    console.print(f"test accuracy [{'bold green' if good else 'bold red'}]{share:.1%}[/]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
