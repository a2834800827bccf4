"""Tests of a sweep's fusion: choice on select, scores on confirm, files in the listed order."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mtl.dataset import Dataset, Listing
from mtl.dataset.annotations import read_file
from mtl.ensemble.selection import RULES
from mtl.errors import InputError
from mtl.evaluation import metrics
from mtl.predictions.table import Predictions, outputs_of
from mtl.tasks import TASKS
from sweeps.fuse import main
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.plan import divide
from sweeps.search_file import FusionSection, load
from sweeps.storage.driver_lock import DriverLock
from tests.support.small_data import NAMES, make_dataset, make_listing, search_file

ORDER = ("select", "confirm", "test")


class Sweep:
    """Run folder with trials whose predictions are labels with noise."""

    def __init__(self, tmp_path: Path, listing: Listing, confirm: float = 0.5) -> None:
        self.folder = tmp_path / "run"
        self.listing = listing
        self.dataset: Dataset = make_dataset(tmp_path / "data", listing)
        self.parts = divide(listing, confirm, 3)
        of_frame = np.array([self.parts[name] for name in NAMES])[listing.video]
        self.rows = np.concatenate([np.flatnonzero(of_frame == part) for part in ORDER])
        self.trials = 0

    def trial(self, name: str, score: float, noise: float = 0.0, without: str = "") -> np.ndarray:
        """Write a trial and return its outputs.

        Args:
            name: The trial's signature.
            score: The trial's objective on select.
            noise: Standard deviation of the outputs' difference from the labels.
            without: Name of a task that the trial does not predict.
        """
        random = np.random.default_rng(self.trials)
        values = self.listing.values[self.rows]
        outputs = outputs_of(values, np.ones(values.shape, bool))
        outputs = outputs + noise * random.normal(size=outputs.shape).astype(np.float32)
        outputs = outputs.astype(np.float32)
        if without:
            outputs[:, TASKS[without].outputs] = np.nan
        folder = self.folder / "trials" / name
        folder.mkdir(parents=True)
        video, frame = self.listing.video[self.rows], self.listing.frame[self.rows]
        predictions = Predictions(video, frame, self.listing.names, outputs)
        predictions.save(folder / "predictions.parquet")
        self._write_scores(folder, score, outputs)
        self.trials += 1
        return outputs

    def fusion(self, **settings: Any) -> SweepFusion:
        fusion = FusionSection(**{"steps": 5, **settings})
        return SweepFusion(self.folder, self.dataset, self.listing, self.parts, fusion)

    def fuse(self, **settings: Any) -> dict[str, Any]:
        content = self.fusion(**settings).finish()
        assert content is not None
        return content

    def _write_scores(self, folder: Path, score: float, outputs: np.ndarray) -> None:
        select = np.array([self.parts[name] == "select" for name in NAMES])
        at = select[self.listing.video[self.rows]]
        labels, mask = self.listing.values[self.rows[at]], self.listing.mask[self.rows[at]]
        by_name = metrics.scores(outputs[at], labels, mask)
        trained = [n for n, t in TASKS.items() if not np.isnan(outputs[:, t.outputs]).any()]
        tasks = {name: by_name[f"{TASKS[name].score}_{name}"] for name in trained}
        scores = {"select": {"score": score, **tasks}, "epochs": dict.fromkeys(trained, 2)}
        (folder / "scores.json").write_text(json.dumps(scores))

    def images(self, *parts: str) -> list[str]:
        chosen = np.isin([self.parts[name] for name in NAMES], parts)[self.listing.video]
        return [
            f"{NAMES[video]}/{frame:05d}.jpg"
            for video, frame in zip(
                self.listing.video[chosen], self.listing.frame[chosen], strict=True
            )
        ]


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """Sweep on data with labels of all tasks, whose listed order is not the order of names."""
    return Sweep(tmp_path, make_listing())


def test_the_best_trial_of_each_task_is_chosen_and_written_in_the_listed_order(sweep):
    sweep.trial("noisy", 2.0, noise=1.0)
    sweep.trial("true", 1.0)
    content = sweep.fuse()
    assert all(list(chosen) == ["true"] for chosen in content["members"].values())
    assert content["best_single"] == "noisy"  # by the trials' objectives
    for part in ("select", "confirm"):
        assert content[part]["fused_raw"]["ccc_valence"] == pytest.approx(1)
        assert content[part]["fused"]["f1_action_units"] == pytest.approx(1)
        assert content[part]["best_single_raw"]["ccc_valence"] < 0.9
    assert list(read_file(sweep.folder / "submission.txt").images) == sweep.images("test")
    validation = read_file(sweep.folder / "fusion" / "validation.txt")
    assert list(validation.images) == sweep.images("select", "confirm")
    assert validation.mask.all()
    assert json.loads((sweep.folder / "scores.json").read_text()) == json.loads(json.dumps(content))


def test_scores_are_those_of_the_parts_frames(sweep):
    outputs = sweep.trial("only", 1.0, noise=0.3)
    content = sweep.fuse()
    for part in ("select", "confirm"):
        here = np.array([sweep.parts[name] == part for name in NAMES])
        at = here[sweep.listing.video[sweep.rows]]
        rows = sweep.rows[at]
        expected = metrics.scores(outputs[at], sweep.listing.values[rows], sweep.listing.mask[rows])
        shown = content[part]["best_single_raw"]
        assert {key: shown[key] for key in expected} == expected
        low, high = shown["interval"]["p_labelled"]
        assert low <= high
    assert content["selected_on_the_scored_videos"] is False


def test_confirm_changes_no_choice(sweep):
    """After the labels of confirm change their sign, only the scores of confirm change."""
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("two", 1.1, noise=0.3)
    before = sweep.fuse()
    confirm = np.array([sweep.parts[name] == "confirm" for name in NAMES])[sweep.listing.video]
    sweep.listing.values[confirm, :2] *= -1
    after = sweep.fuse()
    for key in ("members", "postprocessing", "best_single", "select"):
        assert after[key] == before[key]
    assert after["confirm"]["fused"]["ccc_valence"] < 0 < before["confirm"]["fused"]["ccc_valence"]


def test_an_untrained_task_is_missing_in_the_submission(sweep):
    sweep.trial("one", 1.0, noise=0.1, without="action_units")
    content = sweep.fuse()
    assert "action_units" not in content["members"]
    assert content["confirm"]["fused"]["f1_action_units"] is None
    assert content["confirm"]["fused"]["p_mtl"] is None
    submission = read_file(sweep.folder / "submission.txt")
    assert not submission.mask[:, TASKS["action_units"].labels].any()
    assert submission.mask[:, :3].all()
    lines = (sweep.folder / "submission.txt").read_text().splitlines()[1:]
    assert all(line.endswith(",-1" * 12) for line in lines)


def test_a_trial_without_a_task_is_fused_in_the_other_tasks(sweep):
    sweep.trial("three", 3.0, noise=0.01, without="expression")
    sweep.trial("all", 1.0, noise=1.0)
    content = sweep.fuse()
    assert list(content["members"]["expression"]) == ["all"]
    assert "three" in content["members"]["valence"]
    # A sum over fewer tasks cannot be compared with a sum over all tasks.
    assert content["best_single"] == "all"


def test_scores_without_confirm_are_marked(tmp_path):
    sweep = Sweep(tmp_path, make_listing(), confirm=0.0)
    sweep.trial("one", 1.0, noise=0.1)
    content = sweep.fuse()
    assert content["confirm"] is None
    assert content["selected_on_the_scored_videos"] is True


def test_a_task_without_labels_on_select_is_predicted_by_the_best_trial(tmp_path):
    listing = make_listing()
    validation = (listing.video >= 4) & (listing.video < 8)
    listing.mask[validation, 2] = False
    sweep = Sweep(tmp_path, listing)
    sweep.trial("worse", 1.0, noise=0.1)
    sweep.trial("best", 2.0, noise=0.2)
    assert sweep.fuse()["members"]["expression"] == {"best": 1}


def test_the_ceiling_is_scored_on_the_same_frames_and_tasks(sweep):
    """Planted data hold the predictions of their posterior, which are the labels in this test."""
    sweep.trial("one", 1.0, noise=0.3, without="action_units")
    info = {**sweep.dataset.info, "extra": {"ceiling": {"p_mtl": 3.0}}}
    sweep.dataset = Dataset(sweep.dataset.address, info)
    listing = sweep.listing
    validation = np.isin([sweep.parts[name] for name in NAMES], ["select", "confirm"])
    rows = np.flatnonzero(validation[listing.video])[::-1]  # in another order than the listed one
    exact = outputs_of(listing.values[rows], np.ones((len(rows), 15), bool))
    predictions = Predictions(listing.video[rows], listing.frame[rows], listing.names, exact)
    predictions.save(Path(sweep.dataset.address) / "ceiling.parquet")
    fused = sweep.fuse()
    ceiling = fused["ceiling"]
    for part in ("select", "confirm"):
        assert ceiling[part]["ccc_valence"] == pytest.approx(1)
        assert ceiling[part]["f1_action_units"] is None
        reached = ceiling[part]["reached"]
        share = fused[part]["fused"]["p_labelled"] / ceiling[part]["p_labelled"]
        assert reached["share"] == pytest.approx(share)
        assert reached["interval"][0] <= reached["share"] <= reached["interval"][1]


def test_both_models_of_a_difference_are_post_processed_or_both_raw(sweep):
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("two", 1.1, noise=0.3)
    content = sweep.fuse()
    for part in ("select", "confirm"):
        scores = content[part]
        for fused, single in (("fused", "best_single"), ("fused_raw", "best_single_raw")):
            gain = scores[f"{fused}_minus_{single}"]
            for name in ("p_labelled", "ccc_arousal", "f1_expression"):
                assert gain[name] == pytest.approx(scores[fused][name] - scores[single][name])
                low, high = gain["interval"][name]
                assert low <= high
    for model, difference in content["search_optimism"].items():
        both = [content[part][model]["p_labelled"] for part in ("select", "confirm")]
        assert difference == pytest.approx(both[0] - both[1])


@pytest.mark.parametrize("method", RULES)
def test_each_rule_can_be_used_and_is_compared_with_the_others(sweep, method):
    for number in range(4):
        sweep.trial(f"t{number}", 1.0 + number, noise=0.5)
    content = sweep.fuse(method=method, postprocess=())
    scores = content["rules"][method]
    assert content["rules"].keys() == RULES.keys()
    for part in ("select", "confirm"):
        assert scores[part]["p"] == pytest.approx(content[part]["fused"]["p_labelled"])
    assert scores["minus_fused_raw"]["p_labelled"] == 0
    other = next(name for name in RULES if name != method)
    minus = content["rules"][other]["minus_fused_raw"]["p_labelled"]
    expected = content["rules"][other]["confirm"]["p"] - scores["confirm"]["p"]
    assert minus == pytest.approx(expected)
    if method == "best_single":
        assert all(len(chosen) == 1 for chosen in content["members"].values())


def test_small_ensembles_grow_and_the_smallest_is_one_trial(sweep):
    for number in range(5):
        sweep.trial(f"t{number}", 1.0 + number, noise=0.6)
    ensembles = sweep.fuse(postprocess=())["small_ensembles"]
    assert [ensemble["members"] for ensemble in ensembles] == [1, 2, 4]
    assert ensembles[0]["models"] == 1  # all tasks of the trial are of one epoch
    on_select = [ensemble["select"]["p"] for ensemble in ensembles]
    assert on_select[0] < on_select[1] < on_select[2]
    assert all(ensemble["parameters"] is None for ensemble in ensembles)  # without weights


def test_the_cost_counts_each_trained_model_once(sweep):
    sweep.trial("one", 1.0)
    weights = sweep.folder / "trials" / "one" / "weights"
    weights.mkdir()
    tensors = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    save_file(tensors, weights / "epoch_002.safetensors")
    assert sweep.fuse()["cost"] == {"models": 1, "parameters": 17, "frames_per_second": None}
    file = sweep.folder / "trials" / "one" / "scores.json"
    cost = {"frames": 200, "models": 2, "seconds": 4.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction": cost}))
    assert sweep.fuse()["cost"]["frames_per_second"] == pytest.approx(100)


def test_the_score_drops_most_without_the_most_important_members(sweep):
    sweep.trial("good", 1.0, noise=0.3)
    sweep.trial("twin", 1.1, noise=0.3)
    sweep.trial("poor", 0.5, noise=3.0)
    sweep.fuse()
    analysis = json.loads((sweep.folder / "fusion" / "analysis.json").read_text())["valence"]
    assert list(analysis["members"].values()) == sorted(analysis["members"].values(), reverse=True)
    assert {"good", "twin"} <= analysis["members"].keys()
    drops = analysis["lost_without"]["confirm"]
    assert drops["good"]["score"] > 0.01
    np.testing.assert_allclose(np.diag(analysis["error_correlation"]), 1)
    first, second = (list(analysis["members"]).index(name) for name in ("good", "twin"))
    assert (
        abs(analysis["error_correlation"][first][second]) < 0.5
    )  # the two errors are drawn independently
    report = (sweep.folder / "report" / "fusion.md").read_text()
    assert "## Members for valence" in report
    assert (sweep.folder / "report" / "fusion.html").stat().st_size > 10_000


def test_only_trials_whose_weights_are_kept_are_fused(sweep):
    for number in range(5):
        sweep.trial(f"t{number}", 1.0, noise=0.2 + number)
    (sweep.folder / "kept_weights.json").write_text('{"trials_per_task": 2}')
    for name, chosen in sweep.fuse(method="top_k")["members"].items():
        scores = {
            f"t{n}": json.loads((sweep.folder / f"trials/t{n}/scores.json").read_text())["select"]
            for n in range(5)
        }
        ranked = sorted(scores, key=lambda trial: -scores[trial][name])
        assert chosen.keys() <= set(ranked[:2])


def test_a_written_model_whose_member_lost_its_weights_is_replaced_by_a_worse_one(sweep):
    for number in range(5):
        sweep.trial(f"t{number}", 1.0, noise=1.0 + number / 10)
    fusion = sweep.fusion(method="greedy")
    assert fusion.improve()
    before = json.loads((sweep.folder / "fusion/members.json").read_text())["members"]
    assert len({name for weights in before.values() for name in weights}) > 1
    (sweep.folder / "kept_weights.json").write_text('{"trials_per_task": 1}')
    for each in (fusion, sweep.fusion(method="greedy")):  # of this driver, and of the next one
        (sweep.folder / "fusion/members.json").write_text(json.dumps({"members": before}))
        assert each.improve()
        after = json.loads((sweep.folder / "fusion/members.json").read_text())["members"]
        assert all(len(weights) == 1 for weights in after.values())
        assert not each.improve()


def test_an_unlabelled_task_is_predicted_by_a_trial_that_keeps_its_weights(tmp_path):
    """Without a label of expression, the best trial by its objective would predict it."""
    sweep = Sweep(tmp_path, make_listing(known=[0, 1, *range(3, 15)]))
    for number in range(4):
        sweep.trial(f"t{number}", number / 10, noise=0.2 + number)
    assert list(sweep.fuse()["members"]["expression"]) == ["t3"]
    (sweep.folder / "kept_weights.json").write_text('{"trials_per_task": 2}')
    members = sweep.fuse()["members"]
    assert list(members["expression"]) == ["t1"]
    assert "t3" not in {name for weights in members.values() for name in weights}


def test_failed_and_running_trials_are_not_fused(sweep):
    sweep.trial("good", 1.0, noise=0.3)
    sweep.trial("failed", 2.0)
    (sweep.folder / "trials/failed/error.txt").write_text("it broke")
    sweep.trial("running", 2.0)
    (sweep.folder / "trials/running/checkpoint.safetensors").write_bytes(b"")
    assert sweep.fuse()["best_single"] == "good"


def test_without_trials_there_is_no_fused_model(sweep):
    assert sweep.fusion().finish() is None
    assert not sweep.fusion().improve()


def test_a_better_model_is_written_without_reading_confirm(sweep):
    fusion = sweep.fusion()
    sweep.trial("poor", 1.0, noise=1.0)
    assert fusion.improve()
    first = json.loads((sweep.folder / "scores.json").read_text())
    assert first["confirm"] is None
    assert "search_optimism" not in first
    submission = (sweep.folder / "submission.txt").read_bytes()
    assert not fusion.improve()  # nothing is new
    sweep.trial("worse", 0.5, noise=30.0)
    fusion.improve()
    sweep.trial("good", 2.0, noise=0.1)
    # A method that only reads must leave the better model to be written.
    assert "good" in fusion.member_signatures()
    assert fusion.improve()
    second = json.loads((sweep.folder / "scores.json").read_text())
    better = [s["select"]["fused"]["p_labelled"] for s in (first, second)]
    assert better[0] < better[1]
    assert (sweep.folder / "submission.txt").read_bytes() != submission
    content = fusion.finish()
    assert content["confirm"]
    assert json.loads(json.dumps(content["select"])) == second["select"]


def test_the_program_fuses_a_run_folder_again(sweep, tmp_path, capsys):
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("two", 1.1, noise=0.3)
    search_file(tmp_path, search={"trials": 2, "seed": 3}).to_yaml()
    space = load(tmp_path / "space.yaml").to_yaml().replace("data: data", f"data: {tmp_path}/data")
    (sweep.folder / "space.yaml").write_text(space)
    (sweep.folder / "environment.json").write_text(json.dumps({"dataset": sweep.dataset.hash}))
    assert main([str(sweep.folder), "fusion.method=best_single"]) == 0
    assert "fused minus best single on confirm, raw:" in capsys.readouterr().out
    content = json.loads((sweep.folder / "scores.json").read_text())
    assert content["method"] == "best_single"
    with closing(DriverLock(sweep.folder)):  # as while the sweep runs
        assert main([str(sweep.folder), "fusion.method=top_k"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"nothing is written: {sweep.folder}: another driver")
    assert "| select " in printed
    assert "confirm" not in printed
    assert json.loads((sweep.folder / "scores.json").read_text()) == content
    with pytest.raises(InputError, match=r"only fusion\.\* can be overridden"):
        main([str(sweep.folder), "search.trials=9"])
    with pytest.raises(InputError, match="is no sweep's folder"):
        main([str(tmp_path / "nothing")])
    (sweep.folder / "environment.json").write_text(json.dumps({"dataset": "0" * 64}))
    with pytest.raises(InputError, match="was trained on other data"):
        main([str(sweep.folder)])


def test_small_ensembles_are_of_trials_of_the_same_tasks(sweep):
    """Equal numbers of tasks are not the same tasks, as in a comparison of task sets."""
    sweep.trial("without valence", 2.0, noise=0.3, without="valence")
    sweep.trial("without units", 1.0, noise=0.3, without="action_units")
    assert [ensemble["members"] for ensemble in sweep.fuse()["small_ensembles"]] == [1]


def test_a_damaged_trial_is_refused_by_name(sweep):
    sweep.trial("one", 1.0)
    (sweep.folder / "trials" / "one" / "scores.json").write_text('{"select"')
    with pytest.raises(InputError, match=r"one/scores.json is damaged .*: remove "):
        sweep.fuse()


def test_a_trial_outside_the_study_is_not_fused(sweep):
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("orphan", 2.0)
    of_sweep = sweep.folder, sweep.dataset, sweep.listing, sweep.parts, FusionSection()
    fusion = SweepFusion(*of_sweep, include="one".__eq__)
    assert fusion.member_signatures() == ["one"]


def test_a_new_driver_keeps_the_best_fused_model(sweep):
    sweep.trial("good", 1.0, noise=0.1)
    assert sweep.fusion().improve()
    written = (sweep.folder / "scores.json").read_bytes()
    again = sweep.fusion()
    sweep.trial("poor", 0.5, noise=30.0)
    again.improve()
    assert (sweep.folder / "scores.json").read_bytes() == written
