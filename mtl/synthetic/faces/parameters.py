"""Parameters of the synthetic face pictures."""

from dataclasses import dataclass, fields

from mtl.errors import InputError
from mtl.synthetic.parameters import Demo

SIZES = (32, 512)
"""Smallest and largest side of a picture, in pixels."""

# A picture shows the latent affect only through the action units, so the units must depend on all
# blocks; with Demo's default unit_blocks they hardly depend on arousal.
FACES_DEMO = Demo(
    videos=150,
    split_shares=(0.5, 0.4, 0.1),
    mean_frames=20,
    mean_gap_frames=45.0,
    unit_blocks=(0.7, 0.9, 1.0),
)
"""Default dataset size: many people and frames far apart, trained on in minutes on 2 cores."""


@dataclass(frozen=True)
class Faces:
    """Parameters of the synthetic face pictures; the unit of lengths is half a picture's side.

    Attributes:
        size: Side of the square pictures, in pixels.
        softness: Width of the logistic that turns an action unit's score (a linear map of the
            latent affect, variance 1) into its intensity: 1 / (1 + exp(-(score - threshold) /
            softness)).
        identity: Strength of the differences between people: 1 is realistic, 0 gives all people the
            same face.
        light: Strength of the light's differences between videos and its drift within each video; 1
            is realistic.
        shift: Standard deviation of the head's horizontal and vertical position.
        zoom: Standard deviation of the logarithm of the head's size.
        rotation_degrees: Standard deviation of the head's rotation in the picture plane.
        yaw_degrees: Standard deviation of the head's rotation about its vertical axis.
        gaze: Standard deviation of the irises' horizontal position.
        pose_seconds, light_seconds: Time constants of the head's movement and of the light's drift.
        noise: Standard deviation of the sensor noise, in grey levels from 0 to 255.
        quality: Quality of the JPEG files, 1 to 100.
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
        """Check that every parameter of the pictures is in its valid range.

        Raises:
            InputError: A parameter is out of range.
        """
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise InputError(f"size must be {SIZES[0]} to {SIZES[1]} pixels, but got {self.size}")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be 1 to 100, but got {self.quality}")
        for name in ("softness", "pose_seconds", "light_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, but got {getattr(self, name)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise InputError(f"{field.name} must be 0 or more, but got {value}")
