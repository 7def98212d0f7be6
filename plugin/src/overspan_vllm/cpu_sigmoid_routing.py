"""The CPU router knows sigmoid scores with a correction bias only inside expert groups (MiniMax-M2 has none).

Without the mend: `assert self.scoring_func == "softmax"`, in `CPURouter._compute_routing`.
One group that holds every expert, of which one is taken, is the same mathematics.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    router = module.CPURouter
    inner = router.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        inner(self, *args, **kwargs)
        if self.scoring_func == "sigmoid" and not self.use_grouped_topk and self.custom_routing_function is None:
            self.use_grouped_topk = True
            self.num_expert_group = 1
            self.topk_group = 1

    router.__init__ = __init__


MEND = Mend(
    name="sigmoid routing with a correction bias on the CPU",
    versions=("0.32",),
    module="vllm.model_executor.layers.fused_moe.router.cpu_router",
    cure=_cure,
)
