"""The floor of a step: arithmetic by hand, which links carry an axis, and both ends of overlap."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh

from pretrainx.parallel import machines
from pretrainx.parallel.collectives import Collective
from pretrainx.parallel.mesh import AXES
from pretrainx.runs import roofline

GB = 10**9


def of(kind, axes, group, size, count=1):
    return Collective(kind, axes, group, size, count)


def abstract(**sizes):
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def placed(shape, axes, slices=1, sides=(16, 16)):
    """A stand-in for a mesh of TPUs: devices with places on the torus of their slice, the last side of the mesh fastest."""
    chips = [
        SimpleNamespace(coords=[*place, *[0] * (3 - len(sides))], slice_index=index, process_index=0)
        for index in range(slices)
        for place in np.ndindex(*sides)
    ]
    devices = np.empty(len(chips), object)
    devices[:] = chips
    return SimpleNamespace(devices=devices.reshape(shape), axis_names=axes, shape=dict(zip(axes, shape, strict=True)))


def test_three_clocks_by_hand():
    machine = machines.parse("h100:8")
    found = roofline.floor(
        machine,
        flops=989e12 / 2,
        hbm_bytes=3.35e12 / 4,
        collectives=[of("all-gather", ("fsdp",), 8, 72 * GB, 5)],
        mesh=abstract(data=1, fsdp=8),
        units_per_step=1000,
        model_flops=989e12 / 4,
    )
    assert (found.compute, found.memory) == (0.5, 0.25)
    assert found.inside == pytest.approx(5 * 63 / 450) and found.across == 0.0
    assert found.seconds == found.inside and found.bound == "fast links"
    assert found.serial == pytest.approx(0.75 + found.inside)
    assert found.mfu == pytest.approx(0.25 / found.seconds) and found.mfu_serial == pytest.approx(0.25 / found.serial)
    assert found.units_per_second == pytest.approx(1000 / found.seconds)
    assert found.intensity["flops_per_sent_byte"] == pytest.approx(989e12 / 2 / (5 * 63 * GB))
    assert found.intensity["machine_flops_per_hbm_byte"] == pytest.approx(989e12 / 3.35e12)
    text = "\n".join(found.lines())
    assert "fast links fsdp" in text and "700 ms" in text and "bound by fast links" in text
    record = found.record()
    assert record["links"] == [
        {"axes": ["fsdp"], "bytes": 315 * GB, "seconds_inside": found.inside, "seconds_across": 0.0}
    ]


def test_a_bubble_is_in_the_operations_already():
    """A fifth of the ticks in vain: a quarter more is executed than the model needs."""
    machine, mesh = machines.parse("h100:8"), abstract(stage=8)
    found = roofline.floor(machine, 1.25 * 989e12, 0, [], mesh, 1, model_flops=989e12, bubble=0.2)
    assert found.seconds == found.serial == pytest.approx(1.25) and found.mfu == pytest.approx(0.8)
    assert "20.0%" in "\n".join(found.lines()) and found.record()["bubble"] == 0.2


@pytest.mark.parametrize(
    "kind, members, parts, inside, across",
    [
        ("all-gather", 8, 1, 7 / 8, 0),
        ("all-gather", 8, 4, 7 / 8, 3 / 4 / 8),
        ("reduce-scatter", 2, 2, 1 / 2, 1 / 4),
        ("all-reduce", 8, 4, 7 / 4, 3 / 2 / 8),
        ("all-reduce", 1, 4, 0, 3 / 2),
        ("all-to-all", 8, 4, 7 / 32, 3 / 4),
        ("collective-permute", 8, 1, 1, 0),
        ("collective-permute", 8, 4, 0, 1),
    ],
)
def test_what_stays_inside_and_what_goes_across(kind, members, parts, inside, across):
    """Inside and across together are at least what a device must send."""
    assert roofline.moved(kind, 64, members, parts) == pytest.approx((64 * inside, 64 * across))


def test_slices_and_hosts_are_joined_by_the_network():
    """Replicas in two slices, weights sharded inside each: gradients cross, gathers don't. Hosts of GPUs likewise."""
    machine = machines.parse("2*v5e:16x16")
    collectives = [of("all-gather", ("fsdp",), 256, 2560), of("all-reduce", ("data",), 2, 2560)]
    mesh = placed((2, 256), ("data", "fsdp"), slices=2)
    found = {link.axes: link for link in roofline.floor(machine, 1, 1, collectives, mesh, 1).links}
    assert found["data",].across == pytest.approx(2560 / machine.dcn) and found["data",].inside == 0
    assert found["fsdp",].inside == pytest.approx(2550 / machine.ici) and found["fsdp",].across == 0
    hosts = machines.parse("h100:2x8")
    (link,) = roofline.floor(hosts, 1, 1, [of("all-gather", ("fsdp",), 16, 1600)], abstract(data=1, fsdp=16), 1).links
    assert link.inside == pytest.approx(1400 / hosts.ici) and link.across == pytest.approx(100 / hosts.dcn)


def test_an_axis_has_the_links_of_the_sides_that_it_spans():
    """16 x 16 closes both sides; half a side is a line, whose ends have one link."""
    machine = machines.parse("v5e:16x16")
    mesh = placed((2, 8, 16), ("data", "fsdp", "tensor"))
    seconds = lambda *axes, group: (
        roofline.floor(machine, 1, 1, [of("all-gather", axes, group, group * 50 * GB)], mesh, 1).links[0].inside
    )
    assert seconds("tensor", group=16) == pytest.approx(15 / 2)
    assert seconds("fsdp", group=8) == pytest.approx(7)
    assert seconds("data", "fsdp", group=16) == pytest.approx(15 / 2)
    assert seconds("data", "fsdp", "tensor", group=256) == pytest.approx(255 / 4)


def test_a_permutation_goes_one_way():
    machine = machines.parse("v5e:16x16")
    given = of("collective-permute", ("tensor",), 16, 50 * GB), placed((16, 16), ("fsdp", "tensor"))
    assert roofline.floor(machine, 1, 1, given[:1], given[1], 1).links[0].inside == pytest.approx(1)
    assert roofline.floor(machine, 1, 1, given[:1], abstract(fsdp=16, tensor=16), 1).links[0].inside == pytest.approx(1)


def test_an_exchange_crosses_the_middle_of_its_ring():
    """Half of the devices send half of what they have over the middle: V n / 8 of a ring's, V n / 4 of a line's."""
    machine = machines.parse("v5e:16x16")
    seconds = lambda mesh, *axes, group: (
        roofline.floor(machine, 1, 1, [of("all-to-all", axes, group, 50 * GB)], mesh, 1).links[0].inside
    )
    mesh, whole = placed((2, 8, 16), ("data", "fsdp", "tensor")), placed((1, 256), ("data", "expert"))
    assert seconds(mesh, "tensor", group=16) == pytest.approx(15 / 16 * 16 / 8)
    assert seconds(mesh, "fsdp", group=8) == pytest.approx(7 / 8 * 8 / 4)
    assert seconds(mesh, "data", group=2) == pytest.approx(1 / 2)
    assert seconds(whole, "expert", group=256) == pytest.approx(255 / 256 * 16 / 8)
    assert seconds(abstract(data=1, expert=256), "expert", group=256) == pytest.approx(255 / 256 * 16 / 8)


def test_what_slices_say_that_they_send_goes_over_the_network():
    """Shards gathered over all devices of both slices, in two steps: what is inside is not asked of the network again."""
    machine, mesh = machines.parse("2*v5e:16x16"), placed((1, 512), ("data", "fsdp"), slices=2)
    steps = [
        Collective("all-gather", ("fsdp",), 2, 2 * 10**6, across=2),
        Collective("all-gather", ("fsdp",), 256, 512 * 10**6, across=1),
    ]
    (link,) = roofline.floor(machine, 1, 1, steps, mesh, 1).links
    assert link.across == pytest.approx(10**6 / machine.dcn)
    assert link.inside == pytest.approx(512 * 10**6 * 255 / 256 / machine.ici)


def test_a_mesh_on_paper_has_all_links_only_where_it_fills_a_closed_slice():
    small, large = machines.parse("v5p:2x2x2"), machines.parse("v5p:4x4x4")
    seconds = lambda machine, mesh, group: (
        roofline.floor(machine, 1, 1, [of("all-gather", ("fsdp",), group, group * 600 * GB)], mesh, 1).links[0].inside
    )
    assert seconds(large, abstract(data=1, fsdp=64), 64) == pytest.approx(63)
    assert seconds(large, abstract(data=2, fsdp=32), 32) == pytest.approx(2 * 31)
    assert seconds(small, abstract(data=1, fsdp=8), 8) == pytest.approx(2 * 7)


def test_traffic_by_hand():
    """Weights 3 times a microbatch, gradients and activations twice; the update moves what it changes twice."""
    assert roofline.traffic(100, 40, 80, 7, 1000, passes=3, microbatches=2) == 600 + 4 * 1040 + 2 * 127


def test_nothing_to_send():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape((1,) * len(AXES)), AXES)
    found = roofline.floor(machines.parse("cpu:1"), 1e12, 1e9, [], mesh, 1)
    assert found.links == () and math.isinf(found.intensity["flops_per_sent_byte"])
    assert found.record()["flops_per_sent_byte"] is None and found.bound == "compute"
    assert "imagined" in next(found.lines())
