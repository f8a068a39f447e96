// Column sums of two matrices with the same number of rows: sum_a[i] = sum over k of a[k, i], sum_b[j] likewise.
//
// a [rows, count_a], b [rows, count_b] from element start_b on (its buffer may be a's), sum_a [count_a], sum_b [count_b].
// Bindings: 0 uniforms, 1 a, 2 b, 3 sum_a, 4 sum_b.
// Dispatch: linear workgroups = ceil((count_a + count_b) / 64); a thread sums one column in the order of the rows.

struct Shape {
  rows: u32,
  count_a: u32,
  count_b: u32,
  start_b: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> sum_a: array<f32>;
@group(0) @binding(4) var<storage, read_write> sum_b: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = (wid.x + wid.y * num.x) * 64u + lane;
  var sum = 0.0;
  if (i < shape.count_a) {
    for (var k = 0u; k < shape.rows; k++) {
      sum += a[k * shape.count_a + i];
    }
    sum_a[i] = sum;
  } else if (i < shape.count_a + shape.count_b) {
    let j = i - shape.count_a;
    for (var k = 0u; k < shape.rows; k++) {
      sum += b[shape.start_b + k * shape.count_b + j];
    }
    sum_b[j] = sum;
  }
}
