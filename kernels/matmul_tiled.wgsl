// Batched matrix product out[i] = A[i] B[i] through tiles in workgroup memory: for adapters whose workgroup memory is
// faster than their caches. Several splits of k leave partial sums, which reduce.ts adds.
//
//   A[i][r][k] = a[i * a_batch + r * a_row + k * a_inner],  B[i][k][c] = b[i * b_batch + k * b_inner + c * b_column]
//
// out [splits, batch, m, n]; strides, in scalars, express transposed operands, a batch stride of 0 one matrix shared by
// all products. Split s sums k from s * k_per_split (a multiple of 16) on.
// Bindings: 0 uniforms, 1 a in vec4s, 2 a in scalars, 3 b in vec4s, 4 b in scalars, 5 out in vec4s, 6 out in scalars; out
// is written through the first where out_quads is 1, through the second otherwise. a_access and b_access say how an
// operand is read: 0 in scalars, 1 in vec4s along k, 2 in vec4s across k.
// A workgroup of THREADS x THREADS computes a tile of 4 QUADS THREADS rows and columns, 16 steps of k at a time. A thread
// computes QUADS runs of four rows x QUADS runs of four columns, runs THREADS runs apart: neighbours read and write
// neighbouring vec4s. Of 32 neighbouring threads 8 lie side by side, so that they read 4 + 8 different vec4s.
// A tile holds a vec4 of rows (columns) for each k. Operands are loaded as blocks of four by four; run q of step k lies
// at q ^ (k / 4 * 2), so that eight neighbouring threads, who store two runs of four different k / 4, meet no bank twice.
// Dispatch: linear workgroups = splits * batch * tiles_m * tiles_n, tiles of n fastest.
// Numerics: f32, summed in order of k. Outside the matrices the tiles hold zeros.

struct Shape {
  splits: u32,
  batch: u32,
  m: u32,
  n: u32,
  k: u32,
  k_per_split: u32,
  tiles_m: u32,
  tiles_n: u32,
  a_batch: u32,
  a_row: u32,
  a_inner: u32,
  b_batch: u32,
  b_inner: u32,
  b_column: u32,
  a_access: u32,
  b_access: u32,
  out_quads: u32,
}

const QUADS: u32 = 2u;
const THREADS: u32 = 8u;
const GROUP: u32 = THREADS * THREADS;
const RUNS: u32 = QUADS * THREADS;
const STEP: u32 = 16u;
const BLOCKS: u32 = RUNS * 4u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> a_quads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> b_quads: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read_write> out_quads: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

var<workgroup> a_tile: array<vec4<f32>, STEP * RUNS>;
var<workgroup> b_tile: array<vec4<f32>, STEP * RUNS>;

// Four rows of A for each of four k; 0 past the last row and from `end` on.
fn load_a(origin: u32, row: u32, k: u32, end: u32) -> mat4x4<f32> {
  var block = mat4x4<f32>();
  if (shape.a_access == 1u) {
    // @unroll
    for (var r = 0u; r < 4u; r++) {
      if ((row + r < shape.m) & (k < end)) {
        block[r] = a_quads[(origin + (row + r) * shape.a_row + k) / 4u];
      }
    }
    return transpose(block);
  }
  if (shape.a_access == 2u) {
    // @unroll
    for (var j = 0u; j < 4u; j++) {
      if (row < shape.m && k + j < end) {
        block[j] = a_quads[(origin + (k + j) * shape.a_inner + row) / 4u];
      }
    }
    return block;
  }
  // @unroll
  for (var j = 0u; j < 4u; j++) {
    // @unroll
    for (var r = 0u; r < 4u; r++) {
      let value = a[origin + (row + r) * shape.a_row + (k + j) * shape.a_inner];
      block[j][r] = select(0.0, value, (row + r < shape.m) & (k + j < end));
    }
  }
  return block;
}

// Four columns of B for each of four k; 0 past the last column and from `end` on.
fn load_b(origin: u32, column: u32, k: u32, end: u32) -> mat4x4<f32> {
  var block = mat4x4<f32>();
  if (shape.b_access == 1u) {
    // @unroll
    for (var c = 0u; c < 4u; c++) {
      if ((column + c < shape.n) & (k < end)) {
        block[c] = b_quads[(origin + (column + c) * shape.b_column + k) / 4u];
      }
    }
    return transpose(block);
  }
  if (shape.b_access == 2u) {
    // @unroll
    for (var j = 0u; j < 4u; j++) {
      if (column < shape.n && k + j < end) {
        block[j] = b_quads[(origin + (k + j) * shape.b_inner + column) / 4u];
      }
    }
    return block;
  }
  // @unroll
  for (var j = 0u; j < 4u; j++) {
    // @unroll
    for (var c = 0u; c < 4u; c++) {
      let value = b[origin + (column + c) * shape.b_column + (k + j) * shape.b_inner];
      block[j][c] = select(0.0, value, (column + c < shape.n) & (k + j < end));
    }
  }
  return block;
}

@compute @workgroup_size(GROUP)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  let product = group / (shape.tiles_m * shape.tiles_n);
  if (product >= shape.splits * shape.batch) {
    return;
  }
  let first_row = group / shape.tiles_n % shape.tiles_m * (4u * RUNS);
  let first_column = group % shape.tiles_n * (4u * RUNS);
  let a_origin = product % shape.batch * shape.a_batch;
  let b_origin = product % shape.batch * shape.b_batch;
  let begin = product / shape.batch * shape.k_per_split;
  let end = min(shape.k, begin + shape.k_per_split);

  let across = lane % 8u + lane / 32u % (THREADS / 8u) * 8u;
  let down = lane / 8u % 4u + lane / (4u * THREADS) % (THREADS / 4u) * 4u;
  // Where there are fewer blocks than threads, the first threads load A and the last ones B.
  let loads_a = lane < BLOCKS;
  let loads_b = lane >= GROUP - BLOCKS;
  let a_quad = lane % 4u;
  let a_run = lane / 4u;
  let b_quad = (lane - (GROUP - BLOCKS)) % 4u;
  let b_run = (lane - (GROUP - BLOCKS)) / 4u;

  var acc = array<vec4<f32>, QUADS * QUADS * 4>();
  for (var k = begin; k < end; k += STEP) {
    var a_block = mat4x4<f32>();
    var b_block = mat4x4<f32>();
    if (loads_a) {
      a_block = load_a(a_origin, first_row + a_run * 4u, k + a_quad * 4u, end);
    }
    if (loads_b) {
      b_block = load_b(b_origin, first_column + b_run * 4u, k + b_quad * 4u, end);
    }
    workgroupBarrier(); // Every thread is done with the tiles of the steps before.
    // @unroll
    for (var j = 0u; j < 4u; j++) {
      if (loads_a) {
        a_tile[(a_quad * 4u + j) * RUNS + (a_run ^ (a_quad * 2u))] = a_block[j];
      }
      if (loads_b) {
        b_tile[(b_quad * 4u + j) * RUNS + (b_run ^ (b_quad * 2u))] = b_block[j];
      }
    }
    workgroupBarrier();
    for (var quad = 0u; quad < STEP / 4u; quad++) {
      let a_at = quad * 4u * RUNS + (down ^ (quad * 2u));
      let b_at = quad * 4u * RUNS + (across ^ (quad * 2u));
      // @unroll
      for (var j = 0u; j < 4u; j++) {
        var left = array<vec4<f32>, QUADS>();
        var right = array<vec4<f32>, QUADS>();
        // @unroll
        for (var q = 0u; q < QUADS; q++) {
          left[q] = a_tile[a_at + j * RUNS + q * THREADS];
          right[q] = b_tile[b_at + j * RUNS + q * THREADS];
        }
        // @unroll
        for (var r = 0u; r < QUADS * 4; r++) {
          // @unroll
          for (var q = 0u; q < QUADS; q++) {
            acc[r * QUADS + q] = fma(vec4<f32>(left[r / 4u][r % 4u]), right[q], acc[r * QUADS + q]);
          }
        }
      }
    }
  }

  // @unroll
  for (var r = 0u; r < QUADS * 4; r++) {
    let row = first_row + (r / 4u * THREADS + down) * 4u + r % 4u;
    let start = (product * shape.m + row) * shape.n;
    // @unroll
    for (var q = 0u; q < QUADS; q++) {
      let column = first_column + (q * THREADS + across) * 4u;
      if ((row < shape.m) & (column < shape.n)) {
        if (shape.out_quads == 1u) {
          out_quads[(start + column) / 4u] = acc[r * QUADS + q];
        } else {
          // @unroll
          for (var c = 0u; c < 4u; c++) {
            if (column + c < shape.n) {
              out[start + column + c] = acc[r * QUADS + q][c];
            }
          }
        }
      }
    }
  }
}
