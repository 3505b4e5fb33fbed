"""A provider of boxes, which are no more than names: the protocol of docs/providers.md, and nothing else.

What it made is forgotten when it ends; a real one keeps it.
"""

import base64
import hmac
import json
import os
import signal
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEY = os.environ.get("PROVIDER_KEY", "")
boxes = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/ping":
            return self.answer(200, {})
        if self.is_allowed():
            self.answer(200, sorted(boxes))

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.is_allowed():
            return
        # The same key is the same wish, asked again because an answer was lost.
        key = self.headers.get("Idempotency-Key") or str(uuid.uuid4())
        env = boxes.setdefault(key, {"BOX_NAME": f"box-{key[:8]}"})
        self.answer(200, {"id": key, "env": env})

    def do_DELETE(self):
        if not self.is_allowed():
            return
        for box in parse_qs(urlsplit(self.path).query).get("id", []):
            boxes.pop(box, None)
        self.answer(200, {})

    def is_allowed(self):
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        wanted = base64.b64encode(f":{KEY}".encode()).decode()
        if KEY and hmac.compare_digest(given, wanted):
            return True
        self.answer(401, {"code": "unauthorized", "message": "this needs the provider's key"})
        return False

    def answer(self, status, what):
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def stop(*_):
    raise SystemExit(0)


signal.signal(signal.SIGTERM, stop)
ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
