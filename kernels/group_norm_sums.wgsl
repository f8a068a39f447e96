// Gradients of what multiplies and shifts a group normalisation with a scale and a shift a sample,
// z = (gamma_c h + beta_c) (1 + scale_nc) + shift_nc, from each sample's channel sums.
//
//   dscale_nc = gamma_c sum dz h + beta_c sum dz,         dshift_nc = sum dz,
//   dgamma_c  = sum_n (1 + scale_nc) sum dz h,            dbeta_c   = sum_n (1 + scale_nc) sum dz.
// sums [2, batch, channels]: sum dz h, sum dz; gamma, beta, dgamma, dbeta [channels]; scale, dscale, dshift [batch, channels].
// Dispatch: linear workgroups = ceil(channels / 64); a thread takes one channel through the batch in order.

struct Params {
  batch: u32,
  channels: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read> scale: array<f32>;
@group(0) @binding(5) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(6) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dscale: array<f32>;
@group(0) @binding(8) var<storage, read_write> dshift: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let channel = (wid.x + wid.y * num.x) * 64u + lane;
  if (channel >= params.channels) {
    return;
  }
  let own = vec2<f32>(gamma[channel], beta[channel]);
  var total = vec2<f32>(0.0);
  for (var n = 0u; n < params.batch; n++) {
    let index = n * params.channels + channel;
    let sample = vec2<f32>(sums[index], sums[params.batch * params.channels + index]);
    dscale[index] = dot(own, sample);
    dshift[index] = sample.y;
    total += (1.0 + scale[index]) * sample;
  }
  dgamma[channel] = total.x;
  dbeta[channel] = total.y;
}
