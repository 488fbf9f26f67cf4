# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc, assignment"
# ruff: noqa: RUF005 (triton's tuples are joined by + alone)
"""Triton kernels of the quadratic depthwise neuron. Importing this needs triton; `fused` launches them.

They are bound by multiply-adds (3 K^2 for each pixel read and written), so a loaded pixel is used from registers as
often as it can be. A thread holds a vertical strip of `rows` output pixels in one channel, in one column or in two
neighbouring ones. It takes the columns around them one after the other, loads rows + K - 1 pixels of each once, and
uses each pixel K times (2 K times with two columns); a weight serves rows (2 rows) multiply-adds.

Names and layouts, the same in all kernels
    C, H, W, K    the map (N, C, H, W) and the window; known to the compiler, so that offsets become part of the loads
    LAST          channels_last, strides (H W C, 1, W C, C); otherwise NCHW, strides (C H W, H W, W, 1)
    weights       packed float32 (K dx, K dy, 3, PADDED), then biases (3, PADDED); A, B, C in this order;
                  PADDED >= C so that no tile reads behind them
    tile          [WIDE, BLOCK]: columns, or pairs of them, counted over all images, times channels. Lanes lie side by
                  side in memory: channels in channels_last, columns in NCHW, where BLOCK is 1. Every tensor is a full
                  tile of one or two lanes a thread, so that all loads agree on who holds what
Arithmetic is float32 by explicit multiply-adds; the compiler's own fusing is a setting that may be off.
Offsets inside an image are 32 bits, those of images 64.
"""

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


WARPS = 4  # of a program


def _config(strip: int, columns: int, vector: int) -> triton.Config:
    return triton.Config({"STRIP": strip, "COLUMNS": columns, "VECTOR": vector}, num_warps=WARPS)


# From the machine code for k = 7: (instructions that multiply and add) / (all) of the inner loop is 0.75 to 0.83 for
# values, 0.62 to 0.77 for dx; which one is fastest where is tried on the machine, once per map.
VALUE_CONFIGS = [_config(14, 1, 1), _config(7, 2, 1), _config(7, 1, 2), _config(14, 2, 1)]
INPUT_GRADIENT_CONFIGS = [_config(14, 1, 1), _config(14, 2, 1), _config(14, 1, 2), _config(7, 2, 2)]


def _prune(configs: list[triton.Config], named, **rest) -> list[triton.Config]:
    """The configurations that make sense and differ from each other on this map.

    In NCHW a second column or channel would be no neighbour in memory. Two columns of long strips with all three
    sums do not fit in registers; for the input's gradient one lane of one column is the slowest.
    """
    known = {**named, **rest}
    kept: dict[tuple[int, int, int], triton.Config] = {}
    for config in configs:
        strip, columns, vector = (config.kwargs[k] for k in ("STRIP", "COLUMNS", "VECTOR"))
        if known["LAST"]:
            fits = vector == 1 or known["C"] % vector == 0
            if (strip, columns) == (14, 2):
                fits &= known.get("PRODUCTS", True)
            if (columns, vector) == (1, 1):
                fits &= "PRODUCTS" in known or known["C"] % 2 == 1
        else:
            fits = columns == 1 and vector == 1
        if fits:
            kept.setdefault((rows_of(known["H"], strip), columns, vector), config)
    return list(kept.values())


def _tuned(configs: list[triton.Config], key: list[str]):
    return triton.autotune(
        configs[:1] if INTERPRETED else configs,
        key,
        prune_configs_by={"early_config_prune": _prune},
        cache_results=True,  # on disk, so that a machine tries them once
    )


@triton.constexpr_function
def rows_of(height, strip):
    """Rows of a strip: the height in equal parts of at most `strip` rows."""
    parts = -(-height // strip)
    return -(-height // parts)


@triton.constexpr_function
def tile_of(channels, last, vector):
    """Columns (or pairs) and channels of a program's tile, one or VECTOR lanes a thread."""
    block = min(32 * vector, 1 << (channels - 1).bit_length()) if last else 1
    return 32 * WARPS * vector // block, block


@triton.jit
def _place(
    batch,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program's tile: channels, first row, first column, offset of the pixel at row 0, and which lanes exist.

    Each a full tile, the first row as well, though it is one number: masks are then of one shape.

    Channels change fastest from program to program, then strips, then columns: what programs share is in the cache.
    """
    BLOCKS: tl.constexpr = (C + BLOCK - 1) // BLOCK
    STRIPS: tl.constexpr = (H + ROWS - 1) // ROWS
    GROUPS: tl.constexpr = (W + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    group = program // (BLOCKS * STRIPS) * WIDE + tl.arange(0, WIDE)[:, None]
    c = program % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :] + 0 * group
    h = program // BLOCKS % STRIPS * ROWS + 0 * c
    w = group % GROUPS * COLUMNS + 0 * c
    inside = (group < batch * GROUPS) & (c < C)
    in_image = w * C + c if LAST else w + c * (H * W)
    return c, h, w, (group // GROUPS).to(tl.int64) * (C * H * W) + in_image, inside


@triton.jit
def _load(pointers, inside, first, COUNT: tl.constexpr, H: tl.constexpr, STEP: tl.constexpr):
    """COUNT pixels of a column from row `first` on, STEP elements apart, as float32; zeros outside of the map."""
    pixels = ()
    for r in tl.static_range(COUNT):
        there = inside & (first + r >= 0) & (first + r < H)
        pixels = pixels + (tl.load(pointers + r * STEP, mask=there, other=0.0).to(tl.float32),)
    return pixels


@triton.jit
def _repeat(tensor, COUNT: tl.constexpr):
    copies = ()
    for _ in tl.static_range(COUNT):
        copies = copies + (tensor,)
    return copies


@triton.jit
def _add(sums, factor, pixels, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """sums[i] + factor * pixels[FIRST + i] for i < COUNT."""
    added = ()
    for i in tl.static_range(COUNT):
        added = added + (tl.fma(factor, pixels[FIRST + i], sums[i]),)
    return added


@triton.jit
def pack_kernel(
    weight_a,  # (C, 1, K, K)
    weight_b,
    weight_c,
    bias_a,  # (C,) or None
    bias_b,
    bias_c,
    packed,  # (K * K + 1, 3, PADDED) float32
    C: tl.constexpr,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per tap (dx, dy), and one for the biases, times blocks of channels."""
    tap = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    target = packed + tap * (3 * PADDED) + c
    if tap < K * K:
        source = c * (K * K) + tap % K * K + tap // K
        tl.store(target, tl.load(weight_a + source, mask=c < C, other=0.0).to(tl.float32))
        tl.store(target + PADDED, tl.load(weight_b + source, mask=c < C, other=0.0).to(tl.float32))
        tl.store(target + 2 * PADDED, tl.load(weight_c + source, mask=c < C, other=0.0).to(tl.float32))
    else:
        zero = tl.zeros((BLOCK,), tl.float32)
        if bias_a is None:
            tl.store(target, zero)
        else:
            tl.store(target, tl.load(bias_a + c, mask=c < C, other=0.0).to(tl.float32))
        if bias_b is None:
            tl.store(target + PADDED, zero)
        else:
            tl.store(target + PADDED, tl.load(bias_b + c, mask=c < C, other=0.0).to(tl.float32))
        if bias_c is None:
            tl.store(target + 2 * PADDED, zero)
        else:
            tl.store(target + 2 * PADDED, tl.load(bias_c + c, mask=c < C, other=0.0).to(tl.float32))


@_tuned(VALUE_CONFIGS, ["C", "H", "W", "K", "LAST", "PRODUCTS"])
@triton.jit(do_not_specialize=["batch"])
def value_kernel(
    x,  # (N, C, H, W)
    grad,  # the same; read with PRODUCTS
    packed,
    first_out,  # the same: y, or with PRODUCTS grad * b
    second_out,  # the same: with PRODUCTS grad * a
    batch,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    LAST: tl.constexpr,
    PRODUCTS: tl.constexpr,
    STRIP: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Forward: a = A * x + ba, b = B * x + bb; y = a b + C * x + bc, or with PRODUCTS grad b and grad a."""
    PAD: tl.constexpr = K // 2
    ROWS: tl.constexpr = rows_of(H, STRIP)
    DOWN: tl.constexpr = W * C if LAST else W
    RIGHT: tl.constexpr = C if LAST else 1
    WIDE: tl.constexpr = tile_of(C, LAST, VECTOR)[0]
    BLOCK: tl.constexpr = tile_of(C, LAST, VECTOR)[1]
    c, h, w, offset, inside = _place(batch, C, H, W, LAST, ROWS, COLUMNS, WIDE, BLOCK)

    weights = packed + c
    biases = weights + 3 * K * K * PADDED
    a = _repeat(tl.load(biases), ROWS)
    b = _repeat(tl.load(biases + PADDED), ROWS)
    if not PRODUCTS:
        y = _repeat(tl.load(biases + 2 * PADDED), ROWS)
    source = x + offset + (h - PAD) * DOWN
    if COLUMNS == 2:  # the left one's sums, and the pixels it sees; the right one sees them one step earlier
        left_a = a
        left_b = b
        if not PRODUCTS:
            left_y = y
        there = inside & (w >= PAD)
        left_pixels = _load(source - PAD * RIGHT, there, h - PAD, ROWS + K - 1, H, DOWN)

    for dx in range(K):
        step = dx + (COLUMNS - 1 - PAD)
        there = inside & (w + step >= 0) & (w + step < W)
        pixels = _load(source + step * RIGHT, there, h - PAD, ROWS + K - 1, H, DOWN)
        for dy in tl.static_range(K):
            tap = weights + (dx * K + dy) * (3 * PADDED)
            weight_a = tl.load(tap)
            weight_b = tl.load(tap + PADDED)
            a = _add(a, weight_a, pixels, dy, ROWS)
            b = _add(b, weight_b, pixels, dy, ROWS)
            if COLUMNS == 2:
                left_a = _add(left_a, weight_a, left_pixels, dy, ROWS)
                left_b = _add(left_b, weight_b, left_pixels, dy, ROWS)
            if not PRODUCTS:
                weight_c = tl.load(tap + 2 * PADDED)
                y = _add(y, weight_c, pixels, dy, ROWS)
                if COLUMNS == 2:
                    left_y = _add(left_y, weight_c, left_pixels, dy, ROWS)
        if COLUMNS == 2:
            left_pixels = pixels

    for i in tl.static_range(ROWS):
        there = inside & (h + i < H)
        at = offset + (h + i) * DOWN
        if COLUMNS == 2:
            if PRODUCTS:
                g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
                tl.store(first_out + at, g * left_b[i], mask=there)
                tl.store(second_out + at, g * left_a[i], mask=there)
            else:
                tl.store(first_out + at, tl.fma(left_a[i], left_b[i], left_y[i]), mask=there)
            at += RIGHT
            there = there & (w + 1 < W)
        if PRODUCTS:
            g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
            tl.store(first_out + at, g * b[i], mask=there)
            tl.store(second_out + at, g * a[i], mask=there)
        else:
            tl.store(first_out + at, tl.fma(a[i], b[i], y[i]), mask=there)


@_tuned(INPUT_GRADIENT_CONFIGS, ["C", "H", "W", "K", "LAST"])
@triton.jit(do_not_specialize=["batch"])
def input_gradient_kernel(
    grad_b,  # (N, C, H, W): grad * b
    grad_a,  # the same: grad * a
    grad,  # the same
    packed,
    out,  # the same: dx
    batch,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    LAST: tl.constexpr,
    STRIP: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Backward: dx = A^T (grad b) + B^T (grad a) + C^T grad: the same walk, its windows turned by half a circle."""
    PAD: tl.constexpr = K // 2
    ROWS: tl.constexpr = rows_of(H, STRIP)
    DOWN: tl.constexpr = W * C if LAST else W
    RIGHT: tl.constexpr = C if LAST else 1
    WIDE: tl.constexpr = tile_of(C, LAST, VECTOR)[0]
    BLOCK: tl.constexpr = tile_of(C, LAST, VECTOR)[1]
    c, h, w, offset, inside = _place(batch, C, H, W, LAST, ROWS, COLUMNS, WIDE, BLOCK)

    total = _repeat(tl.zeros((WIDE, BLOCK), tl.float32), ROWS)
    left_total = total
    for factor in tl.static_range(3):
        if factor == 0:
            source = grad_b + offset + (h - PAD) * DOWN
        elif factor == 1:
            source = grad_a + offset + (h - PAD) * DOWN
        else:
            source = grad + offset + (h - PAD) * DOWN
        weights = packed + c + ((K * K - 1) * 3 + factor) * PADDED  # the last tap, for the first pixel
        if COLUMNS == 2:
            there = inside & (w >= PAD)
            left_pixels = _load(source - PAD * RIGHT, there, h - PAD, ROWS + K - 1, H, DOWN)
        for dx in range(K):
            step = dx + (COLUMNS - 1 - PAD)
            there = inside & (w + step >= 0) & (w + step < W)
            pixels = _load(source + step * RIGHT, there, h - PAD, ROWS + K - 1, H, DOWN)
            for dy in tl.static_range(K):
                weight = tl.load(weights - (dx * K + dy) * (3 * PADDED))
                total = _add(total, weight, pixels, dy, ROWS)
                if COLUMNS == 2:
                    left_total = _add(left_total, weight, left_pixels, dy, ROWS)
            if COLUMNS == 2:
                left_pixels = pixels

    for i in tl.static_range(ROWS):
        there = inside & (h + i < H)
        at = offset + (h + i) * DOWN
        if COLUMNS == 2:
            tl.store(out + at, left_total[i], mask=there)
            at += RIGHT
            there = there & (w + 1 < W)
        tl.store(out + at, total[i], mask=there)


@triton.jit(do_not_specialize=["steps", "steps_each"])
def weight_gradient_kernel(
    x,  # (N, C, H, W)
    grad_b,  # the same: grad * b
    grad_a,  # the same: grad * a
    grad,  # the same
    partial,  # (splits, 3, K dy, TAPS dx, PADDED) float32
    columns,  # N * W
    steps,
    steps_each,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    LAST: tl.constexpr,
    STRIP: tl.constexpr,
    TAPS: tl.constexpr,  # a power of two above K
    LANES: tl.constexpr,
):
    """Sums over some strips of dA = corr(x, grad b), dB = corr(x, grad a), dC = corr(x, grad); deterministic.

    Programs: (blocks of channels, splits). A tile is [TAPS, LANES]: the columns dx of the window times channels (in
    NCHW, times columns of one channel), so that the taps of one warp read what the next one has just brought to the
    cache. The tap behind the last column sees ones in place of pixels: its sums are the gradients of the biases.
    """
    PAD: tl.constexpr = K // 2
    ROWS: tl.constexpr = rows_of(H, STRIP)
    STRIPS: tl.constexpr = (H + ROWS - 1) // ROWS
    DOWN: tl.constexpr = W * C if LAST else W
    tap = tl.arange(0, TAPS)[:, None]
    lane = tl.arange(0, LANES)[None, :] + 0 * tap
    split = tl.program_id(1)
    outside = tl.where(tap + 0 * lane == K, 1.0, 0.0)
    of_a = _repeat(tl.zeros((TAPS, LANES), tl.float32), K)
    of_b = of_a
    of_c = of_a
    for step in range(split * steps_each, tl.minimum((split + 1) * steps_each, steps)):
        if LAST:  # a step is one strip of one column, and neighbouring columns follow each other
            c = tl.program_id(0) * LANES + lane
            n = step // (W * STRIPS)
            h = step // W % STRIPS * ROWS + 0 * lane
            w = step % W
            inside = c < C
            offset = n.to(tl.int64) * (C * H * W) + (w * C + c)
            seen = offset + (tap - PAD) * C
        else:  # a step is one strip of LANES columns
            column = step // STRIPS * LANES + lane
            n = column // W
            h = step % STRIPS * ROWS + 0 * lane
            w = column % W
            inside = column < columns
            offset = n.to(tl.int64) * (C * H * W) + (tl.program_id(0) * (H * W) + w)
            seen = offset + (tap - PAD)
        there = inside & (tap < K) & (w + tap >= PAD) & (w + tap < W + PAD)
        pixels = ()
        for r in tl.static_range(ROWS + K - 1):
            row = h + (r - PAD)
            pixel = tl.load(x + seen + row * DOWN, mask=there & (row >= 0) & (row < H), other=outside)
            pixels = pixels + (pixel.to(tl.float32),)
        for i in tl.static_range(ROWS):
            there = inside & (h + i < H)
            at = offset + (h + i) * DOWN
            of_a = _add(of_a, tl.load(grad_b + at, mask=there, other=0.0).to(tl.float32), pixels, i, K)
            of_b = _add(of_b, tl.load(grad_a + at, mask=there, other=0.0).to(tl.float32), pixels, i, K)
            of_c = _add(of_c, tl.load(grad + at, mask=there, other=0.0).to(tl.float32), pixels, i, K)

    for dy in tl.static_range(K):
        row = ((split * 3 * K + dy) * TAPS + tap) * PADDED
        if LAST:
            target = partial + row + tl.program_id(0) * LANES + lane
            tl.store(target, of_a[dy])
            tl.store(target + K * TAPS * PADDED, of_b[dy])
            tl.store(target + 2 * K * TAPS * PADDED, of_c[dy])
        else:
            target = partial + row + tl.program_id(0)
            tl.store(target, tl.sum(of_a[dy], axis=1, keep_dims=True))
            tl.store(target + K * TAPS * PADDED, tl.sum(of_b[dy], axis=1, keep_dims=True))
            tl.store(target + 2 * K * TAPS * PADDED, tl.sum(of_c[dy], axis=1, keep_dims=True))


@triton.jit(do_not_specialize=["splits"])
def finish_kernel(
    partial,  # (splits, 3, K dy, TAPS dx, PADDED) float32
    weights,  # (3, C, K, K)
    biases,  # (3, C)
    splits,
    C: tl.constexpr,
    K: tl.constexpr,
    PADDED: tl.constexpr,
    TAPS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum over the splits, in a fixed order. Programs: (3 K (K + 1), blocks of channels)."""
    dx = tl.program_id(0) % (K + 1)
    dy = tl.program_id(0) // (K + 1) % K
    factor = tl.program_id(0) // (K * (K + 1))
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLITS)
    source = partial + (((split * 3 + factor) * K + dy) * TAPS + dx)[:, None] * PADDED + c[None, :]
    total = tl.zeros((SPLITS, BLOCK), tl.float32)
    for first in range(0, splits, SPLITS):
        there = (first + split < splits)[:, None] & (c < C)[None, :]
        total += tl.load(source + first * (3 * K * TAPS * PADDED), mask=there, other=0.0)
    found = tl.sum(total, axis=0)
    if dx < K:
        tl.store(weights + (factor * C + c) * (K * K) + dy * K + dx, found, mask=c < C)
    elif dy == 0:
        tl.store(biases + factor * C + c, found, mask=c < C)
