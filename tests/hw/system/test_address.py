# amaranth: UnusedElaboratable=no
"""Pages of the bus: each request gets to the page of its address, and its response back."""

import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from zeroskip.hw.bus import Status
from zeroskip.hw.system.address import PAGE, Decoder
from zeroskip.sim.bench import checker, device, receive, send, simulate


@pytest.mark.timeout(60)
@given(count=st.sampled_from([1, 2, 3, 5, 16]), seed=st.integers(0, 2**32))
@settings(deadline=None, derandomize=True, max_examples=4,
          phases=[Phase.generate])
def test_requests_get_to_their_page_and_responses_back(stalls, count, seed):
    """Pages that take their time; what no page is for is answered all the same."""
    rng, dut = random.Random(seed), device(Decoder, count)
    requests = [{"address": rng.choice([0, PAGE - 4, 0x124]) + PAGE * rng.randrange(16),
                 "write": rng.randrange(2), "strobes": rng.randrange(16),
                 "data": rng.randrange(1 << 32)} for _ in range(20)]
    seen, expected, answers = [[] for _ in range(count)], [[] for _ in range(count)], []

    def page(number):
        """It answers what it saw, turned round, and its number for a status."""
        async def run(ctx):
            port, (give, take) = dut.pages[number], stalls(seed + number)
            while True:
                (asked,) = await receive(ctx, port.request, 1, take)
                seen[number].append({name: asked[name] for name in requests[0]})
                await send(ctx, port.response, [{"data": ~asked["data"] & 0xFFFFFFFF,
                                                 "status": Status(number % 3)}], give)
                ctx.set(port.response.payload, {"data": 0, "status": 0})
        return run

    async def host(ctx):
        give, take = stalls(seed)
        for request in requests:
            await send(ctx, dut.bus.request, [request], give)
            (response,) = await receive(ctx, dut.bus.response, 1, take)
            answers.append((response["data"], Status(response["status"])))

    right = []
    for request in requests:
        number, place = divmod(request["address"], PAGE)
        if number < count:
            expected[number].append(request | {"address": place})
            right.append((~request["data"] & 0xFFFFFFFF, Status(number % 3)))
        else:
            right.append((0, Status.RANGE))
    simulate(dut, host, background=[
        *(page(number) for number in range(count)), checker(dut.bus.response),
        *(checker(port.request) for port in dut.pages)])
    assert answers == right
    assert seen == expected


@pytest.mark.parametrize("count", [0, 17])
def test_number_of_pages(count):
    with pytest.raises(ValueError, match=f"^pages must be 1 to 16, not {count}$"):
        Decoder(count)
