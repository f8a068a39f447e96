// Floats to bytes.
//
//   byte[t] = clamp(round(scale * x[t] + shift), 0, 255), ties to even; four a word, the first in the lowest bits
//
// Bindings: 0 shape (count = elements of x), 1 x (read), 2 y (written, ceil(count / 4) words; bytes past count are 0).
// Dispatch: ceil(count / 256) workgroups, one thread per word of y, linear over x and y.
// Numerics: f32, one multiply-add. What a NaN becomes is left open.

struct Shape { count: u32, scale: f32, shift: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  let begin = 4u * t;
  if (begin >= shape.count) { return; }
  let end = min(begin + 4u, shape.count);
  var word = 0u;
  for (var at = begin; at < end; at++) {
    let byte = u32(clamp(round(fma(x[at], shape.scale, shape.shift)), 0.0, 255.0));
    word |= byte << (8u * (at - begin));
  }
  y[t] = word;
}
