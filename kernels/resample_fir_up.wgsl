// Doubling with a filter of four taps a direction: the transpose of resample_fir_down.wgsl.
//
//   x [planes, height, width]  ->  y [planes, 2 height + grow, 2 width + grow]
//   y[p, i, j] = sum of taps[s] * taps[t] * x[p, (i + margin - s) / 2, (j + margin - t) / 2] over s, t in [0, 4) for
//   which both quotients are whole and inside x: two of them in each direction
//
// grow = 2 - 2 margin.
//
// Bindings: 0 shape (x's height and width; count = planes * the size of a plane of y), 1 x (read), 2 y (written).
// Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: f32; each row is summed first, then the rows.

// as stored
alias Scalar = f32;

struct Shape { height: u32, width: u32, count: u32, margin: u32, taps: vec4<f32> }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Scalar>;
@group(0) @binding(2) var<storage, read_write> y: array<Scalar>;

// The taps that meet an even or an odd place, the nearer input's last.
fn taps(place: u32) -> vec2<f32> {
  return select(shape.taps.zx, shape.taps.wy, (place & 1u) == 1u);
}

// Columns `j` and `j` - 1 of a row of x, filtered; 0 outside x.
fn row(start: u32, i: u32, j: u32, weights: vec2<f32>) -> f32 {
  // Left of x and above it, the subtraction wraps around to a large number.
  if (i >= shape.height) { return 0.0; }
  let at = start + i * shape.width + j;
  var values = vec2<f32>();
  if (j - 1u < shape.width) { values.x = f32(x[at - 1u]); }
  if (j < shape.width) { values.y = f32(x[at]); }
  return dot(weights, values);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let grow = 2u - 2u * shape.margin;
  let rows = 2u * shape.height + grow;
  let columns = 2u * shape.width + grow;
  let line = t / columns;
  let plane = line / rows;
  let i = line - plane * rows + shape.margin;
  let j = t - line * columns + shape.margin;
  let start = plane * shape.height * shape.width;
  let across = taps(j);
  let sums = vec2<f32>(
    row(start, i / 2u - 1u, j / 2u, across),
    row(start, i / 2u, j / 2u, across),
  );
  y[t] = Scalar(dot(taps(i), sums));
}
