"""Automate Rescale jobs over its REST API: pack, upload, set up, submit, monitor, download, chain.

API: https://engineering.rescale.com/api-docs/. Not an official Rescale product; use at your own risk.

Three assumptions, those of Rescale Korea's guide: all input files lie directly in one working folder; they travel as
one archive, rescale.tar.gz; every job leaves its result as rescale.tar.gz, so that it is the next job's input.

One idea: proof, not inference. A job that job_setup made leaves a rescale.tar.gz only if its command has succeeded
and all that it left is in that archive; a file is whole when its checksum is the platform's; a link of a chain has
its job when its .job file exists; what has been uploaded is known by its content.

What stands where: 1 to 8 the guide's functions, in the order in which a job needs them, each followed by its helpers;
what we add to them; "A chain", for main.py; "Requests", which alone knows connections, retries and throttling;
files and text. To understand a job read `_job_command`, which makes the proof, and `_verdict`, which believes it.
Errors are exceptions: RescaleError, and JobFailed for a job that ended badly. Only `chain` ends the interpreter.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import configparser
import contextlib
import dataclasses
import datetime
import difflib
import email.utils
import functools
import getpass
import glob
import hashlib
import http.cookiejar
import itertools
import json
import logging.handlers
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, NoReturn, TypeVar, Union
from urllib.parse import quote, urlsplit

import requests
from requests_toolbelt.multipart.encoder import MultipartEncoder  # type: ignore[import-untyped]

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HTTPError = requests.packages.urllib3.exceptions.HTTPError  # type: ignore[attr-defined]  # of requests' own urllib3

__version__ = "2026.12"

ARCHIVE = "rescale.tar.gz"
FAILED_ARCHIVE = "rescale_failed.tar.gz"  # what a job leaves whose command failed
LOG = "process_output.log"

STATUS_INTERVAL = 5  # seconds between two looks at a job's status, the guide's step
LOG_INTERVAL = 15  # seconds between two looks at the log of an executing job, the guide's step
LOG_LINES = 20  # lines of the log per look, the guide's number
FAILURE_LINES = 40  # last lines of the log in the text of JobFailed
LOG_TAIL = 1 << 16  # bytes read from the end of a finished log: it may be huge, its end tells the outcome

CONNECT_TIMEOUT = 30  # seconds; urllib3 also lets a send stall no longer than this
READ_TIMEOUT = 60  # seconds without a byte of the answer
UPLOAD_TIMEOUT = 600  # seconds until an upload is answered: the platform stores and sums up gigabytes first
PATIENCE = 600  # seconds of an outage after which a call gives up; job_monitor never does
FIRST_PATIENCE = 60  # seconds, for a chain's first request: its address may be misspelt
THROTTLE_PATIENCE = 3900  # seconds to wait when the platform asks for it: it counts requests per hour
OUTAGE_INTERVAL = 600  # seconds of an outage between two lines that say so
SUBMIT_PATIENCE = 60  # seconds until a submitted job must show a status
FILES_INTERVAL = 1  # seconds between the two looks at a job's file list that must agree
FILES_PATIENCE = 300  # seconds after which the file list of a job that has ended counts as it is, and ...
GLANCE = 10  # ... for who only glances: the table, with a ? where the platform does not answer, and the guard
AT_END_TIMEOUT = 300  # seconds for the user's command at the end of a chain
PROGRESS_DELAY = 2  # seconds before a transfer's progress is worth a line
PAGE_SIZE = 1000  # entries per page, the platform's largest

CONNECTIONS = 8  # at once
CHUNK = 1 << 18  # bytes read, deflated or sent at a time: they fit the processor's cache
VOLUME_FROM = 1 << 26  # bytes; larger archives go up in volumes ...
VOLUME, VOLUMES = 1 << 24, 128  # ... of so many bytes at least, so many at most: a kill costs those under way
RANGE = (1 << 22, 1 << 26)  # bytes of a part that is fetched, at least and at most ...
RANGES = 64  # ... and about how many of a file: the platform counts requests
# Of 250 MB of mesh deck and binary fields level 1 is ready soonest, but a pure mesh deck gets 20 % larger than with
# level 9, with level 4 only 6 %: and every archive is stored and moved again and again. (tests/benchmark.py)
LEVEL = 4
KEY_FILE = 1 << 20  # bytes of the largest file that may be a script or settings with a key in it

DEFAULT_WALLTIME = 24  # hours, where a job that is read had no limit
JOB_ID = r"[\w-]{1,39}"  # a short word; a key would be longer
WINDOWS = os.name == "nt"
REHEARSAL = os.environ.get("RESCALE_REHEARSAL_FOLDER", "")  # the one that this is part of; empty: none, this is paid

# Statuses after which nothing follows, in lower case; only "completed" is documented (rescale-api.md §7).
STOPPED = {"stopped", "force stopped", "terminated", "cancelled", "canceled"}
ENDED = {"completed", "failed", "error", "archived", *STOPPED}
SUCCESS = "completed successfully"  # the reason of a good end, in lower case

# What the end of a log means, and what to do; the first that fits is told, so a pattern must fit no harmless line.
FAILURES = (
    (r"\^M: bad interpreter|\\r['’:]|\r: (command )?not found|cannot execute: required file not found",
     "A script has Windows line ends: save it with Unix line ends (LF), or add `sed -i 's/\\r$//' SCRIPT` before it."),
    (r"error while loading shared libraries",
     "A program lacks a shared library: is code_name the tile that brings it, and was it built for this system?"),
    (r"licensed number of users already reached|all licen[sc]es.{0,40}in use|not enough (abaqus )?(tokens|licen[sc]es)",
     "All licences are in use: wait until others are done, or let the job wait for them with license_features."),
    (r"(flexnet|flexlm|lmgrd).{0,40}error|(cannot|could not|unable to|failed to).{0,40}licen[sc]e"
     r"|license server.{0,40}(is down|not respond)|licen[sc]e.{0,40}(denied|not available)",
     "The licence server refused or could not be reached: see license_info (port@host) and that it lets Rescale in."),
    (r"exceeded.{0,20}walltime|walltime.{0,30}(exceeded|reached|expired)|DUE TO TIME LIMIT",
     "It ran out of time: raise walltime, or continue from a restart file in another link."),
    (r"no space left on device|disk quota exceeded",
     "The disk was full: take a core type with more storage, more nodes, or write fewer results."),
    (r"out of memory|oom-?kill|cannot allocate memory|std::bad_alloc|(^|\]: )\S*memoryerror",
     "The memory was not enough: take more cores or a core type with more memory per core."),
    (r"detected lock file|\.lck\b.{0,60}(?<!not )exist|old job files exist",
     "Files of an earlier run are in the way: remove them in the command (`rm -f NAME.lck`); Abaqus: ask_delete=OFF."),
    (r"not enough slots available",
     "MPI was asked for more processes than there are cores: see core_per_slot and the number in the command."),
    (r": permission denied",
     "A file could not be used: make a script executable in the command (`chmod +x FILE`), or run `bash FILE`."),
    (r"^(?!.*\b(rm|ls): cannot ).*no such file or directory"
     r"|(cannot|could not) (open|find) (the )?(input )?file|filenotfounderror"
     r"|input file .{0,80}(not found|does not exist)",
     "A file was missing: input files must lie directly in input_path; what a link needs the one before must leave."),
)

Batches = Sequence[tuple[str, str]]  # batch name and command of each link of a chain
Catalogue = Mapping[str, Mapping[str, Any]]  # what the platform offers, by its code
StrPath = Union[str, "os.PathLike[str]"]
T = TypeVar("T")
R = TypeVar("R")


class _Access(NamedTuple):
    platform: str
    token: str
    patience: float = PATIENCE  # seconds of faults after which a call gives up; with less it only glances at a job
    stop: threading.Event = threading.Event()  # set when nobody waits for the answer any more


class RescaleError(Exception):
    """What failed, what the server said, what was kept and what to do next; never the token."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(_printable(text))
        self.status = status  # of the HTTP answer with which the platform refused the request


class JobFailed(RescaleError):
    """A job ended without success; `log_lines` holds the last lines of its process_output.log."""

    def __init__(self, text: str, job_id: str = "", reason: str = "", log_lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.job_id, self.reason = job_id, _printable(reason)
        self.log_lines = [_printable(line) for line in log_lines]


# 1. Token


def platform_my_token(
    rescale_platform: str | None = None, my_token: str | None = None, *, profile: str | None = None
) -> tuple[str, str]:
    """Find the platform's address and the API key.

    Each is the argument, else RESCALE_API_URL and RESCALE_API_KEY, else what section `profile` (`default`) of
    ~/.config/rescale/apiconfig says. A profile that is named goes before the environment.

    Returns (platform, token): ('https://kr.rescale.com', 'Token 0123…'). Prints the platform and the last 4 characters
    of the token. Raises RescaleError when one of them is missing or malformed.
    """
    found = {"url": os.environ.get("RESCALE_API_URL"), "key": os.environ.get("RESCALE_API_KEY")}
    complete = (rescale_platform or found["url"]) and (my_token or found["key"])
    if (profile or not complete) and not os.environ.get("RESCALE_REHEARSAL"):
        path, sections = _apiconfig()
        name = profile or "default"
        if name not in sections and (profile or sections):
            raise RescaleError(f"{path} has no section [{name}], only: {', '.join(sections) or 'none'}")
        for what, value in sections.get(name, {}).items():
            found[what] = (profile and value) or found[what] or value
    platform, token = _platform(rescale_platform or found["url"]), _authorization(my_token or found["key"])
    _say(f"rescale_platform = {platform}")
    key = token.split()[-1]
    _say(f"my_token = Token ...{key[-4:] if len(key) >= 12 else ''}")
    return platform, token


def _apiconfig() -> tuple[Path, dict[str, dict[str, str]]]:
    """The path of the file that Rescale's own CLI writes, and address and key by section; `%` is literal."""
    path = Path(os.path.expanduser("~/.config/rescale/apiconfig"))  # noqa: PTH111  # which needs no home
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return path, {}
    except (OSError, ValueError, configparser.Error) as error:
        # The parser's own words quote the file's lines, and with them the key.
        raise RescaleError(f"{path} cannot be read as an INI file, see the README: {type(error).__name__}") from None
    sections = {}
    for name in parser.sections():
        values = {key: re.sub(r"""^(["'])(.*)\1$""", r"\2", text.strip()) for key, text in parser.items(name)}
        url = values.get("apibaseurl") or values.get("apiurl") or values.get("platform_url") or ""  # and older names
        sections[name] = {"url": url, "key": values.get("apikey") or values.get("api_key") or ""}
    return path, sections


# 2. Archive


def create_tar_gz(input_path: StrPath | None = None, output_filename: str = ARCHIVE) -> Path:
    """Pack all regular files that lie directly in `input_path` (default: the current folder) into one archive.

    Folders are left out and named. A symbolic link is packed as the file it points to, for links may not survive the
    platform's unpacking. Never packed: the archive itself, the running script, this library and what it keeps, and
    any file that holds an API key. The same files give the same archive, byte by byte.

    Returns the path of the archive, `output_filename` under the current folder. Prints
    `Successfully created rescale.tar.gz in <folder>`. Raises RescaleError for an unknown or empty folder and for a
    file that cannot be read whole; an older archive of that name is then left as it was.
    """
    output = Path(output_filename).absolute()
    files, folders, left_out = _input_files_of(input_path, output.name)
    for what, names in (("folders left out", folders), ("not packed", left_out)):
        if names:
            _say(f"- {what}: {', '.join(names)}")
    _pack(files, output)
    _say(f"Successfully created {output.name} in {output.parent}")
    return output


def _input_files_of(input_path: StrPath | None, archive: str = ARCHIVE) -> tuple[list[Path], list[str], list[str]]:
    """The files of a folder that are to be packed, sorted; its folders; what else is left out, with the reason."""
    folder = Path(input_path or ".")
    if not folder.is_dir():
        raise RescaleError(f"input_path {str(folder)!r} is not a folder; give the folder that holds the input files")
    driver = getattr(sys.modules.get("__main__"), "__file__", None)
    scripts = [Path(name) for name in (driver, __file__) if name and Path(name).exists()]
    known = {os.environ.get("RESCALE_API_KEY", ""), *_secrets}
    with contextlib.suppress(RescaleError):
        known |= {section["key"] for section in _apiconfig()[1].values()}
    codes = ("utf-8", "utf-16-le", "utf-16-be")  # plain, or as PowerShell writes
    keys = [key.split()[-1].encode(code) for key in known if len(key.strip()) >= 8 for code in codes]
    files, folders, left_out = list[Path](), list[str](), list[str]()
    with _file_errors(f"input_path {folder} cannot be read"):
        for path in sorted(folder.iterdir()):
            of_a_job = [end for end in JOB_FILES if path.suffix in JOB_FILES and path.with_suffix(end).exists()]
            if path.is_dir():
                folders.append(f"{path.name}/")
            elif path.name in (ARCHIVE, FAILED_ARCHIVE, archive):
                left_out.append(f"{path.name} (an old archive)")
            elif any(path.samefile(script) for script in scripts):
                left_out.append(f"{path.name} (a script, may hold the token)")
            elif not path.is_file():
                left_out.append(f"{path.name} (not a regular file)")
            elif _holds_key(path, keys):
                left_out.append(f"{path.name} (holds an API key)")
            elif len(of_a_job) < 2 and not BOOKKEEPING.fullmatch(path.name):
                files.append(path)
    if not files:
        raise RescaleError(f"input_path {folder.absolute()} holds no files to pack, only: {folders + left_out}")
    return files, folders, left_out


# What this library writes beside the input files; of a job of any name at least two JOB_FILES: one may be the user's.
JOB_FILES = (".job", ".desktop", ".url")
BOOKKEEPING = re.compile(r".+@.+@\d{8}-\d{6}\.(job|log|desktop|url|rescale-001)|\..+\.(part|uploaded|job|chain)")
KEY = re.compile(rb"(token|apikey|RESCALE_API_KEY)[=:'\"\s]{1,12}(token\s+)?[0-9a-f]{40}(?![0-9a-f])", re.IGNORECASE)


def _holds_key(path: Path, keys: list[bytes]) -> bool:
    """Whether a file holds a known key, or is a small one with what scripts and apiconfig write of a key."""
    with _file_errors(f"{path} cannot be read"), path.open("rb") as file:
        data = file.read(KEY_FILE + 1)
        if len(data) <= KEY_FILE and KEY.search(data.replace(b"\0", b"")):
            return True
        while data and not any(key in data for key in keys):
            block = file.read(4 * CHUNK)
            data = data[-max(map(len, keys)):] + block if block and keys else b""  # one may lie across
    return bool(data)


def _pack(files: Sequence[Path], output: Path) -> None:
    """Write an archive of these files, which gets its name when it is whole."""
    with _file_errors(f"{output.name} was not created"):
        total = sum(path.stat().st_size for path in files)
        with _whole_file(output) as file, _Progress(f"packing {output.name}", total) as progress:
            for data in _gzip(_tar(files, progress)):
                file.write(data)


def _tar(files: Iterable[Path], progress: _Progress) -> Iterator[bytes]:
    """A tar archive, without the user names of this machine, which mean nothing on the cluster."""
    padding = b""
    for path in files:
        with _file_errors(f"{path} cannot be packed; nothing was uploaded"), path.open("rb") as file:
            facts = os.fstat(file.fileno())
            member = tarfile.TarInfo(path.name)
            left = member.size = facts.st_size
            member.mode = facts.st_mode
            member.mtime = int(facts.st_mtime)  # fractions would cost an extra header per file
            yield padding + member.tobuf()
            while left and (block := file.read(min(CHUNK, left))):
                yield block
                progress.add(len(block))
                left -= len(block)
            after = os.fstat(file.fileno())
        if left or (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            raise RescaleError(f"{path} changed while it was packed; nothing was uploaded. No program may write to it")
        padding = bytes(-member.size % tarfile.BLOCKSIZE)
    yield padding + bytes(tarfile.RECORDSIZE)  # the end: two empty blocks at least


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One ordinary gzip member whose blocks are deflated on all cores, as pigz does.

    Each block starts with the end of the one before as its dictionary: hardly anything is lost against one piece.
    """
    threads = min(os.cpu_count() or 1, 32)  # blocks in work are memory
    pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
    checksum, size, held, window = 0, 0, bytearray(), b""
    yield b"\x1f\x8b\x08\0" + bytes(5) + b"\xff"  # gzip, deflate; no name, no time, any system
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for piece in itertools.chain(pieces, [b""]):
            checksum, size = zlib.crc32(piece, checksum), size + len(piece)
            held += piece
            if len(held) >= CHUNK or not piece:
                block, held = bytes(held), bytearray()
                pending.append(pool.submit(_deflated, block, window))
                window = block[-(1 << 15):]
            while len(pending) > (2 * threads if piece else 0):
                yield pending.popleft().result()
    yield b"\3\0" + checksum.to_bytes(4, "little") + (size % (1 << 32)).to_bytes(4, "little")  # b"\3\0": a last block


def _deflated(block: bytes, window: bytes) -> bytes:
    """The block as deflate data, or stored where two samples say that nothing would be gained."""
    samples = block[:4096], block[len(block) // 2:][:4096]
    level = 0 if all(len(zlib.compress(sample, 1)) > 0.98 * len(sample) for sample in samples) else LEVEL
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15, zdict=window)
    return deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)


# 3. Upload


def upload_local_files(
    rescale_platform: str, my_token: str, input_file: StrPath | Sequence[StrPath] = ARCHIVE, *, decompress: bool = True
) -> list[dict[str, Any]]:
    """Upload files to Rescale files: a path, a list of paths, or names separated by blanks.

    `decompress` says whether the platform unpacks them into the work folder of the job that takes them. A .tar.gz of
    more than 64 MB that is to be unpacked goes in volumes, several at once; job_setup's command joins them. What the
    platform holds already, by its SHA-512, is not sent again; `.NAME.uploaded` beside the file keeps the ids.

    Returns the list for job_setup: [{'id': 'dxGonb', 'decompress': True}], of volumes one entry each, with False.
    Prints `- rescale.tar.gz uploaded` per file, or that it is on the platform already, then
    `All files uploaded successfully!` and the list. Raises RescaleError, before anything is sent, when a file does
    not exist or has a name that cannot be sent, and when one changes while it is sent or arrives as something else.
    Source: POST /api/v2/files/contents/ and GET /api/v2/files/{id}/ (rescale-api.md §2, §3).
    """
    inputfiles_list = []
    for path in _local_files(input_file):
        with _file_errors(f"{path} could not be uploaded"):
            stored = _upload(_Access(rescale_platform, my_token), path, decompress and path.name.endswith(".tar.gz"))
        inputfiles_list += [{"id": file_id, "decompress": decompress and len(stored) == 1} for file_id, _ in stored]
        _say(f"- {path.name} {'uploaded' if any(sent for _, sent in stored) else 'is on the platform already'}")
    _say("All files uploaded successfully!")
    _say(f"inputfiles_list = {inputfiles_list}")
    return inputfiles_list


def _local_files(input_file: StrPath | Sequence[StrPath]) -> list[Path]:
    """The existing files that `input_file` names, which can all be sent."""
    names: list[Any] = list(input_file) if isinstance(input_file, (list, tuple)) else [input_file]
    if isinstance(input_file, str) and not os.path.isfile(input_file):  # noqa: PTH113  # which takes any length
        names = input_file.split()
    paths = [Path(name) for name in names if isinstance(name, (str, os.PathLike))]
    missing = [str(path) for path in paths if not os.path.isfile(path)]  # noqa: PTH113
    strange = [path.name for path in paths if re.search(r'[\x00-\x1f\x7f"\\\ud800-\udfff]', path.name)]
    if missing or not paths or len(paths) < len(names):
        raise RescaleError(f"input_file {', '.join(missing) or input_file!r}: no such file; run create_tar_gz first")
    if strange:
        raise RescaleError(f"input_file {_shown(strange[0])}: such a name would arrive as another one; rename the file")
    if len({path.name.casefold() for path in paths}) < len(paths):
        raise RescaleError(f"input_file {', '.join(map(str, paths))}: files of one name would overwrite each other")
    return paths


class _Volume(NamedTuple):  # a file, or a part of one, that is sent as a file of its own
    path: Path
    name: str
    start: int  # byte in the file
    size: int  # bytes


def _upload(access: _Access, path: Path, in_volumes: bool) -> list[tuple[str, bool]]:
    """Send what the platform lacks of a file; return the ids of its parts, and whether each was sent."""
    before = path.stat()
    volumes = [_Volume(path, path.name, 0, before.st_size)]
    if in_volumes and before.st_size > VOLUME_FROM:
        step = max(VOLUME, -(-before.st_size // VOLUMES))
        volumes = [
            _Volume(path, f"{path.name}.rescale-{number:03}", start, min(step, before.st_size - start))
            for number, start in enumerate(range(0, before.st_size, step), 1)
        ]
    journal = ""
    with contextlib.suppress(OSError):  # what cannot be read costs an upload, no more
        journal = path.with_name(f".{path.name}.uploaded").read_text("ascii", "replace")
    with _Progress(f"uploading {path.name}", before.st_size) as progress:
        store = functools.partial(_store, access._replace(stop=progress.stop), progress, journal)
        stored = list(_at_once(store, volumes))
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise RescaleError(f"{path} changed while it was sent; nothing was set up. See that no program writes to it")
    return stored


def _store(access: _Access, progress: _Progress, journal: str, volume: _Volume) -> tuple[str, bool]:
    """Upload a part unless the platform confirms to hold it; return its id, and whether it was sent."""
    checksum = _checksum(volume.path, "sha512", volume.start, volume.size) if journal else ""
    for file_id in re.findall(rf"^{checksum} ([\w-]{{1,64}})$", journal, re.MULTILINE):
        with contextlib.suppress(RescaleError):
            held = _file(_request(access, "GET", f"files/{file_id}/"))
            if (held.name, held.size, held.checksum) == (volume.name, volume.size, checksum) and held.usable:
                progress.add(volume.size)
                return held.id, False
    post, what = functools.partial(_post, access, progress, volume), f"POST files/contents/ of {volume.name}"
    file_id, checksum = _patiently(post, access, what)
    journal_file = volume.path.with_name(f".{volume.path.name}.uploaded")
    with contextlib.suppress(OSError), journal_file.open("a", encoding="ascii") as file:
        file.write(f"\n{checksum} {file_id}\n")  # the first line end closes what a kill has left open
    return file_id, True


def _post(access: _Access, progress: _Progress, volume: _Volume) -> tuple[str, str]:
    """Send a part once; return its id and SHA-512. What the platform says that it got must be what was sent."""
    body = _Body(volume, progress)
    stored = _file(_send(access, "POST", "files/contents/", data=body, headers=body.headers, timeout=UPLOAD_TIMEOUT))
    sent = body.digest.hexdigest()
    same = sent if stored.algorithm != "md5" else _checksum(volume.path, "md5", volume.start, volume.size)
    if stored.name not in (volume.name, stored.id):  # the last where the answer has none
        raise RescaleError(f"it arrived as {_shown(stored.name)}; rename it, then start again")
    if (stored.size != volume.size and stored.usable) or (stored.algorithm and stored.checksum != same):
        raise _Fault(f"it was stored with other bytes than it has, {stored.size} of {volume.size}")
    return stored.id, sent


class _Body:
    """The form with a part of a file, in pieces; the part is summed up on its way."""

    def __init__(self, volume: _Volume, progress: _Progress) -> None:
        form = MultipartEncoder({"file": (volume.name, b"", "application/octet-stream")})
        self.headers = {"Content-Type": form.content_type}
        self.head, blank, self.tail = form.to_string().partition(b"\r\n\r\n")
        self.head += blank
        self.len = len(self.head) + volume.size + len(self.tail)  # by this name requests asks for it
        self.volume, self.progress, self.left, self.digest = volume, progress, volume.size, hashlib.sha512()

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        with _file_errors(f"{self.volume.path} could not be uploaded"), self.volume.path.open("rb") as file:
            file.seek(self.volume.start)
            while self.left:
                block = file.read(min(self.left, 2 * CHUNK))
                if self.progress.stop.is_set():
                    raise RescaleError("stopped")
                if not block:
                    raise RescaleError(f"{file.name} has become shorter while it was sent; nothing was set up")
                self.digest.update(block)
                yield block
                self.left -= len(block)
                self.progress.add(len(block))
        yield self.tail


# 4. Set-up


def _taking_later_arguments(job_setup: Callable[..., str]) -> Callable[..., str]:
    """Let job_setup be called as in the guide's later versions, too: feature_name, feature_count behind command."""

    @functools.wraps(job_setup)
    def call(*arguments: Any, feature_name: Any = "", feature_count: Any = "", **keywords: Any) -> str:
        if len(arguments) == 15:
            (feature_name, feature_count), arguments = arguments[4:6], arguments[:4] + arguments[6:]
        if feature_name or feature_count:
            keywords.setdefault("license_features", {feature_name: feature_count})
        return job_setup(*arguments, **keywords)

    return call


@_taking_later_arguments
def job_setup(
    rescale_platform: str, my_token: str, job_name: str, command: str, code_name: str, version_code: str,
    license_info: Mapping[str, Any], coretype_code: str, core_per_slot: int, slot: int, walltime: int,
    projectid: str | None, inputfiles_list: Sequence[Mapping[str, Any]], *,
    license_features: Mapping[str, int] | None = None,
) -> str:
    """Create a job; nothing runs and nothing is charged until job_submit.

    `walltime` is in whole hours. `license_info` are the environment variables that name the licence server,
    {'LM_LICENSE_FILE': '27000@host'}; {} for none. `license_features` counts the licences that the job waits for,
    {'abaqus': 8}. The feature_name and feature_count that stand behind `command` in the guide's later versions are
    taken as `license_features`.

    Around `command`, which may `cd` and `exit` as it likes, the job removes the archive that it was given and has
    unpacked, and packs all that is left in its work folder: into rescale.tar.gz if the command succeeded, else into
    rescale_failed.tar.gz. Links are packed as what they point to, the log so far as `<job_name>.log`. Folders named
    tmp or __pycache__ directly in the work folder are neither packed nor kept. Nothing is deleted before the archive
    is complete and nothing writes any more. A command that makes a rescale.tar.gz of its own is left to it.

    Returns the job's id. Prints `Job_ID: LFZphb`. Raises RescaleError for values that cannot be right, before the
    platform is asked, and with the platform's own words for those that it refuses.
    Source: POST /api/v2/jobs/ (rescale-api.md §4).
    """
    _check_job_name(job_name)
    for name, value in (("command", command), ("code_name", code_name), ("coretype_code", coretype_code)):
        if not isinstance(value, str) or not value.strip():
            raise RescaleError(f"{name} = {value!r}: give a text; job_settings prints the one of a job that ran")
    _check_command(command)
    if not isinstance(inputfiles_list, (list, tuple)) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("id"), str) and entry["id"] for entry in inputfiles_list
    ):
        raise RescaleError(f"inputfiles_list = {inputfiles_list!r} is not what upload_local_files returns")
    inputs = [{"id": entry["id"], "decompress": bool(entry.get("decompress", True))} for entry in inputfiles_list]
    variables, features = _licences(license_info, license_features)
    tile = {
        "analysis": {"code": code_name, "version": str(version_code)},
        "command": _job_command(job_name, command, [bool(entry["decompress"]) for entry in inputs]),
        "flags": {"igCv": True},  # the packing would fail some tiles' check of the command
        "envVars": variables,
        "useRescaleLicense": False,
        "userDefinedLicenseSettings": features,
        "hardware": {
            "coreType": coretype_code,
            "coresPerSlot": _whole_number("core_per_slot", core_per_slot, "cores"),
            "slots": _whole_number("slot", slot, "slots (1 for all but DOE)"),
            "walltime": _whole_number("walltime", walltime, "hours"),
        },
        "inputFiles": inputs,
    }
    job = {"name": job_name, "projectId": projectid or None, "isLowPriority": False, "jobanalyses": [tile]}
    job_id = _identifier(_request(_Access(rescale_platform, my_token), "POST", "jobs/", json=job))
    _say(f"Job_ID: {job_id}")
    return job_id


# The job's command, for bash or dash with GNU tools; people read it on the job's page.
OURS = "set +eu # rescale_rest_api: "  # by this a job is known as one that job_setup made, also by an earlier version
BEGIN = f"""{OURS}{ARCHIVE} is there at the end only if the command has succeeded
rm -rf .rescale; mkdir .rescale; rescale_broken=
rescale_given=$(tail -c 8 {ARCHIVE} 2> /dev/null | cksum)
"""
UNPACKED = f"rm -f {ARCHIVE} # the one that the job was given: it is unpacked\n"
JOIN_VOLUMES = """for rescale_set in ./*.rescale-[0-9][0-9][0-9]; do
    [ -e "$rescale_set" ] || continue # joined already
    rescale_set=${rescale_set%-*}
    cat "$rescale_set"-[0-9][0-9][0-9] | tar -xzf - && rm -f "$rescale_set"-[0-9][0-9][0-9] && continue
    echo "rescale_rest_api: a volume of $rescale_set is missing or damaged; the command was not started" >&2
    rescale_broken=1
    break
done
"""
RUN = """[ -z "$rescale_broken" ] && cat > .rescale/command <<'@END@' && ( . ./.rescale/command ) < /dev/null
@COMMAND@
@END@
rescale_status=$?
"""
# What is deleted is listed first, without following links; what is packed then, following them. Whether something has
# changed meanwhile is told by the time of change, which only the system sets: a date may be of another clock.
SKIPPED = f"\\( -path ./.rescale -o -path ./{LOG} -o -type d \\( -path ./tmp -o -path ./__pycache__ \\) \\) -prune"
OUTSIDE = """! -exec sh -c 'case $(readlink -f "$1")/ in "$(pwd -P)"/*) ;; *) exit 1 ;; esac' - {} \\;"""
PACK = f"""rescale_writers() {{ # the files of this folder that a process has open for writing
    find /proc/[0-9]*/fd -lname "$(pwd -P)/*" ! -lname '*/{LOG}' ! -lname '* (deleted)' 2> /dev/null |
        while read -r rescale_fd; do
            grep -qs '^flags:.*[12]$' "${{rescale_fd%/fd/*}}/fdinfo/${{rescale_fd##*/}}" && readlink "$rescale_fd"
        done
}}
[ "$(tail -c 8 {ARCHIVE} 2> /dev/null | cksum)" != "$rescale_given" ] || rm -f {ARCHIVE} 2> /dev/null
rescale_name={ARCHIVE}
[ $rescale_status -eq 0 ] || rescale_name={FAILED_ARCHIVE}
rescale_busy=
if [ -f {ARCHIVE} ]; then
    echo 'rescale_rest_api: the command packed {ARCHIVE} itself; all files stay as it left them'
    [ $rescale_status -ne 0 ] || rescale_busy=$(rescale_writers)
    [ $rescale_status -ne 0 ] || {{ [ -z "$rescale_busy" ] && gzip -t < {ARCHIVE}; }} || rescale_status=1
    [ $rescale_status -eq 0 ] || mv -f {ARCHIVE} {FAILED_ARCHIVE}
else
    while [ -e "$rescale_log" ]; do rescale_log=${{rescale_log%.log}}.{LOG}; done
    cp {LOG} "$rescale_log" 2> /dev/null || cp ../{LOG} "$rescale_log" 2> /dev/null || rm -f "$rescale_log"
    mkdir -p .rescale && date > .rescale/now && sleep 1 # clocks of file systems tick in seconds
    find . -mindepth 1 {SKIPPED} -o ! -path ./{ARCHIVE} ! -path ./{FAILED_ARCHIVE} ! -type d -print0 > .rescale/remove
    LC_ALL=C find -L . -mindepth 1 {SKIPPED} -o \\
        \\( -type l -o -xtype l -type d {OUTSIDE} \\) -fprint .rescale/left_out -prune -o \\
        \\( -type f -o -type d \\) -print0 > .rescale/pack 2> .rescale/errors
    rescale_find=$?
    cat .rescale/errors >&2
    sed 's/$/: not packed, a link to nowhere or to a folder outside/' .rescale/left_out >&2
    rescale_zip=$(command -v pigz || echo gzip)
    [ $rescale_find -le 1 ] && ! grep -qv -e 'File system loop' -e 'Too many levels' .rescale/errors &&
        {{ tar --null --no-recursion -T .rescale/pack -ch --hard-dereference -f - && : > .rescale/packed; }} |
        $rescale_zip -1 > .rescale/archive && [ -e .rescale/packed ] && [ ! -d $rescale_name ] || rm -f .rescale/packed
    rescale_busy=$(find . -mindepth 1 {SKIPPED} -o ! -type d -cnewer .rescale/now -print; rescale_writers)
    if [ -e .rescale/packed ] && [ -z "$rescale_busy" ] && mv -f .rescale/archive $rescale_name; then
        xargs -0 rm -f < .rescale/remove
        find . -depth -mindepth 1 -type d ! -path ./.rescale -exec rmdir {{}} + 2> /dev/null
        rm -rf tmp __pycache__
        [ $rescale_status -ne 0 ] || rm -f {LOG} {FAILED_ARCHIVE}
        [ $rescale_status -ne 0 ] || [ "${{PWD##*/}}" != shared ] || rm -f ../{LOG}
    else
        echo 'rescale_rest_api: the results could not be packed; all files stay as they are' >&2
        [ $rescale_status -ne 0 ] || rescale_status=1
    fi
fi
[ -z "$rescale_busy" ] || echo "rescale_rest_api: still being written, so wait for it: $rescale_busy" >&2
rm -rf .rescale
(exit $rescale_status)
"""


def _job_command(job_name: str, command: str, unpacked: Sequence[bool]) -> str:
    """The user's command as he wrote it, and around it what takes the given archive away and packs the result.

    `unpacked`: of each input whether the platform unpacks it; where it does of none, the command is to do it.
    """
    command, end = command.replace("\r\n", "\n").rstrip("\n"), "RESCALE_COMMAND"
    while end in command.split("\n"):
        end += "_"
    return "".join([
        BEGIN, UNPACKED if any(unpacked) or not unpacked else "", JOIN_VOLUMES if not all(unpacked) else "",
        RUN.replace("@END@", end).replace("@COMMAND@", command), f"rescale_log={shlex.quote(f'./{job_name}.log')}\n",
        PACK,
    ])


# Procedures of the abaqus command that name a job without running it.
ABAQUS_AT_ONCE = ("terminate", "suspend", "resume", "fetch", "findkeyword", "python", "cae", "viewer", "script", "make")


def _check_command(command: str) -> None:
    """Refuse Abaqus in the background, as the platform's own check would, which job_setup switches off."""
    for line in re.split(r"(?:[;|\n]|(?<!>)&(?!>))+", re.sub(r"\\\r?\n", " ", command)):
        call = re.search(r"(?:^|[\s/(])(?:abaqus|abq)(?:[\d_.-][\w.-]*)?\s+(.*)", line.partition("#")[0].strip())
        words = re.sub(r"\s*=\s*", "=", re.sub(r"[()\"'`]", " ", call[1])).split() if call else []
        runs = any(re.match(r"-?jo?b?(=|$)", word, re.I) for word in words) and words[0] not in ABAQUS_AT_ONCE
        if runs and not any(len(word) > 2 and "interactive".startswith(word.casefold()) for word in words):
            raise RescaleError(f"command: {line.strip()!r} ends while Abaqus still runs; add the word interactive")


def _check_job_name(job_name: str) -> None:
    """Refuse a job name that cannot name the .job file and the result folder."""
    if not isinstance(job_name, str) or not job_name.strip() or _safe_name(job_name) != job_name:
        raise RescaleError(f"job_name = {_shown(job_name)} cannot name a file and a folder; use letters, digits, -_.@")


def _whole_number(name: str, value: Any, unit: str) -> int:
    """A positive whole number that may have been written as a text."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(value)
        if 1 <= number < 1e6 and number == int(number) and not isinstance(value, bool):
            return int(number)
    raise RescaleError(f"{name} = {_short(repr(value), 40)} is not a positive whole number of {unit}")


def _licences(license_info: Any, license_features: Any) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The environment variables that name the licence server, and the licences that the job waits for."""
    for name, value, example in (("license_info", license_info, "{'LM_LICENSE_FILE': '27000@host'}"),
                                 ("license_features", license_features or {}, "{'abaqus': 8}")):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
            raise RescaleError(f"{name} = {value!r}: write {example}, or {{}} for none")
    features = [
        {"name": name, "count": _whole_number(f"license_features[{name!r}]", count, "licences")}
        for name, count in (license_features or {}).items()
    ]
    return {name: str(value) for name, value in license_info.items()}, \
        {"featureSets": [{"name": "USER_SPECIFIED", "features": features}]} if features else None


# 5. Submit


def job_submit(rescale_platform: str, my_token: str, job_name: str, job_id: str) -> None:
    """Start a job, exactly once: one that has statuses already is left alone, so that this can be repeated.

    Prints `Job LFZphb : submitted`, or `submitted earlier`. Writes, under the current folder, `<job_name>.job` with
    the job's id before the request, and a link to the result page, `<job_name>.desktop` or on Windows
    `<job_name>.url`. The .job file is created, never overwritten, unless its job has ended or is unknown: two processes
    cannot both start a job of that name. Raises RescaleError when they try, when the platform refuses the job, or
    accepts it and shows no status. Source: POST /api/v2/jobs/{id}/submit/ (rescale-api.md §6).
    """
    access = _Access(rescale_platform, my_token)
    _check_job_name(job_name)
    _check_job_id(job_id)
    job_file = Path(f"{job_name}.job")
    with _file_errors(f"{job_file} cannot be written; job {job_id} was not submitted"):
        made = _claim(access, job_file, job_id)
    sent = [] if made else ["earlier"]  # submissions that may have gone out
    page = _result_page(rescale_platform, job_id)
    what = f"job {job_id} may have been started and be billed; it is safe to submit it again. {page}: POST submit"
    _patiently(functools.partial(_start, access, job_file, job_id, sent), access, what)
    _say(f"Job {job_id} : submitted{'' if 'now' in sent else ' earlier'}")
    head, end = (f"[Desktop Entry]\nType=Link\nName={job_name}", "desktop") if not WINDOWS else \
        ("[InternetShortcut]", "url")
    with contextlib.suppress(OSError, RescaleError), _whole_file(Path(f"{job_name}.{end}")) as file:  # the job runs
        file.write(f"{head}\nURL={page}\n".encode())


def _claim(access: _Access, job_file: Path, job_id: str) -> bool:
    """See to it that the .job file holds this job's id; tell whether it was made just now."""
    other = _read_job(job_file)
    if other == "":  # being written at this moment, or left by a kill between the name and the id
        time.sleep(1)
        other = _read_job(job_file)
    if other == job_id:
        return False
    history = _history(access, other) if other else None
    if history is not None and not _has(history, ENDED):
        raise RescaleError(f"{job_file}: job {other} has not {'ended' if history else 'started'}; use another job_name")
    if other is not None:
        _set_aside(job_file, other)
    _create(job_file, job_id)
    return True


def _create(job_file: Path, job_id: str) -> None:
    """Make a .job file, which must not be there: what two processes cannot both do."""
    try:
        with job_file.open("x", encoding="ascii") as file:
            file.write(f"{job_id}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise _in_use(job_file) from None


def _set_aside(job_file: Path, job_id: str) -> None:
    """Take a link's .job file away, under a hidden name, if it still is of this job."""
    aside = job_file.with_name(f".{job_file.stem}.{job_id or 'empty'}.{os.getpid()}.job")
    with contextlib.suppress(FileNotFoundError):
        job_file.rename(aside)
        found = _read_job(aside)
        if found == job_id:
            return
        _create(job_file, str(found))  # another process was faster, and this is its job's
        aside.unlink()
    raise _in_use(job_file)


def _read_job(job_file: Path) -> str | None:
    """The job's id in a .job file; empty where it is not written yet, None where there is no file."""
    with _file_errors(f"{job_file} cannot be read"):
        try:
            words = job_file.read_text("utf-8", "replace").split() or [""]
        except FileNotFoundError:
            return None
    if words[0] and not re.fullmatch(JOB_ID, words[0], re.ASCII):
        raise RescaleError(f"{job_file} holds {_shown(words[0])}, which is no job id")
    return words[0]


def _in_use(path: Path) -> RescaleError:
    return RescaleError(f"{path.name}: another process is at work on it, let it finish. Nothing was started")


def _start(access: _Access, job_file: Path, job_id: str, sent: list[str]) -> None:
    """Look at the statuses of a job, which alone decide; if there are none submit it, once, and look again.

    `sent`: the submissions that may have gone out; where there are any, a status may take a while to show.
    """
    patience = SUBMIT_PATIENCE if sent else 0
    if _shows_status(access, job_id, patience):
        return
    try:
        sent.append("now")
        _send(access, "POST", f"jobs/{job_id}/submit/", json={}, read=_accepted)
    except RescaleError:
        if _shows_status(access, job_id, patience):
            return
        if sent == ["now"]:  # refused by the platform itself, for good: the link has no job, and may get another
            job_file.unlink(missing_ok=True)
        raise
    if not _shows_status(access, job_id, SUBMIT_PATIENCE):
        raise RescaleError(f"job {job_id} was accepted, but has no status: {_result_page(access.platform, job_id)}")


def _shows_status(access: _Access, job_id: str, seconds: float) -> bool:
    """Whether the platform shows a status of a job within so many seconds, in which it answers: an outage is none."""
    while not _statuses(access, job_id):
        if seconds <= 0:
            return False
        time.sleep(1)
        seconds -= 1
    return True


# 6. Monitor


def job_monitor(rescale_platform: str, my_token: str, job_id: str) -> None:
    """Follow a job until it has ended, through outages of any length.

    Prints `Job LFZphb : Pending` and so on, once per change, and while the job executes the new lines of its
    process_output.log, `Waiting.....` until it can be read. Raises JobFailed unless the job succeeded, RescaleError
    when the platform refuses (401, 403, 404). Source: GET …/statuses/, …/runs/1/tail/ (rescale-api.md §7, §8).
    """
    access = _Access(rescale_platform, my_token, math.inf)
    _check_job_id(job_id)
    if not _shows_status(access, job_id, SUBMIT_PATIENCE):
        raise RescaleError(f"job {job_id} has no status: it was never submitted; see job_submit")
    shown, log, next_look = list[_Status](), list[str](), 0.0
    places = [LOG, f"shared/{LOG}"]  # the second where the tile works in work/shared
    while True:
        history = _statuses(access, job_id)
        for entry in history:
            if entry not in shown:
                if not shown or entry.status != shown[-1].status:
                    _say(f"Job {job_id} : {entry.status}")
                shown.append(entry)
        if _has(history, ENDED):
            break
        if _has(history, {"executing"}) and time.monotonic() >= next_look:
            log = _follow(access, job_id, places[0], log)
            if not log:
                places.reverse()
                if not next_look:
                    _say("Waiting.....")
            next_look = time.monotonic() + LOG_INTERVAL
        time.sleep(STATUS_INTERVAL)
    verdict = _verdict(access, job_id, history)
    if verdict.outcome != "succeeded":
        raise _job_failed(access, job_id, verdict)


class _Status(NamedTuple):
    status: str
    date: datetime.datetime | None
    reason: str
    plain: str  # the status in lower case


def _statuses(access: _Access, job_id: str) -> list[_Status]:
    """The job's status history, oldest first as far as that can be told; what is shown and explained depends on it."""
    history: list[_Status] = []
    for item in _pages(access, f"jobs/{job_id}/statuses/"):
        status, date, reason = (_short(_text(item, key)) for key in ("status", "statusDate", "statusReason"))
        if status:
            history.insert(0, _Status(status, _date(date), reason, status.replace("_", " ").casefold()))
    return sorted(history, key=lambda entry: entry.date or _now()) if all(entry.date for entry in history) else history


def _history(access: _Access, job_id: str) -> list[_Status] | None:
    """The statuses of a job, None where the platform does not know it."""
    try:
        return _statuses(access, job_id)
    except RescaleError as error:
        if error.status != 404:
            raise
        return None


def _has(history: list[_Status], statuses: set[str]) -> bool:
    """Whether a history holds one of these: whatever its order and dates, an ended status is never left again."""
    return any(entry.plain in statuses for entry in history)


def _date(text: str) -> datetime.datetime | None:
    """A date as the platform writes it, `…Z` or with an offset, with or without microseconds."""
    with contextlib.suppress(ValueError):
        date = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        return date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)
    return None


def _follow(access: _Access, job_id: str, place: str, shown: list[str]) -> list[str]:
    """Print the new lines of a live log, for any other answer nothing; return the last ones that have been shown."""
    tail = list[str]()
    with contextlib.suppress(RescaleError, AttributeError, KeyError, TypeError):
        once = access._replace(patience=0)
        reply = _request(once, "GET", f"jobs/{job_id}/runs/1/tail/{place}", params={"lines": LOG_LINES})
        tail = [line.rstrip("\r\n") for line in reply["lines"]]
    new = _new_lines(shown, tail)
    for line in _without_command(new):
        _say(line)
    return (shown + new)[-LOG_LINES:]


def _new_lines(shown: list[str], tail: list[str]) -> list[str]:
    """The lines of `tail` behind those already shown."""
    for overlap in range(min(len(shown), len(tail)), 0, -1):
        *whole, last = shown[-overlap:]
        if whole == tail[: overlap - 1]:
            if last == tail[overlap - 1]:
                return tail[overlap:]
            if last.strip() and tail[overlap - 1].startswith(last):  # it had been half written when it was shown
                return tail[overlap - 1:]
    return tail


def _without_command(lines: list[str]) -> list[str]:
    """Log lines without the platform's echo of the whole command, most of which is the packing."""
    ends = [number for number, line in enumerate(lines) if "(exit $rescale_status), Working dir: " in line]
    rest = lines[ends[-1] + 1:] if ends else lines
    return list(itertools.takewhile(lambda line: f"Launching {OURS}" not in line, rest))


class _Verdict(NamedTuple):
    outcome: str  # "succeeded", "failed", "stopped"; or "ended", where only a full look could tell
    reason: str
    exit_code: str  # of its command, " (exit code 1)", where the log tells one that is not 0
    log_lines: list[str]  # the last ones, where they were read
    files: list[_File]  # what it left


def _verdict(access: _Access, job_id: str, history: list[_Status]) -> _Verdict:
    """How a job that has ended did: the one verdict, which all ask for.

    A job that job_setup made has succeeded exactly if a rescale.tar.gz is all that it left. If there is more beside
    it, the command packed by itself, and may have been killed at it: then, as for jobs of the web page, the platform's
    word decides. All else that is known only explains.
    """
    tiles = _job(access, job_id)["jobanalyses"]
    ours = any(str(tile.get("command")).startswith(OURS) for tile in tiles)  # so that its archive is a proof
    given = [_file(item) for tile in tiles for item in tile.get("inputFiles") or [] if _text(item, "id")]
    ends = [entry for entry in history if entry.plain in ENDED]
    reasons = [entry.reason for some in (ends, history) for entry in some if entry.reason]
    # Where the platform says otherwise, half an archive may be listed before what shows that it is one.
    doubted = bool(reasons) and reasons[0].casefold() != SUCCESS
    wanted = {LOG} if not ours else {FAILED_ARCHIVE, LOG} if doubted else {ARCHIVE, FAILED_ARCHIVE}
    files = _outputs(access, job_id, given, wanted)
    archive, listed = _result(files), wanted & {file.name for file in files}
    proven = ours and archive is not None and len(files) == 1
    lines = [] if proven else _finished_log(access, files, needed=not ours or archive is not None)
    # Only the closing line is the platform's: a program may print the like before.
    closing = re.search(r"(?m)^(\[[^]]*\]: )?Exited with code (-?\d{1,9})(\s|\[[^]]*\]:)*\Z", "\n".join(lines))
    code = int(closing[2]) if closing else None
    word = reasons[0].casefold() == SUCCESS if reasons else code == 0
    said = "; ".join(dict.fromkeys(reasons[::-1])) or ", ".join(entry.status for entry in ends)
    stopped = re.search(r"\buser (terminat|stop)|(terminated|stopped) by|cancel", said, re.I) or _has(history, STOPPED)
    outcome = "stopped" if stopped else "failed"
    if proven or ((archive or not ours) and word and not code):
        outcome = "succeeded"
    elif access.patience < PATIENCE and not (stopped or listed) and (ours or not reasons):
        outcome = "ended"
    return _Verdict(outcome, said, f" (exit code {code})" if code else "", _without_command(lines), files)


def _finished_log(access: _Access, files: list[_File], needed: bool) -> list[str]:
    """The last lines of a finished job's log, from its output files; none where it left none, or need not be read."""
    log = next((file for file in files if file.relative in (LOG, f"shared/{LOG}") and file.usable), None)
    if log:
        place = Path(tempfile.gettempdir(), LOG)
        end = _Range(log, place, place, max(0, log.size - LOG_TAIL), log.size)
        access = access._replace(patience=min(access.patience, PATIENCE))  # files may be out of reach for ever
        try:
            with _file_errors(LOG), _fetch(access, _Progress(LOG, 0), end) as content:
                lines = content.read().decode("utf-8", "replace").splitlines()
                return lines[1:] if end.start else lines  # half a line may be half a secret
        except RescaleError:
            if needed:
                raise
    return []


def _job_failed(access: _Access, job_id: str, verdict: _Verdict) -> JobFailed:
    lines = verdict.log_lines[-FAILURE_LINES:]
    said = [verdict.reason, *verdict.log_lines]
    meanings = (
        f"{sentence} ({_short(line, 160)})" for pattern, sentence in FAILURES for line in reversed(said)
        if re.search(pattern, line, re.IGNORECASE)
    )
    return JobFailed("\n".join(filter(None, [
        f"Job {job_id} {'was stopped' if verdict.outcome == 'stopped' else 'failed'}{verdict.exit_code}; "
        f"the platform says: {verdict.reason}",
        f"The last lines of {LOG}:" if lines else f"It left no {LOG} that can be read.",
        *(f"    {line}" for line in lines),
        next(meanings, ""),
        f"Result page: {_result_page(access.platform, job_id)}",
        f"To download its files: {_command('download', job_id)}",
    ])), job_id, verdict.reason, lines)


# 7. Download


def job_download(rescale_platform: str, my_token: str, job_name: str, job_id: str) -> list[Path]:
    """Fetch all output files of a job that has ended into the folder `<job_name>` under the current one.

    Each file arrives under a hidden temporary name, is checked against size and checksum and only then renamed. What
    is there already and right is not fetched again; an interrupted download goes on where it stopped; another file
    that is in the way is set aside under a new name.

    Returns the paths. Prints `Total 1 files will be downloaded`, `1 user/…/rescale.tar.gz downloaded` per file and
    `Total 1 files, 93.345 MB downloaded` (MB = 1024²). Raises RescaleError for a job that has not ended or left no
    files, a file that arrives wrong twice, a full disk.
    Source: GET /api/v2/jobs/{id}/files/ and /api/v2/files/{id}/contents/ (rescale-api.md §9, §3).
    """
    access = _Access(rescale_platform, my_token)
    _check_job_name(job_name)
    listed = _ended(access, job_id).files
    files = [file for file in listed if file.usable]
    unfinished = [_short(file.relative, 80) for file in listed if not file.usable and not file.deleted]
    if not files and not unfinished:
        raise RescaleError(f"job {job_id} has no output files, or deleted ones: {_result_page(access[0], job_id)}")
    _say(f"Total {len(files)} files will be downloaded")
    with _file_errors(f"job {job_id} could not be downloaded; what has arrived is kept and not fetched again"), \
            _Progress("downloading", sum(file.size for file in files)) as progress:
        targets = _targets(Path(job_name).absolute(), files)
        ranges = [_beginning(*pair) for pair in zip(files, targets)]
        progress.add(sum(one.start for one in ranges))
        fetch = functools.partial(_fetch, access._replace(stop=progress.stop), progress)
        contents = _at_once(fetch, itertools.chain.from_iterable(one.parts() for one in ranges))
        for number, one in enumerate(ranges, 1):
            if not one.is_here and not _assemble(one, contents):
                _say(f"- {one.file.name} arrived damaged; fetching it again")
                whole = one._replace(start=0)
                if not _assemble(whole, _at_once(fetch, whole.parts())):
                    raise RescaleError(f"{one.file.name} (file {one.file.id}) arrived damaged twice, and was not kept")
            _say(f"{number} {one.file.path} {'was here already' if one.is_here else 'downloaded'}")
    sizes = [one.file.size for one in ranges if not one.is_here]
    here = f", {len(files) - len(sizes)} were here already" if len(sizes) < len(files) else ""
    _say(f"Total {len(sizes)} files, {sum(sizes) / 1024**2:.3f} MB downloaded{here}")
    if unfinished:
        raise RescaleError(f"Not stored: {', '.join(unfinished)}. To fetch them later: {_command('download', job_id)}")
    return targets


def _ended(access: _Access, job_id: str) -> _Verdict:
    """How a job did; an error that says so for one that has not ended."""
    _check_job_id(job_id)
    history = _statuses(access, job_id)
    if not _has(history, ENDED):
        state = f"has not ended, its status is {history[-1].status}" if history else "was not submitted"
        raise RescaleError(f"job {job_id} {state}; follow it with: {_command('monitor', job_id)}")
    return _verdict(access, job_id, history)


class _File(NamedTuple):
    id: str
    name: str
    relative: str  # path relative to the work folder
    path: str  # the platform's own path, for printing
    size: int  # bytes
    algorithm: str  # of the checksum: sha512, md5; empty without one
    checksum: str
    deleted: bool
    usable: bool  # stored completely, its size known, and not deleted


def _file(item: Any) -> _File:
    """What a file object says, checked (rescale-api.md §3)."""
    file_id, size = _identifier(item), str(item.get("decryptedSize"))
    known = bool(re.fullmatch(r"\d{1,18}", size))
    relative, path = _text(item, "relativePath"), _text(item, "path")
    name = _text(item, "name") or PurePosixPath(relative).name or file_id
    listed, sums = item.get("fileChecksums"), {"md5": str(item.get("md5"))}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            sums[str(entry.get("hashFunction")).lower().replace("-", "")] = str(entry.get("fileHash"))
    forms = {"sha512": "[0-9a-fA-F]{128}", "md5": "[0-9a-fA-F]{32}"}
    algorithm = next((kind for kind, form in forms.items() if re.fullmatch(form, sums.get(kind, ""))), "")
    deleted = item.get("isDeleted") is True
    return _File(
        file_id, name, relative or name, _short(path or relative or name), int(size) if known else 0, algorithm,
        sums.get(algorithm, "").lower(), deleted, known and not deleted and item.get("isUploaded") is not False,
    )


def _job(access: _Access, job_id: str) -> dict[str, Any]:
    read = functools.partial(_list_in, "jobanalyses")
    return _request(access, "GET", f"jobs/{job_id}/", read=read)  # type: ignore[no-any-return]


def _outputs(access: _Access, job_id: str, given: Sequence[_File], wanted: set[str]) -> list[_File]:
    """What a job that has ended left, once the list is complete: the same twice, all stored, one `wanted` among it.

    Inputs are no outputs: what the job was `given` is left out. What has been deleted since is in, for it proves the
    same. After a while the list counts as it is.
    """
    waited, before, wait = 0, None, GLANCE if access.patience < PATIENCE else FILES_PATIENCE
    while True:
        listed = {file.id: file for file in map(_file, _pages(access, f"jobs/{job_id}/files/"))}
        files = [file for file in listed.values() if not any(
            file.id == one.id or (file.name == one.name == ARCHIVE and file.size == one.size  # synced back
                                  and (file.checksum == one.checksum or file.algorithm != one.algorithm))
            for one in given
        )]
        complete = all(file.usable or file.deleted for file in files) and wanted & {file.name for file in files}
        if (complete and files == before) or waited >= wait:
            return files
        before, pause = files, FILES_INTERVAL if complete else STATUS_INTERVAL
        time.sleep(pause)
        waited += pause  # and not what an outage takes


def _result(files: Sequence[_File]) -> _File | None:
    """The job's archive among its outputs; of two, the one in shared/, where the job packed."""
    found = {file.relative: file for file in files if file.usable or file.deleted}
    return found.get(f"shared/{ARCHIVE}") or found.get(ARCHIVE)


def _targets(folder: Path, files: Sequence[_File]) -> list[Path]:
    """Where each file goes, below `folder`. A path that cannot be here, or is taken, is changed and told."""
    targets, taken = list[Path](), set[str]()
    for file in files:
        relative = "/".join(map(_safe_name, file.relative.split("/")))
        while relative.casefold() in taken or (relative != file.relative and not relative.endswith(file.id)):
            relative += f".{file.id}"
        if relative != file.relative:
            _say(f"- {_short(file.relative)} cannot have that name here; it is saved as {relative}")
        taken.add(relative.casefold())
        targets.append(folder / relative)
        targets[-1].parent.mkdir(parents=True, exist_ok=True)
    return targets


def _safe_name(name: str) -> str:
    """`name` as a file can be called here: never another folder, no control characters, not too long."""
    name = re.sub(r"[\x00-\x1f\x7f/\\\ud800-\udfff]", "_", name)
    if WINDOWS:
        name = re.sub(r'[:*?"<>|]|[. ]$', "_", name)
        name = re.sub(r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1_", name, flags=re.IGNORECASE)
    if name in ("", ".", "..") or re.match(r"[A-Za-z]:", name):
        name = "_" + name[1:].replace(".", "_")
    return name.encode()[:200].decode(errors="ignore")


class _Range(NamedTuple):
    """What is missing of a file, or a part of that."""

    file: _File
    target: Path
    kept: Path  # where a beginning of the file is kept until it is whole
    start: int
    end: int
    is_here: bool = False  # whole and right

    def parts(self) -> Iterator[_Range]:
        step = min(max(RANGE[0], -(-self.file.size // RANGES)), RANGE[1])
        for start in range(self.start, self.end, step):
            yield self._replace(start=start, end=min(start + step, self.end))


def _beginning(file: _File, target: Path) -> _Range:
    """What is missing of a file: nothing, if it is here, or what follows the beginning that an earlier try kept."""
    one = _Range(file, target, target.with_name(f".{file.id}.part"), 0, file.size)
    if file.algorithm and target.is_file() and target.stat().st_size == file.size \
            and _checksum(target, file.algorithm) == file.checksum:
        return one._replace(start=file.size, is_here=True)
    return one._replace(start=one.kept.stat().st_size if one.kept.exists() else 0)


def _fetch(access: _Access, progress: _Progress, part: _Range) -> IO[bytes]:
    """Fetch a range into a file without a name, of which a kill leaves nothing; where it breaks it goes on."""
    content: IO[bytes] = tempfile.TemporaryFile(dir=part.target.parent)  # noqa: SIM115  # closed by whoever reads it
    path = f"files/{part.file.id}/contents/"
    read = functools.partial(_receive, progress, part, content)
    while (start := part.start + content.tell()) < part.end:
        asked = {"Range": f"bytes={start}-{part.end - 1}"}
        send = functools.partial(_send, access, "GET", path, elsewhere=True, headers=asked, read=read)
        _patiently(send, access, f"GET {path}")
    content.seek(0)
    return content


def _receive(progress: _Progress, part: _Range, content: IO[bytes], response: requests.Response) -> None:
    """Write what is missing of a range, or some of it, to `content`, as it is stored; skip what is sent before it."""
    start = part.start + content.tell()
    skip, left, size = 0, part.end - start, 4096
    if response.status_code != 206:
        skip = start
        if "html" in response.headers.get("Content-Type", "") and not part.file.name.endswith((".html", ".htm")):
            raise _Fault("a web page came instead of the file")
    elif not response.headers.get("Content-Range", f"bytes {start}-").startswith(f"bytes {start}-"):
        raise _Fault("another part of the file came than was asked for")
    with contextlib.suppress(HTTPError):  # small blocks first, so that of a line that breaks soon some is kept
        while left and not progress.stop.is_set() and (block := response.raw.read(size, decode_content=False)):
            skip, block, size = max(0, skip - len(block)), block[skip:][:left], min(2 * size, CHUNK)
            content.write(block)
            left -= len(block)
            progress.add(len(block))
    if left == part.end - start or progress.stop.is_set():
        raise _Fault("nothing of the file came")


def _assemble(one: _Range, contents: Iterator[IO[bytes]]) -> bool:
    """Bring the ranges of a file to their place behind what is here; if it is the platform's, name it, and say so.

    Each is written at its place, never appended: another process at the same file writes the same.
    """
    file, part, target = one.file, one.kept, one.target
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as output:
        digest = _sum_up(output, file.algorithm, one.start)
        for _ in one.parts():
            with next(contents) as content:
                while block := content.read(CHUNK):
                    output.write(block)
                    digest.update(block)
        if file.size > CHUNK or file.name == ARCHIVE:  # a thousand small ones would wait for the disk each time
            output.flush()
            os.fsync(output.fileno())
        is_whole, checksum = output.tell() == file.size, digest.hexdigest()
    if not is_whole or checksum != (file.checksum or checksum):
        part.unlink(missing_ok=True)
        return False
    if not file.algorithm:
        _say(f"- {file.name}: the platform gave no checksum, only the size was checked")
    if target.exists():  # nothing is ever overwritten
        if _checksum(target, file.algorithm) == checksum:  # another process has just done so
            part.unlink(missing_ok=True)
            return True
        names = (target.with_name(f"{target.name}.previous-{number}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        target.rename(aside)
        _say(f"- another {target.name} was there; it is now {aside.name}")
    part.replace(target)
    return True


# 8. The previous job's result as input


def file_previous_job(rescale_platform: str, my_token: str, job_id: str) -> list[dict[str, Any]]:
    """Take a job's rescale.tar.gz, inside the cloud, as input of the next job.

    Returns the list for job_setup: [{'id': 'JKNBbb', 'decompress': True}], and prints it. Raises RescaleError when
    the job has not ended, has failed, or left no rescale.tar.gz.
    Source: GET /api/v2/jobs/{id}/files/ (rescale-api.md §9).
    """
    verdict = _ended(_Access(rescale_platform, my_token), job_id)
    archive = _result(verdict.files)
    if verdict.outcome != "succeeded" or not archive or archive.deleted:
        there = [_short(file.relative, 80) + " (deleted since)" * file.deleted for file in verdict.files[:20]]
        raise RescaleError(f"job {job_id} has {verdict.outcome} ({verdict.reason}); the next job needs its {ARCHIVE}, "
                           f"but it left: {', '.join(there) or 'nothing'}: {_result_page(rescale_platform, job_id)}")
    inputfiles_list = [{"id": archive.id, "decompress": True}]
    _say(f"inputfiles_list = {inputfiles_list}")
    return inputfiles_list


# Added to the guide's eight


def job_settings(rescale_platform: str, my_token: str, job_id: str) -> dict[str, Any]:
    """Read the settings of a job that ran, from the web page say, as main.py and job_setup want them.

    Returns them as a dict: code_name, version_code, license_info, license_features, coretype_code, core_per_slot,
    slot, walltime (hours), projectid, command. Prints them as lines of Python for main.py's admin section. Of a job
    of several tiles it takes the first and names the others. Source: GET /api/v2/jobs/{id}/ (rescale-api.md §5).
    """
    _check_job_id(job_id)
    job = _job(_Access(rescale_platform, my_token), job_id)
    try:
        tile, *others = job["jobanalyses"]
        hardware, licences = tile["hardware"], tile.get("userDefinedLicenseSettings") or {}
        found = re.search(r"<<'(RESCALE_COMMAND_*)' && .*\n((?:.*\n)*?)\1\n", tile["command"])
        settings = {
            "code_name": tile["analysis"]["code"], "version_code": str(tile["analysis"].get("version") or ""),
            "license_info": tile.get("envVars") or {},
            "license_features": {
                one["name"]: one["count"] for some in licences.get("featureSets") or [] for one in some["features"]
            },
            "coretype_code": hardware["coreType"], "core_per_slot": hardware["coresPerSlot"],
            "slot": hardware.get("slots") or 1, "walltime": hardware.get("walltime") or DEFAULT_WALLTIME,
            "projectid": job.get("projectId") or None,
            "command": found[2] if found and tile["command"].startswith(OURS) else tile["command"],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RescaleError(f"job {job_id}: its settings cannot be read, {error!r}: {_short(job)}") from error
    _say(f"# The settings of job {job_id}, for the admin section of main.py; the command belongs into batches")
    for name, value in settings.items():
        _say(f"{name} = {value!r}")
    if others:
        _say(f"# It has more tiles, which main.py does not run: {_short([tile.get('analysis') for tile in others])}")
    return settings


def check_settings(
    rescale_platform: str, my_token: str, code_name: str, version_code: str, license_info: Mapping[str, Any],
    coretype_code: str, core_per_slot: int, slot: int, walltime: int, projectid: str | None, *,
    license_features: Mapping[str, int] | None = None, input_path: StrPath | None = None, jobs: int = 1,
) -> None:
    """Check what job_setup will be given against the platform's catalogues, before anything is packed or sent.

    Prints the account, of the folder `input_path` how much there is to pack, and what a job and a chain of `jobs` can
    cost at most: price × cores × slots × walltime as the platform lists the price, else the core-hours
    alone. A catalogue that the account may not see is skipped with a notice. Raises one RescaleError for
    all values that the platform does not know, each with the nearest right ones.
    Source: GET /api/v2/users/me/, …/analyses/, …/coretypes/, …/users/me/projects/ (rescale-api.md §1, §11).
    """
    access = _Access(rescale_platform, my_token)
    _licences(license_info, license_features)
    cores = _whole_number("core_per_slot", core_per_slot, "cores")
    most = cores * _whole_number("walltime", walltime, "hours") * _whole_number("slot", slot, "slots (1 without DOE)")
    _say(f"- account {_text(_request(access, 'GET', 'users/me/'), 'email') or '?'}")
    if input_path is not None:
        files, _, _ = _input_files_of(input_path)
        size = sum(path.stat().st_size for path in files) / 1024**2
        _say(f"- {len(files)} files to pack and upload, {size:,.3f} MB: {', '.join(path.name for path in files[:20])}")
    core_types, tiles = _catalogue(access, "coretypes/", "code"), _catalogue(access, "analyses/", "code")
    versions = tiles.get(str(code_name), {}).get("versions")
    codes = {str(item.get("versionCode")): item for item in versions or [] if isinstance(item, dict)}
    projects = _catalogue(access, "users/me/projects/", "id") if projectid else {}
    known = (("code_name", code_name, tiles), ("version_code", version_code, codes),
             ("coretype_code", coretype_code, core_types), ("projectid", projectid, projects))
    core_type = core_types.get(str(coretype_code), {})
    unknown = [*itertools.chain.from_iterable(_unknown(*one) for one in known)]
    node = sorted(size for size in core_type.get("cores") or [] if isinstance(size, int) and size > 0)
    if node and cores not in node and cores % node[-1]:  # else whole nodes
        unknown.append(f"core_per_slot = {cores}: {coretype_code} has one of {node} cores, or multiples of {node[-1]}")
    price = _price(core_type)
    cost = f" = {jobs * most * price:,.2f} at {price:g} per core-hour as the platform lists it, licences not included" \
        if price else "; the platform lists no price for them"
    _say(f"- costs at most: {jobs} x {most:,} = {jobs * most:,} core-hours{cost}")
    if unknown:
        raise RescaleError("\n".join(["The settings are not right; nothing was uploaded or started:", *unknown]))


def _price(core_type: Mapping[str, Any]) -> float:
    """The price per core-hour that the platform lists, 0 where it does not, as to members."""
    price = core_type.get("price")
    return price if isinstance(price, (int, float)) and 0 < price < math.inf else 0.0


def _catalogue(access: _Access, path: str, key: str) -> Catalogue:
    """A list of the platform by its entries' `key`, empty where it cannot be seen, as by some accounts."""
    try:
        return {str(item.get(key)): item for item in _pages(access, path) if item.get("isActive") is not False}
    except RescaleError as error:
        if error.status not in (403, 404) and access.patience >= PATIENCE:
            raise
        _say(f"- not checked: {path}, {error}")
        return {}


def _unknown(name: str, value: Any, known: Catalogue) -> Iterator[str]:
    """What is to be said of a value that a catalogue does not have: the nearest ones, or the first."""
    if known and str(value) not in known and (value or name != "version_code"):
        near = difflib.get_close_matches(str(value), known, n=3) or list(known)[:10]
        names = (f"{code} ({_short(known[code]['name'], 40)})" if known[code].get("name") else code for code in near)
        yield f"{name} = {value!r} is not known to the platform, or no longer offered; did you mean {', '.join(names)}?"


def job_stop(rescale_platform: str, my_token: str, job_id: str) -> None:
    """Stop a running job; what it has written so far is kept by the platform.

    Prints `Job LFZphb : stop requested`. Raises RescaleError when the job cannot be stopped, as when it has ended.
    Source: POST /api/v2/jobs/{id}/stop/ (rescale-api.md §10).
    """
    _check_job_id(job_id)
    _request(_Access(rescale_platform, my_token), "POST", f"jobs/{job_id}/stop/", json={}, read=_accepted)
    _say(f"Job {job_id} : stop requested")


def chain_overview(rescale_platform: str, my_token: str, jobs: Mapping[str, str | None]) -> None:
    """Print a table of a chain's jobs, {job_name: job_id}, in their order; None for one that has not been started.

    Per job: its outcome (succeeded, FAILED (exit code 1), stopped, running, waiting, not started; ended where that
    cannot be told yet), how long it waited and executed, its core-hours, what they cost where the platform lists a
    price, and where its result is. Never raises for what the platform does not tell just now: that is a `?`.
    Source: GET /api/v2/jobs/{id}/, …/statuses/, …/files/, /api/v2/coretypes/ (rescale-api.md §5, §7, §9, §11).
    """
    _say("\n".join(["", *_table(_Access(rescale_platform, my_token), jobs)]))


def _table(access: _Access, jobs: Mapping[str, str | None]) -> list[str]:
    """The lines of the table of a chain. A job that has a follower has succeeded: that one was made from its result."""
    access, started = access._replace(patience=GLANCE), [job_id for job_id in jobs.values() if job_id]
    core_types = _catalogue(access, "coretypes/", "code") if started else {}
    rows = [["job", "id", "outcome", "waited", "executed", "core-hours", "cost", "result"]]
    for name, job_id in jobs.items():
        try:
            cells = _row(access, name, job_id, core_types, job_id == started[-1]) if job_id else ["not started"]
        except RescaleError as error:
            cells = ["unknown here" if error.status == 404 else "?"]
        rows.append([name, job_id or "-", *cells, *[""] * (6 - len(cells))])
    columns = [column for column in zip(*rows) if any(column[1:])]  # no empty one, as where no price is listed
    padded = ([cell.ljust(max(map(len, column))) for cell in column] for column in columns)
    return ["  ".join(line).rstrip() for line in zip(*padded)]


def _row(access: _Access, job_name: str, job_id: str, core_types: Catalogue, is_last: bool) -> list[str]:
    """What the table says of one job, from its outcome on."""
    history, job = _statuses(access, job_id), _job(access, job_id)
    outcome = "running" if _has(history, {"executing"}) else "waiting" if history else "not started"
    result = ""
    if _has(history, ENDED):
        outcome, result = "succeeded", "on the platform"
        if is_last:
            verdict = _verdict(access, job_id, history)
            outcome = f"FAILED{verdict.exit_code}" if verdict.outcome == "failed" else verdict.outcome
            if any(Path(job_name).rglob(ARCHIVE)):
                result = f"{job_name}{os.sep}"
    spent = {True: 0.0, False: 0.0}  # seconds in which it executed, and before; a restarted one does so in turns
    known = [(entry.date, entry.plain) for entry in history if entry.date]
    for (since, status), (until, _) in zip(known, [*known[1:], (_now(), "")]):
        if status not in ENDED and not status.startswith(("stop", "force")):
            spent[status == "executing"] += max(0.0, (until - since).total_seconds())
    core_hours = cost = ""
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
        hardware = job["jobanalyses"][0]["hardware"]
        used = spent[True] / 3600 * int(hardware["coresPerSlot"]) * int(hardware.get("slots") or 1)
        price = _price(core_types.get(str(hardware["coreType"]), {}))
        core_hours, cost = f"{used:,.2f}", f"{used * price:,.2f}" if price else ""
    return [outcome, _duration(spent[False]), _duration(spent[True]), core_hours, cost, result]


# A chain, for main.py


@dataclasses.dataclass
class Link:
    """A job of a chain; `previous` is the link whose result it takes, `job_id` None as long as it has no job."""

    batch_name: str
    command: str
    job_name: str
    job_id: str | None
    previous: Link | None


class Chain:
    """What main.py goes through: the links, from the last one that has a job on. Its state is in its .job files.

    `memory`, a small file, holds what cannot be derived: when it `began`, the `script`, where it is `rehearsed`, the
    jobs to be `replaced`, and `inputs`, what from input_path: {batch: {name: [size, time of change, SHA-512]}}.
    """

    def __init__(self, access: _Access, batches: Batches, user: str, started_at: str, input_path: StrPath) -> None:
        self.access, self.rescale_platform, self.my_token = access, access.platform, access.token
        self.started_at, self.input_path = started_at, input_path
        self.links: list[Link] = []
        for name, command in batches:
            previous = self.links[-1] if self.links else None
            self.links.append(Link(name, command, f"{user}@{name}@{started_at}", None, previous))
        self.kept_as = f".{glob.escape(user)}@*@{started_at}.chain"
        self.read()

    def read(self) -> None:
        """Read the state as it is now."""
        for link in self.links:
            link.job_id = _read_job(Path(f"{link.job_name}.job")) or None
        kept = list(Path().glob(self.kept_as))
        self.name = kept[0].name[1:-len(".chain")] if kept else self.links[0].job_name
        with _file_errors(f"{kept and kept[0]} cannot be read; repair it, or move it away: then no changes are known"):
            self.memory: dict[str, Any] = json.loads(kept[0].read_text("utf-8")) if kept else {}
        self.inputs: dict[str, dict[str, list[Any]]] = self.memory.setdefault("inputs", {})

    def __iter__(self) -> Iterator[Link]:
        """The links from the last one that has a job on; what the first link takes is remembered."""
        done = self.done()
        if done:
            _say(f"- {', '.join(link.batch_name for link in self.links[:done])}: succeeded earlier")
        for number, link in enumerate(self.links[done:], done + 1):
            _say(f"- {number} of {len(self.links)}: {link.batch_name}, {_now():%Y-%m-%d %H:%M:%S}")
            if not link.job_id and not link.previous:
                self.remember(link, _input_files_of(self.input_path)[0])
            elif not link.job_id and link.batch_name not in self.inputs:
                with contextlib.suppress(RescaleError, OSError):  # what cannot be read does not matter now
                    changed = ", ".join(path.name for path in self.changes(link)[0])
                    if changed:
                        _say(f"- input files changed, not used by this job: {changed}; Ctrl-C, then --repeat uses them")
            yield link

    def done(self) -> int:
        """How many links stand before the last one with a job: that one was made from their results."""
        return max((number for number, link in enumerate(self.links) if link.job_id), default=0)

    def jobs(self) -> dict[str, str | None]:
        return {link.job_name: link.job_id for link in self.links}

    def began(self) -> float:
        """When it began, in seconds; without the memory its .job files tell."""
        files = [Path(f"{link.job_name}.job") for link in self.links]
        dates = [file.stat().st_mtime for file in files if file.is_file()]
        return float(self.memory.get("began", min(dates, default=0)))

    def remember(self, link: Link | None = None, files: Sequence[Path] = ()) -> None:
        """Write the memory, with these files as the inputs of a link."""
        with _file_errors("nothing was started"):
            if link:
                self.inputs[link.batch_name] = {file.name: _facts(file) for file in files}
            with _whole_file(Path(f".{self.name}.chain")) as memory:
                memory.write(json.dumps(self.memory).encode())

    def changes(self, link: Link) -> tuple[list[Path], list[str]]:
        """The files of input_path that are not what the links before this one were given; the names of those gone."""
        given: dict[str, list[Any]] = {}
        for before in self.links[: self.links.index(link)]:
            given.update(self.inputs.get(before.batch_name, {}))
        files = _input_files_of(self.input_path)[0] if given and Path(self.input_path).is_dir() else []
        changed = [  # the same size and time: the same; else the sum tells, for it may only have been touched
            path for path in files if [path.stat().st_size, path.stat().st_mtime_ns] != given.get(path.name, [])[:2]
            and _facts(path)[::2] != given.get(path.name, [])[::2]
        ]
        return changed, sorted(set(given) - {path.name for path in files})

    def mended_files(self, link: Link) -> list[dict[str, Any]]:
        """Upload the input files that were mended before this link is repeated; [] where there are none."""
        names = list(self.inputs.get(link.batch_name, {})) if link.previous else []
        if not names:
            return []
        # As a volume, which the head of the job's command unpacks over what the job before has left.
        volume, files = Path(f"{link.job_name}.rescale-001"), [Path(self.input_path, name) for name in names]
        self.remember(link, files)
        _say(f"- changed input files for this job: {', '.join(names)}")
        _pack(files, volume)
        entries = upload_local_files(self.rescale_platform, self.my_token, volume, decompress=False)
        for path in (volume, volume.with_name(f".{volume.name}.uploaded")):
            path.unlink(missing_ok=True)
        return entries

    def first_to_repeat(self, batch_name: str | None) -> int | None:
        """Which link --repeat begins with: the one that --from names, else the one that has failed, if one has."""
        numbers = {link.batch_name: number for number, link in enumerate(self.links) if link.job_id}
        if batch_name is not None:
            if batch_name not in numbers:
                raise RescaleError(f"--from {batch_name}: only these have a job: {', '.join(numbers) or 'none'}")
            for link in self.links[numbers[batch_name]:]:  # one that was never started is replaced, too
                if link.job_id and _shows_status(self.access, link.job_id, SUBMIT_PATIENCE) \
                        and not _has(_statuses(self.access, link.job_id), ENDED):
                    raise RescaleError(f"Job {link.job_id} has not ended. To stop it: {_command('stop', link.job_id)}")
            return numbers[batch_name]
        number, job_id = self.done(), self.links[self.done()].job_id
        history = _statuses(self.access, job_id) if job_id else []
        if job_id and _has(history, ENDED) and _verdict(self.access, job_id, history).outcome != "succeeded":
            return number
        if job_id and number + 1 < len(self.links):
            return number + 1  # it has no job yet, and takes what was changed until now
        if _has(history, ENDED):
            _say("- no job has failed. To run jobs again anyway: --repeat --from BATCH")
        return None

    def repeat(self, number: int) -> None:
        """Prepare new jobs for a link and all behind it: from here on whatever is killed is only resumed."""
        link, old = self.links[number], [link.job_id for link in self.links[number:] if link.job_id]
        _say(f"- new jobs from {link.batch_name} on" + (f"; they replace {', '.join(old)}" if old else ""))
        changed, gone = self.changes(link)
        for other in self.links[number:]:
            self.inputs.pop(other.batch_name, None)
        if number and not self.inputs:
            _say("- it is not known here which input files this chain had, so no changed ones are used")
        elif number:
            deleted = f"; deleted here, but still in the chain: {', '.join(gone)}" if gone else ""
            _say(f"- input files changed since: {', '.join(path.name for path in changed) or 'none'}{deleted}")
        self.memory["replaced"] = old
        self.remember(link if changed else None, changed)
        self.retire()

    def retire(self) -> None:
        """Take away the .job files and the result folders of jobs that are replaced, the last first."""
        for link in reversed(self.links):
            if link.job_id and link.job_id in self.memory.get("replaced", []):
                with _file_errors("nothing was started"):
                    if Path(link.job_name).is_dir():
                        old = Path(link.job_name).rename(f"{link.job_name}.{link.job_id}")
                        _say(f"- the earlier result is now in {old}{os.sep}")
                    _set_aside(Path(f"{link.job_name}.job"), link.job_id)
                link.job_id = None


def _facts(path: Path) -> list[Any]:
    """Size in bytes, time of change in ns, and SHA-512 of a file."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, _checksum(path, "sha512")]


@contextlib.contextmanager
def chain(
    batches: Batches, settings: tuple[Any, ...], *, license_features: Mapping[str, int] | None = None,
    input_path: StrPath | None = None, at_end: str | None = None, arguments: Sequence[str] | None = None,
) -> Iterator[Chain]:
    """The frame of main.py: read its command line, and yield a new chain, or an earlier one to go on with.

    `settings` are code_name, version_code, license_info, coretype_code, core_per_slot, slot, walltime, projectid.
    `at_end` is a shell command that runs when the chain has ended, well or not, with CHAIN_STATUS (succeeded, failed),
    CHAIN_NAME and CHAIN_SUMMARY in its environment.

    Starts nothing beside an unfinished chain. Prints where it is, at the end a table and what to do next. Writes all
    that is printed, with the local time, to `<first job's name>.log`. Turns RescaleError and Ctrl-C into one message
    and ends the script: SystemExit with 1 failed, 2 usage or an unfinished chain, 130 Ctrl-C; 0 for --check, --status.
    """
    options = _options(arguments)
    this: Chain | None = None
    early = logging.handlers.MemoryHandler(10_000, logging.CRITICAL, flushOnClose=False)  # until the log has a name
    early.setLevel(logging.INFO)
    _logger.addHandler(early)
    try:
        _check_sections(batches)
        chosen = _chosen(batches, input_path or ".", options)
        if not options.check:
            early.setTarget(_log_file(chosen.name))
            early.capacity = 0  # from now on nothing waits
            chosen.read()  # now that no other process works on it
        this = chosen
        _prepare(this, settings, license_features, options)
        yield this
        _end(this, "succeeded", at_end, "")
        _say(f"Done: the result is in {this.links[-1].job_name}{os.sep}")
    except (RescaleError, OSError, KeyboardInterrupt) as error:
        status, text = (130, "Interrupted.") if isinstance(error, KeyboardInterrupt) else (1, str(error))
        _complain(text)
        if this and status == 1 and not options.check:
            _end(this, "failed", at_end, text)
        _complain(_what_next(this, error))
        raise SystemExit(status) from None
    finally:
        _logger.removeHandler(early)
        if early.target:
            with contextlib.suppress(OSError):  # a full disk
                early.target.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run the jobs in `batches` one after another; each takes the result of the one before it. Without\n"
        "an option: start a new chain; but where one of these batches is unfinished in this folder, nothing.",
        epilog="STARTED_AT is the time in the names of a chain's files, like 20260131-235959; without it the newest\n"
        "chain is meant. Exit status: 0 done, 1 failed, 2 usage or an unfinished chain, 130 Ctrl-C.",
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--check", action="store_true", help="check the settings, say what it would cost, start nothing")
    one.add_argument("--new", action="store_true", help="start another chain beside an unfinished one")
    for name, text in (
        ("--resume", "go on with a chain, after a crash, a reboot or Ctrl-C; what is done is only confirmed"),
        ("--repeat", "the same, and a job that has failed is replaced by a new one: fix the problem first; input files "
                     "that were changed go along"),
        ("--status", "print how far a chain is, and start nothing; for another terminal"),
    ):
        one.add_argument(name, nargs="?", const="", metavar="STARTED_AT", help=text)
    parser.add_argument("--from", dest="batch", metavar="BATCH", help="with --repeat: new jobs from this batch on")
    options = parser.parse_args(arguments)
    if options.batch is not None and options.repeat is None:
        parser.error("--from goes with --repeat")
    return options


def _check_sections(batches: Batches) -> None:
    """End the script with exit status 2 if the sections of main.py, or its folder, cannot be used."""
    try:
        for name, command in batches:
            if set(name) & set('/\\:*?"<>|') or not name.strip() or not command.strip():
                raise RescaleError(f"batch {name!r} needs a command, and a name that can be part of a file's")
            _check_job_name(f"{_user()}@{name}@20260131-235959")
            _check_command(command)
        if not batches or len({name.casefold() for name, _ in batches}) < len(batches):
            raise RescaleError("batches needs lines of different names; some disks don't tell upper from lower case")
        with _file_errors("this folder cannot be written, and a chain keeps its files here"), \
                tempfile.TemporaryFile(dir=".") as file:
            file.write(bytes(1 << 16))
    except RescaleError as error:
        _stop(str(error))


def _stop(text: str) -> NoReturn:
    """End the script, which starts nothing, with exit status 2."""
    _complain(text)
    raise SystemExit(2)


def _user() -> str:
    """The user's name, as in the job names; a container may have none."""
    name = "user"
    with contextlib.suppress(OSError, KeyError, ImportError):
        name = getpass.getuser()
    return re.sub(r'[\x00-\x20\x7f/\\:*?"<>|@]', "_", name)


def _chosen(batches: Batches, input_path: StrPath, options: argparse.Namespace) -> Chain:
    """The chain that is asked for; SystemExit where nothing is to be started."""
    access = _Access(*platform_my_token())
    _say(f"rescale_rest_api {__version__}: {Path(sys.argv[0]).name}: {', '.join(name for name, _ in batches)}")
    _request(access._replace(patience=FIRST_PATIENCE), "GET", "users/me/")  # first: what is here may change meanwhile
    files = (re.fullmatch(r"\.?([^@]+)@(.+)@(\d{8}-\d{6})\.(job|chain|log)", path.name) for path in Path().iterdir())
    # User and time of the chains in this folder that share a batch name with these.
    found = {(file[1], file[3]) for file in files if file and file[2] in dict(batches)}
    chains = sorted((Chain(access, batches, *one, input_path) for one in found), key=Chain.began, reverse=True)
    named = next((value for value in (options.resume, options.repeat, options.status) if value is not None), None)
    if named is None:
        if not options.new and not options.check:
            _guard(access._replace(patience=FIRST_PATIENCE), chains)
        while any(Path().glob(f"*@{(started_at := _now().strftime('%Y%m%d-%H%M%S'))}.*")):
            time.sleep(1)  # one has been started in this very second
        chains = [Chain(access, batches, _user(), started_at, input_path)]
    else:  # the one of this time, else the newest of this script; never one of a rehearsal for the platform
        chains = [
            this for this in chains if (any(this.jobs().values()) or "began" in this.memory)
            and this.started_at == (named or this.started_at)
            and (named or this.memory.get("script") in (None, Path(sys.argv[0]).name))
            and this.memory.get("rehearsed", REHEARSAL) == REHEARSAL
        ]
        if not chains:
            _stop(f"{Path.cwd()} has no chain {named} of this script and these batches; a rehearsal needs its --folder")
    if options.status is not None:
        chain_overview(*access[:2], chains[0].jobs())
        raise SystemExit(0)
    return chains[0]


def _guard(access: _Access, chains: Sequence[Chain]) -> None:
    """End the script with exit status 2 where a chain has jobs that run or wait, or would be paid for again."""
    for this in chains:
        if any(Path(this.links[-1].job_name).rglob(ARCHIVE)):
            continue  # finished: job_download gives an archive its name only when it is whole
        if Path(f"{this.name}.log").exists():
            try:
                _log_file(this.name).close()  # an error if it is at work
            except RescaleError as error:
                _stop(f"{error}\nHow far it is:  {_command('--status', this.started_at)}\n"
                      f"To start another:  {_command('--new')}")
        last = this.links[this.done()]
        history = _history(access, last.job_id) if last.job_id else None
        if last.job_id is None or history is None:  # never had a job; or is of a rehearsal, or of another account
            continue
        outcome = _verdict(access, last.job_id, history).outcome if _has(history, ENDED) else "running"
        if outcome != "failed" or last.previous:
            failed = outcome in ("failed", "stopped")
            chain_overview(*access[:2], this.jobs())
            how, what = ("--repeat", "To repeat what has failed") if failed else ("--resume", "To go on with it")
            _stop(f"The chain {this.started_at} is not finished. Nothing was started.\n"
                  f"{what}:  {_command(how, this.started_at)}\nTo start another:  {_command('--new')}")


def _prepare(this: Chain, settings: tuple[Any, ...], license_features: Any, options: argparse.Namespace) -> None:
    """Check the settings and say what will be paid; then set aside what is repeated."""
    this.retire()  # what a repeat that was killed has left to do
    number = this.first_to_repeat(options.batch) if options.repeat is not None else None
    unpaid = this.links[this.done() if number is None else number:]
    if number is None and unpaid[0].job_id:
        unpaid = unpaid[1:]
    if unpaid:
        check_settings(
            this.rescale_platform, this.my_token, *settings, license_features=license_features, jobs=len(unpaid),
            input_path=None if unpaid[0].previous else this.input_path,
        )
        _say(f"- jobs that will cost money: {len(unpaid)} ({', '.join(link.batch_name for link in unpaid)})")
    if options.check:
        _say(f"The settings are right; nothing was started. Start: {_command()}")
        raise SystemExit(0)
    now = {"began": time.time(), "script": Path(sys.argv[0]).name, "rehearsed": REHEARSAL}
    this.memory = {**now, **this.memory}
    this.remember()
    if number is not None:
        this.repeat(number)


def _end(this: Chain, outcome: str, at_end: str | None, failure: str) -> None:
    """Print the table of a chain, and run the user's command."""
    lines = _table(this.access, this.jobs())
    _say("\n".join(["", *lines]))
    if at_end:
        summary = _printable("\n".join([*lines, *failure.splitlines()[:1]]))
        environment = {**os.environ, "CHAIN_STATUS": outcome, "CHAIN_NAME": this.name, "CHAIN_SUMMARY": summary}
        environment.pop("RESCALE_API_KEY", None)
        try:
            subprocess.run(at_end, shell=True, env=environment, input=b"", timeout=AT_END_TIMEOUT, check=True)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _say(f"- at_end failed: {type(error).__name__} {getattr(error, 'returncode', '')}")


def _what_next(this: Chain | None, failure: BaseException) -> str:
    """What the user can do after an error or Ctrl-C."""
    jobs = [link.job_id for link in this.links if link.job_id] if this else []
    if not this or not jobs:
        return "Nothing was started."
    if isinstance(failure, JobFailed):
        return f"Fix the problem, then type: {_command('--repeat', this.started_at)}"
    text, state = f"To go on:    {_command('--resume', this.started_at)}", "may still be running and cost money"
    with contextlib.suppress(RescaleError, KeyboardInterrupt):
        history = _history(this.access._replace(patience=GLANCE), jobs[-1])
        if not history or _has(history, ENDED):
            return text
        state = "is still running and costs money"
    return f"Job {jobs[-1]} {state}.\n{text}\nTo stop it:  {_command('stop', jobs[-1])}"


def _main(arguments: Sequence[str] | None = None) -> int:
    """The commands for coming back to a job without editing anything."""
    parser = argparse.ArgumentParser(
        description="Come back to a Rescale job. The API key is found as in platform_my_token.",
        epilog="Exit status: 0 done, 1 the job failed or the platform refused, 2 usage, 130 Ctrl-C.",
    )
    parser.add_argument("command", choices=("settings", "monitor", "download", "stop"), help=(
        "print the job's settings for main.py, follow it until it has ended, fetch what it left, stop it and the bill"))
    parser.add_argument("job_id", metavar="JOB_ID", help="the job's id, the address of its page, or its .job file")
    parser.add_argument("--profile", help="section of ~/.config/rescale/apiconfig to use")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    try:
        page = re.match(r"https?://[^/]+/(?:api/v\d/)?jobs/([\w-]+)", options.job_id)
        job_id = page[1] if page else options.job_id.strip()
        job_id = _read_job(Path(job_id)) or "" if job_id.endswith(".job") else job_id
        with contextlib.redirect_stdout(sys.stderr if options.command == "settings" else sys.stdout):  # to be pasted
            access = _Access(*platform_my_token(profile=options.profile))
        if options.command == "download":
            failed = _ended(access, job_id).outcome != "succeeded"
            name = _safe_name(_text(_request(access, "GET", f"jobs/{job_id}/"), "name"))
            name = f"{name[:60]}.{job_id}" if failed else name
            job_download(*access[:2], name, job_id)
            _say(f"The files are in {name}{os.sep}")
        else:
            {"settings": job_settings, "monitor": job_monitor, "stop": job_stop}[options.command](*access[:2], job_id)
    except (RescaleError, OSError) as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain(f"Interrupted. Job {options.job_id} may still be running and cost money.")
        return 130
    return 0


# Requests


class _Fault(Exception):
    """What may pass, so that the request is worth repeating; `wait` is in seconds, if the server asks for so many."""

    def __init__(self, text: str, wait: float = 0, *, final: bool = False) -> None:
        super().__init__(_printable(text))
        self.wait, self.final = wait, final  # final: it will hardly pass; only job_monitor waits


def _request(access: _Access, method: str, path: str, **how: Any) -> Any:
    """Send a request until it comes through; see _send and _patiently."""
    return _patiently(functools.partial(_send, access, method, path, **how), access, f"{method} {path}")


def _patiently(attempt: Callable[[], T], access: _Access, what: str) -> T:
    """Try again until an attempt comes through, with growing pauses, for `access.patience` seconds of faults.

    A pause that the platform asks for is kept; who has the usual patience, or more, has THROTTLE_PATIENCE for these.
    Raises RescaleError when patience is over, `stop` is set, or for a final fault, unless patience has no end.
    """
    host, patience = urlsplit(_platform(access.platform)).netloc, access.patience
    longest = max(patience, THROTTLE_PATIENCE) if patience >= PATIENCE else patience
    pause, spent, asked, told_at = 1.0, 0.0, 0.0, -math.inf
    while True:
        began = time.monotonic()
        try:
            answer = attempt()
            if told_at > 0:
                _say(f"- {host} is back")
            return answer
        except _Fault as fault:
            wait = max(pause, fault.wait)
            asked += fault.wait
            # A long transfer that breaks costs no more patience than a request that times out.
            spent += min(time.monotonic() - began, READ_TIMEOUT) + (0 if fault.wait else pause)
            if spent > patience or asked > longest or (fault.final and patience < math.inf) or access.stop.is_set():
                raise RescaleError(f"{what} at {host} failed: {fault}") from fault
            if spent + asked >= 5 and spent + asked - told_at >= OUTAGE_INTERVAL:
                told_at = spent + asked
                _say(f"- {host}: {fault}; trying until it is back, next in {_duration(wait)}")
        pause = min(2 * pause, 60)
        time.sleep(wait)


def _send(
    access: _Access, method: str, path: str, *, read: Callable[[requests.Response], Any] | None = None,
    elsewhere: bool = False, timeout: float | None = None, headers: Mapping[str, str] | None = None, **content: Any,
) -> Any:
    """Send one request once, and return what `read`, or JSON, makes of the answer.

    `elsewhere` allows a redirect, to another host without the token. Raises _Fault for what may pass.
    """
    platform, token = _platform(access.platform), _authorization(access.token)
    url = f"{platform}/api/v2/{quote(path)}"
    try:  # `from None`, for what requests and urllib3 say may quote the server's bytes, or the proxy's password
        with _session(os.getpid()).request(
            method, url, headers={**(headers or {}), "Authorization": token}, stream=True, allow_redirects=elsewhere,
            timeout=(CONNECT_TIMEOUT, timeout or READ_TIMEOUT),
            proxies={"http": "", "https": ""} if _is_loopback(url) else None, **content,
        ) as response:
            if not 200 <= response.status_code < 300:
                raise _refusal(response, platform)
            return (read or _json)(response)
    except ValueError as error:  # how requests marks what can never be sent
        what = "the proxy needs PySocks: pip install pysocks" if "SOCKS" in str(error) else type(error).__name__
        raise RescaleError(f"{method} {url} cannot be sent: {what}; see HTTPS_PROXY") from None
    except (requests.RequestException, HTTPError) as error:
        raise _fault_of(error) from None


class _Session(requests.Session):
    """Connections that give the token to nobody but whom it was meant for, and lead out of no rehearsal."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        url, here = str(prepared_request.url), _is_loopback(str(response.request.url))
        if (url.startswith("http:") and not here) or (os.environ.get("RESCALE_REHEARSAL") and not _is_loopback(url)):
            raise requests.RequestException(f"redirected to {_short(urlsplit(url).netloc)}")
        # Without what requests does besides: look for another token in ~/.netrc.
        if self.should_strip_auth(response.request.url, prepared_request.url):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


@functools.lru_cache(maxsize=1)
def _session(process: int) -> requests.Session:
    """The connections of this process: a fork must not share them, hence the argument."""
    session = _Session()
    session.auth = lambda request: request  # without an `auth` of its own requests would take a token from ~/.netrc
    session.headers["User-Agent"] = f"rescale_rest_api/{__version__}"
    session.headers["Cache-Control"] = "no-cache"  # a proxy's old answer could hide that a job was started
    session.headers["Accept-Encoding"] = "identity"  # files come as they are stored
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))  # none: threads share them
    return session


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        raise _Fault(f"the answer is no JSON but {_short(response.headers.get('Content-Type', 'untyped'))}") from None


def _accepted(response: requests.Response) -> None:
    """The answer to what has no result: JSON, or nothing."""
    if response.content.strip():
        _json(response)


def _list_in(key: str, response: requests.Response) -> dict[str, Any]:
    """An answer that holds a list of objects; another one may pass, like that of a maintenance."""
    reply = _json(response)
    items = reply.get(key) if isinstance(reply, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _Fault(f"the answer has no {key}: {_short(reply)}")
    return dict(reply)


def _refusal(response: requests.Response, platform: str) -> Exception:
    """What any answer but 2xx means, in the server's own words; only what comes as JSON is the platform's own."""
    status, kind, body = response.status_code, response.headers.get("Content-Type", ""), b""
    with contextlib.suppress(HTTPError, OSError):
        body = response.raw.read(LOG_TAIL, decode_content=True) or b""
    said = kind if "html" in kind or not body else body.decode("utf-8", "replace")
    words = f"{status} {response.reason or ''}: {_short(said, 1000)}".replace(" : ", ": ")
    if status < 400:
        host = urlsplit(response.headers.get("Location", "")).netloc
        return _Fault(f"redirected to {_short(host) or 'another page'}; is that a login page or a proxy?")
    if status in (408, 429) or status >= 500:
        return _Fault(words, _retry_after(response.headers))
    hint = f" (a key belongs to one region: is it one of {platform}, and still valid?)" if status == 401 else ""
    text = f"{response.request.method} {response.url} was refused: {words}{hint}"
    return RescaleError(text, status) if "json" in kind else _Fault(text, final=True)  # of a proxy, or a gateway


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait before the next try; a date is measured against the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    seconds = float(text) if re.fullmatch(r"\d{1,9}", text) else 0.0
    with contextlib.suppress(KeyError, TypeError, ValueError, IndexError):
        moment, now = (email.utils.parsedate_to_datetime(headers[name]) for name in ("Retry-After", "Date"))
        seconds = (moment - now).total_seconds()
    return min(max(0.0, seconds), THROTTLE_PATIENCE)


def _fault_of(error: Exception) -> _Fault:
    """What a failed connection means to the user."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    hint = "is the address right, is there a network? For a proxy see HTTPS_PROXY and NO_PROXY"
    if isinstance(error, requests.exceptions.SSLError):
        hint = "where a company's proxy opens TLS, let REQUESTS_CA_BUNDLE name the file with its certificate"
    final = bool(re.search("CERTIFICATE|Tunnel connection failed: 407|407 Proxy", str(error)))
    return _Fault(f"{_short(cause)}; {hint}", final=final)


def _is_loopback(url: str) -> bool:
    return bool(re.fullmatch(r"localhost|127(\.\d{1,3}){3}|::1", urlsplit(url).hostname or ""))


def _platform(rescale_platform: str | None) -> str:
    """The platform's address without what people leave at its end; refuse what would send the token in the clear."""
    text = rescale_platform.strip() if isinstance(rescale_platform, str) else ""
    url = re.sub(r"(/api(/v\d+)?)?/*$", "", text if "://" in text else f"https://{text}")
    # A word without a dot, or of more than 63 letters, is a key in the wrong place.
    host = r"(?:[\w-]{1,63}\.)+[\w-]{1,63}|localhost|\[[0-9a-fA-F:]+\]"
    rehearsal = os.environ.get("RESCALE_REHEARSAL")
    if not text:
        raise RescaleError("rescale_platform is missing: set RESCALE_API_URL, or put apibaseurl into ~/.config/rescale/"
                           "apiconfig; or rehearse: python .../tests/rescale_simulator.py main.py (README)")
    if not re.fullmatch(rf"https?://({host})(:\d{{1,5}})?", url, re.ASCII):
        raise RescaleError(f"rescale_platform: {_shown(text)} is no address like https://kr.rescale.com")
    if url.startswith("http:") and not _is_loopback(url):
        raise RescaleError(f"rescale_platform: {text!r} would send the token unencrypted; write https://")
    if rehearsal and urlsplit(url).netloc != urlsplit(rehearsal).netloc:
        raise RescaleError(f"rescale_platform: {url} is not this rehearsal's; let platform_my_token() find it")
    return url


_secrets: set[str] = set()  # keys in use: whatever is printed or raised is freed of them


def _authorization(my_token: str | None) -> str:
    """The Authorization header, `Token …`; the token itself is never in the error."""
    words = my_token.split() if isinstance(my_token, str) else []
    scheme = words.pop(0) if words and words[0] in ("Token", "Bearer") else "Token"
    if len(words) != 1 or not re.fullmatch(r"[\x21-\x7e]+", words[0]) or "://" in words[0]:
        raise RescaleError("my_token is no API key: set RESCALE_API_KEY, or apikey in ~/.config/rescale/apiconfig")
    if len(words[0]) >= 8:
        _secrets.add(words[0])
    return f"{scheme} {words[0]}"


def _pages(access: _Access, path: str) -> Iterator[dict[str, Any]]:
    """All entries of a list, page by page. Where `next` leads does not count, only whether there is one."""
    read, before = functools.partial(_list_in, "results"), list[Any]()
    for number in itertools.count(1):
        page = _request(access, "GET", path, params={"page_size": PAGE_SIZE, "page": number}, read=read)
        if page["results"] and page["results"] == before:
            raise RescaleError(f"{path}: the platform's list has no end")
        before = page["results"]
        yield from before
        if not before or not _text(page, "next"):
            return


def _text(item: Any, key: str) -> str:
    text = item.get(key) if isinstance(item, dict) else None
    return text if isinstance(text, str) else ""


def _identifier(item: Any) -> str:
    identifier = _text(item, "id")
    if not re.fullmatch(r"[\w-]{1,64}", identifier, re.ASCII):
        raise RescaleError(f"the platform answered without an id: {_short(item)}")
    return identifier


def _check_job_id(job_id: str) -> None:
    if not isinstance(job_id, str) or not re.fullmatch(JOB_ID, job_id, re.ASCII):
        raise RescaleError(f"job_id = {_shown(job_id)} is no job id: it is the short word in the .job file, as LFZphb")


def _result_page(rescale_platform: str, job_id: str) -> str:
    return f"{_platform(rescale_platform)}/jobs/{job_id}/runs/1/results/"


# Files and text


@contextlib.contextmanager
def _file_errors(what: str) -> Iterator[None]:
    """Turn errors of the local file system, and of what a file holds, into RescaleError, `what` first."""
    try:
        yield
    except (OSError, json.JSONDecodeError) as error:
        name, said = (getattr(error, attribute, None) for attribute in ("filename", "strerror"))
        raise RescaleError(f"{what}: {said or error}" + (f" ({name})" if name else "")) from error


def _sum_up(file: IO[bytes], algorithm: str, size: int) -> Any:
    """The sum, so far, of the next `size` bytes of a file."""
    digest = hashlib.new(algorithm or "md5", usedforsecurity=False)
    while size and (block := file.read(min(CHUNK, size))):
        digest.update(block)
        size -= len(block)
    return digest


def _checksum(path: Path, algorithm: str, start: int = 0, size: int = 1 << 60) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return str(_sum_up(file, algorithm, size).hexdigest())


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name only when it is whole and on the disk; before, nothing of that name is touched."""
    part = path.with_name(f".{path.name.lstrip('.')}.part")
    part.unlink(missing_ok=True)  # of a run that was killed
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not os.path.samestat(part.stat(), os.fstat(file.fileno())):
                raise _in_use(path)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _at_once(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield work(item) for each item, in order, CONNECTIONS of them at a time, as many more done ahead.

    The threads are daemons, unlike a pool's: after Ctrl-C nobody waits for a line that hangs.
    """
    waiting, gate = iter(items), threading.BoundedSemaphore(CONNECTIONS)
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    while True:
        for item in itertools.islice(waiting, 2 * CONNECTIONS - len(pending)):
            pending.append(concurrent.futures.Future())
            threading.Thread(target=_work, args=(gate, pending[-1], work, item), daemon=True).start()
        if not pending:
            return
        while not pending[0].done():
            concurrent.futures.wait([pending[0]], timeout=1)  # Windows hears Ctrl-C only in between
        yield pending.popleft().result()


def _work(gate: Any, future: concurrent.futures.Future[R], work: Callable[[T], R], item: T) -> None:
    with gate:
        try:
            future.set_result(work(item))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)


class _Progress(contextlib.AbstractContextManager["_Progress"]):
    """How far a long transfer is; `stop` is set when its block is left, so that no thread goes on behind one's back."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self.began = what, total, 0, time.monotonic()
        self.lock, self.stop = threading.Lock(), threading.Event()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if _is_terminal():
            _logger.debug("")

    def add(self, size: int) -> None:
        """Count what has come, and tell it: each thousandth where the line is drawn anew, else each tenth."""
        with self.lock:
            steps = 1000 if _is_terminal() else 10
            before, self.done = self.done, self.done + size
            passed = time.monotonic() - self.began
            due = steps * self.done // max(self.total, 1) > steps * before // max(self.total, 1)
            if due and passed > PROGRESS_DELAY and self.done < self.total and not self.stop.is_set():
                rate = self.done / passed
                _logger.debug(
                    f"- {self.what}: {100 * self.done // self.total} % of {self.total / 1024**2:,.1f} MB, "
                    f"{rate / 1024**2:,.1f} MB/s, {_duration((self.total - self.done) / rate)} left"
                )


def _is_terminal() -> bool:
    return not getattr(sys.stdout, "closed", True) and sys.stdout.isatty()


class _Screen(logging.Handler):
    """Prints lines, errors on standard error; on a terminal a debug message, of progress, stays until the next line."""

    drawn = 0  # columns of such a line

    def emit(self, record: logging.LogRecord) -> None:
        text, stream = record.getMessage(), sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        end, width, self.drawn = "\n", self.drawn, 0
        if record.levelno == logging.DEBUG and _is_terminal():
            text, end = text[:shutil.get_terminal_size().columns - 1], "\r"
            self.drawn = len(text)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed terminal, a full disk, no stream
            encoding = getattr(stream, "encoding", None) or "utf-8"
            stream.write(f"{text.ljust(width)}{end}".encode(encoding, "replace").decode(encoding))
            stream.flush()

    def close(self) -> None:  # at the end of the script: what could not be printed must not become its exit status
        for name in ("stdout", "stderr"):
            try:
                getattr(sys, name).flush()
            except (OSError, ValueError, AttributeError):
                setattr(sys, name, None)


def _log_file(chain_name: str) -> logging.FileHandler:
    """A chain's log, each line with the local time; locked, where it can be, as long as its chain is at work."""
    with _file_errors(f"{chain_name}.log cannot be written; nothing was started"):
        log = logging.FileHandler(f"{chain_name}.log", encoding="utf-8", errors="replace")
    log.handleError = lambda _: None  # type: ignore[assignment]  # a full disk must not end a chain
    log.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    try:
        if fcntl and log.stream:
            fcntl.flock(log.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):  # else it is a file system without locks
            log.close()
            raise _in_use(Path(log.baseFilename)) from None
    return log


def _cleaned(record: logging.LogRecord) -> bool:
    """A filter: whatever is said is freed of keys and control characters."""
    record.msg, record.args = _printable(record.getMessage()), ()
    return True


_logger, _screen = logging.getLogger("rescale_rest_api"), _Screen()
_logger.setLevel(logging.DEBUG)
_logger.propagate = False
_logger.filters, _logger.handlers = [_cleaned], [_screen]
_say = _logger.info  # prints a line at once, and keeps it in the chain's log
_complain = functools.partial(_logger.error, "\n%s")  # the same, on standard error


def _printable(text: str) -> str:
    """`text` without keys and without control characters that would act on a terminal."""
    for secret in list(_secrets):
        text = text.replace(secret, "***")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def _shown(value: Any) -> str:
    """A wrong value as it may stand in an error: it may be a key in the wrong place."""
    return re.sub(r"[0-9A-Za-z_-]{32,}", "***", _short(repr(value)))


def _short(thing: Any, length: int = 300) -> str:
    """Anything as one line of bounded length."""
    text = " ".join(_printable(str(thing)).split())
    return text if len(text) <= length else f"{text[:length]}..."


def _now() -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time.time()).astimezone()


def _command(*arguments: str) -> str:
    """A command of this library, or an option of the running script, to be pasted; in a rehearsal one of that."""
    own = bool(arguments) and not arguments[0].startswith("-")
    path = Path(__file__ if own else sys.argv[0] or "main.py")
    with contextlib.suppress(ValueError, OSError):
        path = path.absolute().relative_to(Path.cwd())
    words = [str(path), *arguments]
    python = os.environ.get("RESCALE_REHEARSAL_COMMAND") or "python"
    return f"{python} {subprocess.list2cmdline(words) if WINDOWS else shlex.join(words)}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(_main())
