// Gradient at the generator's output: the weighted difference of the two denoisers.
//
//   g[n, e] = scale * weights[n] * (fake[n, e] - teacher[n, e]) / (mean_e |x[n, e] - teacher[n, e]| + epsilon)
//
// x, fake, teacher, g are [batch, size]; without NORMALISER the divisor is 1.
//
// Bindings: 0 shape, 1 weights [batch] (read), 2 x, 3 fake, 4 teacher (read), 5 g (written). Constants: NORMALISER, VECTOR.
// Dispatch: batch workgroups of 64 threads, linear over x and y.
// Numerics: f32; the mean adds every 64th Element per thread, then 64 partial sums in a fixed order: deterministic.

alias Element = vec4<f32>; // the descriptor makes it f32, and VECTOR 1, where size is no multiple of 4

struct Shape { batch: u32, size: u32 /* in Elements */, epsilon: f32, scale: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<Element>;
@group(0) @binding(3) var<storage, read> fake: array<Element>;
@group(0) @binding(4) var<storage, read> teacher: array<Element>;
@group(0) @binding(5) var<storage, read_write> g: array<Element>;

const NORMALISER: bool = true;
const VECTOR: u32 = 4u;

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let n = wid.x + wid.y * num.x;
  if (n >= shape.batch) { return; }
  let begin = n * shape.size;
  let end = begin + shape.size;
  var factor = shape.scale * weights[n];
  if (NORMALISER) {
    var distances = Element(0.0);
    for (var e = begin + thread; e < end; e += 64u) { distances += abs(x[e] - teacher[e]); }
    // The sum of four components, or one component taken four times by a quarter.
    var distance = dot(vec4<f32>(distances), vec4<f32>(0.25 * f32(VECTOR)));
    partials[thread] = distance;
    workgroupBarrier();
    if (thread < 8u) {
      for (var k = 1u; k < 8u; k++) { distance += partials[thread + 8u * k]; }
    }
    workgroupBarrier();
    if (thread < 8u) { partials[thread] = distance; }
    workgroupBarrier();
    distance = partials[0];
    for (var k = 1u; k < 8u; k++) { distance += partials[k]; }
    factor /= distance / f32(shape.size * VECTOR) + shape.epsilon;
  }
  for (var e = begin + thread; e < end; e += 64u) { g[e] = factor * (fake[e] - teacher[e]); }
}
