"""Programs that compute the variants, from the formula step by step to C and Triton."""
