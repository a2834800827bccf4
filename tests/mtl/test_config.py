import json
from collections.abc import Iterator
from typing import Any

import pytest

from mtl.build_model import build_model
from mtl.config import read_config
from mtl.errors import InputError
from mtl.losses.balancing import BALANCINGS
from mtl.losses.functions import LOSSES
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS
from mtl.models.heads import HEADS
from mtl.renamed_keys import ADDED, OPERATIONAL
from mtl.tasks import TASKS
from tests.support.laws import CONFIGS, WIDTH, config, plain_config

REGISTRIES: dict[str, dict[str, Any]] = {
    "encoder": ENCODERS,
    "head": HEADS,
    "framework": FRAMEWORKS,
    "balancing": BALANCINGS,
}


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_registered_name_has_its_yaml(group: str) -> None:
    assert {path.stem for path in (CONFIGS / group).glob("*.yaml")} == set(REGISTRIES[group])


def leaves(plain: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def changed(path: tuple[str, ...], value: Any, **component: str) -> dict[str, Any]:
    """Return a plain config with another value at one path."""
    plain = json.loads(json.dumps(plain_config(*component.values())))
    node = plain
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return plain


LEAVES = tuple(leaves(plain_config("transformer", "mlp")))
WRONG = (None, {}, float("nan"), float("inf"), -1, "zzz", [[]])
WRONG_LEAVES = tuple(
    (path, value)
    for path in LEAVES
    for value in WRONG
    if not (".".join(path) in ADDED and value == ADDED[".".join(path)])
)


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return changed(path, value, encoder="transformer", head="mlp")


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("head", HEADS)
def test_plain_settings_are_read_back(encoder: str, head: str) -> None:
    trial = config(encoder, head)
    assert read_config(trial.plain()) == trial
    assert read_config(json.loads(json.dumps(trial.plain()))) == trial
    assert trial.plain() == plain_config(encoder, head)


@pytest.mark.parametrize(("path", "value"), WRONG_LEAVES)
def test_a_wrong_value_is_named_by_its_path(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(InputError) as error:
        read_config(at(path, value))
    named = path[:-1] if path[-1] == "name" and path[0] in {*REGISTRIES, "loss"} else path
    assert str(error.value).startswith(".".join(named))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", [path for path in LEAVES if ".".join(path) not in ADDED], ids=".".join
)
def test_no_key_has_a_hidden_default(path: tuple[str, ...]) -> None:
    plain = at(path, None)
    node = plain
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    with pytest.raises(InputError, match=f"{'.'.join(path)} is missing|must be a mapping with a"):
        read_config(plain)


@pytest.mark.parametrize("path", ADDED)
def test_a_key_of_a_later_version_has_its_recorded_default(path: str) -> None:
    """Files of earlier versions lack the key; signatures leave it out while it has this value."""
    section, key = path.split(".")
    plain = plain_config("transformer", "mlp")
    without = {**plain, section: {k: v for k, v in plain[section].items() if k != key}}
    read = read_config(without)
    assert read == read_config({**without, section: {**without[section], key: ADDED[path]}})
    assert key in read.plain()[section]


@pytest.mark.parametrize(
    "section", ["sequence", "encoder", "head", "loss", "balancing", "optim", "training"]
)
def test_the_error_for_an_unknown_key_names_the_nearest_key(section: str) -> None:
    known = next(key for key in plain_config()[section] if key != "name")
    with pytest.raises(
        InputError, match=rf"{section}\.{known}x .*did you mean '{section}.{known}'"
    ):
        read_config(changed((section, f"{known}x"), 1))


@pytest.mark.parametrize("group", REGISTRIES)
def test_the_error_for_an_unknown_component_names_the_nearest_one(group: str) -> None:
    name = next(iter(REGISTRIES[group]))
    with pytest.raises(InputError, match=f"{group} = '{name}s' is unknown: did you mean '{name}'"):
        read_config(changed((group, "name"), f"{name}s"))


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_must_fit_its_task(task: str) -> None:
    fitting = set(LOSSES[TASKS[task].kind])
    for name in fitting:
        read_config(changed(("loss", task), name))
    others = {name for losses in LOSSES.values() for name in losses} - fitting
    for name in others:
        with pytest.raises(InputError, match=rf"loss\.{task} = '{name}' is unknown"):
            read_config(changed(("loss", task), name))


RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("features", [["a"], ["b", "a"]], [[], ["a", "a"], "a", [1]]),
    ("tasks", [["arousal"], ["expression", "valence"]], [[], ["valence"] * 2, ["joy"]]),
    ("sequence.frames", ["listed", "all"], ["some", True]),
    ("sequence.frame_stride", [1, 30], [0, 1.5]),
    ("sequence.window_frames", [2, 512], [1, 0]),
    ("encoder.dropout", [0, 0.0, 0.99], [1, -0.1, "0.1"]),
    ("encoder.hidden", [2, 8], [0, 8.0]),
    ("encoder.feedforward", ["auto", 1, 300], [0, -1, 2.0, "wide", True, None]),
    ("encoder.norm", ["post", "pre"], ["before", None]),
    ("head.widths", [[], [512, 256]], [[0], [1.5], 4]),
    ("balancing.valence", [0, 12.0], [-1]),
    ("optim.name", ["adam", "adamw"], ["sgd"]),
    ("optim.lr", [1, 1e-12], [0, -1]),
    ("optim.batch_videos", [1], [0]),
    ("optim.warmup_epochs", [0, 0.25, 3], [-1]),
    ("optim.warmup_steps", [None, 0, 500], [-1, 0.5, "all"]),
    ("optim.lr_reference_width", [None, 1, 64], [0, -1, 6.4]),
    ("optim.decay", ["cosine", "constant"], ["linear"]),
    ("optim.gradient_clip", [0, 5], [-1]),
    ("training.epochs", [1], [0, 2.0]),
    ("training.seed", [0, 2**40], [-1]),
    ("training.device", ["auto", "cpu", "cuda"], ["tpu"]),
    ("training.precision", ["auto", "float64", "float32", "bfloat16", "float16"], ["float8"]),
]


@pytest.mark.parametrize(("path", "good", "bad"), RANGES, ids=[r[0] for r in RANGES])
def test_ranges(path: str, good: list[Any], bad: list[Any]) -> None:
    keys = tuple(path.split("."))
    for value in good:
        read_config(at(keys, value))
    for value in bad:
        with pytest.raises(InputError, match=keys[0]):
            read_config(at(keys, value))


def test_heads_that_do_not_divide_hidden_are_refused_when_built() -> None:
    trial = read_config(at(("encoder", "heads"), 3))
    with pytest.raises(InputError, match=r"encoder.hidden = 8 .* encoder.heads = 3"):
        build_model(trial, WIDTH, tuple(TASKS))


def test_operational_keys_exist() -> None:
    for path in OPERATIONAL:
        section, key = path.split(".")
        assert key in plain_config()[section]
