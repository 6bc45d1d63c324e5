"""The `gallery` command: a client of the REST API like any other, plus `serve`, `env` and `store`."""

import sys

# httpx loads rich and pygments for a command line of its own, where it can: half of its import time.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
