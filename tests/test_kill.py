"""main.py killed or interrupted at any moment, and gone on with.

A chain killed at any request or file event     is gone on with by --resume: the right result, each job started once
A --repeat killed likewise                      is gone on with: the failed job is replaced once, with the mended input
Runs that are killed again and again            come to an end
An upload killed midway                         sends little of it again
A download killed midway                        leaves a beginning of the file, and goes on there
Ctrl-C at any moment                            leaves a chain to go on with; the command that it names works

A second process beside a chain at work, and files that vanish before Ctrl-C: test_main.py
"""

import collections
import contextlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import wait_until
from rescale_simulator import Record, Simulator
from two_jobs import USER, Watch, assert_right, copy_scripts, paste, result, run, start, steps

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and SIGINT"), pytest.mark.timeout(300)]
PARTS = 3  # tests that share a matrix, so that several workers can
KILLED = -signal.SIGKILL


@pytest.fixture
def chain(environment, clean_surroundings):
    """The folder of a main.py with two tiny jobs, which the simulator is to run."""
    return copy_scripts(clean_surroundings)


class State:
    """What there is before a run, here and on the platform."""

    def __init__(self, sim: Simulator) -> None:
        self.sim, self.jobs, self.starts = sim, dict(sim.jobs), collections.Counter(sim.starts)
        self.folder = shutil.copytree(".", Path.cwd().parent / "before")

    def restore(self) -> None:
        for path in Path().iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.folder, ".", dirs_exist_ok=True)
        self.sim.jobs, self.sim.starts = dict(self.jobs), collections.Counter(self.starts)
        self.sim.faults.clear()


def each_request(
    sim: Simulator, part: int, *arguments: str, number: int = signal.SIGKILL, parts: int = PARTS
) -> Iterator[str]:
    """Run main.py, killed at a request of a run undisturbed: before it is acted on; or after, but before the answer."""
    state, watch = State(sim), Watch(sim)
    assert run(*arguments)[0] == 0
    names = list(dict.fromkeys(watch.names))
    moments = [("before", name) for name in names] + [("after", name) for name in names if ": POST" in name]
    for when, at in moments[part::parts]:
        state.restore()
        watch, killed = Watch(sim), threading.Event()
        process = start(*arguments)

        def kill(record: Record, now: str, when=when, at=at, watch=watch, process=process, killed=killed) -> None:
            if now == when and watch.names[-1] == at and not killed.is_set():
                killed.set()
                process.kill(number)
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: number == signal.SIGKILL or not process.runs(), 1)
                raise ConnectionAbortedError  # it has not heard the answer, nor, before, been heard
            watch.on_request(record, now)

        sim.on_request = kill
        status, _, err = process.end()
        assert status == {signal.SIGKILL: KILLED, signal.SIGINT: 130}[number], (when, at)
        sim.on_request = watch.on_request
        yield f"{when} {at}: {err}"


def each_file_event(sim: Simulator, part: int, *arguments: str) -> Iterator[str]:
    """Run main.py, killed when it is about to do something to a file of its folder, as a run undisturbed did."""
    state, file = State(sim), Path.cwd().parent / "events"
    Watch(sim)
    assert run(*arguments, events={"file": str(file)})[0] == 0
    events = file.read_text(encoding="utf-8").splitlines()
    assert {"open", "os.rename", "os.remove"} <= {event.split()[0] for event in events}
    for number in range(1, len(events) + 1)[part::PARTS]:
        state.restore()
        Watch(sim)
        status = run(*arguments, events={"file": str(file.with_name("again")), "kill_at": number})[0]
        assert status == KILLED, events[number - 1]
        yield events[number - 1]


def go_on(sim: Simulator) -> None:
    """Do what a user does after a crash, until all is done."""
    status, _, err = run("--resume")
    if status == 2 and not list(Path().glob("*.job")):
        for part in Path().glob(".*.chain.part"):
            part.unlink()  # of a chain that never was; no other one has that name
        status, _, err = run()  # killed before anything was started
    assert (status, err) == (0, "")
    assert_right(sim, result())


@pytest.mark.parametrize("each", [each_request, each_file_event])
@pytest.mark.parametrize("part", range(PARTS))
def test_a_chain_killed_at_any_moment_is_gone_on_with_and_starts_each_job_once(each, part, sim, chain):
    for moment in each(sim, part):
        print(moment)
        go_on(sim)


@pytest.mark.parametrize("each", [each_request, each_file_event])
@pytest.mark.parametrize("part", range(PARTS))
def test_a_repeat_killed_at_any_moment_replaces_the_failed_job_once_with_the_mended_input(each, part, sim, chain):
    """From the moment on when all is prepared it is only resumed."""
    Watch(sim)
    sim.fail = "second"
    assert run()[0] == 1
    sim.fail, is_prepared = None, False
    Path("inputs/steps.txt").write_text("mended\n")
    for moment in each(sim, part, "--repeat"):
        print(moment)
        assert list(Path().glob("*@second@*.job")) + list(Path().glob(".*@second@*.job"))
        status, _, err = run("--resume")
        is_prepared = is_prepared or status == 0
        if not is_prepared:
            assert (status, "--repeat" in err) == (1, True)
            status, _, err = run("--repeat")
        assert (status, err) == (0, "")
        started = [sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts.elements()]
        assert started == ["first", "second", "second"]
        assert steps(result()) == "mended\ntwo\n"
    assert is_prepared


def test_a_chain_killed_again_and_again_is_gone_on_with(sim, chain, tmp_path):
    """The resumed runs are killed too, every second time one file event later."""
    Watch(sim)
    events, runs = {"file": str(tmp_path / "events")}, 1
    status, _, err = run(events={**events, "kill_at": 10})
    while status == KILLED and runs < 40:
        status, _, err = run("--resume", events={**events, "kill_at": 3 + runs // 2})
        runs += 1
    assert (status, err, runs > 5) == (0, "", True)
    assert_right(sim, result())


SMALL = {"VOLUME_FROM": 1 << 22, "VOLUME": 1 << 19, "RANGE": (1 << 18, 1 << 20)}  # constants, for files of a few MB


def test_of_an_upload_killed_midway_only_the_volumes_on_the_way_are_sent_again(sim, chain):
    Watch(sim)
    size = 16 << 20
    Path("inputs/mesh.bin").write_bytes(os.urandom(size))
    sim.upload_rate = 4 << 20  # bytes per second and connection
    process = start(constants=SMALL)

    def arrived() -> int:
        return sum(file.size for file in list(sim.files.values()) if file.name.startswith("rescale.tar.gz."))

    wait_until(lambda: arrived() > 0.6 * size, 30)
    process.kill()
    assert process.end()[0] == KILLED
    sim.upload_rate = None

    status, out, err = run("--resume", constants=SMALL)

    assert (status, err) == (0, "")
    assert size < arrived() < 1.3 * size  # the eight on the way, of 33
    assert_right(sim, result())


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_download_killed_midway_leaves_a_beginning_of_the_file_and_goes_on_there(sim, chain, share):
    noise = 6_000_000
    copy_scripts(chain, batches=[("second", f"cat steps.txt; head -c {noise} /dev/urandom > noise\n")])
    sim.rate = 400_000  # bytes per second and connection
    process = start(constants=SMALL)
    wait_until(lambda: any(path.stat().st_size > share * noise for path in Path().glob("*@second@*/.*.part")), 30)
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


def test_the_command_to_go_on_after_ctrl_c_works_when_pasted(sim, chain, tmp_path):
    """The results and the .job files are in the current folder, the scripts in another."""
    watch = Watch(sim)
    sim.on_request = None  # the first job does not end by itself
    shutil.move(chain, tmp_path / "my tools (new)")
    chain.mkdir()
    os.chdir(chain)
    copy_scripts(tmp_path / "my tools (new)")
    process = start(script="../my tools (new)/main.py")
    wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
    process.kill(signal.SIGINT)
    status, _, err = process.end(20)
    assert status == 130
    sim.on_request = watch.on_request
    done = paste(re.search(r"^To go on: +(.*)$", err, re.MULTILINE)[1])
    assert done.returncode == 0, done.stderr
    assert_right(sim, result())


def test_ctrl_c_at_any_moment_leaves_a_chain_that_can_be_gone_on_with(sim, chain):
    for moment in each_request(sim, 4, number=signal.SIGINT, parts=6):
        print(moment)
        assert (" --resume" in moment) == bool(list(Path().glob("*.job")))
        go_on(sim)
