// Attention without a score matrix in memory:  o = softmax(scale q^T k) v,  lse = log sum exp of the scaled scores.
//
// Channel-first: q, o [batch, dim, queries]; k, v [batch, dim, keys]; lse [batch, queries]. q, k and v may be ranges of
// one buffer: their batch strides and starts are parameters.
// Dispatch: SIDE * SIDE threads for each (sample, tile of 4 SIDE queries, chunk of 4 SIDE DEPTH rows of o), chunks
// fastest; every chunk recomputes the scores.
// Tiles of 4 SIDE keys are visited in order. A thread computes 4 queries x 4 keys of the scores in registers over the
// whole of dim, shares their exponentials through workgroup memory, and accumulates 4 queries x 4 DEPTH rows of o.
// Numerics: online softmax (running maximum and sum, Milakov and Gimelshein 2018); every sum in a fixed order.

const SIDE: u32 = 8u;
const DEPTH: u32 = 2u;
alias Element = vec4<f32>; // as q, k and v are stored; the descriptor makes it f32, and VECTOR 1, where queries or keys are no multiple of 4
alias Quad = vec4<f32>; // four values as stored
alias Scalar = f32; // one
const VECTOR: u32 = 4u;
const TILE: u32 = 4u * SIDE;
const STAGE: u32 = 16u; // keys of v in workgroup memory at a time; a multiple of 4 that divides TILE
const LOWEST: f32 = -3.0e38;

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
@group(0) @binding(4) var<storage, read_write> o: array<Scalar>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

// Vectors run over 4 queries in the first two, over 4 rows of v in the last.
var<workgroup> shares: array<vec4<f32>, SIDE * SIDE>;
var<workgroup> weights: array<vec4<f32>, TILE * SIDE>;
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

/** Puts STAGE keys of the chunk's rows of v into `values`, transposed. */
fn stage_values(lane: u32, base: u32, first_row: u32, first_key: u32) {
  for (var i = lane; i < (STAGE / 4u) * SIDE * DEPTH; i += SIDE * SIDE) {
    let start = base + four(first_key + 4u * (i % (STAGE / 4u)), params.keys);
    let rows = four(first_row + 4u * (i / (STAGE / 4u)), params.dim);
    let slot = 4u * (i % (STAGE / 4u)) * (SIDE * DEPTH) + i / (STAGE / 4u);
    let values0 = v_at(start + rows.x * params.keys);
    let values1 = v_at(start + rows.y * params.keys);
    let values2 = v_at(start + rows.z * params.keys);
    let values3 = v_at(start + rows.w * params.keys);
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
  let v_base = sample * params.kv_batch + params.v_start;
  let q_base = sample * params.q_batch + four(first_query, params.queries);

  var accumulators = array<vec4<f32>, 4u * DEPTH>();
  var peak = vec4<f32>(LOWEST);
  var total = vec4<f32>(0.0); // over this thread's keys
  for (var first_key = 0u; first_key < params.keys; first_key += TILE) {
    var qi = q_base;
    var ki = k_base + four(first_key + 4u * column, params.keys);
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    for (var d = 0u; d < params.dim; d++) {
      let q4 = q_at(qi);
      let k4 = k_at(ki);
      s0 = fma(vec4<f32>(k4.x), q4, s0);
      s1 = fma(vec4<f32>(k4.y), q4, s1);
      s2 = fma(vec4<f32>(k4.z), q4, s2);
      s3 = fma(vec4<f32>(k4.w), q4, s3);
      qi += params.queries;
      ki += params.keys;
    }
    let key = first_key + 4u * column;
    s0 = select(vec4<f32>(LOWEST), params.scale * s0, key < params.keys);
    s1 = select(vec4<f32>(LOWEST), params.scale * s1, key + 1u < params.keys);
    s2 = select(vec4<f32>(LOWEST), params.scale * s2, key + 2u < params.keys);
    s3 = select(vec4<f32>(LOWEST), params.scale * s3, key + 3u < params.keys);
    shares[column * SIDE + row] = max(max(s0, s1), max(s2, s3));
    workgroupBarrier();
    let last_peak = peak;
    for (var i = 0u; i < SIDE; i++) {
      peak = max(peak, shares[i * SIDE + row]);
    }
    let decay = exp(last_peak - peak);
    s0 = exp(s0 - peak);
    s1 = exp(s1 - peak);
    s2 = exp(s2 - peak);
    s3 = exp(s3 - peak);
    total = fma(total, decay, (s0 + s1) + (s2 + s3));
    weights[(4u * column) * SIDE + row] = s0;
    weights[(4u * column + 1u) * SIDE + row] = s1;
    weights[(4u * column + 2u) * SIDE + row] = s2;
    weights[(4u * column + 3u) * SIDE + row] = s3;
    // @unroll
    for (var i = 0u; i < 4u * DEPTH; i++) {
      accumulators[i] *= decay;
    }
    let present = min(TILE, params.keys - first_key);
    for (var stage = 0u; stage < present; stage += STAGE) {
      if (stage > 0u) {
        workgroupBarrier();
      }
      stage_values(lane, v_base, first_row, first_key + stage);
      workgroupBarrier();
      let staged = min(STAGE, present - stage);
      for (var j = 0u; j < staged; j++) {
        let weight = weights[(stage + j) * SIDE + row];
        // @unroll
        for (var c = 0u; c < DEPTH; c++) {
          let value = values[j * (SIDE * DEPTH) + c * SIDE + column];
          accumulators[c * 4u] = fma(vec4<f32>(value.x), weight, accumulators[c * 4u]);
          accumulators[c * 4u + 1u] = fma(vec4<f32>(value.y), weight, accumulators[c * 4u + 1u]);
          accumulators[c * 4u + 2u] = fma(vec4<f32>(value.z), weight, accumulators[c * 4u + 2u]);
          accumulators[c * 4u + 3u] = fma(vec4<f32>(value.w), weight, accumulators[c * 4u + 3u]);
        }
      }
    }
  }

  shares[column * SIDE + row] = total;
  workgroupBarrier();
  total = vec4<f32>(0.0);
  for (var i = 0u; i < SIDE; i++) {
    total += shares[i * SIDE + row];
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
            o[(sample * params.dim + d) * params.queries + first_query + n] = Scalar(accumulators[c * 4u + i][n] / total[n]);
          }
        }
      }
      if (column == 0u && chunk == 0u) {
        lse[sample * params.queries + first_query + n] = peak[n] + log(total[n]);
      }
    }
  }
}
