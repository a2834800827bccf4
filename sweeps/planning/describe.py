"""Texts for the user: the plan of a sweep, and the config file of one trial."""

import shlex
from collections import Counter

import yaml

from mtl.config import TrialConfig
from mtl.tasks import TASKS
from sweeps.planning.plan import SAMPLED_CONFIGS, Plan
from sweeps.planning.time_estimate import work_of
from sweeps.study import Proposal


def describe(plan: Plan, concurrent: int | None) -> str:
    """Return the description of a sweep that is printed before anything starts.

    Args:
        plan: The search file, checked against the dataset.
        concurrent: Number of trials that run at the same time; None while there is no cluster.
    """
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
        f"  tasks     {', '.join(plan.tasks)}" + _unlabelled(plan),
        f"  pruning   {_pruning(plan)}",
        *_refit(plan),
        f"  models    {low:,} to {high:,} parameters ({SAMPLED_CONFIGS} sampled configs built)",
        *_first(plan),
        *(f"  missing   {sentence}" for sentence in plan.missing_features),
        "  varied    " + "\n            ".join(plan.space.describe()),
    ]
    lines += _warm_up(plan)
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


def _first(plan: Plan) -> list[str]:
    """Return lines on the points of ``search.first``, which are trained first; [] without any."""
    if not plan.file.search.first:
        return []
    points = sum(map(len, plan.first.parameters))
    lines = [f"  first     {points} trials start from the points of search.first"]
    lines += [
        f"  note      search.first: {number} left out, {'they have' if number > 1 else 'it has'} "
        + f"{reason}: leave that key out of the point, or do not fix it"
        for reason, number in Counter(plan.first.left_out).items()
    ]
    shares = plan.file.search.trials // len(plan.first.parameters)
    if max(map(len, plan.first.parameters)) > shares:
        lines.append(
            f"  note      search.trials = {plan.file.search.trials} is too few for all of these "
            "points: raise it to train them all"
        )
    return lines


def _warm_up(plan: Plan) -> list[str]:
    """Return a line if the warm-up of sampled configs is longer than their training; else []."""
    longer = []
    for config, _ in plan.sampled:
        steps = work_of(plan, config).training_steps
        warm_up = config.optim.warmup_in_epochs(steps)
        if warm_up >= config.training.epochs:
            longer.append((round(warm_up * steps), steps * config.training.epochs))
    if not longer:
        return []
    warm_up, trained = max(longer)
    key = "epochs" if plan.sampled[0].config.optim.warmup_steps is None else "steps"
    return [
        f"  note      {len(longer)} of {len(plan.sampled)} sampled configs never reach optim.lr: "
        f"their warm-up has {warm_up} steps, their training {trained}: lower optim.warmup_{key}"
    ]


def _unlabelled(plan: Plan) -> str:
    absent = [task for task in TASKS if task not in plan.labelled_tasks]
    return f" (no training label of {', '.join(absent)})" if absent else ""


def _pruning(plan: Plan) -> str:
    rungs = sorted(plan.rungs(plan.epochs))
    if not rungs:
        return "only of trials whose tasks all collapse"
    keep = plan.file.pruner.reduction_factor
    return f"at epochs {', '.join(map(str, rungs))} the best 1/{keep} go on"


def trial_yaml(plan: Plan, proposal: Proposal, config: TrialConfig) -> str:
    """Return the text of a trial's ``config.yaml``: the command to train it alone, and its config.

    Args:
        plan: The search file, checked against the dataset.
        proposal: The trial, with its overrides and its held-out fold, if any.
        config: The trial's config.
    """
    search, cpus = plan.file.search, plan.file.resources.cpus_per_worker
    data = ["--data", plan.dataset.address, "--confirm", search.confirm, "--seed", search.seed]
    fold = [] if proposal.fold is None else ["--fold", f"{proposal.fold}of{len(plan.folds)}"]
    words = shlex.join(map(str, [*data, "--cpus", cpus, *fold, *proposal.overrides]))
    head = f"# {proposal.study} {proposal.number}, alone: python sweeps/train.py {words}\n"
    return head + yaml.safe_dump(config.plain(), sort_keys=False)
