"""Tests of the leaderboard: order of the trials, varied paths and failures."""

from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.pages.markdown import table
from sweeps.results.leaderboard import collapse_remarks, leaderboard
from sweeps.search_file.overrides import values_by_path, varied_paths


def trial(number: int, state: TrialState, values: list[float], **attributes: Any) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=values[-1] if state == TrialState.COMPLETE else None,
        intermediate_values=dict(enumerate(values, 1)),
        user_attrs={"overrides": [], "signature": f"signature{number}", **attributes},
    )
    made.number = number
    return made


TRIALS = [
    trial(0, TrialState.PRUNED, [0.4, 0.6], overrides=["encoder=gru", "head=mlp"]),
    trial(1, TrialState.COMPLETE, [0.5, 0.9, 1.1], overrides=["encoder=lstm", "head=mlp"]),
    trial(2, TrialState.FAIL, [0.5], reason="TrainingError: the loss is not finite"),
    trial(3, TrialState.COMPLETE, [0.5, 1.1], overrides=["encoder=gru", "head=mlp"], twin_of="x 1"),
]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_trials_are_listed_best_first_with_their_varied_paths():
    text = leaderboard("demo", {"demo": TRIALS}, ["a remark"])
    assert text.startswith("# demo\n\n- a remark\n")
    head, _, *trial_rows = rows(text)
    assert head == ["", "trial", "state", "epochs", "select", "encoder", "folder"]
    assert trial_rows == [
        ["1", "1", "complete", "3", "1.1000", "lstm", "signature1"],
        ["2", "3", "complete", "2", "1.1000", "gru", "signature3 (repeat)"],
        ["3", "0", "pruned", "2", "0.6000", "gru", "signature0"],
    ]
    assert text.rstrip().endswith("- demo 2: TrainingError: the loss is not finite")


def test_each_study_has_its_own_table():
    text = leaderboard("demo", {"demo/gru": TRIALS[:1], "demo/lstm": TRIALS[1:2]}, [])
    assert text.index("## demo/gru") < text.index("signature0") < text.index("## demo/lstm")
    assert "## Failed" not in text


def test_a_pruned_trial_without_an_epoch_has_no_value():
    text = leaderboard("demo", {"demo": [trial(9, TrialState.PRUNED, [])]}, [])
    assert rows(text)[2][:5] == ["1", "9", "pruned", "None", "nan"]


COLLAPSED = [
    trial(4, TrialState.PRUNED, [0.1, 0.1], reason="collapsed", collapsed_tasks=["valence"]),
    trial(5, TrialState.PRUNED, [0.1, 0.1], reason="collapsed"),
    trial(6, TrialState.COMPLETE, [0.7], collapsed_tasks=["valence", "expression"]),
    trial(7, TrialState.COMPLETE, [0.6], collapsed_tasks=["expression"]),
]


def test_collapsed_trials_are_marked_and_have_not_failed():
    text = leaderboard("demo", {"demo": [*TRIALS[:2], *COLLAPSED]}, [])
    assert [row[2] for row in rows(text)[2:]] == [
        "complete",
        "complete (collapsed: valence, expression)",
        "pruned",
        "complete (collapsed: expression)",
        "pruned (collapsed)",
        "pruned (collapsed)",
    ]
    assert "## Failed" not in text


def test_collapsed_trials_and_trials_with_collapsed_tasks_are_counted():
    pruned, others = collapse_remarks({"demo/a": COLLAPSED[:3], "demo/b": COLLAPSED[3:]})
    assert pruned.startswith("collapsed and pruned: 2 (the outputs of all tasks are nearly")
    assert others == "ended with collapsed tasks: 2 (valence 1, expression 2)"
    assert collapse_remarks({"demo": TRIALS}) == []


@pytest.mark.parametrize("kind", ["twin_of", "repeat_of", "fold_of"])
def test_collapsed_repeats_and_refits_are_not_counted(kind):
    again = [
        trial(8, TrialState.PRUNED, [0.1], reason="collapsed", **{kind: "demo 4"}),
        trial(9, TrialState.COMPLETE, [0.6], collapsed_tasks=["valence"], **{kind: "demo 6"}),
    ]
    assert collapse_remarks({"demo": again}) == []
    assert len(collapse_remarks({"demo": [*COLLAPSED, *again]})) == 2


def test_only_paths_with_several_values_are_varied():
    first, second = values_by_path(["a=1", "b=2", "c=x=3"]), values_by_path(["a=1", "b=3"])
    assert first["c"] == "x=3"
    assert varied_paths([first, second]) == ["b", "c"]


def test_a_tables_columns_line_up():
    assert table(["a", "long"], [["wide cell", "1"]]).splitlines() == [
        "| a         | long |",
        "| --------- | ---- |",
        "| wide cell | 1    |",
    ]
