from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path

import click
import pytest

from backend.commands import cli as main
from backend.errors import ConfigError
from backend.storage.store import open_store
from tests.servers import running

ROOT = Path(__file__).parents[3]


class Refusing(BaseHTTPRequestHandler):
    """A Label Studio that knows no token."""

    def do_GET(self) -> None:
        body = b'{"status_code": 401, "detail": "Invalid token."}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, **environment: str) -> Done:
    """Run a command in this process, with no more in the environment than a shell has."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    umask = os.umask(0o022)
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(StringIO()) as stdout,
            redirect_stderr(StringIO()) as stderr,
        ):
            patch.setattr(os, "environ", {**kept, **environment})
            patch.setattr(sys, "argv", ["backend", *arguments])
            with pytest.raises(SystemExit) as ended:
                main.main()
    finally:
        os.umask(umask)
    return Done(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())


def refused(*arguments: str, **environment: str) -> str:
    """Return what the command says when it refuses."""
    result = run(*arguments, **environment)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize("command", ["start", "web", "worker"])
def test_a_service_without_a_token_says_where_to_get_one(command: str, tmp_path: Path) -> None:
    line = refused(command, DATA_DIR=str(tmp_path))
    assert "LABEL_STUDIO_API_KEY is not set. Set it to a token from" in line


@pytest.mark.parametrize("command", ["start", "worker"])
def test_a_sqlite_that_is_too_old_for_dbos_is_said_before_a_process_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.worker.jobs_database.PYTHON", (3, 12))
    monkeypatch.setattr("backend.worker.jobs_database.SQLITE", (3, 40, 1))
    line = refused(command, DATA_DIR=str(tmp_path), LABEL_STUDIO_API_KEY="hunter2")
    assert line.startswith("Python 3.12 uses SQLite 3.40.1")
    assert line.endswith("or Python 3.11, or PostgreSQL as DATABASE_URL.")
    assert not list(tmp_path.iterdir())


@pytest.mark.server
def test_a_command_refuses_as_a_process_too(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "backend", "start"],
        cwd=ROOT,
        env={"PATH": os.defpath, "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert "LABEL_STUDIO_API_KEY is not set" in line


@pytest.mark.parametrize("command", ["start", "web", "worker"])
def test_a_data_folder_that_cannot_be_written_is_said_at_once(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(command, DATA_DIR=str(tmp_path / "file"), LABEL_STUDIO_API_KEY="hunter2")
    assert "cannot be written" in line
    assert "Point DATA_DIR at" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("command", ["start", "web", "worker"])
def test_a_store_that_this_installation_cannot_speak_to_is_said_at_once(
    command: str, tmp_path: Path
) -> None:
    given = {"DATA_DIR": str(tmp_path), "LABEL_STUDIO_API_KEY": "hunter2"}
    line = refused(command, ARTIFACTS_URL="gs://user:hidden@bucket", **given)
    assert "ARTIFACTS_URL begins with gs://, for which a package is missing" in line
    assert "pip install gcsfs" in line
    assert "hidden" not in line


def test_options_of_start_win_over_the_environment(tmp_path: Path) -> None:
    given = {"DATA_DIR": str(tmp_path), "LABEL_STUDIO_API_KEY": "hunter2"}
    line = refused("start", "--basic-auth-user", "us:", **given, BASIC_AUTH_PASS="x")
    assert 'expected no ":"' in line
    line = refused("start", "-p", "9191", "--host", "::1", "--basic-auth-pass", "y", **given)
    assert "BASIC_AUTH_USER and BASIC_AUTH_PASS belong together" in line


def test_a_wrong_environment_names_every_variable(tmp_path: Path) -> None:
    line = refused("worker", DATA_DIR=str(tmp_path), PORT="http", FIRSTLIGHT_ALPHA="3")
    assert "PORT" in line
    assert "FIRSTLIGHT_ALPHA" in line


@pytest.mark.slow
@pytest.mark.parametrize("address", ["hidden", "postgresql://user:hidden@host:port/database"])
@pytest.mark.parametrize("words", [("versions", "1"), ("web",), ("worker",), ("doctor",)])
def test_an_address_that_is_no_database_is_said_without_being_repeated(
    words: tuple[str, ...], address: str, tmp_path: Path
) -> None:
    given = {"DATA_DIR": str(tmp_path), "LABEL_STUDIO_API_KEY": "hunter2"}
    line = refused(*words, DATABASE_URL=address, **given)
    assert "DATABASE_URL: " in line
    assert "expected sqlite:///file or postgresql+psycopg://" in line
    assert "hidden" not in line


@pytest.mark.parametrize(
    "command", ["connect", "disconnect", "clean", "doctor", "versions", "rollback", "stability"]
)
@pytest.mark.parametrize("project", ["2147483648", "99999999999999999999", "0"])
def test_a_number_that_no_project_can_have_is_refused(
    command: str, project: str, tmp_path: Path
) -> None:
    result = run(command, project, DATA_DIR=str(tmp_path), LABEL_STUDIO_API_KEY="hunter2")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(
        f"{project} is not in the range 1<=x<=2147483647."
    )


def test_a_wrong_token_is_said_with_the_mend(refusing: str) -> None:
    line = refused("connect", "1", LABEL_STUDIO_URL=refusing, LABEL_STUDIO_API_KEY="hunter2")
    assert "refused the request (401): Invalid token." in line
    assert "Check LABEL_STUDIO_API_KEY" in line
    assert "hunter2" not in line


def test_an_unreachable_label_studio_is_said_with_the_mend(
    nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Retries of the HTTP layer stay, their seconds of waiting go.
    monkeypatch.setattr("label_studio_sdk.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.0)
    line = refused("connect", "1", LABEL_STUDIO_URL=nobody, LABEL_STUDIO_API_KEY="hunter2")
    assert f"{nobody} did not answer (no connection: nothing listens there" in line
    assert "that LABEL_STUDIO_URL is right" in line


def test_a_project_that_is_no_number_is_said() -> None:
    result = run("connect", "x")
    assert result.returncode == 2
    assert "'x' is not a valid project number." in result.stderr


def test_bad_options_are_said_with_the_known_ones(nobody: str) -> None:
    line = refused(
        "connect",
        "1",
        "--extra-params",
        '{"alhpa": 0.5}',
        LABEL_STUDIO_URL=nobody,
        LABEL_STUDIO_API_KEY="hunter2",
    )
    assert "alhpa: unknown option" in line
    assert "cold_start_budget" in line


@pytest.mark.slow
@pytest.mark.parametrize("words", [("versions", "9"), ("rollback", "9", "r0001"), ("clean", "9")])
def test_a_project_that_is_unknown_or_of_another_folder_is_said(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    env = {"DATA_DIR": str(tmp_path), "LABEL_STUDIO_API_KEY": "hunter2"}
    assert "Point DATA_DIR at" in refused(*words, **env)
    open_store(f"sqlite:///{tmp_path / 'firstlight.sqlite'}").create()
    assert "Connect it: python -m backend connect 9" in refused(*words, **env)


@pytest.mark.parametrize("words", [("disconnect", "1"), ("clean", "1")])
def test_commands_that_speak_to_label_studio_ask_for_a_token(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    assert "LABEL_STUDIO_API_KEY is not set" in refused(*words, DATA_DIR=str(tmp_path))


@pytest.mark.slow
def test_the_doctor_ends_with_1_when_something_is_wrong_and_says_it_as_text_or_json(
    refusing: str, nobody: str, tmp_path: Path
) -> None:
    env = {
        "LABEL_STUDIO_URL": refusing,
        "LABEL_STUDIO_API_KEY": "hunter2",
        "BACKEND_URL": nobody,
        "DATA_DIR": str(tmp_path),
        "ENCODER": "pixels",
    }
    text, rows = run("doctor", "1", **env), run("doctor", "1", "--json", **env)
    assert (text.returncode, rows.returncode) == (1, 1)
    assert (text.stderr, rows.stderr) == ("", "")
    found = json.loads(rows.stdout)
    assert all(row["fix"] for row in found if not row["ok"])
    assert {row["name"] for row in found if not row["ok"]} >= {"database", "web process", "project"}
    assert f"WRONG  web process: {nobody} does not answer (no connection" in text.stdout
    *_, summary, next_step = text.stdout.splitlines()
    assert summary.endswith(", ".join(row["name"] for row in found if not row["ok"]) + ".")
    assert next_step.startswith("Next (Label Studio): Check LABEL_STUDIO_API_KEY")
    assert "hunter2" not in text.stdout + rows.stdout


def test_a_mistake_inside_a_command_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cli() -> None:
        raise ConfigError("It is wrong.", "Mend it.")

    monkeypatch.setattr(main, "cli", cli)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "It is wrong. Mend it.\n"


def test_a_file_that_may_not_be_read_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cli() -> None:
        raise PermissionError(13, "Permission denied", "/data/firstlight.sqlite")

    monkeypatch.setattr(main, "cli", cli)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("/data/firstlight.sqlite cannot be used (Permission denied). Let this")
    assert "Traceback" not in said


def test_every_command_has_a_line_of_help() -> None:
    context = click.Context(main.cli)
    commands = [main.cli.get_command(context, name) for name in main.cli.list_commands(context)]
    assert {command.name for command in commands if command} >= {
        "start",
        "web",
        "worker",
        "connect",
        "disconnect",
        "doctor",
        "clean",
        "versions",
        "rollback",
    }
    assert all(command and command.help for command in commands)


def test_what_a_command_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert main.cli.callback is not None
        main.cli.callback()
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0
    assert (tmp_path / "folder").stat().st_mode & 0o077 == 0
