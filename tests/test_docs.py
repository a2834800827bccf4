"""README and docs: their layout, their links and paths, and the commands that they show."""

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from optuna_dashboard import wsgi

from mtl.predictions.table import Predictions
from sweeps import fuse, train
from sweeps.planning.compose import compose, compose_plain
from sweeps.search_file import SearchFile, load
from tests.support.fake_sweep import opened
from tests.support.paths import ROOT
from tests.support.small_data import make_dataset, write_space

MAX_README_LINES = 130
MAX_README_WIDTH = 110
PROGRAMS = ("plant", "pretrain", "extract", "prepare", "run", "train", "fuse", "predict", "score")
README = ROOT / "README.md"
LOG = ROOT / "docs" / "LOG.md"
YOUR_DATA = ROOT / "docs" / "your-data.md"
"""Page whose commands are run as it shows them, by tests/ray/test_your_data.py."""
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
ALL_PAGES = (*PAGES, ROOT / "CHANGELOG.md", ROOT / "cluster" / "README.md")

FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(r"(?<![\w./-])((?:mtl|sweeps|tests|benchmarks|cluster|docs)/[\w./-]*)")
COMMAND = re.compile(r"(python sweeps/|make |ray up|optuna-dashboard|source )")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])")

SPACE_AND_OVERRIDES = (
    "tests/ray/test_group_sweep.py"
    "::test_a_spent_budget_stops_trials_at_an_epoch_and_a_larger_one_resumes_them"
)
SHIPPED_SPACES = (
    "tests/sweeps/test_run.py::test_every_shipped_space_plans_on_data_with_its_feature_sets"
)
EXTRACTION = "tests/ray/test_extraction.py::test_small_chunks_give_the_features_of_a_plain_loop"
PREPARATION = "tests/sweeps/test_prepare.py::test_a_dataset_is_made_and_reported"
SCORING = "tests/sweeps/test_score.py::test_the_program_prints_one_json_object"
EXPORT = "tests/test_docs.py::test_an_exported_model_predicts_by_the_lines_of_the_docs"

COVERED = {
    "make install": "Makefile::install",
    "make sweep": "Makefile::sweep",
    "make features": "Makefile::features",
    "make real-faces": "Makefile::real-faces",
    "make test": "Makefile::test",
    "source .venv/bin/activate": "Makefile::install",
    "python sweeps/plant.py --out datasets/planted": (
        "tests/sweeps/test_plant.py::test_faces_are_made_and_reported"
    ),
    "python sweeps/pretrain.py --method mae --images FACES --out runs/mae "
    "backbone=mae_vit_base size=112": "Makefile::features",
    "python sweeps/pretrain.py --method supervised --images cropped_aligned --annotations DIR "
    "--out runs/iresnet backbone=iresnet50 weights=arcface_r50.pth --workers 2": (
        "tests/ray/test_pretraining.py"
        "::test_supervised_pretraining_with_a_killed_worker_equals_that_of_one_worker"
    ),
    "python sweeps/extract.py --images cropped_aligned --backbone iresnet50 "
    "--weights arcface_r50.pth --out features/iresnet": EXTRACTION,
    "python sweeps/extract.py --images cropped_aligned --backbone mae_vit_base --size 112 "
    "--weights runs/mae/weights.safetensors --out features/mae": "Makefile::features",
    "python sweeps/prepare.py --annotations DIR --features iresnet=features/iresnet "
    "--out datasets/abaw": PREPARATION,
    "python sweeps/prepare.py --annotations DIR --features iresnet=features/iresnet "
    "mae=features/mae --out datasets/abaw": PREPARATION,
    "python sweeps/prepare.py --annotations DIR --features visual_audio=... phash=... "
    "--out datasets/studyforrest[_cues]": PREPARATION,
    "python sweeps/prepare.py --features iresnet=features/new --out datasets/new": (
        "tests/sweeps/test_prepare.py::test_without_annotations_every_frame_is_a_test_frame"
    ),
    "python sweeps/run.py --space search.yaml": "Makefile::sweep",
    "python sweeps/run.py --space search.yaml --dry-run": (
        "tests/sweeps/test_run.py::test_a_dry_run_prints_the_plan_and_begins_nothing"
    ),
    "python sweeps/run.py --space sweeps/configs/spaces/abaw.yaml data=datasets/abaw "
    "'features=[iresnet]'": SHIPPED_SPACES,
    "python sweeps/run.py --space search.yaml search.trials=40 encoder=gru name=more-gru": (
        SPACE_AND_OVERRIDES
    ),
    "python sweeps/run.py --space sweeps/configs/spaces/frameworks.yaml": (
        "tests/ray/test_compared.py::test_the_best_config_of_each_value_is_trained_with_new_seeds_and_compared"
    ),
    "python sweeps/run.py --space sweeps/configs/spaces/studyforrest.yaml "
    "data=datasets/studyforrest": SHIPPED_SPACES,
    "python sweeps/run.py --space sweeps/configs/spaces/studyforrest_cues.yaml "
    "data=datasets/studyforrest_cues": SHIPPED_SPACES,
    "python sweeps/train.py --data demo encoder=lstm training.epochs=20": (
        "tests/sweeps/test_train.py::test_without_out_the_folder_is_named_after_the_signature"
    ),
    "python sweeps/fuse.py runs/demo fusion.method=top_k": (
        "tests/sweeps/fusion/test_fuse.py::test_the_program_fuses_a_run_folder_again"
    ),
    "python sweeps/fuse.py runs/demo --export demo-model": EXPORT,
    "python sweeps/predict.py --model demo-model --data datasets/demo --out predictions.parquet": (
        "tests/ray/test_predict.py::test_ray_gives_the_outputs_of_mtl_without_ray"
    ),
    "python sweeps/score.py --truth validation_set_annotations.txt "
    "--predictions runs/abaw/fusion/validation.txt": SCORING,
    "python sweeps/score.py --truth DIR/validation_set_annotations.txt "
    "--predictions runs/NAME/fusion/validation.txt": SCORING,
    "optuna-dashboard runs/demo/study.journal": (
        "tests/test_docs.py::test_optuna_dashboard_lists_the_studies_of_a_journal"
    ),
    "ray up cluster/gpu.yaml": (
        "tests/cluster/test_cluster_yaml.py::test_ray_accepts_the_file_without_a_network"
    ),
}
"""Each command of the pages but ``YOUR_DATA``, and the test or Makefile target that runs the same
program with the same options."""


def shown_commands(pages: Iterable[Path]) -> dict[str, Path]:
    """Return the commands in the fenced blocks of pages, each with a page that shows it."""
    found = {}
    for page in pages:
        for _, block in FENCE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if COMMAND.match(line.strip()):
                    text = re.sub(r"\s+#\s.*", "", line)
                    found[" ".join(text.split())] = page
    return found


def sweeps_commands() -> list[str]:
    commands = [*COVERED, *shown_commands([YOUR_DATA])]
    return [command for command in commands if command.startswith("python sweeps/")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(params=ALL_PAGES, ids=name_of)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_readme_is_short_and_narrow():
    lines = README.read_text().splitlines()
    assert len(lines) <= MAX_README_LINES
    assert not [line for line in lines if len(line) > MAX_README_WIDTH and not line.startswith("|")]


def test_readme_has_four_rows_of_results():
    results = README.read_text().partition("## Results")[2].partition("\n## ")[0]
    assert len([line for line in results.splitlines() if line.startswith("|")]) == 2 + 4


def test_every_page_opens_with_a_title_and_a_sentence(page):
    title, empty, sentence, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert not empty
    assert re.match(r"[A-Z][\w-]+ |mtl-sweeps is ", sentence), sentence


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert {page for page in ALL_PAGES if page != index} <= linked


def test_every_relative_link_leads_somewhere(page):
    broken = []
    for link in LINK.findall(page.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_path_of_the_repository_exists(page):
    if page == LOG:  # history: it may name files of its time
        return
    text = LINK.sub("", page.read_text())
    paths = {path.rstrip(".") for path in REPOSITORY_PATH.findall(text)}
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


def test_the_map_of_the_code_lists_every_room():
    text = README.read_text().partition("## The code")[2]
    (block,) = [block for _, block in FENCE.findall(text) if block.startswith("mtl/\n")]
    mtl, _, sweeps = block.partition("\nsweeps/\n")
    for package, rooms in (("mtl", mtl), ("sweeps", sweeps.partition("\ncluster/")[0])):
        listed = set(re.findall(r"(?:^|\s{2})(\w+)/ ", rooms))
        assert listed == {
            folder.parent.name for folder in (ROOT / package).glob("*/__init__.py")
        } | ({"configs"} if package == "sweeps" else set())


def test_the_programs_are_all_named():
    assert {file.stem for file in (ROOT / "sweeps").glob("*.py")} == {*PROGRAMS, "__init__"}
    readme = README.read_text()
    assert not [program for program in PROGRAMS if f"`{program}`" not in readme]


def test_the_table_of_commands_is_complete_and_has_no_stale_rows():
    assert set(shown_commands(page for page in PAGES if page != YOUR_DATA)) == set(COVERED)


@pytest.mark.parametrize("command", COVERED)
def test_what_runs_a_command_exists_and_names_its_options(command):
    file, _, name = COVERED[command].partition("::")
    text = (ROOT / file).read_text()
    if file == "Makefile":
        assert re.search(rf"^{re.escape(name)}:", text, re.MULTILINE), name
        assert not command.startswith("make ") or command == f"make {name}"
    else:
        functions = {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
    assert not [option for option in OPTION.findall(command) if option not in text]


class ParsedError(BaseException):
    """Ends a program after its arguments were parsed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments


def parsed(program: str, words: list[str]) -> argparse.Namespace:
    """Parse a command line with a program's own parser."""
    original = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_intermixed_args

    def ending(parse: Any) -> Any:
        def parse_and_end(self: Any, args: Any = None, namespace: Any = None) -> None:
            raise ParsedError(parse(self, args, namespace))

        return parse_and_end

    main = importlib.import_module(f"sweeps.{program}").main
    with (
        patch.object(argparse.ArgumentParser, "parse_args", ending(original[0])),
        patch.object(argparse.ArgumentParser, "parse_intermixed_args", ending(original[1])),
        pytest.raises(ParsedError) as caught,
    ):
        main(words)
    return caught.value.arguments


def addresses_the_search_file(word: str) -> bool:
    return re.split("[.=]", word)[0] in SearchFile.model_fields


@pytest.mark.parametrize("command", sweeps_commands())
def test_a_program_accepts_its_command(command):
    _, file, *words = shlex.split(command)
    program = Path(file).stem
    arguments = parsed(program, words)
    overrides = getattr(arguments, "overrides", [])
    if program == "run":
        load(ROOT / arguments.space, overrides)
        compose([word for word in overrides if not addresses_the_search_file(word)])
    elif program == "train":
        compose(overrides)
    elif program == "fuse":
        load(ROOT / "search.yaml", overrides)
    elif program == "pretrain":
        compose_plain(f"pretrain_{arguments.method}", overrides)


@cache
def options_of(program: str) -> frozenset[str]:
    """Return all options of a program, from its parser."""
    found: set[str] = set()
    original = argparse.ArgumentParser.add_argument

    def noted(self: Any, *names: str, **settings: Any) -> Any:
        found.update(name for name in names if name.startswith("--"))
        return original(self, *names, **settings)

    with patch.object(argparse.ArgumentParser, "add_argument", noted), pytest.raises(SystemExit):
        importlib.import_module(f"sweeps.{program}").main(["--help"])
    return frozenset(found)


def test_every_option_that_is_named_belongs_to_a_program(page, capsys):
    if page == LOG or page.parent.name in ("results", "cluster"):
        return  # They name options of benchmarks, and of aws and ray.
    known = frozenset[str]().union(*map(options_of, PROGRAMS))
    capsys.readouterr()
    assert not [option for option in OPTION.findall(page.read_text()) if option not in known]


def python_blocks() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text()):
            if language == "python":
                yield page, block


def test_an_exported_model_predicts_by_the_lines_of_the_docs(tmp_path, monkeypatch, capsys):
    """Train a trial with train.py, export with fuse.py, then run the five lines."""
    monkeypatch.chdir(tmp_path)
    dataset = make_dataset(tmp_path / "datasets" / "demo")
    file = load(write_space(tmp_path, "datasets/demo"))
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/space.yaml").write_text(file.to_yaml())
    Path("runs/demo/environment.json").write_text(json.dumps({"dataset": dataset.hash}))
    division = ["--confirm", str(file.search.confirm), "--seed", str(file.search.seed)]
    small = ["encoder.hidden=8", "encoder.layers=1", "head=linear", "training.epochs=1"]
    trial = ["--data", "datasets/demo", "--out", "runs/demo/trials/one", *division, *small]
    assert train.main(trial) == 0
    assert fuse.main(["runs/demo", "--export", "demo-model"]) == 0
    assert "export:      demo-model" in capsys.readouterr().out
    ((_, lines),) = python_blocks()
    exec(compile(lines, "docs", "exec"), {})
    found = Predictions.load(tmp_path / "predictions.parquet")
    assert len(found.frame) == len(dataset.listing().frame)


def test_optuna_dashboard_lists_the_studies_of_a_journal(tmp_path):
    opened(tmp_path / "demo").close()
    app = wsgi(str(tmp_path / "demo" / "study.journal"))
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "localhost"}
    request |= {"SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    answer = b"".join(app(request, lambda status, headers, error=None: None))
    assert [study["study_name"] for study in json.loads(answer)["study_summaries"]] == ["demo"]
