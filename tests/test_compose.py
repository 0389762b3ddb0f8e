"""docker-compose.yml is well-formed, runs the Procfile's commands, and waits for what each service needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cli.up import read_procfile
from infrastructure.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
# Services that are no process of the Procfile.
SERVERS = {"postgres", "valkey", "kafka"}
ONE_SHOT = "prepare"

TEXT = {"type": "string"}
COMMAND = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}]}
DURATION = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
CONDITION = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
# The part of the Compose specification that the file uses; anything else in it is a mistake here.
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image"],
    "properties": {
        "image": TEXT,
        "build": TEXT,
        "command": COMMAND,
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "init": {"type": "boolean"},
        "stop_grace_period": DURATION,
        "environment": {"type": "object", "additionalProperties": TEXT},
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:[0-9]+:[0-9]+$"}},
        "volumes": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+:/[a-z/]+$"}},
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["condition"],
                "additionalProperties": False,
                "properties": {"condition": CONDITION},
            },
        },
        "healthcheck": {
            "type": "object",
            "required": ["test", "interval", "timeout", "start_period", "retries"],
            "additionalProperties": False,
            "properties": {
                "test": {
                    "type": "array",
                    "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}],
                    "items": TEXT,
                    "minItems": 2,
                },
                "interval": DURATION,
                "timeout": DURATION,
                "start_period": DURATION,
                "retries": {"type": "integer", "minimum": 1},
            },
        },
    },
}
SCHEMA = {
    "type": "object",
    "required": ["services", "volumes"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return content


def test_it_is_well_formed(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, SCHEMA)


@pytest.mark.parametrize(
    "mistake",
    [
        {"comand": "daybook api"},
        {"ports": ["8000:8000"]},
        {"depends_on": {"postgres": {"condition": "service_ready"}}},
        {"healthcheck": {"test": "true", "interval": "5s", "timeout": "5s", "start_period": "5s", "retries": 1}},
        {"environment": {"DAYBOOK_PORT": 8000}},
    ],
)
def test_a_mistake_in_it_is_found(compose: dict[str, Any], mistake: dict[str, Any]) -> None:
    spoilt = {**compose, "services": {**compose["services"], "api": {**compose["services"]["api"], **mistake}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, SCHEMA)


def test_docker_itself_accepts_it(tmp_path: Path) -> None:
    has_compose = (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    )
    if not has_compose:
        pytest.skip("there is no `docker compose` here; the schema above is the check")
    names = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    environment = {**os.environ, **dict.fromkeys(names, "x" * 40)}
    subprocess.run(["docker", "compose", "-f", str(COMPOSE), "config", "-q"], check=True, env=environment, cwd=tmp_path)


def test_each_process_of_the_procfile_is_a_service_with_its_command(compose: dict[str, Any]) -> None:
    services = {
        name: tuple(str(service["command"]).split())
        for name, service in compose["services"].items()
        if name not in SERVERS | {ONE_SHOT}
    }
    assert services == read_procfile(ROOT / "Procfile")


def test_everybody_waits_for_healthy_servers_and_a_prepared_database(compose: dict[str, Any]) -> None:
    services = compose["services"]
    healthy = {server: {"condition": "service_healthy"} for server in SERVERS}
    assert services[ONE_SHOT]["depends_on"] == healthy
    assert services[ONE_SHOT]["restart"] == "no"
    for name in set(services) - SERVERS - {ONE_SHOT}:
        assert services[name]["depends_on"] == {**healthy, ONE_SHOT: {"condition": "service_completed_successfully"}}
    assert [name for name in services if name != ONE_SHOT and "healthcheck" not in services[name]] == []


def test_settings_exist_and_secrets_come_from_outside(compose: dict[str, Any]) -> None:
    known = {PREFIX + spec.name.upper() for spec in fields(Settings)}
    for name, service in compose["services"].items():
        ours = {variable for variable in service.get("environment", {}) if variable.startswith(PREFIX)}
        assert ours <= known, name
    required = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE.read_text()))
    assert required == set(re.findall(r"^([A-Z_]+)=$", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))


def test_only_the_one_shot_knows_the_first_users_password(compose: dict[str, Any]) -> None:
    knowing = [n for n, service in compose["services"].items() if PREFIX + "ADMIN_PASSWORD" in service["environment"]]
    assert knowing == [ONE_SHOT]
