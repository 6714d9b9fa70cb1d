"""A trainer that may be killed: python claimer.py URL FILE SEED.

It appends to FILE what it trains on (`trained RECEIPT SESSION TRACE CHOICE`), and then what the
gateway has acknowledged (`acknowledged RECEIPT`) or not (`refused RECEIPT`). It ends when there has
been nothing to claim for IDLE seconds.
"""

import os
import random
import sys
import time

from gateway.client import ClaimedTrajectory, GatewayClient, GatewayClientError

LEASE = 8.0
IDLE = 2 * LEASE


def note(file: int, what: str, rows: list[str]) -> None:
    os.write(file, "".join(f"{what} {row}\n" for row in rows).encode())


def trained(claim: ClaimedTrajectory) -> str:
    taught = sum(claim.loss_mask)
    return f"{claim.receipt} {claim.session_id} {claim.trace_ids[-1]} {claim.choices[-1]} {taught}"


def main(url: str, path: str, seed: str) -> None:
    chance, last = random.Random(seed), time.monotonic()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with GatewayClient(url, timeout=60.0) as gateway:
        while time.monotonic() < last + IDLE:
            try:
                found = gateway.claim_trajectories(
                    chance.randint(1, 64),
                    LEASE,
                    {"idle_seconds": 0},
                    order=chance.choice(["age", "version"]),
                )
                if found.claims or found.more:
                    last = time.monotonic()
                if not found.claims:
                    time.sleep(0.2)
                    continue
                note(file, "trained", [trained(claim) for claim in found.claims])
                receipts = [claim.receipt for claim in found.claims]
                if chance.random() < 0.05:
                    gateway.release(receipts)
                    continue
                done = gateway.acknowledge(receipts)
                note(file, "acknowledged", done.successful)
                note(file, "refused", [failure.receipt for failure in done.failed])
            except GatewayClientError as error:
                note(file, "error", [str(error).replace("\n", " ")])
                last = time.monotonic()
                time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
