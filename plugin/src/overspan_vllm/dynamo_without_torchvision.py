"""Dynamo's vLLM workers import one function of a module that needs torchvision, whatever the model.

PyPI has no CPU build of torchvision, and its CUDA build ends at import where CUDA is not. transformers holds the same
function, copied, beside its processor for PIL, which needs neither. Source: Dynamo 1.6.1,
dynamo/vllm/multimodal_utils/models/qwen.py; transformers 5.17, models/qwen2_vl.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from overspan_vllm.mend import Mend

_WITH_TORCHVISION = "transformers.models.qwen2_vl.image_processing_qwen2_vl"
_WITHOUT = "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl"


def _cure(_: ModuleType) -> None:
    """Runs when the package is imported that holds the importer: just before it."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    substitute = ModuleType(_WITH_TORCHVISION, "One function, by overspan's vLLM plugin: there is no torchvision.")
    vars(substitute)["smart_resize"] = importlib.import_module(_WITHOUT).smart_resize
    sys.modules.setdefault(_WITH_TORCHVISION, substitute)


MEND = Mend(
    name="the import of torchvision in Dynamo's workers",
    versions=("0.31",),
    module="dynamo.vllm.multimodal_utils.models",
    cure=_cure,
)
