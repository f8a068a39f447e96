// Attention's gradients with respect to its keys and values in registers, without barriers; dS is stored for dq.
//
// With p = exp(scale q^T k - lse) and dS = scale p (dO^T v - delta):  dv = dO p,  dk = q dS.
// Channel-first: q, d_o [batch, dim, queries]; k, v, dk, dv [batch, dim, keys]; stats (lse and delta) [batch, queries];
// slopes (dS) [batch, queries up to a multiple of QUERIES, keys], the rest 0. q, k and v, and likewise dk and dv, may be
// ranges of one buffer: their batch strides and starts are parameters.
// Dispatch: one thread for 4 QUADS neighbouring keys of a sample, 8 a workgroup.
// Blocks of QUERIES queries are visited in order. A thread holds p and dS of their pairs with its keys, and adds their
// share of every row of dk and dv in memory. Branches are few: SwiftShader compiles for minutes where every one of the
// unrolled stores has its own.
// Numerics: every sum in a fixed order. Past the edges arbitrary values are read; what comes of them is never stored.

alias Element = vec4<f32>; // the descriptor makes it f32, and VECTOR 1, where queries or keys are no multiple of 4
const VECTOR: u32 = 4u;
const QUADS: u32 = 2u;
const QUERIES: u32 = 16u; // a multiple of 4
const PACKED: u32 = 0u; // 1: dv is a range of the buffer dk, and the buffer dv is not used
const GROUP: u32 = 8u;

struct Params {
  threads: u32,
  tiles: u32, // of keys
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
@group(0) @binding(6) var<storage, read_write> slopes: array<Element>;
@group(0) @binding(7) var<storage, read_write> dk: array<Element>;
@group(0) @binding(8) var<storage, read_write> dv: array<Element>;

/** Indices of four neighbours from `first`, kept below `count`. */
fn four(first: u32, count: u32) -> vec4<u32> {
  return min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(count - 1u));
}

// Four neighbours of one row at their indices: one Element, or four scalars splatted to make either branch valid.
fn q_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(q[at.x / 4u]);
  }
  return vec4<f32>(vec4<f32>(q[at.x]).x, vec4<f32>(q[at.y]).x, vec4<f32>(q[at.z]).x, vec4<f32>(q[at.w]).x);
}

fn k_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(k[at.x / 4u]);
  }
  return vec4<f32>(vec4<f32>(k[at.x]).x, vec4<f32>(k[at.y]).x, vec4<f32>(k[at.z]).x, vec4<f32>(k[at.w]).x);
}

fn v_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(v[at.x / 4u]);
  }
  return vec4<f32>(vec4<f32>(v[at.x]).x, vec4<f32>(v[at.y]).x, vec4<f32>(v[at.z]).x, vec4<f32>(v[at.w]).x);
}

fn d_o_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(d_o[at.x / 4u]);
  }
  return vec4<f32>(vec4<f32>(d_o[at.x]).x, vec4<f32>(d_o[at.y]).x, vec4<f32>(d_o[at.z]).x, vec4<f32>(d_o[at.w]).x);
}

fn dk_at(at: vec4<u32>) -> vec4<f32> {
  if (VECTOR == 4u) {
    return vec4<f32>(dk[at.x / 4u]);
  }
  return vec4<f32>(vec4<f32>(dk[at.x]).x, vec4<f32>(dk[at.y]).x, vec4<f32>(dk[at.z]).x, vec4<f32>(dk[at.w]).x);
}

fn dv_at(at: vec4<u32>) -> vec4<f32> {
  if (PACKED == 1u) {
    return dk_at(at);
  }
  if (VECTOR == 4u) {
    return vec4<f32>(dv[at.x / 4u]);
  }
  return vec4<f32>(vec4<f32>(dv[at.x]).x, vec4<f32>(dv[at.y]).x, vec4<f32>(dv[at.z]).x, vec4<f32>(dv[at.w]).x);
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
  let first_key = index % params.tiles * (4u * QUADS);
  let k_base = sample * params.kv_batch + params.k_start;
  let v_base = sample * params.kv_batch + params.v_start;
  let padded_queries = (params.queries + QUERIES - 1u) / QUERIES * QUERIES;
  var mine = array<vec4<u32>, QUADS>();
  // @unroll
  for (var c = 0u; c < QUADS; c++) {
    mine[c] = four(first_key + 4u * c, params.keys);
  }

  for (var first_query = 0u; first_query < params.queries; first_query += QUERIES) {
    var theirs = array<vec4<u32>, QUERIES / 4u>();
    // @unroll
    for (var g = 0u; g < QUERIES / 4u; g++) {
      theirs[g] = four(first_query + 4u * g, params.queries);
    }

    // Scores, then p, and dP, then dS: entry j * QUADS + c is query j, keys of vec4 c.
    var p = array<vec4<f32>, QUERIES * QUADS>();
    var ds = array<vec4<f32>, QUERIES * QUADS>();
    var q_row = sample * params.q_batch;
    var d_o_row = sample * params.dim * params.queries;
    var k_row = k_base;
    var v_row = v_base;
    for (var d = 0u; d < params.dim; d++) {
      var key = array<vec4<f32>, QUADS>();
      var value = array<vec4<f32>, QUADS>();
      // @unroll
      for (var c = 0u; c < QUADS; c++) {
        key[c] = k_at(k_row + mine[c]);
        value[c] = v_at(v_row + mine[c]);
      }
      // @unroll
      for (var g = 0u; g < QUERIES / 4u; g++) {
        let query = q_at(q_row + theirs[g]);
        let slope = d_o_at(d_o_row + theirs[g]);
        // @unroll
        for (var i = 0u; i < 4u; i++) {
          // @unroll
          for (var c = 0u; c < QUADS; c++) {
            p[(4u * g + i) * QUADS + c] = fma(vec4<f32>(query[i]), key[c], p[(4u * g + i) * QUADS + c]);
            ds[(4u * g + i) * QUADS + c] = fma(vec4<f32>(slope[i]), value[c], ds[(4u * g + i) * QUADS + c]);
          }
        }
      }
      q_row += params.queries;
      d_o_row += params.queries;
      k_row += params.keys;
      v_row += params.keys;
    }

    // @unroll
    for (var j = 0u; j < QUERIES; j++) {
      let stat = stats[sample * params.queries + min(first_query + j, params.queries - 1u)];
      // @unroll
      for (var c = 0u; c < QUADS; c++) {
        let weight = exp(fma(vec4<f32>(params.scale), p[j * QUADS + c], vec4<f32>(-stat.x)));
        p[j * QUADS + c] = select(vec4<f32>(0.0), weight, first_query + j < params.queries);
        ds[j * QUADS + c] = params.scale * p[j * QUADS + c] * (ds[j * QUADS + c] - stat.y);
      }
    }
    let slopes_start = (sample * padded_queries + first_query) * params.keys + first_key;
    // @unroll
    for (var c = 0u; c < QUADS; c++) {
      // @unroll
      for (var i = 0u; i < 4u / VECTOR; i++) {
        if (first_key + 4u * c + i < params.keys) {
          // @unroll
          for (var j = 0u; j < QUERIES; j++) {
            slopes[(slopes_start + j * params.keys + 4u * c + i) / VECTOR] = element(ds[j * QUADS + c], i);
          }
        }
      }
    }

    q_row = sample * params.q_batch;
    d_o_row = sample * params.dim * params.queries;
    k_row = k_base;
    v_row = v_base;
    for (var d = 0u; d < params.dim; d++) {
      var dk_sums = array<vec4<f32>, QUADS>();
      var dv_sums = array<vec4<f32>, QUADS>();
      if (first_query > 0u) {
        // @unroll
        for (var c = 0u; c < QUADS; c++) {
          dk_sums[c] = dk_at(k_row + mine[c]);
          dv_sums[c] = dv_at(v_row + mine[c]);
        }
      }
      // @unroll
      for (var g = 0u; g < QUERIES / 4u; g++) {
        let query = q_at(q_row + theirs[g]);
        let slope = d_o_at(d_o_row + theirs[g]);
        // @unroll
        for (var i = 0u; i < 4u; i++) {
          // @unroll
          for (var c = 0u; c < QUADS; c++) {
            dk_sums[c] = fma(vec4<f32>(query[i]), ds[(4u * g + i) * QUADS + c], dk_sums[c]);
            dv_sums[c] = fma(vec4<f32>(slope[i]), p[(4u * g + i) * QUADS + c], dv_sums[c]);
          }
        }
      }
      // @unroll
      for (var c = 0u; c < QUADS; c++) {
        // @unroll
        for (var i = 0u; i < 4u / VECTOR; i++) {
          if (first_key + 4u * c + i < params.keys) {
            dk[(k_row + first_key + 4u * c + i) / VECTOR] = element(dk_sums[c], i);
            if (PACKED == 1u) {
              dk[(v_row + first_key + 4u * c + i) / VECTOR] = element(dv_sums[c], i);
            } else {
              dv[(v_row + first_key + 4u * c + i) / VECTOR] = element(dv_sums[c], i);
            }
          }
        }
      }
      q_row += params.queries;
      d_o_row += params.queries;
      k_row += params.keys;
      v_row += params.keys;
    }
  }
}
