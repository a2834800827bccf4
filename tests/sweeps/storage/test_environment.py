"""Tests of ``environment.json``: it holds what repeating a sweep needs, and no secret."""

import json
import subprocess
from uuid import uuid4

from sweeps.storage.environment import environment


def test_command_packages_and_machine_are_recorded_without_secrets(monkeypatch):
    monkeypatch.setattr("sys.argv", ["sweeps/run.py", "--space", "my file.yaml"])
    secret = uuid4().hex  # not in an uncommitted change of this file
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    content = environment()
    assert content["command"] == "run.py --space 'my file.yaml'"
    assert content["packages"]["optuna"].startswith("5.")
    assert content["machine"]["cpus"] > 0
    assert content["machine"]["memory_gib"] > 0
    assert secret not in json.dumps(content)


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    content = environment(tmp_path)
    assert (content["commit"], content["diff"]) == (None, None)


def test_uncommitted_changes_are_kept(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a.py").write_text("one\n")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "one")
    (tmp_path / "a.py").write_text("two\n")
    content = environment(tmp_path)
    assert len(content["commit"]) == 40
    assert "-one\n+two" in content["diff"]


def test_source_that_another_checkout_ignores_has_no_commit(tmp_path):
    """A wheel that is installed inside another project's checkout has no commit of that project."""
    subprocess.run(["git", "-C", str(tmp_path), "init"], check=True, capture_output=True)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "a.py").write_text("one\n")
    content = environment(installed)
    assert (content["commit"], content["diff"]) == (None, None)
