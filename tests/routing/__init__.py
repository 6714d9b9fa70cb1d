"""A simulated fleet that tries the rules of routing: who gets a turn, what the caches still hold.

`workload.py` makes the sessions, `engine.py` is one engine with its cache, `fleet.py` lets the time
pass, `routers.py` has the gateway's own rules, `table.py` tells how it went. The clock jumps from
event to event, and a seed decides everything random. `make simulate-routing` prints the tables of
docs/warm-caches.md.
"""
