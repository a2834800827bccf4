"""Sampled points are in the space, compose as Hydra overrides, and repeat with their seed."""

import functools
import warnings

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from mtl.errors import InputError
from sweeps.planning.compose import compose
from sweeps.planning.space import Space
from sweeps.search_file import load
from sweeps.search_file.overrides import format_override, hydra_value
from tests.support.paths import ROOT

optuna.logging.set_verbosity(optuna.logging.WARNING)
SHIPPED = [ROOT / "search.yaml", *sorted((ROOT / "sweeps/configs/spaces").glob("*.yaml"))]
HEAD = "name: small\ndata: demo\n"
NESTED = """
fixed: {training.epochs: 12, features: [appearance, geometry]}
space:
  optim.lr: {min: 1e-5, max: 1e-2, log: true}
  encoder:
    choice:
      gru: {encoder.layers: {min: 1, max: 2}}
      transformer:
        encoder.layers: {min: 2, max: 4}
        encoder.heads: {values: [2, 4]}
  head: {values: [linear, mlp]}
  tasks: {values: [[valence], [valence, arousal]]}
compare: {by: [tasks]}
"""


@pytest.fixture
def make_space(tmp_path):
    """Function that writes a search file and returns its space."""

    def make_space(text, overrides=()):
        path = tmp_path / "space.yaml"
        path.write_text(HEAD + text)
        return Space(load(path, overrides))

    return make_space


def random_trials(seed, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [study.ask() for _ in range(count)]


def test_a_point_is_a_list_of_overrides_in_the_file_s_order(make_space):
    trial = optuna.trial.FixedTrial(
        {
            "optim.lr": 0.0012,
            "encoder": "transformer",
            "encoder=transformer/encoder.layers": 3,
            "encoder=transformer/encoder.heads": 4,
            "head": "mlp",
            "tasks": '["valence","arousal"]',
        }
    )
    assert make_space(NESTED).sample(trial) == [
        "training.epochs=12",
        "features=[appearance,geometry]",
        "optim.lr=0.0012",
        "encoder=transformer",
        "encoder.layers=3",
        "encoder.heads=4",
        "head=mlp",
        "tasks=[valence,arousal]",
    ]


def test_only_parameters_of_the_chosen_branch_are_drawn(make_space):
    trial = random_trials(0, 1)[0]
    make_space(NESTED).sample(trial, {"encoder": "gru", "tasks": ["valence"]})
    assert set(trial.params) == {"optim.lr", "encoder=gru/encoder.layers", "head"}


def test_compared_values_are_set_in_the_overrides(make_space):
    point = make_space(NESTED).sample(
        random_trials(0, 1)[0], {"encoder": "gru", "tasks": ["valence"]}
    )
    assert "encoder=gru" in point
    assert "tasks=[valence]" in point


@pytest.mark.parametrize(
    ("node", "low", "high", "kind"),
    [
        ("{min: 1, max: 3}", 1, 3, int),
        ("{min: 1, max: 64, log: true}", 1, 64, int),
        ("{min: 1, max: 3.0}", 1, 3, float),
        ("{min: 1e-5, max: 1e-2, log: true}", 1e-5, 1e-2, float),
        ("{min: 2, max: 2}", 2, 2, int),
    ],
)
def test_drawn_numbers_lie_within_inclusive_bounds(make_space, node, low, high, kind):
    space = make_space(f"space: {{a.b: {node}}}")
    values = []
    for trial in random_trials(1, 60):
        override = space.sample(trial)[0]
        values.append(trial.params["a.b"])
        assert override == f"a.b={trial.params['a.b']!r}"
    assert all(low <= value <= high and type(value) is kind for value in values)
    if kind is int and high <= 3:
        assert set(values) == set(range(low, high + 1))


def test_a_log_range_is_drawn_in_the_logarithm(make_space):
    space = make_space("space: {a.b: {min: 1e-5, max: 1e-1, log: true}}")
    for trial in (trials := random_trials(2, 200)):
        space.sample(trial)
    below = sum(trial.params["a.b"] < 1e-3 for trial in trials)
    assert 70 < below < 130


def test_subsets_are_non_empty_and_in_order(make_space):
    space = make_space("space: {features: {subsets_of: [c, a, b]}}")
    points = {space.sample(trial)[0] for trial in random_trials(3, 200)}
    subsets = ["[c]", "[a]", "[b]", "[c,a]", "[c,b]", "[a,b]", "[c,a,b]"]
    assert points == {f"features={subset}" for subset in subsets}
    assert space.file.space["features"].representative_values()[3] == ["c", "a"]


def test_lists_and_mappings_reach_optuna_as_text(make_space):
    space = make_space("space: {a.b: {values: [[x, 1], {k: 2}, null, true, 0.5, text]}}")
    points = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for trial in random_trials(4, 100):
            points |= set(space.sample(trial))
            assert not isinstance(trial.params["a.b"], list | dict)
    assert points == {
        "a.b=[x,1]",
        "a.b={k:2}",
        "a.b=null",
        "a.b=true",
        "a.b=0.5",
        "a.b=text",
    }


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_draws_the_same_points(make_space, seed):
    space = make_space(NESTED)
    first, again = ([space.sample(trial) for trial in random_trials(seed, 20)] for _ in range(2))
    assert first == again
    assert first != [space.sample(trial) for trial in random_trials(seed + 1, 20)]


def test_one_path_may_have_other_bounds_in_another_branch(make_space):
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=0))
    space = make_space(NESTED)
    for _ in range(30):
        trial = study.ask()
        space.sample(trial)
        study.tell(trial, 0.0)
    names = {name for trial in study.trials for name in trial.params}
    assert {"encoder=gru/encoder.layers", "encoder=transformer/encoder.layers"} <= names


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_point_of_a_shipped_file_composes(path):
    space = Space(load(path, ["data=DIR"]))
    space.check(compose)
    for trial in random_trials(5, 20):
        config = compose(space.sample(trial))
        drawn_or_fixed = {**space.file.fixed, **trial.params}
        assert config.optim.lr == drawn_or_fixed["optim.lr"]
        assert config.encoder.name == trial.params.get("encoder", compose([]).encoder.name)


@pytest.mark.parametrize(
    "value",
    [
        "gru",
        "a b",
        "it's",
        'say "x"',
        "back\\slash",
        "ends\\",
        "both\\'",
        "",
        "1e-5",
        "12",
        "true",
        "NULL",
        "nan",
        "s3://bucket/key",
        "a,b",
        "[x]",
        "x=y",
        "é",
        "choice(1,2)",
        1e-5,
        0.1 + 0.2,
        1e22,
        -3,
        0,
        True,
        None,
        ["a", 1, 0.5, None],
        [],
        [["valence", "action_units"], ["arousal"]],
        {"k": "v w", "n": [1, 2]},
    ],
    ids=str,
)
def test_hydra_reads_values_back(value):
    read = OverridesParser.create().parse_override(f"a.b={hydra_value(value)}")
    found = plain(read.value())
    assert found == value
    assert type(found) is type(value)
    assert not read.is_sweep_override()
    assert format_override("a.b", value) == f"a.b={hydra_value(value)}"


def plain(value):
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def test_without_compare_there_is_one_study(make_space):
    space = make_space("space: {a: {values: [1, 2]}}")
    assert space.comparisons() == [{}]
    assert space.label({}) == ""


def test_compared_values_are_combined_in_order(make_space):
    space = make_space(
        "space:\n  encoder: {choice: {gru: {}, lstm: {}}}\n  features: {subsets_of: [a, b]}\n"
        "compare: {by: [features, encoder]}"
    )
    assert space.comparisons()[:3] == [
        {"features": ["a"], "encoder": "gru"},
        {"features": ["a"], "encoder": "lstm"},
        {"features": ["b"], "encoder": "gru"},
    ]
    labels = [space.label(combination) for combination in space.comparisons()]
    assert labels == ["a,gru", "a,lstm", "b,gru", "b,lstm", "a+b,gru", "a+b,lstm"]


def test_the_plan_has_one_line_for_each_varied_parameter(make_space):
    assert [line.split(maxsplit=1) for line in make_space(NESTED).describe()] == [
        ["optim.lr", "1e-05 .. 0.01 log"],
        ["encoder", "gru | transformer"],
        ["encoder=gru/encoder.layers", "1 .. 2"],
        ["encoder=transformer/encoder.layers", "2 .. 4"],
        ["encoder=transformer/encoder.heads", "2 | 4"],
        ["head", "linear | mlp"],
        ["tasks", "valence | valence+arousal"],
    ]


def test_a_parameter_with_one_value_is_not_in_the_plan(make_space):
    assert make_space("space: {a: {choice: {x: {}}}, b: {values: [1]}}").describe() == []


def test_the_check_composes_each_value_in_one_complete_point(make_space):
    points = []
    make_space(NESTED).check(points.append)
    assert len({tuple(point) for point in points}) == len(points)
    # 1 first point; lr's other end; transformer; layers' other end twice; heads; head; tasks.
    assert len(points) == 8
    assert points[4][3:6] == ["encoder=transformer", "encoder.layers=4", "encoder.heads=2"]
    overrides = {override for point in points for override in point}
    assert {"optim.lr=1e-05", "optim.lr=0.01", "encoder.layers=1", "encoder.layers=2"} <= overrides
    assert {"encoder.heads=4", "head=mlp", "tasks=[valence,arousal]"} <= overrides


def refuses(bad, points):
    if bad in points:
        raise InputError(f"{bad} is refused")


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ("training.epochs=12", "fixed.training.epochs"),
        ("optim.lr=1e-05", "space.optim.lr"),
        ("optim.lr=0.01", "space.optim.lr"),
        ("encoder=transformer", "space.encoder"),
        ("encoder.layers=1", "space.encoder.choice.gru.encoder.layers"),
        ("encoder.layers=4", "space.encoder.choice.transformer.encoder.layers"),
        ("encoder.heads=4", "space.encoder.choice.transformer.encoder.heads"),
        ("tasks=[valence,arousal]", "space.tasks"),
    ],
)
def test_the_check_names_the_path_in_the_search_file(make_space, bad, where):
    space = make_space(NESTED)
    with pytest.raises(InputError) as caught:
        space.check(functools.partial(refuses, bad))
    assert str(caught.value) == f"{space.file.source}: {where}: {bad} is refused"


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        (
            "space: {encoder: {choice: {gru: {}, grru: {}}}}",
            [],
            "space.encoder: encoder = 'grru' is unknown: did you mean 'gru'?",
        ),
        ("space: {encoder: {values: [lstn]}}", [], "did you mean 'lstm'?"),
        ("space: {optim.rl: {min: 0.1, max: 1.0}}", [], "space.optim.rl: optim.rl is no known key"),
        ("space: {optim.lr: {min: -1.0, max: 1.0}}", [], "space.optim.lr: optim.lr = -1.0"),
        (
            "space: {encoder: {choice: {gru: {encoder.layers: {min: 1, max: 2.5}}}}}",
            [],
            "space.encoder.choice.gru.encoder.layers: encoder.layers = ",
        ),
        (
            "space: {encoder: {choice: {gru: {encoder.heads: {values: [2]}}}}}",
            [],
            "space.encoder.choice.gru.encoder.heads: encoder.heads",
        ),
        ("space: {optim.lr: {min: 0.1, max: 1.0}}", ["traning.epochs=3"], "fixed.traning.epochs: "),
        ("space: {optim.lr: {min: 0.1, max: 1.0}}", ["training.epochs=no"], "fixed.training.ep"),
    ],
)
def test_the_check_refuses_values_that_do_not_compose(make_space, text, overrides, sentence):
    with pytest.raises(InputError) as caught:
        make_space(text, overrides).check(compose)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
