"""Coming back to a chain: --repeat, --from, mended input files, and --resume, which uses none.

| promise | tests |
|---|---|
| a failed link gets a new job from the result before it; nothing else is paid again | replaces, deleted |
| what was changed since goes along, to this link only, by its content and not its date; nothing else does | what_was |
| a mended file wins over the job before, and what a link leaves wins over the folder | wins, two_repeats |
| the same after a copy of the folder; without the memory nothing goes along, and a line says so | copied |
| a repeat killed at any moment is only resumed | killed |
| --resume uses no changed file, and says so; where a link has failed it offers --repeat | resume |
| --from: from this link on all get new jobs, never one beside a job that runs; the old result is set aside | from |
| with nothing to repeat --from is named; a running job is followed | replaces, still_runs |
| --check says which jobs will be paid; nothing is announced to pack that is not packed | what_will_be_paid |
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import requests

import test_main
from conftest import wait_until
from test_main import WAITS, of, posts, rows, run, running, start, started_ats, steps

pytestmark = test_main.pytestmark
edit = test_main.edit
SHOWS = "cat *.inp >> steps.txt\n"  # a link writes down what it was given
FOUR = [(name, f"echo {name} >> steps.txt\n{SHOWS}") for name in ("one", "two", "three", "four")]
THREE, OLD, NEW = FOUR[:3], b"old 1\n", b"new 2\n"  # contents of one size


@pytest.fixture
def chain(edit, sim):
    """Run a chain, in which the link of this name fails; main.py is then as if the reason were mended."""

    def make(fails=None, batches=THREE):
        edit(batches=batches, input_path="inputs")
        Path("inputs/a.inp").write_bytes(OLD)
        sim.fail = fails
        status, _, err = run()
        assert (status, of(sim)[-1]) == ((1, fails) if fails else (0, batches[-1][0]))
        sim.fail = None
        return err

    return make


@pytest.fixture
def killed(edit, sim):
    """Start a chain and kill it while its job of this number runs."""

    def make(number, batches):
        edit(batches=batches, input_path="inputs")
        Path("inputs/a.inp").write_bytes(OLD)
        process = running(sim, number)
        process.kill()
        process.end()

    return make


def left() -> str:
    """What the links wrote down, each its name and the files that it saw, without line ends."""
    return steps("*").replace("zero\n", "").replace("\n", " ").strip()


def all_saw(text: str, *names: str) -> str:
    return " ".join(f"{name} {text}" for name in names)


def let_run_on(sim) -> None:
    for job in sim.jobs.values():
        (job.folder / "go").touch()


def uploads(sim) -> list[str]:
    return [file.name for file in sim.files.values() if file.type_id == 1]


def mend(content=NEW, date=None, name="a.inp"):
    """Change an input file; `date`, in seconds, as cp -p or unzip give it."""
    Path("inputs", name).write_bytes(content)
    if date:
        os.utime(Path("inputs", name), (date, date))


@pytest.mark.parametrize("batch", ["one", "two", "three"])
def test_repeat_replaces_the_failed_link_and_goes_on_from_the_one_before(chain, sim, batch):
    hint = re.search(r"python main.py --repeat [\d-]+", chain(batch))[0].split()[2:]
    [job_file], old = Path().glob(f"*@{batch}@*.job"), list(sim.jobs)[-1]
    before = ["one", "two", "three"].index(batch)

    status, out, err = run(*hint)

    assert (status, err) == (0, "")
    assert of(sim)[before:] == [batch, *("one", "two", "three")[before:]]
    assert set(sim.starts.values()) == {1}
    assert job_file.read_text().strip() == list(sim.jobs)[before + 1]
    assert old in next(Path().glob(f".*@{batch}@*.job")).read_text()  # set aside
    assert left() == all_saw("old 1", "one", "two", "three")
    assert [cells[1] for cells in rows(out).values()] == ["succeeded"] * 3
    assert uploads(sim) == ["rescale.tar.gz"]  # for the first link is on the platform already
    assert ("to pack" in out) == (batch == "one")
    status, out, _ = run("--repeat")  # and once more costs nothing
    assert (status, len(sim.starts), "--repeat --from" in out) == (0, 4, True)


# Mended files


@pytest.mark.parametrize(("batch", "change", "seen", "said"), [
    ("three", mend, "new 2", "changed since: a.inp"),
    ("two", lambda: mend(date=10**9), "new 2", "changed since: a.inp"),
    ("two", lambda: mend(os.urandom(1_500_000).hex().encode() + b"\n"), None, "changed since: a.inp"),
    ("three", lambda: mend(b"more\n", name="b.inp"), "old 1 more", "changed since: b.inp"),
    ("two", lambda: Path("inputs/a.inp").rename("inputs/a.txt"), "old 1", "changed since: a.txt; .* still .*: a.inp"),
    ("two", lambda: mend(OLD), "old 1", "changed since: none"), ("two", lambda: None, "old 1", "changed since: none"),
], ids=["mended", "mended, an older date", "mended, of some MB", "added", "another name", "only touched", "left alone"])
def test_what_was_changed_since_the_chain_got_it_goes_along_and_nothing_else(chain, sim, batch, change, seen, said):
    links = ["one", "two", "three", "four"] if batch == "three" else ["one", "two", "three"]
    chain(batch, FOUR[: len(links)])
    change()
    status, out, err = run("--repeat", constants={"VOLUME_FROM": 1 << 20, "VOLUME": 1 << 20})
    assert (status, err) == (0, "")
    assert re.search(said, out)
    before, seen = links[: links.index(batch)], seen or Path("inputs/a.inp").read_text().strip()
    assert left() == f"{all_saw('old 1', *before)} {all_saw(seen, *links[len(before):])}"
    assert of(sim) == [*before, batch, *links[len(before):]]
    assert len(uploads(sim)) == 2 - (said == "changed since: none")
    assert "to pack" not in out
    assert not list(Path().glob("*rescale-0*"))
    with tarfile.open(next(Path().glob("*@*@*/rescale.tar.gz"))) as tar:
        assert not [name for name in tar.getnames() if "rescale-" in name]


def test_a_file_that_was_mended_while_the_first_job_still_ran_goes_along(edit, sim):
    edit(batches=[("one", WAITS + FOUR[0][1]), *FOUR[1:3]], input_path="inputs")
    Path("inputs/a.inp").write_bytes(OLD)
    sim.fail = "two"
    process = running(sim)
    mend()
    let_run_on(sim)
    assert process.end()[0] == 1
    sim.fail = None
    assert run("--repeat")[0] == 0
    assert left() == "one old 1 two new 2 three new 2"


def test_a_mended_file_wins_over_the_job_before_and_what_a_link_leaves_over_the_folder(chain, sim):
    """Link 2 changes a.inp itself; link 3 fails next, and another file is mended for it."""
    chain("two", [FOUR[0], ("two", f"{FOUR[1][1]}echo by two > a.inp\n"), *FOUR[2:]])
    mend()
    sim.fail = "three"
    assert run("--repeat")[0] == 1
    sim.fail = None
    mend(b"more\n", name="b.inp")
    status, out, _ = run("--repeat")
    assert (status, "changed since: b.inp\n" in out) == (0, True)
    assert left() == "one old 1 two new 2 three by two more four by two more"
    assert of(sim) == ["one", "two", "two", "three", "three", "four"]


@pytest.mark.parametrize("text", ["newer", "new 2"], ids=["mended once more", "left alone"])
def test_of_two_repeats_the_second_gets_what_is_mended_by_then(chain, sim, text):
    chain("two")
    mend()
    sim.fail = "two"
    assert run("--repeat")[0] == 1
    sim.fail = None
    mend(f"{text}\n".encode())
    assert run("--repeat")[0] == 0
    assert left() == f"one old 1 {all_saw(text, 'two', 'three')}"
    assert of(sim) == ["one", "two", "two", "two", "three"]


@pytest.mark.parametrize(("copy", "mended"), [
    ("cp -a . ../there", True), ("cp -r . ../there", True), ("cp -r . ../there", False),
    ("mkdir ../there; cp -r * ../there", True),
], ids=["cp -a", "cp -r", "cp -r, left alone", "cp -r without hidden files"])
def test_a_copied_folder_is_the_chain_with_its_memory_or_says_that_nothing_goes_along(chain, sim, copy, mended):
    chain("two")
    assert test_main.paste(copy).returncode == 0
    os.chdir("../there")
    if mended:
        mend()
    status, out, err = run("--repeat")
    assert (status, err) == (0, "")
    goes_along = mended and "*" not in copy
    assert left() == f"one old 1 {all_saw('new 2' if goes_along else 'old 1', 'two', 'three')}"
    assert len(uploads(sim)) == 1 + goes_along
    assert ("not known here" in out) == ("*" in copy)
    assert ("changed since: a.inp" in out) == goes_along


def test_a_repeat_killed_at_any_moment_is_only_resumed(chain, sim, tmp_path):
    """A kill before anything was prepared is repeated. The folder is put back for each moment, jobs and files stay."""
    chain("two", FOUR[:2])
    mend()
    shutil.copytree(".", tmp_path / "kept")
    number, status, resumed, folder = 0, -9, 0, Path.cwd()
    while status == -9:
        os.chdir(tmp_path)
        shutil.rmtree(folder)
        shutil.copytree("kept", folder)
        os.chdir(folder)
        before, number = len(sim.starts), number + 1
        status = run("--repeat", events={"file": str(tmp_path / "events"), "kill_at": number})[0]
        after = run("--resume")
        resumed += after[0] == 0
        if not resumed:
            assert (after[0], "--repeat" in after[2]) == (1, True)
            after = run("--repeat")
        assert (after[0], after[2]) == (0, ""), number
        assert left() == "one old 1 two new 2", number
        assert (of(sim)[before:], set(sim.starts.values())) == (["two"], {1}), number
    assert (status, resumed > 10) == (0, True)


@pytest.mark.parametrize("number", [1, 2], ids=["before any follower", "before the last"])
def test_resume_uses_no_changed_file_and_says_so(killed, sim, number):
    batches = list(THREE)
    batches[number - 1] = (batches[number - 1][0], batches[number - 1][1] + WAITS)
    killed(number, batches)
    mend()
    let_run_on(sim)
    status, out, err = run("--resume")
    assert (status, err) == (0, "")
    assert re.search(r"not used: a\.inp.*--repeat", out)
    assert (left(), len(uploads(sim))) == (all_saw("old 1", "one", "two", "three"), 1)


# From a link on


@pytest.mark.parametrize(("batch", "change", "expected"), [
    ("three", mend, "one old 1 two old 1 three new 2"), ("two", lambda: None, "one old 1 two old 1 three old 1"),
    ("one", mend, "one new 2 two new 2 three new 2"),
])
def test_from_a_succeeded_link_on_all_get_new_jobs_with_the_mended_files(chain, sim, batch, change, expected):
    chain()
    [folder], last = Path().glob("*@three@*/"), list(sim.starts)[-1]
    change()
    again = ["one", "two", "three"][["one", "two", "three"].index(batch):]
    status, out, _ = run("--check", "--repeat", "--from", batch)
    assert (status, len(sim.starts)) == (0, 3)
    assert f"jobs to be paid: {len(again)} ({', '.join(again)})" in out
    assert out.endswith(f"Start: python main.py --repeat --from {batch}\n")

    status, out, err = run("--repeat", "--from", batch)

    assert (status, err) == (0, "")
    assert of(sim)[3:] == again
    assert left() == expected
    assert [path.name for path in folder.iterdir()] == ["rescale.tar.gz"]
    assert [path.name for path in Path(f"{folder}.{last}").iterdir()] == ["rescale.tar.gz"]  # the old one


@pytest.mark.parametrize(("batch", "words"), [
    ("five", "one, two"), ("three", "one, two"), ("one", "stop"), ("two", "stop"),
], ids=["unknown", "has no job", "its follower runs", "runs itself"])
def test_a_wrong_from_is_told_and_nothing_is_started_or_set_aside(killed, sim, batch, words):
    killed(2, [FOUR[0], ("two", WAITS), FOUR[2]])
    before, files = posts(sim), sorted(Path().rglob("*@*.job"))
    status, _, err = run("--repeat", "--from", batch)
    assert (status, posts(sim), sorted(Path().rglob("*@*.job"))) == (1, before, files)
    assert words in err
    assert f"stop {list(sim.jobs)[1]}" in err


# What is repeated, and what is said


def test_a_job_that_still_runs_is_followed_and_not_replaced(killed, sim):
    killed(1, [("one", WAITS)])
    again = start("--repeat")
    wait_until(lambda: "Executing" in again.printed() or len(sim.jobs) > 1, 20)
    let_run_on(sim)
    assert (again.end()[0], of(sim)) == (0, ["one"])


@pytest.mark.parametrize(("option", "batch", "paid"), [
    ("--resume", "two", "1 (three)"), ("--repeat", "two", "2 (two, three)"), ("--repeat", "one", "3 (one, two, three)"),
])
def test_what_will_be_paid_is_said_beforehand_and_nothing_to_pack_that_is_not_packed(chain, sim, option, batch, paid):
    chain(batch)
    files, before = sorted(Path().rglob("*")), posts(sim)
    status, out, err = run("--check", option)
    assert (status, err, posts(sim), sorted(Path().rglob("*"))) == (0, "", before, files)
    assert f"jobs to be paid: {paid}" in out
    assert f"costs at most: {paid[0]} x 1 = {paid[0]} core-hours" in out
    assert ("to pack" in out) == (batch == "one")
    assert out.endswith(f"Start: python main.py {option}\n")


def test_resume_offers_repeat_where_a_link_has_failed(chain, sim):
    chain("two")
    before = posts(sim)
    status, _, err = run("--resume")
    assert (status, posts(sim)) == (1, before)
    assert f"python main.py --repeat {started_ats()[0]}" in err
    assert "--resume" not in err


def test_a_done_link_whose_results_were_deleted_on_the_platform_is_not_paid_again(chain, sim):
    chain("two")
    first = next(iter(sim.starts))
    headers = {"Authorization": f"Token {sim.token}"}
    for file_id in sim.jobs[first].files:
        requests.delete(f"{sim.url}/api/v2/files/{file_id}/", headers=headers, timeout=9)
    for _ in range(2):
        status, _, err = run("--repeat")
        assert (status, of(sim), first in err) == (1, ["one", "two"], True)
        assert rows(run("--status")[1])["one"][1] == "succeeded"
