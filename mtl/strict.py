"""Strictly checked settings: an unknown key, wrong type or value out of range is an error."""

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from mtl.errors import InputError, shortened

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """Base of frozen settings that refuse unknown keys, implicit conversions, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Strict)


class Component(Strict):
    """Settings that choose a class of a registry by name and give its constructor's parameters.

    Subclasses, one for each registered class, have a field for each parameter.

    Attributes:
        name: Name of the class in the registry, such as ``gru``.
    """

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments for the constructor of the chosen class, by parameter name."""
        return {key: value for key, value in self if key != "name"}


def component_of(group: str, registry: Mapping[str, type]) -> BeforeValidator:
    """Return a pydantic validator of settings that choose a class of a registry.

    The validator accepts a mapping with the key ``name`` and the keyword-only constructor
    parameters of the named class, or the name alone if all these parameters have defaults. It
    returns a checked ``Component`` (name and parameters).

    Args:
        group: Config key of the settings, for error messages, such as ``encoder``.
        registry: Classes by name.
    """
    models = {name: _model_of(cls) for name, cls in registry.items()}

    def validate(value: Any) -> Component:
        if isinstance(value, Component):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise InputError(f"{group} must be a mapping with a name, but got {value!r}")
        name = value["name"]
        if name not in models:
            raise InputError(f"{group} = {name!r} is unknown{did_you_mean(name, models)}")
        return validate_as(models[name], value, group)

    return BeforeValidator(validate)


def _model_of(cls: type) -> type[Component]:
    hints = get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    return create_model(cls.__name__, __base__=Component, **fields)


def validate_as(model: type[Model], value: Mapping[str, Any], where: str = "") -> Model:
    """Convert plain settings to an instance of a settings class, after checking keys and values.

    Args:
        model: The settings class, a pydantic model.
        value: Settings as nested mappings, lists, numbers and strings.
        where: Config key of the section that ``value`` is; empty for the whole config.

    Raises:
        InputError: If a key is unknown or missing or a value is refused; the message names the
            first such key with dots, such as ``encoder.layers``, with the rule and the value found.
    """
    try:
        # In strict mode pydantic accepts a list for a tuple only if the input is JSON.
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise InputError(validation_message(error, model, where)) from None


def validation_message(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """Return the first error in some settings as a text: the key, the rule and the value found.

    Args:
        error: Validation error of pydantic, which may list several errors.
        model: Class of the settings.
        where: Config key of the section that the settings are; empty for the whole config.
    """
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    path = ".".join([*([where] if where else []), *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        above = path.removesuffix(str(first["loc"][-1]))
        known = [above + key for key in _keys_at(model, first["loc"][:-1])]
        return f"{path} is no known key{did_you_mean(path, known)}"
    if first["type"] == "missing":
        return f"{path} is missing"
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{path} = {shortened(repr(first['input']))} is refused: {rule}"


def _keys_at(model: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return []
        model = field.annotation
    return list(model.model_fields)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the known names that may be meant.

    Args:
        name: The unknown name.
        known: The known names.

    Returns:
        A text such as ``: did you mean 'gru'?`` if a known name is similar, else a text such as
        ``; known are gru, lstm``, and an empty string if there are no known names.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""
