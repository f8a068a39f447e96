// First step of the attention gradient:  delta = sum over dim of dO o, for every query.
//
// d_o, o [batch, dim, queries]; lse [batch, queries]; stats [batch, queries] receives lse and delta side by side.
// Dispatch: one thread a query, 64 a workgroup.

alias Scalar = f32; // as d_o and o are stored

struct Params {
  dim: u32,
  queries: u32,
  count: u32, // batch * queries
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_o: array<Scalar>;
@group(0) @binding(2) var<storage, read> o: array<Scalar>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = (wid.x + wid.y * num.x) * 64u + lane;
  if (index >= params.count) {
    return;
  }
  var at = index / params.queries * params.dim * params.queries + index % params.queries;
  var delta = 0.0;
  for (var d = 0u; d < params.dim; d++) {
    delta = fma(f32(d_o[at]), f32(o[at]), delta);
    at += params.queries;
  }
  stats[index] = vec2<f32>(lse[index], delta);
}
