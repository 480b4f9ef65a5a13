"""main.py, as people start it: what it starts and what not, what it prints, keeps and calls, and its exit statuses.

| promise | tests |
|---|---|
| as shipped it can be rehearsed, and its hints are rehearsals, too | shipped |
| a plain start beside an unfinished chain starts nothing, and names it and the next command | beside |
| --resume goes on with the newest chain, or the named one, and only confirms what is done | resume, two_chains |
| a chain is of its script, keeps its user's name, and of a rehearsal never the platform's | another_script, meets |
| --status shows all links and starts nothing; --check says what is paid; --help tells all | status, check, help |
| 2 for what the sections or the folder show, before anything is sent | wrong_usage, folder |
| one message for what the platform refuses; a traceback for a slip in the script | mistake, slip, installed |
| after Ctrl-C: which job costs money and how to stop it, though all files are gone | ctrl_c |
| the log has every line with its time; at_end runs, without the key, not after Ctrl-C | log, at_end, ctrl_c |

The table is in test_commands.py, --repeat in test_repeat.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, here, wait_until
from in_memory import KEY, PLATFORM, connect
from rescale_simulator import Simulator
from test_example import TOLERANCE, profile_error
from two_jobs import ROOT, USER, copy_scripts, run, start

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")
THREE = [(name, f"echo {name} >> steps.txt\n") for name in ("one", "two", "three")]
WAITS = 'until [ -e "$HOME/go" ]; do sleep 0.01; done\n'  # a command that lets its job run until there is such a file


def hurry(folder, monkeypatch):
    """Let jobs pack at once; what they wait for is clocks of file systems that tick in seconds."""
    (folder / "tools").mkdir()
    (folder / "tools" / "sleep").write_text(
        f'#!/bin/sh\n[ "$1" = 1 ] && set 0.02\nexec {shutil.which("sleep")} "$@"\n')
    (folder / "tools" / "sleep").chmod(0o755)
    for path in (Path(sys.executable).parent, folder / "tools"):
        monkeypatch.setenv("PATH", str(path), prepend=os.pathsep)


@pytest.fixture
def edit(sim, clean_surroundings, tmp_path, monkeypatch):
    """Write main.py, with other values in its sections, and the library beside it; the test's simulator is theirs."""
    hurry(tmp_path, monkeypatch)
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)

    def write(**sections):
        return copy_scripts(clean_surroundings, **{"batches": THREE, **sections})

    write()
    return write


def of(sim: Simulator) -> list[str]:
    """The batch names of the jobs that were started, in order."""
    return [sim.jobs[job_id].name.split("@")[1] for job_id in sim.starts]


def posts(sim: Simulator) -> int:
    return sum(record.method == "POST" for record in sim.requests)


def steps(batch: str = "three") -> str:
    [archive] = Path().glob(f"*@{batch}@????????-??????/rescale.tar.gz")
    with tarfile.open(archive) as tar:
        return tar.extractfile("./steps.txt").read().decode()


def rows(text: str) -> dict[str, list[str]]:
    """The last table in a text: the cells of each row by batch name, from the job's id on."""
    lines = text[text.rindex("job   "):].splitlines()[1:]
    return {line.split("@")[1]: re.split(r" {2,}", line)[1:] for line in lines if re.match(r"\S+@\S+@", line)}


def paste(command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False, **options)


def started_ats() -> list[str]:
    return sorted({path.stem.rpartition("@")[2] for path in Path().glob("*@*.job")})


def running(sim: Simulator, number: int = 1, **more):
    """Start main.py, and wait until its job of this number executes."""
    process = start(**more)
    wait_until(lambda: len(list(Path().glob("*.desktop"))) == number and "Executing" in [
        entry["status"] for entry in list(sim.jobs.values())[-1].statuses], 20)  # behind submission, a link is written
    return process


def test_as_shipped_it_is_rehearsed_and_every_hint_of_a_failure_is_a_rehearsal_that_works_when_pasted(edit):
    """Until the profile is there that only both steps reach."""
    edit()
    shutil.copy(ROOT / "main.py", "main.py")
    Path("tests").symlink_to(TESTS)
    done = paste("python tests/rescale_simulator.py --speed 0 --fail rod2 main.py")
    assert (done.returncode, "will be downloaded" in done.stdout) == (1, False), done.stderr
    hints = re.findall(r": +(\S*python\S* .*)", done.stderr)
    assert [hint.split()[-2] for hint in hints] == ["download", "--repeat"]
    for hint in hints:
        assert "rescale_simulator.py" in hint
        again = paste(hint)
        assert again.returncode == 0, again.stderr
    names = [f"{USER}@{batch}@{started_ats()[0]}" for batch in rows(again.stdout)]
    assert {path.name for path in Path().glob("[!.]*@*")} == {
        names[1], f"{names[0]}.log", f"{names[1]}.{rows(done.stdout)['rod2'][0]}",
        *(f"{name}.{kind}" for name in names for kind in ("job", "desktop"))}
    with tarfile.open(f"{names[1]}/rescale.tar.gz") as tar:
        tar.extract("./temperature.csv", "unpacked")
    assert profile_error(Path("unpacked/temperature.csv")) < TOLERANCE


@pytest.mark.parametrize(("state", "then", "how"), [
    ("waits", {}, "--resume"), ("runs", {}, "--resume"), ("runs", {"at_work": True}, ""),
    ("uploads", {"at_work": True}, ""), ("two", {}, "--repeat"), ("three", {"LOGNAME": "kim"}, "--repeat"),
    ("two", {"script": "other.py"}, "--repeat"), ("two", {"batches": [("uno", "true"), *THREE[1:]]}, "--repeat"),
    ("two", {"batches": [THREE[0], ("dos", "true")]}, "--resume"),
], ids=["a job waits", "a job runs", "its process runs, too", "it uploads, and has no job yet", "a link has failed",
        "by another user's name", "another script's", "its first batch renamed", "its second batch renamed"])
def test_beside_an_unfinished_chain_nothing_is_started_until_new_says_so(edit, sim, state, then, how):
    then, gate = dict(then), threading.Event()
    at_work, batches = then.pop("at_work", False), then.pop("batches", THREE)
    if state in ("two", "three"):
        sim.fail = state
        assert run()[0] == 1
        sim.fail = None
    else:
        edit(batches=[THREE[0], ("two", WAITS), THREE[2]])
        sim.speed = 20 if state == "waits" else 0
        if state == "uploads":
            sim.on_request = lambda record, when: record.path.endswith("/files/contents/") and gate.wait(20)
        process = running(sim, 2) if state == "runs" else start()
        wait_until(lambda: posts(sim) and (state != "waits" or sim.starts), 20)
        if not at_work:
            process.kill()
            process.end()
    shutil.copy("main.py", "other.py")
    edit(batches=batches)
    [name] = [path.stem for path in Path().glob("*@one@*.log")]
    started, before, at = of(sim), posts(sim), name.split("@")[2]
    sim.on_request = None
    status, out, err = run(**then)
    assert (of(sim), posts(sim)) == (started, before)
    assert {path.stem for path in Path().glob("[!.]*@*@*") if "@one@" in path.name} == {name}  # no trace of another
    assert at in out + err
    assert (status, "python main.py --new" in err.replace("other.py", "main.py")) == (2, True)
    assert f"{how} {at}" in err or not how  # nobody can go on with a chain that is at work
    gate.set()
    if at_work:
        process.kill()
    sim.speed = 0
    assert run("--new", **then)[0] == 0
    assert len({path.stem for path in Path().glob("*@*.log")}) == 2


@pytest.mark.parametrize("there", ["its only job failed", "it is finished", "another account's", "no chain's files"])
def test_beside_what_is_no_unfinished_chain_another_one_is_started(edit, sim, there):
    sim.fail = "one" if there == "its only job failed" else None
    if there in ("its only job failed", "it is finished"):
        assert run()[0] == (1 if sim.fail else 0)
    else:
        at = "20260101-000000"
        lookalikes = (f"one@{at} (copy)", f"one@{at}.sync-conflict-20260102-ABC", "one@20260101", f"one@{at}_old",
                      f"one@fine@{at}", f"One@{at}", f"four@{at}")
        for name in [f"one@{at}"] if there == "another account's" else lookalikes:
            Path(f"{USER}@{name}.job").write_text("abcXYZ\n")
    if there == "no chain's files":
        for option in ("--resume", "--repeat", "--status"):
            status, _, err = run(option)
            assert (status, str(Path.cwd()) in err, posts(sim)) == (2, True, 0)
    sim.fail, before = None, len(sim.starts)
    assert run()[0] == 0
    assert of(sim)[before:] == ["one", "two", "three"]
    assert steps() == "zero\none\ntwo\nthree\n" if there != "it is finished" else len(started_ats()) == 2


def test_resume_goes_on_with_what_runs_and_only_confirms_what_is_done(edit, sim):
    edit(batches=[THREE[0], ("two", WAITS + THREE[1][1]), THREE[2]])
    process = running(sim, 2)
    process.kill()
    process.end()
    (list(sim.jobs.values())[1].folder / "go").touch()
    status, out, err = run("--resume")
    assert (status, err, of(sim)) == (0, "", ["one", "two", "three"])
    assert f"Job {list(sim.starts)[1]} : submitted earlier" in out
    assert steps() == "zero\none\ntwo\nthree\n"
    before = posts(sim)
    status, out, err = run("--resume")
    assert (status, err, posts(sim)) == (0, "", before)
    assert "one, two: succeeded earlier" in out
    assert "rescale.tar.gz was here already" in out


@pytest.mark.parametrize(("option", "memory"), [
    ("--status", True), ("--status", False), ("--resume", True), ("--repeat", True),
], ids=["status", "status, without the memory by the .job files", "resume", "repeat"])
def test_of_two_chains_the_one_that_began_last_is_meant_whatever_the_clock_said(edit, sim, option, memory):
    """Names hold local time: in Seoul it is nine hours later. Dates of files do not survive copies."""
    edit(batches=[("one", "exit 1")])
    assert paste("TZ=Asia/Seoul python main.py").returncode == 1
    edit(batches=[("one", "exit 2")])
    assert paste("TZ=UTC python main.py --new").returncode == 1
    newest, seoul = started_ats()
    assert newest < seoul
    for path in Path().glob(f"*{seoul}.job" if memory else ".*.chain"):
        os.utime(path) if memory else path.unlink()
    edit(batches=[("one", "true")])
    before = list(sim.starts)
    status, out, _ = run(option)
    assert status == (1 if option == "--resume" else 0)
    assert (f"{USER}@one@{newest} " in out, seoul in out) == (True, False)
    assert len(sim.starts) - len(before) == (option == "--repeat")
    assert rows(run("--status", seoul)[1])["one"][0] == before[0]
    assert run(option, "20200101-000000")[0] == 2


def test_a_chain_of_another_script_is_taken_only_by_name_and_keeps_the_name_of_its_user(edit, sim):
    sim.fail = "two"
    assert run(LOGNAME="kim")[0] == 1
    sim.fail, before = None, posts(sim)
    shutil.copy("main.py", "other.py")
    [at] = started_ats()
    for option in ("--resume", "--repeat", "--status"):
        assert run(option, script="other.py")[0] == 2
    assert posts(sim) == before
    status, _, err = run("--repeat", at, script="other.py", LOGNAME="lee")
    assert (status, err) == (0, "")
    assert {job.name.split("@")[0] for job in sim.jobs.values()} == {"kim"}
    assert of(sim) == ["one", "two", "two", "three"]


@pytest.mark.parametrize(("arguments", "key", "status", "word"), [
    (["--status"], KEY, 2, "rehearsal"), (["--status"], "", 2, "rehearsal"), (["--resume"], KEY, 2, "rehearsal"),
    (["--resume"], "", 2, "rehearsal"), ([], KEY, 1, "No job was started"), ([], "", 1, "RESCALE_API_KEY"),
], ids=["status", "status without a key", "resume", "resume without a key", "a new chain", "a new chain without a key"])
def test_the_platform_never_meets_a_chain_of_a_rehearsal(monkeypatch, capsys, arguments, key, status, word):
    """A new chain passes it over."""
    sent, name = [], f"{USER}@one@20260101-000000"
    Path(f"{name}.job").write_text("abCdEf\n")
    Path(f"{name}.desktop").write_text("[Desktop Entry]\nURL=http://127.0.0.1:4242/jobs/abCdEf/runs/1/results/\n")
    monkeypatch.setenv("RESCALE_API_URL", PLATFORM)
    monkeypatch.setenv("RESCALE_API_KEY", key)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    connect(lambda request: sent.append(request.url) or (
        (200, {"email": "a@b"}) if "users/me" in request.url else (404, {"detail": "Not found."})))
    settings = ("user_included", "0", {}, "emerald", 1, 1, 1, None)
    with pytest.raises(SystemExit) as ended, rescale.chain([("one", "true\n")], settings, arguments=arguments):
        raise AssertionError("it went on")
    assert (ended.value.code, word in capsys.readouterr().err) == (status, True)
    assert all("users/me" in url for url in sent) or not arguments


def test_status_from_another_process_tells_of_all_links_writes_and_starts_nothing(edit, sim):
    edit(batches=[THREE[0], ("two", WAITS), THREE[2]])
    process, before, files = running(sim, 2), posts(sim), here()
    status, out, err = run("--status")
    process.kill()
    assert (status, err, posts(sim), here()) == (0, "", before, files)
    assert {name: cells[1] for name, cells in rows(out).items()} == {
        "one": "succeeded", "two": "running", "three": "not started"}


def test_check_tells_what_it_costs_at_most_and_starts_and_writes_nothing(edit, sim):
    edit(walltime=5, core_per_slot=4)
    files = here()
    status, out, err = run("--check")
    assert (status, err, posts(sim), here()) == (0, "", 0, files)
    words = ("3 x 20 = 60 core-hours", "1 files to pack", "jobs to be paid: 3 (one, two, three)", "= 3.60 at")
    assert [word for word in words if word not in out] == []
    assert out.endswith("Start: python main.py\n")


def test_help_tells_of_every_option_and_what_the_exit_statuses_mean(edit, sim):
    status, out, _ = run("--help")
    assert (status, sim.requests) == (0, [])
    options = ("--new", "--resume", "--repeat", "--from BATCH", "--status", "--check")
    assert [word for word in (*options, "STARTED_AT", "130") if word not in out] == []
    assert [option for option in options if option not in (ROOT / "main.py").read_text() and option != "--new"] == []


@pytest.mark.parametrize(("arguments", "batches"), [
    (["--restart"], THREE), (["one"], THREE), (["--new", "--resume"], THREE), (["--from", "one"], THREE),
    ([], [THREE[0], THREE[0]]), ([], [THREE[0], ("One", "true")]), ([], []), ([], [("a/b", "true")]),
    ([], [("", "true")]), ([], [("one", "\n")]), ([], [("one", "abaqus job=one\n")]),
], ids=["unknown option", "an argument", "two options", "--from alone", "twice", "differing in case", "none",
        "no file name", "no name", "no command", "abaqus that does not wait"])
def test_wrong_usage_is_told_with_2_before_anything_is_sent_or_written(arguments, batches, edit, sim):
    edit(batches=batches)
    files = here()
    status, _, err = run(*arguments)
    assert (status, sim.requests, here()) == (2, [], files)
    assert "main.py" in err or "batch" in err or "interactive" in err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which root cannot write")
@pytest.mark.parametrize("option", ["", "--check"], ids=["plain", "check"])
@pytest.mark.parametrize("fault", ["read-only", "full"])
def test_a_folder_that_cannot_be_written_is_told_with_2_before_anything_is_sent(edit, sim, fault, option):
    # Where root cannot write either; or files may have no more than 1 KB, which is what a full disk comes to.
    done = paste(f"{'cd /proc' if fault == 'read-only' else 'ulimit -f 1'}; python -B {edit() / 'main.py'} {option}")
    assert (done.returncode, sim.requests) == (2, []), done.stderr
    assert ("cannot be written" in done.stderr, "Traceback" in done.stderr) == (True, False)


@pytest.mark.parametrize(("variables", "sections", "words"), [
    ({"RESCALE_API_KEY": ""}, {}, ["my_token", "RESCALE_API_KEY"]),
    ({"RESCALE_API_KEY": "wrong-wrong-wrong"}, {}, ["401", "Invalid token"]),
    ({"RESCALE_API_URL": "http://kr.rescale.com"}, {}, ["http://kr.rescale.com", "https://"]),
    ({}, {"code_name": "abacus"}, ["abacus", "abaqus"]),
    ({}, {"input_path": "no such folder"}, ["no such folder"]),
    ({}, {"walltime": "an hour"}, ["walltime", "an hour"]),
], ids=["no token", "wrong token", "http", "unknown tile", "unknown folder", "walltime"])
def test_a_mistake_is_told_in_one_message_before_anything_is_uploaded(variables, sections, words, edit, sim):
    edit(**sections)
    status, _, err = run(**variables)
    assert (status, posts(sim)) == (1, 0)
    assert [word for word in (*words, "No job was started") if word not in err] == []
    assert "wrong-wrong" not in err


@pytest.mark.parametrize(("slip", "words"), [
    ("a name", r"Traceback.*\"main\.py\", line \d+.*AttributeError: .*no_such"),
    ("requests", r"^main\.py cannot start: .*requests"), ("the library", r"^main\.py cannot start: .*rescale_rest_api"),
], ids=["a slip is an ordinary traceback", "requests is not installed", "the library is not beside it"])
def test_what_is_wrong_with_the_script_itself_is_told_and_starts_nothing(edit, sim, slip, words):
    if slip == "a name":
        text = Path("main.py").read_text(encoding="utf-8").replace("rescale.job_setup", "rescale.no_such")
        Path("main.py").write_text(text, encoding="utf-8")
    if slip == "the library":
        Path("rescale_rest_api.py").unlink()
    done = paste(f"python {'-S' if slip == 'requests' else ''} main.py")
    assert (done.returncode, sim.jobs) == (1, {})
    assert re.search(words, done.stderr.replace(f"{Path.cwd()}/", ""), re.S)


@pytest.mark.parametrize("gone", ["nothing", "the .job files", "the folder"])
def test_after_ctrl_c_the_job_is_named_that_costs_money_and_the_command_that_stops_it_works(edit, sim, tmp_path, gone):
    folder = edit(batches=[("one", WAITS)], at_end=f"touch {tmp_path / 'ended'}")
    library = shutil.copy("rescale_rest_api.py", tmp_path / "kept.py")
    process, [job_id] = running(sim), sim.starts
    if gone == "the folder":
        shutil.rmtree(folder)
        os.chdir(tmp_path)
    elif gone == "the .job files":
        next(Path().glob("*.job")).unlink()
    process.kill(signal.SIGINT)
    status, _, err = process.end()
    assert (status, f"Job {job_id} still runs and costs money" in err) == (130, True)
    script, command = re.search(r"^To stop it: +python (\S+) (stop \w+)$", err, re.M).groups()
    assert paste(f"python {library if gone == 'the folder' else script} {command}").returncode == 0
    wait_until(lambda: sim.jobs[job_id].ended)
    assert not (tmp_path / "ended").exists()


def test_the_log_has_every_line_with_its_local_time_and_ends_with_the_next_command(edit, sim):
    edit(batches=[("정적", "echo fine"), ("two", "echo no licence >&2; exit 3")])
    status, out, err = run()
    [log] = Path().glob("*@정적@*.log")
    text = log.read_text(encoding="utf-8")
    lines = [re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) {0,2}(.*)", line).groups() for line in text.splitlines()]
    began, said = log.stem.rpartition("@")[2], [line for _, line in lines if line]
    assert began <= re.sub(r"[-:]", "", lines[-1][0]).replace(" ", "-") < began[:7] + "99"
    assert sorted(said) == sorted(line for line in (out + err).splitlines() if line)
    words = (f"rescale_rest_api {rescale.__version__}: main.py", "2 of 2: two", "exit code 3", "no licence")
    assert [word for word in words if not any(word in line for line in said)] == []
    assert rows("\n".join(said))["two"][1] == "FAILED (exit code 3)"
    assert (status, said[-1].endswith(f"python main.py --repeat {began}"), sim.token in text) == (1, True, False)


@pytest.mark.parametrize(("fails", "then"), [(False, "true"), (True, "true"), (False, "exit 4"), (True, "sleep 60")],
                         ids=["success", "failure", "success, and it fails itself", "failure, and it hangs"])
def test_at_end_runs_after_success_and_failure_without_the_key_and_changes_nothing(edit, sim, fails, then):
    at_end = f'env > ended; echo "$CHAIN_SUMMARY" > summary; {then}'
    edit(batches=[("one", "exit 3" if fails else "true")], at_end=at_end)
    status, out, err = run(constants={"AT_END_TIMEOUT": 0.5})
    variables = dict(line.split("=", 1) for line in Path("ended").read_text().splitlines() if "=" in line)
    [name] = [path.stem for path in Path().glob("*.job")]
    assert (status, variables["CHAIN_NAME"], "--repeat" in err) == (fails, name, fails)
    assert variables["CHAIN_STATUS"] == ("failed" if fails else "succeeded")
    assert rows(Path("summary").read_text())["one"][1] == ("FAILED (exit code 3)" if fails else "succeeded")
    assert (sim.token in Path("ended").read_text(), "at_end failed" in out) == (False, then != "true")


@pytest.mark.parametrize(("cores", "tokens"), [(1, 5), (4, 8), ("4", 8), (8, 12), (16, 16), (36, 22), (144, 40)])
def test_abaqus_tokens_are_those_of_its_formula_for_a_number_or_its_text(cores, tokens):
    assert rescale.abaqus_tokens(cores) == tokens
