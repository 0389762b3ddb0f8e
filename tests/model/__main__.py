"""`make soak`: model and service side by side for 200,000 commands, in turns of all widths.

`SEED` is where it begins, `COMMANDS` how long it goes on, `WIDTH` (of turns) if all are to be alike. What it prints
before a game is what plays that game again.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from functools import partial

from tests.model.driver import World
from tests.model.run import LONG, drive, running_world, width_of

LEG = 20_000
"""Commands until a service of another width takes over."""


def main() -> int:
    number = int(os.environ.get("SEED") or secrets.randbelow(10**6) * 1_000)
    wanted = int(os.environ.get("COMMANDS") or 200_000)
    width = int(os.environ.get("WIDTH") or 0)
    compared, begun = 0, time.monotonic()
    kinds, codes, reads = Counter[str](), Counter[str](), Counter[str]()
    while compared < wanted:
        wide = width or width_of(number)
        with running_world(wide) as world:
            if world.missing:
                print("not driven, since the service has none:", ", ".join(sorted(world.missing)))
            tell = partial(_tell, world, compared, wanted, begun, wide)
            number = drive(world, number, min(LEG, wanted - compared), LONG, tell)
            compared += world.commands
            kinds, codes, reads = kinds + world.kinds, codes + world.codes, reads + world.reads
    for what, counter in (("kinds", kinds), ("refusals", codes), ("reads", reads)):
        print(f"{what}: " + ", ".join(f"{name} {count:,}" for name, count in counter.most_common()))
    print(f"{compared:,} commands, {reads.total():,} reads, no difference")
    return 0


def _tell(world: World, before: int, wanted: int, begun: float, width: int, seed: int) -> None:
    done, seconds = before + world.commands, max(1, time.monotonic() - begun)
    next_game = f"SEED={seed} WIDTH={width} COMMANDS=1"
    print(f"{done:>9,} of {wanted:,} commands agree, {done / seconds:,.0f} a second; next: {next_game}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
