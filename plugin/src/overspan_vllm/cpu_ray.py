"""The CPU platform has no device that Ray could count, so that vLLM refuses Ray there.

Without the mend: `current platform cpu does not support ray`. With it a rank takes one of Ray's "GPU" slots: start each
node with `ray start --num-gpus=RANKS`. The platform must be mended before Ray's actors ask for it, which is before
they load general plugins.
"""

from __future__ import annotations

from types import ModuleType

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    module.CpuPlatform.ray_device_key = "GPU"


MEND = Mend(
    name="Ray on the CPU platform",
    versions=("0.32",),
    module="vllm.platforms.cpu",
    cure=_cure,
)
