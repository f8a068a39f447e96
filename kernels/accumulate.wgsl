// Adds a scaled vector to a running sum, or starts the sum with it.
//
//   sum = share part             where keep is 0, whatever sum held
//   sum = sum + share part       else
//
// Vectors are flat, of `count` elements of the type below.
//
// Bindings: 0 shape, 1 part (read), 2 keep [1] (read), 3 sum (read and written).
// Element type: vec4<f32> where the vectors' length is a multiple of four; else the descriptor writes f32 in its place.
// Dispatch: ceil(count / 64) workgroups, one thread per element, linear over x and y.
// Numerics: f32.

struct Shape {
  count: u32,
  share: f32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> part: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keep: array<f32>;
@group(0) @binding(3) var<storage, read_write> sum: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  var total = shape.share * part[t];
  // Not a product with keep: what the sum held may be a NaN.
  if (keep[0] != 0.0) { total += sum[t]; }
  sum[t] = total;
}
