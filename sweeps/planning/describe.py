"""A sweep's plan in words, as it is printed before anything starts."""

from collections import Counter

from mtl.dataset import Listing
from mtl.sequences.join import trained_tasks
from mtl.tasks import TASKS
from sweeps.planning.plan import SAMPLED_CONFIGS, Plan


def describe(plan: Plan, concurrent: int | None) -> str:
    """The plan as text; ``concurrent`` is known once there is a cluster."""
    file = plan.file
    studies = len(plan.space.comparisons())
    videos = Counter(plan.parts.values())
    low, high = plan.parameters
    at_once = "" if concurrent is None else f"{concurrent} at once, "
    workers = file.resources.workers_per_trial
    if workers > 1:
        at_once += f"{workers} workers each, "
    lines = [
        f"sweep {file.name}: {file.search.trials} trials of up to {plan.epochs} epochs in "
        f"{studies} {'study' if studies == 1 else 'studies'}, {at_once}"
        f"{file.search.sampler} sampler, seed {file.search.seed}",
        f"  data      {plan.dataset.address}: {len(plan.listing.frame)} listed frames; videos: "
        + ", ".join(f"{videos[p]} {p}" for p in ("train", "select", "confirm", "test")),
        f"  features  {', '.join(f'{n} ({plan.dataset.width(n)})' for n in plan.feature_sets)}",
        f"  tasks     {', '.join(plan.tasks)}" + _unlabelled(plan.listing),
        f"  pruning   {_pruning(plan)}",
        *_refit(plan),
        f"  models    {low:,} to {high:,} parameters ({SAMPLED_CONFIGS} sampled configs built)",
        *(f"  lost      {sentence}" for sentence in plan.lost),
        "  varied    " + "\n            ".join(plan.space.describe()),
    ]
    if not file.search.confirm:
        lines.append(
            "  note      search.confirm is 0: every score is selected on the scored videos"
        )
    return "\n".join(lines)


def _refit(plan: Plan) -> list[str]:
    if not plan.folds:
        return []
    held = [sum(part == "confirm" for part in parts.values()) for parts in plan.folds]
    return [
        f"  refit     the fused trials anew on {len(held)} folds of "
        f"{min(held)} to {max(held)} videos"
    ]


def _unlabelled(listing: Listing) -> str:
    absent = [task for task in TASKS if task not in trained_tasks(TASKS, listing)]
    return f" (no training label of {', '.join(absent)})" if absent else ""


def _pruning(plan: Plan) -> str:
    at = sorted(plan.rungs(plan.epochs))
    if not at:
        return "none"
    keep = plan.file.pruner.reduction_factor
    return f"at epochs {', '.join(map(str, at))} the best 1/{keep} go on"
