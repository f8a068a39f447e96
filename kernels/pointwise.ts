/** Pointwise chains: one generated WGSL kernel computes a whole expression over broadcast inputs. */

import { ceilDiv, type Dispatch, F32, spread, type Word } from "../src/gpu/kernel.ts";

/** Name of a pointwise function. */
export type PointwiseFunction =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "max"
  | "min"
  | "greater"
  | "equal"
  | "where"
  | "cast"
  | "affine"
  | "clamp"
  | "exp"
  | "log"
  | "sqrt"
  | "square"
  | "abs"
  | "sign"
  | "step"
  | "tanh"
  | "sigmoid"
  | "softplus"
  | "silu"
  | "relu"
  | "sin"
  | "cos"
  | "isFinite";

type Emit = (args: readonly string[], params: readonly string[]) => string;

/** Functions of one to three arguments; `T` stands for `f32` or `vec4<f32>`, `p` for the function's constants. */
const FUNCTIONS: Readonly<Record<PointwiseFunction, Emit>> = {
  add: ([a, b]) => `${a} + ${b}`,
  sub: ([a, b]) => `${a} - ${b}`,
  mul: ([a, b]) => `${a} * ${b}`,
  div: ([a, b]) => `${a} / ${b}`,
  max: ([a, b]) => `max(${a}, ${b})`,
  min: ([a, b]) => `min(${a}, ${b})`,
  greater: ([a, b]) => `select(T(0.0), T(1.0), ${a} > ${b})`,
  equal: ([a, b]) => `select(T(0.0), T(1.0), ${a} == ${b})`,
  where: ([c, a, b]) => `select(${b}, ${a}, ${c} != T(0.0))`,
  cast: ([x]) => x!, // the types of its argument and its result differ
  affine: ([x], [scale, shift]) => `${x} * ${scale} + T(${shift})`,
  clamp: ([x], [low, high]) => `clamp(${x}, T(${low}), T(${high}))`,
  exp: ([x]) => `exp(${x})`,
  log: ([x]) => `log(${x})`,
  sqrt: ([x]) => `sqrt(${x})`,
  square: ([x]) => `${x} * ${x}`,
  abs: ([x]) => `abs(${x})`,
  sign: ([x]) => `sign(${x})`,
  step: ([x]) => `select(T(0.0), T(1.0), ${x} > T(0.0))`,
  tanh: ([x]) => `tanh(clamp(${x}, T(-20.0), T(20.0)))`,
  sigmoid: ([x]) => `T(1.0) / (T(1.0) + exp(-${x}))`,
  softplus: ([x]) => `max(${x}, T(0.0)) + log(T(1.0) + exp(-abs(${x})))`,
  silu: ([x]) => `${x} / (T(1.0) + exp(-${x}))`,
  relu: ([x]) => `max(${x}, T(0.0))`,
  sin: ([x]) => `sine(${x}, T(0.0))`,
  cos: ([x]) => `sine(${x}, T(1.0))`,
  // By the bits, as compilers may take for granted that no comparison sees a NaN; and past a zero that they do not know,
  // as LLVM takes the plain test of a computed value's bits for such a comparison too.
  isFinite: ([x], [zero]) =>
    `select(T(1.0), T(0.0), ((bitcast<U>(${x}) ^ bitcast<U>(T(${zero}))) & U(0x7f800000u)) == U(0x7f800000u))`,
};

/**
 * sin(x + quarters · π/2). WGSL promises sin and cos to 2^-11 only, and some implementations are no better: x is reduced
 * to [-π/4, π/4] (constants with few bits, so that the products are exact up to |x| of about 10^4) for two polynomials.
 */
const SINE = `fn sine(x: T, quarters: T) -> T {
  let quarter = round(x * 0.63661977);
  let r = ((x - quarter * 1.5703125) - quarter * 4.837512969970703e-4) - quarter * 7.549789954891882e-8;
  let s = r * r;
  let c = 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * 2.4801587e-5)));
  let d = r * (1.0 + s * (-0.16666667 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6))));
  let turns = (quarter + quarters) * 0.25;
  let phase = turns - floor(turns);
  let y = select(d, c, (phase == T(0.25)) | (phase == T(0.75)));
  return select(y, -y, phase >= T(0.5));
}
`;

/** One function application; arguments count inputs first, then earlier steps. */
export interface PointwiseStep {
  /** What is computed. */
  readonly fn: PointwiseFunction;
  /** Indices: below the number of inputs an input, else step `index − inputs`. */
  readonly args: readonly number[];
  /** The function's constants. */
  readonly params: readonly number[];
  /** True where the result is rounded to f16: that of the last step is then stored as such. */
  readonly f16?: boolean | undefined;
}

/** A pointwise expression; its last step is the output. */
export interface PointwiseShape {
  /** Applications in order. */
  readonly steps: readonly PointwiseStep[];
  /** Extents of the output. */
  readonly shape: readonly number[];
  /** Extents of each input, broadcast by NumPy's rules. */
  readonly inputShapes: readonly (readonly number[])[];
  /** Which inputs are stored as f16; none when absent. */
  readonly inputF16?: readonly boolean[] | undefined;
}

/**
 * Evaluates the expression for every element of `output`. Extents that all inputs treat alike are merged; where the
 * innermost merged extent is a multiple of 4, each thread computes four elements at once. Shapes, strides and
 * constants are uniforms: the pipeline depends on the expression, the types and the pattern of broadcasting alone. It is
 * computed in f32; a result that is f16 is rounded to it also where it is not stored, so that fusing changes no result.
 */
export function pointwise<B>(b: { inputs: readonly B[]; output: B }, s: PointwiseShape): Dispatch<B> {
  const { extents, strides } = collapse(s.shape, s.inputShapes);
  const rank = extents.length;
  const inner = extents[rank - 1]!;
  const width = inner % 4 === 0 ? 4 : 1;
  const count = s.shape.reduce((total, extent) => total * extent, 1) / width;
  const uniforms: Word[] = [count, inner / width, ...extents.slice(0, -1)];
  const fields = ["count", "inner", ...extents.slice(0, -1).map((_, d) => `extent${d}`)];
  const types = fields.map(() => "u32");
  const word = (name: string, value: Word) => {
    fields.push(name);
    types.push(value instanceof F32 ? "f32" : "u32");
    uniforms.push(value);
    return `params.${name}`;
  };

  const usesF16 = s.inputF16?.includes(true) || s.steps.some(({ f16 }) => f16);
  const storedF16 = width === 4 ? "HalfQuad" : "Half";
  const bindings: string[] = [], loads: string[] = [];
  s.inputShapes.forEach((_, i) => {
    const own = strides[i]!;
    const vector = width === 4 && own[rank - 1] === 1;
    const [scalarType, vectorType] = s.inputF16?.[i] ? ["Half", "HalfQuad"] : ["f32", "vec4<f32>"];
    const type = vector ? vectorType : scalarType;
    bindings.push(`@group(0) @binding(${i + 1}) var<storage, read> in${i}: array<${type}>;`);
    const linear = own.every((stride, d) => stride === natural(extents, d));
    const terms = linear ? ["i"] : own.flatMap((stride, d) => {
      if (stride === 0) return [];
      if (d === rank - 1) return [`c${d}`];
      return [`c${d} * ${word(`stride${i}_${d}`, vector ? stride / 4 : stride)}`];
    });
    const element = `in${i}[${terms.join(" + ") || "0u"}]`;
    loads.push(`let v${i} = T(${type === "Half" ? `f32(${element})` : element});`);
  });
  s.steps.forEach(({ fn, args, params, f16 }, step) => {
    const constants = params.map((value, p) => word(`p${step}_${p}`, new F32(value)));
    const expression = FUNCTIONS[fn](args.map((a) => `v${a}`), constants);
    loads.push(`let v${s.inputShapes.length + step} = ${f16 ? `T(${storedF16}(${expression}))` : expression};`);
  });

  const outputF16 = s.steps.at(-1)!.f16;
  const source = `alias T = ${width === 4 ? "vec4<f32>" : "f32"};
alias U = ${width === 4 ? "vec4<u32>" : "u32"};
${usesF16 ? "alias Half = f32;\nalias HalfQuad = vec4<f32>;\n" : ""}struct Params {
${fields.map((name, i) => `  ${name}: ${types[i]},`).join("\n")}
}
@group(0) @binding(0) var<uniform> params: Params;
${bindings.join("\n")}
@group(0) @binding(${s.inputShapes.length + 1}) var<storage, read_write> output: array<${outputF16 ? storedF16 : "T"}>;
${s.steps.some(({ fn }) => fn === "sin" || fn === "cos") ? SINE : ""}@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
${coordinates(rank)}
  ${loads.join("\n  ")}
  output[i] = ${outputF16 ? storedF16 : "T"}(v${s.inputShapes.length + s.steps.length - 1});
}
`;
  const inputBytes = s.inputShapes.map((shape, i) =>
    shape.reduce((total, extent) => total * extent, s.inputF16?.[i] ? 2 : 4)
  );
  return {
    label: `pointwise.${s.steps.map((step) => step.fn).slice(-3).join("-")}`,
    source,
    ...usesF16 && { f16: ["Half", "HalfQuad"] },
    uniforms,
    reads: b.inputs,
    writes: [b.output],
    workgroups: spread(ceilDiv(count, 64)),
    flops: count * width * s.steps.length,
    bytes: (outputF16 ? 2 : 4) * count * width + inputBytes.reduce((total, bytes) => total + bytes, 0),
  };
}

/** Row-major stride of axis `d`. */
function natural(extents: readonly number[], d: number): number {
  return extents.slice(d + 1).reduce((total, extent) => total * extent, 1);
}

/** WGSL that splits the linear index into one coordinate an axis, in units of the innermost vector. */
function coordinates(rank: number): string {
  if (rank === 1) return "  let c0 = i;";
  const lines = [`  let c${rank - 1} = i % params.inner;`, `  let r${rank - 1} = i / params.inner;`];
  for (let d = rank - 2; d > 0; d--) {
    lines.push(`  let c${d} = r${d + 1} % params.extent${d};`, `  let r${d} = r${d + 1} / params.extent${d};`);
  }
  lines.push(`  let c0 = r1;`);
  return lines.join("\n");
}

/** Merges neighbouring axes that every input either walks through contiguously or repeats. */
function collapse(
  shape: readonly number[],
  inputShapes: readonly (readonly number[])[],
): { extents: number[]; strides: number[][] } {
  const extents: number[] = [];
  const repeats: boolean[][] = [];
  shape.forEach((extent, axis) => {
    if (extent === 1) return;
    const pattern = inputShapes.map((s) => (s[axis - shape.length + s.length] ?? 1) === 1);
    const last = repeats[repeats.length - 1];
    if (last && last.every((repeat, i) => repeat === pattern[i])) extents[extents.length - 1]! *= extent;
    else {
      extents.push(extent);
      repeats.push(pattern);
    }
  });
  if (extents.length === 0) {
    extents.push(1);
    repeats.push(inputShapes.map(() => true));
  }
  const strides = inputShapes.map((_, i) => {
    let stride = 1;
    const own = new Array<number>(extents.length).fill(0);
    for (let d = extents.length - 1; d >= 0; d--) {
      if (repeats[d]![i]) continue;
      own[d] = stride;
      stride *= extents[d]!;
    }
    return own;
  });
  return { extents, strides };
}
