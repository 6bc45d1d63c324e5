"""The argument list of one QEMU.

QEMU runs without privileges and can't reach the machine's folder, so it gets every file as an open
descriptor. A replica's cookie comes the same way: argument lists are public on a host.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from opengallery.hypervisors.accelerator import Accelerator
from opengallery.hypervisors.machine import Generation, GuestNetwork, HypervisorError, ReplicaUrl

# How long QEMU waits for a replica that is silent, at every read, before it turns to the next.
REPLICA_TIMEOUT_S = 3
# Code that TCG translated; by default it may grow to 1 GiB a machine.
TRANSLATED_CODE_MIB = 64

NETWORK = "net"
"""The name of a machine's network in QEMU."""
# The block nodes of the disk and of what it reads.
DISK, QUORUM = "os", "replicas"

# Enough for 1920 x 1080, and what the guest finds of video memory.
SCREEN_MIB = 8

UEFI = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
)


def uefi_firmware() -> tuple[Path, Path]:
    """Return the files of the UEFI firmware's code and of its first variables."""
    for code, variables in UEFI:
        if code.exists() and variables.exists():
            return code, variables
    raise HypervisorError("No UEFI firmware for V2 machines is installed: apt-get install ovmf")


@dataclass
class Descriptors:
    """Open files to hand over; closed here once QEMU has them."""

    fds: list[int] = field(default_factory=list)
    sets: list[int] = field(default_factory=list)

    def file(self, path: Path, flags: int) -> str:
        """Open `path` and return the name under which QEMU finds it (a set of its own for each)."""
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self.fds.append(fd)
        self.sets.append(fd)
        return f"/dev/fdset/{fd}"

    def secret(self, content: str) -> str:
        """Keep `content` in memory and return a path that only QEMU can read it from."""
        fd = os.memfd_create("secret", os.MFD_CLOEXEC)
        self.fds.append(fd)
        os.write(fd, content.encode())
        return f"/proc/self/fd/{fd}"

    def arguments(self) -> list[str]:
        """Return the arguments that make the sets."""
        return [word for fd in self.sets for word in ("-add-fd", f"fd={fd},set={fd}")]

    def close(self) -> None:
        """Close this process's side."""
        while self.fds:
            os.close(self.fds.pop())


def replica_secret(index: int) -> str:
    """Name the secret that holds a replica's cookie."""
    return f"cookie-{index}"


def replica_node(index: int, replica: ReplicaUrl) -> dict[str, object]:
    """Describe the block node that reads one replica."""
    return {
        "driver": "raw",
        "node-name": f"replica-{index}",
        "read-only": True,
        "file": {
            "driver": "https" if replica.url.startswith("https:") else "http",
            "read-only": True,
            "url": replica.url,
            "cookie-secret": replica_secret(index),
            "timeout": REPLICA_TIMEOUT_S,
        },
    }


def disk_arguments(overlay_file: Path, replicas: dict[int, ReplicaUrl], files: Descriptors) -> list[str]:
    """Describe the disk: an overlay over a quorum that reads from the first replica that serves.

    Without replicas it is the overlay alone, which is hydrated.
    """
    arguments = []
    for index, replica in replicas.items():
        arguments += ["-object", f"secret,id={replica_secret(index)},file={files.secret(replica.cookie)}"]
        arguments += ["-blockdev", json.dumps(replica_node(index, replica))]
    overlay: dict[str, object] = {
        "driver": "qcow2",
        "node-name": DISK,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": files.file(overlay_file, os.O_RDWR),
            "discard": "unmap",
        },
    }
    if replicas:
        overlay["backing"] = {
            "driver": "quorum",
            "node-name": QUORUM,
            "read-only": True,
            "read-pattern": "fifo",
            "vote-threshold": 1,
            "children": [f"replica-{index}" for index in replicas],
        }
    arguments += ["-blockdev", json.dumps(overlay)]
    # An error stops the machine rather than reach the guest: it goes on once a replica is back.
    return [*arguments, "-device", f"virtio-blk-pci,drive={DISK},bootindex=1,rerror=stop,werror=stop"]


def data_disk_arguments(disks: dict[int, Path], files: Descriptors) -> list[str]:
    """Describe the data disks, by lun."""
    arguments = []
    for lun, path in disks.items():
        node = {
            "driver": "qcow2",
            "node-name": f"data-{lun}",
            "discard": "unmap",
            "file": {"driver": "file", "filename": files.file(path, os.O_RDWR), "discard": "unmap"},
        }
        arguments += ["-blockdev", json.dumps(node)]
        arguments += ["-device", f"virtio-blk-pci,drive=data-{lun},serial=lun{lun},werror=stop"]
    return arguments


def firmware_arguments(variables_file: Path, generation: Generation, files: Descriptors) -> list[str]:
    """Describe the board and its firmware: BIOS for V1, UEFI with its own variables for V2."""
    if generation == "V1":
        return ["-machine", "pc"]
    code, _ = uefi_firmware()
    variables = files.file(variables_file, os.O_RDWR)
    return [
        *("-machine", "q35,smm=off,pflash0=code,pflash1=variables"),
        *("-blockdev", f"driver=raw,node-name=code,read-only=on,file.driver=file,file.filename={code}"),
        *("-blockdev", f"driver=raw,node-name=variables,file.driver=file,file.filename={variables}"),
    ]


def network_arguments(network: GuestNetwork | None) -> list[str]:
    """Describe the network: neither this host nor the world; ports are forwarded later.

    The guest gets its address by DHCP: that of `network`, or QEMU's 10.0.2.15.
    """
    place = f",net={network.subnet},dhcpstart={network.address}" if network else ""
    mac = f",mac={network.mac_address.replace('-', ':')}" if network else ""
    return [
        *("-netdev", f"user,id={NETWORK},ipv6=off,restrict=on{place}"),
        *("-device", f"virtio-net-pci,netdev={NETWORK},romfile={mac}"),
    ]


def processor_arguments(accelerator: Accelerator, vcpus: int, memory_mib: int) -> list[str]:
    """Describe processors and memory."""
    kind = ("kvm", "host") if accelerator == "kvm" else (f"tcg,tb-size={TRANSLATED_CODE_MIB}", "max")
    return ["-accel", kind[0], "-cpu", kind[1], "-smp", str(vcpus), "-m", str(memory_mib)]


def device_arguments(seed_file: Path, console_file: Path, qmp_fd: int, files: Descriptors) -> list[str]:
    """Describe what every machine has: seed, serial console, entropy, a screen, and our way in."""
    seed = files.file(seed_file, os.O_RDONLY)
    console = files.file(console_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return [
        *("-blockdev", f"driver=raw,node-name=seed,read-only=on,file.driver=file,file.filename={seed}"),
        *("-device", "virtio-blk-pci,drive=seed"),
        *("-chardev", f"file,id=console,append=on,path={console}", "-serial", "chardev:console"),
        *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
        *("-device", f"VGA,vgamem_mb={SCREEN_MIB}"),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
    ]


CONFINED = (
    *("-nodefaults", "-no-user-config", "-display", "none"),
    *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
)
