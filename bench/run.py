"""All benchmarks, one after the other: `make bench`."""

import access
import boot
import cli_speed
import control_plane
import publish
import replica_server
import store
import storm
from subject import ROOT

cli_speed.main()
print()
access.main()
print()
publish.main(ROOT / ".cache/images")
print()
store.main(ROOT / ".cache/images", ROOT / ".cache")
print()
boot.main(ROOT / ".cache/images", ROOT / ".cache/boot.raw", turns=3, large_turns=1)
print()
control_plane.main(ROOT / ".cache/boot.raw", instances=1000)
print()
replica_server.main(ROOT / ".cache/images")
print()
storm.main(ROOT / ".cache/images", ROOT / ".cache/boot.raw", turns=3, machines=1000)
