// Weight and bias gradient of a convolution of any stride: one part of the sums over pixels for every split.
//
//   part[k, o, c, a, b] = scale * sum over n, i, j of dy[n, o, i, j] * x[n, c, i * stride + a - pad, j * stride + b - pad]
//   bias_part[k, o] = scale * sum over n, i, j of dy[n, o, i, j]
//
// where (n, i) are split k's rows_per_split of the `rows` = batch * height rows of dy.
// dy [batch, out_channels, height, width], x [batch, in_channels, in_height, in_width] (zero outside, pad = kernel/2),
// part [splits, out_channels, in_channels, kernel, kernel], bias_part [splits, out_channels].
// Bindings: 0 uniforms, 1 dy, 2 x, 3 part, 4 bias_part.
// The filter entries (c, a, b) are one flat axis of `entries`. A thread holds CHANNELS output channels of ENTRIES
// entries, which are `tiles` = ceil(entries / ENTRIES) apart, so that neighbouring threads hold neighbouring entries.
// Dispatch: linear workgroups = splits * blocks, blocks = ceil(tiles * ceil(out_channels / CHANNELS) / GROUP).
// Numerics: f32, summed in the order of the pixels. Past the edges arbitrary values are read; they are masked, or
// their sums never stored.

struct Shape {
  splits: u32,
  blocks: u32,
  tiles: u32,
  entries: u32,
  rows: u32,
  rows_per_split: u32,
  in_channels: u32,
  out_channels: u32,
  in_height: u32,
  in_width: u32,
  height: u32,
  width: u32,
  kernel: u32,
  stride: u32,
  scale: f32,
}

alias Scalar = f32; // of dy and x as stored
const CHANNELS: u32 = 8u;
const ENTRIES: u32 = 8u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> dy: array<Scalar>;
@group(0) @binding(2) var<storage, read> x: array<Scalar>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>;
@group(0) @binding(4) var<storage, read_write> bias_part: array<f32>;

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
  let thread = group % shape.blocks * GROUP + lane;
  let first_out = thread / shape.tiles * CHANNELS;
  let first_entry = thread % shape.tiles;
  let dy_plane = shape.height * shape.width;
  let x_plane = shape.in_height * shape.in_width;
  let pad = shape.kernel / 2u;
  let taps = shape.kernel * shape.kernel;

  var acc = array<f32, CHANNELS * ENTRIES>();
  var bias = array<f32, CHANNELS>();
  var plane_at = array<u32, ENTRIES>();
  var down = array<u32, ENTRIES>();
  var across = array<u32, ENTRIES>();
  // @unroll
  for (var e = 0u; e < ENTRIES; e++) {
    let entry = first_entry + e * shape.tiles;
    // Offsets above the image or left of it wrap around and are far outside.
    down[e] = entry % taps / shape.kernel - pad;
    across[e] = entry % shape.kernel - pad;
    plane_at[e] = entry / taps * x_plane;
  }

  let end = min(shape.rows, (split + 1u) * shape.rows_per_split);
  for (var line = split * shape.rows_per_split; line < end; line++) {
    let n = line / shape.height;
    let i = line % shape.height;
    var dy_at = (n * shape.out_channels + first_out) * dy_plane + i * shape.width;
    var x_line = array<u32, ENTRIES>();
    var inside = array<bool, ENTRIES>();
    // @unroll
    for (var e = 0u; e < ENTRIES; e++) {
      let t = i * shape.stride + down[e];
      inside[e] = t < shape.in_height;
      x_line[e] = n * shape.in_channels * x_plane + plane_at[e] + t * shape.in_width;
    }
    for (var j = 0u; j < shape.width; j++) {
      var gradients = array<f32, CHANNELS>();
      // @unroll
      for (var o = 0u; o < CHANNELS; o++) {
        gradients[o] = f32(dy[dy_at + o * dy_plane]);
        bias[o] += gradients[o];
      }
      // @unroll
      for (var e = 0u; e < ENTRIES; e++) {
        let u = j * shape.stride + across[e];
        let value = select(0.0, f32(x[x_line[e] + u]), inside[e] && u < shape.in_width);
        // @unroll
        for (var o = 0u; o < CHANNELS; o++) {
          acc[o * ENTRIES + e] = fma(gradients[o], value, acc[o * ENTRIES + e]);
        }
      }
      dy_at++;
    }
  }

  // @unroll
  for (var o = 0u; o < CHANNELS; o++) {
    // @unroll
    for (var e = 0u; e < ENTRIES; e++) {
      let entry = first_entry + e * shape.tiles;
      if (first_out + o < shape.out_channels && entry < shape.entries) {
        let at = (split * shape.out_channels + first_out + o) * shape.entries + entry;
        part[at] = shape.scale * acc[o * ENTRIES + e];
      }
    }
    if (first_out + o < shape.out_channels && first_entry == 0u) {
      bias_part[split * shape.out_channels + first_out + o] = shape.scale * bias[o];
    }
  }
}
