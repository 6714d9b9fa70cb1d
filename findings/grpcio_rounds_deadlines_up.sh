#!/usr/bin/env bash
# grpcio 1.85.3: the deadline that a server sees is up to a hundredth later than the one that its client keeps.
#
# Input: calls with timeouts of 1.001 s, 12.345 s and 1001 s; the server returns what time_remaining() says as
# soon as the call is there.
# Guess: the server sees the client's timeout, less the time of the way.
# Seen: 1.009, 12.4 and 1010 s. The client sends its timeout rounded up to few digits, and keeps the exact one
# itself. So its cancellation comes first, by up to nine seconds of a quarter of an hour, and a server that
# tells a deadline from a cancellation by its own clock takes nearly every deadline for a cancellation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet grpcio==1.85.3
cat > "$work/try.py" <<'EOF'
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc


class Tells(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.tell)

    def tell(self, _, context):
        return str(context.time_remaining()).encode()


server = grpc.server(ThreadPoolExecutor(1), handlers=[Tells()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    ask = channel.unary_unary("/any.Service/Method")
    ask(b"", timeout=60)  # the connection is there from now on
    seen = {timeout: float(ask(b"", timeout=timeout)) for timeout in (1.001, 12.345, 1001.0)}
for timeout, left in seen.items():
    print(f"{timeout} s at the client, {left:.3f} s left at the server of grpcio {grpc.__version__}")
server.stop(0)
sys.exit(not all(left > timeout for timeout, left in seen.items()))
EOF
"$work/venv/bin/python" "$work/try.py"
