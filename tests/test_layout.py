"""Layout of the code: imports between rooms, sizes of folders, names, openings of docstrings."""

import ast
import graphlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MOST_MODULES = 12
"""Largest number of modules directly in one folder, without ``__init__``."""
SHARED_MODULES = 1
"""Largest number of modules at the top of ``sweeps/`` that are not programs."""
FRAGMENT_SHARE = 0.01
"""Largest share of all docstrings that may open with a word of ``FRAGMENT_OPENINGS``."""
FRAGMENT_OPENINGS = frozenset(
    re.findall(
        r"\w+",
        "what how whether its that of those who where when as it this so their see which why they "
        "these",
    )
)
SOURCES = ("mtl", "sweeps")


def modules() -> dict[str, Path]:
    """Return the files of all modules of the project by their dotted names."""
    found = {}
    for package in SOURCES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def rooms() -> list[str]:
    """Return the rooms in their order, as docs/code.md lists them."""
    text = (ROOT / "docs" / "code.md").read_text()
    order = text.partition("<!-- rooms: begin -->")[2].partition("<!-- rooms: end -->")[0]
    return re.findall(r"`((?:mtl|sweeps)(?:/\w+)?(?:\.py)?)`", order)


def room_of(module: str) -> str:
    """Return the room of a module: its folder, or the file itself at the top of a package."""
    package, *rest = module.split(".")
    if not rest:
        return package
    path = ROOT / package / rest[0]
    return f"{package}/{rest[0]}" if path.is_dir() else f"{package}/{rest[0]}.py"


def imports() -> dict[str, set[str]]:
    """Return the modules of the project that each module imports, anywhere in its code."""
    edges: defaultdict[str, set[str]] = defaultdict(set)
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            edges[name] |= {target for target in targets if target in MODULES and target != name}
    return edges


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every docstring of the project."""
    for folder in (*SOURCES, "benchmarks", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
                if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                    yield f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text


def test_each_room_imports_only_from_rooms_before_it() -> None:
    order = rooms()
    programs = {room_of(name) for name in MODULES if name.count(".") == 1} - set(order)
    position = {room: number for number, room in enumerate(order)}
    last = len(order)
    unknown = {room_of(name) for name in MODULES} - set(order) - programs - set(SOURCES)
    assert not unknown, f"docs/code.md does not list {sorted(unknown)}"
    up = [
        f"{source} -> {target}"
        for source, targets in imports().items()
        for target in targets
        if position.get(room_of(target), last if room_of(target) not in SOURCES else -1)
        > position.get(room_of(source), last)
    ]
    assert not up, f"imports from a room to a later one: {up}"


def test_every_listed_room_exists() -> None:
    order = rooms()
    assert len(order) == len(set(order))
    assert [room for room in order if not (ROOT / room).exists()] == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    # A package imports the modules that its __init__ exports, and they may import the package.
    graph = {
        name: {target for target in targets if not name.startswith(f"{target}.")}
        for name, targets in imports().items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_making_features_needs_no_training_on_features() -> None:
    edges = imports()
    reached = {name for name in MODULES if name.startswith("mtl.features")}
    while new := {target for name in reached for target in edges.get(name, ())} - reached:
        reached |= new
    forbidden = ("mtl.training", "mtl.models", "mtl.pretraining", "mtl.sequences", "mtl.config")
    assert [name for name in sorted(reached) if name.startswith(forbidden)] == []


@pytest.mark.parametrize("package", SOURCES)
def test_a_folder_holds_few_modules(package: str) -> None:
    files = [path for path in MODULES.values() if path.name != "__init__.py"]
    sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in files)
    assert {folder: n for folder, n in sizes.items() if n > MOST_MODULES} == {}
    assert sizes[package] > 0


def test_the_top_of_sweeps_holds_programs() -> None:
    top = [path for path in (ROOT / "sweeps").glob("*.py") if path.name != "__init__.py"]
    others = [path.name for path in top if 'if __name__ == "__main__":' not in path.read_text()]
    assert len(others) <= SHARED_MODULES, others


def test_no_two_modules_of_a_folder_differ_by_a_suffix_or_a_plural() -> None:
    folders = defaultdict(list)
    for path in MODULES.values():
        if path.name != "__init__.py":
            folders[path.parent].append(path.stem)
    for folder, names in folders.items():
        alike = [
            (one, other)
            for one in names
            for other in names
            if one != other and (other in {f"{one}s", f"{one}es"} or other.startswith(f"{one}_"))
        ]
        assert not alike, f"{folder.name}: {alike}"


def test_no_package_holds_a_module_of_its_own_name() -> None:
    same_name = [path for path in MODULES.values() if path.stem == path.parent.name]
    assert same_name == []
    plural = [path for path in MODULES.values() if f"{path.stem}s" == path.parent.name]
    assert plural == []


def test_no_program_shares_its_name_with_a_room() -> None:
    programs = {path.stem for path in (ROOT / "sweeps").glob("*.py")} - {"__init__"}
    folders = {path.name for path in (ROOT / "sweeps").iterdir() if path.is_dir()}
    assert programs & folders == set()


def test_no_module_beside_the_programs_hides_an_installed_package() -> None:
    """``python sweeps/run.py`` puts ``sweeps/`` first on the import path."""
    top = {path.stem for path in (ROOT / "sweeps").iterdir() if path.suffix in ("", ".py")}
    assert top & set(packages_distributions()) == set()


def test_class_names_are_unique() -> None:
    places = defaultdict(list)
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_docstrings_open_with_a_noun_or_a_verb() -> None:
    texts = list(docstrings())
    fragments = [
        f"{place}: {text.splitlines()[0]}"
        for place, text in texts
        if text.split()[0].lower().strip(".,:;'\"`()") in FRAGMENT_OPENINGS
    ]
    assert len(texts) > 1000
    assert len(fragments) < FRAGMENT_SHARE * len(texts), "\n".join(fragments)
