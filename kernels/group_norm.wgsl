// Group normalisation, then SiLU where SILU:  y = f(gamma_c (x - mean) rstd + beta_c),  rstd = 1 / sqrt(var + eps).
//
// x, y [batch, channels, size]; gamma, beta [channels]; stats [batch, groups, 2] = mean, rstd. The channels of a group
// are neighbours, so a group is one contiguous run of channels_per_group * size elements.
// Dispatch: `cooperative`, one workgroup of LANES threads a (sample, group); `serial`, one thread a (sample, group),
// WIDTH a workgroup, no barrier: for groups so small that barriers would cost more than they share out.
// Numerics: biased variance, summed about the mean in a second pass; every sum in a fixed order.

const LANES: u32 = 64u; // a multiple of 8
const WIDTH: u32 = 16u;
const SILU: bool = true;
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
@group(0) @binding(4) var<storage, read_write> y: array<Stored>;
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;

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

fn normalise(group: u32, lane: u32, lanes: u32, mean: f32, rstd: f32) {
  let first_channel = (group % params.groups_per_sample) * params.channels_per_group;
  for (var c = 0u; c < params.channels_per_group; c++) {
    let start = (group * params.channels_per_group + c) * params.size;
    let slope = Element(gamma[first_channel + c] * rstd);
    let shift = Element(beta[first_channel + c]);
    for (var i = lane; i < params.size; i += lanes) {
      y[start + i] = Stored(activate(fma(Element(x[start + i]) - mean, slope, shift)));
    }
  }
  if (lane == 0u) {
    stats[2u * group] = mean;
    stats[2u * group + 1u] = rstd;
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
