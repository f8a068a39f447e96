/** Orders of the axes of images. */

/** Images [N, C, H, W] as [N, H, W, C]. */
export function toNHWC(pixels: Uint8Array, channels: number, height: number, width: number): Uint8Array<ArrayBuffer> {
  const plane = height * width;
  const result = new Uint8Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) {
    const image = Math.floor(i / (channels * plane)), channel = Math.floor(i / plane) % channels;
    result[(image * plane + i % plane) * channels + channel] = pixels[i]!;
  }
  return result;
}
