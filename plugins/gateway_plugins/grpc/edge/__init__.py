"""From an RPC to a call and back, whatever carries the RPC.

`context.py` says what a transport offers, `answers.py` what a service has to. `calling.py`
dispatches a call and sends its messages, `receiver.py` is the call's Caller, `metadata.py` makes
headers of metadata, `judging.py` says how an RPC ended, `identifying.py` who calls one that is no
call. The room imports `status`, no service and
no transport.
"""
