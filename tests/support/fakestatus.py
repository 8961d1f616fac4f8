"""A server that answers /v1/status and /ready as told: for what the commands make of it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeStatus:
    """Context manager; `status` and `ready` may change while it serves."""

    def __init__(self, **status) -> None:
        now = time.time()
        self.status = {
            "version": "1",
            "started_at": now,
            "uptime": 1.0,
            "phase": "idle",
            "since": now,
            **status,
        }
        self.ready = False
        self.keys: list[str | None] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                fake.keys.append(self.headers.get("x-api-key"))
                code = 200 if self.path == "/v1/status" or fake.ready else 503
                body = json.dumps(fake.status).encode()
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
