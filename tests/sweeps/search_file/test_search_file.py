"""Strict reading of the search file; every mistake is one sentence that names its place."""

from datetime import UTC, datetime

import pytest

from mtl.errors import InputError
from sweeps.search_file import load
from sweeps.search_file.strict_yaml import parse_yaml, write_yaml
from tests.support.search_files import ENCODERS, SMALL, space


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+12", 12),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-.inf", float("-inf")),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1e-5'", "1e-5"),
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    found = parse_yaml(f"key: {text}", "x")["key"]
    assert found == value
    assert type(found) is type(value)


def test_anchors_and_merge_keys_work():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}"
    assert parse_yaml(text, "x") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
    }


@pytest.mark.parametrize(
    "value", ["1e5", "yes", "010", "", "null", ".5", "a: b", "é", 1e-5, 1e22, 3, None, True]
)
def test_written_yaml_reads_back(value):
    found = parse_yaml(write_yaml({"key": [value], "again": {"deep": value}}), "x")
    assert found == {"key": [value], "again": {"deep": value}}
    assert type(found["key"][0]) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\na: 2", "line 2, column 1", "'a' is given twice"),
        ("a:\n  b: 1\n  'b': 2", "line 3, column 3", "'b' is given twice"),
        ("a: !!python/name:os.system", "line 1, column 4", "tag"),
        ("a: !secret x", "line 1, column 4", "!secret"),
        ("a: 1\nb: x${oc.env:HOME}", "line 2, column 5", "'${' is refused"),
        ("a: [1, 2", "line 1, column 9", "expected ',' or ']'"),
        ("a: 1\n\tb: 2", "line 2, column 1", "\\t"),
        ("a: &a [*a]", "line 1, column 4", "recursive"),
        ("? [1]\n: 2", "line 1, column 3", "plain text"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "another document"),
        ("a: !!int x", "", "invalid literal"),
    ],
)
def test_a_yaml_error_names_line_and_column(refusal, text, place, what):
    message = refusal(text)
    assert message.startswith("FILE, " + place if place else "FILE: ")
    assert what in message


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "is empty"), ("# nothing", "is empty"), ("[1]", "holds a list"), ("x", "holds a str")],
)
def test_a_file_without_a_mapping_is_refused(refusal, text, what):
    assert f"FILE {what}: a search file is a mapping" in refusal(text)


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: there is no such search file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read as a search file: Is a directory"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(InputError, match="not UTF-8"):
        load(tmp_path / "binary.yaml")


def test_defaults(write):
    file = load(write(SMALL))
    assert file.search.model_dump() == {
        "trials": 18,
        "sampler": "tpe",
        "metric": "score",
        "confirm": 0.5,
        "seed": 1234,
        "first": (),
    }
    assert (file.pruner.kind, file.pruner.min_epochs, file.pruner.reduction_factor) == (
        "asha",
        2,
        3,
    )
    assert file.budget.model_dump() == {
        "minutes": None,
        "until": None,
        "disk_gb": "auto",
        "failures": 3,
        "restarts": 3,
    }
    assert file.resources.model_dump() == {
        "workers_per_trial": 1,
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "concurrent_trials": "auto",
        "start_timeout_minutes": 15,
    }
    assert file.compare.by == ()
    assert (file.fusion.method, file.fusion.steps) == ("greedy", 25)
    assert file.fixed == {}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("serch: {trials: 4}", "serch is no known key: did you mean 'search'?"),
        ("search: {trails: 4}", "search.trails is no known key: did you mean 'trials'?"),
        ("pruner: {min_epoch: 2}", "pruner.min_epoch is no known key: did you mean 'min_epochs'?"),
        ("budget: {disk: 2}", "budget.disk is no known key"),
        ("resources: {gpu_per_worker: 1}", "did you mean 'gpus_per_worker'?"),
        ("fusion: {step: 2}", "fusion.step is no known key: did you mean 'steps'?"),
        ("search: {trials: 0}", "search.trials = 0 is refused: input should be greater"),
        ("search: {trials: '4'}", 'search.trials = "4" is refused: it must be a whole number'),
        ("search: {trials: 4.0}", "search.trials = 4.0 is refused"),
        ("search: {trials: true}", "search.trials = true is refused"),
        ("search: 4", "search = 4 is refused: it must be a mapping"),
        ("search: {confirm: 1}", "search.confirm = 1 is refused: input should be less than 1"),
        ("search: {confirm: -.1}", "search.confirm = -0.1 is refused"),
        (
            "search: {sampler: cmaes}",
            "search.sampler = \"cmaes\" is refused: input should be 'tpe'",
        ),
        ("search: {metric: loss}", 'search.metric = "loss" is refused'),
        ("pruner: {kind: hyperband}", 'pruner.kind = "hyperband" is refused'),
        ("pruner: {reduction_factor: 1}", "pruner.reduction_factor = 1 is refused"),
        (
            "budget: {disk_gb: 0}",
            "budget.disk_gb = 0 is refused: must be auto, a number of GB above 0, or null for no "
            "limit",
        ),
        ("budget: {disk_gb: all}", 'budget.disk_gb = "all" is refused: must be auto'),
        ("budget: {disk_gb: true}", "budget.disk_gb = true is refused: must be auto"),
        ("budget: {disk_gb: .inf}", "budget.disk_gb"),
        ("budget: {minutes: 0}", "budget.minutes = 0 is refused: input should be greater than 0"),
        ("budget: {minutes: 10m}", 'budget.minutes = "10m" is refused'),
        ("budget: {restarts: -1}", "budget.restarts = -1 is refused: input should be greater"),
        ("budget: {restarts: null}", "budget.restarts = null is refused"),
        ("resources: {workers_per_trial: 0}", "resources.workers_per_trial = 0 is refused"),
        ("resources: {workers_per_trial: true}", "resources.workers_per_trial = true is refused"),
        ("resources: {start_timeout_minutes: 0}", "resources.start_timeout_minutes = 0 is refused"),
        (
            "resources: {workers_per_trial: 2, gpus_per_worker: 0.5}",
            'resources = {"workers_per_trial": 2, "gpus_per_worker": 0.5} is refused: with '
            "workers_per_trial = 2 each worker needs a whole GPU or none, not "
            "gpus_per_worker = 0.5: NCCL cannot join two workers on one GPU",
        ),
        ("resources: {concurrent_trials: many}", "must be auto or a whole number above 0"),
        ("resources: {concurrent_trials: 0}", "resources.concurrent_trials = 0 is refused"),
        ("resources: {gpus_per_worker: 1.5}", "whole number, or a share below 1"),
        ("fusion: {method: stacking}", 'fusion.method = "stacking" is refused: input should be'),
        ("compare: {by: encoder}", 'compare.by = "encoder" is refused: it must be a list'),
        ("fixed: {a-b: 1}", "fixed.a-b is no dotted path"),
    ],
)
def test_a_wrong_setting_is_one_sentence(refusal, line, sentence):
    assert sentence in refusal(SMALL + line)


@pytest.mark.parametrize(
    "resources",
    [
        "{workers_per_trial: 2, gpus_per_worker: 1}",
        "{workers_per_trial: 2, gpus_per_worker: 0}",
        "{workers_per_trial: 1, gpus_per_worker: 0.5}",
    ],
)
def test_workers_of_one_trial_cannot_share_a_gpu(write, resources):
    assert load(write(f"{SMALL}resources: {resources}")).resources


def test_null_and_zero_settings_may_be_written(write):
    lines = (
        "compare: {seeds: 0}\nbudget: {until: null}\nrefit: {folds: 0}\nfusion: {per_task: true}\n"
    )
    assert load(write(SMALL + lines)) == load(write(SMALL))


@pytest.mark.parametrize("folds", [-1, 1, 2])
def test_a_refit_needs_a_fold_to_hold_out_one_to_select_on_and_one_to_train_on(refusal, folds):
    said = refusal(f"{SMALL}refit: {{folds: {folds}}}")
    assert said.startswith(f"FILE: refit.folds = {folds}")
    assert "at least 3" in said


@pytest.mark.parametrize("disk_gb", ["auto", "5", "0.5", "null"])
def test_the_disk_space_is_automatic_a_number_or_unlimited_and_may_change(write, disk_gb):
    file = load(write(f"{SMALL}budget: {{disk_gb: {disk_gb}}}"))
    assert file.budget.disk_gb == parse_yaml(f"x: {disk_gb}", "x")["x"]
    assert load(write(file.to_yaml())).budget == file.budget
    assert file.identity() == load(write(SMALL)).identity()


def test_a_resumed_sweep_may_add_a_refit(write):
    asked = load(write(SMALL), ["refit.folds=6"])
    assert asked.refit.folds == 6
    assert asked.identity() == load(write(SMALL)).identity()


@pytest.mark.parametrize("text", ["2030-07-25 18:00", "'2030-07-25T18:00:00'"])
def test_until_is_local_time(write, text):
    file = load(write(f"{SMALL}budget: {{until: {text}}}"))
    assert file.budget.until == datetime(2030, 7, 25, 18).astimezone()
    stored = load(write(file.to_yaml()))
    assert stored.budget.until == file.budget.until


def test_until_may_have_a_time_zone_and_may_be_an_override(write):
    file = load(write(SMALL), ["budget.until=2030-07-25T18:00+02:00"])
    assert file.budget.until == datetime(2030, 7, 25, 16, tzinfo=UTC)


def test_until_without_a_date_and_time_is_refused(refusal):
    assert "budget.until" in refusal(SMALL + "budget: {until: '18:00'}")
    assert "budget.until" in refusal(SMALL + "budget: {until: tomorrow}")
    assert "budget.until" in refusal(SMALL + "budget: {until: 12}")


@pytest.mark.parametrize("key", ["name", "data", "space"])
def test_a_missing_key_is_named(refusal, key):
    lines = [line for line in SMALL.splitlines() if not line.startswith(key)]
    assert f"{key} is missing" in refusal("\n".join(lines))


def test_data_null_needs_an_override(write, refusal):
    text = SMALL.replace("demo", "null")
    assert "data=DIR" in refusal(text)
    assert load(write(text), ["data=/data/2024 #1"]).data == "/data/2024 #1"
    assert load(write(text), ["data=2024"]).data == "2024"


@pytest.mark.parametrize("name", ["a/b", "..", "''", "a b", "7"])
def test_a_name_must_be_valid_as_a_folder(refusal, name):
    assert "name = " in refusal(SMALL.replace("small", name))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("{min: 3, max: 1}", 'space.a.b = {"min": 3, "max": 1} is refused: min must not be above'),
        ("{min: 0, max: 1, log: true}", "log needs min above 0"),
        ("{min: 1, max: ten}", 'space.a.b.max = "ten" is refused: must be a finite number'),
        ("{min: 1, max: .inf}", "space.a.b.max"),
        ("{min: true, max: 3}", "space.a.b.min = true"),
        (f"{{min: 1, max: {10**400}}}", "... is refused: must be a finite number"),
        (f"{{min: {-(10**400)}, max: 1.0}}", "... is refused: must be a finite number"),
        (f"{{values: [1, {10**400}]}}", "... is refused: must be a finite number"),
        ("{values: [1, .nan]}", "space.a.b.values"),
        ("{min: 1}", "space.a.b.max is missing"),
        ("{min: 1, mx: 2}", "space.a.b.mx is no known key: did you mean 'max'?"),
        ("{min: 1, max: 2, log: 1}", "space.a.b.log = 1 is refused"),
        ("{values: []}", "space.a.b.values = [] is refused: it must not be empty"),
        ("{values: 3}", "space.a.b.values = 3 is refused: it must be a list"),
        ("{values: [1, 2, 1]}", "1 is listed twice"),
        ("{values: [1, 1.0]}", "1.0 is listed twice"),
        ("{values: [[x], [y], [x]]}", '["x"] is listed twice'),
        ("{values: [1], min: 2}", "space.a.b.min is no known key"),
        ("{choice: {}}", "space.a.b.choice = {} is refused"),
        ("{choice: [gru]}", 'space.a.b.choice = ["gru"] is refused: it must be a mapping'),
        ("{choice: {gru: }}", "space.a.b.choice.gru = null is refused: it must be a mapping, {}"),
        ("{choice: {gru: {c.d: {min: 3, max: 1}}}}", "space.a.b.choice.gru.c.d = "),
        ("{choice: {gru: {c.d: 3}}}", "space.a.b.choice.gru.c.d = 3 is refused: write {min"),
        ("{subsets_of: []}", "space.a.b.subsets_of = [] is refused: it must not be empty"),
        ("{subsets_of: [x, x]}", "x is listed twice"),
        ("{subsets_of: [a, b, c, d, e, f, g, h, i]}", "at most 8"),
        ("3", "space.a.b = 3 is refused: write {min: 1, max: 4}, {values: [...]}"),
        ("[1, 2]", "a single value belongs under fixed"),
        ("", "space.a.b = null is refused"),
        ("{value: [1, 2]}", 'space.a.b = {"value": [1, 2]} is refused: write {min'),
    ],
)
def test_a_wrong_range_is_one_sentence(refusal, node, sentence):
    assert sentence in refusal(space(node))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("space: {}", "space: it must not be empty"),
        ("space: {a/b: {min: 1, max: 2}}", "space.a/b is no dotted path"),
        ("space: {a: {min: 1, max: 2}}\nfixed: {a: 1}", "'a' is both in fixed and in space"),
        (
            "space: {e: {choice: {g: {a: {values: [1, 2]}}}}}\nfixed: {a: 1}",
            "'a' is both in fixed and in space",
        ),
        (
            "space: {e: {choice: {g: {a: {values: [1, 2]}}}}, a: {values: [1, 2]}}",
            "'a' could be set twice in one trial",
        ),
        ("space: {e: {choice: {g: {e: {values: [1, 2]}}}}}", "'e' could be set twice"),
        ("space: {a: {min: 1, max: 2}}\ncompare: {by: [a]}", "compare.by: 'a' is a range"),
        (
            "space: {encoder: {values: [x, y]}}\ncompare: {by: [encodr]}",
            "compare.by: 'encodr' is not at the top of space: did you mean 'encoder'?",
        ),
        (
            "space: {e: {choice: {g: {a: {values: [1, 2]}}}}}\ncompare: {by: [a]}",
            "compare.by: 'a' is not at the top of space",
        ),
        (
            "space: {e: {values: [1, 2]}}\ncompare: {by: [e, e]}",
            'compare.by = ["e", "e"] is refused: names one path twice',
        ),
        ("space: {tasks: {values: [[valence], [arousal]]}}", "space.tasks: "),
        ("space: {tasks: {subsets_of: [valence, arousal]}}", "compare.by"),
        ("space: {e: {choice: {g: {tasks: {values: [[a], [b]]}}}}}", "space.tasks: "),
    ],
)
def test_a_contradiction_is_one_sentence(refusal, text, sentence):
    assert sentence in refusal(f"name: small\ndata: demo\n{text}\n")


def test_tasks_may_vary_if_they_are_compared(write):
    head = "name: small\ndata: demo\n"
    compared = "space: {tasks: {subsets_of: [valence, arousal]}}\ncompare: {by: [tasks]}"
    assert load(write(head + compared)).compare.by == ("tasks",)
    one = "space: {tasks: {values: [[valence]]}, a: {min: 1, max: 2}}"
    assert "tasks" in load(write(head + one)).space


def test_two_options_may_have_the_same_path(write):
    file = load(write(ENCODERS))
    layers = [branch.get("encoder.layers") for branch in file.space["encoder"].choice.values()]
    assert [node and node.max for node in layers] == [2, None, 4]
