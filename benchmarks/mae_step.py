"""Speed of training a masked autoencoder that encodes only the visible patches of an image.

    python benchmarks/mae_step.py [--rounds 7] [--batch 64] [--threads 1]

This project's masked autoencoder encodes only the visible patches. A plain one serves as baseline:
as in BERT, a mask token replaces each removed patch, and the encoder processes all patches. Both do
full training steps (forward, backward, AdamW) with the same encoder and decoder on the same random
images and masks, and alternate in each round. The result is the median over rounds of the seconds
of the plain step divided by the seconds of this project's step. Prints a table and one JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtl.features.mae import VITS, MaskedAutoencoder, patch_statistics, patchify

SEED = 0
CASES = {"mae_vit_mini": (64,), "mae_vit_base": (112, 224)}


class Plain(MaskedAutoencoder):
    """Plain masked autoencoder, the baseline: its encoder processes all patches of an image.

    A mask token replaces each removed patch before the encoder.

    Args:
        name: Name of the encoder, such as ``mae_vit_mini``.
        size: Side of the images, in pixels.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(VITS[name], size)
        self.removed_token = nn.Parameter(torch.zeros(1, 1, VITS[name].width))

    def losses(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error of each image's reconstruction over the removed patches.

        Each true patch is normalised by the mean and the deviation of its own pixels.

        Args:
            images: B images of S x S pixels, (B, 3, S, S).
            noise: One random number per patch, (B, patches); in each image the patches with the
                largest numbers are removed.

        Returns:
            One error per image, (B,).
        """
        removed = noise.argsort(dim=1).argsort(dim=1) >= self.visible
        patches = torch.where(removed[..., None], self.removed_token, self.patch_embed(images))
        first = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([first, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x)) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        target = patchify(images, self.shape.patch)
        mean, deviation = patch_statistics(target)
        predicted = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        errors = (predicted - (target - mean) / deviation).square().mean(dim=-1)
        return (errors * removed).sum(dim=1) / removed.sum(dim=1)


def stepper(model: MaskedAutoencoder, images: Tensor, noise: Tensor) -> Callable[[], None]:
    """Return a function that does one training step (forward, backward, AdamW) on fixed images.

    Args:
        model: The masked autoencoder to train.
        images: The images.
        noise: One random number per image and patch, which decides which patches are removed.
    """
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(model.losses(images, noise).mean())
        optimizer.step()

    return step


def measure(name: str, size: int, batch: int, rounds: int) -> dict[str, float]:
    """Measure the seconds per training step of this project's masked autoencoder and a plain one.

    The encoder of this project's autoencoder processes only the visible patches, the encoder of the
    plain autoencoder (class ``Plain``) processes all patches.

    Args:
        name: Name of the encoder, such as ``mae_vit_mini``.
        size: Side of the images, in pixels.
        batch: Images per step.
        rounds: Number of measured steps of each autoencoder; the two alternate.

    Returns:
        Median seconds per step of this project's autoencoder (``ours_s``) and of the plain one
        (``plain_s``), and median, minimum and maximum over rounds of the plain one's seconds
        divided by this project's (``ratio``, ``ratio_min``, ``ratio_max``).
    """
    torch.manual_seed(SEED)
    images = torch.randn(batch, 3, size, size)
    noise = torch.rand(batch, (size // VITS[name].patch) ** 2)
    steps = {
        "ours": stepper(MaskedAutoencoder(VITS[name], size), images, noise),
        "plain": stepper(Plain(name, size), images, noise),
    }
    seconds: dict[str, list[float]] = {key: [] for key in steps}
    for _ in range(rounds + 1):
        for key, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[key].append(time.perf_counter() - started)
    # The first round is a warm-up.
    ratios = [b / a for a, b in zip(seconds["ours"][1:], seconds["plain"][1:], strict=True)]
    return {
        **{f"{key}_s": round(statistics.median(s[1:]), 4) for key, s in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def main() -> None:
    """Measure the seconds per step of two masked autoencoders; print a table and a JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--batch", type=int, default=64, help="images of 64 pixels per batch; fewer if larger"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    print(
        "| encoder | size | ours s | plain s | plain / ours (min-max) |\n|---|---:|---:|---:|---:|"
    )
    for name, sizes in CASES.items():
        for size in sizes:
            batch = args.batch if size <= 64 else max(1, args.batch // (size // 28) ** 2 * 4)
            found = measure(name, size, batch, args.rounds)
            results[f"{name}_{size}"] = {"batch": batch, **found}
            print(
                f"| {name} | {size} | {found['ours_s']} | {found['plain_s']} | "
                f"{found['ratio']} ({found['ratio_min']}-{found['ratio_max']}) |"
            )
    print(json.dumps({"benchmark": "mae_step", "threads": args.threads, **results}))


if __name__ == "__main__":
    main()
