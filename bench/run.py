"""All benchmarks, one after the other: `make bench`."""

import cli_speed
import publish
from subject import ROOT

cli_speed.main()
print()
publish.main(ROOT / ".cache/images")
