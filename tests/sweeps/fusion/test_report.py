"""Tests of the fusion report: intervals, gains and the search optimism."""

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


ALTERNATIVE = {
    "select": {"p": 1.5, "interval": (1.25, 1.75)},
    "confirm": {"p": 1.25, "interval": (1.0, 1.5)},
    "minus_fused_raw": {"p_labelled": -0.125, "interval": {"p_labelled": (-0.25, 0.0)}},
}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_score_table_has_intervals_and_dashes_for_missing_scores():
    first, *others = rows(score_table(scores(), "confirm"))[2:]
    assert first[:3] == ["fused, post-processed", "1.250 [1.000, 1.500]", "0.5000"]
    assert first[4] == "-"
    assert [row[0] for row in others] == ["fused", "best single, post-processed", "best single"]
    with_ceiling = {**scores(), "ceiling": {"confirm": {**ONE, "p_labelled": 2.0}}}
    assert rows(score_table(with_ceiling, "confirm"))[-1][:2] == ["exact posterior", "2.0000"]


@pytest.mark.parametrize(
    ("low", "high", "is_gain"),
    [(0.125, 0.5, True), (-0.125, 0.5, False), (-0.5, -0.125, True)],
)
def test_a_gain_whose_interval_holds_0_is_marked(low, high, is_gain):
    text = gain(scores(1.25, low, high), "confirm")
    first, second = text.splitlines()[:2]
    assert first.startswith("fused minus best single on confirm, post-processed: +0.250 [")
    assert ("no gain that these 9 videos can show" not in first) == is_gain
    assert second.startswith("fused minus best single on confirm, raw: +0.000 [-1.000")


def test_the_search_optimism_is_reported_on_confirm():
    text = gain(scores(), "confirm")
    expected = "search optimism (select minus confirm): fused, post-processed +0.250; best single"
    assert expected in text
    assert "post-processed +0.125" in text
    assert "search optimism" not in gain(scores(), "select")
    assert "too optimistic" in gain(scores(), "select")


def test_without_confirm_the_summary_is_about_select():
    content = {**scores(), "confirm": None}
    assert summary(content).startswith("| select ")


def test_models_of_different_tasks_are_not_compared():
    content = scores()
    content["confirm"] = {**content["confirm"], "fused_minus_best_single": {"interval": {}}}
    assert gain(content, "confirm").endswith("not compared, no labels or different tasks")


def test_rules_and_sizes_are_listed_with_the_used_ones():
    content = {"method": "greedy", "rules": {"greedy": ALTERNATIVE, "top_k": ALTERNATIVE}}
    first, second = rows(rules_table(content))[2:]
    assert first == [
        "greedy (used)",
        "1.500 [1.250, 1.750]",
        "1.250 [1.000, 1.500]",
        "-0.125 [-0.250, +0.000]",
    ]
    assert second[0] == "top_k"
    sizes = [
        {"members": 1, "models": 2, "parameters": 12345, "frames_per_second": 1e4, **ALTERNATIVE}
    ]
    unknown = {"models": 7, "parameters": None, "frames_per_second": None}
    content |= {"small_ensembles": sizes, "cost": unknown}
    small, all_members = rows(sizes_table(content))[2:]
    assert small[:4] == ["1", "2", "12,345", "10,000"]
    assert all_members[:4] == ["all members", "7", "-", "-"]
    assert all_members[4:] == ["1.500 [1.250, 1.750]", "1.250 [1.000, 1.500]", "-"]
