"""Reading of files of the first version, without Ray: dataset, export, configs, checkpoints."""

import numpy as np
import pytest
import yaml

from mtl.config import read_config
from mtl.dataset import open_dataset
from mtl.ensemble import Ensemble
from mtl.optimisation.checkpoint import read_checkpoint
from mtl.predictions.table import Predictions
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import make_plan
from sweeps.search_file import load
from sweeps.storage.run_folder import check_run_folder
from tests.support.first_version import FIRST_VERSION, copied, expected

TRIALS = sorted((FIRST_VERSION / "run" / "trials").iterdir())
TOLERANCE = 1e-5
"""Largest difference of outputs between two processors."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return copied(tmp_path)


def test_a_run_folder_accepts_its_search_file_with_old_and_new_keys(folder):
    file, dataset = load("space.yaml"), open_dataset("dataset")
    assert check_run_folder(folder / "runs" / "feedback", file, dataset) is True
    renamed = (folder / "space.yaml").read_text().replace("truth_share", "teacher_forcing_ratio")
    (folder / "renamed.yaml").write_text(renamed)
    assert check_run_folder(folder / "runs" / "feedback", load("renamed.yaml"), dataset) is True


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_trials_config_has_the_signature_that_names_its_folder(folder, trial):
    dataset = open_dataset("dataset")
    config = read_config(yaml.safe_load((trial / "config.yaml").read_text()))
    assert signature(config, dataset.hash) == trial.name
    command = (trial / "config.yaml").read_text().splitlines()[0]
    overrides = [word.strip("'") for word in command.split() if "=" in word and "--" not in word]
    assert signature(compose(overrides), dataset.hash) == trial.name


def test_sampled_parameters_have_their_names_of_the_first_version(folder):
    """The sampler learns from an old journal only if new trials have the same parameter names."""
    import optuna

    space = make_plan(load("space.yaml"), open_dataset("dataset")).space
    names: set[str] = set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(8):
        trial = study.ask()
        space.sample(trial)
        names |= trial.params.keys()
    assert names == {name for trial in expected()["trials"] for name in trial["params"]}
    assert "framework=feedback/framework.truth_share" in names


def test_a_checkpoint_of_a_feedback_trial_is_read(folder):
    (file,) = folder.glob("runs/feedback/trials/*/checkpoint.safetensors")
    state = read_checkpoint(file.read_bytes())
    assert {"model", "balancing", "optimizer", "scaler", "history"} <= state.keys()
    assert len(state["history"]) == 7


def test_an_exported_model_gives_the_recorded_predictions(folder):
    dataset = open_dataset("dataset")
    predictions = Ensemble.load("export").predict(dataset)
    recorded = Predictions.load(FIRST_VERSION / "export_predictions.parquet")
    assert predictions.names == recorded.names
    assert predictions.frame.tolist() == recorded.frame.tolist()
    np.testing.assert_allclose(predictions.outputs, recorded.outputs, atol=TOLERANCE)
