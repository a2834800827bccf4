"""Parameters of the planted demo dataset."""

from dataclasses import dataclass

BLOCKS = ("pleasure", "energy", "face")
"""Names of the three blocks of dimensions that make up the affect path."""


@dataclass(frozen=True)
class View:
    """Size of a feature set and the strength of the affect path in it.

    Attributes:
        width: Number of features.
        gains: Strength of each of the three blocks of the affect path in the features. With gain
            1, one affect dimension has size ``Demo.signal`` in a feature.
    """

    width: int
    gains: tuple[float, float, float]


@dataclass(frozen=True)
class Demo:
    """Parameters that, together with the seed, determine a planted dataset.

    Attributes:
        videos: Number of videos over all splits.
        split_shares: Fractions of the videos for training, validation and test.
        mean_frames: Mean number of listed frames in a video.
        length_spread: Standard deviation of the logarithm of a video's length.
        mean_gap_frames: Mean distance between listed frames, in frames, apart from one gap in fifty
            that is ten times as long.
        run_frames: Mean length, in listed frames, of a run with the same labelled tasks.
        frames_per_second: Frame rate that converts time constants in seconds to frames.
        affect_seconds: Time constants of the affect path's dimensions, one tuple for each block of
            ``BLOCKS``.
        nuisance_seconds: Time constants of each feature set's own nuisance processes, on which no
            label depends.
        offsets: Number of each feature set's own nuisances that are constant over a video.
        signal, nuisance, offset: Size of one affect dimension, one nuisance process and one offset
            in one feature, in standard deviations of the feature's white noise.
        views: Name and view of each feature set.
        affect_mean, affect_spread, affect_noise: Mean, standard deviation and standard deviation
            of the annotation noise, for valence and arousal.
        affect_blocks: Weight of each block in valence and in arousal.
        expression_blocks, unit_blocks: Weight of each block in expression and in action units.
        expression_sharpness: Standard deviation of the expression's class scores before standard
            Gumbel noise is added.
        unit_noise: Standard deviation of the noise on an action unit's readout of variance 1.
    """

    videos: int = 80
    split_shares: tuple[float, float, float] = (0.65, 0.2, 0.15)
    mean_frames: int = 280
    length_spread: float = 0.6
    mean_gap_frames: float = 9.0
    run_frames: float = 90.0
    frames_per_second: float = 30.0
    affect_seconds: tuple[tuple[float, ...], ...] = (
        (20.0, 8.0, 3.0),
        (15.0, 4.0),
        (12.0, 5.0, 2.0),
    )
    nuisance_seconds: tuple[float, ...] = (4.0, 1.0, 0.5)
    offsets: int = 3
    signal: float = 0.3
    nuisance: float = 0.2
    offset: float = 0.4
    views: tuple[tuple[str, View], ...] = (
        ("appearance", View(32, (1.0, 0.4, 0.5))),
        ("geometry", View(24, (0.4, 0.3, 1.0))),
        ("motion", View(16, (0.2, 1.2, 0.3))),
    )
    affect_mean: tuple[float, float] = (0.12, 0.18)
    affect_spread: tuple[float, float] = (0.3, 0.26)
    affect_noise: tuple[float, float] = (0.06, 0.06)
    affect_blocks: tuple[tuple[float, ...], ...] = ((1.0, 0.2, 0.3), (0.2, 1.0, 0.2))
    expression_blocks: tuple[float, ...] = (1.0, 0.4, 0.6)
    unit_blocks: tuple[float, ...] = (0.5, 0.3, 1.0)
    expression_sharpness: float = 4.0
    unit_noise: float = 0.25
