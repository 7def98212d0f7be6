"""docs/preflight.md is written from the checks themselves. To accept a change: OVERSPAN_ACCEPT=1 and run this test."""

from __future__ import annotations

import os
from pathlib import Path

from overspan.preflight import HOST_KEY, SSH
from overspan.preflight.book import CHECKS, GROUP_CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "preflight.md"

HEAD = """\
# What preflight checks

`overspan doctor --preflight RECIPE --on INVENTORY` asks every host of the plan at once, and changes nothing there. Each
answer is a finding: passed, failed (with the cause and the command that mends it) or not evaluated (with the reason).
Exit code: 0 the launch may begin, 2 a check has failed, 4 a host does not answer. A warning alone does not count.
Only what applies to the plan is asked: one machine without a GPU is asked for ports, memory, disk and its engine,
and for the hub where the model comes from there.

| rule | what is expected | what asking costs | broken on purpose in tests |
|---|---|---|---|
"""


FOOT = """
## Not asked, and why

- Ray's state (`ray status`, GPUs held, its address): every run starts a Ray of its own, on ports that are asked above.
- Names of containers: they carry the run's id. `sudo`: Overspan never uses it.
- Firewalls: nothing listens yet, so nothing can answer; `preflight.reach` sees what drops pings too.
- etcd and NATS of Dynamo: the run starts them, on ports that are asked above.
- Slurm (GPU requests, partition, limits, account): `sbatch --test-only` asks at submission. What only a job on the node
  can tell (user namespaces, enroot's folders and credentials, its NVIDIA hook, nodes that are down, memory of the job)
  is left to the job, and to the doctor.
- Whether the image's vLLM knows the architecture and its FlashInfer the arguments: importing the registry takes half a
  minute. Mooncake's own configuration file.
"""


def page() -> str:
    here = Path(__file__).parent
    real = (here / "test_on_hosts.py").read_text()
    rows = []
    for rule in (SSH, HOST_KEY, *CHECKS, *GROUP_CHECKS):
        how = "scripted hosts, two real hosts" if f'"{rule.rule}"' in real else "scripted hosts"
        rows.append(f"| `{rule.rule}` | {rule.title} | {rule.cost} | {how} |\n")
    return HEAD + "".join(rows) + FOOT


def test_the_page_is_what_the_checks_say() -> None:
    if os.environ.get("OVERSPAN_ACCEPT"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_every_check_is_broken_in_a_test() -> None:
    files = ("test_preflight.py", "test_network.py", "test_machine.py", "test_deeper.py")
    scripted = "".join(Path(__file__).with_name(file).read_text() for file in files)
    assert [r.rule for r in (SSH, HOST_KEY, *CHECKS, *GROUP_CHECKS) if f'"{r.rule}"' not in scripted] == []
