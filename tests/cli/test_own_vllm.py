"""A vLLM that the user installed, as `overspan up` starts it: our plugin comes along, and nothing of it stays."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from cli.conftest import Shell
from overspan.provision import plugin
from overspan.store.run_folder import RunFolder
from support import fake_engine
from support.fake_env import make_environment
from support.waiting import until

VLLM = """#!{python}
import multiprocessing, os, sys, threading, time
sys.path[:0] = [{site!r}, {support!r}]

def load_plugins():
    from importlib.metadata import entry_points
    for group in ("vllm.platform_plugins", "vllm.general_plugins"):
        for entry in entry_points(group=group):
            entry.load()()

def core():
    load_plugins()
    time.sleep(600)

if __name__ == "__main__":
    load_plugins()
    multiprocessing.get_context("spawn").Process(target=core).start()
    import fake_engine
    os.environ["FAKE_MODEL"] = sys.argv[sys.argv.index("--served-model-name") + 1]
    port = int(sys.argv[sys.argv.index("--port") + 1])
    fake_engine.Server(("127.0.0.1", port), fake_engine.Handler).serve_forever(poll_interval=0.05)
"""


@pytest.fixture
def own_vllm(shell: Shell) -> Path:
    """The inventory of a machine whose engine the user installed."""
    environment = shell.home / "mine"
    make_environment(environment, sys.executable)
    site = environment / "lib" / "python3.11" / "site-packages"
    for name, text in {"torch/__init__.py": "Tensor = object", "torch/distributed.py": ""}.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    (site / "vllm-0.26.0.dist-info").mkdir()
    (site / "vllm-0.26.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.26.0\n")
    support = str(Path(fake_engine.__file__).parent)
    program = environment / "bin" / "vllm"
    program.write_text(VLLM.format(python=sys.executable, site=str(site), support=support))
    hosts = [{"name": "here", "cores": 2, "memory_bytes": 64 << 30}]
    file = shell.home / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "engine_environment": str(environment), "hosts": hosts}))
    return file


def test_guardian_and_supervisor_killed_at_once_leave_no_engine_core(shell: Shell, own_vllm: Path) -> None:
    done = shell.run("up", str(shell.recipe), "--on", str(own_vllm), PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    assert done.returncode == 0, done.stderr
    (run,) = shell.runs()
    assert any("plugin comes to this vLLM by PYTHONPATH" in event.message for event in run.events())
    note, engine = run.note("supervisor.json"), below(run)
    assert len(engine) >= 2
    for pid in (note["guardian"], note["pid"]):
        os.kill(pid, signal.SIGSTOP)  # neither ends what is left when the other is gone
    for pid in (note["guardian"], note["pid"]):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not [each for each in engine if is_alive(each)], "the end of the engine", timeout_s=30)


def below(run: RunFolder) -> list[psutil.Process]:
    api = psutil.Process(run.note("supervisor.json")["members"][0]["pid"])
    return [api, *api.children(recursive=True)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_users_environment_is_left_as_it_is_and_drawn_weights_run_with_the_same_plugin(
    shell: Shell, own_vllm: Path
) -> None:
    mine = [*filter(None, os.environ.get("PYTHONPATH", "").split(":")), "/of/mine", "/more"]
    paths = {}
    for weights in ((), ("--set", "load_format=dummy")):
        done = shell.run("up", str(shell.recipe), "--on", str(own_vllm), *weights, PYTHONPATH=":".join(mine))
        assert done.returncode == 0, done.stderr
        run = shell.runs()[0]
        paths[weights] = run.processes()[0].env["PYTHONPATH"].split(":")
        assert shell.run("stop").returncode == 0
    first, second = paths.values()
    assert first == second == [str(plugin.apart())], "the shell's own does not reach the engine"
    assert not list((shell.home / "mine").rglob("overspan_vllm*"))


def test_an_engine_of_ours_has_it_inside(shell: Shell) -> None:
    (site,) = (shell.home / "cache" / "engines").rglob("site-packages")
    (site / "vllm-0.32.0.dist-info").mkdir()
    (site / "vllm-0.32.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    assert shell.run("up", str(shell.recipe)).returncode == 0
    (run,) = shell.runs()
    assert all(str(plugin.digest()) not in spec.env.get("PYTHONPATH", "") for spec in run.processes())


def test_who_takes_some_plugins_alone_is_told_what_follows(shell: Shell, own_vllm: Path) -> None:
    assert shell.run("up", str(shell.recipe), "--on", str(own_vllm), VLLM_PLUGINS="other").returncode == 0
    (run,) = shell.runs()
    (told,) = [event.message for event in run.events() if "VLLM_PLUGINS" in event.message]
    assert "its engine core may stay: `overspan stop` ends it" in told
