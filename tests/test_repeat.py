"""Coming back to a chain: --repeat, --from, mended input files, and --resume, which uses none.

| promise | tests |
|---|---|
| a failed link gets a new job from the result before it; nothing else is paid again | replaces, deleted |
| what was changed since goes along, to this link only, by its content and not its date; nothing else does | what_was |
| a mended file wins over the job before, and what a link leaves wins over the folder | wins, two_repeats |
| the same after a copy of the folder; without the memory nothing goes along, and a line says so | copied |
| --resume uses no changed file, and says so; where a link has failed it offers --repeat | resume, replaces |
| --from: from this link on all get new jobs, never one beside a job that runs; the old result is set aside | from |
| which jobs will be paid is said first; nothing is announced to pack that is not packed | what_will_be_paid |

A repeat killed at any moment: test_kill.py. A running job, and where there is nothing to repeat: test_main.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tarfile
from pathlib import Path

import pytest
import requests

from conftest import wait_until
from test_main import WAITS, killed, of, posts, pytestmark, rows, running, started_ats  # noqa: F401  # pytest's mark
from two_jobs import paste, result, run, start, steps

SHOWS = "cat *.inp >> steps.txt\n"  # a link writes down what it was given
FOUR = [(name, f"echo {name} >> steps.txt\n{SHOWS}") for name in ("one", "two", "three", "four")]
THREE, OLD, NEW = FOUR[:3], b"old 1\n", b"new 2\n"  # contents of one size


@pytest.fixture
def write(edit):
    """Write main.py with these batches, and the input file that is mended later."""

    def write(batches):
        edit(batches=batches, input_path="inputs")
        mend(OLD)

    return write


@pytest.fixture
def chain(write, sim):
    """Run a chain, in which the link of this name fails."""

    def make(fails=None, batches=THREE):
        write(batches)
        run_with(fails, sim)

    return make


def run_with(fails, sim, *arguments):
    """Run main.py, in which the link of this name fails; it is then as if the reason were mended."""
    sim.fail = fails
    status = run(*arguments)[0]
    sim.fail = None
    assert (status, fails in (None, of(sim)[-1])) == (bool(fails), True)


def left() -> str:
    """What the links wrote down, each its name and the files that it saw, without line ends."""
    return steps(result("*")).replace("zero\n", "").replace("\n", " ").strip()


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
    """The command is the one that --resume offers, which itself does nothing then."""
    chain(batch)
    [job_file], old = Path().glob(f"*@{batch}@*.job"), list(sim.jobs)[-1]
    before, paid = ["one", "two", "three"].index(batch), posts(sim)
    status, _, err = run("--resume")
    assert (status, posts(sim), "--resume" in err) == (1, paid, False)
    assert f"python main.py --repeat {started_ats()[0]}" in err

    status, out, err = run("--repeat", started_ats()[0])

    assert (status, err) == (0, "")
    assert of(sim)[before:] == [batch, *("one", "two", "three")[before:]]
    assert set(sim.starts.values()) == {1}
    assert job_file.read_text().strip() == list(sim.jobs)[before + 1]
    assert old in next(Path().glob(f".*@{batch}@*.job")).read_text()  # set aside
    assert left() == all_saw("old 1", "one", "two", "three")
    assert [cells[1] for cells in rows(out).values()] == ["succeeded"] * 3
    assert uploads(sim) == ["rescale.tar.gz"]  # for the first link is on the platform already
    assert ("to pack" in out) == (batch == "one")
    assert (run("--repeat")[0], len(sim.starts)) == (0, 4)  # once more costs nothing


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


@pytest.mark.parametrize("then", ["it failed", "Ctrl-C before it was made", "Ctrl-C while the first ran"])
def test_what_was_mended_while_the_first_job_still_ran_goes_along_to_the_second(write, sim, then):
    write([("one", WAITS + FOUR[0][1]), *FOUR[1:3]])
    sim.fail = "two" if then == "it failed" else None
    process = running(sim)
    mend()
    sim.on_request = lambda record, when: (
        when in then and record.method == "POST" and record.path.endswith("/jobs/") and process.kill(signal.SIGINT))
    if "while" in then:
        process.kill(signal.SIGINT)
    else:
        let_run_on(sim)
    assert process.end()[0] == (1 if sim.fail else 130)
    assert bool(list(Path().glob("*@two@*.job"))) == bool(sim.fail)
    sim.fail = sim.on_request = None
    again = start("--repeat")
    wait_until(lambda: "changed since: a.inp" in again.printed(), 20)
    let_run_on(sim)
    assert again.end()[::2] == (0, "")
    assert left() == "one old 1 two new 2 three new 2"
    assert of(sim) == ["one", *["two"] * (1 + (then == "it failed")), "three"]


def test_a_mended_file_wins_over_the_job_before_and_what_a_link_leaves_over_the_folder(chain, sim):
    """Link 2 changes a.inp itself; link 3 fails next, and another file is mended for it."""
    chain("two", [FOUR[0], ("two", f"{FOUR[1][1]}echo by two > a.inp\n"), *FOUR[2:]])
    mend()
    run_with("three", sim, "--repeat")
    mend(b"more\n", name="b.inp")
    status, out, _ = run("--repeat")
    assert (status, "changed since: b.inp\n" in out) == (0, True)
    assert left() == "one old 1 two new 2 three by two more four by two more"
    assert of(sim) == ["one", "two", "two", "three", "three", "four"]


@pytest.mark.parametrize("text", ["newer", "new 2"], ids=["mended once more", "left alone"])
def test_of_two_repeats_the_second_gets_what_is_mended_by_then(chain, sim, text):
    chain("two")
    mend()
    run_with("two", sim, "--repeat")
    mend(f"{text}\n".encode())
    assert run("--repeat")[0] == 0
    assert left() == f"one old 1 {all_saw(text, 'two', 'three')}"
    assert of(sim) == ["one", "two", "two", "two", "three"]


def test_a_repeat_from_an_earlier_link_leaves_no_mended_file_to_those_behind(chain, sim):
    """What they got at a repeat of their own is in what they are given, as far as that was not changed since."""
    chain("three", [FOUR[0], ("two", f"{FOUR[1][1]}[ ! -e b.inp ] || echo by two > b.inp\n"), FOUR[2]])
    mend(b"more\n", name="b.inp")
    assert run("--repeat")[0] == 0
    assert left() == "one old 1 two old 1 three old 1 more"
    assert run("--repeat", "--from", "two")[0] == 0
    last = steps(max(Path().glob("*@three@*/rescale.tar.gz"), key=os.path.getmtime))
    assert " ".join(last.split()) == "zero one old 1 two old 1 more three old 1 by two"


def test_what_is_mended_at_the_last_moment_is_remembered_as_it_went(chain, sim):
    chain("two")
    mend()
    [memory] = Path().glob(".*.chain")
    sim.on_request = lambda record, when: '"two": ' in memory.read_text() and mend(b"newest\n")
    run_with("three", sim, "--repeat")
    sim.on_request = None
    mend()  # as it was when the repeat began
    assert run("--repeat")[0] == 0
    assert left() == "one old 1 two newest three new 2"


@pytest.mark.parametrize(("copy", "mended"), [
    ("cp -a . ../there", True), ("cp -r . ../there", True), ("cp -r . ../there", False),
    ("mkdir ../there; cp -r * ../there", True),
], ids=["cp -a", "cp -r", "cp -r, left alone", "cp -r without hidden files"])
def test_a_copied_folder_is_the_chain_with_its_memory_or_says_that_nothing_goes_along(chain, sim, copy, mended):
    chain("two")
    assert paste(copy).returncode == 0
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


def vanish(path):
    raise FileNotFoundError(2, "No such file or directory", str(path))


@pytest.mark.parametrize(("number", "constants"), [(1, {}), (2, {}), (1, {"_facts": vanish})], ids=["1", "2", "gone"])
def test_resume_uses_no_changed_file_and_says_so(write, sim, number, constants):
    write([(name, text + WAITS * (name == FOUR[number - 1][0])) for name, text in THREE])
    killed(sim, number)
    mend()
    let_run_on(sim)
    status, out, err = run("--resume", constants=constants)
    assert (status, err) == (0, "")
    assert bool(constants) != bool(re.search(r"not used by this job: a\.inp.*--repeat", out))
    assert (left(), len(uploads(sim))) == (all_saw("old 1", "one", "two", "three"), 1)


# From a link on


@pytest.mark.parametrize(("batch", "change", "expected"), [
    ("three", mend, "one old 1 two old 1 three new 2"), ("two", lambda: None, "one old 1 two old 1 three old 1"),
    ("one", mend, "one new 2 two new 2 three new 2"),
])
def test_from_a_succeeded_link_on_all_get_new_jobs_with_the_mended_files(chain, sim, batch, change, expected):
    chain()
    [folder] = [path for path in Path().glob("*@three@*") if path.is_dir()]
    last = list(sim.starts)[-1]
    change()
    again = ["one", "two", "three"][["one", "two", "three"].index(batch):]
    status, out, err = run("--repeat", "--from", batch)
    assert (status, err) == (0, "")
    assert f"jobs that will cost money: {len(again)} ({', '.join(again)})" in out
    assert of(sim)[3:] == again
    assert f"{folder}.{last}{os.sep}" in out
    assert left() == expected
    assert [path.name for path in folder.iterdir()] == ["rescale.tar.gz"]
    assert [path.name for path in Path(f"{folder}.{last}").iterdir()] == ["rescale.tar.gz"]  # the old one


@pytest.mark.parametrize(("batch", "words"), [
    ("five", "one, two"), ("three", "one, two"), ("one", "stop"), ("two", "stop"),
], ids=["unknown", "has no job", "its follower runs", "runs itself"])
def test_a_wrong_from_is_told_and_nothing_is_started_or_set_aside(write, sim, batch, words):
    write([FOUR[0], ("two", WAITS), FOUR[2]])
    killed(sim, 2)
    before, files = posts(sim), sorted(Path().rglob("*@*.job"))
    status, _, err = run("--repeat", "--from", batch)
    assert (status, posts(sim), sorted(Path().rglob("*@*.job"))) == (1, before, files)
    assert words in err
    assert f"stop {list(sim.jobs)[1]}" in err


def test_a_job_that_could_never_be_started_is_replaced_from_its_link_on(write, sim):
    write(THREE[:2])
    sim.silent_submit = True
    assert run()[0] == 1
    sim.silent_submit = False
    status, _, err = run("--repeat", "--from", "one")
    assert (status, err, of(sim)) == (0, "", ["one", "two"])


# What is repeated, and what is said


@pytest.mark.parametrize("spoilt", ["inputs/b.inp", "memory"])
def test_where_it_cannot_be_told_what_was_changed_nothing_is_repeated(chain, sim, spoilt):
    chain("two")
    mend()
    [memory] = Path().glob(".*.chain")
    memory.write_text("{") if spoilt == "memory" else Path(spoilt).symlink_to("nowhere")
    status, _, err = run("--repeat")
    assert (status, of(sim), str(memory if spoilt == "memory" else spoilt) in err) == (1, ["one", "two"], True)


def test_what_another_process_did_before_it_died_is_not_paid_again(chain, sim):
    """It may have gone on while this one was asking the platform."""
    chain()
    [job_file] = Path().glob("*@three@*.job")
    shutil.rmtree(job_file.with_suffix(""))
    job_id = job_file.read_text()
    job_file.unlink()
    sim.on_request = lambda record, when: record.path.endswith("/users/me/") and job_file.write_text(job_id)
    assert run("--resume")[::2] == (0, "")
    assert of(sim) == ["one", "two", "three"]


@pytest.mark.parametrize(("option", "batch", "paid"), [
    ("--resume", "two", "1 (three)"), ("--repeat", "two", "2 (two, three)"), ("--repeat", "one", "3 (one, two, three)"),
    ("--check", "two", "3 (one, two, three)"),
])
def test_what_will_be_paid_is_said_beforehand_and_nothing_to_pack_that_is_not_packed(chain, sim, option, batch, paid):
    chain(batch)
    files, before = sorted(Path().rglob("*")), posts(sim)
    _, out, _ = run(option)
    assert f"jobs that will cost money: {paid}" in out
    assert f"costs at most: {paid[0]} x 1 = {paid[0]} core-hours" in out
    assert ("2 files to pack" in out) == (batch == "one" or option == "--check")
    if option == "--check":
        assert out.endswith("Start: python main.py\n")
        assert (posts(sim), sorted(Path().rglob("*"))) == (before, files)


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
