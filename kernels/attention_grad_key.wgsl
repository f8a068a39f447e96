// Attention's gradients with respect to its keys and values.
//
// With p = exp(scale q^T k - lse) and dS = p (dO^T v - delta):  dv = dO p,  dk = scale q dS.
// Channel-first: q, d_o [batch, dim, queries]; k, v, dk, dv [batch, dim, keys]; stats (lse and delta) [batch, queries].
// q, k and v, and likewise dk and dv, may be ranges of one buffer: their batch strides and starts are parameters.
// Dispatch: SIDE * SIDE threads for each (sample, tile of 4 SIDE keys, chunk of 4 SIDE DEPTH rows of dk and dv), chunks
// fastest; every chunk recomputes p and dS.
// Tiles of 4 SIDE queries are visited in order. A thread computes 4 keys x 4 queries of p and dS in registers over the
// whole of dim, shares them through workgroup memory, and accumulates 4 keys x 4 DEPTH rows of dk and dv.

const SIDE: u32 = 8u;
const DEPTH: u32 = 2u;
alias Element = vec4<f32>; // as q, k, v and d_o are stored; the descriptor makes it f32, and VECTOR 1, where queries or keys are no multiple of 4
alias Quad = vec4<f32>; // four values as stored
alias Scalar = f32; // one
const VECTOR: u32 = 4u;
const TILE: u32 = 4u * SIDE;
const PACKED: u32 = 0u; // 1: dv is a range of the buffer dk, and the buffer dv is not used
const STAGE: u32 = 16u; // queries of q and d_o in workgroup memory at a time; a multiple of 4 that divides TILE

struct Params {
  workgroups: u32,
  tiles: u32, // of keys
  chunks: u32, // of dim
  dim: u32,
  queries: u32,
  keys: u32,
  q_batch: u32, // elements from one sample's q to the next's; of k and v kv_batch
  kv_batch: u32,
  k_start: u32, // elements before the first sample's k and v
  v_start: u32,
  scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<Element>;
@group(0) @binding(2) var<storage, read> k: array<Element>;
@group(0) @binding(3) var<storage, read> v: array<Element>;
@group(0) @binding(4) var<storage, read> d_o: array<Element>;
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> dk: array<Scalar>;
@group(0) @binding(7) var<storage, read_write> dv: array<Scalar>;

// Vectors run over 4 keys in the first two, over 4 rows of q and d_o in the others.
var<workgroup> weights: array<vec4<f32>, TILE * SIDE>;
var<workgroup> slopes: array<vec4<f32>, TILE * SIDE>;
var<workgroup> left: array<vec4<f32>, STAGE * SIDE * DEPTH>;
var<workgroup> right: array<vec4<f32>, STAGE * SIDE * DEPTH>;

/** Indices of four neighbours from `first`, kept below `count`. */
fn four(first: u32, count: u32) -> vec4<u32> {
  return min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(count - 1u));
}

// Four neighbours of one row at their indices: one Element, or four scalars splatted to make either branch valid.
fn q_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(Quad(q[at.x / 4u]));
  }
  return vec4<f32>(vec4<f32>(Quad(q[at.x])).x, vec4<f32>(Quad(q[at.y])).x, vec4<f32>(Quad(q[at.z])).x, vec4<f32>(Quad(q[at.w])).x);
}

fn k_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(Quad(k[at.x / 4u]));
  }
  return vec4<f32>(vec4<f32>(Quad(k[at.x])).x, vec4<f32>(Quad(k[at.y])).x, vec4<f32>(Quad(k[at.z])).x, vec4<f32>(Quad(k[at.w])).x);
}

fn v_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(Quad(v[at.x / 4u]));
  }
  return vec4<f32>(vec4<f32>(Quad(v[at.x])).x, vec4<f32>(Quad(v[at.y])).x, vec4<f32>(Quad(v[at.z])).x, vec4<f32>(Quad(v[at.w])).x);
}

fn d_o_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(Quad(d_o[at.x / 4u]));
  }
  return vec4<f32>(vec4<f32>(Quad(d_o[at.x])).x, vec4<f32>(Quad(d_o[at.y])).x, vec4<f32>(Quad(d_o[at.z])).x, vec4<f32>(Quad(d_o[at.w])).x);
}

/** Puts STAGE queries of the chunk's rows of q and d_o into `left` and `right`, transposed. */
fn stage_values(lane: u32, q_base: u32, d_o_base: u32, first_row: u32, first_query: u32) {
  for (var i = lane; i < (STAGE / 4u) * SIDE * DEPTH; i += SIDE * SIDE) {
    let tokens = four(first_query + 4u * (i % (STAGE / 4u)), params.queries);
    let rows = four(first_row + 4u * (i / (STAGE / 4u)), params.dim);
    let slot = 4u * (i % (STAGE / 4u)) * (SIDE * DEPTH) + i / (STAGE / 4u);
    let left0 = q_at(q_base + tokens + rows.x * params.queries);
    let left1 = q_at(q_base + tokens + rows.y * params.queries);
    let left2 = q_at(q_base + tokens + rows.z * params.queries);
    let left3 = q_at(q_base + tokens + rows.w * params.queries);
    left[slot] = vec4<f32>(left0.x, left1.x, left2.x, left3.x);
    left[slot + SIDE * DEPTH] = vec4<f32>(left0.y, left1.y, left2.y, left3.y);
    left[slot + 2u * SIDE * DEPTH] = vec4<f32>(left0.z, left1.z, left2.z, left3.z);
    left[slot + 3u * SIDE * DEPTH] = vec4<f32>(left0.w, left1.w, left2.w, left3.w);
    let right0 = d_o_at(d_o_base + tokens + rows.x * params.queries);
    let right1 = d_o_at(d_o_base + tokens + rows.y * params.queries);
    let right2 = d_o_at(d_o_base + tokens + rows.z * params.queries);
    let right3 = d_o_at(d_o_base + tokens + rows.w * params.queries);
    right[slot] = vec4<f32>(right0.x, right1.x, right2.x, right3.x);
    right[slot + SIDE * DEPTH] = vec4<f32>(right0.y, right1.y, right2.y, right3.y);
    right[slot + 2u * SIDE * DEPTH] = vec4<f32>(right0.z, right1.z, right2.z, right3.z);
    right[slot + 3u * SIDE * DEPTH] = vec4<f32>(right0.w, right1.w, right2.w, right3.w);
  }
}

/** Shares p and dS of four keys and one query of the tile, given their dot products. */
fn share(slot: u32, score: vec4<f32>, product: vec4<f32>, query: u32) {
  let stat = stats[query];
  let weight = exp(params.scale * score - stat.x);
  weights[slot] = weight;
  slopes[slot] = weight * (product - stat.y);
}

@compute @workgroup_size(SIDE * SIDE)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = wid.x + wid.y * num.x;
  if (index >= params.workgroups) {
    return;
  }
  let chunk = index % params.chunks;
  let sample = index / params.chunks / params.tiles;
  let column = lane % SIDE;
  let row = lane / SIDE;
  let first_key = (index / params.chunks % params.tiles) * TILE + 4u * row;
  let first_row = chunk * (4u * SIDE * DEPTH);
  let q_base = sample * params.q_batch;
  let d_o_base = sample * params.dim * params.queries;
  let kv_base = sample * params.kv_batch;
  let k_base = kv_base + params.k_start + four(first_key, params.keys);

  var dk_sums = array<vec4<f32>, 4u * DEPTH>();
  var dv_sums = array<vec4<f32>, 4u * DEPTH>();
  for (var first_query = 0u; first_query < params.queries; first_query += TILE) {
    let mine = four(first_query + 4u * column, params.queries);
    var qi = q_base + mine;
    var di = d_o_base + mine;
    var ki = k_base;
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    var t0 = vec4<f32>(0.0);
    var t1 = vec4<f32>(0.0);
    var t2 = vec4<f32>(0.0);
    var t3 = vec4<f32>(0.0);
    for (var d = 0u; d < params.dim; d++) {
      let k4 = k_at(ki);
      let q4 = q_at(qi);
      s0 = fma(vec4<f32>(q4.x), k4, s0);
      s1 = fma(vec4<f32>(q4.y), k4, s1);
      s2 = fma(vec4<f32>(q4.z), k4, s2);
      s3 = fma(vec4<f32>(q4.w), k4, s3);
      let v4 = v_at(ki + params.v_start - params.k_start);
      let d_o4 = d_o_at(di);
      t0 = fma(vec4<f32>(d_o4.x), v4, t0);
      t1 = fma(vec4<f32>(d_o4.y), v4, t1);
      t2 = fma(vec4<f32>(d_o4.z), v4, t2);
      t3 = fma(vec4<f32>(d_o4.w), v4, t3);
      qi += params.queries;
      di += params.queries;
      ki += params.keys;
    }
    if (first_query > 0u) {
      workgroupBarrier();
    }
    let queries = sample * params.queries + mine;
    share((4u * column) * SIDE + row, s0, t0, queries.x);
    share((4u * column + 1u) * SIDE + row, s1, t1, queries.y);
    share((4u * column + 2u) * SIDE + row, s2, t2, queries.z);
    share((4u * column + 3u) * SIDE + row, s3, t3, queries.w);
    let present = min(TILE, params.queries - first_query);
    for (var stage = 0u; stage < present; stage += STAGE) {
      if (stage > 0u) {
        workgroupBarrier();
      }
      stage_values(lane, q_base, d_o_base, first_row, first_query + stage);
      workgroupBarrier();
      let staged = min(STAGE, present - stage);
      for (var j = 0u; j < staged; j++) {
        let weight = weights[(stage + j) * SIDE + row];
        let slope = slopes[(stage + j) * SIDE + row];
        // @unroll
        for (var c = 0u; c < DEPTH; c++) {
          let query = left[j * (SIDE * DEPTH) + c * SIDE + column];
          dk_sums[c * 4u] = fma(vec4<f32>(query.x), slope, dk_sums[c * 4u]);
          dk_sums[c * 4u + 1u] = fma(vec4<f32>(query.y), slope, dk_sums[c * 4u + 1u]);
          dk_sums[c * 4u + 2u] = fma(vec4<f32>(query.z), slope, dk_sums[c * 4u + 2u]);
          dk_sums[c * 4u + 3u] = fma(vec4<f32>(query.w), slope, dk_sums[c * 4u + 3u]);
          let output = right[j * (SIDE * DEPTH) + c * SIDE + column];
          dv_sums[c * 4u] = fma(vec4<f32>(output.x), weight, dv_sums[c * 4u]);
          dv_sums[c * 4u + 1u] = fma(vec4<f32>(output.y), weight, dv_sums[c * 4u + 1u]);
          dv_sums[c * 4u + 2u] = fma(vec4<f32>(output.z), weight, dv_sums[c * 4u + 2u]);
          dv_sums[c * 4u + 3u] = fma(vec4<f32>(output.w), weight, dv_sums[c * 4u + 3u]);
        }
      }
    }
  }

  // @unroll
  for (var n = 0u; n < 4u; n++) {
    if (first_key + n < params.keys) {
      // @unroll
      for (var c = 0u; c < DEPTH; c++) {
        // @unroll
        for (var i = 0u; i < 4u; i++) {
          let d = first_row + 4u * (c * SIDE + column) + i;
          if (d < params.dim) {
            let at = kv_base + d * params.keys + first_key + n;
            dk[at + params.k_start] = Scalar(params.scale * dk_sums[c * 4u + i][n]);
            if (PACKED == 1u) {
              dk[at + params.v_start] = Scalar(dv_sums[c * 4u + i][n]);
            } else {
              dv[at + params.v_start] = Scalar(dv_sums[c * 4u + i][n]);
            }
          }
        }
      }
    }
  }
}
