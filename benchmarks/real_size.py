"""Random draws of a search space on synthetic data of s-Aff-Wild2's size: collapse, ridge, ceiling.

    python benchmarks/real_size.py plant --out DIR [--seed N]
    python benchmarks/real_size.py prepare --data DIR/full [path=value ...]
    python benchmarks/real_size.py draws --data DIR/fifth --space FILE --draws 100 --out FILE.jsonl
                                         [--seed N] [--jobs 2] [--small-residuals] [path=value ...]
    python benchmarks/real_size.py table FILE.jsonl ...

``plant`` writes two synthetic datasets, ``DIR/full`` with the counts of videos and frames, the
missing labels and the irregular frame numbers of s-Aff-Wild2 and feature sets of 768 (``mae``) and
512 features (``iresnet``), and ``DIR/fifth`` with every fifth video of each split. It prints the
scores of ridge regression on single frames and of the exact posterior, which no model exceeds.

``prepare`` writes the annotation files of such a dataset in the challenge's format, lets
``sweeps/prepare.py`` make a dataset of them and of the features, and checks that it has the same
features. It prints the time and memory of that, and the time of one training epoch on all videos
and feature sets with one thread; trailing words are overrides of the trial config.

``draws`` trains configs that Optuna's random sampler draws from a search file, without Ray and
without pruning, and writes one JSON line for each. The same command continues after a stop; a file
with draws of another seed, space or dataset is refused.
Trailing words override the search file, as in ``sweeps/run.py``. ``--small-residuals`` multiplies
the initial weights of the layers that end a transformer's residual branches by 1 / sqrt(2 layers).

``table`` counts the draws that collapsed (see ``mtl/evaluation/collapse.py``) and those whose best
scores of valence and of arousal on `select` are both above those of ridge regression on the same
feature sets, and on all feature sets.
"""

import argparse
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from ridge import predict_validation

from mtl.dataset import Dataset, open_dataset
from mtl.errors import InputError, TrainingError
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions
from mtl.synthetic import Demo
from mtl.synthetic.demo import CEILING_FILE, Planted, plant, write_planted
from mtl.synthetic.faces.writing import write_annotations
from mtl.synthetic.parameters import View
from mtl.training.trainer import EpochResult, Trainer
from mtl.whole_files import write_atomically
from sweeps.cli.run_program import run_program
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.planning.space import Space
from sweeps.records.messages import all_collapsed
from sweeps.search_file import load
from sweeps.train import FeatureFiles

ROOT = Path(__file__).parents[1]

# The challenge publishes 307 videos of training and validation; their division is not known, and
# 258 to 49 is in proportion to the frames.
VIDEOS = (258, 49, 82)
"""Number of training, validation and test videos."""
SPLIT_FRAMES = (142_333, 26_876, 51_159)
"""Number of listed frames in the training, validation and test videos."""
REAL_SIZE = Demo(
    videos=sum(VIDEOS),
    split_shares=tuple(n / sum(VIDEOS) for n in VIDEOS),
    split_frames=SPLIT_FRAMES,
    views=(("mae", View(768, (1.0, 0.6, 0.8))), ("iresnet", View(512, (0.5, 0.9, 1.0)))),
    signal=0.05,
    nuisance=0.2,
    offset=0.2,
)
"""Parameters of the dataset: weak features, of which a single frame tells about a half."""
PART = 5
"""The small dataset has one of this number of videos."""
CONFIRM, DIVISION_SEED = 0.5, 1234
"""Share of validation videos that are held back, and the seed of the division, as in search files.
"""
BASELINES = "baselines.json"
"""File in a planted dataset's folder with the scores of ridge regression and exact posterior."""
COMBINATIONS = (("mae",), ("iresnet",), ("mae", "iresnet"))
SHOWN = ("p_mtl", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")
AFFECT = ("valence", "arousal")
ABOVE = ("above_ridge", "above_ridge_of_all")
RESIDUAL_ENDS = ("self_attn.out_proj.weight", "linear2.weight")


def every(planted: Planted, step: int) -> Planted:
    """Return a synthetic dataset with every ``step``-th video of each split."""
    layout = planted.layout
    kept = np.zeros(len(layout.names), dtype=bool)
    for split in dict.fromkeys(layout.splits):
        kept[np.flatnonzero([other == split for other in layout.splits])[::step]] = True
    rows = kept[layout.video]
    fields = {
        name: tuple(value for value, keep in zip(getattr(layout, name), kept, strict=True) if keep)
        for name in ("names", "splits", "subjects", "frames")
    }
    return replace(
        planted,
        layout=replace(layout, **fields),
        states=planted.states[rows],
        labels=planted.labels[rows],
        mask=planted.mask[rows],
        features={name: features[rows] for name, features in planted.features.items()},
    )


def baselines(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the scores on ``select`` of ridge regression and of the exact posterior.

    ``select`` are the validation videos on which choices are made. The scores are computed once
    and kept in a file of the dataset's folder.

    Args:
        folder: Folder of a dataset that ``plant`` has written.

    Returns:
        Dict of scores for ``ceiling``, the exact posterior given all feature sets, and for ridge
        regression on each combination of feature sets, as ``ridge mae+iresnet``.
    """
    file = folder / BASELINES
    if not file.exists():
        dataset = open_dataset(str(folder))
        found = {}
        for sets in COMBINATIONS:
            rows, outputs = predict_validation(dataset, dataset.listing(), [], DIVISION_SEED, sets)
            found[ridge_name(sets)] = _on_select(dataset, rows, outputs)
        ceiling = Predictions.load(folder / CEILING_FILE).outputs
        found["ceiling"] = _on_select(dataset, rows, ceiling)
        file.write_text(json.dumps(found))
    read: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return read


def ridge_name(sets: Sequence[str]) -> str:
    """Return the key in ``baselines`` of ridge regression on these feature sets, in any order."""
    return f"ridge {'+'.join(sorted(sets))}"


def _on_select(dataset: Dataset, rows: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    listing = dataset.listing()
    parts = divide(listing, CONFIRM, DIVISION_SEED)
    select = np.array([parts[listing.names[n]] == "select" for n in listing.video[rows]])
    at = rows[select]
    return scores(outputs[select], listing.values[at], listing.mask[at])


def draw(file: str, overrides: Sequence[str], seed: int, number: int) -> list[str]:
    """Return one random point of a search space, as overrides of the trial config.

    Args:
        file: Path of the search file.
        overrides: Overrides of the search file.
        seed: Seed of all draws.
        number: Number of the draw, from 0.
    """
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=state))
    return Space(load(file, overrides)).sample(study.ask())


@cache
def _data(folder: str) -> SlotData:
    dataset = open_dataset(folder)
    listing = dataset.listing()
    parts = divide(listing, CONFIRM, DIVISION_SEED)
    return SlotData(FeatureFiles(dataset, listing), listing, parts)


def train_draw(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train one draw in this process with one thread, and return what is written of it.

    Args:
        job: Dict with the keys ``data`` (dataset folder), ``number`` (of the draw), ``overrides``
            (config of the draw) and ``small_residuals``.
    """
    torch.set_num_threads(1)
    config = compose(job["overrides"])
    started = time.perf_counter()
    trainer = Trainer(config, _data(job["data"]).for_trial(config))
    if job["small_residuals"]:
        _shrink_residuals(trainer, config.encoder.parameters["layers"])
    epochs: list[EpochResult] = []
    error = None
    try:
        epochs.extend(trainer.epochs())
    except TrainingError as failure:
        error = str(failure)
    return {
        **job,
        "error": error,
        "features": config.features,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seconds": time.perf_counter() - started,
        "best_scores": epochs[-1].best_scores if epochs else {},
        "output_spread": [epoch.output_spread for epoch in epochs],
        "collapsed": any(all_collapsed(asdict(epoch)) for epoch in epochs),
        "collapsed_tasks": sorted({t for e in epochs for t, bad in e.collapsed.items() if bad}),
    }


def _shrink_residuals(trainer: Trainer, layers: int) -> None:
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if name.endswith(RESIDUAL_ENDS):
                parameter.mul_(1 / math.sqrt(2 * layers))


def summary(
    draws: Sequence[Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the counts of a set of draws, and quantiles of their scores on ``select``.

    Args:
        draws: Dicts that ``train_draw`` returned.
        known: Scores that ``baselines`` returned.
    """
    best = np.array([[d["best_scores"].get(t) or -1.0 for t in AFFECT] for d in draws])

    def above(names: Sequence[str]) -> int:
        bars = np.array([[known[name][f"ccc_{task}"] for task in AFFECT] for name in names])
        return int((best > bars).all(axis=1).sum())

    quantiles = np.quantile(best, [0, 0.1, 0.5, 1], axis=0)
    return {
        "draws": len(draws),
        "collapsed": sum(d["collapsed"] for d in draws),
        "some_task_collapsed": sum(bool(d["collapsed_tasks"]) for d in draws),
        "failed": sum(d["error"] is not None for d in draws),
        "above_ridge": above([ridge_name(d["features"]) for d in draws]),
        "above_ridge_of_all": above([ridge_name(COMBINATIONS[-1])] * len(draws)),
        **{task: quantiles[:, k].round(3).tolist() for k, task in enumerate(AFFECT)},
        "minutes": round(sum(d["seconds"] for d in draws) / 60, 1),
    }


def _plant(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    started = time.perf_counter()
    planted = plant(REAL_SIZE, arguments.seed)
    datasets = {"fifth": every(planted, PART), "full": planted}
    for name, part in datasets.items():
        write_planted(out / name, part, arguments.seed, REAL_SIZE)
    seconds = time.perf_counter() - started
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"planted in {seconds:.0f} s with at most {gigabytes:.1f} GB of memory")
    print(f"| on select | videos | frames | {' | '.join(SHOWN)} |")
    print(f"|---|---|---|{'---:|' * len(SHOWN)}")
    result: dict[str, Any] = {"benchmark": "real_size", "seconds": seconds, "gb": gigabytes}
    for name, part in datasets.items():
        counts = [len(part.layout.names), len(part.layout.video)]
        result[name] = baselines(out / name)
        for model, found in result[name].items():
            cells = [f"{counts[0]}", f"{counts[1]:,}", *(f"{found[key]:.3f}" for key in SHOWN)]
            print(f"| {name}, {model} | {' | '.join(cells)} |")
    print(json.dumps(result))


def _prepare(arguments: argparse.Namespace) -> None:
    source = open_dataset(arguments.data)
    sets = f"features=[{','.join(source.feature_sets())}]"
    config = compose([sets, *arguments.overrides])
    with tempfile.TemporaryDirectory() as folder:
        annotations, made = Path(folder, "annotations"), Path(folder, "made")
        write_annotations(annotations, source.listing())
        sets = [f"{name}={arguments.data}/features/{name}" for name in source.feature_sets()]
        command = [sys.executable, str(ROOT / "sweeps" / "prepare.py"), "--out", str(made)]
        command += ["--annotations", str(annotations), "--features", *sets]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - started
        gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        if open_dataset(str(made)).info["features"] != source.info["features"]:
            raise InputError(f"{arguments.data}: the prepared features differ: plant it anew")
    print(f"prepared in {seconds:.1f} s with at most {gigabytes:.2f} GB of memory")
    torch.set_num_threads(1)
    trainer = Trainer(config, _data(arguments.data).for_trial(config))
    epoch = next(trainer.epochs())
    result = {
        "prepare_seconds": round(seconds, 1),
        "prepare_gb": round(gigabytes, 2),
        "epoch_seconds": round(epoch.seconds, 1),
        "epoch_frames": epoch.frames,
    }
    print(json.dumps({"benchmark": "real_size", "prepare": result}))


def _draws(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    done = {line["number"]: line for line in _lines(out)} if out.exists() else {}
    jobs = {
        number: {
            "data": arguments.data,
            "number": number,
            "overrides": draw(arguments.space, arguments.overrides, arguments.seed, number),
            "small_residuals": arguments.small_residuals,
        }
        for number in {*range(arguments.draws), *done}
    }
    for number, line in done.items():
        if any(line[key] != value for key, value in jobs[number].items()):
            raise InputError(
                f"{out} has another draw {number} than this command makes: give its --seed, "
                "--space, --data and overrides, or another --out"
            )
    write_atomically(out, b"".join(f"{json.dumps(line)}\n".encode() for line in done.values()))
    with out.open("a") as file:
        for result in _trained([jobs[n] for n in jobs if n not in done], arguments.jobs):
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(_line(result), flush=True)
    _table(argparse.Namespace(files=[arguments.out]))


def _trained(jobs: Sequence[Mapping[str, Any]], processes: int) -> Iterator[dict[str, Any]]:
    if processes == 1:
        yield from map(train_draw, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(train_draw, jobs)


def _line(result: Mapping[str, Any]) -> str:
    shown = " ".join(f"{t} {s:.3f}" for t, s in result["best_scores"].items() if s is not None)
    state = result["error"] or ("collapsed" if result["collapsed"] else shown)
    return f"draw {result['number']}: {state} ({result['seconds']:.0f} s)"


def _table(arguments: argparse.Namespace) -> None:
    header = ("draws", "collapsed", "some_task_collapsed", "failed", *ABOVE, *AFFECT)
    print(f"| file | {' | '.join(header)} | minutes |\n|---|{'---:|' * (len(header) + 1)}")
    results = {}
    for name in arguments.files:
        lines = list(_lines(Path(name)))
        if len({line["data"] for line in lines}) != 1:
            raise InputError(f"{name} has no draws, or draws on several datasets: give one of each")
        known = baselines(Path(lines[0]["data"]))
        result = results[Path(name).stem] = summary(lines, known)
        cells = [str(result[key]) for key in header]
        print(f"| {Path(name).stem} | {' | '.join(cells)} | {result['minutes']} |")
    print("valence and arousal: lowest, 10 % quantile, median and highest CCC on select")
    print(json.dumps({"benchmark": "real_size", **results}))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the draws of a file; a last line that was cut by a kill is left out."""
    whole = file.read_text().rpartition("\n")[0]
    for line in whole.splitlines():
        yield json.loads(line)


def main() -> None:
    """Plant the datasets, train draws or print the table of draws: the benchmark's program."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    planting = commands.add_parser("plant", help="write the datasets and print the baselines")
    planting.add_argument("--out", required=True, metavar="DIR")
    planting.add_argument("--seed", type=int, default=20221018)
    planting.set_defaults(run=_plant)
    preparing = commands.add_parser("prepare", help="time the making of a dataset and an epoch")
    preparing.add_argument("--data", required=True, metavar="DIR")
    preparing.add_argument("overrides", nargs="*", metavar="path=value")
    preparing.set_defaults(run=_prepare)
    drawing = commands.add_parser("draws", help="train random draws of a search space")
    drawing.add_argument("--data", required=True, metavar="DIR")
    drawing.add_argument("--space", required=True, metavar="FILE")
    drawing.add_argument("--draws", type=int, required=True)
    drawing.add_argument("--out", required=True, metavar="FILE.jsonl")
    drawing.add_argument("--seed", type=int, default=41)
    drawing.add_argument("--jobs", type=int, default=2, help="processes, with one thread each")
    drawing.add_argument("--small-residuals", action="store_true")
    drawing.add_argument("overrides", nargs="*", metavar="path=value")
    drawing.set_defaults(run=_draws)
    printing = commands.add_parser("table", help="print the table of earlier draws")
    printing.add_argument("files", nargs="+", metavar="FILE.jsonl")
    printing.set_defaults(run=_table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    run_program(main)
