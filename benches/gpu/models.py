"""The models of run.py as `.dl` texts."""


def product(m, k, n, dtype):
    """A product of two inputs with sums in f32."""
    if dtype == "f32":
        return f"model product(a: f32[{m}, {k}], b: f32[{k}, {n}]) {{ return matmul(a, b) as y }}\n"
    return (f"model product(a: {dtype}[{m}, {k}], b: {dtype}[{k}, {n}]) "
            "{ return matmul(cast(a, f32), cast(b, f32)) as y }\n")


def streams(n):
    """Names, texts, and how many elements a run reads and writes for each of `n`; the first is a copy but
    for a bit."""
    return [
        ("copy (negation)", f"model m(x: f32[{n}]) {{ return -x as y }}\n", 2),
        ("relu(x + y)", f"model m(x: f32[{n}], y: f32[{n}]) {{ return relu(x + y) as z }}\n", 3),
        ("gelu(x)", f"model m(x: f32[{n}]) {{ return gelu(x) as y }}\n", 2),
        ("sum of rows", f"model m(x: f32[{n // 1024}, 1024]) {{ return sum(x, axis = 1) as y }}\n", 1),
        ("softmax of rows", f"model m(x: f32[{n // 1024}, 1024]) {{ return softmax(x) as y }}\n", 2),
        ("transpose", f"model m(x: f32[{n // 256}, 256]) {{ return transpose(x) as y }}\n", 2),
    ]


def chain(n):
    """So many launches that have little to do: no two products share one."""
    return ("model chain(x: f32[32, 32], w: f32[32, 32]) {\n"
            f"    repeat i in 0..{n} {{ x = tanh(matmul(x, w)) }}\n"
            "    return x as y\n}\n")


RESNET50 = """
block conv_bn(x, ch, k, stride = 1) {
    return x |> conv2d(ch, k, stride, pad = (k - 1) / 2, bias = false) as conv |> batch_norm as bn
}

block bottleneck(x, ch, stride) {
    y = x |> conv_bn(ch, 1) as a |> relu |> conv_bn(ch, 3, stride) as b |> relu |> conv_bn(4 * ch, 1) as c
    skip = if stride != 1 or x.shape[1] != 4 * ch { x |> conv_bn(4 * ch, 1, stride) as downsample } else { x }
    return relu(y + skip)
}

model resnet50(img: f32[BATCH, 3, 224, 224]) {
    h = img |> conv_bn(64, 7, 2) as stem |> relu |> max_pool(3, 2, pad = 1)
    depths = [3, 4, 6, 3]
    repeat s in 0..4 {
        repeat i in 0..depths[s] {
            h = h |> bottleneck(64 * 2 ** s, if i == 0 and s > 0 { 2 } else { 1 }) as layer[s][i]
        }
    }
    return h |> global_avg_pool |> flatten |> dense(1000) as fc
}
"""

BERT = """
block encoder(x, heads, hidden) {
    a = x |> multi_head_attention(heads) as attention
    h = (x + a) |> layer_norm as norm1
    b = h |> dense(hidden) as up |> gelu |> dense(x.shape[-1]) as down
    return (h + b) |> layer_norm as norm2
}

model bert(x: f32[BATCH, SEQ, WIDTH]) {
    repeat i in 0..LAYERS { x = x |> encoder(HEADS, 4 * WIDTH) as layer[i] }
    return x
}
"""

SMALL = """
model maps(x: f32[BATCH, 3, 16, 16]) {
    h = x |> conv2d(16, 3, pad = 1) as a |> relu |> max_pool(2) |> conv2d(32, 3, pad = 1) as b |> relu
    return h |> global_avg_pool |> dense(10) as head |> softmax
}
"""


def bert(batch, seq, width, heads, layers):
    sizes = {"BATCH": batch, "SEQ": seq, "WIDTH": width, "HEADS": heads, "LAYERS": layers}
    text = BERT
    for name, value in sizes.items():
        text = text.replace(name, str(value))
    return text


def networks(small):
    """Names and texts. BERT is its encoder, over 128 embedded tokens."""
    if small:
        return [
            ("maps 1", SMALL.replace("BATCH", "1")),
            ("maps 8", SMALL.replace("BATCH", "8")),
            ("encoder 1", bert(1, 16, 64, 4, 2)),
        ]
    batches = [1, 32]
    return [(f"resnet50 {b}", RESNET50.replace("BATCH", str(b))) for b in batches] + [
        (f"bert-base {b}", bert(b, 128, 768, 12, 12)) for b in batches
    ]
