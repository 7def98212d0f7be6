"""The plugin beside a real engine, or beside a vLLM of a few lines."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from overspan.provision import plugin
from support.engine import engine_python
from support.vllm_plugin import FakeVllm, Outcome

CASES = Path(__file__).parent / "engine_side" / "cases.py"
SWITCHES = {"OVERSPAN_FORK_WORKERS": "1", "OVERSPAN_DIE_WITH_PARENT": "1"}
CALM = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the plugin of this checkout."""
    folder = tmp_path_factory.mktemp("site")
    plugin.place(folder)
    return folder


@pytest.fixture(scope="session")
def mended(site: Path) -> Outcome:
    return _run(site, "overspan")


@pytest.fixture(scope="session")
def plain(site: Path) -> Outcome:
    """The same engine; `none` is no plugin's name."""
    return _run(site, "none")


def _run(site: Path, plugins: str) -> Outcome:
    environment = {
        **os.environ,
        **SWITCHES,
        "PYTHONPATH": str(site),
        "VLLM_PLUGINS": plugins,
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = subprocess.run(
        [str(engine_python()), str(CASES)], env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Outcome(json.loads(done.stdout.splitlines()[-1]), done.stderr)


@pytest.fixture
def fake_vllm(tmp_path: Path, site: Path) -> FakeVllm:
    files = {
        "torch/__init__.py": "Tensor = object",
        "torch/distributed.py": "",
        "vllm/__init__.py": "",
        "vllm/platforms/__init__.py": "",
        "vllm/platforms/cpu.py": (
            "class CpuPlatform:\n"
            "    ray_device_key = ''\n"
            "    @classmethod\n"
            "    def check_and_update_config(cls, config):\n"
            "        import os\n"
            "        os.environ['VLLM_WORKER_MULTIPROC_METHOD'] = 'spawn'\n"
            "        config.cache_config.enable_prefix_caching = False\n"
            "        config.scheduler_config.max_num_batched_tokens = 4096\n"
        ),
        "vllm/model_executor/__init__.py": "",
        "vllm/model_executor/model_loader/__init__.py": (
            "LOADERS = {}\n"
            "class BaseModelLoader:\n"
            "    def load_weights(self): ...\n"
            "def register_model_loader(name):\n"
            "    return lambda loader: LOADERS.setdefault(name, loader)\n"
        ),
        "vllm/model_executor/layers/__init__.py": "",
        "vllm/model_executor/layers/minimax_rms_norm/__init__.py": "from .rms_norm_tp import layer",
        "vllm/model_executor/layers/minimax_rms_norm/rms_norm_tp.py": (
            "_MINIMAX_FUSED_AR_RMS_QK = 'a kernel that dies'\ndef layer():\n    return _MINIMAX_FUSED_AR_RMS_QK\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / "fake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return FakeVllm(tmp_path / "fake", site)
