"""The fit's mathematics compiled by numba, many hands to a SIMD register."""
