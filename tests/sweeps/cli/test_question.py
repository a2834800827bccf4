"""Question on a terminal: only a line that says no is a no, and a background job reads nothing."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sweeps.cli.question import answers_no
from tests.support.paths import ROOT

PROGRAM = """
import sys, time
from sweeps.cli.question import answers_no, on_terminal
end = time.monotonic() + float(sys.argv[1])
print("terminal", on_terminal(), flush=True)
print("no", answers_no(lambda: time.monotonic() > end), flush=True)
"""

SHELL = f"""
import os, subprocess, sys
job = [sys.executable, "-c", {PROGRAM!r}, sys.argv[1]]
print("ended", subprocess.Popen(job, preexec_fn=os.setpgrp).wait(), flush=True)
"""
"""Program that runs the other one as a background job of its terminal."""


UNCONTROLLED = f"""
import os, subprocess, sys
job = [sys.executable, "-c", {PROGRAM!r}, sys.argv[1]]
print("ended", subprocess.Popen(job, start_new_session=True).wait(), flush=True)
"""
"""Program that runs the other one on a terminal that does not control it."""

CLOSED = """
import os, sys
sys.stdout = None
from sweeps.cli.question import on_terminal
os.write(0, b"terminal " + str(on_terminal()).encode())
"""


@contextmanager
def asking(seconds: float, program: str = PROGRAM) -> Iterator[tuple[int, int]]:
    """Run a program in a terminal of its own; yield its process id and the terminal's file."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", program, str(seconds)])
    try:
        yield process, terminal
    finally:
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(terminal)


def read_until(terminal: int, word: bytes) -> bytes:
    text = b""
    while word not in text:
        text += os.read(terminal, 1024)
    return text


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (b"n\n", b"True"),
        (b" No\n", b"True"),
        (b"y\n", b"False"),
        (b"\n", b"False"),
        (b"\x04", b"False"),
    ],
    ids=["n", "No", "y", "empty line", "end of input"],
)
def test_only_a_no_is_a_no(typed, answer):
    with asking(60) as (_, terminal):
        assert b"terminal True" in read_until(terminal, b"True")
        os.write(terminal, typed)
        assert answer in read_until(terminal, b"e\r\n")


def test_without_an_answer_the_program_goes_on():
    with asking(0.5) as (_, terminal):
        assert b"no False" in read_until(terminal, b"no False")


def test_a_program_in_the_background_reads_nothing_and_is_not_stopped():
    """The terminal's foreground job is the shell, whose user types a line."""
    with asking(3.0, SHELL) as (_, terminal):
        read_until(terminal, b"terminal True")
        os.write(terminal, b"n\n")
        assert b"no False" in read_until(terminal, b"no False")
        assert b"ended 0" in read_until(terminal, b"ended 0")


def test_a_terminal_that_does_not_control_the_program_answers():
    with asking(60, UNCONTROLLED) as (_, terminal):
        read_until(terminal, b"terminal True")
        os.write(terminal, b"n\n")
        assert b"no True" in read_until(terminal, b"ended 0")


def test_a_terminal_that_goes_away_is_no_answer(monkeypatch):
    controller, terminal = pty.openpty()
    os.close(controller)
    with os.fdopen(terminal) as lost:
        monkeypatch.setattr(sys, "stdin", lost)
        assert answers_no(lambda: False) is False


def test_closed_output_is_no_terminal():
    with asking(60, CLOSED) as (_, terminal):
        assert b"terminal False" in read_until(terminal, b"e")


def test_files_and_pipes_are_no_terminal():
    found = subprocess.run(
        [sys.executable, "-c", "from sweeps.cli.question import on_terminal; print(on_terminal())"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"
