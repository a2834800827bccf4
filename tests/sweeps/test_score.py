"""score.py: the numbers of the metrics in any order of the files, and its errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl.errors import InputError
from mtl.evaluation.metrics import scores
from mtl.predictions.submission import write_submission
from mtl.predictions.table import decide
from sweeps.score import main
from tests.support.paths import ROOT

PROGRAM = ROOT / "sweeps" / "score.py"
KEYS = [
    "p_mtl",
    "ccc_valence",
    "ccc_arousal",
    "f1_expression",
    "f1_action_units",
    "per_class",
    "per_unit",
    "p_labelled",
    "frames",
]


class Files:
    """Labels and predictions of the same frames, as arrays, which are written as two files."""

    def __init__(self, folder: Path, frames: int = 200) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.images = [f"video{i % 3}/{i:05d}.jpg" for i in range(frames)]
        self.outputs = random.random((frames, 22)).astype(np.float32)
        self.outputs[:, :2] = self.outputs[:, :2].round(4)  # the precision of a submission
        self.labels = np.zeros((frames, 15), np.float32)
        self.labels[:, :2] = random.uniform(-1, 1, (frames, 2)).round(4)
        self.labels[:, 2] = random.integers(0, 8, frames)
        self.labels[:, 3:] = random.random((frames, 12)) < 0.4
        self.mask = random.random((frames, 15)) < 0.7
        self.predicted, self.known = decide(self.outputs)
        self.truth = self.listed = np.arange(frames)  # rows of each file, in its order

    @property
    def arguments(self) -> list[str]:
        """Write both files and return the program's arguments for them."""
        truth = self._write("truth.txt", self.truth, self.labels, self.mask)
        listed = self._write("predictions.txt", self.listed, self.predicted, self.known)
        return ["--truth", truth, "--predictions", listed]

    def _write(self, name: str, rows: np.ndarray, values: np.ndarray, mask: np.ndarray) -> str:
        images = [self.images[row] for row in rows]
        write_submission(self.folder / name, images, values[rows], mask[rows])
        return str(self.folder / name)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def score(files: Files, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(files.arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_scores_are_the_metrics(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    found = score(files, capsys)
    expected = scores(files.outputs, files.labels, files.mask)
    assert list(found) == KEYS
    for key in set(KEYS) - {"per_class", "per_unit"}:
        assert found[key] == pytest.approx(expected[key], abs=1e-6)
    assert found["per_class"] == expected["per_class"]
    assert found["per_unit"] == expected["per_unit"]


def test_the_truth_scores_three_on_itself(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.predicted = files.labels
    assert score(files, capsys)["p_mtl"] == pytest.approx(3)


def test_the_order_of_the_rows_does_not_matter(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = score(files, capsys)
    files.listed = files.listed[::-1]
    assert score(files, capsys) == straight


def test_frames_that_only_the_predictions_list_are_left_out(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.truth = files.truth[50:100]
    found = score(files, capsys)
    part = slice(50, 100)
    expected = scores(files.outputs[part], files.labels[part], files.mask[part])
    assert found["frames"] == 50
    assert found["p_mtl"] == pytest.approx(expected["p_mtl"], abs=1e-6)


def test_a_task_without_a_label_is_null(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.mask[:, 3:] = files.known[:, 3:] = False
    files.mask[:, 0] = False
    found = score(files, capsys)
    assert found["p_mtl"] is found["ccc_valence"] is found["f1_action_units"] is None
    assert set(found["per_unit"].values()) == {None}
    assert found["p_labelled"] == pytest.approx(found["ccc_arousal"] + found["f1_expression"])


def test_frames_that_are_not_predicted_are_counted(files: Files) -> None:
    files.listed = np.delete(files.listed, [4, 9, 100])
    expected = r"lacks 3 of the truth's 200 frames, the first is video1/00004\.jpg"
    with pytest.raises(InputError, match=expected):
        main(files.arguments)


def test_labels_that_are_not_predicted_are_counted(files: Files) -> None:
    files.mask[:, 5] = True
    files.known[[7, 9], 5] = False
    expected = rf"missing value for 2 of the truth's {files.mask.sum()} .* AU4 of video1/00007\.jpg"
    with pytest.raises(InputError, match=expected):
        main(files.arguments)


@pytest.mark.parametrize("name", ["truth.txt", "predictions.txt"])
def test_a_frame_listed_twice_is_an_error_in_either_file(files: Files, name: str) -> None:
    arguments = files.arguments
    path = files.folder / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3]]) + "\n")
    with pytest.raises(InputError, match=rf"{name} line 202: .*video2/00002\.jpg"):
        main(arguments)


def run(code: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *code], capture_output=True, text=True, check=False
    )


def test_the_program_prints_one_json_object(files: Files) -> None:
    done = run([str(PROGRAM), *files.arguments])
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(done.stdout)) == KEYS


def test_the_program_prints_a_mistake_as_one_sentence(files: Files) -> None:
    files.listed = files.listed[1:]
    done = run([str(PROGRAM), *files.arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_neither_torch_nor_ray_is_imported(files: Files) -> None:
    code = (
        "import sys; from sweeps.score import main; main(sys.argv[1:]); "
        "print({'torch', 'ray', 'optuna', 'hydra'} & set(sys.modules), file=sys.stderr)"
    )
    done = run(["-c", code, *files.arguments])
    assert (done.returncode, done.stderr) == (0, "set()\n")
