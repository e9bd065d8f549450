"""What callers get while a server that is under load is killed, and how soon it answers them again.

    .venv/bin/python benchmarks/killed_server.py --model FOLDER
    .venv/bin/python benchmarks/killed_server.py --kills 2 --timeout-ms 200 -- --batching

Starts `piano serve`, with the options after `--`, on the folder of versions given by `--model`, or
else on a model that it trains first (served_model.py). Callers share one `RerankClient`, ask
for lists of 100 candidates with 50 entries of history in a closed loop with a pause between, and
give up after a page's deadline, with what the client has: the first-stage order. Each time all
callers have had the model's order for a while the server is killed (SIGKILL), stays away, and is
started again at the same port; the client is never touched.

Prints a row for each part of each kill, of all callers together: answers with the model's order,
with the first stage's by reason, what answers took, and how far the latest came after its deadline;
and for the server's return the time from its being ready to the first of the model's orders, of the
caller that waited longest. Ends with 1 if an answer is no order of its list, or without the model
another than the first stage's, or if a caller got none.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from measuring import markdown
from served_model import columns_of, search_lists, served, trained

from serving.client import FirstStageList, RerankClient, SearchList

CANDIDATES, HISTORY = 100, 50
PATIENCE_S = 120.0

HEADER = (
    *("kill", "", "model's orders", "first stage's", "p50, ms", "p99, ms", "slowest, ms"),
    *("after the deadline, ms", "back after, s"),
)


class Callers:
    """Ask until they are stopped, and keep what they got since the last look.

    Args:
      client: That all share.
      lists: What they ask for, in turns.
      args: See `main`.
    """

    def __init__(
        self, client: RerankClient, lists: list[SearchList], args: argparse.Namespace
    ) -> None:
        self._client = client
        self._lists = lists
        self._args = args
        self._over = threading.Event()
        self._changed = threading.Condition()
        self.wrong: list[str] = []
        self._forget()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(args.callers)
        ]
        for thread in self._threads:
            thread.start()

    def _forget(self) -> None:
        self._took: list[float] = []
        self._reasons: Counter[str] = Counter()
        self._first = [0.0] * self._args.callers
        self._models = [0] * self._args.callers

    def _ask(self, caller: int) -> None:
        turn = caller
        while not self._over.wait(self._args.pause_ms / 1000):
            asked = self._lists[turn % len(self._lists)]
            turn += 1
            began = time.perf_counter()
            try:
                answer = self._client.rank(asked)
            except Exception as error:  # a caller that gets no order is what is looked for
                self._fault(f"caller {caller} got {error!r}")
                return
            ended = time.perf_counter()
            kept = isinstance(answer, FirstStageList)
            if kept and [*answer.ranking] != [*asked.item_id]:
                self._fault(f"caller {caller} got {answer.ranking}, not the first stage's order")
            if sorted(answer.ranking) != sorted(asked.item_id):
                self._fault(f"caller {caller} got {answer.ranking}, no order of its list")
            with self._changed:
                self._took.append(ended - began)
                if kept:
                    self._reasons[answer.reason.code] += 1
                else:
                    self._first[caller] = self._first[caller] or ended
                    self._models[caller] += 1
                self._changed.notify_all()

    def _fault(self, told: str) -> None:
        with self._changed:
            self.wrong.append(told)
            self._changed.notify_all()

    def wait_for_models(self, each: int) -> None:
        """Until every caller has had so many of the model's orders since the last look."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self.wrong or min(self._models) >= each, timeout=PATIENCE_S
            ):
                self.wrong.append(f"a caller had no model's order in {PATIENCE_S:g} s")

    def look(self, ready: float | None = None) -> list[str]:
        """Cells of a row on what came since the last look.

        Args:
          ready: When the server was, if it came back.
        """
        with self._changed:
            took, reasons, models, first = self._took, self._reasons, self._models, self._first
            self._forget()
        milliseconds = 1000 * np.array(took or [np.nan])
        late = milliseconds.max() - self._args.timeout_ms
        told = ", ".join(f"{code} {count:,}" for code, count in sorted(reasons.items()))
        return [
            f"{sum(models):,}",
            told or "0",
            *(f"{np.percentile(milliseconds, percentile):.1f}" for percentile in (50, 99, 100)),
            f"{np.maximum(0.0, late):.1f}",
            "" if ready is None or not all(first) else f"{max(first) - ready:.1f}",
        ]

    def stop(self) -> None:
        """Lets each finish what it asks."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def kill_and_restart(versions: Path, args: argparse.Namespace) -> list[str]:
    """All of it; prints the rows, and returns what went wrong."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.ExitStack())
        address, process = server.enter_context(served(versions, args.serve))
        port = address.rpartition(":")[2]
        lists = search_lists(columns_of(address, "piano"), CANDIDATES, HISTORY)
        client = RerankClient(address, timeout_s=args.timeout_ms / 1000)
        stack.enter_context(client)
        callers = Callers(client, lists, args)
        stack.callback(callers.stop)
        callers.wait_for_models(args.each)
        callers.look()  # a new client's first answers are late
        print(markdown(HEADER, []), flush=True)

        def row(kill: int, part: str, ready: float | None = None) -> None:
            print(f"| {kill} | {part} | {' | '.join(callers.look(ready))} |", flush=True)

        for kill in range(1, args.kills + 1):
            callers.wait_for_models(args.each)
            row(kill, "up")
            process.kill()
            server.close()
            time.sleep(args.away_s)
            row(kill, "away")
            _, process = server.enter_context(served(versions, [*args.serve, "--port", port]))
            row(kill, "starting")
            ready = time.perf_counter()
            callers.wait_for_models(1)
            row(kill, "back", ready)
            if callers.wrong:
                break
        callers.stop()
        return callers.wrong


def main() -> int:
    """Returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="Folder of versions; else one is trained.")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--timeout-ms", type=float, default=200, help="A page's deadline.")
    parser.add_argument("--pause-ms", type=float, default=50, help="Before each request.")
    parser.add_argument("--away-s", type=float, default=10, help="Between kill and start.")
    parser.add_argument("--each", type=int, default=100, help="Model's orders before a kill.")
    parser.add_argument("serve", nargs="*", help="Options of `piano serve`, after --.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wrong = kill_and_restart(args.model or trained(Path(scratch)), args)
    for fault in wrong:
        print(f"fault: {fault}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
