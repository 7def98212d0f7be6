"""The one home of each default and each port. Nothing retypes a number from here."""

from typing import Final

LOOPBACK: Final = "127.0.0.1"
"""Servers bind here unless a recipe says otherwise."""

LOOPBACKS: Final = (LOOPBACK, "localhost", "::1")
"""Addresses that only processes of the same machine reach."""

EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
"""Addresses that stand for every network of a machine."""

API_PORT: Final = 8000
"""The OpenAI API of the endpoint. Source: default of `vllm serve --port`."""

MASTER_PORT: Final = 29501
"""Rendezvous of native multi-node vLLM. Source: default of `vllm serve --master-port`."""

RAY_PORT: Final = 6379
"""Ray's GCS. Source: default of `ray start --head --port`."""

RAY_DASHBOARD_PORT: Final = 8265
"""Ray's dashboard. Source: default of `ray start --dashboard-port`."""

JOIN_PORT: Final = 29507
"""Where a head tells hosts that join by themselves what it runs. Beside MASTER_PORT, outside of Ray's range."""

DP_RPC_PORT: Final = 13345
"""Coordination of data-parallel ranks over hosts. Source: vLLM docs, data parallel deployment."""

READY_TIMEOUT_S: Final = 1800.0
"""How long a launch may take to its first token. 126 GB over NVMe takes ten minutes (Avarok's
MiniMax-M2.5 guide); three times that."""

DRAIN_TIMEOUT_S: Final = 20.0
"""How long streams in flight may run on after `stop`. Source: docs/sources.md#cpu, `--shutdown-timeout 20`."""

POLL_INTERVAL_S: Final = 0.25
"""How often the supervisor looks at every rank: well inside the promise to notice a death within 5 s."""

USUAL_INPUT_TOKENS: Final = 128
"""Of a load that names none, when it is predicted, planned for or measured. Source: Overspan's choice, as the next."""

USUAL_OUTPUT_TOKENS: Final = 64
