"""Our metadata in a real tensor core: ``mma.sp`` multiplies what the words describe.

The kernel is PTX, which the driver assembles: no CUDA toolkit is needed. Fragments are laid out
after PTX ISA 9.x, "Matrix fragments for multiply-accumulate operation with sparse matrix A".
"""

import numpy as np
import pytest

from zeroskip.sw.formats.metadata import lanes, nibbles, to_words, word_type
from zeroskip.sw.formats.nm import compress

torch = pytest.importorskip("torch")


def missing():
    """What this machine lacks, or an empty text."""
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "no CUDA GPU, or a PyTorch without CUDA"
    if torch.cuda.get_device_capability() < (8, 0):
        return "a GPU below compute capability 8.0 has no mma.sp"
    if not hasattr(torch.cuda, "_utils") or not hasattr(torch.cuda._utils, "_cuda_load_module"):
        return "this PyTorch loads no PTX"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

KERNEL = """
.version 8.5
.target sm_80
.address_size 64

.visible .entry multiply(.param .u64 a, .param .u64 b, .param .u64 e, .param .u64 d)
{{
    .reg .b32 %a<4>, %b<4>, %e, %lane;
    .reg .{type} %c, %d<4>;
    .reg .u64 %at, %wide, %narrow;

    mov.u32 %lane, %tid.x;
    mul.wide.u32 %wide, %lane, 16;
    mul.wide.u32 %narrow, %lane, 4;

    ld.param.u64 %at, [a];
    add.u64 %at, %at, %wide;
    ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%at];
    ld.param.u64 %at, [b];
    add.u64 %at, %at, %wide;
    ld.global.v4.b32 {{%b0, %b1, %b2, %b3}}, [%at];
    ld.param.u64 %at, [e];
    add.u64 %at, %at, %narrow;
    ld.global.b32 %e, [%at];
    mov.b32 %c, 0;

    mma.{sp}.sync.aligned.{shape}
        {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, {{%b0, %b1, %b2, %b3}},
        {{%c, %c, %c, %c}}, %e, {selector};

    ld.param.u64 %at, [d];
    add.u64 %at, %at, %wide;
    st.global.v4.b32 [%at], {{%d0, %d1, %d2, %d3}};
    ret;
}}
"""
SHAPES = {
    "float16": ("m16n8k32.row.col.f32.f16.f16.f32", "f32", np.float32),
    "int8": ("m16n8k64.row.col.s32.s8.s8.s32", "s32", np.int32),
}


def kernel(dtype, sp, selector):
    """The PTX of one instruction."""
    shape, kind, _ = SHAPES[dtype]
    return KERNEL.format(type=kind, shape=shape, sp=sp, selector=selector)


def multiply(values, metadata, selector, b, sp):
    """``mma.sp`` of values [16, 32 bytes], uint32 metadata of 32 threads and b [K, 8]."""
    lane = np.arange(32)
    g, t = lane // 4, lane % 4
    # 32 bits are two f16 or four int8 neighbours in K; a register is one of them.
    own = np.ascontiguousarray(values).view(np.int32)                       # [16, 8]
    a = np.stack([own[g, t], own[g + 8, t], own[g, t + 4], own[g + 8, t + 4]], axis=1)
    columns = np.ascontiguousarray(b.T).view(np.int32)                      # [8, 16]
    b = np.stack([columns[g, t + 4 * part] for part in range(4)], axis=1)
    *operands, result = (torch.from_numpy(np.ascontiguousarray(array)).cuda() for array in (
        a, b, metadata.view(np.int32), np.zeros((32, 4), np.int32)))

    text = kernel(values.dtype.name, sp, selector)
    loaded = torch.cuda._utils._cuda_load_module(text, ["multiply"])
    loaded["multiply"](grid=(1, 1, 1), block=(32, 1, 1), args=[*operands, result])
    torch.cuda.synchronize()

    d = np.zeros((16, 8), np.int32)
    for part in range(4):
        d[g + 8 * (part // 2), 2 * t + part % 2] = result.cpu().numpy()[:, part]
    return d.view(SHAPES[values.dtype.name][2])


def gathered(compressed, b):
    """The product of the kept values and the operands that they select, exactly."""
    group = np.arange(compressed.indices.shape[1]) // 2
    return np.einsum("mk,mkn->mn", compressed.values.astype(np.int64),
                     b[4 * group + compressed.indices].astype(np.int64))


def pruned(rows, columns, limit, rng):
    """Integers of which every group of four keeps any two."""
    weight = rng.integers(-limit, limit, (rows, columns // 4, 4))
    order = rng.permuted(np.broadcast_to(np.arange(4), weight.shape), axis=2)
    return np.where(order < 2, weight, 0).reshape(rows, columns)


@pytest.mark.parametrize("sp", ["sp", "sp::ordered_metadata"])
@pytest.mark.parametrize(("dtype", "columns", "limit"), [("float16", 32, 32), ("int8", 64, 128)])
@pytest.mark.parametrize("seed", range(4))
def test_the_product_is_that_of_the_gathered_operands(sp, dtype, columns, limit, seed):
    rng = np.random.default_rng(seed)
    compressed = compress(pruned(32, columns, limit, rng).astype(dtype), "2:4")
    b = rng.integers(-limit, limit, (columns, 8)).astype(dtype)
    metadata = lanes(to_words(nibbles(compressed), word_type(np.dtype(dtype))))
    expected = gathered(compressed, b)
    for half in range(2):
        rows = slice(16 * half, 16 * half + 16)
        tile, selector = (0, half) if dtype == "float16" else (half, 0)
        found = multiply(compressed.values[rows], metadata[0, tile], selector, b, sp)
        assert np.array_equal(found, expected[rows])


def test_what_is_skipped_may_be_infinite():
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 32, (32, 8, 4))
    weight[..., [0, 3]] = 0
    compressed = compress(weight.reshape(32, 32).astype(np.float16), "2:4")
    b = rng.integers(-32, 32, (32, 8)).astype(np.float16)
    expected = gathered(compressed, b)
    b[0::4], b[3::4] = np.inf, np.nan
    metadata = lanes(to_words(nibbles(compressed), word_type(b.dtype)))
    found = multiply(compressed.values[:16], metadata[0, 0], 0, b, "sp::ordered_metadata")
    assert np.array_equal(found, expected[:16])
