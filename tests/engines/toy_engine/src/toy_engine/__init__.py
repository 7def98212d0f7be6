"""The engine `toy` as Overspan sees it; `toy_engine.server` is what runs."""

import sys
from pathlib import Path

from overspan.catalog.flags import Parser
from overspan.endpoint.metric_names import MetricNames
from overspan.engines.base import Engine
from overspan.schema.errors import PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe

VERSION = "1.0.0"

FLAGS = Parser(
    "Toy",
    VERSION,
    given={
        "token_ms": {"options": ["--token-ms"], "kind": "number", "minimum": 0},
        "shout": {"options": ["--shout"], "kind": "switch"},
    },
)


class Toy(Engine):
    """One process on one host, whatever the model."""

    name = "toy"
    title = "Toy"
    flags = FLAGS
    key_variable = "TOY_API_KEY"
    loads_weights = False
    metrics = MetricNames(
        gauges={"toy_requests_running": "running", "toy_requests_waiting": "waiting"},
        counters={"toy_prompt_tokens": "prompt_tokens", "toy_generation_tokens": "generation_tokens"},
    )

    def here(self, recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
        """It is installed beside Overspan, so it is always there."""
        return EngineChoice(name=self.name, version=VERSION)

    def processes(self, plan: Plan) -> list[ProcessSpec]:
        """The server, on the only host."""
        if plan.recipe.topology is not None or plan.layout.world_size > 1:
            raise PlanRefused("this plan cannot be started:", ["engine toy has one rank"], next="--set layout=tp1")
        place = plan.placements[0]
        argv = [sys.executable, "-m", "toy_engine.server", "--model", plan.endpoint.model]
        argv += ["--host", plan.recipe.host, "--port", str(plan.endpoint.port)]
        return [
            ProcessSpec(
                name=place.process,
                host=place.host,
                argv=[*argv, *self.flags.to_argv(plan.recipe.engine_args)],
                env={"PYTHONPATH": str(Path(__file__).parents[1]), **plan.inventory.env, **plan.recipe.env},
                secrets=[self.key_variable] if plan.recipe.api_key else [],
                ports={"api": plan.endpoint.port},
                ranks=place.ranks,
            )
        ]


ENGINE = Toy()
