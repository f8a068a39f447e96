/** Tables as plain text, as Markdown and as markup. */

import { element, escapeXml, textElement } from "./svg.ts";

/** A table: the first column holds names, the others figures. */
export interface Table {
  /** Heads of the columns. */
  readonly columns: readonly string[];
  /** Rows of as many cells. */
  readonly rows: readonly (readonly string[])[];
}

/** Columns of one width, for a terminal. */
export function tableText({ columns, rows }: Table): string {
  const all = [columns, ...rows];
  const widths = columns.map((_, i) => Math.max(...all.map((row) => [...row[i]!].length)));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  ").trimEnd();
  return all.map(line).join("\n");
}

/** A table of Markdown. */
export function tableMarkdown({ columns, rows }: Table): string {
  const line = (row: readonly string[]) => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(columns), line(columns.map((_, i) => i === 0 ? "---" : "---:")), ...rows.map(line)].join("\n");
}

/** A table of a page; `swatches` are markup before the names. */
export function tableMarkup({ columns, rows }: Table, swatches: readonly string[] = []): string {
  const head = element("tr", {}, ...columns.map((column) => textElement("th", { scope: "col" }, column)));
  const body = rows.map(([name, ...cells], i) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, (swatches[i] ?? "") + escapeXml(name!)),
      ...cells.map((cell) => textElement("td", {}, cell)),
    )
  );
  return element(
    "div",
    { class: "scroll" },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)),
  );
}

/** The names with some of the other columns: from the one at `from` to before that at `to`. */
export function columnsOf({ columns, rows }: Table, from: number, to = columns.length): Table {
  const part = (row: readonly string[]) => [row[0]!, ...row.slice(from, to)];
  return { columns: part(columns), rows: rows.map(part).filter(([, ...cells]) => cells.some((cell) => cell !== "")) };
}
