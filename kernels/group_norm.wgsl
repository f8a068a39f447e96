// Group normalisation, then SiLU where SILU:  y = f(gamma_c (x - mean) rstd + beta_c),  rstd = 1 / sqrt(var + eps).
// Where MODULATED, y = f((gamma_c (x - mean) rstd + beta_c) (1 + scale_nc) + shift_nc).
//
// x, y [batch, channels, size]; gamma, beta [channels]; scale, shift [batch, channels] (not read unless MODULATED); stats
// [batch, groups, 2] = mean, rstd, and where MODULATED then [2, batch, channels]: what multiplies (x - mean) rstd and what
// is added to it. The channels of a group are neighbours, so a group is one contiguous run of elements.
// Dispatch: one workgroup of LANES threads a (sample, group): `cooperative`, or `shared_registers`, which reads x once,
// SHARE threads a channel. One thread a (sample, group), WIDTH a workgroup, no barrier: `serial`, or `registers`, which
// reads x once: for groups so small that barriers would cost more than they share out.
// Numerics: biased variance, summed about the mean in a second pass; every sum in a fixed order.

const LANES: u32 = 64u; // a multiple of 8
const WIDTH: u32 = 16u;
const SILU: bool = true;
const MODULATED: bool = false;
const CHANNELS: u32 = 2u; // of a group, `registers` only
const SHARE: u32 = 16u; // threads that share a channel of `shared_registers`; a group has at most LANES / SHARE channels
const HELD: u32 = 4u; // Elements of a channel that a thread keeps; `registers`: all of them
alias Element = vec4<f32>; // the descriptor makes both f32, and VECTOR 1, where size is no multiple of 4
alias Stored = vec4<f32>; // Element as stored
const VECTOR: u32 = 4u;

struct Params {
  groups: u32, // batch * groups of a sample
  groups_per_sample: u32,
  channels_per_group: u32,
  size: u32, // in Elements
  eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;
@group(0) @binding(5) var<storage, read> shift: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<Stored>;
@group(0) @binding(7) var<storage, read_write> stats: array<f32>;

var<workgroup> leaves: array<f32, LANES>;
var<workgroup> branches: array<f32, LANES / 8u>;

/** The sum of every lane's value, the same bits on every lane. */
fn sum_lanes(lane: u32, value: f32) -> f32 {
  leaves[lane] = value;
  workgroupBarrier();
  if (lane < LANES / 8u) {
    var part = 0.0;
    for (var i = 0u; i < 8u; i++) {
      part += leaves[lane * 8u + i];
    }
    branches[lane] = part;
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < LANES / 8u; i++) {
    total += branches[i];
  }
  return total;
}

/** The sum of an element's components: a scalar is splatted to four of them. */
fn components(element: Element) -> f32 {
  return dot(vec4<f32>(element), vec4<f32>(0.25 * f32(VECTOR)));
}

fn sum_values(start: u32, count: u32, lane: u32, lanes: u32) -> f32 {
  var total = Element(0.0);
  for (var i = lane; i < count; i += lanes) {
    total += Element(x[start + i]);
  }
  return components(total);
}

fn sum_squares(start: u32, count: u32, lane: u32, lanes: u32, mean: f32) -> f32 {
  var total = Element(0.0);
  for (var i = lane; i < count; i += lanes) {
    let deviation = Element(x[start + i]) - mean;
    total = fma(deviation, deviation, total);
  }
  return components(total);
}

// The exponent is capped so that the sum stays finite; there z / sum is 0 to within rounding.
fn activate(z: Element) -> Element {
  if (SILU) {
    return z / (1.0 + exp(min(-z, Element(80.0))));
  }
  return z;
}

/** What multiplies (x - mean) rstd in channel c of the group and what is added; one of its lanes keeps them. */
fn coefficients(group: u32, c: u32, keeps: bool) -> vec2<f32> {
  let channel = (group % params.groups_per_sample) * params.channels_per_group + c;
  let own = vec2<f32>(gamma[channel], beta[channel]);
  if (MODULATED) {
    let index = group * params.channels_per_group + c;
    let modulated = fma(own, vec2<f32>(1.0 + scale[index]), vec2<f32>(0.0, shift[index]));
    if (keeps) {
      stats[2u * params.groups + index] = modulated.x;
      stats[(2u + params.channels_per_group) * params.groups + index] = modulated.y;
    }
    return modulated;
  }
  return own;
}

fn keep_statistics(group: u32, mean: f32, rstd: f32) {
  stats[2u * group] = mean;
  stats[2u * group + 1u] = rstd;
}

fn normalise(group: u32, lane: u32, lanes: u32, mean: f32, rstd: f32) {
  for (var c = 0u; c < params.channels_per_group; c++) {
    let start = (group * params.channels_per_group + c) * params.size;
    let own = coefficients(group, c, lane == 0u);
    for (var i = lane; i < params.size; i += lanes) {
      y[start + i] = Stored(activate(fma(Element(x[start + i]) - mean, Element(own.x * rstd), Element(own.y))));
    }
  }
  if (lane == 0u) {
    keep_statistics(group, mean, rstd);
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
  let count = params.channels_per_group * params.size;
  let start = group * count;
  let mean = sum_lanes(lane, sum_values(start, count, lane, LANES)) / f32(count * VECTOR);
  let variance = sum_lanes(lane, sum_squares(start, count, lane, LANES, mean)) / f32(count * VECTOR);
  normalise(group, lane, LANES, mean, 1.0 / sqrt(variance + params.eps));
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
  let count = f32(params.channels_per_group * params.size * VECTOR);
  var values: array<Element, HELD>;
  var sum = Element(0.0);
  // @unroll
  for (var i = 0u; i < HELD; i++) {
    if (first + i * SHARE < size) {
      values[i] = Element(x[start + first + i * SHARE]);
      sum += values[i];
    }
  }
  let mean = sum_lanes(lane, components(sum)) / count;
  var squares = Element(0.0);
  // @unroll
  for (var i = 0u; i < HELD; i++) {
    if (first + i * SHARE < size) {
      values[i] -= mean;
      squares = fma(values[i], values[i], squares);
    }
  }
  let rstd = 1.0 / sqrt(sum_lanes(lane, components(squares)) / count + params.eps);
  if (lane == 0u) {
    keep_statistics(group, mean, rstd);
  }
  if (first < size) {
    let own = coefficients(group, c, first == 0u);
    // @unroll
    for (var i = 0u; i < HELD; i++) {
      if (first + i * SHARE < size) {
        y[start + first + i * SHARE] = Stored(activate(fma(values[i], Element(own.x * rstd), Element(own.y))));
      }
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
  let count = params.channels_per_group * params.size;
  let start = group * count;
  let mean = sum_values(start, count, 0u, 1u) / f32(count * VECTOR);
  let variance = sum_squares(start, count, 0u, 1u, mean) / f32(count * VECTOR);
  normalise(group, 0u, 1u, mean, 1.0 / sqrt(variance + params.eps));
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
  var values: array<Element, CHANNELS * HELD>;
  var sum = Element(0.0);
  // @unroll
  for (var i = 0u; i < CHANNELS * HELD; i++) {
    values[i] = Element(x[start + i]);
    sum += values[i];
  }
  let mean = components(sum) / f32(CHANNELS * HELD * VECTOR);
  var squares = Element(0.0);
  // @unroll
  for (var i = 0u; i < CHANNELS * HELD; i++) {
    values[i] -= mean;
    squares = fma(values[i], values[i], squares);
  }
  let rstd = 1.0 / sqrt(components(squares) / f32(CHANNELS * HELD * VECTOR) + params.eps);
  keep_statistics(group, mean, rstd);
  // @unroll
  for (var c = 0u; c < CHANNELS; c++) {
    let own = coefficients(group, c, true);
    // @unroll
    for (var i = 0u; i < HELD; i++) {
      y[start + c * HELD + i] = Stored(activate(fma(values[c * HELD + i], Element(own.x * rstd), Element(own.y))));
    }
  }
}
