"""Tests of a sweep's comparison: scores on confirm from stored predictions, tables and plots."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtl.evaluation.comparison import ALL, Difference, VariantScores
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions, outputs_of
from mtl.tasks import TASKS
from sweeps.planning.plan import Plan, make_plan
from sweeps.planning.space import Space
from sweeps.results import difference_plots
from sweeps.results.comparison import affinity, affinity_table, compare_sweep, comparison_table
from tests.support.small_data import make_dataset, search_file

SEEDS = 2


class Compared:
    """Finished sweep that compares the values of ``by``; each value is better than the last."""

    def __init__(self, tmp_path: Path, by: str, values: Any, **changes: Any) -> None:
        space = {by: values, "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True}}
        compare = {"by": [by], "seeds": SEEDS}
        self.file = search_file(tmp_path, compare=compare, space=space, **changes)
        self.plan: Plan = make_plan(self.file, make_dataset(tmp_path / "data"))
        self.folder = tmp_path / "run"
        self.labels = list(self.plan.space.comparisons())
        self.outputs: dict[str, list[np.ndarray]] = {}

    def repeats(self) -> dict[str, list[Any]]:
        """Write the predictions of all trials and return the trials as a study does."""
        found: dict[str, list[Any]] = {}
        listing = self.plan.listing
        of_frame = np.array([self.plan.parts[name] for name in listing.names])[listing.video]
        rows = np.flatnonzero(of_frame != "train")
        for place, (label, chosen) in enumerate(zip(labels(self.plan), self.labels, strict=True)):
            for seed in range(SEEDS):
                signature = f"{place}-{seed}"
                random = np.random.default_rng([place, seed])
                exact = outputs_of(listing.values[rows], np.ones((len(rows), 15), bool))
                noise = random.normal(size=exact.shape) * 3 / (1 + place)
                outputs = (exact + noise).astype(np.float32)
                for task in TASKS.values():
                    if task.name not in chosen.get("tasks", TASKS):
                        outputs[:, task.outputs] = np.nan
                (self.folder / "trials" / signature).mkdir(parents=True, exist_ok=True)
                video, frame = listing.video[rows], listing.frame[rows]
                file = self.folder / "trials" / signature / "predictions.parquet"
                Predictions(video, frame, listing.names, outputs).save(file)
                trial = SimpleNamespace(user_attrs={"signature": signature})
                found.setdefault(f"small/{label}", []).append(trial)
                confirm = of_frame[rows] == "confirm"
                known = listing.values[rows][confirm], listing.mask[rows][confirm]
                self.outputs.setdefault(label, []).append(scores(outputs[confirm], *known))
        return found


def labels(plan: Plan) -> Sequence[str]:
    return [Space.label(chosen) for chosen in plan.space.comparisons()]


def test_the_table_holds_means_over_seeds_of_scores_on_confirm(tmp_path: Path) -> None:
    sweep = Compared(tmp_path, "encoder", {"values": ["gru", "lstm", "transformer"]})
    text = compare_sweep(sweep.folder, sweep.plan, sweep)
    assert text is not None
    report = sweep.folder / "report"
    assert (report / "comparison.md").read_text() == text
    written = json.loads((report / "comparison.json").read_text())
    assert written["part"] == "confirm"
    for label, seeds in sweep.outputs.items():
        expected = [score["p_labelled"] for score in seeds]
        assert written["standings"][ALL][label]["scores"] == pytest.approx(expected)
        assert f"| {label:11} | {np.mean(expected):.3f}" in text
    assert "Means over 2 seeds of scores pooled over the 2 videos of confirm, before post" in text
    page = (report / "comparison.html").read_text()
    assert "small: comparison" in page
    assert "src=" not in page.split("<script")[0]


def test_without_confirm_the_scores_are_those_of_select(tmp_path: Path) -> None:
    encoders = {"values": ["gru", "lstm"]}
    search = {"trials": 4, "seed": 3, "confirm": 0}
    sweep = Compared(tmp_path, "encoder", encoders, search=search)
    text = compare_sweep(sweep.folder, sweep.plan, sweep)
    assert text is not None
    assert "videos of select, before post-processing" in text


def test_one_value_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Compared(tmp_path, "encoder", {"values": ["gru", "lstm"]})
    (name, trials), *_ = sweep.repeats().items()
    monkeypatch.setattr(sweep, "repeats", lambda: {name: trials})
    assert compare_sweep(sweep.folder, sweep.plan, sweep) is None
    assert not (sweep.folder / "report").exists()


def test_task_sets_give_the_affinity_of_each_task_to_its_companions(
    tmp_path: Path,
) -> None:
    sweep = Compared(
        tmp_path, "tasks", {"subsets_of": list(TASKS)}, search={"trials": 15, "seed": 3}
    )
    text = compare_sweep(sweep.folder, sweep.plan, sweep) or ""
    written = json.loads((sweep.folder / "report" / "comparison.json").read_text())["standings"]
    assert ALL not in written
    for name in TASKS:
        first = next(iter(written[name]))
        assert first == Space.label({"tasks": [name]}), "each task is compared with itself alone"
        assert len(written[name]) == 8
    rows = text.split("trained with")[1].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows if row][-1] == (
        "arousal + expression + action_units"
    )
    assert len([row for row in rows if row]) == 14
    with_valence = written["expression"][Space.label({"tasks": ["valence", "expression"]})]
    gain = with_valence["difference"]["mean"]
    assert f"{gain:+.3f}" in next(r for r in rows if r.startswith("| valence "))


def scores_with(mean: float, low: float, high: float, p: float) -> VariantScores:
    return VariantScores((0.5 + mean,), Difference(mean, (low, high), p))


COMPARISON = {
    "valence": {"alone": VariantScores((0.5,), None), "with": scores_with(0.1, 0.05, 0.2, 0.01)},
    "arousal": {"with": VariantScores((0.4,), None)},
}


def test_a_star_marks_a_significant_difference() -> None:
    text = comparison_table(COMPARISON, ["tasks"])
    assert text.splitlines() == [
        "| tasks | valence                        | arousal |",
        "| ----- | ------------------------------ | ------- |",
        "| alone | 0.500                          | -       |",
        "| with  | 0.600 +0.100* [+0.050, +0.200] | 0.400   |",
    ]


def test_affinity_leaves_out_task_sets_that_were_not_compared() -> None:
    sets = {"alone": ["valence"], "with": ["arousal", "valence"]}
    gains = affinity(COMPARISON, sets)
    assert list(gains) == ["valence", "arousal"]
    assert gains["arousal"] == {"valence": COMPARISON["valence"]["with"]}
    assert "+0.100* [+0.050, +0.200]" in affinity_table(gains)


def test_the_plots_show_the_values_of_the_tables() -> None:
    figure = difference_plots.differences(COMPARISON)
    points = [(list(t.x), list(t.y), list(t.error_x.array)) for t in figure.data if t.x]
    assert points == [([0.1], ["with"], [pytest.approx(0.1)])]
    gains = {"arousal": {"valence": COMPARISON["valence"]["with"]}}
    heat = difference_plots.affinity(gains).data[0]
    assert heat.z[0][0] == 0.1
    assert np.isnan(heat.z[0][1:]).all()
    assert list(heat.text[0]) == ["+0.100*", "", "", ""]


def test_each_verdict_is_in_the_legend_once_with_its_first_points() -> None:
    unsure, loss = scores_with(0.1, -0.1, 0.2, 0.5), scores_with(-0.1, -0.2, -0.05, 0.01)
    first = VariantScores((0.5,), None)
    panels = {
        "valence": {"alone": first, "with": unsure},
        "arousal": {"alone": first, "with": loss},
        "expression": {"alone": first, "with": loss},
    }
    traces = difference_plots.differences(panels).data
    entries = [(trace.name, trace.x) for trace in traces if trace.showlegend]
    assert entries == [(difference_plots.UNSURE, (0.1,)), (difference_plots.LOSS, (-0.1,))]
