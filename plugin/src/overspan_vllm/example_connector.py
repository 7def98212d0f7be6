"""A prompt of one token ends an engine whose cache is handed over in files (ExampleConnector).

It counts whole blocks of the prompt without its last token: of none, rounded down, that is one block below zero. Found
in its folder, as it is after the first such prompt, the count is taken: `IndexError: index out of range in self`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    connector = module.ExampleConnector
    inner = connector.get_num_new_matched_tokens

    def get_num_new_matched_tokens(self: Any, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        tokens, later = inner(self, request, num_computed_tokens)
        return (tokens if tokens is None else max(tokens, 0)), later

    connector.get_num_new_matched_tokens = get_num_new_matched_tokens


MEND = Mend(
    name="prompts of one token in ExampleConnector",
    versions=("0.32",),
    module="vllm.distributed.kv_transfer.kv_connector.v1.example_connector",
    cure=_cure,
    cpu_only=False,
    fits=lambda module: hasattr(getattr(module, "ExampleConnector", None), "get_num_new_matched_tokens"),
)
