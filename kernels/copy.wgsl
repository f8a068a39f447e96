// A window of every block: slicing and zero padding along an axis.
//
//   x [outer, x_block]  ->  y [outer, y_block]   y[o, e] = x[o, e + offset] where e + offset is in [0, x_block), else 0
//
// A block is the axis times everything inside it, counted in Elements. Slicing has offset =
// start * inner, padding offset = -before * inner (as a u32, which wraps round to the right place).
//
// Bindings: 0 shape (count = outer * y_block), 1 x (read), 2 y (written).
// Element: vec4<u32> where every length and offset is a multiple of 16 bytes; else the descriptor makes it u32, or f16.
// Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: bits are copied, whatever they mean.

alias Element = vec4<u32>;

struct Shape { x_block: u32, y_block: u32, offset: u32, count: u32 }

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
  let o = t / shape.y_block;
  let e = t - o * shape.y_block + shape.offset;
  var value = Element();
  if (e < shape.x_block) { value = x[o * shape.x_block + e]; }
  y[t] = value;
}
