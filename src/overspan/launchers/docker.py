"""Containers on any hosts, each reached over a transport. The hosts' engines own them; any shell finds them again."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from overspan.launchers import docker_commands as commands
from overspan.launchers.base import PYTHONPATH, Death, Health, Launcher, Member, as_text, require_secrets, with_path
from overspan.launchers.docker_watch import (
    QUERY_TIMEOUT_S,
    Container,
    DockerHost,
    Follower,
    Watched,
    Watcher,
    clock_offset,
    containers_of,
    look,
    seconds,
)
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.inventory import Host
from overspan.schema.launcher_traits import BUILT_IN
from overspan.schema.plan import Plan
from overspan.schema.process import Mount, ProcessSpec
from overspan.schema.secrets import Secret
from overspan.schema.units import count

# As in `base`: what only a run needs is imported by the run.
if TYPE_CHECKING:
    from overspan.store.locks import Say
    from overspan.store.run_folder import RunFolder
    from overspan.transport.base import Transport

FLUSH_S: Final = 5.0
"""How long the last lines of an ended container may take to arrive; they are there already."""

START_TIMEOUT_S: Final = 120.0
"""`docker run` of an image that is there; creating the container's file system takes the longest."""

STOP_MARGIN_S: Final = 30.0
"""What Docker may need beyond the grace to kill and clean up. Source: its own client waits 10 s for each kill."""

CONNECT_MARGIN_S: Final = 15.0
"""A host that is gone costs its transport's connection timeout and probes first."""

T = TypeVar("T")


class DockerLauncher(Launcher):
    """See `Launcher`. Use it from one thread; what takes long on a host happens in threads of its own."""

    traits = BUILT_IN["docker"]
    asks_hosts = True

    def __init__(
        self, plan: Plan, run: RunFolder | None = None, transports: Mapping[str, Transport] | None = None
    ) -> None:
        super().__init__(plan, run, transports)
        self._watched: dict[str, Watched] = {}
        self._followers: dict[str, Follower] = {}

    @cached_property
    def _hosts(self) -> dict[str, DockerHost]:
        return {host: DockerHost(host, transport) for host, transport in self.transports.items()}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=4 * len(self._hosts), thread_name_prefix="docker")

    @cached_property
    def _watcher(self) -> Watcher:
        return Watcher(self._hosts, self._watched, self._pool)

    # before a launch -------------------------------------------------------------------------------------------------

    def stage(self, plan: Plan, say: Say, *, prepared_here: bool) -> Plan:
        """See `Launcher.stage`: each is copied once, over the fabric where the hosts reach each other."""
        from overspan.provision import images
        from overspan.provision.folders import copy_folder
        from overspan.transport.copying import ReachableHost
        from overspan.transport.local import Local
        from overspan.transport.reach import reach

        if plan.engine.image is None or plan.model_path is None:
            raise InputError("a launch in containers needs an image and a model")
        hosts = [ReachableHost(host, reach(host)) for host in self.hosts]
        try:
            for name in images.same_image(hosts, plan.engine.image, say=say):
                say(f"image {plan.engine.image} was copied to {name}")
            here = ReachableHost(Host(name="localhost", memory_bytes=1), Local())
            source = here if prepared_here else hosts[0]
            for each in hosts:
                if each is source or (each.host.ssh is None and source is here):
                    continue
                copied = copy_folder(source, each, plan.model_path, say=say)
                if copied.files:
                    say(f"copied {count(len(copied.files), 'file')} of the model to {each.host.name}")
                source = each if source is here and each.host.fabric else source
        finally:
            for each in hosts:
                each.transport.close()
        return plan

    def with_packages(self, folder: Path, specs: Sequence[ProcessSpec], say: Say) -> list[ProcessSpec] | str:
        """See `Launcher.with_packages`: copied to each host, and mounted. What the image says goes on to count."""
        from overspan.provision.folders import copy_folder
        from overspan.transport.copying import ReachableHost
        from overspan.transport.local import Local
        from overspan.transport.reach import reach

        here, changed = ReachableHost(Host(name="localhost", memory_bytes=1), Local()), []
        for host in self.hosts:
            if host.ssh is not None:
                with contextlib.closing(reach(host)) as way:
                    copy_folder(here, ReachableHost(host, way), str(folder))
        for spec in specs:
            own = _path_of_image(self.transports[spec.host], str(spec.image))
            if own is None:
                return f"image {spec.image} of {spec.host} does not tell its PYTHONPATH"
            mounts = [*spec.mounts, Mount(source=str(folder), target=str(folder))]
            changed.append(with_path(spec, str(folder), own).with_(mounts=mounts))
        return changed

    def commands(self, specs: Sequence[ProcessSpec], run: str = "by-hand") -> str:
        """See `Launcher.commands`."""
        return "\n\n".join(as_text(spec, shlex.join(commands.docker_run(spec, run))) for spec in specs)

    # start -----------------------------------------------------------------------------------------------------------

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
        """See `Launcher.start_all`."""
        require_secrets(specs, secrets)
        for spec in specs:
            if spec.host not in self._hosts:
                raise OverspanError(f"process {spec.name} is for host {spec.host}, which this run cannot reach")
            self._forget(spec.name)
        starting = [(spec, self._pool.submit(self._start_on_host, spec, secrets)) for spec in specs]
        wait([future for _, future in starting])
        for spec, future in starting:
            if future.exception() is None:
                self._watch(spec, future.result())
        for _, future in starting:
            future.result()

    def _start_on_host(self, spec: ProcessSpec, secrets: Mapping[str, Secret]) -> str:
        """Run the container and give its id. Called from a thread of its own."""
        transport = self._hosts[spec.host].transport
        self._hosts[spec.host].clock_ahead_s = clock_offset(transport)
        with _secrets_on(transport, {name: secrets[name] for name in spec.secrets}) as folder:
            entrypoint = _entrypoint(transport, spec) if folder and spec.entrypoint is None else []
            argv = commands.docker_run(spec, self.run.id, secrets_folder=folder, image_entrypoint=entrypoint)
            done = transport.run(argv, timeout_s=START_TIMEOUT_S)
        if done.code == 0:
            return done.stdout.split()[-1]
        name = commands.container_name(self.run.id, spec.name)
        transport.run(commands.remove([name]), timeout_s=START_TIMEOUT_S)  # it may have been created, never started
        said = [line for line in done.stderr.splitlines() if line.startswith("docker: ")] or done.stderr.splitlines()
        raise OverspanError(
            f"process {spec.name} could not start on {spec.host}: docker run ended with {done.code}",
            quote=said[0].removeprefix("docker: ") if said else None,
        )

    def _forget(self, process: str) -> None:
        """Remove what a process left when it died, so that it can be started again."""
        old = self._watched.pop(process, None)
        if old is not None:
            self._followers.pop(process).join(FLUSH_S)
            self._hosts[old.spec.host].transport.run(commands.remove([old.container]), timeout_s=START_TIMEOUT_S)

    def _watch(self, spec: ProcessSpec, container: str) -> None:
        self._watched[spec.name] = Watched(spec, container)
        log = self.run.log(spec.name)
        log.touch()
        follower = Follower(self._hosts[spec.host].transport, container, log)
        self._followers[spec.name] = follower
        follower.start()

    # watch -----------------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`. A host that does not answer is not dead: its processes are unknown until it returns."""
        return self._watcher.wait(timeout_s)

    def members(self) -> list[Member]:
        """See `Launcher.members`. Each host is asked now."""
        started = self._watched.values()
        ids = {host: [one.container for one in started if one.spec.host == host] for host in self._hosts}
        answers, _ = self._everywhere(lambda host: look(host.transport, ids[host.name]), QUERY_TIMEOUT_S)
        seen = {one.id: one for found in answers.values() for one in found}
        members = []
        for one in started:
            now = seen.get(one.container)
            health: Health = "dead" if one.dead or now is None or not now.alive else "running"
            asked = one.spec.host in answers
            members.append(_member(one.spec.name, one.spec.host, health if asked else "unknown", one.container, now))
        return members

    def look(self) -> tuple[list[Member], dict[str, str]]:
        """See `Launcher.look`: the containers that bear the run's label."""
        answers, silent = self._everywhere(
            lambda host: look(host.transport, containers_of(host.transport, self.run.id)), QUERY_TIMEOUT_S
        )
        return [
            _member(one.process, host, "running" if one.alive else "dead", one.id, one)
            for host, found in answers.items()
            for one in found
        ], silent

    # end -------------------------------------------------------------------------------------------------------------

    def end(self, grace_s: float) -> list[str]:
        """See `Launcher.end`. Every container with the run's label ends; a second call does no harm."""

        def stop(host: DockerHost) -> None:
            if ids := containers_of(host.transport, self.run.id):
                host.transport.run(commands.stop(ids, grace_s), timeout_s=grace_s + STOP_MARGIN_S)

        def remove(host: DockerHost) -> None:
            if ids := containers_of(host.transport, self.run.id):
                host.transport.run(commands.remove(ids), timeout_s=STOP_MARGIN_S)
            if left := containers_of(host.transport, self.run.id):
                raise OverspanError(f"Docker did not remove {', '.join(name[:12] for name in left)}")

        stopped, silent = self._everywhere(stop, grace_s + STOP_MARGIN_S)
        for one in self._watched.values():
            follower = self._followers[one.spec.name]
            follower.stop()
            if one.spec.host in stopped:
                follower.join(FLUSH_S)
        _, unremoved = self._everywhere(remove, STOP_MARGIN_S, stopped)
        return [*silent.values(), *unremoved.values()]

    def close(self) -> None:
        """See `Launcher.close`."""
        for follower in self._followers.values():
            follower.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _everywhere(
        self, ask: Callable[[DockerHost], T], timeout_s: float, hosts: Iterable[str] | None = None
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Do something on every host at once: the answers by host, and by host why there is none."""
        asked = {host: self._pool.submit(ask, self._hosts[host]) for host in (self._hosts if hosts is None else hosts)}
        wait(asked.values(), timeout=timeout_s + CONNECT_MARGIN_S)
        answers: dict[str, T] = {}
        silent: dict[str, str] = {}
        for host, future in asked.items():
            try:
                answers[host] = future.result(timeout=0)
            except TimeoutError:
                silent[host] = f"{host} did not answer within {timeout_s + CONNECT_MARGIN_S:g} s"
            except OverspanError as error:
                silent[host] = f"{host}: {error.in_one_line}"
        return answers, silent


@contextlib.contextmanager
def _secrets_on(transport: Transport, secrets: Mapping[str, Secret]) -> Iterator[str | None]:
    """The folder on the host that holds the secrets while the block runs; None where there are none."""
    if not secrets:
        yield None
        return
    received = transport.run(commands.receive_secrets(), stdin=commands.secrets_text(secrets), timeout_s=30.0)
    folder = received.check("delivering secrets").stdout
    try:
        yield folder
    finally:
        transport.run(commands.forget_secrets(folder), timeout_s=30.0).check("removing delivered secrets")


def _path_of_image(transport: Transport, image: str) -> str | None:
    """The PYTHONPATH that an image sets; None where Docker does not tell."""
    from overspan.transport.docker import image_inspect

    done = transport.run(image_inspect(image, "{{json .Config.Env}}"), timeout_s=QUERY_TIMEOUT_S)
    try:
        words = (json.loads(done.stdout) or []) if done.code == 0 else None
    except ValueError:
        words = None
    if words is None:
        return None
    return next((word.partition("=")[2] for word in words if word.startswith(f"{PYTHONPATH}=")), "")


def _entrypoint(transport: Transport, spec: ProcessSpec) -> list[str]:
    """What the image itself starts with."""
    from overspan.transport.docker import image_inspect

    done = transport.run(image_inspect(str(spec.image), "{{json .Config.Entrypoint}}"), timeout_s=QUERY_TIMEOUT_S)
    return json.loads(done.check(f"looking at image {spec.image}").stdout) or []


def _member(process: str, host: str, health: Health, container: str, now: Container | None) -> Member:
    living = now if health == "running" else None
    return Member(
        process=process,
        host=host,
        health=health,
        pid=living.state.pid if living else None,
        container=container,
        memory_bytes=living.memory_bytes if living else None,
        started_at=seconds(now.state.started) if now else None,
    )


LAUNCHER = DockerLauncher
