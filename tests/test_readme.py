"""The README: what it shows is run, or compared with what the code says.

every English command that needs neither account nor people works as it is typed, in order, from an empty home
it prints the lines that are shown, fails, is repeated, and gives the results that the text names
the recipes for solvers are those that were tried; the test command installs all that tests need
both halves have the same sections, commands, words in code, and as many promises; it is short
every sentence of section 9 has its tests; numbers, settings, options and files are those of the code
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rescale_rest_api as rescale
import test_example_abaqus
from conftest import TESTS, a_program
from two_jobs import run

ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
ENGLISH, KOREAN = (  # the sections of each half by their numbers
    dict(re.findall(r"(?ms)^## (\d+)\. (.*?)(?=^## |\Z)", half)) for half in re.split(r"(?m)^# .*$", README)[2:4])


def marked(marker: str) -> str:
    """The one block right behind an HTML comment."""
    (block,) = re.findall(rf"(?ms)^<!-- {marker} -->\n```\w+\n(.*?)^```$", README)
    return block


# The commands of the English half, typed

VENV = """[ "$1 $2" = "-m venv" ] || exec "{python}" "$@"
mkdir -p "$3/bin"
printf '#!/bin/sh\\n[ "$1 $2" = "-m pip" ] || exec "{python}" "$@"\\n' > "$3/bin/python"
chmod +x "$3/bin/python"
echo "PATH=$PWD/$3/bin:\\$PATH" > "$3/bin/activate"
"""
PROGRAMS = {  # in the place of what needs people or a network; pip installs nothing, for the test command does
    "python3": VENV.format(python=sys.executable), "python": "echo the environment is not activated; exit 1",
    "screen": "exit 0", "mail": 'echo "$@" > ~/mail.txt; cat >> ~/mail.txt',
}


class Terminal:
    """A home with a fresh clone in it, and a shell that remembers where it is."""

    def __init__(self) -> None:
        self.folder, self.printed = Path.home(), ""
        programs, clone = self.folder / "programs", self.folder / "rescale"
        shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__", "*@*", "result*", "*.gz"))
        library = clone / "rescale_rest_api.py"  # its steps of some seconds made short
        text = re.sub(r"(?m)^(\w+_INTERVAL = )\d{1,2}\b", r"\g<1>0.05", library.read_text(encoding="utf-8"))
        library.write_text(text, encoding="utf-8")
        for name, script in PROGRAMS.items():
            a_program(programs / name, script)
        self.path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def type(self, block: str, status: int = 0, **variables: str) -> str:
        """Type a block, FOLDER as `Done` has named it; return what is printed."""
        for folder in re.findall(r"Done: .* in (\S+)/", self.printed)[-1:]:
            block = block.replace("FOLDER", folder)
        block = block.replace("rescale_simulator.py", "rescale_simulator.py --speed 0")
        strict = "" if status or "--fail" in block else "set -e\n"
        done = subprocess.run(
            ["sh", "-c", f'{strict}{block}\nstatus=$?; printf "%s\\n" "$PWD" "$PATH" > ~/state; exit $status'],
            cwd=self.folder, env={**os.environ, "PATH": self.path, **variables}, timeout=120, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == status, f"{block}\n{done.stdout}"
        folder, self.path = Path("~/state").expanduser().read_text(encoding="utf-8").splitlines()
        self.folder, self.printed = Path(folder), self.printed + done.stdout
        return done.stdout

    def edit(self, block: str) -> None:
        """Put assignments in the place of those in main.py; a whole script becomes study.py."""
        if block.startswith("import"):
            (self.folder / "study.py").write_text(block, encoding="utf-8")
            return
        text = (self.folder / "main.py").read_text(encoding="utf-8")
        for one in ast.parse(block).body:
            new, old = ast.get_source_segment(block, one), rf"(?ms)^{one.targets[0].id} = (?:\[$.*?^\]|[^\n]*)$"
            text, count = re.subn(old, lambda _, new=new: new, text)
            assert count == 1, new
        (self.folder / "main.py").write_text(text, encoding="utf-8")


# The session with a § for what differs from run to run, and other lines between those that are shown
SESSION = re.sub(r"nCbDyX|HPqVyn|kim(?=@)|2026-11-25 02:23:49|20261125-022343|0\.024", "§", marked("session").strip())
SEEN = {  # what is typed in a section: its exit status, and a pattern of what it prints
    ("2", "venv"): (0, re.escape(SESSION).replace("§", r"[\w.: -]+").replace("\\\n", r"\n(?:.*\n)?")),
    ("4", "cat result/deflection.txt"): (0, r"\A7\.0\n\Z"),
    ("4", "echo 2,500"): (1, r"could not convert string to float: '2,500\\n'.* --folder run1 main\.py --repeat"),
    ("4", "--repeat"): (0, r"jobs that will cost money: 1 \(step2\).* load2\.txt"),
    ("4", "cat result/restart.dat"): (0, r"displacements.* 41 "),
    ("5", "settings"): (0, r"coretype_code = 'emerald'"),
    ("6", "--check"): (0, r"at most: .*nothing was started"),
    ("6", "--status"): (0, r"step2@\S+ +\w+ +succeeded"),
    ("7", "--fail"): (0, r"FAILED \(exit code 1\).*jobs that will cost money: 1 \(step2\).*Done"),
    ("11", "study.py"): (0, r"(Total 1 files, [\d.]+ MB.*){2}"),
}


@pytest.mark.timeout(300)
def test_what_needs_neither_account_nor_people_works_as_it_is_typed(sim, set_up):
    """In sections 5 and 6, which need an account, a simulator is the platform."""
    terminal, expected = Terminal(), dict(SEEN)
    blocks = [(section, *found) for section, text in ENGLISH.items() for found in BLOCK.findall(text)]
    for number, kind, block in blocks:
        if not shutil.which("ccx") and ("abaqus" in block or "restart" in block):
            expected.pop(("4", "cat result/restart.dat"), None)
        elif kind == "ini":
            Path("~/.config/rescale/apiconfig").expanduser().write_text(block, encoding="utf-8")
        elif kind == "python":
            terminal.edit(block)
        elif kind == "sh" and number not in ("8", "12", "13"):
            account = {"RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token} if number in "56" else {}
            key = next((one for one in expected if one[0] == number and one[1] in block), None)
            status, pattern = expected.pop(key, (0, ""))
            printed = terminal.type(block.replace("JOB_ID", set_up() if "JOB_ID" in block else ""), status, **account)
            assert re.search(pattern, printed, re.DOTALL), f"{pattern}\n{printed}"
    assert expected == {}
    assert (Path.home() / "rescale/result/temperature.svg").stat().st_size
    assert (Path.home() / ".config/rescale/apiconfig").stat().st_mode & 0o777 == 0o600
    mail = r"-s \S+@step1@\d{8}-\d{6} succeeded kim@example.com\n.*\n.*step1.*\n.*step2.* succeeded "
    assert re.match(mail, (Path.home() / "mail.txt").read_text(encoding="utf-8"))


def test_the_test_command_which_ci_runs_installs_all_that_is_required():
    install = re.findall(r"-r (\S+)", marked("test command"))
    assert {ROOT / name for name in install} == {*ROOT.glob("requirements*.txt"), *TESTS.glob("requirements*.txt")}
    assert set(re.findall(r"-r (\S+)", marked("rehearsal command"))) < set(install)


def test_recipes_are_those_that_were_tried_and_of_two_solvers_in_the_background_both_must_succeed():
    recipes = re.findall(r"(?m)^(.*?) *(?:# .*)?$", dict(BLOCK.findall(ENGLISH["8"]))["sh"].strip())
    (two,) = (line for line in recipes if "two" in line)
    tried = test_example_abaqus.test_a_recipe_succeeds_only_where_the_solver_did.pytestmark[0].args[1]
    right = {re.sub(r"[;\s]+", " ", command) for command, _, successful in tried if len(successful) == 1}
    assert {re.sub(r"[;\s]+", " ", line) for line in recipes if line != two} <= right
    for one, other in ("00", "01", "10"):
        solver = f"solver() {{ [ $1 = 1 ] && return {one}; return {other}; }}\n"
        assert subprocess.run(["sh", "-c", solver + two], timeout=60).returncode == int(one) | int(other)


def test_both_halves_say_the_same_point_neither_up_nor_down_and_are_short():
    assert list(ENGLISH) == list(KOREAN) == [str(number) for number in range(1, 14)]
    for number, halves in ((number, (ENGLISH[number], KOREAN[number])) for number in ENGLISH):
        blocks = [[code for kind, code in BLOCK.findall(text) if kind != "mermaid"] for text in halves]
        one, other = ([re.sub(r" *# .*", "", code) for code in half] for half in blocks)
        assert one == other, number
        one, other = (set(re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))) for text in halves)
        assert one == other, number
        assert re.findall(r"(?i)\]\(|\b(?:above|below|section \d+)\b|위에서|앞서|\d+장", "".join(halves)) == []
    assert re.findall(r"\]\((.*?)\)", README) == ["#english", "#한국어"]
    assert len(README.encode()) <= 36_000


PROMISES = {  # a sentence of section 9: the tests that keep it
    "A job's id is on your disk before the job is submitted.": "submit kill",
    "When the answer is lost, the script looks for 60 seconds whether the job has started before it submits it again.":
        "submit faults",
    "This also holds when the script is killed at any moment, or started twice.": "kill submit main",
    "Beside an unfinished chain no other one starts, unless you say `--new`.": "main",
    "A job leaves `rescale.tar.gz` only if its command ended with status 0 and the archive is complete.": "job_command",
    "Without it the job has failed, whatever the platform says.": "monitor previous",
    "After a failed job nothing more is submitted.": "main",
    "The script waits through any outage until the job has ended.": "monitor faults",
    "The job deletes nothing before its archive is complete.": "job_command",
    "Uploads and downloads are compared with the platform's checksums.": "upload download",
    "A transfer that broke goes on where it broke.": "upload download",
    "A file gets its name only when it is whole, and never replaces another one.": "download local_files",
    "It is sent to the platform only, encrypted.": "token hostile",
    "No output, log or error shows more than its last 4 characters.": "token hostile",
    "A file that holds it is not packed.": "archive",
}


def test_every_promise_has_its_tests_and_both_halves_make_as_many():
    told = []
    for paragraph, other in zip(*(half["9"].strip().split("\n\n")[1:] for half in (ENGLISH, KOREAN))):
        _, promised, limits = re.split(r"\*\* | \*Limits?:\* ", " ".join(paragraph.split()))
        sentences, more = (re.split(r"(?<=\.) ", part) for part in (promised, limits))
        assert len(re.findall(r"[다오]\.(?=\s|$)", other)) == len(sentences + more), promised
        told += sentences
    assert told == list(PROMISES)
    assert [name for name in " ".join(PROMISES.values()).split() if not (TESTS / f"test_{name}.py").exists()] == []


def test_the_numbers_are_those_of_the_code():
    lines = round(rescale._job_command("job", "true", [True, False]).count("\n"), -1)
    for value, english, korean in (
        (rescale.SUBMIT_PATIENCE, "{} seconds", "{}초"), (rescale.AT_END_TIMEOUT // 60, "{} minutes", "최대 {}분"),
        (rescale.VOLUME_FROM >> 20, "More than {} MB", "{} MB가 넘는"), (lines, "some {} lines", "약 {}줄"),
        (rescale.CONNECTIONS, "{} connections", "{}개의 연결"),
    ):
        text = " ".join(README.split())
        assert (english.format(value) in text, korean.format(value) in text) == (True, True), (value, english)


def test_settings_options_and_files_are_those_that_exist():
    edited = re.findall(r"(?m)^(\w+) = ", (ROOT / "main.py").read_text(encoding="utf-8").partition("\nsettings = ")[0])
    listed = " ".join(re.findall(r"(?m)^\| (`.*?`) \|", ENGLISH["5"]))
    assert sorted(re.findall(r"\w+", listed)) == sorted(edited)
    offered = {""}
    for script in ("main.py", "rescale_rest_api.py", "tests/rescale_simulator.py", "tests/test_contract.py"):
        offered |= set(re.findall(r"--[a-z-]+", run("--help", script=str(ROOT / script))[1]))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= offered
    named = re.findall(r"(?<![\w.])(tests/[\w./-]*\w|\.ci/run|requirements\.txt|\w+_api\.py)", README)
    assert [name for name in named if not (ROOT / name).exists()] == []
