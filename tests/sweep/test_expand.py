"""A sweep's document: what it expands to, what its filter keeps, and what is refused with one clear error."""

import json
from pathlib import Path

import pytest

from cli.conftest import Refused, Shell
from overspan.catalog import inventories
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.point import Point
from overspan.schema.sweep import Range
from overspan.schema.yamlio import dump
from overspan.sweep.expand import matrix_of
from overspan.sweep.only import chosen

SWEEP = """name: mine
base: smollm2-135m
scenarios:
  short: {isl: 32, osl: 8}
  long: {isl: 256, osl: 16}
load: {requests_per_user: 2, warmup_per_user: 0}
points:
  - topology: TP1
    concurrency_range: {start: 1, end: 6}
  - topology: PP2
    concurrency: [4]
    scenarios: [short]
"""
LAPTOP = ["--on", "laptop"]


def a_sweep(folder: Path, text: str = SWEEP, **replaced: str) -> Path:
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    file = folder / "sweep.yaml"
    file.write_text(text)
    return file


def points_of(folder: Path, text: str = SWEEP) -> list[Point]:
    return matrix_of(str(a_sweep(folder, text)), "laptop", to_start=False).points


def test_every_entry_in_every_scenario(tmp_path: Path) -> None:
    points = points_of(tmp_path)
    assert [point.id for point in points] == [
        *(f"short/tp1/c{users}" for users in (1, 2, 4, 6)),
        *(f"long/tp1/c{users}" for users in (1, 2, 4, 6)),
        "short/pp2/c4",
    ]
    assert points[0].requests == 2
    assert points[3].requests == 12
    assert {point.deployment for point in points} == {"tp1", "pp2"}
    assert (points[0].estimate.tpot_ms or 0) > 0


def test_ranges_double_and_keep_their_end() -> None:
    assert Range(start=4, end=100).values() == [4, 8, 16, 32, 64, 100]
    assert Range(start=4, end=128).values() == [4, 8, 16, 32, 64, 128]
    assert Range(start=4, end=5).values() == [4, 5]
    assert Range(start=4, end=4).values() == [4]


def test_the_hash_follows_what_runs_and_not_prose(tmp_path: Path) -> None:
    first = points_of(tmp_path)[0].recipe_hash
    assert points_of(tmp_path, SWEEP + "description: other words\n")[0].recipe_hash == first
    for change in ("overrides: {engine_args: {max_model_len: 1024}}\n", "context_margin: 64\n"):
        assert points_of(tmp_path, SWEEP + change)[0].recipe_hash != first
    longer = SWEEP.replace("osl: 8", "osl: 9")
    assert points_of(tmp_path, longer)[0].recipe_hash != first


def test_a_context_per_scenario_makes_a_deployment_each(tmp_path: Path) -> None:
    points = points_of(tmp_path, SWEEP + "context_margin: 16\n")
    assert {point.deployment for point in points} == {"short-tp1", "long-tp1", "pp2"}
    assert {point.roles["aggregated"].engine_args["max_model_len"] for point in points} == {56, 288}


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        (None, 9),
        ("tp1*", 8),
        ("pp2", 1),
        ("tp1,pp*", 9),
        ("TP1,conc<=2", 4),
        ("conc>=4,isl=32", 3),
        ("long/*,conc!=1", 3),
        ("short", 5),
        ("concurrency==6", 2),
        ("mine/short/tp1/c1,mine/long/tp1/c2,other/short/tp1/c4", 2),
    ],
)
def test_filters(tmp_path: Path, only: str | None, kept: int) -> None:
    assert len(chosen(points_of(tmp_path), only)) == kept


@pytest.mark.parametrize("only", ["tp9", "conc<=", "users<4", "conc<0", "", "tp1,,pp2", "conc=<4"])
def test_filters_that_say_nothing(tmp_path: Path, only: str) -> None:
    with pytest.raises(InputError, match="--only"):
        chosen(points_of(tmp_path), only)


def test_decode_layouts_and_names_are_what_patterns_mean() -> None:
    points = matrix_of("m3-gb200-1k1k", None, to_start=False).points
    assert {point.topology for point in chosen(points, "tp4*,conc<=64")} == {"1P1D DEP4->TP4"}
    assert {point.name for point in chosen(points, "*marlin")} == {"marlin"}
    assert len(chosen(points, "2p*d dep4->*")) == 4
    assert {point.topology for point in chosen(points, "dep8")} == {"2P1D DEP4->DEP8"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("concurrency: [4]", "concurrency: []", "holds no concurrency"),
        ("concurrency: [4]", "concurrency: [4, 8, 4]", "4 appears twice: a duplicate point"),
        ("concurrency: [4]", "concurrency: [4]\n    concurrency_range: {start: 1, end: 2}", "not both"),
        ("    concurrency: [4]\n", "", "one of them"),
        ("concurrency: [4]", "concurrency: [0]", "0 is not a number of users"),
        ("end: 6", "end: 0", "end"),
        ("start: 1", "start: 7", "below its start 7"),
        ("topology: PP2", "topology: PPP2", "line 10"),
        ("topology: PP2", "topology: 1P2D PP2", "1P2D"),
        ("[short]", "[shrt]", "unknown scenario 'shrt'; this sweep has short, long"),
        ("topology: PP2", "topology: TP1\n    name: ''", "duplicate point short/tp1/c4"),
        ("scenarios: [short]", "scenarios: []", "scenarios"),
        ("topology: PP2", "topology: PP2\n    nodes: {aggregated: -3}", "nodes.aggregated"),
        ("requests_per_user: 2", "timeout_s: .inf", "timeout_s"),
        ("scenarios: [short]", "overides: {}", "did you mean overrides"),
        ("base: smollm2-135m", "base: smollm2-135", "did you mean smollm2-135m"),
        ("requests_per_user: 2", "requests_per_user: 0", "requests_per_user"),
        ("osl: 8", "osl: -8", "osl"),
        ("points:", "pointss:", "'points' is required"),
        ("name: mine", "name: mine\nname: yours", "appears twice"),
        ("topology: PP2", "topology: PP2\n    nodes: {decode: 1}", "has no decode workers"),
        ("topology: PP2", "topology: PP2\n    load: {users: 3}", "unknown key 'points.1.load.users'"),
        ("topology: PP2", "topology: PP2\n    overrides: {engine_args: {max_model_length: 3}}", "max_model_len"),
        ("topology: PP2", "topology: PP2\n    overrides: {engine_args: {tensor_parallel_size: 2}}", "layout.tp"),
        ("topology: PP2", "topology: PP2\n    overrides: {env: {HF_TOKEN: abc}}", "HF_TOKEN"),
        ("topology: PP2", "topology: PP2\n    overrides: {variant: fast}", "unknown variant 'fast'"),
    ],
)  # fmt: skip
def test_a_wrong_document(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        points_of(tmp_path, SWEEP.replace(old, new, 1))
    assert said in f"{error.value.what} {error.value.next}"


def test_everything_that_cannot_run_is_told_at_once(tmp_path: Path) -> None:
    text = SWEEP.replace("topology: PP2", "topology: TP2").replace("osl: 16", "osl: 4000")
    with pytest.raises(PlanRefused) as error:
        points_of(tmp_path, text + "constraints: {max_nodes: 1}\n")
    assert any("9 attention heads" in reason for reason in error.value.reasons)
    assert any(
        "max_model_len 2048 is shorter than a request of 4256 tokens" in reason for reason in error.value.reasons
    )


def test_constraints_hold_every_point(tmp_path: Path) -> None:
    text = SWEEP.replace("smollm2-135m", "minimax-m2.5-fp8").replace("TP1", "TEP4").replace("PP2", "TEP8")
    file = a_sweep(tmp_path, text + "constraints: {max_gpus: 4}\n")
    with pytest.raises(PlanRefused) as error:
        matrix_of(str(file), "b200-x8", to_start=False)
    assert error.value.reasons == ["short/tep8: needs 8 GPUs; the sweep's constraints allow 4"]


def test_machines_that_stand_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(dump(inventories.find("laptop").with_(name="two")))
    file = a_sweep(tmp_path, SWEEP + "inventory: two.yaml\n")
    assert matrix_of(str(file), None, to_start=False).inventory.name == "two"


def test_a_filter_leaves_out_what_cannot_run(shell: Shell, tmp_path: Path) -> None:
    file = a_sweep(tmp_path, SWEEP + "  - {topology: TP7, concurrency: [64]}\n")
    for only, code in (("tp1", 0), ("conc<=2", 0), ("tp7", 2), ("conc>2", 2), ("nodes>0", 2)):
        done = shell.run("sweep", str(file), *LAPTOP, "--dry-run", "--json", "--only", only)
        assert done.returncode == code, (only, done.stderr)
        assert ("tp7:" in done.stderr) == (code == 2), (only, done.stderr)


def test_deployments_that_differ_by_their_overrides_alone_are_told_apart(tmp_path: Path) -> None:
    other = "{topology: TP1, concurrency: [9], overrides: {engine_args: {max_num_seqs: 7}}}"
    points = points_of(tmp_path, SWEEP + f"  - {other}\n")
    of_nine = {point.deployment for point in points if point.concurrency == 9}
    assert not of_nine & {point.deployment for point in points if point.concurrency != 9}


def test_dry_run_as_a_user_calls_it(shell: Shell, tmp_path: Path) -> None:
    file = a_sweep(tmp_path)
    done = shell.run("sweep", str(file), *LAPTOP, "--dry-run", "--json", "--only", "conc<=2")
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert [point["id"] for point in points] == ["short/tp1/c1", "short/tp1/c2", "long/tp1/c1", "long/tp1/c2"]
    assert {"topology", "concurrency", "nodes", "gpus_used", "gpus_reserved", "roles"} <= points[0].keys()
    assert "serve" in points[0]["commands"][0]["command"]
    shown = shell.run("sweep", str(file), *LAPTOP, "--dry-run")
    assert shown.stdout.count(" serve ") == 2
    assert shell.runs() == []


def test_dry_run_prints_where_each_role_is_and_its_environment(shell: Shell) -> None:
    shown = shell.run("sweep", "m3-gb200-1k1k", "--dry-run", "--only", "marlin")
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("# decode:")]
    assert line.startswith("# decode: 1 x TP4, 4 GPUs on gb200-02; environment ")
    assert {"UCX_TLS=cuda_copy,cuda_ipc,tcp", "VLLM_ENGINE_READY_TIMEOUT_S=3600"} <= set(line.split())


def test_an_impossible_sweep_is_refused_before_anything_starts(refused: Refused, tmp_path: Path) -> None:
    file = a_sweep(tmp_path, SWEEP.replace("topology: PP2", "topology: TP2"))
    assert "9 attention heads" in refused("sweep", str(file), *LAPTOP, "--dry-run")
    assert "9 attention heads" in refused("sweep", str(file), *LAPTOP)


def test_without_a_slurm_nothing_begins(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    error = refused("sweep", "m3-gb200-1k1k", "--only", "marlin")
    assert "gb200-nvl72: Slurm does not answer on this machine" in error
    assert "--dry-run" in error


def test_an_unknown_sweep(refused: Refused) -> None:
    assert "m3-gb200-1k1k" in refused("sweep", "m3-gb200-1k", "--dry-run")
