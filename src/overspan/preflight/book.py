"""Every preflight check, in the order in which it is told; docs/preflight.md is made from this."""

from __future__ import annotations

from typing import Final

from overspan.preflight import containers, fabric, gpus, inside, machine, model_files, names, settings, versions

CHECKS: Final = (
    *(containers.docker, containers.gpu_runtime, containers.gpus),
    *(fabric.interfaces, fabric.hcas, fabric.reach, fabric.mtu),
    *(containers.memlock, machine.ports, machine.memory, machine.disk),
    *(gpus.driver, gpus.fabric_manager, gpus.memory_errors, gpus.faults, gpus.peers, gpus.imex, gpus.peer_memory),
    *(inside.starts, inside.shared_memory, inside.sees_gpus, inside.sees_rdma, inside.can_compile, inside.has_nvcc),
    *(inside.moves_gpu_memory, inside.net_plugin, inside.engine_imports),
    *(names.keeps_ipc, names.gids, names.own_name),
    *(model_files.gives_model, model_files.cache_writable, model_files.whole_weights),
    *(settings.native_version, settings.ray_memory_monitor, settings.custom_all_reduce),
)

GROUP_CHECKS: Final = (
    *(fabric.subnet, containers.same_image, versions.same_engine),
    *(settings.own_addresses, names.clocks, model_files.same_files),
)
