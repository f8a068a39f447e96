// Weight and bias gradient of a convolution of stride 1 with a KERNEL x KERNEL filter (3 or 1), for rows that are whole
// vec4s: one part of the sums over pixels for every split.
//
//   part[k, o, c, a, b] = scale * sum over n, i, j of dy[n, o, i, j] * x[n, c, i + a - pad, j + b - pad]
//   bias_part[k, o] = scale * sum over n, i, j of dy[n, o, i, j]
//
// where (n, j / (4 QUADS)) are split k's columns_per_split of the `columns` = batch * width / (4 QUADS) columns.
// dy [batch, out_channels, height, width], x [batch, in_channels, height, width] (zero outside, pad = KERNEL / 2),
// part [splits, out_channels, in_channels, KERNEL, KERNEL], bias_part [splits, out_channels]; a filter of 1x1 may be
// given the whole image as one row.
// Bindings: 0 uniforms, 1 dy in vec4s, 2 x in vec4s, 3 x in scalars, 4 part, 5 bias_part.
// A column is QUADS vec4s of every row of one sample; EDGES is 0 where it is as wide as the image. A thread holds all
// taps of OUTS output channels x INS input channels and walks down its columns with KERNEL rows of x in registers, so
// that each row is loaded once.
// Dispatch: linear workgroups = splits * blocks, blocks = ceil(tiles_in * ceil(out_channels / OUTS) / GROUP),
// tiles_in = ceil(in_channels / INS).
// Numerics: f32, summed down the columns, the pixels of a row one after the other. Past the edges arbitrary values are
// read; they are masked, or their sums never stored.

struct Shape {
  splits: u32,
  blocks: u32,
  tiles_in: u32,
  columns: u32,
  columns_per_split: u32,
  columns_across: u32,
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
  scale: f32,
}

alias Scalar = f32; // of dy and x as stored
alias Quad = vec4<f32>;
const KERNEL: u32 = 3u;
const OUTS: u32 = 4u;
const INS: u32 = 2u;
const QUADS: u32 = 1u;
const EDGES: u32 = 1u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> dy_quads: array<Quad>;
@group(0) @binding(2) var<storage, read> x_quads: array<Quad>;
@group(0) @binding(3) var<storage, read> x: array<Scalar>;
@group(0) @binding(4) var<storage, read_write> part: array<f32>;
@group(0) @binding(5) var<storage, read_write> bias_part: array<f32>;

// The pixels left and right of a run of quads, 0 outside the row.
fn load_sides(at: u32, column: u32) -> vec2<f32> {
  return vec2<f32>(
    select(0.0, f32(x[at - 1u]), column > 0u),
    select(0.0, f32(x[at + 4u * QUADS]), column + 4u * QUADS < shape.width),
  );
}

// Four pixels as the filter's left (0), middle (1) or right (2) column sees them.
fn seen_by(which: u32, before: f32, middle: vec4<f32>, after: f32) -> vec4<f32> {
  if (which == 0u) {
    return vec4<f32>(before, middle.xyz);
  }
  if (which == 2u) {
    return vec4<f32>(middle.yzw, after);
  }
  return middle;
}

fn add_products(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

@compute @workgroup_size(GROUP)
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
  var bias = array<vec4<f32>, OUTS>();
  let end = min(shape.columns, (split + 1u) * shape.columns_per_split);
  for (var strip = split * shape.columns_per_split; strip < end; strip++) {
    let n = strip / shape.columns_across;
    let column = strip % shape.columns_across * (4u * QUADS);
    var dy_at = (n * shape.out_channels + first_out) * plane + column;
    var x_at = (n * shape.in_channels + first_in) * plane + column;
    // Rows above, at and below the walk, with the pixels beside them.
    var rows = array<vec4<f32>, INS * KERNEL * QUADS>();
    var sides = array<vec2<f32>, INS * KERNEL>();
    if (KERNEL > 1u) {
      // The walk starts with the sample's first row under the filter's middle and zeros above it.
      // @unroll
      for (var c = 0u; c < INS; c++) {
        let at = x_at + c * plane;
        // @unroll
        for (var q = 0u; q < QUADS; q++) {
          rows[(c * KERNEL + KERNEL / 2u) * QUADS + q] = vec4<f32>(x_quads[at / 4u + q]);
        }
        if (EDGES == 1u) {
          sides[c * KERNEL + KERNEL / 2u] = load_sides(at, column);
        }
      }
    }
    for (var i = 0u; i < shape.height; i++) {
      let inside = i + KERNEL / 2u < shape.height;
      // @unroll
      for (var c = 0u; c < INS; c++) {
        let at = x_at + c * plane + KERNEL / 2u * shape.width;
        // @unroll
        for (var q = 0u; q < QUADS; q++) {
          rows[(c * KERNEL + KERNEL - 1u) * QUADS + q] = select(vec4<f32>(), vec4<f32>(x_quads[at / 4u + q]), inside);
        }
        if (EDGES == 1u && KERNEL > 1u) {
          sides[c * KERNEL + KERNEL - 1u] = select(vec2<f32>(), load_sides(at, column), inside);
        }
      }
      // @unroll
      for (var o = 0u; o < OUTS; o++) {
        // @unroll
        for (var q = 0u; q < QUADS; q++) {
          let gradient = vec4<f32>(dy_quads[(dy_at + o * plane) / 4u + q]);
          bias[o] += gradient;
          // @unroll
          for (var row = 0u; row < INS * KERNEL; row++) {
            var before = sides[row].x;
            if (q > 0u) {
              before = rows[row * QUADS + (q + QUADS - 1u) % QUADS].w;
            }
            var after = sides[row].y;
            if (q + 1u < QUADS) {
              after = rows[row * QUADS + (q + 1u) % QUADS].x;
            }
            // @unroll
            for (var b = 0u; b < KERNEL; b++) {
              acc[(o * INS * KERNEL + row) * KERNEL + b] = add_products(
                gradient,
                seen_by(b + 1u - KERNEL / 2u, before, rows[row * QUADS + q], after),
                acc[(o * INS * KERNEL + row) * KERNEL + b],
              );
            }
          }
        }
      }
      // @unroll
      for (var c = 0u; c < INS; c++) {
        // @unroll
        for (var a = 1u; a < KERNEL; a++) {
          // @unroll
          for (var q = 0u; q < QUADS; q++) {
            rows[(c * KERNEL + a - 1u) * QUADS + q] = rows[(c * KERNEL + a) * QUADS + q];
          }
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
          part[filter_at * (KERNEL * KERNEL) + tap] = shape.scale * acc[(o * INS + c) * (KERNEL * KERNEL) + tap];
        }
      }
    }
    if (first_out + o < shape.out_channels && first_in == 0u) {
      bias_part[split * shape.out_channels + first_out + o] = shape.scale * dot(bias[o], vec4<f32>(1.0));
    }
  }
}
