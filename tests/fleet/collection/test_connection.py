"""A node whose answers break off or are none: told in words, asked again, and never waited for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api, Door
from ansible_collections.corral.fleet.plugins.module_utils.problems import ApiError
from ansible_collections.corral.fleet.plugins.module_utils.tasks import TaskLost, Tasks

from corral.lab import certificate

UPID = f"UPID:pve1:00000001:00000001:{int(time.time()):08X}:vzstart:5001:corral@pve!deploy:"
ENDED = json.dumps({"data": [{"upid": UPID, "endtime": 1, "status": "OK"}]})
SHORT = ENDED[:20]  # and no more, of what was promised
TEXT = "<html>Down for maintenance</html>"

pytestmark = pytest.mark.timeout(20)  # for whoever waits for ever after all


class Node(HTTPServer):
    """Answers each request with the next text; the last one again and again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.answers = [ENDED]
        self.authority = certificate.ensure(folder, ["localhost"], ["127.0.0.1"])
        self.socket = certificate.context(folder).wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None:
        """Who hangs up is none."""


class _Request(BaseHTTPRequestHandler):
    server: Node

    def do_GET(self) -> None:
        answers = self.server.answers
        text = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(200)
        self.send_header("Content-Length", str(len(ENDED if text == SHORT else text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(node: Node) -> Api:
    host, port = node.server_address[:2]
    token = {"token_id": "corral@pve!deploy", "token_secret": "0000"}
    trust = {"ca_file": str(node.authority), "fingerprint": None, "validate_certs": True}
    return Api(Door.of({"host": [host], "port": port, "timeout": 5, **token, **trust}))


def wait(api: Api) -> None:
    """Wait for the task."""
    with Tasks(api, timeout=60) as tasks:
        tasks.wait(UPID)


@pytest.mark.parametrize(
    ("answer", "told"),
    [(SHORT, "20 bytes read"), (TEXT, "begins with '<html>Down for")],
    ids=["broken off", "no JSON"],
)
def test_an_answer_that_cannot_be_read(node: Node, api: Api, answer: str, told: str) -> None:
    node.answers = [answer]
    with pytest.raises(ApiError, match="gave no answer that can be read") as caught:
        api.get("/cluster/resources")
    assert told in str(caught.value)
    # Whoever waits for a task asks again, as when the node cannot be reached.
    node.answers = [answer, ENDED]
    wait(api)


def test_nobody_waits_for_ever_for_an_answer_of_another_shape(node: Node, api: Api) -> None:
    node.answers = ['{"data": "soon"}']
    with pytest.raises(TaskLost, match="was lost sight of"):
        wait(api)
