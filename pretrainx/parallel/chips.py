"""What kinds of chips can do, by the names that machines are described with.

All rates are the vendors' peaks. Those of links are of one direction: vendors also state both directions together.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.parallel import gpu_targets

GIB = 2**30


@dataclass(frozen=True)
class Generation:
    """What one kind of chip can do.

    Attributes:
      platform: "tpu", "cuda" or "cpu"; kinds: what JAX calls its devices.
      devices: JAX devices of a chip.
      memory: bytes that a program may use, of a device.
      bfloat16, float32: dense FLOP/s of matrix products of a chip, float32 as JAX multiplies it by default.
      hbm: bytes/s of a chip's memory.
      link: bytes/s of one link, one direction; links: of a chip, towards all neighbours or into the switch.
      network: bytes/s of a chip into the data centre or between hosts, one direction.
      axes: of a slice's shape; chips: of the largest slice, or of a host.
      shapes: the slices that there are; () where `axes` and `chips` are all that is asked.
      closes: chips along a side of a slice from which on the side closes to a ring; 0: none does.
    """

    platform: str
    kinds: tuple[str, ...]
    memory: int
    bfloat16: float
    float32: float
    hbm: float
    link: float
    links: int
    network: float
    axes: int
    chips: int
    devices: int = 1
    shapes: tuple[str, ...] = ()
    closes: int = 0


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")

# TPUs: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e,tpu7x}, whose "bidirectional" is both directions: v5e 400 GB/s over 4 ports,
# v5p 1200 over 6, v6e 800 over 4, tpu7x 1200 over 6. Data centre: v5e 2 x 100 Gbit/s and v6e 4 x 200 a host of 8 chips, v5p 50
# Gbit/s and tpu7x 100 a chip. Usable memory is what libtpu 0.0.42 names when a program does not fit. JAX multiplies float32 in
# one bfloat16 pass there. GPUs: the datasheets of H100 SXM and H200 SXM, dense figures, float32 as TF32; NVLink 900 GB/s both
# directions; one 400 Gbit/s InfiniBand port each, as in DGX H100 and H200.
# Sides close to rings where they are 16 long (v5e, v6e), or made of whole cubes, which optical switches join (v5p, tpu7x):
# Austin et al. 2025, "How to scale your model", part 2; Jouppi et al. 2023, section 2.
GENERATIONS = {
    "v5e": Generation(
        platform="tpu",
        kinds=("TPU v5 lite", "TPU v5e"),
        memory=int(15.75 * GIB),
        bfloat16=197e12,
        float32=197e12,
        hbm=819e9,
        link=50e9,
        links=4,
        network=3.125e9,
        axes=2,
        chips=256,
        shapes=FLAT,
        closes=16,
    ),
    "v5p": Generation(
        platform="tpu",
        kinds=("TPU v5", "TPU v5p"),
        memory=int(95.74 * GIB),
        bfloat16=459e12,
        float32=459e12,
        hbm=2765e9,
        link=100e9,
        links=6,
        network=6.25e9,
        axes=3,
        chips=8960,
        closes=4,
    ),
    "v6e": Generation(
        platform="tpu",
        kinds=("TPU v6 lite", "TPU v6e"),
        memory=int(31.25 * GIB),
        bfloat16=918e12,
        float32=918e12,
        hbm=1640e9,
        link=100e9,
        links=4,
        network=25e9 / 2,
        axes=2,
        chips=256,
        shapes=FLAT,
        closes=16,
    ),
    "tpu7x": Generation(
        platform="tpu",
        kinds=("TPU7x",),
        memory=int(94.75 * GIB),
        bfloat16=2307e12,
        float32=2307e12,
        hbm=7380e9,
        link=100e9,
        links=6,
        network=12.5e9,
        axes=3,
        chips=9216,
        devices=2,
        closes=4,
    ),
    "h100": Generation(
        platform="cuda",
        kinds=("NVIDIA H100 80GB HBM3",),
        memory=gpu_targets.usable("h100"),
        bfloat16=989e12,
        float32=494.7e12,
        hbm=3.35e12,
        link=450e9,
        links=1,
        network=50e9,
        axes=2,
        chips=8,
    ),
    "h200": Generation(
        platform="cuda",
        kinds=("NVIDIA H200",),
        memory=gpu_targets.usable("h200"),
        bfloat16=989e12,
        float32=494.7e12,
        hbm=4.8e12,
        link=450e9,
        links=1,
        network=50e9,
        axes=2,
        chips=8,
    ),
    # Simulated devices have no rates: these are round numbers, in a ratio usual for accelerators, so that plans can be ranked.
    "cpu": Generation(
        platform="cpu",
        kinds=("cpu",),
        memory=4 * GIB,
        bfloat16=1e12,
        float32=1e12,
        hbm=10e9,
        link=1e9,
        links=1,
        network=1e9,
        axes=1,
        chips=512,
    ),
}
# Dense bfloat16 FLOP/s of a device (not the sparse figure, which is twice as much).
PEAKS = {
    kind: found.bfloat16 / found.devices
    for found in GENERATIONS.values()
    if found.platform != "cpu"
    for kind in found.kinds
} | {"TPU v4": 275e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA A100-SXM4-40GB": 312e12}
