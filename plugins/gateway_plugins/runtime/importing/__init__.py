"""`gateway import-orchestrator`: a configuration from that of the orchestrator `llm-gateway`.

`dotenv.py` reads its `.env`; `variables.py` is the table of its variables, and `values.py` converts
their values; `found.py` joins the two, and tells what has no effect here. `writing.py` writes the
configuration, `keys.py` has the plugin `auth` import the keys, and `commands.py` is the command.
The package imports nothing of the plugin but its options.
"""
