"""Faults of responses: which there are, when each applies, and how each looks on the wire."""
