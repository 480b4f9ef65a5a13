"""5. job_submit: a job starts exactly once, whatever the network does, and its id is on the disk before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, here, paths_asked, wait_until
from rescale_simulator import Fault


def submissions(sim):
    return sum(path.endswith("/submit/") for path in paths_asked(sim, "POST"))


def test_a_submitted_job_starts_and_leaves_its_id_and_a_link(access, sim, set_up, capsys):
    job_id = set_up()
    assert rescale.job_submit(*access, "me@rod@1", job_id) is None
    assert capsys.readouterr().out == f"Job {job_id} : submitted\n"
    assert here() == ["me@rod@1.desktop", "me@rod@1.job"]
    assert Path("me@rod@1.job").read_text().strip() == job_id
    link = Path("me@rod@1.desktop").read_text().splitlines()
    assert link[0] == "[Desktop Entry]"
    assert "Type=Link" in link
    assert f"URL={sim.url}/jobs/{job_id}/runs/1/results/" in link
    assert sim.starts == {job_id: 1}


def test_on_windows_the_link_is_one_of_its_own_kind(access, sim, set_up, monkeypatch):
    job_id = set_up()
    monkeypatch.setattr(rescale, "WINDOWS", True)
    rescale.job_submit(*access, "job", job_id)
    assert here() == ["job.job", "job.url"]
    assert Path("job.url").read_text() == f"[InternetShortcut]\nURL={sim.url}/jobs/{job_id}/runs/1/results/\n"


def test_a_korean_job_name_names_the_files(access, set_up):
    job_id = set_up(job_name="압력 해석")
    rescale.job_submit(*access, "압력 해석", job_id)
    assert Path("압력 해석.job").read_text(encoding="utf-8").strip() == job_id
    assert job_id in Path("압력 해석.desktop").read_text(encoding="utf-8")


def test_the_id_is_on_the_disk_before_the_request_is_sent(access, sim, set_up):
    job_id = set_up()
    seen = []

    def look(record, moment):
        if record.path.endswith("/submit/") and moment == "before":
            seen.append(Path("job.job").read_text().strip())

    sim.on_request = look
    rescale.job_submit(*access, "job", job_id)
    assert seen == [job_id]


@pytest.mark.parametrize("resubmit", ["again", "400", "ignore"])
def test_a_job_that_runs_is_not_submitted_again(resubmit, access, sim, set_up, capsys):
    sim.resubmit = resubmit
    job_id = set_up(command="sleep 60\n")
    for _ in range(2):
        rescale.job_submit(*access, "job", job_id)
    assert submissions(sim) == 1
    assert sim.starts == {job_id: 1}
    assert capsys.readouterr().out.count(f"Job {job_id} : submitted\n") == 2


def test_a_job_that_has_ended_is_not_submitted_again(access, sim, run_job):
    sim.resubmit_completed = "400"
    job_id = run_job()
    rescale.job_submit(*access, "job", job_id)
    assert submissions(sim) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refused", path="submit", seconds=0.1), Fault("reset_before", path="submit"),
        Fault("reset_after", path="submit"), Fault("timeout_before", path="submit", seconds=2),
        Fault("timeout_after", path="submit", seconds=2), Fault("503_after", path="submit"),
        Fault("504", path="submit", times=3), Fault("html", path="submit"), Fault("html_after", path="submit"),
        Fault("truncated", path="submit"), Fault("throttled", path="submit", times=3),
        Fault("late", path="submit", seconds=0.1), Fault("reset_before", path="statuses", times=3),
        Fault("reset_midway", path="statuses", skip=1, times=2), Fault("truncated", path="statuses", times=2),
        Fault("500", path="statuses", skip=1, times=3),
    ],
    ids=lambda fault: f"{fault.name} of {fault.path}",
)
def test_whatever_happens_on_the_way_the_job_starts_exactly_once(fault, access, sim, set_up, capsys):
    sim.resubmit = "again"
    sim.resubmit = "again"  # a second submission would be a second start
    job_id = set_up(command="sleep 60\n")
    sim.faults.append(Fault(**{**vars(fault), "hits": 0}))
    rescale.job_submit(*access, "job", job_id)
    assert sim.faults[0].hits
    assert sim.starts == {job_id: 1}
    assert capsys.readouterr().out.endswith(f"Job {job_id} : submitted\n")


def test_no_proxy_may_answer_from_its_memory(access, sim, set_up):
    """Or the statuses of before would hide that the job was started, and it would be started again."""
    rescale.job_submit(*access, "job", set_up())
    assert {record.headers["Cache-Control"] for record in sim.requests} == {"no-cache"}


# What is refused


def test_what_the_platform_refuses_is_told_in_its_words(access, sim, set_up, capsys):
    Path("rod.inp").write_text("x")
    (entry,) = rescale.upload_local_files(*access, "rod.inp")
    job_id = set_up(inputfiles_list=[entry])
    sim.files[entry["id"]].is_deleted = True
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_submit(*access, "job", job_id)
    assert "inputFiles: An input file has been deleted" in str(refused.value)
    assert not sim.starts
    assert submissions(sim) == 1
    assert "submitted" not in capsys.readouterr().out


def test_an_accepted_job_that_shows_no_sign_of_life_is_told(access, clock, sim, set_up, capsys):
    sim.silent_submit = True
    job_id = set_up()
    with pytest.raises(rescale.RescaleError) as failed:
        rescale.job_submit(*access, "job", job_id)
    assert f"{sim.url}/jobs/{job_id}/runs/1/results/" in str(failed.value)
    assert 30 <= clock.now <= 300
    assert submissions(sim) == 1
    assert "submitted" not in capsys.readouterr().out


def test_an_unknown_job_is_refused(access, sim, capsys):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_submit(*access, "job", "nOnE")
    assert "nOnE" in str(refused.value)
    assert "404" in str(refused.value)
    assert "submitted" not in capsys.readouterr().out


@pytest.mark.parametrize("job_id", ["", "a/b", "../files", "LFZphb?x", "LFZphb\n", None, 5, ["LFZphb"], "가나다라"])
def test_what_is_no_job_id_is_named_and_nothing_is_sent_or_written(job_id, access, sim):
    for call in (
        lambda: rescale.job_submit(*access, "job", job_id),
        lambda: rescale.job_monitor(*access, job_id),
        lambda: rescale.job_download(*access, "job", job_id),
        lambda: rescale.file_previous_job(*access, job_id),
        lambda: rescale.job_stop(*access, job_id),
    ):
        with pytest.raises(rescale.RescaleError) as refused:
            call()
        assert repr(job_id) in str(refused.value)
    assert sim.requests == []
    assert here() == []


@pytest.mark.parametrize("job_name", ["", "..", "a/b", "/tmp/x", "a\nb", None, "x" * 300])
def test_what_cannot_name_a_file_is_named_and_nothing_is_sent_or_written(job_name, access, sim):
    for function in (rescale.job_submit, rescale.job_download):
        with pytest.raises(rescale.RescaleError, match="job_name"):
            function(*access, job_name, "LFZphb")
    assert sim.requests == []
    assert here() == []


def test_without_the_id_on_the_disk_nothing_is_submitted(access, sim, set_up):
    job_id = set_up()
    Path("job.job").mkdir()
    with pytest.raises(rescale.RescaleError, match="job.job"):
        rescale.job_submit(*access, "job", job_id)
    assert submissions(sim) == 0


@pytest.mark.skipif(os.name == "nt", reason="locks are others there")
def test_a_second_process_does_not_work_on_the_same_chain(access, sim, set_up):
    job_id = set_up(command="sleep 60\n")
    script = "import rescale_rest_api as r, sys; r.job_submit(*sys.argv[1:]); print('go'); sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", script, *access, "job", job_id], env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    with first:
        wait_until(lambda: sim.starts and Path("job.desktop").exists())
        with pytest.raises(rescale.RescaleError, match="in use"):
            rescale.job_submit(*access, "job", set_up())
        assert sim.starts == {job_id: 1}
        assert Path("job.job").read_text().strip() == job_id
    rescale.job_submit(*access, "job", job_id)  # once the first has ended, it can go on
    assert sim.starts == {job_id: 1}


# Stop


def test_a_running_job_can_be_stopped(access, sim, set_up, capsys):
    job_id = set_up(command="echo 1 > part; sleep 60\n")
    rescale.job_submit(*access, "job", job_id)
    wait_until(lambda: (sim.jobs[job_id].work / "part").exists())
    capsys.readouterr()
    rescale.job_stop(*access, job_id)
    assert capsys.readouterr().out == f"Job {job_id} : stop requested\n"
    wait_until(lambda: sim.jobs[job_id].ended)
    assert "User Terminated" in [entry["statusReason"] for entry in sim.jobs[job_id].statuses]


def test_a_job_that_has_ended_cannot_be_stopped(access, run_job):
    job_id = run_job()
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_stop(*access, job_id)
    assert job_id in str(refused.value)
    assert "not running" in str(refused.value)


def test_after_a_kill_the_platform_gets_time_to_show_a_start_before_it_is_repeated(access, sim, set_up):
    """The submission of the run that was killed may still be on its way."""
    job_id = set_up()
    Path("job.job").write_text(f"{job_id}\n")
    late = []

    def start_after_the_first_look(record, moment):
        if record.path.endswith("/statuses/") and moment == "after" and not late:
            late.append(record)
            sim.add_status(sim.jobs[job_id], "Pending")

    sim.on_request = start_after_the_first_look
    rescale.job_submit(*access, "job", job_id)
    assert late
    assert submissions(sim) == 0


def test_another_job_of_the_same_name_needs_no_such_time(access, clock, sim, set_up):
    Path("job.job").write_text("abcXYZ\n")
    job_id = set_up()
    rescale.job_submit(*access, "job", job_id)
    assert sim.starts == {job_id: 1}
    assert clock.now < rescale.SUBMIT_PATIENCE / 2
