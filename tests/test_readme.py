"""The README: whatever it shows is run, or compared with what the code says, so that it stays true."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, wait_until
from test_example import EXAMPLE, TOLERANCE, profile_error
from test_main import FASTER

ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENGLISH, KOREAN = re.split(r"(?m)^# 한국어$", README)
LANGUAGES = pytest.mark.parametrize("text", [ENGLISH, KOREAN], ids=["English", "Korean"])
PUBLIC = {
    name: thing for name, thing in vars(rescale).items()
    if inspect.isfunction(thing) and thing.__module__ == rescale.__name__ and not name.startswith("_")
}


def blocks(text: str, kind: str = r"\w+") -> list[str]:
    """The contents of the fenced blocks of a kind (sh, text, ...)."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def marked(marker: str) -> str:
    """The block right behind an HTML comment."""
    assert README.count(f"<!-- {marker} -->") == 1
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"no block behind {marker}"
    return found[1]


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(rf"(?m)^#{{2,{heading.count('#')}}} ", rest)[0]


def normalised(text: str) -> list[str]:
    """Lines without what differs from run to run: ids, times, sizes, user, paths, the token's digits."""
    for pattern, name in (
        (r"https?://[\w.]+(:\d+)?", "PLATFORM"),
        (r"(?<=Token \.\.\.)\w{4}|(?<=token \.\.\.)\w{4}", "LAST"),
        (r"(?<=Job_ID: )\w+|(?<=[Jj]ob )\w+(?= :|,)|(?<='id': ')\w+|(?<=/job_)\w+|\b[A-Za-z]{6}(?=  Completed)", "ID"),
        (r"\S+@(rod\d)@\d{8}-\d{6}", r"USER@\1@TIME"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"(?<= in )/.*?(?=/jobs$|$)", "FOLDER"),
        (r"\d+\.\d{3} MB", "SIZE"),
        (r"\b\d+ (s|min) +(?=\d|SIZE|PLACE)", "SPAN  "),
        (r" {2,}", "  "),
    ):
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.splitlines()


@pytest.fixture
def project(clean_surroundings, monkeypatch):
    """A copy of what belongs to a rehearsal in the current folder, but for the library's steps of 5 s."""
    Path("tests").mkdir()
    for name in ("main.py", "rescale_rest_api.py", "tests/rescale_simulator.py"):
        shutil.copy(ROOT / name, name)
    shutil.copytree(EXAMPLE, "tests/example", ignore=shutil.ignore_patterns("__pycache__"))
    with Path("rescale_rest_api.py").open("a", encoding="utf-8") as library:
        library.write(FASTER)
    return clean_surroundings


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a block as it stands in the README, where `python` is the one of the tests; return status and output."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(python.parent), prepend=os.pathsep)

    def run(block, **variables):
        result = subprocess.run(
            ["sh", "-c", block], env={**os.environ, **variables}, timeout=60, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        assert "Traceback" not in result.stdout
        return result.returncode, result.stdout

    return run


# The two commands


@pytest.mark.parametrize("marker", ["rehearsal command", "test command"])
def test_a_command_names_only_files_that_are_there(marker):
    names = re.findall(r"[\w/]+\.(?:py|txt)\b", marked(marker))
    assert names
    assert [name for name in names if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("marker", ["rehearsal command", "test command"])
def test_on_windows_a_command_is_the_same(marker):
    unix = marked(marker)
    windows = README[README.index(unix):]
    windows = blocks(windows, "bat")[0].replace("py -m", "python3 -m").replace("&& ^", "&&")
    assert windows.replace("\\", "/").replace("Scripts", "bin") == unix


def test_the_test_command_finds_these_tests():
    *_, command = marked("test command").strip().split("&&")
    _, *arguments = command.split()
    assert arguments[:2] == ["-m", "pytest"]
    result = subprocess.run(
        [sys.executable, *arguments, "-p", "no:cacheprovider", "--collect-only", Path(__file__).name], cwd=TESTS,
        capture_output=True, text=True, encoding="utf-8", timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_the_test_command_finds_these_tests" in result.stdout


def test_the_rehearsal_command_and_what_follows_it_show_the_temperatures(project, shell):
    *_, command = marked("rehearsal command").split("&&\n")
    status, output = shell(command.replace(".venv/bin/python", "python").replace(".py main", ".py --speed 0 main"))
    assert status == 0, output
    unpack = next(block for block in blocks(ENGLISH, "sh") if "tar -xzf" in block)
    status, output = shell(unpack)
    assert status == 0, output
    Path("shown.csv").write_text(output, encoding="utf-8")
    assert profile_error(Path("shown.csv")) < TOLERANCE


# For real


def test_the_apiconfig_is_read_and_nobody_else_can_read_it(shell, capsys):
    assert shell(next(block for block in blocks(ENGLISH, "sh") if "chmod 600" in block)) == (0, "")
    (content,) = blocks(ENGLISH, "ini")
    apiconfig = Path.home() / ".config" / "rescale" / "apiconfig"
    apiconfig.write_text(content, encoding="utf-8")
    assert stat.S_IMODE(apiconfig.stat().st_mode) == 0o600
    platform, token = rescale.platform_my_token()
    assert platform == "https://kr.rescale.com"
    assert token.split()[1] in content
    assert "Warning" not in capsys.readouterr().out


def test_the_variables_are_read(shell, monkeypatch):
    block = next(block for block in blocks(ENGLISH, "sh") if "export RESCALE_API_KEY" in block)
    status, output = shell(f"{block}\nenv")
    assert status == 0
    given = dict(line.split("=", 1) for line in output.splitlines() if line.startswith("RESCALE_"))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert rescale.platform_my_token() == (given["RESCALE_API_URL"], f"Token {given['RESCALE_API_KEY']}")


@LANGUAGES
def test_the_variables_of_a_proxy_are_those_that_the_library_speaks_of(text):
    source = (ROOT / "rescale_rest_api.py").read_text(encoding="utf-8")
    exported = {name for block in blocks(text, "sh") for name in re.findall(r"export (\w+)=", block)}
    assert {"HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"} < exported
    assert {name for name in exported if name not in source} == set()


@pytest.mark.parametrize(
    ("text", "admin", "user"),
    [(ENGLISH, "admin section", "user section"), (KOREAN, "관리자 부분", "사용자 부분")],
    ids=["English", "Korean"],
)
def test_the_tables_explain_all_that_is_to_be_edited_in_main_py(text, admin, user):
    source = (ROOT / "main.py").read_text(encoding="utf-8")
    _, user_part, admin_part = re.split(r"(?m)^# ---- .*$", source)
    for head, part in ((user, user_part), (admin, admin_part.partition("\n# -----")[0])):
        table = re.search(rf"(?m)^\| {head} \|.*\n((?:\|.*\n)+)", text)
        explained = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table[1].splitlines()))
        assert explained == re.findall(r"(?m)^(\w+) = ", part)


def lines_of(script: str) -> list[str]:
    """The lines of blocks, each once, that call a script of ours."""
    lines = [line for block in blocks(ENGLISH, "sh") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith(f"python {script}")))


def test_main_py_starts_and_goes_on_as_it_is_written(project, shell, sim):
    start, go_on = lines_of("main.py")
    access = {"RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token}
    status, output = shell(start, **access)
    assert status == 0, output
    (result,) = (path for path in Path().glob("*@rod2@*") if path.is_dir())
    shutil.rmtree(result)
    status, output = shell(go_on, **access)
    assert status == 0, output
    assert (result / "rescale.tar.gz").is_file()
    assert list(sim.starts.values()) == [1, 1]


def test_the_commands_for_coming_back_are_all_shown():
    listed = subprocess.run(
        [sys.executable, ROOT / "rescale_rest_api.py", "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    offered = re.search(r"\{([\w,]+)\}", listed)[1].split(",")
    assert sorted(lines_of("rescale_rest_api.py")) == sorted(
        f"python rescale_rest_api.py {command} JOB_ID" for command in offered
    )


@pytest.mark.parametrize("line", lines_of("rescale_rest_api.py"))
def test_a_command_for_coming_back_works_as_it_is_written(line, project, shell, sim, access, set_up):
    stop = " stop " in line
    job_id = set_up(job_name="back", command="sleep 60\n" if stop else "echo right > result.txt\n")
    rescale.job_submit(*access, "back", job_id)
    job = sim.jobs[job_id]
    wait_until(lambda: job.is_running if stop else job.ended)
    status, output = shell(line.replace("JOB_ID", job_id), RESCALE_API_URL=sim.url, RESCALE_API_KEY=sim.token)
    assert status == 0, output
    expected = {
        "settings": "coretype_code = 'emerald'", "monitor": f"Job {job_id} : Completed",
        "download": "Total 1 files will be downloaded", "stop": f"Job {job_id} : stop requested",
    }
    assert expected[line.split()[2]] in output


@LANGUAGES
def test_the_five_commands_of_screen_are_shown(text):
    shown = "\n".join(blocks(text, "sh")).splitlines()
    assert {"screen -S rescale", "screen -list", "screen -r rescale", "screen -X -S rescale quit"} <= set(shown)
    assert "Ctrl-A" in text


# Functions


@LANGUAGES
def test_every_function_is_shown_with_its_own_parameters(text):
    shown = {}
    for block in blocks(text, "python"):
        call = re.fullmatch(r"(\w+)\((.*)\)\n", block, re.DOTALL)
        if call:
            shown[call[1]] = ast.dump(ast.parse(f"def f({call[2]}): ..."))
    signatures = {}
    for name, function in PUBLIC.items():
        signature = inspect.signature(function)
        bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
        signatures[name] = ast.dump(
            ast.parse(f"def f{signature.replace(parameters=bare, return_annotation=signature.empty)}: ...")
        )
    assert shown == signatures


@LANGUAGES
@pytest.mark.parametrize("error", ["RescaleError", "JobFailed"])
def test_the_exceptions_are_named(text, error):
    assert issubclass(getattr(rescale, error), rescale.RescaleError)
    assert f"`{error}`" in text


def quoted_lines() -> dict[str, list[str]]:
    """The lines that the section of each function says that it prints."""
    functions = ENGLISH[ENGLISH.index("\n## Functions\n"):ENGLISH.index("\n## Inside the job\n")]
    _, *parts = re.split(r"(?m)^### (?:\d\. )?(\w+)$", functions)
    return {name: normalised("".join(blocks(part, "text"))) for name, part in zip(parts[::2], parts[1::2])}


def test_every_function_prints_the_lines_that_are_quoted(sim, access, run_job, monkeypatch, capsys):
    printed = defaultdict(list)

    def recorded(name, function):
        def call(*arguments, **more):
            capsys.readouterr()
            result = function(*arguments, **more)
            printed[name] += normalised(capsys.readouterr().out)
            return result

        return call

    monkeypatch.setenv("RESCALE_API_URL", sim.url)
    monkeypatch.setenv("RESCALE_API_KEY", sim.token)
    for name in ("rod.py", "rod.inp"):
        shutil.copy(EXAMPLE / name, name)
    for name, function in PUBLIC.items():
        monkeypatch.setattr(rescale, name, recorded(name, function))
    script = {}
    exec(next(block for block in blocks(ENGLISH, "python") if "import" in block), script)
    rescale.check_settings(*access, *script["settings"], input_path=".")
    rescale.chain_overview(*access, {"rod1": script["job_id1"], "rod2": script["job_id2"]})

    settings = {}
    exec("".join(blocks(section(ENGLISH, "### job_settings"), "text")), settings)
    del settings["__builtins__"]
    job_id = rescale.job_setup(*access, "read", inputfiles_list=[], **settings)
    assert rescale.job_settings(*access, job_id) == settings

    job_id = rescale.job_setup(*access, "stopped", "sleep 60\n", *script["settings"], [])
    rescale.job_submit(*access, "stopped", job_id)
    wait_until(lambda: sim.jobs[job_id].is_running)
    rescale.job_stop(*access, job_id)

    quoted = quoted_lines()
    assert set(quoted) == set(PUBLIC)
    assert all(quoted.values())
    assert {name: [line for line in lines if line not in printed[name]] for name, lines in quoted.items()} == \
        {name: [] for name in PUBLIC}


# Rehearsal


def rehearsals() -> list[str]:
    """The blocks that rehearse, but for the first command and the one that serves."""
    found = [block for block in blocks(ENGLISH, "sh") if re.search(r"(?m)^python .*simulator\.py .", block)]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize(
    "block", [block for block in rehearsals() if "--folder" not in block], ids=lambda block: block.split()[-2]
)
def test_a_rehearsal_starts_as_it_is_written(block, project, shell):
    Path("main.py").write_text("print('rehearsed')\n", encoding="utf-8")
    Path("fake_abaqus.sh").write_text(next(one for one in blocks(ENGLISH, "sh") if one.startswith("#!")))
    status, output = shell(block)
    assert status == 0, output
    assert "rehearsed" in output


def test_a_failed_job_only_is_repeated_as_it_is_written(project, shell):
    (block,) = (block for block in rehearsals() if "--folder" in block)
    assert "/tmp/rehearsal" in block
    status, output = shell(block.replace("/tmp/rehearsal", "kept"))
    assert status == 0, output
    jobs = json.loads(Path("kept/state.json").read_text(encoding="utf-8"))
    names = [job["name"].split("@")[1] for job in jobs["jobs"]]
    assert (names, list(jobs["starts"].values())) == (["rod1", "rod2", "rod2"], [1, 1, 1])
    assert len(list(Path().glob("*@rod2@*/rescale.tar.gz"))) == 1


def test_a_stand_in_is_called_in_the_place_of_a_solver_with_any_settings(project, shell):
    main = Path("main.py").read_text(encoding="utf-8")
    main = re.sub(r'"python3 rod.py [^"]*"', '"abaqus job=static\\\\n"', main)
    main = main.replace('"user_included"  #', '"a_tile_of_its_own"  #')
    Path("main.py").write_text(main, encoding="utf-8")
    Path("fake_abaqus.sh").write_text(next(one for one in blocks(ENGLISH, "sh") if one.startswith("#!")))
    status, output = shell(next(block for block in rehearsals() if "--stand-in" in block))
    assert status == 0, output
    (told,) = set(re.findall(r"`(unknown to this rehearsal[^`]*)`", README))
    assert f"{told}: code_name = 'a_tile_of_its_own'" in " ".join(output.split())
    status, listed = shell("tar -tzf *@rod2@*/rescale.tar.gz")
    assert "./result.odb" in listed.splitlines()


def test_without_a_script_the_simulator_serves_and_prints_two_lines_for_other_programs():
    (line,) = (line for line in lines_of("tests/rescale_simulator.py") if line.endswith("simulator.py"))
    with subprocess.Popen(
        [sys.executable, ROOT / line.split()[1]], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        printed = [process.stdout.readline() for _ in range(2)]
        process.terminate()
    assert [line.partition("=")[0] for line in printed] == ["export RESCALE_API_URL", "export RESCALE_API_KEY"]


def test_the_example_session_is_what_a_rehearsal_prints(project, shell):
    command = re.search(r"`(python tests/rescale_simulator\.py [^`]*)`", section(ENGLISH, "## Example session"))
    status, output = shell(command[1])
    assert status == 0, output
    # Whether a look at the log meets a line of it, is a matter of the moment.
    fresh = [line for line in normalised(output) if not re.fullmatch(r"\[TIME\]: .*|\.\.\.|Waiting\.{5}", line)]
    assert normalised(marked("session")) == fresh


# What the text says


def messages(text: str) -> list[str]:
    rows = re.findall(r"(?m)^\| `([^`]*)` \|[^|]*\|[^|]*\|$", text)
    assert len(rows) > 20
    return rows


TROUBLES = messages(section(ENGLISH, "## Troubleshooting"))


@pytest.fixture(scope="module")
def texts_of_the_code():
    """All texts of the code, with … for what is put in."""
    texts = []
    for name in ("rescale_rest_api.py", "main.py", "tests/rescale_simulator.py"):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


@pytest.mark.parametrize("message", TROUBLES)
def test_a_message_of_the_troubleshooting_table_is_one_of_the_code(message, texts_of_the_code):
    assert any(message in text for text in texts_of_the_code)


def test_both_languages_help_with_the_same_messages():
    assert len(set(TROUBLES)) == len(TROUBLES)
    assert messages(section(KOREAN, "## 문제 해결")) == TROUBLES


def test_both_languages_show_the_same_blocks():
    english = blocks(ENGLISH)
    english.remove(marked("session"))
    assert blocks(KOREAN) == english


@pytest.mark.parametrize(
    ("value", "english", "korean"),
    [
        (rescale.STATUS_INTERVAL, "every {} seconds", "{}초마다"),
        (rescale.LOG_INTERVAL, "`process_output.log` every {} seconds", "{}초마다 `process_output.log`"),
        (rescale.LOG_LINES, "last {} lines", "마지막 {}줄"),
        (rescale.QUIET_INTERVAL // 60, "for {} minutes, one line", "{}분 동안 새로운 줄이 없으면"),
        (rescale.PATIENCE // 60, "about {} minutes", "약 {}분 동안"),
        (rescale.THROTTLE_PATIENCE // 60, "({} minutes", "{}분 동안)"),
        (rescale.SUBMIT_PATIENCE, "has {} seconds to show", "{}초를 기다리고"),
        (rescale.LEVEL, "level {} of gzip", "gzip 레벨 {}"),
        (rescale.CONNECTIONS, "up to {} connections", "최대 {}개의 연결"),
        (rescale.SINGLE >> 20, "more than {} MB", "{} MB가 넘는"),
        (rescale.BLOCK >> 20, "a file of up to {} MB that holds the key", "키가 들어 있는 {} MB 이하의 파일"),
    ],
)
def test_a_number_of_the_text_is_the_one_of_the_code(value, english, korean):
    for text, phrase in ((ENGLISH, english), (KOREAN, korean)):
        assert phrase.format(value) in " ".join(text.split())


def test_links_lead_somewhere():
    prose = re.sub(r"(?ms)^```.*?^```$", "", README)
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.*)$", prose)
    }
    links = re.findall(r"\]\(([^)]*)\)", prose)
    assert "#한국어" in links
    assert [link for link in links if link.startswith("#") and link[1:] not in anchors] == []
    assert [link for link in links if not link.startswith("#") and not (ROOT / link).exists()] == []


def test_every_script_that_is_named_is_there():
    names = set(re.findall(r"`(?:python )?([\w/]+\.(?:py|txt))\b", README)) | {line.split()[1] for line in lines_of("")}
    assert {"main.py", "rescale_rest_api.py", "tests/rescale_simulator.py", "tests/benchmark.py"} <= names
    assert [name for name in names if not (ROOT / name).exists()] == []
