"""extract.py without Ray: refused arguments, the files of its folder, and resumption."""

import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtl import whole_files
from mtl.dataset import read_features
from mtl.errors import InputError
from mtl.features.backbones import load_backbone
from mtl.features.extract import Extractor
from mtl.features.face_crops import CropFrames, find_images
from sweeps import extract
from sweeps.cluster.connection import Cluster
from sweeps.extraction.workers import ExtractionPlan, FinishedPart
from sweeps.storage.driver_lock import DriverLock

WIDTH = 128
load_once = functools.cache(load_backbone)


def extract_in_process(
    frames: CropFrames, backbone: Any, plan: ExtractionPlan, chunks: Sequence[int], *pool: float
) -> Iterator[FinishedPart]:
    """Do the work of the actor pool in this process, the last chunk first."""
    extractor = Extractor(backbone, plan.batch, threads=1)
    for chunk in reversed(chunks):
        part = extractor.part(frames, plan.rows(chunk, len(frames)))
        yield FinishedPart(chunk, part.failed, part.content)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Replace the cluster; return the chunks that each start of the program extracts."""
    asked: list[list[int]] = []

    @contextmanager
    def connect(address: str) -> Iterator[Cluster]:
        yield Cluster("none", ((2.0, 0.0),))

    def chunks(*arguments: Any) -> Iterator[FinishedPart]:
        asked.append(list(arguments[3]))
        return extract_in_process(*arguments)

    monkeypatch.setattr(extract, "load_backbone", load_once)
    monkeypatch.setattr(extract, "connect", connect)
    monkeypatch.setattr("sweeps.extraction.workers.extract_chunks", chunks)
    return asked


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Nine frames of two videos."""
    random = np.random.default_rng(0)
    for video, count in (("a", 5), ("b/left", 4)):
        folder = tmp_path / "faces" / video
        folder.mkdir(parents=True)
        for frame in range(1, count + 1):
            pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:05d}.jpg")
    return tmp_path / "faces"


@pytest.fixture
def words(faces: Path, tmp_path: Path) -> dict[str, str]:
    """Return the arguments of a command by their names."""
    return {
        "images": str(faces),
        "backbone": "mae_vit_mini",
        "weights": "random",
        "size": "32",
        "out": str(tmp_path / "set"),
        "chunk": "4",
        "batch": "3",
    }


def run(words: dict[str, str], *more: str, **changes: str) -> int:
    given = {**words, **changes}
    return extract.main([*(f"--{key}={value}" for key, value in given.items()), *more])


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_feature_set_is_made_and_the_next_command_printed(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(words, images="~/faces") == 0
    out = tmp_path / "set"
    parts = [f"part-0000{i}.parquet" for i in range(3)]
    assert sorted(files_of(out)) == ["driver.lock", "extraction.json", "failed_images.csv", *parts]
    found = {name: (frame.tolist(), values) for name, frame, values in read_features(out)}
    assert {name: frames for name, (frames, _) in found.items()} == {
        "a": [1, 2, 3, 4, 5],
        "b/left": [1, 2, 3, 4],
    }
    for _, values in found.values():
        assert (values.dtype, values.shape[1]) == (np.float16, WIDTH)
    assert (out / "failed_images.csv").read_text() == "image,reason\n"
    manifest = json.loads((out / "extraction.json").read_text())
    assert (manifest["frames"], manifest["parts"], manifest["width"]) == (9, 3, WIDTH)
    assert manifest["images"] == words["images"]
    printed = capsys.readouterr().out
    assert "9 of 9 frames (100%)" in printed
    assert f"sweeps/prepare.py --annotations ANNOTATIONS --features set={out} --out" in printed


def test_finished_parts_are_kept_and_damaged_ones_redone(words, tmp_path, no_ray):
    run(words)
    out = tmp_path / "set"
    whole = files_of(out)
    (out / "part-00001.parquet").unlink()
    (out / "part-00002.parquet").write_bytes(whole["part-00002.parquet"][:50])
    (out / "part-00001.parquet.unfinished").write_bytes(b"half")
    (out / ".DS_Store").write_bytes(b"of a file manager")
    whole[".DS_Store"] = b"of a file manager"
    first = (out / "part-00000.parquet").stat().st_mtime_ns
    run(words)
    assert files_of(out) == whole
    assert (out / "part-00000.parquet").stat().st_mtime_ns == first
    written = (out / "failed_images.csv").stat().st_mtime_ns
    run(words)
    assert (out / "failed_images.csv").stat().st_mtime_ns == written
    assert no_ray == [[0, 1, 2], [1, 2]]


def test_broken_images_are_listed_and_counted_also_after_a_kill(
    words, faces, tmp_path, capsys, monkeypatch
):
    gone = faces / "b" / "left" / "00004.jpg"

    def find_and_lose(address: str) -> Any:
        gone.write_bytes((faces / "a" / "00001.jpg").read_bytes())
        found = find_images(address)
        gone.unlink()
        return found

    monkeypatch.setattr(extract, "find_images", find_and_lose)
    (faces / "a" / "00002.jpg").write_bytes(b"")
    (faces / "a" / "00005.jpg").write_text("a text")
    for _ in range(2):
        run(words)
        assert (tmp_path / "set" / "failed_images.csv").read_text().splitlines() == [
            "image,reason",
            "a/00002.jpg,empty",
            'a/00005.jpg,"not an image (none of JPEG, PNG, BMP, WEBP)"',
            "b/left/00004.jpg,missing",
        ]
        printed = capsys.readouterr().out
        assert "3 images failed" in printed
        assert "(6 frames" in printed
        (tmp_path / "set" / "failed_images.csv").unlink()
        (tmp_path / "set" / "part-00000.parquet").unlink()


def test_failed_images_are_retried_when_asked(words, faces, tmp_path, capsys, no_ray):
    whole = (faces / "a" / "00005.jpg").read_bytes()
    (faces / "a" / "00005.jpg").write_bytes(b"")
    run(words)
    assert "failed_images.csv; --retry-failed tries them again" in capsys.readouterr().out
    run(words, "--retry-failed")
    (faces / "a" / "00005.jpg").write_bytes(whole)
    run(words)
    assert (tmp_path / "set" / "failed_images.csv").read_text().count("\n") == 2
    for _ in range(2):
        run(words, "--retry-failed")
        assert (tmp_path / "set" / "failed_images.csv").read_text() == "image,reason\n"
    assert no_ray == [[0, 1, 2], [1], [1]]
    assert sum(len(frame) for _, frame, _ in read_features(tmp_path / "set")) == 9


def test_a_missing_image_folder_is_an_error_and_not_failed_images(
    words, faces, tmp_path, monkeypatch
):
    def find_and_lose(address: str) -> Any:
        found = find_images(address)
        faces.rename(tmp_path / "aside")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(extract, "find_images", find_and_lose)
        with pytest.raises(
            InputError, match=r"faces does not exist or is empty on .*the same command"
        ):
            run(words)
    (tmp_path / "aside").rename(faces)
    run(words)
    assert (tmp_path / "set" / "failed_images.csv").read_text() == "image,reason\n"


def test_other_files_and_idle_workers_are_reported(words, faces, capsys):
    (faces / "a" / "00006.tif").write_bytes(b"")
    run(words, chunk="9")
    printed = capsys.readouterr().out
    assert "left out 1 files that are no images (such as a/00006.tif)\n" in printed
    assert "1 workers, one for each part: a smaller --chunk uses more, 1 of 1 parts" in printed


def test_a_locked_folder_is_refused(words, tmp_path, monkeypatch):
    run(words)
    before = files_of(tmp_path / "set")
    with closing(DriverLock(tmp_path / "set")):
        assert run(words) == 0  # there is nothing to write
        with pytest.raises(InputError, match=r"another driver .* is working on it"):
            run(words, "--overwrite", seed="3")

    def check_before_another_start(*arguments: Any) -> list[int]:
        return [0, 1, 2]

    monkeypatch.setattr(extract, "check_folder", check_before_another_start)
    with pytest.raises(InputError, match="holds features of other weights"):
        run(words, seed="3")
    assert files_of(tmp_path / "set") == before


def test_one_chunk_may_fail_but_not_all(words, faces, tmp_path):
    for image in (faces / "a").iterdir():
        image.write_bytes(b"")
    run(words)
    assert [name for name, _, _ in read_features(tmp_path / "set")] == ["b/left"]
    for image in (faces / "b" / "left").iterdir():
        image.write_bytes(b"")
    with pytest.raises(
        InputError, match=r"none of the 9 images .* \(the first, a/00001.jpg: empty"
    ):
        run(words, "--overwrite")
    assert len((tmp_path / "set" / "failed_images.csv").read_text().splitlines()) == 10


def test_only_listed_frames(words, tmp_path, capsys):
    folder = tmp_path / "annotations"
    folder.mkdir()
    labels = ",0.5,-5,1," + ",".join(["-1"] * 12)
    (folder / "training_set_annotations.txt").write_text(f"a/00003.jpg{labels}\n")
    rows = "".join(f"b/left/{i:05d}.jpg{labels}\n" for i in (2, 7))
    (folder / "validation_set_annotations.txt").write_text(rows)
    run(words, annotations=str(folder))
    found = {name: frame.tolist() for name, frame, _ in read_features(tmp_path / "set")}
    assert found == {"a": [3], "b/left": [2]}
    failed = (tmp_path / "set" / "failed_images.csv").read_text()
    assert failed.splitlines()[1:] == [
        'b/left/00007.jpg,"listed, but there is no such image"',
    ]
    assert f"prepare.py --annotations {folder} --features" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "iresnet18"}, r"another backbone \(mae_vit_mini, this is iresnet18\)"),
        ({"seed": "1"}, r"other weights \([0-9a-f]{12}, this is [0-9a-f]{12}\)"),
        ({"size": "48"}, r"another size \(32, this is 48\)"),
        ({"images": "{}/other"}, "other images"),
        ({"chunk": "5"}, r"another chunk \(4, this is 5\)"),
        ({"precision": "bfloat16"}, r"another precision \(auto, this is bfloat16\)"),
        ({"gpus": "1"}, r"another device \(cpu, this is cuda\)"),
    ],
)
def test_a_folder_of_another_extraction_is_refused(words, faces, tmp_path, changes, message):
    run(words)
    shutil.copytree(faces, tmp_path / "other")
    before = files_of(tmp_path / "set")
    changes = {key: value.format(tmp_path) for key, value in changes.items()}
    with pytest.raises(InputError, match=f"set holds features of {message}.*--overwrite it"):
        run(words, **changes)
    assert files_of(tmp_path / "set") == before


def test_new_and_renamed_images_are_other_frames(words, faces):
    run(words)
    (faces / "a" / "00005.jpg").rename(faces / "a" / "00006.jpg")
    with pytest.raises(InputError, match="other frames"):
        run(words)
    shutil.copy(faces / "a" / "00006.jpg", faces / "a" / "00005.jpg")
    with pytest.raises(InputError, match=r"another number of frames \(9, this is 10\)"):
        run(words)
    assert run(words, "--overwrite") == 0


def test_overwriting_removes_the_earlier_parts(words, tmp_path):
    run(words, chunk="2")
    run(words, "--overwrite", chunk="8", seed="3")
    assert sorted(files_of(tmp_path / "set"))[3:] == ["part-00000.parquet", "part-00001.parquet"]
    assert json.loads((tmp_path / "set" / "extraction.json").read_text())["chunk"] == 8


def test_a_folder_with_other_files_is_not_changed(words, tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    (out / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no extraction\.json"):
        run(words)
    (out / "extraction.json").write_text("{")
    with pytest.raises(InputError, match=r"extraction\.json is damaged"):
        run(words)
    (out / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match=r"holds thesis\.tex, which no extraction writes"):
        run(words, "--overwrite")
    assert sorted(files_of(out)) == ["extraction.json", "part-00000.parquet", "thesis.tex"]
    (out / "extraction.json").rename(out / "extraction_json")
    with pytest.raises(InputError, match=r"holds extraction_json, which no extraction writes"):
        run(words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "{}/nowhere"}, "nowhere does not exist: give the folder"),
        ({"images": "{}/empty"}, "holds no images"),
        ({"images": "{}/faces/a"}, "00001.jpg is in no video's folder"),
        ({"backbone": "mae_vit_mimi"}, "'mae_vit_mimi' is unknown.*mae_vit_mini"),
        ({"weights": "{}/nothing.pt"}, "nothing.pt do not exist"),
        ({"out": "s3://bucket/set"}, "cannot write to s3://bucket/set"),
        ({"out": "{}/file/set"}, "cannot write --out .*file/set"),
        ({"out": "{}/file"}, "file is a file: give a folder"),
        ({"out": "~nobody_here/set"}, "~nobody_here/set names a home folder that does not exist"),
        ({"workers": "3"}, r"--workers 3 x \(--cpus 1\) is more than there is"),
        ({"workers": "0"}, "--workers 0 must be auto or at least 1"),
        ({"cpus": "0"}, "--cpus 0 must be at least 1"),
        ({"cpus": "64"}, "^--cpus 64 is more than there is"),
        *(({"gpus": bad}, f"--gpus {bad} must be a whole") for bad in ("1.5", "nan", "inf", "-1")),
        ({"gpus": "2"}, "--gpus 2 must be at most 1, as a worker uses one"),
        *(({"seed": str(bad)}, f"--seed {bad} must be from 0 to") for bad in (-1, 2**70)),
        ({"batch": "0"}, "--batch 0 must be at least 1"),
        ({"chunk": "-1"}, "--chunk -1 must be at least 1"),
        ({"annotations": "{}/empty"}, "holds no annotation file"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_nothing_is_written(words, tmp_path, changes, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        run(words, **{key: value.format(tmp_path) for key, value in changes.items()})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("file", ["extraction.json", "part-00002.parquet", "failed_images.csv"])
def test_a_full_disk_is_an_input_error(words, monkeypatch, file):
    write = whole_files.write_atomically

    def full(target: Path, content: bytes) -> None:
        if target.name == file:
            raise OSError(28, "No space left on device")
        write(target, content)

    monkeypatch.setattr("mtl.whole_files.write_atomically", full)
    monkeypatch.setattr("sweeps.extraction.folder.write_atomically", full)
    with pytest.raises(InputError, match=r"^cannot write .*set.* \(No space left on device\): put"):
        run(words)


@pytest.mark.parametrize(
    ("call", "file", "message"),
    [
        ("iterdir", "set", "cannot read --out .*set"),
        ("exists", "set", "cannot read --out .*set"),
        ("read_bytes", "extraction.json", "cannot read .*extraction.json"),
        ("mkdir", "new", "cannot write --out .*new"),
        ("open", "driver.lock", "cannot write --out .*new"),
    ],
)
def test_missing_permissions_are_an_input_error(words, tmp_path, monkeypatch, call, file, message):
    """The error is simulated, because tests may run as root, who has all permissions."""
    run(words)
    allowed = getattr(Path, call)

    def denied(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == file:
            raise PermissionError(13, "Permission denied")
        return allowed(path, *arguments, **more)

    monkeypatch.setattr(Path, call, denied)
    out = str(tmp_path / ("new" if "new" in message else "set"))
    with pytest.raises(InputError, match=rf"^{message} \(Permission denied\): put that right"):
        run(words, out=out)


def test_an_unreadable_part_is_an_error_and_not_redone(words, tmp_path, monkeypatch):
    def denied(part: Path) -> None:
        raise PermissionError(13, f"Failed to open local file '{part}'")

    run(words)
    monkeypatch.setattr("sweeps.extraction.folder.read_failed", denied)
    with pytest.raises(InputError, match=r"cannot read --out .* \(Failed .*part-00000.parquet'\)"):
        run(words)
