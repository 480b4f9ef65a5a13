"""A chain of two tiny jobs, the second of which needs what the first wrote, and names for all the requests it makes."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import requests

from rescale_simulator import Fault, Record, Simulator

LINKS = (("first", "one"), ("second", "two"))
INPUT = "zero\n"  # of the file steps.txt
RESULT = b"zero\none\ntwo\n"

# All requests of the chain, each with the link that it is for.
REQUESTS = [
    "first: GET users/me/",
    "first: GET analyses/",
    "first: GET coretypes/",
    "first: GET users/me/projects/",
    "first: POST files/contents/",
    "first: POST jobs/",
    "first: GET jobs/ID/statuses/ before the submission",
    "first: POST jobs/ID/submit/",
    "first: GET jobs/ID/statuses/ after the submission",
    "first: GET jobs/ID/statuses/ later",
    "first: GET jobs/ID/runs/1/tail/process_output.log",
    "first: GET jobs/ID/files/ for the outcome",
    "first: GET jobs/ID/files/ again",
    "second: POST jobs/",
    "second: GET jobs/ID/statuses/ before the submission",
    "second: POST jobs/ID/submit/",
    "second: GET jobs/ID/statuses/ after the submission",
    "second: GET jobs/ID/statuses/ later",
    "second: GET jobs/ID/runs/1/tail/process_output.log",
    "second: GET jobs/ID/files/ for the outcome",
    "second: GET jobs/ID/files/ again",
    "second: GET files/ID/contents/",
    "second: GET jobs/ID/files/ after the download",
]


def command(word: str) -> str:
    """Add a line to steps.txt, as soon as the log has been asked for."""
    return f'until [ -e "$HOME/go" ]; do sleep 0.01; done\necho {word} >> steps.txt\n'


class Watch(Fault):
    """Names the requests of a chain as REQUESTS does; as a fault of the simulator it strikes the first of one name.

    It lets a job go on only when its log is asked for, so that this request, too, is part of every chain, and has the
    simulator run a job once more for every further submission.
    """

    def __init__(self, sim: Simulator, fault: str = "503", at: str = "", **details: Any) -> None:
        super().__init__(fault, **details)
        self.sim, self.at = sim, at
        self.names: list[str] = []
        sim.faults.append(self)
        sim.resubmit, sim.resubmit_completed = "again", "400"
        sim.on_request = self.on_request

    def strikes(self, record: Record) -> bool:
        name = self.name_of(record)
        self.names.append(name)
        if name != self.at or self.hits:
            return False
        self.hits += 1
        return True

    def on_request(self, record: Record, when: str) -> None:
        found = re.search(r"/jobs/(\w+)/runs/1/tail/", record.path)
        if found and when == "before":
            (self.sim.jobs[found[1]].folder / "go").touch()

    def name_of(self, record: Record) -> str:
        path = record.path.replace("/api/v2/", "", 1)
        jobs = self.sim.jobs.values()
        names = [job.name for job in jobs if f"/{job.id}/" in record.path]
        link = next((link for link, _ in LINKS if any(link in name for name in names)), None)
        link = link or LINKS[any(job.ended for job in jobs)][0]
        name = f"{link}: {record.method} " + re.sub(r"(jobs|files)/[A-Za-z]{6}/", r"\1/ID/", path)
        if any("files/ID/contents/" in earlier for earlier in self.names):
            look = f"{LINKS[-1][0]}: GET jobs/ID/files/ after the download"
            return look if look.startswith(name) and look not in self.names else f"{name} at the end"
        if path.endswith("/statuses/"):
            seen = [earlier for earlier in self.names if earlier.startswith(f"{link}: ")]
            return name + (
                " before the submission" if f"{link}: POST jobs/ID/submit/" not in seen
                else " after the submission" if seen[-1].endswith("/submit/") else " later"
            )
        if path.endswith("/files/"):
            return name + (" again" if f"{name} for the outcome" in self.names else " for the outcome")
        return name


def assert_right(sim: Simulator, archive: Path) -> None:
    """What both jobs wrote, one start per link, and nothing half done left behind."""
    with tarfile.open(archive) as tar:
        assert tar.extractfile("./steps.txt").read() == RESULT
    started = [sim.jobs[job_id].name for job_id in sim.starts]
    assert len(started) == 2
    assert all(any(link in name for name in started) for link, _ in LINKS)
    assert set(sim.starts.values()) == {1}
    assert list(Path().rglob("*.part*")) == []


def text_job(sim: Simulator, text: str = "true\n", name: str = "job") -> str:
    """A job as the web page makes it, without this library's packing."""
    job = {
        "name": name,
        "jobanalyses": [{
            "analysis": {"code": "user_included", "version": "0"}, "command": text,
            "hardware": {"coreType": "emerald", "coresPerSlot": 1, "slots": 1, "walltime": 1}, "inputFiles": [],
        }],
    }
    return requests.post(
        f"{sim.url}/api/v2/jobs/", json=job, headers={"Authorization": f"Token {sim.token}"}, timeout=10
    ).json()["id"]


def submissions(sim: Simulator) -> list[Record]:
    return [record for record in sim.requests if record.path.endswith("/submit/")]
