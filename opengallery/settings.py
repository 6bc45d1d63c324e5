"""Settings of one server: what stands in the configuration file, and where its data lies.

The file is TOML; docs/settings.md lists every setting. Everything has a default, so that
`gallery serve --data DIR` needs no file.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

# For so many machines a host's memory has to do, unless the settings say otherwise.
MACHINES_BORNE = 64


class SettingsError(Exception):
    """The configuration file can't be used; the message says which setting and why."""


class StoreSettings(msgspec.Struct, forbid_unknown_fields=True):
    """One store of a region: a directory (`path`) or an object store (`url`, with its options)."""

    name: str
    path: str | None = None
    url: str | None = None
    options: dict[str, str] = {}


class RegionSettings(msgspec.Struct, forbid_unknown_fields=True):
    """A region that names its stores has just those; others make directory stores on demand."""

    stores: list[StoreSettings] = []


class ImageSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Limits on what comes in, the URLs that the server may fetch images from, and the care of what is kept."""

    max_size_bytes: int = 4 * 1024**4
    fetch_allow: list[str] = []
    upkeep_hours: int = 24
    scrub_mib_per_s: int = 8


class ReplicaSettings(msgspec.Struct, forbid_unknown_fields=True):
    """What a replica server may use."""

    cache_mib: Annotated[int, msgspec.Meta(ge=16)] = 256
    prefetch: bool = True
    server_for: Literal["region", "store"] = "region"


class MachineSettings(msgspec.Struct, forbid_unknown_fields=True):
    """What runs machines, and what one may use of this host, whatever its VM size says."""

    hypervisor: Literal["qemu", "replay"] = "qemu"
    replay_trace: str | None = None
    memory_mib_max: Annotated[int, msgspec.Meta(ge=64)] | None = None
    vcpus_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    starts_at_once: Annotated[int, msgspec.Meta(ge=1)] = 2
    ssh_wait_s: Annotated[int, msgspec.Meta(ge=0)] = 90
    user: str = "nobody"
    accelerator: Literal["auto", "tcg"] = "auto"
    keep_running: bool = False
    hydration_mib_per_s: Annotated[int, msgspec.Meta(ge=0)] = 32

    @property
    def bearable_memory_mib(self) -> int:
        """The most memory that a machine gets: unless set, the host's divided by 64, and 256 MiB at least."""
        host_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
        return self.memory_mib_max or max(256, host_mib // MACHINES_BORNE)

    @property
    def bearable_vcpus(self) -> int:
        """The most processors that a machine gets: unless set, half of the host's, and one at least."""
        return self.vcpus_max or max(1, (os.cpu_count() or 1) // 2)


class ActivityLogSettings(msgspec.Struct, forbid_unknown_fields=True):
    """How much of the activity log is kept, and how many failures of one caller stand in it one by one."""

    days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90
    max_mib: Annotated[int, msgspec.Meta(ge=1)] = 512
    failures_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 100


class TlsSettings(msgspec.Struct, forbid_unknown_fields=True):
    """The server's certificate, where it isn't to be one of our own authority."""

    certificate: str | None = None
    key: str | None = None
    ca: str | None = None


class IdentitySettings(msgspec.Struct, forbid_unknown_fields=True):
    """Who says who somebody is: the own directory, or an OpenID Connect issuer in its place."""

    token_key_days: Annotated[int, msgspec.Meta(ge=0)] = 90
    issuer: str | None = None
    audiences: list[str] = []
    ca_file: str | None = None
    clients: list[str] = []
    id_claim: str = "sub"
    name_claim: str = "preferred_username"
    service_claim: str | None = None
    groups_claim: str = "groups"
    groups_are_ids: bool = False
    required_claims: dict[str, str] = {}
    administrators: list[str] = []
    token_proxy: bool = False
    token_proxy_fields: dict[str, str] = {}


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """All settings. `data` is the data folder (DIR); it is never in the file."""

    data: Path = Path()
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8443
    profile: Literal["current", "preview"] = "current"
    database_url: str | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1)] = 100
    images: ImageSettings = msgspec.field(default_factory=ImageSettings)
    replicas: ReplicaSettings = msgspec.field(default_factory=ReplicaSettings)
    machines: MachineSettings = msgspec.field(default_factory=MachineSettings)
    activity_log: ActivityLogSettings = msgspec.field(default_factory=ActivityLogSettings)
    identity: IdentitySettings = msgspec.field(default_factory=IdentitySettings)
    tls: TlsSettings = msgspec.field(default_factory=TlsSettings)
    regions: dict[str, RegionSettings] = {}

    @property
    def endpoint(self) -> str:
        """The URL under which clients reach the server."""
        return f"https://localhost:{self.port}"

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the resources' database."""
        return self.database_url or f"sqlite:///{self.data / 'gallery.sqlite'}"

    @property
    def workflow_database(self) -> str:
        """SQLAlchemy URL of the durable workflows' database."""
        return self.database_url or f"sqlite:///{self.data / 'workflows.sqlite'}"


def _check(settings: Settings) -> None:
    """Raise `SettingsError` for what each setting allows alone, but not together."""
    tls, identity = settings.tls, settings.identity
    if (tls.certificate is None) != (tls.key is None):
        raise SettingsError("Give tls.certificate and tls.key, or none of them.")
    if identity.issuer is None:
        given = [name for name in ("administrators", "clients", "audiences") if getattr(identity, name)]
        if given:
            raise SettingsError(f"identity.{given[0]} is for an external issuer: give identity.issuer, too.")
        return
    if not identity.issuer.startswith("https://") or any(mark in identity.issuer for mark in "?# "):
        raise SettingsError(
            f"identity.issuer is '{identity.issuer}'. Give an https URL, just as the issuer's tokens name it (iss)."
        )
    kinds = ("user", "app", "group")
    for name in identity.administrators:
        if ":" in name and name.split(":")[0] not in kinds:
            raise SettingsError(f"identity.administrators: '{name}' begins with none of user:, app:, group:.")


def load_settings(data: Path, config: Path | None = None, port: int | None = None) -> Settings:
    """Read `config` (or DIR/opengallery.toml if there is one). Raises `SettingsError`."""
    path = config or data / "opengallery.toml"
    try:
        content = tomllib.loads(path.read_text()) if config or path.exists() else {}
        if "data" in content:
            raise SettingsError(
                f"{path}: the data folder is given by --data, not in the file. Take `data` out."
            )
        settings = msgspec.convert(content, Settings)
        if port is not None:
            settings = msgspec.convert({**content, "port": port}, Settings)
        _check(settings)
    except OSError as error:
        raise SettingsError(f"Can't read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path}: {error}.") from error
    settings.data = data.resolve()
    return settings
