"""Upgrade policy: when and how instances follow the model of their scale set."""

import re
from typing import Annotated, Any

from msgspec import Meta, field

from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource

Percent = Annotated[int, Meta(ge=5, le=100)]
MANUAL, AUTOMATIC, ROLLING = "Manual", "Automatic", "Rolling"
_DURATION = r"PT(?=\d)(?:(\d{1,3})H)?(?:(\d{1,4})M)?(?:(\d{1,5})(?:\.\d+)?S)?"


class RollingUpgradePolicy(Properties):
    """How a rolling upgrade goes: the size of its batches, what stops it, the pause after each."""

    max_batch_instance_percent: Percent = 20
    max_unhealthy_instance_percent: Percent = 20
    max_unhealthy_upgraded_instance_percent: Annotated[int, Meta(ge=0, le=100)] = 20
    pause_time_between_batches: Annotated[str, Meta(pattern=rf"^{_DURATION}\Z")] = "PT0S"
    prioritize_unhealthy_instances: bool = False

    def pause_s(self) -> int:
        """The pause between two batches, in seconds."""
        found = re.fullmatch(_DURATION, self.pause_time_between_batches)
        hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
        return (hours * 60 + minutes) * 60 + seconds


class AutomaticOsUpgradePolicy(Properties):
    """Whether a newly published image version rolls out by itself."""

    enable_automatic_os_upgrade: bool = field(name="enableAutomaticOSUpgrade", default=False)


class UpgradePolicy(Properties):
    """`Manual`: when asked; `Automatic`: at once; `Rolling`: in batches.

    All members are shown, as `az vmss update --set` changes only what it was shown.
    """

    mode: Annotated[str, Meta(pattern=r"^(?i:manual|automatic|rolling)\Z")] = MANUAL
    rolling_upgrade_policy: RollingUpgradePolicy = field(default_factory=RollingUpgradePolicy)
    automatic_os_upgrade_policy: AutomaticOsUpgradePolicy = field(
        name="automaticOSUpgradePolicy", default_factory=AutomaticOsUpgradePolicy
    )


def is_automatic(scale_set: Resource) -> bool:
    """Whether new image versions roll out by themselves."""
    automatic: dict[str, Any] = policy(scale_set).get("automaticOSUpgradePolicy", {})
    return bool(automatic.get("enableAutomaticOSUpgrade"))


def policy(scale_set: Resource) -> dict[str, Any]:
    """The upgrade policy; empty for a set that was written before there was one."""
    return dict(scale_set.properties.get("upgradePolicy", {}))
