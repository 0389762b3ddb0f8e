"""`daybook up`: servers, schema, first user and every process of the Procfile, from one command to one Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from cli.serve import alive_file
from cli.supervisor import StartError, StopRequested, Supervisor
from infrastructure import embedded
from infrastructure.embedded import EmbeddedServerError
from infrastructure.processes import Program, answers, choose_port, die_with_parent, kill_session, started_at
from infrastructure.settings import parse

PROCFILE: Final = Path(__file__).resolve().parents[1] / "Procfile"
PREFERRED_PORTS: Final = {"api": 8000, "flower": 5555, "postgres": 5432, "valkey": 6379, "kafka": 9092}
# Which setting makes which embedded server unnecessary.
SERVERS: Final = {
    "postgres": "DAYBOOK_DATABASE_URL",
    "valkey": "DAYBOOK_REDIS_URL",
    "kafka": "DAYBOOK_KAFKA_SERVERS",
}
# Processes that share something only one can have: the API its port, beat its schedule, Flower its port.
SINGLE: Final = ("api", "beat", "flower")

READY_S: Final = 60.0
PREPARE_S: Final = 120.0
# Together below the 10 s that Ctrl-C may take: those who accept work, those who do it, those who keep it.
STOP_FRONT_S, STOP_WORKERS_S, STOP_SERVERS_S = 3.5, 5.0, 1.2
STRAY_S: Final = 5.0


class UpError(Exception):
    """`daybook up` can't go on; the message is for the person at the terminal."""


def up(
    *,
    scale: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    directory: Annotated[Path, Parameter(name=("--dir", "-d"))] = Path(".daybook"),
    free_ports: bool = False,
    stop_with_parent: bool = False,
) -> None:
    """Run everything: Postgres, Valkey, a Kafka broker, the API, the workers, beat and Flower.

    Parameters
    ----------
    scale
        How many processes a pool has, as `ledgers=2`; one each by default.
    directory
        Folder for data, secrets and logs; another folder is another installation.
    free_ports
        Take any free ports instead of the usual ones.
    stop_with_parent
        Stop when the process that started this one ends, as `make` does when it is killed.
    """
    if stop_with_parent:
        die_with_parent(signal.SIGTERM)
    try:
        state = embedded.make_state_directory(directory)
        with _only_one(state):
            _Up(state, read_procfile(PROCFILE), parse_scale(scale or []), free_ports).run()
    except (UpError, EmbeddedServerError, StartError) as error:
        print(f"daybook up: {error}", file=sys.stderr)
        sys.exit(1)


def read_procfile(path: Path) -> dict[str, tuple[str, ...]]:
    """Process names and their commands. Raises UpError for a line that is neither that, a comment nor blank."""
    entries: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, colon, command = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not (colon and name.strip() and command.strip()):
            raise UpError(f"{path}:{number}: expected `name: command`, found {line!r}.")
        entries[name.strip()] = tuple(shlex.split(command))
    return entries


def parse_scale(wishes: list[str]) -> dict[str, int]:
    """`["ledgers=2", "events=3"]` as a mapping. Raises UpError."""
    chosen: dict[str, int] = {}
    for wish in " ".join(wishes).replace(",", " ").split():
        name, equals, count = wish.partition("=")
        if not (equals and count.isascii() and count.isdigit() and int(count) <= 64):
            raise UpError(f"--scale takes name=count with a count of at most 64, not {wish!r}.")
        if name in SINGLE and int(count) > 1:
            hint = " Set DAYBOOK_API_PROCESSES for more API processes." if name == "api" else ""
            raise UpError(f"There can be only one {name}.{hint}")
        chosen[name] = int(count)
    return chosen


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process however it ends. Raises UpError if another has it."""
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(lock, 20).decode() or "unknown"
        os.close(lock)
        raise UpError(
            f"another one (pid {pid}) is running in {state}. Stop it, or give --dir another folder."
        ) from None
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    try:
        yield
    finally:
        os.close(lock)


def write_private(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that only its owner may read, whole or not at all."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UpError(f"{path} can't be read: {error}") from error
    return content


def _always() -> bool:
    return True


@dataclass
class _Up:
    """One run of `daybook up`: what was chosen, in the order in which it is needed."""

    state: Path
    procfile: dict[str, tuple[str, ...]]
    scale: dict[str, int]
    free_ports: bool
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.scale) - set(self.procfile))
        if unknown:
            raise UpError(f"the Procfile has no {', '.join(unknown)}; it has {', '.join(self.procfile)}.")
        self.supervisor = Supervisor(on_change=self._remember, on_restart=self._after_restart)
        self.embedded = [name for name, variable in SERVERS.items() if not os.environ.get(variable)]

    def run(self) -> None:
        """Starts everything, stays until asked to stop, stops everything."""
        began = time.monotonic()
        (self.state / "connection.json").unlink(missing_ok=True)
        self.supervisor.listen_for_signals()
        self._end_strays()
        self._choose_ports()
        self._load_secrets()
        self._choose_environment()
        try:
            self._start_servers()
            self.supervisor.run_once(self._prepare(), seconds=PREPARE_S)
            self._start_processes()
            write_private(self.state / "connection.json", self._connection())
            self._greet(time.monotonic() - began)
            self.supervisor.run()
        except StopRequested:
            self.supervisor.say("daybook", "stopping")
        finally:
            self._stop()
            (self.state / "connection.json").unlink(missing_ok=True)

    # -- before anything runs -----------------------------------------------------------------------------------------

    def _end_strays(self) -> None:
        """Waits for what an earlier run left (the kernel ends it where it can), then kills it."""
        left = _read(self.state / "run.json").get("processes", {})
        deadline = time.monotonic() + STRAY_S
        for name, (pid, begun) in left.items():
            while started_at(pid) == begun:
                if time.monotonic() > deadline:
                    self.supervisor.say("daybook", f"{name} (pid {pid}) of an earlier run still runs: killing it")
                    kill_session(pid)
                time.sleep(0.02)

    def _choose_ports(self) -> None:
        remembered = _read(self.state / "run.json").get("ports", {})
        wished = {"api": os.environ.get("DAYBOOK_PORT"), "flower": os.environ.get("DAYBOOK_FLOWER_PORT")}
        for name, usual in PREFERRED_PORTS.items():
            candidates = (int(wished.get(name) or 0), remembered.get(name, 0), 0 if self.free_ports else usual)
            self.ports[name] = choose_port(*candidates, taken=frozenset(self.ports.values()))

    def _load_secrets(self) -> None:
        path = self.state / "secrets.json"
        kept = _read(path)
        names = ("postgres_password", "valkey_password", "secret_key", "admin_password", "flower_password")
        self.secrets = {name: kept.get(name) or secrets.token_urlsafe(36) for name in names}
        if self.secrets != kept:
            write_private(path, self.secrets)

    def _choose_environment(self) -> None:
        made = {
            "DAYBOOK_DATABASE_URL": embedded.postgres_url(self.ports["postgres"], self.secrets["postgres_password"]),
            "DAYBOOK_REDIS_URL": embedded.valkey_url(self.ports["valkey"], self.secrets["valkey_password"]),
            "DAYBOOK_KAFKA_SERVERS": f"127.0.0.1:{self.ports['kafka']}",
            "DAYBOOK_SECRET_KEY": self.secrets["secret_key"],
            "DAYBOOK_FLOWER_PASSWORD": self.secrets["flower_password"],
        }
        given = {name: value for name, value in os.environ.items() if name.startswith("DAYBOOK_") and value}
        chosen = {
            **made,
            **given,
            "DAYBOOK_PORT": str(self.ports["api"]),
            "DAYBOOK_FLOWER_PORT": str(self.ports["flower"]),
            "DAYBOOK_STATE_DIR": str(self.state),
        }
        self.settings = parse(chosen)
        # the programs of this environment first, whether or not it was activated
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        self.environment = {**os.environ, **chosen, "PATH": path, "PYTHONUNBUFFERED": "1"}
        self.environment.pop("DAYBOOK_ADMIN_PASSWORD", None)

    # -- starting -----------------------------------------------------------------------------------------------------

    def _start_servers(self) -> None:
        makers = {
            "postgres": lambda port: embedded.postgres(
                self.state, port=port, password=self.secrets["postgres_password"]
            ),
            "valkey": lambda port: embedded.valkey(self.state, port=port, password=self.secrets["valkey_password"]),
            "kafka": lambda port: embedded.kafka(self.state, port=port),
        }
        for name in self.embedded:
            self.supervisor.add(makers[name](self.ports[name]))
        missing = self.supervisor.await_ready(self.embedded, seconds=READY_S)
        if missing:
            raise UpError(f"{', '.join(missing)} did not become ready; see {self.state / 'logs'}.")

    def _start_processes(self) -> None:
        """The API first and alone, so that it answers soonest; the workers' start-up would slow it down."""
        instances = [(name, number) for name in self.procfile for number in range(1, self.scale.get(name, 1) + 1)]
        first = [pair for pair in instances if pair[0] == "api"]
        for group in (first, [pair for pair in instances if pair not in first]):
            names = [self._start_process(name, number) for name, number in group]
            missing = self.supervisor.await_ready(names, seconds=READY_S)
            if missing:
                raise UpError(f"{', '.join(missing)} did not become ready.")

    def _start_process(self, name: str, number: int) -> str:
        command = self.procfile[name]
        program = self._program(f"{name}.{number}", command, instance=number, ready=self._probe(command, number))
        self.supervisor.add(program)
        return program.name

    def _probe(self, command: tuple[str, ...], instance: int) -> Callable[[], bool]:
        """How to see that a process of the Procfile is ready."""
        match command:
            case ("daybook", "api"):
                return partial(self._answers, "api", "/health/ready")
            case ("daybook", "flower"):
                return partial(self._answers, "flower", "/healthcheck")
            case ("daybook", "worker", pool):
                alive = alive_file(self.state, pool, instance)
                # a worker that was killed could not take its file away
                alive.unlink(missing_ok=True)
                return alive.exists
            case _:
                return _always

    def _program(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        instance: int = 1,
        extra: Mapping[str, str] | None = None,
        ready: Callable[[], bool] = _always,
    ) -> Program:
        environment = {**self.environment, "DAYBOOK_INSTANCE": str(instance), **(extra or {})}
        return Program(name=name, command=command, env=environment, ready=ready)

    def _prepare(self) -> Program:
        """The one-shot process that alone is told the first user's password."""
        password = os.environ.get("DAYBOOK_ADMIN_PASSWORD", self.secrets["admin_password"])
        return self._program("prepare", ("daybook", "prepare"), extra={"DAYBOOK_ADMIN_PASSWORD": password})

    def _answers(self, server: str, path: str) -> bool:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.ports[server]}\r\nConnection: close\r\n\r\n"
        return answers(self.ports[server], request.encode(), expected=b"HTTP/1.1 200")

    # -- while it runs ------------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        processes = {**self.supervisor.processes(), "daybook": (os.getpid(), started_at(os.getpid()))}
        write_private(self.state / "run.json", {"ports": self.ports, "processes": processes})

    def _after_restart(self, name: str) -> None:
        if name == "kafka":
            # it kept its topics in memory; this makes them again and has everything published again
            self.supervisor.add(self._prepare(), restart=False)

    def _connection(self) -> dict[str, str]:
        chosen = self.settings
        return {
            "api": f"http://127.0.0.1:{chosen.port}",
            "username": chosen.admin_username,
            "password": os.environ.get("DAYBOOK_ADMIN_PASSWORD", self.secrets["admin_password"]),
            "database_url": chosen.database_url,
            "redis_url": chosen.redis_url,
            "broker_url": chosen.broker_url,
            "kafka_servers": chosen.kafka_servers,
            "flower": f"http://127.0.0.1:{chosen.flower_port}",
            "flower_user": chosen.flower_user,
            "flower_password": chosen.flower_password,
        }

    def _greet(self, seconds: float) -> None:
        connection = self._connection()
        api, login = connection["api"], json.dumps({key: connection[key] for key in ("username", "password")})
        parse_token = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"access_token\"])'"  # a command to try  # nosec B105
        json_header, token_header = "-H 'Content-Type: application/json'", '-H "Authorization: Bearer $TOKEN"'
        self.supervisor.print(
            f"""
Daybook is ready after {seconds:.1f} s.

  API     {api}   (documentation: {api}/docs)
          {connection["username"]} / {connection["password"]}
  Flower  {connection["flower"]}
          {connection["flower_user"]} / {connection["flower_password"]}
  These, and the servers' addresses: {self.state / "connection.json"}{self._where_postgres_is()}

Three lines to try:

TOKEN=$(curl -s {api}/auth/login {json_header} -d '{login}' | {parse_token})
curl -s {api}/v1/ledgers {token_header} {json_header} -H 'Prefer: wait=5' -d '{{"id":"demo","name":"Demo"}}'
curl -s {api}/v1/ledgers/demo {token_header}

Ctrl-C stops everything.
""",
        )

    def _where_postgres_is(self) -> str:
        home = self.state / "postgres"
        if not home.is_symlink():
            return ""
        return f"\n  Postgres keeps its data in {home.resolve()}, since the user it runs as can't enter {self.state}"

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        names = list(self.supervisor.units)
        front = [name for name in names if name.partition(".")[0] in (*SINGLE, "prepare")]
        servers = [name for name in ("kafka", "valkey", "postgres") if name in names]
        workers = [name for name in names if name not in front and name not in servers]
        self.supervisor.stop([(front, STOP_FRONT_S), (workers, STOP_WORKERS_S), (servers, STOP_SERVERS_S)])
