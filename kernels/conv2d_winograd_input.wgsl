// Winograd's F(4x4, 3x3), first step: every 6x6 patch d of the images becomes B' d B, 36 numbers in planes.
//
//   v[6 a + b, c, t] = sum over r, q of B[r, a] B[q, b] x[n, c, 4 i + r - 1, 4 j + q - 1]   for tile first + t = (n, i, j)
//   B' = (1 0 -5/2 0 1 0; 0 -s -2 s/2 1 0; 0 s -2 -s/2 1 0; 0 -s/2 -1/2 s 1 0; 0 s/2 -1/2 -s 1 0; 0 1 0 -5/2 0 1),
//   s = sqrt(2)
//
// x [batch, channels, height, width], zero outside, width a multiple of 4; v [36, v_channels, 4 quads]. Past the last
// channel and the last of the `tiles` = batch * ceil(height / 4) * width / 4 it repeats the last.
// Bindings: 0 uniforms, 1 x in vec4s, 2 x in scalars, 3 v in vec4s of tiles.
// A thread takes four tiles of one channel, each beside the one before or at the left edge.
// Dispatch: linear workgroups = ceil(v_channels * quads / 64).
// Numerics: f32.

struct Shape {
  first: u32,
  tiles: u32,
  quads: u32,
  channels: u32,
  v_channels: u32,
  height: u32,
  width: u32,
}

alias Scalar = f32; // of x as stored
alias Quad = vec4<f32>;
const ROOT: f32 = 1.41421356;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x_quads: array<Quad>;
@group(0) @binding(2) var<storage, read> x: array<Scalar>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;

// B' applied to six numbers.
fn transform(
  d0: vec4<f32>,
  d1: vec4<f32>,
  d2: vec4<f32>,
  d3: vec4<f32>,
  d4: vec4<f32>,
  d5: vec4<f32>,
) -> array<vec4<f32>, 6> {
  let outer = d4 - 2.0 * d2;
  let outer_odd = ROOT * (0.5 * d3 - d1);
  let inner = d4 - 0.5 * d2;
  let inner_odd = ROOT * (d3 - 0.5 * d1);
  return array<vec4<f32>, 6>(
    d0 - 2.5 * d2 + d4,
    outer + outer_odd,
    outer - outer_odd,
    inner + inner_odd,
    inner - inner_odd,
    d1 - 2.5 * d3 + d5,
  );
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let thread = (wid.x + wid.y * num.x) * 64u + lane;
  let plane = shape.v_channels * shape.quads;
  if (thread >= plane) {
    return;
  }
  let channel = min(thread / shape.quads, shape.channels - 1u);
  let first = shape.first + thread % shape.quads * 4u;
  let tile = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(shape.tiles - 1u));
  let across = shape.width / 4u;
  let down = (shape.height + 3u) / 4u;
  let column = tile % across;
  // The row above the tile; above the image it wraps around and is far outside.
  let top = tile / across % down * 4u - 1u;
  let at = ((tile / (across * down) * shape.channels + channel) * shape.height + top) * across + column;
  let at_left = column == vec4<u32>();
  let at_right = column == vec4<u32>(across - 1u);

  var lines = array<array<vec4<f32>, 6>, 6>();
  // @unroll
  for (var r = 0u; r < 6u; r++) {
    let inside = top + r < vec4<u32>(shape.height);
    let pixel = at + r * across;
    let q0 = select(vec4<f32>(), vec4<f32>(x_quads[pixel.x]), inside.x);
    let q1 = select(vec4<f32>(), vec4<f32>(x_quads[pixel.y]), inside.y);
    let q2 = select(vec4<f32>(), vec4<f32>(x_quads[pixel.z]), inside.z);
    let q3 = select(vec4<f32>(), vec4<f32>(x_quads[pixel.w]), inside.w);
    let before = select(0.0, f32(x[4u * pixel.x - 1u]), inside.x);
    let after = select(0.0, f32(x[4u * pixel.w + 4u]), inside.w);
    lines[r] = transform(
      select(vec4<f32>(before, q0.w, q1.w, q2.w), vec4<f32>(), at_left),
      vec4<f32>(q0.x, q1.x, q2.x, q3.x),
      vec4<f32>(q0.y, q1.y, q2.y, q3.y),
      vec4<f32>(q0.z, q1.z, q2.z, q3.z),
      vec4<f32>(q0.w, q1.w, q2.w, q3.w),
      select(vec4<f32>(q1.x, q2.x, q3.x, after), vec4<f32>(), at_right),
    );
  }
  // @unroll
  for (var b = 0u; b < 6u; b++) {
    let rows = transform(lines[0][b], lines[1][b], lines[2][b], lines[3][b], lines[4][b], lines[5][b]);
    // @unroll
    for (var a = 0u; a < 6u; a++) {
      v[(6u * a + b) * plane + thread] = rows[a];
    }
  }
}
