// Halving with a filter of four taps a direction: each output is the filtered 4x4 block around its 2x2 block.
//
//   x [planes, 2 height + grow, 2 width + grow]  ->  y [planes, height, width]
//   y[p, i, j] = sum over s, t in [0, 4) of taps[s] * taps[t] * x[p, 2 i + s - margin, 2 j + t - margin]
//
// x is zero outside; grow = 2 - 2 margin, so that with a margin of 0 no tap falls there.
//
// Bindings: 0 shape (y's height and width; count = planes * height * width), 1 x (read), 2 y (written).
// Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: f32; each row is summed first, then the rows.

// as stored
alias Scalar = f32;

struct Shape { height: u32, width: u32, count: u32, margin: u32, taps: vec4<f32> }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Scalar>;
@group(0) @binding(2) var<storage, read_write> y: array<Scalar>;

// Of row `i` of a plane, counted from above the margin, the filtered four at `j`; 0 outside the plane.
fn row(start: u32, i: u32, j: u32, rows: u32, columns: u32) -> f32 {
  // Above the margin, the subtraction wraps around to a large number.
  if (i - shape.margin >= rows) { return 0.0; }
  let at = start + (i - shape.margin) * columns - shape.margin + j;
  let places = vec4<u32>(j, j + 1u, j + 2u, j + 3u) - vec4<u32>(shape.margin);
  let inside = (places < vec4<u32>(columns));
  var values = vec4<f32>();
  if (inside.x) { values.x = f32(x[at]); }
  if (inside.y) { values.y = f32(x[at + 1u]); }
  if (inside.z) { values.z = f32(x[at + 2u]); }
  if (inside.w) { values.w = f32(x[at + 3u]); }
  return dot(shape.taps, values);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let line = t / shape.width;
  let j = 2u * (t - line * shape.width);
  let plane = line / shape.height;
  let i = 2u * (line - plane * shape.height);
  let grow = 2u - 2u * shape.margin;
  let rows = 2u * shape.height + grow;
  let columns = 2u * shape.width + grow;
  let start = plane * rows * columns;
  let sums = vec4<f32>(
    row(start, i, j, rows, columns),
    row(start, i + 1u, j, rows, columns),
    row(start, i + 2u, j, rows, columns),
    row(start, i + 3u, j, rows, columns),
  );
  y[t] = Scalar(dot(shape.taps, sums));
}
