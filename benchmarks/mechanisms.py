"""Gain in score by each modelling mechanism, on synthetic data where it should or cannot help.

python benchmarks/mechanisms.py [--only temporal ...] [--jobs 2]

A mechanism is a part of the model or of the post-processing that can be left out, such as the
temporal encoder, the training of several tasks together, or smoothing. For each mechanism and each
of five seeds (``SEEDS``, fixed before the first run) a synthetic dataset is drawn, and the same
model is trained with and without the mechanism. All choices are made on half of the validation
videos (`select`). The gain of a seed is the score with minus the score without the mechanism, on
all frames of the other 30 validation videos (`confirm`). The mean gain over seeds has Student's
95 % interval. The mechanism ``useless`` cannot help on its data, so its interval must contain 0.
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
from sweeps.train import FeatureFiles

SEEDS = (101, 202, 303, 404, 505)
DEMO = Demo(videos=120, split_shares=(0.48, 0.5, 0.02), mean_frames=150)
JOINED = "features=[appearance,geometry,motion]"
BASE = ("training.epochs=20", "training.device=cpu")
RARE = 0.1
"""Share of training videos that keep a task's labels if those of the others are removed."""

Change = Callable[[Planted, np.random.Generator], Planted]
"""Function that returns a changed copy of a synthetic dataset."""


@dataclass(frozen=True)
class Mechanism:
    """Comparison of a model that has a modelling mechanism with models that lack it.

    A mechanism is a part of the model or of the post-processing that can be left out, such as the
    temporal encoder or smoothing.

    Attributes:
        question: Description of the comparison, for the results table.
        measure: Task whose score is compared, or ``p_labelled`` for the challenge's score P.
        without: Config overrides of each model that lacks the mechanism. If there are several, the
            one with the best score on `select` (validation videos on which choices are made) is
            compared.
        with_it: Config overrides of the model that has the mechanism.
        change: Function that changes the synthetic dataset before training.
        postprocess: Name of a post-processing step if the mechanism is such a step, else empty. The
            outputs of one model (``with_it``) are then compared with and without this step.
    """

    question: str
    measure: str
    without: tuple[tuple[str, ...], ...]
    with_it: tuple[str, ...]
    change: Change = lambda planted, random: planted
    postprocess: str = ""


def rare(task: str) -> Change:
    """Return a function that removes a task's labels from 90 % of a dataset's training videos.

    Args:
        task: Name of the task.

    Returns:
        Function of a synthetic dataset and a random generator, which returns a changed copy.
    """

    def change(planted: Planted, random: np.random.Generator) -> Planted:
        train = np.flatnonzero([split == "train" for split in planted.layout.splits])
        keep = random.permutation(train)[: max(2, round(RARE * len(train)))]
        dropped = np.isin(planted.layout.video, np.setdiff1d(train, keep))
        mask = planted.mask.copy()
        mask[dropped, TASKS[task].labels] = False
        return replace(planted, mask=mask)

    return change


def dependent(planted: Planted, random: np.random.Generator) -> Planted:
    """Return a copy of a dataset where arousal follows valence and AU12 and is rarely labelled.

    Arousal becomes valence where action unit 12 is on, and minus valence where it is off, plus
    noise. The arousal labels of 90 % of the training videos are removed.

    Args:
        planted: The synthetic dataset to copy.
        random: Source of the random draws.
    """
    labels = planted.labels.copy()
    on = labels[:, UNITS.labels][:, 6] > 0.5
    noise = 0.05 * random.standard_normal(len(labels))
    labels[:, 1] = np.clip(np.where(on, 1, -1) * labels[:, 0] + noise, -1, 1)
    return rare("arousal")(replace(planted, labels=labels), random)


def unrelated(planted: Planted, random: np.random.Generator) -> Planted:
    """Return a copy of a dataset with random expressions, independent of all other labels.

    The expression is drawn anew every 20 frames.

    Args:
        planted: The synthetic dataset to copy.
        random: Source of the random draws.
    """
    labels = planted.labels.copy()
    runs = np.arange(len(labels)) // 20
    labels[:, EXPRESSION.labels] = random.integers(0, 8, runs.max() + 1)[runs][:, None]
    return replace(planted, labels=labels)


def feedback(*sources: str) -> tuple[str, ...]:
    """Return config overrides of a model that feeds predictions of tasks into arousal's head.

    Args:
        sources: Names of the tasks whose predictions are fed into the head.
    """
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
    """Return a score of model outputs on the validation videos held back for final scores.

    Args:
        measure: Name of a task for its score, or ``p_labelled`` for the challenge's score P.
        outputs: Outputs for the N frames of these videos, (N, 22).
        data: Labels of the same frames, with the other data of the training.
    """
    part = data.parts["confirm"]
    by_name = metrics.scores(outputs, part.labels, part.mask)
    name = measure if measure == "p_labelled" else f"{TASKS[measure].score}_{measure}"
    value = by_name[name]
    assert value is not None, f"confirm has no label of {measure}"
    return float(value)


def scores_without_and_with(point: tuple[str, int]) -> tuple[float, float]:
    """Train on synthetic data without and with a mechanism, and return the score of each.

    A mechanism is a part of the model or of the post-processing that can be left out.

    Args:
        point: Tuple of the mechanism's name (a key of ``MECHANISMS``) and of the seed.

    Returns:
        Score without and score with the mechanism, on the validation videos held back for final
        scores.
    """
    name, seed = point
    torch.set_num_threads(1)
    mechanism = MECHANISMS[name]
    with tempfile.TemporaryDirectory() as folder:
        planted = mechanism.change(plant(DEMO, seed), np.random.default_rng(seed))
        dataset = write_planted(Path(folder) / "planted", planted, seed, DEMO)
        listing = dataset.listing()
        parts = divide(listing, 0.5, seed)
        slot = SlotData(FeatureFiles(dataset, listing), listing, parts)

        def trained(overrides: Sequence[str]) -> tuple[float, dict[str, np.ndarray], TrialData]:
            config = compose([*BASE, f"training.seed={seed}", *overrides])
            data = slot.for_trial(config)
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
            postprocessing = choose(
                outputs["select"],
                select.labels,
                select.mask,
                *frames["select"],
                training_prior(listing),
                [mechanism.postprocess],
            )
            processed = postprocessing(outputs["confirm"], *frames["confirm"])
            return raw, score(mechanism.measure, processed, data)
        references = [trained(overrides) for overrides in mechanism.without]
        _, reference, reference_data = max(references, key=lambda reference: reference[0])
        return (
            score(mechanism.measure, reference["confirm"], reference_data),
            score(mechanism.measure, outputs["confirm"], data),
        )


def summary(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Summarise the gain in score by a mechanism (a part of the model) over seeds.

    Args:
        pairs: One pair per seed: the score without the mechanism, then the score with it.

    Returns:
        Mean scores over seeds without the mechanism (``without``) and with it (``with``); the mean
        gain, which is the score with minus the score without the mechanism (``difference``); the
        ends of this mean's 95 % interval by Student's t (``interval``); and a list of the gains of
        all seeds (``seeds``).
    """
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
    """Return a Markdown table of gains in score, with a row for each mechanism.

    Args:
        results: For each mechanism (part of the model that can be left out), the dict that
            ``summary`` returns: the mean scores ``without`` and ``with`` the mechanism, the mean
            gain (``difference``) and the gain's 95 % ``interval``.
    """
    lines = ["| mechanism | measure | without | with | difference [95 %] | result |"]
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
    """Measure the gain in score by each mechanism; print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=MECHANISMS, default=tuple(MECHANISMS))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    points = [(name, seed) for name in args.only for seed in SEEDS]
    pairs = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for (name, seed), pair in zip(
            points, pool.imap(scores_without_and_with, points), strict=True
        ):
            print(f"{name}, seed {seed}: {pair[0]:.4f} -> {pair[1]:.4f}", flush=True)
            pairs.append(pair)
    results = {
        name: summary([p for p, (other, _) in zip(pairs, points, strict=True) if other == name])
        for name in args.only
    }
    print(table(results))
    print(json.dumps({"benchmark": "mechanisms", "seeds": SEEDS, **results}))


if __name__ == "__main__":
    main()
