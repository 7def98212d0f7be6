"""The CPU platform forces workers to be spawned, and so are API servers everywhere: each imports vLLM anew, for 6 to 10
seconds.

With the mend they are forked, and a server is ready in about half the time. It is safe while nothing of the parent has
started OpenMP threads, which a fork does not carry over: true for `vllm serve`, which computes nothing before it starts
its engine core, its workers and its API servers. A program of one's own may have, so that a switch turns it on.
"""

from __future__ import annotations

import multiprocessing
import os
from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend

SWITCH = "OVERSPAN_FORK_WORKERS"


def _cure(module: ModuleType) -> None:
    platform = module.CpuPlatform
    inner = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        inner(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)


class _Forking:
    """The module `multiprocessing`, all of whose contexts fork."""

    def __getattr__(self, name: str) -> Any:
        return getattr(multiprocessing, name)

    def get_context(self, _: str) -> Any:
        from prometheus_client import values

        # It chose when it was imported, before vLLM said that several processes count together.
        values.ValueClass = values.get_value_class()
        return multiprocessing.get_context("fork")


def _cure_servers(module: ModuleType) -> None:
    module.multiprocessing = _Forking()


MEND = Mend(
    name="start of workers (fork in place of spawn) on the CPU",
    versions=("0.32",),
    module="vllm.platforms.cpu",
    cure=_cure,
    switch=SWITCH,
)
SERVERS = Mend(
    name="start of API servers (fork in place of spawn) on the CPU",
    versions=("0.32",),
    module="vllm.v1.utils",
    cure=_cure_servers,
    switch=SWITCH,
)
