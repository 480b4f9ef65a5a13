"""The contract: what the library relies on of the platform, one fact each, with its § of rescale-api.md.

    python -m pytest tests/test_contract.py       hold the simulator to it: part of the suite
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

REPORT, LOG, ARCHIVE = Path("contract-report.md"), "process_output.log", "rescale.tar.gz"
DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
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


def tar_gz(members: dict[str, Any]) -> bytes:
    """An archive with these members; a tuple is the type of a link and where it leads."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                (info.type, info.linkname), content = content, b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return memory.getvalue()


def plan(p: Platform, name: str) -> tuple[str, list[dict], dict]:
    """The command, the input files and the variables of a job; those of job_setup where it is what is relied on."""
    inputs: list[dict] = []
    if name == "good":
        archive = tar_gz({"sub/in.txt": b"in", "link.txt": (tarfile.SYMTYPE, "sub/in.txt")})
        inputs = [p.input("in.tar.gz", archive, True), p.input("plain.txt", b"plain\n", True),
                  p.input("packed.tar.gz", tar_gz({"packed.txt": b""}), False)]
        return GOOD, inputs, {"CONTRACT": "given"}
    if name in ("stopped", "walltime"):
        return STOPPED if name == "stopped" else "echo begun; sleep 7200", inputs, {}
    command = "mkdir sub; echo partial > sub/partial.txt; exit 3\n"
    if name == "volumes":
        whole = tar_gz({"data.txt": CONTENT})
        inputs = [p.input(f"{ARCHIVE}.rescale-{number:03}", part, False)
                  for number, part in enumerate((whole[:9999], whole[9999:]), 1)]
        command = "cp data.txt out.txt\n"
    if name == "next":
        inputs = [{"id": p.result("volumes")["id"], "decompress": True}]
        command = "cat data.txt out.txt > both.txt\n"
    return rescale._job_command(name, command, [one["decompress"] for one in inputs]), inputs, {}


class Platform:
    """A platform in plain requests, and what has been seen of the jobs there."""

    def __init__(self, url: str, token: str, step=5.0, patience=3600.0, settle=600.0, hours=1) -> None:
        self.url, self.token = url, token
        self.step, self.patience, self.settle, self.hours = step, patience, settle, hours
        self.session = requests.Session()
        self.session.trust_env = urllib.parse.urlsplit(url).hostname != "127.0.0.1"  # proxies: to the real one only
        self.session.headers["Authorization"] = token
        self.session.auth = lambda request: request  # and no .netrc
        self.seen_jobs: dict[str, Any] = {}  # by name: what was seen, or the exception that came instead
        self.made: dict[tuple[str, str], str] = {}  # names of all that is to be deleted, by kind and id
        self.ids: set[str] = set()  # of the outputs
        self.left: list[str] = []  # what could not be deleted
        self.suffix = time.strftime("%Y%m%d-%H%M%S")

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        url = path if "://" in path else f"{self.url}/api/v2/{path}"
        assert url.startswith(self.url + "/"), "a link leads to another host"  # where the token must not go
        for _ in range(9 if method == "GET" else 0):  # 504 is known to come at random (§7); a POST is never repeated
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                answer = self.session.request(method, url, timeout=120, **options)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            time.sleep(self.step)
        return self.session.request(method, url, timeout=600, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self("GET", path, **options)

    def pages(self, path: str) -> list[dict]:
        pages, link = [], path
        while link:
            answer = self.get(link)
            assert answer.status_code == 200, said(answer)
            pages.append(answer.json())
            link = pages[-1]["next"]
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
        self.made["files", answer.json()["id"]] = name
        return answer.json()

    def input(self, name: str, content: bytes, decompress: bool) -> dict:
        return {"id": self.upload(name, content)["id"], "decompress": decompress}

    def try_to_create(self, name: str, command: str = "true", **tile: Any) -> requests.Response:
        hours = 1 if name == "walltime" else self.hours
        hardware = {"coreType": self.core.code, "coresPerSlot": self.core.cores, "slots": 1, "walltime": hours}
        tile = {"analysis": {"code": "user_included", "version": "0"}, "command": command, "hardware": hardware,
                "flags": {"igCv": True}, **tile}
        job = {"name": f"contract@{name}@{self.suffix}", "jobanalyses": [tile],
               "projectId": self.project if name != "no project" else None}
        answer = self("POST", "jobs/", json=job)
        if answer.status_code == 201:
            self.made["jobs", answer.json()["id"]] = job["name"]
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
        assert self.wait(lambda: self.has_ended(job.id), self.patience * (1 + (name == "walltime"))), "no end"
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
        ids = [*self.ids, *(identifier for _, identifier in self.made), "no id"]
        text = re.sub(rf"\b({'|'.join(map(re.escape, ids))})\b", "ID", text)
        return re.sub(r"[\w.+-]+@[\w-]+\.[\w.]+", "E-MAIL", text)

    def clean_up(self) -> None:
        """Stop what runs, delete all that was made, and keep in mind what could not be deleted."""
        for kind, identifier in self.made:  # all are stopped before the first is waited for
            with contextlib.suppress(Exception):  # told when it cannot be deleted
                if kind == "jobs" and self.history(identifier) and not self.has_ended(identifier):
                    self("POST", f"jobs/{identifier}/stop/")
        for kind, identifier in sorted(self.made, reverse=True):  # jobs before the files that they were given
            path = f"{kind}/{identifier}/"
            try:
                assert self.wait(lambda path=path: self.delete(path), min(900, self.patience)), "400"
            except (requests.RequestException, AssertionError) as error:
                print(f"could not be deleted: {path}: {error}")
                self.left.append(f"{kind[:-1]} {self.made[kind, identifier]}: {error}")

    def delete(self, path: str) -> bool:
        """Whether it could be deleted: 400 means that a job's cluster has not stopped yet (§10)."""
        answer = self("DELETE", path)
        assert answer.status_code in (200, 202, 204, 400, 404), said(answer)
        return answer.status_code != 400


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
    whole, paged = ([one["code"] for one in p.results(f"coretypes/?page_size={size}")] for size in (1000, 3))
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
    trimmed = "trimmed" if tile["command"].strip() == job.command.strip() else "changed"
    return (f"{'a' if job.draft_history or 'status' in job.draft else 'no'} status, command "
            f"{'as sent' if tile['command'] == job.command else trimmed}, input files "
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


def order_of_dates(p):
    listed = [entry["statusDate"] for entry in p.seen("good").history]
    return "in the order of the list" if listed in (sorted(listed), sorted(listed)[::-1]) else "in another order"


def delay_of_the_list(p):
    job = p.seen("good")
    looks = next(number for number, look in enumerate(job.looks, 1) if look == job.files)
    return f"{job.settled:.0f} s, complete at look {looks}: {', '.join(str(len(look)) for look in job.looks)} files"


def inputs_listed(p):
    job = p.seen("good")
    own = {entry["id"] for entry in job.inputs} & {file["id"] for file in job.files}
    return f"{yes('plain.txt' in p.outputs('good'))}; {yes(own)}"


def shell(p):
    where = "not on stdin" if "beside" in p.answers else "on stdin"
    return f"{p.answers['shell']}; the script is {where}, which holds {p.answers.get('stdin')} bytes"


def without_time(line: str) -> str:
    return re.sub(rf"^\[{DATE}(\.\d+)?Z\]: ?", "[time]: ", line)


def closing_line(p, name):
    log = p.content(p.outputs(name)[LOG]).decode(errors="replace")
    return [line for line in map(without_time, log.splitlines()) if line.strip() != "[time]:"][-1]


# Name, § of rescale-api.md, what is expected (several: any of them), and the function that finds it
FACTS = [
    ("without a key, with a wrong one", "1", ["401 in JSON, 401 in JSON"],
     lambda p: ", ".join(form(p.get("users/me/", headers={"Authorization": key}))
                         for key in (None, f"Token {'0' * 40}"))),
    ("account", "1", ["nothing missing"], lambda p: missing(p.get("users/me/").json(), "email")),
    ("no such job, no such file", "3", ["404 in JSON, 404 in JSON"],
     lambda p: f"{form(p.get('jobs/zzzzzz/'))}, {form(p.get('files/zzzzzz/'))}"),
    ("pages", "0", ["all entries, each once"], pages_hold_all),
    ("more than 700 in a page of 1000", "16", ["yes"],
     lambda p: yes(len(p.get("analyses/?page_size=1000").json()["results"]) >= 700)),
    ("core types", "11", ["nothing missing"],
     lambda p: missing(p.get("coretypes/").json()["results"][0], "code", "cores", "isDeprecated")),
    ("tiles", "11", ["nothing missing"],
     lambda p: missing({**p.tile, **p.tile["versions"][0]}, "code", "version", "versionCode", "allowedCoreTypes")),
    ("projects", "11", ["nothing missing"],
     lambda p: missing([*p.results("users/me/projects/"), {"id": 0, "name": 0}][0], "id", "name")),
    ("answer to an upload", "2", ["type 1, a 모델.txt, 108890 bytes, SHA-512 right"],
     lambda p: described(p.upload("a 모델.txt", CONTENT), CONTENT)),
    ("file", "3", ["type 1, a.txt, 108890 bytes, SHA-512 right"],
     lambda p: described(p.get(f"files/{p.upload('a.txt', CONTENT)['id']}/").json(), CONTENT)),
    ("the same again as another file", "2", ["yes"],
     lambda p: yes(p.upload("a.txt", b"a")["id"] != p.upload("a.txt", b"a")["id"])),
    ("contents, and ranges of them", "3", ["200 0123456789, 206 345 bytes 3-5/10, 206 789 bytes 7-9/10"], ranges),
    ("wrong core type, tile, version, input file", "4", [", ".join(["400 in JSON"] * 4)],
     lambda p: ", ".join(form(p.try_to_create("wrong", **tile)) for tile in WRONG.values())),
    ("draft", "5", ["no status, command as sent, input files as given"], draft),
    ("deleted job", "10", ["DELETE 204, then 404 in JSON"], deleted_job),
    ("submit, and a status within a minute", "6", ["200, yes"],
     lambda p: f"{p.start('good').submitted.status_code}, {yes(p.history(p.start('good').id))}"),
    ("runs of a job that was submitted twice", "6", ["1"],
     lambda p: str(p.content(p.outputs("good")["count.txt"]).count(b"once"))),
    ("history of a good job", "7", ["Pending, Queued, Started, Validated, Executing, Completed"],
     lambda p: ", ".join(entry["status"] for entry in reversed(p.seen("good").history))),
    ("newest status first", "7", ["yes"], lambda p: yes(p.seen("good").history[0]["status"].lower() in ENDED)),
    ("form of dates", "7", ["DATE+00:00", "DATEZ"], lambda p: " and ".join(sorted({
        re.sub(rf"^{DATE}(\.\d{{6}})?", "DATE", str(entry["statusDate"])) for entry in p.seen("good").history}))),
    ("dates", "7", ["in the order of the list"], order_of_dates),
    ("reason of a good job", "7", ["Completed: Completed successfully"], lambda p: reason(p, "good", "Completed")),
    ("reason of a failed job", "7", ["Stopping: A run failed"], lambda p: reason(p, "failed", "Stopping")),
    ("end of a failed job", "7", ["Completed"],
     lambda p: next(one["status"] for one in p.seen("failed").history if one["status"].lower() in ENDED)),
    ("stop", "10", ["202, Stopping: User Terminated"],
     lambda p: f"{p.seen('stopped').stop.status_code}, {reason(p, 'stopped', 'Stopping')}"),
    ("what a stopped job leaves after SIGTERM", "10", [f"{LOG}, trapped.txt"],
     lambda p: ", ".join(sorted(p.outputs("stopped")))),
    ("tail of a running job", "8", ["[time]: two, [time]: three"],
     lambda p: ", ".join(map(without_time, p.seen("stopped").tail_during.json()["lines"]))),
    ("files of a running job", "9", ["0"], lambda p: str(len(p.seen("stopped").files_during))),
    ("output out/deep.txt", "9", ["type 5, deep.txt, 6 bytes, SHA-512 right"],
     lambda p: described(p.outputs("good")["out/deep.txt"], b"hello\n")),
    ("work folder", "13", ["$HOME/work", "$HOME/work/shared"], lambda p: "$HOME" + p.answers["folder"]),
    ("variables", "13", ["given, cores as asked for, id given"],
     lambda p: p.answers["variables"].replace(f"cores {p.core.cores},", "cores as asked for,")),
    ("file of an archive in the work folder", "2", ["in"], lambda p: p.answers["unpacked"]),
    ("archive with decompress false", "2", ["stays"], lambda p: p.answers["packed"]),
    ("last lines of logs", "13", ["[time]: Exited with code 0; [time]: Exited with code 3"],
     lambda p: f"{closing_line(p, 'good')}; {closing_line(p, 'failed')}"),
    ("what job_setup's command leaves after a failure", "13", [f"{LOG}, rescale_failed.tar.gz"],
     lambda p: ", ".join(sorted(p.outputs("failed")))),
    ("what job_setup's command leaves, the log deleted", "13", [ARCHIVE],
     lambda p: ", ".join(sorted(p.outputs("volumes")))),
    ("volumes joined by job_setup's command", "16", ["yes"],
     lambda p: yes(p.packed("volumes", "out.txt") == CONTENT)),
    ("result as the input of the next job", "2", ["yes"],
     lambda p: yes(p.packed("next", "both.txt") == 2 * CONTENT)),
]
# What no source tells, or only one: every answer is fine, and told; the third is what the simulator chose, if it did
QUESTIONS = [
    ("text of a 401", "15", None, lambda p: said(p.get("users/me/", headers={"Authorization": None}))),
    ("maxJobHours", "1", "48", lambda p: str(p.get("users/me/").json().get("maxJobHours"))),
    ("default page", "0", "10", lambda p: str(len(p.get("analyses/").json()["results"]))),
    ("next", "0", "path with a slash, keeps the query", form_of_next),
    ("end of a list", "16", "last page full, count right", last_page),
    ("price of a core type", "11", "yes", lambda p: yes(p.core.price < float("inf"))),
    ("MD5 of an upload", "2", "yes", lambda p: yes(p.upload("a.txt", b"a").get("md5"))),
    ("contents: redirect, headers", "15", "no redirect, Content-Length, a range behind the end 416", contents),
    ("deleted file", "3", "DELETE 204, then isDeleted True, contents 404", deleted_file),
    ("texts of the 400 of a job", "15", None,
     lambda p: "; ".join(said(p.try_to_create("wrong", **tile)) for tile in WRONG.values())),
    ("job without a project", "4", "taken",
     lambda p: "taken" if p.no_project.status_code == 201 else said(p.no_project)),
    ("seconds from submit to the first status", "6", None, lambda p: f"{p.start('good').delay:.0f}"),
    ("second submit of a queued or running job", "15", "200", lambda p: said(p.start("good").again)),
    ("submit of a completed job", "14", "200; history as before", submit_of_a_completed_job),
    ("stop of a completed job", "10", None, lambda p: said(p("POST", f"jobs/{p.seen('stopped').id}/stop/"))),
    ("last reason of a failed job", "15", "Completed: A run failed", lambda p: reason(p, "failed", "Completed")),
    ("last reason of a stopped job", "15", "Completed: User Terminated", lambda p: reason(p, "stopped", "Completed")),
    ("tail of a draft; of an ended job; of no file", "15", None, lambda p: "; ".join(
        said(getattr(p.seen("stopped"), name)) for name in ("tail_before", "tail_after", "tail_of_none"))),
    ("delay of the list of outputs", "15", None, delay_of_the_list),
    ("synced: empty, hidden, in a hidden folder, symbolic link", "13", "yes, yes, yes, yes", lambda p: ", ".join(
        yes(name in p.outputs("good")) for name in ("empty.txt", ".hidden.txt", ".hidden/inside.txt", "soft.txt"))),
    ("inputs among the outputs; under their own ids", "9", "yes; no", inputs_listed),
    ("shell", "13", None, shell),
    ("archive after unpacking, symbolic link in it, inputs executable", "15", "stays, empty, yes",
     lambda p: f"{p.answers['archive']}, {p.answers['link'] or 'empty'}, {p.answers['executable']}"),
    ("history after the walltime", "15", None,
     lambda p: "; ".join(f"{one['status']}: {one['statusReason']}" for one in p.seen("walltime").history[:2])),
    ("outputs after the walltime", "13", LOG, lambda p: ", ".join(sorted(p.outputs("walltime"))) or "none"),
]
ALL = {name: (section, expected, look) for name, section, expected, look in (
    *FACTS, *((name, section, [], look) for name, section, _, look in QUESTIONS))}
CHOSEN = {name: choice for name, _, choice, _ in QUESTIONS}


# Asking, and the report


def judge(p: Platform, name: str) -> tuple[str, str]:
    """What is found, and the verdict: as expected, DIFFERS; of a question: told, NO ANSWER."""
    _, expected, look = ALL[name]
    try:
        text = p.clean(look(p))
    except Exception as error:  # whatever went wrong is what was found
        return p.clean(f"{type(error).__name__}: {error}")[:300], "DIFFERS" if expected else "NO ANSWER"
    return text, "told" if not expected else "as expected" if text in expected else "DIFFERS"


def ask(p: Platform, walltime: bool) -> str:
    """Run the jobs, look at all facts, clean up, whatever comes; return the report."""
    rows, verdicts = [], []
    try:
        for name in (*JOBS[:-1], *(["walltime"] if walltime else [])):
            with contextlib.suppress(Exception):  # told by the facts
                p.start(name)
        with contextlib.suppress(Exception):
            p.seen("stopped")  # first, for it runs until then
        for name, (section, expected, _) in ALL.items():
            if name.endswith("the walltime") and not walltime:
                continue  # an hour of money and patience, for those two
            text, verdict = judge(p, name)
            print(f"{verdict:11} {name}: {text}", flush=True)
            verdicts.append(verdict)
            cells = name, section, " or ".join(expected) or "?", text, verdict
            rows.append("| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells) + " |")
    finally:
        print("cleaning up", flush=True)
        p.clean_up()
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("as expected", "DIFFERS", "told", "NO ANSWER"))
    return "\n".join([
        "# Contract report", "",
        f"{urllib.parse.urlsplit(p.url).hostname}, {time.strftime('%Y-%m-%d')}, core type {p.core.code}: {counts}.", "",
        "| fact | § | expected | found | |", "| --- | --- | --- | --- | --- |", *rows, "",
        "All jobs and files were deleted." if not p.left else "Could not be deleted:",
        *(f"- {p.clean(one)}" for one in p.left),
    ]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Hold a Rescale platform to what the library relies on.")
    parser.add_argument("--platform", required=True, help="https://...")
    parser.add_argument("--spend", action="store_true", help="really run the jobs there, which costs money")
    parser.add_argument("--walltime", action="store_true", help="also let a job run into its walltime of an hour")
    options = parser.parse_args(arguments)
    if options.spend and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        parser.error("a CI spends no money, and CI is set")
    try:
        url, token = rescale.platform_my_token(options.platform)
    except rescale.RescaleError as error:
        parser.error(str(error))
    p = Platform(url, token, **(QUICK if urllib.parse.urlsplit(url).hostname == "127.0.0.1" else {}))
    runs = len(JOBS) + 2 + options.walltime  # two jobs are submitted twice, and might run twice
    cost = f"{runs * p.core.price:.2f} at its prices" if p.core.price < float("inf") else "what it does not tell"
    print(f"{runs} runs on {p.core.cores} core(s) of {p.core.code}, 1 hour each at most, cost at most {cost}")
    if not options.spend:
        print("Nothing was started; --spend starts them.")
        return
    REPORT.write_text(ask(p, options.walltime), encoding="utf-8")
    print(f"The report is in {REPORT}")


# The simulator keeps the contract, and is seen when it does not


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run of the script that spends all, on a simulator: its report, the rows by name, and the simulator."""
    folder = tmp_path_factory.mktemp("contract")
    with Simulator(folder / "platform", speed=0, walltime_hour=0.4) as sim, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESCALE_API_KEY", sim.token)
        patch.delenv("CI", raising=False)
        patch.chdir(folder)
        main(["--platform", sim.url, "--spend", "--walltime"])
        text = REPORT.read_text(encoding="utf-8")
        rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
        yield SimpleNamespace(sim=sim, text=text, rows={name: found for name, *found in rows})


@pytest.mark.parametrize("name", ALL)
def test_the_simulator_is_as_the_platform(asked, name):
    _, expected, found, verdict = asked.rows[name]
    assert verdict in ("as expected", "told"), f"expected {expected}, found {found}"
    assert found == (CHOSEN.get(name) or found)


OTHERWISE = {"DIFFERS": [
    ("next_foreign", "http://elsewhere.example", "pages"), ("page_size_cap", 100, "more than 700 in a page of 1000"),
    ("checksums", "none", "answer to an upload"), ("checksums", "md5", "file"),
    ("ignore_range", True, "contents, and ranges of them"), ("wrong_range", True, "contents, and ranges of them"),
    ("any_settings", True, "wrong core type, tile, version, input file"),
    ("silent_submit", True, "submit, and a status within a minute"),
    ("resubmit", "again", "runs of a job that was submitted twice"),
    ("timeline", ("Pending", "Queued", "Started", "Executing"), "history of a good job"),
    ("newest_first", False, "newest status first"), ("date_style", "none", "form of dates"),
    ("date_style", "partly", "dates"), ("success_reason", None, "reason of a good job"),
    ("fail", "good", "reason of a good job"), ("stopping_entry", False, "reason of a failed job"),
    ("last_status", "Failed", "end of a failed job"),
], "as expected": [  # but in another of the ways that are
    ("date_style", "Z", "form of dates"), ("shared_work", True, "work folder"),
], "told": [
    ("page_size", 7, "default page"), ("next_without_slash", True, "next"), ("next_drops_query", True, "next"),
    ("empty_last_page", True, "end of a list"), ("prices", False, "price of a core type"),
    ("checksums", "sha512", "MD5 of an upload"), ("contents_redirect", True, "contents: redirect, headers"),
    ("project_required", True, "job without a project"),
    ("resubmit", "400", "second submit of a queued or running job"),
    ("resubmit_completed", "400", "submit of a completed job"),
    ("failed_reason", None, "last reason of a failed job"),
    *(("tail_off_run", style, "tail of a draft; of an ended job; of no file")
      for style in ("400", "html", "empty", "lines")),
    *((lag, 2, "delay of the list of outputs") for lag in ("listing_lag", "upload_lag", "size_lag")),
    *(("lists_inputs", style, "inputs among the outputs; under their own ids") for style in ("all", "none")),
    ("unpacks_links", "kept", "archive after unpacking, symbolic link in it, inputs executable"),
    ("shell", ["bash", "--posix"], "shell"), ("shell_style", "-c", "shell"), ("shell_style", "stdin", "shell"),
    ("walltime_reason", "Time is up", "history after the walltime"),
    ("walltime_syncs", False, "outputs after the walltime"),
]}
NOT_THE_PLATFORMS = {"speed", "rate", "upload_rate", "flaky", "seed", "walltime_hour"}  # but the network's


def test_every_quirk_is_one_that_a_fact_notices():
    assert {quirk for rows in OTHERWISE.values() for quirk, _, _ in rows} | NOT_THE_PLATFORMS == set(QUIRKS)


@pytest.mark.parametrize(("verdict", "quirk", "value", "name"),
                         [(verdict, *row) for verdict, rows in OTHERWISE.items() for row in rows], ids=str)
def test_what_a_platform_does_otherwise_is_seen(asked, tmp_path, verdict, quirk, value, name):
    if quirk == "shell" and not shutil.which("bash"):
        pytest.skip("no bash")
    short = {"settle": 0.5, "patience": 0.5 if quirk == "silent_submit" else 20.0}  # for what never comes
    with Simulator(tmp_path / "platform", **{"speed": 0, "walltime_hour": 0.4, quirk: value}) as sim:
        text, seen = judge(Platform(sim.url, f"Token {sim.token}", **{**QUICK, **short}), name)
    assert (seen, text != asked.rows[name][-2]) == (verdict, True), text


# The script


def test_the_report_holds_nothing_private_and_a_run_leaves_nothing_behind(asked):
    ids = {*asked.sim.files, *re.findall(r"/jobs/(\w+)/", " ".join(one.path for one in asked.sim.requests))}
    assert not {*re.findall(r"\w+", asked.text)} & (ids - {"zzzzzz"})
    assert not re.search(f"{asked.sim.token}|@", asked.text)
    assert asked.sim.jobs == {}
    assert all(file.is_deleted for file in asked.sim.files.values())
    assert asked.text.endswith("\nAll jobs and files were deleted.\n")


def test_what_cannot_be_deleted_is_told_and_the_rest_deleted_also_after_a_failure(sim, monkeypatch, capsys):
    p = Platform(sim.url, f"Token {sim.token}", **QUICK)
    kept = p.try_to_create("kept").json()["id"]
    sim.faults.append(Fault("500", method="DELETE", path=kept))

    def interrupted(p, name):
        p.seen("volumes")
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[__name__], "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(p, walltime=True)  # two jobs still run
    assert list(sim.jobs) == [kept]
    assert [file for file in sim.files.values() if not file.is_deleted] == []
    assert f"jobs/{kept}/: 500" in capsys.readouterr().out
    assert [one.partition(": ")[0] for one in p.left] == [f"job contract@kept@{p.suffix}"]
    assert p.clean(f"{kept} of x.y@example.com: {sim.token}") == "ID of E-MAIL: KEY"


@pytest.mark.parametrize(("ci", "more", "said"), [
    ("", [], r"\n7 runs on 1 core.* of onyx, 1 hour .* 0\.35 "), ("true", ["--spend"], r"\n.*CI"),
], ids=["without --spend, but says what it would cost", "in a CI"])
def test_it_starts_nothing(ci, more, said, sim, monkeypatch, capsys):
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(SystemExit) if ci else contextlib.nullcontext():
        main(["--platform", sim.url, *more])
    assert re.search(said, "".join(capsys.readouterr()))
    assert {record.method for record in sim.requests} <= {"GET"}
    assert not REPORT.exists()


if __name__ == "__main__":
    main()
