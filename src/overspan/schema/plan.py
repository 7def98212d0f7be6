"""plan.json: what will run, where, and what was rejected and why. Labels and counts are derived from it."""

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.inventory import Host, Inventory
from overspan.schema.layout import Layout
from overspan.schema.prediction import Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.topology import RoleName


class Placement(Frozen):
    """One rank (or the one process that holds several) on one host."""

    process: str
    host: str
    ranks: list[int]
    gpus: list[int] = Field(default_factory=list, description="indices on that host; empty on a CPU")
    role: RoleName = "aggregated"
    worker: int = Field(0, ge=0, description="its number within the role")


class Rejection(Frozen):
    """A layout that cannot run, with the reason and its arithmetic."""

    layout: Layout
    reason: str


class EngineChoice(Frozen):
    """The engine that will run: an environment of this machine, or an image."""

    name: str
    version: str
    assumed: str | None = Field(None, description="why `version` is assumed, where no engine told it")
    environment: str | None = Field(None, description="folder of the engine's own Python environment")
    image: str | None = None
    router: str | None = Field(None, description="folder of the environment of vLLM's router")
    notes: list[str] = Field(default_factory=list, description="how it was found, and what was left aside")


class Endpoint(Frozen):
    """Where the model answers, as seen from this machine. A tunnel leads there while the run's supervisor lives."""

    host: str
    port: int
    model: str
    tunnel: bool = False

    @property
    def base_url(self) -> str:
        """The OpenAI base URL, with `/v1`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


class Parameters(Frozen):
    """The size of a model."""

    total: int = Field(description="parameters in all")
    active: int = Field(description="those that one token uses, without embedding, head and MTP layers")


class RankMemory(Frozen):
    """Bytes of the fullest rank by term. A term that nothing here can count is null."""

    weights: int | None
    kv: int | None = Field(description="the cache: kv_cache_memory_bytes, or one sequence of the whole context")
    state: int | None = Field(description="of layers with linear attention")
    activations: int | None
    graphs: int | None
    context: int | None = Field(description="the engine itself, before any model")
    budget: int | None = Field(description="what the rank may use")
    assumed: list[str] = Field(default_factory=list, description="terms that are estimates")


class Plan(Frozen):
    """What will run. `model_path` is filled where the model is on this machine's disk already."""

    recipe: Recipe
    inventory: Inventory
    layout: Layout
    engine: EngineChoice
    endpoint: Endpoint
    placements: list[Placement]
    model_path: str | None = None
    model_digest: str | None = None
    part: str | None = Field(None, description="the one host whose ranks this run starts; others join by themselves")
    dtype: str | None = Field(None, description="what the engine computes in, where that is not the checkpoint's own")
    model_source: str | None = Field(None, description="where each node copies the weights from, before the start")
    memory_per_rank: dict[str, int] = Field(default_factory=dict, description="bytes by term, fullest rank")
    parameters: Parameters | None = Field(None, description="null where the model's sizes are not at hand")
    memory: RankMemory | None = Field(None, description="the fullest rank; null where it is not counted")
    prediction: Prediction | None = None
    rejected: list[Rejection] = Field(
        default_factory=list,
        description="layouts that cannot run here, 50 of them at most; `plan --explain` has all",
    )
    notes: list[str] = Field(default_factory=list)
    overspan_version: str

    @property
    def head(self) -> str:
        """The host of rank 0, which answers requests."""
        return self.placements[0].host

    def host(self, name: str) -> Host:
        """The machine of that name; a placement's is always there."""
        return next(host for host in self.inventory.hosts if host.name == name)

    @property
    def is_joiner(self) -> bool:
        """Whether this run starts ranks beside a head that another run started."""
        return self.part is not None and self.part != self.head

    @property
    def own(self) -> list[Placement]:
        """What this run starts itself."""
        return [each for each in self.placements if self.part in (None, each.host)]

    @property
    def awaited(self) -> list[Placement]:
        """What others start, on their own hosts."""
        return [each for each in self.placements if self.part not in (None, each.host)]
