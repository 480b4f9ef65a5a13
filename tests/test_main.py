"""main.py, as people start it: the chain with the real example, what it prints, and its exit statuses."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from conftest import SPEED, TESTS, here
from test_example import TOLERANCE, profile_error

# Appended to the copy of the library, so that its steps of 5 s do not take as long.
FASTER = f"""

import types as _types

_real = time
time = _types.SimpleNamespace(
    sleep=lambda seconds: _real.sleep(seconds / {SPEED}), monotonic=lambda: {SPEED} * _real.monotonic(), time=_real.time
)
"""


@pytest.fixture
def project(tmp_path):
    """A copy of what belongs to a rehearsal, but for the time."""
    folder = tmp_path / "a copy"
    (folder / "tests").mkdir(parents=True)
    for name in ("main.py", "rescale_rest_api.py", "tests/rescale_simulator.py"):
        shutil.copy(TESTS.parent / name, folder / name)
    shutil.copytree(TESTS / "example", folder / "tests" / "example", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "rescale_rest_api.py").open("a", encoding="utf-8") as library:
        library.write(FASTER)
    return folder


@pytest.fixture
def edit(project):
    """Change main.py as a user would: every `before` has to be there once."""

    def change(*edits):
        path = project / "main.py"
        text = path.read_text(encoding="utf-8")
        for before, after in edits:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")

    return change


@pytest.fixture
def rehearse(project, tmp_path):
    """Run main.py under the simulator, in the folder of the test; return what the simulator kept of it, too."""

    def run(*arguments):
        rehearsal = tmp_path / "rehearsal"
        result = subprocess.run(
            [sys.executable, project / "tests" / "rescale_simulator.py", "--speed", "0", "--folder", rehearsal,
             project / "main.py", *arguments],
            capture_output=True, text=True, encoding="utf-8", timeout=60,
        )
        state = json.loads((rehearsal / "state.json").read_text(encoding="utf-8"))
        assert "Traceback" not in result.stderr
        return result, state

    return run


@pytest.fixture
def real(project, sim):
    """Start main.py with the simulator of the test as its platform."""

    def start(*arguments, **variables):
        return subprocess.Popen(
            [sys.executable, project / "main.py", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8",
            env={**os.environ, "RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token, **variables},
        )

    return start


def finished(process):
    """Exit status, output and errors of a process, once it has ended."""
    out, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return process.returncode, out, errors


def final_profile():
    """The error of the profile in the one downloaded archive."""
    (archive,) = Path().rglob("rescale.tar.gz*")
    if archive.parent == Path():
        raise AssertionError("nothing was downloaded")
    with tarfile.open(archive) as tar:
        tar.extract("./temperature.csv", "unpacked")
    return profile_error(Path("unpacked/temperature.csv"))


def of_user(batch):
    return f"{getpass.getuser()}@{batch}@"


def test_the_chain_reaches_the_profile_that_only_both_steps_reach(rehearse, clean_surroundings):
    result, state = rehearse()
    assert result.returncode == 0, result.stderr
    first, second = state["jobs"]
    started_at = re.fullmatch(rf"{re.escape(of_user('rod1'))}(\d{{8}}-\d{{6}})", first["name"])[1]
    assert second["name"] == f"{of_user('rod2')}{started_at}"
    assert state["starts"] == {first["id"]: 1, second["id"]: 1}

    with tarfile.open("rescale.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["rod.inp", "rod.py"]
    Path("rescale.tar.gz").rename(clean_surroundings.parent / "uploaded.tar.gz")
    assert final_profile() < TOLERANCE
    assert (Path(second["name"]) / "rescale.tar.gz").exists()
    assert sorted(path.name for path in Path().glob("*@*")) == sorted(
        [second["name"], *(f"{job['name']}.{kind}" for job in (first, second) for kind in ("job", "desktop"))]
    )
    assert Path(f"{second['name']}.job").read_text().strip() == second["id"]

    printed = [
        f"Successfully created rescale.tar.gz in {clean_surroundings}", "- rescale.tar.gz uploaded",
        f"Job_ID: {first['id']}", f"Job {first['id']} : submitted", f"Job {first['id']} : Executing",
        f"Job {first['id']} : Completed", "inputfiles_list = [{'id': '" + first["files"][0] + "', 'decompress': True}]",
        f"Job_ID: {second['id']}", f"Job {second['id']} : Completed", "Total 1 files will be downloaded",
        f"1 user/user_xMTMk/output/job_{second['id']}/run1/rescale.tar.gz downloaded",
    ]
    lines = result.stdout.splitlines()
    assert [line for line in lines if line in printed] == printed
    assert str(state["token"]) not in result.stdout + result.stderr


def test_step_2_without_the_data_of_step_1_ends_the_chain(edit, rehearse):
    edit(
        ('--step 1\\n"),', '--step 1; rm rod.restart\\n"),'),
        ('--step 2\\n"),', '--step 2\\n"),\n    ("rod3", "true\\n"),'),
    )
    result, state = rehearse()
    assert result.returncode == 1
    _, second = state["jobs"]  # and no third one
    assert second["name"].startswith(of_user("rod2"))
    assert set(state["starts"].values()) == {1}
    assert "A run failed" in result.stderr
    assert "rod.restart, which is not here: run step 1 first" in result.stderr
    assert f"/jobs/{second['id']}/runs/1/results/" in result.stderr
    assert "will be downloaded" not in result.stdout


def test_a_first_job_that_fails_is_the_last_one_until_a_new_chain_is_started(edit, real, sim):
    edit(
        ('"python3 rod.py rod.inp --step 1\\n"', '"echo no licence; exit 3\\n"'),
        ('"%Y%m%d-%H%M%S"', '"%Y%m%d-%H%M%S-" + str(time.time())'),  # the test does not take a second
    )
    for number in (1, 2):
        status, _, errors = finished(real())
        assert status == 1
        assert len(sim.jobs) == number
        assert list(sim.jobs)[-1] in errors
        assert "no licence" in errors
        assert "exit code 3" in errors
    assert list(sim.starts.values()) == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "edits"),
    [
        (["--restart"], []),
        (["job1"], []),
        (["--resume"], []),
        ([], [('("rod2", ', '("rod1", ')]),
        ([], [("batches = [", "batches = []\nothers = [")]),
        ([], [('("rod2", ', '("rod/2", ')]),
        ([], [('("rod2", ', '("", ')]),
        ([], [('"python3 rod.py rod.inp --step 2\\n"', '"\\n"')]),
    ],
    ids=["unknown option", "an argument", "nothing to resume", "twice the same name", "no batches", "not a file name",
         "no name", "no command"],
)
def test_wrong_usage_is_told_with_2_before_anything_is_sent(arguments, edits, edit, real, sim):
    edit(*edits)
    status, out, errors = finished(real(*arguments))
    assert status == 2
    assert "usage: main.py" in errors
    assert "main.py: error: " in errors
    assert sim.requests == []
    assert here() == []


def test_help_is_the_text_at_its_top(real):
    status, out, _ = finished(real("--help"))
    assert status == 0
    assert "Run a chain of dependent Rescale jobs" in out
    assert "--resume" in out


@pytest.mark.parametrize(
    ("variables", "edits", "words"),
    [
        ({"RESCALE_API_KEY": ""}, [], ["my_token", "RESCALE_API_KEY"]),
        ({"RESCALE_API_KEY": "wrong-wrong-wrong"}, [], ["401", "Invalid token"]),
        ({"RESCALE_API_URL": "http://kr.rescale.com"}, [], ["http://kr.rescale.com", "https://"]),
        ({}, [('code_name = "user_included"', 'code_name = "abacus"')], ["abacus", "abaqus"]),
        ({}, [('/ "tests" / "example"', '/ "tests" / "no such folder"')], ["no such folder"]),
        ({}, [('walltime = 1 ', 'walltime = "an hour" ')], ["walltime", "an hour"]),
        ({}, [("license_info = {}", 'license_info = "27000@host"')], ["license_info", "27000@host"]),
    ],
    ids=["no token", "wrong token", "http", "unknown tile", "unknown folder", "walltime", "license_info"],
)
def test_a_mistake_is_told_in_one_message_with_1_before_anything_is_uploaded(variables, edits, words, edit, real, sim):
    edit(*edits)
    status, _, errors = finished(real(**variables))
    assert status == 1
    assert all(word in errors for word in words)
    assert not sim.files
    assert not sim.jobs
    assert "wrong-wrong" not in errors


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_leaves_the_job_running_and_resume_goes_on_with_it(edit, real, sim, clean_surroundings):
    edit(('"python3 rod.py rod.inp --step 1\\n"', '"python3 rod.py rod.inp --step 1; sleep 1\\n"'))
    process = real()
    interrupted = []

    def interrupt(record, moment):
        if "/tail/" in record.path and moment == "before" and not interrupted:
            interrupted.append(record)
            process.send_signal(signal.SIGINT)

    sim.on_request = interrupt
    status, _, errors = finished(process)
    assert status == 130
    (job_id,) = sim.jobs
    assert not sim.jobs[job_id].ended
    assert job_id in errors
    assert "--resume" in errors
    assert "stop" in errors

    status, out, errors = finished(real("--resume"))
    assert status == 0, errors
    assert list(sim.starts.values()) == [1, 1]
    assert "Successfully created" not in out  # nothing is packed or uploaded again
    Path("rescale.tar.gz").rename(clean_surroundings.parent / "uploaded.tar.gz")
    assert final_profile() < TOLERANCE

    assert finished(real("--resume"))[0] == 2  # it is finished now
