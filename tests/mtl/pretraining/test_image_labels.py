"""Labelled images from a CSV file and from the annotation files."""

import numpy as np
import pyarrow as pa
import pytest

from mtl.dataset.annotations import read_annotations
from mtl.errors import InputError
from mtl.features.face_crops import Images, find_images
from mtl.pretraining.image_labels import from_annotations, read_labels
from mtl.synthetic import Demo, Faces, make_faces
from mtl.tasks import LABEL_COLUMNS

DEMO = Demo(videos=8, mean_frames=8, split_shares=(0.5, 0.25, 0.25))


def write(tmp_path, text: str):
    file = tmp_path / "labels.csv"
    file.write_text(text)
    return file


def test_a_csv_file_with_labels_of_some_tasks(tmp_path):
    file = write(
        tmp_path,
        "image,expression,valence,AU12,split\n"
        "a/x.jpg,4,-0.25,1,train\n"
        "b.png,,0.5,,\n"
        "c.png,0,,0,validation\n"
        "d.png,,,,train\n",
    )
    found = read_labels(file, "somewhere")
    assert found.images.address == "somewhere"
    assert found.images.files.to_pylist() == ["a/x.jpg", "b.png", "c.png", "d.png"]
    column = {name: LABEL_COLUMNS.index(name) for name in ("valence", "expression", "AU12")}
    known = np.zeros((4, 15), bool)
    known[[0, 1], column["valence"]] = True
    known[[0, 2], column["expression"]] = True
    known[[0, 2], column["AU12"]] = True
    assert np.array_equal(found.mask, known)
    assert found.values[:2, column["valence"]].tolist() == [-0.25, 0.5]
    assert found.values[0, column["expression"]] == 4
    assert (found.values[~known] == 0).all()
    assert found.train_rows.tolist() == [0, 1]  # the fourth has no label
    assert found.select_rows.tolist() == [2]
    assert np.array_equal(found.listing().values, found.values[:2])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,valense\na.jpg,0\n", "column 'valense' is unknown: did you mean 'valence'"),
        ("image,split\na.jpg,train\n", "it needs image and at least one of valence"),
        ("valence\n0\n", "it needs image"),
        ("image,AU1,AU1\na.jpg,0,1\n", "column 'AU1' is there twice"),
        ("image,valence\na.jpg,1.5\n", r"line 2: valence is '1.5'; it must be between -1 and 1"),
        ("image,valence\na.jpg,-5\n", "valence is '-5'.*or empty where it is not known"),
        ("image,expression\na.jpg,0\nb.jpg,8\n", "line 3: expression is '8'.*from 0 to 7"),
        ("image,expression\na.jpg,happy\n", "expression is 'happy'"),
        ("image,AU2\na.jpg,0.5\n", "AU2 is '0.5'; it must be 0 or 1"),
        ("image,AU2\na.jpg,1\na.jpg,0\n", "line 3: a.jpg is already in line 2"),
        ("image,AU2,split\na.jpg,1,test\n", "split is 'test'; it must be one of"),
        ("image,AU2\n,1\n", "line 2: image is empty"),
        ("image,AU2\n", "lists no images"),
        ("image,AU2,split\na.jpg,1,validation\n", "no labelled image to train on"),
    ],
)
def test_a_mistake_in_the_csv_file_is_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_labels(write(tmp_path, text), "somewhere")


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_labels(tmp_path / "none.csv", "somewhere")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        read_labels(tmp_path / "binary.csv", "somewhere")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces") / "data"
    make_faces(folder, 5, DEMO, Faces(size=32))
    return find_images(folder / "cropped_aligned"), read_annotations(folder / "annotations")


def test_only_frames_of_train_and_select_are_used(planted):
    images, challenge = planted
    listing = challenge.listing
    names = listing.names
    parts = dict(zip(names, listing.splits, strict=True))
    held = [name for name in names if parts[name] == "validation"]
    parts |= {held[0]: "select"} | dict.fromkeys(held[1:], "confirm")
    found = from_annotations(images, challenge, parts)
    files = found.images.files.to_pylist()
    assert {file.split("/")[0] for file in files} == {
        name for name in names if parts[name] in ("train", "select")
    }
    for i, file in enumerate(files):
        video, name = file.split("/")
        row = np.flatnonzero(
            (listing.video == names.index(video)) & (listing.frame == int(name.split(".")[0]))
        )
        assert np.array_equal(found.values[i], listing.values[row[0]])
        assert np.array_equal(found.mask[i], listing.mask[row[0]])
        assert found.select[i] == (parts[video] == "select")


def test_a_frame_without_an_image_and_an_image_without_a_frame_are_left_out(planted):
    images, challenge = planted
    parts = dict(zip(challenge.listing.names, challenge.listing.splits, strict=True))
    whole = from_annotations(images, challenge, parts)
    first = whole.images.files[0].as_py()
    others = [file for file in images.files.to_pylist() if file != first]
    others.append(f"{first.split('/')[0]}/2000000.jpg")
    fewer = from_annotations(Images(images.address, pa.array(others)), challenge, parts)
    assert fewer.images.files.to_pylist() == whole.images.files.to_pylist()[1:]
    assert np.array_equal(fewer.values, whole.values[1:])
