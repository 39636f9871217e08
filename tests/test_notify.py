"""Prefect's blocks for Slack, Teams and e-mail, whose libraries talk to a stand-in of those services.

A proxy takes the connections that they make, and answers in the services' place under a certificate of its own.
"""

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.client import parse_headers
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Toy
from fixtures.repository import pipelines

from trainwright import operations

TEAMS = "prod-8.westeurope.logic.azure.com"
HOSTS = ("hooks.slack.com", TEAMS, "api.sendgrid.com")


class Services(ThreadingHTTPServer):
    """The services of HOSTS behind a proxy; `told` are the host, the path and the body of each call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Proxy)
        self.certificate, key = folder / "certificate.pem", folder / "key.pem"
        names = ",".join(f"DNS:{host}" for host in HOSTS)
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=services"]
        command += ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.certificate, key)
        self.told: list[tuple[str, str, Any]] = []


class Proxy(BaseHTTPRequestHandler):
    server: Services

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        with self.server.tls.wrap_socket(self.connection, server_side=True) as behind:
            lines = behind.makefile("rb")
            _, path, _ = lines.readline().decode().split()
            length = int(parse_headers(lines)["Content-Length"])
            self.server.told.append((self.path.partition(":")[0], path, json.loads(lines.read(length))))
            behind.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    if not shutil.which("openssl"):
        pytest.skip("the services' certificate is made by openssl, which is not here")
    with Services(tmp_path) as found:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(found.certificate))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{found.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_slack_teams_and_a_mailbox_are_told_what_came_of_a_run(toy: Toy, prefect_api: None, services: Services) -> None:
    from prefect.blocks.notifications import MicrosoftTeamsWebhook, SendgridEmail, SlackWebhook

    from flows.notify import notify

    teams = f"https://{TEAMS}:443/workflows/643e69f83c8944/triggers/manual/paths/invoke?api-version=2016-06-01"
    teams += "&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=KODuebWbDGYFr0z0eu"
    slack = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    SlackWebhook(url=slack, allow_private_urls=True).save("ops", overwrite=True)
    MicrosoftTeamsWebhook(url=teams, allow_private_urls=True).save("team", overwrite=True)
    mail = {"api_key": "a-key", "sender_email": "trainwright@example.org", "to_emails": ["oncall@example.org"]}
    SendgridEmail(**mail).save("oncall", overwrite=True)
    blocks = ("slack-webhook/ops", "ms-teams-webhook/team", "sendgrid-email/oncall")
    pipelines(toy, "one", notifications=[{"block": block} for block in blocks])
    _, running = operations.load(toy.root / "params.yaml")
    notify(running, "refused", "one", "F1 fell by 3 points")
    assert {host for host, _, _ in services.told} == set(HOSTS)
    for _, _, body in services.told:
        assert "one: refused" in json.dumps(body) and "F1 fell by 3 points" in json.dumps(body)
    paths = {host: path for host, path, _ in services.told}
    assert paths["hooks.slack.com"] == "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert paths["api.sendgrid.com"] == "/v3/mail/send"
