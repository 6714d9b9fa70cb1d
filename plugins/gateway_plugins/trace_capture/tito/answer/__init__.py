"""Chat made of a response of generate: `translator.py` begins; the other files have no I/O."""
