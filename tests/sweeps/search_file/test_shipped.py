"""The JSON Schema and the search files of the package."""

import json

import jsonschema
import pytest
import yaml

from sweeps.search_file import SearchFile, json_schema, load
from sweeps.search_file.strict_yaml import parse_yaml
from tests.support.search_files import SCHEMA, SHIPPED, SMALL, space


def test_the_schema_is_up_to_date():
    command = "SCHEMA.write_text(json_schema())"
    assert json.loads(SCHEMA.read_text()) == json.loads(json_schema()), f"regenerate it: {command}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_fit_the_schema(path):
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))
    jsonschema.validate(parse_yaml(path.read_text(), path.name), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        SMALL + "serch: {}",
        SMALL + "search: {trials: 0}",
        space("3"),
        space("{min: 1}"),
        space("{values: []}"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parse_yaml(text, "x"), json.loads(json_schema()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_start_with_their_description(path):
    header = path.read_text().split("\nname:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    result = "# found: " if "\ncompare:" in path.read_text() else "# score to expect: "
    for word in ("# command: ", "# time: ", result, "$schema="):
        assert word in header
    schema = header.split("$schema=")[1].split("\n")[0]
    assert (path.parent / schema).resolve() == SCHEMA


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_the_same_in_yaml_1_1(path):
    loaded = yaml.safe_load(path.read_text())
    loaded["data"] = loaded["data"] or "DIR"
    assert isinstance(load(path, [f"data={loaded['data']}"]), SearchFile)
    assert loaded["search"] == parse_yaml(path.read_text(), "x")["search"]
