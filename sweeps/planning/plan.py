"""What a sweep will do, checked and said before anything expensive starts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import torch

from mtl.build_model import build_model
from mtl.config import TrialConfig
from mtl.dataset import Dataset, Listing
from mtl.errors import InputError
from mtl.losses.balancing import BALANCINGS
from mtl.models.frameworks import FRAMEWORKS
from mtl.sequences.feature_table import index_table
from mtl.sequences.folds import cut_folds, fold_parts, select_videos, with_splits
from mtl.sequences.join import join, trained_tasks
from mtl.strict import did_you_mean
from mtl.tasks import TASKS
from sweeps.planning.compose import compose
from sweeps.planning.space import Space
from sweeps.search_file import SearchFile
from sweeps.study.pruner import rungs

SAMPLED_CONFIGS = 50


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        parts: The part of each video: ``train``, ``select``, ``confirm`` or ``test``.
        feature_sets: All that some config of the space uses.
        all_frames: Whether some config walks over unlisted frames.
        parameters: Smallest and largest model among the sampled configs.
        lost: What joining the feature sets loses, a sentence each.
        folds: The part of each video where each fold of the refit is held out.
    """

    file: SearchFile
    space: Space
    dataset: Dataset
    listing: Listing
    parts: dict[str, str]
    feature_sets: tuple[str, ...]
    all_frames: bool
    tasks: tuple[str, ...]
    parameters: tuple[int, int]
    epochs: int
    lost: tuple[str, ...]
    folds: tuple[dict[str, str], ...]

    def rungs(self, epochs: int) -> frozenset[int]:
        """The epochs of a trial at which it may be pruned."""
        pruner = self.file.pruner
        if pruner.kind == "none":
            return frozenset()
        return frozenset(rungs(pruner.min_epochs, pruner.reduction_factor, epochs))


def make_plan(file: SearchFile, dataset: Dataset) -> Plan:
    """Check a search file against a dataset.

    Raises:
        InputError: Whatever would make a trial fail for certain: a value that does not compose, a
            model that cannot be built, a feature set or labels that are not there.
    """
    listing = dataset.listing()
    seen: list[TrialConfig] = []

    def recorded(overrides: Sequence[str]) -> TrialConfig:
        seen.append(compose(overrides))
        return seen[-1]

    space = Space(file, compose=recorded)
    space.check()
    studies = len(space.comparisons())
    if file.search.trials < studies:
        raise InputError(
            f"{file.source}: search.trials = {file.search.trials} is fewer than the {studies} "
            "compared values: give each at least one"
        )
    sampled = _sample(space, file.search.seed)
    configs = [*seen, *sampled]
    feature_sets = tuple(dict.fromkeys(name for config in configs for name in config.features))
    for name in feature_sets:
        if name not in dataset.feature_sets():
            known = dataset.feature_sets()
            raise InputError(
                f"{file.source}: features: the dataset {dataset.address} has no set {name!r}"
                f"{did_you_mean(name, known)}"
            )
    parts = divide(listing, file.search.confirm, file.search.seed)
    tasks = _check_labels(configs, listing, parts, file)
    counts = [_parameters(config, dataset, tasks) for config in sampled]
    folds = _cut_folds(listing, file, tasks)
    return Plan(
        file=file,
        space=Space(file),
        dataset=dataset,
        listing=listing,
        parts=parts,
        feature_sets=feature_sets,
        all_frames=any(config.sequence.frames == "all" for config in configs),
        tasks=tasks,
        parameters=(min(counts), max(counts)),
        epochs=max(config.training.epochs for config in configs),
        lost=_check_joins(configs, dataset, listing, parts, folds),
        folds=folds,
    )


def divide(listing: Listing, confirm: float, seed: int) -> dict[str, str]:
    """The part of each video; validation videos are divided by subject and seed."""
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
    """The parts of each fold of the refit; each must be able to train what the sweep trains."""
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


def _check_labels(
    configs: Sequence[TrialConfig], listing: Listing, parts: dict[str, str], file: SearchFile
) -> tuple[str, ...]:
    """The tasks that are trained, each with labels to train on and to select by."""
    trained = trained_tasks(TASKS, listing)
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
    """What a framework or a balancing needs of the tasks that are trained, and of the workers."""
    workers = file.resources.workers_per_trial
    for config in configs:
        try:
            FRAMEWORKS[config.framework.name].check(trained, **config.framework.parameters)
        except InputError as error:
            raise InputError(f"{file.source}: {error}") from None
        if workers > 1 and BALANCINGS[config.balancing.name].single_worker_only:
            raise InputError(
                f"{file.source}: balancing = {config.balancing.name!r} needs each task's own "
                f"gradient: set resources.workers_per_trial = 1, not {workers}"
            )


def _parameters(config: TrialConfig, dataset: Dataset, trained: Sequence[str]) -> int:
    tasks = [task for task in config.tasks if task in trained]
    try:
        with torch.device("meta"):
            model = build_model(config, sum(map(dataset.width, config.features)), tasks)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"no model can be built of {config.encoder}: {first}") from None
    return sum(parameter.numel() for parameter in model.parameters())


def _check_joins(
    configs: Sequence[TrialConfig],
    dataset: Dataset,
    listing: Listing,
    parts: Mapping[str, str],
    folds: Sequence[Mapping[str, str]],
) -> tuple[str, ...]:
    """Join the indices of each combination of feature sets, without reading a feature."""
    combinations = dict.fromkeys(config.features for config in configs)
    tables = {n: index_table(n, dataset.index(n)) for features in combinations for n in features}
    lost = []
    for features in combinations:
        joined = join(listing, [tables[name] for name in features])
        for part in ("train", "select"):
            if not any(parts[name] == part for name in joined):
                raise InputError(
                    f"feature sets {', '.join(features)}: no {part} video has a listed frame with "
                    "all of them: extract them, or change search.seed"
                )
            for fold, held_out in enumerate(folds):
                if not any(held_out[name] == part for name in joined):
                    raise InputError(
                        f"feature sets {', '.join(features)}: where refit.folds = {len(folds)} "
                        f"holds fold {fold} out, no {part} video has a listed frame with all of "
                        "them: extract them, or set fewer folds"
                    )
        lost += _lost(
            listing, parts, {name: len(video) for name, video in joined.items()}, features
        )
    return tuple(lost)


def _lost(
    listing: Listing, parts: Mapping[str, str], joined: Mapping[str, int], features: Sequence[str]
) -> list[str]:
    """What becomes of the listed frames without features, a sentence if there are any."""
    untrained = nearest = prior = 0
    for number, listed in Counter(listing.video.tolist()).items():
        name = listing.names[number]
        missing = listed - joined.get(name, 0)
        if parts[name] == "train":
            untrained += missing
        elif name in joined:
            nearest += missing
        else:
            prior += missing
    if not untrained + nearest + prior:
        return []
    return [
        f"{'+'.join(features)}: of the listed frames without features {untrained} are not trained "
        f"on, {nearest} are predicted from their video's nearest frame, {prior} from the training "
        "labels' mean"
    ]
