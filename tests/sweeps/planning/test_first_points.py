"""Points of ``search.first``: checked against the space, and given to the studies they fit."""

import pytest

from mtl.errors import InputError
from sweeps.planning.describe import describe
from sweeps.planning.first_points import FirstPoints, first_points
from sweeps.planning.plan import make_plan
from sweeps.planning.space import Space
from sweeps.search_file import load
from tests.support.small_data import make_dataset, search_file, write_space

SPACE = {
    "encoder": {
        "choice": {
            "gru": {"encoder.layers": {"min": 1, "max": 2}},
            "lstm": {},
            "transformer": {
                "encoder.layers": {"min": 1, "max": 4},
                "encoder.heads": {"values": [2, 4]},
            },
        }
    },
    "framework": {
        "choice": {
            "share_encoder": {},
            "feedback": {"framework.teacher_forcing_ratio": {"min": 0.1, "max": 0.9}},
        }
    },
    "tasks": {"values": [["valence"], ["valence", "arousal"]]},
    "optim.lr": {"min": 1e-5, "max": 1e-1, "log": True},
}
COMPARE = {"by": ["tasks"]}


@pytest.fixture
def points(tmp_path):
    """Function that returns the first points of a search file over ``SPACE``."""

    def points(first, *overrides, compare=COMPARE, space=SPACE) -> FirstPoints:
        file = write_space(
            tmp_path,
            "data",
            space=space,
            compare=compare,
            search={"trials": 8, "seed": 3, "first": first},
        )
        return first_points(Space(load(file, overrides)))

    return points


def test_a_point_goes_to_every_study_that_it_does_not_contradict(points):
    whole = {"encoder": "gru", "encoder.layers": 2, "optim.lr": 1e-3}
    both = {"encoder": "gru", "encoder=gru/encoder.layers": 2, "optim.lr": 1e-3}
    found = points([whole, {"tasks": ["valence"], "optim.lr": 1e-2}])
    assert found.parameters == ((both, {"optim.lr": 1e-2}), (both,))
    found = points([whole, {"encoder": "lstm"}], compare={"by": ["encoder", "tasks"]})
    inside = {"encoder=gru/encoder.layers": 2, "optim.lr": 1e-3}
    # {encoder: lstm} gives the studies of lstm nothing: all their trials have it.
    assert found.parameters == ((inside,), (inside,), (), (), (), ())


def test_equal_points_are_one_and_values_become_those_of_the_range(points):
    found = points([{"optim.lr": 0.001}, {"optim.lr": 1e-3}], compare={"by": ["tasks"]})
    assert found.parameters == (({"optim.lr": 1e-3},),) * 2
    ints = {**SPACE, "optim.lr": {"min": 0.0, "max": 2.0}}
    (given,), _ = points([{"optim.lr": 1}], space=ints).parameters
    assert repr(given["optim.lr"]) == "1.0"


def test_lists_and_renamed_keys_have_their_names_in_the_journal(points):
    compare = {"by": ["tasks", "encoder"]}
    free = {**SPACE, "features": {"subsets_of": ["a", "b"]}}
    old = {"framework": "feedback", "framework.truth_share": 0.5, "features": ["a", "b"]}
    (given,), *_ = points([old], space=free, compare=compare).parameters
    assert given == {
        "framework": "feedback",
        "framework=feedback/framework.truth_share": 0.5,
        "features": '["a","b"]',
    }


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"encodr": "gru"}, "point 2: encodr is not in space: did you mean 'encoder'?"),
        ({"training.epochs": 3, "head": "mlp"}, "point 2: head is not in space; known are"),
        (
            {"encoder": "gruu"},
            'point 2: encoder = "gruu" is not in space.encoder (gru | lstm | transformer): change',
        ),
        (
            {"encoder": "transformer", "encoder.layers": 5},
            "encoder.layers = 5 is not in space.encoder.choice.transformer.encoder.layers (1 .. 4)",
        ),
        ({"encoder": "gru", "encoder.layers": 1.5}, "encoder.layers = 1.5 is not in space.encoder"),
        (
            {"encoder": "gru", "encoder.layers": 2.0},
            "encoder.layers = 2.0 is not in space.encoder.choice.gru.encoder.layers (1 .. 2): it "
            "must be a whole number, without a decimal point; change it, or train no",
        ),
        ({"optim.lr": "fast"}, 'optim.lr = "fast" is not in space.optim.lr (1e-05 .. 0.1 log)'),
        ({"optim.lr": True}, "optim.lr = true is not in space.optim.lr"),
        ({"optim.lr": 10**400}, "000... is not in space.optim.lr (1e-05 .. 0.1 log): change it"),
        (
            {"encoder": "gru", "encoder.layers": 10**400},
            "000... is not in space.encoder.choice.gru.encoder.layers (1 .. 2): change it",
        ),
        ({"tasks": ["arousal"]}, 'tasks = ["arousal"] is not in space.tasks (valence | valence+a'),
        (
            {"encoder.heads": 2},
            "encoder.heads varies only under encoder: transformer: name the option in the point",
        ),
        (
            {"encoder": "lstm", "encoder.layers": 2},
            "gru or encoder: transformer: but the point has encoder: lstm",
        ),
    ],
)
def test_a_point_outside_the_space_is_refused_in_one_sentence(points, point, message):
    with pytest.raises(InputError) as refused:
        points([{"encoder": "gru"}, point])
    assert str(refused.value).count("space.yaml: search.first, point 2: ") == 1
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [True, [True, 2], {"a": [1]}])
def test_true_is_not_the_value_1(points, value):
    free = {**SPACE, "head.widths": {"values": [1, [1, 2], {"a": [True]}]}}
    with pytest.raises(InputError, match=r"head\.widths = .* is not in space"):
        points([{"head.widths": value}], space=free)
    found = points([{"head.widths": 1.0}, {"head.widths": [1.0, 2]}], space=free)
    assert found.parameters[0] == ({"head.widths": 1}, {"head.widths": "[1,2]"})


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("3", "search.first = 3 is refused: it must be a list"),
        ("[3]", "search.first, point 1 = 3 is refused: it must be a mapping"),
        ("[{encoder: gru}, {}]", "search.first, point 2 = {} is refused: it must not be empty"),
        ("[{a b: 3}]", "search.first, point 1: a b is no dotted path"),
        (
            "[{framework.truth_share: 0.5, framework.teacher_forcing_ratio: 0.5}]",
            "search.first, point 1: framework.teacher_forcing_ratio is given under two names",
        ),
    ],
)
def test_a_list_of_another_form_is_refused(points, first, message):
    with pytest.raises(InputError) as refused:
        points([], f"search.first={first}")
    assert message in str(refused.value)


def test_a_key_fixed_to_the_points_value_is_dropped_and_to_another_leaves_the_point_out(points):
    first = [
        {"encoder": "gru", "encoder.layers": 2, "optim.lr": 1e-3},
        {"encoder": "transformer", "encoder.heads": 4},
    ]
    found = points(first, "encoder=gru", compare={"by": ["tasks"]})
    assert found.parameters == (({"encoder.layers": 2, "optim.lr": 1e-3},),) * 2
    assert found.left_out == ("encoder = transformer, but it is fixed to gru",)
    assert points(first, "encoder=gru", "search.first=[]").parameters == ((), ())


def test_a_long_value_of_a_point_that_is_left_out_is_cut(points):
    found = points([{"encoder": "gru", "training.epochs": 10**400}], "training.epochs=1")
    (left_out,) = found.left_out
    assert left_out == f"training.epochs = 1{'0' * 76}..., but it is fixed to 1"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"encoder": "gruu"}, "encoder = 'gruu' is unknown: did you mean 'gru'?"),
        ({"encoder": "transformer", "encoder.heads": "two"}, "encoder.heads = 'two' is refused"),
        ({"encoder": "gru", "optim.lrr": 1e-3}, "optim.lrr is no known key: did you mean 'optim."),
        ({"encoder": "gru", "training.epochs": True}, "training.epochs = True is refused"),
    ],
)
def test_a_point_that_is_left_out_must_be_a_config(points, point, message):
    with pytest.raises(InputError) as refused:
        points([point], "encoder=lstm", "training.epochs=1")
    assert "space.yaml: search.first, point 1: " in str(refused.value)
    assert message in str(refused.value)


def test_a_point_that_is_left_out_may_have_values_that_fixed_keys_do_not_fit(points):
    """The fixed ``encoder.heads`` is a key of the transformer only."""
    point = {"encoder": "gru", "encoder.layers": 3, "optim.lr": 1.0}
    found = points([point], "encoder=transformer", "encoder.heads=2")
    assert found.left_out == ("encoder = gru, but it is fixed to transformer",)


def test_the_plan_counts_the_points_and_says_which_are_left_out(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    first = [{"encoder": "lstm"}, {"encoder": "gru", "optim.lr": 1e-3}, {"optim.lr": 1e-4}]
    space = {path: node for path, node in SPACE.items() if path != "framework"}
    search = {"trials": 3, "seed": 3, "first": first}
    plan = make_plan(search_file(tmp_path, search=search, space=space, compare=COMPARE), dataset)
    text = describe(plan, None)
    assert "  first     6 trials start from the points of search.first\n" in text
    assert "note      search.trials = 3 is too few for all of these points" in text
    file = search_file(
        tmp_path, "encoder=gru", "search.trials=4", search=search, space=space, compare=COMPARE
    )
    text = describe(make_plan(file, dataset), None)
    assert "  first     4 trials start" in text
    assert (
        "note      search.first: 1 left out, it has encoder = lstm, but it is fixed to gru: leave "
        "that key out of the point, or do not fix it\n" in text
    )
    assert "too few" not in text
    plain = search_file(tmp_path, space=space, compare=COMPARE)
    assert "first" not in describe(make_plan(plain, dataset), None)


def test_a_point_of_which_no_model_can_be_built_is_refused(tmp_path):
    """One of 400 widths is no multiple of the heads, and no sampled config has it."""
    dataset = make_dataset(tmp_path / "data")
    changes = {
        "search": {"trials": 4, "seed": 5},
        "fixed": {"encoder": "transformer", "encoder.heads": 8, "training.epochs": 3},
        "space": {
            "encoder.hidden": {"values": [*range(8, 3200, 8), 12]},
            "head": {"values": ["mlp"]},
        },
    }
    make_plan(search_file(tmp_path, **changes), dataset)
    with pytest.raises(InputError) as refused:
        make_plan(search_file(tmp_path, "search.first=[{encoder.hidden: 12}]", **changes), dataset)
    place = f"{tmp_path / 'space.yaml'}: search.first: encoder.hidden = 12 must be even and"
    assert str(refused.value).startswith(place)


def test_a_width_above_64_bits_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    file = search_file(tmp_path, f"encoder.hidden={10**400}")
    with pytest.raises(InputError, match="no model can be built of"):
        make_plan(file, dataset)


def test_points_are_no_part_of_the_sweeps_identity(tmp_path):
    without = search_file(tmp_path, space=SPACE, compare=COMPARE)
    given = search_file(tmp_path, "search.first=[{encoder: gru}]", space=SPACE, compare=COMPARE)
    assert given.search.first == ({"encoder": "gru"},)
    assert given.identity() == without.identity()
    (tmp_path / "again.yaml").write_text(given.to_yaml())
    assert load(tmp_path / "again.yaml").to_yaml() == given.to_yaml()
