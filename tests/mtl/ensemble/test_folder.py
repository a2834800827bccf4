"""Tests that an export that is damaged, invalid or of another version is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl.dataset import Dataset
from mtl.ensemble import Ensemble
from mtl.ensemble.folder import Files
from mtl.ensemble.manifest import MODEL, STATISTICS
from mtl.errors import InputError
from mtl.whole_files import write_folder
from tests.support import ensemble_zoo as zoo

Trials = dict[str, zoo.Trained]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return zoo.dataset(tmp_path_factory.mktemp("folder") / "data")


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Trials:
    return {name: zoo.train(data, name) for name in zoo.SETTINGS}


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Ensemble.load(folder, "cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def path_of(files: Files) -> str:
    return next(path for path in files if path.startswith("members/recurrent"))


def remove(files: Files) -> None:
    del files[path_of(files)]


def shorten(files: Files) -> None:
    files[path_of(files)] = files[path_of(files)][:100]


def flip(files: Files) -> None:
    content = files[path_of(files)]
    files[path_of(files)] = content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [remove, shorten, flip])
def test_damaged_weights(
    data: Dataset, trained: Trials, tmp_path: Path, damage: Callable[[Files], None]
) -> None:
    files = zoo.export_files(data, trained)
    path = path_of(files)
    damage(files)
    write_folder(tmp_path / "export", files)
    message = refusal(tmp_path / "export")
    assert path in message
    assert "copy or export it again" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ("[]", "describes no exported model"),
        ('{"a": 1}', "describes no exported model"),
        ('{"format": 2}', "format 2, this program reads 1"),
        ('{"format": 1}', "versions is missing"),
    ],
)
def test_another_model_json(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / MODEL).write_text(text)
    assert expected in refusal(tmp_path)


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    assert "is no exported model" in refusal(tmp_path)
    assert "is no exported model" in refusal(tmp_path / "nowhere")


def with_member(plain: dict[str, Any], **changes: Any) -> dict[str, Any]:
    member = {**plain["members"]["recurrent"], **changes}
    return {"members": {**plain["members"], "recurrent": member}}


def with_config(plain: dict[str, Any], **changes: Any) -> dict[str, Any]:
    config = plain["members"]["recurrent"]["config"]
    changed = {group: {**config[group], **change} for group, change in changes.items()}
    return with_member(plain, config={**config, **changed})


CASES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "unknown key": (lambda p: {"weihgts": 1}, "weihgts is no known key"),
    "escaping name": (
        lambda p: {"members": {"../../x": p["members"]["recurrent"]}},
        "members.../../x",
    ),
    "escaping pattern": (lambda p: {"image_name": "../{frame:05d}.jpg"}, "image_name"),
    "other pattern": (lambda p: {"image_name": "{frame:099999d}.jpg"}, "image_name"),
    "no member": (lambda p: {"members": {}}, "members"),
    "weight 0": (
        lambda p: with_member(p, weights={"valence": 0, "action_units": 1}),
        "members.recurrent.weights.valence",
    ),
    "no number": (
        lambda p: {"prior": {**p["prior"], "valence": [float("nan")]}},
        "prior.valence.0",
    ),
    "epochs": (
        lambda p: with_member(p, weights={"valence": 1.0}),
        "members.recurrent: weights and epochs must name the same trained tasks",
    ),
    "untrained task": (
        lambda p: {"prior": {t: v for t, v in p["prior"].items() if t != "valence"}},
        "members.recurrent: weights and epochs",
    ),
    "config": (
        lambda p: with_config(p, head={"name": "linaer"}),
        "members.recurrent.config: head = 'linaer' is unknown: did you mean 'linear'",
    ),
    "another model": (
        lambda p: with_config(p, encoder={"hidden": 9}),
        "holds the weights of another model than members.recurrent.config",
    ),
    "prior": (lambda p: {"prior": {**p["prior"], "arousal": [1.0, 2.0]}}, "prior.arousal has 2"),
    "bias": (
        lambda p: {"postprocessing": {**p["postprocessing"], "bias": [1.0]}},
        "postprocessing.bias has 1 numbers, not 8",
    ),
    "threshold": (
        lambda p: {"postprocessing": {**p["postprocessing"], "thresholds": [1.0] * 12}},
        "postprocessing.thresholds.0 = 1.0",
    ),
    "width": (lambda p: {"features": {**p["features"], "face": 4}}, "does not hold 4 means"),
    "set": (lambda p: {"features": {"face": 3}}, "config.features: 'pose' is unknown"),
}


@pytest.mark.parametrize("case", CASES)
def test_invalid_content_of_model_json_is_refused(
    data: Dataset, trained: Trials, tmp_path: Path, case: str
) -> None:
    change, expected = CASES[case]
    changes = change(zoo.export_plain(data, trained))
    write_folder(tmp_path / "export", zoo.export_files(data, trained, **changes))
    assert expected in refusal(tmp_path / "export")


def test_a_std_of_0_is_refused(data: Dataset, trained: Trials, tmp_path: Path) -> None:
    entry = {**data.info["features"]["face"], "std": [1.0, 0.0, 1.0]}
    info = {**data.info, "features": {**data.info["features"], "face": entry}}
    files = zoo.export_files(Dataset(data.address, info), trained)
    write_folder(tmp_path / "export", files)
    assert STATISTICS in refusal(tmp_path / "export")


def test_only_the_files_that_are_named_are_read(
    data: Dataset, trained: Trials, tmp_path: Path
) -> None:
    files = zoo.export_files(data, trained)
    stranger = json.dumps({"anything": np.pi.hex()}).encode()
    write_folder(tmp_path / "export", {**files, "members/else.pickle": stranger})
    assert Ensemble.load(tmp_path / "export", "cpu").export.members.keys() == zoo.COUNTS.keys()
