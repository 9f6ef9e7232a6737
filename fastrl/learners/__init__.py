"""The learners: `torch` updates any module by autograd; later ones do the same work with kernels."""
