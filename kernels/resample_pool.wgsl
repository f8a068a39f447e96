// Sum over 2x2 blocks: the transpose of nearest-neighbour upsampling, and with factor 1/4 the average pooling.
//
//   x [planes, 2 height, 2 width]  ->  y [planes, height, width]    y[p, i, j] = factor * (sum of the 2x2 block of x)
//
// Row r of y (over all planes) comes from rows 2 r and 2 r + 1 of x, so planes and height only appear as their product,
// in `count`. x is read as pairs along its width.
//
// Bindings: 0 shape (y's width; count = planes * height * width; factor), 1 x (read), 2 y (written).
// Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: f32; rows are added first, then the pair.

// as stored
alias Scalar = f32;
alias Pair = vec2<f32>;

struct Shape { width: u32, count: u32, factor: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Pair>;
@group(0) @binding(2) var<storage, read_write> y: array<Scalar>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let at = t + (t / shape.width) * shape.width;
  let pair = vec2<f32>(x[at]) + vec2<f32>(x[at + shape.width]);
  y[t] = Scalar(shape.factor * (pair.x + pair.y));
}
