"""Kernels by version from Debian's archive: downloaded and unpacked into a cache, never installed.

apt runs with a separate configuration: the machine's mirror, and the releases that have other kernels. The machine's
own lists and packages stay unchanged.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from lab.errors import LabError
from lab.output.file import own_folder
from lab.paths import CACHE

NEWEST = "newest"

_SUITES = ("bullseye", "bookworm", "trixie", "sid")  # Debian's releases with a kernel each: 5.10, 6.1, 6.12, the newest
_LISTS_FRESH_S = 24 * 3600
_PART = re.compile(r"^linux-(?:binary|modules)-")


def unpacked(name: str) -> Path:
    """Return the folder of a kernel's unpacked packages. `name` is a version, the beginning of one, or `newest`.

    Raises `LabError` if the archive has no kernel of this name, or cannot be reached.
    """
    own_folder(CACHE)
    own_folder(_kernels())
    if found := _cached(name):
        return found
    # Concurrent callers wait for each other: apt fails while another apt holds its lock. `_unpack` reuses an earlier
    # download.
    with (CACHE / "downloading").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _unpack(_release(name))


def _cached(name: str) -> Path | None:
    """Return an unpacked kernel of this name. None for `newest`, which needs the archive."""
    if name == NEWEST:
        return None
    return max((path for path in _kernels().glob("*") if _is_of(path.name, name)), key=_version_key, default=None)


def _kernels() -> Path:
    return CACHE / "kernels"


def _is_of(release: str, name: str) -> bool:
    """Return true if the name fits: `6.1` fits 6.1.0-50-amd64 but not 6.12.1-amd64."""
    return release == name or (release.startswith(name) and not release[len(name)].isdigit())


def _version_key(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _release(name: str) -> str:
    """Return the newest release of this name in the archive."""
    architecture = _output("dpkg", "--print-architecture").strip()
    _update()
    lines = _apt("apt-cache", "search", "--names-only", f"^linux-image-[0-9].*-{architecture}$").splitlines()
    releases = [line.split()[0].removeprefix("linux-image-") for line in lines]
    # The cloud flavour lacks 9p, which carries the guest's root file system. The rt flavour is a different kernel.
    releases = [it for it in releases if "-cloud-" not in it and "-rt-" not in it]
    fitting = [it for it in releases if name == NEWEST or _is_of(it, name)]
    if not fitting:
        known = ", ".join(sorted(releases, key=lambda it: _version_key(Path(it)))) or "none"
        raise LabError(f"the archive has no kernel {name}: give one of {known}, or the path of a vmlinuz")
    return max(fitting, key=lambda it: _version_key(Path(it)))


def _unpack(release: str) -> Path:
    target = _kernels() / release
    if target.exists():
        return target
    image = f"linux-image-{release}"
    depends = _apt("apt-cache", "depends", "--no-recommends", "--no-suggests", image).split()
    packages = [image, *sorted({word for word in depends if _PART.match(word) and word.endswith(release)})]
    part = _kernels() / f".{release}-{os.getpid()}"
    part.mkdir(parents=True)
    try:
        _apt("apt-get", "--quiet", "download", *packages, cwd=part)
        for package in sorted(part.glob("*.deb")):
            _output("dpkg-deb", "--extract", str(package), str(part))
            package.unlink()
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _update() -> None:
    """Fetch the package lists, at most once a day."""
    lists = CACHE / "apt" / "lists"
    stamp = CACHE / "apt" / "updated"
    if stamp.exists() and stamp.stat().st_mtime > time.time() - _LISTS_FRESH_S:
        return
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    uri, keyring = _mirror()
    signed = f"Signed-By: {keyring}\n" if keyring else ""
    stanzas = [f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{signed}" for suite in _SUITES]
    (CACHE / "apt" / "lab.sources").write_text("\n".join(stanzas), encoding="utf-8")
    _apt("apt-get", "--quiet", "update")
    stamp.touch()


def _mirror() -> tuple[str, str]:
    """Return the address and keyring of this machine's Debian mirror."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    for line in _output("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
        origin, label, uri = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
            return uri, str(keyring) if keyring.exists() else ""
    raise LabError(
        "kernels by version come from Debian's archive, which this machine does not use: give the path of a vmlinuz"
    )


def _apt(*command: str, cwd: Path | None = None) -> str:
    apt = CACHE / "apt"
    apt.mkdir(parents=True, exist_ok=True)
    config = apt / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{apt}/lab.sources";\n'
        f'Dir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State "{apt}";\n'
        f'Dir::Cache "{apt}";\n'
        'APT::Sandbox::User "root";\n'
        'Acquire::Languages "none";\n',
        encoding="utf-8",
    )
    return _output(*command, cwd=cwd, environment={"APT_CONFIG": str(config)})


def _output(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is missing: install apt, or give the path of a vmlinuz") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise LabError(f"{command[0]} {command[1]} failed: {lines[-1] if lines else error.returncode}") from error
    return ended.stdout
