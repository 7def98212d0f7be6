"""Write a stored reference of a small model (src/overspan/catalog/references) with transformers in fp32.

PYTHONPATH=src python tools/make_reference.py MODEL_FOLDER HUGGING_FACE_ID OUT.json
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from overspan.prove.twin.write import engine_side
from overspan.provision import engines
from overspan.verify.reference import PROMPTS, TOKENS


def main(folder: str, name: str, out: str) -> None:
    """Answer each prompt with the engine's own transformers, and write the document."""
    cases = [{"text": text, "tokens": TOKENS} for text in PROMPTS]
    with tempfile.TemporaryDirectory() as scratch:
        answers = Path(scratch, "answers.json")
        order = {"model": folder, "cases": cases, "out": str(answers)}
        versions = engine_side("reference.py", order, engines.find("cpu").python, Path(scratch))
        found = json.loads(answers.read_text())
    for each in found:
        for field in ("logprobs", "margins"):
            each[field] = [round(value, 4) for value in each[field]]
    source = f"{versions['versions']}, fp32, {datetime.now(UTC):%Y-%m-%d}"
    lines = ",\n    ".join(json.dumps(each) for each in found)
    head = f'"model": {json.dumps(name)},\n  "source": {json.dumps(source)}'
    Path(out).write_text(f'{{\n  {head},\n  "continuations": [\n    {lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
