// Random parameters of EDM's augmentation (Karras et al. 2022, appendix F.2): labels, and where pixels come from.
//
//   uniforms [batch, 10], normals [batch, 4]  ->  labels [batch, 9], transforms [batch, 8]
//
//   uniforms  0 x flip (at 1/2 and above)   1 y flip (likewise), 2 whether      3 scaling: whether
//             4 rotation: angle, 5 whether    6 stretching: axis, 7 whether, 8 whether along that axis (below 1/2)
//             9 translation: whether          every other "whether" is true below p
//   normals   0 log2 of the scaling / 0.2   1 log2 of the stretching / 0.2   2, 3 translation / (0.125 extent)
//   labels    x flip, y flip, scaling, cos - 1 and sin of the rotation, stretching along the axis' two components,
//             translation along x and y; 0 where nothing was done
//   transforms  a b c, d e f: at (x, y) is shown what was at (a x + b y + c, d x + e y + f), both counted from the image's
//             centre at twice its resolution; then 1 where x is flipped and 1 where y is, which happens before
//
// Bindings: 0 shape, 1 uniforms, 2 normals (read), 3 labels, 4 transforms (written).
// Dispatch: ceil(batch / 64) workgroups, one thread per image.
// Numerics: f32; cos and sin are computed here, because WGSL promises far less than f32 has.

struct Shape { batch: u32, p: f32, width: f32, height: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> uniforms: array<f32>;
@group(0) @binding(2) var<storage, read> normals: array<f32>;
@group(0) @binding(3) var<storage, read_write> labels: array<f32>;
@group(0) @binding(4) var<storage, read_write> transforms: array<f32>;

// (cos 2 pi v, sin 2 pi v) for v in [0, 1].
fn cos_sin_turns(v: f32) -> vec2<f32> {
  let quarter = round(4.0 * v);
  let r = 6.2831853 * (v - 0.25 * quarter);
  let s = r * r;
  let c = 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * 2.4801587e-5)));
  let d = r * (1.0 + s * (-0.16666667 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6))));
  let turned = select(vec2<f32>(c, d), vec2<f32>(-d, c), (u32(quarter) & 1u) == 1u);
  return select(turned, -turned, (u32(quarter) & 2u) == 2u);
}

// Matrix of the rotation with this cosine and sine.
fn rotation(turn: vec2<f32>) -> mat2x2<f32> {
  return mat2x2<f32>(turn.x, turn.y, -turn.y, turn.x);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let n = (wid.x + wid.y * num.x) * 64u + thread;
  if (n >= shape.batch) { return; }
  let u = 10u * n;
  let z = 4u * n;
  let flip_x = select(0.0, 1.0, uniforms[u] >= 0.5);
  let flip_y = select(0.0, 1.0, uniforms[u + 1u] >= 0.5 && uniforms[u + 2u] < shape.p);
  let scaling = select(0.0, normals[z], uniforms[u + 3u] < shape.p);
  let turn = select(vec2<f32>(1.0, 0.0), -cos_sin_turns(uniforms[u + 4u]), uniforms[u + 5u] < shape.p);
  let stretching = select(0.0, normals[z + 1u], uniforms[u + 7u] < shape.p);
  let axis = select(vec2<f32>(1.0, 0.0), -cos_sin_turns(uniforms[u + 6u]), uniforms[u + 8u] < 0.5);
  let moved = uniforms[u + 9u] < shape.p;
  let translation = select(vec2<f32>(0.0), vec2<f32>(normals[z + 2u], normals[z + 3u]), moved);

  let stretch = exp2(0.2 * stretching);
  let along = rotation(axis);
  let stretched = transpose(along) * mat2x2<f32>(1.0 / stretch, 0.0, 0.0, stretch) * along;
  let linear = exp2(-0.2 * scaling) * (rotation(turn) * stretched);
  let offset = linear * (-0.125 * translation * vec2<f32>(shape.width, shape.height));

  let l = 9u * n;
  labels[l] = flip_x;
  labels[l + 1u] = flip_y;
  labels[l + 2u] = scaling;
  labels[l + 3u] = turn.x - 1.0;
  labels[l + 4u] = turn.y;
  labels[l + 5u] = stretching * axis.x;
  labels[l + 6u] = stretching * axis.y;
  labels[l + 7u] = translation.x;
  labels[l + 8u] = translation.y;
  let t = 8u * n;
  transforms[t] = linear[0].x;
  transforms[t + 1u] = linear[1].x;
  transforms[t + 2u] = 2.0 * offset.x;
  transforms[t + 3u] = linear[0].y;
  transforms[t + 4u] = linear[1].y;
  transforms[t + 5u] = 2.0 * offset.y;
  transforms[t + 6u] = flip_x;
  transforms[t + 7u] = flip_y;
}
