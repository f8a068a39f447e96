// Weight and bias gradient of a convolution with a KERNEL x KERNEL filter (3 or 1) as a matrix product through tiles in
// workgroup memory: one part of the sums over pixels for every split.
//
//   part[k, o, c, a, b] = scale * sum over n, i, j of dy[n, o, i, j] * x[n, c, i * stride + a - pad, j * stride + b - pad]
//   bias_part[k, o] = scale * sum over n, i, j of dy[n, o, i, j]
//
// where (n, i, j) are split k's pixels_per_split (a multiple of 16) of the `pixels` = batch * height * width pixels of dy.
// dy [batch, out_channels, height, width], x [batch, in_channels, in_height, in_width] (zero outside, pad = KERNEL / 2),
// part [splits, out_channels, in_channels, KERNEL, KERNEL], bias_part [splits, out_channels].
// Bindings: 0 uniforms, 1 dy in vec4s, 2 dy in scalars, 3 x in vec4s, 4 x in scalars, 5 part, 6 bias_part.
// ROWS is 1 where the stride is 1 and rows are whole vec4s, which are then read as such (a filter of 1x1 may be given the
// whole image as one row); 0 takes any stride and size.
// A workgroup of DOWN x 8 threads computes one filter row of 4 OUT_QUADS DOWN output channels x 32 IN_QUADS input
// channels, 16 pixels at a time; a thread OUT_QUADS runs of four outputs, DOWN runs apart, x all columns of the filter row
// for IN_QUADS runs of four inputs, eight runs apart.
// The tiles hold a vec4 of channels for each pixel (and column of the filter). dy and x are loaded as blocks of four
// channels by four pixels; the run q of a pixel lies at q ^ (pixel / 4 * 2), so that eight neighbouring threads, who store
// two runs of four different pixels / 4, meet no bank twice.
// Dispatch: linear workgroups = splits * blocks, blocks = tiles_out * tiles_in * KERNEL, filter rows fastest, then
// tiles_in; tiles_out = ceil(out_channels / (4 OUT_QUADS DOWN)), tiles_in = ceil(in_channels / (32 IN_QUADS)).
// Numerics: f32, summed in the order of the pixels. Outside the images, their channels and the split the tiles hold zeros.

struct Shape {
  splits: u32,
  blocks: u32,
  tiles_in: u32,
  pixels: u32,
  pixels_per_split: u32,
  in_channels: u32,
  out_channels: u32,
  in_height: u32,
  in_width: u32,
  height: u32,
  width: u32,
  stride: u32,
  scale: f32,
}

alias Scalar = f32; // of dy and x as stored
alias Quad = vec4<f32>;
const ROWS: u32 = 0u;
const KERNEL: u32 = 3u;
const OUT_QUADS: u32 = 2u;
const IN_QUADS: u32 = 1u;
const DOWN: u32 = 8u;
const GROUP: u32 = DOWN * 8u;
const OUT_RUNS: u32 = OUT_QUADS * DOWN;
const IN_RUNS: u32 = IN_QUADS * 8u;
const STEP: u32 = 16u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> dy_quads: array<Quad>;
@group(0) @binding(2) var<storage, read> dy: array<Scalar>;
@group(0) @binding(3) var<storage, read> x_quads: array<Quad>;
@group(0) @binding(4) var<storage, read> x: array<Scalar>;
@group(0) @binding(5) var<storage, read_write> part: array<f32>;
@group(0) @binding(6) var<storage, read_write> bias_part: array<f32>;

var<workgroup> dy_tile: array<vec4<f32>, STEP * OUT_RUNS>;
var<workgroup> x_tile: array<vec4<f32>, STEP * KERNEL * IN_RUNS>;

struct Pixel {
  sample: u32,
  row: u32,
  column: u32,
}

// The pixel `by` further on, all of whose coordinates are smaller than an image's.
fn advance(p: Pixel, by: Pixel) -> Pixel {
  var column = p.column + by.column;
  var row = p.row + by.row;
  var sample = p.sample + by.sample;
  if (column >= shape.width) {
    column -= shape.width;
    row++;
  }
  if (row >= shape.height) {
    row -= shape.height;
    sample++;
  }
  return Pixel(sample, row, column);
}

fn pixel_at(index: u32) -> Pixel {
  let plane = shape.height * shape.width;
  return Pixel(index / plane, index % plane / shape.width, index % shape.width);
}

// Four channels of dy, from `out` on, for each of the first `count` of four pixels from p on; 0 for the others.
fn load_dy(first: Pixel, count: u32, out: u32) -> mat4x4<f32> {
  let plane = shape.height * shape.width;
  var block = mat4x4<f32>();
  var p = first;
  if (ROWS == 1u) {
    let at = (p.sample * shape.out_channels + out) * plane + p.row * shape.width + p.column;
    // @unroll
    for (var o = 0u; o < 4u; o++) {
      if (count > 0u && out + o < shape.out_channels) {
        block[o] = vec4<f32>(dy_quads[(at + o * plane) / 4u]);
      }
    }
    return transpose(block);
  }
  // @unroll
  for (var i = 0u; i < 4u; i++) {
    let at = (p.sample * shape.out_channels + out) * plane + p.row * shape.width + p.column;
    // @unroll
    for (var o = 0u; o < 4u; o++) {
      // Without branches, as && would be: compilers take very long for so many.
      block[i][o] = select(0.0, f32(dy[at + o * plane]), (i < count) & (out + o < shape.out_channels));
    }
    p = advance(p, Pixel(0u, 0u, 1u));
  }
  return block;
}

// Four channels of x, from `channel` on, as column b of the filter row sees them at each of the same pixels: entry
// i * KERNEL + b.
fn load_x(first: Pixel, count: u32, channel: u32, filter_row: u32) -> array<vec4<f32>, 4 * KERNEL> {
  let plane = shape.in_height * shape.in_width;
  var seen = array<vec4<f32>, 4 * KERNEL>();
  var p = first;
  if (ROWS == 1u) {
    // Rows above the image wrap around and are far outside.
    let row = p.row + filter_row - KERNEL / 2u;
    let inside = count > 0u && row < shape.height;
    let at = (p.sample * shape.in_channels + channel) * plane + row * shape.width + p.column;
    var middle = mat4x4<f32>();
    // The pixels left and right of the four.
    var before = vec4<f32>();
    var after = vec4<f32>();
    // @unroll
    for (var c = 0u; c < 4u; c++) {
      if (inside && channel + c < shape.in_channels) {
        middle[c] = vec4<f32>(x_quads[(at + c * plane) / 4u]);
        if (KERNEL > 1u && p.column > 0u) {
          before[c] = f32(x[at + c * plane - 1u]);
        }
        if (KERNEL > 1u && p.column + 4u < shape.width) {
          after[c] = f32(x[at + c * plane + 4u]);
        }
      }
    }
    middle = transpose(middle);
    let window = array<vec4<f32>, 6>(before, middle[0], middle[1], middle[2], middle[3], after);
    // @unroll
    for (var i = 0u; i < 4u; i++) {
      // @unroll
      for (var b = 0u; b < KERNEL; b++) {
        seen[i * KERNEL + b] = window[i + b + 1u - KERNEL / 2u];
      }
    }
    return seen;
  }
  // @unroll
  for (var i = 0u; i < 4u; i++) {
    let row = p.row * shape.stride + filter_row - KERNEL / 2u;
    // @unroll
    for (var b = 0u; b < KERNEL; b++) {
      let column = p.column * shape.stride + b - KERNEL / 2u;
      let at = (p.sample * shape.in_channels + channel) * plane + row * shape.in_width + column;
      let inside = (i < count) & (row < shape.in_height) & (column < shape.in_width);
      // @unroll
      for (var c = 0u; c < 4u; c++) {
        seen[i * KERNEL + b][c] = select(0.0, f32(x[at + c * plane]), inside & (channel + c < shape.in_channels));
      }
    }
    p = advance(p, Pixel(0u, 0u, 1u));
  }
  return seen;
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
  let block = group % shape.blocks;
  let filter_row = block % KERNEL;
  let first_in = block / KERNEL % shape.tiles_in * (4u * IN_RUNS);
  let first_out = block / (KERNEL * shape.tiles_in) * (4u * OUT_RUNS);
  let begin = split * shape.pixels_per_split;
  let end = min(shape.pixels, begin + shape.pixels_per_split);

  let across = lane % 8u;
  let down = lane / 8u % DOWN;
  // Where there are fewer blocks than threads, the first threads load dy and the last ones x.
  let quad = lane % 4u;
  let dy_run = lane / 4u;
  let x_run = (lane + 4u * IN_RUNS - GROUP) / 4u;
  let loads_dy = lane < 4u * OUT_RUNS;
  let loads_x = lane >= GROUP - 4u * IN_RUNS;
  let sums_bias = block % (KERNEL * shape.tiles_in) == 0u && lane < OUT_RUNS;

  var acc = array<vec4<f32>, OUT_QUADS * 4 * KERNEL * IN_QUADS>();
  var bias = vec4<f32>();
  let ahead = pixel_at(STEP);
  var p = pixel_at(begin + quad * 4u);
  for (var pixel = begin; pixel < end; pixel += STEP) {
    let own = pixel + quad * 4u;
    let count = max(own, end) - own;
    var gradients = mat4x4<f32>();
    var seen = array<vec4<f32>, 4 * KERNEL>();
    if (loads_dy) {
      gradients = load_dy(p, count, first_out + dy_run * 4u);
    }
    if (loads_x) {
      seen = load_x(p, count, first_in + x_run * 4u, filter_row);
    }
    workgroupBarrier(); // Every thread is done with the tiles of the pixels before.
    // @unroll
    for (var i = 0u; i < 4u; i++) {
      if (loads_dy) {
        dy_tile[(quad * 4u + i) * OUT_RUNS + (dy_run ^ (quad * 2u))] = gradients[i];
      }
      if (loads_x) {
        // @unroll
        for (var b = 0u; b < KERNEL; b++) {
          x_tile[((quad * 4u + i) * KERNEL + b) * IN_RUNS + (x_run ^ (quad * 2u))] = seen[i * KERNEL + b];
        }
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < STEP / 4u; k++) {
      let dy_at = k * 4u * OUT_RUNS + (down ^ (k * 2u));
      let x_at = k * 4u * KERNEL * IN_RUNS + (across ^ (k * 2u));
      // @unroll
      for (var i = 0u; i < 4u; i++) {
        var left = array<vec4<f32>, OUT_QUADS>();
        // @unroll
        for (var q = 0u; q < OUT_QUADS; q++) {
          left[q] = dy_tile[dy_at + i * OUT_RUNS + q * DOWN];
        }
        // @unroll
        for (var b = 0u; b < KERNEL * IN_QUADS; b++) {
          let right = x_tile[x_at + (i * KERNEL * IN_QUADS + b) * 8u];
          // @unroll
          for (var o = 0u; o < OUT_QUADS * 4; o++) {
            acc[o * KERNEL * IN_QUADS + b] = fma(
              vec4<f32>(left[o / 4u][o % 4u]),
              right,
              acc[o * KERNEL * IN_QUADS + b],
            );
          }
        }
      }
    }
    if (sums_bias) {
      for (var k = 0u; k < STEP; k++) {
        bias += dy_tile[k * OUT_RUNS + (lane ^ (k / 4u * 2u))];
      }
    }
    p = advance(p, ahead);
  }

  // @unroll
  for (var o = 0u; o < OUT_QUADS * 4; o++) {
    let out = first_out + (o / 4u * DOWN + down) * 4u + o % 4u;
    // @unroll
    for (var q = 0u; q < IN_QUADS; q++) {
      // @unroll
      for (var c = 0u; c < 4u; c++) {
        let channel = first_in + (q * 8u + across) * 4u + c;
        if ((out < shape.out_channels) & (channel < shape.in_channels)) {
          let at = (((split * shape.out_channels + out) * shape.in_channels + channel) * KERNEL + filter_row) * KERNEL;
          // @unroll
          for (var b = 0u; b < KERNEL; b++) {
            part[at + b] = shape.scale * acc[(o * KERNEL + b) * IN_QUADS + q][c];
          }
        }
      }
    }
  }
  if (sums_bias) {
    // @unroll
    for (var o = 0u; o < 4u; o++) {
      if (first_out + lane * 4u + o < shape.out_channels) {
        bias_part[split * shape.out_channels + first_out + lane * 4u + o] = shape.scale * bias[o];
      }
    }
  }
}
