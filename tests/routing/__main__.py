"""Prints the tables of docs/warm-caches.md: `make simulate-routing`; takes two minutes."""

import argparse
import sys

from routing.table import tables


def main() -> None:
    parser = argparse.ArgumentParser(prog="routing", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="other sessions for another seed (1)")
    sys.stdout.write(tables(seed=parser.parse_args().seed))


if __name__ == "__main__":
    main()
