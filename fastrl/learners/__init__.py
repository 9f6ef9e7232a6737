"""The learners: `torch` updates any module by autograd, `compiled` does the same work with kernels."""
