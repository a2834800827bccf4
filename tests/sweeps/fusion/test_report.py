"""A fused model in words: intervals, what is called a gain, what the search flatters itself by."""

from typing import Any

import pytest

from sweeps.fusion.report import gain, rules_table, score_table, sizes_table, summary

ONE = {
    "p_labelled": 1.0,
    "ccc_valence": 0.5,
    "ccc_arousal": 0.25,
    "f1_expression": None,
    "f1_action_units": 0.625,
}


def scores(fused: float = 1.25, low: float = 0.125, high: float = 0.5) -> dict[str, Any]:
    minus = {"p_labelled": fused - 1.0, "interval": {"p_labelled": (low, high)}}
    models: dict[str, Any] = {
        "fused": {**ONE, "p_labelled": fused, "interval": {"p_labelled": (1.0, 1.5)}},
        "fused_raw": ONE,
        "best_single": ONE,
        "best_single_raw": ONE,
        "fused_minus_best_single": minus,
        "fused_raw_minus_best_single_raw": {"p_labelled": 0, "interval": {"p_labelled": (-1, 1)}},
    }
    optimism = {"fused": 0.25, "best_single": 0.125}
    videos = {"select": 7, "confirm": 9}
    return {"select": models, "confirm": models, "videos": videos, "search_optimism": optimism}


WAY = {
    "select": {"p": 1.5, "interval": (1.25, 1.75)},
    "confirm": {"p": 1.25, "interval": (1.0, 1.5)},
    "minus_fused_raw": {"p_labelled": -0.125, "interval": {"p_labelled": (-0.25, 0.0)}},
}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_score_table_has_intervals_where_there_are_and_dashes_for_none():
    first, *others = rows(score_table(scores(), "confirm"))[2:]
    assert first[:3] == ["fused, post-processed", "1.250 [1.000, 1.500]", "0.5000"]
    assert first[4] == "-"
    assert [row[0] for row in others] == ["fused", "best single, post-processed", "best single"]
    with_ceiling = {**scores(), "ceiling": {"confirm": {**ONE, "p_labelled": 2.0}}}
    assert rows(score_table(with_ceiling, "confirm"))[-1][:2] == ["exact posterior", "2.0000"]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.125, 0.5, True), (-0.125, 0.5, False), (-0.5, -0.125, True)],
)
def test_a_gain_that_may_be_chance_is_called_that(low, high, shown):
    text = gain(scores(1.25, low, high), "confirm")
    first, second = text.splitlines()[:2]
    assert first.startswith("fused minus best single on confirm, post-processed: +0.250 [")
    assert ("no gain that these 9 videos can show" not in first) == shown
    assert second.startswith("fused minus best single on confirm, raw: +0.000 [-1.000")


def test_the_search_says_how_much_it_flatters_itself():
    text = gain(scores(), "confirm")
    said = "search optimism (select minus confirm): fused, post-processed +0.250; best single"
    assert said in text
    assert "post-processed +0.125" in text
    assert "search optimism" not in gain(scores(), "select")
    assert "too optimistic" in gain(scores(), "select")


def test_without_confirm_the_summary_speaks_of_select():
    found = {**scores(), "confirm": None}
    assert summary(found).startswith("| select ")


def test_not_the_same_tasks_is_said():
    found = scores()
    found["confirm"] = {**found["confirm"], "fused_minus_best_single": {"interval": {}}}
    assert gain(found, "confirm").endswith("not compared, no labels or different tasks")


def test_rules_and_sizes_stand_beside_what_was_used():
    found = {"method": "greedy", "rules": {"greedy": WAY, "top_k": WAY}}
    first, second = rows(rules_table(found))[2:]
    assert first == [
        "greedy (used)",
        "1.500 [1.250, 1.750]",
        "1.250 [1.000, 1.500]",
        "-0.125 [-0.250, +0.000]",
    ]
    assert second[0] == "top_k"
    sizes = [{"members": 1, "models": 2, "parameters": 12345, "frames_per_second": 1e4, **WAY}]
    unknown = {"models": 7, "parameters": None, "frames_per_second": None}
    found |= {"small_ensembles": sizes, "cost": unknown}
    small, whole = rows(sizes_table(found))[2:]
    assert small[:4] == ["1", "2", "12,345", "10,000"]
    assert whole[:4] == ["all members", "7", "-", "-"]
    assert whole[4:] == ["1.500 [1.250, 1.750]", "1.250 [1.000, 1.500]", "-"]
