"""3. upload_local_files: what arrives on the platform, whole or in volumes, what is never sent twice, what is told.

| promise (design, function 3 and Uploads) | test |
|---|---|
| files arrive whole and in order, their length announced, not chunked, with the guide's lines | several, volumes |
| a name arrives as it is; what cannot travel in a form, is missing or there twice is refused first | name, missing |
| a large archive, and nothing else, goes in volumes of max(VOLUME, size / VOLUMES), eight at once | volumes |
| what the platform confirms by SHA-512 is not sent again; all else is, whatever the journal says | changed, confirm |
| after a change or an error only what is missing is sent (after a kill: test_kill.py) | confirm, only_what_is_missing |
| what fails on the way or is stored otherwise is sent again, whole; a refusal is told at once | the next two |
| a file that changes while it is sent is an error; Ctrl-C ends all connections at once | changes, ctrl_c |
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rescale_rest_api as rescale
from conftest import paths_asked, wait_until
from in_memory import PLATFORM, TOKEN, connect
from rescale_simulator import Fault, Simulator

ARCHIVE = "rescale.tar.gz"
JOURNAL = Path(f".{ARCHIVE}.uploaded")
VOLUME = 1 << 17  # bytes, instead of 16 MB
examples = settings(max_examples=30, deadline=None, database=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])


def posts(sim):
    return len(paths_asked(sim, "POST"))


def joined(sim, inputfiles_list):
    """What a job makes of these volumes."""
    files = [sim.files[entry["id"]] for entry in inputfiles_list]
    assert {entry["decompress"] for entry in inputfiles_list} == {False}
    assert [file.name for file in files] == [f"{ARCHIVE}.rescale-{number:03}" for number in range(1, len(files) + 1)]
    return b"".join(file.path.read_bytes() for file in files)


@pytest.fixture
def large(monkeypatch):
    """An archive of seven volumes, the last one smaller than the others."""
    monkeypatch.setattr(rescale, "VOLUME", VOLUME)
    monkeypatch.setattr(rescale, "VOLUME_FROM", VOLUME)
    Path(ARCHIVE).write_bytes(random.randbytes(6 * VOLUME + 1000))
    return Path(ARCHIVE)


@pytest.mark.parametrize("input_file", [
    "a.inp b.inp", "  a.inp \n b.inp ", ["a.inp", "b.inp"], (Path("a.inp"), "./b.inp"),
], ids=["separated by blanks", "by more blanks", "a list", "paths"])
def test_several_files_arrive_in_their_order_with_the_guides_lines(input_file, access, sim, capsys):
    for name in ("b.inp", "a.inp"):
        Path(name).write_text(name)
    inputfiles_list = rescale.upload_local_files(*access, input_file)
    assert [file.name for file in sim.files.values()] == ["a.inp", "b.inp"]
    assert inputfiles_list == [{"id": file_id, "decompress": True} for file_id in sim.files]
    first, second = sim.files
    assert capsys.readouterr().out == (
        "- a.inp uploaded\n- b.inp uploaded\nAll files uploaded successfully!\n"
        f"inputfiles_list = [{{'id': '{first}', 'decompress': True}}, {{'id': '{second}', 'decompress': True}}]\n")


@examples
@given(name=st.text("aZ0._-=~ ';*%&+#?:\n\r\t\\\"\x7f\udcff압력 해석é", min_size=1, max_size=30),
       kind=st.sampled_from([str, Path, lambda path: [path]]))  # a text with blanks is first taken for one name
def test_a_name_arrives_as_it_is_or_is_refused_before_anything_is_sent(name, kind, access, sim):
    path, asked = Path("x" * (not name.strip(".")) + name), len(sim.requests)
    path.write_text("x")
    if set(name) & set('\n\r\t\\"\x7f\udcff'):
        with pytest.raises(rescale.RescaleError, match="name"):
            rescale.upload_local_files(*access, kind(path))
        assert len(sim.requests) == asked
    else:
        [entry] = rescale.upload_local_files(*access, kind(path))
        assert sim.files[entry["id"]].name == path.name
    path.unlink()


@pytest.mark.parametrize(("input_file", "named"), [
    (ARCHIVE, f"{ARCHIVE}.*create_tar_gz"), (Path("no.inp"), "no.inp"), ("here.inp no.inp", "no.inp"), ("sub", "sub"),
    (["here.inp", "no.inp"], "no.inp"), (["sub"], "sub"), ("", "''"), ("  ", "'  '"), ([], r"\[\]"), ([""], "file"),
    ("long " * 60, "long"), (None, "None"), (5, "5"), ([None], "None"), (["here.inp", "sub/Here.inp"], "sub/Here.inp"),
], ids=repr)
def test_what_is_missing_or_of_one_name_is_named_and_nothing_is_sent(input_file, named, access, sim):
    Path("sub").mkdir()
    for name in ("here.inp", "sub/Here.inp"):
        Path(name).write_text("x")
    with pytest.raises(rescale.RescaleError, match=named):
        rescale.upload_local_files(*access, input_file)
    assert sim.requests == []


@examples
@given(size=st.integers(0, 30_000) | st.sampled_from([0, 3000, 3001, 8000, 8001, 16_000, 16_001]),
       other=st.sampled_from([{}, {}, {"input_file": "mesh.cgns"}, {"decompress": False}]))
def test_a_large_archive_goes_in_volumes_of_which_none_is_small_nor_are_there_many(size, other, access, sim):
    assert (rescale.VOLUME, rescale.VOLUMES, rescale.VOLUME_FROM) == (16 << 20, 128, 64 << 20)  # as shipped
    path = Path(other.get("input_file", ARCHIVE))
    path.write_bytes(random.randbytes(size))
    with mock.patch.multiple(rescale, VOLUME=1000, VOLUMES=8, VOLUME_FROM=3000):
        inputfiles_list = rescale.upload_local_files(*access, **other)
    last = [record.headers for record in sim.requests if record.method == "POST"][-1]
    assert ("Content-Length" in last, "Transfer-Encoding" in last) == (True, False)  # the platform takes no chunks
    if size <= 3000 or other:  # or what is not to be unpacked
        file = sim.files[inputfiles_list[0]["id"]]
        assert inputfiles_list == [{"id": file.id, "decompress": other.get("decompress", True)}]
        assert (file.name, file.path.read_bytes()) == (path.name, path.read_bytes())
    else:
        assert joined(sim, inputfiles_list) == path.read_bytes()
        assert len(inputfiles_list) == (8 if size > 7000 else -(-size // 1000))
        assert len({sim.files[entry["id"]].size for entry in inputfiles_list[:-1]}) == 1


def test_volumes_go_eight_at_once(access, sim, large, capsys):
    large.write_bytes(random.randbytes(20 * VOLUME + 1))
    now, most = set(), [0]

    def watch(record, when):
        (now.add if when == "before" else now.discard)(id(record))
        most.append(len(now))
        wait_until(lambda: max(most) >= 8)
        time.sleep(0.02)  # for a ninth one

    sim.on_request = watch
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    assert (max(most), posts(sim), len(sim.requests)) == (8, 21, 21)
    assert capsys.readouterr().out.startswith(f"- {ARCHIVE} uploaded\nAll files uploaded successfully!\n")


def test_what_has_not_changed_is_not_sent_again_even_packed_anew_or_sent_to_another_platform_meanwhile(
    access, sim, large, tmp_path, capsys
):
    for content in (b"small", random.randbytes(5 * VOLUME)):
        Path("mesh.bin").write_bytes(content)
        first = rescale.upload_local_files(*access, rescale.create_tar_gz())
        sent = posts(sim)
        with Simulator(tmp_path / str(sent), speed=0) as other:  # as when a chain is rehearsed in between
            rescale.upload_local_files(other.url, f"Token {other.token}")
            assert posts(other) == len(first)
        capsys.readouterr()
        assert rescale.upload_local_files(*access, rescale.create_tar_gz()) == first
        assert posts(sim) == sent
        assert f"\n- {ARCHIVE} is on the platform already\nAll files uploaded" in capsys.readouterr().out


def test_only_what_is_missing_is_sent(access, sim, large):
    """What has arrived behind the two that failed is not missing."""
    sim.faults.append(Fault("503", times=2))
    sim.on_request = lambda record, _: record.fault and wait_until(lambda: len(sim.files) == 5)
    impatient = mock.patch.object(rescale._Access.__new__, "__defaults__", (0, threading.Event()))
    with impatient, pytest.raises(rescale.RescaleError, match="503"):
        rescale.upload_local_files(*access)
    wait_until(lambda: len(JOURNAL.read_text().split()) == 10)
    sent = posts(sim)
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    assert posts(sim) - sent == 2


def rewrite(path):
    with path.open("r+b") as file:  # at once, not by and by
        file.write(b"changed")


UNCONFIRMED = {"is_deleted": True, "is_uploaded": False, "size": VOLUME - 1, "name": "x.002", "sha512": "ab" * 64}


@pytest.mark.parametrize(("spoil", "missing"), [
    *((lambda sim, file, name=name, value=value: setattr(file, name, value), 1) for name, value in UNCONFIRMED.items()),
    (lambda sim, file: sim.files.pop(file.id), 1), (lambda *_: rewrite(Path(ARCHIVE)), 1),
    (lambda sim, _: setattr(sim, "checksums", "md5"), 7), (lambda sim, _: setattr(sim, "checksums", "none"), 7),
    (lambda *_: os.truncate(JOURNAL, 0), 7), (lambda *_: os.truncate(JOURNAL, JOURNAL.stat().st_size // 2), 4),
    (lambda *_: JOURNAL.write_bytes(bytes(900)), 7), (lambda *_: (JOURNAL.unlink(), JOURNAL.mkdir()), 7),
    (lambda *_: JOURNAL.write_text(re.sub(r"(\w{6})(\s+\w{128}) (\w{6})\n", r"\3\2 \1\n", JOURNAL.read_text())), 6),
], ids=[*UNCONFIRMED, "unknown", "changed here", "only MD5", "no sum", "empty", "cut off", "zeros", "folder", "mixed"])
def test_what_the_platform_does_not_confirm_is_sent_again(spoil, missing, access, sim, large):
    spoil(sim, sim.files[rescale.upload_local_files(*access)[1]["id"]])
    sent = posts(sim)
    inputfiles_list = rescale.upload_local_files(*access)
    assert joined(sim, inputfiles_list) == large.read_bytes()
    assert posts(sim) - sent == missing
    if sim.checksums == "both" and JOURNAL.is_file():  # and from now on it is known
        assert rescale.upload_local_files(*access) == inputfiles_list


@pytest.mark.parametrize("fault", ["reset_midway", "timeout_after", "truncated", "throttled", "503_after", "redirect"])
def test_a_volume_that_fails_on_the_way_is_sent_again_whole(fault, access, sim, large, monkeypatch):
    monkeypatch.setattr(rescale, "UPLOAD_TIMEOUT", 1.5)
    sim.faults.append(Fault(fault, skip=3, seconds=3))
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()
    assert (sim.faults[0].hits, posts(sim)) == (1, 8)


STORED = (201, {"id": "abCdEf"})  # says nothing of what it is, and is believed
REFUSED = (413, {"detail": "Too large."})


@pytest.mark.parametrize(("answers", "error"), [
    *(([(201, {"id": "abCdEf", **otherwise}), STORED], None) for otherwise in (
        {"decryptedSize": 99_999}, {"md5": "0" * 32},
        {"fileChecksums": [{"hashFunction": "sha512", "fileHash": "0" * 128}]})),
    ([(201, {"id": "abCdEf", "name": "another"})], "another"), ([REFUSED], "413"),
    ([(*REFUSED, {"Content-Type": "text/html"})], r"(?=.*413)(?=.*b\.inp)"),
], ids=["size", "MD5", "SHA-512", "name", "too large", "too large for what is between"])
def test_what_is_stored_otherwise_than_it_was_sent_is_sent_again_and_a_refusal_told(answers, error, clock, capsys):
    for name in ("a.inp", "b.inp"):
        Path(name).write_bytes(bytes(100_000))
    left = iter([STORED, *answers])
    connect(lambda _: next(left))
    with pytest.raises(rescale.RescaleError, match=error) if error else contextlib.nullcontext():
        assert rescale.upload_local_files(PLATFORM, TOKEN, "a.inp b.inp") == [{"id": "abCdEf", "decompress": True}] * 2
    assert not list(left)
    assert capsys.readouterr().out.startswith("- a.inp uploaded\n" + "- b.inp uploaded\n" * (not error))


@pytest.mark.parametrize("change", [
    rewrite, *(lambda path, size=n * VOLUME: os.truncate(path, size) for n in (2, 9)),
], ids=["is rewritten", "shrinks", "grows"])
@pytest.mark.parametrize("moment", [1, 5, 8], ids=["at once", "in the middle", "before a volume is sent again"])
def test_a_file_that_changes_while_it_is_sent_is_an_error_before_anything_is_set_up(moment, change, access, sim, large):
    sim.faults.append(Fault("503"))
    sim.on_request = lambda record, when: (
        (when, [record]) == ("before", sim.requests[moment - 1 : moment]) and change(large))
    with pytest.raises(rescale.RescaleError, match=ARCHIVE):
        rescale.upload_local_files(*access)
    assert joined(sim, rescale.upload_local_files(*access)) == large.read_bytes()  # as it is by then


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_ends_all_connections_at_once(access, sim, large):
    os.truncate(large, 16 * (8 << 20))  # of nothing: takes no room
    sim.upload_rate = 6e6
    sim.on_request = lambda record, when: (when, [record]) == ("before", sim.requests[7:8]) and (
        began.append(time.monotonic()), signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    began, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest -n ignores it
    with mock.patch.multiple(rescale, VOLUME=8 << 20, UPLOAD_TIMEOUT=60), pytest.raises(KeyboardInterrupt):
        rescale.upload_local_files(*access)
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began[0] < 1.5
    time.sleep(2)  # by then the first ones would have arrived
    assert not sim.files
