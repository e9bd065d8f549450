"""How long a process takes to be able to re-rank: our client, and the stubs that it does without.

    .venv/bin/python benchmarks/client_import.py

Each is imported in fresh interpreters, in turn; prints the median seconds that importing took, the
memory of the process, and both as ratios.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 5
PROGRAM = """
import time
began = time.perf_counter()
{imports}
import resource
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WAYS = {
    "serving.client": "import serving.client",
    "grpcio and NumPy alone": "import grpc, numpy",
    "tensorflow_serving.apis": (
        "import grpc, numpy, tensorflow\n"
        "from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc"
    ),
}


def measured(imports: str) -> tuple[float, float]:
    """Seconds and MiB of an interpreter that imports."""
    command = [sys.executable, "-c", PROGRAM.format(imports=imports)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


def main() -> None:
    rounds = [{way: measured(imports) for way, imports in WAYS.items()} for _ in range(ROUNDS)]
    medians = {
        way: tuple(
            statistics.median(values) for values in zip(*(one[way] for one in rounds), strict=True)
        )
        for way in WAYS
    }
    ours = medians["serving.client"]
    print("| import | seconds | against the client | MiB | against the client |")
    print("|---|---|---|---|---|")
    for way, (seconds, mib) in medians.items():
        ratios = f"{seconds / ours[0]:.1f} | {mib:.0f} | {mib / ours[1]:.1f}"
        print(f"| `{way}` | {seconds:.2f} | {ratios} |")


if __name__ == "__main__":
    main()
