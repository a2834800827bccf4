"""Make a small dataset of drawn faces, in the challenge's own layout, with labels that are known.

python sweeps/plant.py --out DIR [--videos N] [--frames MEAN] [--size PX] [--seed N]

The labels follow from a hidden path of affect and so does each face; who it is, light and pose do
not. The default, about 3,000 frames of 64 pixels, takes about 10 seconds.
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
from sweeps.cli.run_program import run_program

LEAST = {"videos": 6, "frames": 20, "seed": 0}
REPORT_SECONDS = 5.0
SCORES = ("p_mtl", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the faces and print what was made; InputError on a user's mistake."""
    args = _arguments(argv)
    for flag, least in LEAST.items():
        if getattr(args, flag) < least:
            raise InputError(f"--{flag} must be {least} or more, but got {getattr(args, flag)}")
    try:
        faces = Faces(size=args.size)
    except InputError as error:
        raise InputError(f"--{error}") from None
    demo = replace(FACES_DEMO, videos=args.videos, mean_frames=args.frames)
    about = make_faces(args.out, args.seed, demo, faces, _Line())
    sys.stdout.write("\n".join(_report(args.out, about)) + "\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="plant.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    for flag, default, meaning in (
        ("videos", FACES_DEMO.videos, "how many, over training, validation and test"),
        ("frames", FACES_DEMO.mean_frames, "of a video, on average"),
        ("size", Faces().size, "side of the square pictures in pixels"),
        ("seed", 20221018, "of everything random; the same seed gives the same files"),
    ):
        parser.add_argument(
            f"--{flag}", type=int, default=default, metavar="N", help=f"{meaning} ({default})"
        )
    return parser.parse_args(argv)


class _Line:
    """Says how far it is every few seconds."""

    def __init__(self) -> None:
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said >= REPORT_SECONDS and done < total:
            self.said = now
            left = (now - self.started) / done * (total - done)
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
