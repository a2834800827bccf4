"""Train one trial (one config) in this process, without Ray, with the same scores as in a sweep.

python sweeps/train.py --data DIR [--out DIR] [--confirm 0.5 --seed 1234] [--fold KofN]
                       [path=value ...]

Trailing arguments override keys of sweeps/configs/trial.yaml. In a sweep, config.yaml in the folder
of each trial begins with the command that repeats the trial. After an interruption the same command
continues the training. The last line of the output is one JSON object with the scores.
"""

import argparse
import json
import re
import shlex
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mtl.config import TrialConfig
from mtl.dataset import Dataset, Listing
from mtl.errors import InputError
from mtl.optimisation.device import choose_device
from mtl.sequences.feature_table import FeatureTable, read_table
from mtl.sequences.folds import cut_folds, fold_parts
from mtl.tasks import TASKS
from mtl.training.inference import TrialData
from sweeps.cli.arguments import (
    add_data_argument,
    add_division_arguments,
    add_overrides_argument,
    make_parser,
)
from sweeps.cli.run_program import run_program, run_training
from sweeps.data.open_data import open_data
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import build_without_memory, divide
from sweeps.records.messages import Epoch, Job
from sweeps.slots.trial_loop import TrialLoop
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study.proposal import Refit


@dataclass(frozen=True)
class FeatureFiles:
    """Loader that reads feature sets from the dataset's files into the memory of this process.

    Attributes:
        dataset: The opened dataset.
        listing: Frames named in the annotation files; only their features are kept. None keeps
            the features of all frames.
    """

    dataset: Dataset
    listing: Listing | None

    def load(self, name: str) -> FeatureTable:
        """Read the feature set with the given name and return its features as arrays."""
        return read_table(self.dataset, name, self.listing)


def main(argv: Sequence[str] | None = None) -> int:
    """Train one trial and print its scores: the program ``train.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code: 0, or 1 if the training fails, or 130 after Ctrl-C.

    Raises:
        InputError: If an argument, the config or the dataset is wrong.
    """
    arguments = _parse(argv)
    return run_training(lambda: _train(arguments))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_data_argument(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the trial (default: runs/train/<signature>)",
    )
    add_division_arguments(parser)
    parser.add_argument(
        "--cpus",
        type=int,
        default=1,
        metavar="N",
        help="torch threads, as resources.cpus_per_worker in a search file (default: 1); the last "
        "bits of the scores depend on it",
    )
    parser.add_argument(
        "--fold",
        metavar="KofN",
        help="hold out fold K (from 0) of N, as a sweep with refit.folds=N does",
    )
    add_overrides_argument(
        parser, "override of sweeps/configs/trial.yaml, such as encoder=lstm or optim.lr=0.01"
    )
    return parser.parse_intermixed_args(argv)


def _train(arguments: argparse.Namespace) -> int:
    _check_arguments(arguments)
    config = compose(arguments.overrides)
    dataset = open_data(arguments.data)
    listing = dataset.listing()
    sign = signature(config, dataset.hash)
    parts = divide(listing, arguments.confirm, arguments.seed)
    identity = f"# {sign}, confirm {arguments.confirm:g}, seed {arguments.seed}"
    folds, fold = _fold(arguments.fold, listing)
    if fold is not None:
        sign = Refit(sign, fold, len(folds)).signature
        identity = f"# {sign}"
    folder = _folder(arguments.out or Path("runs/train") / sign, identity)
    if not folder.has_ended:
        torch.set_num_threads(arguments.cpus)
        files = FeatureFiles(dataset, None if config.sequence.frames == "all" else listing)
        data = SlotData(files, listing, parts, folds).for_trial(config, fold)
        _check(config, data)
        folder.begin(f"{identity}\n{_command(arguments)}\n{_as_yaml(config)}")
        _run(config, data, folder, listing)
    print(json.dumps({**folder.scores(), "folder": str(folder.path)}))
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.confirm < 1:
        raise InputError(f"--confirm {arguments.confirm:g} must be at least 0 and below 1")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed} must be at least 0")
    if arguments.cpus < 1:
        raise InputError(f"--cpus {arguments.cpus} must be at least 1")


def _fold(option: str | None, listing: Listing) -> tuple[list[dict[str, str]], int | None]:
    """Return the splits of the videos for each held-out fold, and the fold of this training.

    Args:
        option: Value of ``--fold``, such as ``0of6``, or None.
        listing: Frames and labels of all videos.

    Returns:
        Two values. First, a list with one dict for each fold: by a video's name, the split (train,
        select, confirm or test) that the video has while this fold is held out. Second, the number
        of the fold to hold out. Without ``--fold`` an empty list and None.
    """
    if option is None:
        return [], None
    match = re.fullmatch(r"(\d+)of(\d+)", option)
    if not match or not int(match[1]) < int(match[2]):
        raise InputError(f"--fold {option} must be KofN with K from 0 to N - 1, as 0of6")
    folds = int(match[2])
    cut = cut_folds(listing, folds)
    return [dict(fold_parts(cut, listing, k, folds)) for k in range(folds)], int(match[1])


def _folder(path: Path, identity: str) -> TrialFolder:
    """Open the folder of a trial, which must be new, empty, or hold an earlier start of the trial.

    Args:
        path: The folder.
        identity: First line of the trial's ``config.yaml``; two different trials differ in it.

    Raises:
        InputError: If the folder holds another trial or other files.
    """
    folder = TrialFolder(path)
    known = folder.identity()
    if known is not None:
        if known != identity:
            raise InputError(f"{path} holds another trial: give --out another folder")
    elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is not empty and no trial: give --out another folder")
    return folder


def _check(config: TrialConfig, data: TrialData) -> None:
    """Raise ``InputError`` if a model with the config cannot be built or trained on the data."""
    tasks = ", ".join(config.tasks)
    if not data.tasks:
        raise InputError(f"tasks: no training frame has a label of {tasks}: train others")
    mask = data.parts["select"].mask
    if not any(mask[:, TASKS[task].labels].any() for task in data.tasks):
        raise InputError(
            f"tasks: no frame to select by has a label of {tasks}: change --confirm or --seed"
        )
    choose_device(config.training.device, "training.device")
    build_without_memory(config, len(data.mean), data.tasks)


def _command(arguments: argparse.Namespace) -> str:
    options = ("data", "out", "confirm", "seed", "cpus", "fold")
    given = {name: getattr(arguments, name) for name in options}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return "# " + shlex.join(["python", "sweeps/train.py", *flags, *arguments.overrides])


def _as_yaml(config: TrialConfig) -> str:
    text: str = yaml.safe_dump(config.plain(), sort_keys=False)
    return text


def _run(config: TrialConfig, data: TrialData, folder: TrialFolder, listing: Listing) -> None:
    checkpoint, weights = folder.load_checkpoint()
    if checkpoint is not None:
        print(f"going on with {folder.path}")
    job = Job("alone", config.plain(), checkpoint=checkpoint, weights=weights)
    noted: set[str] = set()
    try:
        for event in TrialLoop(job, config, data).events():
            if isinstance(event, Epoch):
                folder.write_epoch(event)
                print(_line(event.result, config.training.epochs))
                collapsed = {task for task, found in event.result["collapsed"].items() if found}
                if collapsed - noted:
                    print(_collapse_warning(event.result, config))
                noted = collapsed
            else:
                folder.write_end(event, listing)
                folder.remove_checkpoint()
    except Exception as error:
        folder.write_error("".join(traceback.format_exception(error)))
        raise


def _collapse_warning(result: Mapping[str, Any], config: TrialConfig) -> str:
    """Return the sentence that names the collapsed tasks, and how to avoid the collapse."""
    tasks = [task for task, collapsed in result["collapsed"].items() if collapsed]
    names = "all tasks" if len(tasks) == len(config.tasks) else ", ".join(tasks)
    is_post_norm = config.encoder.parameters.get("norm") == "post"
    return (
        f"warning: {names} collapsed: for two epochs in a row, the outputs on select are nearly "
        f"constant: lower optim.lr = {config.optim.lr:g}"
        + (", or set encoder.norm=pre" if is_post_norm else "")
    )


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
