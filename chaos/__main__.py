"""`make chaos`: CHAOS_SECONDS for each pair (60), SEED (drawn), PAIRS (all, with the controls).

Ends with 1 if a fire was lost or had two effects, if a dead process's run was taken over too late,
or if a control was not found out.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.pairs import named
from chaos.run import BOUND, report, run


def main() -> int:
    seconds = float(os.environ.get("CHAOS_SECONDS") or 60)
    seed = int(os.environ.get("SEED") or random.randrange(1_000_000))
    try:
        pairs = named(os.environ.get("PAIRS", ""))
    except ValueError as error:
        sys.exit(str(error))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    wrong = []
    for pair in pairs:
        print(f"{pair.name}: SEED={seed}, {seconds:g} s of faults ...", flush=True)
        result = run(pair, folder, seconds, seed)
        print(report(result), flush=True)
        if not (result.as_it_must_be and result.in_time):
            wrong.append(result)
    for result in wrong:
        if result.as_it_must_be:
            what = f"a run was taken over after more than {BOUND:g} s"
        elif result.pair.control:
            what = "the oracle is blind"
        else:
            what = "a promise was broken"
        print(f"{result.pair.name}: {what}; logs in {folder / result.pair.name}", flush=True)
    if not wrong:
        shutil.rmtree(folder)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
