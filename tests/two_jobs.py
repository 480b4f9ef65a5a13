"""A chain of two tiny jobs, the second of which needs what the first wrote: its requests by name, and its main.py."""

from __future__ import annotations

import functools
import getpass
import multiprocessing
import os
import re
import runpy
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import requests

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # also where this is imported beforehand

import rescale_rest_api as rescale  # noqa: E402
from rescale_simulator import Fault, Record, Simulator  # noqa: E402

LINKS = (("first", "one"), ("second", "two"))
INPUT = "zero\n"  # of the file steps.txt
RESULT = b"zero\none\ntwo\n"
USER = getpass.getuser()
ROOT = Path(__file__).parents[1]

# Runs in the library: its steps of 5 s take 25 ms.
FASTER = """

import types as _types

_real = time
time = _types.SimpleNamespace(
    sleep=lambda seconds: _real.sleep(seconds / 200), monotonic=lambda: 200 * _real.monotonic(), time=_real.time,
)
"""


def command(word: str) -> str:
    """Add a line to steps.txt, as soon as the log has been asked for."""
    return f'until [ -e "$HOME/go" ]; do sleep 0.01; done\necho {word} >> steps.txt\n'


class Watch(Fault):
    """Names the requests of a chain, each with its link and the request before it, so that every step has a name.

    A name is "first: GET jobs/ID/files/ behind GET jobs/ID/": `names` has them in order, a poll's again and again. As a
    fault of the simulator it strikes the first request of the name `at`. It lets a job go on only when its log is asked
    for, so that this request, too, is part of every chain, and has the simulator run a job once more for every further
    submission.
    """

    def __init__(self, sim: Simulator, fault: str = "503", at: str = "", **details: Any) -> None:
        super().__init__(fault, **details)
        self.sim, self.at = sim, at
        self.names: list[str] = []
        self.last = "nothing"
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
        link = LINKS[any(job.ended for job in self.sim.jobs.values())][0]
        for job in self.sim.jobs.values():
            if f"/{job.id}/" in record.path:
                link = next((link for link, _ in LINKS if link in job.name), link)
        path = record.path.replace("/api/v2/", "", 1)
        request = f"{record.method} " + re.sub(r"(jobs|files)/[A-Za-z]{6}/", r"\1/ID/", path)
        name, self.last = f"{link}: {request} behind {self.last}", request
        return name


def assert_right(sim: Simulator, archive: Path) -> None:
    """What both jobs wrote, one start per link, and nothing half done left behind."""
    with tarfile.open(archive) as tar:
        assert tar.extractfile("./steps.txt").read() == RESULT
    started = [sim.jobs[job_id].name for job_id in sim.starts]
    assert len(started) == 2
    assert all(any(link in name for name in started) for link, _ in LINKS)
    assert set(sim.starts.values()) == {1}
    left = [str(path) for path in Path().rglob("*.part*")]
    assert not left, left


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


# main.py


def put_in(text: str, **sections: Any) -> str:
    """main.py's text with other values in its sections."""
    for name, value in sections.items():
        text, count = re.subn(
            rf"^{name} = (\[.*?^\]|[^\n]*)", lambda _: f"{name} = {value!r}", text, flags=re.M | re.S  # noqa: B023
        )
        assert count == 1, name
    return text


def copy_scripts(folder: Path, **sections: Any) -> Path:
    """main.py with two tiny jobs, or these values in its sections, and the library, as in a fresh clone."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    (folder / "inputs" / "steps.txt").write_text(INPUT, encoding="utf-8")
    sections = {
        "batches": [(link, command(word)) for link, word in LINKS], "input_path": str(folder / "inputs"), **sections,
    }
    text = (ROOT / "main.py").read_text(encoding="utf-8")
    (folder / "main.py").write_text(put_in(text, **sections), encoding="utf-8")
    library = (ROOT / "rescale_rest_api.py").read_text(encoding="utf-8")
    marker = '\n\nif __name__ == "__main__":'  # before the commands, which are the last thing in it
    assert library.count(marker) == 1
    (folder / "rescale_rest_api.py").write_text(library.replace(marker, FASTER + marker), encoding="utf-8")
    return folder


def result() -> Path:
    """The archive of the one chain that is done here."""
    [path] = Path().glob("*@second@*/rescale.tar.gz")
    return path


class Process:
    """A script that runs in a process of its own, forked from one that has loaded all there is to load."""

    def __init__(self, script: str, arguments: tuple[str, ...], constants: dict[str, Any], events: dict[str, Any],
                 variables: dict[str, str]) -> None:
        self.output = tempfile.mkdtemp(dir=Path.cwd().parent)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["two_jobs"])
        self.process = context.Process(target=_drive, args=(
            str(Path.cwd()), self.output, {**os.environ, **variables}, script, arguments, constants, events))
        with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT / "tests")):  # where the forking process finds this
            self.process.start()
        self.pid = self.process.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def printed(self, name: str = "out") -> str:
        path = Path(self.output, name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def runs(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        """Exit status, output and errors, once it has ended."""
        with self:
            self.process.join(timeout)
            status = self.process.exitcode
        out, err = self.printed(), self.printed("err")
        assert status is not None, f"it has not ended\n{out}\n{err}"
        assert "Traceback" not in err, err
        return status, out, err


def start(*arguments: str, script: str = "main.py", constants: dict[str, Any] | None = None,
          events: dict[str, Any] | None = None, **variables: str) -> Process:
    """Start main.py in the current folder, with these constants of the library; see _watch_files for `events`."""
    return Process(script, arguments, constants or {}, events or {}, variables)


def run(*arguments: str, **more: Any) -> tuple[int, str, str]:
    return start(*arguments, **more).end()


def _drive(folder: str, output: str, variables: dict[str, str], script: str, arguments: tuple[str, ...],
           constants: dict[str, Any], events: dict[str, Any]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(output, name), os.O_WRONLY | os.O_CREAT, 0o666), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    sys.argv = [script, *arguments]
    rescale.__file__ = str(Path(script).absolute().with_name("rescale_rest_api.py"))
    exec(FASTER, vars(rescale))
    vars(rescale).update(constants)
    if events:
        out = os.open(events["file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        sys.addaudithook(functools.partial(_watch_files, out, events.get("kill_at", 0), []))
    runpy.run_path(script, run_name="__main__")


def _watch_files(out: int, kill_at: int, seen: list[str], event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: write down what is about to be done to files of the working folder, and end as in a power cut."""
    if event == "open":
        if isinstance(arguments[0], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.rmdir"):
        return
    path, folder = Path(os.fsdecode(arguments[0])).absolute(), Path.cwd()
    if folder in path.parents:
        text = f"{event} {path.relative_to(folder)}\n"
        if text not in seen[-1:]:  # several times running is once, for that differs between Pythons
            seen.append(text)
            os.write(out, text.encode())
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
