"""Tests of plant.py: counts of the faces, and one-line errors for wrong numbers."""

import re
import subprocess
import sys

import pytest

from mtl.dataset.annotations import read_annotations
from mtl.errors import InputError
from sweeps import plant
from sweeps.plant import main
from tests.support.paths import ROOT

SMALL = ("--videos", "6", "--frames", "20", "--size", "32", "--seed", "3")


def test_faces_are_made_and_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plant, "REPORT_SECONDS", 0.0)
    out = tmp_path / "faces"
    assert main(["--out", str(out), *SMALL]) == 0
    listing = read_annotations(out / "annotations").listing
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ of \d+ frames drawn, about \d+ s left", lines[0])
    assert [line.split()[:2] for line in lines[-5:-2]] == [
        ["train", "2"],
        ["validation", "2"],
        ["test", "2"],
    ]
    frames = [int(line.split()[3]) for line in lines[-5:-2]]
    assert sum(frames) == len(listing.frame) == len(list(out.rglob("*.jpg")))
    assert re.search(r"would score .* p_mtl \d\.\d{4}  ccc_valence 0\.\d{4}", lines[-2])
    assert lines[-1] == f"Faces are in {out}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--videos", "5"), "--videos must be 6 or more, but got 5"),
        (("--frames", "0"), "--frames must be 20 or more, but got 0"),
        (("--seed", "-1"), "--seed must be 0 or more, but got -1"),
        (("--size", "8"), "--size must be 32 to 512 pixels, but got 8"),
    ],
)
def test_a_number_out_of_range_is_refused_before_a_file_is_written(tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        main(["--out", str(tmp_path / "faces"), *SMALL, *more])
    assert not list(tmp_path.iterdir())


def test_the_program_ends_with_one_sentence_and_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "plant.py"), "--out", str(tmp_path), *SMALL],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {tmp_path} exists already: remove it or give another folder\n"
