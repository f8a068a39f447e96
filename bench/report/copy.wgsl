// The adapter's memory ceiling: y = x, vec4 by vec4.
//
// Bindings: 0 shape: vectors; 1 x (read), 2 y (written).
// Dispatch: ceil(vectors / (64 * EACH)) workgroups, linear over x and y; a thread copies EACH vectors, 64 apart.
// Bytes: 32 a vector.

const EACH: u32 = 1u;

struct Shape {
  vectors: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let start = (wid.x + wid.y * num.x) * 64u * EACH + thread;
  // @unroll
  for (var i = 0; i < EACH; i++) {
    let t = start + 64u * i;
    if (t < shape.vectors) {
      y[t] = x[t];
    }
  }
}
