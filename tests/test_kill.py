"""main.py killed or interrupted at any moment, and gone on with: the right result, and every job started once."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import wait_until
from rescale_simulator import Record, Simulator
from two_jobs import USER, Watch, assert_right, copy_scripts, result, run, start

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and SIGINT")
PARTS = 8  # tests that share a matrix, so that several workers can
KILLED = -signal.SIGKILL


@pytest.fixture
def chain(sim, clean_surroundings, monkeypatch):
    """The folder of a main.py with two tiny jobs, and the environment that points it at the simulator."""
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return copy_scripts(clean_surroundings)


def go_on(sim: Simulator) -> None:
    """Do what a user does after a crash, until all is done."""
    status, _, err = run("--resume")
    if status == 2 and not list(Path().glob("*.job")):
        for part in Path().glob(".*.job.*part"):
            part.unlink()  # of a chain that never was; no other one has that name
        status, _, err = run()  # killed before anything was started
    assert (status, err) == (0, "")
    assert_right(sim, result())


def anew(sim: Simulator) -> None:
    """Forget the chain before, for another one in the same folder."""
    for path in {*Path().glob("*@*"), *Path().glob(".*")}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    sim.jobs.clear()
    sim.starts.clear()
    sim.faults.clear()


# kill -9


@pytest.mark.parametrize("part", range(PARTS))
def test_a_chain_killed_at_any_request_is_gone_on_with(sim, chain, part):
    """Before the request is acted on, or after, but before the answer. The requests are those of a run undisturbed."""
    watch = Watch(sim)
    assert run()[0] == 0
    names = list(dict.fromkeys(watch.names))
    assert len(names) > 25
    moments = [("before", name) for name in names] + [("after", name) for name in names if ": POST" in name]
    for when, at in moments[part::PARTS]:
        anew(sim)
        watch = Watch(sim)
        process = start()
        killed = threading.Event()

        def kill(record: Record, now: str, when=when, at=at, watch=watch, process=process, killed=killed) -> None:
            if now == when and watch.names[-1] == at and not killed.is_set():
                killed.set()
                process.kill()
                raise ConnectionAbortedError  # it has not heard the answer, nor, before, been heard
            watch.on_request(record, now)

        sim.on_request = kill
        assert process.end()[0] == KILLED, (when, at)
        sim.on_request = watch.on_request
        go_on(sim)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_chain_killed_when_it_does_anything_to_a_file_is_gone_on_with(sim, chain, tmp_path, part):
    Watch(sim)
    assert run(events={"file": str(tmp_path / "events")})[0] == 0
    events = (tmp_path / "events").read_text(encoding="utf-8").splitlines()
    assert {"open", "os.link", "os.rename", "os.remove", "os.mkdir"} <= {event.split()[0] for event in events}
    for number in range(1, len(events) + 1)[part::PARTS]:
        anew(sim)
        Watch(sim)
        assert run(events={"file": str(tmp_path / "again"), "kill_at": number})[0] == KILLED, events[number - 1]
        go_on(sim)


def test_a_repeat_killed_when_it_does_anything_to_a_file_replaces_the_failed_job_once(sim, chain, tmp_path):
    """And there is a .job file for the link at every moment: of the failed job, or of the new one."""
    number, status = 0, KILLED
    while status == KILLED:
        anew(sim)
        Watch(sim)
        sim.fail, number = "second", number + 3
        assert run()[0] == 1
        [failed] = [job_id for job_id, job in sim.jobs.items() if "second" in job.name]
        sim.fail = None
        status = run("--repeat", events={"file": str(tmp_path / "events"), "kill_at": number})[0]
        kept = [path.read_text().strip() for path in [*Path().glob("*@second@*.job"), *Path().glob(".*second*.job")]]
        assert failed in kept or status == 0
        assert run("--repeat")[0] == 0
        assert [sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts] == ["first", "second", "second"]
        del sim.starts[failed]
        assert_right(sim, result())
    assert number > 10


def test_a_chain_killed_again_and_again_is_gone_on_with(sim, chain, tmp_path):
    """The resumed runs are killed too, every second time one file event later."""
    Watch(sim)
    events, runs = {"file": str(tmp_path / "events")}, 1
    status, _, _ = run(events={**events, "kill_at": 10})
    while status == KILLED and runs < 40:
        status, _, err = run("--resume", events={**events, "kill_at": 3 + runs // 2})
        runs += 1
    assert (status, err) == (0, "")
    assert runs > 5
    assert_right(sim, result())


SMALL = {"VOLUME": 1 << 20, "RANGE": (1 << 18, 1 << 20)}  # bytes: constants of the library, for files of a few MB


def test_of_an_upload_killed_midway_a_fifth_at_most_is_sent_twice(sim, chain):
    Watch(sim)
    size = 40 << 20
    Path("inputs/mesh.bin").write_bytes(os.urandom(size))
    sim.upload_rate = 8 << 20  # bytes per second and connection
    process = start(constants=SMALL)

    def arrived() -> int:
        return sum(file.size for file in sim.files.values())

    wait_until(lambda: arrived() > 0.6 * size, 30)
    process.kill()
    assert process.end()[0] == KILLED
    sim.upload_rate = None

    status, out, err = run(constants=SMALL)

    assert (status, err) == (0, "")
    assert re.search(r"- rescale\.tar\.gz: \d+ of 4\d parts are on the platform already", out)
    sent = [file.size for file in sim.files.values() if file.name.startswith("rescale.tar.gz.")]
    assert size < sum(sent) < 1.205 * size  # the eight on the way, of 41
    assert_right(sim, result())


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_download_killed_midway_leaves_a_beginning_of_the_file_and_goes_on_there(sim, chain, share):
    noise = 6_000_000
    copy_scripts(chain.parent / "noise", batches=[("second", f"cat steps.txt; head -c {noise} /dev/urandom > noise\n")])
    os.chdir(chain.parent / "noise")
    sim.rate = 400_000  # bytes per second and connection
    process = start(constants=SMALL)

    def beginnings() -> list[Path]:
        return [path for path in Path().glob("*@second@*/*") if path.stat().st_size > share * noise]

    wait_until(beginnings, 30)
    process.kill()
    sim.rate = None
    [part] = Path().glob(f"{USER}@second@*/*")
    [whole] = [file for file in sim.files.values() if file.name == "rescale.tar.gz" and file.size > noise]
    assert part.name == f".{whole.id}.part"
    content = part.read_bytes()
    assert whole.path.read_bytes().startswith(content)

    before = len(sim.requests)
    assert run("--resume", constants=SMALL)[0] == 0

    assert result().read_bytes() == whole.path.read_bytes()
    assert [path.name for path in result().parent.iterdir()] == ["rescale.tar.gz"]
    ranges = [record.headers["Range"] for record in sim.requests[before:] if whole.id in record.path]
    assert min(int(text[len("bytes="):].split("-")[0]) for text in ranges) == len(content)


# Everything else that ends a run


def test_a_chain_that_runs_is_not_gone_on_with_by_another_process(sim, chain):
    watch = Watch(sim)
    go = threading.Event()
    sim.on_request = lambda record, when: go.is_set() and watch.on_request(record, when)
    process = start()
    wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
    status, _, err = run("--resume")
    assert status == 1
    assert "another process" in err
    go.set()
    assert process.end()[0] == 0
    assert_right(sim, result())


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff\xfe\xfd\xfc\n", b"../users/me\n", b"<html>\n"],
                         ids=["empty", "zeros", "no text", "a path", "a page"])
def test_a_job_file_that_the_disk_has_spoilt_starts_nothing(sim, chain, content):
    Watch(sim)
    Path(f"{USER}@second@20260101-000000.job").write_bytes(content)
    first = Path(f"{USER}@first@20260101-000000.job")
    first.write_bytes(content)

    status, _, err = run("--resume")

    if content:
        assert status == 1
        assert not sim.starts
        assert first.read_bytes() == content
    else:  # as a kill between the two steps of a file system without links leaves it: no job is known by it
        assert (status, err) == (0, "")
        assert_right(sim, result())


@pytest.mark.parametrize("moment", ["while it was off", "with another key"])
def test_a_chain_is_gone_on_with_after_much_has_changed(sim, chain, monkeypatch, moment):
    """Its job ended while the machine was off; or the key was replaced, which ends the run before."""
    watch = Watch(sim)
    process = start()

    def change(record: Record, when: str) -> None:
        watch.on_request(record, when)
        if watch.names[-1].startswith("second: GET jobs/ID/runs/1/tail/"):
            if moment == "with another key":
                sim.token = "0123456789abcdef0123456789abcdef01234567"
            else:
                process.kill()

    sim.on_request = change
    status, _, err = process.end()
    assert status == (1 if moment == "with another key" else KILLED)
    assert ("401" in err) == (status == 1)
    assert sim.token not in err
    sim.on_request = watch.on_request
    wait_until(lambda: all(job.ended for job in sim.jobs.values()))

    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    go_on(sim)


# Ctrl-C


def interrupted(sim: Simulator, script: str = "main.py") -> str:
    """What main.py says on stderr after Ctrl-C, while its first job runs and does not end by itself."""
    sim.on_request = None
    process = start(script=script)
    wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
    process.kill(signal.SIGINT)
    status, _, err = process.end(20)
    assert status == 130
    return err


def paste(label: str, text: str) -> subprocess.CompletedProcess:
    """Run, through a shell, the command that stands behind a label in a message."""
    command = re.search(rf"^{label}: +(.*)$", text, re.MULTILINE)[1]
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_ctrl_c_says_that_the_job_runs_on_and_the_command_that_stops_it_works(sim, chain):
    Watch(sim)
    err = interrupted(sim)
    [job_id] = sim.starts
    assert f"job {job_id} runs on and is billed" in err
    paste("To stop it", err)
    wait_until(lambda: sim.jobs[job_id].ended)
    assert "User Terminated" in {entry["statusReason"] for entry in sim.jobs[job_id].statuses}


@pytest.mark.parametrize("where", ["beside the results", "elsewhere, with blanks", "absolute"])
def test_the_command_to_go_on_after_ctrl_c_works_when_pasted(sim, chain, tmp_path, where):
    """The results and the .job files are in the current folder, the scripts may be in another."""
    watch = Watch(sim)
    script = "main.py"
    if where != "beside the results":
        shutil.rmtree(chain / "inputs")
        tool = copy_scripts(tmp_path / "my tools (new)")
        for name in ("main.py", "rescale_rest_api.py"):
            (chain / name).unlink()
        script = str(tool / "main.py") if where == "absolute" else "../my tools (new)/main.py"
    err = interrupted(sim, script)
    sim.on_request = watch.on_request
    paste("To go on", err)
    assert_right(sim, result())


@pytest.mark.parametrize(("when", "at"), [
    ("before", "first: POST jobs/ "), ("before", "second: POST jobs/ "), ("before", "first: POST jobs/ID/submit/"),
    ("after", "second: POST jobs/ID/submit/"), ("before", "second: GET files/ID/contents/"),
])
def test_ctrl_c_at_any_moment_leaves_a_chain_that_can_be_gone_on_with(sim, chain, when, at):
    watch = Watch(sim)
    process = start()
    done = threading.Event()

    def interrupt_once(record: Record, now: str) -> None:
        if now == when and watch.names[-1].startswith(at) and not done.is_set():
            done.set()
            process.kill(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not process.runs(), 1)
            raise ConnectionAbortedError
        watch.on_request(record, now)

    sim.on_request = interrupt_once
    status, _, err = process.end()
    assert status == 130
    assert (" --resume" in err) == bool(list(Path().glob("*.job")))

    sim.on_request = watch.on_request
    go_on(sim)
