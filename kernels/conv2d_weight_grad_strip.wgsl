// Weight gradient of a convolution of stride 1 with a KERNEL x KERNEL filter (3 or 1), for rows that are whole vec4s:
// one part of the sum over pixels for every split.
//
//   part[k, o, c, a, b] = sum over n, i, j of dy[n, o, i, j] * x[n, c, i + a - pad, j + b - pad]
//
// where (n, j / 4) are split k's columns_per_split of the `columns` = batch * width / 4 columns.
// dy [batch, out_channels, height, width], x [batch, in_channels, height, width] (zero outside, pad = KERNEL / 2),
// part [splits, out_channels, in_channels, KERNEL, KERNEL]; width is a multiple of 4 (a filter of 1x1 may be given
// the whole image as one row).
// Bindings: 0 uniforms, 1 dy in vec4s, 2 x in vec4s, 3 x in scalars, 4 part.
// A column is four neighbouring pixels of every row of one sample. A thread holds all taps of OUTS output channels x
// INS input channels and walks down its columns with KERNEL rows of x in registers, so that each row is loaded once.
// Dispatch: linear workgroups = splits * blocks, blocks = ceil(tiles_in * ceil(out_channels / OUTS) / 32),
// tiles_in = ceil(in_channels / INS).
// Numerics: f32, summed down the columns, the four pixels one after the other. Past the edges arbitrary values are
// read; they are masked, or their sums never stored.

struct Shape {
  splits: u32,
  blocks: u32,
  tiles_in: u32,
  columns: u32,
  columns_per_split: u32,
  strips_per_row: u32,
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
}

const KERNEL: u32 = 3u;
const OUTS: u32 = 4u;
const INS: u32 = 2u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> dy_quads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x_quads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> part: array<f32>;

// The pixels left and right of the strip, 0 outside the row.
fn load_sides(at: u32, column: u32) -> vec2<f32> {
  return vec2<f32>(
    select(0.0, x[at - 1u], column > 0u),
    select(0.0, x[at + 4u], column + 4u < shape.width),
  );
}

// The strip as the filter's left (0), middle (1) or right (2) column sees it.
fn seen_by(which: u32, middle: vec4<f32>, sides: vec2<f32>) -> vec4<f32> {
  if (which == 0u) {
    return vec4<f32>(sides.x, middle.xyz);
  }
  if (which == 2u) {
    return vec4<f32>(middle.yzw, sides.y);
  }
  return middle;
}

fn add_products(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  let split = group / shape.blocks;
  if (split >= shape.splits) {
    return;
  }
  let tile = group % shape.blocks * GROUP + lane;
  let first_out = tile / shape.tiles_in * OUTS;
  let first_in = tile % shape.tiles_in * INS;
  let plane = shape.height * shape.width;

  var acc = array<f32, OUTS * INS * KERNEL * KERNEL>();
  let end = min(shape.columns, (split + 1u) * shape.columns_per_split);
  for (var strip = split * shape.columns_per_split; strip < end; strip++) {
    let n = strip / shape.strips_per_row;
    let column = strip % shape.strips_per_row * 4u;
    var dy_at = (n * shape.out_channels + first_out) * plane + column;
    var x_at = (n * shape.in_channels + first_in) * plane + column;
    var middles = array<vec4<f32>, INS * KERNEL>();
    var sides = array<vec2<f32>, INS * KERNEL>();
    if (KERNEL > 1u) {
      // The walk starts with the sample's first row under the filter's middle and zeros above it.
      // @unroll
      for (var c = 0u; c < INS; c++) {
        middles[c * KERNEL + KERNEL / 2u] = x_quads[(x_at + c * plane) / 4u];
        sides[c * KERNEL + KERNEL / 2u] = load_sides(x_at + c * plane, column);
      }
    }
    for (var i = 0u; i < shape.height; i++) {
      let inside = i + KERNEL / 2u < shape.height;
      // @unroll
      for (var c = 0u; c < INS; c++) {
        let at = x_at + c * plane + KERNEL / 2u * shape.width;
        middles[c * KERNEL + KERNEL - 1u] = select(vec4<f32>(), x_quads[at / 4u], inside);
        if (KERNEL > 1u) {
          sides[c * KERNEL + KERNEL - 1u] = select(vec2<f32>(), load_sides(at, column), inside);
        }
      }
      // @unroll
      for (var o = 0u; o < OUTS; o++) {
        let gradient = dy_quads[(dy_at + o * plane) / 4u];
        // @unroll
        for (var row = 0u; row < INS * KERNEL; row++) {
          // @unroll
          for (var b = 0u; b < KERNEL; b++) {
            acc[(o * INS * KERNEL + row) * KERNEL + b] = add_products(
              gradient,
              seen_by(b + 1u - KERNEL / 2u, middles[row], sides[row]),
              acc[(o * INS * KERNEL + row) * KERNEL + b],
            );
          }
        }
      }
      // @unroll
      for (var c = 0u; c < INS; c++) {
        // @unroll
        for (var a = 1u; a < KERNEL; a++) {
          middles[c * KERNEL + a - 1u] = middles[c * KERNEL + a];
          sides[c * KERNEL + a - 1u] = sides[c * KERNEL + a];
        }
      }
      dy_at += shape.width;
      x_at += shape.width;
    }
  }

  // @unroll
  for (var o = 0u; o < OUTS; o++) {
    // @unroll
    for (var c = 0u; c < INS; c++) {
      if (first_out + o < shape.out_channels && first_in + c < shape.in_channels) {
        let filter_at = (split * shape.out_channels + first_out + o) * shape.in_channels + first_in + c;
        // @unroll
        for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
          part[filter_at * (KERNEL * KERNEL) + tap] = acc[(o * INS + c) * (KERNEL * KERNEL) + tap];
        }
      }
    }
  }
}
