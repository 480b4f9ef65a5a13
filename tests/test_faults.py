"""Whatever the network does to a chain: the right result, and every job started exactly once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
import requests

import rescale_rest_api as rescale
from in_memory import PLATFORM, TOKEN, connect, stopped_clock
from rescale_simulator import Fault, Record
from two_jobs import INPUT, LINKS, REQUESTS, Watch, assert_right, command, submissions, text_job

JOB = ("user_included", "0", {}, "emerald", 1, 1, 1, "xDdRk")

FAULTS = {  # name: (fault of the simulator, its details)
    "refused": ("refused", {"seconds": 0.2}),
    "reset before": ("reset_before", {}),
    "reset after": ("reset_after", {}),
    "timeout before": ("timeout_before", {}),
    "timeout after": ("timeout_after", {}),
    "429": ("throttled", {"retry_after": "20"}),
    "429 until a date": ("throttled", {"retry_after": "date"}),
    "503": ("503", {}),
    "HTML": ("html", {}),
    "truncated": ("truncated", {}),
    "503 after": ("503_after", {}),
    "HTML after": ("html_after", {}),
}
CASES = [
    (fault, at) for fault in FAULTS for at in REQUESTS
    if "POST" in at or fault not in ("503 after", "HTML after")  # a GET does nothing that these could hide
]


def run_chain(access: tuple[str, str], check: bool = True) -> list[Path]:
    """What main.py does, with two jobs that each need what the one before it wrote."""
    Path("steps.txt").write_text(INPUT, encoding="utf-8")
    if check:
        rescale.check_settings(*access, *JOB)
    job_id = None
    for name, word in LINKS:
        inputs = (
            rescale.file_previous_job(*access, job_id) if job_id
            else rescale.upload_local_files(*access, rescale.create_tar_gz())
        )
        job_id = rescale.job_setup(*access, name, command(word), *JOB, inputs)
        rescale.job_submit(*access, name, job_id)
        rescale.job_monitor(*access, job_id)
    return rescale.job_download(*access, name, job_id)


def steps(values: list[float]) -> list[float]:
    return [after - before for before, after in zip(values, values[1:])]


@pytest.fixture
def idle(monkeypatch):
    """A clock for waits of hours: they take no time at all."""
    clock = stopped_clock()
    monkeypatch.setattr(rescale, "time", clock)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 2)
    return clock


# The matrix


def test_the_matrix_has_all_requests_of_a_chain(sim, access):
    watch = Watch(sim)

    assert_right(sim, *run_chain(access))

    assert list(dict.fromkeys(watch.names)) == REQUESTS


@pytest.mark.parametrize(("fault", "at"), CASES)
def test_a_chain_ends_right_whatever_fails_once(sim, access, fault, at, monkeypatch):
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 0.3)
    name, details = FAULTS[fault]
    if details.get("retry_after") == "date":
        details = {"retry_after": formatdate(time.time() + 20, usegmt=True)}
    watch = Watch(sim, name, at, **details)

    assert_right(sim, *run_chain(access))

    assert watch.hits == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_ends_right_when_every_third_request_fails(sim, access, seed):
    Watch(sim)
    sim._random.seed(seed)
    sim.flaky = 0.33

    assert_right(sim, *run_chain(access))


# When a request is repeated, and when not


@pytest.mark.parametrize("by_date", [False, True])
def test_no_request_is_repeated_sooner_than_the_platform_asks(sim, access, idle, by_date):
    asked_at = []
    idle.time = time.time
    sim.on_request = lambda record, when: asked_at.append(idle.now) if when == "before" else None
    for seconds in (7, 300, 1500):
        value = formatdate(time.time() + seconds + 1, usegmt=True) if by_date else str(seconds)
        sim.faults.append(Fault("throttled", retry_after=value))

    rescale.job_setup(*access, "job", "true", *JOB, [])

    waits = steps(asked_at)
    assert len(waits) == 3
    for wait, least in zip(waits, (7, 300, 1500)):
        assert least - by_date <= wait <= 1.3 * (least + 2)  # a date has no fractions of a second


def test_the_log_of_a_job_is_not_asked_for_again_sooner_than_the_platform_asks(sim, access, idle):
    job_id = text_job(sim, 'until [ -e "$HOME/go" ]; do sleep 0.01; done\n')
    sim.faults.append(Fault("throttled", path="/tail/", retry_after="120"))
    asked_at = []

    def note(record: Record, when: str) -> None:
        if "/tail/" in record.path and when == "before":
            asked_at.append(idle.now)
            if len(asked_at) == 2:
                (sim.jobs[job_id].folder / "go").touch()

    sim.on_request = note
    rescale.job_submit(*access, "job", job_id)
    rescale.job_monitor(*access, job_id)

    assert asked_at[1] - asked_at[0] >= 120


@pytest.mark.parametrize("value", ["soon", "-5", "", "1e400", "9" * 5000, "Wed, 99 Foo 2026 25:61:00 GMT", "nan"])
def test_a_retry_after_that_means_nothing_is_ignored(idle, value):
    answers = iter([(429, {"detail": "throttled"}, {"Retry-After": value}), (201, {"id": "abCdEf"})])
    connect(lambda request: next(answers))
    began = idle.now

    assert rescale.job_setup(PLATFORM, TOKEN, "job", "true", *JOB, []) == "abCdEf"

    assert idle.now - began < 10


@pytest.mark.parametrize("fault", ["reset_before", "503", "html", "truncated"])
def test_a_call_gives_up_after_about_ten_minutes_with_ever_longer_waits_between(sim, access, idle, fault):
    job_id = text_job(sim)
    asked_at = []
    sim.on_request = lambda record, when: asked_at.append(idle.now) if when == "before" else None
    sim.faults.append(Fault(fault, times=1000))
    began = idle.now

    with pytest.raises(rescale.RescaleError) as error:
        rescale.job_settings(*access, job_id)

    assert 400 <= idle.now - began <= 620
    waits = steps(asked_at)
    assert waits[0] < 3
    assert max(waits) < 80
    assert all(1.2 * after > before for before, after in zip(waits, waits[1:6]))
    assert len(asked_at) < 25
    words = {"503": "503", "html": "text/html", "truncated": "JSON", "reset_before": "reset|aborted|closed"}[fault]
    assert re.search(words, str(error.value), re.IGNORECASE)
    assert f"/api/v2/jobs/{job_id}/ failed" in str(error.value)


def test_a_call_gives_up_with_the_words_of_the_server(idle):
    connect(lambda request: (503, {"detail": "Maintenance until 14:00 UTC"}))

    with pytest.raises(rescale.RescaleError, match=r"503: Maintenance until 14:00 UTC"):
        rescale.job_setup(PLATFORM, TOKEN, "job", "true", *JOB, [])


def test_two_clients_do_not_come_back_in_the_same_moment(idle):
    connect(lambda request: (503, {}))
    ends = set()
    for _ in range(2):
        began = idle.now
        with pytest.raises(rescale.RescaleError):
            rescale.job_stop(PLATFORM, TOKEN, "abCdEf")
        ends.add(idle.now - began)

    assert len(ends) == 2


def test_a_wait_that_is_long_enough_to_notice_is_announced(sim, access, idle, capsys):
    sim.faults += [Fault("503"), Fault("throttled", retry_after="90")]

    rescale.job_setup(*access, "job", "true", *JOB, [])

    waiting = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert len(waiting) == 1  # the first wait was of a second
    assert re.search(r"429.*\b(9\d|1[01]\d) s", waiting[0])
    assert sim.url.partition("://")[2] in waiting[0]


CALLS = {
    "upload_local_files": lambda: rescale.upload_local_files(PLATFORM, TOKEN, __file__),
    "job_setup": lambda: rescale.job_setup(PLATFORM, TOKEN, "job", "true", *JOB, []),
    "job_submit": lambda: rescale.job_submit(PLATFORM, TOKEN, "job", "abCdEf"),
    "job_monitor": lambda: rescale.job_monitor(PLATFORM, TOKEN, "abCdEf"),
    "job_download": lambda: rescale.job_download(PLATFORM, TOKEN, "job", "abCdEf"),
    "file_previous_job": lambda: rescale.file_previous_job(PLATFORM, TOKEN, "abCdEf"),
    "job_stop": lambda: rescale.job_stop(PLATFORM, TOKEN, "abCdEf"),
}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413])
@pytest.mark.parametrize("call", CALLS)
def test_what_the_platform_refuses_ends_at_once_with_its_words(idle, call, status):
    network = connect(lambda request: (status, {"detail": "Nothing doing."}))
    began = idle.now

    with pytest.raises(rescale.RescaleError, match=rf"{status}\b.*: Nothing doing\.") as error:
        CALLS[call]()

    assert (network.count, idle.now) == (1, began)
    assert error.value.status == status
    assert (f"region: is it one of {PLATFORM}" in str(error.value)) == (status == 401)


@pytest.mark.parametrize(("body", "headers"), [
    (b'{"detail": "Not fo', {"Content-Length": "500"}),
    (b"Not found.", {"Content-Encoding": "gzip"}),
    (b"", {}),
    (b"<html>Not found</html>", {"Content-Type": "text/html"}),
    (b"\xff\xfe\x00", {"Content-Type": "application/json; charset=none"}),
])
@pytest.mark.parametrize("call", ["job_setup", "job_monitor"])
def test_a_refusal_that_cannot_be_read_is_a_refusal_all_the_same(idle, call, body, headers):
    def answer(request: requests.PreparedRequest) -> tuple:
        assert network.count < 100, "asked again and again"
        return 404, body, headers

    network = connect(answer)

    with pytest.raises(rescale.RescaleError, match=r"\b404\b"):
        CALLS[call]()

    assert network.count == 1


def test_errors_of_fields_are_told_with_their_place_in_the_job(sim, access):
    with pytest.raises(rescale.RescaleError) as error:
        rescale.job_setup(*access, "job", "true", "user_included", "0", {}, "emerald", 7, 1, 999, "noSuch", [])

    text = str(error.value)
    assert "jobanalyses.0.hardware.coresPerSlot: emerald comes with 1, 2, 4" in text
    assert "jobanalyses.0.hardware.walltime: " in text
    assert 'projectId: Invalid project "noSuch".' in text
    assert len(sim.requests) == 1


def test_a_key_of_another_region_is_told_so(sim, fast):
    with pytest.raises(rescale.RescaleError, match="401.*Invalid token.*one region"):
        rescale.job_setup(sim.url, "Token of-another-region", "job", "true", *JOB, [])

    assert len(sim.requests) == 1


@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "reset_midway", "503", "503_after", "timeout_before"])
def test_an_upload_that_fails_starts_again_with_the_whole_file(sim, access, fault):
    content = os.urandom(3_000_000)
    Path("rescale.tar.gz").write_bytes(content)
    sim.faults.append(Fault(fault, times=2))

    [entry] = rescale.upload_local_files(*access)

    assert sim.files[entry["id"]].path.read_bytes() == content
    assert len(sim.requests) == 3


@pytest.mark.parametrize("fault", ["reset_after", "timeout_after", "503_after", "html_after", "truncated"])
def test_only_the_job_whose_id_arrived_is_ever_started(sim, access, fault):
    """A set-up whose answer is lost leaves a job behind that costs nothing, for it is not submitted."""
    sim.faults.append(Fault(fault, "POST", "/jobs/$"))

    job_id = rescale.job_setup(*access, "job", "true", *JOB, [])
    rescale.job_submit(*access, "job", job_id)
    rescale.job_monitor(*access, job_id)

    assert len(sim.jobs) == 2
    assert dict(sim.starts) == {job_id: 1}


# A job is started exactly once


@pytest.mark.parametrize("fault", ["late", "503_after", "reset_after", "timeout_after", "html_after", "truncated"])
def test_an_unclear_answer_to_a_submission_that_was_heard_does_not_repeat_it(sim, access, fault):
    sim.resubmit = "again"
    job_id = text_job(sim, "sleep 60")
    sim.faults.append(Fault(fault, "POST", "/submit/", seconds=0.1 if fault == "late" else None))

    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}
    assert len(submissions(sim)) == 1


@pytest.mark.parametrize("fault", ["reset_before", "timeout_before", "503", "504", "throttled", "html", "refused"])
def test_a_submission_that_was_not_heard_is_repeated(sim, access, fault):
    sim.resubmit = "again"
    job_id = text_job(sim, "sleep 60")
    sim.faults.append(Fault(fault, "POST", "/submit/", times=2))

    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}
    assert len(submissions(sim)) == 3


def test_a_submission_that_is_redirected_starts_no_other_job(sim, access):
    job_id, other = text_job(sim, "sleep 60"), text_job(sim, "sleep 60")
    sim.faults.append(Fault("redirect", "POST", "/submit/", location=f"{sim.url}/api/v2/jobs/{other}/submit/"))

    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}


def test_before_a_submission_is_repeated_the_statuses_are_read(sim, access):
    job_id = text_job(sim, "sleep 60")
    sim.faults.append(Fault("503", "POST", "/submit/", times=2))

    rescale.job_submit(*access, "job", job_id)

    paths = [record.path.rsplit("/", 2)[1] for record in sim.requests[1:]]
    assert re.fullmatch(r"(statuses,)+submit,(statuses,)+submit,(statuses,)+submit(,statuses)+", ",".join(paths))


@pytest.mark.parametrize("seconds", [1, 15, 50])
def test_a_start_that_shows_only_after_a_while_is_waited_for(idle, seconds):
    """The statuses of a platform of many computers may lag behind what it has accepted."""
    submitted_at: list[float] = []

    def answer(request: requests.PreparedRequest) -> tuple:
        if request.method == "POST":
            submitted_at.append(idle.now)
            return 504, b"", {"Content-Type": "text/html"}
        shows = submitted_at and idle.now - submitted_at[0] >= seconds
        return 200, {"results": [{"status": "Pending", "statusDate": None}] if shows else [], "next": None}

    connect(answer)
    rescale.job_submit(PLATFORM, TOKEN, "job", "abCdEf")

    assert len(submitted_at) == 1


def test_an_accepted_submission_without_a_status_is_reported_not_believed(sim, access, capsys):
    sim.silent_submit = True
    job_id = text_job(sim)

    with pytest.raises(rescale.RescaleError, match=rf"{job_id}.*no status(?s:.*)/jobs/{job_id}/runs/1/results/"):
        rescale.job_submit(*access, "job", job_id)

    assert "submitted" not in capsys.readouterr().out
    assert len(submissions(sim)) == 1


@pytest.mark.parametrize("resubmit", ["again", "400", "ignore"])
@pytest.mark.parametrize("ended", [False, True])
def test_submitting_again_starts_nothing(sim, access, resubmit, ended, capsys):
    sim.resubmit = resubmit
    job_id = text_job(sim, "true" if ended else "sleep 60")
    rescale.job_submit(*access, "job", job_id)
    if ended:
        rescale.job_monitor(*access, job_id)

    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}
    assert len(submissions(sim)) == 1
    assert capsys.readouterr().out.splitlines().count(f"Job {job_id} : submitted") == 2


def test_a_platform_that_refuses_the_second_submission_has_accepted_the_first(idle):
    """The first answer is lost, and the statuses stay empty until the next try is made."""
    answers = iter([(504, b"", {"Content-Type": "text/html"}), (400, {"detail": "Submitted already."})])
    refused = []

    def answer(request: requests.PreparedRequest) -> tuple:
        if request.method == "POST":
            status, *rest = next(answers)
            refused.extend([status] if status == 400 else [])
            return (status, *rest)
        return 200, {"results": [{"status": "Pending"}] if refused else [], "next": None}

    connect(answer)
    rescale.job_submit(PLATFORM, TOKEN, "job", "abCdEf")

    assert refused == [400]


@pytest.mark.parametrize("fault", ["reset_after", "503_after", "timeout_after"])
def test_an_outage_that_hides_whether_a_job_was_started_is_told_so_and_can_be_gone_on_from(sim, access, idle, fault):
    sim.resubmit = "again"
    job_id = text_job(sim, "sleep 60")
    outage = Fault("503", "GET", "/statuses/", skip=1, times=1000)
    sim.faults += [Fault(fault, "POST", "/submit/"), outage]

    with pytest.raises(rescale.RescaleError, match=rf"{job_id}.*may (have been started|run)"):
        rescale.job_submit(*access, "job", job_id)
    sim.faults.remove(outage)
    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}
    assert len(submissions(sim)) == 1


def test_a_refused_submission_ends_with_the_words_of_the_platform(sim, access):
    file = rescale.upload_local_files(*access, __file__)
    job_id = rescale.job_setup(*access, "job", "true", *JOB, file)
    sim.files[file[0]["id"]].is_deleted = True

    with pytest.raises(rescale.RescaleError, match=r"400.*inputFiles: An input file has been deleted\."):
        rescale.job_submit(*access, "job", job_id)

    assert not sim.starts
    assert len(submissions(sim)) == 1


def test_the_job_file_is_there_before_the_submission_is_sent(sim, access):
    job_id = text_job(sim)
    there = []
    sim.on_request = lambda record, when: there.append(
        Path("job.job").exists() and Path("job.job").read_text(encoding="utf-8").strip()
    ) if record.method == "POST" and when == "before" else None

    rescale.job_submit(*access, "job", job_id)

    assert there == [job_id]


OTHER_PROCESS = """
import sys
import rescale_rest_api as rescale

def pause(event, arguments):
    global waiting
    if waiting and any(".job" in str(argument) for argument in arguments):
        waiting = False
        print("about to touch the .job file", flush=True)
        sys.stdin.readline()

waiting = sys.argv[4] == "pause"
sys.addaudithook(pause)
try:
    rescale.job_submit(sys.argv[1], sys.argv[2], "job", sys.argv[3])
    print("submitted", flush=True)
except rescale.RescaleError as error:
    print("refused:", error, flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def other_process(access, job_id, how):
    """Another process that submits under the same name; it says what it does, and waits for a line to go on."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, *access, job_id, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, bufsize=1, env={**os.environ, "PYTHONPATH": str(Path(rescale.__file__).parent)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def last_word(process: subprocess.Popen) -> str:
    return next(line for line in process.stdout if not line.startswith(("- ", "Job ")))


@pytest.mark.parametrize("same_job", [True, False])
def test_two_processes_do_not_start_the_same_link(sim, access, same_job):
    sim.resubmit = "again"
    first = text_job(sim, "sleep 60")
    second = first if same_job else text_job(sim, "sleep 60")

    with other_process(access, first, "run") as other:
        assert last_word(other) == "submitted\n"
        with pytest.raises(rescale.RescaleError, match="another process"):
            rescale.job_submit(*access, "job", second)

    assert dict(sim.starts) == {first: 1}
    assert Path("job.job").read_text(encoding="utf-8").strip() == first


@pytest.mark.parametrize("same_job", [True, False])
def test_two_processes_do_not_start_the_same_link_even_in_the_same_moment(sim, access, same_job):
    sim.resubmit = "again"
    first = text_job(sim, "sleep 60")
    second = first if same_job else text_job(sim, "sleep 60")

    with other_process(access, second, "pause") as other:
        assert last_word(other) == "about to touch the .job file\n"  # having found that there is none
        rescale.job_submit(*access, "job", first)
        other.stdin.write("\n")
        assert "refused" in last_word(other)

    assert dict(sim.starts) == {first: 1}
    assert Path("job.job").read_text(encoding="utf-8").strip() == first


def test_a_process_that_is_gone_is_in_nobodys_way(sim, access):
    job_id = text_job(sim, "sleep 60")
    with other_process(access, job_id, "run") as other:
        assert last_word(other) == "submitted\n"

    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}


# A monitor outlasts what the job outlasts


@pytest.mark.parametrize("fault", ["reset_before", "503", "html", "truncated", "throttled"])
def test_a_monitor_goes_on_through_an_outage_of_hours_and_says_so(sim, access, idle, capsys, fault):
    job_id = text_job(sim, 'until [ -e "$HOME/go" ]; do sleep 0.01; done\n')
    rescale.job_submit(*access, "job", job_id)
    outage = Fault(fault, times=10**6)
    began, asked = idle.now, []

    def weather(record: Record, when: str) -> None:
        if when == "before":
            asked.append(idle.now)
        hours = (idle.now - began) / 3600
        sim.faults[:] = [outage] if 0.1 <= hours < 4 else []
        if hours >= 4:
            (sim.jobs[job_id].folder / "go").touch()

    sim.on_request = weather
    rescale.job_monitor(*access, job_id)

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    host = sim.url.partition("://")[2]
    assert len(lines) == 2
    assert f"no connection to {host}" in lines[0]
    assert re.search(rf"{host} is back after [34] h \d\d min", lines[1])
    assert 200 < len([time_ for time_ in asked if 360 < time_ - began < 4 * 3600]) < 4 * 90


def test_a_monitor_ends_at_once_when_the_key_is_withdrawn(sim, access, idle):
    job_id = text_job(sim, "sleep 60")
    rescale.job_submit(*access, "job", job_id)
    began = idle.now

    def withdraw(record: Record, when: str) -> None:
        if idle.now - began > 600:
            sim.token = "another"

    sim.on_request = withdraw
    with pytest.raises(rescale.RescaleError, match="401"):
        rescale.job_monitor(*access, job_id)

    assert idle.now - began < 700


def history(*statuses: tuple[str, str | None]) -> dict:
    results = [
        {"status": status, "statusReason": reason, "statusDate": f"2026-01-02T03:04:{second:02}Z"}
        for second, (status, reason) in enumerate(statuses)
    ]
    return {"count": len(results), "next": None, "previous": None, "results": results[::-1]}


RUNNING = (("Pending", None), ("Queued", None), ("Executing", None))
ARCHIVE = {
    "id": "arChiv", "name": "rescale.tar.gz", "relativePath": "rescale.tar.gz", "decryptedSize": 0, "isUploaded": True,
    "path": "x/rescale.tar.gz", "typeId": 5, "fileChecksums": [], "md5": None,
}
LOG = {**ARCHIVE, "id": "loGloG", "name": "process_output.log", "relativePath": "process_output.log"}


@pytest.mark.parametrize("empty", [[], [("Pending", None)]])
def test_a_history_that_is_behind_the_times_does_not_end_a_monitor(idle, empty, capsys):
    """One computer of the platform may know less than another, for a moment."""
    began = idle.now

    def answer(request: requests.PreparedRequest) -> tuple:
        minutes = (idle.now - began) / 60
        if "/tail/" in request.url:
            return 404, {"detail": "Not found."}
        if "/files/" in request.url:
            return 200, {"results": [ARCHIVE], "next": None}
        if 10 < minutes < 11:
            return 200, history(*empty)
        return 200, history(*RUNNING, *([("Completed", "Completed successfully")] if minutes > 20 else []))

    connect(answer)
    rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")

    assert idle.now - began > 1200
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Job ") and "no new line" not in line] == [
        f"Job abCdEf : {status}" for status in ("Pending", "Queued", "Executing", "Completed")
    ]


def test_a_monitor_that_is_told_to_come_back_in_weeks_looks_sooner(idle):
    answers = iter([(429, {"detail": "throttled"}, {"Retry-After": "2000000"})])
    began = idle.now

    def answer(request: requests.PreparedRequest) -> tuple:
        if "/files/" in request.url:
            return 200, {"results": [ARCHIVE], "next": None}
        return next(answers, (200, history(*RUNNING, ("Completed", "Completed successfully"))))

    connect(answer)
    rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")

    assert idle.now - began < 2 * 3600


def answering_end(idle, reason: str | None, log: bytes, unreachable: float):
    """A job that has ended and left a log, which cannot be fetched for `unreachable` seconds."""
    began = idle.now

    def answer(request: requests.PreparedRequest) -> tuple:
        if "/contents/" in request.url:
            return (503, b"") if idle.now - began < unreachable else (200, log, {"Content-Type": "text/plain"})
        if "/files/" in request.url:
            return 200, {"results": [ARCHIVE, {**LOG, "decryptedSize": len(log)}], "next": None}
        return 200, history(*RUNNING, ("Completed", reason))

    return answer


@pytest.mark.parametrize("odd", [
    {"detail": "maintenance"}, [], None, {"results": None, "next": None}, {"results": ["Queued"], "next": None},
    {"results": [], "next": f"{PLATFORM}/api/v2/jobs/abCdEf/statuses/?page=2"},
])
def test_a_monitor_sits_out_an_answer_that_is_no_list(idle, odd, capsys):
    began, answer = idle.now, answering_end(idle, "Completed successfully", b"", 0)
    connect(lambda request: (200, odd) if idle.now - began < 7200 else answer(request))

    rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")

    assert idle.now - began > 7200
    assert "the answer is no list" in capsys.readouterr().out


@pytest.mark.parametrize("unreachable", [0, 60, 3 * 3600])
def test_a_success_that_only_the_log_tells_is_a_success_after_any_outage(idle, unreachable):
    connect(answering_end(idle, None, b"[2026-01-02T03:05:00Z]: Exited with code 0\n", unreachable))

    rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")


@pytest.mark.parametrize("unreachable", [0, 60, 3 * 3600])
def test_a_failure_that_only_the_log_tells_is_a_failure_after_any_outage(idle, unreachable):
    log = b"[2026-01-02T03:05:00Z]: Exited with code 3\n"
    connect(answering_end(idle, "Completed successfully", log, unreachable))

    with pytest.raises(rescale.JobFailed, match="exit code 3"):
        rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")


def test_an_outage_of_everything_after_the_end_of_a_job_is_waited_out_however_long(idle):
    """A night and a day, say: longer than what is waited where only the log is missing."""
    answer = answering_end(idle, None, b"[2026-01-02T03:05:00Z]: Exited with code 0\n", 0)
    began = idle.now
    connect(lambda request: (503, b"") if 0 < idle.now - began < 24 * 3600 or "/files/" in request.url and
            idle.now == began else answer(request))

    rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")

    assert idle.now - began >= 24 * 3600


def test_a_success_is_not_believed_as_long_as_what_the_job_left_cannot_be_looked_at(idle):
    answer = answering_end(idle, "Completed successfully", b"[2026-01-02T03:05:00Z]: Exited with code 3\n", 0)
    connect(lambda request: (403, {"detail": "Nothing doing."}) if "/files/" in request.url else answer(request))

    with pytest.raises(rescale.RescaleError, match=r"cannot be looked at.*403"):
        rescale.job_monitor(PLATFORM, TOKEN, "abCdEf")


@pytest.mark.parametrize("unreachable", [0, 60])
def test_a_failed_jobs_archive_is_no_input_although_the_log_came_late(idle, unreachable):
    log = b"[2026-01-02T03:05:00Z]: Exited with code 3\n"
    connect(answering_end(idle, None, log, unreachable))

    with pytest.raises(rescale.RescaleError, match="exit code 3"):
        rescale.file_previous_job(PLATFORM, TOKEN, "abCdEf")


def test_a_log_that_cannot_be_had_is_no_licence_to_use_the_archive_of_a_job_that_may_have_failed(idle):
    connect(answering_end(idle, None, b"[2026-01-02T03:05:00Z]: Exited with code 3\n", math.inf))

    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(PLATFORM, TOKEN, "abCdEf")


# What a list may look like


@pytest.mark.parametrize("quirks", [
    {"page_size_cap": 2}, {"page_size_cap": 2, "next_without_slash": True},
    {"page_size_cap": 2, "next_drops_query": True}, {"newest_first": False}, {"date_style": "Z"},
    {"listing_lag": 2}, {"upload_lag": 3}, {"lists_input_files": False}, {"shared_work": True},
    {"contents_redirect": True}, {"ignore_range": True}, {"checksums": "none"}, {"tail_off_run": "html"},
    {"timeline": ("Pending", "Queued", "Started", "Executing", "Pending", "Queued", "Executing")},
])
def test_a_chain_ends_right_in_every_way_that_a_platform_may_have(sim, access, quirks):
    Watch(sim)
    for name, value in quirks.items():
        setattr(sim, name, value)

    paths = run_chain(access, check="page_size_cap" not in quirks)  # hundreds of pages of tiles

    assert_right(sim, next(path for path in paths if path.name == "rescale.tar.gz"))


def test_a_list_without_an_end_is_not_read_for_ever(idle):
    def answer(request: requests.PreparedRequest) -> tuple:
        assert network.count < 1_200, "still reading"
        page = int(re.search(r"page=(\d+)|$", request.url.partition("page_size=")[2])[1] or 1)
        return 200, {"results": [], "next": f"{request.url.partition('?')[0]}?page={page + 1}"}

    network = connect(answer)

    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(PLATFORM, TOKEN, "abCdEf")


def test_an_answer_without_an_end_does_not_fill_the_disk(idle):
    taken = []

    def answer(request: requests.PreparedRequest) -> tuple:
        taken.append(sum(path.stat().st_size for path in Path().rglob("*") if path.is_file()))
        if "/contents/" in request.url:
            return 200, b"x" * 5_000_000, {"Content-Type": "application/octet-stream"}
        return 200, {"results": [{**ARCHIVE, "decryptedSize": 1000}], "next": None}

    connect(answer)
    with pytest.raises(rescale.RescaleError, match="more than 1000 bytes"):
        rescale.job_download(PLATFORM, TOKEN, "job", "abCdEf")

    assert max(taken) <= 1000


def test_every_request_has_both_timeouts(sim, access, monkeypatch):
    """Without the one for connecting, a firewall that drops packets would hold a chain for ever."""
    timeouts = []
    send = requests.adapters.HTTPAdapter.send
    monkeypatch.setattr(
        requests.adapters.HTTPAdapter, "send",
        lambda *args, **options: (timeouts.append(options["timeout"]), send(*args, **options))[1],
    )
    Watch(sim)

    run_chain(access)

    assert len(timeouts) == len(sim.requests)
    assert all(0 < connect <= 60 and 0 < read <= 3600 for connect, read in timeouts)


def test_the_answer_that_no_json_can_hold_is_a_fault_not_a_crash(idle):
    bodies = [b"", b"\xff\xfe", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b"<html>", b'{"id": "abC']
    answers = iter([*((201, body) for body in bodies), (201, {"id": "abCdEf"})])
    connect(lambda request: next(answers))

    assert rescale.job_setup(PLATFORM, TOKEN, "job", json.dumps({"a": 1}), *JOB, []) == "abCdEf"
