"""The whole table of faults, and the mutations: `python -m tests.faults [--requests N] [--only TEXT] [--mutations]`.
`--secured` runs the short set on a cluster with TLS, logins and rights.

Every fault runs on a cluster of its own. The exit code is 1 if a result was lost, doubled or wrong, or if a mutation
stayed green; a run in which the fault did not show is repeated, up to three times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from tests.delivery.simulation.mutations import MUTATIONS

from .faults import FAULTS
from .run import Fault, Row, Void, run_fault

RED_UNDER = {
    "B: reads the committed offset before it fences": "a worker cut off publishes while the next owner initialises",
    "C: repeats requests on the same epoch (no guard 3, no new epochs)": "EndTxn and TxnOffsetCommit late, twice, lost",
    "one epoch for many transactions": "EndTxn and TxnOffsetCommit late, twice, lost",
    "D: commits without the completed-set": "kill -9 in mid-generation, each worker 3 times",
    "E: sends results that its offsets omit": "kill -9 in mid-generation, each worker 3 times",
    "F: one transactional id per process": "SIGSTOP for longer than the session (a zombie), twice",
    "H: no transactions": "kill -9 in mid-generation, each worker 3 times",
    "I: drops a done offset at the low watermark": "kill -9 in mid-generation, each worker 3 times",
    "no gather": "reply topic that takes small records only",
    "no guard 1": "OffsetFetch answered by errors or by nothing",
    "adopts what others have finished": "SIGSTOP for longer than the session (a zombie), twice",
}
"""Which fault finds which mutation."""
assert set(RED_UNDER) == set(MUTATIONS)


ON_EITHER_BROKER = (
    "kill -9 in mid-generation, each worker 3 times",
    "kill -9 between the last produce and EndTxn, 3 times",
)
ON_A_CLUSTER = (
    "EndTxn and TxnOffsetCommit late, twice, lost",
    "group coordinator bounced, 3 times",
)
SHORT = (*ON_EITHER_BROKER, *ON_A_CLUSTER)
"""The faults that `make test` runs."""


def is_green(row: Row) -> bool:
    return not (row.lost or row.doubled or row.wrong or row.notes.startswith("not all answered"))


async def attempt(fault: Fault, requests: int, mutation: str = "", *, secured: bool = False) -> Row:
    """The first run that counts. Raises Void after three that do not."""
    for number in range(3):
        with tempfile.TemporaryDirectory() as folder:
            try:
                return await run_fault(fault, Path(folder), requests, mutation=mutation, secured=secured)
            except Void as void:
                print(f"  void: {void}", flush=True)
                if number == 2:
                    raise
    raise AssertionError


async def all_faults(requests: int, only: str, first: int, *, secured: bool = False) -> bool:
    rows, fine = [], True
    for fault in FAULTS[first:]:
        if only not in fault.name or (secured and not only and fault.name not in SHORT):
            continue
        began = time.monotonic()
        try:
            row = await attempt(fault, requests, secured=secured)
        except (Void, AssertionError) as error:
            print(f"NOT OK {fault.name}: {error}", flush=True)
            fine = False
            continue
        rows.append(row)
        verdict = "ok" if is_green(row) else "NOT OK"
        print(f"{verdict:6} {time.monotonic() - began:4.0f} s  {msgspec.json.encode(row).decode()}", flush=True)
    print("\n" + table(rows))
    return fine and all(map(is_green, rows))


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    head = "| fault | brokers | requests | executed twice | lost | doubled | answered meanwhile | all after |\n"
    lines = [
        f"| {row.fault} | {row.brokers} | {row.requests:,} | {row.executed_twice:,} | {row.lost} | {row.doubled} | "
        f"{row.answered_during:,} | {row.all_after_s:.0f} s |"
        for row in rows
    ]
    return head + "|---|---|---|---|---|---|---|---|\n" + "\n".join(lines)


async def all_mutations(requests: int, only: str) -> bool:
    faults = {fault.name: fault for fault in FAULTS}
    green = []
    for mutation, name in RED_UNDER.items():
        if only not in mutation:
            continue
        try:
            row = await attempt(faults[name], requests, mutation)
            red = not is_green(row)
            found = f"lost {row.lost}, doubled {row.doubled}; {row.notes}"
        except (AssertionError, TimeoutError) as error:
            red, found = True, f"{type(error).__name__}: {str(error)[-200:]}"
        print(f"{'red' if red else 'GREEN'}  {mutation}  ({name}): {found}", flush=True)
        green += [] if red else [mutation]
    return not green


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--only", default="", help="run what has this in its name")
    parser.add_argument("--first", type=int, default=0, help="begin with the fault of this number")
    parser.add_argument("--secured", action="store_true", help="over SASL_SSL, with rights: the short set, or --only")
    parser.add_argument("--mutations", action="store_true", help="take one step away at a time: each has to turn red")
    args = parser.parse_args()
    if args.mutations:
        fine = asyncio.run(all_mutations(args.requests, args.only))
    else:
        fine = asyncio.run(all_faults(args.requests, args.only, args.first, secured=args.secured))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
