"""Run a chain of dependent Rescale jobs; each takes the result of the one before it as its input.

    python main.py             start a new chain
    python main.py --resume    go on with the newest unfinished one, after a crash, a reboot or Ctrl-C

Edit the two sections below, then leave it running in `screen`. Exit status: 0 done, 1 failed, 2 usage, 130 Ctrl-C.
"""

import argparse
import getpass
import sys
import time
from pathlib import Path

import rescale_rest_api as rescale

# ---- User section -------------------------------------------------------------------------------------------------
# One line per job: (batch_name, command). Every job starts with the files that the one before it left.
batches = [
    ("rod1", "python3 rod.py rod.inp --step 1\n"),
    ("rod2", "python3 rod.py rod.inp --step 2\n"),
    # Abaqus: ("static", "abaqus job=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
    #         ("restart", "abaqus job=restart oldjob=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
]
input_path = Path(__file__).parent / "tests" / "example"  # folder with the input files of the first job; "." for here

# ---- Admin section: for a job that ran from the web page, `python rescale_rest_api.py settings JOB_ID` prints it ----
code_name = "user_included"  # Abaqus: "abaqus"
version_code = "0"  # Abaqus: "2022-2241"
license_info = {}  # Abaqus: {"LM_LICENSE_FILE": "27000@license-server"}
license_features = {}  # licences that the job waits for; Abaqus: {"abaqus": 8}
coretype_code = "emerald"  # Abaqus: "starlite_max"
core_per_slot = 1
slot = 1  # always 1, unless it is a DOE
walltime = 1  # hours; the job is stopped after that
projectid = None  # the last part of the project's address in the administrator's page, like "xDdRk"
# ---------------------------------------------------------------------------------------------------------------------

user = getpass.getuser()
jobs = {}  # {job_name: job_id} of the links that have been submitted


def run_chain(started_at, rescale_platform, my_token):
    """Run the chain `started_at`; what its .job files and the platform show to be done is not done again."""
    settings = (code_name, version_code, license_info, coretype_code, core_per_slot, slot, walltime, projectid)
    job_id = None
    for batch_name, command in batches:
        job_name = f"{user}@{batch_name}@{started_at}"
        job_file = Path(f"{job_name}.job")
        if job_file.exists():
            job_id = job_file.read_text(encoding="utf-8", errors="replace").strip()
        else:
            if job_id is None:
                # 2. Archive the input files, 3. upload the archive; but first see that the platform knows the settings
                rescale.check_settings(
                    rescale_platform, my_token, *settings, license_features=license_features, input_path=input_path
                )
                archive = rescale.create_tar_gz(input_path)
                inputfiles_list = rescale.upload_local_files(rescale_platform, my_token, archive)
            else:
                # 3.1 Take the result of the previous job, inside the cloud
                inputfiles_list = rescale.file_previous_job(rescale_platform, my_token, job_id)
            # 4. Set up the job
            job_id = rescale.job_setup(
                rescale_platform, my_token, job_name, command, *settings, inputfiles_list,
                license_features=license_features,
            )
        # 5. Submit it
        jobs[job_name] = job_id
        rescale.job_submit(rescale_platform, my_token, job_name, job_id)
        # 6. Monitor it until it has ended
        rescale.job_monitor(rescale_platform, my_token, job_id)

    # 7. Download the last result
    rescale.job_download(rescale_platform, my_token, job_name, job_id)


def unfinished_chains():
    """The starting times of the chains whose last result has not been downloaded, newest first."""
    first, last = f"{user}@{batches[0][0]}@", f"{user}@{batches[-1][0]}@"
    times = [path.stem[len(first):] for path in Path().glob("*.job") if path.name.startswith(first)]
    return [time_ for time_ in sorted(times, reverse=True) if not is_downloaded(Path(last + time_))]


def is_downloaded(folder):
    """Whether a folder holds its chain's result, and not only what a failed job had left before it was repeated."""
    results, job_file = list(folder.rglob("rescale.tar.gz")), Path(f"{folder}.job")
    if not job_file.exists():  # deleted to repeat a failed job, whose log came with its files
        return bool(results) and not list(folder.rglob("process_output.log"))
    return not list(folder.rglob(".*.part")) and any(
        result.stat().st_mtime >= job_file.stat().st_mtime for result in results
    )


def what_next(error):
    """What the user can do after an error or Ctrl-C."""
    submitted = [(job_name, job_id) for job_name, job_id in jobs.items() if Path(f"{job_name}.job").exists()]
    if not submitted:
        return "No job was started."
    job_name, job_id = submitted[-1]
    main_py = sys.argv[0]
    library = Path(main_py).with_name("rescale_rest_api.py")
    if not isinstance(error, rescale.JobFailed):
        return (f"Unless it has ended, job {job_id} runs on and is billed.\nTo go on:    python {main_py} --resume\n"
                f"To stop it:  python {library} stop {job_id}")
    if len(submitted) > 1:
        return f"To repeat this job only, mend its cause, delete {job_name}.job, then: python {main_py} --resume"
    return f"To start again, mend its cause, then: python {main_py}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", action="store_true", help="go on with the newest unfinished chain")
    arguments = parser.parse_args()
    if not all(isinstance(batch, tuple) and len(batch) == 2 and all(isinstance(text, str) for text in batch)
               for batch in batches):
        parser.error('batches: every line must be ("name", "command"), with both commas')
    names = [batch_name for batch_name, _ in batches]
    if not names or len(set(names)) < len(names):
        parser.error("batches needs at least one job, and every batch_name only once")
    for batch_name, command in batches:
        if not batch_name.strip() or set(batch_name) & set('/\\:*?"<>|') or not command.strip():
            parser.error(f"batch {batch_name!r} needs a command, and a name that can be part of a file's")
    unfinished = unfinished_chains()
    if arguments.resume and not unfinished:
        parser.error(f"there is no unfinished chain of {', '.join(names)} in {Path.cwd()}")
    access, status = None, 0
    try:
        # 1. Token
        access = rescale.platform_my_token()
        started_at = unfinished[0] if arguments.resume else time.strftime("%Y%m%d-%H%M%S")
        if arguments.resume:
            print(f"Going on with the chain of {started_at}", flush=True)
        run_chain(started_at, *access)
    except (rescale.RescaleError, KeyboardInterrupt) as error:
        print(f"\n{str(error) or 'Interrupted.'}\n{what_next(error)}", file=sys.stderr, flush=True)
        status = 1 if isinstance(error, rescale.RescaleError) else 130
    if jobs and status != 130:
        rescale.chain_overview(*access, jobs)
    return status


if __name__ == "__main__":
    sys.exit(main())
