"""A table's main figure as bars, with the spread as a line, or measured points with what a
model predicts. Written as SVG by hand."""

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


CORES = [1, 2, 4, 8, 16, 32, 64]
LINES = ["#9aa5b1", "#6aa7d6", "#2563a8", "#c2410c"]
LEFT, HEIGHT = 70, 380


def model(table):
    """Events a second by cores. An event takes the processor time of all threads divided by the
    cores, but at least that of the busiest thread. For the dashed line, this is the busiest of the
    threads whose work nothing divides."""
    rows = {name: {column: one["median"] for column, one in row["figures"].items()} for name, row in table["rows"].items()}
    last = list(rows)[-1]

    def rates(name, one):
        return [1e6 / max(rows[name]["CPU µs/event"] / cores, rows[name][one]) for cores in CORES]

    lines = [(name, rates(name, "busiest thread µs/event"), "") for name in rows]
    lines.append(("not divided", rates(last, "serial µs/event"), "6 4"))
    measured = [row["figures"][table["main"]] for row in table["rows"].values()]
    every = [rate for _, points, _ in lines for rate in points]
    every += [figure[one] for figure in measured for one in ("least", "most")]
    low, high = math.log2(min(every)) - 0.2, math.log2(max(every)) + 0.2
    right = WIDTH - 270

    def x(cores):
        return LEFT + math.log2(cores) / math.log2(CORES[-1]) * (right - LEFT)

    def y(rate):
        return HEIGHT - 40 - (math.log2(rate) - low) / (high - low) * (HEIGHT - 110)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="13" fill="#1f2933">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(table["title"])}</text>',
        '<text x="12" y="42" fill="#52606d">events/s by cores: points are measured; lines are predicted from the processor time of'
        " all threads and of the busiest</text>",
    ]
    for cores in CORES:
        out.append(f'<line x1="{x(cores):.1f}" y1="60" x2="{x(cores):.1f}" y2="{HEIGHT - 36}" stroke="#e4e7eb"/>')
        out.append(f'<text x="{x(cores):.1f}" y="{HEIGHT - 20}" text-anchor="middle" font-size="11" fill="#7b8794">{cores}</text>')
    out.append(f'<text x="{right + 16}" y="{HEIGHT - 20}" font-size="11" fill="#7b8794">cores</text>')
    for tick in (step * 10**power for power in range(3, 9) for step in (1, 2, 5)):
        if low <= math.log2(tick) <= high:
            out.append(f'<line x1="{LEFT}" y1="{y(tick):.1f}" x2="{right}" y2="{y(tick):.1f}" stroke="#e4e7eb"/>')
            out.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" font-size="11" fill="#7b8794">{short(tick)}</text>')
    labels = []
    for at, (name, points, dashes) in enumerate(lines):
        colour = "#1f2933" if dashes else LINES[at % len(LINES)]
        path = " ".join(f"{x(cores):.1f},{y(rate):.1f}" for cores, rate in zip(CORES, points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        labels.append((y(points[-1]), f"{name}: {short(points[-1])}", colour))
    # Labels that would cover each other move down.
    lowest = 0
    for height, text, colour in sorted(labels):
        lowest = max(height, lowest + 16)
        out.append(f'<text x="{right + 8}" y="{lowest + 4:.1f}" fill="{colour}">{escape(text)}</text>')
    used = table["hardware"]["cores used"]
    for at, figure in enumerate(measured):
        # Beside each other.
        across = x(used) + (at - (len(measured) - 1) / 2) * 9
        out.append(f'<line x1="{across:.1f}" y1="{y(figure["least"]):.1f}" x2="{across:.1f}" y2="{y(figure["most"]):.1f}" stroke="#1f2933"/>')
        out.append(f'<circle cx="{across:.1f}" cy="{y(figure["median"]):.1f}" r="4" fill="{LINES[at % len(LINES)]}" stroke="#1f2933"/>')
    return "\n".join([*out, "</svg>"]) + "\n"


KINDS = {"bars": bars, "model": model}


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
