"""The accelerator: only one that really boots something."""

import os
import platform
import pwd
from pathlib import Path

import msgspec
import pytest

from opengallery.hypervisors import accelerator
from opengallery.hypervisors.accelerator import Probed, boots_under, choose_accelerator

ME = pwd.getpwuid(os.geteuid()).pw_name
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_boot_sector_ends_by_itself_where_it_boots() -> None:
    assert boots_under("tcg", ME)


def test_what_does_not_boot_is_not_chosen(tmp_path: Path) -> None:
    chosen = choose_accelerator(tmp_path / "accelerator.json", "auto", ME)
    assert chosen == ("kvm" if Path("/dev/kvm").exists() and boots_under("kvm", ME) else "tcg")


def test_a_probe_counts_until_the_host_boots_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[str] = []

    def counted(wanted: accelerator.Accelerator, user: str) -> bool:
        probes.append(user)
        return False

    monkeypatch.setattr(accelerator, "boots_under", counted)
    cache = tmp_path / "accelerator.json"
    cache.write_bytes(msgspec.json.encode(Probed("kvm", platform.release(), BOOT_ID)))
    assert choose_accelerator(cache, "auto", ME) == "kvm"
    assert choose_accelerator(cache, "tcg", ME) == "tcg"
    cache.write_bytes(msgspec.json.encode(Probed("kvm", platform.release(), "another boot")))
    assert choose_accelerator(cache, "auto", ME) == "tcg"
    assert choose_accelerator(cache, "auto", ME) == "tcg"
    assert len(probes) == Path("/dev/kvm").exists()


def test_a_spoiled_cache_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "boots_under", lambda wanted, user: False)
    cache = tmp_path / "accelerator.json"
    cache.write_bytes(b"{")
    assert choose_accelerator(cache, "auto", ME) == "tcg"
    assert msgspec.json.decode(cache.read_bytes(), type=Probed).boot_id == BOOT_ID
