#!/usr/bin/env python3
"""Measure packing, sending, fetching and waiting beside what else could do it, on this computer.

    python tests/benchmark.py            one table in less than three minutes; exit status 1 if a limit is broken
    python tests/benchmark.py --quick    less data, one run and no limits: shows that all of it works

Figures are medians of several runs. Ours and the reference take turns, and a ratio is the median of the pairs' ratios,
for the computer may have other things to do meanwhile. Every run is a process of its own, for the sake of its memory,
and ends when its file is on the disk. The data are made in a temporary folder (TMPDIR says where); 2 GB must be free.
"""

from __future__ import annotations

import argparse
import array
import concurrent.futures
import contextlib
import functools
import hashlib
import http.server
import io
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import requests
from requests_toolbelt.multipart.encoder import MultipartEncoder

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import rescale_rest_api as rescale  # noqa: E402

MB = 1 << 20  # bytes
SPAWN = multiprocessing.get_context("spawn")  # a fork would start with the memory of this process
TOKEN = f"Token {'0123456789abcdef' * 2}"
LEVELS = (1, rescale.LEVEL, 6)  # of compression: the fastest, the library's, the one of gzip and pigz
LINES = {"100 Mbit/s": 100e6 / 8, "1 Gbit/s": 1e9 / 8}  # bytes per second of the lines that a level is chosen for
UP_LINE = 25_000_000  # bytes per second and connection of an upload, what an office's line to another continent gives
SLOW_LINE = 40 * MB  # bytes per second and connection, what an object storage gives one
LATENCY = 0.05  # seconds per request, a platform on another continent
SMALL = 10_000  # bytes of a small file
ONE_BY_ONE = 20  # the reference fetches only each 20th of the small files; all of them would take a minute
PHASES = (0.1, 0.45, 0.8)  # how far into a polling step the jobs of the chain end


class Size(NamedTuple):
    """How much is measured, and how often."""

    runs: int
    inputs: tuple[int, int, int]  # bytes of the text mesh deck, bytes of the binary field, small files
    part: int  # divisor of these three, where the reference is slow
    large: int  # MB of a file to send and to fetch
    throttled: int  # MB of one to fetch over SLOW_LINE; below rescale.VOLUME there would be no ranges
    upload: int  # bytes of one to send over UP_LINE, and to send again
    many: int  # small files to fetch
    listed: int  # output files to list
    step: float  # seconds between two looks at a job's status


FULL = Size(3, (150_000_000, 100_000_000, 200), 10, 512, 256, 400_000_000, 1000, 20_000, rescale.STATUS_INTERVAL)
QUICK = Size(1, (3_000_000, 2_000_000, 20), 4, 80, 72, 140_000_000, 40, 2_000, 0.5)


class Figure(NamedTuple):
    """What one run took and gave."""

    seconds: float
    memory: float  # MB at most; nan where that cannot be told
    result: Any


class Row(NamedTuple):
    """A line of the table; `kept` is None where nothing was promised or there is no reference."""

    what: str
    ours: str
    reference: str = ""
    ratio: str = ""
    limit: str = ""
    kept: bool | None = None


# Measuring


def run(function: Callable[..., Any], *arguments: Any) -> Figure:
    """Call a function in a new process, once what others have written is on the disk."""
    os.sync()
    with SPAWN.Pool(1) as pool:
        return pool.apply(measured, (function, arguments))


def measured(function: Callable[..., Any], arguments: tuple) -> Figure:
    """Call a function without its output, and measure this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        result = function(*arguments)
        took = time.perf_counter() - began
    status = Path("/proc/self/status")  # of Linux; its ru_maxrss would be the parent's
    peak = re.search(r"VmHWM:\s+(\d+)", status.read_text() if status.exists() else "")
    return Figure(took, int(peak[1]) / 1024 if peak else math.nan, result)


def in_turns(runs: int, *tasks: tuple | None) -> list[list[Figure]]:
    """Run each (function, *arguments) several times, one after the other in changing order; no figures for None."""
    figures: list[list[Figure]] = [[] for _ in tasks]
    for number in range(runs):
        for task, done in list(zip(tasks, figures))[:: -1 if number % 2 else 1]:
            if task:
                done.append(run(*task))
    return figures


def with_program(name: str, *task: Any) -> tuple | None:
    """A task for in_turns, if that program is installed."""
    return task if shutil.which(name) else None


def median(figures: list[Figure]) -> float:
    """The middle one of the times."""
    return statistics.median(figure.seconds for figure in figures)


def seconds(value: float) -> str:
    """A time with three digits."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def beside(
    what: str, ours: list[Figure], reference: list[Figure], name: str, limit: float | None = None, factor: float = 1
) -> Row:
    """A row of two times, the reference's multiplied by `factor`; the limit is one of the ratio."""
    if not ours or not reference:
        return Row(what, seconds(median(ours)) if ours else "-", f"{'curl' if name == 'curl' else 'pigz'} is not here")
    ratio = statistics.median(a.seconds / (b.seconds * factor) for a, b in zip(ours, reference))
    return Row(what, seconds(median(ours)), f"{seconds(median(reference) * factor)} {name}", f"{ratio:.2f}",
               f"<= {limit:.3g}" if limit else "", ratio <= limit if limit else None)


def memory(figures: list[Figure], limit: float) -> Row:
    """A row of the most memory of all runs."""
    most = max(figure.memory for figure in figures)
    return Row("    memory", f"{most:.0f} MB", "", "", f"< {limit} MB", None if math.isnan(most) else most < limit)


def print_table(rows: list[Row]) -> None:
    """The one table."""
    table = [Row._fields, *((*row[:5], {True: "yes", False: "NO", None: ""}[row.kept]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    table.insert(1, tuple("-" * width for width in widths))
    for cells in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip())


def command(*words: Any) -> str:
    """What a program says, which must succeed."""
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


# A platform that is no bottleneck


class Platform(http.server.BaseHTTPRequestHandler):
    """The few endpoints that move data, as fast as Python can: the simulator's Flask would be what is measured."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    content: Path  # of every output file
    entries: list[dict[str, Any]]  # of the list of output files
    latency: float  # seconds per request
    rate: int  # bytes per second and connection, 0: as fast as it goes
    gets: Any  # how many there were, counted for the other process

    def do_GET(self) -> None:
        """Answer a page of the list of files, or the contents of one of them."""
        with self.gets:
            self.gets.value += 1
        time.sleep(self.latency)
        address = urlsplit(self.path)
        if address.path.endswith("/contents/"):
            self.send_contents()
            return
        if address.path.endswith("/statuses/"):
            results = [{"status": "Completed", "statusReason": "Completed successfully", "statusDate": None},
                       {"status": "Executing", "statusReason": None, "statusDate": None}]
            self.send_json({"count": 2, "next": None, "previous": None, "results": results})
            return
        if address.path.endswith("/jobs/job/"):
            self.send_json({"id": "job", "jobanalyses": []})
            return
        query = {name: int(values[0]) for name, values in parse_qs(address.query).items()}
        page, size, count = query.get("page", 1), query["page_size"], len(self.entries)
        more = f"http://{self.headers['Host']}{address.path}?page={page + 1}&page_size={size}"
        self.send_json({"count": count, "next": more if page * size < count else None,
                        "results": self.entries[(page - 1) * size : page * size]})

    def send_contents(self) -> None:
        """Send the file or the range of it that is asked for, no faster than the line is."""
        size = self.content.stat().st_size
        asked = re.findall(r"\d+", self.headers.get("Range", ""))
        first, last = map(int, asked or (0, size - 1))
        self.send_head(206 if asked else 200, last + 1 - first, f"bytes {first}-{last}/{size}")
        step, began = self.rate // 40 or size, time.monotonic()
        with self.content.open("rb") as file:
            for start in range(first, last + 1, step):
                self.connection.sendfile(file, start, min(step, last + 1 - start))
                if self.rate:
                    time.sleep(max(0, began + (start + step - first) / self.rate - time.monotonic()))

    def do_POST(self) -> None:
        """Take an upload, no faster than the line is, and forget it."""
        left = total = int(self.headers["Content-Length"])
        buffer, began = memoryview(bytearray(MB)), time.monotonic()
        while left:
            left -= self.rfile.readinto(buffer[: min(left, MB)])
            if self.rate:
                time.sleep(max(0, began + (total - left) / self.rate - time.monotonic()))
        self.send_json({"id": "dxGonb"})

    def send_json(self, thing: Any) -> None:
        """Answer with an object."""
        body = json.dumps(thing).encode()
        self.send_head(200, len(body))
        self.wfile.write(body)

    def send_head(self, status: int, length: int, content_range: str = "") -> None:
        """Send what comes before a body."""
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_request(self, *_: Any) -> None:
        """Say nothing."""


def serve(started: Any, settings: dict[str, Any]) -> None:
    """Be the platform, until this process is killed."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Settled", (Platform,), settings))
    started.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def serving(content: Path, names: list[str], latency: float = 0, rate: int = 0) -> Iterator[tuple[str, Any]]:
    """A platform in a process of its own, whose job has output files of these names; its address and its `gets`."""
    size, digest = content.stat().st_size, hashlib.sha512(content.read_bytes()).hexdigest()
    entries = [
        {"id": f"f{number}", "name": name, "relativePath": name, "decryptedSize": size, "isUploaded": True,
         "fileChecksums": [{"hashFunction": "sha512", "fileHash": digest}]} for number, name in enumerate(names)
    ]
    gets, (here, there) = SPAWN.Value("i", 0), SPAWN.Pipe()
    settings = {"content": content, "entries": entries, "latency": latency, "rate": rate, "gets": gets}
    process = SPAWN.Process(target=serve, args=(there, settings), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}", gets
    finally:
        process.kill()
        process.join()


# 1. Archive


@functools.lru_cache
def sample() -> tuple[bytes, bytes]:
    """A few MB of a mesh deck, nodes and elements, and of a binary field; no compressor looks back farther."""
    dice = random.Random(1)
    nodes = "".join(f"{n:8d},{dice.random():20.12e},{dice.random():20.12e},{n / 9999:20.12e}\n" for n in range(30_000))
    elements = "".join(
        f"{n:8d}," + ",".join(f"{n // 4 + dice.randrange(500):9d}" for _ in range(4)) + "\n" for n in range(30_000)
    )
    field = array.array("d", (300 + 40 * math.sin(n / 500) + dice.gauss(0, 0.05) for n in range(300_000)))
    return f"*NODE\n{nodes}*ELEMENT, TYPE=C3D4\n{elements}".encode(), field.tobytes()


def make_inputs(folder: Path, inputs: tuple[int, int, int], part: int = 1) -> Path:
    """Write a working folder as CAE has it: a text mesh deck, a binary field, small files, an empty one."""
    folder.mkdir()
    for name, content, size in zip(("mesh.inp", "field.bin"), sample(), inputs):
        with (folder / name).open("wb") as file:
            for start in range(0, size // part, len(content)):
                file.write(content[: size // part - start])
    for number in range(inputs[2] // part):
        (folder / f"material{number:03}.inp").write_bytes(sample()[0][number * SMALL : (number + 1) * SMALL])
    (folder / "empty.inp").touch()
    return folder


def size_on_disk(path: Path) -> int:
    """The size of a file, once it is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def pack(inputs: Path, archive: Path, level: int = rescale.LEVEL) -> int:
    """What the library does; the archive's size."""
    rescale.LEVEL = level
    return rescale.create_tar_gz(inputs, str(archive)).stat().st_size


def pack_with_tarfile(inputs: Path, archive: Path) -> int:
    """What the guide's code does: tarfile with its own level, 9."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(inputs.iterdir()):
            tar.add(path, path.name)
    return size_on_disk(archive)


def pack_with_pigz(inputs: Path, archive: Path) -> int:
    """What a shell does."""
    command("sh", "-c", 'tar -cf - -C "$1" . | pigz -$2 > "$3"', "sh", inputs, str(rescale.LEVEL), archive)
    return size_on_disk(archive)


def archive_rows(folder: Path, size: Size) -> Iterator[Row]:
    """Row 1: create_tar_gz."""
    inputs, part = make_inputs(folder / "inputs", size.inputs), make_inputs(folder / "part", size.inputs, size.part)
    archive, other = folder / rescale.ARCHIVE, folder / "other.tar.gz"
    total = sum(path.stat().st_size for path in inputs.iterdir()) / 1e6
    ours, pigz = in_turns(size.runs, (pack, inputs, archive), with_program("pigz", pack_with_pigz, inputs, other))
    level = rescale.LEVEL
    yield beside(f"1 create_tar_gz, {total:.0f} MB, level {level}", ours, pigz, f"tar | pigz -{level}", 1.1)
    yield memory(ours, 100)
    noise = folder / "noise"
    noise.mkdir()
    (noise / "results.odb").write_bytes(os.urandom(size.inputs[0] * 2))
    ours, pigz = in_turns(size.runs, (pack, noise, archive), with_program("pigz", pack_with_pigz, noise, other))
    yield beside(f"    {size.inputs[0] * 2 / 1e6:.0f} MB that do not compress", ours, pigz, f"tar | pigz -{level}", 0.7)
    ours, slow = in_turns(size.runs, (pack, part, archive), (pack_with_tarfile, part, other))
    yield beside(f"    {total / size.part:.0f} MB of it", ours, slow, "tarfile, level 9", 1 / 7)
    small, smallest = ours[0].result / MB, slow[0].result / MB
    yield Row("    size of that archive", f"{small:.2f} MB", f"{smallest:.2f} MB tarfile, level 9",
              f"{small / smallest:.2f}", "<= 1.1", small / smallest <= 1.1)
    checks = [check for check in ("gzip -t", "tar -tzf", "pigz -t") if shutil.which(check.split()[0])]
    for check in checks:
        command(*check.split(), archive)
    with tarfile.open(archive, "r:gz") as tar:
        if {member.name: member.size for member in tar} != {path.name: path.stat().st_size for path in part.iterdir()}:
            raise RuntimeError("Python reads other files from the archive than were packed")
    yield Row(f"    accepted by {', '.join(checks)}, Python", "yes", "", "", "yes", True)
    levels = dict(zip(LEVELS, in_turns(size.runs, *((pack, part, archive, level) for level in LEVELS))))
    for line, rate in LINES.items():
        times = {level: size.part * (median(figures) + figures[0].result / rate) for level, figures in levels.items()}
        mine = times.pop(rescale.LEVEL)
        yield Row(f"    until it is uploaded, {line}", seconds(mine),
                  ", ".join(f"{seconds(value)} level {level}" for level, value in times.items()),
                  f"{mine / min(times.values()):.2f}")


# 2. Upload


def upload_with_toolbelt(url: str, path: Path) -> None:
    """What the guide's code does: the encoder, in the reads that urllib3 makes by default."""
    with path.open("rb") as file:
        encoder = MultipartEncoder({"file": (path.name, file, "application/octet-stream")})
        headers = {"Authorization": TOKEN, "Content-Type": encoder.content_type}
        requests.post(f"{url}/api/v2/files/contents/", data=encoder, headers=headers).raise_for_status()


def upload(url: str, path: Path, token: str = TOKEN, volume: int = rescale.VOLUME) -> None:
    """What the library does, for the first time."""
    rescale.VOLUME = volume
    path.with_name(f".{path.name}.uploaded").unlink(missing_ok=True)
    rescale.upload_local_files(url, token, path)


def upload_rows(folder: Path, large: Path, size: Size) -> Iterator[Row]:
    """Row 2: upload_local_files, an archive in volumes."""
    with serving(large, []) as (url, _):
        ours, toolbelt, curl = in_turns(
            size.runs, (upload, url, large), (upload_with_toolbelt, url, large),
            with_program("curl", command, "curl", "-sf", "-F", f"file=@{large}", f"{url}/api/v2/files/contents/"),
        )
    yield beside(f"2 upload_local_files, {size.large} MB", ours, toolbelt, "toolbelt, default reads", 1)
    yield beside("    beside the fastest", ours, curl, "curl")
    yield memory(ours, 80)
    slow = folder / "slow.tar.gz"
    slow.write_bytes(os.urandom(size.upload))
    with serving(slow, [], rate=UP_LINE) as (url, _):
        ours, toolbelt = in_turns(1, (upload, url, slow), (upload_with_toolbelt, url, slow))
    yield beside(f"    {size.upload / 1e6:.0f} MB, {UP_LINE / 1e6:.0f} MB/s per connection", ours, toolbelt,
                 "one stream", 1 / 4)
    yield from again_rows(folder, slow, size)


def upload_again(url: str, path: Path, token: str, volume: int) -> None:
    """What the library does when a part of it, or all, is on the platform already."""
    rescale.VOLUME = volume
    rescale.upload_local_files(url, token, path)


def again_rows(folder: Path, path: Path, size: Size) -> Iterator[Row]:
    """Row 2, continued: an upload that was killed at 60 %, and one of what is on the platform already.

    The volumes are as many as those of a file eight times as large: up to 512 MB, all are on their way at once.
    """
    from rescale_simulator import Simulator  # not above: every run would import its Flask

    volume = rescale.VOLUME // 8
    with Simulator(folder / "uploads", speed=0, upload_rate=UP_LINE) as sim:
        first = SPAWN.Process(target=upload, args=(sim.url, path, f"Token {sim.token}", volume), daemon=True)
        first.start()
        deadline = time.monotonic() + 120
        while arrived(sim) < 0.6 * size.upload and time.monotonic() < deadline:
            time.sleep(0.02)
        first.kill()
        first.join()
        before = arrived(sim)
        stored = sum(file.size for file in sim.files.values())
        run(upload_again, sim.url, path, f"Token {sim.token}", volume)
        again = (before - stored) / size.upload
        yield Row(f"    in volumes of {volume >> 20} MB, killed at 60 %: sent twice", f"{100 * again:.0f} %", "", "",
                  "<= 20 %", again <= 0.2)
        posts = sum(record.method == "POST" for record in sim.requests)
        figure = run(upload_again, sim.url, path, f"Token {sim.token}", volume)
        posts = sum(record.method == "POST" for record in sim.requests) - posts
        yield Row("    the same once more", seconds(figure.seconds), f"{posts} POSTs", "", "< 2 s, none",
                  figure.seconds < 2 and not posts)


def arrived(sim: Any) -> int:
    """How many bytes of uploads a simulator has, unfinished ones too."""
    sizes = []
    for path in (sim.folder / "files").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just got its name
            sizes.append(path.stat().st_size)
    return sum(sizes)


# 3. Download


def download(url: str, folder: Path) -> None:
    """What the library does, but for the second between its two looks at the list of files."""
    rescale.FILES_INTERVAL = 0
    with tempfile.TemporaryDirectory(dir=folder) as here:
        os.chdir(here)
        rescale.job_download(url, TOKEN, "job", "job")
        os.chdir(folder)


def download_plainly(url: str, folder: Path, numbers: range = range(1)) -> None:
    """Files one by one, each as one stream whose SHA-512 is computed, too."""
    with tempfile.TemporaryDirectory(dir=folder) as here, requests.Session() as session:
        for number in numbers:
            digest, path = hashlib.sha512(), Path(here) / str(number)
            answer = session.get(f"{url}/api/v2/files/f{number}/contents/", stream=True)
            with answer, path.open("wb") as file:
                for block in answer.iter_content(MB):
                    file.write(block)
                    digest.update(block)
            size_on_disk(path)


def download_rows(folder: Path, large: Path, size: Size) -> Iterator[Row]:
    """Row 3: job_download, where it takes the line's and the processor's time."""
    with serving(large, [rescale.ARCHIVE]) as (url, _):
        ours, plain = in_turns(size.runs, (download, url, folder), (download_plainly, url, folder))
    yield beside(f"3 job_download, {size.large} MB, fast line", ours, plain, "one stream with SHA-512", 1.2)
    yield memory(ours, 80)
    throttled = folder / "throttled"
    throttled.write_bytes(os.urandom(size.throttled * MB))
    with serving(throttled, [rescale.ARCHIVE], rate=SLOW_LINE) as (url, _):
        ours, plain = in_turns(size.runs, (download, url, folder), (download_plainly, url, folder))
    yield beside(f"    {size.throttled} MB, {SLOW_LINE // MB} MB/s per connection", ours, plain, "one stream", 1 / 5)


def small_rows(folder: Path, size: Size) -> Iterator[Row]:
    """Row 3: job_download of many small files."""
    small, few = folder / "small", range(0, size.many, ONE_BY_ONE)
    small.write_bytes(os.urandom(SMALL))
    with serving(small, [f"small{number}.csv" for number in range(size.many)], latency=LATENCY) as (url, _):
        ours, plain = in_turns(size.runs, (download, url, folder), (download_plainly, url, folder, few))
    yield beside(f"    {size.many} files of {SMALL // 1000} KB, {1000 * LATENCY:.0f} ms per request", ours, plain,
                 f"one by one ({len(few)} of them, scaled)", 1 / 6, factor=size.many / len(few))


# 4. Waiting, 5. requests


def chain(url: str, token: str, folder: Path, step: float) -> None:
    """Let main.py run three jobs that end at different times of a polling step."""
    os.environ.update(RESCALE_API_URL=url, RESCALE_API_KEY=token, RESCALE_REHEARSAL=url)
    os.chdir(folder)
    import main

    rescale.STATUS_INTERVAL = step
    batches = [(f"job{number}", f"sleep {phase * step}\n") for number, phase in enumerate(PHASES, 1)]
    if rescale.run_chain(main.run, batches, main.settings, input_path=main.input_path, arguments=[]):
        raise RuntimeError("the chain has failed")


def chain_rows(folder: Path, size: Size) -> list[Row]:
    """Rows 4 and 5: from the end of each job to what follows, and how much the platform was asked."""
    from rescale_simulator import Simulator  # not above: every run would import its Flask

    folder.mkdir()
    rows, took = [], {}
    with Simulator(folder / "platform", speed=0) as sim:
        sim.on_request = lambda record, when: took.update({id(record): time.time() - record.time})
        run(chain, sim.url, sim.token, folder, size.step)
        submits = [record.time for record in sim.requests if record.path.endswith("/submit/")]
        contents = [record.time for record in sim.requests if record.path.endswith("/contents/")]
        looks = 2 * rescale.FILES_INTERVAL  # of job_monitor, and of what takes the files
        for number, (job, then) in enumerate(zip(sim.jobs, [*submits[1:], contents[-1]]), 1):
            ended = sim.finish_time(job)
            own = sum(took[id(record)] for record in sim.requests if ended < record.time < then)
            rows.append(Row(f"4 job {number} ended to {'next submitted' if number < len(sim.jobs) else 'download'}",
                            seconds(then - ended), f"{seconds(own)} of requests", "",
                            f"<= {size.step} s + looks", then - ended - own <= size.step + looks))
        followed = sum("/statuses/" in record.path or "/tail/" in record.path for record in sim.requests)
        rows.append(Row("5 requests of that chain", str(len(sim.requests)), f"{followed} of them for status and log"))
    return rows


def listing_rows(folder: Path, size: Size) -> Iterator[Row]:
    """Row 5: listing many output files."""
    names = [rescale.ARCHIVE, *(f"frame{number}.vtu" for number in range(1, size.listed))]
    with serving(folder / "small", names) as (url, gets):
        figure = run(rescale.file_previous_job, url, TOKEN, "job")
        yield Row(f"    to list {size.listed} output files", str(gets.value), f"in {seconds(figure.seconds)}", "",
                  "<= 50", gets.value <= 50)


# 6. Start


def first_request(folder: Path) -> None:
    """Start main.py and wait for the first byte that it sends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        variables = {"RESCALE_API_URL": f"http://127.0.0.1:{listening.getsockname()[1]}", "RESCALE_API_KEY": TOKEN[6:]}
        driver = subprocess.Popen([sys.executable, TESTS.parent / "main.py"], cwd=folder,
                                  env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
        try:
            listening.accept()[0].recv(1)
        finally:
            driver.kill()
            driver.wait()


def start_rows(folder: Path, size: Size) -> Iterator[Row]:
    """Row 6: the start of main.py."""
    needed = "import requests, requests_toolbelt.multipart.encoder"
    ours, imports = in_turns(size.runs, (first_request, folder), (command, sys.executable, "-c", needed))
    yield beside("6 main.py to its first request", ours, imports, "the imports that it needs")._replace(
        limit="<= 0.5 s", kept=median(ours) <= 0.5)
    report = command(sys.executable, "-X", "importtime", TESTS.parent / "main.py", "--help")
    times = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|( +)(\S+)", report)
    slowest = sorted(((int(total), name) for _, total, depth, name in times if len(depth) == 3), reverse=True)[:3]
    yield Row("    imports of main.py --help", seconds(sum(int(own) for own, *_ in times) / 1e6),
              ", ".join(f"{name} {total // 1000} ms" for total, name in slowest))


# 7. Packing inside the job


def pack_in_job(inputs: Path, folder: Path, script: str, path: str) -> int:
    """Let bash run a job's command in a work folder of links to the inputs; the number of lines in the log."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for source in inputs.iterdir():
            os.link(source, Path(work) / source.name)
        os.chdir(work)
        os.environ["PATH"] = path
        return len(command("bash", "-c", script).splitlines())


def job_rows(folder: Path, size: Size) -> Iterator[Row]:
    """Row 7: the packing that job_setup adds to a command."""
    inputs, bare, path = folder / "part", folder / "bin", os.environ["PATH"]
    bare.mkdir()
    programs = (program for place in os.get_exec_path() for program in Path(place).glob("*"))
    for program in programs:
        if program.name != "pigz" and not (bare / program.name).is_symlink():
            (bare / program.name).symlink_to(program)
    script = rescale._job_command("job", "true\n", [])
    total = sum(file.stat().st_size for file in inputs.iterdir()) / 1e6
    ours, without, guide = in_turns(
        size.runs, with_program("pigz", pack_in_job, inputs, folder, script, path),
        (pack_in_job, inputs, folder, script, str(bare)),
        (pack_in_job, inputs, folder, "tar -czvf rescale.tar.gz *", path),
    )
    for figures, how in ((ours, "with"), (without, "without")):
        saved = 1000 * (median(guide) - median(figures)) / total if figures else 0
        yield beside(f"7 packing {total:.0f} MB in the job, {how} pigz", figures, guide,
                     f"tar -czvf; saves {saved:.0f} s per GB", 1)
    lines = without[0].result
    yield Row("    lines in its log", str(lines), f"{guide[0].result} tar -czvf", "", "0", lines == 0)


def main() -> int:
    """Measure everything and print it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, one run, no limits")
    size = QUICK if parser.parse_args().quick else FULL
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rescale-benchmark-") as name, \
            concurrent.futures.ThreadPoolExecutor(1) as background:
        folder = Path(name)
        large = folder / "large.tar.gz"
        large.write_bytes(os.urandom(size.large * MB))
        rows = [*archive_rows(folder, size), *upload_rows(folder, large, size), *download_rows(folder, large, size)]
        waiting = background.submit(chain_rows, folder / "chain", size)  # which leaves the processor to the others
        rows += [*small_rows(folder, size), *waiting.result(), *listing_rows(folder, size), *start_rows(folder, size),
                 *job_rows(folder, size)]
    print_table(rows if size is FULL else [row._replace(limit="", kept=None) for row in rows])
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {size.runs} runs each, "
          f"{time.monotonic() - began:.0f} s in all")
    return int(size is FULL and any(row.kept is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
