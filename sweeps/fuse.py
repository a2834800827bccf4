"""The best trials fused: everything chosen on ``select``, then scored on ``confirm``, then written.

A member is a trial that left predictions. For each task members are chosen greedily on ``select``;
what is done to their mean (``mtl.postprocess``) is chosen there too. ``confirm`` is read once, for
the scores.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mtl import metrics
from mtl.affwild2 import write_submission
from mtl.bootstrap import BOUNDS, Sampled, bootstrap
from mtl.dataset import Dataset, Listing
from mtl.fusion import fuse, greedy
from mtl.postprocess import Postprocessing, choose
from mtl.predictions import Predictions, decide
from mtl.sequences import training_prior
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from mtl.whole_files import write_json
from sweeps.search_file import Fusion


@dataclass(frozen=True)
class Member:
    """A trial that left predictions.

    Attributes:
        signature: Its folder under ``trials/``.
        score: Its objective on ``select``.
    """

    signature: str
    score: float


@dataclass(frozen=True)
class Frames:
    """The predicted frames: where they stand in the listing and in which part they are."""

    listing: Listing
    parts: Mapping[str, str]
    rows: Int[np.ndarray, " N"]

    def of(self, *parts: str) -> Int[np.ndarray, " n"]:
        """Positions among the predicted frames of those in ``parts``."""
        wanted = np.array([self.parts[name] in parts for name in self.listing.names])
        return np.flatnonzero(wanted[self.listing.video[self.rows]])

    def scores(self, outputs: Float[np.ndarray, "N 22"], part: str) -> dict[str, Any]:
        """All scores of one part."""
        at = self.of(part)
        rows = self.rows[at]
        return metrics.scores(outputs[at], self.listing.values[rows], self.listing.mask[rows])

    def sampled(self, outputs: Float[np.ndarray, "N 22"], part: str) -> dict[str, Sampled]:
        """The part's scores with what the bootstrap over its videos says of them."""
        at = self.of(part)
        rows = self.rows[at]
        labels, mask = self.listing.values[rows], self.listing.mask[rows]
        return bootstrap(outputs[at], labels, mask, self.listing.video[rows])


@dataclass(frozen=True)
class Fused:
    """Outputs of all predicted frames, raw and post-processed, and how they came about."""

    outputs: Float[np.ndarray, "N 22"]
    raw: Float[np.ndarray, "N 22"]
    members: dict[str, dict[str, int]]
    postprocessing: Postprocessing


def fuse_sweep(
    folder: Path,
    dataset: Dataset,
    listing: Listing,
    parts: Mapping[str, str],
    members: Sequence[Member],
    fusion: Fusion,
) -> dict[str, Any]:
    """Fuse a sweep's members; write ``fusion/``, ``submission.txt`` and ``scores.json``.

    Returns:
        What ``scores.json`` holds.
    """
    outputs = MemberOutputs(folder, members)
    frames = Frames(listing, parts, listed_rows(listing, outputs.predictions(0)))
    select = frames.of("select")
    # Of all members only these rows are held at once.
    on_select = [outputs.predictions(i).outputs[select] for i in range(len(members))]
    best = _best_single(members, on_select)
    fused = _fuse(outputs, on_select, frames, fusion, best)
    scores = {
        part: _part_scores(fused, outputs.predictions(best).outputs, frames, part, fusion)
        for part in ("select", "confirm")
        if len(frames.of(part))
    }
    ceiling = _ceiling(dataset, frames, fused.outputs)
    content = {
        "select": scores["select"],
        "confirm": scores.get("confirm"),
        "selected_on_the_scored_videos": "confirm" not in scores,
        "best_single": members[best].signature,
        "members": fused.members,
        "postprocessing": asdict(fused.postprocessing),
        **({"ceiling": ceiling} if ceiling else {}),
    }
    _write(folder, dataset, frames, fused)
    write_json(folder / "scores.json", content)
    return content


class MemberOutputs:
    """The stored predictions of members, by their place among them, read when asked for."""

    def __init__(self, folder: Path, members: Sequence[Member]) -> None:
        self.members = members
        self._trials = folder / "trials"
        self.predictions = functools.lru_cache(maxsize=32)(self._read)

    def _read(self, member: int) -> Predictions:
        trial = self._trials / self.members[member].signature
        return Predictions.load(trial / "predictions.parquet")


def predicted_tasks(outputs: Float[np.ndarray, "N 22"]) -> tuple[str, ...]:
    """The tasks whose outputs are not missing."""
    return tuple(t.name for t in TASKS.values() if not np.isnan(outputs[:, t.outputs]).all())


def _best_single(members: Sequence[Member], on_select: Sequence[Float[np.ndarray, "N 22"]]) -> int:
    """The best of those that predict the most tasks: a sum over more tasks is no better score."""
    tasks = [len(predicted_tasks(outputs)) for outputs in on_select]
    return max(range(len(members)), key=lambda i: (tasks[i], members[i].score))


def _part_scores(
    fused: Fused, single: Float[np.ndarray, "N 22"], frames: Frames, part: str, fusion: Fusion
) -> dict[str, dict[str, Any]]:
    """Scores of the fused model and the best single one, with intervals; the interval of their
    difference where both predict the same tasks.
    """
    done, _ = _postprocessed(single, frames, fusion.postprocess)
    scores = {
        "fused": frames.scores(fused.outputs, part),
        "fused_raw": frames.scores(fused.raw, part),
        "best_single": frames.scores(done, part),
        "best_single_raw": frames.scores(single, part),
    }
    whole, alone = frames.sampled(fused.outputs, part), frames.sampled(single, part)
    scores["fused"]["interval"] = _intervals(whole)
    scores["best_single_raw"]["interval"] = _intervals(alone)
    same = predicted_tasks(fused.outputs) == predicted_tasks(single)
    gain = {name: (whole[name] - alone[name]).interval() for name in whole} if same else {}
    scores["fused_minus_best_single_raw"] = {"interval": gain}
    return scores


def _intervals(scores: Mapping[str, Sampled]) -> dict[str, tuple[float, float]]:
    return {
        name: score.interval(*BOUNDS.get(name.split("_")[0], (-np.inf, np.inf)))
        for name, score in scores.items()
    }


def listed_rows(listing: Listing, predictions: Predictions) -> Int[np.ndarray, " N"]:
    """Where predicted frames stand in the listing."""
    place = {
        key: row
        for row, key in enumerate(zip(listing.video.tolist(), listing.frame.tolist(), strict=True))
    }
    keys = zip(predictions.video.tolist(), predictions.frame.tolist(), strict=True)
    return np.array([place[key] for key in keys])


def _fuse(
    outputs: MemberOutputs,
    on_select: Sequence[Float[np.ndarray, "N 22"]],
    frames: Frames,
    fusion: Fusion,
    best: int,
) -> Fused:
    raw = np.full((len(frames.rows), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    select = frames.of("select")
    labels, mask = (a[frames.rows[select]] for a in (frames.listing.values, frames.listing.mask))
    chosen: dict[str, dict[str, int]] = {}
    for name, task in TASKS.items():
        able = [i for i, out in enumerate(on_select) if not np.isnan(out[:, task.outputs]).all()]
        if not able:
            continue
        if mask[:, task.labels].any():
            choice = np.stack([on_select[i][:, task.outputs] for i in able])
            found = greedy(task, choice, labels[:, task.labels], mask[:, task.labels], fusion.steps)
            weights = {i: int(w) for i, w in zip(able, found.weights, strict=True) if w}
        else:  # Nothing to choose by: the best trial's.
            weights = {best if best in able else able[0]: 1}
        picked = np.stack([outputs.predictions(i).outputs[:, task.outputs] for i in weights])
        raw[:, task.outputs] = fuse(picked, np.array(list(weights.values())))
        chosen[name] = {outputs.members[i].signature: w for i, w in weights.items()}
    done, postprocessing = _postprocessed(raw, frames, fusion.postprocess)
    return Fused(done, raw, chosen, postprocessing)


def _postprocessed(
    outputs: Float[np.ndarray, "N 22"], frames: Frames, steps: Sequence[str]
) -> tuple[Float[np.ndarray, "N 22"], Postprocessing]:
    """All frames with what is best on ``select``."""
    listing, rows, select = frames.listing, frames.rows, frames.of("select")
    video, frame = listing.video[rows], listing.frame[rows]
    seen = rows[select]
    found = choose(
        outputs[select],
        listing.values[seen],
        listing.mask[seen],
        video[select],
        frame[select],
        training_prior(listing),
        steps,
    )
    return found(outputs, video, frame), found


def _ceiling(
    dataset: Dataset, frames: Frames, fused: Float[np.ndarray, "N 22"]
) -> dict[str, Any] | None:
    """Scores of the exact posterior in the same tasks, which only planted data have, and what share
    of its P the fused model reaches.
    """
    file = Path(dataset.address) / "ceiling.parquet"
    if "ceiling" not in dataset.info.get("extra", {}) or not file.exists():
        return None
    known = Predictions.load(file)
    rows = listed_rows(frames.listing, known)
    outputs = np.full((len(frames.listing.frame), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    outputs[rows] = known.outputs
    here = outputs[frames.rows]
    for task in TASKS.values():
        if task.name not in predicted_tasks(fused):
            here[:, task.outputs] = np.nan
    return {
        part: {**frames.scores(here, part), "reached": _share(fused, here, frames, part)}
        for part in ("select", "confirm")
        if len(frames.of(part))
    }


def _share(
    outputs: Float[np.ndarray, "N 22"], best: Float[np.ndarray, "N 22"], frames: Frames, part: str
) -> dict[str, Any] | None:
    """One model's P over another's, with the interval over videos; None without labels."""
    whole, most = (frames.sampled(each, part).get("p_labelled") for each in (outputs, best))
    if whole is None or most is None or not most.score:
        return None
    share = whole.over(most)
    return {"share": share.score, "interval": share.interval()}


def _write(folder: Path, dataset: Dataset, frames: Frames, fused: Fused) -> None:
    (folder / "fusion").mkdir(exist_ok=True)
    listing, rows = frames.listing, frames.rows
    video, frame = listing.video[rows], listing.frame[rows]
    file = folder / "fusion" / "predictions.parquet"
    Predictions(video, frame, listing.names, fused.outputs).save(file)
    made = {"members": fused.members, "postprocessing": asdict(fused.postprocessing)}
    write_json(folder / "fusion" / "members.json", made)
    for name, parts in (
        ("fusion/validation.txt", ("select", "confirm")),
        ("submission.txt", ("test",)),
    ):
        at = frames.of(*parts)
        if len(at):
            at = at[np.argsort(rows[at])]  # the order of the challenge's list
            images = _images(dataset, listing, rows[at])
            write_submission(folder / name, images, *decide(fused.outputs[at]))


def _images(dataset: Dataset, listing: Listing, rows: Int[np.ndarray, " n"]) -> list[str]:
    pattern = dataset.info["image_name"]
    return [
        f"{listing.names[video]}/{pattern.format(frame=frame)}"
        for video, frame in zip(
            listing.video[rows].tolist(), listing.frame[rows].tolist(), strict=True
        )
    ]
