"""In eager mode the CPU backend skips the profile run, which is what allocates a pipeline stage's receive buffers.

Without the mend: `assert self.intermediate_tensors is not None`, at the first request on every stage but the first.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    runner = module.CPUModelRunner
    inner = runner.sync_and_gather_intermediate_tensors

    def sync_and_gather_intermediate_tensors(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.intermediate_tensors is None:
            self.intermediate_tensors = self.model.make_empty_intermediate_tensors(
                batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )
        return inner(self, *args, **kwargs)

    runner.sync_and_gather_intermediate_tensors = sync_and_gather_intermediate_tensors


MEND = Mend(
    name="pipeline buffers in eager mode on the CPU",
    versions=("0.32",),
    module="vllm.v1.worker.cpu_model_runner",
    cure=_cure,
)
