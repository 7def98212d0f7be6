"""A small loopback endpoint that answers as vLLM does, and misbehaves in one way when a test asks for it.

Its model knows a few answers by heart. A token is a word, or one character where a word is not ASCII.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = {
    "capital of France": "The capital of France is Paris.",
    "three colours": "Red, green and blue are three colours.",
    "Write this again": "你好世界 🙂🚀 nai\u0308ve e\u0301 n\u0303 Привет",
    "lighthouse": "The keeper climbed the stairs every evening and lit the lamp before the first ship came in sight.",
    "rain": "Water rises from the sea as vapour, cools, gathers into drops and falls when these are heavy enough.",
    "through a town": "From the station go left, pass the market and the old church and cross the bridge to the mill.",
    "Count from": "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen.",
    "colour is the sky": "On a clear day the sky is blue, since air scatters short waves more than long ones.",
    "four animals": "A horse, an otter, a blackbird and a pike: these are four animals of our river.",
    "two plus two": "Two plus two make four, as anybody with four fingers can see for himself.",
    "morning in Spanish": "Buenos dias is what people say in Spanish until noon or a little later.",
    "Hamlet": "Hamlet was written by William Shakespeare about the year sixteen hundred.",
    "large ocean": "Large oceans are the Pacific, the Atlantic and the Indian one, in this order.",
    "17 times 3": "51 it is.",
    "weather in Paris": "I would have to look that up for you.",
    "days of the week": " Wednesday, Thursday, Friday, Saturday and Sunday; then it begins again with the same seven "
    "names as before, week after week, through all the months of a year, and nobody has ever changed that for long.",
}
METRICS = """# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0"} 3.0
vllm:num_preemptions_total{engine="1"} 2.0
vllm:prefix_cache_hits_total{engine="0"} 128.0
"""
THOUGHT = "Let me think about that."
TOKEN = re.compile(r" ?[!-~]+|.", re.S)


def tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


class Endpoint:
    """`fault` is the one way in which it misbehaves; `asked` counts its requests."""

    def __init__(self, fault: str | None) -> None:
        self.fault = fault
        self.asked = 0
        self.times: Counter[str] = Counter()
        self.lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> tuple[list[str], str]:
        """The tokens of an answer, and why it ends."""
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        text = "and so on." if isinstance(prompt, list) else self._said(str(prompt))
        if self.fault == "repeats" and len(text) > 70:
            text = text[:60] + " the same" * 60
        if self.fault == "broken-character":
            text = text.replace("🙂", "\ufffd\ufffd")
        every = tokens(text)
        most = len(every) if self.fault == "max-tokens-ignored" else body["max_tokens"]
        kept = "".join(every[:most])
        finish = "length" if len(every) > most else "stop"
        for stop in body.get("stop") or []:
            if stop in kept and self.fault != "stop-ignored":
                kept = kept[: kept.find(stop) + (len(stop) if self.fault == "stop-kept" else 0)]
                finish = "length" if self.fault == "stop-untold" else "stop"
        return tokens(kept), finish

    def _said(self, prompt: str) -> str:
        text = next((answer for key, answer in ANSWERS.items() if key in prompt), "I see.")
        again = self.times[prompt] > 1
        if self.fault == "mixes-requests" and again and "four animals" in prompt:
            text = ANSWERS["Hamlet"]
        if (self.fault == "departs-in-a-batch" and again) or (self.fault == "wrong-after-eight" and self.asked > 8):
            text = text[::-1]
        return text

    def usage(self, body: dict[str, Any], count: int, *, stream: bool) -> dict[str, int]:
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        asked = 9 if self.fault == "prompt-uncounted" else len(tokens(prompt) if isinstance(prompt, str) else prompt)
        count += self.fault == "stream-counts-otherwise" and stream
        total = asked + count + (self.fault == "wrong-total")
        return {"prompt_tokens": asked, "completion_tokens": count, "total_tokens": total}


def message(endpoint: Endpoint, body: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """The message of a chat answer."""
    text = "".join(pieces)
    fault = endpoint.fault
    found: dict[str, Any] = {"role": "assistant", "content": text}
    if fault in ("reasons", "thinks-aloud"):
        found = {"content": f"<think>{THOUGHT}</think>{text}"} if fault == "thinks-aloud" else found
        found["reasoning"] = THOUGHT if fault == "reasons" else None
    if "tools" in body:
        arguments = {"bad-arguments": '{"city": "Par'}.get(fault or "", '{"city": "Paris"}')
        name = "get_time" if fault == "other-tool" else "get_weather"
        if fault == "tool-markup":
            found["content"] = '<tool_call>{"name": "get_weather"}</tool_call>'
        elif fault != "no-tools" and not (fault == "shy" and body["tool_choice"] == "auto"):
            found = {"content": None, "tool_calls": [{"index": 0, "function": {"name": name, "arguments": arguments}}]}
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def do_GET(self) -> None:
        if self.path == "/metrics":
            return self._raw(METRICS.encode(), "text/plain")
        return self._send(200, {"object": "list", "data": [{"id": "stub"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        at = self.endpoint
        with at.lock:
            at.asked += 1
            at.times[body["messages"][0]["content"] if "messages" in body else str(body["prompt"])] += 1
        self._answer(at, body)

    def _answer(self, at: Endpoint, body: dict[str, Any]) -> None:
        again = at.times["List four animals."] > 1
        if (at.fault == "dies-after-eight" and at.asked > 8) or (at.fault == "no-bursts" and again):
            return self._send(500, {"error": {"message": "EngineDeadError: the engine core has died"}})
        pieces, finish = at.answer(body)
        if at.fault == "no-utf-8":
            return self._raw(b'{"choices": [{"message": {"content": "\xff\xfe"}}], "usage": {"completion_tokens": 1}}')
        if body.get("stream"):
            return self._stream(at, body, pieces, finish)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if "messages" in body:
            choice["message"] = message(at, body, pieces)
        else:
            choice["text"] = "".join(pieces)
            if body.get("logprobs"):
                choice["logprobs"] = {"tokens": pieces + ["?"] * (at.fault == "lists-other-tokens")}
            if body.get("return_token_ids") and at.fault != "no-token-ids":
                choice["token_ids"], choice["prompt_token_ids"] = list(range(len(pieces))), [1, 2]
                best = [{piece: -0.25, "other": -2.25} for piece in pieces]
                listed = {"token_logprobs": [-0.25] * len(pieces), "top_logprobs": best}
                choice["logprobs"] = {**choice.get("logprobs", {}), **listed}
            if body.get("prompt_logprobs") and at.fault != "no-prompt-logprobs":
                choice["prompt_logprobs"] = prompt_logprobs(at, body["prompt"])
        choices = [choice]
        if isinstance(body.get("prompt", [""])[0], list):  # several prompts: the last one is ready first
            ids = [[number + each for each in choice["token_ids"]] for number in range(len(body["prompt"]))]
            choices = [{**choice, "index": number, "token_ids": each} for number, each in enumerate(ids)][::-1]
        return self._send(200, {"choices": choices, "usage": at.usage(body, len(pieces), stream=False)})

    def _stream(self, at: Endpoint, body: dict[str, Any], pieces: list[str], finish: str) -> None:
        if at.fault == "stream-loses-text":
            pieces = [piece for number, piece in enumerate(pieces) if number != 2]
        events: list[dict[str, Any]] = []
        if "messages" in body:
            whole = message(at, body, pieces)
            text = whole.pop("content") or ""
            events.append({"delta": whole})
            events += [{"delta": {"content": piece}} for piece in tokens(text)]
        else:
            events += [{"text": piece} for piece in pieces]
        events.append(
            {("delta" if "messages" in body else "text"): {} if "messages" in body else "", "finish_reason": finish}
        )
        lines = [json.dumps({"choices": [event]}) for event in events]
        if at.fault != "stream-uncounted":
            lines.append(json.dumps({"choices": [], "usage": at.usage(body, len(pieces), stream=True)}))
        if at.fault == "error-in-stream":
            lines[2:] = [json.dumps({"error": {"message": "EngineDeadError"}})]
        end = [] if at.fault == "stream-breaks-off" else ["[DONE]"]
        self._raw("".join(f"data: {line}\n\n" for line in [*lines, *end]).encode(), "text/event-stream")

    def _send(self, code: int, document: dict[str, Any]) -> None:
        self._raw(json.dumps(document, ensure_ascii=False).encode(), code=code)

    def _raw(self, data: bytes, kind: str = "application/json", code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def prompt_logprobs(at: Endpoint, prompt: list[int]) -> list[dict[str, Any] | None]:
    """Every token is the likeliest; with a fault every third is not, as with a wrong scale."""
    off = at.fault == "other-logits"
    found: list[dict[str, Any] | None] = [None]
    for number, token in enumerate(prompt[1:], 1):
        rank = 2 if off and number % 3 == 0 else 1
        found.append({str(token): {"logprob": -1.5 if rank == 2 else -0.25, "rank": rank}})
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def endpoint(fault: str | None = None) -> Iterator[str]:
    """The base URL of an endpoint with a fault."""
    handler = type("Bound", (Handler,), {"endpoint": Endpoint(fault)})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
