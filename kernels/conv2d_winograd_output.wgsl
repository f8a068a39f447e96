// Winograd's F(4x4, 3x3), last step: the 36 products of each tile become 4x4 pixels.
//
//   y[n, o, 4 i + k, 4 j + l] = residual_scale * residual[n, o, 4 i + k, 4 j + l] + scale * (bias[o] + shift[n, o]
//                       + sum over a, b of A[a, k] A[b, l] m[6 a + b, o, t])   for tile first + t = (n, i, j)
//   A' = (1 1 1 1 1 0; 0 s/2 -s/2 s -s 0; 0 1/2 1/2 2 2 0; 0 s/4 -s/4 2s -2s 1),  s = sqrt(2)
//
// m [36, 4 w_quads, 4 quads]; y and residual [batch, out_channels, height, width], bias [out_channels],
// shift [batch, out_channels]; width is a multiple of 4. Tiles past `tiles` = batch * ceil(height / 4) * width / 4 are left.
// Bindings: 0 uniforms, 1 m in vec4s of tiles, 2 bias, 3 shift, 4 residual in vec4s, 5 y in vec4s; of 2 to 4 those are read
// whose bit is set in `terms` (1 bias, 2 shift, 4 residual).
// A thread takes four tiles of one channel. Dispatch: linear workgroups = ceil(out_channels * quads / 64).
// Numerics: f32.

struct Shape {
  first: u32,
  tiles: u32,
  quads: u32,
  out_channels: u32,
  w_quads: u32,
  height: u32,
  width: u32,
  terms: u32,
  scale: f32,
  residual_scale: f32,
}

alias Quad = vec4<f32>; // of residual and y as stored
const ROOT: f32 = 1.41421356;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> m: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<Quad>;
@group(0) @binding(5) var<storage, read_write> y: array<Quad>;

// A' applied to six numbers.
fn transform(
  m0: vec4<f32>,
  m1: vec4<f32>,
  m2: vec4<f32>,
  m3: vec4<f32>,
  m4: vec4<f32>,
  m5: vec4<f32>,
) -> mat4x4<f32> {
  let inner = m1 + m2;
  let inner_odd = ROOT * (m1 - m2);
  let outer = m3 + m4;
  let outer_odd = ROOT * (m3 - m4);
  return mat4x4<f32>(
    m0 + inner + outer,
    0.5 * inner_odd + outer_odd,
    0.5 * inner + 2.0 * outer,
    0.25 * inner_odd + 2.0 * outer_odd + m5,
  );
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let thread = (wid.x + wid.y * num.x) * 64u + lane;
  if (thread >= shape.out_channels * shape.quads) {
    return;
  }
  let plane = 4u * shape.w_quads * shape.quads;
  var lines = array<mat4x4<f32>, 6>();
  // @unroll
  for (var a = 0u; a < 6u; a++) {
    let at = 6u * a * plane + thread;
    lines[a] = transform(
      m[at],
      m[at + plane],
      m[at + 2u * plane],
      m[at + 3u * plane],
      m[at + 4u * plane],
      m[at + 5u * plane],
    );
  }
  // Column l of the pixels: entry k is row k, of four tiles.
  let left = transform(lines[0][0], lines[1][0], lines[2][0], lines[3][0], lines[4][0], lines[5][0]);
  let second = transform(lines[0][1], lines[1][1], lines[2][1], lines[3][1], lines[4][1], lines[5][1]);
  let third = transform(lines[0][2], lines[1][2], lines[2][2], lines[3][2], lines[4][2], lines[5][2]);
  let right = transform(lines[0][3], lines[1][3], lines[2][3], lines[3][3], lines[4][3], lines[5][3]);

  let out = thread / shape.quads;
  let first = shape.first + thread % shape.quads * 4u;
  let across = shape.width / 4u;
  let down = (shape.height + 3u) / 4u;
  // @unroll
  for (var j = 0u; j < 4u; j++) {
    let tile = first + j;
    if (tile < shape.tiles) {
      let channel = tile / (across * down) * shape.out_channels + out;
      let top = tile / across % down * 4u;
      let at = (channel * shape.height + top) * across + tile % across;
      var offset = 0.0;
      if ((shape.terms & 1u) != 0u) {
        offset = bias[out];
      }
      if ((shape.terms & 2u) != 0u) {
        offset += shift[channel];
      }
      // @unroll
      for (var k = 0u; k < 4u; k++) {
        if (top + k < shape.height) {
          var value = shape.scale * (vec4<f32>(left[k][j], second[k][j], third[k][j], right[k][j]) + offset);
          if ((shape.terms & 4u) != 0u) {
            value = fma(vec4<f32>(shape.residual_scale), vec4<f32>(residual[at + k * across]), value);
          }
          y[at + k * across] = Quad(value);
        }
      }
    }
  }
}
