"""Make a dataset directory of the challenge's annotation files and precomputed features.

python sweeps/prepare.py [--annotations DIR] --features NAME=PATH ... --out DIR

Without annotations it lists every frame of the first feature set: a dataset to predict on.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mtl.dataset import SPLITS, Dataset, Listing, VideoFeatures, read_features, write_dataset
from mtl.dataset.annotations import Challenge, read_annotations
from mtl.errors import InputError
from mtl.tasks import TASKS
from sweeps.cli.run_program import run_program
from sweeps.data.subjects import with_subjects


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a dataset and print what was found; InputError on a user's mistake."""
    args = _arguments(argv)
    sources = _feature_sources(args.features)
    features = {name: read_features(path) for name, path in sources.items()}
    if args.annotations is None:
        if args.subjects:
            raise InputError("--subjects is for training: give --annotations too")
        first = next(iter(sources.values()))
        dataset = write_dataset(
            args.out,
            _every_frame(read_features(first)),
            features,
            sources={"annotations": None, "features": sources},
            overwrite=args.overwrite,
        )
    else:
        challenge = read_annotations(args.annotations)
        dataset = write_dataset(
            args.out,
            with_subjects(challenge.listing, args.subjects),
            features,
            image_name=challenge.image_name,
            sources={"annotations": _digests(challenge), "features": sources},
            overwrite=args.overwrite,
        )
    sys.stdout.write("\n".join(_report(dataset)) + "\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="prepare.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--annotations",
        metavar="DIR",
        help="folder of the challenge's files (none: every frame, to predict only)",
    )
    parser.add_argument(
        "--features",
        required=True,
        action="extend",
        nargs="+",
        metavar="NAME=PATH",
        help="a feature set: a Parquet file, a folder of them (local or s3://) or an HDF5 file",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the dataset directory to make")
    parser.add_argument(
        "--subjects", metavar="CSV", help="columns video,subject (default: each video its own)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset already there")
    return parser.parse_args(argv)


def _feature_sources(words: Sequence[str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise InputError(f"--features {word!r} must be NAME=PATH")
        if name in sources:
            raise InputError(f"--features names {name!r} twice: give each feature set its own name")
        sources[name] = path
    return sources


def _every_frame(blocks: Iterable[VideoFeatures]) -> Listing:
    """All videos and frames of a feature set as test frames."""
    found = [(video, frames.astype(np.int32)) for video, frames, _ in blocks]
    if not found:
        raise InputError("the first feature set holds no frames: there is nothing to list")
    names = tuple(video for video, _ in found)
    frames = [frames for _, frames in found]
    video = np.repeat(np.arange(len(names), dtype=np.int32), [len(own) for own in frames])
    return Listing.unlabelled(names, ("test",) * len(names), names, video, np.concatenate(frames))


def _digests(challenge: Challenge) -> dict[str, dict[str, str]]:
    return {
        split: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for split, path in challenge.files.items()
    }


def _report(dataset: Dataset) -> Iterator[str]:
    """What was found, as two small tables."""
    counts, without = dataset.info["counts"], dataset.info["listed_without_features"]
    rows: list[list[object]] = [["", *SPLITS]]
    rows += [[what, *(counts[s][what] for s in SPLITS)] for what in ("videos", "frames")]
    rows += [[f"with {t}", *(counts[s]["labelled"][t] for s in SPLITS)] for t in TASKS]
    rows += [[f"without {n}", *(without[n][s] for s in SPLITS)] for n in dataset.feature_sets()]
    yield from _aligned(rows)
    yield ""
    yield from _aligned(_feature_rows(dataset))
    yield ""
    if not counts["train"]["frames"]:
        yield "There are test frames only: the dataset is to be predicted, not to be trained on."
    if not counts["test"]["frames"]:
        yield "There is no test list: the dataset is for training and validation only."
    yield f"Dataset {dataset.hash[:12]} is in {dataset.address}"


def _feature_rows(dataset: Dataset) -> list[list[object]]:
    rows: list[list[object]] = [["feature set", "width", "type", "videos", "frames", "in no list"]]
    for name, entry in dataset.info["features"].items():
        numbers = (entry[key] for key in ("width", "dtype", "videos", "rows"))
        rows.append([name, *numbers, dataset.info["unlisted_feature_rows"][name]])
    return rows


def _aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    texts = [[f"{x:,}" if isinstance(x, int) else str(x) for x in row] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*texts, strict=True))
    return [
        row[0].ljust(first) + "".join(f"  {x:>{w}}" for x, w in zip(row[1:], others, strict=True))
        for row in texts
    ]


if __name__ == "__main__":
    run_program(main)
