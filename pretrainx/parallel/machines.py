"""Machines that are described and need not be there: `v5p:8x8x8`, `2*v5e:16x16`, `h100:4x8`, `cpu:8`, and what they can do."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from pretrainx.core.errors import ConfigError, nearest
from pretrainx.parallel import gpu_targets
from pretrainx.parallel.chips import FLAT, GENERATIONS, SMALL_CUBES, Generation

# Cloud's names: v5litepod-N and v6e-N count chips, v5p-N tensor cores, two of a chip.
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16 16x16x24".split()
_CHIPS = {shape: math.prod(map(int, shape.split("x"))) for shape in (*FLAT, *_CUBES)}
CLOUD_NAMES = {f"v5litepod-{_CHIPS[shape]}": f"v5e:{shape}" for shape in FLAT}
CLOUD_NAMES |= {f"v6e-{_CHIPS[shape]}": f"v6e:{shape}" for shape in FLAT}
CLOUD_NAMES |= {f"v5p-{2 * _CHIPS[shape]}": f"v5p:{shape}" for shape in _CUBES}
EXAMPLES = "v5p:8x8x8 (chips), 2*v5e:16x16 (two slices), h100:8, h100:4x8 (hosts x GPUs), cpu:8"


@dataclass(frozen=True)
class Machine:
    """A described machine. Rates and bytes are of one of its JAX devices.

    Attributes:
      text: as it is written, "2*v5e:16x16".
      name: of the generation. shape: of a slice in chips; of GPUs (hosts, GPUs of each). slices: how many of these.
    """

    text: str
    name: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def generation(self) -> Generation:
        return GENERATIONS[self.name]

    @property
    def platform(self) -> str:
        return self.generation.platform

    @property
    def chips(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        return self.chips * self.generation.devices

    @property
    def devices_per_slice(self) -> int:
        """Devices that the fast links join: of a TPU slice, or of a host with GPUs."""
        return self.shape[-1] if self.platform == "cuda" else self.devices // self.slices

    @property
    def memory(self) -> int:
        """Bytes that a program may use."""
        return self.generation.memory

    def flops(self, dtype: str = "bfloat16") -> float:
        """FLOP/s of dense matrix products; anything that is no 16-bit float counts as float32."""
        found = self.generation
        return (found.bfloat16 if dtype in ("bfloat16", "float16") else found.float32) / found.devices

    @property
    def hbm(self) -> float:
        """bytes/s."""
        return self.generation.hbm / self.generation.devices

    @property
    def ici(self) -> float:
        """bytes/s of all fast links (ICI or NVLink), one direction."""
        return self.generation.link * self.generation.links / self.generation.devices

    @property
    def dcn(self) -> float:
        """bytes/s between slices or hosts (data centre network or InfiniBand), one direction."""
        return self.generation.network / self.generation.devices

    @property
    def real(self) -> bool:
        """Whether its rates are those of a machine; simulated devices have none."""
        return self.platform != "cpu"


def parse(text: str) -> Machine:
    """The machine that a topology names. ConfigError with the nearest name and the valid shapes."""
    given, text = text, text.strip().lower()
    slices, _, one = text.rpartition("*")
    one = CLOUD_NAMES.get(one, one)
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", one)
    if not re.fullmatch(r"[1-9]\d*|", slices) or found is None or found[1] not in GENERATIONS:
        raise _unknown(given, one, found[1] if found else re.split(r"[:\-]", one)[0])
    name, generation = found[1], GENERATIONS[found[1]]
    shape, count = tuple(map(int, found[2].split("x"))), int(slices or 1)
    if trouble := _misfit(name, generation, found[2], shape, count):
        raise ConfigError(f"there is no machine {given!r}", where="--topology", why=trouble, do=f"such as {EXAMPLES}")
    if generation.platform == "cuda" and len(shape) == 1:
        shape = (1, *shape)
    return Machine(f"{count}*{one}" if count > 1 else one, name, shape, count)


def _unknown(given: str, one: str, name: str) -> ConfigError:
    cloud = nearest(one, CLOUD_NAMES) if "-" in one else ""
    hint = cloud if cloud.startswith("did") else nearest(name, GENERATIONS)
    hint = f"{name} is given without a shape" if name in GENERATIONS and not cloud.startswith("did") else hint
    return ConfigError(
        f"unknown topology {given!r}",
        where="--topology",
        why=f"{hint}; slices are written NAME:AxB or NAME:AxBxC, in chips",
        do=f"such as {EXAMPLES}",
    )


def _misfit(name: str, generation: Generation, written: str, shape: tuple[int, ...], slices: int) -> str:
    """Why there is no such slice; "" where there is one."""
    if generation.platform == "tpu":
        if generation.shapes:
            return "" if written in generation.shapes else f"{name} has slices of {', '.join(generation.shapes)} chips"
        cube = len(shape) == 3 and not any(side % 4 for side in shape) and 0 < math.prod(shape) <= generation.chips
        text = (
            f"{name} has slices of {', '.join(SMALL_CUBES)}, and AxBxC of multiples of 4 up to {generation.chips} chips"
        )
        return "" if cube or written in SMALL_CUBES else text
    if slices > 1:
        return "only TPUs come in slices; hosts are written h100:HOSTSxGPUS"
    if len(shape) > generation.axes or not all(shape):
        return f"{name} is written {name}:N" + (f" or {name}:HOSTSxN" if generation.axes > 1 else "")
    if shape[-1] > generation.chips:
        hosts = -(-shape[-1] // generation.chips)
        more = f": {name}:{hosts}x{generation.chips}?" if generation.axes > 1 else ""
        return f"at most {generation.chips} in one host, not {shape[-1]}{more}"
    return ""


def prepare(machine: Machine, environ: MutableMapping[str, str] = os.environ) -> None:
    """Settings that must be made before JAX looks for devices: for this process alone, and none that was made already.

    Without them libtpu asks a metadata server that is not there, and two processes that compile at once lock each other out.
    """
    settings = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    for name, value in settings.items():
        environ.setdefault(name, value)
    if machine.platform == "cpu":
        import jax

        # Never fewer than there are. Where JAX has started it has the devices, or `described` says that it has not.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(machine.devices, jax.config.jax_num_cpu_devices))


def is_described(device) -> bool:
    """Whether a device is only compiled for, here where neither it nor its libraries may be."""
    return type(device.client).__name__ == "CompileOnlyPyClient"


def described(machine: Machine) -> list:
    """Its devices, for compiling only; simulated ones are this process's own. ConfigError where the extra is missing, or where
    this process has fewer simulated devices."""
    import jax
    from jax.experimental import topologies

    prepare(machine)
    if machine.platform == "cpu":
        found = jax.devices("cpu")
        if len(found) < machine.devices:
            raise ConfigError(
                "too few simulated devices",
                where="--topology",
                why=f"{machine.text} has {machine.devices}, this process {len(found)}",
                do="describe the machine before JAX starts: pretrainx.parallel.machines.prepare",
            )
        return found[: machine.devices]
    try:
        if machine.platform == "tpu":
            more = {"num_slices": machine.slices} if machine.slices > 1 else {}
            more |= {"chips_per_host_bounds": (1, 1, 1)} if machine.chips // machine.slices == 1 else {}
            name = f"{machine.name}:" + "x".join(map(str, machine.shape))
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices)
        shape, target = "x".join(map(str, (1, *machine.shape))), gpu_targets.text(machine.name)
        given = {"topology": shape, "target_config": target}
        return list(topologies.get_topology_desc(platform="cuda", topology_name=shape, **given).devices)
    except (RuntimeError, ImportError, NotImplementedError, OSError) as error:
        tpu = machine.platform == "tpu"
        plugin = f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"
        raise ConfigError(
            f"{machine.text} cannot be described here",
            where="--topology",
            why=str(error).strip().split("\n")[0][:300],
            do='pip install "pretrainx[tpu]"'
            if tpu
            else f"pip install --no-deps {plugin}   (no GPU and no driver needed)",
        ) from error
