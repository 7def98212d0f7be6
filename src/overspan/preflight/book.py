"""Every preflight check, in the order in which it is told; docs/preflight.md is made from this."""

from __future__ import annotations

from typing import Final

from overspan.preflight import containers, engine, fabric, gpus, machine, model_files

CHECKS: Final = (
    *(containers.docker, containers.gpu_runtime, containers.gpus),
    *(fabric.interfaces, fabric.hcas, fabric.reach, fabric.mtu),
    *(containers.memlock, machine.ports, machine.memory, machine.disk),
    *(gpus.driver, gpus.fabric_manager, gpus.memory_errors, gpus.faults, gpus.peers, gpus.imex, gpus.peer_memory),
    *(
        containers.starts,
        containers.shared_memory,
        containers.sees_gpus,
        containers.sees_rdma,
        containers.can_compile,
        containers.has_nvcc,
    ),
    *(containers.moves_gpu_memory, containers.net_plugin, containers.engine_imports),
    *(machine.keeps_ipc, fabric.gids, fabric.own_name),
    *(model_files.gives_model, model_files.cache_writable, model_files.whole_weights),
    *(engine.installed, engine.native_version, engine.ray_memory_monitor, engine.custom_all_reduce),
)

GROUP_CHECKS: Final = (
    *(fabric.subnet, containers.same_image, engine.same_engine),
    *(engine.own_addresses, machine.clocks, model_files.same_files),
)
