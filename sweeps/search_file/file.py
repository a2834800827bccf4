"""The search file: what a sweep varies, on which data, with what budget.

``load`` reads it strictly: unknown keys, wrong values and everything that is not built yet are
refused in one sentence. What a path of ``space`` means is the trial config's matter:
``sweeps.planning.space.Space.check``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from mtl.errors import InputError
from mtl.strict import Strict, did_you_mean
from sweeps.search_file.earlier_versions import in_present_form
from sweeps.search_file.overrides import apply_overrides
from sweeps.search_file.ranges import KINDS, DottedPath, Node, Range, paths
from sweeps.search_file.refusal import sentence
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
    """One search file with every default filled in.

    Attributes:
        name: The sweep's folder under ``runs/``.
        data: Dataset directory or address; ``demo`` is the planted one.
        fixed: Trial config paths with the value that all trials share.
        space: Trial config paths with what they may be.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    # null in the file means: named on the command line. A loaded file always has it.
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

    @property
    def source(self) -> str:
        """Where it was read, for messages."""
        return self._source

    @model_validator(mode="after")
    def _consistent(self) -> "SearchFile":
        if not self.space:
            raise ValueError("space: nothing varies: one config is sweeps/train.py's work")
        for path in sorted(paths(self.space) & self.fixed.keys()):
            raise ValueError(f"{path!r} stands in fixed and in space: keep one")
        self._check_compared()
        return self

    def _check_compared(self) -> None:
        can = [path for path, node in self.space.items() if not isinstance(node, Range)]
        for path in self.compare.by:
            if isinstance(self.space.get(path), Range):
                raise ValueError(
                    f"compare.by: {path!r} is a range: write {{values: [...]}} instead"
                )
            if path not in can:
                hint = " but fixed" if path in self.fixed else did_you_mean(path, can)
                raise ValueError(f"compare.by: {path!r} is not at the top of space{hint}")
        if "tasks" in _varied(self.space) - set(self.compare.by):
            raise ValueError(
                "space.tasks: scores of different task sets are not comparable: "
                "name tasks in compare.by, or put one task set under fixed"
            )

    def to_yaml(self) -> str:
        """The file in full, as ``runs/<name>/space.yaml`` keeps it; ``load`` reads it back."""
        return write_yaml(self.model_dump(mode="json"))

    def identity(self) -> dict[str, Any]:
        """What must agree for a run folder to be taken up again, as plain data.

        The data's spelling is no part of it (its content hash is compared elsewhere), nor are the
        number of trials and seeds, the budget, the resources and the refit: a resumed sweep may
        have more of them.
        """
        outside = dict.fromkeys(("name", "data", "budget", "resources", "refit"), True)
        more = {"search": {"trials"}, "compare": {"seeds"}}
        return self.model_dump(mode="json", exclude={**outside, **more})


def _varied(space: Mapping[str, Any]) -> set[str]:
    """The paths that take more than one value."""
    one = {path for path, node in space.items() if len(node.listed()) == 1}
    return paths(space) - one


def load(path: str | Path, overrides: Sequence[str] = ()) -> SearchFile:
    """Read a search file and the command line's overrides of it.

    Args:
        path: The YAML file.
        overrides: ``search.trials=4``: a path whose first word is a key of the file addresses the
            file. ``encoder.layers=2``: any other path is the trial config's: it goes to ``fixed``
            and leaves the space; what a fixed choice has under the option taken stays varied.

    Raises:
        InputError: One sentence with the file, the dotted path, the rule and the value found.
    """
    source = str(path)
    raw = parse_yaml(_text(path), source)
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise InputError(f"{source} {found}: a search file is a mapping with name, data and space")
    raw = apply_overrides(in_present_form(raw, source), overrides, tuple(SearchFile.model_fields))
    if raw.get("data") is None:
        raise InputError(
            f"{source}: data is missing: name the dataset, on the command line data=DIR"
        )
    return _validated(raw, source)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such search file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read as a search file: {reason}") from None


def _validated(raw: dict[str, Any], source: str) -> SearchFile:
    try:
        # JSON mode lets a list be a tuple and stays strict in everything else.
        file = SearchFile.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise InputError(f"{source}: {sentence(error, _keys())}") from None
    file._source = source
    return file


def _keys() -> dict[str, list[str]]:
    """The known keys under each section and each kind of parameter; under '' the file's own."""
    models: dict[str, type[BaseModel]] = {f"<{kind.__name__}>": kind for kind in KINDS.values()}
    for name, field in SearchFile.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            models[name] = field.annotation
    models[""] = SearchFile
    return {name: list(model.model_fields) for name, model in models.items()}


def json_schema() -> str:
    """The JSON Schema of a search file, for editors: ``sweeps/configs/search.schema.json``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**schema, **SearchFile.model_json_schema()}, indent=2) + "\n"
