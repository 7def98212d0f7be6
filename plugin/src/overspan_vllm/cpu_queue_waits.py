"""An engine core and its workers look for messages without pause, and on a CPU engine they hold the ranks' own cores.

With the mend a reader sleeps in the kernel until its writer wakes it: no core is kept from a rank that computes, and
none of the engine's own wake-ups through ZeroMQ is needed, each of which costs several changes of thread.
"""

from __future__ import annotations

import ctypes
import weakref
from types import ModuleType
from typing import Any

from overspan_vllm import futex
from overspan_vllm.mend import Mend

_LOOK_S = 0.1
"""How often a sleeper looks whether its queue was shut down, which nobody wakes it for."""


def _word(queue: Any, index: int) -> ctypes.c_uint32:
    """The word that holds the first flag of a block: written or not."""
    at = queue.buffer.metadata_offset + index * queue.buffer.metadata_size
    return ctypes.c_uint32.from_buffer(queue.buffer.shared_memory.buf, at - at % futex.WORD_BYTES)


def _cure(module: ModuleType) -> None:
    if not futex.exists():
        return

    class SleepingCondition(module.SpinCondition):  # type: ignore[name-defined, misc]
        """In the place of vLLM's SpinCondition, whose form it has."""

        queue: weakref.ref[Any]

        def wait(self, timeout_ms: int | None = None) -> None:
            queue = self.queue()
            word = _word(queue, queue.current_idx)
            seen = word.value
            with queue.buffer.get_metadata(queue.current_idx) as flags:
                there = flags[0] and not flags[queue.local_reader_rank + 1]
            if not there and not queue.shutting_down:
                futex.wait(word, seen, _LOOK_S if timeout_ms is None else min(_LOOK_S, timeout_ms / 1000))

        def notify(self) -> None:
            queue = self.queue()
            # The block was written, and the next one is current.
            futex.wake(_word(queue, (queue.current_idx - 1) % queue.buffer.max_chunks))

    def known(queue: Any) -> None:
        if queue._spin_condition is not None:
            queue._spin_condition.queue = weakref.ref(queue)

    module.SpinCondition = SleepingCondition
    made, opened = module.MessageQueue.__init__, module.MessageQueue.create_from_handle

    def make(queue: Any, *args: Any, **kwargs: Any) -> None:
        made(queue, *args, **kwargs)
        known(queue)

    def open_(*args: Any, **kwargs: Any) -> Any:
        queue = opened(*args, **kwargs)
        known(queue)
        return queue

    module.MessageQueue.__init__ = make
    module.MessageQueue.create_from_handle = staticmethod(open_)


MEND = Mend(
    name="waits for messages (asleep, not looking without pause) on the CPU",
    versions=("0.32",),
    module="vllm.distributed.device_communicators.shm_broadcast",
    cure=_cure,
)
