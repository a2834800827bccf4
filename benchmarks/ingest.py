"""Training speed with data from Ray's object store, relative to batches prepared in memory.

python benchmarks/ingest.py [--rounds 7]

In each round the training loop runs for two epochs over the same batches. In one epoch each batch
is made during training from features in Ray's object store (gather rows, join feature sets, cast,
z-score); in the other, all batches were made before and are held in memory. The result is the
median over rounds of the first epoch's frames/s divided by the second's; 1 means that making
batches takes no time. A GRU is trained on the feature sets of the synthetic demo dataset, and on
random feature sets of 768, 1024 and 512 features, as wide as the challenge's.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl.config import TrialConfig
from mtl.dataset import Dataset, Listing, write_dataset
from mtl.sequences.windows import WindowBatch
from mtl.synthetic import make_demo
from mtl.training.trainer import Trainer
from sweeps.cluster.connection import connect
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide

SEED = 0
WIDE = {"mae": 768, "iresnet": 1024, "densenet": 512}


class PreparedBatches:
    """All batches of one training epoch, made in advance and held in memory.

    In a trainer, an object of this class replaces the object that makes each batch from features
    during training.

    Args:
        trainer: Trainer with the features and labels.
        epoch: Number of the epoch.
    """

    def __init__(self, trainer: Trainer, epoch: int) -> None:
        cut = trainer.batches.cut
        self._batches = {step.tobytes(): cut(step) for step in trainer._schedule(epoch)}

    def cut(self, step: np.ndarray) -> WindowBatch:
        """Return the batch of one training step, which was made before training.

        Args:
            step: Video, start and length of each window of the batch; they identify the step.
        """
        return self._batches[step.tobytes()]


def wide_dataset(out: Path, demo: Listing) -> Dataset:
    """Write a dataset with another dataset's videos and labels, and three random feature sets.

    The sets are as wide as those of the challenge: 768, 1024 and 512 features.

    Args:
        out: Dataset directory to write.
        demo: Videos, frames and labels of the other dataset, the synthetic demo.
    """
    random = np.random.default_rng(SEED)

    def rows(width: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for name in sorted(demo.names):
            frames = np.sort(demo.frame[demo.video == demo.names.index(name)])
            yield name, frames, random.standard_normal((len(frames), width)).astype(np.float16)

    features = {name: rows(width) for name, width in WIDE.items()}
    return write_dataset(out, demo, features, sources={"made by": "benchmarks/ingest.py"})


def measure(dataset: Dataset, config: TrialConfig, rounds: int) -> dict[str, Any]:
    """Measure the training speed with batches made from Ray's object store and made in advance.

    Args:
        dataset: The dataset.
        config: Configuration of the training.
        rounds: Number of epochs with each kind of batches; the kinds alternate.

    Returns:
        Number of features (``features``); median frames/s with batches made during training from
        features in the object store (``shards_frames_per_s``), and with batches made in advance and
        held in memory (``resident_frames_per_s``); median, minimum and maximum over rounds of the
        frames/s from the object store divided by those from memory (``ratio``, ``ratio_min``,
        ``ratio_max``); and the fraction of training time spent on making batches from the object
        store (``waiting_share``).
    """
    from sweeps.data.sharding import make_shards

    listing = dataset.listing()
    shards = make_shards(dataset, config.features, listing)
    data = SlotData(shards, listing, divide(listing, 0.5, SEED)).for_trial(config)
    trainer = Trainer(config, data)
    sharded, resident = trainer.batches, PreparedBatches(trainer, epoch=1)
    rates: dict[str, list[float]] = {"shards": [], "resident": []}
    waits = []
    for _ in range(rounds + 1):
        for name, batches in (("shards", sharded), ("resident", resident)):
            trainer.batches = batches  # type: ignore[assignment]
            epoch = trainer._train_epoch(1, lambda: False)
            assert epoch is not None
            rates[name].append(epoch["frames"] / epoch["seconds"])
            if name == "shards":
                waits.append(epoch["data_seconds"] / epoch["seconds"])
    # The first round is a warm-up.
    ratios = [a / b for a, b in zip(rates["shards"][1:], rates["resident"][1:], strict=True)]
    return {
        "features": sum(map(dataset.width, config.features)),
        "shards_frames_per_s": round(statistics.median(rates["shards"][1:])),
        "resident_frames_per_s": round(statistics.median(rates["resident"][1:])),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "waiting_share": round(statistics.median(waits[1:]), 3),
    }


def main() -> None:
    """Measure the training speed with two sources of batches; print a table and a JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder, connect("local"):
        demo = make_demo(Path(folder) / "demo")
        wide = wide_dataset(Path(folder) / "wide", demo.listing())
        for name, dataset, hidden in (("demo", demo, 64), ("wide", wide, 128)):
            features = f"features=[{','.join(dataset.feature_sets())}]"
            config = compose([features, f"encoder.hidden={hidden}"])
            results[name] = measure(dataset, config, rounds)
    print("| data | features | shards frames/s | resident frames/s | ratio (min-max) | waiting |")
    print("|---|---|---|---|---|---|")
    for name, r in results.items():
        print(
            f"| {name} | {r['features']} | {r['shards_frames_per_s']:,} | "
            f"{r['resident_frames_per_s']:,} | {r['ratio']} ({r['ratio_min']}-{r['ratio_max']}) | "
            f"{r['waiting_share']:.1%} |"
        )
    print(json.dumps({"benchmark": "ingest", **results}))


if __name__ == "__main__":
    main()
