"""Reading of annotation files: equal results for accepted forms, errors with file and line."""

from pathlib import Path

import numpy as np
import pytest

from mtl.dataset.annotations import read_annotations, read_file
from mtl.errors import InputError
from mtl.predictions.submission import HEADER, write_submission
from tests.support.paths import ROOT

STUDYFORREST = ROOT.parent / "shared" / "data" / "studyforrest"
needs_studyforrest = pytest.mark.skipif(
    not STUDYFORREST.is_dir(), reason=f"no studyforrest data in {STUDYFORREST}"
)
UNITS = "0,1,0,0,0,0,1,0,0,0,0,0"
NONE = ",".join(["-1"] * 12)
TRAIN = [
    f"v2/00001.jpg,0.5,-0.25,3,{UNITS}",
    f"v2/00008.jpg,-5,-5,-1,{NONE}",
    f"v1/00017.jpg,-1,1,0,{'-1,' * 11}1",
]
VALIDATION = [f"w/00002.jpg,-5.0,-5.0,7,{NONE}"]
TEST = ["x/00009.jpg", "x/00003.jpg"]


def challenge(
    folder: Path,
    train: list[str] | None = TRAIN,
    validation: list[str] | None = VALIDATION,
    test: list[str] | None = TEST,
    header: bool = True,
    names: tuple[str, str, str] = (
        "training_set_annotations.txt",
        "validation_set_annotations.txt",
        "test_set_release.txt",
    ),
    newline: str = "\n",
) -> Path:
    heads = [HEADER, HEADER, "image"] if header else [None] * 3
    for name, head, rows in zip(names, heads, (train, validation, test), strict=True):
        if rows is not None:
            lines = [head, *rows] if head else rows
            (folder / name).write_bytes((newline.join(lines) + newline).encode())
    return folder


def check(folder: Path) -> None:
    """Assert that the folder reads as ``TRAIN``, ``VALIDATION`` and ``TEST``."""
    found = read_annotations(folder)
    listing = found.listing
    assert found.image_name == "{frame:05d}.jpg"
    assert listing.names == listing.subjects == ("v2", "v1", "w", "x")
    assert listing.splits == ("train", "train", "validation", "test")
    assert listing.video.tolist() == [0, 0, 1, 2, 3, 3]
    assert listing.frame.tolist() == [1, 8, 17, 2, 9, 3]
    values = np.zeros((6, 15), np.float32)
    values[0, [0, 1, 2, 4, 9]] = [0.5, -0.25, 3, 1, 1]
    values[2, [0, 1, 14]] = [-1, 1, 1]
    values[3, 2] = 7
    mask = np.zeros((6, 15), bool)
    mask[0] = mask[2, :3] = mask[2, 14] = mask[3, 2] = True
    np.testing.assert_array_equal(listing.values, values)
    np.testing.assert_array_equal(listing.mask, mask)


NAMES = {
    "train": ["training_set_annotations.txt", "training_set_annotations_22.txt"],
    "validation": ["validation_set_annotations.txt", "validation_set_annotations_22.txt"],
    "test": [
        "test_set_release.txt",
        "test_set_release_22.txt",
        "MTL_Challenge_test_set_release.txt",
        "MTL_Challenge_test_set_release_22.txt",
    ],
}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("year", [0, 1])
@pytest.mark.parametrize("test", NAMES["test"])
def test_accepted_names_and_forms(tmp_path, header, newline, year, test):
    names = (NAMES["train"][year], NAMES["validation"][year], test)
    check(challenge(tmp_path, header=header, newline=newline, names=names))


def test_numbers_may_be_written_as_floats(tmp_path):
    train = [
        f"v2/00001.jpg,5e-1,-.25,3.0,{UNITS.replace('1', '1.0')}",
        f"v2/00008.jpg,-5.0,-5.00,-1.0,{NONE.replace('1', '1.0')}",
        f"v1/00017.jpg,-1.0,1.,-0,{'-1,' * 11}1",
        "",
    ]
    check(challenge(tmp_path, train=train))


def test_spaces_and_a_byte_order_mark_are_ignored(tmp_path):
    train = [row.replace(",", ", ") for row in TRAIN]
    train[0] = "\ufeff" + train[0]
    check(challenge(tmp_path, train=train, header=False))


def test_the_test_list_may_be_missing(tmp_path):
    found = read_annotations(challenge(tmp_path, test=None))
    assert set(found.files) == {"train", "validation"}
    assert set(found.listing.splits) == {"train", "validation"}


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (("a/1.jpg", "a/12.jpg", "b/3.jpg"), "{frame:01d}.jpg"),
        (("a/001.png", "a/012.png", "b/1234.png"), "{frame:03d}.png"),
        (("a/frame_01.jpg", "a/frame_02.jpg", "b/frame_02.jpg"), "frame_{frame:02d}.jpg"),
        (("a/{x}01.jpg", "a/{x}02.jpg", "b/{x}02.jpg"), "{{x}}{frame:02d}.jpg"),
        (("p/a/01.jpg", "p/a/02.jpg", "p/b/02.jpg"), "{frame:02d}.jpg"),
    ],
)
def test_image_name_formats_back_to_the_names_read(tmp_path, names, pattern):
    rows = [f"{name},-5,-5,-1,{NONE}" for name in names]
    found = read_annotations(challenge(tmp_path, train=rows[:2], validation=rows[2:], test=None))
    assert found.image_name == pattern
    listing = found.listing
    again = [
        f"{listing.names[v]}/{pattern.format(frame=f)}"
        for v, f in zip(listing.video, listing.frame, strict=True)
    ]
    assert tuple(again) == names


def row(**changes: str) -> str:
    """Return an annotation row; keywords replace image, v, a, e or au (the last action unit)."""
    fields = {"image": "v2/00009.jpg", "v": "0", "a": "0", "e": "0", "au": "0", **changes}
    return ",".join(
        [fields["image"], fields["v"], fields["a"], fields["e"], *"0" * 11, fields["au"]]
    )


TRAINING = "training_set_annotations.txt line 5"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row().rsplit(",", 1)[0], r"has 15 fields \('v2/00009.jpg,0,0.*: a row has 16"),
        (row() + ",0", "has 17 fields .*: a row has 16, the image and its labels"),
        ("v2/00009.jpg", "has 1 fields"),
        (row(image=""), "has 16 fields"),
        (row(v="1.3"), "valence is 1.3; it must be between -1 and 1, or -5 where it is missing"),
        (row(a="-1.01"), "arousal is -1.01; it must be between -1 and 1, or -5"),
        (row(v="nan"), "valence is nan; it must be between -1 and 1"),
        (row(v="inf"), "valence is inf; it must be between -1 and 1"),
        (row(e="8"), "expression is 8; it must be an integer from 0 to 7, or -1 where it is mis"),
        (row(e="2.5"), "expression is 2.5; it must be an integer"),
        (row(e="-5"), "expression is -5; it must be an integer"),
        (row(au="2"), "AU26 is 2; it must be 0 or 1, or -1 where it is missing"),
        (row(au="0.7"), "AU26 is 0.7; it must be 0 or 1"),
        (row(a="high"), "arousal is 'high'; it must be a number"),
        (row(au=""), "AU26 is ''; it must be a number"),
        (row(e="NA"), "expression is 'NA'; it must be a number"),
        (row(v='"0"'), "valence is '\"0\"'; it must be a number"),
        (row(image="v2/00008.jpg"), r"frame v2/00008.jpg is already in .*annotations.txt line 3"),
        (row(image="00009.jpg"), "'00009.jpg' has no video or frame number; write it as video/000"),
        (row(image="v2/first.jpg"), "'v2/first.jpg' has no video or frame number"),
        (row(image="v2/9.jpg"), "'v2/00001.jpg' does not follow .* end in '1.jpg'"),
        (row(image="v2/00009.png"), "'v2/00009.png' does not follow .* end in '00009.jpg'"),
        (row(image="v2/f00009.jpg"), "'v2/f00009.jpg' does not follow"),
        (row(image="v2/99999999999.jpg"), "frame number 99999999999 is beyond"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path, bad, message):
    where = TRAINING if "1.jpg' does" not in message else "training_set_annotations.txt line 2"
    with pytest.raises(InputError, match=f"{where}.*{message}"):
        read_annotations(challenge(tmp_path, train=[*TRAIN, bad]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test": ["v1/00018.jpg"]},
            "release.txt line 2: video 'v1' is also in .*training.* line 4",
        ),
        (
            {"validation": [*VALIDATION, TRAIN[0]]},
            "validation.* line 3: frame v2/00001.jpg is alre",
        ),
        ({"validation": [row()]}, "validation.* line 2: video 'v2' is also in .*training.* line 2"),
        ({"test": ["x/00001.jpg", "x/00001.jpg"]}, "release.txt line 3: frame x/00001.jpg is alr"),
        ({"test": ["x/1.jpg"]}, "does not follow"),
        ({"test": ["x/00001.jpg,0"]}, "release.txt line 2 has 2 fields .*: a row has 1, the image"),
        (
            {"train": None, "validation": None, "test": None},
            "holds no annotation file: it needs tra",
        ),
        ({"train": None}, r"holds no train annotations: it needs training_set_annotations.txt \("),
        ({"validation": None}, "holds no validation annotations"),
        ({"train": []}, "training_set_annotations.txt lists no frames"),
        ({"validation": []}, "validation_set_annotations.txt lists no frames"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_annotations(challenge(tmp_path, **changes))


def test_two_files_for_one_split_are_refused(tmp_path):
    challenge(tmp_path)
    (tmp_path / "test_set_release_22.txt").touch()
    with pytest.raises(
        InputError, match=r"holds both test_set_release.txt and test_set_release_22"
    ):
        read_annotations(tmp_path)


def test_unreadable_or_empty_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="is no directory"):
        read_annotations(tmp_path / "none")
    (tmp_path / "f.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"f.txt is no text file"):
        read_file(tmp_path / "f.txt")
    with pytest.raises(InputError, match=r"cannot read .*g.txt \(No such file"):
        read_file(tmp_path / "g.txt")
    (tmp_path / "h.txt").write_text(HEADER)
    with pytest.raises(InputError, match=r"h.txt lists no frames"):
        read_file(tmp_path / "h.txt")


def test_submission_round_trip(tmp_path):
    labels = np.zeros((3, 15))
    labels[0] = [0.123456, -1.7, 6, *[1, 0] * 6]
    labels[1] = [1.5, -0.00001, 0, *[0, 1] * 6]
    labels[2] = np.nan
    mask = np.ones((3, 15), bool)
    mask[1, 2] = mask[1, 14] = False
    mask[2] = False
    images = ("x/00009.jpg", "x/00003.jpg", "y/00001.jpg")
    write_submission(tmp_path / "submission.txt", images, labels, mask)
    assert (tmp_path / "submission.txt").read_text().splitlines() == [
        "image,valence,arousal,expression,aus",
        "x/00009.jpg,0.1235,-1.0000,6,1,0,1,0,1,0,1,0,1,0,1,0",
        "x/00003.jpg,1.0000,0.0000,-1,0,1,0,1,0,1,0,1,0,1,0,-1",
        "y/00001.jpg,-5,-5,-1" + ",-1" * 12,
    ]
    again = read_file(tmp_path / "submission.txt")
    assert again.images == images
    np.testing.assert_array_equal(again.mask, mask)
    assert again.values[~mask].tolist() == [0] * 17
    np.testing.assert_allclose(again.values[0], [0.1235, -1, 6, *[1, 0] * 6], atol=1e-7)
    assert [p.name for p in tmp_path.iterdir()] == ["submission.txt"]


def test_a_nan_is_refused_in_a_submission(tmp_path):
    with pytest.raises(ValueError, match="predictions hold a NaN"):
        write_submission(
            tmp_path / "s.txt", ["x/1.jpg"], np.full((1, 15), np.nan), np.ones((1, 15), bool)
        )
    assert list(tmp_path.iterdir()) == []


@needs_studyforrest
@pytest.mark.parametrize(
    ("folder", "units"), [("annotations", 0), ("annotations_cues", 21_544 + 6_934)]
)
def test_studyforrest_counts_and_names(folder, units):
    found = read_annotations(STUDYFORREST / folder)
    listing = found.listing
    assert np.bincount(listing.split).tolist() == [22_635, 6_939, 5_821]
    assert listing.mask[:, 3:].any(1).sum() == units
    assert listing.mask[listing.split == 2].sum() == 0
    assert found.image_name == "{frame:05d}.jpg"
    listed = (STUDYFORREST / folder / "test_set_release.txt").read_text().splitlines()[1:]
    test = listing.split == 2
    assert listed == [
        f"{listing.names[v]}/{found.image_name.format(frame=f)}"
        for v, f in zip(listing.video[test], listing.frame[test], strict=True)
    ]
