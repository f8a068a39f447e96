// Bregman weights of a batch: the classifier's logits to c(r) = h''(r) r, with statistics.
//
//   logits [batch]  ->  ratios r [batch] = exp(-l), weights c [batch], stats [6]: r min, mean, max; c min, mean, max
//
// A logit is the log-odds of "real" (r = q/p). l is logit / temperature, clamped to +-logit_clamp, plus the sample's
// offset (with OFFSETS), and then such that ln r stays in [log_ratio_min, log_ratio_max]. c = mix(1, c(r), blend): blend
// 0 is the warm-up with c = 1. With NORMALISE c is divided by its mean over the batch; stats are of the result.
//
//   KIND   0 kl   1 lsif    2 logistic   3 itakura-saito   4 sba         5 basu               6 softened-kl  7 jeffreys
//   c(r)   1      exp(-l)   sigmoid(l)   exp(l)            exp(-lam l)   (1+lam) exp(-lam l)  sigmoid(-l)    1 + exp(l)
//   KIND   8 given: c(r) is read from a buffer
//
// Bindings: 0 shape, 1 logits, 2 blend [1], 3 offsets [batch], 4 given c(r) [batch] (read; without OFFSETS, or with
// another KIND, any buffer), 5 weights, 6 ratios, 7 stats (written).
// Constants: KIND, OFFSETS, NORMALISE. Dispatch: one workgroup.
// Numerics: f32. The descriptor bounds ln r to +-70 and exponents are bounded here, so that neither an exponential nor
// a batch's sum overflows. A NaN logit, an offset that is not finite, and a given c(r) that is not finite or not positive
// give a NaN weight (with NORMALISE all of them), and so does a sum that overflows: it is noticed.

struct Shape {
  batch: u32,
  lambda: f32,
  inverse_temperature: f32,
  logit_clamp: f32,
  log_ratio_min: f32,
  log_ratio_max: f32,
  zero: u32, // which compilers do not know
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> blend: array<f32>;
@group(0) @binding(3) var<storage, read> offsets: array<f32>;
@group(0) @binding(4) var<storage, read> given: array<f32>;
@group(0) @binding(5) var<storage, read_write> weights: array<f32>;
@group(0) @binding(6) var<storage, read_write> ratios: array<f32>;
@group(0) @binding(7) var<storage, read_write> stats: array<f32>;

const KIND: u32 = 0u;
const OFFSETS: bool = false;
const NORMALISE: bool = true;

// Minimum, sum and maximum of what a thread has seen.
var<workgroup> partials: array<vec3<f32>, 64>;

const NOTHING = vec3<f32>(3.4e38, 0.0, -3.4e38);

fn merge(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
  return vec3<f32>(min(a.x, b.x), a.y + b.y, max(a.z, b.z));
}

// Merges the threads' findings in a fixed order; every thread gets the result. Two levels of eight.
fn merge_all(thread: u32, own: vec3<f32>) -> vec3<f32> {
  var total = own;
  workgroupBarrier();
  partials[thread] = own;
  workgroupBarrier();
  if (thread < 8u) {
    for (var k = 1u; k < 8u; k++) { total = merge(total, partials[thread + 8u * k]); }
  }
  workgroupBarrier();
  if (thread < 8u) { partials[thread] = total; }
  workgroupBarrier();
  total = partials[0];
  for (var k = 1u; k < 8u; k++) { total = merge(total, partials[k]); }
  return total;
}

fn weight(l: f32) -> f32 {
  if (KIND == 1u) { return exp(-l); }
  if (KIND == 2u) { return 1.0 / (1.0 + exp(-l)); }
  if (KIND == 3u) { return exp(l); }
  if (KIND == 4u) { return exp(clamp(-shape.lambda * l, -70.0, 70.0)); }
  if (KIND == 5u) { return (1.0 + shape.lambda) * exp(clamp(-shape.lambda * l, -70.0, 70.0)); }
  if (KIND == 6u) { return 1.0 / (1.0 + exp(l)); }
  if (KIND == 7u) { return 1.0 + exp(l); }
  return 1.0;
}

fn is_nan(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

// LLVM takes a plain test of the bits of a value that is computed here for a comparison, which its fast math leaves out.
fn is_finite(value: f32) -> bool {
  return ((bitcast<u32>(value) ^ shape.zero) & 0x7f800000u) != 0x7f800000u;
}

// NaN, made from a value of the run: as a constant it would be an error.
fn as_nan(value: f32) -> f32 {
  return bitcast<f32>(bitcast<u32>(value) | 0x7fc00000u);
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32) {
  let n = f32(shape.batch);
  var seen_r = NOTHING;
  var seen_c = NOTHING;
  for (var i = thread; i < shape.batch; i += 64u) {
    let logit = logits[i];
    var broken = is_nan(logit);
    var l = clamp(logit * shape.inverse_temperature, -shape.logit_clamp, shape.logit_clamp);
    if (OFFSETS) {
      broken = broken || !is_finite(offsets[i]);
      l += offsets[i];
    }
    l = clamp(l, -shape.log_ratio_max, -shape.log_ratio_min);
    var r = exp(-l);
    var c = weight(l);
    if (KIND == 8u) {
      c = given[i];
      broken = broken || !is_finite(c) || c <= 0.0;
    }
    // Without the test a driver that computes mix as 1 + blend (c - 1) would lose a small c.
    if (blend[0] != 1.0) { c = mix(1.0, c, blend[0]); }
    if (broken) {
      r = as_nan(logit);
      c = as_nan(logit);
    }
    ratios[i] = r;
    weights[i] = c;
    seen_r = merge(seen_r, vec3<f32>(r));
    seen_c = merge(seen_c, vec3<f32>(c));
  }
  var all_r = merge_all(thread, seen_r);
  var all_c = merge_all(thread, seen_c);
  all_r.y /= n;
  all_c.y /= n;
  if (!is_finite(all_c.y)) { all_c.y = as_nan(all_c.y); }
  if (NORMALISE) {
    for (var i = thread; i < shape.batch; i += 64u) { weights[i] = weights[i] / all_c.y; }
    all_c /= all_c.y;
  }
  if (thread == 0u) {
    stats[0] = all_r.x;
    stats[1] = all_r.y;
    stats[2] = all_r.z;
    stats[3] = all_c.x;
    stats[4] = all_c.y;
    stats[5] = all_c.z;
  }
}
