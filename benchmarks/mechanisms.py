"""Do the mechanisms pay where data are planted so that they must, and not where they cannot?

python benchmarks/mechanisms.py [--only temporal ...] [--jobs 2]

For each mechanism a planted dataset is drawn with each of five seeds (``SEEDS``, fixed before the
first run), and the same model is trained without it and with it. Everything is chosen on `select`;
the difference of pooled scores on `confirm` (30 videos) is taken for each seed, and its mean over
seeds comes with Student's 95 % interval. One mechanism is planted to be useless: its interval must
hold 0.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from over_seeds import mean_and_half
from whole_training import train

from mtl.evaluation import metrics
from mtl.predictions.postprocess import choose
from mtl.sequences.join import training_prior
from mtl.synthetic import Demo
from mtl.synthetic.demo import Planted, plant, write_planted
from mtl.tasks import EXPRESSION, TASKS, UNITS
from mtl.training.inference import TrialData
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.train import Files

SEEDS = (101, 202, 303, 404, 505)
DEMO = Demo(videos=120, split_shares=(0.48, 0.5, 0.02), mean_frames=150)
JOINED = "features=[appearance,geometry,motion]"
BASE = ("training.epochs=20", "training.device=cpu")
RARE = 0.1
"""Share of the labelled training frames that keep a rare task's labels."""

Change = Callable[[Planted, np.random.Generator], Planted]


@dataclass(frozen=True)
class Mechanism:
    """What is compared.

    Attributes:
        question: In words.
        measure: The task, or ``p_labelled``.
        without: Overrides of the reference; of several, the best on `select` counts.
        with_it: Overrides with the mechanism.
        change: What is done to the planted data.
        postprocess: The step of post-processing that is the mechanism: one model serves both sides.
    """

    question: str
    measure: str
    without: tuple[tuple[str, ...], ...]
    with_it: tuple[str, ...]
    change: Change = lambda planted, random: planted
    postprocess: str = ""


def rare(task: str) -> Change:
    """Few training videos keep the task's labels."""

    def change(planted: Planted, random: np.random.Generator) -> Planted:
        train = np.flatnonzero([split == "train" for split in planted.layout.splits])
        keep = random.permutation(train)[: max(2, round(RARE * len(train)))]
        dropped = np.isin(planted.layout.video, np.setdiff1d(train, keep))
        mask = planted.mask.copy()
        mask[dropped, TASKS[task].labels] = False
        return replace(planted, mask=mask)

    return change


def dependent(planted: Planted, random: np.random.Generator) -> Planted:
    """Arousal is valence, its sign turned where AU12 is off; few videos know it."""
    labels = planted.labels.copy()
    on = labels[:, UNITS.labels][:, 6] > 0.5
    noise = 0.05 * random.standard_normal(len(labels))
    labels[:, 1] = np.clip(np.where(on, 1, -1) * labels[:, 0] + noise, -1, 1)
    return rare("arousal")(replace(planted, labels=labels), random)


def unrelated(planted: Planted, random: np.random.Generator) -> Planted:
    """Expressions are drawn anew for each run of frames: nothing can be known from them."""
    labels = planted.labels.copy()
    runs = np.arange(len(labels)) // 20
    labels[:, EXPRESSION.labels] = random.integers(0, 8, runs.max() + 1)[runs][:, None]
    return replace(planted, labels=labels)


def feedback(*sources: str) -> tuple[str, ...]:
    """Into arousal."""
    wiring = (f"framework.sources=[{','.join(sources)}]", "framework.targets=[arousal]")
    return (JOINED, "framework=feedback", *wiring)


BOTTOM = (JOINED, "framework=share_bottom")
MECHANISMS = {
    "temporal": Mechanism(
        "a GRU over each frame alone", "p_labelled", ((JOINED, "encoder=per_frame"),), (JOINED,)
    ),
    "several_tasks": Mechanism(
        "all tasks over expression alone, 10 % of whose labels are left",
        "expression",
        ((JOINED, "tasks=[expression]"),),
        (JOINED,),
        rare("expression"),
    ),
    "several_tasks_valence": Mechanism(
        "all tasks over valence alone, 10 % of whose labels are left",
        "valence",
        ((JOINED, "tasks=[valence]"),),
        (JOINED,),
        rare("valence"),
    ),
    "feedback": Mechanism(
        "feedback of valence and action units over a shared bottom, arousal planted to follow them",
        "arousal",
        (BOTTOM,),
        feedback("valence", "action_units"),
        dependent,
    ),
    "joined_features": Mechanism(
        "all three sets over the best single one",
        "p_labelled",
        tuple((f"features=[{name}]",) for name in ("appearance", "geometry", "motion")),
        (JOINED,),
    ),
    "smoothing": Mechanism(
        "box or Gaussian over none", "p_labelled", (), (JOINED,), postprocess="smoothing"
    ),
    "bias": Mechanism("a bias over none", "expression", (), (JOINED,), postprocess="bias"),
    "thresholds": Mechanism(
        "a threshold for each unit over 0.5",
        "action_units",
        (),
        (JOINED,),
        postprocess="thresholds",
    ),
    "useless": Mechanism(
        "feedback of an expression that is drawn at random over a shared bottom",
        "arousal",
        (BOTTOM,),
        feedback("expression"),
        unrelated,
    ),
}


def score(measure: str, outputs: np.ndarray, data: TrialData) -> float:
    """On `confirm`."""
    part = data.parts["confirm"]
    found = metrics.scores(outputs, part.labels, part.mask)
    name = measure if measure == "p_labelled" else f"{TASKS[measure].score}_{measure}"
    value = found[name]
    assert value is not None, f"confirm has no label of {measure}"
    return float(value)


def difference(asked: tuple[str, int]) -> tuple[float, float]:
    """Scores without the mechanism and with it, with this seed."""
    name, seed = asked
    torch.set_num_threads(1)
    mechanism = MECHANISMS[name]
    with tempfile.TemporaryDirectory() as folder:
        planted = mechanism.change(plant(DEMO, seed), np.random.default_rng(seed))
        dataset = write_planted(Path(folder) / "planted", planted, seed, DEMO)
        listing = dataset.listing()
        parts = divide(listing, 0.5, seed)
        slot = SlotData(Files(dataset, listing), listing, parts)

        def trained(words: Sequence[str]) -> tuple[float, dict[str, np.ndarray], TrialData]:
            config = compose([*BASE, f"training.seed={seed}", *words])
            data = slot.of(config)
            epochs, outputs = train(config, data)
            return epochs[-1].objective, outputs, data

        _, outputs, data = trained(mechanism.with_it)
        if mechanism.postprocess:
            raw = score(mechanism.measure, outputs["confirm"], data)
            frames = {
                part: (listing.video[data.parts[part].rows], listing.frame[data.parts[part].rows])
                for part in ("select", "confirm")
            }
            select = data.parts["select"]
            found = choose(
                outputs["select"],
                select.labels,
                select.mask,
                *frames["select"],
                training_prior(listing),
                [mechanism.postprocess],
            )
            done = found(outputs["confirm"], *frames["confirm"])
            return raw, score(mechanism.measure, done, data)
        references = [trained(words) for words in mechanism.without]
        _, best, its_data = max(references, key=lambda found: found[0])
        return (
            score(mechanism.measure, best["confirm"], its_data),
            score(mechanism.measure, outputs["confirm"], data),
        )


def summary(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Means, and the mean difference with Student's 95 % interval over seeds."""
    without, with_it = np.array(pairs).T
    gains = with_it - without
    mean, half = mean_and_half(gains.tolist())
    return {
        "without": float(without.mean()),
        "with": float(with_it.mean()),
        "difference": mean,
        "interval": (mean - half, mean + half),
        "seeds": [round(float(gain), 4) for gain in gains],
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Results as Markdown."""
    lines = ["| mechanism | measure | without | with | difference [95 %] | it |"]
    lines.append("|---|---|---:|---:|---:|---|")
    for name, r in results.items():
        low, high = r["interval"]
        verdict = "pays" if low > 0 else "harms" if high < 0 else "does not show"
        mechanism = MECHANISMS[name]
        lines.append(
            f"| {name}: {mechanism.question} | {mechanism.measure} | {r['without']:.3f} | "
            f"{r['with']:.3f} | {r['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=MECHANISMS, default=tuple(MECHANISMS))
    parser.add_argument("--jobs", type=int, default=2)
    words = parser.parse_args()
    asked = [(name, seed) for name in words.only for seed in SEEDS]
    pairs = []
    with multiprocessing.get_context("spawn").Pool(words.jobs) as pool:
        for (name, seed), pair in zip(asked, pool.imap(difference, asked), strict=True):
            print(f"{name}, seed {seed}: {pair[0]:.4f} -> {pair[1]:.4f}", flush=True)
            pairs.append(pair)
    results = {
        name: summary([p for p, (own, _) in zip(pairs, asked, strict=True) if own == name])
        for name in words.only
    }
    print(table(results))
    print(json.dumps({"benchmark": "mechanisms", "seeds": SEEDS, **results}))


if __name__ == "__main__":
    main()
