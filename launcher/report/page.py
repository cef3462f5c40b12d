"""The frame of a report: one HTML file with its styles in it, no script, nothing from elsewhere.

The browser is told so too: the policy in the head lets it load nothing but pictures that are in the
file. In print the page is light, whatever the screen is.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from launcher.report.palette import DARK, LEVELS, LIGHT, SERIES, Theme, shade
from launcher.report.words import text

MARK: Final = "<meta name=generator content='launcher report'>"
"""By which a file is known to be one of ours."""


def of(status: Mapping[str, Any]) -> str:
    """What a run's page carries of the status.json that it was made from: by this, and by no clock,
    a page is known that was made before the run's last word."""
    digest = hashlib.sha256(json.dumps(status, sort_keys=True).encode()).hexdigest()
    return f"<meta name=status content='{digest}'>"


def document(title: str, body: str, marks: str = "") -> str:
    """A whole page; `marks` are for its head."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta http-equiv=Content-Security-Policy "
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'>{MARK}{marks}<title>{text(title)}</title>"
        f"<style>{styles()}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, body: str, note: str = "", name: str = "") -> str:
    """A part of a page, with a heading; nothing when it is empty."""
    if not body:
        return ""
    said = f"<p class=note>{note}</p>" if note else ""
    of = f" class={name}" if name else ""
    return f"<section{of}><h2>{text(title)}</h2>{said}{body}</section>\n"


def styles() -> str:
    """The style sheet: the light colours, the dark ones on a dark screen, the layout."""
    return (
        f":root{{color-scheme:light;{_variables(LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;"
        f"{_variables(DARK)}}}}}{_LAYOUT}{_series()}{_cells()}{_SMALL}{_PRINT}"
    )


def _variables(theme: Theme) -> str:
    cells = {
        f"{kind}-{level}": shade(theme, kind, level)
        for kind in ("s1", "s2")
        for level in range(LEVELS + 1)
    }
    plain = "".join(f"--{name}:{colour};" for name, colour in theme.items())
    return plain + "".join(f"--f-{n}:{fill};--t-{n}:{ink};" for n, (fill, ink) in cells.items())


def _series() -> str:
    return "".join(f".c{n}{{--c:var(--s{n})}}" for n in range(1, SERIES + 1))


def _cells() -> str:
    return "".join(
        f".{kind}-{level}{{--f:var(--f-{kind}-{level});--t:var(--t-{kind}-{level})}}"
        for kind in ("s1", "s2")
        for level in range(LEVELS + 1)
    )


_LAYOUT: Final = """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px 20px 40px}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:36px 0 10px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:18px 0 6px}
p{margin:6px 0}
.quiet,.note,figcaption,.facts dt{color:var(--quiet)}
.note{margin:-4px 0 12px;max-width:75ch}
.state{font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.box{background:var(--raised);border-left:4px solid var(--warn);padding:8px 14px;margin:12px 0;
overflow-wrap:anywhere;white-space:pre-line}
.box.error{border-color:var(--bad)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:16px 0}
.facts div{background:var(--raised);padding:10px 14px;border-radius:6px}
.facts dt{font-size:.85rem}
.facts dd{margin:0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}
.facts small{display:block;font-size:.8rem;font-weight:400;color:var(--quiet)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:18px 24px}
figure{margin:0}
.chart figcaption{display:flex;flex-wrap:wrap;gap:0 14px;align-items:baseline}
.chart b{color:var(--ink)}
.keys{display:flex;flex-wrap:wrap;gap:0 12px;font-size:.85rem;font-variant-numeric:tabular-nums}
.key::before{content:"";display:inline-block;width:16px;height:0;margin-right:5px;
border-top:3px solid var(--c);vertical-align:middle}
svg{display:block;width:100%;height:auto}
svg text{font-size:12px;fill:var(--quiet);font-variant-numeric:tabular-nums}
.end{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:var(--rule);stroke-width:1;fill:none}
.mark{stroke:var(--quiet);stroke-width:1;stroke-dasharray:2 3;fill:none}
.line{stroke:var(--c);stroke-width:1.8;fill:none;stroke-linejoin:round}
.raw{stroke:var(--c);stroke-width:1;fill:none;opacity:.3}
.band{fill:var(--c);opacity:.2}
.dot{fill:var(--c)}
.many .line.c2,.many .line.c6{stroke-dasharray:7 4}
.many .line.c3,.many .line.c7{stroke-dasharray:3 3}
.many .line.c4,.many .line.c8{stroke-dasharray:9 3 2 3}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:0 40px}
.pair section{margin:0}.pair .bars div{padding:5px 0}
.bars{columns:300px;column-gap:36px}
.bars div{display:grid;grid-template-columns:minmax(0,9rem) 1fr 4.6rem;gap:10px;align-items:center;
break-inside:avoid;padding:2px 0;line-height:1.3}
.bars span{overflow-wrap:anywhere}
.bars i{display:block;height:12px;background:var(--raised);border:1px solid var(--rule)}
.bars i::before{content:"";display:block;height:100%;width:var(--w);background:var(--s1)}
.bars b{font-weight:400;white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}
.matrix{max-width:var(--most);min-width:var(--least)}
.matrix rect{fill:var(--f);stroke:var(--rule);stroke-width:.5}
.matrix .cell{fill:var(--t)}
.heat{width:min(100%,600px);image-rendering:pixelated;border:1px solid var(--rule);display:block}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(126px,1fr));gap:16px 14px}
.pictures figure{break-inside:avoid;min-width:0}
.pictures img,.blank{width:100%;max-width:112px;aspect-ratio:1;object-fit:contain;
background:var(--raised);display:block}
.pictures .fine{image-rendering:pixelated}
.pictures figcaption{font-size:.82rem;line-height:1.35;margin-top:4px;overflow-wrap:anywhere}
.pictures strong{font-weight:600}
.twice{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:0 36px}
table{border-collapse:collapse;width:100%;table-layout:fixed;font-size:.9rem}
th{text-align:left;font-weight:600;color:var(--quiet)}
th,td{padding:4px 10px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:anywhere}
td:first-child,code{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;
font-size:.92em}
tr.given td:first-child,tr.given td:nth-child(2),td.best{font-weight:700}
.side{min-width:calc(var(--columns)*7.5rem)}
.side td:first-child,.side th:first-child{position:sticky;left:0;background:var(--ground)}
section section{margin-top:28px}
ol{padding-left:1.6em;margin:8px 0}
li{margin:6px 0;overflow-wrap:anywhere}
footer{margin-top:36px;padding-top:12px;border-top:1px solid var(--rule);color:var(--quiet);
font-size:.85rem;overflow-wrap:anywhere}
""".replace("\n", "")

_SMALL: Final = """
@media screen and (max-width:520px){main{padding:16px 14px 32px}h1{font-size:1.3rem}
.facts{grid-template-columns:1fr 1fr}.facts dd{font-size:1.1rem}
.charts,.twice{grid-template-columns:minmax(0,1fr)}
.bars div{grid-template-columns:minmax(0,7.5rem) 1fr 4.6rem}table{font-size:.82rem}
.pictures{grid-template-columns:repeat(3,minmax(0,1fr))}}
""".replace("\n", "")

_PRINT: Final = """
@media print{@page{margin:14mm}body{font-size:10pt;-webkit-print-color-adjust:exact;
print-color-adjust:exact}main{max-width:none;padding:0}
.charts{grid-template-columns:1fr 1fr}.twice{grid-template-columns:minmax(0,1fr)}
.pictures{grid-template-columns:repeat(6,minmax(0,1fr))}.facts dd{font-size:1.05rem}
.facts{grid-template-columns:repeat(auto-fit,minmax(112px,1fr))}
.wide{overflow:visible}.side{min-width:0}.whole{break-inside:avoid}h2,h3,.note{break-after:avoid}
.matrix{min-width:0;max-width:min(100%,calc(var(--most)/1.3))}
.chart,.facts div,li,tr,.matrix,.heat{break-inside:avoid}}
""".replace("\n", "")
