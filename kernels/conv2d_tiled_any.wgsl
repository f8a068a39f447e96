// Correlation with a KERNEL x KERNEL filter (3 or 1) of any stride, dilation of the input and size, from packed weights,
// as a matrix product through tiles in workgroup memory: the convolution, and (weights packed flipped, channels
// exchanged, dilation = stride) its input gradient. conv2d_tiled.wgsl does the same for stride 1 and rows of whole vec4s.
//
//   y[n, o, i, j] = residual_scale * residual[n, o, i, j] + scale * (bias[o] + shift[n, o]
//                     + sum over c, a, b of X[n, c, i * stride + a - pad, j * stride + b - pad] * w[c, KERNEL a + b, o])
//   X[n, c, t, u] = x[n, c, t / dilation, u / dilation] where both divide and lie inside, else 0;  pad = KERNEL / 2
//
// x [batch, in_channels, in_height, in_width], y and residual [batch, out_channels, height, width], bias [out_channels],
// shift [batch, out_channels]; w is packed by conv2d_pack.wgsl: [in_channels, KERNEL^2, w_quads vec4s of outputs].
// dilation is a power of two.
// Bindings: 0 uniforms, 1 x, 2 w, 3 bias, 4 shift, 5 residual, 6 y; of 3 to 5 those are read whose bit is set in `terms`
// (1 bias, 2 shift, 4 residual).
// Rows of the product are output channels, columns the `pixels` = batch * height * width of y; tiles and threads as in
// conv2d_tiled.wgsl. What is summed over, pairs of input channel and filter entry, is taken 16 at a time; a thread loads
// LOADS_X runs of four values of x each time, for the same four pixels, and LOADS_W vec4s of w.
// Dispatch: linear workgroups = tiles_out * ceil(pixels / (4 PIXEL_QUADS ACROSS)), output channels fastest;
// tiles_out = ceil(out_channels / (4 OUT_QUADS DOWN)), w_quads = tiles_out OUT_QUADS DOWN.
// Numerics: f32, summed over input channels, then filter entries. Outside the image, between dilated pixels, past the
// channels and past the last sample the tiles hold zeros; arbitrary terms are read there, whose sums are never stored.

struct Shape {
  tiles_out: u32,
  pixels: u32,
  in_channels: u32,
  out_channels: u32,
  in_height: u32,
  in_width: u32,
  height: u32,
  width: u32,
  stride: u32,
  dilation: u32,
  w_quads: u32,
  terms: u32,
  scale: f32,
  residual_scale: f32,
}

alias Scalar = f32; // of x, w, residual and y as stored
alias Quad = vec4<f32>;
const KERNEL: u32 = 3u;
const OUT_QUADS: u32 = 2u;
const PIXEL_QUADS: u32 = 2u;
const DOWN: u32 = 8u;
const ACROSS: u32 = 8u;
const LOADS_X: u32 = 4u;
const LOADS_W: u32 = 4u;
const GROUP: u32 = DOWN * ACROSS;
const OUT_RUNS: u32 = OUT_QUADS * DOWN;
const PIXEL_RUNS: u32 = PIXEL_QUADS * ACROSS;
const STEP: u32 = 16u;
const TAPS: u32 = KERNEL * KERNEL;
const OUTSIDE: u32 = 0x40000000u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Scalar>;
@group(0) @binding(2) var<storage, read> w: array<Quad>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<Scalar>;
@group(0) @binding(6) var<storage, read_write> y: array<Scalar>;

var<workgroup> w_tile: array<vec4<f32>, STEP * OUT_RUNS>;
var<workgroup> x_tile: array<vec4<f32>, STEP * PIXEL_RUNS>;

@compute @workgroup_size(GROUP)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  let tile_out = group % shape.tiles_out;
  let first_pixel = group / shape.tiles_out * (4u * PIXEL_RUNS);
  if (first_pixel >= shape.pixels) {
    return;
  }
  let across = lane % 8u + lane / 32u % (ACROSS / 8u) * 8u;
  let down = lane / 8u % 4u + lane / (4u * ACROSS) % (DOWN / 4u) * 4u;
  let x_plane = shape.in_height * shape.in_width;
  let plane = shape.height * shape.width;
  let between = shape.dilation - 1u;
  let halvings = countTrailingZeros(shape.dilation);

  // The four pixels that this thread loads: where their filters begin. Coordinates above the image or left of it wrap
  // around and are far outside.
  let run = lane % PIXEL_RUNS;
  var origin = array<u32, 4>();
  var top = array<u32, 4>();
  var side = array<u32, 4>();
  // @unroll
  for (var p = 0u; p < 4u; p++) {
    let pixel = first_pixel + run * 4u + p;
    origin[p] = pixel / plane * shape.in_channels * x_plane;
    top[p] = select(OUTSIDE, pixel % plane / shape.width * shape.stride - KERNEL / 2u, pixel < shape.pixels);
    side[p] = pixel % shape.width * shape.stride - KERNEL / 2u;
  }

  let summed = shape.in_channels * TAPS;
  var acc = array<vec4<f32>, OUT_QUADS * PIXEL_QUADS * 4>();
  for (var first = 0u; first < summed; first += STEP) {
    var values = array<vec4<f32>, LOADS_X>();
    // @unroll
    for (var i = 0u; i < LOADS_X; i++) {
      let k = first + lane / PIXEL_RUNS + i * (GROUP / PIXEL_RUNS);
      let channel_at = k / TAPS * x_plane;
      // @unroll
      for (var p = 0u; p < 4u; p++) {
        let t = top[p] + k % TAPS / KERNEL;
        let u = side[p] + k % KERNEL;
        let row = t >> halvings;
        let column = u >> halvings;
        // Without branches, as && would be: compilers take very long for so many.
        let inside = (row < shape.in_height) & (column < shape.in_width) & (((t | u) & between) == 0u) & (k < summed);
        values[i][p] = select(0.0, f32(x[origin[p] + channel_at + row * shape.in_width + column]), inside);
      }
    }
    var weights = array<vec4<f32>, LOADS_W>();
    // @unroll
    for (var i = 0u; i < LOADS_W; i++) {
      let own = lane + i * GROUP;
      let k = first + own / OUT_RUNS;
      let value = vec4<f32>(w[k * shape.w_quads + tile_out * OUT_RUNS + own % OUT_RUNS]);
      weights[i] = select(vec4<f32>(), value, k < summed);
    }
    workgroupBarrier(); // Every thread is done with the tiles of the steps before.
    // @unroll
    for (var i = 0u; i < LOADS_X; i++) {
      x_tile[lane + i * GROUP] = values[i];
    }
    // @unroll
    for (var i = 0u; i < LOADS_W; i++) {
      w_tile[lane + i * GROUP] = weights[i];
    }
    workgroupBarrier();
    for (var k = 0u; k < STEP; k += 4u) {
      // @unroll
      for (var j = 0u; j < 4u; j++) {
        var left = array<vec4<f32>, OUT_QUADS>();
        // @unroll
        for (var q = 0u; q < OUT_QUADS; q++) {
          left[q] = w_tile[(k + j) * OUT_RUNS + q * DOWN + down];
        }
        // @unroll
        for (var q = 0u; q < PIXEL_QUADS; q++) {
          let right = x_tile[(k + j) * PIXEL_RUNS + q * ACROSS + across];
          // @unroll
          for (var o = 0u; o < OUT_QUADS * 4; o++) {
            acc[o * PIXEL_QUADS + q] = fma(vec4<f32>(left[o / 4u][o % 4u]), right, acc[o * PIXEL_QUADS + q]);
          }
        }
      }
    }
  }

  // Where the thread's pixels lie, and all loads of a term at once, so that one wait serves them all.
  var at = array<u32, 4 * PIXEL_QUADS>();
  var shift_at = array<u32, 4 * PIXEL_QUADS>();
  // @unroll
  for (var p = 0u; p < 4 * PIXEL_QUADS; p++) {
    let pixel = first_pixel + (p / 4u * ACROSS + across) * 4u + p % 4u;
    shift_at[p] = pixel / plane * shape.out_channels;
    at[p] = shift_at[p] * plane + pixel % plane;
  }
  let out = (tile_out * OUT_RUNS + down) * 4u;
  if ((shape.terms & 1u) != 0u) {
    // @unroll
    for (var o = 0u; o < OUT_QUADS * 4; o++) {
      let value = bias[out + o / 4u * (4u * DOWN) + o % 4u];
      // @unroll
      for (var q = 0u; q < PIXEL_QUADS; q++) {
        acc[o * PIXEL_QUADS + q] += value;
      }
    }
  }
  if ((shape.terms & 2u) != 0u) {
    // @unroll
    for (var o = 0u; o < OUT_QUADS * 4; o++) {
      // @unroll
      for (var p = 0u; p < 4 * PIXEL_QUADS; p++) {
        acc[o * PIXEL_QUADS + p / 4u][p % 4u] += shift[shift_at[p] + out + o / 4u * (4u * DOWN) + o % 4u];
      }
    }
  }
  // @unroll
  for (var i = 0u; i < OUT_QUADS * PIXEL_QUADS * 4; i++) {
    acc[i] *= shape.scale;
  }
  if ((shape.terms & 4u) != 0u) {
    // @unroll
    for (var o = 0u; o < OUT_QUADS * 4; o++) {
      // @unroll
      for (var p = 0u; p < 4 * PIXEL_QUADS; p++) {
        acc[o * PIXEL_QUADS + p / 4u][p % 4u] += shape.residual_scale *
          f32(residual[at[p] + (out + o / 4u * (4u * DOWN) + o % 4u) * plane]);
      }
    }
  }
  // @unroll
  for (var o = 0u; o < OUT_QUADS * 4; o++) {
    let channel = out + o / 4u * (4u * DOWN) + o % 4u;
    // @unroll
    for (var p = 0u; p < 4 * PIXEL_QUADS; p++) {
      let pixel = first_pixel + (p / 4u * ACROSS + across) * 4u + p % 4u;
      if ((pixel < shape.pixels) & (channel < shape.out_channels)) {
        y[at[p] + channel * plane] = Scalar(acc[o * PIXEL_QUADS + p / 4u][p % 4u]);
      }
    }
  }
}
