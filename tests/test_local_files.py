"""What the disk and the terminal can do to a chain: half-written files, full disks, lost screens, odd characters."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import SPEED, here, wait_until
from rescale_simulator import Fault
from two_jobs import Watch, assert_right, copy_scripts, result, submissions, text_job

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

    def step(kind, name):
        steps.append((kind, name))
        if wanted.get((kind, name)):
            raise wanted[kind, name]

    def synced(fd):
        status = os.fstat(fd)
        names = [path.name for path in Path().iterdir() if os.path.samestat(status, path.stat())]
        step("flush", re.sub(r"^\.(.+?)(\.\w{6})?\.part$", r"\1", names[0]) if names else "the folder")
        fsync(fd)

    def named(event, arguments):
        if event in ("os.rename", "os.link"):
            step("name", Path(os.fsdecode(arguments[1])).name)

    monkeypatch.setattr(os, "fsync", synced)
    hooks.append(named)

    def fail(kind, name, error):
        wanted[kind, name] = error

    fail.steps = steps  # those made so far
    yield fail
    hooks.remove(named)


FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")
each_fault = pytest.mark.parametrize(("step", "error"), [
    ("flush", FULL), ("flush", BROKEN), ("flush", KeyboardInterrupt()), ("name", BROKEN), ("name", KeyboardInterrupt()),
], ids=["no room", "flush fails", "Ctrl-C at flush", "rename fails", "Ctrl-C at rename"])


@needs_posix
@each_fault
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
@each_fault
@pytest.mark.parametrize("older", [False, True], ids=["new", "behind an ended job"])
def test_a_job_whose_id_cannot_be_written_down_is_not_started(sim, access, disk, step, error, older, ended_job):
    """Or it would be started once more after a crash."""
    if older:
        Path("job.job").write_text(f"{ended_job({})}\n")
    job_id = text_job(sim)
    disk(step, "job.job", error)
    if step == "name":  # where links cannot be made, there is another way, which fails as well
        disk("flush", "job.job", error)
    with pytest.raises((rescale.RescaleError, KeyboardInterrupt)) as raised:
        rescale.job_submit(*access, "job", job_id)
    if isinstance(error, OSError):
        assert re.search(rf"job\.job.*{job_id}.*{error.strerror}", str(raised.value))
    assert submissions(sim) == []
    disk("flush", "job.job", None)
    disk("name", "job.job", None)
    rescale.job_submit(*access, "job", job_id)
    assert dict(sim.starts) == {job_id: 1}
    assert not list(Path().glob(".*.part"))


@needs_posix
@each_fault
def test_a_link_that_cannot_be_written_leaves_the_older_one_and_one_job(sim, access, disk, step, error):
    job_id = text_job(sim, "sleep 60")
    sim.resubmit = "again"
    Path("job.desktop").write_bytes(b"older")
    disk(step, "job.desktop", error)
    with contextlib.suppress(KeyboardInterrupt):
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
    steps = [step for step in disk.steps if step[1] not in ("statuses", "state.json", "process_output.log")]
    assert steps == [
        ("flush", "rescale.tar.gz"), ("name", "rescale.tar.gz"), ("flush", "the folder"),
        ("flush", "job.job"), ("name", "job.job"), ("flush", "the folder"),
        ("request", "submit"), ("request", "submit"),
        ("flush", "job.desktop"), ("name", "job.desktop"), ("flush", "the folder"),
    ]


# What file systems lack, and what others do to the files meanwhile


@needs_posix
@pytest.mark.parametrize("lacking", ["flushed folders", "links", "locks", "all of it"])
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EPERM])
def test_a_file_system_that_lacks_something_is_good_enough(sim, access, disk, monkeypatch, lacking, error):
    """Network shares and the like."""
    def fail(*_):
        raise OSError(error, "not here")

    if lacking in ("flushed folders", "all of it"):
        disk("flush", "the folder", OSError(error, "not here"))
    if lacking in ("links", "all of it"):
        monkeypatch.setattr(os, "link", fail)
    if lacking in ("locks", "all of it"):
        monkeypatch.setattr("fcntl.flock", fail)
    job_id = text_job(sim)
    Path("rod.inp").write_bytes(b"new")
    rescale.create_tar_gz()
    for _ in range(2):
        rescale.job_submit(*access, "job", job_id)
    assert here() == ["job.desktop", "job.job", "rescale.tar.gz", "rod.inp"]
    assert Path("job.job").read_text().strip() == job_id
    assert dict(sim.starts) == {job_id: 1}


@needs_posix
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, None], ids=["ENOSYS", "ENOLCK", "with locks"])
@pytest.mark.parametrize("same", [True, False], ids=["the same job", "two jobs of one name"])
def test_two_processes_at_once_start_one_job(sim, access, monkeypatch, error, same):
    """The second has found no .job file and is about to write one when the first does so, and starts its job."""
    def fail(*_):
        raise OSError(error, "not here")

    def meet(event, arguments):
        if event == "open" and str(arguments[0]).endswith(".part"):
            if threading.current_thread().name == "first":
                second_is_there.wait(5)
            else:
                second_is_there.set()
                first_is_done.wait(5)

    def submit(job_id, done):
        with contextlib.suppress(rescale.RescaleError):
            rescale.job_submit(*access, "job", job_id)
        done.set()

    if error:
        monkeypatch.setattr("fcntl.flock", fail)
    sim.resubmit = "again"
    jobs = [text_job(sim, "sleep 60")] * 2 if same else [text_job(sim, "sleep 60"), text_job(sim, "sleep 60")]
    second_is_there, first_is_done = threading.Event(), threading.Event()
    hooks.append(meet)
    threads = [
        threading.Thread(target=submit, args=arguments, name=name) for name, *arguments in
        zip(("first", "second"), jobs, (first_is_done, second_is_there))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hooks.remove(meet)
    noted = Path("job.job").read_text().strip()
    rescale.job_submit(*access, "job", noted)  # what a user does next
    assert dict(sim.starts) == {noted: 1}


def test_two_processes_that_pack_at_once_leave_a_whole_archive(sim):
    Path("mesh.bin").write_bytes(os.urandom(8 << 20))
    script = "import rescale_rest_api as rescale\nfor _ in range(3): rescale.create_tar_gz()\n"
    processes = [child(sim, "-", script, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert "" in errors
    assert all("in use" in error for error in errors if error)
    with tarfile.open("rescale.tar.gz") as tar:
        assert tar.extractfile("mesh.bin").read() == Path("mesh.bin").read_bytes()
    assert here() == ["mesh.bin", "rescale.tar.gz"]


@needs_posix
def test_an_archive_that_another_process_finishes_in_this_moment_is_not_emptied(monkeypatch):
    """Between opening the temporary file and locking it, it may get its name: then it is the other one's archive."""
    Path("rod.inp").write_bytes(b"new")
    part = Path(".rescale.tar.gz.part")
    part.write_bytes(b"theirs")
    monkeypatch.setattr("fcntl.flock", lambda *_: part.exists() and part.replace("rescale.tar.gz"))
    with pytest.raises(rescale.RescaleError, match="in use"):
        rescale.create_tar_gz()
    assert Path("rescale.tar.gz").read_bytes() == b"theirs"


def test_a_folder_in_the_place_of_a_job_file_is_told_and_nothing_is_started(sim, access):
    job_id = text_job(sim)
    Path("job.job").mkdir()
    with pytest.raises(rescale.RescaleError, match=r"job\.job"):
        rescale.job_submit(*access, "job", job_id)
    assert not sim.starts


@needs_posix
def test_a_working_folder_that_is_gone_is_told(sim, access, clean_surroundings):
    """Scratch disks are cleared while a chain runs."""
    job_id, other = text_job(sim), text_job(sim)
    rescale.job_submit(*access, "before", job_id)
    with contextlib.suppress(rescale.JobFailed):
        rescale.job_monitor(*access, job_id)
    gone = clean_surroundings / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
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
    sim.on_request = lambda *_: Path("theirs").exists() and Path("theirs").replace("rescale.tar.gz")
    with contextlib.suppress(rescale.RescaleError):  # it may also refuse
        [entry] = rescale.upload_local_files(*access)
        assert sim.files[entry["id"]].path.read_bytes() == b"ours" * 1000
    assert not Path("theirs").exists()


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


def child(sim, job_id, script, **options):
    environment = {
        **os.environ, "PYTHONPATH": str(Path(rescale.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1",
        **options.pop("variables", {}),
    }
    return subprocess.Popen([sys.executable, "-c", script, sim.url, sim.token, job_id], env=environment, **options)


def with_full_disk(limit, script):
    """Files may have no more than `limit` bytes, which is what a full disk comes to."""
    return f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{script}"


@needs_posix
def test_with_a_full_disk_nothing_is_started(sim, access):
    job_id = text_job(sim)
    script = with_full_disk(3, f"{PRELUDE}rescale.job_submit(url, token, 'job', job_id)")
    with child(sim, job_id, script, stderr=subprocess.PIPE, text=True) as process:
        _, err = process.communicate(timeout=30)
    assert "RescaleError: job.job cannot be written" in err
    assert not sim.starts
    assert here() == []


@needs_posix
@pytest.mark.parametrize("in_ranges", [False, True], ids=["whole", "in ranges"])
def test_a_download_onto_a_full_disk_goes_on_when_there_is_room(sim, access, ended_job, in_ranges):
    content = os.urandom(3_000_000)
    job_id = ended_job({"rescale.tar.gz": content})
    sizes = "rescale.VOLUME = 100_000; rescale.RANGE = (200_000, 200_000)\n" if in_ranges else ""
    script = f"{PRELUDE}{sizes}rescale.job_download(url, token, 'job', job_id)"
    with child(sim, job_id, with_full_disk(2_000_000, script), stderr=subprocess.PIPE, text=True) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"^rescale_rest_api\.RescaleError", err, re.M)
    [part] = Path("job").iterdir()
    assert part.name.endswith(".part")
    assert 0 < part.stat().st_size <= 2_000_000
    assert content.startswith(part.read_bytes())
    asked, came = len(sim.requests), part.stat().st_size
    with child(sim, job_id, script) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert [path.name for path in Path("job").iterdir()] == ["rescale.tar.gz"]
    assert Path("job/rescale.tar.gz").read_bytes() == content
    wanted = [record.headers["Range"] for record in sim.requests[asked:] if "/contents/" in record.path]
    assert min(int(text[6:].partition("-")[0]) for text in wanted) == came  # what had come was not fetched again


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


def wait_for(name):
    return f'until [ -e "$HOME/{name}" ]; do sleep 0.01; done'


def run_without_screen(sim, lose, script=MONITOR, text="echo plain", **options):
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
    with child(sim, job_id, script, stderr=subprocess.PIPE, **options) as process:
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert Path("ended").exists(), err
    assert b"Traceback" not in err


@needs_posix
@pytest.mark.parametrize("text", ["echo plain", f"echo '{LINE}'"], ids=["plain", "odd"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("screen", ["pipe", "openpty"])
def test_a_monitor_goes_on_when_its_screen_is_gone(sim, access, text, encoding, screen):
    """`python main.py | head`, a `tee` that has died, a terminal window that was closed."""
    read, write = getattr(os, screen)()
    with os.fdopen(write, "wb") as stdout:
        run_without_screen(
            sim, lambda: os.close(read), text=text, stdout=stdout, variables={"PYTHONIOENCODING": encoding}
        )


@needs_posix
@pytest.mark.parametrize("statement", ["os.close(1)", "sys.stdout = None", "sys.stdout.close()"])
def test_a_monitor_goes_on_without_a_stdout(sim, access, statement):
    run_without_screen(sim, lambda: None, MONITOR.replace("url, token", f"{statement}\nurl, token", 1))


@needs_posix
@pytest.mark.parametrize("screen", ["| head -n 1", "> /dev/full 2>&1", ">&- 2>&-"], ids=["pipe", "full", "closed"])
def test_a_whole_chain_ends_right_without_a_screen(sim, clean_surroundings, monkeypatch, screen):
    if "/dev/full" in screen and not Path("/dev/full").exists():
        pytest.skip("no /dev/full there")
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    copy_scripts(clean_surroundings)
    Watch(sim)
    line = f'"{sys.executable}" main.py {screen}'
    done = subprocess.run(line, shell=True, stdout=subprocess.DEVNULL, timeout=60, check=False)
    wait_until(lambda: list(Path().glob("*@second@*/rescale.tar.gz")), 20)
    assert_right(sim, result())
    assert done.returncode == 0  # what a script that waits for it goes by
