"""A user who is not root, with some capabilities."""

import sys
from pathlib import Path

from lab.paths import CHECKOUT

UID = 64321
PLACE = Path("/mnt")
"""Where that user finds the checkout, the environment of the suite and a home, which may lie in folders of root."""

_SCRIPT = """
set -e
mount -t tmpfs -o mode=755 none {place}
mkdir {place}/checkout {place}/environment {place}/home
mount --bind {checkout} {place}/checkout
mount --bind {environment} {place}/environment
chown {uid}:{uid} {place}/home
exec "$@"
"""


def python(*capabilities, **variables):
    """Return the command of a Python interpreter that runs as this user with these capabilities, by name without `CAP_`."""
    script = _SCRIPT.format(place=PLACE, checkout=CHECKOUT, environment=sys.prefix, uid=UID)
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    environment = {
        "HOME": PLACE / "home",
        "PYTHONPATH": PLACE / "checkout",
        "XDG_CACHE_HOME": "",
        "XDG_RUNTIME_DIR": "",
    }
    return [
        *("/usr/bin/unshare", "--mount", "/bin/bash", "-c", script, "bash"),
        *(
            "/usr/bin/env",
            f"--chdir={PLACE}",
            *(f"{name}={value}" for name, value in (environment | variables).items()),
        ),
        *("/usr/bin/setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--pdeathsig=KILL"),
        *(f"--{which}={kept}" for which in ("inh-caps", "ambient-caps", "bounding-set")),
        str(PLACE / "environment" / "bin" / Path(sys.executable).name),
    ]
