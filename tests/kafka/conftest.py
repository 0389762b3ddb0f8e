"""A real Apache Kafka (KRaft, one node) from Maven Central's jars, for the tests in this folder."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infrastructure.processes import Program, await_ready, choose_port, start, stop

HERE = Path(__file__).resolve().parent
# Kept between runs, by what is in it; ignored by git.
CACHE = HERE.parents[1] / ".kafka"
DOWNLOAD_S = 300
READY_S = 60
STOP_S = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything in this folder, so that `make test` leaves it out and `make test-kafka` runs it."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kafka)


def jars() -> Path:
    """The folder of Kafka's jars, downloaded at the first call. Fails the test where Java or Maven is missing."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.fail(f"A real Kafka needs Java 17 and Maven, and there is no {tool} on the PATH.")
    pom = (HERE / "pom.xml").read_text()
    folder = CACHE / "libs"
    if folder.exists() and (CACHE / "pom.xml").exists() and (CACHE / "pom.xml").read_text() == pom:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={folder}"], capture_output=True, text=True, timeout=DOWNLOAD_S, check=False
    )
    if done.returncode:
        pytest.fail(f"Maven could not fetch Kafka:\n{done.stdout[-2_000:]}")
    (CACHE / "pom.xml").write_text(pom)
    return folder


def properties(data: Path, port: int, controller_port: int) -> str:
    """The settings of a one-node cluster on loopback."""
    return "\n".join(
        (
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}",
            f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            f"log.dirs={data}",
            "num.partitions=1",
            "auto.create.topics.enable=false",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            "",
        )
    )


def answers(servers: str) -> bool:
    """Whether the broker tells its metadata."""
    try:
        return bool(AdminClient({"bootstrap.servers": servers, "log_level": 0}).list_topics(timeout=2).brokers)
    except KafkaException:
        return False


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Kafka, `host:port`, for the whole session."""
    classpath = f"{jars()}/*"
    folder = tmp_path_factory.mktemp("kafka")
    port = choose_port()
    controller_port = choose_port(taken=frozenset({port}))
    settings = folder / "server.properties"
    settings.write_text(properties(folder / "data", port, controller_port))
    cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    java = (str(shutil.which("java")), "-Xmx512m", "-cp", classpath, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(settings)],
        check=True,
        capture_output=True,
    )
    program = Program(
        name="kafka",
        command=(*java, "kafka.Kafka", str(settings)),
        log=folder / "kafka.log",
        ready=lambda: answers(f"127.0.0.1:{port}"),
    )
    process = start(program)
    try:
        await_ready(program, process, seconds=READY_S)
        yield f"127.0.0.1:{port}"
    finally:
        stop(program, process, seconds=STOP_S)
