"""Reading of ``environment.json``, in which each start of a sweep is recorded."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from mtl.errors import InputError
from mtl.strict import Strict, validation_message
from sweeps.search_file.ranges import DottedPath

ENVIRONMENT = "environment.json"
"""File with commit, packages, machine and command of the sweep, and the hash of its dataset."""
Point = Annotated[dict[DottedPath, Any], Field(min_length=1)]


class RecordedStart(Strict):
    """Content of ``environment.json`` in the run folder of a sweep.

    Other keys, such as the commit and the packages, are facts for the user; they are kept as they
    are.

    Attributes:
        dataset: Content hash of the dataset on which the sweep is trained.
        first: Absolute path of an earlier sweep's folder -> points of this sweep's space that were
            taken from it and are trained first.
        resumed: Facts of each later start.
    """

    model_config = ConfigDict(extra="allow")

    dataset: Annotated[str, Field(min_length=1)]
    first: dict[str, list[Point]] = Field(default_factory=dict)
    resumed: list[dict[str, Any]] = Field(default_factory=list)


def read_start(folder: Path) -> RecordedStart:
    """Return the content of ``environment.json`` in a run folder.

    Args:
        folder: The run folder.

    Raises:
        InputError: If the file is missing or damaged.
    """
    file = folder / ENVIRONMENT
    try:
        content = json.loads(file.read_bytes())
        if isinstance(content, dict):
            return RecordedStart.model_validate(content)
        fault = f"it holds a {type(content).__name__} and no mapping"
    except ValidationError as error:
        fault = validation_message(error, RecordedStart)
    except (ValueError, RecursionError):
        fault = "it is no JSON"
    except OSError as error:
        fault = error.strerror or "it cannot be read"
    raise InputError(
        f"{file} is missing or damaged, so the dataset of {folder} is unknown ({fault}): restore "
        "the file from a copy"
    )
