"""vLLM 0.26's fused all-reduce and RMS norm of MiniMax-M2's queries and keys dies in TP.

Without the mend, on GPUs: an illegal memory access in `minimax_allreduce_rms_qk`. Without the kernel no workspace is
allocated, and vLLM takes its own path for GPUs without peer access: a variance kernel, an all-reduce, a norm kernel.
"""

from __future__ import annotations

from types import ModuleType

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    if not hasattr(module, "_MINIMAX_FUSED_AR_RMS_QK"):
        raise AttributeError(f"{module.__name__} has no _MINIMAX_FUSED_AR_RMS_QK to switch off")
    module._MINIMAX_FUSED_AR_RMS_QK = None


MEND = Mend(
    name="the fused QK-norm all-reduce of MiniMax-M2 (switched off)",
    versions=("0.26",),
    module="vllm.model_executor.layers.minimax_rms_norm.rms_norm_tp",
    cure=_cure,
    cpu_only=False,
)
