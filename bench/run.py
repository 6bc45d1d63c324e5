"""All benchmarks, one after the other: `make bench`."""

import cli_speed
import publish
import store
from subject import ROOT

cli_speed.main()
print()
publish.main(ROOT / ".cache/images")
print()
store.main(ROOT / ".cache/images", ROOT / ".cache")
