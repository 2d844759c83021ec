"""The style of the report page, which goes into its head."""

STYLE = """\
:root { --ink: #1f2328; --muted: #6b7280; --line: #e3e5e9; --paper: #ffffff; --tint: #f7f8fa; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 40px 32px 48px; max-width: 1100px; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
header { margin-bottom: 24px; }
h1 { margin: 0; font-size: 28px; font-weight: 650; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 {
  margin: 44px 0 14px; padding-bottom: 6px; font-size: 17px; font-weight: 650; border-bottom: 1px solid var(--line);
}
h3 { margin: 0 0 4px; font-size: 13px; font-weight: 650; }
.kind { margin: 0 0 2px; color: var(--muted); font-size: 13px; }
.note, footer { color: var(--muted); font-size: 13px; }
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--muted); font-size: 12px; font-weight: 500; white-space: nowrap; }
table.headline { width: 100%; }
table.headline th { padding-bottom: 2px; }
table.headline td { white-space: nowrap; border-top: 1px solid var(--line); }
table.headline td:first-child { font-weight: 600; }
table.single {
  background: var(--tint); border: 1px solid var(--line); border-radius: 6px; border-collapse: separate;
  border-spacing: 0;
}
table.single th { padding: 12px 6px 0 16px; }
table.single td { padding: 0 6px 12px 16px; border: 0; font-size: 18px; font-weight: 600; }
.swatch { display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 2px; }
.curves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 24px 28px; }
.curves figure { margin: 0; }
.curves svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.time { margin: 0 0 12px; }
.time p { margin: 0 0 4px; font-size: 13px; font-weight: 550; }
.bar { display: flex; height: 22px; border-radius: 3px; overflow: hidden; background: var(--tint); }
.bar i { display: block; min-width: 0; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
table.times { margin: 6px 0 10px; font-size: 13px; }
table.times td { border-top: 1px solid var(--line); }
table.times td + td { white-space: nowrap; }
table.times td.key { white-space: normal; }
.pictures { display: flex; flex-wrap: wrap; gap: 24px 28px; align-items: flex-end; }
.pictures figure { margin: 0; max-width: 100%; }
.pictures img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
figcaption { margin-top: 6px; font-weight: 550; font-size: 13px; }
figcaption .note { font-weight: 400; margin-left: 4px; }
figcaption br + .note { margin-left: 0; }
details { margin: 0 0 8px; }
summary { cursor: pointer; font-weight: 550; }
summary .note { font-weight: 400; margin-left: 6px; }
pre {
  margin: 8px 0 16px; padding: 12px 16px; background: var(--tint); border: 1px solid var(--line); border-radius: 6px;
  font: 13px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 420px; overflow-y: auto;
}
.counts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 10px; padding: 0; list-style: none; }
table.events { width: 100%; font-size: 13px; }
table.events td { border-top: 1px solid var(--line); }
table.events td:first-child, table.events td:nth-child(2) { white-space: nowrap; }
.key { color: var(--muted); }
table.config { width: 100%; font-size: 13px; }
table.config td, table.config th { padding: 3px 14px 3px 0; }
table.config td { border-top: 1px solid var(--line); }
table.config tbody:first-child tr:first-child td { border-top: 0; }
table.config td:first-child { width: 46%; }
.sections { columns: 2; column-gap: 36px; }
.sections > div { break-inside: avoid; margin-bottom: 20px; }
@media (max-width: 760px) { .curves { grid-template-columns: 1fr; } .sections { columns: 1; } }
@media print { body { padding: 0; } pre { max-height: none; } }
"""
