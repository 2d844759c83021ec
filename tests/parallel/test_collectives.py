"""Collectives of compiled programs: kinds, mesh axes, bytes and trips, equal to sums made by hand."""

import importlib.util
import math
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from parallel.small_steps import compiled_on, compiled_step, sizes

from pretrainx.core import paths
from pretrainx.core.errors import PretrainxError
from pretrainx.parallel import collectives, hlo, machines
from pretrainx.parallel.compilation import uncached
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.runs import roofline
from toys.steps import QUICK


def test_every_kind_in_loops_equals_a_sum_by_hand():
    """Five rounds of two layers, in the second of which an exchange runs three times: bytes by kind and axes, exactly."""
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def layers(x, first, second):  # of one device: x [4, 16], first [8, 16], second [16, 16]
        def around(carry, _):
            x, first, second = carry
            y = lax.psum(jnp.tanh(x @ lax.all_gather(first, "fsdp", tiled=True)), "tensor")
            y = lax.ppermute(y, ("data", "fsdp"), [(0, 1), (1, 2), (2, 3), (3, 0)]) @ second
            slices = lax.psum_scatter(y, "data", tiled=True)
            y = jnp.concatenate([slices, jnp.sin(slices)])

            def exchange(z, _):
                return jnp.sin(lax.all_to_all(z, ("fsdp", "tensor"), 0, 0, tiled=True)), None

            y, _ = lax.scan(exchange, y, None, length=3)
            first = first + lax.psum(y.sum(), ("data", "fsdp", "tensor"))
            return (y, first, jnp.cos(second)), None

        return lax.scan(around, (x, first, second), None, length=5)[0]

    spec = P("data", None), P("fsdp", None), P(None, "tensor")
    run = jax.jit(jax.shard_map(layers, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    text = run.lower(jnp.ones((8, 16)), jnp.ones((16, 16)), jnp.ones((16, 32))).compile().as_text()
    found = collectives.read(text, mesh)
    assert all(each.certain for each in found)
    rows = {(row.kind, row.axes): (row.bytes, row.count) for row in collectives.table(found)}
    x, first = 4 * 16 * 4, 16 * 16 * 4  # bytes of x, and of the gathered matrix
    assert rows == {
        ("all-gather", ("fsdp",)): (5 * first // 2, 5),
        ("all-reduce", ("tensor",)): (5 * x, 5),  # 2 (n - 1) / n of it
        ("collective-permute", ("data", "fsdp")): (5 * x, 5),
        ("reduce-scatter", ("data",)): (5 * x // 2, 5),
        ("all-to-all", ("fsdp", "tensor")): (15 * x * 3 // 4, 15),
        ("all-reduce", ("data", "fsdp", "tensor")): (5 * 7, 5),  # 2 x 7/8 of one float32
    }


@pytest.mark.slow
def test_data_parallel_steps_reduce_each_gradient_once():
    like, mesh, text = compiled_on(data=8)
    found = collectives.read(text, mesh)
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(like.params))
    scalars = sizes(found, "all-reduce", "data") - gradients
    assert 0 < scalars <= 10 * 4  # loss, weights, accuracy
    assert {each.axes for each in found} == {("data",)}
    moved = sum(each.total for each in found if each.kind == "all-reduce")
    assert 0 <= moved - 2 * 7 * (gradients + scalars) / 8 < len(found)  # each is rounded up


@pytest.mark.xdist_group("small steps")
def test_sharded_steps_gather_each_parameter_forward_and_backward():
    like, mesh, text = compiled_on(data=2, fsdp=4)
    found = collectives.read(text, mesh)
    leaves = {path: 4 * leaf.size for path, leaf in paths.leaves(like.params)}
    # Forward and backward. A norm's backward pass in a recomputed block asks for its scale twice; the table is looked up once,
    # and the head's gradient is made with the loss.
    times = {path: 3 if path.endswith("_norm/scale") else 2 for path in leaves} | {
        "token/table": 1,
        "unembed/kernel": 1,
    }
    times["final_norm/scale"] = 2
    assert sizes(found, "all-gather", "fsdp") == sum(times[path] * size for path, size in leaves.items())
    # CPUs have no reduce-scatter: they reduce whole gradients over fsdp, and then over data the part that they keep.
    kernels = sum(size for path, size in leaves.items() if path.startswith("layers") and path.endswith("kernel"))
    assert 0 <= sizes(found, "all-reduce", "fsdp") - kernels < 200
    assert sizes(found, "all-reduce", "data") == kernels / 4


# Programs in the forms that libtpu 0.0.42 writes (asynchronous fusions, all-reduce-scatter, loops that don't say their trips),
# and XLA's compilers for GPUs and CPUs (-start and -done, combined operands, known_trip_count), much shortened.
PROGRAMS = pathlib.Path(__file__).parent / "programs"
TPU, GPU, SLICES = ((PROGRAMS / f"{name}.hlo").read_text() for name in ("tpu", "gpu", "slices"))


def test_forms_of_tpu_programs():
    found = collectives.read(TPU, make_mesh(MeshConfig(2, 2, 2)))
    shown = [(each.kind, each.axes, each.group, each.size, each.bytes, each.count) for each in found]
    gathered, scattered = 512 * 4 * 2, (64 * 2 + 8) * 4
    # From 1 to 9 in steps of 2; one gathering that two fusions share; the first side of its transposed mesh is `tensor`.
    assert shown == [
        ("all-gather", ("tensor",), 2, gathered, gathered // 2, 4),
        ("reduce-scatter", ("tensor",), 2, scattered, scattered // 2, 1),
    ]


def in_slices(order=lambda devices: devices, **sides):
    """A stand-in for a mesh of four v5e:2x2, whose devices [slices, places of each] lie in the order of each slice's ring."""
    devices = np.empty(16, object)
    ring = (0, 1, 3, 2)
    devices[:] = [
        SimpleNamespace(platform="tpu", id=4 * index + rank, slice_index=index) for index in range(4) for rank in ring
    ]
    devices = order(devices.reshape(4, 4)).reshape(tuple(sides.values()))
    return SimpleNamespace(devices=devices, axis_names=tuple(sides), shape=sides, size=16)


def test_what_goes_to_other_slices():
    """Groups between slices are named by slice and place; those inside are numbers of the first slice."""
    mesh = in_slices(data=2, fsdp=8)
    found = collectives.read(SLICES, mesh)
    shown = [(each.kind, each.axes, each.group, each.size, each.bytes, each.across) for each in found]
    shard, gathered = 32 * 256 * 2, 256 * 256 * 2
    assert shown == [
        ("all-gather", ("fsdp",), 2, 2 * shard, shard, 2),
        ("all-gather", ("fsdp",), 4, gathered, gathered * 3 // 4, 1),
        ("collective-permute", ("fsdp",), 8, 2048, 2048, 1),
        ("all-reduce", ("data", "fsdp"), 4, 2 * shard, 3 * shard, 4),
        ("collective-permute", ("data",), 2, 2048, 2048, 2),
    ]
    stages = in_slices(lambda devices: devices.reshape(4, 2, 2).swapaxes(0, 1), fsdp=2, stage=8)
    axes = ("stage",), ("fsdp", "stage"), ("fsdp",), ("stage",), ("stage",)
    assert tuple(each.axes for each in collectives.read(SLICES, stages)) == axes
    with pytest.raises(PretrainxError, match="SCAN"):
        collectives.read(SLICES.replace('transfer_type="ALL_REDUCE"', 'transfer_type="SCAN"'), mesh)
    with pytest.raises(PretrainxError, match="other slices"):
        collectives.read(SLICES.replace("{1,2,3,4}x{0:3}", "{7}"), mesh)


def test_forms_of_gpu_and_cpu_programs():
    found = collectives.read(GPU, make_mesh(MeshConfig(2, 2, 2)))
    shown = [(each.kind, each.axes, each.group, each.size, each.bytes, each.count) for each in found]
    assert shown == [
        ("all-gather", ("fsdp", "tensor"), 4, 4 * (32 + 3), 3 * (32 + 3), 1),
        ("all-to-all", ("data", "tensor"), 4, 40, 30, 1),
        ("collective-permute", ("fsdp",), 2, 16, 16, 32),
        ("ragged-all-to-all", ("tensor",), 2, 128, 64, 1),  # the branch that sends more: the other all-reduces 28 bytes
    ]
    assert found[2].where == "b/c/d" and all(each.certain for each in found)


def test_a_loop_that_does_not_say_its_trips_is_counted_once_and_told():
    text = GPU.replace('backend_config={"known_trip_count":{"n":"32"}}', "metadata={}")
    text = text.replace(
        "%wrapped (p", "%never (p: (f32[4])) -> pred[] {\n  ROOT %p.9 = pred[] parameter(0)\n}\n\n%wrapped (p"
    )
    permuted = collectives.read(text, make_mesh(MeshConfig(2, 2, 2)))[2]
    assert permuted.kind == "collective-permute" and permuted.count == 1 and not permuted.certain


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("{{0,1,2,3,4,5,6,7}}", ("data", "fsdp", "tensor")),
        ("[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("mesh['x'=8] {'x':(1)2}", ("data",)),
        ("mesh['x'=8] {'x':(2)2}", ("fsdp",)),
        ("mesh['x'=8] {'x':(1)2,'x':(4)2}", ("data", "tensor")),
        ("mesh[a=2,b=4], device_ids=(0,2,1,3,4,6,5,7) {b:(2)2}", ("fsdp",)),
        ("{{0,3},{1,2},{4,7},{5,6}}", ("fsdp", "tensor")),
    ],
)
def test_groups_by_their_axes(groups, axes):
    attributes = f"channel_id=1, replica_groups={groups}, use_global_device_ids=true, to_apply=%add"
    lines = "  %x = f32[8]{0} parameter(0)", f"  ROOT %y = f32[8]{{0}} all-reduce(%x), {attributes}"
    text = "\n".join(["ENTRY %main (x: f32[8]) -> f32[8] {", *lines, "}"])
    (found,) = collectives.read(text, make_mesh(MeshConfig(2, 2, 2)))
    assert found.axes == axes


@pytest.mark.parametrize(
    "changes, trips",
    [
        ({"direction=LT": "direction=LE"}, 5),
        ({"constant(2)": "constant(3)"}, 3),
        ({"direction=LT": "direction=GT", "constant(2)": "constant(-2)", "constant(9)": "constant(-7)"}, 4),
        ({"compare(%at, %end), direction=LT": "compare(%end, %at), direction=GT"}, 4),
        ({"constant(9)": "parameter(1)"}, None),
        ({"add(%at.2, %two)": "multiply(%at.2, %two)"}, None),
    ],
)
def test_trips_of_loops_that_compare_a_counter(changes, trips):
    text = TPU
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    program = hlo.parse(text)
    assert program.trips(program.entry, program.entry.lines["while.1"]) == trips


def test_texts_in_no_known_form_are_refused():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with pytest.raises(PretrainxError, match="no compiled program"):
        collectives.read("HloModule nothing", mesh)
    with pytest.raises(PretrainxError, match="replica_groups=<4 of 2>"):
        collectives.read(GPU.replace("replica_groups=[2,4]<=[8]", "replica_groups=<4 of 2>"), mesh)


@pytest.mark.parametrize(
    "text, size",
    [
        ("f32[4,8]{1,0:T(8,128)}", 128),
        ("(bf16[2]{0}, /*index=1*/s4[3], pred[], token[], f8e5m2[7])", 14),
        ("c64[2]{0}", 16),
    ],
)
def test_bytes_of_types(text, size):
    assert hlo.bytes_of(text) == size


@pytest.mark.slow
@pytest.mark.xdist_group("libtpu")
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install pretrainx[tpu]"
)
def test_a_tpu_program_gathers_in_bfloat16_and_scatters_in_float32():
    """The step for a described v5e slice, asynchronous fusions and all: bytes by hand within 2%."""
    machine = machines.parse("v5e:2x2")
    machines.prepare(machine)
    devices = machines.described(machine)
    with uncached():
        like, mesh, text = compiled_step(
            *({"data": 1, "fsdp": 4}, devices, QUICK, 16, 256, "bfloat16", 512), width=256, depth=4, remat="none"
        )
    found = collectives.read(text, mesh)
    assert all(each.certain for each in found)
    leaves = {path: leaf.size for path, leaf in paths.leaves(like.params)}
    kernels = sum(size for path, size in leaves.items() if path.startswith("layers") and path.endswith("kernel"))
    table, head = leaves["token/table"], leaves["unembed/kernel"]
    # Kernels forward and backward, the head once, the table as it is stored.
    assert sizes(found, "all-gather", "fsdp") == pytest.approx(2 * (2 * kernels + head) + 4 * table, rel=0.02)
    reduced = sizes(found, "reduce-scatter", "fsdp") + sizes(found, "all-reduce", "fsdp")
    assert reduced == pytest.approx(4 * sum(leaves.values()), rel=0.02)
    assert sizes(found, "reduce-scatter", "fsdp") > 0.9 * reduced


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.xdist_group("libtpu")
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install pretrainx[tpu]"
)
def test_gradients_go_from_slice_to_slice_once():
    """Replicas in two slices, state sharded inside each: a device sends the gradients of its shard over the network."""
    machine = machines.parse("2*v5e:2x2")
    machines.prepare(machine)
    devices = machines.described(machine)
    with uncached():
        # Heads and vocabulary are whole registers of 128: what is padded is sent as well.
        given = {"data": 2, "fsdp": 4}, devices, QUICK
        like, mesh, text = compiled_step(*given, words=512, width=512, depth=2, remat="none")
    found = collectives.read(text, mesh)
    between = [each for each in found if each.across == 2]
    assert {each.axes for each in between} == {("data",)} and all(
        each.across == 1 for each in found if each not in between
    )
    shards = sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(like.params))
    assert sizes(between, "all-reduce", "data") == pytest.approx(shards, rel=0.02)
    floor = roofline.floor(machine, 1.0, 1.0, found, mesh, 1)
    assert floor.across == pytest.approx(shards / machine.dcn, rel=0.02)
