"""Time and memory of a sweep relative to plain Optuna that trains the same configurations.

python benchmarks/sweep.py [--parts time memory] [--rounds 3] [--trials 24]

One side is ``sweeps/run.py`` with two slots of one process each (a slot trains one trial after
another), the other side is plain Optuna in two processes (``benchmarks/plain_optuna.py``). Both
train the same configurations from search.yaml's space, drawn once, without pruning. Both are
measured until the end of the last trial, so fusion is not included.

``time``: three ratios of the sweep's wall time to plain Optuna's, as medians over rounds. The first
two count from the start of the first process, without and with the duration of Ray's start. This
duration is measured from the output of the plan to the output of the dashboard's address, and
comprises Ray's import, ``ray.init`` and the opening of the run folder. All other work counts: for
the sweep reading the data, planning, loading the features into Ray's object store and the start of
the slots, for plain Optuna the start of the processes and their reading of the data. The third
ratio counts from the start of the first trial. In each round both sides run: first half a minute
each, then in turns of two seconds (``benchmarks/turns.py``), so that changes in the machine's speed
affect both.

``memory``: proportional set size of a side's process tree, measured every half second, plus the
pages of the object store that no process has mapped. The same measure in a run on features of width
1 is subtracted. ``peak`` is the maximum over the run, ``training`` the median between the start of
the first and the end of the last trial; for each of the two, the sweep's memory is divided by plain
Optuna's. Four trials of one epoch run on 1.1 GB of random features.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from optuna.trial import FrozenTrial
from plain_optuna import draw, ended, enqueue, working
from tree_memory import MemoryWatch
from turns import Side, in_turns

from mtl.dataset import Dataset, Listing, write_dataset
from mtl.synthetic import make_demo

ROOT = Path(__file__).parents[1]
SEED = 0
MOST_TIME, MOST_MEMORY = 1.10, 0.60
SIDES = ("sweep", "plain")
WIDE, VIDEO_FRAMES = 2304, 1000
SPANS = {
    "less_ray": "from the program's start, without Ray's start",
    "with_ray": "from the program's start",
    "trials": "from the first trial's start",
}
SPLITS = ("train",) * 160 + ("validation",) * 60 + ("test",) * 20


@dataclass(frozen=True)
class Times:
    """Times of the events of one sweep (or plain Optuna run), in seconds since the epoch.

    Attributes:
        begun: Time at which the first process was started.
        ray: Duration of Ray's start, in seconds; 0 for plain Optuna.
        starts: Times at which trials started, increasing.
        ends: Times at which trials ended, increasing.
    """

    begun: float
    ray: float
    starts: tuple[float, ...]
    ends: tuple[float, ...]

    @classmethod
    def of(cls, begun: float, ray: float, trials: Iterable[FrozenTrial]) -> "Times":
        """Return the event times of a run, with the starts and ends of its trials in order.

        Args:
            begun: Start of the first process, in seconds since the epoch.
            ray: Duration of Ray's start, in seconds.
            trials: All trials of the run, as Optuna recorded them.
        """
        trials = list(trials)
        starts = sorted(t.datetime_start.timestamp() for t in trials if t.datetime_start)
        ends = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
        return cls(begun, ray, tuple(starts), tuple(ends))

    def by(self, clock: Callable[[float], float]) -> "Times":
        """Return the times of the same events on another clock, such as one that can be stopped.

        The duration of Ray's start is copied; the other clock must not be stopped during that time.

        Args:
            clock: Function that converts seconds since the epoch to the other clock's seconds.
        """
        starts, ends = (tuple(map(clock, stamps)) for stamps in (self.starts, self.ends))
        return Times(clock(self.begun), self.ray, starts, ends)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of the run until the end of the last trial, counted in three ways.

        Returns:
            ``with_ray``: seconds from the start of the first process; ``less_ray``: the same minus
            the duration of Ray's start; ``trials``: seconds from the start of the first trial.
        """
        total = self.ends[-1] - self.begun
        trials = self.ends[-1] - self.starts[0]
        return {"less_ray": total - self.ray, "with_ray": total, "trials": trials}


def write_space(file: Path, data: Path, trials: int, **sections: Mapping[str, Any]) -> Path:
    """Write a copy of search.yaml with two slots, the random sampler and no pruner.

    A slot is a process that trains one trial after another.

    Args:
        file: Search file to write; its name without suffix becomes the sweep's name.
        data: Dataset directory.
        trials: Number of trials.
        sections: Sections of the search file to replace, by name.

    Returns:
        The path ``file``.
    """
    space: dict[str, Any] = yaml.safe_load((ROOT / "search.yaml").read_text())
    space |= {"name": file.stem, "data": str(data), "pruner": {"kind": "none"}}
    space |= {"resources": {"concurrent_trials": 2}, **sections}
    space["search"] |= {"trials": trials, "sampler": "random"}
    file.write_text(yaml.safe_dump(space, sort_keys=False))
    return file


def run_sweep(space: Path, side: Side | None = None) -> Times:
    """Run a sweep; return the times of its start and its trials, and the duration of Ray's start.

    The run folder is ``runs/<name>`` in the folder of the search file.

    Args:
        space: The search file.
        side: Object that collects the sweep's process id, so that its processes can be stopped
            while another program runs; None if the sweep runs alone.
    """
    side = side or Side()
    command = [sys.executable, "-u", ROOT / "sweeps" / "run.py", "--space", space]
    # Time of the last line of output that starts with each word.
    printed: dict[str, float] = {}
    begun = time.time()
    with subprocess.Popen(command, cwd=space.parent, stdout=subprocess.PIPE, text=True) as process:
        side.roots.append(process.pid)
        for line in process.stdout or ():
            printed[(line.split() or [""])[0]] = time.time()
    assert process.returncode == 0, f"the sweep ended with exit code {process.returncode}"
    trials = ended(space.parent / "runs" / space.stem / "study.journal", space.stem)
    expected = yaml.safe_load(space.read_text())["search"]["trials"]
    assert len(trials) == expected, f"{len(trials)} of {expected} trials are complete"
    return Times.of(begun, printed["Ray's"] - printed["varied"], trials)


def run_plain(
    space: Path, configurations: Sequence[FrozenTrial], side: Side | None = None
) -> Times:
    """Run plain Optuna in two processes and return the times of its start and its trials.

    Args:
        space: The search file; the journal is written to the same folder.
        configurations: Trials with the configurations to train.
        side: Object that collects the process ids, so that the processes can be stopped while
            another program runs; None if plain Optuna runs alone.
    """
    side = side or Side()
    journal = space.with_suffix(".journal")
    enqueue(journal, configurations)
    begun = time.time()
    with working((space, journal), (space, journal)) as processes:
        side.roots += [process.pid for process in processes if process.pid]
    trials = ended(journal)
    assert len(trials) == len(configurations), (
        f"plain Optuna completed {len(trials)} trials instead of {len(configurations)}"
    )
    return Times.of(begun, 0.0, trials)


def measure_time(folder: Path, trials: int, rounds: int) -> dict[str, Any]:
    """Measure the wall times of a sweep and of plain Optuna on the demo dataset.

    Args:
        folder: Folder for the dataset, the search files and the runs.
        trials: Number of trials of each run.
        rounds: Number of rounds; in each, a sweep and plain Optuna run once.

    Returns:
        Dict with three keys. ``trials``: number of trials of each run. ``rounds``: a list with a
        dict for each round, which has a dict for "sweep" and one for "plain" with the seconds until
        the end of the last trial, counted from the program's start without Ray's start
        (``less_ray``), from the program's start (``with_ray``) and from the first trial's start
        (``trials``), and with the seconds of Ray's start (``ray``). ``ratio``: for each of
        ``less_ray``, ``with_ray`` and ``trials``, the median over rounds of the sweep's seconds
        divided by plain Optuna's.
    """
    data = folder / "demo"
    make_demo(data)
    configurations = draw(write_space(folder / "drawn.yaml", data, trials), folder / "drawn")
    taken: list[dict[str, dict[str, float]]] = []
    for number in range(rounds):
        space = write_space(folder / f"round_{number}.yaml", data, trials)
        programs = {
            "sweep": partial(run_sweep, space),
            "plain": partial(run_plain, space, configurations),
        }
        order = SIDES if number % 2 else SIDES[::-1]
        ran = dict(zip(order, in_turns([programs[side] for side in order]), strict=True))
        times = {name: wall.by(side.clock) for name, (wall, side) in ran.items()}
        taken.append({side: {**times[side].seconds(), "ray": times[side].ray} for side in SIDES})
        print(f"round {number + 1}: {taken[-1]}", file=sys.stderr)
    return {"trials": trials, "rounds": taken, "ratio": time_ratios(taken)}


def time_ratios(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return the median over rounds of the sweep's seconds divided by plain Optuna's.

    Args:
        rounds: For each round and for "sweep" and "plain", the seconds until the end of the last
            trial by the way of counting: ``less_ray`` (from the program's start, without Ray's
            start), ``with_ray`` (from the program's start), ``trials`` (from the first trial's).

    Returns:
        One ratio for each of the three ways of counting.
    """
    return {
        span: round(statistics.median(r["sweep"][span] / r["plain"][span] for r in rounds), 3)
        for span in SPANS
    }


def random_dataset(out: Path, width: int) -> Dataset:
    """Write a dataset with one random feature set and random labels of all tasks for all frames.

    Args:
        out: Dataset directory to write.
        width: Number of features.
    """
    random = np.random.default_rng(SEED)
    names = tuple(f"video_{number:03d}" for number in range(len(SPLITS)))
    frames = np.arange(1, VIDEO_FRAMES + 1, dtype=np.int32)
    rows = len(names) * VIDEO_FRAMES
    video = np.repeat(np.arange(len(names), dtype=np.int32), VIDEO_FRAMES)
    values = random.integers(0, 2, (rows, 15)).astype(np.float32)
    mask = np.ones((rows, 15), bool)
    listing = Listing(names, SPLITS, names, video, np.tile(frames, len(names)), values, mask)

    def blocks() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for name in names:
            features = random.standard_normal((VIDEO_FRAMES, width), np.float32)
            yield name, frames, features.astype(np.float16)

    return write_dataset(out, listing, {"wide": blocks()}, sources={"made by": __file__})


def measure_memory(folder: Path) -> dict[str, Any]:
    """Measure the memory of a sweep and of plain Optuna on wide and on narrow features.

    Args:
        folder: Folder for the datasets, the search files and the runs.

    Returns:
        Dict with four keys. ``features_gib``: size of the wide features in GiB. ``gib``: memory of
        each run, as ``gib[side][features]`` with the side "sweep" or "plain" and the features
        "wide" or "narrow"; this is a dict of the run's peak (``peak``) and the median while trials
        run (``training``), in GiB. ``net_gib``: for each side, ``peak`` and ``training`` on wide
        minus those on narrow features. ``ratio``: ``peak`` and ``training`` of the sweep's
        ``net_gib`` divided by those of plain Optuna's.
    """
    gib: dict[str, dict[str, dict[str, float]]] = {side: {} for side in SIDES}
    for name, width in (("narrow", 1), ("wide", WIDE)):
        random_dataset(folder / name, width)
        space = write_space(
            folder / f"{name}_memory.yaml",
            folder / name,
            trials=4,
            fixed={"training.epochs": 1, "features": ["wide"]},
            space={"optim.lr": {"min": 1e-4, "max": 1e-3, "log": True}},
        )
        configurations = draw(space, folder / f"{name}_drawn")
        for side in SIDES:
            with MemoryWatch() as watch:
                times = run_sweep(space) if side == "sweep" else run_plain(space, configurations)
            gib[side][name] = peak_and_training(watch.samples, times)
            print(f"{side}, {name}: {gib[side][name]}", file=sys.stderr)
    net = {
        side: {k: runs["wide"][k] - runs["narrow"][k] for k in ("peak", "training")}
        for side, runs in gib.items()
    }
    features = VIDEO_FRAMES * len(SPLITS) * WIDE * 2
    ratio = {k: round(net["sweep"][k] / net["plain"][k], 3) for k in ("peak", "training")}
    return {"features_gib": features / 2**30, "gib": gib, "net_gib": net, "ratio": ratio}


def peak_and_training(samples: Sequence[tuple[float, int]], times: Times) -> dict[str, float]:
    """Return the peak memory of a run and the median memory while trials run, in GiB.

    Args:
        samples: Time in seconds since the epoch and memory in bytes, one pair per measurement.
        times: Times at which the run's trials started and ended.

    Returns:
        ``peak``: maximum until the end of the last trial; ``training``: median between the start of
        the first and the end of the last trial.
    """
    before_end = [(at, size / 2**30) for at, size in samples if at <= times.ends[-1]]
    training = [size for at, size in before_end if at >= times.starts[0]]
    return {"peak": max(size for _, size in before_end), "training": statistics.median(training)}


def time_table(result: Mapping[str, Any]) -> str:
    """Return wall times of a sweep and of plain Optuna as a Markdown table.

    Args:
        result: The dict that ``measure_time`` returns: seconds of each round, and median ratios of
            the sweep's to plain Optuna's.
    """
    medians = {
        side: {k: statistics.median(r[side][k] for r in result["rounds"]) for k in ("ray", *SPANS)}
        for side in SIDES
    }
    lines = ["| wall time to the last trial's end | sweep s | plain s | ratio | limit |"]
    lines.append("|---|---:|---:|---:|---:|")
    for span, title in SPANS.items():
        cells = f"{medians['sweep'][span]:.1f} | {medians['plain'][span]:.1f}"
        limit = f"{MOST_TIME:.2f}" if span == "less_ray" else "-"
        lines.append(f"| {title} | {cells} | {result['ratio'][span]:.3f} | {limit} |")
    lines.append(f"| Ray's start | {medians['sweep']['ray']:.1f} | - | - | - |")
    return "\n".join(lines)


def memory_table(result: Mapping[str, Any]) -> str:
    """Return the memory of a sweep and of plain Optuna as a Markdown table.

    Args:
        result: The dict that ``measure_memory`` returns: GiB of runs on wide and on narrow features
            (of width 1), their differences, and the ratios of the sweep's to plain Optuna's.
    """
    lines = ["| GiB | sweep: wide, narrow, net | plain: wide, narrow, net | ratio | limit |"]
    lines.append("|---|---:|---:|---:|---:|")
    for kind in ("peak", "training"):
        cells = [
            ", ".join(
                f"{value:.2f}"
                for value in (
                    result["gib"][side]["wide"][kind],
                    result["gib"][side]["narrow"][kind],
                    result["net_gib"][side][kind],
                )
            )
            for side in SIDES
        ]
        ratio = f"{result['ratio'][kind]:.3f}"
        lines.append(f"| {kind} | {cells[0]} | {cells[1]} | {ratio} | {MOST_MEMORY:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Compare a sweep with plain Optuna in time and memory; print tables and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", choices=("time", "memory"), default=("time", "memory")
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if "time" in args.parts:
            results["time"] = measure_time(Path(folder), args.trials, args.rounds)
            print(time_table(results["time"]))
        if "memory" in args.parts:
            results["memory"] = measure_memory(Path(folder))
            print(memory_table(results["memory"]))
    print(json.dumps({"benchmark": "sweep", **results}))


if __name__ == "__main__":
    main()
