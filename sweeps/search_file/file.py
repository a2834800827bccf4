"""The search file: the parameters that a sweep varies, its data and its budget.

``load`` reads a search file strictly: unknown keys and wrong values are errors of one sentence.
``sweeps.planning.space.Space.check`` checks the config keys (such as ``encoder.layers``) in
``space`` and ``fixed``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from mtl.errors import InputError
from mtl.strict import Strict, did_you_mean
from sweeps.search_file.earlier_versions import with_present_keys
from sweeps.search_file.overrides import apply_overrides
from sweeps.search_file.ranges import KINDS, DottedPath, Node, Range, all_paths
from sweeps.search_file.refusal import describe_error
from sweeps.search_file.sections import (
    BudgetSection,
    CompareSection,
    FusionSection,
    PrunerSection,
    RefitSection,
    ResourcesSection,
    SearchSection,
)
from sweeps.search_file.strict_yaml import parse_yaml, write_yaml


class SearchFile(Strict):
    """Settings of a sweep, read from a search file; keys that the file lacks have defaults.

    Attributes:
        name: Name of the sweep; its results are written to ``runs/<name>``.
        data: Dataset directory, its ``s3://`` address, or ``demo`` for the synthetic demo dataset.
        search: Number of trials, sampler and objective.
        pruner: Early stopping of trials.
        budget: Limits at which the sweep stops.
        resources: Workers, CPUs and GPUs of a trial.
        compare: Config keys for which the sweep compares values.
        fixed: Values of config keys (such as ``training.epochs``) that all trials share.
        space: Range of values of each config key (such as ``encoder.layers``) that varies.
        fusion: Fusion of the best trials.
        refit: Training of the fused trials again, each time with one fold of the videos held out.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    # null in the file means that the command line gives it (data=DIR); a loaded file always has it.
    data: Annotated[str, Field(min_length=1, json_schema_extra={"type": ["string", "null"]})]
    search: SearchSection = SearchSection()
    pruner: PrunerSection = PrunerSection()
    budget: BudgetSection = BudgetSection()
    resources: ResourcesSection = ResourcesSection()
    compare: CompareSection = CompareSection()
    fixed: dict[DottedPath, Any] = Field(default_factory=dict)
    space: dict[DottedPath, Node]
    fusion: FusionSection = FusionSection()
    refit: RefitSection = RefitSection()

    _source: str = PrivateAttr("search file")
    _taken_from: tuple[str, ...] = PrivateAttr(())

    @property
    def source(self) -> str:
        """Path of the search file, for error messages."""
        return self._source

    @model_validator(mode="after")
    def _consistent(self) -> "SearchFile":
        if not self.space:
            raise ValueError(
                "space: it must not be empty: train a single config with sweeps/train.py"
            )
        for path in sorted(all_paths(self.space) & self.fixed.keys()):
            raise ValueError(f"{path!r} is both in fixed and in space: keep one")
        self._check_compared()
        return self

    def _check_compared(self) -> None:
        comparable = [path for path, node in self.space.items() if not isinstance(node, Range)]
        for path in self.compare.by:
            if isinstance(self.space.get(path), Range):
                raise ValueError(
                    f"compare.by: {path!r} is a range: write {{values: [...]}} instead"
                )
            if path not in comparable:
                hint = " but fixed" if path in self.fixed else did_you_mean(path, comparable)
                raise ValueError(f"compare.by: {path!r} is not at the top of space{hint}")
        if "tasks" in _varied(self.space) - set(self.compare.by):
            raise ValueError(
                "space.tasks: scores of different task sets are not comparable: "
                "name tasks in compare.by, or put one task set under fixed"
            )

    def to_yaml(self) -> str:
        """Return the settings with all defaults as YAML text, which ``load`` can read."""
        return write_yaml(self.model_dump(mode="json"))

    def with_first(self, taken: Mapping[str, Sequence[Mapping[str, Any]]]) -> "SearchFile":
        """Return the settings with more points to train first, after those of the file.

        Args:
            taken: Folder of an earlier sweep -> points of this search space that were taken from
                it; those that the file has too are left out.
        """
        own = self.search.first
        more = [(run, p) for run, points in taken.items() for p in points if p not in own]
        search = self.search.model_copy(update={"first": (*own, *(point for _, point in more))})
        file = self.model_copy(update={"search": search})
        file._taken_from = tuple(run for run, _ in more)
        return file

    def first_run(self, index: int) -> str | None:
        """Return the folder of the sweep that a first point was taken from; None if it is the own.

        Args:
            index: Index of the point in ``search.first``.
        """
        own = len(self.search.first) - len(self._taken_from)
        return None if index < own else self._taken_from[index - own]

    def identity(self) -> dict[str, Any]:
        """Return the settings that must not change when a sweep is resumed.

        All settings are returned except the number of trials, the points that are trained first,
        the number of seeds, the budget, the resources, and the refit (training of the fused trials
        on folds). The dataset's address may change too, since the hash of the dataset's content is
        compared instead.

        Returns:
            The settings by section and key, as in the search file.
        """
        sections = dict.fromkeys(("name", "data", "budget", "resources", "refit"), True)
        keys = {"search": {"trials", "first"}, "compare": {"seeds"}}
        return self.model_dump(mode="json", exclude={**sections, **keys})


def _varied(space: Mapping[str, Any]) -> set[str]:
    """Return the config keys (such as ``encoder.layers``) that have several values in the space."""
    constant = {path for path, node in space.items() if len(node.representative_values()) == 1}
    return all_paths(space) - constant


def load(path: str | Path, overrides: Sequence[str] = ()) -> SearchFile:
    """Read a search file and apply overrides to it.

    Args:
        path: Path of the YAML file.
        overrides: Texts ``key=value``. A key that starts with a section of the file, such as
            ``search.trials=4``, changes that setting. Any other key, such as ``encoder=gru``, is a
            key of the trial config: the value is put under ``fixed`` and the key is removed from
            ``space``. If the key has options with parameters of their own, the parameters of the
            given option stay in ``space``.

    Raises:
        InputError: If the file cannot be read or breaks a rule. The message is one sentence with
            the file, the key, the rule and the value.
    """
    source = str(path)
    raw = parse_yaml(_read_text(path), source)
    if not isinstance(raw, dict):
        content = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise InputError(
            f"{source} {content}: a search file is a mapping with name, data and space"
        )
    keys = tuple(SearchFile.model_fields)
    raw = apply_overrides(with_present_keys(raw, source), overrides, keys)
    raw = with_present_keys(raw, source)  # An override may hold a whole section, as fusion={...}.
    if raw.get("data") is None:
        raise InputError(
            f"{source}: data is missing: name the dataset, on the command line data=DIR"
        )
    return _validated(raw, source)


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such search file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read as a search file: {reason}") from None


def _validated(raw: dict[str, Any], source: str) -> SearchFile:
    try:
        # In JSON mode pydantic accepts a list for a tuple field, and is strict in all else.
        file = SearchFile.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise InputError(f"{source}: {describe_error(error, _keys())}") from None
    file._source = source
    return file


def _keys() -> dict[str, list[str]]:
    """Return the allowed keys of each part of a search file, for messages about unknown keys.

    Returns:
        Keys of each section by the section's name, keys of each kind of range by its class name in
        angle brackets (such as ``<Range>``), and the top-level keys by the empty text.
    """
    models: dict[str, type[BaseModel]] = {f"<{kind.__name__}>": kind for kind in KINDS.values()}
    for name, field in SearchFile.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            models[name] = field.annotation
    models[""] = SearchFile
    return {name: list(model.model_fields) for name, model in models.items()}


def json_schema() -> str:
    """Return the JSON Schema of search files as text, for ``sweeps/configs/search.schema.json``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**schema, **SearchFile.model_json_schema()}, indent=2) + "\n"
