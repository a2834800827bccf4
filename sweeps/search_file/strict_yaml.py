"""Safe reading and writing of plain data as YAML 1.2.

PyYAML follows YAML 1.1, in which ``1e-5`` is text, ``no`` is false and ``010`` is eight, and it
accepts duplicate keys. In this module ``1e-5`` is a number, ``no`` is text, ``010`` is ten, and a
duplicate key is an error.
"""

import re
from typing import Any

import yaml

from mtl.errors import InputError

CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
"""Tag, regular expression and possible first characters of each kind of unquoted scalar.

From YAML 1.2.2, section 10.3.2. The merge key is from YAML 1.1; it is kept because anchors are of
little use without it.
"""


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # Children are built before their parents, so a node that contains itself is an error.
        self.deep_construct = True

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in construct_mapping, where a merge key may add a key that exists already.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error_at("a key must be plain text", key)
            if key.value in seen:
                raise _error_at(f"the key {key.value!r} is given twice: keep one", key)
            seen.add(key.value)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = self.construct_scalar(node)
        if node.tag.endswith(":int"):
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        return float(re.sub(r"\.(?=[inIN])", "", text))

    def refuse(self, node: yaml.Node) -> None:
        raise _error_at(f"the tag {node.tag!r} is not allowed: write plain values", node)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _error_at(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.yaml_constructors = {}
for _yaml_class in (_Loader, _Dumper):
    _yaml_class.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in CORE_SCHEMA:
    for _yaml_class in (_Loader, _Dumper):
        _yaml_class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(f"^(?:{_pattern})$"),
            [*_first, ""] if _tag == "null" else list(_first),
        )
for _tag in ("null", "bool", "str", "seq", "map"):
    _Loader.add_constructor(
        f"tag:yaml.org,2002:{_tag}", getattr(yaml.SafeLoader, f"construct_yaml_{_tag}")
    )
for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)
_Loader.add_constructor(None, _Loader.refuse)


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain data of one YAML document: mappings, lists, text, numbers, booleans, None.

    Args:
        text: The YAML document.
        source: Name of the document, for error messages.

    Raises:
        InputError: If the document has a syntax error, a duplicate key, a tag or an interpolation
            (``${``); the message names ``source``, line and column.
    """
    _refuse_interpolation(text, source)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{source}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: {str(error).splitlines()[0]}") from None


def _refuse_interpolation(text: str, source: str) -> None:
    before, found, _ = text.partition("${")
    if found:
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InputError(
            f"{source}, line {line}, column {column}: '${{' is refused: write the value itself"
        )


def write_yaml(data: Any) -> str:
    """Return plain data as the text of a YAML document; ``parse_yaml`` returns the same data.

    Args:
        data: Mappings and lists of text, numbers, booleans and None.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
