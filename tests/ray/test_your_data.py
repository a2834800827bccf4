"""Test of docs/your-data.md: its commands lead from planted crops to a submission."""

import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtl.dataset import open_dataset
from mtl.dataset.annotations import read_file
from mtl.features.backbones import load_backbone
from mtl.predictions.table import Predictions
from mtl.synthetic import FACES_DEMO, Faces, make_faces
from tests.support.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.extended]

PAGE = ROOT / "docs" / "your-data.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""Fenced block: the language, which a block of commands does not name, and the content."""
NOT_RUN = "source "
SUBSTITUTIONS = {
    "iresnet50": "iresnet18",
    "--backbone mae_vit_base": "--backbone mae_vit_mini --size 32",
    "search.trials=200": "search.trials=3",
}
"""Smaller sizes for words of the page; all else in its commands stays as it is."""
SMALL_SWEEP = {
    "search.trials": 2,
    "training.epochs": 1,
    "encoder.hidden": 16,
    "sequence.window_frames": 16,
}
"""Overrides of each sweep; a word of the page for the same path stays."""
RELEASED = Path("s-aff-wild2/annotations/test_set_release.txt")
PLANTED = replace(FACES_DEMO, videos=12, split_shares=(0.5, 0.3, 0.2), mean_frames=15)


def commands() -> Iterator[str]:
    """Yield the commands of the page in order, each on one line, with smaller sizes."""
    for language, block in BLOCK.findall(PAGE.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if not (language or line.startswith(NOT_RUN)):
                for words, smaller in SUBSTITUTIONS.items():
                    line = line.replace(words, smaller)
                yield line


def run(command: str) -> None:
    """Run a program of ``sweeps`` in this process, any other command in bash."""
    if not command.startswith("python sweeps/"):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return
    _, file, *words = shlex.split(command)
    if file == "sweeps/run.py":
        words[words.index("--space") + 1] = str(ROOT / words[words.index("--space") + 1])
        paths = {word.partition("=")[0] for word in words}
        words += [f"{path}={value}" for path, value in SMALL_SWEEP.items() if path not in paths]
    assert importlib.import_module(f"sweeps.{Path(file).stem}").main(words) == 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with what the page asks for: annotations and crops, new videos and weights.

    As in s-Aff-Wild2, frame numbers have gaps, labels are missing, test frames have none, and some
    listed frames have no crop. The released list has another order than the videos. The weights are
    random, in the files' own formats.
    """
    monkeypatch.chdir(tmp_path)
    make_faces("s-aff-wild2", 5, PLANTED, Faces(size=112))
    RELEASED.write_text("\n".join(["image", *RELEASED.read_text().splitlines()[:0:-1]]))
    crops = Path("s-aff-wild2/cropped_aligned")
    videos = sorted(crops.iterdir())
    for video in videos[-2:]:
        shutil.copytree(video, Path("new-videos/cropped_aligned") / f"new_{video.name}")
    for video in (videos[0], videos[-1]):
        for crop in sorted(video.iterdir())[1:3]:
            crop.unlink()
    torch.save(load_backbone("iresnet18", "random", 112).model.state_dict(), "arcface_r50.pth")
    encoder = load_backbone("mae_vit_mini", "random", 32).model.state_dict()
    torch.save({"model": encoder}, "mae_pretrain_vit_base.pth")
    return tmp_path


def test_the_commands_of_the_page_lead_to_a_submission(folder, ray_address, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    printed = ""
    for command in commands():
        run(command)
        printed += capsys.readouterr().out
    submission = read_file("runs/abaw/submission.txt")
    assert list(submission.images) == RELEASED.read_text().splitlines()[1:]
    assert submission.mask.all()
    missing = open_dataset("datasets/abaw").info["listed_without_features"]
    assert missing["iresnet"] == missing["mae"] == {"train": 2, "validation": 0, "test": 2}
    assert "going on with runs/abaw: 2 COMPLETE" in printed
    assert '"p_mtl"' in printed
    new = Predictions.load("new-videos.parquet")
    assert len(new.frame) == len(list(Path("new-videos").rglob("*.jpg")))
    assert new.names == tuple(
        sorted(video.name for video in Path("new-videos/cropped_aligned").iterdir())
    )
