"""Transient heat conduction in a rod, computed in steps that continue from one another.

    python3 rod.py rod.inp --step 1    starts from the initial condition, writes rod.restart
    python3 rod.py rod.inp --step 2    continues from rod.restart, writes temperature.csv

Solves dT/dt = a d2T/dx2 with both ends held at one temperature, by the Crank-Nicolson scheme (second order in space
and time). The case file describes the rod and says when each step ends. Every step leaves a restart file and a picture
of the temperatures it started from and reached, temperature.svg; the last one also their table. Files are read from
and written to the current folder. Python 3.9+, nothing else.
"""

import argparse
import configparser
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

PROGRESS_LINES = 15  # per step


class CaseError(Exception):
    """The case file or the restart file cannot be used."""


class Case(NamedTuple):
    """What the case file says, in SI units and degC."""

    length: float
    diffusivity: float
    end_temperature: float
    amplitudes: list[float]
    cells: int
    time_step: float
    step_ends: list[float]


def read_case(path: Path) -> Case:
    parser = configparser.ConfigParser(inline_comment_prefixes="#", interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        case = Case(
            length=parser.getfloat("rod", "length"),
            diffusivity=parser.getfloat("rod", "diffusivity"),
            end_temperature=parser.getfloat("rod", "end_temperature"),
            amplitudes=[float(amplitude) for amplitude in parser.get("rod", "amplitudes").split()],
            cells=parser.getint("rod", "cells"),
            time_step=parser.getfloat("rod", "time_step"),
            step_ends=[float(end) for end in parser.get("rod", "step_ends").split()],
        )
    except (configparser.Error, ValueError) as error:
        raise CaseError(f"{path}: {error}") from error
    if not all(map(math.isfinite, (case.end_temperature, *case.amplitudes))) or not case.step_ends:
        raise CaseError(f"{path}: temperatures must be finite, and there must be a step")
    if not all(0 < value < math.inf for value in (case.length, case.diffusivity, case.time_step)) or case.cells < 2:
        raise CaseError(f"{path}: length, diffusivity and time_step must be positive, cells at least 2")
    for start, end in zip([0.0, *case.step_ends], case.step_ends):
        count = (end - start) / case.time_step
        if not 0.5 < count < math.inf or abs(count - round(count)) > 1e-6:
            raise CaseError(f"{path}: {start:g} s to {end:g} s is not a whole number of time steps")
    return case


def initial_temperature(case: Case) -> list[float]:
    modes = list(enumerate(case.amplitudes, start=1))
    rise = [sum(a * math.sin(k * math.pi * i / case.cells) for k, a in modes) for i in range(1, case.cells)]
    return [case.end_temperature, *(case.end_temperature + r for r in rise), case.end_temperature]


def read_restart(path: Path, case: Case, step: int) -> list[float]:
    """Return the temperatures at the end of the step before, or refuse the file."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError as error:
        raise CaseError(f"step {step} continues from {path}, which is not here: run step {step - 1} first") from error
    if checksum.decode("ascii", "replace") != hashlib.sha256(content).hexdigest():
        raise CaseError(f"{path} is truncated or damaged: run step {step - 1} again")
    restart = json.loads(content)
    for name, value in case._asdict().items():
        if restart["case"][name] != value:
            raise CaseError(f"{path} is of another case: {name} is {restart['case'][name]} there, {value} here")
    if restart["step"] != step - 1:
        raise CaseError(f"{path} holds the end of step {restart['step']}, step {step} needs that of step {step - 1}")
    return list(restart["temperature"])


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that the file is whole or not there."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{path} written", flush=True)


def march(case: Case, temperature: list[float], start: float, end: float) -> list[float]:
    """Return the temperatures at `end` from those at `start`; prints the progress."""
    r = case.diffusivity * case.time_step / (2 * (case.length / case.cells) ** 2)
    inner = range(1, case.cells)
    # The matrix never changes: the Thomas algorithm's elimination factors are computed once.
    pivot, factor = [1.0], [0.0]
    for _ in inner:
        pivot.append(1 / (1 + 2 * r - r * factor[-1]))
        factor.append(r * pivot[-1])
    count = round((end - start) / case.time_step)
    new = temperature[:]
    for n in range(1, count + 1):
        old, new = new, new[:]
        for i in inner:
            new[i] = (old[i] + r * (old[i - 1] - 2 * old[i] + old[i + 1]) + r * new[i - 1]) * pivot[i]
        for i in reversed(inner):
            new[i] += factor[i] * new[i + 1]
        if n * PROGRESS_LINES // count > (n - 1) * PROGRESS_LINES // count:
            print(f"t = {start + n * case.time_step:7.1f} s   T(mid) = {new[case.cells // 2]:7.3f} degC", flush=True)
    return new


def picture(case: Case, title: str, curves: list[tuple[str, list[float]]]) -> str:
    """Return an SVG of the curves: each a label, and the temperatures along the rod."""
    low, high = (limit(t for _, temperature in curves for t in temperature) for limit in (min, max))
    scale = 350 / (high - low or 1.0)  # pixels per K
    drawn = []
    for n, (label, temperature) in enumerate(curves):
        colour = ("#999", "#d62728", "#1f77b4")[n]
        points = (f"{80 + 690 * i / case.cells:.1f},{50 + scale * (high - t):.1f}" for i, t in enumerate(temperature))
        drawn.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="3"/>')
        drawn.append(f'<text x="560" y="{80 + 24 * n}" fill="{colour}">{label}</text>')
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 450" font-family="sans-serif" font-size="14">',
        '<rect width="800" height="450" fill="white"/>',
        '<path d="M80 50V400H770" fill="none" stroke="#333"/>',
        f'<text x="80" y="30" font-size="18">{title}</text>',
        f'<text x="70" y="55" text-anchor="end">{high:.0f} degC</text>',
        f'<text x="70" y="405" text-anchor="end">{low:.0f} degC</text>',
        f'<text x="770" y="425" text-anchor="end">x = {case.length:g} m</text>',
        *drawn,
        "</svg>\n",
    ])


def run(case_file: Path, step: int) -> None:
    case = read_case(case_file)
    if not 1 <= step <= len(case.step_ends):
        raise CaseError(f"there is no step {step}: {case_file} has {len(case.step_ends)}")
    restart_file = Path(case_file.stem + ".restart")
    temperature = initial_temperature(case) if step == 1 else read_restart(restart_file, case, step)
    start, end = [0.0, *case.step_ends][step - 1 : step + 1]
    origin = "the initial condition" if step == 1 else restart_file
    print(f"Step {step} of {len(case.step_ends)}: {start:g} s to {end:g} s, from {origin}", flush=True)
    after = march(case, temperature, start, end)
    if step == len(case.step_ends):
        rows = (f"{i * case.length / case.cells:.6f},{t:.6f}\n" for i, t in enumerate(after))
        write_whole(Path("temperature.csv"), ("x [m],T [degC]\n" + "".join(rows)).encode())
    curves = [("0 s, initial condition", initial_temperature(case)), (f"{end:g} s, end of step {step}", after)]
    if step > 1:
        curves.append((f"{start:g} s, start of step {step}", temperature))
    title = f"Temperature in the rod, step {step} of {len(case.step_ends)}"
    write_whole(Path("temperature.svg"), picture(case, title, curves).encode())
    content = json.dumps({"case": case._asdict(), "step": step, "temperature": after}).encode()
    write_whole(restart_file, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Transient heat conduction in a rod.")
    parser.add_argument("case", type=Path, help="case file, such as rod.inp")
    parser.add_argument("--step", type=int, required=True, help="1 starts, 2 continues from the restart file")
    arguments = parser.parse_args()
    try:
        run(arguments.case, arguments.step)
    except (CaseError, OSError) as error:
        sys.exit(f"rod.py: {error}")


if __name__ == "__main__":
    main()
