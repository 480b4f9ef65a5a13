"""The cantilever in tests/example_abaqus, with CalculiX in place of Abaqus; and the recipes for what success is."""

import contextlib
import shlex
import shutil
import tarfile
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, a_program
from two_jobs import copy_scripts, paste

EXAMPLE = TESTS / "example_abaqus"
STAND_IN = EXAMPLE / "abaqus"
ABAQUS = {  # the README's lines
    "batches": [
        ("static", "abaqus job=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
        ("restart", "abaqus job=restart oldjob=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
    ],
    "code_name": "abaqus", "version_code": "2022-2241", "coretype_code": "starlite_max", "core_per_slot": 2,
    "license_info": {"LM_LICENSE_FILE": "27000@license-server"},
}
NO_CCX = "CalculiX is not installed (apt install calculix-ccx)"
needs_ccx = pytest.mark.skipif(not shutil.which("ccx"), reason=NO_CCX)


def displacements(text: str) -> dict[int, list[float]]:
    """The last table in a NAME.dat: the displacement of each node of the tip, in mm."""
    rows = [line.split() for line in text[text.rindex("displacements"):].splitlines()[1:] if line.strip()]
    return {int(node): [float(value) for value in values] for node, *values in rows}


def downloaded() -> dict[int, list[float]]:
    """The displacements in the result of the one chain that is done here, which has those of its first job, too."""
    [archive] = Path().glob("*@restart@*/rescale.tar.gz")
    with tarfile.open(archive) as tar:
        assert {"./static.dat", "./static.frd", "./static.rout"} < set(tar.getnames())
        return displacements(tar.extractfile("./restart.dat").read().decode())


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """The displacements when a user runs the solver alone, in one folder."""
    folder = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("by hand") / "beam")
    done = paste(f"cd '{folder}' && ccx -i static && cp static.rout restart.rin && ccx -i restart")
    assert done.returncode == 0, done.stderr
    return displacements((folder / "restart.dat").read_text())


@needs_ccx
def test_a_rehearsal_gives_the_displacements_of_the_solver_alone(by_hand):
    copy_scripts(Path.cwd(), **ABAQUS, input_path=str(EXAMPLE))
    done = paste(f"python {TESTS}/rescale_simulator.py --speed 0 --stand-in abaqus={STAND_IN} main.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert downloaded() == {node: pytest.approx(values, rel=1e-5) for node, values in by_hand.items()}


# What success is: recipes for `batches`, each with its wrong neighbours

GREP = 'grep -q "COMPLETED SUCCESSFULLY" static.sta'
ABAQUS_RUNS = {  # what Abaqus does, in a folder with the static.sta of an earlier run
    "completed": "echo COMPLETED SUCCESSFULLY > static.sta",
    "no licence": "exit 1",
    "not completed": "echo HAS NOT BEEN COMPLETED > static.sta",
    "no word": "exit 0",
    "failed at its end": "echo COMPLETED SUCCESSFULLY > static.sta; exit 1",
}
SOLVER_RUNS = {"good": "echo converged", "bad": "echo diverged; exit 1"}
BEAM = (EXAMPLE / "static.inp").read_text()
PLASTIC = BEAM.replace("*STEP", "*STEP, NLGEOM, INC=5").replace("0.3", "0.3\n*PLASTIC\n100., 0.")
DIVERGES = PLASTIC.replace("-250.", "-1e6")
CCX_RUNS = {"computed": BEAM, "diverged": DIVERGES, "no deck": "", "no step": BEAM.replace("*END STEP", "")}  # beam.inp
BY_CCX = f"{shlex.quote(str(STAND_IN))} job=beam interactive"


@pytest.mark.parametrize(("command", "runs", "successful"), [
    (f"rm -f static.sta; abaqus job=static interactive && {GREP}", ABAQUS_RUNS, {"completed"}),
    ("abaqus job=static interactive", ABAQUS_RUNS, {"completed", "not completed", "no word"}),
    ("solver &\nwait $!", SOLVER_RUNS, {"good"}),
    ("solver &\nwait", SOLVER_RUNS, {"good", "bad"}),
    ("set -o pipefail\nsolver | tee solver.log", SOLVER_RUNS, {"good"}),
    ("solver | tee solver.log", SOLVER_RUNS, {"good", "bad"}),
    ("rm -f beam.frd; ccx -i beam && grep -q 100CL beam.frd", CCX_RUNS, {"computed"}),
    ("ccx -i beam", CCX_RUNS, {"computed", "no deck", "no step"}),
    (f"rm -f beam.sta; abaqus job=beam interactive && {GREP.replace('static', 'beam')}", CCX_RUNS, {"computed"}),
])
def test_a_recipe_succeeds_only_where_the_solver_did(sim, access, run_job, command, runs, successful):
    by_ccx, jobs, succeeded = runs is CCX_RUNS, {}, set()
    if by_ccx and not shutil.which("ccx"):
        pytest.skip(NO_CCX)
    for name in ("abaqus", "solver"):
        a_program(sim.stand_ins / name, 'eval "$SOLVER"')
    for case, way in runs.items():  # all of them at once
        files = {"static.sta": b"THE ANALYSIS HAS COMPLETED SUCCESSFULLY"}
        if by_ccx and way:
            files["beam.inp"] = way.encode()
        solver = {"SOLVER": BY_CCX if by_ccx else way}
        jobs[case] = run_job(f"{command}\n", files, "Pending", job_name=case, license_info=solver)
    for case, job_id in jobs.items():
        with contextlib.suppress(rescale.JobFailed):
            rescale.job_monitor(*access, job_id)
            succeeded.add(case)
    assert succeeded == successful
