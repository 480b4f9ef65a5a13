"""The guide's own script, as people have it: it runs unchanged and prints what the guide says that it prints.

| promise (design, The eight functions) | test |
|---|---|
| the guide's scripts, also those of its later versions, run unchanged, print its lines, leave its files | script |
| names, order and positional parameters are the guide's, what we add is keyword-only and has a default | parameters |
| whoever has installed the guide's two packages can run it | packages |
"""

import ast
import importlib.util
import inspect
import re
import runpy
import tarfile
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS

# Section 4 of the guide, with the names it uses; the access is put in by the test.
SCRIPT = '''
import rescale_rest_api as rescale

batch_name1 = 'static'
command1 = 'cat static.inp > static.res; echo step 1 done\\n'
batch_name2 = 'restart'
command2 = 'cat static.res > restart.res; echo step 2 done\\n'
code_name = 'user_included'
version_code = '0'
license_info = {'LM_LICENSE_FILE': '27000@license-server'}
coretype_code = 'emerald'
core_per_slot = 1
slot = 1
walltime = 1
projectid = 'xDdRk'
job_name1 = batch_name1
job_name2 = batch_name2

# 1. Token
ACCESS
# 2. Create rescale.tar.gz
rescale.create_tar_gz()
# 3. Upload
inputfiles_list1 = rescale.upload_local_files(rescale_platform, my_token)
JOB1
# 3.1 Get the ID of input file in Rescale files (AWS S3) from Previous Rescale Job
inputfiles_list2 = rescale.file_previous_job(rescale_platform, my_token, job_id1)
JOB2
# 7. Download
rescale.job_download(rescale_platform, my_token, job_name2, job_id2)
'''
JOB = '''
# 4. Rescale Job Configuration
job_id1 = rescale.job_setup(rescale_platform, my_token, job_name1, command1, code_name, version_code, license_info,
                            coretype_code, core_per_slot, slot, walltime, projectid, inputfiles_list1)
# 5. Rescale Job Submit
rescale.job_submit(rescale_platform, my_token, job_name1, job_id1)
# 6. Rescale Job Monitor
rescale.job_monitor(rescale_platform, my_token, job_id1)
'''
SCRIPT = SCRIPT.replace("JOB1", JOB).replace("JOB2", re.sub(r"([a-z])1", r"\g<1>2", JOB))

# Section 4 as its author published it later: two more arguments, texts that may be empty.
LATER_SCRIPT = SCRIPT.replace("command1, code_name", "command1, feature_name, feature_count, code_name").replace(
    "command2, code_name", "command2, feature_name, feature_count, code_name"
).replace("code_name = 'user_included'", "feature_name = FEATURE\nfeature_count = COUNT\ncode_name = 'user_included'")

# The guide's own lines, with its own ids, path and size.
JOB_PRINTED = """\
Job_ID: LFZphb
Job LFZphb : submitted
Job LFZphb : Pending
Job LFZphb : Queued
Job LFZphb : Validated
Job LFZphb : Executing
Job LFZphb : Completed
"""
PRINTED = f"""\
Successfully created rescale.tar.gz in <path>
- rescale.tar.gz uploaded
All files uploaded successfully!
inputfiles_list = [{{'id': 'dxGonb', 'decompress': True}}]
{JOB_PRINTED}\
inputfiles_list = [{{'id': 'JKNBbb', 'decompress': True}}]
{JOB_PRINTED.replace("LFZphb", "qTfDWx")}\
Total 1 files will be downloaded
1 user/user_xMTMk/output/job_qTfDWx/run1/rescale.tar.gz downloaded
Total 1 files, 93.345 MB downloaded
"""

ACCESS = {
    "assigned": "rescale_platform = {url!r}\nmy_token = 'Token {token}'",
    "given": "rescale_platform, my_token = rescale.platform_my_token({url!r}, 'Token {token}')",
    "found": "rescale_platform, my_token = rescale.platform_my_token()",
}


def without_values(text, folder):
    """Ids numbered in the order in which they come, and path and size taken out."""
    ids = {}

    def number(match):
        return f"<id {ids.setdefault(match.group(), len(ids) + 1)}>"

    text = text.replace(str(folder), "<path>")
    text = re.sub(r"(?<=Job_ID: )\w+|(?<='id': ')\w+|(?<=Job )\w+|(?<=/job_)\w+", number, text)
    return re.sub(r"\d+\.\d{3} MB", "<size> MB", text)


@pytest.mark.parametrize(("guide", "access", "features"), [
    (SCRIPT, "assigned", None), (LATER_SCRIPT.replace("FEATURE", "''").replace("COUNT", "''"), "given", None),
    (LATER_SCRIPT.replace("FEATURE", "'abaqus'").replace("COUNT", "8"), "found", [{"name": "abaqus", "count": 8}]),
], ids=["as in the guide", "with later arguments, empty", "with later arguments"])
def test_the_guides_script_runs_unchanged_and_prints_the_guides_lines(
    guide, access, features, sim, clock, clean_surroundings, monkeypatch, capsys
):
    clock.speed = 250  # a job of half a second must not seem to last an hour
    sim.timeline = ("Pending", "Queued", "Validated", "Executing")
    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    Path("static.inp").write_text("*heading\n")
    script = guide.replace("ACCESS", ACCESS[access].format(url=sim.url, token=sim.token))
    Path("main.py").write_text(script, encoding="utf-8")
    names = runpy.run_path("main.py", run_name="__main__")
    out = capsys.readouterr().out
    assert sim.token not in out
    log = r"\[\d{4}-.*\]: .*|Waiting\.\.\.\.\.|\.\.\."  # what the guide does not show: "from here on the log"
    lines = [line for line in out.splitlines() if not re.fullmatch(log, line)]
    first = lines.index(f"Successfully created rescale.tar.gz in {clean_surroundings}")
    assert all(sim.url in line or "my_token" in line or "not packed: main.py" in line for line in lines[:first])
    assert without_values("\n".join(lines[first:]) + "\n", clean_surroundings) == without_values(PRINTED, "nowhere")

    for job_name, job_id in (("static", names["job_id1"]), ("restart", names["job_id2"])):
        assert Path(f"{job_name}.job").read_text().strip() == job_id
        assert f"{sim.url}/jobs/{job_id}/" in Path(f"{job_name}.desktop").read_text()
        settings = sim.jobs[job_id].body["jobanalyses"][0]["userDefinedLicenseSettings"]
        assert (settings and settings["featureSets"][0]["features"]) == features
    assert sim.starts == {names["job_id1"]: 1, names["job_id2"]: 1}
    assert [path.name for path in Path("restart").iterdir()] == ["rescale.tar.gz"]
    assert not Path("static").exists()
    with tarfile.open("restart/rescale.tar.gz") as tar:
        assert sorted(tar.getnames()) == [f"./{name}" for name in (
            "restart.log", "restart.res", "static.inp", "static.log", "static.res")]
        assert b"step 1 done" in tar.extractfile("./static.log").read()
        assert tar.extractfile("./restart.res").read() == b"*heading\n"


PARAMETERS = {
    "platform_my_token": "rescale_platform=None, my_token=None",
    "create_tar_gz": "input_path=None, output_filename='rescale.tar.gz'",
    "upload_local_files": "rescale_platform, my_token, input_file='rescale.tar.gz'",
    "job_setup": "rescale_platform, my_token, job_name, command, code_name, version_code, license_info, coretype_code, "
                 "core_per_slot, slot, walltime, projectid, inputfiles_list",
    "job_submit": "rescale_platform, my_token, job_name, job_id",
    "job_monitor": "rescale_platform, my_token, job_id",
    "job_download": "rescale_platform, my_token, job_name, job_id",
    "file_previous_job": "rescale_platform, my_token, job_id",
}


@pytest.mark.parametrize("function", PARAMETERS)
def test_the_parameters_are_the_guides_and_what_we_add_is_keyword_only(function):
    signature = inspect.signature(getattr(rescale, function)).parameters.values()
    positional = [one.replace(annotation=one.empty) for one in signature if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert ", ".join(map(str, positional)) == PARAMETERS[function]
    added = [one for one in signature if one.kind is not one.POSITIONAL_OR_KEYWORD]
    assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in added)
    lines = [inspect.getsourcelines(getattr(rescale, name))[1] for name in PARAMETERS]
    assert lines == sorted(lines)  # they stand in the guide's order


def test_two_packages_are_installed_and_no_other_is_imported():
    tree = ast.walk(ast.parse(Path(rescale.__file__).read_text(encoding="utf-8")))
    names = {name.partition(".")[0] for node in tree if isinstance(node, (ast.Import, ast.ImportFrom))
             for name in [getattr(node, "module", None) or node.names[0].name]}
    specs = [importlib.util.find_spec(name) for name in names]
    others = {spec.name for spec in specs if "site-packages" in str(spec and spec.origin)}
    assert others == {"requests", "requests_toolbelt"}
    required = re.findall(r"^[\w-]+", (TESTS.parent / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert required == ["requests", "requests-toolbelt"]
