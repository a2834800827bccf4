"""Fraction of simulated sweeps in which the bootstrap interval contains the true score.

python benchmarks/coverage.py [--sweeps 200] [--videos 10 19 80 300] [--jobs 2]

The population is 10,000 simulated videos with labels of all four tasks. No model is trained: a
simulated model's output combines the true label, a constant, and a random error of each frame and
video. The weight of the label relative to the error is the model's skill, a number near 1. The
error is a weighted sum of random error fields that all models share, so that the weights of two
models determine how much their errors correlate. Each simulated sweep draws 12 trials of 8 epochs,
and equal numbers of videos for `select` (videos on which choices are made) and for `confirm`
(videos held back for the final scores). On `select` the sweep chooses the best epoch of each trial
for each task, the best trial, and an ensemble by greedy selection. On `confirm` it estimates two
values, each with a 95 % bootstrap interval: the ensemble's score, and the score's gain over the
best single trial. The true values are those of the same models on the whole population.

Printed for each number of videos and each of the two values: the fraction of sweeps in which the
interval contains the true value (target: 90 to 99 % from 19 videos on), the interval's width, the
width of an oracle interval (which contains the central 95 % of the values of the same models on 400
other sets of the same number of videos), and the value on `select` minus the true value.
"""

import argparse
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import expit, logit, softmax

from mtl.ensemble.selection import fuse, greedy
from mtl.evaluation.bootstrap import BootstrapScore, bootstrap
from mtl.evaluation.metrics import combine, task_score, task_scores, task_sums, task_sums_by_group
from mtl.tasks import TASKS, Task

SEED = 7
VIDEOS, FIELDS = 10_000, 24
TRIALS, EPOCHS, STEPS = 12, 8, 25
SIZES = (10, 19, 80, 300)
ORACLE_SETS = 400
EXPRESSION_SHARES = np.array([0.3, 0.05, 0.04, 0.04, 0.2, 0.1, 0.07, 0.2])
UNIT_SHARES = np.array([0.12, 0.06, 0.15, 0.25, 0.3, 0.3, 0.2, 0.05, 0.04, 0.03, 0.5, 0.15])


@dataclass(frozen=True)
class Population:
    """All frames of all simulated videos, with labels and random errors.

    Legend: N frames, K error fields.

    Attributes:
        video: Number of each frame's video, (N,).
        labels: Labels of each frame, (N, 15).
        fields: K random errors of all 22 outputs; the error of a simulated model is a weighted sum
            of them, (K, N, 22).
    """

    video: np.ndarray
    labels: np.ndarray
    fields: np.ndarray

    def rows(self, videos: np.ndarray) -> np.ndarray:
        """Return the row numbers of all frames of some videos, each once, in ascending order.

        Args:
            videos: Numbers of the videos.
        """
        return np.flatnonzero(np.isin(self.video, videos))


@dataclass(frozen=True)
class Member:
    """Simulated model, which stands for one trial at one epoch.

    Attributes:
        skill: Weight of the true label in the model's outputs, relative to the error; about 1.
        mix: Weights of K random error fields, a unit vector, (K,); the model's error is the
            weighted sum of these fields.
    """

    skill: float
    mix: np.ndarray

    def outputs(self, population: Population, rows: np.ndarray | slice, task: Task) -> np.ndarray:
        """Return the simulated model's outputs for one task: true labels with a random error.

        Args:
            population: All frames of all simulated videos.
            rows: Rows of the n frames to predict.
            task: The task.

        Returns:
            One row per frame and one column per output of the task, (n, outputs).
        """
        fields = population.fields[:, rows, task.outputs]
        error = np.tensordot(self.mix.astype(np.float32), fields, axes=1)
        labels = population.labels[rows, task.labels]
        if task.kind == "regression":
            return np.asarray(0.7 * labels + 0.25 / self.skill * error)
        if task.kind == "multiclass":
            one_hot = labels == np.arange(task.width)
            prior = 0.5 * np.log(EXPRESSION_SHARES).astype(np.float32)
            return np.asarray(softmax(1.2 * self.skill * one_hot + error + prior, axis=1))
        prior = 0.5 * logit(UNIT_SHARES).astype(np.float32)
        return np.asarray(expit(1.6 * self.skill * (labels - 0.5) + error + prior))


@cache
def draw_population() -> Population:
    """Draw labels and random errors of all simulated videos, with the fixed seed ``SEED``."""
    random = np.random.default_rng(SEED)
    sizes = np.maximum(3, random.lognormal(2, 0.8, VIDEOS)).astype(int)
    video = np.repeat(np.arange(VIDEOS), sizes)
    labels = np.zeros((len(video), 15), np.float32)
    level, deviation = (
        random.normal(0.1, 0.35, (VIDEOS, 2)),
        random.normal(0, 0.25, (len(video), 2)),
    )
    labels[:, :2] = np.tanh(level[video] + deviation)
    of_video, of_frame = (
        random.choice(8, size, p=EXPRESSION_SHARES) for size in (VIDEOS, len(video))
    )
    labels[:, 2] = np.where(random.random(len(video)) < 0.6, of_video[video], of_frame)
    shares = expit(logit(UNIT_SHARES) + random.normal(0, 1.2, (VIDEOS, 12)))
    labels[:, 3:] = random.random((len(video), 12)) < shares[video]
    fields = 0.9 * random.standard_normal((FIELDS, len(video), 22), np.float32)
    for field in fields:
        field += 0.5 * random.standard_normal((VIDEOS, 22), np.float32)[video]
    return Population(video, labels, fields)


def draw_trials(random: np.random.Generator) -> list[list[Member]]:
    """Draw the simulated models of one sweep: for each trial, a list with one model per epoch.

    A model's skill (weight of the true label in its outputs) is near 1 and has its maximum at a
    random epoch of each trial. The errors of two trials are correlated by about 0.6.

    Args:
        random: Source of the random draws.
    """

    def direction() -> np.ndarray:
        vector = random.standard_normal(FIELDS)
        return np.asarray(vector / np.linalg.norm(vector))

    shared = direction()
    trials = []
    for _ in range(TRIALS):
        of_trial, skill, best = direction(), random.normal(1, 0.1), random.uniform(0, EPOCHS)
        epochs = []
        for epoch in range(EPOCHS):
            mix = np.sqrt(0.6) * shared + np.sqrt(0.4) * of_trial + 0.3 * direction()
            decrease = 0.03 * abs(epoch - best)
            epochs.append(Member(float(skill - decrease), mix / np.linalg.norm(mix)))
        trials.append(epochs)
    return trials


Ensemble = Mapping[str, Sequence[tuple[Member, int]]]
"""Ensemble: for each task, pairs of a simulated model and the model's integer weight."""


def outputs_of(ensemble: Ensemble, population: Population, rows: np.ndarray | slice) -> np.ndarray:
    """Return the outputs of an ensemble for n frames, (n, 22): weighted means over its models.

    Args:
        ensemble: For each task, pairs of a simulated model and the model's integer weight.
        population: All frames of all simulated videos.
        rows: Rows of the n frames to predict.
    """
    parts = []
    for name, members in ensemble.items():
        outputs = np.stack([m.outputs(population, rows, TASKS[name]) for m, _ in members])
        parts.append(fuse(outputs, np.array([times for _, times in members])))
    return np.concatenate(parts, axis=1)


def search(
    trials: Sequence[Sequence[Member]], population: Population, rows: np.ndarray
) -> tuple[Ensemble, Ensemble]:
    """Choose an ensemble and the best single trial by the scores on some frames, as a sweep does.

    Args:
        trials: Simulated models of each trial, one per epoch.
        population: All frames of all simulated videos.
        rows: Row numbers of the frames on which to choose.

    Returns:
        Tuple of two ensembles: the result of greedy selection among all trials, and the best single
        trial. The latter has one model per task: the trial at its best epoch for that task.
    """
    labels, known = population.labels[rows], np.ones((len(rows), 15), bool)
    fused: dict[str, list[tuple[Member, int]]] = {}
    best: dict[str, list[Member]] = {}
    totals = np.zeros(len(trials))
    for name, task in TASKS.items():
        of_task = labels[:, task.labels], known[:, task.labels]
        outputs, best[name] = [], []
        for number, epochs in enumerate(trials):
            by_epoch = [member.outputs(population, rows, task) for member in epochs]
            scores = [task_score(task, task_sums(task, one, *of_task)) or 0.0 for one in by_epoch]
            epoch = int(np.argmax(scores))
            outputs.append(by_epoch[epoch])
            best[name].append(epochs[epoch])
            totals[number] += scores[epoch] * (0.5 if task.kind == "regression" else 1)
        selection = greedy(task, np.stack(outputs), *of_task, STEPS)
        fused[name] = [
            (best[name][i], int(selection.fusion_weights[i]))
            for i in np.flatnonzero(selection.fusion_weights)
        ]
    first = int(np.argmax(totals))
    return fused, {name: [(members[first], 1)] for name, members in best.items()}


def bootstrap_scores(
    ensemble: Ensemble, population: Population, rows: np.ndarray | slice
) -> dict[str, BootstrapScore]:
    """Return an ensemble's scores on some frames, each with bootstrap draws over videos.

    Args:
        ensemble: For each task, pairs of a simulated model and the model's integer weight.
        population: All frames of all simulated videos.
        rows: Rows of the frames to score.

    Returns:
        From the name of each score, such as ``p_labelled``, to the score and its bootstrap draws.
    """
    labels = population.labels[rows]
    known = np.ones(labels.shape, bool)
    return bootstrap(outputs_of(ensemble, population, rows), labels, known, population.video[rows])


def true_sums(ensemble: Ensemble, population: Population) -> dict[str, np.ndarray]:
    """Return the sums over each video's frames from which an ensemble's metrics are computed.

    Args:
        ensemble: For each task, pairs of a simulated model and the model's integer weight.
        population: All frames of all simulated videos.

    Returns:
        For each task, an array with one row of sums for each video.
    """
    outputs = outputs_of(ensemble, population, slice(None))
    known = np.ones(population.labels.shape, bool)
    return {
        name: task_sums_by_group(
            task,
            outputs[:, task.outputs],
            population.labels[:, task.labels],
            known[:, task.labels],
            population.video,
            VIDEOS,
        )
        for name, task in TASKS.items()
    }


def pooled_p(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return P, the challenge's score over all tasks, from sums over the frames of all videos.

    Args:
        sums: For each task, the sums from which the task's metrics are computed, along the last
            axis; the other axes are the shape of the returned array.
    """
    return np.asarray(combine({n: task_scores(TASKS[n], s) for n, s in sums.items()}))


def simulate(point: tuple[int, int]) -> dict[str, float]:
    """Simulate one sweep, and compare its 95 % bootstrap intervals with the true values.

    Two values are estimated: the score P of the sweep's fused ensemble, and this score minus that
    of the best single trial (the gain).

    Args:
        point: Tuple of the number of videos in `select` (on which choices are made) and equally in
            `confirm` (held back for the final scores), and of the sweep's seed.

    Returns:
        The same statistics of both values; each key begins with ``score_`` or ``gain_``. They are:
        the value on the whole population (``true``); 1 if the bootstrap interval from `confirm`
        contains this true value, else 0 (``held``), and the same for the interval of the bootstrap
        draws' percentiles (``held_by_percentiles``); the width of the bootstrap interval
        (``width``); the width of the central 95 % of the values on 400 other sets of videos
        (``oracle``); and the value on `select` minus the true value (``flattered``).
    """
    videos, seed = point
    population, random = draw_population(), np.random.default_rng([SEED, videos, seed])
    drawn = random.permutation(VIDEOS)[: 2 * videos]
    select, confirm = (population.rows(part) for part in np.split(drawn, 2))
    fused, single = search(draw_trials(random), population, select)
    sums = {"fused": true_sums(fused, population), "single": true_sums(single, population)}
    truth = {
        model: float(pooled_p({task: s.sum(axis=0) for task, s in by_task.items()}))
        for model, by_task in sums.items()
    }
    models = {"fused": fused, "single": single}
    on_confirm = {n: bootstrap_scores(m, population, confirm) for n, m in models.items()}
    on_select = {n: bootstrap_scores(m, population, select) for n, m in models.items()}
    sets = random.integers(0, VIDEOS, (ORACLE_SETS, videos))
    others = {
        model: pooled_p({task: s[sets].sum(axis=1) for task, s in by_task.items()})
        for model, by_task in sums.items()
    }
    p = {model: by_name["p_labelled"] for model, by_name in on_confirm.items()}
    result: dict[str, float] = {}
    for name, score, true, oracle in (
        ("score", p["fused"], truth["fused"], others["fused"]),
        (
            "gain",
            p["fused"] - p["single"],
            truth["fused"] - truth["single"],
            others["fused"] - others["single"],
        ),
    ):
        low, high = score.interval()
        ends = np.percentile(oracle, [2.5, 97.5])
        plain = np.nanpercentile(score.draws, [2.5, 97.5])
        result |= {
            f"{name}_true": true,
            f"{name}_held": float(low <= true <= high),
            f"{name}_held_by_percentiles": float(plain[0] <= true <= plain[1]),
            f"{name}_width": high - low,
            f"{name}_oracle": float(ends[1] - ends[0]),
        }
    in_sample = {model: by_name["p_labelled"].score for model, by_name in on_select.items()}
    result["score_flattered"] = in_sample["fused"] - truth["fused"]
    result["gain_flattered"] = in_sample["fused"] - in_sample["single"] - result["gain_true"]
    return result


def table(results: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """Return a Markdown table of statistics of confidence intervals, averaged over sweeps.

    There is a row for each number of videos and each of two values: the fused ensemble's score P,
    and this score minus that of the best single trial.

    Args:
        results: For each number of videos, a list with one dict per simulated sweep, as returned by
            ``simulate``: for both values the true value, 1 or 0 for an interval that contains the
            true value or not, widths of intervals, and the value on `select` minus the true value.
    """
    lines = [
        "| videos | statistic | true value | inside interval | inside percentile interval | "
        "width | oracle width | bias on `select` |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for videos, sweeps in results.items():
        for name, title in (("score", "fused P"), ("gain", "fused - single")):
            mean = {key: float(np.mean([sweep[key] for sweep in sweeps])) for key in sweeps[0]}
            lines.append(
                f"| {videos} | {title} | {mean[f'{name}_true']:.3f} | {mean[f'{name}_held']:.1%} | "
                f"{mean[f'{name}_held_by_percentiles']:.1%} | {mean[f'{name}_width']:.3f} | "
                f"{mean[f'{name}_oracle']:.3f} | {mean[f'{name}_flattered']:+.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Simulate sweeps and print how often intervals contain the true score, as a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--videos", type=int, nargs="+", default=SIZES)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    results: dict[int, list[dict[str, float]]] = {}
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for videos in args.videos:
            points = [(videos, seed) for seed in range(args.sweeps)]
            results[videos] = list(pool.imap(simulate, points))
            print(table({videos: results[videos]}).splitlines()[-2:], flush=True)
    print(table(results))
    print(json.dumps({"benchmark": "coverage", "seed": SEED, "sweeps": args.sweeps}))


if __name__ == "__main__":
    main()
