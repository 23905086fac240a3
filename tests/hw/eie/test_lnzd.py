"""The LNZD tree: order, completeness, latency and speed for any number of clusters."""

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.lnzd import FAN_IN, LNZDNode, LNZDTree
from zeroskip.sim.bench import device, receive, send, simulate

BORDERS = [*range(2, 18), 64]


def levels(clusters):
    """Nodes from a cluster to the root."""
    count = 0
    while FAN_IN ** count < clusters:
        count += 1
    return count


def own(cluster, count):
    """The activations of one cluster, each different from all others."""
    return [{"index": cluster + 64 * k, "column": 1000 - 64 * k, "value": -cluster - 1}
            for k in range(count)]


def sized(clusters, groups=1):
    return EIEConfig(pes=clusters * groups, groups=groups, act_depth=1024)


def gather(transfer, clusters, counts, **options):
    dut = device(LNZDTree, sized(clusters))
    (out,) = transfer(dut, [(leaf, own(k, count))
                            for k, (leaf, count) in enumerate(zip(dut.i, counts, strict=True))],
                      [(dut.o, sum(counts))], **options)
    return out


@pytest.mark.filterwarnings("ignore:.* created but never used")
@pytest.mark.parametrize("children", [0, FAN_IN + 1])
def test_a_node_refuses_other_numbers_of_children(children):
    with pytest.raises(ValueError, match=f"^children must be 1 to 4, not {children}$"):
        LNZDNode(sized(1), children)
    gc.collect()  # Now, while the warning about the half-made node is ignored.


@pytest.mark.parametrize("children", range(1, FAN_IN + 1))
def test_a_node_takes_its_lowest_child_first(transfer, children):
    dut = device(LNZDNode, sized(1), children)
    (out,) = transfer(dut, [(port, own(k, 3)) for k, port in enumerate(dut.i)],
                      [(dut.o, 3 * children)])
    assert out == [item for k in range(children) for item in own(k, 3)]


@pytest.mark.parametrize("clusters", BORDERS)
def test_clusters_that_wait_together_are_served_lowest_first(transfer, clusters):
    assert gather(transfer, clusters, [2] * clusters) == [
        item for k in range(clusters) for item in own(k, 2)]


@pytest.mark.parametrize("groups", [2, 4])
def test_each_group_has_a_tree_over_the_clusters(transfer, groups):
    dut = device(LNZDTree, sized(5, groups))
    (out,) = transfer(dut, [(leaf, own(k, 2)) for k, leaf in enumerate(dut.i)], [(dut.o, 10)])
    assert out == [item for k in range(5) for item in own(k, 2)]


@pytest.mark.parametrize("clusters", [2, 3, 4, 6, 17])
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=4)
def test_nothing_is_lost_doubled_or_overtaken(transfer, stalls, clusters, data):
    counts = data.draw(st.lists(st.integers(0, 8), min_size=clusters, max_size=clusters))
    out = gather(transfer, clusters, counts, stalls=stalls)
    assert [[item for item in out if item["value"] == -k - 1] for k in range(clusters)] == [
        own(k, count) for k, count in enumerate(counts)]


@pytest.mark.parametrize("clusters", BORDERS)
def test_latency_is_one_cycle_a_level(record, clusters):
    dut, entered, left = device(LNZDTree, sized(clusters)), [], []

    async def one_by_one(ctx):
        ctx.set(dut.o.ready, 1)
        for k in range(clusters):
            await send(ctx, dut.i[k], own(k, 1))
            await ctx.tick().repeat(levels(clusters))

    simulate(dut, one_by_one, background=[record(left, dut.o),
                                          *(record(entered, leaf) for leaf in dut.i)])
    assert sorted(left, key=lambda transfer: transfer[0]) == left
    assert left == [(cycle + levels(clusters), item)
                    for cycle, item in sorted(entered, key=lambda transfer: transfer[0])]


@pytest.mark.parametrize("clusters", [2, 4, 5, 17, 64])
@pytest.mark.parametrize("busy", ["lowest", "highest", "all"])
def test_throughput_is_one_a_cycle(record, clusters, busy):
    dut, left = device(LNZDTree, sized(clusters)), []
    chosen = {"lowest": [0], "highest": [clusters - 1], "all": range(clusters)}[busy]
    senders = [lambda ctx, k=k: send(ctx, dut.i[k], own(k, 6)) for k in chosen]
    simulate(dut, *senders, lambda ctx: receive(ctx, dut.o, 6 * len(chosen)),
             background=[record(left, dut.o)])
    assert [cycle for cycle, _ in left] == list(
        range(levels(clusters), levels(clusters) + 6 * len(chosen)))


@pytest.mark.parametrize("clusters", [2, 5, 17])
def test_idle_tells_whether_an_activation_is_inside(watch, stalls, transfer, clusters):
    dut, log, inside = device(LNZDTree, sized(clusters)), [], 0
    transfer(dut, [(leaf, own(k, 4)) for k, leaf in enumerate(dut.i)], [(dut.o, 4 * clusters)],
             stalls=stalls, background=[watch(
                 log, dut.idle, dut.o.valid, dut.o.ready,
                 *(bit for leaf in dut.i for bit in (leaf.valid, leaf.ready)))])
    for idle, *bits in log:
        assert idle == (inside == 0)
        moves = [valid & ready for valid, ready in zip(bits[::2], bits[1::2], strict=True)]
        inside += sum(moves[1:]) - moves[0]
    assert inside == 0
