"""Fusion of a sweep: chosen on select, scored on confirm, written in the order of the list."""

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
    """A run folder with trials that predict labels with noise, and what fuses them."""

    def __init__(self, tmp_path: Path, listing: Listing, confirm: float = 0.5) -> None:
        self.folder = tmp_path / "run"
        self.listing = listing
        self.dataset: Dataset = make_dataset(tmp_path / "data", listing)
        self.parts = divide(listing, confirm, 3)
        of_frame = np.array([self.parts[name] for name in NAMES])[listing.video]
        self.rows = np.concatenate([np.flatnonzero(of_frame == part) for part in ORDER])
        self.trials = 0

    def trial(self, name: str, score: float, noise: float = 0.0, without: str = "") -> np.ndarray:
        """A trial; ``noise`` away from the labels, and none of the task ``without``."""
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
        found = self.fusion(**settings).finish()
        assert found is not None
        return found

    def _write_scores(self, folder: Path, score: float, outputs: np.ndarray) -> None:
        select = np.array([self.parts[name] == "select" for name in NAMES])
        at = select[self.listing.video[self.rows]]
        labels, mask = self.listing.values[self.rows[at]], self.listing.mask[self.rows[at]]
        found = metrics.scores(outputs[at], labels, mask)
        trained = [n for n, t in TASKS.items() if not np.isnan(outputs[:, t.outputs]).any()]
        tasks = {name: found[f"{TASKS[name].score}_{name}"] for name in trained}
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
    """All tasks labelled; videos listed so that the list's order is not that of their names."""
    return Sweep(tmp_path, make_listing())


def test_the_best_of_each_task_is_chosen_and_written_in_the_lists_order(sweep):
    sweep.trial("noisy", 2.0, noise=1.0)
    sweep.trial("true", 1.0)
    found = sweep.fuse()
    assert all(list(chosen) == ["true"] for chosen in found["members"].values())
    assert found["best_single"] == "noisy"  # by the trials' own scores
    for part in ("select", "confirm"):
        assert found[part]["fused_raw"]["ccc_valence"] == pytest.approx(1)
        assert found[part]["fused"]["f1_action_units"] == pytest.approx(1)
        assert found[part]["best_single_raw"]["ccc_valence"] < 0.9
    assert list(read_file(sweep.folder / "submission.txt").images) == sweep.images("test")
    validation = read_file(sweep.folder / "fusion" / "validation.txt")
    assert list(validation.images) == sweep.images("select", "confirm")
    assert validation.mask.all()
    assert json.loads((sweep.folder / "scores.json").read_text()) == json.loads(json.dumps(found))


def test_scores_are_those_of_the_parts_own_frames(sweep):
    outputs = sweep.trial("only", 1.0, noise=0.3)
    found = sweep.fuse()
    for part in ("select", "confirm"):
        here = np.array([sweep.parts[name] == part for name in NAMES])
        at = here[sweep.listing.video[sweep.rows]]
        rows = sweep.rows[at]
        expected = metrics.scores(outputs[at], sweep.listing.values[rows], sweep.listing.mask[rows])
        shown = found[part]["best_single_raw"]
        assert {key: shown[key] for key in expected} == expected
        low, high = shown["interval"]["p_labelled"]
        assert low <= high
    assert found["selected_on_the_scored_videos"] is False


def test_confirm_changes_no_choice(sweep):
    """Labels of confirm videos are turned upside down: only the scores of confirm may follow."""
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
    found = sweep.fuse()
    assert "action_units" not in found["members"]
    assert found["confirm"]["fused"]["f1_action_units"] is None
    assert found["confirm"]["fused"]["p_mtl"] is None
    submission = read_file(sweep.folder / "submission.txt")
    assert not submission.mask[:, TASKS["action_units"].labels].any()
    assert submission.mask[:, :3].all()
    lines = (sweep.folder / "submission.txt").read_text().splitlines()[1:]
    assert all(line.endswith(",-1" * 12) for line in lines)


def test_a_trial_without_a_task_takes_part_in_the_others(sweep):
    sweep.trial("three", 3.0, noise=0.01, without="expression")
    sweep.trial("all", 1.0, noise=1.0)
    found = sweep.fuse()
    assert list(found["members"]["expression"]) == ["all"]
    assert "three" in found["members"]["valence"]
    # Its score is a sum over fewer tasks, which says nothing beside the other's.
    assert found["best_single"] == "all"


def test_without_confirm_videos_scores_say_so(tmp_path):
    sweep = Sweep(tmp_path, make_listing(), confirm=0.0)
    sweep.trial("one", 1.0, noise=0.1)
    found = sweep.fuse()
    assert found["confirm"] is None
    assert found["selected_on_the_scored_videos"] is True


def test_a_task_unlabelled_on_select_takes_the_best_trials_word(tmp_path):
    listing = make_listing()
    validation = (listing.video >= 4) & (listing.video < 8)
    listing.mask[validation, 2] = False
    sweep = Sweep(tmp_path, listing)
    sweep.trial("worse", 1.0, noise=0.1)
    sweep.trial("best", 2.0, noise=0.2)
    assert sweep.fuse()["members"]["expression"] == {"best": 1}


def test_the_ceiling_is_scored_on_the_same_frames_and_tasks(sweep):
    """Planted data carry their posterior's predictions: here the labels themselves."""
    sweep.trial("one", 1.0, noise=0.3, without="action_units")
    info = {**sweep.dataset.info, "extra": {"ceiling": {"p_mtl": 3.0}}}
    sweep.dataset = Dataset(sweep.dataset.address, info)
    listing = sweep.listing
    validation = np.isin([sweep.parts[name] for name in NAMES], ["select", "confirm"])
    rows = np.flatnonzero(validation[listing.video])[::-1]  # in an order of its own
    exact = outputs_of(listing.values[rows], np.ones((len(rows), 15), bool))
    predictions = Predictions(listing.video[rows], listing.frame[rows], listing.names, exact)
    predictions.save(Path(sweep.dataset.address) / "ceiling.parquet")
    fused = sweep.fuse()
    found = fused["ceiling"]
    for part in ("select", "confirm"):
        assert found[part]["ccc_valence"] == pytest.approx(1)
        assert found[part]["f1_action_units"] is None
        reached = found[part]["reached"]
        share = fused[part]["fused"]["p_labelled"] / found[part]["p_labelled"]
        assert reached["share"] == pytest.approx(share)
        assert reached["interval"][0] <= reached["share"] <= reached["interval"][1]


def test_a_difference_is_post_processed_or_raw_on_both_sides(sweep):
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("two", 1.1, noise=0.3)
    found = sweep.fuse()
    for part in ("select", "confirm"):
        scores = found[part]
        for ours, single in (("fused", "best_single"), ("fused_raw", "best_single_raw")):
            gain = scores[f"{ours}_minus_{single}"]
            for name in ("p_labelled", "ccc_arousal", "f1_expression"):
                assert gain[name] == pytest.approx(scores[ours][name] - scores[single][name])
                low, high = gain["interval"][name]
                assert low <= high
    for model, flattered in found["search_optimism"].items():
        both = [found[part][model]["p_labelled"] for part in ("select", "confirm")]
        assert flattered == pytest.approx(both[0] - both[1])


@pytest.mark.parametrize("method", RULES)
def test_each_rule_can_be_the_sweeps_own_and_stands_beside_the_others(sweep, method):
    for number in range(4):
        sweep.trial(f"t{number}", 1.0 + number, noise=0.5)
    found = sweep.fuse(method=method, postprocess=())
    own = found["rules"][method]
    assert found["rules"].keys() == RULES.keys()
    for part in ("select", "confirm"):
        assert own[part]["p"] == pytest.approx(found[part]["fused"]["p_labelled"])
    assert own["minus_fused_raw"]["p_labelled"] == 0
    other = next(name for name in RULES if name != method)
    minus = found["rules"][other]["minus_fused_raw"]["p_labelled"]
    expected = found["rules"][other]["confirm"]["p"] - own["confirm"]["p"]
    assert minus == pytest.approx(expected)
    if method == "best_single":
        assert all(len(chosen) == 1 for chosen in found["members"].values())


def test_small_ensembles_grow_and_the_smallest_is_one_trial(sweep):
    for number in range(5):
        sweep.trial(f"t{number}", 1.0 + number, noise=0.6)
    found = sweep.fuse(postprocess=())["small_ensembles"]
    assert [own["members"] for own in found] == [1, 2, 4]
    assert found[0]["models"] == 1  # all its tasks are of one epoch
    on_select = [own["select"]["p"] for own in found]
    assert on_select[0] < on_select[1] < on_select[2]
    assert all(own["parameters"] is None for own in found)  # these trials left no weights


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


def test_a_member_that_all_hangs_on_is_lost_most(sweep):
    sweep.trial("good", 1.0, noise=0.3)
    sweep.trial("twin", 1.1, noise=0.3)
    sweep.trial("poor", 0.5, noise=3.0)
    sweep.fuse()
    found = json.loads((sweep.folder / "fusion" / "analysis.json").read_text())["valence"]
    assert list(found["members"].values()) == sorted(found["members"].values(), reverse=True)
    assert {"good", "twin"} <= found["members"].keys()
    lost = found["lost_without"]["confirm"]
    assert lost["good"]["score"] > 0.01
    np.testing.assert_allclose(np.diag(found["error_correlation"]), 1)
    first, second = (list(found["members"]).index(name) for name in ("good", "twin"))
    assert abs(found["error_correlation"][first][second]) < 0.5  # drawn apart
    report = (sweep.folder / "report" / "fusion.md").read_text()
    assert "## Members for valence" in report
    assert (sweep.folder / "report" / "fusion.html").stat().st_size > 10_000


def test_only_trials_whose_weights_are_kept_are_fused(sweep, monkeypatch):
    monkeypatch.setattr("sweeps.fusion.candidates.BEST_TRIALS_PER_TASK", 2)
    for number in range(5):
        sweep.trial(f"t{number}", 1.0, noise=0.2 + number)
    for name, chosen in sweep.fuse(method="top_k")["members"].items():
        scores = {
            f"t{n}": json.loads((sweep.folder / f"trials/t{n}/scores.json").read_text())["select"]
            for n in range(5)
        }
        ranked = sorted(scores, key=lambda trial: -scores[trial][name])
        assert chosen.keys() <= set(ranked[:2])


def test_a_trial_that_failed_or_goes_on_is_no_member(sweep):
    sweep.trial("good", 1.0, noise=0.3)
    sweep.trial("failed", 2.0)
    (sweep.folder / "trials/failed/error.txt").write_text("it broke")
    sweep.trial("running", 2.0)
    (sweep.folder / "trials/running/checkpoint.safetensors").write_bytes(b"")
    assert sweep.fuse()["best_single"] == "good"


def test_nothing_to_fuse_is_none(sweep):
    assert sweep.fusion().finish() is None
    assert not sweep.fusion().improve()


def test_what_improves_is_written_without_a_look_at_confirm(sweep):
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
    assert "good" in fusion.member_signatures()  # who only looks leaves it to be written
    assert fusion.improve()
    second = json.loads((sweep.folder / "scores.json").read_text())
    better = [s["select"]["fused"]["p_labelled"] for s in (first, second)]
    assert better[0] < better[1]
    assert (sweep.folder / "submission.txt").read_bytes() != submission
    found = fusion.finish()
    assert found["confirm"]
    assert json.loads(json.dumps(found["select"])) == second["select"]


def test_the_program_fuses_a_sweeps_folder_again(sweep, tmp_path, capsys):
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("two", 1.1, noise=0.3)
    search_file(tmp_path, search={"trials": 2, "seed": 3}).to_yaml()
    space = load(tmp_path / "space.yaml").to_yaml().replace("data: data", f"data: {tmp_path}/data")
    (sweep.folder / "space.yaml").write_text(space)
    (sweep.folder / "environment.json").write_text(json.dumps({"dataset": sweep.dataset.hash}))
    assert main([str(sweep.folder), "fusion.method=best_single"]) == 0
    assert "fused minus best single on confirm, raw:" in capsys.readouterr().out
    found = json.loads((sweep.folder / "scores.json").read_text())
    assert found["method"] == "best_single"
    with closing(DriverLock(sweep.folder)):  # as while the sweep runs
        assert main([str(sweep.folder), "fusion.method=top_k"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"nothing is written: {sweep.folder}: another driver")
    assert "| select " in printed
    assert "confirm" not in printed
    assert json.loads((sweep.folder / "scores.json").read_text()) == found
    with pytest.raises(InputError, match=r"only fusion\.\* can be given anew"):
        main([str(sweep.folder), "search.trials=9"])
    with pytest.raises(InputError, match="is no sweep's folder"):
        main([str(tmp_path / "nothing")])
    (sweep.folder / "environment.json").write_text(json.dumps({"dataset": "0" * 64}))
    with pytest.raises(InputError, match="was trained on other data"):
        main([str(sweep.folder)])


def test_small_ensembles_are_of_trials_of_the_same_tasks(sweep):
    """As where sets of tasks are compared: as many tasks are not the same ones."""
    sweep.trial("without valence", 2.0, noise=0.3, without="valence")
    sweep.trial("without units", 1.0, noise=0.3, without="action_units")
    assert [own["members"] for own in sweep.fuse()["small_ensembles"]] == [1]


def test_a_damaged_trial_is_named(sweep):
    sweep.trial("one", 1.0)
    (sweep.folder / "trials" / "one" / "scores.json").write_text('{"select"')
    with pytest.raises(InputError, match=r"one/scores.json is damaged .*: remove "):
        sweep.fuse()


def test_what_is_not_known_to_the_study_is_not_fused(sweep):
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("orphan", 2.0)
    of_sweep = sweep.folder, sweep.dataset, sweep.listing, sweep.parts, FusionSection()
    fusion = SweepFusion(*of_sweep, include="one".__eq__)
    assert fusion.member_signatures() == ["one"]


def test_the_best_so_far_outlives_its_driver(sweep):
    sweep.trial("good", 1.0, noise=0.1)
    assert sweep.fusion().improve()
    written = (sweep.folder / "scores.json").read_bytes()
    again = sweep.fusion()
    sweep.trial("poor", 0.5, noise=30.0)
    again.improve()
    assert (sweep.folder / "scores.json").read_bytes() == written
