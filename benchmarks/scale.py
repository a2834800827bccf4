"""Driver time per trial in sweeps of 100, 1,000 and 5,000 trials.

python benchmarks/scale.py [--sizes 100 1000 5000] [--late 100] [--real-trials 200]

A slot is a process that trains one trial after another; the driver is the process that draws trials
and records their results in an Optuna study.

Fake slots: eight slots are simulated, and training takes place on a virtual clock with random
durations and learning curves. The driver's calls to the study of `search.yaml` (ask, report, tell)
are those of a sweep, and their time is real. A study of each size runs with the random sampler.
Then `--late` more trials (the late trials) run in all studies, one trial of each study in turn, so
that other load on the machine affects all sizes. As many trials follow with TPE, to measure the
cost of its draws. The printed ratio is the driver's CPU time per late trial divided by that in the
smallest study. CPU time excludes waiting for the disk, which is the same at all sizes and would
hide an increase. Finally the time to reopen the largest study's journal is measured.

Real slots: `sweeps/run.py` runs `--real-trials` trials of two epochs on a small demo dataset in two
slots, with a stopwatch around the same calls. Fake slots over the same search file are measured for
comparison. The rest of a real trial's time is divided by the times in the journal and in
`progress.csv` into training, other work on the trial, and waiting for the next trial.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import optuna
import yaml
from fake_slots import FakeSlots, Stopwatch, open_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mtl.synthetic import Demo, make_demo
from sweeps import run
from sweeps.planning.compose import compose
from sweeps.planning.space import Space
from sweeps.search_file import SearchFile, load
from sweeps.study.journal import JOURNAL

ROOT = Path(__file__).parents[1]
SEED = 0
"""Seed of the sweep with real training; the simulated sweeps take theirs from search.yaml."""

SLOTS = 8
REAL_SLOTS = 2
DRIVE = "--drive"
"""First command-line argument with which this program runs one sweep with a stopwatch."""

SMALL_DEMO = Demo(videos=16, split_shares=(0.5, 0.3, 0.2), mean_frames=60, run_frames=15.0)
REAL = {
    "name": "scale",
    "pruner": {"kind": "asha", "min_epochs": 1, "reduction_factor": 2},
    "resources": {"concurrent_trials": REAL_SLOTS},
    "fixed": {"training.epochs": 2, "encoder.hidden": 8, "sequence.window_frames": 16},
    "space": {
        "encoder": {"choice": {"gru": {"encoder.layers": {"min": 1, "max": 2}}, "lstm": {}}},
        "head": {"values": ["linear", "mlp"]},
        "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
    },
}


def mean(laps: Sequence[Counter[str]]) -> dict[str, float]:
    """Return the mean over trials of the milliseconds that a sweep's driver spends on a trial.

    The driver is the process that draws trials and records their results in an Optuna study.

    Args:
        laps: For each trial, milliseconds by category.

    Returns:
        Mean milliseconds by category: "study" (wall time in all functions of the study), "study
        cpu" (CPU time in the same functions), "disk" and "sampling" (parts of the wall time spent
        on writing to disk and in the sampler), "sampling cpu" (CPU time in the sampler).
    """
    parts = ("study", "study cpu", "disk", "sampling", "sampling cpu")
    return {part: round(sum(lap[part] for lap in laps) / len(laps), 2) for part in parts}


def measure_fake(
    watch: Stopwatch, file: SearchFile, sizes: Sequence[int], late: int, folder: Path
) -> dict[str, Any]:
    """Measure the driver's time per trial in a sweep whose training is simulated.

    The driver is the process that draws trials and records their results in an Optuna study.

    Args:
        watch: Stopwatch on the functions of the Optuna study.
        file: The search file.
        sizes: Numbers of trials, increasing; one study is run for each number.
        late: Number of additional trials of each study that are measured with the random sampler,
            and again with TPE, after the study's own number of trials has run.
        folder: Folder for the studies' journals.

    Returns:
        Dict with three keys. ``sizes`` is a list with one dict per study. In this dict ``trials``
        is the study's number of trials; ``run``, ``random`` and ``tpe`` are dicts of the driver's
        mean milliseconds per trial by category, such as "study cpu", as ``mean`` returns them:
        ``run`` for the study's own trials, ``random`` and ``tpe`` for the additional trials with
        the random sampler and with TPE. ``random`` and ``tpe`` also have the key ``ratio``: "study
        cpu" divided by that of the smallest study. ``late_to_early`` is "study cpu" of the last
        tenth of the largest study's own trials divided by that of the first tenth. ``reopen_s`` is
        the time to reopen the largest study's journal, in seconds.
    """
    in_turn(watch, file, {folder / "warm-up": 2 * SLOTS}, "tpe")
    folders = [folder / str(size) for size in sizes]
    alone = [
        in_turn(watch, file, {study_folder: size}, "random")[0]
        for study_folder, size in zip(folders, sizes, strict=True)
    ]
    rows = [{"trials": size, "run": mean(laps)} for size, laps in zip(sizes, alone, strict=True)]
    more = late + 1 + SLOTS
    for number, sampler in enumerate(("random", "tpe"), start=1):
        totals = [size + number * more for size in sizes]
        trials = dict(zip(folders, totals, strict=True))
        costs = [mean(steady(laps)) for laps in in_turn(watch, file, trials, sampler)]
        for row, cost in zip(rows, costs, strict=True):
            row[sampler] = {**cost, "ratio": round(cost["study cpu"] / costs[0]["study cpu"], 3)}
    tenth = -(-sizes[-1] // 10)
    early, end = mean(steady(alone[-1])[:tenth]), mean(steady(alone[-1])[-tenth:])
    started = time.perf_counter()
    open_study(folders[-1], file, sizes[-1], "random").close()
    return {
        "sizes": rows,
        "late_to_early": round(end["study cpu"] / early["study cpu"], 3),
        "reopen_s": round(time.perf_counter() - started, 4),
    }


def in_turn(
    watch: Stopwatch, file: SearchFile, trials: Mapping[Path, int], sampler: str
) -> list[list[Counter[str]]]:
    """Run several Optuna studies with simulated training, one trial of each study in turn.

    Args:
        watch: Stopwatch on the studies' functions.
        file: The search file from which all studies draw trials.
        trials: From the folder of each study's journal to the number of trials, earlier ones in the
            journal included, at which the study ends.
        sampler: Name of the sampler.

    Returns:
        For each study, a list with a counter for each trial. The counter has the milliseconds spent
        in the study's functions since the previous trial ended, by category: "study" (all
        functions), of which "disk" and "sampling".
    """
    epochs = int(file.fixed["training.epochs"])
    with ExitStack() as stack:
        studies = [open_study(folder, file, up_to, sampler) for folder, up_to in trials.items()]
        for study in studies:
            stack.callback(study.close)
        turns = zip(*(FakeSlots(study, SLOTS, epochs, watch) for study in studies), strict=True)
        return [list(laps) for laps in zip(*turns, strict=True)]


def steady(laps: Sequence[Counter[str]]) -> Sequence[Counter[str]]:
    """Return the measurements of a simulated sweep's trials without the first and the last ones.

    The first trial is left out because all simulated slots (processes that train trials) ask for a
    trial before it ends. The last ``SLOTS`` (number of slots) trials are left out because no new
    trials start when they end.

    Args:
        laps: For each trial, milliseconds by category.
    """
    return laps[1:-SLOTS]


def print_fake(result: Mapping[str, Any]) -> None:
    """Print a table of the driver's milliseconds per trial in sweeps with simulated training.

    The driver is the process that draws trials and records their results.

    Args:
        result: The dict that ``measure_fake`` returns: milliseconds per trial for each study, and
            the seconds to reopen the largest study's journal.
    """
    print("| trials | driver ms | of this disk | CPU ms | late trials: CPU ms | ratio |", end="")
    print(" with TPE: CPU ms | of this sampling | share |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in result["sizes"]:
        all_trials, late, tpe = row["run"], row["random"], row["tpe"]
        print(
            f"| {row['trials']:,} | {all_trials['study']:.1f} | {all_trials['disk']:.1f} | "
            f"{all_trials['study cpu']:.1f} | {late['study cpu']:.1f} | {late['ratio']:.2f} | "
            f"{tpe['study cpu']:.1f} | {tpe['sampling cpu']:.1f} | "
            f"{tpe['sampling cpu'] / tpe['study cpu']:.0%} |"
        )
    last = result["sizes"][-1]["trials"]
    print(
        f"\nCPU time of the last tenth of {last:,} trials relative to the first tenth: "
        f"{result['late_to_early']}"
    )
    print(f"time to reopen the largest journal: {result['reopen_s']:.2f} s\n")


def measure_real(watch: Stopwatch, trials: int, address: str, folder: Path) -> dict[str, Any]:
    """Measure the milliseconds per trial of a sweep with real and of one with simulated training.

    Args:
        watch: Stopwatch on the functions of the Optuna study, for the simulated sweep.
        trials: Number of trials.
        address: Address of the Ray cluster.
        folder: Folder for the demo, the search file and both studies.

    Returns:
        ``trials``: number of trials of each sweep. ``fake`` and ``real``: dicts of the mean
        milliseconds per trial in the functions of the Optuna study, by category such as "study" or
        "disk", in the sweep with simulated and in the sweep with real training. Three further keys
        have milliseconds per trial of the real sweep: ``slot``, the time of the processes that
        train trials; ``on_record``, the part of it between a trial's start and end in the journal;
        ``training``, the part of ``on_record`` in training steps.
    """
    make_demo(folder / "data", demo=SMALL_DEMO)
    search = {"trials": trials, "sampler": "random", "seed": SEED}
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump({**REAL, "data": str(folder / "data"), "search": search}))
    out = folder / "driver.json"
    arguments = [__file__, DRIVE, out, "--space", space, "--address", address]
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=sys.stderr)
    file = load(space, [])
    Space(file).check(compose)  # as in `sweeps/run.py`; it fills the cache of composed configs
    with closing(open_study(folder / "fake", file, trials, "random")) as study:
        fake = mean(list(FakeSlots(study, REAL_SLOTS, REAL["fixed"]["training.epochs"], watch)))
    driver = {part: round(spent / trials, 2) for part, spent in json.loads(out.read_text()).items()}
    return {"trials": trials, "fake": fake, "real": driver, **wall_times(folder / "runs" / "scale")}


def drive(out: Path, arguments: Sequence[str]) -> int:
    """Run `sweeps/run.py` with a stopwatch on its Optuna study, and return the exit code.

    Args:
        out: JSON file to write, with the milliseconds spent in the study's functions by category.
        arguments: Arguments of `sweeps/run.py`.
    """
    watch = Stopwatch.on_studies()
    code = run.main(arguments)
    out.write_text(json.dumps(watch.lap()))
    return code


def wall_times(sweep: Path) -> dict[str, float]:
    """Return the milliseconds per trial of a finished sweep, from its journal and progress files.

    Args:
        sweep: Run folder of the sweep.

    Returns:
        ``slot``: time from the first trial's start to the last trial's end, times the number of
        slots (processes that train trials), divided by the number of trials; ``on_record``: mean
        time from a trial's start to its end in the journal; ``training``: mean time of a trial's
        training steps.
    """
    storage = JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))
    trials = optuna.load_study(study_name="scale", storage=storage).trials
    spans = [(t.datetime_start.timestamp(), t.datetime_complete.timestamp()) for t in trials]
    slots = REAL_SLOTS * (max(end for _, end in spans) - min(start for start, _ in spans))
    recorded = sum(end - start for start, end in spans)
    trained = 0.0
    for progress in (sweep / "trials").glob("*/progress.csv"):
        with progress.open() as rows:
            trained += sum(float(row["seconds"]) for row in csv.DictReader(rows))
    seconds = {"slot": slots, "training": trained, "on_record": recorded}
    return {part: round(1e3 * spent / len(trials), 1) for part, spent in seconds.items()}


def print_real(result: Mapping[str, Any]) -> None:
    """Print a table of milliseconds per trial of a sweep with real and with simulated training.

    Args:
        result: The dict that ``measure_real`` returns: milliseconds per trial in the functions of
            the study (``fake``, ``real``) and of the processes that train trials.
    """
    fake, real = result["fake"], result["real"]
    between = result["slot"] - result["on_record"]
    rest = result["on_record"] - result["training"] - real["study"]
    rows = [
        ("driver in the study", fake["study"], real["study"]),
        ("of this CPU", fake["study cpu"], real["study cpu"]),
        ("of this disk", fake["disk"], real["disk"]),
        ("training steps", 0, result["training"]),
        ("rest of a trial: model, scores, predictions, files, Ray", 0, rest),
        ("from a trial's end to the next start in its slot", 0, between),
        ("a slot in all", fake["study"], result["slot"]),
    ]
    print(f"| ms per trial, {result['trials']} trials in {REAL_SLOTS} slots | fake | real |")
    print("|---|---|---|")
    for name, *values in rows:
        print(f"| {name} | {' | '.join(f'{value:,.1f}' for value in values)} |")
    print()


def main() -> int:
    """Measure the driver's time per trial, print tables and JSON, and return the exit code.

    If the first command-line argument is ``DRIVE``, run one sweep with a stopwatch instead.
    """
    if sys.argv[1:2] == [DRIVE]:
        return drive(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--late", type=int, default=100)
    parser.add_argument("--real-trials", type=int, default=200, help="0: only fake slots")
    parser.add_argument("--address", default="local", help="Ray cluster of the real slots")
    args = parser.parse_args()
    watch = Stopwatch.on_studies()
    with tempfile.TemporaryDirectory() as folder:
        file = load(ROOT / "search.yaml", [])
        result = measure_fake(watch, file, sorted(args.sizes), args.late, Path(folder))
        print_fake(result)
        if args.real_trials:
            result["real"] = measure_real(watch, args.real_trials, args.address, Path(folder))
            print_real(result["real"])
    print(json.dumps({"benchmark": "scale", **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
