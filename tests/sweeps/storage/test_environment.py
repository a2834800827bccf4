"""environment.json: what is needed to run a sweep again, and no secret."""

import json
import subprocess

from sweeps.storage.environment import environment


def test_it_says_under_what_a_sweep_ran(monkeypatch):
    monkeypatch.setattr("sys.argv", ["sweeps/run.py", "--space", "my file.yaml"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-from-everybody")
    found = environment()
    assert found["command"] == "run.py --space 'my file.yaml'"
    assert found["packages"]["optuna"].startswith("5.")
    assert found["machine"]["cpus"] > 0
    assert found["machine"]["memory_gib"] > 0
    assert "hidden-from-everybody" not in json.dumps(found)


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    found = environment(tmp_path)
    assert (found["commit"], found["diff"]) == (None, None)


def test_uncommitted_changes_are_kept(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a.py").write_text("one\n")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "one")
    (tmp_path / "a.py").write_text("two\n")
    found = environment(tmp_path)
    assert len(found["commit"]) == 40
    assert "-one\n+two" in found["diff"]


def test_source_that_another_checkout_ignores_has_no_commit(tmp_path):
    """A wheel in the environment of somebody's project is not part of that project."""
    subprocess.run(["git", "-C", str(tmp_path), "init"], check=True, capture_output=True)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "a.py").write_text("one\n")
    found = environment(installed)
    assert (found["commit"], found["diff"]) == (None, None)
