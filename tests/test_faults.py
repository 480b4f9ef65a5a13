"""Whatever the network does to a chain: the right result, every job started exactly once, no token elsewhere."""

from __future__ import annotations

import os
import random
import re
import time
from email.utils import formatdate
from pathlib import Path

import pytest
import requests
import urllib3

import rescale_rest_api as rescale
from in_memory import JOB_ID, KEY, PLATFORM, TOKEN, Platform, a_list, connect, history
from rescale_simulator import Fault
from two_jobs import INPUT, LINKS, Watch, assert_right, command, submissions, text_job

SETTINGS = ("user_included", "0", {}, "emerald", 1, 1, 1, "xDdRk")

FAULTS = {  # of every request
    "refused": {"seconds": 0.05}, "reset_before": {}, "throttled": {"retry_after": "20"}, "503": {}, "html": {},
    "truncated": {},
}
HIDING = {  # of those that do something, which these hide
    "reset_after": {}, "timeout_before": {"seconds": 1}, "timeout_after": {"seconds": 1}, "503_after": {},
    "html_after": {}, "redirect": {},
}


@pytest.fixture
def idle(clock, monkeypatch):
    """A clock for waits of hours that take no time at all, where nothing else happens meanwhile."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return clock


class Strikes(Watch):
    """A fault that strikes the first request of each of these names, and then perhaps another the very next one."""

    def __init__(self, sim, names, fault, then=None, **details):
        super().__init__(sim, fault, **details)
        self.left, self.then = list(names), then

    def strikes(self, record):
        super().strikes(record)
        if self.names[-1] not in self.left:
            return False
        self.left.remove(self.names[-1])
        self.sim.faults += [Fault(self.then)] if self.then else []
        return True


@pytest.fixture
def chain(sim, access, clock, monkeypatch):
    """Run what main.py does, with two jobs that each need what the one before it wrote; return the requests' names."""
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.3)
    top, runs = Path.cwd(), []

    def run(names=(), fault="503", check=True, **details):
        runs.append(top / f"chain{len(runs)}")
        runs[-1].mkdir()
        os.chdir(runs[-1])
        for kept in (sim.jobs, sim.starts, sim.faults):
            kept.clear()
        clock.speed = 200 if fault == "refused" else 0  # a port that is closed is so in real time
        watch = Strikes(sim, names, fault, **{**FAULTS, **HIDING}[fault], **details)
        Path("steps.txt").write_text(INPUT)
        if check:
            rescale.check_settings(*access, *SETTINGS)
        job_id = None
        for name, word in LINKS:
            inputs = (
                rescale.file_previous_job(*access, job_id) if job_id
                else rescale.upload_local_files(*access, rescale.create_tar_gz())
            )
            job_id = rescale.job_setup(*access, name, command(word), *SETTINGS, inputs)
            rescale.job_submit(*access, name, job_id)
            rescale.job_monitor(*access, job_id)
        paths = rescale.job_download(*access, name, job_id)
        assert_right(sim, next(path for path in paths if path.name == "rescale.tar.gz"))
        assert not watch.left, f"{fault} did not strike"
        return list(dict.fromkeys(watch.names))

    yield run
    os.chdir(top)


# The matrix: every fault at every request of a chain, as one run has recorded them


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chain_ends_right_whatever_request_fails_once(fault, chain):
    names = chain()
    assert len(names) > 20
    for part in range(4):
        chain(names[part::4], fault)


@pytest.mark.parametrize("fault", HIDING)
def test_a_chain_ends_right_if_it_is_unclear_whether_a_request_was_heard(fault, chain):
    names = [name for name in chain() if ": POST" in name]
    assert len(names) == 5
    for name in names:
        chain([name], fault)


@pytest.mark.parametrize("part", range(3))
def test_a_chain_ends_right_with_two_faults_in_a_row(part, chain):
    names, chosen = chain(), random.Random(part)
    for _ in range(5):
        first, second = chosen.choice([*FAULTS, *HIDING][1:]), chosen.choice([*FAULTS][1:])
        chain([chosen.choice([name for name in names if first in FAULTS or ": POST" in name])], first, then=second)


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_ends_right_when_every_third_request_fails(seed, chain, sim):
    sim._random.seed(seed)
    sim.flaky = 0.33
    chain()


@pytest.mark.parametrize("quirks", [
    {"page_size_cap": 2, "next_without_slash": True}, {"page_size_cap": 2, "next_drops_query": True},
    {"page_size_cap": 1, "empty_last_page": True}, {"newest_first": False, "date_style": "none"}, {"clock_skew": 0.3},
    {"last_status": "COMPLETED"}, {"listing_lag": 2}, {"upload_lag": 3}, {"size_lag": 3}, {"lists_inputs": "all"},
    {"lists_inputs": "none"}, {"shared_work": True}, {"contents_redirect": True}, {"checksums": "none"},
    {"timeline": ("Pending", "Queued", "Started", "Executing", "Pending", "Queued", "Executing")},
], ids=lambda quirks: " ".join(quirks))
def test_a_chain_ends_right_in_every_way_that_a_platform_may_have(quirks, chain, sim):
    for name, value in quirks.items():
        setattr(sim, name, value)
    chain(check="page_size_cap" not in quirks)  # hundreds of pages of tiles


def test_every_request_has_both_timeouts(chain, sim, monkeypatch):
    """Without the one for connecting, a firewall that drops packets would hold a chain for ever."""
    timeouts = []
    send = requests.adapters.HTTPAdapter.send
    monkeypatch.setattr(
        requests.adapters.HTTPAdapter, "send",
        lambda *args, **options: (timeouts.append(options["timeout"]), send(*args, **options))[1],
    )
    chain()
    assert len(timeouts) == len(sim.requests)
    assert all(0 < connect <= 60 and 0 < read <= 3600 for connect, read in timeouts)


# When a request is repeated, and when not


def set_up():
    return rescale.job_setup(PLATFORM, TOKEN, "job", "true", *SETTINGS, [])


def upload():
    Path("beam.inp").write_text("*HEADING\n")
    return rescale.upload_local_files(PLATFORM, TOKEN, "beam.inp")


CALLS = {
    "upload_local_files": upload,
    "job_setup": set_up,
    "job_submit": lambda: rescale.job_submit(PLATFORM, TOKEN, "job", JOB_ID),
    "job_monitor": lambda: rescale.job_monitor(PLATFORM, TOKEN, JOB_ID),
    "job_download": lambda: rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID),
    "file_previous_job": lambda: rescale.file_previous_job(PLATFORM, TOKEN, JOB_ID),
    "job_stop": lambda: rescale.job_stop(PLATFORM, TOKEN, JOB_ID),
}


def steps(values: list[float]) -> list[float]:
    return [after - before for before, after in zip(values, values[1:])]


@pytest.mark.parametrize("by_date", [False, True], ids=["in seconds", "as a date"])
def test_no_request_is_repeated_sooner_than_the_platform_asks(by_date, idle, capsys):
    asked_at = []

    def answer(request):
        asked_at.append(idle.now)
        if len(asked_at) > 3:
            return 201, {"id": JOB_ID}
        seconds = (3, 300, 1500)[len(asked_at) - 1]
        value = formatdate(time.time() + seconds + 1, usegmt=True) if by_date else str(seconds)
        return 429, {"detail": "throttled"}, {"Retry-After": value}

    connect(answer)
    set_up()
    for wait, least in zip(steps(asked_at), (3, 300, 1500)):
        assert least - by_date <= wait <= 1.3 * (least + 2)  # a date has no fractions of a second
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert len(told) == 2  # the first wait was of seconds
    assert all("platform.example" in line and "429" in line and re.search(r"\b\d{3,4} s", line) for line in told)


def test_the_log_of_a_job_is_not_asked_for_again_sooner_than_the_platform_asks(idle):
    platform, asked_at = Platform([("Executing", None)]), []

    def answer(request):
        if "/tail/" not in request.url:
            return platform(request) if len(asked_at) < 2 else Platform()(request)
        asked_at.append(idle.now)
        return 429, {"detail": "throttled"}, {"Retry-After": "120"}

    connect(answer)
    CALLS["job_monitor"]()
    assert asked_at[1] - asked_at[0] >= 120


@pytest.mark.parametrize("value", ["soon", "-5", "", "1e400", "9" * 5000, "Wed, 99 Foo 2026 25:61:00 GMT", "nan"],
                         ids=lambda value: value[:9])
def test_a_retry_after_that_means_nothing_is_ignored(value, idle):
    answers = iter([(429, {"detail": "throttled"}, {"Retry-After": value}), (201, {"id": JOB_ID})])
    connect(lambda request: next(answers))
    assert set_up() == JOB_ID
    assert idle.now < 10


def test_a_call_gives_up_after_about_ten_minutes_with_ever_longer_waits_and_the_words_of_the_server(idle):
    asked_at, ends = [], set()
    connect(lambda request: (asked_at.append(idle.now), (503, {"detail": "Maintenance until 14:00 UTC"}))[1])
    for _ in range(2):
        del asked_at[:]
        began = idle.now
        with pytest.raises(rescale.RescaleError, match=r"503: Maintenance until 14:00 UTC"):
            set_up()
        assert 400 <= idle.now - began <= 620
        waits = steps(asked_at)
        assert waits[0] < 3
        assert max(waits) < 80
        assert all(1.2 * after > before for before, after in zip(waits, waits[1:6]))
        assert len(asked_at) < 25
        ends.add(idle.now - began)
    assert len(ends) == 2  # two clients do not come back in the same moment


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413])
@pytest.mark.parametrize("call", CALLS)
def test_what_the_platform_refuses_ends_at_once_with_its_words(call, status, idle):
    body = {"detail": "Nothing doing.", "jobanalyses": [{"hardware": ["Too hard."]}]}
    network = connect(lambda request: (status, body))
    with pytest.raises(rescale.RescaleError, match=rf"{status}\b.*: Nothing doing\.") as error:
        CALLS[call]()
    assert (network.count, idle.now, error.value.status) == (1, 0, status)
    assert "jobanalyses.0.hardware: Too hard." in str(error.value)
    assert (f"region: is it one of {PLATFORM}" in str(error.value)) == (status == 401)


@pytest.mark.parametrize(("body", "headers"), [
    pytest.param(b'{"detail": "Not fo', {"Content-Length": "500"}, id="cut"),
    pytest.param(b"Not found.", {"Content-Encoding": "gzip"}, id="not packed"),
    pytest.param(b"", {}, id="empty"),
    pytest.param(b"<html>Not found</html>", {"Content-Type": "text/html"}, id="HTML"),
    pytest.param(b"\xff\xfe\x00", {"Content-Type": "application/json; charset=none"}, id="no text"),
])
def test_a_refusal_that_is_no_json_ends_a_call_at_once_unless_it_monitors(body, headers, idle):
    network = connect(lambda request: (404, body, headers))
    for call in set(CALLS) - {"job_monitor"}:
        before = network.count
        with pytest.raises(rescale.RescaleError, match=r"\b404\b"):
            CALLS[call]()
        assert network.count == before + 1


def test_an_answer_that_no_json_can_hold_is_a_fault_not_a_crash(idle):
    bodies = [b"", b"\xff\xfe", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b"<html>", b'{"id": "abC']
    answers = iter([*((201, body) for body in bodies), (201, {"id": JOB_ID})])
    connect(lambda request: next(answers))
    assert set_up() == JOB_ID


# Lists


def test_a_next_page_that_is_not_there_ends_a_list_and_a_list_without_an_end_is_not_read_for_ever(idle):
    platform = Platform()
    first = platform.answers[f"jobs/{JOB_ID}/files/"]
    first["next"] = f"{PLATFORM}/api/v2/jobs/{JOB_ID}/files/?page=2"
    connect(lambda request: (404, {"detail": "Invalid page."}) if "page=2" in request.url else platform(request))
    assert CALLS["file_previous_job"]() == [{"id": "arChiv", "decompress": True}]

    def endless(request):
        assert network.count < 1_200, "still reading"
        if "/files/" not in request.url:
            return platform(request)
        page = int((re.search(r"[?&]page=(\d+)", request.url) or [0, 1])[1])
        return 200, {**a_list(*pages), "next": f"{request.url.partition('?')[0]}?page={page % 3 + 1}"}

    for results, words in ([], "it left: nothing"), (first["results"], "no end"):  # a page without entries is the last
        pages, network = results, connect(endless)
        with pytest.raises(rescale.RescaleError, match=words):
            CALLS["file_previous_job"]()


# A job is started exactly once


@pytest.mark.parametrize("seconds", [1, 15, 50])
def test_a_start_that_shows_only_after_a_while_is_waited_for(seconds, idle):
    """The statuses of a platform of many computers may lag behind what it has accepted."""
    submitted_at: list[float] = []

    def answer(request):
        if request.method == "POST":
            submitted_at.append(idle.now)
            return 504, b"", {"Content-Type": "text/html"}
        shows = submitted_at and idle.now - submitted_at[0] >= seconds
        return 200, a_list(*[{"status": "Pending", "statusDate": None}] if shows else [])

    connect(answer)
    CALLS["job_submit"]()
    assert len(submitted_at) == 1


def test_a_platform_that_refuses_the_second_submission_has_accepted_the_first(idle):
    """The first answer is lost, and the statuses stay empty until the next try is made."""
    answers = iter([(504, b"", {"Content-Type": "text/html"}), (400, {"detail": "Submitted already."})])
    sent = []

    def answer(request):
        if request.method == "POST":
            sent.append(request)
            return next(answers)
        return 200, a_list(*[{"status": "Pending"}] if len(sent) == 2 else [])

    connect(answer)
    CALLS["job_submit"]()
    assert len(sent) == 2


@pytest.mark.parametrize("fault", ["reset_after", "503_after", "timeout_after"])
def test_an_outage_that_hides_whether_a_job_was_started_is_told_so_and_can_be_gone_on_from(fault, sim, access, clock):
    sim.resubmit = "again"
    job_id = text_job(sim, "sleep 60")
    outage = Fault("503", "GET", "/statuses/", skip=1, times=1000)
    sim.faults += [Fault(fault, "POST", "/submit/", seconds=0.5), outage]
    with pytest.raises(rescale.RescaleError, match=rf"{job_id}.*may (have been started|run)"):
        rescale.job_submit(*access, "job", job_id)
    sim.faults.remove(outage)
    rescale.job_submit(*access, "job", job_id)
    assert dict(sim.starts) == {job_id: 1}
    assert len(submissions(sim)) == 1


@pytest.mark.parametrize("refusal", [
    pytest.param((404, b"<html>Not found</html>", {"Content-Type": "text/html"}), id="a gateway's"),
    pytest.param((404, {"detail": "Not found."}), id="of a computer that is behind"),
])
@pytest.mark.parametrize("heard", [200, 504], ids=["accepted", "unclear"])
def test_a_job_file_stays_where_only_the_look_behind_the_submission_is_refused(heard, refusal, idle):
    """Or the next run would take the link for one without a job, and pay for another."""
    sent, state = [], "refusing"

    def answer(request):
        if request.method == "POST":
            sent.append(request)
            return heard, b""
        if not sent:
            return 200, a_list()
        return refusal if state == "refusing" else (200, history(("Pending", None)))

    connect(answer)
    with pytest.raises(rescale.RescaleError):
        CALLS["job_submit"]()
    assert Path("job.job").read_text().strip() == JOB_ID
    state = "back"
    CALLS["job_submit"]()
    assert len(sent) == 1


# Redirects, which requests follows


@pytest.mark.parametrize("location", [
    "https://evil.example/x", "https://platform.example:8443/x", "http://platform.example/x", "//evil.example/x",
    "http://127.0.0.1:9/x", "https://platform.example@evil.example/x", "https://platform.example\\@evil.example/x",
], ids=["host", "port", "http", "no scheme", "this computer", "user", "backslash"])
@pytest.mark.parametrize("call", [call for call in CALLS if call != "job_monitor"])  # which waits for better times
def test_a_redirect_takes_the_token_to_no_other_host_port_or_scheme(call, location, idle):
    asked = []

    def answer(request):
        asked.append(request)
        return 302, b"", {"Location": location}

    connect(answer)
    with pytest.raises(rescale.RescaleError, match="redirect") as error:
        CALLS[call]()
    assert KEY not in str(error.value)
    assert {urllib3.util.parse_url(request.url).netloc for request in asked} == {"platform.example"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_does_something_is_never_sent_to_where_a_redirect_leads(status, idle):
    elsewhere = []

    def answer(request):
        elsewhere.extend([request.url] if "elsewhere" in request.url else [])
        return status, b"", {"Location": f"{PLATFORM}/api/v2/jobs/elsewhere/"}

    connect(answer)
    for call in ("upload_local_files", "job_setup", "job_stop"):
        with pytest.raises(rescale.RescaleError, match="redirected"):
            CALLS[call]()
    assert not elsewhere


@pytest.mark.parametrize(("target", "comes"), [
    ("https://storage.example/x?signature=abc", True), (f"{PLATFORM}/x", True), (f"{PLATFORM}:8443/x", True),
    ("http://storage.example/x", False), ("http://127.0.0.1:9/x", False),
], ids=["storage", "platform", "port", "http", "this computer"])
def test_the_object_storage_gets_the_request_but_neither_token_nor_passwords(target, comes, idle, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy.example:3128")
    netrc = Path.home() / ".netrc"
    netrc.write_text("default login me password hunter2\n")
    netrc.chmod(0o600)
    platform, asked = Platform(), []

    def answer(request):
        asked.append(request)
        mine = request.url.startswith(f"{PLATFORM}/")
        assert request.headers.get("Authorization") == (TOKEN if mine else None)
        assert "Proxy-Authorization" not in request.headers  # as requests before 2.31 would send it
        if "/contents/" in request.url:
            return 302, b"", {"Location": target}
        if request.url.endswith(("/x", "/x?signature=abc")):
            return 200, platform.contents["arChiv"], {"Content-Type": "application/octet-stream"}
        return platform(request)

    connect(answer)
    if comes:
        [path] = CALLS["job_download"]()
        assert path.read_bytes() == platform.contents["arChiv"]
    else:
        with pytest.raises(rescale.RescaleError, match="redirected"):
            CALLS["job_download"]()
        assert all(request.url.startswith(f"{PLATFORM}/") for request in asked)
