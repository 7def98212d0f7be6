"""vLLM on Ray: a Ray node a host; the head's also serves. Kept for parity with existing guides; native is the default.

Ray burns two CPUs idle, its placement group can hang, and its compiled graph breaks CUDA graphs
(docs/sources.md#two-sparks).
"""

from __future__ import annotations

from typing import Final

from overspan.engines.node import address_of, located, node_env, node_process
from overspan.engines.vllm import VITAL_TITLES, Vllm, api_args, program, serve, serve_args
from overspan.schema import defaults
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import ProcessSpec

HEAD_THEN_SERVE = 'n=$1; shift; "${@:1:$n}" && shift "$n" && exec "$@"'
"""Constant text for bash: run the first n arguments (`ray start`), then become the rest (`vllm serve`). Arguments stay
arguments: none of them is ever read as shell text."""

SLOT = "--num-gpus"
"""Ray's slot of a rank. On a CPU a made-up GPU serves as the slot (docs/sources.md#cpu)."""

TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable
"""Without a token, whoever reaches Ray's port runs what he likes there (Ray 2.60's own warning at its start; a token is
asked for from Ray 2.52 on, and older ones do not know the variable). Source: docs.ray.io, ray-security/token-auth."""

HEAD_WAIT_S = 300
"""All nodes start at once: this long a worker's Ray tries to reach the head's, once a second. Its default is 20, about
what a head's start took on a busy machine here. Source: ray/_private/node.py, 2.60."""

CPU_START = ["--num-cpus=1", f"--object-store-memory={128 << 20}"]
"""Ray starts an idle Python process a core (0.1 GB each), and takes a third of the memory for objects; ranks use
neither: they have no CPU slot, and talk through vLLM's own queues."""

VITAL = [*VITAL_TITLES, "ray::RayWorkerProc*", "ray::RayWorkerWrapper*", "*/gcs/gcs_server *", "*/raylet/raylet *"]
"""Ranks are Ray's actors, named by their class (vllm/v1/executor, V2 and V1), below Ray's own daemons."""


class VllmRay(Vllm):
    """vLLM whose ranks are Ray's actors."""

    name = "vllm-ray"
    lock = "{device}-ray"
    needs = ("ray",)
    tokens = (TOKEN,)
    same_python = True
    router_lock = usual_image = hosts_argument = waits_for_hosts_since = None
    several_at_once = False
    before_graphs = " on native vLLM (engine=vllm)"

    def processes(self, plan: Plan) -> list[ProcessSpec]:
        """One process a host: the first starts Ray's head and serves, the others join it."""
        if plan.recipe.topology is not None:  # its workers are native: Ray's ports are one set a machine
            return super().processes(plan)
        plan = located(plan)
        first, *others = plan.placements
        return [_head(plan, first), *(_worker(plan, each) for each in others)]

    def dashboard(self, plan: Plan) -> str | None:
        """Ray's, on the head."""
        address = address_of(plan.host(plan.head))
        return f"http://{f'[{address}]' if ':' in address else address}:{defaults.RAY_DASHBOARD_PORT}"


ENGINE: Final = VllmRay()


def _ray_env(plan: Plan, placed: Placement) -> dict[str, str]:
    """Set before `ray start`, so that Ray's daemons and all they start have this node's own address."""
    host = plan.host(placed.host)
    return {
        # Ray's monitor kills workers while weights load (Avarok's MiniMax-M2.5 guide); the kernel guards memory.
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_NUM_REDIS_GET_RETRIES": str(HEAD_WAIT_S),
        # A worker that is asked to end lets streams in flight end first, as long as the head does.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": f"{plan.recipe.drain_timeout_s:g}",
        "VLLM_HOST_IP": address_of(host),
        "RAY_ADDRESS": f"{address_of(plan.host(plan.head))}:{defaults.RAY_PORT}",
        **node_env(plan, host, len(placed.ranks)),
    }


def _start(plan: Plan, placed: Placement) -> list[str]:
    argv = [program(plan, "ray"), "start", f"--node-ip-address={address_of(plan.host(placed.host))}"]
    argv += [f"{SLOT}={len(placed.ranks)}", "--disable-usage-stats"]
    return [*argv, *(CPU_START if plan.inventory.device == "cpu" else [])]


def _head(plan: Plan, placed: Placement) -> ProcessSpec:
    host = plan.host(placed.host)
    ports = {"api": plan.endpoint.port, "ray": defaults.RAY_PORT, "dashboard": defaults.RAY_DASHBOARD_PORT}
    ray = [*_start(plan, placed), "--head"]
    ray += [f"--port={defaults.RAY_PORT}", f"--dashboard-port={defaults.RAY_DASHBOARD_PORT}"]
    command = serve(plan, serve_args(plan) | api_args(plan, host) | {"distributed_executor_backend": "ray"})
    return node_process(
        plan,
        placed,
        argv=["bash", "-c", HEAD_THEN_SERVE, "bash", str(len(ray)), *ray, *command],
        env=_ray_env(plan, placed) | {"MASTER_ADDR": address_of(host)},
        secrets=[TOKEN, *([ENGINE.key_variable] if plan.recipe.api_key else [])],
        ports=ports,
        vital_titles=VITAL,
    )


def _worker(plan: Plan, placed: Placement) -> ProcessSpec:
    argv = [*_start(plan, placed), f"--address={address_of(plan.host(plan.head))}:{defaults.RAY_PORT}", "--block"]
    return node_process(plan, placed, argv=argv, env=_ray_env(plan, placed), secrets=[TOKEN], vital_titles=VITAL)
