"""Parameters of the synthetic demo dataset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """Size of a synthetic feature set, and how strongly the latent affect shows in it.

    Attributes:
        width: Number of features.
        gains: Strength in the features of each of the three blocks of dimensions (pleasure, energy
            and face) of the latent affect (time series on which all labels depend). With gain 1,
            one dimension has size ``Demo.signal`` in a feature.
    """

    width: int
    gains: tuple[float, float, float]


@dataclass(frozen=True)
class Demo:
    """Parameters that, together with the seed, determine a synthetic dataset.

    Labels depend on the latent affect, a time series whose dimensions form three blocks. Features
    show the latent affect and nuisances, on which no label depends.

    Attributes:
        videos: Number of videos over all splits.
        split_shares: Fractions of the videos for training, validation and test.
        mean_frames: Mean number of listed (annotated) frames in a video; not used if
            ``split_frames`` is given.
        split_frames: Number of listed frames in all training, validation and test videos together;
            None if the numbers follow from ``mean_frames``.
        length_spread: Standard deviation of the logarithm of a video's length.
        mean_gap_frames: Mean distance between listed frames, in frames, apart from one gap in fifty
            that is ten times as long.
        run_frames: Mean length, in listed frames, of a run of frames with the same labelled tasks.
        frames_per_second: Frame rate that converts time constants in seconds to frames.
        affect_seconds: Time constants of the latent affect's dimensions, one tuple per block.
        nuisance_seconds: Time constants of the nuisance processes; every feature set has processes
            with all of these.
        offsets: Number of nuisances of each feature set that are constant over a video.
        signal, nuisance, offset: Size of one dimension of the latent affect, one nuisance process
            and one constant nuisance in one feature, in standard deviations of the feature's white
            noise.
        views: Name of each feature set, and a ``View`` with its number of features and the factors
            on ``signal``.
        affect_mean: Mean of valence and of arousal.
        affect_spread: Standard deviation of valence and of arousal without annotation noise.
        affect_noise: Standard deviation of the annotation noise of valence and of arousal.
        affect_blocks: Weights of the three blocks in valence, then in arousal.
        expression_blocks: Weight of each of the three blocks in the scores of all expressions.
        unit_blocks: Weight of each of the three blocks in the scores of all action units.
        expression_sharpness: Standard deviation of the expression's class scores before standard
            Gumbel noise is added.
        unit_noise: Standard deviation of the noise that is added to an action unit's score, which
            has variance 1 without it.
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
    split_frames: tuple[int, int, int] | None = None
