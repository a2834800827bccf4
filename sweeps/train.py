"""One config trained alone, in this process, to the scores that it gets in a sweep.

python sweeps/train.py --data DIR [--out DIR] [--confirm 0.5 --seed 1234] [--fold KofN]
                       [path=value ...]

Trailing words are overrides of sweeps/configs/trial.yaml, as each trial's config.yaml lists them.
The same command goes on after an interruption. The last line is one JSON object.
"""

import argparse
import json
import re
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mtl.build_model import build_model
from mtl.config import TrialConfig
from mtl.dataset import Dataset, Listing
from mtl.errors import InputError, TrainingError
from mtl.sequences.feature_table import FeatureTable, read_table
from mtl.sequences.folds import cut_folds, fold_parts
from mtl.tasks import TASKS
from mtl.training.inference import TrialData
from sweeps.cli.run_program import run_program
from sweeps.data.open_data import open_data
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import divide
from sweeps.records.messages import Epoch, Job
from sweeps.slots.trial_loop import JobRun
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study.proposal import Refit


@dataclass(frozen=True)
class Files:
    """Feature sets read from the dataset's files into this process."""

    dataset: Dataset
    listing: Listing | None

    def load(self, name: str) -> FeatureTable:
        """A feature set in memory; only listed frames where there is a listing."""
        return read_table(self.dataset, name, self.listing)


def main(argv: Sequence[str] | None = None) -> int:
    """The program."""
    words = _arguments(argv)
    try:
        return _train(words)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on after the last epoch", file=sys.stderr)
        return 130
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="a dataset directory or address, or demo"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the trial's folder (runs/train/<signature>)"
    )
    parser.add_argument(
        "--confirm", type=float, default=0.5, help="the sweep's search.confirm (0.5)"
    )
    parser.add_argument("--seed", type=int, default=1234, help="the sweep's search.seed (1234)")
    parser.add_argument(
        "--cpus",
        type=int,
        default=1,
        help="the sweep's resources.cpus_per_worker (1); the last bits of scores follow it",
    )
    parser.add_argument(
        "--fold", metavar="KofN", help="hold fold K of N out, as a sweep's refit.folds=N does"
    )
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    return parser.parse_intermixed_args(argv)


def _train(words: argparse.Namespace) -> int:
    _check_words(words)
    config = compose(words.overrides)
    dataset = open_data(words.data)
    listing = dataset.listing()
    sign, parts = signature(config, dataset.hash), divide(listing, words.confirm, words.seed)
    identity = f"# {sign}, confirm {words.confirm:g}, seed {words.seed}"
    folds, fold = _fold(words.fold, listing)
    if fold is not None:
        sign = Refit(sign, fold, len(folds)).signature
        identity = f"# {sign}"
    folder = _folder(words.out or Path("runs/train") / sign, identity)
    if not folder.ended:
        torch.set_num_threads(words.cpus)
        files = Files(dataset, None if config.sequence.frames == "all" else listing)
        data = SlotData(files, listing, parts, folds).of(config, fold)
        _check(config, data)
        folder.begin(f"{identity}\n{_command(words)}\n{_as_yaml(config)}")
        _run(config, data, folder, listing)
    scores = json.loads((folder.path / "scores.json").read_text())
    print(json.dumps({**scores, "folder": str(folder.path)}))
    return 0


def _check_words(words: argparse.Namespace) -> None:
    if not 0 <= words.confirm < 1:
        raise InputError(f"--confirm {words.confirm:g} must be at least 0 and below 1")
    if words.seed < 0:
        raise InputError(f"--seed {words.seed} must be at least 0")
    if words.cpus < 1:
        raise InputError(f"--cpus {words.cpus} must be at least 1")


def _fold(word: str | None, listing: Listing) -> tuple[list[dict[str, str]], int | None]:
    """The parts of all folds, and which is held out."""
    if word is None:
        return [], None
    found = re.fullmatch(r"(\d+)of(\d+)", word)
    if not found or not int(found[1]) < int(found[2]):
        raise InputError(f"--fold {word} must be KofN with K from 0 to N - 1, as 0of6")
    folds = int(found[2])
    cut = cut_folds(listing, folds)
    return [dict(fold_parts(cut, listing, k, folds)) for k in range(folds)], int(found[1])


def _folder(path: Path, identity: str) -> TrialFolder:
    """The trial's folder: new, or this very trial's, known by the first line of its config."""
    config = path / "config.yaml"
    if config.is_file():
        if config.read_text().partition("\n")[0] != identity:
            raise InputError(f"{path} holds another trial: give --out another folder")
    elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is not empty and no trial: give --out another folder")
    return TrialFolder(path)


def _check(config: TrialConfig, data: TrialData) -> None:
    """What would end the trial for certain, said before it starts."""
    asked = ", ".join(config.tasks)
    if not data.tasks:
        raise InputError(f"tasks: no training frame has a label of {asked}: train others")
    mask = data.parts["select"].mask
    if not any(mask[:, TASKS[task].labels].any() for task in data.tasks):
        raise InputError(
            f"tasks: no frame to select by has a label of {asked}: change --confirm or --seed"
        )
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device = 'cuda', but no GPU is visible: leave it at auto")
    with torch.device("meta"):
        build_model(config, len(data.mean), data.tasks)


def _command(words: argparse.Namespace) -> str:
    options = ("data", "out", "confirm", "seed", "cpus", "fold")
    given = {name: getattr(words, name) for name in options}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return "# " + shlex.join(["python", "sweeps/train.py", *flags, *words.overrides])


def _as_yaml(config: TrialConfig) -> str:
    text: str = yaml.safe_dump(config.plain(), sort_keys=False)
    return text


def _run(config: TrialConfig, data: TrialData, folder: TrialFolder, listing: Listing) -> None:
    checkpoint, weights = folder.saved()
    if checkpoint is not None:
        print(f"going on with {folder.path}")
    job = Job("alone", config.plain(), checkpoint=checkpoint, weights=weights)
    try:
        for event in JobRun(job, config, data).events():
            if isinstance(event, Epoch):
                folder.write_epoch(event)
                print(_line(event.result, config.training.epochs))
            else:
                folder.write_end(event, listing)
                folder.settle()
    except Exception as error:
        folder.write_error("".join(traceback.format_exception(error)))
        raise


def _line(result: Mapping[str, Any], epochs: int) -> str:
    scores = "".join(
        f", {task} {'-' if score is None else f'{score:.4f}'}"
        for task, score in result["scores"].items()
    )
    rate = result["frames"] / result["seconds"]
    return (
        f"epoch {result['epoch']}/{epochs}: score so far {result['objective']:.4f}{scores}, "
        f"{rate:,.0f} frames/s"
    )


if __name__ == "__main__":
    run_program(main)
