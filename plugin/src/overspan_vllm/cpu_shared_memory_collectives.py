"""Ranks of one machine talk through sockets where the CPU has no AVX-512, and everywhere in groups of DP and EP.

vLLM's shared-memory collectives are built for AVX-512 alone, and used for TP and PP alone; all else is gloo over TCP,
whose every operation wakes several threads of each rank. With the mend what all ranks say lies in memory that they
share, and a rank that waits gives its core away. benchmarks/collectives.py measures both side by side.

Point-to-point transfers of a pipeline stay vLLM's own. Ranks that share no memory (hosts, containers) keep gloo.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from overspan_vllm import futex
from overspan_vllm.cpu_shared_memory_names import shared_memory_identity
from overspan_vllm.mend import Mend

SLOT_BYTES = 2**20
"""What a rank says at once; more of it takes turns."""
_LINE_BYTES = 64
"""A cache line, so that ranks do not write into one another's."""
_PATIENCE_S = 1.0
"""How long a rank waits for another before it looks whether that one still lives."""


class _Process(ctypes.Structure):
    """Who a rank is, beside its turn: of all processes ever in a namespace of ids one alone has this id and start."""

    _fields_ = (("pid", ctypes.c_uint64), ("namespace", ctypes.c_uint64), ("born", ctypes.c_uint64))

    def is_me(self) -> None:
        """Say so, unless /proc shows the processes of another namespace of ids: then nobody may look here."""
        if Path("/proc/self").readlink().name == str(os.getpid()):
            self.namespace, self.born = _namespace(), _state_and_birth(os.getpid())[1]
            self.pid = os.getpid()  # last: what stands there is whole

    def is_gone(self, me: _Process) -> bool:
        """Whether it has surely ended; False where that cannot be seen from here."""
        if not (self.pid and me.pid and self.namespace == me.namespace):
            return False
        try:
            state, born = _state_and_birth(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "ZX" or born != self.born


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _state_and_birth(pid: int) -> tuple[str, int]:
    """Its state, and its start in ticks since the boot. Source: proc_pid_stat(5), fields 3 and 22."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[19])


class SharedMemory:
    """Collectives of the ranks of one group, in the form of `torch.distributed`; every rank makes and calls it."""

    def __init__(self, memory: mmap.mmap, rank: int, world_size: int) -> None:
        """
        Args:
            memory: `size(world_size)` bytes that all ranks see, zero before the first of them is here.
            rank: of this process, in its group.
            world_size: ranks of the group.
        """
        self._turns = [ctypes.c_uint32.from_buffer(memory, rank * _LINE_BYTES) for rank in range(world_size)]
        self._processes = [_Process.from_buffer(memory, rank * _LINE_BYTES + 8) for rank in range(world_size)]
        self._processes[rank].is_me()
        slots = torch.frombuffer(memory, dtype=torch.uint8, offset=world_size * _LINE_BYTES)
        self._slots = slots.view(2, world_size, SLOT_BYTES)
        self._rank = rank
        self._turn = 0

    @staticmethod
    def size(world_size: int) -> int:
        """Bytes for so many ranks: two slots each, since the fastest may say the next while the slowest still reads."""
        return world_size * (_LINE_BYTES + 2 * SLOT_BYTES)

    def all_reduce(self, tensor: torch.Tensor, group: object = None) -> None:
        """Sum every rank's tensor into it, in the order of ranks: the result is the same on each, bit for bit."""
        flat = tensor.contiguous().view(-1)
        for start, said in self._said(flat):
            total = said[0].clone()
            for other in said[1:]:
                total += other
            flat[start : start + len(total)] = total
        if flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat.view(tensor.shape))

    def all_gather_into_tensor(self, output: torch.Tensor, tensor: torch.Tensor, group: object = None) -> None:
        """Write every rank's tensor into `output`, one after another."""
        parts = output.view(self._slots.shape[1], -1)
        for start, said in self._said(tensor.contiguous().view(-1)):
            parts[:, start : start + said.shape[1]] = said

    def all_gather(self, outputs: list[torch.Tensor], tensor: torch.Tensor, group: object = None) -> None:
        """Write every rank's tensor into the one of `outputs` that has its rank."""
        for start, said in self._said(tensor.contiguous().view(-1)):
            for output, part in zip(outputs, said, strict=True):
                output.view(-1)[start : start + len(part)] = part

    def gather(
        self, tensor: torch.Tensor, outputs: list[torch.Tensor] | None, dst: int, group: dist.ProcessGroup
    ) -> None:
        """As `all_gather`, at the rank `dst` (of the world) alone, which has `outputs`."""
        self.all_gather(outputs or [torch.empty_like(tensor) for _ in range(self._slots.shape[1])], tensor)

    def _said(self, mine: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Say a flat tensor, a slot at a time.

        Yields:
            The index of the first element, and all ranks' elements from there, [world_size, n].
        """
        most = SLOT_BYTES // mine.element_size()
        for start in range(0, len(mine), most):
            piece = mine[start : start + most]
            before, self._turn = self._turn, (self._turn + 1) % 2**32
            slots = self._slots[self._turn % 2, :, : piece.nbytes].view(mine.dtype)
            slots[self._rank] = piece
            self._turns[self._rank].value = self._turn
            futex.wake(self._turns[self._rank])
            # x86 shows one core's writes to the others in their order.
            for rank in range(len(self._turns)):
                self._wait_for(rank, before)
            yield start, slots

    def _wait_for(self, rank: int, before: int) -> None:
        """Until a rank has said this turn's word; RuntimeError where its process has ended without it."""
        turn, process = self._turns[rank], self._processes[rank]
        while turn.value == before:
            futex.wait(turn, before, _PATIENCE_S)
            # Asked in this order: it may have spoken, and then ended.
            if turn.value == before and process.is_gone(self._processes[self._rank]) and turn.value == before:
                raise RuntimeError(f"rank {rank} of this group (pid {process.pid}) has ended; rank {self._rank} waits")


def shared_by(group: dist.ProcessGroup, rank: int, world_size: int) -> SharedMemory | None:
    """Memory of a group of ranks; None where they share none, or too little. A collective."""
    name = [f"/dev/shm/overspan-{uuid.uuid4().hex}" if rank == 0 else ""]  # noqa: S108
    first = dist.get_global_rank(group, 0)
    if rank == 0:
        name = [_made(Path(name[0]), SharedMemory.size(world_size))]
    dist.broadcast_object_list(name, src=first, group=group)
    found: list[Any] = [None] * world_size
    dist.all_gather_object(found, shared_memory_identity(), group=group)
    memory = None
    if name[0] and len(set(found)) == 1:
        with Path(name[0]).open("r+b") as file:
            memory = mmap.mmap(file.fileno(), SharedMemory.size(world_size))
    dist.barrier(group)
    if rank == 0 and name[0]:
        # Every rank has it: nothing is left behind, however they end.
        Path(name[0]).unlink()
    return SharedMemory(memory, rank, world_size) if memory else None


def _made(path: Path, size: int) -> str:
    """Make the file, of memory that is really there: a container's /dev/shm may be full. Its name, or nothing."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        path.unlink()
        return ""
    finally:
        os.close(fd)
    return str(path)


def _cure(module: ModuleType) -> None:
    communicator = module.CpuCommunicator
    inner = communicator.__init__

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        if self.dist_module is dist and platform.machine() == "x86_64" and futex.exists():
            self.dist_module = shared_by(self.device_group, self.rank_in_group, self.world_size) or dist

    communicator.__init__ = make


def _cure_padding(module: ModuleType) -> None:
    """Ranks of DP agree on the tokens of each step through their CPU group, not through its communicator."""

    def all_reduce(tensor: torch.Tensor, group: dist.ProcessGroup) -> None:
        ranks = module.get_dp_group()
        (ranks.device_communicator.dist_module if group is ranks.cpu_group else dist).all_reduce(tensor, group=group)

    module.dist = SimpleNamespace(all_reduce=all_reduce)


MEND = Mend(
    name="collectives through shared memory on the CPU",
    versions=("0.32",),
    module="vllm.distributed.device_communicators.cpu_communicator",
    cure=_cure,
)
PADDING = Mend(
    name="agreement of DP ranks through shared memory on the CPU",
    versions=("0.32",),
    module="vllm.v1.worker.dp_utils",
    cure=_cure_padding,
)
