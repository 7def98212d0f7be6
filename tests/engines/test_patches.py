"""Setup patches: made once, in the right place, or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from overspan.engines import patches
from overspan.schema.recipe import Patch

BODY = "def top_k():\n    return indices\n\n\ndef other():\n    return indices2\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "myengine").mkdir()
    (tmp_path / "myengine" / "__init__.py").write_text("")
    (tmp_path / "myengine" / "ops.py").write_text(BODY)
    info = tmp_path / "myengine-0.32.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: myengine\nVersion: 0.32.1+cpu\n")
    return tmp_path


def patch(**fields: str) -> Patch:
    given = {
        "name": "contiguous",
        "file": "myengine/ops.py",
        "anchor": "    return indices\n",
        "replacement": "    return indices.contiguous()\n",
        "source": "a test",
    }
    return Patch.model_validate({**given, **fields})


def run(package: Path, *those: Patch, program: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    argv = [word for word in patches.apply(sys.executable, those) if word != "-I"]
    return subprocess.run(
        [*argv, *(program or [])], env={"PYTHONPATH": str(package)}, capture_output=True, text=True, check=False
    )


def text(package: Path) -> str:
    return (package / "myengine" / "ops.py").read_text()


def test_applied_once_and_the_second_time_changes_nothing(package: Path) -> None:
    assert run(package, patch()).returncode == 0
    assert text(package) == BODY.replace("return indices\n", "return indices.contiguous()\n")
    before = (package / "myengine" / "ops.py").stat()
    again = run(package, patch())
    assert (again.returncode, again.stderr) == (0, "")
    assert (package / "myengine" / "ops.py").stat().st_ino == before.st_ino


def test_a_replacement_that_holds_its_anchor_is_made_once(package: Path) -> None:
    grows = patch(replacement="    check()\n    return indices\n")
    for _ in range(2):
        assert run(package, grows).returncode == 0
    assert text(package).count("check()") == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"anchor": "nowhere"}, "its anchor is missing in"),
        ({"anchor": "return "}, "its anchor stands 2 times, so its place is not certain in"),
        ({"file": "myengine/absent.py"}, "there is no file"),
        ({"file": "absent/ops.py"}, "package absent is not installed here"),
    ],
)
def test_a_patch_that_cannot_be_made_changes_nothing_and_starts_nothing(
    package: Path, fields: dict[str, str], said: str
) -> None:
    done = run(
        package,
        patch(),
        patch(name="second", replacement="other text", **fields),
        program=["touch", str(package / "started")],
    )
    assert done.returncode != 0
    assert f"overspan: patch second: {said}" in done.stderr
    assert text(package) == BODY
    assert not (package / "started").exists()


@pytest.mark.parametrize(
    ("versions", "made"), [("", True), (">=0.32,<0.33", True), ("==0.32.1", True), (">=0.33", False), ("<0.32", False)]
)
def test_only_for_its_versions(package: Path, versions: str, made: bool) -> None:
    done = run(package, patch(versions=versions), program=["touch", str(package / "started")])
    assert done.returncode == 0, done.stderr
    assert ("contiguous" in text(package)) is made
    assert (package / "started").exists()


@pytest.mark.parametrize("file", ["../etc/passwd", "/etc/passwd", "myengine/../x.py", "ops.py"])
def test_a_file_is_one_of_a_package(file: str) -> None:
    with pytest.raises(ValueError, match="file"):
        patch(file=file)
