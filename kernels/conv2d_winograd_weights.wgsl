// Winograd's F(4x4, 3x3) of the weights: every 3x3 filter g becomes G g G', 36 numbers in planes.
//
//   u[6 a + b, c, o] = sum over i, j of G[a, i] G[b, j] w[o * w_out + c * w_in + tap],
//   tap = 3 i + j, or 8 - (3 i + j) if w_flip is 1
//   G = (1 0 0; -2/3 -s/3 -1/3; -2/3 s/3 -1/3; 1/6 s/6 1/3; 1/6 -s/6 1/3; 0 0 1),  s = sqrt(2)
//
// u [36, u_channels, 4 w_quads]; past in_channels it is zero, past out_channels it repeats the last.
// Bindings: 0 uniforms, 1 w, 2 u in vec4s of outputs. Dispatch: linear workgroups = ceil(u_channels * w_quads / 64).
// Numerics: f32.

struct Shape {
  in_channels: u32,
  u_channels: u32,
  out_channels: u32,
  w_quads: u32,
  w_out: u32,
  w_in: u32,
  w_flip: u32,
}

const ROOT: f32 = 1.41421356;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> u: array<vec4<f32>>;

// G applied to three numbers.
fn widen(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> array<vec4<f32>, 6> {
  let outer = (2.0 * a + c) / 3.0;
  let inner = (a + 2.0 * c) / 6.0;
  let odd = ROOT / 6.0 * b;
  return array<vec4<f32>, 6>(a, -outer - 2.0 * odd, 2.0 * odd - outer, inner + odd, inner - odd, c);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let thread = (wid.x + wid.y * num.x) * 64u + lane;
  let plane = shape.u_channels * shape.w_quads;
  if (thread >= plane) {
    return;
  }
  let first = thread % shape.w_quads * 4u;
  let out = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(shape.out_channels - 1u));
  let channel = thread / shape.w_quads;
  let at = out * shape.w_out + channel * shape.w_in;
  var taps = array<vec4<f32>, 9>();
  if (channel < shape.in_channels) {
    // @unroll
    for (var i = 0u; i < 9u; i++) {
      let tap = at + select(i, 8u - i, shape.w_flip == 1u);
      taps[i] = vec4<f32>(w[tap.x], w[tap.y], w[tap.z], w[tap.w]);
    }
  }
  let left = widen(taps[0], taps[3], taps[6]);
  let middle = widen(taps[1], taps[4], taps[7]);
  let right = widen(taps[2], taps[5], taps[8]);
  // @unroll
  for (var a = 0u; a < 6u; a++) {
    let line = widen(left[a], middle[a], right[a]);
    // @unroll
    for (var b = 0u; b < 6u; b++) {
      u[(6u * a + b) * plane + thread] = line[b];
    }
  }
}
