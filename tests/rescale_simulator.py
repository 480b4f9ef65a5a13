#!/usr/bin/env python3
"""Rehearse a script that uses Rescale: it talks to a Rescale on this computer, whose jobs really run, free of charge.

  rescale_simulator.py main.py                                     the whole chain of main.py
  rescale_simulator.py --stand-in abaqus=./fake_abaqus.sh main.py  with a script in place of a solver
  rescale_simulator.py --fail rod2 main.py                         what if the second solver fails?
  rescale_simulator.py --flaky 5% main.py                          what if the network is bad?
  rescale_simulator.py --folder run1 main.py                       keep jobs and files in ./run1, so that
  rescale_simulator.py --folder run1 main.py --resume              can go on with them, and
  rescale_simulator.py --folder run1 main.py --status              look at them from another terminal meanwhile
  rescale_simulator.py                                             without a script: serve until Ctrl-C
"""
# In a test, `with Simulator(folder, speed=0) as sim:` serves sim.url for sim.token. It follows rescale-api.md (the §
# numbers). In this order: what is known beforehand, the platform's answers (ROUTES), the server, the running of jobs,
# what a platform may do otherwise where sources are silent (QUIRKS) and a network at any time (FAULTS), the command.

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import http.client
import io
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Callable

from flask import Flask, Response, request
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.formparser import parse_form_data
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import get_input_stream

API = "/api/v2"
PIECE = 1024 * 1024  # bytes that are read and sent at a time
LOG = "process_output.log"
OWNER = "rehearsal@example.com"
STORAGE = "/storage/"  # whoever has a link to it may read, and who sends an Authorization is turned away
PROJECTS = {"xDdRk": "Rehearsal", "pQrSt": "Crash 2027"}
KILL_AFTER = 3.0  # seconds from SIGTERM to SIGKILL
MAX_JOB_HOURS = 48  # the account's own limit, `maxJobHours` of users/me (§1)

# code, price per core-hour, sizes of one node (larger counts are multiples of the largest), flags
CORE_TYPES = [
    ("emerald", 0.06, [1, 2, 4, 8, 16, 18, 36], {}),
    ("starlite_max", 0.09, [1, 2, 4, 8, 16, 32, 64], {}),
    ("onyx", 0.05, [1, 2, 4, 9, 18], {}),
    ("nickel", 0.23, [1, 2, 4, 8, 16], {"isDeprecated": True}),  # dearer than those that some client may pick
    ("marble", 0.25, [1, 2, 4, 8], {"isDeprecated": True, "isActive": False}),  # because they are the cheapest
]

# code: name, vendor, versions newest first as (version, versionCode)
ANALYSES = {
    "user_included": ("Bring Your Own Software", "Rescale", [("CPU", "0"), ("GPU", "0-gpu")]),
    "abaqus": ("Abaqus", "Dassault", [("2024 HF2", "2024-2412"), ("2022 HF3", "2022-2241")]),
    "ansys_fluent": ("Ansys Fluent", "Ansys", [("2025 R1", "25.1"), ("2023 R2", "23.2")]),
    "openfoam": ("OpenFOAM", "OpenCFD", [("v2406", "v2406"), ("v2212", "v2212")]),
    # The real catalogue has more than 700 tiles (§11), which is what makes a client fetch it in few requests.
    **{f"sample_{n:03}": (f"Sample Solver {n:03}", "Sample", [(f"{n}.1", f"{n}.1-r2")]) for n in range(1, 697)},
}

Record = SimpleNamespace  # a request as it arrived: method, path, query, headers, time, fault, and its answer's status
File = SimpleNamespace  # an uploaded file or an output of a job, see Platform.add_file


class Job(SimpleNamespace):
    """A job, see Platform.create_job; what begins with _ does not outlive the simulator."""

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def inputs(self) -> list[dict]:
        return [entry for tile in self.data["jobanalyses"] for entry in tile["inputFiles"]]


class Fault:
    """Misbehaviour for `times` requests with this method and a path like this, after `skip` such requests."""

    def __init__(self, name: str, method: str | None = None, path: str = "", times: int = 1, skip: int = 0,
                 seconds: float | None = None, retry_after: str = "1", location: str = "http://127.0.0.1:9/",
                 hits: int = 0) -> None:
        if name not in FAULTS:
            raise ValueError(f"unknown fault {name!r}, known are: {', '.join(FAULTS)}")
        self.name, self.method, self.path, self.times, self.skip = name, method, path, times, skip
        self.seconds = (0.3 if name == "refused" else 2.0) if seconds is None else seconds
        self.retry_after, self.location, self.hits = retry_after, location, hits  # hits: requests that got it so far

    def strikes(self, record: Record) -> bool:
        if self.hits == self.times or self.method not in (None, record.method) or not re.search(self.path, record.path):
            return False
        self.skip, strikes = max(0, self.skip - 1), not self.skip
        self.hits += strikes
        return strikes


class Refused(HTTPException):
    """An answer of 4xx with this body, or with {"detail": body} for a text."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(body)
        self.code = status


def found(thing: Any) -> Any:
    """Return it if it is there, else answer 404."""
    if not thing:
        raise Refused(404, "Not found.")
    return thing


def check_job(job: dict, sim: Simulator) -> dict:
    """What the platform makes of a posted job (§4); 400 tells what is wrong nested as the job is, leaves are lists."""
    project, required = job.get("projectId", job.get("project_id")) or None, ["This field is required."]
    wrong_tiles = [check_tile(tile, sim) for tile in job.get("jobanalyses") or []]
    errors = complaints(
        ("name", job.get("name"), required),
        ("projectId", project or not sim.project_required, required),
        ("projectId", not project or str(project) in PROJECTS or sim.any_settings, [f'Invalid project "{project}".']),
        ("jobanalyses", wrong_tiles, required),
        ("jobanalyses", not any(wrong_tiles), wrong_tiles),
    )
    if errors:
        raise Refused(400, errors)
    return {"description": "", "billingPriorityValue": "ON_DEMAND", **job, "projectId": project,
            "isLowPriority": truth(job.get("isLowPriority"))}


def check_tile(tile: dict, sim: Simulator) -> dict:
    """What is wrong with one of the jobanalyses, which becomes what the platform makes of it."""
    analysis, hardware, flags, variables = (tile.get(key) or {} for key in ("analysis", "hardware", "flags", "envVars"))
    code, command = str(analysis.get("code")), str(tile.get("command") or "")
    title, _, versions = ANALYSES.get(code, ("", "", []))
    names = {version: name for name, version in versions}
    version = str(analysis.get("version") or next(iter(names), ""))
    inputs = [{"id": str(one.get("id")), "decompress": truth(one.get("decompress", True))}
              for one in tile.get("inputFiles") or []]
    there = {id for id, file in sim.files.items() if file.is_uploaded and not file.is_deleted}
    core_type, is_endless = str(hardware.get("coreType")), hardware.get("walltime") in (None, "")
    active = {code: (sizes, flags) for code, _, sizes, flags in CORE_TYPES if flags.get("isActive", True)}
    sizes, _ = active.get(core_type, ([], {}))
    cores, slots, hours = (number({"slots": 1, **hardware}.get(key)) for key in ("coresPerSlot", "slots", "walltime"))
    largest, limit = sizes[-1] if sizes else max(cores, 1), math.inf if sim.any_settings else MAX_JOB_HOURS
    wrong_hardware = complaints(
        ("coreType", sizes or sim.any_settings, [f"There is no core type {core_type!r}."]),
        ("coresPerSlot", cores, ["A valid integer is required."]),
        ("coresPerSlot", cores in sizes or not cores % largest or sim.any_settings,
         [f"{core_type} comes with {', '.join(map(str, sizes))} cores or multiples of {largest}, not with {cores}."]),
        ("walltime", is_endless or 1 <= hours <= limit, [f"A whole number of hours, {MAX_JOB_HOURS} at most."]),
    )
    nodes = {"numberOfNodes": math.ceil(cores / largest), "memoryPerNode": 65536, "storagePerNode": 500}
    hardware.update(coresPerSlot=cores, slots=slots, walltime=None if is_endless else hours, coreSummary=nodes)
    tile.update(analysis={"code": code, "name": title, "version": version, "versionName": names.get(version)},
                hardware=hardware, inputFiles=inputs, envVars=variables)
    return complaints(
        ("analysis", names or (analysis and sim.any_settings), {"code": [f"There is no analysis {code!r}."]}),
        ("analysis", version in names or sim.any_settings, {"version": [f"{title} has no version {version!r}."]}),
        ("command", command.strip(), ["This field is required."]),
        ("command", code != "abaqus" or "interactive" in command or truth(flags.get("igCv")),
         ["The interactive flag must be present."]),
        ("hardware", not wrong_hardware, wrong_hardware),
        ("inputFiles", there.issuperset(one["id"] for one in inputs),
         [{} if one["id"] in there else {"id": ["There is no such file."]} for one in inputs]),
    )


def complaints(*rules: tuple[str, Any, Any]) -> dict:
    """The first complaint about each field; a rule is the field, whether it is right, and the complaint."""
    return {field: complaint for field, right, complaint in reversed(rules) if not right}


def number(value: Any) -> int:
    """A number, also one written as a text (§0); 0 if it is none."""
    return int(value) if re.fullmatch(r"\d+", str(value)) else 0


def truth(value: Any) -> bool:
    return str(value).lower() in ("true", "1")


class Platform:
    """What a platform answers, and what it remembers."""

    def upload(self) -> Any:
        id = self.new_id()
        path = self.folder / "files" / id
        try:  # straight to where it stays: an upload of several GB neither fills the memory nor is copied
            with path.open("wb+") as stream:
                part = parse_form_data(request.environ, lambda *_, **__: stream)[2].get("file")
            name = re.split(r"[/\\]", part.filename or "")[-1] if part else ""
            if name in ("", ".", ".."):
                raise Refused(400, {"file": ["No file was submitted."]})
        except HTTPException:
            path.unlink()
            raise
        self.add_file(id, path, name, f"{id}/{name}")
        self.save()
        return self.file_object(self.files[id]), 201

    def file_object(self, file: File) -> dict:
        return {
            "id": file.id, "name": file.name, "typeId": file.type_id, "relativePath": file.relative_path,
            "path": file.storage_path, "dateUploaded": file.date, "decryptedSize": file.size, "owner": OWNER,
            "md5": file.md5, "fileChecksums": [{"hashFunction": "sha512", "fileHash": file.sha512}],
            "isUploaded": file.is_uploaded, "isDeleted": file.is_deleted, "viewInBrowser": False,
            "downloadUrl": f"{self.url}{API}/files/{file.id}/contents/", "encodedEncryptionKey": "c2VjcmV0",
            **SUMS[self.checksums],
        }

    def contents(self, file: File) -> Any:
        found(file.is_uploaded and not file.is_deleted)
        answer = self._stream(file, self.bent("range", request.headers.get("Range", "")))
        return self.bent("contents", answer, file)

    def lines(self, file: File) -> Any:
        found(file.is_uploaded and not file.is_deleted)
        with file.path.open("rb") as stream:
            return {"lines": [line.decode(errors="replace") for line in stream]}

    def delete(self, *files: File) -> Any:
        for file in files:
            file.is_deleted = True
            file.path.unlink(missing_ok=True)
        self.save()
        return "", 204

    def create_job(self) -> Any:
        body = request.get_json()
        data, id = check_job(json.loads(request.get_data()), self), self.new_id()
        folder = self.folder / "jobs" / (re.sub(r"[^\w.@-]+", "_", str(data["name"]))[:60] + "-" + id)
        folder.mkdir()
        with self.lock:
            self.jobs[id] = Job(
                id=id, name=data["name"], folder=folder, date=self.now(), body=body, data=data,  # as posted, as echoed
                statuses=[], files=[],  # oldest first; ids of its outputs
                date_started=None, date_completed=None, ended=None,  # of the run; time.time() of the last status
                _run=None, _listings=0,
            )
            self.save()
        return self.job_object(self.jobs[id]), 201

    def job_object(self, job: Job) -> dict:
        """A job as the API shows it: without its status (§5)."""
        tiles = [{**tile, "inputFiles": [{**self.file_object(self.files[one["id"]]), **one}
                                         for one in tile["inputFiles"]]} for tile in job.data["jobanalyses"]]
        return {"id": job.id, **job.data, "jobanalyses": tiles, "owner": OWNER, "dateInserted": job.date,
                "expectedRuns": None, "resourceFilters": [], "jobvariables": [], "isTemplateDryRun": False}

    def submit(self, job: Job) -> Any:
        with self.lock:
            if any(self.files[entry["id"]].is_deleted for entry in job.inputs):
                raise Refused(400, {"inputFiles": ["An input file has been deleted."]})
            if job.statuses:
                return AGAIN[self.resubmit_completed if job.ended else self.resubmit](self, job)
            self.bent("submit", self.start)(job)
        return ""

    def history(self, job: Job) -> Any:
        dated = [{**entry, "statusDate": DATES[self.date_style](number, entry["statusDate"])}
                 for number, entry in enumerate(job.statuses)]
        return self._page(self.bent("history", dated[::-1]))

    def tail(self, job: Job, path: str) -> Any:
        is_running = job.date_started and not job.date_completed
        if not is_running and OFF_RUN[self.tail_off_run]:
            return OFF_RUN[self.tail_off_run]
        try:
            with inside(job.work, path.rstrip("/")).open("rb") as stream:
                last = collections.deque(stream, number(request.args["lines"]))
        except (OSError, ValueError):
            return OFF_RUN["404"]
        lines = [line.decode(errors="replace").rstrip("\n") for line in last]
        return {"fileType": f"{path}: ASCII text", "lines": lines}

    def outputs(self, job: Job) -> Any:
        with self.lock:
            files = [self.files[id] for id in job.files] if job.ended else []  # none before the end (§9)
            job._listings += bool(files) and request.args.get("page", "1") == "1"
            listed = self.bent("outputs", [self.file_object(file) for file in files], job)
        return self._page([file for file in listed if request.args.get("search", "") in file["relativePath"]])

    def stop(self, job: Job) -> Any:
        if not job._run or job.ended:
            raise Refused(400, "This job is not running.")
        job._run.stopped.set()
        return "", 202

    def delete_job(self, job: Job) -> Any:
        if job.statuses and not (job.ended and time.time() >= job.ended + self.speed):
            raise Refused(400, "The cluster of this job has not stopped yet.")
        with self.lock:
            del self.jobs[job.id]
            shutil.rmtree(job.folder, ignore_errors=True)
            return self.delete(*(self.files[id] for id in job.files))

    def core_types(self) -> Any:
        items = [self.bent("core type", {
            "code": code, "name": code.title(), "price": price, "lowPriorityPrice": str(price / 2), "cores": sizes,
            "isDeprecated": False, "isActive": True, **flags,
        }) for code, price, sizes, flags in CORE_TYPES]
        active = request.args.get("isActive", "false true")
        return self._catalogue([item for item in items if str(item["isActive"]).lower() in active])

    def analyses(self) -> Any:
        allowed = [code for code, _, _, flags in CORE_TYPES if flags.get("isActive", True)]
        return self._catalogue([
            {"code": code, "name": title, "vendorName": vendor, "description": "", "hasRescaleLicense": False,
             "versions": [{"version": name, "versionCode": version, "allowedCoreTypes": allowed, "stdCommand": ""}
                          for name, version in versions]}
            for code, (title, vendor, versions) in ANALYSES.items()
        ])

    ROUTES = (  # in the order of rescale-api.md: methods, path, and the function that returns what is sent
        ("GET", "/users/me/", lambda _: {"email": OWNER, "fullName": "Re Hearsal", "maxJobHours": MAX_JOB_HOURS}),  # §1
        ("POST PUT", "/files/contents/", upload),  # §2
        ("GET", "/files/<file>/", file_object),  # §3
        ("GET", "/files/<file>/contents/", contents),
        ("GET", "/files/<file>/lines/", lines),
        ("DELETE", "/files/<file>/", lambda self, file: self.delete(file)),
        ("POST", "/jobs/", create_job),  # §4
        ("GET", "/jobs/<job>/", job_object),  # §5
        ("POST", "/jobs/<job>/submit/", submit),  # §6
        ("GET", "/jobs/<job>/statuses/", history),  # §7
        ("GET", "/jobs/<job>/runs/1/tail/<path:path>", tail),  # §8
        ("GET", "/jobs/<job>/files/", outputs),  # §9
        ("POST", "/jobs/<job>/stop/", stop),  # §10
        ("DELETE", "/jobs/<job>/", delete_job),
        ("GET", "/coretypes/", core_types),  # §11
        ("GET", "/analyses/", analyses),
        ("GET", STORAGE + "<file>/", lambda self, file: self._stream(file, request.headers.get("Range", ""))),
        ("GET", "/users/me/projects/",
         lambda self: self._catalogue([{"id": id, "name": PROJECTS[id]} for id in PROJECTS])),
    )

    def _catalogue(self, items: list) -> dict:
        """A list of what can be had; a platform that takes any settings has none, so that nobody is misled by it."""
        return self._page([] if self.any_settings else items)

    def _page(self, items: list) -> dict:
        """One page of these items as all lists of the API come (§0)."""
        page, size = number(request.args.get("page", 1)), number(request.args.get("page_size"))
        size = min(size or self.page_size, self.page_size_cap)
        count = self.bent("count", len(items), size)
        pages = max(1, math.ceil(count / size))
        found(1 <= page <= pages)

        before, behind = (
            self.bent("link", f"{self.url}{request.path}?{urllib.parse.urlencode({**request.args, 'page': other})}")
            if 1 <= other <= pages else None for other in (page - 1, page + 1))
        return {"count": count, "next": behind, "previous": before, "results": items[(page - 1) * size : page * size]}

    def _stream(self, file: File, wanted: str) -> Response:
        """The bytes of a file, or the range of them that is asked for, no faster than `rate`."""
        asked, rate = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted), self.rate or math.inf
        first, last = (int(asked[1]), int(asked[2] or file.size)) if asked else (0, file.size)
        last = min(last, file.size - 1)
        if asked and first > last:
            return Response("", 416, {"Content-Range": f"bytes */{file.size}"})

        def pieces() -> Iterator[bytes]:
            left = last + 1 - first
            with file.path.open("rb") as stream:
                stream.seek(first)
                while left:
                    piece = stream.read(int(min(PIECE, left, max(1, rate / 20))))
                    if not piece:
                        raise ConnectionAbortedError  # the file has changed: better no end than a wrong one
                    self.closing.wait(len(piece) / rate)
                    left -= len(piece)
                    yield piece

        headers = {"Content-Range": f"bytes {first}-{last}/{file.size}"} if asked else {}
        answer = Response(pieces(), 206 if asked else 200, headers, "application/octet-stream")
        answer.content_length = last + 1 - first
        return answer

    def now(self) -> str:
        """The time as the API writes it."""
        return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def new_id(self) -> str:
        """Six letters that are new also to a disk that does not tell capital letters from small ones."""
        taken = {id.lower() for id in (*self.files, *self.jobs)}
        while (id := "".join(random.choices(string.ascii_letters, k=6))).lower() in taken:
            pass
        return id

    def start(self, job: Job) -> None:
        self.starts[job.id] += 1
        if not job._run:  # else it runs once more behind the run that goes on
            self.add_status(job, "Pending")
            job._run = Run(self, job)
            job._run.start()

    def add_status(self, job: Job, status: str, reason: str | None = None, last: bool = False) -> None:
        date = self.now().replace("Z", "+00:00")
        with self.lock:
            job.statuses.append({"jobId": job.id, "status": status, "statusReason": reason, "statusDate": date})
            job.ended = time.time() if last else None
            self.save()

    def add_file(self, id: str, path: Path, relative_path: str, storage_path: str, type_id: int = 1,
                 is_uploaded: bool = True) -> None:
        """Make a file of what lies at this path; `storage_path` is what the API calls `path`."""
        sha512, md5 = hashlib.sha512(), hashlib.md5()
        with path.open("rb") as stream:
            for piece in iter(lambda: stream.read(PIECE), b""):
                sha512.update(piece)
                md5.update(piece)
        self.files[id] = File(
            id=id, name=relative_path.rpartition("/")[2], relative_path=relative_path, path=path, type_id=type_id,
            storage_path=f"user/user_xMTMk/{storage_path}", size=path.stat().st_size, sha512=sha512.hexdigest(),
            md5=md5.hexdigest(), date=self.now(), is_uploaded=is_uploaded, is_deleted=False,
        )

    def save(self) -> None:
        """Write down what a simulator needs that is started in this folder later."""
        with self.lock:
            files, jobs = ([{name: value for name, value in vars(thing).items() if name[0] != "_"}
                            for thing in things.values()] for things in (self.files, self.jobs))
            state = json.dumps({"token": self.token, "starts": self.starts, "files": files, "jobs": jobs},
                               default=lambda path: os.path.relpath(path, self.folder))
            new = self.folder / "state.json.new"
            new.write_text(state)
            new.replace(self.folder / "state.json")

    def load(self) -> None:
        if not (self.folder / "state.json").exists():
            return
        state = json.loads((self.folder / "state.json").read_text())
        self.token = self.token or state["token"]
        self.starts.update(state["starts"])
        for kept in state["files"]:
            self.files[kept["id"]] = File(**{**kept, "path": self.folder / kept["path"]})
        for kept in state["jobs"]:
            kept.update(folder=self.folder / kept["folder"], _run=None, _listings=0)
            self.jobs[kept["id"]] = Job(**kept)


class Simulator(Platform, contextlib.AbstractContextManager):
    """A platform of one's own on 127.0.0.1, with its jobs and files in `folder`; QUIRKS are its further arguments."""

    def __init__(self, folder: Path, port: int = 0, token: str | None = None, **quirks: Any) -> None:
        if not set(quirks) <= set(QUIRKS):
            raise TypeError(f"unknown quirks: {', '.join(sorted(set(quirks) - set(QUIRKS)))}")
        for name, value in {**QUIRKS, **quirks}.items():
            setattr(self, name, value)
        self.folder, self.token = Path(folder).resolve(), token
        self.address = self.folder / "address"  # a file with the url, while this simulator can be joined
        self.stand_ins = self.folder / "stand-ins"  # in front of the jobs' PATH
        for path in (self.folder / "files", self.folder / "jobs", self.stand_ins):
            path.mkdir(parents=True, exist_ok=True)
        self.jobs, self.files = {}, {}  # by their ids
        self.starts: collections.Counter[str] = collections.Counter()  # how often a submit started the job
        self.faults: list[Fault] = []
        self.requests, self.storage_requests = [], []  # Records of what reached the API, and the storage behind it
        self.on_request: Callable[[Record, str], Any] | None = None  # told of each, "before" and "after" it is done
        self.on_missing: Callable[[Job, str | None], Any] | None = None  # told of a program that is not installed
        self.lock, self.closing = threading.RLock(), threading.Event()  # the lock is around whatever changes
        self.connections: set[socket.socket] = set()
        self._random = random.Random(self.seed)
        self.load()
        self.token = self.token or os.urandom(20).hex()
        self._app = self._make_app()
        self.listen(port)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"
        self.save()
        self.address.write_text(self.url)
        for job in self.jobs.values():
            if job.statuses and not job.ended:  # it ended with its simulator; on a platform it would have run on
                shutil.rmtree(job.work, ignore_errors=True)
                (job.folder / LOG).unlink(missing_ok=True)
                job._run = Run(self, job)
                job._run.start()

    def __setattr__(self, name: str, value: Any) -> None:
        # A misspelt quirk would let a test pass that tests nothing.
        if "url" in vars(self) and name not in vars(self):
            raise AttributeError(f"a simulator has no {name!r}")
        if value not in CHOICES.get(name, [value]):
            raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}")
        super().__setattr__(name, value)

    def close(self, *_: Any) -> None:
        self.address.unlink(missing_ok=True)
        self.closing.set()
        runs = [job._run for job in self.jobs.values() if job._run]
        for run in runs:
            run.stopped.set()
        for run in runs:
            run.join(10)
        if self._server:
            self._server.shutdown()
            self._server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.save()

    __exit__ = close

    def bent(self, place: str, thing: Any, *context: Any) -> Any:
        """What the quirks that are on make, at this place, of what is about to be sent or done."""
        for name, (off, where, bend) in BENDS.items():
            if where == place and getattr(self, name) != off:
                thing = bend(self, thing, *context)
        return thing

    def _make_app(self) -> Flask:
        app = Flask("rescale_simulator")
        app.before_request(self._check_request)
        app.register_error_handler(HTTPException, lambda error: (
            error.description if isinstance(error.description, dict) else {"detail": error.description}, error.code))
        for methods, path, function in self.ROUTES:
            app.add_url_rule(API + path, f"{methods} {path}", function.__get__(self), methods=methods.split())
        return app

    def _check_request(self) -> Response | None:
        if not request.path.endswith("/") and "/tail/" not in request.path:
            found(request.method == "GET")  # redirected, another would come back as a GET (§0)
            return Response("", 301, {"Location": f"{request.path}/?{request.query_string.decode()}".rstrip("?")})
        if request.headers.get("Authorization") != (None if STORAGE in request.path else f"Token {self.token}"):
            raise Refused(401, "Invalid token.")
        for name in {*(request.view_args or ())} & {"file", "job"}:  # what stands in a path as <file> or <job>
            request.view_args[name] = found(getattr(self, f"{name}s").get(request.view_args[name]))

    def listen(self, port: int) -> None:
        self._server = ThreadedWSGIServer("127.0.0.1", port, self._app, Handler)
        self._server.sim = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        threading.Thread(target=lambda: self.closing.wait(seconds) or act(), daemon=True).start()


class Handler(WSGIRequestHandler):
    """The requests of one connection, which stays open between them (werkzeug's own handler closes it after each)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer's body waits for the acknowledgement of its headers

    def setup(self) -> None:
        super().setup()
        self.sim: Simulator = self.server.sim
        self.sim.connections.add(self.connection)

    def finish(self) -> None:
        self.sim.connections.discard(self.connection)
        super().finish()

    def log_request(self, *_: Any) -> None:
        pass

    def run_wsgi(self) -> None:
        environ = self.environ = self.make_environ()
        self.stream, environ["wsgi.input"] = get_input_stream(environ), self
        self.began, self.count = time.monotonic(), 0  # bytes of the request's body so far
        path, _, query = self.path.partition("?")
        self.record = Record(
            method=self.command, path=urllib.parse.unquote(path), query=dict(urllib.parse.parse_qsl(query)),
            headers=dict(self.headers), time=time.time(), status=None, fault=None,
        )
        (self.sim.storage_requests if STORAGE in path else self.sim.requests).append(self.record)
        with self.sim.lock:
            self.fault = next((fault for fault in self.sim.faults if fault.strikes(self.record)), None)
            if not self.fault and self.sim._random.random() < self.sim.flaky:
                self.fault = Fault(self.sim._random.choice(FLAKY))
        self.record.fault = self.fault.name if self.fault else None
        if self.sim.on_request:
            self.sim.on_request(self.record, "before")
        if self.fault:
            FAULTS[self.fault.name](self)
        else:
            self.send(self.done())

    def read(self, size: int = -1) -> bytes:
        """Read of the request's body, no faster than `upload_rate`."""
        data = self.stream.read(size)
        self.count += len(data)
        due = self.began + self.count / (self.sim.upload_rate or math.inf)
        self.sim.closing.wait(max(0.0, due - time.monotonic()))
        return data

    def done(self, answer: Response | None = None) -> Response:
        """Do what is asked for, or where there is an answer already nothing; the rest of the request is read."""
        answer = answer or Response.from_app(self.server.app, self.environ)
        try:
            while self.read(PIECE):  # the next request begins behind it
                pass
        except (ClientDisconnected, OSError):
            self.close_connection = True
        if self.sim.on_request:
            self.sim.on_request(self.record, "after")
        return answer

    def send(self, answer: Response, left: float = math.inf) -> None:
        """Send the answer, of its body not more than the bytes that are left."""
        self.record.status = answer.status_code
        if "Content-Length" not in answer.headers and answer.status_code != 204:
            answer.content_length = len(answer.get_data())
        with contextlib.closing(answer):
            self.send_response(answer.status_code)
            for key, value in answer.headers:
                self.send_header(key, value)
            self.end_headers()
            for piece in answer.response:
                self.wfile.write(piece[: int(min(left, len(piece)))])
                left -= len(piece)
                if left <= 0:
                    break

    def page(self) -> Response:
        """What comes instead of an answer."""
        name, pages = self.fault.name, {"html": 200, "html_after": 200, "503_after": 503, "late": 504}
        if name == "throttled":
            text = '{"detail": "Request was throttled. Expected available in 1 second."}'
            return Response(text, 429, {"Retry-After": self.fault.retry_after}, mimetype="application/json")
        if name == "redirect":
            return Response("", 302, {"Location": self.fault.location})
        return Response("<html><body>Sorry</body></html>", pages.get(name) or int(name))

    def reset(self) -> None:
        """End the connection by RST, as a server does that has crashed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(8, "little"))
        socket.close(self.connection.detach())  # the handler's own files would keep connection.close() from closing
        raise ConnectionResetError

    def reset_midway(self) -> None:
        answer = self.done()
        self.send(answer, (answer.content_length or 0) // 2)
        time.sleep(0.05)  # a reset takes along what the other side has not received yet
        self.reset()

    def hold(self) -> None:
        self.sim.closing.wait(self.fault.seconds)
        raise ConnectionAbortedError  # the server closes the connection

    def refuse(self) -> None:
        """Close the port for a while, so that the operating system refuses connections."""
        sim = self.sim
        with sim.lock:
            server, sim._server = sim._server, None
        if server:
            server.shutdown()
            server.server_close()
            sim.after(self.fault.seconds, lambda: sim.listen(sim.port))
        self.reset()

    def truncate(self) -> None:
        answer = self.done()
        if not answer.content_length:
            answer = Response('{"det": ""}', mimetype="application/json")
        answer.content_length //= 2
        self.send(answer, answer.content_length)

    def corrupt(self) -> None:
        answer = self.done()
        answer.response = (bytes(255 - byte for byte in piece[:9]) + piece[9:] for piece in answer.response)
        self.send(answer)

    def delay(self) -> None:
        environ = {**self.environ, "wsgi.input": io.BytesIO(self.read())}
        self.sim.after(self.fault.seconds, lambda: Response.from_app(self.server.app, environ))
        self.send(self.done(self.page()))


class Run(threading.Thread):
    """What happens to a job once it has been submitted (§7, §13)."""

    def __init__(self, sim: Simulator, job: Job) -> None:
        super().__init__(name=f"job-{job.id}", daemon=True)
        self.sim, self.job, self.stopped = sim, job, threading.Event()
        self.missing: str | None = None  # the program that the shell did not find
        self.outcome = "closed"  # how it went, once it has ended

    def run(self) -> None:
        sim, job = self.sim, self.job
        try:
            outcome, runs = self.live(), 1
            while outcome != "closed" and runs < sim.starts[job.id]:
                outcome, runs = self.live(), runs + 1
        except (OSError, ValueError) as error:  # a full disk must not leave the client waiting forever
            note(f"job {job.id}: {error}")
            outcome = "failed"
        if outcome == "closed":
            return
        self.outcome = outcome
        stopping, completed = {  # reasons of Stopping, unless that has come already, and of Completed
            "success": ([], sim.success_reason), "failed": (sim.bent("stopping", ["A run failed"]), sim.failed_reason),
            "stopped": ([], "User Terminated"), "walltime": ([sim.walltime_reason], sim.walltime_reason),
        }[outcome]
        for reason in stopping:
            sim.add_status(job, "Stopping", reason)
        if sim.bent("sync", bool(job.date_started), outcome):
            self.sync()
        sim.closing.wait(sim.speed)
        sim.add_status(job, sim.last_status, completed, last=True)

    def live(self) -> str:
        """Go through the timeline and execute; return success, failed, stopped, walltime or closed."""
        sim, job = self.sim, self.job
        *before, executing = sim.timeline
        for status in before:
            if status != "Pending":  # that one came with the submit
                sim.add_status(job, status)
            if self.stopped.wait(sim.speed):
                return self.ended_by()
        folder, tiles = sim.bent("work folder", job.work), job.data["jobanalyses"]
        folder.mkdir(parents=True, exist_ok=True)
        with (job.work / LOG).open("a+b", buffering=0) as self.log:  # once: a job that deletes it has done so for good
            with contextlib.suppress(OSError):  # a second name, for when the job has deleted the first
                os.link(job.work / LOG, job.folder / LOG)
            wrong = self.place_inputs(folder)
            job.date_started, job.date_completed = sim.now(), None
            sim.add_status(job, executing)
            if wrong:
                self.say(wrong.encode())
            deadline = time.monotonic() + (tiles[0]["hardware"]["walltime"] or math.inf) * sim.walltime_hour
            outcomes = (self.command(tile, folder, deadline) for tile in tiles)  # up to the first that does not succeed
            outcome = "failed" if wrong else next((one for one in outcomes if one != "success"), "success")
        job.date_completed = sim.now()
        return outcome

    def ended_by(self) -> str:
        if self.sim.closing.is_set():
            return "closed"
        self.sim.add_status(self.job, "Stopping", "User Terminated")
        return "stopped"

    def place_inputs(self, folder: Path) -> str:
        """Put the input files into the work folder, archives unpacked; return what is wrong with one."""
        for file, entry in [(self.sim.files[entry["id"]], entry) for entry in self.job.inputs]:
            try:
                shutil.copyfile(file.path, folder / file.name)
                if entry["decompress"]:
                    unpack(folder / file.name, folder, self.sim.bent("unpacking", break_link))
            except Exception as error:  # an archive can be wrong in many ways
                return f"Input file {file.name}: {error}"
        for path in regular_files(folder):
            if path.name != LOG and not path.is_symlink():  # which may lead to a file of this computer's
                path.chmod(0o755)  # rescale-cli runs ./run.sh as it was uploaded (§2)
        return ""

    def command(self, tile: dict, folder: Path, deadline: float) -> str:
        sim, outcome = self.sim, None
        opening = f"Launching {tile['command'].strip()}, Working dir: {folder}.  Process output follows:"
        self.say(opening.encode(errors="replace"))
        process = start_command(sim, self.job, tile, folder)
        reader = threading.Thread(target=self.copy_output, args=(process.stdout,), daemon=True)
        reader.start()
        while process.poll() is None and not outcome:
            if self.stopped.is_set():
                outcome = self.ended_by()
            elif time.monotonic() > deadline:
                outcome = "walltime"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        if outcome:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(0 if outcome == "closed" else KILL_AFTER)
        reader.join(0.2)
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it left in the background
        code = process.wait()
        reader.join(5)
        code = code if code >= 0 else 128 - code
        code = code if outcome else sim.bent("exit code", code, self)
        self.say(f"Exited with code {code}\n".encode())
        if code == 127 and self.missing and sim.on_missing:
            sim.on_missing(self.job, self.missing)
        return outcome or ("failed" if code else "success")

    def copy_output(self, stream: BinaryIO) -> None:
        with contextlib.suppress(ValueError):  # the log is closed, but something still writes
            for line in stream:
                self.say(line.rstrip(b"\r\n"))
                match = re.search(rb"([^\s:]+): (?:command )?not found", line)
                self.missing = match[1].decode(errors="replace") if match else self.missing

    def say(self, text: bytes) -> None:
        time_ = datetime.now(timezone.utc).strftime("[%Y-%m-%dT%H:%M:%SZ]: ").encode()
        self.log.write(b"".join(time_ + line + b"\n" for line in text.split(b"\n")))

    def sync(self) -> None:
        for path in regular_files(self.job.work):
            id, relative = self.sim.new_id(), path.relative_to(self.job.work).as_posix()
            storage_path = f"output/job_{self.job.id}/run1/{relative}"
            self.sim.add_file(id, path, relative, storage_path, type_id=5, is_uploaded=not self.sim.upload_lag)
            self.job.files.append(id)


def start_command(sim: Simulator, job: Job, tile: dict, folder: Path) -> subprocess.Popen:
    """Start a tile's command in a shell; of this computer's variables it has only what programs need to run at all."""
    kept = r"PATH|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|COMSPEC|PATHEXT"
    variables = {name: value for name, value in os.environ.items() if re.fullmatch(kept, name)}
    folders = (str(sim.stand_ins), variables.get("PATH", os.defpath), str(Path(sys.executable).parent))
    cores, nodes = tile["hardware"]["coresPerSlot"], tile["hardware"]["coreSummary"]["numberOfNodes"]
    variables.update({"PATH": os.pathsep.join(folders), "HOME": str(job.folder), **tile["envVars"]})
    variables.update(HOSTLIST=" ".join(["localhost"] * nodes), **{f"RESCALE_{name}": str(value) for name, value in {
        "JOB_ID": job.id, "API_BASE_URL": sim.url, "CLUSTER_ID": job.id, "WORK_PATH": job.work,
        "CORE_TYPE": tile["hardware"]["coreType"], "CORES_PER_SLOT": cores, "CORES_PER_NODE": cores // nodes,
        "NODES_PER_SLOT": nodes, "SLOTS_PER_NODE": 1, "GPUS_PER_SLOT": 0, "GPUS_PER_NODE": 0,
        "THREADS_PER_SLOT": cores, "THREADS_PER_NODE": cores // nodes, "PROVIDER": "simulator",
    }.items()})
    script, text = job.folder / "command.sh", tile["command"] + "\n"
    script.write_bytes(text.encode(errors="replace"))
    shell = [sim.shell] if isinstance(sim.shell, str) else sim.shell
    arguments = {"file": [script], "-c": ["-c", text], "stdin": []}[sim.shell_style]
    with (Path(os.devnull) if arguments else script).open("rb") as stdin:
        return subprocess.Popen([*shell, *arguments], cwd=folder, env=variables, stdin=stdin, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, start_new_session=True)


def regular_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def inside(folder: Path, name: str) -> Path:
    path = (folder / name.replace("\\", "/")).resolve()
    if folder.resolve() not in (path, *path.parents):
        raise ValueError(f"{name} lies outside of the work folder")
    return path


def unpack(archive: Path, folder: Path, change_link: Callable[[Path], Any]) -> None:
    """Unpack a .zip or .tar.gz; `change_link` is told of each link in the latter (§2)."""
    if archive.name.endswith(".zip"):
        shutil.unpack_archive(archive, folder, "zip")
    elif archive.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(archive, "r:gz") as bundle:
            bundle.extraction_filter = lambda member, _: member  # newer Pythons would refuse or change some
            for member in bundle:
                target = inside(folder, member.name)
                member.mode |= 0o700
                bundle.extract(member, folder)
                if member.issym():
                    change_link(target)


def break_link(link: Path) -> None:
    """Leave an empty file for a symbolic link, as the guide warns of."""
    link.unlink()
    link.touch()


# What a platform may do otherwise: further arguments of Simulator, attributes afterwards

DATES: dict[str, Callable] = {  # of the statuses, counted from the oldest
    "offset": lambda number, date: date, "Z": lambda number, date: date.replace("+00:00", "Z"),
    "none": lambda number, date: None, "partly": lambda number, date: None if number % 2 else date,
}
SUMS: dict[str, dict] = {  # what a file has otherwise
    "both": {}, "sha512": {"md5": None}, "md5": {"fileChecksums": []}, "none": {"md5": None, "fileChecksums": []},
}
OFF_RUN: dict[str, Any] = {  # the answer to a tail when no run is active
    "404": ({"detail": "Not found."}, 404), "400": ({"detail": "No run is active."}, 400),
    "html": "<html>No run is active.</html>", "empty": {"fileType": "", "lines": []}, "lines": None,
}
AGAIN: dict[str, Callable] = {  # a second submit
    "ignore": lambda sim, job: "", "again": lambda sim, job: sim.start(job) or "",
    "400": lambda sim, job: ({"non_field_errors": ["This job has been submitted already."]}, 400),
}


def list_inputs(sim: Simulator, outputs: list[dict], job: Job) -> list[dict]:
    given = [sim.files[one["id"]] for one in job.inputs]
    if sim.lists_inputs == "all":
        return [sim.file_object(file) for file in given] + outputs
    return [one for one in outputs if sim.files[one["id"]].sha512 not in [file.sha512 for file in given]]


def store_later(sim: Simulator, outputs: list[dict], job: Job) -> list[dict]:
    for one in outputs:
        file = sim.files[one["id"]]
        one["isUploaded"] = file.is_uploaded = file.is_uploaded or job._listings > sim.upload_lag
    return outputs


def end_badly(sim: Simulator, code: int, run: Run) -> int:
    """What job_setup's command leaves when the solver has failed: the log, and a result of another name."""
    if sim.fail not in run.job.name:
        return code
    run.say(f"*** ERROR: the analysis has been terminated (jobs named *{sim.fail}* are to fail here)".encode())
    with contextlib.suppress(OSError):  # it is still there
        os.link(run.job.folder / LOG, run.job.work / LOG)
    for path in regular_files(run.job.work):
        if path.name == "rescale.tar.gz":
            path.replace(path.with_name("rescale_failed.tar.gz"))
    return 1


BENDS: dict[str, tuple[Any, str, Callable]] = {  # what it is when off, the place, and what is made of a thing there
    "prices": (True, "core type", lambda sim, one: {key: one[key] for key in one if "rice" not in key}),
    "silent_submit": (False, "submit", lambda sim, start: lambda job: None),  # answers 200, and nothing ever starts
    "shared_work": (False, "work folder", lambda sim, work: work / "shared"),  # but the log stays in work
    "unpacks_links": ("broken", "unpacking", lambda sim, change: lambda link: None),
    "fail": (None, "exit code", end_badly),  # of a job with this in its name
    "stopping_entry": (True, "stopping", lambda sim, reasons: []),  # whether a failed run shows as Stopping
    "walltime_syncs": (True, "sync", lambda sim, syncs, outcome: syncs and outcome != "walltime"),
    "newest_first": (True, "history", lambda sim, entries: entries[::-1]),
    "upload_lag": (0, "outputs", store_later),  # so many listings have isUploaded false, show only part of the outputs,
    "listing_lag": (0, "outputs", lambda sim, files, job: files[: len(files) * job._listings // (sim.listing_lag + 1)]),
    "size_lag": (0, "outputs", lambda sim, files, job: [  # have decryptedSize null
        {**file, "decryptedSize": None if job._listings <= sim.size_lag else file["decryptedSize"]} for file in files]),
    "lists_inputs": ("left", "outputs", list_inputs),  # as they were left, not at all, "all" under their own ids, too
    "ignore_range": (False, "range", lambda sim, wanted: ""),
    "wrong_range": (False, "range", lambda sim, wanted: re.sub(r"=([1-9]\d*)", lambda n: f"={int(n[1]) - 1}", wanted)),
    "contents_redirect": (False, "contents", lambda sim, answer, file: Response("", 302, {
        "Location": f"http://localhost:{sim.port}{API}{STORAGE}{file.id}/?signature=abc"})),  # to another host
    "empty_last_page": (False, "count", lambda sim, count, size: count and math.ceil(count / size) * size + 1),
    "next_without_slash": (False, "link", lambda sim, url: url.replace("/?", "?")),
    "next_drops_query": (False, "link", lambda sim, url: re.sub(r"(?<=[?&])(?!page)[^&]*&", "", url)),
    "next_foreign": (None, "link", lambda sim, url: url.replace(sim.url, sim.next_foreign)),  # 'http://host:port'
}
QUIRKS: dict[str, Any] = {
    **{name: off for name, (off, _, _) in BENDS.items()},
    "speed": 1.0, "walltime_hour": 3600.0,  # factor of the waits between statuses; seconds that this hour lasts
    "timeline": ("Pending", "Queued", "Started", "Validated", "Executing"),  # other waits, or restarts, go in here
    "success_reason": "Completed successfully", "failed_reason": "A run failed",  # of Completed; None is possible
    "walltime_reason": "Walltime limit reached", "last_status": "Completed",  # or a name that only clients know
    "date_style": "offset", "resubmit": "ignore", "resubmit_completed": "ignore",  # while it waits or runs; afterwards
    "tail_off_run": "404", "checksums": "both", "page_size": 10, "page_size_cap": 1000,  # by default; at most
    "project_required": False, "any_settings": False,  # takes what it does not know; for rehearsals
    "shell": "bash" if shutil.which("bash") else "sh", "shell_style": "file",  # or a list; or with "-c", on "stdin"
    "rate": None, "upload_rate": None,  # bytes per second and connection
    "flaky": 0.0, "seed": None,  # share of the requests that get a random fault
}
CHOICES: dict[str, Any] = {
    "date_style": DATES, "checksums": SUMS, "tail_off_run": OFF_RUN, "lists_inputs": ("left", "all", "none"),
    "resubmit": AGAIN, "resubmit_completed": ("ignore", "400"), "shell_style": ("file", "-c", "stdin"),
    "unpacks_links": ("broken", "kept"),
}

FAULTS: dict[str, Callable[[Handler], Any]] = {  # what a network may do to a request
    "refused": Handler.refuse,  # reset, and the port really closed for `seconds`
    "reset_before": Handler.reset,
    "reset_after": lambda handler: (handler.done(), handler.reset()),
    "reset_midway": Handler.reset_midway,  # done, reset after half of the answer's body
    "timeout_before": Handler.hold,  # for `seconds`, then closed
    "timeout_after": lambda handler: (handler.done(), handler.hold()),
    "truncated": Handler.truncate,  # done, answer cut in half with a Content-Length to match
    "corrupt": Handler.corrupt,  # contents of the right length with wrong bytes
    "late": Handler.delay,  # 504 at once, done `seconds` later
    **dict.fromkeys(("throttled", "500", "502", "503", "504", "html", "redirect"),
                    lambda handler: handler.send(handler.done(handler.page()))),
    **dict.fromkeys(("503_after", "html_after"), lambda handler: (handler.done(), handler.send(handler.page()))),
}
FLAKY = [name for name in FAULTS if re.match("reset|thro|50[234]|html$|trunc", name)]

# The command


def note(text: str) -> None:
    print(f"[simulator] {text}", file=sys.stderr, flush=True)


def stand_in(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not re.fullmatch(r"[\w.+-]+", name) or not Path(file).is_file() or not os.access(file, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE with a file that can be executed (chmod +x)")
    return name, Path(file).resolve()


def command_line(options: argparse.Namespace, *more: str) -> str:
    """What was typed up to the script, with the folder, and without --fail, for whoever goes on wants to succeed."""
    typed = sys.argv[1 : len(sys.argv) - len(options.script)]
    words = [word for before, word in zip(["", *typed], typed) if "--fail" not in (before, word.partition("=")[0])]
    folder = ["--folder", str(options.folder)] if options.is_temporary else []
    python = getattr(sys, "orig_argv", [Path(sys.executable).name])[0]  # Python 3.9 cannot tell what was typed
    return shlex.join([python, sys.argv[0], *folder, *words, *more])


def main() -> int:
    parser = argparse.ArgumentParser(usage="%(prog)s [options] [SCRIPT [ARGS...]]", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    option = parser.add_argument
    option("--speed", type=float, default=1.0, metavar="S", help="factor of the waits between statuses, 0: none")
    option("--folder", type=Path, metavar="DIR", help="where jobs and files are kept, and found again")
    option("--fail", metavar="NAME", help="jobs with NAME in their name end as if the solver had failed")
    option("--flaky", type=lambda text: float(text.rstrip("%")) / 100, default=0.0, metavar="P%%",
           help="share of the requests that go wrong")
    option("--stand-in", type=stand_in, action="append", default=[], metavar="NAME=FILE",
           help="what jobs run as the program NAME (repeatable)")
    option("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.is_temporary = not options.folder
    for word in {"--resume", "--repeat", "--status"} & {*options.script} if options.is_temporary else ():
        parser.error(f"{word} is about an earlier rehearsal: name its --folder, before the script")
    options.folder = options.folder or Path(tempfile.mkdtemp(prefix="rescale-rehearsal-"))
    for name in {"SIGTERM", "SIGHUP"} & {*dir(signal)}:  # nothing that a job started may stay behind
        signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    (options.folder / "stand-ins").mkdir(parents=True, exist_ok=True)
    access, lock = enter(options.folder)
    for old in () if access else (options.folder / "stand-ins").iterdir():
        old.unlink()
    for name, path in options.stand_in:
        (options.folder / "stand-ins" / name).unlink(missing_ok=True)
        (options.folder / "stand-ins" / name).symlink_to(path)
    if access:
        note(f"Joined the simulator of {options.folder}, with its options: Rescale is {access[0]}.")
        return play(options, *access)
    quirks = {name: getattr(options, name) for name in ("speed", "fail", "flaky")}
    with lock, Simulator(options.folder, any_settings=True, **quirks) as sim:
        try:
            status = rehearse(sim, options) if options.script else play(options, sim.url, sim.token)
        except SystemExit as end:  # of a signal
            status = end.code
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not keep it from killing the jobs
    failed = any(job._run and job._run.outcome != "success" for job in sim.jobs.values())
    if options.is_temporary and not failed and not (status and options.script):
        shutil.rmtree(options.folder, ignore_errors=True)
    else:
        note(f"The folders of its jobs are in {sim.folder / 'jobs'}")
    return status


def enter(folder: Path) -> tuple[tuple | None, BinaryIO | None]:
    """Join the simulator that serves this folder (address, key, and a connection), or lock the folder to serve it."""
    for _ in range(300):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
            url, token = (folder / "address").read_text(), json.loads((folder / "state.json").read_text())["token"]
            connection = http.client.HTTPConnection(url.rpartition("/")[2], timeout=10)
            connection.request("GET", f"{API}/users/me/", headers={"Authorization": f"Token {token}"})
            # One that ends takes its address away before it looks for connections for the last time.
            if json.loads(connection.getresponse().read())["email"] == OWNER and (folder / "address").exists():
                return (url, token, connection), None
        lock = (folder / "lock").open("ab")
        with contextlib.suppress(ImportError):  # as on Windows
            import fcntl
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)  # it is just starting, or ending
                continue
        return None, lock
    sys.exit(f"{folder} is in use by a simulator that does not answer")


def play(options: argparse.Namespace, url: str, token: str, *_: Any) -> int:
    """Run the script, or without one wait for Ctrl-C; return its exit status, above 128 for a signal."""
    if not options.script:
        print(f"export RESCALE_API_URL={url}\nexport RESCALE_API_KEY={token}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        return 0
    local = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    process = subprocess.Popen([sys.executable, *options.script], env={
        **os.environ, "NO_PROXY": local, "no_proxy": local, "RESCALE_API_URL": url, "RESCALE_API_KEY": token,
        "RESCALE_REHEARSAL": url, "RESCALE_REHEARSAL_COMMAND": command_line(options),
        "RESCALE_REHEARSAL_FOLDER": str(options.folder.absolute()),
    })
    try:
        while process.poll() is None:
            with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):  # the script has got it, too
                process.wait(0.2)  # not endlessly: the signal may have reached another thread
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def rehearse(sim: Simulator, options: argparse.Namespace) -> int:
    """Run the script against the simulator; return its exit status, or 2 if no job was the one that was to fail."""
    script = options.script[0]
    note(f"Rehearsal of {script}, free of charge: Rescale is {sim.url}, and its jobs run on this computer.")
    sim.on_missing = lambda job, program: note(
        f"Job {job.id} failed with exit code 127: {program} is not installed here. To put a script in its place: "
        + command_line(options, "--stand-in", f"{program}=./fake_{program}.sh", *options.script))
    try:
        status = play(options, sim.url, sim.token)
        with contextlib.suppress(KeyboardInterrupt):
            stay(sim, options, status)
    finally:
        for job in sim.jobs.values():
            if job.statuses and not job.ended:
                note(f"Job {job.id} ends with this rehearsal, and the next one in its folder runs it anew; "
                     "on the platform it would run on.")
    names = [job.name for job in sim.jobs.values() if job._run]
    if options.fail and not any(options.fail in name for name in names):
        note(f"--fail {options.fail}: no job of this rehearsal has that in its name: {', '.join(names) or 'none ran'}")
        return status or 2
    return status


def stay(sim: Simulator, options: argparse.Namespace, status: int) -> None:
    """Serve on while scripts that joined are connected, and behind one that was killed also while jobs run."""
    deadline = time.monotonic() + 1
    while sim.connections and time.monotonic() < deadline:  # the script's own are gone in a moment
        time.sleep(0.01)
    was_killed = 128 < status < 192
    if status == 130 or not (was_killed or sim.connections):  # Ctrl-C, or all is over
        return
    if was_killed:
        running = [job.id for job in sim.jobs.values() if job.statuses and not job.ended]
        note(f"{options.script[0]} was killed (exit status {status}). As on the platform, its jobs run on until they "
             f"have ended: {', '.join(running) or 'none'}. Ctrl-C ends them. To go on, also in another terminal: "
             + command_line(options, options.script[0], "--resume"))
    else:
        note("Another script still uses this simulator, which ends when that does; Ctrl-C ends it now.")
    while True:
        if not sim.connections and all(job.ended or not job.statuses for job in sim.jobs.values()):
            sim.address.unlink(missing_ok=True)  # nobody can join any more
            if not sim.connections:
                return
            sim.address.write_text(sim.url)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
