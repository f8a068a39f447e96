/** Whole buffers through the runtime's compression streams. */

/** Deflate makes no more bytes of one than this. */
export const MAX_EXPANSION = 1032;

/** `bytes` compressed in the zlib format (RFC 1950). */
export function deflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return through(bytes, new CompressionStream("deflate"));
}

/**
 * What {@linkcode deflate} made `bytes` from.
 *
 * @throws {TypeError} where `bytes` is not zlib data.
 */
export function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return through(bytes, new DecompressionStream("deflate"));
}

async function through(
  bytes: Uint8Array<ArrayBuffer>,
  transform: CompressionStream | DecompressionStream,
): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(transform);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
