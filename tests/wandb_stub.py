"""A server that W&B's client takes for W&B, on this machine's loopback: it keeps what it is sent.

It can also do what servers do on a bad day: answer late, with an error, or never.
"""

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 3  # of no account


class Stub(ThreadingHTTPServer):
    """Runs by their id: `rows`, `config` and `state` of each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.delay = 0.0
        self.asked = 0
        """Requests so far."""
        self.closing = threading.Event()
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.config: dict[str, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.names: dict[str, dict[str, Any]] = {}
        """What the client said of each run: project, group, tags and so on."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed resets its connections."""

    def graphql(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The answer to one of the client's questions; to most of them nothing."""
        project = {"id": "p", "name": variables.get("project") or "p",
                   "entity": {"id": "e", "name": "me"}}  # fmt: skip
        if name == "RunResumeStatus":
            return {"model": project | {"bucket": self._bucket(variables["name"])}}
        if name == "UpsertBucket":
            run = variables["name"] or variables["id"]
            new = run not in self.rows
            self.rows.setdefault(run, [])
            self.names[run] = self.names.get(run, {}) | {k: v for k, v in variables.items() if v}
            if variables.get("config"):
                self.config[run] = json.loads(variables["config"])
            bucket = {"id": run, "name": run, "displayName": run, "project": project,
                      "historyLineCount": len(self.rows[run])}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if name == "ArtifactType":
            return {"project": None}
        if name == "CreateArtifact":
            self.artifacts.append(variables["input"])
            return {"createArtifact": {"artifact": {
                "id": "a", "state": "COMMITTED", "artifactSequence": {
                    "id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}}}}  # fmt: skip
        if name == "CreateRunFiles":
            files = [
                {"name": file, "uploadUrl": f"{self.url}/{file}"} for file in variables["files"]
            ]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "Viewer":
            return {"viewer": {"id": "v", "entity": "me", "username": "me"}}
        return {}

    def stream(self, run: str, files: dict[str, Any]) -> None:
        """Lines of the client's files."""
        if history := files.get("wandb-history.jsonl"):
            rows = self.rows.setdefault(run, [])
            assert history["offset"] == len(rows), "the client goes on where it was"
            rows += [json.loads(line) for line in history["content"]]

    def _bucket(self, run: str) -> dict[str, Any] | None:
        if run not in self.rows:
            return None
        rows = self.rows[run]
        tail = [json.dumps(rows[-1])] if rows else []
        return {
            "id": run, "name": run, "displayName": run, "logLineCount": 0, "eventsLineCount": 0,
            "historyLineCount": len(rows), "historyTail": json.dumps(tail), "eventsTail": "[]",
            "summaryMetrics": json.dumps(rows[-1] if rows else {}), "tags": [], "notes": None,
            "config": json.dumps(self.config.get(run, {})), "wandbConfig": '{"t": {}}',
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.asked += 1
        deadline = time.monotonic() + self.server.delay
        while time.monotonic() < deadline and not self.server.closing.wait(0.1):
            pass
        answer: dict[str, Any] = {}
        if self.server.status == 200 and self.path == "/graphql":
            asked = json.loads(body)
            name = (re.search(r"(?:query|mutation) (\w+)", asked["query"]) or [""])[1]
            answer = {"data": self.server.graphql(name, asked.get("variables") or {})}
        elif self.server.status == 200 and self.path.endswith("/file_stream"):
            run = self.path.split("/")[-2]
            self.server.stream(run, json.loads(body).get("files") or {})
        data = json.dumps(answer).encode()
        try:
            self.send_response(self.server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client did not wait
            self.close_connection = True

    do_PUT = do_POST  # noqa: N815
    do_GET = do_POST  # noqa: N815


@contextmanager
def stub() -> Iterator[Stub]:
    """A server that runs as long as the block."""
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
