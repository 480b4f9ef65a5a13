"""The simulator is what the other tests stand on: here it is held against what rescale-api.md says."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from conftest import wait_until
from rescale_simulator import FAULTS, LOG, Fault, Simulator

SIMULATOR = Path(__file__).with_name("rescale_simulator.py")
HARDWARE = {"coreType": "emerald", "coresPerSlot": 2, "slots": 1, "walltime": 1}
TILE = {"analysis": {"code": "user_included", "version": "0"}, "command": "true", "hardware": HARDWARE}
BROKEN = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class Api:
    """What a client sends, in one line each."""

    def __init__(self, url, token):
        self.root = url + "/api/v2/"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Token {token}"

    def __call__(self, method, path, **options):
        options.setdefault("timeout", 20)
        return self.session.request(method, self.root + path, **options)

    def get(self, path, **options):
        return self("GET", path, **options)

    def post(self, path, **options):
        return self("POST", path, **options)

    def upload(self, name, content):
        answer = self.post("files/contents/", files={"file": (name, content)})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def create(self, command="true", inputs=(), name="job", **tile):
        tile = {**TILE, "command": command, "inputFiles": list(inputs), **tile}
        answer = self.post("jobs/", json={"name": name, "jobanalyses": [tile]})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def submit(self, job_id):
        return self.post(f"jobs/{job_id}/submit/").status_code

    def history(self, job_id):
        """Statuses with reasons, oldest first."""
        entries = self.get(f"jobs/{job_id}/statuses/?page_size=99").json()["results"]
        entries.sort(key=lambda entry: entry["statusDate"])
        return [(entry["status"], entry["statusReason"]) for entry in entries]

    def outputs(self, job_id):
        """Contents of the output files by their relative paths."""
        files = self.get(f"jobs/{job_id}/files/?page_size=99").json()["results"]
        return {file["relativePath"]: self.session.get(file["downloadUrl"]).content for file in files}


@pytest.fixture
def sim(tmp_path):
    with Simulator(tmp_path / "platform", speed=0) as simulator:
        yield simulator


@pytest.fixture
def api(sim):
    return Api(sim.url, sim.token)


@pytest.fixture
def run(sim, api):
    """Create, submit and wait for a job; return its id."""

    def go(*arguments, **options):
        job_id = api.create(*arguments, **options)
        assert api.submit(job_id) == 200
        wait_until(lambda: sim.jobs[job_id].ended)
        return job_id

    return go


def tar_gz(*members):
    """An archive of (name, content) and of (name, type, link target)."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as bundle:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if len(rest) == 2:
                info.type, info.linkname = rest
                bundle.addfile(info)
            else:
                info.size = len(rest[0])
                bundle.addfile(info, io.BytesIO(rest[0]))
    return memory.getvalue()


# Who may ask, and how


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ({"Authorization": None}, "Authentication credentials were not provided."),
        ({"Authorization": "Basic abc"}, "Authentication credentials were not provided."),
        ({"Authorization": "Token 0123"}, "Invalid token."),
    ],
)
def test_without_the_right_token_everything_is_401(api, header, detail):
    for path in ("users/me/", "jobs/", "files/abcdef/contents/", "nothing/"):
        answer = api.get(path, headers=header)
        assert (answer.status_code, answer.json()) == (401, {"detail": detail})


def test_the_account_the_projects_and_the_catalogue_are_there(api):
    me = api.get("users/me/").json()
    assert "@" in me["email"]
    assert me["maxJobHours"] == 48
    assert {"id", "name"} <= set(api.get("users/me/projects/").json()["results"][0])
    types = {one["code"]: one for one in api.get("coretypes/?page_size=99").json()["results"]}
    assert {"emerald", "starlite_max", "onyx", "granite"} <= set(types)
    assert types["granite"]["cores"][0] == 2
    assert any(one["isDeprecated"] for one in types.values())
    active = api.get("coretypes/?isActive=true&page_size=99").json()["results"]
    assert 0 < len(active) < len(types)
    tiles = {one["code"]: one for one in api.get("analyses/?page_size=1000").json()["results"]}
    assert len(tiles) >= 700
    assert [one["versionCode"] for one in tiles["user_included"]["versions"]][0] == "0"
    assert "2022-2241" in [one["versionCode"] for one in tiles["abaqus"]["versions"]]


@pytest.mark.parametrize("path", ["jobs/abcdef/", "jobs/abcdef/statuses/", "files/abcdef/", "files/abcdef/contents/"])
def test_an_unknown_id_is_404(api, path):
    answer = api.get(path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})


def test_a_get_without_the_last_slash_is_redirected_with_its_query(sim, api):
    answer = api.get("coretypes?page_size=3", allow_redirects=False)
    assert answer.status_code == 301
    assert answer.headers["Location"] == "/api/v2/coretypes/?page_size=3"
    assert len(api.get("coretypes?page_size=3").json()["results"]) == 3


def test_a_post_without_the_last_slash_does_nothing(sim, api):
    job_id = api.create()
    assert api.post(f"jobs/{job_id}/submit").status_code == 404
    assert api.post("jobs", json={"name": "x", "jobanalyses": [TILE]}).status_code == 404
    assert len(sim.jobs) == 1
    assert not sim.starts
    assert api.history(job_id) == []


def test_a_method_that_does_not_exist_is_405(api):
    answer = api.post("users/me/")
    assert (answer.status_code, answer.json()["detail"]) == (405, 'Method "POST" not allowed.')


def test_requests_are_recorded_in_order_and_hooks_come_before_and_after_the_deed(sim, api):
    seen = []
    sim.on_request = lambda record, when: seen.append((when, record.method, record.status, len(sim.files)))
    api.upload("a.txt", b"a")
    sim.on_request = None
    api.get("files/?search=a&page_size=5")
    assert seen == [("before", "POST", None, 0), ("after", "POST", None, 1)]
    post, get = sim.requests
    assert (post.method, post.path, post.status) == ("POST", "/api/v2/files/contents/", 201)
    assert (get.path, get.query, get.status) == ("/api/v2/files/", {"search": "a", "page_size": "5"}, 200)
    assert get.headers["Authorization"] == f"Token {sim.token}"
    assert post.time <= get.time <= time.time()


def test_a_connection_serves_many_requests_even_after_refused_uploads(sim):
    connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=10)
    connection.connect()
    wire = connection.sock
    requests_and_answers = [
        ("GET", "users/me/", sim.token, b"", 200),
        ("POST", "files/contents/", "wrong", b"x" * 300_000, 401),
        ("POST", "files/contents/", sim.token, b"x" * 300_000, 400),
        ("POST", "jobs/", sim.token, b"{", 415),
        ("DELETE", "jobs/abcdef/", sim.token, b"x" * 1000, 404),
        ("HEAD", "users/me/", sim.token, b"", 200),
        ("GET", "users/me/", sim.token, b"", 200),
    ]
    for method, path, token, body, status in requests_and_answers:
        connection.request(method, "/api/v2/" + path, body, {"Authorization": f"Token {token}"})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (status, method != "HEAD")
        assert connection.sock is wire
    times = []
    for _ in range(20):
        begin = time.monotonic()
        connection.request("GET", "/api/v2/users/me/", headers={"Authorization": f"Token {sim.token}"})
        connection.getresponse().read()
        times.append(time.monotonic() - begin)
    assert min(times) < 0.03, "answers wait for acknowledgements"
    connection.close()


# Lists


def test_lists_come_in_pages_with_absolute_links(sim, api):
    first = api.get("coretypes/?isActive=true&page_size=4").json()
    assert list(first) == ["count", "next", "previous", "results"]
    assert first["previous"] is None
    assert first["next"].startswith(sim.url + "/api/v2/coretypes/?")
    seen, page = [one["code"] for one in first["results"]], first
    while page["next"]:
        previous, page = page, api.session.get(page["next"]).json()
        seen += [one["code"] for one in page["results"]]
        assert api.session.get(page["previous"]).json()["results"] == previous["results"]
    assert len(seen) == len(set(seen)) == first["count"] > 8
    assert len(api.get("analyses/").json()["results"]) == 10
    assert api.get("coretypes/?page=99").json() == {"detail": "Invalid page."}


def test_next_can_be_as_odd_as_the_sources_have_seen_it(sim, api):
    sim.next_without_slash = True
    assert "/api/v2/coretypes?" in api.get("coretypes/").json()["next"]
    sim.next_without_slash, sim.next_foreign = False, "http://elsewhere.example"
    assert api.get("coretypes/").json()["next"].startswith("http://elsewhere.example/api/v2/coretypes/?")
    sim.next_foreign, sim.next_drops_query = None, True
    assert "isActive" not in api.get("coretypes/?isActive=true").json()["next"]
    sim.page_size_cap = 2
    assert len(api.get("coretypes/?page_size=1000").json()["results"]) == 2


# Files


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_upload_becomes_a_file_with_its_checksums(sim, api, method):
    content = os.urandom(700_001)
    answer = api(method, "files/contents/", files={"file": ("모델 1.tar.gz", content)})
    assert answer.status_code == 201
    file = answer.json()
    assert file["name"] == file["relativePath"] == "모델 1.tar.gz"
    assert (file["typeId"], file["decryptedSize"], file["isUploaded"], file["isDeleted"]) == (1, 700_001, True, False)
    assert file["fileChecksums"] == [{"hashFunction": "sha512", "fileHash": hashlib.sha512(content).hexdigest()}]
    assert file["md5"] == hashlib.md5(content).hexdigest()
    assert api.get(f"files/{file['id']}/").json() == file
    assert api.session.get(file["downloadUrl"]).content == content
    assert api.upload("모델 1.tar.gz", b"again")["id"] != file["id"]
    assert [one["name"] for one in api.get("files/?search=모델").json()["results"]] == ["모델 1.tar.gz"] * 2
    assert api.get("files/?search=none").json()["count"] == 0


@pytest.mark.parametrize(
    ("checksums", "sha512", "md5"), [("sha512", 1, False), ("md5", 0, True), ("both", 1, True), ("none", 0, False)]
)
def test_checksums_can_be_missing(sim, api, checksums, sha512, md5):
    sim.checksums = checksums
    file = api.upload("a.txt", b"a")
    assert (len(file["fileChecksums"]), bool(file["md5"])) == (sha512, md5)


def test_a_file_name_is_its_last_part_only(sim, api):
    assert api.upload("../../etc/x.sh", b"")["name"] == "x.sh"
    assert api.upload("C:\\\\work\\\\y.inp", b"")["name"] == "y.inp"
    assert api.post("files/contents/", files={"file": ("..", b"")}).json() == {"file": ["No file was submitted."]}


def test_an_upload_without_the_part_is_400_and_leaves_nothing(sim, api):
    answer = api.post("files/contents/", files={"other": ("a.txt", b"a" * 100)})
    assert (answer.status_code, list(answer.json())) == (400, ["file"])
    assert not sim.files
    assert list((sim.folder / "files").iterdir()) == []


def test_a_chunked_upload_is_refused(sim, api):
    answer = api.post("files/contents/", data=iter([b"--x\r\n", b"a" * 1000]),
                      headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert sim.requests[-1].headers["Transfer-Encoding"] == "chunked"
    assert answer.status_code == 411
    assert not sim.files


def test_an_upload_that_breaks_off_leaves_nothing(sim):
    head = (f"POST /api/v2/files/contents/ HTTP/1.1\r\nHost: x\r\nAuthorization: Token {sim.token}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n')
    with socket.create_connection(("127.0.0.1", sim.port)) as connection:
        connection.sendall(head.encode() + b"a" * 300_000)
        wait_until(lambda: list((sim.folder / "files").iterdir()))
    wait_until(lambda: not list((sim.folder / "files").iterdir()))
    assert not sim.files


@pytest.mark.parametrize(
    ("wanted", "status", "part", "content_range"),
    [
        (None, 200, slice(None), None),
        ("bytes=0-0", 206, slice(0, 1), "bytes 0-0/2000000"),
        ("bytes=10-1500009", 206, slice(10, 1500010), "bytes 10-1500009/2000000"),
        ("bytes=1999990-", 206, slice(1999990, None), "bytes 1999990-1999999/2000000"),
        ("bytes=1999990-9999999", 206, slice(1999990, None), "bytes 1999990-1999999/2000000"),
        ("bytes=-7", 206, slice(-7, None), "bytes 1999993-1999999/2000000"),
        ("bytes=2000000-", 416, slice(0, 0), "bytes */2000000"),
        ("bytes=x", 200, slice(None), None),
    ],
)
def test_contents_come_whole_or_in_ranges(api, wanted, status, part, content_range):
    content = os.urandom(2_000_000)
    file = api.upload("a.bin", content)
    answer = api.get(f"files/{file['id']}/contents/", headers={"Range": wanted})
    assert answer.status_code == status
    assert answer.content == content[part]
    assert int(answer.headers["Content-Length"]) == len(content[part])
    assert answer.headers.get("Content-Range") == content_range


def test_a_server_may_ignore_ranges_or_send_slowly(sim, api):
    file = api.upload("a.bin", b"0123456789")
    sim.ignore_range, sim.rate = True, 40
    begin = time.monotonic()
    answer = api.get(f"files/{file['id']}/contents/", headers={"Range": "bytes=3-"})
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert 0.2 < time.monotonic() - begin < 5


def test_contents_can_be_elsewhere_where_the_token_must_not_go(sim, api):
    sim.contents_redirect = True
    file = api.upload("a.bin", b"0123456789")
    answer = api.get(f"files/{file['id']}/contents/", headers={"Range": "bytes=4-5"}, allow_redirects=False)
    assert answer.status_code == 302
    elsewhere = answer.headers["Location"]
    assert f":{sim.port}/" not in elsewhere
    assert api.get(f"files/{file['id']}/contents/", headers={"Range": "bytes=4-5"}).content == b"45"
    assert [("Authorization" in one.headers, one.status) for one in sim.storage_requests] == [(False, 206)]
    assert requests.get(elsewhere, headers={"Authorization": f"Token {sim.token}"}).status_code == 400
    assert "Authorization" in sim.storage_requests[-1].headers


def test_lines_of_a_text_file_keep_their_ends(api):
    file = api.upload("a.txt", "a\n\nb\r\n마지막".encode())
    assert api.get(f"files/{file['id']}/lines/").json() == {"lines": ["a\n", "\n", "b\r\n", "마지막"]}
    assert api.get(f"files/{api.upload('b', bytes([255, 254]))['id']}/lines/").status_code == 400


def test_a_deleted_file_has_no_contents_any_more_and_cannot_be_an_input(sim, api):
    file = api.upload("a.txt", b"a")
    job_id = api.create(inputs=[{"id": file["id"]}])
    assert api("DELETE", f"files/{file['id']}/").status_code == 204
    assert api.get(f"files/{file['id']}/").json()["isDeleted"] is True
    assert api.get(f"files/{file['id']}/contents/").status_code == 404
    refused = api.post("jobs/", json={"name": "x", "jobanalyses": [{**TILE, "inputFiles": [{"id": file["id"]}]}]})
    assert refused.status_code == 400
    assert "id" in refused.json()["jobanalyses"][0]["inputFiles"][0]
    assert api.submit(job_id) == 400
    assert not sim.starts


# New jobs


def test_a_new_job_is_a_draft_and_shows_what_was_asked_for(sim, api):
    file = api.upload("a.txt", b"a")
    body = {"name": "u@j@1", "project_id": "xDdRk", "isLowPriority": "false", "tags": ["ignored"], "jobanalyses": [{
        "analysis": {"code": "abaqus", "version": "2022-2241"}, "command": "abaqus job=x\n", "unknown": 1,
        "hardware": {"coreType": "emerald", "coresPerSlot": "72", "walltime": "3", "type": "compute"},
        "inputFiles": [{"id": file["id"]}], "envVars": {"A": "1"}, "useRescaleLicense": "true",
        "onDemandLicenseSeller": "", "userDefinedLicenseSettings": {"featureSets": []},
    }]}
    answer = api.post("jobs/", json=body)
    assert answer.status_code == 201
    job = answer.json()
    assert api.get(f"jobs/{job['id']}/").json() == job
    assert sim.jobs[job["id"]].body == body
    assert (job["name"], job["projectId"], job["isLowPriority"]) == ("u@j@1", "xDdRk", False)
    tile = job["jobanalyses"][0]
    assert tile["analysis"] == {"code": "abaqus", "name": "Abaqus", "version": "2022-2241", "versionName": "2022 HF3"}
    assert tile["hardware"].pop("coreSummary")["numberOfNodes"] == 2
    assert tile["hardware"] == {"coreType": "emerald", "coresPerSlot": 72, "slots": 1, "walltime": 3}
    assert (tile["envVars"], tile["useRescaleLicense"]) == ({"A": "1"}, True)
    assert (tile["inputFiles"][0]["id"], tile["inputFiles"][0]["decompress"]) == (file["id"], True)
    assert not {"status", "jobStatus", "unknown", "tags"} & {*job, *tile}
    assert api.get(f"jobs/{job['id']}/statuses/").json()["results"] == []
    assert api.get("jobs/").json()["results"][0]["jobStatus"]["content"] == ""


def hardware(**changes):
    return {"hardware": {**HARDWARE, **changes}}


@pytest.mark.parametrize(
    ("tile", "where"),
    [
        ({"analysis": None}, "analysis"),
        ({"analysis": {"code": "nastran"}}, "analysis.code"),
        ({"analysis": {"code": ["x"]}}, "analysis.code"),
        ({"analysis": {"code": "abaqus", "version": "6.1"}, "command": "abaqus"}, "analysis.version"),
        ({"analysis": {"code": "abaqus"}, "command": "solve"}, "command"),
        ({"command": None}, "command"),
        ({"command": " \n"}, "command"),
        ({"hardware": None}, "hardware"),
        (hardware(coreType=None), "hardware.coreType"),
        (hardware(coreType={"code": "emerald"}), "hardware.coreType"),
        (hardware(coreType="topaz"), "hardware.coreType"),
        (hardware(coreType="marble"), "hardware.coreType"),
        (hardware(coresPerSlot=None), "hardware.coresPerSlot"),
        (hardware(coresPerSlot="two"), "hardware.coresPerSlot"),
        (hardware(coresPerSlot=0), "hardware.coresPerSlot"),
        (hardware(coresPerSlot=7), "hardware.coresPerSlot"),
        (hardware(coresPerSlot=40), "hardware.coresPerSlot"),
        (hardware(coreType="granite", coresPerSlot=1), "hardware.coresPerSlot"),
        (hardware(slots=0), "hardware.slots"),
        (hardware(walltime=49), "hardware.walltime"),
        (hardware(walltime=0), "hardware.walltime"),
        (hardware(walltime="long"), "hardware.walltime"),
        (hardware(coreType="jade", coresPerSlot=4, walltime=None), "hardware.walltime"),
        ({"inputFiles": [{"id": "nOtHeRe"}]}, "inputFiles.0.id"),
        ({"inputFiles": ["nOtHeRe"]}, "inputFiles.0.id"),
        ({"envVars": ["A=1"]}, "envVars"),
        ({"onDemandLicenseSeller": {"code": "x"}, "userDefinedLicenseSettings": {"featureSets": [{"name": "x"}]}},
         "onDemandLicenseSeller"),
    ],
)
def test_what_the_platform_would_refuse_is_400_with_the_place_of_the_error(sim, api, tile, where):
    answer = api.post("jobs/", json={"name": "x", "jobanalyses": [TILE, {**TILE, **tile}]})
    assert answer.status_code == 400
    fine, error = answer.json()["jobanalyses"]
    assert fine == {}
    for key in where.split("."):
        error = error[int(key) if key.isdigit() else key]
    assert all(isinstance(text, str) for text in error)
    assert error
    assert not sim.jobs


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"jobanalyses": [TILE]}, "name"),
        ({"name": "x"}, "jobanalyses"),
        ({"name": "x", "jobanalyses": []}, "jobanalyses"),
        ({"name": "x", "jobanalyses": [TILE], "projectId": "nOnE"}, "projectId"),
        ([], "non_field_errors"),
    ],
)
def test_a_job_without_its_main_parts_is_400(sim, api, body, key):
    answer = api.post("jobs/", json=body)
    assert (answer.status_code, list(answer.json())) == (400, [key])
    assert not sim.jobs


@pytest.mark.parametrize(
    "tile",
    [
        {"analysis": {"code": "abaqus"}, "command": "solve", "flags": {"igCv": True}},
        {"analysis": {"code": "abaqus", "version": "2022-2241"}, "command": "abq2022 job=x"},
        hardware(coresPerSlot=72),
        hardware(coreType="granite", coresPerSlot=2),
        hardware(coreType="nickel"),
        hardware(walltime=None),
        hardware(walltime=48),
        {"onDemandLicenseSeller": None, "userDefinedLicenseSettings": {"featureSets": [{"name": "x", "features": []}]}},
    ],
)
def test_what_the_platform_would_take_is_taken(api, tile):
    assert api.post("jobs/", json={"name": "x", "jobanalyses": [{**TILE, **tile}]}).status_code == 201


def test_a_workspace_may_want_a_project(sim, api):
    sim.project_required = True
    assert list(api.post("jobs/", json={"name": "x", "jobanalyses": [TILE]}).json()) == ["projectId"]
    assert api.post("jobs/", json={"name": "x", "jobanalyses": [TILE], "projectId": "xDdRk"}).status_code == 201


def test_what_is_not_json_is_refused(api):
    assert api.post("jobs/", data="{", headers={"Content-Type": "application/json"}).status_code == 400
    assert api.post("jobs/", data={"name": "x"}).status_code == 415


def test_a_patch_changes_a_draft_but_not_a_job_that_has_ended(api, run):
    draft = api.create()
    assert api("PATCH", f"jobs/{draft}/", json={"projectId": "xDdRk"}).json()["projectId"] == "xDdRk"
    assert api("PATCH", f"jobs/{draft}/", json={"projectId": "nOnE"}).status_code == 400
    done = run()
    answer = api("PATCH", f"jobs/{done}/", json={"projectId": "xDdRk"})
    assert (answer.status_code, answer.json()["projectId"]) == (200, None)


# Submitted jobs


def test_a_job_runs_from_pending_to_completed(sim, api, run):
    before = time.time()
    job_id = run("echo hello > out.txt")
    assert api.history(job_id) == [
        ("Pending", None), ("Queued", None), ("Started", None), ("Validated", None), ("Executing", None),
        ("Completed", "Completed successfully"),
    ]
    assert api.outputs(job_id)["out.txt"] == b"hello\n"
    assert sim.starts == {job_id: 1}
    assert before < sim.finish_time(job_id) < time.time()
    entries = api.get(f"jobs/{job_id}/statuses/").json()["results"]
    assert {"id", "jobId", "status", "statusDate", "statusReason"} <= set(entries[0])
    shown = api.get("jobs/?state=completed").json()["results"][0]
    assert (shown["id"], shown["jobStatus"]["content"]) == (job_id, "Completed")
    assert api.get("jobs/?state=not_completed").json()["count"] == 0


def test_the_statuses_come_newest_first_with_an_offset_or_otherwise(sim, api, run):
    job_id = run()
    entries = api.get(f"jobs/{job_id}/statuses/").json()["results"]
    dates = [entry["statusDate"] for entry in entries]
    assert entries[0]["status"] == "Completed"
    assert dates == sorted(set(dates), reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", date) for date in dates)
    sim.newest_first, sim.date_style = False, "Z"
    entries = api.get(f"jobs/{job_id}/statuses/").json()["results"]
    assert [entry["statusDate"] for entry in entries] == [date.replace("+00:00", "Z") for date in reversed(dates)]


def test_speed_one_takes_some_seconds_and_speed_is_a_factor(sim, run):
    sim.speed = 0.1
    begin = time.monotonic()
    run()
    assert 0.4 < time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("quirks", "history"),
    [
        ({}, [("Stopping", "A run failed"), ("Completed", "A run failed")]),
        ({"failed_reason": None}, [("Stopping", "A run failed"), ("Completed", None)]),
        ({"stopping_entry": False, "failed_reason": ""}, [("Completed", "")]),
        ({"ignore_exit_codes": True}, [("Completed", "Completed successfully")]),
        ({"last_status": "Failed"}, [("Stopping", "A run failed"), ("Failed", "A run failed")]),
    ],
)
def test_a_failed_command_shows_in_the_reasons_as_far_as_the_platform_tells(sim, api, run, quirks, history):
    for name, value in quirks.items():
        setattr(sim, name, value)
    job_id = run("echo partial > out.txt; exit 3")
    assert api.history(job_id)[5:] == history
    outputs = api.outputs(job_id)
    assert outputs["out.txt"] == b"partial\n"
    assert re.search(rb"\]: Exited with code 3\n\[.*Z\]: \n$", outputs[LOG])


def test_a_success_may_have_another_reason_and_a_timeline_other_statuses(sim, api, run):
    sim.success_reason = None
    sim.timeline = ("Pending", "Waiting for Queue", "Queued", "Started", "Executing", "Queued", "Started", "Executing")
    job_id = run()
    assert api.history(job_id) == [(status, None) for status in (*sim.timeline, "Completed")]


def test_a_job_without_capacity_ends_without_a_run(sim, api, run):
    sim.never_runs = "Could not allocate compute resources from the compute provider"
    job_id = run("touch out.txt")
    assert api.history(job_id) == [("Pending", None), ("Queued", None), ("Completed", sim.never_runs)]
    assert api.outputs(job_id) == {}
    assert api.get(f"jobs/{job_id}/runs/").json()["count"] == 0
    assert not (sim.jobs[job_id].work / "out.txt").exists()


def test_a_second_submit_of_an_ended_job_does_nothing_or_is_400(sim, api, run):
    job_id = run()
    history = api.history(job_id)
    assert api.submit(job_id) == 200
    sim.resubmit_completed = "400"
    assert api.submit(job_id) == 400
    assert api.history(job_id) == history
    assert sim.starts[job_id] == 1


@pytest.mark.parametrize(("resubmit", "status", "runs"), [("ignore", 200, 1), ("400", 400, 1), ("again", 200, 2)])
def test_a_second_submit_of_a_running_job_is_a_quirk(sim, api, resubmit, status, runs):
    sim.resubmit = resubmit
    job_id = api.create("echo x >> $HOME/count; until [ -e $HOME/go ]; do sleep 0.02; done")
    job = sim.jobs[job_id]
    assert api.submit(job_id) == 200
    wait_until(lambda: job.is_running)
    assert api.submit(job_id) == status
    (job.folder / "go").touch()
    wait_until(lambda: job.ended)
    assert (job.folder / "count").read_text() == "x\n" * runs
    assert sim.starts[job_id] == runs


def test_a_submit_may_be_answered_and_forgotten(sim, api):
    sim.silent_submit = True
    job_id = api.create()
    assert api.submit(job_id) == 200
    time.sleep(0.1)
    assert api.history(job_id) == []
    assert not sim.starts


def test_many_jobs_run_at_once_with_nothing_lost(sim):
    apis = [Api(sim.url, sim.token) for _ in range(6)]
    ids = []

    def client(api):
        for number in range(5):
            file = api.upload("in.txt", str(number).encode())
            job_id = api.create("cat in.txt > out.txt", [{"id": file["id"]}])
            api.submit(job_id)
            api.submit(job_id)
            ids.append((job_id, number))

    threads = [threading.Thread(target=client, args=(api,)) for api in apis]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(sim.jobs) == 30
    for job_id, number in ids:
        wait_until(lambda job_id=job_id: sim.jobs[job_id].ended, 20)
        assert apis[0].outputs(job_id)["out.txt"] == str(number).encode()
    assert set(sim.starts.values()) == {1}
    assert len(sim.requests) == 6 * 5 * 4 + 30 * (1 + 3)


# Inside a job


def test_inputs_are_unpacked_beside_their_archives_and_made_executable(sim, api, run):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as bundle:
        bundle.writestr("zipped/c.txt", "c")
    inputs = [
        {"id": api.upload("a.tar.gz", tar_gz(("sub/a.txt", b"a"), ("same.txt", tarfile.LNKTYPE, "sub/a.txt")))["id"]},
        {"id": api.upload("b.tgz", tar_gz(("b.txt", b"b")))["id"], "decompress": "true"},
        {"id": api.upload("c.zip", memory.getvalue())["id"]},
        {"id": api.upload("packed.tar.gz", tar_gz(("packed.txt", b"")))["id"], "decompress": False},
        {"id": api.upload("run.sh", b"cat sub/a.txt same.txt b.txt zipped/c.txt > out.txt\n")["id"]},
    ]
    job_id = run("./run.sh", inputs)
    assert set(api.outputs(job_id)) == {
        "a.tar.gz", "b.tgz", "c.zip", "packed.tar.gz", "run.sh", "sub/a.txt", "same.txt", "b.txt", "zipped/c.txt",
        "out.txt", LOG,
    }
    assert api.outputs(job_id)["out.txt"] == b"aabc"


def test_symbolic_links_in_an_archive_come_out_broken(api, run):
    archive = tar_gz(("a.txt", b"content"), ("link.txt", tarfile.SYMTYPE, "a.txt"))
    job_id = run("cat link.txt > seen.txt", [{"id": api.upload("a.tar.gz", archive)["id"]}])
    assert api.outputs(job_id)["seen.txt"] == b""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar.gz", tar_gz(("../../evil.txt", b"evil")), b"outside of the work folder"),
        ("a.tgz", tar_gz(("/tmp/evil-of-the-simulator-test.txt", b"evil")), b"outside of the work folder"),
        ("a.tar.gz", tar_gz(("a.txt", os.urandom(100_000)))[:5000], b"Input file a.tar.gz"),
        ("a.zip", b"no zip", b"Input file a.zip"),
    ],
)
def test_an_archive_that_is_damaged_or_leaves_the_work_folder_fails_the_job(sim, api, run, name, content, message):
    job_id = run("touch ran", [{"id": api.upload(name, content)["id"]}])
    assert api.history(job_id)[-1] == ("Completed", "A run failed")
    outputs = api.outputs(job_id)
    assert message in outputs[LOG]
    assert "ran" not in outputs
    assert not list(sim.folder.parent.rglob("evil*"))
    assert not Path("/tmp/evil-of-the-simulator-test.txt").exists()


def test_the_log_has_the_frame_of_the_platform_around_each_tile(sim, api):
    tiles = [{**TILE, "command": "echo one; echo two >&2\nprintf three"}, {**TILE, "command": "printf '\\377\\n'"}]
    job_id = api.post("jobs/", json={"name": "x", "jobanalyses": tiles}).json()["id"]
    api.submit(job_id)
    wait_until(lambda: sim.jobs[job_id].ended)
    lines = api.outputs(job_id)[LOG].split(b"\n")
    assert all(re.match(rb"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\]: ", line) for line in lines[:-1])
    work = str(sim.jobs[job_id].work).encode()
    assert [line[24:] for line in lines[:-1]] == [
        b"Launching echo one; echo two >&2", b"printf three, Working dir: " + work + b".  Process output follows:",
        b"one", b"two", b"three", b"Exited with code 0", b"",
        b"Launching printf '\\377\\n', Working dir: " + work + b".  Process output follows:",
        b"\xff", b"Exited with code 0", b"",
    ]


def test_a_tile_that_fails_is_the_last_one(sim, api):
    tiles = [{**TILE, "command": "touch one; false"}, {**TILE, "command": "touch two"}]
    job_id = api.post("jobs/", json={"name": "x", "jobanalyses": tiles}).json()["id"]
    api.submit(job_id)
    wait_until(lambda: sim.jobs[job_id].ended)
    assert set(api.outputs(job_id)) == {"one", LOG}


def test_a_log_that_the_command_deletes_stays_deleted(api, run):
    job_id = run("rm process_output.log; echo more; rm -f process_output.log; echo x > out.txt; echo end")
    assert set(api.outputs(job_id)) == {"out.txt"}


def test_a_job_sees_its_own_variables_and_none_of_this_computer(sim, api, run, monkeypatch):
    for name in ("RESCALE_API_KEY", "RESCALE_REHEARSAL", "HTTPS_PROXY", "VIRTUAL_ENV", "PYTHONPATH", "SECRET"):
        monkeypatch.setenv(name, "of the host")
    command = "env > env.txt; python3 -c 'print(6 * 7)' > python.txt"
    job_id = run(command, envVars={"LM_LICENSE_FILE": "1@x", "A": "b c"}, **hardware(coresPerSlot=72))
    outputs = api.outputs(job_id)
    variables = dict(line.split("=", 1) for line in outputs["env.txt"].decode().splitlines())
    assert "of the host" not in variables.values()
    assert "RESCALE_API_KEY" not in variables
    assert (variables["LM_LICENSE_FILE"], variables["A"]) == ("1@x", "b c")
    assert variables["HOME"] == str(sim.jobs[job_id].folder)
    assert Path(variables["PWD"]) == sim.jobs[job_id].work
    expected = {"CORES_PER_SLOT": "72", "NODES_PER_SLOT": "2", "CORES_PER_NODE": "36", "JOB_ID": job_id}
    assert {name: variables[f"RESCALE_{name}"] for name in expected} == expected
    assert outputs["python.txt"] == b"42\n"


def test_outputs_are_files_of_type_5_with_paths_relative_to_the_work_folder(sim, api, run):
    job_id = run("mkdir sub; echo x > sub/out.dat; touch ../outside")
    page = api.get(f"jobs/{job_id}/files/").json()
    files = {file["relativePath"]: file for file in page["results"]}
    assert set(files) == {"sub/out.dat", LOG}
    file = files["sub/out.dat"]
    assert (file["name"], file["typeId"], file["decryptedSize"]) == ("out.dat", 5, 2)
    assert file["path"] == f"user/user_xMTMk/output/job_{job_id}/run1/sub/out.dat"
    assert file["fileChecksums"][0]["fileHash"] == hashlib.sha512(b"x\n").hexdigest()
    assert api.get(f"jobs/{job_id}/files/?search=out.d").json()["count"] == 1
    assert api.get(f"jobs/{job_id}/runs/1/files/?page_size=1").json()["count"] == 2


def test_an_output_can_be_the_input_of_the_next_job(api, run):
    first = run("echo x > out.txt; tar czf rescale.tar.gz out.txt")
    file = api.get(f"jobs/{first}/files/?search=rescale.tar.gz").json()["results"][0]
    second = run("cat out.txt out.txt > twice.txt", [{"id": file["id"]}])
    assert api.outputs(second)["twice.txt"] == b"x\nx\n"


def test_untouched_inputs_are_outputs_or_not(sim, api, run):
    inputs = [{"id": api.upload(name, b"a")["id"]} for name in ("same.txt", "changed.txt")]
    assert set(api.outputs(run("echo b >> changed.txt", inputs))) == {"same.txt", "changed.txt", LOG}
    sim.lists_input_files = False
    assert set(api.outputs(run("echo b >> changed.txt", inputs))) == {"changed.txt", LOG}
    assert sim.files[inputs[1]["id"]].path.read_bytes() == b"a"


def test_a_tile_may_start_in_work_shared(sim, api, run):
    sim.shared_work = True
    job_id = run("cp a.txt b.txt", [{"id": api.upload("a.txt", b"a")["id"]}])
    assert set(api.outputs(job_id)) == {"shared/a.txt", "shared/b.txt", LOG}


def test_the_list_of_outputs_may_grow_after_the_end(sim, api, run):
    sim.listing_lag = 2
    job_id = run("touch a b c d e")
    counts = [api.get(f"jobs/{job_id}/files/").json()["count"] for _ in range(4)]
    assert counts == [2, 4, 6, 6]


def test_outputs_may_not_be_uploaded_at_first(sim, api, run):
    sim.upload_lag = 2
    job_id = run("touch a")
    shown = []
    for _ in range(3):
        files = api.get(f"jobs/{job_id}/files/").json()["results"]
        shown.append({file["isUploaded"] for file in files})
        assert api.session.get(files[0]["downloadUrl"]).status_code == (200 if shown[-1] == {True} else 404)
    assert shown == [{False}, {False}, {True}]


# While a job runs


@pytest.fixture
def running(sim, api):
    """Start a job that waits for $HOME/go; return it."""

    def start(command="", **options):
        job = sim.jobs[api.create(command + "\nuntil [ -e $HOME/go ]; do sleep 0.02; done", **options)]
        api.submit(job.id)
        wait_until(lambda: job.is_running and b"follows:" in (job.work / LOG).read_bytes())
        return job

    return start


def test_the_tail_follows_what_is_being_written(api, running):
    job = running("mkdir sub; printf 'a\\n\\nb' > 'sub/a b.txt'; for i in 1 2 3; do echo line $i; done")
    wait_until(lambda: b"line 3" in (job.work / LOG).read_bytes())
    answer = api.get(f"jobs/{job.id}/runs/1/tail/{LOG}?lines=2").json()
    assert answer["fileType"] == f"{LOG}: ASCII text"
    assert [line[24:] for line in answer["lines"]] == ["line 2", "line 3"]
    for path in ("sub/a%20b.txt", "sub/a%20b.txt/"):
        assert api.get(f"jobs/{job.id}/runs/1/tail/{path}?lines=9").json()["lines"] == ["a", "", "b"]
    assert api.get(f"jobs/{job.id}/runs/1/tail/sub/a%20b.txt").content == b"a\n\nb"
    for path in ("none.txt", "sub", "..%2Fcommand.sh", "sub/a%20b.txt/x"):
        assert api.get(f"jobs/{job.id}/runs/1/tail/{path}?lines=9").status_code == 404
    assert {"path": "sub/a b.txt", "resource": f"/api/jobs/{job.id}/runs/1/tail/sub/a b.txt"} in api.get(
        f"jobs/{job.id}/runs/1/directory-contents/"
    ).json()


def test_the_tail_of_a_large_file_is_read_from_its_end(api, running):
    job = running("for i in $(seq 30000); do echo $i; done > big.txt")
    wait_until(lambda: (job.work / "big.txt").exists() and (job.work / "big.txt").read_bytes().endswith(b"\n30000\n"))
    lines = api.get(f"jobs/{job.id}/runs/1/tail/big.txt?lines=20000").json()["lines"]
    assert lines == [str(number) for number in range(10001, 30001)]


def test_while_it_runs_a_job_has_a_run_but_no_outputs(sim, api, running):
    draft = api.create()
    assert api.get(f"jobs/{draft}/runs/").json()["count"] == 0
    job = running()
    run = api.get(f"jobs/{job.id}/runs/").json()["results"][0]
    assert (run["id"], bool(run["dateStarted"]), run["dateCompleted"]) == ("1", True, None)
    assert api.get(f"jobs/{job.id}/files/").json()["results"] == []
    (job.folder / "go").touch()
    wait_until(lambda: job.ended)
    run = api.get(f"jobs/{job.id}/runs/1/").json()
    assert run["dateCompleted"]
    assert run["outputFileCount"] == 1
    assert api.get(f"jobs/{job.id}/runs/1/directory-contents/").status_code == 404


@pytest.mark.parametrize(
    ("quirk", "status", "body"),
    [
        ("404", 404, '{"detail":"Not found."}'),
        ("400", 400, '{"detail":"No run is active."}'),
        ("empty", 200, '{"fileType":"","lines":[]}'),
        ("html", 200, "<html>No run is active.</html>"),
    ],
)
def test_a_tail_without_a_run_is_a_quirk(sim, api, run, quirk, status, body):
    sim.tail_off_run = quirk
    for job_id in (api.create(), run("echo hello")):
        answer = api.get(f"jobs/{job_id}/runs/1/tail/{LOG}?lines=5")
        assert (answer.status_code, answer.text.strip()) == (status, body)


def test_a_tail_may_still_be_there_after_the_end(sim, api, run):
    sim.tail_off_run = "lines"
    job_id = run("echo hello")
    assert "hello" in api.get(f"jobs/{job_id}/runs/1/tail/{LOG}?lines=3").json()["lines"][0]


def test_the_cluster_is_404_for_a_while_and_stops_after_the_job(sim, api, running):
    sim.cluster_404, sim.cluster_lag = 2, 0.3
    draft = api.create()
    assert api.get(f"jobs/{draft}/cluster_statuses/").status_code == 404
    job = running()
    answers = [api.get(f"jobs/{job.id}/cluster_statuses/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 200]
    assert answers[-1].json()["results"][0]["status"] == "Started"
    assert api("DELETE", f"jobs/{job.id}/").status_code == 400
    (job.folder / "go").touch()
    wait_until(lambda: job.ended)
    assert api("DELETE", f"jobs/{job.id}/").status_code == 400
    wait_until(lambda: job.cluster[-1]["status"] == "Stopped")
    outputs = list(job.files)
    assert outputs
    assert api("DELETE", f"jobs/{job.id}/").status_code == 204
    assert api.get(f"jobs/{job.id}/").status_code == 404
    assert not job.folder.exists()
    assert api.get(f"files/{outputs[0]}/contents/").status_code == 404


def test_deleting_a_job_can_delete_its_inputs(api):
    file = api.upload("a.txt", b"a")["id"]
    for query, deleted in (("", False), ("?deleteInputFiles=True", True)):
        assert api("DELETE", f"jobs/{api.create(inputs=[{'id': file}])}/{query}").status_code == 204
        assert api.get(f"files/{file}/").json()["isDeleted"] is deleted


def test_stop_ends_the_command_and_all_that_it_started(sim, api, running):
    job = running("trap 'echo stopped > trapped.txt; exit 0' TERM; sleep 300 & echo $! > pid.txt")
    wait_until(lambda: (job.work / "pid.txt").exists() and (job.work / "pid.txt").read_text())
    assert api.post(f"jobs/{job.id}/stop/").status_code == 202
    wait_until(lambda: job.ended)
    assert api.history(job.id)[-2:] == [("Stopping", "User Terminated"), ("Completed", "User Terminated")]
    assert api.outputs(job.id)["trapped.txt"] == b"stopped\n"
    assert is_gone(int((job.work / "pid.txt").read_text()))


def test_a_command_that_will_not_stop_is_killed(sim, api, running):
    sim.kill_after, sim.stopped_reason = 0.3, None
    job = running("trap '' TERM; echo $$ > pid.txt")
    wait_until(lambda: (job.work / "pid.txt").exists() and (job.work / "pid.txt").read_text())
    begin = time.monotonic()
    api.post(f"jobs/{job.id}/stop/")
    wait_until(lambda: job.ended)
    assert 0.3 < time.monotonic() - begin < 3
    assert is_gone(int((job.work / "pid.txt").read_text()))
    assert api.history(job.id)[-1] == ("Completed", None)
    assert b"Exited with code 137" in api.outputs(job.id)[LOG]


def test_a_job_that_is_stopped_before_it_executes_never_runs(sim, api):
    sim.speed = 30
    job_id = api.create("touch ran")
    api.submit(job_id)
    sim.speed = 0
    assert api.post(f"jobs/{job_id}/stop/").status_code == 202
    wait_until(lambda: sim.jobs[job_id].ended)
    assert [status for status, _ in api.history(job_id)] == ["Pending", "Stopping", "Completed"]
    assert not sim.jobs[job_id].work.exists()


def test_stop_without_a_run_is_400(api, run):
    assert api.post(f"jobs/{api.create()}/stop/").status_code == 400
    assert api.post(f"jobs/{run()}/stop/").status_code == 400


@pytest.mark.parametrize("syncs", [True, False])
def test_the_walltime_ends_a_job(sim, api, run, syncs):
    sim.walltime_hour, sim.walltime_syncs = 0.3, syncs
    begin = time.monotonic()
    job_id = run("echo x > out.txt; sleep 60")
    assert 0.3 < time.monotonic() - begin < 5
    reason = "Walltime limit reached"
    assert api.history(job_id)[-2:] == [("Stopping", reason), ("Completed", reason)]
    assert set(api.outputs(job_id)) == ({"out.txt", LOG} if syncs else set())


def test_a_job_that_leaves_something_in_the_background_ends_all_the_same(sim, api, run):
    job_id = run("sleep 300 & echo $! > pid.txt")
    assert is_gone(int(api.outputs(job_id)["pid.txt"]))


def test_closing_the_simulator_kills_its_jobs(tmp_path):
    with Simulator(tmp_path / "other", speed=0) as sim:
        api = Api(sim.url, sim.token)
        job_id = api.create("trap '' TERM; echo $$ > pid.txt; while true; do sleep 0.1; done")
        api.submit(job_id)
        pid = sim.jobs[job_id].work / "pid.txt"
        wait_until(lambda: pid.exists() and pid.read_text())
    assert is_gone(int(pid.read_text()))
    with pytest.raises(requests.ConnectionError):
        api.get("users/me/")


def is_gone(pid):
    """Whether the process is dead, or will be at once; a zombie that nobody has waited for counts."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
            status = Path(f"/proc/{pid}/stat")
            if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


# Faults

FIRST = ("reset_before", "timeout_before", "500", "502", "503", "504", "throttled", "html", "redirect", "refused")
LAST = ("reset_after", "timeout_after", "503_after", "html_after", "truncated", "reset_midway")


@pytest.mark.parametrize("name", FIRST)
def test_a_fault_that_comes_first_leaves_nothing_done(sim, api, name):
    sim.faults.append(Fault(name, method="POST", path="/jobs/$", seconds=0.1))
    body = {"name": "x", "jobanalyses": [TILE]}
    answer = error = None
    try:
        answer = api.post("jobs/", json=body, allow_redirects=False)
    except requests.ConnectionError as caught:
        error = caught
    assert not sim.jobs
    if name == "reset_before":
        assert isinstance(error.args[0].args[1], ConnectionResetError)
    record = sim.requests[-1]
    assert record.fault == name
    if name in ("reset_before", "timeout_before", "refused"):
        assert answer is None
        assert record.status is None
    else:
        status = {"throttled": 429, "html": 200, "redirect": 302}.get(name) or int(name)
        assert answer.status_code == record.status == status
    if name.startswith("5") or name == "html":
        assert answer.headers["Content-Type"].startswith("text/html")
    if name == "throttled":
        assert answer.headers["Retry-After"] == "1"
        assert "throttled" in answer.json()["detail"]
    wait_until(lambda: sim._server)
    assert api.post("jobs/", json=body).status_code == 201
    assert len(sim.jobs) == 1


@pytest.mark.parametrize("name", LAST)
def test_a_fault_that_comes_last_leaves_it_done(sim, api, name):
    sim.faults.append(Fault(name, method="POST", path="/jobs/$", seconds=0.1))
    begin = time.monotonic()
    try:
        answer = api.post("jobs/", json={"name": "x", "jobanalyses": [TILE]})
    except BROKEN:
        answer = None
    assert len(sim.jobs) == 1
    assert sim.requests[-1].fault == name
    if name in ("reset_after", "timeout_after", "reset_midway"):
        assert answer is None
        assert (time.monotonic() - begin > 0.1) or name != "timeout_after"
    elif name == "truncated":
        assert (answer.status_code, answer.headers["Content-Type"]) == (201, "application/json")
        assert int(answer.headers["Content-Length"]) == len(answer.content) > 100
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.text)
    else:
        assert answer.status_code == (503 if name == "503_after" else 200)
        assert "<html>" in answer.text


def test_every_fault_has_been_tried():
    assert {*FIRST, *LAST, "corrupt", "late"} == set(FAULTS)


def test_a_truncated_answer_without_a_body_is_half_a_json(sim, api):
    job_id = api.create()
    sim.faults.append(Fault("truncated", path="submit"))
    answer = api.post(f"jobs/{job_id}/submit/")
    assert (answer.status_code, answer.text) == (200, '{"det')
    assert sim.starts[job_id] == 1


def test_a_refused_connection_is_refused_by_the_system_until_the_port_opens_again(sim, api):
    sim.faults.append(Fault("refused", path="users/me", seconds=0.4))
    with pytest.raises(requests.ConnectionError):
        api.get("users/me/")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", sim.port)).close()
    time.sleep(0.7)
    assert api.get("users/me/").status_code == 200


def test_skip_and_times_count_the_requests_that_match(sim, api):
    sim.faults.append(Fault("500", method="GET", path=r"users/me/$", skip=1, times=2))
    statuses = [api.get("users/me/").status_code for _ in range(5)]
    assert statuses == [200, 500, 500, 200, 200]
    assert api.get("coretypes/").status_code == 200
    assert sim.faults[0].hits == 2


def test_a_throttled_client_may_be_told_a_date(sim, api):
    sim.faults.append(Fault("throttled", retry_after="Wed, 01 Jan 2031 00:00:00 GMT"))
    assert api.get("users/me/").headers["Retry-After"] == "Wed, 01 Jan 2031 00:00:00 GMT"


def test_a_redirect_goes_where_the_test_wants(sim, api):
    sim.faults.append(Fault("redirect", location="http://evil.example/x"))
    assert api.get("users/me/", allow_redirects=False).headers["Location"] == "http://evil.example/x"


def test_a_late_submit_starts_the_job_after_the_answer(sim, api):
    sim.faults.append(Fault("late", method="POST", path="submit", seconds=0.3))
    job_id = api.create()
    assert api.submit(job_id) == 504
    assert api.history(job_id) == []
    wait_until(lambda: sim.jobs[job_id].ended)
    assert sim.starts[job_id] == 1


@pytest.mark.parametrize("name", ["corrupt", "reset_midway", "truncated"])
def test_a_download_can_go_wrong(sim, api, name):
    content = os.urandom(3_000_001)
    file = api.upload("a.bin", content)
    sim.faults.append(Fault(name, path="contents"))
    answer = api.get(f"files/{file['id']}/contents/", stream=True)
    got = b""
    try:
        for piece in answer.iter_content(65536):
            got += piece
    except BROKEN:
        assert name == "reset_midway"
    else:
        assert name != "reset_midway"
    assert got != content
    if name == "corrupt":
        assert len(got) == len(content)
    else:
        assert 0 < len(got) <= len(content) // 2 + 1
        assert content.startswith(got)
    assert api.get(f"files/{file['id']}/contents/").content == content


def test_an_upload_can_be_cut_before_it_has_been_read(sim, api):
    sim.faults.append(Fault("reset_before", method="POST", path="contents"))
    with pytest.raises(BROKEN):
        api.upload("a.bin", b"a" * 20_000_000)
    assert not sim.files


@pytest.mark.parametrize("name", ["503", "html", "throttled"])
def test_an_upload_that_is_refused_gets_its_answer(sim, api, name):
    sim.faults.append(Fault(name, method="POST", path="contents"))
    answer = api.post("files/contents/", files={"file": ("a.bin", b"a" * 5_000_000)})
    assert answer.status_code == {"503": 503, "html": 200, "throttled": 429}[name]
    assert not sim.files
    assert api.get("users/me/").status_code == 200


def test_a_flaky_network_hits_about_the_share_of_requests_and_the_same_ones_again(tmp_path):
    struck = []
    for number in (1, 2):
        with Simulator(tmp_path / str(number), speed=0, flaky=0.3, seed=7) as sim:
            struck.append([getattr(sim.next_fault(record), "name", None) for record in [SimpleNamespace()] * 200])
    assert struck[0] == struck[1]
    assert 30 < sum(name is not None for name in struck[0]) < 90
    assert len(set(struck[0])) > 5


def test_latency_delays_every_answer(sim, api):
    api.get("users/me/")
    sim.latency = 0.2
    begin = time.monotonic()
    api.get("users/me/")
    assert time.monotonic() - begin >= 0.2


def test_a_misspelt_quirk_or_fault_is_an_error(sim, tmp_path):
    with pytest.raises(TypeError, match="sped"):
        Simulator(tmp_path, sped=0)
    with pytest.raises(AttributeError, match="resubmitt"):
        sim.resubmitt = "again"
    with pytest.raises(ValueError, match="twice"):
        sim.resubmit = "twice"
    with pytest.raises(ValueError, match="reset_befor"):
        Fault("reset_befor")


# State


def test_a_later_simulator_goes_on_with_the_folder(tmp_path):
    with Simulator(tmp_path / "kept", speed=0) as sim:
        api = Api(sim.url, sim.token)
        done = api.create("cat in.txt > out.txt", [{"id": api.upload("in.txt", b"hello")["id"]}])
        api.submit(done)
        wait_until(lambda: sim.jobs[done].cluster and sim.jobs[done].cluster[-1]["status"] == "Stopped")
        running = api.create("echo x > partial.txt; sleep 300")
        api.submit(running)
        wait_until(lambda: (sim.jobs[running].work / "partial.txt").exists())
        draft, shown, token = api.create("echo y > out.txt"), api.get(f"jobs/{done}/").json(), sim.token
    with Simulator(tmp_path / "kept", speed=0) as sim:
        api = Api(sim.url, token)
        assert [one["status"] for one in api.get(f"jobs/{done}/statuses/").json()["results"]][0] == "Completed"
        assert api.get(f"jobs/{done}/").json()["jobanalyses"][0]["command"] == shown["jobanalyses"][0]["command"]
        assert api.outputs(done)["out.txt"] == b"hello"
        assert api.history(running)[-2:] == [("Stopping", "A run failed"), ("Completed", "A run failed")]
        assert api.outputs(running)["partial.txt"] == b"x\n"
        assert sim.starts == {done: 1, running: 1}
        assert api.submit(draft) == 200
        wait_until(lambda: sim.jobs[draft].ended)
        assert api.outputs(draft)["out.txt"] == b"y\n"


# The command


def rehearse(tmp_path, *arguments, script=None, env=None):
    """Run the command; return it with what it printed."""
    if script is not None:
        (tmp_path / "script.py").write_text(script)
        arguments = (*arguments, str(tmp_path / "script.py"))
    return subprocess.run(
        [sys.executable, str(SIMULATOR), "--speed", "0", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})},
    )


RUN_ONE_JOB = """
import os, requests, sys, time
api = requests.Session()
api.headers["Authorization"] = "Token " + os.environ["RESCALE_API_KEY"]
root = os.environ["RESCALE_API_URL"] + "/api/v2/"
hardware = {"coreType": "emerald", "coresPerSlot": 1}
tile = {"analysis": {"code": "user_included"}, "command": COMMAND, "hardware": hardware}
job = root + "jobs/" + api.post(root + "jobs/", json={"name": "user@job2@x", "jobanalyses": [tile]}).json()["id"]
api.post(job + "/submit/").raise_for_status()
while True:
    last = api.get(job + "/statuses/").json()["results"][0]
    if last["status"] == "Completed":
        break
    time.sleep(0.05)
print("reason:", last["statusReason"])
"""


def test_a_rehearsal_runs_the_script_with_its_options_and_passes_its_status_on(tmp_path):
    script = """
import os, sys
print(sys.argv[1:], os.environ["RESCALE_REHEARSAL"] == os.environ["RESCALE_API_URL"], os.environ["NO_PROXY"])
print(sys.stdin.read())
sys.exit(7)
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(SIMULATOR), "--folder", str(tmp_path / "kept"), str(tmp_path / "script.py"), "--resume",
         "--speed", "x"],
        input="typed", capture_output=True, text=True, timeout=60, env={**os.environ, "NO_PROXY": "intranet"},
    )
    assert done.returncode == 7
    assert done.stdout.splitlines() == ["['--resume', '--speed', 'x'] True intranet,127.0.0.1", "typed"]
    first, last = done.stderr.splitlines()
    assert "free of charge" in first
    assert re.search(r"http://127\.0\.0\.1:\d+", first)
    assert str(tmp_path / "kept" / "jobs") in last


def test_a_rehearsal_keeps_the_folders_of_its_jobs(tmp_path):
    done = rehearse(tmp_path, script="COMMAND = 'echo x > out.txt'" + RUN_ONE_JOB)
    assert "reason: Completed successfully" in done.stdout, done.stderr
    folder = Path(done.stderr.splitlines()[-1].rpartition(" ")[2])
    try:
        assert [path.read_text() for path in folder.glob("user@job2@x-*/work/out.txt")] == ["x\n"]
        [log] = folder.glob("user@job2@x-*/process_output.log")
        assert "Exited with code 0" in log.read_text()
    finally:
        shutil.rmtree(folder.parent)


def test_a_job_can_be_made_to_fail(tmp_path):
    script = "COMMAND = 'echo x > out.txt'" + RUN_ONE_JOB
    done = rehearse(tmp_path, "--folder", tmp_path / "r", "--fail", "job2", script=script)
    assert "reason: A run failed" in done.stdout, done.stderr
    log = next((tmp_path / "r").glob("jobs/*/work/" + LOG)).read_text()
    assert "*** ERROR" in log
    assert "Exited with code 1\n" in log
    assert list((tmp_path / "r").glob("jobs/*/work/out.txt"))
    done = rehearse(tmp_path, "--folder", tmp_path / "r", "--fail", "job3", script=script)
    assert "reason: Completed successfully" in done.stdout, done.stderr


def test_a_program_that_is_not_installed_is_explained_and_can_be_stood_in_for(tmp_path):
    script = "COMMAND = 'abaqus_of_nowhere job=x'" + RUN_ONE_JOB
    done = rehearse(tmp_path, "--folder", tmp_path / "r", script=script)
    assert "reason: A run failed" in done.stdout, done.stderr
    assert "abaqus_of_nowhere is not installed" in done.stderr
    assert "--stand-in abaqus_of_nowhere=./" in done.stderr
    fake = tmp_path / "fake.sh"
    fake.write_text('#!/bin/sh\necho "$@" > arguments.txt\n')
    assert "chmod +x" in rehearse(tmp_path, "--stand-in", f"abaqus_of_nowhere={fake}", script=script).stderr
    fake.chmod(0o755)
    done = rehearse(tmp_path, "--folder", tmp_path / "r", "--stand-in", f"abaqus_of_nowhere={fake}", script=script)
    assert "reason: Completed successfully" in done.stdout, done.stderr
    assert [path.read_text() for path in (tmp_path / "r").glob("jobs/*/work/arguments.txt")] == ["job=x\n"]
    done = rehearse(tmp_path, "--folder", tmp_path / "r", script=script)
    assert "reason: A run failed" in done.stdout, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="there are no signals")
def test_a_script_that_is_killed_gives_the_status_that_a_shell_would_give(tmp_path):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert rehearse(tmp_path, "--folder", tmp_path / "r", script=script).returncode == 137


@pytest.fixture
def with_ctrl_c():
    """Let what the test starts be interrupted even if the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C of a process group is a POSIX matter")
@pytest.mark.usefixtures("with_ctrl_c")
def test_ctrl_c_ends_a_simulator_without_a_script(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(SIMULATOR), "--folder", str(tmp_path / "r")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    assert process.stdout.readline().startswith("export RESCALE_API_URL=http://127.0.0.1:")
    assert re.fullmatch(r"export RESCALE_API_KEY=[0-9a-f]{40}\n", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C of a process group is a POSIX matter")
@pytest.mark.usefixtures("with_ctrl_c")
def test_ctrl_c_reaches_the_script_and_the_simulator_waits_for_it(tmp_path):
    script = """
import os, requests, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("still served:", requests.get(os.environ["RESCALE_API_URL"] + "/api/v2/users/me/").status_code, flush=True)
    raise SystemExit(130)
"""
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(SIMULATOR), "--folder", str(tmp_path / "r"), str(tmp_path / "script.py")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "still served: 401\n")
    assert "Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM")
def test_a_terminated_rehearsal_leaves_nothing_behind(tmp_path):
    script = "open(__file__[:-2] + 'pid', 'w').write(str(__import__('os').getpid()))\n"
    (tmp_path / "script.py").write_text(script + "COMMAND = 'echo $$ > pid.txt; sleep 300'" + RUN_ONE_JOB)
    process = subprocess.Popen(
        [sys.executable, str(SIMULATOR), "--speed", "0", "--folder", str(tmp_path / "r"), str(tmp_path / "script.py")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: [path for path in (tmp_path / "r").glob("jobs/*/work/pid.txt") if path.read_text()])
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert is_gone(int((tmp_path / "script.pid").read_text()))
    assert is_gone(int(next((tmp_path / "r").glob("jobs/*/work/pid.txt")).read_text()))


@pytest.fixture
def served(tmp_path):
    """The command without a script; its access and its process."""
    process = subprocess.Popen(
        [sys.executable, str(SIMULATOR), "--speed", "0", "--folder", str(tmp_path / "served")],
        stdout=subprocess.PIPE, text=True,
    )
    exports = [process.stdout.readline() for _ in range(2)]
    access = dict(line.split(" ", 1)[1].strip().split("=", 1) for line in exports)
    yield SimpleNamespace(
        exports="".join(exports), api=Api(access["RESCALE_API_URL"], access["RESCALE_API_KEY"]), process=process
    )
    process.terminate()
    process.wait(20)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_can_talk_to_it_with_the_two_lines_that_it_prints(tmp_path, served):
    (tmp_path / "big.bin").write_bytes(b"a" * 3_000_000)  # enough for curl to ask "Expect: 100-continue"
    curl = "curl -sS --noproxy '*' -H \"Authorization: Token $RESCALE_API_KEY\" $RESCALE_API_URL/api/v2"
    script = f"{served.exports}\n{curl}/users/me/\n{curl}/files/contents/ -F file=@{tmp_path}/big.bin\n"
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=30)
    me, file = (json.loads(line) for line in done.stdout.splitlines())
    assert me["email"]
    assert file["decryptedSize"] == 3_000_000
    assert file["md5"] == hashlib.md5(b"a" * 3_000_000).hexdigest()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_a_large_file_goes_up_and_down_in_little_memory(tmp_path, served):
    def peak():
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text())[1]) // 1024

    served.api.get("users/me/")
    before = peak()
    size = 300 * 1024 * 1024
    big = tmp_path / "big.bin"
    with big.open("wb") as stream:
        stream.truncate(size)
    token = f"Authorization: {served.api.session.headers['Authorization']}"
    curl = ["curl", "-sS", "--noproxy", "*", "-H", token, "-F", f"file=@{big}", served.api.root + "files/contents/"]
    file = json.loads(subprocess.run(curl, capture_output=True, timeout=60).stdout)
    assert file["decryptedSize"] == size
    got = 0
    with served.api.session.get(file["downloadUrl"], stream=True) as answer:
        for piece in answer.iter_content(1 << 20):
            got += len(piece)
    assert got == size
    assert peak() - before < 60, f"{before} MB before, {peak()} MB at the peak"


def test_rescalepy_works_against_it_unchanged(sim, tmp_path, monkeypatch):
    rescalepy = pytest.importorskip("rescalepy")
    monkeypatch.setattr(rescalepy.client, "ENDPOINT", sim.url + "/api/v2/")
    with pytest.raises(ValueError, match="API token"):
        rescalepy.Client(api_token="0" * 40)
    client = rescalepy.Client(api_token=sim.token)
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "in.txt").write_text("hello\n")
    job_id = client.create_job(
        name="from rescalepy", software_code="user_included", input_files=[tmp_path / "case"],
        command="tr a-z A-Z < case/in.txt > out.txt", n_cores=1, wall_time=1,
    )
    assert client.get_job_status(job_id) == []
    assert client.submit_job(job_id)
    client.wait_for_job(job_id, interval=0.05)
    assert len(client.list_analyses()) >= 700
    assert client.list_job_results(job_id)[0]["id"] == "1"
    client.download_all_results(job_id, tmp_path / "results")
    assert (tmp_path / "results" / "out.txt").read_text() == "HELLO\n"
    assert (tmp_path / "results" / "case" / "in.txt").read_text() == "hello\n"
