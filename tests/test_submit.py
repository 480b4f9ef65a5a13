"""5. job_submit: a job starts exactly once, and its id is on the disk before. (Faults of every request: test_faults.py)

A job that is submitted       starts; its id is in the .job file before the request, a link leads to its page
A job that has statuses       is not submitted again, by whatever name, whatever the platform does with a second time
A submission                  is repeated only after looks at the statuses for a minute that the platform answers
A .job file                   stays, unless the platform itself refuses the first submission of one made in this run
A .job file of another job    is set aside if that has ended or is unknown, an empty one after a second; else it stays
Two processes at one link     start one job, wherever the second one comes in
Names and ids                 that can be none are refused before anything is sent or written
"""

import contextlib
import itertools
import math
import re
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

import rescale_rest_api as rescale
from conftest import here, paths_asked
from in_memory import HTML, JOB_ID, PLATFORM, TOKEN, a_list, connect


@pytest.mark.parametrize(("job_name", "windows", "link"), [
    ("me@rod@1", False, "[Desktop Entry]\nType=Link\nName=me@rod@1\nURL={page}\n"),
    ("압력 해석", False, "[Desktop Entry]\nType=Link\nName=압력 해석\nURL={page}\n"),
    ("me@rod@1", True, "[InternetShortcut]\nURL={page}\n"),
], ids=["usual", "korean", "on Windows"])
def test_a_submitted_job_starts_and_leaves_its_id_before_and_a_link(
    job_name, windows, link, access, sim, set_up, capsys, monkeypatch
):
    job_id, file, seen = set_up(), Path(f"{job_name}.job"), []
    monkeypatch.setattr(rescale, "WINDOWS", windows)
    sim.on_request = lambda record, when: (
        record.path.endswith("/submit/") and when == "before" and seen.append(file.read_text()))
    assert rescale.job_submit(*access, job_name, job_id) is None
    assert capsys.readouterr().out == f"Job {job_id} : submitted\n"
    assert seen == [f"{job_id}\n"]
    end = "url" if windows else "desktop"
    assert here() == sorted([file.name, f"{job_name}.{end}"])
    text = Path(f"{job_name}.{end}").read_text(encoding="utf-8")
    assert text == link.format(page=f"{sim.url}/jobs/{job_id}/runs/1/results/")
    assert sim.starts == {job_id: 1}
    asked = {(record.headers["Cache-Control"], record.headers["Accept-Encoding"]) for record in sim.requests}
    assert asked == {("no-cache", "identity")}  # of a proxy, that keeps or packs what it hands on


@pytest.mark.parametrize("job_name", ["job", "another"])
@pytest.mark.parametrize("resubmit", ["again", "400", "ignore", "when it has ended"])
def test_a_job_that_has_statuses_is_not_submitted_again(resubmit, job_name, access, sim, run_job, capsys):
    sim.resubmit, sim.resubmit_completed = resubmit.replace("when it has ended", "400"), "400"
    job_id = run_job() if "ended" in resubmit else run_job("sleep 60\n", status="Executing")
    rescale.job_submit(*access, job_name, job_id)
    assert paths_asked(sim, "POST").count(f"jobs/{job_id}/submit/") == sim.starts[job_id] == 1
    assert capsys.readouterr().out == f"Job {job_id} : submitted earlier\n"


OWN, GATEWAY = (400, {"detail": "Refused."}), (404, b"<html>Not found</html>", HTML)
UNCLEAR, HEARD, LOST = (504, b"", HTML), (200, b""), (503, b"")


def submit(clock, answers, shows_after=0.0, looks=(), outage=0.0):
    """Submit JOB_ID; return its error and the times of the submissions.

    `answers` are the platform's to the submissions, the last of which again and again, `looks` those to the first looks
    at the statuses behind the first, which fail in an outage; so many seconds behind that there is a status.
    """
    sent, looks, began = [], list(looks), clock.now

    def answer(request):
        if request.method == "POST":
            sent.append(clock.now)
            return answers[min(len(sent), len(answers)) - 1]
        if sent and looks:
            return looks.pop(0)
        if clock.now < (sent[0] if sent else began) + outage:
            return LOST
        shows = sent and clock.now >= sent[0] + outage + shows_after
        return 200, a_list(*[{"status": "Pending", "statusDate": None}] if shows else [])

    connect(answer)
    with pytest.raises(rescale.RescaleError) if shows_after == math.inf else contextlib.nullcontext() as error:
        rescale.job_submit(PLATFORM, TOKEN, "job", JOB_ID)
    return str(error and error.value), sent


@pytest.mark.parametrize("outage", [0, 200], ids=["", "behind an outage"])
@pytest.mark.parametrize("seconds", [1, 15, 50], ids=lambda seconds: f"a start that shows after {seconds} s")
@pytest.mark.parametrize("heard", [UNCLEAR, HEARD], ids=["unclear", "accepted"])
def test_before_a_submission_is_repeated_the_statuses_are_looked_at(heard, seconds, outage, clock):
    """The statuses of a platform of many computers may lag behind what it has accepted."""
    assert len(submit(clock, [heard], seconds, outage=outage)[1]) == 1


@pytest.mark.parametrize("outage", [0, 200], ids=["", "behind an outage"])
def test_after_a_kill_the_platform_gets_a_minute_to_show_a_start_before_it_is_repeated(outage, clock):
    """The submission of the run that was killed may still be on its way."""
    Path("job.job").write_text(f"{JOB_ID}\n")
    [at] = submit(clock, [HEARD], outage=outage)[1]
    assert at >= outage + rescale.SUBMIT_PATIENCE


@pytest.mark.parametrize(("made", "answers", "looks", "stays"), [
    ("now", [OWN], (), False), ("now", [GATEWAY], (), True), ("now", [UNCLEAR, OWN], (), True),
    ("earlier", [OWN], (), True), ("now", [HEARD], [(404, {"detail": "Not found."})], True),
    ("now", [UNCLEAR], [GATEWAY], True), ("now", [HEARD], (), True),
], ids=["refused by the platform", "refused by a gateway", "refused behind one that is unclear",
        "refused, but the file is of an earlier run", "accepted, and then unknown", "unclear, and a gateway's look",
        "accepted, and no status ever"])
def test_the_job_file_stays_unless_the_very_first_submission_is_refused(made, answers, looks, stays, clock):
    """Or the next run would take the link for one without a job, and pay for another."""
    if made == "earlier":
        Path("job.job").write_text(f"{JOB_ID}\n")
    error, sent = submit(clock, answers, math.inf, looks)
    assert len(sent) == len(answers)
    assert JOB_ID in error
    assert ("400" in error) == (answers[-1] is OWN)
    assert here() == (["job.job"] if stays else [])
    submit(clock, [HEARD])  # it can be gone on from
    assert Path("job.job").read_text() == f"{JOB_ID}\n"


@pytest.mark.parametrize("status", [401, 403])
def test_a_job_of_that_name_which_cannot_be_asked_about_is_not_replaced(status, clock):
    """Only one that the platform does not know is taken for one of another platform."""
    Path("job.job").write_text("LFZphb\n")
    connect(lambda request: (status, {"detail": "No."}))
    with pytest.raises(rescale.RescaleError, match=str(status)):
        rescale.job_submit(PLATFORM, TOKEN, "job", JOB_ID)
    assert Path("job.job").read_text() == "LFZphb\n"


def test_a_second_submission_that_is_refused_for_the_first_was_heard_is_a_success(clock):
    """The first answer is lost, and the statuses stay empty until the second one is made."""
    assert submit(clock, [UNCLEAR, OWN], rescale.SUBMIT_PATIENCE + 5)[1]


@pytest.mark.parametrize("before", [b"a/b\n", b"\xff\xfe\n", "a draft", "a running job"], ids=str)
def test_a_job_file_that_may_still_be_wanted_is_left_as_it_is_and_nothing_starts(before, access, sim, set_up):
    first, second = set_up(command="sleep 60\n"), set_up()
    content = before if isinstance(before, bytes) else f"{first}\n".encode()
    Path("job.job").write_bytes(content)
    if before == "a running job":
        rescale.job_submit(*access, "job", first)
    left, started = here(), dict(sim.starts)
    with pytest.raises(rescale.RescaleError, match=rf"job\.job.*{'' if content is before else first}"):
        rescale.job_submit(*access, "job", second)
    assert (here(), sim.starts, Path("job.job").read_bytes()) == (left, started, content)


BEFORE = {"no file": None, "an empty one": "", "one of an unknown job": "abcXYZ\n", "one of an ended job": "{ended}\n"}
LISTENERS = []


def listen(event, arguments):
    if LISTENERS and event in ("open", "os.rename", "os.remove", "os.link") and isinstance(arguments[0], (str, Path)):
        path = Path(arguments[0]).absolute()
        if path.parent == Path.cwd() and threading.current_thread() is threading.main_thread():
            LISTENERS[-1](f"{event} {path.name}")


sys.addaudithook(listen)


@pytest.fixture
def link(sim, run_job, set_up, access):
    """Submit `first` where there is such a file before; `listener` is told of each file event and request of it."""
    ended = run_job()

    def begin(before, first, listener=lambda moment: None):
        for path in Path().iterdir():
            path.unlink()
        if before is not None:
            Path("job.job").write_text(before.format(ended=ended))
        def hear(record, when):  # a submission on its way is another matter: it is acted on within SUBMIT_PATIENCE
            return when == "before" and not record.path.endswith("/submit/") and listener(record.path)

        with mock.patch.object(sim, "on_request", hear), mock.patch(f"{__name__}.LISTENERS", [listener]):
            rescale.job_submit(*access, "job", first)

    return begin


@pytest.mark.parametrize("before", list(BEFORE.values())[1:], ids=list(BEFORE)[1:])
def test_a_job_file_that_nobody_wants_is_set_aside(before, link, clock, sim, set_up):
    began, job_id = clock.now, set_up()
    link(before, job_id)
    assert sim.starts[job_id] == 1
    assert Path("job.job").read_text() == f"{job_id}\n"
    assert [name for name in here() if not name.startswith(".")] == ["job.desktop", "job.job"]
    assert (before == "") <= clock.now - began < rescale.SUBMIT_PATIENCE / 2  # no submission can be on its way


@pytest.mark.parametrize("jobs", ["the same job", "two jobs"])
@pytest.mark.parametrize("before", BEFORE.values(), ids=list(BEFORE))
def test_of_two_processes_at_one_link_one_starts_its_job_wherever_the_second_comes_in(
    before, jobs, link, access, clock, sim, set_up
):
    """The second one does all of its work just before whatever the first one asks or does to a file."""
    sim.resubmit, number, moments = "again", 0, [""]
    while number < len(moments):
        first, moments = set_up(command="sleep 60\n"), []
        second = set_up(command="sleep 60\n") if jobs == "two jobs" else first

        def come_in(moment, moments=moments, number=number, second=second):
            moments.append(moment)
            if len(moments) == number + 1:
                with mock.patch("os.getpid", return_value=1), contextlib.suppress(rescale.RescaleError):
                    rescale.job_submit(*access, "job", second)

        with contextlib.suppress(rescale.RescaleError):
            link(before, first, come_in)
        started = {job_id: sim.starts[job_id] for job_id in (first, second) if sim.starts[job_id]}
        assert list(started.values()) == [1], moments[number:]
        assert Path("job.job").read_text().split() == list(started), moments[number:]
        number += 1
    assert number > 5


IDS = ["", "a/b", "../files", "LFZphb?x", "LFZphb\n", None, 5, ["LFZphb"], "가나다라"]
NAMES = ["", "..", "a/b", "/tmp/x", "a\nb", None, "한" * 70]


@pytest.mark.parametrize(("call", "given", "wrong"), [
    *itertools.product(["job_monitor", "file_previous_job", "job_stop"], [[]], IDS),
    *itertools.product(["job_submit", "job_download"], [["job"]], IDS),
    *((call, [name], "LFZphb") for call in ("job_submit", "job_download") for name in NAMES),
])
def test_what_can_be_no_id_or_name_is_named_and_nothing_is_sent_or_written(call, given, wrong, clock):
    network = connect(lambda request: OWN)
    with pytest.raises(rescale.RescaleError, match=re.escape(repr(given[0] if wrong == "LFZphb" else wrong))):
        getattr(rescale, call)(PLATFORM, TOKEN, *given, wrong)
    assert (network.count, here()) == (0, [])
