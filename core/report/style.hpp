// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace kerf::core::report {

/// The report's looks, light and dark. Colours of series are told apart by people with any kind of colour vision, and
/// markers differ in shape besides.
inline constexpr std::string_view style_sheet = R"css(
:root { --page: #f6f7f9; --sheet: #ffffff; --ink: #1c2430; --soft: #5a6675; --edge: #dde2e9; --accent: #0b6fb8; --plain: #9aa5b3;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b8559a; --s4: #8a6d00; --s5: #3a9bd1; --s6: #7a4fbf; --s7: #555f6b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --sheet: #1a2028; --ink: #e6eaf0; --soft: #9aa6b5; --edge: #2e3742; --accent: #58b4f0; --plain: #66717f;
    --s0: #56b4e9; --s1: #f28e3c; --s2: #2cc295; --s3: #e08bc4; --s4: #e3c341; --s5: #8fd0f5; --s6: #b594ec; --s7: #a9b4c0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
section { background: var(--sheet); border: 1px solid var(--edge); border-radius: 10px; padding: 20px 24px 24px; margin-top: 24px; }
h2 { font-size: 20px; margin: 0 0 12px; overflow-wrap: anywhere; }
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 0 0 12px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 24px 0 0; }
.card { background: var(--sheet); border: 1px solid var(--edge); border-radius: 10px; padding: 12px 16px; }
.card dt { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.card dd { margin: 0; }
.card b { display: block; font-size: 23px; font-weight: 650; line-height: 1.3; white-space: nowrap; font-variant-numeric: tabular-nums; }
.card span { display: block; color: var(--soft); font-size: 13px; line-height: 1.35; }
figure { margin: 18px 0 24px; }
figure:first-of-type { margin-top: 6px; }
section > :last-child { margin-bottom: 0; }
figcaption, .note { color: var(--soft); font-size: 13px; margin-top: 4px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .tick { fill: var(--soft); font-size: 12px; }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .whisker { stroke-width: 2; }
svg line.accent { stroke: var(--accent); } svg line.plain { stroke: var(--plain); }
svg .fill.accent { fill: var(--accent); } svg .fill.plain { fill: var(--plain); }
svg .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; opacity: .75; }
svg .solid { stroke: var(--sheet); stroke-width: 1; } svg .hollow { fill: var(--sheet) !important; stroke-width: 1.8; }
)css"
                                                R"css(
svg .curve.s0, svg .hollow.s0 { stroke: var(--s0); } svg .solid.s0 { fill: var(--s0); }
svg .curve.s1, svg .hollow.s1 { stroke: var(--s1); } svg .solid.s1 { fill: var(--s1); }
svg .curve.s2, svg .hollow.s2 { stroke: var(--s2); } svg .solid.s2 { fill: var(--s2); }
svg .curve.s3, svg .hollow.s3 { stroke: var(--s3); } svg .solid.s3 { fill: var(--s3); }
svg .curve.s4, svg .hollow.s4 { stroke: var(--s4); } svg .solid.s4 { fill: var(--s4); }
svg .curve.s5, svg .hollow.s5 { stroke: var(--s5); } svg .solid.s5 { fill: var(--s5); }
svg .curve.s6, svg .hollow.s6 { stroke: var(--s6); } svg .solid.s6 { fill: var(--s6); }
svg .curve.s7, svg .hollow.s7 { stroke: var(--s7); } svg .solid.s7 { fill: var(--s7); }
.scroll { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--edge); white-space: nowrap; font-weight: 400; }
thead th { color: var(--soft); font-size: 13px; font-weight: 600; }
.n, td.n { text-align: right; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { overflow-x: auto; background: var(--page); border: 1px solid var(--edge); border-radius: 6px; padding: 12px 14px; margin: 8px 0 0; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; }
.chip { border: 1px solid var(--edge); border-radius: 999px; padding: 1px 10px; font-size: 13px; color: var(--soft); }
summary { cursor: pointer; font-weight: 600; margin-top: 10px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.warnings { margin: 0; padding-left: 20px; overflow-wrap: anywhere; }
.tree { margin: 6px 0 0; font-size: 14px; }
.tree dt { color: var(--soft); }
.tree dd { margin: 0 0 4px 18px; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
)css";

}  // namespace kerf::core::report
