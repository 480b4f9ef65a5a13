"""Three days of a job in seconds: what job_monitor asks, prints and keeps while a job runs and the network does not."""

from __future__ import annotations

import gc
import io
import json
import random
import re
import time
import tracemalloc
from datetime import datetime, timedelta, timezone
from typing import Any

import requests
import urllib3

import rescale_rest_api as rescale
from conftest import Clock
from in_memory import JOB_ID, PLATFORM, TOKEN, Platform

HOUR = 3600  # seconds
END = 72 * HOUR
OUTAGE = range(30 * HOUR, 36 * HOUR)
LINE_INTERVAL = 4  # seconds between two lines of the log
MEMORY = 32 * 1024  # bytes that three hours may leave behind; 12 per request would be more
STATUSES = {"Pending": 0, "Queued": 60, "Started": 600, "Validated": 660, "Executing": 700, "Completed": END}
HISTORY = [
    (since, {
        "status": status, "statusReason": "Completed successfully" if status == "Completed" else None,
        "statusDate": (datetime(2026, 11, 22, tzinfo=timezone.utc) + timedelta(seconds=since)).isoformat(),
    })
    for status, since in STATUSES.items()
]


class Job:
    """A job of three days that writes a numbered line every four seconds, on a platform that is not always there."""

    def __init__(self, clock) -> None:
        self.clock, self.began = clock, clock.now
        self.random = random.Random(20261122)
        self.asked: list[int] = []  # requests in each hour
        self.failed = self.in_outage = 0
        self.watched: list[int] = []  # bytes in use at 12 h and at 15 h
        self.platform = Platform()

    def request(self, method: str, url: str, **_: Any) -> requests.Response:
        """Stand in for requests.Session, which takes minutes for 65 000 requests."""
        status, body, *headers = self.answer(url)
        response = requests.Response()
        response.status_code, response.url = status, url
        response.request = requests.Request(method, url)
        response.headers.update({"Content-Type": "application/json", **(headers[0] if headers else {})})
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response.raw = urllib3.HTTPResponse(io.BytesIO(content), response.headers, status, preload_content=False)
        return response

    def answer(self, url: str) -> tuple:
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
        if url.endswith("/statuses/"):
            return 200, self.statuses(now)
        if url.endswith("/tail/process_output.log"):
            last = int(now // LINE_INTERVAL)
            return 200, {"fileType": "text", "lines": [self.line(number) for number in range(last - 19, last + 1)]}
        return self.platform(requests.Request("GET", url))

    def fail(self) -> tuple:
        kind = self.random.randrange(9)
        if kind == 0:
            raise requests.ConnectionError("Connection aborted.")
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
        results = [entry for since, entry in HISTORY if since <= now]
        return {"count": len(results), "next": None, "previous": None, "results": results[::-1]}

    def watch_memory(self, now: float) -> None:
        """Only for three hours, for it takes its time."""
        if not self.watched and now > 12 * HOUR:
            tracemalloc.start()
            self.watched.append(self.in_use())
        if len(self.watched) == 1 and now > 15 * HOUR:
            self.watched.append(self.in_use())
            tracemalloc.stop()

    @staticmethod
    def in_use() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


class Screen(io.TextIOBase):
    """Counts the lines of the log and those that mark missed ones, and keeps the few that matter else."""

    def __init__(self) -> None:
        self.times_shown = bytearray(END // LINE_INTERVAL + 1)
        self.gaps = 0
        self.others: list[str] = []

    def write(self, text: str) -> int:
        for line in text.splitlines():
            found = re.fullmatch(r"\[2026-11-22T03:04:05Z\]: increment (\d+)", line)
            if found:
                self.times_shown[int(found[1])] += 1
            elif line == "...":
                self.gaps += 1
            elif line.startswith("Job ") or "No route to host" in line or re.search(r"back after \d+ h", line):
                self.others.append(line)
        return len(text)


def test_a_monitor_of_three_days_ends_right_asks_little_says_all_once_and_does_not_grow(monkeypatch):
    """One test, for it takes ten seconds, and every worker of xdist would make a fixture of its own."""
    clock, screen = Clock(0), Screen()
    job = Job(clock)
    with monkeypatch.context() as patch:
        patch.setattr(rescale, "time", clock)
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.setattr(rescale, "_session", lambda process: job)
        patch.setattr(random, "uniform", random.Random(1).uniform)
        patch.setattr("sys.stdout", screen)
        try:
            rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
        finally:
            tracemalloc.stop()

    # It was put to the test.
    assert sum(job.asked) > 60_000
    assert job.failed > 1000
    assert job.in_outage > 300

    # It ends soon after the job, and has shown every status once.
    assert END <= clock.now - job.began < END + 60
    shown = [line for line in screen.others if line.startswith("Job ")]
    assert shown == [f"Job {JOB_ID} : {status}" for status in STATUSES]

    # It asks less than the platform allows, and in an outage once a minute.
    assert max(job.asked) <= 1000
    assert max(job.asked[31:35]) <= 75

    # It shows no line of the log twice, and misses few but those of the outage and those before the job executed.
    assert max(screen.times_shown) == 1
    hidden = (len(OUTAGE) + STATUSES["Executing"]) // LINE_INTERVAL
    assert screen.times_shown.count(0) - hidden < 0.02 * len(screen.times_shown)

    # It marks where lines are missing, and sometimes where twenty lines cannot tell that none are.
    gaps = re.findall(rb"(?<=\x01)\x00+(?=\x01)", bytes(screen.times_shown))
    assert len(gaps) + 1 <= screen.gaps <= len(gaps) + 40

    # It says that the line was lost, every ten minutes, and when it is back.
    lost = [number for number, line in enumerate(screen.others) if "No route to host" in line]
    [back] = [number for number, line in enumerate(screen.others) if re.search(r"is back after (6 h|5 h 59 min)", line)]
    assert len(OUTAGE) / 600 - 2 <= len(lost) <= len(OUTAGE) / 600 + 1
    assert lost[-1] < back
    assert "no connection to platform.example" in screen.others[lost[0]]
    assert "the job runs on" in screen.others[lost[0]]

    # Its memory does not grow.
    before, after = job.watched
    assert after - before < MEMORY
