"""Fusion of a sweep's trials: fused model, submission, scores and report in the run folder."""

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
from sweeps.fusion.alternatives import contributions, cost, rule_scores, small_ensembles
from sweeps.fusion.candidates import Candidates
from sweeps.fusion.frames import PredictedFrames, listed_rows
from sweeps.fusion.fused import FusedModel, fuse_candidates, postprocessed
from sweeps.fusion.report import write_report
from sweeps.fusion.scores import ceiling, optimism, part_scores
from sweeps.search_file import FusionSection
from sweeps.storage.run_folder import FUSED_PREDICTIONS, FUSION, MEMBERS, SUBMISSION, VALIDATION
from sweeps.storage.trial_folder import SCORES


class SweepFusion:
    """Fuses the trials of a sweep; public methods may be called at any time from any thread.

    Args:
        folder: The sweep's run folder.
        dataset: The sweep's dataset.
        listing: All frames named in the annotation files.
        parts: Split of each video by the video's name: train, select, confirm or test.
        settings: Section ``fusion`` of the search file.
        metric: Name of the objective by which the best single trial is chosen.
        include: Function that returns True for the signature of a trial that may be fused; None
            includes all trials.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        listing: Listing,
        parts: Mapping[str, str],
        settings: FusionSection,
        metric: str = "score",
        include: Callable[[str], bool] | None = None,
    ) -> None:
        self.folder, self.dataset, self.settings = folder, dataset, settings
        self._listing, self._parts, self._metric = listing, parts, metric
        self._candidates = Candidates(folder, include)
        self._frames: PredictedFrames | None = None
        self._best_score = _written_score(folder)
        self._has_new_candidates = False
        self._lock = threading.Lock()

    def improve(self) -> bool:
        """Fuse the trials that have ended, and write the fused model if it is the best so far.

        Fused models are compared by the combined score P (sum of the tasks' scores) on ``select``
        (validation videos on which choices are made). A worse one is written if a member of the one
        in the run folder has lost its weights, so that it could not be exported.

        Returns:
            True if a fused model was written.
        """
        with self._lock:
            self._update()
            if not self._has_new_candidates:
                return False
            fused = fuse_candidates(self._candidates, self.frames, self.settings)
            score = self.frames.scores(fused.outputs, "select")["p_labelled"]
            self._has_new_candidates = False
            if score is None or (score <= self._best_score and self._has_its_members()):
                return False
            self._write(fused, self._content(fused, ("select",)))
            self._best_score = score
            return True

    def member_signatures(self) -> list[str]:
        """Choose the trials to fuse among the ended ones; return the chosen trials' signatures."""
        with self._lock:
            self._update()
            if not self._candidates.trials:
                return []
            fused = fuse_candidates(self._candidates, self.frames, self.settings)
        return sorted({signature for weights in fused.members.values() for signature in weights})

    def preview(self) -> dict[str, Any] | None:
        """Fuse the trials that have ended, without writing a file.

        Returns:
            The content that ``scores.json`` would have, with scores on ``select`` (validation
            videos on which choices are made) only; None if no trial can be fused.
        """
        with self._lock:
            self._update()
            if not self._candidates.trials:
                return None
            fused = fuse_candidates(self._candidates, self.frames, self.settings)
            return self._content(fused, ("select",))

    def finish(self) -> dict[str, Any] | None:
        """Fuse all trials at the end of the sweep, and write fused model, scores and report.

        Scores are computed on ``select`` (validation videos on which choices are made) and on
        ``confirm`` (validation videos held back for the final scores).

        Returns:
            The content of ``scores.json``; None if no trial can be fused.
        """
        with self._lock:
            self._update()
            return self._finish() if self._candidates.trials else None

    def _finish(self) -> dict[str, Any]:
        frames, settings, candidates = self.frames, self.settings, self._candidates
        fused = fuse_candidates(candidates, frames, settings)
        parts = tuple(part for part in ("select", "confirm") if len(frames.positions(part)))
        content = self._content(fused, parts)
        # The submission is written before the alternatives, which take long, are scored.
        self._write(fused, content)
        content |= {
            "rules": rule_scores(candidates, frames, settings, fused.raw),
            "small_ensembles": small_ensembles(self.folder, candidates, frames, fused.raw),
        }
        write_json(self.folder / SCORES, content)
        write_report(self.folder, content, contributions(candidates, frames, fused.members, parts))
        return content

    @property
    def frames(self) -> PredictedFrames:
        """Frames that the trials predict; they are the same for all trials of a sweep."""
        assert self._frames is not None, "no trial has predictions"
        return self._frames

    def _update(self) -> None:
        # Reset by improve() only, so that updates by other methods do not hide new candidates.
        self._has_new_candidates |= self._candidates.update(self._metric)
        if self._frames is None and self._candidates.trials:
            first = self._candidates.load(self._candidates.trials[0].signature)
            self._frames = PredictedFrames(
                self._listing, self._parts, listed_rows(self._listing, first)
            )

    def _content(self, fused: FusedModel, parts: tuple[str, ...]) -> dict[str, Any]:
        """Return the content of ``scores.json``, without the scores of alternative ensembles.

        Args:
            fused: The fused model.
            parts: Names of the splits to score: ``select`` (validation videos on which choices are
                made), and ``confirm`` (validation videos held back) unless it is empty.
        """
        frames, single = self.frames, self._candidates.best_single()
        single_raw = self._candidates.load(single.signature).outputs
        single_outputs, _ = postprocessed(single_raw, frames, self.settings.postprocess)
        models = {
            "fused": fused.outputs,
            "fused_raw": fused.raw,
            "best_single": single_outputs,
            "best_single_raw": single_raw,
        }
        scores: dict[str, Any] = {part: part_scores(models, frames, part) for part in parts}
        exact = ceiling(self.dataset, frames, fused.outputs, parts)
        return {
            "select": scores["select"],
            "confirm": scores.get("confirm"),
            "videos": {part: frames.video_count(part) for part in parts},
            "selected_on_the_scored_videos": not len(frames.positions("confirm")),
            **({"search_optimism": optimism(scores)} if "confirm" in scores else {}),
            "best_single": single.signature,
            "method": self.settings.method,
            "members": fused.members,
            "cost": cost(self.folder, self._candidates, fused.members),
            "postprocessing": asdict(fused.postprocessing),
            **({"ceiling": exact} if exact else {}),
        }

    def _write(self, fused: FusedModel, content: Mapping[str, Any]) -> None:
        """Write the files of a fused model: predictions, members, submission, and last the scores.

        Args:
            fused: The fused model.
            content: Content of ``scores.json``.
        """
        (self.folder / FUSION).mkdir(exist_ok=True)
        frames = self.frames
        video, frame = frames.listing.video[frames.rows], frames.listing.frame[frames.rows]
        predictions = Predictions(video, frame, frames.listing.names, fused.outputs)
        predictions.save(self.folder / FUSED_PREDICTIONS)
        members = {"members": fused.members, "postprocessing": asdict(fused.postprocessing)}
        write_json(self.folder / MEMBERS, members)
        self._write_submission(fused, VALIDATION, "select", "confirm")
        self._write_submission(fused, SUBMISSION, "test")
        write_json(self.folder / SCORES, content)

    def _has_its_members(self) -> bool:
        """Return True if all members of the fused model in the run folder are candidates still."""
        try:
            members = json.loads((self.folder / MEMBERS).read_text())["members"]
            return set().union(*members.values()) <= self._candidates.signatures
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _write_submission(self, fused: FusedModel, name: str, *parts: str) -> None:
        """Write a file of predicted labels in the challenge's format, in the listing's order.

        Args:
            fused: The fused model.
            name: Path of the file, relative to the run folder.
            *parts: Names of the splits whose frames are written, such as ``test``.
        """
        at = self.frames.positions(*parts)
        if not len(at):
            return
        at = at[np.argsort(self.frames.rows[at])]
        images = image_names(self.dataset, self.frames.listing, self.frames.rows[at])
        write_submission(self.folder / name, images, *decide(fused.outputs[at]))


def image_names(dataset: Dataset, listing: Listing, rows: Int[np.ndarray, " n"]) -> list[str]:
    """Return the image names of frames in the challenge's format, such as ``video/00001.jpg``.

    Args:
        dataset: The dataset, which holds the format of the names.
        listing: All frames named in the annotation files.
        rows: Rows in the listing of the frames to name.
    """
    pattern = dataset.info["image_name"]
    videos, frames = listing.video[rows].tolist(), listing.frame[rows].tolist()
    return [
        f"{listing.names[video]}/{pattern.format(frame=frame)}"
        for video, frame in zip(videos, frames, strict=True)
    ]


def _written_score(folder: Path) -> float:
    """Return the combined score P of the fused model in a run folder; -inf if there is none.

    P is the sum of the tasks' scores on ``select`` (validation videos on which choices are made).
    """
    try:
        score = json.loads((folder / SCORES).read_text())["select"]["fused"]["p_labelled"]
    except (OSError, ValueError, KeyError, TypeError):
        return -np.inf
    return -np.inf if score is None else float(score)
