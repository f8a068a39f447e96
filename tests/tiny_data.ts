/** A data set small enough to train on in a test. */

import { encodeNpz, type NpyArray } from "../src/io/npz.ts";
import { uniformSource } from "./gpu.ts";

/** An npz file of `count` images of `channels` x 8 x 8, each of one of `classes` classes: as bright as the class is high. */
export function tinyImages(count: number, channels: number, classes = 1): Uint8Array<ArrayBuffer> {
  const uniform = uniformSource(5), size = 64 * channels;
  const label = (i: number) => i % classes;
  const data = Uint8Array.from(
    { length: count * size },
    (_, i) => Math.floor(256 * (label(Math.floor(i / size)) + uniform()) / classes),
  );
  const images: NpyArray = { dtype: "u1", shape: [count, 8, 8, channels], data };
  const labels: NpyArray = {
    dtype: "u1",
    shape: [count],
    data: Uint8Array.from({ length: count }, (_, i) => label(i)),
  };
  return encodeNpz(classes > 1 ? { images, labels } : { images });
}
