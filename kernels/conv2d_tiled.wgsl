// Correlation of stride 1 with a KERNEL x KERNEL filter (3 or 1) and padding (KERNEL - 1) / 2, for rows that are whole
// vec4s, from packed weights, as a matrix product through tiles in workgroup memory: the convolution, and (weights packed
// flipped, channels exchanged) its input gradient.
//
//   y[n, o, i, j] = residual_scale * residual[n, o, i, j] + scale * (bias[o] + shift[n, o]
//                            + sum over c, a, b of x[n, c, i + a - pad, j + b - pad] * w[c, KERNEL a + b, o])
//
// x [batch, in_channels, height, width], y and residual [batch, out_channels, height, width], bias [out_channels],
// shift [batch, out_channels]; w is packed by conv2d_pack.wgsl: [in_channels, KERNEL^2, w_quads vec4s of outputs]. A
// filter of 1x1 may be given the whole image as one row.
// Bindings: 0 uniforms, 1 x in vec4s, 2 x in scalars, 3 w, 4 bias, 5 shift, 6 residual, 7 y in vec4s; of 4 to 6 those
// are read whose bit is set in `terms` (1 bias, 2 shift, 4 residual).
// Rows of the product are output channels, columns the pixels of all samples, `quads` runs of four. A workgroup of
// DOWN x ACROSS threads computes a tile of 4 OUT_QUADS DOWN channels x 4 PIXEL_QUADS ACROSS pixels; a thread OUT_QUADS
// runs of four channels, DOWN runs apart, and PIXEL_QUADS runs of four pixels, ACROSS runs apart. Of 32 neighbouring
// threads 8 lie side by side, so that they read 4 + 8 different vec4s of the tiles.
// What is summed over is LINES pairs of input channel and filter row at a time. For each a thread loads four pixels of x
// and the two beside them, and stores them as every column of the filter sees them; its four pixels are always the same.
// LOADS_X and LOADS_W are the vec4s of x and w that a thread loads each time, rounded up.
// Dispatch: linear workgroups = tiles_out * ceil(quads / (PIXEL_QUADS ACROSS)), output channels fastest;
// tiles_out = ceil(out_channels / (4 OUT_QUADS DOWN)), w_quads = tiles_out OUT_QUADS DOWN.
// Numerics: f32, summed over input channels, then filter rows, then filter columns. Outside the image, past its channels
// and past the last sample the tiles hold zeros; arbitrary terms are read there, whose sums are never stored.

struct Shape {
  tiles_out: u32,
  quads: u32,
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
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
const LINES: u32 = 4u;
const LOADS_X: u32 = 1u;
const LOADS_W: u32 = 3u;
const GROUP: u32 = DOWN * ACROSS;
const OUT_RUNS: u32 = OUT_QUADS * DOWN;
const PIXEL_RUNS: u32 = PIXEL_QUADS * ACROSS;
const STEP: u32 = LINES * KERNEL;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x_quads: array<Quad>;
@group(0) @binding(2) var<storage, read> x: array<Scalar>;
@group(0) @binding(3) var<storage, read> w: array<Quad>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> shift: array<f32>;
@group(0) @binding(6) var<storage, read> residual: array<Quad>;
@group(0) @binding(7) var<storage, read_write> y: array<Quad>;

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
  let first_run = group / shape.tiles_out * PIXEL_RUNS;
  if (first_run >= shape.quads) {
    return;
  }
  let across = lane % 8u + lane / 32u % (ACROSS / 8u) * 8u;
  let down = lane / 8u % 4u + lane / (4u * ACROSS) % (DOWN / 4u) * 4u;
  let plane = shape.height * shape.width;

  // The four pixels that this thread loads.
  let run = lane % PIXEL_RUNS;
  let sample = (first_run + run) / (plane / 4u);
  let pixel = (first_run + run) % (plane / 4u) * 4u;
  let row = pixel / shape.width;
  let column = pixel % shape.width;
  let x_at = sample * shape.in_channels * plane + pixel - KERNEL / 2u * shape.width;
  let lines = select(0u, shape.in_channels * KERNEL, first_run + run < shape.quads);
  let w_end = shape.in_channels * (KERNEL * KERNEL);

  var acc = array<vec4<f32>, OUT_QUADS * PIXEL_QUADS * 4>();
  for (var line = 0u; line < shape.in_channels * KERNEL; line += LINES) {
    var middles = array<vec4<f32>, LOADS_X>();
    var sides = array<vec2<f32>, LOADS_X>();
    // @unroll
    for (var i = 0u; i < LOADS_X; i++) {
      let own = line + lane / PIXEL_RUNS + i * (GROUP / PIXEL_RUNS);
      // Rows above the image wrap around and are far outside.
      if (own < lines && row + own % KERNEL - KERNEL / 2u < shape.height) {
        let at = x_at + own / KERNEL * plane + own % KERNEL * shape.width;
        middles[i] = vec4<f32>(x_quads[at / 4u]);
        if (KERNEL > 1u && column > 0u) {
          sides[i].x = f32(x[at - 1u]);
        }
        if (KERNEL > 1u && column + 4u < shape.width) {
          sides[i].y = f32(x[at + 4u]);
        }
      }
    }
    var weights = array<vec4<f32>, LOADS_W>();
    // @unroll
    for (var i = 0u; i < LOADS_W; i++) {
      let own = lane + i * GROUP;
      let k = line * KERNEL + own / OUT_RUNS;
      if (own < STEP * OUT_RUNS && k < w_end) {
        weights[i] = vec4<f32>(w[k * shape.w_quads + tile_out * OUT_RUNS + own % OUT_RUNS]);
      }
    }
    workgroupBarrier(); // Every thread is done with the tiles of the lines before.
    // @unroll
    for (var i = 0u; i < LOADS_X; i++) {
      let own = lane / PIXEL_RUNS + i * (GROUP / PIXEL_RUNS);
      if (own < LINES) {
        let at = own * (KERNEL * PIXEL_RUNS) + run;
        x_tile[at + KERNEL / 2u * PIXEL_RUNS] = middles[i];
        if (KERNEL > 1u) {
          x_tile[at] = vec4<f32>(sides[i].x, middles[i].xyz);
          x_tile[at + (KERNEL - 1u) * PIXEL_RUNS] = vec4<f32>(middles[i].yzw, sides[i].y);
        }
      }
    }
    // @unroll
    for (var i = 0u; i < LOADS_W; i++) {
      let own = lane + i * GROUP;
      if (own < STEP * OUT_RUNS) {
        w_tile[own] = weights[i];
      }
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
  var at = array<u32, PIXEL_QUADS>();
  var shift_at = array<u32, PIXEL_QUADS>();
  // @unroll
  for (var q = 0u; q < PIXEL_QUADS; q++) {
    let quad = first_run + q * ACROSS + across;
    shift_at[q] = quad / (plane / 4u) * shape.out_channels;
    at[q] = shift_at[q] * (plane / 4u) + quad % (plane / 4u);
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
      for (var q = 0u; q < PIXEL_QUADS; q++) {
        acc[o * PIXEL_QUADS + q] += shift[shift_at[q] + out + o / 4u * (4u * DOWN) + o % 4u];
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
      for (var q = 0u; q < PIXEL_QUADS; q++) {
        acc[o * PIXEL_QUADS + q] += shape.residual_scale *
          vec4<f32>(residual[at[q] + (out + o / 4u * (4u * DOWN) + o % 4u) * (plane / 4u)]);
      }
    }
  }
  // @unroll
  for (var o = 0u; o < OUT_QUADS * 4; o++) {
    let channel = out + o / 4u * (4u * DOWN) + o % 4u;
    // @unroll
    for (var q = 0u; q < PIXEL_QUADS; q++) {
      if (first_run + q * ACROSS + across < shape.quads && channel < shape.out_channels) {
        y[at[q] + channel * (plane / 4u)] = Quad(acc[o * PIXEL_QUADS + q]);
      }
    }
  }
}
