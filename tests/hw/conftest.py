"""What the tests of the gateware share: stalls, drivers and watchers.

Every fixture gives a function, and lives for the whole session so that hypothesis may use it.
"""

import re
import shutil
import subprocess

import pytest

from zeroskip.hw.netlist.emit import ports, verilog
from zeroskip.sim.bench import Stalls, checker, plain, receive, send, simulate

STALLS = {
    # Of the sender and of the receiver: share of the cycles, length of one wait.
    "free": ((0.0, 1), (0.0, 1)),
    "slow": ((0.3, 1), (0.3, 1)),
    "starved": ((0.9, 1), (0.0, 1)),
    "choked": ((0.0, 1), (0.9, 1)),
    "crawling": ((0.9, 1), (0.9, 1)),
    "bursts": ((0.5, 12), (0.5, 12)),
}


@pytest.fixture(scope="session", params=STALLS)
def stalls(request):
    """``stalls(seed)``: the stalls of a sender and of a receiver."""
    return lambda seed: [Stalls(seed, *side) for side in STALLS[request.param]]


def _watch(log: list, *signals):
    async def watch(ctx):
        async for _, _, *values in ctx.tick().sample(*signals):
            log.append(tuple(plain(value) for value in values))
    return watch


@pytest.fixture(scope="session")
def watch():
    """``watch(log, *signals)``: a background process that logs the signals of every cycle."""
    return _watch


@pytest.fixture(scope="session")
def record():
    """``record(log, port)``: a background process that logs (cycle, payload) of each transfer."""
    def record(log: list, port):
        async def run(ctx):
            cycle = 0
            samples = ctx.tick().sample(port.valid, port.ready, port.payload)
            async for *_, valid, ready, payload in samples:
                if valid and ready:
                    log.append((cycle, plain(payload)))
                cycle += 1
        return run
    return record


@pytest.fixture(scope="session")
def feed():
    """``feed(ctx, port, items)``: drives a stream without flow control, an item a cycle;
    None is a cycle without one."""
    async def feed(ctx, port, items):
        for item in items:
            ctx.set(port.valid, item is not None)
            if item is not None:
                ctx.set(port.payload, item)
            await ctx.tick()
        ctx.set(port.valid, 0)
    return feed


@pytest.fixture(scope="session")
def fill():
    """``fill(ctx, port, words)``: writes {address: data} through a WritePort, one a cycle."""
    async def fill(ctx, port, words: dict):
        for address, data in words.items():
            ctx.set(port.en, 1)
            ctx.set(port.address, address)
            ctx.set(port.data, data)
            await ctx.tick()
        ctx.set(port.en, 0)
    return fill


@pytest.fixture(scope="session")
def transfer():
    """``transfer(dut, sends, receives)``: sends [(port, items)], takes [(port, count)], gives
    the items of each receiving port.

    Receiving ports are checked for the handshake, and for silence after the last item.
    ``before`` runs ahead of the first item. The deadline grows with the items, so that a hang
    is found, and shrunk, in little time.
    """
    def transfer(dut, sends, receives, *, stalls=None, before=None, background=(), patience=40):
        outputs, last_valid, prepared = [[] for _ in receives], [], []
        moves = sum(len(items) for _, items in sends) + sum(count for _, count in receives)

        async def prepare(ctx):
            if before:
                await before(ctx)
            prepared.append(True)

        def sender(seed, port, items):
            async def run(ctx):
                while not prepared:
                    await ctx.tick()
                await send(ctx, port, items, stalls and stalls(seed)[0])
            return run

        def receiver(seed, port, count):
            async def run(ctx):
                outputs[seed] += await receive(ctx, port, count, stalls and stalls(seed)[1])
            return run

        simulate(
            dut, prepare,
            *(sender(k, *each) for k, each in enumerate(sends)),
            *(receiver(k, *each) for k, each in enumerate(receives)),
            background=[*background, *(checker(port) for port, _ in receives),
                        _watch(last_valid, *(port.valid for port, _ in receives))],
            deadline=500 + patience * moves)
        assert not any(last_valid[-1]), "more items came than were expected"
        return outputs
    return transfer


@pytest.fixture(scope="session")
def four_state(tmp_path_factory):
    """``four_state(dut, stages, output, count)``: payloads that leave the stream ``output``, as
    numbers, in Icarus, where a register is X until it is reset or written.

    ``stages`` are dictionaries of stream names to payloads; each stage begins when all of the one
    before is taken, with stalls, and payloads that are X in them. Fails if any port of the device,
    or a payload that is valid, is X in a cycle after reset.
    """
    def four_state(dut, stages, output, count):
        if not shutil.which("iverilog"):
            pytest.skip("iverilog is missing: Amaranth's simulator knows no X")
        folder = tmp_path_factory.mktemp("icarus")
        for name, items in [each for stage in stages for each in stage.items()]:
            (folder / f"{name}.hex").write_text("".join(f"{item:x}\n" for item in items))
        (folder / "dut.v").write_text(_uninitialised(verilog(dut, "dut")))
        (folder / "bench.v").write_text(_bench(ports(dut), stages, output, count))
        for command in (["iverilog", "-g2012", "-s", "bench", "-o", "bench", "dut.v", "bench.v"],
                        ["vvp", "bench"]):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert not done.returncode, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert "in cycle" not in lines[-1], lines[-1]
        return [int(line, 16) for line in lines]
    return four_state


def _uninitialised(source: str) -> str:
    """The Verilog without the values that registers and memories have before reset."""
    source, registers = re.subn(r"^(  reg [^;]*?) *= [^;]*;$", r"\1 ;", source, flags=re.MULTILINE)
    assert registers
    return re.sub(r"^  initial begin\n.*?^  end\n", "", source, flags=re.MULTILINE | re.DOTALL)


def _bench(found: list[dict], stages: list[dict], output: str, count: int) -> str:
    """The Verilog around a device with these ports, for ``four_state``."""
    sizes = {port["name"]: port["width"] for port in found}
    lines = [f"  wire [{size - 1}:0] {name};" for name, size in sizes.items()
             if name not in ("clk", "rst")]
    driven, begin = {"clk", "rst", f"{output}__ready"}, "!rst"
    for stage in stages:
        for name, items in stage.items():
            driven |= {f"{name}__payload", f"{name}__valid"}
            size = sizes[f"{name}__payload"]
            lines.append(f"""
  reg [{size - 1}:0] {name} [0:{len(items) - 1}];
  integer {name}_at = 0, {name}_seed = {len(lines)};
  reg {name}_go = 0;
  initial $readmemh("{name}.hex", {name});
  assign {name}__valid = {begin} && {name}_go && {name}_at < {len(items)};
  assign {name}__payload = {name}__valid ? {name}[{name}_at] : {size}'bx;
  always @(posedge clk) begin
    if ({name}__valid && {name}__ready) {name}_at <= {name}_at + 1;
    if (!{name}__valid || {name}__ready) {name}_go <= $random({name}_seed);
  end""")
        begin = " && ".join(["!rst", *(f"{name}_at == {len(items)}"
                                       for name, items in stage.items())])
    outputs = [port["name"] for port in found if port["direction"] == "out"]
    plain = [name for name in outputs if not name.endswith("__payload")]
    lines += [f"  assign {port['name']} = 0;" for port in found
              if port["direction"] == "in" and port["name"] not in driven]
    return "\n".join(["module bench;", "  reg clk = 0, rst = 1, take = 0;", *lines, f"""
  integer cycle = 0, taken = 0, seed = 1;
  assign {output}__ready = take;
  dut dut (.*);
  always #1 clk = ~clk;
  always @(posedge clk) begin
    cycle <= cycle + 1;
    rst <= cycle < 2;
    take <= $random(seed);
    if (!rst && {output}__valid && take) begin
      $display("%h", {output}__payload);
      taken <= taken + 1;
    end
    if (taken == {count}) $finish(0);
    if (cycle == 200000) stop("too little has left");
  end
  always @(negedge clk) if (!rst) begin
    if (^{{{", ".join(plain)}}} === 1'bx) stop("a port is X");
    if ({output}__valid && ^{output}__payload === 1'bx) stop("X leaves");
  end
  task stop(input [255:0] why);
    $display("%0s in cycle %0d", why, cycle);
    $finish(0);
  endtask
endmodule
"""])
