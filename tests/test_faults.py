"""Whatever the network does to a chain: the right result, and every job started exactly once.

Any request of main.py fails    in six ways, without saying whether it was heard, or every third one: it ends right
A platform                      may have other ways, where its documents are silent
Every request                   has a timeout for connecting and one for reading
Pauses                          grow; one that the platform asks for, in seconds or as a date of its clock, is kept
An outage                       is told when it begins, now and then, and when it is over
Patience                        is 10 minutes, 1 for a chain's first request, and endless for a monitor
What the platform refuses       ends a call at once, in its words; what is not its own ends all but a monitor
An answer that is no JSON       is a fault
A stored file                   comes as it is stored, however it is labelled, and in chunks

Redirects, and proxies and certificates that do not work: test_token.py
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import time
from pathlib import Path
from unittest import mock

import pytest
import requests

import rescale_rest_api as rescale
from conftest import SETTINGS, paths_asked
from in_memory import HTML, JOB_ID, KEY, PLATFORM, TOKEN, Platform, connect
from rescale_simulator import Simulator
from test_hostile import CALLS
from two_jobs import Watch, assert_right, copy_scripts, run_here

FAULTS = ("refused", "reset_before", "throttled", "503", "html", "truncated")  # of every request
# Of those that do something, which these hide.
HIDING = ("reset_after", "timeout_before", "timeout_after", "503_after", "html_after", "redirect", "late")
SECONDS = {"refused": 0.05, "timeout_before": 1, "timeout_after": 1, "late": 0.02}


@pytest.fixture
def chain(sim, environment, clock, monkeypatch):
    """Run main.py with these faults; return the names of its requests, but for those of the table at its end."""
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(rescale, "READ_TIMEOUT", 0.3)
    monkeypatch.chdir(copy_scripts(Path("chain").absolute()))

    def run(at=(), fault="503"):
        for kept in (sim.jobs, sim.starts, sim.faults):
            kept.clear()
        Path(".rescale.tar.gz.uploaded").unlink(missing_ok=True)  # of the run that has recorded the names
        clock.speed = 40 if fault == "refused" else 0  # a port that is closed is so in real time
        watch = Watch(sim, at, fault, seconds=SECONDS.get(fault), retry_after="4")
        assert run_here("--new") == 0
        assert_right(sim, max(Path().rglob("*/rescale.tar.gz"), key=lambda path: path.stat().st_mtime_ns))
        assert not watch.left, f"{fault} did not strike"
        last = max(number for number, name in enumerate(watch.names) if "/contents/" in name)
        return list(dict.fromkeys(watch.names[: last + 1]))

    return run


@pytest.fixture
def names(chain, recorded=[]):  # noqa: B006  # one run for all tests
    recorded[:] = recorded or chain()
    return recorded


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", range(3))
def test_a_chain_ends_right_whatever_request_fails_once(fault, part, chain, names):
    chain(names[part::3], fault)


@pytest.mark.parametrize("fault", HIDING)
def test_a_chain_ends_right_if_it_is_unclear_whether_a_request_was_heard(fault, chain, names):
    posts = [name for name in names if ": POST" in name]
    assert (len(posts), len(names) > 25) == (5, True)
    chain(posts, fault)


@pytest.mark.parametrize("quirks", [
    {"flaky": 0.33, "seed": 1}, {"flaky": 0.33, "seed": 2}, {"flaky": 0.5, "seed": 3}, {"upload_lag": 3, "size_lag": 3},
    {"page_size_cap": 100, "next_without_slash": True}, {"page_size_cap": 100, "next_drops_query": True},
    {"page_size_cap": 100, "empty_last_page": True}, {"contents_redirect": True}, {"shared_work": True},
    {"timeline": ("Pending", "Queued", "Started", "Executing", "Pending", "Queued", "Executing")},
], ids=lambda quirks: " ".join(map(str, quirks)))
def test_a_chain_ends_right_in_every_way_that_a_platform_may_have(quirks, chain, sim):
    sim._random.seed(quirks.get("seed"))
    for name, value in quirks.items():
        setattr(sim, name, value)
    chain()


def test_every_request_has_both_timeouts_and_asks_for_a_certificate(chain, sim):
    """Without the one for connecting, a firewall that drops packets would hold a chain for ever."""
    adapter = requests.adapters.HTTPAdapter
    with mock.patch.object(adapter, "send", autospec=True, side_effect=adapter.send) as send:
        chain()
    assert send.call_count == len(sim.requests)
    assert all(0 < seconds <= 600 for call in send.call_args_list for seconds in call.kwargs["timeout"])
    assert {call.kwargs["verify"] for call in send.call_args_list} == {True}


@pytest.fixture
def idle(clock, monkeypatch):
    """A clock for waits of hours that take no time at all, where nothing else happens meanwhile."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("RESCALE_API_URL", PLATFORM)
    monkeypatch.setenv("RESCALE_API_KEY", KEY)
    return clock


def call(name):
    return getattr(rescale, name)(PLATFORM, TOKEN, *CALLS[name])


def begin(_):
    with rescale.chain([("one", "true")], SETTINGS, arguments=[]):
        pytest.fail("it has begun")


def steps(values):
    return [after - before for before, after in zip(values, values[1:])]


NOW = "Fri, 02 Jan 2026 03:04:05 GMT"
WAITS = [(429, {"detail": "Wait."}, {"Retry-After": value, "Date": NOW})
         for value in ("2400", "5", "Fri, 02 Jan 2026 03:09:05 GMT")]
NO_JSON = [b"", b"\xff\xfe", b"[" * 100_000, b"<html>", b'{"id": "a']


@pytest.mark.parametrize("passing", [
    [*WAITS, (503, b""), (408, {"detail": "Too slow."}), (503, b"")], *([(201, body)] for body in NO_JSON),
], ids=["waits and faults", *(repr(body[:9]) for body in NO_JSON)])
def test_waits_are_kept_and_cost_no_patience_and_a_fault_after_a_long_transfer_hardly_any(passing, idle, capsys):
    asked_at, answers = [], iter([*passing, (201, {"id": JOB_ID})])

    def answer(request):
        asked_at.append(idle.now)
        idle.now += 500  # as an upload takes
        return next(answers)

    connect(answer)
    assert call("job_setup") == JOB_ID
    if passing[0] == WAITS[0]:
        assert steps(asked_at)[:3] == [500 + 2400, 500 + 5, 500 + 300]
        assert re.search(r"platform\.example.*429.*Wait\..*40 min", capsys.readouterr().out)


@pytest.mark.parametrize(("value", "seconds"), [
    ("7", 7), ("0", 0), ("86400", 3900), ("soon", 0), ("-5", 0), ("", 0), ("1e400", 0), ("9" * 5000, 0), ("nan", 0),
    ("Wed, 99 Foo 2026 25:61:00 GMT", 0), ("Fri, 02 Jan 2026 03:04:15 GMT", 10), ("Fri, 02 Jan 2026 03:04:00 GMT", 0),
    ("Fri, 02 Jan 2026 03:04:15 -0000", 0),
], ids=lambda value: str(value)[:32])
def test_a_retry_after_that_means_nothing_is_ignored_and_a_huge_one_cut(value, seconds):
    assert rescale._retry_after({"Retry-After": value, "Date": NOW}) == seconds
    assert rescale._retry_after({"Retry-After": value}) == (seconds if value.isdigit() else 0)


@pytest.mark.parametrize(("act", "least", "most"), [(call, 400, 620), (begin, 30, 65)],
                         ids=["ten minutes", "one minute for a chain's first request"])
def test_a_call_gives_up_after_ever_longer_pauses_with_the_words_of_the_server(act, least, most, idle, capsys):
    asked_at = []
    connect(lambda request: (asked_at.append(idle.now), (503, {"detail": "Maintenance until 14:00 UTC"}))[1])
    with pytest.raises((rescale.RescaleError, SystemExit)) as error:
        act("job_setup")
    assert re.search("503: .*Maintenance until 14:00 UTC", str(error.value) + capsys.readouterr().err)
    assert least <= idle.now <= most
    waits = steps(asked_at)
    assert waits[:5] == sorted(set(waits[:5]))
    assert waits[0] < 3 < max(waits) < 80


@pytest.mark.parametrize(("seconds", "name", "lines"), [
    (2, "job_stop", 0), (60, "job_stop", 2), (400, "job_setup", 2), (1500, "job_monitor", 4), (9000, "job_monitor", 16),
])
def test_an_outage_is_told_when_it_begins_now_and_then_and_when_it_is_over(seconds, name, lines, idle, capsys):
    platform = Platform()
    platform.answers.update({"jobs/": {"id": JOB_ID}, f"jobs/{JOB_ID}/stop/": {}})
    connect(lambda request: platform(request) if idle.now >= seconds else (503, b"", HTML))
    call(name)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert abs(len(told) - lines) <= lines // 10
    assert all("platform.example" in line for line in told)
    assert not told or ("503" in told[0] and "503" not in told[-1])


@pytest.mark.parametrize(("status", "body", "headers"), [
    *((status, {"detail": "No.", "jobanalyses": [{"walltime": ["Long."]}]}, {}) for status in (400, 401, 403, 404)),
    (404, b"Not found.", {"Content-Type": "text/plain", "Content-Encoding": "gzip"}), (403, b"", {"Content-Type": ""}),
    (404, b"<html>Not found</html>", HTML), (404, b"\xff\xfe\x00", {"Content-Type": "text/plain; charset=none"}),
], ids=["bad", "unknown key", "not allowed", "not there", "not packed", "empty", "HTML", "no text"])
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("check_settings", "chain_overview")])
def test_a_refusal_ends_a_call_at_once_but_no_monitor_unless_it_is_the_platforms_own(name, status, body, headers, idle):
    Path("../rescale.tar.gz").touch()
    platform, own = Platform(), isinstance(body, dict)
    network = connect(lambda request: platform(request) if idle.now > 3000 else (status, body, headers))
    if name == "job_monitor" and not own:
        return call(name)
    with pytest.raises(rescale.RescaleError, match=rf"\b{status}\b") as error:
        call(name)
    assert (network.count, idle.now) == (1, 0)
    assert error.value.status == (status if own else None)
    assert bool(re.search("No..*jobanalyses.*walltime.*Long.", str(error.value))) == own
    assert (f"region: is it one of {PLATFORM}" in str(error.value)) == (status == 401)


@pytest.mark.parametrize("chunked", [False, True], ids=["", "in chunks"])
@pytest.mark.parametrize("label", ["identity", "gzip", "deflate", "br"])
def test_a_stored_file_comes_as_it_is_stored_however_labelled(label, chunked, sim, access, ended_job, monkeypatch):
    archive, stream = gzip.compress(os.urandom(50_000)), Simulator._stream
    monkeypatch.setattr(rescale, "RANGE", (9_000, 9_000))

    def labelled(*arguments):
        answer = stream(*arguments)
        answer.headers["Content-Encoding"] = label
        if chunked:
            pieces, answer.headers["Transfer-Encoding"] = itertools.chain(answer.response, [b""]), "chunked"
            answer.response = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return answer

    monkeypatch.setattr(Simulator, "_stream", labelled)
    [path] = rescale.job_download(*access, "job", ended_job({"rescale.tar.gz": archive}))
    assert path.read_bytes() == archive
    assert sum("/contents/" in path for path in paths_asked(sim)) == 6
