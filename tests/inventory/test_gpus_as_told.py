"""GPUs as strangers' hosts tell of them: what cannot be read costs that alone, and is never taken for none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspan.cli.plan import plan as plan_command
from overspan.inventory import gpus, here
from overspan.inventory.captured import as_yaml, replayed
from overspan.schema.inventory import Inventory
from overspan.transport.local import Local
from support.nvml import Nvml
from support.sparks import write_spark

H200 = "NVIDIA H200, {memory}, 570.124.06, 9.0"
ABSENT = "nvidia-smi is not installed on node1"
UNABLE = "Unable to determine the device handle for GPU0000:8F:00.0: Unknown Error"


def detected(folder: Path, nvidia_smi: str | None, **facts: str) -> Inventory:
    """What `detect` says of one host with these outputs."""
    write_spark(folder, "node1", {})
    for fact, text in facts.items():
        (folder / "node1" / f"{fact}.txt").write_text(text)
    if nvidia_smi is None:
        (folder / "node1" / "nvidia_smi.txt").unlink()
        (folder / "node1" / "nvidia_smi.json").write_text(json.dumps({"argv": gpus.NVIDIA_SMI.argv, "missing": ABSENT}))
    else:
        (folder / "node1" / "nvidia_smi.txt").write_text(nvidia_smi)
    return replayed(folder)


def eight(*memory: str) -> str:
    return "\n".join(f"{index}, {H200.format(memory=cell)}" for index, cell in enumerate(memory))


def planned(inventory: Inventory, tmp_path: Path) -> tuple[int, str]:
    file = tmp_path / "found.yaml"
    file.write_text(as_yaml(inventory))
    done = CliRunner().invoke(plan_command, ["smollm2-135m", "--on", str(file)], standalone_mode=False)
    return (2 if done.exception else 0), str(done.exception or done.output)


def test_eight_gpus_whose_memory_nobody_may_read_are_asked_about_and_no_cpu_host(tmp_path: Path) -> None:
    found = detected(tmp_path, eight(*["[Insufficient Permissions]"] * 8))
    (host,) = found.hosts
    assert found.device == "cuda"
    assert [(gpu.kind, gpu.memory_bytes, gpu.unified_memory) for gpu in host.gpus] == [("h200", None, False)] * 8
    all_of_them = ", ".join(map(str, range(8)))
    assert found.warnings == [f"node1: memory of GPU {all_of_them}: nvidia-smi tells [Insufficient Permissions]"]
    code, told = planned(found, tmp_path)
    assert code == 2 and f"memory of GPU {all_of_them} of node1 is not known" in told
    known = found.with_(hosts=[host.with_(gpus=[gpu.with_(memory_bytes=150754820096) for gpu in host.gpus])])
    assert planned(known, tmp_path)[0] == 0


@pytest.mark.parametrize("cell", ["[GPU is lost]", "[GPU requires reset]"])
def test_a_lost_gpu_costs_itself(cell: str, tmp_path: Path) -> None:
    found = detected(tmp_path, eight(*["143771"] * 7, cell))
    assert (found.device, [gpu.index for gpu in found.hosts[0].gpus]) == ("cuda", list(range(7)))
    assert found.warnings == [f"node1: GPU 7: {cell.strip('[]')}; it is left out"]
    assert planned(found, tmp_path)[0] == 0


def test_a_handle_that_cannot_be_determined_costs_that_gpu(tmp_path: Path) -> None:
    found = detected(tmp_path, eight("143771", "143771") + f"\n{UNABLE}\n")
    assert (found.device, len(found.hosts[0].gpus)) == ("cuda", 2)
    assert "0000:8F:00.0" in found.warnings[0]


@pytest.mark.parametrize(
    ("nvidia_smi", "signs"),
    [
        (UNABLE, ""),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", ""),
        ("Failed to initialize NVML: Driver/library version mismatch", ""),
        ("No devices were found", "/proc/driver/nvidia/gpus/0000:01:00.0\n"),
        (None, "/sys/bus/pci/devices/0000:01:00.0/uevent:PCI_CLASS=30200\n"
               "/sys/bus/pci/devices/0000:01:00.0/uevent:PCI_ID=10DE:2335\n"),
        (None, "/dev/nvidia0\n"),
    ],
    ids=["no handle", "no driver", "mismatch", "no devices", "PCI alone", "/dev alone"],
)  # fmt: skip
def test_a_host_whose_gpus_cannot_be_read_is_no_cpu_host_unless_that_is_asked_for(
    nvidia_smi: str | None, signs: str, tmp_path: Path
) -> None:
    found = detected(tmp_path, nvidia_smi, gpu_signs=signs)
    assert (found.device, found.hosts[0].gpus) == ("cuda", [])
    assert found.warnings and "could not be read" in found.why["device"]
    code, told = planned(found, tmp_path)
    assert code == 2 and "the GPUs of node1 could not be read" in told
    assert planned(found.with_(device="cpu"), tmp_path)[0] == 0


def test_a_host_without_any_sign_of_a_gpu_is_a_cpu_host(tmp_path: Path) -> None:
    other = "/sys/bus/pci/devices/0000:02:00.0/uevent:PCI_CLASS=40300\n"
    other += "/sys/bus/pci/devices/0000:02:00.0/uevent:PCI_ID=10DE:22BA\n"  # the sound of a GPU that is passed on
    found = detected(tmp_path, None, gpu_signs=other)
    assert (found.device, found.warnings) == ("cpu", [])
    assert planned(found, tmp_path)[0] == 0


def test_mig_mode_and_instances_are_seen(tmp_path: Path) -> None:
    smi = "".join(f"{index}, NVIDIA A800 80GB PCIe, 81920, 580.119.02, 8.0\n" for index in range(3))
    more = "0, 0x20F510DE, Disabled\n1, 0x20F510DE, Enabled\n2, 0x20F510DE, Enabled\n"
    listed = (
        "GPU 0: NVIDIA A800 80GB PCIe (UUID: GPU-0)\nGPU 1: NVIDIA A800 80GB PCIe (UUID: GPU-1)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-a)\n  MIG 1g.10gb+me  Device  1: (UUID: MIG-b)\n"
        "GPU 2: NVIDIA A800 80GB PCIe (UUID: GPU-2)\n"
    )
    found = detected(tmp_path, smi, gpu_more=more, gpu_list=listed)
    told = [(gpu.index, gpu.mig, gpu.memory_bytes) for gpu in found.hosts[0].gpus]
    assert told == [(0, None, 81920 * 2**20), (1, ["3g.40gb", "1g.10gb+me"], 40 * 10**9)]
    assert any("GPU 1: MIG mode is on (3g.40gb, 1g.10gb+me)" in said for said in found.warnings)
    assert any("GPU 2: MIG mode is on and it has no instance" in said for said in found.warnings)


@pytest.mark.parametrize(
    ("told", "pci", "kind"),
    [
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition, 97887, 580.95.05, 12.0", "", "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887, 580.95, 12.0", "", "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition, 97887, 580.95, 12.0", "", "rtx-pro-6000"),
        ("NVIDIA Graphics Device, 97887, 580.95, 12.0", "0x2BB410DE", "rtx-pro-6000"),
        ("NVIDIA Graphics Device, 143771, 570.1, 9.0", "0x233B10DE", "h200"),
        ("NVIDIA RTX 6000 Ada Generation, 49140, 570.10, 8.9", "", "rtx-6000-ada"),
        ("Quadro RTX 6000, 24576, 570.10, 7.5", "", "quadro-rtx-6000"),
        ("NVIDIA RTX A6000, 49140, 570.10, 8.6", "", "a6000"),
        ("NVIDIA GeForce RTX 3090, 24576, 580.95.05, 8.6", "", "rtx-3090"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER, 16376, 580.95.05, 8.9", "", "rtx-4070-ti-super"),
        ("NVIDIA Dell Pro Max Graphics, [N/A], 580.95.05, 12.1", "", "gb10"),
        ("NVIDIA H20, 97871, 570.124.06, 9.0", "", "h20"),
        ("NVIDIA H100-40C, 40960, 570.124.06, 9.0", "", "h100"),
        ("NVIDIA H200 NVL, 143771, 570.124.06, 9.0", "", "h200"),
        ("NVIDIA GH200 480GB, 97871, 570.124.06, 9.0", "", "gh200"),
        ("NVIDIA GB300, 284208, 580.95, 10.3", "", "gb300"),
        ("NVIDIA A100-SXM4-80GB, 81920, 570.1, 8.9", "", "a100-sxm4-80gb"),  # an A100 is 8.0
        ("NVIDIA Thor, [N/A], 580.00, 11.0", "", "thor"),
        ("Orin (nvgpu), [N/A], 540.4.0, [N/A]", "", "orin"),
    ],
)
def test_the_kind_by_pci_then_by_name_where_the_compute_capability_agrees(
    told: str, pci: str, kind: str, tmp_path: Path
) -> None:
    more = f"0, {pci}, [N/A]\n" if pci else ""
    found = detected(tmp_path, f"0, {told}\n", gpu_more=more)
    (gpu,) = found.hosts[0].gpus
    assert gpu.kind == kind
    assert gpu.unified_memory == ("[N/A], 5" in told)
    assert gpu.memory_bytes == (found.hosts[0].memory_bytes if gpu.unified_memory else int(told.split(", ")[1]) * 2**20)


def test_memory_that_is_not_told_is_shared_memory_on_integrated_chips_alone(tmp_path: Path) -> None:
    found = detected(tmp_path, "0, NVIDIA H200, [N/A], 570.1, 9.0\n")
    (gpu,) = found.hosts[0].gpus
    assert (gpu.memory_bytes, gpu.unified_memory) == (None, False)


def test_what_the_kernel_shows_is_asked_with_one_command_and_read(tmp_path: Path) -> None:
    device = tmp_path / "pci" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "uevent").write_text("DRIVER=nvidia\nPCI_CLASS=30000\nPCI_ID=10DE:2E12\n")
    (device / "config").write_text("PCI_ID=0\n")
    done = Local("here").run(gpus.gpu_signs_argv(str(tmp_path / "pci"), str(tmp_path / "none")))
    told = done.stdout.replace(str(tmp_path / "pci"), "/sys/bus/pci/devices")
    assert "PCI 0000:01:00.0 (10de:2e12)" in gpus.parse_gpu_signs(told)


def test_this_machine_with_a_gpu_that_is_lost_or_a_driver_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = Nvml("NVIDIA H200", 150754820096, (9, 0))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(here, "DRIVER_SIGNS", (Path("/"),))

    def lost(index: int) -> int:
        if index == 1:
            raise library.NVMLError("GPU is lost")
        return index

    library.nvmlDeviceGetCount = lambda: 2
    library.nvmlDeviceGetHandleByIndex = lost
    found = here.this_machine()
    assert (found.device, [gpu.index for gpu in found.hosts[0].gpus]) == ("cuda", [0])
    assert "GPU is lost" in found.hosts[0].unknown["GPU 1"]

    def fails() -> None:
        raise library.NVMLError("Driver/library version mismatch")

    library.nvmlInit = fails
    failed = here.this_machine()
    assert (failed.device, failed.hosts[0].gpus) == ("cuda", [])
    assert "mismatch" in failed.hosts[0].unknown["gpus"]

    monkeypatch.setattr(here, "DRIVER_SIGNS", ())
    monkeypatch.setattr(here, "PCI", tmp_path)
    assert here.this_machine().device == "cpu"
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "uevent").write_text("PCI_CLASS=30200\nPCI_ID=10DE:2335\n")
    assert here.this_machine().device == "cuda"
