"""Model and service, driven side by side: every balance, as-of answer, statement, refusal and event agrees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from domain.ledger.handlers import KINDS
from tests.model import reference
from tests.model.driver import Difference, World, same
from tests.model.run import SHORT, drive, running_world

NUMBER = 20
WIDTH = 5
COMMANDS = 2_000
MORE_GAMES = 3

READS = {
    *("ledger", "grants", "currencies", "periods", "accounts", "account", "transactions", "transaction"),
    *("refused transaction", "balances", "trial balance", "statement", "repetition", "sealed run", "dry run"),
    *("schedules", "time of a rule", "cancelling 200", "cancelling 409"),
    *("account as of", "accounts as of", "balances as of", "trial balance as of"),
}


def test_the_model_shares_nothing_with_the_product() -> None:
    tree = ast.parse(Path(reference.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"__future__", "collections.abc", "copy", "dataclasses", "datetime", "fractions", "typing"}


def test_what_differs_is_named() -> None:
    with pytest.raises(Difference, match=r"account\.sums\[1\]"):
        same("account", {"sums": [1, 2]}, {"sums": [1, 3]})


def test_an_amount_has_38_digits_at_most_before_its_point() -> None:
    """A hold of all there may be in a currency without decimals, and one more, is such an amount."""
    nines = "9" * 38
    assert reference.misshapen({"amount": nines, "postings": [{"amount": f"{nines}.5", "debit": "a:1"}]}) == []
    body = {"amounts": ["1", f"1{'0' * 38}"], "min_balance": f"-1{nines}.0", "metadata": {"a": f"1{nines}"}}
    assert reference.misshapen(body) == ["#/amounts/1", "#/min_balance"]


def test_model_and_service_agree_on_everything() -> None:
    """In turns of a few commands. A failure names the seed; `make soak` goes on where this ends."""
    with running_world(WIDTH) as world:
        number = drive(world, NUMBER, COMMANDS, SHORT, tell)
        for _ in range(MORE_GAMES):
            # times differ from run to run, and with them what is rare
            if covered(world):
                break
            number = drive(world, number, COMMANDS // 4, SHORT, tell)
        assert world.commands >= COMMANDS
        assert not world.missing
        # each kind was applied at least once, each read compared
        assert KINDS.keys() == world.kinds.keys()
        assert world.reads.keys() >= READS


def tell(seed: int) -> None:
    print(f"SEED={seed} WIDTH={WIDTH}")


def covered(world: World) -> bool:
    return KINDS.keys() == world.kinds.keys() and world.reads.keys() >= READS
