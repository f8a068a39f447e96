// Bytes to floats: images picked by index, or a whole buffer.
//
//   y[t] = scale * byte[indices[t / per_image] * per_image + t % per_image] + shift      (GATHER)
//   y[t] = scale * byte[t] + shift                                                      (otherwise)
//
// data holds bytes, four a word, the first in the lowest bits. Indices are trusted; past the end WebGPU reads anything.
// With MIRROR every image counts twice: the index 2 i is image i, 2 i + 1 the same with its rows reversed. With PART data
// holds the images from `first` on, `images` of them, and the pixels of all others are 0.
//
// Bindings: 0 shape (count = elements of y), 1 data (read), 2 indices (read; anything without GATHER), 3 y (written).
// Constants: GATHER, MIRROR, PART. Dispatch: ceil(count / 64) workgroups, one thread per element of y, linear over x and y.
// Numerics: f32, one multiply-add.

struct Shape { per_image: u32, width: u32, count: u32, first: u32, images: u32, scale: f32, shift: f32 }

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> data: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const GATHER: bool = true;
const MIRROR: bool = false;
const PART: bool = false;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) wid: vec3<u32>,
  @builtin(num_workgroups) num: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = (wid.x + wid.y * num.x) * 64u + thread;
  if (t >= shape.count) { return; }
  var at = t;
  if (GATHER) {
    let n = t / shape.per_image;
    var index = indices[n];
    if (MIRROR) {
      let column = t % shape.width;
      if ((index & 1u) == 1u) { at += shape.width - 1u - 2u * column; }
      index >>= 1u;
    }
    if (PART) {
      index -= shape.first; // wraps round to a large number where it is less
      if (index >= shape.images) {
        y[t] = 0.0;
        return;
      }
    }
    at += (index - n) * shape.per_image;
  }
  let byte = (data[at >> 2u] >> (8u * (at & 3u))) & 0xffu;
  y[t] = fma(f32(byte), shape.scale, shape.shift);
}
