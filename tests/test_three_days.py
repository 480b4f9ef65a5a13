"""Half a day of a job in seconds: what job_monitor asks, prints and keeps while a job runs and the network does not.

| promise | asserted as |
|---|---|
| it ends with the job, and not before, through an outage of four hours and 2 % of failing requests | ends |
| every status and every line of the log is printed once, but for what an outage hides | shown |
| it asks the platform no more than its limit per hour, in an outage once a minute | asks |
| its memory does not grow | memory |

What it says of an outage: test_faults.py
"""

import gc
import random
import time
import tracemalloc
from pathlib import Path

import requests

import rescale_rest_api as rescale
from conftest import Clock
from in_memory import JOB_ID, PLATFORM, TOKEN, Platform, Transport, history

HOUR = 3600  # seconds
END = 14 * HOUR
OUTAGE = range(8 * HOUR, 12 * HOUR)
LINE_INTERVAL = 4  # seconds between two lines of the log
MEMORY = 32 * 1024  # bytes that three hours may leave behind; 12 per request would be more
STATUSES = {"Pending": 0, "Queued": 60, "Started": 600, "Validated": 660, "Executing": 700, "Completed": END}


class Job(Transport):
    """A job that writes a numbered line every four seconds, on a platform that is not always there."""

    def __init__(self, clock) -> None:
        super().__init__(self.answer)
        self.clock, self.random, self.platform = clock, random.Random(20261122), Platform()
        self.prepared: dict[str, requests.PreparedRequest] = {}  # by url
        self.asked = [0] * 15  # requests in each hour
        self.memory: list[int] = []  # bytes in use at 4 h and at 7 h: looked at no longer, for it takes its time

    def request(self, method, url, **_):
        """Stand in for requests.Session, which takes too long for 10 000 requests."""
        if url not in self.prepared:
            self.prepared[url] = requests.Request(method, url).prepare()
        return self.send(self.prepared[url])

    def answer(self, request):
        now = self.clock.now
        self.asked[int(now // HOUR)] += 1
        if len(self.memory) < 2 and now > (4 + 3 * len(self.memory)) * HOUR:
            tracemalloc.start()
            gc.collect()
            self.memory.append(tracemalloc.get_traced_memory()[0])
            if len(self.memory) == 2:
                tracemalloc.stop()
        if int(now) in OUTAGE or self.random.random() < 0.01:
            raise requests.ConnectionError("No route to host" if int(now) in OUTAGE else "Connection aborted.")
        if self.random.random() < 0.01:
            return 502, b"<html>Bad gateway</html>"
        if "/statuses/" in request.url:
            past = [status for status, since in STATUSES.items() if since <= now]
            return 200, history(*((one, "Completed successfully" if one == "Completed" else None) for one in past))
        if "/tail/" in request.url:
            last = int(now // LINE_INTERVAL)
            return 200, {"lines": [f"[03:04:05Z]: increment {number}" for number in range(last - 19, last + 1)]}
        return self.platform(request)


def test_a_monitor_of_half_a_day_ends_right_asks_little_says_all_once_and_does_not_grow(monkeypatch):
    """One test, for it takes its time, and every worker of xdist would make a fixture of its own."""
    clock = Clock(0)
    job = Job(clock)
    with monkeypatch.context() as patch, Path("screen").open("w", encoding="utf-8") as screen:
        patch.setattr(rescale, "time", clock)
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.setattr(rescale._logger, "handlers", [rescale._screen])  # without those of pytest, which keep all
        patch.setattr(rescale, "_session", lambda process: job)
        patch.setattr("sys.stdout", screen)
        try:
            rescale.job_monitor(PLATFORM, TOKEN, JOB_ID)
        finally:
            tracemalloc.stop()
    lines = Path("screen").read_text(encoding="utf-8").splitlines()

    assert END <= clock.now < END + 60  # ends
    assert [line for line in lines if line.startswith("Job ")] == [f"Job {JOB_ID} : {status}" for status in STATUSES]
    assert sum(job.asked) > 8000  # asks, and not more than the platform allows
    assert (max(job.asked) <= 1000, max(job.asked[9:11]) <= 75) == (True, True)

    shown = [int(line.rpartition(" ")[2]) for line in lines if "increment" in line]
    assert shown == sorted(set(shown))
    written = (END - STATUSES["Executing"] - len(OUTAGE)) / LINE_INTERVAL
    assert 0.98 * written < len(shown) <= written + 40
    assert job.memory[1] - job.memory[0] < MEMORY
