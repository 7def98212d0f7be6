"""What preflight asks: parsers against captures, and the commands on this machine."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from overspan.inventory import gpus, machine, probes
from overspan.inventory.fact import Capture, Fact, Seen, read
from overspan.schema.errors import InputError
from overspan.transport.fake import Fake, Reply
from overspan.transport.local import Local

HERE = Path(__file__).parent
PING, IMAGE = probes.ping("10.99.0.2", 9000), probes.image("vllm/vllm-openai:v0.32.0")


def seen(fact: Fact[Any], case: str) -> Seen[Any]:
    meta = HERE / fact.name / f"{case}.json"
    extra = json.loads(meta.read_bytes()) if meta.exists() else {"argv": fact.argv, "code": 0}
    text = (HERE / fact.name / f"{case}.txt").read_text()
    return read(fact, Capture(fact=fact.name, stdout=text, **extra))


def test_ping() -> None:
    assert seen(PING, "whole").value == probes.Ping(3, 3, 0, 0.098)
    assert seen(PING, "lost_on_the_way").value == probes.Ping(3, 0, 0, None)
    assert seen(PING, "too_long_here").value == probes.Ping(3, 0, 3, None)
    no_route = seen(PING, "no_route")
    assert (no_route.value, no_route.why) == (None, "ping: connect: Network is unreachable")


def test_a_ping_is_as_large_as_the_mtu_with_its_headers() -> None:
    assert PING.argv[:2] == ["ping", "-4"] and PING.argv[-2:] == ["8972", "10.99.0.2"]
    assert probes.ping("fd00::2", 9000).argv[-2:] == ["8952", "fd00::2"]
    assert PING.argv[PING.argv.index("-M") + 1] == "do"
    for wrong in ("-f", "a'; touch /tmp/x #", "spark2", ""):
        with pytest.raises(InputError):
            probes.ping(wrong, 9000)


@pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed")
def test_ping_here() -> None:
    found, capture = probes.look(Local(), probes.ping("127.0.0.1", 1500))
    assert found.value is not None and found.value.received == 3, capture


def test_listeners_and_who_is_in_the_way() -> None:
    many = seen(probes.LISTENING, "many").value
    assert many is not None
    assert [one.port for one in many] == [53, 53, 8000, 22, 6379]
    api = probes.taken(many, 8000, "127.0.0.1")
    assert api is not None and (api.process, api.pid) == ("vllm", 4242)
    assert probes.taken(many, 53, "10.0.0.1") is None
    assert probes.taken(many, 53) is not None
    assert probes.taken(many, 6379, "10.0.0.1") is not None
    assert probes.taken(many, 8001) is None


@pytest.mark.skipif(shutil.which("ss") is None, reason="ss is not installed")
def test_a_port_taken_here_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found, _ = probes.look(Local(), probes.LISTENING)
        assert found.value is not None
        owner = probes.taken(found.value, port, "127.0.0.1")
        assert owner is not None and owner.address == "127.0.0.1"


def test_locked_memory() -> None:
    assert seen(probes.LIMITS, "debian_vm").value == probes.Limits(8388608, 8388608)
    text = "Max locked memory         unlimited            unlimited            bytes     \n"
    assert probes.parse_limits(text) == probes.Limits(probes.UNLIMITED, probes.UNLIMITED)


def test_free_memory_on_a_unified_machine_leaves_out_the_page_cache() -> None:
    memory = machine.parse_meminfo((HERE / "meminfo" / "gb10.txt").read_text())
    assert probes.really_free_bytes(memory, unified=True) == 8123456 * 1024
    assert probes.really_free_bytes(memory, unified=False) == 97654321 * 1024


def test_gpu_processes_and_load() -> None:
    (engine, screen) = seen(gpus.GPU_PROCESSES, "gb10").value or []
    assert engine == gpus.GpuProcess(114687, "/usr/local/bin/python", 19135 * 2**20)
    assert screen.memory_bytes is None
    assert seen(gpus.GPU_PROCESSES, "none").value == []
    (load,) = seen(gpus.GPU_LOAD, "gb10").value or []
    assert load == gpus.GpuLoad(0, 0.96, 17.42, None, 61.0)


def test_images_by_id() -> None:
    there = seen(IMAGE, "there").value
    assert there is not None and there.architecture == "arm64"
    absent = seen(IMAGE, "not_there")
    assert absent.value is None and "No such image" in absent.why


def test_a_path_is_an_argument_even_when_it_looks_like_an_option() -> None:
    assert probes.disk("-x").argv[-2:] == ["--", "-x"]
    assert IMAGE.argv[-2:] == ["--", "vllm/vllm-openai:v0.32.0"]
    found, _ = probes.look(Local(), probes.disk("/"))
    assert found.value is not None and found.value.total_bytes > 0
    found, _ = probes.look(Local(), probes.disk("/nowhere/at all"))
    assert found.value is None and found.absent


def test_what_is_not_installed_is_absent() -> None:
    found, capture = probes.look(Fake("spark1", [Reply(argv=["nvidia-smi", "**"], missing="x")]), gpus.GPU_LOAD)
    assert (found.absent, capture.missing) == (True, "nvidia-smi is not installed on spark1")


@pytest.mark.parametrize("fact", [PING, IMAGE, probes.LISTENING, probes.LIMITS, gpus.GPU_PROCESSES, gpus.GPU_LOAD])
@pytest.mark.parametrize("text", ["x", "a b c", "{}", "\x00", "1,2", "x, 1, 2"])
def test_nonsense_is_unknown(fact: Fact[Any], text: str) -> None:
    found = read(fact, Capture(fact=fact.name, argv=fact.argv, code=0, stdout=text))
    assert found.value is None and found.why
