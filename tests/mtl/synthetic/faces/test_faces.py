"""Tests of planted faces: effect of each action unit, nuisances, and written files."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from mtl.dataset.annotations import read_annotations
from mtl.errors import InputError
from mtl.synthetic import Demo, Faces, make_faces
from mtl.synthetic.demo import Planted, plant
from mtl.synthetic.faces import (
    FACES_DEMO,
    Light,
    Pose,
    Scene,
    draw_faces,
    draw_people,
    draw_scene,
    face_coordinates,
    known_path_scores,
    unit_intensities,
)
from mtl.synthetic.faces import writing as faces_writing
from mtl.synthetic.faces.shapes import ellipse, lens
from mtl.tasks import ACTION_UNITS

SEED = 20221018
SMALL = Demo(videos=6, mean_frames=20)
REALISTIC = Faces(
    identity=1.0, light=1.0, shift=0.05, zoom=0.05, rotation_degrees=6.0, yaw_degrees=7.0, noise=4.0
)
UPPER, MIDDLE, LOWER = (0.12, 0.48), (0.3, 0.72), (0.48, 1.0)
"""First and last row of a face region in an uncropped picture, as fractions of its height."""

REGIONS = {
    **dict.fromkeys(("AU1", "AU2", "AU4"), UPPER),
    **dict.fromkeys(("AU6", "AU7"), MIDDLE),
    **dict.fromkeys(("AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26"), LOWER),
}


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(FACES_DEMO, SEED)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faces") / "made"
    make_faces(out, SEED, SMALL)
    return out


def still(frames: int, person: int = 0, noise: float = 0.0) -> Scene:
    """Return a scene with one person in all frames, upright, in neutral light."""
    people = draw_people(np.random.default_rng(person), 1, Faces())
    scene = Scene(
        identity=people,
        light=Light.plain(1),
        pose=Pose.frontal(1),
        noise=np.full(1, noise, np.float32),
        noise_seed=np.ones(1, np.uint64),
    )
    return scene.take(np.zeros(frames, int))


def steps(unit: int, count: int) -> np.ndarray:
    """Return intensities that rise from 0 to 1 for one unit and are 0 for the others."""
    intensities = np.zeros((count, len(ACTION_UNITS)), np.float32)
    intensities[:, unit] = np.linspace(0, 1, count)
    return intensities


def digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_circle_is_exact_and_a_closed_lens_covers_nothing() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    away = np.hypot(x, y) > 0.01  # the distance is not defined at the centre
    distance = ellipse(x, y, 0.5, 0.5)
    np.testing.assert_allclose(distance[away], (np.hypot(x, y) - 0.5)[away], atol=1e-5)
    assert distance[~away].max() < 0
    assert not lens(x, y, 0.5, 0.0, 0.0, 0.05).any()
    for top in (0.01, 0.02, 0.3):  # also a lens thinner than a pixel
        area = lens(x, y, 0.8, top, 0.0, 0.05).sum() * 0.05**2
        assert area == pytest.approx(4 / 3 * 0.8 * top, rel=0.05)


@pytest.mark.parametrize("unit", range(len(ACTION_UNITS)), ids=ACTION_UNITS)
def test_a_unit_changes_its_region_and_nothing_else(unit: int) -> None:
    size = 96
    for person in range(3):
        rest, full = draw_faces(steps(unit, 2), still(2, person), size).astype(float)
        changed = np.abs(full - rest).max(axis=(1, 2))
        # The crop magnifies the face, which moves the region's rows away from the centre.
        start, end = (
            round(
                size
                * np.clip(
                    ((2 * share - 1 - face_coordinates.MIDDLE) * face_coordinates.CROP + 1) / 2,
                    0,
                    1,
                )
            )
            for share in REGIONS[ACTION_UNITS[unit]]
        )
        assert 0 <= start < end
        assert not changed[:start].any()
        assert not changed[end:].any()
        assert changed.max() > 35


@pytest.mark.parametrize("unit", range(len(ACTION_UNITS)), ids=ACTION_UNITS)
def test_a_units_picture_goes_away_from_rest_as_it_rises(unit: int) -> None:
    for person in range(3):
        pictures = draw_faces(steps(unit, 6), still(6, person)).astype(float)
        away = np.sqrt(((pictures - pictures[0]) ** 2).mean(axis=(1, 2, 3)))
        assert (np.diff(away) > 0).all(), away
        assert away[-1] > 1.5


def test_no_two_units_look_alike() -> None:
    count = len(ACTION_UNITS)
    shown = np.concatenate([np.zeros((1, count)), np.eye(count)]).astype(np.float32)
    pictures = draw_faces(shown, still(count + 1)).astype(float).reshape(count + 1, -1)
    change = pictures[1:] - pictures[0]
    change /= np.linalg.norm(change, axis=1, keepdims=True)
    assert np.abs(change @ change.T - np.eye(count)).max() < 0.75


def test_a_frame_alone_equals_the_frame_in_a_batch(planted: Planted) -> None:
    for size in (33, 64):
        scene = draw_scene(SEED, planted.layout, Faces()).take(np.arange(0, 2800, 112))
        rng = np.random.default_rng(0)
        shown = rng.random((len(scene), 12), np.float32)
        together = draw_faces(shown, scene, size)
        for row in (0, 7, 24):
            alone = draw_faces(shown[row : row + 1], scene.take(np.array([row])), size)
            np.testing.assert_array_equal(alone[0], together[row])
        backwards = np.arange(len(scene))[::-1]
        turned = draw_faces(shown[backwards], scene.take(backwards), size)
        np.testing.assert_array_equal(turned[::-1], together)


@pytest.mark.parametrize("size", [64, 112])
def test_pictures_use_the_range_and_show_the_same_at_any_size(planted: Planted, size: int) -> None:
    scene = draw_scene(SEED, planted.layout, Faces()).take(np.arange(0, 2800, 70))
    pictures = draw_faces(np.zeros((len(scene), 12), np.float32), scene, size)
    assert pictures.shape == (len(scene), size, size, 3)
    assert pictures.dtype == np.uint8
    assert pictures.min() < 25
    assert pictures.max() > 230
    assert (pictures == 255).mean() < 0.1
    assert (pictures == 0).mean() < 0.1
    small, large = (draw_faces(steps(6, 2), still(2), n).mean(axis=(1, 2)) for n in (size, 224))
    np.testing.assert_allclose(small, large, atol=1)


def test_people_differ_and_one_subjects_videos_show_the_same(planted: Planted) -> None:
    layout = planted.layout
    scene = draw_scene(SEED, layout, Faces())
    first = np.array([np.flatnonzero(layout.video == v)[0] for v in range(len(layout.names))])
    plain = replace(
        scene.take(first),
        light=Light.plain(len(first)),
        pose=Pose.frontal(len(first)),
        noise=np.zeros(len(first), np.float32),
    )
    pictures = draw_faces(np.zeros((len(first), 12), np.float32), plain).astype(float)
    flat = pictures.reshape(len(first), -1)
    away = cdist(flat, flat, "cityblock") / flat.shape[1]
    subjects = np.array(layout.subjects)
    same = subjects[:, None] == subjects[None]
    assert same.sum() > len(subjects)
    assert away[same].max() == 0
    assert away[~same].min() > 2


def test_light_stays_near_a_videos_own_and_pose_moves(planted: Planted) -> None:
    scene, video = draw_scene(SEED, planted.layout, Faces()), planted.layout.video

    def within(values: np.ndarray) -> float:
        parts = [values[video == v].var() for v in range(len(planted.layout.names))]
        return float(np.mean(parts) / values.var())

    assert within(scene.light.strength) < 0.2
    assert within(scene.light.backdrop[:, 0]) < 1e-6
    for field in fields(Pose):
        assert within(getattr(scene.pose, field.name)) > 0.25
    assert scene.pose.rotation.std() == pytest.approx(
        np.deg2rad(Faces().rotation_degrees), rel=0.15
    )


def test_nuisance_follows_no_affect() -> None:
    """None of the 112 correlations between nuisances and affect exceeds 0.3 on 300 videos."""
    planted = plant(Demo(videos=300, mean_frames=10), SEED)
    scene = draw_scene(SEED, planted.layout, Faces())
    pose = [getattr(scene.pose, field.name) for field in fields(Pose)]
    light = [scene.light.strength, *scene.light.direction.T, *scene.light.colour.T]
    nuisance = np.stack([*pose, *light])
    affect = planted.states[:, planted.world.affect]
    related = np.corrcoef(nuisance, affect.T)[: len(nuisance), len(nuisance) :]
    assert related.size == 112
    assert np.abs(related).max() < 0.3


def test_intensities_follow_the_path_and_are_a_half_at_the_threshold(planted: Planted) -> None:
    readouts, affect = planted.world.readouts, planted.states[:, planted.world.affect]
    shown = unit_intensities(readouts, affect, 0.5)
    margin = affect @ readouts.units.T - readouts.unit_threshold
    np.testing.assert_array_equal(shown > 0.5, margin > 0)
    np.testing.assert_allclose(np.log(shown / (1 - shown)), 2 * margin, rtol=1e-3, atol=1e-3)
    agreement = ((shown > 0.5) == planted.labels[:, 3:]).mean()
    assert 0.85 < agreement < 1


def test_pictures_carry_the_labels(planted: Planted) -> None:
    """A linear model predicts intensities best from still pictures, worst from realistic ones."""
    rng = np.random.default_rng(0)
    rows = rng.choice(np.flatnonzero(planted.layout.rows("train")), 500, replace=False)
    affect = planted.states[rows][:, planted.world.affect]
    shown = unit_intensities(planted.world.readouts, affect, Faces().softness)

    def explained(pictures: np.ndarray) -> np.ndarray:
        pixels = pictures.reshape(len(pictures), -1) / 255
        model = Ridge(alpha=1).fit(pixels[:350], shown[:350])
        error = ((model.predict(pixels[350:]) - shown[350:]) ** 2).mean(axis=0)
        return np.asarray(1 - error / shown[350:].var(axis=0))

    easy = explained(draw_faces(shown, still(len(rows)), 48))
    demo, hard = (
        explained(draw_faces(shown, draw_scene(SEED, planted.layout, faces).take(rows), 48))
        for faces in (Faces(), REALISTIC)
    )
    assert easy.min() > 0.6
    assert hard.mean() < 0.4
    assert hard.mean() < demo.mean() < easy.mean()


def test_annotations_read_back_are_what_was_planted(written: Path) -> None:
    planted = plant(SMALL, SEED)
    challenge = read_annotations(written / "annotations")
    listing, layout = challenge.listing, planted.layout
    assert challenge.image_name == "{frame:05d}.jpg"
    assert (listing.names, listing.splits) == (layout.names, layout.splits)
    np.testing.assert_array_equal(listing.video, layout.video)
    np.testing.assert_array_equal(listing.frame, np.concatenate(layout.frames))
    np.testing.assert_array_equal(listing.mask, planted.mask)
    labels = np.where(planted.mask, planted.labels, 0)
    np.testing.assert_array_equal(listing.values[:, 2:], labels[:, 2:])
    np.testing.assert_allclose(listing.values[:, :2], labels[:, :2], atol=5.1e-5)
    subjects = (written / "subjects.csv").read_text().splitlines()
    pairs = zip(layout.names, layout.subjects, strict=True)
    assert subjects == ["video,subject", *(",".join(pair) for pair in pairs)]
    test_list = (written / "annotations" / "test_set_release.txt").read_text().splitlines()
    assert test_list[0] == "image"
    assert len(test_list) == 1 + layout.rows("test").sum()


def test_every_listed_frame_has_its_picture(written: Path) -> None:
    planted, faces = plant(SMALL, SEED), Faces()
    layout, scene = planted.layout, draw_scene(SEED, planted.layout, faces)
    listed = {
        f"{name}/{frame:05d}.jpg"
        for name, frames in zip(layout.names, layout.frames, strict=True)
        for frame in frames
    }
    crops = written / "cropped_aligned"
    assert {str(f.relative_to(crops)) for f in crops.rglob("*.jpg")} == listed
    affect = planted.states[:, planted.world.affect]
    shown = unit_intensities(planted.world.readouts, affect, faces.softness)
    drawn = draw_faces(shown, scene, faces.size)
    for row in (0, len(drawn) // 2, len(drawn) - 1):
        frame = np.concatenate(layout.frames)[row]
        with Image.open(crops / layout.names[layout.video[row]] / f"{frame:05d}.jpg") as file:
            error = np.asarray(file, float) - drawn[row]
        assert np.abs(error).mean() < 6


def test_known_path_scores_are_recorded_and_high(written: Path, planted: Planted) -> None:
    about = json.loads((written / "faces.json").read_text())
    assert about["seed"] == SEED
    assert about["generator"]["demo"]["videos"] == SMALL.videos
    assert about["generator"]["faces"]["size"] == 64
    assert about["known_path"] == known_path_scores(plant(SMALL, SEED))
    reached = known_path_scores(planted)
    assert reached["ccc_valence"] > 0.95
    assert 2.2 < reached["p_mtl"] < 2.8


def test_same_seed_same_bytes(written: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    make_faces(tmp_path / "again", SEED, SMALL, progress=lambda *at: reported.append(at))
    make_faces(tmp_path / "other", SEED + 1, SMALL)
    first, again, other = (digest(f) for f in (written, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert not set(first.values()) & set(other.values()) - {first["subjects.csv"]}
    assert len(reported) == SMALL.videos
    assert reported[-1][0] == reported[-1][1]


def test_a_folder_that_exists_is_refused(written: Path, tmp_path: Path) -> None:
    before = digest(written)
    with pytest.raises(InputError, match="exists already: remove it or give another folder"):
        make_faces(written, SEED, SMALL)
    assert digest(written) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make"):
        make_faces(tmp_path / "file" / "faces", SEED, SMALL)


def test_the_folder_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert not (tmp_path / "faces").exists()
        raise OSError("disk full")

    monkeypatch.setattr(faces_writing, "write_annotations", fail)
    with pytest.raises(OSError, match="disk full"):
        make_faces(tmp_path / "faces", SEED, SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"size": 16}, "size must be 32 to 512 pixels, but got 16"),
        ({"quality": 0}, "quality must be 1 to 100, but got 0"),
        ({"softness": 0.0}, r"softness must be above 0, but got 0\.0"),
        ({"yaw_degrees": -1.0}, r"yaw_degrees must be 0 or more, but got -1\.0"),
        ({"noise": float("nan")}, "noise must be 0 or more, but got nan"),
    ],
)
def test_wrong_numbers(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Faces(**numbers)  # type: ignore[arg-type]
