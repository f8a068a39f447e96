/** What a mistyped word was meant to be. */

/** ` Did you mean "…"?` with the known word closest to `word` after `prefix`, or nothing where none is close. */
export function suggestion(word: string, known: readonly string[], prefix = ""): string {
  let best: string | undefined, least = Math.max(2, Math.floor(word.length / 2)) + 1;
  for (const candidate of known) {
    const distance = word.length > 2 && candidate.includes(word) ? 1 : editDistance(word, candidate);
    if (distance < least && distance < candidate.length) {
      best = candidate;
      least = distance;
    }
  }
  return best === undefined ? "" : ` Did you mean "${prefix}${best}"?`;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}
