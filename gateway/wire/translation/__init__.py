"""Other APIs carried as chat: their requests become chat's, chat's responses become theirs.

`translation.py` says what a translation is, `chat.py` has the shapes of chat that all share, and
each other API has a room. Pure functions and state machines; imports `gateway.wire` only.
"""
