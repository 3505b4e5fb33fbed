"""Answers who it is, so that one can see which process and which version a request reached."""

import os
import socket

from flask import Flask, request

VERSION = "1"
app = Flask(__name__)


def whoami():
    return f"flask-demo version {VERSION}, process {os.getpid()} on {socket.gethostname()}\n"


@app.get("/")
def index():
    return f"Hello from Flynn! This is {whoami()}", {"Content-Type": "text/plain"}


@app.get("/version")
def version():
    return f"{VERSION}\n", {"Content-Type": "text/plain"}


@app.post("/echo")
def echo():
    return request.get_data(), {"Content-Type": request.content_type or "application/octet-stream"}
