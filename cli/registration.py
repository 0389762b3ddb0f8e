"""Registers users from the command line: by the same command as the API's, its turn taken here, so nobody need run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, get_args

import asyncpg
import msgspec
from asyncpg import Record
from uuid_utils.compat import uuid7

from domain.errors import DomainError, ValidationError
from domain.identity.commands import Password, RegisterUser, Role, Username
from infrastructure.bells import Bells
from infrastructure.command_log import CommandLog, Draft, Job, Submission
from infrastructure.credentials import Beside
from infrastructure.logs import configure_logging
from infrastructure.passwords import hash_password
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from workers.notices import Notices
from workers.turn import Turns

CONNECTIONS: Final = 3
"""For the turn, its mark, and a look at the job."""
PATIENCE_S: Final = 10
LOOK_S: Final = 0.05


async def register(
    chosen: Settings, pool: asyncpg.Pool[Record], username: str, password: str, roles: Sequence[Role]
) -> None:
    """Makes a user, in the name of nobody but itself. Needs `CONNECTIONS` of the pool.

    Raises DomainError: a name or password that can't be, or a name that is taken.
    """
    # people read this, to whom a turn that went well is no news
    configure_logging(replace(chosen, log_level="warning"))
    _check("A user name", username, Username)
    _check("A password", password, Password)
    user = uuid7()
    command = msgspec.json.encode(RegisterUser(username=username, roles=tuple(roles)))
    draft = Draft(user, "register_user", command, 1, f"/v1/users/{user}")
    beside = Beside(user, await asyncio.to_thread(hash_password, password))
    log = CommandLog(pool)
    for answer in await log.append([Submission(f"user:{user}", user, str(user), (draft,), beside=beside)]):
        if isinstance(answer, Exception):
            raise answer
    job = await _applied(chosen, pool, log, draft)
    if job.problem is not None:
        raise DomainError(job.problem.code, job.problem.detail)


async def _applied(chosen: Settings, pool: asyncpg.Pool[Record], log: CommandLog, draft: Draft) -> Job:
    """Takes the turn, unless a worker was quicker."""
    redis = open_redis(chosen)
    # sweeps find what is to be delivered
    turns = Turns(pool, pool, Notices(redis), Bells(redis, None), chosen, (), lambda *_: None)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await turns.work(f"user:{draft.id}")
                job = await log.find_job(draft.id)
                if job is not None and job.finished:
                    return job
                await asyncio.sleep(LOOK_S)
    finally:
        await redis.aclose()


def _check(what: str, text: str, kind: Any) -> None:
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        raise ValidationError(f"{what} {get_args(kind)[1].description}.") from None
