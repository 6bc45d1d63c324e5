"""Small disk images: fixed VHDs of MiBs that are random by seed, or holes."""

import random

from opengallery.imagestore.vhd import fixed_footer

MIB = 1024**2
SIZE_MIB = 20
SIZE_BYTES = SIZE_MIB * MIB
UPLOAD_BYTES = SIZE_BYTES + 512


def mib(seed: int) -> bytes:
    """A MiB of blocks that are all different, and those of another seed's too; half of it compresses."""
    numbers = random.Random(seed)
    return b"".join(numbers.randbytes(2048) * 2 for _ in range(256))


def disk(*seeds: int, size_mib: int = SIZE_MIB) -> bytes:
    """A disk that begins with a MiB for each seed, and goes on with zeros."""
    content = b"".join(mib(seed) for seed in seeds)
    return content + bytes(size_mib * MIB - len(content))


def fixed_vhd(*seeds: int, size_mib: int = SIZE_MIB) -> bytes:
    """The same disk with a VHD's footer."""
    return disk(*seeds, size_mib=size_mib) + fixed_footer(size_mib * MIB)
