"""Scenes of the synthetic face pictures: people, light, pose, background and noise.

No label depends on them; they are nuisances. Legend: T frames. The unit of lengths is half a
picture's side.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int, UInt64

from mtl.synthetic.faces.parameters import Faces
from mtl.synthetic.faces.people import Colour, Identity, Scalar, draw_people
from mtl.synthetic.layout import Layout
from mtl.synthetic.ornstein_uhlenbeck import sample

Columns = TypeVar("Columns")

STREAM = 1_000_003
"""Spawn key of the random streams of faces; ``plant()`` uses the spawn keys 0 to 5."""


@dataclass(frozen=True)
class Light:
    """Light and background of T frames: ambient light, one lamp, and a colour gradient.

    Attributes:
        direction: Unit vector towards the lamp: right, down, towards the viewer.
        strength: Fraction of the light that comes from the lamp, 0 to 1.
        colour: RGB factor of all light, around 1.
        backdrop: RGB colour of the background at the picture's centre.
        gradient: RGB change of the background per unit of length in the direction ``slant``.
        slant: Unit vector of the background's gradient: right, down.
    """

    direction: Colour
    strength: Scalar
    colour: Colour
    backdrop: Colour
    gradient: Colour
    slant: Float32[np.ndarray, "T 2"]

    @classmethod
    def plain(cls, frames: int) -> "Light":
        """Return neutral light from above the viewer on a grey background, for all frames."""
        return cls(
            direction=_rows((0.0, -0.6, 0.8), frames),
            strength=np.full(frames, 0.4, np.float32),
            colour=_rows((1.0, 1.0, 1.0), frames),
            backdrop=_rows((0.5, 0.5, 0.5), frames),
            gradient=_rows((0.0, 0.0, 0.0), frames),
            slant=_rows((0.0, 1.0), frames),
        )


@dataclass(frozen=True)
class Pose:
    """Head pose in T frames: position, size, rotation, yaw (turn to the side) and gaze.

    ``right`` and ``down`` are the head's distance from the picture's centre, and ``zoom`` is a
    factor on the head's size. Angles are in radians. Positive ``rotation`` is clockwise, positive
    ``yaw`` is a turn to the right in the picture.
    """

    right: Scalar
    down: Scalar
    zoom: Scalar
    rotation: Scalar
    yaw: Scalar
    gaze_right: Scalar
    gaze_down: Scalar

    @classmethod
    def frontal(cls, frames: int) -> "Pose":
        """Return the pose of a centred, upright head that looks straight ahead, for all frames."""
        zero, one = np.zeros(frames, np.float32), np.ones(frames, np.float32)
        return cls(zero, zero, one, zero, zero, zero, zero)


@dataclass(frozen=True)
class Scene:
    """Everything that the pictures of T frames show except the action units.

    Attributes:
        identity, light, pose: Person, light and head pose of each frame.
        noise: Standard deviation of the sensor noise, in grey levels from 0 to 255.
        noise_seed: Seed of the sensor noise of each frame.
    """

    identity: Identity
    light: Light
    pose: Pose
    noise: Scalar
    noise_seed: UInt64[np.ndarray, " T"]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.noise)

    def take(self, rows: Int[np.ndarray, " _"]) -> "Scene":
        """Return the people, light, pose and noise of the frames with these row numbers."""
        return Scene(
            identity=_take(self.identity, rows),
            light=_take(self.light, rows),
            pose=_take(self.pose, rows),
            noise=self.noise[rows],
            noise_seed=self.noise_seed[rows],
        )


def draw_scene(seed: int, layout: Layout, faces: Faces) -> Scene:
    """Draw people, light, pose and noise of every listed (annotated) frame.

    There is one face per subject and one background per video. Pose and the drift of the light are
    Ornstein-Uhlenbeck processes over the frame numbers.

    Args:
        seed: Seed of all draws; the random streams differ from those of ``plant(demo, seed)``,
            which draws labels and features.
        layout: Videos, subjects and listed frames.
        faces: Strength and time constants of the nuisances.

    Returns:
        The scene, with the frames of one video after the other.
    """
    branch = np.random.SeedSequence(seed, spawn_key=(STREAM,))
    people, light, pose, noise = (np.random.default_rng(s) for s in branch.spawn(4))
    subjects = list(dict.fromkeys(layout.subjects))
    subject_of_video = np.array([subjects.index(subject) for subject in layout.subjects])
    frames = len(layout.video)
    return Scene(
        identity=_take(draw_people(people, len(subjects), faces), subject_of_video[layout.video]),
        light=_draw_light(light, layout, faces),
        pose=_draw_pose(pose, layout, faces),
        noise=np.full(frames, faces.noise, np.float32),
        noise_seed=noise.integers(2**63, size=frames, dtype=np.uint64),
    )


def _draw_pose(rng: np.random.Generator, layout: Layout, faces: Faces) -> Pose:
    """Draw head poses; half of their variance is constant over a video, like a camera position."""
    seconds = np.repeat([np.inf, faces.pose_seconds], len(fields(Pose)))
    path = _paths(rng, layout, seconds).reshape(-1, 2, len(fields(Pose)))
    z = (path.sum(1) / np.sqrt(2)).clip(-2.5, 2.5).T.astype(np.float32)
    turn, yaw = np.deg2rad(faces.rotation_degrees), np.deg2rad(faces.yaw_degrees)
    return Pose(
        right=_float(faces.shift * z[0]),
        down=_float(faces.shift * z[1]),
        zoom=_float(np.exp(faces.zoom * z[2])),
        rotation=_float(turn * z[3]),
        yaw=_float(yaw * z[4]),
        gaze_right=_float(faces.gaze * z[5]),
        gaze_down=_float(faces.gaze / 2 * z[6]),
    )


def _draw_light(rng: np.random.Generator, layout: Layout, faces: Faces) -> Light:
    """Draw the light: a constant of each video plus a slow drift. The background does not drift."""
    drift = _paths(rng, layout, np.repeat(faces.light_seconds, 7)).T
    videos, video = len(layout.names), layout.video
    constant = rng.standard_normal((7, videos)).clip(-2, 2)[:, video]
    z = faces.light * (constant + 0.25 * drift)
    right, down = np.sin(0.8 * z[0]), np.sin(-0.35 + 0.4 * z[1])
    toward = np.stack([right, down, np.full_like(right, 0.7)], axis=1)
    grey, hue = rng.uniform(0.2, 0.8, (videos, 1)), rng.normal(0, 0.1, (videos, 3))
    angle = rng.uniform(0, 2 * np.pi, videos)[video]
    tint = np.stack([0.07 * z[4], 0.02 * z[5], -0.07 * z[4]], axis=1)
    return Light(
        direction=_float(toward / np.linalg.norm(toward, axis=1, keepdims=True)),
        strength=_float((0.5 + 0.15 * z[2]).clip(0.1, 0.85)),
        colour=_float(np.exp(0.16 * z[3])[:, None] * (1 + tint)),
        backdrop=_float((grey + hue)[video]),
        gradient=_float(rng.normal(0, 0.1, (videos, 3))[video]),
        slant=_float(np.stack([np.cos(angle), np.sin(angle)], axis=1)),
    )


def _paths(rng: np.random.Generator, layout: Layout, seconds: np.ndarray) -> np.ndarray:
    """Draw Ornstein-Uhlenbeck processes of variance 1 along each video.

    Args:
        rng: Source of the random draws.
        layout: Videos and their frame numbers, at 30 frames per second.
        seconds: Time constant of each process.

    Returns:
        Values of shape (frames of all videos, processes).
    """
    return np.concatenate([sample(rng, frames, 30.0 * seconds) for frames in layout.frames])


def _take(data: Columns, rows: np.ndarray) -> Columns:
    """Return a copy of a dataclass of arrays, with only the given rows of each array."""
    columns = {f.name: getattr(data, f.name)[rows] for f in fields(data)}  # type: ignore[arg-type]
    return type(data)(**columns)


def _rows(values: tuple[float, ...], frames: int) -> np.ndarray:
    return np.tile(np.array(values, np.float32), (frames, 1))


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
