"""Described machines: their names, their rates, their devices, and meshes over these."""

import jax
import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.parallel import gpu_targets, machines
from pretrainx.parallel.chips import GENERATIONS, PEAKS
from pretrainx.parallel.machines import parse
from pretrainx.parallel.mesh import AXES, MeshConfig, across, make_mesh


@pytest.mark.parametrize(
    "text, devices, slices, together",
    [
        ("v5p:8x8x8", 512, 1, 512),
        ("V5p:16x16x24", 6144, 1, 6144),
        ("v5p:2x2x1", 4, 1, 4),
        ("2*v5e:16x16", 512, 2, 256),
        ("1*v6e:2x4", 8, 1, 8),
        ("tpu7x:4x4x4", 128, 1, 128),  # two devices a chip
        ("h100:8", 8, 1, 8),
        ("h200:4x8", 32, 1, 8),
        ("cpu:8", 8, 1, 8),
        ("v5litepod-256", 256, 1, 256),
        ("v5p-1024", 512, 1, 512),  # cores
        ("2*v6e-64", 128, 2, 64),
    ],
)
def test_names(text, devices, slices, together):
    found = parse(text)
    assert (found.devices, found.slices, found.devices_per_slice) == (devices, slices, together)
    assert parse(found.text) == found


@pytest.mark.parametrize(
    "text, says",
    [
        ("v5x:2x2", "did you mean 'v5"),
        ("v5litepod-250", "did you mean 'v5litepod-256'?"),
        ("v5p", "v5p is given without a shape"),
        ("v5e:3x3", "v5e has slices of 1x1, 2x2, 2x4"),
        ("v5e:32x32", "v5e has slices of"),
        ("v5p:8x8", "multiples of 4 up to 8960 chips"),
        ("v5p:6x8x8", "multiples of 4"),
        ("v5p:32x32x32", "up to 8960 chips"),
        ("h100:16", "h100:2x8?"),
        ("2*h100:8", "only TPUs come in slices"),
        ("h100:0", "h100 is written h100:N or h100:HOSTSxN"),
        ("cpu:2x4", "cpu is written cpu:N"),
        ("0*v5e:2x2", "unknown topology '0[*]v5e:2x2'"),
        ("", "unknown topology ''"),
    ],
)
def test_other_names_are_refused(text, says):
    says = says.replace("?", "[?]") if "?" in says else says
    with pytest.raises(ConfigError, match=says):
        parse(text)


def test_rates_are_of_a_device_and_of_one_direction():
    """As the vendors' pages have them, by hand: a v5p chip sends 600 GB/s each way, a tpu7x device is half a chip."""
    v5p, half, h100 = parse("v5p:4x4x4"), parse("tpu7x:2x2x1"), parse("h100:8")
    assert (v5p.flops(), v5p.hbm, v5p.ici, v5p.dcn) == (459e12, 2765e9, 600e9, 6.25e9)
    assert (half.flops(), half.hbm, half.ici) == (2307e12 / 2, 7380e9 / 2, 300e9)
    assert (h100.flops(), h100.flops("float32"), h100.ici) == (989e12, 494.7e12, 450e9)
    assert parse("v5e:2x2").memory == int(15.75 * 2**30) and h100.memory < 84978434048
    assert PEAKS["TPU v5 lite"] == 197e12 and PEAKS["TPU7x"] == 2307e12 / 2 and "cpu" not in PEAKS
    assert all(found.bfloat16 >= found.float32 for found in GENERATIONS.values())
    assert not parse("cpu:8").real and v5p.real


def test_settings_that_are_made_stay():
    environ = {"TPU_SKIP_MDS_QUERY": "0"}
    machines.prepare(parse("v5e:2x2"), environ)
    assert environ["TPU_SKIP_MDS_QUERY"] == "0" and environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"


def test_simulated_devices_never_become_fewer(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.config, "update", lambda name, count: asked.append((name, count)))
    here = jax.config.jax_num_cpu_devices
    for count in (here + 3, 1):
        machines.prepare(parse(f"cpu:{count}"), {})
    assert asked == [("jax_num_cpu_devices", here + 3), ("jax_num_cpu_devices", here)]


def test_simulated_devices_are_this_process_s_own():
    found = machines.described(parse("cpu:4"))
    assert len(found) == 4 and not machines.is_described(found[0])
    with pytest.raises(ConfigError, match="too few simulated devices"):
        machines.described(parse("cpu:512"))


def test_a_missing_compiler_says_what_to_install(monkeypatch):
    from jax.experimental import topologies

    def absent(**options):
        raise RuntimeError("Unknown backend tpu\nmore")

    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    with pytest.raises(ConfigError) as caught:
        machines.described(parse("v5e:2x2"))
    assert caught.value.why == "Unknown backend tpu" and 'pip install "pretrainx[tpu]"' in caught.value.do
    with pytest.raises(ConfigError, match="pip install --no-deps jax-cuda12-plugin=="):
        machines.described(parse("h100:8"))


def test_targets_of_gpus_are_whole():
    for name, (called, _) in gpu_targets.TARGETS.items():
        text = gpu_targets.text(name)
        assert f'device_description_str: "{called}"' in text and "device_memory_size: " in text
        assert text.count("{") == text.count("}") and called in GENERATIONS[name].kinds


@pytest.mark.parametrize(
    "shape, slices, parts",
    [
        ((4, 8, 1, 1, 1, 1), 2, {"data": 2}),
        ((2, 8, 1, 1, 1, 1), 4, {"data": 2, "fsdp": 2}),
        ((1, 32, 2, 1, 1, 1), 2, {"fsdp": 2}),
        ((1, 8, 1, 1, 1, 4), 4, {"stage": 4}),
    ],
)
def test_which_axes_span_slices(shape, slices, parts):
    assert across(shape, slices) == tuple(parts.get(axis, 1) for axis in AXES)


def test_a_mesh_that_cannot_span_slices():
    with pytest.raises(ConfigError, match="cannot be laid over the slices") as caught:
        across((1, 1, 8, 1, 1, 1), 2)
    assert "--config.mesh.data=2" in caught.value.do


@pytest.mark.slow
@pytest.mark.xdist_group("libtpu")
def test_meshes_over_described_tpus():
    """Neighbours along an axis are neighbours on the torus, and replicas lie in slices of their own."""
    pytest.importorskip("libtpu")
    found = make_mesh(MeshConfig(data=1, fsdp=4, tensor=4), machines.described(parse("v5e:4x4")))
    coordinates = [[device.coords for device in row] for row in found.devices[0, :, :, 0, 0, 0]]
    steps = lambda line: [
        sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in zip(line, line[1:], strict=False)
    ]
    assert all(step == 1 for row in coordinates for step in steps(row))
    assert all(step == 1 for row in zip(*coordinates, strict=True) for step in steps(row))
    split = make_mesh(MeshConfig(data=1, fsdp=8, tensor=2), machines.described(parse("v5e:4x4")))
    assert split.shape["fsdp"] == 8 and machines.is_described(split.devices.flat[0])
    hybrid = make_mesh(MeshConfig(data=-1, fsdp=16), machines.described(parse("2*v5e:4x4")))
    slices = [{device.slice_index for device in replica.flat} for replica in hybrid.devices]
    assert slices == [{0}, {1}]
