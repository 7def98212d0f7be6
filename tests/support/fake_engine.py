"""A stand-in for an engine, for tests of what owns processes: the same family as vLLM's (an API server, an engine core
below it, a worker below that), the same lie (exit code 0 after a death), and an OpenAI endpoint with slow streams.

Run as `python fake_engine.py PORT [ANSWER] [TOKEN_S]`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHILD = """
import os, subprocess, time
subprocess.Popen(["VLLM::Worker", "-c", "import time; time.sleep(600)"], executable={python!r})
os.close({ready})
time.sleep(600)
"""


def start_family() -> subprocess.Popen[bytes]:
    whole, ready = os.pipe()
    code = CHILD.format(python=sys.executable, ready=ready)
    # Python looks for its library beside argv[0], which is a title here.
    home = {**os.environ, "PYTHONHOME": sys.base_prefix}
    core = subprocess.Popen(["VLLM::EngineCore", "-c", code], executable=sys.executable, env=home, pass_fds=[ready])
    os.close(ready)
    os.read(whole, 1)  # ends when the core has closed its end: as vLLM, it serves when its workers are there
    return core


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = "Paris"
    token_s = 0.0
    pauses = int(os.environ.get("FAKE_PAUSES", "0"))

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self.send_error(404)
        return self.reply({"object": "list", "data": [{"id": os.environ.get("FAKE_MODEL", "fake")}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = os.environ.get("VLLM_API_KEY") or os.environ.get("FAKE_WANTS")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            return self.send_error(401)
        if self.path == os.environ.get("FAKE_REFUSES"):
            return self.send_error(500)
        prompt = str(body.get("messages") or body.get("prompt"))
        asked = "France" in prompt
        pieces = [self.answer] if asked else [f"{number} " for number in range(int(body.get("max_tokens", 16)))]
        if body.get("stream"):
            pieces = ["lost"] if os.environ.get("FAKE_BROKEN_STREAM") else pieces
            # A load asks to ignore the end of text: it alone is slowed by FAKE_TOKEN_S.
            slow = float(os.environ.get("FAKE_TOKEN_S", "0")) if body.get("ignore_eos") else self.token_s
            if body.get("ignore_eos") and Handler.pauses > 0:
                Handler.pauses -= 1
                print("WARNING JIT compilation during inference: a_kernel", flush=True)
            return self.stream(pieces, slow)
        text = {"text": " a"} if self.path.endswith("/v1/completions") else {"message": {"content": "".join(pieces)}}
        return self.reply({"choices": [text], "usage": {"completion_tokens": 1}})

    def reply(self, data: object) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, pieces: list[str], token_s: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in pieces:
            time.sleep(token_s)
            event = {"choices": [{"delta": {"content": piece}}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the streams in flight: that is the drain


def main() -> None:
    import signal

    port = int(sys.argv[1])
    Handler.answer = sys.argv[2] if len(sys.argv) > 2 else "Paris"
    Handler.token_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    core = start_family()
    if os.environ.get("FAKE_LEAVES"):  # a child that leaves the session, as the ssh of a tunnel does
        stray = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(os.environ["FAKE_LEAVES"]).write_text(str(stray.pid))
    print(f"(APIServer pid={os.getpid()}) INFO started", flush=True)
    print(f"(EngineCore pid={core.pid}) INFO the core is up", flush=True)
    server = Server((os.environ.get("FAKE_HOST", "127.0.0.1"), port), Handler)

    def die_with_core() -> None:
        core.wait()
        print(f"(APIServer pid={os.getpid()}) ERROR engine core is dead", flush=True)
        os._exit(0)

    def drain(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()

    threading.Thread(target=die_with_core, daemon=True).start()
    signal.signal(signal.SIGTERM, drain)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
    os._exit(0)


if __name__ == "__main__":
    main()
