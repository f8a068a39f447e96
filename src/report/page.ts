/** A page that needs nothing beside itself: one file, no script, light and dark. */

import { DASHES, STYLES } from "./charts.ts";
import { element, textElement } from "./svg.ts";

/**
 * Colours of series, told apart by most colour-blind people: those of Okabe and Ito (2008), some darker on light paper,
 * where theirs are too faint.
 */
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#a8478a", "#b87d00", "#2b9bd8", "#6b6b00", "#5a5a5a"],
  dark: ["#4ba3e3", "#f0803c", "#2cc79a", "#d992bd", "#e69f00", "#7cc8f2", "#f0e442", "#b4b4b4"],
} as const;

const variables = (colours: readonly string[]) => colours.map((colour, i) => `--c${i}:${colour}`).join(";");

const STYLE = `
:root{color-scheme:light dark;--paper:#fff;--raised:#f6f7f9;--ink:#1b1f24;--muted:#5b6470;--grid:#e3e6ea;--axis:#8a929c;
--heat:#0b5fa5;--mark:#c2410c;${variables(COLOURS.light)}}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--raised:#1c2026;--ink:#e8eaed;--muted:#a2abb6;--grid:#2a3038;
--axis:#6b7480;--heat:#58aef5;--mark:#ff9d5c;${variables(COLOURS.dark)}}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:2.2rem 1.4rem 4rem;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .5rem;letter-spacing:-.015em}
h2{font-size:1.15rem;margin:2.6rem 0 .35rem}
p{margin:.4rem 0;max-width:78ch}
.lead{font-size:1.06rem}.muted,figcaption,.note{color:var(--muted)}.note,figcaption{font-size:.87rem}
.verdict{border-left:4px solid var(--c0);background:var(--raised);padding:.7rem 1rem;margin:1rem 0;max-width:none}
figure{margin:.8rem 0}svg,img{max-width:100%;height:auto;display:block}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:1rem 1.2rem}
.grid2 figure{margin:0}img{image-rendering:pixelated;border-radius:4px;width:100%}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.87rem;white-space:nowrap}
th,td{padding:.32rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom;white-space:normal;min-width:4.6rem}
th:first-child{text-align:left;padding-left:0}tbody th{font-weight:600}
.swatch{display:inline-block;vertical-align:middle;margin-right:.55rem}
pre{background:var(--raised);padding:1rem;overflow:auto;font-size:.8rem;max-height:28rem;border-radius:4px}
summary{cursor:pointer}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--ink)}
svg .title{font-weight:600;font-size:13px}svg .tick{fill:var(--muted);font-size:11.5px}svg .label{fill:var(--muted)}
svg .name{font-size:13px;font-weight:600}svg .middle{text-anchor:middle}svg .end{text-anchor:end}
svg .grid{stroke:var(--grid)}svg .axis{fill:none;stroke:var(--axis)}
svg .series{--c:var(--ink)}${Array.from({ length: STYLES }, (_, i) => `svg .s${i}{--c:var(--c${i})}`).join("")}
svg .line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round}
svg .band{fill:var(--c);fill-opacity:.17}svg .dot{fill:var(--c)}
svg .open{fill:var(--paper);fill-opacity:.75;stroke:var(--c);stroke-width:1.6}
svg .errorBar{stroke:var(--c);stroke-width:6;stroke-opacity:.38}svg .mean{stroke:var(--c);stroke-width:3}
svg .thin .line{stroke-width:1;stroke-opacity:.55}
svg .faint .line{stroke:var(--muted);stroke-width:1.5}svg .faint .band{fill:var(--muted);fill-opacity:.12}
svg .reference{fill:none;stroke:var(--muted);stroke-width:1.3;stroke-dasharray:5 4}
svg .referenceBand{fill:var(--muted);fill-opacity:.14}
svg .cell{fill:var(--heat)}svg .mark{stroke:var(--mark);stroke-width:2.5}
`;

/** A page with a title and sections of markup; readable as HTML and as XML. */
export function page(title: string, ...sections: readonly string[]): string {
  const head = element(
    "head",
    {},
    element("meta", { charset: "utf-8" }),
    element("meta", { name: "viewport", content: "width=device-width, initial-scale=1" }),
    textElement("title", {}, title),
    `<style>${STYLE}</style>`,
  );
  const body = element("body", {}, textElement("h1", {}, title), ...sections);
  const html = element("html", { xmlns: "http://www.w3.org/1999/xhtml", lang: "en" }, head, "\n", body);
  return `<!DOCTYPE html>\n${html}\n`;
}

/** A short line in a series' colour and dashes, to stand before its name. */
export function swatch(style: number | undefined): string {
  const className = style === undefined ? "series" : `series s${style % STYLES}`;
  const dash = style === undefined ? undefined : DASHES[style % STYLES] || undefined;
  return element(
    "svg",
    { class: "swatch", width: 26, height: 10, "aria-hidden": "true" },
    element(
      "g",
      { class: className },
      element("path", { class: "line", d: "M0 5H26", "stroke-dasharray": dash }),
    ),
  );
}
