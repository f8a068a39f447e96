// Gradient of group normalisation (with SiLU where SILU).
//
// With h = (x - mean) rstd, z = gamma_c h + beta_c, dz = dy f'(z), n = channels_per_group * size:
//   sums of one sample's channel: sum dz h and sum dz,
//   dx = rstd (gamma_c dz - (sum_c gamma_c sum dz + h sum_c gamma_c sum dz h) / n) + residual.
// x, dy, dx [batch, channels, size], residual the same, not read unless RESIDUAL; gamma, beta [channels], or
// [batch, channels] where every sample has its own; stats [batch, groups, 2] = mean, rstd; sums [2, batch, channels]: the
// caller makes dgamma and dbeta of them.
// Dispatch: one workgroup of LANES threads a (sample, group): `cooperative`, or `shared_registers`, which reads x and dy
// once, SHARE threads a channel. One thread a (sample, group), WIDTH a workgroup, no barrier: `serial`, or `registers`,
// which reads x and dy once. Every sum in a fixed order.

const LANES: u32 = 64u; // a multiple of 8
const WIDTH: u32 = 16u;
const SILU: bool = true;
const RESIDUAL: bool = true;
const CHANNELS: u32 = 4u; // summed between two barriers; `registers`: of a group
const SHARE: u32 = 16u; // threads that share a channel of `shared_registers`, a multiple of 8; a group has at most LANES / SHARE
const HELD: u32 = 4u; // Elements of a channel that a thread keeps; `registers`: all of them
alias Element = vec4<f32>; // the descriptor makes both f32, and VECTOR 1, where size is no multiple of 4
alias Stored = vec4<f32>; // Element as stored
const VECTOR: u32 = 4u;

struct Params {
  groups: u32, // batch * groups of a sample
  channels_per_group: u32,
  size: u32, // in Elements
  period: u32, // groups after which gamma and beta repeat
  gamma_start: u32, // where gamma begins in its buffer
  beta_start: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<Stored>;
@group(0) @binding(6) var<storage, read> residual: array<Stored>;
@group(0) @binding(7) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(8) var<storage, read_write> sums: array<f32>;

// Pairs of sums: (dz, dz h).
var<workgroup> leaves: array<vec2<f32>, CHANNELS * LANES>;
var<workgroup> branches: array<vec2<f32>, CHANNELS * LANES / 8u>;
var<workgroup> weighted: array<vec2<f32>, CHANNELS>;

/** The sum of an element's components: a scalar is splatted to four of them. */
fn components(element: Element) -> f32 {
  return dot(vec4<f32>(element), vec4<f32>(0.25 * f32(VECTOR)));
}

/** f'(z), with f the SiLU: s (1 + z (1 - s)), s = sigmoid(z); the exponent is capped so that it stays finite. */
fn slope(z: Element) -> Element {
  if (SILU) {
    let s = 1.0 / (1.0 + exp(min(-z, Element(80.0))));
    return s * fma(z, 1.0 - s, Element(1.0));
  }
  return Element(1.0);
}

/** gamma and beta of channel c of the group. */
fn coefficients(group: u32, c: u32) -> vec2<f32> {
  let channel = (group % params.period) * params.channels_per_group + c;
  return vec2<f32>(gamma[params.gamma_start + channel], beta[params.beta_start + channel]);
}

/** One lane's share of (sum dz, sum dz h) over channel c of the group. */
fn sum_channel(group: u32, c: u32, lane: u32, lanes: u32) -> vec2<f32> {
  let start = (group * params.channels_per_group + c) * params.size;
  let mean = stats[2u * group];
  let rstd = stats[2u * group + 1u];
  let own = coefficients(group, c);
  let g = Element(own.x);
  let b = Element(own.y);
  var sum = Element(0.0);
  var sum_h = Element(0.0);
  for (var i = lane; i < params.size; i += lanes) {
    let h = (Element(x[start + i]) - mean) * rstd;
    let dz = Element(dy[start + i]) * slope(fma(g, h, b));
    sum += dz;
    sum_h = fma(dz, h, sum_h);
  }
  return vec2<f32>(components(sum), components(sum_h));
}

/** Stores channel c's sums; returns them times gamma. */
fn store_channel(group: u32, c: u32, own: vec2<f32>) -> vec2<f32> {
  let index = group * params.channels_per_group + c;
  sums[index] = own.y;
  sums[params.groups * params.channels_per_group + index] = own.x;
  return coefficients(group, c).x * own;
}

fn store_gradient(at: u32, value: Element) {
  if (RESIDUAL) {
    dx[at] = Stored(value + Element(residual[at]));
  } else {
    dx[at] = Stored(value);
  }
}

/** dx of one lane's elements, given the group's gamma-weighted sums. */
fn input_gradient(group: u32, lane: u32, lanes: u32, total: vec2<f32>) {
  let mean = stats[2u * group];
  let rstd = stats[2u * group + 1u];
  let means = total / f32(params.channels_per_group * params.size * VECTOR);
  for (var c = 0u; c < params.channels_per_group; c++) {
    let start = (group * params.channels_per_group + c) * params.size;
    let own = coefficients(group, c);
    let g = Element(own.x);
    let b = Element(own.y);
    for (var i = lane; i < params.size; i += lanes) {
      let h = (Element(x[start + i]) - mean) * rstd;
      let dz = Element(dy[start + i]) * slope(fma(g, h, b));
      store_gradient(start + i, rstd * (g * dz - fma(h, Element(means.y), Element(means.x))));
    }
  }
}

@compute @workgroup_size(LANES)
fn cooperative(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  if (group >= params.groups) {
    return;
  }
  var total = vec2<f32>(0.0);
  for (var first = 0u; first < params.channels_per_group; first += CHANNELS) {
    let channels = min(CHANNELS, params.channels_per_group - first);
    for (var c = 0u; c < channels; c++) {
      leaves[c * LANES + lane] = sum_channel(group, first + c, lane, LANES);
    }
    workgroupBarrier();
    if (lane < CHANNELS * LANES / 8u) {
      var part = vec2<f32>(0.0);
      for (var i = 0u; i < 8u; i++) {
        part += leaves[lane * 8u + i];
      }
      branches[lane] = part;
    }
    workgroupBarrier();
    if (lane < channels) {
      var own = vec2<f32>(0.0);
      for (var i = 0u; i < LANES / 8u; i++) {
        own += branches[lane * (LANES / 8u) + i];
      }
      weighted[lane] = store_channel(group, first + lane, own);
    }
    workgroupBarrier();
    for (var c = 0u; c < channels; c++) {
      total += weighted[c];
    }
  }
  input_gradient(group, lane, LANES, total);
}

@compute @workgroup_size(LANES)
fn shared_registers(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  if (group >= params.groups) {
    return;
  }
  let c = lane / SHARE;
  let first = lane % SHARE;
  // A lane without a channel holds nothing.
  let size = select(0u, params.size, c < params.channels_per_group);
  let start = (group * params.channels_per_group + c) * params.size;
  let mean = stats[2u * group];
  let rstd = stats[2u * group + 1u];
  let own = coefficients(group, c);
  var hs: array<Element, HELD>;
  var dhs: array<Element, HELD>;
  var sum = Element(0.0);
  var sum_h = Element(0.0);
  // @unroll
  for (var i = 0u; i < HELD; i++) {
    if (first + i * SHARE < size) {
      hs[i] = (Element(x[start + first + i * SHARE]) - mean) * rstd;
      let dz = Element(dy[start + first + i * SHARE]) * slope(fma(hs[i], Element(own.x), Element(own.y)));
      sum += dz;
      sum_h = fma(dz, hs[i], sum_h);
      dhs[i] = own.x * dz;
    }
  }
  leaves[lane] = vec2<f32>(components(sum), components(sum_h));
  workgroupBarrier();
  if (lane < LANES / 8u) {
    var part = vec2<f32>(0.0);
    for (var i = 0u; i < 8u; i++) {
      part += leaves[lane * 8u + i];
    }
    branches[lane] = part;
  }
  workgroupBarrier();
  if (lane < params.channels_per_group) {
    var channel_sums = vec2<f32>(0.0);
    for (var i = 0u; i < SHARE / 8u; i++) {
      channel_sums += branches[lane * (SHARE / 8u) + i];
    }
    leaves[lane] = store_channel(group, lane, channel_sums);
  }
  workgroupBarrier();
  var total = vec2<f32>(0.0);
  for (var i = 0u; i < params.channels_per_group; i++) {
    total += leaves[i];
  }
  let means = total / f32(params.channels_per_group * params.size * VECTOR);
  // @unroll
  for (var i = 0u; i < HELD; i++) {
    if (first + i * SHARE < size) {
      let value = rstd * (dhs[i] - fma(hs[i], Element(means.y), Element(means.x)));
      store_gradient(start + first + i * SHARE, value);
    }
  }
}

@compute @workgroup_size(WIDTH)
fn serial(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = (wid.x + wid.y * num.x) * WIDTH + lane;
  if (group >= params.groups) {
    return;
  }
  var total = vec2<f32>(0.0);
  for (var c = 0u; c < params.channels_per_group; c++) {
    total += store_channel(group, c, sum_channel(group, c, 0u, 1u));
  }
  input_gradient(group, 0u, 1u, total);
}

@compute @workgroup_size(WIDTH)
fn registers(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = (wid.x + wid.y * num.x) * WIDTH + lane;
  if (group >= params.groups) {
    return;
  }
  let start = group * CHANNELS * HELD;
  let mean = stats[2u * group];
  let rstd = stats[2u * group + 1u];
  var hs: array<Element, CHANNELS * HELD>;
  var dhs: array<Element, CHANNELS * HELD>;
  var total = vec2<f32>(0.0);
  // @unroll
  for (var c = 0u; c < CHANNELS; c++) {
    let own = coefficients(group, c);
    var sum = Element(0.0);
    var sum_h = Element(0.0);
    // @unroll
    for (var i = c * HELD; i < c * HELD + HELD; i++) {
      hs[i] = (Element(x[start + i]) - mean) * rstd;
      let dz = Element(dy[start + i]) * slope(fma(hs[i], Element(own.x), Element(own.y)));
      sum += dz;
      sum_h = fma(dz, hs[i], sum_h);
      dhs[i] = own.x * dz;
    }
    total += store_channel(group, c, vec2<f32>(components(sum), components(sum_h)));
  }
  let means = total / f32(CHANNELS * HELD * VECTOR);
  // @unroll
  for (var i = 0u; i < CHANNELS * HELD; i++) {
    store_gradient(start + i, rstd * (dhs[i] - fma(hs[i], Element(means.y), Element(means.x))));
  }
}
