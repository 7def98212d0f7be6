"""AIConfigurator's own answers to rows of benchmarks/data; run by the Python that it is installed in.

    python benchmarks/peer_rows.py < rows.json

One JSON document on stdin (a list of keyword arguments of its `cli_estimate`), one on stdout: TPOT and TTFT of each
row, or the reason why there is none.
"""

import contextlib
import io
import json
import logging
import sys
import time
import warnings


def main() -> None:
    """Ask for every row in one process, so that its tables are loaded once."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from aiconfigurator.cli.api import cli_estimate

    answers: list[dict[str, float | str]] = []
    start = time.process_time()
    for row in json.load(sys.stdin):
        model, system = row.pop("model"), row.pop("system")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                seen = cli_estimate(model, system, **row)
            answers.append({"tpot_ms": float(seen.tpot), "ttft_ms": float(seen.ttft)})
        except Exception as error:  # noqa: BLE001 - another project's errors are part of its answer
            answers.append({"error": f"{type(error).__name__}: {error}"[:300]})
    json.dump({"answers": answers, "cpu_s": time.process_time() - start}, sys.stdout)


if __name__ == "__main__":
    main()
