// Samples of affinely transformed images at twice their resolution, with a margin of six: augment.wgsl's transforms.
//
//   x [batch, channels, height, width], transforms [batch, 8]  ->  y [batch, channels, 2 (height + 6), 2 (width + 6)]
//
// What EDM's augmentation does in stages: x, flipped where the transform says so, is continued by reflection over all but
// its own edge pixel on every side, upsampled twice by the orthogonal wavelet sym6, and sampled bilinearly; zero beyond.
// Here a sample is the sum over the seven by seven pixels of x that it depends on: two neighbouring upsampled
// values take six taps each, of alternating phases.
//
// Bindings: 0 shape, 1 x, 2 transforms (read), 3 y (written).
// Dispatch: ceil(batch * 4 (height + 6) (width + 6) / 64) workgroups, one thread per sample of all channels.
// Numerics: f32.

struct Shape { batch: u32, channels: u32, height: i32, width: i32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> transforms: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

// The seven weights of an axis and the index of the first pixel that they belong to, in the continued image.
struct Taps {
  first: i32,
  weights: array<f32, 7>,
}

// Where `position` counts upsampled values of an axis of `extent` pixels, continued to 3 extent - 2.
fn taps(position: f32, extent: i32) -> Taps {
  // Far outside everything is zero.
  let bounded = clamp(position, -8.0, f32(6 * extent + 8));
  let left = i32(floor(bounded));
  let upsampled = 2 * (3 * extent - 2);
  let fraction = bounded - floor(bounded);
  let a = select(0.0, 1.0 - fraction, left >= 0 && left < upsampled);
  let b = select(0.0, fraction, left + 1 >= 0 && left + 1 < upsampled);
  let odd = (left & 1) == 1;
  // The value at an even index has the filter's odd taps, from three pixels before.
  let even_phase = select(a, b, odd);
  let odd_phase = select(b, a, odd);
  var result: Taps;
  result.first = ((left + (left & 1)) >> 1u) - 3;
  let e = array<f32, 6>(-0.007800708325034148, 0.04472490177066578, -0.07263752278646252, 0.787641141030194, -0.048311742585633, 0.0034907120842174702);
  let o = array<f32, 6>(0.0017677118642428036, -0.021060292512300564, 0.3379294217276218, 0.4910559419267466, -0.11799011114819057, 0.015404109327027373);
  result.weights[0] = even_phase * e[0] + select(0.0, odd_phase, odd) * o[0];
  // @unroll
  for (var k = 1u; k < 6u; k++) {
    result.weights[k] = even_phase * e[k] + odd_phase * select(o[k - 1u], o[k], odd);
  }
  result.weights[6] = select(odd_phase, 0.0, odd) * o[5];
  // @unroll
  for (var k = 0u; k < 7u; k++) {
    let index = result.first + i32(k);
    result.weights[k] = select(0.0, result.weights[k], index >= 0 && index < 3 * extent - 2);
  }
  return result;
}

// Index in an axis of `extent` pixels of the continued image's pixel `index`, which is clamped to it.
fn reflected(index: i32, extent: i32, flip: bool) -> i32 {
  let last = extent - 1;
  let distance = abs(clamp(index, 0, 3 * last) - last);
  let inside = select(distance, 2 * last - distance, distance > last);
  return select(inside, last - inside, flip);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  let across = u32(2 * (shape.width + 6));
  let samples = u32(2 * (shape.height + 6)) * across;
  let n = t / samples;
  if (n >= shape.batch) { return; }
  let at = t - n * samples;
  let row = i32(at / across) + 1 - (shape.height + 6);
  let column = i32(at % across) + 1 - (shape.width + 6);
  let m = 8u * n;
  let source_x = transforms[m] * f32(column) + transforms[m + 1u] * f32(row) + transforms[m + 2u];
  let source_y = transforms[m + 3u] * f32(column) + transforms[m + 4u] * f32(row) + transforms[m + 5u];
  let horizontal = taps(source_x + f32(3 * shape.width - 3), shape.width);
  let vertical = taps(source_y + f32(3 * shape.height - 3), shape.height);
  let flip_x = transforms[m + 6u] != 0.0;
  let flip_y = transforms[m + 7u] != 0.0;
  let pixels = u32(shape.height * shape.width);
  for (var c = 0u; c < shape.channels; c++) {
    let plane = (n * shape.channels + c) * pixels;
    var total = 0.0;
    // @unroll
    for (var i = 0u; i < 7u; i++) {
      let start = plane + u32(reflected(vertical.first + i32(i), shape.height, flip_y) * shape.width);
      var sum = 0.0;
      // @unroll
      for (var j = 0u; j < 7u; j++) {
        sum += horizontal.weights[j] * x[start + u32(reflected(horizontal.first + i32(j), shape.width, flip_x))];
      }
      total += vertical.weights[i] * sum;
    }
    y[(n * shape.channels + c) * samples + at] = total;
  }
}
