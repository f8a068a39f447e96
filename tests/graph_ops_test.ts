/** Every op and its gradient on the GPU, against the float64 interpreter, central differences and PyTorch. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import type { PointwiseFunction } from "../kernels/pointwise.ts";
import * as g from "../src/graph/mod.ts";
import { type Shape, type Tensor, Workspace } from "../src/graph/mod.ts";
import { GraphError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { readFixture } from "./fixtures.ts";
import { gpuTest, randomArray, relativeError, uniformSource } from "./gpu.ts";
import { interpret } from "./reference/interpreter.ts";

/** Relative errors of float32 results against float64 ones, and of float64 gradients against differences. */
const FORWARD_ERROR = 1e-5, GRADIENT_ERROR = 1e-4, DIFFERENCE_ERROR = 1e-6;

/** An expression to check: y = f(xs), with the gradients of all of `xs` unless `forwardOnly`. */
interface Case {
  readonly name: string;
  readonly xs: readonly Tensor[];
  readonly y: Tensor;
  readonly forwardOnly?: boolean;
}

let seeds = 0;

/** Normal numbers as a constant. */
function normal(...shape: number[]): Tensor {
  return g.constant(randomArray(g.elementCount(shape), ++seeds), shape);
}

/** Numbers in (low, high) as a constant. */
function uniform(low: number, high: number, shape: Shape): Tensor {
  const next = uniformSource(++seeds);
  return g.constant(Array.from({ length: g.elementCount(shape) }, () => low + (high - low) * next()), shape);
}

/** A case of an expression in leaves. */
function caseOf(name: string, xs: readonly Tensor[], f: (...xs: Tensor[]) => Tensor, forwardOnly = false): Case {
  return { name, xs, y: f(...xs), forwardOnly };
}

function assertClose(what: string, got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  const error = relativeError(got, expected);
  assert(error <= tolerance, `${what}: relative error ${error} exceeds ${tolerance}.`);
}

/** Runs all cases as one program on the GPU and compares values and gradients. */
async function check(gpu: Gpu, cases: readonly Case[]): Promise<void> {
  const wanted: Record<string, Tensor> = {};
  const differences: (() => void)[] = [];
  for (const { name, xs, y, forwardOnly } of cases) {
    assert(!(name in wanted), `two cases are named ${name}`);
    wanted[name] = y;
    if (forwardOnly) continue;
    const seed = normal(...y.shape);
    g.gradients([y], xs, { seeds: [seed] }).forEach((gradient, i) => {
      wanted[`${name}, gradient ${i}`] = gradient;
      differences.push(() => {
        const { gradient: expected } = interpret({ gradient });
        assertClose(`${name}, differences ${i}`, expected, centralDifferences(y, xs[i]!, seed), DIFFERENCE_ERROR);
      });
    });
  }
  for (const compare of differences) compare();
  const workspace = new Workspace(gpu);
  const got = await g.evaluate(workspace, wanted);
  workspace.destroy();
  const expected = interpret(wanted);
  for (const name of Object.keys(wanted)) {
    assertClose(name, got[name]!, expected[name]!, name.includes("gradient") ? GRADIENT_ERROR : FORWARD_ERROR);
  }
}

/** d⟨seed, y⟩/dx by central differences in double precision. */
function centralDifferences(y: Tensor, x: Tensor, seed: Tensor): number[] {
  const at = Float64Array.from((x.node.attrs as g.ConstantAttrs).data);
  const cotangent = (seed.node.attrs as g.ConstantAttrs).data;
  const objective = () => {
    const { y: values } = interpret({ y }, {}, new Map([[x, at]]));
    return values.reduce((sum, value, i) => sum + value * cotangent[i]!, 0);
  };
  const h = 1e-5;
  return Array.from(at, (middle, i) => {
    at[i] = middle + h;
    const above = objective();
    at[i] = middle - h;
    const below = objective();
    at[i] = middle;
    return (above - below) / (2 * h);
  });
}

const UNARY = {
  affine: (x) => g.affine(x, -1.7, 0.3),
  clamp: (x) => g.clamp(x, -0.8, 0.6),
  exp: g.exp,
  log: g.log,
  sqrt: g.sqrt,
  square: g.square,
  abs: g.abs,
  sign: g.sign,
  step: g.step,
  tanh: g.tanh,
  sigmoid: g.sigmoid,
  softplus: g.softplus,
  silu: g.silu,
  relu: g.relu,
  sin: g.sin,
  cos: g.cos,
  isFinite: g.isFinite,
} satisfies Partial<Record<PointwiseFunction, (x: Tensor) => Tensor>>;

const BINARY = {
  add: g.add,
  sub: g.sub,
  mul: g.mul,
  div: g.div,
  max: g.max,
  min: g.min,
  greater: g.greater,
  equal: g.equal,
} satisfies Partial<Record<PointwiseFunction, (a: Tensor, b: Tensor) => Tensor>>;

const POSITIVE = new Set(["log", "sqrt", "div"]);

/** Functions whose derivative is zero: they are checked as factors, where what they multiply has one. */
const FLAT = new Set(["sign", "step", "isFinite", "greater", "equal"]);

gpuTest("pointwise functions of one argument", (gpu) =>
  check(
    gpu,
    Object.entries<(x: Tensor) => Tensor>(UNARY).flatMap(([name, f]) =>
      [[3, 5], [2, 4, 4]].map((shape) =>
        caseOf(
          `${name} of [${shape}]`,
          [POSITIVE.has(name) ? uniform(0.3, 3, shape) : normal(...shape)],
          FLAT.has(name) ? (x) => g.mul(x, f(x)) : f,
        )
      )
    ),
  ));

const BROADCASTS: readonly (readonly [Shape, Shape])[] = [
  [[2, 3, 4, 5], [2, 3, 4, 5]],
  [[2, 3, 4, 5], [2, 1, 1, 1]],
  [[2, 3, 4, 5], [3, 1, 1]],
  [[2, 3, 4, 4], [3, 1, 1]],
  [[2, 3, 4, 4], [2, 3, 1, 1]],
  [[2, 3, 4, 4], [4]],
  [[2, 3, 4, 5], [5]],
  [[2, 3, 4, 5], [1]],
  [[2, 3, 4, 5], []],
  [[2, 3, 4, 5], [4, 1]],
  [[2, 3, 4, 4], [1, 3, 1, 4]],
  [[4, 1], [1, 7]],
  [[2, 1, 4, 1], [3, 1, 5]],
  [[1, 3, 1, 5], [3, 1, 5]],
  [[1], []],
  [[], []],
];

gpuTest("pointwise functions of two arguments, broadcast both ways", (gpu) =>
  check(
    gpu,
    BROADCASTS.flatMap(([a, b]) => [[a, b], [b, a]] as const).flatMap(([a, b], i) => {
      // Every pattern with mul and div, whose gradients need both operands; the other functions in turn.
      const others = Object.keys(BINARY).filter((name) => name !== "mul" && name !== "div");
      return ["mul", "div", others[i % others.length]!].map((name) => {
        const f = BINARY[name as keyof typeof BINARY];
        const right = POSITIVE.has(name) ? uniform(0.4, 2, b) : normal(...b);
        const wrapped = (x: Tensor, y: Tensor) =>
          FLAT.has(name) ? g.add(g.mul(f(x, y), x), g.mul(f(x, y), y)) : f(x, y);
        return caseOf(`${i}: ${name} of [${a}] and [${b}]`, [normal(...a), right], wrapped);
      });
    }),
  ));

gpuTest("where, equal and isFinite at their special values", async (gpu) => {
  const workspace = new Workspace(gpu);
  const x = g.constant([NaN, Infinity, -Infinity, 0, -2, 3e38, 1e-40], [7]);
  const { finite, same, chosen } = await g.evaluate(workspace, {
    finite: g.isFinite(x),
    same: g.equal(g.constant([1, 2, 3], [3]), g.constant([1, 5, 3], [3])),
    chosen: g.where(g.constant([1, 0], [2]), g.constant([7, NaN], [2]), g.constant([NaN, 8], [2])),
  });
  assertEquals([...finite], [0, 0, 0, 1, 1, 1, 1]);
  assertEquals([...same], [1, 0, 1]);
  assertEquals([...chosen], [7, 8]);
  workspace.destroy();
});

gpuTest("where broadcasts its three arguments, as does broadcastTo", (gpu) => {
  const condition = g.constant([1, 0, 0, 1, 1, 0], [3, 2, 1]);
  return check(gpu, [
    caseOf("where", [normal(2, 5), normal(3, 1, 1)], (a, b) => g.where(condition, a, b)),
    caseOf("broadcastTo", [normal(3, 1)], (x) => g.broadcastTo(x, [2, 3, 4])),
    caseOf("broadcastTo scalar", [normal()], (x) => g.broadcastTo(x, [3, 5])),
  ]);
});

gpuTest("a tensor used several times gathers all its cotangents", (gpu) =>
  check(gpu, [
    caseOf("x·x·x + x", [normal(3, 4)], (x) => g.add(g.mul(g.mul(x, x), x), x)),
    caseOf("diamond", [normal(2, 3, 4)], (x) => g.mul(g.sum(g.silu(x), [1]), g.mean(g.square(x), [1]))),
    caseOf("stopGradient", [normal(5)], (x) => g.mul(x, g.stopGradient(x)), true),
  ]));

gpuTest("stopGradient passes no gradient", async (gpu) => {
  const workspace = new Workspace(gpu);
  const x = normal(5);
  const [dx] = g.gradients([g.sum(g.mul(x, g.stopGradient(g.square(x))))], [x]);
  const { got, expected } = await g.evaluate(workspace, { got: dx!, expected: g.square(x) });
  assertEquals(got, expected);
  assertThrows(() => g.gradients([g.sum(g.stopGradient(x))], [x]), GraphError, "does not influence");
  workspace.destroy();
});

gpuTest("moving data: reshape, slice, pad, concat on every axis", (gpu) => {
  const cases = [caseOf("reshape", [normal(2, 3, 4)], (x) => g.reshape(x, [4, -1]))];
  for (const shape of [[3, 4, 5, 6], [1, 5, 3, 7]]) {
    shape.forEach((extent, axis) => {
      const [low, high] = [Math.min(1, extent - 1), extent];
      const other = shape.map((e, i) => i === axis ? 3 : e);
      cases.push(
        caseOf(`slice [${shape}] axis ${axis}`, [normal(...shape)], (x) => g.slice(x, axis, low, high)),
        caseOf(
          `slice start [${shape}] axis ${axis}`,
          [normal(...shape)],
          (x) => g.slice(x, axis, 0, Math.ceil(high / 2)),
        ),
        ...axis + 1 < shape.length
          ? [caseOf(`swap [${shape}] axis ${axis}`, [normal(...shape)], (x) => g.swapAxes(x, axis))]
          : [],
        caseOf(`pad [${shape}] axis ${axis}`, [normal(...shape)], (x) => g.pad(x, axis, 2, extent + 3)),
        caseOf(
          `concat [${shape}] axis ${axis}`,
          [normal(...shape), normal(...other), normal(...shape)],
          (a, b, c) => g.concat([a, b, c], axis),
        ),
      );
    });
  }
  return check(gpu, cases);
});

gpuTest("slices and concatenations of words keep their bits", async (gpu) => {
  const workspace = new Workspace(gpu);
  const words = g.constant([0xffffffff, 0x7f800001, 3, 0x80000000], [4], "u32");
  const { y } = await g.evaluate(workspace, { y: g.concat([g.slice(words, 0, 1, 4), g.pad(words, 0, 1, 5)], 0) });
  assertEquals([...y], [0x7f800001, 3, 0x80000000, 0, 0xffffffff, 0x7f800001, 3, 0x80000000]);
  workspace.destroy();
});

/** All subsets of the axes of a rank. */
function subsets(rank: number): number[][] {
  return Array.from(
    { length: 2 ** rank },
    (_, bits) => Array.from({ length: rank }, (_, i) => i).filter((i) => bits >> i & 1),
  );
}

const REDUCTIONS = {
  sum: g.sum,
  mean: g.mean,
  sumSquares: g.sumSquares,
  reduceMax: g.reduceMax,
  reduceMin: g.reduceMin,
};

for (const [name, reduction] of Object.entries(REDUCTIONS)) {
  gpuTest(`${name} over all sets of axes`, (gpu) => {
    const shapes = [[2, 3, 4, 5], [1, 3, 1, 5], [2, 3, 2, 3, 2]];
    return check(gpu, [
      ...shapes.flatMap((shape) =>
        subsets(shape.length).map((axes) =>
          caseOf(`[${shape}] over [${axes}]`, [normal(...shape)], (x) => reduction(x, axes), name.startsWith("reduce"))
        )
      ),
      ...[[70001], [3, 20000], [1500, 40], [20, 3, 700]].flatMap((shape) => [
        caseOf(`[${shape}]`, [normal(...shape)], (x) => reduction(g.affine(x, 1, 1)), true),
        caseOf(`[${shape}] over 0`, [normal(...shape)], (x) => reduction(g.affine(x, 1, 1), [0]), true),
      ]),
    ]);
  });
}

gpuTest("matrix products, all transposes, batched and shared", (gpu) => {
  const cases: Case[] = [];
  for (const [m, n, k, batch] of [[5, 3, 7, 3], [9, 20, 4, 1], [1, 1, 6, 2]] as const) {
    for (const options of [{}, { transposeA: true }, { transposeB: true }, { transposeA: true, transposeB: true }]) {
      const { transposeA = false, transposeB = false } = options as g.MatmulOptions;
      const a = transposeA ? [k, m] : [m, k], b = transposeB ? [n, k] : [k, n];
      for (const [batchA, batchB] of [[false, false], [true, true], [true, false], [false, true]]) {
        const left = batchA ? [batch, ...a] : a, right = batchB ? [batch, ...b] : b;
        cases.push(caseOf(
          `[${left}]${transposeA ? "ᵀ" : ""}·[${right}]${transposeB ? "ᵀ" : ""}`,
          [normal(...left), normal(...right)],
          (x, y) => g.matmul(x, y, options),
        ));
      }
    }
  }
  return check(gpu, cases);
});

gpuTest("convolutions", (gpu) => {
  const cases: Case[] = [];
  for (const [batch, inChannels, outChannels, height, width] of [[2, 3, 4, 5, 3], [1, 2, 3, 4, 6]] as const) {
    for (const kernel of [1, 3]) {
      for (const stride of [1, 2] as const) {
        const x = normal(batch, inChannels, height, width), w = normal(outChannels, inChannels, kernel, kernel);
        const name = `[${x.shape}] by [${w.shape}] stride ${stride}`;
        const biasShape = stride === 1 ? [outChannels] : [outChannels, 1, 1];
        cases.push(
          caseOf(name, [x, w], (x, w) => g.conv2d(x, w, undefined, { stride })),
          caseOf(`${name} bias`, [x, w, normal(...biasShape)], (x, w, b) => g.conv2d(x, w, b, { stride })),
        );
        const { shape } = g.conv2d(x, w, undefined, { stride });
        const terms = [normal(outChannels), normal(batch, outChannels), normal(...shape)];
        cases.push(
          caseOf(
            `${name} with all terms`,
            [x, w, ...terms],
            (x, w, b, shift, residual) => g.conv2d(x, w, b, { stride, shift, residual, scale: 0.6 }),
          ),
          caseOf(
            `${name} with a residual`,
            [x, w, terms[2]!],
            (x, w, residual) => g.conv2d(x, w, undefined, { stride, residual, scale: -2 }),
          ),
        );
      }
    }
  }
  return check(gpu, cases);
});

gpuTest("group norm", (gpu) => {
  const cases: Case[] = [];
  for (const [shape, groups] of [[[2, 6, 3, 5], 2], [[1, 4, 9], 4], [[3, 8], 2], [[2, 3, 4, 4], 1]] as const) {
    for (const silu of [false, true]) {
      const channels = shape[1];
      cases.push(caseOf(
        `[${shape}] in ${groups} groups${silu ? ", silu" : ""}`,
        [normal(...shape), normal(channels), normal(...(groups === 1 ? [channels, 1, 1] : [channels]))],
        (x, gamma, beta) => g.groupNorm(x, gamma, beta, { groups, eps: 1e-3, silu }),
      ));
      const vector = groups === 1 ? [shape[0], channels, 1, 1] : [shape[0], channels];
      cases.push(caseOf(
        `[${shape}] in ${groups} groups with scale and shift${silu ? ", silu" : ""}`,
        [normal(...shape), normal(channels), normal(channels), normal(...vector), normal(...vector)],
        (x, gamma, beta, scale, shift) => g.groupNorm(x, gamma, beta, { groups, eps: 1e-3, silu, scale, shift }),
      ));
    }
  }
  return check(gpu, cases);
});

gpuTest("attention, softmax, cross-entropy", (gpu) => {
  const labels = (count: number, below: number) =>
    g.constant(Array.from({ length: count }, (_, i) => (i * 7 + 2) % below), [count], "u32");
  return check(gpu, [
    ...([[2, 6, 7, 10], [1, 4, 1, 3], [1, 8, 5, 5]] as const).map(([batch, dim, queries, keys]) =>
      caseOf(
        `attention ${dim}×${queries}×${keys}`,
        [normal(batch, dim, queries), normal(batch, dim, keys), normal(batch, dim, keys)],
        g.attention,
      )
    ),
    ...([[2, 6, 7], [1, 4, 16], [3, 2, 1]] as const).map(([batch, dim, tokens]) =>
      caseOf(`packed attention ${dim}×${tokens}`, [normal(batch, 3 * dim, tokens)], g.attentionPacked)
    ),
    ...[[5, 11], [2, 3, 40], [7]].map((shape) => caseOf(`softmax [${shape}]`, [normal(...shape)], g.softmax)),
    ...([[5, 11], [1, 3], [3, 70]] as const).map(([rows, columns]) =>
      caseOf(
        `crossEntropy [${rows}, ${columns}]`,
        [normal(rows, columns)],
        (x) => g.crossEntropy(x, labels(rows, columns)),
      )
    ),
  ]);
});

gpuTest("resampling and embedding", (gpu) =>
  check(gpu, [
    caseOf("upsample", [normal(2, 3, 3, 5)], g.upsampleNearest2x),
    caseOf("upsample matrix", [normal(4, 4)], g.upsampleNearest2x),
    caseOf("pool", [normal(1, 3, 4, 6)], g.averagePool2x),
    ...[[1, 1], [2, 1], [1, 3, 3, 1], [1, 2, -4, 3]].flatMap((filter) => [
      caseOf(`upsample ${filter}`, [normal(2, 2, 3, 5)], (x) => g.upsample2x(x, filter)),
      caseOf(`downsample ${filter}`, [normal(2, 2, 4, 6)], (x) => g.downsample2x(x, filter)),
      caseOf(
        `downsample ${filter} bordered`,
        [normal(2, 2, 4, 6)],
        (x) => g.downsample2x(x, filter, { bordered: true }),
      ),
    ]),
    ...[true, false].flatMap((endpoint) =>
      [true, false].map((sinFirst) =>
        caseOf(
          `embedding ${endpoint} ${sinFirst}`,
          [normal(5)],
          (x) => g.sinusoidalEmbedding(x, { channels: 10, maxPositions: 100, endpoint, sinFirst }),
        )
      )
    ),
    caseOf("embedding of 2 channels", [normal(1)], (x) => g.sinusoidalEmbedding(x, { channels: 2, endpoint: false })),
    caseOf("embedding by frequencies", [normal(5), normal(7)], (x, f) => g.frequencyEmbedding(x, f), true),
  ]));

gpuTest("upsample2x and downsample2x: [1, 1] is repetition and the mean, wherever the box of two lies", async (gpu) => {
  const workspace = new Workspace(gpu);
  const x = normal(2, 3, 4, 6);
  const got = await g.evaluate(workspace, {
    up: g.upsample2x(x, [3, 3]),
    upBox: g.upsample2x(x, [0, 2, 2, 0]),
    repeated: g.upsampleNearest2x(x),
    down: g.downsample2x(x, [3, 3]),
    downBox: g.downsample2x(x, [0, 2, 2, 0]),
    mean: g.averagePool2x(x),
  });
  workspace.destroy();
  for (const name of ["up", "upBox"] as const) assertClose(name, got[name], got.repeated, 1e-7);
  for (const name of ["down", "downBox"] as const) assertClose(name, got[name], got.mean, 2e-7);
});

gpuTest("upsample2x and downsample2x: which tap meets which pixel", async (gpu) => {
  const workspace = new Workspace(gpu);
  const image = (values: number[], height: number) => g.constant(values, [height, values.length / height]);
  const point = image([0, 0, 0, 0, 1, 0, 0, 0, 0], 3), column = image([1, 0, 0, 0, 0, 0, 0, 0], 2);
  const got = await g.evaluate(workspace, {
    two: g.upsample2x(image([3], 1), [2, 1]),
    four: g.upsample2x(point, [1, 2, 3, 4]),
    halved: g.downsample2x(image([9, 0, 0, 0], 2), [2, 1]),
    beyond: g.downsample2x(column, [1, 2, 3, 4]),
    within: g.downsample2x(g.constant(Array.from({ length: 16 }, (_, i) => Number(i === 1)), [4, 4]), [1, 2, 3, 4], {
      bordered: true,
    }),
  });
  workspace.destroy();
  assertClose("two", got.two, [16, 8, 8, 4].map((v) => v / 3), 1e-6);
  // The point lies at (2, 2) of the doubled image; its second tap falls there, and the first before it.
  const taps = [0, 0.2, 0.4, 0.6, 0.8, 0];
  assertClose("four", got.four, taps.flatMap((a) => taps.map((b) => a * b)), 1e-6);
  assertClose("halved", got.halved, [4], 1e-6);
  assertClose("beyond", got.beyond, [0.04, 0], 1e-6);
  assertClose("within", got.within, [0.02], 1e-6);
});

gpuTest("dropout", async (gpu) => {
  const seed = g.constant([1, 2], [2], "u32"), step = g.constant([3], [], "u32"), first = g.constant([5], [], "u32");
  const source = { seed, step, first, stream: 9 };
  await check(gpu, [
    caseOf("dropout", [normal(3, 5, 3)], (x) => g.dropout(x, 0.3, source)),
    caseOf("dropout of nothing", [normal(4)], (x) => g.dropout(x, 0, source)),
  ]);
  const workspace = new Workspace(gpu);
  const ones = g.constant(new Float32Array(4 * 501).fill(1), [4, 501]);
  const { dropped, later, uniform } = await g.evaluate(workspace, {
    dropped: g.dropout(ones, 0.25, source),
    later: g.dropout(g.slice(ones, 0, 0, 2), 0.25, { ...source, offset: 2 }),
    uniform: g.randomUniform([4, 501], source),
  });
  workspace.destroy();
  assertEquals([...dropped], [...uniform].map((u) => u >= 0.25 ? Math.fround(1 / 0.75) : 0));
  assertEquals([...later], [...dropped].slice(2 * 501));
  const kept = dropped.filter((value) => value > 0).length / dropped.length;
  assert(Math.abs(kept - 0.75) < 0.03, `${kept} of the elements are kept`);
});

gpuTest("random numbers equal those of the CPU", async (gpu) => {
  const workspace = new Workspace(gpu);
  const seed = g.constant([0xdeadbeef, 7], [2], "u32"), step = g.host("step", [], "u32");
  const first = g.host("first", [1], "u32");
  const tensors = {
    normal: g.randomNormal([3, 5, 3], { seed, step, first, stream: 4 }),
    uniform: g.randomUniform([7], { seed, step, first, stream: 5 }),
    later: g.randomUniform([7], { seed, step, first, stream: 5, offset: 3 }),
    shuffled: g.shuffledIndices(30, { seed, first, size: 13, stream: 6 }),
  };
  const values = { step: 12, first: [100] };
  const got = await g.evaluate(workspace, tensors, values), expected = interpret(tensors, values);
  assertClose("normal", got.normal, expected.normal, 1e-6);
  assertClose("uniform", got.uniform, expected.uniform, 1e-7);
  assertClose("later", got.later, expected.later, 1e-7);
  assertEquals([...got.later.slice(0, 4)], [...got.uniform.slice(3)]);
  assertEquals([...got.shuffled], [...expected.shuffled]);
  workspace.destroy();
});

gpuTest("bytes: gather, to and from floats", async (gpu) => {
  const workspace = new Workspace(gpu);
  const words = new Uint32Array(randomArray(12, 3).buffer);
  const data = g.constant(words.subarray(0, 12), [5, 3, 3], "u8");
  const x = g.affine(normal(3, 7), 80, 100);
  const tensors = {
    gathered: g.gatherImages(data, g.constant([4, 0, 4, 2], [4], "u32"), { scale: 2 / 255, shift: -1 }),
    bytes: g.toUint8(x, { scale: 1, shift: 0.5 }),
    back: g.fromUint8(g.toUint8(x, { scale: 1, shift: 0.5 }), { scale: 0.5, shift: 3 }),
  };
  const got = await g.evaluate(workspace, tensors), expected = interpret(tensors);
  assertClose("gathered", got.gathered, expected.gathered, 1e-6);
  assertEquals([...got.bytes], [...expected.bytes]);
  assertEquals([...got.back], [...expected.back]);
  workspace.destroy();
});

gpuTest("the Bregman weighting", async (gpu) => {
  const workspace = new Workspace(gpu);
  const tensors: Record<string, Tensor> = {};
  const kinds = ["kl", "lsif", "logistic", "itakura-saito", "sba", "basu", "softened-kl", "jeffreys"] as const;
  const logits = g.affine(normal(5), 2, 0);
  const images = { x: normal(5, 2, 3, 3), fake: normal(5, 2, 3, 3), teacher: normal(5, 2, 3, 3) };
  kinds.forEach((kind, i) => {
    const settings = { h: { kind, lambda: 0.5 }, logitClamp: 3, ratioMin: 0.1, ratioMax: 8, normalise: i % 2 === 0 };
    const { weights, ratios, stats } = g.bregmanWeights({ logits, blend: g.constant([0.75], []) }, settings);
    const gradient = g.bregmanGradient({ weights, ...images }, { normaliser: i % 3 === 0, epsilon: 1e-3 });
    Object.assign(tensors, {
      [`${kind} weights`]: weights,
      [`${kind} ratios`]: ratios,
      [`${kind} stats`]: stats,
      [`${kind} gradient`]: gradient,
    });
  });
  const got = await g.evaluate(workspace, tensors), expected = interpret(tensors);
  for (const name of Object.keys(tensors)) assertClose(name, got[name]!, expected[name]!, FORWARD_ERROR);
  workspace.destroy();
});

gpuTest("ops agree with PyTorch", async (gpu) => {
  const fixture = await readFixture("ops");
  const workspace = new Workspace(gpu);
  const leaf = (name: string) => g.constant(fixture.get(name), fixture.shape(name));
  const conv = (stride: 1 | 2) => (x: Tensor, w: Tensor, b?: Tensor) => g.conv2d(x, w, b, { stride });
  const labels = g.constant(fixture.get("cross_entropy.labels"), [5], "u32");
  const cases: Record<string, readonly [operands: string[], op: (...xs: Tensor[]) => Tensor]> = {
    conv3s1: [["x", "w", "b"], conv(1) as (...xs: Tensor[]) => Tensor],
    conv3s2: [["x", "w", "b"], conv(2) as (...xs: Tensor[]) => Tensor],
    conv1x1: [["x", "w", "b"], conv(1) as (...xs: Tensor[]) => Tensor],
    group_norm_silu: [
      ["x", "gamma", "beta"],
      (x, gamma, beta) => g.groupNorm(x!, gamma!, beta!, { groups: 2, eps: 1e-6, silu: true }),
    ],
    attention: [["q", "k", "v"], (q, k, v) => g.attention(q!, k!, v!)],
    softmax: [["x"], (x) => g.softmax(x!)],
    cross_entropy: [["logits"], (logits) => g.crossEntropy(logits!, labels)],
    linear: [["x", "w", "b"], (x, w, b) => g.add(g.matmul(x!, w!, { transposeB: true }), b!)],
  };
  for (const [name, [operands, op]] of Object.entries(cases)) {
    const xs = operands.map((operand) => leaf(`${name}.${operand}`));
    const y = op(...xs);
    const grads = g.gradients([y], xs, { seeds: [leaf(`${name}.dy`)] });
    const wanted = Object.fromEntries([["y", y], ...operands.map((operand, i) => [`d${operand}`, grads[i]!])]);
    const got = await g.evaluate(workspace, wanted as Record<string, Tensor>);
    for (const key of Object.keys(wanted)) {
      const expected = fixture.get(`${name}.${key}`);
      assertClose(`${name}.${key}`, got[key]!, expected, key === "y" ? FORWARD_ERROR : GRADIENT_ERROR);
      assertClose(`${name}.${key}, interpreter`, interpret({ y: wanted[key] as Tensor }).y, expected, 1e-6);
    }
  }
  workspace.destroy();
});

Deno.test("ops name themselves and the shapes that do not fit", () => {
  const [m, v, x, w] = [normal(2, 3), normal(4), normal(1, 3, 4, 4), normal(2, 5, 3, 3)];
  const b3 = normal(3);
  const [square, qkv, half] = [normal(3, 3, 1, 1), normal(1, 2, 3), (x: Tensor) => g.cast(x, "f16")];
  const words = g.constant([1, 2, 3, 4], [4], "u32"), bytes = g.constant([1], [4], "u8");
  const seed = g.constant([1, 2], [2], "u32"), one = g.constant([1], [], "u32");
  const source = { seed, step: one, first: one, stream: 0 };
  const refused: [() => unknown, string][] = [
    [() => g.add(m, v), "add cannot broadcast [2, 3] and [4]"],
    [() => g.matmul(m, m), "[2, 3] and [2, 3]"],
    [() => g.matmul(v, m), "matmul expects matrices"],
    [() => g.conv2d(x, w), "conv2d expects x [N, C, H, W] and weight [O, C, k, k]; got [1, 3, 4, 4] and [2, 5, 3, 3]"],
    [() => g.conv2d(x, normal(2, 3, 2, 2)), "kernels of 1 and 3"],
    [() => g.conv2d(x, normal(2, 3, 1, 1), v), "a bias [2]"],
    [() => g.reshape(m, [4, -1]), "[2, 3] into [4, -1]"],
    [() => g.slice(m, 1, 2, 5), "slice 2…5 of axis 1"],
    [() => g.slice(bytes, 0, 0, 1), "got u8"],
    [() => g.pad(m, 0, 2, 3), "pad of axis 0"],
    [() => g.concat([m, normal(2, 4)], 0), "concat expects shapes that agree but for axis 0"],
    [() => g.concat([], 0), "at least one"],
    [() => g.sum(m, [2]), "axis 2"],
    [() => g.broadcastTo(m, [3]), "[2, 3] to [3]"],
    [() => g.exp(words), "exp expects f32 or f16 data, of one type; got u32"],
    [() => g.cast(words, "f16"), "cast expects f32 or f16 data, of one type; got u32"],
    [() => g.cast(m, "u32"), "cast gives f32 or f16; u32 was wanted"],
    [() => g.matmul(half(m), m), "matmul expects f32 data; got f16"],
    [() => g.softmax(half(m)), "softmax expects f32 data; got f16"],
    [() => g.conv2d(half(x), half(normal(2, 3, 1, 1))), "conv2d expects f32 data; got f16"],
    [
      () => g.conv2d(half(x), square, undefined, { residual: x }),
      "conv2d expects f32 or f16 data, of one type; got f16 and f32",
    ],
    [() => g.groupNorm(half(x), half(v), v, { groups: 3, eps: 1e-5 }), "groupNorm expects f32 data; got f16"],
    [() => g.attention(qkv, half(qkv), qkv), "attention expects f32 or f16 data, of one type; got f32 and f16 and f32"],
    [() => g.concat([half(m), m], 0), "concat expects"],
    [() => bregman(half(v)), "bregmanWeights expects f32 data; got f16"],
    [() => g.gradients([half(m)], [m], { seeds: [m] }), "gradients at pointwise expects f16 data; got f32"],
    [() => g.softmax(normal()), "at least one axis"],
    [() => g.groupNorm(x, v, v, { groups: 2, eps: 1e-5 }), "into 2 groups"],
    [() => g.groupNorm(x, v, v, { groups: 3, eps: 1e-5 }), "gamma and beta [3]"],
    [() => g.groupNorm(x, b3, b3, { groups: 1, eps: 1, scale: normal(1, 3) }), "a scale and a shift together"],
    [() => g.groupNorm(x, b3, b3, { groups: 1, eps: 1, scale: m, shift: m }), "a scale and a shift [1, 3]; got [2, 3]"],
    [() => g.attention(normal(1, 2, 3), normal(1, 2, 4), normal(1, 2, 5)), "attention expects"],
    [() => g.attentionPacked(normal(1, 4, 2)), "attentionPacked expects qkv [B, 3 dim, tokens]; got [1, 4, 2]"],
    [() => g.crossEntropy(m, words), "labels [N]"],
    [() => g.averagePool2x(m), "even heights and widths; got [2, 3]"],
    [() => g.downsample2x(m, [1, 3, 3, 1]), "downsample2x expects even heights and widths; got [2, 3]"],
    [() => g.upsample2x(v, [1, 3, 3, 1]), "upsample2x expects images; got [4]"],
    [
      () => g.upsample2x(m, [1, 2, 1]),
      "upsample2x expects a filter of 2 or 4 numbers whose sum is not 0; got [1, 2, 1]",
    ],
    [() => g.upsample2x(m, [1, -1]), "whose sum is not 0; got [1, -1]"],
    [() => g.swapAxes(m, 1), "swapAxes 1 and 2 does not fit the shape [2, 3]"],
    [() => g.dropout(m, 1, source), "a probability in [0, 1); got 1"],
    [() => g.dropout(m, 0.5, { ...source, seed: words }), "dropout expects"],
    [() => g.sinusoidalEmbedding(v, { channels: 3 }), "even channels"],
    [() => g.frequencyEmbedding(m, v), "frequencyEmbedding expects x [N] and frequencies [F]; got [2, 3] and [4]"],
    [() => g.gradients([g.sum(g.frequencyEmbedding(v, v))], [v]), "frequencyEmbedding cannot be differentiated"],
    [() => g.constant([1, 2], [3]), "expects 3 elements; got 2"],
    [() => g.constant([], [0]), "positive integer"],
    [() => g.gradients([m], [m]), "expects scalars"],
    [() => g.gradients([g.sum(m)], [v]), "does not influence"],
    [() => g.gradients([g.sum(m)], [m], { seeds: [] }), "one seed for every y"],
    [() => g.gradients([m], [m], { seeds: [v] }), "[2, 3] and [4]"],
    [() => g.gradients([g.reduceMax(m)], [m]), "reduce max"],
    [() => g.gradients([g.sum(bregman(v))], [v]), "bregmanWeights cannot be differentiated"],
  ];
  for (const [make, message] of refused) assertThrows(make, GraphError, message);
});

function bregman(logits: Tensor): Tensor {
  const settings = {
    h: { kind: "kl", lambda: 1 },
    logitClamp: 9,
    ratioMin: 0.1,
    ratioMax: 9,
    normalise: false,
  } as const;
  return g.bregmanWeights({ logits, blend: g.constant([1], []) }, settings).weights;
}
