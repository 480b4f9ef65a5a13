"""4. The job's command, run as a platform runs it: what it leaves of a work folder, whatever the shell and the command.

| promise (design, part 4, proof 1) | test |
|---|---|
| after success all is in rescale.tar.gz, which alone is left; after a failure in another, and the log | WORKS, FAILS |
| the command is confined: the platform's shell goes on with its status, and lends what it has | FAILS |
| a job that was killed, stopped, or ran out of walltime has no archive | is_ended |
| names, numbers of files, scratch, special files; the log of each link, no file overwritten | WORKS, all, log |
| links are packed as what they point to; nothing outside is packed as a folder, or deleted | LINKS |
| nothing is deleted unless the archive is complete and nothing writes any more | where_a_program up to open |
| a command may pack by itself; what is cut off is no result; a packed archive is left to it | OWN, STILL_PACKED |
| volumes are joined, mended inputs unpacked over, before the command | volumes, volume, mended |
| all the same in work/shared | shared |
"""

import contextlib
import os
import re
import shutil
import sys
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest
import requests

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES, a_program, wait_until
from rescale_simulator import Simulator
from test_contract import tar_gz

BASH, DASH = shutil.which("bash"), shutil.which("dash") or shutil.which("sh")
SHELLS = {"bash": [BASH], "posix": [BASH, "--posix"], "dash": [DASH]}
EVERYWHERE = [f"{shell} {style}" for shell in SHELLS for style in ("file", "-c", "stdin")]
TWO = ["bash file", "dash stdin"]  # for what hardly depends on it
SLEEP = f'echo "$@" >> "$HOME/slept"\n[ "$1" = 1 ] && set -- 0.05\nexec {shutil.which("sleep")} "$@"'

GIVEN, ONE = {"rod.inp": b"input\n"}, {"a": b"1\n"}
SUCCESS, FAILURE = {"rescale.tar.gz"}, {"rescale_failed.tar.gz", "process_output.log"}

# What a command left: its status, the names in the folder, what its archive holds but for its log, what the log says.
Left = namedtuple("Left", "status names packed said job")


def files_in(archive):
    """What an archive holds: path and content, None for a folder, a text for a link."""
    with tarfile.open(archive, "r:gz") as tar:
        return {os.path.normpath(one.name): tar.extractfile(one).read() if one.isfile() else one.linkname or None
                for one in tar}


@pytest.fixture(scope="module")
def platforms(tmp_path_factory):
    """A platform for each way in which a command may be run, where the second of the packing is a short one."""
    with contextlib.ExitStack() as stack:
        platforms = {}
        for way in EVERYWHERE:
            shell, style = way.split()
            sim = platforms[way] = stack.enter_context(Simulator(
                tmp_path_factory.mktemp("sim"), speed=0, shell=SHELLS[shell], shell_style=style))
            a_program(sim.stand_ins / "sleep", SLEEP)
        yield platforms


@pytest.fixture
def run(platforms):
    """Run a command in some of the ways at once, by turns in one of bash and one of dash, unless they are named.

    It starts with an archive of the `given` files, and with `more`: name, content, whether the platform unpacks it.
    """

    def run(command, ways=None, *, given=GIVEN, more=(), path=None, before="", after="", stop=False, folder="", **also):
        turn, jobs = sum(command.encode()), {}
        inputs = [*([("rescale.tar.gz", tar_gz(given), True)] if given else []), *more]
        for way in ways or (EVERYWHERE[turn % 6], EVERYWHERE[6 + turn // 6 % 3]):
            sim, access, uploaded = platforms[way], (platforms[way].url, f"Token {platforms[way].token}"), []
            for name, content, decompress in inputs:
                Path(name).write_bytes(content)
                uploaded += rescale.upload_local_files(*access, Path(name), decompress=decompress)
            values = {"command": command, "license_info": {"PATH": path} if path else {}, "inputfiles_list": uploaded}
            job_id = rescale.job_setup(*access, **{**RIGHT_VALUES, **values, **also})
            job = jobs[way] = sim.jobs[job_id]
            tile = job.data["jobanalyses"][0]
            tile["command"] = before + tile["command"] + after
            requests.post(f"{sim.url}/api/v2/jobs/{job_id}/submit/", headers={"Authorization": access[1]}, timeout=10)
        if stop:
            wait_until(lambda: all((job.folder / "ready").exists() for job in jobs.values()), 30)
            for job in jobs.values():
                job._run.stopped.set()
        wait_until(lambda: all(job.ended for job in jobs.values()), 60)
        return {way: look(job, job.work / folder) for way, job in jobs.items()}

    yield run
    for sim in platforms.values():  # each change of one is written down with all of them
        sim.jobs.clear()
        sim.files.clear()


def look(job, folder):
    log = (job.folder / rescale.LOG).read_text("utf-8", "replace")
    said = re.sub(r"(?m)^\[.*?\]: ?", "", log.rpartition("Process output follows:\n")[2])
    names, packed = {path.name for path in folder.iterdir()}, None
    for archive in names & {rescale.ARCHIVE, rescale.FAILED_ARCHIVE}:
        with contextlib.suppress(EOFError, IsADirectoryError):  # as a command left it
            packed = files_in(folder / archive)
            packed.pop("job.log", None)
    return Left(int(re.findall(r"Exited with code (\d+)", said)[-1]), names, packed, said, job)


def the_same(left, *expected):  # status, names, packed
    assert {way: one[:3] for way, one in left.items()} == dict.fromkeys(left, expected)


# Commands that work, and what they leave beside rod.inp; those that may depend on the way run in each of them. None
# goes further than to the job's own folder: with a mistake in the job's command it would be emptied.

WORKS = {
    "ends in a backslash": ("echo 1 > a \\", ONE),
    "has quotes": ("""printf '%s' "it's" 'a "b" $HOME' > a\n""", {"a": b'it\'sa "b" $HOME'}),
    "has a here-document": ("cat > a <<'END'\n$HOME `x` ) (\n\\END\nEND\n", {"a": b"$HOME `x` ) (\n\\END\n"}),
    "has a line that ends ours": ("cat > a <<'RESCALE_COMMAND'\nx\nRESCALE_COMMAND\ncat >> a <<'RESCALE_COMMAND_'\n"
                                  "y\nRESCALE_COMMAND_\necho z >> a", {"a": b"x\ny\nz\n"}),
    "has Windows line ends": ("echo 1 > a\r\nif true\r\nthen echo 2 > b\r\nfi\r\n", {**ONE, "b": b"2\n"}),
    "is long": ("# a comment of an engineer\n" * 4000 + "echo 1 > a", ONE),
    "goes away": ("mkdir sub; cd sub; echo 1 > a; cd ../..", {"sub": None, "sub/a": b"1\n"}),
    "ends before its end": ("echo 1 > a; exit 0; echo 2 > b", ONE),
    "sets a trap": ("trap 'echo 2 > b' EXIT; echo 1 > a", {**ONE, "b": b"2\n"}),
    "sets options": ("set -eufC; echo 1 > a", ONE),
    "redirects its output": ("exec > a 2>&1 3>&-; echo 1", ONE),
    "spoils variables and functions": (
        "echo 1 > a; rescale_status=9 rescale_log=x rescale_name=x; export TAR_OPTIONS=--version GZIP=-9 IFS=a HOME=\n"
        "tar() { false; }; find() { false; }; rescale_writers() { echo x; }; PATH=/nowhere", ONE),
    "reads standard input": ("cat > a; read -r line || echo 1 > b", {"a": b"", "b": b"1\n"}),
    "waits for its solver": ("(sleep 0.1; echo 1 > a) & wait $!", ONE),
    "looks for the given archive": ("echo *.inp rescale*  > a", {"a": b"rod.inp rescale*\n"}),
    "leaves empty folders and dot files": ("mkdir -p sub/deep .dir; touch .dot ..two", {
        "sub": None, "sub/deep": None, ".dir": None, ".dot": b"", "..two": b""}),
    "leaves special files": (
        f"mkfifo f; {sys.executable} -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'; echo 1 > a", ONE),
    "leaves scratch": ("mkdir -p tmp/deep __pycache__; echo 1 | tee a tmp/deep/x __pycache__/x", ONE),
    "leaves files named as scratch": ("echo 1 | tee tmp > __pycache__", {"tmp": b"1\n", "__pycache__": b"1\n"}),
    "leaves such names deeper": ("mkdir -p d/tmp; cd d; echo 1 | tee tmp/a rescale.tar.gz > process_output.log", {
        "d": None, "d/tmp": None, "d/tmp/a": b"1\n", "d/rescale.tar.gz": b"1\n", "d/process_output.log": b"1\n"}),
    "leaves a link to nowhere named as its result": ("echo 1 > a; ln -s nowhere rescale.tar.gz", ONE),
    "leaves an old failure": ("echo 1 > rescale_failed.tar.gz; mkdir .rescale/x", {"rescale_failed.tar.gz": b"1\n"}),
    "leaves what reads, or writes into the log, outside, or into a deleted file": (
        "echo 1 > a; tail -f rod.inp & sleep 3 >> process_output.log & sleep 3 > ../late & sleep 3 > late &\n"
        "until [ -e late ]; do sleep 0.1; done; rm late", ONE),
}
SUBTLE = ("is long", "has quotes", "has a here-document", "has Windows line ends", "reads standard")


@pytest.mark.parametrize("case", WORKS)
def test_a_command_leaves_one_archive_with_all_it_wrote_though_it(case, run):
    command, packed = WORKS[case]
    the_same(run(command, EVERYWHERE if case.startswith(SUBTLE) else None), 0, SUCCESS, {**GIVEN, **packed})


FAILS = {
    "exits": ("exit 3", 3), "exits, as far as it goes": ("exit 255  # why", 255), "returns": ("return 4", 4),
    "ends in false": ("false", 1), "fails with set -e": ("set -e\nfalse\ntrue", 1), "execs": ("exec sh -c 'exit 5'", 5),
    "fails in a folder that is gone": ("mkdir sub; cd sub; rmdir ../sub; exit 3", 3),
    "has a trap": ("trap 'exit 6' EXIT; true", 6), "uses an unset variable": ("set -u\necho $UNSET\ntrue", None),
    "names no program": ("no-such-solver", 127), "runs a program that is killed": ("sh -c 'kill -9 $$'", 137),
    "sets our status": ("rescale_status=0; (exit 4)", 4), "made a folder": ("mkdir rescale.tar.gz; exit 3", 3),
    **{f"cannot be parsed: {text}": (text, None) for text in (
        "[[ a b ]]", "for ((", "fi", ")", "(", "{ true", "done", "echo 'a", 'echo "a', "echo $(true", "true && &&",
        "case x in", "true;;")},
}


@pytest.mark.parametrize("case", FAILS)
def test_a_command_fails_the_job_and_leaves_its_log_and_what_it_wrote_if_it(case, run):
    """And the platform's own shell, whose functions and variables it can use, goes on behind it with its status."""
    command, status = FAILS[case]
    left = run(
        f"echo hello; one > a\n{command}", EVERYWHERE if case in ("exits", "execs") or "'" in case else None,
        before="one() { echo $x; }; x=1; set -eu\n", after="left=$?; echo $left > ../after; (exit $left)\n")
    for one in left.values():
        assert one.status == status or (status is None and 0 < one.status < 128)
        assert (one.job.folder / "after").read_text() == f"{one.status}\n"
        assert one.names - {"rescale.tar.gz" if "folder" in case else ""} == FAILURE
        assert one.packed["a"] == b"1\n"
        assert one.said.startswith("hello\n")


# Proof 1: a job that was ended has no rescale.tar.gz


@pytest.mark.parametrize(("end", "by"), [
    ("kill -9 $$", "itself"), (": > ../ready; sleep 60", "the user"), ("sleep 60", "its walltime"),
    ("true", "the user, while packing")])
def test_no_archive_is_there_and_all_that_was_written_if_a_job_is_ended(end, by, run, platforms, tmp_path, monkeypatch):
    for sim in platforms.values():
        monkeypatch.setattr(sim, "walltime_hour", 3.0 if by == "its walltime" else 3600.0)
    path = programs(tmp_path / "bin", gzip=': > "$HOME/ready"; sleep 60') if "packing" in by else None
    ways = EVERYWHERE if by == "itself" else None
    nothing_lost(run(f"echo 1 > a; {end}", ways, path=path, stop="user" in by), status=None)


NAMES = [
    "with blanks", " leading", "trailing ", "결과 1", "-rf", "--checkpoint-action=exec=sh x", "new\nline", "tab\t",
    "it's", '"quoted"', "$HOME", "*", "back\\slash", "`id`", "!", "~", "a;b", "@a", "n" * 250, "...", "\x7f", "=", "%s",
]


@pytest.mark.parametrize("files", [
    {**{name: name.encode() for name in NAMES}, "-dir": None, **{f"-dir/{name}": b"deep" for name in NAMES}},
    {f"{number:0230}": b"" for number in range(600)}], ids=["of any name", "more than a command line can hold"])
def test_all_files_are_packed_and_removed(files, run):
    given = {name: content for name, content in files.items() if content is not None}
    the_same(run("true", TWO, given=given, before="ulimit -s 512\n"), 0, SUCCESS, files)


# What a command has said is in the log a moment later.
HELLO = "echo hell''o; until grep -q 'hell[o]' process_output.log; do sleep 0.1; done; "


@pytest.mark.parametrize(("end", "archive"), [("true", "rescale.tar.gz"), ("exit 3", "rescale_failed.tar.gz")])
@pytest.mark.parametrize("taken", [False, True], ids=["as usual", "where files of that name are there"])
def test_the_log_of_every_link_is_in_the_archive_under_the_jobs_name(taken, end, archive, run):
    earlier = {"me@before@1.log": b"earlier\n", **({"me@it's one@1.log": b"mine\n"} if taken else {})}
    for one in run(f"{HELLO}{end}", TWO, given=earlier, job_name="me@it's one@1").values():
        packed = files_in(one.job.work / archive)
        assert {**packed, **earlier} == packed
        (added,) = packed.keys() - earlier.keys()
        assert (added == "me@it's one@1.log") is not taken
        assert b"]: hello\n" in packed[added]


OUTSIDE = "mkdir ../out ../work2; echo 1 | tee ../file ../out/a > ../work2/a; mkdir d; echo 1 | tee a > d/a\n"
LINKS = {  # what is packed beside a and d/a, and what is named as left out
    "to a file": ("ln -s a b; ln -s b c; ln -s \"$PWD/d/a\" e; ln -s ../file f", dict.fromkeys("bcef", b"1\n"), []),
    "that are hard": ("ln a b; ln ../file c", {"b": b"1\n", "c": b"1\n"}, []),
    "to a folder": ("ln -s d e; ln -s e/a b", {"e": None, "e/a": b"1\n", "b": b"1\n"}, []),
    "to nowhere": ("ln -s nowhere b; ln -s ../nowhere 'd/c d'", {}, ["./b", "./d/c d"]),
    "to itself or each other": ("ln -s b b; ln -s c e; ln -s e c", {}, ["./b", "./c", "./e"]),
    "to the folders above": ("ln -s .. up; ln -s ../.. d/up; ln -s . b", {}, ["./up", "./d/up", "./b"]),
    "to a folder outside": ("ln -s ../out b; ln -s ../work2 c", {}, ["./b", "./c"]),
    "to the folder it is in": ("mkdir e; ln -s ../e e/f", {"e": None}, ["./e/f"]),
    "to each other's folder": ("mkdir e; ln -s ../e d/e; ln -s ../d e/d; echo 2 > e/b", {
        "e": None, "e/b": b"2\n", "e/d": None, "e/d/a": b"1\n", "d/e": None, "d/e/b": b"2\n"}, []),
    "to scratch": ("mkdir tmp; echo 1 > tmp/x; ln -s tmp/x b", {"b": b"1\n"}, []),
    "named as scratch": ("ln -s ../out tmp; ln -s d __pycache__", {}, []),
    "to special files": ("mkfifo f; ln -s f b; ln -s /dev/null c", {}, []),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_are_packed_as_what_they_point_to_and_nothing_outside_is_touched_by_links(case, run):
    command, packed, left_out = LINKS[case]
    left = run(OUTSIDE + command, TWO)
    the_same(left, 0, SUCCESS, {**GIVEN, **ONE, "d": None, "d/a": b"1\n", **packed})
    for one in left.values():
        assert all((one.job.folder / name).read_bytes() == b"1\n" for name in ("file", "out/a", "work2/a"))
        assert all(name in one.said for name in left_out)


# Where the packing cannot be done, or something still writes: nothing is deleted, nothing is called a result

def programs(folder, **instead):
    """A search path with nothing but what is needed, and scripts in the place of some, or None."""
    folder.mkdir()
    needed = "cat cksum cp date find grep gzip mkdir mv readlink rm rmdir sed sh tail tar touch xargs"
    for name in needed.split():
        (folder / name).symlink_to(shutil.which(name))
    for name, script in {"sleep": SLEEP, **instead}.items():
        (folder / name).unlink(missing_ok=True)
        if script:
            a_program(folder / name, script)
    return str(folder)


def nothing_lost(left, status=1, **also):
    for one in left.values():
        assert one.status == status or (status is None and one.status > 0)
        assert not one.names & {"rescale.tar.gz", "rescale_failed.tar.gz"}
        for name, content in {**GIVEN, **ONE, **also}.items():
            assert (one.job.work / name).read_bytes() == content


ENDS = pytest.mark.parametrize(("end", "status"), [("true", 1), ("exit 3", 3)], ids=["success", "failure"])


@ENDS
@pytest.mark.parametrize("program", ["find", "tar", "gzip", "mv"])
@pytest.mark.parametrize("wrong", ["is missing", "fails when all is written"])
def test_nothing_is_deleted_and_no_result_made_where_a_program(wrong, program, end, status, run, tmp_path):
    works = shutil.which(program) if program != "mv" else ":"
    script = f'{works} "$@"; echo no room >&2; exit 1' if wrong != "is missing" else None
    nothing_lost(run(f"echo 1 > a; {end}", TWO, path=programs(tmp_path / "bin", **{program: script})), status)


@ENDS
@pytest.mark.parametrize("trap", ["", "trap '' XFSZ; "], ids=["killing the program", "told to the program"])
def test_when_the_disk_is_full_nothing_is_deleted(trap, end, status, run):
    given = {**GIVEN, "big": os.urandom(500_000)}
    nothing_lost(run(f"echo 1 > a; {end}", TWO, given=given, before=f"{trap}ulimit -f 300\n"), status)


def test_where_even_the_command_finds_no_room_nothing_counts_as_done(run):
    left = run("# a comment\n" * 9000 + "echo 1 > a", EVERYWHERE, before="trap '' XFSZ; ulimit -f 8\n")
    assert all(one.status > 0 and not one.names & {"rescale.tar.gz", "a"} for one in left.values())


@pytest.mark.parametrize("script", [
    "echo 2 >> a", "mkdir sub; echo 2 > sub/new", "mv ../late late", "touch -d '-9 hours' a"])
def test_when_a_file_is_changed_while_it_is_packed_nothing_is_deleted_and_it_is_named(script, run, tmp_path):
    path = programs(tmp_path / "bin", gzip=f'[ "$1" = -t ] || {{ {script}; }}\nexec {shutil.which("gzip")} "$@"')
    left = run("echo 1 > a; echo 1 > ../late; touch -d '-9 hours' ../late", TWO, path=path)
    nothing_lost(left, a=b"1\n2\n" if ">>" in script else b"1\n")
    for one in left.values():
        assert f"./{script.split()[-1]}" in one.said
        assert (one.job.folder / "slept").read_text() == "1\n"  # for file systems whose clocks tick in seconds


@pytest.mark.parametrize(("solver", "status"), [
    ("sh -c 'sleep 3; echo x' > late &", 1), ("mkdir d; cd d; sleep 3 <> ../late &", 1), ("sleep 3 > late & exit 3", 3),
    ("nohup sh -c 'exec 3>> late; sleep 3' &\nuntil [ -e late ]; do sleep 0.1; done", 1)])
def test_a_file_that_is_still_open_for_writing_fails_the_job_and_is_named_and_nothing_is_deleted(solver, status, run):
    left = run(f"echo 1 > a\n{solver}", TWO)
    nothing_lost(left, status)
    assert all(re.search(r"\bwait\b.*/late", one.said) for one in left.values())


OWN = {
    "packs": "tar -czf rescale.tar.gz a; rm a",  # as Rescale Korea's older scripts end
    "moves": "tar -czf ../new.tgz a; mv ../new.tgz rescale.tar.gz",
    "writes over": "tar -czf new.tgz a; cat new.tgz > rescale.tar.gz; rm new.tgz",
    "cuts off": "tar -czf b a; head -c 50 b > rescale.tar.gz; rm b",
    "goes on": "sleep 3 >> a & tar -czf rescale.tar.gz a",
}


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("case", OWN)
def test_an_archive_is_left_to_the_command_and_its_status_if_it_is_whole_where_the_command_itself(case, status, run):
    more = [("rescale.tar.gz", tar_gz(GIVEN), case != "writes over"), ("rod.inp", b"", False)]
    for one in run(f"echo 1 > a\n{OWN[case]}\nexit {status}", TWO, given=None, more=more).values():
        assert one.status == (status or case in ("cuts off", "goes on"))
        assert one.packed == (None if case == "cuts off" else ONE)
        assert one.names - {"a"} == {"rod.inp", rescale.LOG, rescale.FAILED_ARCHIVE if one.status else rescale.ARCHIVE}


STILL_PACKED = {
    "uses": "tar -xzf rescale.tar.gz", "touches": "tar -xzf rescale.tar.gz; touch rescale.tar.gz",
    "copies": "tar -xzf rescale.tar.gz; cp rescale.tar.gz b; mv b rescale.tar.gz",
    "removes": "tar -xzf rescale.tar.gz; rm rescale.tar.gz", "does not use": "echo input > rod.inp",
    "zips it anew": "tar -xzf rescale.tar.gz; gunzip rescale.tar.gz; gzip -9 rescale.tar",
}


@pytest.mark.parametrize(("status", "names"), [(0, SUCCESS), (3, FAILURE)], ids=["success", "failure"])
@pytest.mark.parametrize("case", STILL_PACKED)
def test_a_packed_archive_is_no_result_of_a_command_that(case, status, names, run):
    left = run(f"{STILL_PACKED[case]}; exit {status}", TWO, given=None, more=[(*SUCCESS, tar_gz(GIVEN), False)])
    the_same(left, status, names, GIVEN)


FRAMES = [(f"frame {number}", os.urandom(1000)) for number in range(20)]


def volumes(count, name, files=tuple(FRAMES)):
    whole = tar_gz(dict(files))
    size = -(-len(whole) // count)
    return [(f"{name}.rescale-{number + 1:03}", whole[number * size:][:size], False) for number in range(count)]


@pytest.mark.parametrize("sets", [[2], [12], [2, 3]], ids=["two", "twelve", "of two archives"])
def test_volumes_are_joined_unpacked_and_removed_before_the_command_starts_and_volumes_of_others_are_not(sets, run):
    inputs = [one for number, count in enumerate(sets)
              for one in volumes(count, f"{number} $x mesh.tar.gz", FRAMES[number::len(sets)])]
    left = run("LC_ALL=C; echo * > a", TWO, given=None, more=[*inputs, ("b.001", b"", False)])
    names = " ".join(sorted([*dict(FRAMES), "b.001", "process_output.log"])).encode()
    the_same(left, 0, SUCCESS, {**dict(FRAMES), "b.001": b"", "a": names + b"\n"})


@pytest.mark.parametrize(("number", "state"), [(0, "missing"), (1, "missing"), (2, "missing"), (0, "bad"), (2, "cut")])
def test_where_a_volume_is_missing_or_damaged_the_command_is_not_started_and_the_job_fails(number, state, run):
    inputs = volumes(3, "mesh.tar.gz")
    name, whole, _ = inputs.pop(number)
    if state != "missing":
        inputs.append((name, whole[:200] + b"damaged" + whole[207:] if state == "bad" else whole[:-100], False))
    for one in run("echo 1 > ../started", TWO, given=None, more=inputs).values():
        assert (one.status > 0, one.names, (one.job.folder / "started").exists()) == (True, FAILURE, False)
        assert "mesh.tar.gz" in one.said


def test_mended_inputs_are_unpacked_over_what_the_job_before_left(run):
    mended = volumes(1, "me@rod@1", GIVEN.items())
    left = run("test ! -e rescale.tar.gz", TWO, given={"rod.inp": b"wrong\n", **ONE}, more=mended)
    the_same(left, 0, SUCCESS, {**GIVEN, **ONE})


@ENDS
def test_where_a_job_works_in_shared_the_same_is_left(end, status, run, platforms, monkeypatch):
    for sim in platforms.values():
        monkeypatch.setattr(sim, "shared_work", True)
    left = run(f"echo 1 > a; {end}", TWO, folder="shared")
    status -= end == "true"
    the_same(left, status, {rescale.FAILED_ARCHIVE if status else rescale.ARCHIVE}, {**GIVEN, **ONE})
    for one in left.values():
        assert {path.name for path in one.job.work.iterdir()} == {"shared", *([rescale.LOG] if status else [])}
        assert "job.log" in files_in(one.job.work / "shared" / one.names.pop())
