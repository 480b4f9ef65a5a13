"""Automate Rescale jobs over its REST API: pack, upload, set up, submit, monitor, download, chain.

The functions stand in the order in which a job needs them, with the numbers of Rescale Korea's guide;
`main.py` beside this file chains them. API: https://engineering.rescale.com/api-docs/

Three assumptions, the guide's:
1. All input files lie directly in one working folder; folders in it are not taken along.
2. They travel as one archive, rescale.tar.gz.
3. Every job takes its input and leaves its result as rescale.tar.gz, so that a job's result is the next job's input.

One idea: proof, not inference. A job that job_setup made leaves a rescale.tar.gz only if its command has succeeded
and all that it left is in that archive; a file is whole when its checksum is the platform's; a link of a chain has
its job when its .job file exists; what has been uploaded is known by its content.

What stands where: 1 to 8 the guide's functions, each followed by what only it needs; then the functions added to them;
"A chain" is what main.py calls; "Talking to the platform" alone knows redirects, retries and throttling (`_request`);
the rest is files, several connections at once, and text. Whoever wants to understand a job reads `_job_command`, which
makes the proof, and `_outcome`, which believes it.

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
import getpass
import glob
import hashlib
import http.cookiejar
import itertools
import json
import math
import os
import random
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

try:
    import requests
    import urllib3
    from requests_toolbelt.multipart.encoder import MultipartEncoder  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        f"{error.name} is not installed for {sys.executable}: activate the virtual environment (source "
        "NAME/bin/activate, on Windows NAME\\Scripts\\activate), or install it: pip install requests requests-toolbelt"
    ) from None

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None  # type: ignore[assignment]

__version__ = "2026.11"

ARCHIVE = "rescale.tar.gz"
FAILED_ARCHIVE = "rescale_failed.tar.gz"  # what a job leaves whose command failed
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
PATIENCE = 600  # seconds of faults after which a call gives up; job_monitor never does ...
FIRST_PATIENCE = 60  # ... once the platform has answered: a mistyped address never will
OUTAGE_INTERVAL = 600  # seconds of an outage after which another line says that it goes on
THROTTLE_PATIENCE = 3900  # seconds to wait out a 429: the platform counts requests per hour (rescale-api.md §12)
LONGEST_WAIT = 60  # seconds between two tries at the most, unless the server asks for more
NOTICEABLE_WAIT = 5  # seconds; longer waits are announced
OVERVIEW_PATIENCE = 5  # seconds of faults after which the table of a chain shows a ?
SUBMIT_PATIENCE = 60  # seconds until a submitted job must show a status
PROGRESS_DELAY = 2  # seconds before a transfer's progress is worth a line
FILES_INTERVAL = 1  # seconds between the two looks at a job's file list that must agree
FILES_PATIENCE = 3600  # seconds until an ended job's file list must be complete, and ...
FAILED_PATIENCE = 120  # ... until that of a failed one, which may well stay empty
AT_END_TIMEOUT = 300  # seconds for the user's command at the end of a chain
PAGE_SIZE = 1000  # entries per page: few requests for thousands of files

BLOCK = 1 << 20  # bytes per read and write of bulk data
CHUNK = 1 << 18  # bytes deflated or sent at a time: they fit the processor's cache
# Of 250 MB of mesh deck and binary fields, on two cores, the time until they are packed and uploaded over 100 Mbit/s
# and 1 Gbit/s: level 1 13.7 s and 3.9 s, level 4 14.7 s and 5.3 s, level 6 16.4 s and 7.1 s; more cores shrink the
# differences. But a pure mesh deck gets 20 % larger than with level 9 at level 1, 13 % at 3, 6 % at 4: the fastest one
# that keeps every archive, which is stored and moved again and again, within 10 %. (tests/benchmark.py)
LEVEL = 4
SAMPLE = 1 << 12  # bytes of a block that are tried, to find out whether deflating the block is worth the time
CONNECTIONS = 8  # at once; the platform counts requests
VOLUMES = 64  # parts at most of a file that is sent, and ...
VOLUME = 1 << 26  # ... bytes of each at least; up to this size a file is sent and fetched in one request
RANGES = 64  # parts of a file that is fetched ...
RANGE = (1 << 22, 1 << 26)  # ... and bytes of each at least and at most: what a kill costs

DEFAULT_WALLTIME = 24  # hours, where a job that is read had no limit
JOB_ID = r"[\w-]{1,39}"  # a short word; a key would be longer

WINDOWS = os.name == "nt"
# Statuses after which nothing follows, in lower case; only the first is documented (rescale-api.md §7).
ENDED = {
    "completed", "failed", "stopped", "force stopped", "terminated", "cancelled", "canceled", "error", "archived",
    "aborted", "killed", "finished", "succeeded",
}
STOPPING = {"stopping", "force stop"}
SUCCESS = "completed successfully"  # the reason of a good end, in lower case
BAD_REASONS = {  # of an end that is called Completed all the same
    "a run failed",
    "user terminated",
    "exceeded max number of restarts",
    "could not allocate compute resources from the compute provider",
}
# What engineers meet at the end of a log, and what to do; the first that fits is told.
FAILURES = (
    (r"licensed number of users already reached|all licenses? .{0,40}in use|not enough (abaqus )?(tokens|licen[sc]es)"
     r"|license request queued",
     "All licences are in use: wait until others are done, or let the job wait for them with license_features."),
    (r"(flexnet|flexlm|lmgrd).{0,40}error|(cannot|could not|unable to|failed to).{0,40}licen[sc]e"
     r"|license server.{0,40}(down|not respond)|licen[sc]e.{0,60}(denied|not available|could not|cannot|unable|error)",
     "The licence server refused or could not be reached: see license_info (port@host) and that it lets Rescale in."),
    (r"walltime|time limit|timed? ?out waiting for the job|DUE TO TIME LIMIT",
     "It ran out of time: raise walltime, or continue from a restart file in another link."),
    (r"no space left on device|disk quota exceeded|disk full",
     "The disk was full: take a core type with more storage, more nodes, or write fewer results."),
    (r"results could not be packed",
     "Something still wrote when the command had ended: add a line `wait` at its end; or the disk was full."),
    (r"could not allocate compute resources",
     "No machine of this core type was free: try again later with --repeat, or take another core type."),
    (r"out of memory|oom-?kill|cannot allocate memory|std::bad_alloc|memoryerror|insufficient memory",
     "The memory was not enough: take more cores or a core type with more memory per core."),
    (r"command not found|: not found$|is not recognized as an internal",
     "A program was not found: is it spelt right, and is code_name the tile that brings it?"),
    (r"no such file or directory|cannot (open|find).{0,80}(file|\.inp|\.cas|\.dat)|filenotfounderror"
     r"|input file .{0,80}(not|missing)|file .{0,80}(does not exist|not found)",
     "A file was missing: input files must lie directly in input_path; what a link needs the one before must leave."),
)

Access = tuple[str, str]  # platform and token, as platform_my_token returns them
T = TypeVar("T")
R = TypeVar("R")


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

    def __reduce__(self) -> tuple[Any, ...]:  # to be pickled, as when a pool's worker raises it
        return type(self), (str(self), self.job_id, self.reason, self.log_lines)


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
    first = {"url": os.environ.get("RESCALE_API_URL"), "key": os.environ.get("RESCALE_API_KEY")}
    second: dict[str, str | None] = {}
    wanted = not ((rescale_platform or first["url"]) and (my_token or first["key"]))
    if (profile or wanted) and not os.environ.get("RESCALE_REHEARSAL"):
        second = _profile(profile)
    if profile:
        first, second = second, first
    platform = _platform(rescale_platform or first.get("url") or second.get("url"))
    token = _authorization(my_token or first.get("key") or second.get("key"))
    _say(f"rescale_platform = {platform}")
    _say(f"my_token = Token ...{_last_characters(token)}")
    return platform, token


def _apiconfig() -> tuple[Path, dict[str, dict[str, str]]]:
    """The path and the sections of the file that Rescale's own CLI writes; `%` is literal, quotes are dropped."""
    path = Path("~/.config/rescale/apiconfig")
    parser = configparser.RawConfigParser(default_section="")
    try:
        path = path.expanduser()
        parser.read_string(path.read_text(encoding="utf-8-sig"))
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # the last where there is no home
        return path, {}
    except (OSError, ValueError, configparser.Error) as error:
        # The parser's own words quote the file's lines, and with them the key.
        raise RescaleError(f"{path} cannot be read ({type(error).__name__}); it must be an INI file, see the README") \
            from None
    if not WINDOWS and mode & 0o077:
        _say(f"Warning: {path} can be read by others; it holds your API key: chmod 600 {path}")
    return path, {
        section: {key: re.sub(r"""^(["'])(.*)\1$""", r"\2", text.strip()) for key, text in parser.items(section)}
        for section in parser.sections()
    }


def _profile(profile: str | None) -> dict[str, str | None]:
    """Address and key as a section of apiconfig has them."""
    path, sections = _apiconfig()
    if profile and not sections:
        raise RescaleError(f"profile {_shown(profile)}: there is no {path}; create it or leave the profile out")
    if sections and (profile or "default") not in sections:
        there = ", ".join(map(_shown, sections))
        raise RescaleError(
            f"profile {_shown(profile)} is not in {path}; it has: {there}" if profile else
            f"{path} has no section [default], only: {there}; rename one, or name it: --profile, profile="
        )
    section = sections.get(profile or "default", {})

    def value(*names: str) -> str | None:
        return next((section[name] for name in names if section.get(name)), None)

    return {"url": value("apibaseurl", "apiurl", "platform_url"), "key": value("apikey", "api_key")}


# 2. Archive


def create_tar_gz(input_path: str | os.PathLike[str] | None = None, output_filename: str = ARCHIVE) -> Path:
    """Pack all regular files that lie directly in `input_path` (default: the current folder) into one archive.

    Folders are left out and named. A symbolic link is packed as the file it points to, for links do not survive the
    platform's unpacking. Never packed: the archive itself, the running script, this library, and any file that holds
    an API key. The same files give the same archive, byte by byte.

    Returns the path of the archive, `output_filename` under the current folder. Prints
    `Successfully created rescale.tar.gz in <folder>`. Raises RescaleError for an unknown or empty folder and for a
    file that cannot be read whole; an older archive of that name is then left as it was.
    """
    with _file_errors("the current folder cannot be used"):
        folder = Path.cwd() if input_path is None else Path(input_path)
        output = Path(output_filename).absolute()
    files, folders, left_out = _inputs(folder, output)
    if folders:
        _say(f"- folders left out: {', '.join(folders)}")
    if left_out:
        _say(f"- left out: {', '.join(left_out)}")
    keys = _known_keys()
    holders: set[Path] = set()
    while True:
        try:
            _pack([path for path in files if path not in holders], output, keys)
            break
        except _HoldsKey as found:  # which is known only when the file has been read, so the archive starts anew
            holders.add(found.args[0])
            _say(f"- left out: {found.args[0].name} (holds an API key)")
            if len(holders) == len(files):
                raise RescaleError(f"input_path {folder.absolute()}: nothing is left to pack") from None
    _say(f"Successfully created {output.name} in {output.parent}")
    return output


def _inputs(folder: Path, output: Path) -> tuple[list[Path], list[str], list[str]]:
    """The files of `folder` to pack, sorted; the folders in it; what else is left out, with the reason."""
    if not folder.is_dir():
        raise RescaleError(f"input_path {str(folder)!r} is not a folder; give the folder that holds the input files")
    driver = getattr(sys.modules.get("__main__"), "__file__", None)
    own = [Path(name) for name in (driver, __file__) if name and Path(name).exists()]
    files: list[Path] = []
    folders: list[str] = []
    left_out: list[str] = []
    with _file_errors(f"input_path {folder} cannot be listed"):
        for path in sorted(folder.iterdir()):
            if path.is_symlink() and not path.exists():
                raise RescaleError(f"{path} is a link to a file that does not exist; put the file there or remove it")
            if path.is_dir():
                folders.append(f"{path.name}/")
            elif path.name in (ARCHIVE, FAILED_ARCHIVE, output.name):
                left_out.append(f"{path.name} (an archive of its own)")
            elif _is_bookkeeping(path):
                continue
            elif path.name in SCRIPTS or any(path.samefile(script) for script in own):
                left_out.append(f"{path.name} (script, may hold the token)")
            elif not path.is_file():
                left_out.append(f"{path.name} (not a regular file)")
            else:
                files.append(path)
    if not files:
        raise RescaleError(
            f"input_path {folder.absolute()} holds no files to pack"
            + (f" (left out: {', '.join([*folders, *left_out])})" if folders or left_out else "")
            + "; all input files must lie directly in it"
        )
    return files, folders, left_out


def _is_bookkeeping(path: Path) -> bool:
    """Whether a file is one that this library writes beside the input files: of a chain, a job, an upload."""
    if re.fullmatch(r".+@.+@\d{8}-\d{6}\.(job|log|desktop|url)", path.name):
        return True
    if re.fullmatch(r"\..+\.(part|uploaded|job)", path.name):
        return True
    job, links = path.with_suffix(".job"), (path.with_suffix(".desktop"), path.with_suffix(".url"))
    return path in (job, *links) and job.is_file() and any(link.is_file() for link in links)


def _pack(files: list[Path], output: Path, keys: list[bytes]) -> None:
    """Write the archive of these files, unless one of them holds a key."""
    with _file_errors(f"{output.name} was not created"), _whole_file(output) as file, \
            _Progress(f"packing {output.name}", sum(path.stat().st_size for path in files)) as progress:
        for data in _gzip(_tar(files, keys, progress)):
            file.write(data)


def _tar(files: list[Path], keys: list[bytes], progress: _Progress) -> Iterator[bytes]:
    """The tar archive of these files, piece by piece."""
    size = 2 * tarfile.BLOCKSIZE  # of the end
    for path in files:
        try:
            for piece in _member(path, keys):
                size += len(piece)
                progress.add(len(piece))
                yield piece
        except OSError as error:
            raise RescaleError(
                f"{path} could not be packed whole: {error.strerror or error}. Nothing was uploaded; see that the "
                "file can be read and that no program is writing to it, then start again"
            ) from error
    yield bytes(2 * tarfile.BLOCKSIZE + -size % tarfile.RECORDSIZE)


def _member(path: Path, keys: list[bytes]) -> Iterator[bytes]:
    """One file in a tar archive, without the user names of this machine, which mean nothing on the cluster."""
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        member = tarfile.TarInfo(path.name)
        member.size, member.mode = facts.st_size, facts.st_mode
        member.mtime = int(facts.st_mtime)  # fractions would cost an extra header per file
        yield member.tobuf()
        left, before = member.size, b""
        overlap = max(KEY_LENGTH, *map(len, keys), 0)
        while left:
            block = file.read(min(CHUNK, left))
            if not block:
                break
            text = before + block
            if _holds_key(text, keys):
                raise _HoldsKey(path)
            left, before = left - len(block), text[-overlap:]
            yield block
        after = os.fstat(file.fileno())
        if left or (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            raise OSError("it changed meanwhile")
        yield bytes(-member.size % tarfile.BLOCKSIZE)


class _HoldsKey(Exception):
    """A file, the argument, that was about to be packed holds an API key."""


KEY_LENGTH = 400  # bytes that a word and a key behind it take at the most: what two reads must overlap by
IS_HEX = bytes(chr(code) in "0123456789abcdefABCDEF" for code in range(256))
FIVE = bytes([True] * 5)
KEY_WORDS = tuple(word.encode(code) for word in ("token", "apikey", "api_key") for code in ("utf-8", "utf-16-le"))
KEY = re.compile(rb"(token|apikey|api_key)[^0-9a-z]{1,12}[0-9a-f]{40}(?![0-9a-f])")


def _holds_key(text: bytes, keys: list[bytes]) -> bool:
    """Whether a key is in there, or what looks like one, in UTF-8 or UTF-16."""
    # Most of what is packed has no k, as in each of the words, or no forty such digits, of which each eighth is five.
    if (b"k" in text or b"K" in text) and any(FIVE in text[start::8].translate(IS_HEX) for start in (0, 1)):
        lower = text.lower()
        if any(word in lower and KEY.search(lower.replace(b"\0", b"")) for word in KEY_WORDS):
            return True
    return any(key in text for key in keys)


def _known_keys() -> list[bytes]:
    """All keys that this machine is known to have: in use, in the environment, in any profile."""
    keys = {os.environ.get("RESCALE_API_KEY", "").strip(), *_secrets}
    with contextlib.suppress(RescaleError):
        keys |= {section.get(name, "") for section in _apiconfig()[1].values() for name in ("apikey", "api_key")}
    words = {key.split()[-1] for key in keys if len(key) >= 8}
    return [
        key.encode(code) for word in words for key in {word, word.lower(), word.upper()}
        for code in ("utf-8", "utf-16-le", "utf-16-be")
    ]


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One ordinary gzip member whose blocks are deflated on all cores, as pigz does.

    zlib lets go of the interpreter's lock while it works. Each block starts with the end of the one before it as its
    dictionary, so that hardly anything is lost against deflating in one piece.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(cores, 32)  # blocks in work are memory
    pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
    checksum, size, window = 0, 0, b""
    yield b"\x1f\x8b\x08\0" + bytes(5) + b"\xff"  # gzip, deflate; no name, no time, any system
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for block in _joined(pieces):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            pending.append(pool.submit(_deflated, block, window))
            window = block[-(1 << 15):]
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        for deflated in pending:
            yield deflated.result()
    yield b"\3\0" + struct.pack("<LL", checksum, size & 0xFFFFFFFF)  # behind an empty last block


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of CHUNK at least."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _deflated(block: bytes, window: bytes) -> bytes:
    """The block as deflate data, or stored where two samples say that nothing would be gained."""
    samples = (block[:SAMPLE], block[len(block) // 2:][:SAMPLE])
    level = 0 if all(len(zlib.compress(sample, 1)) > 0.98 * len(sample) for sample in samples) else LEVEL
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15, zdict=window)
    return deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)


# 3. Upload


def upload_local_files(
    rescale_platform: str,
    my_token: str,
    input_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ARCHIVE,
    *,
    decompress: bool = True,
) -> list[dict[str, Any]]:
    """Upload files to Rescale files: a path, a list of paths, or names separated by blanks.

    `decompress` says whether the platform unpacks them into the work folder of the job that takes them. A .tar.gz of
    more than 64 MB that is to be unpacked goes in volumes, several at once; job_setup's command joins them. What the
    platform holds already, by its SHA-512, is not sent again; `.NAME.uploaded` beside the file keeps the ids.

    Returns the list for job_setup: [{'id': 'dxGonb', 'decompress': True}], of volumes one entry each, with False.
    Prints `- rescale.tar.gz uploaded` per file, or how much of it is on the platform already, then
    `All files uploaded successfully!` and the list. Raises RescaleError, before anything is sent, when a file does
    not exist, and when one changes while it is sent or the platform has stored something else.
    Source: POST /api/v2/files/contents/ and GET /api/v2/files/{id}/ (rescale-api.md §2, §3).
    """
    access = rescale_platform, my_token
    with _file_errors("the current folder cannot be used"):
        paths = _local_files(input_file)
    uploads = []
    for path in paths:
        size = VOLUME if decompress and path.name.endswith(".tar.gz") else 0
        ids, sent = _upload(access, path, size)
        uploads += [{"id": identifier, "decompress": decompress and len(ids) == 1} for identifier in ids]
        _say(f"- {path.name} {'uploaded' if sent else 'is on the platform already'}")
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
    if len({path.name.casefold() for path in paths}) < len(paths):
        raise RescaleError(
            f"input_file {', '.join(map(str, paths))}: files of one name would overwrite each other in the job's work "
            "folder. Nothing was uploaded"
        )
    return paths


class _Volume(NamedTuple):
    """A part of a file, sent as a file of its own."""

    name: str
    start: int  # byte in the file
    size: int  # bytes


def _upload(access: Access, path: Path, volume_size: int) -> tuple[list[str], bool]:
    """Send what the platform lacks of a file; return the ids of its parts, and whether anything was sent."""
    # Open throughout: what is sent again after a fault is the same file, whatever has its name by then.
    with _file_errors(f"{path} could not be uploaded"), path.open("rb") as file:
        before = os.fstat(file.fileno())
        with _Progress(f"uploading {path.name}", before.st_size) as progress:
            source = _Source(path, file, progress)
            stored = list(_at_once(
                functools.partial(_store, access, source, source.journal()),
                _volumes(path.name, before.st_size, volume_size),
            ))
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise source.changed()
    held = [sent for _, sent in stored].count(False)
    if 0 < held < len(stored):
        _say(f"- {path.name}: {held} of {len(stored)} parts are on the platform already")
    return [identifier for identifier, _ in stored], held < len(stored)


def _volumes(name: str, size: int, volume_size: int) -> list[_Volume]:
    """The parts in which a file of this size goes up; 0: whole."""
    step = max(volume_size, -(-size // VOLUMES))
    if not volume_size or size <= step:
        return [_Volume(name, 0, size)]
    return [
        _Volume(f"{name}.{number:03}", start, min(step, size - start))
        for number, start in enumerate(range(0, size, step), 1)
    ]


class _Source:
    """A file that several connections read at once, and the journal of what the platform holds of it."""

    def __init__(self, path: Path, file: BinaryIO, progress: _Progress) -> None:
        self.path, self.file, self.progress = path, file, progress
        self.journal_file = path.with_name(f".{path.name}.uploaded")
        self.lock = threading.Lock()

    def blocks(self, volume: _Volume, size: int) -> Iterator[bytes]:
        """The bytes of a part, `size` at a time."""
        for position in range(volume.start, volume.start + volume.size, size):
            wanted = min(size, volume.start + volume.size - position)
            with self.lock:
                self.file.seek(position)
                block = self.file.read(wanted)
            if self.progress.stop.is_set():
                raise _Fault("stopped")
            if len(block) < wanted:
                raise self.changed()
            yield block

    def checksum(self, volume: _Volume, algorithm: str = "sha512") -> str:
        digest = hashlib.new(algorithm, usedforsecurity=False)
        for block in self.blocks(volume, BLOCK):
            digest.update(block)
        return digest.hexdigest()

    def changed(self) -> RescaleError:
        return RescaleError(
            f"{self.path} changed while it was being sent; nothing was set up. See that no program writes to it, "
            "then start again"
        )

    def journal(self) -> list[tuple[str, str]]:
        """SHA-512 and id of the parts stored, the newest first; what cannot be read costs an upload, no more."""
        text = ""
        with contextlib.suppress(OSError):
            text = self.journal_file.read_text("ascii", "replace")
        return re.findall(r"^([0-9a-f]{128}) ([\w-]{1,64})$", text, re.MULTILINE)[::-1]

    def note(self, checksum: str, identifier: str) -> None:
        with contextlib.suppress(OSError), self.journal_file.open("a", encoding="ascii") as file:
            file.write(f"\n{checksum} {identifier}\n")  # the first line end closes what a kill has left open


def _store(
    access: Access, source: _Source, journal: list[tuple[str, str]], volume: _Volume
) -> tuple[str, bool]:
    """Upload a part unless the platform confirms to hold it; return its id, and whether it was sent."""
    checksum = source.checksum(volume)
    for known, identifier in journal:
        if known == checksum and _is_held(access, identifier, volume, checksum):
            source.progress.add(volume.size)
            return identifier, False

    def stored(response: requests.Response) -> str:
        """The id; what the platform says that it got must be what was sent."""
        reply = _object(_json(response), "the answer to the upload")
        identifier, size, (algorithm, digest) = _identifier(reply, "the upload"), _size(reply), _checksum(reply)
        if size not in (None, volume.size):
            raise _Fault(f"{size} of {volume.size} bytes of {volume.name} arrived")
        if algorithm and digest != (checksum if algorithm == "sha512" else source.checksum(volume, algorithm)):
            if source.checksum(volume) != checksum:
                raise source.changed()
            raise _Fault(f"{volume.name} was stored with another {algorithm} than it has")
        return identifier

    form = _Form(source, volume)
    try:
        identifier = _request(
            access, "POST", "files/contents/", content={"data": form, "headers": form.headers}, read=stored,
            read_timeout=UPLOAD_TIMEOUT, stop=source.progress.stop,
        )
    except RescaleError as error:
        if error.status == 413:
            raise RescaleError(f"{error}. {volume.name} has {volume.size:,} bytes", 413) from error
        raise
    source.note(checksum, identifier)
    return identifier, True


def _is_held(access: Access, identifier: str, volume: _Volume, checksum: str) -> bool:
    """Whether the platform confirms to hold a part: of that name, size and SHA-512, and not deleted."""
    try:
        file = _file(_object(_request(access, "GET", f"files/{identifier}/"), "a file"))
    except RescaleError as error:
        if error.status not in (401, 403, 404):
            raise
        return False
    return (file.name, file.size, file.algorithm, file.checksum) == (volume.name, volume.size, "sha512", checksum) \
        and file.uploaded and not file.is_deleted


class _Form:
    """A form around a part of a file; iterated over, so that it goes in chunks of our size, whatever urllib3's is."""

    def __init__(self, source: _Source, volume: _Volume) -> None:
        form = MultipartEncoder({"file": (volume.name, b"", "application/octet-stream")})
        self.headers = {"Content-Type": form.content_type}
        self.head, end, rest = form.to_string().rpartition(b"\r\n--")
        self.tail = end + rest
        self.source, self.volume, self.sent = source, volume, 0
        self.len = len(self.head) + volume.size + len(self.tail)

    def __iter__(self) -> Iterator[bytes]:
        self.source.progress.add(-self.sent)  # of a try before
        self.sent = 0
        yield self.head
        for block in self.source.blocks(self.volume, CHUNK):
            yield block
            self.sent += len(block)
            self.source.progress.add(len(block))
        yield self.tail


# 4. Set-up


def _taking_later_arguments(job_setup: Callable[..., str]) -> Callable[..., str]:
    """Let job_setup be called as in the guide's later versions, too: feature_name, feature_count behind command."""

    @functools.wraps(job_setup)
    def call(*arguments: Any, **keywords: Any) -> str:
        name, count = keywords.pop("feature_name", ""), keywords.pop("feature_count", "")
        if len(arguments) == 15:
            name, count = arguments[4:6]
            arguments = arguments[:4] + arguments[6:]
        if name or count:
            keywords.setdefault("license_features", {name: count})
        return job_setup(*arguments, **keywords)

    return call


@_taking_later_arguments
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
    {'abaqus': 8}. Two more arguments behind `command`, the feature_name and feature_count of the guide's later
    versions, are taken as `license_features`.

    Around `command`, which may `cd` and `exit` as it likes, the job removes the archive that it was given and has
    unpacked, and packs all that is left in its work folder: into rescale.tar.gz if the command succeeded, else into
    rescale_failed.tar.gz. Not packed: process_output.log (its lines so far are in it as `<job_name>.log`), folders
    named tmp or __pycache__. Nothing is deleted before the archive is complete and no file has changed meanwhile. A
    command that makes a rescale.tar.gz of its own is left to it.

    Returns the job's id. Prints `Job_ID: LFZphb`. Raises RescaleError for values that cannot be right, before the
    platform is asked, and with the platform's own words for those that it refuses.
    Source: POST /api/v2/jobs/ (rescale-api.md §4).
    """
    _check_job_name(job_name)
    for name, value in (("command", command), ("code_name", code_name), ("coretype_code", coretype_code)):
        if not isinstance(value, str) or not value.strip():
            raise RescaleError(f"{name} = {value!r}: give a text; job_settings prints the one of a job that ran")
    _check_command(command)
    input_files = _input_files(inputfiles_list)
    job = {
        "name": job_name,
        "projectId": projectid or None,
        "isLowPriority": False,
        "jobanalyses": [
            {
                "analysis": {"code": code_name, "version": str(version_code)},
                "command": _job_command(job_name, command, input_files),
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
                "inputFiles": input_files,
            }
        ],
    }
    reply = _request((rescale_platform, my_token), "POST", "jobs/", content={"json": job})
    job_id = _identifier(reply, "the new job")
    _say(f"Job_ID: {job_id}")
    return job_id


# The job's command. It is a text for any shell, as a file, behind -c or on standard input. The user's command is a
# quoted text that a subshell evaluates, so that no mistake in it, and no cd or exit, keeps the packing from its turn;
# `false` is the status where nothing of it is run.
COMMAND_HEAD = f"set +eu # rescale_rest_api: {ARCHIVE} is there at the end only if the command has succeeded\n"
PACKING = ".rescale_pack"  # folder that is there until the job has come to its end
BEGIN = f"rm -rf {PACKING}; mkdir {PACKING}; echo start > {PACKING}/start\n"
UNPACKED = f"rm -f {ARCHIVE} # the one that the job was given: it is unpacked\n"
STILL_PACKED = f"rescale_given=$(tail -c 8 {ARCHIVE} 2> /dev/null | cksum) # the command will unpack it\n"
VOLUMES_GIVEN = """(
find . -maxdepth 1 -name '*.tar.gz.[0-9][0-9][0-9]' | sed 's/....$//' | sort -u | while IFS= read -r rescale_archive; do
    cat "$rescale_archive".[0-9][0-9][0-9] | tar -xzf - && rm -f "$rescale_archive".[0-9][0-9][0-9] || exit 1
done
) || {
    echo 'rescale_rest_api: a volume of the input is missing or damaged; the command was not started' >&2
    rescale_command='(exit 1)'
}
"""
COMMAND_RUN = """(false; eval "$rescale_command
") < /dev/null
rescale_status=$?
"""
GIVEN_AGAIN = f"""if [ "$(tail -c 8 {ARCHIVE} 2> /dev/null | cksum)" = "$rescale_given" ]; then rm -f {ARCHIVE}; fi
"""
# Deleted is only what the list has, which is packed by then: whatever appears meanwhile stays. Whether something has
# changed is told by the time of change, which only the system sets: a date may be of another clock.
OURS_TO_SKIP = (
    f"-path ./{PACKING} -prune -o -type d -path ./tmp -prune -o -type d -path ./__pycache__ -prune -o "
    + " ".join(f"! -path ./{name}" for name in (LOG, *SCRIPTS))
)
COMMAND_TAIL = f"""if [ -s {ARCHIVE} ]; then
    echo 'rescale_rest_api: the command packed {ARCHIVE} itself; all files stay as it left them'
    [ $rescale_status -ne 0 ] || gzip -t < {ARCHIVE} || rescale_status=1 # cut off, or still being written
    [ $rescale_status -eq 0 ] || mv -f {ARCHIVE} {FAILED_ARCHIVE}
else
    [ -d {ARCHIVE} ] || rm -f {ARCHIVE} # empty
    for rescale_name in {ARCHIVE} {FAILED_ARCHIVE}; do # what else the command may have called so
        rescale_other=$rescale_name.before
        while [ -e $rescale_other ]; do rescale_other=$rescale_other.before; done
        [ ! -e $rescale_name ] || mv -f $rescale_name $rescale_other
    done
    while [ -e "$rescale_log" ]; do rescale_log=${{rescale_log%.log}}.{LOG}; done
    cp {LOG} "$rescale_log" 2> /dev/null || cp ../{LOG} "$rescale_log" 2> /dev/null || rm -f "$rescale_log"
    mkdir -p {PACKING}
    echo packing > {PACKING}/start
    rescale_name={ARCHIVE}
    [ $rescale_status -eq 0 ] || rescale_name={FAILED_ARCHIVE}
    rescale_zip=gzip
    if command -v pigz > /dev/null 2>&1; then rescale_zip=pigz; fi
    find . -mindepth 1 {OURS_TO_SKIP} -print0 > {PACKING}/list
    # the status of each of the three
    rescale_packed=$?$({{ {{ tar -cf - --null --no-recursion -T {PACKING}/list; printf $? >&3; }} |
        {{ $rescale_zip -1 > {PACKING}/archive; printf $? >&3; }}; }} 3>&1)
    rescale_changed=$(find . {OURS_TO_SKIP} ! -type d -cnewer {PACKING}/start -print)
    if [ "$rescale_packed" = 000 ] && [ -z "$rescale_changed" ] && mv -f {PACKING}/archive $rescale_name; then
        xargs -0 rm -f < {PACKING}/list 2> /dev/null
        find . -depth -mindepth 1 -type d ! -path './{PACKING}*' -exec rmdir {{}} + 2> /dev/null
        for rescale_file in tmp __pycache__; do [ ! -d $rescale_file ] || rm -rf $rescale_file; done
        rm -f {' '.join(SCRIPTS)}
        [ $rescale_status -ne 0 ] || rm -f {LOG}
    else
        echo "rescale_rest_api: the results could not be packed; all files stay as they are" \\
            "${{rescale_changed:+; still being written: $rescale_changed}}" >&2
        [ $rescale_status -ne 0 ] || rescale_status=1
    fi
fi
rm -rf {PACKING}
(exit $rescale_status)
"""


def _job_command(job_name: str, command: str, input_files: Sequence[Mapping[str, Any]]) -> str:
    """The user's command, and around it what takes the given archive away and packs the result."""
    packed = [entry for entry in input_files if not entry["decompress"]]
    in_volumes = len(packed) > 1  # as upload_local_files returns them
    return "".join([
        COMMAND_HEAD,
        f"rescale_log={shlex.quote(f'./{job_name}.log')}\n",
        f"rescale_command={shlex.quote(command)}\n",
        BEGIN,
        STILL_PACKED if packed else UNPACKED,
        VOLUMES_GIVEN if in_volumes else "",
        COMMAND_RUN,
        GIVEN_AGAIN if packed else "",
        COMMAND_TAIL,
    ])


def _user_command(command: str) -> str:
    """The user's part of a job's command, whether job_setup made it or not."""
    found = re.search(rf"^rescale_command=(.*)\n{re.escape(BEGIN)}", command, re.MULTILINE | re.DOTALL)
    return shlex.split(found[1])[0] if found and command.startswith(COMMAND_HEAD) else command


def _check_command(command: str) -> None:
    """Refuse what the platform's own check, which the packing would fail, refuses: Abaqus in the background."""
    for line in re.split(r"[;&|\n]+", re.sub(r"\\\n", " ", command)):
        call = re.search(r"(?:^|[\s/(])(?:abaqus|abq)(?:[\d_.-][\w.-]*)?\s+(.*)", line.partition("#")[0].strip())
        words = re.sub(r"\s*=\s*", "=", re.sub(r"[()\"'`]", " ", call[1])).split() if call else []
        runs = any(re.match(r"-?jo?b?(=|$)", word, re.I) for word in words) and words[0] not in ABAQUS_AT_ONCE
        if runs and not any(len(word) > 2 and "interactive".startswith(word.casefold()) for word in words):
            raise RescaleError(
                f"command: {line.strip()!r} returns while Abaqus still runs, and the job would end with it; add the "
                "word interactive to that line"
            )


# Procedures of the abaqus command that name a job without running it.
ABAQUS_AT_ONCE = ("terminate", "suspend", "resume", "fetch", "findkeyword", "python", "cae", "viewer", "script", "make")


def _check_job_name(job_name: str) -> None:
    """Refuse a job name that cannot name the .job file and the result folder."""
    if not isinstance(job_name, str) or not job_name.strip() or _safe_name(job_name) != job_name:
        raise RescaleError(
            f"job_name = {_shown(job_name)} cannot be the name of a file, and results go into a folder of that name; "
            "use letters, digits and - _ . @, 200 bytes at most"
        )


def _whole_number(name: str, value: Any, unit: str) -> int:
    """A positive whole number that may have been written as a text."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (number >= 1 and number < 1e6 and number == int(number)):
        raise RescaleError(f"{name} = {_short(repr(value), 40)} is not a positive whole number of {unit}")
    return int(number)


def _license_info(license_info: Mapping[str, Any]) -> dict[str, str]:
    _check_names("license_info", license_info, "{'LM_LICENSE_FILE': '27000@host'}")
    return {name: str(value) for name, value in license_info.items()}


def _license_settings(license_features: Mapping[str, int] | None) -> dict[str, Any] | None:
    if not license_features:
        return None
    _check_names("license_features", license_features, "{'abaqus': 8}")
    features = [
        {"name": name, "count": _whole_number(f"license_features[{name!r}]", count, "licences")}
        for name, count in license_features.items()
    ]
    return {"featureSets": [{"name": "USER_SPECIFIED", "features": features}]}


def _check_names(name: str, value: Any, example: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise RescaleError(f"{name} = {value!r} is not a mapping of names to values; write {example}, or {{}} for none")


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

    Prints `Job LFZphb : submitted`, or `submitted earlier`. Writes, under the current folder, `<job_name>.job` with
    the job's id before the request, and a link to the result page, `<job_name>.desktop` or on Windows
    `<job_name>.url`. The .job file is created, never overwritten, unless the job in it has ended: two processes cannot
    both start a job of that name. Raises RescaleError when they try, when the platform refuses the job, or accepts it
    and shows no status. Source: POST /api/v2/jobs/{id}/submit/ (rescale-api.md §6).
    """
    access = rescale_platform, my_token
    _check_job_name(job_name)
    _check_job_id(job_id)
    job_file = Path(f"{job_name}.job")
    with _file_errors(f"{job_file} cannot be written; job {job_id} was not submitted"):
        again = _claim(access, job_file, job_id)
        with _locked(job_file):
            if _read_job(job_file) != job_id:
                raise _in_use(job_file)
            for part in Path().glob(glob.escape(f".{job_file.name}.") + "*.part"):
                part.unlink(missing_ok=True)  # of runs that were killed
            earlier = _start(access, job_file, job_id, again)
    _say(f"Job {job_id} : submitted{' earlier' if earlier else ''}")
    page = _result_page(rescale_platform, job_id)
    link, text = (f"{job_name}.url", f"[InternetShortcut]\nURL={page}\n") if WINDOWS else (
        f"{job_name}.desktop", f"[Desktop Entry]\nType=Link\nName={job_name}\nURL={page}\n")
    try:
        with _file_errors(f"{link} cannot be written; the result page is {page}"), _whole_file(Path(link)) as file:
            file.write(text.encode())
    except RescaleError as error:  # only a convenience: the job runs
        _say(f"- {error}")


def _claim(access: Access, job_file: Path, job_id: str) -> bool:
    """See to it that the .job file holds this job's id; tell whether it did already."""
    other = _read_job(job_file)
    if other == job_id:
        return True
    if other:
        try:
            history = _statuses(access, other)
        except RescaleError as error:
            if error.status != 404:
                raise
        else:
            if not _has_ended(history):
                what, then = ("has not ended", f"follow that one: {_command('monitor', other)}") if history \
                    else ("was set up but not started", "submit that one")
                raise RescaleError(
                    f"{job_file} is of job {other}, which {what}; job {job_id} was not submitted. Take another "
                    f"job_name, or {then}"
                )
    try:
        if job_file.exists():  # of a job that has ended, or empty: a run was killed between the name and the id
            aside = job_file.with_name(f".{job_file.stem}.{other or 'empty'}.{job_id}.job")
            job_file.rename(aside)
            if _read_job(aside) != other:  # another process was faster, and this is its job's
                _name_exclusively(aside, job_file)
                raise _in_use(job_file)
        with _whole_file(job_file, exclusively_for=job_id) as file:
            file.write(f"{job_id}\n".encode())
    except (FileExistsError, FileNotFoundError):
        raise _in_use(job_file) from None
    return False


def _read_job(job_file: Path) -> str | None:
    """The job's id in a .job file, if there is one."""
    with _file_errors(f"{job_file} cannot be read"):
        try:
            words = job_file.read_text("utf-8", "replace").split()
        except FileNotFoundError:
            return None
    if words and not re.fullmatch(JOB_ID, words[0], re.ASCII):
        raise RescaleError(f"{job_file} holds {_shown(words[0])}, which is no job id")
    return words[0] if words else None


def _start(access: Access, job_file: Path, job_id: str, again: bool) -> bool:
    """Send the submission, unless the job has statuses, which alone decide; tell whether it had them before.

    `again`: an earlier run was killed, or another process is at it, perhaps while its submission is on the way.
    """

    def started(patience: float = 0) -> bool:
        deadline = time.monotonic() + patience
        while not _statuses(access, job_id):
            if time.monotonic() >= deadline:
                return False
            time.sleep(1)
        return True

    if started(SUBMIT_PATIENCE if again else 0):
        return True
    unclear = again

    def settled() -> bool:
        nonlocal unclear
        unclear = True
        return started(SUBMIT_PATIENCE)

    try:
        # An unclear answer may hide a start: the platform gets time to show it before the request is repeated.
        _request(access, "POST", f"jobs/{job_id}/submit/", content={"json": {}}, read=_nothing, settled=settled)
    except RescaleError as error:
        if error.status is None:
            raise RescaleError(
                f"job {job_id} may have been started, and be billed: {error}. Its id is kept; to submit it again is "
                f"safe, for its statuses are looked at first. Its page: {_result_page(access[0], job_id)}"
            ) from error
        if not started(SUBMIT_PATIENCE if unclear else 0):
            if error.status not in (401, 403, 429) and not isinstance(error.__cause__, _Fault):
                # Refused by the platform itself, for good: the link has no job, and may get another.
                job_file.unlink()
            raise
    if not started(SUBMIT_PATIENCE):
        raise RescaleError(
            f"job {job_id}: the submission was accepted, but the job has no status after {SUBMIT_PATIENCE} s. "
            f"Look at {_result_page(access[0], job_id)} before anything is started again"
        )
    return False


# 6. Monitor


def job_monitor(rescale_platform: str, my_token: str, job_id: str) -> None:
    """Follow a job until it has ended, through outages of any length.

    Prints `Job LFZphb : Pending` and so on, once per change, and while the job executes the new lines of its
    process_output.log: `...` where lines were missed, `Waiting.....` until the log can be read.
    Raises JobFailed unless the job succeeded, RescaleError when the platform refuses the question (401, 403, 404).
    Source: GET /api/v2/jobs/{id}/statuses/ and …/runs/1/tail/ (rescale-api.md §7, §8).
    """
    access = rescale_platform, my_token
    _check_job_id(job_id)
    shown: list[_Status] = []
    log = _Log(access, job_id)
    began = time.monotonic()
    while True:
        history = _statuses(access, job_id, patience=math.inf)
        for entry in history:
            if entry not in shown:
                if not shown or entry.status != shown[-1].status:
                    _say(f"Job {job_id} : {entry.status}")
                shown.append(entry)
        if _has_ended(history):
            break
        if not shown and time.monotonic() - began > SUBMIT_PATIENCE:
            raise RescaleError(f"job {job_id} has no status: it was never submitted; see job_submit")
        if _has_executed(history):
            log.follow()
        time.sleep(STATUS_INTERVAL)
    try:
        outcome = _outcome(access, job_id, history, patience=math.inf)
    except RescaleError as error:
        text = f"job {job_id} ended ({_reported(history)[1]}), but what it left cannot be looked at: {error}"
        raise RescaleError(text, error.status) from error
    if not outcome.success:
        raise _job_failed(access, job_id, outcome)
    if outcome.log_lines and log.lines:
        log.show(outcome.log_lines[-FAILURE_LINES:])


class _Status(NamedTuple):
    status: str
    date: datetime.datetime | None
    reason: str


_seen: set[str] = set()  # ids of the jobs that the platform has shown a status of


def _statuses(access: Access, job_id: str, patience: float | None = None) -> list[_Status]:
    """The job's status history, oldest first as far as that can be told; only what is shown depends on the order."""
    meanwhile = "the job runs on, " if job_id in _seen else ""
    history = [
        _Status(_short(_text(item, "status")), _date(_text(item, "statusDate")), _short(_text(item, "statusReason")))
        for item in _pages(access, f"jobs/{job_id}/statuses/", patience, meanwhile=meanwhile)
        if _text(item, "status").strip()
    ]
    if history:
        _seen.add(job_id)
    if not history or _plain(history[-1].status) not in ENDED:  # newest first is the documented order
        history.reverse()
    if all(entry.date for entry in history):
        history.sort(key=lambda entry: cast(datetime.datetime, entry.date))
    return history


def _plain(status: str) -> str:
    return status.replace("_", " ").casefold()


def _has_ended(history: list[_Status]) -> bool:
    """Whether a job has ended: whatever its history's order and dates, an ended status is never left again."""
    return any(_plain(entry.status) in ENDED for entry in history)


def _has_executed(history: list[_Status]) -> bool:
    return any(_plain(entry.status) == "executing" for entry in history)


def _never_ran(history: list[_Status]) -> bool:
    """Whether a job has ended without having run, so that it cannot have left anything."""
    failure, reason = _reported(history)
    return not _has_executed(history) and (bool(failure) or reason.casefold() != SUCCESS)


def _date(text: str) -> datetime.datetime | None:
    """A date as the platform writes it, `…Z` or with an offset, with or without fractions of a second."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?(Z|[+-]\d\d:\d\d)?", text)
    with contextlib.suppress(ValueError):
        if match:
            zone = (match[3] or "Z").replace("Z", "+00:00")
            return datetime.datetime.fromisoformat(f"{match[1]}.{match[2] or '':0<6}{zone}")
    return None


class _Log:
    """The live process_output.log of one job: `tail` gives its last lines only, so the overlap has to be found."""

    def __init__(self, access: Access, job_id: str) -> None:
        self.access, self.job_id = access, job_id
        self.paths = [LOG, f"shared/{LOG}"]  # the second where the tile works in work/shared
        self.lines: list[str] = []  # the last ones shown
        self.executing_since = self.new_line_at = self.told_at = 0.0
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
            reply = _request(self.access, "GET", path, content={"params": {"lines": LOG_LINES}}, patience=0)
        except RescaleError as error:
            self.looked_at += max(0, error.retry_after - LOG_INTERVAL)
            return None
        lines = reply.get("lines") if isinstance(reply, dict) else None
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            return None
        return [line.rstrip("\r\n") for line in lines]


def _without_command(lines: list[str]) -> list[str]:
    """Log lines without the platform's echo of the whole command, most of which is the packing."""
    first, last = re.escape(COMMAND_HEAD.strip()), re.escape(COMMAND_TAIL.splitlines()[-1])
    ends = [number for number, line in enumerate(lines) if re.search(rf"\]: {last}, Working dir: .*follows:$", line)]
    rest = lines[ends[-1] + 1 :] if ends else lines
    begin = next((number for number, line in enumerate(rest) if re.search(rf"Launching {first}$", line)), None)
    return rest[:begin]


def _new_lines(shown: list[str], tail: list[str]) -> tuple[list[str], bool]:
    """The lines of `tail` behind those already shown, and whether lines in between were missed."""
    for overlap in range(min(len(shown), len(tail)), 0, -1):
        *whole, last = shown[-overlap:]
        if whole == tail[: overlap - 1]:
            if last == tail[overlap - 1]:
                return tail[overlap:], False
            if last.strip() and tail[overlap - 1].startswith(last):  # it had been half written when it was shown
                return tail[overlap - 1 :], False
    return tail, bool(shown and tail)


class _Outcome(NamedTuple):
    """How a job ended."""

    success: bool | None  # None: not to be told yet, for the list of what it left may be incomplete
    reason: str
    exit_code: int | None  # of its command, where the log tells
    log_lines: list[str]  # the last ones
    files: list[_File]  # what it left

    @property
    def word(self) -> str:
        """For the table of a chain."""
        code = f" (exit code {self.exit_code})" if self.exit_code else ""
        stopped = re.search(r"user terminated|\bstop", self.reason, re.IGNORECASE) and not code
        if self.success is None:
            return "ended"
        return "succeeded" if self.success else "stopped" if stopped else f"FAILED{code}"


def _outcome(
    access: Access,
    job_id: str,
    history: list[_Status],
    *,
    patience: float | None = None,
    wait: float = FILES_PATIENCE,
    needed: str = "verdict",
) -> _Outcome:
    """Whether a job that has ended succeeded, the one verdict on it.

    A job that job_setup made did if the platform reports no failure and it left a rescale.tar.gz, which it cannot
    have otherwise. Any other job did by the platform's reason and the closing line of its log. `wait` is in seconds
    for a list of files that is not complete yet; with 0, the verdict may be None. `needed`: "archive", where one of a
    job of the web page is wanted, which may well have none; "files", where the archive of a failed job counts, too.
    """
    failure, reason = _reported(history)
    if _never_ran(history):
        return _Outcome(False, failure or reason or "it never executed", None, [], [])
    made_here, given = _job(access, job_id, patience)
    confirmed = reason.casefold() == SUCCESS
    wanted: tuple[str, ...] = (LOG,)
    if made_here and not failure:
        wanted = (ARCHIVE, FAILED_ARCHIVE, LOG)
    elif confirmed and not failure:
        wanted, wait = ((ARCHIVE,), min(wait, FAILED_PATIENCE)) if needed == "archive" else ((), wait)
    wait = min(wait, FAILED_PATIENCE) if failure else wait
    files = _outputs(access, job_id, given, wanted, patience=patience, wait=wait)
    lines = _finished_log(access, job_id, files, patience, needed=not (failure or made_here))
    code = _exit_code(lines)
    decided = bool(failure or code or (needed == "files" and lines))  # one that was killed leaves its log
    packed = any(file.name in (ARCHIVE, FAILED_ARCHIVE) for file in files)
    if made_here and files and not packed and (needed == "files" or not decided):  # it may be listed last
        wait = min(wait, FAILED_PATIENCE) if decided else wait
        files = _outputs(access, job_id, given, (ARCHIVE, FAILED_ARCHIVE), patience=patience, wait=wait)
    archive = _result(files)
    broken_off = any(file.relative.startswith((f"{PACKING}/", f"shared/{PACKING}/")) for file in files)
    success: bool | None = False
    if failure:
        reason = failure
    elif code:
        reason = f"its command failed, though the platform says {reason!r}"
    elif made_here and not archive:
        reason = f"it left no {ARCHIVE}, so its command was ended before it was done, at its walltime say, or could " \
            f"not be read by the shell; the platform says {reason!r}"
        if not wait and all(file.name != FAILED_ARCHIVE for file in files):
            success = None
    elif made_here and broken_off:  # the command packed by itself, and was killed at it
        reason = f"it was ended before it was done; the platform says {reason!r}"
    elif not made_here and code is None and not confirmed:
        reason = f"nothing confirms success, see its result page; the platform says {reason!r}"
    else:
        success = True
    return _Outcome(success, reason, code, _without_command(lines), files)


def _reported(history: list[_Status]) -> tuple[str, str]:
    """What failure the platform reports, if any, and the reason that it gives for the end."""
    ends = [entry for entry in history if _plain(entry.status) in ENDED]
    starts = [entry.date for entry in history if _plain(entry.status) == "executing" and entry.date]
    stops = [  # but those behind which it was started again, as after a machine was taken away
        entry for entry in history
        if _plain(entry.status) in STOPPING and not (entry.date and any(entry.date < start for start in starts))
    ]
    reason = next((entry.reason for entry in ends if entry.reason), "")
    if stops:
        return next((entry.reason for entry in (*stops, *ends) if entry.reason), stops[0].status), reason
    bad = [entry for entry in ends if _plain(entry.status) not in ("completed", "archived", "finished", "succeeded")]
    if bad:
        return bad[0].reason or bad[0].status, reason
    return (reason if reason.casefold() in BAD_REASONS else ""), reason


def _exit_code(lines: list[str]) -> int | None:
    """The exit code in the log's closing line, as the platform writes it: a program may print the like before."""
    last = next((line for line in reversed(lines) if re.sub(r"^\[[^]]*\]:", "", line).strip()), "")
    match = re.search(r"^(?:\[[^]]*\]: )?Exited with code (-?\d{1,9})\s*$", last)
    return int(match[1]) if match else None


def _finished_log(
    access: Access, job_id: str, files: list[_File], patience: float | None, *, needed: bool
) -> list[str]:
    """The last lines of a finished job's log, from its output files; none where it left none.

    An outage of the whole platform is waited out. But where the log lies may be out of reach for ever.
    """
    log = next((file for file in files if file.relative in (LOG, f"shared/{LOG}") and file.uploaded), None)
    if not log or not log.size:
        return []
    first = max(0, log.size - LOG_TAIL)

    def end(response: requests.Response) -> bytes:
        content = b""
        for block in _blocks(response):  # all of it comes where Range is ignored
            content = (content + block)[-LOG_TAIL:]
        return content

    headers = {"Range": f"bytes={first}-{log.size - 1}", "Accept-Encoding": "identity"}
    for tries_left in range(2 if needed else 0, -1, -1):
        try:
            content: bytes = _request(
                access, "GET", f"files/{log.id}/contents/", content={"headers": headers}, read=end, elsewhere=True,
                patience=None if patience is None else min(patience, PATIENCE),
            )
            break
        except RescaleError as error:
            if error.status is not None or not needed:
                return []
            if not tries_left:  # no answer is not the answer that there is no log
                raise
            _statuses(access, job_id, patience)
    lines = content.decode("utf-8", "replace").splitlines()
    return lines[1:] if first else lines  # half a line may be half a secret


def _job_failed(access: Access, job_id: str, outcome: _Outcome) -> JobFailed:
    lines = outcome.log_lines[-FAILURE_LINES:]
    code = f" (exit code {outcome.exit_code})" if outcome.exit_code else ""
    meaning = _meaning([outcome.reason, *outcome.log_lines])
    return JobFailed(
        "\n".join([
            f"Job {job_id} failed: {outcome.reason}{code}",
            *([f"The last lines of {LOG}:", *(f"    {line}" for line in lines)] if lines
              else [f"It left no {LOG} that can be read."]),
            *([meaning] if meaning else []),
            f"Result page: {_result_page(access[0], job_id)}",
            f"What it wrote until then is kept there; fetch it with: {_command('download', job_id)}",
        ]),
        job_id, outcome.reason, lines,
    )


def _meaning(lines: Sequence[str]) -> str:
    """What the end of a log means to an engineer, in one sentence, with the line that says so."""
    for pattern, sentence in FAILURES:
        for line in reversed(lines):
            if re.search(pattern, line, re.IGNORECASE):
                return f"{sentence} ({_short(line, 160)})"
    return ""


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
    access = rescale_platform, my_token
    _check_job_name(job_name)
    files, unfinished = _downloadable(access, job_id)
    with _file_errors("the current folder cannot be used"):
        folder = Path(job_name).absolute()
    targets = _targets(folder, files)
    total = sum(file.size for file in files)
    failed: list[str] = []
    _say(f"Total {len(files)} files will be downloaded")
    with _file_errors(f"job {job_id} could not be downloaded; what has arrived is kept and not fetched again"), \
            _Progress("downloading", total) as progress:
        _check_space(folder, files, targets)
        fetch = functools.partial(_fetch, access, progress)
        # Small files come at once, a large one in ranges at once; the lines are printed in the list's order.
        small = _at_once(fetch, [pair for pair in zip(files, targets) if pair[0].size <= VOLUME])
        for number, (file, target) in enumerate(zip(files, targets), 1):
            result = next(small) if file.size <= VOLUME else fetch((file, target))
            _say(f"{number} {file.path} {result}")
            if result not in (FETCHED, HERE):
                failed.append(file.relative)
    _say(f"Total {len(files)} files, {total / 1024**2:.3f} MB downloaded")
    if unfinished or failed:
        raise RescaleError(
            f"job {job_id}: not downloaded: {', '.join(_short(name, 80) for name in [*unfinished, *failed])}"
            + (" (not yet, or never completely, stored by the platform)" if unfinished else "")
            + f". The other files are here; try again later: {_command('download', job_id)}"
        )
    return targets


FETCHED, HERE = "downloaded", "was here already"


def _downloadable(access: Access, job_id: str) -> tuple[list[_File], list[str]]:
    """What an ended job left, and the names of what the platform has not stored completely."""
    _check_job_id(job_id)
    history = _ended(access, job_id)
    files = _outcome(access, job_id, history, needed="files").files
    deleted = [file.relative for file in files if file.is_deleted]
    files = [file for file in files if not file.is_deleted]
    if not files:
        why = f"they were deleted on the platform: {', '.join(deleted)}" if deleted else \
            f"its status is {history[-1].status}"
        raise RescaleError(f"job {job_id} has no output files; {why}: {_result_page(access[0], job_id)}")
    return [file for file in files if file.uploaded], [file.relative for file in files if not file.uploaded]


def _ended(access: Access, job_id: str) -> list[_Status]:
    """The history of a job that has ended; an error that says so for one that has not."""
    history = _statuses(access, job_id)
    if not _has_ended(history):
        state = f"has not ended, its status is {history[-1].status}" if history else "was not submitted"
        raise RescaleError(f"job {job_id} {state}; follow it with: {_command('monitor', job_id)}")
    return history


class _File(NamedTuple):
    id: str
    name: str
    relative: str  # path relative to the work folder
    path: str  # the platform's own path, for printing
    size: int  # bytes
    uploaded: bool  # and its size known
    algorithm: str | None  # of the checksum: sha512, md5
    checksum: str
    is_deleted: bool


def _outputs(
    access: Access,
    job_id: str,
    given: Sequence[_File],
    wanted: Sequence[str] = (),
    *,
    patience: float | None = None,
    wait: float = FILES_PATIENCE,
) -> list[_File]:
    """What a job that has ended left, once the list is complete: the same twice, all uploaded, one `wanted` among it.

    Inputs are no outputs: what the job was `given` is left out, whatever the list says. What has been deleted since is
    in, for it proves the same. After `wait` seconds the list counts as it is.
    """
    began = told_at = time.monotonic()
    interval, before = float(FILES_INTERVAL), None
    while True:
        listed = [_file(item) for item in _pages(access, f"jobs/{job_id}/files/", patience)]
        files = [
            file for file in {file.id: file for file in listed}.values()  # pages may overlap while the list grows
            if not any(_is_input(file, other) for other in given)
        ]
        now = time.monotonic()
        settled = bool(files) and all(file.uploaded or file.is_deleted for file in files) and (
            not wanted or any(file.name in wanted for file in files)
        )
        if (settled and files == before) or now - began >= wait:
            return files
        before = files if settled else None
        if now - told_at > OUTAGE_INTERVAL:
            told_at = now
            _say(f"- the list of job {job_id}'s files is not complete after {_duration(now - began)}; looking again")
        interval = FILES_INTERVAL if settled else min(1.5 * interval, 30)
        time.sleep(interval)


def _is_input(file: _File, given: _File) -> bool:
    """Whether a listed file is one that the job was given: the same id, or the same archive synced back."""
    return file.id == given.id or (
        file.name == given.name == ARCHIVE and file.size == given.size
        and (file.checksum == given.checksum or file.algorithm != given.algorithm)
    )


def _result(files: Sequence[_File]) -> _File | None:
    """The job's archive among its outputs; of two, the one in shared/, where the job packed."""
    found = [
        file for file in files
        if file.relative in (ARCHIVE, f"shared/{ARCHIVE}") and (file.uploaded or file.is_deleted)
    ]
    return max(found, key=lambda file: file.relative, default=None)


def _job(access: Access, job_id: str, patience: float | None = None) -> tuple[bool, list[_File]]:
    """Whether job_setup made this job, so that its archive is a proof, and the files that it was given."""
    job = _request(access, "GET", f"jobs/{job_id}/", read=_job_object, patience=patience)
    tiles = [tile for tile in job["jobanalyses"] if isinstance(tile, dict)]
    given = [
        _file(item) for tile in tiles for item in tile.get("inputFiles") or []
        if isinstance(item, dict) and item.get("id")
    ]
    return any(str(tile.get("command")).startswith(COMMAND_HEAD) for tile in tiles), given


def _job_object(response: requests.Response) -> dict[str, Any]:
    """A job; another answer may pass, like that of a maintenance."""
    reply = _json(response)
    if not isinstance(reply, dict) or not isinstance(reply.get("jobanalyses"), list):
        raise _Fault(f"the answer is no job: {_short(reply)}")
    return reply


def _file(item: dict[str, Any]) -> _File:
    """What a file object says, checked (rescale-api.md §3)."""
    identifier, size = _identifier(item, "a file"), _size(item)
    relative, path = _text(item, "relativePath"), _text(item, "path")
    name = _text(item, "name") or PurePosixPath(relative).name or identifier
    algorithm, checksum = _checksum(item)
    return _File(
        identifier, name, relative or name, _short(path or relative or name), size or 0,
        item.get("isUploaded") is not False and size is not None, algorithm, checksum, item.get("isDeleted") is True,
    )


def _size(item: dict[str, Any]) -> int | None:
    """The size in bytes that a file object gives, if any yet."""
    size = item.get("decryptedSize")
    if isinstance(size, str) and re.fullmatch(r"\d{1,18}", size):
        size = int(size)
    return size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 60 else None


def _checksum(item: dict[str, Any]) -> tuple[str | None, str]:
    """The algorithm and the checksum that a file object gives: SHA-512, else MD5, else none."""
    sums = {"md5": item.get("md5")}
    checksums = item.get("fileChecksums")
    for entry in checksums if isinstance(checksums, list) else []:
        if isinstance(entry, dict):
            sums[str(entry.get("hashFunction")).lower().replace("-", "")] = entry.get("fileHash")
    for algorithm, digits in (("sha512", 128), ("md5", 32)):
        if re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", str(sums.get(algorithm))):
            return algorithm, str(sums[algorithm]).lower()
    return None, ""


def _targets(folder: Path, files: list[_File]) -> list[Path]:
    """Where each file goes, below `folder`. A path that cannot be here, or is taken, is changed and told."""
    targets: list[Path] = []
    taken = set()
    for file in files:
        relative = "/".join(map(_safe_name, file.relative.split("/")))
        if relative != file.relative:
            relative += f".{file.id}"
        while relative.casefold() in taken:
            relative += f".{file.id}"
        if not file.relative.endswith(relative):
            _say(f"- {_short(file.relative)} cannot have that name here; it is saved as {relative}")
        taken.add(relative.casefold())
        targets.append(folder / relative)
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


def _check_space(folder: Path, files: list[_File], targets: list[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size for file, target in zip(files, targets) if not os.path.lexists(target))
    needed -= sum(part.stat().st_size for part in folder.rglob(".*.part"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RescaleError(
            f"{folder}: {needed / 1024**2:,.0f} MB are to be downloaded, but only {free / 1024**2:,.0f} MB are free; "
            "nothing was downloaded. Make room, then download again"
        )


def _fetch(access: Access, progress: _Progress, pair: tuple[_File, Path]) -> str:
    """Download one file unless it is there already; tell how it went."""
    file, target = pair
    if progress.stop.is_set():
        raise RescaleError("stopped")
    part = target.with_name(f".{file.id}.part")
    if os.path.isfile(target) and file.algorithm and _is_right(target, file):  # noqa: PTH113  # False if too long a name
        progress.add(file.size)
        return HERE
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        output = _locked(part)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, getattr(errno, "EDQUOT", None)):
            raise  # no fault of this file's name: none would fare better
        return f"cannot be written here: {error.strerror}"
    with output:
        for _ in range(2):
            if _complete(access, progress, file, target.parent, output):
                break
            progress.add(-file.size)
            output.truncate(0)
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
            os.fsync(output.fileno())
        if not WINDOWS:  # which renames no open file
            _set_in_place(part, target)
    if WINDOWS:
        _set_in_place(part, target)
    return FETCHED


def _complete(access: Access, progress: _Progress, file: _File, folder: Path, output: BinaryIO) -> bool:
    """Bring `output`, which always is a beginning of the file, to its end; tell whether it is the platform's then."""
    output.seek(0)
    digest = _digest(output, file)
    have = output.tell()
    if have > file.size:
        output.truncate(0)
        return _complete(access, progress, file, folder, output)
    progress.add(have)

    def append(block: bytes) -> None:
        output.write(block)
        output.flush()
        digest.update(block)

    step = min(max(RANGE[0], -(-file.size // RANGES)), RANGE[1])
    if file.size - have > VOLUME and file.algorithm:
        ranges = [(start, min(start + step, file.size)) for start in range(have, file.size, step)]
        ahead = functools.partial(_range, access, progress, file, folder)
        with contextlib.suppress(_NoRanges):
            for content in _at_once(ahead, ranges):
                with content:
                    for block in iter(functools.partial(content.read, BLOCK), b""):
                        append(block)
                if hasattr(os, "posix_fadvise"):  # let the disk begin to write, instead of waiting for it at the end
                    os.posix_fadvise(output.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    have = output.tell()
    if have < file.size:
        _receive(access, progress, file, (have, file.size), append)
    return not file.algorithm or digest.hexdigest() == file.checksum


def _range(access: Access, progress: _Progress, file: _File, folder: Path, span: tuple[int, int]) -> BinaryIO:
    """Fetch a range ahead of its turn into a file without a name, of which a kill leaves nothing."""
    content = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115  # closed by whoever appends it
    try:
        _receive(access, progress, file, span, content.write, one_of_many=True)
        content.seek(0)
    except BaseException:
        content.close()
        raise
    return content


def _receive(
    access: Access, progress: _Progress, file: _File, span: tuple[int, int], take: Callable[[bytes], Any],
    *, one_of_many: bool = False,
) -> None:
    """Fetch the bytes of a file from the first of `span` up to the second; what has come survives a broken line."""
    have, end = span

    def missing() -> dict[str, Any]:
        headers = {"Accept-Encoding": "identity"}
        if have or end < file.size:
            headers["Range"] = f"bytes={have}-{end - 1}"
        return {"headers": headers}

    def save(response: requests.Response) -> None:
        nonlocal have
        known = 0  # bytes that come once more
        if response.status_code == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _Fault("another part of the file came than was asked for")
        elif "html" in response.headers.get("Content-Type", "") and not file.name.endswith((".html", ".htm")):
            raise _Fault("a web page came instead of the file")
        elif one_of_many:
            raise _NoRanges
        else:
            known = have
        # We asked for the bytes as they are: if their number is right they are not encoded, whatever the label says.
        plain = response.headers.get("Content-Length") == str(end - have + known)
        for block in _blocks(response, decode=not plain):
            if progress.stop.is_set():
                raise _Fault("stopped")
            known, block = max(0, known - len(block)), block[known:]
            if have + len(block) > end:
                raise _Fault(f"more than {end} bytes came")
            take(block)
            have += len(block)
            progress.add(len(block))
        if have < end:
            raise _Fault(f"{have} instead of {end} bytes came")

    while have < end:
        before = have
        try:
            _request(
                access, "GET", f"files/{file.id}/contents/", content=missing, read=save, elsewhere=True,
                stop=progress.stop, settled=lambda: have == end,
            )
        except RescaleError:
            if progress.stop.is_set() or have == before:  # as long as some of it comes, a bad line is worth another try
                raise


class _NoRanges(Exception):
    """The server sent the whole file where a range was asked for."""


def _blocks(response: requests.Response, *, decode: bool = True) -> Iterator[bytes]:
    """An answer's content, in small blocks first: of a line that breaks soon, at least half is kept."""
    size = 64
    while block := response.raw.read(size, decode_content=decode):
        yield block
        size = min(2 * size, BLOCK)


def _is_right(path: Path, file: _File) -> bool:
    """Whether a local file is the platform's, by size and checksum."""
    with path.open("rb") as content:
        return path.stat().st_size == file.size and _digest(content, file).hexdigest() == file.checksum


def _digest(content: BinaryIO, file: _File) -> Any:
    """The sum so far, of the platform's kind, of what there is of a file."""
    digest = hashlib.new(file.algorithm or "md5", usedforsecurity=False)
    for block in iter(functools.partial(content.read, BLOCK), b""):
        digest.update(block)
    return digest


def _set_in_place(part: Path, target: Path) -> None:
    """Give a whole file its name; another one that has it gets a new name: nothing is ever overwritten."""
    if target.exists():
        aside = next(
            name for number in itertools.count(1)
            if not (name := target.with_name(f"{target.name}.previous-{number}")).exists()
        )
        target.rename(aside)
        _say(f"- another {target.name} was there; it is now {aside.name}")
    part.replace(target)


# 8. The previous job's result as input


def file_previous_job(rescale_platform: str, my_token: str, job_id: str) -> list[dict[str, Any]]:
    """Take a job's rescale.tar.gz, inside the cloud, as input of the next job.

    Returns the list for job_setup: [{'id': 'JKNBbb', 'decompress': True}], and prints it. Raises RescaleError when
    the job has not ended, has failed, or left no rescale.tar.gz.
    Source: GET /api/v2/jobs/{id}/files/ (rescale-api.md §9).
    """
    access = rescale_platform, my_token
    _check_job_id(job_id)
    outcome = _outcome(access, job_id, _ended(access, job_id), needed="archive")
    archive = _result(outcome.files)
    if not outcome.success or not archive or archive.is_deleted:
        there = ", ".join(_short(file.relative, 80) for file in outcome.files[:20]) or "nothing"
        what = f"failed: {outcome.reason}"
        if outcome.success:
            what = f"left a {ARCHIVE} that was deleted since" if archive else f"left no {ARCHIVE}"
        raise RescaleError(
            f"job {job_id} {what}, so the next job has no input; it left: {there}. "
            f"See {_result_page(rescale_platform, job_id)}"
        )
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
    job = _object(_request((rescale_platform, my_token), "GET", f"jobs/{job_id}/"), f"job {job_id}")
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
    jobs: int = 1,
) -> None:
    """Check what job_setup will be given against the platform's catalogues, before anything is packed or sent.

    Prints the account, the settings, of the folder `input_path` how much there is to pack, and what a job and a chain
    of `jobs` can cost at most: price × cores × slots × walltime as the platform lists the price, or the core-hours
    where it lists none. A catalogue that the account may not see is skipped with a notice. Raises one RescaleError for
    all values that are wrong, each with the nearest right ones; in a rehearsal, which knows a few only, they are told
    and taken.
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
    slots = checked(_whole_number, "slot", slot, "slots (1 for all but DOE)")
    me = _object(_request(access, "GET", "users/me/"), "users/me")
    _say(f"- account {_short(me.get('email', '?'))}, token ...{_last_characters(_authorization(my_token))}")
    _say(
        f"- {code_name} {version_code} on {_short(slot, 20)} x {_short(core_per_slot, 20)} cores of {coretype_code}, "
        f"at most {_short(walltime, 20)} h, project {projectid or 'none'}, licence {', '.join(licence or ()) or 'none'}"
    )
    packing = checked(_packing, input_path) if input_path is not None else None
    if packing:
        _say(packing)
    core_types = _catalogue(access, "coretypes/", "code")
    unknown = [
        *_check_tile(_catalogue(access, "analyses/", "code"), str(code_name), str(version_code)),
        *_check_core_type(core_types, str(coretype_code), cores),
        *_check_project(_catalogue(access, "users/me/projects/", "id") if projectid else None, str(projectid)),
    ]
    longest = me.get("maxJobHours")
    if isinstance(longest, int) and 0 < longest < (hours or 0):
        unknown.append(f"walltime = {hours}: this account's jobs may run for {longest} hours at the most")
    if cores and hours and slots:
        _say(_most(cores * slots * hours, jobs, _price(core_types, str(coretype_code))))
    if os.environ.get("RESCALE_REHEARSAL"):
        for line in unknown:
            _say(f"- unknown to this rehearsal, which takes it all the same: {line}")
        unknown = []
    if wrong or unknown:
        text = "\n".join([*wrong, *unknown])
        raise RescaleError(f"The settings are not right; nothing was uploaded or started:\n{text}")


def _packing(input_path: str | os.PathLike[str]) -> str:
    """How much there is to pack, and the largest of it."""
    files, folders, _ = _inputs(Path(input_path), Path(ARCHIVE).absolute())
    sizes = {path.name: path.stat().st_size for path in files}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
    return f"- {len(files)} files to pack and upload, {sum(sizes.values()) / 1024**2:,.3f} MB; the largest: " + \
        ", ".join(f"{name} {sizes[name] / 1024**2:,.3f} MB" for name in largest) + \
        (f"; folders left out: {', '.join(folders)}" if folders else "")


def _most(core_hours: int, jobs: int, price: float | None) -> str:
    """The most that a job, and a chain of jobs, can use and cost."""
    chain = f", this chain of {jobs}: {jobs * core_hours:,} core-hours" if jobs > 1 else ""
    if price is None:
        return f"- at most, a job: {core_hours:,} core-hours{chain}; the platform lists no price for them"
    cost = f" = {core_hours * price:,.2f}"
    chain += f" = {jobs * core_hours * price:,.2f}" if chain else ""
    return f"- at most, a job: {core_hours:,} core-hours{cost}{chain}, at {price:g} per core-hour as the platform " \
        "lists it; licences not included"


def _price(core_types: Mapping[str, dict[str, Any]] | None, coretype_code: str) -> float | None:
    """The price per core-hour that the platform lists, which members may not be shown."""
    try:
        price = float((core_types or {})[coretype_code]["price"])
    except (KeyError, TypeError, ValueError):
        return None
    return price if 0 < price < math.inf else None


def _catalogue(access: Access, path: str, key: str, patience: float | None = None) -> dict[str, dict[str, Any]] | None:
    """A list of the platform by its entries' `key`, or None where the account may not see it."""
    try:
        return {str(item.get(key)): item for item in _pages(access, path, patience)}
    except RescaleError as error:
        if error.status not in (403, 404):
            raise
        _say(f"- not checked, the account may not see it: {path}; what is wrong the platform will refuse")
        return None


def _check_tile(tiles: Mapping[str, dict[str, Any]] | None, code_name: str, version_code: str) -> Iterator[str]:
    if tiles is None:
        return
    if code_name not in tiles:
        yield f"code_name = {code_name!r}: no such tile{_did_you_mean(code_name, tiles)}"
        return
    versions = tiles[code_name].get("versions")
    codes = [
        str(version["versionCode"]) for version in (versions if isinstance(versions, list) else [])
        if isinstance(version, dict) and version.get("versionCode") is not None
    ]
    if codes and version_code not in codes:
        yield f"version_code = {version_code!r} is not a version of {code_name}" \
            f"{_did_you_mean(version_code, codes)}; newest: {', '.join(sorted(codes, reverse=True)[:3])}"


def _check_core_type(
    core_types: Mapping[str, dict[str, Any]] | None, coretype_code: str, cores: int | None
) -> Iterator[str]:
    if core_types is None:
        return
    active = [code for code, item in core_types.items() if item.get("isActive") is not False]
    if coretype_code not in active:
        gone = "no longer offered" if coretype_code in core_types else "no such core type"
        yield f"coretype_code = {coretype_code!r}: {gone}{_did_you_mean(coretype_code, active)}"
        return
    sizes = core_types[coretype_code].get("cores")
    sizes = sorted(size for size in (sizes if isinstance(sizes, list) else []) if isinstance(size, int) and size > 0)
    if not sizes or cores is None or cores in sizes or cores % sizes[-1] == 0:  # whole nodes
        return
    allowed = [*sizes, cores // sizes[-1] * sizes[-1], -(-cores // sizes[-1]) * sizes[-1]]
    near = [max((size for size in allowed if 0 < size < cores), default=0),
            min((size for size in allowed if size > cores), default=0)]
    yield f"core_per_slot = {cores}: {coretype_code} has {', '.join(map(str, sizes))} cores, or multiples of " \
        f"{sizes[-1]}; nearest: {' or '.join(str(size) for size in near if size)}"


def _check_project(projects: Mapping[str, dict[str, Any]] | None, projectid: str) -> Iterator[str]:
    if projects is not None and projectid not in projects:
        names = ", ".join(f"{key} ({_short(project.get('name'))})" for key, project in list(projects.items())[:10])
        yield f"projectid = {projectid!r}: no such project for this account; it has: {names or 'none'}"


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def job_stop(rescale_platform: str, my_token: str, job_id: str) -> None:
    """Stop a running job; what it has written so far is kept by the platform.

    Prints `Job LFZphb : stop requested`. Raises RescaleError when the job cannot be stopped, as when it has ended.
    Source: POST /api/v2/jobs/{id}/stop/ (rescale-api.md §10).
    """
    _check_job_id(job_id)
    access = rescale_platform, my_token
    _request(access, "POST", f"jobs/{job_id}/stop/", content={"json": {}}, read=_nothing)
    _say(f"Job {job_id} : stop requested")


def chain_overview(rescale_platform: str, my_token: str, jobs: Mapping[str, str | None]) -> None:
    """Print a table of a chain's jobs, {job_name: job_id}; the id of one that has not been started is None.

    Per job: its outcome (succeeded, FAILED (exit code 1), stopped, running, waiting, not started), how long it waited
    and executed, its core-hours, what they cost where the platform lists a price, and where the result of this very
    job is. Never raises for what the platform does not tell just now: that is a `?`.
    Source: GET /api/v2/jobs/{id}/statuses/, …/jobs/{id}/, …/files/, …/coretypes/ (rescale-api.md §5, §7, §9, §11).
    """
    _say("")
    for line in _table((rescale_platform, my_token), jobs):
        _say(line)


def _table(access: Access, jobs: Mapping[str, str | None]) -> list[str]:
    """The lines of the table of a chain."""
    core_types = None
    with contextlib.suppress(RescaleError):
        core_types = _catalogue(access, "coretypes/", "code", OVERVIEW_PATIENCE) if any(jobs.values()) else None
    rows: list[tuple[str, ...]] = [("job", "id", "outcome", "waited", "executed", "core-hours", "cost", "result")]
    rows += [_row(access, job_name, job_id, core_types) for job_name, job_id in jobs.items()]
    columns = [column for column in zip(*rows) if any(column[1:])]  # no empty one, as where no price is listed
    widths = [max(map(_width, column)) for column in columns]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths)).rstrip()
        for row in zip(*columns)
    ]


def _row(
    access: Access, job_name: str, job_id: str | None, core_types: Mapping[str, dict[str, Any]] | None
) -> tuple[str, ...]:
    """What the table says of one job."""
    if not job_id:
        return job_name, "-", "not started", "", "", "", "", ""
    try:
        history = _statuses(access, job_id, patience=OVERVIEW_PATIENCE)
        waited, executed = _times(history)
        job = _request(access, "GET", f"jobs/{job_id}/", read=_job_object, patience=OVERVIEW_PATIENCE)
        outcome = None
        if _has_ended(history):
            outcome = _outcome(access, job_id, history, patience=OVERVIEW_PATIENCE, wait=0)
    except RescaleError as error:
        return job_name, job_id, "unknown here" if error.status == 404 else "?", "", "", "", "", ""
    state = outcome.word if outcome else "running" if _has_executed(history) else "waiting" if history else \
        "not started"
    core_hours, cost = "", ""
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
        hardware = job["jobanalyses"][0]["hardware"]
        used = executed / 3600 * int(hardware["coresPerSlot"]) * int(hardware.get("slots") or 1)
        price = _price(core_types, str(hardware["coreType"]))
        core_hours, cost = f"{used:,.2f}", f"{used * price:,.2f}" if price is not None else ""
    return (
        job_name, job_id, state, _duration(waited), _duration(executed), core_hours, cost,
        _where(job_name, outcome.files) if outcome else "",
    )


def _where(job_name: str, files: Sequence[_File]) -> str:
    """Where the files of a job are: here only if all of these are."""
    folder = Path(job_name)
    with contextlib.suppress(OSError):
        if files and all((folder / file.relative).stat().st_size == file.size for file in files):
            return f"{folder}{os.sep}"
    return "on the platform" if files else "none"


def _width(text: str) -> int:
    """The columns that a text takes on a terminal: two for a Korean letter."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _times(history: list[_Status]) -> tuple[float, float]:
    """For how many seconds a job waited before it executed, and executed; a restarted one does so in turns."""
    spent = {"executing": 0.0, "before": 0.0}
    known = [(entry.date, _plain(entry.status)) for entry in history if entry.date]
    for (since, status), (until, _) in zip(known, [*known[1:], (_now(), "")]):
        if status not in ENDED and status not in STOPPING:
            spent["executing" if status == "executing" else "before"] += (until - since).total_seconds()
    return max(0, spent["before"]), max(0, spent["executing"])


# A chain, for main.py

Link = tuple[str, str, "str | None"]  # job name, command, id of its job from an earlier run


class _Chain(NamedTuple):
    """A chain is its .job files, `user@batch@STARTED_AT.job`: this one's names, in the order of `batches`."""

    names: list[str]  # batch names
    started_at: str  # local time, 20260131-235959

    def job_name(self, batch_name: str) -> str:
        return f"{_user()}@{batch_name}@{self.started_at}"

    @property
    def name(self) -> str:
        return self.job_name(self.names[0])

    def jobs(self) -> dict[str, str | None]:
        """The id of each link's job, None for those without."""
        return {name: _read_job(Path(f"{name}.job")) for name in map(self.job_name, self.names)}

    def is_finished(self) -> bool:
        """Whether the last result is here: job_download gives an archive its name only when it is whole."""
        return any(Path(self.job_name(self.names[-1])).rglob(ARCHIVE))


def run_chain(
    run: Callable[[str, str, Iterator[Link]], Any],
    batches: Sequence[tuple[str, str]],
    settings: tuple[Any, ...],
    *,
    license_features: Mapping[str, int] | None = None,
    input_path: str | os.PathLike[str] | None = None,
    at_end: str | None = None,
    rescale_platform: str | None = None,
    my_token: str | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run main.py: read its command line, and let `run` go through the links of a new chain or an earlier one.

    `run(platform, token, links)` holds the guide's steps; `links` yields (job_name, command, job_id) for each of
    `batches`, with the id of its job from an earlier run or None. `settings` are code_name, version_code,
    license_info, coretype_code, core_per_slot, slot, walltime, projectid. `at_end` is a shell command that runs when
    the chain has ended, well or not, with CHAIN_STATUS (succeeded, failed), CHAIN_NAME and CHAIN_SUMMARY in its
    environment.

    Starts nothing beside an unfinished chain. Prints where it is, at the end a table and what to do next. Writes all
    that is printed, with the local time, to `<first job's name>.log`.

    Returns the exit status: 0 done, 1 failed, 2 usage or an unfinished chain, 130 Ctrl-C.
    """
    options = _chain_options(arguments)
    wrong = _wrong_sections(batches, settings, input_path, at_end)
    if wrong:
        _complain(wrong)
        return 2
    names = [name for name, _ in batches]
    chain, access, failure, lock, status = None, None, None, None, 1
    try:
        _log_to([])
        _say(f"rescale_rest_api {__version__}: {_driver()}: {', '.join(names)}")
        access = platform_my_token(rescale_platform, my_token)
        check = functools.partial(
            check_settings, *access, *settings, license_features=license_features, input_path=input_path,
            jobs=len(batches),
        )
        if options.check:
            check()
            return 0
        chain = _chosen(access, names, options)
        if not chain or options.status is not None:
            return 0 if chain else 2
        lock = _locked(Path(f"{chain.name}.log"))  # while this process lives: a chain exists before its first .job file
        _log_to(Path(f"{chain.name}.log"))
        if not all(chain.jobs().values()) or options.repeat is not None:
            check()
        run(*access, _links(access, chain, batches, repeat=options.repeat is not None))
        status = 0
    except RescaleError as error:
        failure = str(error)
        advice = _what_next(chain, error)
    except KeyboardInterrupt as error:
        failure, status = "Interrupted.", 130
        advice = _what_next(chain, error)
    finally:
        if failure:
            _complain(failure)
        if chain and access and options.status is None and status != 130:
            with contextlib.suppress(KeyboardInterrupt):
                _end(access, chain, status, at_end, failure or "")
        if failure:
            _complain(advice)
        elif chain and not status:
            _say(f"Done: the result is in {chain.job_name(names[-1])}{os.sep}")
        _log_to(None)
        if lock:
            lock.close()
    return status


def _chain_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run the jobs in `batches` one after another; each takes the result of the one before it.\n"
        "Without an option: start a new chain. What is paid for already is never paid for again: where a chain\n"
        "of this script is unfinished in this folder, nothing is started unless --new says so.",
        epilog="STARTED_AT is the time in the names of a chain's files, like 20260131-235959; without it the newest\n"
        "chain is meant. Exit status: 0 done, 1 failed, 2 usage or an unfinished chain, 130 Ctrl-C.",
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--new", action="store_true", help="start another chain beside an unfinished one")
    for name, text in (
        ("--resume", "go on with a chain, after a crash, a reboot or Ctrl-C; what is done is only confirmed"),
        ("--repeat", "as --resume, and a job that has failed is replaced by a new one: mend its cause first"),
        ("--status", "print how far a chain is, and start nothing; for another terminal"),
    ):
        one.add_argument(name, nargs="?", const="", metavar="STARTED_AT", help=text)
    one.add_argument("--check", action="store_true", help=(
        "check the key and the settings, say what would be packed and paid at most, and start nothing"))
    return parser.parse_args(arguments)


def _wrong_sections(batches: Any, settings: Any, input_path: Any, at_end: Any) -> str:
    """What is wrong with the sections of main.py, as people write them."""
    if not isinstance(batches, (list, tuple)) or not batches:
        return 'batches needs at least one line ("name", "command"),'
    for line in batches:
        if not (isinstance(line, tuple) and len(line) == 2 and all(isinstance(text, str) for text in line)):
            return f'batches: every line must be ("name", "command"), with both commas; this one is {_short(line, 80)}'
        name, command = line
        if not name.strip() or set(name) & set('/\\:*?"<>|') or not command.strip():
            return f"batch {name!r} needs a command, and a name that can be part of a file's"
        try:
            _check_job_name(_Chain([name], "20260131-235959").name)
            _check_command(command)
        except RescaleError as error:
            return f"batch {name!r}: {error}"
    names = [name.casefold() for name, _ in batches]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        return f"batches: two lines are called {twice!r}; every batch_name only once"
    if len(settings) != 8:
        return f"settings has {len(settings)} values; 8 are needed, as main.py has them"
    if not isinstance(at_end, (str, type(None))):
        return f"at_end = {at_end!r} is not a command, a text in quotes, or None"
    if input_path is not None and not (isinstance(input_path, (str, os.PathLike)) and os.path.isdir(input_path)):  # noqa: PTH112
        return f"input_path = {_short(repr(input_path))} is not a folder; give the one with the input files"
    return ""


def explain_slip(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A `sys.excepthook` for main.py: a comma that is missing between two lines of batches is told in one line."""
    if kind is TypeError and "'tuple' object is not callable" in str(error) and trace and not trace.tb_next:
        _complain(f"{_driver()}, line {trace.tb_lineno}: a comma is missing between two lines of batches")
    else:
        sys.__excepthook__(kind, error, trace)


def _user() -> str:
    """The user's name, as in the job names; a container may have none."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = "user"
    return re.sub(r'[\x00-\x20\x7f/\\:*?"<>|@]', "_", name)


def _chains(names: list[str]) -> list[_Chain]:
    """The chains of these batches in this folder, newest first: their names are matched whole."""
    found: dict[str, set[str]] = {}
    with _file_errors("the current folder cannot be listed"):
        for path in Path().iterdir():
            match = re.fullmatch(rf"{re.escape(_user())}@(.+)@(\d{{8}}-\d{{6}})\.job", path.name)
            if match and path.is_file():
                found.setdefault(match[2], set()).add(match[1])
    return [
        chain for chain in (_Chain(names, started_at) for started_at in sorted(found, reverse=True))
        if found[chain.started_at] <= set(names) and _is_ours(chain)
    ]


def _is_ours(chain: _Chain) -> bool:
    """Whether the log of a chain, if it is there, names no other script: two may share the first batch name."""
    try:
        with Path(f"{chain.name}.log").open(encoding="utf-8", errors="replace") as log:
            first = log.readline()
    except OSError:
        return True
    named = re.search(r"  rescale_rest_api \S+: (.+?): ", first)
    return not named or named[1] == _driver()


def _driver() -> str:
    return Path(sys.argv[0] or "main.py").name


def _chosen(access: Access, names: list[str], options: argparse.Namespace) -> _Chain | None:
    """The chain that is asked for, told with its table where --status asks; None if it cannot be had."""
    named = next((value for value in (options.resume, options.repeat, options.status) if value is not None), None)
    for chain in () if options.new else _chains(names):
        if named and chain.started_at != named:
            continue
        if named is None and chain.is_finished():
            continue
        histories = _histories(access, chain)
        if histories is None:
            if named is not None:
                _say(f"- the chain of {chain.started_at} is unknown to {access[0]}: of a rehearsal, another account?")
        elif options.status is not None:
            chain_overview(*access, chain.jobs())
            return chain
        elif named is not None:
            _say(f"Going on with the chain of {chain.started_at}")
            return chain
        elif _is_worth_something(access, histories):
            chain_overview(*access, chain.jobs())
            _complain(
                f"The chain of {chain.started_at} is unfinished here, so nothing was started.\n"
                f"To go on with it:  {_command('--resume', chain.started_at)}\n"
                f"To start another:  {_command('--new')}"
            )
            return None
    if named is not None:
        _complain(
            f"There is no chain {named or 'of ' + ', '.join(names)} in {Path.cwd()}: its .job files must be here, and "
            "the names in batches as they were"
        )
        return None
    for log in () if options.new else Path().glob(f"{glob.escape(_Chain(names, '').name)}*.log"):
        chain = _Chain(names, log.stem.rpartition("@")[2])
        if chain.name == log.stem and _is_ours(chain) and _is_at_work(log):
            _complain(f"Another {_driver()} has just started {log.stem} here, so nothing was started. Let it finish")
            return None
    while True:
        chain = _Chain(names, _now().strftime("%Y%m%d-%H%M%S"))
        if not any(Path().glob(f"{glob.escape(_user())}@*@{chain.started_at}.*")):
            return chain
        time.sleep(1)  # one has been started in this very second


def _is_at_work(log: Path) -> bool:
    """Whether a process works on the chain of this log."""
    try:
        _locked(log).close()
    except RescaleError:
        return True
    return False


def _histories(access: Access, chain: _Chain) -> dict[str, list[_Status]] | None:
    """The histories of a chain's jobs by their ids; None where the platform knows none of them."""
    jobs = [job_id for job_id in chain.jobs().values() if job_id]
    histories = {}
    for job_id in jobs:
        try:
            histories[job_id] = _statuses(access, job_id)
        except RescaleError as error:
            if error.status != 404:
                raise
    return histories if histories or not jobs else None


def _is_worth_something(access: Access, histories: Mapping[str, list[_Status]]) -> bool:
    """Whether a job runs, waits or is about to be started, or has succeeded and would be paid for again."""
    return any(not _has_ended(history) for history in histories.values()) or any(
        _outcome(access, job_id, history, wait=0).success is not False for job_id, history in histories.items()
    )


def _links(access: Access, chain: _Chain, batches: Sequence[tuple[str, str]], *, repeat: bool) -> Iterator[Link]:
    """The links of a chain; one whose job has failed, and all behind it, come without a job where `repeat`.

    The job of a link exists only because the one before has succeeded, so that only the last one can have failed.
    """
    anew = False
    last = max((name for name, job_id in chain.jobs().items() if job_id), key=list(chain.jobs()).index, default=None)
    for number, (batch_name, command) in enumerate(batches, 1):
        job_name = chain.job_name(batch_name)
        job_id = _read_job(Path(f"{job_name}.job"))
        _say(f"- {number} of {len(batches)}: {batch_name}, {_now():%Y-%m-%d %H:%M:%S}")
        if job_id and repeat and job_name == last:
            history = _statuses(access, job_id)
            anew = _has_ended(history) and not _outcome(access, job_id, history).success
            if anew:
                _say(f"- job {job_id} has failed and is replaced")
        yield job_name, command, None if anew else job_id


def _end(access: Access, chain: _Chain, status: int, at_end: str | None, failure: str) -> None:
    """Print the table of a chain, and run the user's command."""
    lines: list[str] = []
    with contextlib.suppress(RescaleError):  # of a .job file that cannot be read, which has been told
        lines = _table(access, chain.jobs())
    for line in ["", *lines]:
        _say(line)
    if not at_end:
        return
    environment = {name: value for name, value in os.environ.items() if name != "RESCALE_API_KEY"}
    outcome = "failed" if status else "succeeded"
    summary = _printable("\n".join([*lines, *failure.splitlines()[:1]]))
    environment.update(CHAIN_STATUS=outcome, CHAIN_NAME=chain.name, CHAIN_SUMMARY=summary)
    try:
        code = subprocess.run(
            at_end, shell=True, env=environment, stdin=subprocess.DEVNULL, timeout=AT_END_TIMEOUT, check=False
        ).returncode
        if code:
            _say(f"- at_end failed with exit code {code}")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _say(f"- at_end failed: {type(error).__name__}")


def _what_next(chain: _Chain | None, failure: BaseException) -> str:
    """What the user can do after an error or Ctrl-C."""
    started: list[str] = []
    with contextlib.suppress(RescaleError):  # of a .job file that cannot be read, which has been told
        started = [job_id for job_id in (chain.jobs().values() if chain else ()) if job_id]
    if not chain or not started:
        return "No job was started."
    if isinstance(failure, JobFailed):
        return f"To repeat this job only, mend its cause, then: {_command('--repeat', chain.started_at)}"
    text = f"To go on:    {_command('--resume', chain.started_at)}"
    if started[-1] not in _seen:
        return text
    return f"Unless it has ended, job {started[-1]} runs on and is billed.\n{text}\n" \
        f"To stop it:  {_command('stop', started[-1])}"


def _main(arguments: Sequence[str] | None = None) -> int:
    """The commands for coming back to a job without editing anything."""
    parser = argparse.ArgumentParser(
        description="Come back to a Rescale job. The API key is found as in platform_my_token.",
        epilog="Exit status: 0 done, 1 the job failed or the platform refused, 2 usage, 130 Ctrl-C.",
    )
    parser.add_argument("command", choices=("settings", "monitor", "download", "stop"), help=(
        "settings: print the job's settings for main.py; monitor: follow it until it has ended; download: fetch its "
        "files, also those of a failed job, into a folder named like the job; stop: stop it, and the bill"))
    parser.add_argument("job_id", metavar="JOB_ID", help="the job's id, the address of its page, or its .job file")
    parser.add_argument("--profile", help="section of ~/.config/rescale/apiconfig to use")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    try:
        job_id = _job_id_of(options.job_id)
        # What `settings` prints is to be pasted, all of it.
        with contextlib.redirect_stdout(sys.stderr if options.command == "settings" else sys.stdout):
            access = platform_my_token(profile=options.profile)
        if options.command == "download":
            job = _object(_request(access, "GET", f"jobs/{job_id}/"), f"job {job_id}")
            job_download(*access, _safe_name(_text(job, "name")) or job_id, job_id)
        else:
            {"settings": job_settings, "monitor": job_monitor, "stop": job_stop}[options.command](*access, job_id)
    except RescaleError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("Interrupted." + (f" Job {job_id} runs on unless it has ended." if job_id in _seen else ""))
        return 130
    return 0


def _job_id_of(text: str) -> str:
    """The id of a job given by it, by the address of its page or by its .job file."""
    page = re.match(r"https?://[^/]+/(?:api/v\d/)?jobs/([\w-]+)", text)
    job_id = page[1] if page else (_read_job(Path(text)) or "") if text.endswith(".job") else text.strip()
    _check_job_id(job_id)
    return job_id


# Talking to the platform


class _Fault(RescaleError):
    """Something that may pass, so that the request is worth repeating."""

    def __init__(
        self, text: str, status: int | None = None, retry_after: float = 0, *, final: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(text, status, retry_after)
        self.final = final  # waiting hardly helps
        self.unreachable = unreachable  # no answer of anybody: likely to be the user's network or spelling


_answered: set[str] = set()  # addresses that have answered, which tells an outage from a mistyped one
_throttled: dict[str, float] = {}  # until when a platform wants no requests, of whatever connection


def _request(
    access: Access,
    method: str,
    path: str,
    *,
    content: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    read: Callable[[requests.Response], Any] | None = None,
    settled: Callable[[], bool] | None = None,
    patience: float | None = None,
    read_timeout: float | None = None,
    elsewhere: bool = False,
    stop: threading.Event | None = None,
    meanwhile: str = "",
) -> Any:
    """Send one request, repeat it while it fails in a way that may pass, and return what `read` makes of the answer.

    `content` is what requests is given, or builds it anew for each try. `settled` tells, before a repeat, that none is
    needed. `patience` is in seconds of faults; 0: one try, infinity: for job_monitor. `elsewhere` allows a redirect to
    another host, which never gets the token. `stop` ends the repeating. `meanwhile` is said of an outage that is
    waited out.
    Raises RescaleError at once for what the server refuses, else when patience is over.
    """
    platform, token = _platform(access[0]), _authorization(access[1])
    host = urlsplit(platform).netloc
    patience = PATIENCE if patience is None else patience
    spent, lost_at, told_at = 0.0, None, -math.inf
    for attempt in itertools.count():
        if stop and stop.is_set():
            raise RescaleError(f"{method} {platform}/api/v2/{path}: stopped")
        quiet = _throttled.get(platform, 0) - time.monotonic()
        if quiet > patience and patience < PATIENCE:
            raise RescaleError(f"{host} wants no requests for {_duration(quiet)}", 429)
        _sleep(quiet, stop)
        began = time.monotonic()
        try:
            answer = _attempt(
                platform, token, method, path, content() if callable(content) else content or {}, read or _json,
                read_timeout or READ_TIMEOUT, elsewhere,
            )
            if lost_at is not None and patience == math.inf:
                _say(f"- {host} is back after {_duration(time.monotonic() - lost_at)}")
            return answer
        except _Fault as fault:
            wait = max(min(LONGEST_WAIT, 2 ** min(attempt, 10)), fault.retry_after) * random.uniform(1, 1.25)
            wait = min(wait, THROTTLE_PATIENCE)
            # A long transfer that breaks costs no more patience than a request that times out.
            spent += min(time.monotonic() - began, READ_TIMEOUT) + wait
            strange = fault.unreachable and platform not in _answered
            limit = patience
            if strange:
                limit = min(patience, FIRST_PATIENCE)
            elif fault.status == 429 and patience >= PATIENCE:
                limit = max(patience, THROTTLE_PATIENCE)
            if spent > limit or (fault.final and patience < math.inf) or (stop and stop.is_set()):
                text = f"{method} {platform}/api/v2/{path} failed: {fault}"
                if strange:
                    text = f"{host} cannot be reached: is it spelt right, is there a network, and " \
                        f"{_proxy_hint(platform)}\n{text}"
                raise RescaleError(text, fault.status, fault.retry_after) from fault
            if fault.status == 429:
                _throttled[platform] = time.monotonic() + wait
            if patience == math.inf:
                lost_at = began if lost_at is None else lost_at
                if time.monotonic() - told_at >= OUTAGE_INTERVAL:
                    told_at = time.monotonic()
                    _say(f"- no connection to {host} for {_duration(told_at - lost_at)} ({fault}); {meanwhile}"
                         "trying until it is back")
            elif wait >= NOTICEABLE_WAIT:
                _say(f"- no answer from {host} ({fault}); next try in {wait:.0f} s")
        _sleep(wait, stop)
        if settled is not None and settled():
            return None
    raise AssertionError("not reached")


def _attempt(
    platform: str,
    token: str,
    method: str,
    path: str,
    content: Mapping[str, Any],
    read: Callable[[requests.Response], Any],
    read_timeout: float,
    elsewhere: bool,
) -> Any:
    """Send one request once. Raises _Fault for what may pass, RescaleError for what will not."""
    url = f"{platform}/api/v2/{quote(path)}"
    content = {**content, "headers": {**content.get("headers", {}), "Authorization": token}}
    check_redirect = functools.partial(_check_redirect, platform, elsewhere)
    # `from None`, for what requests and urllib3 say may quote the server's bytes, or the proxy's password.
    try:
        with _session(os.getpid()).request(
            method, url, timeout=(CONNECT_TIMEOUT, read_timeout), stream=True,
            allow_redirects=method == "GET", hooks={"response": check_redirect},
            proxies={"http": "", "https": ""} if _is_loopback(url) else None, **content,
        ) as response:
            _answered.add(platform)
            _raise_for_status(response, platform)
            return read(response)
    except ValueError as error:  # how requests marks what can never be sent
        kind = type(error).__name__
        raise RescaleError(f"{method} {platform}/api/v2/{path} cannot be sent ({kind}); {_proxy_hint(url)}") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _fault_of(error, url) from None
    except OSError as error:
        if "certificate bundle" not in str(error):
            raise
        raise RescaleError(f"{error}; see REQUESTS_CA_BUNDLE") from None


class _Session(requests.Session):
    """Connections that give the token to nobody but whom it was meant for: what requests does behind a redirect."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        if _origin(str(prepared_request.url)) != _origin(response.url):
            prepared_request.headers.pop("Authorization", None)

    def rebuild_proxies(self, prepared_request: requests.PreparedRequest, proxies: Any) -> Any:
        proxies = super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call, unused-ignore]
        prepared_request.headers.pop("Proxy-Authorization", None)  # before 2.31 it was sent through the tunnel
        return proxies


@functools.lru_cache(maxsize=1)
def _session(process: int) -> requests.Session:
    """The connections of this process: a fork must not share them, hence the argument."""
    session = _Session()
    session.max_redirects = 5
    session.auth = _keep_headers
    session.headers["User-Agent"] = f"rescale_rest_api/{__version__}"
    session.headers["Cache-Control"] = "no-cache"  # a proxy's old answer could hide that a job was started
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    return session


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without an `auth` of its own requests would take a token from ~/.netrc."""
    return request


def _check_redirect(platform: str, elsewhere: bool, response: requests.Response, **_: Any) -> None:
    """Stop a redirect that leads where a request may not go: never from https to http, never out of a rehearsal."""
    if not response.is_redirect:
        return
    url = urljoin(response.url, response.headers["Location"])
    origin = _origin(url)
    may = origin == _origin(platform) or elsewhere and (
        _is_loopback(platform) if _is_loopback(url)
        else origin[0] == "https" and not os.environ.get("RESCALE_REHEARSAL")
    )
    if response.request.method != "GET" or not may or "\\" in url:  # which parsers read differently
        raise _Fault(f"redirected to {_short(origin[1])}; is that a login page or a proxy?")


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


def _raise_for_status(response: requests.Response, platform: str) -> None:
    """Raise for any answer but 2xx, with the server's own words; only what comes as JSON is the platform's own."""
    status = response.status_code
    if 200 <= status < 300:
        return
    try:
        body = response.raw.read(LOG_TAIL, decode_content=True) or b""
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    kind = response.headers.get("Content-Type", "")
    own = True
    try:
        said = _short("; ".join(_flatten(json.loads(body))), 1000)
    except (ValueError, RecursionError):
        own = False
        said = f"({_short(kind)})" if "html" in kind or not body else _short(body.decode("utf-8", "replace"))
    words = f"{status} {response.reason or ''}: {said}".replace(" : ", ": ")
    if status < 400 or status in (408, 429) or status >= 500:
        raise _Fault(words, 429 if status == 429 else None, _retry_after(response))
    hint = {
        401: f" (a key belongs to one region: is it one of {platform}, and still valid?)",
        404: " (of another region, deleted, or of a rehearsal?)",
        407: f" ({_proxy_hint(response.url)})",
    }.get(status, "")
    text = f"{response.request.method} {response.url} was refused: {words}{hint}"
    if not own:  # of a proxy, or of a gateway in trouble
        raise _Fault(text, status, final=True)
    raise RescaleError(text, status)


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
        return _Fault(f"the proxy: {why}; {_proxy_hint(url)}", final=asks, unreachable=True)
    if isinstance(error, requests.exceptions.SSLError):
        return _Fault(
            f"{_short(cause)}; where a company's proxy opens TLS, let REQUESTS_CA_BUNDLE name the file with its "
            "certificate", final="CERTIFICATE" in str(error),
        )
    timed_out = isinstance(error, (requests.Timeout, TimeoutError)) or isinstance(cause, TimeoutError)
    return _Fault(
        "timed out" if timed_out else _short(cause),
        unreachable=isinstance(error, requests.ConnectionError),
    )


def _proxy_hint(url: str) -> str:
    proxy = None
    with contextlib.suppress(ValueError):
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    return f"the proxy is {proxy.rpartition('@')[2] if proxy else 'not set'}; see HTTPS_PROXY and NO_PROXY"


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
    # A word without a dot, or of more than 63 letters, is a key in the wrong place.
    host = r"(?:[\w-]{1,63}\.)+[\w-]{1,63}|localhost|\[[0-9a-fA-F:]+\]"
    if not origin[1] or not re.fullmatch(rf"https?://({host})(:\d+)?", url, re.ASCII):
        raise RescaleError(
            f"rescale_platform = {_shown(text)} is not the address of a platform like https://kr.rescale.com"
        )
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
    if len(words) != 1 or not re.fullmatch(r"[\x21-\x7e]+", words[0]) or "://" in words[0]:
        raise RescaleError(
            "my_token is empty or no API key: give my_token='Token <your API key>', or set RESCALE_API_KEY, or put "
            "apikey into ~/.config/rescale/apiconfig"
        )
    if len(words[0]) >= 8:
        _secrets.add(words[0])
    return f"{scheme} {words[0]}"


def _last_characters(token: str) -> str:
    """The last 4 characters of a token, where enough others stay hidden."""
    key = token.split()[-1]
    return key[-4:] if len(key) >= 12 else ""


def _pages(
    access: Access, path: str, patience: float | None = None, *, meanwhile: str = ""
) -> Iterator[dict[str, Any]]:
    """All entries of a list, page by page. Of `next` only the query counts: the token follows it to no other host.

    A page count can promise more than there is: a page without entries, or none at all, ends the list.
    """
    query: dict[str, Any] = {"page_size": PAGE_SIZE}
    asked: list[dict[str, Any]] = []
    while query not in asked:
        asked.append(query)
        try:
            results, following = _request(
                access, "GET", path, content={"params": query}, read=_page, patience=patience, meanwhile=meanwhile
            )
        except RescaleError as error:
            if error.status == 404 and len(asked) > 1:
                return
            raise
        yield from results
        if not following or not results:
            return
        query = {**query, **dict(parse_qsl(following.partition("?")[2]))}
    raise RescaleError(f"{path}: the platform's list has no end")


def _page(response: requests.Response) -> tuple[list[dict[str, Any]], str | None]:
    """The entries of a page and the address of the next one. Another answer may pass, like that of a maintenance."""
    reply = _json(response)
    results, following = (reply.get("results"), reply.get("next")) if isinstance(reply, dict) else (None, None)
    if (
        not isinstance(results, list) or not all(isinstance(item, dict) for item in results)
        or not isinstance(following, (str, type(None)))
    ):
        raise _Fault(f"the answer is no list: {_short(reply)}")
    return results, following


def _object(reply: Any, what: str) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise RescaleError(f"{what}: the platform answered something unexpected: {_short(reply)}")
    return reply


def _text(item: dict[str, Any], key: str) -> str:
    return item[key] if isinstance(item.get(key), str) else ""


def _identifier(item: Any, what: str) -> str:
    identifier = _object(item, what).get("id")
    if not isinstance(identifier, str) or not re.fullmatch(r"[\w-]{1,64}", identifier, re.ASCII):
        raise RescaleError(f"{what}: the platform answered without an id: {_short(item)}")
    return identifier


def _check_job_id(job_id: str) -> None:
    if not isinstance(job_id, str) or not re.fullmatch(JOB_ID, job_id, re.ASCII):
        raise RescaleError(
            f"job_id = {_shown(job_id)} is no job id; it is the short word in the .job file, like 'LFZphb'"
        )


def _result_page(rescale_platform: str, job_id: str) -> str:
    return f"{_platform(rescale_platform)}/jobs/{job_id}/runs/1/results/"


# Files, connections at once, and text


@contextlib.contextmanager
def _file_errors(what: str) -> Iterator[None]:
    """Turn errors of the local file system into RescaleError, `what` first."""
    try:
        yield
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise RescaleError(f"{what}: {error.strerror or error}{name}") from error


@contextlib.contextmanager
def _whole_file(path: Path, *, exclusively_for: str = "") -> Iterator[BinaryIO]:
    """A file that gets its name only when it is whole and on the disk; before, nothing of that name is touched.

    `exclusively_for`, a job's id: FileExistsError if the name is taken by then, whether there are locks or not.
    """
    part = _part(path, exclusively_for)
    file = _locked(part)
    try:
        file.truncate(0)  # what a killed run left behind
        yield file
        file.flush()
        os.fsync(file.fileno())
        if WINDOWS:  # which renames no open file
            file.close()
        _name_exclusively(part, path) if exclusively_for else part.replace(path)
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


def _part(path: Path, writer: str = "") -> Path:
    """The temporary name of a file; `writer` tells apart those who may be at it at once."""
    return path.with_name(f".{path.name}{writer and f'.{writer}'}.part")


def _name_exclusively(part: Path, path: Path) -> None:
    """Give a file its name unless there is one of that name, in one step."""
    if WINDOWS:
        part.rename(path)  # fails where the name is taken
        return
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: first the name, then the content
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as file:
            file.write(part.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    part.unlink(missing_ok=True)


def _locked(path: Path) -> BinaryIO:
    """Open a file, made if need be, that no other process works on; where there are no locks, only open it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
    for tries_left in range(20, -1, -1):  # a second: a program that is being started shares our locks until it runs
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                _lock_on_windows(file)
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


def _lock_on_windows(file: BinaryIO) -> None:
    """Lock a byte far behind the content, which others may read."""
    file.seek(1 << 60)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    finally:
        file.seek(0)


def _in_use(path: Path) -> RescaleError:
    return RescaleError(
        f"{path.name} is in use: another process works on the same job or files. Nothing was started; let it finish"
    )


_connections = threading.BoundedSemaphore(CONNECTIONS)


def _at_once(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield work(item) for each item, in order, CONNECTIONS of them at a time.

    The threads are daemons, unlike those of a pool: after Ctrl-C nobody waits for a line that hangs.
    """
    waiting = iter(items)
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    while True:
        for item in itertools.islice(waiting, 2 * CONNECTIONS - len(pending)):
            pending.append(concurrent.futures.Future())
            threading.Thread(target=_work, args=(pending[-1], work, item), daemon=True).start()
        if not pending:
            return
        while not pending[0].done():
            concurrent.futures.wait([pending[0]], timeout=1)  # Windows hears Ctrl-C only in between
        yield pending.popleft().result()


def _work(future: concurrent.futures.Future[R], work: Callable[[T], R], item: T) -> None:
    with _connections:
        try:
            future.set_result(work(item))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)


class _Progress:
    """How far a long transfer is: one line redrawn on a terminal, elsewhere a line each tenth or half minute.

    `stop` is set when its block is left, by an error or Ctrl-C say: no thread goes on behind one's back.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.began = self.shown_at = time.monotonic()
        self.tenth = 0
        self.lock = threading.Lock()
        self.stop = threading.Event()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
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
        _redraw(text) if terminal else _print(text)


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


_log: Path | list[str] | None = None  # of the chain that runs: its file, or the lines until that is known


def _log_to(log: Path | list[str] | None) -> None:
    """Keep what is printed in a chain's log, with what has been kept for it so far."""
    global _log
    lines, _log = _log, log.absolute() if isinstance(log, Path) else log
    for line in lines if isinstance(lines, list) else ():
        _keep(line)


def _say(text: str) -> None:
    """Print a line at once, and keep it in the chain's log."""
    _print(text)
    _keep(text)


def _complain(text: str) -> None:
    """Print what went wrong, on standard error."""
    _print(f"\n{text}", sys.stderr)
    _keep(text)


def _print(text: str, stream: Any = None) -> None:
    """Print one line. What cannot be printed must not end a chain."""
    text, stream = _printable(text), stream or sys.stdout
    _redraw("")
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a terminal that is gone, a full disk, no stream
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def _keep(text: str) -> None:
    if isinstance(_log, list):
        _log.append(text)
    elif _log:
        with contextlib.suppress(OSError), _log.open("a", encoding="utf-8", errors="replace") as file:
            file.writelines(f"{_now():%Y-%m-%d %H:%M:%S}  {line}\n" for line in _printable(text).splitlines())


def _printable(text: str) -> str:
    """`text` without keys and without control characters that would act on a terminal."""
    for secret in list(_secrets):
        text = text.replace(secret, "***")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _shown(value: Any) -> str:
    """A wrong value as it may stand in an error: it may be a key in the wrong place."""
    return re.sub(r"[0-9A-Za-z_-]{32,}", "***", _short(repr(value)))


def _short(thing: Any, length: int = 300) -> str:
    """Anything as one line of bounded length."""
    text = " ".join(_printable(str(thing)).split())
    return text if len(text) <= length else f"{text[:length]}..."


def _sleep(seconds: float, stop: threading.Event | None) -> None:
    """Wait, but no longer than until `stop`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not (stop and stop.is_set()):
        time.sleep(min(1, left) if stop else left)


def _now() -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time.time()).astimezone()


def _command(*arguments: str) -> str:
    """A command line that can be pasted; in a rehearsal one of the rehearsal, never of a paid run.

    A command is this library's, an option the running script's.
    """
    path = Path((sys.argv[0] or "main.py") if arguments[0].startswith("-") else __file__).absolute()
    with contextlib.suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    words = [str(path), *arguments]
    python = os.environ.get("RESCALE_REHEARSAL_COMMAND") or "python"
    return f"{python} {subprocess.list2cmdline(words) if WINDOWS else shlex.join(words)}"


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{seconds:.0f} s" if minutes < 1 else f"{minutes} min" if minutes < 60 else \
        f"{minutes // 60} h {minutes % 60:02} min"


if __name__ == "__main__":
    sys.exit(_main())
