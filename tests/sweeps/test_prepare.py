"""prepare.py: datasets from annotation files and features; wrong input is one sentence."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.dataset import open_dataset
from mtl.errors import InputError
from sweeps.planning.plan import divide
from sweeps.prepare import main
from tests.support.paths import ROOT

STUDYFORREST = ROOT.parent / "shared" / "data" / "studyforrest"
SPLIT_OF = {"b": "training", "a": "training", "d": "validation", "c": "test"}
FRAMES = (2, 5, 9)


def annotations(folder: Path, test: bool = True) -> str:
    folder.mkdir()
    for split in ("training", "validation"):
        rows = [
            f"{v}/{f:05d}.jpg,0.5,-5,{f % 8},{','.join(['-1'] * 12)}"
            for v, s in SPLIT_OF.items()
            for f in FRAMES
            if s == split
        ]
        (folder / f"{split}_set_annotations.txt").write_text("\n".join(rows))
    if test:
        (folder / "test_set_release.txt").write_text("\n".join(f"c/{f:05d}.jpg" for f in FRAMES))
    return str(folder)


def features(path: Path, videos: str = "abcdx", width: int = 2, value: float = 0.0) -> str:
    """Write frames 1 to 8 of each video, unsorted; the listed frame 9 is missing."""
    rows = [
        (v, f, [float(f), value] + [1.0] * (width - 2)) for f in range(8, 0, -1) for v in videos
    ]
    video, frame, values = zip(*rows, strict=True)
    columns = {
        "video": pa.array(video).dictionary_encode(),
        "frame": pa.array(frame, pa.int32()),
        "feature": pa.array(values, pa.list_(pa.float64())),
    }
    pq.write_table(pa.table(columns), path)
    return str(path)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    return [
        *("--annotations", annotations(tmp_path / "annotations")),
        *("--features", f"s={features(tmp_path / 's.parquet')}", *more),
        *("--out", str(tmp_path / "out")),
    ]


def test_a_dataset_is_made_and_reported(tmp_path, capsys):
    with h5py.File(tmp_path / "h.h5", "w") as file:
        for video in "abc":
            file[f"{video}/feature"] = np.ones((9, 3), np.float16)
    assert main(arguments(tmp_path, f"h={tmp_path / 'h.h5'}")) == 0
    dataset = open_dataset(tmp_path / "out")
    assert dataset.feature_sets() == ("s", "h")
    assert dataset.index("s").names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(dataset.read("s", 0, 8)[:, 0], np.arange(1, 9, dtype="f4"))
    assert dataset.read("h", 0, 1).dtype == np.float16
    assert dataset.info["image_name"] == "{frame:05d}.jpg"
    assert dataset.info["sources"]["features"]["h"] == str(tmp_path / "h.h5")
    assert len(dataset.info["sources"]["annotations"]["test"]["sha256"]) == 64
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:9] == [
        ["train", "validation", "test"],
        ["videos", "2", "1", "1"],
        ["frames", "6", "3", "3"],
        ["with", "valence", "6", "3", "0"],
        ["with", "arousal", "0", "0", "0"],
        ["with", "expression", "6", "3", "0"],
        ["with", "action_units", "0", "0", "0"],
        ["without", "s", "2", "1", "1"],
        ["without", "h", "0", "3", "0"],
    ]
    assert lines[11:13] == [
        ["s", "2", "float32", "4", "32", "8"],
        ["h", "3", "float16", "3", "27", "0"],
    ]


def test_a_missing_test_list_is_reported(tmp_path, capsys):
    words = arguments(tmp_path)
    (tmp_path / "annotations" / "test_set_release.txt").unlink()
    assert main(words) == 0
    assert "There is no test list" in capsys.readouterr().out
    assert (open_dataset(tmp_path / "out").listing().split < 2).all()


def test_subjects_are_taken_from_the_csv(tmp_path):
    (tmp_path / "subjects.csv").write_text("video,subject\na,Ann\nb,Ann\nnone,Bob\n")
    main([*arguments(tmp_path), "--subjects", str(tmp_path / "subjects.csv")])
    listing = open_dataset(tmp_path / "out").listing()
    assert listing.names == ("b", "a", "d", "c")
    assert listing.subjects == ("Ann", "Ann", "d", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,Ann\n", "names none of the 4 listed videos, such as 'b'"),
        ("a,Ann\nb\n", "subjects.csv line 2: .* must be two fields"),
        ("a,Ann\na,Bob\n", "line 2: video 'a' has subject 'Bob' but 'Ann' before"),
    ],
)
def test_wrong_subjects_are_refused(tmp_path, text, message):
    (tmp_path / "subjects.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        main([*arguments(tmp_path), "--subjects", str(tmp_path / "subjects.csv")])
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_replaced_only_with_overwrite(tmp_path):
    words = arguments(tmp_path)
    main(words)
    with pytest.raises(InputError, match=r"out already holds a dataset.*--overwrite"):
        main(words)
    assert main([*words, "--overwrite"]) == 0


def truncated(tmp_path: Path) -> str:
    path = Path(features(tmp_path / "t.parquet"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return f"t={path}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (truncated, "t.parquet is cut short or damaged"),
        (lambda p: f"t={features(p / 't.parquet', value=np.nan)}", "row 1: feature 2 of 2 is nan"),
        (lambda p: f"t={features(p / 't.parquet', videos='xyz')}", "'t' has none of the 12 listed"),
        (lambda p: f"t={features(p / 't.parquet', videos='dc')}", "none of the listed training"),
        (lambda p: f"t={p / 'none'}", "none does not exist"),
        (lambda p: f"s={p}", "--features names 's' twice"),
        (lambda p: f"{p}", "must be NAME=PATH"),
        (lambda p: f"../t={p / 's.parquet'}", "feature set '../t': a name starts with"),
    ],
)
def test_wrong_features_leave_nothing(tmp_path, more, message):
    before = {"annotations", "s.parquet", "t.parquet"}
    with pytest.raises(InputError, match=message):
        main(arguments(tmp_path, more(tmp_path)))
    assert {p.name for p in tmp_path.iterdir()} <= before


def test_a_single_training_video_is_refused(tmp_path):
    words = arguments(tmp_path)
    path = tmp_path / "annotations" / "training_set_annotations.txt"
    path.write_text("\n".join(line for line in path.read_text().split() if line[0] == "a"))
    with pytest.raises(InputError, match=r"one training video \('a'\): list at least 2"):
        main(words)


def test_the_program_ends_with_one_sentence_and_code_2(tmp_path):
    words = [*arguments(tmp_path), "--subjects", "none.csv"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "prepare.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read none.csv")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not STUDYFORREST.is_dir(), reason=f"no studyforrest data in {STUDYFORREST}")
def test_studyforrest(tmp_path):
    words = ["--annotations", str(STUDYFORREST / "annotations"), "--out", str(tmp_path / "out")]
    source = STUDYFORREST / "features" / "phash.parquet"
    assert main([*words, "--features", f"phash={source}"]) == 0
    dataset = open_dataset(tmp_path / "out")
    rows = pq.read_table(source)
    np.testing.assert_array_equal(dataset.index("phash").frames, rows["frame"].to_numpy())
    values = np.concatenate([c.flatten().to_numpy() for c in rows["feature"].chunks])
    np.testing.assert_array_equal(dataset.read("phash", 0, len(rows)), values.reshape(-1, 144))
    assert dataset.info["listed_without_features"]["phash"] == dict.fromkeys(
        ("train", "validation", "test"), 0
    )


@pytest.mark.skipif(not STUDYFORREST.is_dir(), reason=f"no studyforrest data in {STUDYFORREST}")
def test_order_of_the_source_does_not_matter(tmp_path):
    source = STUDYFORREST / "features" / "visual_audio.parquet"
    rows = pq.read_table(source)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    pq.write_table(shuffled, tmp_path / "shuffled.parquet")
    hashes = []
    for i, path in enumerate((source, tmp_path / "shuffled.parquet")):
        out = tmp_path / str(i)
        words = ["--annotations", str(STUDYFORREST / "annotations"), "--out", str(out)]
        main([*words, "--features", f"v={path}"])
        hashes.append(open_dataset(out).hash)
    assert hashes[0] == hashes[1]


def test_without_annotations_every_frame_is_a_test_frame(tmp_path, capsys):
    table = pa.table(
        {
            "video": ["a"] * 3 + ["b"] * 2,
            "frame": pa.array([1, 2, 5, 1, 9], pa.int32()),
            "feature": pa.array([[float(n), 1.0] for n in range(5)], pa.list_(pa.float32(), 2)),
        }
    )
    pq.write_table(table, tmp_path / "own.parquet")
    assert main(["--features", f"own={tmp_path}/own.parquet", "--out", f"{tmp_path}/new"]) == 0
    assert "to be predicted, not to be trained on" in capsys.readouterr().out
    listing = open_dataset(tmp_path / "new").listing()
    assert listing.names == ("a", "b")
    assert set(listing.splits) == {"test"}
    assert listing.frame.tolist() == [1, 2, 5, 1, 9]
    assert not listing.mask.any()
    with pytest.raises(InputError, match="it can only be predicted"):
        divide(listing, 0.5, 3)
    words = ["--features", f"own={tmp_path}/own.parquet", "--out", f"{tmp_path}/other"]
    with pytest.raises(InputError, match="--subjects is for training"):
        main([*words, "--subjects", "subjects.csv"])
