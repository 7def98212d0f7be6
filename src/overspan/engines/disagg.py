"""Prefill and decode apart with plain vLLM: `vllm serve` workers that hand the cache over, and vLLM's own router.

The router (PyPI vllm-router, of the vLLM project) asks a prefill worker for one token, then the decode worker for the
rest with what the first answered.
"""

from __future__ import annotations

import json
from typing import Any, Final

from overspan.engines import vllm
from overspan.engines.dynamo import FOLDER, PORTS_EACH, SIDE_CHANNEL_PORT, kv_transfer
from overspan.engines.node import address_of, located, node_env
from overspan.schema import defaults
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.topology import RoleName

ON_DISK: Final[dict[str, Any]] = {
    "kv_connector": "ExampleConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {"shared_storage_path": f"{FOLDER}/kv"},
}
"""vLLM's connector over a shared folder: exact and steady without a GPU, where NIXL stalls (docs/sources.md#cpu)."""


def worker(plan: Plan, role: RoleName, number: int, placements: list[Placement]) -> list[ProcessSpec]:
    """The processes of one worker, one a host that it spans.

    Args:
        plan: recipe and layout as this role runs them.
        role: of this worker.
        number: of this worker among all, both roles counted; its ports follow from it.
        placements: of this worker.
    """
    hosts = {host.name: host for host in located(plan).inventory.hosts}
    head = hosts[placements[0].host]
    given = plan.recipe.engine_args.get("kv_transfer_config")
    connector = ON_DISK if given is None and plan.inventory.device == "cpu" else given
    args = {**plan.recipe.engine_args, "kv_transfer_config": json.dumps(kv_transfer(connector))}
    port = plan.endpoint.port + 1 + number
    address = defaults.LOOPBACK if plan.inventory.traits.here else address_of(head)
    if len(placements) > 1:
        args["master_port"] = defaults.MASTER_PORT + number
    own = plan.with_(
        recipe=plan.recipe.with_(engine_args=args, host=address, port=port),
        endpoint=plan.endpoint.with_(host=address, port=port),
        placements=placements,
    )
    return [
        _in_role(plan, spec, role, number, placed) for spec, placed in zip(vllm.processes(own), placements, strict=True)
    ]


def _in_role(plan: Plan, spec: ProcessSpec, role: RoleName, number: int, placed: Placement) -> ProcessSpec:
    host = next(each for each in located(plan).inventory.hosts if each.name == placed.host)
    base = SIDE_CHANNEL_PORT + PORTS_EACH * number
    env = {
        "VLLM_NIXL_SIDE_CHANNEL_HOST": defaults.LOOPBACK if plan.inventory.traits.here else address_of(host),
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(base),
    }
    if len(placed.gpus) < len(host.gpus):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, placed.gpus))
    return spec.with_(role=role, env={**env, **spec.env}, ports={**spec.ports, "nixl": base})


def router(plan: Plan, workers: list[ProcessSpec]) -> ProcessSpec:
    """The process that answers requests, on the head."""
    there = located(plan)
    head = next(host for host in there.inventory.hosts if host.name == plan.placements[0].host)
    argv = [f"{plan.engine.router}/bin/vllm-router" if plan.engine.router else vllm.program(plan, "vllm-router")]
    args = vllm.api_args(there, head)
    argv += ["--host", str(args["host"]), "--port", str(args["port"]), "--policy", "round_robin"]
    argv += ["--prometheus-port", str(plan.endpoint.port + 100), "--vllm-pd-disaggregation"]
    # It listens once every worker is healthy; how long that may take is the recipe's to say.
    argv += ["--worker-startup-timeout-secs", str(round(plan.recipe.ready_timeout_s))]
    for spec in workers:
        if "api" in spec.ports:
            argv += [f"--{spec.role}", url_of(spec)]
    return ProcessSpec(
        name="router",
        host=head.name,
        argv=argv,
        env=node_env(there, head, 1),
        ports={"api": plan.endpoint.port},
        role="router",
    )


def url_of(spec: ProcessSpec) -> str:
    """Where a worker answers."""
    address = spec.argv[spec.argv.index("--host") + 1]
    return f"http://{address}:{spec.ports['api']}"
