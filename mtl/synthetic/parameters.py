"""The numbers the planted demo dataset follows from."""

from dataclasses import dataclass

BLOCKS = ("pleasure", "energy", "face")


@dataclass(frozen=True)
class View:
    """How a feature set sees the path.

    Attributes:
        width: Number of features.
        gains: How strongly the set sees the three blocks of the affect path; 1 is the strength at
            which a feature's share of a block's dimension equals ``Demo.signal``.
    """

    width: int
    gains: tuple[float, float, float]


@dataclass(frozen=True)
class Demo:
    """Every number the planted dataset follows from, beside its seed.

    Attributes:
        videos: How many, over all splits.
        split_shares: Of the videos: training, validation, test.
        mean_frames: Listed frames of a video, on average.
        length_spread: Standard deviation of the logarithm of a video's length.
        mean_gap_frames: From one listed frame to the next (one gap in fifty is ten times as long).
        run_frames: Mean length of a run of frames that share a missing-label pattern.
        frames_per_second: What the time constants below are converted with.
        affect_seconds: Time constants of the affect path's dimensions in the blocks of ``BLOCKS``.
        nuisance_seconds: Time constants of what each set adds of its own and no label depends on.
        offsets: Constants of a video that each set adds of its own.
        signal, nuisance, offset: Size in one feature, in standard deviations of its white noise, of
            one affect dimension, of one nuisance process and of one offset.
        views: The feature sets.
        affect_mean, affect_spread, affect_noise: Of valence and arousal.
        affect_blocks: How much valence and arousal depend on each block.
        expression_blocks, unit_blocks: The same for expression and action units.
        expression_sharpness: Size of the expression's class scores beside Gumbel noise.
        unit_noise: Beside an action unit's readout of variance 1.
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
