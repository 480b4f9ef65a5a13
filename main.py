"""Run a chain of dependent Rescale jobs; each takes the result of the one before it as its input.

    python main.py --check     check the settings, say what it costs at most, start nothing
    python main.py             start a new chain
    python main.py --resume    go on with the newest one, after a crash, a reboot or Ctrl-C
    python main.py --repeat    the same, and replace a job that has failed; changed input files go along
    python main.py --repeat --from BATCH    the same from this batch on, also if it has succeeded
    python main.py --status    how far it is, from another terminal

Edit the two sections below, then leave it running in `screen`. Exit status: 0 done, 1 failed, 2 usage or
an unfinished chain, 130 Ctrl-C.
"""

import sys

try:
    import rescale_rest_api as rescale
except ImportError as error:
    sys.exit(f"main.py cannot start: {error}. Is rescale_rest_api.py here? Type first:  . ~/rescale/.venv/bin/activate")

# ---- User section --------------------------------------------------------------------------------------------------
# 사용자 설정: 작업마다 한 줄씩, ("이름", "command\n"). 각 작업은 직전 작업의 결과 파일을 입력으로 사용합니다.
# One line per job: ("batch_name", "command\n"). Every job starts with the files that the one before it left.
batches = [
    ("rod1", "python3 rod.py rod.inp --step 1\n"),
    ("rod2", "python3 rod.py rod.inp --step 2\n"),
    # Abaqus: ("static", "abaqus job=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
    #         ("restart", "abaqus job=restart oldjob=static cpus=$RESCALE_CORES_PER_SLOT mp_mode=mpi interactive\n"),
    # A solver that fails with exit status 0 needs a check in the same line (README, "Inside the job"):
    #         'rm -f static.sta; abaqus job=static interactive && grep -q "COMPLETED SUCCESSFULLY" static.sta\n'
]
input_path = "tests/example"  # folder with the input files of the first job; "." is this folder
at_end = None  # shell command that runs when the chain has ended, like 'echo "$CHAIN_SUMMARY" | mail -s Rescale me'

# ---- Admin section: for a job that ran from the web page, `python rescale_rest_api.py settings JOB_ID` prints it -----
# 관리자 설정: Web 플랫폼에서 실행한 작업의 값은 `python rescale_rest_api.py settings JOB_ID` 로 확인합니다.
code_name = "user_included"  # Abaqus: "abaqus"
version_code = "0"  # Abaqus: "2022-2241"
license_info = {}  # Abaqus: {"LM_LICENSE_FILE": "27000@license-server"}
coretype_code = "emerald"  # Abaqus: "starlite_max"
core_per_slot = 1
license_features = {}  # licences that the job waits for; Abaqus: {"abaqus": 8}, tokens for 4 cores
slot = 1  # always 1, unless it is a DOE
walltime = 1  # hours; the job is stopped after that
projectid = None  # the last part of the project's address in the administrator's page, like "xDdRk"
# ----------------------------------------------------------------------------------------------------------------------

settings = (code_name, version_code, license_info, coretype_code, core_per_slot, slot, walltime, projectid)

with rescale.chain(
    batches, settings, license_features=license_features, input_path=input_path, at_end=at_end
) as chain:
    rescale_platform, my_token = chain.rescale_platform, chain.my_token  # 1. The platform and the token
    for link in chain:
        if link.job_id is None:  # no job from an earlier run
            if link.previous is None:
                # 2. Archive the input files, 3. upload the archive
                archive = rescale.create_tar_gz(input_path)
                inputfiles_list = rescale.upload_local_files(rescale_platform, my_token, archive)
            else:
                # 3.1 Take the result of the previous job, inside the cloud
                inputfiles_list = rescale.file_previous_job(rescale_platform, my_token, link.previous.job_id)
                inputfiles_list += chain.mended_files(link)  # [] unless --repeat has some for it
            # 4. Set up the job
            link.job_id = rescale.job_setup(
                rescale_platform, my_token, link.job_name, link.command, *settings, inputfiles_list,
                license_features=license_features,
            )
        # 5. Submit it
        rescale.job_submit(rescale_platform, my_token, link.job_name, link.job_id)
        # 6. Monitor it until it has ended
        rescale.job_monitor(rescale_platform, my_token, link.job_id)
    # 7. Download the last result
    rescale.job_download(rescale_platform, my_token, link.job_name, link.job_id)
