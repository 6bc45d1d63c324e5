"""The metadata link: how a guest reaches 169.254.169.254, and nothing else of this host by it.

A machine with an identity has a second network interface, on a network of its own. What it sends to port 80 of the
address goes, as a stream of bytes, to a socket in the machine's folder; everything else is dropped. The stream knows
no connections: QEMU hands what comes back to the guest's newest one.
"""

ADDRESS = "169.254.169.254"
GUEST_ADDRESS = "169.254.169.15"  # what QEMU's DHCP gives there, too
SUBNET = "169.254.169.0/24"
# Each machine's link ends in its own QEMU, so all may have the same.
MAC_ADDRESS = "02:00:a9:fe:a9:fe"

BOOT_COMMAND = (
    f"for card in /sys/class/net/*; do if grep -q {MAC_ADDRESS} $card/address; then "
    f"ip address replace {GUEST_ADDRESS}/24 dev ${{card##*/}}; ip link set ${{card##*/}} up; fi; done"
)
"""What cloud-init runs at every boot; without quotes or backslashes, so that JSON holds it as it is."""


def link_arguments(socket_fd: int) -> list[str]:
    """Describe the interface. QEMU listens on the socket `socket_fd`, for one reader."""
    return [
        *("-chardev", f"socket,id=metadata,fd={socket_fd},server=on,wait=off"),
        "-netdev",
        f"user,id=link,ipv6=off,restrict=on,net={SUBNET},dhcpstart={GUEST_ADDRESS},"
        f"guestfwd=tcp:{ADDRESS}:80-chardev:metadata",
        *("-device", f"virtio-net-pci,netdev=link,romfile=,mac={MAC_ADDRESS}"),
    ]
