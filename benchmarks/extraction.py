"""Speed and memory of feature extraction on Ray workers, relative to a plain PyTorch loop.

python benchmarks/extraction.py [--backbone mae_vit_mini] [--images 4096] [--rounds 5] [--cores 2]
                                [--memory 2000 20000]

"Ours" is this project's extraction on Ray workers; "the loop" is plain PyTorch in one process. Both
read the same JPEG files (smooth random pictures, 112 px), run the same model with the same batch
size and produce float16 features; only ours writes the features to disk. Ours has one Ray worker
for each core, with one torch thread each. The loop uses a DataLoader. The DataLoader's number of
loading processes (0, 1 or 2) and the number of torch threads (1 or one per core) are the fastest
combination in two preliminary runs of each. Every run is a separate process, so that no idle
cluster slows the loop.

The rate of a run, in images/s, is measured from the time when a quarter of the images is done to
the end of the run. The rate thus excludes the start of Ray, workers and loading processes, and
includes the end, when workers have no more images. When a quarter is done, each other worker may
almost have finished a group of images that has not arrived; for ours, as many images are subtracted
from the count. The result is the median over rounds of our rate divided by the loop's rate; ours
and the loop alternate in which runs first. The target is 0.95. Then the peak memory (proportional
set size of driver, Ray and workers) of runs with few and with many images is compared, to detect
pictures that accumulate (the features of 20,000 images take only 5 MB).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tree_memory import MemoryWatch

from mtl.features.backbones import load_backbone
from mtl.features.face_crops import Images, find_images, frames_of

SEED = 0
PIXELS, COARSE = 112, 14
VIDEO_FRAMES = 1000
LOADING_PROCESSES = (0, 1, 2)
TRIES = 2
LEAST_RATIO, MOST_MEMORY = 0.95, 1.1
Arrivals = list[tuple[float, int]]
"""Pairs of time (seconds since the epoch) and number of images, for each batch or file of features.

The time is that at which the features of these images are finished.
"""


def make_images(folder: Path, count: int) -> Path:
    """Write random pictures as JPEG files, in one subfolder per video, and return ``folder``.

    Args:
        folder: Parent folder of the videos' subfolders.
        count: Number of pictures.
    """
    random = np.random.default_rng(SEED)
    for i in range(count):
        file = folder / f"v{i // VIDEO_FRAMES:04d}" / f"{i % VIDEO_FRAMES + 1:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(file)
    return folder


def steady_rate(arrivals: Arrivals, ahead: int = 0) -> float:
    """Return the images/s of an extraction run after the first quarter of the images is done.

    Args:
        arrivals: Time in seconds and number of images of each finished batch, in order of time.
        ahead: Largest number of images that workers may have processed before the quarter is done
            but delivered later; this number is subtracted from the counted images.

    Raises:
        ValueError: There are no images.
    """
    total, done = sum(count for _, count in arrivals), 0
    for when, count in arrivals:
        done += count
        if 4 * done >= total:
            return (total - done - ahead) / (arrivals[-1][0] - when)
    raise ValueError("no image was extracted")


def extracted(
    images: Path, backbone: str, batch: int, chunk: int, cores: int, address: str = "local"
) -> Arrivals:
    """Extract features on Ray workers as ``sweeps/extract.py`` does, into a temporary folder.

    Args:
        images: Folder of the images.
        backbone: Name of the backbone.
        batch: Images per batch.
        chunk: Frames per output file.
        cores: Number of Ray workers.
        address: Address of the Ray cluster.

    Returns:
        Pairs of the time in seconds since the epoch at which an output file is written, and the
        number of images with features in this file.
    """
    from sweeps.cluster.connection import connect

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # as in the program
    frames = frames_of(find_images(images))
    model = load_backbone(backbone, "random", PIXELS, SEED)
    with tempfile.TemporaryDirectory() as out, connect(address):
        # Ray reads its settings when it is imported.
        from sweeps.extraction.folder import write_part
        from sweeps.extraction.workers import ExtractionPlan, extract_chunks

        plan = ExtractionPlan(backbone, PIXELS, batch, chunk, "cpu", "float32")
        chunks = range(-(-len(frames) // chunk))
        arrivals: Arrivals = []
        for part in extract_chunks(frames, model, plan, chunks, cores, 1, 0):
            write_part(Path(out), part.chunk, part.content)
            arrivals.append((time.time(), len(plan.rows(part.chunk, len(frames))) - part.failed))
    return arrivals


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """Torch dataset of image files, for a DataLoader.

    Args:
        images: Folder and paths of the image files.
        transform: Function that turns an image into the array of a model's input.
    """

    def __init__(self, images: Images, transform: Callable[[Image.Image], np.ndarray]) -> None:
        self.folder, self.files = Path(images.address), images.files.to_pylist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.folder / self.files[i]) as image:
            return torch.from_numpy(self.transform(image.convert("RGB")))


def looped(images: Path, backbone: str, batch: int, threads: int, loading: int) -> Arrivals:
    """Extract features in a plain PyTorch loop without Ray; the features are not written.

    Args:
        images: Folder of the images.
        backbone: Name of the backbone.
        batch: Images per batch.
        threads: Torch threads.
        loading: Loading processes of the DataLoader.

    Returns:
        Pairs of the time in seconds since the epoch at which a batch is finished, and the number
        of images in this batch.
    """
    torch.set_num_threads(threads)
    model = load_backbone(backbone, "random", PIXELS, SEED)
    loader = DataLoader(
        Files(frames_of(find_images(images)).images, model.transform), batch, num_workers=loading
    )
    arrivals: Arrivals = []
    features = []
    with torch.inference_mode():
        for pixels in loader:
            features.append(model(pixels).numpy().astype(np.float16))
            arrivals.append((time.time(), len(pixels)))
    assert np.isfinite(np.concatenate(features)).all()
    return arrivals


def alone(function: Callable[..., Arrivals], *arguments: Any) -> Arrivals:
    """Call a function with the given arguments in a new process; return the function's result."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def speed(images: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the images/s of extraction on Ray workers and in a plain PyTorch loop.

    Args:
        images: Folder of the images.
        args: Arguments of the command line.

    Returns:
        Median images/s on Ray workers (``ours_images_per_s``) and in the plain loop
        (``loop_images_per_s``); the numbers of torch threads (``loop_threads``) and of DataLoader
        processes (``loop_loading_processes``) with which the loop is fastest; and median, minimum
        and maximum over rounds of the rate on Ray workers divided by the loop's rate (``ratio``,
        ``ratio_min``, ``ratio_max``).
    """
    common = (images, args.backbone, args.batch)
    tried = {
        pair: max(steady_rate(alone(looped, *common, *pair)) for _ in range(TRIES))
        for pair in product(sorted({1, args.cores}), LOADING_PROCESSES)
    }
    best = max(tried, key=lambda pair: tried[pair])
    print("images/s of the loop by (torch threads, loading processes):")
    print({pair: round(rate) for pair, rate in tried.items()})
    sides: dict[str, Callable[[], Arrivals]] = {
        "ours": lambda: alone(extracted, *common, args.chunk, args.cores),
        "loop": lambda: alone(looped, *common, *best),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            ahead = args.chunk * (args.cores - 1) if name == "ours" else 0
            rates[name].append(steady_rate(sides[name](), ahead))
    ratios = [ours / loop for ours, loop in zip(rates["ours"], rates["loop"], strict=True)]
    return {
        "ours_images_per_s": round(statistics.median(rates["ours"]), 1),
        "loop_images_per_s": round(statistics.median(rates["loop"]), 1),
        "loop_threads": best[0],
        "loop_loading_processes": best[1],
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def most_memory(folder: Path, count: int, args: argparse.Namespace) -> int:
    """Write images, extract features from them on Ray workers, and return the peak memory in bytes.

    The memory is that of all processes together: driver, Ray and workers.

    Args:
        folder: Folder for the images.
        count: Number of images.
        args: Arguments of the command line.
    """
    images = make_images(folder, count)
    with MemoryWatch() as watch:
        alone(extracted, images, args.backbone, args.batch, args.chunk, args.cores)
    return max(size for _, size in watch.samples)


def main() -> None:
    """Measure speed and memory of feature extraction; print tables and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="mae_vit_mini")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[2000, 20_000], metavar="IMAGES")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = speed(make_images(Path(folder) / "speed", args.images), args)
        memory = {n: most_memory(Path(folder) / str(n), n, args) for n in args.memory}
    print("| backbone | ours images/s | loop images/s | ratio (min-max) | target |")
    print("|---|---|---|---|---|")
    print(
        f"| {args.backbone} | {result['ours_images_per_s']:,} | {result['loop_images_per_s']:,} | "
        f"{result['ratio']} ({result['ratio_min']}-{result['ratio_max']}) | {LEAST_RATIO} |"
    )
    if memory:
        print("\n| images | peak memory, MiB |\n|---|---|")
        for count, size in memory.items():
            print(f"| {count:,} | {size / 2**20:,.0f} |")
        result["memory_mib"] = {n: round(size / 2**20) for n, size in memory.items()}
        result["memory_ratio"] = round(memory[max(memory)] / memory[min(memory)], 3)
        print(f"\nratio of peak memory {result['memory_ratio']}; limit {MOST_MEMORY}")
    print(json.dumps({"benchmark": "extraction", "backbone": args.backbone, **result}))


if __name__ == "__main__":
    main()
