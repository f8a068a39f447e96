// Correlation with a square filter of any size, stride and dilation of the input: the convolution, and (weights
// flipped, channels exchanged, dilation = stride) its input gradient.
//
//   y[n, o, i, j] = residual_scale * residual[n, o, i, j] + scale * (bias[o] + shift[n, o]
//                            + sum over c, a, b of X[n, c, i * stride + a - pad, j * stride + b - pad] * W[o, c, a, b])
//   X[n, c, t, u] = x[n, c, t / dilation, u / dilation] where both divide and lie inside, else 0;  pad = kernel / 2
//   W[o, c, a, b] = w[o * w_out + c * w_in + tap], tap = kernel a + b, or kernel^2 - 1 - (kernel a + b) if w_flip is 1
//
// x [batch, in_channels, in_height, in_width], y and residual [batch, out_channels, height, width], bias [out_channels],
// shift [batch, out_channels].
// Bindings: 0 uniforms, 1 x, 2 w, 3 bias, 4 shift, 5 residual, 6 y; of 3 to 5 those are read whose bit is set in `terms`
// (1 bias, 2 shift, 4 residual).
// A thread computes CHANNELS output channels of PIXELS pixels, which are a workgroup's width apart in a flat order:
// phase row and column (coordinate modulo dilation), sample, row, column. Pixels of one phase use the same taps, so
// that the taps which fall between the input's pixels are skipped.
// Dispatch: linear workgroups = ceil(out_channels / CHANNELS) * blocks, blocks = ceil(pixels / (PIXELS * 32)),
// pixels = batch * dilation^2 * phase_height * phase_width, phase_height = ceil(height / dilation).
// Numerics: f32, summed over taps, then channels. Past the edges arbitrary values are read; they are masked, or their
// sums never stored.

struct Shape {
  blocks: u32,
  pixels: u32,
  batch: u32,
  in_channels: u32,
  out_channels: u32,
  in_height: u32,
  in_width: u32,
  height: u32,
  width: u32,
  phase_height: u32,
  phase_width: u32,
  kernel: u32,
  stride: u32,
  dilation: u32,
  w_out: u32,
  w_in: u32,
  w_flip: u32,
  terms: u32,
  scale: f32,
  residual_scale: f32,
}

alias Scalar = f32; // of x, residual and y as stored
const CHANNELS: u32 = 8u;
const PIXELS: u32 = 8u;
const GROUP: u32 = 32u;
const OUTSIDE: u32 = 0x40000000u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Scalar>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> shift: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<Scalar>;
@group(0) @binding(6) var<storage, read_write> y: array<Scalar>;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  let first_out = group / shape.blocks * CHANNELS;
  let first_pixel = group % shape.blocks * (PIXELS * GROUP) + lane;
  let plane = shape.in_height * shape.in_width;
  let pad = shape.kernel / 2u;
  let taps = shape.kernel * shape.kernel;

  var acc = array<f32, CHANNELS * PIXELS>();
  var sample = array<u32, PIXELS>();
  var row = array<u32, PIXELS>();
  var column = array<u32, PIXELS>();
  // @unroll
  for (var p = 0u; p < PIXELS; p++) {
    let pixel = first_pixel + p * GROUP;
    let line = pixel / shape.phase_width;
    let image = line / shape.phase_height;
    let phase = image / shape.batch;
    sample[p] = image % shape.batch;
    row[p] = line % shape.phase_height * shape.dilation + phase / shape.dilation;
    column[p] = pixel % shape.phase_width * shape.dilation + phase % shape.dilation;
    if (pixel >= shape.pixels || column[p] >= shape.width) {
      row[p] = OUTSIDE;
    }
  }

  for (var tap = 0u; tap < taps; tap++) {
    var x_at = array<u32, PIXELS>();
    var inside = array<bool, PIXELS>();
    var any_inside = false;
    // @unroll
    for (var p = 0u; p < PIXELS; p++) {
      // Coordinates above the image or left of it wrap around and are far outside.
      let t = row[p] * shape.stride + tap / shape.kernel - pad;
      let u = column[p] * shape.stride + tap % shape.kernel - pad;
      let i = t / shape.dilation;
      let j = u / shape.dilation;
      inside[p] = i < shape.in_height && j < shape.in_width && i * shape.dilation == t && j * shape.dilation == u;
      any_inside = any_inside || inside[p];
      x_at[p] = sample[p] * shape.in_channels * plane + i * shape.in_width + j;
    }
    if (any_inside) {
      var w_at = first_out * shape.w_out + select(tap, taps - 1u - tap, shape.w_flip == 1u);
      for (var c = 0u; c < shape.in_channels; c++) {
        var weights = array<f32, CHANNELS>();
        // @unroll
        for (var o = 0u; o < CHANNELS; o++) {
          weights[o] = w[w_at + o * shape.w_out];
        }
        // @unroll
        for (var p = 0u; p < PIXELS; p++) {
          let value = select(0.0, f32(x[x_at[p]]), inside[p]);
          // @unroll
          for (var o = 0u; o < CHANNELS; o++) {
            acc[o * PIXELS + p] = fma(weights[o], value, acc[o * PIXELS + p]);
          }
          x_at[p] += plane;
        }
        w_at += shape.w_in;
      }
    }
  }

  // @unroll
  for (var o = 0u; o < CHANNELS; o++) {
    if (first_out + o < shape.out_channels) {
      var offset = 0.0;
      if ((shape.terms & 1u) != 0u) {
        offset = bias[first_out + o];
      }
      // @unroll
      for (var p = 0u; p < PIXELS; p++) {
        if (row[p] < shape.height) {
          let channel = sample[p] * shape.out_channels + first_out + o;
          let at = (channel * shape.height + row[p]) * shape.width + column[p];
          var value = acc[o * PIXELS + p] + offset;
          if ((shape.terms & 2u) != 0u) {
            value += shift[channel];
          }
          value *= shape.scale;
          if ((shape.terms & 4u) != 0u) {
            value = fma(shape.residual_scale, f32(residual[at]), value);
          }
          y[at] = Scalar(value);
        }
      }
    }
  }
}
