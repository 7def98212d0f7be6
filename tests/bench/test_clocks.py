"""Clocks, power and what slows the GPUs down, of every host of a run, beside the load."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from overspan.bench import clocks
from overspan.bench.clocks import ClockWatch, GpuHosts, clock_notes, clocks_of, hosts_of_run, hosts_of_url, totals
from overspan.bench.run import Bench
from overspan.inventory.clocks import FIELDS, known_fields, parse_samples
from overspan.schema.errors import OverspanError
from overspan.schema.workload import GaugeSummary, GpuClocks, Workload
from overspan.transport.local import Local
from overspan.transport.ssh import Remote
from support.openai_server import serving, steady
from support.run_documents import gpu_plan, plan, point
from support.sshd import running_sshd
from support.waiting import until

CAPTURED = Path(__file__).parents[1] / "inventory" / "gpu_clocks"
# As the H200 was asked on 2026-11-30.
ASKED = (
    "index", "clocks.sm", "clocks.max.sm", "power.draw", "enforced.power.limit", "clocks_event_reasons.active",
    "clocks_event_reasons.sw_power_cap", "clocks_event_reasons.hw_slowdown", "clocks_event_reasons.hw_thermal_slowdown",
    "clocks_event_reasons.hw_power_brake_slowdown", "clocks_event_reasons.sw_thermal_slowdown", "utilization.gpu",
    "memory.used", "temperature.gpu", "mig.mode.current",
)  # fmt: skip
SMI = """#!/bin/bash
unknown=$(grep -o '{unknown}[a-z_.]*' <<<"$*" | head -1)
[ -z "$unknown" ] || { echo "Field \\"$unknown\\" is not a valid field to query."; exit 2; }
while :; do
  echo "0, 1410, 1980, 691.83, 700.00, 100, 2163, Active, Not Active, Not Active, Not Active, Not Active"
  echo "1, 1980, 1980, 130.84, 700.00, 0, 0, Not Active, Not Active, Not Active, Not Active, Not Active"
  [[ "$*" == *loop-ms* ]] || exit 0
  sleep 0.1
done
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nvidia-smi on the PATH that knows every field."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return written(tmp_path, SMI.replace("{unknown}", "no.such"))


def written(folder: Path, text: str) -> Path:
    file = folder / "nvidia-smi"
    file.write_text(text)
    file.chmod(0o755)
    return file


def test_an_h200_under_load_is_at_its_cap() -> None:
    """Idle, then matrix products for 15 s, then idle: as the card itself told it."""
    samples = parse_samples((CAPTURED / "h200_under_load.csv").read_text(), ASKED)
    busy = [sample for sample in samples if (sample.busy_percent or 0) >= 100]
    seen = clocks_of("here", 0, busy[2:])
    assert seen.at_cap_share == 1.0
    assert (seen.max_sm_clock_mhz, seen.power_limit_w) == (1980, 700)
    assert 1300 < (seen.lowest_sm_clock_mhz or 0) <= (seen.sm_clock_mhz or 0) < 1700
    assert 650 < (seen.power_w or 0) < 710
    assert not seen.slowed
    (note,) = clock_notes(point(32).with_(gpus=[seen]), "32 users")
    assert note.startswith("at 32 users GPU 0 of here was at its power cap (69")
    assert "of 700 W on average) for 100% of the time: SM clock 14" in note and ", 1980 possible" in note
    assert clocks_of("here", 0, samples[:10]).at_cap_share == 0.0


def test_a_cell_that_is_not_told_costs_that_cell_alone() -> None:
    gb10 = clocks_of("spark1", 0, parse_samples((CAPTURED / "gb10.csv").read_text(), FIELDS))
    assert (gb10.sm_clock_mhz, gb10.power_limit_w, gb10.at_cap_share) == (2411.5, None, 0.0)
    held = parse_samples((CAPTURED / "mig.csv").read_text(), FIELDS)
    mig = clocks_of("here", 0, held)
    assert (len(held), mig.lowest_sm_clock_mhz, mig.power_w) == (2, 1320, 404.035)
    assert totals([held]) == {"gpu_power_w": GaugeSummary(mean=404.035, max=405.9)}


def test_without_the_drivers_word_the_draw_tells() -> None:
    fields = FIELDS[:7]
    low, high = parse_samples("0, 1500, 1980, 400.0, 700.0, 99, 1\n0, 1400, 1980, 695.0, 700.0, 99, 1\n", fields)
    assert clocks_of("a", 0, [low, high]).at_cap_share == 0.5
    (blind,) = parse_samples("0, 1500, 1980, [N/A], 700.0, 99, 1\n", fields)
    assert clocks_of("a", 0, [blind]).at_cap_share is None


def test_older_drivers_are_asked_by_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    written(tmp_path, SMI.replace("{unknown}", "clocks_event_reasons."))
    fields = known_fields(Local())
    assert len(fields) == len(FIELDS) and "clocks_throttle_reasons.sw_power_cap" in fields
    samples = parse_samples("0, 1, 2, 3, 4, 5, 6, Active, Not Active, Active, Not Active, Not Active\n", fields)
    assert samples[0].slowed["power cap"] and samples[0].slowed["heat (software)"]
    written(tmp_path, SMI.replace("{unknown}", "enforced.power.limit").replace("700.00, ", ""))
    assert set(FIELDS) - set(known_fields(Local())) == {"enforced.power.limit"}


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9", "driver"),
        ("echo 'No devices were found'", "No devices were found"),
        ("echo 'Insufficient Permissions' >&2; exit 4", "Insufficient Permissions"),
    ],
)
def test_what_is_not_known_is_said(smi: Path, script: str, why: str) -> None:
    written(smi.parent, f"#!/bin/bash\n{script}\n")
    with pytest.raises(OverspanError, match="nvidia-smi tells of no GPU"):
        known_fields(Local())
    watch = ClockWatch(GpuHosts({"spark1": (Local("spark1"), None)}, {"spark2": "slurm chose the host"}))
    watch.begin()
    gpus, unknown, load = watch.end()
    watch.close()
    assert (gpus, load) == ([], {})
    assert why in unknown["spark1"] and unknown["spark2"] == "slurm chose the host"
    seen = point(4).with_(gpus_unknown=unknown)
    assert len(watch.notes([seen, seen])) == 2


def test_every_host_has_one_process_that_ends_with_the_watch(smi: Path) -> None:
    hosts = {name: (Local(name), frozenset({0})) for name in ("a", "b")}
    watch = ClockWatch(GpuHosts(hosts))
    pids = [writer.process.pid for writer in watch._writers.values()]
    watch.begin()
    deadline = time.monotonic() + 60
    while len((found := watch.end())[0]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    gpus, unknown, load = found
    assert [(gpu.host, gpu.index, gpu.at_cap_share) for gpu in gpus] == [("a", 0, 1.0), ("b", 0, 1.0)]
    assert not unknown and len(pids) == 2
    assert load["gpu_power_w"] == GaugeSummary(mean=1383.66, max=1383.66)
    watch.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_bench_keeps_the_clocks_of_each_point(smi: Path) -> None:
    load = Workload(concurrency=[2], requests=4, input_tokens=4, output_tokens=4)
    with serving(steady(ttft_s=0.5)) as server:
        result = Bench(server.base_url, None, load, calibrated=False).run()
    (seen,) = result.points
    assert [gpu.index for gpu in seen.gpus] == [0, 1]
    assert (seen.gpus[0].at_cap_share, seen.gpus[1].at_cap_share) == (1.0, 0.0)
    assert any("was at its power cap (692 of 700 W on average) for 100% of the time" in note for note in result.notes)
    assert "gpu_power_w" in seen.server


def test_which_hosts_are_asked() -> None:
    made = gpu_plan()
    assert set(hosts_of_run(made).ways) == {place.host for place in made.placements}
    assert not hosts_of_run(plan()).ways
    assert hosts_of_url("127.0.0.1").ways and not hosts_of_url("127.0.0.1").expected
    assert "not the hosts behind it" in hosts_of_url("api.example.org").unknown["api.example.org"]
    slowed = GpuClocks(host="a", index=3, samples=4, slowed={"heat (software)": 0.5})
    (note,) = clock_notes(point(8).with_(gpus=[slowed]), "8 users")
    assert note == "at 8 users GPU 3 of a was slowed down by heat (software) for 50% of the time"
    assert clocks._TOLD > 0
    moments = GpuClocks(host="a", index=0, samples=40, at_cap_share=0.08, sm_clock_mhz=1979, max_sm_clock_mhz=1980)
    assert clock_notes(point(1).with_(gpus=[moments]), "1 user") == [], "its clock stayed where it was"


@pytest.mark.real
def test_over_ssh_nothing_is_left_there_or_here(tmp_path: Path) -> None:
    script = written(tmp_path, SMI.replace("{unknown}", "no.such"))

    class There(Remote):
        """A host whose PATH has nvidia-smi."""

        def command(self, argv: Sequence[str], **how: Any) -> list[str]:
            return super().command([str(script), *argv[1:]], **how)

    (tmp_path / "sshd").mkdir()
    with running_sshd(tmp_path / "sshd") as server:
        watch = ClockWatch(GpuHosts({"spark2": (There("spark2", server.ssh), None)}))
        watch.begin()
        gpus = until(lambda: watch.end()[0], "a sample", timeout_s=60.0)
        assert [(gpu.host, gpu.index) for gpu in gpus] == [("spark2", 0), ("spark2", 1)]
        watch.close()
        until(lambda: not server.connections(), "the end of the connection")
    of_ours = [each for each in psutil.process_iter(["cmdline"]) if str(script) in " ".join(each.info["cmdline"] or [])]
    until(lambda: not any(each.is_running() and each.status() != "zombie" for each in of_ours), "its end there")
