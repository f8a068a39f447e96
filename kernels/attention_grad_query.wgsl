// Attention's gradient with respect to its queries.
//
// With p = exp(scale q^T k - lse) and dS = p (dO^T v - delta):  dq = scale k dS^T.
// Channel-first: q, d_o, dq [batch, dim, queries]; k, v [batch, dim, keys]; stats (lse and delta) [batch, queries]. q, k
// and v, and likewise dq, may be ranges of one buffer: their batch strides and starts are parameters.
// Dispatch: SIDE * SIDE threads for each (sample, tile of 4 SIDE queries, chunk of 4 SIDE DEPTH rows of dq), chunks
// fastest; every chunk recomputes p and dS.
// Tiles of 4 SIDE keys are visited in order. A thread computes 4 queries x 4 keys of dS in registers over the whole of
// dim, shares them through workgroup memory, and accumulates 4 queries x 4 DEPTH rows of dq.

const SIDE: u32 = 8u;
const DEPTH: u32 = 2u;
alias Element = vec4<f32>; // as q, k, v and d_o are stored; the descriptor makes it f32, and VECTOR 1, where queries or keys are no multiple of 4
alias Quad = vec4<f32>; // four values as stored
alias Scalar = f32; // one
const VECTOR: u32 = 4u;
const TILE: u32 = 4u * SIDE;
const STAGE: u32 = 16u; // keys of k in workgroup memory at a time; a multiple of 4 that divides TILE

struct Params {
  workgroups: u32,
  tiles: u32, // of queries
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
@group(0) @binding(6) var<storage, read_write> dq: array<Scalar>;

// Vectors run over 4 queries in the first, over 4 rows of k in the second.
var<workgroup> slopes: array<vec4<f32>, TILE * SIDE>;
var<workgroup> values: array<vec4<f32>, STAGE * SIDE * DEPTH>;

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

/** Puts STAGE keys of the chunk's rows of k into `values`, transposed. */
fn stage_values(lane: u32, base: u32, first_row: u32, first_key: u32) {
  for (var i = lane; i < (STAGE / 4u) * SIDE * DEPTH; i += SIDE * SIDE) {
    let start = base + four(first_key + 4u * (i % (STAGE / 4u)), params.keys);
    let rows = four(first_row + 4u * (i / (STAGE / 4u)), params.dim);
    let slot = 4u * (i % (STAGE / 4u)) * (SIDE * DEPTH) + i / (STAGE / 4u);
    let values0 = k_at(start + rows.x * params.keys);
    let values1 = k_at(start + rows.y * params.keys);
    let values2 = k_at(start + rows.z * params.keys);
    let values3 = k_at(start + rows.w * params.keys);
    values[slot] = vec4<f32>(values0.x, values1.x, values2.x, values3.x);
    values[slot + SIDE * DEPTH] = vec4<f32>(values0.y, values1.y, values2.y, values3.y);
    values[slot + 2u * SIDE * DEPTH] = vec4<f32>(values0.z, values1.z, values2.z, values3.z);
    values[slot + 3u * SIDE * DEPTH] = vec4<f32>(values0.w, values1.w, values2.w, values3.w);
  }
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
  let first_query = (index / params.chunks % params.tiles) * TILE + 4u * row;
  let first_row = chunk * (4u * SIDE * DEPTH);
  let k_base = sample * params.kv_batch + params.k_start;
  let mine = four(first_query, params.queries);
  let q_base = sample * params.q_batch + mine;
  let d_o_base = sample * params.dim * params.queries + mine;
  let at = sample * params.queries + mine;
  let level = vec4<f32>(stats[at.x].x, stats[at.y].x, stats[at.z].x, stats[at.w].x);
  let delta = vec4<f32>(stats[at.x].y, stats[at.y].y, stats[at.z].y, stats[at.w].y);

  var accumulators = array<vec4<f32>, 4u * DEPTH>();
  for (var first_key = 0u; first_key < params.keys; first_key += TILE) {
    var qi = q_base;
    var di = d_o_base;
    var ki = k_base + four(first_key + 4u * column, params.keys);
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    var t0 = vec4<f32>(0.0);
    var t1 = vec4<f32>(0.0);
    var t2 = vec4<f32>(0.0);
    var t3 = vec4<f32>(0.0);
    for (var d = 0u; d < params.dim; d++) {
      let q4 = q_at(qi);
      let k4 = k_at(ki);
      s0 = fma(vec4<f32>(k4.x), q4, s0);
      s1 = fma(vec4<f32>(k4.y), q4, s1);
      s2 = fma(vec4<f32>(k4.z), q4, s2);
      s3 = fma(vec4<f32>(k4.w), q4, s3);
      let d_o4 = d_o_at(di);
      let v4 = v_at(ki + params.v_start - params.k_start);
      t0 = fma(vec4<f32>(v4.x), d_o4, t0);
      t1 = fma(vec4<f32>(v4.y), d_o4, t1);
      t2 = fma(vec4<f32>(v4.z), d_o4, t2);
      t3 = fma(vec4<f32>(v4.w), d_o4, t3);
      qi += params.queries;
      di += params.queries;
      ki += params.keys;
    }
    if (first_key > 0u) {
      workgroupBarrier();
    }
    slopes[(4u * column) * SIDE + row] = exp(fma(vec4<f32>(params.scale), s0, -level)) * (t0 - delta);
    slopes[(4u * column + 1u) * SIDE + row] = exp(fma(vec4<f32>(params.scale), s1, -level)) * (t1 - delta);
    slopes[(4u * column + 2u) * SIDE + row] = exp(fma(vec4<f32>(params.scale), s2, -level)) * (t2 - delta);
    slopes[(4u * column + 3u) * SIDE + row] = exp(fma(vec4<f32>(params.scale), s3, -level)) * (t3 - delta);
    let present = min(TILE, params.keys - first_key);
    for (var stage = 0u; stage < present; stage += STAGE) {
      if (stage > 0u) {
        workgroupBarrier();
      }
      stage_values(lane, k_base, first_row, first_key + stage);
      workgroupBarrier();
      let staged = min(STAGE, present - stage);
      for (var j = 0u; j < staged; j++) {
        let slope = slopes[(stage + j) * SIDE + row];
        // @unroll
        for (var c = 0u; c < DEPTH; c++) {
          let value = values[j * (SIDE * DEPTH) + c * SIDE + column];
          accumulators[c * 4u] = fma(vec4<f32>(value.x), slope, accumulators[c * 4u]);
          accumulators[c * 4u + 1u] = fma(vec4<f32>(value.y), slope, accumulators[c * 4u + 1u]);
          accumulators[c * 4u + 2u] = fma(vec4<f32>(value.z), slope, accumulators[c * 4u + 2u]);
          accumulators[c * 4u + 3u] = fma(vec4<f32>(value.w), slope, accumulators[c * 4u + 3u]);
        }
      }
    }
  }

  // @unroll
  for (var n = 0u; n < 4u; n++) {
    if (first_query + n < params.queries) {
      // @unroll
      for (var c = 0u; c < DEPTH; c++) {
        // @unroll
        for (var i = 0u; i < 4u; i++) {
          let d = first_row + 4u * (c * SIDE + column) + i;
          if (d < params.dim) {
            let at = sample * params.q_batch + d * params.queries + first_query + n;
            dq[at] = Scalar(params.scale * accumulators[c * 4u + i][n]);
          }
        }
      }
    }
  }
}
