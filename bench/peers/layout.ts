/** Changes of layout on the host: every library gets its data as it likes them best. */

/** `data` of the given shape with the last two axes swapped. */
export function swapLast(data: Float32Array<ArrayBuffer>, shape: readonly number[]): Float32Array<ArrayBuffer> {
  return permuted(data, shape, [...shape.slice(0, -2).keys(), shape.length - 1, shape.length - 2]);
}

/** `data` of the given shape with its axes in the order `axes`: axis i of the result is axis `axes[i]` of `data`. */
export function permuted(
  data: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  axes: readonly number[],
): Float32Array<ArrayBuffer> {
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const extents = axes.map((axis) => shape[axis]!);
  const steps = axes.map((axis) => strides[axis]!);
  const result = new Float32Array(data.length);
  const index = extents.map(() => 0);
  for (let i = 0, from = 0; i < data.length; i++) {
    result[i] = data[from]!;
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      from += steps[axis]!;
      if (++index[axis]! < extents[axis]!) break;
      from -= steps[axis]! * extents[axis]!;
      index[axis] = 0;
    }
  }
  return result;
}
