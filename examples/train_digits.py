"""Train a network on handwritten digits that live in an S3 bucket: the main job, end to end.

Starts a real S3 server on this machine, uploads scikit-learn's bundled digits as NPZ objects, and trains from
there through a DataLoader with two workers, in a process of its own that saves a checkpoint after each epoch. In the
midst of an epoch that process is killed; the next one takes up the last checkpoint and goes on. At the end the
network is tested on images it has not seen. Run by `make demo`.
"""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any

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
CHECKPOINTS = f"{BUCKET}/checkpoints/"
EPOCHS = 20
#: In this epoch the first trainer is killed.
FATAL_EPOCH = 8
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
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


def train(console: Console, *, is_doomed: bool) -> None:
    """Train from the last checkpoint on, if there is one, and save one after each epoch."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    store = s3dlio.CheckpointStore(CHECKPOINTS, keep_last=2)
    losses: list[float] = []
    if store.list():
        saved = store.load(into={"model": model.state_dict()}, keys=["model", "losses"])
        optimizer.load_state_dict(store.load(keys="optimizer")["optimizer"])
        losses = saved["losses"]
    dataset = S3IterableDataset(f"{BUCKET}/train/", pattern="*.npz", shuffle=True, seed=1)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=2)
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]:>2}/{task.fields[epochs]}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"), TimeElapsedColumn(), console=console,
    )  # fmt: skip
    began = time.perf_counter()
    first = len(losses)
    with bar:
        task = bar.add_task(
            "", total=EPOCHS * len(dataset), completed=first * len(dataset), epoch=first, epochs=EPOCHS, loss=0.0
        )
        for epoch in range(first, EPOCHS):
            dataset.set_epoch(epoch)
            total = 0.0
            for number, batch in enumerate(loader):
                if is_doomed and epoch == FATAL_EPOCH and number == len(dataset) // BATCH // 2:
                    bar.stop()
                    os.kill(os.getpid(), signal.SIGKILL)
                loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch["label"])
                bar.update(task, advance=len(batch["label"]), epoch=epoch + 1, loss=loss.item())
            losses.append(total / len(dataset))
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            store.save(step=epoch, data=state, epoch=epoch)
    rate = (EPOCHS - first) * len(dataset) / (time.perf_counter() - began)
    console.print(f"training     {rate:,.0f} samples/s, a checkpoint each epoch")


def run_trainer(*options: str) -> int:
    """Train in a process of its own; return its exit code."""
    command = [sys.executable, __file__, "--train", *options]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - this very program


def curve(losses: list[float]) -> str:
    """Return the losses of all epochs as a line of bars, on a logarithmic scale."""
    bars = "▁▂▃▄▅▆▇█"
    logs = [math.log(max(loss, 1e-9)) for loss in losses]
    low, span = min(logs), max(logs) - min(logs) or 1.0
    return "".join(bars[round((value - low) / span * (len(bars) - 1))] for value in logs)


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
    with S3Server() as server, server.activate():
        console.print(f"S3 server on {server.endpoint_url}")
        train_count, test_count = upload()
        console.print(f"uploaded {train_count} training and {test_count} test images, one object each")
        killed = run_trainer("--doomed")
        done = s3dlio.CheckpointStore(CHECKPOINTS).list()[-1].step + 1
        console.print(
            f"the trainer was killed in epoch {FATAL_EPOCH + 1} (exit code {killed}); {done} epochs are saved"
        )
        again = run_trainer()
        model = network()
        saved: dict[str, Any] = s3dlio.CheckpointStore(CHECKPOINTS).load(keys=["model", "losses"])
        model.load_state_dict(saved["model"])
        share = accuracy(model)
        samples_s, mb_s = read_rate()
    losses = saved["losses"]
    console.print(f"reading only {samples_s:,.0f} samples/s, {mb_s:.1f} MB/s (objects of 1 kB)")
    bars = curve(losses)
    console.print(f"loss         {bars[:done]}|{bars[done:]} (log scale; killed and resumed at the bar)")
    good = share > WANTED_ACCURACY and again == 0 and killed == -signal.SIGKILL and len(losses) == EPOCHS
    console.print(f"test accuracy [{'bold green' if good else 'bold red'}]{share:.1%}[/]")
    return 0 if good else 1


if __name__ == "__main__":
    if "--train" in sys.argv:
        sys.exit(train(Console(), is_doomed="--doomed" in sys.argv))
    sys.exit(main())
