"""Human-readable numbers: 12.3 M tokens, 4.56 PFLOPs, 1 h 23 min."""

import math

PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"]


def short(value: float | None, unit: str = "") -> str:
    """Return a number with three digits and an SI prefix, `12.3 M`; `–` if it is unknown or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    power = 0 if abs(value) < 1000 else min(int(math.log10(abs(value)) // 3), len(PREFIXES) - 1)
    scaled = value / 1000**power
    if abs(float(f"{scaled:.3g}")) >= 1000 and power < len(PREFIXES) - 1:
        scaled, power = scaled / 1000, power + 1
    digits = f"{value:,.0f}" if power == 0 and float(value).is_integer() else f"{scaled:#.3g}".rstrip(".")
    return f"{digits} {PREFIXES[power]}{unit}".rstrip()


def count(value: float | None) -> str:
    """Return a whole number with all digits below a million, `3,000`, else shortened, `12.3 M`."""
    return short(value) if value is None or abs(value) >= 1e6 or not math.isfinite(value) else f"{value:,.0f}"


def flops(value: float | None) -> str:
    """Return a number of floating-point operations, `4.56 PFLOPs`."""
    return "–" if value is None else short(value, "FLOPs")


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, `1 h 23 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 3570:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def loss(value: float | None) -> str:
    """Return a loss, a perplexity or bits per byte with four decimals, or shortened from 100 on."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 100 else short(value)
