"""Values of the mathematical functions in f64, rounded from 2000 bits: tests/data/math_f64.txt.

    python3 tools/math_points.py > tests/data/math_f64.txt

A line is: function, operands as bits, result as bits.
"""

import random
import struct

from mpmath import mp, mpf, exp, expm1, log, log1p, sin, cos, tanh, erf, power

mp.prec = 2000
random.seed(7)


def bits(v):
    return struct.pack(">d", v).hex()


def spread(low, high, both):
    """A number with an exponent between the two."""
    v = 2.0 ** random.uniform(low, high)
    return v if not both or random.random() < 0.5 else -v


def line(name, f, *args):
    result = f(*[mpf(a) for a in args])
    mp.prec = 53
    result = float(+result)
    mp.prec = 2000
    print(name, *[bits(a) for a in args], bits(result))


N = 150
for name, f in (("exp", exp), ("expm1", expm1)):
    for _ in range(N):
        line(name, f, random.choice([random.uniform(-705, 709), spread(-60, 3, True)]))
for name, f in (("tanh", tanh), ("erf", erf)):
    for _ in range(N):
        line(name, f, random.choice([random.uniform(-6, 6), spread(-60, 4, True)]))
for _ in range(N):
    line("log", log, random.choice([random.uniform(0.5, 2), spread(-1070, 1020, False)]))
for _ in range(N):
    line("log1p", log1p, random.choice([random.uniform(-0.99, 2), spread(-60, 1, False), spread(-60, -1, True)]))
    line("log1p", log1p, spread(1, 1000, False))
for name, f in (("sin", sin), ("cos", cos)):
    for i in range(N):
        x = random.choice([spread(-30, 10, True), spread(10, 30, True), spread(30, 118, True)])
        line(name, f, x)
        line(name, f, float(mpf(i + 1) * mp.pi / 2))
for _ in range(2 * N):
    x = random.choice([random.uniform(0.5, 2), spread(-1000, 1000, False)])
    reach = 700 / abs(float(log(mpf(x))))
    line("pow", power, x, random.uniform(-reach, reach))
