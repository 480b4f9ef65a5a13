"""3. upload_local_files: what arrives on the platform, whole or in volumes, what is never sent twice, what is told."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import tarfile
import threading
import time
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import paths_asked, wait_until
from in_memory import PLATFORM, TOKEN, connect
from rescale_simulator import FAULTS, Fault, Simulator

ARCHIVE = "rescale.tar.gz"
JOURNAL = Path(f".{ARCHIVE}.uploaded")
VOLUME = 1 << 17  # bytes, instead of 64 MB


def stored(sim):
    """What the platform has got: name and content, oldest first."""
    return [(file.name, file.path.read_bytes()) for file in sim.files.values()]


def posts(sim):
    return len(paths_asked(sim, "POST"))


@pytest.fixture
def archive():
    path = Path(ARCHIVE)
    path.write_bytes(random.randbytes(200_000))
    return path


# One file


def test_the_archive_is_uploaded_by_default(access, sim, archive, capsys):
    inputfiles_list = rescale.upload_local_files(*access)
    assert stored(sim) == [(ARCHIVE, archive.read_bytes())]
    [file_id] = sim.files
    assert inputfiles_list == [{"id": file_id, "decompress": True}]
    assert capsys.readouterr().out == (
        "- rescale.tar.gz uploaded\n"
        "All files uploaded successfully!\n"
        f"inputfiles_list = [{{'id': '{file_id}', 'decompress': True}}]\n"
    )


@pytest.mark.parametrize(
    "input_file",
    [
        pytest.param("a.inp b.inp", id="names separated by blanks"),
        pytest.param("  a.inp \n b.inp ", id="and more blanks"),
        pytest.param(["a.inp", "b.inp"], id="list"),
        pytest.param((Path("a.inp"), "./b.inp"), id="tuple of paths"),
    ],
)
def test_several_files_are_uploaded_in_their_order(input_file, access, sim, capsys):
    for name in ("b.inp", "a.inp"):
        Path(name).write_text(name)
    inputfiles_list = rescale.upload_local_files(*access, input_file)
    assert stored(sim) == [("a.inp", b"a.inp"), ("b.inp", b"b.inp")]
    assert [entry["id"] for entry in inputfiles_list] == list(sim.files)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "- a.inp uploaded", "- b.inp uploaded", "All files uploaded successfully!"
    ]


@pytest.mark.parametrize("kind", [str, Path, lambda name: [name]], ids=["text", "path", "list"])
def test_a_name_with_blanks_is_one_file_if_there_is_one(kind, access, sim):
    for name in ("a.inp", "b.inp", "a.inp b.inp"):
        Path(name).write_text(name)
    rescale.upload_local_files(*access, kind("a.inp b.inp"))
    assert stored(sim) == [("a.inp b.inp", b"a.inp b.inp")]


@pytest.mark.parametrize("name", ["결과 파일.tar.gz", "it's; filename=x.tar.gz", "100%.inp", "-rf", "a+b&c=d.inp"])
def test_a_file_elsewhere_arrives_under_its_own_name_whatever_it_is(name, access, sim, tmp_path, capsys):
    (tmp_path / name).write_text("x")
    rescale.upload_local_files(*access, [str(tmp_path / name)])
    assert stored(sim) == [(name, b"x")]
    assert f"- {name} uploaded\n" in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_content_arrives_whole_and_with_its_length_announced(size, access, sim):
    content = random.randbytes(size)
    Path("rod.inp").write_bytes(content)
    rescale.upload_local_files(*access, "rod.inp")
    assert stored(sim) == [("rod.inp", content)]
    [record] = sim.requests
    assert (record.method, record.path) == ("POST", "/api/v2/files/contents/")
    assert int(record.headers["Content-Length"]) > size  # the platform does not take chunked uploads
    assert "Transfer-Encoding" not in record.headers


@pytest.mark.parametrize("decompress", [True, False])
def test_the_job_gets_the_file_packed_or_unpacked_as_it_was_said(decompress, access, sim, set_up, archive, capsys):
    inputfiles_list = rescale.upload_local_files(*access, archive, decompress=decompress)
    assert f"'decompress': {decompress}}}]\n" in capsys.readouterr().out
    job = sim.jobs[set_up(inputfiles_list=inputfiles_list)]
    assert job.body["jobanalyses"][0]["inputFiles"] == [{"id": inputfiles_list[0]["id"], "decompress": decompress}]


def test_an_archive_given_packed_beside_another_file_is_left_to_the_command(access, run_job):
    """Two packed files are no volumes."""
    Path("rod.inp").write_text("x")
    archive = rescale.create_tar_gz()
    inputfiles_list = rescale.upload_local_files(*access, [archive, "rod.inp"], decompress=False)
    job_id = run_job(f"tar -xzf {ARCHIVE}", inputfiles_list=inputfiles_list)
    rescale.job_monitor(*access, job_id)


# What is refused, before anything is sent


@pytest.mark.parametrize(
    ("input_file", "named"),
    [
        ("no.inp", "no.inp"), (Path("no.inp"), "no.inp"), ("there.inp no.inp", "no.inp"), ("folder", "folder"),
        (["there.inp", "no.inp", "there.inp"], "no.inp"), (["folder"], "folder"), ("", "''"), ("  ", "'  '"),
        ([], "[]"), ([""], "input_file"), (None, "None"), (5, "5"), ([None], "[None]"),
    ],
    ids=itertools.count(),
)
def test_a_file_that_is_not_there_is_named_and_nothing_is_sent(input_file, named, access, sim):
    Path("there.inp").write_text("x")
    Path("folder").mkdir()
    with pytest.raises(rescale.RescaleError) as refused:
        rescale.upload_local_files(*access, input_file)
    assert named in str(refused.value)
    assert sim.requests == []


def test_without_an_archive_the_step_that_makes_it_is_named(access, sim):
    with pytest.raises(rescale.RescaleError, match=r"rescale\.tar\.gz.*create_tar_gz"):
        rescale.upload_local_files(*access)
    assert sim.requests == []


# In volumes


@pytest.fixture
def large(monkeypatch):
    """A file of seven volumes, the last one smaller than the others."""
    monkeypatch.setattr(rescale, "VOLUME", VOLUME)
    path = Path(ARCHIVE)
    path.write_bytes(random.randbytes(6 * VOLUME + 1000))
    return path


def joined(sim, inputfiles_list):
    """What a job would make of these volumes."""
    assert [entry["decompress"] for entry in inputfiles_list] == [False] * len(inputfiles_list)
    files = [sim.files[entry["id"]] for entry in inputfiles_list]
    assert [file.name for file in files] == [f"{ARCHIVE}.{number:03}" for number in range(1, len(files) + 1)]
    return b"".join(file.path.read_bytes() for file in files)


def test_a_large_file_goes_in_volumes_eight_at_once(access, sim, large, monkeypatch, capsys):
    large.write_bytes(random.randbytes(20 * VOLUME + 1))
    now, most = set(), [0]

    def count(record, when):
        (now.add if when == "before" else now.discard)(id(record))
        if when == "before" and max(most) < 8:  # the first of them wait for each other
            wait_until(lambda: len(now) >= 8)
            time.sleep(0.1)
        most.append(len(now))

    sim.on_request = count
    inputfiles_list = rescale.upload_local_files(*access)
    assert [file.size for file in sorted(sim.files.values(), key=lambda file: file.name)] == [VOLUME] * 20 + [1]
    assert joined(sim, inputfiles_list) == large.read_bytes()
    assert max(most) == 8
    assert posts(sim) == len(sim.requests) == 21
    assert capsys.readouterr().out == (
        f"- {ARCHIVE} uploaded\nAll files uploaded successfully!\ninputfiles_list = {inputfiles_list}\n"
    )


@pytest.mark.parametrize(("size", "volumes"), [
    (VOLUME, 1), (VOLUME + 1, 2), (64 * VOLUME, 64), (64 * VOLUME + 1, 64), (100 * VOLUME, 64),
])
def test_there_are_never_more_than_64_volumes(size, volumes, access, sim, large):
    content = random.randbytes(size)
    large.write_bytes(content)
    inputfiles_list = rescale.upload_local_files(*access)
    assert len(inputfiles_list) == volumes
    if volumes == 1:
        assert inputfiles_list[0]["decompress"] is True
        assert stored(sim) == [(ARCHIVE, content)]
    else:
        assert joined(sim, inputfiles_list) == content
        assert min(sim.files[entry["id"]].size for entry in inputfiles_list[:-1]) >= VOLUME


def test_what_is_not_to_be_unpacked_goes_whole(access, sim, large):
    large.rename("mesh.cgns")
    Path(ARCHIVE).write_bytes(b"x" * 3 * VOLUME)
    assert len(rescale.upload_local_files(*access, ["mesh.cgns"])) == 1
    assert len(rescale.upload_local_files(*access, decompress=False)) == 1
    assert [name for name, _ in stored(sim)] == ["mesh.cgns", ARCHIVE]


def test_a_chain_whose_input_comes_in_volumes_gets_it_bit_for_bit(access, sim, monkeypatch, set_up, capsys):
    """And the next job knows nothing of it."""
    monkeypatch.setattr(rescale, "VOLUME", 1 << 20)
    mesh = random.randbytes(8 << 20)
    Path("mesh file.bin").write_bytes(mesh)
    Path("a.inp").write_text("*heading\n")
    inputs = rescale.upload_local_files(*access, rescale.create_tar_gz())
    assert len(inputs) == 9
    results = []
    for name in ("first", "second"):
        job_id = set_up(job_name=name, command="ls > seen\nsha512sum *.bin > sum\n", inputfiles_list=inputs)
        rescale.job_submit(*access, name, job_id)
        rescale.job_monitor(*access, job_id)
        results.append(rescale.job_download(*access, name, job_id))
        inputs = rescale.file_previous_job(*access, job_id)
        assert len(inputs) == 1
    for [path] in results:
        with tarfile.open(path) as tar:
            read = {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
        assert read["mesh file.bin"] == mesh
        assert not [name for name in read if name.startswith(ARCHIVE)]
        assert not [line for line in read["seen"].decode().split() if line.startswith(ARCHIVE)]
        assert read["sum"].decode().split()[0] == hashlib.sha512(mesh).hexdigest()


@pytest.mark.parametrize("lost", [0, 3, 8], ids=["first", "middle", "last"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_job_without_one_of_its_volumes_fails_before_the_command(how, lost, access, sim, large, run_job):
    Path(ARCHIVE).unlink()
    Path("mesh.bin").write_bytes(random.randbytes(8 * VOLUME))
    inputs = rescale.upload_local_files(*access, rescale.create_tar_gz())
    assert len(inputs) == 9
    if how == "missing":
        del inputs[lost]
    else:
        path = sim.files[inputs[lost]["id"]].path
        path.write_bytes(path.read_bytes()[:-9] + b"\xff" * 9)
    job_id = run_job("echo has run > proof\n", inputfiles_list=inputs)
    with pytest.raises(rescale.JobFailed, match="volume"):
        rescale.job_monitor(*access, job_id)
    assert not any(file.name == ARCHIVE for file in map(sim.files.get, sim.jobs[job_id].files))
    with pytest.raises(rescale.RescaleError):
        rescale.file_previous_job(*access, job_id)


# What the platform holds already


def test_what_has_not_changed_is_not_sent_again(access, sim, capsys, monkeypatch):
    """Nor what is packed again from the same files."""
    Path("mesh.bin").write_bytes(random.randbytes(5 * VOLUME))
    for volume in (rescale.VOLUME, VOLUME):
        monkeypatch.setattr(rescale, "VOLUME", volume)
        first = rescale.upload_local_files(*access, rescale.create_tar_gz())
        sent = posts(sim)
        capsys.readouterr()
        assert rescale.upload_local_files(*access, rescale.create_tar_gz()) == first
        assert posts(sim) == sent
        assert capsys.readouterr().out.splitlines()[-3:] == [
            f"- {ARCHIVE} is on the platform already", "All files uploaded successfully!", f"inputfiles_list = {first}"
        ]
    assert rescale.upload_local_files(*access, ARCHIVE, decompress=False)[0]["decompress"] is False
    assert posts(sim) == sent  # its whole is there, too


def test_after_an_error_only_the_missing_parts_are_sent(access, sim, large, monkeypatch, capsys):
    """Those that arrived behind the ones that failed are not missing."""
    monkeypatch.setattr(rescale, "PATIENCE", 0)
    sim.faults.append(Fault("503", times=2))
    sim.on_request = lambda record, _: record.fault and wait_until(lambda: len(sim.files) == 5)
    with pytest.raises(rescale.RescaleError, match="503"):
        rescale.upload_local_files(*access)
    wait_until(lambda: JOURNAL.exists() and all(file_id in JOURNAL.read_text() for file_id in sim.files), 3)
    assert "All files uploaded" not in capsys.readouterr().out
    inputfiles_list = rescale.upload_local_files(*access)
    assert posts(sim) == 7 + 2
    assert joined(sim, inputfiles_list) == large.read_bytes()
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"- {ARCHIVE}: 5 of 7 parts are on the platform already", f"- {ARCHIVE} uploaded"
    ]


def test_only_the_part_that_has_changed_is_sent(access, sim, large):
    rescale.upload_local_files(*access)
    with large.open("r+b") as file:
        file.seek(3 * VOLUME + 5)
        file.write(b"changed")
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    assert posts(sim) == 7 + 1


def test_volumes_of_the_same_content_keep_their_own_names(access, sim, large):
    large.write_bytes(bytes(5 * VOLUME))
    first = rescale.upload_local_files(*access)
    assert joined(sim, first) == large.read_bytes()
    assert rescale.upload_local_files(*access) == first
    large.write_bytes(bytes(6 * VOLUME))
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    assert posts(sim) == 6


UNCONFIRMED = {  # what the platform may say of a file that the journal names
    "deleted": {"is_deleted": True}, "of another size": {"size": VOLUME - 1}, "of another name": {"name": "x.002"},
    "of another sum": {"sha512": "ab" * 64}, "not whole yet": {"is_uploaded": False},
}


@pytest.mark.parametrize("difference", [*UNCONFIRMED, "unknown"])
def test_what_the_platform_does_not_confirm_is_sent_again(difference, access, sim, large):
    second = rescale.upload_local_files(*access)[1]["id"]
    if difference == "unknown":
        del sim.files[second]
    for name, value in UNCONFIRMED.get(difference, {}).items():
        setattr(sim.files[second], name, value)
    inputfiles_list = rescale.upload_local_files(*access)
    assert posts(sim) == 7 + 1
    assert inputfiles_list[1]["id"] != second
    assert joined(sim, inputfiles_list) == large.read_bytes()
    assert rescale.upload_local_files(*access) == inputfiles_list
    assert posts(sim) == 7 + 1


@pytest.mark.parametrize("algorithms", ["md5", "none"])
def test_without_a_sha_512_of_the_platform_nothing_is_taken_for_uploaded(algorithms, access, sim, large):
    sim.checksums = algorithms
    for count in (7, 14):
        assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
        assert posts(sim) == count


@pytest.mark.parametrize("kind", ["empty", "cut off", "zeros", "of another file", "ids interchanged", "a folder"])
def test_a_journal_that_is_no_good_costs_an_upload_and_never_a_wrong_input(kind, access, sim, large):
    rescale.upload_local_files(*access)
    text = JOURNAL.read_text()
    known = text.split()
    if kind == "a folder":  # which cannot be written either, as in a folder without rights
        JOURNAL.unlink()
        JOURNAL.mkdir()
    elif kind == "of another file":
        Path("other.tar.gz").write_bytes(random.randbytes(2 * VOLUME))
        rescale.upload_local_files(*access, "other.tar.gz")
        Path(".other.tar.gz.uploaded").replace(JOURNAL)
    else:
        JOURNAL.write_text({
            "empty": "", "cut off": text[: len(text) // 2], "zeros": "\0" * len(text),
            "ids interchanged": "".join(f"{known[i]} {known[(i + 3) % 14]}\n" for i in range(0, 14, 2)),
        }[kind])
    before = posts(sim)
    inputfiles_list = rescale.upload_local_files(*access)
    assert joined(sim, inputfiles_list) == large.read_bytes()
    assert posts(sim) - before == (4 if kind == "cut off" else 7)
    if kind != "a folder":  # and from now on it is a good one
        assert rescale.upload_local_files(*access) == inputfiles_list


def test_what_another_platform_or_account_holds_is_not_taken_for_this_ones(access, sim, large, tmp_path):
    first = rescale.upload_local_files(*access)
    with Simulator(tmp_path / "other", speed=0) as other:
        theirs = other.url, f"Token {other.token}"
        inputfiles_list = rescale.upload_local_files(*theirs)
        assert joined(other, inputfiles_list) == large.read_bytes()
        assert rescale.upload_local_files(*theirs) == inputfiles_list
        assert posts(other) == 7
    assert rescale.upload_local_files(*access) == first
    assert posts(sim) == 7


# Trouble on the way


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "corrupt"])
@pytest.mark.parametrize("skip", [0, 3, 6])
def test_a_volume_that_fails_is_repeated_whole(fault, skip, access, sim, large, monkeypatch):
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 0.3)
    Path("small.inp").write_text("x")
    rescale.upload_local_files(*access, "small.inp")  # a platform that has never answered gets less patience
    sim.faults.append(Fault(fault, skip=skip, seconds=0.6 if "timeout" in fault else 0.2))
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    assert sim.faults[0].hits == 1


def test_an_upload_that_is_refused_is_not_repeated(sim, fast, archive):
    with pytest.raises(rescale.RescaleError, match="401") as refused:
        rescale.upload_local_files(sim.url, "Token wrong-wrong-wrong")
    assert "wrong-wrong" not in str(refused.value)
    assert paths_asked(sim, "POST") == ["files/contents/"]


def test_of_two_files_the_one_that_arrived_is_not_called_all(access, clock, sim, archive, capsys):
    Path("second.inp").write_text("x")
    sim.faults.append(Fault("redirect", skip=1, times=1000))
    with pytest.raises(rescale.RescaleError):
        rescale.upload_local_files(*access, [ARCHIVE, "second.inp"])
    out = capsys.readouterr().out
    assert f"- {ARCHIVE} uploaded" in out
    assert "second.inp uploaded" not in out
    assert "All files uploaded" not in out


def rewrite(path):
    with path.open("r+b") as file:
        file.write(random.randbytes(path.stat().st_size))


def shrink(path):
    os.truncate(path, 2 * VOLUME + 5)


def grow(path):
    with path.open("ab") as file:
        file.write(b"x" * 5000)


@pytest.mark.parametrize("change", [rewrite, shrink, grow])
@pytest.mark.parametrize("moment", ["first volume", "between volumes", "at a retry"])
@pytest.mark.parametrize("whole", [False, True], ids=["volumes", "whole"])
def test_a_file_that_changes_while_it_is_sent_is_an_error(whole, moment, change, access, sim, large, monkeypatch):
    """Before anything can be set up with it."""
    if whole:
        monkeypatch.setattr(rescale, "VOLUME", 1 << 26)
    wanted = {"first volume": 1, "between volumes": 1 if whole else 5, "at a retry": 2}[moment]
    if moment == "at a retry":
        sim.faults.append(Fault("503"))

    def write_on(record, when):
        if when == "before" and len(sim.requests) >= wanted and not changed:
            changed.append(change)
            change(large)

    changed = []
    sim.on_request = write_on
    with pytest.raises(rescale.RescaleError, match=ARCHIVE):
        rescale.upload_local_files(*access)
    assert changed
    inputfiles_list = rescale.upload_local_files(*access)  # the next one sends it as it is by then
    read = b"".join(sim.files[entry["id"]].path.read_bytes() for entry in inputfiles_list)
    assert read == large.read_bytes()


@pytest.mark.parametrize("answer", [
    {"decryptedSize": 199_999}, {"fileChecksums": [{"hashFunction": "sha512", "fileHash": "0" * 128}]},
    {"md5": "0" * 32},
], ids=["size", "SHA-512", "MD5"])
def test_what_is_stored_otherwise_than_it_was_sent_is_not_taken(answer, clock, archive, capsys):
    connect(lambda _: (201, {"id": "abCdEf", **answer}))
    with pytest.raises(rescale.RescaleError, match=r"199999|sha512|md5"):
        rescale.upload_local_files(PLATFORM, TOKEN)
    assert "uploaded" not in capsys.readouterr().out
    connect(lambda _: (201, {"id": "abCdEf"}))  # one that says nothing of what it has stored is believed
    assert rescale.upload_local_files(PLATFORM, TOKEN) == [{"id": "abCdEf", "decompress": True}]


@pytest.mark.parametrize("body", [{"detail": "Too large."}, b"<html>413 Request Entity Too Large</html>"], ids=range(2))
def test_a_file_that_is_too_large_for_the_platform_is_told_with_its_size(body, clock, archive):
    transport = connect(lambda _: (413, body, {"Content-Type": "text/html"}))
    with pytest.raises(rescale.RescaleError, match=r"413.*rescale\.tar\.gz has 200,000 bytes"):
        rescale.upload_local_files(PLATFORM, TOKEN)
    assert transport.count == 1


def test_a_429_slows_all_connections(access, sim, large):
    """The seven requests that are on their way go on, no other one is sent before the time."""
    large.write_bytes(random.randbytes(20 * VOLUME))
    sim.faults.append(Fault("throttled", retry_after="160"))  # 0.8 s of these
    sim.on_request = lambda record, when: (
        not record.fault and when == "before" and len(sim.requests) <= 8 and time.sleep(0.3))
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    [told] = [record.time for record in sim.requests if record.fault]
    waited = [record.time - told for record in sim.requests]
    assert len([seconds for seconds in waited if seconds < 0.75]) <= 8
    assert len(waited) == 21


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_ends_all_connections_at_once(access, sim, large, monkeypatch):
    monkeypatch.setattr(rescale, "VOLUME", 8 << 20)  # more than the sockets hold
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 60)
    os.truncate(large, 0)
    os.truncate(large, 16 * (8 << 20))  # of nothing: takes no room
    sim.upload_rate = 6e6

    def interrupt(record, when):
        if len(sim.requests) == 8 and not interrupted:
            interrupted.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupted = []
    sim.on_request = interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest -n ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            rescale.upload_local_files(*access)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - interrupted[0] < 1.5
    time.sleep(2)  # by then all of them would have arrived
    assert len(sim.requests) == 8
    assert not sim.files


def test_two_files_of_one_name_are_refused_before_anything_is_sent(sim, access):
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "mesh.inp").write_text(folder)
    with pytest.raises(rescale.RescaleError, match="mesh.inp"):
        rescale.upload_local_files(*access, ["one/mesh.inp", "two/mesh.inp"])
    assert not sim.requests
