// Two neighbouring axes change places.
//
//   x [outer, a, b, inner]  ->  y [outer, b, a, inner]    y[o, j, i] = x[o, i, j]
//
// `inner` is counted in Elements.
//
// Bindings: 0 shape (count = outer * a * b * inner), 1 x (read), 2 y (written).
// Element: vec4<u32> where inner is a multiple of 16 bytes; else the descriptor makes it u32, or f16.
// Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: bits are copied, whatever they mean.

alias Element = vec4<u32>;

struct Shape { a: u32, b: u32, inner: u32, count: u32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let row = t / shape.inner;
  let e = t - row * shape.inner;
  let block = row / shape.a;
  let i = row - block * shape.a;
  let o = block / shape.b;
  let j = block - o * shape.b;
  y[t] = x[((o * shape.a + i) * shape.b + j) * shape.inner + e];
}
