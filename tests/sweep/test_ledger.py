"""The ledger's gate, in a real git repository: history, changes without an entry, and results without a recipe."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from cli.conftest import Shell
from overspan.schema.point import PointResult
from overspan.schema.workload import BenchPoint
from overspan.sweep.expand import matrix_of
from overspan.sweep.folder import read_results
from overspan.sweep.results import derive

SWEEP = """name: tiny
base: smollm2-135m
inventory: laptop
scenarios: {s: {isl: 8, osl: 4}}
points:
  - {topology: TP1, concurrency: [1, 2]}
"""
FIRST: dict[str, object] = {
    "date": "2026-11-22",
    "what": "the first ladder",
    "why": "a start",
    "points": ["tiny/*"],
    "link": "issue 5",
}


class Repository:
    def __init__(self, folder: Path, shell: Shell) -> None:
        self.folder, self.shell = folder, shell
        (folder / "sweeps").mkdir()
        (folder / "results").mkdir()
        self.git("init", "-q")
        self.sweep(SWEEP)
        self.entries(FIRST)
        self.result("tiny.jsonl", 0)
        self.commit()

    def git(self, *arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")

    def sweep(self, text: str) -> None:
        (self.folder / "sweeps" / "tiny.yaml").write_text(text)

    def entries(self, *entries: dict[str, object]) -> None:
        (self.folder / "ledger.yaml").write_text(yaml.safe_dump({"entries": list(entries)}))

    def result(self, file: str, index: int, recipe_hash: str | None = None) -> None:
        point = matrix_of(str(self.folder / "sweeps" / "tiny.yaml"), None, to_start=False).points[index]
        point = point.with_(recipe_hash=recipe_hash or point.recipe_hash)
        now = datetime.now(UTC).isoformat()
        result = PointResult(point=point, state="ok", started_at=now, ended_at=now, overspan_version="0")
        with (self.folder / "results" / file).open("a") as lines:
            lines.write(result.model_dump_json() + "\n")

    def check(self, base: str = "HEAD") -> list[str]:
        done = self.shell.run("ledger", "check", "--base", base, "--folder", str(self.folder), "--json")
        assert done.returncode in (0, 1), done.stderr
        found = json.loads(done.stdout)
        assert found["ok"] == (done.returncode == 0)
        problems: list[str] = found["problems"]
        return problems


@pytest.fixture
def repository(shell: Shell, tmp_path: Path) -> Repository:
    folder = tmp_path / "repository"
    folder.mkdir()
    return Repository(folder, shell)


MORE: dict[str, object] = {**FIRST, "what": "four users more", "adds_only": True, "points": ["tiny/s/tp1/c4"]}
OTHER: dict[str, object] = {**FIRST, "what": "shorter context", "points": ["tiny/s/tp1/c*"]}


def test_added_points_and_their_results_pass(repository: Repository) -> None:
    assert repository.check() == []
    repository.sweep(SWEEP.replace("[1, 2]", "[1, 2, 4]"))
    repository.entries(FIRST, MORE)
    repository.result("tiny.jsonl", 2)
    assert repository.check() == []
    done = repository.shell.run("ledger", "points", "--base", "HEAD", "--folder", str(repository.folder))
    assert done.stdout.split() == ["tiny/s/tp1/c4"]


def test_a_recipe_may_change_where_an_entry_says_so_and_results_follow(repository: Repository) -> None:
    repository.sweep(SWEEP + "overrides: {engine_args: {max_model_len: 64}}\n")
    repository.entries(FIRST, OTHER)
    (problem,) = repository.check()
    assert "line 1: the result of tiny/s/tp1/c1 was made with recipe" in problem
    repository.result("tiny.jsonl", 0)
    assert repository.check() == []


def rewrite(repository: Repository) -> None:
    repository.entries({**FIRST, "why": "another reason"})


def drop(repository: Repository) -> None:
    repository.entries()


def unnamed(repository: Repository) -> None:
    repository.sweep(SWEEP.replace("[1, 2]", "[1, 2, 4]"))


def altered(repository: Repository) -> None:
    repository.sweep(SWEEP.replace("[1, 2]", "[1, 2, 4]") + "overrides: {engine_args: {max_model_len: 64}}\n")
    repository.entries(FIRST, {**MORE, "points": ["tiny/*"]})


def image(repository: Repository) -> None:
    repository.sweep(SWEEP + "overrides: {image: 'vllm/vllm-openai:v0.99.0'}\n")
    repository.entries(FIRST, {**MORE, "points": ["tiny/*"]})


def removed(repository: Repository) -> None:
    repository.sweep(SWEEP.replace("[1, 2]", "[1]"))


def foreign(repository: Repository) -> None:
    repository.result("tiny.jsonl", 1, recipe_hash="0" * 16)


def forgotten(repository: Repository) -> None:
    (repository.folder / "results" / "tiny.jsonl").write_text("")


def damaged(repository: Repository) -> None:
    with (repository.folder / "results" / "tiny.jsonl").open("a") as lines:
        lines.write('{"point": 1}\n')


def shadowed(repository: Repository) -> None:
    (repository.folder / "sweeps" / "zz.yaml").write_text(SWEEP)


def unended(repository: Repository) -> None:
    with (repository.folder / "results" / "tiny.jsonl").open("a") as lines:
        lines.write("GARBAGE")


def forge(repository: Repository, **changes: object) -> None:
    (last,) = read_results(repository.folder / "results" / "tiny.jsonl")
    forged = last.with_(point=last.point.with_(**changes))
    with (repository.folder / "results" / "tiny.jsonl").open("a") as lines:
        lines.write(forged.model_dump_json() + "\n")


def other_users(repository: Repository) -> None:
    forge(repository, concurrency=64)


def other_image(repository: Repository) -> None:
    forge(repository, image="somebody/else:1")


def better_numbers(repository: Repository) -> None:
    (last,) = read_results(repository.folder / "results" / "tiny.jsonl")
    measured = BenchPoint.model_validate(
        {"concurrency": 1, "requests": {"planned": 10, "ok": 10, "failed": 0}, "output_tokens_per_s": 8.0}
        | {name: {} for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")}
    )
    derived = derive(last.point, measured)
    honest = last.with_(measured=measured, derived=derived)
    better = honest.with_(derived=derived.with_(per_gpu={"output": 99999.0}))
    with (repository.folder / "results" / "tiny.jsonl").open("a") as lines:
        lines.write(honest.model_dump_json() + "\n")
        lines.flush()
        assert repository.check() == []
        lines.write(better.model_dump_json() + "\n")


def nowhere(repository: Repository) -> None:
    repository.entries(FIRST, {**MORE, "points": ["tinny/*"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewrite, "entry 1 (2026-11-22: the first ladder) was changed"),
        (drop, "entry 1 (2026-11-22: the first ladder) is gone"),
        (unnamed, "tiny/s/tp1/c4 is new, and no entry that was added names it"),
        (altered, "has another recipe, and the entry 'four users more' says that it only adds points"),
        (image, "has another image (None -> vllm/vllm-openai:v0.99.0)"),
        (removed, "tiny/s/tp1/c2 is gone, and no entry that was added says so"),
        (foreign, "was made with recipe 0000000000000000; planned is"),
        (forgotten, "results that were there are changed or gone"),
        (damaged, "line 2 is no result"),
        (shadowed, "tiny/s/tp1/c1 is planned by two files"),
        (unended, "tiny.jsonl: its last line has no end"),
        (other_users, "line 2: the result of s/tp1/c1 says concurrency 64; planned is 1"),
        (other_image, "says image somebody/else:1; planned is None"),
        (better_numbers, "says per_gpu {'output': 99999.0}; what was measured gives"),
        (nowhere, "names 'tinny/*', which is no point"),
    ],
)
def test_what_the_gate_stops(repository: Repository, change: Callable[[Repository], None], said: str) -> None:
    change(repository)
    problems = repository.check()
    assert any(said in problem for problem in problems), problems


def test_attributes_of_the_repository_hide_nothing_and_change_nothing(repository: Repository) -> None:
    (repository.folder / ".gitattributes").write_text(
        "ledger.yaml export-ignore\nresults/* export-ignore\n*.jsonl text eol=crlf\n"
    )
    repository.commit()
    results = repository.folder / "results" / "tiny.jsonl"
    results.unlink()
    repository.git("checkout", "--", str(results))
    assert results.read_bytes().endswith(b"\r\n")
    assert repository.check() == []
    rewrite(repository)
    forgotten(repository)
    problems = repository.check()
    assert any("was changed" in problem for problem in problems)
    assert any("changed or gone" in problem for problem in problems)


def test_bad_input(repository: Repository, tmp_path: Path) -> None:
    done = repository.shell.run("ledger", "check", "--base", "no-such", "--folder", str(repository.folder))
    assert (done.returncode, "git does not know the revision 'no-such'" in done.stderr) == (2, True)
    done = repository.shell.run("ledger", "check", "--base", "HEAD", "--folder", str(tmp_path / "cache"))
    assert (done.returncode, "is not in a git repository" in done.stderr, "--folder" in done.stderr) == (2, True, True)
    (repository.folder / "ledger.yaml").write_text("entries:\n  - {what: x}\n")
    done = repository.shell.run("ledger", "check", "--base", "HEAD", "--folder", str(repository.folder))
    assert (done.returncode, "line 2" in done.stderr) == (2, True)


def test_results_are_read_back_as_they_were_written(repository: Repository) -> None:
    (result,) = read_results(repository.folder / "results" / "tiny.jsonl")
    assert result.point.id == "s/tp1/c1"
