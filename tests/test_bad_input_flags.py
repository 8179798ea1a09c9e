"""Wrong flags, wrong places to write to, and whole processes: one line, exit 2, and what was there stays as it was."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bad_input import LIMIT_S, SCENARIO, infeasible, misused, refused, run, unprivileged, write

ROOT = Path(__file__).resolve().parent.parent
SHOP = "cross-encoder-rerank"
ON_T4 = ("-H", "t4", "--today", "2026-11-22")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


FLAGS = {
    "--set without =": (("-s", "traffic.peak_rate"), "--set traffic.peak_rate: write it as path.to.key=value"),
    "--set without path": (("-s", "=3"), "--set =3: write it as path.to.key=value"),
    "--set with a hole": (("-s", "traffic..peak_rate=3"), "write it as path.to.key=value"),
    "--set of an unknown path": (
        ("-s", "traffic.peek=3"),
        "--set traffic.peek: unknown key 'traffic.peek'; known: arrivals",
    ),
    "--set of an unknown stage": (
        ("-s", "serving.stages.rerunk.dtype=int8"),
        "no entry 'rerunk'; did you mean rerank?",
    ),
    "--set of a stage beyond": (("-s", "serving.stages.7.dtype=int8"), "no entry '7'; known: rerank, tokenize"),
    "--set of a whole stage": (("-s", "serving.stages.rerank=3"), "rerank: expected a mapping of `key: value` lines"),
    "--set of one in a bare list": (("-s", "hardware.0=t4"), "the entries have no names; write the whole list: [a, b]"),
    "--set of a mapping": (("-s", "traffic=3"), "--set traffic: traffic: input should be a mapping"),
    "--set to nothing": (("-s", "traffic.peak_rate="), "traffic.peak_rate: expected a per second quantity"),
    "--set to less than nothing": (("-s", "traffic.peak_rate=-3"), "traffic.peak_rate: input should be greater than 0"),
    "--set to 10^4 digits": (("-s", f"traffic.peak_rate={'9' * 10_000}"), "is not a quantity"),
    "--set to an open bracket": (("-s", "hardware=[t4"), "--set hardware: not well-formed YAML"),
    "--set to what holds itself": (("-s", "hardware=&a [*a]"), "expands to more than 40 levels through aliases"),
    "an unknown seller": (
        ("-s", "pricing.provider=AVS"),
        "pricing.provider: unknown provider 'AVS'; did you mean AWS?",
    ),
    "an unknown region": (("-s", "pricing.region=us-est"), "pricing.region: unknown region 'us-est'; did you mean us-"),
    "--set to two lines": (("-s", "title=a\nid: b"), "--set title: write one value on one line"),
    "--set 60 levels deep": (("-s", f"{'a.' * 60}b=3"), "goes deeper than 40 levels"),
    "an unknown override": (("-o", "grwth"), "unknown override 'grwth'; did you mean growth?"),
    "an override that is a path": (("-o", "../growth"), "unknown override '../growth'"),
    "an empty override": (("-o", ""), "unknown override ''; known: "),
    "unknown hardware": (("-H", "t44"), "unknown hardware profile 't44'; did you mean t4?"),
    "empty hardware": (("-H", ""), "unknown hardware profile ''; known: a10, "),
    "hardware in no file": (("-H", "./t4.yaml"), "t4.yaml: no such file"),
    "an unknown calibration": (("-c", "l40"), "unknown calibration 'l40'; did you mean l40s-fused?"),
    "what all devices share": (("-c", "shared"), "unknown calibration 'shared'; known: "),
    "a calibration in no file": (("-c", "./mine.yaml"), "mine.yaml: no such file"),
    "a day in words": (("--today", "tomorrow"), "--today: 'tomorrow' is no date; write it as YYYY-MM-DD"),
    "a day that is not": (("--today", "2026-02-30"), "--today: '2026-02-30' is no date"),
    "an empty day": (("--today", ""), "--today: '' is no date"),
}


@pytest.mark.parametrize(("flags", "said"), FLAGS.values(), ids=FLAGS)
def test_a_wrong_flag_of_plan_is_refused(flags, said):
    refused("plan", SHOP, *flags, says=said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("plan", "cross-encoder-rerrank"),
            "unknown scenario 'cross-encoder-rerrank'; did you mean cross-encoder-rerank?",
        ),
        (("plan", ""), "unknown scenario ''; known: "),
        (("compare", SHOP), "nothing to compare: name at least one --override or --set"),
        (
            ("compare", SHOP, "-o", "growth", "--fail-over", "abc"),
            "--fail-over: 'abc' is not a quantity; write a fraction",
        ),
        (("compare", SHOP, "-o", "growth", "--fail-over", "5 GB"), "--fail-over: '5 GB' has no unit of fraction"),
        (("compare", SHOP, "-o", "growth", "--fail-over", "nan"), "--fail-over: 'nan' is not a quantity"),
        (
            ("report", SHOP, "--format", "docx"),
            "unknown format 'docx'; known: csv, focus, html, json, markdown, parquet",
        ),
        (("hardware", "show", "t44"), "unknown hardware profile 't44'; did you mean t4?"),
        (("hardware", "check", "t44"), "unknown hardware profile 't44'; did you mean t4?"),
        (("model", "show", "bert-bas"), "unknown model profile 'bert-bas'; did you mean bert-base"),
        (("schema", "scenarios"), "unknown kind 'scenarios'; did you mean scenario"),
        (("dashboard", "nowhere"), "unknown scenario 'nowhere'; known: "),
        (("validate", "t.csv", "--kind", "nonsense"), "unknown kind 'nonsense'; known: attention, collective, encoder"),
        (
            ("validate", "t.csv", "-k", "gemm", "--min-share", "2"),
            "--min-share: 2 is out of range; write at least 0% and",
        ),
        (("validate", "t.csv", "-k", "gemm", "--min-share", "most"), "--min-share: 'most' is not a quantity"),
        (
            ("validate", "t.csv", "-k", "gemm", "--max-median-error=-1"),
            "--max-median-error: -1 is out of range; write at le",
        ),
        (("calibrate", "--from", "t.csv", "-H", "t4"), "1 --from tables need as many --kind, got 0"),
        (("calibrate", "--from", "t.csv", "--kind", "gemm"), "--from needs --hardware ID"),
        (("calibrate", "--from", "t.csv", "--kind", "nonsense", "-H", "t4"), "unknown kind 'nonsense'; known: "),
        (("calibrate", "--from", "t.csv", "--kind", "gemm", "-H", "t4", "--engine", "warp"), "unknown engine 'warp'"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, said):
    refused(*arguments, says=said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dashboard", "--port", "0"), "'--port': Input should be greater than or equal to 1"),
        (("dashboard", "--port", "65536"), "'--port': Input should be less than or equal to 65535"),
        (("calibrate", "--threads", "0"), "'--threads': Input should be greater than or equal to 1"),
        (("calibrate", "--threads", "many"), "'--threads': Input should be a valid integer"),
        (("model", "show", "gpt2", "--tokens", "0"), "'--tokens': Input should be greater than or equal to 1"),
        (("plan", SHOP, "--hardwear", "t4"), "No such option: --hardwear"),
        (("plan", SHOP, "-H"), "Option '-H' requires an argument"),
        (("plan", SHOP, "twice"), "unexpected extra argument"),
        (("validate", "t.csv"), "Missing option '--kind'"),
        (("planet",), "No such command 'planet'"),
        (("report", SHOP, "-O", "a\0b"), "'--output' / '-O': Value error, embedded null byte"),
    ],
)
def test_a_misuse_of_the_command_line_is_refused(arguments, said):
    misused(*arguments, says=said)


def test_a_limit_that_is_exceeded_is_no_bad_input():
    result = run("compare", SHOP, *ON_T4, "-o", "growth", "--fail-over", "1%")
    assert result.code == 1
    assert result.err.startswith("gate failed: the cost of the best option rises by ")


# Places to write to


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (".", ".: is a folder; name a file in it"),
        ("kept.md/report.md", "kept.md/report.md: cannot be written: a file stands where its folder should be"),
        ("/proc/nowhere/report.md", "/proc/nowhere/report.md: cannot be written: "),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(output, said):
    kept = write("kept.md", "keep me")
    refused("report", SHOP, *ON_T4, "-O", output, says=said)
    assert kept.read_bytes() == b"keep me"


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", SHOP, "-f", "docx"),
        ("report", SHOP, "-H", "t44"),
        ("report", SHOP, "-s", "traffic.peak_rate=-1"),
        ("report", "./nowhere.yaml"),
        ("validate", "nowhere.csv", "-k", "gemm"),
    ],
)
def test_an_output_that_exists_stays_as_it_was_when_the_command_fails(arguments):
    kept = write("kept.md", "keep me")
    assert run(*arguments, "-O", kept).code == 2
    assert kept.read_bytes() == b"keep me"
    assert os.listdir() == ["kept.md"]


@pytest.fixture
def public_folder(monkeypatch):
    """Work in a folder that others may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        monkeypatch.chdir(folder)
        yield
        monkeypatch.undo()


@pytest.mark.usefixtures("public_folder")
def test_a_folder_or_file_without_permission_is_refused():
    assert run("schema", "scenario").code == 0  # all that is imported, is now
    locked = write("locked/kept.json", "keep me").parent
    write("secret.yaml", SCENARIO).chmod(0)
    locked.chmod(0o555)
    with unprivileged():
        refused("plan", "./secret.yaml", says="secret.yaml: cannot be read: Permission denied")
        refused("schema", "scenario", "-O", "locked", says="locked/scenario.json: cannot be written: Permission denied")
    locked.chmod(0o755)
    assert [path.name for path in locked.iterdir()] == ["kept.json"]


@pytest.mark.usefixtures("public_folder")
def test_a_read_only_file_is_not_replaced():
    target = write("scenario.json", "keep me")
    target.chmod(0o444)
    with unprivileged():
        refused("schema", "scenario", "-O", ".", says="scenario.json: cannot be written: Permission denied")
    assert target.read_bytes() == b"keep me"


def test_writing_keeps_permissions_and_follows_links():
    private = write("private.md", "old")
    private.chmod(0o600)
    Path("link.md").symlink_to("private.md")
    assert run("report", SHOP, *ON_T4, "-O", "link.md").code == 0
    assert Path("link.md").is_symlink()
    assert private.read_text() != "old"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert run("report", SHOP, *ON_T4, "-O", "made/on/the/way.md").code == 0


def test_a_pipe_or_a_device_is_written_to_and_never_replaced_by_a_file():
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("report", SHOP, *ON_T4, "-O", "pipe").code == 0
        assert os.read(reader, 1 << 16).startswith(b"## Rerank")
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


# Whole processes: no traceback, bounded in time and memory


def process(*arguments: str, stdin: bytes = b"", stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """Run the real command with at most 4 GiB of address space."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "capacity", *arguments], input=stdin, stdout=stdout, stderr=subprocess.PIPE,
        env=environment, preexec_fn=limited, timeout=LIMIT_S, check=False,
    )  # fmt: skip


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("plan", "cross-encoder-rerrank"), b"", b"did you mean cross-encoder-rerank?"),
        (("plan", "/dev/stdin"), BOMB.encode(), b"values through aliases"),
        (("plan", "/dev/stdin"), b"[" * 100_000, b"nested deeper than 40 levels"),
        (("plan", "/dev/stdin"), bytes(range(256)), b"is not UTF-8 text"),
        (("plan", "/dev/stdin"), b"9" * 5_000_000, b"is larger than 4,000,000 bytes"),
        (("validate", "nowhere.parquet", "--kind", "gemm"), b"", b"nowhere.parquet: no such file"),
    ],
)
def test_a_process_refuses_in_one_line(arguments, stdin, said):
    done = process(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize(("old", "new"), [("30/s", "1e12/s"), ("items: 1 M", "items: 1e15")])
def test_a_process_answers_the_infeasible_within_time_and_memory(old, new):
    done = process("plan", "/dev/stdin", stdin=SCENARIO.replace(old, new).encode())
    assert done.returncode == 1
    assert b"no option is feasible" in done.stdout
    assert done.stderr == b""


def test_a_process_on_a_full_disk_says_so():
    with Path("/dev/full").open("wb") as full:
        done = process("schema", "scenario", stdout=full.fileno())
    assert done.returncode == 2
    assert done.stderr == b"error: the output cannot be written: no space left on the device\n"


def test_the_small_scenario_itself_is_fine():
    assert run("plan", write("shop.yaml", SCENARIO)).code == 0
    infeasible("plan", "./shop.yaml", "-s", "objective.latency=1 ms", says="no option is feasible")
