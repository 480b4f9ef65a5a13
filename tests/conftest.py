"""What the tests share: a simulator of their own, and a clock that makes waiting short."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import rescale_rest_api as rescale  # noqa: E402
from rescale_simulator import Run, Simulator  # noqa: E402
from two_jobs import THREE, copy_scripts  # noqa: E402

KEPT = {"PATH", "PATHEXT", "SYSTEMROOT", "COMSPEC", "TMPDIR", "TEMP", "TMP", "LANG", "LC_ALL", "USER", "LOGNAME",
        "USERNAME", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER"}  # of the environment


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path, monkeypatch):
    """A home and a working folder of the test's own, and nothing of this machine's Rescale or proxy settings.

    Jobs pack at once: the second that they sleep is for file systems whose clocks tick in seconds.
    """
    home = tmp_path / "home"
    home.mkdir()
    for name in set(os.environ) - KEPT:  # requests looks through all of them for each request
        monkeypatch.delenv(name)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    a_program(tmp_path / "programs" / "sleep", f'[ "$1" = 1 ] && set 0.02\nexec {shutil.which("sleep")} "$@"')
    for folder in (tmp_path / "programs", Path(sys.executable).parent):
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    for handler in set(rescale._logger.handlers) - {rescale._screen}:
        rescale._logger.removeHandler(handler)
        handler.close()
    rescale._secrets.clear()
    rescale._session.cache_clear()


class Clock:
    """The library's time: `speed` seconds in a real one, or with a speed of 0, no more than it sleeps."""

    def __init__(self, speed: int = 0) -> None:
        self.speed, self.now = speed, 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += 0 if self.speed else seconds
        time.sleep(seconds / self.speed if self.speed else min(seconds, 5) / 5000)

    def monotonic(self) -> float:
        return time.monotonic() * self.speed + self.now

    def time(self) -> float:
        return time.time() + self.now


@pytest.fixture
def fast(monkeypatch):
    """Time that runs 200 times as fast for the library, a polling step in 25 ms, and short timeouts on its sockets."""
    clock = Clock(200)
    monkeypatch.setattr(rescale, "time", clock)
    monkeypatch.setattr(rescale, "CONNECT_TIMEOUT", 1)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 1)
    monkeypatch.setattr(rescale, "PROGRESS_DELAY", float("inf"))  # or short transfers would seem to be long ones
    return clock


@pytest.fixture
def clock(fast, monkeypatch):
    """Time that passes only while the library sleeps, so that its steps can be told to the second."""
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 10)  # what a busy machine delays is no outage
    fast.speed = 0
    return fast


@pytest.fixture
def sim(tmp_path):
    """A simulator without waits."""
    with Simulator(tmp_path / "platform", speed=0) as simulator:
        yield simulator


@pytest.fixture
def access(sim, fast):
    """Platform and token as the guide's functions take them, in fast time."""
    return sim.url, f"Token {sim.token}"


@pytest.fixture
def environment(sim, monkeypatch):
    """The environment that makes the simulator a script's platform."""
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)


@pytest.fixture
def edit(environment, clean_surroundings):
    """Write main.py, with other values in its sections, and the library beside it; the test's simulator is theirs."""
    def write(**sections):
        return copy_scripts(clean_surroundings, **{"batches": THREE, **sections})

    write()
    return write


# What job_setup needs, the guide's parameters by their names; the simulator takes it.
RIGHT_VALUES = {
    "job_name": "job", "command": "true\n", "code_name": "user_included", "version_code": "0", "license_info": {},
    "coretype_code": "emerald", "core_per_slot": 1, "slot": 1, "walltime": 1, "projectid": None, "inputfiles_list": [],
}
SETTINGS = tuple(RIGHT_VALUES.values())[2:10]  # of main.py


@pytest.fixture
def set_up(access, capsys):
    """job_setup with right values, except for those given; nothing of it on the screen. Returns the job's id."""

    def call(**values):
        job_id = rescale.job_setup(*access, **{**RIGHT_VALUES, **values})
        capsys.readouterr()
        return job_id

    return call


@pytest.fixture
def run_job(sim, access, set_up, capsys):
    """Let a job run to its end, or to this status, starting with `files` (name: content). Returns the job's id."""

    def run(command="true\n", files=None, status=None, **values):
        inputs = []
        for name, content in (files or {}).items():
            Path(name).write_bytes(content)
            inputs += rescale.upload_local_files(*access, name)
        job_id = set_up(**{"command": command, "inputfiles_list": inputs, **values})
        rescale.job_submit(*access, values.get("job_name", "job"), job_id)
        job = sim.jobs[job_id]
        wait_until(lambda: job.ended or status in [entry["status"] for entry in job.statuses])
        capsys.readouterr()
        return job_id

    return run


@pytest.fixture
def ended_job(sim, set_up):
    """Make a job that has ended, with these outputs (path: content) and statuses. Returns the job's id."""

    def make(files, *history):
        job = sim.jobs[set_up()]
        for path, content in files.items():
            (job.work / path).parent.mkdir(parents=True, exist_ok=True)
            (job.work / path).write_bytes(content)
        job.date_started, job.date_completed = sim.now(), sim.now()
        Run(sim, job).sync()
        for status, reason in history or [("Executing", None), ("Completed", "Completed successfully")]:
            sim.add_status(job, status, reason, last=status == "Completed")
        return job.id

    return make


def a_program(path, script):
    """Write a shell script that can be called by its name where its folder is in PATH."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def here(folder="."):
    """The names in a folder, sorted."""
    return sorted(path.name for path in Path(folder).iterdir())


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def paths_asked(sim, method="GET"):
    """The paths of the requests that reached the server, without /api/v2/."""
    return [record.path[len("/api/v2/"):] for record in sim.requests if record.method == method]
