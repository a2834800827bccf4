"""Coverage of the bootstrap intervals, in simulated sweeps with known true scores.

python benchmarks/coverage.py [--sweeps 200] [--videos 10 19 80 300] [--jobs 2]

The population is 10,000 videos with labels of all four tasks. The outputs of a simulated model are
the label, a constant, and an error of each frame and video. The error is a linear mix of random
fields that all models share, so skills and error correlations are known and every model has outputs
for every video. Each simulated sweep draws 12 trials of 8 epochs, and equal numbers of videos for
`select` (videos on which choices are made) and for `confirm` (videos held back for the final
scores). On `select` the sweep chooses the best epoch for each task, the best trial, and the
greedily fused ensemble. On `confirm` it estimates the ensemble's score and the gain over the best
single trial. The true values are the scores of the same models on the whole population.

Printed for each number of videos: the fraction of sweeps with the true value inside the 95 %
interval (target: 90 to 99 % from 19 videos on), the interval's width and the width of an oracle
interval (the central 95 % of the same model's scores on 400 other sets of the same number of
videos), and the optimistic bias of the scores on `select`.
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
        fields: Random errors of all 22 outputs; a model's error is a weighted sum of the K fields,
            (K, N, 22).
    """

    video: np.ndarray
    labels: np.ndarray
    fields: np.ndarray

    def rows(self, videos: np.ndarray) -> np.ndarray:
        """Return the rows of all frames of the given videos, each once, in ascending order."""
        return np.flatnonzero(np.isin(self.video, videos))


@dataclass(frozen=True)
class Member:
    """Simulated model: one trial at one epoch.

    Attributes:
        skill: Signal strength of the outputs.
        mix: Unit vector of weights; the model's error is the weighted sum of K random error fields,
            (K,).
    """

    skill: float
    mix: np.ndarray

    def outputs(self, population: Population, rows: np.ndarray | slice, task: Task) -> np.ndarray:
        """Return the model's outputs for one task.

        Args:
            population: All frames of all simulated videos.
            rows: Rows of the frames to predict.
            task: The task.
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
    """Draw all simulated videos, with a fixed seed so that every process gets the same ones."""
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
    """Draw the simulated models of a sweep: one list of models per trial, one model per epoch.

    Skills are near 1 and errors correlated by about 0.6. The skill of a trial has its maximum at a
    random epoch.
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
"""Models of an ensemble and their integer weights, by task."""


def outputs_of(ensemble: Ensemble, population: Population, rows: np.ndarray | slice) -> np.ndarray:
    """Return the outputs of an ensemble for n frames, (n, 22): weighted means over its models.

    Args:
        ensemble: Models and their integer weights, by task.
        population: All frames of all simulated videos.
        rows: Rows of the frames to predict.
    """
    parts = []
    for name, members in ensemble.items():
        outputs = np.stack([m.outputs(population, rows, TASKS[name]) for m, _ in members])
        parts.append(fuse(outputs, np.array([times for _, times in members])))
    return np.concatenate(parts, axis=1)


def search(
    trials: Sequence[Sequence[Member]], population: Population, rows: np.ndarray
) -> tuple[Ensemble, Ensemble]:
    """Choose a fused ensemble and the best single trial on some frames, as a sweep does.

    Args:
        trials: Models of each trial, one per epoch.
        population: All frames of all simulated videos.
        rows: Row numbers of the frames on which to choose.

    Returns:
        The greedily fused ensemble, and the best trial as an ensemble of its best epochs.
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
    """Return an ensemble's scores by name on some frames, each with bootstrap draws over videos.

    Args:
        ensemble: Models and their integer weights, by task.
        population: All frames of all simulated videos.
        rows: Rows of the frames to score.
    """
    labels = population.labels[rows]
    known = np.ones(labels.shape, bool)
    return bootstrap(outputs_of(ensemble, population, rows), labels, known, population.video[rows])


def true_sums(ensemble: Ensemble, population: Population) -> dict[str, np.ndarray]:
    """Return the sums from which an ensemble's metrics are computed, for every video, by task.

    Args:
        ensemble: Models and their integer weights, by task.
        population: All frames of all simulated videos.
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
    """Return P, the challenge's score over all tasks, from sums over frames.

    Args:
        sums: For each task, the sums from which its metrics are computed, along the last axis.
            Other axes are kept.
    """
    return np.asarray(combine({n: task_scores(TASKS[n], s) for n, s in sums.items()}))


def simulate(point: tuple[int, int]) -> dict[str, float]:
    """Simulate one sweep, and compare its intervals with the true scores.

    Args:
        point: Number of videos on which to choose (`select`), which is also the number of videos
            held back for the final scores (`confirm`), and the seed of the sweep.

    Returns:
        Values for the score of the fused ensemble (keys that begin with ``score_``) and its gain
        over the best single trial (``gain_``): the true value (``true``), 1 if the interval
        contains it, else 0 (``held``; ``held_by_percentiles`` for the percentile interval), the
        widths of the interval and of the oracle interval (``width``, ``oracle``), and the bias of
        the value on `select` (``flattered``).
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
    """Return a Markdown table of interval statistics averaged over simulated sweeps.

    There is a row for each number of videos and each of two values: the fused score, and its gain
    over the best single trial.

    Args:
        results: For each number of videos, the statistics by name of each simulated sweep.
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
    """Run the benchmark from the command line."""
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
