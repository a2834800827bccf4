"""Extraction by Ray's pool of workers against a plain PyTorch loop with a DataLoader.

python benchmarks/extraction.py [--backbone mae_vit_mini] [--images 4096] [--rounds 5] [--cores 2]
                                [--memory 2000 20000]

Both read the same JPEGs (smooth random pictures, 112 px), run the same model in the same batches
and end with float16 features; ours also writes them. Ours: a worker for each core, one torch thread
in each. The loop: of 0, 1 and 2 loading processes, and of one torch thread or as many as cores,
what was fastest beforehand, the better of two tries each (on a busy machine threads that wait for
each other are slow). Each run is a process of its own, so that no cluster idles beside the loop.

The rate of a run is that from the moment when a quarter of its images is done to its end: what
starts (Ray, the workers, the loading processes) has then started on both sides, and the end, when
workers run out of parts, counts. At the quarter the other workers may have almost a part each done
that is not there yet: so many images are taken off ours. The figure is the median of the rounds'
ratios, the two taking turns at being first; 0.95 is wanted. Then the most memory (PSS of driver,
Ray and workers) that runs of few and of many images took: whether pictures pile up (features of
20,000 are but 5 MB).
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
"""When images were done, and how many."""


def make_images(folder: Path, count: int) -> Path:
    """Smooth random pictures as JPEGs, in videos of ``VIDEO_FRAMES``."""
    random = np.random.default_rng(SEED)
    for i in range(count):
        file = folder / f"v{i // VIDEO_FRAMES:04d}" / f"{i % VIDEO_FRAMES + 1:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(file)
    return folder


def steady_rate(arrivals: Arrivals, ahead: int = 0) -> float:
    """Images/s after the first quarter of them, when as many as ``ahead`` more may be done."""
    total, done = sum(count for _, count in arrivals), 0
    for when, count in arrivals:
        done += count
        if 4 * done >= total:
            return (total - done - ahead) / (arrivals[-1][0] - when)
    raise ValueError("nothing arrived")


def extracted(images: Path, backbone: str, batch: int, chunk: int, cores: int) -> Arrivals:
    """As ``sweeps/extract.py`` does it, parts written and all."""
    from sweeps.cluster.connection import LOCAL, connect

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # as the program does
    frames = frames_of(find_images(images))
    model = load_backbone(backbone, "random", PIXELS, SEED)
    with tempfile.TemporaryDirectory() as out, connect(LOCAL):
        # Ray must be imported after its settings are made.
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
    """Images as a plain loop reads them."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], np.ndarray]) -> None:
        self.folder, self.files = Path(images.address), images.files.to_pylist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.folder / self.files[i]) as image:
            return torch.from_numpy(self.transform(image.convert("RGB")))


def looped(images: Path, backbone: str, batch: int, threads: int, loading: int) -> Arrivals:
    """The plain loop."""
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
    """What a function returns in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def speed(images: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Both sides' rates, in pairs."""
    common = (images, words.backbone, words.batch)
    tried = {
        pair: max(steady_rate(alone(looped, *common, *pair)) for _ in range(TRIES))
        for pair in product(sorted({1, words.cores}), LOADING_PROCESSES)
    }
    best = max(tried, key=lambda pair: tried[pair])
    print("images/s of the loop by torch threads and loading processes:")
    print({pair: round(rate) for pair, rate in tried.items()})
    sides: dict[str, Callable[[], Arrivals]] = {
        "ours": lambda: alone(extracted, *common, words.chunk, words.cores),
        "loop": lambda: alone(looped, *common, *best),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(words.rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            ahead = words.chunk * (words.cores - 1) if name == "ours" else 0
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


def most_memory(folder: Path, count: int, words: argparse.Namespace) -> int:
    """Bytes, at the most."""
    images = make_images(folder, count)
    with MemoryWatch() as watch:
        alone(extracted, images, words.backbone, words.batch, words.chunk, words.cores)
    return max(size for _, size in watch.samples)


def main() -> None:
    """The program."""
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
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = speed(make_images(Path(folder) / "speed", words.images), words)
        memory = {n: most_memory(Path(folder) / str(n), n, words) for n in words.memory}
    print("| backbone | ours images/s | loop images/s | ratio (min-max) | wanted |")
    print("|---|---|---|---|---|")
    print(
        f"| {words.backbone} | {result['ours_images_per_s']:,} | {result['loop_images_per_s']:,} | "
        f"{result['ratio']} ({result['ratio_min']}-{result['ratio_max']}) | {LEAST_RATIO} |"
    )
    if memory:
        print("\n| images | most memory, MiB |\n|---|---|")
        for count, size in memory.items():
            print(f"| {count:,} | {size / 2**20:,.0f} |")
        result["memory_mib"] = {n: round(size / 2**20) for n, size in memory.items()}
        result["memory_ratio"] = round(memory[max(memory)] / memory[min(memory)], 3)
        print(f"\n{result['memory_ratio']} times as much; at most {MOST_MEMORY} is wanted")
    print(json.dumps({"benchmark": "extraction", "backbone": words.backbone, **result}))


if __name__ == "__main__":
    main()
