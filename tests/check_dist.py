"""Build the wheel and the sdist, and say what is in them that should not be, or is not.

Run by `make lint`: `python -m tests.check_dist`.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXTS = {
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "UPGRADING.md",
    "setup.cfg",
    "pyproject.toml",
}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        # From the sdist, as those do who build the package themselves.
        command = [sys.executable, "-m", "build", "--outdir", folder, str(ROOT)]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            print(built.stdout, built.stderr, sep="\n")
            return 1
        (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        problems = [f"{wheel.name}: {text}" for text in _compare(_of_wheel(wheel))]
        problems += [f"{sdist.name}: {text}" for text in _compare(_of_sdist(sdist))]
        print(
            *problems or [f"{wheel.name} and {sdist.name} hold what they should"],
            sep="\n",
        )
        return int(bool(problems))


def _of_wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def _of_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    generated = {"PKG-INFO", "MANIFEST.in"}
    return {n for n in names if n not in TEXTS | generated and ".egg-info/" not in n}


def _compare(found: set[str]) -> list[str]:
    wanted = _wanted()
    missing = [f"{name} is missing" for name in sorted(wanted - found)]
    return missing + [f"{name} should not be there" for name in sorted(found - wanted)]


def _wanted() -> set[str]:
    """Every module and data file that git tracks, under the names they install to."""
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "background_task",
            "supervisor",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = {n for n in listed if n != "background_task/supervisor"}
    return {f"background_task/{n}" if n.startswith("supervisor/") else n for n in names}


if __name__ == "__main__":
    sys.exit(main())
