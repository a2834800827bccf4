"""How often the intervals hold what they must: simulated sweeps whose truth is known.

python benchmarks/coverage.py [--sweeps 200] [--videos 10 19 80 300] [--jobs 2]

A population of 10,000 videos with labels of all four tasks. A member's outputs are the truth, a
level and an error for each frame and video; the error is a mix of fields that all members share, so
that skill and correlation are known and a member's outputs exist for every video. Each simulated
sweep draws as many videos for `select` as for `confirm` and 12 trials of 8 epochs. On `select` it
takes each task's best epoch, the best trial, and fuses greedily; on `confirm` it says how good
the fused model is, and by how much better than the best single trial. The truth is what the very
same models score on the whole population.

Printed for each number of videos: in how many sweeps the 95 % interval holds the truth (90 to 99 %
wanted from 19 videos on), how wide it is beside an oracle's (the central 95 % of the scores that
400 other sets of as many videos give the same model), and by how much `select` flatters.
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
    """All frames of all videos: N frames, K fields."""

    video: np.ndarray  # (N,)
    labels: np.ndarray  # (N, 15)
    fields: np.ndarray  # (K, N, 22)

    def rows(self, videos: np.ndarray) -> np.ndarray:
        """Where the frames of these videos are."""
        return np.flatnonzero(np.isin(self.video, videos))


@dataclass(frozen=True)
class Member:
    """A trial at one epoch: how skilled, and which mix of the fields it gets wrong."""

    skill: float
    mix: np.ndarray  # (K,), of length 1

    def outputs(self, everybody: Population, rows: np.ndarray | slice, task: Task) -> np.ndarray:
        """Of some frames, one task's columns."""
        own = everybody.fields[:, rows, task.outputs]
        error = np.tensordot(self.mix.astype(np.float32), own, axes=1)
        labels = everybody.labels[rows, task.labels]
        if task.kind == "regression":
            return np.asarray(0.7 * labels + 0.25 / self.skill * error)
        if task.kind == "multiclass":
            truth = labels == np.arange(task.width)
            likely = 0.5 * np.log(EXPRESSION_SHARES).astype(np.float32)
            return np.asarray(softmax(1.2 * self.skill * truth + error + likely, axis=1))
        likely = 0.5 * logit(UNIT_SHARES).astype(np.float32)
        return np.asarray(expit(1.6 * self.skill * (labels - 0.5) + error + likely))


@cache
def population() -> Population:
    """The same in every process."""
    random = np.random.default_rng(SEED)
    sizes = np.maximum(3, random.lognormal(2, 0.8, VIDEOS)).astype(int)
    video = np.repeat(np.arange(VIDEOS), sizes)
    labels = np.zeros((len(video), 15), np.float32)
    level, way = random.normal(0.1, 0.35, (VIDEOS, 2)), random.normal(0, 0.25, (len(video), 2))
    labels[:, :2] = np.tanh(level[video] + way)
    own, any_one = (random.choice(8, size, p=EXPRESSION_SHARES) for size in (VIDEOS, len(video)))
    labels[:, 2] = np.where(random.random(len(video)) < 0.6, own[video], any_one)
    shares = expit(logit(UNIT_SHARES) + random.normal(0, 1.2, (VIDEOS, 12)))
    labels[:, 3:] = random.random((len(video), 12)) < shares[video]
    fields = 0.9 * random.standard_normal((FIELDS, len(video), 22), np.float32)
    for field in fields:
        field += 0.5 * random.standard_normal((VIDEOS, 22), np.float32)[video]
    return Population(video, labels, fields)


def draw_trials(random: np.random.Generator) -> list[list[Member]]:
    """Trials of epochs, the best somewhere on the way: skills near 1, errors correlated by 0.6."""

    def direction() -> np.ndarray:
        found = random.standard_normal(FIELDS)
        return np.asarray(found / np.linalg.norm(found))

    shared = direction()
    trials = []
    for _ in range(TRIALS):
        own, skill, best = direction(), random.normal(1, 0.1), random.uniform(0, EPOCHS)
        epochs = []
        for epoch in range(EPOCHS):
            mix = np.sqrt(0.6) * shared + np.sqrt(0.4) * own + 0.3 * direction()
            lost = 0.03 * abs(epoch - best)
            epochs.append(Member(float(skill - lost), mix / np.linalg.norm(mix)))
        trials.append(epochs)
    return trials


Chosen = Mapping[str, Sequence[tuple[Member, int]]]
"""For each task which members, how often each."""


def outputs_of(chosen: Chosen, everybody: Population, rows: np.ndarray | slice) -> np.ndarray:
    """Of an ensemble: (n, 22)."""
    parts = []
    for name, members in chosen.items():
        outputs = np.stack([m.outputs(everybody, rows, TASKS[name]) for m, _ in members])
        parts.append(fuse(outputs, np.array([times for _, times in members])))
    return np.concatenate(parts, axis=1)


def search(
    trials: Sequence[Sequence[Member]], everybody: Population, rows: np.ndarray
) -> tuple[Chosen, Chosen]:
    """What a sweep chooses on `select`: the fused model and the best single trial."""
    labels, known = everybody.labels[rows], np.ones((len(rows), 15), bool)
    fused: dict[str, list[tuple[Member, int]]] = {}
    best: dict[str, list[Member]] = {}
    totals = np.zeros(len(trials))
    for name, task in TASKS.items():
        own = labels[:, task.labels], known[:, task.labels]
        outputs, best[name] = [], []
        for place, epochs in enumerate(trials):
            each = [member.outputs(everybody, rows, task) for member in epochs]
            scores = [task_score(task, task_sums(task, one, *own)) or 0.0 for one in each]
            at = int(np.argmax(scores))
            outputs.append(each[at])
            best[name].append(epochs[at])
            totals[place] += scores[at] * (0.5 if task.kind == "regression" else 1)
        found = greedy(task, np.stack(outputs), *own, STEPS)
        fused[name] = [
            (best[name][i], int(found.weights[i])) for i in np.flatnonzero(found.weights)
        ]
    first = int(np.argmax(totals))
    return fused, {name: [(members[first], 1)] for name, members in best.items()}


def sampled(
    chosen: Chosen, everybody: Population, rows: np.ndarray | slice
) -> dict[str, BootstrapScore]:
    """The scores of an ensemble on some videos."""
    labels = everybody.labels[rows]
    known = np.ones(labels.shape, bool)
    return bootstrap(outputs_of(chosen, everybody, rows), labels, known, everybody.video[rows])


def true_sums(chosen: Chosen, everybody: Population) -> dict[str, np.ndarray]:
    """Each task's sums of every video of the population."""
    outputs = outputs_of(chosen, everybody, slice(None))
    known = np.ones(everybody.labels.shape, bool)
    return {
        name: task_sums_by_group(
            task,
            outputs[:, task.outputs],
            everybody.labels[:, task.labels],
            known[:, task.labels],
            everybody.video,
            VIDEOS,
        )
        for name, task in TASKS.items()
    }


def p_of(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """The challenge's P of pooled sums (last axis)."""
    return np.asarray(combine({n: task_scores(TASKS[n], own) for n, own in sums.items()}))


def simulate(asked: tuple[int, int]) -> dict[str, float]:
    """One sweep: whether the truth was held, and how wide the intervals were."""
    videos, seed = asked
    everybody, random = population(), np.random.default_rng([SEED, videos, seed])
    drawn = random.permutation(VIDEOS)[: 2 * videos]
    select, confirm = (everybody.rows(part) for part in np.split(drawn, 2))
    fused, single = search(draw_trials(random), everybody, select)
    sums = {"fused": true_sums(fused, everybody), "single": true_sums(single, everybody)}
    truth = {n: float(p_of({t: s.sum(axis=0) for t, s in own.items()})) for n, own in sums.items()}
    here = {n: sampled(c, everybody, confirm) for n, c in (("fused", fused), ("single", single))}
    seen = {n: sampled(c, everybody, select) for n, c in (("fused", fused), ("single", single))}
    sets = random.integers(0, VIDEOS, (ORACLE_SETS, videos))
    others = {n: p_of({t: s[sets].sum(axis=1) for t, s in own.items()}) for n, own in sums.items()}
    p = {n: own["p_labelled"] for n, own in here.items()}
    found: dict[str, float] = {}
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
        found |= {
            f"{name}_true": true,
            f"{name}_held": float(low <= true <= high),
            f"{name}_held_by_percentiles": float(plain[0] <= true <= plain[1]),
            f"{name}_width": high - low,
            f"{name}_oracle": float(ends[1] - ends[0]),
        }
    in_sample = {n: own["p_labelled"].score for n, own in seen.items()}
    found["score_flattered"] = in_sample["fused"] - truth["fused"]
    found["gain_flattered"] = in_sample["fused"] - in_sample["single"] - found["gain_true"]
    return found


def table(results: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """Means over the sweeps, a row for each number of videos and statistic."""
    lines = [
        "| videos | of | truth | held by the interval | by percentiles | width | oracle's | "
        "`select` flatters by |",
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
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--videos", type=int, nargs="+", default=SIZES)
    parser.add_argument("--jobs", type=int, default=2)
    words = parser.parse_args()
    results: dict[int, list[dict[str, float]]] = {}
    with multiprocessing.get_context("spawn").Pool(words.jobs) as pool:
        for videos in words.videos:
            asked = [(videos, seed) for seed in range(words.sweeps)]
            results[videos] = list(pool.imap(simulate, asked))
            print(table({videos: results[videos]}).splitlines()[-2:], flush=True)
    print(table(results))
    print(json.dumps({"benchmark": "coverage", "seed": SEED, "sweeps": words.sweeps}))


if __name__ == "__main__":
    main()
