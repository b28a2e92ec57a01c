"""Render again the plain files that lie beside a .jinja of the same name.

They make template/ a project that runs where it stands; Copier ignores them.
"""

import shutil
import tempfile
from pathlib import Path

import copier

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "template"
SIBLINGS = ("pyproject.toml", ".env.example", "app/core/wiring.py")


def render(destination: Path) -> None:
    """The service with the default answers, from the files as they are."""
    copier.run_copy(str(ROOT), destination, defaults=True, quiet=True, vcs_ref="HEAD")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder))
        for name in SIBLINGS:
            shutil.copy(Path(folder) / name, TEMPLATE / name)
