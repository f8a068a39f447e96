// Weights of convolutions in the order in which conv2d_rows.wgsl reads them: outputs side by side, padded with zeros;
// any number of filters of one buffer at once.
//
//   packed[packed_at + (c * taps + tap) * padded_out + o]
//     = w[w_at + o * stride_out + c * stride_in + (tap, or taps - 1 - tap if flip is 1)], 0 where o >= out_channels
//
// padded_out is a multiple of 4. table, in vec4s: for each of `blocks` workgroups the number of its job in x; then the
// jobs, three vec4s each, in the order of struct Job.
// Bindings: 0 uniforms, 1 w, 2 table, 3 packed in vec4s (out).
// Dispatch: linear workgroups = blocks, the sum of ceil(quads / (64 * QUADS)) over the jobs, quads = in_channels * taps *
// padded_out / 4; a thread writes QUADS vec4s, a workgroup's width apart.

struct Shape {
  blocks: u32,
}

struct Job {
  first_block: u32,
  packed_at: u32,
  w_at: u32,
  quads: u32,
  taps: u32,
  out_channels: u32,
  padded_out: u32,
  stride_out: u32,
  stride_in: u32,
  flip: u32,
}

const QUADS: u32 = 4u;
alias Quad = vec4<f32>; // as stored

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<Quad>;

fn read_job(at: u32) -> Job {
  let a = table[at];
  let b = table[at + 1u];
  let c = table[at + 2u];
  return Job(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, c.x, c.y);
}

fn read_weight(job: Job, at: u32, o: u32) -> f32 {
  // Past the last output some weight is read, and not used.
  let value = w[at + min(o, job.out_channels - 1u) * job.stride_out];
  return select(0.0, value, o < job.out_channels);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let block = wid.x + wid.y * num.x;
  if (block >= shape.blocks) {
    return;
  }
  let job = read_job(shape.blocks + table[block].x * 3u);
  let per_tap = job.padded_out / 4u;
  for (var q = 0u; q < QUADS; q++) {
    let i = ((block - job.first_block) * QUADS + q) * 64u + lane;
    if (i < job.quads) {
      let o = i % per_tap * 4u;
      let tap = i / per_tap % job.taps;
      let c = i / (per_tap * job.taps);
      let at = job.w_at + c * job.stride_in + select(tap, job.taps - 1u - tap, job.flip == 1u);
      out[job.packed_at / 4u + i] = Quad(vec4<f32>(
        read_weight(job, at, o),
        read_weight(job, at, o + 1u),
        read_weight(job, at, o + 2u),
        read_weight(job, at, o + 3u),
      ));
    }
  }
}
