"""4. The job's command: what it leaves of a folder, in every shell, however it is given to it.

Every run starts as a job does that was given an archive: with the archive and what was in it. So each of them also
shows that the archive of before is never what the job leaves as its result.
"""

from __future__ import annotations

import concurrent.futures
import io
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES
from rescale_simulator import Simulator

PROGRAMS = {
    "bash": ["bash"], "sh": ["sh"], "dash": ["dash"], "busybox": ["busybox", "sh"], "mksh": ["mksh"], "ksh": ["ksh"],
    "zsh": ["zsh"],
}


def installed():
    """The shells that are here, each once: sh is another name of one of them, mostly."""
    paths = {name: shutil.which(program[0]) for name, program in PROGRAMS.items()}
    return {path and os.path.realpath(path): name for name, path in reversed(paths.items()) if path}.values()


SHELLS = {*installed(), "bash"}
STYLES = ("file", "-c", "stdin")  # how a shell is given the command
EVERYWHERE = [(shell, style) for shell in PROGRAMS if shell in SHELLS for style in STYLES]
AS_A_FILE = [way for way in EVERYWHERE if way[1] == "file"]
TWO = [("bash", "file"), ("sh" if "sh" in SHELLS else "dash", "stdin")]  # for what takes its time

GIVEN = {"rod.inp": b"input\n"}
SUCCESS = {"rescale.tar.gz"}
FAILURE = {"rescale_failed.tar.gz", "process_output.log"}


def each_shell(command):
    """Every shell once, the styles by turns, and others for another command: a third of the time of all of them."""
    turn = sum(command.encode())
    return [EVERYWHERE[index + (turn + index // 3) % 3] for index in range(0, len(EVERYWHERE), 3)]


def archive_of(files):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def files_in(archive):
    """What an archive holds: path and content, None for a folder."""
    with tarfile.open(archive, "r:gz") as tar:
        return {
            member.name[2:] if member.name.startswith("./") else member.name:
            tar.extractfile(member).read() if member.isfile() else None
            for member in tar
        }


class Left(NamedTuple):
    """What a command left: its exit status, the names in the folder, what the archive holds but for the log."""

    status: int
    names: set
    packed: dict | None


class Jobs:
    """Runs commands as the platform got them from job_setup, as the platform does, in folders of their own."""

    def __init__(self, folder, simulator):
        self.folder, self.simulator = folder, simulator
        self.access = simulator.url, f"Token {simulator.token}"
        (folder / "x").write_text("x")
        self.uploaded = rescale.upload_local_files(*self.access, folder / "x", decompress=False)

    def command(self, command, still_packed=0, name="job"):
        """The text for the shell; `still_packed` counts the input files that are not unpacked."""
        files = [{**self.uploaded[0], "decompress": not still_packed}] * max(1, still_packed)
        values = {**RIGHT_VALUES, "command": command, "inputfiles_list": files, "job_name": name}
        job_id = rescale.job_setup(*self.access, **values)
        return self.simulator.jobs[job_id].body["jobanalyses"][0]["command"]

    def run(self, command, where=None, *, files=None, after="", env=None, limits="", packed=True, **values):
        """Run a command in a folder with `files` in all these ways at once; tell what each left."""
        where = where or each_shell(command)
        text = self.command(command, **values) + after
        files = {**GIVEN, "rescale.tar.gz": archive_of(GIVEN)} if files is None else files

        def run(way):
            shell, style = way
            folder = self.work(way)
            folder.mkdir(parents=True)
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            script = folder.parent / "command.sh"
            script.write_text(text, encoding="utf-8")
            given = {"file": [str(script)], "-c": ["-c", text], "stdin": []}[style]
            program = [str(shutil.which(PROGRAMS[shell][0])), *PROGRAMS[shell][1:], *given]
            if limits:
                program = [str(shutil.which("sh")), "-c", f'{limits}; exec "$@"', "sh", *program]
            source = script if style == "stdin" else Path(os.devnull)
            with source.open("rb") as stdin, (folder / rescale.LOG).open("ab") as log:
                status = subprocess.run(
                    program, cwd=folder, stdin=stdin, stdout=log, stderr=log, timeout=50,
                    env={**os.environ, **(env or {})},
                ).returncode
            names = {path.name for path in folder.iterdir()}
            archives = names & {rescale.ARCHIVE, rescale.FAILED_ARCHIVE}
            held = files_in(folder / archives.pop()) if len(archives) == 1 and packed else None
            if held is not None:
                held.pop("job.log", None)
            return Left(status, names, held)

        shutil.rmtree(self.folder / "jobs", ignore_errors=True)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            return dict(zip(map(" ".join, where), pool.map(run, where)))

    def work(self, way):
        return self.folder / "jobs" / " ".join(way) / "work"

    def logs(self):
        return [path.read_text("utf-8", "replace") for path in self.folder.glob(f"jobs/*/work/{rescale.LOG}")]


@pytest.fixture(scope="module")
def quiet_sim(tmp_path_factory):
    with Simulator(tmp_path_factory.mktemp("platform"), speed=0) as simulator:
        yield simulator


@pytest.fixture
def jobs(quiet_sim, tmp_path):
    return Jobs(tmp_path, quiet_sim)


def the_same(left, status, names, packed):
    """What is expected of every way in which it ran, so that a difference shows where."""
    return dict.fromkeys(left, Left(status, names, packed))


def test_the_shells_that_every_platform_has_are_here():
    assert shutil.which("bash")
    assert shutil.which("sh")


# Commands that work, and what they leave beside rod.inp

WORKS = {
    "simple": ("echo 1 > a\n", {"a": b"1\n"}),
    "no final newline": ("echo 1 > a", {"a": b"1\n"}),
    "trailing comment": ("echo 1 > a  # one", {"a": b"1\n"}),
    "trailing semicolon": ("echo 1 > a;", {"a": b"1\n"}),
    "trailing backslash": ("echo 1 > a \\", {"a": b"1\n"}),
    "empty lines": ("\n\n  echo 1 > a\n\n", {"a": b"1\n"}),
    "quotes": ("""printf '%s' "it's" 'a "b" $HOME' > a\n""", {"a": b'it\'sa "b" $HOME'}),
    "heredoc": ("cat > a <<'END'\n$HOME `x` ) (\nEND\n", {"a": b"$HOME `x` ) (\n"}),
    "heredoc without final newline": ("cat > a <<END\none $((1 + 1))\nEND", {"a": b"one 2\n"}),
    "parenthesis of a case": ("case x in x) echo 1 > a;; esac\n", {"a": b"1\n"}),
    "cd into a folder": ("mkdir sub; cd sub; echo 1 > a\n", {"sub": None, "sub/a": b"1\n"}),
    "cd away": ("echo 1 > a; cd /\n", {"a": b"1\n"}),
    "empty folders": ("mkdir -p sub/deep .dir\n", {"sub": None, "sub/deep": None, ".dir": None}),
    "hidden files": ("touch .hidden ..two\n", {".hidden": b"", "..two": b""}),
    "set -eu": ("set -euf; echo 1 > a\n", {"a": b"1\n"}),
    "set -C": ("set -C; echo 1 > a\n", {"a": b"1\n"}),
    "exit 0": ("echo 1 > a; exit 0\n", {"a": b"1\n"}),
    "exec": ("exec sh -c 'echo 1 > a'\n", {"a": b"1\n"}),
    "trap": ("trap 'echo 2 > b' EXIT; echo 1 > a\n", {"a": b"1\n", "b": b"2\n"}),
    "output put elsewhere": ("exec > a 2>&1 3>&-; echo 1\n", {"a": b"1\n"}),
    "variables changed": ("echo 1 > a; PATH=/nowhere; IFS=a; HOME=\n", {"a": b"1\n"}),
    "variables of tar": ("export TAR_OPTIONS=--version GZIP=-9; echo 1 > a\n", {"a": b"1\n"}),
    "functions named like programs": ("tar() { false; }; find() { false; }; rm() { false; }; echo 1 > a\n",
                                      {"a": b"1\n"}),
    "helpers' names": ("archive=1; rescale_status=9; rescale_log=x; rescale_command=x; echo 1 > a\n", {"a": b"1\n"}),
    "a program called archive": ("printf 'echo 1 > a\\n' > archive; chmod +x archive; ./archive; archive() { ls; }\n",
                                 {"a": b"1\n", "archive": b"echo 1 > a\n"}),
    "a file from the future": ("touch -d '+9 hours' rod.inp; mkdir sub; echo 1 > sub/a; touch -d '+9 hours' sub/a\n",
                               {"sub": None, "sub/a": b"1\n"}),  # as of a computer in Korea that takes its time for UTC
    "umask": ("umask 777; mkdir sub\n", {"sub": None}),
    "an earlier failure": ("false\n(exit 3)\necho 1 > a\n", {"a": b"1\n"}),
    "reading standard input": ("cat > a; read -r line || echo 1 > b\n", {"a": b"", "b": b"1\n"}),
    "a writer that is waited for": ("(sleep 0.05; echo 1 > a) & wait\n", {"a": b"1\n"}),
    "files named tmp and __pycache__": ("echo 1 > tmp; echo 2 > __pycache__\n", {"tmp": b"1\n", "__pycache__": b"2\n"}),
    "folders named tmp and __pycache__": ("mkdir -p tmp/deep __pycache__; echo 1 | tee tmp/deep/x __pycache__/x\n", {}),
    # what made an earlier version take the given archive for the result, or the result for the given one
    "given archive touched": ("echo 1 > a; touch rescale.tar.gz\n", {"a": b"1\n"}),
    "given archive renamed": ("mv rescale.tar.gz b; mv b rescale.tar.gz; echo 1 > a\n", {"a": b"1\n"}),
    "given archive zipped anew": ("gunzip rescale.tar.gz; echo 1 > a; gzip rescale.tar; true\n", {"a": b"1\n"}),
    "all files edited in place": ("sed -i s/x/y/ ./*.*; echo 1 > a\n", {"a": b"1\n"}),
    "work done in a copy": ("cp -r . ../scratch; cd ../scratch; echo 1 > a.x; mv -f ./*.* ../work/\n", {"a.x": b"1\n"}),
    "a failed archive of before": ("echo 1 > rescale_failed.tar.gz\n", {"rescale_failed.tar.gz.before": b"1\n"}),
}


DEPENDS_ON_THE_STYLE = ("simple", "reading standard input", "exec", "heredoc", "quotes", "trap")


@pytest.mark.parametrize("case", WORKS)
def test_a_command_that_works_leaves_one_archive_with_all_it_wrote(case, jobs):
    command, packed = WORKS[case]
    left = jobs.run(command, EVERYWHERE if case in DEPENDS_ON_THE_STYLE else None)
    assert left == the_same(left, 0, SUCCESS, {**GIVEN, **packed})


FAILS = {
    "exit 3": ("exit 3\n", {3}),
    "exit 255": ("exit 255  # why", {255}),
    "last command": ("false", {1}),
    "in a folder that is gone": ("mkdir sub; cd sub; rmdir ../sub; exit 3", {3}),
    "set -e": ("set -e\nfalse\necho 2 > a\n", {1}),
    "set -u": ("set -u\necho $UNSET\necho 2 > a\n", {1, 2, 127}),
    "not installed": ("no-such-solver\n", {127}),
    "killed program": ("sh -c 'kill -9 $$'\n", {137, 9}),
    "exec of a failing program": ("exec false\n", {1}),
    "touched, then failed": ("touch rescale.tar.gz; exit 3\n", {3}),
    "status set to 0": ("rescale_status=0; status=0; (exit 4)\n", {1, 4}),  # zsh: its status is read-only
}


@pytest.mark.parametrize("case", FAILS)
def test_a_command_that_fails_fails_the_job_and_leaves_its_log_and_what_it_wrote(case, jobs):
    command, statuses = FAILS[case]
    left = jobs.run(f"echo 1 > a\necho hello\n{command}", EVERYWHERE if case == "exit 3" else None)
    assert {one.status for one in left.values()} <= statuses
    assert {way: one[1:] for way, one in left.items()} == dict.fromkeys(left, (FAILURE, {**GIVEN, "a": b"1\n"}))
    assert all(log.startswith("hello\n") for log in jobs.logs())


UNBALANCED = {
    "test": "[[ a b\n", "for": "for ((\n", "fi": "fi\n",
    "parenthesis": ")\n", "opening parenthesis": "(\n", "brace": "{ true\n", "closing brace": "true; }\n",
    "done": "for i in 1; do true; done; done\n", "quote": "echo 'a\n", "double quote": 'echo "a\n',
    "substitution": "echo $(true\n", "backquote": "echo `true\n", "if without then": "if true; fi\n",
    "and": "true && && true\n", "case": "case x in\n", "two semicolons": "true;;\n",
}


@pytest.mark.parametrize("case", UNBALANCED)
def test_what_no_shell_can_parse_fails_the_job_and_no_archive_is_its_result(case, jobs):
    left = jobs.run(UNBALANCED[case], EVERYWHERE if "quote" in case else None)
    assert all(0 < one.status < 128 for one in left.values()), left
    assert {way: one[1:] for way, one in left.items()} == dict.fromkeys(left, (FAILURE, GIVEN))


def test_a_heredoc_without_its_end_is_a_success_or_a_failure_but_never_the_input(jobs):
    """Shells differ in whether that is an error."""
    for one in jobs.run("cat > a <<END\nx\n").values():
        assert one.names == (SUCCESS if one.status == 0 else FAILURE)
        assert one.packed["rod.inp"] == GIVEN["rod.inp"]
        assert one.status > 0 or one.packed["a"].strip() == b"x"


def test_a_job_that_is_killed_has_no_archive_at_all_and_keeps_what_it_wrote(jobs):
    left = jobs.run("echo 1 > a; kill -9 $$\n", EVERYWHERE)
    assert {one.status for one in left.values()} == {-signal.SIGKILL}
    for one in left.values():
        assert one.names >= {"a", "rod.inp"}
        assert not one.names & {"rescale.tar.gz", "rescale_failed.tar.gz"}


@pytest.mark.parametrize("command", ["exit 3", "set -e; false", "set -u; echo $UNSET", "exec false", "cd /; true"])
def test_the_platforms_own_shell_goes_on_afterwards(command, jobs):
    left = jobs.run(command, after="echo $? > ../after; case $- in *[eu]*) false;; esac; echo $? > ../where\n")
    for way in left:
        folder = jobs.folder / "jobs" / way
        assert ((folder / "after").read_text() == "0\n") is command.endswith("true")
        assert (folder / "where").read_text() == "0\n"


def test_in_a_shell_that_ends_with_the_first_failure_the_packing_is_done_all_the_same(jobs, monkeypatch):
    for program in ("bash", "sh"):
        monkeypatch.setitem(PROGRAMS, program, [program, "-e"])
    left = jobs.run("echo 1 > a; exit 3\n", [("bash", "file"), ("sh", "file")])
    assert left == the_same(left, 3, FAILURE, {**GIVEN, "a": b"1\n"})


# Files


NAMES = [
    "with blanks", " leading", "trailing ", "결과 1", "-rf", "--checkpoint-action=exec=sh x", "new\nline", "tab\t",
    "it's", '"quoted"', "$HOME", "*", "back\\slash", "`id`", "!", "~", "a;b", "@a", "n" * 250, "...", "\x7f", "=", "%s",
]


def test_files_of_any_name_are_packed_and_removed(jobs):
    files = {**{name: name.encode() for name in NAMES}, **{f"-dir/{name}": b"deep" for name in NAMES}}
    left = jobs.run("true\n", AS_A_FILE, files=files)
    assert left == the_same(left, 0, SUCCESS, {"-dir": None, **files})


def test_thousands_of_files_are_packed(jobs):
    files = {f"a rather long name of a result file {number:060}": b"" for number in range(1500)}
    left = jobs.run("true\n", TWO, files=files, limits="ulimit -s 512")  # no command line of 128 KiB has these names
    assert left == the_same(left, 0, SUCCESS, files)


def test_scratch_scripts_log_and_the_given_archive_are_not_packed_but_deeper_they_are_files_like_any_other(jobs):
    deep = {f"sub/{name}": b"deep" for name in ("main.py", "rescale.tar.gz", "process_output.log", "tmp/file")}
    files = {"main.py": b"x", "rescale_rest_api.py": b"x", "tmp/file": b"x", "__pycache__/file": b"x",
             "rescale.tar.gz": archive_of(GIVEN), **deep}
    left = jobs.run("echo hello\n", AS_A_FILE, files=files)
    assert left == the_same(left, 0, SUCCESS, {"sub": None, "sub/tmp": None, **deep})


@pytest.mark.parametrize(("command", "archive"), [("true", "rescale.tar.gz"), ("exit 3", "rescale_failed.tar.gz")])
def test_the_log_of_every_link_is_in_the_archive_under_the_jobs_name(command, archive, jobs):
    name = "me@it's one@1"
    jobs.run(f"echo hello; {command}\n", AS_A_FILE, files={"me@before@1.log": b"earlier\n"}, name=name)
    for way in AS_A_FILE:
        packed = files_in(jobs.work(way) / archive)
        assert packed == {f"{name}.log": b"hello\n", "me@before@1.log": b"earlier\n"}


def test_a_file_of_the_logs_name_is_kept(jobs):
    left = jobs.run("echo mine > job.log\n", AS_A_FILE)
    for way in AS_A_FILE:
        assert files_in(jobs.work(way) / "rescale.tar.gz")["job.log"] == b"mine\n"
    assert {one.status for one in left.values()} == {0}


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize(
    "command",
    [
        "tar -czf rescale.tar.gz a; rm a",  # as Rescale Korea's older scripts end
        "tar -czf ../new.tgz a; mv ../new.tgz rescale.tar.gz",
        "tar -czf new.tgz a; cat new.tgz > rescale.tar.gz; rm new.tgz",
    ],
    ids=["packed", "moved", "written over"],
)
@pytest.mark.parametrize("still_packed", [0, 1], ids=["unpacked", "left packed"])
def test_a_command_that_packs_its_own_archive_is_left_to_it(still_packed, command, status, jobs):
    left = jobs.run(f"echo 1 > a; {command}; exit {status}\n", still_packed=still_packed)
    for one in left.values():
        assert (one.status, one.packed) == (status, {"a": b"1\n"})
        assert one.names >= {"rod.inp", "process_output.log", "rescale_failed.tar.gz" if status else "rescale.tar.gz"}


def test_an_archive_of_its_own_that_is_cut_off_is_no_result(jobs):
    left = jobs.run("tar -czf a.tgz rod.inp; head -c 50 a.tgz > rescale.tar.gz; rm a.tgz\n", AS_A_FILE, packed=False)
    for one in left.values():
        assert one.status == 1
        assert one.names == {"rod.inp", *FAILURE}


# Where the packing cannot be done, or somebody still writes: nothing is deleted, nothing is called a result


def programs(folder, *names, **instead):
    """A search path with nothing but these programs, and scripts in their place."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name))
    for name, script in instead.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


NEEDED = ["find", "tar", "gzip", "rm", "mv", "cp", "mkdir", "rmdir", "xargs", "printf", "cat", "sh", "tail", "cksum",
          "sleep", "touch"]
# busybox brings programs of its own, whatever the search path
BUT_BUSYBOX = [way for way in AS_A_FILE if way[0] != "busybox"]


def nothing_happened(left, jobs, status=1, **also):
    """Whether all that was there is there, and no archive."""
    assert {one.status for one in left.values()} == {status}
    for way, one in left.items():
        assert not one.names & {"rescale.tar.gz", "rescale_failed.tar.gz"}
        for name, content in {**GIVEN, "a": b"1\n", **also}.items():
            assert (jobs.folder / "jobs" / way / "work" / name).read_bytes() == content
    assert all("could not be packed" in log for log in jobs.logs())


@pytest.mark.parametrize(("command", "status"), [("true", 1), ("exit 3", 3)])
@pytest.mark.parametrize("missing", ["tar", "gzip", "mv", "find"])
def test_without_a_program_for_the_packing_nothing_is_deleted(missing, command, status, jobs):
    env = programs(jobs.folder / "bin", *(name for name in NEEDED if name != missing))
    left = jobs.run(f"echo 1 > a; {command}\n", BUT_BUSYBOX, env=env)
    nothing_happened(left, jobs, status)


@pytest.mark.parametrize("broken", ["find", "tar", "gzip"])
def test_a_program_that_fails_at_the_end_of_the_packing_makes_no_result(broken, jobs):
    """What it wrote until then may look whole."""
    env = programs(jobs.folder / "bin", *NEEDED, **{broken: f'{shutil.which(broken)} "$@" && exit 1'})
    nothing_happened(jobs.run("echo 1 > a\n", BUT_BUSYBOX, env=env), jobs)


@pytest.mark.parametrize("compressor", ["gzip", "pigz"])
def test_it_packs_with_what_there_is(compressor, jobs):
    if not shutil.which(compressor):
        pytest.skip(f"there is no {compressor}")
    env = programs(jobs.folder / "bin", *(name for name in NEEDED if name != "gzip"), compressor)
    left = jobs.run("echo 1 > a\n", BUT_BUSYBOX, env=env)
    assert left == the_same(left, 0, SUCCESS, {**GIVEN, "a": b"1\n"})


@pytest.mark.parametrize("ignored", ["trap '' XFSZ; ", ""], ids=["told to the program", "killing the program"])
@pytest.mark.parametrize(("command", "status"), [("true", 1), ("exit 3", 3)])
def test_when_the_disk_is_full_nothing_is_deleted(command, status, ignored, jobs):
    results = {f"frame {number}": os.urandom(100_000) for number in range(5)}
    files = {**GIVEN, **results, "rescale.tar.gz": archive_of(GIVEN)}
    left = jobs.run(f"echo 1 > a; {command}\n", AS_A_FILE, files=files, limits=f"{ignored}ulimit -f 300")  # half KiB
    nothing_happened(left, jobs, status, **results)


def while_packing(jobs, script):
    """Programs of which the compressing ones do something in the work folder first."""
    script = f'{script}\nexec {shutil.which("gzip")} "$@"'
    return programs(jobs.folder / "bin", *NEEDED, gzip=script, pigz=script)


@pytest.mark.parametrize("script", ["echo 2 >> a", "echo 2 > new", "mkdir sub; echo 2 > sub/new"],
                         ids=["a file", "a new file", "a new folder"])
def test_when_something_is_still_written_nothing_is_deleted_and_the_file_is_named(script, jobs):
    left = jobs.run("echo 1 > a; sleep 0.01\n", env=while_packing(jobs, f"sleep 0.02; {script}"))
    named = script.split()[-1]
    nothing_happened(left, jobs, **{named: b"1\n2\n" if named == "a" else b"2\n"})
    assert all(f"./{named}" in log for log in jobs.logs())


def test_a_solver_that_runs_on_behind_the_command_fails_the_job_and_loses_nothing(jobs):
    """As Abaqus does without `interactive`."""
    solver = "(while [ ! -e ../stop ]; do echo step >> a.odb; sleep 0.01; done) &\n"
    try:
        left = jobs.run(solver, AS_A_FILE, env=while_packing(jobs, "sleep 0.1"))
        assert {one.status for one in left.values()} == {1}
        assert all(one.names >= {"rod.inp", "a.odb"} and "rescale.tar.gz" not in one.names for one in left.values())
        assert all("./a.odb" in log for log in jobs.logs())
    finally:
        for way in AS_A_FILE:
            (jobs.work(way).parent / "stop").touch()


def test_a_file_that_is_moved_in_while_packing_is_no_less_a_change(jobs):
    """It keeps the date that it had."""
    command = "echo 1 > a; echo 1 > ../late; touch -d '-9 hours' ../late; sleep 0.01\n"
    left = jobs.run(command, env=while_packing(jobs, "sleep 0.02; mv ../late late"))
    nothing_happened(left, jobs, late=b"1\n")
    assert all("./late" in log for log in jobs.logs())


def test_what_a_packing_that_was_killed_left_does_not_disturb_the_next(jobs):
    left = jobs.run("echo 1 > a\n", AS_A_FILE, files={".rescale_pack/archive": b"half", ".rescale_pack/list": b"x"})
    assert left == the_same(left, 0, SUCCESS, {"a": b"1\n"})


# Inputs that are not unpacked


STILL_PACKED = {
    "used": "tar -xzf rescale.tar.gz\n",
    "not used": "echo rod > rod.inp; echo input > rod.inp\n",
    "touched": "tar -xzf rescale.tar.gz; touch rescale.tar.gz\n",
    "copied": "tar -xzf rescale.tar.gz; cp rescale.tar.gz b; mv b rescale.tar.gz\n",
    "removed": "tar -xzf rescale.tar.gz; rm rescale.tar.gz\n",
    "zipped anew": "tar -xzf rescale.tar.gz; gunzip rescale.tar.gz; gzip -9 rescale.tar\n",
}


@pytest.mark.parametrize("still_packed", [1, 2], ids=["alone", "beside another file"])
@pytest.mark.parametrize(("end", "status"), [("", 0), ("exit 3\n", 3)], ids=["success", "failure"])
@pytest.mark.parametrize("case", STILL_PACKED)
def test_an_archive_that_the_command_unpacks_itself_is_there_for_it_and_is_not_the_result(
    case, end, status, still_packed, jobs
):
    files = {"rescale.tar.gz": archive_of(GIVEN)}
    left = jobs.run(STILL_PACKED[case] + end, files=files, still_packed=still_packed)
    assert left == the_same(left, status, FAILURE if status else SUCCESS, GIVEN)


INPUT = {f"frame {number}": os.urandom(1000) for number in range(20)}


def volumes(count, name="rescale.tar.gz"):
    whole = archive_of(INPUT)
    size = -(-len(whole) // count)
    return {f"{name}.{number + 1:03}": whole[number * size:][:size] for number in range(count)}


@pytest.mark.parametrize("name", ["rescale.tar.gz", "my mesh.tar.gz"])
@pytest.mark.parametrize("count", [2, 12])
def test_volumes_are_joined_in_their_order_unpacked_and_removed_before_the_command_starts(count, name, jobs):
    left = jobs.run("ls -A > a\n", files=volumes(count, name), still_packed=count)
    for one in left.values():
        assert one[:2] == (0, SUCCESS)
        assert {name: one.packed[name] for name in INPUT} == INPUT
        names = set(one.packed["a"].decode().splitlines())
        assert names - {".rescale_pack"} == {*INPUT, "a", "process_output.log"}


def test_volumes_of_two_archives_are_told_apart(jobs):
    one = {"b.tar.gz.001": archive_of({"b": b"b"})[:40], "b.tar.gz.002": archive_of({"b": b"b"})[40:]}
    left = jobs.run("true\n", AS_A_FILE, files={**volumes(2, "a.tar.gz"), **one}, still_packed=4)
    assert left == the_same(left, 0, SUCCESS, {**INPUT, "b": b"b"})


@pytest.mark.parametrize("number", ["001", "002", "003"])
@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "missing"])
def test_with_a_volume_missing_or_damaged_the_command_is_not_started_and_the_job_fails(damaged, number, jobs):
    files = volumes(3)
    content = files.pop(f"rescale.tar.gz.{number}")
    if damaged:
        files[f"rescale.tar.gz.{number}"] = content[:200] + b"damaged" + content[207:]
    left = jobs.run("echo 1 > started\n", files=files, still_packed=3)
    for one in left.values():
        assert one.status > 0
        assert one.names == FAILURE
        assert "started" not in one.packed
    assert all("volume" in log and "not started" in log for log in jobs.logs())


def test_volumes_are_joined_also_where_the_command_has_such_a_name_in_it(jobs):
    left = jobs.run("# leaves rescale.tar.gz. See the guide\n", AS_A_FILE, files=volumes(3), still_packed=3)
    assert left == the_same(left, 0, SUCCESS, INPUT)


# The same on the platform


@pytest.mark.parametrize(("command", "left"), [("echo 1 > a\n", SUCCESS), ("echo 1 > a; exit 3\n", FAILURE)])
def test_the_platform_is_left_with_these_files(command, left, sim, run_job):
    job = sim.jobs[run_job(command, {"rod.inp": b"x"})]
    assert {sim.files[file_id].relative_path for file_id in job.files} == left


@pytest.mark.parametrize("listed", ["left", "all"])
@pytest.mark.parametrize("change", ["", "touch rescale.tar.gz; ", "gunzip rescale.tar.gz; gzip -1 rescale.tar; "],
                         ids=["as it was", "touched", "zipped anew"])
@pytest.mark.parametrize("end", ["kill -9 $$", "sleep 60"], ids=["killed", "out of walltime"])
def test_a_given_archive_that_is_still_there_when_the_job_is_ended_is_no_result(
    end, change, listed, access, sim, run_job
):
    """Whatever the platform says about the end of the job."""
    sim.ignore_exit_codes, sim.lists_inputs = True, listed
    sim.walltime_hour, sim.walltime_reason, sim.stopping_entry = 0.5, "Completed successfully", False
    Path("rescale.tar.gz").write_bytes(archive_of(GIVEN))
    inputs = rescale.upload_local_files(*access, decompress=False)
    job_id = run_job(f"{change}{end}\n", inputfiles_list=inputs)
    assert sim.jobs[job_id].statuses[-1]["statusReason"] == "Completed successfully"
    with pytest.raises(rescale.RescaleError, match=job_id):
        rescale.file_previous_job(*access, job_id)
    with pytest.raises(rescale.JobFailed):
        rescale.job_monitor(*access, job_id)
