"""Reward terms for Xplore in Python. Copy this file beside yours; it needs Python 3.8 or later and nothing else.

A term is a function of a batch, a dict with

    step       index of the training step, from 0
    params     the `params` of the term in the config
    responses  a list of dicts: summary, reasoning, text, well_formed, p_chosen, uid, group, stage, history, targets, ...

It returns one number per response, in order, or a pair of these numbers and a dict of metrics. `run` answers the requests of a
`command`, `serve` those of a `url`. With `run`, what the function prints goes to standard error, which Xplore shows if the
term fails.
"""

import json
import os
import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = 1


def answer(score, request):
    """Returns the answer to a request, as a line of JSON."""
    if "responses" not in request:
        return json.dumps({"xplore_reward": VERSION})
    try:
        found = score(request)
        scores, metrics = found if isinstance(found, tuple) else (found, {})
        told = {"scores": [float(s) for s in scores], "metrics": {key: float(value) for key, value in metrics.items()}}
        return json.dumps({"id": request["id"], **told}, allow_nan=False)
    except Exception:
        return json.dumps({"id": request["id"], "error": traceback.format_exc(limit=-3)})


def run(score):
    """Answers requests on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        print(answer(score, json.loads(line)), file=answers, flush=True)


def serve(score, port=8080, host="127.0.0.1"):
    """Answers requests that are posted to http://host:port; 0 selects a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = answer(score, request).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer((host, port), Handler) as server:
        print(f"http://{host}:{server.server_port}", flush=True)
        server.serve_forever()
