// One step of Adam with decoupled weight decay (AdamW, as PyTorch computes it) and of the parameters' moving average.
//
//   g = scale * grad                             m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
//   p = (1 - lr decay) p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//   ema = ema_beta ema + (1 - ema_beta) p
//
// All vectors are flat, of `count` elements of the type below. Nothing changes where control's `finite` is 0.
//
// Bindings: 0 shape, 1 grad (read), 2 hyper [4] (read): lr, 1 - beta1^t, 1 - beta2^t, ema_beta; 3 control [2] (read):
// scale, finite; 4 p, 5 m, 6 v, 7 ema (all read and written).
// Element type: vec4<f32> where the vectors' length is a multiple of four; else the descriptor writes f32 in its place.
// Constants: SANITISE (see below).
// Dispatch: ceil(count / 64) workgroups, one thread per element, linear over x and y.
// Numerics: f32; 1 - beta is rounded once, on the host.

struct Shape {
  count: u32,
  beta1: f32,
  one_minus_beta1: f32,
  beta2: f32,
  one_minus_beta2: f32,
  epsilon: f32,
  decay: f32,
  zero: u32, // which compilers do not know
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> hyper: array<f32>;
@group(0) @binding(3) var<storage, read> control: array<f32>;
@group(0) @binding(4) var<storage, read_write> p: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> ema: array<vec4<f32>>;

const SANITISE: bool = false;

// NaN as 0, +-infinity as +-1e5 (EDM's training). By their bits: compilers may take for granted that there are none, and
// LLVM's see through a plain test of the bits.
fn sanitised(g: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(g) ^ vec4<u32>(shape.zero);
  let magnitude = bits & vec4<u32>(0x7fffffffu);
  let infinite = magnitude == vec4<u32>(0x7f800000u);
  let bounded = select(g, select(vec4<f32>(1e5), vec4<f32>(-1e5), bits != magnitude), infinite);
  return select(bounded, vec4<f32>(0.0), magnitude > vec4<u32>(0x7f800000u));
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count || control[1] == 0.0) { return; }
  let lr = hyper[0];
  var g = control[0] * grad[t];
  if (SANITISE) { g = sanitised(g); }
  let m1 = shape.beta1 * m[t] + shape.one_minus_beta1 * g;
  let v1 = shape.beta2 * v[t] + shape.one_minus_beta2 * (g * g);
  let denominator = sqrt(v1) / sqrt(hyper[2]) + shape.epsilon;
  let p1 = (1.0 - lr * shape.decay) * p[t] - (lr / hyper[1]) * (m1 / denominator);
  m[t] = m1;
  v[t] = v1;
  p[t] = p1;
  ema[t] = hyper[3] * ema[t] + (1.0 - hyper[3]) * p1;
}
