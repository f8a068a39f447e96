// Correlation of stride 1 with a KERNEL x KERNEL filter (3 or 1) and padding (KERNEL - 1) / 2, for rows that are whole
// vec4s: the convolution, and (weights flipped, channels exchanged) its input gradient.
//
//   y[n, o, i, j] = bias[o] + sum over c, a, b of x[n, c, i + a - pad, j + b - pad] * W[o, c, a, b]
//   W[o, c, a, b] = w[o * w_out + c * w_in + tap], tap = KERNEL a + b, or KERNEL^2 - 1 - (KERNEL a + b) if w_flip is 1
//
// x [batch, in_channels, height, width], y [batch, out_channels, height, width], bias [out_channels]; width is a
// multiple of 4 (a filter of 1x1 may be given the whole image as one row).
// Bindings: 0 uniforms, 1 x in vec4s, 2 x in scalars, 3 w, 4 bias (read only where has_bias is 1), 5 y in vec4s.
// A strip is four neighbouring pixels of a row. A thread computes CHANNELS output channels of STRIPS strips, a
// workgroup's width apart, so that neighbouring threads read neighbouring memory; all taps of a filter row share one
// vec4 load and two scalar ones.
// Dispatch: linear workgroups = ceil(out_channels / CHANNELS) * blocks, blocks = ceil(strips / (STRIPS * 32)).
// Numerics: f32, summed over filter rows, then channels, then filter columns. Past the edges arbitrary values are
// read; they are masked, or their sums never stored.

struct Shape {
  blocks: u32,
  strips: u32,
  strips_per_row: u32,
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
  w_out: u32,
  w_in: u32,
  w_flip: u32,
  has_bias: u32,
}

const KERNEL: u32 = 3u;
const CHANNELS: u32 = 8u;
const STRIPS: u32 = 4u;
const GROUP: u32 = 32u;
const OUTSIDE: u32 = 0x40000000u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x_quads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  let first_out = group / shape.blocks * CHANNELS;
  let first_strip = group % shape.blocks * (STRIPS * GROUP) + lane;
  let plane = shape.height * shape.width;
  let last_tap = KERNEL * KERNEL - 1u;
  let flip = shape.w_flip == 1u;
  let w_step = select(1u, 0xffffffffu, flip);

  var acc = array<vec4<f32>, CHANNELS * STRIPS>();
  var sample = array<u32, STRIPS>();
  var row = array<u32, STRIPS>();
  var column = array<u32, STRIPS>();
  // @unroll
  for (var s = 0u; s < STRIPS; s++) {
    let strip = first_strip + s * GROUP;
    let line = strip / shape.strips_per_row;
    sample[s] = line / shape.height;
    row[s] = select(OUTSIDE, line % shape.height, strip < shape.strips);
    column[s] = strip % shape.strips_per_row * 4u;
  }

  for (var a = 0u; a < KERNEL; a++) {
    var w_at = first_out * shape.w_out + select(KERNEL * a, last_tap - KERNEL * a, flip);
    var x_at = array<u32, STRIPS>();
    var inside = array<bool, STRIPS>();
    // @unroll
    for (var s = 0u; s < STRIPS; s++) {
      let line = row[s] + a - KERNEL / 2u;
      inside[s] = line < shape.height;
      x_at[s] = (sample[s] * shape.in_channels * shape.height + line) * shape.width + column[s];
    }
    for (var c = 0u; c < shape.in_channels; c++) {
      var weights = array<f32, CHANNELS * KERNEL>();
      // @unroll
      for (var o = 0u; o < CHANNELS; o++) {
        // @unroll
        for (var b = 0u; b < KERNEL; b++) {
          weights[o * KERNEL + b] = w[w_at + o * shape.w_out + b * w_step];
        }
      }
      // @unroll
      for (var s = 0u; s < STRIPS; s++) {
        let middle = select(vec4<f32>(), x_quads[x_at[s] / 4u], inside[s]);
        // The strip as the filter's left, middle and right column see it.
        var seen = array<vec4<f32>, 3>(middle, middle, middle);
        if (KERNEL > 1u) {
          let before = select(0.0, x[x_at[s] - 1u], inside[s] && column[s] > 0u);
          let after = select(0.0, x[x_at[s] + 4u], inside[s] && column[s] + 4u < shape.width);
          seen[0] = vec4<f32>(before, middle.xyz);
          seen[2] = vec4<f32>(middle.yzw, after);
        }
        // @unroll
        for (var o = 0u; o < CHANNELS; o++) {
          // @unroll
          for (var b = 0u; b < KERNEL; b++) {
            acc[o * STRIPS + s] = fma(
              vec4<f32>(weights[o * KERNEL + b]),
              seen[b + 1u - KERNEL / 2u],
              acc[o * STRIPS + s],
            );
          }
        }
        x_at[s] += plane;
      }
      w_at += shape.w_in;
    }
  }

  // @unroll
  for (var o = 0u; o < CHANNELS; o++) {
    if (first_out + o < shape.out_channels) {
      var offset = 0.0;
      if (shape.has_bias == 1u) {
        offset = bias[first_out + o];
      }
      // @unroll
      for (var s = 0u; s < STRIPS; s++) {
        if (row[s] < shape.height) {
          let at = ((sample[s] * shape.out_channels + first_out + o) * shape.height + row[s]) * shape.width + column[s];
          y[at / 4u] = acc[o * STRIPS + s] + offset;
        }
      }
    }
  }
}
