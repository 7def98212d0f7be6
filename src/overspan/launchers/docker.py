"""Containers on any hosts, each reached over a transport. The hosts' engines own them; any shell finds them again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, TypeVar

from overspan.launchers import docker_commands as commands
from overspan.launchers.base import Death, Health, Member
from overspan.launchers.docker_state import QUERY_TIMEOUT_S, Container, clock_offset, containers_of, look, seconds
from overspan.launchers.docker_watch import Site, Watched, Watcher
from overspan.launchers.follow import Follower
from overspan.schema.errors import OverspanError
from overspan.schema.process import ProcessSpec
from overspan.transport.base import Transport

FLUSH_S: Final = 5.0
"""How long the last lines of an ended container may take to arrive; they are there already."""

START_TIMEOUT_S: Final = 120.0
"""`docker run` of an image that is there; creating the container's file system takes the longest."""

STOP_MARGIN_S: Final = 30.0
"""What Docker may need beyond the grace to kill and clean up. Source: its own client waits 10 s for each kill."""

CONNECT_MARGIN_S: Final = 15.0
"""A host that is gone costs its transport's connection timeout and probes first."""

Answer = TypeVar("Answer")


class DockerLauncher:
    """See `Launcher`. Use it from one thread; what takes long on a host happens in threads of its own."""

    def __init__(self, run: str, transports: Mapping[str, Transport], logs: Path) -> None:
        self._run = run
        self._logs = logs
        self._sites = {host: Site(host, transport) for host, transport in transports.items()}
        self._watched: dict[str, Watched] = {}
        self._followers: dict[str, Follower] = {}
        self._pool = ThreadPoolExecutor(max_workers=4 * len(transports), thread_name_prefix="docker")
        self._watcher = Watcher(self._sites, self._watched, self._pool)

    # start -----------------------------------------------------------------------------------------------------------

    def start(self, spec: ProcessSpec, secrets: Mapping[str, str]) -> None:
        """See `Launcher.start`."""
        self.start_all([spec], secrets)

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, str]) -> None:
        """Start several processes at once, on however many hosts.

        Raises:
            OverspanError: the first that could not be started; `end` removes the others.
        """
        for spec in specs:
            missing = [name for name in spec.secrets if name not in secrets]
            if missing:
                raise OverspanError(f"process {spec.name} needs {', '.join(missing)}, which is not set")
            if spec.host not in self._sites:
                raise OverspanError(f"process {spec.name} is for host {spec.host}, which this run cannot reach")
            self._forget(spec.name)
        starting = [(spec, self._pool.submit(self._start_on_host, spec, secrets)) for spec in specs]
        wait([future for _, future in starting])
        for spec, future in starting:
            if future.exception() is None:
                self._watch(spec.host, future.result(), spec.name, spec.ranks, spec.vital_titles, from_start=False)
        for _, future in starting:
            future.result()

    def _start_on_host(self, spec: ProcessSpec, secrets: Mapping[str, str]) -> str:
        """Run the container and give its id. Called from a thread of its own."""
        transport = self._sites[spec.host].transport
        self._sites[spec.host].clock_ahead_s = clock_offset(transport)
        with self._secrets_on(transport, {name: secrets[name] for name in spec.secrets}) as folder:
            entrypoint = _entrypoint(transport, spec) if folder and spec.entrypoint is None else []
            argv = commands.docker_run(spec, self._run, secrets_folder=folder, image_entrypoint=entrypoint)
            done = transport.run(argv, timeout_s=START_TIMEOUT_S)
        if done.code == 0:
            return done.stdout.split()[-1]
        name = commands.container_name(self._run, spec.name)
        transport.run(commands.remove([name]), timeout_s=START_TIMEOUT_S)  # it may have been created, never started
        said = [line for line in done.stderr.splitlines() if line.startswith("docker: ")] or done.stderr.splitlines()
        raise OverspanError(
            f"process {spec.name} could not start on {spec.host}: docker run ended with {done.code}",
            quote=said[0].removeprefix("docker: ") if said else None,
        )

    @contextlib.contextmanager
    def _secrets_on(self, transport: Transport, secrets: Mapping[str, str]) -> Iterator[str | None]:
        if not secrets:
            yield None
            return
        received = transport.run(commands.receive_secrets(), stdin=commands.secrets_text(secrets), timeout_s=30.0)
        folder = received.check("delivering secrets").stdout
        try:
            yield folder
        finally:
            transport.run(commands.forget_secrets(folder), timeout_s=30.0).check("removing delivered secrets")

    def _forget(self, process: str) -> None:
        """Remove what a process left when it died, so that it can be started again."""
        old = self._watched.pop(process, None)
        if old is not None:
            self._followers.pop(process).join(FLUSH_S)
            self._sites[old.host].transport.run(commands.remove([old.container]), timeout_s=START_TIMEOUT_S)

    def _watch(
        self, host: str, container: str, process: str, ranks: list[int], vital: list[str], *, from_start: bool
    ) -> None:
        self._watched[process] = Watched(host, container, process, ranks, vital)
        log = self._logs / f"{process}.log"
        log.touch()
        follower = Follower(self._sites[host].transport, container, log, from_start=from_start)
        self._followers[process] = follower
        follower.start()

    # find again ------------------------------------------------------------------------------------------------------

    def adopt(self, specs: Iterable[ProcessSpec] = ()) -> list[str]:
        """Take over the containers of this run that another launcher started; their logs are written anew, whole.

        Args:
            specs: for the vital titles, which no label carries.

        Returns:
            The hosts that did not answer, each with the reason.
        """
        vital = {spec.name: spec.vital_titles for spec in specs}

        def found(site: Site) -> list[Container]:
            site.clock_ahead_s = clock_offset(site.transport)
            return look(site.transport, containers_of(site.transport, self._run))

        answers, problems = self._everywhere(found, QUERY_TIMEOUT_S)
        for host, containers in answers.items():
            for one in containers:
                if one.process not in self._watched:
                    self._watch(host, one.id, one.process, one.ranks, vital.get(one.process, []), from_start=True)
        return problems

    def look(self) -> tuple[list[Member], dict[str, str]]:
        """This run's containers as they are now, whoever started them; nothing is taken over and no log is touched.

        Returns:
            The members, and for each host that did not answer the reason.
        """
        answers, problems = self._everywhere(
            lambda site: look(site.transport, containers_of(site.transport, self._run)), QUERY_TIMEOUT_S
        )
        members = [
            _member(Watched(host, one.id, one.process, one.ranks, []), one, True)
            for host, found in answers.items()
            for one in found
        ]
        silent = [host for host in self._sites if host not in answers]
        return members, dict(zip(silent, problems, strict=True))

    # watch -----------------------------------------------------------------------------------------------------------

    def waiting(self) -> None:
        """See `Launcher.waiting`: what was started runs."""

    def address_of(self, host: str) -> None:
        """See `Launcher.address_of`: hosts are those of the inventory."""

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`. A host that does not answer is not dead: its processes are unknown until it returns."""
        return self._watcher.wait(timeout_s)

    def members(self) -> list[Member]:
        """See `Launcher.members`. Each host is asked now."""
        ids = {host: [one.container for one in self._watched.values() if one.host == host] for host in self._sites}
        answers, _ = self._everywhere(lambda site: look(site.transport, ids[site.host]), QUERY_TIMEOUT_S)
        seen = {one.id: one for found in answers.values() for one in found}
        return [_member(one, seen.get(one.container), one.host in answers) for one in self._watched.values()]

    # end -------------------------------------------------------------------------------------------------------------

    def end(self, grace_s: float) -> list[str]:
        """See `Launcher.end`. Whatever bears the run's label ends, whoever started it; twice is fine."""

        def stop(site: Site) -> None:
            if ids := containers_of(site.transport, self._run):
                site.transport.run(commands.stop(ids, grace_s), timeout_s=grace_s + STOP_MARGIN_S)

        def remove(site: Site) -> None:
            if ids := containers_of(site.transport, self._run):
                site.transport.run(commands.remove(ids), timeout_s=STOP_MARGIN_S)
            if left := containers_of(site.transport, self._run):
                raise OverspanError(f"Docker does not remove {', '.join(name[:12] for name in left)}")

        stopped, problems = self._everywhere(stop, grace_s + STOP_MARGIN_S)
        for one in self._watched.values():
            follower = self._followers[one.process]
            follower.stop()
            if one.host in stopped:
                follower.join(FLUSH_S)
        _, unremoved = self._everywhere(remove, STOP_MARGIN_S, stopped)
        return problems + unremoved

    def close(self) -> None:
        """Let go of the containers, which go on; any launcher can adopt them."""
        for follower in self._followers.values():
            follower.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _everywhere(
        self, ask: Callable[[Site], Answer], timeout_s: float, hosts: Iterable[str] | None = None
    ) -> tuple[dict[str, Answer], list[str]]:
        """Do something on every host at once: the answers by host, and who gave none, with the reason."""
        asked = {host: self._pool.submit(ask, self._sites[host]) for host in (hosts or self._sites)}
        wait(asked.values(), timeout=timeout_s + CONNECT_MARGIN_S)
        answers: dict[str, Answer] = {}
        problems = []
        for host, future in asked.items():
            try:
                answers[host] = future.result(timeout=0)
            except TimeoutError:
                problems.append(f"{host} did not answer within {timeout_s + CONNECT_MARGIN_S:g} s")
            except OverspanError as error:
                problems.append(f"{host}: {error.what}" + (f" ({error.quote})" if error.quote else ""))
        return answers, problems


def _entrypoint(transport: Transport, spec: ProcessSpec) -> list[str]:
    """What the image itself starts with."""
    done = transport.run(commands.entrypoint_of(str(spec.image)), timeout_s=QUERY_TIMEOUT_S)
    return json.loads(done.check(f"looking at image {spec.image}").stdout) or []


def _member(one: Watched, now: Container | None, answered: bool) -> Member:
    health: Health = "unknown"
    if answered:
        health = "running" if now is not None and now.alive and not one.dead else "dead"
    running = now if now is not None and health == "running" else None
    return Member(
        process=one.process,
        host=one.host,
        health=health,
        pid=running.state.pid if running else None,
        container=one.container,
        memory_bytes=running.memory_bytes if running else None,
        started_at=seconds(now.state.started) if now else None,
    )
