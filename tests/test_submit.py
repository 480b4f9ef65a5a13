"""5. job_submit: a job starts exactly once, whatever the network does, and its id is on the disk before."""

from __future__ import annotations

import contextlib
import errno
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


@pytest.mark.parametrize("job_name", ["me@rod@1", "압력 해석"], ids=["usual", "korean"])
def test_a_submitted_job_starts_and_leaves_its_id_and_a_link(job_name, access, sim, set_up, capsys):
    job_id = set_up()
    assert rescale.job_submit(*access, job_name, job_id) is None
    assert capsys.readouterr().out == f"Job {job_id} : submitted\n"
    assert here() == [f"{job_name}.desktop", f"{job_name}.job"]
    assert Path(f"{job_name}.job").read_text(encoding="utf-8").strip() == job_id
    link = Path(f"{job_name}.desktop").read_text(encoding="utf-8").splitlines()
    page = f"{sim.url}/jobs/{job_id}/runs/1/results/"
    assert link == ["[Desktop Entry]", "Type=Link", f"Name={job_name}", f"URL={page}"]
    assert sim.starts == {job_id: 1}


def test_on_windows_the_link_is_one_of_its_own_kind(access, sim, set_up, monkeypatch):
    job_id = set_up()
    monkeypatch.setattr(rescale, "WINDOWS", True)
    rescale.job_submit(*access, "job", job_id)
    assert here() == ["job.job", "job.url"]
    assert Path("job.url").read_text() == f"[InternetShortcut]\nURL={sim.url}/jobs/{job_id}/runs/1/results/\n"


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
    assert capsys.readouterr().out == f"Job {job_id} : submitted\nJob {job_id} : submitted earlier\n"


@pytest.mark.parametrize("job_name", ["job", "another"])
def test_a_job_that_has_ended_is_not_submitted_again(job_name, access, sim, run_job, capsys):
    sim.resubmit_completed = "400"
    job_id = run_job()
    rescale.job_submit(*access, job_name, job_id)
    assert submissions(sim) == 1
    assert capsys.readouterr().out == f"Job {job_id} : submitted earlier\n"


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


# A link has its job when its .job file exists


def refused(access, sim, *jobs, name="job"):
    """The error of submitting the last of these jobs, which has started none of them."""
    starts = dict(sim.starts)
    with pytest.raises(rescale.RescaleError) as error:
        rescale.job_submit(*access, name, jobs[-1])
    assert sim.starts == starts
    return str(error.value)


def test_a_job_file_that_is_a_folder_is_named_and_nothing_is_submitted(access, sim, set_up):
    Path("job.job").mkdir()
    assert "job.job" in refused(access, sim, set_up())
    assert here() == ["job.job"]


@pytest.mark.parametrize("content", [b"a/b\n", b"\xff\xfe\n"], ids=["path", "bytes"])
def test_a_job_file_that_holds_no_job_is_left_as_it_is(content, access, sim, set_up):
    Path("job.job").write_bytes(content)
    refused(access, sim, set_up())
    assert Path("job.job").read_bytes() == content


def test_an_empty_job_file_is_that_of_a_run_that_was_killed_and_no_obstacle(access, sim, set_up):
    job_id = set_up()
    Path("job.job").touch()
    rescale.job_submit(*access, "job", job_id)
    assert sim.starts == {job_id: 1}
    assert Path("job.job").read_text().strip() == job_id


@pytest.mark.parametrize("state", ["draft", "running"])
def test_the_name_of_another_job_that_may_still_be_wanted_is_refused(state, access, sim, set_up):
    first, second = set_up(command="sleep 60\n"), set_up()
    if state == "running":
        rescale.job_submit(*access, "job", first)
    else:
        Path("job.job").write_text(f"{first}\n")
    text = refused(access, sim, first, second)
    assert first in text
    assert second in text
    assert Path("job.job").read_text().strip() == first


@pytest.mark.parametrize("earlier", ["ended", "unknown"])
def test_a_name_can_be_used_again_when_its_job_has_ended_or_is_none(earlier, access, clock, sim, run_job, set_up):
    first = run_job() if earlier == "ended" else "abcXYZ"
    Path("job.job").write_text(f"{first}\n")
    second = set_up()
    rescale.job_submit(*access, "job", second)
    assert sim.starts.get(second) == 1
    assert Path("job.job").read_text().strip() == second
    assert clock.now < rescale.SUBMIT_PATIENCE / 2  # no submission of it can be on its way


def test_after_a_kill_the_platform_gets_time_to_show_a_start_before_it_is_repeated(access, clock, sim, set_up):
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


def test_a_job_that_was_never_started_for_a_kill_is_started_after_that_time(access, clock, sim, set_up):
    job_id = set_up()
    Path("job.job").write_text(f"{job_id}\n")
    rescale.job_submit(*access, "job", job_id)
    assert sim.starts == {job_id: 1}
    assert clock.now >= rescale.SUBMIT_PATIENCE


# Two processes


def without(monkeypatch, *missing):
    """A file system without these: locks, with the answer of some cluster's, or links."""
    def fail(number):
        def call(*_):
            raise OSError(number, os.strerror(number))
        return call

    for name in missing:
        target = "fcntl.flock" if name in ("ENOSYS", "ENOLCK") else "os.link"
        monkeypatch.setattr(f"rescale_rest_api.{target}", fail(getattr(errno, name, errno.EPERM)))


FILE_SYSTEMS = {"usual": (), "no locks (ENOSYS)": ("ENOSYS",), "no locks (ENOLCK)": ("ENOLCK",), "no links": ("link",),
                "neither": ("ENOSYS", "link")}
CLIENT = """
import sys
import pytest
from conftest import Clock
from test_submit import FILE_SYSTEMS, without
import rescale_rest_api as rescale

access, case = sys.argv[1:3], sys.argv[3]
rescale.time = Clock(200)
with pytest.MonkeyPatch.context() as patch:
    without(patch, *FILE_SYSTEMS[case])
    for line in sys.stdin:
        try:
            rescale.job_submit(*access, *line.split())
        except rescale.RescaleError as error:
            print("refused", error)
        print("done", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="fcntl is not there")
@pytest.mark.parametrize("case", FILE_SYSTEMS)
def test_of_two_processes_at_the_same_link_at_most_one_starts_its_job(case, access, sim, set_up):
    sim.resubmit = "again"
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, *access, case], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        ) for _ in range(2)
    ]
    try:
        for number in range(8):
            first = set_up(command="sleep 60\n")
            jobs = (first, set_up(command="sleep 60\n")) if number % 2 else (first, first)
            for client, job_id in zip(clients, jobs):
                client.stdin.write(f"job{number} {job_id}\n")
            for client in clients:
                client.stdin.flush()
            for client in clients:
                while client.stdout.readline() != "done\n":
                    assert client.poll() is None
            starts = {job_id: sim.starts[job_id] for job_id in jobs if sim.starts.get(job_id)}
            assert starts in ({}, *({job_id: 1} for job_id in jobs))
            assert starts or case != "usual"
            assert set(starts) <= {Path(f"job{number}.job").read_text().strip()}
    finally:
        for client in clients:
            client.stdin.close()
            client.wait()
            client.stdout.close()


@pytest.mark.skipif(os.name == "nt", reason="fcntl is not there")
@pytest.mark.parametrize("case", FILE_SYSTEMS)
def test_a_name_whose_job_has_ended_is_taken_by_one_process_only(case, access, sim, run_job, set_up, monkeypatch):
    """The second process comes when the first has seen that the job of that name has ended."""
    earlier, first, second = run_job(), set_up(command="sleep 60\n"), set_up(command="sleep 60\n")
    without(monkeypatch, *FILE_SYSTEMS[case])
    others = [second]

    def submit_another(record, moment):
        if record.path.endswith(f"{earlier}/statuses/") and moment == "after" and others:
            rescale.job_submit(*access, "job", others.pop())

    sim.on_request = submit_another
    with pytest.raises(rescale.RescaleError, match="job.job"):
        rescale.job_submit(*access, "job", first)
    assert not others
    assert {job_id: sim.starts.get(job_id, 0) for job_id in (first, second)} == {first: 0, second: 1}
    assert Path("job.job").read_text().strip() == second


@pytest.mark.skipif(os.name == "nt", reason="fcntl is not there")
def test_an_empty_job_file_is_taken_by_one_process_only(access, sim, set_up, monkeypatch):
    """Where there are no links, the name is there before its content is: another process comes just then."""
    first, second = set_up(command="sleep 60\n"), set_up(command="sleep 60\n")
    without(monkeypatch, *FILE_SYSTEMS["neither"])
    make, others = os.open, [second]

    def make_and_submit_another(path, flags, *arguments, **keywords):
        file = make(path, flags, *arguments, **keywords)
        if Path(path).name == "job.job" and flags & os.O_EXCL and others:
            with contextlib.suppress(rescale.RescaleError):
                rescale.job_submit(*access, "job", others.pop())
        return file

    monkeypatch.setattr(os, "open", make_and_submit_another)
    with contextlib.suppress(rescale.RescaleError):
        rescale.job_submit(*access, "job", first)
    assert not others
    assert sum(sim.starts.values()) <= 1
    assert {job_id for job_id, count in sim.starts.items() if count} <= {Path("job.job").read_text().strip()}


@pytest.mark.skipif(os.name == "nt", reason="locks are others there")
def test_while_a_process_works_on_a_link_no_other_does(access, sim, set_up):
    job_id = set_up(command="sleep 60\n")
    Path("job.job").write_text(f"{job_id}\n")
    with Path("job.job").open("r+") as file:
        fcntl = pytest.importorskip("fcntl")
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "job.job" in refused(access, sim, job_id)
    rescale.job_submit(*access, "job", job_id)  # once that has ended, it can go on
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


def test_a_job_that_the_platform_refuses_to_start_leaves_its_name_to_another(sim, access, set_up):
    Path("in.dat").write_text("1")
    inputs = rescale.upload_local_files(*access, "in.dat")
    refused = set_up(inputfiles_list=inputs)
    sim.files[inputs[0]["id"]].is_deleted = True
    with pytest.raises(rescale.RescaleError, match="400"):
        rescale.job_submit(*access, "job", refused)
    other = set_up()
    rescale.job_submit(*access, "job", other)
    assert Path("job.job").read_text().split() == [other]
    assert (sim.starts[refused], sim.starts[other]) == (0, 1)
