"""How many seeds would decide?  Power of one-sided t-tests at the effect and the spread that were seen."""
import math
from collections.abc import Iterable

from scipy import special

POWER = 0.8
MAX_SEEDS = 200  # beyond, no number within reason decides


def power(effect: float, n: int, level: float) -> float:
    """Power of a one-sided t-test of n values at `level`, for a mean that lies `effect` standard deviations off.

    An infinite effect is one without any spread, for which statistics.one_sided_p has the p-value 2^-n.
    """
    if n < 2:
        return 0.0
    if math.isinf(effect):
        return float(effect > 0 and 2.0**-n <= level)
    threshold = -special.stdtrit(n - 1, level)
    if not math.isfinite(threshold):  # SciPy's answer to a level next to nothing
        return 0.0
    found = 1 - float(special.nctdtr(n - 1, effect * math.sqrt(n), threshold))  # the noncentral t distribution
    if math.isnan(found):  # SciPy's answer far out, where it is 0 or 1
        return float(effect * math.sqrt(n) > threshold)
    return found


def seeds_needed(effects: Iterable[float], level: float, at_least: int = 2) -> int | None:
    """The least number of seeds at which tests with these effects pass together in 80 % of trials; None above 200.

    Their powers are multiplied, as if the tests were independent. effects: in standard deviations of one value,
    positive where the statement is right; the level is that of each test.
    """
    effects = list(effects)
    if any(not effect > 0 for effect in effects) or not level > 0:
        return None

    def enough(n):
        return math.prod(power(effect, n, level) for effect in effects) >= POWER

    # Start where one normal statistic with the smallest effect would need to be, as its power costs nothing.
    distance = float(special.ndtri(POWER) - special.ndtri(level))
    guess = math.ceil(min(distance / min(effects, default=math.inf), MAX_SEEDS) ** 2)
    low = high = min(max(at_least, guess), MAX_SEEDS)
    while not enough(high):
        if high >= MAX_SEEDS:
            return None
        low, high = high + 1, min(math.ceil(1.25 * high), MAX_SEEDS)
    while low > at_least and enough(low):
        low, high = max(at_least, low - 3), low
    while low < high:  # power grows with n
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
