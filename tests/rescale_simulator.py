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
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Callable

from flask import Flask, Request, Response, current_app, g, request
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import get_input_stream

API = "/api/v2"
PIECE = 1024 * 1024  # bytes that a download reads and sends at a time
LOG = "process_output.log"
USER = "user_xMTMk"
OWNER = "rehearsal@example.com"
PROJECTS = {"xDdRk": "Rehearsal", "pQrSt": "Crash 2027"}
KILL_AFTER = 3.0  # seconds from SIGTERM to SIGKILL
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
    ("nickel", 0.23, [1, 2, 4, 8, 16], {"isDeprecated": True}),  # dearer than those that some client may pick
    ("marble", 0.25, [1, 2, 4, 8], {"isDeprecated": True, "isActive": False}),  # because they are the cheapest
]

# code: name, vendor, versions newest first as (version, versionCode)
ANALYSES = {
    "user_included": ("Bring Your Own Software", "Rescale", [("CPU", "0"), ("GPU", "0-gpu")]),
    "abaqus": ("Abaqus", "Dassault", [("2024 HF2", "2024-2412"), ("2022 HF3", "2022-2241")]),
    "ansys_fluent": ("Ansys Fluent", "Ansys", [("2025 R1", "25.1"), ("2023 R2", "23.2")]),
    "ansys_mechanical": ("Ansys Mechanical", "Ansys", [("2025 R1", "25.1"), ("2023 R2", "23.2")]),
    "cfx": ("Ansys CFX", "Ansys", [("2025 R1", "25.1")]),
    "ls_dyna": ("LS-DYNA", "Ansys", [("R14.1", "14.1"), ("R12.0", "12.0")]),
    "openfoam": ("OpenFOAM", "OpenCFD", [("v2406", "v2406"), ("v2212", "v2212")]),
    "star_ccm": ("Simcenter STAR-CCM+", "Siemens", [("19.04.007", "19.04.007-r8")]),
}
# The real catalogue has more than 700 tiles (§11), which is what makes a client fetch it in few requests.
for _n in range(1, 693):
    ANALYSES[f"sample_solver_{_n:03d}"] = (f"Sample Solver {_n:03d}", "Sample", [(f"{_n}.1", f"{_n}.1-r2")])

# What the sources leave open, and what tests want to turn: keyword arguments of Simulator, attributes afterwards.
QUIRKS: dict[str, Any] = {
    "speed": 1.0,  # factor of the waits between statuses; 0: none
    "timeline": ("Pending", "Queued", "Started", "Validated", "Executing"),  # other waits, or restarts, go in here
    "never_runs": None,  # reason of a Completed that follows Queued at once, as when there is no capacity
    "success_reason": "Completed successfully",  # Completed's statusReason; None is possible
    "failed_reason": "A run failed",  # Completed's after a failed run (nowhere shown); None and "" are possible
    "walltime_reason": "Walltime limit reached",  # of both Stopping and Completed
    "stopping_entry": True,  # whether a failed run shows as Stopping before Completed
    "ignore_exit_codes": False,  # True: reported as a success although the command failed
    "last_status": "Completed",  # or one of the names that only clients know: Failed, Stopped, ...
    "newest_first": True,  # order of the statuses
    "date_style": "offset",  # of the job statuses: "offset" +00:00, "Z", "none" (null), "partly" (every other one)
    "clock_skew": 0.0,  # seconds by which the dates of Executing are ahead of the others, as of another machine
    "page_size": 10,  # default size of a page
    "page_size_cap": 1000,  # the server's largest page
    "empty_last_page": False,  # the count promises more than there is, and the last `next` leads to an empty page
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
    "size_lag": 0,  # during that many listings decryptedSize is null
    "lists_inputs": "left",  # among the outputs: "none", those "left" as they were, or "all", under their own ids too
    "shell": "bash",  # what executes a command, or a list: the program and its arguments
    "shell_style": "file",  # how it is given the command: as a "file", with "-c", or on "stdin"
    "shared_work": False,  # inputs and command are in work/shared (the log stays in work)
    "ignore_range": False,  # contents answers 200 with the whole file to a Range
    "wrong_range": False,  # contents answers a Range with one that starts a byte too early
    "contents_redirect": False,  # contents answers 302 to another server, the "object storage"
    "checksums": "both",  # "sha512", "md5", "both" or "none"
    "walltime_hour": 3600.0,  # real seconds that one hour of walltime lasts
    "walltime_syncs": True,  # whether a job that ran out of walltime has output files
    "latency": 0.0,  # seconds by which every request is delayed
    "rate": None,  # bytes per second and connection of contents
    "upload_rate": None,  # the same of uploads
    "prices": True,  # False: core types come without prices, as members may see them
    "any_settings": False,  # True: takes tiles, versions, core types and projects that it does not know; for rehearsals
    "fail": None,  # a job whose name contains this text ends as if the solver had failed
    "flaky": 0.0,  # share of the requests that get a random fault
    "seed": None,  # of those random faults
}
CHOICES = {
    "date_style": ("offset", "Z", "none", "partly"),
    "lists_inputs": ("left", "all", "none"),
    "shell_style": ("file", "-c", "stdin"),
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
NOT_ACTED = ("throttled", "500", "502", "503", "504", "late", "html", "redirect")  # the endpoint is not asked
FLAKY = ("reset_before", "reset_after", "reset_midway", "throttled", "502", "503", "504", "503_after", "html",
         "truncated")


@dataclasses.dataclass
class Fault:
    """Misbehaviour for `times` requests with this method and a path like this, after `skip` such requests."""

    name: str
    method: str | None = None
    path: str = ""
    times: int = 1
    skip: int = 0
    seconds: float | None = None
    retry_after: str = "1"
    location: str = "http://127.0.0.1:9/"
    hits: int = 0  # requests that got it so far

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise ValueError(f"unknown fault {self.name!r}, known are: {', '.join(FAULTS)}")
        if self.seconds is None:
            self.seconds = 0.3 if self.name == "refused" else 2.0

    def strikes(self, record: Record) -> bool:
        if self.hits == self.times or self.method not in (None, record.method) or not re.search(self.path, record.path):
            return False
        if self.skip:
            self.skip -= 1
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
    path: Path  # where its bytes are on this disk
    storage_path: str  # what the API calls `path`
    size: int
    sha512: str
    md5: str
    date: str
    type_id: int = 1
    is_uploaded: bool = True
    is_deleted: bool = False


@dataclasses.dataclass
class Job:
    """A job: `body` as posted, `data` as the platform echoes it; what begins with _ does not outlive the simulator."""

    id: str
    name: str
    folder: Path
    body: dict
    data: dict
    date: str
    statuses: list[dict] = dataclasses.field(default_factory=list)  # oldest first
    cluster: list[dict] = dataclasses.field(default_factory=list)
    files: list[str] = dataclasses.field(default_factory=list)  # ids of its outputs
    date_started: str | None = None  # of the run
    date_completed: str | None = None
    ended: float | None = None  # time.time() of the last status
    _run: Run | None = None
    _again: int = 0
    _listings: int = 0

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def is_running(self) -> bool:
        return bool(self.date_started and not self.date_completed)

    @property
    def inputs(self) -> list[dict]:
        return [entry for analysis in self.data["jobanalyses"] for entry in analysis["inputFiles"]]


class Refused(Exception):
    """An answer of 4xx with this body, or with {"detail": body} for a text."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, {"detail": body} if isinstance(body, str) else body


def found(thing: Any) -> Any:
    """Return it if it is there, else answer 404."""
    if not thing:
        raise Refused(404, "Not found.")
    return thing


# Checking a new job (§4): errors are nested as the body is, with lists of sentences as leaves

REQUIRED = ["This field is required."]
NO_NUMBER = ["A valid integer is required."]
NO_OBJECT = {"non_field_errors": ["Invalid data. Expected a dictionary."]}


def check_job(body: Any, sim: Simulator) -> dict:
    """Return the job as the platform echoes it."""
    if not isinstance(body, dict):
        raise Refused(400, NO_OBJECT)
    errors: dict[str, Any] = {}
    if not is_text(body.get("name")):
        errors["name"] = REQUIRED
    project = body.get("projectId", body.get("project_id")) or None
    if project is None and sim.project_required:
        errors["projectId"] = REQUIRED
    elif project is not None and str(project) not in PROJECTS and not sim.any_settings:
        errors["projectId"] = [f'Invalid project "{project}".']
    tiles = body.get("jobanalyses") if isinstance(body.get("jobanalyses"), list) else []
    checked = [check_tile(tile, sim) if isinstance(tile, dict) else ({}, NO_OBJECT) for tile in tiles]
    if not tiles:
        errors["jobanalyses"] = REQUIRED
    elif any(wrong for _, wrong in checked):
        errors["jobanalyses"] = [wrong for _, wrong in checked]
    if errors:
        raise Refused(400, errors)
    return {
        "name": body["name"],
        "projectId": project,
        "isLowPriority": truth(body.get("isLowPriority")),
        "billingPriorityValue": body.get("billingPriorityValue") or "ON_DEMAND",
        "description": body.get("description") or "",
        "jobanalyses": [echo for echo, _ in checked],
    }


def check_tile(tile: dict, sim: Simulator) -> tuple[dict, dict]:
    """Return one of the jobanalyses as it is echoed, and what is wrong with it."""
    errors: dict[str, Any] = {}
    analysis = tile.get("analysis") if isinstance(tile.get("analysis"), dict) else {}
    code = str(analysis.get("code"))
    title, _, versions = ANALYSES.get(code, ("", "", []))
    names = {version: name for name, version in versions}
    version = str(analysis.get("version") or next(iter(names), ""))
    if not analysis:
        errors["analysis"] = REQUIRED
    elif sim.any_settings:
        pass
    elif not names:
        errors["analysis"] = {"code": [f"There is no analysis {code!r}."]}
    elif version not in names:
        errors["analysis"] = {"version": [f"{title} has no version {version!r}."]}

    command = tile.get("command")
    flags = tile.get("flags") if isinstance(tile.get("flags"), dict) else {}
    if not is_text(command):
        errors["command"] = REQUIRED
    elif code == "abaqus" and "interactive" not in command and not truth(flags.get("igCv")):
        errors["command"] = ["The interactive flag must be present."]

    hardware, wrong = check_hardware(tile.get("hardware"), sim.any_settings)
    if wrong:
        errors["hardware"] = wrong

    entries = tile.get("inputFiles") or []
    files = [sim.files.get(str(entry.get("id"))) if isinstance(entry, dict) else None for entry in entries]
    missing = [not (file and file.is_uploaded and not file.is_deleted) for file in files]
    if any(missing):
        errors["inputFiles"] = [{"id": ["There is no such file."]} if one else {} for one in missing]

    variables = tile.get("envVars") or {}
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        errors["envVars"] = ["Expected a dictionary of strings."]
    seller, features = tile.get("onDemandLicenseSeller") or None, tile.get("userDefinedLicenseSettings") or None
    if seller and features and not (isinstance(features, dict) and features.get("featureSets") == []):
        errors["onDemandLicenseSeller"] = ["Not together with userDefinedLicenseSettings."]
    return {
        "analysis": {"code": code, "name": title, "version": version, "versionName": names.get(version)},
        "command": command,
        "hardware": hardware,
        "inputFiles": [] if errors else [
            {"id": entry["id"], "decompress": truth(entry.get("decompress", True))} for entry in entries
        ],
        "envVars": variables,
        "flags": flags,
        "useRescaleLicense": truth(tile.get("useRescaleLicense")),
        "onDemandLicenseSeller": seller,
        "userDefinedLicenseSettings": features,
        "useMpi": truth(tile.get("useMpi")),
        "preProcessScript": None, "preProcessScriptCommand": "", "templateTasks": [],
        "postProcessScript": None, "postProcessScriptCommand": "",
    }, errors


def check_hardware(posted: Any, any_settings: bool) -> tuple[dict, Any]:
    """Return the hardware as it is echoed, and what is wrong with it."""
    if not isinstance(posted, dict):
        return {}, REQUIRED
    errors = {}
    core_type = posted.get("coreType")
    active = {code: (sizes, flags) for code, _, sizes, flags in CORE_TYPES if flags.get("isActive", True)}
    sizes, flags = active.get(str(core_type), ([], {}))
    if not isinstance(core_type, str):
        errors["coreType"] = REQUIRED if core_type is None else ["Not a valid string."]
    elif not sizes and not any_settings:
        errors["coreType"] = [f"There is no core type {core_type!r}."]
    cores = number(posted.get("coresPerSlot")) or 0
    if cores < 1:
        errors["coresPerSlot"] = NO_NUMBER if "coresPerSlot" in posted else REQUIRED
    elif sizes and cores not in sizes and cores % sizes[-1] and not any_settings:
        fine = f"{', '.join(map(str, sizes))} cores or multiples of {sizes[-1]}"
        errors["coresPerSlot"] = [f"{core_type} comes with {fine}, not with {cores}."]
    slots = number(posted.get("slots", 1)) or 0
    if slots < 1:
        errors["slots"] = NO_NUMBER
    hours = posted.get("walltime")
    walltime = None if hours in (None, "") else number(hours) or 0
    if walltime is None and flags.get("walltimeRequired"):
        errors["walltime"] = REQUIRED
    elif walltime is not None and not 1 <= walltime <= (math.inf if any_settings else MAX_JOB_HOURS):
        errors["walltime"] = [f"A whole number of hours, {MAX_JOB_HOURS} at most."]
    nodes = math.ceil(cores / sizes[-1]) if sizes else 1
    summary = {"numberOfNodes": nodes, "memoryPerNode": 65536, "storagePerNode": 500}
    echo = {"coreType": core_type, "coresPerSlot": cores, "slots": slots, "walltime": walltime, "coreSummary": summary}
    return echo, errors


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def number(value: Any) -> int | None:
    """A number, also one written as a string (§0)."""
    try:
        return None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        return None


def truth(value: Any) -> bool:
    return str(value).lower() in ("true", "1")


# Running a job (§7, §13)


class Run(threading.Thread):
    """What happens to a job once it has been submitted."""

    def __init__(self, sim: Simulator, job: Job) -> None:
        super().__init__(name=f"job-{job.id}", daemon=True)
        self.sim, self.job = sim, job
        self.stopped = threading.Event()
        self.placed: dict[Path, tuple] = {}  # the input files in the work folder with their sizes and times
        self.missing: str | None = None  # the program that the shell did not find
        self.outcome = "closed"  # how it went, once it has ended

    def run(self) -> None:
        sim, job = self.sim, self.job
        try:
            outcome = self.live()
            while job._again and outcome != "closed":
                job._again -= 1
                outcome = self.live()
            if outcome == "closed":
                return
            if outcome == "walltime" or (outcome == "failed" and sim.stopping_entry):
                sim.add_status(job, "Stopping", "A run failed" if outcome == "failed" else sim.walltime_reason)
            if job.date_started and (outcome != "walltime" or sim.walltime_syncs):
                self.sync()
        except (OSError, ValueError) as error:  # a full disk must not leave the client waiting forever
            note(f"job {job.id}: {error}")
            outcome = "failed"
        self.outcome = outcome
        sim.closing.wait(sim.speed)
        reasons = {"success": sim.success_reason, "failed": sim.failed_reason, "stopped": "User Terminated",
                   "walltime": sim.walltime_reason, "never ran": sim.never_runs}
        sim.add_status(job, sim.last_status, reasons[outcome], last=True)
        for status in ("Stop Requested", "Stopping"):
            sim.add_cluster_status(job, status)
        if not sim.closing.wait(sim.speed):
            sim.add_cluster_status(job, "Stopped")

    def live(self) -> str:
        """Go through the timeline and execute; return success, failed, stopped, walltime, never ran or closed."""
        sim, job = self.sim, self.job
        *before, executing = sim.timeline
        for status in before:
            if status != "Pending":  # that one came with the submit
                sim.add_status(job, status)
            if status == "Queued" and sim.never_runs is not None:
                return "never ran"
            if status == "Started":
                for cluster_status in ("Starting", "Started"):
                    sim.add_cluster_status(job, cluster_status)
            if self.stopped.wait(sim.speed):
                return self.ended_by()
        folder = job.work / "shared" if sim.shared_work else job.work
        folder.mkdir(parents=True, exist_ok=True)
        # Held open throughout: a command that deletes the log has deleted it for good.
        with (job.work / LOG).open("a+b", buffering=0) as self.log:
            with contextlib.suppress(OSError):  # a second name, to be read when the job has deleted the first
                os.link(job.work / LOG, job.folder / LOG)
            refusal = self.place_inputs(folder)
            job.date_started, job.date_completed = sim.now(), None
            sim.add_status(job, executing)
            if refusal:
                self.say(refusal)
            outcome = "failed" if refusal else self.commands(folder)
        job.date_completed = sim.now()
        return outcome

    def ended_by(self) -> str:
        if self.sim.closing.is_set():
            return "closed"
        self.sim.add_status(self.job, "Stopping", "User Terminated")
        return "stopped"

    def place_inputs(self, folder: Path) -> str | None:
        """Put the input files into the work folder, archives unpacked; return what is wrong with one."""
        for entry in self.job.inputs:
            file = self.sim.files[entry["id"]]
            try:
                shutil.copyfile(file.path, folder / file.name)
                if entry["decompress"]:
                    unpack(folder / file.name, folder)
            except (OSError, EOFError, ValueError, RuntimeError, tarfile.TarError, zipfile.error, zlib.error) as error:
                return f"Input file {file.name}: {error}"
        for path in regular_files(folder):
            if path.name != LOG:
                path.chmod(0o755)  # rescale-cli runs ./run.sh as it was uploaded (§2)
                self.placed[path] = (path.stat().st_size, path.stat().st_mtime_ns)
        return None

    def commands(self, folder: Path) -> str:
        """Execute the commands of all tiles in turn, up to the first that does not succeed."""
        hours = self.job.data["jobanalyses"][0]["hardware"]["walltime"]
        deadline = time.monotonic() + hours * self.sim.walltime_hour if hours else math.inf
        for tile in self.job.data["jobanalyses"]:
            outcome = self.command(tile, folder, deadline)
            if outcome != "success":
                return outcome
        return "success"

    def command(self, tile: dict, folder: Path, deadline: float) -> str:
        sim, job = self.sim, self.job
        script, text = job.folder / "command.sh", tile["command"].replace("\r\n", "\n") + "\n"
        script.write_bytes(text.encode(errors="replace"))
        shell = [sim.shell] if isinstance(sim.shell, str) else list(sim.shell)
        if shell == ["bash"] and not shutil.which("bash"):
            shell = ["sh"]
        given = {"file": [str(script)], "-c": ["-c", text], "stdin": []}[sim.shell_style]
        self.say(f"Launching {tile['command'].strip()}, Working dir: {folder}.  Process output follows:")
        with (script if sim.shell_style == "stdin" else Path(os.devnull)).open("rb") as stdin:
            process = subprocess.Popen(
                [*shell, *given], cwd=folder, env=environment(sim, job, tile), stdin=stdin, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
        reader = threading.Thread(target=self.copy_output, args=(process.stdout,), daemon=True)
        reader.start()
        outcome = None
        while process.poll() is None and not outcome:
            if self.stopped.is_set():
                outcome = self.ended_by()
            elif time.monotonic() > deadline:
                outcome = "walltime"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        if outcome:
            signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if outcome == "closed" else KILL_AFTER)
        reader.join(0.2)
        signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))  # and what it left in the background
        code = process.wait()
        reader.join(5)
        failing = not outcome and sim.fail and sim.fail in job.name
        if failing:
            self.say(f"*** ERROR: the analysis has been terminated (jobs named *{sim.fail}* are to fail here)")
            code = 1
        self.say(f"Exited with code {code if code >= 0 else 128 - code}\n")
        if failing:  # what job_setup's command leaves when the solver fails: the log, and a result of another name
            if not (job.work / LOG).exists():
                self.log.seek(0)
                (job.work / LOG).write_bytes(self.log.read())
            result = folder / "rescale.tar.gz"
            if result.exists() and not self.is_untouched(result):
                result.rename(result.with_name("rescale_failed.tar.gz"))
        if code == 127 and sim.on_missing:
            sim.on_missing(job, self.missing)
        return outcome or ("success" if code == 0 or sim.ignore_exit_codes else "failed")

    def copy_output(self, stream: BinaryIO) -> None:
        with contextlib.suppress(ValueError):  # the log is closed, but something still writes
            for line in stream:
                self.log.write(stamp() + line.rstrip(b"\r\n") + b"\n")
                match = re.search(rb"([^\s:]+): (?:command )?not found", line)
                self.missing = match[1].decode(errors="replace") if match else self.missing

    def say(self, text: str) -> None:
        for line in text.split("\n"):
            self.log.write(stamp() + line.encode(errors="replace") + b"\n")

    def is_untouched(self, path: Path) -> bool:
        """Whether this is an input file as it was put there."""
        return self.placed.get(path) == (path.stat().st_size, path.stat().st_mtime_ns)

    def sync(self) -> None:
        """Make output files of all that is in the work folder."""
        sim, job = self.sim, self.job
        for path in regular_files(job.work):
            info = path.stat()
            if sim.lists_inputs == "none" and self.is_untouched(path):
                continue
            sha512, md5 = hashlib.sha512(), hashlib.md5()
            with path.open("rb") as stream:
                for piece in iter(lambda: stream.read(PIECE), b""):
                    sha512.update(piece)
                    md5.update(piece)
            relative = path.relative_to(job.work).as_posix()
            with sim.lock:
                file = File(
                    sim.new_id(), path.name, relative, path, f"user/{USER}/output/job_{job.id}/run1/{relative}",
                    info.st_size, sha512.hexdigest(), md5.hexdigest(), sim.now(), 5, is_uploaded=not sim.upload_lag,
                )
                sim.files[file.id] = file
                job.files.append(file.id)


def stamp() -> bytes:
    return datetime.now(timezone.utc).strftime("[%Y-%m-%dT%H:%M:%SZ]: ").encode()


def environment(sim: Simulator, job: Job, tile: dict) -> dict[str, str]:
    """The variables of a job; of this computer's own only what programs need to run at all."""
    kept = ("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "COMSPEC", "PATHEXT")
    variables = {name: value for name, value in os.environ.items() if name in kept or name.startswith("LC_")}
    folders = (str(sim.stand_ins), variables.get("PATH", os.defpath), str(Path(sys.executable).parent))
    variables.update(PATH=os.pathsep.join(folders), HOME=str(job.folder))
    variables.update(tile["envVars"])
    cores, nodes = tile["hardware"]["coresPerSlot"], tile["hardware"]["coreSummary"]["numberOfNodes"]
    of_the_platform = {
        "JOB_ID": job.id, "API_BASE_URL": sim.url, "CLUSTER_ID": job.id, "CORE_TYPE": tile["hardware"]["coreType"],
        "WORK_PATH": job.work,
        "CORES_PER_SLOT": cores, "CORES_PER_NODE": cores // nodes, "NODES_PER_SLOT": nodes, "SLOTS_PER_NODE": 1,
        "GPUS_PER_SLOT": 0, "GPUS_PER_NODE": 0, "THREADS_PER_SLOT": cores, "THREADS_PER_NODE": cores // nodes,
        "PROVIDER": "simulator", "INTERCONNECT": "none", "PREFERRED_REMSH": "ssh", "IG_RESTART_COUNT": 0,
    }
    variables.update({f"RESCALE_{name}": str(value) for name, value in of_the_platform.items()})
    return {**variables, "HOSTLIST": " ".join(["localhost"] * nodes)}


def signal_group(process: subprocess.Popen, signum: int) -> None:
    """Signal the command and all that it has started; on Windows, end the command alone."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signum)
        else:
            process.kill()


def regular_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar.gz; symbolic links come out broken, which the guide warns of."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                put(None if info.is_dir() else bundle.open(info), inside(folder, info.filename))
    elif archive.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(archive, "r:gz") as bundle:
            for member in bundle:
                target = inside(folder, member.name)
                if member.issym():
                    put(io.BytesIO(), target)
                elif member.isdir() or member.isreg() or member.islnk():
                    put(None if member.isdir() else bundle.extractfile(member), target)


def put(source: BinaryIO | None, target: Path) -> None:
    """Make a file of this content, or a folder of None."""
    (target if source is None else target.parent).mkdir(parents=True, exist_ok=True)
    if source is not None:
        with source, target.open("wb") as out:
            shutil.copyfileobj(source, out, PIECE)


def inside(folder: Path, name: str) -> Path:
    path = (folder / name.replace("\\", "/")).resolve()
    if folder.resolve() not in (path, *path.parents):
        raise ValueError(f"{name} lies outside of the work folder")
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines, without their ends, of a file that may be large."""
    data = b""
    with path.open("rb") as stream:
        position = stream.seek(0, os.SEEK_END)
        while position and data.count(b"\n") <= count:
            step = min(position, 65536)
            position = stream.seek(position - step)
            data = stream.read(step) + data
    lines = data.decode(errors="replace").removesuffix("\n").split("\n") if data else []
    return lines[-count:] if count > 0 else []


# The server and its faults


class Handler(WSGIRequestHandler):
    """The requests of one connection, which stays open between them (werkzeug's own handler closes it after each)."""

    server: Server
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
        sim, environ = self.server.sim, self.make_environ()
        body = environ["wsgi.input"] = Body(sim, get_input_stream(environ))
        query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        record = Record(self.command, path, query, dict(self.headers.items()), time.time())
        self.server.records.append(record)
        fault = sim.next_fault(record)
        name = record.fault = fault.name if fault else None
        sim.closing.wait(sim.latency)
        if sim.on_request:
            sim.on_request(record, "before")

        if name == "refused":
            sim.refuse(fault.seconds)
        if name in ("refused", "reset_before"):
            self.reset()
        if name == "timeout_before":
            self.hold(fault.seconds)
        if name == "late":
            later = {**environ, "wsgi.input": io.BytesIO(body.read())}
            sim.after(fault.seconds, lambda: Response.from_app(self.server.app, later))
        answer = faulty_answer(fault) if name in NOT_ACTED else Response.from_app(self.server.app, environ)
        self.drain(body)
        if sim.on_request:
            sim.on_request(record, "after")

        if name == "reset_after":
            self.reset()
        if name == "timeout_after":
            self.hold(fault.seconds)
        if name in ("503_after", "html_after"):
            answer = faulty_answer(fault)
        if name == "corrupt":
            answer.response = (bytes(255 - byte for byte in piece[:9]) + piece[9:] for piece in answer.response)
        if name == "truncated" and not answer.content_length:
            answer = Response('{"det": ""}', mimetype="application/json")
        left = (answer.content_length or 0) // 2 if name in ("truncated", "reset_midway") else math.inf
        if name == "truncated":
            answer.content_length = left
        record.status = answer.status_code
        self.send(answer, left)
        if name == "reset_midway":
            time.sleep(0.05)  # a reset takes along what the other side has not received yet
            self.reset()

    def send(self, answer: Response, left: float) -> None:
        """Send the answer, of its body not more than the bytes that are left."""
        if "Content-Length" not in answer.headers and answer.status_code != 204:
            answer.content_length = len(answer.get_data())
        with contextlib.closing(answer):
            self.send_response(answer.status_code)
            for key, value in answer.headers:
                self.send_header(key, value)
            self.end_headers()
            for piece in answer.response if self.command != "HEAD" else ():
                self.wfile.write(piece[: int(min(left, len(piece)))])
                left -= len(piece)
                if left <= 0:
                    break

    def drain(self, body: BinaryIO) -> None:
        """Read what nobody has read of the request, since the next one begins behind it."""
        try:
            while body.read(PIECE):
                pass
        except (ClientDisconnected, OSError):
            self.close_connection = True

    def reset(self) -> None:
        """End the connection by RST, as a server does that has crashed."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        socket.close(self.connection.detach())  # the handler's own files would keep connection.close() from closing
        raise ConnectionResetError

    def hold(self, seconds: float) -> None:
        self.server.sim.closing.wait(seconds)
        raise ConnectionAbortedError  # the server closes the connection


class Body:
    """The body of a request, read no faster than `upload_rate`."""

    def __init__(self, sim: Simulator, stream: BinaryIO) -> None:
        self.sim, self.stream, self.count, self.began = sim, stream, 0, time.monotonic()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.count += len(data)
        if self.sim.upload_rate:
            due = self.began + self.count / self.sim.upload_rate
            self.sim.closing.wait(max(0.0, due - time.monotonic()))
        return data


class Server(ThreadedWSGIServer):
    sim: Simulator
    records: list[Record]


def faulty_answer(fault: Fault) -> Response:
    if fault.name == "throttled":
        text = json.dumps({"detail": "Request was throttled. Expected available in 1 second."})
        return Response(text, 429, {"Retry-After": fault.retry_after}, mimetype="application/json")
    if fault.name == "redirect":
        return Response("", 302, {"Location": fault.location})
    status = {"late": 504, "html": 200, "html_after": 200, "503_after": 503}.get(fault.name) or int(fault.name)
    title = "Sign in" if status == 200 else f"Error {status}"
    return Response(f"<html><body><h1>{title}</h1></body></html>\n", status, mimetype="text/html")


class HashingFile:
    """A file that is hashed while it is written, so that an upload is never read again."""

    def __init__(self, path: Path) -> None:
        self.path, self.stream = path, path.open("wb+")
        self.sha512, self.md5, self.size = hashlib.sha512(), hashlib.md5(), 0

    def write(self, data: bytes) -> int:
        self.sha512.update(data)
        self.md5.update(data)
        self.size += len(data)
        return self.stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class UploadRequest(Request):
    """Has an upload written where it stays: one of several GB neither fills the memory nor is copied."""

    def _get_file_stream(self, *_: Any, **__: Any) -> Any:
        part = HashingFile(current_app.config["FILES"] / f"part-{secrets.token_hex(8)}")
        g.setdefault("parts", []).append(part)
        return part


def forget_parts(_: BaseException | None = None) -> None:
    """Remove what is left of an upload that did not become a file."""
    for part in g.get("parts", []):
        part.stream.close()
        part.path.unlink(missing_ok=True)


class Simulator:
    """A Rescale of one's own on 127.0.0.1, with its jobs and files in `folder`."""

    ROUTES = (  # methods, path, name of the method below that answers
        ("GET", "/users/me/", "me"),
        ("GET", "/users/me/projects/", "projects"),
        ("GET", "/coretypes/", "core_types"),
        ("GET", "/analyses/", "analyses"),
        ("POST PUT", "/files/contents/", "upload"),
        ("GET", "/files/<id>/", "get_file"),
        ("DELETE", "/files/<id>/", "delete_file"),
        ("GET", "/files/<id>/contents/", "contents"),
        ("GET", "/jobs/", "list_jobs"),
        ("POST", "/jobs/", "create_job"),
        ("GET", "/jobs/<id>/", "get_job"),
        ("DELETE", "/jobs/<id>/", "delete_job"),
        ("POST", "/jobs/<id>/submit/", "submit"),
        ("POST", "/jobs/<id>/stop/", "stop"),
        ("POST", "/jobs/<id>/force_stop/", "stop"),
        ("GET", "/jobs/<id>/statuses/", "statuses"),
        ("GET", "/jobs/<id>/cluster_statuses/", "cluster_statuses"),
        ("GET", "/jobs/<id>/files/", "job_files"),
        ("GET", "/jobs/<id>/runs/", "runs"),
        ("GET", "/jobs/<id>/runs/1/tail/<path:path>", "tail"),
    )

    def __init__(self, folder: Path, port: int = 0, token: str | None = None, **quirks: Any) -> None:
        if not set(quirks) <= set(QUIRKS):
            raise TypeError(f"unknown quirks: {', '.join(sorted(set(quirks) - set(QUIRKS)))}")
        for name, value in {**QUIRKS, **quirks}.items():
            setattr(self, name, value)
        self.folder = Path(folder).resolve()
        self.stand_ins = self.folder / "stand-ins"  # in front of the jobs' PATH
        for path in (self.folder / "files", self.folder / "jobs", self.stand_ins):
            path.mkdir(parents=True, exist_ok=True)
        self.requests: list[Record] = []
        self.storage_requests: list[Record] = []  # what reached the object storage of contents_redirect
        self.faults: list[Fault] = []
        self.starts: collections.Counter[str] = collections.Counter()  # how often a submit started the job
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, File] = {}
        self.on_request: Callable[[Record, str], None] | None = None
        self.on_missing: Callable[[Job, str | None], None] | None = None  # told of a program that is not installed
        self.lock = threading.RLock()  # around whatever changes jobs, files and faults
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self._timers: list[threading.Timer] = []
        self._ids: set[str] = set()
        self._last_date = 0
        self._random = random.Random(self.seed)
        self.token = token
        self._load()
        self.token = self.token or secrets.token_hex(20)
        self._app = self._make_app()
        self._server: Server | None = self._listen(port, self._app, self.requests)
        self._storage = self._listen(0, self._storage_app, self.storage_requests)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def __setattr__(self, name: str, value: Any) -> None:
        # A misspelt quirk would let a test pass that tests nothing.
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
        """Kill what runs and stop answering."""
        self.closing.set()
        for timer in self._timers:
            timer.cancel()
        runs = [job._run for job in self.jobs.values() if job._run]
        for run in runs:
            run.stopped.set()
        for run in runs:
            run.join(10)
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

    def _make_app(self) -> Flask:
        def explain(error: HTTPException) -> tuple[dict, int | None]:
            texts = {404: "Not found.", 405: f'Method "{request.method}" not allowed.'}
            return {"detail": texts.get(error.code, error.description)}, error.code

        app = Flask("rescale_simulator")
        app.request_class = UploadRequest
        app.json.sort_keys = False
        app.config["FILES"] = self.folder / "files"
        app.before_request(self._check_request)
        app.teardown_request(forget_parts)
        app.register_error_handler(Refused, lambda error: (error.body, error.status))
        app.register_error_handler(HTTPException, explain)
        for methods, path, name in self.ROUTES:
            app.add_url_rule(API + path, f"{methods} {path}", getattr(self, f"_{name}"), methods=methods.split())
        return app

    def _check_request(self) -> Response | None:
        if not request.path.endswith("/") and "/tail/" not in request.path:
            if request.method not in ("GET", "HEAD"):
                raise Refused(404, "Not found.")  # redirected, it would come back as a GET (§0)
            return Response("", 301, {"Location": f"{request.path}/?{request.query_string.decode()}".rstrip("?")})
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Token":
            raise Refused(401, "Authentication credentials were not provided.")
        if token.strip() != self.token:
            raise Refused(401, "Invalid token.")
        return None

    def _listen(self, port: int, app: Any, records: list[Record]) -> Server:
        server = Server("127.0.0.1", port, app, Handler)
        server.sim, server.records = self, records
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def next_fault(self, record: Record) -> Fault | None:
        with self.lock:
            fault = next((fault for fault in self.faults if fault.strikes(record)), None)
            if not fault and self.flaky and self._random.random() < self.flaky:
                fault = Fault(self._random.choice(FLAKY))
            return fault

    def refuse(self, seconds: float) -> None:
        """Close the port for a while, so that the operating system refuses connections."""
        with self.lock:
            server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
            self.after(seconds, lambda: setattr(self, "_server", self._listen(self.port, self._app, self.requests)))

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    # What is remembered

    def save(self) -> None:
        """Write down what a simulator needs that is started in this folder later."""

        def plain(thing: Any) -> dict:
            kept = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
            paths = {name: os.path.relpath(path, self.folder) for name, path in kept.items() if isinstance(path, Path)}
            return {**kept, **paths}

        with self.lock:
            files, jobs = ([plain(thing) for thing in things.values()] for things in (self.files, self.jobs))
            new = self.folder / "state.json.new"
            new.write_text(json.dumps({"token": self.token, "starts": self.starts, "files": files, "jobs": jobs}))
            new.replace(self.folder / "state.json")

    def _load(self) -> None:
        try:
            state = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return
        self.token = self.token or state["token"]
        self.starts.update(state["starts"])
        for kept in state["files"]:
            self.files[kept["id"]] = File(**{**kept, "path": self.folder / kept["path"]})
        for kept in state["jobs"]:
            self.jobs[kept["id"]] = Job(**{**kept, "folder": self.folder / kept["folder"]})
        self._ids.update(id.lower() for id in (*self.files, *self.jobs))
        for job in self.jobs.values():
            if job.statuses and not job.ended:  # it was killed together with the simulator
                job.date_completed = self.now()
                if job.date_started:
                    with (job.work / LOG).open("ab") as log:
                        log.write(stamp() + b"Killed: the simulator was ended while this job ran\n")
                    Run(self, job).sync()
                self.add_status(job, "Stopping", "A run failed")
                self.add_status(job, self.last_status, self.failed_reason, last=True)
            if job.ended and (not job.cluster or job.cluster[-1]["status"] != "Stopped"):
                self.add_cluster_status(job, "Stopped")

    def now(self, ahead: float = 0.0) -> str:
        """The time as the API writes it, later with every call, and by a clock that is some seconds ahead."""
        with self.lock:
            self._last_date = max(time.time_ns() // 1000, self._last_date + 1)
            seconds, micros = divmod(self._last_date + int(ahead * 1e6), 1_000_000)
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"

    def new_id(self) -> str:
        with self.lock:
            while (new := "".join(random.choices(string.ascii_letters, k=6))).lower() in self._ids:
                pass
            self._ids.add(new.lower())  # not all disks tell capital letters from small ones
        return new

    def add_status(self, job: Job, status: str, reason: str | None = None, last: bool = False) -> None:
        with self.lock:
            job.statuses.append(self._entry(job, status, reason))
            job.ended = time.time() if last else None
            self.save()

    def add_cluster_status(self, job: Job, status: str) -> None:
        with self.lock:
            job.cluster.append(self._entry(job, status, None))
            self.save()

    def _entry(self, job: Job, status: str, reason: str | None) -> dict:
        date = self.now(self.clock_skew if status == "Executing" else 0.0)
        entry = {"status": status, "statusReason": reason, "statusDate": date}
        return {"id": secrets.token_hex(3), "jobId": job.id, **entry}

    # What the endpoints share

    def _page(self, items: list) -> dict:
        """Return one page of these items as all lists of the API come (§0)."""
        page, size = number(request.args.get("page", 1)), number(request.args.get("page_size", self.page_size))
        size = min(size, self.page_size_cap) if size and size > 0 else self.page_size
        count = len(items)
        if self.empty_last_page and items:
            count = math.ceil(count / size) * size + 1
        pages = max(1, math.ceil(count / size))
        if page is None or not 1 <= page <= pages:
            raise Refused(404, "Invalid page.")

        def link(other: int) -> str | None:
            kept = {key: text for key, text in request.args.items() if key == "page_size" or not self.next_drops_query}
            path = request.path.rstrip("/") if self.next_without_slash else request.path
            query = urllib.parse.urlencode({**kept, "page": other})
            return f"{self.next_foreign or self.url}{path}?{query}" if 1 <= other <= pages else None

        results = items[(page - 1) * size : page * size]
        return {"count": count, "next": link(page + 1), "previous": link(page - 1), "results": results}

    def _json(self) -> Any:
        if not request.is_json:
            raise Refused(415, f'Unsupported media type "{request.mimetype}" in request.')
        try:
            return json.loads(request.get_data())
        except ValueError as error:
            raise Refused(400, f"JSON parse error - {error}") from error

    def _file_object(self, file: File) -> dict:
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
            "downloadUrl": f"{self.url}{API}/files/{file.id}/contents/",
            "md5": file.md5 if self.checksums in ("md5", "both") else None,
            "fileChecksums": sums if self.checksums in ("sha512", "both") else [],
            "storage": {"id": "sToRg", "storageType": "S3Storage"},
            "encodedEncryptionKey": "c2VjcmV0IG9mIHRoZSBzaW11bGF0b3I=",
            "viewInBrowser": False, "owner": OWNER, "sharedWith": [], "userTags": [],
        }

    def _job_object(self, job: Job) -> dict:
        """A job as the API shows it: without its status (§5)."""
        tiles = []
        for tile in job.data["jobanalyses"]:
            files = [{**self._file_object(self.files[entry["id"]]), **entry} for entry in tile["inputFiles"]]
            tiles.append({**tile, "inputFiles": files})
        return {
            "id": job.id, **job.data, "jobanalyses": tiles, "owner": OWNER, "dateInserted": job.date,
            "expectedRuns": None, "archiveFilters": [], "resourceFilters": [], "caseFile": None, "paramFile": None,
            "jobvariables": [], "includeNominalRun": False, "isTemplateDryRun": False, "monteCarloIterations": None,
            "optimizer": None, "remoteVizConfig": None, "sshPort": 22, "cidrRule": None, "publicKey": None,
        }

    # Account and catalogue (§1, §11)

    def _me(self) -> Any:
        workspace = {"id": "w1", "name": "Main"}
        return {"email": OWNER, "fullName": "Re Hearsal", "company": {"code": "simulator"}, "workspace": workspace,
                "maxJobHours": MAX_JOB_HOURS}

    def _projects(self) -> Any:
        return self._page([
            {"id": id, "name": name, "isDefault": id == next(iter(PROJECTS)), "remainingAmounts": []}
            for id, name in PROJECTS.items()
        ])

    def _core_types(self) -> Any:
        items = [
            {"code": code, "name": code.title(), "price": price, "lowPriorityPrice": str(price / 2), "cores": sizes,
             "displayOrder": order, "description": "", "processorInfo": "this computer", "memory": 4000, "storage": 500,
             "gpuCounts": [0.0], "walltimeRequired": False, "isDeprecated": False, "isActive": True, "isPrimary": False,
             "hasSsd": True, "remoteVizAllowed": True, **flags}
            for order, (code, price, sizes, flags) in enumerate(CORE_TYPES)
        ]
        for item in items if not self.prices else ():
            del item["price"], item["lowPriorityPrice"]
        active = request.args.get("isActive")
        return self._page([item for item in items if active is None or item["isActive"] == truth(active)])

    def _analyses(self) -> Any:
        allowed = [code for code, _, _, flags in CORE_TYPES if flags.get("isActive", True)]
        return self._page([
            {"code": code, "name": title, "vendorName": vendor, "description": "", "industries": [], "thumbnail": "",
             "versions": [{"version": name, "versionCode": version, "allowedCoreTypes": allowed, "stdCommand": ""}
                          for name, version in versions],
             "hasRescaleLicense": False, "hasShortTermLicense": False, "licenseSettings": [], "supportDesks": []}
            for code, (title, vendor, versions) in ANALYSES.items()
        ])

    # Files (§2, §3)

    def _upload(self) -> Any:
        if "chunked" in request.headers.get("Transfer-Encoding", ""):
            raise Refused(411, "A Content-Length is required.")
        part = request.files.get("file")
        name = re.split(r"[/\\]", part.filename or "")[-1] if part else ""
        if name in ("", ".", ".."):
            raise Refused(400, {"file": ["No file was submitted."]})
        written = part.stream
        written.stream.close()
        with self.lock:
            id = self.new_id()
            path = written.path.rename(self.folder / "files" / id)
            self.files[id] = File(
                id, name, name, path, f"user/{USER}/{id}/{name}",
                written.size, written.sha512.hexdigest(), written.md5.hexdigest(), self.now(),
            )
            self.save()
        return self._file_object(self.files[id]), 201

    def _get_file(self, id: str) -> Any:
        return self._file_object(found(self.files.get(id)))

    def _delete_file(self, id: str) -> Any:
        with self.lock:
            self._forget(found(self.files.get(id)))
            self.save()
        return "", 204

    def _forget(self, file: File) -> None:
        file.is_deleted = True
        file.path.unlink(missing_ok=True)

    def _contents(self, id: str) -> Any:
        file = found(self.files.get(id))
        found(file.is_uploaded and not file.is_deleted)
        if self.contents_redirect:
            return Response("", 302, {"Location": f"http://127.0.0.1:{self._storage.port}/{id}?signature=abc"})
        return self._stream(file, "" if self.ignore_range else request.headers.get("Range", ""))

    def _storage_app(self, environ: dict, start_response: Any) -> Any:
        """The object storage: whoever has the link may read, and who sends an Authorization is turned away."""
        asked = Request(environ)
        file = self.files.get(asked.path.strip("/"))
        if file and "Authorization" not in asked.headers:
            answer = self._stream(file, asked.headers.get("Range", ""))
        else:
            answer = Response("<Error><Code>InvalidArgument</Code></Error>", 400, mimetype="application/xml")
        return answer(environ, start_response)

    def _stream(self, file: File, wanted: str) -> Response:
        """The bytes of a file, or the range of them that is asked for."""
        first, last, headers = 0, file.size - 1, {}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        if match and any(match.groups()):
            start, end = match.groups()
            first = int(start) if start else max(0, file.size - int(end))
            last = min(int(end), last) if start and end else last
            if first > last:
                return Response("", 416, {"Content-Range": f"bytes */{file.size}"})
            first -= self.wrong_range and first > 0
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"

        def pieces() -> Iterator[bytes]:
            left = last - first + 1
            size = max(1, min(PIECE, int(self.rate / 20))) if self.rate else PIECE
            with file.path.open("rb") as stream:
                stream.seek(first)
                while left > 0:
                    piece = stream.read(min(size, left))
                    if not piece:
                        raise ConnectionAbortedError  # the file has changed: better no end than a wrong one
                    if self.rate:
                        self.closing.wait(len(piece) / self.rate)
                    left -= len(piece)
                    yield piece

        answer = Response(pieces(), 206 if headers else 200, headers, "application/octet-stream")
        answer.content_length = last - first + 1
        return answer

    # Jobs (§4 to §7, §9, §10)

    def _list_jobs(self) -> Any:
        items = []
        for job in reversed(list(self.jobs.values())):
            last = job.statuses[-1] if job.statuses else {"status": "", "statusReason": None}
            state = {"content": last["status"], "statusReason": last["statusReason"], "useLabel": True}
            if request.args.get("state") in (None, "completed" if job.ended else "not_completed"):
                items.append({
                    "id": job.id, "name": job.name, "owner": OWNER, "dateInserted": job.date, "jobStatus": state,
                    "analysisNames": [tile["analysis"]["name"] for tile in job.data["jobanalyses"]],
                    "clusterStatusDisplay": {"content": job.cluster[-1]["status"] if job.cluster else ""},
                    "sharedWith": [], "isVisible": True,
                })
        return self._page(items)

    def _create_job(self) -> Any:
        body = self._json()
        data = check_job(body, self)
        with self.lock:
            id = self.new_id()
            folder = self.folder / "jobs" / (re.sub(r"[^\w.@-]+", "_", data["name"])[:60] + "-" + id)
            folder.mkdir()
            self.jobs[id] = Job(id, data["name"], folder, body, data, self.now())
            self.save()
        return self._job_object(self.jobs[id]), 201

    def _get_job(self, id: str) -> Any:
        return self._job_object(found(self.jobs.get(id)))

    def _delete_job(self, id: str) -> Any:
        job = found(self.jobs.get(id))
        with self.lock:
            if job.statuses and (not job.cluster or job.cluster[-1]["status"] != "Stopped"):
                raise Refused(400, "The cluster of this job has not stopped yet.")
            del self.jobs[id]
            for file_id in job.files:
                self._forget(self.files[file_id])
            shutil.rmtree(job.folder, ignore_errors=True)
            self.save()
        return "", 204

    def _submit(self, id: str) -> Any:
        job = found(self.jobs.get(id))
        with self.lock:
            again = self.resubmit_completed if job.ended else self.resubmit
            if job.statuses and again == "400":
                raise Refused(400, {"non_field_errors": ["This job has been submitted already."]})
            if any(self.files[entry["id"]].is_deleted for entry in job.inputs):
                raise Refused(400, {"inputFiles": ["An input file has been deleted."]})
            if job.statuses and again == "again":
                job._again += 1
                self.starts[id] += 1
            elif not job.statuses and not self.silent_submit:
                self.starts[id] += 1
                self.add_status(job, "Pending")
                job._run = Run(self, job)
                job._run.start()
        return ""

    def _stop(self, id: str) -> Any:
        job = found(self.jobs.get(id))
        if not job._run or job.ended:
            raise Refused(400, "This job is not running.")
        job._run.stopped.set()
        return "", 202

    def _statuses(self, id: str) -> Any:
        with self.lock:
            entries = list(found(self.jobs.get(id)).statuses)
        zone = "Z" if self.date_style == "Z" else "+00:00"
        for number, entry in enumerate(entries):
            date = entry["statusDate"]
            if self.date_style == "none" or (self.date_style == "partly" and number % 2):
                date = None
            elif isinstance(date, str):  # a test may have put something else there
                date = date.replace("Z", zone)
            entries[number] = {**entry, "statusDate": date}
        return self._page(entries[:: -1 if self.newest_first else 1])

    def _cluster_statuses(self, id: str) -> Any:
        with self.lock:
            entries = found(found(self.jobs.get(id)).cluster)
            return self._page(entries[:: -1 if self.newest_first else 1])

    def _job_files(self, id: str) -> Any:
        """The outputs, of which there are none before the end (§9), and with a quirk the inputs before them."""
        job = found(self.jobs.get(id))
        with self.lock:
            files = [self.files[file_id] for file_id in job.files] if job.ended else []
            if files and request.args.get("page", "1") == "1":
                job._listings += 1
            for file in files:
                file.is_uploaded = file.is_uploaded or job._listings > self.upload_lag
            if job._listings <= self.listing_lag:
                files = files[: len(files) * job._listings // (self.listing_lag + 1)]
            outputs = [self._file_object(file) for file in files]
            if 0 < job._listings <= self.size_lag:
                outputs = [{**file, "decryptedSize": None} for file in outputs]
            given = [self._file_object(self.files[entry["id"]]) for entry in job.inputs]
            listed = given + outputs if self.lists_inputs == "all" else outputs
            return self._page([file for file in listed if request.args.get("search", "") in file["relativePath"]])

    # The run of a job (§7, §8)

    def _runs(self, id: str) -> Any:
        job = found(self.jobs.get(id))
        size = sum(self.files[id].size for id in job.files) if job.ended else None
        run = {"id": "1", "type": 3, "displayOrder": 1, "isOptimal": False, "parent": None, "variables": [],
               "dateStarted": job.date_started, "dateCompleted": job.date_completed,
               "outputFileCount": len(job.files), "outputFileSize": size}
        return self._page([run] if job.date_started else [])

    def _tail(self, id: str, path: str) -> Any:
        job, path = found(self.jobs.get(id)), path.rstrip("/")
        if not job.is_running and self.tail_off_run != "lines":
            found(self.tail_off_run != "404")
            if self.tail_off_run == "400":
                raise Refused(400, "No run is active.")
            return {"fileType": "", "lines": []} if self.tail_off_run == "empty" else "<html>No run is active.</html>"
        try:
            target = inside(job.work, path)
            if "lines" not in request.args:
                return Response(target.read_bytes(), mimetype="application/octet-stream")
            return {"fileType": f"{path}: ASCII text", "lines": last_lines(target, int(request.args["lines"]))}
        except (OSError, ValueError):
            raise Refused(404, "Not found.") from None


# The command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options] [SCRIPT [ARGS...]]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Rehearse a script that uses Rescale: it talks to a Rescale on this computer, where its jobs\n"
        "really run, free of charge. Without a script: serve until Ctrl-C.",
        epilog="examples:\n"
        "  %(prog)s main.py                                     the whole chain of main.py\n"
        "  %(prog)s --stand-in abaqus=./fake_abaqus.sh main.py  with a script in place of a solver\n"
        "  %(prog)s --fail rod2 main.py                         what if the second solver fails?\n"
        "  %(prog)s --flaky 5%% main.py                          what if the network is bad?\n"
        "  %(prog)s --folder run1 main.py                       keep jobs and files in ./run1, so that\n"
        "  %(prog)s --folder run1 main.py --resume              can go on with them",
    )
    option = parser.add_argument
    option("--speed", type=float, default=1.0, metavar="S", help="factor of the waits between statuses, 0: none")
    option("--folder", type=Path, metavar="DIR", help="where jobs and files are kept, and found again")
    option("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any that is free)")
    option("--fail", metavar="NAME", help="jobs with NAME in their name end as if the solver had failed")
    option("--flaky", type=share, default=0.0, metavar="P%", help="share of the requests that go wrong")
    option("--seed", type=int, metavar="N", help="let them go wrong as the last time with this N")
    option("--stand-in", type=stand_in, action="append", default=[], metavar="NAME=FILE",
           help="what jobs run as the program NAME (repeatable)")
    option("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


def share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def stand_in(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    path = Path(file).resolve()
    if not re.fullmatch(r"[\w.+-]+", name) or not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE with a file that exists")
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{file} is not executable: chmod +x {file}")
    return name, path


def note(text: str) -> None:
    print(f"[simulator] {text}", file=sys.stderr, flush=True)


def command_line(options: argparse.Namespace, folder: Path, *more: str) -> str:
    """The command up to the script, to be typed again: with the folder, or the jobs would not be found."""
    # As it was typed; Python 3.9 cannot tell. Without --fail, for whoever goes on wants to succeed.
    words = [getattr(sys, "orig_argv", [Path(sys.executable).name])[0], sys.argv[0], "--folder", str(folder)]
    for name, default in (("speed", 1.0), ("port", 0), ("flaky", 0.0), ("seed", None)):
        value = getattr(options, name)
        if value != default:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    for name, path in options.stand_in:
        words += ["--stand-in", f"{name}={path}"]
    words += more
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def main() -> int:
    options = arguments()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rescale-rehearsal-"))
    for name in ("SIGTERM", "SIGHUP"):  # nothing that a job started may stay behind
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    quirks = {name: getattr(options, name) for name in ("speed", "fail", "flaky", "seed")}
    with Simulator(folder, options.port, any_settings=bool(options.script), **quirks) as sim:
        for old in sim.stand_ins.iterdir():
            old.unlink()
        for name, path in options.stand_in:
            (sim.stand_ins / name).symlink_to(path)
        try:
            status = rehearse(sim, options, folder) if options.script else serve(sim)
        except SystemExit as end:  # of a signal
            status = end.code
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not keep it from killing the jobs
    failed = any(job._run and job._run.outcome != "success" for job in sim.jobs.values())
    if options.folder or failed or (status and options.script):
        note(f"The folders of its jobs are in {sim.folder / 'jobs'}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return status


def serve(sim: Simulator) -> int:
    export = "set" if os.name == "nt" else "export"
    with contextlib.suppress(KeyboardInterrupt):
        print(f"{export} RESCALE_API_URL={sim.url}\n{export} RESCALE_API_KEY={sim.token}", flush=True)
        while True:
            time.sleep(0.2)
    return 0


def rehearse(sim: Simulator, options: argparse.Namespace, folder: Path) -> int:
    """Run the script against the simulator; return its exit status, or 2 if no job was the one that was to fail."""
    script = options.script

    def explain_missing(job: Job, program: str | None) -> None:
        name = program or "abaqus"
        stand_in = command_line(options, folder, "--stand-in", f"{name}=./fake_{name}.sh", *script)
        note(f"Job {job.id} failed with exit code 127: {program or 'a program'} is not installed on this computer.")
        note(f"To rehearse without it, put a script in its place: {stand_in}")

    sim.on_missing = explain_missing
    local = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    variables = {
        **os.environ, "NO_PROXY": local, "no_proxy": local, "RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token,
        "RESCALE_REHEARSAL": sim.url, "RESCALE_REHEARSAL_COMMAND": command_line(options, folder),
    }
    note(f"Rehearsal of {script[0]}, free of charge: Rescale is {sim.url}, and its jobs run on this computer.")
    began = time.time()
    process = subprocess.Popen([sys.executable, *script], env=variables)
    try:
        while process.poll() is None:
            # Ctrl-C has reached the script too, which may take its time. An endless wait would at times not be woken
            # by a signal, as another thread may have been the one to receive it.
            with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
                process.wait(0.2)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for job in sim.jobs.values():
            if job.statuses and not job.ended:
                note(f"Job {job.id} ends with this rehearsal; on the platform it would run on.")
    summarize(sim, began)
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    names = [job.name for job in sim.jobs.values() if job._run]
    if options.fail and not any(options.fail in name for name in names):
        note(f"--fail {options.fail}: no job of this rehearsal has that in its name: {', '.join(names) or 'none ran'}")
        return status or 2
    return status


def summarize(sim: Simulator, began: float) -> None:
    """Say what the results show, how long it all took, and what it would have used on the platform."""
    pictures = []
    for job_name in dict.fromkeys(job.name for job in sim.jobs.values()):  # a job that was repeated has the same
        archive = Path(job_name, "rescale.tar.gz")
        with contextlib.suppress(OSError, EOFError, tarfile.TarError, zlib.error):
            if archive.stat().st_mtime >= began - 1:
                with tarfile.open(archive) as tar:
                    names = [name.removeprefix("./") for name in tar.getnames() if name.endswith((".svg", ".png"))]
                pictures += [f"{name} in {archive}" for name in sorted(names)]
    if pictures:
        note(f"Pictures in the results: {', '.join(pictures)}")
    took = f"This rehearsal took {time.time() - began:.0f} s."
    hardware = [job.data["jobanalyses"][0]["hardware"] for job in sim.jobs.values() if job._run]
    if not hardware:
        note(took)
    elif not all(one["walltime"] for one in hardware):
        note(f"{took} There is a job without walltime: on the platform nothing limits its core-hours.")
    else:
        hours = sum(one["coresPerSlot"] * one["slots"] * one["walltime"] for one in hardware)
        note(f"{took} On the platform its jobs use {hours} core-hours at most (cores x slots x walltime);")
        note("main.py --check tells the price of these as the platform lists it.")


if __name__ == "__main__":
    sys.exit(main())
