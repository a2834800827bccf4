"""Make a dataset directory from the challenge's annotation files and precomputed features.

python sweeps/prepare.py [--annotations DIR] --features NAME=PATH ... --out DIR

Without annotations every frame of the first feature set is listed as a test frame; such a dataset
can be predicted, but not trained on.
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
from sweeps.cli.arguments import make_parser
from sweeps.cli.run_program import run_program
from sweeps.data.subjects import with_subjects


def main(argv: Sequence[str] | None = None) -> int:
    """Write a dataset directory and print its counts of frames and labels: program ``prepare.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code 0.

    Raises:
        InputError: If an argument, an annotation file or a feature set is wrong.
    """
    arguments = _parse(argv)
    sources = _feature_sources(arguments.features)
    features = {name: read_features(path) for name, path in sources.items()}
    if arguments.annotations is None:
        if arguments.subjects:
            raise InputError("--subjects is for training: give --annotations too")
        first = next(iter(sources.values()))
        dataset = write_dataset(
            arguments.out,
            _every_frame(read_features(first)),
            features,
            sources={"annotations": None, "features": sources},
            overwrite=arguments.overwrite,
        )
    else:
        challenge = read_annotations(arguments.annotations)
        dataset = write_dataset(
            arguments.out,
            with_subjects(challenge.listing, arguments.subjects),
            features,
            image_name=challenge.image_name,
            sources={"annotations": _digests(challenge), "features": sources},
            overwrite=arguments.overwrite,
        )
    sys.stdout.write("\n".join(_report(dataset)) + "\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--annotations",
        metavar="DIR",
        help="folder of the challenge's annotation files (default: list every frame of the first "
        "feature set as a test frame)",
    )
    parser.add_argument(
        "--features",
        required=True,
        action="extend",
        nargs="+",
        metavar="NAME=PATH",
        help="a feature set: a Parquet file, a folder of them (local or s3://) or an HDF5 file",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="dataset directory to write")
    parser.add_argument(
        "--subjects",
        metavar="CSV",
        help="file with the columns video,subject (default: each video is its own subject)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset in OUT")
    return parser.parse_args(argv)


def _feature_sources(pairs: Sequence[str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise InputError(f"--features {pair!r} must be NAME=PATH")
        if name in sources:
            raise InputError(f"--features names {name!r} twice: give each feature set its own name")
        sources[name] = path
    return sources


def _every_frame(blocks: Iterable[VideoFeatures]) -> Listing:
    """Return all frames of a feature set, listed as test frames without labels.

    Args:
        blocks: For each video of the feature set: name, frame numbers and features.
    """
    videos = [(video, frames.astype(np.int32)) for video, frames, _ in blocks]
    if not videos:
        raise InputError("the first feature set holds no frames: there is nothing to list")
    names = tuple(name for name, _ in videos)
    frames = [frames for _, frames in videos]
    video = np.repeat(np.arange(len(names), dtype=np.int32), [len(numbers) for numbers in frames])
    return Listing.unlabelled(names, ("test",) * len(names), names, video, np.concatenate(frames))


def _digests(challenge: Challenge) -> dict[str, dict[str, str]]:
    return {
        split: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for split, path in challenge.files.items()
    }


def _report(dataset: Dataset) -> Iterator[str]:
    """Yield the lines of the program's summary of a dataset.

    The first table counts the videos, frames and labels of each split; the second table has one
    row for each feature set.
    """
    counts, without = dataset.info["counts"], dataset.info["listed_without_features"]
    rows: list[list[object]] = [["", *SPLITS]]
    rows += [[kind, *(counts[s][kind] for s in SPLITS)] for kind in ("videos", "frames")]
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
