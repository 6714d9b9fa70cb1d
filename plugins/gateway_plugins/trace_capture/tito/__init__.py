"""Token-in/token-out: the ids that were sampled in earlier turns are in the next prompt.

`carrying.py` begins: it carries a chat call as vLLM's generate. `prompts.py` makes the prompt, from
an earlier turn (`turns.py`, `stored.py`) that the request continues (`history.py`) and from the
rest of the conversation (`suffix.py`), which the engine renders (`engine.py`, `requests.py`).
`answer/` makes chat of the response. Rooms imported: sequences, sessions, store.
"""
