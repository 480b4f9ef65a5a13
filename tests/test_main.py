"""main.py, as people start it: what it starts and what not, what it prints, keeps and calls, and its exit statuses."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, here, wait_until
from rescale_simulator import Simulator
from test_example import TOLERANCE, profile_error
from two_jobs import FASTER, ROOT, USER, copy_scripts, put_in, run, start

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals and a pseudo-terminal")
THREE = [(name, f"echo {name} >> steps.txt\n") for name in ("one", "two", "three")]


@pytest.fixture
def edit(sim, clean_surroundings, monkeypatch):
    """Write main.py, with other values in its sections, and the library beside it; the test's simulator is theirs."""
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def write(**sections):
        return copy_scripts(clean_surroundings, **{"batches": THREE, **sections})

    write()
    return write


def of(sim: Simulator) -> list[str]:
    """The batch names of the jobs that were started, in order."""
    return [sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts]


def posts(sim: Simulator) -> int:
    return sum(record.method == "POST" for record in sim.requests)


def steps(text: str = "*@three@*/rescale.tar.gz") -> str:
    [archive] = Path().glob(text)
    with tarfile.open(archive) as tar:
        return tar.extractfile("./steps.txt").read().decode()


def rows(text: str) -> dict[str, list[str]]:
    """The last table in a text: the cells of each row by batch name."""
    lines = text[text.rindex("job   "):].splitlines()[1:]
    return {line.split("@")[1]: re.split(r" {2,}", line)[1:] for line in lines if line.startswith(f"{USER}@")}


def paste(command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)


def wait_a_second() -> None:
    """For a chain's name has the second in which it started."""
    now = time.time()
    time.sleep(1.01 - now % 1)


# A rehearsal of the real thing


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """Run main.py as it is shipped under the simulator, in the folder of the test."""
    folder = tmp_path / "a copy"
    (folder / "tests").mkdir(parents=True)
    for name in ("main.py", "rescale_rest_api.py", "tests/rescale_simulator.py"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(TESTS / "example", folder / "tests" / "example", ignore=shutil.ignore_patterns("__pycache__"))
    library = (folder / "rescale_rest_api.py").read_text(encoding="utf-8")
    (folder / "rescale_rest_api.py").write_text(
        library.replace("\n\nif __name__ ==", FASTER + "\n\nif __name__ =="), encoding="utf-8")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def start_it(*options):
        done = subprocess.run(
            ["python", folder / "tests" / "rescale_simulator.py", "--speed", "0", *options, folder / "main.py"],
            capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    return start_it


def final_profile() -> float:
    """The error of the profile in the downloaded archive."""
    [archive] = Path().glob("*@rod2@*/rescale.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extract("./temperature.csv", "unpacked")
    return profile_error(Path("unpacked/temperature.csv"))


def test_the_chain_reaches_the_profile_that_only_both_steps_reach(rehearse, clean_surroundings):
    done = rehearse()
    assert done.returncode == 0, done.stderr
    with tarfile.open("rescale.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["rod.inp", "rod.py"]
    started_at, first = re.search(rf"^{USER}@rod1@(\d{{8}}-\d{{6}}) +(\w+) ", done.stdout, re.M).groups()
    second = re.search(rf"^{USER}@rod2@{started_at} +(\w+) ", done.stdout, re.M)[1]
    names = [f"{USER}@{batch}@{started_at}" for batch in ("rod1", "rod2")]
    assert {path.name for path in Path().glob("*@*")} == {
        names[1], f"{names[0]}.log", *(f"{name}.{kind}" for name in names for kind in ("job", "desktop"))}
    assert Path(f"{names[1]}.job").read_text().strip() == second
    printed = [
        f"Successfully created rescale.tar.gz in {clean_surroundings}", "- rescale.tar.gz uploaded",
        f"Job_ID: {first}", f"Job {first} : submitted", f"Job {first} : Executing", f"Job {first} : Completed",
        f"Job_ID: {second}", f"Job {second} : submitted", f"Job {second} : Completed",
        "Total 1 files will be downloaded", f"1 user/user_xMTMk/output/job_{second}/run1/rescale.tar.gz downloaded",
    ]
    assert [line for line in done.stdout.splitlines() if line in printed] == printed
    assert [cells[1] for cells in rows(done.stdout).values()] == ["succeeded", "succeeded"]
    assert final_profile() < TOLERANCE


def test_every_hint_of_a_failed_rehearsal_is_a_rehearsal_and_works_when_pasted(rehearse):
    done = rehearse("--fail", "rod2")
    assert done.returncode == 1
    assert "will be downloaded" not in done.stdout
    hints = re.findall(r": +(\S*python\S* .*)", done.stderr)
    assert len(hints) >= 2  # to fetch what is there, to repeat
    assert all("rescale_simulator.py" in hint for hint in hints), hints
    for hint in hints:
        again = paste(hint)
        assert again.returncode == 0, again.stderr
    assert final_profile() < TOLERANCE


def test_step_2_without_the_data_of_step_1_ends_the_chain_with_the_reason(edit, sim):
    edit(batches=[("rod1", "python3 rod.py rod.inp --step 1; rm rod.restart"),
                  ("rod2", "python3 rod.py rod.inp --step 2"), ("rod3", "true")],
         input_path=str(TESTS / "example"))
    status, _, err = run()
    assert status == 1
    assert of(sim) == ["rod1", "rod2"]
    assert "rod.restart, which is not here: run step 1 first" in err
    assert f"/jobs/{list(sim.jobs)[1]}/runs/1/results/" in err


# What is started, and what not


@pytest.mark.parametrize("state", ["waiting", "running", "succeeded"])
def test_beside_an_unfinished_chain_nothing_is_started_until_new_says_so(edit, sim, state):
    edit(batches=[THREE[0], ("two", "sleep 30"), THREE[2]] if state == "running" else THREE)
    sim.speed = 20 if state == "waiting" else 0
    if state == "succeeded":
        sim.fail = "two"
        assert run()[0] == 1
    else:
        process = start()
        word = {"waiting": "Pending", "running": "Executing"}[state]
        wait_until(lambda: len(sim.jobs) == (2 if state == "running" else 1) and word in [
            entry["status"] for entry in list(sim.jobs.values())[-1].statuses], 20)
        process.kill()
    started, before = of(sim), posts(sim)

    status, out, err = run()

    assert (status, of(sim), posts(sim)) == (2, started, before)
    [name] = [path.stem for path in Path().glob("*@one@*.job")]
    started_at = name.split("@")[2]
    assert started_at in err
    assert f"python main.py --resume {started_at}" in err
    assert "python main.py --new" in err
    assert rows(out)["three"] == ["-", "not started"]
    assert {path.stem for path in Path().glob("*@one@*")} == {name}  # no trace of another chain
    assert state in [cells[1] for cells in rows(out).values()]
    sim.fail, sim.speed = None, 0
    wait_a_second()
    edit()
    assert run("--new")[0] == 0
    assert len(list(Path().glob("*@one@*.job"))) == 2


def test_beside_a_chain_whose_only_job_failed_another_one_is_started(edit, sim):
    sim.fail = "one"
    assert run()[0] == 1
    sim.fail = None
    wait_a_second()
    assert run()[0] == 0
    assert of(sim) == ["one", "one", "two", "three"]
    assert steps() == "zero\none\ntwo\nthree\n"


def test_resume_after_a_finished_chain_confirms_it_and_never_goes_to_an_older_one(edit, sim):
    sim.fail = "two"
    assert run()[0] == 1
    sim.fail = None
    wait_a_second()
    assert run("--new")[0] == 0
    before = posts(sim)

    status, out, err = run("--resume")

    assert (status, err, posts(sim)) == (0, "", before)
    assert out.count(" : submitted earlier") == 3
    assert "rescale.tar.gz was here already" in out
    older = min(path.stem for path in Path().glob("*@one@*.job")).split("@")[2]
    assert older not in out
    assert run("--resume", "20200101-000000")[0] == 2
    status, out, _ = run("--resume", older)  # if it is asked for by its name
    assert status == 1  # as its second job has failed
    assert posts(sim) == before


def test_resume_where_there_is_nothing_is_told_with_2(edit, sim):
    for option in ("--resume", "--repeat", "--status"):
        status, _, err = run(option)
        assert status == 2
        assert "one, two, three" in err
    assert not sim.requests


@pytest.mark.parametrize("failed", ["one", "two", "three"])
def test_repeat_replaces_the_failed_link_and_goes_on_from_the_one_before(edit, sim, failed):
    sim.fail = failed
    status, _, err = run()
    assert status == 1
    [job_file] = Path().glob(f"*@{failed}@*.job")
    old = job_file.read_text().strip()
    sim.fail = None
    Path("inputs/steps.txt").write_text("mended\n")
    names = {}
    sim.on_request = lambda record, when: names.update({(len(sim.jobs), when): job_file.read_text().strip()}) \
        if record.path.endswith("/jobs/") else None

    hint = re.search(r"python main.py --repeat [\d-]+", err)[0].split()[2:]
    status, out, err = run(*hint)

    assert (status, err) == (0, "")
    before = ["one", "two", "three"].index(failed)
    assert of(sim) == ["one", "two", "three"][:before] + [failed] + ["one", "two", "three"][before:]
    assert set(sim.starts.values()) == {1}
    assert names[before + 1, "before"] == old  # the request that makes the new job
    assert job_file.read_text().strip() == list(sim.jobs)[before + 1]
    assert steps() == ("mended" if failed == "one" else "zero") + "\none\ntwo\nthree\n"
    assert [cells[1] for cells in rows(out).values()] == ["succeeded"] * 3
    assert run("--repeat")[0] == 0  # and once more costs nothing
    assert len(sim.starts) == 4


def test_repeat_follows_a_job_that_still_runs_and_replaces_none(edit, sim):
    edit(batches=[("one", 'until [ -e "$HOME/go" ]; do sleep 0.01; done\n')])
    process = start()
    wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
    process.kill()
    again = start("--repeat", constants={"FILES_PATIENCE": 0})
    wait_until(lambda: "Executing" in again.printed() or len(sim.jobs) > 1, 20)
    [job] = sim.jobs.values()
    (job.folder / "go").touch()
    assert again.end()[0] == 0
    assert of(sim) == ["one"]


def test_the_table_after_repeat_does_not_take_the_failed_jobs_files_for_the_result(edit, sim):
    sim.fail = "three"
    _, _, err = run()
    assert paste(re.search(r"fetch it with: (.*)", err)[1]).returncode == 0  # into the folder of the link
    assert list(Path().glob("*@three@*/rescale_failed.tar.gz"))
    out = run("--status")[1]
    assert rows(out)["three"][1] == "FAILED (exit code 1)"
    assert rows(out)["three"][-1].endswith(os.sep)
    sim.fail = None
    process = start("--repeat")

    def kill(record, when):
        if "/contents/" in record.path and len(sim.jobs) == 4:
            process.kill()
            raise ConnectionAbortedError

    sim.on_request = kill
    assert process.end()[0] == -signal.SIGKILL
    sim.on_request = None
    out = run("--status")[1]
    assert rows(out)["three"][1] == "succeeded"
    assert rows(out)["three"][-1] == "on the platform"


def test_status_from_another_process_tells_of_all_links_and_starts_nothing(edit, sim):
    edit(batches=[THREE[0], ("two", "sleep 30"), THREE[2]])
    process = start()
    wait_until(lambda: len(sim.jobs) == 2 and "Executing" in [
        entry["status"] for entry in list(sim.jobs.values())[1].statuses], 20)
    wait_until(lambda: list(Path().glob("*@two@*.desktop")))  # the last that it writes until the job ends
    before, files = posts(sim), here()
    status, out, err = run("--status")
    process.kill()
    assert (status, err) == (0, "")
    assert {name: cells[1] for name, cells in rows(out).items()} == {
        "one": "succeeded", "two": "running", "three": "not started"}
    assert posts(sim) == before
    assert here() == files


@pytest.mark.parametrize("prices", [True, False], ids=["with prices", "without"])
def test_check_tells_what_it_costs_at_most_and_starts_and_writes_nothing(edit, sim, prices):
    edit(walltime=5, core_per_slot=4)
    sim.prices = prices
    files = here()
    status, out, _ = run("--check")
    assert status == 0
    assert "20 core-hours" in out
    assert "this chain of 3: 60 core-hours" in out
    assert ("= 1.20" in out, "= 3.60" in out) == (prices, prices)
    assert "1 files to pack" in out
    assert posts(sim) == 0
    assert here() == files


def test_help_tells_of_every_option_and_what_the_exit_statuses_mean(edit, sim):
    status, out, _ = run("--help")
    assert status == 0
    options = ("--new", "--resume", "--repeat", "--status", "--check")
    assert [word for word in (*options, "STARTED_AT", "130") if word not in out] == []
    assert [option for option in options if option not in (ROOT / "main.py").read_text() and option != "--new"] == []
    assert not sim.requests


@pytest.mark.parametrize("name", [
    "one@20260101-000000 (copy)", "one@20260101-000000_old", "one@20260101-000000.sync-conflict-20260102-101010-ABC",
    "one@fine@20260101-000000", "One@20260101-000000", "one@20260101", "four@20260101-000000",
])
@pytest.mark.parametrize("command", [[], ["--resume"]], ids=["new", "resume"])
def test_files_that_only_look_like_those_of_this_chain_are_left_alone(edit, sim, name, command):
    edit(batches=THREE[:1])
    assert run()[0] == 0
    [job_file] = Path().glob("*@one@*.job")
    Path(f"{USER}@{name}.job").write_bytes(job_file.read_bytes())
    edit(batches=THREE)
    job_file.unlink()
    before = len(sim.starts)
    status = run(*command)[0]
    assert status == (2 if command else 0)
    assert len(sim.starts) == before + (0 if command else 3)


@pytest.mark.parametrize("far", [1, 2], ids=["at its first link", "at its second"])
def test_two_drivers_in_one_folder_whose_first_batches_share_a_name_do_not_meet(edit, sim, far):
    edit(batches=[THREE[0], ("other", "true"), ("last", "true")])
    shutil.copy("main.py", "other.py")
    edit()
    sim.fail = "one" if far == 1 else "other"
    if far == 1:  # killed while its first link runs
        sim.fail = None
        process = start(script="other.py")
        wait_until(lambda: sim.starts and list(sim.jobs.values())[0].ended, 20)
        process.kill()
        wait_until(lambda: not process.runs())
    else:
        assert run(script="other.py")[0] == 1
    sim.fail = None
    others = {path.name for path in Path().glob("*.job")}
    started = len(sim.starts)
    assert run("--resume")[0] == 2
    wait_a_second()
    assert run()[0] == 0
    assert of(sim)[started:] == ["one", "two", "three"]
    status, out, err = run("--repeat" if far == 2 else "--resume", script="other.py")
    assert (status, err) == (0, "")
    assert others <= {path.name for path in Path().glob("*.job")}


def test_chains_of_a_rehearsal_in_the_same_folder_are_passed_over(edit, sim, tmp_path):
    with Simulator(tmp_path / "rehearsal", speed=0) as rehearsal:
        rehearsal.fail = "two"
        run(RESCALE_API_URL=rehearsal.url, RESCALE_API_KEY=rehearsal.token)
    [name] = [path.stem for path in Path().glob("*@one@*.job")]
    status, out, _ = run("--resume")
    assert status == 2
    assert re.search(rf"{name.split('@')[2]} is unknown to {sim.url}", out)
    wait_a_second()
    assert run()[0] == 0


OLD = '''
import argparse, getpass, sys, time
from pathlib import Path
import rescale_rest_api as rescale
settings, jobs, job_id, user = ("user_included", "0", {}, "emerald", 1, 1, 1, None), {}, None, getpass.getuser()
access = rescale.platform_my_token()
started_at = "20261001-120000"
for batch_name, command in [("one", "echo one >> steps.txt"), ("two", "echo two >> steps.txt"), ("three", "false")]:
    job_name = f"{user}@{batch_name}@{started_at}"
    job_file = Path(f"{job_name}.job")
    if job_file.exists():
        job_id = job_file.read_text(encoding="utf-8", errors="replace").strip()
    elif job_id is None:
        rescale.check_settings(*access, *settings, license_features={}, input_path="inputs")
        inputfiles_list = rescale.upload_local_files(*access, rescale.create_tar_gz("inputs"))
    else:
        inputfiles_list = rescale.file_previous_job(*access, job_id)
    if not job_file.exists():
        job_id = rescale.job_setup(*access, job_name, command, *settings, inputfiles_list, license_features={})
    jobs[job_name] = job_id
    try:
        rescale.job_submit(*access, job_name, job_id)
        rescale.job_monitor(*access, job_id)
    except (rescale.RescaleError, KeyboardInterrupt) as error:
        print(f"\\n{error}", file=sys.stderr, flush=True)
rescale.job_download(*access, job_name, job_id)
rescale.chain_overview(*access, jobs)
'''


def test_a_main_py_of_the_earlier_form_still_runs_and_its_chain_is_known_to_the_new_one(edit, sim):
    Path("old.py").write_text(OLD)
    status, out, err = run(script="old.py")
    assert status == 0
    assert f"Job {list(sim.jobs)[2]} failed" in err
    assert [cells[1] for cells in rows(out).values()] == ["succeeded", "succeeded", "FAILED (exit code 1)"]
    assert run(script="old.py")[0] == 0  # the resumed one
    assert of(sim) == ["one", "two", "three"]
    assert run("--repeat")[0] == 0
    assert steps() == "zero\none\ntwo\nthree\n"


# What is told, and to whom


def test_the_log_of_a_run_has_every_line_with_its_time_and_what_went_wrong(edit, sim):
    edit(batches=[("정적", "echo fine"), ("two", "echo no licence >&2; exit 3")])
    status, out, err = run(constants={"PROGRESS_DELAY": 0})
    assert status == 1
    [log] = Path().glob("*@정적@*.log")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( |$)", line) for line in lines)
    assert {line[:10] for line in lines} <= {time.strftime("%Y-%m-%d"), time.strftime(
        "%Y-%m-%d", time.localtime(time.time() - 60))}
    said = [line[21:] for line in lines]
    assert f"rescale_rest_api {rescale.__version__}" in said[0]
    assert "main.py" in said[0]
    both = [line for line in (out + err).splitlines() if line]
    assert sorted(filter(None, said)) == sorted(line for line in both if " % of " not in line)
    assert any("exit code 3" in line for line in said)
    assert any(" 2 of 2: two, " in line for line in said)
    assert sim.token not in log.read_text(encoding="utf-8")


AT_END = 'env > ended; [ -z "$RESCALE_API_KEY" ] || touch has-key; echo "$CHAIN_SUMMARY" > summary; '


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize("then", ["true", "exit 4", "sleep 60"], ids=["fine", "fails", "hangs"])
def test_at_end_runs_after_success_and_failure_and_changes_nothing(edit, sim, fails, then):
    edit(batches=[("one", "exit 3" if fails else "true")], at_end=AT_END + then)
    status, out, err = run(constants={"AT_END_TIMEOUT": 0.5})
    assert status == fails
    variables = dict(line.split("=", 1) for line in Path("ended").read_text().splitlines() if "=" in line)
    [name] = [path.stem for path in Path().glob("*.job")]
    assert variables["CHAIN_STATUS"] == ("failed" if fails else "succeeded")
    assert variables["CHAIN_NAME"] == name
    summary = Path("summary").read_text()
    assert rows(summary)["one"][1] == ("FAILED (exit code 3)" if fails else "succeeded")
    assert not Path("has-key").exists()
    assert sim.token not in Path("ended").read_text()
    assert ("at_end failed" in out) == (then != "true")
    assert ("--repeat" in err) == fails


def test_at_end_does_not_run_after_ctrl_c(edit, sim):
    edit(batches=[("one", "sleep 30")], at_end=AT_END)
    process = start()
    wait_until(lambda: any("/tail/" in record.path for record in sim.requests), 20)
    process.kill(signal.SIGINT)
    assert process.end()[0] == 130
    assert not Path("ended").exists()


def test_the_last_lines_on_the_screen_are_what_one_wants_to_know_in_the_morning(edit, sim):
    """On a pseudo-terminal, where output and errors come in one stream."""
    edit(batches=[THREE[0], ("두번째", "echo no licence; exit 3"), THREE[2]])
    terminal, theirs = pty.openpty()
    client = subprocess.Popen([sys.executable, "main.py"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not block:
            break
        seen += block
    os.close(terminal)
    assert client.wait(30) == 1
    screen = seen.decode().replace("\r\n", "\n").rstrip().splitlines()
    assert rows("\n".join(screen))["두번째"][1] == "FAILED (exit code 3)"
    assert re.search(r"python main.py --repeat \d{8}-\d{6}$", screen[-1])
    table = [line for line in screen if line.startswith(f"{USER}@")][-3:]
    outcomes = ["succeeded", "FAILED", "not started"]
    assert len({rescale._width(line[:line.index(word)]) for line, word in zip(table, outcomes)}) == 1
    assert len(screen) - max(map(screen.index, table)) < 5


@pytest.mark.parametrize("moment", ["coretypes", "statuses"])
def test_ctrl_c_during_the_table_is_no_traceback(edit, sim, moment):
    assert run()[0] == 0
    process = start("--status")
    sent = []

    def interrupt(record, when):
        if moment in record.path and len(sim.requests) > sent_before + (moment == "statuses") * 3 and not sent:
            sent.append(record)
            process.kill(signal.SIGINT)
            time.sleep(0.2)

    sent_before = len(sim.requests)
    sim.on_request = interrupt
    status, _, err = process.end()
    assert status == 130
    assert sent
    assert "billed" not in err or "Unless" in err


# Mistakes at the keyboard


@pytest.mark.parametrize(("arguments", "batches"), [
    (["--restart"], THREE), (["one"], THREE), (["--new", "--resume"], THREE), ([], [THREE[0], THREE[0]]), ([], []),
    ([], [("a/b", "true")]), ([], [("", "true")]), ([], [("one", "\n")]), ([], [("one" "true")]), ([], ["one", "true"]),
], ids=["unknown option", "an argument", "two options", "twice", "none", "no file name", "no name", "no command",
        "comma inside", "no tuples"])
def test_wrong_usage_is_told_with_2_before_anything_is_sent_or_written(arguments, batches, edit, sim):
    edit(batches=batches)
    files = here()
    status, _, err = run(*arguments)
    assert status == 2
    assert "main.py" in err or "batch" in err
    assert not sim.requests
    assert here() == files


@pytest.mark.parametrize(("variables", "sections", "words"), [
    ({"RESCALE_API_KEY": ""}, {}, ["my_token", "RESCALE_API_KEY"]),
    ({"RESCALE_API_KEY": "wrong-wrong-wrong"}, {}, ["401", "Invalid token"]),
    ({"RESCALE_API_URL": "http://kr.rescale.com"}, {}, ["http://kr.rescale.com", "https://"]),
    ({}, {"code_name": "abacus"}, ["abacus", "abaqus"]),
    ({}, {"input_path": "no such folder"}, ["no such folder"]),
    ({}, {"walltime": "an hour"}, ["walltime", "an hour"]),
    ({}, {"license_info": "27000@host"}, ["license_info", "27000@host"]),
    ({}, {"batches": [("one", "abaqus job=one\n")]}, ["abaqus job=one", "interactive"]),
], ids=["no token", "wrong token", "http", "unknown tile", "unknown folder", "walltime", "license_info", "abaqus"])
def test_a_mistake_is_told_in_one_message_before_anything_is_uploaded(variables, sections, words, edit, sim):
    edit(**sections)
    status, _, err = run(**variables)
    assert status in (1, 2)  # 2 where the sections alone show it
    assert all(word in err for word in words)
    assert not sim.files
    assert not sim.jobs
    assert "wrong-wrong" not in err


def test_a_comma_missing_between_two_lines_of_batches_is_told_with_its_place(edit, sim):
    text = Path("main.py").read_text()
    Path("main.py").write_text(put_in(text, batches=[0]).replace(
        "batches = [0]", 'batches = [\n    ("one", "true")\n    ("two", "true"),\n]'))
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "comma" in done.stderr
    line = int(re.search(r"main.py, line (\d+)", done.stderr)[1])
    assert '("one", "true")' in Path("main.py").read_text().splitlines()[line - 1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["requests", "the library"])
def test_what_is_not_installed_or_not_beside_it_is_told_at_the_start(edit, sim, missing):
    if missing == "the library":
        Path("rescale_rest_api.py").unlink()
    done = subprocess.run(
        [sys.executable, *(["-S"] if missing == "requests" else []), "main.py"], capture_output=True, text=True,
        timeout=60, check=False, env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 1
    assert "main.py cannot start: " in done.stderr
    assert ("pip install requests" if missing == "requests" else "rescale_rest_api") in done.stderr
    assert "Traceback" not in done.stderr
    assert not sim.requests


def test_beside_a_chain_that_still_packs_nothing_is_started(sim, monkeypatch, capsys):
    """Such a chain has no .job file yet, only a log that its process holds."""
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    settings = ("user_included", "0", {}, "emerald", 1, 1, 1, None)
    seen = []

    def begin(*_):
        seen.append(rescale.run_chain(pytest.fail, [("rod", "true\n")], settings, arguments=[]))

    assert rescale.run_chain(begin, [("rod", "true\n")], settings, arguments=[]) == 0
    assert seen == [2]
    assert f"{USER}@rod@" in capsys.readouterr().err
    assert not sim.jobs
