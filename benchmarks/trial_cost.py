"""Overhead of a trial in a sweep: its time minus the time that plain Optuna takes to train it.

python benchmarks/trial_cost.py [--workers 1 2] [--rounds 3] [--trials 24] [--documented 3]

``sweeps/run.py`` trains one trial after another in one slot (a process, or two DDP workers). Each
trial has 12 epochs, on a small demo dataset, without pruning; the configurations are drawn from the
space of search.yaml. The time of a trial is the time from the end of the trial before to the
trial's own end, as recorded in the journal. Plain Optuna trains the same configurations without Ray
(``benchmarks/plain_optuna.py``) in one process, or in two that train together with DDP, once before
and once after the sweep of each round.

The limit applies to the overhead, the whole difference to plain Optuna, which has two parts:

- the cost outside epochs: the trial's time minus its training epochs, minus the time that plain
  Optuna spends outside epochs (building the model, predicting). This cost comes from drawing the
  trial, the trial's record and files, and the calls through Tune to the slot and back. The median
  and quartiles of the cost over all trials are printed;
- epochs that take longer in the slot than in plain Optuna, which depends on the machine's load.

Costs that occur once in a sweep are listed separately: the starts of Ray and of the slot, and the
additional time of the first trial.

For comparison, the time of a trial is also measured with the pattern from Ray's documentation, a
Tune function that runs a ``TorchTrainer`` for each trial.
"""

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from optuna.trial import FrozenTrial
from plain_optuna import draw, ended, enqueue, read_data, working
from sweep import run_sweep, write_space
from whole_training import train

from mtl.optimisation.distributed import Workers
from mtl.synthetic import Demo, make_demo
from sweeps.cluster.connection import LOCAL, connect
from sweeps.planning.compose import compose
from sweeps.search_file import load

EPOCHS = 12
DEMO = Demo(videos=16, split_shares=(0.5, 0.3, 0.2), mean_frames=60, run_frames=15.0)
MOST_SECONDS = {1: 0.15, 2: 0.40}
"""Largest allowed overhead of a trial over plain Optuna in seconds, by number of DDP workers."""

TRAIN_SETTINGS = {
    # As in the project's slots: reports are polled every 0.5 s instead of 2 s, and no process
    # watches for the preemption of nodes.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def write_one_slot(file: Path, trials: int, workers: int) -> Path:
    """Write the search file of a sweep that trains one trial at a time, and return its path.

    Args:
        file: Search file to write; the demo dataset is in the same folder.
        trials: Number of trials.
        workers: DDP workers of each trial.
    """
    return write_space(
        file,
        file.parent / "demo",
        trials,
        resources={"workers_per_trial": workers, "concurrent_trials": 1},
        fixed={"training.epochs": EPOCHS},
        fusion={"steps": 1},
    )


class Spent(NamedTuple):
    """Seconds spent on one trial by plain Optuna (without Ray).

    Attributes:
        training: Seconds of the whole trial: building the model, training and prediction.
        epochs: Seconds of the training epochs alone.
    """

    training: float
    epochs: float


def plain_seconds(
    space: Path, journal: Path, configurations: Sequence[FrozenTrial], workers: int
) -> list[Spent]:
    """Train configurations with plain Optuna (without Ray) and return the seconds of each trial.

    Args:
        space: The search file.
        journal: File of the Optuna journal to create.
        configurations: Trials with the configurations to train.
        workers: Number of processes that train one model together with DDP.
    """
    enqueue(journal, configurations)
    with working(*((space, journal, rank, workers) for rank in range(workers))):
        pass
    by_trial = [trial.user_attrs for trial in ended(journal)]
    return [Spent(attrs["seconds"], attrs["epoch_seconds"]) for attrs in by_trial]


def epoch_seconds(space: Path, signatures: Sequence[str]) -> list[float]:
    """Return, for each of some trials of a sweep, the seconds of all training epochs together.

    The seconds are read from the file ``progress.csv`` in the trial's folder.

    Args:
        space: The search file; the sweep's run folder is ``runs/<name>`` in the same folder.
        signatures: Name of each trial's folder, a hash of the trial's config and dataset.
    """
    trials = space.parent / "runs" / space.stem / "trials"
    seconds = []
    for signature in signatures:
        with (trials / signature / "progress.csv").open() as file:
            seconds.append(sum(float(row["seconds"]) for row in csv.DictReader(file)))
    return seconds


def measure(
    folder: Path, configurations: Sequence[FrozenTrial], workers: int, number: int
) -> dict[str, Any]:
    """Run plain Optuna, a sweep, and plain Optuna again, and compare the seconds of a trial.

    All three train the same configurations. The first trial of each is a warm-up and not counted.

    Args:
        folder: Folder of the demo dataset and of the search files.
        configurations: Trials with the configurations to train.
        workers: DDP workers of each trial, 1 or 2.
        number: Number of the round, for file names.

    Returns:
        Mean seconds of a trial in the sweep (``trial``) and in plain Optuna (``training``);
        ``trial`` minus ``training`` (``difference``); the part of this difference that arises
        outside training epochs, as mean over trials (``cost``) and as list with one value per trial
        (``costs``); the seconds of training epochs in the sweep divided by those in plain Optuna
        (``slower``). Three further keys have the seconds that a sweep spends once:
        on the start of Ray (``ray_start``), on the rest of the time before the first trial
        (``slot_start``), and in the first trial more than in others (``first_trial``).
    """
    space = write_one_slot(folder / f"cost_{workers}_{number}.yaml", len(configurations), workers)
    before = plain_seconds(space, space.with_suffix(".before"), configurations, workers)
    times = run_sweep(space)
    after = plain_seconds(space, space.with_suffix(".after"), configurations, workers)
    trials = [end - last for last, end in pairwise(times.ends)]
    signatures = [trial.user_attrs["signature"] for trial in configurations]
    in_slot = epoch_seconds(space, signatures)[1:]
    plain = [
        Spent((one.training + other.training) / 2, (one.epochs + other.epochs) / 2)
        for one, other in zip(before[1:], after[1:], strict=True)
    ]
    costs = [
        trial - epochs - (alone.training - alone.epochs)
        for trial, epochs, alone in zip(trials, in_slot, plain, strict=True)
    ]
    training = statistics.mean(alone.training for alone in plain)
    return {
        "trial": statistics.mean(trials),
        "training": training,
        "cost": statistics.mean(costs),
        "slower": statistics.mean(in_slot) / statistics.mean(alone.epochs for alone in plain),
        "difference": statistics.mean(trials) - training,
        "ray_start": times.ray,
        "slot_start": times.starts[0] - times.begun - times.ray,
        "first_trial": times.ends[0] - times.starts[0] - statistics.mean(trials),
        "costs": costs,
    }


def measure_documented(
    space: Path, configurations: Sequence[FrozenTrial], workers: int, training: float
) -> dict[str, float]:
    """Measure the seconds per trial with the pattern from Ray's documentation.

    In this pattern Ray Tune calls a function for each trial, and the function trains the trial with
    a ``TorchTrainer``.

    Args:
        space: The search file.
        configurations: Trials with the configurations to train.
        workers: DDP workers of each trial.
        training: Mean seconds of a trial with these configurations in plain Optuna.

    Returns:
        Mean seconds of a trial with this pattern (``trial``), the argument ``training`` unchanged,
        and ``trial`` minus ``training`` (``difference``).
    """
    import ray.train
    from ray import tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def work(point: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        config = compose(point["overrides"])
        data = read_data(load(space)).for_trial(config)
        epochs, _ = train(config, data, Workers.from_process_group())
        ray.train.report({"score": epochs[-1].objective})

    def trial(point: Mapping[str, Any]) -> None:
        trainer = TorchTrainer(
            work,
            train_loop_config=dict(point),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": 1}
            ),
            run_config=ray.train.RunConfig(
                name=f"documented-{tune.get_context().get_trial_id()}",
                storage_path=str(space.parent),
                callbacks=[TuneReportCallback()],
            ),
        )
        trainer.fit()

    class Clock(tune.Callback):
        starts, ends = [], []

        def on_trial_start(self, **info: Any) -> None:
            self.starts.append(time.time())

        def on_trial_complete(self, **info: Any) -> None:
            self.ends.append(time.time())

    overrides = [trial.user_attrs["overrides"] for trial in configurations]
    # A trial that holds a CPU would prevent its workers from starting.
    no_cpu = {"CPU": 0, "node:__internal_head__": 0.001}
    results = tune.Tuner(
        tune.with_resources(trial, no_cpu),
        param_space={"overrides": tune.grid_search(overrides)},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(space.parent), callbacks=[Clock()], verbose=0),
    ).fit()
    assert not results.errors, results.errors
    seconds = (max(Clock.ends) - min(Clock.starts)) / len(overrides)
    return {"trial": seconds, "training": training, "difference": seconds - training}


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median over rounds of each measured number (most are seconds).

    If the rounds have ``costs`` (a list: overhead of each trial outside its training epochs), the
    quartiles over the trials of all rounds are added as ``cost_q1``, ``cost_median`` and
    ``cost_q3``.

    Args:
        rounds: For each round, the measured numbers by name.
    """
    result = {k: statistics.median(r[k] for r in rounds) for k in rounds[0] if k != "costs"}
    costs = [cost for r in rounds for cost in r.get("costs", ())]
    if costs:
        quartiles = statistics.quantiles(costs, n=4, method="inclusive")
        result |= zip(("cost_q1", "cost_median", "cost_q3"), quartiles, strict=True)
    return {key: round(seconds, 3) for key, seconds in result.items()}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of the seconds of a trial and of their difference to plain Optuna.

    Args:
        results: For each row of the table (a sweep or Ray's documented pattern, each with 1 or 2
            DDP workers), the seconds of a trial (``trial``) and of the same trial in plain Optuna
            (``training``), their ``difference`` and other numbers by name.
    """
    once = {"ray_start": "Ray's start", "slot_start": "slot's start", "first_trial": "first trial"}
    times = {"trial": "a trial", "training": "plain Optuna", "difference": "difference"}
    cost = {"cost": "own cost", "cost_median": "median", "cost_q1": "q1", "cost_q3": "q3"}
    columns = once | times | {"limit": "limit"} | cost | {"slower": "slower epochs (ratio)"}
    lines = [f"| seconds | {' | '.join(columns.values())} |", f"|---|{'---:|' * len(columns)}"]
    for name, r in results.items():
        cells = [f"{r[key]:.3f}" if key in r else "-" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the overhead of a trial over plain Optuna; print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--documented", type=int, default=3, help="trials of Ray's pattern")
    args = parser.parse_args()
    os.environ |= TRAIN_SETTINGS
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_demo(folder / "demo", demo=DEMO)
        for workers in args.workers:
            drawn = write_one_slot(folder / f"drawn_{workers}.yaml", args.trials + 1, workers)
            configurations = draw(drawn, folder / f"drawn_{workers}")
            rounds = []
            for number in range(args.rounds):
                rounds.append(measure(folder, configurations, workers, number))
                print(f"{workers}, round {number + 1}: {rounds[-1]}", file=sys.stderr)
            name = f"slot of {workers}"
            results[name] = {**summary(rounds), "limit": MOST_SECONDS[workers]}
            if args.documented:
                some = configurations[1 : args.documented + 1]
                alone = plain_seconds(drawn, drawn.with_suffix(".plain"), some, workers)
                with connect(LOCAL):
                    found = measure_documented(
                        drawn, some, workers, statistics.mean(spent.training for spent in alone)
                    )
                results[f"documented, {workers}"] = summary([found])
    print(table(results))
    print(json.dumps({"benchmark": "trial_cost", **results}))


if __name__ == "__main__":
    main()
