"""vLLM, native: one `vllm serve` a host, its ranks below it."""

from __future__ import annotations

from overspan.catalog.flags import to_argv
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import ArgValue

VITAL_TITLES = ["VLLM::*"]
"""The engine core and the workers name themselves so (vllm/utils/system_utils.py, set_process_title)."""

BASE_ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}

CPU_KV_CACHE_GIB = 1
"""Memory of the KV cache on a CPU; with 1 GiB SmolLM2 holds 46,592 tokens (engine log, 2026-11-22)."""


def cpu_env(cores: int, ranks: int) -> dict[str, str]:
    """What served best without a GPU (engine-on-cpu measurements, 2 cores): one core is left to the API server."""
    return {
        "OMP_NUM_THREADS": str(max(1, (cores - 1) // ranks)),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(CPU_KV_CACHE_GIB),
        # One mask function would be compiled at the first step, for many seconds.
        "TORCHDYNAMO_DISABLE": "1",
    }


def serve_args(plan: Plan) -> dict[str, ArgValue]:
    """The arguments of `vllm serve` that the plan asks for; the recipe's own come last and win."""
    layout, recipe = plan.layout, plan.recipe
    args: dict[str, ArgValue] = {
        "served_model_name": plan.endpoint.model,
        "host": plan.endpoint.host,
        "port": plan.endpoint.port,
        "shutdown_timeout": round(recipe.drain_timeout_s),
    }
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
    return {**args, **recipe.engine_args}


def processes(plan: Plan) -> list[ProcessSpec]:
    """One process a host."""
    host = plan.inventory.hosts[0]
    environment = plan.engine.environment
    vllm = f"{environment}/bin/vllm" if environment else "vllm"
    model = plan.model_path or plan.recipe.model
    device = cpu_env(host.cores, plan.layout.world_size) if plan.inventory.device == "cpu" else {}
    offline = {"HF_HUB_OFFLINE": "1"} if plan.model_path else {}
    return [
        ProcessSpec(
            name="api",
            host=host.name,
            argv=[vllm, "serve", model, *to_argv(serve_args(plan))],
            env={**BASE_ENV, **device, **offline, **plan.inventory.env, **host.env, **plan.recipe.env},
            secrets=["VLLM_API_KEY"] if plan.recipe.api_key else [],
            ports={"api": plan.endpoint.port},
            ranks=list(range(plan.layout.world_size)),
            vital_titles=VITAL_TITLES,
        )
    ]
