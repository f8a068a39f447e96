// Reduction with one workgroup per output (and per split of what is reduced): for long reductions.
//
//   x [k0, r0, k1, r1]  ->  y [splits, k0, k1]    y = op over r0 and r1 of x; op: sum, sum of squares, max, min
//
// The reduced pairs (i, j) of [r0, r1] are numbered e = i * r1 + j; split s takes e in [s * chunk, (s + 1) * chunk).
// Several splits leave partial results, which a second dispatch reduces.
//
// Bindings: 0 shape, 1 x (read), 2 y (written). Constants: OP (0 sum, 1 sum of squares, 2 max, 3 min).
// Dispatch: splits * k0 * k1 workgroups, linear over x and y; output index fastest.
// Numerics: f32; every thread adds every 64th element, then 64 partial sums are added in a fixed order: deterministic.
// A NaN reaches sums; max and min leave it open, as WGSL does.

alias Stored = f32; // of x

struct Shape { r0: u32, k1: u32, r1: u32, outputs: u32, splits: u32, chunk: u32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const OP: u32 = 0u;

var<workgroup> partials: array<f32, 64>;

fn combine(a: f32, b: f32) -> f32 {
  if (OP == 2u) { return max(a, b); }
  if (OP == 3u) { return min(a, b); }
  return a + b;
}

fn accumulate(total: f32, value: f32) -> f32 {
  if (OP == 1u) { return fma(value, value, total); }
  return combine(total, value);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = wid.x + wid.y * num.x;
  if (group >= shape.outputs * shape.splits) { return; }
  let output = group % shape.outputs;
  let begin = (group / shape.outputs) * shape.chunk;
  let end = min(begin + shape.chunk, shape.r0 * shape.r1);

  let origin = (output / shape.k1) * shape.r0 * shape.k1 * shape.r1 + (output % shape.k1) * shape.r1;
  let row = shape.k1 * shape.r1;
  // Stepping (i, j) by 64 elements without a division in the loop.
  let step_i = 64u / shape.r1;
  let step_j = 64u % shape.r1;
  var i = (begin + thread) / shape.r1;
  var j = (begin + thread) % shape.r1;
  // Max and min start from an element of their own range: WGSL has no infinity to start from.
  var total = 0.0;
  if (OP >= 2u) { total = f32(x[origin + (begin / shape.r1) * row + begin % shape.r1]); }
  for (var e = begin + thread; e < end; e += 64u) {
    total = accumulate(total, f32(x[origin + i * row + j]));
    i += step_i;
    j += step_j;
    if (j >= shape.r1) {
      j -= shape.r1;
      i += 1u;
    }
  }

  // Two levels of eight: fewer barriers than a tree of six.
  partials[thread] = total;
  workgroupBarrier();
  if (thread < 8u) {
    for (var k = 1u; k < 8u; k++) { total = combine(total, partials[thread + 8u * k]); }
  }
  workgroupBarrier();
  if (thread < 8u) { partials[thread] = total; }
  workgroupBarrier();
  if (thread == 0u) {
    for (var k = 1u; k < 8u; k++) { total = combine(total, partials[k]); }
    y[group] = total;
  }
}
