"""What the disk and the terminal can do to a chain: half-written files, full disks, lost screens, odd characters."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rescale_rest_api as rescale
from conftest import SPEED, here, wait_until
from rescale_simulator import Fault, Record, Simulator
from test_kill import copy_scripts, result
from two_jobs import Watch, assert_right, submissions, text_job

needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
LINE = "변위 Größe 😀 \x1b[31m end"  # one that few terminals can show


# Half-written files: a fault of the disk at any step leaves what was there

hooks = []  # an audit hook stays for good, so that there is one that does what the tests put here
sys.addaudithook(lambda event, arguments: [hook(event, arguments) for hook in hooks])


@pytest.fixture
def disk(monkeypatch):
    """Returns `fail(step, name, error)`, which lets that step of writing the file raise the error."""
    steps, wanted = [], {}
    fsync = os.fsync

    def step(kind: str, name: str) -> None:
        steps.append((kind, name))
        if wanted.get((kind, name)):
            raise wanted[kind, name]

    def synced(fd: int) -> None:
        status = os.fstat(fd)
        names = [path.name for path in Path().iterdir() if os.path.samestat(status, path.stat())]
        step("fsync", names[0].lstrip(".").replace(".part", "") if names else "the folder")
        fsync(fd)

    def renamed(event: str, arguments: tuple) -> None:
        if event == "os.rename":
            step("rename", Path(os.fsdecode(arguments[1])).name)

    monkeypatch.setattr(os, "fsync", synced)
    hooks.append(renamed)

    def fail(kind: str, name: str, error: BaseException) -> None:
        wanted[kind, name] = error

    fail.steps = steps  # those made so far
    yield fail
    hooks.remove(renamed)


FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")
FAULTS = [
    ("fsync", FULL), ("fsync", BROKEN), ("fsync", KeyboardInterrupt()),
    ("rename", BROKEN), ("rename", KeyboardInterrupt()),
]


@needs_posix
@pytest.mark.parametrize(("step", "error"), FAULTS)
def test_an_archive_that_cannot_be_finished_leaves_the_older_one(disk, step, error):
    Path("rod.inp").write_bytes(b"new")
    Path("rescale.tar.gz").write_bytes(b"older")
    disk(step, "rescale.tar.gz", error)

    with pytest.raises((rescale.RescaleError, KeyboardInterrupt)) as raised:
        rescale.create_tar_gz()

    assert isinstance(raised.value, rescale.RescaleError) == isinstance(error, OSError)
    assert Path("rescale.tar.gz").read_bytes() == b"older"
    assert here() == ["rescale.tar.gz", "rod.inp"]


@needs_posix
@pytest.mark.parametrize(("step", "error"), FAULTS)
@pytest.mark.parametrize("older", [None, b"OldJob\n"])
def test_a_job_whose_id_cannot_be_written_down_is_not_started(sim, access, disk, step, error, older):
    """Or it would be started once more after a crash."""
    job_id = text_job(sim)
    if older:
        Path("job.job").write_bytes(older)
    disk(step, "job.job", error)

    with pytest.raises((rescale.RescaleError, KeyboardInterrupt)) as raised:
        rescale.job_submit(*access, "job", job_id)

    if isinstance(error, OSError):
        told = rf"job\.job cannot be written; job {job_id} was not submitted.*{error.strerror}"
        assert re.search(told, str(raised.value))
    assert submissions(sim) == []
    assert (Path("job.job").read_bytes() if older else here()) == (older or [])
    assert not list(Path().glob(".*.part"))


@needs_posix
@pytest.mark.parametrize(("step", "error"), FAULTS)
def test_a_link_that_cannot_be_written_leaves_the_older_one_and_one_job(sim, access, disk, step, error):
    job_id = text_job(sim, "sleep 60")
    sim.resubmit = "again"
    Path("job.desktop").write_bytes(b"older")
    disk(step, "job.desktop", error)

    with contextlib.suppress(rescale.RescaleError, KeyboardInterrupt):
        rescale.job_submit(*access, "job", job_id)
    assert Path("job.desktop").read_bytes() == b"older"
    assert here() == ["job.desktop", "job.job"]
    disk(step, "job.desktop", None)
    rescale.job_submit(*access, "job", job_id)

    assert b"Type=Link" in Path("job.desktop").read_bytes()
    assert dict(sim.starts) == {job_id: 1}


@needs_posix
def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_before_anything_is_sent(sim, access, disk):
    Path("rod.inp").write_bytes(b"new")
    job_id = text_job(sim)
    rescale.create_tar_gz()
    sim.on_request = lambda record, when: disk.steps.append(("request", record.path.rsplit("/", 2)[1]))
    rescale.job_submit(*access, "job", job_id)

    steps = [step for step in disk.steps if step[1] not in ("statuses", "state.json")]
    assert steps == [
        ("fsync", "rescale.tar.gz"), ("rename", "rescale.tar.gz"), ("fsync", "the folder"),
        ("fsync", "job.job"), ("rename", "job.job"), ("fsync", "the folder"),
        ("request", "submit"), ("request", "submit"),
        ("fsync", "job.desktop"), ("rename", "job.desktop"), ("fsync", "the folder"),
    ]


@needs_posix
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES])
def test_a_file_system_that_cannot_flush_a_folder_is_good_enough(sim, access, disk, error):
    """Network shares and the like."""
    job_id = text_job(sim)
    Path("rod.inp").write_bytes(b"new")
    disk("fsync", "the folder", OSError(error, "not here"))

    rescale.create_tar_gz()
    rescale.job_submit(*access, "job", job_id)

    assert here() == ["job.desktop", "job.job", "rescale.tar.gz", "rod.inp"]


@needs_posix
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_good_enough(sim, access, monkeypatch, error):
    def no_locks(*_: object) -> None:
        raise OSError(error, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    job_id = text_job(sim)

    rescale.job_submit(*access, "job", job_id)

    assert dict(sim.starts) == {job_id: 1}


@needs_posix
def test_an_archive_that_another_process_finishes_in_this_moment_is_not_emptied(monkeypatch):
    """Between opening the temporary file and locking it, it may get its name: then it is the other one's archive."""
    Path("rod.inp").write_bytes(b"new")
    part = Path(".rescale.tar.gz.part")
    part.write_bytes(b"theirs")

    def a_moment_later(*_: object) -> None:
        if part.exists():
            part.replace("rescale.tar.gz")

    monkeypatch.setattr("fcntl.flock", a_moment_later)
    with pytest.raises(rescale.RescaleError, match="in use"):
        rescale.create_tar_gz()

    assert Path("rescale.tar.gz").read_bytes() == b"theirs"


@needs_posix
def test_a_job_file_that_another_process_writes_in_this_moment_is_the_other_ones(sim, access, monkeypatch):
    """Between writing it and locking it."""
    job_id = text_job(sim)
    Path("theirs").write_bytes(b"OtherJob\n")

    def a_moment_later(fd: int) -> None:
        if Path("job.job").exists() and Path("theirs").exists():
            Path("theirs").replace("job.job")

    monkeypatch.setattr(os, "fsync", a_moment_later)
    with pytest.raises(rescale.RescaleError, match="in use"):
        rescale.job_submit(*access, "job", job_id)

    assert submissions(sim) == []
    assert Path("job.job").read_bytes() == b"OtherJob\n"


@pytest.mark.parametrize("name", ["job.job", ".job.job.part"])
def test_a_folder_in_the_place_of_a_job_file_is_told_and_nothing_is_started(sim, access, name):
    job_id = text_job(sim)
    Path(name).mkdir()

    with pytest.raises(rescale.RescaleError, match=r"job\.job"):
        rescale.job_submit(*access, "job", job_id)

    assert not sim.starts


def test_a_name_that_is_used_again_names_the_new_job(sim, access):
    first, second = text_job(sim), text_job(sim)
    for job_id in (first, second):
        rescale.job_submit(*access, "job", job_id)
        assert Path("job.job").read_text(encoding="utf-8") == f"{job_id}\n"

    assert dict(sim.starts) == {first: 1, second: 1}


@needs_posix
def test_a_working_folder_that_is_gone_is_told(sim, access, clean_surroundings):
    """Scratch disks are cleared while a chain runs."""
    job_id = text_job(sim)
    rescale.job_submit(*access, "before", job_id)
    rescale.job_monitor(*access, job_id)
    gone = clean_surroundings / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    other = text_job(sim)

    for call in (
        lambda: rescale.create_tar_gz(),
        lambda: rescale.upload_local_files(*access),
        lambda: rescale.job_submit(*access, "job", other),
        lambda: rescale.job_download(*access, "job", job_id),
    ):
        with pytest.raises(rescale.RescaleError):
            call()

    os.chdir(clean_surroundings)
    assert dict(sim.starts) == {job_id: 1}


@needs_posix
@pytest.mark.parametrize("fault", ["reset_before", "503", "reset_after"])
def test_an_upload_that_is_repeated_sends_what_it_began_with(sim, access, fault):
    """Another chain in the same folder writes its archive under the same name meanwhile."""
    Path("rescale.tar.gz").write_bytes(b"ours" * 1000)
    Path("theirs").write_bytes(b"not ours" * 500)
    sim.faults.append(Fault(fault))

    def replace(record: Record, when: str) -> None:
        if when == "before" and Path("theirs").exists():
            Path("theirs").replace("rescale.tar.gz")

    sim.on_request = replace
    with contextlib.suppress(rescale.RescaleError):  # it may also refuse
        [entry] = rescale.upload_local_files(*access)
        assert sim.files[entry["id"]].path.read_bytes() == b"ours" * 1000


# Other processes, for what can be done to one only as a whole

PRELUDE = f"""
import os, sys, types, time as real
import rescale_rest_api as rescale
rescale.time = types.SimpleNamespace(
    sleep=lambda seconds: real.sleep(seconds / {SPEED}), monotonic=lambda: {SPEED} * real.monotonic(), time=real.time)
url, token, job_id = sys.argv[1:]
token = 'Token ' + token
"""
MONITOR = f"{PRELUDE}rescale.job_monitor(url, token, job_id)\nopen('ended', 'w').close()\n"


def child(sim: Simulator, job_id: str, script: str, **options: Any) -> subprocess.Popen:
    environment = {
        **os.environ, "PYTHONPATH": str(Path(rescale.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1",
        **options.pop("variables", {}),
    }
    return subprocess.Popen([sys.executable, "-c", script, sim.url, sim.token, job_id], env=environment, **options)


def with_full_disk(limit: int, script: str) -> str:
    """Files may have no more than `limit` bytes, which is what a full disk comes to."""
    head, _, rest = script.partition("url, token")
    return f"{head}import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\nurl, token{rest}"


@needs_posix
def test_with_a_full_disk_nothing_is_started(sim, access):
    job_id = text_job(sim)

    with child(sim, job_id, with_full_disk(3, PRELUDE) + "rescale.job_submit(url, token, 'job', job_id)",
               stderr=subprocess.PIPE, text=True) as process:
        _, err = process.communicate(timeout=30)

    assert "RescaleError: job.job cannot be written" in err
    assert not sim.starts
    assert here() == []


@needs_posix
@pytest.mark.parametrize("in_ranges", [False, True])
def test_a_download_onto_a_full_disk_goes_on_when_there_is_room(sim, access, ended_job, in_ranges):
    content = os.urandom(3_000_000)
    job_id = ended_job({"rescale.tar.gz": content})
    sizes = "rescale.SINGLE = 100_000; rescale.RANGE = 200_000\n" if in_ranges else ""
    script = f"{PRELUDE}{sizes}rescale.job_download(url, token, 'job', job_id)"

    with child(sim, job_id, with_full_disk(2_000_000, script), stderr=subprocess.PIPE, text=True) as process:
        _, err = process.communicate(timeout=60)
    assert "RescaleError" in err.splitlines()[-1] + err
    assert process.returncode == 1
    assert not Path("job/rescale.tar.gz").exists()
    asked = len(sim.requests)
    with child(sim, job_id, script) as process:
        process.communicate(timeout=60)

    assert process.returncode == 0
    assert Path("job/rescale.tar.gz").read_bytes() == content
    assert [path.name for path in Path("job").iterdir()] == ["rescale.tar.gz"]
    wanted = [record.headers.get("Range") for record in sim.requests[asked:] if "/contents/" in record.path]
    assert all(re.match(r"bytes=[1-9]", text) for text in wanted)  # what had come was not fetched again


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_killed_download_in_ranges_goes_on_where_each_of_them_stopped(sim, access, ended_job, power_cut):
    content = os.urandom(8_000_000)
    job_id = ended_job({"rescale.tar.gz": content})
    script = f"{PRELUDE}rescale.SINGLE = 100_000; rescale.RANGE = 2_000_000\n" \
        "rescale.BLOCK = 50_000; rescale.job_download(url, token, 'job', job_id)"
    sim.rate = 500_000

    def marks() -> dict[int, int]:
        """Where each range starts, and how much of it has come."""
        return {int(path.suffix[1:]): path.stat().st_size for path in Path("job").glob(".*.part.*")}

    with child(sim, job_id, script) as process:
        wait_until(lambda: len([size for size in marks().values() if size > 200_000]) == 4, 30)
        process.kill()
    came, asked = marks(), len(sim.requests)
    if power_cut:  # the marks were on the disk, what they tell of was not
        [part] = Path("job").glob(".*.part")
        part.write_bytes(bytes(part.stat().st_size))
    sim.rate = None
    with child(sim, job_id, script, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=60)

    assert Path("job/rescale.tar.gz").read_bytes() == content
    assert [path.name for path in Path("job").iterdir()] == ["rescale.tar.gz"]
    assert ("arrived damaged" in out) == power_cut
    wanted = [record.headers.get("Range") for record in sim.requests[asked:] if "/contents/" in record.path]
    assert {text and int(text[6:].partition("-")[0]) for text in wanted} == \
        {start + size for start, size in came.items()} | ({None} if power_cut else set())


def test_ranges_without_a_checksum_to_judge_them_by_are_fetched_anew(sim, access, ended_job, monkeypatch):
    """The platform gave a checksum when the download began, and gives none any more: between the ranges are holes."""
    monkeypatch.setattr(rescale, "SINGLE", 100_000)
    monkeypatch.setattr(rescale, "RANGE", 100_000)
    content = os.urandom(400_000)
    job_id = ended_job({"rescale.tar.gz": content})
    [file] = sim.files
    Path("job").mkdir()
    Path(f"job/.{file}.part").write_bytes(bytes(300_000) + content[300_000:350_000])
    Path(f"job/.{file}.part.300000").write_bytes(bytes(50_000))
    sim.checksums = "none"

    rescale.job_download(*access, "job", job_id)

    assert Path("job/rescale.tar.gz").read_bytes() == content


# Terminals


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "latin-1", "cp437:strict", "utf-8"])
def test_a_line_that_the_terminal_cannot_show_is_shown_as_far_as_it_can(sim, access, encoding):
    job_id = text_job(sim, f"cat << 'END'\nfirst\n{LINE}\nEND\n{wait_for('go')}")
    rescale.job_submit(*access, "job", job_id)
    # Only the second look: the first may come before the line.
    looks = []
    sim.on_request = lambda record, when: "/tail/" in record.path and (
        looks.append(when), len(looks) > 3 and (sim.jobs[job_id].folder / "go").touch())

    with child(sim, job_id, MONITOR, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
               variables={"PYTHONIOENCODING": encoding}) as process:
        out, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (0, b"")
    shown = LINE.replace("\x1b", "\ufffd").encode(encoding.partition(":")[0], "replace")
    lines = [line for line in out.splitlines() if line.endswith(b"[31m end")]  # the log shows the command, too
    assert lines
    assert all(line.endswith(shown) for line in lines)
    assert f"Job {job_id} : Completed".encode() in out


def test_an_error_that_the_terminal_cannot_show_is_shown_as_far_as_it_can(sim, access):
    settings = "'true', '없는 코드', '0', {}, 'emerald', 1, 1, 1, None, []"
    script = f"{PRELUDE}rescale.job_setup(url, token, 'job', {settings})"

    with child(sim, "-", script, stderr=subprocess.PIPE, variables={"PYTHONIOENCODING": "ascii"}) as process:
        _, err = process.communicate(timeout=30)

    assert b"RescaleError: POST" in err
    assert b"There is no analysis" in err


def wait_for(name: str) -> str:
    return f'until [ -e "$HOME/{name}" ]; do sleep 0.01; done'


def run_without_screen(
    sim: Simulator, lose: Callable[[], object], script: str = MONITOR, text: str = "echo plain", **options: Any
) -> subprocess.Popen:
    """A monitor whose stdout is lost while the job runs, which then writes `text` and ends."""
    job_id = text_job(sim, f"{wait_for('go')}\n{text}\n{wait_for('end')}")
    rescale.job_submit(sim.url, f"Token {sim.token}", "job", job_id)
    folder, looks = sim.jobs[job_id].folder, []

    def on_request(record, when):
        if "/tail/" in record.path and when == "before":
            looks.append(record)
            if len(looks) == 1:
                lose()
                (folder / "go").touch()
            if len(looks) == 4:
                (folder / "end").touch()

    sim.on_request = on_request
    process = child(sim, job_id, script, **options)
    try:
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    return process


@needs_posix
@pytest.mark.parametrize("text", ["echo plain", f"echo '{LINE}'"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_monitor_goes_on_when_nobody_reads_its_output_any_more(sim, access, text, encoding):
    """`python main.py | head`, or a `tee` that has died."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as stdout:
        process = run_without_screen(
            sim, lambda: os.close(read), text=text, stdout=stdout, stderr=subprocess.PIPE,
            variables={"PYTHONIOENCODING": encoding},
        )
    with process.stderr:
        err = process.stderr.read().decode()

    assert Path("ended").exists(), err
    assert "Traceback" not in err


@needs_posix
def test_a_monitor_goes_on_when_its_terminal_is_gone(sim, access):
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "wb") as stdout:
        run_without_screen(sim, lambda: os.close(master), stdout=stdout, stderr=subprocess.DEVNULL)

    assert Path("ended").exists()


@needs_posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full there")
def test_a_monitor_goes_on_when_the_disk_of_its_output_is_full(sim, access):
    with Path("/dev/full").open("wb") as stdout:
        run_without_screen(sim, lambda: None, stdout=stdout, stderr=subprocess.DEVNULL)

    assert Path("ended").exists()


@needs_posix
@pytest.mark.parametrize("statement", ["os.close(1)", "sys.stdout = None", "sys.stdout.close()"])
def test_a_monitor_goes_on_without_a_stdout(sim, access, statement):
    script = MONITOR.replace("url, token, job_id = ", f"{statement}\nurl, token, job_id = ", 1)

    run_without_screen(sim, lambda: None, script=script, stderr=subprocess.DEVNULL)

    assert Path("ended").exists()


@needs_posix
@pytest.mark.parametrize("screen", ["pipe", "full", "closed"])
def test_a_whole_chain_ends_right_without_a_screen(sim, clean_surroundings, monkeypatch, screen):
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    copy_scripts(clean_surroundings)
    Watch(sim)
    shell = {"pipe": "| head -n 1", "full": "> /dev/full 2>&1", "closed": ">&- 2>&-"}[screen]
    if screen == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full there")

    line = f'"{sys.executable}" main.py {shell}'
    done = subprocess.run(line, shell=True, stdout=subprocess.DEVNULL, timeout=60, check=False)
    wait_until(lambda: list(Path().glob("*@second@*/rescale.tar.gz")), 20)

    assert_right(sim, result())
    assert done.returncode == 0  # what a script that waits for it goes by
