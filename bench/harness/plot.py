"""A table's main figure as bars, with the spread as a line, written as SVG by hand."""

import math
from html import escape

WIDTH, LABELS, RIGHT = 860, 270, 150
BAR, GAP, TOP, BOTTOM = 22, 12, 58, 30
COLOURS = {"limit": "#9aa5b1", "opledger": "#c2410c", "other": "#2563a8"}


def bars(table):
    main, limit = table["main"], table["limit"]
    rows = [(name, row["figures"][main]) for name, row in table["rows"].items() if main in row["figures"]]
    most = max(figure["most"] for _, figure in rows)
    least = min(figure["least"] for _, figure in rows)
    # Logarithmic where the smallest bar would be invisible otherwise.
    logarithmic = least > 0 and most / least > 20
    scale, ticks = (log_scale if logarithmic else linear_scale)(least, most)
    height = TOP + len(rows) * (BAR + GAP) + BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="13" fill="#1f2933">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(table["title"])}</text>',
        f'<text x="12" y="42" fill="#52606d">{escape(main)}, median of each{", logarithmic" if logarithmic else ""};'
        " the line is the spread</text>",
    ]
    bottom = height - BOTTOM + 2
    for tick in ticks:
        x = LABELS + scale(tick)
        out.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e7eb"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" font-size="11" fill="#7b8794">{short(tick)}</text>')
    for at, (name, figure) in enumerate(rows):
        y = TOP + at * (BAR + GAP)
        middle = y + BAR / 2
        kind = "limit" if is_limit(name) or name == limit else "opledger" if is_opledger(name, table) else "other"
        width = max(scale(figure["median"]), 1)
        end = LABELS + scale(figure["most"])
        share = table["rows"][name].get("of the limit")
        beside = short(figure["median"]) + (f"  ({share:.2g} × limit)" if share and name != limit else "")
        out += [*label(name, middle)]
        if logarithmic:
            # No bar, because its length means nothing on a logarithmic scale.
            out.append(f'<line x1="{LABELS}" y1="{middle}" x2="{LABELS + width:.1f}" y2="{middle}" stroke="#cbd2d9" stroke-dasharray="2 3"/>')
            out.append(f'<circle cx="{LABELS + width:.1f}" cy="{middle}" r="7" fill="{COLOURS[kind]}"/>')
            width += 7
        else:
            out.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[kind]}"/>')
        out += [
            f'<line x1="{LABELS + scale(figure["least"]):.1f}" y1="{middle}" x2="{end:.1f}" y2="{middle}" stroke="#1f2933" stroke-width="2"/>',
            f'<text x="{max(end, LABELS + width) + 8:.1f}" y="{middle + 4}">{beside}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"


def is_limit(name):
    return name.startswith(("bare ", "a constant", "nginx", "append "))


def is_opledger(name, table):
    return name.startswith("opledger") or "visible" in name or not table["limit"]


def linear_scale(_, most):
    step = 10 ** math.floor(math.log10(most or 1))
    if most / step < 2:
        step /= 5
    elif most / step < 5:
        step /= 2
    ticks = [step * n for n in range(int(most / step) + 1)]
    return lambda value: value / most * room(), ticks


def log_scale(least, most):
    low, high = math.floor(math.log10(least)), math.log10(most)
    ticks = [10**n for n in range(low, math.floor(high) + 1)]
    return lambda value: max(0, (math.log10(value) - low) / (high - low)) * room(), ticks


def room():
    return WIDTH - LABELS - RIGHT


def short(value):
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    if value >= 1e4:
        return f"{value / 1e3:.3g} k"
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def label(name, middle):
    """Splits a long label into two lines."""
    words, first = name.split(" "), []
    while words and len(" ".join([*first, words[0]])) <= 38:
        first.append(words.pop(0))
    lines = [" ".join(first), " ".join(words)] if words else [name]
    size = 13 if len(lines) == 1 else 11
    for at, text in enumerate(lines):
        y = middle + 4 + (at - (len(lines) - 1) / 2) * 12
        yield f'<text x="{LABELS - 10}" y="{y}" text-anchor="end" font-size="{size}">{escape(text)}</text>'
