"""A mend does nothing where its fault is not."""

import os
import subprocess
import sys

import pytest

from support.vllm_plugin import FakeVllm

KERNEL = "from vllm.model_executor.layers.minimax_rms_norm import layer\nprint(layer())"
PLATFORM = "from vllm.platforms.cpu import CpuPlatform\nprint(repr(CpuPlatform.ray_device_key))"
CONFIG = (
    "import os\nfrom types import SimpleNamespace as N\nfrom vllm.platforms.cpu import CpuPlatform\n"
    "scheduler = N(enable_chunked_prefill=True, max_num_batched_tokens=128)\n"
    "cache = N(enable_prefix_caching=True)\n"
    "config = N(scheduler_config=scheduler, cache_config=cache, model_config=N(use_mla=True))\n"
    "CpuPlatform.check_and_update_config(config)\n"
)
START = CONFIG + "print(os.environ['VLLM_WORKER_MULTIPROC_METHOD'])"
LATENT = CONFIG + "print(cache.enable_prefix_caching, scheduler.max_num_batched_tokens)"


@pytest.mark.parametrize("version", ["0.26.0", "0.26.1+cu130"])
def test_the_fused_kernel_is_switched_off_in_0_26(fake_vllm: FakeVllm, version: str) -> None:
    assert fake_vllm.run(version, KERNEL) == [
        f"overspan plugin: mended the fused QK-norm all-reduce of MiniMax-M2 (switched off) for vLLM {version}",
        "None",
    ]


@pytest.mark.parametrize("version", ["0.25.1", "0.27.0", "0.32.0+cpu", "0.260.0"])
def test_it_stays_in_other_versions(fake_vllm: FakeVllm, version: str) -> None:
    assert fake_vllm.run(version, KERNEL) == ["a kernel that dies"]


def test_the_platform_is_mended_on_the_cpu(fake_vllm: FakeVllm) -> None:
    assert fake_vllm.run("0.32.0+cpu", PLATFORM)[-1] == "'GPU'"


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cu130", "0.31.0+cpu", "0.33.0+cpu"])
def test_nothing_of_the_cpu_is_touched_elsewhere(fake_vllm: FakeVllm, version: str) -> None:
    assert fake_vllm.run(version, PLATFORM) == ["''"]


@pytest.mark.parametrize(("version", "kept"), [("0.32.0+cpu", "True 128"), ("0.33.0+cpu", "False 4096")])
def test_what_was_asked_of_latent_attention_is_kept_in_0_32_alone(fake_vllm: FakeVllm, version: str, kept: str) -> None:
    assert fake_vllm.run(version, LATENT)[-1] == kept


def test_a_switch_that_is_off_changes_nothing(fake_vllm: FakeVllm) -> None:
    assert fake_vllm.run("0.32.0+cpu", START, OVERSPAN_FORK_WORKERS="0")[-1] == "spawn"


def test_a_switch_that_is_on_forks(fake_vllm: FakeVllm) -> None:
    assert fake_vllm.run("0.32.0+cpu", START, OVERSPAN_FORK_WORKERS="1")[-1] == "fork"


PROGRAM = (
    "import gc, site\nsite.addsitedir({site!r})\nbefore = gc.isenabled()\n"
    "from overspan_vllm.entry import general\ngeneral()\nprint(before, gc.isenabled(), gc.get_freeze_count() > 0)\n"
)


@pytest.mark.parametrize(
    ("program", "switch", "printed"),
    [("vllm", "1", "False True True"), ("vllm", "0", "True True False"), ("ray", "1", "True True False")],
)
def test_the_engine_looks_for_no_garbage_until_all_is_imported(
    fake_vllm: FakeVllm, program: str, switch: str, printed: str
) -> None:
    file = fake_vllm.folder / "bin" / program
    file.parent.mkdir()
    file.write_text(PROGRAM.format(site=str(fake_vllm.site)))
    environment = {**os.environ, "PYTHONPATH": str(fake_vllm.folder), "OVERSPAN_QUICK_IMPORTS": switch}
    done = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_a_module_that_was_imported_before_is_mended_too(fake_vllm: FakeVllm) -> None:
    code = (
        "import vllm.platforms.cpu as cpu\nfrom overspan_vllm import mend, cpu_ray\n"
        "cpu.CpuPlatform.ray_device_key = ''\nmend._arranged.clear()\nmend.arrange([cpu_ray.MEND])\n"
        "print(cpu.CpuPlatform.ray_device_key)"
    )
    assert fake_vllm.run("0.32.0+cpu", code)[-1] == "GPU"


def test_no_engine_is_no_error(fake_vllm: FakeVllm) -> None:
    (fake_vllm.folder / "vllm-0.0.dist-info").mkdir()
    assert fake_vllm.run("", PLATFORM) == ["''"]


LOADERS = (
    "from vllm.model_executor.model_loader import LOADERS, BaseModelLoader\n"
    "print([(name, issubclass(loader, BaseModelLoader)) for name, loader in LOADERS.items()])"
)


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0+cpu"])
def test_the_synthetic_load_format_is_added(fake_vllm: FakeVllm, version: str) -> None:
    assert fake_vllm.run(version, LOADERS) == [
        f"overspan plugin: added the load format 'synthetic' for vLLM {version}",
        "[('synthetic', True)]",
    ]


def test_a_version_that_nobody_tried_gets_it_where_all_is_there_that_it_needs(fake_vllm: FakeVllm) -> None:
    assert fake_vllm.run("0.27.0", LOADERS) == ["[]"]
    loader = fake_vllm.folder / "vllm/model_executor/model_loader/__init__.py"
    loader.write_text(
        loader.read_text().replace("class BaseModelLoader:\n", "class BaseModelLoader:\n    download_model = len\n")
    )
    assert fake_vllm.run("0.40.1", LOADERS, old="0.27.0")[-1] == "[('synthetic', True)]"


def test_an_engine_that_somebody_changed_starts_all_the_same(fake_vllm: FakeVllm) -> None:
    layer = fake_vllm.folder / "vllm/model_executor/layers/minimax_rms_norm/rms_norm_tp.py"
    layer.write_text("def layer():\n    return 'no such kernel'\n")
    said, printed = fake_vllm.run("0.26.0", KERNEL)
    assert "could not mend the fused QK-norm all-reduce" in said
    assert printed == "no such kernel"


WITHOUT_TORCHVISION = {
    "transformers/models/qwen2_vl/image_processing_qwen2_vl.py": "import torchvision",
    "transformers/models/qwen2_vl/image_processing_pil_qwen2_vl.py": "def smart_resize():\n    return 'resized'\n",
    "dynamo/vllm/multimodal_utils/models/qwen.py": (
        "from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize\n"
    ),
}
DYNAMO = "from dynamo.vllm.multimodal_utils.models.qwen import smart_resize\nprint(smart_resize())"


def with_dynamo(fake: FakeVllm, *torchvision: str) -> None:
    for name in [*WITHOUT_TORCHVISION, *torchvision]:
        path = fake.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WITHOUT_TORCHVISION.get(name, ""))
        for package in path.relative_to(fake.folder).parents:
            (fake.folder / package / "__init__.py").touch()


def test_dynamos_workers_need_no_torchvision(fake_vllm: FakeVllm) -> None:
    with_dynamo(fake_vllm)
    name = "the import of torchvision in Dynamo's workers"
    assert fake_vllm.run("0.31.0+cpu", DYNAMO) == [f"overspan plugin: mended {name} for vLLM 0.31.0+cpu", "resized"]


def test_where_there_is_a_torchvision_it_is_taken(fake_vllm: FakeVllm) -> None:
    with_dynamo(fake_vllm, "torchvision/__init__.py")
    code = DYNAMO.replace("smart_resize())", "'not reached')")
    with pytest.raises(AssertionError, match="cannot import name 'smart_resize'"):
        fake_vllm.run("0.31.0+cpu", code)
