"""The probes of one worker: what they and its calls tell of it, and when it is asked again.

It may import what `gateway.fleet` may, and the files of `gateway.fleet` for one worker.
"""
