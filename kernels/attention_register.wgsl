// Attention in registers, without barriers:  o = softmax(scale q^T k) v,  lse = log sum exp of the scaled scores.
//
// Channel-first: q, o [batch, dim, queries]; k, v [batch, dim, keys]; lse [batch, queries]. q, k and v may be ranges of
// one buffer: their batch strides and starts are parameters.
// Dispatch: one thread for 4 QUADS neighbouring queries of a sample, 8 a workgroup.
// Blocks of KEYS keys are visited in order. A thread holds their scores for its queries, and adds their share of every
// row of o in memory: o is rescaled where the running maximum grows.
// Numerics: online softmax (running maximum and sum, Milakov and Gimelshein 2018); every sum in a fixed order. Past the
// edges arbitrary values are read; what comes of them is never stored.

alias Element = vec4<f32>; // the descriptor makes both f32, and VECTOR 1, where queries or keys are no multiple of 4
alias Stored = vec4<f32>; // Element as q, k, v and o are stored
alias Quad = vec4<f32>; // four values as stored
const VECTOR: u32 = 4u;
const QUADS: u32 = 2u;
const KEYS: u32 = 16u; // a multiple of 4
const GROUP: u32 = 8u;
const LOWEST: f32 = -3.0e38;

struct Params {
  threads: u32,
  tiles: u32, // of queries
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
@group(0) @binding(1) var<storage, read> q: array<Stored>;
@group(0) @binding(2) var<storage, read> k: array<Stored>;
@group(0) @binding(3) var<storage, read> v: array<Stored>;
@group(0) @binding(4) var<storage, read_write> o: array<Stored>;
@group(0) @binding(5) var<storage, read_write> lse: array<Element>;

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

fn o_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(Quad(o[at.x / 4u]));
  }
  return vec4<f32>(vec4<f32>(Quad(o[at.x])).x, vec4<f32>(Quad(o[at.y])).x, vec4<f32>(Quad(o[at.z])).x, vec4<f32>(Quad(o[at.w])).x);
}

/** Component i of what is to be stored, or all of it. */
fn element(values: vec4<f32>, i: u32) -> Element {
  return values; // where Element is f32 the descriptor makes it values[i]
}

@compute @workgroup_size(8)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = (wid.x + wid.y * num.x) * GROUP + lane;
  if (index >= params.threads) {
    return;
  }
  let sample = index / params.tiles;
  let first_query = index % params.tiles * (4u * QUADS);
  let o_base = sample * params.dim * params.queries;
  let lse_base = sample * params.queries;
  let kv_base = sample * params.kv_batch;
  var mine = array<vec4<u32>, QUADS>();
  var peaks = array<vec4<f32>, QUADS>();
  var totals = array<vec4<f32>, QUADS>();
  // @unroll
  for (var c = 0u; c < QUADS; c++) {
    mine[c] = four(first_query + 4u * c, params.queries);
    peaks[c] = vec4<f32>(LOWEST);
  }

  for (var first_key = 0u; first_key < params.keys; first_key += KEYS) {
    var theirs = array<vec4<u32>, KEYS / 4u>();
    // @unroll
    for (var g = 0u; g < KEYS / 4u; g++) {
      theirs[g] = four(first_key + 4u * g, params.keys);
    }

    // Scores, then their exponentials: entry j * QUADS + c is key j, queries of vec4 c.
    var p = array<vec4<f32>, KEYS * QUADS>();
    var q_row = sample * params.q_batch;
    var k_row = kv_base + params.k_start;
    for (var d = 0u; d < params.dim; d++) {
      var left = array<vec4<f32>, QUADS>();
      // @unroll
      for (var c = 0u; c < QUADS; c++) {
        left[c] = q_at(q_row + mine[c]);
      }
      // @unroll
      for (var g = 0u; g < KEYS / 4u; g++) {
        let right = k_at(k_row + theirs[g]);
        // @unroll
        for (var i = 0u; i < 4u; i++) {
          // @unroll
          for (var c = 0u; c < QUADS; c++) {
            p[(4u * g + i) * QUADS + c] = fma(vec4<f32>(right[i]), left[c], p[(4u * g + i) * QUADS + c]);
          }
        }
      }
      q_row += params.queries;
      k_row += params.keys;
    }

    var decays = array<vec4<f32>, QUADS>();
    // @unroll
    for (var c = 0u; c < QUADS; c++) {
      var peak = peaks[c];
      // @unroll
      for (var j = 0u; j < KEYS; j++) {
        p[j * QUADS + c] = select(vec4<f32>(LOWEST), params.scale * p[j * QUADS + c], first_key + j < params.keys);
        peak = max(peak, p[j * QUADS + c]);
      }
      decays[c] = exp(peaks[c] - peak);
      peaks[c] = peak;
      totals[c] *= decays[c];
      // @unroll
      for (var j = 0u; j < KEYS; j++) {
        p[j * QUADS + c] = exp(p[j * QUADS + c] - peak);
        totals[c] += p[j * QUADS + c];
      }
      // The last block leaves o divided by the sum.
      let factor = select(vec4<f32>(1.0), 1.0 / totals[c], first_key + KEYS >= params.keys);
      decays[c] *= factor;
      // @unroll
      for (var j = 0u; j < KEYS; j++) {
        p[j * QUADS + c] *= factor;
      }
    }

    var o_row = o_base;
    var v_row = kv_base + params.v_start;
    for (var d = 0u; d < params.dim; d++) {
      var sums = array<vec4<f32>, QUADS>();
      if (first_key > 0u) {
        // @unroll
        for (var c = 0u; c < QUADS; c++) {
          sums[c] = decays[c] * o_at(o_row + mine[c]);
        }
      }
      // @unroll
      for (var g = 0u; g < KEYS / 4u; g++) {
        let right = v_at(v_row + theirs[g]);
        // @unroll
        for (var i = 0u; i < 4u; i++) {
          // @unroll
          for (var c = 0u; c < QUADS; c++) {
            sums[c] = fma(vec4<f32>(right[i]), p[(4u * g + i) * QUADS + c], sums[c]);
          }
        }
      }
      // @unroll
      for (var c = 0u; c < QUADS; c++) {
        // @unroll
        for (var i = 0u; i < 4u / VECTOR; i++) {
          if (first_query + 4u * c + i < params.queries) {
            o[(o_row + first_query + 4u * c + i) / VECTOR] = Stored(element(sums[c], i));
          }
        }
      }
      o_row += params.queries;
      v_row += params.keys;
    }
  }

  // @unroll
  for (var c = 0u; c < QUADS; c++) {
    let levels = peaks[c] + log(totals[c]);
    // @unroll
    for (var i = 0u; i < 4u / VECTOR; i++) {
      if (first_query + 4u * c + i < params.queries) {
        lse[(lse_base + first_query + 4u * c + i) / VECTOR] = element(levels, i);
      }
    }
  }
}
