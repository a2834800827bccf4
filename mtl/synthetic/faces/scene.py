"""Who and what the frames show beside affect: people, light, pose, background, noise.

None of it depends on a label. Legend: T frames; lengths in half the picture's side.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int, UInt64

from mtl.synthetic.faces.parameters import Faces
from mtl.synthetic.faces.people import Colour, Identity, Scalar, draw_people
from mtl.synthetic.layout import Layout
from mtl.synthetic.ornstein_uhlenbeck import sample

Part = TypeVar("Part")

STREAM = 1_000_003  # the faces' branch of the seed: plant() uses the branches 0 to 5


@dataclass(frozen=True)
class Light:
    """One lamp beside an ambient light, and what stands behind.

    Attributes:
        direction: Towards the lamp, of length 1: right, down, to the viewer.
        strength: The lamp's share of the light, 0 to 1.
        colour: Of all light, around 1.
        backdrop, gradient: The background's colour in the middle, and what each corner adds to it
            along ``slant`` (right, down).
    """

    direction: Colour
    strength: Scalar
    colour: Colour
    backdrop: Colour
    gradient: Colour
    slant: Float32[np.ndarray, "T 2"]

    @classmethod
    def plain(cls, frames: int) -> "Light":
        """A lamp above the viewer, of neutral colour, before grey."""
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
    """Where the head is; angles in radians, positive turns go clockwise and to the right."""

    right: Scalar
    down: Scalar
    zoom: Scalar
    rotation: Scalar
    yaw: Scalar
    gaze_right: Scalar
    gaze_down: Scalar

    @classmethod
    def frontal(cls, frames: int) -> "Pose":
        """In the middle, upright, looking ahead."""
        zero, one = np.zeros(frames, np.float32), np.ones(frames, np.float32)
        return cls(zero, zero, one, zero, zero, zero, zero)


@dataclass(frozen=True)
class Scene:
    """Everything that T frames show beside the action units.

    Attributes:
        identity, light, pose: Of each frame.
        noise: The sensor's standard deviation in grey levels of 255.
        noise_seed: Of each frame's own noise.
    """

    identity: Identity
    light: Light
    pose: Pose
    noise: Scalar
    noise_seed: UInt64[np.ndarray, " T"]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.noise)

    def take(self, rows: Int[np.ndarray, " _"]) -> "Scene":
        """These frames of it, in this order."""
        return Scene(
            identity=_take(self.identity, rows),
            light=_take(self.light, rows),
            pose=_take(self.pose, rows),
            noise=self.noise[rows],
            noise_seed=self.noise_seed[rows],
        )


def draw_scene(seed: int, layout: Layout, faces: Faces) -> Scene:
    """The scene of every listed frame, in listing order: one person a subject, one light a video.

    Pose and the light's drift are Ornstein-Uhlenbeck processes over the frame numbers.

    Args:
        seed: Of everything; its streams are apart from those of ``plant(demo, seed)``.
        layout: Videos, their subjects and frames.
        faces: How strong each nuisance is.
    """
    branch = np.random.SeedSequence(seed, spawn_key=(STREAM,))
    people, light, pose, noise = (np.random.default_rng(s) for s in branch.spawn(4))
    subjects = list(dict.fromkeys(layout.subjects))
    of_video = np.array([subjects.index(subject) for subject in layout.subjects])
    frames = len(layout.video)
    return Scene(
        identity=_take(draw_people(people, len(subjects), faces), of_video[layout.video]),
        light=_draw_light(light, layout, faces),
        pose=_draw_pose(pose, layout, faces),
        noise=np.full(frames, faces.noise, np.float32),
        noise_seed=noise.integers(2**63, size=frames, dtype=np.uint64),
    )


def _draw_pose(rng: np.random.Generator, layout: Layout, faces: Faces) -> Pose:
    """Half of the variance stays a whole video: where the camera stands."""
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
    drift = _paths(rng, layout, np.repeat(faces.light_seconds, 7)).T
    videos, video = len(layout.names), layout.video
    own = rng.standard_normal((7, videos)).clip(-2, 2)[:, video]
    z = faces.light * (own + 0.25 * drift)
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
    """Processes of variance 1 along each video, (T, processes); 30 frames a second."""
    return np.concatenate([sample(rng, frames, 30.0 * seconds) for frames in layout.frames])


def _take(part: Part, rows: np.ndarray) -> Part:
    columns = {f.name: getattr(part, f.name)[rows] for f in fields(part)}  # type: ignore[arg-type]
    return type(part)(**columns)


def _rows(values: tuple[float, ...], frames: int) -> np.ndarray:
    return np.tile(np.array(values, np.float32), (frames, 1))


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
