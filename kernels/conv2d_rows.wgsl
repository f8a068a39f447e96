// Correlation of stride 1 with a KERNEL x KERNEL filter (3 or 1) and padding (KERNEL - 1) / 2, for rows that are whole
// vec4s, from packed weights: the convolution, and (weights packed flipped, channels exchanged) its input gradient.
//
//   y[n, o, i, j] = residual_scale * residual[n, o, i, j] + scale * (bias[o] + shift[n, o]
//                            + sum over c, a, b of x[n, c, i + a - pad, j + b - pad] * w[c, KERNEL a + b, o])
//
// x [batch, in_channels, height, width], y and residual [batch, out_channels, height, width], bias [out_channels],
// shift [batch, out_channels]; w is packed by conv2d_pack.wgsl: [in_channels, KERNEL^2, w_quads vec4s of outputs].
// Bindings: 0 uniforms, 1 x in vec4s, 2 x in scalars, 3 w, 4 bias, 5 shift, 6 residual, 7 y in vec4s; of 4 to 6 those
// are read whose bit is set in `terms` (1 bias, 2 shift, 4 residual).
// A tile is HEIGHT rows of QUADS vec4s of one sample. A thread computes CHANNELS output channels of one tile and walks
// through the input channels; every row of x is loaded once for all filter rows. Neighbouring threads hold neighbouring
// tiles. EDGES is 0 where a tile is as wide as the image, WHOLE is 1 where it is as high.
// Dispatch: linear workgroups = ceil(out_channels / CHANNELS) * blocks, blocks = ceil(tiles / 32),
// tiles = batch * ceil(height / HEIGHT) * width / (4 QUADS).
// Numerics: f32, summed over input channels, then filter rows, then filter columns. Past the edges arbitrary values are
// read; they are masked, or their sums never stored.

struct Shape {
  blocks: u32,
  tiles: u32,
  tiles_down: u32,
  tiles_across: u32,
  in_channels: u32,
  out_channels: u32,
  height: u32,
  width: u32,
  w_quads: u32,
  terms: u32,
  scale: f32,
  residual_scale: f32,
}

alias Scalar = f32; // of x, w, residual and y as stored
alias Quad = vec4<f32>;
const KERNEL: u32 = 3u;
const CHANNELS: u32 = 8u;
const HEIGHT: u32 = 2u;
const QUADS: u32 = 2u;
const EDGES: u32 = 0u;
const WHOLE: u32 = 0u;
const GROUP: u32 = 32u;

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x_quads: array<Quad>;
@group(0) @binding(2) var<storage, read> x: array<Scalar>;
@group(0) @binding(3) var<storage, read> w: array<Quad>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> shift: array<f32>;
@group(0) @binding(6) var<storage, read> residual: array<Quad>;
@group(0) @binding(7) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = wid.x + wid.y * num.x;
  let first_out = group / shape.blocks * CHANNELS;
  let tile = group % shape.blocks * GROUP + lane;
  let line = tile / shape.tiles_across;
  let sample = line / shape.tiles_down;
  let row = line % shape.tiles_down * HEIGHT;
  let column = tile % shape.tiles_across * (4u * QUADS);
  let plane = shape.height * shape.width;

  var acc = array<vec4<f32>, CHANNELS * HEIGHT * QUADS>();
  var x_at = (sample * shape.in_channels * shape.height + row) * shape.width + column - KERNEL / 2u * shape.width;
  var w_at = first_out / 4u;
  for (var c = 0u; c < shape.in_channels; c++) {
    var weights = array<vec4<f32>, KERNEL * KERNEL * CHANNELS / 4>();
    // @unroll
    for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
      // @unroll
      for (var q = 0u; q < CHANNELS / 4; q++) {
        weights[tap * (CHANNELS / 4u) + q] = vec4<f32>(w[w_at + tap * shape.w_quads + q]);
      }
    }
    // @unroll
    for (var i = 0u; i < HEIGHT + KERNEL / 2 * 2; i++) {
      // Rows above the image wrap around and are far outside.
      let inside = row + i - KERNEL / 2u < shape.height;
      let at = x_at + i * shape.width;
      if (WHOLE == 0u || (i >= KERNEL / 2u && i < HEIGHT + KERNEL / 2u)) {
        // Quad q of the row as the filter's left, middle and right column see it.
        var seen = array<vec4<f32>, QUADS * 3>();
        // @unroll
        for (var q = 0u; q < QUADS; q++) {
          seen[q * 3u + 1u] = select(vec4<f32>(), vec4<f32>(x_quads[at / 4u + q]), inside);
        }
        if (KERNEL > 1u) {
          var before = 0.0;
          var after = 0.0;
          if (EDGES == 1u) {
            before = select(0.0, f32(x[at - 1u]), inside && column > 0u);
            after = select(0.0, f32(x[at + 4u * QUADS]), inside && column + 4u * QUADS < shape.width);
          }
          // @unroll
          for (var q = 0u; q < QUADS; q++) {
            let middle = seen[q * 3u + 1u];
            if (q > 0u) {
              before = seen[(q + QUADS - 1u) % QUADS * 3u + 1u].w;
            }
            seen[q * 3u] = vec4<f32>(before, middle.xyz);
            var next = after;
            if (q + 1u < QUADS) {
              next = seen[(q + 1u) % QUADS * 3u + 1u].x;
            }
            seen[q * 3u + 2u] = vec4<f32>(middle.yzw, next);
          }
        }
        // @unroll
        for (var a = 0u; a < KERNEL; a++) {
          if (i >= a && i - a < HEIGHT) {
            // @unroll
            for (var b = 0u; b < KERNEL; b++) {
              // @unroll
              for (var o = 0u; o < CHANNELS; o++) {
                let weight = weights[(a * KERNEL + b) * (CHANNELS / 4u) + o / 4u][o % 4u];
                // @unroll
                for (var q = 0u; q < QUADS; q++) {
                  acc[(o * HEIGHT + (i + KERNEL * HEIGHT - a) % HEIGHT) * QUADS + q] = fma(
                    vec4<f32>(weight),
                    seen[q * 3u + b + 1u - KERNEL / 2u],
                    acc[(o * HEIGHT + (i + KERNEL * HEIGHT - a) % HEIGHT) * QUADS + q],
                  );
                }
              }
            }
          }
        }
      }
    }
    x_at += plane;
    w_at += KERNEL * KERNEL * shape.w_quads;
  }

  if (tile >= shape.tiles) {
    return;
  }
  // @unroll
  for (var o = 0u; o < CHANNELS; o++) {
    if (first_out + o < shape.out_channels) {
      let channel = sample * shape.out_channels + first_out + o;
      var offset = 0.0;
      if ((shape.terms & 1u) != 0u) {
        offset = bias[first_out + o];
      }
      if ((shape.terms & 2u) != 0u) {
        offset += shift[channel];
      }
      // @unroll
      for (var i = 0u; i < HEIGHT; i++) {
        if (row + i < shape.height) {
          let at = ((channel * shape.height + row + i) * shape.width + column) / 4u;
          // @unroll
          for (var q = 0u; q < QUADS; q++) {
            var value = shape.scale * (acc[(o * HEIGHT + i) * QUADS + q] + offset);
            if ((shape.terms & 4u) != 0u) {
              value = fma(vec4<f32>(shape.residual_scale), vec4<f32>(residual[at + q]), value);
            }
            y[at + q] = Quad(value);
          }
        }
      }
    }
  }
}
