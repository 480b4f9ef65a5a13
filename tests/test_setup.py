"""4. job_setup: the job that reaches the platform, the values that never do, and what its command does to a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import RIGHT_VALUES, here, paths_asked
from rescale_simulator import Fault, Simulator


@pytest.fixture(scope="module")
def quiet_sim(tmp_path_factory):
    """One simulator for all tests that only look at what reaches it."""
    with Simulator(tmp_path_factory.mktemp("platform"), speed=0) as simulator:
        yield simulator


# The job that reaches the platform


def test_a_job_is_set_up_as_the_guide_calls_it(access, sim, capsys):
    Path("rescale.tar.gz").write_bytes(b"x")
    inputfiles_list = rescale.upload_local_files(*access)
    capsys.readouterr()
    job_id = rescale.job_setup(
        *access, "me@static@1", "abaqus job=static interactive\n", "abaqus", "2022-2241",
        {"LM_LICENSE_FILE": "27000@license-server"}, "starlite_max", 4, 1, 24, "xDdRk", inputfiles_list,
    )
    assert capsys.readouterr().out == f"Job_ID: {job_id}\n"
    body = sim.jobs[job_id].body
    (analysis,) = body["jobanalyses"]
    assert (body["name"], body["projectId"], body["isLowPriority"]) == ("me@static@1", "xDdRk", False)
    assert analysis["analysis"] == {"code": "abaqus", "version": "2022-2241"}
    assert analysis["envVars"] == {"LM_LICENSE_FILE": "27000@license-server"}
    assert analysis["hardware"] == {"coreType": "starlite_max", "coresPerSlot": 4, "slots": 1, "walltime": 24}
    assert analysis["inputFiles"] == inputfiles_list
    assert "abaqus job=static interactive\n" in analysis["command"]


def test_the_packing_does_not_fail_a_tiles_check_of_the_command(sim, set_up):
    job_id = set_up(code_name="ansys_fluent", version_code="25.1", command="./run.sh\n")  # no "fluent" in it
    assert sim.jobs[job_id].body["jobanalyses"][0]["flags"] == {"igCv": True}


def test_a_job_that_is_set_up_has_not_started(sim, set_up):
    job_id = set_up()
    assert sim.jobs[job_id].statuses == []
    assert not sim.starts


def test_licences_to_wait_for_are_counted(sim, set_up):
    (analysis,) = sim.jobs[set_up(license_features={"abaqus": 8, "qex": "2"})].body["jobanalyses"]
    assert analysis["userDefinedLicenseSettings"] == {
        "featureSets": [
            {"name": "USER_SPECIFIED", "features": [{"name": "abaqus", "count": 8}, {"name": "qex", "count": 2}]}
        ]
    }


@pytest.mark.parametrize("projectid", [None, ""])
def test_no_project_is_null(projectid, sim, set_up):
    assert sim.jobs[set_up(projectid=projectid)].body["projectId"] is None


def test_numbers_may_be_written_as_texts(sim, set_up):
    job_id = set_up(core_per_slot="4", slot=1.0, walltime=" 24 ", version_code=0)
    (analysis,) = sim.jobs[job_id].body["jobanalyses"]
    assert analysis["hardware"] == {"coreType": "emerald", "coresPerSlot": 4, "slots": 1, "walltime": 24}
    assert analysis["analysis"]["version"] == "0"


def test_licence_variables_reach_the_command(sim, run_job):
    job_id = run_job("test \"$LM_LICENSE_FILE\" = 27000@host\n", license_info={"LM_LICENSE_FILE": "27000@host"})
    assert sim.jobs[job_id].statuses[-1]["statusReason"] == "Completed successfully"


def test_an_input_file_is_unpacked_unless_it_is_said_otherwise(sim, set_up, access):
    Path("a").write_text("x")
    (entry,) = rescale.upload_local_files(*access, "a")
    for given, sent in (({}, True), ({"decompress": False}, False)):
        job_id = set_up(inputfiles_list=[{"id": entry["id"], **given}])
        assert sim.jobs[job_id].body["jobanalyses"][0]["inputFiles"] == [{"id": entry["id"], "decompress": sent}]


@pytest.mark.parametrize("job_name", ["me@rod@20261122-101112", "압력 해석 (1)", ".hidden", "-rf", "a.b", "x" * 200])
def test_a_job_name_that_can_name_files_is_kept_as_it_is(job_name, sim, set_up):
    assert sim.jobs[set_up(job_name=job_name)].body["name"] == job_name


# What the platform refuses is told in its words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"code_name": "abacus"}, ["analysis.code", "abacus"]),
        ({"code_name": "abaqus", "version_code": "6.14"}, ["analysis.version", "6.14"]),
        ({"coretype_code": "emerlad"}, ["hardware.coreType", "emerlad"]),
        ({"core_per_slot": 3}, ["hardware.coresPerSlot", "1, 2, 4, 8, 16, 18, 36"]),
        ({"walltime": 49}, ["hardware.walltime", "48"]),
        ({"projectid": "nOnE"}, ["projectId", "nOnE"]),
        ({"inputfiles_list": [{"id": "nOnE"}]}, ["inputFiles.0.id", "no such file"]),
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_the_platform_refuses_is_told_in_its_words(values, words, access, sim, capsys):
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_setup(*access, **{**RIGHT_VALUES, **values})
    assert "400" in str(refused.value)
    assert all(word in str(refused.value) for word in words)
    assert not sim.jobs
    assert len(sim.requests) == 1
    assert "Job_ID" not in capsys.readouterr().out


def test_a_missing_project_is_told_in_the_platforms_words(access, sim):
    sim.project_required = True
    with pytest.raises(rescale.RescaleError, match="projectId: This field is required"):
        rescale.job_setup(*access, **RIGHT_VALUES)


@pytest.mark.parametrize("fault", ["503", "reset_before", "html", "throttled"])
def test_a_set_up_that_goes_wrong_on_the_way_is_repeated(fault, sim, access, capsys):
    sim.faults.append(Fault(fault, times=2))
    job_id = rescale.job_setup(*access, **RIGHT_VALUES)
    assert list(sim.jobs) == [job_id]
    assert capsys.readouterr().out.count("Job_ID: ") == 1


# What cannot be right is refused before the platform is asked


BAD_VALUES = {
    "job_name": ["", "  ", ".", "..", "a/b", "../b", "a\nb", "a\0b", "a\x7fb", "x" * 201, "긴" * 70, None, 5],
    "command": ["", " \n", None, ["abaqus"]],
    "code_name": ["", None, 5],
    "coretype_code": ["", None],
    "core_per_slot": [0, -4, "four", 1.5, None, True, ""],
    "slot": [0, "one", None],
    "walltime": [0, -1, "1h", 0.5, 1.5, None, True, float("nan"), float("inf"), "", [1]],
    "license_info": ["27000@host", ["LM_LICENSE_FILE"], [("A", "b")], {5: "27000@host"}, {"": "27000@host"}, 5, None],
    "inputfiles_list": [
        None, "dxGonb", {"id": "dxGonb"}, ["dxGonb"], [{"decompress": True}], [{"id": 5}], [{"id": ""}], [None],
        [{"id": "dxGonb"}, "dxGonb"],
    ],
    "license_features": ["abaqus", ["abaqus"], {"abaqus": 0}, {"abaqus": "many"}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values])
def test_a_value_that_cannot_be_right_is_named_and_nothing_is_sent(name, value, quiet_sim):
    before = len(quiet_sim.requests)
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.job_setup(quiet_sim.url, f"Token {quiet_sim.token}", **{**RIGHT_VALUES, name: value})
    assert name in str(refused.value)
    assert repr(next(iter(value.values())) if name == "license_features" and isinstance(value, dict) else value) \
        .replace("\\", "") in str(refused.value).replace("\\", "")
    assert len(quiet_sim.requests) == before
    assert here() == []


@pytest.mark.parametrize(
    "job_name", ["a:b", "a*b", "a?b", 'a"b', "a<b", "a|b", "a\\b", "ends.", "ends ", "con", "NUL.txt", "lpt1"]
)
def test_on_windows_more_names_cannot_name_files(job_name, quiet_sim, monkeypatch):
    access = quiet_sim.url, f"Token {quiet_sim.token}"
    monkeypatch.setattr(rescale, "WINDOWS", True)
    rescale.job_setup(*access, **{**RIGHT_VALUES, "job_name": "me@console.rod@1"})
    before = len(quiet_sim.jobs)
    with pytest.raises(rescale.RescaleError, match="job_name"):
        rescale.job_setup(*access, **{**RIGHT_VALUES, "job_name": job_name})
    assert len(quiet_sim.jobs) == before


# What the job's command does to a folder, in a real shell


class Folder:
    """A job's work folder, and the command as the platform got it, run there as the platform would."""

    def __init__(self, path, simulator, shell):
        self.path, self.simulator, self.shell = path, simulator, shell
        path.mkdir()

    def run(self, command, after="", shell_options=(), **options):
        """Run the command of a job, and `after` in the platform's own shell; return the exit status."""
        job_id = rescale.job_setup(
            self.simulator.url, f"Token {self.simulator.token}", **{**RIGHT_VALUES, "command": command}
        )
        script = self.path.parent / "command.sh"
        script.write_text(self.simulator.jobs[job_id].body["jobanalyses"][0]["command"] + after, encoding="utf-8")
        with (self.path / "process_output.log").open("ab") as log:
            arguments = [shutil.which(self.shell), *shell_options, str(script)]
            return subprocess.run(
                arguments, cwd=self.path, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60, **options
            ).returncode

    def names(self):
        return {path.name for path in self.path.iterdir()}

    def log(self):
        return (self.path / "process_output.log").read_text(encoding="utf-8")

    def packed(self):
        """What the archive holds: path and content, None for a folder."""
        with tarfile.open(self.path / "rescale.tar.gz", "r:gz") as tar:
            return {
                member.name.removeprefix("./"): tar.extractfile(member).read() if member.isfile() else None
                for member in tar
            }


@pytest.fixture(params=["sh", "bash"])
def folder(request, tmp_path, quiet_sim):
    if not shutil.which(request.param):
        pytest.skip(f"there is no {request.param}")
    return Folder(tmp_path / "work", quiet_sim, request.param)


LEFT_AFTER_SUCCESS = {"rescale.tar.gz"}
LEFT_AFTER_FAILURE = {"rescale.tar.gz", "process_output.log"}


@pytest.mark.parametrize(
    ("command", "packed"),
    [
        pytest.param("echo 1 > a\n", {"a": b"1\n"}, id="simple"),
        pytest.param("echo 1 > a", {"a": b"1\n"}, id="no final newline"),
        pytest.param("echo 1 > a  # one", {"a": b"1\n"}, id="trailing comment"),
        pytest.param("echo 1 > a;", {"a": b"1\n"}, id="trailing semicolon"),
        pytest.param("echo 1 > a \\", {"a": b"1\n"}, id="trailing backslash"),
        pytest.param("\n\n  echo 1 > a\n\n", {"a": b"1\n"}, id="empty lines"),
        pytest.param("# nothing but a comment", {}, id="only a comment"),
        pytest.param("""printf '%s' "it's" 'a "b" $HOME' > a\n""", {"a": b'it\'sa "b" $HOME'}, id="quotes"),
        pytest.param("cat > a <<'END'\n$HOME `x` ) (\nEND\n", {"a": b"$HOME `x` ) (\n"}, id="heredoc"),
        pytest.param("cat > a <<END\none $((1 + 1))\nEND", {"a": b"one 2\n"}, id="heredoc without final newline"),
        pytest.param("mkdir sub; cd sub; echo 1 > a\n", {"sub": None, "sub/a": b"1\n"}, id="cd"),
        pytest.param("mkdir -p sub/deep\n", {"sub": None, "sub/deep": None}, id="empty folders left"),
        pytest.param("touch .hidden ..two; mkdir .dir\n", {".hidden": b"", "..two": b"", ".dir": None}, id="hidden"),
        pytest.param("set -e; echo 1 > a\n", {"a": b"1\n"}, id="set -e"),
        pytest.param("set -euf; echo 1 > a\n", {"a": b"1\n"}, id="set -euf"),
        pytest.param("echo 1 > a; exit 0\n", {"a": b"1\n"}, id="exit 0"),
        pytest.param("echo 1 > a; exec true\n", {"a": b"1\n"}, id="exec"),
        pytest.param("echo 1 > a; cd /; PATH=/nowhere; IFS=a; HOME=\n", {"a": b"1\n"}, id="variables changed"),
        pytest.param("export TAR_OPTIONS=--version GZIP=-9; echo 1 > a\n", {"a": b"1\n"}, id="variables of tar"),
        pytest.param("tar() { false; }; find() { false; }; echo 1 > a\n", {"a": b"1\n"}, id="functions of that name"),
        pytest.param("umask 777; mkdir sub\n", {"sub": None}, id="umask"),
        pytest.param("false\ntrue\n", {}, id="only the last status counts"),
        pytest.param("false || echo 1 > a\n", {"a": b"1\n"}, id="a failure that was expected"),
        pytest.param("(echo 1; exit 3) > a; true\n", {"a": b"1\n"}, id="subshell"),
        pytest.param("case x in x) echo 1 > a;; esac\n", {"a": b"1\n"}, id="unbalanced parenthesis"),
    ],
)
def test_a_command_that_works_leaves_one_archive_with_all_it_wrote(command, packed, folder):
    assert folder.run(command) == 0
    assert folder.packed() == packed
    assert folder.names() == LEFT_AFTER_SUCCESS


@pytest.mark.parametrize(
    ("command", "status"),
    [
        pytest.param("echo 1 > a; exit 3\n", 3, id="exit 3"),
        pytest.param("echo 1 > a; exit 255", 255, id="exit 255"),
        pytest.param("echo 1 > a; false", 1, id="last command"),
        pytest.param("echo 1 > a; mkdir -p sub; cd sub; rmdir ../sub; exit 3", 3, id="in a folder that is gone"),
        pytest.param("set -e\necho 1 > a\nfalse\necho 2 > a\n", 1, id="set -e"),
        pytest.param("set -u\necho 1 > a\necho $UNSET\necho 2 > a\n", {1, 2, 127}, id="set -u"),
        pytest.param("echo 1 > a; no-such-solver\n", 127, id="not installed"),
        pytest.param("echo 1 > a; sh -c 'kill -9 $$'\n", 137, id="killed"),
        pytest.param("echo 1 > a; exit 3  # why", 3, id="trailing comment"),
    ],
)
def test_a_command_that_fails_fails_the_job_and_leaves_the_log_and_partial_results(command, status, folder):
    assert folder.run(f"echo hello\n{command}") in (status if isinstance(status, set) else {status})
    assert folder.packed() == {"a": b"1\n"}
    assert folder.names() == LEFT_AFTER_FAILURE
    assert folder.log().startswith("hello\n")


@pytest.mark.parametrize("command", ["exit 3", "set -e; false", "set -u; echo $UNSET", "exec false", "cd /; true"])
def test_the_platforms_own_shell_goes_on_afterwards(command, folder):
    folder.run(command, after=f"echo $? > '{folder.path.parent}/after'; echo \"$-\" $UNSET > where\n")
    status = (folder.path.parent / "after").read_text().strip()
    assert (status == "0") is command.endswith("true")
    assert not set("eu") & set((folder.path / "where").read_text())


def test_in_a_shell_that_ends_with_the_first_failure_the_packing_is_done_all_the_same(folder):
    assert folder.run("echo 1 > a; exit 3\n", shell_options=["-e"]) == 3
    assert folder.packed() == {"a": b"1\n"}


NAMES = [
    "with blanks", " leading", "trailing ", "결과 1", "-rf", "--checkpoint-action=exec=sh x", "new\nline", "tab\t",
    "it's", '"quoted"', "$HOME", "*", "back\\slash", "`id`", "!", "~", "a;b", "@a", "n" * 250, "...", "\x7f", "=", "%s",
]


def test_files_of_any_name_are_packed_and_removed(folder):
    (folder.path / "-dir").mkdir()
    for name in NAMES:
        (folder.path / name).write_text(name)
        (folder.path / "-dir" / name).write_text(f"deep {name}")
    assert folder.run("true\n") == 0
    flat = {name: name.encode() for name in NAMES}
    deep = {f"-dir/{name}": f"deep {name}".encode() for name in NAMES}
    assert folder.packed() == {"-dir": None, **flat, **deep}
    assert folder.names() == LEFT_AFTER_SUCCESS


def test_thousands_of_files_are_packed(folder):
    for number in range(3000):
        (folder.path / f"a rather long name of a result file {number:060}").touch()  # more than fits a command line
    assert folder.run("true\n") == 0
    assert len(folder.packed()) == 3000
    assert folder.names() == LEFT_AFTER_SUCCESS


def test_scratch_scripts_log_and_the_input_archive_are_not_packed(folder):
    for name in ("main.py", "rescale_rest_api.py", "rod.inp"):
        (folder.path / name).write_bytes(b"x")
    for name in ("tmp", "__pycache__", "sub", "sub/tmp"):
        (folder.path / name).mkdir()
        (folder.path / name / "file").write_bytes(b"x")
    for name in ("main.py", "rescale.tar.gz", "process_output.log"):  # deeper they are files like any other
        (folder.path / "sub" / name).write_bytes(b"deep")
    with tarfile.open(folder.path / "rescale.tar.gz", "w:gz") as tar:
        tar.add(__file__, "input of before")
    assert folder.run("echo hello\n") == 0
    assert folder.packed() == {
        "rod.inp": b"x", "sub": None, "sub/file": b"x", "sub/tmp": None, "sub/tmp/file": b"x",
        "sub/main.py": b"deep", "sub/rescale.tar.gz": b"deep", "sub/process_output.log": b"deep",
    }
    assert folder.names() == LEFT_AFTER_SUCCESS


@pytest.mark.parametrize(
    "command",
    [
        "echo 1 > a; rm -f rescale.tar.gz; tar -czf rescale.tar.gz a; rm a\n",  # as Rescale Korea's older scripts end
        "echo 1 > a; tar -czf ../new.tgz a; rm -f *; mv ../new.tgz rescale.tar.gz\n",
        "echo 1 > a; tar -czf new.tgz a; cat new.tgz > rescale.tar.gz; rm new.tgz\n",
    ],
)
def test_a_command_that_packs_its_own_archive_is_left_to_it(command, folder):
    for name in ("rescale.tar.gz", "kept"):
        (folder.path / name).write_bytes(b"input")
    assert folder.run(command) == 0
    assert folder.packed() == {"a": b"1\n"}


def test_an_archive_that_the_command_wrote_over_its_input_is_left_to_it_whatever_its_size(folder):
    """Packed in place, it keeps the inode; and by chance it may have the size, too."""
    for content in (b"1\n", b"2\n"):
        with tarfile.open(folder.path / f"{content[:1].decode()}.tgz", "w:gz", compresslevel=0) as tar:
            (folder.path / "a").write_bytes(content)
            tar.add(folder.path / "a", "a")
    (folder.path / "1.tgz").rename(folder.path / "rescale.tar.gz")
    assert (folder.path / "2.tgz").stat().st_size == (folder.path / "rescale.tar.gz").stat().st_size
    assert folder.run("cat 2.tgz > rescale.tar.gz; rm a 2.tgz\n") == 0
    assert folder.packed() == {"a": b"2\n"}


def test_a_tar_whose_compressing_program_may_have_no_options_will_do(folder, tmp_path):
    """GNU tar took none before 1.27, which old clusters have."""
    old = tmp_path / "old" / "tar"
    old.parent.mkdir()
    refusal = r'case "$*" in *=gzip\ *|*=pigz\ *) exit 2 ;; esac'
    old.write_text(f'#!/bin/sh\n{refusal}\nexec {shutil.which("tar")} "$@"\n')
    old.chmod(0o755)
    assert folder.run("echo 1 > a\n", env={**os.environ, "PATH": f"{old.parent}:{os.environ['PATH']}"}) == 0
    assert folder.packed() == {"a": b"1\n"}


@pytest.mark.parametrize("program", ["find", "tar", "gzip"])
def test_a_program_that_fails_at_the_end_of_the_packing_makes_no_result(program, folder, tmp_path):
    """What it wrote until then may look whole."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("find", "tar", "gzip", "rm", "mv", "sh", "printf"):
        real = shutil.which(name)
        (broken / name).write_text(f'#!/bin/sh\n{real} "$@"{" && exit 1" if name == program else ""}\n')
        (broken / name).chmod(0o755)
    (folder.path / "a").write_bytes(b"1")
    assert folder.run("true\n", env={**os.environ, "PATH": str(broken)}) == 1
    assert folder.names() == {"a", "process_output.log"}


@pytest.mark.parametrize("command", ["rm rescale.tar.gz", "cp -p rescale.tar.gz b.tar.gz", "touch rescale.tar.gz"])
def test_a_command_that_only_handles_its_input_archive_is_packed(command, folder):
    with tarfile.open(folder.path / "rescale.tar.gz", "w:gz") as tar:
        tar.add(__file__, "input")
    assert folder.run(f"echo 1 > a; {command}; rm -f b.tar.gz\n") == 0
    assert folder.packed() == {"a": b"1\n"}
    assert folder.names() == LEFT_AFTER_SUCCESS


def test_a_command_without_output_in_an_empty_folder_leaves_an_empty_archive(folder):
    assert folder.run("true") == 0
    assert folder.packed() == {}
    assert folder.names() == LEFT_AFTER_SUCCESS


# When it cannot be packed


def only(*programs):
    """A search path with nothing but these programs."""
    path = Path(tempfile.mkdtemp(dir=Path.cwd()))
    for program in programs:
        (path / program).symlink_to(shutil.which(program))
    return {**os.environ, "PATH": str(path)}


@pytest.mark.parametrize("compressor", ["gzip", "pigz"])
def test_it_packs_with_what_there_is(compressor, folder):
    if not shutil.which(compressor):
        pytest.skip(f"there is no {compressor}")
    (folder.path / "a").write_bytes(b"1" * 100_000)
    programs = "find", "tar", "rm", "mv", "sh", "true", compressor
    assert folder.run("true\n", env=only(*programs)) == 0
    assert folder.packed() == {"a": b"1" * 100_000}
    assert folder.names() == LEFT_AFTER_SUCCESS


@pytest.mark.parametrize(("command", "status"), [("true", 1), ("exit 3", 3)])
@pytest.mark.parametrize("missing", ["tar", "gzip", "mv", "find"])
def test_without_a_program_for_the_packing_nothing_is_deleted(missing, command, status, folder):
    (folder.path / "result").write_bytes(b"x")
    (folder.path / "rescale.tar.gz").write_bytes(b"input")
    programs = {"find", "tar", "rm", "mv", "sh", "gzip"} - {missing}
    assert folder.run(f"{command}\n", env=only(*programs)) == status
    assert folder.names() == {"result", "rescale.tar.gz", "process_output.log"}
    assert (folder.path / "result").read_bytes() == b"x"
    assert (folder.path / "rescale.tar.gz").read_bytes() == b"input"
    assert "rescale.tar.gz" in folder.log()


@pytest.mark.parametrize("ignored", [True, False], ids=["told to the program", "killing the program"])
@pytest.mark.parametrize(("command", "status"), [("echo done", 1), ("exit 3", 3)])
def test_when_the_disk_is_full_nothing_is_deleted(command, status, ignored, folder):
    resource = pytest.importorskip("resource")
    results = {f"frame {number}": os.urandom(100_000) for number in range(5)}
    for name, content in results.items():
        (folder.path / name).write_bytes(content)
    (folder.path / "rescale.tar.gz").write_bytes(b"input")
    limit = (150_000, 150_000)
    assert folder.run(
        f"{command}\n", restore_signals=not ignored, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    ) == status
    assert folder.names() == {*results, "rescale.tar.gz", "process_output.log"}
    assert {name: (folder.path / name).read_bytes() for name in results} == results
    assert (folder.path / "rescale.tar.gz").read_bytes() == b"input"
    assert "could not be packed" in folder.log()


def test_what_a_packing_that_was_killed_left_does_not_disturb_the_next(folder):
    (folder.path / ".rescale.tar.gz.part").write_bytes(b"half")
    assert folder.run("echo 1 > a\n") == 0
    assert folder.packed() == {"a": b"1\n"}
    assert folder.names() == LEFT_AFTER_SUCCESS


# The same on the platform


@pytest.mark.parametrize(
    ("command", "left"),
    [("echo 1 > a\n", ["rescale.tar.gz"]), ("echo 1 > a; exit 3\n", ["process_output.log", "rescale.tar.gz"])],
)
def test_the_platform_is_left_with_these_files(command, left, sim, run_job):
    job_id = run_job(command, {"rod.inp": b"x"})
    assert sorted(sim.files[file_id].relative_path for file_id in sim.jobs[job_id].files) == left
    failed = any(entry["statusReason"] == "A run failed" for entry in sim.jobs[job_id].statuses)
    assert failed is (len(left) == 2)


def test_a_result_unpacked_in_the_next_job_is_what_the_first_one_left(access, sim, run_job):
    first = run_job("mkdir sub; printf '%s' 1 > 'sub/결과 1'; rm old\n", {"old": b"x"})
    second = run_job("ls -A; cat sub/*; test ! -e old\n", inputfiles_list=rescale.file_previous_job(*access, first))
    assert sim.jobs[second].statuses[-1]["statusReason"] == "Completed successfully"
    assert "submit" in paths_asked(sim, "POST")[-1]
