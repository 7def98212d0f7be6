"""An engine's lock: a named pair of files, `NAME.yaml` (what it is) and its list of pinned packages."""

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Final

from pydantic import Field

from overspan.catalog import files
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, UnknownName
from overspan.schema.yamlio import make, read_yaml

_HOME: Final = files.FOLDER / "engines"
_PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*")


class Elsewhere(Frozen):
    """One package that pip's own configuration may not supply, and the index that does."""

    package: str
    index: str = Field(description="default address of the index")
    variable: str = Field(description="environment variable that names another index")


class Alias(Frozen):
    """A distribution that must be found under another name and version as well."""

    of: str
    name: str
    version: str


class EngineLock(Frozen):
    """What makes an engine environment. All that changes what is installed is in its digest."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    description: str
    requirements: str = Field(description="file of name==version lines beside this one")
    version: str = Field(description="what the probe prints")
    python: list[str] = Field(min_length=1, description="Python versions that it runs on, as major.minor")
    needs_bytes: int = Field(gt=0, description="free bytes to ask for before beginning")
    elsewhere: Elsewhere | None = None
    alias: Alias | None = None
    script: str | None = Field(None, description="a command in its bin/ that must answer --version")
    probe: str = Field(description="Python that ends well in a good environment and prints the engine's version")
    imports: list[str] = Field(default_factory=list, description="modules that it loads at its start: tried, compiled")
    pins: list[str] = Field(default_factory=list, description="the lines of `requirements`")

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits: the same for the same environment."""
        content = self.model_dump(mode="json", exclude={"description", "needs_bytes", "requirements", "imports"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """Name and digest: the environment's folder."""
        return f"{self.name}-{self.digest}"

    @property
    def apart(self) -> str | None:
        """The pin of the package that may come from elsewhere."""
        wanted = normal(self.elsewhere.package) if self.elsewhere else None
        return next((pin for pin in self.pins if normal(pin.partition("==")[0]) == wanted), None)


def normal(package: str) -> str:
    """A package's name as indexes compare it. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", package).lower()


def known() -> list[str]:
    """The engines that can be installed."""
    return sorted(file.stem for file in _HOME.glob("*.yaml"))


def load(name: str) -> EngineLock:
    """The lock of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in known():
        raise UnknownName("engine", name, known())
    return read(_HOME / f"{name}.yaml", _HOME)


def read(file: Path, home: Path) -> EngineLock:
    """A lock from its file; the list that it names stands in the folder `home`.

    Raises:
        RecipeError: the file is malformed.
        InputError: a line of its list is not a pin.
    """
    data, places = read_yaml(file.read_text(encoding="utf-8"), file.name)
    lock = make(EngineLock, data, file.name, places)
    lines = (home / lock.requirements).read_text(encoding="utf-8").splitlines()
    pins = [text for line in lines if (text := line.partition("#")[0].strip())]
    for pin in pins:
        if not _PIN.fullmatch(pin):
            raise InputError(f"{lock.requirements}: not of the form name==version", quote=pin)
    return lock.with_(pins=pins)
