"""A web server without any dependency, so that the Procfile alone makes it an app."""

import os
import signal
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        who = f"procfile-demo version {VERSION}, process {os.getpid()} on {socket.gethostname()}"
        self.answer(f"{VERSION}\n" if self.path == "/version" else f"Hello from Flynn! This is {who}\n")

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def stop(*_):
    raise SystemExit(0)


signal.signal(signal.SIGTERM, stop)
ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
