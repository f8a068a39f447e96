// Winograd's F(4x4, 3x3), the middle step: the matrix products of transformed weights and tiles, one for each plane.
//
//   m[p, o, t] = sum over c of u[p, c, o] v[p, c, t]
//
// u [PLANES, channels, 4 w_quads], v [PLANES, channels, 4 quads], m [PLANES, 4 w_quads, 4 quads]; w_quads is a multiple of
// OUT_QUADS, channels one of STEP.
// Bindings: 0 uniforms, 1 u, 2 v, 3 m, all in vec4s.
// A thread holds OUT_QUADS runs of four channels x TILE_QUADS runs of four tiles (tiles_across runs apart) in registers and
// adds STEP input channels an iteration.
// Dispatch: linear workgroups = ceil(PLANES * tiles_down * tiles_across / 32), tiles_down = w_quads / OUT_QUADS,
// tiles_across = ceil(quads / TILE_QUADS).
// Numerics: f32, summed in order of c. Past the last tile arbitrary values are read; their sums are never stored.

struct Shape {
  channels: u32,
  w_quads: u32,
  quads: u32,
  tiles_down: u32,
  tiles_across: u32,
}

const PLANES: u32 = 36u;
const OUT_QUADS: u32 = 4u;
const TILE_QUADS: u32 = 4u;
const STEP: u32 = 4u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> m: array<vec4<f32>>;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = (wid.x + wid.y * num.x) * GROUP + lane;
  let plane = tile / (shape.tiles_down * shape.tiles_across);
  if (plane >= PLANES) {
    return;
  }
  let down = tile / shape.tiles_across % shape.tiles_down * OUT_QUADS;
  let across = tile % shape.tiles_across;

  var acc = array<vec4<f32>, OUT_QUADS * 4 * TILE_QUADS>();
  var u_at = plane * shape.channels * shape.w_quads + down;
  var v_at = plane * shape.channels * shape.quads + across;
  for (var c = 0u; c < shape.channels; c += STEP) {
    // @unroll
    for (var k = 0u; k < STEP; k++) {
      var left = array<vec4<f32>, OUT_QUADS>();
      var right = array<vec4<f32>, TILE_QUADS>();
      // @unroll
      for (var q = 0u; q < OUT_QUADS; q++) {
        left[q] = u[u_at + q];
      }
      // @unroll
      for (var q = 0u; q < TILE_QUADS; q++) {
        right[q] = v[v_at + q * shape.tiles_across];
      }
      // @unroll
      for (var o = 0u; o < OUT_QUADS * 4; o++) {
        // @unroll
        for (var q = 0u; q < TILE_QUADS; q++) {
          acc[o * TILE_QUADS + q] = fma(vec4<f32>(left[o / 4u][o % 4u]), right[q], acc[o * TILE_QUADS + q]);
        }
      }
      u_at += shape.w_quads;
      v_at += shape.quads;
    }
  }
  // @unroll
  for (var o = 0u; o < OUT_QUADS * 4; o++) {
    // @unroll
    for (var q = 0u; q < TILE_QUADS; q++) {
      let run = across + q * shape.tiles_across;
      if (run < shape.quads) {
        m[((plane * shape.w_quads + down) * 4u + o) * shape.quads + run] = acc[o * TILE_QUADS + q];
      }
    }
  }
}
