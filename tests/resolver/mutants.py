"""`make mutants`: small sabotages of the resolver, each of which the proofs must catch.

Each is applied to a copy of the source in a temporary folder, and the model, some seeds and the
laws' tests are run against it, until one fails. Prints a line for each; ends with status 1 where
one is missed: that is a hole in the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent
SOURCE = TESTS.parent / "src"
LIST = Path(__file__).with_name("mutants.toml")
#: Histories of each dialect, and seeds, that are played against one sabotage.
HISTORIES = 150
SEEDS = 1500
#: One that hangs is caught (seconds).
PATIENCE = 240.0
LAWS = (
    "test_life_rules.py",
    "test_expiry_meanwhile.py",
    "test_resolver_laws.py",
    "test_draft_laws.py",
    "test_store.py",
    "test_precedence.py",
    "test_dane_state.py",
)


@dataclass(frozen=True)
class Mutant:
    """A text of a file below `smtp_sts/resolver/`, and what stands in its place."""

    name: str
    file: str
    text: str
    instead: str

    def count(self) -> int:
        """How often the text stands in the source."""
        return (SOURCE / "smtp_sts" / "resolver" / self.file).read_text().count(self.text)


def mutants() -> list[Mutant]:
    """All of the list."""
    return [Mutant(**one) for one in tomllib.loads(LIST.read_text())["mutant"]]


def caught_by(mutant: Mutant) -> str:
    """Which proof fails with a sabotage; "" where none does."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        source = Path(folder, "src")
        shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
        path = source / "smtp_sts" / "resolver" / mutant.file
        path.write_text(path.read_text().replace(mutant.text, mutant.instead))
        environment = {**os.environ, "PYTHONPATH": f"{source}:{TESTS}", "TMPDIR": folder}
        checks = [
            ("model", [sys.executable, "-m", "resolver.mutants", "model"]),
            ("seeds", [sys.executable, "-m", "resolver.mutants", "seeds"]),
        ]
        laws = [str(TESTS / "resolver" / name) for name in LAWS]
        pytest = [sys.executable, "-m", "pytest", "-x", "-n0", "-p", "no:cacheprovider"]
        checks.append(("laws", [*pytest, *laws]))
        for name, command in checks:
            try:
                ended = subprocess.run(
                    command,
                    env=environment,
                    cwd=TESTS.parent,
                    capture_output=True,
                    timeout=PATIENCE,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"{name}, which did not end"
            if ended.returncode != 0:
                return name
    return ""


def model() -> None:
    """The model, without the search for the shortest history. Raises what it finds."""
    from hypothesis import HealthCheck, Phase, settings
    from hypothesis.stateful import run_state_machine_as_test

    from .test_life_model import Draft00, Rfc8461

    chosen = settings(
        max_examples=HISTORIES,
        stateful_step_count=60,
        deadline=None,
        database=None,
        derandomize=True,  # a sabotage that is caught once is caught each time
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    for machine in (Rfc8461, Draft00):
        run_state_machine_as_test(machine, settings=chosen)


def seeds() -> None:
    """Some seeds. Raises what they find."""
    from .seeded_play import play
    from .test_seeds import FOUND_IT

    for seed in (FOUND_IT, *range(SEEDS)):
        play(seed)


def main(names: list[str]) -> int:
    """All sabotages, or those with these words in their names."""
    chosen = [one for one in mutants() if not names or any(n in one.name for n in names)]
    missed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, found in zip(chosen, pool.map(caught_by, chosen), strict=True):
            missed += not found
            print(f"{'caught by ' + found if found else 'MISSED':<20} {mutant.name}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} sabotages caught")
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["model"]:
        model()
    elif sys.argv[1:] == ["seeds"]:
        seeds()
    else:
        sys.exit(main(sys.argv[1:]))
