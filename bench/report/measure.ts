/** Checks every implementation of a case against the reference, then times those that are right. */

import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Arrays, Implementation, Peer } from "./case.ts";
import type { Case } from "./cases.ts";
import { ours } from "./ours.ts";
import type { Measured } from "./table.ts";
import { timeAll, type TimingOptions } from "./timing.ts";

/** Largest norm-wise relative error of a result. */
const TOLERANCE = 1e-4;

/** WebAssembly's runs are awaited one by one without a timer: short samples do. */
const WASM_TIMING = { sampleMs: 100, rounds: 2, budgetMs: 3000 };

/** Who is measured. */
export interface Contestants {
  /** The engine's device. */
  readonly gpu: Gpu;
  /** Libraries on the same adapter. */
  readonly peers: readonly Peer[];
  /** The library on WebAssembly. */
  readonly wasm: Peer;
}

const OURS = "ours", WASM = "wasm";

/** Measures one case. */
export async function measureCase(
  item: Case,
  { gpu, peers, wasm }: Contestants,
  timing: TimingOptions,
): Promise<Measured> {
  const { kernel, shape, problem, agreed = [] } = item;
  const inputs = item.inputs();
  const expected: Record<string, ArrayLike<number>> = { ...item.expected(inputs) };
  const own = await ours(gpu, problem, inputs);
  const builders = new Map<string, () => Promise<Implementation | undefined>>([
    [OURS, () => Promise.resolve(own)],
    ...peers.map((peer) => [peer.name, () => peer.build(problem, inputs)] as const),
    [WASM, () => wasm.build(problem, inputs)],
  ]);
  const outcomes = await compare(builders, (name, results) => {
    check(results, expected);
    if (name === OURS) { for (const result of agreed) expected[result] = results[result]!; }
  }, timing);
  const others = new Map([...outcomes].filter(([name]) => name !== OURS && name !== WASM));
  const { flops, bytes } = own;
  return { kernel, shape, flops, bytes, ours: outcomes.get(OURS)!, peers: others, wasm: outcomes.get(WASM) };
}

/** Builds, checks and times implementations; one that fails gets its error, one that lacks the op no entry. */
export async function compare(
  builders: ReadonlyMap<string, () => Promise<Implementation | undefined>>,
  check: (name: string, results: Arrays) => void,
  timing: TimingOptions,
): Promise<Map<string, number | Error>> {
  const outcomes = new Map<string, number | Error>();
  const right = new Map<string, Implementation>();
  for (const [name, build] of builders) {
    try {
      const implementation = await build();
      if (!implementation) continue;
      right.set(name, implementation);
      check(name, await implementation.results());
    } catch (error) {
      outcomes.set(name, error instanceof Error ? error : new Error(String(error)));
      right.get(name)?.free();
      right.delete(name);
    }
  }
  // WebAssembly is no contestant of the ratio: it may be timed apart, and a hundred times slower.
  const apart = new Map([...right].filter(([name]) => name === WASM));
  const together = new Map([...right].filter(([name]) => name !== WASM));
  for (const [name, outcome] of await timeAll(together, timing)) outcomes.set(name, outcome);
  for (const [name, outcome] of await timeAll(apart, WASM_TIMING)) outcomes.set(name, outcome);
  for (const implementation of right.values()) implementation.free();
  return outcomes;
}

/** Throws unless every expected result is there and within the tolerance. */
export function check(results: Arrays, expected: Readonly<Record<string, ArrayLike<number>>>): void {
  for (const [name, values] of Object.entries(expected)) {
    const result = results[name];
    if (result?.length !== values.length) {
      throw new Error(`${name} has ${result?.length ?? "no"} elements instead of ${values.length}`);
    }
    const error = relativeError(result, values);
    // Written so that NaN fails.
    if (!(error <= TOLERANCE)) throw new Error(`${name} differs from the reference by ${error.toExponential(1)}`);
  }
}

/** Norm-wise: ‖a − b‖ / ‖b‖. */
function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / (norm || 1));
}
