// Gradient of the cross-entropy with class labels:  dlogits_j = dloss (softmax(logits)_j - [j = label]).
//
// logits, dlogits [rows, columns]; labels [rows], each below columns; dloss [rows].
// Dispatch: `cooperative`, one workgroup of LANES threads a row; `serial`, one thread a row, WIDTH a workgroup.
// Numerics: the row's maximum is taken off first; every sum in a fixed order.

const LANES: u32 = 64u; // a multiple of 8
const WIDTH: u32 = 16u;

struct Params {
  rows: u32,
  columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> dloss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogits: array<f32>;

var<workgroup> leaves: array<f32, LANES>;
var<workgroup> branches: array<f32, LANES / 8u>;

/** The sum of every lane's value, the same bits on every lane. */
fn sum_lanes(lane: u32, value: f32) -> f32 {
  leaves[lane] = value;
  workgroupBarrier();
  if (lane < LANES / 8u) {
    var part = leaves[lane * 8u];
    for (var i = 1u; i < 8u; i++) {
      part += leaves[lane * 8u + i];
    }
    branches[lane] = part;
  }
  workgroupBarrier();
  var total = branches[0];
  for (var i = 1u; i < LANES / 8u; i++) {
    total += branches[i];
  }
  return total;
}

/** The largest of every lane's values. */
fn max_lanes(lane: u32, value: f32) -> f32 {
  leaves[lane] = value;
  workgroupBarrier();
  if (lane < LANES / 8u) {
    var part = leaves[lane * 8u];
    for (var i = 1u; i < 8u; i++) {
      part = max(part, leaves[lane * 8u + i]);
    }
    branches[lane] = part;
  }
  workgroupBarrier();
  var largest = branches[0];
  for (var i = 1u; i < LANES / 8u; i++) {
    largest = max(largest, branches[i]);
  }
  return largest;
}

/** The largest of the row's elements lane, lane + lanes, ...; lanes past the row's end give its first. */
fn row_max(row: u32, lane: u32, lanes: u32) -> f32 {
  var largest = logits[row * params.columns];
  for (var i = lane; i < params.columns; i += lanes) {
    largest = max(largest, logits[row * params.columns + i]);
  }
  return largest;
}

fn row_sum(row: u32, lane: u32, lanes: u32, largest: f32) -> f32 {
  var total = 0.0;
  for (var i = lane; i < params.columns; i += lanes) {
    total += exp(logits[row * params.columns + i] - largest);
  }
  return total;
}

fn store(row: u32, lane: u32, lanes: u32, largest: f32, total: f32) {
  let label = labels[row];
  let factor = dloss[row];
  for (var i = lane; i < params.columns; i += lanes) {
    let index = row * params.columns + i;
    dlogits[index] = factor * (exp(logits[index] - largest) / total - select(0.0, 1.0, i == label));
  }
}

@compute @workgroup_size(LANES)
fn cooperative(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = wid.x + wid.y * num.x;
  if (row >= params.rows) {
    return;
  }
  let largest = max_lanes(lane, row_max(row, lane, LANES));
  let total = sum_lanes(lane, row_sum(row, lane, LANES, largest));
  store(row, lane, LANES, largest, total);
}

@compute @workgroup_size(WIDTH)
fn serial(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = (wid.x + wid.y * num.x) * WIDTH + lane;
  if (row >= params.rows) {
    return;
  }
  let largest = row_max(row, 0u, 1u);
  let total = row_sum(row, 0u, 1u, largest);
  store(row, 0u, 1u, largest, total);
}
