"""Searcher of Tune: the slot of each trial, decisions, lost trials, and the end of a search."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.planning.compose import compose
from sweeps.planning.disk import DiskNeed
from sweeps.planning.plan import count_parameters
from sweeps.records.messages import INTERRUPTED, Job
from sweeps.search.budget import Limits as RealLimits
from sweeps.search.searcher import StudySearcher
from sweeps.search.tune_loop import _Interrupts
from sweeps.search.tune_trial import BEGUN, LOST, RUNNING
from sweeps.search_file import BudgetSection, load
from sweeps.search_file.sections import PrunerSection
from sweeps.slots.control import Stop
from sweeps.storage.disk_space import FREE_BYTES
from sweeps.storage.kept_weights import KeptWeights
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import Proposal, SweepStudy
from tests.support.search_files import SMALL
from tests.support.small_data import NAMES, make_listing

EPOCHS = 4
RUNG = 2


class Slots:
    """Stand-in for a pool of two slots; it records its calls."""

    def __init__(self) -> None:
        self.free = [0, 1]
        self.lost: list[int] = []
        self.stops: list[Stop] = []
        self.decisions: list[tuple[int, str, int, bool]] = []
        self.groups: dict[int, str] = {}
        self.gone, self.gone_reason = False, ""

    def take(self) -> int | None:
        return self.free.pop(0) if self.free else None

    def actor(self, slot: int) -> Any:
        def decide(job: str, epoch: int, prune: bool) -> None:
            self.decisions.append((slot, job, epoch, prune))

        return SimpleNamespace(slot=slot, decide=SimpleNamespace(remote=decide))

    def release(self, slot: int) -> None:
        self.free.append(slot)

    def lose(self, slot: int, replace: bool = True) -> None:
        self.lost.append(slot)
        if replace:
            self.free.append(slot)  # the new slot is up at once

    def placed(self, slot: int, group: str) -> None:
        self.groups[slot] = group

    def stop(self, when: Stop) -> None:
        self.stops.append(when)


@dataclass
class Log:
    """Watcher that records its calls."""

    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def started(self, proposal: Proposal, job: Job) -> None:
        self.lines.append(("started", proposal.number, job.reported))

    def epoch(self, proposal: Proposal, result: Any) -> None:
        self.lines.append(("epoch", proposal.number, result["epoch"]))

    def again(self, proposal: Proposal, reason: str) -> None:
        self.lines.append(("again", proposal.number, reason))

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        self.lines.append((state, proposal.number, reason))

    def say(self, text: str) -> None:
        self.lines.append(("say", text))


class Clock:
    """Clock that records for each tick if a trial was in training."""

    def __init__(self) -> None:
        self.ticks: list[bool] = []

    def tick(self, training: bool) -> None:
        self.ticks.append(training)


class Limits:
    """Limits that end nothing without a test's ``reasons``; the study and its folder are real."""

    def __init__(
        self, folder: Path, study: SweepStudy, **reasons: Callable[[], str | None]
    ) -> None:
        self.folder, self.study, self.clock = folder, study, Clock()
        self.ended: list[tuple[str, bool]] = []
        self.kept_weights = SimpleNamespace(add=lambda *ended: self.ended.append(ended))
        self.growth: list[int] = []
        self.room = reasons.get("make_room", lambda: None)
        self.full = reasons.get("disk_full", lambda: None)
        for name in ("halt", "spent", "late"):
            setattr(self, name, reasons.get(name, lambda: None))

    def ample_disk(self, trials: int) -> bool:
        return False

    def make_room(self, growth_bytes: int) -> str | None:
        if growth_bytes:
            self.growth.append(growth_bytes)
        return self.room()

    def disk_full(self, growth_bytes: int) -> str | None:
        assert growth_bytes == self.growth[-1]
        return self.full()


class Search:
    """Searcher on a study in ``folder``, with stand-ins for slots, watcher and limits."""

    def __init__(
        self,
        folder: Path,
        trials: int = 3,
        metric: str = "score",
        restarts: int = 1,
        **reasons: Callable[[], str | None],
    ) -> None:
        self.folder = folder
        self.study = SweepStudy(
            folder,
            name="demo",
            combinations=[{}],
            labels=[""],
            trials=trials,
            sampler="random",
            seed=1,
            pruner=PrunerSection(kind="asha", min_epochs=RUNG, reduction_factor=2),
            sample=_sample,
            sign=_signature,
        )
        space = folder / "search.yaml"
        space.write_text(SMALL)
        overrides = [f"search.metric={metric}", f"budget.restarts={restarts}"]
        plan = SimpleNamespace(
            file=load(space, overrides),
            dataset=SimpleNamespace(address="data", width=lambda name: 4),
            tasks=("valence",),
            listing=make_listing(),
            parts=dict.fromkeys(NAMES, "train"),
            folds=(dict.fromkeys(NAMES, "train"),) * 2,
            rungs=lambda epochs: frozenset({RUNG}),
        )
        self.slots, self.log = Slots(), Log()
        self.limits = Limits(folder, self.study, **reasons)
        self.clock, self.ended = self.limits.clock, self.limits.ended
        self.fusions_due = 0
        self.searcher = StudySearcher(
            cast(Any, plan), cast(Any, self.limits), cast(Any, self.slots), self.log, self._due
        )

    def _due(self) -> None:
        self.fusions_due += 1

    def hand_out(self, trial: str) -> dict[str, Any]:
        """Return the job of the next trial, which must exist; its ``slot`` is the slot's number."""
        suggestion = self.searcher.suggest(trial)
        assert isinstance(suggestion, dict), suggestion
        return {**suggestion["job"], "slot": suggestion["slot"].slot}

    def epoch(self, trial: str, epoch: int, score: float = 0.5, collapsed: bool = False) -> None:
        result = {
            "epoch": epoch,
            "objective": score,
            "best_scores": {"valence": -score},
            "collapsed": {"valence": collapsed},
        }
        self.searcher.on_trial_result(trial, {"state": RUNNING, "result": json.dumps(result)})

    def end(self, trial: str, state: str, **metrics: Any) -> None:
        self.searcher.on_trial_result(trial, {"state": state, **metrics})
        self.searcher.on_trial_complete(trial, {"state": state, **metrics})

    def folder_of(self, number: int) -> TrialFolder:
        """Return the folder of a trial that has started."""
        return TrialFolder.in_run(self.folder, self.trial(number).user_attrs["signature"])

    def trial(self, number: int) -> optuna.trial.FrozenTrial:
        return self.study.record.trials()["demo"][number]


def _sample(trial: optuna.Trial, chosen: Any) -> list[str]:
    return [f"optim.lr={trial.suggest_float('lr', 1e-3, 1e-1)}", f"training.epochs={EPOCHS}"]


def _signature(overrides: Sequence[str]) -> str:
    return overrides[0].replace("=", "-")


@contextmanager
def a_search(folder: Path, **settings: Any) -> Iterator[Search]:
    search = Search(folder, **settings)
    try:
        yield search
    finally:
        search.study.close()


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with a_search(tmp_path) as search:
        yield search


def test_trials_are_given_to_free_slots_and_recorded(search):
    first, second = search.hand_out("a"), search.hand_out("b")
    assert (first["slot"], second["slot"]) == (0, 1)
    assert first["name"] == "demo/0000 gru mlp share_encoder"
    assert (first["reported"], first["stopped"], first["restarts"]) == (0, False, 1)
    assert first["rungs"] == {RUNG}
    assert search.searcher.suggest("c") is None  # no slot is free
    search.epoch("b", 1, 0.25)
    assert search.trial(1).intermediate_values == {1: 0.25}
    search.end("b", "complete")
    assert (search.trial(1).state, search.trial(1).value) == (TrialState.COMPLETE, 0.25)
    assert search.ended == [(search.trial(1).user_attrs["signature"], False)]
    assert search.fusions_due == 1
    assert search.hand_out("c")["slot"] == 1


def test_a_slot_gets_the_decision_for_its_own_trial(search):
    names = [search.hand_out(trial)["name"] for trial in "ab"]
    for epoch in (1, RUNG):
        search.epoch("a", epoch, 0.9)
    for epoch in (1, RUNG):
        search.epoch("b", epoch, 0.1)
    assert search.slots.decisions == [(0, names[0], RUNG, False), (1, names[1], RUNG, True)]
    assert search.trial(1).user_attrs[f"decision:{RUNG}"] == "prune"


def test_a_collapsed_trial_is_pruned_with_its_reason_at_an_epoch_that_is_no_rung(search):
    job = search.hand_out("a")
    assert job["prunes_collapse"]
    for epoch in (1, RUNG, 3):
        search.epoch("a", epoch, 0.9, collapsed=epoch == 3)
    assert search.slots.decisions == [(0, job["name"], RUNG, False), (0, job["name"], 3, True)]
    search.end("a", "pruned", collapsed=["valence"])
    assert search.trial(0).state == TrialState.PRUNED
    assert search.trial(0).user_attrs["reason"] == "collapsed"
    assert search.trial(0).user_attrs["collapsed_tasks"] == ["valence"]
    assert search.log.lines[-1] == ("pruned", 0, "collapsed")
    assert search.ended == [(search.trial(0).user_attrs["signature"], False)]
    assert search.study.record.failures() == []


def test_a_trial_that_ends_with_a_collapsed_task_completes_with_a_note(search):
    search.hand_out("a")
    search.epoch("a", 1)
    search.end("a", "complete", collapsed=["expression"])
    assert search.trial(0).state == TrialState.COMPLETE
    assert search.trial(0).user_attrs["collapsed_tasks"] == ["expression"]
    assert search.log.lines[-1] == ("complete", 0, None)


@pytest.mark.parametrize("attributes", [{"repeat_of": "demo 0"}, {"fold": 1, "fold_of": "a"}])
def test_the_slot_of_a_repeat_or_refit_waits_for_no_decision(search, attributes):
    search.study.record.write(
        "demo", optuna.trial.create_trial(state=TrialState.RUNNING), ["optim.lr=0.5"], **attributes
    )
    job = search.hand_out("a")
    assert (job["prunes_collapse"], job["rungs"]) == (False, set())
    search.epoch("a", RUNG, collapsed=True)
    assert search.slots.decisions == []


def test_room_is_made_for_what_the_trials_in_training_still_add_to_their_folders(search):
    search.hand_out("a")
    (whole,) = search.limits.growth
    parameters = count_parameters(compose([]), search.searcher.plan.dataset, ("valence",))
    assert whole == 4 * parameters * (2 * 3 + 2) + 100_000  # two checkpoints, two files of weights
    search.hand_out("b")
    search.folder_of(0).weights_file(1).write_bytes(bytes(30_000))
    search.epoch("a", 1)
    search.end("a", "complete")
    first, second = (search.folder_of(number).size_bytes() for number in (0, 1))
    search.hand_out("c")
    begun = first - 30_000
    # A trial that has ended adds nothing.
    assert search.limits.growth == [whole, 2 * whole - begun, 2 * whole - second]
    search.folder_of(1).weights_file(1).write_bytes(bytes(10**8))  # more than was computed
    search.end("c", "failed", reason="it broke")
    search.study.record.retry_failed()
    third = search.folder_of(2).size_bytes()
    search.hand_out("d")
    assert search.limits.growth[3] == whole - third


@pytest.mark.parametrize(
    ("room", "starts", "kept"),
    [
        (2_000_000, True, 12),  # the model of the trial is small
        (1_464_000 - 2_100, True, 9),  # the weights of three trials are too much
        (1_464_000 - 7_001, False, 12),  # those of the seven that may be removed do not help
    ],
)
def test_weights_go_only_if_that_makes_room_for_the_next_trial(
    search, monkeypatch, room, starts, kept
):
    trials = [TrialFolder.in_run(search.folder, f"t{number:02}") for number in range(12)]
    for number, trial in enumerate(trials):
        trial.begin("")
        trial.weights_file(1).write_bytes(bytes(1000))
        scores = {"select": {"score": number, "valence": number / 20}, "epochs": {"valence": 1}}
        trial.scores_file.write_text(json.dumps(scores))
    weights = KeptWeights(search.folder, {trial.signature: False for trial in trials})
    need = DiskNeed(12, 12_000, 12, 12_000, running_bytes=10**9)
    limits = RealLimits(
        BudgetSection(), search.folder, search.study, weights, cast(Any, search.clock), need
    )
    search.searcher.limits = limits

    def usage(folder: Path) -> SimpleNamespace:
        removed = 1000 * sum(not trial.weights_folder.exists() for trial in trials)
        return SimpleNamespace(free=FREE_BYTES + room + removed)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert isinstance(search.searcher.suggest("a"), dict) == starts
    assert sum(trial.weights_folder.exists() for trial in trials) == kept
    if not starts:
        assert search.searcher.halted == (
            f"the disk of {search.folder} has less than 0.5 GB left, which the next trial may "
            "need: free some"
        )


def test_a_resumed_trial_needs_room_only_for_what_it_adds(tmp_path):
    with a_search(tmp_path) as search:
        search.hand_out("a")
        search.epoch("a", 1)
        search.folder_of(0).weights_file(1).write_bytes(bytes(7_000))
        (search.folder_of(0).path / "checkpoint.safetensors").write_bytes(bytes(50_000))
        (whole,) = search.limits.growth
        there = search.folder_of(0).size_bytes()
    with a_search(tmp_path) as search:
        assert search.hand_out("a")["reported"] == 1
        assert search.limits.growth == [whole - there]
        assert there > 57_000


def test_a_trial_that_the_disk_has_no_room_for_waits_until_another_has_ended(tmp_path):
    full: list[str] = []
    with a_search(tmp_path, disk_full=lambda: full[0] if full else None) as search:
        search.hand_out("a")
        full.append("the disk is full: free some")
        for _ in range(3):
            assert search.searcher.suggest("b") is None
        assert search.slots.free == [1]
        said = (
            "the disk is full: free some; until then it waits for others to end, as later ones may"
        )
        assert search.log.lines[1:] == [("say", said)]  # once
        assert len(search.study.record.trials()["demo"]) == 2
        full.clear()
        search.epoch("a", 1)
        search.end("a", "complete")
        assert search.hand_out("c")["name"].startswith("demo/0001 ")
        full.append("the disk is full: free some")
        assert search.searcher.suggest("d") is None
        assert search.log.lines.count(("say", said)) == 1
        assert search.searcher.halted is None


def test_the_search_ends_if_the_disk_has_no_room_for_the_only_trial(tmp_path):
    with a_search(tmp_path, disk_full=lambda: "the disk is full: free some") as search:
        assert search.searcher.suggest("a") == Searcher.FINISHED
        assert search.searcher.halted == "the disk is full: free some"
        assert [trial.state for trial in search.study.record.trials()["demo"]] == [
            TrialState.RUNNING
        ]
        assert not (search.folder / "trials").exists()
    with a_search(tmp_path) as search:
        assert search.hand_out("a")["name"].startswith("demo/0000 ")
        search.hand_out("b")
        assert len(search.study.record.trials()["demo"]) == 2


def test_a_fusion_follows_the_removal_of_weights(tmp_path):
    removed = [None, None, None, "the disk is full: weights were removed"]
    with a_search(tmp_path, make_room=removed.pop) as search:
        search.hand_out("a")
        assert search.log.lines[0] == ("say", "the disk is full: weights were removed")
        assert search.fusions_due == 1
        search.hand_out("b")
        assert search.fusions_due == 1


def test_one_tasks_score_can_be_the_metric(tmp_path):
    with a_search(tmp_path, metric="valence") as search:
        search.hand_out("a")
        search.epoch("a", 1, 0.25)
        assert search.trial(0).intermediate_values == {1: -0.25}


def test_only_time_in_training_is_counted(search):
    search.hand_out("a")
    search.epoch("a", 1)
    search.end("a", "complete")
    search.hand_out("b")
    # One tick for each call of the searcher: True if a trial was running before it.
    assert search.clock.ticks == [False, True, True, True, False]


def test_a_trial_whose_slot_died_continues_in_another_slot(search):
    search.hand_out("a")
    search.hand_out("b")
    search.epoch("a", 1, 0.25)
    search.end("a", LOST, reason="the slot's process died")
    assert search.slots.lost == [0]
    assert search.trial(0).state == TrialState.RUNNING
    assert search.ended == []
    assert search.log.lines[-1] == ("again", 0, "the slot's process died")
    again = search.hand_out("c")
    assert again["name"].startswith("demo/0000 ")
    assert (again["reported"], again["restarts"]) == (1, 0)
    assert search.log.lines[-1] == ("started", 0, 1)
    search.epoch("c", 2, 0.5)
    search.end("c", "complete")
    assert search.trial(0).state == TrialState.COMPLETE
    assert search.trial(0).intermediate_values == {1: 0.25, 2: 0.5}
    assert search.ended == [(search.trial(0).user_attrs["signature"], False)]


def test_a_trial_pruned_before_its_slot_died_only_predicts(search):
    for trial, score in (("a", 0.9), ("b", 0.1)):
        search.hand_out(trial)
        search.epoch(trial, 1, score)
        search.epoch(trial, RUNG, score)
    search.end("b", LOST, reason="the slot's process died")
    again = search.hand_out("c")
    assert (again["reported"], again["stopped"]) == (RUNG, True)


def test_a_trial_that_is_lost_too_often_fails_and_the_slot_is_replaced(search):
    for trial in "ab":
        assert search.hand_out(trial)["name"].startswith("demo/0000 ")
        search.slots.free.clear()
        search.end(trial, LOST, reason="the slot's process died")
    assert search.slots.lost == [0, 0]
    assert search.trial(0).state == TrialState.FAIL
    assert search.trial(0).user_attrs["reason"] == "the slot's process died"
    assert search.ended == [(search.trial(0).user_attrs["signature"], True)]
    assert search.log.lines[-1] == ("failed", 0, "the slot's process died")
    # The next trial has all its restarts.
    following = search.hand_out("c")
    assert following["name"].startswith("demo/0001 ")
    assert following["restarts"] == 1


@pytest.mark.parametrize(("result", "error"), [(None, False), ({"state": RUNNING}, True)])
def test_a_trial_whose_tune_actor_died_is_lost_too(tmp_path, result, error):
    with a_search(tmp_path, restarts=0) as search:
        search.hand_out("a")
        search.searcher.on_trial_complete("a", result, error)
        assert search.slots.lost == [0]  # the slot may still train the trial
        assert search.trial(0).state == TrialState.FAIL
        assert search.trial(0).user_attrs["reason"] == "Tune's side of the trial died"


def test_deaths_of_workers_and_deaths_of_slots_are_added(tmp_path):
    with a_search(tmp_path, restarts=3) as search:
        search.hand_out("a")
        for restarts, group in ((0, "one"), (1, "two"), (2, "three")):
            begun = {"state": BEGUN, "restarts": restarts, "placement_group": group}
            search.searcher.on_trial_result("a", begun)
            assert search.slots.groups == {0: group}
        assert search.log.lines[1:] == [("again", 0, "its workers died")] * 2
        search.end("a", LOST, reason="the slot's process died")
        search.slots.free = [0]
        assert search.hand_out("b")["restarts"] == 0
        begun = {"state": BEGUN, "restarts": 0, "placement_group": "four"}
        search.searcher.on_trial_result("b", begun)
        search.end("b", LOST, reason="the slot's process died")
        assert search.trial(0).state == TrialState.FAIL


def test_a_failure_is_recorded_and_frees_its_slot(search):
    search.hand_out("a")
    search.slots.free.clear()
    search.end("a", "failed", reason="TrainingError: not finite")
    assert search.trial(0).state == TrialState.FAIL
    assert search.trial(0).user_attrs["reason"] == "TrainingError: not finite"
    assert (search.slots.free, search.slots.lost) == ([0], [])


def test_the_search_is_not_finished_while_a_trial_runs(tmp_path):
    """A running trial may lose its slot and is then started again."""
    with a_search(tmp_path, trials=1) as search:
        search.hand_out("a")
        assert search.searcher.suggest("b") is None
        assert search.slots.free == [1]
        search.end("a", LOST, reason="the slot's process died")
        assert search.hand_out("c")["name"].startswith("demo/0000 ")
        search.epoch("c", 1)
        search.end("c", "complete")
        assert search.searcher.suggest("d") == Searcher.FINISHED
        assert search.searcher.halted is None


def test_without_slots_the_search_ends_with_the_reason(search):
    search.slots.free = []
    assert search.searcher.suggest("a") is None
    search.slots.gone, search.slots.gone_reason = True, "slot 0 did not start: no image"
    assert search.searcher.suggest("b") == Searcher.FINISHED
    assert search.searcher.halted == "slot 0 did not start: no image: no slot is left"


def test_a_halted_sweep_lets_running_trials_end(tmp_path):
    why: list[str | None] = [None, "the disk is full"]
    with a_search(tmp_path, halt=lambda: why.pop(0)) as search:
        search.hand_out("a")
        assert search.searcher.suggest("b") == Searcher.FINISHED
        assert search.searcher.halted == "the disk is full"
        assert search.slots.stops == []
        search.epoch("a", 1)
        search.end("a", "complete")
        assert search.trial(0).state == TrialState.COMPLETE


def test_spent_minutes_stop_trials_after_their_next_epoch_resumably(tmp_path):
    spent: list[str] = []
    with a_search(tmp_path, spent=lambda: spent[0] if spent else None) as search:
        search.hand_out("a")
        search.hand_out("b")
        search.epoch("a", 1)
        assert search.slots.stops == []
        spent.append("two minutes are spent")
        search.epoch("b", 1)
        search.epoch("a", 2)  # sent before the slot got the stop request
        assert search.slots.stops == [Stop.AFTER_EPOCH]  # requested once
        for trial in "ab":
            search.end(trial, "interrupted")
        assert search.searcher.suggest("c") == Searcher.FINISHED
        assert search.searcher.halted == "two minutes are spent"
        assert [search.trial(n).state for n in (0, 1)] == [TrialState.RUNNING] * 2
        assert [line for line in search.log.lines if line[0] == "interrupted"] == [
            ("interrupted", 0, None),
            ("interrupted", 1, None),
        ]
        assert search.ended == []
    with a_search(tmp_path) as search:
        assert [search.hand_out(trial)["reported"] for trial in "ab"] == [2, 1]


def test_a_reached_end_time_stops_trials_at_once_resumably(tmp_path):
    late: list[str] = []
    with a_search(tmp_path, late=lambda: late[0] if late else None) as search:
        search.hand_out("a")
        search.epoch("a", 1)
        search.searcher.stop_if_requested()
        assert search.slots.stops == []
        late.append("the time is up")
        search.searcher.stop_if_requested()  # Tune calls it between two steps
        search.searcher.stop_if_requested()
        assert search.slots.stops == [Stop.NOW]  # requested once
        search.end("a", "interrupted")
        assert search.searcher.suggest("b") == Searcher.FINISHED
        assert search.searcher.halted == "the time is up"
        assert search.trial(0).state == TrialState.RUNNING


def test_spent_minutes_stop_running_trials_of_a_halted_search(tmp_path):
    spent: list[str] = []
    halt: list[str] = []
    rules = {
        "spent": lambda: spent[0] if spent else None,
        "halt": lambda: halt[0] if halt else None,
    }
    with a_search(tmp_path, **rules) as search:
        search.hand_out("a")
        search.hand_out("b")
        halt.append("the disk is full")
        search.end("a", "interrupted")
        assert search.searcher.suggest("c") == Searcher.FINISHED
        assert search.slots.stops == []
        spent.append("two minutes are spent")
        search.searcher.suggest("d")
        assert search.slots.stops == [Stop.AFTER_EPOCH]
        assert search.searcher.halted == "the disk is full"
        assert search.trial(1).state == TrialState.RUNNING


def test_a_slot_lost_after_the_search_stopped_is_not_replaced(search):
    search.hand_out("a")
    search.searcher.stop("enough", Stop.NOW)
    search.end("a", "lost", reason="the slot's process died")
    assert search.slots.lost == [0]
    assert search.slots.free == [1]


def test_ctrl_c_stops_running_trials_at_once_and_starts_no_more(search):
    interrupts = _Interrupts(search.searcher)
    search.hand_out("a")
    interrupts.on_step_begin(0, [])
    assert search.slots.stops == []
    interrupts.press(2, None)
    interrupts.on_step_begin(1, [])
    interrupts.on_step_begin(2, [])
    assert search.slots.stops == [Stop.NOW]
    assert search.searcher.suggest("b") == Searcher.FINISHED
    assert search.searcher.halted == INTERRUPTED
    search.end("a", "interrupted")
    assert search.trial(0).state == TrialState.RUNNING
    with pytest.raises(KeyboardInterrupt):
        interrupts.press(2, None)


def test_ctrl_c_while_the_slots_start_ends_the_search_at_the_next_suggestion(search):
    search.slots.free = []
    _Interrupts(search.searcher).press(2, None)
    assert search.searcher.suggest("a") == Searcher.FINISHED
    assert search.slots.stops == [Stop.NOW]
    assert search.study.record.trials() == {"demo": []}


def test_ctrl_c_after_spent_minutes_does_not_wait_for_the_epoch(tmp_path):
    spent: list[str] = []
    with a_search(tmp_path, spent=lambda: spent[0] if spent else None) as search:
        search.hand_out("a")
        spent.append("spent")
        search.epoch("a", 1)
        search.searcher.interrupted = True
        _Interrupts(search.searcher).on_step_begin(1, [])
        assert search.slots.stops == [Stop.AFTER_EPOCH, Stop.NOW]
        assert search.searcher.halted == INTERRUPTED


def test_a_trials_folder_is_named_by_its_signature(search):
    search.hand_out("a")
    signature = search.trial(0).user_attrs["signature"]
    assert (TrialFolder(search.folder / "trials" / signature).path / "config.yaml").exists()
