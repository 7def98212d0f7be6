"""Resolve the locks of engines again, for each machine that they name: python scripts/lock_engines.py [NAME...]

What a lock asks for is in src/overspan/catalog/engines/NAME.yaml; this writes the list that it names, below the list's
comments. uv resolves from wheels alone, with the oldest Python that the lock names, and then tries the list with the
others. Pins that hold stay; with --upgrade each package is the newest. An exact pin of `asks` goes before what other
packages ask for. A package that comes from elsewhere (torch for CPUs) is resolved as the build of the same version that
the index has; what that one wants besides, `without` takes out.
It ends with 1 where a package has no wheel: say so in `machines`, or ask for another version.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from uv import find_uv_bin

from overspan.catalog import files
from overspan.provision import locked
from overspan.provision.locked import EngineLock, normal

HOME = files.FOLDER / "engines"


def main(words: list[str]) -> int:
    """Resolve and write each named lock, or all."""
    upgrade = "--upgrade" in words
    failed = 0
    for name in [word for word in words if word != "--upgrade"] or locked.known():
        try:
            write(name, upgrade)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error.stderr.strip()}", file=sys.stderr)
            failed = 1
    return failed


def write(name: str, upgrade: bool) -> None:
    """Resolve one lock for its machines, and write its list."""
    locks = [locked.load(name, machine) for machine in locked.load(name).machines]
    lists = {lock.machine: resolved(lock, upgrade) for lock in locks if lock.refusal is None}
    for lock in locks:
        for pin in lock.machines[lock.machine]:
            if has_wheel(lock, pin):
                print(f"{name}: {pin} has a wheel for {lock.machine} now: take it out of `machines`")
    everywhere = set.intersection(*map(set, lists.values()))
    lines = set(everywhere)
    for machine, pins in lists.items():
        lines |= {f'{pin} ; platform_machine == "{machine}"' for pin in set(pins) - everywhere}
    file = HOME / locks[0].requirements
    head = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    file.write_text("\n".join([*head, *sorted(lines)]) + "\n", encoding="utf-8")
    counts = ", ".join(f"{len(pins)} packages for {machine}" for machine, pins in lists.items())
    print(f"{name}: {counts}")


def resolved(lock: EngineLock, upgrade: bool) -> list[str]:
    """The pins of one machine, each seen to have a wheel for every Python of the lock."""
    first = min(lock.python, key=lambda version: [int(part) for part in version.split(".")])
    found = compiled(lock, first, lock.asks, [] if upgrade else lock.pins)
    for other in lock.python:
        if other != first:
            compiled(lock, other, [*found, "--no-deps"], [])
    return [as_written(pin, (*lock.pins, *lock.asks)) for pin in found]


def as_written(pin: str, known: tuple[str, ...]) -> str:
    """The pin as a list or a wish writes it already: its spelling, and the label of its build (`+cpu`)."""
    name, _, version = pin.partition("==")
    for other in known:
        its_name, _, its_version = other.partition("==")
        if normal(its_name) == normal(name) and its_version.partition("+")[0] == version:
            return other
    return pin


def compiled(lock: EngineLock, python: str, asks: list[str], kept: list[str]) -> list[str]:
    """What `uv pip compile` answers for a machine, as name==version."""
    options = [word for word in asks if word.startswith("--")]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        out = here / "out.txt"
        here.joinpath("asks.in").write_text("\n".join(public(lock, word) for word in asks if word not in options))
        here.joinpath("without.in").write_text("\n".join(lock.without))
        exact = [public(lock, word) for word in asks if "==" in word]
        here.joinpath("exact.in").write_text("\n".join(exact))
        out.write_text("\n".join(public(lock, pin) for pin in kept))
        platform = f"{lock.machine}-manylinux_{lock.glibc.replace('.', '_')}"
        command = [find_uv_bin(), "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate", *options]
        command += ["--only-binary", ":all:", "--python-platform", platform, "--python-version", python]
        command += ["--excludes", str(here / "without.in"), "--overrides", str(here / "exact.in")]
        command += ["--output-file", str(out), str(here / "asks.in")]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return [line.strip() for line in out.read_text().splitlines() if line.strip()]


def public(lock: EngineLock, pin: str) -> str:
    """The pin as the index knows it: a package from elsewhere without the label of its build (`+cpu`)."""
    name = pin.partition("==")[0]
    apart = lock.elsewhere is not None and normal(name) == normal(lock.elsewhere.package)
    return re.sub(r"\+.*", "", pin) if apart else pin


def has_wheel(lock: EngineLock, pin: str) -> bool:
    """Whether a pin that had no wheel has one."""
    try:
        return bool(compiled(lock, lock.python[0], [pin, "--no-deps"], []))
    except subprocess.CalledProcessError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
