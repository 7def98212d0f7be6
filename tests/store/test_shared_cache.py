"""A cache that accounts of one machine share: modes follow its folder, and locks hold between accounts."""

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspan.provision import plugin
from overspan.store.files import usual_modes, write_cached
from overspan.store.locks import held, quiet
from overspan.store.run_folder import RunFolder


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o2775, 0o775, 0o755])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(request.param)
    return folder


def test_what_is_made_under_a_lock_is_the_groups_where_the_folder_is_set_so(cache: Path) -> None:
    shared = mode(cache) == 0o2775
    lock = cache / "engines" / ".locks" / "cpu.lock"
    with held(lock, doing="trying", say=quiet):
        (cache / "engines" / "made").mkdir()
        (cache / "engines" / "made" / "file").write_text("")
        subprocess.run(["sh", "-c", 'echo >"$0"/by-a-child', cache / "engines" / "made"], check=True)
    write_cached(cache / "engine_flags" / "vllm-1.json", "{}")
    for folder in (lock.parent, cache / "engines", cache / "engines" / "made", cache / "engine_flags"):
        assert mode(folder) == (0o2775 if shared else 0o755), folder
    for file in (lock, cache / "engines" / "made" / "file", cache / "engines" / "made" / "by-a-child"):
        assert mode(file) == (0o664 if shared else 0o644), file
    assert os.umask(0o022) == 0o022  # as it was
    run = RunFolder.create("private")
    assert mode(run.path) == 0o700


def test_weights_and_the_plugin_are_for_every_account_that_the_umask_allows(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir(mode=0o700)
    (model / "model.safetensors").touch(mode=0o600)
    (model / "run").touch(mode=0o700)
    usual_modes(model)
    assert [mode(model), mode(model / "model.safetensors"), mode(model / "run")] == [0o755, 0o644, 0o755]
    site = tmp_path / "site"
    site.mkdir()
    os.umask(0o002)
    plugin.place(site)
    modes = {mode(path) for path in site.rglob("*")}
    assert modes == {0o775, 0o664}


_OF_ANOTHER = """
import os, sys, time
from pathlib import Path
from overspan.store.locks import held
os.setgid(65534); os.setuid(65534)
with held(Path(sys.argv[1]), doing="trying", say=lambda text: print(text, flush=True)):
    print("has it", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_a_lock_that_another_account_made_holds_for_both() -> None:
    with tempfile.TemporaryDirectory() as place:  # not below pytest's own, which is closed to others
        Path(place).chmod(0o755)
        _both_hold(Path(place) / "locks" / "cpu.lock")


def _both_hold(lock: Path) -> None:
    with held(lock, doing="making it", say=quiet):
        assert mode(lock) == 0o644
    argv = [sys.executable, "-c", _OF_ANOTHER, str(lock)]
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.pwrite(descriptor, b"process 7, which is installing", 0)
    other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "waiting for process 7, which is installing\n"
    os.close(descriptor)
    assert other.stdout.readline() == "has it\n"
    descriptor = os.open(lock, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    other.communicate("")
    assert other.returncode == 0
