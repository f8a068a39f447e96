/** Compiled programs: what runs see, what stays where, what is refused, and what it costs. */

import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { AdapterError, DeviceLostError, GraphError, LimitError, ShaderError } from "../src/gpu/errors.ts";
import { upsampleNearest2x } from "../kernels/resample.ts";
import { Gpu } from "../src/gpu/gpu.ts";
import * as g from "../src/graph/mod.ts";
import { type Program, type ProgramSpec, type Tensor, type Variable, Workspace } from "../src/graph/mod.ts";
import { type Lifetime, planBuffers } from "../src/graph/plan.ts";
import { gpuTest, randomArray, relativeError, uniformSource } from "./gpu.ts";
import { interpret } from "./reference/interpreter.ts";

/** A test with a workspace of its own. */
function programTest(name: string, fn: (workspace: Workspace) => Promise<void>): void {
  gpuTest(name, async (gpu) => {
    const workspace = new Workspace(gpu);
    await fn(workspace);
    await gpu.idle();
    workspace.destroy();
  });
}

/** A variable that holds `values`. */
function filled(workspace: Workspace, name: string, values: readonly number[]): Variable {
  const variable = workspace.variable(name, [values.length]);
  variable.write(new Float32Array(values));
  return variable;
}

/** Contents of variables. */
async function contents(workspace: Workspace, ...variables: Variable[]): Promise<number[][]> {
  return (await workspace.read(variables)).map((data) => [...data]);
}

function assertClose(what: string, got: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-5): void {
  const error = relativeError(got, expected);
  assert(error <= tolerance, `${what}: relative error ${error} exceeds ${tolerance}.`);
}

programTest("runs of one submit see their own run-time values", async (workspace) => {
  const total = filled(workspace, "total", [1, 2]);
  const step = g.host("step", [], "u32"), rates = g.host("rates", [2]);
  const noise = g.randomNormal([2], {
    seed: g.constant([1, 2], [2], "u32"),
    step,
    first: g.constant([0], [], "u32"),
    stream: 1,
  });
  const program = await workspace.compile({
    label: "accumulate",
    updates: [[total, g.add(total.tensor, rates)]],
    metrics: { rates, noise },
  });
  workspace.submit([
    program.at({ rates: [1, 10], step: 5 }),
    program.at({ rates: [2, 20], step: 6 }),
    program.at({ rates: new Float32Array([40, 400]), step: 5 }),
  ]);
  assertEquals(await contents(workspace, total), [[44, 432]]);
  const metrics = await program.readMetrics();
  assertEquals(metrics.map(({ rates }) => [...rates!]), [[1, 10], [2, 20], [40, 400]]);
  assertEquals(metrics[0]!.noise, metrics[2]!.noise);
  assert(relativeError(metrics[0]!.noise!, metrics[1]!.noise!) > 0.1);
});

programTest("updates see every variable as it was before the run", async (workspace) => {
  const a = filled(workspace, "a", [1, 2, 3]), b = filled(workspace, "b", [10, 20, 30]);
  const swap = await workspace.compile({ label: "swap", updates: [[a, b.tensor], [b, a.tensor]] });
  workspace.submit([swap.at()]);
  assertEquals(await contents(workspace, a, b), [[10, 20, 30], [1, 2, 3]]);
  const scaled = await workspace.compile({
    label: "scaled swap",
    updates: [[a, g.affine(b.tensor, 2, 0)], [b, g.affine(a.tensor, 3, 0)]],
  });
  workspace.submit([scaled.at()]);
  assertEquals(await contents(workspace, a, b), [[2, 4, 6], [30, 60, 90]]);
  const fibonacci = await workspace.compile({
    label: "fibonacci",
    updates: [[a, b.tensor], [b, g.add(a.tensor, b.tensor)]],
  });
  workspace.submit([fibonacci.at(), fibonacci.at()]);
  assertEquals(await contents(workspace, a, b), [[32, 64, 96], [62, 124, 186]]);
});

programTest("an update is written in place where nothing reads the old value later", async (workspace) => {
  const a = filled(workspace, "a", [1, 2]), b = filled(workspace, "b", [3, 4]);
  const inPlace = await workspace.compile({ label: "in place", updates: [[a, g.exp(b.tensor)]] });
  assertEquals(inPlace.cost.plannedBytes, 0);
  const doubled = g.affine(b.tensor, 2, 0);
  const later = g.sum(g.mul(doubled, a.tensor));
  const copied = await workspace.compile({ label: "copied", updates: [[a, doubled]], metrics: { later } });
  assert(copied.cost.plannedBytes > 0);
  workspace.submit([copied.at()]);
  assertEquals(await contents(workspace, a), [[6, 8]]);
  assertEquals([...(await copied.readMetrics())[0]!.later!], [22]);
  const same = await workspace.compile({ label: "both", updates: [[a, doubled], [b, doubled]] });
  workspace.submit([same.at()]);
  assertEquals(await contents(workspace, a, b), [[6, 8], [6, 8]]);
});

programTest("slices of one flat vector can be computed from each other", async (workspace) => {
  const names = ["a", "b", "c", "d", "e"];
  const { slices, chunks } = workspace.flat("flat", g.flatLayout(names.map((name) => ({ name, shape: [3] }))));
  const variables = names.map((name) => slices.get(name)!);
  const [a, b, c, d, e] = variables as [Variable, Variable, Variable, Variable, Variable];
  const fresh = g.affine(g.host("x", [3]), 10, 0), shared = g.exp(g.host("x", [3]));
  const updates: [Variable, Tensor][] = [
    [a, fresh],
    [b, g.square(fresh)],
    [c, a.tensor],
    [d, g.square(d.tensor)],
    [e, g.affine(d.tensor, 1, 1)],
  ];
  for (const order of [updates, updates.toReversed()]) {
    a.write(new Float32Array([1, 2, 3]));
    d.write(new Float32Array([7, 8, 9]));
    const chain = await workspace.compile({ label: "chain", updates: order });
    workspace.submit([chain.at({ x: [1, 2, 3] })]);
    assertEquals(
      await contents(workspace, ...variables),
      [[10, 20, 30], [100, 400, 900], [1, 2, 3], [49, 64, 81], [8, 9, 10]],
    );
  }
  const twice = await workspace.compile({ label: "twice", updates: [[a, shared], [e, shared]] });
  workspace.submit([twice.at({ x: [0, 0, 0] })]);
  assertEquals(await contents(workspace, a, e), [[1, 1, 1], [1, 1, 1]]);
  const padding = (await contents(workspace, chunks[0]!))[0]!.filter((_, i) => i % 64 >= 3);
  assert(padding.every((value) => value === 0));
});

programTest("results show variables as they were before the run, and keep what they show", async (workspace) => {
  const v = filled(workspace, "v", [1, 2]);
  const next = g.affine(v.tensor, 10, 0);
  const program = await workspace.compile({
    label: "advance",
    outputs: { before: g.reshape(v.tensor, [2, 1]), after: next },
    metrics: { v: v.tensor, next },
    updates: [[v, next]],
  });
  const reset = await workspace.compile({ label: "reset", updates: [[v, g.constant([5, 5], [2])]] });
  workspace.submit([program.at(), program.at(), reset.at()]);
  const { before, after } = await program.read();
  assertEquals([[...before!], [...after!]], [[10, 20], [100, 200]]);
  const metrics = await program.readMetrics();
  assertEquals(metrics.map(({ v, next }) => [...v!, ...next!]), [[1, 2, 10, 20], [10, 20, 100, 200]]);
  assertEquals(await contents(workspace, v), [[5, 5]]);
});

programTest("an update may change the shape but not the size", async (workspace) => {
  const v = workspace.variable("v", [2, 3]);
  const program = await workspace.compile({
    label: "reshaped",
    updates: [[v, g.reshape(g.affine(g.host("x", [6]), 1, 1), [3, 2])]],
  });
  workspace.submit([program.at({ x: [0, 1, 2, 3, 4, 5] })]);
  assertEquals(await contents(workspace, v), [[1, 2, 3, 4, 5, 6]]);
});

const ADAM = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.01 };

/** A linear regression with its gradients, Adam, clipping and the skip of non-finite gradients, on flat vectors. */
function regression(workspace: Workspace) {
  const layout = g.flatLayout([{ name: "w", shape: [4, 3] }, { name: "b", shape: [3] }]);
  const [p, m, v, ema, grad] = ["p", "m", "v", "ema", "grad"].map((name) => workspace.flat(name, layout)) as [
    g.FlatVariable,
    g.FlatVariable,
    g.FlatVariable,
    g.FlatVariable,
    g.FlatVariable,
  ];
  const [w, b] = [p.slices.get("w")!, p.slices.get("b")!];
  const x = g.constant(randomArray(20, 1), [5, 4]);
  const loss = g.mean(g.square(g.mul(g.host("scale"), g.add(g.matmul(x, w.tensor), b.tensor))));
  const [dw, db] = g.gradients([loss], [w.tensor, b.tensor]);
  const gradient: ProgramSpec = {
    label: "gradient",
    updates: [[grad.slices.get("w")!, dw!], [grad.slices.get("b")!, db!]],
    metrics: { loss },
  };
  const [pc, mc, vc, ec, gc] = [p, m, v, ema, grad].map(({ chunks }) => chunks[0]!) as [
    Variable,
    Variable,
    Variable,
    Variable,
    Variable,
  ];
  const norm = g.sqrt(g.sumSquares(gc.tensor));
  const clip = g.min(g.constant([1], []), g.div(g.constant([0.5], []), norm));
  const control = g.concat([g.reshape(clip, [1]), g.reshape(g.isFinite(norm), [1])], 0);
  const stepped = g.adamEma({
    p: pc.tensor,
    m: mc.tensor,
    v: vc.tensor,
    ema: ec.tensor,
    grad: gc.tensor,
    hyper: g.host("hyper", [4]),
    control,
  }, ADAM);
  const state = [pc, mc, vc, ec] as const;
  const apply: ProgramSpec = {
    label: "apply",
    updates: state.map((variable, i) => [variable, stepped[i]!]),
    metrics: { norm, before: g.sum(pc.tensor), after: g.sum(stepped[0]) },
  };
  return { w, b, gc, state, stepped, gradient, apply };
}

/** A program's results in float64, and the variables it would leave. */
function simulate(spec: ProgramSpec, values: g.HostValues, variables: Map<Tensor, Float64Array>) {
  const updates = spec.updates ?? [];
  const results = interpret(
    { ...spec.metrics, ...Object.fromEntries(updates.map(([, tensor], i) => [`update ${i}`, tensor])) },
    values,
    variables,
  );
  updates.forEach(([variable], i) => variables.set(variable.tensor, results[`update ${i}`]!));
  return results;
}

const hyper = (t: number) => [0.05, 1 - ADAM.beta1 ** t, 1 - ADAM.beta2 ** t, 0.9];

programTest("adamEma steps flat variables in place, with clipping and skipping on the device", async (workspace) => {
  const { w, b, gc, state, gradient, apply } = regression(workspace);
  w.write(randomArray(12, 2));
  b.write(randomArray(3, 3));
  const variables = new Map<Tensor, Float64Array>();
  const all = [...state, gc, w, b];
  (await contents(workspace, ...all)).forEach((data, i) => variables.set(all[i]!.tensor, Float64Array.from(data)));
  const programs = { gradient: await workspace.compile(gradient), apply: await workspace.compile(apply) };
  for (const t of [1, 2, 3]) {
    // The first gradient is clipped, the last is small enough not to be.
    const scale = [4, 1, 0.1][t - 1]!;
    workspace.submit([programs.gradient.at({ scale }), programs.apply.at({ hyper: hyper(t) })]);
    simulate(gradient, { scale }, variables);
    const flat = variables.get(gc.tensor)!;
    flat.set(variables.get(gradient.updates![0]![0].tensor)!, 0);
    flat.set(variables.get(gradient.updates![1]![0].tensor)!, 64);
    const expected = simulate(apply, { hyper: hyper(t) }, variables);
    const params = variables.get(state[0].tensor)!;
    variables.set(w.tensor, params.slice(0, 12)).set(b.tensor, params.slice(64, 67));
    const got = await contents(workspace, ...state);
    ["p", "m", "v", "ema"].forEach((name, i) => {
      assertClose(`${name} after step ${t}`, got[i]!, variables.get(state[i]!.tensor)!);
    });
    const [metrics] = await programs.apply.readMetrics();
    for (const name of ["norm", "before", "after"]) assertClose(name, metrics![name]!, expected[name]!);
    assertEquals(metrics!.norm![0]! > 0.5, t < 3);
  }
  const untouched = await contents(workspace, ...state);
  workspace.submit([programs.gradient.at({ scale: NaN }), programs.apply.at({ hyper: hyper(4) })]);
  assertEquals(await contents(workspace, ...state), untouched);
  assertEquals(programs.apply.cost.plannedBytes < state[0].storage.size, true);
});

programTest("an op that works in place must own its variables", async (workspace) => {
  const { state: [p, m, v, ema], stepped } = regression(workspace);
  const updates = [[p, stepped[0]], [m, stepped[1]], [v, stepped[2]], [ema, stepped[3]]] as const;
  await assertRejects(
    () => workspace.compile({ label: "partial", updates: updates.slice(1) }),
    GraphError,
    "Program partial: adamEma must write each of its results back to its variable",
  );
  await assertRejects(
    () => workspace.compile({ label: "late", updates, outputs: { change: g.sub(stepped[0], p.tensor) } }),
    GraphError,
    "is read after adamEma rewrote it",
  );
});

programTest("metrics are held in order until they are read", async (workspace) => {
  const x = g.host("x");
  const program = await workspace.compile({
    label: "ring",
    metrics: { x, both: g.concat([g.reshape(x, [1]), g.reshape(g.neg(x), [1])], 0) },
    metricsCapacity: 3,
  });
  const xs = async () => (await program.readMetrics()).map(({ x }) => x![0]);
  assertEquals(await xs(), []);
  workspace.submit([program.at({ x: 1 })]);
  workspace.submit([program.at({ x: 2 })]);
  assertThrows(
    () => workspace.submit([program.at({ x: 3 }), program.at({ x: 4 })]),
    GraphError,
    "Program ring can hold the metrics of 3 runs and holds 2: 2 more do not fit",
  );
  assertThrows(() => workspace.submit([program.at({ x: 3 }), program.at({})]), GraphError);
  workspace.submit([program.at({ x: 3 })]);
  const reading = program.readMetrics();
  workspace.submit([program.at({ x: 5 }), program.at({ x: 6 })]);
  assertEquals((await reading).map(({ x, both }) => [...x!, ...both!]), [[1, 1, -1], [2, 2, -2], [3, 3, -3]]);
  assertEquals(await xs(), [5, 6]);
});

/** Random pointwise expressions over broadcast leaves. */
function randomExpression(seed: number, leaves: readonly Tensor[], functions: number): Tensor[] {
  const next = uniformSource(seed);
  const pick = <T>(list: readonly T[]) => list[Math.floor(next() * list.length)]!;
  const made = [...leaves];
  const results: Tensor[] = [];
  for (let i = 0; i < functions; i++) {
    const a = pick(made.slice(-6)), b = pick(made);
    const f = pick([g.add, g.sub, g.mul, g.max, (x: Tensor, y: Tensor) => g.where(g.greater(x, y), x, y)]);
    made.push(g.tanh(f(a, b)));
    if (next() < 0.1) results.push(made[made.length - 1]!);
  }
  return [...results, made[made.length - 1]!];
}

programTest("fused pointwise chains compute what their functions do", async (workspace) => {
  const shapes = [[2, 3, 4, 4], [2, 1, 1, 1], [3, 1, 1], [], [4], [2, 3, 4, 4], [1, 3, 1, 4], [4, 1], [2, 3, 1, 1], [
    1,
  ]];
  const leaves = shapes.map((shape, i) => g.constant(randomArray(g.elementCount(shape), i), shape));
  for (const seed of [1, 2, 3, 4]) {
    const results = randomExpression(seed, leaves, 60);
    const outputs = Object.fromEntries(results.map((tensor, i) => [`${i}`, tensor]));
    const program = await workspace.compile({ label: "fused", outputs });
    const functions = g.reachable(results).filter((node) => node.inputs.length > 0).length;
    assert(program.cost.dispatches < functions / 2, `${program.cost.dispatches} dispatches for ${functions} functions`);
    workspace.submit([program.at()]);
    const got = await program.read(), expected = interpret(outputs);
    for (const name of Object.keys(outputs)) {
      assertClose(`expression ${seed}, result ${name}`, got[name]!, expected[name]!);
    }
    program.destroy();
  }
});

programTest("a chain of pointwise functions is one dispatch, its kept middle two", async (workspace) => {
  const x = g.constant(randomArray(24, 1), [2, 12]);
  const middle = g.silu(g.affine(x, 2, 1)), end = g.mul(g.square(middle), x);
  const one = await workspace.compile({ label: "one", outputs: { end } });
  const two = await workspace.compile({ label: "two", outputs: { end }, metrics: { middle } });
  assertEquals([one.cost.dispatches, two.cost.dispatches], [1, 2]);
  workspace.submit([one.at(), two.at()]);
  const expected = interpret({ end, middle });
  assertClose("fused", (await one.read()).end!, expected.end);
  assertClose("unfused", (await two.read()).end!, expected.end);
  assertClose("middle", (await two.readMetrics())[0]!.middle!, expected.middle);
});

programTest("what is small and repeated joins the chain that repeats it, through views too", async (workspace) => {
  const sigma = g.exp(g.constant(randomArray(3, 1), [3]));
  const perSample = g.reshape(g.sqrt(g.affine(g.square(sigma), 1, 0.25)), [3, 1, 1]);
  const perColumn = g.tanh(g.constant(randomArray(4, 2), [4]));
  const x = g.constant(randomArray(3 * 2 * 4, 3), [3, 2, 4]);
  // Seen in two shapes, and used outside the chain, `sigma` is a dispatch of its own.
  const y = g.add(g.div(x, perSample), g.mul(perColumn, g.reshape(sigma, [3, 1, 1])));
  const outputs = { y, total: g.sumSquares(sigma) };
  const program = await workspace.compile({ label: "broadcast", outputs });
  const calls = program.kernels().map(({ kernel, calls }) => [kernel.split(".")[0], calls]);
  assertEquals(calls.filter(([kernel]) => kernel === "pointwise"), [["pointwise", 1], ["pointwise", 1]]);
  workspace.submit([program.at()]);
  const got = await program.read(), expected = interpret(outputs);
  assertClose("y", got.y!, expected.y);
  assertClose("total", got.total!, expected.total);
});

programTest("gradients that meet are added by the kernels that make them", async (workspace) => {
  const values = new Map<Tensor, Float32Array>();
  const variable = (name: string, ...shape: number[]) => {
    const made = workspace.variable(name, shape);
    const data = randomArray(made.tensor.size, values.size);
    made.write(data);
    values.set(made.tensor, data);
    return made.tensor;
  };
  const x = variable("x", 2, 4, 4, 4), [w0, w1, w2] = [0, 1, 2].map((i) => variable(`w${i}`, 4, 4, 3, 3));
  const gamma = variable("gamma", 4), beta = variable("beta", 4);
  const norm = g.groupNorm(x, gamma, beta, { groups: 2, eps: 1e-5 });
  // Three convolutions, a norm and a pointwise path all lead back to x; two of them meet in the norm's output first.
  const y = g.add(g.conv2d(norm, w0!, undefined, { scale: 0.5 }), g.conv2d(norm, w1!, undefined, { scale: -2 }));
  const z = g.conv2d(g.concat([x, g.tanh(x)], 0), w2!);
  const loss = g.add(g.sumSquares(g.add(y, x)), g.sumSquares(z));
  const xs = [...values.keys()];
  const gradients = g.gradients([loss], xs);
  const outputs = Object.fromEntries(gradients.map((gradient, i) => [`${i}`, gradient]));
  const program = await workspace.compile({ label: "sums", outputs });
  workspace.submit([program.at()]);
  const got = await program.read(), expected = interpret(outputs, {}, values);
  for (const name of Object.keys(outputs)) assertClose(name, got[name]!, expected[name]!, 1e-4);
  const adds = program.kernels().filter(({ kernel }) => kernel === "pointwise.add");
  assertEquals(adds, [], "no addition is a dispatch of its own");
  assertEquals(program.kernels().find(({ kernel }) => kernel === "conv2d.pack")?.calls, 3, "one for each buffer");
  program.destroy();
});

programTest("weights of one buffer are packed by one dispatch, once for both uses", async (workspace) => {
  const layout = g.flatLayout([5, 1, 9].map((out, i) => ({ name: `w${i}`, shape: [out, 3, 3, 3] })));
  const { chunks, slices } = workspace.flat("weights", layout);
  const data = randomArray(layout.chunks[0]!, 1);
  chunks[0]!.write(data);
  const leaves = new Map([...slices.values()].map(({ tensor, storage: { offset } }) => [
    tensor,
    data.slice(offset / 4, offset / 4 + tensor.size),
  ]));
  const x = g.constant(randomArray(2 * 3 * 16, 2), [2, 3, 4, 4]);
  const convolved = layout.slices.map(({ name }) => g.conv2d(x, slices.get(name)!.tensor));
  const again = g.conv2d(g.tanh(x), slices.get("w0")!.tensor);
  const outputs = Object.fromEntries([...convolved, again].map((tensor, i) => [`${i}`, tensor]));
  const program = await workspace.compile({ label: "packed", outputs });
  assertEquals(program.kernels().find(({ kernel }) => kernel === "conv2d.pack")?.calls, 1);
  workspace.submit([program.at()]);
  const got = await program.read(), expected = interpret(outputs, {}, leaves);
  for (const name of Object.keys(outputs)) assertClose(name, got[name]!, expected[name]!);
  program.destroy();
});

programTest("dead code is not run", async (workspace) => {
  const x = g.constant([1, 2, 3, 4], [2, 2]);
  g.matmul(x, x);
  const program = await workspace.compile({ label: "live", outputs: { y: g.exp(x) } });
  assertEquals(program.kernels().map(({ kernel, calls }) => [kernel, calls]), [["pointwise.exp", 1]]);
});

Deno.test("planned buffers hold their tensors, apart in time or in place", () => {
  // The larger is placed first, and the smaller one finds room where it was.
  assertEquals(planBuffers([{ bytes: 16, first: 0, last: 0 }, { bytes: 64, first: 1, last: 1 }]).sizes, [64]);
  // Two small ones lie side by side where a large one was, unless a dispatch reads one and writes the other.
  const [large, left, right] = [{ bytes: 512, first: 0, last: 0 }, { bytes: 200, first: 1, last: 2 }, {
    bytes: 256,
    first: 2,
    last: 3,
  }];
  const beside = planBuffers([large!, left!, right!]);
  assertEquals([beside.sizes, beside.places[1], beside.places[2]], [[512], { buffer: 0, offset: 256 }, {
    buffer: 0,
    offset: 0,
  }]);
  assertEquals(planBuffers([large!, { ...left!, apart: new Set([2]) }, right!]).sizes, [512, 200]);
  assertEquals(planBuffers([left!, large!], [4096]).plannedBytes, 512);
  const next = uniformSource(11);
  const below = (n: number) => Math.floor(next() * n);
  for (let round = 0; round < 200; round++) {
    const count = 1 + below(60);
    const lifetimes: Lifetime[] = Array.from({ length: count }, () => {
      const first = below(40);
      return { bytes: 128 * (1 + below(50)), first, last: first + below(8), apart: new Set<number>() };
    });
    for (let pairs = below(200); pairs > 0; pairs--) {
      const [a, b] = [below(count), below(count)];
      (lifetimes[a]!.apart as Set<number>).add(b);
      (lifetimes[b]!.apart as Set<number>).add(a);
    }
    const existing = Array.from({ length: below(5) }, () => 16 * (1 + below(400)));
    const { places, sizes, plannedBytes, peakLiveBytes } = planBuffers(lifetimes, existing);
    assertEquals(sizes.slice(0, existing.length), existing);
    lifetimes.forEach((a, i) => {
      const { buffer, offset } = places[i]!;
      assert(offset % 256 === 0 && sizes[buffer]! >= offset + a.bytes);
      lifetimes.slice(0, i).forEach((b, j) => {
        const other = places[j]!;
        if (buffer !== other.buffer || a.first > b.last || b.first > a.last) return;
        const disjoint = offset + a.bytes <= other.offset || other.offset + b.bytes <= offset;
        assert(disjoint && !a.apart!.has(j), `round ${round}: ${i} and ${j}`);
      });
    });
    const live = Array.from(
      { length: 50 },
      (_, step) =>
        lifetimes.reduce((sum, { bytes, first, last }) => first <= step && step <= last ? sum + bytes : sum, 0),
    );
    assertEquals(peakLiveBytes, Math.max(...live));
    const used = [...new Set(places.map(({ buffer }) => buffer))].reduce((sum, b) => sum + sizes[b]!, 0);
    assert(used >= plannedBytes && plannedBytes >= peakLiveBytes);
  }
});

/** Convolutions, a norm and attention with all gradients: many transients of different sizes. */
function network(seed: number, size: number): { loss: Tensor; grads: Tensor[]; leaves: Tensor[] } {
  const random = (...shape: number[]) => g.constant(randomArray(g.elementCount(shape), ++seed), shape);
  const x = random(2, 3, size, size),
    w = random(8, 3, 3, 3),
    gamma = random(8),
    beta = random(8),
    v = random(8, 8, 1, 1);
  const h = g.groupNorm(g.conv2d(x, w), gamma, beta, { groups: 2, eps: 1e-5, silu: true });
  const tokens = g.reshape(h, [2, 8, size * size]);
  const mixed = g.reshape(g.attention(tokens, tokens, g.affine(tokens, 0.5, 0.1)), h.shape);
  const loss = g.mean(g.square(g.conv2d(g.upsampleNearest2x(g.add(mixed, h)), v, undefined, { stride: 2 })));
  const leaves = [x, w, gamma, beta, v];
  return { loss, grads: g.gradients([loss], leaves), leaves };
}

programTest("programs share their transient buffers and leave variables alone", async (workspace) => {
  const guard = filled(workspace, "guard", Array.from({ length: 1000 }, (_, i) => i));
  const specs = [5, 8, 6].map((size, i) => {
    const { loss, grads } = network(10 * i, size);
    return { loss, ...Object.fromEntries(grads.map((t, j) => [`grad ${j}`, t])) };
  });
  const programs: Program[] = [];
  for (const outputs of specs) programs.push(await workspace.compile({ label: "network", outputs }));
  const alone = await Promise.all(specs.map(async (outputs) => {
    const other = new Workspace(workspace.gpu);
    await other.compile({ label: "alone", outputs });
    const bytes = other.poolBytes;
    other.destroy();
    return bytes;
  }));
  assert(workspace.poolBytes < alone.reduce((a, b) => a + b), `${workspace.poolBytes} of ${alone}`);
  for (const { cost } of programs) assert(cost.plannedBytes >= cost.peakLiveBytes);
  const [{ cost }] = programs as [Program, ...Program[]];
  assert(cost.plannedBytes < 1.25 * cost.peakLiveBytes, `${cost.plannedBytes} for ${cost.peakLiveBytes}`);
  workspace.submit([0, 1, 2, 1, 0, 2].map((i) => programs[i]!.at()));
  for (const [i, outputs] of specs.entries()) {
    const got = await programs[i]!.read(), expected = interpret(outputs);
    for (const name of Object.keys(outputs)) {
      assertClose(`network ${i}, ${name}`, got[name]!, expected[name as "loss"], 1e-4);
    }
  }
  assertEquals((await contents(workspace, guard))[0], Array.from({ length: 1000 }, (_, i) => i));
});

programTest("evaluate compiles equal structures once", async (workspace) => {
  const expression = (data: number[], high = Infinity) => ({
    y: g.sum(g.clamp(g.mul(g.constant(data, [3]), g.host("a")), -Infinity, high)),
  });
  const first = await g.evaluate(workspace, expression([1, 2, 3]), { a: 2 });
  const { allocatedBytes } = workspace.gpu;
  const second = await g.evaluate(workspace, expression([10, 20, 30]), { a: 1 });
  assertEquals([[...first.y], [...second.y]], [[12], [60]]);
  assertEquals([workspace.evaluated.size, workspace.gpu.allocatedBytes], [1, allocatedBytes]);
  assertEquals([...(await g.evaluate(workspace, expression([1, 2, 3], -Infinity), { a: 2 })).y], [-Infinity]);
  assertEquals(workspace.evaluated.size, 2);
  const v = filled(workspace, "v", [1, 2]), w = filled(workspace, "w", [3, 4]);
  assertEquals([...(await g.evaluate(workspace, { y: g.square(v.tensor) })).y], [1, 4]);
  assertEquals([...(await g.evaluate(workspace, { y: g.square(w.tensor) })).y], [9, 16]);
  const both = await Promise.all([5, 6].map((a) => g.evaluate(workspace, expression([1, 1, 1]), { a })));
  assertEquals(both.map(({ y }) => [...y]), [[15], [18]]);
});

programTest("run-time values are checked", async (workspace) => {
  const program = await workspace.compile({ label: "checked", outputs: { y: g.add(g.host("a"), g.host("b", [3])) } });
  const refused: [g.HostValues, string][] = [
    [{ a: 1 }, 'Program checked was not given the value "b"'],
    [{ a: 1, b: [1, 2, 3], c: 4 }, 'Program checked has no run-time value "c"'],
    [{ a: 1, b: [1, 2] }, 'Program checked: "b" has 3 elements; got 2'],
  ];
  for (const [values, message] of refused) {
    assertThrows(() => workspace.submit([program.at(values)]), GraphError, message);
  }
  await assertRejects(
    () => workspace.compile({ label: "twice", outputs: { y: g.add(g.host("a"), g.host("a", [2])) } }),
    GraphError,
    "two different shapes",
  );
  await assertRejects(
    () => workspace.compile({ label: "large", outputs: { y: g.exp(g.host("a", [65])) } }),
    GraphError,
    "more than 64 elements",
  );
});

programTest("what cannot be compiled is refused and leaves nothing behind", async (workspace) => {
  const v = workspace.variable("v", [4]);
  const flat = workspace.flat("flat", g.flatLayout([{ name: "a", shape: [3] }]));
  const x = g.constant([1, 2, 3, 4], [4]);
  const { allocatedBytes } = workspace.gpu;
  const refused: [Omit<ProgramSpec, "label">, string][] = [
    [{ updates: [[v, x], [v, g.exp(x)]] }, "updates variable v twice"],
    [
      { updates: [[flat.slices.get("a")!, g.slice(x, 0, 0, 3)], [flat.chunks[0]!, g.pad(x, 0, 0, 64)]] },
      "updates variable flat/0 twice",
    ],
    [{ updates: [[v, g.slice(x, 0, 0, 3)]] }, "the new value of v does not have its shape"],
    [{ metrics: { i: g.constant([1], [1], "u32") } }, "the metric i is not f32"],
  ];
  for (const [spec, message] of refused) {
    await assertRejects(() => workspace.compile({ label: "bad", ...spec }), GraphError, message);
  }
  assertEquals(workspace.gpu.allocatedBytes, allocatedBytes);
});

programTest("a buffer that is too large is refused with its figures", async (workspace) => {
  const { maxStorageBufferBindingSize: limit } = workspace.gpu.device.limits;
  const elements = 4 * Math.ceil((limit + 1) / 16);
  const error = await assertRejects(
    () =>
      workspace.compile({
        label: "huge",
        metrics: { y: g.sum(g.broadcastTo(g.reshape(g.sum(g.broadcastTo(g.host("x"), [elements])), []), [2])) },
      }),
    LimitError,
    `${elements * 4}`,
  );
  assertEquals([error.needed, error.offered], [
    elements * 4,
    error.limit === "maxBufferSize" ? workspace.gpu.device.limits.maxBufferSize : limit,
  ]);
  assertThrows(() => workspace.variable("huge", [elements]), LimitError, "huge needs max");
  const program = await workspace.compile({ label: "after", outputs: { y: g.exp(g.host("x")) } });
  workspace.submit([program.at({ x: 0 })]);
  assertEquals([...(await program.read()).y!], [1]);
});

/** What a dispatch has beside its name and its code. */
const NOTHING = { uniforms: [], reads: [], writes: [], workgroups: [1, 1, 1], flops: 0, bytes: 0 } as const;

programTest("a kernel that does not compile is shown with its line", async ({ gpu }) => {
  const source = "@compute @workgroup_size(1)\nfn main() {\n  let x = 1.0 + true;\n}\n";
  const error = await assertRejects(
    () => gpu.pipeline({ ...NOTHING, label: "broken", source }),
    ShaderError,
    "Kernel broken did not compile",
  );
  assert(/let x = 1\.0 \+ true/.test(error.message) && /\b3\b/.test(error.message), error.message);
});

programTest("kernels are listed and profiled", async (workspace) => {
  const a = g.constant(randomArray(64 * 64, 1), [64, 64]);
  const runs = g.host("runs");
  const count = filled(workspace, "count", [0]);
  const program = await workspace.compile({
    label: "listed",
    outputs: { y: g.matmul(g.exp(g.matmul(a, a)), a) },
    updates: [[count, g.add(count.tensor, runs)]],
    metrics: { runs },
  });
  const lines = program.kernels();
  assertEquals(lines.map(({ kernel, calls }) => [kernel, calls]), [["matmul", 2], ["pointwise.exp", 1], [
    "pointwise.add",
    1,
  ]]);
  assertEquals(lines[0]!.flops, 4 * 64 ** 3);
  assertEquals(program.cost.flops, lines.reduce((sum, { flops }) => sum + flops, 0));
  assertEquals(program.cost.bytes, lines.reduce((sum, { bytes }) => sum + bytes, 0));
  const [totals, ...rows] = program.describe().split("\n");
  assert(totals!.startsWith("listed: 4 dispatches, 0.001 GFLOP"), totals);
  assertEquals(rows.map((row) => row.trim().split(/\s+/).slice(0, 2)), lines.map((l) => [l.kernel, `${l.calls}`]));
  if (!workspace.gpu.hasTimestamps) {
    await assertRejects(() => program.profile({ runs: 1 }), GraphError, "timestamp");
    return;
  }
  workspace.submit([program.at({ runs: 5 })]);
  const { allocatedBytes } = workspace.gpu;
  const { kernels, dispatches, replayMicroseconds, submitMicroseconds } = await program.profile({ runs: 3 });
  assertEquals(workspace.gpu.allocatedBytes, allocatedBytes);
  assertEquals(kernels.map(({ kernel, calls, flops }) => `${kernel} ${calls} ${flops}`).sort(), [
    ...lines.map(({ kernel, calls, flops }) => `${kernel} ${calls} ${flops}`).sort(),
  ]);
  const matmul = kernels.find(({ kernel }) => kernel === "matmul")!;
  assert(matmul.microseconds > 0 && matmul.microseconds < 1e6, `matmul takes ${matmul.microseconds} µs`);
  assertEquals(dispatches.map(({ kernel }) => kernel).filter((kernel) => kernel !== "pointwise.add"), [
    "matmul",
    "pointwise.exp",
    "matmul",
  ]);
  dispatches.forEach(({ start, microseconds }, i) => {
    const end = i === 0 ? 0 : dispatches[i - 1]!.start + dispatches[i - 1]!.microseconds;
    assert(
      start > end - 1e-6 && microseconds >= 0,
      `dispatch ${i} starts at ${start} µs, the one before ends at ${end}`,
    );
  });
  // A page's clock has steps of 0.1 ms, within which a submit can be over.
  assert(
    replayMicroseconds > 0 && submitMicroseconds >= (Deno.build.os as string === "browser" ? 0 : 1e-3),
    `a replay takes ${replayMicroseconds} µs, a submit ${submitMicroseconds} µs`,
  );
  assertEquals(await contents(workspace, count), [[5]], "state is as it was");
  assertEquals((await program.readMetrics()).map(({ runs }) => [...runs!]), [[5]], "only the real run is recorded");
});

gpuTest("work is cut into jobs: more submits, the same bits, whatever a job may hold", async (gpu) => {
  const { queue } = gpu.device;
  const trained = async (jobFlops?: number) => {
    const workspace = new Workspace(gpu, jobFlops);
    const { loss, grads } = network(2, 6);
    const state = filled(workspace, "state", [0]);
    const program = await workspace.compile({
      label: "cut",
      outputs: { loss, ...Object.fromEntries(grads.map((grad, i) => [`grad${i}`, grad])) },
      metrics: { runs: state.tensor },
      updates: [[state, g.add(state.tensor, g.host("x", [1]))]],
    });
    let submits = 0;
    const submit = queue.submit;
    queue.submit = (buffers) => {
      submits++;
      return submit.call(queue, buffers);
    };
    try {
      workspace.submit([program.at({ x: 1 }), program.at({ x: 2 }), program.at({ x: 4 })]);
    } finally {
      queue.submit = submit;
    }
    const results = { ...await program.read(), state: (await contents(workspace, state))[0]! };
    const metrics = (await program.readMetrics()).map(({ runs }) => [...runs!]);
    const { dispatches, flops } = program.cost;
    workspace.destroy();
    return { submits, dispatches, flops, kept: { metrics, ...results } };
  };
  const whole = await trained();
  assertEquals([whole.submits, whole.kept.metrics], [1, [[0], [1], [3]]]);
  let { submits } = whole;
  for (const share of [1, 0.5, 0.1, 0]) {
    const cut = await trained(share * whole.flops);
    assertEquals(cut.kept, whole.kept);
    assert(cut.submits > submits && cut.submits <= 3 * whole.dispatches, `${share}: ${cut.submits} after ${submits}`);
    ({ submits } = cut);
  }
});

gpuTest("a kernel that the driver cannot compile is named", async (gpu) => {
  const { device } = gpu;
  const pop = device.popErrorScope;
  const outcomes = [null, { message: "too many registers" }];
  device.popErrorScope = async () => (await pop.call(device), outcomes.shift() ?? null);
  try {
    const source = "@compute @workgroup_size(1)\nfn main() {}\n// greedy";
    await assertRejects(
      () => gpu.pipeline({ ...NOTHING, label: "greedy", source }),
      ShaderError,
      "Kernel greedy did not compile: too many registers",
    );
  } finally {
    device.popErrorScope = pop;
  }
  gpu.check();
});

programTest("memory stays flat over many submits", async (workspace) => {
  const { loss, grads } = network(1, 6);
  const state = filled(workspace, "state", [0]);
  const program = await workspace.compile({
    label: "repeated",
    metrics: { loss, total: g.add(g.sum(grads[0]!), g.sum(grads[1]!)) },
    updates: [[state, g.add(state.tensor, g.host("x", [1]))]],
  });
  const run = async (submits: number) => {
    for (let i = 1; i <= submits; i++) {
      workspace.submit([program.at({ x: 1 }), program.at({ x: 2 })]);
      if (i % 25 === 0) await program.readMetrics();
    }
  };
  await run(100);
  const before = { rss: Deno.memoryUsage().rss, allocated: workspace.gpu.allocatedBytes };
  await run(300);
  const growth = (Deno.memoryUsage().rss - before.rss) / 2 ** 20;
  assertEquals(workspace.gpu.allocatedBytes, before.allocated);
  assert(growth < 16, `The process grew by ${growth.toFixed(1)} MiB.`);
  assertAlmostEquals((await contents(workspace, state))[0]![0]!, 1200);
});

gpuTest("a released workspace has no bytes left", async (gpu) => {
  const { allocatedBytes } = gpu;
  const workspace = new Workspace(gpu);
  const v = workspace.variable("v", [100]);
  await g.evaluate(workspace, { y: g.sum(g.mul(v.tensor, g.host("a"))) }, { a: 1 });
  const program = await workspace.compile({
    label: "p",
    outputs: { y: g.matmul(g.reshape(v.tensor, [10, 10]), g.reshape(v.tensor, [10, 10])) },
  });
  program.destroy();
  workspace.destroy();
  assertEquals(gpu.allocatedBytes, allocatedBytes);
});

Deno.test({
  name: "a lost device is reported as such",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const gpu = await Gpu.create();
    const workspace = new Workspace(gpu);
    const program = await workspace.compile({ label: "lost", outputs: { y: g.exp(g.host("x")) } });
    workspace.submit([program.at({ x: 0 })]);
    assertEquals([...(await program.read()).y!], [1]);
    gpu.destroy();
    await gpu.device.lost;
    await assertRejects(async () => {
      workspace.submit([program.at({ x: 0 })]);
      await program.read();
    }, DeviceLostError);
    await assertRejects(() => g.evaluate(workspace, { y: g.log(g.host("x")) }, { x: 1 }), DeviceLostError);
  },
});

Deno.test({
  name: "f16 is refused before there is any buffer where the adapter does not offer it",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const gpu = await withoutF16(() => Gpu.create());
    const workspace = new Workspace(gpu);
    const x = filled(workspace, "x", [1, 2, 3]);
    const doubled = g.cast(g.affine(g.cast(x.tensor, "f16"), 2, 0), "f32"), bytes = gpu.allocatedBytes;
    const message = `stores f16, but the adapter ${gpu.adapter.name} does not offer shader-f16.`;
    await assertRejects(
      () => workspace.compile({ label: "double", outputs: { doubled } }),
      AdapterError,
      `Program double ${message}`,
    );
    assertEquals(gpu.allocatedBytes, bytes);
    const dispatch = upsampleNearest2x({ x: "x", y: "y" }, { planes: 1, height: 1, width: 1, factor: 1, f16: true });
    await assertRejects(() => gpu.pipeline(dispatch), AdapterError, `Kernel resample.upsample ${message}`);
    gpu.destroy();
  },
});

/** Calls `f` while no adapter offers f16. */
async function withoutF16<T>(f: () => Promise<T>): Promise<T> {
  const { gpu } = navigator, request = gpu.requestAdapter;
  gpu.requestAdapter = async (options) => {
    const adapter = await request.call(gpu, options);
    const features = new Set([...adapter!.features].filter((feature) => feature !== "shader-f16"));
    return Object.defineProperty(adapter!, "features", { value: features });
  };
  try {
    return await f();
  } finally {
    gpu.requestAdapter = request;
  }
}
