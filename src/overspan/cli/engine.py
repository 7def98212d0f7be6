"""`overspan engine`: the engine environments of this user."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overspan.cli.options import AS_JSON, PATH, Names
from overspan.cli.output import Ticker, say, table
from overspan.schema.errors import InputError
from overspan.schema.units import count

if TYPE_CHECKING:
    from overspan.provision.engines import EngineEnv
    from overspan.provision.own import OwnEngine


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def engine() -> None:
    """Install, list and remove engines. Each has an environment of its own."""


@engine.command()
@click.argument("name", type=Names("engines"))
@click.option("--python", metavar="PATH", help="Python for the engine's environment.")
@AS_JSON
def install(name: str, python: str | None, as_json: bool) -> None:
    """Install an engine. An engine that is installed already stays as it is."""
    from overspan.inventory.here import this_machine
    from overspan.provision import engines, fitting

    ticker = Ticker()

    def line(text: str) -> None:
        ticker.clear()
        say(text)

    found = fitting.fit(name, this_machine().hosts[0].gpus)
    for note in found.notes:
        say(note)
    env = engines.install(found.lock, python=python, say=line, detail=ticker.show)
    if as_json:
        click.echo(env.model_dump_json(indent=2))


@engine.command()
@click.argument("folder", required=False, type=PATH)
@click.option("--image", metavar="NAME", help="Ask the engine in this container image, in place of a folder.")
@AS_JSON
def learn(folder: Path | None, image: str | None, as_json: bool) -> None:
    """Ask the vLLM in an environment's FOLDER for its flags. Recipes are then checked against these."""
    from overspan.provision import learned

    if (folder is None) == (image is None):
        raise InputError("one engine is needed: FOLDER or --image NAME", next="overspan engine learn --help")
    version = learned.of_environment(folder, say=say) if folder else learned.of_image(str(image), say=say)
    if as_json:
        click.echo(json.dumps({"engine": "vllm", "version": version}))


@engine.command()
@click.argument("path", required=False, type=PATH)
@click.option("--none", "forget", is_flag=True, help="Take it back: no vLLM of your own is used any more.")
@AS_JSON
def use(path: Path | None, forget: bool, as_json: bool) -> None:
    """Name a vLLM of your own, once for this machine. `up` and `plan` then use it.

    PATH is a Python that has vLLM, the folder of its environment, or its bin/vllm. Without a PATH, it is shown.

    The engine of this machine is the first of these: the inventory's engine_environment; the one named here; where
    there are GPUs, vllm on the PATH; the one that `overspan engine install` made. One that is built for another
    device (CPU or GPU) is passed over.
    """
    from overspan.provision import own

    if path is not None and forget:
        raise InputError("PATH and --none exclude each other", next="overspan engine use --help")
    if forget:
        say("taken back" if own.forget() else "none was named")
    elif path is not None:
        own.use(path)
    kept = own.find()
    if as_json:
        click.echo(json.dumps({"own": _own_json(kept)}, indent=2))
    elif kept is not None:
        click.echo(_own_line(kept))
    elif not forget:
        click.echo("no vLLM is named: overspan engine use PATH")


def _own_json(kept: OwnEngine | None) -> dict[str, object] | None:
    return {**kept.model_dump(mode="json"), "is_there": kept.is_there} if kept else None


def _own_line(kept: OwnEngine) -> str:
    device = f"for {kept.device}" if kept.device else "device not known"
    gone = "" if kept.is_there else "  (no vLLM is there any more)"
    return f"vLLM {kept.version}  {device}  {kept.path}{gone}"


@engine.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List the engines of this machine: what is installed, what it could run, and why not the rest."""
    from overspan.inventory.here import this_machine
    from overspan.provision import engines, environments, fitting, locked, own

    host = this_machine().hosts[0]
    kept, on_path, found = own.find(), environments.on_path(), engines.installed()
    missing = [name for name in locked.known() if not any(env.name == name and env.current for env in found)]
    locks = [locked.load(name) for name in missing]
    refused = {lock.name: why for lock in locks if (why := fitting.misfit(lock, host.gpus)) is not None}
    idle = {lock.name: "no GPU is seen on this machine" for lock in locks if lock.gpus and not host.gpus} | refused
    if as_json:
        document = {
            "installed": [env.model_dump(mode="json") for env in found],
            "can_install": [name for name in missing if name not in refused],
            "cannot_install": refused,
            "cannot_run": idle,
            "damaged": engines.damaged(),
            "own": _own_json(kept),
            "on_path": str(on_path) if on_path else None,
        }
        click.echo(json.dumps(document, indent=2))
        return
    drivers = sorted({gpu.driver for gpu in host.gpus if gpu.driver})
    gpus = f"{count(len(host.gpus), 'GPU')}, driver {', '.join(drivers) or 'not known'}" if host.gpus else "no GPU"
    click.echo(f"this machine: {host.arch or platform.machine()}, {gpus}")
    rows = [("own", _own_line(kept))] if kept else []
    if on_path is not None and (version := environments.version_in(on_path)):
        rows.append(("on PATH", f"vLLM {version}  {on_path}"))
    what = {name: locked.load(name).description for name in locked.known()}
    rows += [(env.name, _installed_line(env, what.get(env.name, ""))) for env in found]
    for lock in locks:
        why = idle.get(lock.name)
        state = f"not for this machine: {why}" if why else f"not installed: overspan engine install {lock.name}"
        rows.append((lock.name, f"{state}  ({lock.description})"))
    rows += [("damaged", line) for line in engines.damaged()]
    click.echo(table(["engine", "state"], rows, free=(1,)))


def _installed_line(env: EngineEnv, what: str) -> str:
    from overspan.provision import space

    other = platform.machine() != env.machine
    note = "" if env.current else f"  (for {env.machine})" if other else "  (made by another version of Overspan)"
    known = f"{env.version}  Python {env.python_version}  {space.size(env.size_bytes)}"
    return f"{known}  {f'({what})  ' if what else ''}{env.path}{note}"


@engine.command()
@click.argument("name", type=Names("installed"))
@AS_JSON
def remove(name: str, as_json: bool) -> None:
    """Delete an engine's environment."""
    from overspan.provision import engines

    gone = engines.remove(name, say=say)
    for env in gone:
        say(f"removed {env.path}")
    if as_json:
        click.echo(json.dumps({"removed": [str(env.path) for env in gone]}))
