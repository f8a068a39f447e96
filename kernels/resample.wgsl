// Nearest-neighbour upsampling by two.
//
//   x [planes, height, width]  ->  y [planes, 2 height, 2 width]    y[p, i, j] = factor * x[p, i / 2, j / 2]
//
// Row r of x (over all planes) becomes rows 2 r and 2 r + 1 of y, so planes and height only appear as their product,
// in `count`. y is written as pairs along its width.
//
// Bindings: 0 shape (x's width; count = planes * height * width; factor), 1 x (read), 2 y (written).
// Dispatch: ceil(count / 64) workgroups, one thread per element of x, linear over x and y.
// Numerics: f32, one multiplication.

// as stored
alias Scalar = f32;
alias Pair = vec2<f32>;

struct Shape { width: u32, count: u32, factor: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Scalar>;
@group(0) @binding(2) var<storage, read_write> y: array<Pair>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let at = t + (t / shape.width) * shape.width;
  let value = Pair(vec2<f32>(shape.factor * f32(x[t])));
  y[at] = value;
  y[at + shape.width] = value;
}
