"""A loopback endpoint as vLLM with an API key: 401 without it, and an unwise quote of what it was sent."""

import re
import socket

from support.openai_server import Behaviour, Server, models, plain, steady

METRICS = """# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{engine="0",model_name="m"}} {tokens}
vllm:num_requests_running{{engine="0",model_name="m"}} 3.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 2.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.25
"""


class Keyed(Server):
    """Each look at its /metrics finds 500 tokens more."""

    def __init__(self, key: str | None, behaviour: Behaviour | None = None) -> None:
        self._key = key
        self._tokens = 0.0
        super().__init__(behaviour or steady(), models("mock"))

    def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
        if self._key is not None and f"Authorization: Bearer {self._key}".lower() not in head.lower():
            self.heads.append(head)
            connection.sendall(plain("401 Unauthorized", self.said(head)))
        elif head.startswith("GET /metrics"):
            self.heads.append(head)
            self._tokens += 500.0
            connection.sendall(plain("200 OK", METRICS.format(tokens=self._tokens).encode(), "text/plain"))
        else:
            super()._reply(head, body, connection)

    @staticmethod
    def said(head: str) -> bytes:
        """What an unwise server says: it quotes the key that it was given."""
        given = re.search(r"bearer (\S+)", head, re.I)
        return f'{{"error": "Unauthorized: {given[1] if given else "no key"}"}}'.encode()
