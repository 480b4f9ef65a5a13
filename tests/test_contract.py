"""The contract: what the library relies on of the platform, one fact each, with its § of rescale-api.md.

    python -m pytest tests/test_contract.py       hold the simulator to it: part of the suite
    python tests/test_contract.py                 the same, with a report
    python tests/test_contract.py --platform https://kr.rescale.com            what would it cost to ask the real one?
    python tests/test_contract.py --platform https://kr.rescale.com --spend    ask it, with a handful of short jobs

The key comes from RESCALE_API_KEY or apiconfig. The report, contract-report.md in the current folder, holds no key, no
e-mail address and no id. A difference is a result of the report; in the suite, where it is the simulator's, it fails.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import requests

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import rescale_rest_api as rescale  # noqa: E402
from rescale_simulator import QUIRKS, Fault, Simulator  # noqa: E402

LOG, ARCHIVE = "process_output.log", "rescale.tar.gz"
ENDED = {"completed", "failed", "stopped", "force stopped", "terminated", "cancelled"}
QUICK = {"step": 0.02, "patience": 20.0, "settle": 1.0, "hours": 48}  # for a simulator, whose hours may be short
CONTENT = b"".join(b"%d\n" % number for number in range(20_000))

# The jobs: run once, each is what several facts are read from

GOOD = """echo once >> count.txt
{
echo "folder ${PWD#"$HOME"}"
echo "shell ${0##*/} ${BASH_VERSION:+bash}${POSIXLY_CORRECT:+ posix}"
echo "variables $CONTRACT, cores $RESCALE_CORES_PER_SLOT, id ${RESCALE_JOB_ID:+given}"
echo "unpacked $(cat sub/in.txt)"
echo "archive $([ -e in.tar.gz ] && echo stays || echo is gone)"
echo "link $(cat link.txt 2> /dev/null || echo broken)"
echo "packed $([ -e packed.tar.gz ] && echo stays) $([ -e packed.txt ] && echo and is unpacked)"
echo "executable $([ -x plain.txt ] && echo yes || echo no)"
} > answers.txt
mkdir -p .hidden out
echo hello > out/deep.txt; : > empty.txt; echo x > .hidden/inside.txt; echo x > .hidden.txt; ln -s out/deep.txt soft.txt
sleep 0.3
limit=; if command -v timeout > /dev/null; then limit="timeout 9"; fi
echo "stdin $($limit cat | wc -c)" >> answers.txt
echo "beside the script" >> answers.txt
"""
STOPPED = """trap 'echo TERM > trapped.txt; exit 1' TERM
echo one; echo two; echo three; n=0
while [ $n -lt 1500 ]; do sleep 1; n=$((n + 1)); done
"""
JOBS = ("stopped", "good", "failed", "volumes", "next")  # and on request, walltime


def tar_gz(name: str, content: bytes, **links: str) -> bytes:
    memory, info = io.BytesIO(), tarfile.TarInfo(name)
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        for link, target in links.items():
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return memory.getvalue()


def plan(p: Platform, name: str) -> tuple[str, list[dict], dict]:
    """The command, the input files and the variables of a job; those of job_setup where it is what is relied on."""
    inputs: list[dict] = []
    if name == "good":
        inputs = [p.input("in.tar.gz", tar_gz("sub/in.txt", b"in", **{"link.txt": "sub/in.txt"}), True),
                  p.input("plain.txt", b"plain\n", True),
                  p.input("packed.tar.gz", tar_gz("packed.txt", b""), False)]
        return GOOD, inputs, {"CONTRACT": "given"}
    if name in ("stopped", "walltime"):
        return STOPPED if name == "stopped" else "echo begun; sleep 7200", inputs, {}
    command = "mkdir sub; echo partial > sub/partial.txt; exit 3\n"
    if name == "volumes":
        whole = tar_gz("data.txt", CONTENT)
        inputs = [p.input(f"{ARCHIVE}.001", whole[:9999], False), p.input(f"{ARCHIVE}.002", whole[9999:], False)]
        command = "cp data.txt out.txt\n"
    if name == "next":
        inputs = [{"id": p.result("volumes")["id"], "decompress": True}]
        command = "cat data.txt out.txt > both.txt\n"
    return rescale._job_command(name, command, inputs), inputs, {}


class Platform:
    """A platform in plain requests, and what has been seen of the jobs there."""

    def __init__(self, url: str, token: str, step=5.0, patience=3600.0, settle=600.0, hours=1) -> None:
        self.url, self.token = url, token
        self.step, self.patience, self.settle, self.hours = step, patience, settle, hours
        self.session = requests.Session()
        self.session.trust_env = urllib.parse.urlsplit(url).hostname != "127.0.0.1"  # proxies: to the real one only
        self.seen_jobs: dict[str, Any] = {}  # by name: what was seen, or the exception that came instead
        self.made: dict[tuple[str, str], str] = {}  # names of all that is to be deleted, by kind and id
        self.ids: set[str] = set()  # must not be in the report
        self.left: list[str] = []  # what could not be deleted
        self.suffix = time.strftime("%Y%m%d-%H%M%S")

    def __call__(self, method: str, path: str, token: str | None = "", **options: Any) -> requests.Response:
        url = path if "://" in path else f"{self.url}/api/v2/{path}"
        assert url.startswith(self.url + "/"), "a link leads to another host"  # where the token must not go

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:  # instead of a .netrc
            request.headers.update({} if token is None else {"Authorization": token or self.token})
            return request

        for _ in range(9 if method == "GET" else 0):  # 504 is known to come at random (§7); a POST is never repeated
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                answer = self.session.request(method, url, auth=sign, timeout=120, **options)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            time.sleep(self.step)
        return self.session.request(method, url, auth=sign, timeout=600, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self("GET", path, **options)

    def pages(self, path: str) -> list[dict]:
        pages = [self.get(path).json()]
        while pages[-1]["next"]:
            pages.append(self.get(pages[-1]["next"]).json())
        return pages

    def results(self, path: str) -> list[dict]:
        return [one for page in self.pages(path) for one in page["results"]]

    @functools.cached_property
    def tile(self) -> dict:
        return next(one for one in self.results("analyses/?page_size=1000") if one["code"] == "user_included")

    @functools.cached_property
    def core(self) -> SimpleNamespace:
        """The cheapest core type that can be used, by the price of its smallest size."""
        allowed = next(one for one in self.tile["versions"] if one["versionCode"] == "0")["allowedCoreTypes"]
        price, cores, code = min(
            (float(one.get("price") or "inf") * min(one["cores"]), min(one["cores"]), one["code"])
            for one in self.results("coretypes/?isActive=true&page_size=1000")
            if one["code"] in allowed and one["cores"] and not one.get("isDeprecated") and one.get("isActive", True)
        )
        return SimpleNamespace(code=code, cores=cores, price=price)

    def upload(self, name: str, content: bytes) -> dict:
        answer = self("POST", "files/contents/", files={"file": (name, content)})
        assert answer.status_code == 201, said(answer)
        return self.keep("files", answer, name)

    def input(self, name: str, content: bytes, decompress: bool) -> dict:
        return {"id": self.upload(name, content)["id"], "decompress": decompress}

    def keep(self, kind: str, answer: requests.Response, name: str) -> dict:
        self.made[kind, answer.json()["id"]] = name
        self.ids.add(answer.json()["id"])
        return answer.json()

    def try_to_create(self, name: str, command: str = "true", **tile: Any) -> requests.Response:
        hours = 1 if name == "walltime" else self.hours
        hardware = {"coreType": self.core.code, "coresPerSlot": self.core.cores, "slots": 1, "walltime": hours}
        tile = {"analysis": {"code": "user_included", "version": "0"}, "command": command, "hardware": hardware,
                "flags": {"igCv": True}, **tile}
        job = {"name": f"contract@{name}@{self.suffix}", "jobanalyses": [tile],
               "projectId": self.project if name != "no project" else None}
        answer = self("POST", "jobs/", json=job)
        if answer.status_code == 201:
            self.keep("jobs", answer, job["name"])
        return answer

    @functools.cached_property
    def no_project(self) -> requests.Response:
        return self.try_to_create("no project")

    @functools.cached_property
    def project(self) -> str | None:
        """None, or where a workspace wants a project, the default one."""
        projects = self.results("users/me/projects/") if self.no_project.status_code == 400 else []
        return min(projects, key=lambda one: not one.get("isDefault"))["id"] if projects else None

    def start(self, name: str) -> Any:
        """Create a job and submit it, once; return what is seen of it on the way."""
        if name not in self.seen_jobs:
            try:
                self.seen_jobs[name] = self._start(name)
            except Exception as error:  # a result, of every fact that needs this job
                self.seen_jobs[name] = error
        if isinstance(self.seen_jobs[name], Exception):
            raise self.seen_jobs[name]
        return self.seen_jobs[name]

    def _start(self, name: str) -> SimpleNamespace:
        command, inputs, variables = plan(self, name)
        created = self.try_to_create(name, command, inputFiles=inputs, envVars=variables)
        assert created.status_code == 201, said(created)
        job = SimpleNamespace(id=created.json()["id"], command=command, inputs=inputs, ended=False)
        job.draft = self.get(f"jobs/{job.id}/").json()
        job.draft_history, job.tail_before = self.history(job.id), self.tail(job)
        job.submitted, began = self("POST", f"jobs/{job.id}/submit/"), time.monotonic()
        self.wait(lambda: self.history(job.id), min(60, self.patience))
        job.delay = time.monotonic() - began
        job.again = self("POST", f"jobs/{job.id}/submit/") if name == "good" else None
        return job

    def history(self, identifier: str) -> list[dict]:
        return self.results(f"jobs/{identifier}/statuses/")

    def has_ended(self, identifier: str) -> bool:
        return any(entry["status"].lower() in ENDED for entry in self.history(identifier))

    def tail(self, job: SimpleNamespace, path: str = LOG) -> requests.Response:
        return self.get(f"jobs/{job.id}/runs/1/tail/{path}?lines=2")

    def wait(self, condition: Callable[[], Any], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(self.step)
        return True

    def seen(self, name: str) -> SimpleNamespace:
        """A job when it has ended and its list of files has settled."""
        job = self.start(name)
        if job.ended:
            return job
        if name == "stopped":
            assert self.wait(lambda: "three" in self.tail(job).text, self.patience), "no tail of a running job"
            job.tail_during, job.tail_of_none = self.tail(job), self.tail(job, "none.txt")
            job.files_during = self.results(f"jobs/{job.id}/files/")
            job.stop = self("POST", f"jobs/{job.id}/stop/")
        assert self.wait(lambda: self.has_ended(job.id), self.patience + 3600 * (name == "walltime")), "no end"
        began, job.looks = time.monotonic(), []
        sign = ARCHIVE if name in ("volumes", "next") else LOG

        def settled() -> bool:
            files = self.results(f"jobs/{job.id}/files/")
            job.looks.append(files)
            job.settled = time.monotonic() - began
            whole = all(file["isUploaded"] and file["decryptedSize"] is not None for file in files)
            return whole and sign in [file["name"] for file in files] and job.looks[-2:] == [files, files]

        self.wait(settled, self.settle)
        job.ended, job.files = True, job.looks[-1]
        self.ids.update(file["id"] for file in job.files)
        job.history, job.tail_after = self.history(job.id), self.tail(job)
        return job

    def outputs(self, name: str) -> dict[str, dict]:
        """Files by their paths, without those that the job was given."""
        job = self.seen(name)
        given = {entry["id"] for entry in job.inputs}
        return {file["relativePath"].removeprefix("shared/"): file for file in job.files if file["id"] not in given}

    def result(self, name: str) -> dict:
        outputs = self.outputs(name)
        assert ARCHIVE in outputs, f"the job left {', '.join(sorted(outputs)) or 'nothing'}"
        return outputs[ARCHIVE]

    def packed(self, name: str, member: str) -> bytes:
        """A file in the result of a job."""
        with tarfile.open(fileobj=io.BytesIO(self.content(self.result(name))), mode="r:gz") as tar:
            return tar.extractfile(f"./{member}").read()

    def content(self, file: dict) -> bytes:
        content = self.get(f"files/{file['id']}/contents/").content
        assert sha512(file) == hashlib.sha512(content).hexdigest(), f"{file['name']} has another check sum"
        return content

    @functools.cached_property
    def answers(self) -> dict[str, str]:
        """What the good job wrote down, by the first word."""
        lines = self.content(self.outputs("good")["answers.txt"]).decode().splitlines()
        return {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in lines}

    def clean(self, text: str) -> str:
        """A text as it may be in the report."""
        text = text.replace(self.token.split()[-1], "KEY")
        text = re.sub(rf"\b({'|'.join(map(re.escape, self.ids)) or 'no id'})\b", "ID", text)
        return re.sub(r"[\w.+-]+@[\w-]+\.[\w.]+", "E-MAIL", text)

    def clean_up(self) -> None:
        """Stop what runs, delete all that was made, and keep in mind what could not be deleted."""
        things = sorted(self.made, reverse=True)  # jobs before the files that they were given
        for step in ("stop", "delete"):  # all are stopped before the first is waited for
            for kind, identifier in things:
                try:
                    has_run = kind == "jobs" and self.get(f"jobs/{identifier}/statuses/").json().get("results")
                    if step == "stop" and has_run and not self.has_ended(identifier):
                        self("POST", f"jobs/{identifier}/stop/")
                    if step == "delete":
                        cluster = f"jobs/{identifier}/cluster_statuses/"
                        if has_run:
                            self.wait(lambda path=cluster: "Stopped" in self.get(path).text, min(900, self.patience))
                        answer = self("DELETE", f"{kind}/{identifier}/")
                        assert answer.status_code in (200, 202, 204, 404), said(answer)
                except (requests.RequestException, ValueError, KeyError, AssertionError) as error:
                    if step == "delete":
                        print(f"could not be deleted: {kind}/{identifier}/: {error}")
                        self.left.append(f"{kind[:-1]} {self.made[kind, identifier]}: {error}")


def said(answer: requests.Response) -> str:
    return f"{answer.status_code} {' '.join(answer.text.split())[:160]}".strip()


def form(answer: requests.Response) -> str:
    try:
        return f"{answer.status_code} in JSON" if isinstance(answer.json(), dict) else f"{answer.status_code}"
    except ValueError:
        return f"{answer.status_code} without JSON"


def sha512(file: dict) -> str | None:
    return next((one["fileHash"].lower() for one in file.get("fileChecksums") or []
                 if one["hashFunction"].lower().replace("-", "") == "sha512"), None)


def described(file: dict, content: bytes) -> str:
    right = "right" if sha512(file) == hashlib.sha512(content).hexdigest() else sha512(file)
    more = ", deleted" * bool(file["isDeleted"]) + ", not uploaded" * (not file["isUploaded"])
    return f"type {file['typeId']}, {file['name']}, {file['decryptedSize']} bytes, SHA-512 {right}{more}"


def missing(thing: dict, *keys: str) -> str:
    return ", ".join(key for key in keys if thing.get(key) is None) or "nothing missing"


def yes(value: Any) -> str:
    return "yes" if value else "no"


# The facts. What a function finds equals what is expected, or differs.


def pages_hold_all(p):
    whole = [one["code"] for one in p.results("coretypes/?page_size=1000")]
    paged = [one["code"] for one in p.results("coretypes/?page_size=3")]
    return "all entries, each once" if sorted(whole) == sorted(paged) == sorted({*whole}) else f"{whole}, {paged}"


def form_of_next(p):
    url = urllib.parse.urlsplit(p.get("coretypes/?page_size=3&isActive=true").json()["next"])
    kept = "keeps" if "isActive" in url.query else "drops"
    return f"path {'with' if url.path.endswith('/') else 'without'} a slash, {kept} the query"


def last_page(p):
    pages = p.pages("coretypes/?page_size=3")
    right = pages[-1]["count"] == sum(len(page["results"]) for page in pages)
    return f"last page {'full' if pages[-1]['results'] else 'empty'}, count {'right' if right else 'wrong'}"


def ranges(p):
    path = f"files/{p.upload('a.txt', b'0123456789')['id']}/contents/"
    asked = [p.get(path), *(p.get(path, headers={"Range": f"bytes={span}"}) for span in ("3-5", "7-99"))]
    return ", ".join(f"{one.status_code} {one.text} {one.headers.get('Content-Range', '')}".strip() for one in asked)


def contents(p):
    path = f"files/{p.upload('a.txt', b'0123456789')['id']}/contents/"
    answer = p.get(path, allow_redirects=False)
    names = ("Content-Length", "ETag", "Accept-Ranges", "Content-Encoding", "Content-Disposition")
    return (f"{'redirect' if answer.is_redirect else 'no redirect'}, "
            f"{', '.join(name for name in names if name in answer.headers)}, "
            f"a range behind the end {p.get(path, headers={'Range': 'bytes=10-19'}).status_code}")


def deleted_file(p):
    path = f"files/{p.upload('a.txt', b'a')['id']}/"
    deleted, after = p("DELETE", path), p.get(path)
    state = f"isDeleted {after.json().get('isDeleted')}" if after.status_code == 200 else form(after)
    return f"DELETE {deleted.status_code}, then {state}, contents {p.get(path + 'contents/').status_code}"


def deleted_job(p):
    path = f"jobs/{p.try_to_create('draft').json()['id']}/"
    return f"DELETE {p('DELETE', path).status_code}, then {form(p.get(path))}"


WRONG = {"core type": {"hardware": {"coreType": "no_such_type", "coresPerSlot": 1, "slots": 1, "walltime": 1}},
         "tile": {"analysis": {"code": "no_such_tile", "version": "0"}},
         "version": {"analysis": {"code": "user_included", "version": "no such version"}},
         "input file": {"inputFiles": [{"id": "zzzzzz", "decompress": True}]}}


def draft(p):
    job = p.start("good")
    (tile,) = job.draft["jobanalyses"]
    given = [one["id"] for one in tile["inputFiles"] if sha512(one) and one["name"] and one["decryptedSize"]]
    return (f"{'a' if job.draft_history or 'status' in job.draft else 'no'} status, command "
            f"{'as sent' if tile['command'] == job.command else repr(tile['command'])}, input files "
            f"{'as given' if given == [one['id'] for one in job.inputs] else 'not as given'}")


def submit_of_a_completed_job(p):
    job = p.seen("volumes")
    answer = p("POST", f"jobs/{job.id}/submit/")
    time.sleep(p.step)
    return f"{said(answer)}; history {'as before' if p.history(job.id) == job.history else 'CHANGED'}"


def reason(p, name, status):
    """The reasons of the entries with this status."""
    found = [f"{status}: {one['statusReason']}" for one in p.seen(name).history if one["status"] == status]
    return ", ".join(found) or f"no {status}"


def form_of_dates(p):
    dates = " ".join(str(entry["statusDate"]) for entry in p.seen("good").history)
    dates = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?", lambda found: "DATE" + ".6 digits" * bool(found[1]), dates)
    return ", ".join(sorted({*dates.replace(".6 digits", " and 6 digits, ").replace(", ", " ").split("DATE ")}))


