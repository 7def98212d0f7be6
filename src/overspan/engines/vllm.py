"""vLLM, native: one `vllm serve` a node, its ranks below it; every node but the first is headless."""

from __future__ import annotations

from overspan.catalog.flags import to_argv
from overspan.engines.node import address_of, contained, listens_on, located, node_env
from overspan.schema import defaults
from overspan.schema.inventory import Host
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import ArgValue

VITAL_TITLES = ["VLLM::*"]
"""The engine core and the workers name themselves so (vllm/utils/system_utils.py, set_process_title)."""


def serve_args(plan: Plan) -> dict[str, ArgValue]:
    """The arguments of `vllm serve` that are the same on every node; the recipe's own come last and win."""
    layout, recipe = plan.layout, plan.recipe
    args: dict[str, ArgValue] = {"served_model_name": plan.endpoint.model}
    degrees = {
        "tensor_parallel_size": layout.tp,
        "pipeline_parallel_size": layout.pp,
        "data_parallel_size": layout.dp,
    }
    args.update({name: degree for name, degree in degrees.items() if degree > 1})
    if layout.expert_parallel:
        args["enable_expert_parallel"] = True
    if plan.inventory.device == "cpu":
        # Compiled BF16 answers wrongly on a CPU (docs/sources.md#cpu, vLLM 0.32).
        args["enforce_eager"] = True
    if plan.dtype:
        args["dtype"] = plan.dtype
    return {**args, **recipe.engine_args}


def api_args(plan: Plan, head: Host) -> dict[str, ArgValue]:
    """The arguments of the node that answers requests."""
    args: dict[str, ArgValue] = {"host": listens_on(plan, head), "port": plan.recipe.port or plan.endpoint.port}
    if plan.engine.environment:  # an image of unknown age may not know the flag
        args["shutdown_timeout"] = round(plan.recipe.drain_timeout_s)
    return args


def node_args(plan: Plan, rank: int, head: Host) -> dict[str, ArgValue]:
    """Where one node stands among several; nothing when there is one."""
    if len(plan.placements) == 1:
        return {}
    args: dict[str, ArgValue] = {
        "nnodes": len(plan.placements),
        "node_rank": rank,
        "master_addr": address_of(head),
        "master_port": plan.recipe.engine_args.get("master_port", defaults.MASTER_PORT),
    }
    if plan.layout.dp > 1:
        args |= {"data_parallel_address": address_of(head), "data_parallel_rpc_port": defaults.DP_RPC_PORT}
    if rank > 0:
        args["headless"] = True
    return args


def processes(plan: Plan) -> list[ProcessSpec]:
    """One process a node."""
    plan = located(plan)
    hosts = {host.name: host for host in plan.inventory.hosts}
    head = hosts[plan.placements[0].host]
    return [_node(plan, rank, each, hosts[each.host], head) for rank, each in enumerate(plan.placements)]


def _node(plan: Plan, rank: int, placement: Placement, host: Host, head: Host) -> ProcessSpec:
    args = serve_args(plan) | (api_args(plan, head) if rank == 0 else {}) | node_args(plan, rank, head)
    ports = {"api": plan.endpoint.port} if rank == 0 else {}
    if rank == 0 and len(plan.placements) > 1:
        ports["master"] = defaults.MASTER_PORT
        if plan.layout.dp > 1:
            ports["dp_rpc"] = defaults.DP_RPC_PORT
    spec = ProcessSpec(
        name=placement.process,
        host=host.name,
        argv=[program(plan, "vllm"), "serve", plan.model_path or plan.recipe.model, *to_argv(args)],
        env=node_env(plan, host, len(placement.ranks)),
        secrets=["VLLM_API_KEY"] if plan.recipe.api_key else [],
        ports=ports,
        ranks=placement.ranks,
        vital_titles=VITAL_TITLES,
    )
    return contained(spec, plan, host)


def program(plan: Plan, name: str) -> str:
    """A program of the engine: of its environment where it has one, else of the image's PATH."""
    return f"{plan.engine.environment}/bin/{name}" if plan.engine.environment else name
