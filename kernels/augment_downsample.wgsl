// Every second of the samples of augment_warp.wgsl through the wavelet's low-pass filter, without the margin.
//
//   x [planes, 2 (height + 6), 2 (width + 6)]  ->  y [planes, height, width]
//
//   y[i, j] = sum_{k, l < 12} h[k] h[l] x[2 i + 1 + k, 2 j + 1 + l]
//
// Bindings: 0 shape, 1 x (read), 2 y (written). Dispatch: ceil(planes * height * width / 64) workgroups, one thread per
// element of y, linear over x and y. Numerics: f32.

struct Shape { width: u32, per_plane: u32, count: u32, samples_across: u32, samples: u32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  // sym6's scaling filter (Daubechies 1992).
  var h = array<f32, 12>(
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
  );
  let plane = t / shape.per_plane;
  let at = t - plane * shape.per_plane;
  let row = at / shape.width;
  let column = at - row * shape.width;
  var start = plane * shape.samples + (2u * row + 1u) * shape.samples_across + 2u * column + 1u;
  var total = 0.0;
  for (var k = 0u; k < 12u; k++) {
    var sum = 0.0;
    // @unroll
    for (var l = 0u; l < 12u; l++) { sum += h[l] * x[start + l]; }
    total += h[k] * sum;
    start += shape.samples_across;
  }
  y[t] = total;
}
