// Batched matrix product out[i] = A[i] B[i] for operands whose contiguous axes, and k, are whole vec4s.
//
// a: [batch, m, k], or [batch, k, m] where TRANSPOSE_A is 1; b: [batch, k, n], or [batch, n, k] where TRANSPOSE_B is 1;
// out [batch, m, n]. Of every operand the matrices begin at a start and lie a batch stride apart: 0 stands for one matrix
// shared by all products. Of a and b these, and the strides of their lines, are in vec4s; of out in scalars.
// Bindings: 0 uniforms, 1 a in vec4s, 2 b in vec4s, 3 out in scalars.
// A thread holds 8 neighbouring rows x 8 columns in registers (two runs of four columns, tiles_n runs apart) and adds
// four steps of k at a time, for which it loads 8 vec4s of either operand, along k or across it as they are stored.
// Dispatch: linear workgroups = ceil(batch * tiles_m * tiles_n / 32), tiles_m = ceil(m / 8), tiles_n = ceil(n / 8).
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
  a_line: u32,
  b_start: u32,
  b_batch: u32,
  b_line: u32,
  out_start: u32,
  out_batch: u32,
}

const TRANSPOSE_A: u32 = 0u;
const TRANSPOSE_B: u32 = 0u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
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
  let row = tile / shape.tiles_n % shape.tiles_m * 8u;
  let column = tile % shape.tiles_n * 4u;
  let run = shape.tiles_n * 4u;

  var acc = array<f32, 64>();
  var a_at = shape.a_start + i * shape.a_batch + select(row * shape.a_line, row / 4u, TRANSPOSE_A == 1u);
  var b_at = shape.b_start + i * shape.b_batch + select(column / 4u, column * shape.b_line, TRANSPOSE_B == 1u);
  for (var k = 0u; k < shape.k; k += 4u) {
    // Entry q is row q at four k, or (transposed) k = q / 2 at four rows.
    var left = array<vec4<f32>, 8>();
    // Entry q is k = q / 2 at four columns, or (transposed) column q at four k.
    var right = array<vec4<f32>, 8>();
    // @unroll
    for (var q = 0u; q < 8u; q++) {
      left[q] = a[a_at + select(q * shape.a_line, q / 2u * shape.a_line + q % 2u, TRANSPOSE_A == 1u)];
      right[q] = b[b_at + select(
        q / 2u * shape.b_line + q % 2u * shape.tiles_n,
        (q / 4u * run + q % 4u) * shape.b_line,
        TRANSPOSE_B == 1u,
      )];
    }
    // @unroll
    for (var j = 0u; j < 4u; j++) {
      // @unroll
      for (var r = 0u; r < 8u; r++) {
        // @unroll
        for (var c = 0u; c < 8u; c++) {
          acc[r * 8u + c] = fma(
            left[(1u - TRANSPOSE_A) * r + TRANSPOSE_A * (2u * j + r / 4u)]
              [(1u - TRANSPOSE_A) * j + TRANSPOSE_A * (r % 4u)],
            right[(1u - TRANSPOSE_B) * (2u * j + c / 4u) + TRANSPOSE_B * c]
              [(1u - TRANSPOSE_B) * (c % 4u) + TRANSPOSE_B * j],
            acc[r * 8u + c],
          );
        }
      }
    }
    a_at += select(1u, 4u * shape.a_line, TRANSPOSE_A == 1u);
    b_at += select(4u * shape.b_line, 1u, TRANSPOSE_B == 1u);
  }

  // @unroll
  for (var r = 0u; r < 8u; r++) {
    let start = shape.out_start + i * shape.out_batch + (row + r) * shape.n;
    // @unroll
    for (var c = 0u; c < 8u; c++) {
      let at = column + c / 4u * run + c % 4u;
      if (row + r < shape.m && at < shape.n) {
        out[start + at] = acc[r * 8u + c];
      }
    }
  }
}
