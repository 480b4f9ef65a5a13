"""The simulator is what the other tests stand on. test_contract.py holds it to the platform; here is the rest: what it
refuses, how it misbehaves, and the command that rehearses."""

import os
import re
import shlex
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import requests

import rescale_simulator
from conftest import TESTS, wait_until
from rescale_simulator import FAULTS, LOG, Fault, Simulator

HARDWARE = {"coreType": "emerald", "coresPerSlot": 2, "slots": 1, "walltime": 1}
TILE = {"analysis": {"code": "user_included", "version": "0"}, "command": "true", "hardware": HARDWARE}
UNTIL_GO = "\necho $$ > pid.txt; until [ -e $HOME/go ]; do sleep 0.02; done\n"


class Api(requests.Session):
    """A client, which is given paths behind /api/v2/."""

    def __init__(self, url, token):
        super().__init__()
        self.root, self.headers["Authorization"] = url + "/api/v2/", f"Token {token}"

    def request(self, method, path, **options):
        return super().request(method, self.root + path, **{"timeout": 20, **options})

    def create(self, *commands, files=()):
        """A job with these commands, one per tile, and these input files (name, content)."""
        inputs = [{"id": self.post("files/contents/", files={"file": file}).json()["id"]} for file in files]
        tiles = [{**TILE, "command": command, "inputFiles": inputs} for command in commands]
        return self.post("jobs/", json={"name": "job", "jobanalyses": tiles}).json()["id"]


@pytest.fixture
def api(sim):
    return Api(sim.url, sim.token)


@pytest.fixture
def start(sim, api):
    """Start a job; return it when it has ended or, with UNTIL_GO in its command, when it has written its process id."""

    def go(*commands, **options):
        job = sim.jobs[api.create(*commands, **options)]
        assert api.post(f"jobs/{job.id}/submit/").status_code == 200
        wait_until(lambda: job.ended or (UNTIL_GO in commands[0] and job_pid(job.work)))
        return job

    return go


def job_pid(work):
    return (work / "pid.txt").exists() and (work / "pid.txt").read_text()


def wait_for_the_end_of(*pids):
    """Of processes; a zombie that nobody has waited for counts."""
    for status in [Path(f"/proc/{int(pid)}/stat") for pid in pids]:
        wait_until(lambda status=status: not status.exists() or re.search(r"\) Z ", status.read_text()))


def test_lines_of_an_upload_and_of_an_output_keep_their_ends(api, start):
    job = start("rm *.log in; printf end > out", files=[("in", b"a\n\r\n\xfc\x0cb")])
    for id, lines in ((job.inputs[0]["id"], ["a\n", "\r\n", "\ufffd\x0cb"]), (job.files[0], ["end"])):
        assert api.get(f"files/{id}/lines/").json() == {"lines": lines}
        api.delete(f"files/{id}/")
        assert api.get(f"files/{id}/lines/").status_code == 404


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_nothing_done_or_all(sim, api, name):
    sim.faults.append(Fault(name, "POST", "/jobs/$", seconds=0.3))
    status = {"throttled": 429, "html": 200, "html_after": 200, "redirect": 302, "truncated": 201, "corrupt": 201,
              "reset_midway": 201, "late": 504}.get(name) or (int(name[:3]) if name[0] == "5" else None)
    done = name in ("reset_after", "reset_midway", "timeout_after", "503_after", "html_after", "truncated", "corrupt")
    try:
        answer = api.post("jobs/", json={"name": "x", "jobanalyses": [TILE]}, allow_redirects=False)
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        assert re.match("reset|timeout|refused", name)
    else:
        whole = re.fullmatch(r"\{.*\}\s*", answer.text, re.DOTALL)
        assert (answer.status_code, bool(whole)) == (status, name == "throttled")
    if name == "refused":
        with pytest.raises(requests.ConnectionError, match="refused"):
            api.get("users/me/")
        wait_until(lambda: sim._server)
    assert (sim.requests[-1].fault, sim.requests[-1].status, len(sim.jobs)) == (name, status, done)
    wait_until(lambda: len(sim.jobs) == (done or name == "late"))
    assert api.get("users/me/").status_code == 200


@pytest.mark.parametrize("how", ["stop", "walltime", "close"])
@pytest.mark.parametrize("trap", ["exit 0", ""], ids=["which obeys", "which does not"])
def test_what_ends_a_command_ends_all_that_it_started(sim, api, start, monkeypatch, how, trap):
    monkeypatch.setattr(rescale_simulator, "KILL_AFTER", 0.2)
    sim.walltime_hour = 1 if how == "walltime" else 3600
    job = start(f"trap '{trap}' TERM; sleep 300 & echo $! > child.txt{UNTIL_GO}")
    assert api.delete(f"jobs/{job.id}/").status_code == 400
    if "stop" in how:
        assert api.post(f"jobs/{job.id}/{how}/").status_code == 202
    sim.close() if how == "close" else wait_until(lambda: job.ended)
    wait_for_the_end_of(*((job.work / name).read_text() for name in ("pid.txt", "child.txt")))


def test_a_later_simulator_goes_on_with_the_folder_and_runs_anew_what_was_running(sim, api, start):
    ids = [start("echo hello > out.txt").id, start(f"mkdir half{UNTIL_GO}rmdir half").id, api.create("touch out.txt")]
    sim.close()
    with Simulator(sim.folder, speed=0) as later:
        api = Api(later.url, sim.token)
        api.post(f"jobs/{ids[2]}/submit/")
        wait_until(lambda: (later.jobs[ids[1]].work / "half").exists())
        (later.jobs[ids[1]].folder / "go").touch()
        wait_until(lambda: all(later.jobs[id].ended for id in ids))
        assert {later.jobs[id].statuses[-1]["statusReason"] for id in ids} == {later.success_reason}
        assert [later.files[later.jobs[id].files[0]].name for id in ids] == ["out.txt", "pid.txt", "out.txt"]
        assert api.get(f"files/{later.jobs[ids[0]].files[0]}/contents/").text == "hello\n"
        assert later.starts == dict.fromkeys(ids, 1)


# The command

SIMULATOR = TESTS / "rescale_simulator.py"
RUN_ONE_JOB = """
import os, requests, sys, time
api = requests.Session()
api.headers["Authorization"] = "Token " + os.environ["RESCALE_API_KEY"]
root = os.environ["RESCALE_API_URL"] + "/api/v2/"
hardware = {"coreType": "unknown", "coresPerSlot": 4, "slots": 2, "walltime": 3}
tile = {"analysis": {"code": "unknown"}, "command": COMMAND, "hardware": hardware}
if "--resume" in sys.argv:
    job = open("job.txt").read()
else:
    job = api.post(root + "jobs/", json={"name": "user@job2@x", "jobanalyses": [tile]}).json()["id"]
    api.post(f"{root}jobs/{job}/submit/").raise_for_status()
    print(job, file=open("job.txt", "w"), end="")
print(job, os.getpid(), root, flush=True)
try:
    while (last := api.get(f"{root}jobs/{job}/statuses/").json()["results"][0])["status"] != "Completed":
        time.sleep(0.05)
except KeyboardInterrupt:
    time.sleep(0.3)
    sys.exit(api.get(root + "users/me/").status_code - 70)
print("reason:", last["statusReason"])
"""
ECHO, WAIT = (f"COMMAND = {command!r}" + RUN_ONE_JOB for command in ("echo x > out.txt", UNTIL_GO))


@pytest.fixture
def launch(clean_surroundings, monkeypatch):
    """Start the command in the folder of the test, with a script of this text; temporary folders are made there."""
    monkeypatch.setenv("TMPDIR", str(clean_surroundings))
    launched = []

    def go(*arguments, script=None, line=None):
        if script is not None:
            Path("script.py").write_text(script)
        line = line or [sys.executable, str(SIMULATOR), "--speed", "0", *arguments, *["script.py"] * bool(script)]
        launched.append(Popen(line, text=True, start_new_session=True, stdout=PIPE, stderr=PIPE))
        return launched[-1]

    yield go
    for process in launched:  # with its jobs
        process.terminate()
        process.communicate(timeout=20)


def end(process, status=0):
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (status, False), out + err
    return out, err


def line_with(pattern, stream):
    return next(re.search(pattern, line) for line in iter(stream.readline, "") if re.search(pattern, line))


def job_folder(job_id):
    """Of a job that has written its process id."""
    wait_until(lambda: [job_pid(path) for path in Path().glob(f"*/jobs/*-{job_id}/work") if job_pid(path)])
    return next(Path().glob(f"*/jobs/*-{job_id}"))


def test_a_rehearsal_runs_the_script_with_its_options_and_passes_its_status_on(launch, monkeypatch):
    Path("fake.sh").touch(mode=0o755)
    monkeypatch.setenv("NO_PROXY", "intranet")
    Path("my own.py").write_text("""import os, sys
print(os.environ["RESCALE_REHEARSAL_COMMAND"])
print(sys.argv[1:], os.environ["RESCALE_REHEARSAL"] == os.environ["RESCALE_API_URL"], os.environ["NO_PROXY"])
sys.exit(7)""")
    options = ["--folder", "run 1", "--flaky", "5%", "--stand-in", "abaqus=fake.sh"]
    out, err = end(launch(*options, "--fail", "x", "my own.py", "--resume", "--fail", "y"), 7)
    told, seen = out.splitlines()
    assert seen == "['--resume', '--fail', 'y'] True intranet,127.0.0.1"
    assert shlex.split(told)[1:] == [str(SIMULATOR), "--speed", "0", *options]
    assert re.search(rf"^.*my own\.py, free of charge(.*\n)+.*{Path('run 1').absolute()}/jobs$", err)
    assert "--folder" in end(launch("my own.py", "--resume"), 2)[1], "it would know no job"


def test_the_folder_of_a_rehearsal_goes_when_all_went_well_and_the_command_names_it_when_not(launch):
    out, err = end(launch(script=ECHO))
    left = {path.name for path in Path().iterdir()}
    assert ("reason: Completed successfully" in out, "rehearsal-" in err) == (True, False)
    assert left == {"script.py", "job.txt"}
    show = "import os; print(os.environ['RESCALE_REHEARSAL_COMMAND'])\n"
    out, err = end(launch("--fail", "job2", script=show + ECHO.replace("out.txt", "rescale.tar.gz; rm *.log")))
    (folder,) = Path().absolute().glob("rescale-rehearsal-*")
    assert str(folder / "jobs") in err.splitlines()[-1]
    assert (shlex.split(out)[2:4], out.split(": ")[1]) == (["--folder", str(folder)], "A run failed\n")
    left = {path.name: path.read_text() for path in folder.glob("jobs/*/*/*")}
    assert set(left) == {LOG, "rescale_failed.tar.gz"}, "a rescale.tar.gz would be the proof of a success"
    assert re.search(r"\*\*\* ERROR(.*\n)+.*Exited with code 1\n", left[LOG])
    assert re.search(r"--fail job3: .*user@job2@x", end(launch("--fail", "job3", script=ECHO), 2)[1])


def test_a_program_that_is_not_installed_is_explained_and_can_be_stood_in_for(launch):
    script = ECHO.replace("echo", "abaqus_of_nowhere")
    out, err = end(launch("--folder", "r", script=script))
    assert ("reason: A run failed" in out, "abaqus_of_nowhere is not installed" in err) == (True, True)
    told = shlex.split(re.search(r": +(\S*python.*)", err)[1])
    assert told[-2:] == ["abaqus_of_nowhere=./fake_abaqus_of_nowhere.sh", "script.py"]
    Path("fake_abaqus_of_nowhere.sh").write_text("#!/bin/sh\necho stand-in $@\n")
    assert "chmod +x" in end(launch(line=told), 2)[1]
    Path("fake_abaqus_of_nowhere.sh").chmod(0o755)
    assert "reason: Completed successfully" in end(launch(line=told))[0]
    assert "stand-in x\n" in [path.read_text() for path in Path("r").rglob("out.txt")]
    assert "reason: A run failed" in end(launch("--folder", "r", script=script))[0]


def test_without_a_script_it_serves_and_a_script_joins_it_with_what_is_in_no_catalogue(launch, sim):
    server = launch("--folder", "r")
    url = server.stdout.readline().strip().partition("=")[2]
    assert server.stdout.readline().startswith("export RESCALE_API_KEY=")
    out, err = end(launch("--folder", "r", script=ECHO))
    assert re.search(rf" {url}.*\nreason: Completed successfully\n.*Joined.*\n$", out + err)
    server.send_signal(signal.SIGINT)
    end(server)
    assert not Path("r/address").exists()
    for address in (sim.url, url):  # another simulator, nobody
        Path("r/address").write_text(address)
        out, err = end(launch("--folder", "r", script=ECHO))
        assert ("Joined" in err, "reason: Completed successfully" in out) == (False, True)


@pytest.mark.parametrize("killed", [False, True], ids=["while the script runs", "after it was killed"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_rehearsal_and_its_jobs(launch, number, killed):
    rehearsal = launch("--folder", "r", script=WAIT)
    job_id, pid, _ = rehearsal.stdout.readline().split()
    pids = pid, job_pid(job_folder(job_id) / "work")
    if killed:
        os.kill(int(pid), signal.SIGKILL)
        line_with(job_id, rehearsal.stderr)
    (os.killpg if number == signal.SIGINT else os.kill)(rehearsal.pid, number)
    status = 137 if killed and number == signal.SIGINT else 128 + number
    assert f"Job {job_id} ends with this rehearsal" in end(rehearsal, status)[1]
    wait_for_the_end_of(*pids)


@pytest.mark.parametrize("options", [["--folder", "r"], []], ids=["in a folder", "in a temporary folder"])
def test_after_kill_9_of_a_script_its_jobs_run_on_and_resume_joins_them(launch, options):
    rehearsal = launch(*options, script=WAIT)
    job_id, pid, root = rehearsal.stdout.readline().split()
    folder = job_folder(job_id)
    os.kill(int(pid), signal.SIGKILL)
    told = line_with(rf"{job_id}.*Ctrl-C.*: +(\S*python.* script\.py --resume)", rehearsal.stderr)[1]
    resumed = launch(line=shlex.split(told))
    line_with("Joined", resumed.stderr)
    (folder / "go").touch()
    assert re.fullmatch(rf"{job_id} \d+ {root}\nreason: Completed successfully\n", end(resumed)[0])
    assert str(folder.parent.absolute()) in end(rehearsal, 137)[1].splitlines()[-1]
