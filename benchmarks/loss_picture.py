"""The curves of `loss_per_minute.py` as one picture, and the table of docs/performance.md.

    python benchmarks/loss_picture.py

In: `loss_per_minute_peers_GPU.json` and `loss_per_minute_ours_GPU.json` in `--results`. Out:
docs/images/loss-per-minute-GPU.svg, and a `table` in the second file.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from hornbook.files import read_json, write_json, write_text

ROOT = Path(__file__).parent.parent
COLOURS = {"nanogpt": "#b4552d", "nanochat": "#6a5acd", "hornbook": "#1a7f5a"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 480, 60, 20, 20, 50
LOSSES = (3.6, 6.0)

Curve = list[tuple[float, float]]


def validation(entry: dict[str, Any]) -> Curve:
    """(seconds, loss) of a curve."""
    return [(p["seconds"], p["loss"]) for p in entry["points"] if "loss" in p]


def contest(name: str) -> str:
    """What a contestant is compared in: a peer, or a recipe and length of ours."""
    words = name.split(":")
    return ":".join([*words[:2], *words[3:]]) if words[0] == "hornbook" else words[0]


def best(curves: dict[str, Curve], kind: str) -> str:
    """The contestant of a kind that ends lowest."""
    return min((n for n in curves if contest(n) == kind), key=lambda n: curves[n][-1][1])


def picture(curves: dict[str, Curve]) -> str:
    """An SVG: seconds of training to the right, nats a token upwards; the best peers are thick."""
    seconds = max(curve[-1][0] for curve in curves.values())
    low, high = LOSSES

    def place(at: float, loss: float) -> tuple[float, float]:
        x = LEFT + at / seconds * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tenth in range(round(low * 10), round(high * 10) + 1, 4):
        _, y = place(0, tenth / 10)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tenth / 10:.1f}</text>')
    for at in range(0, int(seconds) + 1, 30):
        x, y = place(at, low)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{at}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}">seconds of training</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}">validation loss, nats a token</text>')
    foremost = sorted({best(curves, contest(name)) for name in curves})
    for name, curve in curves.items():
        points = [place(at, loss) for at, loss in curve if loss <= high]
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        colour = COLOURS[name.split(":")[0]]
        width, opacity = (2.5, 1) if name in foremost else (1, 0.5)
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
            f' opacity="{opacity}"><title>{name}</title></path>'
        )
        if name in foremost:
            x, y = points[-1]
            line = TOP + 22 + 18 * foremost.index(name)
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
            said = f"{name}: {curve[-1][1]:.3f} after {curve[-1][0]:.0f} s"
            parts.append(
                f'<text x="{WIDTH - RIGHT}" y="{line}" text-anchor="end" fill="{colour}">'
                f"{said}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def table(peers: dict[str, Curve], ours: dict[str, Curve]) -> list[dict[str, str]]:
    """A row for each peer at its best, and for each recipe of ours over its seeds."""
    rows = []
    for kind in ("nanogpt", "nanochat"):
        name = best(peers, kind)
        rows.append({"who": name, "runs": "best of "
                     + str(sum(contest(n) == kind for n in peers)),
                     "training": f"{peers[name][-1][0]:.0f} s",
                     "validation loss": f"{peers[name][-1][1]:.3f}"})  # fmt: skip
    seeds: dict[str, list[Curve]] = {}
    for name, curve in ours.items():
        seeds.setdefault(contest(name), []).append(curve)
    for name, runs in seeds.items():
        losses = [run[-1][1] for run in runs]
        rows.append({"who": name, "runs": "one" if len(runs) == 1 else f"{len(runs)} seeds",
                     "training": f"{statistics.fmean(run[-1][0] for run in runs):.0f} s",
                     "validation loss": f"{statistics.fmean(losses):.3f}"
                     + f" ({min(losses):.3f} to {max(losses):.3f})" * (len(runs) > 1)})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    arguments = parser.parse_args()
    for path in sorted(arguments.results.glob("loss_per_minute_peers_*.json")):
        mine = path.with_name(path.name.replace("peers", "ours"))
        peers = {n: validation(e) for n, e in read_json(path)["curves"].items()}
        result = read_json(mine) if mine.exists() else {"curves": {}}
        ours = {n: validation(e) for n, e in result["curves"].items()}
        gpu = path.stem.removeprefix("loss_per_minute_peers_")
        write_text(arguments.images / f"loss-per-minute-{gpu}.svg", picture({**peers, **ours}))
        if ours:
            result["table"] = table(peers, ours)
            result["command"] = "python benchmarks/loss_per_minute.py"
            write_json(mine, result)


if __name__ == "__main__":
    main()
