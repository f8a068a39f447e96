/** Counter-based random numbers on the CPU: the same integers as `kernels/random.wgsl` draws on the GPU. */

import { feistelHalfBits } from "../../kernels/random.ts";

/** A 64-bit key as two words. */
export type Seed = readonly [number, number];

/** Four 32-bit words. */
export type Words = [number, number, number, number];

/** High 32 bits of a * b; the partial products stay below 2^49, where doubles are exact. */
function multiplyHigh(a: number, b: number): number {
  const low = Math.floor(a * (b & 0xffff) / 0x10000);
  return Math.floor((a * (b >>> 16) + low) / 0x10000);
}

/** Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011). */
export function philox4x32(counter: Readonly<Words>, key: Seed): Words {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const next: Words = [
      (multiplyHigh(0xCD9E8D57, c2) ^ c1 ^ k0) >>> 0,
      Math.imul(0xCD9E8D57, c2) >>> 0,
      (multiplyHigh(0xD2511F53, c0) ^ c3 ^ k1) >>> 0,
      Math.imul(0xD2511F53, c0) >>> 0,
    ];
    [c0, c1, c2, c3] = next;
    k0 = (k0 + 0x9E3779B9) >>> 0;
    k1 = (k1 + 0xBB67AE85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The 24 upper bits of a word as an f32 in (0, 1). */
function toUniform(word: number): number {
  return Math.min(Math.fround((word >>> 8) + 0.5) / 2 ** 24, 1 - 2 ** -24);
}

/** One uniform value in (0, 1): element `element` of the sample with global index `sample`. */
export function uniformAt(seed: Seed, step: number, sample: number, element: number, stream: number): number {
  const words = philox4x32([Math.floor(element / 4), sample >>> 0, step, stream], seed);
  return toUniform(words[element % 4]!);
}

/** Uniform values in (0, 1), [batch, perSample]; `first` is the global index of the first sample. */
export function uniformArray(
  seed: Seed,
  step: number,
  first: number,
  batch: number,
  perSample: number,
  stream: number,
): Float32Array<ArrayBuffer> {
  return fill(seed, step, first, batch, perSample, stream, (words) => words.map(toUniform));
}

/** Standard normal values, [batch, perSample]; `first` is the global index of the first sample. */
export function normalArray(
  seed: Seed,
  step: number,
  first: number,
  batch: number,
  perSample: number,
  stream: number,
): Float32Array<ArrayBuffer> {
  return fill(seed, step, first, batch, perSample, stream, (words) => {
    const [u0, v0, u1, v1] = words.map(toUniform) as Words;
    return [...boxMuller(u0, v0), ...boxMuller(u1, v1)];
  });
}

function boxMuller(u: number, v: number): [number, number] {
  const radius = Math.sqrt(-2 * Math.log(u));
  return [radius * Math.cos(2 * Math.PI * v), radius * Math.sin(2 * Math.PI * v)];
}

function fill(
  seed: Seed,
  step: number,
  first: number,
  batch: number,
  perSample: number,
  stream: number,
  convert: (words: Words) => number[],
): Float32Array<ArrayBuffer> {
  const values = new Float32Array(batch * perSample);
  for (let i = 0; i < batch; i++) {
    for (let e = 0; e < perSample; e += 4) {
      const four = convert(philox4x32([e / 4, (first + i) >>> 0, step, stream], seed));
      for (let j = 0; j < Math.min(4, perSample - e); j++) values[i * perSample + e + j] = four[j]!;
    }
  }
  return values;
}

/**
 * The record at `position` of an endless pass over `size` records: epoch floor(position / size) is a permutation of its
 * own, by a keyed Feistel network with cycle walking (Black, Rogaway: "Ciphers with arbitrary finite domains", 2002).
 */
export function shuffledIndex(seed: Seed, position: number, size: number, stream: number): number {
  const epoch = Math.floor(position / size);
  const keys = [0, 1].flatMap((block) => philox4x32([block, epoch, 0xffffffff, stream], seed));
  const halfBits = feistelHalfBits(size);
  let index = position - epoch * size;
  do index = feistel(index, keys, halfBits); while (index >= size);
  return index;
}

/** Eight rounds of a balanced Feistel network on 2 * halfBits bits. */
function feistel(value: number, keys: readonly number[], halfBits: number): number {
  const mask = 2 ** halfBits - 1;
  let left = value >>> halfBits, right = value & mask;
  for (let round = 0; round < 8; round += 2) {
    left ^= scramble(right ^ keys[round]!) & mask;
    right ^= scramble(left ^ keys[round + 1]!) & mask;
  }
  return ((left << halfBits) | right) >>> 0;
}

/** MurmurHash3's 32-bit finaliser. */
function scramble(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
