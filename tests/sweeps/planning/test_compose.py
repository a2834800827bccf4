import re
from typing import Any

import pytest
import yaml

from mtl.build_model import build_model
from mtl.config import TrialConfig
from mtl.errors import InputError
from mtl.renamed_keys import OPERATIONAL
from mtl.tasks import TASKS
from sweeps.planning.compose import CONFIGS, compose, group_options, signature

GROUPS = ("balancing", "encoder", "framework", "head", "loss", "optim")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONFIGS / group).iterdir())]


def test_each_config_folder_is_a_group_with_its_options() -> None:
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "spaces"}
    assert group_options("encoder") == ("gru", "lstm", "per_frame", "transformer")
    assert [group_options(name) for name in ("spaces", "encoders", "trial", "optim.lr")] == [
        None
    ] * 4


def written(group: str, option: str) -> dict[str, Any]:
    """Return the content of an option's YAML file, in which a loss is written as its name alone."""
    plain = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text())
    return {task: {"name": name} for task, name in plain.items()} if group == "loss" else plain


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_to_its_yaml(group: str, option: str) -> None:
    found = compose([f"{group}={option}"])
    assert found.plain()[group] == written(group, option)
    build_model(found, 5, tuple(TASKS))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_file_starts_with_a_comment_or_its_name(group: str, option: str) -> None:
    first = (CONFIGS / group / f"{option}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ") or option in first


def test_composing_without_overrides_gives_the_trial_file() -> None:
    plain = yaml.safe_load((CONFIGS / "trial.yaml").read_text())
    chosen = {key: value for part in plain.pop("defaults")[:-1] for key, value in part.items()}
    found = compose([]).plain()
    for group, option in chosen.items():
        plain[group] = written(group, option)
    assert found == plain


def value_at(trial: TrialConfig, path: str) -> Any:
    node: Any = trial.plain()
    for key in path.split("."):
        node = node[key]
    return node


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr=1e-5", 1e-5),
        ("optim.lr=1", 1.0),
        ("encoder.hidden=32", 32),
        ("features=[a,b]", ["a", "b"]),
        ("features=['a b',\"c\"]", ["a b", "c"]),
        ("tasks=[arousal]", ["arousal"]),
        ("head.widths=[512,256]", [512, 256]),
        ("sequence.frames=all", "all"),
        ("sequence.frames='all'", "all"),
        ("optim.decay=constant", "constant"),
        ("encoder.dropout=0", 0.0),
    ],
)
def test_values_are_set(override: str, value: Any) -> None:
    path = override.split("=")[0]
    found = value_at(compose([override]), path)
    assert found == value
    assert type(found) is type(value)


def test_the_order_of_options_and_their_values_does_not_matter() -> None:
    before = compose(["encoder.heads=2", "encoder=transformer", "head=linear"])
    assert before == compose(["head=linear", "encoder=transformer", "encoder.heads=2"])
    assert before.encoder.parameters["heads"] == 2


def test_the_last_override_of_a_path_counts() -> None:
    assert compose(["optim.lr=1", "optim.lr=2"]).optim.lr == 2
    assert compose(["encoder=lstm", "encoder=transformer"]).encoder.name == "transformer"


def test_composing_does_not_change_later_configs() -> None:
    before = compose([])
    compose(["features=[other]", "encoder.hidden=32", "head.widths=[9]", "encoder=lstm"])
    assert compose([]) == before


REFUSED = {
    "encoder=gruu": "encoder = 'gruu' is unknown: did you mean 'gru'?",
    "encoder=zzz": "encoder = 'zzz' is unknown; known are gru, lstm, per_frame, transformer",
    "encoder={name: gru}": "encoder = {'name': 'gru'} is unknown",
    "encoder=": "encoder = '' is unknown",
    "encoder=null": "encoder = None is unknown",
    "encoder.hiden=3": "encoder.hiden is no known key: did you mean 'encoder.hidden'?",
    "encoder.heads=2": "encoder.heads is no known key",
    "encoder.hidden.x=2": "encoder.hidden.x is no known key",
    "features.x=2": "features.x is no known key",
    "optm.lr=1": "optm.lr is no known key: did you mean 'optim'?",
    "zzz=1": "zzz is no known key; known are encoder, head, framework, loss, balancing, optim,",
    "spaces=studyforrest": "spaces is no known key",
    "hydra.run.dir=x": "hydra.run.dir is no known key",
    "defaults=[]": "defaults is no known key",
    "optim.lr=0": "optim.lr = 0 is refused: input should be greater than 0",
    "optim.lr=nan": "optim.lr = nan is refused",
    "optim.lr=inf": "optim.lr = inf is refused",
    "optim.lr=null": "optim.lr = None is refused",
    "optim.lr='0.1'": "optim.lr = '0.1' is refused",
    "encoder.hidden=64.0": "encoder.hidden = 64.0 is refused",
    "training={epochs: 3}": "training.seed is missing",
    "loss.valence=cross_entropy": "loss.valence = 'cross_entropy' is unknown",
    "tasks=[joy]": "tasks: 'joy' is unknown; known are valence, arousal, expression, action_units",
    "optim.lr=${oc.env:HOME}": "'optim.lr=${oc.env:HOME}' holds an interpolation",
    "features=[${a}]": "'features=[${a}]' holds an interpolation",
    "optim.lr": "'optim.lr' is no override (missing EQUAL",
    "a b=3": "'a b=3' is no override",
    "=3": "'=3' is no plain override: write path=value",
    "encoder=gru,lstm": "'encoder=gru,lstm' is no plain override",
    "optim.lr=range(1,3)": "'optim.lr=range(1,3)' is no plain override",
    "features=glob(*)": "'features=glob(*)' is no plain override",
    "+encoder.x=1": "'+encoder.x=1' is no plain override",
    "++encoder.hidden=1": "'++encoder.hidden=1' is no plain override",
    "~encoder": "'~encoder' is no plain override",
    "encoder@x=gru": "'encoder@x=gru' is no plain override",
}


@pytest.mark.parametrize(("override", "sentence"), REFUSED.items(), ids=REFUSED)
def test_a_wrong_override_is_refused_in_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"^{re.escape(sentence)}[^\n]*$"):
        compose([override])


def test_the_environment_variables_of_hydra_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(InputError, match="unknown"):
        compose(["encoder=zzz"])


# Signatures

CHANGES = [
    "features=[geometry]",
    "features=[appearance,geometry]",
    "tasks=[valence]",
    "sequence.frames=all",
    "sequence.frame_stride=2",
    "sequence.window_frames=32",
    "encoder=lstm",
    "encoder=transformer",
    "encoder.hidden=32",
    "encoder.layers=1",
    "encoder.dropout=0.2",
    "head=linear",
    "head.widths=[32]",
    "head.dropout=0.2",
    "framework=share_bottom",
    "loss=ccc",
    "loss.expression=focal",
    "loss.action_units=asymmetric",
    "balancing=normalised",
    "balancing.valence=2",
    "balancing.arousal=2",
    "balancing.expression=2",
    "balancing.action_units=2",
    "optim=adamw",
    "optim.lr=0.01",
    "optim.weight_decay=0.1",
    "optim.batch_videos=4",
    "optim.warmup_epochs=2",
    "optim.warmup_steps=10",
    "optim.lr_reference_width=32",
    "optim.decay=constant",
    "optim.gradient_clip=0",
    "training.epochs=3",
    "training.seed=1",
    "training.precision=bfloat16",
]


def leaves(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as dotted path -> value."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        inner = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def test_every_change_of_training_changes_the_signature() -> None:
    signatures = [signature(compose(change), "data") for change in [[], *([c] for c in CHANGES)]]
    signatures.append(signature(compose([]), "other data"))
    assert len(set(signatures)) == len(CHANGES) + 2
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in signatures)


def test_a_key_of_one_encoder_changes_the_signature() -> None:
    options = ["", "encoder.norm=pre", "encoder.feedforward=auto", "encoder.heads=2"]
    signs = {signature(compose(["encoder=transformer", *o.split()]), "data") for o in options}
    assert len(signs) == len(options)


def test_every_key_is_among_the_changes_above() -> None:
    """A new key must change the signature or be listed in ``OPERATIONAL``."""
    before = leaves(compose([]).plain())
    untouched = set(before)
    for change in CHANGES:
        after = leaves(compose([change]).plain())
        untouched -= {path for path, value in before.items() if after.get(path) != value}
    assert untouched == set(OPERATIONAL)


def test_the_device_and_the_form_of_overrides_keep_the_signature() -> None:
    expected = signature(compose(["encoder=lstm", "optim.lr=0.01"]), "data")
    same = [
        ["optim.lr=0.01", "encoder=lstm"],
        ["optim.lr=1e-2", "encoder=lstm"],
        ["encoder=lstm", "optim.lr=0.01", "training.device=cpu"],
        ["encoder=lstm", "optim.lr=0.5", "optim.lr=0.01", "training.device=cuda"],
        ["encoder=lstm", "optim.lr=0.01", "encoder.layers=1", "optim=adam"],
    ]
    assert {signature(compose(overrides), "data") for overrides in same} == {expected}


def test_an_integer_and_an_equal_float_have_the_same_signature() -> None:
    one = signature(compose(["optim.gradient_clip=5"]), "data")
    assert one == signature(compose(["optim.gradient_clip=5.0"]), "data")
