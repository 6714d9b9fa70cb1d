"""An engine that only sleeps and wakes, or does not; it prints each request."""

import msgspec
from gateway_plugins.runtime.drivers.driver import Launch
from support.ports import free_port
from support.runtime.small_engines import launch

PROGRAM = """
import http.server
asleep, port, faults = False, int(sys.argv[1]), sys.argv[2:]
class Engine(http.server.BaseHTTPRequestHandler):
    def answer(self):
        global asleep
        say(self.command, self.path)
        path = self.path.partition('?')[0]
        if 'hang' + path in faults:
            stay()
        if path in ('/sleep', '/wake_up') and 'idle' + path not in faults:
            asleep = path == '/sleep' or 'weights' in self.path
        body = b'{"is_sleeping":%s}' % str(asleep).lower().encode()
        body = b'nonsense' if 'babble' + path in faults else body
        self.send_response(500 if 'fail' + path in faults else 200)
        self.end_headers()
        self.wfile.write(body)
        while 'flood' + path in faults:
            self.wfile.write(b'x' * 65536)
    do_GET = do_POST = answer
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Engine)
say('leader', os.getpid())
server.serve_forever()
"""


def sleeping_engine(*faults: str, generation: int = 1) -> Launch:
    """A start of that engine. A fault is a word and a path, such as "fail/wake_up".

    "fail": 500; "hang": no answer; "idle": it does not do it; "babble": no JSON; "flood": without
    end.
    """
    port = free_port()
    plain = launch(PROGRAM, port=port, generation=generation)
    return msgspec.structs.replace(plain, command=(*plain.command, str(port), *faults))
