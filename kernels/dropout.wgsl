// Dropout by counter-based random numbers: the mask is drawn where it is used and nowhere stored.
//
//   x [count, size]  ->  y [count, size]    y[i, e] = u >= p ? x[i, e] / (1 - p) : 0
//
// u is what random.wgsl's `fill` draws for element e of sample i: word e % 4 of
// philox((e / 4, first + offset + i, step, stream), seed) as a uniform number.
//
// Bindings: 0 shape (scale = 1 / (1 - p)), 1 seed [2] (read), 2 step [1] (read), 3 first [1] (read), 4 x (read), 5 y
// (written).
// Dispatch: ceil(count * ceil(size / 4) / 64) workgroups, one thread per counter, linear over x and y.
// Numerics: f32, one multiplication.

// as stored
alias Scalar = f32;

struct Shape { count: u32, size: u32, stream: u32, offset: u32, probability: f32, scale: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> seed: array<u32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> first: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<Scalar>;
@group(0) @binding(5) var<storage, read_write> y: array<Scalar>;

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

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  let quads = (shape.size + 3u) / 4u;
  let i = t / quads;
  if (i >= shape.count) { return; }
  let quad = t - i * quads;
  let sample = first[0] + shape.offset + i;
  let words = philox(vec4<u32>(quad, sample, step[0], shape.stream), vec2<u32>(seed[0], seed[1]));
  let factors = select(vec4<f32>(), vec4<f32>(shape.scale), uniforms(words) >= vec4<f32>(shape.probability));
  let at = i * shape.size + 4u * quad;
  let left = shape.size - 4u * quad;
  y[at] = Scalar(factors.x * f32(x[at]));
  if (left > 1u) { y[at + 1u] = Scalar(factors.y * f32(x[at + 1u])); }
  if (left > 2u) { y[at + 2u] = Scalar(factors.z * f32(x[at + 2u])); }
  if (left > 3u) { y[at + 3u] = Scalar(factors.w * f32(x[at + 3u])); }
}
