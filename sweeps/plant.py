"""Make a small synthetic dataset of drawn faces with known labels, in the challenge's file layout.

python sweeps/plant.py --out DIR [--videos N] [--frames MEAN] [--size PX] [--seed N]

A latent time series determines the labels (valence, arousal, expression, action units) and the
facial expression in the images; identity, light and pose are independent of it. The default, about
3,000 images of 64 pixels, takes about 10 seconds.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mtl.dataset import SPLITS
from mtl.errors import InputError
from mtl.synthetic import FACES_DEMO, Faces, make_faces
from sweeps.cli.arguments import make_parser
from sweeps.cli.run_program import run_program

MINIMUM = {"videos": 6, "frames": 20, "seed": 0}
REPORT_SECONDS = 5.0
SCORES = ("p_mtl", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")


def main(argv: Sequence[str] | None = None) -> int:
    """Write a synthetic dataset of faces and print its size: the program ``plant.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code 0.

    Raises:
        InputError: If an argument is wrong.
    """
    arguments = _parse(argv)
    for flag, minimum in MINIMUM.items():
        if getattr(arguments, flag) < minimum:
            raise InputError(
                f"--{flag} must be {minimum} or more, but got {getattr(arguments, flag)}"
            )
    try:
        faces = Faces(size=arguments.size)
    except InputError as error:
        raise InputError(f"--{error}") from None
    demo = replace(FACES_DEMO, videos=arguments.videos, mean_frames=arguments.frames)
    about = make_faces(arguments.out, arguments.seed, demo, faces, _Progress())
    sys.stdout.write("\n".join(_report(arguments.out, about)) + "\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    for flag, default, meaning in (
        ("videos", FACES_DEMO.videos, "number of videos in all three splits"),
        ("frames", FACES_DEMO.mean_frames, "mean number of frames of a video"),
        ("size", Faces().size, "side of the square images in pixels"),
        ("seed", 20221018, "seed of all random numbers; the same seed gives the same files"),
    ):
        parser.add_argument(
            f"--{flag}",
            type=int,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default})",
        )
    return parser.parse_args(argv)


class _Progress:
    """Printer of a line with the number of drawn frames, every ``REPORT_SECONDS`` seconds."""

    def __init__(self) -> None:
        self._start = self._printed_at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._printed_at >= REPORT_SECONDS and done < total:
            self._printed_at = now
            left = (now - self._start) / done * (total - done)
            print(f"{done:,} of {total:,} frames drawn, about {left:.0f} s left")


def _report(out: str, about: dict[str, Any]) -> Iterator[str]:
    for split in SPLITS:
        videos, frames = about["videos"][split], about["frames"][split]
        yield f"{split:<10}  {videos:>5,} videos  {frames:>7,} frames"
    reached = "  ".join(f"{name} {about['known_path'][name]:.4f}" for name in SCORES)
    yield f"A predictor that knew the hidden path would score on the validation frames: {reached}"
    yield f"Faces are in {out}"


if __name__ == "__main__":
    run_program(main)
