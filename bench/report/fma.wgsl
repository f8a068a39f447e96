// The adapter's arithmetic ceiling: fused multiply-adds in registers, nothing else.
//
//   ACCUMULATORS vec4 values a thread, each 8 * LOOPS times acc = fma(acc, a, b), summed into y at the end.
//
// Bindings: 0 shape: loops; 1 x (read): a, then b, then the values the accumulators start from; 2 y (written), one vec4
// a thread. That a, b, the number of loops and the start come from memory and the sum goes there keeps a compiler from
// computing anything beforehand or leaving it out.
// Dispatch: any number of workgroups of 64 threads, linear over x.
// Flops: 64 * 8 * LOOPS * ACCUMULATORS * 8 a workgroup.

const ACCUMULATORS: u32 = 2u;

struct Shape {
  loops: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let a = vec4<f32>(x[0]);
  let b = vec4<f32>(x[1]);
  var acc: array<vec4<f32>, ACCUMULATORS>;
  // @unroll
  for (var i = 0; i < ACCUMULATORS; i++) {
    acc[i] = vec4<f32>(x[2u + i]) + f32(id.x);
  }
  for (var loop_index = 0u; loop_index < shape.loops; loop_index++) {
    // @unroll
    for (var step = 0; step < 8; step++) {
      // @unroll
      for (var i = 0; i < ACCUMULATORS; i++) {
        acc[i] = fma(acc[i], a, b);
      }
    }
  }
  var total = vec4<f32>(0.0);
  // @unroll
  for (var i = 0; i < ACCUMULATORS; i++) {
    total += acc[i];
  }
  y[id.x] = total;
}
