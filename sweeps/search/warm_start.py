"""A sweep that starts with another one's finished trials: ``--from RUN``.

A trial is taken over where this sweep would train the very same config on the same data, with the
validation videos divided alike: where the signatures agree. Its folder is copied, if its weights
are still kept, so that it joins the fusion, and then its record written, so that the sampler learns
from it.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import Plan
from sweeps.planning.space import Space
from sweeps.search_file import SearchFile, load
from sweeps.search_file.ranges import stored
from sweeps.storage.run_folder import dataset_of
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import SweepStudy
from sweeps.study.journal import JOURNAL

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
AGREE = {
    "confirm": "its trials have seen what is confirm here",
    "seed": "its trials have seen what is confirm here",
    "metric": "its values say nothing of this one",
}
"""What must be the same under ``search``, and why."""


@dataclass(frozen=True)
class Earlier:
    """Another sweep's finished trials with predictions.

    Attributes:
        folder: Its ``runs/<name>``.
        trials: Each with the name of its study.
        compared: The compared values of each study.
    """

    folder: Path
    trials: tuple[tuple[str, FrozenTrial], ...]
    compared: Mapping[str, Mapping[str, Any]]


def read_earlier(folder: Path, file: SearchFile, dataset: Dataset, own: Path) -> Earlier:
    """Read another sweep's record, which may be growing, and leave it as it is.

    Raises:
        InputError: If it is no sweep, this very one, or one whose scores say nothing here.
    """
    if not (folder / "space.yaml").is_file() or not (folder / JOURNAL).is_file():
        raise InputError(f"--from {folder}: it is no sweep's folder: name one under runs/")
    if folder.resolve() == own.resolve():
        raise InputError(f"--from {folder}: it is this sweep's own folder: leave --from out")
    other = load(folder / "space.yaml")
    trained_on = dataset_of(folder)
    if trained_on != dataset.hash:
        raise InputError(
            f"--from {folder}: it was trained on other data (content {trained_on[:12]}, "
            f"{dataset.address} has {dataset.hash[:12]})"
        )
    for key, why in AGREE.items():
        theirs, ours = getattr(other.search, key), getattr(file.search, key)
        if theirs != ours:
            raise InputError(
                f"--from {folder}: search.{key} is {theirs} there and {ours} here: {why}; set "
                f"search.{key}={theirs}"
            )
    space = Space(other)
    combinations = space.comparisons()
    names = [f"{other.name}/{space.label(c)}" if c else other.name for c in combinations]
    compared = dict(zip(names, combinations, strict=True))
    return Earlier(folder, tuple(_finished(folder, compared)), compared)


def take_over(earlier: Earlier, plan: Plan, study: SweepStudy, folder: Path) -> str:
    """Take over what this sweep does not have yet; what was done, in a sentence."""
    taken = known = 0
    combinations = dict(zip(study.names(), plan.space.comparisons(), strict=True))
    for name, trial in earlier.trials:
        sign = trial.user_attrs["signature"]
        if study.knows(sign):
            known += 1
            continue
        for own, combination in combinations.items():
            params = {**trial.params, **_as_stored(earlier.compared[name])}
            replayed = _replayed(plan, combination, params)
            if replayed and signature(compose(replayed[0]), plan.dataset.hash) == sign:
                source = earlier.folder / "trials" / sign
                if _has_weights(source):  # else it could be fused here, and not exported
                    _copy(source, folder / "trials" / sign)
                origin = f"{earlier.folder.name}: {name} {trial.number}"
                study.adopt(own, trial, replayed[1], replayed[0], origin)
                taken += 1
                break
    outside = len(earlier.trials) - taken - known
    return (
        f"{taken} of {len(earlier.trials)} finished trials of {earlier.folder} taken over"
        + (f", {known} are known here already" if known else "")
        + (f", {outside} lie outside this space" if outside else "")
    )


def _finished(folder: Path, compared: Mapping[str, Any]) -> list[tuple[str, FrozenTrial]]:
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / JOURNAL
        journal = (folder / JOURNAL).read_bytes()
        copy.write_bytes(journal[: journal.rfind(b"\n") + 1])  # another driver may be writing
        storage = JournalStorage(JournalFileBackend(str(copy)))
        return [
            (name, trial)
            for name in optuna.get_all_study_names(storage)
            if name in compared
            for trial in optuna.load_study(study_name=name, storage=storage).get_trials()
            if trial.state in FINISHED
            and "twin_of" not in trial.user_attrs
            and _predictions(folder, trial).exists()
        ]


def _predictions(folder: Path, trial: FrozenTrial) -> Path:
    return folder / "trials" / str(trial.user_attrs["signature"]) / "predictions.parquet"


def _as_stored(combination: Mapping[str, Any]) -> dict[str, Any]:
    return {path: stored(value) for path, value in combination.items()}


def _replayed(
    plan: Plan, combination: Mapping[str, Any], params: Mapping[str, Any]
) -> tuple[list[str], FixedTrial] | None:
    """The point of this sweep's space with these parameters: overrides, and the trial that gave
    them; None if it has none.
    """
    trial = FixedTrial(dict(params))
    with warnings.catch_warnings():
        # Of a value outside a range Optuna only warns.
        warnings.simplefilter("error", UserWarning)
        try:
            return plan.space.sample(trial, combination), trial
        except (ValueError, UserWarning):
            return None


def _has_weights(trial: Path) -> bool:
    file = trial / "scores.json"
    epochs = json.loads(file.read_text())["epochs"].values() if file.is_file() else [0]
    return all(TrialFolder(trial).weights_file(epoch).is_file() for epoch in epochs)


def _copy(source: Path, target: Path) -> None:
    """Whole, or not there."""
    if target.exists():
        return
    draft = target.parent.parent / "taken_over.unfinished"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns("checkpoint.safetensors"))
    target.parent.mkdir(exist_ok=True)
    draft.rename(target)
