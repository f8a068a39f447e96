// Sinusoidal embedding of a scalar per sample (EDM's PositionalEmbedding), or its derivative in that scalar.
//
//   x [batch]  ->  y [batch, 2 half]    f_i = 2^(-i * step),  step = log2(maxPositions) / (half - endpoint)
//   y[n] = [cos(x f_0) ... cos(x f_{half-1}) | sin(x f_0) ... sin(x f_{half-1})], halves swapped if SIN_FIRST
//   derivative: y[n] = [-f sin(x f) | f cos(x f)], in the same places
//
// or, if TABLE, with f_i = frequencies[i].
//
// Bindings: 0 shape, 1 x (read), 2 frequencies [half] (read; anything without TABLE), 3 y (written). Constants: SIN_FIRST,
// DERIVATIVE, TABLE.
// Dispatch: ceil(batch * half / 64) workgroups, one thread per pair (cos, sin), linear over x and y.
// Numerics: f32. WGSL promises sin and cos only to 2^-11, so the angle is reduced to [-pi/4, pi/4] in three steps
// (constants with few bits, so that the products are exact up to |x f| of about 10^4) and polynomials are used.

struct Shape { half: u32, count: u32, step: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const SIN_FIRST: bool = false;
const DERIVATIVE: bool = false;
const TABLE: bool = false;

// (cos a, sin a).
fn cos_sin(a: f32) -> vec2<f32> {
  let quarter = round(a * 0.63661977);
  let r = ((a - quarter * 1.5703125) - quarter * 4.837512969970703e-4) - quarter * 7.549789954891882e-8;
  let s = r * r;
  let c = 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * 2.4801587e-5)));
  let d = r * (1.0 + s * (-0.16666667 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6))));
  let turned = select(vec2<f32>(c, d), vec2<f32>(-d, c), (i32(quarter) & 1) == 1);
  return select(turned, -turned, (i32(quarter) & 2) == 2);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  let n = t / shape.half;
  let i = t - n * shape.half;
  var frequency = exp2(-f32(i) * shape.step);
  if (TABLE) { frequency = frequencies[i]; }
  var pair = cos_sin(x[n] * frequency);
  if (DERIVATIVE) { pair = frequency * vec2<f32>(-pair.y, pair.x); }
  if (SIN_FIRST) { pair = pair.yx; }
  let at = 2u * n * shape.half + i;
  y[at] = pair.x;
  y[at + shape.half] = pair.y;
}
