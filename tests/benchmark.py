#!/usr/bin/env python3
"""Measure packing, uploading, downloading and waiting beside what else could do it, on this computer.

    python tests/benchmark.py            one table in less than three minutes; exit status 1 if a limit is broken
    python tests/benchmark.py --quick    less data, one run and no limits: shows that all of it works

Figures are medians of several runs. Ours and the reference take turns, and a ratio is the median of the pairs' ratios,
for the computer may have other things to do meanwhile. Every run is a process of its own, for the sake of its
memory. The data are made in a temporary folder (TMPDIR says where), which is removed afterwards; 3 GB must be free.
"""

from __future__ import annotations

import argparse
import array
import concurrent.futures
import contextlib
import hashlib
import http.server
import io
import itertools
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
JOB = "benchmark"  # name of the job that is downloaded, and of the folder that it is downloaded into
LEVELS = (1, rescale.LEVEL, 6)  # of compression: the fastest, the library's, the one of gzip and pigz
LINES = {"100 Mbit/s": 100e6 / 8, "1 Gbit/s": 1e9 / 8}  # bytes per second of the lines that a LEVEL is chosen for
SLOW_LINE = 40 * MB  # bytes per second and connection, what an object storage gives one
LATENCY = 0.05  # seconds per request, a platform on another continent
SMALL = 10_000  # bytes of a small file
ONE_BY_ONE = 20  # the reference fetches only each 20th of the small files, for all of them would take a minute
PHASES = (0.1, 0.45, 0.8)  # how far into a polling step the jobs of the chain end
PACKERS = ("bash", "find", "gzip", "mv", "rm", "tar")  # what a job needs to pack without pigz


class Size(NamedTuple):
    """How much is measured, and how often."""

    runs: int
    deck: int  # bytes of the text mesh deck
    field: int  # bytes of the binary field
    files: int  # small files beside them
    part: int  # divisor of those three, where the reference is slow
    large: int  # bytes of a file to send and to fetch
    throttled: int  # bytes of one to fetch over a slow line; below rescale.SINGLE there would be no ranges
    many: int  # small files to fetch
    listed: int  # output files to list
    step: float  # seconds between two looks at a job's status


FULL = Size(3, 150_000_000, 100_000_000, 200, 10, 1 << 30, 256 * MB, 1000, 20_000, rescale.STATUS_INTERVAL)
QUICK = Size(1, 6_000_000, 4_000_000, 20, 10, 80 * MB, 72 * MB, 60, 2_000, 0.5)


class Figure(NamedTuple):
    """What one run took and gave."""

    seconds: float
    memory: float  # MB at most
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
    """Call a function in a new process, when what others have written is on the disk."""
    os.sync()
    with SPAWN.Pool(1) as pool:
        return pool.apply(measured, (function, arguments))


def measured(function: Callable[..., Any], arguments: tuple) -> Figure:
    """Call a function without its output, and measure this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        result = function(*arguments)
        seconds = time.perf_counter() - began
    return Figure(seconds, peak_memory(), result)


def peak_memory() -> float:
    """MB that this process has had in memory at most; Linux passes ru_maxrss on from the parent, but not VmHWM."""
    with contextlib.suppress(OSError):
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    import resource  # which Windows does not have

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB  # bytes on macOS


def in_turns(runs: int, *tasks: tuple) -> list[list[Figure]]:
    """Run each (function, *arguments) several times, one after the other in changing order; None is left out."""
    figures: list[list[Figure]] = [[] for _ in tasks]
    for number in range(runs):
        order = list(enumerate(tasks))[:: -1 if number % 2 else 1]
        for index, task in order:
            if task:
                figures[index].append(run(*task))
    return figures


def median(figures: list[Figure], field: str = "seconds") -> float:
    return statistics.median(getattr(figure, field) for figure in figures)


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def beside(
    what: str, ours: list[Figure], reference: list[Figure], name: str, limit: float | None = None, factor: float = 1
) -> Row:
    """A row of two times, the reference's to be multiplied by `factor`; limits are of the ratio ours / reference."""
    text = f"<= {limit:.3g}" if limit else ""
    if not reference:
        return Row(what, seconds(median(ours)), f"{name}: not here", "", text)
    ratio = statistics.median(a.seconds / (b.seconds * factor) for a, b in zip(ours, reference))
    return Row(what, seconds(median(ours)), f"{seconds(median(reference) * factor)} {name}", f"{ratio:.3f}", text,
               ratio <= limit if limit else None)


def memory(what: str, figures: list[Figure], limit: float) -> Row:
    most = max(figure.memory for figure in figures)
    return Row(what, f"{most:.0f} MB", "", "", f"< {limit} MB", most < limit)


def print_table(rows: list[Row]) -> None:
    """The one table: what, ours, reference, ratio, limit, kept."""
    table = [(*Row._fields[:5], "kept"), *((*row[:5], {True: "yes", False: "NO", None: ""}[row.kept]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    table.insert(1, tuple("-" * width for width in widths))
    for cells in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip())


def command(*words: Any) -> str:
    """Run a program that must succeed; what it says."""
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


# A platform that is no bottleneck


class Platform(http.server.BaseHTTPRequestHandler):
    """The few endpoints that move data, as fast as Python can: the simulator's Flask would be what is measured."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Answer a page of the list of files, or the contents of one of them, which are all the same."""
        with self.server.count.get_lock():
            self.server.count.value += 1
        time.sleep(self.server.latency)
        address = urlsplit(self.path)
        if address.path.endswith("/contents/"):
            return self.send_contents()
        query = parse_qs(address.query)
        page, size = int(query.get("page", ["1"])[0]), int(query["page_size"][0])
        entries = self.server.entries[(page - 1) * size : page * size]
        more = f"http://{self.headers['Host']}{address.path}?page={page + 1}&page_size={size}"
        total = len(self.server.entries)
        self.send_json({"count": total, "next": more if page * size < total else None, "results": entries})

    def send_contents(self) -> None:
        size = self.server.content.stat().st_size
        asked = re.findall(r"\d+", self.headers.get("Range", ""))
        first, last = map(int, asked or (0, size - 1))
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        step = self.server.rate // 40 or size
        with self.server.content.open("rb") as file:
            began = time.monotonic()
            for position in range(first, last + 1, step):
                self.connection.sendfile(file, position, min(step, last + 1 - position))
                if self.server.rate:
                    time.sleep(max(0, began + (position + step - first) / self.server.rate - time.monotonic()))

    def do_POST(self) -> None:
        """Take an upload and forget it."""
        left, buffer = int(self.headers["Content-Length"]), memoryview(bytearray(MB))
        while left:
            left -= self.rfile.readinto(buffer[: min(left, MB)])
        self.send_json({"id": "dxGonb", "name": "large"})

    def send_json(self, thing: Any) -> None:
        body = json.dumps(thing).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, content: Path, names: list[str], latency: float, rate: int, count: Any) -> None:
        super().__init__(("127.0.0.1", 0), Platform)
        self.content, self.latency, self.rate, self.count = content, latency, rate, count
        size, digest = content.stat().st_size, hashlib.sha512()
        with content.open("rb") as file:
            for block in iter(lambda: file.read(MB), b""):
                digest.update(block)
        sums = [{"hashFunction": "sha512", "fileHash": digest.hexdigest()}]
        self.entries = [
            {"id": f"f{number}", "name": name, "relativePath": name, "path": f"user/benchmark/output/run1/{name}",
             "typeId": 5, "decryptedSize": size, "isUploaded": True, "isDeleted": False, "fileChecksums": sums}
            for number, name in enumerate(names)
        ]


def serve(started: Any, *arguments: Any) -> None:
    server = Server(*arguments)
    started.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def serving(content: Path, names: list[str], latency: float = 0, rate: int = 0) -> Iterator[tuple[str, Any]]:
    """A platform in a process of its own, whose job has these output files; its address, and the count of its GETs."""
    count = SPAWN.Value("i", 0)
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(there, content, names, latency, rate, count), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}", count
    finally:
        process.kill()
        process.join()


# 1. Archive


def make_inputs(folder: Path, size: Size, part: int = 1) -> Path:
    """Write a working folder as CAE has it: a mesh deck with nodes and elements, a binary field, many small files.

    Only the first megabytes are made anew, for no compressor looks back farther than 32 KB.
    """
    dice = random.Random(1)
    nodes = "".join(f"{n:8d},{dice.random():20.12e},{dice.random():20.12e},{n / 9999:20.12e}\n" for n in range(30_000))
    elements = "".join(
        f"{n:8d}," + ",".join(f"{n // 4 + dice.randrange(500):9d}" for _ in range(4)) + "\n" for n in range(30_000)
    )
    deck = f"*NODE\n{nodes}*ELEMENT, TYPE=C3D4\n{elements}".encode()
    field = array.array("d", (300 + 40 * math.sin(n / 500) + dice.gauss(0, 0.05) for n in range(300_000))).tobytes()
    folder.mkdir()
    for name, content, total in (("mesh.inp", deck, size.deck // part), ("field.bin", field, size.field // part)):
        with (folder / name).open("wb") as file:
            for start in range(0, total, len(content)):
                file.write(content[: total - start])
    for number in range(size.files // part):
        (folder / f"material{number:03}.inp").write_bytes(deck[number * SMALL : (number + 1) * SMALL])
    (folder / "empty.inp").touch()
    return folder


def pack(inputs: Path, archive: Path, level: int = rescale.LEVEL) -> int:
    """What the library does; the size of the archive."""
    rescale.LEVEL = level
    return rescale.create_tar_gz(inputs, str(archive)).stat().st_size


def pack_with_tarfile(inputs: Path, archive: Path) -> int:
    """What the guide's code does: tarfile with its own level, 9."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(inputs.iterdir()):
            tar.add(path, path.name)
    return archive.stat().st_size


def pack_with_pigz(inputs: Path, archive: Path) -> None:
    command("sh", "-c", 'tar -cf - -C "$1" . | pigz -$2 > "$3"', "sh", inputs, str(rescale.LEVEL), archive)


def archive_rows(folder: Path, size: Size) -> Iterator[Row]:
    """1. create_tar_gz"""
    everything, part = make_inputs(folder / "inputs", size), make_inputs(folder / "part", size, size.part)
    archive, other = folder / "rescale.tar.gz", folder / "other.tar.gz"
    total = sum(path.stat().st_size for path in everything.iterdir())
    ours, pigz = in_turns(size.runs, (pack, everything, archive),
                          (pack_with_pigz, everything, other) if shutil.which("pigz") else ())
    yield beside(f"1 create_tar_gz, {total / 1e6:.0f} MB, level {rescale.LEVEL}", ours, pigz,
                 f"tar | pigz -{rescale.LEVEL}", 1.1)
    yield memory("1   memory", ours, 100)
    packed, slow = in_turns(size.runs, (pack, part, archive), (pack_with_tarfile, part, other))
    yield beside(f"1   {total / 1e6 / size.part:.0f} MB of it", packed, slow, "tarfile, level 9", 1 / 7)
    ratio = packed[0].result / slow[0].result
    yield Row("1   size of that archive", f"{packed[0].result / MB:.2f} MB",
              f"{slow[0].result / MB:.2f} MB tarfile, level 9", f"{ratio:.3f}", "<= 1.1", ratio <= 1.1)
    yield accepted(archive, sorted((path.name, path.stat().st_size) for path in part.iterdir()))
    levels = dict(zip(LEVELS, in_turns(size.runs, *((pack, part, archive, level) for level in LEVELS))))
    for line, rate in LINES.items():
        times = {
            level: size.part * (median(figures) + median(figures, "result") / rate) for level, figures in levels.items()
        }
        yield Row(f"1   until it is uploaded, {line}", f"{seconds(times[rescale.LEVEL])} level {rescale.LEVEL}",
                  ", ".join(f"{seconds(times[level])} level {level}" for level in LEVELS if level != rescale.LEVEL),
                  f"{times[rescale.LEVEL] / min(times.values()):.3f}")


def accepted(archive: Path, members: list[tuple[str, int]]) -> Row:
    """Let other programs unpack the archive."""
    checks = {"gzip": ["gzip", "-t", archive], "tar": ["tar", "-tzf", archive], "pigz": ["pigz", "-dt", archive]}
    there = [name for name in checks if shutil.which(name)]
    for name in there:
        command(*checks[name])
    with tarfile.open(archive, "r:gz") as tar:
        same = [(member.name, member.size) for member in tar] == members
    return Row(f"1   unpacked by {', '.join([*there, 'Python'])}", "yes" if same else "no", "", "", "yes", same)


# 2. Upload


def upload(url: str, path: Path) -> None:
    rescale.upload_local_files(url, TOKEN, path)


def upload_with_toolbelt(url: str, path: Path) -> None:
    """What the guide's code does: the encoder, in the reads that urllib3 makes by default."""
    with path.open("rb") as file, requests.Session() as session:
        session.trust_env = False
        encoder = MultipartEncoder({"file": (path.name, file, "application/octet-stream")})
        headers = {"Authorization": TOKEN, "Content-Type": encoder.content_type}
        session.post(f"{url}/api/v2/files/contents/", data=encoder, headers=headers).raise_for_status()


def upload_with_curl(url: str, path: Path) -> None:
    command("curl", "-sf", "--noproxy", "*", "-F", f"file=@{path}", f"{url}/api/v2/files/contents/")


def upload_rows(large: Path, size: Size) -> Iterator[Row]:
    """2. upload_local_files"""
    with serving(large, []) as (url, _):
        ours, toolbelt, curl = in_turns(
            size.runs, (upload, url, large), (upload_with_toolbelt, url, large),
            (upload_with_curl, url, large) if shutil.which("curl") else (),
        )
    yield beside(f"2 upload_local_files, {size.large / MB:.0f} MB", ours, toolbelt, "toolbelt as it is", 0.5)
    yield beside("2   beside the fastest", ours, curl, "curl")
    yield memory("2   memory", ours, 60)


# 3. Download


def download(url: str, folder: Path) -> None:
    """What the library does, into a new folder."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        os.chdir(here)
        rescale.job_download(url, TOKEN, JOB, JOB)
        os.chdir(folder)


def download_plainly(url: str, folder: Path, numbers: range = range(1)) -> None:
    """Files one by one, each as one stream, with its SHA-512 computed and brought to the disk, as ours are."""
    with tempfile.TemporaryDirectory(dir=folder) as here, requests.Session() as session:
        session.trust_env = False
        for number in numbers:
            digest = hashlib.sha512()
            address = f"{url}/api/v2/files/f{number}/contents/"
            with session.get(address, stream=True) as response, (Path(here) / f"{number}").open("wb") as file:
                for block in response.iter_content(MB):
                    file.write(block)
                    digest.update(block)
                os.fsync(file.fileno())


def download_rows(folder: Path, large: Path, size: Size) -> Iterator[Row]:
    """3. job_download of a large file"""
    with serving(large, [rescale.ARCHIVE]) as (url, _):
        ours, plain = in_turns(size.runs, (download, url, folder), (download_plainly, url, folder))
    yield beside(f"3 job_download, {size.large / MB:.0f} MB, fast line", ours, plain, "one stream", 1.2)
    yield memory("3   memory", ours, 80)
    throttled = folder / "throttled"
    with large.open("rb") as source, throttled.open("wb") as target:
        target.write(source.read(size.throttled))
    with serving(throttled, [rescale.ARCHIVE], rate=SLOW_LINE) as (url, _):
        ours, plain = in_turns(size.runs, (download, url, folder), (download_plainly, url, folder))
    yield beside(f"3   {size.throttled / MB:.0f} MB, {SLOW_LINE / MB:.0f} MB/s per connection", ours, plain,
                 "one connection", 1 / 5)


def small_rows(folder: Path, size: Size) -> Iterator[Row]:
    """3. job_download of many small files"""
    small = folder / "small"
    small.write_bytes(os.urandom(SMALL))
    with serving(small, [f"small{number}.csv" for number in range(size.many)], latency=LATENCY) as (url, _):
        few = range(0, size.many, ONE_BY_ONE)
        ours, plain = in_turns(size.runs, (download, url, folder), (download_plainly, url, folder, few))
    yield beside(f"3   {size.many} files of {SMALL // 1000} KB, {1000 * LATENCY:.0f} ms per request", ours, plain,
                 "one by one", 1 / 6, factor=size.many / len(few))


# 4. and 5. Waiting and requests


def chain(url: str, token: str, folder: Path, step: float) -> None:
    """main.py with three jobs that end at different times of a polling step."""
    os.environ.update(RESCALE_API_URL=url, RESCALE_API_KEY=token, RESCALE_REHEARSAL=url)
    os.chdir(folder)
    import main

    rescale.STATUS_INTERVAL = step
    main.batches = [(f"link{number}", f"sleep {phase * step}\n") for number, phase in enumerate(PHASES, 1)]
    sys.argv[1:] = []
    if main.main():
        raise RuntimeError("the chain has failed")


def chain_rows(folder: Path, size: Size) -> list[Row]:
    """4. Waiting in a chain of three jobs"""
    from rescale_simulator import Simulator  # not above, for its Flask would burden every run

    folder.mkdir()
    rows, took = [], {}
    with Simulator(folder / "platform", speed=0) as sim:
        sim.on_request = lambda record, when: took.update({id(record): time.time() - record.time})
        run(chain, sim.url, sim.token, folder, size.step)
        *following, last = [record for record in sim.requests if record.path.endswith(("/submit/", "/contents/"))][2:]
        for number, (job, then) in enumerate(zip(sim.jobs, [*following, last]), 1):
            ended = sim.finish_time(job)
            own = sum(took[id(record)] for record in sim.requests if ended < record.time < then.time)
            overhead = then.time - ended
            rows.append(Row(
                f"4 job {number} ended to {'submission of the next' if then is not last else 'download'}",
                seconds(overhead), f"{seconds(own)} requests", "", f"<= {size.step} s + requests",
                overhead - own <= size.step,
            ))
        looks = sum("/statuses/" in record.path or "/tail/" in record.path for record in sim.requests)
        rows.append(Row("5 requests of that chain", str(len(sim.requests)), f"{looks} of them to look at a job"))
    return rows


def listing_rows(folder: Path, size: Size) -> Iterator[Row]:
    """5. Listing many files"""
    names = [rescale.ARCHIVE, *(f"frame{number}.vtu" for number in range(1, size.listed))]
    content = folder / "frame"
    content.touch()
    with serving(content, names) as (url, count):
        figure = run(rescale.file_previous_job, url, TOKEN, JOB)
        yield Row(f"5 requests to list {size.listed} output files, in {seconds(figure.seconds)}", str(count.value),
                  "", "", "<= 30", count.value <= 30)


# 6. Start


def first_request(folder: Path) -> None:
    """Start main.py and wait for the first byte that it sends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        variables = {**os.environ, "RESCALE_API_URL": f"http://127.0.0.1:{listening.getsockname()[1]}",
                     "RESCALE_API_KEY": TOKEN.split()[1]}
        driver = subprocess.Popen([sys.executable, TESTS.parent / "main.py"], cwd=folder, env=variables,
                                  stdout=subprocess.DEVNULL)
        try:
            listening.accept()[0].recv(1)
        finally:
            driver.kill()
            driver.wait()


def start_rows(folder: Path, size: Size) -> Iterator[Row]:
    """6. Start"""
    imports = "import requests, requests_toolbelt.multipart.encoder"
    ours, bare = in_turns(2 * size.runs - 1, (first_request, folder), (command, sys.executable, "-c", imports))
    row = beside("6 start of main.py to its first request", ours, bare, "the imports that it must make")
    yield row._replace(limit="<= 0.5 s", kept=median(ours) <= 0.5)
    times = [
        (int(own), int(total), len(depth) // 2, name) for own, total, depth, name in re.findall(
            r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)",
            command(sys.executable, "-X", "importtime", TESTS.parent / "main.py", "--help"),
        )
    ]
    slowest = sorted((time_[1:] for time_ in times if time_[2] == 1), reverse=True)[:4]
    yield Row("6   imports of main.py --help", f"{sum(time_[0] for time_ in times) / 1e6:.2f} s",
              ", ".join(f"{name} {total / 1e3:.0f} ms" for total, _, name in slowest))


# 7. Packing inside the job


def pack_in_job(inputs: Path, folder: Path, script: str, path: str) -> int:
    """Let bash run a job's command in a work folder of links to the inputs; the number of lines in the log."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for source in inputs.iterdir():
            os.link(source, Path(work) / source.name)
        done = subprocess.run([shutil.which("bash"), "-c", script], cwd=work, env={**os.environ, "PATH": path},
                              check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return len(done.stdout.splitlines())


def job_rows(folder: Path, size: Size) -> Iterator[Row]:
    """7. Packing inside the job"""
    bare = folder / "bin"
    bare.mkdir()
    for name in PACKERS:
        (bare / name).symlink_to(shutil.which(name))
    inputs, path = folder / "part", os.environ["PATH"]
    script = rescale._job_command("true\n")
    total = sum(file.stat().st_size for file in inputs.iterdir()) / 1e6
    ours, without, guide = in_turns(
        size.runs, (pack_in_job, inputs, folder, script, path), (pack_in_job, inputs, folder, script, str(bare)),
        (pack_in_job, inputs, folder, "tar -czvf rescale.tar.gz *", path),
    )
    if not shutil.which("pigz"):
        ours = []
    for figures, how in ((ours, "with pigz"), (without, "without pigz")):
        if figures:
            saved = 1000 * (median(guide) - median(figures)) / total
            yield beside(f"7 packing {total:.0f} MB in a job, {how}", figures, guide,
                         f"tar -czvf; saves {saved:.0f} s per GB", 1)
    lines = without[0].result
    yield Row("7   lines in its log", str(lines), f"{guide[0].result} tar -czvf", "", "0", lines == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, one run, no limits")
    size = QUICK if parser.parse_args().quick else FULL
    for name in ("pigz", "curl"):
        if not shutil.which(name):
            print(f"{name} is not installed here: what it would be the reference for is left out")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rescale-benchmark-") as name, \
            concurrent.futures.ThreadPoolExecutor(1) as background:
        folder = Path(name)
        large = folder / "large"
        with large.open("wb") as file:
            for _ in range(0, size.large, MB):
                file.write(os.urandom(MB))
        rows = [
            *archive_rows(folder, size), *upload_rows(large, size), *download_rows(folder, large, size),
        ]
        large.unlink()
        # These two do little but wait, and can do that at the same time.
        waiting = background.submit(chain_rows, folder / "chain", size)
        rows += [*small_rows(folder, size), *waiting.result()]
        rows += itertools.chain(listing_rows(folder, size), start_rows(folder, size), job_rows(folder, size))
    print_table(rows)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {size.runs} runs each, "
          f"{time.monotonic() - began:.0f} s in all")
    return int(size is FULL and any(row.kept is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
