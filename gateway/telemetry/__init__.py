"""Reports of the gateway about itself: its log, and the metrics that plugins give.

It may import the ground (`errors`, `headers`, `trace`) and `config`.
"""
