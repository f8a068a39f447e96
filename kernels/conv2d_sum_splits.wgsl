// Sum of the parts of a split reduction, in the order of the splits: out[i] = sum over k of part[k * count + i].
//
// part [splits, count], out [count]. Bindings: 0 uniforms, 1 part, 2 out.
// Dispatch: linear workgroups = ceil(count / 64).

struct Shape {
  count: u32,
  splits: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> part: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = (wid.x + wid.y * num.x) * 64u + lane;
  if (i >= shape.count) {
    return;
  }
  var sum = 0.0;
  for (var k = 0u; k < shape.splits; k++) {
    sum += part[k * shape.count + i];
  }
  out[i] = sum;
}
