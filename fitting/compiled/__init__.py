"""The same mathematics compiled by numba, many hands to a SIMD register."""
