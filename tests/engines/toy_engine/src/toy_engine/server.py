"""An endpoint as OpenAI's with the standard library: it counts from 0, and knows the capital of France."""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COUNTS = {"toy_requests_running": 0, "toy_prompt_tokens_total": 0, "toy_generation_tokens_total": 0}
LOCK = threading.Lock()


def count(name: str, by: int) -> None:
    with LOCK:
        COUNTS[name] += by


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    settings: argparse.Namespace

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply("", "text/plain")
        elif self.path == "/metrics":
            with LOCK:
                lines = [f"{name} {value}\n" for name, value in COUNTS.items()]
            self.reply("".join(lines), "text/plain")
        elif self.path == "/v1/models" and self.may():
            self.reply({"object": "list", "data": [{"id": self.settings.model, "object": "model"}]})
        elif self.path != "/v1/models":
            self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.may():
            return
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            self.send_error(404)
            return
        asked = " ".join(str(each["content"]) for each in body["messages"]) if chat else str(body["prompt"])
        count("toy_requests_running", 1)
        count("toy_prompt_tokens_total", len(asked.split()))
        try:
            if body.get("stream"):
                self.stream(self.tokens(asked, body), chat, len(asked.split()))
            else:
                made = list(self.tokens(asked, body))
                text = "".join(made)
                choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
                self.reply(document([choice | {"index": 0, "finish_reason": "length"}], asked, len(made)))
        finally:
            count("toy_requests_running", -1)

    def tokens(self, asked: str, body: dict[str, Any]) -> Iterator[str]:
        most = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        known = ["Paris"] if "France" in asked else []
        for number in range(1 if known and not body.get("ignore_eos") else most):
            time.sleep(self.settings.token_ms / 1e3)
            count("toy_generation_tokens_total", 1)
            text = known.pop() if known else f"{number} "
            yield text.upper() if self.settings.shout else text

    def stream(self, tokens: Iterator[str], chat: bool, prompt: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        made = 0
        for text in tokens:
            made += 1
            self.event({"choices": [{"index": 0, **({"delta": {"content": text}} if chat else {"text": text})}]})
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self.event({"choices": [{"index": 0, "finish_reason": "length"} | end]})
        self.event(document([], " ".join(["x"] * prompt), made))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, what: dict[str, Any] | str) -> None:
        line = f"data: {what if isinstance(what, str) else json.dumps(what)}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

    def may(self) -> bool:
        key = os.environ.get("TOY_API_KEY")
        if key is None or self.headers["Authorization"] == f"Bearer {key}":
            return True
        self.send_error(401)
        return False

    def reply(self, what: dict[str, Any] | str, kind: str = "application/json") -> None:
        text = (what if isinstance(what, str) else json.dumps(what)).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)


def document(choices: list[dict[str, Any]], asked: str, made: int) -> dict[str, Any]:
    prompt = len(asked.split())
    usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    return {"object": "chat.completion", "choices": choices, "usage": usage}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--shout", action="store_true")
    Handler.settings = parser.parse_args()
    server = ThreadingHTTPServer((Handler.settings.host, Handler.settings.port), Handler)
    print(f"toy serves {Handler.settings.model}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
