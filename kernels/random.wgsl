// Counter-based random numbers: Philox 4x32-10 (Salmon et al. 2011), as uniforms, normals and shuffled indices.
//
//   fill:    y [count, size] f32   element e of sample i: word e % 4 of philox((e / 4, first + offset + i, step, stream), seed)
//   shuffle: y [count] u32         index of position p = first + i in a data set of `size` records: epoch p / size is
//                                  a permutation of [0, size) of its own
//
// Bindings: 0 shape, 1 seed [2] (read), 2 step [1] (read; anything for shuffle), 3 first [1] (read), 4 y (written, as
// bits). Constants: NORMAL (fill: normals instead of uniforms).
// Dispatch: fill ceil(count * ceil(size / 4) / 64) workgroups, one thread per counter; shuffle ceil(count / 64).
// Numerics: uniform = (word >> 8 + 1/2) / 2^24, rounded to f32 and kept below 1. Normals by Box-Muller on the pairs
// (0, 1) and (2, 3): sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v), |value| < 5.9; ln, cos and sin are computed here to a few
// units in the last place, because WGSL promises far less and devices should agree.

// The last is fill's offset and shuffle's half_bits.
struct Shape { count: u32, size: u32, stream: u32, more: u32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> seed: array<u32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> first: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

const NORMAL: bool = false;

// High 32 bits of a * b, from 16-bit halves.
fn multiply_high(a: u32, b: u32) -> u32 {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let middle = a1 * b0 + ((a0 * b0) >> 16u);
  let carry = a0 * b1 + (middle & 0xffffu);
  return a1 * b1 + (middle >> 16u) + (carry >> 16u);
}

fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    c = vec4<u32>(
      multiply_high(0xCD9E8D57u, c.z) ^ c.y ^ k.x,
      0xCD9E8D57u * c.z,
      multiply_high(0xD2511F53u, c.x) ^ c.w ^ k.y,
      0xD2511F53u * c.x,
    );
    k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}

fn uniforms(words: vec4<u32>) -> vec4<f32> {
  return min((vec4<f32>(words >> vec4<u32>(8u)) + 0.5) * 5.9604645e-8, vec4<f32>(0.99999994));
}

// ln u of normal u > 0: u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)).
fn logarithm(u: vec2<f32>) -> vec2<f32> {
  // Subtracting the bits of sqrt(1/2) makes the exponent field step there.
  let shifted = bitcast<vec2<i32>>(u) - vec2<i32>(0x3f3504f3);
  let e = shifted >> vec2<u32>(23u);
  let m = bitcast<vec2<f32>>(bitcast<vec2<i32>>(u) - (e << vec2<u32>(23u)));
  let s = (m - 1.0) / (m + 1.0);
  let q = s * s;
  let series = 1.0 + q * (0.33333333 + q * (0.2 + q * (0.14285714 + q * 0.11111111)));
  return vec2<f32>(e) * 0.69314718 + 2.0 * s * series;
}

// (cos 2 pi v, sin 2 pi v) for v in [0, 1].
fn cos_sin_turns(v: f32) -> vec2<f32> {
  let quarter = round(4.0 * v);
  let r = 6.2831853 * (v - 0.25 * quarter);
  let s = r * r;
  let c = 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * 2.4801587e-5)));
  let d = r * (1.0 + s * (-0.16666667 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6))));
  let turned = select(vec2<f32>(c, d), vec2<f32>(-d, c), (u32(quarter) & 1u) == 1u);
  return select(turned, -turned, (u32(quarter) & 2u) == 2u);
}

fn normals(words: vec4<u32>) -> vec4<f32> {
  let u = uniforms(words);
  let radius = sqrt(-2.0 * logarithm(u.xz));
  return vec4<f32>(radius.x * cos_sin_turns(u.y), radius.y * cos_sin_turns(u.w));
}

@compute @workgroup_size(64)
fn fill(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  let quads = (shape.size + 3u) / 4u;
  let i = t / quads;
  if (i >= shape.count) { return; }
  let quad = t - i * quads;
  let sample = first[0] + shape.more + i;
  let words = philox(vec4<u32>(quad, sample, step[0], shape.stream), vec2<u32>(seed[0], seed[1]));
  var values = uniforms(words);
  if (NORMAL) { values = normals(words); }
  let bits = bitcast<vec4<u32>>(values);
  let at = i * shape.size + 4u * quad;
  let left = shape.size - 4u * quad;
  y[at] = bits.x;
  if (left > 1u) { y[at + 1u] = bits.y; }
  if (left > 2u) { y[at + 2u] = bits.z; }
  if (left > 3u) { y[at + 3u] = bits.w; }
}

fn scramble(value: u32) -> u32 {
  var h = value;
  h = (h ^ (h >> 16u)) * 0x85ebca6bu;
  h = (h ^ (h >> 13u)) * 0xc2b2ae35u;
  return h ^ (h >> 16u);
}

// Four rounds of a balanced Feistel network on 2 * half_bits bits: a bijection whatever `scramble` does.
fn feistel(value: u32, keys: vec4<u32>) -> u32 {
  let mask = (1u << shape.more) - 1u;
  var left = value >> shape.more;
  var right = value & mask;
  left ^= scramble(right ^ keys.x) & mask;
  right ^= scramble(left ^ keys.y) & mask;
  left ^= scramble(right ^ keys.z) & mask;
  right ^= scramble(left ^ keys.w) & mask;
  return (left << shape.more) | right;
}

@compute @workgroup_size(64)
fn shuffle(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = (wid.x + wid.y * num.x) * 64u + thread;
  if (i >= shape.count) { return; }
  let position = first[0] + i;
  let epoch = position / shape.size;
  let key = vec2<u32>(seed[0], seed[1]);
  let before = philox(vec4<u32>(0u, epoch, 0xffffffffu, shape.stream), key);
  let after = philox(vec4<u32>(1u, epoch, 0xffffffffu, shape.stream), key);
  // Walking the cycle until it re-enters [0, size) keeps the map a bijection of that range; at most 4 steps on average.
  var index = position - epoch * shape.size;
  loop {
    index = feistel(feistel(index, before), after);
    if (index < shape.size) { break; }
  }
  y[i] = index;
}
