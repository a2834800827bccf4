"""Plan of a sweep: the search file, checked against its dataset before training starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch

from mtl.build_model import build_model
from mtl.config import TrialConfig
from mtl.dataset import Dataset, Listing
from mtl.errors import InputError
from mtl.models.frameworks import FRAMEWORKS, Framework
from mtl.sequences.folds import cut_folds, fold_parts, select_videos, with_splits
from mtl.sequences.join import trained_tasks
from mtl.strict import did_you_mean
from mtl.tasks import TASKS
from sweeps.planning.compose import compose
from sweeps.planning.first_points import FirstPoints, first_configs, first_places, first_points
from sweeps.planning.joins import Lengths, check_joins
from sweeps.planning.space import Space
from sweeps.search_file import SearchFile
from sweeps.study.pruner import rungs

SAMPLED_CONFIGS = 50
"""Number of random points of the search space for which a model is built as a check."""


class SizedConfig(NamedTuple):
    """Config of a trial, and the number of parameters of its model."""

    config: TrialConfig
    parameters: int


@dataclass(frozen=True)
class Plan:
    """Search file that was checked against its dataset, and facts that follow from both.

    Attributes:
        file: The search file.
        space: The search file's space.
        first: Points of the space that are trained first.
        dataset: The dataset.
        listing: All frames named in the dataset's annotation files (listed frames).
        parts: Video's name -> split: ``train``, ``select``, ``confirm`` or ``test``.
        feature_sets: Names of the feature sets that some config of the space uses.
        all_frames: True if some config trains on unlisted frames too.
        labelled_tasks: Tasks with a training label, in the search space or not.
        tasks: Tasks that some config of the space trains.
        parameters: Pair: number of parameters of the smallest sampled model, and of the largest
            model of the space.
        sampled: Random configs of the space.
        given: Random completions of the points that are trained first.
        lengths: Number of frames of each video, for each way in which configs choose frames.
        epochs: Largest number of epochs of a config.
        missing_features: One sentence for each combination of feature sets that some listed frames
            lack: the number of these frames and their treatment.
        folds: For each fold on which the ensemble is trained again, a dict like ``parts``, used
            while this fold is held out; empty without folds.
    """

    file: SearchFile
    space: Space
    first: FirstPoints
    dataset: Dataset
    listing: Listing
    parts: dict[str, str]
    feature_sets: tuple[str, ...]
    all_frames: bool
    labelled_tasks: tuple[str, ...]
    tasks: tuple[str, ...]
    parameters: tuple[int, int]
    sampled: tuple[SizedConfig, ...]
    given: tuple[SizedConfig, ...]
    lengths: Lengths
    epochs: int
    missing_features: tuple[str, ...]
    folds: tuple[dict[str, str], ...]

    def video_lengths(self, config: TrialConfig) -> Mapping[str, int]:
        """Return the number of frames of each video for a config.

        A config with a combination of feature sets and frames that was not sampled gets the numbers
        of another one with the same frames, which differ by the frames without features only.

        Args:
            config: A config of the space.
        """
        frames = config.sequence.frames
        alike = [found for (_, other), found in self.lengths.items() if other == frames]
        others = [*alike, *self.lengths.values()]
        return self.lengths.get((config.features, frames), others[0])

    def rungs(self, epochs: int) -> frozenset[int]:
        """Return the rungs (epochs at which a trial may be pruned) of a trial.

        Args:
            epochs: Number of epochs of the trial.
        """
        pruner = self.file.pruner
        if pruner.kind == "none":
            return frozenset()
        return frozenset(rungs(pruner.min_epochs, pruner.reduction_factor, epochs))


def make_plan(file: SearchFile, dataset: Dataset) -> Plan:
    """Check a search file against a dataset and return both with facts that follow from them.

    Args:
        file: The search file.
        dataset: The dataset.

    Raises:
        InputError: If a trial would certainly fail: a value that does not compose, a model that
            cannot be built, a missing feature set or missing labels.
    """
    listing = dataset.listing()
    space = Space(file)
    checked = space.check(compose)
    studies = len(space.comparisons())
    if file.search.trials < studies:
        raise InputError(
            f"{file.source}: search.trials = {file.search.trials} is fewer than the {studies} "
            "compared values: give each at least one"
        )
    first = first_points(space)
    sampled, given = _sample(space, file.search.seed), _first_configs(space, first)
    configs = [*checked, *sampled, *given]
    feature_sets = tuple(dict.fromkeys(name for config in configs for name in config.features))
    for name in feature_sets:
        if name not in dataset.feature_sets():
            known = dataset.feature_sets()
            raise InputError(
                f"{file.source}: features: the dataset {dataset.address} has no set {name!r}"
                f"{did_you_mean(name, known)}"
            )
    if not file.resources.gpus_per_worker and any(c.training.device == "cuda" for c in configs):
        raise InputError(
            f"{file.source}: training.device = 'cuda' needs a GPU for each worker: set "
            "resources.gpus_per_worker = 1, or leave training.device at auto"
        )
    parts = divide(listing, file.search.confirm, file.search.seed)
    labelled = trained_tasks(TASKS, listing)
    tasks = _check_labels(configs, listing, labelled, parts, file)
    sized = tuple(SizedConfig(c, count_parameters(c, dataset, tasks)) for c in sampled)
    try:
        first_sized = tuple(SizedConfig(c, count_parameters(c, dataset, tasks)) for c in given)
    except InputError as error:
        raise InputError(f"{first_places(file)}: {error}") from None
    counts = [parameters for _, parameters in (*sized, *first_sized)]
    folds = _cut_folds(listing, file, tasks)
    missing_features, lengths = check_joins(configs, dataset, listing, parts, folds)
    return Plan(
        file=file,
        space=space,
        first=first,
        dataset=dataset,
        listing=listing,
        parts=parts,
        feature_sets=feature_sets,
        all_frames=any(config.sequence.frames == "all" for config in configs),
        labelled_tasks=labelled,
        tasks=tasks,
        parameters=(min(counts), max(*counts, _largest_model(space, dataset, tasks))),
        sampled=sized,
        given=first_sized,
        lengths=lengths,
        epochs=max(config.training.epochs for config in configs),
        missing_features=missing_features,
        folds=folds,
    )


def divide(listing: Listing, confirm: float, seed: int) -> dict[str, str]:
    """Return the split of each video, with the validation videos divided by subject.

    The validation videos become ``select`` (videos on which choices are made) and ``confirm``
    (videos held back for the final scores).

    Args:
        listing: All frames named in the dataset's annotation files.
        confirm: Share of the validation videos that become ``confirm``.
        seed: Seed of the division.

    Returns:
        Name of each video -> ``train``, ``select``, ``confirm`` or ``test``.

    Raises:
        InputError: If there are no validation videos, or too few subjects to divide.
    """
    videos = list(zip(listing.names, listing.splits, listing.subjects, strict=True))
    validation = [(name, subject) for name, split, subject in videos if split == "validation"]
    if not validation:
        raise InputError(
            "the dataset lists no training and validation frames: it can only be predicted, by "
            "sweeps/predict.py"
        )
    names, subjects = zip(*validation, strict=True)
    chosen = select_videos(names, subjects, confirm, seed)
    return {name: chosen.get(name, split) for name, split, _ in videos}


def _cut_folds(
    listing: Listing, file: SearchFile, tasks: Sequence[str]
) -> tuple[dict[str, str], ...]:
    """Return for each fold a dict: video's name -> split, used while the fold is held out.

    An InputError is raised if a fold leaves a task without labels to train on or to select by.
    """
    folds = file.refit.folds
    if not folds:
        return ()
    cut = cut_folds(listing, folds)
    found = []
    for fold in range(folds):
        parts: dict[str, str] = dict(fold_parts(cut, listing, fold, folds))
        trained = trained_tasks(tasks, with_splits(listing, parts))
        select = np.array([parts[name] == "select" for name in listing.names])[listing.video]
        for task in tasks:
            labelled = listing.mask[select][:, TASKS[task].labels].any()
            if task not in trained or not labelled:
                raise InputError(
                    f"{file.source}: refit.folds = {folds} leaves fold {fold} without a label of "
                    f"{task} to {'select by' if task in trained else 'train on'}: set fewer, or 0"
                )
        found.append(parts)
    return tuple(found)


def _sample(space: Space, seed: int) -> list[TrialConfig]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    combinations = space.comparisons()
    return [
        compose(space.sample(study.ask(), combinations[number % len(combinations)]))
        for number in range(SAMPLED_CONFIGS)
    ]


def _first_configs(space: Space, first: FirstPoints) -> list[TrialConfig]:
    try:
        return first_configs(space, first)
    except InputError as error:
        raise InputError(f"{first_places(space.file)}: {error}") from None


def _largest_model(space: Space, dataset: Dataset, tasks: Sequence[str]) -> int:
    """Return the number of parameters of the space's largest model; 0 if none can be built."""

    def size(point: tuple[str, ...]) -> int:
        try:
            return count_parameters(compose(point), dataset, tasks)
        except InputError:  # not every value goes with the largest of the others
            return 0

    return space.largest(size)


def _check_labels(
    configs: Sequence[TrialConfig],
    listing: Listing,
    trained: Sequence[str],
    parts: dict[str, str],
    file: SearchFile,
) -> tuple[str, ...]:
    """Return the tasks that are trained; raise InputError if labels are missing.

    Each config needs a task with training labels and with labels on ``select`` (validation videos
    on which choices are made).
    """
    select = np.array([parts[name] == "select" for name in listing.names])[listing.video]
    known = listing.mask[select].any(axis=0)
    for tasks in sorted({config.tasks for config in configs}):
        here = [task for task in tasks if task in trained]
        if not here:
            raise InputError(
                f"{file.source}: tasks = {list(tasks)}: no training frame has a label of "
                f"{' or '.join(tasks)}: train others, of {', '.join(trained) or 'none'}"
            )
        if not any(known[TASKS[task].labels].any() for task in here):
            raise InputError(
                f"{file.source}: search.confirm = {file.search.confirm} leaves no frame with a "
                f"label of {' or '.join(here)} to select on: change search.confirm or search.seed"
            )
        metric = file.search.metric
        if metric != "score" and not (metric in here and known[TASKS[metric].labels].any()):
            raise InputError(
                f"{file.source}: search.metric = {metric!r} has no label to train and select by: "
                "use score"
            )
        _check_wirings([config for config in configs if config.tasks == tasks], here, file)
    varied = {task for config in configs for task in config.tasks}
    return tuple(task for task in trained if task in varied)


def _check_wirings(
    configs: Sequence[TrialConfig], trained: Sequence[str], file: SearchFile
) -> None:
    """Raise InputError if a framework, in which tasks share encoders, does not fit the tasks."""
    try:
        for config in configs:
            FRAMEWORKS[config.framework.name].check(trained, **config.framework.parameters)
    except InputError as error:
        raise InputError(f"{file.source}: {error}") from None


def count_parameters(config: TrialConfig, dataset: Dataset, trained: Sequence[str]) -> int:
    """Return the number of parameters of a config's model, without allocating them.

    Args:
        config: The config.
        dataset: The dataset, which has the widths of the feature sets.
        trained: Tasks that have labels; the config's other tasks get no head.

    Raises:
        InputError: If the model cannot be built.
    """
    tasks = [task for task in config.tasks if task in trained]
    model = build_without_memory(config, sum(map(dataset.width, config.features)), tasks)
    return sum(parameter.numel() for parameter in model.parameters())


def check_first(
    space: Space, point: Mapping[str, Any], dataset: Dataset, tasks: Sequence[str]
) -> None:
    """Check that models can be built of random completions of a first point.

    Args:
        space: The search space.
        point: The point, config key -> value.
        dataset: The dataset.
        tasks: Tasks that have labels.

    Raises:
        InputError: If the point is not in the space, or a completion of it gives no config, or no
            model for this dataset.
    """
    file = space.file.model_copy(
        update={"search": space.file.search.model_copy(update={"first": (point,)})}
    )
    alone = Space(file)
    for config in first_configs(alone, first_points(alone)):
        count_parameters(config, dataset, tasks)


def build_without_memory(config: TrialConfig, width: int, tasks: Sequence[str]) -> Framework:
    """Return a config's model whose parameters have shapes but no values, and take no memory.

    Args:
        config: The config.
        width: Number of input features of a frame.
        tasks: Tasks that get a head.

    Raises:
        InputError: If the model cannot be built.
    """
    try:
        with torch.device("meta"):
            return build_model(config, width, tasks)
    except (RuntimeError, TypeError) as error:  # TypeError of a width above 64 bits
        first = str(error).splitlines()[0]
        raise InputError(f"no model can be built of {config.encoder}: {first}") from None
