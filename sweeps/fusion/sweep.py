"""The fusion of one sweep's trials, and what is written of it."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mtl.dataset import Dataset, Listing
from mtl.predictions.submission import write_submission
from mtl.predictions.table import Predictions, decide
from mtl.whole_files import write_json
from sweeps.fusion.alternatives import contributions, cost, other_rules, small_ensembles
from sweeps.fusion.candidates import Candidates
from sweeps.fusion.frames import PredictedFrames, listed_rows
from sweeps.fusion.fused import Fused, fuse_candidates, postprocessed
from sweeps.fusion.report import write_report
from sweeps.fusion.scores import ceiling, optimism, part_scores
from sweeps.search_file import FusionSection


class SweepFusion:
    """The fusion of a sweep's trials, as often as it is asked for, by any thread.

    Args:
        folder: ``runs/<name>``.
        dataset: What was trained on, and its ``listing``.
        parts: The part of each video.
        settings: How to fuse.
        metric: The objective that the best single trial has most of.
        known: Which trials' folders count, by their signature; all of them without it.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        listing: Listing,
        parts: Mapping[str, str],
        settings: FusionSection,
        metric: str = "score",
        known: Callable[[str], bool] | None = None,
    ) -> None:
        self.folder, self.dataset, self.settings = folder, dataset, settings
        self._listing, self._parts, self._metric = listing, parts, metric
        self._candidates = Candidates(folder, known)
        self._frames: PredictedFrames | None = None
        self._best = _best_so_far(folder)
        self._fresh = False
        self._lock = threading.Lock()

    def improve(self) -> bool:
        """Fuse what there is; if that scores higher on ``select`` than all before, write it.

        ``confirm`` is not looked at.
        """
        with self._lock:
            self._update()
            if not self._fresh:
                return False
            fused = fuse_candidates(self._candidates, self.frames, self.settings)
            score = self.frames.scores(fused.outputs, "select")["p_labelled"]
            self._fresh = False
            if score is None or score <= self._best:
                return False
            self._write(fused, self._content(fused, ("select",)))
            self._best = score
            return True

    def used(self) -> list[str]:
        """The signatures of the trials that are fused."""
        with self._lock:
            self._update()
            if not self._candidates.members:
                return []
            fused = fuse_candidates(self._candidates, self.frames, self.settings)
        return sorted({signature for members in fused.members.values() for signature in members})

    def look(self) -> dict[str, Any] | None:
        """What ``scores.json`` would hold now, without a look at ``confirm``; writes nothing."""
        with self._lock:
            self._update()
            if not self._candidates.members:
                return None
            fused = fuse_candidates(self._candidates, self.frames, self.settings)
            return self._content(fused, ("select",))

    def finish(self) -> dict[str, Any] | None:
        """Fuse what there is, score it on ``confirm`` too, and write everything.

        Returns:
            What ``scores.json`` holds; None if there is nothing to fuse.
        """
        with self._lock:
            self._update()
            return self._finish() if self._candidates.members else None

    def _finish(self) -> dict[str, Any]:
        frames, settings, candidates = self.frames, self.settings, self._candidates
        fused = fuse_candidates(candidates, frames, settings)
        parts = tuple(part for part in ("select", "confirm") if len(frames.of(part)))
        content = self._content(fused, parts)
        self._write(fused, content)  # what is to be handed in first
        content |= {
            "rules": other_rules(candidates, frames, settings, fused.raw),
            "small_ensembles": small_ensembles(self.folder, candidates, frames, fused.raw),
        }
        write_json(self.folder / "scores.json", content)
        write_report(self.folder, content, contributions(candidates, frames, fused.members, parts))
        return content

    @property
    def frames(self) -> PredictedFrames:
        """The predicted frames, the same for all trials of a sweep."""
        assert self._frames is not None, "no trial has predictions"
        return self._frames

    def _update(self) -> None:
        # Kept until it is fused: who looks first does not take it from who writes.
        self._fresh |= self._candidates.update(self._metric)
        if self._frames is None and self._candidates.members:
            first = self._candidates.load(self._candidates.members[0].signature)
            self._frames = PredictedFrames(
                self._listing, self._parts, listed_rows(self._listing, first)
            )

    def _content(self, fused: Fused, parts: tuple[str, ...]) -> dict[str, Any]:
        frames, single = self.frames, self._candidates.best_single()
        alone = self._candidates.load(single.signature).outputs
        done, _ = postprocessed(alone, frames, self.settings.postprocess)
        models = {
            "fused": fused.outputs,
            "fused_raw": fused.raw,
            "best_single": done,
            "best_single_raw": alone,
        }
        scores: dict[str, Any] = {part: part_scores(models, frames, part) for part in parts}
        exact = ceiling(self.dataset, frames, fused.outputs, parts)
        return {
            "select": scores["select"],
            "confirm": scores.get("confirm"),
            "videos": {part: frames.videos(part) for part in parts},
            "selected_on_the_scored_videos": not len(frames.of("confirm")),
            **({"search_optimism": optimism(scores)} if "confirm" in scores else {}),
            "best_single": single.signature,
            "method": self.settings.method,
            "members": fused.members,
            "cost": cost(self.folder, self._candidates, fused.members),
            "postprocessing": asdict(fused.postprocessing),
            **({"ceiling": exact} if exact else {}),
        }

    def _write(self, fused: Fused, content: Mapping[str, Any]) -> None:
        """``fusion/`` and ``submission.txt``, then the scores that speak of them."""
        (self.folder / "fusion").mkdir(exist_ok=True)
        frames = self.frames
        video, frame = frames.listing.video[frames.rows], frames.listing.frame[frames.rows]
        predictions = Predictions(video, frame, frames.listing.names, fused.outputs)
        predictions.save(self.folder / "fusion" / "predictions.parquet")
        made = {"members": fused.members, "postprocessing": asdict(fused.postprocessing)}
        write_json(self.folder / "fusion" / "members.json", made)
        self._submit(fused, "fusion/validation.txt", "select", "confirm")
        self._submit(fused, "submission.txt", "test")
        write_json(self.folder / "scores.json", content)

    def _submit(self, fused: Fused, name: str, *parts: str) -> None:
        """The decided labels of some parts, in the order of the challenge's list."""
        at = self.frames.of(*parts)
        if not len(at):
            return
        at = at[np.argsort(self.frames.rows[at])]
        images = image_names(self.dataset, self.frames.listing, self.frames.rows[at])
        write_submission(self.folder / name, images, *decide(fused.outputs[at]))


def image_names(dataset: Dataset, listing: Listing, rows: Int[np.ndarray, " n"]) -> list[str]:
    """How the challenge names listed frames."""
    pattern = dataset.info["image_name"]
    videos, frames = listing.video[rows].tolist(), listing.frame[rows].tolist()
    return [
        f"{listing.names[video]}/{pattern.format(frame=frame)}"
        for video, frame in zip(videos, frames, strict=True)
    ]


def _best_so_far(folder: Path) -> float:
    """What the fused model that is written scores on ``select``."""
    try:
        score = json.loads((folder / "scores.json").read_text())["select"]["fused"]["p_labelled"]
    except (OSError, ValueError, KeyError, TypeError):
        return -np.inf
    return -np.inf if score is None else float(score)
