/** Writes the digits with a tenth of the images of the classes 5 to 9: `deno run -A bench/studies/unbalanced_digits.ts OUT.npz`. */

import { loadDigits } from "../../src/data/digits.ts";
import { writeFileAtomic } from "../../src/io/disk.ts";
import { encodeNpz } from "../../src/io/npz.ts";

const [out] = Deno.args;
if (out === undefined) {
  console.error("error: the file to write is missing, as in unbalanced.npz.");
  Deno.exit(2);
}
const { pixels, labels, height, width } = await loadDigits();
const counts = new Array<number>(10).fill(0);
const kept = [...labels.keys()].filter((i) => {
  const label = labels[i]!;
  return counts[label]!++ % (label < 5 ? 1 : 10) === 0;
});
const perImage = height * width;
const images = new Uint8Array(kept.length * perImage);
kept.forEach((i, to) => images.set(pixels.subarray(i * perImage, (i + 1) * perImage), to * perImage));
await writeFileAtomic(
  out,
  encodeNpz({
    images: { dtype: "u1", shape: [kept.length, height, width, 1], data: images },
    labels: { dtype: "i4", shape: [kept.length], data: Int32Array.from(kept, (i) => labels[i]!) },
  }),
);
