"""Transient heat conduction in a rod, computed in steps that continue from one another.

    python3 rod.py rod.inp --step 1    starts from the initial condition, writes rod.restart
    python3 rod.py rod.inp --step 2    continues from rod.restart, writes temperature.csv

Solves dT/dt = a d2T/dx2 with both ends held at one temperature, by the Crank-Nicolson scheme (second order in space
and time). Every step leaves a restart file and a picture of the temperatures it started from and reached,
temperature.svg; the last one also their table. Files are in the current folder. Python 3.9+, nothing else.
"""

import argparse
import configparser
import json
import math
from pathlib import Path

PROGRESS_LINES = 15  # per step


def read_case(path):
    """What the case file says, in SI units and degC: a number, or for what may have several a list of them."""
    parser = configparser.ConfigParser(inline_comment_prefixes="#")
    parser.read_string(path.read_text(encoding="utf-8"))
    case = {name: [float(word) for word in text.split()] for name, text in parser["rod"].items()}
    one = {name: case[name][0] for name in ("length", "diffusivity", "end_temperature", "cells", "time_step")}
    return {**case, **one, "cells": int(one["cells"])}


def initial_temperature(case):
    """The temperatures at the ends of all cells."""
    end, cells = case["end_temperature"], case["cells"]
    modes = list(enumerate(case["amplitudes"], start=1))
    inner = (sum(a * math.sin(k * math.pi * i / cells) for k, a in modes) for i in range(1, cells))
    return [end, *(end + rise for rise in inner), end]


def march(case, temperature, start, end):
    """The temperatures at `end` from those at `start`; prints the progress."""
    cells, step = case["cells"], case["time_step"]
    r = case["diffusivity"] * step / (2 * (case["length"] / cells) ** 2)
    # The matrix never changes: the Thomas algorithm's elimination factors are computed once.
    pivot, factor = [1.0], [0.0]
    for _ in range(1, cells):
        pivot.append(1 / (1 + 2 * r - r * factor[-1]))
        factor.append(r * pivot[-1])
    count = round((end - start) / step)
    new = temperature[:]
    for n in range(1, count + 1):
        old = new[:]
        for i in range(1, cells):
            new[i] = (old[i] + r * (old[i - 1] - 2 * old[i] + old[i + 1]) + r * new[i - 1]) * pivot[i]
        for i in reversed(range(1, cells)):
            new[i] += factor[i] * new[i + 1]
        if n * PROGRESS_LINES // count > (n - 1) * PROGRESS_LINES // count:
            print(f"t = {start + n * step:7.1f} s   T(mid) = {new[cells // 2]:7.3f} degC", flush=True)
    return new


def picture(case, title, curves):
    """An SVG of the temperatures along the rod; a curve is its label, its colour and the temperatures."""
    low, high = (limit(t for _, _, temperature in curves for t in temperature) for limit in (min, max))
    drawn = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 450" font-family="sans-serif" font-size="14">',
        '<rect width="800" height="450" fill="white"/><path d="M80 50V400H770" fill="none" stroke="#333"/>',
        f'<text x="80" y="30" font-size="18">{title}</text><text x="690" y="425">x = {case["length"]:g} m</text>',
        f'<text x="5" y="55">{high:.0f} degC</text><text x="5" y="405">{low:.0f} degC</text>',
    ]
    for n, (label, colour, temperature) in enumerate(curves):
        heights = [400 - 350 * (t - low) / ((high - low) or 1) for t in temperature]
        points = " ".join(f"{80 + 690 * i / case['cells']:.1f},{height:.1f}" for i, height in enumerate(heights))
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="3"/>')
        drawn.append(f'<text x="560" y="{80 + 24 * n}" fill="{colour}">{label}</text>')
    return "\n".join([*drawn, "</svg>\n"])


def write(path, text):
    path.write_text(text, encoding="utf-8")
    print(f"{path} written", flush=True)


parser = argparse.ArgumentParser(description="Transient heat conduction in a rod.")
parser.add_argument("case", type=Path, help="case file, such as rod.inp")
parser.add_argument("--step", type=int, required=True, help="1 starts, 2 continues from the restart file")
arguments = parser.parse_args()
case, step, restart_file = read_case(arguments.case), arguments.step, Path(arguments.case.stem + ".restart")
ends = [0.0, *case["step_ends"]]
start, end = ends[step - 1 : step + 1]
before = initial_temperature(case) if step == 1 else json.loads(restart_file.read_text())["temperature"]
origin = "the initial condition" if step == 1 else restart_file
print(f"Step {step} of {len(ends) - 1}: {start:g} s to {end:g} s, from {origin}", flush=True)
after = march(case, before, start, end)
if end == ends[-1]:
    rows = (f"{i * case['length'] / case['cells']:.6f},{t:.6f}\n" for i, t in enumerate(after))
    write(Path("temperature.csv"), "x [m],T [degC]\n" + "".join(rows))
write(Path("temperature.svg"), picture(case, f"Rod, step {step} of {len(ends) - 1}", [
    ("0 s, initial condition", "#999", initial_temperature(case)),
    (f"{start:g} s, start of step {step}", "#1f77b4", before), (f"{end:g} s, end of step {step}", "#d62728", after),
]))
write(restart_file, json.dumps({"step": step, "temperature": after}))
