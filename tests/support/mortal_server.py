"""An OpenAI endpoint that is made to be killed: `python mortal_server.py PORT LOG`. LOG gets a byte an answer begun."""

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.openai_server import Send, Server, answer, models


def main() -> None:
    port = int(sys.argv[1])
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def behave(body: dict[str, Any], send: Send, number: int) -> None:
        os.write(log, b".")
        answer(body, send, ttft_s=0.1, itl_s=0.02)

    Server(behave, models("mock"), port)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
