"""Coefficients of src/kernel/math/table.rs: near-minimax polynomials by Chebyshev interpolation.

    python3 tools/fit_math.py > src/kernel/math/table.rs

Needs mpmath. Each line of the output says the interval and the error of the fit.
"""

from mpmath import mp, mpf, chebyfit, exp, expm1, log, tanh, erf, erfc, sin, cos, atanh, sqrt, pi

mp.prec = 400


def rust(v):
    return repr(float(v))


def fit(name, doc, f, interval, terms):
    coefficients, error = chebyfit(f, [mpf(v) for v in interval], terms, error=True)
    coefficients = coefficients[::-1]  # ascending
    print(f"/// {doc}; error {float(error):.1e}.")
    print(f"pub const {name}: &[f64] = &[")
    for c in coefficients:
        print(f"    {rust(c)},")
    print("];")


def bits(v, n):
    """The leading n bits of v."""
    scale = mpf(2) ** (n - 1 - mp.floor(log(v, 2)))
    return mp.floor(v * scale) / scale


def near(f, x0=mpf(10) ** -30):
    """f with its removable singularity at 0 avoided."""
    return lambda x: f(x if abs(x) > x0 else x0)


print("""//! Polynomials and constants of the mathematical functions, ascending; each comes for f32, then for
//! f64. Written by `tools/fit_math.py`.
""")

for name, terms in (("EXP_F32", 6), ("EXP_F64", 11)):
    fit(name, "(exp r - 1 - r) / r² on ±0.36", near(lambda r: (expm1(r) - r) / r**2), (-0.36, 0.36), terms)

s_max = (sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)
for name, terms in (("LOG_F32", 4), ("LOG_F64", 7)):
    fit(name, "(log((1+s)/(1-s)) - 2s) / s³ in s²",
        near(lambda z: (2 * atanh(sqrt(z)) - 2 * sqrt(z)) / sqrt(z) ** 3), (0, s_max**2 * 1.01), terms)
fit("LOG_TAIL", "(log((1+s)/(1-s)) - 2s - 2s³/3) / s⁵ in s²",
    near(lambda z: (2 * atanh(sqrt(z)) - 2 * sqrt(z) - sqrt(z) ** 3 * 2 / 3) / sqrt(z) ** 5),
    (0, s_max**2 * 1.01), 8)

for name, terms in (("SIN_F32", 4), ("SIN_F64", 7)):
    fit(name, "(sin r - r) / r³ in r², r to 0.8",
        near(lambda z: (sin(sqrt(z)) - sqrt(z)) / sqrt(z) ** 3), (0, 0.64), terms)
for name, terms in (("COS_F32", 4), ("COS_F64", 7)):
    fit(name, "(cos r - 1 + r²/2) / r⁴ in r², r to 0.8",
        near(lambda z: (cos(sqrt(z)) - 1 + z / 2) / z**2), (0, 0.64), terms)

for name, terms in (("TANH_F32", 6), ("TANH_F64", 14)):
    fit(name, "(tanh x - x) / x³ in x², x to 0.625",
        near(lambda z: (tanh(sqrt(z)) - sqrt(z)) / sqrt(z) ** 3), (0, 0.391), terms)

for name, terms in (("ERF_F32", 8), ("ERF_F64", 16)):
    fit(name, "erf x / x - 1 in x², x to 1", near(lambda z: erf(sqrt(z)) / sqrt(z) - 1), (0, 1), terms)
fit("ERFC_F32", "log(erfc x) in x - 2, x in 1 to 4", lambda t: log(erfc(t + 2)), (-1, 2), 10)
fit("ERFC_F64", "log(erfc x) in x - 1.75, x in 1 to 2.5", lambda t: log(erfc(t + mpf(1.75))), (-0.75, 0.75), 16)
fit("ERFC_FAR", "log(erfc x) in x - 4.25, x in 2.5 to 6", lambda t: log(erfc(t + mpf(4.25))), (-1.75, 1.75), 20)


def parts(name, doc, v, widths):
    rest, out = v, []
    for w in widths[:-1]:
        out.append(bits(rest, w))
        rest -= out[-1]
    out.append(rest)
    print(f"/// {doc}, in parts of {', '.join(str(w) for w in widths)} bits.")
    print(f"pub const {name}: [f64; {len(out)}] = [{', '.join(rust(c) for c in out)}];")


parts("LN2_F32", "log 2", log(mpf(2)), (12, 24))
parts("LN2_F64", "log 2", log(mpf(2)), (38, 53))
parts("PI_2_F32", "π/2", pi / 2, (14, 14, 14, 24))
parts("PI_2_F64", "π/2", pi / 2, (32, 32, 32, 53))
print(f"/// π/2 less its value as f64.\npub const PI_2_LOW: f64 = {rust(pi / 2 - mpf(float(pi / 2)))};")
parts("TWO_THIRDS", "2/3", mpf(2) / 3, (53, 53))

mp.prec = 600
chunks, rest = [], 2 / pi
for j in range(12):
    rest *= 1 << 24
    chunk = mp.floor(rest)
    rest -= chunk
    chunks.append(int(chunk))
print("/// 2/π in digits to the base 2²⁴, the first one worth 2⁻²⁴.")
print(f"pub const TWO_OVER_PI: [f64; {len(chunks)}] = [")
for c in chunks:
    print(f"    {float(c)},")
print("];")
