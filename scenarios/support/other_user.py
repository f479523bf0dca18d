"""A user who is not root, with some capabilities."""

import sys
from pathlib import Path

from lab.paths import CHECKOUT

UID = 64321
PLACE = Path("/mnt")
"""Where that user finds the checkout, the environment of the suite and a home. They may lie in folders of root."""

_SCRIPT = """
set -e
mount -t tmpfs -o mode=755 none {place}
mkdir {place}/checkout {place}/environment {place}/runtime {place}/home
mount --bind {checkout} {place}/checkout
mount --bind {environment} {place}/environment
mount --bind {runtime} {place}/runtime
mount -t tmpfs -o mode=1777 none /tmp
chown {uid}:{uid} {place}/home
exec "$@"
"""


def python(*capabilities, runtime=None):
    """Return the command of a Python interpreter that runs as this user with these capabilities, by name without `CAP_`.

    It has a home and a /tmp of its own. `runtime` is its XDG_RUNTIME_DIR.
    """
    places = {"place": PLACE, "checkout": CHECKOUT, "environment": sys.prefix, "runtime": runtime or PLACE / "home"}
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    variables = {
        "HOME": PLACE / "home",
        "PYTHONPATH": PLACE / "checkout",
        "XDG_CACHE_HOME": "",
        "XDG_RUNTIME_DIR": PLACE / "runtime" if runtime else "",
    }
    return [
        *("/usr/bin/unshare", "--mount", "/bin/bash", "-c", _SCRIPT.format(uid=UID, **places), "bash"),
        *("/usr/bin/env", f"--chdir={PLACE}", *(f"{name}={value}" for name, value in variables.items())),
        *("/usr/bin/setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--pdeathsig=KILL"),
        *(f"--{which}={kept}" for which in ("inh-caps", "ambient-caps", "bounding-set")),
        str(PLACE / "environment" / "bin" / Path(sys.executable).name),
    ]
