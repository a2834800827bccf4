"""What else could have been fused, and what each member is worth. All of it raw: before
post-processing; nothing here is chosen on ``confirm``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from mtl.ensemble.selection import RULES, error_correlation, forward_order, fuse
from mtl.evaluation.bootstrap import BOUNDS, BootstrapScore
from mtl.tasks import OUTPUT_COLUMNS, TASKS, Task
from sweeps.fusion.candidates import Candidates
from sweeps.fusion.frames import PredictedFrames, predicted_tasks
from sweeps.fusion.fused import Chosen, choose_members, mean_outputs
from sweeps.fusion.scores import differences
from sweeps.search_file import FusionSection

SIZES = (1, 2, 4, 8)
AMONG = 25
"""Of so many of the best trials small ensembles are made."""


def other_rules(
    candidates: Candidates,
    frames: PredictedFrames,
    settings: FusionSection,
    ours: Float[np.ndarray, "N 22"],
) -> dict[str, Any]:
    """Each rule's scores beside ``ours``, the raw outputs of the one that the sweep uses."""
    found = {}
    for rule in RULES:
        members = choose_members(candidates, frames, rule, settings.steps)
        found[rule] = _beside(mean_outputs(candidates, members), ours, frames)
    return found


def small_ensembles(
    folder: Path, candidates: Candidates, frames: PredictedFrames, ours: Float[np.ndarray, "N 22"]
) -> list[dict[str, Any]]:
    """The best ensembles of 1, 2, 4 and 8 trials, each for all tasks, and what they cost.

    The trials are taken in the order in which they add most to the plain mean's P on ``select``;
    each task's weights are then chosen greedily among them.
    """
    able = candidates.whole(AMONG)
    outputs = np.stack([candidates.load(member.signature).outputs for member in able])
    select = frames.of("select")
    rows = frames.rows[select]
    labels, mask = frames.listing.values[rows], frames.listing.mask[rows]
    order = forward_order(outputs[:, select], labels, mask, max(SIZES))
    found = []
    for size in (size for size in SIZES if size <= len(order)):
        first = list(order[:size])
        chosen, mean = _fused_of(outputs[first], [able[i].signature for i in first], frames)
        found.append(
            {"members": size, **cost(folder, candidates, chosen), **_beside(mean, ours, frames)}
        )
    return found


def cost(folder: Path, candidates: Candidates, chosen: Chosen) -> dict[str, float | None]:
    """What predicting with these members takes: how many trained models run over each frame, their
    parameters together (None where weights are gone), and frames a second, as each trial's own
    predictions took where it trained (None where nobody measured it).
    """
    known = {member.signature: member for member in candidates.members}
    models = {(s, known[s].epochs[task]) for task, members in chosen.items() for s in members}
    files = [
        folder / "trials" / signature / "weights" / f"epoch_{epoch:03d}.safetensors"
        for signature, epoch in sorted(models)
    ]
    counts = [_parameters(file) for file in files]
    parameters = sum(c for c in counts if c) if None not in counts else None
    seconds = [each for s, _ in models if (each := known[s].seconds) is not None]
    rate = 1 / sum(seconds) if len(seconds) == len(models) and any(seconds) else None
    return {"models": len(models), "parameters": parameters, "frames_per_second": rate}


def contributions(
    candidates: Candidates, frames: PredictedFrames, members: Chosen, parts: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Of each task's members: what the score loses without each, with intervals, and how alike they
    err (on ``select``), those that count most first.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, chosen in members.items():
        task = TASKS[name]
        weights = dict(sorted(chosen.items(), key=lambda item: -item[1]))
        signatures, outputs = candidates.of(task)
        places = [signatures.index(signature) for signature in weights]
        own, counts = outputs[places], np.array(list(weights.values()))
        labels, mask = frames.labels(task, "select")
        if not mask.any():
            continue
        alike = error_correlation(task, own[:, frames.of("select")], labels, mask)
        found[name] = {
            "members": weights,
            "error_correlation": [
                [None if np.isnan(r) else float(r) for r in row] for row in alike
            ],
            "lost_without": {
                part: _lost_without_each(task, own, counts, list(weights), frames, part)
                for part in parts
            },
        }
    return found


def _fused_of(
    outputs: Float[np.ndarray, "M N 22"], signatures: list[str], frames: PredictedFrames
) -> tuple[Chosen, Float[np.ndarray, "N 22"]]:
    """Greedy choice among few members that all predict the same tasks."""
    select = frames.of("select")
    mean = np.full(outputs.shape[1:], np.nan, np.float32)
    chosen: dict[str, dict[str, float]] = {}
    for name in predicted_tasks(outputs[0]):
        task = TASKS[name]
        own = outputs[:, :, task.outputs]
        labels, mask = frames.labels(task, "select")
        weights = np.eye(1, len(own), dtype=int)[0]
        if mask.any():
            weights = RULES["greedy"](task, own[:, select], labels, mask).weights
        mean[:, task.outputs] = fuse(own, weights)
        counts = zip(signatures, weights.tolist(), strict=True)
        chosen[name] = {signature: weight for signature, weight in counts if weight}
    return chosen, mean


def _beside(
    outputs: Float[np.ndarray, "N 22"], ours: Float[np.ndarray, "N 22"], frames: PredictedFrames
) -> dict[str, Any]:
    """P on both parts; on ``confirm`` with its interval, and minus ours with that one's."""
    found: dict[str, Any] = {}
    for part in ("select", "confirm"):
        if not len(frames.of(part)):
            continue
        score = _p(frames, outputs, part)
        interval = None if score is None else score.interval(*BOUNDS["p"])
        found[part] = None if score is None else {"p": score.score, "interval": interval}
        same = predicted_tasks(outputs) == predicted_tasks(ours)
        mine = _p(frames, ours, part) if same else None
        if part == "confirm" and score is not None and mine is not None:
            found["minus_fused_raw"] = differences({"p_labelled": score - mine})
    return found


def _p(
    frames: PredictedFrames, outputs: Float[np.ndarray, "N 22"], part: str
) -> BootstrapScore | None:
    return frames.sampled(outputs, part).get("p_labelled")


def _lost_without_each(
    task: Task,
    own: Float[np.ndarray, "M N W"],
    counts: np.ndarray,
    signatures: list[str],
    frames: PredictedFrames,
    part: str,
) -> dict[str, Any]:
    score = f"{task.score}_{task.name}"
    whole = _of_task(frames, task, fuse(own, counts), part).get(score)
    lost: dict[str, Any] = {}
    for place, signature in enumerate(signatures if len(counts) > 1 else []):
        less = np.where(np.arange(len(counts)) == place, 0, counts)
        without = _of_task(frames, task, fuse(own, less), part).get(score)
        if whole is not None and without is not None:
            loss = whole - without
            lost[signature] = {"score": loss.score, "interval": loss.interval()}
    return lost


def _of_task(
    frames: PredictedFrames, task: Task, outputs: Float[np.ndarray, "N W"], part: str
) -> Mapping[str, BootstrapScore]:
    alone = np.full((len(outputs), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    alone[:, task.outputs] = outputs
    return frames.sampled(alone, part)


def _parameters(file: Path) -> int | None:
    try:
        return _count(file)
    except OSError:  # the trial is no longer among the best, whose weights are kept
        return None


def _count(file: Path) -> int:
    with safe_open(file, framework="np") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(int(np.prod(shape)) for shape in shapes)
