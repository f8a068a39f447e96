// Concatenation of two tensors along an axis.
//
//   a [outer, a_block], b [outer, b_block]  ->  y [outer, a_block + b_block]    y[o] = a[o] followed by b[o]
//
// A block is the axis times everything inside it, counted in Elements.
//
// Bindings: 0 shape (count = outer * (a_block + b_block)), 1 a (read), 2 b (read), 3 y (written).
// Element: vec4<u32> where both blocks are multiples of 16 bytes; else the descriptor makes it u32, or f16.
// Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: bits are copied, whatever they mean.

alias Element = vec4<u32>;

struct Shape { a_block: u32, b_block: u32, count: u32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> a: array<Element>;
@group(0) @binding(2) var<storage, read> b: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let y_block = shape.a_block + shape.b_block;
  let o = t / y_block;
  let e = t - o * y_block;
  var value = Element();
  if (e < shape.a_block) {
    value = a[o * shape.a_block + e];
  } else {
    value = b[o * shape.b_block + e - shape.a_block];
  }
  y[t] = value;
}
