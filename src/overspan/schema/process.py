"""One process of a run, as a launcher starts it."""

from typing import Any

from pydantic import Field, model_validator

from overspan.schema.base import Frozen


class Mount(Frozen):
    """A folder of the host, seen in a container."""

    source: str
    target: str
    read_only: bool = True


class ProcessSpec(Frozen):
    """One process: where it runs and its exact argv. Launchers take these and know nothing of engines.

    `secrets` names environment variables whose values travel outside argv, plan and labels: through a file of mode
    0600 or standard input. `vital_titles` are process titles (shell patterns) of children that must live as long as
    the process does: the death of one is the death of the process.
    """

    name: str
    host: str
    argv: list[str]
    env: dict[str, str] = Field(default_factory=dict)
    secrets: list[str] = Field(default_factory=list)
    cwd: str | None = None
    image: str | None = None
    entrypoint: str | None = None
    mounts: list[Mount] = Field(default_factory=list)
    docker_options: list[str] = Field(default_factory=list)
    ports: dict[str, int] = Field(default_factory=dict)
    ranks: list[int] = Field(default_factory=list)
    role: str = "aggregated"
    vital_titles: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_run(cls, data: Any) -> Any:
        """Runs made before December 2026 hold `waits_for`, which nothing ever read."""
        return {key: value for key, value in data.items() if key != "waits_for"} if isinstance(data, dict) else data

    @property
    def words(self) -> list[str]:
        """The whole command: in an image, the program that takes the place of its entrypoint comes first."""
        return [*([self.entrypoint] if self.entrypoint else []), *self.argv]
