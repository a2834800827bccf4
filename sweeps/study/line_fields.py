"""Fields of the records of an Optuna journal, with their types.

Optuna applies records unchecked: one without a field ends in a KeyError, and a value of another
type is accepted until it is used. So each record is checked before.
"""

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import TrialState
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
    with_config,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from mtl.errors import shortened
from mtl.strict import Strict, validation_message


def _date(text: str) -> str:
    try:
        datetime.fromisoformat(text).astimezone()  # as Optuna reads it
    except (ValueError, OverflowError):
        raise PydanticCustomError("date", "it must be a date and time in ISO 8601") from None
    return text


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """Return Optuna's distribution of a JSON text; raise pydantic's error if there is none."""
    try:
        return json_to_distribution(text)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise PydanticCustomError("distribution", "it is no distribution of Optuna") from None


def _distribution_text(text: str) -> str:
    _distribution(text)
    return text


def _single(attribute: Any) -> Any:
    if isinstance(attribute, dict) and len(attribute) != 1:
        raise PydanticCustomError("attribute", "it must have one key")
    return attribute


Id = Annotated[int, Field(ge=0)]
Direction = Annotated[int, Field(ge=0, le=2)]
State = Annotated[int, Field(ge=min(TrialState), le=max(TrialState))]
Date = Annotated[str, AfterValidator(_date)]
Distribution = Annotated[str, AfterValidator(_distribution_text)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Score = Annotated[float, Field(ge=float("-inf"))]  # not NaN: Optuna lets such a trial fail
Epoch = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Signature = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # a folder's name
Attributes = dict[str, Any]


class Record(Strict):
    """Fields of every record of an Optuna journal; later versions of Optuna may write more."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)

    worker_id: str


class CreateStudy(Record):
    """Record that creates a study with one objective."""

    study_name: str
    directions: Annotated[list[Direction], Field(min_length=1, max_length=1)]


class DeleteStudy(Record):
    """Record that deletes a study."""

    study_id: Id


class SetStudyUserAttribute(DeleteStudy):
    """Record that sets a user attribute of a study."""

    user_attr: Annotated[Attributes, BeforeValidator(_single)]


class SetStudySystemAttribute(DeleteStudy):
    """Record that sets a system attribute of a study."""

    system_attr: Annotated[Attributes, BeforeValidator(_single)]


@with_config(ConfigDict(strict=True))
class TrialAttributes(TypedDict, total=False):
    """Types of the user attributes that a sweep reads; a trial may lack some and have others."""

    overrides: list[str]
    signature: Signature
    origin: Annotated[str, Field(alias="from")]
    first: Attributes
    twin_of: str
    retry_of: str
    repeat_of: str
    fold: Id
    fold_of: str
    reason: str
    collapsed_tasks: list[str]


class CreateTrial(Record):
    """Record that adds a trial to a study; parameters and results may be in it already."""

    study_id: Id
    datetime_start: Date | None
    datetime_complete: Date = ""
    state: State = TrialState.RUNNING.value
    value: Score | None = None
    values: None = None  # of several objectives
    distributions: dict[str, Distribution] = Field(default_factory=dict)
    params: dict[str, Finite] = Field(default_factory=dict)
    user_attrs: TrialAttributes = Field(default_factory=TrialAttributes)
    system_attrs: Attributes = Field(default_factory=dict)
    intermediate_values: dict[Epoch, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "CreateTrial":
        for name, value in self.params.items():
            if name not in self.distributions:
                raise ValueError(f"distributions.{name} is missing")
            _check_choice(f"params.{name}", value, self.distributions[name])
        if self.state == TrialState.COMPLETE and self.value is None:
            raise ValueError("value is missing, but the trial is COMPLETE")
        return self


class SetTrialParameter(Record):
    """Record that sets a parameter of a trial."""

    trial_id: Id
    param_name: str
    param_value_internal: Finite
    distribution: Distribution

    @model_validator(mode="after")
    def _consistent(self) -> "SetTrialParameter":
        _check_choice("param_value_internal", self.param_value_internal, self.distribution)
        return self


class SetTrialState(Record):
    """Record that starts or ends a trial."""

    trial_id: Id
    state: State
    values: Annotated[list[Score], Field(min_length=1, max_length=1)] | None
    datetime_start: Date = ""
    datetime_complete: Date = ""

    @model_validator(mode="after")
    def _consistent(self) -> "SetTrialState":
        state = TrialState(self.state)
        if state == TrialState.RUNNING and not self.datetime_start:
            raise ValueError("datetime_start is missing")
        if state.is_finished() and not self.datetime_complete:
            raise ValueError("datetime_complete is missing")
        if state == TrialState.COMPLETE and self.values is None:
            raise ValueError("values is missing, but the trial is COMPLETE")
        return self


class SetTrialIntermediateValue(Record):
    """Record of a trial's objective after an epoch."""

    trial_id: Id
    step: Id
    intermediate_value: float


class SetTrialUserAttribute(Record):
    """Record that sets a user attribute of a trial."""

    trial_id: Id
    user_attr: Annotated[TrialAttributes, BeforeValidator(_single)]


class SetTrialSystemAttribute(Record):
    """Record that sets a system attribute of a trial."""

    trial_id: Id
    system_attr: Annotated[Attributes, BeforeValidator(_single)]


KINDS: tuple[type[Record], ...] = (
    CreateStudy,
    DeleteStudy,
    SetStudyUserAttribute,
    SetStudySystemAttribute,
    CreateTrial,
    SetTrialParameter,
    SetTrialState,
    SetTrialIntermediateValue,
    SetTrialUserAttribute,
    SetTrialSystemAttribute,
)
"""Fields of each kind of record; the index is the number of the kind, ``op_code``."""
CREATE_TRIAL = KINDS.index(CreateTrial)
"""Number (``op_code``) of the records that add a trial."""


def _check_choice(name: str, value: float, distribution: str) -> None:
    """Raise ValueError if a categorical parameter's number is the index of none of its choices."""
    known = _distribution(distribution)
    if isinstance(known, CategoricalDistribution) and not 0 <= value < len(known.choices):
        raise ValueError(f"{name} = {value} is the index of none of {len(known.choices)} choices")


def find_fault(record: Mapping[str, Any], trials: int, required: Sequence[str]) -> str:
    """Return the first fault of a record of a journal as a text; empty if it has none.

    Args:
        record: The record, which has an ``op_code``.
        trials: Number of trials that the records before have added.
        required: Names of user attributes that every new trial must have.
    """
    kind = record["op_code"]
    if type(kind) is not int or not 0 <= kind < len(KINDS):
        return f"op_code = {shortened(repr(kind))} is none of 0 to {len(KINDS) - 1}"
    model = KINDS[kind]
    try:
        model.model_validate(record)
    except ValidationError as error:
        return validation_message(error, model)
    if record.get("trial_id", -1) >= trials:
        return f"trial_id = {shortened(str(record['trial_id']))} is of no trial in the lines before"
    if model is CreateTrial:
        lacks = [name for name in required if name not in record.get("user_attrs", {})]
        return f"user_attrs.{lacks[0]} is missing" if lacks else ""
    return ""
