/** Dense linear algebra on symmetric matrices, in float64 and row-major. */

import { GraphError, NonFiniteError } from "../gpu/errors.ts";

/** Eigenvalues with their eigenvectors. */
export interface Eigen {
  /** The `n` eigenvalues, ascending. */
  readonly values: Float64Array;
  /** Row `i` of this `[n, n]` matrix is the unit eigenvector of `values[i]`. */
  readonly vectors: Float64Array;
}

/** Sweeps of implicit QR one eigenvalue may take; two or three are usual. */
const MAX_SWEEPS = 100;

/**
 * Eigen-decomposition `A = Σ λ_i v_i v_iᵀ` of a symmetric `[n, n]` matrix: Householder reduction to tridiagonal form, then
 * implicit QR steps with Wilkinson's shift (Golub and Van Loan, Matrix Computations, sections 8.3.1 to 8.3.3). O(n³);
 * absolute errors are of the order of `ε ‖A‖`. Only the symmetric part of `matrix` is used.
 *
 * @throws {GraphError} where `matrix` does not hold `n * n` values.
 * @throws {NonFiniteError} where it holds a NaN or an infinity.
 */
export function symmetricEigen(matrix: ArrayLike<number>, n: number): Eigen {
  const a = symmetricCopy(matrix, n);
  let scale = 0;
  for (const value of a) scale = Math.max(scale, Math.abs(value));
  if (!Number.isFinite(scale)) throw new NonFiniteError("A matrix to decompose holds a NaN or an infinity.");
  // Squares of the entries must neither overflow nor vanish.
  if (scale > 0) { for (let i = 0; i < a.length; i++) a[i]! /= scale; }
  const { diagonal, offDiagonal, vectors } = tridiagonalise(a, n);
  diagonalise(diagonal, offDiagonal, vectors, n);
  for (let i = 0; i < n; i++) diagonal[i]! *= scale;
  return sorted(diagonal, vectors, n);
}

/**
 * The symmetric square root `S^{1/2}` of a symmetric positive semi-definite `[n, n]` matrix. Eigenvalues that rounding made
 * negative count as zero.
 *
 * @throws {GraphError} where `matrix` does not hold `n * n` values.
 * @throws {NonFiniteError} where it holds a NaN or an infinity.
 */
export function symmetricSqrt(matrix: ArrayLike<number>, n: number): Float64Array {
  const { values, vectors } = symmetricEigen(matrix, n);
  const root = new Float64Array(n * n);
  for (let k = 0; k < n; k++) {
    const weight = Math.sqrt(Math.max(0, values[k]!));
    const v = vectors.subarray(k * n, (k + 1) * n);
    for (let i = 0; i < n; i++) addScaled(root.subarray(i * n, (i + 1) * n), weight * v[i]!, v);
  }
  return root;
}

/** The product of two square `[n, n]` matrices. */
export function multiplySquare(a: Float64Array, b: Float64Array, n: number): Float64Array {
  const product = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = product.subarray(i * n, (i + 1) * n);
    for (let k = 0; k < n; k++) addScaled(row, a[i * n + k]!, b.subarray(k * n, (k + 1) * n));
  }
  return product;
}

function symmetricCopy(matrix: ArrayLike<number>, n: number): Float64Array {
  if (matrix.length !== n * n) {
    throw new GraphError(`A symmetric matrix of ${n} rows has ${n * n} values, but ${matrix.length} were given.`);
  }
  const copy = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) copy[i * n + j] = 0.5 * matrix[i * n + j]! + 0.5 * matrix[j * n + i]!;
  }
  return copy;
}

/** Row of `matrix` from column `start`, as a view. */
function rowFrom(matrix: Float64Array, n: number, row: number, start: number): Float64Array {
  return matrix.subarray(row * n + start, (row + 1) * n);
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function addScaled(target: Float64Array, factor: number, source: Float64Array): void {
  for (let i = 0; i < target.length; i++) target[i]! += factor * source[i]!;
}

/** Householder reduction `A = Q T Qᵀ`, destroying `a`; `vectors` is `Qᵀ`, `offDiagonal[i]` is `T[i, i + 1]`. */
function tridiagonalise(a: Float64Array, n: number) {
  const diagonal = new Float64Array(n), offDiagonal = new Float64Array(Math.max(0, n - 1));
  for (let k = 0; k + 2 < n; k++) {
    // The reflection's unit vector replaces the part of row k that it annihilates.
    const v = rowFrom(a, n, k, k + 1);
    offDiagonal[k] = makeReflection(v);
    reflectBothSides(a, n, k + 1, v);
  }
  if (n > 1) offDiagonal[n - 2] = a[(n - 2) * n + n - 1]!;
  for (let i = 0; i < n; i++) diagonal[i] = a[i * n + i]!;

  const vectors = new Float64Array(n * n);
  for (let i = 0; i < n; i++) vectors[i * n + i] = 1;
  for (let k = n - 3; k >= 0; k--) {
    const v = rowFrom(a, n, k, k + 1);
    for (let i = k + 1; i < n; i++) {
      const row = rowFrom(vectors, n, i, k + 1);
      addScaled(row, -2 * dot(row, v), v);
    }
  }
  return { diagonal, offDiagonal, vectors };
}

/** Turns `x` into the unit `v` of a reflection with `(I − 2 v vᵀ) x = (α, 0, …)`; returns α. A zero `x` stays zero. */
function makeReflection(x: Float64Array): number {
  const norm = Math.sqrt(dot(x, x));
  if (norm === 0) return 0;
  const alpha = x[0]! > 0 ? -norm : norm;
  x[0]! -= alpha;
  const length = Math.sqrt(dot(x, x));
  for (let i = 0; i < x.length; i++) x[i]! /= length;
  return alpha;
}

/** `A ← H A H` with `H = I − 2 v vᵀ` on the rows and columns of `a` from `start`. */
function reflectBothSides(a: Float64Array, n: number, start: number, v: Float64Array): void {
  const w = new Float64Array(n - start);
  for (let i = 0; i < w.length; i++) w[i] = 2 * dot(rowFrom(a, n, start + i, start), v);
  addScaled(w, -dot(v, w), v);
  for (let i = 0; i < w.length; i++) {
    const row = rowFrom(a, n, start + i, start);
    addScaled(row, -v[i]!, w);
    addScaled(row, -w[i]!, v);
  }
}

/** Implicit QR on a tridiagonal matrix until it is diagonal, applying every rotation to the rows of `vectors`. */
function diagonalise(d: Float64Array, e: Float64Array, vectors: Float64Array, n: number): void {
  let sweeps = 0;
  for (let high = n - 1; high > 0;) {
    let low = high;
    while (low > 0 && Math.abs(e[low - 1]!) > Number.EPSILON * (Math.abs(d[low - 1]!) + Math.abs(d[low]!))) low--;
    if (low === high) {
      high--;
      sweeps = 0;
    } else {
      if (++sweeps > MAX_SWEEPS) throw new Error("The eigenvalues of a symmetric matrix did not converge.");
      qrStep(d, e, vectors, n, low, high);
    }
  }
}

/** One implicit QR step with Wilkinson's shift on rows `low` to `high` of the tridiagonal matrix. */
function qrStep(d: Float64Array, e: Float64Array, vectors: Float64Array, n: number, low: number, high: number): void {
  const half = (d[high - 1]! - d[high]!) / 2, corner = e[high - 1]!;
  const root = Math.hypot(half, corner);
  const shift = d[high]! - corner * (corner / (half + (half < 0 ? -root : root)));
  let x = d[low]! - shift, bulge = e[low]!;
  for (let k = low; k < high; k++) {
    const r = Math.hypot(x, bulge);
    const c = r === 0 ? 1 : x / r, s = r === 0 ? 0 : bulge / r;
    if (k > low) e[k - 1] = r;
    const p = d[k]!, q = d[k + 1]!, b = e[k]!;
    d[k] = c * c * p + 2 * c * s * b + s * s * q;
    d[k + 1] = s * s * p - 2 * c * s * b + c * c * q;
    e[k] = c * s * (q - p) + (c * c - s * s) * b;
    x = e[k]!;
    if (k + 1 < high) {
      bulge = s * e[k + 1]!;
      e[k + 1]! *= c;
    }
    rotateRows(vectors, n, k, c, s);
  }
}

function rotateRows(vectors: Float64Array, n: number, k: number, c: number, s: number): void {
  const upper = rowFrom(vectors, n, k, 0), lower = rowFrom(vectors, n, k + 1, 0);
  for (let i = 0; i < n; i++) {
    const u = upper[i]!, l = lower[i]!;
    upper[i] = c * u + s * l;
    lower[i] = c * l - s * u;
  }
}

function sorted(values: Float64Array, vectors: Float64Array, n: number): Eigen {
  const order = Array.from(values.keys()).sort((i, j) => values[i]! - values[j]!);
  const result = { values: new Float64Array(n), vectors: new Float64Array(n * n) };
  order.forEach((from, to) => {
    result.values[to] = values[from]!;
    result.vectors.set(rowFrom(vectors, n, from, 0), to * n);
  });
  return result;
}
