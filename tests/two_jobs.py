"""A chain of two tiny jobs, the second of which needs what the first wrote: its requests by name, and its main.py.

`run_here` runs main.py in this process, by the test's clock; `run` and `start` in one of its own, which can be killed.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # also where this is imported beforehand

import rescale_rest_api as rescale  # noqa: E402
from rescale_simulator import Fault, Record, Simulator  # noqa: E402

LINKS = (("first", "one"), ("second", "two"))
INPUT = "zero\n"  # of the file steps.txt
RESULT = "zero\none\ntwo\n"
THREE = [(name, f"echo {name} >> steps.txt\n") for name in ("one", "two", "three")]  # of other chains
USER = getpass.getuser()
ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
FORKS.set_forkserver_preload(["two_jobs"])

# Runs in the library: its steps of 5 s take 25 ms.
FASTER = """

import types as _types
_real = time
time = _types.SimpleNamespace(
    sleep=lambda seconds: _real.sleep(seconds / 200), monotonic=lambda: 200 * _real.monotonic(), time=_real.time)
"""


def command(word: str) -> str:
    """Add a line to steps.txt, as soon as the log has been asked for."""
    return f'until [ -e "$HOME/go" ]; do sleep 0.01; done\necho {word} >> steps.txt\n'


class Watch(Fault):
    """Names the requests of a chain, each with its link and the request before it, so that every step has a name.

    A name is "first: GET jobs/ID/files/ behind GET jobs/ID/": `names` has them in order, a poll's again and again. As a
    fault it strikes the first request of each name in `at`. It lets a job go on only when its log is asked for, so that
    this request, too, is part of every chain. A job runs once more for every further submission.
    """

    def __init__(self, sim: Simulator, at: Iterable[str] = (), fault: str = "503", **more: Any) -> None:
        super().__init__(fault, **more)
        self.sim, self.left, self.names, self.last = sim, list(at), list[str](), "nothing"
        sim.faults.append(self)
        sim.resubmit, sim.resubmit_completed, sim.on_request = "again", "400", self.on_request

    def strikes(self, record: Record) -> bool:
        self.names.append(self.name_of(record))
        if self.names[-1] not in self.left:
            return False
        self.left.remove(self.names[-1])
        return True

    def on_request(self, record: Record, when: str) -> None:
        if "/tail/" in record.path and when == "after":  # so that it still runs when it is asked for
            (self.sim.jobs[record.path.split("/")[4]].folder / "go").touch()

    def name_of(self, record: Record) -> str:
        jobs = list(self.sim.jobs.values())
        own = (link for job in jobs for link, _ in LINKS if f"/{job.id}/" in record.path and link in job.name)
        link = next(own, LINKS[any(job.ended for job in jobs)][0])
        path = re.sub(r"(jobs|files)/[A-Za-z]{6}/", r"\1/ID/", record.path.replace("/api/v2/", "", 1))
        path = path.replace("/tail/shared/", "/tail/")  # which of them is asked first is up to time
        request = f"{record.method} {path}"
        name, self.last = f"{link}: {request} behind {self.last}", request
        return name


def assert_right(sim: Simulator, archive: Path) -> None:
    """What both jobs wrote, one start per link, and nothing half done left behind."""
    assert steps(archive) == RESULT
    started = [sim.jobs[job_id].name for job_id in sim.starts.elements()]
    assert [[link for link, _ in LINKS if link in name] for name in started] == [["first"], ["second"]], started
    assert not list(Path().rglob("*.part*"))


def copy_scripts(folder: Path, **sections: Any) -> Path:
    """main.py with two tiny jobs, or these values in its sections, and the library, as in a fresh clone."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    (folder / "inputs" / "steps.txt").write_text(INPUT, encoding="utf-8")
    tiny = {"batches": [(link, command(word)) for link, word in LINKS], "input_path": str(folder / "inputs")}
    text, library = ((ROOT / name).read_text(encoding="utf-8") for name in ("main.py", "rescale_rest_api.py"))
    for name, value in {**tiny, **sections}.items():
        line = f"{name} = {value!r}".replace("\\", "\\\\")
        text, count = re.subn(rf"^{name} = (\[.*?^\]|[^\n]*)", line, text, flags=re.M | re.S)
        assert count == 1, name
    (folder / "main.py").write_text(text, encoding="utf-8")
    functions, *commands = library.rpartition('\n\nif __name__ == "__main__":')
    (folder / "rescale_rest_api.py").write_text("".join([functions, FASTER, *commands]), encoding="utf-8")
    return folder


def result(batch: str = "second") -> Path:
    """The archive of the one chain here that is done."""
    [path] = Path().glob(f"*@{batch}@????????-??????/rescale.tar.gz")
    return path


def steps(archive: Path) -> str:
    """What the jobs wrote."""
    with tarfile.open(archive) as tar:
        return tar.extractfile("./steps.txt").read().decode()


def paste(command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)


def run_here(*arguments: str, script: str = "main.py") -> Any:
    """Run main.py of the current folder in this process; return what it exits with."""
    with mock.patch.object(sys, "argv", [script, *arguments]):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return end.code
    return 0


class Process:
    """A script that runs in a process of its own, forked from one that has loaded all there is to load."""

    def __init__(self, variables: dict[str, str], *how: Any) -> None:
        self.output = tempfile.mkdtemp(dir=Path.cwd().parent)
        arguments = (str(Path.cwd()), self.output, {**os.environ, **variables}, *how)
        self.process = FORKS.Process(target=_drive, args=arguments, daemon=True)
        with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT / "tests")):  # where the forking process finds this
            self.process.start()
        self.pid = self.process.pid

    def printed(self, name: str = "out") -> str:
        path = Path(self.output, name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def runs(self) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        """Exit status, output and errors, once it has ended."""
        self.process.join(timeout)
        status = self.process.exitcode
        self.process.kill()
        out, err = self.printed(), self.printed("err")
        assert status is not None, f"it has not ended\n{out}\n{err}"
        assert "Traceback" not in err, err
        return status, out, err


def start(*arguments: str, script: str = "main.py", constants: dict[str, Any] | None = None,
          events: dict[str, Any] | None = None, **variables: str) -> Process:
    """Start main.py in the current folder, with these constants of the library; see _watch_files for `events`."""
    return Process(variables, script, arguments, constants or {}, events or {})


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
    rescale.__file__ = str(Path(script).absolute().with_name("rescale_rest_api.py"))
    exec(FASTER, vars(rescale))
    vars(rescale).update(constants)
    if events:
        out = os.open(events["file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        sys.addaudithook(functools.partial(_watch_files, out, events.get("kill_at", 0), []))
    sys.exit(run_here(*arguments, script=script))


def _watch_files(out: int, kill_at: int, seen: list[str], event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: write down what is about to be done to files of the working folder, and end as in a power cut."""
    changes = ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.rmdir")
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event not in changes and (event != "open" or isinstance(arguments[0], int) or not arguments[2] & writes):
        return
    path, folder = Path(os.fsdecode(arguments[0])).absolute(), Path.cwd()
    if folder in path.parents:
        text = f"{event} {path.relative_to(folder)}\n"
        if text not in seen[-1:]:  # several times running is once, for that differs between Pythons
            seen.append(text)
            os.write(out, text.encode())
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
