// Reduction with one thread per output (and per split of r0): for short reductions and for outputs side by side.
//
//   x [k0, r0, k1, r1]  ->  y [splits, k0, k1]    y = op over r0 and r1 of x; op: sum, sum of squares, max, min
//
// Split s takes rows [s * chunk, (s + 1) * chunk) of r0; several splits leave partial results for a second dispatch.
//
// Bindings: 0 shape, 1 x (read), 2 y (written). Constants: OP (0 sum, 1 sum of squares, 2 max, 3 min).
// Dispatch: splits * ceil(k0 * k1 / 64) workgroups of 64 outputs, linear over x and y; outputs fastest.
// Numerics: f32, added in order of position: deterministic. A NaN reaches sums; max and min leave it open, as WGSL
// does.

alias Stored = f32; // of x

struct Shape { r0: u32, k1: u32, r1: u32, outputs: u32, splits: u32, chunk: u32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const OP: u32 = 0u;

fn accumulate(total: f32, value: f32) -> f32 {
  if (OP == 1u) { return fma(value, value, total); }
  if (OP == 2u) { return max(total, value); }
  if (OP == 3u) { return min(total, value); }
  return total + value;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let blocks = (shape.outputs + 63u) / 64u;
  let group = wid.x + wid.y * num.x;
  let output = (group % blocks) * 64u + thread;
  let split = group / blocks;
  if (split >= shape.splits || output >= shape.outputs) { return; }
  let begin = split * shape.chunk;
  let end = min(begin + shape.chunk, shape.r0);

  let row = shape.k1 * shape.r1;
  var at = ((output / shape.k1) * shape.r0 + begin) * row + (output % shape.k1) * shape.r1;
  // Max and min start from an element of their own range: WGSL has no infinity to start from.
  var total = 0.0;
  if (OP >= 2u) { total = f32(x[at]); }
  for (var i = begin; i < end; i++) {
    for (var j = 0u; j < shape.r1; j++) { total = accumulate(total, f32(x[at + j])); }
    at += row;
  }
  y[split * shape.outputs + output] = total;
}
