"""7. job_download: which files end up where under which names, and that none of them is a wrong one.

- the guide's lines; names and folders; thousands of files, empty ones; what is no result; what is not there is told
- ranges of max(RANGE[0], size / RANGES), CONNECTIONS at once, over all files; `.ID.part` is a beginning of the file,
  and the next run goes on behind it; a range goes on where it broke
- a file is whole when its sum is the platform's; one that is not gets no name (labels, a full disk: test_faults.py and
  test_local_files.py)
- what is here is neither fetched nor called downloaded; nothing is overwritten; two processes do no harm
- no path leaves the folder; a name that this system cannot have, or that is taken, is changed and told
"""

from __future__ import annotations

import os
import re
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import wait_until
from in_memory import JOB_ID, PLATFORM, TOKEN, Platform, connect
from rescale_simulator import Fault

ARCHIVE = {"rescale.tar.gz": b"the archive"}
BIG = os.urandom(300_000)
STEP = 40_000  # bytes of a range: BIG comes in eight


@pytest.fixture(autouse=True)
def in_ranges(monkeypatch):
    """Let a file of 300 kB come as one of gigabytes does."""
    monkeypatch.setattr(rescale, "RANGE", (STEP, 1 << 26))


def tree(folder="job"):
    """All files below a folder: path and content."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def file_named(sim, name="rescale.tar.gz"):
    return next(file for file in sim.files.values() if file.relative_path == name)


def part_of(sim):
    Path("job").mkdir(exist_ok=True)
    return Path(f"job/.{file_named(sim).id}.part")


def asked_of(sim, name="rescale.tar.gz"):
    """The ranges of a file that were asked for, sorted: first byte and the one behind the last."""
    asked = [one.headers["Range"] for one in sim.requests if f"/{file_named(sim, name).id}/contents/" in one.path]
    return sorted((int(first), int(last) + 1) for first, last in (re.findall(r"\d+", one) for one in asked))


@pytest.mark.parametrize("files", [{"rescale.tar.gz": BIG * 4}, {"a.odb": BIG * 4, "empty": b"", **ARCHIVE}],
                         ids=["one file", "three files"])
def test_results_are_downloaded_as_the_guide_prints_it(files, access, clock, sim, ended_job, monkeypatch, capsys):
    job_id = ended_job({**files, "was deleted": b"1", "was given": b"2"})
    file_named(sim, "was deleted").is_deleted, given = True, {"id": file_named(sim, "was given").id, "decompress": True}
    sim.jobs[job_id].data["jobanalyses"][0]["inputFiles"], sim.lists_inputs = [given], "all"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    paths = rescale.job_download(*access, "me@rod@1", job_id)
    assert {len(BIG) * 4, len(files["rescale.tar.gz"])} <= set(synced)  # on the disk before it has its name
    assert paths == [Path("me@rod@1").absolute() / name for name in files]
    assert tree("me@rod@1") == files
    place = f"user/user_xMTMk/output/job_{job_id}/run1"
    assert capsys.readouterr().out.splitlines() == [
        f"Total {len(files)} files will be downloaded",
        *(f"{number} {place}/{name} downloaded" for number, name in enumerate(files, 1)),
        f"Total {len(files)} files, 1.144 MB downloaded",
    ]


def test_two_thousand_files_keep_their_names_and_folders_and_take_a_request_each(clock):
    names = ["sub/deep/er.txt", "결과 1/압력.odb", "with blanks", "-rf", ".hidden", "a#b?c%20d&e", "it's", "a..b", "~"]
    files = {**ARCHIVE, **{name: name.encode() for name in [*names, *map("frame{}.csv".format, range(2000))]}}
    platform = Platform(files={f"id{number}": one for number, one in enumerate(files.items())})
    for one in platform.answers[f"jobs/{JOB_ID}/files/"]["results"]:
        one["fileChecksums"][0].update(hashFunction="SHA-512", fileHash=one["fileChecksums"][0]["fileHash"].upper())
    network = connect(platform)
    assert len(rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)) == len(files)
    assert tree() == files
    assert network.count <= len(files) + 4


@pytest.mark.parametrize(("state", "words", "waits"), [
    ("unknown", "404", 0), ("not submitted", "not submitted", 0), ("running", "has not ended.* Executing", 0),
    ("empty", "no output", rescale.FILES_PATIENCE), ("deleted", "deleted", rescale.FILES_INTERVAL),
    ("never stored", r": b\.odb\. .*download \w+$", rescale.FILES_PATIENCE),
])
def test_what_is_not_there_to_be_downloaded_is_said(state, words, waits, access, clock, sim, set_up, ended_job):
    history = [("Executing", None), ("Completed", "Completed successfully")][: 1 if state == "running" else 2]
    files = {} if state == "empty" else {**ARCHIVE, "b.odb": b"1"}
    job_id = {"unknown": lambda: "nOnE", "not submitted": set_up}.get(state, lambda: ended_job(files, *history))()
    for file in sim.files.values():
        file.is_deleted, file.is_uploaded = state == "deleted", state != "never stored" or file.name != "b.odb"
    sim.upload_lag = 10_000 * (state == "never stored")
    with pytest.raises(rescale.RescaleError, match=words) as failed:
        rescale.job_download(*access, "job", job_id)
    assert job_id in str(failed.value)
    assert waits <= clock.now <= 1.1 * waits
    assert tree() == (ARCHIVE if state == "never stored" else {})


def test_all_files_come_in_ranges_that_are_few_and_eight_at_once(access, sim, ended_job, monkeypatch):
    monkeypatch.setattr(rescale, "RANGES", 4)
    sizes = {"rescale.tar.gz": 300_000, "b.odb": 100_000, "small": 1000, **{f"{number}": 1 for number in range(8)}}
    job_id = ended_job({name: BIG[:size] for name, size in sizes.items()})
    now, most = set(), [0]

    def count(record, when):
        if record.path.endswith("/contents/"):
            (now.add if when == "before" else now.discard)(id(record))
            most.append(len(now))
            wait_until(lambda: max(most) >= rescale.CONNECTIONS)
            time.sleep(0.02)  # for a ninth one

    sim.on_request = count
    rescale.job_download(*access, "job", job_id)
    assert asked_of(sim) == [(start, start + 75_000) for start in range(0, 300_000, 75_000)]  # size / RANGES
    assert asked_of(sim, "b.odb") == [(0, 40_000), (40_000, 80_000), (80_000, 100_000)]  # RANGE[0]
    assert asked_of(sim, "small") == [(0, 1000)]
    assert max(most) == rescale.CONNECTIONS


@pytest.mark.parametrize("size", [1, 5000, STEP, 299_999, 300_000, 300_001])
@pytest.mark.parametrize("quirk", ["no checksum", "ignore_range", "none"])
def test_a_download_goes_on_from_any_size(size, quirk, access, sim, ended_job):
    sim.checksums, sim.ignore_range = "none" if quirk == "no checksum" else "both", quirk == "ignore_range"
    job_id = ended_job({"rescale.tar.gz": BIG})
    part_of(sim).write_bytes((BIG + b"x")[:size])
    rescale.job_download(*access, "job", job_id)
    assert tree() == {"rescale.tar.gz": BIG}
    begin = size if size <= len(BIG) else 0
    assert asked_of(sim) == [(start, min(start + STEP, len(BIG))) for start in range(begin, len(BIG), STEP)]


@pytest.mark.parametrize(("fault", "says"), [("404", "404"), ("503", "503"), ("wrong range", "another part")])
def test_an_error_leaves_a_beginning_and_nothing_goes_on_behind_it(fault, says, access, clock, sim, ended_job):
    job_id = ended_job({"rescale.tar.gz": BIG})
    file, sim.wrong_range = file_named(sim), fault == "wrong range"
    sim.faults += [Fault("503", path="contents", skip=3, times=10_000)] if fault == "503" else []
    sim.on_request = lambda *_: setattr(file, "is_deleted", fault == "404" and len(asked_of(sim)) > 3)
    with pytest.raises(rescale.RescaleError, match=says):
        rescale.job_download(*access, "job", job_id)
    assert set(tree()) == {part_of(sim).name}
    assert BIG.startswith(part_of(sim).read_bytes())
    time.sleep(0.05)  # for what is on its way
    sim.requests.clear()
    time.sleep(0.05)
    assert not sim.requests  # nothing goes on behind an error


@pytest.mark.parametrize("comes", ["without checksum", "from another host", "whole"])
@pytest.mark.parametrize("fault", ["503", "reset_before", "reset_midway", "truncated", "html", "throttled"])
def test_a_range_that_breaks_goes_on_where_it_broke(comes, fault, access, sim, ended_job, capsys):
    sim.contents_redirect, sim.ignore_range = comes == "from another host", comes == "whole"
    sim.checksums = "none" if comes == "without checksum" else "both"
    job_id = ended_job({"rescale.tar.gz": BIG})
    sim.faults.append(Fault(fault, path="storage" if sim.contents_redirect else "contents", times=3))
    rescale.job_download(*access, "job", job_id)
    assert (tree(), sim.faults[0].hits) == ({"rescale.tar.gz": BIG}, 3)
    goes_on = any(start % STEP for start, _ in asked_of(sim))
    assert goes_on == (fault in ("reset_midway", "truncated")) or sim.ignore_range  # of all of it half has come
    assert ("no checksum" in capsys.readouterr().out) == (sim.checksums == "none")
    assert bool(sim.storage_requests) == sim.contents_redirect


@pytest.mark.parametrize(("where", "checksums"), [
    ("on the way", "sha512"), ("on the way", "md5"), ("in what an earlier try left", "both"), ("always", "both"),
])
def test_a_damaged_file_is_fetched_once_more_and_never_gets_a_name(where, checksums, access, sim, ended_job, capsys):
    job_id, sim.checksums = ended_job({"rescale.tar.gz": BIG}), checksums
    part_of(sim).write_bytes(b"x" * STEP if "earlier" in where else b"")
    if "earlier" not in where:
        sim.faults.append(Fault("corrupt", path="contents", times=1000 if where == "always" else 1))
    with pytest.raises(rescale.RescaleError, match=r"rescale\.tar\.gz.*twice") if where == "always" else nullcontext():
        rescale.job_download(*access, "job", job_id)
    assert tree() == ({} if where == "always" else {"rescale.tar.gz": BIG})
    assert capsys.readouterr().out.count("damaged") == 1


def test_what_is_there_already_is_not_fetched_again_nor_called_downloaded(access, clock, sim, ended_job, capsys):
    files = {**ARCHIVE, "b": BIG}
    job_id = ended_job(files)
    first = rescale.job_download(*access, "job", job_id)
    Path("job/b").unlink()
    sim.requests.clear()
    capsys.readouterr()
    assert rescale.job_download(*access, "job", job_id) == first
    assert (tree(), asked_of(sim)) == (files, [])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in lines[1:3]] == ["b downloaded", "rescale.tar.gz was here already"]
    assert re.fullmatch(r"Total 1 files, 0\.286 MB downloaded, 1 .*already", lines[3])


@pytest.mark.parametrize("checksums", ["both", "none"])
def test_another_file_that_is_in_the_way_is_kept_under_a_new_name(checksums, access, sim, ended_job, capsys):
    job_id, sim.checksums = ended_job(ARCHIVE), checksums
    Path("job").mkdir()
    for number, content in enumerate((b"mine", b"of equal l."), 1):
        Path("job/rescale.tar.gz").write_bytes(content)
        rescale.job_download(*access, "job", job_id)
        assert f"rescale.tar.gz.previous-{number}" in capsys.readouterr().out
    assert tree() == {**ARCHIVE, "rescale.tar.gz.previous-1": b"mine", "rescale.tar.gz.previous-2": b"of equal l."}


@pytest.mark.parametrize("checksums", ["with a checksum", "without"])
@pytest.mark.parametrize("other", ["begins it", "is done before us", "is done while we are at it", "takes it away"])
def test_a_file_is_right_whatever_another_process_does_with_it_meanwhile(other, checksums, clock):
    platform = Platform(files={"fIrst": ("rescale.tar.gz", b"1"), "sEcond": ("b.odb", BIG)})
    if checksums == "without":
        platform.answers[f"jobs/{JOB_ID}/files/"]["results"][1].update(md5=None, fileChecksums=[])
    part, last = Path("job/.sEcond.part"), f"-{len(BIG) - 1}"
    part.parent.mkdir()
    part.write_bytes(BIG[:5000])

    def answer(request):
        is_last = request.headers.get("Range", "").endswith(last)
        if is_last if "while" in other else "fIrst/contents" in request.url:
            wait_until(lambda: not is_last or part.stat().st_size > 5000)
            part.write_bytes(BIG[:200_000] if other == "begins it" else BIG)
            if other == "takes it away":
                part.unlink()
            elif "done" in other:
                part.replace("job/b.odb")
        return platform(request)

    connect(answer)
    rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert tree()["b.odb"] == BIG
    assert set(tree().values()) == {b"1", BIG}  # a second copy is no harm


@pytest.mark.parametrize("names", [
    *([name] for name in (
        "../out", "/tmp/out", "a/../../out", "..", ".", "a//b", "./a", "a/", "a\\..\\b", "..\\out", "C:\\out", "C:out",
        "a\nb", "a\0b", "\x1b[2J", "x\ud800", "y" * 300, "결" * 200,
    )), ["B", "A", "a"], ["out.fIle1", "out", "out"], ["out", "out.fIle2", "out"],
], ids=lambda names: " ".join(names)[:20].encode("unicode_escape").decode())
def test_a_name_that_cannot_be_here_or_is_taken_is_changed_and_told_and_stays_in_the_folder(names, clock, capsys):
    names = ["rescale.tar.gz", *names, "z"]
    connect(Platform(files={f"fIle{number}": (name, b"%d" % number) for number, name in enumerate(names)}))
    before = set(Path("..").rglob("*"))
    paths = rescale.job_download(PLATFORM, TOKEN, "job", JOB_ID)
    assert [path.read_bytes() for path in paths] == [b"%d" % number for number in range(len(names))]
    assert all(Path("job").resolve() in path.resolve().parents for path in paths)
    assert {path for path in Path("..").rglob("*") if "job" not in path.parts} == before
    assert len({str(path).casefold() for path in paths}) == len(names)
    assert paths[-2].name in capsys.readouterr().out


@pytest.mark.parametrize(("name", "becomes"), [  # nor job names: job_setup refuses those that this would change
    ("a:b*c?.odb", "a_b_c_.odb"), ("aux.txt", "aux_.txt"), ("COM1", "COM1_"), ("dot.", "dot_"), ("C:out", "C_out"),
    ("console.log", "console.log"), ('a"<|>b', "a____b"), ("a\\b", "a_b"), ("ends ", "ends_"), ("lpt1", "lpt1_"),
])
def test_windows_has_more_names_that_cannot_be(name, becomes, monkeypatch):
    monkeypatch.setattr(rescale, "WINDOWS", True)
    assert rescale._safe_name(name) == becomes
