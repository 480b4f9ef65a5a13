"""Three days of a job in seconds: what job_monitor asks, prints and keeps while a job runs and the network does not."""

from __future__ import annotations

import gc
import io
import random
import re
import tracemalloc
from datetime import datetime, timedelta, timezone

import pytest
import requests
import urllib3

import rescale_rest_api as rescale
from in_memory import PLATFORM, TOKEN, connect, stopped_clock

HOUR = 3600  # seconds
END = 72 * HOUR
OUTAGE = range(30 * HOUR, 36 * HOUR)
LINE_INTERVAL = 4  # seconds between two lines of the log
MEMORY = 64 * 1024  # bytes that half a day may leave behind; 50 per request would be more
JOB_ID = "abCdEf"


class Job:
    """A job of three days that writes a numbered line every four seconds, on a platform that is not always there."""

    def __init__(self, clock) -> None:
        self.clock, self.began = clock, clock.now
        self.random = random.Random(20261122)
        self.asked: list[int] = []  # requests in each hour
        self.failed = self.in_outage = 0
        self.watched: list[int] = []  # bytes in use at 12 h and at 24 h

    def answer(self, request: requests.PreparedRequest) -> tuple:
        now = self.clock.now - self.began
        self.asked += [0] * (int(now // HOUR) + 1 - len(self.asked))
        self.asked[int(now // HOUR)] += 1
        self.watch_memory(now)
        if int(now) in OUTAGE:
            self.in_outage += 1
            raise requests.ConnectionError("No route to host")
        if self.random.random() < 0.02:
            self.failed += 1
            return self.fail()
        path = request.path_url.partition("?")[0]
        if path.endswith("/statuses/"):
            return 200, self.statuses(now)
        if path.endswith("/tail/process_output.log"):
            last = int(now // LINE_INTERVAL)
            return 200, {"fileType": "text", "lines": [self.line(number) for number in range(last - 19, last + 1)]}
        if path.endswith("/files/"):
            return 200, {"count": 0, "next": None, "previous": None, "results": []}
        return 404, {"detail": "Not found."}

    def fail(self) -> tuple:
        kind = self.random.randrange(9)
        if kind == 0:
            raise requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError()))
        if kind == 1:
            raise requests.ReadTimeout("Read timed out.")
        if kind == 2:
            return 429, {"detail": "Request was throttled."}, {"Retry-After": "60"}
        if kind == 3:
            return 200, b"<html>Sign in</html>", {"Content-Type": "text/html"}
        if kind == 4:
            return 200, b'{"count": 5, "next": null, "resul'
        if kind == 5:
            return 200, b""
        return (500, 502, 504)[kind - 6], b"<html>Bad gateway</html>", {"Content-Type": "text/html"}

    @staticmethod
    def line(number: int) -> str:
        return f"[2026-11-22T03:04:05Z]: increment {number}"

    def statuses(self, now: float) -> dict:
        history = [(0, "Pending"), (60, "Queued"), (600, "Started"), (660, "Validated"), (700, "Executing")]
        history.append((END, "Completed"))
        results = [
            {
                "status": status, "statusReason": "Completed successfully" if status == "Completed" else None,
                "statusDate": str(datetime(2026, 11, 22, tzinfo=timezone.utc) + timedelta(seconds=since)).replace(" ", "T"),
            }
            for since, status in history if since <= now
        ]
        return {"count": len(results), "next": None, "previous": None, "results": results[::-1]}

    def watch_memory(self, now: float) -> None:
        """Only for half a day, for it takes three times as long."""
        if not self.watched and now > 12 * HOUR:
            tracemalloc.start()
            self.watched.append(self.in_use())
        if len(self.watched) == 1 and now > 24 * HOUR:
            self.watched.append(self.in_use())
            tracemalloc.stop()

    @staticmethod
    def in_use() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


class Screen(io.TextIOBase):
    """Counts the lines of the log, which would fill the memory, and keeps the others."""

    def __init__(self) -> None:
        self.times_shown = bytearray(END // LINE_INTERVAL + 1)
        self.others: list[str] = []

    def write(self, text: str) -> int:
        for line in text.splitlines():
            found = re.fullmatch(r"\[2026-11-22T03:04:05Z\]: increment (\d+)", line)
            if found:
                self.times_shown[int(found[1])] += 1
            else:
                self.others.append(line)
        return len(text)


@pytest.fixture(scope="module")
def three_days():
    """The job, and the screen after it."""
    with pytest.MonkeyPatch.context() as patch:
        clock, screen = stopped_clock(), Screen()
        patch.setattr(rescale, "time", clock)
        patch.setattr("sys.stdout", screen)
        patch.setattr(random, "uniform", random.Random(1).uniform)
        job = Job(clock)
        connect(job.answer)
        try:
            rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
        finally:
            tracemalloc.stop()
            rescale._session.cache_clear()
    return job, screen


def test_it_ends_soon_after_the_job_and_well(three_days):
    job, screen = three_days

    assert END <= job.clock.now - job.began < END + 60
    assert [line for line in screen.others if line.startswith("Job ")] == [
        f"Job {JOB_ID} : {status}"
        for status in ("Pending", "Queued", "Started", "Validated", "Executing", "Completed")
    ]


def test_much_went_wrong_meanwhile(three_days):
    job, _ = three_days

    assert len(job.asked) == 73
    assert sum(job.asked) > 60_000
    assert job.failed > 1000
    assert job.in_outage > 300


def test_no_hour_has_more_than_a_thousand_requests(three_days):
    job, _ = three_days

    assert max(job.asked) <= 1000


def test_an_outage_is_not_met_with_more_requests_than_a_good_line(three_days):
    job, _ = three_days

    assert max(job.asked[31:35]) <= 75  # one a minute, and no more


def test_no_line_of_the_log_is_shown_twice_and_few_are_missed(three_days):
    _, screen = three_days

    assert max(screen.times_shown) == 1
    # What the outage hid for longer than twenty lines, and what the job wrote before it executed, cannot be shown.
    missed = screen.times_shown.count(0) - len(OUTAGE) // LINE_INTERVAL - 700 // LINE_INTERVAL
    assert missed < 0.02 * len(screen.times_shown)


def test_missed_lines_are_marked(three_days):
    _, screen = three_days

    gaps = len(re.findall(rb"(?<=\x01)\x00+(?=\x01)", bytes(screen.times_shown)))
    assert screen.others.count("...") == gaps + 1  # the first look, too, sees only the end


def test_the_outage_is_told_and_its_end(three_days):
    _, screen = three_days

    lost = [line for line in screen.others if "No route to host" in line]
    back = [line for line in screen.others if re.search(r"is back after (6 h|5 h 59 min)", line)]
    assert len(lost) == len(back) == 1
    assert "no connection to platform.example" in lost[0]
    assert screen.others.index(lost[0]) < screen.others.index(back[0])


def test_memory_does_not_grow(three_days):
    job, _ = three_days

    before, after = job.watched
    assert after - before < MEMORY
