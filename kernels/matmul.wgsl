// Batched matrix product out[i] = A[i] B[i], each operand given by its row, column and batch strides.
//
//   A[i][r][k] = a[a_start + i * a_batch + r * a_row + k * a_inner]
//   B[i][k][c] = b[b_start + i * b_batch + k * b_inner + c * b_column]
//
// out: [m, n] matrices, out_batch elements apart from out_start on; strides express transposed operands, a batch stride of 0 one matrix shared by all products.
// Bindings: 0 uniforms, 1 a, 2 b, 3 out.
// A thread holds ROWS neighbouring rows x COLUMNS columns in registers; its columns are tiles_n = ceil(n / COLUMNS)
// apart, so that neighbouring threads read neighbouring columns. matmul_quads.wgsl does the same for operands of whole
// vec4s.
// Dispatch: linear workgroups = ceil(batch * tiles_m * tiles_n / 32), tiles_m = ceil(m / ROWS).
// Numerics: f32, summed in order of k. Past the edges arbitrary values are read; their sums are never stored.

struct Shape {
  batch: u32,
  m: u32,
  n: u32,
  k: u32,
  tiles_m: u32,
  tiles_n: u32,
  a_start: u32,
  a_batch: u32,
  a_row: u32,
  a_inner: u32,
  b_start: u32,
  b_batch: u32,
  b_inner: u32,
  b_column: u32,
  out_start: u32,
  out_batch: u32,
}

const ROWS: u32 = 8u;
const COLUMNS: u32 = 8u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = (wid.x + wid.y * num.x) * GROUP + lane;
  let i = tile / (shape.tiles_m * shape.tiles_n);
  if (i >= shape.batch) {
    return;
  }
  let row = tile / shape.tiles_n % shape.tiles_m * ROWS;
  let column = tile % shape.tiles_n;

  var acc = array<f32, ROWS * COLUMNS>();
  var a_at = shape.a_start + i * shape.a_batch + row * shape.a_row;
  var b_at = shape.b_start + i * shape.b_batch + column * shape.b_column;
  let b_step = shape.tiles_n * shape.b_column;
  for (var k = 0u; k < shape.k; k++) {
    var left = array<f32, ROWS>();
    // @unroll
    for (var r = 0u; r < ROWS; r++) {
      left[r] = a[a_at + r * shape.a_row];
    }
    // @unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let right = b[b_at + c * b_step];
      // @unroll
      for (var r = 0u; r < ROWS; r++) {
        acc[r * COLUMNS + c] = fma(left[r], right, acc[r * COLUMNS + c]);
      }
    }
    a_at += shape.a_inner;
    b_at += shape.b_inner;
  }

  // @unroll
  for (var r = 0u; r < ROWS; r++) {
    let start = shape.out_start + i * shape.out_batch + (row + r) * shape.n;
    // @unroll
    for (var c = 0u; c < COLUMNS; c++) {
      if (row + r < shape.m && column + c * shape.tiles_n < shape.n) {
        out[start + column + c * shape.tiles_n] = acc[r * COLUMNS + c];
      }
    }
  }
}
