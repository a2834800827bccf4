"""Leaderboard of a sweep in Markdown: finished trials, the best first, and failed trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from optuna.trial import FrozenTrial, TrialState

from sweeps.pages.markdown import number, table
from sweeps.search_file.overrides import values_by_path, varied_paths
from sweeps.study.proposal import COLLAPSED, COLLAPSED_TASKS
from sweeps.study.record import last_value

REPEATS = {"twin_of", "repeat_of", "fold_of"}
"""User attributes of trials with the config of another trial, apart from seed and folds."""


def leaderboard(
    name: str,
    trials: Mapping[str, Sequence[FrozenTrial]],
    remarks: Sequence[str],
) -> str:
    """Return the leaderboard as a Markdown page.

    Args:
        name: Name of the sweep.
        trials: Trials of each Optuna study of the sweep, by the study's name.
        remarks: Sentences for the top of the page, such as the number of trials by state.
    """
    sections = [f"# {name}", *(f"- {remark}" for remark in remarks)]
    sections.append("Scores of the fused model: [fusion.md](fusion.md).")
    sections += [f"## {study}\n\n{_trial_table(of_study)}" for study, of_study in trials.items()]
    failed = [(study, t) for study, of_study in trials.items() for t in of_study if _has_failed(t)]
    if failed:
        lines = [f"- {study} {t.number}: {t.user_attrs.get('reason')}" for study, t in failed]
        sections.append("## Failed\n\n" + "\n".join(lines))
    return "\n\n".join(sections) + "\n"


def ran_side_by_side(trials: Mapping[str, Sequence[FrozenTrial]]) -> bool:
    """Return True if any trial was proposed by the sampler while another trial was running.

    Retries of failed trials do not count, because the sampler does not propose them.

    Args:
        trials: Trials of each Optuna study of the sweep, by the study's name.
    """
    times = sorted(
        (trial.datetime_start, trial.datetime_complete or datetime.max)
        for study in trials.values()
        for trial in study
        if trial.datetime_start is not None and "retry_of" not in trial.user_attrs
    )
    return any(later[0] < earlier[1] for earlier, later in pairwise(times))


def collapse_remarks(trials: Mapping[str, Sequence[FrozenTrial]]) -> list[str]:
    """Return the numbers of collapsed trials and of trials that ended with collapsed tasks.

    A task has collapsed if its outputs are nearly constant. If all tasks of a trial have collapsed,
    the trial is pruned, unless it repeats another trial. Trials that repeat another one, with the
    same seed, another one or on a fold, do not count. A number is left out if it is 0.

    Args:
        trials: Trials of each Optuna study of the sweep, by the study's name.
    """
    found = [
        trial
        for of_study in trials.values()
        for trial in of_study
        if not REPEATS & trial.user_attrs.keys()
    ]
    pruned = [trial for trial in found if trial.user_attrs.get("reason") == COLLAPSED]
    others = [
        trial.user_attrs[COLLAPSED_TASKS]
        for trial in found
        if COLLAPSED_TASKS in trial.user_attrs and trial.user_attrs.get("reason") != COLLAPSED
    ]
    remarks = []
    if pruned:
        remarks.append(
            f"collapsed and pruned: {len(pruned)} (the outputs of all tasks are nearly constant; "
            "if these are many, lower optim.lr, or set encoder.norm=pre for transformers)"
        )
    if others:
        by_task = Counter(task for tasks in others for task in tasks)
        counts = ", ".join(f"{task} {count}" for task, count in by_task.items())
        remarks.append(f"ended with collapsed tasks: {len(others)} ({counts})")
    return remarks


def _trial_table(trials: Sequence[FrozenTrial]) -> str:
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    ended.sort(key=lambda t: (-_last_objective(t), t.number))
    varied = varied_paths([values_by_path(trial.user_attrs["overrides"]) for trial in ended])
    rows = [
        [
            str(place),
            str(trial.number),
            _state(trial),
            str(trial.last_step),
            number(_last_objective(trial)),
            *(values_by_path(trial.user_attrs["overrides"]).get(path, "") for path in varied),
            trial.user_attrs["signature"] + (" (repeat)" if "twin_of" in trial.user_attrs else ""),
        ]
        for place, trial in enumerate(ended, 1)
    ]
    return table(["", "trial", "state", "epochs", "select", *varied, "folder"], rows)


def _state(trial: FrozenTrial) -> str:
    """Return a trial's state as text, with its collapsed tasks in brackets if there are any."""
    state = trial.state.name.lower()
    if trial.user_attrs.get("reason") == COLLAPSED:
        return f"{state} ({COLLAPSED})"
    tasks = trial.user_attrs.get(COLLAPSED_TASKS, ())
    return f"{state} ({COLLAPSED}: {', '.join(tasks)})" if tasks else state


def _last_objective(trial: FrozenTrial) -> float:
    """Return the objective that a trial reported after its last epoch; NaN if it reported none."""
    value = last_value(trial)
    return float("nan") if value is None else value


def _has_failed(trial: FrozenTrial) -> bool:
    return bool(trial.state == TrialState.FAIL)
