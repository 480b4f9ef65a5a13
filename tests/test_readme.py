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
from pathlib import Path

import pytest

import rescale_rest_api as rescale
from conftest import TESTS, paths_asked, wait_until
from test_example import EXAMPLE, TOLERANCE, profile_error
from two_jobs import copy_scripts

ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS, ENGLISH, KOREAN = re.split(r"(?m)^# (?:English|한국어)$", README)
LANGUAGES = pytest.mark.parametrize("text", [ENGLISH, KOREAN], ids=["English", "Korean"])


def numbered(number: int) -> list[str]:
    """The contents of the code blocks of a number."""
    part = re.search(rf"(?ms)^### C{number}$(.*?)(?=^### |\Z)", COMMANDS)
    return re.findall(r"^```\w+\n(.*?)^```$", part[1], re.MULTILINE | re.DOTALL)


def marked(marker: str) -> str:
    """The block right behind an HTML comment."""
    assert README.count(f"<!-- {marker} -->") == 1
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"no block behind {marker}"
    return found[1]


def first_column(text: str, heading: str) -> list[str]:
    """The first cells of the table that is headed by this."""
    table = re.search(rf"(?m)^\| {re.escape(heading)} \|.*\n\| --- .*\n((?:\|.*\n)+)", text)
    return [row.split("|")[1].strip() for row in table[1].splitlines()]


def normalised(text: str) -> list[str]:
    """Lines without what differs from run to run, and without those of a log and of progress, which chance decides."""
    for pattern, name in (
        (r"https?://[\w.]+(:\d+)?", "PLATFORM"),
        (r"(?<=oken \.\.\.)\w{4}", "LAST"),
        (r"(?<=Job_ID: )\w+|(?<=Job )\w+(?= :)|(?<='id': ')\w+|(?<=/job_)\w+|\b[A-Za-z]{6}(?=  succeeded)", "ID"),
        (r"\S+@(rod\d)@\d{8}-\d{6}", r"USER@\1@TIME"),
        (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?", "TIME"),
        (r"(?<= in )/.*$", "FOLDER"),
        (r"\d+\.\d{3} MB", "SIZE"),
        (r"\b\d+ (s|min)\b", "SPAN"),
        (r" {2,}", "  "),
    ):
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    by_chance = r"\[TIME\]: .*|\.\.\.|Waiting\.{5}|- .*: \d+ % of .*"
    return [line for line in text.splitlines() if not re.fullmatch(by_chance, line)]


@pytest.fixture
def product(monkeypatch):
    """The folder of the README, ~/rescale: what a rehearsal needs, but for the library's steps of 5 s."""
    folder = Path.home() / "rescale"
    shutil.copytree(EXAMPLE, folder / "tests" / "example", ignore=shutil.ignore_patterns("__pycache__"))
    copy_scripts(folder)  # for its faster library
    for name in ("main.py", "tests/rescale_simulator.py"):
        shutil.copy(ROOT / name, folder / name)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def programs(monkeypatch):
    """Where a test puts programs that are found before others; `python` is the one of the tests."""
    folder = Path.home() / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)

    add("python", f'exec "{sys.executable}" "$@"')
    return add


@pytest.fixture
def shell(programs):
    """Run blocks as they stand in the README, without the waits between statuses; return what they print."""

    def run(*blocks, status=0, **variables):
        script = re.sub(r"(simulator\.py)(?! --speed)", r"\1 --speed 0", "set -e\n" + "".join(blocks))
        result = subprocess.run(
            ["sh", "-c", script], env={**os.environ, **variables}, timeout=60, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        assert "Traceback" not in result.stdout
        assert result.returncode == status, result.stdout
        return result.stdout

    return run


def helped(script: str) -> str:
    """What a script says of itself."""
    return subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, encoding="utf-8", timeout=60
    ).stdout


def with_access(sim):
    return {"RESCALE_API_URL": sim.url, "RESCALE_API_KEY": sim.token}


# The two commands, and the example


def test_the_test_command_installs_all_and_finds_these_tests():
    *_, install, command = marked("test command").strip().split("&&")
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("requirements*.txt") if ".venv" not in path.parts}
    assert set(re.findall(r"-r (\S+)", install)) == found
    result = subprocess.run(
        [sys.executable, *command.split()[1:], "-p", "no:cacheprovider", "--collect-only", Path(__file__).name],
        cwd=TESTS, capture_output=True, text=True, encoding="utf-8", timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_the_test_command_installs_all_and_finds_these_tests" in result.stdout


def test_the_first_rehearsal_prints_the_session_that_is_shown_and_leaves_the_temperatures(product, shell):
    *_, command = marked("rehearsal command").split("&&\n")
    printed = shell(command.replace(".venv/bin/", ""))
    assert normalised(marked("session")) == normalised(printed)
    (look,) = numbered(2)
    assert "temperature.svg" in shell(look).split()
    (profile,) = Path().glob("*@rod2@*/temperature.csv")
    assert profile_error(profile) < TOLERANCE


# A case of one's own


def test_every_line_of_the_case_of_ones_own_works(product, programs, shell, sim, monkeypatch):
    steps = re.search(r"(?s)## A case of one's own\n(.*?)\n## ", ENGLISH)[1]
    assert re.findall(r"(?m)^\d\. \[C(\d)\]", steps) == ["4", "5", "6", "7", "2"]
    (create,), (edits,), (rehearse,), (run,), (look,) = map(numbered, (4, 5, 6, 7, 2))
    activate = product / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={Path.home() / 'programs'}:$PATH\n", encoding="utf-8")
    shell(create)
    monkeypatch.chdir(Path.home() / "beam")
    main = Path("main.py").read_text(encoding="utf-8")
    for assignment in ast.parse(edits).body:
        new, name = ast.get_source_segment(edits, assignment), assignment.targets[0].id
        main, count = re.subn(rf"(?ms)^{name} = (?:\[$.*?^\]|[^\n]*)", lambda _, new=new: new, main)
        assert count == 1, name
    Path("main.py").write_text(main, encoding="utf-8")

    printed = shell(rehearse, look)
    assert "unknown to this rehearsal" not in printed
    assert {"static.odb", "restart.odb", "static.inp", "restart.inp"} < set(printed.split())

    programs("screen", "exit 0")
    programs("abaqus", 'echo result > "${1#job=}.odb"')
    printed = shell(run, look, **with_access(sim))
    assert {"static.odb", "restart.odb"} < set(printed.split())
    newest = max(Path().glob("*@restart@*/restart.odb"), key=lambda path: path.stat().st_mtime)
    assert newest.read_text(encoding="utf-8") == "result\n"
    assert "main.py" not in [path.name for path in newest.parent.iterdir()]
    first, _ = sim.jobs.values()
    assert list(sim.starts.values()) == [1, 1]
    analysis = first.data["jobanalyses"][0]
    assert analysis["userDefinedLicenseSettings"]["featureSets"][0]["features"] == [{"name": "abaqus", "count": 9}]


# Key, proxy, screen


def test_the_apiconfig_is_read_and_nobody_else_can_read_it_and_the_variables_go_before_it(shell, monkeypatch, capsys):
    create, content = numbered(3)
    shell(create)
    apiconfig = Path.home() / ".config" / "rescale" / "apiconfig"
    apiconfig.write_text(content, encoding="utf-8")
    assert stat.S_IMODE(apiconfig.stat().st_mode) == 0o600
    assert rescale.platform_my_token() == ("https://kr.rescale.com", f"Token {content.split()[-1]}")
    assert "Warning" not in capsys.readouterr().out
    url, key = (re.search(rf"`(RESCALE_\w+_{word})`", ENGLISH)[1] for word in ("URL", "KEY"))
    monkeypatch.setenv(url, "https://eu.rescale.com")
    monkeypatch.setenv(key, "ab" * 20)
    assert rescale.platform_my_token() == ("https://eu.rescale.com", f"Token {'ab' * 20}")


def test_the_variables_of_a_proxy_are_those_that_the_library_speaks_of():
    source = (ROOT / "rescale_rest_api.py").read_text(encoding="utf-8")
    exported = re.findall(r"export (\w+)=", numbered(12)[0])
    assert exported == ["HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"]
    assert [name for name in exported if name not in source] == []


def test_the_five_commands_of_screen_are_shown():
    shown = "".join(numbered(7) + numbered(8)).splitlines()
    assert {"screen -S beam", "screen -list", "screen -r beam", "screen -X -S beam quit"} <= set(shown)
    assert "Ctrl-A" in ENGLISH  # in both: below


# main.py


@pytest.mark.parametrize(
    ("text", "user", "admin"),
    [(ENGLISH, "user section", "admin section"), (KOREAN, "사용자 섹션", "관리자 섹션")],
    ids=["English", "Korean"],
)
def test_the_tables_explain_all_that_is_to_be_edited_in_main_py(text, user, admin):
    source = (ROOT / "main.py").read_text(encoding="utf-8")
    _, user_part, admin_part = re.split(r"(?m)^# ---- .*$", source)
    for heading, part in ((user, user_part), (admin, admin_part.partition("\n# -----")[0])):
        explained = re.findall(r"`(\w+)`", "\n".join(first_column(text, heading)))
        assert sorted(explained) == sorted(re.findall(r"(?m)^(\w+) = ", part))
    (formula,) = re.findall(r"math\.ceil\(.*?\)", source)
    assert formula.replace("core_per_slot", "cores") in text


@LANGUAGES
def test_the_table_of_options_has_those_of_main_py_and_its_exit_statuses(text):
    listed = helped("main.py")
    offered = re.findall(r"(?m)^  (--\w+(?: \[\w+\])?)", listed)
    shown = [option.strip("`") for option in first_column(text, "`python main.py`")]
    assert shown[0] == ""
    assert sorted(shown[1:]) == sorted(offered)
    statuses = re.search(r"Exit status: (\d)\D+(\d)\D+(\d)\D+(\d+)", listed).groups()
    assert re.search(r"\D+".join(rf"\b{status}\b" for status in statuses), " ".join(text.split()))


def test_a_failed_job_is_repeated_as_it_is_written(product, shell):
    fail, repeat, flaky = numbered(10)[0].splitlines(keepends=True)
    shell(fail, status=1)
    shell(repeat, flaky)
    jobs = json.loads(Path("run1/state.json").read_text(encoding="utf-8"))
    names = [job["name"].split("@")[1] for job in jobs["jobs"]]
    assert (names, list(jobs["starts"].values())) == (["rod1", "rod2", "rod2"], [1, 1, 1])
    assert len(list(Path().glob("*@rod2@*/rescale.tar.gz"))) == 2


def one_job_commands() -> list[str]:
    return numbered(9)[0].splitlines()


def test_all_commands_for_one_job_are_shown():
    offered = re.search(r"\{([\w,]+)\}", helped("rescale_rest_api.py"))[1].split(",")
    assert one_job_commands() == [f"python rescale_rest_api.py {command} JOB_ID" for command in offered]


@pytest.mark.parametrize("line", one_job_commands(), ids=lambda line: line.split()[2])
def test_a_command_for_one_job_works_as_it_is_written(line, product, shell, sim, access, set_up):
    stop = " stop " in line
    job_id = set_up(job_name="back", command="sleep 60\n" if stop else "echo right > result.txt\n")
    rescale.job_submit(*access, "back", job_id)
    job = sim.jobs[job_id]
    wait_until(lambda: job.is_running if stop else job.ended)
    expected = {
        "settings": "coretype_code = 'emerald'", "monitor": f"Job {job_id} : Completed",
        "download": "Total 1 files will be downloaded", "stop": f"Job {job_id} : stop requested",
    }
    assert expected[line.split()[2]] in shell(line.replace("JOB_ID", job_id), **with_access(sim))


@pytest.mark.parametrize("line", numbered(11)[0].splitlines(), ids=["mail", "curl"])
def test_a_message_is_sent_at_the_end_as_it_is_written(line, programs, shell, sim, monkeypatch):
    for name in ("mail", "curl"):
        programs(name, 'for word in "$@"; do echo "$word"; done > ~/sent.txt\ncat > ~/said.txt')
    folder = copy_scripts(Path.cwd() / "case", at_end=ast.literal_eval(line.partition(" = ")[2]),
                          batches=[("first", "echo one\n"), ("second", "false\n")])
    monkeypatch.chdir(folder)
    shell("python main.py\n", status=1, **with_access(sim))
    sent = (Path.home() / "sent.txt").read_text(encoding="utf-8").splitlines()
    if "curl" in line:
        (text,) = (json.loads(word)["text"] for word in sent if word.startswith("{"))
        assert sent[-1].startswith("https://")
    else:
        assert "second" in (Path.home() / "said.txt").read_text(encoding="utf-8")
        text = sent[1]
    assert re.fullmatch(r"\S+@first@\d{8}-\d{6} failed", text)


# What the text says


def test_the_table_of_functions_has_all_of_them_in_their_order():
    shown = re.findall(r"(?m)^\| (?:(\d) )?`(\w+)` \| \S.* \| \S.* \|$", COMMANDS)
    public = [
        name for name, thing in vars(rescale).items()
        if inspect.isfunction(thing) and thing.__module__ == rescale.__name__ and not name.startswith("_")
    ]
    public.remove("explain_slip")  # a hook for main.py, nobody calls it
    assert [name for _, name in shown] == public
    assert [number for number, _ in shown] == [*"12345678", *[""] * (len(public) - 8)]
    errors = re.findall(r"`(\w+(?:Error|Failed))`", ENGLISH)
    assert {getattr(rescale, name) for name in errors} == {rescale.RescaleError, rescale.JobFailed}


def test_the_contract_is_tried_with_options_that_it_has():
    offered = helped("tests/test_contract.py")
    named = [word for line in numbered(15)[1].splitlines() for word in line.split() if word.startswith("--")]
    assert "--spend" in named
    assert [option for option in named if option not in offered] == []


@LANGUAGES
def test_a_message_that_is_explained_is_one_of_the_code(text):
    heading = "message" if text is ENGLISH else "메시지"
    messages = [cell.strip("`") for cell in first_column(text, heading)]
    assert messages[:2] == ["Waiting.....", "..."]
    source = (ROOT / "rescale_rest_api.py").read_text(encoding="utf-8")
    assert [message for message in messages if message not in source] == []


def test_the_numbers_of_the_text_are_those_of_the_code():
    for value, english, korean in (
        (rescale.STATUS_INTERVAL, "every {} seconds, 20", "{}초마다 상태"),
        (rescale.LOG_INTERVAL, "of the log every {} seconds", "{}초마다 로그"),
        (rescale.LOG_LINES, "{} lines of the log", "로그 {}줄"),
        (rescale.QUIET_INTERVAL // 60, "every {} minutes a line", "{}분마다"),
        (rescale.PATIENCE // 60, "after {} minutes of faults", "문제가 {}분"),
        (rescale.THROTTLE_PATIENCE // 60, "{} minutes of \"too many", "응답은 {}분"),
        (rescale.SUBMIT_PATIENCE, "asked for {} seconds", "{}초 동안"),
        (rescale.AT_END_TIMEOUT // 60, "for {} minutes at most", "최대 {}분"),
        (rescale.VOLUME >> 20, "More than {} MB", "{} MB가 넘는"),
        (rescale.CONNECTIONS, "over {} connections", "{}개의 연결"),
        (rescale.__version__, "{} (`rescale.__version__`", "{} (`rescale.__version__`"),
    ):
        for text, phrase in ((ENGLISH, english), (KOREAN, korean)):
            assert re.search(rf"(?<!\d){re.escape(phrase.format(value))}", " ".join(text.split())), phrase


def test_the_files_that_are_named_are_what_a_chain_leaves(sim, shell, monkeypatch):
    monkeypatch.chdir(copy_scripts(Path.cwd() / "case", batches=[("first", "echo one\n"), ("second", "false\n")]))
    printed = shell("python main.py || true\n", **with_access(sim))
    job_id, second = sim.jobs
    shell(f"python rescale_rest_api.py download {second}\n", **with_access(sim))
    (folder,) = Path().glob("*@second@*/")
    assert sorted(path.name for path in folder.iterdir()) == ["process_output.log", rescale.FAILED_ARCHIVE]
    (log,) = Path().glob("*.log")
    assert re.fullmatch(r"\S+@first@\d{8}-\d{6}\.log", log.name)
    assert f"rescale_rest_api {rescale.__version__}" in log.read_text(encoding="utf-8").splitlines()[0]
    assert sim.requests[0].headers["User-Agent"] == f"rescale_rest_api/{rescale.__version__}"
    assert "FAILED (exit code 1)" in printed
    assert [path for path in paths_asked(sim, "POST") if path.endswith("/submit/")] == [
        f"jobs/{job_id}/submit/", f"jobs/{second}/submit/"]
    for name in (rescale.FAILED_ARCHIVE, rescale.LOG, "user@batch@STARTED_AT.log", ".job"):
        assert f"`{name}`" in ENGLISH
        assert f"`{name}`" in KOREAN


# The whole


def test_it_is_short():
    assert len(README.encode()) <= 30_000


def test_both_languages_cover_the_same_topics():
    english, korean = ([part.split("\n", 1) for part in re.split(r"(?m)^## ", text)[1:]] for text in (ENGLISH, KOREAN))
    assert len(english) == len(korean) > 10
    for (heading, one), (title, other) in zip(english, korean):
        for pattern in (r"\(#(\w+)\)", r"`([^`]+)`", r"(?m)^(\| |- |\d\. )"):  # links, code, rows and points
            assert sorted(set(re.findall(pattern, one))) == sorted(set(re.findall(pattern, other))), (heading, title)


def test_links_lead_somewhere_and_every_block_is_referred_to():
    prose = re.sub(r"(?ms)^```.*?^```$", "", README)
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.*)$", prose)
    }
    links = re.findall(r"\]\(([^)]*)\)", prose)
    assert links[:2] == ["#english", "#한국어"]
    assert [link for link in links if link[1:] not in anchors] == []
    blocks = {f"#{number.lower()}" for number in re.findall(r"(?m)^### (C\d+)$", COMMANDS)}
    assert blocks - set(links) == {"#c16"}  # the session, at which one looks


def test_every_file_of_ours_that_is_named_is_there():
    names = set(re.findall(r"(?<![\w/.])(?:~/rescale/)?((?:tests/)?[\w-]+\.(?:py|txt)|\.ci/run)\b", README))
    names -= {"rod.py"}  # of the example
    assert {"main.py", "rescale_rest_api.py", "tests/rescale_simulator.py", "tests/benchmark.py", ".ci/run"} <= names
    assert "requirements.txt" in marked("rehearsal command")
    assert [name for name in names if not (ROOT / name).exists()] == []
