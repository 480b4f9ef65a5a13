"""`python rescale_rest_api.py …`: coming back to a job without editing anything; and the table of a chain's jobs.

| promise | tests |
|---|---|
| monitor, download, settings and stop do what they say, by id, page, address or .job file | known, pasted, stop |
| a hint can be pasted, from any folder; the files of a failed job go into <job_name>.<job_id> | failed_job |
| what cannot be done is told in one message; --profile is heeded; Ctrl-C ends at once | others |
| the table: a word for each outcome, times, core-hours, cost, ?, lined up; it does not wait long | the_table |
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import wait_until
from rescale_simulator import Fault
from test_main import WAITS
from two_jobs import paste


@pytest.fixture
def job(run_job):
    """Let the job come@back, or of this name, run to its end, or this status. Returns its id."""
    return lambda command="echo result > out\n", status=None, name="come@back": run_job(
        command, status=status, job_name=name)


@pytest.fixture
def command(environment, fast, capsys):
    """Run the library as a command; exit status, output and errors."""
    return lambda *arguments: (rescale._main(arguments), *capsys.readouterr())


@pytest.mark.parametrize("form", [
    "{id}", "{url}/jobs/{id}/runs/1/results/", "{url}/api/v2/jobs/{id}/", "come@back.job", " {id}",
], ids=["its id", "its page", "its address", "its file", "its id and a blank"])
def test_a_job_known_by_whatever_it_is_known_by_is_monitored_and_downloaded(sim, job, command, form):
    job_id = job()
    name = form.format(url=sim.url, id=job_id)
    for verb, said in (("monitor", f"Job {job_id} : Completed"), ("download", "Total 1 files, ")):
        status, out, err = command(verb, name)
        assert (status, err, said in out) == (0, "", True)
    assert [path.name for path in Path("come@back").iterdir()] == ["rescale.tar.gz"]


def test_what_settings_prints_can_be_pasted_into_main_py_as_a_whole(job, command):
    pasted = {}
    exec(command("settings", job("echo \"it's\"\n"))[1], pasted)  # all of it
    assert (pasted["coretype_code"], pasted["walltime"], pasted["command"]) == ("emerald", 1, "echo \"it's\"\n")


def test_stop_ends_a_running_job_and_monitor_then_ends_with_1(sim, job, command):
    job_id = job(WAITS, "Executing")
    assert command("stop", job_id)[1].endswith(f"\nJob {job_id} : stop requested\n")
    wait_until(lambda: sim.jobs[job_id].ended)
    assert "User Terminated" in [entry["statusReason"] for entry in sim.jobs[job_id].statuses]
    for verb, said in (("monitor", f"Job {job_id} was stopped"), ("stop", f"{job_id}.*not running")):
        status, _, err = command(verb, job_id)
        assert (status, bool(re.search(said, err))) == (1, True)


def test_the_files_of_a_failed_job_are_fetched_with_the_hint_into_a_folder_of_its_own(job, command):
    name = "정적" * 32
    job_id = job("echo partial > out; exit 3\n", name=name)
    hint = re.search(r"To download its files: python (.+)", command("monitor", job_id)[2])[1]
    Path("an other folder").mkdir()
    os.chdir("an other folder")
    done = paste(f"{sys.executable} {hint}")
    assert done.returncode == 0, done.stderr
    folder = Path(f"{name[:60]}.{job_id}")  # more might not be a name here
    assert done.stdout.splitlines()[-1].endswith(f" {folder}{os.sep}")
    assert sorted(Path().rglob("*")) == [folder, folder / "process_output.log", folder / "rescale_failed.tar.gz"]


@pytest.mark.parametrize(("arguments", "hint"), [
    (["download", "not/an/id"], "no job id"), (["download", "abcXYZ"], "404"), (["stop", "missing.job"], "no job id"),
    (["stop", "abcXYZ", "--profile", "nowhere"], "[nowhere]"),
], ids=["no id", "unknown", "no such file", "unknown profile"])
def test_a_command_that_cannot_be_done_says_why(command, arguments, hint):
    status, _, err = command(*arguments)
    assert (status, hint in err) == (1, True)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_ends_a_download_at_once_over_a_line_that_hardly_moves(sim, job, command):
    job_id, sim.rate = job(), 5  # bytes per second
    arguments = [sys.executable, rescale.__file__, "download", job_id]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as client:
        wait_until(lambda: any("contents" in record.path for record in sim.requests), 20)
        time.sleep(0.3)  # until some bytes have come
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=10)
    assert (client.returncode, "Interrupted" in err, "Traceback" in err) == (130, True, False), err
    assert not Path("come@back/rescale.tar.gz").exists()


def table(capsys) -> list[list[str]]:
    """The rows of the table that was printed, its head first."""
    return [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines() if line]


@pytest.mark.parametrize(("text", "status", "outcome"), [
    ("true\n", None, "succeeded"), ("exit 7\n", None, "FAILED (exit code 7)"), (WAITS, "Executing", "running"),
    (WAITS, "Executing", "stopped"), (WAITS, "Pending", "waiting"),
])
def test_the_table_has_a_word_for_the_outcome_of_a_job(sim, access, job, capsys, text, status, outcome):
    sim.speed = 20 * (status == "Pending")
    job_id = job(text, status)
    if outcome == "stopped":
        rescale.job_stop(*access, job_id)
        wait_until(lambda: sim.jobs[job_id].ended)
    rescale.chain_overview(*access, {"job@": job_id})
    head, row = table(capsys)[-2:]
    assert (head[:3], row[:3]) == (["job", "id", "outcome"], ["job@", job_id, outcome])
    assert (row[-1] == "on the platform") == bool(sim.jobs[job_id].ended)


def test_the_table_has_words_for_what_is_not_there_and_waits_for_no_platform_that_throttles(
    sim, access, clock, ended_job, capsys
):
    jobs = {"none@": None, "gone@": "abcXYZ", "no archive@": ended_job({})}
    rescale.chain_overview(*access, jobs)
    assert [row[2] for row in table(capsys)[1:]] == ["not started", "unknown here", "ended"]
    sim.faults.append(Fault("throttled", times=999, retry_after="600"))
    began = clock.now
    rescale.chain_overview(*access, jobs)
    assert ([row[2] for row in table(capsys)[-3:]], clock.now - began < 60) == (["not started", "?", "?"], True)


@pytest.mark.parametrize("prices", [True, False], ids=["prices", "none"])
def test_the_table_has_times_costs_and_places(sim, access, run_job, capsys, prices):
    """The job waits and executes in turns, as one that the platform restarts."""
    name, sim.prices = "static@1", prices
    job_id = run_job(job_name=name)
    sim.jobs[job_id].data["jobanalyses"][0]["hardware"].update(coresPerSlot=4, slots=2)
    times = ("00:00 Queued", "00:10 Executing", "01:10 Queued", "01:15 Executing", "01:45 Completed")
    sim.jobs[job_id].statuses[:] = [
        {"status": text[6:], "statusReason": None, "statusDate": f"2026-01-01T{text[:5]}:00Z"} for text in times]
    rescale.job_download(*access, name, job_id)
    capsys.readouterr()
    rescale.chain_overview(*access, {name: job_id, "long-name@1": None})
    header, first, _ = capsys.readouterr().out.splitlines()[-3:]
    assert ("cost" in header) == prices
    assert re.split(r" {2,}", first)[2:] == [
        "succeeded", "15 min", "1 h 30 min", "12.00", *["0.72"] * prices, f"{name}{os.sep}"]
