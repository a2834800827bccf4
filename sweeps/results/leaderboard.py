"""A sweep in Markdown: its trials best first, and what failed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from optuna.trial import FrozenTrial, TrialState

from sweeps.pages.markdown import number, table
from sweeps.search_file.overrides import by_path, varied_paths


def leaderboard(
    name: str,
    trials: Mapping[str, Sequence[FrozenTrial]],
    remarks: Sequence[str],
) -> str:
    """The report of a sweep.

    Args:
        name: The sweep.
        trials: Each study's trials.
        remarks: What a reader must know to trust the numbers.
    """
    parts = [f"# {name}", *(f"- {remark}" for remark in remarks)]
    parts.append("What fusing them comes to: [fusion.md](fusion.md).")
    parts += [f"## {study}\n\n{_trial_table(found)}" for study, found in trials.items()]
    failed = [(study, t) for study, found in trials.items() for t in found if _failed(t)]
    if failed:
        lines = [f"- {study} {t.number}: {t.user_attrs.get('reason')}" for study, t in failed]
        parts.append("## Failed\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _trial_table(trials: Sequence[FrozenTrial]) -> str:
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    ended.sort(key=lambda t: (-last_value(t), t.number))
    varied = varied_paths([by_path(trial.user_attrs["overrides"]) for trial in ended])
    rows = [
        [
            str(place),
            str(trial.number),
            trial.state.name.lower(),
            str(trial.last_step),
            number(last_value(trial)),
            *(by_path(trial.user_attrs["overrides"]).get(path, "") for path in varied),
            trial.user_attrs["signature"] + (" (repeat)" if "twin_of" in trial.user_attrs else ""),
        ]
        for place, trial in enumerate(ended, 1)
    ]
    return table(["", "trial", "state", "epochs", "select", *varied, "folder"], rows)


def last_value(trial: FrozenTrial) -> float:
    """A trial's objective at its last epoch."""
    return float(trial.intermediate_values[trial.last_step]) if trial.last_step else float("nan")


def _failed(trial: FrozenTrial) -> bool:
    return bool(trial.state == TrialState.FAIL)


def ran_side_by_side(trials: Mapping[str, Sequence[FrozenTrial]]) -> bool:
    """Whether a trial was drawn before another had ended (retries are no draws)."""
    times = sorted(
        (trial.datetime_start, trial.datetime_complete or datetime.max)
        for study in trials.values()
        for trial in study
        if trial.datetime_start is not None and "retry_of" not in trial.user_attrs
    )
    return any(later[0] < earlier[1] for earlier, later in pairwise(times))
