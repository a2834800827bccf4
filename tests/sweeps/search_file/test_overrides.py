"""Overrides of a search file, and the settings that may change when a sweep is resumed."""

import json

import pytest

from sweeps.search_file import load
from tests.support.search_files import ENCODERS, SHIPPED, SMALL


def test_overrides_of_the_file(write):
    words = ["search.trials=4", "name=other", "resources.concurrent_trials=2", "search.trials=5"]
    file = load(write(SMALL), [*words, "space.head={values: [linear, mlp]}", "fixed.x.y=1e-3"])
    assert (file.name, file.search.trials, file.resources.concurrent_trials) == ("other", 5, 2)
    assert file.space["head"].representative_values() == ["linear", "mlp"]
    assert file.fixed == {"x.y": 1e-3}


def test_overrides_of_the_trial_config_are_removed_from_the_space(write):
    file = load(write(ENCODERS), ["head=mlp", "training.epochs=3", "features=[a,b]"])
    assert file.fixed == {"training.epochs": 3, "head": "mlp", "features": ["a", "b"]}
    assert list(file.space) == ["encoder"]


def test_a_fixed_choice_keeps_the_parameters_under_its_option(write):
    file = load(write(ENCODERS), ["encoder=gru"])
    assert file.fixed["encoder"] == "gru"
    assert list(file.space) == ["encoder.layers", "encoder.dropout", "head"]
    assert file.space["encoder.layers"].max == 2


def test_a_fixed_option_outside_the_space_keeps_no_parameters(write):
    assert list(load(write(ENCODERS), ["encoder=other"]).space) == ["head"]


def test_a_nested_path_is_removed_from_every_option(write):
    file = load(write(ENCODERS), ["encoder.layers=2"])
    assert {option: list(branch) for option, branch in file.space["encoder"].choice.items()} == {
        "gru": ["encoder.dropout"],
        "lstm": [],
        "transformer": [],
    }


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("search.trials", "'search.trials' is no override: write path=value"),
        ("--dry", "is no override"),
        ("+a=1", "is no override"),
        ("a b=1", "is no override"),
        ("=1", "is no override"),
        ("a=[1", "override 'a=[1', line 1, column 3"),
        ("a=${oc.env:HOME}", "'${' is refused"),
        ("name.first=1", "override 'name.first=1': the search file's name = 'small' is no mapping"),
        ("search.trails=4", "search.trails is no known key: did you mean 'trials'?"),
        ("search.trials=few", 'search.trials = "few" is refused'),
    ],
)
def test_a_wrong_override_is_one_sentence(refusal, word, sentence):
    assert sentence in refusal(SMALL, [word])


def test_everything_fixed_is_refused(refusal):
    assert "space: it must not be empty" in refusal(SMALL, ["optim.lr=0.1"])


def test_a_compared_path_that_is_fixed_is_refused(refusal):
    text = ENCODERS.replace("by: []", "by: [encoder]")
    assert "compare.by: 'encoder' is not at the top of space but fixed" in refusal(
        text, ["encoder=gru"]
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_stored_file_reads_back_as_the_same_search(path, write):
    file = load(path, ["data=DIR", "search.trials=3", "x.y=1e-9"])
    again = load(write(file.to_yaml()))
    assert again.model_dump() == file.model_dump()
    assert again.identity() == file.identity()
    assert again.to_yaml() == file.to_yaml()


@pytest.mark.parametrize(
    "word",
    [
        "name=x",
        "data=y",
        "search.trials=99",
        "budget.failures=9",
        "budget.minutes=10",
        "resources.concurrent_trials=1",
        "resources.workers_per_trial=2",
    ],
)
def test_a_resumed_sweep_may_change(write, word):
    assert load(write(SMALL), [word]).identity() == load(write(SMALL)).identity()


@pytest.mark.parametrize(
    "word",
    [
        "search.seed=1",
        "search.confirm=0",
        "search.sampler=random",
        "pruner.kind=none",
        "training.epochs=3",
        "space.head={values: [linear, mlp]}",
        "fusion.steps=3",
    ],
)
def test_a_resumed_sweep_may_not_change(write, word):
    assert load(write(SMALL), [word]).identity() != load(write(SMALL)).identity()


def test_identity_is_plain_data(write):
    identity = load(write(ENCODERS)).identity()
    assert json.loads(json.dumps(identity)) == identity


def test_a_loaded_file_is_frozen(write):
    with pytest.raises(ValueError, match="frozen"):
        load(write(SMALL)).name = "other"
