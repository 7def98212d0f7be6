"""Dynamo's outside for tests of what starts and ends it: an etcd, a frontend and workers that need it at their start.

Workers register in a folder below the job's working folder, and tell tokens that came over the connector as the
frontend has counted questions there.
"""

from pathlib import Path

COMMON = """
import json, os, socket, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

SHARED = Path("stand-in")
SHARED.mkdir(exist_ok=True)


def option(name):
    return sys.argv[sys.argv.index(name) + 1]


def need_etcd():
    url = urlsplit(os.environ["ETCD_ENDPOINTS"])
    try:
        socket.create_connection((url.hostname, url.port), 5).close()
    except OSError as error:
        sys.exit(f"Unable to connect to etcd: {error}")


class Handler(BaseHTTPRequestHandler):
    def reply(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        pass
"""

FRONTEND = """
from dynamo.common import *


class Frontend(Handler):
    def do_GET(self):
        shown = [{"component": path.suffix[1:], "endpoint": "generate"} for path in SHARED.glob("worker-*")]
        self.reply(json.dumps({"instances": shown, "data": []}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if len(list(SHARED.glob("worker-*"))) < 2:
            return self.send_error(503)
        with (SHARED / "questions").open("a") as file:
            file.write("x")
        text = "Paris" if "France" in str(body) else "x"
        choice = {"text": text, "message": {"content": text}}
        self.reply(json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}))


need_etcd()
ThreadingHTTPServer((option("--http-host"), int(option("--http-port"))), Frontend).serve_forever()
"""

WORKER = """
from dynamo.common import *

role = option("--disaggregation-mode")


class Metrics(Handler):
    def do_GET(self):
        questions = SHARED / "questions"
        asked = len(questions.read_text()) if questions.exists() else 0
        self.reply(f"vllm:external_prefix_cache_hits_total{{}} {128.0 * asked}\\n")


need_etcd()
server = ThreadingHTTPServer((os.environ["DYN_SYSTEM_HOST"], int(os.environ["DYN_SYSTEM_PORT"])), Metrics)
(SHARED / f"worker-{os.environ['VLLM_NIXL_SIDE_CHANNEL_PORT']}.{'backend' if role == 'decode' else role}").touch()
print(f"INFO {role} worker is registered", flush=True)
server.serve_forever()
"""

ETCD = """#!{python}
import sys, time
from http.server import HTTPServer, BaseHTTPRequestHandler
from urllib.parse import urlsplit

time.sleep(1)  # the others start at the same time, and wait
url = urlsplit(sys.argv[sys.argv.index("--listen-client-urls") + 1])
print("etcd serves", flush=True)
HTTPServer((url.hostname, url.port), BaseHTTPRequestHandler).serve_forever()
"""


def add_dynamo(environment: Path, python: str) -> None:
    """Put it into an environment made by `make_environment`."""
    package = environment / "lib" / "python3.11" / "site-packages" / "dynamo"
    package.mkdir()
    for name, text in {"__init__": "", "common": COMMON, "frontend": FRONTEND, "vllm": WORKER}.items():
        (package / f"{name}.py").write_text(text)
    etcd = environment / "bin" / "etcd"
    etcd.write_text(ETCD.format(python=python))
    etcd.chmod(0o755)
