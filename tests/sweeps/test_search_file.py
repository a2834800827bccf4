"""The search file is read as written, and every mistake in it is one sentence that says where."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from mtl.errors import InputError
from sweeps.search_file import SearchFile, json_schema, load
from sweeps.search_file.strict_yaml import parse_yaml, write_yaml

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "sweeps/configs/search.schema.json"
SHIPPED = [ROOT / "search.yaml", *sorted((ROOT / "sweeps/configs/spaces").glob("*.yaml"))]
SMALL = "name: small\ndata: demo\nspace: {optim.lr: {min: 1e-5, max: 1e-2, log: true}}\n"
ENCODERS = """
name: small
data: demo
compare: {by: []}
fixed: {training.epochs: 12}
space:
  encoder:
    choice:
      gru: {encoder.layers: {min: 1, max: 2}, encoder.dropout: {min: 0.0, max: 0.5}}
      lstm: {}
      transformer: {encoder.layers: {min: 1, max: 4}}
  head: {values: [linear, mlp]}
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refusal(write):
    """The one sentence in which a file (and overrides) is refused."""

    def refusal(text, overrides=()):
        path = write(text)
        with pytest.raises(InputError) as caught:
            load(path, overrides)
        message = str(caught.value)
        assert "\n" not in message
        assert str(path) in message or "override" in message
        return message.replace(str(path), "FILE")

    return refusal


def space(node):
    return f"name: small\ndata: demo\nspace:\n  a.b: {node}\n"


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
        ("a: 1\na: 2", "line 2, column 1", "'a' stands here twice"),
        ("a:\n  b: 1\n  'b': 2", "line 3, column 3", "'b' stands here twice"),
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
def test_bad_yaml_names_its_place(refusal, text, place, what):
    message = refusal(text)
    assert message.startswith("FILE, " + place if place else "FILE: ")
    assert what in message


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "is empty"), ("# nothing", "is empty"), ("[1]", "holds a list"), ("x", "holds a str")],
)
def test_a_file_that_is_no_mapping(refusal, text, what):
    assert f"FILE {what}: a search file is a mapping" in refusal(text)


def test_a_file_that_cannot_be_read(tmp_path):
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
    }
    assert (file.pruner.kind, file.pruner.min_epochs, file.pruner.reduction_factor) == (
        "asha",
        2,
        3,
    )
    assert file.budget.model_dump() == {
        "minutes": None,
        "disk_gb": 5,
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
    assert (file.fusion.method, file.fusion.steps, file.fusion.per_task) == ("greedy", 25, True)
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
        ("budget: {disk_gb: 0}", "budget.disk_gb = 0 is refused"),
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
            "gpus_per_worker = 0.5: NCCL joins no two on one",
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
def test_workers_of_one_trial_share_no_gpu(write, resources):
    assert load(write(f"{SMALL}resources: {resources}")).resources


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("budget: {until: '18:00'}", "budget.until = '18:00'"),
        ("refit: {folds: 6}", "refit = {'folds': 6}"),
        ("fusion: {per_task: false}", "fusion.per_task = False"),
    ],
)
def test_what_is_not_built_is_refused_by_name(refusal, line, path):
    assert refusal(SMALL + line) == f"FILE: {path} is not built yet: leave it out"


def test_what_is_not_built_may_be_asked_not_to_be_done(write):
    lines = (
        "compare: {seeds: 0}\nbudget: {until: null}\nrefit: {folds: 0}\nfusion: {per_task: true}\n"
    )
    assert load(write(SMALL + lines)) == load(write(SMALL))


def test_what_is_not_built_is_refused_on_the_command_line(refusal):
    assert "budget.until = '18:00'" in refusal(SMALL, ["budget.until='18:00'"])
    assert "refit = {'folds': 6}" in refusal(SMALL, ["refit.folds=6"])


@pytest.mark.parametrize("key", ["name", "data", "space"])
def test_a_missing_key_is_named(refusal, key):
    lines = [line for line in SMALL.splitlines() if not line.startswith(key)]
    assert f"{key} is missing" in refusal("\n".join(lines))


def test_data_null_waits_for_the_command_line(write, refusal):
    text = SMALL.replace("demo", "null")
    assert "data=DIR" in refusal(text)
    assert load(write(text), ["data=/data/2024 #1"]).data == "/data/2024 #1"
    assert load(write(text), ["data=2024"]).data == "2024"


@pytest.mark.parametrize("name", ["a/b", "..", "''", "a b", "7"])
def test_a_name_is_a_folder(refusal, name):
    assert "name = " in refusal(SMALL.replace("small", name))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("{min: 3, max: 1}", 'space.a.b = {"min": 3, "max": 1} is refused: min must not be above'),
        ("{min: 0, max: 1, log: true}", "log needs min above 0"),
        ("{min: 1, max: ten}", 'space.a.b.max = "ten" is refused: must be a finite number'),
        ("{min: 1, max: .inf}", "space.a.b.max"),
        ("{min: true, max: 3}", "space.a.b.min = true"),
        ("{min: 1}", "space.a.b.max is missing"),
        ("{min: 1, mx: 2}", "space.a.b.mx is no known key: did you mean 'max'?"),
        ("{min: 1, max: 2, log: 1}", "space.a.b.log = 1 is refused"),
        ("{values: []}", "space.a.b.values = [] is refused: it must not be empty"),
        ("{values: 3}", "space.a.b.values = 3 is refused: it must be a list"),
        ("{values: [1, 2, 1]}", "1 stands there twice"),
        ("{values: [1, 1.0]}", "1.0 stands there twice"),
        ("{values: [[x], [y], [x]]}", '["x"] stands there twice'),
        ("{values: [1], min: 2}", "space.a.b.min is no known key"),
        ("{choice: {}}", "space.a.b.choice = {} is refused"),
        ("{choice: [gru]}", 'space.a.b.choice = ["gru"] is refused: it must be a mapping'),
        ("{choice: {gru: }}", "space.a.b.choice.gru = null is refused: it must be a mapping, {}"),
        ("{choice: {gru: {c.d: {min: 3, max: 1}}}}", "space.a.b.choice.gru.c.d = "),
        ("{choice: {gru: {c.d: 3}}}", "space.a.b.choice.gru.c.d = 3 is refused: write {min"),
        ("{subsets_of: []}", "space.a.b.subsets_of = [] is refused: it must not be empty"),
        ("{subsets_of: [x, x]}", "x stands there twice"),
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
        ("space: {}", "space: nothing varies"),
        ("space: {a/b: {min: 1, max: 2}}", "space.a/b is no dotted path"),
        ("space: {a: {min: 1, max: 2}}\nfixed: {a: 1}", "'a' stands in fixed and in space"),
        (
            "space: {e: {choice: {g: {a: {values: [1, 2]}}}}}\nfixed: {a: 1}",
            "'a' stands in fixed and in space",
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


def test_tasks_may_vary_where_they_are_compared(write):
    head = "name: small\ndata: demo\n"
    compared = "space: {tasks: {subsets_of: [valence, arousal]}}\ncompare: {by: [tasks]}"
    assert load(write(head + compared)).compare.by == ("tasks",)
    one = "space: {tasks: {values: [[valence]]}, a: {min: 1, max: 2}}"
    assert "tasks" in load(write(head + one)).space


def test_the_same_path_may_stand_under_two_options(write):
    file = load(write(ENCODERS))
    layers = [branch.get("encoder.layers") for branch in file.space["encoder"].choice.values()]
    assert [node and node.max for node in layers] == [2, None, 4]


def test_overrides_of_the_file(write):
    words = ["search.trials=4", "name=other", "resources.concurrent_trials=2", "search.trials=5"]
    file = load(write(SMALL), [*words, "space.head={values: [linear, mlp]}", "fixed.x.y=1e-3"])
    assert (file.name, file.search.trials, file.resources.concurrent_trials) == ("other", 5, 2)
    assert file.space["head"].listed() == ["linear", "mlp"]
    assert file.fixed == {"x.y": 1e-3}


def test_overrides_of_the_trial_leave_the_space(write):
    file = load(write(ENCODERS), ["head=mlp", "training.epochs=3", "features=[a,b]"])
    assert file.fixed == {"training.epochs": 3, "head": "mlp", "features": ["a", "b"]}
    assert list(file.space) == ["encoder"]


def test_a_fixed_choice_keeps_what_varies_under_it(write):
    file = load(write(ENCODERS), ["encoder=gru"])
    assert file.fixed["encoder"] == "gru"
    assert list(file.space) == ["encoder.layers", "encoder.dropout", "head"]
    assert file.space["encoder.layers"].max == 2


def test_a_fixed_choice_outside_the_space_keeps_nothing(write):
    assert list(load(write(ENCODERS), ["encoder=other"]).space) == ["head"]


def test_a_nested_path_leaves_every_branch(write):
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
    assert "space: nothing varies" in refusal(SMALL, ["optim.lr=0.1"])


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


def test_the_schema_is_up_to_date():
    command = "SCHEMA.write_text(json_schema())"
    assert json.loads(SCHEMA.read_text()) == json.loads(json_schema()), f"regenerate it: {command}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_fit_the_schema(path):
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))
    jsonschema.validate(parse_yaml(path.read_text(), path.name), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        SMALL + "serch: {}",
        SMALL + "search: {trials: 0}",
        space("3"),
        space("{min: 1}"),
        space("{values: []}"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parse_yaml(text, "x"), json.loads(json_schema()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_open_with_what_they_are(path):
    header = path.read_text().split("\nname:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    result = "# found: " if "\ncompare:" in path.read_text() else "# score to expect: "
    for word in ("# command: ", "# time: ", result, "$schema="):
        assert word in header
    schema = header.split("$schema=")[1].split("\n")[0]
    assert (path.parent / schema).resolve() == SCHEMA


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_mean_the_same_to_any_yaml_reader(path):
    loaded = yaml.safe_load(path.read_text())
    loaded["data"] = loaded["data"] or "DIR"
    assert isinstance(load(path, [f"data={loaded['data']}"]), SearchFile)
    assert loaded["search"] == parse_yaml(path.read_text(), "x")["search"]
