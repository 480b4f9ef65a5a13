#!/usr/bin/env python3
"""A local Rescale to rehearse with and to test against: the REST API v2 over real HTTP, and jobs that really run.

    python tests/rescale_simulator.py main.py      # rehearse the whole chain, free of charge

    with Simulator(tmp_path, speed=0) as sim:      # in a test
        requests.get(sim.url + "/api/v2/users/me/", headers={"Authorization": "Token " + sim.token})

It follows rescale-api.md (the § numbers in the comments), which says what public sources let one rely on; where they
are silent, a quirk (see QUIRKS) chooses between the plausible behaviours. What a client must survive is in FAULTS.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import string
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse
import zipfile
import zlib
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator

from flask import Flask, Request, Response, current_app, g, jsonify, request
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import get_input_stream

API = "/api/v2"
PIECE = 1024 * 1024  # bytes that a download reads and sends at a time
LOG = "process_output.log"
USER = "user_xMTMk"
PROJECTS = {"xDdRk": "Rehearsal", "pQrSt": "Crash 2027"}
MAX_JOB_HOURS = 48  # the account's own limit, `maxJobHours` of users/me (§1)

# code, price per core-hour, sizes of one node (larger counts are multiples of the largest), flags
CORE_TYPES = [
    ("emerald", 0.06, [1, 2, 4, 8, 16, 18, 36], {"isPrimary": True}),
    ("starlite_max", 0.09, [1, 2, 4, 8, 16, 32, 64], {"isPrimary": True}),
    ("onyx", 0.05, [1, 2, 4, 9, 18], {}),
    ("granite", 0.08, [2, 4, 8, 16, 32], {}),
    ("amber", 0.07, [1, 5, 15, 30, 60], {}),
    ("calcite", 0.11, [1, 2, 4, 8, 16, 32, 64, 96], {}),
    ("jade", 0.19, [4, 8, 16, 32], {"walltimeRequired": True}),
    ("luna", 0.21, [1, 2, 4, 44], {}),
    ("melanite", 0.14, [12, 24, 48, 96], {}),
    ("carbon", 0.10, [1, 2, 4, 8, 16, 32, 64, 128], {}),
    ("nickel", 0.04, [1, 2, 4, 8, 16], {"isDeprecated": True}),
    ("marble", 0.03, [1, 2, 4, 8], {"isDeprecated": True, "isActive": False}),
]

# code: name, vendor, versions newest first as (version, versionCode), words of which the command must contain one
ANALYSES = {
    "user_included": ("Bring Your Own Software", "Rescale", [("CPU", "0"), ("GPU", "0-gpu")], ()),
    "abaqus": (
        "Abaqus",
        "Dassault Systemes",
        [("2024 HF2", "2024-2412"), ("2023 HF4", "2023-2318"), ("2022 HF3", "2022-2241")],
        ("abaqus", "abq"),
    ),
    "ansys_fluent": ("Ansys Fluent", "Ansys", [("2025 R1", "25.1"), ("2023 R2", "23.2")], ("fluent",)),
    "ansys_mechanical": ("Ansys Mechanical", "Ansys", [("2025 R1", "25.1"), ("2023 R2", "23.2")], ("ansys",)),
    "cfx": ("Ansys CFX", "Ansys", [("2025 R1", "25.1")], ("cfx",)),
    "ls_dyna": ("LS-DYNA", "Ansys", [("R14.1", "14.1"), ("R12.0", "12.0")], ()),
    "openfoam": ("OpenFOAM", "OpenCFD", [("v2406", "v2406"), ("v2212", "v2212")], ()),
    "star_ccm": ("Simcenter STAR-CCM+", "Siemens", [("19.04.007", "19.04.007-r8")], ("starccm",)),
}
# The real catalogue has more than 700 tiles (§11), which is what makes a client fetch it in few requests.
for _n in range(1, 693):
    ANALYSES[f"sample_solver_{_n:03d}"] = (f"Sample Solver {_n:03d}", "Sample", [(f"{_n}.1", f"{_n}.1-r2")], ())

# What the sources leave open, and what tests want to turn: keyword arguments of Simulator, attributes afterwards.
QUIRKS: dict[str, Any] = {
    "speed": 1.0,  # factor of the waits between statuses; 0: none
    "timeline": ("Pending", "Queued", "Started", "Validated", "Executing"),  # other waits, or restarts, go in here
    "never_runs": None,  # reason of a Completed that follows Queued at once, as when there is no capacity
    "success_reason": "Completed successfully",  # Completed's statusReason; None is possible
    "failed_reason": "A run failed",  # Completed's after a failed run (nowhere shown); None and "" are possible
    "stopped_reason": "User Terminated",  # Completed's after a stop
    "walltime_reason": "Walltime limit reached",  # of both Stopping and Completed
    "stopping_entry": True,  # whether a failed run shows as Stopping before Completed
    "ignore_exit_codes": False,  # True: reported as a success although the command failed
    "last_status": "Completed",  # or one of the names that only clients know: Failed, Stopped, ...
    "newest_first": True,  # order of the statuses
    "date_style": "offset",  # of the job statuses: "offset" +00:00, or "Z"
    "page_size": 10,  # default size of a page
    "page_size_cap": 1000,  # the server's largest page
    "next_without_slash": False,  # `next` lacks the slash before the question mark
    "next_drops_query": False,  # `next` keeps nothing but the page
    "next_foreign": None,  # 'http://host:port' put into `next` in place of the simulator's own
    "resubmit": "ignore",  # second submit of a queued or running job: ignored, refused ("400"), or run "again"
    "resubmit_completed": "ignore",  # the same for a completed one
    "silent_submit": False,  # submit answers 200 and nothing ever starts
    "project_required": False,  # the workspace wants a project
    "tail_off_run": "404",  # tail when no run is active: "404", "400", "html", "empty" (no lines) or "lines"
    "listing_lag": 0,  # that many listings of a completed job's files show only part of them
    "upload_lag": 0,  # during that many listings the outputs have isUploaded false
    "lists_input_files": True,  # inputs left as they were in the work folder are listed as outputs too
    "shared_work": False,  # inputs and command are in work/shared (the log stays in work)
    "ignore_range": False,  # contents answers 200 with the whole file to a Range
    "contents_redirect": False,  # contents answers 302 to another server, the "object storage"
    "checksums": "both",  # "sha512", "md5", "both" or "none"
    "cluster_404": 0,  # that many reads of cluster_statuses say 404 although there is a cluster
    "cluster_lag": 0.0,  # seconds from Completed to a stopped cluster, before which DELETE is refused
    "kill_after": 3.0,  # seconds from SIGTERM to SIGKILL
    "walltime_hour": 3600.0,  # real seconds that one hour of walltime lasts
    "walltime_syncs": True,  # whether a job that ran out of walltime has output files
    "latency": 0.0,  # seconds by which every request is delayed
    "rate": None,  # bytes per second and connection of contents
    "fail": None,  # a job whose name contains this text ends as if the solver had failed
    "flaky": 0.0,  # share of the requests that get a random fault
    "seed": None,  # of those random faults
}
CHOICES = {
    "date_style": ("offset", "Z"),
    "resubmit": ("ignore", "400", "again"),
    "resubmit_completed": ("ignore", "400"),
    "tail_off_run": ("404", "400", "html", "empty", "lines"),
    "checksums": ("sha512", "md5", "both", "none"),
}

FAULTS = {
    "refused": "reset at arrival, and the port really closed for `seconds`",
    "reset_before": "connection reset before anything is done",
    "reset_after": "done, then reset instead of an answer",
    "reset_midway": "done, reset after half of the answer's body",
    "timeout_before": "held for `seconds`, then closed without anything done",
    "timeout_after": "done, held for `seconds`, then closed",
    "throttled": "429 with Retry-After",
    "500": "not done",
    "502": "not done",
    "503": "not done",
    "504": "not done",
    "503_after": "done, then 503",
    "html": "200 with a page of HTML, not done",
    "html_after": "done, then 200 with a page of HTML",
    "truncated": "done, answer cut in half with a Content-Length to match",
    "corrupt": "contents of the right length with wrong bytes",
    "late": "504 at once, done `seconds` later",
    "redirect": "302 to `location`",
}
FLAKY = ("reset_before", "reset_after", "reset_midway", "throttled", "502", "503", "504", "503_after", "html", "truncated")


@dataclasses.dataclass
class Fault:
    """Misbehaviour for the `times` requests after the first `skip` ones with this method and a path like this."""

    name: str
    method: str | None = None
    path: str = ""
    times: int = 1
    skip: int = 0
    seconds: float | None = None
    retry_after: str = "1"
    location: str = "http://127.0.0.1:9/"
    hits: int = 0

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise ValueError(f"unknown fault {self.name!r}, known are: {', '.join(FAULTS)}")
        if self.seconds is None:
            self.seconds = 0.3 if self.name == "refused" else 2.0

    def strikes(self, record: Record) -> bool:
        if self.method not in (None, record.method) or not re.search(self.path, record.path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.hits == self.times:
            return False
        self.hits += 1
        return True


@dataclasses.dataclass
class Record:
    """A request as it arrived; `status` is None while or if it is not answered."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    time: float
    status: int | None = None
    fault: str | None = None


@dataclasses.dataclass
class File:
    """An uploaded file or an output of a job (§3)."""

    id: str
    name: str
    relative_path: str
    path: Path  # where the bytes are on this disk
    storage_path: str  # `path` for the API
    size: int
    sha512: str
    md5: str
    date: str
    type_id: int = 1
    is_uploaded: bool = True
    is_deleted: bool = False


@dataclasses.dataclass
class Job:
    """A job: `body` is what was posted, `data` what the platform made of it; attributes with _ are not kept."""

    id: str
    name: str
    folder: Path
    body: dict
    data: dict
    date: str
    statuses: list[dict] = dataclasses.field(default_factory=list)
    cluster: list[dict] = dataclasses.field(default_factory=list)
    files: list[str] = dataclasses.field(default_factory=list)
    date_started: str | None = None
    date_completed: str | None = None
    ended: float | None = None  # time.time() of the last status
    _run: Run | None = None
    _again: int = 0
    _listings: int = 0
    _cluster_reads: int = 0

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def is_running(self) -> bool:
        return bool(self.date_started) and not self.date_completed


class Refused(Exception):
    """An answer of status 4xx: the body is the one argument besides the status."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = {"detail": body} if isinstance(body, str) else body


# --- checking a new job (§4) ---

REQUIRED = ["This field is required."]
BLANK = ["This field may not be blank."]
NOT_A_NUMBER = ["A valid integer is required."]


def check_job(body: Any, sim: Simulator) -> dict:
    """Return the job as the platform echoes it; raise Refused with the errors nested as the body is."""
    if not isinstance(body, dict):
        raise Refused(400, {"non_field_errors": ["Invalid data. Expected a dictionary."]})
    errors: dict[str, Any] = {}
    if not is_text(body.get("name")):
        errors["name"] = REQUIRED if body.get("name") is None else BLANK
    project = body.get("projectId", body.get("project_id")) or None
    if project is None and sim.project_required:
        errors["projectId"] = REQUIRED
    elif project is not None and project not in PROJECTS:
        errors["projectId"] = [f'Invalid project "{project}".']
    posted = body.get("jobanalyses")
    if not isinstance(posted, list) or not posted:
        errors["jobanalyses"] = REQUIRED
        posted = []
    checked = [check_analysis(one, sim) for one in posted]
    if any(wrong for _, wrong in checked):
        errors["jobanalyses"] = [wrong for _, wrong in checked]
    if errors:
        raise Refused(400, errors)
    return {
        "name": body["name"],
        "projectId": project,
        "isLowPriority": truth(body.get("isLowPriority", False)),
        "billingPriorityValue": body.get("billingPriorityValue") or "ON_DEMAND",
        "description": body.get("description") or "",
        "jobanalyses": [echo for echo, _ in checked],
    }


def check_analysis(posted: Any, sim: Simulator) -> tuple[dict, dict]:
    """Return one tile of a job as it is echoed, and its errors."""
    if not isinstance(posted, dict):
        return {}, {"non_field_errors": ["Invalid data. Expected a dictionary."]}
    errors: dict[str, Any] = {}
    analysis = posted.get("analysis") if isinstance(posted.get("analysis"), dict) else {}
    name, _, versions, words = ANALYSES.get(analysis.get("code"), ("", "", [], ()))
    code_of = {code: text for text, code in versions}
    version = str(analysis.get("version") or next(iter(code_of), ""))
    if not analysis:
        errors["analysis"] = REQUIRED
    elif not versions:
        errors["analysis"] = {"code": [f"There is no analysis {analysis.get('code')!r}."]}
    elif version not in code_of:
        errors["analysis"] = {"version": [f"{name} has no version {version!r}."]}

    command = posted.get("command")
    flags = posted.get("flags") or {}
    if not is_text(command):
        errors["command"] = REQUIRED if command is None else BLANK
    elif words and not any(word in command for word in words) and not truth(flags.get("igCv")):
        errors["command"] = [f"The command of {name} must contain {' or '.join(words)}."]

    hardware, wrong = check_hardware(posted.get("hardware"))
    if wrong:
        errors["hardware"] = wrong

    inputs = posted.get("inputFiles") or []
    found = [sim.files.get(one.get("id")) if isinstance(one, dict) else None for one in inputs]
    bad = [not (file and file.is_uploaded and not file.is_deleted) for file in found]
    if any(bad):
        errors["inputFiles"] = [{"id": ["There is no such file."]} if one else {} for one in bad]

    seller = posted.get("onDemandLicenseSeller") or None
    features = posted.get("userDefinedLicenseSettings") or None
    if seller and features and features.get("featureSets"):
        errors["onDemandLicenseSeller"] = ["Not together with userDefinedLicenseSettings."]
    variables = posted.get("envVars") or {}
    if not isinstance(variables, dict) or not all(isinstance(value, (str, int)) for value in variables.values()):
        errors["envVars"] = ["Expected an object of strings."]
    echo = {
        "analysis": {**{"code": analysis.get("code"), "name": name, "version": version},
                     "versionName": code_of.get(version)},
        "command": command,
        "hardware": hardware,
        "inputFiles": [
            {"id": one["id"], "decompress": truth(one.get("decompress", True))} for one in inputs if isinstance(one, dict)
        ] if not any(bad) else [],
        "envVars": variables,
        "flags": flags,
        "useRescaleLicense": truth(posted.get("useRescaleLicense", False)),
        "onDemandLicenseSeller": seller,
        "userDefinedLicenseSettings": features,
        "useMpi": truth(posted.get("useMpi", False)),
        "preProcessScript": None, "preProcessScriptCommand": "",
        "postProcessScript": None, "postProcessScriptCommand": "", "templateTasks": [],
    }
    return echo, errors


def check_hardware(posted: Any) -> tuple[dict, Any]:
    """Return the hardware as it is echoed, and what is wrong with it."""
    if not isinstance(posted, dict):
        return {}, REQUIRED
    errors = {}
    core_type = posted.get("coreType")
    cores, slots, walltime = (number(posted.get(key)) for key in ("coresPerSlot", "slots", "walltime"))
    known = {code: (sizes, flags) for code, _, sizes, flags in CORE_TYPES if flags.get("isActive", True)}
    sizes, flags = known.get(core_type, ([], {})) if isinstance(core_type, str) else ([], {})
    if not isinstance(core_type, str):
        errors["coreType"] = REQUIRED if core_type is None else ["Not a valid string."]
    elif not sizes:
        errors["coreType"] = [f"There is no core type {core_type!r}."]
    if cores is None or cores < 1:
        errors["coresPerSlot"] = REQUIRED if posted.get("coresPerSlot") is None else NOT_A_NUMBER
    elif sizes and cores not in sizes and cores % sizes[-1]:
        allowed = ", ".join(map(str, sizes))
        errors["coresPerSlot"] = [f"{core_type} comes with {allowed} cores or multiples of {sizes[-1]}, not with {cores}."]
    if posted.get("slots") is not None and (slots is None or slots < 1):
        errors["slots"] = NOT_A_NUMBER
    if posted.get("walltime") in (None, ""):
        if flags.get("walltimeRequired"):
            errors["walltime"] = REQUIRED
    elif walltime is None or walltime < 1:
        errors["walltime"] = NOT_A_NUMBER
    elif walltime > MAX_JOB_HOURS:
        errors["walltime"] = [f"Ensure this value is less than or equal to {MAX_JOB_HOURS}."]
    return {
        "coreType": core_type,
        "coresPerSlot": cores,
        "slots": slots or 1,
        "walltime": walltime,
        "coreSummary": {"numberOfNodes": math.ceil((cores or 1) / sizes[-1]) if sizes else 1,
                        "memoryPerNode": 65536, "storagePerNode": 500},
    }, errors


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def number(value: Any) -> int | None:
    """Take numbers as strings too (§0)."""
    try:
        return None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        return None


def truth(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes")


# --- running a job (§7, §13) ---


class Run(threading.Thread):
    """What the platform does with a submitted job, from Queued to Completed."""

    def __init__(self, sim: Simulator, job: Job) -> None:
        super().__init__(name=f"job-{job.id}", daemon=True)
        self.sim, self.job = sim, job
        self.stopped = threading.Event()
        self.inputs: dict[Path, tuple] = {}  # what was put into the work folder, with size and time
        self.missing: str | None = None  # the program that the shell did not find

    def run(self) -> None:
        sim, job = self.sim, self.job
        outcome = self.timeline_and_command()
        while job._again and outcome != "closed":
            job._again -= 1
            outcome = self.timeline_and_command()
        if outcome == "closed":
            return
        if outcome not in ("success", "never ran") and job.date_started:
            job.date_completed = sim.now()
        reason = {
            "success": sim.success_reason,
            "failed": sim.failed_reason,
            "stopped": sim.stopped_reason,
            "walltime": sim.walltime_reason,
            "never ran": sim.never_runs,
        }[outcome]
        if outcome == "failed" and sim.stopping_entry:
            sim.add_status(job, "Stopping", "A run failed")
        if outcome == "walltime":
            sim.add_status(job, "Stopping", sim.walltime_reason)
        if job.date_started and (outcome != "walltime" or sim.walltime_syncs):
            self.sync()
        if self.pause(0.5, stoppable=False):
            return
        sim.add_status(job, sim.last_status, reason, last=True)
        sim.add_cluster_status(job, "Stop Requested")
        sim.add_cluster_status(job, "Stopping")
        if sim.closing.wait(sim.cluster_lag + sim.speed):
            return
        sim.add_cluster_status(job, "Stopped")

    def pause(self, seconds: float = 1.0, stoppable: bool = True) -> bool:
        """Wait as befits the speed; True if the job is to end."""
        event = self.stopped if stoppable else self.sim.closing
        return event.wait(seconds * self.sim.speed) or self.sim.closing.is_set()

    def ended_by(self) -> str:
        if self.sim.closing.is_set():
            return "closed"
        self.sim.add_status(self.job, "Stopping", "User Terminated")
        return "stopped"

    def timeline_and_command(self) -> str:
        """Return how it ended: success, failed, stopped, walltime, never ran or closed."""
        sim, job = self.sim, self.job
        *before, executing = sim.timeline
        for status in before:
            if status != "Pending":  # that one was made by the submit itself
                sim.add_status(job, status)
            if status == "Queued" and sim.never_runs:
                return "never ran"
            if status == "Started":
                sim.add_cluster_status(job, "Starting")
                sim.add_cluster_status(job, "Started")
            if self.pause():
                return self.ended_by()
        folder = job.work / "shared" if sim.shared_work else job.work
        folder.mkdir(parents=True, exist_ok=True)
        # Held open throughout: a command that deletes the log has deleted it for good.
        with (job.work / LOG).open("ab", buffering=0) as self.log:
            refusal = self.place_inputs(folder)
            job.date_started, job.date_completed = sim.now(), None
            sim.add_status(job, executing)
            if refusal:
                self.say(refusal)
                outcome = "failed"
            else:
                outcome = self.commands(folder)
        job.date_completed = sim.now()
        return outcome

    def place_inputs(self, folder: Path) -> str | None:
        """Put the input files into the work folder, archives unpacked; return what is wrong with one."""
        for analysis in self.job.data["jobanalyses"]:
            for entry in analysis["inputFiles"]:
                file = self.sim.files[entry["id"]]
                target = folder / file.name
                try:
                    shutil.copyfile(file.path, target)
                    if entry["decompress"]:
                        unpack(target, folder)
                except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
                    return f"Cannot unpack {file.name}: {error}"
        for path in regular_files(folder):
            if path.name != LOG:
                path.chmod(path.stat().st_mode | 0o755)  # rescale-cli runs ./run.sh as uploaded (§2)
                self.inputs[path] = (path.stat().st_size, path.stat().st_mtime_ns)
        return None

    def commands(self, folder: Path) -> str:
        hours = self.job.data["jobanalyses"][0]["hardware"]["walltime"]
        deadline = time.monotonic() + hours * self.sim.walltime_hour if hours else math.inf
        for index, analysis in enumerate(self.job.data["jobanalyses"]):
            outcome = self.command(index, analysis, folder, deadline)
            if outcome != "success":
                return outcome
        return "success"

    def command(self, index: int, analysis: dict, folder: Path, deadline: float) -> str:
        """Execute the command of one tile, with its output in the log; return how it ended."""
        sim, job = self.sim, self.job
        script = job.folder / f"command{index + 1}.sh"
        script.write_bytes(analysis["command"].replace("\r\n", "\n").encode() + b"\n")
        self.say(f"Launching {analysis['command'].strip()}, Working dir: {folder}.  Process output follows:")
        process = subprocess.Popen(
            [shutil.which("bash") or shutil.which("sh") or "sh", str(script)],
            cwd=folder,
            env=environment(sim, job, analysis),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        reader = threading.Thread(target=self.copy_output, args=(process.stdout,), daemon=True)
        reader.start()
        outcome = None
        while process.poll() is None and not outcome:
            if self.stopped.is_set() or sim.closing.is_set():
                outcome = self.ended_by()
            elif time.monotonic() > deadline:
                outcome = "walltime"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        if outcome and process.poll() is None:
            signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if outcome == "closed" else sim.kill_after)
        else:
            reader.join(0.2)
        signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))  # also what it left in the background
        code = process.wait()
        reader.join(5)
        if outcome is None and sim.fail and sim.fail in job.name:
            self.say(f"*** ERROR: the analysis has been terminated ('{sim.fail}' is to fail in this rehearsal)")
            code = code or 1
        self.say(f"Exited with code {code if code >= 0 else 128 - code}\n")
        if code == 127 and sim.on_missing:
            sim.on_missing(job, self.missing)
        return outcome or ("success" if code == 0 or sim.ignore_exit_codes else "failed")

    def copy_output(self, stream: BinaryIO) -> None:
        for line in stream:
            self.log.write(stamp() + line.rstrip(b"\r\n") + b"\n")
            found = re.search(rb"([^\s:]+): (?:command )?not found", line)
            self.missing = found.group(1).decode(errors="replace") if found else self.missing

    def say(self, text: str) -> None:
        for line in text.split("\n"):
            self.log.write(stamp() + line.encode(errors="replace") + b"\n")

    def sync(self) -> None:
        """Make output files of all that is in the work folder (§13)."""
        sim, job = self.sim, self.job
        for path in regular_files(job.work):
            info = path.stat()
            if not sim.lists_input_files and self.inputs.get(path) == (info.st_size, info.st_mtime_ns):
                continue
            relative = path.relative_to(job.work).as_posix()
            sha512, md5 = hashlib.sha512(), hashlib.md5()
            with path.open("rb") as stream:
                for piece in iter(lambda: stream.read(PIECE), b""):
                    sha512.update(piece)
                    md5.update(piece)
            with sim.lock:
                file = File(
                    id=sim.new_id(),
                    name=path.name,
                    relative_path=relative,
                    path=path,
                    storage_path=f"user/{USER}/output/job_{job.id}/run1/{relative}",
                    size=info.st_size,
                    sha512=sha512.hexdigest(),
                    md5=md5.hexdigest(),
                    date=sim.now(),
                    type_id=5,
                    is_uploaded=not sim.upload_lag,
                )
                sim.files[file.id] = file
                job.files.append(file.id)


def stamp() -> bytes:
    return datetime.now(timezone.utc).strftime("[%Y-%m-%dT%H:%M:%SZ]: ").encode()


def environment(sim: Simulator, job: Job, analysis: dict) -> dict[str, str]:
    """The variables of a job (§13); of this computer's own only what programs need to run at all."""
    kept = ("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "COMSPEC", "PATHEXT")
    variables = {key: value for key, value in os.environ.items() if key.upper() in kept or key.startswith("LC_")}
    folders = [str(sim.stand_ins), variables.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    hardware = analysis["hardware"]
    nodes = hardware["coreSummary"]["numberOfNodes"]
    variables.update({"PATH": os.pathsep.join(folders), "HOME": str(job.folder)})
    variables.update({key: str(value) for key, value in analysis["envVars"].items()})
    variables.update(
        RESCALE_JOB_ID=job.id,
        RESCALE_API_BASE_URL=sim.url,
        RESCALE_CLUSTER_ID=job.id.lower(),
        RESCALE_CORE_TYPE=hardware["coreType"],
        RESCALE_CORES_PER_SLOT=str(hardware["coresPerSlot"]),
        RESCALE_CORES_PER_NODE=str(math.ceil(hardware["coresPerSlot"] / nodes)),
        RESCALE_NODES_PER_SLOT=str(nodes),
        RESCALE_SLOTS_PER_NODE="1",
        RESCALE_GPUS_PER_SLOT="0",
        RESCALE_GPUS_PER_NODE="0",
        RESCALE_THREADS_PER_SLOT=str(hardware["coresPerSlot"]),
        RESCALE_THREADS_PER_NODE=str(math.ceil(hardware["coresPerSlot"] / nodes)),
        RESCALE_PROVIDER="simulator",
        RESCALE_INTERCONNECT="none",
        RESCALE_PREFERRED_REMSH="ssh",
        RESCALE_IG_RESTART_COUNT="0",
        HOSTLIST=" ".join(["localhost"] * nodes),
    )
    return variables


def signal_group(process: subprocess.Popen, signum: int) -> None:
    """Signal the command and all that it started, which on Windows is the command alone."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signum)
        else:
            process.kill()


def regular_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar.gz as the platform does, symbolic links broken (the guide warns of it)."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                target = inside(folder, info.filename)
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    write_member(bundle.open(info), target)
    elif archive.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(archive, "r:gz") as bundle:
            for member in bundle:
                target = inside(folder, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif member.issym():
                    write_member(io.BytesIO(), target)
                elif member.isfile() or member.islnk():
                    write_member(bundle.extractfile(member), target)


def inside(folder: Path, name: str) -> Path:
    target = (folder / name.replace("\\", "/")).resolve()
    if target != folder.resolve() and folder.resolve() not in target.parents:
        raise ValueError(f"{name} lies outside of the work folder")
    return target


def write_member(source: BinaryIO | None, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source or io.BytesIO() as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, PIECE)


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file that may be large, without their ends (§8)."""
    data = b""
    with path.open("rb") as stream:
        position = stream.seek(0, os.SEEK_END)
        while position and data.count(b"\n") <= count:
            step = min(position, 65536)
            position = stream.seek(position - step)
            data = stream.read(step) + data
    lines = data.decode(errors="replace").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    return lines[-count:] if count > 0 else []


# --- the server ---


class Handler(WSGIRequestHandler):
    """Answers one connection's requests: records them, applies faults, keeps the connection alive (werkzeug does not)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer's body waits for the acknowledgement of its headers

    def setup(self) -> None:
        super().setup()
        self.server.sim.connections.add(self.connection)

    def finish(self) -> None:
        self.server.sim.connections.discard(self.connection)
        super().finish()

    def log_request(self, *_: Any) -> None:
        pass

    def run_wsgi(self) -> None:
        sim = self.server.sim
        environ = self.make_environ()
        environ["wsgi.input"] = get_input_stream(environ)
        record = Record(
            method=self.command,
            path=environ["PATH_INFO"],
            query=dict(urllib.parse.parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)),
            headers=dict(self.headers.items()),
            time=time.time(),
        )
        self.server.records.append(record)
        fault = sim.next_fault(record)
        name = record.fault = fault.name if fault else None
        sim.closing.wait(sim.latency)
        if sim.on_request:
            sim.on_request(record, "before")
        if name in ("refused", "reset_before"):
            if name == "refused":
                sim.refuse(fault.seconds)
            self.reset()
        if name == "timeout_before":
            self.hold(fault.seconds)
        if name == "late":
            later = dict(environ, **{"wsgi.input": io.BytesIO(environ["wsgi.input"].read())})
            sim.after(fault.seconds, lambda: Response.from_app(self.server.app, later))
        response = faulty_answer(fault) if name in NOT_ACTED else Response.from_app(self.server.app, environ)
        self.drain(environ["wsgi.input"])
        if sim.on_request:
            sim.on_request(record, "after")
        if name == "reset_after":
            self.reset()
        if name == "timeout_after":
            self.hold(fault.seconds)
        if name in ("503_after", "html_after"):
            response = faulty_answer(fault)
        if name == "truncated":
            response = truncated(response)
        record.status = response.status_code
        self.send(response, corrupt=name == "corrupt", midway=name == "reset_midway")

    def send(self, response: Response, corrupt: bool, midway: bool) -> None:
        if "Content-Length" not in response.headers and response.status_code != 204:
            response.content_length = len(response.get_data())
        left = (response.content_length or 0) // 2 if midway else math.inf
        try:
            self.send_response(response.status_code)
            for key, value in response.headers:
                self.send_header(key, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            for piece in response.response if self.command != "HEAD" else ():
                if corrupt and piece:
                    piece = piece[: len(piece) // 2] + bytes([piece[len(piece) // 2] ^ 255]) + piece[len(piece) // 2 + 1 :]
                self.wfile.write(piece[: int(min(left, len(piece)))])
                left -= len(piece)
                if left <= 0:
                    break
        finally:
            response.close()
        if midway:
            time.sleep(0.05)  # a reset takes along what the other side has not read yet
            self.reset()

    def drain(self, body: BinaryIO) -> None:
        """Read what is left of the request's body, where the next request begins."""
        try:
            while body.read(PIECE):
                pass
        except (ClientDisconnected, OSError):
            self.close_connection = True

    def reset(self) -> None:
        """Send RST: what a crashed server or a firewall does."""
        self.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        )
        # The handler's own file objects would keep a mere close() from closing.
        socket.close(self.connection.detach())
        raise ConnectionResetError

    def hold(self, seconds: float) -> None:
        self.server.sim.closing.wait(seconds)
        raise ConnectionAbortedError  # the server then closes the connection


class Server(ThreadedWSGIServer):
    sim: Simulator
    records: list[Record]


NOT_ACTED = ("throttled", "500", "502", "503", "504", "late", "html", "redirect")


def faulty_answer(fault: Fault) -> Response:
    if fault.name == "throttled":
        body = json.dumps({"detail": "Request was throttled. Expected available in 1 second."})
        return Response(body, 429, {"Retry-After": fault.retry_after}, "application/json")
    if fault.name == "redirect":
        return Response("", 302, {"Location": fault.location})
    status = {"late": 504, "html": 200, "html_after": 200, "503_after": 503}.get(fault.name) or int(fault.name)
    title = "Sign in" if status == 200 else f"{status} error"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Response(page, status, mimetype="text/html")


def truncated(response: Response) -> Response:
    data = response.get_data()
    status = 200 if response.status_code == 204 else response.status_code
    half = data[: len(data) // 2] if data else b'{"det'
    return Response(half, status, mimetype=response.mimetype if data else "application/json")


class HashingFile:
    """A file that is hashed while it is written, so that an upload is read only once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("wb+")
        self.sha512, self.md5, self.size = hashlib.sha512(), hashlib.md5(), 0

    def write(self, data: bytes) -> int:
        self.sha512.update(data)
        self.md5.update(data)
        self.size += len(data)
        return self.stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class UploadRequest(Request):
    """Puts an uploaded file where it stays: one of several GB neither fills the memory nor is copied."""

    def _get_file_stream(self, *_: Any, **__: Any) -> Any:
        part = HashingFile(current_app.config["FILES"] / f"part-{secrets.token_hex(8)}")
        g.setdefault("parts", []).append(part)
        return part


class Simulator:
    """A Rescale of its own on 127.0.0.1: `with Simulator(folder, **quirks) as sim`."""

    ROUTES = (  # method, path, name of the method that answers
        ("GET", "/users/me/", "me"),
        ("GET", "/users/me/projects/", "projects"),
        ("GET", "/coretypes/", "core_types"),
        ("GET", "/analyses/", "analyses"),
        ("GET", "/files/", "list_files"),
        ("POST PUT", "/files/contents/", "upload"),
        ("GET", "/files/<id>/", "get_file"),
        ("DELETE", "/files/<id>/", "delete_file"),
        ("GET", "/files/<id>/contents/", "contents"),
        ("GET", "/files/<id>/lines/", "lines"),
        ("GET", "/jobs/", "list_jobs"),
        ("POST", "/jobs/", "create_job"),
        ("GET", "/jobs/<id>/", "get_job"),
        ("PATCH", "/jobs/<id>/", "patch_job"),
        ("DELETE", "/jobs/<id>/", "delete_job"),
        ("POST", "/jobs/<id>/submit/", "submit"),
        ("POST", "/jobs/<id>/stop/", "stop"),
        ("GET", "/jobs/<id>/statuses/", "statuses"),
        ("GET", "/jobs/<id>/cluster_statuses/", "cluster_statuses"),
        ("GET", "/jobs/<id>/files/", "job_files"),
        ("GET", "/jobs/<id>/runs/", "runs"),
        ("GET", "/jobs/<id>/runs/1/", "get_run"),
        ("GET", "/jobs/<id>/runs/1/files/", "job_files"),
        ("GET", "/jobs/<id>/runs/1/directory-contents/", "directory_contents"),
        ("GET", "/jobs/<id>/runs/1/tail/<path:path>", "tail"),
    )

    def __init__(self, folder: Path, port: int = 0, token: str | None = None, **quirks: Any) -> None:
        unknown = set(quirks) - set(QUIRKS)
        if unknown:
            raise TypeError(f"unknown quirks: {', '.join(sorted(unknown))}")
        self.folder = Path(folder).resolve()
        self.lock = threading.RLock()  # around all that changes jobs, files and faults
        self.closing = threading.Event()
        self.requests: list[Record] = []
        self.storage_requests: list[Record] = []  # what reached the "object storage" of contents_redirect
        self.faults: list[Fault] = []
        self.starts: collections.Counter[str] = collections.Counter()
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, File] = {}
        self.token = token
        self.on_request: Callable[[Record, str], None] | None = None
        self.on_missing: Callable[[Job, str | None], None] | None = None  # a program was not found
        self.connections: set[socket.socket] = set()
        self.stand_ins = self.folder / "stand-ins"
        self._timers: list[threading.Timer] = []
        self._last_date = 0
        for name, value in {**QUIRKS, **quirks}.items():
            setattr(self, name, value)
        self._random = random.Random(self.seed)
        for part in ("files", "jobs", "stand-ins"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._load()
        self.token = self.token or secrets.token_hex(20)
        self._app = self._make_app()
        self._server: Server | None = self._listen(port)
        self._storage = self._listen(0, app=self._storage_app, records=self.storage_requests)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def __setattr__(self, name: str, value: Any) -> None:
        # A misspelt quirk would make a test pass for nothing.
        if "url" in vars(self) and name not in vars(self):
            raise AttributeError(f"a simulator has no {name!r}")
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{name} is one of {CHOICES[name]}, not {value!r}")
        super().__setattr__(name, value)

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Kill the jobs that run and stop answering."""
        self.closing.set()
        for timer in self._timers:
            timer.cancel()
        for job in list(self.jobs.values()):
            if job._run:
                job._run.stopped.set()
                job._run.join(10)
        for server in (self._server, self._storage):
            if server:
                server.shutdown()
                server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.save()

    def finish_time(self, job_id: str) -> float:
        """When the job's last status was made, as time.time()."""
        ended = self.jobs[job_id].ended
        if ended is None:
            raise ValueError(f"job {job_id} has not ended")
        return ended

    # The server and its faults

    def _make_app(self) -> Flask:
        app = Flask("rescale_simulator")
        app.request_class = type("AppRequest", (UploadRequest, Flask.request_class), {})
        app.json.sort_keys = False
        app.config["FILES"] = self.folder / "files"
        app.before_request(self._check_request)
        app.teardown_request(forget_parts)
        app.register_error_handler(Refused, lambda error: (error.body, error.status))
        app.register_error_handler(HTTPException, lambda error: ({"detail": detail(error)}, error.code))
        for methods, path, name in self.ROUTES:
            app.add_url_rule(API + path, f"{name} {methods} {path}", getattr(self, f"_{name}"), methods=methods.split())
        return app

    def _listen(self, port: int, app: Any = None, records: list | None = None) -> Server:
        server = Server("127.0.0.1", port, app or self._app, Handler)
        server.sim = self
        server.records = self.requests if records is None else records
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def next_fault(self, record: Record) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.strikes(record):
                    return fault
            if self.flaky and self._random.random() < self.flaky:
                return Fault(self._random.choice(FLAKY))
        return None

    def refuse(self, seconds: float) -> None:
        """Close the port for a while, so that the operating system refuses connections."""
        with self.lock:
            server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
            self.after(seconds, self._reopen)

    def _reopen(self) -> None:
        self._server = self._listen(self.port)

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, lambda: None if self.closing.is_set() else act())
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _check_request(self) -> Any:
        if not request.path.endswith("/") and "/tail/" not in request.path:
            if request.method not in ("GET", "HEAD"):
                raise Refused(404, "Not found.")  # redirected it would become a GET (§0)
            query = request.query_string.decode()
            return Response("", 301, {"Location": request.path + "/" + ("?" + query if query else "")})
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Token":
            raise Refused(401, "Authentication credentials were not provided.")
        if not secrets.compare_digest(token.strip().encode(), self.token.encode()):
            raise Refused(401, "Invalid token.")
        return None

    # What is kept in the folder

    def save(self) -> None:
        """Write down what a simulator started later in the same folder has to know."""
        def plain(thing: Any) -> dict:
            values = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
            return {
                name: os.path.relpath(value, self.folder) if isinstance(value, Path) else value
                for name, value in values.items()
            }

        with self.lock:
            state = {
                "token": self.token,
                "starts": self.starts,
                "files": [plain(file) for file in self.files.values()],
                "jobs": [plain(job) for job in self.jobs.values()],
            }
            new = self.folder / "state.json.new"
            new.write_text(json.dumps(state, indent=1), encoding="utf-8")
            new.replace(self.folder / "state.json")

    def _load(self) -> None:
        path = self.folder / "state.json"
        if not path.exists():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        self.token = self.token or state["token"]
        self.starts.update(state["starts"])
        for values in state["files"]:
            self.files[values["id"]] = File(**{**values, "path": self.folder / values["path"]})
        for values in state["jobs"]:
            job = self.jobs[values["id"]] = Job(**{**values, "folder": self.folder / values["folder"]})
            if job.statuses and not job.ended:
                # It died with the simulator that ran it.
                if job.date_started:
                    job.date_completed = self.now()
                    with (job.work / LOG).open("ab") as log:
                        log.write(stamp() + b"The simulator was ended while this job ran\n")
                    Run(self, job).sync()
                self.add_status(job, "Stopping", "A run failed")
                self.add_status(job, self.last_status, self.failed_reason, last=True)
                for status in ("Stop Requested", "Stopping", "Stopped"):
                    self.add_cluster_status(job, status)

    def now(self) -> str:
        """The time as the API writes it, later with every call."""
        with self.lock:
            self._last_date = max(time.time_ns() // 1000, self._last_date + 1)
            seconds, micros = divmod(self._last_date, 1_000_000)
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"

    def new_id(self) -> str:
        with self.lock:
            used = {one.lower() for one in itertools.chain(self.jobs, self.files)}  # folders may not tell case
            while True:
                new = "".join(random.choices(string.ascii_letters, k=6))
                if new.lower() not in used:
                    return new

    def add_status(self, job: Job, status: str, reason: str | None = None, last: bool = False) -> None:
        with self.lock:
            job.statuses.append(self._status(job, status, reason))
            if last:
                job.ended = time.time()
            self.save()

    def add_cluster_status(self, job: Job, status: str) -> None:
        with self.lock:
            job.cluster.append(self._status(job, status, None))
            self.save()

    def _status(self, job: Job, status: str, reason: str | None) -> dict:
        return {
            "id": secrets.token_hex(3), "jobId": job.id,
            "status": status, "statusReason": reason, "statusDate": self.now(),
        }

    # Helpers of the endpoints

    def _page(self, items: list, default: int | None = None) -> Any:
        """Wrap one page of items as every list of the API is (§0)."""
        page = number(request.args.get("page", 1))
        size = number(request.args.get("page_size", default or self.page_size))
        size = min(size, self.page_size_cap) if size and size > 0 else self.page_size
        pages = max(1, math.ceil(len(items) / size))
        if page is None or not 1 <= page <= pages:
            raise Refused(404, "Invalid page.")

        def link(other: int) -> str | None:
            if not 1 <= other <= pages:
                return None
            kept = {"page_size": request.args["page_size"]} if "page_size" in request.args else {}
            query = {**(kept if self.next_drops_query else request.args.to_dict()), "page": other}
            path = request.path.rstrip("/") if self.next_without_slash else request.path
            return f"{self.next_foreign or self.url}{path}?{urllib.parse.urlencode(query)}"

        return jsonify(
            count=len(items), next=link(page + 1), previous=link(page - 1), results=items[(page - 1) * size : page * size]
        )

    def _job(self, id: str) -> Job:
        try:
            return self.jobs[id]
        except KeyError:
            raise Refused(404, "Not found.") from None

    def _file(self, id: str) -> File:
        try:
            return self.files[id]
        except KeyError:
            raise Refused(404, "Not found.") from None

    def _json(self) -> Any:
        if not request.is_json:
            raise Refused(415, f'Unsupported media type "{request.mimetype}" in request.')
        try:
            return json.loads(request.get_data() or b"{}")
        except ValueError as error:
            raise Refused(400, f"JSON parse error - {error}") from error

    def _file_object(self, file: File) -> dict:
        """A file as the API shows it (§3)."""
        sums = [{"hashFunction": "sha512", "fileHash": file.sha512}]
        return {
            "id": file.id,
            "name": file.name,
            "typeId": file.type_id,
            "dateUploaded": file.date,
            "relativePath": file.relative_path,
            "path": file.storage_path,
            "pathParts": {"container": "simulator", "path": file.storage_path},
            "decryptedSize": file.size,
            "isUploaded": file.is_uploaded,
            "isDeleted": file.is_deleted,
            "viewInBrowser": False,
            "downloadUrl": f"{self.url}{API}/files/{file.id}/contents/",
            "md5": file.md5 if self.checksums in ("md5", "both") else None,
            "fileChecksums": sums if self.checksums in ("sha512", "both") else [],
            "encodedEncryptionKey": "c2ltdWxhdG9y",
            "storage": {"id": "sToRg", "storageType": "S3Storage", "encryptionType": "default"},
            "owner": "rehearsal@example.com",
            "sharedWith": [],
            "userTags": [],
        }

    def _job_object(self, job: Job) -> dict:
        """A job as the API shows it (§5): without its status."""
        analyses = [
            {**one, "inputFiles": [
                {**self._file_object(self.files[entry["id"]]), "decompress": entry["decompress"]}
                for entry in one["inputFiles"]
            ]}
            for one in job.data["jobanalyses"]
        ]
        return {
            "id": job.id, "owner": "rehearsal@example.com", "dateInserted": job.date, "expectedRuns": None,
            "archiveFilters": [], "resourceFilters": [], "caseFile": None, "paramFile": None, "jobvariables": [],
            "includeNominalRun": False, "isTemplateDryRun": False, "monteCarloIterations": None, "optimizer": None,
            "remoteVizConfig": None, "sshPort": 22, "cidrRule": None, "publicKey": None,
            **job.data, "jobanalyses": analyses,
        }

    # The endpoints: account and catalogue (§1, §11)

    def _me(self) -> Any:
        return jsonify(
            email="rehearsal@example.com", fullName="Rehearsal", company={"code": "simulator"},
            workspace={"id": "w1", "name": "Main"}, maxJobHours=MAX_JOB_HOURS,
        )

    def _projects(self) -> Any:
        return self._page([{"id": id, "name": name} for id, name in PROJECTS.items()])

    def _core_types(self) -> Any:
        items = [
            {
                "code": code, "name": code.replace("_", " ").title(), "description": "", "processorInfo": "local",
                "cores": cores, "memory": 4000, "storage": 500, "price": price, "lowPriorityPrice": str(price / 2),
                "walltimeRequired": False, "isDeprecated": False, "isActive": True, "isPrimary": False, "hasSsd": True,
                "gpuCounts": [0.0], "displayOrder": order, "remoteVizAllowed": True, **flags,
            }
            for order, (code, price, cores, flags) in enumerate(CORE_TYPES)
        ]
        if "isActive" in request.args:
            items = [item for item in items if item["isActive"] == truth(request.args["isActive"])]
        return self._page(items)

    def _analyses(self) -> Any:
        allowed = [code for code, _, _, flags in CORE_TYPES if flags.get("isActive", True)]
        return self._page([
            {
                "code": code, "name": name, "description": "", "vendorName": vendor, "industries": [],
                "versions": [
                    {"version": text, "versionCode": version, "allowedCoreTypes": allowed, "stdCommand": "", "eula": None}
                    for text, version in versions
                ],
                "supportDesks": [], "hasRescaleLicense": False, "hasShortTermLicense": False, "licenseSettings": [],
                "thumbnail": "", "resources": [], "pricing": None,
            }
            for code, (name, vendor, versions, _) in ANALYSES.items()
        ])

    # Files (§2, §3)

    def _upload(self) -> Any:
        if "chunked" in request.headers.get("Transfer-Encoding", ""):
            raise Refused(411, "A Content-Length is required.")
        part = request.files.get("file")
        name = re.split(r"[/\\]", part.filename or "")[-1] if part else ""
        if name in ("", ".", ".."):
            raise Refused(400, {"file": ["No file was submitted."]})
        written: HashingFile = part.stream
        written.stream.close()
        with self.lock:
            id = self.new_id()
            path = written.path.rename(self.folder / "files" / id)
            file = self.files[id] = File(
                id=id, name=name, relative_path=name, path=path, storage_path=f"user/{USER}/{id}/{name}",
                size=written.size, sha512=written.sha512.hexdigest(), md5=written.md5.hexdigest(), date=self.now(),
            )
            self.save()
        return jsonify(self._file_object(file)), 201

    def _list_files(self) -> Any:
        wanted = request.args.get("search", "")
        return self._page([
            self._file_object(file) for file in list(self.files.values()) if wanted in file.relative_path
        ])

    def _get_file(self, id: str) -> Any:
        return jsonify(self._file_object(self._file(id)))

    def _delete_file(self, id: str) -> Any:
        file = self._file(id)
        with self.lock:
            file.is_deleted = True
            file.path.unlink(missing_ok=True)
            self.save()
        return "", 204

    def _contents(self, id: str) -> Any:
        file = self._readable(id)
        if self.contents_redirect:
            return Response("", 302, {"Location": f"http://127.0.0.1:{self._storage.port}/{id}?signature=abc"})
        return self._stream(file, None if self.ignore_range else request.headers.get("Range"))

    def _readable(self, id: str) -> File:
        file = self._file(id)
        if file.is_deleted or not file.is_uploaded or not file.path.exists():
            raise Refused(404, "Not found.")
        return file

    def _storage_app(self, environ: dict, start_response: Any) -> Any:
        asked = Request(environ)
        if "Authorization" in asked.headers:  # object storage accepts one kind of signature at a time
            answer = Response("<Error><Code>InvalidArgument</Code></Error>", 400, mimetype="application/xml")
        else:
            answer = self._stream(self._file(asked.path.strip("/")), asked.headers.get("Range"))
        return answer(environ, start_response)

    def _stream(self, file: File, wanted: str | None) -> Response:
        """The bytes of a file, or the range of them that is asked for."""
        first, last, headers = 0, file.size - 1, {}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
        if found and any(found.groups()):
            start, end = found.groups()
            first = int(start) if start else max(0, file.size - int(end))
            last = min(int(end), last) if start and end else last
            if first > last:
                return Response("", 416, {"Content-Range": f"bytes */{file.size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        length = last - first + 1

        def pieces() -> Iterator[bytes]:
            left = length
            with file.path.open("rb") as stream:
                stream.seek(first)
                while left > 0:
                    step = max(1, min(PIECE, int(self.rate / 20))) if self.rate else PIECE
                    piece = stream.read(min(step, left))
                    if not piece:
                        break
                    if self.rate:
                        self.closing.wait(len(piece) / self.rate)
                    left -= len(piece)
                    yield piece

        response = Response(pieces(), 206 if headers else 200, headers, "application/octet-stream")
        response.content_length = length
        return response

    def _lines(self, id: str) -> Any:
        try:
            text = self._readable(id).path.read_bytes().decode()
        except UnicodeDecodeError:
            raise Refused(400, "This is not a text file.") from None
        return jsonify(lines=re.findall(r"[^\n]*\n|[^\n]+", text))

    # Jobs (§4 - §7, §10)

    def _create_job(self) -> Any:
        body = self._json()
        data = check_job(body, self)
        with self.lock:
            id = self.new_id()
            name = re.sub(r"[^\w.@-]+", "_", data["name"])[:80]
            job = Job(id=id, name=data["name"], folder=self.folder / "jobs" / f"{name}-{id}", body=body, data=data,
                      date=self.now())
            job.folder.mkdir()
            self.jobs[id] = job
            self.save()
        return jsonify(self._job_object(job)), 201

    def _list_jobs(self) -> Any:
        state = request.args.get("state")
        items = []
        for job in reversed(list(self.jobs.values())):
            if state in ("completed", "not_completed") and bool(job.ended) != (state == "completed"):
                continue
            last = job.statuses[-1] if job.statuses else {"status": "", "statusReason": None}
            items.append({
                "id": job.id, "name": job.name, "owner": "rehearsal@example.com", "dateInserted": job.date,
                "analysisNames": [one["analysis"]["name"] for one in job.data["jobanalyses"]],
                "jobStatus": {"content": last["status"], "labelClass": "", "useLabel": True,
                              "statusReason": last["statusReason"]},
                "clusterStatusDisplay": {"content": job.cluster[-1]["status"] if job.cluster else ""},
                "sharedWith": [], "isVisible": True,
            })
        return self._page(items)

    def _get_job(self, id: str) -> Any:
        return jsonify(self._job_object(self._job(id)))

    def _patch_job(self, id: str) -> Any:
        job, changes = self._job(id), self._json()
        with self.lock:
            if not job.ended:  # after that: 200 and nothing changes (§5)
                job.data = check_job({**job.data, **changes}, self)
                job.name = job.data["name"]
                self.save()
        return jsonify(self._job_object(job))

    def _delete_job(self, id: str) -> Any:
        job = self._job(id)
        with self.lock:
            if job.statuses and not (job.cluster and job.cluster[-1]["status"] == "Stopped"):
                raise Refused(400, "The cluster of this job has not stopped yet.")
            inputs = [entry["id"] for one in job.data["jobanalyses"] for entry in one["inputFiles"]]
            for file_id in job.files + (inputs if truth(request.args.get("deleteInputFiles")) else []):
                self.files[file_id].is_deleted = True
                self.files[file_id].path.unlink(missing_ok=True)
            shutil.rmtree(job.folder, ignore_errors=True)
            del self.jobs[id]
            self.save()
        return "", 204

    def _submit(self, id: str) -> Any:
        job = self._job(id)
        with self.lock:
            if job.statuses:
                doing = self.resubmit_completed if job.ended else self.resubmit
                if doing == "400":
                    raise Refused(400, {"non_field_errors": ["This job has been submitted already."]})
                if doing == "again":
                    job._again += 1
                    self.starts[id] += 1
                return ""
            inputs = [self.files[entry["id"]] for one in job.data["jobanalyses"] for entry in one["inputFiles"]]
            if any(file.is_deleted for file in inputs):
                raise Refused(400, {"inputFiles": ["An input file has been deleted."]})
            if not self.silent_submit:
                self.starts[id] += 1
                self.add_status(job, "Pending")
                job._run = Run(self, job)
                job._run.start()
        return ""

    def _stop(self, id: str) -> Any:
        job = self._job(id)
        if not job._run or job.ended:
            raise Refused(400, "This job is not running.")
        job._run.stopped.set()
        return "", 202

    def _statuses(self, id: str) -> Any:
        with self.lock:
            items = [dict(entry) for entry in self._job(id).statuses]
        if self.date_style == "offset":
            for entry in items:
                entry["statusDate"] = entry["statusDate"].replace("Z", "+00:00")
        return self._page(items[::-1] if self.newest_first else items)

    def _cluster_statuses(self, id: str) -> Any:
        job = self._job(id)
        with self.lock:
            job._cluster_reads += 1
            if not job.cluster or job._cluster_reads <= self.cluster_404:
                raise Refused(404, "Not found.")
            return self._page(job.cluster[::-1] if self.newest_first else job.cluster)

    def _job_files(self, id: str) -> Any:
        """The outputs, which are there only after the end (§9)."""
        job = self._job(id)
        with self.lock:
            files = [self.files[one] for one in job.files] if job.ended else []
            if files and number(request.args.get("page", 1)) == 1:
                job._listings += 1
                if job._listings > self.upload_lag:
                    for file in files:
                        file.is_uploaded = True
            if job._listings <= self.listing_lag:
                files = files[: len(files) * job._listings // (self.listing_lag + 1)]
            wanted = request.args.get("search", "")
            return self._page([self._file_object(file) for file in files if wanted in file.relative_path])

    # The run (§7, §8)

    def _run_object(self, job: Job) -> dict:
        files = [self.files[id] for id in job.files]
        return {
            "id": "1", "type": 3, "displayOrder": 1, "isOptimal": False, "parent": None, "variables": [],
            "dateStarted": job.date_started, "dateCompleted": job.date_completed,
            "outputFileCount": len(files), "outputFileSize": sum(file.size for file in files) if job.ended else None,
        }

    def _runs(self, id: str) -> Any:
        job = self._job(id)
        return self._page([self._run_object(job)] if job.date_started else [])

    def _get_run(self, id: str) -> Any:
        job = self._job(id)
        if not job.date_started:
            raise Refused(404, "Not found.")
        return jsonify(self._run_object(job))

    def _directory_contents(self, id: str) -> Any:
        job = self._job(id)
        if not job.is_running:
            raise Refused(404, "Not found.")
        paths = [path.relative_to(job.work).as_posix() for path in regular_files(job.work)]
        return jsonify([{"path": path, "resource": f"/api/jobs/{id}/runs/1/tail/{path}"} for path in paths])

    def _tail(self, id: str, path: str) -> Any:
        job, path = self._job(id), path.rstrip("/")
        if not job.is_running and self.tail_off_run != "lines":
            if self.tail_off_run == "html":
                return "<html><body>Nothing here</body></html>"
            if self.tail_off_run == "empty":
                return jsonify(fileType="", lines=[])
            raise Refused(int(self.tail_off_run), "Not found." if self.tail_off_run == "404" else "No run is active.")
        try:
            target = inside(job.work, path)
            if "lines" not in request.args:
                return Response(target.read_bytes(), mimetype="application/octet-stream")
            count = number(request.args["lines"])
            if count is None:
                raise Refused(400, {"lines": NOT_A_NUMBER})
            return jsonify(fileType=f"{path}: ASCII text", lines=last_lines(target, count))
        except (OSError, ValueError):
            raise Refused(404, "Not found.") from None


def detail(error: HTTPException) -> str:
    return {404: "Not found.", 405: f'Method "{request.method}" not allowed.'}.get(error.code, str(error.description))


def forget_parts(_: BaseException | None = None) -> None:
    """Remove what an upload that failed has left."""
    for part in g.get("parts", []):
        part.stream.close()
        part.path.unlink(missing_ok=True)


# --- the command ---


class SetPair(argparse.Action):
    """Collect NAME=FILE."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, _, file = values.partition("=")
        path = Path(file).resolve()
        if not name or not file or not path.is_file():
            parser.error(f"{option_string} wants NAME=FILE with a file that exists, not {values!r}")
        if os.name != "nt" and not os.access(path, os.X_OK):
            parser.error(f"{file} is not executable: chmod +x {shlex.quote(file)}")
        namespace.stand_in.append((name, path))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] [SCRIPT [ARGS...]]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Rehearse a script that uses Rescale: it talks to a Rescale on this computer, free of charge, where\n"
        "its jobs really run. Without a script: serve until Ctrl-C.",
        epilog="examples:\n"
        "  %(prog)s main.py                                     the whole chain of main.py\n"
        "  %(prog)s --stand-in abaqus=./fake_abaqus.sh main.py  with a program that is not installed here\n"
        "  %(prog)s --fail job2 main.py                         what happens when the second solver fails?\n"
        "  %(prog)s --flaky 5%% main.py                          and with a bad network?\n"
        "  %(prog)s --folder /tmp/r main.py --resume            go on with what is in that folder",
    )
    parser.add_argument("--speed", type=float, default=1.0, metavar="S", help="factor of the waits, 0: none (default 1)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep jobs and files here, and go on with them later")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--fail", metavar="NAME", help="jobs whose name contains NAME end as if the solver had failed")
    parser.add_argument("--flaky", type=share, default=0.0, metavar="P%", help="share of the requests that go wrong")
    parser.add_argument("--seed", type=int, metavar="N", help="go wrong in the same way as with the same N before")
    parser.add_argument("--stand-in", action=SetPair, default=[], metavar="NAME=FILE",
                        help="jobs run FILE as the program NAME (repeatable)")
    parser.add_argument("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def note(text: str) -> None:
    print(f"[simulator] {text}", file=sys.stderr, flush=True)


def hint_missing(job: Job, program: str | None) -> None:
    name = program or "a program of the command"
    note(f'job {job.id}: "{name}" is not installed on this computer, so the job has failed (exit code 127).')
    note(f"To rehearse without it, put a stand-in in front: --stand-in {program or 'abaqus'}=./fake_{program or 'abaqus'}.sh")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rescale-rehearsal-"))
    # Not only Ctrl-C ends it properly: nothing that a job has started may stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Simulator(
        folder, port=options.port, speed=options.speed, fail=options.fail, flaky=options.flaky, seed=options.seed
    ) as sim:
        sim.on_missing = hint_missing
        for name, path in options.stand_in:
            link = sim.stand_ins / name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        return rehearse(sim, options.script) if options.script else serve(sim)


def serve(sim: Simulator) -> int:
    export = "set" if os.name == "nt" else "export"
    print(f"{export} RESCALE_API_URL={sim.url}\n{export} RESCALE_API_KEY={sim.token}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    return 0


def rehearse(sim: Simulator, script: list[str]) -> int:
    """Run the script against the simulator and return its exit status."""
    local = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    variables = {
        **os.environ,
        "RESCALE_API_URL": sim.url,
        "RESCALE_API_KEY": sim.token,
        "RESCALE_REHEARSAL": sim.url,
        "NO_PROXY": local,
        "no_proxy": local,
    }
    note(f"Rehearsal of {script[0]}, free of charge: Rescale is {sim.url} on this computer, and its jobs run here.")
    process = subprocess.Popen([sys.executable, *script], env=variables)
    try:
        while True:
            # Ctrl-C reaches the script by itself; what it does about it takes its time.
            with contextlib.suppress(KeyboardInterrupt):
                code = process.wait()
                return code if code >= 0 else 128 - code
    except SystemExit:
        process.terminate()
        process.wait()
        raise
    finally:
        note(f"The folders of the jobs are in {sim.folder / 'jobs'}")


if __name__ == "__main__":
    sys.exit(main())
