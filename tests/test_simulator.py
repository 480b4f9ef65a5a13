"""The simulator is what the other tests stand on. test_contract.py holds it to the platform; here is the rest: what it
refuses, how it misbehaves, and the command that rehearses."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

import rescale_simulator
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
        return self.session.request(method, self.root + path, **{"timeout": 20, **options})

    def get(self, path, **options):
        return self("GET", path, **options)

    def post(self, path, **options):
        return self("POST", path, **options)

    def pages(self, path):
        pages = [self.get(path).json()]
        while pages[-1]["next"]:
            pages.append(self.session.get(pages[-1]["next"]).json())
        return pages

    def results(self, path):
        return [entry for page in self.pages(path) for entry in page["results"]]

    def upload(self, name, content):
        return self.post("files/contents/", files={"file": (name, content)}).json()

    def inputs(self, **contents):
        return [{"id": self.upload(name, content)["id"]} for name, content in contents.items()]

    def try_to_create(self, *tiles, **others):
        return self.post("jobs/", json={"name": "job", "jobanalyses": [{**TILE, **tile} for tile in tiles], **others})

    def create(self, *commands, inputs=(), **tile):
        tiles = [{"command": command, "inputFiles": list(inputs), **tile} for command in commands or ("true",)]
        answer = self.try_to_create(*tiles)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def submit(self, job_id):
        return self.post(f"jobs/{job_id}/submit/").status_code

    def history(self, job_id):
        """Statuses with reasons, oldest first."""
        return [(entry["status"], entry["statusReason"]) for entry in self.results(f"jobs/{job_id}/statuses/")][::-1]

    def outputs(self, job_id):
        """Contents of the output files by their relative paths."""
        files = self.results(f"jobs/{job_id}/files/")
        return {file["relativePath"]: self.session.get(file["downloadUrl"]).content for file in files}


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


@pytest.fixture
def running(sim, api):
    """Start a job that waits for $HOME/go, and for its pid in pid.txt; return it."""

    def start(command="true"):
        job = sim.jobs[api.create(command + "\necho $$ > pid.txt; until [ -e $HOME/go ]; do sleep 0.02; done")]
        api.submit(job.id)
        wait_until(lambda: (job.work / "pid.txt").exists() and (job.work / "pid.txt").read_text())
        return job

    return start


def pid(job):
    return int((job.work / "pid.txt").read_text())


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


def tar_gz(**contents):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as bundle:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return memory.getvalue()


# Who may ask, and how


def test_without_the_last_slash_a_get_is_redirected_and_a_post_does_nothing(sim, api):
    answer = api.get("coretypes?page_size=3", allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (301, "/api/v2/coretypes/?page_size=3")
    job_id = api.create()
    assert api.post(f"jobs/{job_id}/submit").status_code == 404
    assert (sim.starts, api.history(job_id)) == ({}, [])


def test_requests_are_recorded_and_hooks_come_before_and_after_the_deed(sim, api):
    seen = []
    sim.on_request = lambda record, when: seen.append((when, record.method, record.status, len(sim.files)))
    api.upload("a.txt", b"a")
    assert seen == [("before", "POST", None, 0), ("after", "POST", None, 1)]
    api.get("jobs/?page_size=5")
    seen = [(one.method, one.path, one.query, one.status) for one in sim.requests]
    assert seen == [("POST", "/api/v2/files/contents/", {}, 201), ("GET", "/api/v2/jobs/", {"page_size": "5"}, 200)]


def test_a_connection_serves_many_requests_even_after_refused_uploads(sim):
    connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=10)
    connection.connect()
    wire = connection.sock
    for path, token, status in (("files/contents/", "wrong", 401), ("jobs/", sim.token, 415), ("none/", "wrong", 401)):
        connection.request("POST", "/api/v2/" + path, b"x" * 300_000, {"Authorization": f"Token {token}"})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read()), connection.sock) == (status, True, wire)
    connection.close()


def test_a_misspelt_quirk_or_fault_is_an_error(sim, tmp_path):
    with pytest.raises(TypeError, match="sped"):
        Simulator(tmp_path, sped=0)
    with pytest.raises(AttributeError, match="resubmitt"):
        sim.resubmitt = "again"
    with pytest.raises(ValueError, match="twice"):
        sim.resubmit = "twice"
    with pytest.raises(ValueError, match="reset_befor"):
        Fault("reset_befor")


# Lists, files


@pytest.mark.parametrize(("size", "full"), [(5, 3), (6, 2), (1000, 1)])
def test_a_count_can_promise_more_than_the_list_holds(sim, api, size, full):
    whole = api.results("coretypes/")
    sim.empty_last_page = True
    *pages, last = api.pages(f"coretypes/?page_size={size}")
    assert [one for page in pages for one in page["results"]] == whole
    assert (len(pages), last["results"], last["next"], last["count"] > 12) == (full, [], None, True)
    assert api.get("jobs/").json() == {"count": 0, "next": None, "previous": None, "results": []}
    assert api.get("coretypes/?page=99").status_code == 404


def test_an_upload_keeps_the_last_part_of_its_name_and_one_that_is_none_leaves_nothing(sim, api):
    file = api.upload("../x/a.txt", b"a")
    assert (file["name"], file["relativePath"]) == ("a.txt", "a.txt")
    api("DELETE", f"files/{file['id']}/")
    assert api.post("files/contents/", files={"file": ("..", b"")}).json() == {"file": ["No file was submitted."]}
    answer = api.post("files/contents/", files={"other": ("a.txt", b"a" * 100)})
    assert (answer.status_code, list(answer.json())) == (400, ["file"])
    chunked = {"Content-Type": "multipart/form-data; boundary=x"}
    assert api.post("files/contents/", data=iter([b"--x\r\n", b"a" * 1000]), headers=chunked).status_code == 411
    head = (f"POST /api/v2/files/contents/ HTTP/1.1\r\nHost: x\r\nAuthorization: Token {sim.token}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n')
    with socket.create_connection(("127.0.0.1", sim.port)) as connection:
        connection.sendall(head.encode() + b"a" * 300_000)
        wait_until(lambda: list((sim.folder / "files").iterdir()))
    wait_until(lambda: not list((sim.folder / "files").iterdir()))
    assert list(sim.files) == [file["id"]]


def test_transfers_can_be_slow(sim, api):
    sim.upload_rate, sim.rate, sim.latency = 10_000_000, 10_000_000, 0.1
    begin = time.monotonic()
    url = api.upload("a.bin", b"a" * 3_000_000)["downloadUrl"]
    sent = time.monotonic()
    assert len(api.session.get(url).content) == 3_000_000
    assert 0.25 < sent - begin < 3
    assert 0.25 < time.monotonic() - sent < 3


def test_contents_can_be_elsewhere_where_the_token_must_not_go(sim, api):
    sim.contents_redirect = True
    url = api.upload("a.bin", b"0123456789")["downloadUrl"]
    answer = api.session.get(url, allow_redirects=False)
    assert (answer.status_code, f":{sim.port}/" in answer.headers["Location"]) == (302, False)
    assert api.session.get(url, headers={"Range": "bytes=4-5"}).content == b"45"
    assert [("Authorization" in one.headers, one.status) for one in sim.storage_requests] == [(False, 206)]
    token = {"Authorization": f"Token {sim.token}"}
    assert requests.get(answer.headers["Location"], headers=token).status_code == 400


def test_a_deleted_file_cannot_be_an_input(sim, api):
    given = api.inputs(a=b"a")
    file, job_id = f"files/{given[0]['id']}/", api.create(inputs=given)
    api("DELETE", file)
    assert (api.try_to_create({"inputFiles": given}).status_code, api.submit(job_id)) == (400, 400)
    assert not sim.starts


# New jobs


def test_a_new_job_shows_what_was_asked_for(api):
    asked = {
        "analysis": {"code": "abaqus", "version": "2022-2241"}, "command": "abaqus job=x interactive\n", "unknown": 1,
        "hardware": {"coreType": "emerald", "coresPerSlot": "72", "walltime": "3", "type": "compute"},
        "inputFiles": api.inputs(a=b"a"), "envVars": {"A": "1"}, "onDemandLicenseSeller": "",
    }
    job = api.try_to_create(asked, project_id="xDdRk", isLowPriority="false", tags=["ignored"]).json()
    assert api.get(f"jobs/{job['id']}/").json() == job
    assert (job["name"], job["projectId"], job["isLowPriority"]) == ("job", "xDdRk", False)
    (tile,) = job["jobanalyses"]
    assert tile["analysis"] == {"code": "abaqus", "name": "Abaqus", "version": "2022-2241", "versionName": "2022 HF3"}
    assert tile["hardware"].pop("coreSummary")["numberOfNodes"] == 2
    assert tile["hardware"] == {"coreType": "emerald", "coresPerSlot": 72, "slots": 1, "walltime": 3}
    assert (tile["envVars"], tile["inputFiles"][0]["decompress"]) == ({"A": "1"}, True)
    assert not {"unknown", "tags"} & {*job, *tile}


FEATURES = {"featureSets": [{"name": "x", "features": []}]}


def hardware(**changes):
    return {"hardware": {**HARDWARE, **changes}}


@pytest.mark.parametrize(
    ("tile", "where"),
    [
        ({"analysis": {"code": "nastran"}}, "analysis code"),
        ({"analysis": {"code": "abaqus", "version": "6.1"}, "command": "interactive"}, "analysis version"),
        ({"command": " \n"}, "command"),
        ({"analysis": {"code": "abaqus"}, "command": "abaqus job=x"}, "command"),
        ({"analysis": {"code": "abaqus"}, "command": "abaqus job=x", "flags": {"igCv": True}}, None),
        ({"hardware": None}, "hardware"),
        (hardware(coreType={"code": "emerald"}), "hardware coreType"),
        (hardware(coreType="marble"), "hardware coreType"),
        (hardware(coresPerSlot=40), "hardware coresPerSlot"),
        (hardware(coresPerSlot=72), None),
        (hardware(coreType="granite", coresPerSlot=1), "hardware coresPerSlot"),
        (hardware(slots=0), "hardware slots"),
        (hardware(walltime=49), "hardware walltime"),
        (hardware(walltime=None), None),
        (hardware(coreType="jade", coresPerSlot=4, walltime=None), "hardware walltime"),
        ({"inputFiles": [{"id": "nOtHeRe"}]}, "inputFiles 0 id"),
        ({"envVars": ["A=1"]}, "envVars"),
        ({"userDefinedLicenseSettings": FEATURES}, None),
        ({"userDefinedLicenseSettings": FEATURES, "onDemandLicenseSeller": {"code": "x"}}, "onDemandLicenseSeller"),
    ],
)
def test_what_the_platform_would_refuse_is_400_with_the_place_of_the_error(sim, api, tile, where):
    answer = api.try_to_create({}, tile)
    assert (answer.status_code, len(sim.jobs)) == ((400, 0) if where else (201, 1))
    if where:
        fine, error = answer.json()["jobanalyses"]
        for key in where.split():
            error = error[int(key) if key.isdigit() else key]
        assert (fine, {type(text) for text in error}) == ({}, {str})


def test_a_job_needs_a_name_tiles_and_the_right_project(sim, api):
    for others in ({"name": ""}, {"jobanalyses": []}, {"projectId": "nOnE"}):
        answer = api.try_to_create({}, **others)
        assert (answer.status_code, list(answer.json())) == (400, list(others))
    sim.project_required = True
    assert list(api.try_to_create({}).json()) == ["projectId"]
    assert api.try_to_create({}, projectId="xDdRk").status_code == 201


# Inside a job


def test_an_archive_that_is_damaged_or_leaves_the_work_folder_fails_the_job(sim, api, run):
    for content, message in (
        (tar_gz(**{"../../evil.txt": b"evil"}), b"outside of the work folder"),
        (tar_gz(a=os.urandom(100_000))[:5000], b"Input file a.tar.gz"),
    ):
        job_id = run("touch ran", inputs=api.inputs(**{"a.tar.gz": content}))
        assert api.history(job_id)[-1] == ("Completed", "A run failed")
        assert message in api.outputs(job_id)[LOG]
        assert not [*sim.folder.parent.rglob("evil*"), *sim.folder.rglob("ran")]


def test_the_log_has_the_frame_of_the_platform_around_each_tile_up_to_the_first_that_fails(sim, api, run):
    sim.shared_work = True
    job_id = run("echo one; echo two >&2\nprintf three", "printf '\\377\\n'; false", "touch never")
    outputs = api.outputs(job_id)
    assert set(outputs) == {LOG}, "it is in work, not in work/shared"
    lines = outputs[LOG].split(b"\n")
    assert all(re.match(rb"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\]: ", line) for line in lines[:-1])
    where = b", Working dir: " + str(sim.jobs[job_id].work / "shared").encode() + b".  Process output follows:"
    assert [line[24:] for line in lines[:-1]] == [
        b"Launching echo one; echo two >&2", b"printf three" + where, b"one", b"two", b"three", b"Exited with code 0",
        b"", b"Launching printf '\\377\\n'; false" + where, b"\xff", b"Exited with code 1", b"",
    ]


def test_a_job_sees_its_own_variables_and_none_of_this_computer(sim, api, run, monkeypatch):
    for name in ("RESCALE_API_KEY", "RESCALE_REHEARSAL", "HTTPS_PROXY", "VIRTUAL_ENV", "PYTHONPATH", "SECRET"):
        monkeypatch.setenv(name, "of the host")
    job_id = run("env > env.txt", **hardware(coresPerSlot=72))
    variables = dict(line.split("=", 1) for line in api.outputs(job_id)["env.txt"].decode().splitlines())
    assert "of the host" not in variables.values()
    expected = {"CORES_PER_SLOT": "72", "NODES_PER_SLOT": "2", "CORES_PER_NODE": "36", "JOB_ID": job_id,
                "WORK_PATH": str(sim.jobs[job_id].work)}
    assert {name: variables[f"RESCALE_{name}"] for name in expected} == expected


def test_the_list_of_outputs_may_grow_after_the_end_and_lack_sizes_and_contents_at_first(sim, api, run):
    sim.listing_lag, sim.upload_lag, sim.size_lag = 2, 2, 3
    job_id = run("echo x | tee a b c d e")
    looks = []
    for _ in range(4):
        files = api.get(f"jobs/{job_id}/files/").json()["results"]
        contents = api.session.get(files[0]["downloadUrl"]).status_code
        looks.append((len(files), files[0]["isUploaded"], contents, files[0]["decryptedSize"]))
    assert looks == [(2, False, 404, None), (4, False, 404, None), (6, True, 200, None), (6, True, 200, 2)]


# While a job runs


def test_the_tail_follows_what_is_being_written(api, running):
    job = running("printf 'a\\n\\nb' > 'a b.txt'; seq 30000 > big.txt; echo 2; echo 3")
    tail = f"jobs/{job.id}/runs/1/tail/"
    wait_until(lambda: [line[24:] for line in api.get(f"{tail}{LOG}?lines=2").json()["lines"]] == ["2", "3"])
    for path in ("a%20b.txt", "a%20b.txt/"):
        assert api.get(f"{tail}{path}?lines=9").json()["lines"] == ["a", "", "b"]
    assert api.get(f"{tail}big.txt?lines=20000").json()["lines"] == [str(number) for number in range(10001, 30001)]
    for path in ("none.txt", "..%2Fcommand.sh"):
        assert api.get(f"{tail}{path}?lines=9").status_code == 404


def test_a_job_cannot_be_deleted_before_its_cluster_stops(api, running):
    job = running()
    assert api("DELETE", f"jobs/{job.id}/").status_code == 400
    (job.folder / "go").touch()
    wait_until(lambda: job.cluster[-1]["status"] == "Stopped")
    output, _ = api.results(f"jobs/{job.id}/files/")
    assert api("DELETE", f"jobs/{job.id}/").status_code == 204
    assert api.get(f"jobs/{job.id}/").status_code == api.session.get(output["downloadUrl"]).status_code == 404


@pytest.mark.parametrize("how", ["stop", "force_stop", "walltime"])
def test_what_ends_a_command_ends_all_that_it_started(sim, api, running, how):
    sim.walltime_hour = 0.5 if how == "walltime" else 3600
    job = running("trap 'exit 0' TERM; sleep 300 & echo $! > child.txt")
    if how != "walltime":
        assert api.post(f"jobs/{job.id}/{how}/").status_code == 202
    wait_until(lambda: job.ended)
    assert is_gone(int(api.outputs(job.id)["child.txt"]))


def test_a_command_that_will_not_stop_is_killed(sim, api, running, monkeypatch):
    monkeypatch.setattr(rescale_simulator, "KILL_AFTER", 0.2)
    job, other = running("trap '' TERM"), running("trap '' TERM")
    api.post(f"jobs/{job.id}/stop/")
    wait_until(lambda: job.ended)
    assert is_gone(pid(job))
    assert b"Exited with code 137" in api.outputs(job.id)[LOG]
    sim.close()
    assert is_gone(pid(other))
    with pytest.raises(requests.ConnectionError):
        api.get("users/me/")


def test_a_later_simulator_goes_on_with_the_folder(sim, api, run, running):
    done, cut, draft = run("echo hello > out.txt"), running().id, api.create("touch out.txt")
    sim.close()
    with Simulator(sim.folder, speed=0) as later:
        api = Api(later.url, sim.token)
        assert (api.history(done)[-1][1], api.outputs(done)["out.txt"]) == ("Completed successfully", b"hello\n")
        assert api.history(cut)[-2:] == [("Stopping", "A run failed"), ("Completed", "A run failed")]
        assert "pid.txt" in api.outputs(cut)
        assert later.starts == {done: 1, cut: 1}
        api.submit(draft)
        wait_until(lambda: later.jobs[draft].ended)
        assert "out.txt" in api.outputs(draft)


# Faults

FIRST = ("reset_before", "timeout_before", "500", "502", "503", "504", "throttled", "html", "redirect", "refused")
LAST = ("reset_after", "timeout_after", "503_after", "html_after", "truncated", "reset_midway")


def test_every_fault_is_tried():
    assert {*FIRST, *LAST, "corrupt", "late"} == set(FAULTS)


@pytest.mark.parametrize("name", FIRST)
def test_a_fault_that_comes_first_leaves_nothing_done(sim, api, name):
    fault = Fault(name, method="POST", path="/jobs/$", seconds=0.2, location="http://evil.example/", retry_after="7")
    sim.faults.append(fault)
    try:
        answer = api.post("jobs/", json={"name": "x", "jobanalyses": [TILE]}, allow_redirects=False)
    except requests.ConnectionError:
        assert name in ("reset_before", "timeout_before", "refused")
        assert sim.requests[-1].status is None
        if name == "refused":
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", sim.port)).close()
    else:
        status = {"throttled": 429, "html": 200, "redirect": 302}.get(name) or int(name)
        assert answer.status_code == sim.requests[-1].status == status
        expected = {"throttled": ("Retry-After", "7"), "redirect": ("Location", "http://evil.example/")}
        header, value = expected.get(name, ("Content-Type", "text/html; charset=utf-8"))
        assert answer.headers[header] == value
    assert (sim.requests[-1].fault, sim.jobs) == (name, {})
    wait_until(lambda: sim._server)
    assert api.try_to_create({}).status_code == 201


@pytest.mark.parametrize("name", LAST)
def test_a_fault_that_comes_last_leaves_it_done(sim, api, name):
    sim.faults.append(Fault(name, method="POST", path="/jobs/$", seconds=0.1))
    try:
        answer = api.try_to_create({})
    except BROKEN:
        assert name in ("reset_after", "timeout_after", "reset_midway")
    else:
        assert answer.status_code == {"503_after": 503, "html_after": 200, "truncated": 201}[name]
        assert ("<html>" in answer.text) is (name != "truncated")
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.text)
    assert (sim.requests[-1].fault, len(sim.jobs)) == (name, 1)


def test_skip_and_times_count_the_requests_that_match(sim, api):
    sim.faults.append(Fault("500", method="GET", path=r"users/me/$", skip=1, times=2))
    assert [api.get("users/me/").status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    assert api.get("coretypes/").status_code == 200
    assert sim.faults[0].hits == 2


def test_a_late_submit_starts_the_job_after_the_answer(sim, api):
    sim.faults.append(Fault("late", method="POST", path="submit", seconds=0.2))
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
    answer = api.session.get(file["downloadUrl"], stream=True)
    got, broken = b"", False
    try:
        for piece in answer.iter_content(65536):
            got += piece
    except BROKEN:
        broken = True
    assert broken is (name == "reset_midway")
    assert got != content
    assert (len(got) == len(content)) is (name == "corrupt")
    assert content.startswith(got) is (name != "corrupt")
    assert api.session.get(file["downloadUrl"]).content == content


@pytest.mark.parametrize(("name", "status"), [("503", 503), ("html", 200), ("throttled", 429), ("reset_before", None)])
def test_an_upload_that_is_refused_gets_its_answer_or_is_cut(sim, api, name, status):
    sim.faults.append(Fault(name, method="POST", path="contents"))
    try:
        answer = api.post("files/contents/", files={"file": ("a.bin", b"a" * 9_000_000)}).status_code
    except BROKEN:
        answer = None
    assert (answer, sim.files) == (status, {})
    assert api.get("users/me/").status_code == 200


def test_a_flaky_network_hits_about_the_share_of_requests_and_the_same_ones_again(tmp_path):
    struck = []
    for _ in range(2):
        with Simulator(tmp_path, speed=0, flaky=0.3, seed=7) as sim:
            struck.append([getattr(sim.next_fault(SimpleNamespace()), "name", None) for _ in range(200)])
    assert struck[0] == struck[1]
    assert 110 < struck[0].count(None) < 170


# The command


def command(tmp_path, *arguments, script=None):
    """The command line of the simulator, for a script of this text."""
    if script is not None:
        (tmp_path / "script.py").write_text(script)
        arguments = (*arguments, tmp_path / "script.py")
    return [sys.executable, str(SIMULATOR), "--speed", "0", *map(str, arguments)]


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """Run the command; return it with what it printed. Temporary folders are made in `tmp_path / "temporary"`."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))

    def run(*arguments, script, **options):
        line = command(tmp_path, *arguments, script=script)
        return subprocess.run(line, capture_output=True, text=True, timeout=60, **options)

    return run


RUN_ONE_JOB = """
import os, requests, sys, time
api = requests.Session()
api.headers["Authorization"] = "Token " + os.environ["RESCALE_API_KEY"]
root = os.environ["RESCALE_API_URL"] + "/api/v2/"
hardware = {"coreType": "emerald", "coresPerSlot": 4, "slots": 2, "walltime": 3}
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
ECHO = "COMMAND = 'echo x > out.txt'" + RUN_ONE_JOB


def test_a_rehearsal_runs_the_script_with_its_options_and_passes_its_status_on(tmp_path, rehearse, monkeypatch):
    script = """
import os, sys
print(sys.argv[1:], os.environ["RESCALE_REHEARSAL"] == os.environ["RESCALE_API_URL"], os.environ["NO_PROXY"])
print(os.environ["RESCALE_REHEARSAL_COMMAND"])
print(sys.stdin.read())
sys.exit(7)
"""
    kept, fake = tmp_path / "run 1", tmp_path / "fake.sh"
    fake.touch(mode=0o755)
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setenv("NO_PROXY", "intranet")
    done = rehearse("--folder", kept, "--flaky", "5%", "--seed", 10**9, "--stand-in", f"abaqus={fake}",
                    tmp_path / "script.py", "--resume", "--speed", "x", script=None, input="typed")
    assert done.returncode == 7
    seen, told, typed = done.stdout.splitlines()
    assert (seen, typed) == ("['--resume', '--speed', 'x'] True intranet,127.0.0.1", "typed")
    python, simulator, *options = shlex.split(told)
    assert (Path(python).name, simulator) == (Path(sys.executable).name, str(SIMULATOR))
    assert options == ["--folder", str(kept), "--speed", "0", "--flaky", "0.05", "--seed", str(10**9),
                       "--stand-in", f"abaqus={fake}"]
    assert "free of charge" in done.stderr.splitlines()[0]
    assert str(kept / "jobs") in done.stderr.splitlines()[-1]


def test_the_folder_of_a_rehearsal_goes_when_all_went_well_and_the_command_names_it_when_not(tmp_path, rehearse):
    done = rehearse(script=ECHO)
    assert "reason: Completed successfully" in done.stdout, done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    assert "temporary" not in done.stderr
    show = "import os; print(os.environ['RESCALE_REHEARSAL_COMMAND'])\n"
    done = rehearse("--fail", "job2", script=show + ECHO.replace("out.txt", "rescale.tar.gz; rm process_output.log"))
    assert "reason: A run failed" in done.stdout, done.stderr
    (folder,) = (tmp_path / "temporary").iterdir()
    assert str(folder / "jobs") in done.stderr.splitlines()[-1]
    line = shlex.split(done.stdout.splitlines()[0])
    assert line[2:] == ["--folder", str(folder), "--speed", "0"]
    (log,) = folder.glob("jobs/user@job2@x-*/process_output.log")
    assert "*** ERROR" in log.read_text()
    assert "Exited with code 1\n" in log.read_text()
    left = sorted(path.name for path in folder.glob("jobs/*/work/*"))
    assert left == ["process_output.log", "rescale_failed.tar.gz"], "a rescale.tar.gz would be the proof of a success"


def test_the_job_that_is_to_fail_must_be_there(tmp_path, rehearse):
    done = rehearse("--fail", "job3", script=ECHO)
    assert done.returncode == 2
    assert re.search(r"--fail job3: .*user@job2@x", done.stderr)
    assert rehearse("--fail", "job3", script="raise SystemExit(1)").returncode == 1


def test_a_rehearsal_says_what_it_took_and_what_the_results_show(tmp_path, rehearse):
    (tmp_path / "user@job2@x").mkdir()
    archive = tmp_path / "user@job2@x" / "rescale.tar.gz"
    (tmp_path / "new").write_bytes(tar_gz(**{"./sub/b.svg": b"", "a.png": b"", "a.txt": b""}))
    done = rehearse(script=ECHO + RUN_ONE_JOB + f"os.replace('new', {str(archive)!r})\n", cwd=tmp_path)
    assert re.search(r"Pictures in the results: a\.png in (user@job2@x/.*), sub/b\.svg in \1\n", done.stderr)
    assert re.search(r"took \d+ s.* 48 core-hours at most", done.stderr)
    assert "main.py --check" in done.stderr
    done = rehearse(script=ECHO.replace('"walltime": 3', '"walltime": None'), cwd=tmp_path.parent)
    assert "core-hours at most" not in done.stderr
    assert "without walltime" in done.stderr
    assert "Pictures" not in done.stderr


def test_a_program_that_is_not_installed_is_explained_and_can_be_stood_in_for(tmp_path, rehearse):
    script = "COMMAND = 'abaqus_of_nowhere job=x'" + RUN_ONE_JOB
    done = rehearse("--folder", tmp_path / "r", script=script)
    assert "reason: A run failed" in done.stdout, done.stderr
    assert "abaqus_of_nowhere is not installed" in done.stderr
    hint = next(line for line in done.stderr.splitlines() if "--stand-in" in line)
    told = shlex.split(hint[hint.index(": ") + 2:])
    assert told[1:] == [str(SIMULATOR), "--folder", str(tmp_path / "r"), "--speed", "0", "--stand-in",
                        "abaqus_of_nowhere=./fake_abaqus_of_nowhere.sh", str(tmp_path / "script.py")]
    fake = tmp_path / "fake_abaqus_of_nowhere.sh"
    fake.write_text('#!/bin/sh\necho "$@" > arguments.txt\n')
    assert "chmod +x" in subprocess.run(told, cwd=tmp_path, capture_output=True, text=True).stderr
    fake.chmod(0o755)
    done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True)
    assert "reason: Completed successfully" in done.stdout, done.stderr
    assert [path.read_text() for path in (tmp_path / "r").glob("jobs/*/work/arguments.txt")] == ["job=x\n"]
    done = rehearse("--folder", tmp_path / "r", script=script)
    assert "reason: A run failed" in done.stdout, done.stderr


def test_flask_is_all_that_a_rehearsal_needs(tmp_path, rehearse, monkeypatch):
    missing = ("requests", "requests_toolbelt", "urllib3", "pytest")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = rehearse(script="print('rehearsed')")
    assert (done.returncode, done.stdout) == (0, "rehearsed\n"), done.stderr


def start(*line, **options):
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_without_a_script_it_serves(tmp_path):
    process = start(*command(tmp_path, "--folder", tmp_path / "r"))
    access = [process.stdout.readline().strip().partition("=") for _ in range(2)]
    assert [name.split()[1] for name, _, _ in access] == ["RESCALE_API_URL", "RESCALE_API_KEY"]
    assert Api(*(value for _, _, value in access)).get("users/me/").status_code == 200
    process.terminate()
    assert "Traceback" not in process.communicate(timeout=20)[1]


@pytest.mark.skipif(os.name == "nt", reason="signals are a POSIX matter")
def test_ctrl_c_reaches_the_script_and_the_simulator_waits_for_it(tmp_path):
    script = """
import os, requests, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("still served:", requests.get(os.environ["RESCALE_API_URL"] + "/api/v2/users/me/").status_code, flush=True)
    raise SystemExit(130)
"""
    process = start(*command(tmp_path, "--folder", tmp_path / "r", script=script), start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, "Traceback" in err) == (130, "still served: 401\n", False)


@pytest.mark.skipif(os.name == "nt", reason="signals are a POSIX matter")
def test_a_terminated_rehearsal_leaves_no_process_behind(tmp_path):
    script = "open(__file__[:-2] + 'pid', 'w').write(str(__import__('os').getpid()))\n"
    script += "COMMAND = 'echo $$ > pid.txt; sleep 300'" + RUN_ONE_JOB
    process = start(*command(tmp_path, "--folder", tmp_path / "r", script=script))
    wait_until(lambda: [path for path in (tmp_path / "r").glob("jobs/*/work/pid.txt") if path.read_text()])
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.search(r"Job \w+ ends with this rehearsal", err)
    for path in (tmp_path / "script.pid", *(tmp_path / "r").glob("jobs/*/work/pid.txt")):
        assert is_gone(int(path.read_text()))


# Another client


@pytest.mark.parametrize("choice", [{}, {"core_type": None}], ids=["its own core type", "the cheapest"])
def test_rescalepy_works_against_it_unchanged(sim, tmp_path, monkeypatch, choice):
    rescalepy = pytest.importorskip("rescalepy")
    monkeypatch.setattr(rescalepy.client, "ENDPOINT", sim.url + "/api/v2/")
    with pytest.raises(ValueError, match="API token"):
        rescalepy.Client(api_token="0" * 40)
    client = rescalepy.Client(api_token=sim.token)
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "in.txt").write_text("hello\n")
    job_id = client.create_job(
        name="from rescalepy", software_code="user_included", input_files=[tmp_path / "case"],
        command="tr a-z A-Z < case/in.txt > out.txt", **choice,
    )
    assert client.get_job_status(job_id) == []
    assert client.submit_job(job_id)
    client.wait_for_job(job_id, interval=0.05)
    assert client.list_job_results(job_id)[0]["id"] == "1"
    client.download_all_results(job_id, tmp_path / "results")
    assert (tmp_path / "results" / "out.txt").read_text() == "HELLO\n"
