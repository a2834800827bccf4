"""Tests that configs of earlier versions are read and keep their signatures."""

import pytest

from mtl import renamed_keys
from mtl.config import read_config
from mtl.errors import InputError
from mtl.renamed_keys import hashed_settings, present_path, with_present_names
from tests.support.laws import plain_config

FEEDBACK = {
    "name": "feedback",
    "shared_layers": 1,
    "sources": ["valence"],
    "targets": ["arousal"],
    "form": "labels",
    "embedding": 4,
}


def test_a_renamed_key_is_read_under_its_first_and_its_present_name():
    first, present = (
        read_config({**plain_config(), "framework": {**FEEDBACK, key: 0.5}})
        for key in ("truth_share", "teacher_forcing_ratio")
    )
    assert first == present
    assert first.framework.parameters["teacher_forcing_ratio"] == 0.5


def test_a_renamed_key_is_hashed_under_its_first_name():
    config = read_config(
        {**plain_config(), "framework": {**FEEDBACK, "teacher_forcing_ratio": 0.5}}
    )
    assert hashed_settings(config.plain())["framework"] == {**FEEDBACK, "truth_share": 0.5}


def test_operational_keys_are_not_hashed():
    assert "device" not in hashed_settings(plain_config())["training"]


def test_an_added_key_is_hashed_only_where_it_differs_from_its_default(monkeypatch):
    monkeypatch.setattr(renamed_keys, "ADDED", {"training.new": 3, "new": False})
    before = {"training": {"epochs": 2}}
    default = {"training": {"epochs": 2, "new": 3}, "new": False}
    changed = {"training": {"epochs": 2, "new": 4}, "new": False}
    assert hashed_settings(default) == hashed_settings(before)
    assert hashed_settings(changed) == {"training": {"epochs": 2, "new": 4}}


@pytest.mark.parametrize("names", [("truth_share", "teacher_forcing_ratio")[::s] for s in (1, -1)])
def test_a_key_under_both_names_is_refused(names):
    settings = {"framework": {**FEEDBACK, **dict.fromkeys(names, 0.5)}}
    message = "two names: keep only framework.teacher_forcing_ratio"
    with pytest.raises(InputError, match=message):
        with_present_names(settings)


@pytest.mark.parametrize("path", ["framework.truth_share", "framework.teacher_forcing_ratio"])
def test_the_present_name_replaces_both_names(path):
    assert present_path(path) == "framework.teacher_forcing_ratio"
    section, key = path.split(".")
    renamed = with_present_names({section: {key: 0.5, "other": 1}, "truth_share": 2})
    assert renamed == {section: {"teacher_forcing_ratio": 0.5, "other": 1}, "truth_share": 2}
