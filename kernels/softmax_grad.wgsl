// Gradient of softmax:  dx_j = y_j (dy_j - sum_i y_i dy_i).
//
// y (the softmax), dy, dx [rows, columns].
// Dispatch: `cooperative`, one workgroup of LANES threads a row; `serial`, one thread a row, WIDTH a workgroup.
// Numerics: every sum in a fixed order.

const LANES: u32 = 64u; // a multiple of 8
const WIDTH: u32 = 16u;

struct Params {
  rows: u32,
  columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

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

fn row_dot(row: u32, lane: u32, lanes: u32) -> f32 {
  var total = 0.0;
  for (var i = lane; i < params.columns; i += lanes) {
    total = fma(y[row * params.columns + i], dy[row * params.columns + i], total);
  }
  return total;
}

fn store(row: u32, lane: u32, lanes: u32, dot: f32) {
  for (var i = lane; i < params.columns; i += lanes) {
    let index = row * params.columns + i;
    dx[index] = y[index] * (dy[index] - dot);
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
  store(row, lane, LANES, sum_lanes(lane, row_dot(row, lane, LANES)));
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
  store(row, 0u, 1u, row_dot(row, 0u, 1u));
}
