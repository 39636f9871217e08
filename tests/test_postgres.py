"""A server whose database is PostgreSQL, with the settings of deploy/server.env; and its backup, brought back."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, wait
from test_doors import settings_of

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))
PASSWORD = "ops:of-this-test"
pytestmark = pytest.mark.skipif(BIN is None, reason="PostgreSQL of Debian's package is not installed")


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Database:
    """A PostgreSQL of its own in a folder, run by an ordinary user (it refuses root)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.user = "postgres" if os.geteuid() == 0 else getpass.getuser()
        self.run("initdb", "--auth=trust", "--username=prefect", "--no-sync", str(folder / "data"))
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        self.run("pg_ctl", "-D", str(folder / "data"), "-l", str(folder / "log"), "-o", options, "-w", "start")
        self.run("createdb", *self.place, "prefect")

    @property
    def place(self) -> tuple[str, ...]:
        return ("--host=127.0.0.1", f"--port={self.port}", "--username=prefect")

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/prefect"

    def run(self, program: str, *arguments: str) -> None:
        assert BIN is not None
        user: dict[str, Any] = {"user": self.user, "group": self.user, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run(
            [str(BIN / program), *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT, check=False, **user,
        )  # fmt: skip
        assert done.returncode == 0, (program, arguments)

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@pytest.fixture
def database() -> Iterator[Database]:
    folder = Path(tempfile.mkdtemp(prefix="trainwright-pg-"))  # pytest's own folders let no other user in
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    made = Database(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


class Server:
    """`prefect server start` with deploy/server.env, but for its port."""

    def __init__(self, home: Path, database: str) -> None:
        port = free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= settings_of(ROOT / "deploy" / "server.env") | {
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_HOME": str(home),
            "PREFECT_UI_ENABLED": "false",
        }
        self.child = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"], env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait(self._answers, 240, "the server does not answer")

    def _answers(self) -> bool:
        assert self.child.poll() is None, "the server has ended"
        try:
            return httpx.get(f"{self.api}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str, body: dict[str, Any], password: str = PASSWORD) -> httpx.Response:
        with httpx.Client(auth=tuple(password.split(":")), timeout=60) as client:  # type: ignore[arg-type]
            token = client.get(f"{self.api}/csrf-token", params={"client": "test"})
            headers = {"Prefect-Csrf-Client": "test"}
            if token.status_code == 200:
                headers["Prefect-Csrf-Token"] = token.json()["token"]
            return client.post(self.api + path, json=body, headers=headers)

    def stop(self) -> None:
        os.killpg(self.child.pid, 9)
        self.child.wait()


def test_a_server_on_postgresql_has_its_doors_shut_and_comes_back_from_its_dump(
    database: Database, tmp_path: Path
) -> None:
    server = Server(tmp_path, database.url)
    try:
        assert server.ask("/flows/", {"name": "kept"}).status_code == 201
        assert server.ask("/flows/filter", {}, "some:body").status_code in (401, 403)
        without = httpx.post(f"{server.api}/flows/", json={"name": "x"}, auth=tuple(PASSWORD.split(":")))  # type: ignore[arg-type]
        assert (without.status_code, without.json()["detail"]) == (403, "Missing CSRF token.")
        other = {"Origin": "http://other.example", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in httpx.options(f"{server.api}/flows/filter", headers=other).headers
    finally:
        server.stop()
    dump = str(database.folder / "prefect.dump")
    database.run("pg_dump", *database.place, "--format=custom", f"--file={dump}", "prefect")
    database.run("dropdb", *database.place, "--force", "prefect")
    database.run("createdb", *database.place, "prefect")
    database.run("pg_restore", *database.place, "--clean", "--if-exists", "--dbname=prefect", dump)
    server = Server(tmp_path, database.url)
    try:
        assert [flow["name"] for flow in server.ask("/flows/filter", {}).json()] == ["kept"]
    finally:
        server.stop()
