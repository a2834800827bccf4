"""Given points (``search.first``) are trained first, each once, and the rest is drawn as ever."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_sweep import COMPARED, finish, opened, records, run

GRU: dict[str, Any] = {"encoder": "gru", "encoder=gru/encoder.layers": 2}
RATE: dict[str, Any] = {"optim.lr": 1e-3}
WHOLE: dict[str, Any] = {
    "encoder": "transformer",
    "encoder=transformer/encoder.layers": 4,
    "optim.lr": 1e-4,
}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def trained(folder: Path, **changed: Any) -> list[dict[str, Any]]:
    """Run a sweep to its end and return each trial's parameters."""
    with closing(opened(folder, **changed)) as study:
        finish(study)
        return [dict(t.params) for trials in study.record.trials().values() for t in trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_first_trials_have_the_points_values_and_draw_the_rest(
    sampler: str, tmp_path: Path
) -> None:
    plain = trained(tmp_path / "plain", sampler=sampler)
    given = trained(tmp_path / "given", sampler=sampler, first=[[WHOLE, GRU, RATE]])
    assert given[0] == WHOLE
    assert given[1] == {**GRU, "optim.lr": given[1]["optim.lr"]}
    assert given[2] == {**plain[2], **RATE}
    # Trial 3 is still drawn at random: the given points are three of the first four trials.
    assert given[3] == plain[3]
    assert len(given) == len(plain) == 12


def test_given_points_are_startup_trials_of_tpe(tmp_path: Path) -> None:
    """The sampler takes over after four ended trials, given ones included.

    Trial 3 is drawn at random whatever was trained before; trial 4 is not.
    """
    unpruned = {"trials": 6, "pruner": type("P", (), {"kind": "none"})()}
    plain = trained(tmp_path / "plain", **unpruned)
    given = trained(tmp_path / "given", **unpruned, first=[[WHOLE, GRU, RATE]])
    random = trained(tmp_path / "random", **unpruned, sampler="random")
    assert given[3] == plain[3] == random[3]
    assert given[4] not in (plain[4], random[4])


def test_each_study_trains_its_own_points(tmp_path: Path) -> None:
    with closing(
        opened(tmp_path, trials=4, **COMPARED, first=[[RATE], [RATE, {**RATE, "optim.lr": 2e-3}]])
    ) as study:
        asked = [(p.study, p.overrides[-1]) for p in finish(study)]
    assert asked[0] == ("demo/gru", "optim.lr=0.001")
    assert asked[1] == ("demo/transformer", "optim.lr=0.001")
    assert asked[3] == ("demo/transformer", "optim.lr=0.002")
    assert asked[2][0] == "demo/gru"
    assert asked[2][1] not in ("optim.lr=0.001", "optim.lr=0.002")


def test_a_point_is_in_the_trials_one_record(tmp_path: Path) -> None:
    run(tmp_path, trials=2, first=[[GRU]])
    made = [record for record in records(tmp_path) if "params" in record]
    assert [record["user_attrs"].get("first") for record in made] == [GRU, None]


def test_points_that_are_added_later_come_next_and_none_is_trained_twice(tmp_path: Path) -> None:
    run(tmp_path, trials=3, first=[[GRU]])
    more = trained(tmp_path, trials=6, first=[[WHOLE, GRU, RATE]])
    assert [params["optim.lr"] for params in more[3:5]] == [1e-4, 1e-3]
    assert more[3] == WHOLE
    firsts = [
        r["user_attrs"]["first"] for r in records(tmp_path) if "first" in r.get("user_attrs", {})
    ]
    assert firsts == [GRU, WHOLE, RATE]


def test_a_failed_point_is_not_trained_again_unless_it_is_retried(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"trials": 3, "first": [[WHOLE, GRU, RATE]]}
    for retry in (False, True):
        run(tmp_path, mishaps=not retry, retry=retry, **changed)
    made = [r for r in records(tmp_path) if "params" in r]
    assert [r["user_attrs"]["first"] for r in made[:3]] == [WHOLE, GRU, RATE]
    assert made[3:]
    assert all("retry_of" in r["user_attrs"] and "first" not in r["user_attrs"] for r in made[3:])
