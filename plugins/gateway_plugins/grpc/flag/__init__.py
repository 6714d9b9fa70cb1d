"""What `--grpc` stands for: the settings of the server whose place the gateway takes.

`offer.py` is what the command line asks, `environment.py` reads the variables of old, `dotenv.py`
the file `.env.dev` beside them. The room never imports the library `grpc`.
"""
