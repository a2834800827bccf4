"""Speed and memory of the training loop on random data of the size of s-Aff-Wild2.

python benchmarks/training.py [--encoders gru lstm transformer] [--rounds 3]

The data are 307 training videos with 142,333 frames, lognormal lengths (sigma 0.8) and random
float16 features of width 768 + 1024 + 512; the hidden size is 128. Three loops train the same model
on one thread:

- ours: an epoch of ``mtl.training.trainer.Trainer``;
- the ceiling: half an epoch's steps on batches of the same size, which were made before training
  and have no padding; an upper bound of the speed;
- the scheme of the authors who won the challenge, reimplemented: batches of eight whole videos,
  padded to the longest video, are processed window by window with carried state and one step of
  ``torch.optim.Adam`` per window. The ceiling's gain in speed over this scheme is printed too,
  because our gain cannot be larger.

The loops' speeds are compared in frames/s, not counting padding frames; the results are medians
over rounds of the ratios. In each round the ceiling and the authors' scheme run half before and
half after our loop, so that changes in the machine's speed affect all three.

Also measured: the time of scoring the validation videos (26,876 frames) relative to an epoch's
training, and the memory of the features: the proportional set size of a process that reads and
trains, minus that of a process on features of width 1, divided by the features' size on disk.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tree_memory import memory_bytes

from mtl.dataset import Dataset, Listing, open_dataset, write_dataset
from mtl.models.frameworks import States
from mtl.sequences.windows import WindowBatch
from mtl.training.trainer import Trainer
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.train import FeatureFiles

SEED = 0
WIDTHS = {"mae": 768, "iresnet": 1024, "densenet": 512}
VIDEOS, FRAMES, SIGMA = 307, 142_333, 0.8
VALIDATION_VIDEOS, VALIDATION_FRAMES = 58, 26_876
LEAST_OF_CEILING, MOST_MEMORY, MOST_EVALUATION = 0.9, 1.5, 0.15
GAIN = {"gru": 1.2, "lstm": 1.2, "transformer": 1.0}
"""Required gain in speed over the challenge winners' training scheme, by encoder.

The gain must be at least this number times the scheme's number of frames with padding divided by
the number of frames without padding.
"""


def lengths(random: np.random.Generator, videos: int, frames: int) -> np.ndarray:
    """Draw the lengths of videos, in frames, from a lognormal distribution.

    Args:
        random: Source of the random draws.
        videos: Number of videos.
        frames: Required sum of the lengths.
    """
    drawn = random.lognormal(0, SIGMA, videos)
    rounded = np.maximum(2, drawn / drawn.sum() * frames).astype(int)
    rounded[rounded.argmax()] += frames - rounded.sum()
    return rounded


def make_dataset(out: Path, widths: dict[str, int]) -> Dataset:
    """Write a dataset of random features and labels; half of the labels are missing.

    Args:
        out: Dataset directory to write.
        widths: Number of features, by feature set.
    """
    random = np.random.default_rng(SEED)
    sizes = [
        *lengths(random, VIDEOS, FRAMES),
        *lengths(random, VALIDATION_VIDEOS, VALIDATION_FRAMES),
    ]
    splits = ("train",) * VIDEOS + ("validation",) * VALIDATION_VIDEOS
    names = tuple(f"video_{number:03d}" for number in range(len(sizes)))
    video = np.repeat(np.arange(len(names), dtype=np.int32), sizes)
    frame = np.concatenate([np.arange(1, size + 1, dtype=np.int32) for size in sizes])
    values = random.integers(0, 2, (len(video), 15)).astype(np.float32)
    mask = random.random(values.shape) < 0.5
    listing = Listing(names, splits, names, video, frame, values, mask)

    def rows(width: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for name, size in zip(names, sizes, strict=True):
            drawn = random.standard_normal((size, width), np.float32)
            yield name, np.arange(1, size + 1, dtype=np.int32), drawn.astype(np.float16)

    sets = {name: rows(width) for name, width in widths.items()}
    return write_dataset(out, listing, sets, sources={"made by": __file__})


def make_trainer(dataset: Dataset, encoder: str) -> Trainer:
    """Return a trainer for a model with a given encoder on all feature sets of a dataset.

    Args:
        dataset: The dataset.
        encoder: Name of the encoder, such as ``gru``.
    """
    sets = ",".join(dataset.feature_sets())
    overrides = [f"encoder={encoder}", "encoder.hidden=128", f"features=[{sets}]"]
    config = compose([*overrides, "training.precision=float32", "training.device=cpu"])
    listing = dataset.listing()
    # As in a sweep without `confirm`, all validation frames are scored after each epoch.
    parts = divide(listing, 0.0, SEED)
    return Trainer(
        config, SlotData(FeatureFiles(dataset, listing), listing, parts).for_trial(config)
    )


def ours(trainer: Trainer) -> float:
    """Train one epoch with this project's training loop and return the frames/s.

    Args:
        trainer: Trainer of the model and the data.
    """
    epoch = trainer._train_epoch(1, lambda: False)
    assert epoch is not None
    return float(epoch["frames"] / epoch["seconds"])


def ceiling(trainer: Trainer) -> tuple[int, float]:
    """Time half an epoch's training steps on full batches made in advance.

    No time is spent on making batches or on padding, so the speed is an upper bound for any loop.

    Args:
        trainer: Trainer of the model and the data.

    Returns:
        Number of trained frames, and seconds.
    """
    lanes, window = trainer.config.optim.batch_videos, trainer.config.sequence.window_frames
    steps = len(trainer._schedule(1)) // 2
    lengths = np.array([len(sequence) for sequence in trainer.data.train])
    longest = np.argsort(-lengths)[:lanes]
    starts = np.minimum(window * np.arange(8)[:, None], lengths[longest] - window)
    ready = [
        trainer.batches.cut(np.stack([longest, start, np.full(lanes, window)], axis=1)[:, None])
        for start in starts
    ]
    trainer.model.train()
    states: States = {}
    started = time.perf_counter()
    for step in range(steps):
        _, states = trainer._step(ready[step % len(ready)], states, None)
    return steps * lanes * window, time.perf_counter() - started


def authors(trainer: Trainer, half: int) -> tuple[int, int, float]:
    """Train on half of an epoch's batches as the challenge's winning authors do in their code.

    A batch holds whole videos, padded to the longest one, and is trained window by window.

    Args:
        trainer: Trainer of the model and the data.
        half: 0 for every second batch from the first, 1 for the other batches.

    Returns:
        Number of frames without padding, number with padding, and seconds.
    """
    lanes, window = trainer.config.optim.batch_videos, trainer.config.sequence.window_frames
    train = trainer.data.train
    order = np.random.default_rng(SEED).permutation(len(train))
    mean, inverse_std = trainer.batches.mean, trainer.batches.inverse_std
    model, clip = trainer.model.train(), trainer.config.optim.gradient_clip
    optimizer = torch.optim.Adam(model.parameters(), lr=trainer.config.optim.lr)
    frames = padded = 0
    started = time.perf_counter()
    for first in range(half * lanes, len(order), 2 * lanes):
        videos = [train[i] for i in order[first : first + lanes]]
        longest = max(map(len, videos))
        x = np.zeros((len(videos), longest, len(mean)), np.float32)
        labels, mask = (np.zeros((len(videos), longest, 15), kind) for kind in (np.float32, bool))
        valid = np.zeros((len(videos), longest), bool)
        for lane, video in enumerate(videos):
            sets = [rows.window(0, len(video)) for rows in video.features]
            x[lane, : len(video)] = np.concatenate(sets, axis=1)
            labels[lane, : len(video)], mask[lane, : len(video)] = video.labels, video.mask
            valid[lane, : len(video)] = True
        batch_of_videos = WindowBatch(
            (torch.from_numpy(x) - mean) * inverse_std,
            torch.from_numpy(valid),
            torch.from_numpy(labels),
            torch.from_numpy(mask),
            torch.zeros(valid.shape, dtype=torch.bool),
        )
        states: States = {}
        for start in range(0, longest, window):
            part = slice(start, start + window)
            batch = WindowBatch(
                batch_of_videos.x[:, part],
                batch_of_videos.valid[:, part],
                batch_of_videos.labels[:, part],
                batch_of_videos.mask[:, part],
                batch_of_videos.sequence_starts[:, part],
            )
            outputs, states = model(batch.x, batch.valid, states)
            losses, _ = trainer._losses(outputs, batch)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        frames += int(valid.sum())
        padded += valid.size
    return frames, padded, time.perf_counter() - started


def evaluation_share(trainer: Trainer) -> float:
    """Return the time of scoring all validation frames divided by an epoch's training time.

    Args:
        trainer: Trainer of the model and the data.
    """
    started = time.perf_counter()
    trainer._score_select(1)
    scoring = time.perf_counter() - started
    epoch = trainer._train_epoch(1, lambda: False)
    assert epoch is not None
    return float(scoring / epoch["seconds"])


def measure(dataset: Dataset, encoder: str, rounds: int) -> dict[str, float]:
    """Measure the training speed of one encoder with three training loops.

    The loops are this project's ("ours"), steps on batches made in advance without padding ("the
    ceiling", an upper bound of the speed), and the scheme of the authors who won the challenge.

    Args:
        dataset: The dataset.
        encoder: Name of the encoder, such as ``gru``.
        rounds: Number of rounds; in each, all loops run.

    Returns:
        Medians over rounds: frames/s of the loops (``ours``, ``ceiling``, ``authors``); our speed
        divided by the ceiling's (``of_ceiling``) and by that of the authors' scheme (``gain``); the
        ceiling's speed divided by that of the authors' scheme (``most_gain``); in the authors'
        scheme, frames with padding divided by frames without (``padding``); the time of scoring all
        validation frames divided by our time for a training epoch (``evaluation``).
    """
    trainer = make_trainer(dataset, encoder)
    by_key: dict[str, list[float]] = {}
    for number in range(rounds):
        padded, ready = [authors(trainer, half=0)], [ceiling(trainer)]
        rates = {"ours": ours(trainer)}
        ready.append(ceiling(trainer))
        padded.append(authors(trainer, half=1))
        valid, with_padding, seconds = map(sum, zip(*padded, strict=True))
        frames, ready_seconds = map(sum, zip(*ready, strict=True))
        rates |= {"ceiling": frames / ready_seconds, "authors": valid / seconds}
        rates |= {
            "padding": with_padding / valid,
            "of_ceiling": rates["ours"] / rates["ceiling"],
            "most_gain": rates["ceiling"] / rates["authors"],
            "gain": rates["ours"] / rates["authors"],
            "evaluation": evaluation_share(trainer),
        }
        print(encoder, number + 1, rates, flush=True)
        for key, value in rates.items():
            by_key.setdefault(key, []).append(value)
    return {key: round(statistics.median(values), 3) for key, values in by_key.items()}


def train_once(folder: str, peak: Any) -> None:
    """Read all features of a dataset, train for 40 steps, and store this process's memory.

    Args:
        folder: Dataset directory.
        peak: Shared number (``multiprocessing.Value``) in which the process's proportional set size
            after training is stored, in bytes.
    """
    torch.set_num_threads(1)
    trainer = make_trainer(open_dataset(folder), "gru")
    steps = trainer._schedule(1)[:40]
    states: States = {}
    trainer.model.train()
    for windows in steps:
        _, states = trainer._step(trainer.batches.cut(windows), states, None)
    peak.value = memory_bytes([os.getpid()])


def memory(folder: Path) -> dict[str, float]:
    """Measure the memory of a training process on wide features and of one on features of width 1.

    Args:
        folder: Parent folder of the two datasets, ``wide`` and ``narrow``.

    Returns:
        Memory of the process on wide features (``wide``) and of the process on features of width 1
        (``narrow``), and size of the wide features on disk (``features``), in GiB; and ``wide``
        minus ``narrow``, divided by ``features`` (``ratio``).
    """
    spawn = multiprocessing.get_context("spawn")
    gib = {}
    for name in ("wide", "narrow"):
        peak = spawn.Value("d", 0.0)
        process = spawn.Process(target=train_once, args=(str(folder / name), peak))
        process.start()
        process.join()
        assert process.exitcode == 0
        gib[name] = peak.value / 2**30
    stored = (FRAMES + VALIDATION_FRAMES) * sum(WIDTHS.values()) * 2 / 2**30
    return {**gib, "features": stored, "ratio": (gib["wide"] - gib["narrow"]) / stored}


def main() -> None:
    """Measure speed and memory of the training loop; print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoders", nargs="+", choices=GAIN, default=tuple(GAIN))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wide = make_dataset(folder / "wide", WIDTHS)
        make_dataset(folder / "narrow", dict.fromkeys(WIDTHS, 1))
        spent = memory(folder)
        results = {name: measure(wide, name, args.rounds) for name in args.encoders}
    print(
        "| encoder | frames/s | of the ceiling (>= 0.9) | gain (limit) | the ceiling's | padding |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, r in results.items():
        limit = GAIN[name] * r["padding"]
        print(
            f"| {name} | {r['ours']:,.0f} | {r['of_ceiling']:.3f} | "
            f"{r['gain']:.2f} ({limit:.2f}) | {r['most_gain']:.2f} | {r['padding']:.2f} |"
        )
    shares = ", ".join(f"{name} {r['evaluation']:.3f}" for name, r in results.items())
    print(f"evaluation over training, at most {MOST_EVALUATION}: {shares}")
    print(f"memory over features, at most {MOST_MEMORY}: {spent['ratio']:.3f}")
    print(json.dumps({"benchmark": "training", "memory": spent, **results}))


if __name__ == "__main__":
    main()
