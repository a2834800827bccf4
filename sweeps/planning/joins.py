"""Joins of a sweep's feature sets: frames that all of them have, checked before training starts."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mtl.config import FrameChoice, TrialConfig
from mtl.dataset import Dataset, Listing
from mtl.errors import InputError
from mtl.sequences.feature_table import index_table
from mtl.sequences.join import join

Lengths = Mapping[tuple[tuple[str, ...], FrameChoice], Mapping[str, int]]
"""Number of frames of each video, by the feature sets and the choice of frames of a config.

The keys of the inner mapping are the names of the videos; frames are counted with stride 1.
"""


def check_joins(
    configs: Sequence[TrialConfig],
    dataset: Dataset,
    listing: Listing,
    parts: Mapping[str, str],
    folds: Sequence[Mapping[str, str]],
) -> tuple[tuple[str, ...], Lengths]:
    """Join each combination of feature sets, and check that frames are left to train and select by.

    Args:
        configs: Configs of the sweep.
        dataset: The dataset.
        listing: All frames named in the annotation files (listed frames).
        parts: Video's name -> split.
        folds: For each fold, a mapping like ``parts``, used while this fold is held out.

    Returns:
        Two values: sentences on listed frames that lack features of some combination, and the
        number of frames of each video.

    Raises:
        InputError: If a combination leaves no frames to train on or to select by.
    """
    combinations = dict.fromkeys(config.features for config in configs)
    tables = {n: index_table(n, dataset.index(n)) for features in combinations for n in features}
    sentences = []
    lengths: dict[tuple[tuple[str, ...], FrameChoice], dict[str, int]] = {}
    for features in combinations:
        joined = join(listing, [tables[name] for name in features])
        for part in ("train", "select"):
            if not any(parts[name] == part for name in joined):
                raise InputError(
                    f"feature sets {', '.join(features)}: no {part} video has a listed frame with "
                    "all of them: extract them, or change search.seed"
                )
            for fold, held_out in enumerate(folds):
                if not any(held_out[name] == part for name in joined):
                    raise InputError(
                        f"feature sets {', '.join(features)}: where refit.folds = {len(folds)} "
                        f"holds fold {fold} out, no {part} video has a listed frame with all of "
                        "them: extract them, or set fewer folds"
                    )
        counts = {name: len(video) for name, video in joined.items()}
        sentences += _missing_features(listing, parts, counts, features)
        lengths[features, "listed"] = counts
    for features in {c.features for c in configs if c.sequence.frames == "all"}:
        every = join(listing, [tables[name] for name in features], "all")
        lengths[features, "all"] = {name: len(video) for name, video in every.items()}
    return tuple(sentences), lengths


def _missing_features(
    listing: Listing, parts: Mapping[str, str], joined: Mapping[str, int], features: Sequence[str]
) -> list[str]:
    """Return a list with one sentence on the listed frames without features, else [].

    Args:
        listing: All frames named in the annotation files (listed frames).
        parts: Video's name -> split.
        joined: Video's name -> number of its listed frames that have all features.
        features: Names of the feature sets that are joined.
    """
    untrained = nearest = prior = 0
    for number, listed in Counter(listing.video.tolist()).items():
        name = listing.names[number]
        missing = listed - joined.get(name, 0)
        if parts[name] == "train":
            untrained += missing
        elif name in joined:
            nearest += missing
        else:
            prior += missing
    if not untrained + nearest + prior:
        return []
    return [
        f"{'+'.join(features)}: of the listed frames without features {untrained} are not trained "
        f"on, {nearest} are predicted from their video's nearest frame, {prior} from the training "
        "labels' mean"
    ]
