"""Automate Rescale jobs over its REST API: pack, upload, set up, submit, monitor, download, chain.

The functions stand in the order in which a job needs them, with the numbers of Rescale Korea's guide;
`main.py` beside this file chains them. API: https://engineering.rescale.com/api-docs/

Three assumptions, the guide's:
1. All input files lie directly in one working folder; folders in it are not taken along.
2. They travel as one archive, rescale.tar.gz.
3. Every job takes its input and leaves its result as rescale.tar.gz, so that a job's result is the next job's input.

Errors are exceptions: `RescaleError`, and `JobFailed` for a job that ended badly. Nothing here exits the interpreter.
Not an official Rescale product; use at your own risk.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import configparser
import contextlib
import datetime
import difflib
import errno
import functools
import hashlib
import http.cookiejar
import itertools
import json
import math
import os
import random
import re
import shutil
import struct
import sys
import tarfile
import threading
import time
import unicodedata
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None  # type: ignore[assignment]

ARCHIVE = "rescale.tar.gz"
LOG = "process_output.log"
SCRIPTS = ("main.py", "rescale_rest_api.py")  # never travel: they may hold the token

STATUS_INTERVAL = 5  # seconds between two looks at a job's status, the guide's step
LOG_INTERVAL = 15  # seconds between two looks at the log of an executing job, the guide's step
LOG_LINES = 20  # lines of the log per look, the guide's number
QUIET_INTERVAL = 1800  # seconds without a new log line after which one line says so
FAILURE_LINES = 40  # last lines of the log in the text of JobFailed
LOG_TAIL = 1 << 16  # bytes read from the end of a finished log: it may be huge, its end tells the outcome

CONNECT_TIMEOUT = 30  # seconds; urllib3 also lets a send stall no longer than this
READ_TIMEOUT = 60  # seconds without a byte of the answer
UPLOAD_TIMEOUT = 600  # seconds until an upload is answered: the platform stores and sums up gigabytes first
PATIENCE = 600  # seconds of faults after which a call gives up; job_monitor never does
THROTTLE_PATIENCE = 3900  # seconds to wait out a 429: the platform counts requests per hour (rescale-api.md §12)
LONGEST_WAIT = 60  # seconds between two tries at the most, unless the server asks for more
NOTICEABLE_WAIT = 5  # seconds; longer waits are announced
OVERVIEW_PATIENCE = 5  # seconds of faults after which the table at the end of a chain shows a ?
SUBMIT_PATIENCE = 60  # seconds until a submitted job must show a status
PROGRESS_DELAY = 2  # seconds before a transfer's progress is worth a line
OUTCOME_TRIES = 24  # of PATIENCE each, about four hours, where only the log tells how a job ended
FILES_INTERVAL = 1  # seconds between two looks at a file list that may still grow
FILES_PATIENCE = 120  # seconds until a completed job's file list must be complete
PAGE_SIZE = 1000  # entries per page: few requests for thousands of files

BLOCK = 1 << 20  # bytes per read and write of bulk data
CHUNK = 1 << 18  # bytes deflated or sent at a time: they fit the processor's cache; urllib3's own 16 KiB are slower
# Of 250 MB of mesh deck and binary fields, on two cores, the time until they are packed and uploaded over 100 Mbit/s
# and 1 Gbit/s: level 1 13.7 s and 3.9 s, level 4 14.7 s and 5.3 s, level 6 16.4 s and 7.1 s; more cores shrink the
# differences. But a pure mesh deck gets 20 % larger than with level 9 at level 1, 13 % at 3, 6 % at 4: the fastest one
# that keeps every archive, which is stored and moved again and again, within 10 %. (tests/benchmark.py)
LEVEL = 4
CONNECTIONS = 8  # at once; the platform counts requests
RANGE = 1 << 22  # bytes; a file is fetched in ranges of at least this size ...
RANGES = 64  # ... and at most this many of them
SINGLE = 1 << 26  # bytes; up to this size a file comes in one request

DEFAULT_WALLTIME = 24  # hours, where a job that is read had no limit
INPUT_FILE = 1  # typeId of what was uploaded, not written by a job

WINDOWS = os.name == "nt"
ENDED = ("Completed", "Failed", "Stopped", "Force Stopped", "Terminated", "Cancelled")
NEVER_RAN = (
    "exceeded max number of restarts",
    "could not allocate compute resources from the compute provider",
)


class RescaleError(Exception):
    """What failed, what the server said, what was kept and what to do next; never the token."""

    def __init__(self, text: str, status: int | None = None, retry_after: float = 0) -> None:
        super().__init__(_printable(text))
        self.status = status  # of the HTTP answer that refused the request
        self.retry_after = retry_after  # seconds that the server asked for


class JobFailed(RescaleError):
    """A job ended without success; `log_lines` holds the last lines of its process_output.log."""

    def __init__(self, text: str, job_id: str, reason: str, log_lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.job_id = job_id
        self.reason = _printable(reason)
        self.log_lines = [_printable(line) for line in log_lines]


# 1. Token


def platform_my_token(
    rescale_platform: str | None = None, my_token: str | None = None, *, profile: str | None = None
) -> tuple[str, str]:
    """Find the platform's address and the API key.

    Each is the argument, else RESCALE_API_URL and RESCALE_API_KEY, else what section `profile` (`default`) of
    ~/.config/rescale/apiconfig says. A profile that is named goes before the environment.

    Returns (platform, token): ('https://kr.rescale.com', 'Token 0123…').
    Prints the platform and the last 4 characters of the token.
    Raises RescaleError when one of them is missing or malformed.
    """
    rehearsing = bool(os.environ.get("RESCALE_REHEARSAL"))
    found = {"url": os.environ.get("RESCALE_API_URL"), "key": os.environ.get("RESCALE_API_KEY")}
    if (profile or not (found["url"] and found["key"])) and not rehearsing:
        from_file = _apiconfig(profile)
        found = {
            name: (from_file.get(name) or found[name]) if profile else (found[name] or from_file.get(name))
            for name in found
        }
    platform = _platform(rescale_platform or found["url"])
    token = _authorization(my_token or found["key"])
    key = token.split(" ", 1)[1]
    _say(f"rescale_platform = {platform}")
    _say(f"my_token = Token ...{key[-4:] if len(key) >= 12 else ''}")
    return platform, token


def _apiconfig(profile: str | None) -> dict[str, str | None]:
    """Read address and key from the file that Rescale's own CLI writes; `%` is literal, quotes are dropped."""
    path = Path.home() / ".config" / "rescale" / "apiconfig"
    if not path.exists():
        if profile:
            raise RescaleError(f"profile {profile!r}: there is no {path}; create it or leave the profile out")
        return {}
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))
        mode = path.stat().st_mode
    except (OSError, ValueError, configparser.Error) as error:
        # The parser's own words quote the file's lines, and with them the key.
        raise RescaleError(f"{path} cannot be read ({type(error).__name__}); it must be an INI file, see the README") \
            from None
    section = profile or "default"
    if not parser.has_section(section):
        if profile:
            raise RescaleError(f"profile {profile!r} is not in {path}; it has: {', '.join(parser.sections())}")
        return {}
    if not WINDOWS and mode & 0o077:
        _say(f"Warning: {path} can be read by others; it holds your API key: chmod 600 {path}")

    def value(*names: str) -> str | None:
        texts = (parser.get(section, name, fallback="").strip() for name in names)
        return next((re.sub(r"""^(["'])(.*)\1$""", r"\2", text) for text in texts if text), None)

    return {"url": value("apibaseurl", "apiurl", "platform_url"), "key": value("apikey", "api_key")}


# 2. Archive


def create_tar_gz(input_path: str | os.PathLike[str] | None = None, output_filename: str = ARCHIVE) -> Path:
    """Pack all regular files that lie directly in `input_path` (default: the current folder) into one archive.

    Folders are left out and named. A symbolic link is packed as the file it points to, for links do not survive the
    platform's unpacking. The archive itself, the running script and this library never go in.

    Returns the path of the archive, `output_filename` under the current folder. Prints
    `Successfully created rescale.tar.gz in <folder>`. Raises RescaleError for an unknown or empty folder and for a
    file that cannot be read whole; an older archive of that name is then left as it was.
    """
    with _file_errors("the current folder cannot be used"):
        folder = Path.cwd() if input_path is None else Path(input_path)
        output = Path(output_filename).absolute()
    files, left_out = _inputs(folder, output)
    if left_out:
        _say(f"- left out: {', '.join(left_out)}")
    with _file_errors(f"{output.name} was not created"), _whole_file(output) as file, \
            _Progress(f"packing {output.name}", sum(path.stat().st_size for path in files)) as progress, \
            _GzipWriter(file, progress) as writer, \
            tarfile.TarFile(
                fileobj=cast(BinaryIO, writer), mode="w", dereference=True, copybufsize=CHUNK
            ) as tar:
        for path in files:
            _add(tar, path)
    _say(f"Successfully created {output.name} in {output.parent}")
    return output


def _inputs(folder: Path, output: Path) -> tuple[list[Path], list[str]]:
    """The files of `folder` to pack, sorted, and what is left out, with the reason."""
    if not folder.is_dir():
        raise RescaleError(f"input_path {str(folder)!r} is not a folder; give the folder that holds the input files")
    links = {f"{path.stem}{end}": path.stem for path in folder.glob("*.job") for end in (".job", ".desktop", ".url")}
    earlier = {stem for name, stem in links.items() if not name.endswith(".job") and (folder / name).exists()}
    driver = getattr(sys.modules.get("__main__"), "__file__", None)
    own = [Path(name) for name in (driver, __file__) if name and Path(name).exists()]
    files, left_out = [], []
    with _file_errors(f"input_path {folder} cannot be listed"):
        for path in sorted(folder.iterdir()):
            if path.is_symlink() and not path.exists():
                raise RescaleError(f"{path} is a link to a file that does not exist; put the file there or remove it")
            if path.is_dir():
                left_out.append(f"{path.name}/ (folder)")
            elif path.name in (ARCHIVE, output.name):
                left_out.append(f"{path.name} (an archive of its own)")
            elif path.name == f".{output.name}.part" or links.get(path.name) in earlier:
                continue  # what a killed run left behind or this one is about to write; the files of earlier jobs
            elif path.name in SCRIPTS or any(path.samefile(script) for script in own):
                left_out.append(f"{path.name} (script, may hold the token)")
            elif path.is_file() and _holds_token(path):
                left_out.append(f"{path.name} (holds the token)")
            elif not path.is_file():
                left_out.append(f"{path.name} (not a regular file)")
            else:
                files.append(path)
    if not files:
        raise RescaleError(
            f"input_path {folder.absolute()} holds no files to pack"
            + (f" (left out: {', '.join(left_out)})" if left_out else "")
            + "; all input files must lie directly in it"
        )
    return files, left_out


def _holds_token(path: Path) -> bool:
    """Whether a file, a copy of a script say, holds a key that is in use."""
    if not _secrets or path.stat().st_size > BLOCK:
        return False
    try:
        content = path.read_bytes()
    except OSError:  # packing it will tell
        return False
    return any(secret.encode() in content for secret in _secrets)


def _add(tar: tarfile.TarFile, path: Path) -> None:
    """Add one file, without the user names of this machine, which mean nothing on the cluster."""
    try:
        with path.open("rb") as source:
            member = tar.gettarinfo(arcname=path.name, fileobj=source)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = int(member.mtime)  # fractions would cost an extra header per file
            tar.addfile(member, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise  # not this file is to blame, but the archive's disk
        raise RescaleError(
            f"{path} could not be packed whole: {error.strerror or error}. Nothing was uploaded; see that the file "
            "can be read and that no program is writing to it, then start again"
        ) from error


class _GzipWriter:
    """Writes one ordinary gzip member whose blocks are deflated on all cores, as pigz does.

    zlib lets go of the interpreter's lock while it works. Each block starts with the end of the one before it as its
    dictionary, so that hardly anything is lost against deflating in one piece.
    """

    def __init__(self, file: BinaryIO, progress: _Progress) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = min(cores, 32)  # blocks in work are memory
        self.pool = concurrent.futures.ThreadPoolExecutor(self.threads)
        self.pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
        self.file, self.progress = file, progress
        self.pieces: list[bytes] = []  # written, but not yet a block
        self.held, self.window = 0, b""
        self.crc = self.size = 0

    def __enter__(self) -> _GzipWriter:
        self.file.write(b"\x1f\x8b\x08\0" + bytes(5) + b"\xff")  # gzip, deflate; no name, no time, any system
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.pool:
            if kind is None:
                self._deflate(last=True)
                self.file.write(struct.pack("<LL", self.crc, self.size & 0xFFFFFFFF))

    def tell(self) -> int:
        return self.size + self.held

    def write(self, data: bytes) -> int:
        self.pieces.append(data)
        self.held += len(data)
        if self.held >= CHUNK:
            self._deflate()
        return len(data)

    def _deflate(self, last: bool = False) -> None:
        """Hand a block to the pool, and write what is finished, in order."""
        block = b"".join(self.pieces)
        self.pieces, self.held = [], 0
        self.crc = zlib.crc32(block, self.crc)
        self.size += len(block)
        self.pending.append(self.pool.submit(_deflated, block, self.window, last))
        self.window = block[-(1 << 15):]
        while self.pending and (last or len(self.pending) > 2 * self.threads):
            self.file.write(self.pending.popleft().result())
        self.progress.add(len(block))


def _deflated(block: bytes, window: bytes, last: bool) -> bytes:
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, zdict=window)
    return deflate.compress(block) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


# 3. Upload


def upload_local_files(
    rescale_platform: str,
    my_token: str,
    input_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ARCHIVE,
    *,
    decompress: bool = True,
) -> list[dict[str, Any]]:
    """Upload files to Rescale files: a path, a list of paths, or names separated by blanks.

    `decompress` says whether the platform unpacks them into the work folder of the job that takes them.

    Returns the list for job_setup: [{'id': 'dxGonb', 'decompress': True}]. Prints `- rescale.tar.gz uploaded` per
    file, `All files uploaded successfully!` and the list. Raises RescaleError, before anything is sent, when a file
    does not exist. Source: POST /api/v2/files/contents/ (rescale-api.md §2).
    """
    uploads = []
    with _file_errors("the current folder cannot be used"):
        paths = _local_files(input_file)
    for path in paths:
        uploads.append({"id": _upload(rescale_platform, my_token, path), "decompress": decompress})
        _say(f"- {path.name} uploaded")
    _say("All files uploaded successfully!")
    _say(f"inputfiles_list = {uploads}")
    return uploads


def _local_files(input_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The existing files that `input_file` names."""
    if isinstance(input_file, str) and not Path(input_file).is_file():
        names: Sequence[str | os.PathLike[str]] = input_file.split()
    else:
        names = list(input_file) if isinstance(input_file, (list, tuple)) else [input_file]  # type: ignore[list-item]
    paths = [Path(name) for name in names if isinstance(name, (str, os.PathLike))]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths or len(paths) < len(names):
        raise RescaleError(
            f"input_file {', '.join(missing) or repr(input_file)}: no such file in {Path.cwd()}; "
            "run create_tar_gz first or give the file's path. Nothing was uploaded"
        )
    return paths


def _upload(rescale_platform: str, my_token: str, path: Path) -> str:
    """Upload one file and return its id; what the platform says that it got must be what was sent."""
    from requests_toolbelt.multipart.encoder import MultipartEncoder  # type: ignore[import-untyped]  # only used here

    # Open throughout: what is sent again after a fault is the same file, whatever has its name by then.
    with _file_errors(f"{path} could not be uploaded"), path.open("rb") as file:

        def size() -> int:
            return os.fstat(file.fileno()).st_size

        def fresh() -> dict[str, Any]:  # an encoder is single-use: sent twice it hangs
            file.seek(0)
            content = _FixedLength(file, size(), _Progress(f"uploading {path.name}", size()))
            encoder = MultipartEncoder({"file": (path.name, content, "application/octet-stream")})
            return {"data": encoder, "headers": {"Content-Type": encoder.content_type}}

        def stored(response: requests.Response) -> str:
            reply = _object(_json(response), "the answer to the upload")
            if isinstance(reply.get("decryptedSize"), int) and reply["decryptedSize"] != size():
                raise _Fault(f"{reply['decryptedSize']} of {size()} bytes of {path.name} arrived")
            return _identifier(reply, "the answer to the upload")

        identifier: str = _request(
            rescale_platform, my_token, "POST", "files/contents/",
            fresh=fresh, read=stored, read_timeout=UPLOAD_TIMEOUT,
        )
        return identifier


class _FixedLength:
    """A file that stays as long as it was announced to be, whatever others do to it meanwhile."""

    def __init__(self, file: BinaryIO, size: int, progress: _Progress) -> None:
        self.file, self.len, self.progress = file, size, progress  # `len`: what is left, as the encoder reads it

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(self.len if size < 0 else min(size, self.len))
        if not block and self.len:
            raise _Fault("the file shrank while it was being sent")
        self.len -= len(block)
        self.progress.add(len(block))
        return block


# 4. Set-up


def job_setup(
    rescale_platform: str,
    my_token: str,
    job_name: str,
    command: str,
    code_name: str,
    version_code: str,
    license_info: Mapping[str, Any],
    coretype_code: str,
    core_per_slot: int,
    slot: int,
    walltime: int,
    projectid: str | None,
    inputfiles_list: Sequence[Mapping[str, Any]],
    *,
    license_features: Mapping[str, int] | None = None,
) -> str:
    """Create a job; nothing runs and nothing is charged until job_submit.

    `walltime` is in whole hours. `license_info` are the environment variables that name the licence server,
    {'LM_LICENSE_FILE': '27000@host'}; {} for none. `license_features` counts the licences that the job waits for,
    {'abaqus': 8}. After `command` the job packs all that is left in its work folder into a new rescale.tar.gz; see
    `_job_command`.

    Returns the job's id. Prints `Job_ID: LFZphb`. Raises RescaleError for values that cannot be right, before the
    platform is asked, and with the platform's own words for those that it refuses.
    Source: POST /api/v2/jobs/ (rescale-api.md §4).
    """
    _check_job_name(job_name)
    for name, value in (("command", command), ("code_name", code_name), ("coretype_code", coretype_code)):
        if not isinstance(value, str) or not value.strip():
            raise RescaleError(f"{name} = {value!r}: give a text; job_settings prints the one of a job that ran")
    job = {
        "name": job_name,
        "projectId": projectid or None,
        "isLowPriority": False,
        "jobanalyses": [
            {
                "analysis": {"code": code_name, "version": str(version_code)},
                "command": _job_command(command),
                "flags": {"igCv": True},  # the packing would fail some tiles' check of the command
                "envVars": _license_info(license_info),
                "useRescaleLicense": False,
                "userDefinedLicenseSettings": _license_settings(license_features),
                "hardware": {
                    "coreType": coretype_code,
                    "coresPerSlot": _whole_number("core_per_slot", core_per_slot, "cores"),
                    "slots": _whole_number("slot", slot, "slots (1 for all but DOE)"),
                    "walltime": _whole_number("walltime", walltime, "hours"),
                },
                "inputFiles": _input_files(inputfiles_list),
            }
        ],
    }
    reply = _request(rescale_platform, my_token, "POST", "jobs/", fresh=lambda: {"json": job})
    job_id = _identifier(_object(reply, "the new job"), "the new job")
    _say(f"Job_ID: {job_id}")
    return job_id


# An archive that the command made itself differs in its last bytes, gzip's checksum, if in nothing else. The `:` is for
# a command that is only a comment.
COMMAND_HEAD = f"""set +e
archive() {{ ls -i {ARCHIVE} && wc -c < {ARCHIVE} && tail -c 8 {ARCHIVE} | cksum; }} 2> /dev/null
archive_before=$(archive)
(
:
"""
COMMAND_TAIL = f"""
)
status=$?
# rescale_rest_api: all that is left goes into {ARCHIVE}; nothing is deleted before that archive is complete
compress=gzip
if command -v pigz > /dev/null 2>&1; then compress=pigz; fi
pack() {{ # prints the exit status of each program; tar compresses not itself, for some take no 'gzip -1'
    {{ {{ find . -mindepth 1 -maxdepth 1 ! -name {ARCHIVE} ! -name .{ARCHIVE}.part ! -name {LOG} ! -name __pycache__ \
            ! -name tmp {' '.join(f'! -name {script}' for script in SCRIPTS)} -print0; printf $? >&3; }} |
        {{ tar -cf - --null -T -; printf $? >&3; }} | {{ $compress -1 > .{ARCHIVE}.part; printf $? >&3; }}; }} 3>&1
}}
if [ -f {ARCHIVE} ] && [ "$(archive)" != "$archive_before" ]
then
    echo 'the command packed {ARCHIVE} itself: all files stay as it left them'
elif [ "$(pack)" = 000 ] && mv -f .{ARCHIVE}.part {ARCHIVE}
then
    find . -mindepth 1 -maxdepth 1 ! -name {ARCHIVE} ! -name {LOG} -exec rm -rf {{}} +
    [ $status -ne 0 ] || rm -f {LOG}
else
    echo '{ARCHIVE} could not be packed: all files stay as they are' >&2
    rm -f .{ARCHIVE}.part
    [ $status -ne 0 ] || status=1
fi
(exit $status)
"""


def _job_command(command: str) -> str:
    """The user's command in a subshell, then the packing, with the user's exit status as the job's own.

    After success only rescale.tar.gz is left. After a failure what there is gets packed all the same, and
    process_output.log stays beside it to be read. A command that packs its own rescale.tar.gz is left to it.
    """
    return COMMAND_HEAD + command + COMMAND_TAIL


def _user_command(command: str) -> str:
    """The user's part of a job's command, whether job_setup made it or not."""
    head, _, rest = command.partition(COMMAND_HEAD)
    return rest.partition(COMMAND_TAIL[: COMMAND_TAIL.index(":")])[0] if rest and not head else command


def _check_job_name(job_name: str) -> None:
    """Refuse a job name that cannot name the .job file and the result folder."""
    forbidden = r"[\x00-\x1f\x7f/]|^\.+$"
    if WINDOWS:
        forbidden += r'|[\\:*?"<>|]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)'
    if not isinstance(job_name, str) or not job_name.strip() or re.search(forbidden, job_name, re.IGNORECASE):
        raise RescaleError(
            f"job_name = {job_name!r} cannot be the name of a file, and results go into a folder of that name; "
            "use letters, digits and - _ . @"
        )
    if len(job_name.encode("utf-8", "surrogatepass")) > 200:
        raise RescaleError(f"job_name = {job_name!r} is too long for a file name; 200 bytes at most")


def _whole_number(name: str, value: Any, unit: str) -> int:
    """A positive whole number that may have been written as a text."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not (number >= 1 and number < 1e6 and number == int(number)):
        raise RescaleError(f"{name} = {value!r} is not a positive whole number of {unit}")
    return int(number)


def _license_info(license_info: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(license_info, Mapping) or not all(isinstance(name, str) and name for name in license_info):
        raise RescaleError(
            f"license_info = {license_info!r} is not a mapping of variables to values; "
            "write {'LM_LICENSE_FILE': '27000@host'}, or {} for none"
        )
    return {name: str(value) for name, value in license_info.items()}


def _license_settings(license_features: Mapping[str, int] | None) -> dict[str, Any] | None:
    if not license_features:
        return None
    if not isinstance(license_features, Mapping):
        raise RescaleError(f"license_features = {license_features!r} is not a mapping; write {{'abaqus': 8}}")
    features = [
        {"name": name, "count": _whole_number(f"license_features[{name!r}]", count, "licences")}
        for name, count in license_features.items()
    ]
    return {"featureSets": [{"name": "USER_SPECIFIED", "features": features}]}


def _input_files(inputfiles_list: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(inputfiles_list, (list, tuple)) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("id"), str) and entry["id"] for entry in inputfiles_list
    ):
        raise RescaleError(
            f"inputfiles_list = {inputfiles_list!r} is not a list of {{'id': …, 'decompress': True}}; "
            "take what upload_local_files or file_previous_job returned"
        )
    return [{"id": entry["id"], "decompress": bool(entry.get("decompress", True))} for entry in inputfiles_list]


# 5. Submit


def job_submit(rescale_platform: str, my_token: str, job_name: str, job_id: str) -> None:
    """Start a job, exactly once: one that has statuses already is left alone, so that this can be repeated.

    Prints `Job LFZphb : submitted`. Writes, under the current folder, `<job_name>.job` with the job's id before the
    request, and a link to the result page, `<job_name>.desktop` or on Windows `<job_name>.url`. While this process
    lives no other one can submit under that name. Raises RescaleError when the platform refuses the job, or accepts
    it and shows no status. Source: POST /api/v2/jobs/{id}/submit/ (rescale-api.md §6).
    """
    _check_job_name(job_name)
    _check_job_id(job_id)
    job_file = Path(f"{job_name}.job")
    with _file_errors(f"{job_file} cannot be written; job {job_id} was not submitted"):
        again = job_file.exists() and job_file.read_bytes().split() == [job_id.encode()]
        _claim(job_file, f"{job_id}\n")
    _start(rescale_platform, my_token, job_id, again)
    _say(f"Job {job_id} : submitted")
    page = _result_page(rescale_platform, job_id)
    link, text = (f"{job_name}.url", f"[InternetShortcut]\nURL={page}\n") if WINDOWS else (
        f"{job_name}.desktop", f"[Desktop Entry]\nType=Link\nName={job_name}\nURL={page}\n")
    try:
        with _file_errors(f"{link} cannot be written; the result page is {page}"), _whole_file(Path(link)) as file:
            file.write(text.encode())
    except RescaleError as error:  # only a convenience: the job runs
        _say(f"- {error}")


def _start(rescale_platform: str, my_token: str, job_id: str, again: bool) -> None:
    """Send the submission; whatever is answered, the statuses decide whether the job was started.

    `again`: an earlier run was killed, perhaps while its submission was on the way.
    """

    def started(patience: float = 0) -> bool:
        deadline = time.monotonic() + patience
        while not _statuses(rescale_platform, my_token, job_id):
            if time.monotonic() >= deadline:
                return False
            time.sleep(1)
        return True

    if started(SUBMIT_PATIENCE if again else 0):
        return
    try:
        # An unclear answer may hide a start: the platform gets time to show it before the request is repeated.
        _request(
            rescale_platform, my_token, "POST", f"jobs/{job_id}/submit/", fresh=lambda: {"json": {}},
            read=_nothing, settled=lambda: started(SUBMIT_PATIENCE),
        )
    except RescaleError as error:
        if error.status is None:
            raise RescaleError(
                f"job {job_id} may have been started, and be billed: {error}. Its id is kept; to submit it again is "
                f"safe, for its statuses are looked at first. Its page: {_result_page(rescale_platform, job_id)}"
            ) from error
        if not started():
            raise
    if not started(SUBMIT_PATIENCE):
        raise RescaleError(
            f"job {job_id}: the submission was accepted, but the job has no status after {SUBMIT_PATIENCE} s. "
            f"Look at {_result_page(rescale_platform, job_id)} before anything is started again"
        )


# 6. Monitor


def job_monitor(rescale_platform: str, my_token: str, job_id: str) -> None:
    """Follow a job until it has ended, through outages of any length.

    Prints `Job LFZphb : Pending` and so on, once per change, and while the job executes the new lines of its
    process_output.log: `...` where lines were missed, `Waiting.....` until the log can be read.
    Raises JobFailed unless the job succeeded, RescaleError when the platform refuses the question (401, 403, 404).
    Source: GET /api/v2/jobs/{id}/statuses/ and …/runs/1/tail/ (rescale-api.md §7, §8).
    """
    _check_job_id(job_id)
    shown: list[_Status] = []
    log = _Log(rescale_platform, my_token, job_id)
    began = time.monotonic()
    while True:
        history = _statuses(rescale_platform, my_token, job_id, patience=math.inf)
        for entry in history:
            if entry not in shown:
                if not shown or entry.status != shown[-1].status:
                    _say(f"Job {job_id} : {entry.status}")
                shown.append(entry)
        status = history[-1].status if history else None
        if status in ENDED:
            break
        if not shown and time.monotonic() - began > SUBMIT_PATIENCE:
            raise RescaleError(f"job {job_id} has no status: it was never submitted; see job_submit")
        if status == "Executing":
            log.follow()
        time.sleep(STATUS_INTERVAL)
    _raise_unless_successful(rescale_platform, my_token, job_id, history, log)


class _Status(NamedTuple):
    date: datetime.datetime | None
    status: str
    reason: str | None


def _statuses(rescale_platform: str, my_token: str, job_id: str, patience: float | None = None) -> list[_Status]:
    """The job's status history, oldest first."""
    entries = []
    for item in _pages(rescale_platform, my_token, f"jobs/{job_id}/statuses/", patience=patience):
        status, reason = item.get("status"), item.get("statusReason")
        if not isinstance(status, str) or not status:
            raise RescaleError(f"job {job_id}: an entry of the status history has no status: {item}")
        entries.append(_Status(_date(item.get("statusDate")), status, reason if isinstance(reason, str) else None))
    dates = [entry.date for entry in entries if entry.date]
    # Newest first is the documented order; the dates decide, and the order only where they are equal or missing.
    if not dates or dates[0] >= dates[-1]:
        entries.reverse()
    if len(dates) == len(entries):
        entries.sort(key=lambda entry: entry.date or datetime.datetime.min)
    return entries


def _date(text: Any) -> datetime.datetime | None:
    """A date as the platform writes it, `…Z` or with an offset, with or without fractions of a second."""
    match = isinstance(text, str) and re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?(Z|[+-]\d\d:\d\d)?", text
    )
    if not match:
        return None
    try:
        return datetime.datetime.fromisoformat(
            f"{match[1]}.{match[2] or '':0<6}{(match[3] or 'Z').replace('Z', '+00:00')}"
        )
    except ValueError:
        return None


class _Log:
    """The live process_output.log of one job: `tail` gives its last lines only, so the overlap has to be found."""

    def __init__(self, rescale_platform: str, my_token: str, job_id: str) -> None:
        self.access = rescale_platform, my_token
        self.job_id = job_id
        self.paths = [LOG, f"shared/{LOG}"]  # the second where the tile works in work/shared
        self.lines: list[str] = []  # the last ones shown
        self.executing_since = self.new_line_at = self.told_at = time.monotonic()
        self.looked_at = -math.inf
        self.waiting = False

    def follow(self) -> None:
        """Print the new lines, if it is time to look."""
        now = time.monotonic()
        if self.looked_at == -math.inf:
            self.executing_since = self.new_line_at = self.told_at = now
        if now - self.looked_at < LOG_INTERVAL:
            return
        self.looked_at = now
        tail = self._tail()
        if tail is None and not self.lines:
            if not self.waiting:
                _say("Waiting.....")
            self.waiting = True
            self.paths.reverse()
        if tail and self.show(tail):
            self.new_line_at = self.told_at = now
        elif now - self.told_at >= QUIET_INTERVAL:
            self.told_at = now
            _say(
                f"Job {self.job_id} : executing for {_duration(now - self.executing_since)}, "
                f"no new line in {LOG} for {_duration(now - self.new_line_at)}"
            )

    def show(self, tail: list[str]) -> bool:
        """Print the lines of `tail` that have not been shown; tell whether there were any."""
        new, gap = _new_lines(self.lines, tail)
        own = _without_command(new)
        if own and (gap or (not self.lines and len(own) == LOG_LINES)):
            _say("...")
        for line in own:
            _say(line)
        self.lines = (self.lines + new)[-LOG_LINES:]
        return bool(new)

    def _tail(self) -> list[str] | None:
        """The last lines, or None for any answer that is not lines: there is nothing to read yet, or no more."""
        path = f"jobs/{self.job_id}/runs/1/tail/{self.paths[0]}"
        try:
            reply = _request(*self.access, "GET", path, fresh=lambda: {"params": {"lines": LOG_LINES}}, patience=0)
        except RescaleError as error:
            self.looked_at += max(0, error.retry_after - LOG_INTERVAL)
            return None
        lines = reply.get("lines") if isinstance(reply, dict) else None
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            return None
        return [line.rstrip("\r\n") for line in lines]


def _without_command(lines: list[str]) -> list[str]:
    """Log lines without the platform's echo of the whole command, most of which is the packing."""
    first, last = COMMAND_HEAD.splitlines()[0], COMMAND_TAIL.splitlines()[-1]
    end = max((number for number, line in enumerate(lines) if last in line), default=-1)
    rest = lines[end + 1 :]
    begin = next((number for number, line in enumerate(rest) if line.endswith(f"Launching {first}")), None)
    return rest[:begin]


def _new_lines(shown: list[str], tail: list[str]) -> tuple[list[str], bool]:
    """The lines of `tail` behind those already shown, and whether lines in between were missed."""
    for overlap in range(min(len(shown), len(tail)), 0, -1):
        if shown[-overlap:] == tail[:overlap]:
            return tail[overlap:], False
    for overlap in range(min(len(shown), len(tail)), 0, -1):
        # The last line shown may have been half written.
        *whole, half = shown[-overlap:]
        if half.strip() and whole == tail[: overlap - 1] and tail[overlap - 1].startswith(half):
            return tail[overlap - 1 :], False
    return tail, bool(shown and tail)


def _raise_unless_successful(
    rescale_platform: str, my_token: str, job_id: str, history: list[_Status], log: _Log
) -> None:
    """Raise JobFailed unless the status history, and where it is silent what the job left behind, shows success."""
    success, reason = _verdict(history)
    files: list[_File] = []
    lines: list[str] = []
    if any(entry.status == "Executing" for entry in history):
        try:
            files, lines = _what_it_left(rescale_platform, my_token, job_id, success)
        except RescaleError as error:
            if success is not False:  # not known to have failed
                text = f"job {job_id} ended ({reason}), but what it left cannot be looked at: {error}"
                raise RescaleError(text, error.status) from error
    code = _exit_code(lines)
    if success is None:
        success = code == 0 or (code is None and [file.relative for file in files if not file.is_input] == [ARCHIVE])
    if success and code:
        success, reason = False, f"{LOG} ends with exit code {code}, though the platform says {reason!r}"
    if success:
        if lines and log.lines:
            log.show(lines[-FAILURE_LINES:])
        return
    raise JobFailed(
        "\n".join([
            f"Job {job_id} failed: {reason}" + (f" (exit code {code})" if code else ""),
            *([f"The last lines of {LOG}:", *(f"    {line}" for line in lines[-FAILURE_LINES:])] if lines
              else [f"It left no {LOG} that can be read."]),
            f"Result page: {_result_page(rescale_platform, job_id)}",
            f"What it wrote until then is kept there; fetch it with: python {_here(__file__)} download {job_id}",
        ]),
        job_id, reason, lines[-FAILURE_LINES:],
    )


def _what_it_left(
    rescale_platform: str, my_token: str, job_id: str, success: bool | None
) -> tuple[list[_File], list[str]]:
    """The output files of a job that has ended, and its log; waits for them longest where the outcome hangs on them."""
    for tries_left in range(0 if success is False else OUTCOME_TRIES, -1, -1):
        try:
            # A failed job leaves its log; where nothing else tells the outcome, that it is missing must be sure.
            wanted = LOG if success is None else ""
            files = _output_files(rescale_platform, my_token, job_id, wanted=wanted, successful=bool(success))
            return files, _without_command(_finished_log(rescale_platform, my_token, files))
        except RescaleError as error:
            if not tries_left or error.status is not None:
                raise
            _statuses(rescale_platform, my_token, job_id, patience=math.inf)  # an outage of everything is waited out
    raise AssertionError("not reached")


def _verdict(history: list[_Status]) -> tuple[bool | None, str]:
    """Whether the job succeeded (None: the history does not say) and why, by the rule of rescale-api.md §7."""
    last = history[-1]
    executing = max((index for index, entry in enumerate(history) if entry.status == "Executing"), default=-1)
    stops = [entry for entry in history[executing + 1 :] if entry.status in ("Stopping", "Force Stop")]
    if stops:
        return False, next((entry.reason for entry in stops if entry.reason), stops[0].status)
    reason = " ".join((last.reason or "").split())
    if last.status != "Completed":
        return False, reason or last.status
    if reason.casefold() == "completed successfully":
        return True, reason
    if reason.casefold() in NEVER_RAN or executing < 0:
        return False, reason or "it never executed"
    return None, reason or "it ended without a reason, and nothing it left behind confirms success"


def _exit_code(lines: list[str]) -> int | None:
    """The exit code in the log's closing line; a program may print the like itself, so the last one counts."""
    codes = [match[1] for match in (re.search(r"Exited with code (-?\d{1,9})\s*$", line) for line in lines) if match]
    return int(codes[-1]) if codes else None


# 7. Download


def job_download(rescale_platform: str, my_token: str, job_name: str, job_id: str) -> list[Path]:
    """Fetch all output files of a job into the folder `<job_name>` under the current one.

    Each file arrives under a hidden temporary name, is checked against size and checksum and only then renamed. What
    is there already and right is not fetched again; an interrupted download goes on where it stopped; another file
    that is in the way is set aside under a new name.

    Returns the paths. Prints `Total 1 files will be downloaded`, `1 user/…/rescale.tar.gz downloaded` per file and
    `Total 1 files, 93.345 MB downloaded` (MB = 1024²). Raises RescaleError for a job without files, a file that
    arrives wrong twice, a full disk.
    Source: GET /api/v2/jobs/{id}/files/ and /api/v2/files/{id}/contents/ (rescale-api.md §9, §3).
    """
    _check_job_name(job_name)
    _check_job_id(job_id)
    began = time.monotonic()
    files = _output_files(rescale_platform, my_token, job_id, successful=True)
    targets = _download(rescale_platform, my_token, job_name, job_id, files)
    if [file.name for file in files if not file.is_input] == [ARCHIVE]:  # there may be more, which is not listed yet
        time.sleep(max(0, began + FILES_INTERVAL - time.monotonic()))
        if len(_listing(rescale_platform, my_token, job_id)) > len(files):
            files = _output_files(rescale_platform, my_token, job_id)
            targets = _download(rescale_platform, my_token, job_name, job_id, files)
    return targets


def _download(
    rescale_platform: str, my_token: str, job_name: str, job_id: str, files: list[_File]
) -> list[Path]:
    """Fetch these output files, and print how it goes."""
    if not files:
        history = _statuses(rescale_platform, my_token, job_id)
        status = history[-1].status if history else "not submitted"
        raise RescaleError(
            f"job {job_id} has no output files; its status is {status}: {_result_page(rescale_platform, job_id)}"
        )
    unfinished = [file.name for file in files if not file.uploaded]
    files = [file for file in files if file.uploaded]
    with _file_errors("the current folder cannot be used"):
        folder = Path(job_name).absolute()
    targets = _targets(folder, files)
    _say(f"Total {len(files)} files will be downloaded")
    with _file_errors(f"job {job_id} could not be downloaded; what has arrived is kept and not fetched again"):
        _check_space(folder, files, targets)
        with _Transfer(rescale_platform, my_token, sum(file.size for file in files)) as transfer:
            large = [file.size > SINGLE for file in files]
            # Small files come at once, a large one in ranges at once; the lines are printed in the list's order.
            small = {
                file.id: transfer.pool.submit(transfer.fetch, file, target)
                for file, target, in_ranges in zip(files, targets, large) if not in_ranges
            }
            for number, (file, target) in enumerate(zip(files, targets), 1):
                fetched = small[file.id].result() if file.id in small else transfer.fetch(file, target)
                _say(f"{number} {file.path} {'downloaded' if fetched else 'was here already'}")
    size = sum(file.size for file in files) / 1024**2
    _say(f"Total {len(files)} files, {size:.3f} MB downloaded")
    if unfinished:
        raise RescaleError(
            f"job {job_id}: not yet, or never completely, stored by the platform: {', '.join(unfinished)}. "
            "The other files are here; try again later"
        )
    return targets


class _File(NamedTuple):
    id: str
    name: str
    relative: str  # path relative to the work folder
    path: str  # the platform's own path, for printing
    size: int  # bytes
    uploaded: bool
    algorithm: str | None  # of the checksum: sha512, md5
    checksum: str
    is_input: bool  # uploaded, not written by the job
    is_deleted: bool


def _listing(rescale_platform: str, my_token: str, job_id: str, patience: float | None = None) -> list[_File]:
    """The output files as the platform lists them now."""
    files = map(_file, _pages(rescale_platform, my_token, f"jobs/{job_id}/files/", patience))
    return list({file.id: file for file in files}.values())  # pages may overlap while the list grows


def _output_files(
    rescale_platform: str, my_token: str, job_id: str, *, wanted: str = "", successful: bool = False
) -> list[_File]:
    """The output files of a job that has ended, once the list is complete: the same twice, and all uploaded.

    `wanted` must be among them. Where only the `successful` job's rescale.tar.gz matters, it is enough alone, for that
    is what job_setup's packing leaves. After two minutes the list counts as it is. Of a list that is long the second
    look asks for the count only.
    """
    deadline = time.monotonic() + FILES_PATIENCE
    while True:
        files = _listing(rescale_platform, my_token, job_id)
        names = [file.name for file in files if not file.is_input]
        settled = files and all(file.uploaded for file in files) and (wanted in names or not wanted)
        if (settled and successful and names == [ARCHIVE]) or time.monotonic() >= deadline:
            break
        time.sleep(FILES_INTERVAL)
        if settled and _count(rescale_platform, my_token, job_id) == len(files):
            break
    return [file for file in files if not file.is_deleted]


def _count(rescale_platform: str, my_token: str, job_id: str) -> Any:
    path = f"jobs/{job_id}/files/"
    reply = _request(rescale_platform, my_token, "GET", path, fresh=lambda: {"params": {"page_size": 1}})
    count = _object(reply, path).get("count")
    return len(_listing(rescale_platform, my_token, job_id)) if count is None else count


def _file(item: dict[str, Any]) -> _File:
    """What a file object says, checked (rescale-api.md §3)."""
    name, relative, path = item.get("name"), item.get("relativePath"), item.get("path")
    name = name if isinstance(name, str) and name else PurePosixPath(str(relative or "")).name
    relative = relative if isinstance(relative, str) and relative else name
    size = item.get("decryptedSize")
    if isinstance(size, str) and re.fullmatch(r"\d{1,18}", size):
        size = int(size)
    if not name or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 60:
        raise RescaleError(f"the platform lists a file without a name or a size: {_short(item)}")
    sums = {"md5": item.get("md5")}
    checksums = item.get("fileChecksums")
    for entry in checksums if isinstance(checksums, list) else []:
        if isinstance(entry, dict):
            sums[str(entry.get("hashFunction")).lower().replace("-", "")] = entry.get("fileHash")
    algorithm, checksum = next(
        (
            (algorithm, str(sums[algorithm]).lower())
            for algorithm, digits in (("sha512", 128), ("md5", 32))
            if re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", str(sums.get(algorithm)))
        ),
        (None, ""),
    )
    return _File(
        _identifier(item, "a file"), name, relative, _short(path if isinstance(path, str) and path else relative), size,
        item.get("isUploaded") is not False, algorithm, checksum, item.get("typeId") == INPUT_FILE,
        item.get("isDeleted") is True,
    )


def _targets(folder: Path, files: list[_File]) -> list[Path]:
    """Where each file goes: below `folder`, or not at all. Two files of one path are told apart by their ids."""
    targets: list[Path] = []
    taken = set()
    for file in files:
        parts = file.relative.split("/")
        if (
            any(part in ("", ".", "..") or re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]", part) for part in parts)
            or re.match(r"[A-Za-z]:", file.relative)
            or (WINDOWS and any(re.search(r'[:*?"<>|]|[. ]$', part) for part in parts))
        ):
            raise RescaleError(
                f"file {file.id}: its path {file.relative!r} would lead out of the folder {folder} or cannot be a "
                "file name here; nothing was downloaded. Fetch it on the result page"
            )
        relative = file.relative
        while relative.casefold() in taken:
            relative += f".{file.id}"
        taken.add(relative.casefold())
        targets.append(folder / relative)
    return targets


def _check_space(folder: Path, files: list[_File], targets: list[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size for file, target in zip(files, targets) if not target.exists())
    needed -= sum(map(_arrived, folder.rglob(".*.part")))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RescaleError(
            f"{folder}: {needed / 1024**2:,.0f} MB are to be downloaded, but only {free / 1024**2:,.0f} MB are free; "
            "nothing was downloaded. Make room, then download again"
        )


class _Transfer:
    """The downloads of one job: several connections that share the progress and end together."""

    def __init__(self, rescale_platform: str, my_token: str, size: int) -> None:
        self.access = rescale_platform, my_token
        self.pool = concurrent.futures.ThreadPoolExecutor(CONNECTIONS)
        self.stop = threading.Event()
        self.answers: weakref.WeakSet[requests.Response] = weakref.WeakSet()  # those that are being read
        self.progress = _Progress("downloading", size)

    def __enter__(self) -> _Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()  # after an error or Ctrl-C nothing goes on behind the user's back
        for answer in list(self.answers):
            with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):  # ended, or an old urllib3
                answer.raw.shutdown()
        self.pool.shutdown(cancel_futures=True)
        self.progress.__exit__()

    def fetch(self, file: _File, target: Path) -> bool:
        """Download one file unless it is there already; tell whether it was fetched."""
        part = target.with_name(f".{file.id}.part")
        if target.is_file() and file.algorithm and _is_right(target, file):
            self.progress.add(file.size)
            target.touch()  # its time tells main.py that it is the result of the job as submitted last
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as lock:
            self._complete(file, part)
            if WINDOWS:  # which renames no open file
                lock.close()
            _set_aside(target)
            part.replace(target)
        return True

    def _complete(self, file: _File, part: Path) -> None:
        """Fetch what `part` lacks until it is what the platform has, and on the disk."""
        # Where the ranges of a killed run stop is only believed because of the sum: without one they are not used.
        for in_ranges in (file.size > SINGLE and file.algorithm is not None, False):
            if self._right(file, part, in_ranges):
                break
            self._forget(file, part)
            _say(f"- {file.name} arrived damaged")
        else:
            with contextlib.suppress(OSError):  # on Windows: it is empty, and open
                part.unlink()
            raise RescaleError(
                f"{file.name} (file {file.id}) arrived damaged twice: its {file.algorithm} is not the platform's. "
                "Nothing was kept under its name; it is still on the platform, try again later"
            )
        if not file.algorithm:
            _say(f"- {file.name}: the platform gave no checksum, only the size was checked")
        if file.size > BLOCK or file.name == ARCHIVE:  # a thousand small ones would wait for the disk each time
            _to_disk(part)

    def _right(self, file: _File, part: Path, in_ranges: bool) -> bool:
        """Fetch what `part` lacks, and tell whether it is what the platform has."""
        if in_ranges:
            try:
                return self._ranges(file, part)
            except _NoRanges:
                pass
        if file.size > RANGE and any(_marks(part)):  # there are holes between the ranges
            self._forget(file, part)
        self._stream(file, part, 0, file.size)
        return _is_right(part, file)

    def _forget(self, file: _File, part: Path) -> None:
        """Start a file anew."""
        self.progress.add(-_arrived(part))
        part.write_bytes(b"")
        _remove_marks(part)

    def _ranges(self, file: _File, part: Path) -> bool:
        """Fetch ranges at once, each into its place in `part`, and sum them up in order as they come."""
        step = max(RANGE, -(-file.size // RANGES))
        ranges = [
            self.pool.submit(self._stream, file, part, start, min(start + step, file.size))
            for start in range(0, file.size, step)
        ]
        flushed = self.pool.submit(_to_disk, part)  # starts when the last range has: the disk need not wait for the sum
        digest = hashlib.new(str(file.algorithm), usedforsecurity=False)
        with part.open("rb", buffering=0) as content:  # a buffer would read what has not come yet
            for one in ranges:
                try:
                    one.result()
                except _NoRanges:
                    concurrent.futures.wait([other for other in ranges if not other.cancel()])
                    raise
                for block in _blocks(content, step):
                    digest.update(block)
        flushed.result()
        if digest.hexdigest() != file.checksum:
            return False
        _remove_marks(part)
        return True

    def _stream(self, file: _File, part: Path, start: int, end: int) -> None:
        """Fetch a file's bytes from `start` to `end` into their place in `part`, going on where it stopped.

        How much has come is the size of `part`, or for a range, of a mark beside it: a file without content.
        """
        size, whole = end - start, (start, end) == (0, file.size)
        mark = part if whole else part.with_name(f"{part.name}.{start}")
        mark.touch()
        if mark.stat().st_size > size:
            mark.write_bytes(b"")
        self.progress.add(mark.stat().st_size)

        def missing() -> dict[str, Any]:
            first = start + mark.stat().st_size
            headers = {"Accept-Encoding": "identity"}
            if first or not whole:
                headers["Range"] = f"bytes={first}-{end - 1}"
            return {"headers": headers}

        def save(response: requests.Response) -> None:
            self.answers.add(response)
            have = mark.stat().st_size
            if response.status_code == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {start + have}-"):
                    raise _Fault("another part of the file came than was asked for")
            elif "html" in response.headers.get("Content-Type", "") and not file.name.endswith((".html", ".htm")):
                raise _Fault("a web page came instead of the file")
            elif not whole:
                raise _NoRanges
            else:
                self.progress.add(-have)
                have = 0
            with part.open("r+b") as output, mark.open("r+b") as marked:
                marked.truncate(have)
                output.seek(start + have)
                for block in response.iter_content(BLOCK):
                    if self.stop.is_set():
                        raise _Fault("stopped")
                    if have + len(block) > size:
                        raise _Fault(f"more than {size} bytes came")
                    output.write(block)
                    output.flush()
                    have += len(block)
                    marked.truncate(have)
                    self.progress.add(len(block))
            if have != size:
                raise _Fault(f"{have} instead of {size} bytes came")

        while mark.stat().st_size < size:
            before = mark.stat().st_size
            try:
                _request(
                    *self.access, "GET", f"files/{file.id}/contents/", fresh=missing, read=save, elsewhere=True,
                    stop=self.stop, settled=lambda: mark.stat().st_size == size,
                )
            except RescaleError:
                # As long as some of it comes, a bad line is worth another try.
                if self.stop.is_set() or mark.stat().st_size < before + BLOCK:
                    raise


def _to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _arrived(part: Path) -> int:
    """How many bytes of a file an interrupted download has left."""
    return sum(mark.stat().st_size for mark in list(_marks(part)) or [part])


def _marks(part: Path) -> Iterator[Path]:
    """The files that mark how far the ranges of `part` have come."""
    return part.parent.glob(f"{part.name}.*")


def _remove_marks(part: Path) -> None:
    for mark in _marks(part):
        mark.unlink()


class _NoRanges(Exception):
    """The server sent the whole file where a range was asked for."""


def _is_right(path: Path, file: _File) -> bool:
    """Whether a local file is the platform's, by size and, if there is one, checksum."""
    if path.stat().st_size != file.size:
        return False
    if not file.algorithm:
        return True
    digest = hashlib.new(file.algorithm, usedforsecurity=False)
    with path.open("rb") as content:
        for block in _blocks(content, file.size):
            digest.update(block)
    return digest.hexdigest() == file.checksum


def _blocks(content: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes, in blocks."""
    while size > 0 and (block := content.read(min(BLOCK, size))):
        size -= len(block)
        yield block


def _set_aside(path: Path) -> None:
    """Give a file that is in the way another name: nothing is ever overwritten."""
    if path.exists():
        aside = next(
            name for number in itertools.count(1)
            if not (name := path.with_name(f"{path.name}.previous-{number}")).exists()
        )
        path.rename(aside)
        _say(f"- another {path.name} was there; it is now {aside.name}")


def _finished_log(rescale_platform: str, my_token: str, files: list[_File]) -> list[str]:
    """The last lines of a finished job's log, from its output files; none where it cannot be had."""
    log = next((file for file in files if file.relative in (LOG, f"shared/{LOG}") and file.uploaded), None)
    if not log or not log.size:
        return []
    first = max(0, log.size - LOG_TAIL)

    def end(response: requests.Response) -> bytes:
        content = b""
        for block in response.iter_content(BLOCK):  # all of it comes where Range is ignored
            content = (content + block)[-LOG_TAIL:]
        return content

    headers = {"Range": f"bytes={first}-{log.size - 1}", "Accept-Encoding": "identity"}
    try:
        content: bytes = _request(
            rescale_platform, my_token, "GET", f"files/{log.id}/contents/",
            fresh=lambda: {"headers": headers}, read=end, elsewhere=True,
        )
    except RescaleError as error:
        if error.status is None:  # no answer is not the answer that there is no log
            raise
        return []
    lines = content.decode("utf-8", "replace").splitlines()
    return lines[1:] if first else lines  # half a line may be half a secret


# 8. The previous job's result as input


def file_previous_job(rescale_platform: str, my_token: str, job_id: str) -> list[dict[str, Any]]:
    """Take a job's rescale.tar.gz, inside the cloud, as input of the next job.

    Returns the list for job_setup: [{'id': 'JKNBbb', 'decompress': True}], and prints it. Raises RescaleError when
    the job left no rescale.tar.gz. Source: GET /api/v2/jobs/{id}/files/ (rescale-api.md §9).
    """
    _check_job_id(job_id)
    files = _output_files(rescale_platform, my_token, job_id, wanted=ARCHIVE, successful=True)
    archives = [
        file for file in files
        if file.relative in (ARCHIVE, f"shared/{ARCHIVE}") and file.uploaded and not file.is_input
    ]
    code = _exit_code(_finished_log(rescale_platform, my_token, files))
    if code:
        raise RescaleError(f"job {job_id} failed with exit code {code}: its result is no input for the next job")
    if not archives:
        there = ", ".join(file.relative for file in files[:20]) or "nothing"
        raise RescaleError(
            f"job {job_id} left no {ARCHIVE}, so the next job has no input; it left: {there}. "
            f"See {_result_page(rescale_platform, job_id)}"
        )
    newest = max(archives, key=lambda file: file.relative)  # of two, the one in shared/, where the job packed
    inputfiles_list = [{"id": newest.id, "decompress": True}]
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
    job = _object(_request(rescale_platform, my_token, "GET", f"jobs/{job_id}/"), f"job {job_id}")
    try:
        tiles = job["jobanalyses"]
        analysis, hardware = tiles[0]["analysis"], tiles[0]["hardware"]
        settings = {
            "code_name": str(analysis["code"]),
            "version_code": str(analysis.get("version") or ""),
            "license_info": _license_info(tiles[0].get("envVars") or {}),
            "license_features": {
                str(feature["name"]): int(feature["count"])
                for features in (tiles[0].get("userDefinedLicenseSettings") or {}).get("featureSets") or []
                for feature in features["features"]
            },
            "coretype_code": str(hardware["coreType"]),
            "core_per_slot": int(hardware["coresPerSlot"]),
            "slot": int(hardware.get("slots") or 1),
            "walltime": int(hardware.get("walltime") or DEFAULT_WALLTIME),
            "projectid": str(job["projectId"]) if job.get("projectId") else None,
            "command": _user_command(tiles[0]["command"]),
        }
        others = [repr(tile["analysis"]["code"]) for tile in tiles[1:]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RescaleError(f"job {job_id}: its settings cannot be read, {error!r}: {_short(job)}") from error
    _say(f"# The settings of job {job_id}, for the admin section of main.py; the command belongs into batches")
    if not hardware.get("walltime"):
        _say(f"# It had no walltime; {DEFAULT_WALLTIME} hours stand in for that")
    for name, value in settings.items():
        _say(f"{name} = {value!r}")
    if others:
        _say(f"# It has more tiles, which main.py does not run: {', '.join(others)}")
    return settings


def check_settings(
    rescale_platform: str,
    my_token: str,
    code_name: str,
    version_code: str,
    license_info: Mapping[str, Any],
    coretype_code: str,
    core_per_slot: int,
    slot: int,
    walltime: int,
    projectid: str | None,
    *,
    license_features: Mapping[str, int] | None = None,
    input_path: str | os.PathLike[str] | None = None,
) -> None:
    """Check what job_setup will be given against the platform's catalogues, before anything is packed or sent.

    Prints the account, the settings and, of the folder `input_path`, how much there is to pack. A catalogue that the
    account may not see is skipped with a notice. Raises one RescaleError for all values that are wrong, each with
    the nearest right ones; in a rehearsal, which knows a few only, they are told and taken.
    Source: GET /api/v2/users/me/, …/analyses/, …/coretypes/, …/users/me/projects/ (rescale-api.md §1, §11).
    """
    access = rescale_platform, my_token
    wrong: list[str] = []  # whatever the platform knows

    def checked(check: Callable[..., Any], *values: Any) -> Any:
        try:
            return check(*values)
        except RescaleError as error:
            wrong.append(str(error))
            return None

    licence = checked(_license_info, license_info)
    checked(_license_settings, license_features)
    cores = checked(_whole_number, "core_per_slot", core_per_slot, "cores")
    hours = checked(_whole_number, "walltime", walltime, "hours")
    checked(_whole_number, "slot", slot, "slots (1 for all but DOE)")
    me = _object(_request(*access, "GET", "users/me/"), "users/me")
    _say(f"- account {_short(me.get('email', '?'))}, token ...{_authorization(my_token)[-4:]}")
    _say(
        f"- {code_name} {version_code} on {slot} x {core_per_slot} cores of {coretype_code}, at most {walltime} h, "
        f"project {projectid or 'none'}, licence {', '.join(licence or ()) or 'none'}"
    )
    packing = checked(_packing, input_path) if input_path is not None else None
    if packing:
        _say(packing)
    unknown = _unknown(access, code_name, str(version_code), coretype_code, cores, projectid)
    longest = me.get("maxJobHours")
    if isinstance(longest, int) and hours and hours > longest:
        unknown.append(f"walltime = {hours}: this account's jobs may run for {longest} hours at the most")
    if os.environ.get("RESCALE_REHEARSAL"):
        for line in unknown:
            _say(f"- unknown to this rehearsal, which takes it all the same: {line}")
        unknown = []
    if wrong or unknown:
        text = "\n".join([*wrong, *unknown])
        raise RescaleError(f"The settings are not right; nothing was uploaded or started:\n{text}")


def _unknown(
    access: tuple[str, str], code_name: str, version_code: str, coretype_code: str, cores: int | None,
    projectid: str | None,
) -> list[str]:
    """What the platform's catalogues do not have, a line each with the nearest that they have."""
    lines = []
    tiles = _catalogue(*access, "analyses/", "code")
    if tiles is not None:
        lines += _check_tile(tiles, code_name, version_code)
    core_types = _catalogue(*access, "coretypes/", "code")
    if core_types is not None:
        lines += _check_core_type(core_types, coretype_code, cores)
    projects = _catalogue(*access, "users/me/projects/", "id") if projectid else None
    if projects is not None and projectid not in projects:
        names = ", ".join(f"{key} ({_short(project.get('name'))})" for key, project in list(projects.items())[:10])
        lines.append(f"projectid = {projectid!r}: no such project for this account; it has: {names or 'none'}")
    return lines


def _packing(input_path: str | os.PathLike[str]) -> str:
    """How much there is to pack, and the largest of it."""
    files, _ = _inputs(Path(input_path), Path(ARCHIVE).absolute())
    sizes = {path.name: path.stat().st_size for path in files}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
    return f"- {len(files)} files to pack, {sum(sizes.values()) / 1024**2:,.3f} MB; the largest: " + ", ".join(
        f"{name} {sizes[name] / 1024**2:,.3f} MB" for name in largest
    )


def _catalogue(rescale_platform: str, my_token: str, path: str, key: str) -> dict[str, dict[str, Any]] | None:
    """A list of the platform by its entries' `key`, or None where the account may not see it."""
    try:
        return {str(item.get(key)): item for item in _pages(rescale_platform, my_token, path)}
    except RescaleError as error:
        if error.status not in (403, 404):
            raise
        _say(f"- not checked, the account may not see it: {path}")
        return None


def _check_tile(tiles: Mapping[str, dict[str, Any]], code_name: str, version_code: str) -> list[str]:
    if code_name not in tiles:
        return [f"code_name = {code_name!r}: no such tile{_did_you_mean(code_name, tiles)}"]
    versions = tiles[code_name].get("versions")
    codes = [
        str(version.get("versionCode")) for version in (versions if isinstance(versions, list) else [])
        if isinstance(version, dict)
    ]
    if not codes or version_code in codes:
        return []
    return [
        f"version_code = {version_code!r} is not a version of {code_name}{_did_you_mean(version_code, codes)}; "
        f"newest: {', '.join(sorted(codes, reverse=True)[:3])}"
    ]


def _check_core_type(core_types: Mapping[str, dict[str, Any]], coretype_code: str, cores: int | None) -> list[str]:
    active = [code for code, item in core_types.items() if item.get("isActive") is not False]
    if coretype_code not in active:
        gone = "no longer offered" if coretype_code in core_types else "no such core type"
        return [f"coretype_code = {coretype_code!r}: {gone}{_did_you_mean(coretype_code, active)}"]
    sizes = core_types[coretype_code].get("cores")
    sizes = sorted(size for size in (sizes if isinstance(sizes, list) else []) if isinstance(size, int) and size > 0)
    if not sizes or cores is None or cores in sizes or cores % sizes[-1] == 0:  # whole nodes
        return []
    allowed = [*sizes, cores // sizes[-1] * sizes[-1], -(-cores // sizes[-1]) * sizes[-1]]
    near = [max((size for size in allowed if 0 < size < cores), default=0),
            min((size for size in allowed if size > cores), default=0)]
    return [
        f"core_per_slot = {cores}: {coretype_code} has {', '.join(map(str, sizes))} cores, or multiples of "
        f"{sizes[-1]}; nearest: {' or '.join(str(size) for size in near if size)}"
    ]


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def job_stop(rescale_platform: str, my_token: str, job_id: str) -> None:
    """Stop a running job; what it has written so far is kept by the platform.

    Prints `Job LFZphb : stop requested`. Raises RescaleError when the job cannot be stopped, as when it has ended.
    Source: POST /api/v2/jobs/{id}/stop/ (rescale-api.md §10).
    """
    _check_job_id(job_id)
    _request(rescale_platform, my_token, "POST", f"jobs/{job_id}/stop/", fresh=lambda: {"json": {}}, read=_nothing)
    _say(f"Job {job_id} : stop requested")


def chain_overview(rescale_platform: str, my_token: str, jobs: Mapping[str, str]) -> None:
    """Print a table of a chain's jobs, {job_name: job_id}: how each ended, how long it waited and executed, its result.

    Times are from the status history. Never raises: what the platform does not tell just now is a `?`.
    Source: GET /api/v2/jobs/{id}/statuses/ and …/files/ (rescale-api.md §7, §9).
    """
    rows = [("job", "id", "status", "waited", "executed", "result", "where")]
    for job_name, job_id in jobs.items():
        status = waited = executed = result = "?"
        with contextlib.suppress(RescaleError):
            history = _statuses(rescale_platform, my_token, job_id, patience=OVERVIEW_PATIENCE)
            status, (waited, executed) = history[-1].status if history else "not submitted", _times(history)
            files = _listing(rescale_platform, my_token, job_id, patience=OVERVIEW_PATIENCE)
            result = f"{sum(file.size for file in files) / 1024**2:.3f} MB"
        folder = Path(job_name)
        rows.append((job_name, job_id, status, waited, executed, result,
                     f"{folder}{os.sep}" if folder.is_dir() else "?" if status == "?" else "on the platform"))
    widths = [max(map(_width, column)) for column in zip(*rows)]
    _say("")
    for row in rows:
        _say("  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths)).rstrip())


def _width(text: str) -> int:
    """The columns that a text takes on a terminal: two for a Korean letter."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _times(history: list[_Status]) -> tuple[str, str]:
    """How long a job waited before it executed, and how long it executed; a restarted one does so in turns."""
    spent = {"Executing": 0.0, "before": 0.0}
    known = [(entry.date, entry.status) for entry in history if entry.date]
    now = datetime.datetime.now(datetime.timezone.utc)
    for (since, status), (until, _) in zip(known, [*known[1:], (now, "")]):
        if status not in ENDED and status != "Stopping":
            spent["Executing" if status == "Executing" else "before"] += (until - since).total_seconds()
    return _duration(max(0, spent["before"])), _duration(max(0, spent["Executing"]))


def _main(arguments: Sequence[str] | None = None) -> int:
    """The commands for coming back to a job without editing anything."""
    parser = argparse.ArgumentParser(
        description="Come back to a Rescale job. The API key is found as in platform_my_token.",
        epilog="Exit status: 0 done, 1 the job failed or the platform refused, 2 usage, 130 Ctrl-C.",
    )
    parser.add_argument("command", choices=("settings", "monitor", "download", "stop"), help=(
        "settings: print the job's settings for main.py; monitor: follow it until it has ended; download: fetch its "
        "files, also those of a failed job, into a folder named like the job; stop: stop it, and the bill"))
    parser.add_argument("job_id", metavar="JOB_ID", help="as in the .job file or the address of its page")
    parser.add_argument("--profile", help="section of ~/.config/rescale/apiconfig to use")
    options = parser.parse_args(arguments)
    try:
        _check_job_id(options.job_id)
        access = platform_my_token(profile=options.profile)
        if options.command == "download":
            job = _object(_request(*access, "GET", f"jobs/{options.job_id}/"), f"job {options.job_id}")
            job_download(*access, job.get("name") or options.job_id, options.job_id)
        else:
            {"settings": job_settings, "monitor": job_monitor, "stop": job_stop}[options.command](
                *access, options.job_id
            )
    except RescaleError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; a job that runs goes on.", file=sys.stderr)
        return 130
    return 0


# Talking to the platform


class _Fault(Exception):
    """Something that may pass, so that the request is worth repeating; `final` where waiting hardly helps."""

    def __init__(self, text: str, *, retry_after: float = 0, throttled: bool = False, final: bool = False) -> None:
        super().__init__(_printable(text))
        self.retry_after = retry_after
        self.throttled = throttled
        self.final = final


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        kind = response.headers.get("Content-Type", "of no type")
        raise _Fault(f"the answer is no JSON but {_short(kind)}") from None


def _nothing(response: requests.Response) -> None:
    """For requests that are answered with nothing; a page of a proxy is no such answer."""
    if response.content.strip():
        _json(response)


def _request(
    rescale_platform: str,
    my_token: str,
    method: str,
    path: str,
    *,
    fresh: Callable[[], dict[str, Any]] = dict,
    read: Callable[[requests.Response], Any] = _json,
    settled: Callable[[], bool] | None = None,
    patience: float | None = None,
    read_timeout: float | None = None,
    elsewhere: bool = False,
    stop: threading.Event | None = None,
) -> Any:
    """Send one request, repeat it while it fails in a way that may pass, and return what `read` makes of the answer.

    `fresh` builds what is sent, anew for each try. `settled` tells, before a repeat, that none is needed. `patience`
    is in seconds of faults; 0: one try, infinity: for job_monitor. `elsewhere` allows a redirect to another host,
    which never gets the token. `stop` ends the repeating.
    Raises RescaleError at once for what the server refuses, else when patience is over.
    """
    platform, token = _platform(rescale_platform), _authorization(my_token)
    host = urlsplit(platform).netloc
    patience = PATIENCE if patience is None else patience
    spent, lost_at = 0.0, None
    for attempt in itertools.count():
        began = time.monotonic()
        try:
            answer = _attempt(platform, token, method, path, fresh(), read, read_timeout or READ_TIMEOUT, elsewhere)
            if lost_at is not None and patience == math.inf:
                _say(f"- {host} is back after {_duration(time.monotonic() - lost_at)}")
            return answer
        except _Fault as fault:
            wait = max(min(LONGEST_WAIT, 2 ** min(attempt, 10)), fault.retry_after) * random.uniform(1, 1.25)
            # A long transfer that breaks costs no more patience than a request that times out.
            spent += min(time.monotonic() - began, READ_TIMEOUT) + wait
            limit = max(patience, THROTTLE_PATIENCE) if fault.throttled and patience else patience
            if spent > limit or (fault.final and patience < math.inf) or (stop and stop.is_set()):
                text = f"{method} {platform}/api/v2/{path} failed: {fault}"
                raise RescaleError(text, retry_after=fault.retry_after) from fault
            if patience == math.inf:
                wait = min(wait, THROTTLE_PATIENCE)
                if lost_at is None:
                    _say(f"- no connection to {host} ({fault}); the job runs on, trying until it is back")
            elif wait >= NOTICEABLE_WAIT:
                _say(f"- no answer from {host} ({fault}); next try in {wait:.0f} s")
            lost_at = began if lost_at is None else lost_at
        _sleep(wait, stop)
        if settled is not None and settled():
            return None
    raise AssertionError("not reached")


def _attempt(
    platform: str,
    token: str,
    method: str,
    path: str,
    content: dict[str, Any],
    read: Callable[[requests.Response], Any],
    read_timeout: float,
    elsewhere: bool,
) -> Any:
    """Send one request once. Raises _Fault for what may pass, RescaleError for what will not."""
    url = f"{platform}/api/v2/{quote(path)}"
    try:
        for _ in range(5):
            own = _origin(url) == _origin(platform)
            with _send(method, url, token if own else None, read_timeout, content) as response:
                if not response.is_redirect:
                    _raise_for_status(response, platform)
                    return read(response)
            url = urljoin(url, response.headers["Location"])
            content.pop("params", None)  # the new address has them
            if method != "GET" or not _may_follow(url, platform, elsewhere):
                break
        raise _Fault(f"redirected to {_short(_origin(url)[1])}; is that a login page or a proxy?")
    # `from None`, for what requests and urllib3 say may quote the server's bytes, or the proxy's password.
    except ValueError as error:  # how requests marks what can never be sent
        kind = type(error).__name__
        raise RescaleError(f"{method} {platform}/api/v2/{path} cannot be sent ({kind}); {_proxy_hint(url)}") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _fault_of(error, url) from None


def _send(
    method: str, url: str, token: str | None, read_timeout: float, content: dict[str, Any]
) -> requests.Response:
    try:
        return _session(os.getpid()).request(
            method, url, auth=_Authorize(token), timeout=(CONNECT_TIMEOUT, read_timeout), allow_redirects=False,
            stream=True, proxies={"http": "", "https": ""} if _is_loopback(url) else None, **content,
        )
    except requests.RequestException:
        raise
    except OSError as error:  # of a file with certificates that is not there
        raise RescaleError(f"{error}; see REQUESTS_CA_BUNDLE") from None


class _Authorize(requests.auth.AuthBase):
    """Send the token, or nothing: without an `auth` of its own requests would take one from ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token:
            request.headers["Authorization"] = self.token
        return request


class _Adapter(HTTPAdapter):
    """Connections that send bulk data in large chunks."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=CHUNK, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, blocksize=CHUNK, **kwargs)


@functools.lru_cache(maxsize=1)
def _session(process: int) -> requests.Session:
    """The connections of this process: a fork must not share them, hence the argument."""
    session = requests.Session()
    session.mount("https://", _Adapter())
    session.mount("http://", _Adapter())
    session.headers["User-Agent"] = "rescale_rest_api"
    session.headers["Cache-Control"] = "no-cache"  # a proxy's old answer could hide that a job was started
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    return session


def _raise_for_status(response: requests.Response, platform: str) -> None:
    """Raise for any answer but 2xx, with the server's own words."""
    status = response.status_code
    if 200 <= status < 300:
        return
    words = f"{status} {response.reason or ''}: {_server_words(response)}".replace(" : ", ": ")
    if status < 400 or status in (408, 429) or status >= 500:
        raise _Fault(words, retry_after=_retry_after(response), throttled=status == 429)
    hint = {
        401: f" (a key belongs to one region: is it one of {platform}, and still valid?)",
        404: " (of another region, deleted, or of a rehearsal?)",
        407: f" ({_proxy_hint(response.url)})",
    }.get(status, "")
    raise RescaleError(f"{response.request.method} {response.url} was refused: {words}{hint}", status)


def _server_words(response: requests.Response) -> str:
    """What the server says about an error: field errors flattened, of a page no more than its kind."""
    try:
        body = response.raw.read(LOG_TAIL, decode_content=True) or b""
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    with contextlib.suppress(ValueError, RecursionError):
        return _short("; ".join(_flatten(json.loads(body))), 1000)
    kind = response.headers.get("Content-Type", "")
    return f"({_short(kind)})" if "html" in kind or not body else _short(body.decode("utf-8", "replace"))


def _flatten(error: Any, path: str = "") -> Iterator[str]:
    """Nested field errors as `jobanalyses.0.hardware.coresPerSlot: …`."""
    if isinstance(error, dict):
        for key, value in error.items():
            yield from _flatten(value, f"{path}.{key}" if path else "" if key == "detail" else str(key))
    elif isinstance(error, list):
        for index, value in enumerate(error):
            yield from _flatten(value, f"{path}.{index}" if isinstance(value, (dict, list)) else path)
    else:
        yield f"{path}: {error}" if path else str(error)


def _retry_after(response: requests.Response) -> float:
    """Seconds to wait before the next try, which may be given as a date."""
    with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return float(urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0")))
    return 0


def _fault_of(error: Exception, url: str) -> _Fault:
    """What a failed connection means to the user."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(error, requests.exceptions.ProxyError):
        asks = "407" in str(error)
        why = "it asks for a password (407)" if asks else "no connection"
        return _Fault(f"the proxy: {why}; {_proxy_hint(url)}", final=asks)
    if isinstance(error, requests.exceptions.SSLError):
        return _Fault(
            f"{_short(cause)}; where a company's proxy opens TLS, let REQUESTS_CA_BUNDLE name the file with its "
            "certificate", final="CERTIFICATE" in str(error),
        )
    if isinstance(error, (requests.Timeout, TimeoutError)) or isinstance(cause, TimeoutError):
        return _Fault("timed out")
    return _Fault(_short(cause))


def _proxy_hint(url: str) -> str:
    proxy = None
    with contextlib.suppress(ValueError):
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    return f"the proxy is {proxy.rpartition('@')[2] if proxy else 'not set'}; see HTTPS_PROXY and NO_PROXY"


def _may_follow(url: str, platform: str, elsewhere: bool) -> bool:
    """Whether a redirect leads where a request may go: never from https to http, never out of a rehearsal."""
    origin = _origin(url)
    if origin == _origin(platform):
        return True
    if _is_loopback(url):
        return elsewhere and _is_loopback(platform)
    return elsewhere and bool(origin) and origin[0] == "https" and not os.environ.get("RESCALE_REHEARSAL")


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port as urllib3 reads them, which makes the connection: other parsers may differ."""
    try:
        parts = urllib3.util.parse_url(url)
    except (urllib3.exceptions.HTTPError, ValueError):
        return "", "", None
    scheme = parts.scheme or ""
    return scheme, parts.host or "", parts.port or {"https": 443, "http": 80}.get(scheme)


def _is_loopback(url: str) -> bool:
    return bool(re.fullmatch(r"localhost|127(\.\d{1,3}){3}|\[::1\]", _origin(url)[1]))


def _platform(rescale_platform: str | None) -> str:
    """The platform's address without what people leave at its end; refuse what would send the token in the clear."""
    text = rescale_platform.strip() if isinstance(rescale_platform, str) else ""
    if not text:
        raise RescaleError(
            "no platform: give rescale_platform ('https://kr.rescale.com'), or set RESCALE_API_URL, or put apibaseurl "
            "into ~/.config/rescale/apiconfig"
        )
    url = re.sub(r"(/api(/v\d+)?)?/*$", "", text if "://" in text else f"https://{text}")
    origin = _origin(url)
    if not origin[1] or not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d+)?", url, re.ASCII):
        raise RescaleError(f"rescale_platform = {text!r} is not the address of a platform like https://kr.rescale.com")
    if origin[0] == "http" and not _is_loopback(url):
        raise RescaleError(f"rescale_platform = {text!r} would send the token unencrypted; write https://")
    rehearsal = os.environ.get("RESCALE_REHEARSAL")
    if rehearsal and origin != _origin(rehearsal):
        raise RescaleError(
            f"this is a rehearsal, and {url} is not its simulator: nothing was sent. Let platform_my_token() find the "
            "address instead of writing it into the script"
        )
    return url


_secrets: set[str] = set()  # keys in use: whatever is printed or raised is freed of them


def _authorization(my_token: str | None) -> str:
    """The Authorization header, `Token …`; the token itself is never in the error."""
    words = my_token.split() if isinstance(my_token, str) else []
    scheme = words.pop(0) if words and words[0] in ("Token", "Bearer") else "Token"
    if len(words) != 1 or not re.fullmatch(r"[\x21-\x7e]+", words[0]):
        raise RescaleError(
            "my_token is empty or no API key: give my_token='Token <your API key>', or set RESCALE_API_KEY, or put "
            "apikey into ~/.config/rescale/apiconfig"
        )
    if len(words[0]) >= 8:
        _secrets.add(words[0])
    return f"{scheme} {words[0]}"


def _pages(
    rescale_platform: str, my_token: str, path: str, patience: float | None = None, **query: Any
) -> Iterator[dict[str, Any]]:
    """All entries of a list, page by page. Of `next` only the query counts: the token follows it to no other host."""
    query = {"page_size": PAGE_SIZE, **query}
    asked = []
    while query not in asked:
        asked.append(query)
        results, following = _request(
            rescale_platform, my_token, "GET", path, fresh=functools.partial(dict, params=query), read=_page,
            patience=patience,
        )
        yield from results
        if not following:
            return
        query = {**query, **dict(parse_qsl(following.partition("?")[2]))}
    raise RescaleError(f"{path}: the platform's list has no end")


def _page(response: requests.Response) -> tuple[list[dict[str, Any]], str | None]:
    """The entries of a page and the address of the next one. Another answer may pass, like that of a maintenance."""
    reply = _json(response)
    results, following = (reply.get("results"), reply.get("next")) if isinstance(reply, dict) else (None, None)
    if (
        not isinstance(results, list) or not all(isinstance(item, dict) for item in results)
        or not isinstance(following, (str, type(None))) or (following and not results)
    ):
        raise _Fault(f"the answer is no list: {_short(reply)}")
    return results, following


def _object(reply: Any, what: str) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise RescaleError(f"{what}: the platform answered something unexpected: {_short(reply)}")
    return reply


def _identifier(item: dict[str, Any], what: str) -> str:
    identifier = item.get("id")
    if not isinstance(identifier, str) or not re.fullmatch(r"[\w-]{1,64}", identifier, re.ASCII):
        raise RescaleError(f"{what}: the platform answered without an id: {_short(item)}")
    return identifier


def _check_job_id(job_id: str) -> None:
    if not isinstance(job_id, str) or not re.fullmatch(r"[\w-]{1,64}", job_id, re.ASCII):
        raise RescaleError(f"job_id = {job_id!r} is no job id; it is the short word in the .job file, like 'LFZphb'")


def _result_page(rescale_platform: str, job_id: str) -> str:
    return f"{_platform(rescale_platform)}/jobs/{job_id}/runs/1/results/"


# Files and text


@contextlib.contextmanager
def _file_errors(what: str) -> Iterator[None]:
    """Turn errors of the local file system into RescaleError, `what` first."""
    try:
        yield
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise RescaleError(f"{what}: {error.strerror or error}{name}") from error


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only when it is whole and on the disk; before, nothing of that name is touched."""
    part = path.with_name(f".{path.name}.part")
    file = _locked(part)
    try:
        file.truncate(0)  # what a killed run left behind
        yield file
        file.flush()
        os.fsync(file.fileno())
        if WINDOWS:  # which renames no open file
            file.close()
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what is still buffered finds no room either
            file.close()
        part.unlink(missing_ok=True)
        raise
    file.close()
    if not WINDOWS:  # the new name, too, must survive a power cut, where the file system can promise that
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.fsync(folder)
        os.close(folder)


_claims: dict[Path, BinaryIO] = {}  # the .job files that this process works on, kept open and locked


def _claim(path: Path, text: str) -> None:
    """Write `text` and hold the file while this process lives, so that no second one continues the same chain."""
    path, content = path.absolute(), text.encode()
    if path.exists() and path not in _claims:
        _claims[path] = _locked(path)
    if path.exists() and path.read_bytes() == content:
        return
    with _whole_file(path) as file:
        if path.exists() and path not in _claims:  # made by another process a moment ago
            raise _in_use(path)
        if path in _claims:
            _claims.pop(path).close()
        file.write(content)
    _claims[path] = _locked(path)
    if path.read_bytes() != content:
        raise _in_use(path)


def _locked(path: Path) -> BinaryIO:
    """Open a file, made if need be, that no other process works on; where there are no locks, only open it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
    for tries_left in range(20, -1, -1):  # a second: a program that is being started shares our locks until it runs
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                file.seek(1 << 60)  # far behind the content, which others may read
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
                file.seek(0)
            in_use = not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()))  # renamed meanwhile
            break
        except OSError as error:
            in_use = error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
            if not in_use or not tries_left:
                break
            time.sleep(0.05)
    if in_use:
        file.close()
        raise _in_use(path)
    return file


def _in_use(path: Path) -> RescaleError:
    return RescaleError(
        f"{path.name} is in use: another process works on the same job or files. Nothing was started; let it finish"
    )


class _Progress:
    """How far a long transfer is: one line redrawn on a terminal, elsewhere a line each tenth or half minute."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.began = self.shown_at = time.monotonic()
        self.tenth = 0
        self.lock = threading.Lock()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        _redraw("")

    def add(self, size: int) -> None:
        with self.lock:
            self.done += size
            self.show(self.done)

    def show(self, done: int) -> None:
        """Say that `done` bytes are through, if it is time to."""
        now = time.monotonic()
        if now - self.began < PROGRESS_DELAY or done >= self.total:
            return
        terminal = sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()
        tenth, quiet = 10 * done // self.total, now - self.shown_at
        if quiet < (0.2 if terminal else 2 if tenth > self.tenth else 30):
            return
        self.shown_at, self.tenth = now, tenth
        rate = done / (now - self.began)
        left = f", {_duration((self.total - done) / rate)} left" if rate > 0 else ""
        text = (
            f"- {self.what}: {100 * done // self.total} % of {self.total / 1024**2:,.1f} MB, "
            f"{rate / 1024**2:,.1f} MB/s{left}"
        )
        _redraw(text) if terminal else _say(text)


_drawn = ""  # the line that stands on the terminal to be redrawn


def _redraw(text: str) -> None:
    """Replace the line that stands on the terminal; an empty text takes it away."""
    global _drawn
    if text or _drawn:
        width = shutil.get_terminal_size().columns - 1
        text, before = text[:width], _drawn
        _drawn = text
        with contextlib.suppress(OSError, ValueError):
            print(f"\r{text:<{len(before)}}", end="" if text else "\r", flush=True)


def _say(text: str) -> None:
    """Print one line at once. What cannot be printed must not end a chain."""
    text = _printable(text)
    _redraw("")
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, a full disk under nohup.out
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            print(text.encode(encoding, "replace").decode(encoding), flush=True)


def _printable(text: str) -> str:
    """`text` without keys and without control characters that would act on a terminal."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _short(thing: Any, length: int = 300) -> str:
    """Anything as one line of bounded length."""
    text = " ".join(_printable(str(thing)).split())
    return text if len(text) <= length else f"{text[:length]}..."


def _sleep(seconds: float, stop: threading.Event | None) -> None:
    """Wait, but no longer than until `stop`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not (stop and stop.is_set()):
        time.sleep(min(1, left) if stop else left)


def _here(path: str) -> str:
    """A path to be typed in the current folder."""
    try:
        path = str(Path(path).absolute().relative_to(Path.cwd()))
    except ValueError:
        path = str(Path(path).absolute())
    return f'"{path}"' if " " in path else path


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{seconds:.0f} s" if minutes < 1 else f"{minutes} min" if minutes < 60 else \
        f"{minutes // 60} h {minutes % 60:02} min"


if __name__ == "__main__":
    sys.exit(_main())
