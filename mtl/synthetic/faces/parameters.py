"""The numbers the planted faces follow from."""

from dataclasses import dataclass, fields

from mtl.errors import InputError
from mtl.synthetic.parameters import Demo

SIZES = (32, 512)
# Small enough to train on in minutes on 2 cores: many people, frames far enough apart to differ. A
# picture shows the path through the action units alone, so these depend on all of it; Demo's own
# hardly move with arousal.
FACES_DEMO = Demo(
    videos=150,
    split_shares=(0.5, 0.4, 0.1),
    mean_frames=20,
    mean_gap_frames=45.0,
    unit_blocks=(0.7, 0.9, 1.0),
)


@dataclass(frozen=True)
class Faces:
    """How the faces are drawn; lengths in half the picture's side unless told.

    Attributes:
        size: Side of the square pictures in pixels.
        softness: Of an action unit's intensity as a function of its readout of variance 1:
            intensity = 1 / (1 + exp(-(readout - threshold) / softness)).
        identity: Differences between people; 1 is as in life, 0 makes all of them the same.
        light: Differences in light between videos, and its drift within them; 1 is as in life.
        shift, zoom: Standard deviations of the head's place (each axis) and of log size.
        rotation_degrees, yaw_degrees: Standard deviations of the head's turn in the picture's plane
            and about its long axis.
        gaze: Standard deviation of the irises' place.
        pose_seconds, light_seconds: Time constants.
        noise: The sensor's, as a standard deviation in grey levels of 255.
        quality: Of the JPEG files.
    """

    size: int = 64
    softness: float = 0.5
    identity: float = 0.4
    light: float = 0.4
    shift: float = 0.02
    zoom: float = 0.02
    rotation_degrees: float = 2.5
    yaw_degrees: float = 3.0
    gaze: float = 0.018
    pose_seconds: float = 2.0
    light_seconds: float = 15.0
    noise: float = 2.0
    quality: int = 95

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be drawn with."""
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise InputError(f"size must be {SIZES[0]} to {SIZES[1]} pixels, but got {self.size}")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be 1 to 100, but got {self.quality}")
        for name in ("softness", "pose_seconds", "light_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, but got {getattr(self, name)}")
        for own in fields(self):
            if not getattr(self, own.name) >= 0:
                raise InputError(f"{own.name} must be 0 or more, but got {getattr(self, own.name)}")
