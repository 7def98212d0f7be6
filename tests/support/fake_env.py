"""An engine environment whose `vllm` is the fake engine: `overspan up` from end to end, in two seconds."""

import json
import shutil
import struct
import sys
from pathlib import Path

from overspan.provision import locked

ENGINE = Path(__file__).with_name("fake_engine.py")

VLLM = """#!{python}
import os, sys, time
load_s = float(os.environ.get("FAKE_LOAD_S", "0"))
if load_s:
    print("(Worker pid=%d) INFO Loading weights: 40%%" % os.getpid(), flush=True)
time.sleep(load_s)
for line in filter(None, os.environ.get("FAKE_SAYS", "").split(";")):
    print(line, end="\\n" if line[-1] == "." else "\\r", flush=True)
    time.sleep(float(os.environ.get("FAKE_SAYS_S", "1.2")))
if os.environ.get("FAKE_DIES"):
    sys.exit(os.environ["FAKE_DIES"])
if "--headless" in sys.argv:
    print("(Worker pid=%d) INFO headless" % os.getpid(), flush=True)
    time.sleep(600)
if "--host" in sys.argv:
    os.environ["FAKE_HOST"] = sys.argv[sys.argv.index("--host") + 1]
port = sys.argv[sys.argv.index("--port") + 1]
os.environ["FAKE_MODEL"] = sys.argv[sys.argv.index("--served-model-name") + 1]
os.execv({python!r}, [{python!r}, {engine!r}, port])
"""


def make_environment(folder: Path, python: str) -> None:
    """A folder that looks like an engine's Python environment."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {Path(python).parent}\n")
    (folder / "bin" / "python").symlink_to(python)
    shutil.copy(ENGINE, folder / "fake_engine.py")
    script = folder / "bin" / "vllm"
    script.write_text(VLLM.format(python=python, engine=str(folder / "fake_engine.py")))
    script.chmod(0o755)


def make_engine(cache: Path) -> None:
    """An installed engine `cpu`, as far as anybody can see."""
    lock = locked.load("cpu")
    folder = cache / "engines" / ".builds" / "fake"
    make_environment(folder, sys.executable)
    facts = {
        "name": "cpu",
        "digest": lock.digest,
        "version": lock.version,
        "python_version": "3.11",
        "size_bytes": 1,
        "seconds": 0,
        "installed_at": "2026-11-22T00:00:00+00:00",
    }
    (folder / "overspan-engine.json").write_text(json.dumps(facts))
    (cache / "engines" / lock.label).symlink_to(Path(".builds") / "fake")


def make_model(folder: Path) -> Path:
    """The smallest folder that is a model: a configuration, a tokenizer, and one tensor of one number."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    return folder


def make_recipe(file: Path, model: Path, more: str = "") -> Path:
    file.write_text(
        f"name: tiny\nmodel: {model}\nport: 0\ndrain_timeout_s: 2\n"
        f"known_answers:\n  - prompt: What is the capital of France?\n    expect: Paris\n{more}"
    )
    return file
